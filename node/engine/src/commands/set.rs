//! Sets: members without order, each once.
//!
//! It refuses to know how members are stored. Declarations on top, one entry per command; parsers and
//! handlers below.

use super::collections::{
    Answer, Draw, Page, answer_repeated, check_numkeys, cursor, parse_draw, parse_walk, positive, store, upsert,
};
use super::{ADDS, LOOKS_AT, OVERWRITES, READS, REMOVES, TAKES};
use crate::args::Args;
use crate::command::{Arity, Command, Docs, Extra, Flags, Group, KeyRule, KeySpec, Run};
use crate::error::CommandError;
use crate::events::EventClass;
use crate::keyspace::{Keys, Missing};
use crate::reply::Reply;
use crate::scope::Scope;
use crate::types::{Ended, Limits, Set, Steps, Value, set};

pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "SADD",
        arity: Arity::AtLeast(3),
        flags: Flags::WRITE.and(Flags::DENYOOM).and(Flags::FAST),
        group: Group::Set,
        keys: KeyRule::At(&[KeySpec::at(1, ADDS)]),
        scope: Scope::Named,
        run: Run::OnKeys(sadd),
        docs: Docs { summary: "Adds members to a set.", since: "1.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "SREM",
        arity: Arity::AtLeast(3),
        flags: Flags::WRITE.and(Flags::FAST),
        group: Group::Set,
        keys: KeyRule::At(&[KeySpec::at(1, REMOVES)]),
        scope: Scope::Named,
        run: Run::OnKeys(srem),
        docs: Docs { summary: "Removes members from a set.", since: "1.0.0", complexity: "O(N)" },
        extra: Extra::NONE,
    },
    Command {
        name: "SISMEMBER",
        arity: Arity::Exactly(3),
        flags: Flags::READONLY.and(Flags::FAST),
        group: Group::Set,
        keys: KeyRule::At(&[KeySpec::at(1, LOOKS_AT)]),
        scope: Scope::Named,
        run: Run::OnKeys(sismember),
        docs: Docs { summary: "Tells whether a member is in a set.", since: "1.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "SMISMEMBER",
        arity: Arity::AtLeast(3),
        flags: Flags::READONLY.and(Flags::FAST),
        group: Group::Set,
        keys: KeyRule::At(&[KeySpec::at(1, READS)]),
        scope: Scope::Named,
        run: Run::OnKeys(smismember),
        docs: Docs {
            summary: "Tells for each of several members whether it is in a set.",
            since: "6.2.0",
            complexity: "O(N)",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "SMEMBERS",
        arity: Arity::Exactly(2),
        flags: Flags::READONLY,
        group: Group::Set,
        keys: KeyRule::At(&[KeySpec::at(1, READS)]),
        scope: Scope::Named,
        run: Run::OnKeys(smembers),
        docs: Docs { summary: "Returns the members of a set.", since: "1.0.0", complexity: "O(N)" },
        extra: Extra { tips: &["nondeterministic_output_order"], ..Extra::NONE },
    },
    Command {
        name: "SCARD",
        arity: Arity::Exactly(2),
        flags: Flags::READONLY.and(Flags::FAST),
        group: Group::Set,
        keys: KeyRule::At(&[KeySpec::at(1, LOOKS_AT)]),
        scope: Scope::Named,
        run: Run::OnKeys(scard),
        docs: Docs { summary: "Tells how many members a set has.", since: "1.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "SPOP",
        arity: Arity::AtLeast(2),
        flags: Flags::WRITE.and(Flags::FAST),
        group: Group::Set,
        keys: KeyRule::At(&[KeySpec::at(1, TAKES)]),
        scope: Scope::Named,
        run: Run::OnKeys(spop),
        docs: Docs {
            summary: "Removes and returns members of a set, picked at random.",
            since: "1.0.0",
            complexity: "O(N) for N members",
        },
        extra: Extra { tips: &["nondeterministic_output"], ..Extra::NONE },
    },
    Command {
        name: "SRANDMEMBER",
        arity: Arity::AtLeast(2),
        flags: Flags::READONLY,
        group: Group::Set,
        keys: KeyRule::At(&[KeySpec::at(1, READS)]),
        scope: Scope::Named,
        run: Run::OnKeys(srandmember),
        docs: Docs { summary: "Picks members of a set at random.", since: "1.0.0", complexity: "O(N) for N members" },
        extra: Extra { tips: &["nondeterministic_output"], ..Extra::NONE },
    },
    Command {
        name: "SMOVE",
        arity: Arity::Exactly(4),
        flags: Flags::WRITE.and(Flags::FAST),
        group: Group::Set,
        keys: KeyRule::At(&[KeySpec::at(1, TAKES), KeySpec::at(2, ADDS)]),
        scope: Scope::Named,
        run: Run::OnKeys(smove),
        docs: Docs { summary: "Moves a member from one set to another.", since: "1.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "SINTER",
        arity: Arity::AtLeast(2),
        flags: Flags::READONLY,
        group: Group::Set,
        keys: KeyRule::At(&[KeySpec::range(1, -1, 1, READS)]),
        scope: Scope::Named,
        run: Run::OnKeys(sinter),
        docs: Docs { summary: "Returns the members that all sets have.", since: "1.0.0", complexity: "O(N*M)" },
        extra: Extra { tips: &["nondeterministic_output_order"], ..Extra::NONE },
    },
    Command {
        name: "SINTERSTORE",
        arity: Arity::AtLeast(3),
        flags: Flags::WRITE.and(Flags::DENYOOM),
        group: Group::Set,
        keys: KeyRule::At(&[KeySpec::at(1, OVERWRITES), KeySpec::range(2, -1, 1, READS)]),
        scope: Scope::Named,
        run: Run::OnKeys(sinterstore),
        docs: Docs { summary: "Stores the members that all sets have.", since: "1.0.0", complexity: "O(N*M)" },
        extra: Extra::NONE,
    },
    Command {
        name: "SINTERCARD",
        arity: Arity::AtLeast(3),
        flags: Flags::READONLY,
        group: Group::Set,
        keys: KeyRule::At(&[KeySpec::numkeys(1, READS)]),
        scope: Scope::Named,
        run: Run::OnKeys(sintercard),
        docs: Docs { summary: "Counts the members that all sets have.", since: "7.0.0", complexity: "O(N*M)" },
        extra: Extra::NONE,
    },
    Command {
        name: "SUNION",
        arity: Arity::AtLeast(2),
        flags: Flags::READONLY,
        group: Group::Set,
        keys: KeyRule::At(&[KeySpec::range(1, -1, 1, READS)]),
        scope: Scope::Named,
        run: Run::OnKeys(sunion),
        docs: Docs {
            summary: "Returns the members that any of the sets has.",
            since: "1.0.0",
            complexity: "O(N) where N is the total number of elements in all given sets",
        },
        extra: Extra { tips: &["nondeterministic_output_order"], ..Extra::NONE },
    },
    Command {
        name: "SUNIONSTORE",
        arity: Arity::AtLeast(3),
        flags: Flags::WRITE.and(Flags::DENYOOM),
        group: Group::Set,
        keys: KeyRule::At(&[KeySpec::at(1, OVERWRITES), KeySpec::range(2, -1, 1, READS)]),
        scope: Scope::Named,
        run: Run::OnKeys(sunionstore),
        docs: Docs {
            summary: "Stores the members that any of the sets has.",
            since: "1.0.0",
            complexity: "O(N) where N is the total number of elements in all given sets",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "SDIFF",
        arity: Arity::AtLeast(2),
        flags: Flags::READONLY,
        group: Group::Set,
        keys: KeyRule::At(&[KeySpec::range(1, -1, 1, READS)]),
        scope: Scope::Named,
        run: Run::OnKeys(sdiff),
        docs: Docs {
            summary: "Returns the members of the first set that no other set has.",
            since: "1.0.0",
            complexity: "O(N) where N is the total number of elements in all given sets",
        },
        extra: Extra { tips: &["nondeterministic_output_order"], ..Extra::NONE },
    },
    Command {
        name: "SDIFFSTORE",
        arity: Arity::AtLeast(3),
        flags: Flags::WRITE.and(Flags::DENYOOM),
        group: Group::Set,
        keys: KeyRule::At(&[KeySpec::at(1, OVERWRITES), KeySpec::range(2, -1, 1, READS)]),
        scope: Scope::Named,
        run: Run::OnKeys(sdiffstore),
        docs: Docs {
            summary: "Stores the members of the first set that no other set has.",
            since: "1.0.0",
            complexity: "O(N) where N is the total number of elements in all given sets",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "SSCAN",
        arity: Arity::AtLeast(3),
        flags: Flags::READONLY,
        group: Group::Set,
        keys: KeyRule::At(&[KeySpec::at(1, READS)]),
        scope: Scope::Named,
        run: Run::OnKeys(sscan),
        docs: Docs { summary: "Walks over the members of a set, some at a time.", since: "2.8.0", complexity: "O(1)" },
        extra: Extra { tips: &["nondeterministic_output"], ..Extra::NONE },
    },
];

// ---- one set ----

fn sadd(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let (key, members, limits) = (args.take()?, args.rest(), keys.limits());
    let added = upsert(keys, key, |set: &mut Set| {
        if members.len() > 1 {
            set.prepare(members[0], members.len(), limits);
        }
        members.iter().filter(|member| set.add(member, limits)).count()
    })?;
    if added > 0 {
        keys.effects.changed(added as u64);
        keys.event(EventClass::SET, "sadd", key);
    }
    reply.count(added);
    Ok(())
}

fn srem(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let (key, members) = (args.take()?, args.rest());
    let removed =
        keys.update(key, Missing::Skip, |set: &mut Set| members.iter().filter(|member| set.remove(member)).count())?;
    let removed = removed.unwrap_or(0);
    if removed > 0 {
        keys.effects.changed(removed as u64);
        keys.event_of_removal(EventClass::SET, "srem", key);
    }
    reply.count(removed);
    Ok(())
}

fn sismember(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let (key, member) = (args.take()?, args.take()?);
    reply.flag(keys.get::<Set>(key)?.is_some_and(|set| set.contains(member)));
    Ok(())
}

fn smismember(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let (key, members) = (args.take()?, args.rest());
    let set = keys.get::<Set>(key)?;
    reply.array(members.len());
    members.iter().for_each(|member| reply.flag(set.is_some_and(|set| set.contains(member))));
    Ok(())
}

fn smembers(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    answer_all(keys.get::<Set>(args.take()?)?, reply);
    Ok(())
}

fn answer_all(set: Option<&Set>, reply: &mut Reply) {
    reply.set(set.map_or(0, Set::len));
    set.into_iter().flat_map(Set::iter).for_each(|member| reply.bulk(&member));
}

fn scard(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    reply.count(keys.get::<Set>(args.take()?)?.map_or(0, Set::len));
    Ok(())
}

fn smove(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let (source, destination, member) = (args.take()?, args.take()?, args.take()?);
    let limits = keys.limits();
    let Some(set) = keys.peek_as::<Set>(source)? else {
        keys.settle(source);
        reply.flag(false);
        return Ok(());
    };
    let is_member = set.contains(member);
    // A set that holds it already stays untouched: whoever watches it must not be told otherwise.
    let known = keys.peek_as::<Set>(destination)?.is_some_and(|set| set.contains(member));
    if is_member && source != destination {
        keys.update(source, Missing::Skip, |set: &mut Set| set.remove(member))?;
        keys.effects.changed(1);
        keys.event_of_removal(EventClass::SET, "srem", source);
        if !known && upsert(keys, destination, |set: &mut Set| set.add(member, limits))? {
            keys.event(EventClass::SET, "sadd", destination);
        }
    }
    reply.flag(is_member);
    Ok(())
}

fn sscan(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let (key, cursor) = (args.take()?, cursor(&mut args)?);
    let pattern_bytes_max = keys.limits().pattern_bytes_max;
    let mut page = Page::new(reply);
    let Some(set) = keys.get::<Set>(key)? else {
        page.answer(0, reply);
        return Ok(());
    };
    let walk = parse_walk(pattern_bytes_max, &mut args, None)?;
    let next = set.scan(cursor, walk.count, |member| {
        if walk.pattern.matches(&member) {
            page.show(&member);
        }
    });
    page.answer(next, reply);
    Ok(())
}

// ---- by chance ----

fn srandmember(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let key = args.take()?;
    let (draw, _) = parse_draw(&mut args, None)?;
    let (mut dice, bytes_max) = (keys.dice(), keys.value_bytes_max());
    let Some(set) = keys.get::<Set>(key)? else {
        if draw == Draw::One {
            reply.null()
        } else {
            reply.array(0)
        }
        return Ok(());
    };
    let mut show = |reply: &mut Reply| {
        set.random(&mut dice).into_iter().for_each(|member| reply.bulk(&member));
    };
    match draw {
        Draw::One => show(reply),
        Draw::Distinct(count) => {
            let drawn = set.random_distinct(count, &mut dice);
            reply.array(drawn.len());
            drawn.iter().for_each(|member| reply.bulk(member));
        }
        Draw::Repeated(count) => {
            reply.array(count);
            answer_repeated(reply, count, bytes_max, show)?;
        }
    }
    Ok(())
}

fn spop(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    if args.len() > 2 {
        return Err(CommandError::Syntax);
    }
    let key = args.take()?;
    if !args.is_empty() {
        let count = positive(&mut args)?;
        return spop_many(keys, key, count, reply);
    }
    let mut dice = keys.dice();
    let popped = keys.update(key, Missing::Skip, |set: &mut Set| set.pop_random(&mut dice))?;
    match popped.flatten() {
        Some(member) => {
            keys.effects.changed(1);
            keys.effects.replace(&[b"SREM", key, &member]);
            keys.event_of_removal(EventClass::SET, "spop", key);
            reply.bulk(&member);
        }
        None => reply.null(),
    }
    Ok(())
}

fn spop_many(keys: &mut Keys<'_>, key: &[u8], count: usize, reply: &mut Reply) -> Answer {
    let mut dice = keys.dice();
    let Some(set) = keys.get::<Set>(key)?.filter(|_| count > 0) else {
        reply.set(0);
        return Ok(());
    };
    let len = set.len();
    if count >= len {
        answer_all(Some(set), reply);
        keys.remove(key);
        keys.effects.changed(len as u64);
        keys.effects.replace(&[b"DEL", key]);
        keys.event(EventClass::SET, "spop", key);
        keys.event(EventClass::GENERIC, "del", key);
        return Ok(());
    }
    let drawn: Vec<Vec<u8>> =
        set.random_distinct(count, &mut dice).into_iter().map(|member| member.into_vec()).collect();
    keys.update(key, Missing::Skip, |set: &mut Set| {
        drawn.iter().for_each(|member| _ = set.remove(member));
    })?;
    keys.event(EventClass::SET, "spop", key);
    reply.set(drawn.len());
    drawn.iter().for_each(|member| reply.bulk(member));
    keys.effects.changed(count as u64);
    keys.effects.replace_in_parts(&[b"SREM", key], drawn.iter().map(Vec::as_slice));
    Ok(())
}

// ---- several sets ----

/// The sets at these keys, `None` where there is none.
fn sets<'k>(keys: &'k Keys<'_>, names: &[&[u8]]) -> Result<Vec<Option<&'k Set>>, CommandError> {
    names.iter().map(|key| keys.peek_as::<Set>(key)).collect()
}

/// All of these, or no set at all if one is missing: nothing is in all of them then.
fn all_or_none(sets: Vec<Option<&Set>>) -> Vec<&Set> {
    sets.into_iter().collect::<Option<Vec<_>>>().unwrap_or_default()
}

/// Those there are.
fn present(sets: Vec<Option<&Set>>) -> Vec<&Set> {
    sets.into_iter().flatten().collect()
}

/// Those there are, or no set at all if the first is missing: nothing is left over then.
fn first_and_present(sets: Vec<Option<&Set>>) -> Vec<&Set> {
    if matches!(sets.first(), Some(Some(_))) { present(sets) } else { Vec::new() }
}

fn sinter(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let sets = all_or_none(sets(keys, args.rest())?);
    let mut page = Page::new(reply);
    set::visit_intersection(&sets, &keys.steps(), |member| {
        page.show(member);
        true
    })?;
    page.answer_set(reply);
    Ok(())
}

fn sintercard(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    let argv = args.argv();
    check_numkeys(argv, 1)?;
    let names = super::counted(argv, 1, 2, 1)
        .ok_or_else(|| CommandError::err("Number of keys can't be greater than number of args"))?;
    let mut args = Args::new(argv, names.end);
    let mut limit = 0;
    while !args.is_empty() {
        if args.len() < 2 || !args.accept("LIMIT") {
            return Err(CommandError::Syntax);
        }
        limit = args.count(CommandError::err("LIMIT can't be negative"))? as usize;
    }
    let sets = all_or_none(sets(keys, &argv[names])?);
    reply.count(set::intersection_len(&sets, limit, &keys.steps())?);
    Ok(())
}

fn sunion(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let sets = present(sets(keys, args.rest())?);
    answer_all(Some(&set::union(&sets, keys.limits(), &keys.steps())?), reply);
    Ok(())
}

fn sdiff(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let sets = first_and_present(sets(keys, args.rest())?);
    answer_all(Some(&set::difference(&sets, keys.limits(), &keys.steps())?), reply);
    Ok(())
}

fn sinterstore(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    store_combined(keys, args, "sinterstore", reply, |sets, limits, steps| {
        set::intersection(&all_or_none(sets), limits, steps)
    })
}

fn sunionstore(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    store_combined(keys, args, "sunionstore", reply, |sets, limits, steps| set::union(&present(sets), limits, steps))
}

fn sdiffstore(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    store_combined(keys, args, "sdiffstore", reply, |sets, limits, steps| {
        set::difference(&first_and_present(sets), limits, steps)
    })
}

/// How sets become one.
type Combine = fn(Vec<Option<&Set>>, &Limits, &Steps<'_>) -> Result<Set, Ended>;

fn store_combined(
    keys: &mut Keys<'_>,
    mut args: Args<'_>,
    event: &'static str,
    reply: &mut Reply,
    combine: Combine,
) -> Answer {
    let (destination, sources) = (args.take()?, args.rest());
    // What is expired here must be gone wherever the request is repeated.
    sources.iter().for_each(|key| keys.settle(key));
    let combined = combine(sets(keys, sources)?, keys.limits(), &keys.steps())?;
    store(keys, destination, Value::from(combined), (EventClass::SET, event), reply);
    Ok(())
}

#[cfg(test)]
mod tests;
