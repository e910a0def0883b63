//! Reads replies, RESP2 and RESP3: the side of a client, a forwarding node or a test.
//!
//! [`ReplyScanner`] finds where a reply ends without building it, which is all a forwarding node needs.
//! [`ReplyDecoder`] waits for that end and then builds a [`Value`]. Both remember how far they came.
//! RESP3's streamed (`?`) lengths are refused: no Redis-compatible server sends them.

use super::error::ReplyError;
use super::number::{find_byte, parse_i64};

/// A reply, as it was spelled.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `+` A short text, such as `OK`.
    Simple(Vec<u8>),
    /// `-` and `!` An error, its code first.
    Error(Vec<u8>),
    /// `:` A whole number.
    Integer(i64),
    /// `$` Bytes.
    Bulk(Vec<u8>),
    /// `_`, and RESP2's `$-1` and `*-1`. Nothing.
    Nil,
    /// `*` Values in order.
    Array(Vec<Value>),
    /// `%` Pairs in order.
    Map(Vec<(Value, Value)>),
    /// `~` Values without order or repetition.
    Set(Vec<Value>),
    /// `>` Something nobody asked for just now, such as a published message.
    Push(Vec<Value>),
    /// `,` A floating point number.
    Double(f64),
    /// `#` True or false.
    Boolean(bool),
    /// `(` An integer of any size, in decimal.
    BigNumber(Vec<u8>),
    /// `=` A text for people.
    Verbatim {
        /// `txt` or `mkd`.
        format: [u8; 3],
        /// The text itself.
        text: Vec<u8>,
    },
}

/// How large a reply may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplyLimits {
    /// Arrays within arrays. Recursion is as deep as this.
    pub depth_max: usize,
    /// Bytes of one text.
    pub bulk_bytes_max: usize,
    /// Values of one array.
    pub elements_max: usize,
    /// Bytes of one line.
    pub line_bytes_max: usize,
}

impl Default for ReplyLimits {
    fn default() -> Self {
        Self { depth_max: 64, bulk_bytes_max: 512 * 1024 * 1024, elements_max: 1 << 30, line_bytes_max: 64 * 1024 }
    }
}

/// Reads the reply at the start of `buf`: the value and the bytes it took, or `None` if more is needed.
pub fn parse_reply(buf: &[u8], limits: &ReplyLimits) -> Result<Option<(Value, usize)>, ReplyError> {
    ReplyDecoder::new(limits.clone()).next(buf)
}

/// Finds the end of the reply at the start of `buf`, or `None` if more is needed.
pub fn skip_reply(buf: &[u8]) -> Result<Option<usize>, ReplyError> {
    ReplyScanner::new(ReplyLimits::default()).next(buf)
}

/// Reads replies one after the other from a growing buffer.
#[derive(Debug)]
pub struct ReplyDecoder {
    scanner: ReplyScanner,
}

impl ReplyDecoder {
    /// A decoder at the start of a reply.
    pub fn new(limits: ReplyLimits) -> Self {
        Self { scanner: ReplyScanner::new(limits) }
    }

    /// Reads the reply at the start of `buf`. After `None`, call again with the same bytes and more.
    pub fn next(&mut self, buf: &[u8]) -> Result<Option<(Value, usize)>, ReplyError> {
        let Some(end) = self.scanner.next(buf)? else { return Ok(None) };
        let mut reader = Reader { buf: &buf[..end], at: 0, limits: &self.scanner.limits };
        let value = reader.value(self.scanner.limits.depth_max)?;
        Ok(Some((value, end)))
    }
}

/// Finds the ends of replies in a growing buffer, without building them.
#[derive(Debug)]
pub struct ReplyScanner {
    limits: ReplyLimits,
    /// The first byte not yet understood, from the start of the reply.
    position: usize,
    /// Values still to come before the reply is complete.
    missing_values: u64,
}

impl ReplyScanner {
    /// A scanner at the start of a reply.
    pub fn new(limits: ReplyLimits) -> Self {
        Self { limits, position: 0, missing_values: 1 }
    }

    /// Answers how many bytes the reply at the start of `buf` takes. After `None`, call again with the
    /// same bytes and more. Nesting costs nothing here, so it is not limited.
    pub fn next(&mut self, buf: &[u8]) -> Result<Option<usize>, ReplyError> {
        while self.missing_values > 0 {
            let rest = buf.get(self.position..).unwrap_or_default();
            let Some(head) = read_head(rest, &self.limits)? else { return Ok(None) };
            let step = match head.body {
                Body::Text(bytes) => head.line_bytes + bytes + 2,
                Body::Scalar | Body::Nil | Body::Elements(_) => head.line_bytes,
            };
            if rest.len() < step {
                return Ok(None);
            }
            self.position += step;
            self.missing_values = match head.body {
                Body::Elements(count) => self.missing_values.saturating_add(count as u64),
                _ => self.missing_values,
            };
            // An attribute stands before the value it describes and is none itself.
            if head.kind != b'|' {
                self.missing_values -= 1;
            }
        }
        self.missing_values = 1;
        Ok(Some(std::mem::take(&mut self.position)))
    }
}

