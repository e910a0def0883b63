//! What every part of the control plane shares, and what a leader does when it is asked.
//!
//! The `…_here` functions act as the leader or say who it is; finding the leader and trying again is
//! [`super::propose`]'s business.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use keyward_cluster::{Addresses, Change, ClusterId, JoinToken, NodeId, Outcome, Stamped, State, UnixMillis};
use keyward_proto::control as wire;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, ForwardToLeader, LinearizableReadError, RaftError};
use openraft::{Instant as _, ReadPolicy};
use tokio::sync::{Mutex, watch};

use super::config::{ControlConfig, VOTERS_MAX};
use super::data_plane::DataPlane;
use super::inquiry::Answerer;
use super::invitation::Invited;
use super::lease::{Leading, Lease, Renewals};
use super::log_store::LogStore;
use super::peers::Peers;
use super::raft_types::{Raft, TypeConfig};
use super::state_machine::StateMachine;
use super::view::Views;

/// A node heard from this recently lives.
const IN_CONTACT: Duration = Duration::from_secs(2);

/// How long a hand-over may take: one election round trip and a sync, with room.
const HAND_OVER_WAIT: Duration = Duration::from_secs(3);

/// Who leads and where, as far as the answering node knows.
pub(crate) type Hint = Option<(NodeId, String)>;

/// Why this node did not do as leader what it was asked.
#[derive(Debug)]
pub(crate) enum HereError {
    /// Somebody else leads; nothing happened.
    NotLeader(Hint),
    /// It may have happened: ask again with the same request id.
    Unknown,
    /// It will not happen, for this reason.
    Refused(String),
    /// This node is going down.
    Stopped,
}

/// A change that is committed and applied here.
#[derive(Clone, Debug, PartialEq)]
pub struct Committed {
    /// The entry that carries it.
    pub index: u64,
    /// What became of it.
    pub outcome: Outcome,
    /// Registered nodes that have not applied it: they are out of contact, and serve nobody until they have.
    pub unconfirmed: BTreeSet<NodeId>,
}

/// Shared by the service, the background tasks and the handle.
pub(crate) struct Core {
    pub(crate) config: ControlConfig,
    pub(crate) views: Views,
    pub(crate) peers: Peers,
    pub(crate) log: LogStore,
    pub(crate) machine: StateMachine,
    pub(crate) raft: OnceLock<Raft>,
    /// The first reason why this node must not go on.
    pub(crate) fatal: watch::Sender<Option<String>>,
    /// The node is going down on purpose: that raft ends then is no failure.
    pub(crate) stopping: AtomicBool,
    /// Raft changes its membership one step at a time; so do we.
    pub(crate) membership: Mutex<()>,
    /// Who invited this node, if it waits for that.
    pub(crate) invited: Invited,
    /// The data of this node, once there is some.
    pub(crate) data: OnceLock<Arc<dyn DataPlane>>,
    /// Who knows what other nodes ask about this one.
    pub(crate) answerer: OnceLock<Arc<dyn Answerer>>,
    /// The right of this node to serve.
    pub(crate) lease: Arc<Lease>,
    /// What this node knows as leader.
    pub(crate) leading: std::sync::Mutex<Option<Arc<Leading>>>,
    /// Renewals that wait for a quorum.
    pub(crate) renewals: Renewals,
}

impl Core {
    pub(crate) fn raft(&self) -> Option<&Raft> {
        self.raft.get()
    }

    /// Says that this node must stop, unless it is known already.
    pub(crate) fn fail(&self, reason: impl Into<String>) {
        if self.stopping.load(Ordering::Relaxed) {
            return;
        }
        let reason = reason.into();
        self.fatal.send_if_modified(|known| {
            let first = known.is_none();
            if first {
                tracing::error!(%reason, "the control plane stops");
                *known = Some(reason);
            }
            first
        });
    }

    /// Who leads, as long as there is a sign of it. Raft itself goes on naming a leader that fell silent, and a leader
    /// without a quorum goes on naming itself.
    pub(crate) fn leader(&self) -> Option<NodeId> {
        let raft = self.raft()?;
        let metrics = raft.metrics();
        let metrics = metrics.borrow_watched();
        let leader = metrics.current_leader?;
        #[cfg(simulated)]
        if planted!(GrantWithoutQuorum) && leader == *raft.node_id() {
            return Some(leader);
        }
        let silent_for = if leader != *raft.node_id() {
            self.peers.silent_for(leader)?
        } else if metrics.membership_config.voter_ids().eq([leader]) {
            Duration::ZERO
        } else {
            metrics.last_quorum_acked.as_ref()?.elapsed()
        };
        (silent_for <= self.config.election_timeout.1).then_some(leader)
    }

