//! Eviction without a node: what the bits mean, who goes first, and how well the choice guesses.

use super::*;
use crate::keyspace::{CallContext, Expiry, Keys, Layout};
use crate::types::Limits;

const NOW: UnixMillis = 1_700_000_000_000;
const LAYOUT: Layout = Layout { seed: 7, shard_count: 1 };
const LFU: Usage = Usage { counted: true, log_factor: 10, decay_minutes: 1 };

struct Store {
    shard: Shard,
    effects: Effects,
    usage: Usage,
    policy: Policy,
    pool: Pool,
    now: UnixMillis,
    random: u64,
    limits: Limits,
}

impl Store {
    fn new(policy: Policy) -> Store {
        let usage = Usage { counted: policy.is_lfu(), ..LFU };
        let (shard, effects, pool) = (Shard::new(LAYOUT.seed), Effects::new(), Pool::default());
        Store { shard, effects, usage, policy, pool, now: NOW, random: 1, limits: Limits::default() }
    }

    fn keys<R>(&mut self, call: impl FnOnce(&mut Keys<'_>) -> R) -> R {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let context = CallContext {
            layout: LAYOUT,
            space: SpaceId::default(),
            now: self.now,
            limits: &self.limits,
            value_bytes_max: 512 << 20,
            room_bytes: u64::MAX,
            databases: 16,
            random: self.random,
            no_touch: false,
            usage: self.usage,
            keeps_expired: false,
            patience: None,
        };
        call(&mut Keys::one(0, &mut self.shard, context, &mut self.effects))
    }

    fn set(&mut self, key: &str, expiry: Expiry) {
        self.keys(|keys| keys.put_string(key.as_bytes(), b"value", expiry));
    }

    fn len(&self) -> usize {
        self.shard.space(SpaceId::default()).map_or(0, |space| space.len())
    }

    /// Evicts one key; its name.
    fn evict(&mut self) -> Option<String> {
        let round = Round { policy: self.policy, usage: self.usage, samples: 5, now: self.now };
        self.pool.judge_by(self.policy);
        for _ in 0..100 {
            self.shard.look_for_candidates(0, SpaceId::default(), &round, &mut self.pool);
            while let Some(best) = self.pool.take_best() {
                if self.shard.evict(&best, &round, &mut self.effects).is_some() {
                    return Some(String::from_utf8_lossy(&best.key).into_owned());
                }
            }
        }
        None
    }
}

#[test]
fn policies_are_known_by_their_redis_names() {
    for (name, policy) in Policy::NAMES {
        assert_eq!((Policy::named(name), policy.name()), (Some(policy), name));
    }
    assert_eq!(Policy::named("allkeys-fifo"), None);
}

#[test]
fn a_counter_grows_ever_more_slowly_and_shrinks_with_the_minutes() {
    let mut access = LFU.fresh(NOW);
    assert_eq!(LFU.frequency(access, NOW), 5);
    let mut state = 1_u64;
    let mut after = |hits: u32| {
        for _ in 0..hits {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            access = LFU.used(access, NOW, || state);
        }
        LFU.frequency(access, NOW)
    };
    // The table in Redis' documentation for a factor of 10: 10 after 100 hits, 18 after 1000, 142 after 100 000.
    assert!((7..=14).contains(&after(100)));
    assert!((14..=24).contains(&after(900)));
    assert!((120..=165).contains(&after(99_000)));
    let counter = LFU.frequency(access, NOW);
    assert_eq!(LFU.frequency(access, NOW + 7 * 60_000), counter - 7);
    assert_eq!(Usage { decay_minutes: 0, ..LFU }.frequency(access, NOW + 7 * 60_000), counter);
}

#[test]
fn the_clock_may_wrap() {
    let usage = Usage::default();
    let wraps = i64::from(ACCESS_MASK) * 1000;
    assert_eq!(usage.idle_seconds(usage.fresh(wraps), wraps + 5000), 5);
    assert_eq!(usage.idle_seconds(usage.with_idle_seconds(77, NOW), NOW), 77);
    assert_eq!(usage.idle_seconds(usage.with_idle_seconds(i64::MAX, NOW), NOW), ACCESS_MASK);
}

