//! Fields that expire: setting, asking and clearing when. It refuses to know how expiries are stored and when expired fields
//! are removed.
//!
//! Elsewhere a field never expires by itself: every effect names the moment, or the fields that are gone.

use super::{answer_value, edit, live};
use crate::args::Args;
use crate::commands::collections::Answer;
use crate::error::CommandError;
use crate::events::EventClass;
use crate::keyspace::{Keys, Missing, UnixMillis};
use crate::reply::Reply;
use crate::types::{Hash, LiveHash, number};

// ---- parsing ----

/// How a command spells a moment.
#[derive(Clone, Copy)]
struct Clock {
    /// Milliseconds in its unit.
    unit_ms: i64,
    /// Counted from now on; else since 1970.
    from_now: bool,
}

impl Clock {
    const EX: Clock = Clock { unit_ms: 1000, from_now: true };
    const PX: Clock = Clock { unit_ms: 1, from_now: true };
    const EXAT: Clock = Clock { unit_ms: 1000, from_now: false };
    const PXAT: Clock = Clock { unit_ms: 1, from_now: false };

    fn moment(self, args: &mut Args<'_>, now: UnixMillis, command: &str) -> Result<UnixMillis, CommandError> {
        let count = args.integer()?;
        let since = if self.from_now { now } else { 0 };
        let moment = count.checked_mul(self.unit_ms).and_then(|ms| ms.checked_add(since));
        let moment = moment.filter(|_| count >= 0);
        moment.ok_or_else(|| CommandError::err(format!("invalid expire time in '{command}' command")))
    }
}

/// What happens to the expiry of fields that are read or set.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    /// Reading leaves it, setting clears it.
    Usual,
    /// It is set.
    At(UnixMillis),
    /// `PERSIST`: it is cleared.
    Persist,
    /// `KEEPTTL`: setting leaves it.
    Keep,
}

impl Change {
    /// Takes one of `EX PX EXAT PXAT` with its number; whether there was one.
    fn accept(&mut self, args: &mut Args<'_>, now: UnixMillis, command: &str) -> Result<bool, CommandError> {
        let clock = if args.accept("EX") {
            Clock::EX
        } else if args.accept("PX") {
            Clock::PX
        } else if args.accept("EXAT") {
            Clock::EXAT
        } else if args.accept("PXAT") {
            Clock::PXAT
        } else {
            return Ok(false);
        };
        let moment = clock.moment(args, now, command)?;
        self.only(Change::At(moment))?;
        Ok(true)
    }

    /// Only one may be said; a word alone may be said twice.
    fn only(&mut self, said: Change) -> Answer {
        if *self != Change::Usual && (*self != said || matches!(said, Change::At(_))) {
            return Err(CommandError::Syntax);
        }
        *self = said;
        Ok(())
    }
}

/// Reads `FIELDS count` and what follows to the end, `step` words to each field.
pub(super) fn fields<'a>(args: &mut Args<'a>, step: usize) -> Result<&'a [&'a [u8]], CommandError> {
    if !args.accept("FIELDS") {
        return Err(CommandError::Syntax);
    }
    counted_fields(args, step)
}

/// Cuts what is left at the word FIELDS: the options before it, and what follows.
fn split_at_fields<'a>(args: Args<'a>) -> Result<(Args<'a>, Args<'a>), CommandError> {
    let (argv, from) = (args.argv(), args.index());
    let found = argv[from.min(argv.len())..].iter().position(|word| word.eq_ignore_ascii_case(b"FIELDS"));
    let at = from + found.ok_or_else(mismatch)?;
    Ok((Args::new(&argv[..at], from), Args::new(argv, at + 1)))
}

fn counted_fields<'a>(args: &mut Args<'a>, step: usize) -> Result<&'a [&'a [u8]], CommandError> {
    let promised = args.integer()?;
    let words = args.rest();
    let fits = usize::try_from(promised).ok().and_then(|fields| fields.checked_mul(step)) == Some(words.len());
    if promised < 1 || !fits {
        return Err(mismatch());
    }
    Ok(words)
}

fn mismatch() -> CommandError {
    CommandError::err("numfields should be greater than 0 and match the provided number of fields")
}

