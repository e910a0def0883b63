//! Hashes: fields with values under one key.
//!
//! It refuses to know how fields are stored. A field that has expired is missing for every reader, and removed when a write
//! comes upon it, as an effect of its own, or by the sweep. Declarations on top, one entry per command; parsers and
//! handlers below.

use super::collections::{Answer, Draw, Page, answer_repeated, cursor, pair_head, pairs_head, parse_draw, parse_walk};
use super::{ADDS, CHANGES, LOOKS_AT, READS, REMOVES, TAKES, UPDATES};
use crate::args::Args;
use crate::command::{Arity, Command, Docs, Extra, Flags, Group, KeyRule, KeySpec, Run};
use crate::error::CommandError;
use crate::events::EventClass;
use crate::keyspace::{Keys, Missing};
use crate::reply::Reply;
use crate::scope::Scope;
use crate::types::number::{self, LongDouble};
use crate::types::{Hash, HashField, Limits, LiveHash};

mod field_expiry;

pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "HSET",
        arity: Arity::AtLeast(4),
        flags: Flags::WRITE.and(Flags::DENYOOM).and(Flags::FAST),
        group: Group::Hash,
        keys: KeyRule::At(&[KeySpec::at(1, UPDATES)]),
        scope: Scope::Named,
        run: Run::OnKeys(hset),
        docs: Docs { summary: "Sets fields of a hash.", since: "2.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "HGET",
        arity: Arity::Exactly(3),
        flags: Flags::READONLY.and(Flags::FAST),
        group: Group::Hash,
        keys: KeyRule::At(&[KeySpec::at(1, READS)]),
        scope: Scope::Named,
        run: Run::OnKeys(hget),
        docs: Docs { summary: "Returns the value of a field of a hash.", since: "2.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "HMSET",
        arity: Arity::AtLeast(4),
        flags: Flags::WRITE.and(Flags::DENYOOM).and(Flags::FAST),
        group: Group::Hash,
        keys: KeyRule::At(&[KeySpec::at(1, UPDATES)]),
        scope: Scope::Named,
        run: Run::OnKeys(hmset),
        docs: Docs {
            summary: "Sets fields of a hash, answering OK.",
            since: "2.0.0",
            complexity: "O(N) where N is the number of fields being set",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "HMGET",
        arity: Arity::AtLeast(3),
        flags: Flags::READONLY.and(Flags::FAST),
        group: Group::Hash,
        keys: KeyRule::At(&[KeySpec::at(1, READS)]),
        scope: Scope::Named,
        run: Run::OnKeys(hmget),
        docs: Docs {
            summary: "Returns the values of several fields of a hash.",
            since: "2.0.0",
            complexity: "O(N) where N is the number of fields being requested",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "HGETALL",
        arity: Arity::Exactly(2),
        flags: Flags::READONLY,
        group: Group::Hash,
        keys: KeyRule::At(&[KeySpec::at(1, READS)]),
        scope: Scope::Named,
        run: Run::OnKeys(hgetall),
        docs: Docs {
            summary: "Returns all fields and values of a hash.",
            since: "2.0.0",
            complexity: "O(N) where N is the size of the hash",
        },
        extra: Extra { tips: &["nondeterministic_output_order"], ..Extra::NONE },
    },
    Command {
        name: "HDEL",
        arity: Arity::AtLeast(3),
        flags: Flags::WRITE.and(Flags::FAST),
        group: Group::Hash,
        keys: KeyRule::At(&[KeySpec::at(1, REMOVES)]),
        scope: Scope::Named,
        run: Run::OnKeys(hdel),
        docs: Docs { summary: "Deletes fields of a hash.", since: "2.0.0", complexity: "O(N)" },
        extra: Extra::NONE,
    },
    Command {
        name: "HEXISTS",
        arity: Arity::Exactly(3),
        flags: Flags::READONLY.and(Flags::FAST),
        group: Group::Hash,
        keys: KeyRule::At(&[KeySpec::at(1, LOOKS_AT)]),
        scope: Scope::Named,
        run: Run::OnKeys(hexists),
        docs: Docs { summary: "Tells whether a hash has a field.", since: "2.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "HLEN",
        arity: Arity::Exactly(2),
        flags: Flags::READONLY.and(Flags::FAST),
        group: Group::Hash,
        keys: KeyRule::At(&[KeySpec::at(1, LOOKS_AT)]),
        scope: Scope::Named,
        run: Run::OnKeys(hlen),
        docs: Docs { summary: "Tells how many fields a hash has.", since: "2.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "HKEYS",
        arity: Arity::Exactly(2),
        flags: Flags::READONLY,
        group: Group::Hash,
        keys: KeyRule::At(&[KeySpec::at(1, READS)]),
        scope: Scope::Named,
        run: Run::OnKeys(hkeys),
        docs: Docs { summary: "Returns the fields of a hash.", since: "2.0.0", complexity: "O(N)" },
        extra: Extra { tips: &["nondeterministic_output_order"], ..Extra::NONE },
    },
    Command {
        name: "HVALS",
        arity: Arity::Exactly(2),
        flags: Flags::READONLY,
        group: Group::Hash,
        keys: KeyRule::At(&[KeySpec::at(1, READS)]),
        scope: Scope::Named,
        run: Run::OnKeys(hvals),
        docs: Docs { summary: "Returns the values of a hash.", since: "2.0.0", complexity: "O(N)" },
        extra: Extra { tips: &["nondeterministic_output_order"], ..Extra::NONE },
    },
    Command {
        name: "HSTRLEN",
        arity: Arity::Exactly(3),
        flags: Flags::READONLY.and(Flags::FAST),
        group: Group::Hash,
        keys: KeyRule::At(&[KeySpec::at(1, LOOKS_AT)]),
        scope: Scope::Named,
        run: Run::OnKeys(hstrlen),
        docs: Docs {
            summary: "Tells the length of the value of a field of a hash.",
            since: "3.2.0",
            complexity: "O(1)",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "HSETNX",
        arity: Arity::Exactly(4),
        flags: Flags::WRITE.and(Flags::DENYOOM).and(Flags::FAST),
        group: Group::Hash,
        keys: KeyRule::At(&[KeySpec::at(1, ADDS)]),
        scope: Scope::Named,
        run: Run::OnKeys(hsetnx),
        docs: Docs { summary: "Sets a field of a hash unless it exists.", since: "2.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "HINCRBY",
        arity: Arity::Exactly(4),
        flags: Flags::WRITE.and(Flags::DENYOOM).and(Flags::FAST),
        group: Group::Hash,
        keys: KeyRule::At(&[KeySpec::at(1, CHANGES)]),
        scope: Scope::Named,
        run: Run::OnKeys(hincrby),
        docs: Docs {
            summary: "Adds an integer to the number in a field of a hash.",
            since: "2.0.0",
            complexity: "O(1)",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "HINCRBYFLOAT",
        arity: Arity::Exactly(4),
        flags: Flags::WRITE.and(Flags::DENYOOM).and(Flags::FAST),
        group: Group::Hash,
        keys: KeyRule::At(&[KeySpec::at(1, CHANGES)]),
        scope: Scope::Named,
        run: Run::OnKeys(hincrbyfloat),
        docs: Docs {
            summary: "Adds a floating point number to the number in a field of a hash.",
            since: "2.6.0",
            complexity: "O(1)",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "HRANDFIELD",
        arity: Arity::AtLeast(2),
        flags: Flags::READONLY,
        group: Group::Hash,
        keys: KeyRule::At(&[KeySpec::at(1, READS)]),
        scope: Scope::Named,
        run: Run::OnKeys(hrandfield),
        docs: Docs {
            summary: "Picks fields of a hash at random.",
            since: "6.2.0",
            complexity: "O(N) where N is the number of fields returned",
        },
        extra: Extra { tips: &["nondeterministic_output"], ..Extra::NONE },
    },
    Command {
        name: "HSCAN",
        arity: Arity::AtLeast(3),
        flags: Flags::READONLY,
        group: Group::Hash,
        keys: KeyRule::At(&[KeySpec::at(1, READS)]),
        scope: Scope::Named,
        run: Run::OnKeys(hscan),
        docs: Docs { summary: "Walks over the fields of a hash, some at a time.", since: "2.8.0", complexity: "O(1)" },
        extra: Extra { tips: &["nondeterministic_output"], ..Extra::NONE },
    },
    Command {
        name: "HGETDEL",
        arity: Arity::AtLeast(5),
        flags: Flags::WRITE.and(Flags::FAST),
        group: Group::Hash,
        keys: KeyRule::At(&[KeySpec::at(1, TAKES)]),
        scope: Scope::Named,
        run: Run::OnKeys(hgetdel),
        docs: Docs {
            summary: "Returns the values of fields of a hash and deletes the fields.",
            since: "9.1.0",
            complexity: "O(N) where N is the number of fields to be retrieved and deleted",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "HGETEX",
        arity: Arity::AtLeast(5),
        flags: Flags::WRITE.and(Flags::FAST),
        group: Group::Hash,
        keys: KeyRule::At(&[KeySpec::at(1, CHANGES)]),
        scope: Scope::Named,
        run: Run::OnKeys(field_expiry::hgetex),
        docs: Docs {
            summary: "Returns the values of fields of a hash and changes their time to live.",
            since: "9.0.0",
            complexity: "O(N) where N is the number of specified fields",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "HSETEX",
        arity: Arity::AtLeast(6),
        flags: Flags::WRITE.and(Flags::DENYOOM).and(Flags::FAST),
        group: Group::Hash,
        keys: KeyRule::At(&[KeySpec::at(1, ADDS)]),
        scope: Scope::Named,
        run: Run::OnKeys(field_expiry::hsetex),
        docs: Docs {
            summary: "Sets fields of a hash with a time to live.",
            since: "9.0.0",
            complexity: "O(N) where N is the number of specified fields",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "HEXPIRE",
        arity: Arity::AtLeast(6),
        flags: Flags::WRITE.and(Flags::FAST),
        group: Group::Hash,
        keys: KeyRule::At(&[KeySpec::at(1, UPDATES)]),
        scope: Scope::Named,
        run: Run::OnKeys(field_expiry::hexpire),
        docs: Docs {
            summary: "Sets how many seconds fields of a hash have to live.",
            since: "9.0.0",
            complexity: "O(N) where N is the number of specified fields",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "HPEXPIRE",
        arity: Arity::AtLeast(6),
        flags: Flags::WRITE.and(Flags::FAST),
        group: Group::Hash,
        keys: KeyRule::At(&[KeySpec::at(1, UPDATES)]),
        scope: Scope::Named,
        run: Run::OnKeys(field_expiry::hpexpire),
        docs: Docs {
            summary: "Sets how many milliseconds fields of a hash have to live.",
            since: "9.0.0",
            complexity: "O(N) where N is the number of specified fields",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "HEXPIREAT",
        arity: Arity::AtLeast(6),
        flags: Flags::WRITE.and(Flags::FAST),
        group: Group::Hash,
        keys: KeyRule::At(&[KeySpec::at(1, UPDATES)]),
        scope: Scope::Named,
        run: Run::OnKeys(field_expiry::hexpireat),
        docs: Docs {
            summary: "Sets the Unix second at which fields of a hash expire.",
            since: "9.0.0",
            complexity: "O(N) where N is the number of specified fields",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "HPEXPIREAT",
        arity: Arity::AtLeast(6),
        flags: Flags::WRITE.and(Flags::FAST),
        group: Group::Hash,
        keys: KeyRule::At(&[KeySpec::at(1, UPDATES)]),
        scope: Scope::Named,
        run: Run::OnKeys(field_expiry::hpexpireat),
        docs: Docs {
            summary: "Sets the Unix millisecond at which fields of a hash expire.",
            since: "9.0.0",
            complexity: "O(N) where N is the number of specified fields",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "HTTL",
        arity: Arity::AtLeast(5),
        flags: Flags::READONLY.and(Flags::FAST),
        group: Group::Hash,
        keys: KeyRule::At(&[KeySpec::at(1, READS)]),
        scope: Scope::Named,
        run: Run::OnKeys(field_expiry::httl),
        docs: Docs {
            summary: "Tells how many seconds fields of a hash have left to live.",
            since: "9.0.0",
            complexity: "O(N) where N is the number of specified fields",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "HPTTL",
        arity: Arity::AtLeast(5),
        flags: Flags::READONLY.and(Flags::FAST),
        group: Group::Hash,
        keys: KeyRule::At(&[KeySpec::at(1, READS)]),
        scope: Scope::Named,
        run: Run::OnKeys(field_expiry::hpttl),
        docs: Docs {
            summary: "Tells how many milliseconds fields of a hash have left to live.",
            since: "9.0.0",
            complexity: "O(N) where N is the number of specified fields",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "HEXPIRETIME",
        arity: Arity::AtLeast(5),
        flags: Flags::READONLY.and(Flags::FAST),
        group: Group::Hash,
        keys: KeyRule::At(&[KeySpec::at(1, READS)]),
        scope: Scope::Named,
        run: Run::OnKeys(field_expiry::hexpiretime),
        docs: Docs {
            summary: "Tells the Unix second at which fields of a hash expire.",
            since: "9.0.0",
            complexity: "O(N) where N is the number of specified fields",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "HPEXPIRETIME",
        arity: Arity::AtLeast(5),
        flags: Flags::READONLY.and(Flags::FAST),
        group: Group::Hash,
        keys: KeyRule::At(&[KeySpec::at(1, READS)]),
        scope: Scope::Named,
        run: Run::OnKeys(field_expiry::hpexpiretime),
        docs: Docs {
            summary: "Tells the Unix millisecond at which fields of a hash expire.",
            since: "9.0.0",
            complexity: "O(N) where N is the number of specified fields",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "HPERSIST",
        arity: Arity::AtLeast(5),
        flags: Flags::WRITE.and(Flags::FAST),
        group: Group::Hash,
        keys: KeyRule::At(&[KeySpec::at(1, UPDATES)]),
        scope: Scope::Named,
        run: Run::OnKeys(field_expiry::hpersist),
        docs: Docs {
            summary: "Makes fields of a hash live until they are deleted.",
            since: "9.0.0",
            complexity: "O(N) where N is the number of specified fields",
        },
        extra: Extra::NONE,
    },
];

/// The hash at a key as readers see it.
fn live<'k>(keys: &'k mut Keys<'_>, key: &[u8]) -> Result<Option<LiveHash<'k>>, CommandError> {
    let now = keys.now();
    Ok(keys.get::<Hash>(key)?.map(|hash| hash.at(now)))
}

/// Changes the hash at a key. Those of the fields the request names that have expired are removed first; if that was all
/// there was, the key is a new one and has no expiry, as it is wherever the effects are carried out.
#[inline]
fn edit<'f, R>(
    keys: &mut Keys<'_>,
    key: &'f [u8],
    missing: Missing,
    mut named: impl Iterator<Item = &'f [u8]>,
    change: impl FnOnce(&mut Hash) -> R,
) -> Result<Option<R>, CommandError> {
    let now = keys.now();
    let (mut expired, mut is_new) = (Vec::new(), false);
    let result = keys.update(key, missing, |hash: &mut Hash| {
        if hash.is_due(now) {
            expired = hash.purge_of(now, &mut named);
            is_new = hash.is_empty();
        }
        change(hash)
    })?;
    if is_new {
        keys.set_expiry(key, None);
    }
    if !expired.is_empty() {
        keys.expired_fields(key, expired);
    }
    Ok(result)
}

/// The same; a missing key is made.
#[inline]
fn edit_one<R>(
    keys: &mut Keys<'_>,
    key: &[u8],
    field: &[u8],
    change: impl FnOnce(&mut Hash) -> R,
) -> Result<R, CommandError> {
    let changed = edit(keys, key, Missing::Create, std::iter::once(field), change)?;
    Ok(changed.expect("an update that may make the key always runs"))
}

// ---- setting ----

fn hset(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    let added = set_pairs(keys, args, "hset")?;
    reply.count(added);
    Ok(())
}

fn hmset(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    set_pairs(keys, args, "hmset")?;
    reply.ok();
    Ok(())
}

/// Sets `field value [field value …]`; how many of the fields are new.
#[inline]
fn set_pairs(keys: &mut Keys<'_>, mut args: Args<'_>, command: &str) -> Result<usize, CommandError> {
    let (key, pairs, limits) = (args.take()?, args.rest(), keys.limits());
    let added = if let [field, value] = pairs {
        usize::from(edit_one(keys, key, field, |hash| hash.set(field, value, limits))?)
    } else {
        set_many(keys, key, pairs, limits, command)?
    };
    keys.effects.changed(pairs.len() as u64 / 2);
    keys.event(EventClass::HASH, "hset", key);
    Ok(added)
}

fn set_many(
    keys: &mut Keys<'_>,
    key: &[u8],
    pairs: &[&[u8]],
    limits: &Limits,
    command: &str,
) -> Result<usize, CommandError> {
    if !pairs.len().is_multiple_of(2) {
        return Err(CommandError::Arity(command.to_owned()));
    }
    let longest = pairs.iter().map(|text| text.len()).max().unwrap_or(0);
    let named = pairs.iter().step_by(2).copied();
    let added = edit(keys, key, Missing::Create, named, |hash| {
        hash.prepare(pairs.len() / 2, longest, limits);
        pairs.chunks_exact(2).filter(|pair| hash.set(pair[0], pair[1], limits)).count()
    })?;
    Ok(added.unwrap_or(0))
}

fn hsetnx(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let (key, field, value, limits) = (args.take()?, args.take()?, args.take()?, keys.limits());
    let set = edit_one(keys, key, field, |hash| !hash.contains(field) && hash.set(field, value, limits))?;
    if set {
        keys.effects.changed(1);
        keys.event(EventClass::HASH, "hset", key);
    }
    reply.flag(set);
    Ok(())
}

fn hincrby(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let (key, field, amount, limits) = (args.take()?, args.take()?, args.integer()?, keys.limits());
    let sum = edit_one(keys, key, field, |hash| {
        let value = match hash.get(field) {
            Some(text) => number::parse_i64(&text).ok_or_else(|| CommandError::err("hash value is not an integer"))?,
            None => 0,
        };
        let sum = value.checked_add(amount).ok_or(CommandError::Overflow)?;
        hash.set_value(field, &number::format_i64(sum), limits);
        Ok::<_, CommandError>(sum)
    })??;
    keys.effects.changed(1);
    keys.event(EventClass::HASH, "hincrby", key);
    reply.integer(sum);
    Ok(())
}

fn hincrbyfloat(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let (key, field, amount, limits) = (args.take()?, args.take()?, args.take()?, keys.limits());
    let amount = LongDouble::parse(amount).ok_or(CommandError::NotFloat)?;
    if !amount.is_finite() {
        return Err(CommandError::err("value is NaN or Infinity"));
    }
    let (sum, expires) = edit_one(keys, key, field, |hash| {
        let text = hash.get(field);
        let value = LongDouble::parse(text.as_deref().unwrap_or(b"0"))
            .ok_or_else(|| CommandError::err("hash value is not a float"))?;
        let sum = value.checked_add(amount).filter(LongDouble::is_finite);
        let sum = sum.ok_or_else(|| CommandError::err("increment would produce NaN or Infinity"))?;
        let sum = number::format_incr_float(&sum);
        hash.set_value(field, sum.as_bytes(), limits);
        Ok::<_, CommandError>((sum, hash.expiry(field).is_some()))
    })??;
    keys.effects.changed(1);
    keys.event(EventClass::HASH, "hincrbyfloat", key);
    // The sum, not the summand: rounding happens once.
    if expires {
        keys.effects.replace(&[b"HSETEX", key, b"KEEPTTL", b"FIELDS", b"1", field, sum.as_bytes()]);
    } else {
        keys.effects.replace(&[b"HSET", key, field, sum.as_bytes()]);
    }
    reply.bulk(sum.as_bytes());
    Ok(())
}

// ---- reading ----

fn hget(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let (key, field) = (args.take()?, args.take()?);
    answer_value(live(keys, key)?, field, reply);
    Ok(())
}

#[inline]
fn answer_value(hash: Option<LiveHash<'_>>, field: &[u8], reply: &mut Reply) {
    match hash.and_then(|hash| hash.get(field)) {
        Some(value) => reply.bulk(&value),
        None => reply.null(),
    }
}

fn hmget(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let (key, fields) = (args.take()?, args.rest());
    let hash = live(keys, key)?;
    reply.array(fields.len());
    fields.iter().for_each(|field| answer_value(hash, field, reply));
    Ok(())
}

fn hgetall(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let hash = live(keys, args.take()?)?;
    reply.map(hash.map_or(0, LiveHash::len));
    for shown in hash.into_iter().flat_map(LiveHash::iter) {
        reply.bulk(&shown.field);
        reply.bulk(&shown.value);
    }
    Ok(())
}

fn hkeys(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let hash = live(keys, args.take()?)?;
    reply.array(hash.map_or(0, LiveHash::len));
    hash.into_iter().flat_map(LiveHash::iter).for_each(|shown| reply.bulk(&shown.field));
    Ok(())
}

fn hvals(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let hash = live(keys, args.take()?)?;
    reply.array(hash.map_or(0, LiveHash::len));
    hash.into_iter().flat_map(LiveHash::iter).for_each(|shown| reply.bulk(&shown.value));
    Ok(())
}

fn hexists(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let (key, field) = (args.take()?, args.take()?);
    reply.flag(live(keys, key)?.is_some_and(|hash| hash.contains(field)));
    Ok(())
}

fn hlen(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    reply.count(live(keys, args.take()?)?.map_or(0, LiveHash::len));
    Ok(())
}

fn hstrlen(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let (key, field) = (args.take()?, args.take()?);
    let value = live(keys, key)?.and_then(|hash| hash.get(field));
    reply.count(value.map_or(0, |value| value.len()));
    Ok(())
}

fn hrandfield(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let key = args.take()?;
    let (draw, with_values) = parse_draw(&mut args, Some("WITHVALUES"))?;
    let (mut dice, bytes_max) = (keys.dice(), keys.value_bytes_max());
    let Some(hash) = live(keys, key)?.filter(|hash| !hash.is_empty()) else {
        if draw == Draw::One {
            reply.null()
        } else {
            reply.array(0)
        }
        return Ok(());
    };
    let head = |reply: &mut Reply, len| {
        if with_values { pairs_head(reply, len) } else { reply.array(len) }
    };
    let show = |reply: &mut Reply, shown: HashField<'_>| {
        if with_values {
            pair_head(reply);
            reply.bulk(&shown.field);
            reply.bulk(&shown.value);
        } else {
            reply.bulk(&shown.field);
        }
    };
    match draw {
        Draw::One => hash.random(&mut dice).into_iter().for_each(|shown| show(reply, shown)),
        Draw::Distinct(count) => {
            let drawn = hash.random_distinct(count, &mut dice);
            head(reply, drawn.len());
            drawn.into_iter().for_each(|shown| show(reply, shown));
        }
        Draw::Repeated(count) => {
            head(reply, count);
            let mut draw = hash.draws();
            answer_repeated(reply, count, bytes_max, |reply| {
                draw(&mut dice).into_iter().for_each(|shown| show(reply, shown));
            })?;
        }
    }
    Ok(())
}

fn hscan(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let (key, cursor) = (args.take()?, cursor(&mut args)?);
    let pattern_bytes_max = keys.limits().pattern_bytes_max;
    let mut page = Page::new(reply);
    let Some(hash) = live(keys, key)? else {
        page.answer(0, reply);
        return Ok(());
    };
    let walk = parse_walk(pattern_bytes_max, &mut args, Some("NOVALUES"))?;
    let next = hash.scan(cursor, walk.count, |shown| {
        if walk.pattern.matches(&shown.field) {
            page.show(&shown.field);
            if !walk.bare {
                page.show(&shown.value);
            }
        }
    });
    page.answer(next, reply);
    Ok(())
}

// ---- deleting ----

fn hdel(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let (key, fields) = (args.take()?, args.rest());
    let deleted = edit(keys, key, Missing::Skip, fields.iter().copied(), |hash| {
        fields.iter().filter(|field| hash.remove(field)).count()
    })?;
    told_deleted(keys, key, deleted);
    reply.count(deleted.unwrap_or(0));
    Ok(())
}

fn hgetdel(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let (key, now) = (args.take()?, keys.now());
    let fields = field_expiry::fields(&mut args, 1)?;
    let head = reply.deferred_array();
    let deleted = edit(keys, key, Missing::Skip, fields.iter().copied(), |hash| {
        let take = |field: &&&[u8]| {
            answer_value(Some(hash.at(now)), field, reply);
            hash.remove(field)
        };
        fields.iter().filter(take).count()
    })?;
    if deleted.is_none() {
        fields.iter().for_each(|_| reply.null());
    }
    reply.finish_array(head, fields.len());
    told_deleted(keys, key, deleted);
    Ok(())
}

/// `None`: there was no such key.
fn told_deleted(keys: &mut Keys<'_>, key: &[u8], deleted: Option<usize>) {
    match deleted {
        None => {}
        Some(0) => keys.event_if_emptied(key),
        Some(deleted) => {
            keys.effects.changed(deleted as u64);
            keys.event_of_removal(EventClass::HASH, "hdel", key);
        }
    }
}

#[cfg(test)]
mod tests;
