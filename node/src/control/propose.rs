//! A proposal from any node: find the leader, hand it over, try again while the leader changes.
//!
//! Trying again is safe because every proposal carries a request id: the state remembers the last ones and answers a
//! repetition with what became of the first.

use std::fmt;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use keyward_cluster::{GroupId, NodeId, RequestId, Stamped};
use keyward_proto::control as wire;

use super::codec;
use super::core::{Committed, Core, HereError, Hint};
use super::failover::NodeStanding;

/// Between two tries while no leader is known. An election takes a second or two.
const PAUSE: Duration = Duration::from_millis(25);

/// How long a node that only may be the leader has to answer.
const GUESS_PATIENCE: Duration = Duration::from_millis(2500);

/// Why a proposal has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlError {
    /// No leader was found in time: nothing was committed.
    NoLeader,
    /// Time ran out after the proposal was handed over: it may yet be committed. Repeating it is safe.
    Unknown,
    /// It was refused, for this reason.
    Refused(String),
    /// This node is going down.
    Stopped,
}

impl fmt::Display for ControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoLeader => write!(f, "the control plane has no leader; nothing was changed"),
            Self::Unknown => write!(f, "the outcome is unknown: the control plane did not confirm in time; try again"),
            Self::Refused(reason) => f.write_str(reason),
            Self::Stopped => write!(f, "this node is shutting down"),
        }
    }
}

impl std::error::Error for ControlError {}

/// What one try at a leader gave.
enum Try<T> {
    Done(T),
    /// Somebody else leads, perhaps this one; nothing happened.
    Elsewhere(Hint),
    /// It may have happened.
    Unknown,
}

type Trying<'a, T> = BoxFuture<'a, Result<Try<T>, ControlError>>;

impl Core {
    /// Commits a change through whoever leads.
    pub(crate) async fn propose(&self, mut stamped: Stamped) -> Result<Committed, ControlError> {
        let bytes = super::network::change_bytes(&codec::stamped_to(&stamped));
        if bytes > self.config.change_bytes_max {
            return Err(ControlError::Refused(format!(
                "the change takes {bytes} bytes; the limit is {}",
                self.config.change_bytes_max
            )));
        }
        stamped.request.get_or_insert(RequestId(random()));
        let stamped = &stamped;
        let committed = self
            .with_leader(
                || self.propose_here(stamped.clone()).map(here).boxed(),
                |leader, address| self.propose_there(leader, address, stamped).boxed(),
            )
            .await?;
        // The leader has waited for this node among all others, unless this node was slow.
        self.wait_applied_here(committed.index, GUESS_PATIENCE).await;
        Ok(committed)
    }

    /// An index that covers everything acknowledged before this call.
    pub(crate) async fn read_index(&self) -> Result<u64, ControlError> {
        self.with_leader(
            || self.read_index_here().map(here).boxed(),
            |leader, address| self.read_index_there(leader, address).boxed(),
        )
        .await
    }

    /// Moves leadership to `to`, or to any other voter.
    pub(crate) async fn hand_over(&self, to: Option<NodeId>) -> Result<(), ControlError> {
        self.with_leader(
            || self.hand_over_here(to).map(here).boxed(),
            |leader, address| self.hand_over_there(leader, address, to).boxed(),
        )
        .await
    }

    async fn read_index_there(&self, leader: NodeId, address: String) -> Result<Try<u64>, ControlError> {
        let request = wire::ReadIndexRequest { header: self.peers.header(leader) };
        let Ok(mut client) = self.peers.client(&address) else { return Ok(Try::Elsewhere(None)) };
        use wire::read_index_response::Result as Wire;
        Ok(match client.read_index(request).await.map(|response| response.into_inner().result) {
            Ok(Some(Wire::Index(index))) => Try::Done(index),
            Ok(Some(Wire::NotLeader(not_leader))) => Try::Elsewhere(hint_from(not_leader)),
            Ok(None) => Try::Elsewhere(None),
            Err(status) => self.failed(&status),
        })
    }

