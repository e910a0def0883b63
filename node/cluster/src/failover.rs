//! Who takes over when a primary fails: decided by the leader, from what it has heard, and committed like every change.
//!
//! ```text
//!   primary silent ─► seal those in sync: they take nothing of the old epoch any more, and say where they stand
//!                  ─► the one with the highest position is proposed, in sync with the others that were sealed
//!   all memories lost ─► all have reported, or the wait is over ─► the newest snapshot is proposed
//! ```
//! One sealed member is enough: an old primary that is still alive needs all of those in sync to acknowledge a write, and
//! can no more get that than drop the sealed one from the set, since of the two entries only the first counts. A primary
//! whose every copy is out of reach stays primary: nothing here ever gives up an acknowledged write.
//!
//! The caller brings time, in milliseconds of a steady clock, and carries out what is asked.

use std::collections::{BTreeMap, BTreeSet};

use crate::{Change, Epoch, FailoverReason, GroupId, Incarnation, Member, NodeId, ShardGroup, State};

/// How patient the leader is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// A primary that was silent for so long is replaced.
    pub dead_after_ms: u64,
    /// Those in sync have so long to answer before the others go on without them.
    pub seal_wait_ms: u64,
    /// Between two tries of the same.
    pub retry_ms: u64,
    /// The same after one that was not taken: a leader is not heeded before a quorum has answered it.
    pub retry_unheeded_ms: u64,
    /// After all memories were lost: how long nodes are waited for that have not reported.
    pub cold_start_wait_ms: u64,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            dead_after_ms: 1000,
            seal_wait_ms: 250,
            retry_ms: 500,
            retry_unheeded_ms: 25,
            cold_start_wait_ms: 15_000,
        }
    }
}

/// Where a node stands with the data of a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stand {
    /// The epoch of the last effect it has.
    pub epoch: Epoch,
    /// The position of the last effect it has.
    pub position: u64,
    /// What it has in memory is the data of that position.
    pub has_data: bool,
    /// Epoch and position of the newest snapshot on its disk.
    pub snapshot: Option<(Epoch, u64)>,
    /// For so long the old primary may still count on it to answer reads.
    pub promised_ms: u64,
    /// It takes nothing of an epoch before this one.
    pub sealed: Epoch,
}

impl Stand {
    /// What opening this node would bring back.
    fn worth(&self) -> Option<(Epoch, u64)> {
        let memory = self.has_data.then_some((self.epoch, self.position));
        memory.max(self.snapshot)
    }
}

/// What the leader has heard from a node in its reign.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Which process of the node it was.
    pub incarnation: Incarnation,
    /// When, last.
    pub at: u64,
    /// Since then it was found that no process listens at the node's address.
    pub gone: bool,
    /// Where it stood.
    pub stands: BTreeMap<GroupId, Stand>,
}

/// What the caller is to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Act {
    /// Have these take nothing of an epoch before this one, and report what they answer.
    Seal {
        /// The group.
        group: GroupId,
        /// The first epoch that still counts.
        epoch: Epoch,
        /// Whom to ask.
        members: Vec<Member>,
    },
    /// Have this committed.
    Propose(Change),
    /// Tell the operator, for there is nothing to do.
    Say(GroupId, String),
}

/// The leader's memory of what it is doing, for one reign.
#[derive(Clone, Debug)]
pub struct Driver {
    patience: Patience,
    since: u64,
    /// When processes were last heard from before this reign, by whoever leads now.
    heard_before: BTreeMap<Member, u64>,
    /// Who leads: of two that are as good, the other one serves, so that one crash does not cost both.
    leader: Option<NodeId>,
    groups: BTreeMap<GroupId, Stage>,
}