/// The first line of a value.
struct Head<'a> {
    kind: u8,
    /// What stands between the type byte and the line end.
    line: &'a [u8],
    /// All of the line, type byte and line end included.
    line_bytes: usize,
    body: Body,
}

/// What follows the first line.
#[derive(Clone, Copy)]
enum Body {
    /// Nothing: the line is the value.
    Scalar,
    /// Nothing: a length of -1.
    Nil,
    /// So many bytes and a line end.
    Text(usize),
    /// So many values.
    Elements(usize),
}

fn read_head<'a>(buf: &'a [u8], limits: &ReplyLimits) -> Result<Option<Head<'a>>, ReplyError> {
    let Some((&kind, rest)) = buf.split_first() else { return Ok(None) };
    if !b"+-:$*%~>,#_(=!|".contains(&kind) {
        return Err(ReplyError::UnknownType { got: kind });
    }
    // Searched within the limit only: a line that is too long fails early and is never searched far.
    let window = &rest[..rest.len().min(limits.line_bytes_max + 1)];
    let Some(line_bytes) = find_byte(window, b'\r') else {
        let endless = window.len() > limits.line_bytes_max;
        return if endless { Err(ReplyError::LineTooLong) } else { Ok(None) };
    };
    match rest.get(line_bytes + 1) {
        None => return Ok(None),
        Some(b'\n') => {}
        Some(_) => return Err(ReplyError::InvalidScalar),
    }
    let line = &rest[..line_bytes];
    let body = match kind {
        b'$' | b'=' | b'!' => text_length(kind, line, limits)?,
        b'*' | b'%' | b'~' | b'>' | b'|' => element_count(kind, line, limits)?,
        _ => Body::Scalar,
    };
    Ok(Some(Head { kind, line, line_bytes: 1 + line_bytes + 2, body }))
}

fn text_length(kind: u8, line: &[u8], limits: &ReplyLimits) -> Result<Body, ReplyError> {
    let length = parse_i64(line).ok_or(ReplyError::InvalidLength)?;
    if length == -1 && kind == b'$' {
        return Ok(Body::Nil);
    }
    match usize::try_from(length) {
        // A verbatim text starts with three letters and a colon.
        Ok(bytes) if bytes <= limits.bulk_bytes_max && (kind != b'=' || bytes >= 4) => Ok(Body::Text(bytes)),
        _ => Err(ReplyError::InvalidLength),
    }
}

fn element_count(kind: u8, line: &[u8], limits: &ReplyLimits) -> Result<Body, ReplyError> {
    let count = parse_i64(line).ok_or(ReplyError::InvalidLength)?;
    if count == -1 && kind == b'*' {
        return Ok(Body::Nil);
    }
    let values_each = if matches!(kind, b'%' | b'|') { 2 } else { 1 };
    match usize::try_from(count) {
        Ok(count) if count <= limits.elements_max / values_each => Ok(Body::Elements(count * values_each)),
        _ => Err(ReplyError::InvalidLength),
    }
}

/// Builds values from bytes that a scanner has found complete.
struct Reader<'a> {
    buf: &'a [u8],
    at: usize,
    limits: &'a ReplyLimits,
}

