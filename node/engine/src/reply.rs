//! Answers, spelled as they are made: one growing buffer of RESP2 or RESP3.
//!
//! A handler never builds a tree of values; it appends to the connection's output, so a GET costs one copy. The
//! types differ between the two protocols exactly as RESP3 (<https://redis.io/docs/latest/develop/reference/protocol-spec/>)
//! says: maps and sets become flat arrays, doubles become bulk strings, null becomes `$-1`.

use crate::error::CommandError;
use crate::types::number;

/// Which protocol a connection speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Protocol {
    /// RESP2, the default.
    #[default]
    Resp2,
    /// RESP3, after `HELLO 3`.
    Resp3,
}

/// The output of one connection, or of one forwarded batch.
pub struct Reply {
    /// The bytes so far. Public: the connection drains it.
    pub bytes: Vec<u8>,
    /// The protocol the next answers are spelled in.
    pub protocol: Protocol,
    /// Nothing is appended once it holds more than this, in bytes; [`Reply::is_too_long`] tells. So a request of a few
    /// bytes cannot make the node hold an answer without end.
    pub bytes_max: usize,
    too_long: bool,
}

/// A place in the output to come back to.
#[derive(Clone, Copy)]
pub struct Mark(usize);

impl Reply {
    /// An empty output.
    pub fn new(protocol: Protocol) -> Reply {
        Reply { bytes: Vec::new(), protocol, bytes_max: usize::MAX, too_long: false }
    }

    /// The current end, for [`Reply::rewind`].
    #[inline]
    pub fn mark(&self) -> Mark {
        Mark(self.bytes.len())
    }

    /// Forgets everything after `mark`.
    pub fn rewind(&mut self, mark: Mark) {
        self.bytes.truncate(mark.0);
        self.too_long = false;
    }

    /// Whether something was left out because the output had grown past its bound: what it holds is no whole answer.
    #[inline]
    pub fn is_too_long(&self) -> bool {
        self.too_long
    }

    /// How much more fits, in bytes.
    #[inline]
    pub fn room(&self) -> usize {
        self.bytes_max.saturating_sub(self.bytes.len())
    }

    /// Notes that something was left out before it came here.
    pub fn note_too_long(&mut self) {
        self.too_long = true;
    }

    /// Whether `more` bytes still fit; notes it if they do not.
    #[inline]
    fn fits(&mut self, more: usize) -> bool {
        let fits = self.bytes.len().saturating_add(more) <= self.bytes_max;
        self.too_long |= !fits;
        fits
    }

    /// Calls `with` if what was appended since `mark` is an error, with what follows its `-`.
    #[inline]
    pub fn error_since(&self, mark: Mark, with: impl FnOnce(&[u8])) {
        if let Some((b'-', error)) = self.bytes.get(mark.0..).and_then(<[u8]>::split_first) {
            with(error);
        }
    }

    /// How many bytes were appended since `mark`.
    pub fn since(&self, mark: Mark) -> usize {
        self.bytes.len() - mark.0
    }

    #[inline]
    fn header(&mut self, kind: u8, number: i64) {
        if !self.fits(0) {
            return;
        }
        // Most lengths and many counts have one or two digits.
        match number {
            0..10 => self.bytes.extend_from_slice(&[kind, b'0' + number as u8, b'\r', b'\n']),
            10..100 => {
                let (tens, ones) = (b'0' + number as u8 / 10, b'0' + number as u8 % 10);
                self.bytes.extend_from_slice(&[kind, tens, ones, b'\r', b'\n']);
            }
            _ => {
                let mut digits = itoa::Buffer::new();
                self.bytes.push(kind);
                self.bytes.extend_from_slice(digits.format(number).as_bytes());
                self.bytes.extend_from_slice(b"\r\n");
            }
        }
    }

    /// `+OK`.
    #[inline]
    pub fn ok(&mut self) {
        self.bytes.extend_from_slice(b"+OK\r\n");
    }

    /// A simple string; must hold no line break.
    pub fn simple(&mut self, text: &str) {
        self.bytes.push(b'+');
        self.bytes.extend_from_slice(text.as_bytes());
        self.bytes.extend_from_slice(b"\r\n");
    }

    /// An error, its code word first. Line breaks become spaces: a key in a text cannot forge a second reply.
    pub fn error(&mut self, text: &str) {
        self.error_bytes(text.as_bytes());
    }

    fn error_bytes(&mut self, text: &[u8]) {
        self.bytes.push(b'-');
        self.bytes.extend(text.iter().copied().map(|byte| if byte == b'\r' || byte == b'\n' { b' ' } else { byte }));
        self.bytes.extend_from_slice(b"\r\n");
    }

    /// A handler's error.
    pub fn command_error(&mut self, error: &CommandError) {
        match error {
            CommandError::Quoting(text) => self.error_bytes(text),
            other => self.error(&other.to_string()),
        }
    }

    /// An integer.
    #[inline]
    pub fn integer(&mut self, value: i64) {
        self.header(b':', value);
    }

    /// A count.
    #[inline]
    pub fn count(&mut self, value: usize) {
        self.header(b':', value as i64);
    }

    /// A yes or no that Redis answers as 1 or 0 in both protocols.
    #[inline]
    pub fn flag(&mut self, value: bool) {
        self.bytes.extend_from_slice(if value { b":1\r\n" } else { b":0\r\n" });
    }