#[derive(Clone, Debug)]
enum Stage {
    /// Those in sync are being sealed for `epoch`.
    Sealing { epoch: Epoch, since: u64, asked_at: u64, sealed: BTreeMap<Member, Sealed>, proposed_at: Option<u64> },
    /// All memories are lost.
    Cold { epoch: Epoch, since: u64, proposed_at: Option<u64> },
    /// The primary lives, but a leader that is gone had sealed members against it: it goes on in the next epoch.
    Resuming { epoch: Epoch, proposed_at: u64 },
    /// There is nothing to do but to say so.
    Stuck { epoch: Epoch },
}

#[derive(Clone, Copy, Debug)]
struct Sealed {
    stand: Stand,
    at: u64,
}

impl Driver {
    /// For a reign that began at `now`.
    pub fn new(now: u64, patience: Patience) -> Self {
        Self { patience, since: now, heard_before: BTreeMap::new(), leader: None, groups: BTreeMap::new() }
    }

    /// The same, of a reign of `leader`.
    pub fn led_by(self, leader: NodeId) -> Self {
        Self { leader: Some(leader), ..self }
    }

    /// The leader itself last heard from a process then, other than by a renewal: its silence did not begin with the reign.
    pub fn heard_before(&mut self, member: Member, at: u64) {
        self.heard_before.insert(member, at);
    }

    /// This process stood still until now: whoever spoke meanwhile has not been heard yet, so silence counts from here.
    pub fn stood_still(&mut self, now: u64) {
        self.since = now;
        self.heard_before.clear();
    }

    /// How long a process has been silent in this reign.
    pub fn silent_ms(&self, now: u64, member: Member, seen: &BTreeMap<NodeId, Seen>) -> u64 {
        let heard = seen.get(&member.node).filter(|seen| seen.incarnation == member.incarnation);
        let since = self.heard_before.get(&member).map_or(self.since, |at| self.since.min(*at));
        now.saturating_sub(heard.map_or(since, |seen| seen.at.max(since)))
    }

    fn is_dead(&self, now: u64, member: Member, seen: &BTreeMap<NodeId, Seen>) -> bool {
        let gone = seen.get(&member.node).is_some_and(|seen| seen.gone);
        gone || self.silent_ms(now, member, seen) >= self.patience.dead_after_ms
    }

    /// Looks at every group; to be called often.
    pub fn look(&mut self, now: u64, state: &State, seen: &BTreeMap<NodeId, Seen>) -> Vec<Act> {
        let mut acts = Vec::new();
        for group in state.groups().values() {
            acts.extend(self.look_at(now, state, group, seen));
        }
        acts
    }

    fn look_at(&mut self, now: u64, state: &State, group: &ShardGroup, seen: &BTreeMap<NodeId, Seen>) -> Option<Act> {
        let dead = group.primary.is_some_and(|primary| self.is_dead(now, primary, seen));
        let begun = matches!(self.groups.get(&group.id), Some(Stage::Sealing { epoch, sealed, .. })
            if epoch.0 == group.epoch.0 + 1 && !sealed.is_empty());
        if group.primary.is_some() && !dead && !begun {
            return self.resume(now, group, seen);
        }
        if group.primary.is_none() && group.in_sync.is_empty() {
            return self.cold_start(now, state, group, seen);
        }
        let others: Vec<Member> = group.in_sync.iter().copied().filter(|one| Some(*one) != group.primary).collect();
        if others.is_empty() {
            return self.stuck(group, "its primary does not answer, and nobody else is in sync");
        }
        self.seal(now, group, &others)
    }

