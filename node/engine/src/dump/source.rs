//! Where the bytes of a file or payload come from, and how its smallest parts are read: bytes, lengths, strings.
//! Knows no value and no file.

use super::checksum::Checksum;
use super::{Problem, lzf};
use crate::types::number;

/// Why bytes did not come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotRead {
    /// There are not that many.
    End,
    /// The system says.
    Failed(String),
}

/// Bytes in order.
pub trait Source {
    /// Fills the whole buffer with the next bytes.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), NotRead>;
    /// Appends the next bytes.
    fn append(&mut self, len: usize, to: &mut Vec<u8>) -> Result<(), NotRead> {
        let from = to.len();
        to.resize(from + len, 0);
        self.fill(&mut to[from..])
    }
    /// How many bytes are left at most. Nothing longer is ever asked for, so this bounds what reading can allocate.
    fn left(&self) -> u64;
}

impl Source for &[u8] {
    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), NotRead> {
        let (taken, rest) = self.split_at_checked(buffer.len()).ok_or(NotRead::End)?;
        buffer.copy_from_slice(taken);
        *self = rest;
        Ok(())
    }

    fn append(&mut self, len: usize, to: &mut Vec<u8>) -> Result<(), NotRead> {
        let (taken, rest) = self.split_at_checked(len).ok_or(NotRead::End)?;
        to.extend_from_slice(taken);
        *self = rest;
        Ok(())
    }

    fn left(&self) -> u64 {
        self.len() as u64
    }
}

impl From<NotRead> for Problem {
    fn from(error: NotRead) -> Problem {
        match error {
            NotRead::End => Problem::Truncated,
            NotRead::Failed(text) => Problem::Unreadable(text),
        }
    }
}

/// How many bytes packed strings may become. They are the one thing in a payload that takes much more than its own size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unpacking {
    /// All of them together, as far as a request is concerned: no more than one argument may have.
    pub argument_bytes_max: u64,
    /// The same, as far as there is memory.
    pub bytes_max: u64,
}

impl Unpacking {
    /// Whoever decides about room did so already: a snapshot, a stream of effects.
    pub const UNBOUNDED: Unpacking = Unpacking { argument_bytes_max: u64::MAX, bytes_max: u64::MAX };
}

/// A length, or what stands in its place before a string.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Length {
    Plain(u64),
    Integer8,
    Integer16,
    Integer32,
    Packed,
}

/// Reads a source, counting what it reads and, if it was opened so, checksumming it.
pub(super) struct Reader<S> {
    source: S,
    offset: u64,
    checksum: Option<Checksum>,
    unpacking: Unpacking,
}

impl<S: Source> Reader<S> {
    pub(super) fn new(source: S) -> Reader<S> {
        Reader::within(source, Unpacking::UNBOUNDED)
    }

    /// The same, with a checksum of what is read.
    pub(super) fn summing(source: S) -> Reader<S> {
        Reader { checksum: Some(Checksum::new()), ..Reader::new(source) }
    }

    pub(super) fn within(source: S, unpacking: Unpacking) -> Reader<S> {
        Reader { source, offset: 0, checksum: None, unpacking }
    }

    /// How many bytes were read.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// At most how many are left.
    pub(super) fn left(&self) -> u64 {
        self.source.left()
    }

    /// Of the bytes read so far, if it makes one.
    pub(super) fn checksum(&self) -> Option<Checksum> {
        self.checksum
    }

    #[inline]
    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), Problem> {
        self.source.fill(buffer)?;
        self.note(buffer);
        Ok(())
    }

    #[inline]
    fn note(&mut self, read: &[u8]) {
        self.offset += read.len() as u64;
        if let Some(checksum) = &mut self.checksum {
            checksum.update(read);
        }
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Problem> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    pub(super) fn byte(&mut self) -> Result<u8, Problem> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn bytes(&mut self, len: u64) -> Result<Vec<u8>, Problem> {
        let mut bytes = Vec::new();
        self.append_bytes(len, &mut bytes)?;
        Ok(bytes)
    }

    #[inline]
    fn append_bytes(&mut self, len: u64, to: &mut Vec<u8>) -> Result<(), Problem> {
        if len > self.left() {
            return Err(Problem::Truncated);
        }
        let from = to.len();
        self.source.append(usize::try_from(len).map_err(|_| Problem::Truncated)?, to)?;
        self.note(&to[from..]);
        Ok(())
    }

    fn length_or_encoding(&mut self) -> Result<Length, Problem> {
        let first = self.byte()?;
        Ok(match (first >> 6, first) {
            (0, _) => Length::Plain(u64::from(first)),
            (1, _) => Length::Plain(u64::from(first & 0x3f) << 8 | u64::from(self.byte()?)),
            (_, 0x80) => Length::Plain(u64::from(u32::from_be_bytes(self.array()?))),
            (_, 0x81) => Length::Plain(u64::from_be_bytes(self.array()?)),
            (_, 0xc0) => Length::Integer8,
            (_, 0xc1) => Length::Integer16,
            (_, 0xc2) => Length::Integer32,
            (_, 0xc3) => Length::Packed,
            _ => return Err(Problem::Malformed("a length")),
        })
    }

    pub(super) fn length(&mut self) -> Result<u64, Problem> {
        match self.length_or_encoding()? {
            Length::Plain(len) => Ok(len),
            _ => Err(Problem::Malformed("a length")),
        }
    }

    /// How many elements follow, each of at least `bytes_min` bytes: more than can be there is refused at once.
    pub(super) fn count(&mut self, bytes_min: u64) -> Result<u64, Problem> {
        let count = self.length()?;
        if count > self.left() / bytes_min { Err(Problem::Truncated) } else { Ok(count) }
    }

    pub(super) fn string(&mut self) -> Result<Vec<u8>, Problem> {
        let mut string = Vec::new();
        self.string_into(&mut string)?;
        Ok(string)
    }

    /// Reads a string in place of what is in there: memory for many, one after the other.
    pub(super) fn string_into(&mut self, string: &mut Vec<u8>) -> Result<(), Problem> {
        string.clear();
        let integer = match self.length_or_encoding()? {
            Length::Plain(len) => return self.append_bytes(len, string),
            Length::Integer8 => i64::from(i8::from_le_bytes(self.array()?)),
            Length::Integer16 => i64::from(i16::from_le_bytes(self.array()?)),
            Length::Integer32 => i64::from(i32::from_le_bytes(self.array()?)),
            Length::Packed => {
                let packed_len = self.length()?;
                let len = self.length()?;
                // Before it is unpacked, for afterwards the memory is gone.
                let Unpacking { argument_bytes_max, bytes_max } = &mut self.unpacking;
                *argument_bytes_max = argument_bytes_max.checked_sub(len).ok_or(Problem::TooLong)?;
                *bytes_max = bytes_max.checked_sub(len).ok_or(Problem::TooMuch)?;
                let packed = self.bytes(packed_len)?;
                *string = lzf::unpack(&packed, len).ok_or(Problem::Malformed("a packed string"))?;
                return Ok(());
            }
        };
        string.extend_from_slice(&number::format_i64(integer));
        Ok(())
    }

    pub(super) fn milliseconds(&mut self) -> Result<i64, Problem> {
        self.array().map(i64::from_le_bytes)
    }

    pub(super) fn double(&mut self) -> Result<f64, Problem> {
        self.array().map(f64::from_le_bytes)
    }
}
