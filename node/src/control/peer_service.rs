//! What other nodes may ask of this one. Translation and checks only: each call is checked for cluster, target and
//! source, and handed to Raft or to the core.

use std::sync::Arc;
use std::time::Duration;

use keyward_cluster::{Epoch, GroupId, Incarnation, NodeId};
use keyward_proto::control as wire;
use keyward_proto::control::peer_server::Peer;
use openraft::errors::RaftError;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderError, TransferLeaderRequest, VoteRequest, VoteResponse,
};
use tonic::{Request, Response, Status};

use super::codec::{self, CodecError};
use super::core::{Core, HereError, Hint};
use super::lease::Renewed;
use super::raft_types::{Raft, Snapshot, TypeConfig};

/// The longest a peer may keep a call open to wait for an entry.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// The server side of [`wire::peer_server::Peer`].
pub(crate) struct PeerService {
    pub(crate) core: Arc<Core>,
}

impl PeerService {
    /// Raft, for a message that is meant for this node.
    fn raft(&self, header: Option<wire::Header>) -> Result<&Raft, Status> {
        self.core.peers.check(header)?;
        self.core.raft().ok_or_else(|| Status::unavailable("this node is still starting"))
    }
}

#[tonic::async_trait]
impl Peer for PeerService {
    async fn append_entries(
        &self,
        request: Request<wire::AppendEntriesRequest>,
    ) -> Result<Response<wire::AppendEntriesResponse>, Status> {
        let request = request.into_inner();
        let raft = self.raft(request.header)?;
        let entries = request.entries.into_iter().map(codec::entry_from);
        let rpc = AppendEntriesRequest::<TypeConfig> {
            vote: codec::vote_from(request.vote).map_err(misread)?,
            prev_log_id: codec::log_id_from(request.prev_log_id).map_err(misread)?,
            entries: entries.collect::<Result<_, _>>().map_err(misread)?,
            leader_commit: codec::log_id_from(request.leader_commit).map_err(misread)?,
        };
        let response = raft.append_entries(rpc).await.map_err(fatal)?;
        use wire::append_entries_response::Result as Wire;
        let result = match response {
            AppendEntriesResponse::Success => Wire::Success(wire::Blank {}),
            AppendEntriesResponse::PartialSuccess(log_id) => {
                Wire::Partial(wire::PartialSuccess { log_id: log_id.as_ref().map(codec::log_id_to) })
            }
            AppendEntriesResponse::Conflict => Wire::Conflict(wire::Blank {}),
            AppendEntriesResponse::HigherVote(vote) => Wire::HigherVote(codec::vote_to(&vote)),
        };
        Ok(Response::new(wire::AppendEntriesResponse { result: Some(result) }))
    }

    async fn vote(&self, request: Request<wire::VoteRequest>) -> Result<Response<wire::VoteResponse>, Status> {
        let mut request = request.into_inner();
        let raft = self.raft(request.header.take())?;
        let response = raft.vote(vote_request_from(request).map_err(misread)?).await.map_err(fatal)?;
        Ok(Response::new(vote_response_to(&response)))
    }

    async fn pre_vote(&self, request: Request<wire::VoteRequest>) -> Result<Response<wire::VoteResponse>, Status> {
        let mut request = request.into_inner();
        let raft = self.raft(request.header.take())?;
        let response = raft.pre_vote(vote_request_from(request).map_err(misread)?).await.map_err(fatal)?;
        Ok(Response::new(vote_response_to(&response)))
    }

    async fn transfer_leader(
        &self,
        request: Request<wire::TransferLeaderRequest>,
    ) -> Result<Response<wire::TransferLeaderResponse>, Status> {
        let request = request.into_inner();
        let raft = self.raft(request.header)?;
        let rpc = TransferLeaderRequest::<TypeConfig>::new(
            codec::vote_from(request.from_leader).map_err(misread)?,
            NodeId(request.to),
            codec::log_id_from(request.last_log_id).map_err(misread)?,
        );
        let answer = raft.handle_transfer_leader(rpc).await.map_err(|error| Status::internal(error.to_string()))?;
        use wire::transfer_leader_response::Result as Wire;
        let result = match answer {
            Ok(()) => Wire::Accepted(wire::Blank {}),
            Err(TransferLeaderError::VoteChanged { expected, actual }) => Wire::VoteChanged(wire::VoteChanged {
                expected: Some(codec::vote_to(&expected)),
                actual: Some(codec::vote_to(&actual)),
            }),
            Err(TransferLeaderError::LogNotFlushed { expected, actual }) => Wire::LogNotFlushed(wire::LogNotFlushed {
                expected: expected.as_ref().map(codec::log_id_to),
                actual: actual.as_ref().map(codec::log_id_to),
            }),
        };
        Ok(Response::new(wire::TransferLeaderResponse { result: Some(result) }))
    }

