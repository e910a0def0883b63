//! What a command means to one tenant's keys.
//!
//! This crate thinks and never acts: no sockets, no files, no clock, no randomness. A command is one [`command::Command`]
//! in its family file under `commands/`; everything else — dispatch, permissions, `COMMAND INFO` — is derived from it.
//! A handler gets what its [`command::Run`] allows and nothing more, and what it wants of the world it returns as an
//! [`asks::Ask`].
//!
//! Read in this order: [`command`], [`table`], [`args`] and [`reply`], [`keyspace`], one family file, [`types`].
#![deny(unsafe_code)]

pub mod account;
pub mod args;
pub mod asks;
pub mod command;
pub mod commands;
pub mod dict;
pub mod digest;
pub mod dump;
pub mod effects;
pub mod error;
pub mod events;
pub mod eviction;
pub mod holdings;
pub mod introspect;
pub mod keyspace;
pub mod reply;
pub mod scope;
pub mod session;
pub mod shares;
pub mod slot;
pub mod snapshot;
pub mod span;
mod syntax;
pub mod table;
pub mod tenancy;
pub mod types;

#[cfg(test)]
mod testing;
