//! Taking over what others were given: XCLAIM, XAUTOCLAIM. Other nodes are told the outcome, never the question: who
//! was idle for how long is for one clock to say.

use super::super::collections::Answer;
use super::group::{tell_consumer, tell_position};
use super::{answer_entry, no_group, parse};
use crate::args::Args;
use crate::error::CommandError;
use crate::keyspace::{Keys, Missing, UnixMillis};
use crate::reply::Reply;
use crate::types::stream::Group;
use crate::types::{Stream, StreamId, number};

/// Entries one effect gives: a reader may be given more than a request may name.
const IDS_AT_ONCE: usize = if cfg!(test) { 8 } else { 1 << 16 };

/// What a call did to a group, to be told to other nodes.
#[derive(Default)]
pub(super) struct Outcome {
    /// A consumer was made.
    pub(super) made_consumer: bool,
    /// Entries given to the consumer, with how often they were given out.
    pub(super) given: Vec<(StreamId, u64)>,
    /// Entries that are gone, and are no longer pending.
    pub(super) gone: Vec<StreamId>,
    /// The group moved on to here.
    pub(super) position: Option<(StreamId, Option<u64>)>,
}

impl Outcome {
    /// Turns it into effects: commands that mean the same on every clock.
    pub(super) fn tell(self, keys: &mut Keys<'_>, key: &[u8], group: &[u8], consumer: &[u8], at: UnixMillis) {
        if self.made_consumer {
            tell_consumer(keys, key, group, consumer);
        }
        let time = number::format_i64(at);
        for run in self.given.chunk_by(|one, next| one.1 == next.1).flat_map(|run| run.chunks(IDS_AT_ONCE)) {
            let deliveries = number::format_i64(run[0].1 as i64);
            let ids: Vec<_> = run.iter().map(|(id, _)| id.text()).collect();
            let mut command: Vec<&[u8]> = vec![b"XCLAIM", key, group, consumer, b"0"];
            command.extend(ids.iter().map(|id| &**id));
            command.extend([&b"TIME"[..], &time, b"RETRYCOUNT", &deliveries, b"FORCE", b"JUSTID"]);
            keys.effects.replace(&command);
            keys.effects.changed(run.len() as u64);
        }
        if !self.gone.is_empty() {
            let ids: Vec<_> = self.gone.iter().map(|id| id.text()).collect();
            keys.effects.replace_in_parts(&[b"XACK", key, group], ids.iter().map(|id| &**id));
            keys.effects.changed(self.gone.len() as u64);
        }
        if let Some((last_id, read)) = self.position {
            tell_position(keys, key, group, last_id, read);
        }
    }
}

/// The consumer of that name, made if need be.
pub(super) fn consumer_of(group: &mut Group, name: &[u8], now: UnixMillis, outcome: &mut Outcome) -> u32 {
    if let Some(number) = group.number_of(name) {
        group.see(number, now);
        return number;
    }
    outcome.made_consumer = true;
    group.add_consumer(name, now).expect("nobody has a name that was just looked for")
}

/// What XCLAIM was told besides ids.
#[derive(Default)]
struct Claim {
    ids: Vec<StreamId>,
    idle_min: i64,
    delivered_at: Option<i64>,
    deliveries: Option<u64>,
    last_id: StreamId,
    force: bool,
    just_id: bool,
}

