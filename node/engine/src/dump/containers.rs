//! The packed runs that small collections are stored as: ziplist, listpack, intset, zipmap. Every one is taken apart here,
//! element by element, trusting none of its bytes; listpacks and intsets are also made. Knows no collection.

use super::Problem;
use crate::types::{Item, Text, number};

/// What [`each`] is told of every element.
pub(super) type Visit<'v> = dyn FnMut(Text<'_>) -> Result<(), Problem> + 'v;

/// A kind of packed run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Run {
    Ziplist,
    Listpack,
    Intset,
    /// Fields and values in turn.
    Zipmap,
}

impl Run {
    fn name(self) -> &'static str {
        match self {
            Run::Ziplist => "a ziplist",
            Run::Listpack => "a listpack",
            Run::Intset => "an intset",
            Run::Zipmap => "a zipmap",
        }
    }
}

/// Visits every element of a run, in order.
pub(super) fn each(run: Run, bytes: &[u8], visit: &mut Visit<'_>) -> Result<(), Problem> {
    let mut rest = Rest(bytes, run.name());
    match run {
        Run::Ziplist => each_of_ziplist(&mut rest, visit),
        Run::Listpack => each_of_listpack(&mut rest, visit),
        Run::Intset => each_of_intset(&mut rest, visit),
        Run::Zipmap => each_of_zipmap(&mut rest, visit),
    }
}

/// What is not yet read of a run, and the run's name for complaints.
struct Rest<'a>(&'a [u8], &'static str);

impl<'a> Rest<'a> {
    fn malformed(&self) -> Problem {
        Problem::Malformed(self.1)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Problem> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(self.malformed())?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Problem> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(self.malformed())?;
        self.0 = rest;
        Ok(*taken)
    }

    fn byte(&mut self) -> Result<u8, Problem> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Result<u32, Problem> {
        self.array().map(u32::from_le_bytes)
    }

    fn u16(&mut self) -> Result<u16, Problem> {
        self.array().map(u16::from_le_bytes)
    }

    fn i24(&mut self) -> Result<i64, Problem> {
        let [low, middle, high] = self.array()?;
        Ok(i64::from(i32::from_le_bytes([0, low, middle, high]) >> 8))
    }

    fn check(&self, holds: bool) -> Result<(), Problem> {
        if holds { Ok(()) } else { Err(self.malformed()) }
    }

    /// The end mark was read: nothing may follow, and the number of elements must be the one announced.
    fn finish(&self, seen: usize, announced: u16) -> Result<(), Problem> {
        self.check(self.0.is_empty() && (announced == u16::MAX || usize::from(announced) == seen))
    }
}

const END: u8 = 0xff;

/// `total u32, last u32, count u16, (previous length, encoding, content)*, 0xff`
fn each_of_ziplist(rest: &mut Rest<'_>, visit: &mut Visit<'_>) -> Result<(), Problem> {
    let whole = rest.0.len();
    let total = rest.u32()?;
    rest.check(total as usize == whole)?;
    let _last = rest.u32()?;
    let announced = rest.u16()?;
    let mut seen = 0;
    loop {
        match rest.byte()? {
            END => return rest.finish(seen, announced),
            0xfe => drop(rest.take(4)?),
            _ => {}
        }
        let encoding = rest.byte()?;
        let len = match encoding >> 6 {
            0 => Some(usize::from(encoding & 0x3f)),
            1 => Some(usize::from(encoding & 0x3f) << 8 | usize::from(rest.byte()?)),
            2 => Some(u32::from_be_bytes(rest.array()?) as usize),
            _ => None,
        };
        match len {
            Some(len) => visit(Text::from(rest.take(len)?))?,
            None => visit(Text::from(ziplist_integer(encoding, rest)?))?,
        }
        seen += 1;
    }
}

fn ziplist_integer(encoding: u8, rest: &mut Rest<'_>) -> Result<i64, Problem> {
    Ok(match encoding {
        0xc0 => i64::from(i16::from_le_bytes(rest.array()?)),
        0xd0 => i64::from(i32::from_le_bytes(rest.array()?)),
        0xe0 => i64::from_le_bytes(rest.array()?),
        0xf0 => rest.i24()?,
        0xfe => i64::from(i8::from_le_bytes(rest.array()?)),
        0xf1..=0xfd => i64::from(encoding & 0x0f) - 1,
        _ => return Err(rest.malformed()),
    })
}