    /// It serves. If somebody was sealed against it all the same, by a leader that went no further, that one would refuse
    /// its effects for ever; the same primary in the next epoch is taken by everybody.
    fn resume(&mut self, now: u64, group: &ShardGroup, seen: &BTreeMap<NodeId, Seen>) -> Option<Act> {
        let sealed = |seen: &Seen| seen.stands.get(&group.id).is_some_and(|stand| stand.sealed > group.epoch);
        // Named anew is only who was heard from: of one that has not spoken in this reign, another process may be next.
        let heard =
            |primary: &Member| seen.get(&primary.node).is_some_and(|one| one.incarnation == primary.incarnation);
        let primary = group.primary.filter(heard).filter(|_| seen.values().any(sealed));
        let Some(primary) = primary else {
            self.groups.remove(&group.id);
            return None;
        };
        let waits = matches!(self.groups.get(&group.id), Some(Stage::Resuming { epoch, proposed_at })
            if *epoch == group.epoch && now.saturating_sub(*proposed_at) < self.patience.retry_ms);
        if waits {
            return None;
        }
        self.groups.insert(group.id, Stage::Resuming { epoch: group.epoch, proposed_at: now });
        Some(Act::Propose(Change::SetPrimary {
            group: group.id,
            primary,
            in_sync: group.in_sync.clone(),
            expect_epoch: group.epoch,
            reason: FailoverReason::Planned,
        }))
    }

    fn seal(&mut self, now: u64, group: &ShardGroup, others: &[Member]) -> Option<Act> {
        let next = Epoch(group.epoch.0 + 1);
        let patience = self.patience;
        let fresh =
            Stage::Sealing { epoch: next, since: now, asked_at: now, sealed: BTreeMap::new(), proposed_at: None };
        let missing = |sealed: &BTreeMap<Member, Sealed>| -> Vec<Member> {
            others.iter().copied().filter(|one| !sealed.contains_key(one)).collect()
        };
        match self.groups.get_mut(&group.id) {
            Some(Stage::Sealing { epoch, since, asked_at, sealed, proposed_at }) if *epoch == next => {
                sealed.retain(|member, _| others.contains(member));
                let missing = missing(sealed);
                let ready = missing.is_empty() || now.saturating_sub(*since) >= patience.seal_wait_ms;
                let promised = sealed.values().map(|one| one.at + one.stand.promised_ms).max().unwrap_or(0);
                let waits = proposed_at.is_some_and(|at| now.saturating_sub(at) < patience.retry_ms);
                if ready
                    && now >= promised
                    && !waits
                    && let Some(change) = best(group, sealed, self.leader)
                {
                    *proposed_at = Some(now);
                    return Some(Act::Propose(change));
                }
                if missing.is_empty() || now.saturating_sub(*asked_at) < patience.seal_wait_ms {
                    return None;
                }
                *asked_at = now;
                Some(Act::Seal { group: group.id, epoch: next, members: missing })
            }
            _ => {
                self.groups.insert(group.id, fresh);
                Some(Act::Seal { group: group.id, epoch: next, members: others.to_vec() })
            }
        }
    }

    /// A member was sealed and says where it stands.
    pub fn sealed(&mut self, now: u64, group: GroupId, epoch: Epoch, member: Member, stand: Stand) {
        if let Some(Stage::Sealing { epoch: sealing, sealed, .. }) = self.groups.get_mut(&group)
            && *sealing == epoch
        {
            sealed.insert(member, Sealed { stand, at: now });
        }
    }

    /// What was proposed for a group last was not taken. Should it be committed all the same, the epoch refuses the next.
    pub fn unheeded(&mut self, now: u64, group: GroupId) {
        let patience = self.patience;
        let proposed_at = match self.groups.get_mut(&group) {
            Some(Stage::Sealing { proposed_at: Some(at), .. } | Stage::Cold { proposed_at: Some(at), .. }) => at,
            Some(Stage::Resuming { proposed_at, .. }) => proposed_at,
            _ => return,
        };
        // As if it had been so long ago that the next try is due soon.
        let spared = patience.retry_ms.saturating_sub(patience.retry_unheeded_ms);
        *proposed_at = (*proposed_at).min(now.saturating_sub(spared));
    }