fn claim(mut args: Args<'_>, now: UnixMillis) -> Result<Claim, CommandError> {
    let number_of = |args: &mut Args<'_>, what: &str| {
        let refused = || CommandError::err(format!("Invalid {what} argument for XCLAIM"));
        number::parse_i64(args.take()?).ok_or_else(refused)
    };
    let mut claim = Claim { idle_min: number_of(&mut args, "min-idle-time")?.max(0), ..Claim::default() };
    while let Some(id) = args.peek().and_then(|text| StreamId::parse(text, 0)) {
        claim.ids.push(id);
        args.take()?;
    }
    while let Some(word) = args.peek() {
        let more = args.len() >= 2;
        if args.accept("FORCE") {
            claim.force = true;
        } else if args.accept("JUSTID") {
            claim.just_id = true;
        } else if more && args.accept("IDLE") {
            claim.delivered_at = Some(now.saturating_sub(number_of(&mut args, "IDLE option")?));
        } else if more && args.accept("TIME") {
            claim.delivered_at = Some(number_of(&mut args, "TIME option")?);
        } else if more && args.accept("RETRYCOUNT") {
            claim.deliveries = u64::try_from(number_of(&mut args, "RETRYCOUNT option")?).ok();
        } else if more && args.accept("LASTID") {
            claim.last_id = parse::id(args.take()?, 0)?;
        } else {
            let word = String::from_utf8_lossy(word);
            return Err(CommandError::err(format!("Unrecognized XCLAIM option '{word}'")));
        }
    }
    Ok(claim)
}

/// A time told is believed if it is past. Effects are applied on a clock that stands before every time: they are right.
fn moment(told: Option<i64>, now: UnixMillis) -> i64 {
    match told {
        Some(told) if told >= 0 && (told <= now || now == 0) => told,
        _ => now,
    }
}

/// `XCLAIM key group consumer min-idle-time id [id …] [IDLE ms] [TIME ms] [RETRYCOUNT count] [FORCE] [JUSTID] [LASTID id]`
pub(super) fn xclaim(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let (key, name, consumer) = (args.take()?, args.take()?, args.take()?);
    if keys.peek_as::<Stream>(key)?.is_none_or(|stream| stream.group(name).is_none()) {
        return Err(no_group(key, name, ""));
    }
    let now = keys.now();
    let claim = claim(args, now)?;
    let at = moment(claim.delivered_at, now);
    let outcome = keys.amend(key, Missing::Skip, |stream: &mut Stream| {
        let mut outcome = Outcome::default();
        let moved = stream.with_group(name, |group| {
            consumer_of(group, consumer, now.max(at), &mut outcome);
            let moves = claim.last_id > group.last_id;
            group.last_id = group.last_id.max(claim.last_id);
            moves.then_some((group.last_id, group.entries_read))
        });
        outcome.position = moved.flatten();
        claim_each(stream, name, consumer, &claim, [now, at], &mut outcome, reply);
        outcome
    })?;
    outcome.unwrap_or_default().tell(keys, key, name, consumer, at);
    Ok(())
}

fn claim_each(
    stream: &mut Stream,
    name: &[u8],
    consumer: &[u8],
    claim: &Claim,
    [now, at]: [i64; 2],
    outcome: &mut Outcome,
    reply: &mut Reply,
) {
    let head = reply.deferred_array();
    for id in &claim.ids {
        let exists = stream.contains(*id);
        let given = stream.with_group(name, |group| {
            let pending = group.pending(*id);
            if !exists {
                if group.acknowledge(*id) {
                    outcome.gone.push(*id);
                }
                return false;
            }
            let idle = pending.map(|pending| now.saturating_sub(pending.delivered_at));
            let too_fresh = claim.idle_min > 0 && idle.is_some_and(|idle| idle < claim.idle_min);
            if too_fresh || (pending.is_none() && !claim.force) {
                return false;
            }
            // Who is given an entry by force is given it for the first time, and then once more.
            let before = pending.map_or(1, |pending| pending.deliveries);
            let counted = if claim.just_id { before } else { before.saturating_add(1) };
            let deliveries = claim.deliveries.unwrap_or(counted);
            give(group, *id, consumer, at, deliveries, now.max(at));
            outcome.given.push((*id, deliveries));
            true
        });
        if given == Some(true) {
            answer_claimed(stream, *id, claim.just_id, reply);
        }
    }
    reply.finish_array(head, outcome.given.len());
}

