//! What lists, hashes, sets and sorted sets parse and answer alike: counts, ranges, cursors, random draws, and storing
//! a result under another key. It knows no command by name and no value from the inside.

use crate::args::Args;
use crate::effects::{Wait, WaitedInVain};
use crate::error::CommandError;
use crate::events::EventClass;
use crate::keyspace::{Keys, Missing, Typed, UnixMillis};
use crate::reply::Reply;
use crate::types::{Value, number};
use keyward_acl::Glob;
use std::ops::Range;

/// What a handler returns; the answer itself is in the reply.
pub(super) type Answer = Result<(), CommandError>;

/// Changes the value at a key, making it first if it is missing.
#[inline]
pub(super) fn upsert<T: Typed, R>(
    keys: &mut Keys<'_>,
    key: &[u8],
    change: impl FnOnce(&mut T) -> R,
) -> Result<R, CommandError> {
    let changed = keys.update(key, Missing::Create, change)?;
    Ok(changed.expect("an update that may make the key always runs"))
}

/// Makes `destination` this value, or removes it if the value is empty; answers how many elements were stored. `event` is
/// what is told of a value that was stored.
pub(super) fn store(
    keys: &mut Keys<'_>,
    destination: &[u8],
    value: Value,
    (class, event): (EventClass, &'static str),
    reply: &mut Reply,
) {
    let len = value.len();
    if len > 0 {
        keys.put(destination, value, None);
        keys.effects.changed(1);
        keys.event(class, event, destination);
    } else if keys.remove(destination) {
        keys.effects.changed(1);
        keys.event(EventClass::GENERIC, "del", destination);
    }
    reply.count(len);
}

// ---- numbers ----

/// The next argument as a count of at least zero.
pub(super) fn positive(args: &mut Args<'_>) -> Result<usize, CommandError> {
    Ok(args.count(CommandError::NotPositive)? as usize)
}

/// The next argument as an integer that can be negated.
pub(super) fn negatable(args: &mut Args<'_>) -> Result<i64, CommandError> {
    let value = args.integer()?;
    if value == i64::MIN {
        let text = "value is out of range, value must between -9223372036854775807 and 9223372036854775807";
        return Err(CommandError::err(text));
    }
    Ok(value)
}

/// The count at argument `index` of the keys that follow it. Whether they are all there is for `counted` to say.
pub(super) fn check_numkeys(argv: &[&[u8]], index: usize) -> Answer {
    match argv.get(index).and_then(|text| number::parse_i64(text)) {
        Some(1..) => Ok(()),
        _ => Err(CommandError::err("numkeys should be greater than 0")),
    }
}

/// The indices from `start` to `end`, both included; negative ones count from the end.
pub(super) fn span(start: i64, end: i64, len: usize) -> Range<usize> {
    let len = len as i64;
    let start = if start < 0 { (start + len).max(0) } else { start };
    let end = if end < 0 { end + len } else { end.min(len - 1) };
    if start > end { 0..0 } else { start as usize..end as usize + 1 }
}

// ---- popping from the first of several keys ----

/// `numkeys key [key …] <front|back> [COUNT count]`.
pub(super) struct PopFirst<'a> {
    /// The keys, to be tried in this order.
    pub(super) names: &'a [&'a [u8]],
    /// The second of the two words was said.
    pub(super) back: bool,
    /// How many elements to pop at most.
    pub(super) count: usize,
}

/// Reads the arguments of LMPOP, ZMPOP and their blocking versions, whose count of keys stands at `numkeys`; `ends` are
/// the words for the two ends.
pub(super) fn parse_pop_first<'a>(
    argv: &'a [&'a [u8]],
    numkeys: usize,
    ends: [&str; 2],
) -> Result<PopFirst<'a>, CommandError> {
    check_numkeys(argv, numkeys)?;
    let names = super::counted(argv, numkeys, numkeys + 1, 1).ok_or(CommandError::Syntax)?;
    let mut args = Args::new(argv, names.end);
    let back = args.accept(ends[1]);
    if !back && !args.accept(ends[0]) {
        return Err(CommandError::Syntax);
    }
    let mut count = 1;
    if !args.is_empty() {
        if !args.accept("COUNT") || args.is_empty() {
            return Err(CommandError::Syntax);
        }
        let refused = || CommandError::err("count should be greater than 0");
        count = args.count(refused())? as usize;
        if count == 0 {
            return Err(refused());
        }
        args.finish()?;
    }
    Ok(PopFirst { names: &argv[names], back, count })
}

