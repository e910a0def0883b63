//! The server: what it knows, how it does, what it keeps.
//!
//! It refuses to know of disks, clocks and configuration: it asks for them.
//! Declarations on top, one entry per command; handlers below.
//! It is long because it is linear: over seventy entries, most of them known by name only.

use super::generic::every_key;
use super::{ADMIN_ANY_TIME, OVERWRITES};
use crate::args::Args;
use crate::asks::{Ask, Now};
use crate::command::{Arity, Command, DatabaseRule, Docs, Extra, Flags, Group, Home, KeyRule, KeySpec, Run};
use crate::error::CommandError;
use crate::introspect;
use crate::reply::Reply;
use crate::scope::{Of, Scope};
use crate::session::{Session, Surroundings};
use keyward_acl::Category;
use std::time::Duration;

mod copies;
mod debug;
mod observe;

pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "COMMAND",
        arity: Arity::AtLeast(1),
        flags: Flags::LOADING.and(Flags::STALE),
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Subcommands,
        run: Run::Container(COMMAND),
        docs: Docs { summary: "Describes all commands.", since: "2.8.13", complexity: "O(N)" },
        extra: Extra { categories: &[Category::Connection], tips: &["nondeterministic_output_order"], ..Extra::NONE },
    },
    Command {
        name: "INFO",
        arity: Arity::AtLeast(1),
        flags: Flags::LOADING.and(Flags::STALE),
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Filtered(Of::Server),
        run: Run::Ask(info),
        docs: Docs { summary: "Tells how the server is doing.", since: "1.0.0", complexity: "O(1)" },
        extra: Extra {
            categories: &[Category::Dangerous],
            tips: &["nondeterministic_output", "request_policy:all_shards", "response_policy:special"],
            ..Extra::NONE
        },
    },
    Command {
        name: "CONFIG",
        arity: Arity::AtLeast(2),
        flags: Flags::NONE,
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Subcommands,
        run: Run::Container(CONFIG),
        docs: Docs { summary: "Manages the configuration.", since: "2.0.0", complexity: "Depends on subcommand" },
        extra: Extra::NONE,
    },
    Command {
        name: "DBSIZE",
        arity: Arity::Exactly(1),
        flags: Flags::READONLY.and(Flags::FAST),
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Filtered(Of::Keys),
        run: Run::OnEveryKey(every_key::dbsize),
        docs: Docs { summary: "Counts the keys of the database.", since: "1.0.0", complexity: "O(1)" },
        extra: Extra {
            categories: &[Category::Keyspace],
            tips: &["request_policy:all_shards", "response_policy:agg_sum"],
            ..Extra::NONE
        },
    },
    Command {
        name: "FLUSHDB",
        arity: Arity::AtLeast(1),
        flags: Flags::WRITE,
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Filtered(Of::Keys),
        run: Run::OnEveryKey(every_key::flushdb),
        docs: Docs {
            summary: "Deletes all keys of the database.",
            since: "1.0.0",
            complexity: "O(N) where N is the number of keys in the selected database",
        },
        extra: Extra {
            categories: &[Category::Keyspace, Category::Dangerous],
            tips: &["request_policy:all_shards", "response_policy:all_succeeded"],
            ..Extra::NONE
        },
    },
    Command {
        name: "FLUSHALL",
        arity: Arity::AtLeast(1),
        flags: Flags::WRITE,
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Filtered(Of::Keys),
        run: Run::OnEveryKey(every_key::flushall),
        docs: Docs {
            summary: "Deletes all keys of all databases.",
            since: "1.0.0",
            complexity: "O(N) where N is the total number of keys in all databases",
        },
        extra: Extra {
            databases: DatabaseRule::Every,
            categories: &[Category::Keyspace, Category::Dangerous],
            tips: &["request_policy:all_shards", "response_policy:all_succeeded"],
            ..Extra::NONE
        },
    },
    Command {
        name: "SWAPDB",
        arity: Arity::Exactly(3),
        flags: Flags::WRITE.and(Flags::FAST),
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::WholeTenant,
        run: Run::OnEveryKey(every_key::swapdb),
        docs: Docs { summary: "Exchanges two databases.", since: "4.0.0", complexity: "O(N)" },
        extra: Extra {
            categories: &[Category::Keyspace, Category::Dangerous],
            databases: DatabaseRule::Both(1, 2),
            ..Extra::NONE
        },
    },
    Command {
        name: "TIME",
        arity: Arity::Exactly(1),
        flags: Flags::LOADING.and(Flags::STALE).and(Flags::FAST),
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Public,
        run: Run::OnSession(time),
        docs: Docs { summary: "Returns the server's time.", since: "2.6.0", complexity: "O(1)" },
        extra: Extra { tips: &["nondeterministic_output"], ..Extra::NONE },
    },
    Command {
        name: "ROLE",
        arity: Arity::Exactly(1),
        flags: Flags::NOSCRIPT.and(Flags::LOADING).and(Flags::STALE).and(Flags::FAST),
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Public,
        run: Run::Ask(role),
        docs: Docs {
            summary: "Tells whether the node is a primary or a replica.",
            since: "2.8.12",
            complexity: "O(1)",
        },
        extra: Extra::categories(&[Category::Admin, Category::Dangerous]),
    },
    Command {
        name: "LOLWUT",
        arity: Arity::AtLeast(1),
        flags: Flags::READONLY.and(Flags::FAST),
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Public,
        run: Run::OnSession(lolwut),
        docs: Docs { summary: "Shows a small picture and the version.", since: "5.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "SAVE",
        arity: Arity::Exactly(1),
        flags: Flags::ADMIN.and(Flags::NOSCRIPT).and(Flags::NO_ASYNC_LOADING).and(Flags::NO_MULTI),
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Ceiling,
        run: Run::AskOwner(save),
        docs: Docs {
            summary: "Saves the data to disk and waits for it.",
            since: "1.0.0",
            complexity: "O(N) where N is the total number of keys in all databases",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "BGSAVE",
        arity: Arity::AtLeast(1),
        flags: Flags::ADMIN.and(Flags::NOSCRIPT).and(Flags::NO_ASYNC_LOADING),
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Ceiling,
        run: Run::AskOwner(bgsave),
        docs: Docs { summary: "Saves the data to disk in the background.", since: "1.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "LASTSAVE",
        arity: Arity::Exactly(1),
        flags: Flags::LOADING.and(Flags::STALE).and(Flags::FAST),
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Ceiling,
        run: Run::AskOwner(lastsave),
        docs: Docs { summary: "Tells when the data was last saved.", since: "1.0.0", complexity: "O(1)" },
        extra: Extra {
            categories: &[Category::Admin, Category::Dangerous],
            tips: &["nondeterministic_output"],
            ..Extra::NONE
        },
    },
    Command {
        name: "SHUTDOWN",
        arity: Arity::AtLeast(1),
        flags: Flags::ADMIN
            .and(Flags::NOSCRIPT)
            .and(Flags::LOADING)
            .and(Flags::STALE)
            .and(Flags::NO_MULTI)
            .and(Flags::ALLOW_BUSY),
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Ceiling,
        run: Run::Ask(shutdown),
        docs: Docs { summary: "Saves the data and stops the node.", since: "1.0.0", complexity: "O(N)" },
        extra: Extra::NONE,
    },
    Command {
        name: "MEMORY",
        arity: Arity::AtLeast(2),
        flags: Flags::NONE,
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Subcommands,
        run: Run::Container(observe::MEMORY),
        docs: Docs { summary: "Looks at the use of memory.", since: "4.0.0", complexity: "Depends on subcommand" },
        extra: Extra::NONE,
    },
    Command {
        name: "SLOWLOG",
        arity: Arity::AtLeast(2),
        flags: Flags::NONE,
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Subcommands,
        run: Run::Container(observe::SLOWLOG),
        docs: Docs { summary: "Looks at the slowest commands.", since: "2.2.12", complexity: "Depends on subcommand" },
        extra: Extra::NONE,
    },
    Command {
        name: "COMMANDLOG",
        arity: Arity::AtLeast(2),
        flags: Flags::NONE,
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Subcommands,
        run: Run::Container(observe::COMMANDLOG),
        docs: Docs {
            summary: "Looks at the slowest and the largest commands.",
            since: "8.1.0",
            complexity: "Depends on subcommand",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "LATENCY",
        arity: Arity::AtLeast(2),
        flags: Flags::NONE,
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Subcommands,
        run: Run::Container(observe::LATENCY),
        docs: Docs {
            summary: "Looks at what made the server slow.",
            since: "2.8.13",
            complexity: "Depends on subcommand",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "MONITOR",
        arity: Arity::Exactly(1),
        flags: ADMIN_ANY_TIME,
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Filtered(Of::Clients),
        run: Run::AtOnce(|_, _, _| Ok(Now::Monitor)),
        docs: Docs { summary: "Streams every command the server runs.", since: "1.0.0", complexity: "O(1)" },
        extra: Extra::home(Home::DataForGood),
    },
    Command {
        name: "DEBUG",
        arity: Arity::AtLeast(2),
        flags: ADMIN_ANY_TIME,
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Ceiling,
        run: Run::Ask(debug::debug),
        docs: Docs {
            summary: "Offers means of testing, for developers.",
            since: "1.0.0",
            complexity: "Depends on subcommand",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "MODULE",
        arity: Arity::AtLeast(2),
        flags: Flags::NONE,
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Subcommands,
        run: Run::Container(MODULE),
        docs: Docs { summary: "Manages modules.", since: "4.0.0", complexity: "Depends on subcommand" },
        extra: Extra::NONE,
    },
    Command {
        name: "BGREWRITEAOF",
        arity: Arity::Exactly(1),
        flags: Flags::ADMIN.and(Flags::NOSCRIPT).and(Flags::NO_ASYNC_LOADING),
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Ceiling,
        run: Run::Refused("there is no append-only file; use BGSAVE for a snapshot"),
        docs: Docs { summary: "Rewrites the append-only file.", since: "1.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "FAILOVER",
        arity: Arity::AtLeast(1),
        flags: Flags::ADMIN.and(Flags::NOSCRIPT).and(Flags::STALE),
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Ceiling,
        run: Run::Ask(failover),
        docs: Docs { summary: "Hands the role of primary to a replica.", since: "6.2.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "REPLICAOF",
        arity: Arity::Exactly(3),
        flags: Flags::ADMIN.and(Flags::NOSCRIPT).and(Flags::STALE).and(Flags::NO_ASYNC_LOADING),
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Ceiling,
        run: Run::Refused("nodes join by keywardctl node add"),
        docs: Docs { summary: "Makes the server a replica of another.", since: "5.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "SLAVEOF",
        arity: Arity::Exactly(3),
        flags: Flags::ADMIN.and(Flags::NOSCRIPT).and(Flags::STALE).and(Flags::NO_ASYNC_LOADING),
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Ceiling,
        run: Run::Refused("nodes join by keywardctl node add"),
        docs: Docs {
            summary: "Makes the server a replica of another, under its old name.",
            since: "1.0.0",
            complexity: "O(1)",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "REPLCONF",
        arity: Arity::AtLeast(1),
        flags: Flags::ADMIN.and(Flags::NOSCRIPT).and(Flags::LOADING).and(Flags::STALE).and(Flags::ALLOW_BUSY),
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Ceiling,
        run: Run::OnSession(copies::replconf),
        docs: Docs { summary: "Sets parameters of a replication link.", since: "3.0.0", complexity: "O(1)" },
        extra: Extra::home(Home::DataForGood),
    },
    Command {
        name: "PSYNC",
        arity: Arity::AtLeast(3),
        flags: Flags::ADMIN.and(Flags::NOSCRIPT).and(Flags::NO_ASYNC_LOADING).and(Flags::NO_MULTI),
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Ceiling,
        run: Run::Refused("nodes replicate over their own protocol; clients may copy all data by redis-cli --rdb"),
        docs: Docs { summary: "Starts a replication link.", since: "2.8.0", complexity: "O(N)" },
        extra: Extra::NONE,
    },
    Command {
        name: "SYNC",
        arity: Arity::Exactly(1),
        flags: Flags::ADMIN.and(Flags::NOSCRIPT).and(Flags::NO_ASYNC_LOADING).and(Flags::NO_MULTI),
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Ceiling,
        run: Run::Ask(copies::sync),
        docs: Docs { summary: "Sends a copy of all data, once.", since: "1.0.0", complexity: "O(N)" },
        extra: Extra::home(Home::DataForGood),
    },
    Command {
        name: "RESTORE-ASKING",
        arity: Arity::AtLeast(4),
        flags: Flags::WRITE.and(Flags::DENYOOM).and(Flags::ASKING),
        group: Group::Server,
        keys: KeyRule::At(&[KeySpec::at(1, OVERWRITES)]),
        scope: Scope::Ceiling,
        run: Run::Refused("slots are moved by the cluster itself; use RESTORE"),
        docs: Docs { summary: "Creates a key that is moved from another node.", since: "3.0.0", complexity: "O(1)" },
        extra: Extra::categories(&[Category::Keyspace, Category::Dangerous]),
    },
];

const COMMAND: &[Command] = &[
    Command {
        name: "COUNT",
        arity: Arity::Exactly(2),
        flags: Flags::LOADING.and(Flags::STALE),
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Public,
        run: Run::OnSession(introspect::count),
        docs: Docs { summary: "Counts the commands.", since: "2.8.13", complexity: "O(1)" },
        extra: Extra::categories(&[Category::Connection]),
    },
    Command {
        name: "INFO",
        arity: Arity::AtLeast(2),
        flags: Flags::LOADING.and(Flags::STALE),
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Public,
        run: Run::OnSession(introspect::info),
        docs: Docs {
            summary: "Describes commands for clients.",
            since: "2.8.13",
            complexity: "O(N) where N is the number of commands to look up",
        },
        extra: Extra { categories: &[Category::Connection], tips: &["nondeterministic_output_order"], ..Extra::NONE },
    },
    Command {
        name: "DOCS",
        arity: Arity::AtLeast(2),
        flags: Flags::LOADING.and(Flags::STALE),
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Public,
        run: Run::OnSession(introspect::docs),
        docs: Docs {
            summary: "Describes commands for people.",
            since: "7.0.0",
            complexity: "O(N) where N is the number of commands to look up",
        },
        extra: Extra { categories: &[Category::Connection], tips: &["nondeterministic_output_order"], ..Extra::NONE },
    },
    Command {
        name: "LIST",
        arity: Arity::AtLeast(2),
        flags: Flags::LOADING.and(Flags::STALE),
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Public,
        run: Run::OnSession(introspect::list),
        docs: Docs { summary: "Lists the names of commands.", since: "7.0.0", complexity: "O(N)" },
        extra: Extra { categories: &[Category::Connection], tips: &["nondeterministic_output_order"], ..Extra::NONE },
    },
    Command {
        name: "GETKEYS",
        arity: Arity::AtLeast(3),
        flags: Flags::LOADING.and(Flags::STALE),
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Public,
        run: Run::OnSession(introspect::get_keys),
        docs: Docs {
            summary: "Tells which arguments of a request are keys.",
            since: "2.8.13",
            complexity: "O(N) where N is the number of arguments to the command",
        },
        extra: Extra::categories(&[Category::Connection]),
    },
    Command {
        name: "GETKEYSANDFLAGS",
        arity: Arity::AtLeast(3),
        flags: Flags::LOADING.and(Flags::STALE),
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Public,
        run: Run::OnSession(introspect::get_keys_and_flags),
        docs: Docs {
            summary: "Tells which arguments of a request are keys, and what is done with them.",
            since: "7.0.0",
            complexity: "O(N) where N is the number of arguments to the command",
        },
        extra: Extra::categories(&[Category::Connection]),
    },
    Command {
        name: "HELP",
        arity: Arity::Exactly(2),
        flags: Flags::LOADING.and(Flags::STALE),
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Public,
        run: Run::OnSession(introspect::help),
        docs: Docs { summary: "Lists the subcommands of COMMAND.", since: "5.0.0", complexity: "O(1)" },
        extra: Extra::categories(&[Category::Connection]),
    },
];

const CONFIG: &[Command] = &[
    Command {
        name: "GET",
        arity: Arity::AtLeast(3),
        flags: ADMIN_ANY_TIME,
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Filtered(Of::Server),
        run: Run::Ask(config_get),
        docs: Docs {
            summary: "Returns parameters of the configuration.",
            since: "2.0.0",
            complexity: "O(N) when N is the number of configuration parameters provided",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "SET",
        arity: Arity::AtLeast(4),
        flags: ADMIN_ANY_TIME,
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Filtered(Of::Server),
        run: Run::Ask(config_set),
        docs: Docs {
            summary: "Changes parameters of the configuration.",
            since: "2.0.0",
            complexity: "O(N) when N is the number of configuration parameters provided",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "RESETSTAT",
        arity: Arity::Exactly(2),
        flags: ADMIN_ANY_TIME,
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Filtered(Of::Server),
        run: Run::Ask(config_resetstat),
        docs: Docs { summary: "Sets the counters of INFO back to zero.", since: "2.0.0", complexity: "O(1)" },
        extra: Extra { tips: &["request_policy:all_nodes", "response_policy:all_succeeded"], ..Extra::NONE },
    },
    Command {
        name: "REWRITE",
        arity: Arity::Exactly(2),
        flags: ADMIN_ANY_TIME,
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Ceiling,
        run: Run::Refused(
            "settings that must survive a restart belong in the configuration file, flags or environment",
        ),
        docs: Docs { summary: "Writes the configuration back to its file.", since: "2.8.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "HELP",
        arity: Arity::Exactly(2),
        flags: Flags::LOADING.and(Flags::STALE),
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Public,
        run: Run::OnSession(introspect::help),
        docs: Docs { summary: "Lists the subcommands of CONFIG.", since: "5.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
];

const MODULE: &[Command] = &[
    Command {
        name: "LIST",
        arity: Arity::Exactly(2),
        flags: Flags::ADMIN.and(Flags::NOSCRIPT),
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Ceiling,
        run: Run::OnSession(module_list),
        docs: Docs { summary: "Lists the loaded modules.", since: "4.0.0", complexity: "O(N)" },
        extra: Extra { tips: &["nondeterministic_output_order"], ..Extra::NONE },
    },
    Command {
        name: "LOAD",
        arity: Arity::AtLeast(3),
        flags: Flags::ADMIN.and(Flags::NOSCRIPT).and(Flags::NO_ASYNC_LOADING),
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Ceiling,
        run: Run::Refused("modules cannot be loaded"),
        docs: Docs { summary: "Loads a module.", since: "4.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "LOADEX",
        arity: Arity::AtLeast(3),
        flags: Flags::ADMIN.and(Flags::NOSCRIPT).and(Flags::NO_ASYNC_LOADING),
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Ceiling,
        run: Run::Refused("modules cannot be loaded"),
        docs: Docs { summary: "Loads a module with parameters.", since: "7.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "UNLOAD",
        arity: Arity::Exactly(3),
        flags: Flags::ADMIN.and(Flags::NOSCRIPT).and(Flags::NO_ASYNC_LOADING),
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Ceiling,
        run: Run::Refused("modules cannot be loaded"),
        docs: Docs { summary: "Unloads a module.", since: "4.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "HELP",
        arity: Arity::Exactly(2),
        flags: Flags::LOADING.and(Flags::STALE),
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Public,
        run: Run::OnSession(introspect::help),
        docs: Docs { summary: "Lists the subcommands of MODULE.", since: "5.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
];

fn info(_: &Session, _: &Surroundings<'_>, mut args: Args<'_>) -> Result<Ask, CommandError> {
    let sections = args.rest().iter().map(|section| String::from_utf8_lossy(section).to_ascii_lowercase());
    Ok(Ask::ShowInfo(sections.collect()))
}

fn time(_: &mut Session, surroundings: &Surroundings<'_>, _: Args<'_>, reply: &mut Reply) -> Result<(), CommandError> {
    reply.array(2);
    reply.bulk_integer(surroundings.now_us / 1_000_000);
    reply.bulk_integer(surroundings.now_us % 1_000_000);
    Ok(())
}

fn role(_: &Session, _: &Surroundings<'_>, _: Args<'_>) -> Result<Ask, CommandError> {
    Ok(Ask::ShowRole)
}

/// `FAILOVER [TO host port] [TIMEOUT ms]`: planned, and over when it is answered. What it takes is bounded, so there is nothing to
/// abort.
fn failover(_: &Session, _: &Surroundings<'_>, mut args: Args<'_>) -> Result<Ask, CommandError> {
    let (mut to, mut patience) = (None, None);
    while !args.is_empty() {
        if args.accept("TO") && to.is_none() {
            let host = String::from_utf8_lossy(args.take()?).into_owned();
            to = Some((host, u16::try_from(args.integer()?).map_err(|_| CommandError::NotInteger)?));
        } else if args.accept("TIMEOUT") {
            let ms = u64::try_from(args.integer()?).ok().filter(|ms| *ms > 0);
            let ms = ms.ok_or_else(|| CommandError::err("FAILOVER timeout must be greater than 0"))?;
            patience = Some(Duration::from_millis(ms));
        } else if args.accept("ABORT") {
            return Err(CommandError::err("No failover in progress."));
        } else if args.accept("FORCE") {
            return Err(CommandError::err(
                "FAILOVER does not lose writes: use keywardctl failover --to NODE --accept-loss",
            ));
        } else {
            return Err(CommandError::Syntax);
        }
    }
    Ok(Ask::Failover { to, patience })
}

/// `LOLWUT [VERSION n] [columns [rows]]`: a maze, another one every second.
fn lolwut(
    _: &mut Session,
    surroundings: &Surroundings<'_>,
    mut args: Args<'_>,
    reply: &mut Reply,
) -> Result<(), CommandError> {
    if args.accept("VERSION") {
        args.integer()?;
    }
    let mut size = |usual: i64, most: i64| -> Result<i64, CommandError> {
        Ok(if args.is_empty() { usual } else { args.integer()?.clamp(1, most) })
    };
    let (columns, rows) = (size(48, 160)?, size(8, 60)?);
    let mut dice = surroundings.now_us as u64 / 1_000_000;
    let mut text = String::new();
    for _ in 0..rows {
        for _ in 0..columns {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            text.push(if dice >> 63 == 0 { '\u{2571}' } else { '\u{2572}' });
        }
        text.push('\n');
    }
    text += "\nMany ways in, and walls between them. Keyward, as Redis ver. 7.4.2\n";
    reply.verbatim(text.as_bytes());
    Ok(())
}

fn save(_: &Session, _: &Surroundings<'_>, _: Args<'_>) -> Result<Ask, CommandError> {
    Ok(Ask::Save)
}

/// `BGSAVE [SCHEDULE]`: a save that is asked for during another one is refused either way.
fn bgsave(_: &Session, _: &Surroundings<'_>, mut args: Args<'_>) -> Result<Ask, CommandError> {
    args.accept("SCHEDULE");
    args.finish()?;
    Ok(Ask::SaveInBackground)
}

fn lastsave(_: &Session, _: &Surroundings<'_>, _: Args<'_>) -> Result<Ask, CommandError> {
    Ok(Ask::ShowLastSave)
}

/// `SHUTDOWN [NOSAVE | SAVE] [NOW] [FORCE]`.
fn shutdown(_: &Session, _: &Surroundings<'_>, mut args: Args<'_>) -> Result<Ask, CommandError> {
    let mut save = None;
    while !args.is_empty() {
        if args.accept("SAVE") && save != Some(false) {
            save = Some(true);
        } else if args.accept("NOSAVE") && save != Some(true) {
            save = Some(false);
        } else if !args.accept("NOW") && !args.accept("FORCE") {
            return Err(CommandError::Syntax);
        }
    }
    Ok(Ask::Shutdown { save })
}

fn config_get(_: &Session, at: &Surroundings<'_>, args: Args<'_>) -> Result<Ask, CommandError> {
    Ok(Ask::ShowConfig(args.patterns(at.pattern_bytes_max)?))
}

fn config_set(_: &Session, _: &Surroundings<'_>, mut args: Args<'_>) -> Result<Ask, CommandError> {
    let rest = args.rest();
    if !rest.len().is_multiple_of(2) {
        return Err(CommandError::Arity("config|set".to_owned()));
    }
    let pairs = rest.chunks_exact(2).map(|pair| (pair[0].to_vec(), pair[1].to_vec()));
    Ok(Ask::SetConfig(pairs.collect()))
}

fn config_resetstat(_: &Session, _: &Surroundings<'_>, _: Args<'_>) -> Result<Ask, CommandError> {
    Ok(Ask::ResetStatistics)
}

fn module_list(_: &mut Session, _: &Surroundings<'_>, _: Args<'_>, reply: &mut Reply) -> Result<(), CommandError> {
    reply.array(0);
    Ok(())
}
