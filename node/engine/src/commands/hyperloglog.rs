//! HyperLogLogs: strings that estimate how many different elements they have seen.
//!
//! It refuses to know how an estimate is made. Declarations on top, one entry per command; parsers and
//! handlers below.

use super::{ADDS, READS};
use crate::command::{Arity, Command, Docs, Extra, Flags, Group, KeyFlags, KeyRule, KeySpec, Run};

pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "PFADD",
        arity: Arity::AtLeast(2),
        flags: Flags::WRITE.and(Flags::DENYOOM).and(Flags::FAST),
        group: Group::HyperLogLog,
        keys: KeyRule::At(&[KeySpec::at(1, ADDS)]),
        run: Run::Refused("HyperLogLogs are not served by this version yet"),
        docs: Docs {
            summary: "Adds elements to a HyperLogLog.",
            since: "2.8.9",
            complexity: "O(1) to add every element",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "PFCOUNT",
        arity: Arity::AtLeast(2),
        flags: Flags::READONLY,
        group: Group::HyperLogLog,
        keys: KeyRule::At(&[KeySpec::range(1, -1, 1, KeyFlags::RW.and(KeyFlags::ACCESS))]),
        run: Run::Refused("HyperLogLogs are not served by this version yet"),
        docs: Docs {
            summary: "Estimates how many different elements HyperLogLogs have seen.",
            since: "2.8.9",
            complexity: "O(1)",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "PFMERGE",
        arity: Arity::AtLeast(2),
        flags: Flags::WRITE.and(Flags::DENYOOM),
        group: Group::HyperLogLog,
        keys: KeyRule::At(&[
            KeySpec::at(1, KeyFlags::RW.and(KeyFlags::ACCESS).and(KeyFlags::INSERT)),
            KeySpec::range(2, -1, 1, READS),
        ]),
        run: Run::Refused("HyperLogLogs are not served by this version yet"),
        docs: Docs { summary: "Merges HyperLogLogs into one.", since: "2.8.9", complexity: "O(N)" },
        extra: Extra::NONE,
    },
    Command {
        name: "PFDEBUG",
        arity: Arity::Exactly(3),
        flags: Flags::WRITE.and(Flags::DENYOOM).and(Flags::ADMIN),
        group: Group::HyperLogLog,
        keys: KeyRule::At(&[KeySpec::at(2, KeyFlags::RW.and(KeyFlags::ACCESS))]),
        run: Run::Refused("HyperLogLogs are not served by this version yet"),
        docs: Docs { summary: "Looks inside a HyperLogLog, for developers.", since: "2.8.9", complexity: "N/A" },
        extra: Extra::NONE,
    },
    Command {
        name: "PFSELFTEST",
        arity: Arity::Exactly(1),
        flags: Flags::ADMIN,
        group: Group::HyperLogLog,
        keys: KeyRule::None,
        run: Run::Refused("HyperLogLogs are not served by this version yet"),
        docs: Docs { summary: "Tests the HyperLogLog code, for developers.", since: "2.8.9", complexity: "N/A" },
        extra: Extra::NONE,
    },
];
