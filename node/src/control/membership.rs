//! The leader's steady work: Raft's membership follows the registry.
//!
//! The registry of nodes is the wish, Raft's membership the fact. Looking at both again and again, and doing the one
//! next step, needs no memory of what was under way: whoever leads next goes on from what it sees, also from a
//! membership that a dead leader left half changed.
//!
//! ```text
//! registered, unknown to Raft  ──► learner ──caught up──► voter (up to five)
//! known to Raft, unregistered  ──► out
//! ```

use std::collections::BTreeSet;
use std::time::Duration;

use keyward_cluster::NodeId;
use openraft::ChangeMembers;
use openraft::async_runtime::watch::WatchReceiver;

use super::config::VOTERS_MAX;
use super::core::SharedCore;
use super::raft_types::Raft;

/// How often the leader looks. A join takes a few looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// A learner this few entries behind is caught up: what remains arrives within one message.
const CAUGHT_UP_ENTRIES: u64 = 64;

/// A step that does not commit in this time is tried again at a later look.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);

/// The one next step towards the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Finish a change that somebody began.
    Flatten,
    /// Start telling a node what happens.
    AddLearner(NodeId, String),
    /// Exactly these decide from now on.
    SetVoters(BTreeSet<NodeId>),
    /// Stop telling these.
    RemoveLearners(BTreeSet<NodeId>),
}

/// What a look at registry and membership sees.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) registered: Vec<(NodeId, String)>,
    pub(crate) voters: BTreeSet<NodeId>,
    pub(crate) members: BTreeSet<NodeId>,
    /// Members whose log is as good as the leader's.
    pub(crate) caught_up: BTreeSet<NodeId>,
    pub(crate) joint: bool,
}

/// Decides the next step; `None` when Raft's membership is as the registry wants it.
pub(crate) fn next_step(seen: &Seen) -> Option<Step> {
    if seen.joint {
        return Some(Step::Flatten);
    }
    // Before the cluster is formed, and while a state is being restored, the registry says nothing.
    if seen.registered.is_empty() {
        return None;
    }
    let registered: BTreeSet<NodeId> = seen.registered.iter().map(|(node, _)| *node).collect();
    if let Some((node, address)) = seen.registered.iter().find(|(node, _)| !seen.members.contains(node)) {
        return Some(Step::AddLearner(*node, address.clone()));
    }
    let mut voters: BTreeSet<NodeId> = seen.voters.intersection(&registered).copied().collect();
    for node in registered.intersection(&seen.caught_up) {
        if voters.len() < VOTERS_MAX {
            voters.insert(*node);
        }
    }
    if voters != seen.voters && !voters.is_empty() {
        return Some(Step::SetVoters(voters));
    }
    let stale: BTreeSet<NodeId> =
        seen.members.iter().filter(|node| !registered.contains(node) && !seen.voters.contains(node)).copied().collect();
    (!stale.is_empty()).then_some(Step::RemoveLearners(stale))
}

/// Runs for as long as the node does; acts while it leads.
pub(crate) async fn follow_registry(core: SharedCore) {
    let mut views = core.views.subscribe();
    loop {
        // A change of the registry is seen at once, progress of a learner at the next look.
        let _ = tokio::time::timeout(LOOK_EVERY, views.changed()).await;
        views.borrow_and_update();
        let Some(raft) = core.raft() else { continue };
        if core.leader() != Some(*raft.node_id()) {
            tokio::time::sleep(LOOK_EVERY).await;
            continue;
        }
        let Some(step) = look(&core, raft).and_then(|seen| next_step(&seen)) else { continue };
        let _one_at_a_time = core.membership.lock().await;
        tracing::info!(?step, "changing the membership of the raft group");
        match tokio::time::timeout(STEP_TIMEOUT, take(raft, step)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(error, "the membership did not change; trying again");
                tokio::time::sleep(LOOK_EVERY).await;
            }
            Err(_) => tracing::warn!("the membership did not change in time; trying again"),
        }
    }
}

/// Whether the membership is as the registry wants it, and nobody is changing it.
pub(crate) fn is_settled(core: &SharedCore) -> bool {
    let seen = core.raft().and_then(|raft| look(core, raft));
    seen.is_some_and(|seen| next_step(&seen).is_none() && seen.voters.len() >= 3)
}

