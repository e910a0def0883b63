//! XGROUP: making, moving and removing groups and their consumers.

use super::super::collections::Answer;
use super::{no_group_for, parse, subcommand_syntax};
use crate::args::Args;
use crate::error::CommandError;
use crate::events::EventClass;
use crate::keyspace::{Keys, Missing};
use crate::reply::Reply;
use crate::types::{Stream, StreamId, number};

const NO_KEY: &str = "The XGROUP subcommand requires the key to exist. Note that for CREATE you may want to use the \
                      MKSTREAM option to create an empty stream automatically.";

/// `[MKSTREAM] [ENTRIESREAD count]`
struct Options {
    make_stream: bool,
    entries_read: Option<u64>,
}

fn options(args: &mut Args<'_>, creates: bool) -> Result<Options, CommandError> {
    let mut options = Options { make_stream: false, entries_read: None };
    while !args.is_empty() {
        if creates && args.accept("MKSTREAM") {
            options.make_stream = true;
        } else if args.len() >= 2 && args.accept("ENTRIESREAD") {
            options.entries_read = match args.integer()? {
                -1 => None,
                count => {
                    let refused = || CommandError::err("value for ENTRIESREAD must be positive or -1");
                    Some(u64::try_from(count).map_err(|_| refused())?)
                }
            };
        } else {
            return Err(subcommand_syntax(args.argv()));
        }
    }
    Ok(options)
}

/// `$` means something else a moment later: what is repeated elsewhere names the id.
fn settle_position(keys: &mut Keys<'_>, text: &[u8], id: StreamId) {
    const POSITION: usize = 4;
    if text == b"$" {
        keys.effects.rewrite(POSITION..POSITION + 1, &id.text());
    }
}

/// `XGROUP CREATE key group id|$ [MKSTREAM] [ENTRIESREAD count]`
pub(super) fn create(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let (key, group, at) = (args.take()?, args.take()?, args.take()?);
    let options = options(&mut args, true)?;
    let last_id = match keys.peek_as::<Stream>(key)? {
        Some(stream) => stream.last_id(),
        None if options.make_stream => StreamId::MIN,
        None => return Err(CommandError::err(NO_KEY)),
    };
    let id = if at == b"$" { last_id } else { parse::id(at, 0)? };
    let missed = !keys.exists(key);
    let made =
        keys.amend(key, Missing::Create, |stream: &mut Stream| stream.add_group(group, id, options.entries_read))?;
    if made != Some(true) {
        return Err(CommandError::Text("BUSYGROUP Consumer Group name already exists".into()));
    }
    if missed {
        keys.touched(key);
    }
    keys.event(EventClass::STREAM, "xgroup-create", key);
    keys.effects.changed(1);
    settle_position(keys, at, id);
    reply.ok();
    Ok(())
}

/// `XGROUP SETID key group id|$ [ENTRIESREAD count]`
pub(super) fn set_id(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let (key, group, at) = (args.take()?, args.take()?, args.take()?);
    let options = options(&mut args, false)?;
    let stream = group_of(keys, key, group)?;
    // Only here the two ends of an interval may stand for ids.
    let id = if at == b"$" { stream.last_id() } else { parse::edge(at, 0)? };
    in_group(keys, key, group, |group| (group.last_id, group.entries_read) = (id, options.entries_read))?;
    // Who waits for new entries may find some now.
    keys.touched(key);
    keys.event(EventClass::STREAM, "xgroup-setid", key);
    keys.effects.changed(1);
    settle_position(keys, at, id);
    reply.ok();
    Ok(())
}

/// `XGROUP DESTROY key group`
pub(super) fn destroy(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let (key, group) = (args.take()?, args.take()?);
    let removed = keys.amend(key, Missing::Skip, |stream: &mut Stream| stream.remove_group(group))?;
    let removed = removed.ok_or_else(|| CommandError::err(NO_KEY))?;
    if removed {
        // Who waits for the group is told that it is gone.
        keys.touched(key);
        keys.event(EventClass::STREAM, "xgroup-destroy", key);
        keys.effects.changed(1);
    }
    reply.flag(removed);
    Ok(())
}

/// `XGROUP CREATECONSUMER key group consumer`
pub(super) fn create_consumer(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let (key, group, consumer) = (args.take()?, args.take()?, args.take()?);
    group_of(keys, key, group)?;
    let now = keys.now();
    let made = in_group(keys, key, group, |group| group.add_consumer(consumer, now).is_some())?;
    if made {
        keys.event(EventClass::STREAM, "xgroup-createconsumer", key);
        keys.effects.changed(1);
    }
    reply.flag(made);
    Ok(())
}

/// `XGROUP DELCONSUMER key group consumer`
pub(super) fn delete_consumer(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let (key, group, consumer) = (args.take()?, args.take()?, args.take()?);
    group_of(keys, key, group)?;
    let removed = in_group(keys, key, group, |group| group.remove_consumer(consumer))?;
    if removed.is_some() {
        keys.event(EventClass::STREAM, "xgroup-delconsumer", key);
        keys.effects.changed(1);
    }
    reply.count(removed.unwrap_or(0));
    Ok(())
}

/// The stream whose group is to be changed; an error if either is missing.
fn group_of<'k>(keys: &'k mut Keys<'_>, key: &[u8], group: &[u8]) -> Result<&'k Stream, CommandError> {
    let stream = keys.peek_as::<Stream>(key)?.ok_or_else(|| CommandError::err(NO_KEY))?;
    if stream.group(group).is_some() { Ok(stream) } else { Err(no_group_for(key, group)) }
}

/// Changes a group that [`group_of`] found.
fn in_group<R>(
    keys: &mut Keys<'_>,
    key: &[u8],
    name: &[u8],
    change: impl FnOnce(&mut crate::types::stream::Group) -> R,
) -> Result<R, CommandError> {
    let changed = keys.amend(key, Missing::Skip, |stream: &mut Stream| stream.with_group(name, change))?;
    changed.flatten().ok_or_else(|| no_group_for(key, name))
}

/// Tells other nodes how far a group has read.
pub(super) fn tell_position(keys: &mut Keys<'_>, key: &[u8], group: &[u8], last_id: StreamId, read: Option<u64>) {
    let read = number::format_i64(read.map_or(-1, |read| read as i64));
    keys.effects.replace(&[b"XGROUP", b"SETID", key, group, &last_id.text(), b"ENTRIESREAD", &read]);
    keys.effects.changed(1);
}

/// Tells other nodes, and whoever listens, that a consumer was made.
pub(super) fn tell_consumer(keys: &mut Keys<'_>, key: &[u8], group: &[u8], consumer: &[u8]) {
    keys.event(EventClass::STREAM, "xgroup-createconsumer", key);
    keys.effects.replace(&[b"XGROUP", b"CREATECONSUMER", key, group, consumer]);
    keys.effects.changed(1);
}
