//! Scripts: the Lua 5.1 machine behind EVAL and FUNCTION.
//!
//! A [`Machine`] lives as long as the node. It compiles programs once, runs them one at a time, and keeps them in: no
//! files, no sockets, no clock, no way to leave anything behind for the next script. What a script may ask of the
//! world is the trait [`Host`], lent for one run.
//!
//! The libraries a script finds (`cjson`, `cmsgpack`, `struct`, `bit`, patterns, `redis`) are written here, in Rust:
//! Redis' C ones have a history of memory errors.
//!
//! It refuses to know commands, users, sockets, time and randomness.

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

mod arguments;
mod bits;
mod budget;
mod cache;
mod cjson;
mod cmsgpack;
mod host;
mod interpreter;
mod library;
mod machine;
mod number;
mod patterns;
mod raise;
mod random;
mod redis;
mod reply;
mod shebang;
mod structs;

pub use cache::{Script, Sha};
pub use host::{CallOptions, Host, Interrupt, LogLevel, Replication, Resp};
pub use library::{Function, Library, RestorePolicy};
pub use machine::{Invocation, Limits, Machine, MachineStats, Outcome};
pub use redis::REDIS_VERSION;
pub use shebang::ScriptFlags;
