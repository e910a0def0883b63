//! The ids of entries. Knows how they are spelled and ordered, and no entry.

use std::fmt;

/// Where an entry stands: a time in milliseconds, and a number among those of the same millisecond.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct StreamId {
    /// Milliseconds since 1970, or whatever the client counts.
    pub ms: u64,
    /// Which one within the millisecond.
    pub seq: u64,
}

impl StreamId {
    /// Before every entry; no entry has it.
    pub const MIN: StreamId = StreamId { ms: 0, seq: 0 };
    /// The last one there can be.
    pub const MAX: StreamId = StreamId { ms: u64::MAX, seq: u64::MAX };

    /// From its two halves.
    pub const fn new(ms: u64, seq: u64) -> StreamId {
        StreamId { ms, seq }
    }

    /// The next higher id.
    #[inline]
    pub fn next(self) -> Option<StreamId> {
        match self.seq.checked_add(1) {
            Some(seq) => Some(StreamId { ms: self.ms, seq }),
            None => Some(StreamId { ms: self.ms.checked_add(1)?, seq: 0 }),
        }
    }

    /// The next lower id.
    pub fn previous(self) -> Option<StreamId> {
        match self.seq.checked_sub(1) {
            Some(seq) => Some(StreamId { ms: self.ms, seq }),
            None => Some(StreamId { ms: self.ms.checked_sub(1)?, seq: u64::MAX }),
        }
    }

    /// Reads `ms-seq`, or `ms` alone with `seq_missing` for the rest.
    pub fn parse(text: &[u8], seq_missing: u64) -> Option<StreamId> {
        match memchr::memchr(b'-', text) {
            Some(dash) => Some(StreamId { ms: number(&text[..dash])?, seq: number(&text[dash + 1..])? }),
            None => Some(StreamId { ms: number(text)?, seq: seq_missing }),
        }
    }

    /// Its spelling.
    #[inline]
    pub fn text(self) -> IdText {
        let mut text = IdText { bytes: [0; 41], len: 0 };
        let mut digits = itoa::Buffer::new();
        text.push(digits.format(self.ms).as_bytes());
        text.push(b"-");
        text.push(digits.format(self.seq).as_bytes());
        text
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.seq)
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 64 {
        return None;
    }
    digits.iter().try_fold(0u64, |number, digit| {
        if !digit.is_ascii_digit() {
            return None;
        }
        number.checked_mul(10)?.checked_add(u64::from(digit - b'0'))
    })
}

/// An id as text, on the stack.
#[derive(Clone, Copy)]
pub struct IdText {
    bytes: [u8; 41],
    len: u8,
}

impl IdText {
    #[inline]
    fn push(&mut self, part: &[u8]) {
        let at = usize::from(self.len);
        self.bytes[at..at + part.len()].copy_from_slice(part);
        self.len += part.len() as u8;
    }
}

impl std::ops::Deref for IdText {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_spelled_and_read() {
        for id in [StreamId::MIN, StreamId::MAX, StreamId::new(7, 0), StreamId::new(1_700_000_000_000, 12)] {
            assert_eq!(StreamId::parse(&id.text(), 9), Some(id));
            assert_eq!(id.text().to_vec(), id.to_string().into_bytes());
        }
        assert_eq!(StreamId::parse(b"5", 9), Some(StreamId::new(5, 9)));
        for wrong in ["", "-", "-1", "1-", "1-2-3", "a", "1-a", "18446744073709551616", "+", " 1", "1 "] {
            assert_eq!(StreamId::parse(wrong.as_bytes(), 0), None, "{wrong}");
        }
    }

    #[test]
    fn neighbours() {
        assert_eq!(StreamId::new(1, u64::MAX).next(), Some(StreamId::new(2, 0)));
        assert_eq!(StreamId::MAX.next(), None);
        assert_eq!(StreamId::new(2, 0).previous(), Some(StreamId::new(1, u64::MAX)));
        assert_eq!(StreamId::MIN.previous(), None);
    }
}
