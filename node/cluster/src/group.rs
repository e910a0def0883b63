//! Shard groups: who serves which slots, who has every acknowledged write, and the few ways that may change.
//!
//! ```text
//!            SetPrimary (epoch + 1)                 ChangeInSync (same epoch)
//!   vacant ─────────────────────────► primary P ◄──────────────────────────┐
//!     ▲                               in sync {P, …} ──────────────────────┘
//!     └── P's process ended, seen by the StartNode of its next one; or P's node was removed
//! ```
//! A process that ended leaves every set it was in, and only a `SetPrimary` ever names a primary: nobody serves because
//! it once did. What is not known here: positions, leases, and whether anybody is alive.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use crate::{Epoch, GroupId, Incarnation, Member, NodeId, Outcome, Refusal, SlotRange, State, UnixMillis};

/// Shard groups of a cluster at most.
pub const GROUPS_MAX: u32 = 16;

/// How many slots there are.
pub(crate) const SLOTS: u32 = 16384;

/// A set of slots, who serves it, and since which reign. Together the groups of a cluster hold every slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardGroup {
    /// Its id.
    pub id: GroupId,
    /// Its slots, in order, as few ranges as can be.
    pub slots: Vec<SlotRange>,
    /// Which reign this is.
    pub epoch: Epoch,
    /// Who serves it; `None` while nobody does.
    pub primary: Option<Member>,
    /// Who has every acknowledged write.
    pub in_sync: BTreeSet<Member>,
    /// Grows with every change of that set.
    pub in_sync_version: u64,
    /// The nodes of the cluster that were in sync at some time: one that has just joined cannot be missed yet.
    pub copies: BTreeSet<NodeId>,
    /// With how many nodes the cluster was formed, or fewer if nodes were removed since.
    pub formed_with: u32,
    /// The last time somebody was named primary, apart from the founding.
    pub last_failover: Option<Failover>,
}

/// Somebody was named primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failover {
    /// The entry.
    pub index: u64,
    /// The proposer's clock.
    pub at: UnixMillis,
    /// Who was primary before; `None` if nobody was any more.
    pub from: Option<Member>,
    /// Who is since.
    pub to: Member,
    /// Why.
    pub reason: FailoverReason,
}

/// Why somebody was named primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailoverReason {
    /// The old primary handed over; nothing is lost.
    Planned = 1,
    /// The old primary failed; the best of those in sync took over.
    Failed = 2,
    /// Every memory was lost; the newest snapshot opened.
    ColdStart = 3,
    /// An operator named somebody who was not in sync: acknowledged writes may be lost.
    Unclean = 4,
}

impl FailoverReason {
    /// The reason of this number; `None` if there is none.
    pub fn from_number(number: u32) -> Option<Self> {
        [Self::Planned, Self::Failed, Self::ColdStart, Self::Unclean]
            .into_iter()
            .find(|reason| *reason as u32 == number)
    }
}

impl fmt::Display for FailoverReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Planned => "planned",
            Self::Failed => "failed",
            Self::ColdStart => "cold start",
            Self::Unclean => "unclean",
        })
    }
}

impl ShardGroup {
    /// So many groups with as many slots each as can be, all served by `founder`, of a cluster of so many nodes.
    pub(crate) fn founded(count: u32, nodes: u32, founder: Member) -> impl Iterator<Item = ShardGroup> {
        let count = count.clamp(1, GROUPS_MAX);
        let begin = move |id: u32| (id * SLOTS / count) as u16;
        (0..count).map(move |id| ShardGroup {
            id: GroupId(id),
            slots: vec![(begin(id), begin(id + 1) - 1)],
            epoch: Epoch(1),
            primary: Some(founder),
            in_sync: BTreeSet::from([founder]),
            in_sync_version: 1,
            copies: BTreeSet::from([founder.node]),
            formed_with: nodes,
            last_failover: None,
        })
    }

    /// More than half of the nodes that are to have a copy.
    pub fn majority(&self) -> usize {
        self.copies.len().max(self.formed_with as usize) / 2 + 1
    }

    fn set_in_sync(&mut self, in_sync: &BTreeSet<Member>) {
        self.in_sync = in_sync.clone();
        self.in_sync_version += 1;
        self.copies.extend(in_sync.iter().map(|member| member.node));
    }

    /// Every process of `node` leaves, except `current`: it neither counts as a copy nor serves any more. True: it served.
    fn withdraw(&mut self, node: NodeId, current: Option<Incarnation>) -> bool {
        let gone = |member: &Member| member.node == node && Some(member.incarnation) != current;
        let before = self.in_sync.len();
        self.in_sync.retain(|member| !gone(member));
        if self.in_sync.len() != before {
            self.in_sync_version += 1;
        }
        let served = self.primary.as_ref().is_some_and(gone);
        if served {
            self.primary = None;
        }
        served
    }
}

