//! Transactions: commands that run together or not at all.
//!
//! It refuses to know what the queued commands do. Declarations on top, one entry per command; parsers and
//! handlers below.

use super::LOOKS_AT;
use crate::asks::Now;
use crate::command::{Arity, Command, Docs, Extra, Flags, Group, KeyRule, KeySpec, Run};
use crate::scope::Scope;

pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "MULTI",
        arity: Arity::Exactly(1),
        flags: Flags::NOSCRIPT
            .and(Flags::LOADING)
            .and(Flags::STALE)
            .and(Flags::FAST)
            .and(Flags::NO_MULTI)
            .and(Flags::ALLOW_BUSY),
        group: Group::Transactions,
        keys: KeyRule::None,
        scope: Scope::Own,
        run: Run::AtOnce(|_, _, _| Ok(Now::Begin)),
        docs: Docs { summary: "Starts a transaction.", since: "1.2.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "EXEC",
        arity: Arity::Exactly(1),
        flags: Flags::NOSCRIPT.and(Flags::LOADING).and(Flags::STALE).and(Flags::SKIP_SLOWLOG),
        group: Group::Transactions,
        keys: KeyRule::None,
        scope: Scope::Own,
        run: Run::AtOnce(|_, _, _| Ok(Now::Execute)),
        docs: Docs {
            summary: "Runs the commands of a transaction.",
            since: "1.2.0",
            complexity: "Depends on commands in the transaction",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "DISCARD",
        arity: Arity::Exactly(1),
        flags: Flags::NOSCRIPT.and(Flags::LOADING).and(Flags::STALE).and(Flags::FAST).and(Flags::ALLOW_BUSY),
        group: Group::Transactions,
        keys: KeyRule::None,
        scope: Scope::Own,
        run: Run::AtOnce(|_, _, _| Ok(Now::Discard)),
        docs: Docs {
            summary: "Forgets the commands of a transaction.",
            since: "2.0.0",
            complexity: "O(N), when N is the number of queued commands",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "WATCH",
        arity: Arity::AtLeast(2),
        flags: Flags::NOSCRIPT
            .and(Flags::LOADING)
            .and(Flags::STALE)
            .and(Flags::FAST)
            .and(Flags::NO_MULTI)
            .and(Flags::ALLOW_BUSY),
        group: Group::Transactions,
        keys: KeyRule::At(&[KeySpec::range(1, -1, 1, LOOKS_AT)]),
        scope: Scope::Named,
        run: Run::AtOnce(|_, _, _| Ok(Now::Watch)),
        docs: Docs {
            summary: "Makes the next transaction fail if a key changes before it.",
            since: "2.2.0",
            complexity: "O(1) for every key",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "UNWATCH",
        arity: Arity::Exactly(1),
        flags: Flags::NOSCRIPT.and(Flags::LOADING).and(Flags::STALE).and(Flags::FAST).and(Flags::ALLOW_BUSY),
        group: Group::Transactions,
        keys: KeyRule::None,
        scope: Scope::Own,
        run: Run::AtOnce(|_, _, _| Ok(Now::Unwatch)),
        docs: Docs { summary: "Forgets the watched keys.", since: "2.2.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
];
