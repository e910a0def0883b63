//! Hashes: fields with values under one key.
//!
//! It refuses to know how fields are stored. Declarations on top, one entry per command; parsers and
//! handlers below.

use super::collections::{
    Answer, Draw, Page, answer_repeated, cursor, pair_head, pairs_head, parse_draw, parse_walk, upsert,
};
use super::{ADDS, CHANGES, LOOKS_AT, READS, REMOVES, TAKES, UPDATES};
use crate::args::Args;
use crate::command::{Arity, Command, Docs, Extra, Flags, Group, KeyRule, KeySpec, Run};
use crate::error::CommandError;
use crate::keyspace::{Keys, Missing};
use crate::reply::Reply;
use crate::types::number::{self, LongDouble};
use crate::types::{Hash, HashField};

pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "HSET",
        arity: Arity::AtLeast(4),
        flags: Flags::WRITE.and(Flags::DENYOOM).and(Flags::FAST),
        group: Group::Hash,
        keys: KeyRule::At(&[KeySpec::at(1, UPDATES)]),
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
        run: Run::Refused("times to live of hash fields are not served by this version yet"),
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
        run: Run::Refused("times to live of hash fields are not served by this version yet"),
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
        run: Run::Refused("times to live of hash fields are not served by this version yet"),
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
        run: Run::Refused("times to live of hash fields are not served by this version yet"),
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
        run: Run::Refused("times to live of hash fields are not served by this version yet"),
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
        run: Run::Refused("times to live of hash fields are not served by this version yet"),
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
        run: Run::Refused("times to live of hash fields are not served by this version yet"),
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
        run: Run::Refused("times to live of hash fields are not served by this version yet"),
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
        run: Run::Refused("times to live of hash fields are not served by this version yet"),
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
        run: Run::Refused("times to live of hash fields are not served by this version yet"),
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
        run: Run::Refused("times to live of hash fields are not served by this version yet"),
        docs: Docs {
            summary: "Makes fields of a hash live until they are deleted.",
            since: "9.0.0",
            complexity: "O(N) where N is the number of specified fields",
        },
        extra: Extra::NONE,
    },
];

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
    if !pairs.len().is_multiple_of(2) {
        return Err(CommandError::Arity(command.to_owned()));
    }
    let longest = pairs.iter().map(|text| text.len()).max().unwrap_or(0);
    let added = upsert(keys, key, |hash: &mut Hash| {
        hash.prepare(pairs.len() / 2, longest, limits);
        pairs.chunks_exact(2).filter(|pair| hash.set(pair[0], pair[1], limits)).count()
    })?;
    keys.effects.changed(pairs.len() as u64 / 2);
    Ok(added)
}

fn hsetnx(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let (key, field, value, limits) = (args.take()?, args.take()?, args.take()?, keys.limits());
    let set = upsert(keys, key, |hash: &mut Hash| {
        let absent = !hash.contains(field);
        if absent {
            hash.set(field, value, limits);
        }
        absent
    })?;
    keys.effects.changed(u64::from(set));
    reply.flag(set);
    Ok(())
}

fn hincrby(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let (key, field, amount, limits) = (args.take()?, args.take()?, args.integer()?, keys.limits());
    let sum = upsert(keys, key, |hash: &mut Hash| {
        let value = match hash.get(field) {
            Some(text) => number::parse_i64(&text).ok_or_else(|| CommandError::err("hash value is not an integer"))?,
            None => 0,
        };
        let sum = value.checked_add(amount).ok_or(CommandError::Overflow)?;
        hash.set_value(field, &number::format_i64(sum), limits);
        Ok(sum)
    })??;
    keys.effects.changed(1);
    reply.integer(sum);
    Ok(())
}

fn hincrbyfloat(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let (key, field, amount, limits) = (args.take()?, args.take()?, args.take()?, keys.limits());
    let amount = LongDouble::parse(amount).ok_or(CommandError::NotFloat)?;
    if !amount.is_finite() {
        return Err(CommandError::err("value is NaN or Infinity"));
    }
    let sum = upsert(keys, key, |hash: &mut Hash| {
        let text = hash.get(field);
        let value = LongDouble::parse(text.as_deref().unwrap_or(b"0"))
            .ok_or_else(|| CommandError::err("hash value is not a float"))?;
        let sum = value.checked_add(amount).filter(LongDouble::is_finite);
        let sum = sum.ok_or_else(|| CommandError::err("increment would produce NaN or Infinity"))?;
        let sum = number::format_incr_float(&sum);
        hash.set_value(field, sum.as_bytes(), limits);
        Ok(sum)
    })??;
    keys.effects.changed(1);
    // The sum, not the summand: rounding happens once.
    keys.effects.replace(&[b"HSET", key, field, sum.as_bytes()]);
    reply.bulk(sum.as_bytes());
    Ok(())
}

