//! Commands on every key of a database: listing, counting, walking, flushing.
//!
//! Reading goes shard by shard and holds one lock at a time, briefly; flushing and swapping take all locks, because they
//! are one moment for every client.
//!
//! ```text
//!   SCAN cursor:   position in the table (40 bits)                              | 0 | shard     what one segment shows
//!                  position, its highest bits | the tenant's number (20 bits)   | 1 | shard     another's, to who sees all
//! ```
//! Zero is both the beginning and the end; between them a cursor is never zero, since a shard that is done is followed
//! by the next one's number. The shard count is fixed for the life of the process, so a cursor stays true that long.

use super::Answer;
use crate::args::Args;
use crate::commands::collections;
use crate::error::CommandError;
use crate::keyspace::{EveryKey, Keys, ScanPosition, TenantId};
use crate::reply::Reply;
use crate::slot;
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
    let pattern = Glob::compile(args.pattern(all.pattern_bytes_max())?);
    let head = reply.deferred_array();
    let mut count = 0;
    let bound = all.names_bound().cloned();
    let most = bound.as_ref().map_or(usize::MAX, |bound| bound.most);
    for shard in 0..all.shard_count() {
        all.with_shard(shard, &mut |keys| {
            keys.for_each(&mut |entry| {
                if count <= most && pattern.matches(entry.key()) {
                    reply.bulk(entry.key());
                    count += 1;
                }
            });
        });
        if let Some(bound) = bound.as_ref().filter(|bound| count > bound.most) {
            return Err(CommandError::Text(bound.error().into()));
        }
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
    /// `CLUSTERSCAN`: the keys of this slot only.
    slot: Option<u16>,
}

