//! Strings: the value is the bytes themselves.
//!
//! It refuses to know of expiry beyond the time a command carries.
//! Declarations on top, one entry per command; parsers and handlers below.
//! It is long because it is linear: one entry per command, one short handler each.

use super::{ADDS, CHANGES, DELETES, LOOKS_AT, OVERWRITES, READS, TAKES, UPDATES};
use crate::args::Args;
use crate::command::{
    Arity, Begin, Command, Docs, Extra, Find, Flags, Group, KeyFlags, KeyList, KeyRule, KeySpec, Run,
};
use crate::error::CommandError;
use crate::events::EventClass;
use crate::keyspace::{self, Keys, UnixMillis};
use crate::reply::Reply;
use crate::scope::Scope;
use crate::types::number::{self, LongDouble};

mod lcs;
#[cfg(test)]
mod tests;

type Answer = Result<(), CommandError>;

pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "GET",
        arity: Arity::Exactly(2),
        flags: Flags::READONLY.and(Flags::FAST),
        group: Group::String,
        keys: KeyRule::At(&[KeySpec::at(1, READS)]),
        scope: Scope::Named,
        run: Run::OnKeys(get),
        docs: Docs { summary: "Returns the string at a key.", since: "1.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "SET",
        arity: Arity::AtLeast(3),
        flags: Flags::WRITE.and(Flags::DENYOOM),
        group: Group::String,
        keys: KeyRule::Parsed(
            &[KeySpec::at(1, KeyFlags::RW.and(KeyFlags::ACCESS).and(KeyFlags::UPDATE).and(KeyFlags::VARIABLE_FLAGS))],
            set_keys,
        ),
        scope: Scope::Named,
        run: Run::OnKeys(set),
        docs: Docs { summary: "Sets a key to a string, whatever it held before.", since: "1.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "MGET",
        arity: Arity::AtLeast(2),
        flags: Flags::READONLY.and(Flags::FAST),
        group: Group::String,
        keys: KeyRule::At(&[KeySpec::range(1, -1, 1, READS)]),
        scope: Scope::Named,
        run: Run::OnKeys(mget),
        docs: Docs {
            summary: "Returns the strings at several keys.",
            since: "1.0.0",
            complexity: "O(N) where N is the number of keys to retrieve",
        },
        extra: Extra { tips: &["request_policy:multi_shard"], ..Extra::NONE },
    },
    Command {
        name: "MSET",
        arity: Arity::AtLeast(3),
        flags: Flags::WRITE.and(Flags::DENYOOM),
        group: Group::String,
        keys: KeyRule::At(&[KeySpec::range(1, -1, 2, OVERWRITES)]),
        scope: Scope::Named,
        run: Run::OnKeys(mset),
        docs: Docs {
            summary: "Sets several keys to strings at once.",
            since: "1.0.1",
            complexity: "O(N) where N is the number of keys to set",
        },
        extra: Extra { tips: &["request_policy:multi_shard", "response_policy:all_succeeded"], ..Extra::NONE },
    },
    Command {
        name: "MSETNX",
        arity: Arity::AtLeast(3),
        flags: Flags::WRITE.and(Flags::DENYOOM),
        group: Group::String,
        keys: KeyRule::At(&[KeySpec::range(1, -1, 2, KeyFlags::OW.and(KeyFlags::INSERT))]),
        scope: Scope::Named,
        run: Run::OnKeys(msetnx),
        docs: Docs {
            summary: "Sets several keys to strings if none of them exists.",
            since: "1.0.1",
            complexity: "O(N) where N is the number of keys to set",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "MSETEX",
        arity: Arity::AtLeast(4),
        flags: Flags::WRITE.and(Flags::DENYOOM),
        group: Group::String,
        keys: KeyRule::At(&[KeySpec {
            flags: OVERWRITES,
            begin: Begin::Index(1),
            find: Find::KeyNum { count: 0, first: 1, step: 2 },
        }]),
        scope: Scope::Named,
        run: Run::OnKeys(msetex),
        docs: Docs {
            summary: "Sets several keys to strings, with conditions and one time to live.",
            since: "9.1.0",
            complexity: "O(N) where N is the number of keys to set",
        },
        extra: Extra { tips: &["request_policy:multi_shard", "response_policy:all_succeeded"], ..Extra::NONE },
    },
    Command {
        name: "SETNX",
        arity: Arity::Exactly(3),
        flags: Flags::WRITE.and(Flags::DENYOOM).and(Flags::FAST),
        group: Group::String,
        keys: KeyRule::At(&[KeySpec::at(1, KeyFlags::OW.and(KeyFlags::INSERT))]),
        scope: Scope::Named,
        run: Run::OnKeys(setnx),
        docs: Docs { summary: "Sets a key to a string unless it exists.", since: "1.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "SETEX",
        arity: Arity::Exactly(4),
        flags: Flags::WRITE.and(Flags::DENYOOM),
        group: Group::String,
        keys: KeyRule::At(&[KeySpec::at(1, OVERWRITES)]),
        scope: Scope::Named,
        run: Run::OnKeys(setex),
        docs: Docs {
            summary: "Sets a key to a string that lives for some seconds.",
            since: "2.0.0",
            complexity: "O(1)",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "PSETEX",
        arity: Arity::Exactly(4),
        flags: Flags::WRITE.and(Flags::DENYOOM),
        group: Group::String,
        keys: KeyRule::At(&[KeySpec::at(1, OVERWRITES)]),
        scope: Scope::Named,
        run: Run::OnKeys(psetex),
        docs: Docs {
            summary: "Sets a key to a string that lives for some milliseconds.",
            since: "2.6.0",
            complexity: "O(1)",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "GETSET",
        arity: Arity::Exactly(3),
        flags: Flags::WRITE.and(Flags::DENYOOM).and(Flags::FAST),
        group: Group::String,
        keys: KeyRule::At(&[KeySpec::at(1, CHANGES)]),
        scope: Scope::Named,
        run: Run::OnKeys(getset),
        docs: Docs {
            summary: "Sets a key to a string and returns the one it held.",
            since: "1.0.0",
            complexity: "O(1)",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "GETDEL",
        arity: Arity::Exactly(2),
        flags: Flags::WRITE.and(Flags::FAST),
        group: Group::String,
        keys: KeyRule::At(&[KeySpec::at(1, TAKES)]),
        scope: Scope::Named,
        run: Run::OnKeys(getdel),
        docs: Docs { summary: "Returns the string at a key and deletes the key.", since: "6.2.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "GETEX",
        arity: Arity::AtLeast(2),
        flags: Flags::WRITE.and(Flags::FAST),
        group: Group::String,
        keys: KeyRule::At(&[KeySpec::at(1, CHANGES)]),
        scope: Scope::Named,
        run: Run::OnKeys(getex),
        docs: Docs {
            summary: "Returns the string at a key and changes its time to live.",
            since: "6.2.0",
            complexity: "O(1)",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "DELIFEQ",
        arity: Arity::Exactly(3),
        flags: Flags::WRITE.and(Flags::FAST),
        group: Group::String,
        keys: KeyRule::At(&[KeySpec::at(1, DELETES)]),
        scope: Scope::Named,
        run: Run::OnKeys(delifeq),
        docs: Docs { summary: "Deletes a key if it holds the given string.", since: "9.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "APPEND",
        arity: Arity::Exactly(3),
        flags: Flags::WRITE.and(Flags::DENYOOM).and(Flags::FAST),
        group: Group::String,
        keys: KeyRule::At(&[KeySpec::at(1, ADDS)]),
        scope: Scope::Named,
        run: Run::OnKeys(append),
        docs: Docs { summary: "Appends to the string at a key.", since: "2.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "STRLEN",
        arity: Arity::Exactly(2),
        flags: Flags::READONLY.and(Flags::FAST),
        group: Group::String,
        keys: KeyRule::At(&[KeySpec::at(1, LOOKS_AT)]),
        scope: Scope::Named,
        run: Run::OnKeys(strlen),
        docs: Docs { summary: "Tells the length of the string at a key.", since: "2.2.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "GETRANGE",
        arity: Arity::Exactly(4),
        flags: Flags::READONLY,
        group: Group::String,
        keys: KeyRule::At(&[KeySpec::at(1, READS)]),
        scope: Scope::Named,
        run: Run::OnKeys(getrange),
        docs: Docs { summary: "Returns a part of the string at a key.", since: "2.4.0", complexity: "O(N)" },
        extra: Extra::NONE,
    },
    Command {
        name: "SUBSTR",
        arity: Arity::Exactly(4),
        flags: Flags::READONLY,
        group: Group::String,
        keys: KeyRule::At(&[KeySpec::at(1, READS)]),
        scope: Scope::Named,
        run: Run::OnKeys(getrange),
        docs: Docs {
            summary: "Returns a part of the string at a key, under its old name.",
            since: "1.0.0",
            complexity: "O(N)",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "SETRANGE",
        arity: Arity::Exactly(4),
        flags: Flags::WRITE.and(Flags::DENYOOM),
        group: Group::String,
        keys: KeyRule::At(&[KeySpec::at(1, UPDATES)]),
        scope: Scope::Named,
        run: Run::OnKeys(setrange),
        docs: Docs { summary: "Overwrites a part of the string at a key.", since: "2.2.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "INCR",
        arity: Arity::Exactly(2),
        flags: Flags::WRITE.and(Flags::DENYOOM).and(Flags::FAST),
        group: Group::String,
        keys: KeyRule::At(&[KeySpec::at(1, CHANGES)]),
        scope: Scope::Named,
        run: Run::OnKeys(incr),
        docs: Docs { summary: "Adds one to the number at a key.", since: "1.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "DECR",
        arity: Arity::Exactly(2),
        flags: Flags::WRITE.and(Flags::DENYOOM).and(Flags::FAST),
        group: Group::String,
        keys: KeyRule::At(&[KeySpec::at(1, CHANGES)]),
        scope: Scope::Named,
        run: Run::OnKeys(decr),
        docs: Docs { summary: "Subtracts one from the number at a key.", since: "1.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "INCRBY",
        arity: Arity::Exactly(3),
        flags: Flags::WRITE.and(Flags::DENYOOM).and(Flags::FAST),
        group: Group::String,
        keys: KeyRule::At(&[KeySpec::at(1, CHANGES)]),
        scope: Scope::Named,
        run: Run::OnKeys(incrby),
        docs: Docs { summary: "Adds an integer to the number at a key.", since: "1.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "DECRBY",
        arity: Arity::Exactly(3),
        flags: Flags::WRITE.and(Flags::DENYOOM).and(Flags::FAST),
        group: Group::String,
        keys: KeyRule::At(&[KeySpec::at(1, CHANGES)]),
        scope: Scope::Named,
        run: Run::OnKeys(decrby),
        docs: Docs { summary: "Subtracts an integer from the number at a key.", since: "1.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "INCRBYFLOAT",
        arity: Arity::Exactly(3),
        flags: Flags::WRITE.and(Flags::DENYOOM).and(Flags::FAST),
        group: Group::String,
        keys: KeyRule::At(&[KeySpec::at(1, CHANGES)]),
        scope: Scope::Named,
        run: Run::OnKeys(incrbyfloat),
        docs: Docs {
            summary: "Adds a floating point number to the number at a key.",
            since: "2.6.0",
            complexity: "O(1)",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "LCS",
        arity: Arity::AtLeast(3),
        flags: Flags::READONLY,
        group: Group::String,
        keys: KeyRule::At(&[KeySpec::range(1, 1, 1, READS)]),
        scope: Scope::Named,
        run: Run::OnKeys(lcs::lcs),
        docs: Docs {
            summary: "Finds the longest common subsequence of two strings.",
            since: "7.0.0",
            complexity: "O(N*M) where N and M are the lengths of s1 and s2, respectively",
        },
        extra: Extra::NONE,
    },
];

/// When a SET, GETEX or MSETEX may happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Condition<'a> {
    /// Always.
    Always,
    /// `NX`: the key must not exist.
    Absent,
    /// `XX`: the key must exist.
    Present,
    /// `IFEQ`: the key must hold this string.
    Equals(&'a [u8]),
}

/// What the options say about the key's time to live. Numbers are as sent: they are read after the syntax is known
/// to be right, as Redis does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Expiry<'a> {
    /// No option was given.
    Unsaid,
    /// `KEEPTTL`.
    Keep,
    /// `PERSIST`.
    Persist,
    /// `EX`: this many seconds from now.
    Seconds(&'a [u8]),
    /// `PX`: this many milliseconds from now.
    Milliseconds(&'a [u8]),
    /// `EXAT`: at this Unix second.
    AtSecond(&'a [u8]),
    /// `PXAT`: at this Unix millisecond.
    AtMillisecond(&'a [u8]),
}

impl Expiry<'_> {
    /// The Unix millisecond it names, if it names one. `command` is the name for the error text.
    pub(super) fn deadline(self, now_ms: i64, command: &'static str) -> Result<Option<i64>, CommandError> {
        let (text, factor, base) = match self {
            Expiry::Unsaid | Expiry::Keep | Expiry::Persist => return Ok(None),
            Expiry::Seconds(text) => (text, 1000, now_ms),
            Expiry::Milliseconds(text) => (text, 1, now_ms),
            Expiry::AtSecond(text) => (text, 1000, 0),
            Expiry::AtMillisecond(text) => (text, 1, 0),
        };
        let value = number::parse_i64(text).ok_or(CommandError::NotInteger)?;
        let deadline = value.checked_mul(factor).and_then(|ms| ms.checked_add(base));
        match deadline {
            Some(deadline) if value > 0 => Ok(Some(deadline)),
            _ => Err(CommandError::InvalidExpire(command)),
        }
    }

    /// Sets the option, which may be repeated but not mixed with another.
    fn choose(&mut self, option: Self) -> Result<(), CommandError> {
        let same = std::mem::discriminant(self) == std::mem::discriminant(&option);
        if !same && *self != Expiry::Unsaid {
            return Err(CommandError::Syntax);
        }
        *self = option;
        Ok(())
    }
}

/// The options of SET and GETEX.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct StringOptions<'a> {
    /// `NX`, `XX`, `IFEQ`.
    pub(super) condition: Condition<'a>,
    /// `GET`: answer the old value.
    pub(super) get: bool,
    /// `EX`, `PX`, `EXAT`, `PXAT`, `KEEPTTL`, `PERSIST`.
    pub(super) expiry: Expiry<'a>,
}

/// Reads `EX`, `PX`, `EXAT` or `PXAT` with its operand; false if the next argument is none of them.
fn parse_expiry<'a>(args: &mut Args<'a>, expiry: &mut Expiry<'a>) -> Result<bool, CommandError> {
    let option: fn(&'a [u8]) -> Expiry<'a> = if args.accept("EX") {
        Expiry::Seconds
    } else if args.accept("PX") {
        Expiry::Milliseconds
    } else if args.accept("EXAT") {
        Expiry::AtSecond
    } else if args.accept("PXAT") {
        Expiry::AtMillisecond
    } else {
        return Ok(false);
    };
    expiry.choose(option(args.take()?))?;
    Ok(true)
}

/// Reads the options of `SET key value [option …]`; its key rule asks here whether `GET` is among them.
pub(super) fn parse_set<'a>(argv: &'a [&'a [u8]]) -> Result<StringOptions<'a>, CommandError> {
    let mut args = Args::new(argv, 3);
    let mut options = StringOptions { condition: Condition::Always, get: false, expiry: Expiry::Unsaid };
    while !args.is_empty() {
        if parse_expiry(&mut args, &mut options.expiry)? {
            continue;
        }
        let condition = if args.accept("NX") {
            Condition::Absent
        } else if args.accept("XX") {
            Condition::Present
        } else if options.condition == Condition::Always && args.accept("IFEQ") {
            // Unlike NX and XX it may not be repeated.
            Condition::Equals(args.take()?)
        } else if args.accept("GET") {
            options.get = true;
            continue;
        } else if args.accept("KEEPTTL") {
            options.expiry.choose(Expiry::Keep)?;
            continue;
        } else {
            return Err(CommandError::Syntax);
        };
        let same = std::mem::discriminant(&condition) == std::mem::discriminant(&options.condition);
        if !same && options.condition != Condition::Always {
            return Err(CommandError::Syntax);
        }
        options.condition = condition;
    }
    Ok(options)
}

/// Reads the option of `GETEX key [option]`.
pub(super) fn parse_getex<'a>(argv: &'a [&'a [u8]]) -> Result<Expiry<'a>, CommandError> {
    let mut args = Args::new(argv, 2);
    let mut expiry = Expiry::Unsaid;
    while !args.is_empty() {
        if parse_expiry(&mut args, &mut expiry)? {
            continue;
        }
        if !args.accept("PERSIST") {
            return Err(CommandError::Syntax);
        }
        expiry.choose(Expiry::Persist)?;
    }
    Ok(expiry)
}

/// Reads `MSETEX numkeys key value [key value …] [option …]`: the names and values, and the options.
fn parse_msetex<'a>(argv: &'a [&'a [u8]]) -> Result<(&'a [&'a [u8]], StringOptions<'a>), CommandError> {
    let mut args = Args::new(argv, 1);
    let count = number::parse_i64(args.take()?).filter(|count| (1..=i64::from(i32::MAX)).contains(count));
    if count.is_none() {
        return Err(CommandError::err("invalid numkeys value or out of range"));
    }
    let pairs = super::counted(argv, 1, 2, 2).ok_or(CommandError::Syntax)?;
    let mut args = Args::new(argv, pairs.end);
    let mut options = StringOptions { condition: Condition::Always, get: false, expiry: Expiry::Unsaid };
    while !args.is_empty() {
        if parse_expiry(&mut args, &mut options.expiry)? {
            continue;
        }
        if args.accept("KEEPTTL") {
            options.expiry.choose(Expiry::Keep)?;
            continue;
        }
        let condition = if args.accept("NX") {
            Condition::Absent
        } else if args.accept("XX") {
            Condition::Present
        } else {
            return Err(CommandError::Syntax);
        };
        if options.condition != Condition::Always && options.condition != condition {
            return Err(CommandError::Syntax);
        }
        options.condition = condition;
    }
    Ok((&argv[pairs], options))
}

/// SET reads its key only if it answers the old value.
fn set_keys(list: &mut KeyList<'_, '_>) {
    let gets = list.argv.len() > 3 && parse_set(list.argv).is_ok_and(|options| options.get);
    list.push(1, if gets { CHANGES } else { OVERWRITES });
}

// ---- reading ----

fn get(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    answer_string(keys, args.take()?, reply).map(|_found| ())
}

/// Answers the string at a key, or null; whether there was one.
#[inline]
fn answer_string(keys: &mut Keys<'_>, key: &[u8], reply: &mut Reply) -> Result<bool, CommandError> {
    let value = keys.string(key)?;
    match &value {
        Some(value) => reply.bulk(value),
        None => reply.null(),
    }
    Ok(value.is_some())
}

fn mget(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let names = args.rest();
    reply.array(names.len());
    for key in names {
        // A key of another type reads as missing, so that one such key does not spoil the others.
        if answer_string(keys, key, reply).is_err() {
            reply.null();
        }
    }
    Ok(())
}

fn strlen(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let value = keys.string(args.take()?)?;
    reply.count(value.map_or(0, |value| value.len()));
    Ok(())
}

fn getrange(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let (key, start, end) = (args.take()?, args.integer()?, args.integer()?);
    match keys.string(key)? {
        Some(value) => reply.bulk(part(&value, start, end)),
        None => reply.bulk(b""),
    }
    Ok(())
}

/// The bytes from `start` to `end`, both included; negative ones count from the end.
fn part(value: &[u8], start: i64, end: i64) -> &[u8] {
    let len = value.len() as i64;
    let from_start = |index: i64| if index < 0 { len + index } else { index };
    let (first, last) = (from_start(start), from_start(end));
    if start < 0 && end < 0 && start > end || len == 0 {
        return b"";
    }
    let (first, last) = (first.max(0), last.clamp(0, len - 1));
    if first > last { b"" } else { &value[first as usize..=last as usize] }
}

// ---- writing a whole value ----

fn set(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let (key, value) = (args.take()?, args.take()?);
    if !args.is_empty() {
        return set_with_options(keys, args, reply);
    }
    keys.put_string(key, value, keyspace::Expiry::Never);
    keys.effects.changed(1);
    keys.event(EventClass::STRING, "set", key);
    reply.ok();
    Ok(())
}

fn set_with_options(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    let argv = args.argv();
    let (key, value) = (argv[1], argv[2]);
    let options = parse_set(argv)?;
    let deadline = options.expiry.deadline(keys.now(), "set")?;
    // A condition is decided once, here: an expired key must be gone wherever the request is repeated.
    keys.settle(key);
    if options.get {
        answer_string(keys, key, reply)?;
    }
    let allowed = match options.condition {
        Condition::Always => true,
        Condition::Absent => !keys.exists(key),
        Condition::Present => keys.exists(key),
        Condition::Equals(expected) => keys.peek_string(key)?.is_some_and(|value| *value == *expected),
    };
    if allowed {
        match deadline {
            Some(deadline) => put_until(keys, key, value, deadline),
            None => {
                let keep = options.expiry == Expiry::Keep;
                keys.put_string(key, value, if keep { keyspace::Expiry::Keep } else { keyspace::Expiry::Never });
                keys.effects.changed(1);
                keys.event(EventClass::STRING, "set", key);
            }
        }
    }
    match (options.get, allowed) {
        (true, _) => {}
        (false, true) => reply.ok(),
        (false, false) => reply.null(),
    }
    Ok(())
}

/// Makes the key this string until `deadline`; a deadline that has passed makes the key go.
fn put_until(keys: &mut Keys<'_>, key: &[u8], value: &[u8], deadline: UnixMillis) {
    if deadline <= keys.now() {
        delete(keys, key);
        return;
    }
    keys.put_string(key, value, keyspace::Expiry::At(deadline));
    keys.effects.changed(1);
    keys.event(EventClass::STRING, "set", key);
    keys.event(EventClass::GENERIC, "expire", key);
    keys.effects.replace(&[b"SET", key, value, b"PXAT", &number::format_i64(deadline)]);
}

/// Deletes the key, whatever the request was called.
fn delete(keys: &mut Keys<'_>, key: &[u8]) {
    if keys.remove(key) {
        keys.effects.changed(1);
        keys.effects.replace(&[b"DEL", key]);
        keys.event(EventClass::GENERIC, "del", key);
    }
}

fn setnx(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let (key, value) = (args.take()?, args.take()?);
    keys.settle(key);
    let absent = !keys.exists(key);
    if absent {
        keys.put_string(key, value, keyspace::Expiry::Never);
        keys.effects.changed(1);
        keys.event(EventClass::STRING, "set", key);
    }
    reply.flag(absent);
    Ok(())
}

fn setex(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    set_for(keys, args, Expiry::Seconds, "setex", reply)
}

fn psetex(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    set_for(keys, args, Expiry::Milliseconds, "psetex", reply)
}

fn set_for<'a>(
    keys: &mut Keys<'_>,
    mut args: Args<'a>,
    unit: fn(&'a [u8]) -> Expiry<'a>,
    command: &'static str,
    reply: &mut Reply,
) -> Answer {
    let (key, time, value) = (args.take()?, args.take()?, args.take()?);
    if let Some(deadline) = unit(time).deadline(keys.now(), command)? {
        put_until(keys, key, value, deadline);
    }
    reply.ok();
    Ok(())
}

fn getset(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let (key, value) = (args.take()?, args.take()?);
    answer_string(keys, key, reply)?;
    keys.put_string(key, value, keyspace::Expiry::Never);
    keys.effects.changed(1);
    keys.event(EventClass::STRING, "set", key);
    Ok(())
}

fn getdel(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let key = args.take()?;
    if answer_string(keys, key, reply)? {
        delete(keys, key);
    }
    Ok(())
}

fn getex(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let expiry = parse_getex(args.argv())?;
    let deadline = expiry.deadline(keys.now(), "getex")?;
    let key = args.take()?;
    if !answer_string(keys, key, reply)? {
        return Ok(());
    }
    match deadline {
        Some(deadline) if deadline <= keys.now() => delete(keys, key),
        Some(deadline) => {
            keys.set_expiry(key, Some(deadline));
            keys.effects.changed(1);
            keys.effects.replace(&[b"PEXPIREAT", key, &number::format_i64(deadline)]);
            keys.event(EventClass::GENERIC, "expire", key);
        }
        None if expiry == Expiry::Persist && keys.expires_at(key).flatten().is_some() => {
            keys.set_expiry(key, None);
            keys.effects.changed(1);
            keys.effects.replace(&[b"PERSIST", key]);
            keys.event(EventClass::GENERIC, "persist", key);
        }
        None => {}
    }
    Ok(())
}

fn delifeq(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let (key, expected) = (args.take()?, args.take()?);
    let equal = keys.string(key)?.is_some_and(|value| *value == *expected);
    if equal {
        delete(keys, key);
    }
    reply.flag(equal);
    Ok(())
}

// ---- writing several values ----

fn mset(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    put_pairs(keys, pairs(args, "mset")?);
    reply.ok();
    Ok(())
}

fn msetnx(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    let pairs = pairs(args, "msetnx")?;
    let allowed = meets(keys, pairs, Condition::Absent);
    if allowed {
        put_pairs(keys, pairs);
    }
    reply.flag(allowed);
    Ok(())
}

/// The names and values of MSET and MSETNX, one after the other.
fn pairs<'a>(mut args: Args<'a>, command: &str) -> Result<&'a [&'a [u8]], CommandError> {
    let pairs = args.rest();
    if pairs.len().is_multiple_of(2) { Ok(pairs) } else { Err(CommandError::Arity(command.to_owned())) }
}

/// Whether all keys are absent, or all present.
fn meets(keys: &mut Keys<'_>, pairs: &[&[u8]], condition: Condition<'_>) -> bool {
    pairs.iter().step_by(2).all(|key| {
        keys.settle(key);
        match condition {
            Condition::Absent => !keys.exists(key),
            Condition::Present => keys.exists(key),
            Condition::Always | Condition::Equals(_) => true,
        }
    })
}

fn put_pairs(keys: &mut Keys<'_>, pairs: &[&[u8]]) {
    for pair in pairs.chunks_exact(2) {
        keys.put_string(pair[0], pair[1], keyspace::Expiry::Never);
        keys.event(EventClass::STRING, "set", pair[0]);
    }
    keys.effects.changed(pairs.len() as u64 / 2);
}

fn msetex(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    let (pairs, options) = parse_msetex(args.argv())?;
    let deadline = options.expiry.deadline(keys.now(), "msetex")?;
    let allowed = meets(keys, pairs, options.condition);
    if allowed {
        match deadline {
            Some(deadline) => pairs.chunks_exact(2).for_each(|pair| put_until(keys, pair[0], pair[1], deadline)),
            None if options.expiry == Expiry::Keep => {
                for pair in pairs.chunks_exact(2) {
                    keys.put_string(pair[0], pair[1], keyspace::Expiry::Keep);
                    keys.effects.changed(1);
                    keys.event(EventClass::STRING, "set", pair[0]);
                }
            }
            None => put_pairs(keys, pairs),
        }
    }
    reply.flag(allowed);
    Ok(())
}

// ---- changing a value ----

fn append(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let (key, suffix) = (args.take()?, args.take()?);
    let len = keys.append_string(key, suffix)?;
    keys.effects.changed(1);
    keys.event(EventClass::STRING, "append", key);
    reply.count(len);
    Ok(())
}

fn setrange(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let (key, offset, value) = (args.take()?, args.integer()?, args.take()?);
    let offset = u64::try_from(offset).map_err(|_| CommandError::err("offset is out of range"))?;
    if value.is_empty() {
        // Nothing to write: neither made nor grown.
        let old = keys.string(key)?;
        reply.count(old.map_or(0, |old| old.len()));
        return Ok(());
    }
    // The type is judged before the length, as Redis does.
    keys.peek_string(key)?;
    let end = offset.saturating_add(value.len() as u64);
    if end > keys.value_bytes_max() {
        return Err(CommandError::StringTooLong);
    }
    let (start, end) = (offset as usize, end as usize);
    let len = keys.edit_string(key, end, |bytes| {
        bytes[start..end].copy_from_slice(value);
        bytes.len()
    })?;
    keys.effects.changed(1);
    keys.event(EventClass::STRING, "setrange", key);
    reply.count(len);
    Ok(())
}

fn incr(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    add(keys, args.take()?, 1, reply)
}

fn decr(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    add(keys, args.take()?, -1, reply)
}

fn incrby(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let (key, amount) = (args.take()?, args.integer()?);
    add(keys, key, amount, reply)
}

fn decrby(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let (key, amount) = (args.take()?, args.integer()?);
    let amount = amount.checked_neg().ok_or_else(|| CommandError::err("decrement would overflow"))?;
    add(keys, key, amount, reply)
}

#[inline]
fn add(keys: &mut Keys<'_>, key: &[u8], amount: i64, reply: &mut Reply) -> Answer {
    let sum = keys.edit_integer(key, |value| value.checked_add(amount).ok_or(CommandError::Overflow))?;
    keys.effects.changed(1);
    keys.event(EventClass::STRING, "incrby", key);
    reply.integer(sum);
    Ok(())
}

fn incrbyfloat(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let (key, amount) = (args.take()?, args.take()?);
    let parse = |text: &[u8]| LongDouble::parse(text).ok_or(CommandError::NotFloat);
    let value = match keys.string(key)? {
        Some(text) => parse(&text)?,
        None => parse(b"0")?,
    };
    let sum = value.checked_add(parse(amount)?).filter(LongDouble::is_finite);
    let sum = sum.ok_or_else(|| CommandError::err("increment would produce NaN or Infinity"))?;
    let text = number::format_incr_float(&sum);
    keys.put_string(key, text.as_bytes(), keyspace::Expiry::Keep);
    keys.effects.changed(1);
    keys.event(EventClass::STRING, "incrbyfloat", key);
    // The sum, not the summand: rounding happens once.
    keys.effects.replace(&[b"SET", key, text.as_bytes(), b"KEEPTTL"]);
    reply.bulk(text.as_bytes());
    Ok(())
}

#[cfg(test)]
mod parser_tests {
    use super::*;

    #[test]
    fn set_options_exclude_each_other_as_in_redis() {
        let parse = |words: &str| {
            let argv: Vec<&[u8]> = words.split(' ').map(str::as_bytes).collect();
            parse_set(&argv).map(|options| (options.get, format!("{:?} {:?}", options.condition, options.expiry)))
        };
        assert_eq!(parse("SET k v"), Ok((false, "Always Unsaid".into())));
        assert_eq!(parse("SET k v nx GET KEEPTTL").map(|found| found.0), Ok(true));
        for refused in
            ["NX XX", "XX IFEQ a", "IFEQ a IFEQ a", "EX", "EX 1 PX 1", "KEEPTTL EX 1", "PERSIST", "BOGUS", "IFEQ"]
        {
            assert_eq!(parse(&format!("SET k v {refused}")), Err(CommandError::Syntax), "{refused}");
        }
        assert!(parse("SET k v EX 1 EX 2").is_ok(), "a repeated option is no conflict");
    }

    #[test]
    fn an_operand_is_not_an_option() {
        let argv: [&[u8]; 5] = [b"SET", b"k", b"v", b"IFEQ", b"GET"];
        assert_eq!(parse_set(&argv).map(|options| options.get), Ok(false));
    }

    #[test]
    fn an_expiry_that_overflows_is_refused() {
        let now = 1_700_000_000_000;
        assert_eq!(Expiry::Seconds(b"10").deadline(now, "set"), Ok(Some(now + 10_000)));
        assert_eq!(Expiry::AtMillisecond(b"5").deadline(now, "set"), Ok(Some(5)));
        for text in ["0", "-1", "9223372036854775807"] {
            let refused = Expiry::Seconds(text.as_bytes()).deadline(now, "set");
            assert_eq!(refused, Err(CommandError::InvalidExpire("set")));
        }
        assert_eq!(Expiry::Seconds(b"x").deadline(now, "set"), Err(CommandError::NotInteger));
    }
}
