//! The state under single changes, told as tables, and under random histories, told as laws.

use keyward_acl::{Rule, UserName, UserOutcome};
use proptest::prelude::*;

use super::*;
use crate::Epoch;
use crate::{FailoverReason, MoveChange, Moved, TenantEdit, TenantMode};
use std::collections::BTreeSet;

fn addresses(port: u16) -> Addresses {
    Addresses { peer: format!("host:{port}"), ..Addresses::default() }
}

fn stamped(change: Change) -> Stamped {
    Stamped { at: UnixMillis(1000), actor: "alice".into(), source: "test".into(), request: None, change }
}

fn form() -> Change {
    let founder = Founder { name: "node-1".into(), addresses: addresses(1) };
    Change::FormCluster { cluster_id: ClusterId([7; 16]), founder, groups: 2, nodes: 1 }
}

fn add(name: &str, token: u128) -> Change {
    Change::AddNode { name: name.into(), addresses: addresses(9), token: JoinToken(token) }
}

fn set_user(name: &str, rules: &[&str]) -> Change {
    let rules = rules.iter().flat_map(|rule| Rule::parse(rule.as_bytes()).unwrap()).collect();
    Change::User(UserChange::Set { name: UserName::new(name.as_bytes()).unwrap(), rules })
}

fn member(node: u64, incarnation: u64) -> Member {
    Member { node: NodeId(node), incarnation: Incarnation(incarnation) }
}

fn set_primary(primary: Member, expect_epoch: u64) -> Change {
    Change::SetPrimary {
        group: GroupId(0),
        primary,
        in_sync: BTreeSet::from([primary]),
        expect_epoch: Epoch(expect_epoch),
        reason: FailoverReason::Unclean,
    }
}

fn in_sync(members: &[Member], epoch: u64, version: u64) -> Change {
    Change::ChangeInSync {
        group: GroupId(0),
        expect_epoch: Epoch(epoch),
        expect_version: version,
        in_sync: members.iter().copied().collect(),
    }
}

fn start(node: u64, token: u64) -> Change {
    Change::StartNode { node: NodeId(node), token }
}

fn setting(name: &str, value: Option<&str>) -> Change {
    Change::SetSetting { name: name.into(), value: value.map(str::to_owned) }
}

/// Applies changes as the entries 2, 3, …; answers the state and the last outcome.
fn after(changes: &[Change]) -> (State, Outcome) {
    let (mut state, mut outcome) = (State::new(), Outcome::Unchanged);
    for (index, change) in (2..).zip(changes) {
        outcome = state.apply(index, &stamped(change.clone()));
    }
    (state, outcome)
}

