//! Geospatial indexes: sorted sets whose scores are places.
//!
//! It refuses to know how a sorted set is stored. Declarations on top, one entry per command; parsers and
//! handlers below.

use super::{OVERWRITES, READS, UPDATES, sorted_set};
use crate::args::Args;
use crate::command::{Arity, Begin, Command, Docs, Extra, Find, Flags, Group, KeyFlags, KeyRule, KeySpec, Run};
use crate::error::CommandError;
use crate::keyspace::Keys;
use crate::reply::{Protocol, Reply};
use crate::scope::Scope;
use crate::types::SortedSet;
use crate::types::number::{self, format_i64};
use crate::types::place::{self, LATITUDE_MAX, LONGITUDE_MAX, Place};

mod search;
#[cfg(test)]
mod tests;

type Answer = Result<(), CommandError>;

pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "GEOADD",
        arity: Arity::AtLeast(5),
        flags: Flags::WRITE.and(Flags::DENYOOM),
        group: Group::Geo,
        keys: KeyRule::At(&[KeySpec::at(1, UPDATES)]),
        scope: Scope::Named,
        run: Run::OnKeys(geoadd),
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
        scope: Scope::Named,
        run: Run::OnKeys(geopos),
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
        scope: Scope::Named,
        run: Run::OnKeys(geodist),
        docs: Docs { summary: "Returns the distance between two members.", since: "3.2.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "GEOHASH",
        arity: Arity::AtLeast(2),
        flags: Flags::READONLY,
        group: Group::Geo,
        keys: KeyRule::At(&[KeySpec::at(1, READS)]),
        scope: Scope::Named,
        run: Run::OnKeys(geohash),
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
        scope: Scope::Named,
        run: Run::OnKeys(search::geosearch),
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
        scope: Scope::Named,
        run: Run::OnKeys(search::geosearchstore),
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
            search::georadius_keys,
        ),
        scope: Scope::Named,
        run: Run::OnKeys(search::georadius),
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
        scope: Scope::Named,
        run: Run::OnKeys(search::georadius_ro),
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
            search::georadiusbymember_keys,
        ),
        scope: Scope::Named,
        run: Run::OnKeys(search::georadiusbymember),
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
        scope: Scope::Named,
        run: Run::OnKeys(search::georadiusbymember_ro),
        docs: Docs {
            summary: "Finds members around a member without storing.",
            since: "3.2.10",
            complexity: "O(N+log(M))",
        },
        extra: Extra::NONE,
    },
];

/// A unit of length, in meters.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Unit(f64);

impl Unit {
    const METER: Unit = Unit(1.0);

    fn parse(text: &[u8]) -> Result<Unit, CommandError> {
        const UNITS: [(&[u8], f64); 4] = [(b"m", 1.0), (b"km", 1000.0), (b"ft", 0.3048), (b"mi", 1609.34)];
        let found = UNITS.into_iter().find(|(name, _)| text.eq_ignore_ascii_case(name));
        found
            .map(|(_, meters)| Unit(meters))
            .ok_or_else(|| CommandError::err("unsupported unit provided. please use M, KM, FT, MI"))
    }
}

/// Reads `longitude latitude`.
fn parse_place(args: &mut Args<'_>) -> Result<Place, CommandError> {
    let place = Place { longitude: args.float()?, latitude: args.float()? };
    let Place { longitude, latitude } = place;
    if longitude.abs() > LONGITUDE_MAX || latitude.abs() > LATITUDE_MAX {
        return Err(CommandError::err(format!("invalid longitude,latitude pair {longitude:.6},{latitude:.6}")));
    }
    Ok(place)
}

/// A length with four decimals, the last one rounded to even.
fn answer_distance(distance: f64, reply: &mut Reply) {
    let scaled = (distance * 10_000.0).round_ties_even() as i64;
    reply.bulk(format!("{}.{:04}", scaled / 10_000, scaled % 10_000).as_bytes());
}

/// A pair of coordinates with up to seventeen decimals.
fn answer_place(place: Place, reply: &mut Reply) {
    reply.array(2);
    for degrees in [place.longitude, place.latitude] {
        let text = format!("{degrees:.17}");
        let text = text.trim_end_matches('0').trim_end_matches('.');
        let text = if text == "-0" { "0" } else { text };
        match reply.protocol {
            Protocol::Resp2 => reply.bulk(text.as_bytes()),
            Protocol::Resp3 => reply.raw(format!(",{text}\r\n").as_bytes()),
        }
    }
}

/// GEOADD is ZADD with places for scores.
fn geoadd(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let key = args.take()?;
    let mut request: Vec<&[u8]> = vec![b"ZADD", key];
    let (mut absent, mut present) = (false, false);
    while let Some(option) = args.peek() {
        if args.accept("NX") {
            absent = true;
        } else if args.accept("XX") {
            present = true;
        } else if !args.accept("CH") {
            break;
        }
        request.push(option);
    }
    if !args.len().is_multiple_of(3) || absent && present {
        return Err(CommandError::Syntax);
    }
    let mut members = Vec::with_capacity(args.len() / 3);
    while !args.is_empty() {
        let score = place::score(parse_place(&mut args)?);
        members.push((format_i64(score as i64), args.take()?));
    }
    for (score, member) in &members {
        request.extend([&**score, member]);
    }
    sorted_set::zadd(keys, Args::new(&request, 1), reply)
}

/// Answers one thing for each member named: what `show` says of its score, or what `missing` says.
fn answer_members(
    keys: &mut Keys<'_>,
    mut args: Args<'_>,
    reply: &mut Reply,
    show: fn(f64, &mut Reply),
    missing: fn(&mut Reply),
) -> Answer {
    let set = keys.get::<SortedSet>(args.take()?)?;
    let members = args.rest();
    reply.array(members.len());
    for member in members {
        match set.and_then(|set| set.score(member)) {
            Some(score) => show(score, reply),
            None => missing(reply),
        }
    }
    Ok(())
}

fn geopos(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    answer_members(keys, args, reply, |score, reply| answer_place(place::place(score), reply), Reply::null_array)
}

fn geohash(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    answer_members(keys, args, reply, |score, reply| reply.bulk(&place::geohash_text(score)), Reply::null)
}

fn geodist(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let (key, from, to) = (args.take()?, args.take()?, args.take()?);
    if args.len() > 1 {
        return Err(CommandError::Syntax);
    }
    let unit = if args.is_empty() { Unit::METER } else { Unit::parse(args.take()?)? };
    let set = keys.get::<SortedSet>(key)?;
    let place_of = |member| set.and_then(|set| set.score(member)).map(place::place);
    match (place_of(from), place_of(to)) {
        (Some(from), Some(to)) => answer_distance(place::distance_m(from, to) / unit.0, reply),
        _ => reply.null(),
    }
    Ok(())
}

/// A number that must be there and must not be negative.
fn length(args: &mut Args<'_>, name: &'static str) -> Result<f64, CommandError> {
    number::parse_f64(args.take()?).ok_or_else(|| CommandError::err(format!("need numeric {name}")))
}