impl ShardGroup {
    /// Whether these may be in sync next. The decision was made on an older state: whoever the old primary has dropped
    /// from the set since may lack what it acknowledged without them.
    fn may_follow(&self, reason: FailoverReason, in_sync: &BTreeSet<Member>) -> Result<(), Refusal> {
        match reason {
            FailoverReason::Planned | FailoverReason::Failed => {
                let stranger = in_sync.iter().find(|member| !self.in_sync.contains(member));
                stranger.map_or(Ok(()), |member| Err(Refusal::NotInSync(*member)))
            }
            FailoverReason::ColdStart if self.primary.is_some() || !self.in_sync.is_empty() => {
                Err(Refusal::NotCold(self.id))
            }
            FailoverReason::ColdStart | FailoverReason::Unclean => Ok(()),
        }
    }
}

impl State {
    /// Every process of a node that left the registry leaves the groups.
    pub(crate) fn withdraw(&mut self, node: NodeId) {
        let nodes = self.nodes.len() as u32;
        self.withdraw_all(node, None);
        for group in Arc::make_mut(&mut self.groups).values_mut() {
            group.copies.remove(&node);
            group.formed_with = group.formed_with.min(nodes);
        }
    }

    fn withdraw_all(&mut self, node: NodeId, current: Option<Incarnation>) {
        let groups = Arc::make_mut(&mut self.groups).values_mut();
        let left: Vec<GroupId> = groups.filter_map(|group| group.withdraw(node, current).then_some(group.id)).collect();
        left.into_iter().for_each(|group| self.primary_changed(group));
    }

    pub(crate) fn start_node(&mut self, index: u64, node: NodeId, token: u64) -> Outcome {
        let Some(info) = Arc::make_mut(&mut self.nodes).get_mut(&node) else {
            return Outcome::Refused(Refusal::UnknownNode(node));
        };
        if info.start_token == token {
            return Outcome::Unchanged;
        }
        let first = info.start_token == 0;
        info.start_token = token;
        if first {
            // Nobody has acted under the incarnation of the registration.
            return Outcome::Done;
        }
        info.incarnation = Incarnation(index);
        let current = Some(info.incarnation);
        self.withdraw_all(node, current);
        Outcome::Done
    }

    pub(crate) fn change_in_sync(
        &mut self,
        group: GroupId,
        expect_epoch: Epoch,
        expect_version: u64,
        in_sync: &BTreeSet<Member>,
    ) -> Outcome {
        if let Err(refusal) = self.check_members(group, expect_epoch, in_sync) {
            return Outcome::Refused(refusal);
        }
        let Some(group) = Arc::make_mut(&mut self.groups).get_mut(&group) else {
            return Outcome::Refused(Refusal::UnknownGroup(group));
        };
        if group.in_sync_version != expect_version {
            return Outcome::Refused(Refusal::StaleVersion(group.in_sync_version));
        }
        if !group.primary.is_some_and(|primary| in_sync.contains(&primary)) {
            return Outcome::Refused(Refusal::PrimaryNotInSync(group.id));
        }
        if group.in_sync == *in_sync {
            return Outcome::Unchanged;
        }
        group.set_in_sync(in_sync);
        Outcome::Done
    }

    pub(crate) fn set_primary(
        &mut self,
        group: GroupId,
        named: Failover,
        in_sync: &BTreeSet<Member>,
        expect_epoch: Epoch,
    ) -> Outcome {
        if let Err(refusal) = self.check_members(group, expect_epoch, in_sync) {
            return Outcome::Refused(refusal);
        }
        if !in_sync.contains(&named.to) {
            return Outcome::Refused(Refusal::PrimaryNotInSync(group));
        }
        let Some(group) = Arc::make_mut(&mut self.groups).get_mut(&group) else {
            return Outcome::Refused(Refusal::UnknownGroup(group));
        };
        if let Err(refusal) = group.may_follow(named.reason, in_sync) {
            return Outcome::Refused(refusal);
        }
        let at = named.at;
        group.last_failover = Some(Failover { from: group.primary, ..named });
        group.primary = Some(named.to);
        group.epoch = Epoch(group.epoch.0 + 1);
        group.set_in_sync(in_sync);
        let id = group.id;
        self.primary_changed(id);
        self.pursue(at);
        Outcome::Done
    }

    /// What every decision about a group must satisfy: based on the epoch that is, and about processes that are.
    fn check_members(&self, group: GroupId, expect_epoch: Epoch, members: &BTreeSet<Member>) -> Result<(), Refusal> {
        let group = self.groups.get(&group).ok_or(Refusal::UnknownGroup(group))?;
        if group.epoch != expect_epoch {
            return Err(Refusal::StaleEpoch(group.epoch));
        }
        match members.iter().find(|member| !self.is_current(**member)) {
            Some(stale) => Err(Refusal::StaleMember(*stale)),
            None => Ok(()),
        }
    }
}
