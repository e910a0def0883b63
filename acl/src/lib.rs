//! Users, rules and permissions of Redis, compiled and checked.
//!
//! ```text
//!   ">secret ~app:* +@read"                     text a person wrote
//!        │ Rule::parse, validate(catalog)       at the edge: passwords hashed, braces expanded, names checked
//!        ▼
//!   UserChange { Set { name, rules } }          agreed on by all nodes, as text-shaped values
//!        │ Directory::apply                     total and deterministic; asks nobody
//!        ▼
//!   User { passwords, selectors … }             what the rules say, still in their own words
//!        │ Policy::compile(user, catalog)       per process: words become bits and matchers
//!        ▼
//!   Policy::check(request) ─► Ok, or a Denial   for every request, DRYRUN included
//! ```
//!
//! Three decisions carry the rest. **Rules stay text until the last moment**, because two versions of the program number
//! commands differently: a bit that travelled would silently grant another command. **What can go wrong goes wrong
//! before the change is agreed on**; applying it cannot fail. **What a node does not know grants nothing**, and a
//! refusal it does not know refuses everything.
//!
//! This crate refuses to know commands (it is handed a [`Catalog`]), sockets, files, time and chance.

mod braces;
pub mod catalog;
pub mod category;
pub mod denial;
pub mod directory;
pub mod fence;
pub mod file;
pub mod glob;
pub mod limit;
pub mod log;
pub mod password;
pub mod policy;
mod printable;
pub mod rule;
#[cfg(test)]
mod testing;
pub mod text;
pub mod user;

pub use braces::EXPANSIONS_MAX;
pub use catalog::{Catalog, CommandId, Treatment};
pub use category::{Category, CategorySet};
pub use denial::{Denial, Denied, ErrorDetail, Hint};
pub use directory::{AuthFailure, Directory, RestoreError, UserChange, UserOutcome, UserRecord};
pub use fence::Fence;
pub use file::{FileError, FileKind, PolicyFile, parse_policy};
pub use glob::Glob;
pub use limit::LimitName;
pub use log::{AclLog, LogContext, LogEntry, LogEvent, LogOwner, LogReason};
pub use password::PasswordHash;
pub use policy::{ChannelUse, DatabaseUse, KeyUse, Policy, Request, Walls};
pub use rule::{Acknowledge, Grant, KeyAccess, KeyRights, Mode, Reason, Role, Rule, RuleError, parse_rules, validate};
pub use text::{MASKED, SelectorFields, UserFields};
pub use user::{Databases, KeyPattern, Origin, Selector, User, UserName};
