//! Keys on their way from one shard group to another: slots, or all of a namespace. One move at a time.
//!
//! ```text
//!   Begin ─► copying ── Switch ──► dropping what the old group still has ── End ──► done
//!               └────── Abort, or another primary of either group ──► dropping what the new group got ── End ──► done, failed
//! ```
//! Until `Switch` the old group holds the keys, from then on the new one; no entry makes both do it. Whoever copies sees to it
//! that the old primary has stopped answering for them before it proposes `Switch`, and of `Switch` and `Abort` only the first
//! counts. Another primary of either group knows nothing of that, so the move ends with it. What is not known here: keys.

use std::fmt;
use std::sync::Arc;

use crate::group::SLOTS;
use crate::{GroupId, Outcome, Refusal, State, TenantNumber, UnixMillis};

/// First and last slot, both included.
pub type SlotRange = (u16, u16);

/// What is moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Moved {
    /// Every key of these slots, but for namespaces that one group holds as a whole.
    Slots(SlotRange),
    /// Every key of this namespace, which one group holds as a whole.
    Namespace(TenantNumber),
}

impl fmt::Display for Moved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Slots((first, last)) if first == last => write!(f, "slot {first}"),
            Self::Slots((first, last)) => write!(f, "slots {first}-{last}"),
            Self::Namespace(number) => write!(f, "namespace {}", number.0),
        }
    }
}

/// How far a move is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MovePhase {
    /// The new group gets a copy, which nobody sees.
    Copying,
    /// This group still has keys that the other one holds now: they are removed.
    Dropping(GroupId),
    /// It is over.
    Done,
}

/// A move, or the last one there was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// The entry that began it.
    pub index: u64,
    /// The proposer's clock then.
    pub at: UnixMillis,
    /// What is moved.
    pub what: Moved,
    /// The group that had it.
    pub from: GroupId,
    /// The group that is to have it.
    pub to: GroupId,
    /// How far it is.
    pub phase: MovePhase,
    /// Why it came to nothing, if it did.
    pub failed: Option<String>,
}

/// A step of a move.
#[derive(Clone, Debug, PartialEq)]
pub enum MoveChange {
    /// An operator wants it.
    Begin {
        /// What.
        what: Moved,
        /// Where it is to be.
        to: GroupId,
    },
    /// The new group has everything, and the old one answers nothing about it any more.
    Switch {
        /// Which move.
        index: u64,
    },
    /// It comes to nothing.
    Abort {
        /// Which move; 0: the one there is.
        index: u64,
        /// Why.
        why: String,
    },
    /// Nothing is left where it must not be.
    End {
        /// Which move.
        index: u64,
    },
}

impl MoveChange {
    /// One line for the history.
    pub(crate) fn summary(&self) -> String {
        match self {
            Self::Begin { what, to } => format!("move {what} to group {}", to.0),
            Self::Switch { index } => format!("the keys of move {index} are at their new group"),
            Self::Abort { index, why } => format!("move {index} comes to nothing: {why}"),
            Self::End { index } => format!("move {index} is over"),
        }
    }
}

/// Whether a slot is in one of these.
pub fn holds(slots: &[SlotRange], slot: u16) -> bool {
    slots.iter().any(|(first, last)| (*first..=*last).contains(&slot))
}

/// `slots` without `range`.
fn without(slots: &[SlotRange], (first, last): SlotRange) -> Vec<SlotRange> {
    let parts = |(from, to): &SlotRange| {
        let before = (*from < first).then(|| (*from, (*to).min(first.wrapping_sub(1))));
        let behind = (*to > last).then(|| ((*from).max(last.wrapping_add(1)), *to));
        [before, behind].into_iter().flatten()
    };
    slots.iter().flat_map(parts).collect()
}

/// `slots` and `range`, in order, as few ranges as can be.
fn with(slots: &[SlotRange], range: SlotRange) -> Vec<SlotRange> {
    let mut all: Vec<SlotRange> = slots.iter().copied().chain([range]).collect();
    all.sort_unstable();
    let mut joined: Vec<SlotRange> = Vec::with_capacity(all.len());
    for (first, last) in all {
        match joined.last_mut() {
            Some((_, end)) if u32::from(first) <= u32::from(*end) + 1 => *end = (*end).max(last),
            _ => joined.push((first, last)),
        }
    }
    joined
}

fn refused(why: impl Into<String>) -> Outcome {
    Outcome::Refused(Refusal::Move(why.into()))
}

impl State {
    /// The move that is under way, or the last one.
    pub fn last_move(&self) -> Option<&Arc<Move>> {
        self.last_move.as_ref()
    }

    /// The move that is under way.
    pub fn current_move(&self) -> Option<&Arc<Move>> {
        self.last_move().filter(|known| known.phase != MovePhase::Done)
    }

