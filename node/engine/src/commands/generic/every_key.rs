//! Commands on every key of a database: listing, counting, walking, flushing.
//!
//! Reading goes shard by shard and holds one lock at a time, briefly; flushing and swapping take all locks, because they
//! are one moment for every client.
//!
//! ```text
//!   SCAN cursor:   position in the shard's table (40 bits) | shard (as many bits as the shard count needs)
//! ```
//! Zero is both the beginning and the end; between them a cursor is never zero, since a shard that is done is followed
//! by the next one's number. The shard count is fixed for the life of the process, so a cursor stays true that long.

use super::Answer;
use crate::args::Args;
use crate::commands::collections;
use crate::error::CommandError;
use crate::keyspace::{EveryKey, Keys};
use crate::reply::Reply;
use crate::types::number;
use keyward_acl::Glob;

/// How many elements SCAN visits when nothing else is asked.
const SCAN_COUNT: usize = 10;
/// Buckets one lock is held for while scanning: some microseconds' work each, so that nobody waits long.
const BUCKETS_PER_LOCK: usize = 128;
/// The same for whoever is confined, at least: to them, most buckets of a shared table look empty.
const EMPTY_BUCKETS_WHEN_CONFINED: usize = 4096;
/// Empty buckets SCAN passes for each element asked for, before it answers with what it has.
const EMPTY_BUCKETS_PER_ELEMENT: usize = 10;
/// The types SCAN can ask for, those that no key has yet included.
const TYPES: [&str; 6] = ["string", "list", "set", "zset", "hash", "stream"];

pub(super) fn keys(all: &mut dyn EveryKey, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let pattern = Glob::compile(args.take()?);
    let head = reply.deferred_array();
    let mut count = 0;
    for shard in 0..all.shard_count() {
        all.with_shard(shard, &mut |keys| {
            keys.for_each(&mut |entry| {
                if pattern.matches(entry.key()) {
                    reply.bulk(entry.key());
                    count += 1;
                }
            });
        });
    }
    reply.finish_array(head, count);
    Ok(())
}

/// What SCAN was asked for.
struct Scan {
    cursor: u64,
    count: usize,
    pattern: Glob,
    type_name: Option<&'static str>,
}

fn parse_scan(mut args: Args<'_>) -> Result<Scan, CommandError> {
    let cursor = collections::cursor(&mut args)?;
    let mut scan = Scan { cursor, count: SCAN_COUNT, pattern: Glob::Any, type_name: None };
    while args.len() >= 2 {
        if args.accept("COUNT") {
            let count = args.integer()?;
            scan.count = usize::try_from(count).ok().filter(|count| *count > 0).ok_or(CommandError::Syntax)?;
        } else if args.accept("MATCH") {
            scan.pattern = Glob::compile(args.take()?);
        } else if args.accept("TYPE") {
            let name = args.take()?;
            let known = TYPES.into_iter().find(|known| name.eq_ignore_ascii_case(known.as_bytes()));
            scan.type_name =
                Some(known.ok_or_else(|| {
                    CommandError::err(format!("unknown type name '{}'", String::from_utf8_lossy(name)))
                })?);
        } else {
            return Err(CommandError::Syntax);
        }
    }
    args.finish()?;
    Ok(scan)
}

pub(super) fn scan(all: &mut dyn EveryKey, args: Args<'_>, reply: &mut Reply) -> Answer {
    let scan = parse_scan(args)?;
    let shard_count = all.shard_count();
    let shard_bits = shard_count.next_power_of_two().trailing_zeros();
    let mut shard = (scan.cursor & ((1 << shard_bits) - 1)) as u32;
    let mut position = scan.cursor >> shard_bits;
    let mut elements = Reply::new(reply.protocol);
    let (mut visited, mut listed) = (0, 0);
    let mut buckets_left = scan.count.saturating_mul(EMPTY_BUCKETS_PER_ELEMENT);
    if all.reach().is_confined() {
        buckets_left = buckets_left.max(EMPTY_BUCKETS_WHEN_CONFINED);
    }
    while shard < shard_count && visited < scan.count && buckets_left > 0 {
        all.with_shard(shard, &mut |keys| {
            if keys.len_of_all() == 0 {
                // Costs nothing, so it does not count: a small database answers in one call.
                position = 0;
                return;
            }
            for _ in 0..BUCKETS_PER_LOCK.min(buckets_left) {
                position = visit_bucket(keys, &scan, position, &mut visited, &mut listed, &mut elements);
                buckets_left -= 1;
                if position == 0 || visited >= scan.count {
                    break;
                }
            }
        });
        if position == 0 {
            shard += 1;
        }
    }
    let next = if shard == shard_count { 0 } else { position << shard_bits | u64::from(shard) };
    reply.array(2);
    reply.bulk(&number::format_i64(next as i64));
    reply.array(listed);
    reply.raw(&elements.bytes);
    Ok(())
}

