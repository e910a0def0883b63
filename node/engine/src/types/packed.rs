//! Many small elements in one run of bytes: what lists, hashes, sets and sorted sets are made of while they are small.
//! Knows neither what the elements mean nor when a collection is too big for it; its owner decides that.
//!
//! The bytes are those of a [`Run`], its count is that of the elements. An element is a tag, its payload, and its size once more
//! as a varint to be read from the right, so that the run can be walked both ways. Elements take as many bytes as a Redis
//! listpack needs for them, so limits given in bytes mean here what they mean in Redis:
//!
//! ```text
//! 0nnnnnnn            the integer n, 0..=127        11010000 u32 LE   bytes, any length
//! 10nnnnnn            n bytes, 0..=63               1101 0001..0100   an integer of 2, 3, 4, 8 bytes LE
//! 111nnnnn nnnnnnnn   a 13-bit signed integer       11010101          a score, f64 LE
//! 1100nnnn nnnnnnnn   n bytes, 0..=4095
//! ```

use super::number::parse_i64;
use super::text::Text;
use super::word::{RUN_BYTES_MAX, Run};

pub(super) const TAG_BYTES_12: u8 = 0xC0;
const TAG_BYTES_32: u8 = 0xD0;
const TAG_INTEGER_16: u8 = 0xD1;
const TAG_INTEGER_24: u8 = 0xD2;
const TAG_INTEGER_32: u8 = 0xD3;
const TAG_INTEGER_64: u8 = 0xD4;
pub(super) const TAG_SCORE: u8 = 0xD5;
const TAG_INTEGER_13: u8 = 0xE0;

/// What a Redis listpack has besides its elements.
const LISTPACK_BYTES: usize = 7;

/// One element as it is stored: integers that a text can be rebuilt from exactly are kept as integers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Item<'a> {
    /// Bytes that are no canonical integer.
    Bytes(&'a [u8]),
    /// A canonical integer.
    Integer(i64),
    /// A score; only sorted sets store these.
    Score(f64),
}

impl<'a> Item<'a> {
    /// The most compact item for these bytes.
    #[inline]
    pub fn of(bytes: &'a [u8]) -> Item<'a> {
        match parse_i64(bytes) {
            Some(integer) => Item::Integer(integer),
            None => Item::Bytes(bytes),
        }
    }

    /// The bytes this item was made of.
    #[inline]
    pub fn text(self) -> Text<'a> {
        match self {
            Item::Bytes(bytes) => Text::from(bytes),
            Item::Integer(integer) => Text::from(integer),
            Item::Score(score) => Text::from(score as i64),
        }
    }

    /// This item read as a score; what was not stored as a score or an integer counts as zero.
    #[inline]
    pub fn score(self) -> f64 {
        match self {
            Item::Score(score) => score,
            Item::Integer(integer) => integer as f64,
            Item::Bytes(_) => 0.0,
        }
    }
}

/// A run of elements. A position is a byte offset that stays valid until the run is changed.
pub type Packed = Run;

/// Tag and payload of an element about to be written.
struct Encoded<'a> {
    tag: [u8; 9],
    tag_bytes: usize,
    payload: &'a [u8],
}

