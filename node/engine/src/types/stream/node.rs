//! Entries next to each other in one run of bytes, each id told as a distance from the node's own, and the names of
//! the fields told once if every entry has the same. Knows no stream and no limit but its own.
//!
//! ```text
//!   node      count, field*                      the names the node was opened with
//!             entry*
//!   entry     size: u16   of what follows; 0xFFFF: everything up to the end of the node
//!             count       0: the names are the node's; else how many pairs with names of their own
//!             ms          distance from the node's
//!             seq         distance from the node's if ms is 0, else as it is
//!             value*      or (field, value)*
//! ```
//!
//! Counts and distances are varints. A text is a tag and its bytes; what spells an integer is kept as one:
//!
//! ```text
//!   0..=191   so many bytes          192       a varint, then so many bytes
//!   193..=197 an integer of 1, 2, 3, 4, 8 bytes LE        200..=255   the integers 0..=55
//! ```

use super::id::StreamId;
use crate::types::number::{digits_of, parse_i64};
use crate::types::packed::Item;
use crate::types::text::Text;

const TAG_BYTES_LONG: u8 = 192;
const TAG_INTEGER: u8 = 193;
const TAG_SMALL: u8 = 200;
const SIZE_BYTES: usize = 2;
/// The size of an entry that goes on to the end of its node, so that nothing can follow it.
const SIZE_OPEN: u16 = u16::MAX;
/// What a text needs besides its bytes: a tag and a varint.
const TEXT_OVERHEAD_BYTES_MAX: usize = 6;
/// What an entry needs besides its texts: its size and three varints.
const ENTRY_OVERHEAD_BYTES_MAX: usize = 32;

/// A name or a value that is about to be kept: as a client sends it, or as another form keeps it.
pub(crate) trait Word {
    /// How many bytes its text has.
    fn text_bytes(&self) -> usize;
    /// Whether it is this.
    fn is(&self, kept: Item<'_>) -> bool;
    /// Appends it, and returns how many bytes it takes in a listpack.
    fn write(&self, bytes: &mut Vec<u8>) -> usize;
}

impl Word for &[u8] {
    #[inline]
    fn text_bytes(&self) -> usize {
        self.len()
    }

    #[inline]
    fn is(&self, kept: Item<'_>) -> bool {
        *kept.text() == **self
    }

    #[inline]
    fn write(&self, bytes: &mut Vec<u8>) -> usize {
        write_text(bytes, self)
    }
}

impl Word for Item<'_> {
    #[inline]
    fn text_bytes(&self) -> usize {
        match self {
            Item::Bytes(bytes) => bytes.len(),
            Item::Integer(integer) => digits_of(*integer),
            Item::Score(_) => 0,
        }
    }

    #[inline]
    fn is(&self, kept: Item<'_>) -> bool {
        *self == kept
    }

    #[inline]
    fn write(&self, bytes: &mut Vec<u8>) -> usize {
        match self {
            Item::Integer(integer) => {
                write_integer(bytes, *integer);
                listed_integer(*integer)
            }
            other => write_bytes(bytes, &other.text()),
        }
    }
}

/// A run of entries in the order of their ids.
#[derive(Clone)]
pub(super) struct Node {
    base: StreamId,
    bytes: Vec<u8>,
    /// Where the first entry that is left begins: entries trimmed from the front stay behind, unseen.
    start: u32,
    len: u32,
    /// With those that were deleted since.
    appended: u32,
    /// How many bytes its entries would take as a listpack, deleted ones too: where nodes end is seen by whoever trims
    /// approximately, so they end where Redis' do. [`CLOSED`] if its last entry has no end of its own.
    listed: u32,
}

/// Nothing can follow.
const CLOSED: u32 = u32::MAX;

/// An entry, borrowed from where it is stored.
#[derive(Clone, Copy)]
pub struct StreamEntry<'a> {
    /// Its id.
    pub id: StreamId,
    pairs: usize,
    fields: &'a [u8],
    /// `None`: names and values take turns in `fields`.
    values: Option<&'a [u8]>,
}

impl<'a> StreamEntry<'a> {
    /// How many fields it has.
    pub fn len(&self) -> usize {
        self.pairs
    }

    /// Whether it has none; no client can add such an entry.
    pub fn is_empty(&self) -> bool {
        self.pairs == 0
    }