/// Replaces the request by `words`, then `FIELDS`, the count and the fields, `step` words to each.
fn replace_with_fields(keys: &mut Keys<'_>, words: &[&[u8]], fields: &[&[u8]], step: usize) {
    let count = number::format_i64((fields.len() / step) as i64);
    let head = [&b"FIELDS"[..], &count];
    let command: Vec<&[u8]> = [words, &head, fields].concat();
    keys.effects.changed((fields.len() / step) as u64);
    keys.effects.replace(&command);
}

/// Fields were removed because the time they were given is past.
fn told_removed(keys: &mut Keys<'_>, key: &[u8], removed: &[&[u8]]) {
    keys.event_of_removal(EventClass::HASH, "hexpired", key);
    keys.effects.changed(removed.len() as u64);
    let head = [&b"HDEL"[..], key];
    keys.effects.replace(&[&head, removed].concat());
}

fn told_expiring(keys: &mut Keys<'_>, key: &[u8], at: UnixMillis, fields: &[&[u8]]) {
    keys.event(EventClass::HASH, "hexpire", key);
    replace_with_fields(keys, &[b"HPEXPIREAT", key, &number::format_i64(at)], fields, 1);
}

fn told_persistent(keys: &mut Keys<'_>, key: &[u8], fields: &[&[u8]]) {
    keys.event(EventClass::HASH, "hpersist", key);
    replace_with_fields(keys, &[b"HPERSIST", key], fields, 1);
}

// ---- HEXPIRE and its like ----

pub(super) fn hexpire(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    expire(keys, args, Clock::EX, "hexpire", reply)
}

pub(super) fn hpexpire(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    expire(keys, args, Clock::PX, "hpexpire", reply)
}

pub(super) fn hexpireat(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    expire(keys, args, Clock::EXAT, "hexpireat", reply)
}

pub(super) fn hpexpireat(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    expire(keys, args, Clock::PXAT, "hpexpireat", reply)
}

/// Which fields HEXPIRE leaves alone.
#[derive(Clone, Copy, Default)]
struct Conditions {
    /// `NX`: those that have an expiry.
    only_without: bool,
    /// `XX`: those that have none.
    only_with: bool,
    /// `GT`: those that would expire earlier; none is later than any.
    only_later: bool,
    /// `LT`: those that would expire later.
    only_earlier: bool,
}

impl Conditions {
    fn parse(args: &mut Args<'_>) -> Result<Conditions, CommandError> {
        let mut said = Conditions::default();
        loop {
            let condition = if args.accept("NX") {
                &mut said.only_without
            } else if args.accept("XX") {
                &mut said.only_with
            } else if args.accept("GT") {
                &mut said.only_later
            } else if args.accept("LT") {
                &mut said.only_earlier
            } else if args.is_empty() {
                break;
            } else {
                let unknown = args.take()?.escape_ascii();
                return Err(CommandError::err(format!("Unsupported option {unknown}")));
            };
            *condition = true;
        }
        if said.only_without && (said.only_with || said.only_later || said.only_earlier) {
            return Err(CommandError::err("NX and XX, GT or LT options at the same time are not compatible"));
        }
        if said.only_later && said.only_earlier {
            return Err(CommandError::err("GT and LT options at the same time are not compatible"));
        }
        Ok(said)
    }

    fn allow(self, before: Option<UnixMillis>, at: UnixMillis) -> bool {
        match before {
            None => !self.only_with && !self.only_later,
            Some(before) => {
                let refused =
                    self.only_without || (self.only_later && at <= before) || (self.only_earlier && at >= before);
                !refused
            }
        }
    }
}

fn expire(keys: &mut Keys<'_>, mut args: Args<'_>, clock: Clock, command: &str, reply: &mut Reply) -> Answer {
    let (now, limits) = (keys.now(), keys.limits());
    let key = args.take()?;
    let at = clock.moment(&mut args, now, command)?;
    let (mut options, mut args) = split_at_fields(args)?;
    let conditions = Conditions::parse(&mut options)?;
    let fields = counted_fields(&mut args, 1)?;
    let is_past = at <= now;
    let (mut answers, mut done) = (Vec::with_capacity(fields.len()), Vec::new());
    keys.update(key, Missing::Skip, |hash: &mut Hash| {
        for field in fields {
            let answer = match hash.at(now).expiry(field) {
                None => -2,
                Some(before) if !conditions.allow(before, at) => 0,
                Some(_) if is_past => {
                    hash.remove(field);
                    2
                }
                Some(_) => {
                    hash.set_expiry(field, Some(at), limits);
                    1
                }
            };
            if answer > 0 {
                done.push(*field);
            }
            answers.push(answer);
        }
    })?;
    reply.array(fields.len());
    (0..fields.len()).for_each(|index| reply.integer(answers.get(index).copied().unwrap_or(-2)));
    match done.is_empty() {
        true => {}
        false if is_past => told_removed(keys, key, &done),
        false => told_expiring(keys, key, at, &done),
    }
    Ok(())
}

