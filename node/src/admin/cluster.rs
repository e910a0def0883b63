//! `keyward.admin.v1.Cluster`: nodes, who leads, who serves, and the history of changes.

use std::collections::BTreeSet;
use std::sync::Arc;

use keyward_cluster::{ChangeRecord, GroupId, MoveChange, MovePhase, Moved, NodeId, NodeInfo, State};
use keyward_proto::admin::cluster_server::Cluster;
use keyward_proto::admin::{
    AbortMoveRequest, AbortMoveResponse, AddNodeRequest, AddNodeResponse, Addresses, Change, ControlRole, Copy,
    Failover, GetStatusRequest, GetStatusResponse, ListChangesRequest, ListChangesResponse, ListNodesRequest,
    ListNodesResponse, Move, MoveKeysRequest, MoveKeysResponse, MovePrimaryRequest, MovePrimaryResponse, Node,
    RemoveNodeRequest, RemoveNodeResponse, ShardGroup, SlotRange, TransferLeadershipRequest,
    TransferLeadershipResponse, WatchChangesRequest, WatchChangesResponse,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::auth::{Door, text};
use super::backend::{AdminBackend, ControlStatus, Member, Origin};
use crate::control::{GroupReport, NodeStanding};
use crate::live::MIN_IN_SYNC;
use crate::places::Caller;

/// The lines of history listed if the caller does not say.
const CHANGES_LISTED: usize = 100;
/// Changes under way to a watcher; one that reads more slowly holds only itself up.
const CHANGES_QUEUED: usize = 16;

/// The cluster.
pub struct ClusterService<B: AdminBackend> {
    door: Arc<Door<B>>,
}

impl<B: AdminBackend> ClusterService<B> {
    /// The service behind `door`.
    pub fn new(door: Arc<Door<B>>) -> Self {
        Self { door }
    }

    fn backend(&self) -> &B {
        self.door.backend()
    }

    async fn nodes(&self) -> Result<Vec<Node>, Status> {
        let control = self.backend().control().await?;
        Ok(nodes(&self.backend().state(), &control, self.backend().node_id()))
    }
}

#[tonic::async_trait]
impl<B: AdminBackend> Cluster for ClusterService<B> {
    async fn get_status(&self, request: Request<GetStatusRequest>) -> Result<Response<GetStatusResponse>, Status> {
        let _caller = self.door.admit(&request, &[b"CLUSTER", b"INFO"]).await?;
        let control = self.backend().control().await?;
        let (state, me) = (self.backend().state(), self.backend().node_id());
        let readiness = self.backend().readiness();
        Ok(Response::new(GetStatusResponse {
            cluster_id: state.cluster_id().map(|id| id.to_string()).unwrap_or_default(),
            node_id: me.map_or(0, |node| node.0),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            leader_id: control.leader.map_or(0, |leader| leader.0),
            term: control.term,
            applied_index: state.applied_index(),
            ready: readiness.is_ok(),
            not_ready_reason: readiness.err().unwrap_or_default(),
            nodes: nodes(&state, &control, me),
            groups: state.groups().values().map(|known| group(known, &control.standings)).collect(),
            users: state.directory().iter().count() as u64,
            last_move: last_move(&state),
        }))
    }

    async fn list_nodes(&self, request: Request<ListNodesRequest>) -> Result<Response<ListNodesResponse>, Status> {
        let _caller = self.door.admit(&request, &[b"CLUSTER", b"NODES"]).await?;
        Ok(Response::new(ListNodesResponse { nodes: self.nodes().await? }))
    }

    async fn add_node(&self, request: Request<AddNodeRequest>) -> Result<Response<AddNodeResponse>, Status> {
        let AddNodeRequest { peer_address, name } = request.get_ref();
        let (host, port) = peer_address.rsplit_once(':').unwrap_or((peer_address, ""));
        let argv: [&[u8]; 4] = [b"CLUSTER", b"MEET", host.as_bytes(), port.as_bytes()];
        let caller = self.door.admit(&request, &argv).await?;
        if host.is_empty() || port.parse::<u16>().is_err() {
            return Err(Status::invalid_argument("a peer address looks like host:port"));
        }
        let name = Some(name.as_str()).filter(|name| !name.is_empty());
        let origin = Origin { actor: caller.name.clone(), request: None };
        let id = self.backend().add_node(peer_address, name, origin).await?;
        let node = self.nodes().await?.into_iter().find(|node| node.id == id.0);
        Ok(Response::new(AddNodeResponse { node }))
    }

    async fn remove_node(&self, request: Request<RemoveNodeRequest>) -> Result<Response<RemoveNodeResponse>, Status> {
        let node = NodeId(request.get_ref().node_id);
        let id = node.to_string();
        let argv: [&[u8]; 3] = [b"CLUSTER", b"FORGET", id.as_bytes()];
        let caller = self.door.admit(&request, &argv).await?;
        let state = self.backend().state();
        known_node(&state, node.0)?;
        let least = state.setting(MIN_IN_SYNC).and_then(|value| value.parse().ok()).unwrap_or(0);
        if state.nodes().len() <= least {
            return Err(Status::failed_precondition(format!(
                "min-in-sync is {least}: without this node no write would be confirmed; CONFIG SET {MIN_IN_SYNC} to less first"
            )));
        }
        let origin = Origin { actor: caller.name.clone(), request: None };
        let serves = |group: &&keyward_cluster::ShardGroup| group.primary.is_some_and(|primary| primary.node == node);
        for group in state.groups().values().filter(serves) {
            self.backend().move_primary(group.id, None, false, origin.clone()).await?;
        }
        self.backend().remove_node(node, origin).await?;
        Ok(Response::new(RemoveNodeResponse {}))
    }

    async fn transfer_leadership(
        &self,
        request: Request<TransferLeadershipRequest>,
    ) -> Result<Response<TransferLeadershipResponse>, Status> {
        let _caller = self.door.admit(&request, &[b"CLUSTER", b"FAILOVER"]).await?;
        let to = known_node(&self.backend().state(), request.get_ref().to_node)?;
        let leader = self.backend().transfer_leadership(to).await?;
        Ok(Response::new(TransferLeadershipResponse { leader_id: leader.0 }))
    }

    async fn move_primary(
        &self,
        request: Request<MovePrimaryRequest>,
    ) -> Result<Response<MovePrimaryResponse>, Status> {
        let caller = self.door.admit(&request, &[b"CLUSTER", b"FAILOVER"]).await?;
        let id = GroupId(request.get_ref().group_id);
        let state = self.backend().state();
        if !state.groups().contains_key(&id) {
            return Err(Status::not_found(format!("no shard group has the id {}", id.0)));
        }
        let to = known_node(&state, request.get_ref().to_node)?;
        let origin = Origin { actor: caller.name.clone(), request: None };
        self.backend().move_primary(id, to, request.get_ref().accept_loss, origin).await?;
        let group = self.backend().state().groups().get(&id).map(|known| group(known, &[]));
        Ok(Response::new(MovePrimaryResponse { group }))
    }

    async fn move_keys(&self, request: Request<MoveKeysRequest>) -> Result<Response<MoveKeysResponse>, Status> {
        let caller = self.door.admit(&request, &[b"CLUSTER", b"FAILOVER"]).await?;
        let MoveKeysRequest { slots, tenant, to_group } = request.get_ref();
        let state = self.backend().state();
        let what = match slots {
            Some(_) if !tenant.is_empty() => {
                return Err(Status::invalid_argument("either slots or a tenant is moved"));
            }
            Some(SlotRange { first, last }) => {
                let slot = |slot: &u32| u16::try_from(*slot).unwrap_or(u16::MAX);
                Moved::Slots((slot(first), slot(last)))
            }
            None => match state.tenants().get(tenant) {
                Some(known) => Moved::Tenant(known.number),
                None => return Err(Status::not_found(format!("there is no tenant '{}'", text(tenant.as_bytes())))),
            },
        };
        let before = state.last_move().map_or(0, |known| known.index);
        let origin = Origin { actor: caller.name.clone(), request: None };
        self.backend().change_move(MoveChange::Begin { what, to: GroupId(*to_group) }, origin).await?;
        let begun = last_move(&self.backend().state()).filter(|known| known.index != before);
        Ok(Response::new(MoveKeysResponse { r#move: begun }))
    }

    async fn abort_move(&self, request: Request<AbortMoveRequest>) -> Result<Response<AbortMoveResponse>, Status> {
        let caller = self.door.admit(&request, &[b"CLUSTER", b"FAILOVER"]).await?;
        let why = format!("{} said so", caller.name);
        let origin = Origin { actor: caller.name.clone(), request: None };
        self.backend().change_move(MoveChange::Abort { index: 0, why }, origin).await?;
        Ok(Response::new(AbortMoveResponse { r#move: last_move(&self.backend().state()) }))
    }

    async fn list_changes(
        &self,
        request: Request<ListChangesRequest>,
    ) -> Result<Response<ListChangesResponse>, Status> {
        let _caller = self.door.admit(&request, &[b"ACL", b"LOG"]).await?;
        let ListChangesRequest { since, limit } = *request.get_ref();
        let limit = if limit == 0 { CHANGES_LISTED } else { limit as usize };
        let state = self.backend().state();
        let newer = state.history().filter(|record| record.index > since).count();
        let skipped = newer.saturating_sub(limit);
        let listed = state.history().filter(|record| record.index > since).skip(skipped);
        Ok(Response::new(ListChangesResponse {
            changes: listed.map(change).collect(),
            truncated: skipped > 0 || is_gone(&state, since),
            applied_index: state.applied_index(),
        }))
    }

    type WatchChangesStream = ReceiverStream<Result<WatchChangesResponse, Status>>;

    async fn watch_changes(
        &self,
        request: Request<WatchChangesRequest>,
    ) -> Result<Response<Self::WatchChangesStream>, Status> {
        let caller = self.door.admit(&request, &[b"ACL", b"LOG"]).await?;
        let permit = self.door.begin_watch()?;
        let state = self.backend().state();
        let since = request.get_ref().since.unwrap_or(state.applied_index());
        if is_gone(&state, since) {
            let text = "the history no longer reaches back that far; list the users and watch from there";
            return Err(Status::out_of_range(text));
        }
        let peer = Caller::of(&request).map(|caller| caller.address().to_string()).unwrap_or_default();
        let (sender, receiver) = mpsc::channel(CHANGES_QUEUED);
        let watcher = Watcher { door: Arc::clone(&self.door), login: caller.login, peer, sender };
        tokio::spawn(async move {
            watcher.run(since).await;
            drop(permit);
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

/// Sends changes to one caller for as long as it listens and may.
struct Watcher<B: AdminBackend> {
    door: Arc<Door<B>>,
    login: B::Login,
    peer: String,
    sender: mpsc::Sender<Result<WatchChangesResponse, Status>>,
}

impl<B: AdminBackend> Watcher<B> {
    async fn run(mut self, since: u64) {
        let mut stopping = self.door.stopping();
        let (sender, last_words) = (self.sender.clone(), self.sender.clone());
        let status = tokio::select! {
            () = sender.closed() => return,
            _ = stopping.wait_for(|stopping| *stopping) => Status::unavailable("the node is stopping"),
            status = self.send_changes(since) => status,
        };
        // A caller that does not read is told nothing more.
        let _ = last_words.try_send(Err(status));
    }

    /// Sends what happens after `last`; answers why it ended.
    async fn send_changes(&mut self, mut last: u64) -> Status {
        loop {
            let state = self.door.backend().state_past(last).await;
            // Whoever was deleted or lost the right since the last change learns nothing of this one.
            let Some(login) = self.door.backend().renew(&self.login) else {
                return Status::unauthenticated("the user is gone or its password has changed");
            };
            let permitted = self.door.backend().permit(&login, &[b"ACL", b"LOG"], &self.peer);
            if let Err(denial) = permitted {
                return denial.into();
            }
            self.login = login;
            if is_gone(&state, last) {
                return Status::out_of_range("changes came faster than they were read");
            }
            for record in state.history().filter(|record| record.index > last) {
                let response = WatchChangesResponse { change: Some(change(record)) };
                if self.sender.send(Ok(response)).await.is_err() {
                    return Status::cancelled("the caller left");
                }
            }
            last = state.applied_index();
        }
    }
}

/// Whether changes after `index` may have left the bounded history.
fn is_gone(state: &State, index: u64) -> bool {
    let mut history = state.history();
    history.len() >= State::HISTORY_MAX && history.next().is_some_and(|oldest| oldest.index > index.saturating_add(1))
}

/// The node of this id; `None` for 0, which lets the cluster choose.
fn known_node(state: &State, id: u64) -> Result<Option<NodeId>, Status> {
    match id {
        0 => Ok(None),
        id if state.nodes().contains_key(&NodeId(id)) => Ok(Some(NodeId(id))),
        id => Err(Status::not_found(format!("no node has the id {id}"))),
    }
}

fn nodes(state: &State, control: &ControlStatus, me: Option<NodeId>) -> Vec<Node> {
    let primaries: BTreeSet<NodeId> =
        state.groups().values().filter_map(|group| group.primary.map(|primary| primary.node)).collect();
    let describe = |info: &NodeInfo| {
        let primary = primaries.contains(&info.id);
        Node { primary, answering: me == Some(info.id), ..node(info, control) }
    };
    state.nodes().values().map(describe).collect()
}

fn node(info: &NodeInfo, control: &ControlStatus) -> Node {
    let member = control.members.get(&info.id);
    let role = match member {
        _ if control.leader == Some(info.id) => ControlRole::Leader,
        Some(Member { voter: true, .. }) => ControlRole::Follower,
        Some(Member { voter: false, .. }) => ControlRole::Learner,
        None => ControlRole::Unspecified,
    };
    let addresses = Addresses {
        client: info.addresses.client.clone(),
        admin: info.addresses.admin.clone(),
        http: info.addresses.http.clone(),
        peer: info.addresses.peer.clone(),
    };
    Node {
        id: info.id.0,
        name: info.name.clone(),
        addresses: Some(addresses),
        role: role.into(),
        reachable: member.map(|member| member.applied_index.is_some()),
        applied_index: member.and_then(|member| member.applied_index),
        joined_index: info.joined_index,
        ..Node::default()
    }
}

fn group(group: &keyward_cluster::ShardGroup, standings: &[NodeStanding]) -> ShardGroup {
    fn report(standing: &NodeStanding, group: keyward_cluster::GroupId) -> Option<&GroupReport> {
        standing.groups.iter().find(|report| report.group == group)
    }
    let primary = standings.iter().find(|standing| group.primary.is_some_and(|primary| primary.node == standing.node));
    let primary = primary.and_then(|standing| report(standing, group.id));
    ShardGroup {
        id: group.id.0,
        first_slot: group.slots.first().map_or(0, |(first, _)| u32::from(*first)),
        last_slot: group.slots.first().map_or(0, |(_, last)| u32::from(*last)),
        slots: group
            .slots
            .iter()
            .map(|(first, last)| SlotRange { first: u32::from(*first), last: u32::from(*last) })
            .collect(),
        epoch: group.epoch.0,
        primary_node: group.primary.map_or(0, |primary| primary.node.0),
        in_sync_nodes: group.in_sync.iter().map(|member| member.node.0).collect(),
        in_sync_version: group.in_sync_version,
        last_failover: group.last_failover.as_ref().map(failover),
        copies: standings.iter().map(|standing| copy(group, standing, report(standing, group.id), primary)).collect(),
    }
}

/// The move under way, or the last one.
fn last_move(state: &State) -> Option<Move> {
    let known = state.last_move()?;
    let what = match &known.what {
        Moved::Tenant(number) => match state.tenants().numbered(*number) {
            Some(tenant) => format!("tenant {}", tenant.name),
            None => known.what.to_string(),
        },
        Moved::Slots(_) => known.what.to_string(),
    };
    let phase = match known.phase {
        MovePhase::Copying => "copying",
        MovePhase::Dropping(_) => "cleaning up",
        MovePhase::Done if known.failed.is_some() => "failed",
        MovePhase::Done => "done",
    };
    Some(Move {
        index: known.index,
        at_unix_ms: known.at.0 as i64,
        what,
        from_group: known.from.0,
        to_group: known.to.0,
        phase: phase.to_owned(),
        failed: known.failed.clone().unwrap_or_default(),
        over: known.phase == MovePhase::Done,
    })
}

fn failover(failover: &keyward_cluster::Failover) -> Failover {
    Failover {
        index: failover.index,
        at_unix_ms: failover.at.0 as i64,
        from_node: failover.from.map_or(0, |from| from.node.0),
        to_node: failover.to.node.0,
        reason: failover.reason.to_string(),
    }
}

fn copy(
    group: &keyward_cluster::ShardGroup,
    standing: &NodeStanding,
    report: Option<&GroupReport>,
    primary: Option<&GroupReport>,
) -> Copy {
    let member = keyward_cluster::Member { node: standing.node, incarnation: standing.incarnation };
    let (snapshot_epoch, snapshot_position) =
        report.and_then(|report| report.snapshot).map_or((0, 0), |(epoch, position)| (epoch.0, position));
    let position = report.map_or(0, |report| report.position);
    Copy {
        node: standing.node.0,
        incarnation: standing.incarnation.0,
        in_sync: group.in_sync.contains(&member),
        has_data: report.is_some_and(|report| report.has_data),
        epoch: report.map_or(0, |report| report.epoch.0),
        position,
        behind: primary.map_or(0, |primary| primary.position.saturating_sub(position)),
        silent_ms: standing.silent_for.as_millis() as u64,
        lease_remaining_ms: standing.lease_left.as_millis() as u64,
        snapshot_epoch,
        snapshot_position,
        lag_ms: primary.and_then(|primary| lag_ms(primary, standing.node, report)),
    }
}

/// How old the oldest write is that a node lacks; nothing is lacking where the data is served.
fn lag_ms(primary: &GroupReport, node: NodeId, report: Option<&GroupReport>) -> Option<u64> {
    if report.is_some_and(|report| std::ptr::eq(report, primary)) {
        return Some(0);
    }
    primary.lags.iter().find(|(other, _)| *other == node).map(|(_, lag_ms)| *lag_ms)
}

fn change(record: &ChangeRecord) -> Change {
    Change {
        index: record.index,
        at_unix_ms: record.at.0 as i64,
        actor: record.actor.clone(),
        source: record.source.clone(),
        summary: record.summary.clone(),
    }
}
