//! The driver, told as stories: who is heard from when, and who opens.

use super::*;
use crate::{Addresses, ClusterId, Founder, JoinToken, Outcome, Stamped, UnixMillis};

fn apply(state: &mut State, change: Change) -> Outcome {
    let index = state.applied_index() + 1;
    let stamped = Stamped { at: UnixMillis(1), actor: "a".into(), source: "t".into(), request: None, change };
    state.apply(index, &stamped)
}

/// Three nodes, all in sync, the founder primary.
fn three() -> (State, [Member; 3]) {
    let mut state = State::new();
    let founder = Founder { name: "n1".into(), addresses: Addresses::default() };
    apply(&mut state, Change::FormCluster { cluster_id: ClusterId([1; 16]), founder, groups: 1, nodes: 1 });
    for (name, token) in [("n2", 2), ("n3", 3)] {
        apply(
            &mut state,
            Change::AddNode { name: name.into(), addresses: Addresses::default(), token: JoinToken(token) },
        );
    }
    let members: Vec<Member> = state.nodes().values().map(|node| node.member()).collect();
    for member in &members {
        apply(&mut state, Change::StartNode { node: member.node, token: 7 });
    }
    let in_sync = members.iter().copied().collect();
    let all = Change::ChangeInSync { group: GroupId(0), expect_epoch: Epoch(1), expect_version: 1, in_sync };
    assert_eq!(apply(&mut state, all), Outcome::Done);
    (state, [members[0], members[1], members[2]])
}

fn stand(epoch: u64, position: u64) -> Stand {
    Stand { epoch: Epoch(epoch), position, has_data: true, ..Stand::default() }
}

fn seen(of: &[(Member, u64, Stand)]) -> BTreeMap<NodeId, Seen> {
    let one = |(member, at, stand): &(Member, u64, Stand)| {
        let stands = BTreeMap::from([(GroupId(0), *stand)]);
        (member.node, Seen { incarnation: member.incarnation, at: *at, gone: false, stands })
    };
    of.iter().map(one).collect()
}

fn sealing(members: &[Member]) -> Vec<Act> {
    vec![Act::Seal { group: GroupId(0), epoch: Epoch(2), members: members.to_vec() }]
}

