//! What was given to consumers and not yet acknowledged: XACK, XPENDING.

use super::super::collections::Answer;
use super::{no_group, parse};
use crate::args::Args;
use crate::error::CommandError;
use crate::keyspace::{Keys, Missing};
use crate::reply::Reply;
use crate::types::stream::{Group, Pending};
use crate::types::{Stream, StreamId};

/// `XACK key group id [id …]`
pub(super) fn xack(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let (key, group) = (args.take()?, args.take()?);
    if keys.peek_as::<Stream>(key)?.is_none_or(|stream| stream.group(group).is_none()) {
        reply.count(0);
        return Ok(());
    }
    let ids = parse::ids(args.rest())?;
    let acknowledged = keys.amend(key, Missing::Skip, |stream: &mut Stream| {
        stream.with_group(group, |group| ids.iter().filter(|id| group.acknowledge(**id)).count())
    })?;
    let acknowledged = acknowledged.flatten().unwrap_or(0);
    keys.effects.changed(acknowledged as u64);
    reply.count(acknowledged);
    Ok(())
}

/// `[IDLE ms] start end count [consumer]`
struct Window<'a> {
    idle_min: i64,
    start: StreamId,
    end: StreamId,
    count: usize,
    consumer: Option<&'a [u8]>,
}

fn window<'a>(mut args: Args<'a>) -> Result<Window<'a>, CommandError> {
    if !(3..=6).contains(&args.len()) {
        return Err(CommandError::Syntax);
    }
    let mut idle_min = 0;
    if args.accept("IDLE") {
        idle_min = args.integer()?;
        if args.len() < 3 {
            return Err(CommandError::Syntax);
        }
    }
    let (start, end) = (args.take()?, args.take()?);
    let count = args.integer()?.max(0) as usize;
    let (start, end) = (parse::range_start(start)?, parse::range_end(end)?);
    Ok(Window { idle_min, start, end, count, consumer: args.peek() })
}

/// `XPENDING key group [[IDLE ms] start end count [consumer]]`
pub(super) fn xpending(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let (key, name) = (args.take()?, args.take()?);
    let window = if args.is_empty() { None } else { Some(window(args)?) };
    let now = keys.now();
    let group = keys.get::<Stream>(key)?.and_then(|stream| stream.group(name));
    let group = group.ok_or_else(|| no_group(key, name, ""))?;
    match window {
        None => answer_summary(group, reply),
        Some(window) => answer_window(group, &window, now, reply),
    }
    Ok(())
}

fn answer_summary(group: &Group, reply: &mut Reply) {
    reply.array(4);
    reply.count(group.pending_len());
    let Some((first, last)) = group.pending_span() else {
        reply.null();
        reply.null();
        reply.null_array();
        return;
    };
    reply.bulk(&first.text());
    reply.bulk(&last.text());
    reply.array(group.consumers().filter(|consumer| consumer.pending_len() > 0).count());
    for consumer in group.consumers().filter(|consumer| consumer.pending_len() > 0) {
        reply.array(2);
        reply.bulk(consumer.name());
        reply.bulk_integer(consumer.pending_len() as i64);
    }
}

fn answer_window(group: &Group, window: &Window<'_>, now: i64, reply: &mut Reply) {
    let head = reply.deferred_array();
    let mut shown = 0;
    let mut show = |(id, pending): (StreamId, Pending)| {
        reply.array(4);
        reply.bulk(&id.text());
        reply.bulk(group.owner(&pending).name());
        reply.integer(now.saturating_sub(pending.delivered_at).max(0));
        reply.integer(pending.deliveries as i64);
        shown += 1;
    };
    let idle = |pending: &Pending| window.idle_min == 0 || now.saturating_sub(pending.delivered_at) >= window.idle_min;
    match window.consumer {
        None => {
            let rows = group.pending_from(window.start).take_while(|(id, _)| *id <= window.end);
            rows.filter(|(_, pending)| idle(pending)).take(window.count).for_each(&mut show);
        }
        Some(name) => {
            let ids = group.consumer(name).into_iter().flat_map(|consumer| consumer.pending_from(window.start));
            let rows = ids.take_while(|id| *id <= window.end).filter_map(|id| Some((id, group.pending(id)?)));
            rows.filter(|(_, pending)| idle(pending)).take(window.count).for_each(&mut show);
        }
    }
    reply.finish_array(head, shown);
}
