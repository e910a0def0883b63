//! HyperLogLogs: strings that remember roughly how many different elements they have seen, byte for byte in the format
//! of Redis, so that they travel between servers with GET, SET, DUMP and RESTORE.
//!
//! ```text
//!   "HYLL" | encoding 1 | unused 3 | estimate 8, little endian, top bit: stale | registers
//!   dense   16384 registers of 6 bits, lowest bit first
//!   sparse  00nnnnnn            n+1 registers are 0        (up to 64)
//!           01nnnnnn nnnnnnnn   n+1 registers are 0        (up to 16384)
//!           1vvvvvnn            n+1 registers are v+1      (up to 4, values up to 32)
//! ```
//! Clients write such strings themselves, so nothing in one is believed before it was looked at. This file refuses to
//! know of keys and commands. How elements become registers and registers an estimate is described by Ertl, "New
//! cardinality estimation algorithms for HyperLogLog sketches" (2017).

use std::fmt;

/// How many registers there are.
pub const REGISTERS: usize = 1 << INDEX_BITS;

const INDEX_BITS: u32 = 14;
/// Bits of a hash that are left for counting zeros.
const COUNTED_BITS: u32 = 64 - INDEX_BITS;
const REGISTER_BITS: usize = 6;
const REGISTER_MAX: u8 = (1 << REGISTER_BITS) - 1;
const HEADER_BYTES: usize = 16;
const DENSE_BYTES: usize = HEADER_BYTES + REGISTERS * REGISTER_BITS / 8;
const MAGIC: &[u8] = b"HYLL";
const HASH_SEED: u64 = 0xadc8_3b19;
/// The greatest value the sparse form can say.
const SPARSE_VALUE_MAX: u8 = 32;

/// Why a string is no HyperLogLog.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadHyperLogLog {
    /// It does not even look like one.
    Foreign,
    /// It looks like one, but its registers do not add up.
    Corrupted,
}

/// How the registers are written down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Encoding {
    /// Six bits each.
    Dense,
    /// Runs of equal ones.
    Sparse,
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Encoding::Dense => "dense",
            Encoding::Sparse => "sparse",
        })
    }
}

/// All registers, a byte each: what merging and counting work on.
#[derive(Clone)]
pub struct Registers(Box<[u8; REGISTERS]>);

/// A HyperLogLog on its way through a command.
#[derive(Clone)]
pub struct HyperLogLog {
    bytes: Vec<u8>,
}

/// A string checked to look like a HyperLogLog.
#[derive(Clone, Copy)]
pub struct View<'a> {
    bytes: &'a [u8],
    encoding: Encoding,
}

/// A run of equal registers in the sparse form.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Run {
    /// So many zeros, in one byte.
    Zeros(usize),
    /// So many zeros, in two bytes.
    ManyZeros(usize),
    /// This value, so many times.
    Values(u8, usize),
}

impl Run {
    const ZEROS_MAX: usize = 64;
    const VALUES_MAX: usize = 4;

    /// The run at the start of `bytes`.
    #[inline]
    fn read(bytes: &[u8]) -> Option<Run> {
        let first = *bytes.first()?;
        Some(match first >> 6 {
            0 => Run::Zeros(usize::from(first) + 1),
            1 => Run::ManyZeros((usize::from(first & 0x3f) << 8 | usize::from(*bytes.get(1)?)) + 1),
            _ => Run::Values((first >> 2 & 0x1f) + 1, usize::from(first & 3) + 1),
        })
    }

    /// The shortest spelling of `len` registers of `value`, at least one and no more than one run can say.
    fn of(value: u8, len: usize) -> Run {
        match value {
            0 if len <= Run::ZEROS_MAX => Run::Zeros(len),
            0 => Run::ManyZeros(len),
            value => Run::Values(value, len),
        }
    }

    fn write(self, to: &mut Vec<u8>) {
        match self {
            Run::Zeros(len) => to.push((len - 1) as u8),
            Run::ManyZeros(len) => to.extend([0x40 | ((len - 1) >> 8) as u8, (len - 1) as u8]),
            Run::Values(value, len) => to.push(0x80 | (value - 1) << 2 | (len - 1) as u8),
        }
    }

    fn value(self) -> u8 {
        if let Run::Values(value, _) = self { value } else { 0 }
    }

    fn len(self) -> usize {
        match self {
            Run::Zeros(len) | Run::ManyZeros(len) | Run::Values(_, len) => len,
        }
    }