    /// Whether its fields have the names of another's, in the same order.
    pub(crate) fn has_names_of(&self, other: &StreamEntry<'_>) -> bool {
        let of_one_node = || self.values.is_some() && other.values.is_some() && std::ptr::eq(self.fields, other.fields);
        let alike = || self.items().zip(other.items()).all(|(one, other)| one.0 == other.0);
        self.pairs == other.pairs && (of_one_node() || alike())
    }

    /// Bytes of all of its names and values.
    pub(crate) fn text_bytes(&self) -> usize {
        self.items().map(|(field, value)| field.text_bytes() + value.text_bytes()).sum()
    }

    /// Its fields with their values, as they are kept.
    #[inline]
    pub(crate) fn items(&self) -> impl Iterator<Item = (Item<'a>, Item<'a>)> + use<'a> {
        let StreamEntry { pairs, mut fields, mut values, .. } = *self;
        (0..pairs).map(move |_| {
            let field = read_item(&mut fields);
            let value = read_item(values.as_mut().unwrap_or(&mut fields));
            (field, value)
        })
    }

    /// Its fields with their values, in the order they were given.
    pub fn pairs(&self) -> impl Iterator<Item = (Text<'a>, Text<'a>)> + use<'a> {
        let StreamEntry { pairs, mut fields, mut values, .. } = *self;
        (0..pairs).map(move |_| {
            let field = read_text(&mut fields);
            let value = read_text(values.as_mut().unwrap_or(&mut fields));
            (field, value)
        })
    }
}

impl Node {
    /// A node for entries from `base` on, its names being those of `pairs`.
    pub fn open<W: Word>(base: StreamId, pairs: &[W], capacity: usize) -> Node {
        let mut bytes = Vec::with_capacity(capacity);
        write_varint(&mut bytes, (pairs.len() / 2) as u64);
        let names: usize = pairs.iter().step_by(2).map(|field| field.write(&mut bytes)).sum();
        let start = bytes.len() as u32;
        let listed = LISTED_NODE_BYTES + listed_integer((pairs.len() / 2) as i64) + names;
        Node { base, bytes, start, len: 0, appended: 0, listed: u32::try_from(listed).unwrap_or(CLOSED) }
    }

    /// The lowest id it can hold.
    #[inline]
    pub fn base(&self) -> StreamId {
        self.base
    }

    /// How many entries it holds.
    #[inline]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// What it holds on the heap.
    #[inline]
    pub fn heap_bytes(&self) -> usize {
        self.bytes.capacity()
    }

    /// How many bytes are written.
    #[inline]
    pub fn used_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Whether an entry of these pairs goes in here. `same`: their names are those of the node.
    #[inline]
    pub fn has_room<W: Word>(&self, pairs: &[W], same: bool, bytes_max: usize, entries_max: usize) -> bool {
        let bytes_of = |from: usize| -> usize { pairs[from..].iter().step_by(2).map(Word::text_bytes).sum() };
        let (names, values) = (bytes_of(0), bytes_of(1));
        // A long entry goes up to the end of its node, so it opens one of its own.
        let written = if same { values } else { names + values };
        let overhead = TEXT_OVERHEAD_BYTES_MAX * pairs.len() + ENTRY_OVERHEAD_BYTES_MAX;
        let short = written + overhead < usize::from(SIZE_OPEN);
        short && self.listed as usize + names + values < bytes_max && (self.appended as usize) < entries_max
    }

    /// Gives back what is not needed once nothing more comes.
    pub fn shrink(&mut self) {
        self.bytes.shrink_to_fit();
    }

    /// Adds an entry behind the last; its id must be higher than all before, and not below `base`.
    /// `same`: its names are those of the node.
    pub fn append<W: Word>(&mut self, id: StreamId, pairs: &[W], same: bool) {
        let size_at = self.bytes.len();
        self.bytes.extend_from_slice(&[0; SIZE_BYTES]);
        write_varint(&mut self.bytes, if same { 0 } else { (pairs.len() / 2) as u64 });
        let ms = id.ms - self.base.ms;
        write_varint(&mut self.bytes, ms);
        write_varint(&mut self.bytes, if ms == 0 { id.seq - self.base.seq } else { id.seq });
        let (first, step) = if same { (1, 2) } else { (0, 1) };
        let texts: usize = pairs[first..].iter().step_by(step).map(|text| text.write(&mut self.bytes)).sum();
        let size = self.bytes.len() - size_at - SIZE_BYTES;
        let size = u16::try_from(size).unwrap_or(SIZE_OPEN);
        let count = if same { 0 } else { listed_integer((pairs.len() / 2) as i64) };
        let seq = listed_integer(id.seq.wrapping_sub(self.base.seq) as i64);
        let listed = LISTED_ENTRY_BYTES + listed_integer(ms as i64) + seq + count + texts;
        self.listed = if size == SIZE_OPEN { CLOSED } else { self.listed.saturating_add(listed as u32) };
        self.bytes[size_at..size_at + SIZE_BYTES].copy_from_slice(&size.to_le_bytes());
        self.len += 1;
        self.appended += 1;
    }