    async fn install_snapshot(
        &self,
        request: Request<wire::InstallSnapshotRequest>,
    ) -> Result<Response<wire::InstallSnapshotResponse>, Status> {
        let request = request.into_inner();
        let raft = self.raft(request.header)?;
        let vote = codec::vote_from(request.vote).map_err(misread)?;
        let meta = codec::snapshot_meta_from(request.meta).map_err(misread)?;
        let snapshot = Snapshot { meta, snapshot: request.state.into() };
        let response =
            raft.install_full_snapshot(vote, snapshot).await.map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(wire::InstallSnapshotResponse { vote: Some(codec::vote_to(&response.vote)) }))
    }

    async fn probe(&self, _: Request<wire::ProbeRequest>) -> Result<Response<wire::ProbeResponse>, Status> {
        let identity = self.core.peers.identity();
        Ok(Response::new(wire::ProbeResponse {
            cluster_id: identity.map(|(id, _)| codec::cluster_id_to(id)).unwrap_or_default(),
            node_name: self.core.config.node_name.clone(),
            members_hash: self.core.config.bootstrap.members_hash(),
        }))
    }

    async fn join(&self, request: Request<wire::JoinRequest>) -> Result<Response<wire::JoinResponse>, Status> {
        let request = request.into_inner();
        let addresses = codec::addresses_from(request.addresses).map_err(misread)?;
        let token = codec::token_from(&request.token).map_err(misread)?;
        use wire::join_response::Result as Wire;
        let result = match self.core.admit(&request.node_name, addresses, token).await {
            Ok((cluster_id, node)) => {
                Wire::Admitted(wire::Admitted { cluster_id: codec::cluster_id_to(cluster_id), node: node.0 })
            }
            Err(HereError::NotLeader(hint)) => Wire::NotLeader(not_leader(hint)),
            Err(HereError::Unknown) => Wire::NotLeader(not_leader(None)),
            Err(HereError::Refused(text)) => Wire::Refused(text),
            Err(HereError::Stopped) => return Err(Status::unavailable("this node is stopping")),
        };
        Ok(Response::new(wire::JoinResponse { result: Some(result) }))
    }

    async fn invite(&self, request: Request<wire::InviteRequest>) -> Result<Response<wire::InviteResponse>, Status> {
        let result = self.core.be_invited(request.into_inner());
        Ok(Response::new(wire::InviteResponse { result: Some(result) }))
    }

    async fn propose(&self, request: Request<wire::ProposeRequest>) -> Result<Response<wire::ProposeResponse>, Status> {
        let request = request.into_inner();
        self.core.peers.check(request.header)?;
        let change = request.change.ok_or_else(|| Status::invalid_argument("the proposal is empty"))?;
        let stamped = codec::stamped_from(change).map_err(misread)?;
        use wire::propose_response::Result as Wire;
        let result = match self.core.propose_here(stamped).await {
            Ok(committed) => Wire::Committed(wire::Committed {
                index: committed.index,
                outcome: Some(codec::outcome_to(&committed.outcome)),
                unconfirmed: committed.unconfirmed.iter().map(|node| node.0).collect(),
            }),
            Err(HereError::NotLeader(hint)) => Wire::NotLeader(not_leader(hint)),
            Err(HereError::Unknown) => Wire::Unknown(wire::Blank {}),
            Err(HereError::Refused(text)) => Wire::Refused(text),
            Err(HereError::Stopped) => return Err(Status::unavailable("this node is stopping")),
        };
        Ok(Response::new(wire::ProposeResponse { result: Some(result) }))
    }

    async fn wait_applied(
        &self,
        request: Request<wire::WaitAppliedRequest>,
    ) -> Result<Response<wire::WaitAppliedResponse>, Status> {
        let request = request.into_inner();
        self.core.peers.check(request.header)?;
        let wait = Duration::from_millis(u64::from(request.wait_ms)).min(WAIT_MAX);
        let applied = self.core.wait_applied_here(request.index, wait).await;
        Ok(Response::new(wire::WaitAppliedResponse { applied }))
    }

    async fn read_index(
        &self,
        request: Request<wire::ReadIndexRequest>,
    ) -> Result<Response<wire::ReadIndexResponse>, Status> {
        self.core.peers.check(request.into_inner().header)?;
        use wire::read_index_response::Result as Wire;
        let result = match self.core.read_index_here().await {
            Ok(index) => Wire::Index(index),
            Err(HereError::NotLeader(hint)) => Wire::NotLeader(not_leader(hint)),
            Err(_) => Wire::NotLeader(not_leader(None)),
        };
        Ok(Response::new(wire::ReadIndexResponse { result: Some(result) }))
    }

    async fn hand_over(
        &self,
        request: Request<wire::HandOverRequest>,
    ) -> Result<Response<wire::HandOverResponse>, Status> {
        let request = request.into_inner();
        self.core.peers.check(request.header)?;
        let to = (request.to != 0).then_some(NodeId(request.to));
        use wire::hand_over_response::Result as Wire;
        let result = match self.core.hand_over_here(to).await {
            Ok(()) => Wire::Started(wire::Blank {}),
            Err(HereError::NotLeader(hint)) => Wire::NotLeader(not_leader(hint)),
            Err(HereError::Refused(text)) => Wire::Refused(text),
            Err(_) => Wire::Refused(String::from("the hand-over did not happen in time")),
        };
        Ok(Response::new(wire::HandOverResponse { result: Some(result) }))
    }

    async fn renew(&self, request: Request<wire::RenewRequest>) -> Result<Response<wire::RenewResponse>, Status> {
        let request = request.into_inner();
        let node = self.core.peers.check(request.header)?;
        let groups = request.groups.into_iter().map(codec::standing_from).collect();
        let incarnation = Incarnation(request.incarnation);
        let renewed = self.core.renew_here(node, incarnation, request.applied, request.gave_up, groups).await;
        Ok(Response::new(renewed_to(renewed)))
    }

    async fn seal(&self, request: Request<wire::SealRequest>) -> Result<Response<wire::SealResponse>, Status> {
        let request = request.into_inner();
        self.core.peers.check(request.header)?;
        let (incarnation, report) = self.core.seal_here(GroupId(request.group), Epoch(request.epoch))?;
        let standing = Some(codec::standing_to(&report));
        Ok(Response::new(wire::SealResponse { incarnation: incarnation.0, standing }))
    }

    async fn move_primary(
        &self,
        request: Request<wire::MovePrimaryRequest>,
    ) -> Result<Response<wire::MovePrimaryResponse>, Status> {
        let request = request.into_inner();
        self.core.peers.check(request.header)?;
        let to = (request.to != 0).then_some(NodeId(request.to));
        let how = (request.accept_loss, Duration::from_millis(request.wait_ms));
        let moved = self.core.move_primary_here(GroupId(request.group), to, how, &request.actor).await;
        use wire::move_primary_response::Result as Wire;
        let result = match moved {
            Ok(()) => Wire::Done(wire::Blank {}),
            Err(HereError::NotLeader(hint)) => Wire::NotLeader(not_leader(hint)),
            Err(HereError::Refused(text)) => Wire::Refused(text),
            Err(_) => Wire::Refused(String::from("whether the primary was moved is not known yet; look at the status")),
        };
        Ok(Response::new(wire::MovePrimaryResponse { result: Some(result) }))
    }

    async fn hand_over_group(
        &self,
        request: Request<wire::HandOverGroupRequest>,
    ) -> Result<Response<wire::HandOverGroupResponse>, Status> {
        let request = request.into_inner();
        self.core.peers.check(request.header)?;
        let target = request.target.ok_or_else(|| Status::invalid_argument("the message names no target"))?;
        let target = codec::member_from(target);
        let failed = self.core.hand_over_group_here(GroupId(request.group), target).await.err().unwrap_or_default();
        Ok(Response::new(wire::HandOverGroupResponse { failed }))
    }

    async fn purge_tenant(
        &self,
        request: Request<wire::PurgeTenantRequest>,
    ) -> Result<Response<wire::PurgeTenantResponse>, Status> {
        let request = request.into_inner();
        self.core.peers.check(request.header)?;
        let purged = self.core.purge_tenant_here(GroupId(request.group), request.tenant).await;
        Ok(Response::new(wire::PurgeTenantResponse { failed: purged.err().unwrap_or_default() }))
    }

    async fn hold_keys(
        &self,
        request: Request<wire::HoldKeysRequest>,
    ) -> Result<Response<wire::HoldKeysResponse>, Status> {
        let request = request.into_inner();
        self.core.peers.check(request.header)?;
        let held = self.core.hold_keys_here(GroupId(request.group), request.index).await;
        let (position, failed) = held.map_or_else(|failed| (0, failed), |position| (position, String::new()));
        Ok(Response::new(wire::HoldKeysResponse { failed, position }))
    }

    async fn save_group(
        &self,
        request: Request<wire::SaveGroupRequest>,
    ) -> Result<Response<wire::SaveGroupResponse>, Status> {
        let wire::SaveGroupRequest { header, group, epoch, position } = request.into_inner();
        self.core.peers.check(header)?;
        let saved = self.core.save_group_here(GroupId(group), (Epoch(epoch), position));
        Ok(Response::new(wire::SaveGroupResponse { saved: saved.map_err(Status::unavailable)? }))
    }

    async fn standing(
        &self,
        request: Request<wire::StandingRequest>,
    ) -> Result<Response<wire::StandingResponse>, Status> {
        self.core.peers.check(request.into_inner().header)?;
        use wire::standing_response::Result as Wire;
        let result = match self.core.standings_here() {
            Some(nodes) => {
                Wire::Standings(wire::Standings { nodes: nodes.iter().map(codec::node_standing_to).collect() })
            }
            None => Wire::NotLeader(not_leader(self.core.hint())),
        };
        Ok(Response::new(wire::StandingResponse { result: Some(result) }))
    }

    async fn inquire(&self, request: Request<wire::InquireRequest>) -> Result<Response<wire::InquireResponse>, Status> {
        let request = request.into_inner();
        self.core.peers.check(request.header)?;
        let answerer = self.core.answerer.get().ok_or_else(|| Status::unavailable("the node is still starting"))?;
        let answer = answerer.answer(&request.question).await;
        let answer = answer.ok_or_else(|| Status::unimplemented("this node does not know the question"))?;
        Ok(Response::new(wire::InquireResponse { answer }))
    }
}