    fn byte_len(self) -> usize {
        if let Run::ManyZeros(_) = self { 2 } else { 1 }
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Run::Zeros(len) => write!(f, "z:{len}"),
            Run::ManyZeros(len) => write!(f, "Z:{len}"),
            Run::Values(value, len) => write!(f, "v:{value},{len}"),
        }
    }
}

/// The runs of the sparse form; ends at the first byte that makes no sense.
struct Runs<'a>(&'a [u8]);

impl Iterator for Runs<'_> {
    type Item = Run;

    #[inline]
    fn next(&mut self) -> Option<Run> {
        let run = Run::read(self.0)?;
        self.0 = &self.0[run.byte_len()..];
        Some(run)
    }
}

impl<'a> View<'a> {
    /// Looks at the header of a string.
    pub fn of(bytes: &'a [u8]) -> Result<View<'a>, BadHyperLogLog> {
        if bytes.len() < HEADER_BYTES || !bytes.starts_with(MAGIC) {
            return Err(BadHyperLogLog::Foreign);
        }
        let encoding = match bytes[4] {
            0 if bytes.len() == DENSE_BYTES => Encoding::Dense,
            1 => Encoding::Sparse,
            _ => return Err(BadHyperLogLog::Foreign),
        };
        Ok(View { bytes, encoding })
    }

    /// How the registers are written down.
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// The estimate as it was last made, unless registers have changed since.
    pub fn estimate_kept(&self) -> Option<u64> {
        let mut kept = [0; 8];
        kept.copy_from_slice(&self.bytes[8..HEADER_BYTES]);
        let kept = u64::from_le_bytes(kept);
        (kept >> 63 == 0).then_some(kept)
    }

    /// The runs of the sparse form, as `PFDEBUG DECODE` shows them.
    pub fn runs(&self) -> impl Iterator<Item = Run> + 'a {
        Runs(&self.bytes[HEADER_BYTES..])
    }

    /// Raises each of `registers` to what this string says, if that is more.
    pub fn merge_into(&self, registers: &mut Registers) -> Result<(), BadHyperLogLog> {
        let body = &self.bytes[HEADER_BYTES..];
        if self.encoding == Encoding::Dense {
            let mut said = [0; REGISTERS];
            for (eight, six) in said.chunks_exact_mut(8).zip(body.chunks_exact(6)) {
                eight.copy_from_slice(&spread([six[0], six[1], six[2], six[3], six[4], six[5]]));
            }
            registers.0.iter_mut().zip(&said).for_each(|(register, said)| *register = (*register).max(*said));
            return Ok(());
        }
        let (mut index, mut read) = (0, 0);
        for run in self.runs() {
            let reached = registers.0.get_mut(index..index + run.len()).ok_or(BadHyperLogLog::Corrupted)?;
            let value = run.value();
            if value > 0 {
                reached.iter_mut().for_each(|register| *register = (*register).max(value));
            }
            index += run.len();
            read += run.byte_len();
        }
        if index == REGISTERS && read == body.len() { Ok(()) } else { Err(BadHyperLogLog::Corrupted) }
    }

    /// The registers as this string says.
    pub fn registers(&self) -> Result<Registers, BadHyperLogLog> {
        let mut registers = Registers::new();
        self.merge_into(&mut registers)?;
        Ok(registers)
    }

    /// One register; `None` if the sparse form does not tell.
    fn register(&self, index: usize) -> Option<u8> {
        let body = &self.bytes[HEADER_BYTES..];
        if self.encoding == Encoding::Dense {
            return Some(dense_register(body, index));
        }
        let mut reached = 0;
        self.runs().find_map(|run| {
            reached += run.len();
            (reached > index).then_some(run.value())
        })
    }
}

/// Eight registers of six bits each, a byte for each: halves are drawn apart, three times.
#[inline]
fn spread(packed: [u8; 6]) -> [u8; 8] {
    let [a, b, c, d, e, f] = packed;
    let bits = u64::from_le_bytes([a, b, c, d, e, f, 0, 0]);
    let bits = (bits & 0xff_ffff) | (bits & 0xffff_ff00_0000) << 8;
    let bits = (bits & 0xfff_0000_0fff) | (bits & 0xff_f000_00ff_f000) << 4;
    let bits = (bits & 0x3f_003f_003f_003f) | (bits & 0xfc0_0fc0_0fc0_0fc0) << 2;
    bits.to_le_bytes()
}

/// The other way round.
#[inline]
fn gathered(registers: [u8; 8]) -> [u8; 6] {
    let bits = u64::from_le_bytes(registers);
    let bits = (bits & 0x3f_003f_003f_003f) | (bits & 0x3f00_3f00_3f00_3f00) >> 2;
    let bits = (bits & 0xfff_0000_0fff) | (bits & 0xfff_0000_0fff_0000) >> 4;
    let bits = (bits & 0xff_ffff) | (bits & 0xff_ffff_0000_0000) >> 8;
    let [a, b, c, d, e, f, ..] = bits.to_le_bytes();
    [a, b, c, d, e, f]
}

