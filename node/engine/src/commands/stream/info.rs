//! XINFO: what there is to know about a stream, its groups and their consumers.

use super::super::collections::Answer;
use super::{answer_entries, answer_entry, no_group_for, subcommand_syntax};
use crate::args::Args;
use crate::error::CommandError;
use crate::keyspace::{Keys, UnixMillis};
use crate::reply::Reply;
use crate::types::stream::{Consumer, Group};
use crate::types::{Stream, StreamEntry, StreamId};

/// `[FULL [COUNT count]]`: how many of each to show, 0 for all; `None` is the short form.
fn full(mut args: Args<'_>) -> Result<Option<usize>, CommandError> {
    const COUNT: usize = 10;
    if args.is_empty() {
        return Ok(None);
    }
    let refused = subcommand_syntax(args.argv());
    if !matches!(args.len(), 1 | 3) || !args.accept("FULL") {
        return Err(refused);
    }
    if args.is_empty() {
        return Ok(Some(COUNT));
    }
    if !args.accept("COUNT") {
        return Err(refused);
    }
    Ok(Some(usize::try_from(args.integer()?).unwrap_or(COUNT)))
}

/// `XINFO STREAM key [FULL [COUNT count]]`
pub(super) fn stream(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let key = args.take()?;
    let Some(stream) = keys.get::<Stream>(key)? else { return Err(CommandError::NoSuchKey) };
    let full = full(args)?;
    reply.map(if full.is_some() { 9 } else { 10 });
    reply.bulk(b"length");
    reply.count(stream.len());
    reply.bulk(b"radix-tree-keys");
    reply.count(stream.nodes_len());
    reply.bulk(b"radix-tree-nodes");
    reply.count(stream.nodes_len() + 1);
    for (name, id) in
        [(&b"last-generated-id"[..], stream.last_id()), (b"max-deleted-entry-id", stream.max_deleted_id())]
    {
        reply.bulk(name);
        reply.bulk(&id.text());
    }
    reply.bulk(b"entries-added");
    reply.integer(stream.entries_added() as i64);
    reply.bulk(b"recorded-first-entry-id");
    reply.bulk(&stream.first_id().text());
    match full {
        None => answer_ends(stream, reply),
        Some(count) => answer_full(stream, if count == 0 { usize::MAX } else { count }, reply),
    }
    Ok(())
}

fn answer_ends(stream: &Stream, reply: &mut Reply) {
    reply.bulk(b"groups");
    reply.count(stream.groups().len());
    let mut answer = |name: &[u8], entry: Option<StreamEntry<'_>>| {
        reply.bulk(name);
        match entry {
            Some(entry) => answer_entry(&entry, reply),
            None => reply.null(),
        }
    };
    answer(b"first-entry", stream.range(StreamId::MIN, StreamId::MAX).next());
    answer(b"last-entry", stream.range_back(StreamId::MIN, StreamId::MAX).next());
}

fn answer_full(stream: &Stream, count: usize, reply: &mut Reply) {
    reply.bulk(b"entries");
    answer_entries(stream.range(StreamId::MIN, StreamId::MAX).take(count), reply);
    reply.bulk(b"groups");
    reply.array(stream.groups().len());
    for group in stream.groups() {
        reply.map(7);
        reply.bulk(b"name");
        reply.bulk(group.name());
        answer_progress(stream, group, reply);
        reply.bulk(b"pel-count");
        reply.count(group.pending_len());
        reply.bulk(b"pending");
        reply.array(group.pending_len().min(count));
        for (id, pending) in group.pending_from(StreamId::MIN).take(count) {
            reply.array(4);
            reply.bulk(&id.text());
            reply.bulk(group.owner(&pending).name());
            reply.integer(pending.delivered_at);
            reply.integer(pending.deliveries as i64);
        }
        reply.bulk(b"consumers");
        reply.array(group.consumers().len());
        group.consumers().for_each(|consumer| answer_consumer(group, consumer, count, reply));
    }
}

fn answer_consumer(group: &Group, consumer: &Consumer, count: usize, reply: &mut Reply) {
    reply.map(5);
    reply.bulk(b"name");
    reply.bulk(consumer.name());
    reply.bulk(b"seen-time");
    reply.integer(consumer.seen_at);
    reply.bulk(b"active-time");
    reply.integer(consumer.active_at.unwrap_or(-1));
    reply.bulk(b"pel-count");
    reply.count(consumer.pending_len());
    reply.bulk(b"pending");
    reply.array(consumer.pending_len().min(count));
    for id in consumer.pending_from(StreamId::MIN).take(count) {
        reply.array(3);
        reply.bulk(&id.text());
        let pending = group.pending(id);
        reply.integer(pending.map_or(0, |pending| pending.delivered_at));
        reply.integer(pending.map_or(0, |pending| pending.deliveries as i64));
    }
}

/// How far a group has read, and how far it still has to.
fn answer_progress(stream: &Stream, group: &Group, reply: &mut Reply) {
    reply.bulk(b"last-delivered-id");
    reply.bulk(&group.last_id.text());
    for (name, value) in
        [(&b"entries-read"[..], group.entries_read.map(|read| read as i64)), (b"lag", stream.lag(group))]
    {
        reply.bulk(name);
        match value {
            Some(value) => reply.integer(value),
            None => reply.null(),
        }
    }
}

/// `XINFO GROUPS key`
pub(super) fn groups(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let Some(stream) = keys.get::<Stream>(args.take()?)? else { return Err(CommandError::NoSuchKey) };
    reply.array(stream.groups().len());
    for group in stream.groups() {
        reply.map(6);
        reply.bulk(b"name");
        reply.bulk(group.name());
        reply.bulk(b"consumers");
        reply.count(group.consumers().len());
        reply.bulk(b"pending");
        reply.count(group.pending_len());
        answer_progress(stream, group, reply);
    }
    Ok(())
}

/// `XINFO CONSUMERS key group`
pub(super) fn consumers(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let (key, name) = (args.take()?, args.take()?);
    let now: UnixMillis = keys.now();
    let Some(stream) = keys.get::<Stream>(key)? else { return Err(CommandError::NoSuchKey) };
    let group = stream.group(name).ok_or_else(|| no_group_for(key, name))?;
    reply.array(group.consumers().len());
    for consumer in group.consumers() {
        let since = |at: i64| now.saturating_sub(at).max(0);
        reply.map(4);
        reply.bulk(b"name");
        reply.bulk(consumer.name());
        reply.bulk(b"pending");
        reply.count(consumer.pending_len());
        reply.bulk(b"idle");
        reply.integer(since(consumer.seen_at));
        reply.bulk(b"inactive");
        reply.integer(consumer.active_at.map_or(-1, since));
    }
    Ok(())
}