    /// Whether a node votes by a committed membership that nobody is changing, or five others do. Before, the group
    /// may consist of fewer nodes than it seems, and lose its quorum with one of them.
    pub(crate) fn is_settled(&self, node: NodeId) -> bool {
        let Some(raft) = self.raft() else { return false };
        let metrics = raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = &metrics.committed_membership_config;
        let voters: BTreeSet<NodeId> = membership.voter_ids().collect();
        membership.get_joint_config().len() == 1 && (voters.contains(&node) || voters.len() >= VOTERS_MAX)
    }

    pub(crate) fn hint(&self) -> Hint {
        let leader = self.leader()?;
        Some((leader, self.peers.address_of(leader)?))
    }

    /// A change by the node itself, stamped.
    pub(crate) fn own_change(&self, change: Change) -> Stamped {
        Stamped {
            at: now(),
            actor: format!("node:{}", self.config.node_name),
            source: String::from("control"),
            request: None,
            change,
        }
    }

    /// Commits a change as leader: replicated, applied here, and applied on every node in contact.
    pub(crate) async fn propose_here(&self, stamped: Stamped) -> Result<Committed, HereError> {
        if let Change::RemoveNode { node } = stamped.change
            && self.peers.identity().is_some_and(|(_, me)| me == node)
            && self.leader() == Some(node)
        {
            // A leader cannot see its own removal through; its successor can.
            self.hand_over_here(None).await?;
            return Err(HereError::NotLeader(self.hint()));
        }
        let leaving = match stamped.change {
            // Out of the registry nobody counts it any more, so it must have stopped serving before.
            Change::RemoveNode { node } => Some((self.retire(node).await?, node)),
            _ => None,
        };
        // What this node knows as leader is worth as much when it no longer leads: later grants cover the entry.
        let leading = self.leading().ok_or_else(|| HereError::NotLeader(self.hint()))?;
        let must_be_in_force = must_be_in_force(&stamped.change);
        let written = self.write(stamped).await;
        if let Some((leading, node)) = leaving.filter(|_| written.is_err()) {
            leading.withhold_no_more(node);
        }
        let (index, outcome) = written?;
        let unconfirmed = if must_be_in_force { self.in_force(&leading, index).await } else { BTreeSet::new() };
        Ok(Committed { index, outcome, unconfirmed })
    }