    /// The entry since which keys belong to the groups they belong to.
    pub fn routes_changed_at(&self) -> u64 {
        self.routes_changed
    }

    pub(crate) fn change_move(&mut self, index: u64, at: UnixMillis, change: &MoveChange) -> Outcome {
        match change {
            MoveChange::Begin { what, to } => self.begin_move(index, at, what, *to),
            MoveChange::Switch { index } => self.switch_move(*index),
            MoveChange::Abort { index, why } => match self.move_at(*index) {
                Some(known) if known.phase == MovePhase::Copying => {
                    self.fail_move(why.clone());
                    Outcome::Done
                }
                Some(known) if known.failed.is_some() => Outcome::Unchanged,
                Some(_) => refused("the keys are at their new group already: move them back"),
                None => refused("no move is under way"),
            },
            MoveChange::End { index } => match self.move_at(*index) {
                Some(known) if matches!(known.phase, MovePhase::Dropping(_)) => {
                    self.set_move(Move { phase: MovePhase::Done, ..known });
                    Outcome::Done
                }
                _ => Outcome::Unchanged,
            },
        }
    }

    /// The move under way, if it is this one.
    fn move_at(&self, index: u64) -> Option<Move> {
        let known = self.current_move().filter(|known| index == 0 || known.index == index);
        known.map(|known| Move::clone(known))
    }

    fn set_move(&mut self, next: Move) {
        self.last_move = Some(Arc::new(next));
    }

    fn begin_move(&mut self, index: u64, at: UnixMillis, what: &Moved, to: GroupId) -> Outcome {
        if !self.groups.contains_key(&to) {
            return Outcome::Refused(Refusal::UnknownGroup(to));
        }
        if let Some(known) = self.current_move() {
            return refused(format!("the move of {} to group {} is not over yet", known.what, known.to.0));
        }
        let from = match what {
            Moved::Slots((first, last)) if first > last || u32::from(*last) >= SLOTS => {
                return refused(format!("slots are numbered from 0 to {}", SLOTS - 1));
            }
            Moved::Slots((first, last)) => {
                let whole = |range: &&SlotRange| range.0 <= *first && *last <= range.1;
                let holds_all = |slots: &[SlotRange]| slots.iter().any(|range| whole(&range));
                match self.groups.values().find(|group| holds_all(&group.slots)) {
                    Some(group) => group.id,
                    None => return refused("these slots are not all of one group: move them group by group"),
                }
            }
            Moved::Namespace(number) => match self.tenants.numbered(*number) {
                None => return refused("there is no such tenant"),
                Some(tenant) => match tenant.group() {
                    Some(group) => group,
                    None => {
                        let text =
                            "its keys lie where their slots say: only a namespace that one group holds can be moved";
                        return refused(text);
                    }
                },
            },
        };
        if from == to {
            return Outcome::Unchanged;
        }
        self.set_move(Move { index, at, what: what.clone(), from, to, phase: MovePhase::Copying, failed: None });
        Outcome::Done
    }

    fn switch_move(&mut self, index: u64) -> Outcome {
        let Some(known) = self.move_at(index).filter(|known| known.phase == MovePhase::Copying) else {
            return refused("that move is over");
        };
        match known.what {
            Moved::Slots(range) => {
                let groups = Arc::make_mut(&mut self.groups);
                if let Some(from) = groups.get_mut(&known.from) {
                    from.slots = without(&from.slots, range);
                }
                if let Some(to) = groups.get_mut(&known.to) {
                    to.slots = with(&to.slots, range);
                }
            }
            Moved::Namespace(number) => Arc::make_mut(&mut self.tenants).place(self.applied_index, number, known.to),
        }
        self.routes_changed = self.applied_index;
        self.set_move(Move { phase: MovePhase::Dropping(known.from), ..known });
        Outcome::Done
    }

    /// The copy under way, if there is one, comes to nothing.
    fn fail_move(&mut self, why: String) {
        if let Some(known) = self.move_at(0).filter(|known| known.phase == MovePhase::Copying) {
            self.set_move(Move { phase: MovePhase::Dropping(known.to), failed: Some(why), ..known });
        }
    }

    /// Somebody else serves the group now, or nobody does.
    pub(crate) fn primary_changed(&mut self, group: GroupId) {
        if self.current_move().is_some_and(|known| known.from == group || known.to == group) {
            self.fail_move(format!("the primary of group {} changed meanwhile", group.0));
        }
    }