impl Reader<'_> {
    fn value(&mut self, depth_left: usize) -> Result<Value, ReplyError> {
        let depth_left = depth_left.checked_sub(1).ok_or(ReplyError::TooDeep)?;
        loop {
            let head =
                read_head(&self.buf[self.at..], self.limits)?.expect("the scanner has seen every line of this reply");
            let body_start = self.at + head.line_bytes;
            self.at = body_start;
            match head.body {
                Body::Nil => return Ok(Value::Nil),
                Body::Scalar => return scalar(head.kind, head.line),
                Body::Text(bytes) => {
                    self.at += bytes + 2;
                    return Ok(text(head.kind, &self.buf[body_start..body_start + bytes]));
                }
                // Read and forgotten: the value it describes comes next.
                Body::Elements(count) if head.kind == b'|' => {
                    self.values(count, depth_left)?;
                }
                Body::Elements(count) => return self.aggregate(head.kind, count, depth_left),
            }
        }
    }

    fn aggregate(&mut self, kind: u8, count: usize, depth_left: usize) -> Result<Value, ReplyError> {
        if kind == b'%' {
            let mut pairs = Vec::with_capacity(count / 2);
            for _ in 0..count / 2 {
                pairs.push((self.value(depth_left)?, self.value(depth_left)?));
            }
            return Ok(Value::Map(pairs));
        }
        let values = self.values(count, depth_left)?;
        Ok(match kind {
            b'~' => Value::Set(values),
            b'>' => Value::Push(values),
            _ => Value::Array(values),
        })
    }

    /// Every value has been seen by the scanner, so `count` is no mere claim and may be reserved.
    fn values(&mut self, count: usize, depth_left: usize) -> Result<Vec<Value>, ReplyError> {
        let mut values = Vec::with_capacity(count);
        for _ in 0..count {
            values.push(self.value(depth_left)?);
        }
        Ok(values)
    }
}

fn text(kind: u8, bytes: &[u8]) -> Value {
    match (kind, bytes) {
        (b'!', _) => Value::Error(bytes.to_vec()),
        (b'=', [a, b, c, _, text @ ..]) => Value::Verbatim { format: [*a, *b, *c], text: text.to_vec() },
        _ => Value::Bulk(bytes.to_vec()),
    }
}

fn scalar(kind: u8, line: &[u8]) -> Result<Value, ReplyError> {
    let value = match kind {
        b'+' => Some(Value::Simple(line.to_vec())),
        b'-' => Some(Value::Error(line.to_vec())),
        b':' => parse_i64(line.strip_prefix(b"+").unwrap_or(line)).map(Value::Integer),
        b'_' => line.is_empty().then_some(Value::Nil),
        b'#' => match line {
            b"t" => Some(Value::Boolean(true)),
            b"f" => Some(Value::Boolean(false)),
            _ => None,
        },
        b',' => str::from_utf8(line).ok().and_then(|text| text.parse().ok()).map(Value::Double),
        _ => big_number(line),
    };
    value.ok_or(ReplyError::InvalidScalar)
}

