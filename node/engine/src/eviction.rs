//! Which keys go when memory runs out: how use is remembered in an entry's 24 bits, and the choice among samples.
//!
//! ```text
//!   LRU   access = seconds, wrapping                          the longer ago, the better a candidate
//!   LFU   access = minutes (16 bits, wrapping) | counter (8)  the lower the counter, the better
//! ```
//! The counter grows by chance, the less likely the higher it is, and shrinks with the minutes nobody looks: Redis' own
//! arithmetic, so that `OBJECT FREQ` means the same (<https://redis.io/docs/latest/develop/reference/eviction/>).
//!
//! A round looks at some keys of one keyspace and keeps the best candidates of many rounds in a [`Pool`]; the best of
//! the pool goes. Keys lie in hash order, so walking a keyspace from bucket to bucket is drawing without
//! replacement, and costs the same however many keys there are or whose they are.
//!
//! It knows no locks, no limit and no clock; randomness comes in as numbers.

use crate::dict::Entry;
use crate::effects::Effects;
use crate::keyspace::{Garbage, Place, Shard, SpaceId, UnixMillis};
use crate::types::Value;

/// What goes when memory runs out (`maxmemory-policy`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Policy {
    /// Nothing: writes that need memory are refused.
    #[default]
    NoEviction,
    /// What was not used for long.
    AllKeysLru,
    /// What is used seldom.
    AllKeysLfu,
    /// Anything.
    AllKeysRandom,
    /// Of the keys with an expiry, what was not used for long.
    VolatileLru,
    /// Of the keys with an expiry, what is used seldom.
    VolatileLfu,
    /// Of the keys with an expiry, anything.
    VolatileRandom,
    /// Of the keys with an expiry, what expires soonest.
    VolatileTtl,
}

impl Policy {
    /// Every policy by its Redis name, in Redis' order.
    pub const NAMES: [(&'static str, Policy); 8] = [
        ("volatile-lru", Policy::VolatileLru),
        ("volatile-lfu", Policy::VolatileLfu),
        ("volatile-random", Policy::VolatileRandom),
        ("volatile-ttl", Policy::VolatileTtl),
        ("allkeys-lru", Policy::AllKeysLru),
        ("allkeys-lfu", Policy::AllKeysLfu),
        ("allkeys-random", Policy::AllKeysRandom),
        ("noeviction", Policy::NoEviction),
    ];

    /// The policy of this name.
    pub fn named(name: &str) -> Option<Policy> {
        Policy::NAMES.into_iter().find(|(known, _)| *known == name).map(|(_, policy)| policy)
    }

    /// Its Redis name.
    pub fn name(self) -> &'static str {
        Policy::NAMES.into_iter().find(|(_, policy)| *policy == self).map_or("noeviction", |(name, _)| name)
    }

    /// Whether only keys with an expiry may go.
    pub fn is_volatile(self) -> bool {
        matches!(self, Policy::VolatileLru | Policy::VolatileLfu | Policy::VolatileRandom | Policy::VolatileTtl)
    }

    /// Whether every key may go.
    pub fn takes_any_key(self) -> bool {
        matches!(self, Policy::AllKeysLru | Policy::AllKeysLfu | Policy::AllKeysRandom)
    }

    /// Whether use is counted rather than dated.
    pub fn is_lfu(self) -> bool {
        matches!(self, Policy::AllKeysLfu | Policy::VolatileLfu)
    }

    /// Whether any key is as good as another: then there is nothing to compare.
    pub fn is_random(self) -> bool {
        matches!(self, Policy::AllKeysRandom | Policy::VolatileRandom)
    }
}

/// The 24 bits of an entry that say how it was used.
const ACCESS_MASK: u32 = 0x00ff_ffff;

/// Where a counter begins: a new key must survive until it can be used again.
const FREQUENCY_AT_FIRST: u32 = 5;

const FREQUENCY_MAX: u32 = 255;

/// How use is remembered: by date, or counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// Counted (LFU).
    pub counted: bool,
    /// `lfu-log-factor`: how much slower a high counter grows.
    pub log_factor: u32,
    /// `lfu-decay-time`: minutes without use that cost one; 0: none do.
    pub decay_minutes: u32,
}

