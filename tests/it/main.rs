//! The one integration binary: what only real processes show. Every file is a module, so that the world is linked once.
//!
//! `tests/run it` runs it; one module alone: `cargo test -p keyward-tests --test it acl::`. A failing test prints each
//! node's last log lines. Random tests print their seed.

mod acl;
mod acl_differential;
mod admin;
mod caching;
mod checklist;
mod demo;
mod docs;
mod documents;
mod forward;
mod fuzzing;
mod groups;
mod handover;
mod holdings;
mod import;
mod insight;
mod kill;
mod limits;
mod long_commands;
mod membership;
mod memory;
mod moves;
mod namespaces;
mod noise;
mod noninterference;
mod owners;
mod replication;
mod rights;
mod routing;
mod scopes;
mod secrets;
mod specification;
mod startup;
mod swaps;
mod sweep;
mod takeover;
mod tenant_admin;
mod tenant_memory;
mod tenants;
mod tidy;
mod transcripts;
mod user_limits;
mod waiting;
mod walls;
mod watch;