fn dense_register(body: &[u8], index: usize) -> u8 {
    let (byte, shift) = (index * REGISTER_BITS / 8, index * REGISTER_BITS % 8);
    let high = body.get(byte + 1).copied().unwrap_or(0);
    (u16::from_le_bytes([body[byte], high]) >> shift) as u8 & REGISTER_MAX
}

fn set_dense_register(body: &mut [u8], index: usize, value: u8) {
    let (byte, shift) = (index * REGISTER_BITS / 8, index * REGISTER_BITS % 8);
    let high = body.get(byte + 1).copied().unwrap_or(0);
    let others = !(u16::from(REGISTER_MAX) << shift);
    let [low, high] = (u16::from_le_bytes([body[byte], high]) & others | u16::from(value) << shift).to_le_bytes();
    body[byte] = low;
    if let Some(next) = body.get_mut(byte + 1) {
        *next = high;
    }
}

impl Default for HyperLogLog {
    fn default() -> HyperLogLog {
        HyperLogLog::new()
    }
}

impl HyperLogLog {
    /// One that has seen nothing.
    pub fn new() -> HyperLogLog {
        HyperLogLog::sparse(&Registers::new()).unwrap_or_else(|| unreachable!("zeros are always spelled sparsely"))
    }

    /// A copy of a string to be changed. The registers of the sparse form are checked here, once.
    pub fn copy_of(bytes: &[u8]) -> Result<HyperLogLog, BadHyperLogLog> {
        let view = View::of(bytes)?;
        if view.encoding == Encoding::Sparse {
            let mut reached = 0;
            let mut read = 0;
            for run in view.runs() {
                reached += run.len();
                read += run.byte_len();
                if reached > REGISTERS {
                    break;
                }
            }
            if reached != REGISTERS || read != bytes.len() - HEADER_BYTES {
                return Err(BadHyperLogLog::Corrupted);
            }
        }
        Ok(HyperLogLog { bytes: bytes.to_vec() })
    }

    /// These registers: in the sparse form as long as it takes up to `sparse_bytes_max` bytes, and `dense` does not
    /// ask for the other.
    pub fn of(registers: &Registers, dense: bool, sparse_bytes_max: usize) -> HyperLogLog {
        let sparse = if dense { None } else { HyperLogLog::sparse(registers) };
        match sparse.filter(|sparse| sparse.bytes.len() <= sparse_bytes_max.saturating_add(HEADER_BYTES)) {
            Some(sparse) => sparse,
            None => HyperLogLog::dense(registers),
        }
    }

