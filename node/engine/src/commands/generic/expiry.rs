//! When a key expires: setting the time, asking for it, taking it away.
//!
//! Whatever unit a request counts in, the journal gets the Unix millisecond, and a time that has passed becomes a DEL.

use super::Answer;
use crate::args::Args;
use crate::error::CommandError;
use crate::events::EventClass;
use crate::keyspace::{Keys, UnixMillis};
use crate::reply::Reply;
use crate::types::number;

/// How a request counts time.
#[derive(Clone, Copy)]
struct Unit {
    /// Milliseconds to one.
    ms: i64,
    /// From now on, or since 1970.
    relative: bool,
    /// The command, as the error text names it.
    command: &'static str,
}

/// Which expiries may be replaced.
#[derive(Clone, Copy, Default)]
struct Conditions {
    /// `NX`: none.
    none: bool,
    /// `XX`: any.
    some: bool,
    /// `GT`: an earlier one.
    later: bool,
    /// `LT`: a later one, or none.
    earlier: bool,
}

impl Conditions {
    fn allow(self, old: Option<UnixMillis>, new: UnixMillis) -> bool {
        // A key without an expiry lives longer than any other.
        match old {
            None => !self.some && !self.later,
            Some(old) => !self.none && (!self.later || new > old) && (!self.earlier || new < old),
        }
    }
}

pub(super) fn expire(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    set_expiry(keys, args, Unit { ms: 1000, relative: true, command: "expire" }, reply)
}

pub(super) fn pexpire(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    set_expiry(keys, args, Unit { ms: 1, relative: true, command: "pexpire" }, reply)
}

pub(super) fn expireat(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    set_expiry(keys, args, Unit { ms: 1000, relative: false, command: "expireat" }, reply)
}

pub(super) fn pexpireat(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    set_expiry(keys, args, Unit { ms: 1, relative: false, command: "pexpireat" }, reply)
}

fn set_expiry(keys: &mut Keys<'_>, mut args: Args<'_>, unit: Unit, reply: &mut Reply) -> Answer {
    let (key, time) = (args.take()?, args.take()?);
    let conditions = parse_conditions(args)?;
    let time = number::parse_i64(time).ok_or(CommandError::NotInteger)?;
    let base = if unit.relative { keys.now() } else { 0 };
    let deadline = time.checked_mul(unit.ms).and_then(|ms| ms.checked_add(base));
    let deadline = deadline.ok_or(CommandError::InvalidExpire(unit.command))?;
    let allowed = keys.expires_at(key).is_some_and(|old| conditions.allow(old, deadline));
    if !allowed {
        reply.flag(false);
        return Ok(());
    }
    if deadline <= keys.now() {
        keys.remove(key);
        keys.effects.replace(&[b"DEL", key]);
        keys.event(EventClass::GENERIC, "del", key);
    } else {
        keys.set_expiry(key, Some(deadline));
        keys.effects.replace(&[b"PEXPIREAT", key, &number::format_i64(deadline)]);
        keys.event(EventClass::GENERIC, "expire", key);
    }
    keys.effects.changed(1);
    reply.flag(true);
    Ok(())
}

fn parse_conditions(mut args: Args<'_>) -> Result<Conditions, CommandError> {
    let mut conditions = Conditions::default();
    while let Some(word) = args.peek() {
        if args.accept("NX") {
            conditions.none = true;
        } else if args.accept("XX") {
            conditions.some = true;
        } else if args.accept("GT") {
            conditions.later = true;
        } else if args.accept("LT") {
            conditions.earlier = true;
        } else {
            return Err(CommandError::err(format!("Unsupported option {}", String::from_utf8_lossy(word))));
        }
    }
    let Conditions { none, some, later, earlier } = conditions;
    if none && (some || later || earlier) {
        return Err(CommandError::err("NX and XX, GT or LT options at the same time are not compatible"));
    }
    if later && earlier {
        return Err(CommandError::err("GT and LT options at the same time are not compatible"));
    }
    Ok(conditions)
}

pub(super) fn ttl(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    let now = keys.now();
    answer_time(keys, args, |at| rounded_seconds(at - now), reply)
}

pub(super) fn pttl(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    let now = keys.now();
    answer_time(keys, args, |at| at - now, reply)
}

pub(super) fn expiretime(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    answer_time(keys, args, rounded_seconds, reply)
}

pub(super) fn pexpiretime(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    answer_time(keys, args, |at| at, reply)
}

fn rounded_seconds(ms: i64) -> i64 {
    ms.saturating_add(500) / 1000
}

/// Answers -2 for a missing key, -1 for one that never expires, else what `show` makes of its expiry.
fn answer_time(keys: &mut Keys<'_>, mut args: Args<'_>, show: impl Fn(UnixMillis) -> i64, reply: &mut Reply) -> Answer {
    const MISSING: i64 = -2;
    const NEVER: i64 = -1;
    let expires_at = keys.expires_at(args.take()?);
    keys.effects.looked_up(expires_at.is_some());
    reply.integer(match expires_at {
        None => MISSING,
        Some(None) => NEVER,
        Some(Some(at)) => show(at),
    });
    Ok(())
}

pub(super) fn persist(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let key = args.take()?;
    let expires = keys.expires_at(key).flatten().is_some();
    if expires {
        keys.set_expiry(key, None);
        keys.effects.changed(1);
        keys.event(EventClass::GENERIC, "persist", key);
    }
    reply.flag(expires);
    Ok(())
}
