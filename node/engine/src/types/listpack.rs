//! Runs as Redis' listpacks, and back. The elements are the same in the same sizes, only their tags differ, so a run is copied as
//! a whole and its tags are written anew. Trusts no byte of what comes in, and says no to what is no run as it stands.
//!
//! ```text
//!   listpack   total u32, count u16, element*, 0xff
//!   tags       a run's     0nnnnnnn  10nnnnnn  111nnnnn  1100nnnn  0xd0  0xd1..0xd4
//!              listpack's  0nnnnnnn  10nnnnnn  110nnnnn  1110nnnn  0xf0  0xf1..0xf4
//! ```

use super::number::parse_i64;
use super::packed::{Packed, TAG_BYTES_12, TAG_SCORE, next, size_at};
use super::table::hash_bytes;
use super::word::{RUN_BYTES_MAX, Run};
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

const HEADER_BYTES: usize = 6;
const END: u8 = 0xff;

/// From this size on the two do not always agree how many bytes repeat it.
const SIZE_MAX: usize = 16_382;

/// The bit in which the tags differ of what is neither a short text nor a small integer.
const OTHER: u8 = 0x20;

/// No integer has more digits, its sign included.
const DIGITS_MAX: usize = 20;

/// Elements that are compared with each other one by one.
const FEW: usize = 12;

/// A run that was a listpack.
#[derive(Debug)]
pub struct Unpacked {
    /// The run.
    pub run: Packed,
    /// Bytes of its longest element; integers count as if they were long.
    pub longest: usize,
    /// It holds nothing but integers.
    pub integers: bool,
}

impl Packed {
    /// Appends the run as a listpack. False, and nothing is appended: it has an element that a listpack holds otherwise.
    pub fn write_listpack(&self, out: &mut Vec<u8>) -> bool {
        let (elements, count) = (self.bytes(), self.len());
        let start = out.len();
        let Ok(total) = u32::try_from(elements.len() + HEADER_BYTES + 1) else { return false };
        out.extend_from_slice(&total.to_le_bytes());
        out.extend_from_slice(&u16::try_from(count).unwrap_or(u16::MAX).to_le_bytes());
        out.extend_from_slice(elements);
        out.push(END);
        let elements = &mut out[start + HEADER_BYTES..];
        let mut at = 0;
        for _ in 0..count {
            let size = size_at(elements, at);
            let tag = elements[at];
            if size > SIZE_MAX || tag == TAG_SCORE {
                out.truncate(start);
                return false;
            }
            elements[at] = if tag < TAG_BYTES_12 { tag } else { tag ^ OTHER };
            at += size + if size < 128 { 1 } else { 2 };
        }
        true
    }

    /// The run that a listpack is. `None`: it is none, or one that another hand packed otherwise than a run would.
    pub fn from_listpack(listpack: &[u8]) -> Option<Unpacked> {
        let (total, rest) = listpack.split_first_chunk::<4>()?;
        let (announced, rest) = rest.split_first_chunk::<2>()?;
        let (end, elements) = rest.split_last()?;
        if u32::from_le_bytes(*total) as usize != listpack.len() || *end != END || elements.len() > RUN_BYTES_MAX - 32 {
            return None;
        }
        let (mut run, mut count) = (Run::from_bytes(elements, 0), 0u32);
        let (mut at, mut longest, mut integers) = (0, 0, true);
        let bytes = run.bytes_mut();
        while at < bytes.len() {
            let (head, size) = head_and_size(&bytes[at..])?;
            let element = &bytes[at..];
            if head > 0 {
                let text = element.get(head..size)?;
                longest = longest.max(text.len());
                integers = false;
                if parse_i64(text).is_some() {
                    return None;
                }
            } else {
                longest = longest.max(DIGITS_MAX);
            }
            let behind = match *element.get(size..)? {
                [once, ..] if size < 128 && usize::from(once) == size => 1,
                [high, low, ..]
                    if size >= 128 && usize::from(high) == size >> 7 && usize::from(low) == size & 0x7F | 0x80 =>
                {
                    2
                }
                _ => return None,
            };
            if bytes[at] >= TAG_BYTES_12 {
                bytes[at] ^= OTHER;
            }
            at += size + behind;
            count += 1;
        }
        let announced = u16::from_le_bytes(*announced);
        if count == 0 || (announced != u16::MAX && u32::from(announced) != count) {
            return None;
        }
        run.set_count(count);
        Some(Unpacked { run, longest, integers })
    }

    /// Whether the first of every `step` elements differs from all others.
    pub fn are_distinct(&self, step: usize, seed: u64) -> bool {
        let bytes = self.bytes();
        let behind = |at: usize| (0..step).try_fold(at, |at, _| Some(next(bytes, at)).filter(|at| *at < bytes.len()));
        let starts = || std::iter::successors(Some(0).filter(|_| !bytes.is_empty()), |at| behind(*at));
        // What is equal is encoded equally.
        let element = |at: usize| &bytes[at..at + size_at(bytes, at)];
        let len = self.len() / step;
        if len <= FEW {
            let differs = |(index, at)| starts().take(index).all(|other| element(at) != element(other));
            return starts().enumerate().all(differs);
        }
        let hash = |at: &usize| hash_bytes(seed, element(*at));
        let mut seen: HashTable<usize> = HashTable::with_capacity(len);
        starts().all(|at| match seen.entry(hash(&at), |other| element(*other) == element(at), hash) {
            Entry::Occupied(_) => false,
            Entry::Vacant(place) => {
                place.insert(at);
                true
            }
        })
    }
}

/// Of a listpack's element, if a run would have it so: how many bytes come before its text, none if it is an integer, and how
/// many there are without those that repeat the size.
fn head_and_size(element: &[u8]) -> Option<(usize, usize)> {
    Some(match *element {
        [0..=0x7F, ..] => (0, 1),
        [tag @ 0x80..=0xBF, ..] => (1, 1 + usize::from(tag & 0x3F)),
        [tag @ 0xC0..=0xDF, low, ..] => {
            let bits = u16::from(tag & 0x1F) << 8 | u16::from(low);
            if (0..=127).contains(&bits) {
                return None;
            }
            (0, 2)
        }
        [tag @ 0xE0..=0xEF, low, ..] => {
            let len = usize::from(tag & 0x0F) << 8 | usize::from(low);
            if len < 64 {
                return None;
            }
            (2, 2 + len)
        }
        [0xF0, a, b, c, d, ..] => {
            let len = u32::from_le_bytes([a, b, c, d]) as usize;
            if !(4096..=SIZE_MAX - 5).contains(&len) {
                return None;
            }
            (5, 5 + len)
        }
        [0xF1, a, b, ..] if !(-4096..=4095).contains(&i16::from_le_bytes([a, b])) => (0, 3),
        [0xF2, a, b, c, ..] if i16::try_from(i32::from_le_bytes([0, a, b, c]) >> 8).is_err() => (0, 4),
        [0xF3, a, b, c, d, ..] if !(-0x80_0000..=0x7F_FFFF).contains(&i32::from_le_bytes([a, b, c, d])) => (0, 5),
        [0xF4, a, b, c, d, e, f, g, h, ..] if i32::try_from(i64::from_le_bytes([a, b, c, d, e, f, g, h])).is_err() => {
            (0, 9)
        }
        _ => return None,
    })
}
