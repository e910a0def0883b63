//! What to do when memory runs out: keys go, the best candidates first, until there is room.
//!
//! ```text
//!   a command that needs memory ─► whose? the tenant that asks, the owners of the keys it writes
//!        an owner above its limit ─────────────► evict from it, by its policy ─┐ for some hundred microseconds at most
//!        an owner that keeps what others have    ► the same                    │
//!        been promised                                                         ├─► run
//!        all data above maxmemory ─────────────► evict from who borrowed most ─┘
//!                                                └ nothing may go: OOM
//!   the upkeep thread            ─► the same every 100 ms, until there is room
//! ```
//! A tenant's `keys` are held to like its `limit`: too many keys are too much memory. How much all data uses comes from [`Node::memory_bytes`], what a tenant uses from its gauge. Who gives back
//! first, and who may not borrow, is `keyward_engine::shares`' business, which keys of an owner go [`hunt`]'s.

mod hunt;

use crate::corridor::{Entry, InLane};
use crate::gate::Memory;
use crate::live::Hot;
use crate::node::Node;
use crate::world::boot_ms;
use hunt::Hunt;
use keyward_cluster::GroupId;
use keyward_engine::eviction::Policy;
use keyward_engine::keyspace::{Keyspace, TenantId, UnixMillis};
use keyward_engine::shares::{gives_first, is_beyond_what_is_free};
use keyward_engine::tenancy::{Tenancy, Tenant};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Between two looks at how much memory the data uses.
const TICK: Duration = Duration::from_millis(100);

/// Between two turns of the upkeep thread while there is no room: commands come first.
const PAUSE: Duration = Duration::from_millis(1);

/// Turns without a pause: commands come between two of them as between two commands.
const TURNS: u32 = 8;

/// Keys between two looks at the clock, and at who gives back first.
const KEYS_PER_LOOK: u32 = 16;

/// Owners whose keys one thread hunts at a time; whoever was hunted longest ago is forgotten.
const HUNTS_MAX: usize = 64;

/// Data of this size is worth huge pages, in bytes.
const HUGE_PAGES_BYTES_MIN: u64 = 16 << 20;

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

/// How making room ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Room {
    /// There is room.
    Enough,
    /// There is more to evict than one command has time for; it goes on in the background.
    Working,
    /// Nothing may go: a command that needs memory is refused.
    Nothing,
}

/// Whose memory a command needs.
pub struct Claim<'a> {
    /// All tenants.
    pub tenancy: &'a Tenancy,
    /// The tenant that asks.
    pub writer: Option<&'a Tenant>,
    /// Whose keys it writes; none but the writer's own need be named.
    pub owners: &'a [TenantId],
}

impl Claim<'_> {
    /// The writer first, each once.
    fn all_owners(&self) -> impl Iterator<Item = TenantId> {
        let writer = self.writer.map(|tenant| tenant.id);
        writer.into_iter().chain(self.owners.iter().copied().filter(move |owner| Some(*owner) != writer))
    }

    /// How much memory one value may take that comes packed, so that nobody whose memory it needs gets more by it than is
    /// his; `used`: what all data has.
    pub fn room_bytes(&self, hot: &Hot, used: u64) -> u64 {
        let all = room_within(hot.memory_bytes_max, used, hot.eviction.policy);
        let owners = self.all_owners().filter_map(|owner| self.tenancy.get(owner));
        let of = |tenant: &Arc<Tenant>| {
            let policy = tenant.limits.eviction.unwrap_or(hot.eviction.policy);
            room_within(tenant.limits.limit, tenant.gauge.bytes(), policy)
        };
        owners.map(of).fold(all, u64::min)
    }

    /// Whether nobody whose memory it needs has more than is his; how much all data has is another question.
    #[inline]
    pub fn is_modest(&self, hot: &Hot) -> bool {
        let tenancy = self.tenancy;
        if !tenancy.bounds_memory() {
            return true;
        }
        let lends = hot.memory_bytes_max > 0 && tenancy.reserved_bytes() > 0;
        let is_within = |tenant: &Tenant| {
            let (limits, used) = (&tenant.limits, tenant.gauge.bytes());
            let policy = limits.eviction.unwrap_or(hot.eviction.policy);
            !tenant.is_above_its_limits() && (!lends || used <= limits.reserve || policy.takes_any_key())
        };
        let all_may_go = !lends || hot.eviction.policy.takes_any_key();
        self.writer.is_none_or(is_within)
            && self.owners.iter().all(|owner| match owner {
                &TenantId::SHARED => all_may_go,
                owner => tenancy.get(*owner).map_or(all_may_go, |tenant| is_within(tenant)),
            })
    }
}

