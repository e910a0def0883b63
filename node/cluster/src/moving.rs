//! Keys on their way from one shard group to another: slots, or those of a tenant. One move at a time.
//!
//! ```text
//!   Begin ─► copying ── Switch ──► dropping what the old group still has ── End ──► done
//!               ├────── another primary of either group, or the one that copies cannot go on ──► copying, anew
//!               └────── an operator, or too many tries ──► dropping what the new group got ── End ──► done, failed
//! ```
//! Until `Switch` the old group holds the keys, from then on the new one; no entry makes both do it. Whoever copies sees to it
//! that the old primary has stopped answering for them before it proposes `Switch`. Another primary of either group knows nothing
//! of that, so the copying begins anew with it, under the number of the entry that says so: what anybody still proposes under the
//! old one changes nothing. What tenants are to be moved is pursued move by move ([`crate::placement`]). What is not known
//! here: keys.

use std::fmt;
use std::sync::Arc;

use crate::group::SLOTS;
use crate::{GroupId, Outcome, Refusal, State, Tenant, TenantNumber, UnixMillis};

/// So often whoever copies may say that it cannot go on. Other primaries do not count: each comes with a failover.
const TRIES_MAX: u32 = 16;

/// First and last slot, both included.
pub type SlotRange = (u16, u16);

/// What is moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Moved {
    /// Every key of these slots, but for tenants that one group holds as a whole.
    Slots(SlotRange),
    /// Every key of this tenant that is with the one group and is to be with the other.
    Tenant(TenantNumber),
}

