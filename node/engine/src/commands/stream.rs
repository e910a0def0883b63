//! Streams: entries in the order of their ids, and the groups that read them.
//!
//! It refuses to know how entries are stored. Declarations on top, one entry per command; parsers and
//! handlers below.

use super::{ADDS, LOOKS_AT, READS, REMOVES, UPDATES};
use crate::args::Args;
use crate::command::{Arity, Begin, Command, Docs, Extra, Find, Flags, Group, KeyList, KeyRule, KeySpec, Run};
use crate::error::CommandError;
use crate::introspect;
use std::ops::Range;

pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "XADD",
        arity: Arity::AtLeast(5),
        flags: Flags::WRITE.and(Flags::DENYOOM).and(Flags::FAST),
        group: Group::Stream,
        keys: KeyRule::At(&[KeySpec::at(1, UPDATES)]),
        run: Run::Refused("streams are not served by this version yet"),
        docs: Docs { summary: "Appends an entry to a stream.", since: "5.0.0", complexity: "O(1)" },
        extra: Extra { tips: &["nondeterministic_output"], ..Extra::NONE },
    },
    Command {
        name: "XLEN",
        arity: Arity::Exactly(2),
        flags: Flags::READONLY.and(Flags::FAST),
        group: Group::Stream,
        keys: KeyRule::At(&[KeySpec::at(1, LOOKS_AT)]),
        run: Run::Refused("streams are not served by this version yet"),
        docs: Docs { summary: "Tells how many entries a stream has.", since: "5.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "XRANGE",
        arity: Arity::AtLeast(4),
        flags: Flags::READONLY,
        group: Group::Stream,
        keys: KeyRule::At(&[KeySpec::at(1, READS)]),
        run: Run::Refused("streams are not served by this version yet"),
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
        run: Run::Refused("streams are not served by this version yet"),
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
            read_keys,
        ),
        run: Run::Refused("streams are not served by this version yet"),
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
            read_group_keys,
        ),
        run: Run::Refused("streams are not served by this version yet"),
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
        run: Run::Refused("streams are not served by this version yet"),
        docs: Docs { summary: "Deletes entries of a stream.", since: "5.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "XTRIM",
        arity: Arity::AtLeast(4),
        flags: Flags::WRITE,
        group: Group::Stream,
        keys: KeyRule::At(&[KeySpec::at(1, REMOVES)]),
        run: Run::Refused("streams are not served by this version yet"),
        docs: Docs { summary: "Deletes the oldest entries of a stream.", since: "5.0.0", complexity: "O(N)" },
        extra: Extra { tips: &["nondeterministic_output"], ..Extra::NONE },
    },
    Command {
        name: "XSETID",
        arity: Arity::AtLeast(3),
        flags: Flags::WRITE.and(Flags::DENYOOM).and(Flags::FAST),
        group: Group::Stream,
        keys: KeyRule::At(&[KeySpec::at(1, UPDATES)]),
        run: Run::Refused("streams are not served by this version yet"),
        docs: Docs { summary: "Sets the last id of a stream.", since: "5.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "XACK",
        arity: Arity::AtLeast(4),
        flags: Flags::WRITE.and(Flags::FAST),
        group: Group::Stream,
        keys: KeyRule::At(&[KeySpec::at(1, UPDATES)]),
        run: Run::Refused("streams are not served by this version yet"),
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
        run: Run::Refused("streams are not served by this version yet"),
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
        run: Run::Refused("streams are not served by this version yet"),
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
        run: Run::Refused("streams are not served by this version yet"),
        docs: Docs { summary: "Tells which entries of a group are pending.", since: "5.0.0", complexity: "O(N)" },
        extra: Extra { tips: &["nondeterministic_output"], ..Extra::NONE },
    },
    Command {
        name: "XGROUP",
        arity: Arity::AtLeast(2),
        flags: Flags::NONE,
        group: Group::Stream,
        keys: KeyRule::None,
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
        run: Run::Refused("streams are not served by this version yet"),
        docs: Docs { summary: "Creates a consumer group.", since: "5.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "CREATECONSUMER",
        arity: Arity::Exactly(5),
        flags: Flags::WRITE.and(Flags::DENYOOM),
        group: Group::Stream,
        keys: KeyRule::At(&[KeySpec::at(2, ADDS)]),
        run: Run::Refused("streams are not served by this version yet"),
        docs: Docs { summary: "Creates a consumer in a group.", since: "6.2.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "DELCONSUMER",
        arity: Arity::Exactly(5),
        flags: Flags::WRITE,
        group: Group::Stream,
        keys: KeyRule::At(&[KeySpec::at(2, REMOVES)]),
        run: Run::Refused("streams are not served by this version yet"),
        docs: Docs { summary: "Deletes a consumer of a group.", since: "5.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "DESTROY",
        arity: Arity::Exactly(4),
        flags: Flags::WRITE,
        group: Group::Stream,
        keys: KeyRule::At(&[KeySpec::at(2, REMOVES)]),
        run: Run::Refused("streams are not served by this version yet"),
        docs: Docs { summary: "Deletes a consumer group.", since: "5.0.0", complexity: "O(N)" },
        extra: Extra::NONE,
    },
    Command {
        name: "SETID",
        arity: Arity::AtLeast(5),
        flags: Flags::WRITE,
        group: Group::Stream,
        keys: KeyRule::At(&[KeySpec::at(2, UPDATES)]),
        run: Run::Refused("streams are not served by this version yet"),
        docs: Docs { summary: "Sets the last id that a group has delivered.", since: "5.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "HELP",
        arity: Arity::Exactly(2),
        flags: Flags::LOADING.and(Flags::STALE),
        group: Group::Stream,
        keys: KeyRule::None,
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
        run: Run::Refused("streams are not served by this version yet"),
        docs: Docs { summary: "Describes a stream.", since: "5.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "GROUPS",
        arity: Arity::Exactly(3),
        flags: Flags::READONLY,
        group: Group::Stream,
        keys: KeyRule::At(&[KeySpec::at(2, READS)]),
        run: Run::Refused("streams are not served by this version yet"),
        docs: Docs { summary: "Lists the consumer groups of a stream.", since: "5.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "CONSUMERS",
        arity: Arity::Exactly(4),
        flags: Flags::READONLY,
        group: Group::Stream,
        keys: KeyRule::At(&[KeySpec::at(2, READS)]),
        run: Run::Refused("streams are not served by this version yet"),
        docs: Docs { summary: "Lists the consumers of a group.", since: "5.0.0", complexity: "O(1)" },
        extra: Extra { tips: &["nondeterministic_output"], ..Extra::NONE },
    },
    Command {
        name: "HELP",
        arity: Arity::Exactly(2),
        flags: Flags::LOADING.and(Flags::STALE),
        group: Group::Stream,
        keys: KeyRule::None,
        run: Run::OnSession(introspect::help),
        docs: Docs { summary: "Lists the subcommands of XINFO.", since: "5.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
];

/// Which arguments are the streams of XREAD or (`grouped`) XREADGROUP. Options are read in order, so that only the
/// option STREAMS counts, never an operand of that name; keys are the first half of what follows it.
fn read_streams(argv: &[&[u8]], grouped: bool) -> Result<Range<usize>, CommandError> {
    let mut args = Args::new(argv, 1);
    while !args.is_empty() {
        if args.accept("STREAMS") {
            let half = args.len() / 2;
            let unbalanced = half == 0 || !args.len().is_multiple_of(2);
            return if unbalanced { Err(CommandError::Syntax) } else { Ok(args.index()..args.index() + half) };
        }
        if args.accept("COUNT") || args.accept("BLOCK") {
            args.take()?;
        } else if grouped && args.accept("GROUP") {
            args.take()?;
            args.take()?;
        } else if !grouped || !args.accept("NOACK") {
            return Err(CommandError::Syntax);
        }
    }
    Err(CommandError::Syntax)
}

fn stream_keys(list: &mut KeyList<'_, '_>, grouped: bool) {
    for index in read_streams(list.argv, grouped).unwrap_or_default() {
        list.push(index, READS);
    }
}

fn read_keys(list: &mut KeyList<'_, '_>) {
    stream_keys(list, false);
}

fn read_group_keys(list: &mut KeyList<'_, '_>) {
    stream_keys(list, true);
}
