//! What to do when the data reaches `maxmemory`: keys go, the best candidates first, until there is room.
//!
//! ```text
//!   a command that needs memory ─► used > maxmemory? ─► evict, for some hundred microseconds at most ─► run
//!                                                        └ nothing may go: OOM
//!   the upkeep thread            ─► the same every 100 ms, until there is room
//! ```
//! How much is used comes from [`crate::shards::Shards::used_bytes`]. Keyspaces are looked at in proportion to the keys they
//! have, wherever they lie; whose keys there are besides costs an eviction nothing. Every data thread has a pool of
//! candidates of its own, so that evicting threads meet only at the shards.
//!
//! Which key is the best candidate is `keyward_engine::eviction`'s business.

use crate::corridor::{Entry, InLane};
use crate::live::Hot;
use crate::node::Node;
use keyward_engine::events::EventClass;
use keyward_engine::eviction::{Policy, Pool, Round};
use keyward_engine::keyspace::{SpaceId, UnixMillis};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Between two looks at how much memory the data uses.
const TICK: Duration = Duration::from_millis(100);

/// Between two turns of the upkeep thread while there is no room: commands come first.
const PAUSE: Duration = Duration::from_millis(1);

/// Turns without a pause: commands come between two of them as between two commands.
const TURNS: u32 = 8;

/// Keys between two looks at the clock.
const KEYS_PER_LOOK: u32 = 16;

/// Rounds in a row without any key to evict, after which the keyspaces are counted anew.
const FRUITLESS_ROUNDS_MAX: u32 = 64;

/// Data of this size is worth huge pages, in bytes.
const HUGE_PAGES_BYTES_MIN: u64 = 32 << 20;

/// Switches huge pages off, until the data is large. The allocator asks for them everywhere; for a node that does nothing
/// they are mostly air.
pub fn save_pages() {
    set_huge_pages(false);
}

fn set_huge_pages(wanted: bool) {
    // A kernel without them has nothing to switch.
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(!wanted) {
        tracing::debug!(%error, "huge pages cannot be switched");
    }
}

/// Where keys lie that may go.
#[derive(Default)]
struct Targets {
    /// Each with the number of such keys up to and including its own.
    spaces: Vec<(u64, u32, SpaceId)>,
}

impl Targets {
    fn count(node: &Node, policy: Policy) -> Targets {
        let mut targets = Targets::default();
        let mut sum = 0;
        for index in 0..node.shards.count() {
            node.shards.with(index, |shard| {
                for (id, space) in shard.spaces() {
                    let keys = if policy.is_volatile() { space.expiring_len() } else { space.len() };
                    if keys > 0 {
                        sum += keys as u64;
                        targets.spaces.push((sum, index, id));
                    }
                }
            });
        }
        targets
    }

    /// One of them, the more likely the more keys it has.
    fn draw(&self, random: u64) -> Option<(u32, SpaceId)> {
        let (sum, _, _) = self.spaces.last()?;
        let drawn = ((u128::from(random) * u128::from(*sum)) >> 64) as u64;
        let at = self.spaces.partition_point(|(up_to, _, _)| *up_to <= drawn);
        self.spaces.get(at).map(|(_, index, space)| (*index, *space))
    }
}

/// The last count of the keyspaces; shared by all threads.
#[derive(Default)]
pub struct Census {
    targets: Mutex<Arc<Targets>>,
    generation: AtomicU64,
}

impl Census {
    fn renew(&self, node: &Node, policy: Policy) {
        let targets = Targets::count(node, policy);
        *self.targets.lock() = Arc::new(targets);
        self.generation.fetch_add(1, Ordering::Release);
    }
}

/// How making room ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Room {
    /// There is room.
    Enough,
    /// There is more to evict than one command has time for; it goes on in the background.
    Working,
    /// Nothing may go: a command that needs memory is refused.
    Nothing,
}

/// What one thread needs to evict keys.
pub struct Evictor {
    pool: Pool,
    targets: Arc<Targets>,
    generation: u64,
    random: u64,
}

impl Evictor {
    /// With an empty pool.
    pub fn new() -> Evictor {
        Evictor { pool: Pool::default(), targets: Arc::default(), generation: 0, random: crate::random::u64() }
    }