/// The options behind a cursor; `SLOT` is one of them where `of_cluster`.
fn parse_scan(
    cursor: u64,
    of_cluster: bool,
    pattern_bytes_max: usize,
    mut args: Args<'_>,
) -> Result<Scan, CommandError> {
    let mut scan = Scan { cursor, count: SCAN_COUNT, pattern: Glob::Any, type_name: None, slot: None };
    while args.len() >= 2 {
        if args.accept("COUNT") {
            let count = args.integer()?;
            scan.count = usize::try_from(count).ok().filter(|count| *count > 0).ok_or(CommandError::Syntax)?;
        } else if args.accept("MATCH") {
            scan.pattern = Glob::compile(args.pattern(pattern_bytes_max)?);
        } else if of_cluster && args.accept("SLOT") {
            let slot = number::parse_i64(args.take()?).and_then(|slot| u16::try_from(slot).ok());
            let slot = slot.filter(|slot| *slot < slot::SLOTS);
            scan.slot = Some(slot.ok_or_else(|| CommandError::err("Invalid or out of range slot"))?);
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

/// Where a cursor divides. See the head of this file.
#[derive(Clone, Copy)]
struct CursorLayout {
    shard_bits: u32,
}

impl CursorLayout {
    /// A cursor stays below 2^53: some clients read it as a floating point number.
    const CURSOR_BITS: u32 = 53;
    /// As many as tenants are numbered with.
    const SEGMENT_BITS: u32 = 20;
    /// What a table's position has.
    const POSITION_BITS: u32 = 40;

    /// How many of the lowest bits of a position have no room beside a segment: less than a bucket spans, so that at worst
    /// a key is shown twice.
    fn cut(self) -> u32 {
        let room = Self::CURSOR_BITS - 1 - Self::SEGMENT_BITS - self.shard_bits;
        Self::POSITION_BITS.saturating_sub(room)
    }

    fn write(self, shard: u32, at: ScanPosition) -> u64 {
        let rest = match u64::from(at.segment.number()) {
            0 => at.position << 1,
            segment => ((at.position >> self.cut()) << Self::SEGMENT_BITS | segment) << 1 | 1,
        };
        rest << self.shard_bits | u64::from(shard)
    }

    fn read(self, cursor: u64) -> (u32, ScanPosition) {
        let shard = (cursor & ((1 << self.shard_bits) - 1)) as u32;
        let rest = cursor >> self.shard_bits;
        let positions = (1 << Self::POSITION_BITS) - 1;
        let at = if rest & 1 == 0 {
            ScanPosition { segment: TenantId::SHARED, position: rest >> 1 & positions }
        } else {
            let segment = rest >> 1 & ((1 << Self::SEGMENT_BITS) - 1);
            let position = (rest >> 1 >> Self::SEGMENT_BITS) << self.cut() & positions;
            ScanPosition { segment: TenantId::with_prefixes(segment as u32), position }
        };
        (shard, at)
    }
}

pub(super) fn scan(all: &mut dyn EveryKey, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let cursor = collections::cursor(&mut args)?;
    let scan = parse_scan(cursor, false, all.pattern_bytes_max(), args)?;
    walk(all, &scan, reply, |next, reply| reply.bulk(&number::format_i64(next as i64)))
}

/// What lies around the cursor of `CLUSTERSCAN`: its tag tells cluster clients which node to ask, and here any node walks over
/// all keys.
const CLUSTER_CURSOR: (&str, &str) = ("0-{0}-", "0");

pub(in crate::commands) fn cluster_scan(all: &mut dyn EveryKey, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let (before, end) = CLUSTER_CURSOR;
    let text = args.take()?;
    let number = if text == end.as_bytes() { Some(text) } else { text.strip_prefix(before.as_bytes()) };
    let cursor = number.and_then(number::parse_i64).and_then(|cursor| u64::try_from(cursor).ok());
    let cursor = cursor.ok_or_else(|| CommandError::err("Invalid cursor"))?;
    let scan = parse_scan(cursor, true, all.pattern_bytes_max(), args)?;
    walk(all, &scan, reply, |next, reply| match next {
        0 => reply.bulk(end.as_bytes()),
        next => reply.bulk(format!("{before}{next}").as_bytes()),
    })
}

/// Goes on from the cursor of `scan`; `cursor` tells where to go on next.
fn walk(all: &mut dyn EveryKey, scan: &Scan, reply: &mut Reply, cursor: impl FnOnce(u64, &mut Reply)) -> Answer {
    let shard_count = all.shard_count();
    let layout = CursorLayout { shard_bits: shard_count.next_power_of_two().trailing_zeros() };
    let (mut shard, from) = layout.read(scan.cursor);
    let mut at = Some(from);
    let mut elements = Reply::new(reply.protocol);
    let (mut visited, mut listed) = (0, 0);
    let mut buckets_left = scan.count.saturating_mul(EMPTY_BUCKETS_PER_ELEMENT);
    if all.reach().filters_keys() || !all.reach().borrowed().is_empty() {
        buckets_left = buckets_left.max(EMPTY_BUCKETS_WHEN_CONFINED);
    }
    while shard < shard_count && visited < scan.count && buckets_left > 0 {
        all.with_shard(shard, &mut |keys| {
            if keys.len_of_all() == 0 {
                // Costs nothing, so it does not count: a small database answers in one call.
                at = None;
                return;
            }
            for _ in 0..BUCKETS_PER_LOCK.min(buckets_left) {
                at = visit_bucket(keys, scan, at.unwrap_or_default(), &mut visited, &mut listed, &mut elements);
                buckets_left -= 1;
                if at.is_none() || visited >= scan.count {
                    break;
                }
            }
        });
        if at.is_none() {
            shard += 1;
            at = (shard < shard_count).then(ScanPosition::default);
        }
    }
    let next = at.filter(|_| shard < shard_count).map_or(0, |at| layout.write(shard, at));
    reply.array(2);
    cursor(next, reply);
    reply.array(listed);
    reply.raw(&elements.bytes);
    Ok(())
}

/// Visits one bucket of the locked shard and returns the next position.
fn visit_bucket(
    keys: &mut Keys<'_>,
    scan: &Scan,
    at: ScanPosition,
    visited: &mut usize,
    listed: &mut usize,
    elements: &mut Reply,
) -> Option<ScanPosition> {
    keys.scan(at, scan.type_name, &mut |entry| {
        *visited += 1;
        let of_type = scan.type_name.is_none_or(|name| crate::keyspace::type_name(&entry.value()) == name);
        let of_slot = scan.slot.is_none_or(|wanted| slot::of_key(entry.key()) == wanted);
        if of_type && of_slot && scan.pattern.matches(entry.key()) {
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
    // Not the first number of a shard: that will choose the key.
    let draw = |keys: &mut Keys<'_>| keys.random() ^ keys.random().rotate_left(32);
    let mut random = 0;
    let lens = match all.counts() {
        Some(counts) => {
            all.with_shard(0, &mut |keys| random = draw(keys));
            counts
        }
        None => {
            let mut lens = Vec::new();
            for shard in 0..all.shard_count() {
                all.with_shard(shard, &mut |keys| {
                    lens.push(keys.key_count() as u64);
                    random = draw(keys);
                });
            }
            lens
        }
    };
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
    match all.counts() {
        Some(counts) => count = counts.iter().sum::<u64>() as usize,
        None => {
            for shard in 0..all.shard_count() {
                all.with_shard(shard, &mut |keys| count += keys.key_count());
            }
        }
    }
    reply.count(count);
    Ok(())
}

/// `FLUSHDB [ASYNC | SYNC]`, and for whoever holds every key `FLUSHDB PREFIX prefix …`: the keys that begin so. That is how
/// it is written down that a tenant flushed.
pub(in crate::commands) fn flushdb(all: &mut dyn EveryKey, args: Args<'_>, reply: &mut Reply) -> Answer {
    let prefixes = flush_prefixes(all, args)?;
    with_flushed(all, &mut |keys| {
        let removed = flush(keys, &prefixes);
        written_down(keys, b"FLUSHDB", removed);
    });
    reply.ok();
    Ok(())
}

/// The same of all databases.
pub(in crate::commands) fn flushall(all: &mut dyn EveryKey, args: Args<'_>, reply: &mut Reply) -> Answer {
    let prefixes = flush_prefixes(all, args)?;
    with_flushed(all, &mut |keys| {
        let databases = 0..keys.databases();
        let removed: usize = databases.map(|database| keys.in_database(database, |keys| flush(keys, &prefixes))).sum();
        written_down(keys, b"FLUSHALL", removed);
    });
    reply.ok();
    Ok(())
}

/// Key by key takes its time: then others need not wait for more than a shard of it, if that can be.
fn with_flushed(all: &mut dyn EveryKey, with: &mut dyn FnMut(&mut Keys<'_>)) {
    if all.is_alone() && all.reach().filters_keys() {
        (0..all.shard_count()).for_each(|shard| all.with_shard(shard, with));
    } else {
        all.with_all(with);
    }
}

fn flush(keys: &mut Keys<'_>, prefixes: &[&[u8]]) -> usize {
    if prefixes.is_empty() { keys.clear() } else { keys.clear_prefixes(prefixes) }
}

fn written_down(keys: &mut Keys<'_>, word: &[u8], removed: usize) {
    let own = keys.prefixes_of_tenant();
    if !own.is_empty() && removed > 0 && keys.effects.of_every_key().is_some() {
        let words: Vec<&[u8]> = [word, b"PREFIX"].into_iter().chain(own.iter().map(Vec::as_slice)).collect();
        keys.effects.replace(&words);
    }
    keys.effects.changed(removed as u64);
}

/// Memory is always freed after the locks are released, so ASYNC and SYNC mean the same.
fn flush_prefixes<'a>(all: &dyn EveryKey, mut args: Args<'a>) -> Result<Vec<&'a [u8]>, CommandError> {
    if args.accept("PREFIX") && !all.reach().is_confined() && !args.is_empty() {
        return Ok(args.rest().to_vec());
    }
    if !args.is_empty() && !args.accept("ASYNC") && !args.accept("SYNC") {
        return Err(CommandError::Syntax);
    }
    args.finish()?;
    Ok(Vec::new())
}

/// Exchanges two databases: of whoever is confined its tenant's, which it must hold as a whole.
pub(in crate::commands) fn swapdb(all: &mut dyn EveryKey, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    if !all.reach().holds_segment() {
        return Err(CommandError::Text("NOPERM SWAPDB concerns every key, and not all of them are this user's".into()));
    }
    let [first, second] = swapped(&mut args, all)?;
    all.with_all(&mut |keys| {
        let own = keys.prefixes_of_tenant();
        keys.swap_databases(first, second);
        if !own.is_empty() && first != second {
            let numbers = [first, second].map(|index| number::format_i64(index.into()));
            let words = [b"TENANT", b"SWAPDB".as_slice(), &*numbers[0], &*numbers[1]];
            let words: Vec<&[u8]> = words.into_iter().chain(own.iter().map(Vec::as_slice)).collect();
            keys.effects.replace(&words);
        }
        keys.effects.changed(u64::from(first != second));
    });
    reply.ok();
    Ok(())
}

/// `TENANT SWAPDB first second prefix …`: the same of the keys that begin so. That is how it is written down that a tenant
/// exchanged its own: a copy may not have heard yet, or no longer know, whose they are. A name of its own, so that no older
/// version takes it for an exchange of everybody's.
pub(in crate::commands) fn swap_prefixes(all: &mut dyn EveryKey, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let [first, second] = swapped(&mut args, all)?;
    let prefixes = args.rest();
    all.with_all(&mut |keys| {
        keys.swap_prefixes(first, second, prefixes);
        keys.effects.changed(u64::from(first != second));
    });
    reply.ok();
    Ok(())
}

fn swapped(args: &mut Args<'_>, all: &dyn EveryKey) -> Result<[u32; 2], CommandError> {
    let [first, second] = [args.take()?, args.take()?].map(number::parse_i64);
    let first = first.ok_or_else(|| CommandError::err("invalid first DB index"))?;
    let second = second.ok_or_else(|| CommandError::err("invalid second DB index"))?;
    let index = |index: i64| u32::try_from(index).ok().filter(|index| *index < all.databases());
    match [first, second].map(index) {
        [Some(first), Some(second)] => Ok([first, second]),
        _ => Err(CommandError::err("DB index is out of range")),
    }
}