/// Whose these keys are that `writer` writes, each owner once, if they are not its own.
pub fn note_owners<'k>(
    tenancy: &Tenancy,
    writer: Option<&Tenant>,
    keys: impl Iterator<Item = &'k [u8]>,
    owners: &mut Vec<TenantId>,
) {
    if writer.is_some_and(writes_only_its_own) {
        return;
    }
    let table = tenancy.owners();
    for key in keys {
        let owner = table.map_or(TenantId::SHARED, |table| table.of(key));
        if !owners.contains(&owner) {
            owners.push(owner);
        }
    }
}

/// Whether its users cannot write what is another's.
pub fn writes_only_its_own(tenant: &Tenant) -> bool {
    tenant.is_namespace() || tenant.imports.is_empty()
}

/// An owner of these that has all it may have and lets no key go: what a script may not write, which evicts nothing
/// between its steps.
pub fn full_owner(tenancy: &Tenancy, default: Policy, owners: &[TenantId]) -> Option<TenantId> {
    let is_full = |owner: &&TenantId| {
        tenancy.get(**owner).is_some_and(|tenant| tenant.is_above_its_limits())
            && tenancy.policy_of(**owner, default) == Policy::NoEviction
    };
    owners.iter().find(is_full).copied()
}

/// What is left of a limit for one value that comes packed, in bytes; where other keys go to make room for it, at least a
/// part of it all.
fn room_within(limit: u64, used: u64, policy: Policy) -> u64 {
    const PART: u64 = 4;
    match (limit, policy) {
        (0, _) => u64::MAX,
        (_, Policy::NoEviction) => limit.saturating_sub(used),
        _ => limit.saturating_sub(used).max(limit / PART),
    }
}

/// What one thread needs to evict keys.
pub struct Evictor {
    hunts: Vec<Hunt>,
    random: u64,
    /// Who gives back first, and for how many more keys that is not asked again.
    giver: Option<(TenantId, u32)>,
    /// The moment at which this owner was asked about, and whether it may not grow.
    beyond: Option<(UnixMillis, TenantId, bool)>,
}

impl Evictor {
    /// Hunts nobody yet.
    pub fn new() -> Evictor {
        Evictor { hunts: Vec::new(), random: crate::random::u64(), giver: None, beyond: None }
    }

    /// Makes room for what is claimed. The caller holds no shard.
    #[cold]
    pub fn make_room(&mut self, node: &Node, hot: &Hot, claim: &Claim<'_>, now: UnixMillis) -> Memory {
        let deadline = hot.eviction.time_max.map(|time| Instant::now() + time);
        if claim.tenancy.bounds_memory() {
            for owner in claim.all_owners() {
                if self.make_room_of(node, hot, claim.tenancy, owner, (now, deadline)) == Room::Nothing {
                    return Memory::OfTenant(owner);
                }
            }
        }
        match self.make_room_of_all(node, hot, claim, (now, deadline)) {
            Room::Nothing => Memory::Full,
            Room::Enough | Room::Working => Memory::Enough,
        }
    }