impl Usage {
    /// The same where this policy rules: what goes by use that is counted must have it counted.
    #[inline]
    pub fn counting(self, policy: Policy) -> Usage {
        Usage { counted: policy.is_lfu(), ..self }
    }

    /// The bits of a key that was just made.
    #[inline]
    pub fn fresh(self, now: UnixMillis) -> u32 {
        if self.counted { minutes(now) << 8 | FREQUENCY_AT_FIRST } else { seconds(now) }
    }

    /// The bits of a key that is used now. The random number is looked at only where use is counted.
    #[inline]
    pub fn used(self, before: u32, now: UnixMillis, random: impl FnOnce() -> u64) -> u32 {
        if self.counted { self.counted_once_more(before, now, random()) } else { seconds(now) }
    }

    fn counted_once_more(self, before: u32, now: UnixMillis, random: u64) -> u32 {
        let mut counter = self.frequency(before, now);
        if counter < FREQUENCY_MAX {
            let above = counter.saturating_sub(FREQUENCY_AT_FIRST);
            // Grows with a chance of 1 in (above * factor + 1).
            let odds = u64::from(above) * u64::from(self.log_factor) + 1;
            // The upper half of a product is a fair number below `odds`.
            let drawn = (u128::from(random) * u128::from(odds)) >> 64;
            counter += u32::from(drawn == 0);
        }
        minutes(now) << 8 | counter
    }

    /// The counter as of now (`OBJECT FREQ`).
    pub fn frequency(self, access: u32, now: UnixMillis) -> u32 {
        let (then, counter) = (access >> 8 & 0xffff, access & 0xff);
        let elapsed = minutes(now).wrapping_sub(then) & 0xffff;
        counter.saturating_sub(elapsed.checked_div(self.decay_minutes).unwrap_or(0))
    }

    /// Seconds since the key was used (`OBJECT IDLETIME`).
    pub fn idle_seconds(self, access: u32, now: UnixMillis) -> u32 {
        seconds(now).wrapping_sub(access) & ACCESS_MASK
    }

    /// The bits of a key of this counter (`RESTORE … FREQ`).
    pub fn with_frequency(self, frequency: u8, now: UnixMillis) -> u32 {
        minutes(now) << 8 | u32::from(frequency)
    }

    /// The bits of a key that was used so long ago (`RESTORE … IDLETIME`).
    pub fn with_idle_seconds(self, idle_s: i64, now: UnixMillis) -> u32 {
        // Longer than the clock counts is as long as it counts.
        let idle = u32::try_from(idle_s).unwrap_or(ACCESS_MASK).min(ACCESS_MASK);
        seconds(now).wrapping_sub(idle) & ACCESS_MASK
    }
}

#[inline]
fn seconds(now: UnixMillis) -> u32 {
    (now / 1000) as u32 & ACCESS_MASK
}

#[inline]
fn minutes(now: UnixMillis) -> u32 {
    (now / 60_000) as u32 & 0xffff
}

/// Candidates that are kept: as many as Redis keeps.
const POOL_MAX: usize = 16;

/// A key longer than this is compared within its own round only, in bytes: a pool must not hold megabytes.
const POOLED_KEY_BYTES_MAX: usize = 4096;

/// A key that may go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// Whose key, which database.
    pub space: SpaceId,
    /// Where it lies.
    pub place: Place,
    /// The key.
    pub key: Vec<u8>,
    /// The higher, the sooner it goes.
    score: u64,
}

/// The best candidates of the last rounds.
#[derive(Default, Debug)]
pub struct Pool {
    /// Ascending by score.
    candidates: Vec<Candidate>,
    policy: Policy,
}

impl Pool {
    /// Forgets candidates that were judged by another policy.
    pub fn judge_by(&mut self, policy: Policy) {
        if self.policy != policy {
            self.policy = policy;
            self.candidates.clear();
        }
    }

    /// A key that was looked at.
    pub fn offer(&mut self, space: SpaceId, place: Place, entry: &Entry<Value>, usage: Usage, now: UnixMillis) {
        let score = score(self.policy, entry, usage, now);
        let full = self.candidates.len() == POOL_MAX;
        if full && self.candidates.first().is_some_and(|worst| score <= worst.score) {
            return;
        }
        let key = entry.key();
        let known = |known: &Candidate| known.place == place && known.space == space && known.key == key;
        if key.len() > POOLED_KEY_BYTES_MAX && !self.candidates.is_empty() || self.candidates.iter().any(known) {
            return;
        }
        if full {
            self.candidates.remove(0);
        }
        // Among equals, who was found first goes first: it has not been used for longer than it was seen.
        let at = self.candidates.partition_point(|other| other.score < score);
        self.candidates.insert(at, Candidate { space, place, key: key.to_vec(), score });
    }