#[test]
fn what_was_not_used_for_long_goes_first() {
    let mut store = Store::new(Policy::AllKeysLru);
    for number in 0..4 {
        store.set(&format!("key:{number}"), Expiry::Never);
        store.now += 10_000;
    }
    store.keys(|keys| assert!(keys.touch(b"key:0")));
    assert_eq!(store.evict().as_deref(), Some("key:1"));
    // A key that is used after it became a candidate stays.
    store.keys(|keys| assert!(keys.touch(b"key:2")));
    assert_eq!(store.evict().as_deref(), Some("key:3"));
    assert_eq!((store.effects.evicted_count(), store.effects.expired_count()), (2, 0));
}

#[test]
fn only_keys_with_an_expiry_go_if_the_policy_says_so() {
    for policy in [Policy::VolatileLru, Policy::VolatileLfu, Policy::VolatileRandom, Policy::VolatileTtl] {
        let mut store = Store::new(policy);
        (0..500).for_each(|number| store.set(&format!("for ever:{number}"), Expiry::Never));
        store.set("late", Expiry::At(NOW + 100_000));
        store.set("soon", Expiry::At(NOW + 1000));
        assert!(store.evict().is_some());
        assert!(store.evict().is_some());
        assert_eq!((store.evict(), store.len()), (None, 500), "{policy:?}");
    }
}

#[test]
fn what_expires_soonest_goes_first() {
    let mut store = Store::new(Policy::VolatileTtl);
    for (key, after_ms) in [("late", 100_000), ("soon", 1000), ("later", 200_000)] {
        store.set(key, Expiry::At(NOW + after_ms));
    }
    assert_eq!([store.evict(), store.evict()].map(Option::unwrap), ["soon", "late"]);
}

#[test]
fn without_eviction_nothing_goes() {
    let mut store = Store::new(Policy::NoEviction);
    store.set("key", Expiry::At(NOW + 1000));
    assert_eq!(store.evict(), None);
}

#[test]
fn a_key_past_its_expiry_goes_before_any_other_and_counts_as_expired() {
    let mut store = Store::new(Policy::AllKeysLru);
    store.set("old", Expiry::Never);
    store.now += 60_000;
    store.set("expired", Expiry::At(store.now + 1));
    store.now += 2;
    assert_eq!(store.evict().as_deref(), Some("expired"));
    assert_eq!((store.effects.evicted_count(), store.effects.expired_count()), (0, 1));
}

/// Shares of hits on the same Zipf-like trace, by an exact LRU and by this one.
#[test]
fn samples_guess_nearly_as_well_as_an_exact_order() {
    const KEPT: usize = 2000;
    let mut store = Store::new(Policy::AllKeysLru);
    let mut exact: std::collections::BTreeMap<u64, u64> = Default::default();
    let mut used_at: std::collections::HashMap<u64, u64> = Default::default();
    let (mut hits, mut exact_hits, mut state) = (0, 0, 3_u64);
    for step in 0..60_000_u64 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // Log-uniform: the density of a Zipf distribution with exponent 1.
        let unit = (state >> 11) as f64 / (1_u64 << 53) as f64;
        let number = 20_000_f64.powf(unit) as u64;
        if let Some(at) = used_at.insert(number, step) {
            exact.remove(&at);
            exact_hits += 1;
        } else if used_at.len() > KEPT {
            let (_, oldest) = exact.pop_first().unwrap();
            used_at.remove(&oldest);
        }
        exact.insert(step, number);
        let key = format!("key:{number}");
        if store.keys(|keys| keys.touch(key.as_bytes())) {
            hits += 1;
        } else {
            store.set(&key, Expiry::Never);
            if store.len() > KEPT {
                store.evict().unwrap();
            }
        }
        // The clock counts seconds: a trace of some minutes.
        store.now += 5;
    }
    let (share, exact_share) = (f64::from(hits) / 60_000.0, f64::from(exact_hits) / 60_000.0);
    assert!(exact_share - share < 0.02, "{share} of {exact_share}");
}
