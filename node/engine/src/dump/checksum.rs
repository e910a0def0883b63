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
        let mut words = bytes.chunks_exact(8);
        for word in &mut words {
            let mixed = crc.to_le_bytes();
            crc = 0;
            for index in 0..8 {
                crc ^= TABLES[7 - index][usize::from(mixed[index] ^ word[index])];
            }
        }
        for byte in words.remainder() {
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
    fn pieces_give_what_the_whole_gives() {
        let bytes: Vec<u8> = (0..1000u32).map(|n| (n * 31 % 251) as u8).collect();
        for cut in 0..40 {
            let mut pieces = Checksum::of(&bytes[..cut]);
            pieces.update(&bytes[cut..]);
            assert_eq!(pieces, Checksum::of(&bytes));
        }
    }
}