    /// The best candidate. It may have been used or removed since it was looked at.
    pub fn take_best(&mut self) -> Option<Candidate> {
        self.candidates.pop()
    }

    /// Whether there is any candidate.
    pub fn is_empty(&self) -> bool {
        self.candidates.is_empty()
    }
}

/// Whether the entry is as good a candidate as it was: a key used meanwhile stays.
fn is_still_due(candidate: &Candidate, round: &Round, entry: &Entry<Value>) -> bool {
    may_go(round.policy, entry) && score(round.policy, entry, round.usage, round.now) >= candidate.score
}

/// Whether the policy lets the key go at all.
#[inline]
fn may_go(policy: Policy, entry: &Entry<Value>) -> bool {
    policy != Policy::NoEviction && (!policy.is_volatile() || entry.expires_at().is_some())
}

fn score(policy: Policy, entry: &Entry<Value>, usage: Usage, now: UnixMillis) -> u64 {
    let expires_at = entry.expires_at();
    if expires_at.is_some_and(|at| at <= now) {
        return u64::MAX;
    }
    match policy {
        Policy::NoEviction | Policy::AllKeysRandom | Policy::VolatileRandom => 0,
        Policy::AllKeysLru | Policy::VolatileLru => usage.idle_seconds(entry.access(), now).into(),
        Policy::AllKeysLfu | Policy::VolatileLfu => (FREQUENCY_MAX - usage.frequency(entry.access(), now)).into(),
        // Times before 1970 are long past, so they never get here.
        Policy::VolatileTtl => u64::MAX - expires_at.map_or(u64::MAX, |at| at as u64),
    }
}

/// Buckets one round looks at, at most: where few keys have an expiry, a round may end without any.
const BUCKETS_PER_ROUND: usize = 64;

/// What a round needs to know.
#[derive(Clone, Copy, Debug)]
pub struct Round {
    /// What goes.
    pub policy: Policy,
    /// How use is remembered.
    pub usage: Usage,
    /// Keys to look at, at least (`maxmemory-samples`).
    pub samples: usize,
    /// The wall clock.
    pub now: UnixMillis,
}

impl Shard {
    /// Looks at the next keys of a keyspace and offers those that may go to the pool. `index` is the shard's own.
    pub fn look_for_candidates(&mut self, index: u32, space: SpaceId, round: &Round, pool: &mut Pool) {
        let Some(keys) = self.existing_mut(space) else { return };
        let mut looked_at = 0;
        for _ in 0..BUCKETS_PER_ROUND {
            let dict = &keys.dict;
            keys.sample_cursor = dict.scan(keys.sample_cursor, &mut |entry| {
                // All of a bucket: who lies last in a crowded one must be found as often as the others.
                if may_go(round.policy, entry) {
                    looked_at += 1;
                    let place = Place { shard: index, hash: dict.hash(entry.key()) };
                    pool.offer(space, place, entry, round.usage, round.now);
                }
            });
            if looked_at >= round.samples {
                break;
            }
        }
    }

    /// Removes a candidate, if it is as good as it was when it was looked at.
    pub fn evict(&mut self, candidate: &Candidate, round: &Round, effects: &mut Effects) -> Option<Garbage> {
        let keys = self.existing_mut(candidate.space)?;
        let (hash, key) = (candidate.place.hash, candidate.key.as_slice());
        let entry = keys.dict.find(hash, key)?;
        if !is_still_due(candidate, round, entry) {
            return None;
        }
        let expired = entry.expires_at().is_some_and(|at| at <= round.now);
        keys.preserve(hash, key);
        let removed = keys.dict.remove(hash, key)?;
        keys.forget(&removed);
        if expired {
            effects.expired(candidate.space.database, key);
        } else {
            keys.note_evicted();
            effects.evicted(candidate.space.database, key);
        }
        Some(Garbage::Entry(removed))
    }
}

#[cfg(test)]
mod tests;