    /// Makes room, if `maxmemory` is exceeded. The caller holds no shard.
    #[inline]
    pub fn make_room(&mut self, node: &Node, hot: &Hot, now: UnixMillis) -> Room {
        let limit = hot.memory_bytes_max;
        if limit == 0 || node.shards.used_bytes() <= limit { Room::Enough } else { self.evict(node, hot, now) }
    }

    /// The same for the upkeep thread, which must not come between the commands of a transaction.
    fn make_room_in_background(&mut self, node: &Node) -> Room {
        let lane = node.corridor.upkeep_lane();
        if node.corridor.enter(lane) != Entry::Entered {
            return Room::Enough;
        }
        let _in_lane = InLane::new(&node.corridor, lane);
        // Only the node that serves the data decides that a key is gone.
        if !node.views.load().1.is_primary() {
            return Room::Enough;
        }
        self.make_room(node, &node.live.hot(), crate::node::now_ms())
    }

    #[cold]
    fn evict(&mut self, node: &Node, hot: &Hot, now: UnixMillis) -> Room {
        if hot.eviction.policy == Policy::NoEviction {
            return Room::Nothing;
        }
        let eviction = &hot.eviction;
        let round = Round { policy: eviction.policy, usage: eviction.usage, samples: eviction.samples, now };
        self.pool.judge_by(round.policy);
        let deadline = eviction.time_max.map(|time| Instant::now() + time);
        let (mut turns, mut fruitless) = (0_u32, 0_u32);
        while node.shards.used_bytes() > hot.memory_bytes_max {
            if self.evict_one(node, &round, hot.events) {
                fruitless = 0;
            } else {
                fruitless += 1;
                if fruitless.is_multiple_of(FRUITLESS_ROUNDS_MAX) && !self.count_anew(node, round.policy) {
                    return Room::Nothing;
                }
            }
            turns += 1;
            if turns.is_multiple_of(KEYS_PER_LOOK) && deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Room::Working;
            }
        }
        Room::Enough
    }

    /// One round of looking, and the best candidate goes. False: there was none.
    fn evict_one(&mut self, node: &Node, round: &Round, events: EventClass) -> bool {
        let generation = node.census.generation.load(Ordering::Acquire);
        if generation != self.generation {
            self.targets = Arc::clone(&node.census.targets.lock());
            self.generation = generation;
        }
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let drawn = (u128::from(self.random) * 0xd1b5_4a32_d192_ed03) as u64;
        if let Some((index, space)) = self.targets.draw(drawn ^ drawn >> 32) {
            node.shards.with(index, |shard| shard.look_for_candidates(index, space, round, &mut self.pool));
        }
        while let Some(best) = self.pool.take_best() {
            let gone = node.remove_in_background(best.place.shard, best.space, events, |shard, effects| {
                shard.evict(&best, round, effects).into_iter().collect()
            });
            if gone > 0 {
                return true;
            }
        }
        false
    }

    /// Whether there is any key that may go.
    fn count_anew(&mut self, node: &Node, policy: Policy) -> bool {
        node.census.renew(node, policy);
        !node.census.targets.lock().spaces.is_empty()
    }
}

impl Default for Evictor {
    fn default() -> Evictor {
        Evictor::new()
    }
}

/// Counts what is used exactly, and makes room where commands do not, until the node stops.
pub async fn watch(node: Arc<Node>) {
    let mut evictor = Evictor::new();
    let mut huge_pages = false;
    loop {
        let used = node.shards.count_used_bytes();
        if !huge_pages && used > HUGE_PAGES_BYTES_MIN {
            huge_pages = true;
            set_huge_pages(true);
        }
        let hot = node.live.hot();
        if hot.eviction.policy != Policy::NoEviction && hot.memory_bytes_max > 0 {
            node.census.renew(&node, hot.eviction.policy);
            while (0..TURNS).all(|_| evictor.make_room_in_background(&node) == Room::Working) {
                tokio::time::sleep(PAUSE).await;
            }
        }
        tokio::time::sleep(TICK).await;
    }
}
