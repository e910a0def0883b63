//! Reads client requests from a byte slice: arrays of bulk strings, and inline lines.
//!
//! The decoder answers *where* the arguments are and copies nothing. It remembers how far it came in
//! an unfinished request, so that a large one arriving in small pieces costs time in proportion to
//! its bytes, and it never reserves memory for a length that is only claimed.
//!
//! ```text
//! caller:   [ read into buffer ] -> next() until None -> drop what was consumed -> read again
//! decoder:  small request, whole in the buffer  -> small_request(), one pass, no state
//!           anything else                       -> resume(), the state machine
//! ```
//! It knows nothing about what the arguments mean; who may send long ones is told to it.

use super::error::ProtocolError;
use super::inline::split_in_place;
use super::number::{find_byte, parse_i64};

/// Where one argument lies, counted from the first byte of the slice given to [`Decoder::next`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArgRange {
    /// The first byte.
    pub offset: u32,
    /// The number of bytes.
    pub len: u32,
}

impl ArgRange {
    /// A range within a request. Requests are shorter than 4 GiB, see [`Limits::request_bytes_max`].
    #[inline]
    pub fn new(offset: usize, len: usize) -> Self {
        Self { offset: offset as u32, len: len as u32 }
    }

    /// The argument itself. `request` is the slice that was decoded.
    #[inline]
    pub fn of<'a>(&self, request: &'a [u8]) -> &'a [u8] {
        let start = self.offset as usize;
        &request[start..start + self.len as usize]
    }
}

/// How large a request may be. The defaults are Redis'.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Arguments of one request.
    pub arguments_max: usize,
    /// Bytes of one argument: `proto-max-bulk-len`.
    pub bulk_bytes_max: usize,
    /// Bytes of an inline request, and of a line that announces a length.
    pub inline_bytes_max: usize,
    /// Bytes of a whole request: `client-query-buffer-limit`. Never above `u32::MAX`.
    pub request_bytes_max: usize,
    /// Arguments before login: enough for `HELLO 3 AUTH user password SETNAME name`, no more.
    pub unauthenticated_arguments_max: usize,
    /// Bytes of one argument before login: strangers must not fill our memory.
    pub unauthenticated_bulk_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            arguments_max: 1024 * 1024,
            bulk_bytes_max: 512 * 1024 * 1024,
            inline_bytes_max: 64 * 1024,
            request_bytes_max: 1024 * 1024 * 1024,
            unauthenticated_arguments_max: 10,
            unauthenticated_bulk_bytes_max: 16 * 1024,
        }
    }
}

/// Capacity for argument ranges that is kept between requests; one with more gives it back.
const KEPT_ARGUMENTS_MAX: usize = 1024;

/// The decoder of one connection.
#[derive(Debug)]
pub struct Decoder {
    limits: Limits,
    authenticated: bool,
    progress: Progress,
}

/// How far an unfinished request has been read. All zero between requests.
#[derive(Debug, Default)]
struct Progress {
    /// The first byte not yet understood, from the start of the request.
    position: usize,
    /// Bytes from `position` on in which no line end was found.
    searched_bytes: usize,
    /// Arguments still to come; `None` until the `*` line was read.
    missing_arguments: Option<usize>,
    /// The length of the argument that starts at `position`, once its `$` line was read.
    bulk_bytes: Option<usize>,
    /// The arguments read so far.
    arguments: Vec<ArgRange>,
}

impl Decoder {
    /// A decoder at the start of a connection, which has not logged in.
    pub fn new(limits: Limits) -> Self {
        let mut decoder = Self { limits, authenticated: false, progress: Progress::default() };
        decoder.clamp_limits();
        decoder
    }

    /// Tells whether the connection has logged in. Counts from the next header line on, therefore a
    /// caller must execute what it decoded before it decodes more while nobody has logged in.
    pub fn set_authenticated(&mut self, authenticated: bool) {
        self.authenticated = authenticated;
    }