fn renewed_to(renewed: Renewed) -> wire::RenewResponse {
    use wire::renew_response::Result as Wire;
    let result = match renewed {
        Renewed::Granted(grant) => Wire::Grant(wire::Grant { ttl_ms: grant.ttl_ms, must_apply: grant.must_apply }),
        Renewed::NotLeader(hint) => Wire::NotLeader(not_leader(hint)),
        Renewed::GiveUp => Wire::GiveUp(wire::Blank {}),
        Renewed::Refused(reason) => Wire::Refused(reason),
    };
    wire::RenewResponse { result: Some(result) }
}

fn misread(error: CodecError) -> Status {
    Status::invalid_argument(error.to_string())
}

fn fatal(error: RaftError<TypeConfig>) -> Status {
    Status::internal(error.to_string())
}

fn not_leader(hint: Hint) -> wire::NotLeader {
    let (leader, peer_address) = hint.map(|(node, address)| (node.0, address)).unwrap_or_default();
    wire::NotLeader { leader, peer_address }
}

fn vote_request_from(request: wire::VoteRequest) -> Result<VoteRequest<TypeConfig>, CodecError> {
    let mut rpc = VoteRequest::new(codec::vote_from(request.vote)?, codec::log_id_from(request.last_log_id)?);
    rpc.leadership_transfer = request.leadership_transfer;
    Ok(rpc)
}

fn vote_response_to(response: &VoteResponse<TypeConfig>) -> wire::VoteResponse {
    wire::VoteResponse {
        vote: Some(codec::vote_to(&response.vote)),
        granted: response.vote_granted,
        last_log_id: response.last_log_id.as_ref().map(codec::log_id_to),
    }
}