    /// Whether the names of these pairs are the node's.
    #[inline]
    pub fn has_names<W: Word>(&self, pairs: &[W]) -> bool {
        let mut names = &self.bytes[..];
        let count = read_varint(&mut names);
        count == (pairs.len() / 2) as u64 && pairs.iter().step_by(2).all(|field| field.is(read_item(&mut names)))
    }

    /// Where the first entry begins.
    #[inline]
    pub fn start(&self) -> usize {
        self.start as usize
    }

    /// Behind the last entry.
    #[inline]
    pub fn end(&self) -> usize {
        self.bytes.len()
    }

    /// Where the entry behind this one begins.
    #[inline]
    pub fn next(&self, position: usize) -> usize {
        match u16::from_le_bytes([self.bytes[position], self.bytes[position + 1]]) {
            SIZE_OPEN => self.bytes.len(),
            size => position + SIZE_BYTES + usize::from(size),
        }
    }

    /// The id of the entry at a position.
    #[inline]
    pub fn id_at(&self, position: usize) -> StreamId {
        let mut rest = &self.bytes[position + SIZE_BYTES..];
        read_varint(&mut rest);
        self.read_id(&mut rest)
    }

    #[inline]
    fn read_id(&self, rest: &mut &[u8]) -> StreamId {
        let (ms, seq) = (read_varint(rest), read_varint(rest));
        StreamId { ms: self.base.ms + ms, seq: if ms == 0 { self.base.seq + seq } else { seq } }
    }

    /// The entry at a position.
    #[inline]
    pub fn entry_at(&self, position: usize) -> StreamEntry<'_> {
        let mut rest = &self.bytes[position + SIZE_BYTES..self.next(position)];
        let own = read_varint(&mut rest) as usize;
        let id = self.read_id(&mut rest);
        if own > 0 {
            return StreamEntry { id, pairs: own, fields: rest, values: None };
        }
        let mut fields = &self.bytes[..];
        let pairs = read_varint(&mut fields) as usize;
        StreamEntry { id, pairs, fields, values: Some(rest) }
    }

    /// Where every entry begins, in order.
    pub fn positions(&self) -> impl Iterator<Item = usize> + '_ {
        let first = Some(self.start()).filter(|start| *start < self.end());
        std::iter::successors(first, |position| Some(self.next(*position)).filter(|next| *next < self.end()))
    }

    /// Where the first entry with this id or a higher one begins; `end` if there is none.
    pub fn seek(&self, id: StreamId) -> usize {
        if id <= self.base {
            return self.start();
        }
        self.positions().find(|position| self.id_at(*position) >= id).unwrap_or(self.end())
    }

    /// The id of the first entry; a node is never without one.
    pub fn first(&self) -> StreamId {
        self.id_at(self.start())
    }

    /// The id of the last entry.
    pub fn last(&self) -> StreamId {
        self.positions().last().map_or(self.base, |position| self.id_at(position))
    }

    /// Takes out the entry with this id; false if there is none.
    pub fn remove(&mut self, id: StreamId) -> bool {
        let position = self.seek(id);
        if position == self.end() || self.id_at(position) != id {
            return false;
        }
        let next = self.next(position);
        if position == self.start() {
            self.start = next as u32;
        } else {
            self.bytes.drain(position..next);
            if self.bytes.capacity() - self.bytes.len() > self.bytes.len() + 64 {
                self.bytes.shrink_to_fit();
            }
        }
        self.len -= 1;
        true
    }

    /// Takes out entries from the front as long as `goes` says so; how many.
    pub fn drop_front(&mut self, mut goes: impl FnMut(StreamId) -> bool) -> usize {
        let before = self.len;
        while self.len > 0 && goes(self.first()) {
            self.start = self.next(self.start()) as u32;
            self.len -= 1;
        }
        (before - self.len) as usize
    }
}