#[test]
fn each_change_has_its_outcome() {
    let n4 = || add("node-4", 4);
    let remove = |node| Change::RemoveNode { node: NodeId(node) };
    let move_to = |node, port| Change::UpdateNodeAddresses { node: NodeId(node), addresses: addresses(port) };
    let refused = Outcome::Refused;
    let added = |node, replaced: Option<u64>| Outcome::NodeAdded { node: NodeId(node), replaced: replaced.map(NodeId) };
    let other = Founder { name: "other".into(), addresses: addresses(2) };
    let rival = Change::FormCluster { cluster_id: ClusterId([8; 16]), founder: other, groups: 1, nodes: 1 };
    let table: Vec<(Vec<Change>, Outcome)> = vec![
        (vec![n4()], refused(Refusal::NotFormed)),
        (vec![form()], Outcome::Done),
        (vec![form(), form()], Outcome::Unchanged),
        (vec![form(), rival], refused(Refusal::AlreadyFormed)),
        (vec![form(), n4()], added(3, None)),
        (vec![form(), n4(), n4()], added(3, None)),
        (vec![form(), n4(), add("node-4", 5)], added(4, Some(3))),
        (vec![form(), remove(9)], refused(Refusal::UnknownNode(NodeId(9)))),
        (vec![form(), remove(1)], Outcome::Done),
        (vec![form(), n4(), remove(3)], Outcome::Done),
        (vec![form(), n4(), move_to(3, 77)], Outcome::Done),
        (vec![form(), n4(), move_to(3, 9)], Outcome::Unchanged),
        (vec![form(), move_to(8, 9)], refused(Refusal::UnknownNode(NodeId(8)))),
        (vec![form(), n4(), set_primary(member(3, 3), 1)], Outcome::Done),
        (vec![form(), n4(), set_primary(member(3, 3), 9)], refused(Refusal::StaleEpoch(Epoch(1)))),
        (vec![form(), set_primary(member(5, 5), 1)], refused(Refusal::StaleMember(member(5, 5)))),
        (vec![form(), set_primary(member(1, 1), 1)], refused(Refusal::StaleMember(member(1, 1)))),
        (vec![form(), start(4, 1)], refused(Refusal::UnknownNode(NodeId(4)))),
        (vec![form(), start(1, 7)], Outcome::Done),
        (vec![form(), start(1, 7), start(1, 7)], Outcome::Unchanged),
        (vec![form(), n4(), in_sync(&[member(1, 2), member(3, 3)], 1, 1)], Outcome::Done),
        (vec![form(), n4(), in_sync(&[member(1, 2)], 1, 1)], Outcome::Unchanged),
        (vec![form(), n4(), in_sync(&[member(1, 2)], 2, 1)], refused(Refusal::StaleEpoch(Epoch(1)))),
        (vec![form(), n4(), in_sync(&[member(1, 2)], 1, 2)], refused(Refusal::StaleVersion(1))),
        (vec![form(), n4(), in_sync(&[member(3, 3)], 1, 1)], refused(Refusal::PrimaryNotInSync(GroupId(0)))),
        (vec![form(), n4(), in_sync(&[member(3, 2)], 1, 1)], refused(Refusal::StaleMember(member(3, 2)))),
        (vec![form(), setting("a", Some("1"))], Outcome::Done),
        (vec![form(), setting("a", Some("1")), setting("a", Some("1"))], Outcome::Unchanged),
        (vec![form(), setting("a", None)], Outcome::Unchanged),
        (vec![form(), Change::Noop], Outcome::Unchanged),
        (
            vec![form(), set_user("bob", &["on", "~b:*", "+get"])],
            Outcome::User(UserOutcome::Set { created: true, changed: true }),
        ),
    ];
    for (changes, expected) in table {
        assert_eq!(after(&changes).1, expected, "{changes:?}");
    }
}

#[test]
fn the_founder_is_the_first_primary_of_every_slot() {
    let (state, _) = after(&[form()]);
    let group = state.group_of_slot(16383).unwrap();
    assert_eq!((group.primary, group.epoch), (Some(member(1, 2)), Epoch(1)));
    assert_eq!(state.nodes()[&NodeId::FOUNDER].name, "node-1");
}

#[test]
fn an_empty_disk_of_the_primary_inherits_nothing() {
    let (state, _) = after(&[form(), add("node-1", 5)]);
    let group = state.group_of_slot(0).unwrap();
    assert_eq!((group.primary, group.epoch), (None, Epoch(1)));
    assert_eq!(state.nodes().len(), 1);
    assert!(group.in_sync.is_empty());
}

#[test]
fn the_first_start_takes_over_the_registration_and_the_next_is_somebody_else() {
    let both = [member(1, 2), member(3, 3)];
    let begun = [form(), add("node-4", 4), start(1, 70), start(3, 71), in_sync(&both, 1, 1)];
    let (state, _) = after(&begun);
    let group = state.group_of_slot(0).unwrap();
    assert_eq!((group.primary, group.in_sync.len(), group.in_sync_version), (Some(member(1, 2)), 2, 2));
    // The primary's process is another one: the copy stays, nobody serves.
    let (state, _) = after(&[&begun[..], &[start(1, 72)]].concat());
    let group = state.group_of_slot(0).unwrap();
    assert_eq!((group.primary, group.epoch, group.in_sync_version), (None, Epoch(1), 3));
    assert_eq!(group.in_sync, BTreeSet::from([member(3, 3)]));
    assert!(state.is_current(member(1, 7)));
    // The copy's process is another one: the primary serves on, alone.
    let (state, _) = after(&[&begun[..], &[start(3, 72)]].concat());
    let group = state.group_of_slot(0).unwrap();
    assert_eq!((group.primary, group.in_sync_version), (Some(member(1, 2)), 3));
    assert_eq!(group.in_sync, BTreeSet::from([member(1, 2)]));
}

