//! Why a request cannot be carried out as written: every text, verbatim as Redis says it.
//!
//! Clients match on these texts, so one golden test pins them. Permission, login and routing refusals are made at
//! the gate and do not live here.

use crate::types::Ended;
use std::borrow::Cow;
use std::fmt;

/// A request that cannot be carried out. `Display` is the reply without the leading `-`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandError {
    /// The key holds another type.
    WrongType,
    /// The options make no sense together.
    Syntax,
    /// An argument is no 64-bit integer.
    NotInteger,
    /// An argument is no floating point number.
    NotFloat,
    /// The key must exist.
    NoSuchKey,
    /// An index lies outside the list.
    IndexOutOfRange,
    /// A result would not fit in 64 bits.
    Overflow,
    /// A number must be positive.
    NotPositive,
    /// A string would grow past `proto-max-bulk-len`.
    StringTooLong,
    /// Wrong number of arguments for this command (full name, lower case).
    Arity(String),
    /// An expire time that cannot be represented.
    InvalidExpire(&'static str),
    /// Any other text, its code word (`ERR`, `NOSCRIPT` …) included.
    Text(Cow<'static, str>),
    /// The same, with what the request said in it, which may be any bytes.
    Quoting(Vec<u8>),
}

impl CommandError {
    /// An `ERR` with this text.
    pub fn err(text: impl Into<Cow<'static, str>>) -> CommandError {
        CommandError::Text(Cow::Owned(format!("ERR {}", text.into())))
    }

    /// A text that repeats, each followed by more text, what the request said, as it said it.
    pub fn quoting(text: &[u8], quoted: &[(&[u8], &[u8])]) -> CommandError {
        let mut whole = text.to_vec();
        for (said, further) in quoted {
            whole.extend_from_slice(said);
            whole.extend_from_slice(further);
        }
        CommandError::Quoting(whole)
    }

    /// Two prefixes that one caching client cannot have at once.
    /// `which` says where the other comes from.
    pub fn overlapping_prefixes(prefix: &[u8], which: &str, other: &[u8]) -> CommandError {
        let between = format!("' overlaps with {which} prefix '");
        CommandError::quoting(
            b"ERR Prefix '",
            &[(prefix, between.as_bytes()), (other, b"'. Prefixes for a single client must not overlap.")],
        )
    }
}

impl From<Ended> for CommandError {
    fn from(ended: Ended) -> CommandError {
        CommandError::Text(ended.0)
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CommandError::WrongType => "WRONGTYPE Operation against a key holding the wrong kind of value",
            CommandError::Syntax => "ERR syntax error",
            CommandError::NotInteger => "ERR value is not an integer or out of range",
            CommandError::NotFloat => "ERR value is not a valid float",
            CommandError::NoSuchKey => "ERR no such key",
            CommandError::IndexOutOfRange => "ERR index out of range",
            CommandError::Overflow => "ERR increment or decrement would overflow",
            CommandError::NotPositive => "ERR value is out of range, must be positive",
            CommandError::StringTooLong => "ERR string exceeds maximum allowed size (proto-max-bulk-len)",
            CommandError::Arity(name) => return write!(f, "ERR wrong number of arguments for '{name}' command"),
            CommandError::InvalidExpire(name) => return write!(f, "ERR invalid expire time in '{name}' command"),
            CommandError::Text(text) => text,
            CommandError::Quoting(text) => return f.write_str(&String::from_utf8_lossy(text)),
        })
    }
}

impl std::error::Error for CommandError {}

#[cfg(test)]
mod tests {
    use crate::testing::Engine;

    #[test]
    fn a_key_of_any_bytes_is_quoted_as_it_is() {
        let mut engine = Engine::new(1);
        let key = b"k\xff";
        engine.run(&[b"XADD", key, b"1-1", b"a", b"b"]);
        for (request, said) in [
            (
                &[&b"XREADGROUP"[..], b"GROUP", b"g\xfe", b"c", b"STREAMS", key, b">"][..],
                &b"-NOGROUP No such key 'k\xff' or consumer group 'g\xfe' in XREADGROUP with GROUP option\r\n"[..],
            ),
            (
                &[b"XGROUP", b"CREATECONSUMER", key, b"g\xfe\r\n", b"c"],
                b"-NOGROUP No such consumer group 'g\xfe  ' for key name 'k\xff'\r\n",
            ),
        ] {
            assert_eq!(engine.run(request), said);
        }
        for (request, said) in [
            (
                &[&b"n\xffo"[..], b"a\xfe"][..],
                &b"-ERR unknown command 'n\xffo', with args beginning with: 'a\xfe' \r\n"[..],
            ),
            (&[b"CONFIG", b"n\xff"], b"-ERR unknown subcommand 'n\xff'. Try CONFIG HELP.\r\n"),
        ] {
            assert_eq!(engine.run(request), said);
        }
        engine.run(&[b"GEOADD", b"g", b"1", b"1", b"a"]);
        let answer = engine.run(&[b"GEOSEARCH", b"g", b"FROMMEMBER", b"z\xff", b"BYRADIUS", b"1", b"m"]);
        assert_eq!(answer, b"-ERR member z\xff does not exist\r\n");
    }
}