fn proposes(acts: &[Act]) -> (Member, BTreeSet<Member>, FailoverReason) {
    match acts {
        [Act::Propose(Change::SetPrimary { primary, in_sync, reason, .. })] => (*primary, in_sync.clone(), *reason),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_primary_that_is_heard_from_is_left_alone() {
    let (state, [a, b, c]) = three();
    let mut driver = Driver::new(0, Patience::default());
    let seen = seen(&[(a, 4500, stand(1, 5)), (b, 4500, stand(1, 5)), (c, 4500, stand(1, 5))]);
    assert_eq!(driver.look(5000, &state, &seen), vec![]);
}

#[test]
fn of_those_sealed_the_highest_position_takes_over_and_of_equals_the_lowest_id() {
    let (mut state, [a, b, c]) = three();
    let mut driver = Driver::new(0, Patience::default());
    let seen = seen(&[(a, 3900, stand(1, 5)), (b, 5000, stand(1, 5)), (c, 5000, stand(1, 5))]);
    assert_eq!(driver.look(5000, &state, &seen), sealing(&[b, c]));
    assert_eq!(driver.look(5010, &state, &seen), vec![]);
    driver.sealed(5020, GroupId(0), Epoch(2), b, stand(1, 7));
    assert_eq!(driver.look(5030, &state, &seen), vec![], "the other one is waited for");
    driver.sealed(5040, GroupId(0), Epoch(2), c, stand(1, 9));
    let acts = driver.look(5050, &state, &seen);
    assert_eq!(proposes(&acts), (c, BTreeSet::from([b, c]), FailoverReason::Failed));
    let mut level = driver.clone();
    level.sealed(5055, GroupId(0), Epoch(2), b, stand(1, 9));
    assert_eq!(proposes(&level.look(5600, &state, &seen)).0, b);
    let mut led = driver.clone().led_by(b.node);
    led.sealed(5055, GroupId(0), Epoch(2), b, stand(1, 9));
    assert_eq!(proposes(&led.look(5600, &state, &seen)).0, c, "whoever leads has enough to do");
    let [Act::Propose(change)] = acts.as_slice() else { panic!() };
    assert_eq!(apply(&mut state, change.clone()), Outcome::Done);
    assert_eq!(state.groups()[&GroupId(0)].primary, Some(c));
    assert_eq!(driver.look(5060, &state, &seen), vec![]);
}

#[test]
fn a_leader_that_was_not_heeded_yet_proposes_again_soon() {
    let (state, [a, b, c]) = three();
    let seen = seen(&[(a, 3900, stand(1, 5)), (b, 5000, stand(1, 5)), (c, 5000, stand(1, 5))]);
    let mut driver = Driver::new(0, Patience::default());
    driver.look(5000, &state, &seen);
    driver.sealed(5010, GroupId(0), Epoch(2), b, stand(1, 7));
    driver.sealed(5010, GroupId(0), Epoch(2), c, stand(1, 7));
    assert_eq!(proposes(&driver.look(5020, &state, &seen)).0, b);
    assert_eq!(driver.look(5100, &state, &seen), vec![], "it may be on its way");
    driver.unheeded(5110, GroupId(0));
    assert_eq!(driver.look(5120, &state, &seen), vec![]);
    assert_eq!(proposes(&driver.look(5135, &state, &seen)).0, b);
    assert_eq!(driver.look(5200, &state, &seen), vec![]);
}

#[test]
fn a_silent_primary_is_asked_now_and_then_and_never_by_itself() {
    // A leader once asked again as soon as the answer came: of a process that stands still, thousands of times a second; and
    // of itself, without end.
    let (_, [a, b, _]) = three();
    let mut probes = Probes::default();
    assert!(!probes.begin(1000, Some(a.node), a), "the leader asks nobody about itself");
    assert!(probes.begin(1000, Some(b.node), a));
    assert!(!probes.begin(1200, Some(b.node), a), "it has not answered yet");
    probes.answered(a);
    assert!(probes.begin(1200, Some(b.node), a));
    probes.answered(a);
    let begun = (1201..2200).filter(|now| {
        let begun = probes.begin(*now, Some(b.node), a);
        probes.answered(a);
        begun
    });
    assert_eq!(begun.count(), 19, "each answer came at once");
    let another = Member { incarnation: Incarnation(a.incarnation.0 + 1), ..a };
    assert!(probes.begin(2200, Some(b.node), another), "of another process nothing is known");
}

#[test]
fn a_silence_that_began_before_the_reign_counts() {
    let (state, [a, b, c]) = three();
    let seen = seen(&[(b, 5000, stand(1, 5)), (c, 5000, stand(1, 5))]);
    let mut driver = Driver::new(4900, Patience::default());
    assert_eq!(driver.look(5000, &state, &seen), vec![], "nobody had time to speak");
    driver.heard_before(a, 3900);
    assert_eq!(driver.look(5000, &state, &seen), sealing(&[b, c]));
    let mut driver = Driver::new(4900, Patience::default());
    driver.heard_before(a, 3900);
    driver.stood_still(4950);
    assert_eq!(driver.look(5000, &state, &seen), vec![], "this process was deaf meanwhile");
}

#[test]
fn one_that_does_not_answer_is_left_behind_and_promised_reads_are_waited_out() {
    let (state, [a, b, c]) = three();
    let mut driver = Driver::new(0, Patience::default());
    let seen = seen(&[(a, 0, stand(1, 5)), (b, 5000, stand(1, 5)), (c, 5000, stand(1, 5))]);
    driver.look(5000, &state, &seen);
    driver.sealed(5010, GroupId(0), Epoch(2), b, Stand { promised_ms: 400, ..stand(1, 7) });
    assert_eq!(driver.look(5260, &state, &seen), sealing(&[c]));
    assert_eq!(driver.look(5300, &state, &seen), vec![]);
    assert_eq!(proposes(&driver.look(5420, &state, &seen)), (b, BTreeSet::from([b]), FailoverReason::Failed));
}

#[test]
fn once_somebody_is_sealed_there_is_no_way_back() {
    let (state, [a, b, c]) = three();
    let mut driver = Driver::new(0, Patience::default());
    let silent = seen(&[(a, 0, stand(1, 5)), (b, 5000, stand(1, 5)), (c, 5000, stand(1, 5))]);
    driver.look(5000, &state, &silent);
    let back = seen(&[(a, 5000, stand(1, 5)), (b, 5000, stand(1, 5)), (c, 5000, stand(1, 5))]);
    let mut untouched = driver.clone();
    assert_eq!(untouched.look(5100, &state, &back), vec![]);
    driver.sealed(5050, GroupId(0), Epoch(2), b, stand(1, 5));
    driver.look(5100, &state, &back);
    assert_eq!(proposes(&driver.look(5300, &state, &back)).0, b);
}

#[test]
fn a_primary_that_outlived_the_leader_that_sealed_against_it_goes_on_in_the_next_epoch() {
    let (mut state, [a, b, c]) = three();
    let mut driver = Driver::new(0, Patience::default());
    let sealed = Stand { sealed: Epoch(2), ..stand(1, 5) };
    let seen = seen(&[(a, 100, stand(1, 5)), (b, 100, sealed), (c, 100, stand(1, 5))]);
    let acts = driver.look(200, &state, &seen);
    assert_eq!(proposes(&acts), (a, BTreeSet::from([a, b, c]), FailoverReason::Planned));
    assert_eq!(driver.look(300, &state, &seen), vec![]);
    let [Act::Propose(change)] = acts.as_slice() else { panic!() };
    assert_eq!(apply(&mut state, change.clone()), Outcome::Done);
    assert_eq!(driver.look(400, &state, &seen), vec![]);
}

#[test]
fn a_sealed_member_that_was_dropped_from_the_set_meanwhile_is_never_named() {
    let (mut state, [a, b, c]) = three();
    let mut driver = Driver::new(0, Patience::default());
    let seen = seen(&[(a, 0, stand(1, 5)), (b, 5000, stand(1, 5))]);
    driver.look(5000, &state, &seen);
    driver.sealed(5010, GroupId(0), Epoch(2), b, stand(1, 7));
    let decided = driver.look(5300, &state, &seen);
    let [Act::Propose(change)] = decided.as_slice() else { panic!("{decided:?}") };
    // The old primary, still alive, had the set changed first: it may acknowledge without the sealed one.
    let without = BTreeSet::from([a, c]);
    let shrink =
        Change::ChangeInSync { group: GroupId(0), expect_epoch: Epoch(1), expect_version: 2, in_sync: without };
    assert_eq!(apply(&mut state, shrink), Outcome::Done);
    assert!(matches!(apply(&mut state, change.clone()), Outcome::Refused(_)));
    assert_eq!(driver.look(6000, &state, &seen), sealing(&[c]), "it goes on with who is left");
}

#[test]
fn without_another_copy_the_group_stays_down_and_that_is_said_once() {
    let (mut state, [a, b, _]) = three();
    let alone = BTreeSet::from([a]);
    apply(
        &mut state,
        Change::ChangeInSync { group: GroupId(0), expect_epoch: Epoch(1), expect_version: 2, in_sync: alone },
    );
    let mut driver = Driver::new(0, Patience::default());
    let seen = seen(&[(b, 5000, stand(1, 5))]);
    assert!(matches!(driver.look(5000, &state, &seen).as_slice(), [Act::Say(..)]));
    assert_eq!(driver.look(5100, &state, &seen), vec![]);
}

#[test]
fn a_primary_whose_process_is_another_one_is_succeeded_at_once() {
    let (mut state, [a, b, c]) = three();
    apply(&mut state, Change::StartNode { node: a.node, token: 8 });
    let mut driver = Driver::new(0, Patience::default());
    assert_eq!(driver.look(10, &state, &BTreeMap::new()), sealing(&[b, c]));
}

/// Everybody restarted.
fn cold() -> (State, [Member; 3]) {
    let (mut state, members) = three();
    for member in members {
        apply(&mut state, Change::StartNode { node: member.node, token: 9 });
    }
    let members: Vec<Member> = state.nodes().values().map(|node| node.member()).collect();
    (state, [members[0], members[1], members[2]])
}

#[test]
fn after_all_memories_are_lost_the_newest_snapshot_opens_once_all_have_reported() {
    let (state, [a, b, c]) = cold();
    let mut driver = Driver::new(0, Patience::default());
    let two = seen(&[(a, 90, stand(1, 5)), (b, 90, stand(1, 8))]);
    assert_eq!(driver.look(100, &state, &two), vec![]);
    let loading = Stand { has_data: false, snapshot: Some((Epoch(2), 1)), ..Stand::default() };
    let all = seen(&[(a, 190, stand(1, 5)), (b, 190, stand(1, 8)), (c, 190, loading)]);
    assert_eq!(driver.look(200, &state, &all), vec![], "it still reads its snapshot");
    let loaded = Stand { snapshot: Some((Epoch(2), 1)), ..stand(2, 1) };
    let all = seen(&[(a, 290, stand(1, 5)), (b, 290, stand(1, 8)), (c, 290, loaded)]);
    assert_eq!(proposes(&driver.look(300, &state, &all)), (c, BTreeSet::from([c]), FailoverReason::ColdStart));
}

#[test]
fn a_node_that_stays_away_is_not_waited_for_for_ever() {
    let (state, [a, b, _]) = cold();
    let mut driver = Driver::new(0, Patience::default());
    driver.look(0, &state, &BTreeMap::new());
    let two = |at| seen(&[(a, at, stand(1, 5)), (b, at, stand(1, 8))]);
    assert_eq!(driver.look(14_900, &state, &two(14_800)), vec![]);
    assert_eq!(proposes(&driver.look(15_000, &state, &two(14_900))).0, b);
}