impl<'a> Encoded<'a> {
    fn of(item: Item<'a>) -> Encoded<'a> {
        let mut tag = [0u8; 9];
        let mut payload: &[u8] = &[];
        let tag_bytes = match item {
            Item::Integer(integer) => encode_integer(integer, &mut tag),
            Item::Score(score) => {
                tag[0] = TAG_SCORE;
                tag[1..9].copy_from_slice(&score.to_le_bytes());
                9
            }
            Item::Bytes(bytes) => {
                payload = bytes;
                encode_length(bytes.len(), &mut tag)
            }
        };
        Encoded { tag, tag_bytes, payload }
    }

    fn size(&self) -> usize {
        self.tag_bytes + self.payload.len()
    }

    /// Calls `write` with the parts that make the element.
    #[inline]
    fn write<R>(&self, write: impl FnOnce([&[u8]; 3]) -> R) -> R {
        let mut rest = self.size();
        let mut trailer = [0u8; 5];
        let bytes = trailer_bytes(rest);
        for index in (0..bytes).rev() {
            let more = if index > 0 { 0x80 } else { 0 };
            trailer[index] = (rest & 0x7F) as u8 | more;
            rest >>= 7;
        }
        write([&self.tag[..self.tag_bytes], self.payload, &trailer[..bytes]])
    }
}

fn encode_integer(integer: i64, tag: &mut [u8; 9]) -> usize {
    let little = integer.to_le_bytes();
    let (code, bytes) = match integer {
        0..=127 => {
            tag[0] = integer as u8;
            return 1;
        }
        -4096..=4095 => {
            let bits = (integer as u16) & 0x1FFF;
            tag[0] = TAG_INTEGER_13 | (bits >> 8) as u8;
            tag[1] = bits as u8;
            return 2;
        }
        -0x8000..=0x7FFF => (TAG_INTEGER_16, 2),
        -0x80_0000..=0x7F_FFFF => (TAG_INTEGER_24, 3),
        -0x8000_0000..=0x7FFF_FFFF => (TAG_INTEGER_32, 4),
        _ => (TAG_INTEGER_64, 8),
    };
    tag[0] = code;
    tag[1..=bytes].copy_from_slice(&little[..bytes]);
    1 + bytes
}

fn encode_length(length: usize, tag: &mut [u8; 9]) -> usize {
    if length < 64 {
        tag[0] = 0x80 | length as u8;
        return 1;
    }
    if length < 4096 {
        tag[0] = TAG_BYTES_12 | (length >> 8) as u8;
        tag[1] = length as u8;
        return 2;
    }
    tag[0] = TAG_BYTES_32;
    tag[1..5].copy_from_slice(&(length as u32).to_le_bytes());
    5
}

/// How many bytes it takes to repeat `size` after an element.
#[inline]
fn trailer_bytes(size: usize) -> usize {
    match size {
        0..=127 => 1,
        128..=16_383 => 2,
        16_384..=2_097_151 => 3,
        2_097_152..=268_435_455 => 4,
        _ => 5,
    }
}

/// Elements that become a run once all are there.
#[derive(Default)]
pub struct Packing {
    bytes: Vec<u8>,
    count: u32,
}

impl Packing {
    /// Adds an element behind the last. False: it is too much for a run.
    #[inline]
    pub fn push(&mut self, item: Item<'_>) -> bool {
        Encoded::of(item).write(|parts| {
            let fits = self.bytes.len() + parts.iter().map(|part| part.len()).sum::<usize>() + 32 < RUN_BYTES_MAX;
            if fits {
                parts.iter().for_each(|part| self.bytes.extend_from_slice(part));
                self.count += 1;
            }
            fits
        })
    }

    /// The run; `None` if nothing was added.
    pub fn finish(self) -> Option<Packed> {
        (self.count > 0).then(|| Run::from_bytes(&self.bytes, self.count))
    }
}

impl Packed {
    /// A run without elements; allocates nothing.
    pub fn new() -> Packed {
        Run::empty()
    }

    /// How many elements there are.
    #[inline]
    pub fn len(&self) -> usize {
        self.count() as usize
    }

    /// Whether there are none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What a Redis listpack of the same elements would weigh: the measure for limits given in bytes.
    #[inline]
    pub fn listpack_bytes(&self) -> usize {
        self.used() + LISTPACK_BYTES
    }

    /// Whether that many more bytes of elements can be added at all.
    #[inline]
    pub fn fits(&self, extra_bytes: usize) -> bool {
        extra_bytes < RUN_BYTES_MAX && self.used() + extra_bytes + 32 < RUN_BYTES_MAX
    }

    /// Where the first element begins, or `end` if there is none.
    #[inline]
    pub fn start(&self) -> usize {
        0
    }

    /// Behind the last element.
    #[inline]
    pub fn end(&self) -> usize {
        self.used()
    }

    /// The element at a position.
    #[inline]
    pub fn get(&self, position: usize) -> Item<'_> {
        decode(self.bytes(), position).0
    }