    fn header(encoding: u8, capacity: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(capacity);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&[encoding, 0, 0, 0]);
        bytes.extend_from_slice(&[0; 8]);
        bytes
    }

    fn dense(registers: &Registers) -> HyperLogLog {
        let mut bytes = HyperLogLog::header(0, DENSE_BYTES);
        for eight in registers.0.as_chunks::<8>().0 {
            bytes.extend_from_slice(&gathered(*eight));
        }
        HyperLogLog { bytes }
    }

    /// `None` if a register holds more than the sparse form can say.
    fn sparse(registers: &Registers) -> Option<HyperLogLog> {
        let mut bytes = HyperLogLog::header(1, HEADER_BYTES + 2);
        for equal in registers.0.chunk_by(|a, b| a == b) {
            let value = equal[0];
            if value > SPARSE_VALUE_MAX {
                return None;
            }
            let most = if value == 0 { REGISTERS } else { Run::VALUES_MAX };
            equal.chunks(most).for_each(|part| Run::of(value, part.len()).write(&mut bytes));
        }
        Some(HyperLogLog { bytes })
    }

    /// The string.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The string, looked at.
    pub fn view(&self) -> View<'_> {
        let encoding = if self.bytes[4] == 0 { Encoding::Dense } else { Encoding::Sparse };
        View { bytes: &self.bytes, encoding }
    }

    /// Sees elements; how many of them changed a register.
    pub fn add_all(&mut self, elements: &[&[u8]], sparse_bytes_max: usize) -> usize {
        // A sparse form is walked for every element; so many are cheaper to add to a byte for each register.
        const FEW: usize = 16;
        if elements.len() <= FEW || self.view().encoding == Encoding::Dense {
            return elements.iter().filter(|element| self.add(element, sparse_bytes_max)).count();
        }
        let mut registers = self.view().registers().unwrap_or_else(|_| Registers::new());
        let mut changed = 0;
        for element in elements {
            let (index, value) = place_of(element);
            changed += usize::from(registers.0[index] < value);
            registers.0[index] = registers.0[index].max(value);
        }
        if changed > 0 {
            let mut after = HyperLogLog::of(&registers, false, sparse_bytes_max);
            after.copy_estimate(self.view());
            *self = after;
        }
        changed
    }

    /// Sees an element; whether that changed a register.
    pub fn add(&mut self, element: &[u8], sparse_bytes_max: usize) -> bool {
        let (index, value) = place_of(element);
        // A sparse form that was checked tells every register.
        if self.view().register(index).is_none_or(|register| register >= value) {
            return false;
        }
        if self.view().encoding == Encoding::Sparse && !self.raise_sparse(index, value, sparse_bytes_max) {
            self.make_dense();
        }
        if self.view().encoding == Encoding::Dense {
            set_dense_register(&mut self.bytes[HEADER_BYTES..], index, value);
        }
        true
    }

    /// Gives a register of the sparse form a greater value; false if that form cannot say it, or not in so few bytes.
    fn raise_sparse(&mut self, index: usize, value: u8, sparse_bytes_max: usize) -> bool {
        if value > SPARSE_VALUE_MAX {
            return false;
        }
        let (mut at, mut first, mut before) = (HEADER_BYTES, 0, None);
        let hit = loop {
            let Some(run) = Run::read(&self.bytes[at..]) else { return false };
            if first + run.len() > index {
                break run;
            }
            before = Some(at);
            first += run.len();
            at += run.byte_len();
        };
        let (ahead, behind) = (index - first, first + hit.len() - index - 1);
        let mut spelled = Vec::with_capacity(5);
        if ahead > 0 {
            Run::of(hit.value(), ahead).write(&mut spelled);
        }
        Run::of(value, 1).write(&mut spelled);
        if behind > 0 {
            Run::of(hit.value(), behind).write(&mut spelled);
        }
        let len = self.bytes.len() + spelled.len() - hit.byte_len();
        if spelled.len() > hit.byte_len() && len > sparse_bytes_max.saturating_add(HEADER_BYTES) {
            return false;
        }
        self.bytes.splice(at..at + hit.byte_len(), spelled);
        self.join_runs(before.unwrap_or(at));
        true
    }

    /// Joins runs of the same value around a place that changed, as long as one run can say both.
    fn join_runs(&mut self, mut at: usize) {
        const RUNS_AROUND: usize = 5;
        for _ in 0..RUNS_AROUND {
            let Some(run) = Run::read(&self.bytes[at..]) else { return };
            let next = Run::read(&self.bytes[at + run.byte_len()..]);
            let (Run::Values(value, len), Some(Run::Values(same, more))) = (run, next) else {
                at += run.byte_len();
                continue;
            };
            if value == same && len + more <= Run::VALUES_MAX {
                let mut joined = Vec::with_capacity(1);
                Run::Values(value, len + more).write(&mut joined);
                self.bytes.splice(at..at + 2, joined);
            } else {
                at += 1;
            }
        }
    }

    /// Writes the registers down densely; whether they were not before.
    pub fn make_dense(&mut self) -> bool {
        if self.view().encoding == Encoding::Dense {
            return false;
        }
        // What was checked when it was copied merges without complaint.
        let registers = self.view().registers().unwrap_or_else(|_| Registers::new());
        let dense = HyperLogLog::dense(&registers);
        let header = std::mem::replace(&mut self.bytes, dense.bytes);
        self.bytes[8..HEADER_BYTES].copy_from_slice(&header[8..HEADER_BYTES]);
        true
    }

    /// Takes over the estimate another one keeps, stale or not.
    pub fn copy_estimate(&mut self, from: View<'_>) {
        self.bytes[8..HEADER_BYTES].copy_from_slice(&from.bytes[8..HEADER_BYTES]);
    }

    /// Notes that the estimate is to be made anew.
    pub fn forget_estimate(&mut self) {
        self.bytes[HEADER_BYTES - 1] |= 0x80;
    }
}

/// Writes an estimate into the header of a string that [`View::of`] has looked at.
pub fn keep_estimate(bytes: &mut [u8], estimate: u64) {
    bytes[8..HEADER_BYTES].copy_from_slice(&estimate.to_le_bytes());
}

impl Default for Registers {
    fn default() -> Registers {
        Registers::new()
    }
}

impl Registers {
    /// All zero.
    pub fn new() -> Registers {
        Registers(Box::new([0; REGISTERS]))
    }

