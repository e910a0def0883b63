//! The lease: how a change of users is in force everywhere when its answer comes, although nodes may be out of reach.
//!
//! ```text
//!   node                                       leader
//!   sent_at ── renew ─────────────────────────► received_at
//!                                               a quorum confirms that it leads; what is committed now is `must_apply`
//!   holds until sent_at + T(1 - e) ◄── grant ── fears until received_at + T(1 + 2e)
//! ```
//! A node serves while it holds. A change at entry R is answered when each node has applied R or is no longer feared:
//! grants after R was committed demand that R is applied, so only those before it are counted. A new leader knows of no
//! grants, and fears every node until its own first T(1 + 2e) is over.
//!
//! Times are milliseconds of a clock of the node they are of, which must not stop while the machine sleeps. The rates of
//! two clocks may differ by [`CLOCK_TOLERANCE_PERCENT`]. Nothing here reads a clock.

use std::collections::{BTreeMap, VecDeque};

use crate::{Incarnation, NodeId};

/// How far two clocks may run apart: e, in percent. Real ones differ by thousandths of that.
pub const CLOCK_TOLERANCE_PERCENT: u64 = 5;

/// Grants under way to one node at most; a node renews a few times in the time of one.
const PENDING_MAX: usize = 16;

/// How long a node that was told to stop serving gets no lease, should nothing come of the reason.
const WITHHELD_MS: u64 = 10_000;

/// How long a node holds a lease of `ttl_ms`, from when it sent the request.
pub fn held_ms(ttl_ms: u64) -> u64 {
    ttl_ms - ttl_ms * CLOCK_TOLERANCE_PERCENT / 100
}

/// How long a leader fears that a node holds one, from when it received the request.
pub fn feared_ms(ttl_ms: u64) -> u64 {
    ttl_ms + ttl_ms * CLOCK_TOLERANCE_PERCENT * 2 / 100
}

/// What a leader gives for a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// How long, from when the request was sent.
    pub ttl_ms: u64,
    /// Only for a node that has applied this.
    pub must_apply: u64,
}

/// A node's own lease.
#[derive(Clone, Debug, Default)]
pub struct HeldLease {
    until: u64,
    applied: u64,
    /// Not in force before more is applied: until when, and what.
    pending: VecDeque<(u64, u64)>,
    /// Requests before this moment count for nothing any more.
    given_up_at: Option<u64>,
}

impl HeldLease {
    /// The answer to a request that was sent at `sent_at`.
    pub fn granted(&mut self, sent_at: u64, grant: Grant) {
        if self.given_up_at.is_some_and(|given_up_at| sent_at <= given_up_at) {
            return;
        }
        self.given_up_at = None;
        if self.pending.len() >= PENDING_MAX {
            self.pending.pop_front();
        }
        self.pending.push_back((sent_at.saturating_add(held_ms(grant.ttl_ms)), grant.must_apply));
        self.settle();
    }

    /// This node has applied `index`.
    pub fn applied(&mut self, index: u64) {
        self.applied = self.applied.max(index);
        self.settle();
    }

    fn settle(&mut self) {
        let (applied, until) = (self.applied, &mut self.until);
        self.pending.retain(|(granted_until, must_apply)| {
            let in_force = *must_apply <= applied;
            if in_force {
                *until = (*until).max(*granted_until);
            }
            !in_force
        });
    }

    /// Ends it at once, with everything that is under way.
    pub fn give_up(&mut self, now: u64) {
        self.until = 0;
        self.pending.clear();
        self.given_up_at = Some(now);
    }

    /// It gave up its lease and has got none since.
    pub fn is_given_up(&self) -> bool {
        self.given_up_at.is_some()
    }

    /// Serve only before this moment.
    pub fn until(&self) -> u64 {
        self.until
    }
}

/// What a leader must think of a node, with regard to one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It has applied the entry.
    Applied,
    /// It has not, and serves nobody.
    Over,
    /// It may serve without having applied it, until this moment at the latest.
    FearedUntil(u64),
}

/// What a leader knows of the leases of its reign.
#[derive(Clone, Debug)]
pub struct Grants {
    ttl_ms: u64,
    since: u64,
    nodes: BTreeMap<NodeId, Known>,
}

#[derive(Clone, Debug, Default)]
struct Known {
    /// When a renewal was received, and what its grant demanded. Oldest first.
    grants: VecDeque<(u64, u64)>,
    applied: Option<(Incarnation, u64)>,
    /// Gave up its lease and got none since: what was feared of earlier reigns is over as well.
    given_up: bool,
    /// Gets none before this moment.
    withheld_until: u64,
}

impl Grants {
    /// A reign that began at `now`, or before.
    pub fn new(now: u64, ttl_ms: u64) -> Self {
        Self { ttl_ms, since: now, nodes: BTreeMap::new() }
    }

    /// Answers a renewal that was received at `received_at`. The caller has confirmed since then, with a quorum, that it
    /// leads, and that the node is registered; `must_apply` is what was committed when it did. `None`: it gets none.
    pub fn grant(&mut self, node: NodeId, received_at: u64, must_apply: u64) -> Option<Grant> {
        let (ttl_ms, feared) = (self.ttl_ms, feared_ms(self.ttl_ms));
        let known = self.nodes.entry(node).or_default();
        if received_at < known.withheld_until {
            return None;
        }
        known.given_up = false;
        while known.grants.front().is_some_and(|(at, _)| at + feared < received_at) {
            known.grants.pop_front();
        }
        match known.grants.back_mut() {
            // Only the latest of those that demand the same matters.
            Some((at, demanded)) if *demanded == must_apply => *at = (*at).max(received_at),
            _ => known.grants.push_back((received_at, must_apply)),
        }
        Some(Grant { ttl_ms, must_apply })
    }