    /// Commits a change as leader and applies it here, without waiting for others.
    pub(crate) async fn write(&self, stamped: Stamped) -> Result<(u64, Outcome), HereError> {
        let raft = self.raft().ok_or(HereError::NotLeader(None))?;
        let written = tokio::time::timeout(self.config.propose_timeout, raft.client_write(stamped)).await;
        match written {
            Ok(Ok(response)) => Ok((response.log_id.index(), response.data)),
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward)))) => {
                Err(HereError::NotLeader(self.forward(forward)))
            }
            Ok(Err(RaftError::APIError(_))) | Err(_) => Err(HereError::Unknown),
            Ok(Err(RaftError::Fatal(_))) => Err(HereError::Stopped),
        }
    }

    fn forward(&self, forward: ForwardToLeader<TypeConfig>) -> Hint {
        let leader = forward.leader_id?;
        let address = self.peers.address_of(leader).or_else(|| forward.leader_node.map(|node| node.addr))?;
        Some((leader, address))
    }

    /// What a node has applied, once that is at least `index` or its patience ends; `None` if it cannot be asked.
    pub(crate) async fn applied_on(&self, node: NodeId, index: u64, wait: Duration) -> Option<u64> {
        let mut client = self.peers.client_of(node).ok()?;
        let wait_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
        let request = wire::WaitAppliedRequest { header: self.peers.header(node), index, wait_ms };
        match client.wait_applied(request).await {
            Ok(response) => {
                self.peers.heard_from(node);
                Some(response.into_inner().applied)
            }
            Err(status) => {
                self.peers.learn_from(&status);
                None
            }
        }
    }

    /// Waits until this node has applied `index`, at most for `wait`; answers what it has applied then.
    pub(crate) async fn wait_applied_here(&self, index: u64, wait: Duration) -> u64 {
        let mut views = self.views.subscribe();
        let _ = tokio::time::timeout(wait, views.wait_for(|view| view.index >= index)).await;
        self.views.current().index
    }

    /// An index that covers everything acknowledged so far. A quorum confirms that this node still leads.
    pub(crate) async fn read_index_here(&self) -> Result<u64, HereError> {
        let raft = self.raft().ok_or(HereError::NotLeader(None))?;
        let asked = raft.get_read_log_id(ReadPolicy::ReadIndex);
        match tokio::time::timeout(self.config.propose_timeout, asked).await {
            Ok(Ok((read, _))) => Ok(read.log_id().index()),
            Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)))) => {
                Err(HereError::NotLeader(self.forward(forward)))
            }
            Ok(Err(RaftError::APIError(_))) | Err(_) => Err(HereError::Unknown),
            Ok(Err(RaftError::Fatal(_))) => Err(HereError::Stopped),
        }
    }

    /// Registers a node that asks to join, as leader.
    pub(crate) async fn admit(
        &self,
        name: &str,
        addresses: Addresses,
        token: JoinToken,
    ) -> Result<(ClusterId, NodeId), HereError> {
        if self.leader() != self.peers.identity().map(|(_, me)| me) || self.leader().is_none() {
            return Err(HereError::NotLeader(self.hint()));
        }
        let view = self.views.current();
        let cluster_id = view.cluster_id().ok_or(HereError::NotLeader(None))?;
        self.refuse_twins(&view.state, name, token)?;
        let twin = view.state.node_named(name).filter(|node| node.token != token).map(|node| node.id);
        let leading = self.leading().ok_or_else(|| HereError::NotLeader(self.hint()))?;
        if let Some(twin) = twin.filter(|twin| !leading.is_over(*twin)) {
            return Err(HereError::Refused(format!(
                "node {twin} of this name may still serve; its lease has to end first"
            )));
        }
        let change = Change::AddNode { name: name.to_owned(), addresses, token };
        match self.write(self.own_change(change)).await?.1 {
            Outcome::NodeAdded { node, .. } => Ok((cluster_id, node)),
            Outcome::Refused(refusal) => Err(HereError::Refused(refusal.to_string())),
            _ => Err(HereError::Unknown),
        }
    }

    /// Two disks under one name are a mistake as long as both live; the one that is here stays.
    fn refuse_twins(&self, state: &State, name: &str, token: JoinToken) -> Result<(), HereError> {
        let Some(twin) = state.node_named(name).filter(|node| node.token != token) else {
            return Ok(());
        };
        let is_me = self.peers.identity().is_some_and(|(_, me)| me == twin.id);
        let alive = is_me || self.peers.silent_for(twin.id).is_some_and(|silent| silent < IN_CONTACT);
        if alive {
            return Err(HereError::Refused(format!(
                "a node named {name} is part of this cluster and alive; give each node its own name"
            )));
        }
        Ok(())
    }

    /// Hands leadership to `to`, or to the voter that is most likely up to date, and waits until it is gone.
    pub(crate) async fn hand_over_here(&self, to: Option<NodeId>) -> Result<(), HereError> {
        let raft = self.raft().ok_or(HereError::NotLeader(None))?;
        let me = *raft.node_id();
        if self.leader() != Some(me) {
            return Err(HereError::NotLeader(self.hint()));
        }
        if to == Some(me) {
            return Ok(());
        }
        let target = self.successor(raft, me, to)?;
        raft.trigger().transfer_leader(target).await.map_err(|_| HereError::Stopped)?;
        let mut views = self.views.subscribe();
        let gone = views.wait_for(|view| view.leader.is_some_and(|leader| leader != me));
        match tokio::time::timeout(HAND_OVER_WAIT, gone).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(HereError::Unknown),
        }
    }

    fn successor(&self, raft: &Raft, me: NodeId, wanted: Option<NodeId>) -> Result<NodeId, HereError> {
        let metrics = raft.metrics().borrow_watched().clone();
        let voters: BTreeSet<NodeId> = metrics.membership_config.voter_ids().filter(|node| *node != me).collect();
        if let Some(wanted) = wanted {
            return if voters.contains(&wanted) {
                Ok(wanted)
            } else {
                Err(HereError::Refused(format!("node {wanted} is not a voter")))
            };
        }
        let matched = |node: &NodeId| metrics.replication.as_ref().and_then(|all| all.get(node).copied().flatten());
        let registry = self.views.current();
        let alive = |node: &NodeId| {
            registry.state.nodes().contains_key(node)
                && self.peers.silent_for(*node).is_some_and(|silent| silent < IN_CONTACT)
        };
        let best = voters.into_iter().filter(alive).max_by_key(|node| matched(node).map(|id| id.index()));
        best.ok_or_else(|| HereError::Refused(String::from("no other voter is in contact")))
    }
}

/// Whether the answer to a change promises that nobody is served under the state before it.
fn must_be_in_force(change: &Change) -> bool {
    match change {
        Change::User(_) | Change::Tenant(_) | Change::SetSetting { .. } | Change::RemoveNode { .. } => true,
        Change::FormCluster { .. }
        | Change::AddNode { .. }
        | Change::UpdateNodeAddresses { .. }
        | Change::StartNode { .. }
        | Change::ChangeInSync { .. }
        | Change::SetPrimary { .. }
        | Change::Move(_)
        | Change::Import(_)
        | Change::Noop => false,
    }
}

/// The wall clock, for stamps that people read.
pub(crate) fn now() -> UnixMillis {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

pub(crate) type SharedCore = Arc<Core>;