pub(super) fn hpersist(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let (now, limits) = (keys.now(), keys.limits());
    let key = args.take()?;
    let fields = fields(&mut args, 1)?;
    let (mut answers, mut done) = (Vec::with_capacity(fields.len()), Vec::new());
    keys.update(key, Missing::Skip, |hash: &mut Hash| {
        for field in fields {
            answers.push(match hash.at(now).expiry(field) {
                None => -2,
                Some(None) => -1,
                Some(Some(_)) => {
                    hash.set_expiry(field, None, limits);
                    done.push(*field);
                    1
                }
            });
        }
    })?;
    reply.array(fields.len());
    (0..fields.len()).for_each(|index| reply.integer(answers.get(index).copied().unwrap_or(-2)));
    if !done.is_empty() {
        told_persistent(keys, key, &done);
    }
    Ok(())
}

// ---- HTTL and its like ----

pub(super) fn httl(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    answer_expiries(keys, args, Clock::EX, reply)
}

pub(super) fn hpttl(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    answer_expiries(keys, args, Clock::PX, reply)
}

pub(super) fn hexpiretime(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    answer_expiries(keys, args, Clock::EXAT, reply)
}

pub(super) fn hpexpiretime(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    answer_expiries(keys, args, Clock::PXAT, reply)
}

fn answer_expiries(keys: &mut Keys<'_>, mut args: Args<'_>, clock: Clock, reply: &mut Reply) -> Answer {
    let since = if clock.from_now { keys.now() } else { 0 };
    let key = args.take()?;
    // Here, and only here, a wrong count is a matter of syntax.
    let fields =
        fields(&mut args, 1).map_err(|error| if error == mismatch() { CommandError::Syntax } else { error })?;
    let hash = live(keys, key)?;
    reply.array(fields.len());
    for field in fields {
        reply.integer(match hash.and_then(|hash| hash.expiry(field)) {
            None => -2,
            Some(None) => -1,
            Some(Some(at)) => at.saturating_sub(since).saturating_add(clock.unit_ms / 2) / clock.unit_ms,
        });
    }
    Ok(())
}

// ---- HGETEX and HSETEX ----

pub(super) fn hgetex(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let (now, limits) = (keys.now(), keys.limits());
    let key = args.take()?;
    let mut change = Change::Usual;
    let (mut options, mut args) = split_at_fields(args)?;
    while !options.is_empty() {
        if options.accept("PERSIST") {
            change.only(Change::Persist)?;
        } else if !change.accept(&mut options, now, "hgetex")? {
            return Err(CommandError::Syntax);
        }
    }
    let fields = counted_fields(&mut args, 1)?;
    if change == Change::Usual {
        let hash = live(keys, key)?;
        reply.array(fields.len());
        fields.iter().for_each(|field| answer_value(hash, field, reply));
        return Ok(());
    }
    let mut done = Vec::new();
    let head = reply.deferred_array();
    let read = keys.update(key, Missing::Skip, |hash: &mut Hash| {
        for field in fields {
            answer_value(Some(hash.at(now)), field, reply);
            let Some(before) = hash.at(now).expiry(field) else { continue };
            let changed = match change {
                Change::At(at) if at <= now => hash.remove(field),
                Change::At(at) => hash.set_expiry(field, Some(at), limits),
                _ => before.is_some() && hash.set_expiry(field, None, limits),
            };
            if changed {
                done.push(*field);
            }
        }
    })?;
    if read.is_none() {
        fields.iter().for_each(|_| reply.null());
    }
    reply.finish_array(head, fields.len());
    match change {
        _ if done.is_empty() => {}
        Change::At(at) if at <= now => told_removed(keys, key, &done),
        Change::At(at) => told_expiring(keys, key, at, &done),
        _ => told_persistent(keys, key, &done),
    }
    Ok(())
}

