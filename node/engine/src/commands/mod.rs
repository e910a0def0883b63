//! Every command there is, one family a file. It knows no command by name and runs none: [`crate::table`] finds them.

use crate::command::{Command, Flags, KeyFlags};
use crate::types::number;
use std::ops::Range;

mod acl;
mod bitmap;
mod cluster;
mod collections;
mod connection;
mod generic;
mod geo;
mod hash;
mod hyperloglog;
mod list;
mod pubsub;
mod scripting;
mod server;
mod set;
mod sorted_set;
mod stream;
mod string;
mod tenant;
mod transaction;

// What many declarations say about a key.

/// Looks at the key without giving away its value: either right is enough.
const LOOKS_AT: KeyFlags = KeyFlags::RO;
/// Gives the value to the caller.
const READS: KeyFlags = KeyFlags::RO.and(KeyFlags::ACCESS);
/// Replaces the value, whatever it was.
const OVERWRITES: KeyFlags = KeyFlags::OW.and(KeyFlags::UPDATE);
/// Changes the value and tells about it.
const CHANGES: KeyFlags = KeyFlags::RW.and(KeyFlags::ACCESS).and(KeyFlags::UPDATE);
/// Changes the value.
const UPDATES: KeyFlags = KeyFlags::RW.and(KeyFlags::UPDATE);
/// Adds to the value.
const ADDS: KeyFlags = KeyFlags::RW.and(KeyFlags::INSERT);
/// Removes from the value.
const REMOVES: KeyFlags = KeyFlags::RW.and(KeyFlags::DELETE);
/// Removes from the value and gives what it removed to the caller.
const TAKES: KeyFlags = KeyFlags::RW.and(KeyFlags::ACCESS).and(KeyFlags::DELETE);
/// Deletes the key without looking.
const DELETES: KeyFlags = KeyFlags::RM.and(KeyFlags::DELETE);

// What many declarations say about a command.

/// Administers the server, in whatever state it is.
const ADMIN_ANY_TIME: Flags = Flags::ADMIN.and(Flags::NOSCRIPT).and(Flags::LOADING).and(Flags::STALE);
/// Works in whatever state the server is, even while a script blocks it.
const ANY_TIME: Flags = Flags::NOSCRIPT.and(Flags::LOADING).and(Flags::STALE).and(Flags::ALLOW_BUSY);
/// Works in whatever state the server is, for whoever is connected.
const BEFORE_LOGIN: Flags = ANY_TIME.and(Flags::FAST).and(Flags::NO_AUTH);
/// Runs a script or function.
const RUNS_SCRIPT: Flags = Flags::NOSCRIPT.and(Flags::STALE).and(Flags::SKIP_MONITOR).and(Flags::NO_MANDATORY_KEYS);

/// The families, in the order `COMMAND` lists them.
pub(crate) const FAMILIES: &[&[Command]] = &[
    generic::COMMANDS,
    string::COMMANDS,
    list::COMMANDS,
    hash::COMMANDS,
    set::COMMANDS,
    sorted_set::COMMANDS,
    stream::COMMANDS,
    bitmap::COMMANDS,
    hyperloglog::COMMANDS,
    geo::COMMANDS,
    pubsub::COMMANDS,
    transaction::COMMANDS,
    scripting::COMMANDS,
    connection::COMMANDS,
    server::COMMANDS,
    acl::COMMANDS,
    tenant::COMMANDS,
    cluster::COMMANDS,
];

/// The arguments from `first` on that the count at argument `count` speaks of, `step` to each; `None` if the count is
/// no integer, is negative or promises more than the request holds. Key extraction and handlers read counts here, so
/// that the keys that are checked are the keys that are used.
pub(crate) fn counted(argv: &[&[u8]], count: usize, first: usize, step: usize) -> Option<Range<usize>> {
    let promised = usize::try_from(number::parse_i64(argv.get(count)?)?).ok()?;
    let end = promised.checked_mul(step)?.checked_add(first)?;
    (end <= argv.len()).then_some(first..end)
}