fn look(core: &SharedCore, raft: &Raft) -> Option<Seen> {
    let metrics = raft.metrics().borrow_watched().clone();
    let (latest, committed) = (&metrics.membership_config, &metrics.committed_membership_config);
    if latest.log_id() != committed.log_id() {
        return None; // A change is on its way.
    }
    let view = core.views.current();
    let last = metrics.last_log_index.unwrap_or(0);
    let mut caught_up = BTreeSet::from([*raft.node_id()]);
    for (node, matched) in metrics.replication.iter().flatten() {
        if matched.as_ref().is_some_and(|id| id.index() + CAUGHT_UP_ENTRIES >= last) {
            caught_up.insert(*node);
        }
    }
    Some(Seen {
        registered: view.state.nodes().values().map(|node| (node.id, node.addresses.peer.clone())).collect(),
        voters: latest.voter_ids().collect(),
        members: latest.nodes().map(|(node, _)| *node).collect(),
        caught_up,
        joint: latest.get_joint_config().len() > 1,
    })
}

async fn take(raft: &Raft, step: Step) -> Result<(), String> {
    let changed = match step {
        Step::Flatten => raft.change_membership(ChangeMembers::AddVoterIds(BTreeSet::new()), false).await,
        Step::AddLearner(node, address) => raft.add_learner(node, openraft::BasicNode::new(address), false).await,
        Step::SetVoters(voters) => raft.change_membership(ChangeMembers::ReplaceAllVoters(voters), false).await,
        Step::RemoveLearners(nodes) => raft.change_membership(ChangeMembers::RemoveNodes(nodes), false).await,
    };
    changed.map(drop).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(ids: &[u64]) -> BTreeSet<NodeId> {
        ids.iter().copied().map(NodeId).collect()
    }

    fn seen(registered: &[u64], voters: &[u64], members: &[u64], caught_up: &[u64]) -> Seen {
        Seen {
            registered: registered.iter().map(|id| (NodeId(*id), format!("host:{id}"))).collect(),
            voters: ids(voters),
            members: ids(members),
            caught_up: ids(caught_up),
            joint: false,
        }
    }

    #[test]
    fn a_settled_group_is_left_alone() {
        assert_eq!(next_step(&seen(&[1, 4, 6], &[1, 4, 6], &[1, 4, 6], &[1, 4, 6])), None);
    }

    #[test]
    fn a_registered_node_becomes_a_learner_then_a_voter() {
        let step = next_step(&seen(&[1, 4], &[1], &[1], &[1]));
        assert_eq!(step, Some(Step::AddLearner(NodeId(4), "host:4".into())));
        assert_eq!(next_step(&seen(&[1, 4], &[1], &[1, 4], &[1])), None);
        assert_eq!(next_step(&seen(&[1, 4], &[1], &[1, 4], &[1, 4])), Some(Step::SetVoters(ids(&[1, 4]))));
    }

    #[test]
    fn a_replaced_voter_leaves_and_its_successor_enters_in_one_step() {
        let step = next_step(&seen(&[1, 4, 9], &[1, 4, 6], &[1, 4, 6, 9], &[1, 4, 9]));
        assert_eq!(step, Some(Step::SetVoters(ids(&[1, 4, 9]))));
    }

    #[test]
    fn a_sixth_node_stays_a_learner() {
        let all = [1, 4, 5, 6, 7, 8];
        assert_eq!(next_step(&seen(&all, &[1, 4, 5, 6, 7], &all, &all)), None);
    }

    #[test]
    fn a_removed_learner_is_no_longer_told() {
        assert_eq!(next_step(&seen(&[1], &[1], &[1, 4], &[1])), Some(Step::RemoveLearners(ids(&[4]))));
    }

    #[test]
    fn a_half_changed_membership_is_finished_first() {
        let mut half = seen(&[1, 4], &[1, 4], &[1, 4], &[1, 4]);
        half.joint = true;
        assert_eq!(next_step(&half), Some(Step::Flatten));
    }
}
