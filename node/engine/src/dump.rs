//! Keys and values as the bytes of Redis' RDB format: what snapshots, `DUMP` and `RESTORE` are made of. It does no
//! input or output and reads no clock: bytes come in through [`Source`] and go out into buffers.
//!
//! ```text
//!   file      "REDIS0010" or "VALKEY080"  (AUX name value)*  (SELECTDB n, RESIZEDB keys expiring)*  part*  EOF  CRC-64
//!   part      SELECTDB n, record*                     keys of the shared keyspace
//!             AUX "keyward-space" (tenant, database, record*)    keys of a tenant: skipped by any other server
//!   record    [EXPIRETIME_MS at]  type  key  value
//!   payload   type  value  version (2 bytes)  CRC-64             one value, as DUMP answers it
//! ```
//!
//! Written is the newest form that Redis 7.0 and everything after it can read, and a newer one only for what that cannot
//! express: a hash whose fields expire is written as Valkey 9 does, and makes a file one of Valkey 9. Read are the versions
//! 6 to 12 of Redis and those of Valkey, every encoding of strings, lists, hashes, sets, sorted sets and streams. What cannot
//! be kept (values of modules) is refused by name; nothing is dropped in silence.
//!
//! Whatever the bytes claim, reading them never panics and never takes more memory than a small multiple of what is
//! really there; but for packed strings, which may stand for some ninety times their size: whoever reads a payload that a
//! client sent says how much they may become ([`Unpacking`]).

mod checksum;
pub(crate) mod commands;
mod containers;
mod lzf;
mod read;
mod source;
mod streams;
#[cfg(test)]
mod tests;
mod values;
mod write;

use std::fmt;

pub use checksum::Checksum;
pub use read::{FileError, FileReader, Payload, Record, Skipped, read_libraries, read_payload};
pub use source::{NotRead, Source, Unpacking};
pub use write::{begin, end, import_notes, libraries, libraries_payload, part, payload, record, sizes};

/// The version of files and payloads written here.
const VERSION: u16 = 10;

/// The version of payloads that hold a hash whose fields expire; the first of Valkey that knows them.
const VERSION_FIELD_EXPIRY: u16 = 80;

/// The AUX field that holds the keys of a tenant's own keyspace.
const SPACE_FIELD: &[u8] = b"keyward-space";

/// The AUX field with the epoch of the newest effect in a file.
pub const EPOCH_FIELD: &str = "keyward-epoch";

/// The AUX field with the position at which the effects in a file end.
pub const POSITION_FIELD: &str = "keyward-position";

/// The AUX field that holds what is known of an import.
const IMPORT_FIELD: &[u8] = b"keyward-import";

/// The note that holds a library of functions which belongs to one user.
const LIBRARY_FIELD: &[u8] = b"keyward-library";

/// What the text of such a library begins with; no library of Redis' does. The node writes and reads the rest of the line.
pub const OWNED_LIBRARY: &[u8] = b"#!keyward-owner ";

/// What a byte before a record means, if it is no type.
mod opcode {
    pub(super) const SLOT_INFO: u8 = 244;
    pub(super) const FUNCTION: u8 = 245;
    pub(super) const MODULE_AUX: u8 = 247;
    pub(super) const IDLE: u8 = 248;
    pub(super) const FREQUENCY: u8 = 249;
    pub(super) const AUX: u8 = 250;
    pub(super) const RESIZE: u8 = 251;
    pub(super) const EXPIRES_MS: u8 = 252;
    pub(super) const EXPIRES_S: u8 = 253;
    pub(super) const SELECT: u8 = 254;
    pub(super) const EOF: u8 = 255;
}

/// How a value is stored.
mod kind {
    pub(super) const STRING: u8 = 0;
    pub(super) const LIST: u8 = 1;
    pub(super) const SET: u8 = 2;
    /// Scores as text.
    pub(super) const SORTED_SET: u8 = 3;
    pub(super) const HASH: u8 = 4;
    /// Scores as doubles.
    pub(super) const SORTED_SET_2: u8 = 5;
    pub(super) const MODULE: u8 = 6;
    pub(super) const MODULE_2: u8 = 7;
    pub(super) const HASH_ZIPMAP: u8 = 9;
    pub(super) const LIST_ZIPLIST: u8 = 10;
    pub(super) const SET_INTSET: u8 = 11;
    pub(super) const SORTED_SET_ZIPLIST: u8 = 12;
    pub(super) const HASH_ZIPLIST: u8 = 13;
    pub(super) const LIST_QUICKLIST: u8 = 14;
    pub(super) const STREAM: u8 = 15;
    pub(super) const HASH_LISTPACK: u8 = 16;
    pub(super) const SORTED_SET_LISTPACK: u8 = 17;
    pub(super) const LIST_QUICKLIST_2: u8 = 18;
    pub(super) const STREAM_2: u8 = 19;
    pub(super) const SET_LISTPACK: u8 = 20;
    pub(super) const STREAM_3: u8 = 21;
    /// Of Valkey 9, which files of its version hold: every field with its expiry.
    pub(super) const HASH_2: u8 = 22;
    /// The same number in files of Redis: [`HASH_METADATA`] as release candidates of 7.4 wrote it.
    pub(super) const HASH_METADATA_EARLY: u8 = 22;
    /// [`HASH_LISTPACK_EX`] as they wrote it.
    pub(super) const HASH_LISTPACK_EX_EARLY: u8 = 23;
    /// Of Redis 7.4 and later: every field with its expiry.
    pub(super) const HASH_METADATA: u8 = 24;
    /// The same, packed.
    pub(super) const HASH_LISTPACK_EX: u8 = 25;
}

/// What is wrong with bytes that were to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// They end too early.
    Truncated,
    /// They could not be read at all; the text is the system's.
    Unreadable(String),
    /// They are no RDB file.
    NotRdb,
    /// They come from a server this one does not know.
    Version(u32),
    /// They are not what was written.
    Checksum,
    /// They hold something this server does not keep: its name, in the plural.
    Unsupported(&'static str),
    /// They hold a type no known server writes.
    UnknownType(u8),
    /// They contradict themselves; the text says where.
    Malformed(&'static str),
    /// A packed string is longer than a string may be.
    TooLong,
    /// Packed strings are more, unpacked, than there is room for.
    TooMuch,
    /// A collection without elements, which older servers could leave behind. Not an error in a file.
    Empty,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Truncated => f.write_str("the data ends too early"),
            Problem::Unreadable(text) => write!(f, "it cannot be read: {text}"),
            Problem::NotRdb => f.write_str("it is not an RDB file"),
            Problem::Version(version) => {
                write!(f, "RDB version {version} is not known here; 6 to 12 and those of Valkey are")
            }
            Problem::Checksum => f.write_str("the checksum does not fit the content"),
            Problem::Unsupported(what) => write!(f, "{what} are not kept by this version"),
            Problem::UnknownType(kind) => write!(f, "a value has the unknown type {kind}"),
            Problem::Malformed(what) => write!(f, "{what} is malformed"),
            Problem::TooLong => f.write_str("a packed string is longer than a string may be"),
            Problem::TooMuch => f.write_str("packed strings are more than there is room for"),
            Problem::Empty => f.write_str("a collection has no elements"),
        }
    }
}

impl std::error::Error for Problem {}

/// Whether files and payloads of this version can be read. The versions between were never Redis' or Valkey's.
fn is_known(version: u32) -> bool {
    (1..=12).contains(&version) || version == u32::from(VERSION_FIELD_EXPIRY)
}