// ---- waiting ----

/// How long a command waits for an element.
#[derive(Clone, Copy)]
pub(super) struct Timeout(Option<UnixMillis>);

impl Timeout {
    /// Reads a number of seconds, which may have a fraction; zero is for ever.
    pub(super) fn parse(text: &[u8], now: UnixMillis) -> Result<Timeout, CommandError> {
        // Hexadecimal numbers, and such as are too small for a double, are numbers here as well.
        let seconds = number::parse_f64(text).or_else(|| Some(number::LongDouble::parse(text)?.to_f64()));
        let seconds = seconds.ok_or_else(|| CommandError::err("timeout is not a float or out of range"))?;
        let wait_ms = (seconds * 1000.0).ceil();
        if wait_ms > i64::MAX as f64 {
            return Err(CommandError::err("timeout is out of range"));
        }
        if wait_ms < 0.0 {
            return Err(CommandError::err("timeout is negative"));
        }
        if wait_ms == 0.0 {
            return Ok(Timeout(None));
        }
        let until = now.checked_add(wait_ms as i64);
        until.map(|until| Timeout(Some(until))).ok_or_else(|| CommandError::err("timeout is out of range"))
    }

    /// Waits that long for one of the keys the request names.
    pub(super) fn wait(self, keys: &mut Keys<'_>, in_vain: WaitedInVain) -> Answer {
        keys.wait(Wait { until: self.0, in_vain, again: None })
    }
}

// ---- random draws ----

/// How many elements to draw.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Draw {
    /// One, answered without an array around it.
    One,
    /// So many different ones.
    Distinct(usize),
    /// So many, each drawn from all.
    Repeated(usize),
}

/// Reads `[count [<with>]]`; whether the word `with` was there.
pub(super) fn parse_draw(args: &mut Args<'_>, with: Option<&str>) -> Result<(Draw, bool), CommandError> {
    if args.is_empty() {
        return Ok((Draw::One, false));
    }
    if with.is_none() && args.len() > 1 {
        return Err(CommandError::Syntax);
    }
    let count = negatable(args)?;
    let both = with.is_some_and(|word| args.accept(word));
    args.finish()?;
    let drawn = count.unsigned_abs() as usize;
    if both && drawn > i64::MAX as usize / 2 {
        return Err(CommandError::err("value is out of range"));
    }
    Ok((if count < 0 { Draw::Repeated(drawn) } else { Draw::Distinct(drawn) }, both))
}

/// Elements one request may draw with repetition. Each costs a walk through a part of the collection, and all of them
/// happen under one lock: so many take well under a second, and nobody asks for more than a few thousand.
const DRAWN_MAX: usize = 1 << 20;

/// Answers `count` elements, each spelled by `draw`, but no more than [`DRAWN_MAX`] and than a single value may have
/// bytes: a request of a few bytes must not make an answer, nor a wait, without end.
pub(super) fn answer_repeated(
    reply: &mut Reply,
    count: usize,
    bytes_max: u64,
    mut draw: impl FnMut(&mut Reply),
) -> Answer {
    if count > DRAWN_MAX {
        return Err(CommandError::err("value is out of range"));
    }
    let begin = reply.mark();
    for _ in 0..count {
        draw(reply);
        if reply.since(begin) as u64 > bytes_max {
            return Err(CommandError::err("value is out of range"));
        }
    }
    Ok(())
}

