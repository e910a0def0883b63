//! Lists: elements in the order they were pushed, from both ends.
//!
//! It refuses to know who waits for an element: a command that finds none says so, and is run again. Declarations on top, one entry per command; parsers and
//! handlers below.

use super::collections::{Answer, PopFirst, Timeout, negatable, parse_pop_first, positive, span, upsert};
use super::{ADDS, LOOKS_AT, READS, REMOVES, TAKES, UPDATES};
use crate::args::Args;
use crate::command::{Arity, Command, Docs, Extra, Flags, Group, KeyRule, KeySpec, Run};
use crate::effects::WaitedInVain;
use crate::error::CommandError;
use crate::events::EventClass;
use crate::keyspace::{Keys, Missing};
use crate::reply::Reply;
use crate::scope::Scope;
use crate::types::{End, List, Side, Text, number};

pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "LPUSH",
        arity: Arity::AtLeast(3),
        flags: Flags::WRITE.and(Flags::DENYOOM).and(Flags::FAST),
        group: Group::List,
        keys: KeyRule::At(&[KeySpec::at(1, ADDS)]),
        scope: Scope::Named,
        run: Run::OnKeys(lpush),
        docs: Docs { summary: "Adds elements at the head of a list.", since: "1.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "RPUSH",
        arity: Arity::AtLeast(3),
        flags: Flags::WRITE.and(Flags::DENYOOM).and(Flags::FAST),
        group: Group::List,
        keys: KeyRule::At(&[KeySpec::at(1, ADDS)]),
        scope: Scope::Named,
        run: Run::OnKeys(rpush),
        docs: Docs { summary: "Adds elements at the tail of a list.", since: "1.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "LPUSHX",
        arity: Arity::AtLeast(3),
        flags: Flags::WRITE.and(Flags::DENYOOM).and(Flags::FAST),
        group: Group::List,
        keys: KeyRule::At(&[KeySpec::at(1, ADDS)]),
        scope: Scope::Named,
        run: Run::OnKeys(lpushx),
        docs: Docs { summary: "Adds elements at the head of a list that exists.", since: "2.2.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "RPUSHX",
        arity: Arity::AtLeast(3),
        flags: Flags::WRITE.and(Flags::DENYOOM).and(Flags::FAST),
        group: Group::List,
        keys: KeyRule::At(&[KeySpec::at(1, ADDS)]),
        scope: Scope::Named,
        run: Run::OnKeys(rpushx),
        docs: Docs { summary: "Adds elements at the tail of a list that exists.", since: "2.2.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "LPOP",
        arity: Arity::AtLeast(2),
        flags: Flags::WRITE.and(Flags::FAST),
        group: Group::List,
        keys: KeyRule::At(&[KeySpec::at(1, TAKES)]),
        scope: Scope::Named,
        run: Run::OnKeys(lpop),
        docs: Docs {
            summary: "Removes and returns elements at the head of a list.",
            since: "1.0.0",
            complexity: "O(N) where N is the number of elements returned",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "RPOP",
        arity: Arity::AtLeast(2),
        flags: Flags::WRITE.and(Flags::FAST),
        group: Group::List,
        keys: KeyRule::At(&[KeySpec::at(1, TAKES)]),
        scope: Scope::Named,
        run: Run::OnKeys(rpop),
        docs: Docs {
            summary: "Removes and returns elements at the tail of a list.",
            since: "1.0.0",
            complexity: "O(N) where N is the number of elements returned",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "LLEN",
        arity: Arity::Exactly(2),
        flags: Flags::READONLY.and(Flags::FAST),
        group: Group::List,
        keys: KeyRule::At(&[KeySpec::at(1, LOOKS_AT)]),
        scope: Scope::Named,
        run: Run::OnKeys(llen),
        docs: Docs { summary: "Tells how many elements a list has.", since: "1.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "LRANGE",
        arity: Arity::Exactly(4),
        flags: Flags::READONLY,
        group: Group::List,
        keys: KeyRule::At(&[KeySpec::at(1, READS)]),
        scope: Scope::Named,
        run: Run::OnKeys(lrange),
        docs: Docs { summary: "Returns a range of elements of a list.", since: "1.0.0", complexity: "O(S+N)" },
        extra: Extra::NONE,
    },
    Command {
        name: "LINDEX",
        arity: Arity::Exactly(3),
        flags: Flags::READONLY,
        group: Group::List,
        keys: KeyRule::At(&[KeySpec::at(1, READS)]),
        scope: Scope::Named,
        run: Run::OnKeys(lindex),
        docs: Docs { summary: "Returns the element of a list at an index.", since: "1.0.0", complexity: "O(N)" },
        extra: Extra::NONE,
    },
    Command {
        name: "LSET",
        arity: Arity::Exactly(4),
        flags: Flags::WRITE.and(Flags::DENYOOM),
        group: Group::List,
        keys: KeyRule::At(&[KeySpec::at(1, UPDATES)]),
        scope: Scope::Named,
        run: Run::OnKeys(lset),
        docs: Docs { summary: "Replaces the element of a list at an index.", since: "1.0.0", complexity: "O(N)" },
        extra: Extra::NONE,
    },
    Command {
        name: "LINSERT",
        arity: Arity::Exactly(5),
        flags: Flags::WRITE.and(Flags::DENYOOM),
        group: Group::List,
        keys: KeyRule::At(&[KeySpec::at(1, ADDS)]),
        scope: Scope::Named,
        run: Run::OnKeys(linsert),
        docs: Docs {
            summary: "Inserts an element of a list before or after another.",
            since: "2.2.0",
            complexity: "O(N)",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "LREM",
        arity: Arity::Exactly(4),
        flags: Flags::WRITE,
        group: Group::List,
        keys: KeyRule::At(&[KeySpec::at(1, REMOVES)]),
        scope: Scope::Named,
        run: Run::OnKeys(lrem),
        docs: Docs { summary: "Removes elements of a list that equal a value.", since: "1.0.0", complexity: "O(N+M)" },
        extra: Extra::NONE,
    },
    Command {
        name: "LTRIM",
        arity: Arity::Exactly(4),
        flags: Flags::WRITE,
        group: Group::List,
        keys: KeyRule::At(&[KeySpec::at(1, REMOVES)]),
        scope: Scope::Named,
        run: Run::OnKeys(ltrim),
        docs: Docs { summary: "Removes all elements of a list outside a range.", since: "1.0.0", complexity: "O(N)" },
        extra: Extra::NONE,
    },
    Command {
        name: "LPOS",
        arity: Arity::AtLeast(3),
        flags: Flags::READONLY,
        group: Group::List,
        keys: KeyRule::At(&[KeySpec::at(1, READS)]),
        scope: Scope::Named,
        run: Run::OnKeys(lpos),
        docs: Docs {
            summary: "Finds the index of elements of a list that equal a value.",
            since: "6.0.6",
            complexity: "O(N)",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "LMOVE",
        arity: Arity::Exactly(5),
        flags: Flags::WRITE.and(Flags::DENYOOM),
        group: Group::List,
        keys: KeyRule::At(&[KeySpec::at(1, TAKES), KeySpec::at(2, ADDS)]),
        scope: Scope::Named,
        run: Run::OnKeys(lmove),
        docs: Docs {
            summary: "Moves an element from one end of a list to one end of another.",
            since: "6.2.0",
            complexity: "O(1)",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "RPOPLPUSH",
        arity: Arity::Exactly(3),
        flags: Flags::WRITE.and(Flags::DENYOOM),
        group: Group::List,
        keys: KeyRule::At(&[KeySpec::at(1, TAKES), KeySpec::at(2, ADDS)]),
        scope: Scope::Named,
        run: Run::OnKeys(rpoplpush),
        docs: Docs {
            summary: "Moves the last element of a list to the head of another.",
            since: "1.2.0",
            complexity: "O(1)",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "LMPOP",
        arity: Arity::AtLeast(4),
        flags: Flags::WRITE,
        group: Group::List,
        keys: KeyRule::At(&[KeySpec::numkeys(1, TAKES)]),
        scope: Scope::Named,
        run: Run::OnKeys(lmpop),
        docs: Docs {
            summary: "Removes and returns elements of the first list that has any.",
            since: "7.0.0",
            complexity: "O(N+M)",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "BLPOP",
        arity: Arity::AtLeast(3),
        flags: Flags::WRITE.and(Flags::BLOCKING),
        group: Group::List,
        keys: KeyRule::At(&[KeySpec::range(1, -2, 1, TAKES)]),
        scope: Scope::Named,
        run: Run::OnKeys(blpop),
        docs: Docs {
            summary: "Removes and returns the first element of one of several lists, waiting for one.",
            since: "2.0.0",
            complexity: "O(N) where N is the number of provided keys",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "BRPOP",
        arity: Arity::AtLeast(3),
        flags: Flags::WRITE.and(Flags::BLOCKING),
        group: Group::List,
        keys: KeyRule::At(&[KeySpec::range(1, -2, 1, TAKES)]),
        scope: Scope::Named,
        run: Run::OnKeys(brpop),
        docs: Docs {
            summary: "Removes and returns the last element of one of several lists, waiting for one.",
            since: "2.0.0",
            complexity: "O(N) where N is the number of provided keys",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "BLMOVE",
        arity: Arity::Exactly(6),
        flags: Flags::WRITE.and(Flags::DENYOOM).and(Flags::BLOCKING),
        group: Group::List,
        keys: KeyRule::At(&[KeySpec::at(1, TAKES), KeySpec::at(2, ADDS)]),
        scope: Scope::Named,
        run: Run::OnKeys(blmove),
        docs: Docs {
            summary: "Moves an element from one list to another, waiting for one.",
            since: "6.2.0",
            complexity: "O(1)",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "BRPOPLPUSH",
        arity: Arity::Exactly(4),
        flags: Flags::WRITE.and(Flags::DENYOOM).and(Flags::BLOCKING),
        group: Group::List,
        keys: KeyRule::At(&[KeySpec::at(1, TAKES), KeySpec::at(2, ADDS)]),
        scope: Scope::Named,
        run: Run::OnKeys(brpoplpush),
        docs: Docs {
            summary: "Moves the last element of a list to the head of another, waiting for one.",
            since: "2.2.0",
            complexity: "O(1)",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "BLMPOP",
        arity: Arity::AtLeast(5),
        flags: Flags::WRITE.and(Flags::BLOCKING),
        group: Group::List,
        keys: KeyRule::At(&[KeySpec::numkeys(2, TAKES)]),
        scope: Scope::Named,
        run: Run::OnKeys(blmpop),
        docs: Docs {
            summary: "Removes and returns elements of one of several lists, waiting for some.",
            since: "7.0.0",
            complexity: "O(N+M)",
        },
        extra: Extra::NONE,
    },
];

// ---- pushing ----

fn lpush(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    push(keys, args, End::Front, Missing::Create, reply)
}

fn rpush(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    push(keys, args, End::Back, Missing::Create, reply)
}

fn lpushx(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    push(keys, args, End::Front, Missing::Skip, reply)
}

fn rpushx(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    push(keys, args, End::Back, Missing::Skip, reply)
}

#[inline]
fn push(keys: &mut Keys<'_>, mut args: Args<'_>, end: End, missing: Missing, reply: &mut Reply) -> Answer {
    let (key, elements, limits) = (args.take()?, args.rest(), keys.limits());
    let len = keys.update(key, missing, |list: &mut List| {
        list.push(end, elements, limits);
        list.len()
    })?;
    if len.is_some() {
        keys.effects.changed(elements.len() as u64);
        told_pushed(keys, key, end);
    }
    reply.count(len.unwrap_or(0));
    Ok(())
}

fn linsert(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let key = args.take()?;
    let side = if args.accept("BEFORE") {
        Side::Before
    } else if args.accept("AFTER") {
        Side::After
    } else {
        return Err(CommandError::Syntax);
    };
    let (pivot, element, limits) = (args.take()?, args.take()?, keys.limits());
    let inserted = keys
        .update(key, Missing::Skip, |list: &mut List| list.insert(side, pivot, element, limits).then(|| list.len()))?;
    match inserted {
        None => reply.integer(0),
        Some(None) => reply.integer(-1),
        Some(Some(len)) => {
            keys.effects.changed(1);
            keys.event(EventClass::LIST, "linsert", key);
            reply.count(len);
        }
    }
    Ok(())
}

// ---- popping ----

fn lpop(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    pop(keys, args, End::Front, "lpop", reply)
}

fn rpop(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    pop(keys, args, End::Back, "rpop", reply)
}

fn pop(keys: &mut Keys<'_>, mut args: Args<'_>, end: End, command: &str, reply: &mut Reply) -> Answer {
    if args.len() > 2 {
        return Err(CommandError::Arity(command.to_owned()));
    }
    let (key, limits) = (args.take()?, keys.limits());
    if args.is_empty() {
        let popped = keys.update(key, Missing::Skip, |list: &mut List| {
            answer_element(list.peek(end), reply);
            list.drop_many(end, 1, limits);
        })?;
        match popped {
            Some(()) => {
                keys.effects.changed(1);
                told_popped(keys, key, end);
            }
            None => reply.null(),
        }
        return Ok(());
    }
    let count = positive(&mut args)?;
    match pop_many(keys, key, end, count, reply)? {
        Some(popped) => keys.effects.changed(popped as u64),
        None => reply.null_array(),
    }
    Ok(())
}

#[inline]
fn answer_element(element: Option<Text<'_>>, reply: &mut Reply) {
    match element {
        Some(element) => reply.bulk(&element),
        None => reply.null(),
    }
}

/// Answers up to `count` elements and takes them off; how many, or nothing if there is no such list.
fn pop_many(
    keys: &mut Keys<'_>,
    key: &[u8],
    end: End,
    count: usize,
    reply: &mut Reply,
) -> Result<Option<usize>, CommandError> {
    let limits = keys.limits();
    let popped = keys.update(key, Missing::Skip, |list: &mut List| {
        let len = list.len();
        let count = count.min(len);
        reply.array(count);
        match end {
            End::Front => list.range(0..count).for_each(|element| reply.bulk(&element)),
            End::Back => list.range(len - count..len).rev().for_each(|element| reply.bulk(&element)),
        }
        list.drop_many(end, count, limits);
        count
    })?;
    if popped.is_some_and(|popped| popped > 0) {
        told_popped(keys, key, end);
    }
    Ok(popped)
}

fn lmpop(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    let asked = parse_pop_first(args.argv(), 1, ["LEFT", "RIGHT"])?;
    if !pop_first(keys, &asked, reply)? {
        reply.null_array();
    }
    Ok(())
}

/// Pops from the first of the lists there is; false if there is none.
fn pop_first(keys: &mut Keys<'_>, asked: &PopFirst<'_>, reply: &mut Reply) -> Result<bool, CommandError> {
    let end = if asked.back { End::Back } else { End::Front };
    for key in asked.names {
        let mark = reply.mark();
        reply.array(2);
        reply.bulk(key);
        if let Some(popped) = pop_many(keys, key, end, asked.count, reply)? {
            keys.effects.changed(popped as u64);
            keys.effects.replace(&[pop_command(end), key, &number::format_i64(popped as i64)]);
            return Ok(true);
        }
        reply.rewind(mark);
    }
    Ok(false)
}

fn pop_command(end: End) -> &'static [u8] {
    match end {
        End::Front => b"LPOP",
        End::Back => b"RPOP",
    }
}

/// An element was taken off an end, which may have been the last.
fn told_popped(keys: &mut Keys<'_>, key: &[u8], end: End) {
    keys.event_of_removal(EventClass::LIST, if end == End::Front { "lpop" } else { "rpop" }, key);
}

fn told_pushed(keys: &mut Keys<'_>, key: &[u8], end: End) {
    keys.event(EventClass::LIST, if end == End::Front { "lpush" } else { "rpush" }, key);
}

// ---- moving ----

fn lmove(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let (source, destination) = (args.take()?, args.take()?);
    let (from, to) = (end(&mut args)?, end(&mut args)?);
    if !move_element(keys, [source, destination], [from, to], reply)? {
        reply.null();
    }
    Ok(())
}

fn rpoplpush(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    if !move_element(keys, [args.take()?, args.take()?], [End::Back, End::Front], reply)? {
        reply.null();
    }
    Ok(())
}

fn end(args: &mut Args<'_>) -> Result<End, CommandError> {
    if args.accept("LEFT") {
        Ok(End::Front)
    } else if args.accept("RIGHT") {
        Ok(End::Back)
    } else {
        Err(CommandError::Syntax)
    }
}

/// Moves an element and answers it; false if there is none.
fn move_element(
    keys: &mut Keys<'_>,
    [source, destination]: [&[u8]; 2],
    [from, to]: [End; 2],
    reply: &mut Reply,
) -> Result<bool, CommandError> {
    let limits = keys.limits();
    // Whatever happens is decided before anything is taken.
    if keys.peek_as::<List>(source)?.is_some() {
        keys.peek_as::<List>(destination)?;
    }
    let same = source == destination;
    let moved = keys.update(source, Missing::Skip, |list: &mut List| {
        let element = list.pop(from, limits)?;
        if same {
            list.push(to, &[&element], limits);
        }
        Some(element)
    })?;
    let Some(element) = moved.flatten() else { return Ok(false) };
    let emptied = keys.emptied();
    if !same {
        upsert(keys, destination, |list: &mut List| list.push(to, &[&element], limits))?;
    }
    keys.effects.changed(1);
    told_pushed(keys, destination, to);
    keys.event(EventClass::LIST, if from == End::Front { "lpop" } else { "rpop" }, source);
    if emptied {
        keys.event(EventClass::GENERIC, "del", source);
    }
    reply.bulk(&element);
    Ok(true)
}

// ---- popping and moving, with patience ----

fn blpop(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    pop_waiting(keys, args, End::Front, reply)
}

fn brpop(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    pop_waiting(keys, args, End::Back, reply)
}

fn pop_waiting(keys: &mut Keys<'_>, mut args: Args<'_>, end: End, reply: &mut Reply) -> Answer {
    let (timeout, names) = args.rest().split_last().ok_or(CommandError::Syntax)?;
    let (timeout, limits) = (Timeout::parse(timeout, keys.now())?, keys.limits());
    for key in names {
        let popped = keys.update(key, Missing::Skip, |list: &mut List| list.pop(end, limits))?;
        if let Some(element) = popped.flatten() {
            told_popped(keys, key, end);
            keys.effects.changed(1);
            keys.effects.replace(&[pop_command(end), key]);
            reply.array(2);
            reply.bulk(key);
            reply.bulk(&element);
            return Ok(());
        }
    }
    timeout.wait(keys, WaitedInVain::NullArray)
}

fn blmove(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let (source, destination) = (args.take()?, args.take()?);
    let words = args;
    let ends = [end(&mut args)?, end(&mut args)?];
    let timeout = Timeout::parse(args.take()?, keys.now())?;
    if !move_element(keys, [source, destination], ends, reply)? {
        return timeout.wait(keys, WaitedInVain::NullArrayOrNull);
    }
    let words = &words.argv()[words.index()..words.index() + 2];
    keys.effects.replace(&[b"LMOVE", source, destination, words[0], words[1]]);
    Ok(())
}

fn brpoplpush(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let (source, destination) = (args.take()?, args.take()?);
    let timeout = Timeout::parse(args.take()?, keys.now())?;
    if !move_element(keys, [source, destination], [End::Back, End::Front], reply)? {
        return timeout.wait(keys, WaitedInVain::NullArrayOrNull);
    }
    keys.effects.replace(&[b"RPOPLPUSH", source, destination]);
    Ok(())
}

fn blmpop(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let asked = parse_pop_first(args.argv(), 2, ["LEFT", "RIGHT"])?;
    let timeout = Timeout::parse(args.take()?, keys.now())?;
    if pop_first(keys, &asked, reply)? { Ok(()) } else { timeout.wait(keys, WaitedInVain::NullArray) }
}

// ---- reading ----

fn llen(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    reply.count(keys.get::<List>(args.take()?)?.map_or(0, List::len));
    Ok(())
}

fn lrange(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let (key, start, end) = (args.take()?, args.integer()?, args.integer()?);
    let Some(list) = keys.get::<List>(key)? else {
        reply.array(0);
        return Ok(());
    };
    let wanted = span(start, end, list.len());
    reply.array(wanted.len());
    list.range(wanted).for_each(|element| reply.bulk(&element));
    Ok(())
}

fn lindex(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let Some(list) = keys.get::<List>(args.take()?)? else {
        reply.null();
        return Ok(());
    };
    let index = from_front(args.integer()?, list.len());
    answer_element(index.and_then(|index| list.get(index)), reply);
    Ok(())
}

/// An index counted from the front; negative ones count from the end.
fn from_front(index: i64, len: usize) -> Option<usize> {
    let index = if index < 0 { index + len as i64 } else { index };
    usize::try_from(index).ok().filter(|index| *index < len)
}

/// What LPOS was asked for.
struct Search {
    /// Which match is the first to be answered, from 0.
    skip: usize,
    from: End,
    /// `None`: one, answered without an array around it.
    count: Option<usize>,
    look_at: usize,
}

fn parse_search(mut args: Args<'_>) -> Result<Search, CommandError> {
    let mut search = Search { skip: 0, from: End::Front, count: None, look_at: usize::MAX };
    // Zero is no limit.
    let limit = |count: u64| if count == 0 { usize::MAX } else { count as usize };
    while !args.is_empty() {
        let more = args.len() >= 2;
        if more && args.accept("RANK") {
            let rank = negatable(&mut args)?;
            if rank == 0 {
                return Err(CommandError::err(
                    "RANK can't be zero: use 1 to start from the first match, 2 from the second ... \
                     or use negative to start from the end of the list",
                ));
            }
            search.skip = rank.unsigned_abs() as usize - 1;
            search.from = if rank > 0 { End::Front } else { End::Back };
        } else if more && args.accept("COUNT") {
            search.count = Some(limit(args.count(CommandError::err("COUNT can't be negative"))?));
        } else if more && args.accept("MAXLEN") {
            search.look_at = limit(args.count(CommandError::err("MAXLEN can't be negative"))?);
        } else {
            return Err(CommandError::Syntax);
        }
    }
    Ok(search)
}

fn lpos(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let (key, element) = (args.take()?, args.take()?);
    let search = parse_search(args)?;
    let list = keys.get::<List>(key)?;
    let mut found =
        list.into_iter().flat_map(|list| list.positions(element, search.from, search.look_at)).skip(search.skip);
    let Some(count) = search.count else {
        match found.next() {
            Some(index) => reply.count(index),
            None => reply.null(),
        }
        return Ok(());
    };
    let head = reply.deferred_array();
    let answered = found.take(count).map(|index| reply.count(index)).count();
    reply.finish_array(head, answered);
    Ok(())
}

// ---- changing in place ----

fn lset(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let (key, limits) = (args.take()?, keys.limits());
    let set = keys.update(key, Missing::Skip, |list: &mut List| {
        let (index, element) = (args.integer()?, args.take()?);
        let index = from_front(index, list.len()).ok_or(CommandError::IndexOutOfRange)?;
        list.set(index, element, limits);
        Ok::<_, CommandError>(())
    })?;
    set.ok_or(CommandError::NoSuchKey)??;
    keys.effects.changed(1);
    keys.event(EventClass::LIST, "lset", key);
    reply.ok();
    Ok(())
}

fn lrem(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let (key, count, element) = (args.take()?, negatable(&mut args)?, args.take()?);
    let limits = keys.limits();
    let from = if count < 0 { End::Back } else { End::Front };
    let max = if count == 0 { usize::MAX } else { count.unsigned_abs() as usize };
    let removed =
        keys.update(key, Missing::Skip, |list: &mut List| list.remove(element, from, max, limits))?.unwrap_or(0);
    if removed > 0 {
        keys.effects.changed(removed as u64);
        keys.event_of_removal(EventClass::LIST, "lrem", key);
    }
    reply.count(removed);
    Ok(())
}

fn ltrim(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let (key, start, end) = (args.take()?, args.integer()?, args.integer()?);
    let limits = keys.limits();
    let removed = keys.update(key, Missing::Skip, |list: &mut List| {
        let len = list.len();
        list.trim(span(start, end, len), limits);
        len - list.len()
    })?;
    if let Some(removed) = removed {
        keys.effects.changed(removed as u64);
        keys.event_of_removal(EventClass::LIST, "ltrim", key);
    }
    reply.ok();
    Ok(())
}

#[cfg(test)]
mod tests;