fn each_of_listpack(rest: &mut Rest<'_>, visit: &mut Visit<'_>) -> Result<(), Problem> {
    let mut elements = Elements::of(rest.0)?;
    while let Some(element) = elements.next()? {
        visit(element.text())?;
    }
    Ok(())
}

/// The elements of a listpack, one after the other:
/// `total u32, count u16, (encoding, content, length of both again)*, 0xff`
pub(super) struct Elements<'a> {
    rest: Rest<'a>,
    announced: u16,
    seen: usize,
}

impl<'a> Elements<'a> {
    pub(super) fn of(listpack: &'a [u8]) -> Result<Elements<'a>, Problem> {
        let mut rest = Rest(listpack, Run::Listpack.name());
        let total = rest.u32()?;
        rest.check(total as usize == listpack.len())?;
        let announced = rest.u16()?;
        Ok(Elements { rest, announced, seen: 0 })
    }

    /// Whether all were read.
    pub(super) fn is_done(&self) -> bool {
        self.rest.0.first().is_none_or(|byte| *byte == END)
    }

    /// The next one; `None`: that was all, and as many as announced. What spells an integer may be either.
    #[inline]
    pub(super) fn next(&mut self) -> Result<Option<Item<'a>>, Problem> {
        let rest = &mut self.rest;
        let before = rest.0.len();
        let encoding = rest.byte()?;
        let len = match encoding {
            END => return rest.finish(self.seen, self.announced).map(|()| None),
            0x80..=0xbf => Some(usize::from(encoding & 0x3f)),
            0xe0..=0xef => Some(usize::from(encoding & 0x0f) << 8 | usize::from(rest.byte()?)),
            0xf0 => Some(rest.u32()? as usize),
            _ => None,
        };
        let element = match len {
            Some(len) => Item::Bytes(rest.take(len)?),
            None => Item::Integer(listpack_integer(encoding, rest)?),
        };
        let size = before - rest.0.len();
        rest.take(back_length_bytes(size))?;
        self.seen += 1;
        Ok(Some(element))
    }
}

fn listpack_integer(encoding: u8, rest: &mut Rest<'_>) -> Result<i64, Problem> {
    Ok(match encoding {
        0x00..=0x7f => i64::from(encoding),
        0xc0..=0xdf => {
            let bits = u16::from(encoding & 0x1f) << 8 | u16::from(rest.byte()?);
            // Thirteen bits with their sign, brought to the top and back down.
            i64::from((bits << 3) as i16 >> 3)
        }
        0xf1 => i64::from(i16::from_le_bytes(rest.array()?)),
        0xf2 => rest.i24()?,
        0xf3 => i64::from(i32::from_le_bytes(rest.array()?)),
        0xf4 => i64::from_le_bytes(rest.array()?),
        _ => return Err(rest.malformed()),
    })
}

/// `bytes per integer u32, count u32, integers`
fn each_of_intset(rest: &mut Rest<'_>, visit: &mut Visit<'_>) -> Result<(), Problem> {
    let width = rest.u32()?;
    let count = rest.u32()?;
    rest.check(matches!(width, 2 | 4 | 8) && u64::from(width) * u64::from(count) == rest.0.len() as u64)?;
    for _ in 0..count {
        let integer = match width {
            2 => i64::from(i16::from_le_bytes(rest.array()?)),
            4 => i64::from(i32::from_le_bytes(rest.array()?)),
            _ => i64::from_le_bytes(rest.array()?),
        };
        visit(Text::from(integer))?;
    }
    Ok(())
}

/// `count u8, (length, field, length, unused u8, value, unused bytes)*, 0xff`
fn each_of_zipmap(rest: &mut Rest<'_>, visit: &mut Visit<'_>) -> Result<(), Problem> {
    let announced = rest.byte()?;
    let mut seen = 0usize;
    while let Some(len) = zipmap_length(rest)? {
        visit(Text::from(rest.take(len)?))?;
        let len = zipmap_length(rest)?.ok_or(rest.malformed())?;
        let unused = rest.byte()?;
        visit(Text::from(rest.take(len)?))?;
        rest.take(usize::from(unused))?;
        seen += 1;
    }
    rest.check(rest.0.is_empty() && (announced >= 254 || usize::from(announced) == seen))
}

fn zipmap_length(rest: &mut Rest<'_>) -> Result<Option<usize>, Problem> {
    Ok(match rest.byte()? {
        END => None,
        254 => Some(rest.u32()? as usize),
        short => Some(usize::from(short)),
    })
}

