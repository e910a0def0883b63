//! Scripts and functions: programs that run beside the data.
//!
//! It refuses to know how a script is run. Declarations on top, one entry per command; parsers and
//! handlers below.

use super::{CHANGES, READS, RUNS_SCRIPT};
use crate::command::{Arity, Command, Docs, Extra, Flags, Group, KeyRule, KeySpec, Run};
use crate::introspect;

pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "EVAL",
        arity: Arity::AtLeast(3),
        flags: RUNS_SCRIPT,
        group: Group::Scripting,
        keys: KeyRule::At(&[KeySpec::numkeys(2, CHANGES)]),
        run: Run::Refused("scripts and functions are not served by this version yet"),
        docs: Docs {
            summary: "Runs a Lua script.",
            since: "2.6.0",
            complexity: "Depends on the script that is executed",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "EVAL_RO",
        arity: Arity::AtLeast(3),
        flags: Flags::READONLY
            .and(Flags::NOSCRIPT)
            .and(Flags::STALE)
            .and(Flags::SKIP_MONITOR)
            .and(Flags::NO_MANDATORY_KEYS),
        group: Group::Scripting,
        keys: KeyRule::At(&[KeySpec::numkeys(2, READS)]),
        run: Run::Refused("scripts and functions are not served by this version yet"),
        docs: Docs {
            summary: "Runs a Lua script that only reads.",
            since: "7.0.0",
            complexity: "Depends on the script that is executed",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "EVALSHA",
        arity: Arity::AtLeast(3),
        flags: RUNS_SCRIPT,
        group: Group::Scripting,
        keys: KeyRule::At(&[KeySpec::numkeys(2, CHANGES)]),
        run: Run::Refused("scripts and functions are not served by this version yet"),
        docs: Docs {
            summary: "Runs a Lua script known by its hash.",
            since: "2.6.0",
            complexity: "Depends on the script that is executed",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "EVALSHA_RO",
        arity: Arity::AtLeast(3),
        flags: Flags::READONLY
            .and(Flags::NOSCRIPT)
            .and(Flags::STALE)
            .and(Flags::SKIP_MONITOR)
            .and(Flags::NO_MANDATORY_KEYS),
        group: Group::Scripting,
        keys: KeyRule::At(&[KeySpec::numkeys(2, READS)]),
        run: Run::Refused("scripts and functions are not served by this version yet"),
        docs: Docs {
            summary: "Runs a Lua script known by its hash that only reads.",
            since: "7.0.0",
            complexity: "Depends on the script that is executed",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "FCALL",
        arity: Arity::AtLeast(3),
        flags: RUNS_SCRIPT,
        group: Group::Scripting,
        keys: KeyRule::At(&[KeySpec::numkeys(2, CHANGES)]),
        run: Run::Refused("scripts and functions are not served by this version yet"),
        docs: Docs {
            summary: "Calls a function of a library.",
            since: "7.0.0",
            complexity: "Depends on the function that is executed",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "FCALL_RO",
        arity: Arity::AtLeast(3),
        flags: Flags::READONLY
            .and(Flags::NOSCRIPT)
            .and(Flags::STALE)
            .and(Flags::SKIP_MONITOR)
            .and(Flags::NO_MANDATORY_KEYS),
        group: Group::Scripting,
        keys: KeyRule::At(&[KeySpec::numkeys(2, READS)]),
        run: Run::Refused("scripts and functions are not served by this version yet"),
        docs: Docs {
            summary: "Calls a function of a library that only reads.",
            since: "7.0.0",
            complexity: "Depends on the function that is executed",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "SCRIPT",
        arity: Arity::AtLeast(2),
        flags: Flags::NONE,
        group: Group::Scripting,
        keys: KeyRule::None,
        run: Run::Container(SCRIPT),
        docs: Docs { summary: "Manages the cached Lua scripts.", since: "2.6.0", complexity: "Depends on subcommand" },
        extra: Extra::NONE,
    },
    Command {
        name: "FUNCTION",
        arity: Arity::AtLeast(2),
        flags: Flags::NONE,
        group: Group::Scripting,
        keys: KeyRule::None,
        run: Run::Container(FUNCTION),
        docs: Docs {
            summary: "Manages the libraries of functions.",
            since: "7.0.0",
            complexity: "Depends on subcommand",
        },
        extra: Extra::NONE,
    },
];

const SCRIPT: &[Command] = &[
    Command {
        name: "LOAD",
        arity: Arity::Exactly(3),
        flags: Flags::NOSCRIPT.and(Flags::STALE),
        group: Group::Scripting,
        keys: KeyRule::None,
        run: Run::Refused("scripts and functions are not served by this version yet"),
        docs: Docs {
            summary: "Caches a script and returns its hash.",
            since: "2.6.0",
            complexity: "O(N) with N being the length in bytes of the script body",
        },
        extra: Extra { tips: &["request_policy:all_nodes", "response_policy:all_succeeded"], ..Extra::NONE },
    },
    Command {
        name: "EXISTS",
        arity: Arity::AtLeast(3),
        flags: Flags::NOSCRIPT.and(Flags::STALE),
        group: Group::Scripting,
        keys: KeyRule::None,
        run: Run::Refused("scripts and functions are not served by this version yet"),
        docs: Docs { summary: "Tells which scripts are cached.", since: "2.6.0", complexity: "O(N)" },
        extra: Extra { tips: &["request_policy:all_shards", "response_policy:agg_logical_and"], ..Extra::NONE },
    },
    Command {
        name: "FLUSH",
        arity: Arity::AtLeast(2),
        flags: Flags::NOSCRIPT.and(Flags::STALE),
        group: Group::Scripting,
        keys: KeyRule::None,
        run: Run::Refused("scripts and functions are not served by this version yet"),
        docs: Docs { summary: "Forgets the cached scripts.", since: "2.6.0", complexity: "O(N)" },
        extra: Extra { tips: &["request_policy:all_nodes", "response_policy:all_succeeded"], ..Extra::NONE },
    },
    Command {
        name: "KILL",
        arity: Arity::Exactly(2),
        flags: Flags::NOSCRIPT.and(Flags::ALLOW_BUSY),
        group: Group::Scripting,
        keys: KeyRule::None,
        run: Run::Refused("scripts and functions are not served by this version yet"),
        docs: Docs { summary: "Stops the script that is running.", since: "2.6.0", complexity: "O(1)" },
        extra: Extra { tips: &["request_policy:all_shards", "response_policy:one_succeeded"], ..Extra::NONE },
    },
    Command {
        name: "SHOW",
        arity: Arity::Exactly(3),
        flags: Flags::NOSCRIPT.and(Flags::STALE),
        group: Group::Scripting,
        keys: KeyRule::None,
        run: Run::Refused("scripts and functions are not served by this version yet"),
        docs: Docs { summary: "Returns the text of a cached script.", since: "8.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "DEBUG",
        arity: Arity::AtLeast(3),
        flags: Flags::NOSCRIPT,
        group: Group::Scripting,
        keys: KeyRule::None,
        run: Run::Refused("scripts and functions are not served by this version yet"),
        docs: Docs { summary: "Sets how the next scripts are debugged.", since: "3.2.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "HELP",
        arity: Arity::Exactly(2),
        flags: Flags::LOADING.and(Flags::STALE),
        group: Group::Scripting,
        keys: KeyRule::None,
        run: Run::OnSession(introspect::help),
        docs: Docs { summary: "Lists the subcommands of SCRIPT.", since: "5.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
];

const FUNCTION: &[Command] = &[
    Command {
        name: "LOAD",
        arity: Arity::AtLeast(3),
        flags: Flags::WRITE.and(Flags::DENYOOM).and(Flags::NOSCRIPT),
        group: Group::Scripting,
        keys: KeyRule::None,
        run: Run::Refused("scripts and functions are not served by this version yet"),
        docs: Docs { summary: "Creates a library.", since: "7.0.0", complexity: "O(1)" },
        extra: Extra { tips: &["request_policy:all_shards", "response_policy:all_succeeded"], ..Extra::NONE },
    },
    Command {
        name: "DELETE",
        arity: Arity::Exactly(3),
        flags: Flags::WRITE.and(Flags::NOSCRIPT),
        group: Group::Scripting,
        keys: KeyRule::None,
        run: Run::Refused("scripts and functions are not served by this version yet"),
        docs: Docs { summary: "Deletes a library and its functions.", since: "7.0.0", complexity: "O(1)" },
        extra: Extra { tips: &["request_policy:all_shards", "response_policy:all_succeeded"], ..Extra::NONE },
    },
    Command {
        name: "LIST",
        arity: Arity::AtLeast(2),
        flags: Flags::NOSCRIPT,
        group: Group::Scripting,
        keys: KeyRule::None,
        run: Run::Refused("scripts and functions are not served by this version yet"),
        docs: Docs { summary: "Lists the libraries.", since: "7.0.0", complexity: "O(N)" },
        extra: Extra { tips: &["nondeterministic_output_order"], ..Extra::NONE },
    },
    Command {
        name: "DUMP",
        arity: Arity::Exactly(2),
        flags: Flags::NOSCRIPT,
        group: Group::Scripting,
        keys: KeyRule::None,
        run: Run::Refused("scripts and functions are not served by this version yet"),
        docs: Docs {
            summary: "Returns all libraries as portable bytes.",
            since: "7.0.0",
            complexity: "O(N) where N is the number of functions",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "RESTORE",
        arity: Arity::AtLeast(3),
        flags: Flags::WRITE.and(Flags::DENYOOM).and(Flags::NOSCRIPT),
        group: Group::Scripting,
        keys: KeyRule::None,
        run: Run::Refused("scripts and functions are not served by this version yet"),
        docs: Docs {
            summary: "Creates libraries from the bytes that FUNCTION DUMP returned.",
            since: "7.0.0",
            complexity: "O(N) where N is the number of functions on the payload",
        },
        extra: Extra { tips: &["request_policy:all_shards", "response_policy:all_succeeded"], ..Extra::NONE },
    },
    Command {
        name: "FLUSH",
        arity: Arity::AtLeast(2),
        flags: Flags::WRITE.and(Flags::NOSCRIPT),
        group: Group::Scripting,
        keys: KeyRule::None,
        run: Run::Refused("scripts and functions are not served by this version yet"),
        docs: Docs { summary: "Deletes all libraries.", since: "7.0.0", complexity: "O(N)" },
        extra: Extra { tips: &["request_policy:all_shards", "response_policy:all_succeeded"], ..Extra::NONE },
    },
    Command {
        name: "KILL",
        arity: Arity::Exactly(2),
        flags: Flags::NOSCRIPT.and(Flags::ALLOW_BUSY),
        group: Group::Scripting,
        keys: KeyRule::None,
        run: Run::Refused("scripts and functions are not served by this version yet"),
        docs: Docs { summary: "Stops the function that is running.", since: "7.0.0", complexity: "O(1)" },
        extra: Extra { tips: &["request_policy:all_shards", "response_policy:one_succeeded"], ..Extra::NONE },
    },
    Command {
        name: "STATS",
        arity: Arity::Exactly(2),
        flags: Flags::NOSCRIPT.and(Flags::ALLOW_BUSY),
        group: Group::Scripting,
        keys: KeyRule::None,
        run: Run::Refused("scripts and functions are not served by this version yet"),
        docs: Docs { summary: "Tells what function is running.", since: "7.0.0", complexity: "O(1)" },
        extra: Extra {
            tips: &["nondeterministic_output", "request_policy:all_shards", "response_policy:special"],
            ..Extra::NONE
        },
    },
    Command {
        name: "HELP",
        arity: Arity::Exactly(2),
        flags: Flags::LOADING.and(Flags::STALE),
        group: Group::Scripting,
        keys: KeyRule::None,
        run: Run::OnSession(introspect::help),
        docs: Docs { summary: "Lists the subcommands of FUNCTION.", since: "7.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
];
