//! Moves, step by step, without any keys.

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
    let Outcome::Refused(why) = step(&mut state, 12, begin(300, 300, 1)) else { panic!("one at a time") };
    assert!(why.to_string().contains("is being cleaned up: group 0 removes its copies"), "{why}");
    assert_eq!(step(&mut state, 13, MoveChange::End { index: 6 }), Outcome::Done);
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

fn set(state: &mut State, index: u64, edits: Vec<crate::TenantEdit>) -> Outcome {
    tenant(state, index, crate::TenantChange::Set { name: String::from("gw"), edits })
}

/// Two groups, and a tenant whose keys group `held` has.
fn held_by(held: u32) -> State {
    use crate::{TenantChange, TenantMode};
    let mut state = formed();
    let mode = TenantMode::Prefixes([b"gw:".to_vec()].into_iter().collect());
    let edits = group_edit(Some(&held.to_string()));
    tenant(&mut state, 2, TenantChange::Create { name: String::from("gw"), mode, edits });
    carry_out(&mut state, &mut 10);
    assert_eq!(state.tenants().get("gw").unwrap().holders(), Holders::One(GroupId(held)));
    state
}

#[test]
fn a_move_comes_to_nothing_when_its_tenant_is_to_be_elsewhere_though_the_groups_are_the_same() {
    for (held, other) in [(0, "1"), (1, "0")] {
        for (first, second) in [(None, Some(other)), (Some(other), None)] {
            let mut state = held_by(held);
            assert_eq!(set(&mut state, 50, group_edit(first)), Outcome::Done);
            let begun = state.current_move().unwrap().clone();
            assert_eq!((begun.index, begun.from, begun.phase), (50, GroupId(held), MovePhase::Copying));
            assert_eq!(set(&mut state, 51, group_edit(second)), Outcome::Done);
            let known = state.current_move().unwrap().clone();
            assert_eq!((known.from, known.to), (begun.from, begun.to), "the same groups");
            assert!(known.failed.is_some(), "what was copied is not what is to move now");
            assert_eq!(known.phase, MovePhase::Dropping(begun.to));
            assert!(is_refused(step(&mut state, 52, MoveChange::Switch { index: 50 })));
            assert_eq!(state.tenants().get("gw").unwrap().holders(), Holders::One(GroupId(held)));
            assert_eq!(step(&mut state, 53, MoveChange::End { index: 50 }), Outcome::Done);
            assert_eq!(state.current_move().unwrap().index, 53, "the new wish");
            assert_eq!(carry_out(&mut state, &mut 60), [(begun.from.0, begun.to.0)]);
            let now = state.tenants().get("gw").unwrap();
            assert_eq!((now.holders(), now.is_on_its_way()), (now.wanted(), false));
        }
    }
}

#[test]
fn a_move_goes_on_when_something_else_of_its_tenant_changes() {
    let mut state = held_by(0);
    set(&mut state, 50, group_edit(Some("1")));
    let limit = crate::TenantEdit::Setting(String::from("limit"), Some(String::from("1mb")));
    assert_eq!(set(&mut state, 51, vec![limit]), Outcome::Done);
    let known = state.current_move().unwrap();
    assert_eq!((known.index, known.phase), (50, MovePhase::Copying));
}

#[test]
fn a_tenant_stays_and_keeps_its_prefixes_until_its_move_is_cleared_up() {
    use crate::{TenantChange, TenantEdit};
    let prefix = |text: &str| text.as_bytes().to_vec();
    let delete = |purged| TenantChange::Delete { name: String::from("gw"), purged };
    let mut state = held_by(0);
    set(&mut state, 50, group_edit(None));
    assert_eq!(set(&mut state, 51, vec![TenantEdit::Retired(true)]), Outcome::Done);
    step(&mut state, 52, MoveChange::Switch { index: 50 });
    // Its keys lie by slots, but group 0 has some that are not its own any more.
    assert_eq!(state.current_move().unwrap().phase, MovePhase::Dropping(GroupId(0)));
    assert!(!state.tenants().get("gw").unwrap().is_on_its_way());
    assert!(state.moves_tenant("gw"));
    for (index, purged) in [(53, false), (54, true)] {
        assert!(is_refused(tenant(&mut state, index, delete(purged))));
    }
    assert!(is_refused(set(&mut state, 55, vec![TenantEdit::AddPrefix(prefix("x:"))])));
    let both = vec![TenantEdit::AddPrefix(prefix("x:")), TenantEdit::RemovePrefix(prefix("gw:"))];
    assert!(is_refused(set(&mut state, 56, both)));
    let same = vec![TenantEdit::AddPrefix(prefix("gw:")), TenantEdit::RemovePrefix(prefix("y:"))];
    assert_eq!(set(&mut state, 57, same), Outcome::Unchanged, "no change");
    assert_eq!(step(&mut state, 58, MoveChange::End { index: 50 }), Outcome::Done);
    assert_eq!(set(&mut state, 59, vec![TenantEdit::AddPrefix(prefix("x:"))]), Outcome::Done);
    assert_eq!(tenant(&mut state, 60, delete(false)), Outcome::Done);
}