impl fmt::Display for Moved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Slots((first, last)) if first == last => write!(f, "slot {first}"),
            Self::Slots((first, last)) => write!(f, "slots {first}-{last}"),
            Self::Tenant(number) => write!(f, "tenant number {}", number.0),
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
    /// The entry that began it, or began it anew.
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
    /// How often whoever copies could not go on.
    pub tries: u32,
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
    /// It cannot go on, and begins anew; or an operator does not want it any more, and it comes to nothing.
    Abort {
        /// Which move; 0: the one there is, and an operator says so.
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
            Self::Abort { index: 0, why } => format!("the move comes to nothing: {why}"),
            Self::Abort { index, why } => format!("move {index} does not go on: {why}"),
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

    /// How often keys were handed over to another group.
    pub fn hand_overs(&self) -> u64 {
        self.hand_overs
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
                    self.abort_move(*index == 0, known, why);
                    Outcome::Done
                }
                Some(known) if known.failed.is_some() => Outcome::Unchanged,
                Some(_) => refused("the keys are at their new group already: move them back"),
                None => refused("no move is under way"),
            },
            MoveChange::End { index } => match self.move_at(*index) {
                Some(known) if matches!(known.phase, MovePhase::Dropping(_)) => {
                    let given_up = known.failed.is_some() && known.tries >= TRIES_MAX;
                    self.set_move(Move { phase: MovePhase::Done, ..known });
                    if !given_up {
                        self.pursue(at);
                    }
                    Outcome::Done
                }
                _ => Outcome::Unchanged,
            },
        }
    }

    fn abort_move(&mut self, by_operator: bool, known: Move, why: &str) {
        if by_operator {
            if let Moved::Tenant(number) = known.what {
                Arc::make_mut(&mut self.tenants).want_no_move(self.applied_index, number);
            }
            return self.fail_move(String::from(why));
        }
        let tries = known.tries + 1;
        self.set_move(Move { tries, ..known });
        if tries < TRIES_MAX { self.begin_anew() } else { self.fail_move(String::from(why)) }
    }

    /// What was copied until now is of no use: under another number, everything is copied again.
    fn begin_anew(&mut self) {
        if let Some(known) = self.move_at(0).filter(|known| known.phase == MovePhase::Copying) {
            self.set_move(Move { index: self.applied_index, ..known });
        }
    }

    /// Begins the next move of a tenant whose keys are not where they are to be, if nothing is moved now.
    pub(crate) fn pursue(&mut self, at: UnixMillis) {
        if self.current_move().is_some() || self.groups.len() < 2 {
            return;
        }
        let groups: Vec<GroupId> = self.groups.keys().copied().collect();
        let step = |tenant: &Arc<Tenant>| tenant.next_step(&groups).map(|step| (tenant.number, step));
        let next = self.tenants.iter().find_map(step);
        if let Some((number, (from, to))) = next {
            let (index, what, phase) = (self.applied_index, Moved::Tenant(number), MovePhase::Copying);
            self.set_move(Move { index, at, what, from, to, phase, tries: 0, failed: None });
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
            Moved::Tenant(number) => {
                if self.tenants.numbered(*number).is_none() {
                    return refused("there is no such tenant");
                }
                Arc::make_mut(&mut self.tenants).want(index, *number, Some(to));
                self.pursue(at);
                return if self.current_move().is_some() { Outcome::Done } else { Outcome::Unchanged };
            }
        };
        if from == to {
            return Outcome::Unchanged;
        }
        if let Some(tenant) = self.tenants.iter().find(|tenant| tenant.is_on_its_way()) {
            let name = &tenant.name;
            return refused(format!("the keys of tenant '{name}' are on their way to their group: see to that first"));
        }
        let phase = MovePhase::Copying;
        self.set_move(Move { index, at, what: what.clone(), from, to, phase, tries: 0, failed: None });
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
            Moved::Tenant(number) => {
                let groups: Vec<GroupId> = self.groups.keys().copied().collect();
                let step = (known.from, known.to);
                Arc::make_mut(&mut self.tenants).moved(self.applied_index, number, step, &groups);
            }
        }
        self.routes_changed = self.applied_index;
        self.hand_overs += 1;
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
            self.begin_anew();
        }
    }

    /// Tenants are gone, or their keys are to be elsewhere.
    pub(crate) fn tenants_changed(&mut self, at: UnixMillis) {
        let groups: Vec<GroupId> = self.groups.keys().copied().collect();
        if let Some(known) = self.move_at(0)
            && let Moved::Tenant(number) = known.what
        {
            let step = self.tenants.numbered(number).and_then(|tenant| tenant.next_step(&groups));
            if step != Some((known.from, known.to)) {
                self.fail_move(String::from("the keys of the tenant are to be elsewhere, or it was deleted"));
            }
        }
        self.pursue(at);
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
    fn a_move_begins_anew_with_another_primary_and_is_given_up_after_many_tries() {
        let mut state = formed();
        step(&mut state, 2, begin(100, 199, 1));
        apply(&mut state, 3, Change::StartNode { node: crate::NodeId::FOUNDER, token: 1 });
        assert_eq!(state.current_move().map(|known| known.index), Some(2), "its first start");
        apply(&mut state, 4, Change::StartNode { node: crate::NodeId::FOUNDER, token: 2 });
        let known = state.current_move().unwrap();
        assert_eq!((known.index, known.phase, known.tries), (4, MovePhase::Copying, 0));
        assert!(is_refused(step(&mut state, 5, MoveChange::Switch { index: 2 })), "of before");
        let abort = |index| MoveChange::Abort { index, why: String::from("no copy") };
        for tries in 1..TRIES_MAX {
            let index = state.current_move().unwrap().index;
            assert_eq!(step(&mut state, 5 + u64::from(tries), abort(index)), Outcome::Done);
            assert_eq!(state.current_move().map(|known| (known.phase, known.tries)), Some((MovePhase::Copying, tries)));
        }
        let index = state.current_move().unwrap().index;
        step(&mut state, 50, abort(index));
        let known = state.current_move().unwrap();
        assert_eq!(known.phase, MovePhase::Dropping(GroupId(1)));
        assert_eq!(known.failed.as_deref(), Some("no copy"));
        assert_eq!(state.groups()[&GroupId(0)].slots, [(0, 8191)]);
    }

    fn tenant(state: &mut State, index: u64, change: crate::TenantChange) -> Outcome {
        apply(state, index, Change::Tenant(change))
    }

    fn group_edit(value: Option<&str>) -> Vec<crate::TenantEdit> {
        vec![crate::TenantEdit::Setting(String::from("group"), value.map(str::to_owned))]
    }

    /// Carries out whatever is under way; the moves there were.
    fn carry_out(state: &mut State, index: &mut u64) -> Vec<(u32, u32)> {
        let mut moves = Vec::new();
        while let Some(known) = state.current_move().cloned() {
            moves.push((known.from.0, known.to.0));
            *index += 2;
            assert_eq!(step(state, *index, MoveChange::Switch { index: known.index }), Outcome::Done);
            assert_eq!(step(state, *index + 1, MoveChange::End { index: known.index }), Outcome::Done);
        }
        moves
    }

    #[test]
    fn a_tenant_goes_to_one_group_move_by_move_and_back() {
        use crate::{Holders, TenantChange, TenantMode};
        let mut state = State::new();
        let founder = Founder { name: String::from("one"), addresses: Addresses::default() };
        apply(&mut state, 1, Change::FormCluster { cluster_id: ClusterId([1; 16]), founder, groups: 3, nodes: 1 });
        let name = String::from("gw");
        let mode = TenantMode::Prefixes([b"gw:".to_vec()].into_iter().collect());
        let edits = group_edit(Some("2"));
        assert_eq!(tenant(&mut state, 2, TenantChange::Create { name: name.clone(), mode, edits }), Outcome::Done);
        let holders = |state: &State| state.tenants().get("gw").unwrap().holders();
        assert_eq!(holders(&state), Holders::Slots, "there may be keys");
        assert!(is_refused(step(&mut state, 3, begin(0, 0, 1))), "one at a time");
        let mut index = 10;
        assert_eq!(carry_out(&mut state, &mut index), [(0, 2), (1, 2)]);
        assert_eq!(holders(&state), Holders::One(GroupId(2)));
        let more = vec![crate::TenantEdit::AddPrefix(b"x:".to_vec())];
        let refused = tenant(&mut state, 30, TenantChange::Set { name: name.clone(), edits: more });
        assert!(is_refused(refused), "keys with it may be anywhere");
        tenant(&mut state, 31, TenantChange::Set { name: name.clone(), edits: group_edit(Some("0")) });
        assert_eq!(carry_out(&mut state, &mut index), [(2, 0)]);
        tenant(&mut state, 40, TenantChange::Set { name: name.clone(), edits: group_edit(None) });
        assert_eq!(carry_out(&mut state, &mut index), [(0, 1), (0, 2)]);
        assert_eq!(holders(&state), Holders::Slots);
        assert_eq!(state.tenants().get("gw").unwrap().settings.len(), 0, "as it was");

        // An operator changes his mind half way: what was moved goes back.
        tenant(&mut state, 50, TenantChange::Set { name: name.clone(), edits: group_edit(Some("2")) });
        let known = state.current_move().unwrap().index;
        step(&mut state, 51, MoveChange::Switch { index: known });
        step(&mut state, 52, MoveChange::End { index: known });
        assert_eq!(holders(&state), Holders::Each([2, 1, 2].map(GroupId).to_vec()));
        step(&mut state, 53, MoveChange::Abort { index: 0, why: String::from("changed") });
        let known = state.current_move().unwrap().index;
        step(&mut state, 54, MoveChange::End { index: known });
        index = 60;
        assert_eq!(carry_out(&mut state, &mut index), [(2, 0)]);
        assert_eq!(holders(&state), Holders::Slots);
        assert_eq!(state.tenants().get("gw").unwrap().settings.len(), 0, "as it was");
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