    /// Replaces the limits, for `CONFIG SET`.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
        self.clamp_limits();
    }

    /// How long `buf` will be when the argument that is arriving is complete; `None` while no length is
    /// known. Useful to read a large argument in few steps, but only a claim of the client: grow the
    /// buffer with what arrives, not with this.
    pub fn bytes_expected(&self) -> Option<usize> {
        Some(self.progress.position + self.progress.bulk_bytes? + 2)
    }

    /// Whether a request has begun and not ended.
    pub fn is_inside_request(&self) -> bool {
        self.progress.position > 0 || self.progress.searched_bytes > 0
    }

    /// Reads the request at the start of `buf`.
    ///
    /// - `Ok(Some(consumed))`: its arguments were appended to `args`, its bytes are
    ///   `buf[..consumed]`. A blank line or an empty array appends nothing and wants no answer.
    /// - `Ok(None)`: it has not arrived completely. Call again with the same bytes and more after them;
    ///   they may have moved in memory.
    /// - `Err`: answer with the text and close. The decoder must not be used again.
    ///
    /// `args` is only ever appended to, and only on `Ok(Some(_))`. `buf` is only changed where an
    /// inline request uses escapes, within that request.
    #[inline]
    pub fn next(&mut self, buf: &mut [u8], args: &mut Vec<ArgRange>) -> Result<Option<usize>, ProtocolError> {
        if self.progress.position == 0
            && let Some(consumed) = self.small_request(buf, args)
        {
            // An earlier call may have looked in vain for the end of this request's first line.
            self.progress.searched_bytes = 0;
            return Ok(Some(consumed));
        }
        self.resume(buf, args)
    }

    /// The common request: at most 99 arguments of at most 999 bytes, all of it in the buffer.
    /// Whatever it does not recognize it leaves to [`Self::resume`], which also finds the error.
    #[inline]
    fn small_request(&self, buf: &[u8], args: &mut Vec<ArgRange>) -> Option<usize> {
        let (arguments_max, bulk_bytes_max) = self.caps();
        let (count, mut at) = match *buf {
            [b'*', count @ b'1'..=b'9', b'\r', b'\n', ..] => (count - b'0', 4),
            [b'*', tens @ b'1'..=b'9', ones @ b'0'..=b'9', b'\r', b'\n', ..] => ((tens - b'0') * 10 + ones - b'0', 5),
            _ => return None,
        };
        let count = usize::from(count);
        if count > arguments_max {
            return None;
        }
        let first = args.len();
        for _ in 0..count {
            let Some((start, len)) = small_bulk(buf, at).filter(|&(_, len)| len <= bulk_bytes_max) else {
                args.truncate(first);
                return None;
            };
            args.push(ArgRange::new(start, len));
            at = start + len + 2;
        }
        Some(at)
    }

    /// Any request, from where the last call had to stop.
    fn resume(&mut self, buf: &mut [u8], args: &mut Vec<ArgRange>) -> Result<Option<usize>, ProtocolError> {
        match (self.progress.missing_arguments, buf.first()) {
            (_, None) => return Ok(None),
            (Some(_), _) => {}
            (None, Some(b'*')) => match self.read_count(buf)? {
                None => return Ok(None),
                Some(0) => return Ok(Some(self.finish(args))),
                Some(count) => self.progress.missing_arguments = Some(count),
            },
            (None, Some(_)) => return self.inline_request(buf, args),
        }
        while self.progress.missing_arguments > Some(0) {
            if !self.read_argument(buf)? {
                return Ok(None);
            }
        }
        Ok(Some(self.finish(args)))
    }

    /// Reads the `*` line. A negative count is an empty request, as in Redis.
    fn read_count(&mut self, buf: &[u8]) -> Result<Option<usize>, ProtocolError> {
        let Some(line) = self.line(buf, b'\r', ProtocolError::MultibulkCountTooBig)? else {
            return Ok(None);
        };
        let count = parse_i64(&line[1..]).ok_or(ProtocolError::InvalidMultibulkLength)?;
        let count = usize::try_from(count).unwrap_or(0);
        if count > self.limits.arguments_max {
            return Err(ProtocolError::InvalidMultibulkLength);
        }
        if count > self.caps().0 {
            return Err(ProtocolError::UnauthenticatedMultibulkLength);
        }
        self.step_over(line.len() + 2);
        Ok(Some(count))
    }

    /// Reads the argument at `position`; false if it has not arrived completely.
    fn read_argument(&mut self, buf: &[u8]) -> Result<bool, ProtocolError> {
        let bulk_bytes = match self.progress.bulk_bytes {
            Some(bulk_bytes) => bulk_bytes,
            None => match self.read_bulk_length(buf)? {
                Some(bulk_bytes) => bulk_bytes,
                None => return Ok(false),
            },
        };
        self.progress.bulk_bytes = Some(bulk_bytes);
        let position = self.progress.position;
        // The two bytes behind an argument are stepped over unread: Redis does so too.
        if buf.len() < position + bulk_bytes + 2 {
            return Ok(false);
        }
        self.progress.arguments.push(ArgRange::new(position, bulk_bytes));
        self.progress.bulk_bytes = None;
        self.progress.missing_arguments = self.progress.missing_arguments.map(|count| count - 1);
        self.step_over(bulk_bytes + 2);
        Ok(true)
    }

    /// Reads the `$` line at `position`.
    fn read_bulk_length(&mut self, buf: &[u8]) -> Result<Option<usize>, ProtocolError> {
        let Some(line) = self.line(buf, b'\r', ProtocolError::BulkCountTooBig)? else {
            return Ok(None);
        };
        match line.first() {
            Some(b'$') => {}
            // An empty line: what stands in place of the dollar is the line end.
            got => return Err(ProtocolError::ExpectedBulk { got: *got.unwrap_or(&b'\r') }),
        }
        let bulk_bytes = parse_i64(&line[1..])
            .and_then(|length| usize::try_from(length).ok())
            .filter(|&length| length <= self.limits.bulk_bytes_max)
            .ok_or(ProtocolError::InvalidBulkLength)?;
        if bulk_bytes > self.caps().1 {
            return Err(ProtocolError::UnauthenticatedBulkLength);
        }
        let end = self.progress.position + line.len() + 2 + bulk_bytes + 2;
        if end > self.limits.request_bytes_max {
            return Err(ProtocolError::RequestTooBig);
        }
        self.step_over(line.len() + 2);
        Ok(Some(bulk_bytes))
    }

    fn inline_request(&mut self, buf: &mut [u8], args: &mut Vec<ArgRange>) -> Result<Option<usize>, ProtocolError> {
        let Some(line) = self.line(buf, b'\n', ProtocolError::InlineTooBig)? else {
            return Ok(None);
        };
        let line_bytes = line.len();
        let text_bytes = line.strip_suffix(b"\r").unwrap_or(line).len();
        split_in_place(&mut buf[..text_bytes], &mut self.progress.arguments)?;
        self.step_over(line_bytes + 1);
        Ok(Some(self.finish(args)))
    }

    /// The line at `position` without its `end`, once it and the byte after a `\r` are there.
    fn line<'a>(&mut self, buf: &'a [u8], end: u8, too_big: ProtocolError) -> Result<Option<&'a [u8]>, ProtocolError> {
        let rest = buf.get(self.progress.position..).unwrap_or_default();
        let unsearched = rest.get(self.progress.searched_bytes..).unwrap_or_default();
        let found = find_byte(unsearched, end).map(|at| self.progress.searched_bytes + at);
        let line_bytes = found.unwrap_or(rest.len());
        if line_bytes > self.limits.inline_bytes_max {
            return Err(too_big);
        }
        // A line ending in \r needs its \n, too: whatever byte that is, as in Redis.
        let terminator_bytes = if end == b'\r' { 2 } else { 1 };
        if found.is_none() || rest.len() < line_bytes + terminator_bytes {
            self.progress.searched_bytes = line_bytes;
            return Ok(None);
        }
        Ok(Some(&rest[..line_bytes]))
    }

    fn step_over(&mut self, bytes: usize) {
        self.progress.position += bytes;
        self.progress.searched_bytes = 0;
    }

    /// Hands out the arguments and stands at the start of the next request.
    fn finish(&mut self, args: &mut Vec<ArgRange>) -> usize {
        let consumed = self.progress.position;
        let mut arguments = std::mem::take(&mut self.progress.arguments);
        args.append(&mut arguments);
        self.progress = Progress::default();
        if arguments.capacity() <= KEPT_ARGUMENTS_MAX {
            self.progress.arguments = arguments;
        }
        consumed
    }

    /// The most arguments, and the longest, that this connection may send now.
    #[inline]
    fn caps(&self) -> (usize, usize) {
        if self.authenticated {
            (self.limits.arguments_max, self.limits.bulk_bytes_max)
        } else {
            (self.limits.unauthenticated_arguments_max, self.limits.unauthenticated_bulk_bytes_max)
        }
    }

    fn clamp_limits(&mut self) {
        let limits = &mut self.limits;
        // Ranges count in 32 bits.
        limits.request_bytes_max = limits.request_bytes_max.min(u32::MAX as usize);
        limits.bulk_bytes_max = limits.bulk_bytes_max.min(limits.request_bytes_max);
        limits.inline_bytes_max = limits.inline_bytes_max.min(limits.request_bytes_max);
        limits.unauthenticated_arguments_max = limits.unauthenticated_arguments_max.min(limits.arguments_max);
        limits.unauthenticated_bulk_bytes_max = limits.unauthenticated_bulk_bytes_max.min(limits.bulk_bytes_max);
    }
}

/// Start and length of the argument whose `$` line is at `at`, if it is short and complete.
#[inline]
fn small_bulk(buf: &[u8], at: usize) -> Option<(usize, usize)> {
    let digit = |byte: u8| usize::from(byte - b'0');
    let (start, len) = match *buf.get(at..)? {
        [b'$', a @ b'0'..=b'9', b'\r', b'\n', ..] => (at + 4, digit(a)),
        [b'$', a @ b'1'..=b'9', b @ b'0'..=b'9', b'\r', b'\n', ..] => (at + 5, digit(a) * 10 + digit(b)),
        [b'$', a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', b'\r', b'\n', ..] => {
            (at + 6, digit(a) * 100 + digit(b) * 10 + digit(c))
        }
        _ => return None,
    };
    (start + len + 2 <= buf.len()).then_some((start, len))
}

#[cfg(test)]
mod tests;