    fn cold_start(
        &mut self,
        now: u64,
        state: &State,
        group: &ShardGroup,
        seen: &BTreeMap<NodeId, Seen>,
    ) -> Option<Act> {
        if !matches!(self.groups.get(&group.id), Some(Stage::Cold { epoch, .. }) if *epoch == group.epoch) {
            self.groups.insert(group.id, Stage::Cold { epoch: group.epoch, since: now, proposed_at: None });
        }
        let Some(Stage::Cold { since, proposed_at, .. }) = self.groups.get_mut(&group.id) else { return None };
        let registered: BTreeSet<Member> = state.nodes().values().map(|node| node.member()).collect();
        let mut reported: Vec<(Member, Stand)> = Vec::new();
        for member in &registered {
            let heard = seen.get(&member.node).filter(|seen| seen.incarnation == member.incarnation);
            let fresh = heard.filter(|seen| now.saturating_sub(seen.at) < self.patience.dead_after_ms * 2);
            if let Some(stand) = fresh.and_then(|seen| seen.stands.get(&group.id)) {
                reported.push((*member, *stand));
            }
        }
        let over = now.saturating_sub(*since) >= self.patience.cold_start_wait_ms;
        let all = reported.len() == registered.len();
        let lowest_first = reported.iter().rev();
        let (best, stand) = lowest_first.max_by_key(|(_, stand)| stand.worth())?;
        let waits = proposed_at.is_some_and(|at| now.saturating_sub(at) < self.patience.retry_ms);
        // What still reads its snapshot is waited for: its memory may turn out worth nothing.
        if waits || !(over || all && stand.has_data) {
            return None;
        }
        *proposed_at = Some(now);
        Some(Act::Propose(Change::SetPrimary {
            group: group.id,
            primary: *best,
            in_sync: BTreeSet::from([*best]),
            expect_epoch: group.epoch,
            reason: FailoverReason::ColdStart,
        }))
    }

    fn stuck(&mut self, group: &ShardGroup, why: &str) -> Option<Act> {
        let told = matches!(self.groups.get(&group.id), Some(Stage::Stuck { epoch }) if *epoch == group.epoch);
        self.groups.insert(group.id, Stage::Stuck { epoch: group.epoch });
        (!told).then(|| Act::Say(group.id, why.to_owned()))
    }
}

/// Between two questions to one process. A process that stands still is connected to at once, and tells nothing by it.
const PROBE_EVERY_MS: u64 = 50;

/// Of which silent primaries it is being found out whether their process still listens. It must not be done by the one that is
/// asked about, nor as fast as answers come.
#[derive(Clone, Debug, Default)]
pub struct Probes {
    /// Who is being asked.
    open: BTreeSet<Member>,
    /// When they were asked last.
    asked_at: BTreeMap<Member, u64>,
}

impl Probes {
    /// Whether `me` is to ask now; if so, [`Self::answered`] follows.
    pub fn begin(&mut self, now: u64, me: Option<NodeId>, primary: Member) -> bool {
        let rests = self.asked_at.get(&primary).is_some_and(|at| now < at + PROBE_EVERY_MS);
        if Some(primary.node) == me || rests || !self.open.insert(primary) {
            return false;
        }
        self.asked_at.retain(|member, _| member.node != primary.node);
        self.asked_at.insert(primary, now);
        true
    }

    /// The question is over.
    pub fn answered(&mut self, primary: Member) {
        self.open.remove(&primary);
    }
}

/// The one to propose among those that were sealed: the highest position; of equals one that does not lead, and the lowest id.
fn best(group: &ShardGroup, sealed: &BTreeMap<Member, Sealed>, leader: Option<NodeId>) -> Option<Change> {
    let usable = sealed.iter().filter(|(_, one)| one.stand.has_data);
    let in_sync: BTreeSet<Member> = usable.clone().map(|(member, _)| *member).collect();
    let position = |one: &Sealed| (one.stand.epoch, one.stand.position);
    let (primary, _) = usable.rev().max_by_key(|(member, one)| (position(one), Some(member.node) != leader))?;
    Some(Change::SetPrimary {
        group: group.id,
        primary: *primary,
        in_sync,
        expect_epoch: group.epoch,
        reason: FailoverReason::Failed,
    })
}

#[cfg(test)]
mod tests;