    /// The element at a position, and where the one behind it begins.
    #[inline]
    pub fn read(&self, position: usize) -> (Item<'_>, usize) {
        read(self.bytes(), position)
    }

    /// Where the element behind this one begins; `end` after the last.
    #[inline]
    pub fn next(&self, position: usize) -> usize {
        next(self.bytes(), position)
    }

    /// Where the element before this position begins. The position must not be `start`.
    #[inline]
    pub fn previous(&self, position: usize) -> usize {
        let bytes = self.bytes();
        let mut at = position - 1;
        let mut size = usize::from(bytes[at] & 0x7F);
        let mut shift = 7;
        while bytes[at] & 0x80 != 0 {
            at -= 1;
            size |= usize::from(bytes[at] & 0x7F) << shift;
            shift += 7;
        }
        at - size
    }

    /// Where the element with this index begins, walking from the nearer end.
    pub fn locate(&self, index: usize) -> Option<usize> {
        let len = self.len();
        if index >= len {
            return None;
        }
        let from_back = len - index;
        if index <= from_back {
            return Some((0..index).fold(self.start(), |position, _| self.next(position)));
        }
        Some((0..from_back).fold(self.end(), |position, _| self.previous(position)))
    }

    /// Writes an element before the one at `position` (or at `end`). It begins at `position` afterwards.
    pub fn insert(&mut self, position: usize, item: Item<'_>) -> usize {
        let count = self.count();
        Encoded::of(item).write(|parts| self.splice(position, 0, parts));
        self.set_count(count + 1);
        position
    }

    /// Adds an element behind the last.
    pub fn push_back(&mut self, item: Item<'_>) {
        self.insert(self.end(), item);
    }

    /// Adds an element before the first.
    pub fn push_front(&mut self, item: Item<'_>) {
        self.insert(self.start(), item);
    }

    /// Writes another element in place of the one at `position`.
    pub fn replace(&mut self, position: usize, item: Item<'_>) {
        let old = self.next(position) - position;
        Encoded::of(item).write(|parts| self.splice(position, old, parts));
    }

    /// Takes out `count` elements beginning at `position`, or as many as there are.
    pub fn remove(&mut self, position: usize, count: usize) {
        let mut removed = 0;
        let mut until = position;
        while removed < count && until < self.end() {
            until = self.next(until);
            removed += 1;
        }
        if removed > 0 {
            let left = self.count() - removed as u32;
            self.splice(position, until - position, [&[]; 3]);
            self.set_count(left);
        }
    }

    /// Takes all elements from `position` on out, and returns them as a run of their own.
    pub fn split_off(&mut self, position: usize) -> Packed {
        if position >= self.end() {
            return Packed::new();
        }
        let mut kept = 0;
        let mut at = self.start();
        while at < position {
            at = self.next(at);
            kept += 1;
        }
        let tail = Run::from_bytes(&self.bytes()[position..], self.count() - kept);
        self.splice(position, self.end() - position, [&[]; 3]);
        self.set_count(kept);
        tail
    }

    /// Adds all elements of another run behind the last.
    pub fn append(&mut self, other: &Packed) {
        if !other.is_empty() {
            let count = self.count() + other.count();
            self.splice(self.end(), 0, [other.bytes(), &[], &[]]);
            self.set_count(count);
        }
    }

    /// The position of the first element from `from` on that equals `needle`, looking at one and skipping `skip` after it.
    #[inline]
    pub fn find(&self, from: usize, needle: Item<'_>, skip: usize) -> Option<usize> {
        let bytes = self.bytes();
        // What is equal is encoded equally, and names differ most likely at their ends.
        let wanted = Encoded::of(needle);
        let (tag, size) = (&wanted.tag[..wanted.tag_bytes], wanted.size());
        let last = *wanted.payload.last().unwrap_or(&tag[tag.len() - 1]);
        let mut position = from;
        while position < bytes.len() {
            let here = size_at(bytes, position);
            let mut behind = position + here + trailer_bytes(here);
            if here == size && bytes[position + size - 1] == last {
                let (own_tag, own_payload) = bytes[position..position + size].split_at(tag.len());
                if own_tag == tag && own_payload == wanted.payload {
                    return Some(position);
                }
            }
            for _ in 0..skip {
                behind = next(bytes, behind);
            }
            position = behind;
        }
        None
    }

