//! The checksum of RDB files and payloads: CRC-64 with the Jones polynomial, reflected, zero at both ends. Knows bytes only.

/// The polynomial 0xad93d23594c935a9, bits reversed.
const POLYNOMIAL: u64 = 0x95ac_9329_ac4b_c9b5;

/// `TABLES[k][byte]`: what `byte` does to the checksum when `k` more bytes follow it. Eight tables let eight bytes be
/// looked up at once instead of one after the other.
static TABLES: [[u64; 256]; 8] = tables();

const fn tables() -> [[u64; 256]; 8] {
    let mut tables = [[0u64; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u64;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ POLYNOMIAL } else { crc >> 1 };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut k = 1;
    while k < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[k - 1][byte];
            tables[k][byte] = (before >> 8) ^ tables[0][(before & 0xff) as usize];
            byte += 1;
        }
        k += 1;
    }
    tables
}

/// Bytes of each of three parts that are summed side by side: the processor looks up one while it waits for another.
const PART_BYTES: usize = 1024;

/// `SHIFT[k][byte]`: what a checksum with this byte at place `k` becomes when a part of zeros follows it.
static SHIFT: [[u64; 256]; 8] = shift();

const fn shift() -> [[u64; 256]; 8] {
    let byte_table = tables()[0];
    let mut shift = [[0u64; 256]; 8];
    let mut bit = 0;
    while bit < 64 {
        let mut crc = 1u64 << bit;
        let mut zeros = 0;
        while zeros < PART_BYTES {
            crc = (crc >> 8) ^ byte_table[(crc & 0xff) as usize];
            zeros += 1;
        }
        shift[bit / 8][1 << (bit % 8)] = crc;
        bit += 1;
    }
    // A byte is the sum of its bits.
    let mut k = 0;
    while k < 8 {
        let mut byte = 1usize;
        while byte < 256 {
            let lowest = byte & byte.wrapping_neg();
            shift[k][byte] = shift[k][lowest] ^ if byte == lowest { 0 } else { shift[k][byte ^ lowest] };
            byte += 1;
        }
        k += 1;
    }
    shift
}

/// What the checksum becomes when a part of zeros follows.
fn shifted(crc: u64) -> u64 {
    crc.to_le_bytes().iter().zip(&SHIFT).fold(0, |sum, (byte, table)| sum ^ table[usize::from(*byte)])
}

/// What the checksum becomes by eight more bytes.
#[inline]
fn step(crc: u64, word: &[u8; 8]) -> u64 {
    let mixed = (crc ^ u64::from_le_bytes(*word)).to_le_bytes();
    let looked_up = |index: usize| TABLES[7 - index][usize::from(mixed[index])];
    let halves = [0, 4].map(|at| looked_up(at) ^ looked_up(at + 1) ^ looked_up(at + 2) ^ looked_up(at + 3));
    halves[0] ^ halves[1]
}

/// The checksum of the bytes seen so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checksum(u64);

impl Checksum {
    /// Of no bytes.
    pub fn new() -> Checksum {
        Checksum::default()
    }

    /// Of these bytes.
    pub fn of(bytes: &[u8]) -> Checksum {
        let mut checksum = Checksum::new();
        checksum.update(bytes);
        checksum
    }

    /// Sees more bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        let mut crc = self.0;
        let mut parts = bytes.chunks_exact(3 * PART_BYTES);
        for three in &mut parts {
            let (first, rest) = three.split_at(PART_BYTES);
            let (second, third) = rest.split_at(PART_BYTES);
            let words = |part| <[u8]>::as_chunks::<8>(part).0.iter();
            let (mut after, mut last) = (0, 0);
            for ((one, two), three) in words(first).zip(words(second)).zip(words(third)) {
                (crc, after, last) = (step(crc, one), step(after, two), step(last, three));
            }
            crc = shifted(shifted(crc) ^ after) ^ last;
        }
        let (words, rest) = parts.remainder().as_chunks::<8>();
        for word in words {
            crc = step(crc, word);
        }
        for byte in rest {
            crc = (crc >> 8) ^ TABLES[0][usize::from((crc as u8) ^ byte)];
        }
        self.0 = crc;
    }

    /// The number that stands in the file.
    pub fn value(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_value_of_the_algorithm() {
        assert_eq!(Checksum::of(b"123456789").value(), 0xe9c6_d914_c4b8_d9ca);
    }

    #[test]
    fn parts_side_by_side_give_what_one_byte_after_the_other_gives() {
        let bytes: Vec<u8> = (0..20_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        for len in [0, 7, 8, 3071, 3072, 3073, 6143, 6144, 6150, 20_000] {
            let plain =
                bytes[..len].iter().fold(0u64, |crc, byte| (crc >> 8) ^ TABLES[0][usize::from((crc as u8) ^ byte)]);
            assert_eq!(Checksum::of(&bytes[..len]).value(), plain, "{len} bytes");
        }
    }

    #[test]
    fn pieces_give_what_the_whole_gives() {
        let bytes: Vec<u8> = (0..10_000u32).map(|n| (n * 31 % 251) as u8).collect();
        for cut in (0..40).chain([3000, 3071, 3072, 3073, 6144, 6928, 6929]) {
            let mut pieces = Checksum::of(&bytes[..cut]);
            pieces.update(&bytes[cut..]);
            assert_eq!(pieces, Checksum::of(&bytes));
        }
    }
}