fn big_number(line: &[u8]) -> Option<Value> {
    let digits = line.strip_prefix(b"-").or(line.strip_prefix(b"+")).unwrap_or(line);
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    is_number.then(|| Value::BigNumber(line.to_vec()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> Value {
        let (value, consumed) = parse_reply(text.as_bytes(), &ReplyLimits::default())
            .unwrap_or_else(|error| panic!("{text:?}: {error}"))
            .unwrap_or_else(|| panic!("{text:?} is complete"));
        assert_eq!(consumed, text.len(), "{text:?}");
        assert_eq!(skip_reply(text.as_bytes()), Ok(Some(text.len())));
        for end in 0..text.len() {
            assert_eq!(skip_reply(&text.as_bytes()[..end]), Ok(None), "{text:?} cut at {end}");
        }
        value
    }

    #[test]
    fn every_type_is_read() {
        let bulk = |text: &str| Value::Bulk(text.as_bytes().to_vec());
        for (text, value) in [
            ("+OK\r\n", Value::Simple(b"OK".to_vec())),
            ("-ERR no\r\n", Value::Error(b"ERR no".to_vec())),
            ("!6\r\nERR no\r\n", Value::Error(b"ERR no".to_vec())),
            (":-12\r\n", Value::Integer(-12)),
            ("$3\r\na\r\n\r\n", bulk("a\r\n")),
            ("$0\r\n\r\n", bulk("")),
            ("$-1\r\n", Value::Nil),
            ("*-1\r\n", Value::Nil),
            ("_\r\n", Value::Nil),
            ("*0\r\n", Value::Array(vec![])),
            (
                "*2\r\n:1\r\n*1\r\n+x\r\n",
                Value::Array(vec![Value::Integer(1), Value::Array(vec![Value::Simple(b"x".to_vec())])]),
            ),
            ("%1\r\n+a\r\n#t\r\n", Value::Map(vec![(Value::Simple(b"a".to_vec()), Value::Boolean(true))])),
            ("~1\r\n#f\r\n", Value::Set(vec![Value::Boolean(false)])),
            (">1\r\n$1\r\nm\r\n", Value::Push(vec![bulk("m")])),
            (",1.5\r\n", Value::Double(1.5)),
            (",-inf\r\n", Value::Double(f64::NEG_INFINITY)),
            ("(-123456789012345678901\r\n", Value::BigNumber(b"-123456789012345678901".to_vec())),
            ("=5\r\ntxt:a\r\n", Value::Verbatim { format: *b"txt", text: b"a".to_vec() }),
            ("|1\r\n+ttl\r\n:3\r\n:7\r\n", Value::Integer(7)),
        ] {
            assert_eq!(parsed(text), value, "{text:?}");
        }
    }

    #[test]
    fn malformed_replies_are_refused() {
        for (text, error) in [
            ("hello\r\n", ReplyError::UnknownType { got: b'h' }),
            (":x\r\n", ReplyError::InvalidScalar),
            ("#y\r\n", ReplyError::InvalidScalar),
            ("_x\r\n", ReplyError::InvalidScalar),
            ("(1a\r\n", ReplyError::InvalidScalar),
            ("+a\rb\r\n", ReplyError::InvalidScalar),
            ("$-2\r\n", ReplyError::InvalidLength),
            ("$?\r\n", ReplyError::InvalidLength),
            ("%-1\r\n", ReplyError::InvalidLength),
            ("=3\r\ntxt\r\n", ReplyError::InvalidLength),
            ("$536870913\r\n", ReplyError::InvalidLength),
        ] {
            let got = parse_reply(text.as_bytes(), &ReplyLimits::default());
            assert_eq!(got, Err(error), "{text:?}");
        }
        let endless = [b"+".to_vec(), vec![b'a'; 70_000]].concat();
        assert_eq!(skip_reply(&endless), Err(ReplyError::LineTooLong));
    }

    #[test]
    fn nesting_is_bounded_when_built() {
        let deep = "*1\r\n".repeat(100_000) + ":1\r\n";
        assert_eq!(skip_reply(deep.as_bytes()), Ok(Some(deep.len())));
        let built = parse_reply(deep.as_bytes(), &ReplyLimits::default());
        assert_eq!(built, Err(ReplyError::TooDeep));
    }

    #[test]
    fn claims_reserve_nothing() {
        assert_eq!(parse_reply(b"*1000000000\r\n:1\r\n", &ReplyLimits::default()), Ok(None));
        assert_eq!(skip_reply(b"*1000000000\r\n*1000000000\r\n"), Ok(None));
    }

    fn spell(value: &Value, out: &mut Vec<u8>) {
        let line = |out: &mut Vec<u8>, kind: char, rest: &str| {
            out.extend_from_slice(format!("{kind}{rest}\r\n").as_bytes());
        };
        match value {
            Value::Integer(number) => line(out, ':', &number.to_string()),
            Value::Boolean(yes) => line(out, '#', if *yes { "t" } else { "f" }),
            Value::Bulk(bytes) => {
                line(out, '$', &bytes.len().to_string());
                out.extend_from_slice(bytes);
                out.extend_from_slice(b"\r\n");
            }
            Value::Map(pairs) => {
                line(out, '%', &pairs.len().to_string());
                for (key, value) in pairs {
                    spell(key, out);
                    spell(value, out);
                }
            }
            Value::Array(values) => {
                line(out, '*', &values.len().to_string());
                values.iter().for_each(|value| spell(value, out));
            }
            _ => line(out, '_', ""),
        }
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<i64>().prop_map(Value::Integer),
            any::<bool>().prop_map(Value::Boolean),
            Just(Value::Nil),
            proptest::collection::vec(any::<u8>(), 0..20).prop_map(Value::Bulk),
        ];
        leaf.prop_recursive(4, 24, 5, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::Array),
                proptest::collection::vec((inner.clone(), inner), 0..3).prop_map(Value::Map),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_spelled_is_read_in_pieces(expected in proptest::collection::vec(values(), 1..4),
                                             piece in 1usize..9) {
            let mut input = Vec::new();
            expected.iter().for_each(|value| spell(value, &mut input));
            let mut decoder = ReplyDecoder::new(ReplyLimits::default());
            let (mut got, mut start, mut end) = (Vec::new(), 0, 0);
            while end < input.len() {
                end = (end + piece).min(input.len());
                while let Some((value, consumed)) = decoder.next(&input[start..end]).unwrap() {
                    got.push(value);
                    start += consumed;
                }
            }
            prop_assert_eq!(got, expected);
            prop_assert_eq!(start, input.len());
        }

        #[test]
        fn random_replies_never_panic(input in "([*$:+%~>,#_(=!|-]|[0-9]{1,2}|\r\n|.){0,60}") {
            let built = parse_reply(input.as_bytes(), &ReplyLimits::default());
            let skipped = skip_reply(input.as_bytes());
            if let Ok(Some((_, consumed))) = built {
                prop_assert_eq!(skipped, Ok(Some(consumed)));
            }
        }
    }
}