/// The head of an array of `len` pairs: nested in RESP3, flat in RESP2.
pub(super) fn pairs_head(reply: &mut Reply, len: usize) {
    let nested = reply.protocol == crate::reply::Protocol::Resp3;
    reply.array(if nested { len } else { len.saturating_mul(2) });
}

/// The head of one pair of such an array.
#[inline]
pub(super) fn pair_head(reply: &mut Reply) {
    if reply.protocol == crate::reply::Protocol::Resp3 {
        reply.array(2);
    }
}

// ---- walking with a cursor ----

/// Elements a step shows about, unless COUNT says otherwise.
const STEP_ELEMENTS: usize = 10;

/// The options of HSCAN, SSCAN and ZSCAN.
pub(super) struct Walk {
    /// Only elements whose name matches.
    pub(super) pattern: Glob,
    /// About how many to look at.
    pub(super) count: usize,
    /// Only names, no values or scores.
    pub(super) bare: bool,
}

/// Reads `[MATCH pattern] [COUNT count] [<bare>]`.
pub(super) fn parse_walk(
    pattern_bytes_max: usize,
    args: &mut Args<'_>,
    bare: Option<&str>,
) -> Result<Walk, CommandError> {
    let mut walk = Walk { pattern: Glob::Any, count: STEP_ELEMENTS, bare: false };
    while !args.is_empty() {
        let more = args.len() >= 2;
        if more && args.accept("COUNT") {
            let count = usize::try_from(args.integer()?).ok();
            walk.count = count.filter(|count| *count > 0).ok_or(CommandError::Syntax)?;
        } else if more && args.accept("MATCH") {
            walk.pattern = Glob::compile(args.pattern(pattern_bytes_max)?);
        } else if bare.is_some_and(|word| args.accept(word)) {
            walk.bare = true;
        } else if args.accept("NOVALUES") {
            return Err(CommandError::err("NOVALUES option can only be used in HSCAN"));
        } else if args.accept("NOSCORES") {
            return Err(CommandError::err("NOSCORES option can only be used in ZSCAN"));
        } else {
            return Err(CommandError::Syntax);
        }
    }
    Ok(walk)
}

/// A cursor as C's `strtoull` reads it, without its negative numbers: leading spaces, a plus and zeros are fine.
pub(crate) fn cursor(args: &mut Args<'_>) -> Result<u64, CommandError> {
    let text = args.take()?.trim_ascii_start();
    let digits = text.strip_prefix(b"+").unwrap_or(text);
    let all_digits = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    let cursor = std::str::from_utf8(digits).ok().filter(|_| all_digits).and_then(|digits| digits.parse().ok());
    cursor.ok_or_else(|| CommandError::err("invalid cursor"))
}

/// What one step of a walk shows, gathered before its head is known.
pub(super) struct Page {
    elements: Reply,
    len: usize,
}

impl Page {
    /// Nothing yet.
    pub(super) fn new(reply: &Reply) -> Page {
        // Of what nobody will be shown no more is gathered than tells that it is too long.
        let mut elements = Reply::new(reply.protocol);
        elements.bytes_max = reply.room();
        Page { elements, len: 0 }
    }

    /// Shows one element.
    pub(super) fn show(&mut self, element: &[u8]) {
        self.elements.bulk(element);
        self.len += 1;
    }

    /// Answers the cursor to go on with and what was shown.
    pub(super) fn answer(self, cursor: u64, reply: &mut Reply) {
        reply.array(2);
        let mut digits = itoa::Buffer::new();
        reply.bulk(digits.format(cursor).as_bytes());
        reply.array(self.len);
        self.append(reply);
    }

    /// Answers what was shown, as a set.
    pub(super) fn answer_set(self, reply: &mut Reply) {
        reply.set(self.len);
        self.append(reply);
    }

    fn append(self, reply: &mut Reply) {
        reply.raw(&self.elements.bytes);
        if self.elements.is_too_long() {
            reply.note_too_long();
        }
    }
}

#[cfg(test)]
pub(super) mod replay;