#[test]
fn who_is_named_primary_reigns_in_a_new_epoch_and_is_remembered() {
    let (state, _) = after(&[form(), add("node-4", 4), set_primary(member(3, 3), 1)]);
    let group = state.group_of_slot(0).unwrap();
    assert_eq!((group.primary, group.epoch, group.in_sync_version), (Some(member(3, 3)), Epoch(2), 2));
    let failover = group.last_failover.unwrap();
    assert_eq!((failover.index, failover.from, failover.to), (4, Some(member(1, 2)), member(3, 3)));
    let line = state.history().next_back().unwrap().summary.clone();
    assert_eq!(line, "node 3 is primary of group 0 (unclean), in sync: 3");
}

#[test]
fn a_request_sent_twice_is_applied_once_and_answered_twice() {
    let (mut state, _) = after(&[form()]);
    let ask = |value| Stamped { request: Some(RequestId(1)), ..stamped(setting("a", Some(value))) };
    assert_eq!(state.apply(3, &ask("1")), Outcome::Done);
    state.apply(4, &stamped(setting("a", Some("2"))));
    assert_eq!(state.apply(5, &ask("1")), Outcome::Done);
    assert_eq!(state.setting("a"), Some("2"));
    assert_eq!(state.history().len(), 3);
}

#[test]
fn history_tells_who_did_what_and_never_a_password() {
    let (state, _) = after(&[form(), set_user("bob", &["on", ">hunter2"]), set_user("bob", &["on", ">hunter2"])]);
    let lines: Vec<&str> = state.history().map(|record| record.summary.as_str()).collect();
    assert_eq!(lines.len(), 2, "an identical repeat is no change: {lines:?}");
    assert_eq!(lines[1], "set user bob");
    assert!(!format!("{:?}", state.history().collect::<Vec<_>>()).contains("hunter2"));
}

// Every CONFIG SET of a tenant's user was a line: a thousand of them wiped away what operators had done.
#[test]
fn what_a_tenants_user_changes_again_and_again_is_one_line() {
    let (mut state, _) = after(&[form(), set_user("bob", &["on"])]);
    let edits = vec![TenantEdit::AddPrefix(b"gw:".to_vec()), TenantEdit::AddUser(b"bob".to_vec())];
    let mode = TenantMode::Prefixes(Default::default());
    let made = TenantChange::Create { name: "gw".into(), mode, edits };
    assert_eq!(state.apply(100, &stamped(Change::Tenant(made))), Outcome::Done);
    let before = state.history().len();
    let events = |index: u64| {
        let letters = ["KA", "EA"][index as usize % 2].to_owned();
        let edits = vec![TenantEdit::Setting("notify-keyspace-events".into(), Some(letters))];
        Change::Tenant(TenantChange::Set { name: "gw".into(), edits })
    };
    for index in 101..3000 {
        let by_bob = Stamped { actor: "bob".into(), ..stamped(events(index)) };
        assert_eq!(state.apply(index, &by_bob), Outcome::Done);
    }
    assert_eq!(state.history().len(), before + 1);
    assert_eq!(state.history().next_back().unwrap().index, 2999, "it is the newest");
    // What operators do is remembered line by line.
    (3000..3003).for_each(|index| _ = state.apply(index, &stamped(events(index))));
    assert_eq!(state.history().len(), before + 4);
}

#[test]
fn history_settings_requests_and_nodes_are_bounded() {
    let (mut state, _) = after(&[form()]);
    for index in 3..3000 {
        let request = Some(RequestId(u128::from(index)));
        state.apply(index, &Stamped { request, ..stamped(setting(&format!("s{index}"), Some("v"))) });
    }
    assert_eq!(state.settings().len(), State::SETTINGS_MAX);
    assert_eq!(state.requests.len(), State::REQUESTS_MAX);
    for index in 3000..5000 {
        state.apply(index, &stamped(setting("s3", Some(&index.to_string()))));
        state.apply(index, &stamped(add(&format!("n{index}"), 1)));
    }
    assert_eq!(state.history().len(), State::HISTORY_MAX);
    assert_eq!(state.nodes().len(), State::NODES_MAX);
}