    async fn hand_over_there(
        &self,
        leader: NodeId,
        address: String,
        to: Option<NodeId>,
    ) -> Result<Try<()>, ControlError> {
        let request = wire::HandOverRequest { header: self.peers.header(leader), to: to.map_or(0, |to| to.0) };
        let Ok(mut client) = self.peers.client(&address) else { return Ok(Try::Elsewhere(None)) };
        use wire::hand_over_response::Result as Wire;
        match client.hand_over(request).await.map(|response| response.into_inner().result) {
            Ok(Some(Wire::Started(_))) => Ok(Try::Done(())),
            Ok(Some(Wire::NotLeader(not_leader))) => Ok(Try::Elsewhere(hint_from(not_leader))),
            Ok(Some(Wire::Refused(reason))) => Err(ControlError::Refused(reason)),
            Ok(None) => Ok(Try::Elsewhere(None)),
            Err(status) => Ok(self.failed(&status)),
        }
    }

    async fn propose_there(
        &self,
        leader: NodeId,
        address: String,
        stamped: &Stamped,
    ) -> Result<Try<Committed>, ControlError> {
        let request =
            wire::ProposeRequest { header: self.peers.header(leader), change: Some(codec::stamped_to(stamped)) };
        let Ok(mut client) = self.peers.client(&address) else { return Ok(Try::Elsewhere(None)) };
        use wire::propose_response::Result as Wire;
        match client.propose(request).await.map(|response| response.into_inner().result) {
            Ok(Some(Wire::Committed(committed))) => {
                let outcome = codec::outcome_from(committed.outcome).map_err(|_| ControlError::Unknown)?;
                let unconfirmed = committed.unconfirmed.into_iter().map(NodeId).collect();
                Ok(Try::Done(Committed { index: committed.index, outcome, unconfirmed }))
            }
            Ok(Some(Wire::NotLeader(not_leader))) => Ok(Try::Elsewhere(hint_from(not_leader))),
            Ok(Some(Wire::Refused(reason))) => Err(ControlError::Refused(reason)),
            Ok(Some(Wire::Unknown(_)) | None) => Ok(Try::Unknown),
            Err(status) => Ok(self.failed(&status)),
        }
    }

    /// Has a group served by another node.
    pub(crate) async fn move_primary(
        &self,
        group: GroupId,
        to: Option<NodeId>,
        (accept_loss, patience): (bool, Duration),
        actor: &str,
    ) -> Result<(), ControlError> {
        let wait_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        let request = |leader| wire::MovePrimaryRequest {
            header: self.peers.header(leader),
            group: group.0,
            to: to.map_or(0, |to| to.0),
            accept_loss,
            actor: actor.to_owned(),
            wait_ms,
        };
        self.with_leader(
            || self.move_primary_here(group, to, (accept_loss, patience), actor).map(here).boxed(),
            |leader, address| self.move_primary_there(address, request(leader)).boxed(),
        )
        .await
    }

    async fn move_primary_there(
        &self,
        address: String,
        request: wire::MovePrimaryRequest,
    ) -> Result<Try<()>, ControlError> {
        let Ok(mut client) = self.peers.client(&address) else { return Ok(Try::Elsewhere(None)) };
        use wire::move_primary_response::Result as Wire;
        match client.move_primary(request).await.map(|response| response.into_inner().result) {
            Ok(Some(Wire::Done(_))) => Ok(Try::Done(())),
            Ok(Some(Wire::NotLeader(not_leader))) => Ok(Try::Elsewhere(hint_from(not_leader))),
            Ok(Some(Wire::Refused(reason))) => Err(ControlError::Refused(reason)),
            Ok(None) => Ok(Try::Elsewhere(None)),
            Err(status) => Ok(self.failed(&status)),
        }
    }

    /// What the leader knows of every node.
    pub(crate) async fn standings(&self) -> Result<Vec<NodeStanding>, ControlError> {
        let here_now = || async { self.standings_here().ok_or_else(|| HereError::NotLeader(self.hint())) };
        self.with_leader(
            || here_now().map(here).boxed(),
            |leader, address| self.standings_there(leader, address).boxed(),
        )
        .await
    }

    async fn standings_there(&self, leader: NodeId, address: String) -> Result<Try<Vec<NodeStanding>>, ControlError> {
        let request = wire::StandingRequest { header: self.peers.header(leader) };
        let Ok(mut client) = self.peers.client(&address) else { return Ok(Try::Elsewhere(None)) };
        use wire::standing_response::Result as Wire;
        Ok(match client.standing(request).await.map(|response| response.into_inner().result) {
            Ok(Some(Wire::Standings(all))) => Try::Done(all.nodes.into_iter().map(codec::node_standing_from).collect()),
            Ok(Some(Wire::NotLeader(not_leader))) => Try::Elsewhere(hint_from(not_leader)),
            Ok(None) => Try::Elsewhere(None),
            Err(status) => self.failed(&status),
        })
    }

