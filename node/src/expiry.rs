//! Removes keys and fields of hashes nobody asks for any more: a walk over everything that expires.
//!
//! A key past its expiry reads as missing at once; this only gives its memory back. The walk goes round all shards, as
//! fast as it has to: whenever more than one key in a hundred is found expired it doubles its share of the thread's
//! time, up to a quarter (more with `active-expire-effort`, as in Redis); when it finds little it halves it. So few
//! expired keys remain however short they live, and what lives long costs next to nothing.

use crate::memory::until_beat;
use crate::node::{Node, now_ms};
use crate::pause::Paused;
use keyward_engine::keyspace::Swept;
use keyward_engine::scope::Owner;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A round begins so often.
const PERIOD: Duration = Duration::from_millis(10);

/// The same while nothing expires.
const IDLE_PERIOD: Duration = Duration::from_millis(100);

/// The least that a round may take: one part in a hundred of the thread's time.
const ROUND_MIN: Duration = Duration::from_micros(100);

/// A shard is locked no longer than this at a stretch.
const SLICE: Duration = Duration::from_micros(50);

/// More expired keys than one in so many: hurry.
const HURRY_ONE_IN: usize = 100;

/// Fewer: there is time.
const CALM_ONE_IN: usize = 400;

/// Whether expired keys are looked for at all (`DEBUG SET-ACTIVE-EXPIRE`).
pub struct Expiry {
    active: AtomicBool,
}

impl Default for Expiry {
    fn default() -> Expiry {
        Expiry { active: AtomicBool::new(true) }
    }
}

impl Expiry {
    /// Switches the walk off and on: tests want to see expired keys removed by those who find them.
    pub fn set_active(&self, active: bool) {
        self.active.store(active, Ordering::Relaxed);
    }
}

/// Where the walk stands.
struct Walker {
    shard: u32,
    time: Duration,
    /// The last round saw everything, and nothing that expires.
    idle: bool,
}

/// Expired fields of hashes removed in one round from one keyspace of a shard, the longest expired first: tens of
/// microseconds under the shard's lock.
const FIELDS_PER_ROUND: usize = 128;

/// Walks until the node stops.
pub async fn sweep(node: Arc<Node>) {
    let mut walker = Walker { shard: 0, time: ROUND_MIN, idle: false };
    loop {
        let began = Instant::now();
        // Only the node that serves the data decides that a key is gone; or the server whose writes it follows.
        let paused = node.pause.state(now_ms()) != Paused::Nobody || node.import.is_following();
        if node.expiry.active.load(Ordering::Relaxed) && !paused && node.views.load().1.is_primary() {
            walker.round(&node, began);
            let (ms, threshold) = (began.elapsed().as_millis() as u64, node.live.hot().latency_event_ms);
            if threshold > 0 && ms >= threshold {
                node.latency.note("expire-cycle", &Owner::Platform, now_ms() / 1000, ms);
            }
        }
        let pause = if walker.idle { until_beat(IDLE_PERIOD) } else { PERIOD.saturating_sub(began.elapsed()) };
        tokio::time::sleep(pause).await;
    }
}

impl Walker {
    fn round(&mut self, node: &Node, began: Instant) {
        let (now, hot) = (now_ms(), node.live.hot());
        let mut found = Swept::default();
        let mut visited = 0;
        while visited < node.shards.count() && began.elapsed() < self.time {
            let swept = node.sweep_shard(self.shard, now, hot.events, SLICE, FIELDS_PER_ROUND);
            found = found.plus(swept);
            if swept.finished {
                self.shard = (self.shard + 1) % node.shards.count();
                visited += 1;
            }
        }
        self.idle = found.seen == 0 && visited == node.shards.count();
        self.adjust(found, visited < node.shards.count(), hot.expire_effort);
    }

    /// More time if much was found and the time was used up, less if little was found.
    fn adjust(&mut self, found: Swept, used_up: bool, effort: u32) {
        let time_max = PERIOD * (25 + 2 * (effort.max(1) - 1)) / 100;
        if used_up && found.removed * HURRY_ONE_IN > found.seen {
            self.time = (self.time * 2).min(time_max);
        } else if found.removed * CALM_ONE_IN < found.seen || found.seen == 0 {
            self.time = (self.time / 2).max(ROUND_MIN);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_walk_hurries_while_it_finds_much_and_rests_when_it_does_not() {
        let mut walker = Walker { shard: 0, time: ROUND_MIN, idle: false };
        let much = Swept { seen: 1000, removed: 50, finished: false };
        let little = Swept { seen: 1000, removed: 1, finished: false };
        (0..20).for_each(|_| walker.adjust(much, true, 1));
        assert_eq!(walker.time, PERIOD / 4);
        (0..20).for_each(|_| walker.adjust(much, true, 10));
        assert_eq!(walker.time, PERIOD * 43 / 100);
        (0..20).for_each(|_| walker.adjust(little, true, 1));
        assert_eq!(walker.time, ROUND_MIN);
    }
}