    /// Brings one owner back to its limit, and to what it may borrow.
    fn make_room_of(
        &mut self,
        node: &Node,
        hot: &Hot,
        tenancy: &Tenancy,
        owner: TenantId,
        (now, deadline): (UnixMillis, Option<Instant>),
    ) -> Room {
        let tenant = tenancy.get(owner);
        let policy = tenancy.policy_of(owner, hot.eviction.policy);
        let is_above = || tenant.is_some_and(|tenant| tenant.is_above_its_limits());
        let mut turns = 0;
        while is_above() || self.is_beyond(node, hot, tenancy, owner, now) {
            if !self.evict_one(node, hot, (owner, policy), now) {
                return if others_let_go(node, owner, policy) { Room::Working } else { Room::Nothing };
            }
            turns += 1;
            if is_over(turns, deadline) {
                return Room::Working;
            }
        }
        Room::Enough
    }

    /// Whether the owner keeps what others were promised. Known anew each millisecond.
    fn is_beyond(&mut self, node: &Node, hot: &Hot, tenancy: &Tenancy, owner: TenantId, now: UnixMillis) -> bool {
        let total = hot.memory_bytes_max;
        if total == 0 || tenancy.reserved_bytes() == 0 {
            return false;
        }
        match self.beyond {
            Some((at, known, false)) if at == now && known == owner => false,
            _ => {
                let shares = tenancy.shares(node.memory_bytes(), hot.eviction.policy);
                let beyond = is_beyond_what_is_free(shares, owner, total);
                self.beyond = Some((now, owner, beyond));
                beyond
            }
        }
    }

    /// Brings all data back to `maxmemory`. Whoever wants more than there is gives its own when nobody else has to.
    fn make_room_of_all(
        &mut self,
        node: &Node,
        hot: &Hot,
        claim: &Claim<'_>,
        (now, deadline): (UnixMillis, Option<Instant>),
    ) -> Room {
        let (limit, tenancy) = (hot.memory_bytes_max, claim.tenancy);
        let mut has_none: Vec<TenantId> = Vec::new();
        let mut turns = 0;
        while limit > 0 && node.memory_bytes() > limit {
            let owner = match self.giver {
                Some((owner, left)) if left > 0 && may_give(tenancy, owner) && !has_none.contains(&owner) => {
                    self.giver = Some((owner, left - 1));
                    owner
                }
                _ => {
                    let shares = tenancy.shares(node.memory_bytes(), hot.eviction.policy);
                    let first = gives_first(shares, |owner| has_none.contains(&owner));
                    self.giver = first.map(|owner| (owner, KEYS_PER_LOOK - 1));
                    let own = || claim.all_owners().find(|owner| !has_none.contains(owner));
                    let Some(owner) = first.or_else(own) else { return Room::Nothing };
                    owner
                }
            };
            let policy = tenancy.policy_of(owner, hot.eviction.policy);
            if !self.evict_one(node, hot, (owner, policy), now) {
                has_none.push(owner);
            }
            turns += 1;
            if is_over(turns, deadline) {
                return Room::Working;
            }
        }
        Room::Enough
    }

    /// Evicts a key of this owner: of this shard group if there is any, else of another one this node serves. False: there is
    /// none that may go.
    fn evict_one(&mut self, node: &Node, hot: &Hot, (owner, policy): (TenantId, Policy), now: UnixMillis) -> bool {
        if self.hunt(owner, node.group, now).evict_one(node, hot, policy, now) {
            return true;
        }
        let others = node.groups().iter().filter(|of| of.group != node.group && of.views.load().1.is_primary());
        for of in others {
            if self.hunt(owner, of.group, now).evict_one(of, hot, policy, now) {
                return true;
            }
        }
        false
    }

    fn hunt(&mut self, owner: TenantId, group: GroupId, now: UnixMillis) -> &mut Hunt {
        if let Some(at) = self.hunts.iter().position(|hunt| hunt.owner == owner && hunt.group == group) {
            return &mut self.hunts[at];
        }
        if self.hunts.len() >= HUNTS_MAX
            && let Some(oldest) = (0..self.hunts.len()).min_by_key(|at| self.hunts[*at].used_at)
        {
            self.hunts.swap_remove(oldest);
        }
        self.random = self.random.wrapping_mul(0xd1b5_4a32_d192_ed03).wrapping_add(now as u64 | 1);
        self.hunts.push(Hunt::of(owner, group, self.random));
        self.hunts.last_mut().expect("one was just added")
    }

