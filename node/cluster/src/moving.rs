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
//! old one changes nothing. What is copied or removed is told by tenants' wishes, prefixes and places: a tenant cannot go, nor
//! get other prefixes, while its keys move, and with another wish its move comes to nothing; with another place of any tenant, a
//! move of slots begins anew. What tenants are to be moved is pursued move by move ([`crate::placement`]). What is not known
//! here: keys.

use std::fmt;
use std::sync::Arc;

use crate::group::SLOTS;
use crate::placement::Holders;
use crate::{GroupId, Outcome, Refusal, State, Tenant, TenantChange, TenantEdit, TenantNumber, UnixMillis};

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

/// A tenant whose keys are to go from one group to another.
type NextMove = (TenantNumber, (GroupId, GroupId));

/// What a move takes for granted about tenants. With another one, it does not go on as if nothing had happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum MoveBasis {
    /// There is no move.
    Nothing,
    /// Which groups are to have the keys of the tenant that moves.
    Wanted(Option<Holders>),
    /// Tenants that slots say nothing about, and who has their keys.
    Placed(Vec<(TenantNumber, Holders)>),
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
                    self.set_move(Move { phase: MovePhase::Done, ..known });
                    let next = self.next_but(self.given_up());
                    self.begin_next(at, next);
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

    /// Begins the next move of a tenant whose keys are not where they are to be, if nothing is moved now. One whose move was just
    /// given up comes after all others.
    pub(crate) fn pursue(&mut self, at: UnixMillis) {
        let next = self.next_but(self.given_up()).or_else(|| self.next_but(None));
        self.begin_next(at, next);
    }

    /// The tenant whose move was given up, if that was the last one there was.
    fn given_up(&self) -> Option<TenantNumber> {
        let known = self.last_move().filter(|known| known.failed.is_some() && known.tries >= TRIES_MAX)?;
        if let Moved::Tenant(number) = known.what { Some(number) } else { None }
    }

    /// What tenant moves next and between which groups, if it is not this one.
    fn next_but(&self, but: Option<TenantNumber>) -> Option<NextMove> {
        if self.current_move().is_some() || self.groups.len() < 2 || self.current_import().is_some() {
            return None;
        }
        let groups: Vec<GroupId> = self.groups.keys().copied().collect();
        let mut others = self.tenants.iter().filter(|tenant| Some(tenant.number) != but);
        others.find_map(|tenant| tenant.next_step(&groups).map(|step| (tenant.number, step)))
    }

    fn begin_next(&mut self, at: UnixMillis, next: Option<NextMove>) {
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
            let (what, to) = (&known.what, known.to.0);
            return refused(match known.phase {
                MovePhase::Dropping(GroupId(group)) => format!(
                    "the move of {what} to group {to} is being cleaned up: group {group} removes its copies; try again \
                     when 'keywardctl slots list' says 'done' or 'failed'"
                ),
                MovePhase::Copying | MovePhase::Done => format!("the move of {what} to group {to} is not over yet"),
            });
        }
        if self.current_import().is_some() {
            return refused("an import is running: move keys when it is over");
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

    /// What the move under way takes for granted about tenants.
    pub(crate) fn move_basis(&self) -> MoveBasis {
        match self.current_move().map(|known| &known.what) {
            None => MoveBasis::Nothing,
            Some(Moved::Tenant(number)) => {
                MoveBasis::Wanted(self.tenants.numbered(*number).map(|known| known.wanted()))
            }
            Some(Moved::Slots(_)) => {
                let placed = |tenant: &Arc<Tenant>| {
                    let holders = tenant.holders();
                    (holders != Holders::Slots).then_some((tenant.number, holders))
                };
                MoveBasis::Placed(self.tenants.iter().filter_map(placed).collect())
            }
        }
    }

    /// Tenants are gone, or their keys are to be elsewhere; `before`: what the move took for granted.
    pub(crate) fn tenants_changed(&mut self, at: UnixMillis, before: &MoveBasis) {
        if let Some(known) = self.move_at(0)
            && self.move_basis() != *before
        {
            match known.what {
                // Which of its keys are to go from the one group to the other is another question now, whichever groups these
                // are: what was copied, and all that was not, is judged by the new wish.
                Moved::Tenant(_) => self.fail_move(String::from("the keys of the tenant are to be elsewhere")),
                // Whoever copies or removes keys of these slots leaves other tenants' alone from now on.
                Moved::Slots(_) => self.set_move(Move { index: self.applied_index, ..known }),
            }
        }
        self.pursue(at);
    }

    /// Whether keys of this tenant are on their way now, or what is left of them is being removed.
    pub(crate) fn moves_tenant(&self, name: &str) -> bool {
        let moved = |number| self.current_move().is_some_and(|known| known.what == Moved::Tenant(number));
        self.tenants.get(name).is_some_and(|tenant| moved(tenant.number))
    }

    /// Why a tenant must not be changed so while its keys move: whoever copies or removes them finds them by what they begin with.
    pub fn move_forbids(&self, change: &TenantChange) -> Option<String> {
        let (name, what) = match change {
            TenantChange::Delete { name, .. } => (name, "it can be deleted"),
            TenantChange::Set { name, edits } => {
                let known = self.tenants.get(name)?;
                let owns = |prefix: &[u8]| known.prefixes().any(|own| own == prefix);
                let changes = |edit: &TenantEdit| match edit {
                    TenantEdit::AddPrefix(prefix) => !owns(prefix),
                    TenantEdit::RemovePrefix(prefix) => owns(prefix),
                    _ => false,
                };
                edits.iter().any(changes).then_some((name, "its prefixes can change"))?
            }
            TenantChange::Create { .. } | TenantChange::Rename { .. } => return None,
        };
        self.moves_tenant(name).then(|| moves_still(name, what))
    }
}

/// What a tenant must not lose while its keys move, as a sentence.
fn moves_still(name: &str, what: &str) -> String {
    format!(
        "keys of tenant '{name}' are moved between shard groups: {what} when that is over, or was aborted and cleared up"
    )
}

#[cfg(test)]
mod tests;
