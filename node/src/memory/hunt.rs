//! Finding keys of one owner that may go, and removing the best candidates.
//!
//! An owner's keys lie in segments of their own, so what is looked at is its keys and nobody else's: evicting costs the same
//! however many keys there are besides. Its segments are counted now and then, and drawn from in proportion to their keys.
//! Every thread hunts by itself and with a pool of its own: threads meet only at the shards.
//!
//! Which key is the best candidate is `keyward_engine::eviction`'s business; whose keys go, that of [`super`].

use crate::live::Hot;
use crate::node::Node;
use keyward_cluster::GroupId;
use keyward_engine::eviction::{Policy, Pool, Round};
use keyward_engine::keyspace::{SpaceId, TenantId, UnixMillis};

/// Rounds in a row without any key to evict, after which the keys are counted anew.
const FRUITLESS_ROUNDS_MAX: u32 = 64;

/// Good candidates that somebody is alone with, until it is given up: a slow script of its owner runs.
const KEPT_MAX: u32 = 64;

/// A count of segments is good for so long, in milliseconds.
const COUNT_IS_GOOD_MS: i64 = 100;

/// One owner's keys, as one thread last saw them.
pub(super) struct Hunt {
    /// Whose keys.
    pub(super) owner: TenantId,
    /// Of which shard group.
    pub(super) group: GroupId,
    /// When it was last asked for a key.
    pub(super) used_at: UnixMillis,
    pool: Pool,
    /// Segments that have keys that may go, each with the number of such keys up to and including its own.
    targets: Vec<(u64, u32, SpaceId)>,
    counted_at: UnixMillis,
    counted_for: Policy,
    fruitless: u32,
    random: u64,
}

impl Hunt {
    pub(super) fn of(owner: TenantId, group: GroupId, random: u64) -> Hunt {
        Hunt {
            owner,
            group,
            used_at: 0,
            pool: Pool::default(),
            targets: Vec::new(),
            counted_at: i64::MIN,
            counted_for: Policy::NoEviction,
            fruitless: 0,
            random,
        }
    }

    /// Evicts the best key it finds. False: there is none that may go.
    pub(super) fn evict_one(&mut self, node: &Node, hot: &Hot, policy: Policy, now: UnixMillis) -> bool {
        if policy == Policy::NoEviction {
            return false;
        }
        let usage = hot.eviction.usage.counting(policy);
        let round = Round { policy, usage, samples: hot.eviction.samples, now };
        self.pool.judge_by(policy);
        self.used_at = now;
        if self.counted_for != policy || now.saturating_sub(self.counted_at) > COUNT_IS_GOOD_MS {
            self.count(node, &round);
        }
        let mut kept = 0;
        loop {
            self.look(node, &round);
            match self.evict_best(node, hot, &round) {
                Some(true) => {
                    self.fruitless = 0;
                    return true;
                }
                Some(false) => {}
                None if kept == KEPT_MAX => return false,
                None => kept += 1,
            }
            self.fruitless += 1;
            if self.fruitless.is_multiple_of(FRUITLESS_ROUNDS_MAX) || self.targets.is_empty() {
                self.count(node, &round);
                if self.targets.is_empty() {
                    return false;
                }
            }
        }
    }

    fn count(&mut self, node: &Node, round: &Round) {
        self.targets.clear();
        (self.counted_at, self.counted_for) = (round.now, round.policy);
        let (owner, targets) = (self.owner, &mut self.targets);
        let mut sum = 0;
        // Of a shard whose lock somebody has for long nothing is evicted meanwhile.
        for index in (0..node.shards.count()).filter(|index| !node.shards.keeps_shard(*index)) {
            node.shards.with(index, |shard| {
                for (id, space) in shard.segments_of(owner) {
                    let keys = if round.policy.is_volatile() { space.expiring_len() } else { space.len() };
                    if keys > 0 {
                        sum += keys as u64;
                        targets.push((sum, index, id));
                    }
                }
            });
        }
    }

    /// Looks at some keys of one segment, the more likely the more it has.
    fn look(&mut self, node: &Node, round: &Round) {
        let Some((sum, _, _)) = self.targets.last() else { return };
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let random = (u128::from(self.random) * 0xd1b5_4a32_d192_ed03) as u64;
        let drawn = ((u128::from(random ^ random >> 32) * u128::from(*sum)) >> 64) as u64;
        let at = self.targets.partition_point(|(up_to, _, _)| *up_to <= drawn);
        if let Some((_, index, space)) = self.targets.get(at).filter(|(_, index, _)| !node.shards.keeps_shard(*index)) {
            node.shards.with(*index, |shard| shard.look_for_candidates(*index, *space, round, &mut self.pool));
        }
    }

    /// Whether a key went; `None`: somebody is alone with the best, and finds it as it was.
    fn evict_best(&mut self, node: &Node, hot: &Hot, round: &Round) -> Option<bool> {
        while let Some(best) = self.pool.take_best() {
            if node.corridor.keeps(best.space.tenant, &best.key) || node.shards.keeps_shard(best.place.shard) {
                return None;
            }
            let gone = node.remove_in_background(best.place.shard, best.space, hot.events, |shard, effects| {
                shard.evict(&best, round, effects).into_iter().collect()
            });
            if gone > 0 {
                return Some(true);
            }
        }
        Some(false)
    }
}
