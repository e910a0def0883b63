//! What tells how the node is doing: MEMORY, SLOWLOG, COMMANDLOG and LATENCY.
//!
//! The handlers read what is asked for; the node keeps the rings and the counters. It is long because each subcommand has
//! its declaration here, one after the other.

use crate::args::Args;
use crate::asks::{Ask, CommandLogAsk, CommandLogKind, LatencyAsk, MemoryAsk};
use crate::command::{Arity, Command, Docs, Extra, Flags, Group, KeyRule, KeySpec, Run};
use crate::commands::{ADMIN_ANY_TIME, LOOKS_AT};
use crate::error::CommandError;
use crate::introspect;
use crate::keyspace::Keys;
use crate::reply::Reply;
use crate::scope::{Of, Scope};
use crate::session::{Session, Surroundings};

pub(super) const MEMORY: &[Command] = &[
    Command {
        name: "USAGE",
        arity: Arity::AtLeast(3),
        flags: Flags::READONLY,
        group: Group::Server,
        keys: KeyRule::At(&[KeySpec::at(2, LOOKS_AT)]),
        scope: Scope::Named,
        run: Run::OnKeys(memory_usage),
        docs: Docs {
            summary: "Estimates the memory a key takes.",
            since: "4.0.0",
            complexity: "O(N) where N is the number of samples",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "STATS",
        arity: Arity::Exactly(2),
        flags: Flags::NONE,
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Filtered(Of::Server),
        run: Run::Ask(memory_stats),
        docs: Docs { summary: "Details the use of memory.", since: "4.0.0", complexity: "O(1)" },
        extra: Extra {
            tips: &["nondeterministic_output", "request_policy:all_shards", "response_policy:special"],
            ..Extra::NONE
        },
    },
    Command {
        name: "DOCTOR",
        arity: Arity::Exactly(2),
        flags: Flags::NONE,
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Filtered(Of::Server),
        run: Run::Ask(memory_doctor),
        docs: Docs { summary: "Gives advice on the use of memory.", since: "4.0.0", complexity: "O(1)" },
        extra: Extra {
            tips: &["nondeterministic_output", "request_policy:all_shards", "response_policy:special"],
            ..Extra::NONE
        },
    },
    Command {
        name: "MALLOC-STATS",
        arity: Arity::Exactly(2),
        flags: Flags::LOADING,
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Ceiling,
        run: Run::Ask(memory_allocator),
        docs: Docs {
            summary: "Returns the counters of the allocator.",
            since: "4.0.0",
            complexity: "Depends on how much memory is allocated, could be slow",
        },
        extra: Extra {
            tips: &["nondeterministic_output", "request_policy:all_shards", "response_policy:special"],
            ..Extra::NONE
        },
    },
    Command {
        name: "PURGE",
        arity: Arity::Exactly(2),
        flags: Flags::LOADING,
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Ceiling,
        run: Run::Ask(memory_purge),
        docs: Docs {
            summary: "Asks the allocator to give memory back.",
            since: "4.0.0",
            complexity: "Depends on how much memory is allocated, could be slow",
        },
        extra: Extra { tips: &["request_policy:all_shards", "response_policy:all_succeeded"], ..Extra::NONE },
    },
    Command {
        name: "HELP",
        arity: Arity::Exactly(2),
        flags: Flags::LOADING.and(Flags::STALE),
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Public,
        run: Run::OnSession(introspect::help),
        docs: Docs { summary: "Lists the subcommands of MEMORY.", since: "4.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
];

pub(super) const SLOWLOG: &[Command] = &[
    Command {
        name: "GET",
        arity: Arity::AtLeast(2),
        flags: Flags::ADMIN.and(Flags::LOADING).and(Flags::STALE),
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Filtered(Of::Records),
        run: Run::Ask(slowlog_get),
        docs: Docs {
            summary: "Returns entries of the slow log.",
            since: "2.2.12",
            complexity: "O(N) where N is the number of entries returned",
        },
        extra: Extra { tips: &["request_policy:all_nodes", "nondeterministic_output"], ..Extra::NONE },
    },
    Command {
        name: "LEN",
        arity: Arity::Exactly(2),
        flags: Flags::ADMIN.and(Flags::LOADING).and(Flags::STALE),
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Filtered(Of::Records),
        run: Run::Ask(slowlog_len),
        docs: Docs { summary: "Counts the entries of the slow log.", since: "2.2.12", complexity: "O(1)" },
        extra: Extra {
            tips: &["request_policy:all_nodes", "response_policy:agg_sum", "nondeterministic_output"],
            ..Extra::NONE
        },
    },
    Command {
        name: "RESET",
        arity: Arity::Exactly(2),
        flags: Flags::ADMIN.and(Flags::LOADING).and(Flags::STALE),
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Filtered(Of::Records),
        run: Run::Ask(slowlog_reset),
        docs: Docs { summary: "Empties the slow log.", since: "2.2.12", complexity: "O(N)" },
        extra: Extra { tips: &["request_policy:all_nodes", "response_policy:all_succeeded"], ..Extra::NONE },
    },
    Command {
        name: "HELP",
        arity: Arity::Exactly(2),
        flags: Flags::LOADING.and(Flags::STALE),
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Public,
        run: Run::OnSession(introspect::help),
        docs: Docs { summary: "Lists the subcommands of SLOWLOG.", since: "6.2.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
];

pub(super) const COMMANDLOG: &[Command] = &[
    Command {
        name: "GET",
        arity: Arity::Exactly(4),
        flags: Flags::ADMIN.and(Flags::LOADING).and(Flags::STALE),
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Filtered(Of::Records),
        run: Run::Ask(commandlog_get),
        docs: Docs {
            summary: "Returns entries of a command log.",
            since: "8.1.0",
            complexity: "O(N) where N is the number of entries returned",
        },
        extra: Extra { tips: &["request_policy:all_nodes", "nondeterministic_output"], ..Extra::NONE },
    },
    Command {
        name: "LEN",
        arity: Arity::Exactly(3),
        flags: Flags::ADMIN.and(Flags::LOADING).and(Flags::STALE),
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Filtered(Of::Records),
        run: Run::Ask(commandlog_len),
        docs: Docs { summary: "Counts the entries of a command log.", since: "8.1.0", complexity: "O(1)" },
        extra: Extra {
            tips: &["request_policy:all_nodes", "response_policy:agg_sum", "nondeterministic_output"],
            ..Extra::NONE
        },
    },
    Command {
        name: "RESET",
        arity: Arity::Exactly(3),
        flags: Flags::ADMIN.and(Flags::LOADING).and(Flags::STALE),
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Filtered(Of::Records),
        run: Run::Ask(commandlog_reset),
        docs: Docs { summary: "Empties a command log.", since: "8.1.0", complexity: "O(N)" },
        extra: Extra { tips: &["request_policy:all_nodes", "response_policy:all_succeeded"], ..Extra::NONE },
    },
    Command {
        name: "HELP",
        arity: Arity::Exactly(2),
        flags: Flags::LOADING.and(Flags::STALE),
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Public,
        run: Run::OnSession(introspect::help),
        docs: Docs { summary: "Lists the subcommands of COMMANDLOG.", since: "8.1.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
];

pub(super) const LATENCY: &[Command] = &[
    Command {
        name: "DOCTOR",
        arity: Arity::Exactly(2),
        flags: ADMIN_ANY_TIME,
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Ceiling,
        run: Run::Ask(latency_doctor),
        docs: Docs { summary: "Gives advice on slow events.", since: "2.8.13", complexity: "O(1)" },
        extra: Extra {
            tips: &["nondeterministic_output", "request_policy:all_nodes", "response_policy:special"],
            ..Extra::NONE
        },
    },
    Command {
        name: "GRAPH",
        arity: Arity::Exactly(3),
        flags: ADMIN_ANY_TIME,
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Ceiling,
        run: Run::Ask(latency_graph),
        docs: Docs { summary: "Draws how long an event took over time.", since: "2.8.13", complexity: "O(1)" },
        extra: Extra {
            tips: &["nondeterministic_output", "request_policy:all_nodes", "response_policy:special"],
            ..Extra::NONE
        },
    },
    Command {
        name: "HISTOGRAM",
        arity: Arity::AtLeast(2),
        flags: ADMIN_ANY_TIME,
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Filtered(Of::Records),
        run: Run::Ask(latency_histogram),
        docs: Docs { summary: "Returns how long commands took.", since: "7.0.0", complexity: "O(N)" },
        extra: Extra {
            tips: &["nondeterministic_output", "request_policy:all_nodes", "response_policy:special"],
            ..Extra::NONE
        },
    },
    Command {
        name: "HISTORY",
        arity: Arity::Exactly(3),
        flags: ADMIN_ANY_TIME,
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Filtered(Of::Records),
        run: Run::Ask(latency_history),
        docs: Docs { summary: "Returns how long an event took over time.", since: "2.8.13", complexity: "O(1)" },
        extra: Extra {
            tips: &["nondeterministic_output", "request_policy:all_nodes", "response_policy:special"],
            ..Extra::NONE
        },
    },
    Command {
        name: "LATEST",
        arity: Arity::Exactly(2),
        flags: ADMIN_ANY_TIME,
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Filtered(Of::Records),
        run: Run::Ask(latency_latest),
        docs: Docs { summary: "Returns the latest slow events.", since: "2.8.13", complexity: "O(1)" },
        extra: Extra {
            tips: &["nondeterministic_output", "request_policy:all_nodes", "response_policy:special"],
            ..Extra::NONE
        },
    },
    Command {
        name: "RESET",
        arity: Arity::AtLeast(2),
        flags: ADMIN_ANY_TIME,
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Filtered(Of::Records),
        run: Run::Ask(latency_reset),
        docs: Docs { summary: "Forgets slow events.", since: "2.8.13", complexity: "O(1)" },
        extra: Extra { tips: &["request_policy:all_nodes", "response_policy:agg_sum"], ..Extra::NONE },
    },
    Command {
        name: "HELP",
        arity: Arity::Exactly(2),
        flags: Flags::LOADING.and(Flags::STALE),
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Public,
        run: Run::OnSession(introspect::help),
        docs: Docs { summary: "Lists the subcommands of LATENCY.", since: "2.8.13", complexity: "O(1)" },
        extra: Extra::NONE,
    },
];

/// Entries that `SLOWLOG GET` shows unless told otherwise.
const SHOWN_ENTRIES: usize = 10;

/// `MEMORY USAGE key [SAMPLES count]`: nothing is sampled here, sizes are kept.
fn memory_usage(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Result<(), CommandError> {
    let key = args.take()?;
    if args.accept("SAMPLES") {
        args.count(CommandError::Syntax)?;
    }
    args.finish()?;
    match keys.peek(key) {
        None => reply.null(),
        Some(entry) => {
            let object = match entry.value() {
                crate::dict::ValueRef::Object(object) => object.memory_bytes(),
                _ => 0,
            };
            reply.count(entry.memory_bytes() + object);
        }
    }
    Ok(())
}

fn memory_purge(_: &Session, _: &Surroundings<'_>, _: Args<'_>) -> Result<Ask, CommandError> {
    Ok(Ask::PurgeMemory)
}

fn memory_stats(_: &Session, _: &Surroundings<'_>, _: Args<'_>) -> Result<Ask, CommandError> {
    Ok(Ask::Memory(MemoryAsk::Statistics))
}

fn memory_doctor(_: &Session, _: &Surroundings<'_>, _: Args<'_>) -> Result<Ask, CommandError> {
    Ok(Ask::Memory(MemoryAsk::Advice))
}

fn memory_allocator(_: &Session, _: &Surroundings<'_>, _: Args<'_>) -> Result<Ask, CommandError> {
    Ok(Ask::Memory(MemoryAsk::Allocator))
}

/// `SLOWLOG GET [count]`; -1 means all.
fn slowlog_get(_: &Session, _: &Surroundings<'_>, mut args: Args<'_>) -> Result<Ask, CommandError> {
    let count = if args.is_empty() { Some(SHOWN_ENTRIES) } else { entries(&mut args)? };
    let too_many = "unknown subcommand or wrong number of arguments for 'GET'. Try SLOWLOG HELP.";
    args.finish().map_err(|_| CommandError::err(too_many))?;
    Ok(Ask::CommandLog(CommandLogKind::Slow, CommandLogAsk::Show(count)))
}

fn slowlog_len(_: &Session, _: &Surroundings<'_>, _: Args<'_>) -> Result<Ask, CommandError> {
    Ok(Ask::CommandLog(CommandLogKind::Slow, CommandLogAsk::Count))
}

fn slowlog_reset(_: &Session, _: &Surroundings<'_>, _: Args<'_>) -> Result<Ask, CommandError> {
    Ok(Ask::CommandLog(CommandLogKind::Slow, CommandLogAsk::Reset))
}

/// `COMMANDLOG GET count type`.
fn commandlog_get(_: &Session, _: &Surroundings<'_>, mut args: Args<'_>) -> Result<Ask, CommandError> {
    let count = entries(&mut args)?;
    Ok(Ask::CommandLog(log_kind(&mut args)?, CommandLogAsk::Show(count)))
}

fn commandlog_len(_: &Session, _: &Surroundings<'_>, mut args: Args<'_>) -> Result<Ask, CommandError> {
    Ok(Ask::CommandLog(log_kind(&mut args)?, CommandLogAsk::Count))
}

fn commandlog_reset(_: &Session, _: &Surroundings<'_>, mut args: Args<'_>) -> Result<Ask, CommandError> {
    Ok(Ask::CommandLog(log_kind(&mut args)?, CommandLogAsk::Reset))
}

/// How many entries; `None`: all.
fn entries(args: &mut Args<'_>) -> Result<Option<usize>, CommandError> {
    let bad = || CommandError::err("count should be greater than or equal to -1");
    let count = args.integer().map_err(|_| bad())?;
    if count == -1 {
        return Ok(None);
    }
    usize::try_from(count).map(Some).map_err(|_| bad())
}

fn log_kind(args: &mut Args<'_>) -> Result<CommandLogKind, CommandError> {
    for (word, kind) in [
        ("slow", CommandLogKind::Slow),
        ("large-request", CommandLogKind::LargeRequest),
        ("large-reply", CommandLogKind::LargeReply),
    ] {
        if args.accept(word) {
            return Ok(kind);
        }
    }
    Err(CommandError::err("type should be one of the following: slow, large-request, large-reply"))
}

fn latency_doctor(_: &Session, _: &Surroundings<'_>, _: Args<'_>) -> Result<Ask, CommandError> {
    Ok(Ask::Latency(LatencyAsk::Doctor))
}

fn latency_graph(_: &Session, _: &Surroundings<'_>, mut args: Args<'_>) -> Result<Ask, CommandError> {
    Ok(Ask::Latency(LatencyAsk::Graph(args.take()?.to_vec())))
}

/// `LATENCY HISTOGRAM [command …]`; without names, every command that was called.
fn latency_histogram(_: &Session, _: &Surroundings<'_>, mut args: Args<'_>) -> Result<Ask, CommandError> {
    Ok(Ask::Latency(LatencyAsk::Histogram(owned(args.rest()))))
}

fn latency_history(_: &Session, _: &Surroundings<'_>, mut args: Args<'_>) -> Result<Ask, CommandError> {
    Ok(Ask::Latency(LatencyAsk::History(args.take()?.to_vec())))
}

fn latency_latest(_: &Session, _: &Surroundings<'_>, _: Args<'_>) -> Result<Ask, CommandError> {
    Ok(Ask::Latency(LatencyAsk::Latest))
}

/// `LATENCY RESET [event …]`; without names, all.
fn latency_reset(_: &Session, _: &Surroundings<'_>, mut args: Args<'_>) -> Result<Ask, CommandError> {
    Ok(Ask::Latency(LatencyAsk::Reset(owned(args.rest()))))
}

fn owned(names: &[&[u8]]) -> Vec<Vec<u8>> {
    names.iter().map(|name| name.to_vec()).collect()
}