#[inline]
fn write_varint(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

#[inline]
fn read_varint(rest: &mut &[u8]) -> u64 {
    let mut number = 0;
    for (index, byte) in rest.iter().enumerate() {
        number |= u64::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            *rest = &rest[index + 1..];
            break;
        }
    }
    number
}

/// A listpack's own header and end, and of a node the counts of entries and deleted ones and the end of its names.
const LISTED_NODE_BYTES: usize = 7 + 3 * 2;
/// Of an entry its flags and how many elements it has.
const LISTED_ENTRY_BYTES: usize = 2 * 2;

/// How many bytes an integer takes in a listpack.
#[inline]
fn listed_integer(integer: i64) -> usize {
    1 + match integer {
        0..=127 => 1,
        -4096..=4095 => 2,
        -0x8000..=0x7FFF => 3,
        -0x80_0000..=0x7F_FFFF => 4,
        -0x8000_0000..=0x7FFF_FFFF => 5,
        _ => 9,
    }
}

/// How many bytes a text takes in a listpack: a head, itself, and how long both are.
#[inline]
fn listed_text(len: usize) -> usize {
    let whole = len
        + match len {
            0..64 => 1,
            64..4096 => 2,
            _ => 5,
        };
    whole
        + match whole {
            0..=127 => 1,
            128..16_383 => 2,
            16_383..2_097_151 => 3,
            2_097_151..268_435_455 => 4,
            _ => 5,
        }
}

/// Returns how many bytes the text takes in a listpack.
#[inline]
fn write_text(bytes: &mut Vec<u8>, text: &[u8]) -> usize {
    const DIGITS_MAX: usize = 20;
    let like_integer = text.first().is_some_and(|first| first.is_ascii_digit() || *first == b'-');
    if like_integer
        && text.len() <= DIGITS_MAX
        && let Some(integer) = parse_i64(text)
    {
        write_integer(bytes, integer);
        return listed_integer(integer);
    }
    write_bytes(bytes, text)
}

/// The same of a text that is known to spell no integer.
#[inline]
fn write_bytes(bytes: &mut Vec<u8>, text: &[u8]) -> usize {
    match text.len() {
        len if len < usize::from(TAG_BYTES_LONG) => bytes.push(len as u8),
        len => {
            bytes.push(TAG_BYTES_LONG);
            write_varint(bytes, len as u64);
        }
    }
    bytes.extend_from_slice(text);
    listed_text(text.len())
}

/// How many bytes an integer takes, by its tag.
const WIDTHS: [usize; 5] = [1, 2, 3, 4, 8];

fn write_integer(bytes: &mut Vec<u8>, integer: i64) {
    if let Ok(small @ 0..=55) = u8::try_from(integer) {
        return bytes.push(TAG_SMALL + small);
    }
    let index = match integer {
        -0x80..=0x7F => 0,
        -0x8000..=0x7FFF => 1,
        -0x80_0000..=0x7F_FFFF => 2,
        -0x8000_0000..=0x7FFF_FFFF => 3,
        _ => 4,
    };
    bytes.push(TAG_INTEGER + index as u8);
    bytes.extend_from_slice(&integer.to_le_bytes()[..WIDTHS[index]]);
}

#[inline]
fn read_text<'a>(rest: &mut &'a [u8]) -> Text<'a> {
    read_item(rest).text()
}

#[inline]
fn read_item<'a>(rest: &mut &'a [u8]) -> Item<'a> {
    let tag = rest[0];
    *rest = &rest[1..];
    let len = match tag {
        TAG_SMALL.. => return Item::Integer(i64::from(tag - TAG_SMALL)),
        TAG_INTEGER.. => {
            let width = WIDTHS[usize::from(tag - TAG_INTEGER)];
            let mut little = [0; 8];
            little[8 - width..].copy_from_slice(&rest[..width]);
            *rest = &rest[width..];
            return Item::Integer(i64::from_le_bytes(little) >> (64 - 8 * width as u32));
        }
        TAG_BYTES_LONG => read_varint(rest) as usize,
        short => usize::from(short),
    };
    let (text, after) = rest.split_at(len);
    *rest = after;
    Item::Bytes(text)
}
