//! RESP without sockets: bytes in, ranges or values out. Knows no command, no session, no permission.
//!
//! `request` reads what clients send, `reply` reads what servers answer, `encode` writes commands.
//! Nothing here waits: an incomplete input is `Ok(None)`, and the caller brings more bytes.

pub mod encode;
pub mod error;
pub mod inline;
mod number;
pub mod reply;
pub mod request;

pub use encode::{encode_command, encoded_command_bytes};
pub use error::{ProtocolError, ReplyError};
pub use reply::{ReplyDecoder, ReplyLimits, ReplyScanner, Value, parse_reply, skip_reply};
pub use request::{ArgRange, Decoder, Limits};