    /// The tenant is gone: so is what was to be moved.
    pub(crate) fn tenants_changed(&mut self) {
        let gone = |number: TenantNumber| self.tenants.numbered(number).is_none();
        if self.current_move().is_some_and(|known| matches!(known.what, Moved::Namespace(number) if gone(number))) {
            self.fail_move(String::from("the tenant was deleted meanwhile"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::{Addresses, Change, ClusterId, Founder, Stamped};

    fn apply(state: &mut State, index: u64, change: Change) -> Outcome {
        let (actor, source) = (String::from("alice"), String::from("test"));
        state.apply(index, &Stamped { at: UnixMillis(1), actor, source, request: None, change })
    }

    fn step(state: &mut State, index: u64, change: MoveChange) -> Outcome {
        apply(state, index, Change::Move(change))
    }

    fn formed() -> State {
        let mut state = State::new();
        let founder = Founder { name: String::from("one"), addresses: Addresses::default() };
        let change = Change::FormCluster { cluster_id: ClusterId([1; 16]), founder, groups: 2, nodes: 1 };
        apply(&mut state, 1, change);
        state
    }

    fn begin(first: u16, last: u16, to: u32) -> MoveChange {
        MoveChange::Begin { what: Moved::Slots((first, last)), to: GroupId(to) }
    }

    fn is_refused(outcome: Outcome) -> bool {
        matches!(outcome, Outcome::Refused(_))
    }

    #[test]
    fn slots_change_hands_once() {
        let mut state = formed();
        assert!(is_refused(step(&mut state, 2, begin(8000, 8500, 1))), "of two groups");
        assert!(is_refused(step(&mut state, 3, begin(5, 20000, 1))));
        assert!(is_refused(step(&mut state, 4, begin(0, 1, 7))));
        assert_eq!(step(&mut state, 5, begin(0, 99, 0)), Outcome::Unchanged);
        assert_eq!(step(&mut state, 6, begin(100, 199, 1)), Outcome::Done);
        assert_eq!(state.group_of_slot(150).map(|group| group.id), Some(GroupId(0)));
        assert!(is_refused(step(&mut state, 7, begin(300, 300, 1))), "one at a time");
        assert!(is_refused(step(&mut state, 8, MoveChange::Switch { index: 5 })), "another move");
        assert_eq!(step(&mut state, 9, MoveChange::Switch { index: 6 }), Outcome::Done);
        assert_eq!(state.groups()[&GroupId(0)].slots, [(0, 99), (200, 8191)]);
        assert_eq!(state.groups()[&GroupId(1)].slots, [(100, 199), (8192, 16383)]);
        assert!(is_refused(step(&mut state, 10, MoveChange::Abort { index: 0, why: String::from("late") })));
        assert!(is_refused(step(&mut state, 11, MoveChange::Switch { index: 6 })));
        assert_eq!(state.current_move().map(|known| known.phase), Some(MovePhase::Dropping(GroupId(0))));
        assert_eq!(step(&mut state, 12, MoveChange::End { index: 6 }), Outcome::Done);
        assert!(state.current_move().is_none() && state.last_move().is_some());
        let all = |slot| state.groups().values().filter(|group| holds(&group.slots, slot)).count() == 1;
        assert!((0..16384).all(all));
    }

    #[test]
    fn another_primary_ends_a_move_that_is_not_decided() {
        let mut state = formed();
        step(&mut state, 2, begin(100, 199, 1));
        apply(&mut state, 3, Change::StartNode { node: crate::NodeId::FOUNDER, token: 1 });
        assert_eq!(state.current_move().map(|known| known.phase), Some(MovePhase::Copying), "its first start");
        apply(&mut state, 4, Change::StartNode { node: crate::NodeId::FOUNDER, token: 2 });
        let known = state.current_move().unwrap();
        assert_eq!(known.phase, MovePhase::Dropping(GroupId(1)));
        assert!(known.failed.as_deref().is_some_and(|why| why.contains("primary of group 0")));
        assert!(is_refused(step(&mut state, 5, MoveChange::Switch { index: 2 })));
        assert_eq!(state.groups()[&GroupId(0)].slots, [(0, 8191)]);
    }

    #[test]
    fn ranges_are_cut_and_joined() {
        let slots = [(0, 10), (20, 30)];
        assert_eq!(without(&slots, (5, 8)), [(0, 4), (9, 10), (20, 30)]);
        assert_eq!(without(&slots, (0, 10)), [(20, 30)]);
        assert_eq!(without(&slots, (0, 0)), [(1, 10), (20, 30)]);
        assert_eq!(without(&slots, (30, 40)), [(0, 10), (20, 29)]);
        assert_eq!(with(&slots, (11, 19)), [(0, 30)]);
        assert_eq!(with(&slots, (12, 12)), [(0, 10), (12, 12), (20, 30)]);
        assert_eq!(with(&[], (16383, 16383)), [(16383, 16383)]);
        assert!(holds(&slots, 20) && !holds(&slots, 15));
    }
}