/// How many bytes repeat the size of a listpack element behind it. The uneven bounds are Redis'.
fn back_length_bytes(size: usize) -> usize {
    match size {
        0..=127 => 1,
        128..=16_382 => 2,
        16_383..=2_097_150 => 3,
        2_097_151..=268_435_454 => 4,
        _ => 5,
    }
}

/// A listpack in the making.
pub(super) struct Listpack {
    bytes: Vec<u8>,
    count: usize,
}

const LISTPACK_HEADER_BYTES: usize = 6;

impl Listpack {
    pub(super) fn new() -> Listpack {
        Listpack { bytes: vec![0; LISTPACK_HEADER_BYTES], count: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(super) fn len_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Adds an element; what spells an integer is stored as one.
    pub(super) fn push(&mut self, element: &[u8]) {
        self.push_item(Item::of(element));
    }

    /// Adds an element as it is kept.
    #[inline]
    pub(super) fn push_item(&mut self, element: Item<'_>) {
        let start = self.bytes.len();
        match element {
            Item::Integer(integer) => self.push_integer(integer),
            Item::Bytes(bytes) => self.push_bytes(bytes),
            Item::Score(score) => self.push_bytes(number::format_f64(score).as_bytes()),
        }
        let size = self.bytes.len() - start;
        self.count += 1;
        if let short @ 0..=127 = size {
            return self.bytes.push(short as u8);
        }
        let back_bytes = back_length_bytes(size);
        for index in (0..back_bytes).rev() {
            let continues = if index + 1 == back_bytes { 0 } else { 0x80 };
            self.bytes.push((size >> (7 * index)) as u8 & 0x7f | continues);
        }
    }

    fn push_integer(&mut self, integer: i64) {
        let little = integer.to_le_bytes();
        let (encoding, width) = match integer {
            0..=127 => return self.bytes.push(integer as u8),
            -4096..=4095 => {
                let bits = integer as u16 & 0x1fff;
                return self.bytes.extend([0xc0 | (bits >> 8) as u8, bits as u8]);
            }
            -0x8000..=0x7fff => (0xf1, 2),
            -0x80_0000..=0x7f_ffff => (0xf2, 3),
            -0x8000_0000..=0x7fff_ffff => (0xf3, 4),
            _ => (0xf4, 8),
        };
        self.bytes.push(encoding);
        self.bytes.extend_from_slice(&little[..width]);
    }

    fn push_bytes(&mut self, element: &[u8]) {
        match element.len() {
            len @ 0..=63 => self.bytes.push(0x80 | len as u8),
            len @ 64..=4095 => self.bytes.extend([0xe0 | (len >> 8) as u8, len as u8]),
            len => {
                self.bytes.push(0xf0);
                self.bytes.extend((len as u32).to_le_bytes());
            }
        }
        self.bytes.extend_from_slice(element);
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        self.end();
        self.bytes
    }

    /// Ends it; nothing may be added before it is cleared.
    pub(super) fn end(&mut self) -> &[u8] {
        self.bytes.push(END);
        let total = (self.bytes.len() as u32).to_le_bytes();
        let count = u16::try_from(self.count).unwrap_or(u16::MAX).to_le_bytes();
        self.bytes[..4].copy_from_slice(&total);
        self.bytes[4..LISTPACK_HEADER_BYTES].copy_from_slice(&count);
        &self.bytes
    }

    /// Begins another one in the same memory.
    pub(super) fn clear(&mut self) {
        self.bytes.truncate(LISTPACK_HEADER_BYTES);
        self.count = 0;
    }
}

/// An intset of ascending integers, all of them of so many bytes.
pub(super) fn intset(width: usize, integers: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(8 + integers.len());
    bytes.extend((width as u32).to_le_bytes());
    bytes.extend(((integers.len() / width) as u32).to_le_bytes());
    bytes.extend_from_slice(integers);
    bytes
}

/// What [`intset`] was made of; `None` if it is none.
pub(super) fn integers(intset: &[u8]) -> Option<(usize, &[u8])> {
    let (width, rest) = intset.split_first_chunk::<4>()?;
    let (count, integers) = rest.split_first_chunk::<4>()?;
    let (width, count) = (u32::from_le_bytes(*width), u32::from_le_bytes(*count));
    let whole = matches!(width, 2 | 4 | 8) && u64::from(width) * u64::from(count) == integers.len() as u64;
    whole.then_some((width as usize, integers))
}