/// Visits one bucket of the locked shard and returns the next position.
fn visit_bucket(
    keys: &mut Keys<'_>,
    scan: &Scan,
    position: u64,
    visited: &mut usize,
    listed: &mut usize,
    elements: &mut Reply,
) -> u64 {
    keys.scan(position, scan.type_name, &mut |entry| {
        *visited += 1;
        let of_type = scan.type_name.is_none_or(|name| crate::keyspace::type_name(&entry.value()) == name);
        if of_type && scan.pattern.matches(entry.key()) {
            elements.bulk(entry.key());
            *listed += 1;
        }
    })
}

pub(super) fn randomkey(all: &mut dyn EveryKey, _args: Args<'_>, reply: &mut Reply) -> Answer {
    if let Some(key) = lucky_key(all) {
        reply.bulk(&key);
        return Ok(());
    }
    let mut lens = Vec::new();
    let mut random = 0;
    for shard in 0..all.shard_count() {
        all.with_shard(shard, &mut |keys| {
            lens.push(keys.key_count() as u64);
            // Not the first one: that will choose the key.
            random = keys.random() ^ keys.random().rotate_left(32);
        });
    }
    // Every key is as likely as every other, so a shard is as likely as it is full. Should all of it have expired, the
    // others are tried in turn.
    let total: u64 = lens.iter().sum();
    let mut target = ((u128::from(random) * u128::from(total)) >> 64) as u64;
    let first = lens.iter().position(|len| {
        let here = target < *len;
        target = target.wrapping_sub(*len);
        here
    });
    let shard_count = all.shard_count();
    let mut found = None;
    for step in 0..shard_count {
        let shard = (first.unwrap_or(0) as u32 + step) % shard_count;
        if lens[shard as usize] == 0 {
            continue;
        }
        all.with_shard(shard, &mut |keys| found = keys.random_key());
        if found.is_some() {
            break;
        }
    }
    match found {
        Some(key) => reply.bulk(&key),
        None => reply.null(),
    }
    Ok(())
}

/// For whoever is confined: keys are drawn from all there are until one is theirs, which is then as likely as every other of
/// theirs. Who owns little is seldom lucky, and then everything is looked through.
fn lucky_key(all: &mut dyn EveryKey) -> Option<Vec<u8>> {
    const TRIES: usize = 64;
    if !all.reach().is_confined() {
        return None;
    }
    let mut lens = Vec::new();
    let mut dice = Vec::new();
    for shard in 0..all.shard_count() {
        all.with_shard(shard, &mut |keys| {
            lens.push(keys.len_of_all() as u64);
            dice = (0..TRIES).map(|_| keys.random()).collect();
        });
    }
    let total: u64 = lens.iter().sum();
    dice.into_iter().filter(|_| total > 0).find_map(|random| {
        let mut target = ((u128::from(random) * u128::from(total)) >> 64) as u64;
        let shard = lens.iter().position(|len| {
            let here = target < *len;
            target = target.wrapping_sub(*len);
            here
        })?;
        let mut found = None;
        all.with_shard(shard as u32, &mut |keys| found = keys.lucky_key());
        found
    })
}

pub(in crate::commands) fn dbsize(all: &mut dyn EveryKey, _args: Args<'_>, reply: &mut Reply) -> Answer {
    let mut count = 0;
    for shard in 0..all.shard_count() {
        all.with_shard(shard, &mut |keys| count += keys.key_count());
    }
    reply.count(count);
    Ok(())
}

pub(in crate::commands) fn flushdb(all: &mut dyn EveryKey, args: Args<'_>, reply: &mut Reply) -> Answer {
    check_flush_mode(args)?;
    all.with_all(&mut |keys| {
        let removed = keys.clear();
        keys.effects.changed(removed as u64);
    });
    reply.ok();
    Ok(())
}

pub(in crate::commands) fn flushall(all: &mut dyn EveryKey, args: Args<'_>, reply: &mut Reply) -> Answer {
    check_flush_mode(args)?;
    all.with_all(&mut |keys| {
        let removed: usize =
            (0..keys.databases()).map(|database| keys.in_database(database, |keys| keys.clear())).sum();
        keys.effects.changed(removed as u64);
    });
    reply.ok();
    Ok(())
}

/// Memory is always freed after the locks are released, so ASYNC and SYNC mean the same.
fn check_flush_mode(mut args: Args<'_>) -> Answer {
    if !args.is_empty() && !args.accept("ASYNC") && !args.accept("SYNC") {
        return Err(CommandError::Syntax);
    }
    args.finish()
}

pub(in crate::commands) fn swapdb(all: &mut dyn EveryKey, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let [first, second] = [args.take()?, args.take()?].map(number::parse_i64);
    let first = first.ok_or_else(|| CommandError::err("invalid first DB index"))?;
    let second = second.ok_or_else(|| CommandError::err("invalid second DB index"))?;
    let mut result = Ok(());
    all.with_all(&mut |keys| {
        let databases = keys.databases();
        let [a, b] = [first, second].map(|index| u32::try_from(index).ok().filter(|index| *index < databases));
        let (Some(a), Some(b)) = (a, b) else {
            result = Err(CommandError::err("DB index is out of range"));
            return;
        };
        keys.swap_databases(a, b);
        keys.effects.changed(u64::from(a != b));
    });
    result?;
    reply.ok();
    Ok(())
}
