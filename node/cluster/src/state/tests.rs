//! The state under single changes, told as tables, and under random histories, told as laws.

use keyward_acl::{Rule, UserName, UserOutcome};
use proptest::prelude::*;

use super::*;

fn addresses(port: u16) -> Addresses {
    Addresses { peer: format!("host:{port}"), ..Addresses::default() }
}

fn stamped(change: Change) -> Stamped {
    Stamped { at: UnixMillis(1000), actor: "alice".into(), source: "test".into(), request: None, change }
}

fn form() -> Change {
    let founder = Founder { name: "node-1".into(), addresses: addresses(1) };
    Change::FormCluster { cluster_id: ClusterId([7; 16]), founder }
}

fn add(name: &str, token: u128) -> Change {
    Change::AddNode { name: name.into(), addresses: addresses(9), token: JoinToken(token) }
}

fn set_user(name: &str, rules: &[&str]) -> Change {
    let rules = rules.iter().flat_map(|rule| Rule::parse(rule.as_bytes()).unwrap()).collect();
    Change::User(UserChange::Set { name: UserName::new(name.as_bytes()).unwrap(), rules })
}

fn set_primary(node: u64, expect_epoch: u64) -> Change {
    Change::SetPrimary { group: GroupId(0), node: NodeId(node), expect_epoch: Epoch(expect_epoch) }
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
    let rival = Change::FormCluster { cluster_id: ClusterId([8; 16]), founder: other };
    let table: Vec<(Vec<Change>, Outcome)> = vec![
        (vec![n4()], refused(Refusal::NotFormed)),
        (vec![form()], Outcome::Done),
        (vec![form(), form()], Outcome::Unchanged),
        (vec![form(), rival], refused(Refusal::AlreadyFormed)),
        (vec![form(), n4()], added(3, None)),
        (vec![form(), n4(), n4()], added(3, None)),
        (vec![form(), n4(), add("node-4", 5)], added(4, Some(3))),
        (vec![form(), remove(9)], refused(Refusal::UnknownNode(NodeId(9)))),
        (vec![form(), remove(1)], refused(Refusal::StillPrimary(GroupId(0)))),
        (vec![form(), n4(), remove(3)], Outcome::Done),
        (vec![form(), n4(), move_to(3, 77)], Outcome::Done),
        (vec![form(), n4(), move_to(3, 9)], Outcome::Unchanged),
        (vec![form(), move_to(8, 9)], refused(Refusal::UnknownNode(NodeId(8)))),
        (vec![form(), n4(), set_primary(3, 1)], Outcome::Done),
        (vec![form(), n4(), set_primary(3, 9)], refused(Refusal::StaleEpoch(Epoch(1)))),
        (vec![form(), set_primary(5, 1)], refused(Refusal::UnknownNode(NodeId(5)))),
        (vec![form(), set_primary(1, 1)], Outcome::Unchanged),
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
    assert_eq!((group.primary, group.epoch), (NodeId::FOUNDER, Epoch(1)));
    assert_eq!(state.nodes()[&NodeId::FOUNDER].name, "node-1");
}

#[test]
fn an_empty_disk_of_the_primary_inherits_under_a_new_epoch() {
    let (state, _) = after(&[form(), add("node-1", 5)]);
    let group = state.group_of_slot(0).unwrap();
    assert_eq!((group.primary, group.epoch), (NodeId(3), Epoch(2)));
    assert_eq!(state.nodes().len(), 1);
    assert_eq!(group.in_sync, BTreeSet::from([NodeId(3)]));
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
        2 => (0..40_u64, 0..4_u64).prop_map(|(node, epoch)| set_primary(node, epoch)),
        2 => (0..4_u8, any::<bool>()).prop_map(|(name, value)| setting(&format!("s{name}"), value.then_some("v"))),
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
    fn every_primary_is_registered_and_epochs_only_grow(history in any_history()) {
        let (mut state, mut epoch) = (State::new(), Epoch(0));
        for (index, change) in (2..).zip(&history) {
            state.apply(index, change);
            for group in state.groups().values() {
                prop_assert!(state.nodes().contains_key(&group.primary));
                prop_assert!(group.epoch >= epoch);
                epoch = group.epoch;
            }
        }
    }
}