fn give(group: &mut Group, id: StreamId, consumer: &[u8], at: i64, deliveries: u64, active_at: i64) {
    let number = group.number_of(consumer).expect("the consumer was found or made");
    group.give(id, number, at, deliveries);
    group.activate(number, Some(active_at));
}

fn answer_claimed(stream: &Stream, id: StreamId, just_id: bool, reply: &mut Reply) {
    match stream.range(id, id).next() {
        Some(entry) if !just_id => answer_entry(&entry, reply),
        _ => reply.bulk(&id.text()),
    }
}

/// `start [COUNT count] [JUSTID]`
struct Search {
    idle_min: i64,
    start: StreamId,
    count: usize,
    just_id: bool,
}

/// How many pending entries are looked at for each that may be answered.
const LOOKED_AT_EACH: usize = 10;

fn search(mut args: Args<'_>) -> Result<Search, CommandError> {
    let refused = || CommandError::err("Invalid min-idle-time argument for XAUTOCLAIM");
    let idle_min = number::parse_i64(args.take()?).ok_or_else(refused)?.max(0);
    let start = parse::range_start(args.take()?)?;
    let mut search = Search { idle_min, start, count: 100, just_id: false };
    while !args.is_empty() {
        if args.len() >= 2 && args.accept("COUNT") {
            let count = number::parse_i64(args.take()?).filter(|count| (1..=i64::MAX / 16).contains(count));
            search.count = count.ok_or_else(|| CommandError::err("COUNT must be > 0"))? as usize;
        } else if args.accept("JUSTID") {
            search.just_id = true;
        } else {
            return Err(CommandError::Syntax);
        }
    }
    Ok(search)
}

/// `XAUTOCLAIM key group consumer min-idle-time start [COUNT count] [JUSTID]`
pub(super) fn xautoclaim(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let (key, name, consumer) = (args.take()?, args.take()?, args.take()?);
    let search = search(args)?;
    if keys.peek_as::<Stream>(key)?.is_none_or(|stream| stream.group(name).is_none()) {
        return Err(no_group(key, name, ""));
    }
    let now = keys.now();
    let outcome = keys.amend(key, Missing::Skip, |stream: &mut Stream| {
        let mut outcome = Outcome::default();
        stream.with_group(name, |group| _ = consumer_of(group, consumer, now, &mut outcome));
        let next = pick(stream, name, &search, now, &mut outcome);
        stream.with_group(name, |group| {
            for id in &outcome.gone {
                group.acknowledge(*id);
            }
            for (id, deliveries) in &outcome.given {
                give(group, *id, consumer, now, *deliveries, now);
            }
        });
        reply.array(3);
        reply.bulk(&next.text());
        reply.array(outcome.given.len());
        outcome.given.iter().for_each(|(id, _)| answer_claimed(stream, *id, search.just_id, reply));
        reply.array(outcome.gone.len());
        outcome.gone.iter().for_each(|id| reply.bulk(&id.text()));
        outcome
    })?;
    outcome.unwrap_or_default().tell(keys, key, name, consumer, now);
    Ok(())
}

/// Finds what to take over and what is gone; where the next search goes on.
fn pick(stream: &Stream, name: &[u8], search: &Search, now: i64, outcome: &mut Outcome) -> StreamId {
    let mut left = search.count;
    let mut looks_left = search.count.saturating_mul(LOOKED_AT_EACH);
    for (id, pending) in stream.group(name).into_iter().flat_map(|group| group.pending_from(search.start)) {
        if left == 0 || looks_left == 0 {
            return id;
        }
        looks_left -= 1;
        if !stream.contains(id) {
            outcome.gone.push(id);
            left -= 1;
        } else if search.idle_min == 0 || now.saturating_sub(pending.delivered_at) >= search.idle_min {
            let deliveries = pending.deliveries.saturating_add(u64::from(!search.just_id));
            outcome.given.push((id, deliveries));
            left -= 1;
        }
    }
    StreamId::MIN
}
