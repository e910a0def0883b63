//! Streams: entries in the order of their ids, and the groups that read them.
//!
//! It refuses to know how entries are stored. Declarations on top, one entry per command; then the handlers of what
//! needs no group. It is long because the declarations are many; reading, groups and their pending entries, and XINFO
//! are beside it.

mod claim;
mod group;
mod info;
mod parse;
mod pending;
mod read;
#[cfg(test)]
mod tests;

use super::collections::Answer;
use super::{ADDS, LOOKS_AT, READS, REMOVES, UPDATES};
use crate::args::Args;
use crate::command::{Arity, Begin, Command, Docs, Extra, Find, Flags, Group, KeyRule, KeySpec, Run};
use crate::error::CommandError;
use crate::events::EventClass;
use crate::introspect;
use crate::keyspace::{Keys, Missing};
use crate::reply::Reply;
use crate::scope::Scope;
use crate::types::{Stream, StreamEntry, StreamId, number};
use parse::{NewId, Trim};

pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "XADD",
        arity: Arity::AtLeast(5),
        flags: Flags::WRITE.and(Flags::DENYOOM).and(Flags::FAST),
        group: Group::Stream,
        keys: KeyRule::At(&[KeySpec::at(1, UPDATES)]),
        scope: Scope::Named,
        run: Run::OnKeys(xadd),
        docs: Docs { summary: "Appends an entry to a stream.", since: "5.0.0", complexity: "O(1)" },
        extra: Extra { tips: &["nondeterministic_output"], ..Extra::NONE },
    },
    Command {
        name: "XLEN",
        arity: Arity::Exactly(2),
        flags: Flags::READONLY.and(Flags::FAST),
        group: Group::Stream,
        keys: KeyRule::At(&[KeySpec::at(1, LOOKS_AT)]),
        scope: Scope::Named,
        run: Run::OnKeys(xlen),
        docs: Docs { summary: "Tells how many entries a stream has.", since: "5.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "XRANGE",
        arity: Arity::AtLeast(4),
        flags: Flags::READONLY,
        group: Group::Stream,
        keys: KeyRule::At(&[KeySpec::at(1, READS)]),
        scope: Scope::Named,
        run: Run::OnKeys(xrange),
        docs: Docs {
            summary: "Returns the entries of a stream within a range of ids.",
            since: "5.0.0",
            complexity: "O(N)",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "XREVRANGE",
        arity: Arity::AtLeast(4),
        flags: Flags::READONLY,
        group: Group::Stream,
        keys: KeyRule::At(&[KeySpec::at(1, READS)]),
        scope: Scope::Named,
        run: Run::OnKeys(xrevrange),
        docs: Docs {
            summary: "Returns the entries of a stream within a range of ids, last first.",
            since: "5.0.0",
            complexity: "O(N)",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "XREAD",
        arity: Arity::AtLeast(4),
        flags: Flags::READONLY.and(Flags::BLOCKING),
        group: Group::Stream,
        keys: KeyRule::Parsed(
            &[KeySpec {
                flags: READS,
                begin: Begin::Keyword { word: "STREAMS", from: 1 },
                find: Find::Range { last: -1, step: 1, limit: 2 },
            }],
            read::keys,
        ),
        scope: Scope::Named,
        run: Run::OnKeys(read::xread),
        docs: Docs {
            summary: "Returns the entries of streams after given ids, and may wait for some.",
            since: "5.0.0",
            complexity: "O(N)",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "XREADGROUP",
        arity: Arity::AtLeast(7),
        flags: Flags::WRITE.and(Flags::BLOCKING),
        group: Group::Stream,
        keys: KeyRule::Parsed(
            &[KeySpec {
                flags: READS,
                begin: Begin::Keyword { word: "STREAMS", from: 4 },
                find: Find::Range { last: -1, step: 1, limit: 2 },
            }],
            read::group_keys,
        ),
        scope: Scope::Named,
        run: Run::OnKeys(read::xreadgroup),
        docs: Docs {
            summary: "Returns entries of streams to a consumer of a group, and may wait for some.",
            since: "5.0.0",
            complexity: "O(N) for N entries",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "XDEL",
        arity: Arity::AtLeast(3),
        flags: Flags::WRITE.and(Flags::FAST),
        group: Group::Stream,
        keys: KeyRule::At(&[KeySpec::at(1, REMOVES)]),
        scope: Scope::Named,
        run: Run::OnKeys(xdel),
        docs: Docs { summary: "Deletes entries of a stream.", since: "5.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "XTRIM",
        arity: Arity::AtLeast(4),
        flags: Flags::WRITE,
        group: Group::Stream,
        keys: KeyRule::At(&[KeySpec::at(1, REMOVES)]),
        scope: Scope::Named,
        run: Run::OnKeys(xtrim),
        docs: Docs { summary: "Deletes the oldest entries of a stream.", since: "5.0.0", complexity: "O(N)" },
        extra: Extra { tips: &["nondeterministic_output"], ..Extra::NONE },
    },
    Command {
        name: "XSETID",
        arity: Arity::AtLeast(3),
        flags: Flags::WRITE.and(Flags::DENYOOM).and(Flags::FAST),
        group: Group::Stream,
        keys: KeyRule::At(&[KeySpec::at(1, UPDATES)]),
        scope: Scope::Named,
        run: Run::OnKeys(xsetid),
        docs: Docs { summary: "Sets the last id of a stream.", since: "5.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "XACK",
        arity: Arity::AtLeast(4),
        flags: Flags::WRITE.and(Flags::FAST),
        group: Group::Stream,
        keys: KeyRule::At(&[KeySpec::at(1, UPDATES)]),
        scope: Scope::Named,
        run: Run::OnKeys(pending::xack),
        docs: Docs {
            summary: "Tells a group that entries have been dealt with.",
            since: "5.0.0",
            complexity: "O(1) for each message ID processed",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "XCLAIM",
        arity: Arity::AtLeast(6),
        flags: Flags::WRITE.and(Flags::FAST),
        group: Group::Stream,
        keys: KeyRule::At(&[KeySpec::at(1, UPDATES)]),
        scope: Scope::NamedAndRead,
        run: Run::OnKeys(claim::xclaim),
        docs: Docs {
            summary: "Takes over pending entries of a group for a consumer.",
            since: "5.0.0",
            complexity: "O(log N)",
        },
        extra: Extra { tips: &["nondeterministic_output"], ..Extra::NONE },
    },
    Command {
        name: "XAUTOCLAIM",
        arity: Arity::AtLeast(6),
        flags: Flags::WRITE.and(Flags::FAST),
        group: Group::Stream,
        keys: KeyRule::At(&[KeySpec::at(1, REMOVES)]),
        scope: Scope::NamedAndRead,
        run: Run::OnKeys(claim::xautoclaim),
        docs: Docs {
            summary: "Takes over entries of a group that have been pending for long.",
            since: "6.2.0",
            complexity: "O(1) if COUNT is small",
        },
        extra: Extra { tips: &["nondeterministic_output"], ..Extra::NONE },
    },
    Command {
        name: "XPENDING",
        arity: Arity::AtLeast(3),
        flags: Flags::READONLY,
        group: Group::Stream,
        keys: KeyRule::At(&[KeySpec::at(1, READS)]),
        scope: Scope::Named,
        run: Run::OnKeys(pending::xpending),
        docs: Docs { summary: "Tells which entries of a group are pending.", since: "5.0.0", complexity: "O(N)" },
        extra: Extra { tips: &["nondeterministic_output"], ..Extra::NONE },
    },
    Command {
        name: "XGROUP",
        arity: Arity::AtLeast(2),
        flags: Flags::NONE,
        group: Group::Stream,
        keys: KeyRule::None,
        scope: Scope::Subcommands,
        run: Run::Container(XGROUP),
        docs: Docs {
            summary: "Manages the consumer groups of a stream.",
            since: "5.0.0",
            complexity: "Depends on subcommand",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "XINFO",
        arity: Arity::AtLeast(2),
        flags: Flags::NONE,
        group: Group::Stream,
        keys: KeyRule::None,
        scope: Scope::Subcommands,
        run: Run::Container(XINFO),
        docs: Docs {
            summary: "Looks at a stream and its groups.",
            since: "5.0.0",
            complexity: "Depends on subcommand",
        },
        extra: Extra::NONE,
    },
];

const XGROUP: &[Command] = &[
    Command {
        name: "CREATE",
        arity: Arity::AtLeast(5),
        flags: Flags::WRITE.and(Flags::DENYOOM),
        group: Group::Stream,
        keys: KeyRule::At(&[KeySpec::at(2, ADDS)]),
        scope: Scope::Named,
        run: Run::OnKeys(group::create),
        docs: Docs { summary: "Creates a consumer group.", since: "5.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "CREATECONSUMER",
        arity: Arity::Exactly(5),
        flags: Flags::WRITE.and(Flags::DENYOOM),
        group: Group::Stream,
        keys: KeyRule::At(&[KeySpec::at(2, ADDS)]),
        scope: Scope::Named,
        run: Run::OnKeys(group::create_consumer),
        docs: Docs { summary: "Creates a consumer in a group.", since: "6.2.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "DELCONSUMER",
        arity: Arity::Exactly(5),
        flags: Flags::WRITE,
        group: Group::Stream,
        keys: KeyRule::At(&[KeySpec::at(2, REMOVES)]),
        scope: Scope::Named,
        run: Run::OnKeys(group::delete_consumer),
        docs: Docs { summary: "Deletes a consumer of a group.", since: "5.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "DESTROY",
        arity: Arity::Exactly(4),
        flags: Flags::WRITE,
        group: Group::Stream,
        keys: KeyRule::At(&[KeySpec::at(2, REMOVES)]),
        scope: Scope::Named,
        run: Run::OnKeys(group::destroy),
        docs: Docs { summary: "Deletes a consumer group.", since: "5.0.0", complexity: "O(N)" },
        extra: Extra::NONE,
    },
    Command {
        name: "SETID",
        arity: Arity::AtLeast(5),
        flags: Flags::WRITE,
        group: Group::Stream,
        keys: KeyRule::At(&[KeySpec::at(2, UPDATES)]),
        scope: Scope::Named,
        run: Run::OnKeys(group::set_id),
        docs: Docs { summary: "Sets the last id that a group has delivered.", since: "5.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "HELP",
        arity: Arity::Exactly(2),
        flags: Flags::LOADING.and(Flags::STALE),
        group: Group::Stream,
        keys: KeyRule::None,
        scope: Scope::Public,
        run: Run::OnSession(introspect::help),
        docs: Docs { summary: "Lists the subcommands of XGROUP.", since: "5.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
];

const XINFO: &[Command] = &[
    Command {
        name: "STREAM",
        arity: Arity::AtLeast(3),
        flags: Flags::READONLY,
        group: Group::Stream,
        keys: KeyRule::At(&[KeySpec::at(2, READS)]),
        scope: Scope::Named,
        run: Run::OnKeys(info::stream),
        docs: Docs { summary: "Describes a stream.", since: "5.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "GROUPS",
        arity: Arity::Exactly(3),
        flags: Flags::READONLY,
        group: Group::Stream,
        keys: KeyRule::At(&[KeySpec::at(2, READS)]),
        scope: Scope::Named,
        run: Run::OnKeys(info::groups),
        docs: Docs { summary: "Lists the consumer groups of a stream.", since: "5.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "CONSUMERS",
        arity: Arity::Exactly(4),
        flags: Flags::READONLY,
        group: Group::Stream,
        keys: KeyRule::At(&[KeySpec::at(2, READS)]),
        scope: Scope::Named,
        run: Run::OnKeys(info::consumers),
        docs: Docs { summary: "Lists the consumers of a group.", since: "5.0.0", complexity: "O(1)" },
        extra: Extra { tips: &["nondeterministic_output"], ..Extra::NONE },
    },
    Command {
        name: "HELP",
        arity: Arity::Exactly(2),
        flags: Flags::LOADING.and(Flags::STALE),
        group: Group::Stream,
        keys: KeyRule::None,
        scope: Scope::Public,
        run: Run::OnSession(introspect::help),
        docs: Docs { summary: "Lists the subcommands of XINFO.", since: "5.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
];

/// The most bytes an entry may have, names included.
const ENTRY_BYTES_MAX: usize = 1 << 30;

/// `XADD key [NOMKSTREAM] [MAXLEN|MINID [=|~] threshold [LIMIT count]] *|id field value [field value …]`
fn xadd(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    let argv = args.argv();
    let options = parse::trimming(argv, true, keys.limits())?;
    let (key, pairs) = (argv[1], &argv[(options.id_at + 1).min(argv.len())..]);
    if pairs.is_empty() || !pairs.len().is_multiple_of(2) {
        return Err(CommandError::Arity("xadd".into()));
    }
    if options.id == NewId::Given(StreamId::MIN) {
        return Err(CommandError::err("The ID specified in XADD must be greater than 0-0"));
    }
    if pairs.iter().map(|text| text.len()).sum::<usize>() > ENTRY_BYTES_MAX {
        return Err(CommandError::err("Elements are too large to be stored"));
    }
    let missing = if options.no_stream { Missing::Skip } else { Missing::Create };
    let (now, limits) = (keys.now(), keys.limits());
    let added = keys.amend(key, missing, |stream: &mut Stream| {
        let id = options.id.choose(stream.last_id(), now)?;
        stream.append(id, pairs, limits);
        let trimmed = options.trim.as_ref().map_or(0, |trim| trim.carry_out(stream));
        Ok::<_, CommandError>((id, trimmed, stream.len()))
    })?;
    let Some(added) = added else {
        reply.null();
        return Ok(());
    };
    let (id, trimmed, len) = added?;
    let text = id.text();
    reply.bulk(&text);
    keys.touched(key);
    keys.event(EventClass::STREAM, "xadd", key);
    if trimmed > 0 {
        keys.event(EventClass::STREAM, "xtrim", key);
    }
    keys.effects.changed(1);
    if options.trim.as_ref().is_some_and(|trim| trim.approximate) {
        // Where nodes end is this node's own affair: others are told what is left.
        keys.effects.rewrite(2..options.id_at + 1, &text);
        if trimmed > 0 {
            keys.effects.follow(&[b"XTRIM", key, b"MAXLEN", b"=", &number::format_i64(len as i64)]);
        }
    } else if !matches!(options.id, NewId::Given(_)) {
        keys.effects.rewrite(options.id_at..options.id_at + 1, &text);
    }
    Ok(())
}

/// `XTRIM key MAXLEN|MINID [=|~] threshold [LIMIT count]`
fn xtrim(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    let argv = args.argv();
    let key = argv[1];
    let trim = parse::trimming(argv, false, keys.limits())?.trim.ok_or(CommandError::Syntax)?;
    let trimmed = keys.amend(key, Missing::Skip, |stream: &mut Stream| (trim.carry_out(stream), stream.len()))?;
    let (deleted, len) = trimmed.unwrap_or_default();
    if deleted > 0 {
        keys.touched(key);
        keys.event(EventClass::STREAM, "xtrim", key);
        keys.effects.changed(deleted);
        if trim.approximate {
            keys.effects.replace(&[b"XTRIM", key, b"MAXLEN", b"=", &number::format_i64(len as i64)]);
        }
    }
    reply.integer(deleted as i64);
    Ok(())
}

/// `XLEN key`
fn xlen(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    reply.count(keys.get::<Stream>(args.take()?)?.map_or(0, Stream::len));
    Ok(())
}

/// `XRANGE key start end [COUNT count]`
fn xrange(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    range(keys, args, false, reply)
}

/// `XREVRANGE key end start [COUNT count]`
fn xrevrange(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    range(keys, args, true, reply)
}

fn range(keys: &mut Keys<'_>, mut args: Args<'_>, backwards: bool, reply: &mut Reply) -> Answer {
    let (key, first, second) = (args.take()?, args.take()?, args.take()?);
    let (start, end) = if backwards { (second, first) } else { (first, second) };
    let (start, end) = (parse::range_start(start)?, parse::range_end(end)?);
    let mut count = usize::MAX;
    while !args.is_empty() {
        if args.len() < 2 || !args.accept("COUNT") {
            return Err(CommandError::Syntax);
        }
        count = args.integer()?.max(0) as usize;
    }
    let Some(stream) = keys.get::<Stream>(key)? else {
        reply.array(0);
        return Ok(());
    };
    if count == 0 {
        reply.null_array();
    } else if backwards {
        answer_entries(stream.range_back(start, end).take(count), reply);
    } else {
        answer_entries(stream.range(start, end).take(count), reply);
    }
    Ok(())
}

/// Answers entries as an array; how many there were.
fn answer_entries<'a>(entries: impl Iterator<Item = StreamEntry<'a>>, reply: &mut Reply) -> usize {
    let head = reply.deferred_array();
    let mut count = 0;
    for entry in entries {
        answer_entry(&entry, reply);
        count += 1;
        if reply.is_too_long() {
            break;
        }
    }
    reply.finish_array(head, count);
    count
}

/// Answers an id with its fields and values.
fn answer_entry(entry: &StreamEntry<'_>, reply: &mut Reply) {
    reply.array(2);
    reply.bulk(&entry.id.text());
    reply.array(2 * entry.len());
    for (field, value) in entry.pairs() {
        reply.bulk(&field);
        reply.bulk(&value);
    }
}

/// `XDEL key id [id …]`
fn xdel(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let key = args.take()?;
    if keys.peek_as::<Stream>(key)?.is_none() {
        reply.count(0);
        return Ok(());
    }
    let ids = parse::ids(args.rest())?;
    let deleted =
        keys.amend(key, Missing::Skip, |stream: &mut Stream| ids.iter().filter(|id| stream.delete(**id)).count())?;
    let deleted = deleted.unwrap_or(0);
    if deleted > 0 {
        keys.touched(key);
        keys.event(EventClass::STREAM, "xdel", key);
        keys.effects.changed(deleted as u64);
    }
    reply.count(deleted);
    Ok(())
}

/// `XSETID key last-id [ENTRIESADDED count] [MAXDELETEDID id]`
fn xsetid(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let key = args.take()?;
    let last_id = parse::id(args.take()?, 0)?;
    let (mut entries_added, mut max_deleted_id) = (None, None);
    while !args.is_empty() {
        let more = args.len() >= 2;
        if more && args.accept("ENTRIESADDED") {
            let added = u64::try_from(args.integer()?).map_err(|_| CommandError::err("entries_added must be positive"));
            entries_added = Some(added?);
        } else if more && args.accept("MAXDELETEDID") {
            let id = parse::id(args.take()?, 0)?;
            if last_id < id {
                let text = "The ID specified in XSETID is smaller than the provided max_deleted_entry_id";
                return Err(CommandError::err(text));
            }
            max_deleted_id = Some(id).filter(|id| *id != StreamId::MIN);
        } else {
            return Err(CommandError::Syntax);
        }
    }
    let set = keys.amend(key, Missing::Skip, |stream: &mut Stream| {
        check_last_id(stream, last_id, entries_added)?;
        let entries_added = entries_added.unwrap_or(stream.entries_added());
        stream.set_history(last_id, entries_added, max_deleted_id.unwrap_or(stream.max_deleted_id()));
        Ok::<_, CommandError>(())
    })?;
    set.ok_or(CommandError::NoSuchKey)??;
    keys.touched(key);
    keys.event(EventClass::STREAM, "xsetid", key);
    keys.effects.changed(1);
    reply.ok();
    Ok(())
}

fn check_last_id(stream: &Stream, last_id: StreamId, entries_added: Option<u64>) -> Answer {
    let refused = |text: &'static str| Err(CommandError::err(text));
    if last_id < stream.max_deleted_id() {
        return refused("The ID specified in XSETID is smaller than current max_deleted_entry_id");
    }
    let Some(last) = stream.range_back(StreamId::MIN, StreamId::MAX).next() else { return Ok(()) };
    if last_id < last.id {
        return refused("The ID specified in XSETID is smaller than the target stream top item");
    }
    if entries_added.is_some_and(|added| added < stream.len() as u64) {
        return refused("The entries_added specified in XSETID is smaller than the target stream length");
    }
    Ok(())
}

impl Trim {
    fn carry_out(&self, stream: &mut Stream) -> u64 {
        stream.trim(self.keep, self.approximate, self.limit)
    }
}

/// The group that must be there is not.
fn no_group(key: &[u8], group: &[u8], where_from: &str) -> CommandError {
    let end = format!("'{where_from}");
    CommandError::quoting(b"NOGROUP No such key '", &[(key, b"' or consumer group '"), (group, end.as_bytes())])
}

/// The same, where the key is known to be there.
fn no_group_for(key: &[u8], group: &[u8]) -> CommandError {
    CommandError::quoting(b"NOGROUP No such consumer group '", &[(group, b"' for key name '"), (key, b"'")])
}

/// What the arguments of a subcommand are not.
fn subcommand_syntax(argv: &[&[u8]]) -> CommandError {
    let container = String::from_utf8_lossy(argv[0]).to_ascii_uppercase();
    let word = String::from_utf8_lossy(&argv[1][..argv[1].len().min(128)]).into_owned();
    CommandError::err(format!("unknown subcommand or wrong number of arguments for '{word}'. Try {container} HELP."))
}
