//! What is wrong with bytes that are not RESP. Knows texts, not connections: after any of these the
//! connection is answered once and closed, since nobody can tell where the next request starts.

use std::fmt;

/// Why a request cannot be read. `Display` is Redis' own text; the connection puts `-ERR ` before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProtocolError {
    /// A line that is not RESP grew past [`Limits::inline_bytes_max`](super::Limits).
    InlineTooBig,
    /// A `*` line without end.
    MultibulkCountTooBig,
    /// A `$` line without end.
    BulkCountTooBig,
    /// The number after `*` is no number, or too large.
    InvalidMultibulkLength,
    /// The number after `$` is no number, negative, or too large.
    InvalidBulkLength,
    /// More arguments than a connection that has not logged in may send.
    UnauthenticatedMultibulkLength,
    /// A longer argument than a connection that has not logged in may send.
    UnauthenticatedBulkLength,
    /// An argument began with this byte instead of `$`.
    ExpectedBulk {
        /// The byte that stood there.
        got: u8,
    },
    /// An inline request with an open quote, or text glued to a closing quote.
    UnbalancedQuotes,
    /// All arguments together are longer than [`Limits::request_bytes_max`](super::Limits).
    RequestTooBig,
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Protocol error: ")?;
        match self {
            Self::InlineTooBig => f.write_str("too big inline request"),
            Self::MultibulkCountTooBig => f.write_str("too big mbulk count string"),
            Self::BulkCountTooBig => f.write_str("too big bulk count string"),
            Self::InvalidMultibulkLength => f.write_str("invalid multibulk length"),
            Self::InvalidBulkLength => f.write_str("invalid bulk length"),
            Self::UnauthenticatedMultibulkLength => f.write_str("unauthenticated multibulk length"),
            Self::UnauthenticatedBulkLength => f.write_str("unauthenticated bulk length"),
            Self::ExpectedBulk { got: got @ 0x20..=0x7e } => {
                write!(f, "expected '$', got '{}'", char::from(*got))
            }
            // Redis writes the raw byte. It would not survive as text, so it is escaped here.
            Self::ExpectedBulk { got } => write!(f, "expected '$', got '{}'", got.escape_ascii()),
            Self::UnbalancedQuotes => f.write_str("unbalanced quotes in request"),
            Self::RequestTooBig => f.write_str("too big request"),
        }
    }
}

impl std::error::Error for ProtocolError {}

/// Why bytes are not a reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplyError {
    /// No reply type starts with this byte.
    UnknownType {
        /// The byte that stood there.
        got: u8,
    },
    /// A length that is no number, negative where it may not be, or larger than the limit.
    InvalidLength,
    /// An integer, double, boolean or null that is spelled wrong.
    InvalidScalar,
    /// A line without end.
    LineTooLong,
    /// Arrays within arrays, deeper than the limit.
    TooDeep,
}

impl fmt::Display for ReplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownType { got } => {
                write!(f, "reply starts with unknown type byte '{}'", got.escape_ascii())
            }
            Self::InvalidLength => f.write_str("reply has an invalid length"),
            Self::InvalidScalar => f.write_str("reply has a malformed number, boolean or null"),
            Self::LineTooLong => f.write_str("reply has a line without end"),
            Self::TooDeep => f.write_str("reply is nested too deeply"),
        }
    }
}

impl std::error::Error for ReplyError {}
