//! Why a request cannot be carried out as written: every text, verbatim as Redis says it.
//!
//! Clients match on these texts, so one golden test pins them. Permission, login and routing refusals are made at
//! the gate and do not live here.

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
}

impl CommandError {
    /// An `ERR` with this text.
    pub fn err(text: impl Into<Cow<'static, str>>) -> CommandError {
        CommandError::Text(Cow::Owned(format!("ERR {}", text.into())))
    }

    /// Two prefixes that one caching client cannot have at once.
    /// `which` says where the other comes from.
    pub fn overlapping_prefixes(prefix: &[u8], which: &str, other: &[u8]) -> CommandError {
        let [prefix, other] = [prefix, other].map(String::from_utf8_lossy);
        CommandError::err(format!(
            "Prefix '{prefix}' overlaps with {which} prefix '{other}'. Prefixes for a single client must not overlap."
        ))
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
        })
    }
}

impl std::error::Error for CommandError {}