#[test]
fn a_move_of_slots_begins_anew_when_a_tenant_is_placed_or_goes() {
    use crate::{TenantChange, TenantEdit, TenantMode};
    let create = |name: &str, group: Option<&str>| {
        let edits = group_edit(group);
        TenantChange::Create { name: name.to_owned(), mode: TenantMode::Namespace, edits }
    };
    let now = |state: &State| state.current_move().map(|known| (known.index, known.phase)).unwrap();
    let mut state = formed();
    step(&mut state, 2, begin(100, 199, 1));
    assert_eq!(tenant(&mut state, 3, create("plain", None)), Outcome::Done);
    assert_eq!(now(&state), (2, MovePhase::Copying), "its keys move as any others");
    assert_eq!(tenant(&mut state, 4, create("placed", Some("0"))), Outcome::Done);
    assert_eq!(now(&state), (4, MovePhase::Copying), "its keys stay with group 0");
    assert!(is_refused(step(&mut state, 5, MoveChange::Switch { index: 2 })));
    step(&mut state, 6, MoveChange::Switch { index: 4 });
    assert_eq!(tenant(&mut state, 7, create("late", Some("0"))), Outcome::Done);
    assert_eq!(now(&state), (7, MovePhase::Dropping(GroupId(0))), "its keys are not removed with those of the slots");
    let name = String::from("placed");
    tenant(&mut state, 8, TenantChange::Set { name: name.clone(), edits: vec![TenantEdit::Retired(true)] });
    assert_eq!(now(&state).0, 7);
    assert_eq!(tenant(&mut state, 9, TenantChange::Delete { name, purged: true }), Outcome::Done);
    assert_eq!(now(&state).0, 9);
    assert_eq!(step(&mut state, 10, MoveChange::End { index: 4 }), Outcome::Unchanged);
    assert_eq!(step(&mut state, 11, MoveChange::End { index: 9 }), Outcome::Done);
}

/// Fails what is under way as often as it is tried, and clears it up.
fn give_up(state: &mut State, first: u64) {
    for index in first..first + u64::from(TRIES_MAX) {
        let known = state.current_move().unwrap().index;
        assert_eq!(step(state, index, MoveChange::Abort { index: known, why: String::from("no copy") }), Outcome::Done);
    }
    let known = state.current_move().unwrap().index;
    assert_eq!(step(state, first + 20, MoveChange::End { index: known }), Outcome::Done);
}

#[test]
fn a_tenant_that_cannot_be_moved_keeps_no_other_waiting() {
    use crate::{TenantChange, TenantMode};
    let mut state = formed();
    for (index, name) in [(2, "a"), (3, "b")] {
        let mode = TenantMode::Prefixes([format!("{name}:").into_bytes()].into_iter().collect());
        let edits = group_edit(Some("1"));
        tenant(&mut state, index, TenantChange::Create { name: String::from(name), mode, edits });
    }
    let (first, second) = (Moved::Tenant(TenantNumber(1)), Moved::Tenant(TenantNumber(2)));
    assert_eq!(state.current_move().unwrap().what, first);
    give_up(&mut state, 10);
    assert_eq!(state.current_move().unwrap().what, second, "the other one is not kept waiting");
    let known = state.current_move().unwrap().index;
    step(&mut state, 50, MoveChange::Switch { index: known });
    step(&mut state, 51, MoveChange::End { index: known });
    assert_eq!(state.current_move().unwrap().what, first, "tried once more after the others");
    give_up(&mut state, 60);
    assert!(state.current_move().is_none(), "not for ever");
}