    /// The same for the upkeep thread, which must not come between the commands of a transaction.
    fn make_room_in_background(&mut self, node: &Node) -> Room {
        let lane = node.corridor.upkeep_lane();
        if !matches!(node.corridor.enter(lane), Entry::Entered | Entry::Beside(_)) {
            return Room::Enough;
        }
        let _in_lane = InLane::new(&node.corridor, lane);
        // Only the node that serves the data decides that a key is gone.
        let (_, view) = node.views.load();
        if !view.is_primary() {
            return Room::Enough;
        }
        let (hot, now) = (node.live.hot(), crate::node::now_ms());
        let moment = (now, hot.eviction.time_max.map(|time| Instant::now() + time));
        let limited = view
            .tenancy
            .iter()
            .filter(|tenant| tenant.is_above_its_limits() && tenant.limits.eviction != Some(Policy::NoEviction));
        for tenant in limited {
            if self.make_room_of(node, &hot, &view.tenancy, tenant.id, moment) == Room::Working {
                return Room::Working;
            }
        }
        self.make_room_of_all(node, &hot, &Claim { tenancy: &view.tenancy, writer: None, owners: &[] }, moment)
    }
}

/// Whether what is too much is of shard groups that other nodes serve, who let keys of this owner go as this one does: their
/// copies here follow.
fn others_let_go(node: &Node, owner: TenantId, policy: Policy) -> bool {
    let others = || node.groups().iter().filter(|of| !of.views.load().1.is_primary());
    let may_go = |space: &Keyspace| if policy.takes_any_key() { !space.is_empty() } else { space.expiring_len() > 0 };
    policy != Policy::NoEviction
        && others().any(|of| {
            let holds = |index| of.shards.with(index, |shard| shard.segments_of(owner).any(|(_, space)| may_go(space)));
            (0..of.shards.count()).any(holds)
        })
}

/// Whether this owner has more than it was promised.
fn may_give(tenancy: &Tenancy, owner: TenantId) -> bool {
    tenancy.get(owner).is_none_or(|tenant| tenant.gauge.bytes() > tenant.limits.reserve)
}

fn is_over(turns: u32, deadline: Option<Instant>) -> bool {
    turns.is_multiple_of(KEYS_PER_LOOK) && deadline.is_some_and(|deadline| Instant::now() >= deadline)
}

impl Default for Evictor {
    fn default() -> Evictor {
        Evictor::new()
    }
}

/// How long it is until the next beat. Whoever looks now and then and has time looks on the beat, so that a thread wakes once
/// for all of them: waking takes more time than a look, and what another thread had in its caches goes.
pub(crate) fn until_beat(period: Duration) -> Duration {
    let period_ms = u64::try_from(period.as_millis()).unwrap_or(u64::MAX).max(1);
    Duration::from_millis(period_ms - boot_ms() % period_ms)
}

/// Counts what is used exactly, and makes room where commands do not, until the node stops.
pub async fn watch(node: Arc<Node>) {
    let mut evictor = Evictor::new();
    let mut huge_pages = false;
    loop {
        let used = node.shards.count_used_bytes();
        node.shards.forget_tracked_of_those_who_left();
        node.shards.tracking.give_up(Instant::now());
        if !huge_pages && used > HUGE_PAGES_BYTES_MIN {
            huge_pages = true;
            set_huge_pages(true);
        }
        while (0..TURNS).all(|_| evictor.make_room_in_background(&node) == Room::Working) {
            tokio::time::sleep(PAUSE).await;
        }
        tokio::time::sleep(until_beat(TICK)).await;
    }
}