    /// Each in turn.
    pub fn iter(&self) -> impl Iterator<Item = u8> + '_ {
        self.0.iter().copied()
    }

    /// How many different elements left these registers behind, about.
    pub fn estimate(&self) -> u64 {
        // 1 / (2 ln 2), the bias of infinitely many registers.
        const ALPHA: f64 = 0.721_347_520_444_481_7;
        let mut histogram = [0u32; 64];
        for register in self.iter() {
            histogram[usize::from(register & REGISTER_MAX)] += 1;
        }
        let registers = REGISTERS as f64;
        let full = f64::from(histogram[COUNTED_BITS as usize + 1]);
        let mut z = registers * tau((registers - full) / registers);
        for count in histogram[1..=COUNTED_BITS as usize].iter().rev() {
            z = (z + f64::from(*count)) * 0.5;
        }
        z += registers * sigma(f64::from(histogram[0]) / registers);
        // Infinity in `z` becomes zero, as it should; a float saturates on its way to an integer.
        (ALPHA * registers * registers / z).round() as u64
    }
}

/// Ertl's correction for registers that are still zero.
fn sigma(mut x: f64) -> f64 {
    if x == 1.0 {
        return f64::INFINITY;
    }
    let (mut y, mut z) = (1.0, x);
    loop {
        x *= x;
        let before = z;
        z += x * y;
        y += y;
        if z == before {
            return z;
        }
    }
}

/// Ertl's correction for registers that are full.
fn tau(mut x: f64) -> f64 {
    if x == 0.0 || x == 1.0 {
        return 0.0;
    }
    let (mut y, mut z) = (1.0, 1.0 - x);
    loop {
        x = x.sqrt();
        let before = z;
        y *= 0.5;
        z -= (1.0 - x) * (1.0 - x) * y;
        if z == before {
            return z / 3.0;
        }
    }
}

/// The register an element belongs to, and what it raises it to: one more than the zeros its hash has in a row.
fn place_of(element: &[u8]) -> (usize, u8) {
    let hash = murmur(element, HASH_SEED);
    let index = hash as usize & (REGISTERS - 1);
    let counted = hash >> INDEX_BITS | 1 << COUNTED_BITS;
    (index, counted.trailing_zeros() as u8 + 1)
}

/// MurmurHash64A (Austin Appleby, public domain), reading little endian whatever the machine.
fn murmur(bytes: &[u8], seed: u64) -> u64 {
    const MULTIPLIER: u64 = 0xc6a4_a793_5bd1_e995;
    const SHIFT: u32 = 47;
    let mut hash = seed ^ (bytes.len() as u64).wrapping_mul(MULTIPLIER);
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        let mut part = u64::from_le_bytes(*word).wrapping_mul(MULTIPLIER);
        part = (part ^ part >> SHIFT).wrapping_mul(MULTIPLIER);
        hash = (hash ^ part).wrapping_mul(MULTIPLIER);
    }
    if !rest.is_empty() {
        let last = rest.iter().rev().fold(0, |last: u64, byte| last << 8 | u64::from(*byte));
        hash = (hash ^ last).wrapping_mul(MULTIPLIER);
    }
    hash = (hash ^ hash >> SHIFT).wrapping_mul(MULTIPLIER);
    hash ^ hash >> SHIFT
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn eight_registers_at_once_are_what_each_is(packed in any::<[u8; 6]>()) {
            let spread = spread(packed);
            for (index, register) in spread.iter().enumerate() {
                prop_assert_eq!(*register, dense_register(&packed, index));
            }
            prop_assert_eq!(gathered(spread), packed);
        }

        #[test]
        fn dense_ones_are_merged_register_by_register(
            places in proptest::collection::vec((0..REGISTERS, 0..=REGISTER_MAX), 1..200),
            others in proptest::collection::vec((0..REGISTERS, 0..=REGISTER_MAX), 1..200),
        ) {
            let registers = |places: &[(usize, u8)]| {
                let mut registers = Registers::new();
                places.iter().for_each(|(index, value)| registers.0[*index] = *value);
                registers
            };
            let (one, other) = (registers(&places), registers(&others));
            let (dense, mut merged) = (HyperLogLog::dense(&one), registers(&others));
            dense.view().merge_into(&mut merged).unwrap();
            let expected: Vec<u8> = one.iter().zip(other.iter()).map(|(one, other)| one.max(other)).collect();
            prop_assert!(merged.iter().eq(expected));
            for (index, value) in one.iter().enumerate() {
                prop_assert_eq!(dense_register(&dense.bytes()[HEADER_BYTES..], index), value);
            }
        }
    }
}