fn any_change() -> impl Strategy<Value = Change> {
    let name = prop_oneof![Just("ann"), Just("bob"), Just("default")];
    let rules = prop_oneof![
        Just(vec!["on", ">one", "~a:*", "+@read"]),
        Just(vec!["off", "resetkeys", "-@all"]),
        Just(vec!["on", "nopass", "allkeys", "&c:*", "+get", "-set"]),
        Just(vec!["(+get ~x:*)", "+config|get"]),
    ];
    let user = |name: &str| UserName::new(name.as_bytes()).unwrap();
    prop_oneof![
        1 => Just(form()),
        6 => (name.clone(), rules.clone()).prop_map(|(name, rules)| set_user(name, &rules)),
        2 => name.clone().prop_map(move |name| Change::User(UserChange::Delete { names: vec![user(name)] })),
        1 => (name.clone(), any::<bool>()).prop_map(move |(name, import)| {
            let users = vec![(user(name), Rule::parse(b"on").unwrap())];
            Change::User(match import {
                true => UserChange::Import { source: "file".into(), users },
                false => UserChange::ReplaceAll { users },
            })
        }),
        3 => (0..4_u8, 0..3_u128).prop_map(|(node, token)| add(&format!("node-{node}"), token)),
        2 => (0..40_u64).prop_map(|node| Change::RemoveNode { node: NodeId(node) }),
        2 => (0..40_u64, 0..3_u16)
            .prop_map(|(node, port)| Change::UpdateNodeAddresses { node: NodeId(node), addresses: addresses(port) }),
        4 => (0..6_u64, 0..6_u64, 0..4_u64)
            .prop_map(|(node, incarnation, epoch)| set_primary(member(node, incarnation), epoch)),
        4 => (0..6_u64, 0..6_u64, 0..6_u64, 0..4_u64, 0..8_u64).prop_map(|(one, two, at, epoch, version)| {
            in_sync(&[member(one, at), member(two, at + 1)], epoch, version)
        }),
        4 => (0..6_u64, 1..4_u64).prop_map(|(node, token)| start(node, token)),
        2 => (0..4_u8, any::<bool>()).prop_map(|(name, value)| setting(&format!("s{name}"), value.then_some("v"))),
        3 => (0..9_u16, 0..9_u16, 0..2_u32, 0..40_u64, 0..4_u8).prop_map(|(first, last, to, index, step)| {
            Change::Move(match step {
                0 => MoveChange::Switch { index },
                1 => MoveChange::Abort { index, why: "no".into() },
                2 => MoveChange::End { index },
                _ => MoveChange::Begin { what: Moved::Slots((first * 1000, last * 2000)), to: GroupId(to) },
            })
        }),
        1 => Just(Change::Noop),
    ]
}

fn any_history() -> impl Strategy<Value = Vec<Stamped>> {
    let any_stamped = (any_change(), proptest::option::of(0..8_u128))
        .prop_map(|(change, request)| Stamped { request: request.map(RequestId), ..stamped(change) });
    proptest::collection::vec(any_stamped, 0..40).prop_map(|mut changes| {
        changes.insert(0, stamped(form()));
        changes
    })
}

proptest! {
    #[test]
    fn the_same_changes_make_the_same_state(history in any_history()) {
        let (mut one, mut two) = (State::new(), State::new());
        for (index, change) in (2..).zip(&history) {
            prop_assert_eq!(one.apply(index, change), two.apply(index, change));
        }
        prop_assert_eq!(one.digest(), two.digest());
        prop_assert_eq!(one, two);
    }

    #[test]
    fn a_state_reads_back_as_written_and_goes_on_alike(history in any_history(), cut in 0..40_usize) {
        let cut = cut.min(history.len());
        let mut live = State::new();
        for (index, change) in (2..).zip(&history[..cut]) {
            live.apply(index, change);
        }
        let mut restored = State::try_from(StateRecord::from(&live)).unwrap();
        prop_assert_eq!(&restored, &live);
        for (index, change) in (2 + cut as u64..).zip(&history[cut..]) {
            prop_assert_eq!(restored.apply(index, change), live.apply(index, change));
        }
        prop_assert_eq!(restored.digest(), live.digest());
    }

    #[test]
    fn only_running_processes_are_in_sync_and_the_primary_is_and_epochs_only_grow(history in any_history()) {
        let (mut state, mut known) = (State::new(), BTreeMap::new());
        for (index, change) in (2..).zip(&history) {
            state.apply(index, change);
            prop_assert!([0, 1000, 7999, 16383].iter().all(|slot| state.group_of_slot(*slot).is_some()));
            for group in state.groups().values() {
                prop_assert!(group.in_sync.iter().all(|member| state.is_current(*member)));
                prop_assert!(group.primary.is_none_or(|primary| group.in_sync.contains(&primary)));
                let now = (group.epoch, group.in_sync_version);
                let before = known.insert(group.id, now).unwrap_or((Epoch(0), 0));
                prop_assert!(now.0 >= before.0 && now.1 >= before.1);
            }
        }
    }
}