/// The options of HSETEX.
struct SetOptions {
    change: Change,
    /// `NX` or `XX`: whether the key must be there.
    key_exists: Option<bool>,
    /// `FNX` or `FXX`: whether all of the fields must be there, or none.
    fields_exist: Option<bool>,
}

impl SetOptions {
    fn parse(args: &mut Args<'_>, now: UnixMillis) -> Result<SetOptions, CommandError> {
        let mut options = SetOptions { change: Change::Usual, key_exists: None, fields_exist: None };
        let once = |said: &mut Option<bool>, value| match said.replace(value) {
            Some(before) if before != value => Err(CommandError::Syntax),
            _ => Ok(()),
        };
        while !args.is_empty() {
            if args.accept("NX") {
                once(&mut options.key_exists, false)?;
            } else if args.accept("XX") {
                once(&mut options.key_exists, true)?;
            } else if args.accept("FNX") {
                once(&mut options.fields_exist, false)?;
            } else if args.accept("FXX") {
                once(&mut options.fields_exist, true)?;
            } else if args.accept("KEEPTTL") {
                options.change.only(Change::Keep)?;
            } else if !options.change.accept(args, now, "hsetex")? {
                return Err(CommandError::Syntax);
            }
        }
        Ok(options)
    }

    fn allow(&self, hash: Option<LiveHash<'_>>, pairs: &[&[u8]]) -> bool {
        let is_there = |pair: &[&[u8]]| hash.is_some_and(|hash| hash.contains(pair[0]));
        self.key_exists.is_none_or(|wanted| wanted == hash.is_some())
            && self.fields_exist.is_none_or(|wanted| pairs.chunks_exact(2).all(|pair| wanted == is_there(pair)))
    }
}

pub(super) fn hsetex(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let (now, limits) = (keys.now(), keys.limits());
    let key = args.take()?;
    let (mut options, mut args) = split_at_fields(args)?;
    let options = SetOptions::parse(&mut options, now)?;
    let pairs = counted_fields(&mut args, 2)?;
    let hash = keys.peek_as::<Hash>(key)?.map(|hash| hash.at(now));
    if !options.allow(hash, pairs) {
        reply.flag(false);
        return Ok(());
    }
    reply.flag(true);
    let names: Vec<&[u8]> = pairs.chunks_exact(2).map(|pair| pair[0]).collect();
    if let Change::At(at) = options.change
        && at <= now
    {
        set_and_expire_at_once(keys, key, &names)?;
        return Ok(());
    }
    edit(keys, key, Missing::Create, names.iter().copied(), |hash| {
        for pair in pairs.chunks_exact(2) {
            match options.change {
                Change::At(at) => hash.set_expiring(pair[0], pair[1], at, limits),
                Change::Keep => hash.set_value(pair[0], pair[1], limits),
                _ => hash.set(pair[0], pair[1], limits),
            };
        }
    })?;
    keys.event(EventClass::HASH, "hset", key);
    match options.change {
        Change::At(at) => {
            keys.event(EventClass::HASH, "hexpire", key);
            replace_with_fields(keys, &[b"HSETEX", key, b"PXAT", &number::format_i64(at)], pairs, 2);
        }
        Change::Keep => replace_with_fields(keys, &[b"HSETEX", key, b"KEEPTTL"], pairs, 2),
        _ => {
            keys.effects.changed(names.len() as u64);
            let head = [&b"HSET"[..], key];
            keys.effects.replace(&[&head, pairs].concat());
        }
    }
    Ok(())
}

/// Setting fields to a time that is past: what was there is gone, and nothing else remains.
fn set_and_expire_at_once(keys: &mut Keys<'_>, key: &[u8], names: &[&[u8]]) -> Answer {
    let removed = keys.update(key, Missing::Skip, |hash: &mut Hash| {
        names.iter().copied().filter(|field| hash.remove(field)).collect::<Vec<_>>()
    })?;
    keys.event(EventClass::HASH, "hset", key);
    keys.event(EventClass::HASH, "hexpire", key);
    match removed {
        Some(removed) if !removed.is_empty() => told_removed(keys, key, &removed),
        Some(_) => keys.event(EventClass::HASH, "hexpired", key),
        None => {
            keys.event(EventClass::HASH, "hexpired", key);
            keys.event(EventClass::GENERIC, "del", key);
        }
    }
    Ok(())
}