    fn failed<T>(&self, status: &tonic::Status) -> Try<T> {
        self.peers.learn_from(status);
        match status.code() {
            // Refused by the checks at the door: it went no further.
            tonic::Code::FailedPrecondition | tonic::Code::Unauthenticated => Try::Elsewhere(None),
            // No connection, so nothing was sent.
            _ if never_sent(status) => Try::Elsewhere(None),
            _ => Try::Unknown,
        }
    }

    /// Tries at the leader, wherever it is, until it is done or the time for proposals is over.
    async fn with_leader<'a, T>(
        &'a self,
        here: impl Fn() -> Trying<'a, T> + Send,
        there: impl Fn(NodeId, String) -> Trying<'a, T> + Send,
    ) -> Result<T, ControlError> {
        // What a change has to wait for beyond that are leases, and they end.
        let deadline = Instant::now() + self.config.propose_timeout + self.lease_wait();
        let (mut hint, mut handed_over, mut round) = (None, false, 0);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(if handed_over { ControlError::Unknown } else { ControlError::NoLeader });
            }
            let me = self.peers.identity().map(|(_, me)| me);
            let target = hint.take().or_else(|| self.probable_leader(round));
            round += 1;
            let Some((leader, address)) = target else {
                tokio::time::sleep(PAUSE.min(left)).await;
                continue;
            };
            // From here on it may have happened, whatever becomes of the answer; only a clear no takes that back.
            let before = std::mem::replace(&mut handed_over, true);
            let trying = if Some(leader) == me { here() } else { there(leader, address) };
            let tried = tokio::select! {
                tried = tokio::time::timeout(left, trying) => tried,
                () = self.given_up(leader) => Ok(Ok(Try::Unknown)),
            };
            match tried {
                Ok(Ok(Try::Done(done))) => return Ok(done),
                Ok(Ok(Try::Elsewhere(better))) => {
                    handed_over = before;
                    hint = better.filter(|(node, _)| *node != leader);
                }
                Ok(Ok(Try::Unknown)) | Err(_) => {}
                Ok(Err(error)) => return Err(error),
            }
            if hint.is_none() {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

impl Core {
    /// Who leads; or, when this node does not know, somebody who may: a node that moved hears from nobody, and has to
    /// speak first.
    pub(crate) fn probable_leader(&self, round: usize) -> Option<(NodeId, String)> {
        if let Some(leader) = self.leader() {
            return Some((leader, self.peers.address_of(leader)?));
        }
        let view = self.views.current();
        let mut others: Vec<_> = view.state.nodes().values().filter(|node| Some(node.id) != view.node).collect();
        // Those that were heard from last are the likeliest to answer.
        others.sort_by_key(|node| self.peers.silent_for(node.id).unwrap_or(Duration::MAX));
        let other = others.get(round.checked_rem(others.len())?)?;
        Some((other.id, other.addresses.peer.clone()))
    }

    /// Returns when asking `target` any longer is no use: somebody else leads now, or it was only a guess and does not
    /// answer. A node whose process stands still keeps its connections open and never says no.
    async fn given_up(&self, target: NodeId) {
        let before = self.leader();
        let guess_ends = Instant::now() + GUESS_PATIENCE;
        loop {
            tokio::time::sleep(PAUSE).await;
            let leader = self.leader();
            let replaced = leader != before && leader.is_some_and(|leader| leader != target);
            let unheard = leader != Some(target) && Instant::now() >= guess_ends;
            if replaced || unheard {
                return;
            }
        }
    }
}

/// Whether the call failed before there was a connection to send it over.
fn never_sent(status: &tonic::Status) -> bool {
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

fn here<T>(result: Result<T, HereError>) -> Result<Try<T>, ControlError> {
    match result {
        Ok(done) => Ok(Try::Done(done)),
        Err(HereError::NotLeader(hint)) => Ok(Try::Elsewhere(hint)),
        Err(HereError::Unknown) => Ok(Try::Unknown),
        Err(HereError::Refused(reason)) => Err(ControlError::Refused(reason)),
        Err(HereError::Stopped) => Err(ControlError::Stopped),
    }
}

pub(crate) fn hint_from(not_leader: wire::NotLeader) -> Hint {
    (not_leader.leader != 0).then_some((NodeId(not_leader.leader), not_leader.peer_address))
}

/// 128 random bits from the operating system.
pub(crate) fn random() -> u128 {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the operating system has random bytes");
    u128::from_be_bytes(bytes)
}
