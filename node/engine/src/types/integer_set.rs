//! Integers in ascending order in a run, each taking two, four or eight bytes: as many as the widest of them needs. Knows no set.
//!
//! The run's count is how many bytes each takes, and the mark of such a run. A run without memory is one without integers.

use super::word::{RUN_BYTES_MAX, Run};

/// No run of elements has so many.
const MARK: u32 = 1 << 31;

/// Different integers in ascending order.
#[derive(Clone, Copy)]
pub(super) struct IntegerSet<'a> {
    bytes: &'a [u8],
    width: usize,
}

impl<'a> IntegerSet<'a> {
    /// The integers of a run, if that is what it holds.
    #[inline]
    pub fn of(run: &'a Run) -> Option<IntegerSet<'a>> {
        match run.count() {
            0 if !run.has_memory() => Some(IntegerSet { bytes: &[], width: 2 }),
            count if count & MARK != 0 => {
                Some(IntegerSet { bytes: run.bytes(), width: (count & !MARK).clamp(2, 8) as usize })
            }
            _ => None,
        }
    }

    /// How many bytes each takes, and all of them.
    pub fn bytes(self) -> (usize, &'a [u8]) {
        (self.width, self.bytes)
    }

    #[inline]
    pub fn len(self) -> usize {
        self.bytes.len() / self.width
    }

    /// The integer with this index; there must be one.
    #[inline]
    pub fn at(self, index: usize) -> i64 {
        let bytes = &self.bytes[index * self.width..][..self.width];
        match *bytes {
            [a, b] => i64::from(i16::from_le_bytes([a, b])),
            [a, b, c, d] => i64::from(i32::from_le_bytes([a, b, c, d])),
            [a, b, c, d, e, f, g, h] => i64::from_le_bytes([a, b, c, d, e, f, g, h]),
            _ => 0,
        }
    }

    /// Where the integer is, or where it would be.
    fn search(self, value: i64) -> Result<usize, usize> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low + (high - low) / 2;
            match self.at(middle).cmp(&value) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Ok(middle),
            }
        }
        Err(low)
    }

    pub fn contains(self, value: i64) -> bool {
        self.search(value).is_ok()
    }

    /// The integers in ascending order.
    pub fn iter(self) -> impl Iterator<Item = i64> + 'a {
        (0..self.len()).map(move |index| self.at(index))
    }
}

/// The run of these integers; `None` if it is not some in ascending order, two, four or eight bytes each.
pub(super) fn of_bytes(width: usize, bytes: &[u8]) -> Option<Run> {
    if !matches!(width, 2 | 4 | 8)
        || bytes.is_empty()
        || !bytes.len().is_multiple_of(width)
        || bytes.len() > RUN_BYTES_MAX
    {
        return None;
    }
    let integers = IntegerSet { bytes, width };
    let ascend = integers.iter().zip(integers.iter().skip(1)).all(|(one, next)| one < next);
    ascend.then(|| Run::from_bytes(bytes, MARK | width as u32))
}

/// How many bytes an integer needs.
fn width_of(value: i64) -> usize {
    match value {
        -0x8000..=0x7FFF => 2,
        -0x8000_0000..=0x7FFF_FFFF => 4,
        _ => 8,
    }
}

/// Adds an integer to a run of integers; says whether it is new.
pub(super) fn insert(run: &mut Run, value: i64) -> bool {
    let Some(integers) = IntegerSet::of(run) else { return false };
    let Err(index) = integers.search(value) else {
        return false;
    };
    let (have, width) = (integers.width, integers.width.max(width_of(value)));
    if width > have {
        let widened: Vec<u8> = integers.iter().flat_map(|value| value.to_le_bytes().into_iter().take(width)).collect();
        run.splice(0, run.used(), [&widened, &[], &[]]);
    }
    run.splice(index * width, 0, [&value.to_le_bytes()[..width], &[], &[]]);
    run.set_count(MARK | width as u32);
    true
}

/// Takes an integer out of a run of integers; says whether it was there.
pub(super) fn remove(run: &mut Run, value: i64) -> bool {
    let Some(integers) = IntegerSet::of(run) else { return false };
    let Ok(index) = integers.search(value) else {
        return false;
    };
    let width = integers.width;
    run.splice(index * width, width, [&[]; 3]);
    true
}