    /// A process of `node` says that it has applied `index`.
    pub fn applied(&mut self, node: NodeId, incarnation: Incarnation, index: u64) {
        let known = self.nodes.entry(node).or_default();
        let before = known.applied.filter(|(of, _)| *of == incarnation).map_or(0, |(_, before)| before);
        known.applied = Some((incarnation, before.max(index)));
    }

    /// No more grants for a node that is to leave.
    pub fn withhold(&mut self, node: NodeId, now: u64) {
        self.nodes.entry(node).or_default().withheld_until = now + WITHHELD_MS;
    }

    /// It is not to leave after all.
    pub fn withhold_no_more(&mut self, node: NodeId) {
        self.nodes.entry(node).or_default().withheld_until = 0;
    }

    /// Whether the node gets no grants for now.
    pub fn is_withheld(&self, node: NodeId, now: u64) -> bool {
        self.nodes.get(&node).is_some_and(|known| now < known.withheld_until)
    }

    /// The node says that it gave up its lease, and whatever was under way to it.
    pub fn given_up(&mut self, node: NodeId) {
        let known = self.nodes.entry(node).or_default();
        known.grants.clear();
        known.given_up = true;
    }

    /// What to think of `node` with regard to the entry `index`, which is committed. An entry nobody can have applied,
    /// such as the largest, asks whether it holds any lease at all.
    pub fn standing(&self, node: NodeId, index: u64, now: u64) -> Standing {
        let known = self.nodes.get(&node);
        if known.and_then(|known| known.applied).is_some_and(|(_, applied)| applied >= index) {
            return Standing::Applied;
        }
        let of_this_reign = known.into_iter().flat_map(|known| &known.grants);
        let counted = of_this_reign.filter(|(_, must_apply)| *must_apply < index).map(|(at, _)| *at);
        let of_earlier_reigns = (!known.is_some_and(|known| known.given_up)).then_some(self.since);
        let last = counted.chain(of_earlier_reigns).max();
        match last.map(|at| at + feared_ms(self.ttl_ms)).filter(|until| now < *until) {
            Some(until) => Standing::FearedUntil(until),
            None => Standing::Over,
        }
    }

    /// How long a node may hold a lease from now on at most, as far as this reign granted it one.
    pub fn left_ms(&self, node: NodeId, now: u64) -> u64 {
        let last = self.nodes.get(&node).and_then(|known| known.grants.back());
        last.map_or(0, |(at, _)| (at + self.ttl_ms).saturating_sub(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const N: NodeId = NodeId(3);

    fn grant(must_apply: u64) -> Grant {
        Grant { ttl_ms: 5000, must_apply }
    }

    #[test]
    fn a_lease_runs_from_when_it_was_asked_for() {
        let mut held = HeldLease::default();
        held.granted(1000, grant(0));
        assert_eq!(held.until(), 5750);
        held.granted(900, grant(0));
        assert_eq!(held.until(), 5750, "an answer that was overtaken shortens nothing");
    }

    #[test]
    fn a_grant_is_in_force_once_its_entry_is_applied() {
        let mut held = HeldLease::default();
        held.granted(1000, grant(7));
        assert_eq!(held.until(), 0);
        held.applied(6);
        assert_eq!(held.until(), 0);
        held.applied(7);
        assert_eq!(held.until(), 5750);
    }

    #[test]
    fn what_was_given_up_is_over_and_so_is_what_was_under_way() {
        let mut held = HeldLease::default();
        held.granted(1000, grant(0));
        held.give_up(2000);
        held.granted(1900, grant(0));
        assert_eq!((held.until(), held.is_given_up()), (0, true));
        held.granted(2100, grant(0));
        assert_eq!((held.until(), held.is_given_up()), (6850, false));
    }

    #[test]
    fn a_node_is_feared_until_it_has_applied_or_its_last_older_grant_is_over() {
        let mut grants = Grants::new(0, 5000);
        grants.grant(N, 10_000, 4);
        grants.grant(N, 10_250, 4);
        grants.grant(N, 10_500, 9);
        assert_eq!(grants.standing(N, 9, 10_600), Standing::FearedUntil(15_750));
        assert_eq!(grants.standing(N, 10, 10_600), Standing::FearedUntil(16_000));
        assert_eq!(grants.standing(N, 9, 15_750), Standing::Over);
        grants.applied(N, Incarnation(1), 9);
        assert_eq!(grants.standing(N, 9, 10_600), Standing::Applied);
    }

    #[test]
    fn a_new_leader_fears_everybody() {
        let mut grants = Grants::new(1000, 5000);
        assert_eq!(grants.standing(N, 2, 1000), Standing::FearedUntil(6500));
        grants.grant(N, 1100, 2);
        assert_eq!(
            grants.standing(N, 2, 1200),
            Standing::FearedUntil(6500),
            "its grants tell nothing about older ones"
        );
        grants.given_up(N);
        assert_eq!(grants.standing(N, 2, 1200), Standing::Over);
    }

    #[test]
    fn who_is_to_leave_gets_nothing_more() {
        let mut grants = Grants::new(0, 5000);
        grants.withhold(N, 100);
        assert_eq!(grants.grant(N, 200, 1), None);
        grants.withhold_no_more(N);
        assert!(grants.grant(N, 200, 1).is_some());
    }
}
