//! Geospatial indexes: sorted sets whose scores are places.
//!
//! It refuses to know how a sorted set is stored. Declarations on top, one entry per command; parsers and
//! handlers below.

use super::{OVERWRITES, READS, UPDATES};
use crate::args::Args;
use crate::command::{
    Arity, Begin, Command, Docs, Extra, Find, Flags, Group, KeyFlags, KeyList, KeyRule, KeySpec, Run,
};
use crate::error::CommandError;

pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "GEOADD",
        arity: Arity::AtLeast(5),
        flags: Flags::WRITE.and(Flags::DENYOOM),
        group: Group::Geo,
        keys: KeyRule::At(&[KeySpec::at(1, UPDATES)]),
        run: Run::Refused("geospatial indexes are not served by this version yet"),
        docs: Docs {
            summary: "Adds members with coordinates to a geospatial index.",
            since: "3.2.0",
            complexity: "O(log(N))",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "GEOPOS",
        arity: Arity::AtLeast(2),
        flags: Flags::READONLY,
        group: Group::Geo,
        keys: KeyRule::At(&[KeySpec::at(1, READS)]),
        run: Run::Refused("geospatial indexes are not served by this version yet"),
        docs: Docs {
            summary: "Returns the coordinates of members.",
            since: "3.2.0",
            complexity: "O(1) for each member requested",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "GEODIST",
        arity: Arity::AtLeast(4),
        flags: Flags::READONLY,
        group: Group::Geo,
        keys: KeyRule::At(&[KeySpec::at(1, READS)]),
        run: Run::Refused("geospatial indexes are not served by this version yet"),
        docs: Docs { summary: "Returns the distance between two members.", since: "3.2.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "GEOHASH",
        arity: Arity::AtLeast(2),
        flags: Flags::READONLY,
        group: Group::Geo,
        keys: KeyRule::At(&[KeySpec::at(1, READS)]),
        run: Run::Refused("geospatial indexes are not served by this version yet"),
        docs: Docs {
            summary: "Returns the geohash texts of members.",
            since: "3.2.0",
            complexity: "O(1) for each member requested",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "GEOSEARCH",
        arity: Arity::AtLeast(7),
        flags: Flags::READONLY,
        group: Group::Geo,
        keys: KeyRule::At(&[KeySpec::at(1, READS)]),
        run: Run::Refused("geospatial indexes are not served by this version yet"),
        docs: Docs {
            summary: "Finds members inside a circle, box or polygon.",
            since: "6.2.0",
            complexity: "O(N+log(M))",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "GEOSEARCHSTORE",
        arity: Arity::AtLeast(8),
        flags: Flags::WRITE.and(Flags::DENYOOM),
        group: Group::Geo,
        keys: KeyRule::At(&[KeySpec::at(1, OVERWRITES), KeySpec::at(2, READS)]),
        run: Run::Refused("geospatial indexes are not served by this version yet"),
        docs: Docs {
            summary: "Finds members inside a circle, box or polygon and stores them.",
            since: "6.2.0",
            complexity: "O(N+log(M))",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "GEORADIUS",
        arity: Arity::AtLeast(6),
        flags: Flags::WRITE.and(Flags::DENYOOM),
        group: Group::Geo,
        keys: KeyRule::Parsed(
            &[
                KeySpec::at(1, READS),
                KeySpec {
                    flags: KeyFlags::OW.and(KeyFlags::UPDATE).and(KeyFlags::VARIABLE_FLAGS),
                    begin: Begin::Keyword { word: "STORE", from: 6 },
                    find: Find::Range { last: 0, step: 1, limit: 0 },
                },
                KeySpec {
                    flags: KeyFlags::OW.and(KeyFlags::UPDATE).and(KeyFlags::VARIABLE_FLAGS),
                    begin: Begin::Keyword { word: "STOREDIST", from: 6 },
                    find: Find::Range { last: 0, step: 1, limit: 0 },
                },
            ],
            georadius_keys,
        ),
        run: Run::Refused("geospatial indexes are not served by this version yet"),
        docs: Docs {
            summary: "Finds members around a point, and may store them.",
            since: "3.2.0",
            complexity: "O(N+log(M))",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "GEORADIUS_RO",
        arity: Arity::AtLeast(6),
        flags: Flags::READONLY,
        group: Group::Geo,
        keys: KeyRule::At(&[KeySpec::at(1, READS)]),
        run: Run::Refused("geospatial indexes are not served by this version yet"),
        docs: Docs {
            summary: "Finds members around a point without storing.",
            since: "3.2.10",
            complexity: "O(N+log(M))",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "GEORADIUSBYMEMBER",
        arity: Arity::AtLeast(5),
        flags: Flags::WRITE.and(Flags::DENYOOM),
        group: Group::Geo,
        keys: KeyRule::Parsed(
            &[
                KeySpec::at(1, READS),
                KeySpec {
                    flags: KeyFlags::OW.and(KeyFlags::UPDATE).and(KeyFlags::VARIABLE_FLAGS),
                    begin: Begin::Keyword { word: "STORE", from: 5 },
                    find: Find::Range { last: 0, step: 1, limit: 0 },
                },
                KeySpec {
                    flags: KeyFlags::OW.and(KeyFlags::UPDATE).and(KeyFlags::VARIABLE_FLAGS),
                    begin: Begin::Keyword { word: "STOREDIST", from: 5 },
                    find: Find::Range { last: 0, step: 1, limit: 0 },
                },
            ],
            georadius_by_member_keys,
        ),
        run: Run::Refused("geospatial indexes are not served by this version yet"),
        docs: Docs {
            summary: "Finds members around a member, and may store them.",
            since: "3.2.0",
            complexity: "O(N+log(M))",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "GEORADIUSBYMEMBER_RO",
        arity: Arity::AtLeast(5),
        flags: Flags::READONLY,
        group: Group::Geo,
        keys: KeyRule::At(&[KeySpec::at(1, READS)]),
        run: Run::Refused("geospatial indexes are not served by this version yet"),
        docs: Docs {
            summary: "Finds members around a member without storing.",
            since: "3.2.10",
            complexity: "O(N+log(M))",
        },
        extra: Extra::NONE,
    },
];

/// Which argument STORE or STOREDIST names, read as the handler reads it: the last one wins, operands are skipped.
fn stored_key(argv: &[&[u8]], first_option: usize) -> Result<Option<usize>, CommandError> {
    let mut args = Args::new(argv, first_option);
    let mut stored = None;
    while !args.is_empty() {
        if args.accept("STORE") || args.accept("STOREDIST") {
            stored = Some(args.index());
            args.take()?;
        } else if args.accept("COUNT") {
            args.take()?;
            args.accept("ANY");
        } else {
            let known = ["WITHCOORD", "WITHDIST", "WITHHASH", "ASC", "DESC"];
            if !known.into_iter().any(|word| args.accept(word)) {
                return Err(CommandError::Syntax);
            }
        }
    }
    Ok(stored)
}

/// A radius search reads its key and overwrites the destination.
fn radius_keys(list: &mut KeyList<'_, '_>, first_option: usize) {
    list.push(1, READS);
    if let Ok(Some(stored)) = stored_key(list.argv, first_option) {
        list.push(stored, OVERWRITES);
    }
}

fn georadius_keys(list: &mut KeyList<'_, '_>) {
    radius_keys(list, 6);
}

fn georadius_by_member_keys(list: &mut KeyList<'_, '_>) {
    radius_keys(list, 5);
}