// ---- reading ----

fn hget(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let (key, field) = (args.take()?, args.take()?);
    answer_value(keys.get::<Hash>(key)?, field, reply);
    Ok(())
}

#[inline]
fn answer_value(hash: Option<&Hash>, field: &[u8], reply: &mut Reply) {
    match hash.and_then(|hash| hash.get(field)) {
        Some(value) => reply.bulk(&value),
        None => reply.null(),
    }
}

fn hmget(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let (key, fields) = (args.take()?, args.rest());
    let hash = keys.get::<Hash>(key)?;
    reply.array(fields.len());
    fields.iter().for_each(|field| answer_value(hash, field, reply));
    Ok(())
}

fn hgetall(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let hash = keys.get::<Hash>(args.take()?)?;
    reply.map(hash.map_or(0, Hash::len));
    for shown in hash.into_iter().flat_map(Hash::iter) {
        reply.bulk(&shown.field);
        reply.bulk(&shown.value);
    }
    Ok(())
}

fn hkeys(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let hash = keys.get::<Hash>(args.take()?)?;
    reply.array(hash.map_or(0, Hash::len));
    hash.into_iter().flat_map(Hash::iter).for_each(|shown| reply.bulk(&shown.field));
    Ok(())
}

fn hvals(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let hash = keys.get::<Hash>(args.take()?)?;
    reply.array(hash.map_or(0, Hash::len));
    hash.into_iter().flat_map(Hash::iter).for_each(|shown| reply.bulk(&shown.value));
    Ok(())
}

fn hexists(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let (key, field) = (args.take()?, args.take()?);
    reply.flag(keys.get::<Hash>(key)?.is_some_and(|hash| hash.contains(field)));
    Ok(())
}

fn hlen(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    reply.count(keys.get::<Hash>(args.take()?)?.map_or(0, Hash::len));
    Ok(())
}

fn hstrlen(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let (key, field) = (args.take()?, args.take()?);
    let value = keys.get::<Hash>(key)?.and_then(|hash| hash.get(field));
    reply.count(value.map_or(0, |value| value.len()));
    Ok(())
}

fn hrandfield(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let key = args.take()?;
    let (draw, with_values) = parse_draw(&mut args, Some("WITHVALUES"))?;
    let (mut dice, bytes_max) = (keys.dice(), keys.value_bytes_max());
    let Some(hash) = keys.get::<Hash>(key)? else {
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
            answer_repeated(reply, count, bytes_max, |reply| {
                hash.random(&mut dice).into_iter().for_each(|shown| show(reply, shown));
            })?;
        }
    }
    Ok(())
}

fn hscan(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let (key, cursor) = (args.take()?, cursor(&mut args)?);
    let mut page = Page::new(reply);
    let Some(hash) = keys.get::<Hash>(key)? else {
        page.answer(0, reply);
        return Ok(());
    };
    let walk = parse_walk(&mut args, Some("NOVALUES"))?;
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
    let deleted =
        keys.update(key, Missing::Skip, |hash: &mut Hash| fields.iter().filter(|field| hash.remove(field)).count())?;
    let deleted = deleted.unwrap_or(0);
    keys.effects.changed(deleted as u64);
    reply.count(deleted);
    Ok(())
}

fn hgetdel(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let key = args.take()?;
    if !args.accept("FIELDS") {
        return Err(CommandError::Syntax);
    }
    let promised = args.integer()?;
    let fields = args.rest();
    if promised < 1 || promised as usize != fields.len() {
        let text = "numfields should be greater than 0 and match the provided number of fields";
        return Err(CommandError::err(text));
    }
    reply.array(fields.len());
    let deleted = keys.update(key, Missing::Skip, |hash: &mut Hash| {
        let take = |field: &&&[u8]| {
            answer_value(Some(hash), field, reply);
            hash.remove(field)
        };
        fields.iter().filter(take).count()
    })?;
    match deleted {
        Some(deleted) => keys.effects.changed(deleted as u64),
        None => fields.iter().for_each(|_| reply.null()),
    }
    Ok(())
}

#[cfg(test)]
mod tests;
