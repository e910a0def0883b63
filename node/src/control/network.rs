//! Raft's calls to other nodes over gRPC. Each has a deadline; what cannot be reached is said to be unreachable.

use std::future::Future;
use std::time::Duration;

use keyward_cluster::NodeId;
use keyward_proto::control as wire;
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderError, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use prost::Message;
use tonic::{Response, Status};

use super::codec::{self, CodecError};
use super::peers::{Client, Peers};
use super::raft_types::{Snapshot, TypeConfig, Vote};

/// Entries may be large and the follower syncs them before it answers; heartbeats keep their own, shorter deadline.
const APPEND_TIMEOUT: Duration = Duration::from_secs(2);

/// Makes the connection to each node of the Raft group.
pub(crate) struct Network {
    pub(crate) peers: Peers,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Connection;

    async fn new_client(&mut self, target: NodeId, node: &openraft::BasicNode) -> Connection {
        Connection { peers: self.peers.clone(), target, fallback: node.addr.clone() }
    }
}

/// Raft's way to one node.
pub(crate) struct Connection {
    peers: Peers,
    target: NodeId,
    /// Where the node was when it entered the group; the registry knows better once it knows the node.
    fallback: String,
}

impl Connection {
    fn client(&self) -> Result<(Client, Option<wire::Header>), Status> {
        let address = self.peers.address_of(self.target).unwrap_or_else(|| self.fallback.clone());
        Ok((self.peers.client(&address)?, self.peers.header(self.target)))
    }

    /// Waits for an answer, at most until the deadline.
    async fn call<T>(
        &self,
        deadline: Duration,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Unreachable<TypeConfig>> {
        let answer = tokio::time::timeout(deadline, call).await;
        match answer {
            Ok(Ok(response)) => {
                self.peers.heard_from(self.target);
                Ok(response.into_inner())
            }
            Ok(Err(status)) => {
                self.peers.learn_from(&status);
                Err(unreachable(&status))
            }
            Err(_) => Err(Unreachable::from_string("no answer within the deadline")),
        }
    }
}

impl RaftNetworkV2<TypeConfig> for Connection {
    type SnapshotData = bytes::Bytes;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let (mut client, header) = self.client().map_err(|status| unreachable(&status))?;
        let deadline = if rpc.entries.is_empty() { option.hard_ttl() } else { option.hard_ttl().max(APPEND_TIMEOUT) };
        let request = wire::AppendEntriesRequest {
            header,
            vote: Some(codec::vote_to(&rpc.vote)),
            prev_log_id: rpc.prev_log_id.as_ref().map(codec::log_id_to),
            entries: rpc.entries.iter().map(codec::entry_to).collect(),
            leader_commit: rpc.leader_commit.as_ref().map(codec::log_id_to),
        };
        let response = self.call(deadline, client.append_entries(request)).await?;
        Ok(append_response_from(response).map_err(misread)?)
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let (mut client, header) = self.client().map_err(|status| unreachable(&status))?;
        let response = self.call(option.hard_ttl(), client.vote(vote_request_to(header, &rpc))).await?;
        Ok(vote_response_from(response).map_err(misread)?)
    }

    // A peer that cannot be asked has not agreed: answering for it would turn pre-vote into nothing.
    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let (mut client, header) = self.client().map_err(|status| unreachable(&status))?;
        let response = self.call(option.hard_ttl(), client.pre_vote(vote_request_to(header, &rpc))).await?;
        Ok(vote_response_from(response).map_err(misread)?)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let (mut client, header) = self.client().map_err(|status| unreachable(&status))?;
        let request = wire::InstallSnapshotRequest {
            header,
            vote: Some(codec::vote_to(&vote)),
            meta: Some(codec::snapshot_meta_to(&snapshot.meta)),
            state: snapshot.snapshot.to_vec(),
        };
        let call = self.call(option.hard_ttl(), client.install_snapshot(request));
        let response = tokio::select! {
            closed = cancel => return Err(StreamingError::Closed(closed)),
            response = call => response?,
        };
        Ok(SnapshotResponse::new(codec::vote_from(response.vote).map_err(misread)?))
    }

    async fn transfer_leader(
        &mut self,
        rpc: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        let (mut client, header) = self.client().map_err(|status| unreachable(&status))?;
        let request = wire::TransferLeaderRequest {
            header,
            from_leader: Some(codec::vote_to(rpc.from_leader())),
            to: rpc.to_node_id().0,
            last_log_id: rpc.last_log_id().map(codec::log_id_to),
        };
        let response = self.call(option.hard_ttl(), client.transfer_leader(request)).await?;
        Ok(transfer_response_from(response).map_err(misread)?)
    }
}

fn unreachable(status: &Status) -> Unreachable<TypeConfig> {
    Unreachable::from_string(format!("{:?}: {}", status.code(), status.message()))
}

fn misread(error: CodecError) -> Unreachable<TypeConfig> {
    Unreachable::from_string(error)
}

fn vote_request_to(header: Option<wire::Header>, rpc: &VoteRequest<TypeConfig>) -> wire::VoteRequest {
    wire::VoteRequest {
        header,
        vote: Some(codec::vote_to(&rpc.vote)),
        last_log_id: rpc.last_log_id.as_ref().map(codec::log_id_to),
        leadership_transfer: rpc.leadership_transfer,
    }
}

fn vote_response_from(response: wire::VoteResponse) -> Result<VoteResponse<TypeConfig>, CodecError> {
    let (vote, last) = (codec::vote_from(response.vote)?, codec::log_id_from(response.last_log_id)?);
    Ok(VoteResponse::new(vote, last, response.granted))
}

fn append_response_from(
    response: wire::AppendEntriesResponse,
) -> Result<AppendEntriesResponse<TypeConfig>, CodecError> {
    use wire::append_entries_response::Result as Wire;
    Ok(match response.result.ok_or(CodecError("the answer to entries"))? {
        Wire::Success(_) => AppendEntriesResponse::Success,
        Wire::Partial(partial) => AppendEntriesResponse::PartialSuccess(codec::log_id_from(partial.log_id)?),
        Wire::Conflict(_) => AppendEntriesResponse::Conflict,
        Wire::HigherVote(vote) => AppendEntriesResponse::HigherVote(codec::vote_from(Some(vote))?),
    })
}

fn transfer_response_from(
    response: wire::TransferLeaderResponse,
) -> Result<TransferLeaderResponse<TypeConfig>, CodecError> {
    use wire::transfer_leader_response::Result as Wire;
    Ok(match response.result.ok_or(CodecError("the answer to a hand-over"))? {
        Wire::Accepted(_) => Ok(()),
        Wire::VoteChanged(changed) => Err(TransferLeaderError::VoteChanged {
            expected: codec::vote_from(changed.expected)?,
            actual: codec::vote_from(changed.actual)?,
        }),
        Wire::LogNotFlushed(behind) => Err(TransferLeaderError::LogNotFlushed {
            expected: codec::log_id_from(behind.expected)?,
            actual: codec::log_id_from(behind.actual)?,
        }),
    })
}

/// The size of a change as it will lie in the log.
pub(crate) fn change_bytes(stamped: &wire::StampedChange) -> usize {
    stamped.encoded_len()
}