    /// A yes or no that RESP3 answers as a boolean.
    pub fn boolean(&mut self, value: bool) {
        match self.protocol {
            Protocol::Resp2 => self.flag(value),
            Protocol::Resp3 => self.bytes.extend_from_slice(if value { b"#t\r\n" } else { b"#f\r\n" }),
        }
    }

    /// A bulk string.
    #[inline]
    pub fn bulk(&mut self, value: &[u8]) {
        if !self.fits(value.len()) {
            return;
        }
        self.bytes.reserve(value.len() + 32);
        // Of most values the length has two digits.
        if let len @ 10..100 = value.len() {
            self.bytes.extend_from_slice(&[b'$', b'0' + (len / 10) as u8, b'0' + (len % 10) as u8, b'\r', b'\n']);
        } else {
            self.header(b'$', value.len() as i64);
        }
        self.bytes.extend_from_slice(value);
        self.bytes.extend_from_slice(b"\r\n");
    }

    /// A number as a bulk string.
    pub fn bulk_integer(&mut self, value: i64) {
        let mut digits = itoa::Buffer::new();
        let text = digits.format(value);
        self.bulk(text.as_bytes());
    }

    /// A verbatim string (RESP3 `=txt:`), a bulk string in RESP2: INFO, CLIENT LIST.
    pub fn verbatim(&mut self, text: &[u8]) {
        match self.protocol {
            Protocol::Resp2 => self.bulk(text),
            Protocol::Resp3 => {
                self.header(b'=', text.len() as i64 + 4);
                self.bytes.extend_from_slice(b"txt:");
                self.bytes.extend_from_slice(text);
                self.bytes.extend_from_slice(b"\r\n");
            }
        }
    }

    /// No value.
    #[inline]
    pub fn null(&mut self) {
        if !self.fits(0) {
            return;
        }
        match self.protocol {
            Protocol::Resp2 => self.bytes.extend_from_slice(b"$-1\r\n"),
            Protocol::Resp3 => self.bytes.extend_from_slice(b"_\r\n"),
        }
    }

    /// No array.
    pub fn null_array(&mut self) {
        match self.protocol {
            Protocol::Resp2 => self.bytes.extend_from_slice(b"*-1\r\n"),
            Protocol::Resp3 => self.bytes.extend_from_slice(b"_\r\n"),
        }
    }

    /// The head of an array of `len` answers that follow.
    #[inline]
    pub fn array(&mut self, len: usize) {
        self.header(b'*', len as i64);
    }

    /// The head of a map of `pairs` pairs that follow.
    pub fn map(&mut self, pairs: usize) {
        match self.protocol {
            Protocol::Resp2 => self.header(b'*', pairs as i64 * 2),
            Protocol::Resp3 => self.header(b'%', pairs as i64),
        }
    }

    /// The head of a set of `len` answers that follow.
    pub fn set(&mut self, len: usize) {
        match self.protocol {
            Protocol::Resp2 => self.header(b'*', len as i64),
            Protocol::Resp3 => self.header(b'~', len as i64),
        }
    }

    /// The head of an out-of-band message of `len` answers that follow.
    pub fn push(&mut self, len: usize) {
        match self.protocol {
            Protocol::Resp2 => self.header(b'*', len as i64),
            Protocol::Resp3 => self.header(b'>', len as i64),
        }
    }

    /// A double: `,1.5` in RESP3, a bulk string in RESP2.
    pub fn double(&mut self, value: f64) {
        let text = number::format_f64(value);
        match self.protocol {
            Protocol::Resp2 => self.bulk(text.as_bytes()),
            Protocol::Resp3 => {
                self.bytes.push(b',');
                self.bytes.extend_from_slice(text.as_bytes());
                self.bytes.extend_from_slice(b"\r\n");
            }
        }
    }

    /// An array of an unknown number of answers: returns where its head belongs; give it to [`Reply::finish_array`].
    pub fn deferred_array(&mut self) -> Mark {
        self.mark()
    }

    /// Puts the head of an array of `len` answers at `mark`, before everything appended since.
    pub fn finish_array(&mut self, mark: Mark, len: usize) {
        let mut digits = itoa::Buffer::new();
        let head = [b"*", digits.format(len).as_bytes(), b"\r\n"].concat();
        self.bytes.splice(mark.0..mark.0, head);
    }

    /// Puts the head of a map of `pairs` pairs at `mark`; in RESP2 that of an array of so many answers, each of which the
    /// caller has made a pair.
    pub fn finish_map(&mut self, mark: Mark, pairs: usize) {
        self.finish_array(mark, pairs);
        if self.protocol == Protocol::Resp3 {
            self.bytes[mark.0] = b'%';
        }
    }

    /// Appends answers spelled elsewhere (a forwarded batch).
    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_stops_growing_at_its_bound() {
        let mut reply = Reply::new(Protocol::Resp2);
        reply.bytes_max = 100;
        reply.ok();
        let mark = reply.mark();
        for _ in 0..1000 {
            reply.bulk(&[b'x'; 30]);
            reply.null();
            reply.integer(1);
        }
        assert!(reply.is_too_long() && reply.bytes.len() < 200);
        reply.rewind(mark);
        assert!(!reply.is_too_long());
        assert_eq!(reply.bytes, b"+OK\r\n");
    }
}