    /// All elements, to be walked from either end.
    pub fn iter(&self) -> PackedIter<'_> {
        PackedIter { packed: self, front: self.start(), back: self.end(), remaining: self.len() }
    }

    /// `count` elements from the one with index `from`; both must be within the run.
    pub fn iter_range(&self, from: usize, count: usize) -> PackedIter<'_> {
        let edge = |index| self.locate(index).unwrap_or(self.end());
        PackedIter { packed: self, front: edge(from), back: edge(from + count), remaining: count }
    }
}

/// How many bytes tag and payload of the element at a position take.
#[inline]
pub(super) fn size_at(bytes: &[u8], position: usize) -> usize {
    let tag = bytes[position];
    match tag {
        0..=0x7F => 1,
        0x80..=0xBF => 1 + usize::from(tag & 0x3F),
        0xE0.. => 2,
        0xC0..=0xCF => 2 + (usize::from(tag & 0x0F) << 8 | usize::from(bytes[position + 1])),
        TAG_BYTES_32 => 5 + little_endian(&bytes[position + 1..position + 5]) as usize,
        TAG_INTEGER_16 => 3,
        TAG_INTEGER_24 => 4,
        TAG_INTEGER_32 => 5,
        _ => 9,
    }
}

#[inline]
pub(super) fn next(bytes: &[u8], position: usize) -> usize {
    let size = size_at(bytes, position);
    position + size + trailer_bytes(size)
}

#[inline]
fn read(bytes: &[u8], position: usize) -> (Item<'_>, usize) {
    let (item, size) = decode(bytes, position);
    (item, position + size + trailer_bytes(size))
}

#[inline]
fn decode(bytes: &[u8], position: usize) -> (Item<'_>, usize) {
    let tag = bytes[position];
    let size = size_at(bytes, position);
    let body = &bytes[position..position + size];
    let item = match tag {
        0..=0x7F => Item::Integer(i64::from(tag)),
        0x80..=0xBF => Item::Bytes(&body[1..]),
        0xE0.. => {
            let bits = u16::from(tag & 0x1F) << 8 | u16::from(body[1]);
            Item::Integer(i64::from((bits << 3) as i16 >> 3))
        }
        0xC0..=0xCF => Item::Bytes(&body[2..]),
        TAG_BYTES_32 => Item::Bytes(&body[5..]),
        TAG_SCORE => Item::Score(f64::from_bits(little_endian(&body[1..]))),
        _ => {
            let unused = 64 - 8 * (size - 1) as u32;
            Item::Integer((little_endian(&body[1..]) << unused) as i64 >> unused)
        }
    };
    (item, size)
}

#[inline]
fn little_endian(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

impl std::fmt::Debug for Packed {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_list().entries(self.iter()).finish()
    }
}

/// Elements of a run, from either end.
#[derive(Clone)]
pub struct PackedIter<'a> {
    packed: &'a Packed,
    front: usize,
    back: usize,
    remaining: usize,
}

impl<'a> Iterator for PackedIter<'a> {
    type Item = Item<'a>;

    #[inline]
    fn next(&mut self) -> Option<Item<'a>> {
        if self.remaining == 0 {
            return None;
        }
        self.remaining -= 1;
        let (item, next) = self.packed.read(self.front);
        self.front = next;
        Some(item)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.remaining, Some(self.remaining))
    }
}

impl<'a> DoubleEndedIterator for PackedIter<'a> {
    #[inline]
    fn next_back(&mut self) -> Option<Item<'a>> {
        if self.remaining == 0 {
            return None;
        }
        self.remaining -= 1;
        self.back = self.packed.previous(self.back);
        Some(self.packed.get(self.back))
    }
}

impl ExactSizeIterator for PackedIter<'_> {}
