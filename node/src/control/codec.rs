//! Raft's and the cluster's types to and from protobuf, by hand, in one place.
//!
//! The same messages go to peers, into the log and into snapshots. Reading refuses what it does not understand: a node
//! that skips an unknown change would silently hold another state than its peers.
//!
//! Users are the business of [`super::codec_users`]; Raft, nodes and the written state are here.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use keyward_cluster as cluster;
use keyward_cluster::{
    Addresses, AppliedRequest, Change, ChangeRecord, ClusterId, Epoch, Failover, FailoverReason, Founder, GroupId,
    Incarnation, JoinToken, Member, Move, MoveChange, MovePhase, Moved, NodeId, NodeInfo, Outcome, Refusal, RequestId,
    ShardGroup, SlotRange, Stamped, StateRecord, TenantNumber, UnixMillis,
};
use keyward_proto::control as wire;
use openraft::EntryPayload;

use super::codec_imports as imports;
use super::codec_tenants as tenants;
use super::codec_users as users;
use super::data_plane::GroupReport;
use super::failover::NodeStanding;
use super::raft_types::{Entry, LeaderId, LogId, Membership, SnapshotMeta, StoredMembership, Vote};

/// Bytes that are not what they should be. Names the field, never its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodecError(pub &'static str);

impl fmt::Display for CodecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot read {}: written by a newer version, or damaged", self.0)
    }
}

impl std::error::Error for CodecError {}

impl From<CodecError> for std::io::Error {
    fn from(error: CodecError) -> Self {
        Self::new(std::io::ErrorKind::InvalidData, error)
    }
}

// ---- Raft ----

pub(crate) fn vote_to(vote: &Vote) -> wire::Vote {
    wire::Vote { leader: Some(leader_to(vote.leader_id())), committed: vote.is_committed() }
}

pub(crate) fn vote_from(vote: Option<wire::Vote>) -> Result<Vote, CodecError> {
    let vote = vote.ok_or(CodecError("a vote"))?;
    let leader = leader_from(vote.leader)?;
    Ok(match vote.committed {
        true => Vote::new_committed(leader.term, leader.node_id),
        false => Vote::new(leader.term, leader.node_id),
    })
}

fn leader_to(leader: &LeaderId) -> wire::LeaderId {
    wire::LeaderId { term: leader.term, node: leader.node_id.0 }
}

fn leader_from(leader: Option<wire::LeaderId>) -> Result<LeaderId, CodecError> {
    let leader = leader.ok_or(CodecError("a leader id"))?;
    Ok(LeaderId { term: leader.term, node_id: NodeId(leader.node) })
}

pub(crate) fn log_id_to(log_id: &LogId) -> wire::LogId {
    wire::LogId { leader: Some(leader_to(log_id.committed_leader_id())), index: log_id.index() }
}

pub(crate) fn log_id_from(log_id: Option<wire::LogId>) -> Result<Option<LogId>, CodecError> {
    let Some(log_id) = log_id else { return Ok(None) };
    Ok(Some(LogId::new(leader_from(log_id.leader)?, log_id.index)))
}

pub(crate) fn entry_to(entry: &Entry) -> wire::Entry {
    let payload = match &entry.payload {
        EntryPayload::Blank => wire::entry::Payload::Blank(wire::Blank {}),
        EntryPayload::Normal(stamped) => wire::entry::Payload::Change(stamped_to(stamped)),
        EntryPayload::Membership(membership) => wire::entry::Payload::Membership(membership_to(membership)),
    };
    wire::Entry { log_id: Some(log_id_to(&entry.log_id)), payload: Some(payload) }
}

pub(crate) fn entry_from(entry: wire::Entry) -> Result<Entry, CodecError> {
    let log_id = log_id_from(entry.log_id)?.ok_or(CodecError("the id of an entry"))?;
    let payload = match entry.payload.ok_or(CodecError("the payload of an entry"))? {
        wire::entry::Payload::Blank(_) => EntryPayload::Blank,
        wire::entry::Payload::Change(stamped) => EntryPayload::Normal(stamped_from(stamped)?),
        wire::entry::Payload::Membership(membership) => EntryPayload::Membership(membership_from(membership)?),
    };
    Ok(Entry { log_id, payload })
}

fn membership_to(membership: &Membership) -> wire::Membership {
    let configs = membership.get_joint_config().iter();
    let members = membership.nodes();
    wire::Membership {
        configs: configs.map(|set| wire::VoterSet { nodes: set.iter().map(|id| id.0).collect() }).collect(),
        members: members.map(|(id, node)| wire::Member { node: id.0, peer_address: node.addr.clone() }).collect(),
    }
}

fn membership_from(membership: wire::Membership) -> Result<Membership, CodecError> {
    let configs: Vec<BTreeSet<NodeId>> =
        membership.configs.into_iter().map(|set| set.nodes.into_iter().map(NodeId).collect()).collect();
    let members: std::collections::BTreeMap<NodeId, openraft::BasicNode> = membership
        .members
        .into_iter()
        .map(|member| (NodeId(member.node), openraft::BasicNode::new(member.peer_address)))
        .collect();
    if configs.is_empty() && members.is_empty() {
        return Ok(Membership::default());
    }
    Membership::new(configs, members).map_err(|_| CodecError("a membership"))
}

fn stored_membership_to(stored: &StoredMembership) -> wire::StoredMembership {
    wire::StoredMembership {
        log_id: stored.log_id().as_ref().map(log_id_to),
        membership: Some(membership_to(stored.membership())),
    }
}

fn stored_membership_from(stored: Option<wire::StoredMembership>) -> Result<StoredMembership, CodecError> {
    let stored = stored.ok_or(CodecError("a stored membership"))?;
    let membership = membership_from(stored.membership.ok_or(CodecError("a membership"))?)?;
    Ok(StoredMembership::new(log_id_from(stored.log_id)?, membership))
}

pub(crate) fn snapshot_meta_to(meta: &SnapshotMeta) -> wire::SnapshotMeta {
    wire::SnapshotMeta {
        last_log_id: meta.last_log_id.as_ref().map(log_id_to),
        membership: Some(stored_membership_to(&meta.last_membership)),
    }
}

pub(crate) fn snapshot_meta_from(meta: Option<wire::SnapshotMeta>) -> Result<SnapshotMeta, CodecError> {
    let meta = meta.ok_or(CodecError("what a snapshot holds"))?;
    Ok(SnapshotMeta {
        last_log_id: log_id_from(meta.last_log_id)?,
        last_membership: stored_membership_from(meta.membership)?,
    })
}

// ---- Changes ----

pub(crate) fn stamped_to(stamped: &Stamped) -> wire::StampedChange {
    wire::StampedChange {
        at_unix_ms: stamped.at.0,
        actor: stamped.actor.clone(),
        source: stamped.source.clone(),
        request: stamped.request.map(|id| sixteen_to(id.0)).unwrap_or_default(),
        change: Some(change_to(&stamped.change)),
    }
}

pub(crate) fn stamped_from(stamped: wire::StampedChange) -> Result<Stamped, CodecError> {
    let request = if stamped.request.is_empty() { None } else { Some(RequestId(sixteen_from(&stamped.request)?)) };
    Ok(Stamped {
        at: UnixMillis(stamped.at_unix_ms),
        actor: stamped.actor,
        source: stamped.source,
        request,
        change: change_from(stamped.change.ok_or(CodecError("a change"))?)?,
    })
}

fn change_to(change: &Change) -> wire::stamped_change::Change {
    use wire::stamped_change::Change as Wire;
    match change {
        Change::FormCluster { cluster_id, founder, groups, nodes } => Wire::FormCluster(wire::FormCluster {
            cluster_id: cluster_id_to(*cluster_id),
            node_name: founder.name.clone(),
            addresses: Some(addresses_to(&founder.addresses)),
            groups: *groups,
            nodes: *nodes,
        }),
        Change::User(change) => users::change_to(change),
        Change::AddNode { name, addresses, token } => Wire::AddNode(wire::AddNode {
            name: name.clone(),
            addresses: Some(addresses_to(addresses)),
            token: token_to(*token),
        }),
        Change::RemoveNode { node } => Wire::RemoveNode(wire::RemoveNode { node: node.0 }),
        Change::UpdateNodeAddresses { node, addresses } => Wire::UpdateNodeAddresses(wire::UpdateNodeAddresses {
            node: node.0,
            addresses: Some(addresses_to(addresses)),
        }),
        Change::StartNode { node, token } => Wire::StartNode(wire::StartNode { node: node.0, token: *token }),
        Change::ChangeInSync { group, expect_epoch, expect_version, in_sync } => {
            Wire::ChangeInSync(wire::ChangeInSync {
                group: group.0,
                expect_epoch: expect_epoch.0,
                expect_version: *expect_version,
                in_sync: members_to(in_sync),
            })
        }
        Change::SetPrimary { group, primary, in_sync, expect_epoch, reason } => Wire::SetPrimary(wire::SetPrimary {
            group: group.0,
            expect_epoch: expect_epoch.0,
            primary: Some(member_to(*primary)),
            in_sync: members_to(in_sync),
            reason: *reason as u32,
        }),
        Change::SetSetting { name, value } => {
            Wire::SetSetting(wire::SetSetting { name: name.clone(), value: value.clone() })
        }
        Change::Tenant(change) => Wire::ChangeTenant(tenants::change_to(change)),
        Change::Move(change) => Wire::ChangeMove(move_change_to(change)),
        Change::Import(change) => Wire::ChangeImport(imports::change_to(change)),
        Change::Noop => Wire::Noop(wire::Blank {}),
    }
}

fn change_from(change: wire::stamped_change::Change) -> Result<Change, CodecError> {
    use wire::stamped_change::Change as Wire;
    Ok(match change {
        Wire::FormCluster(form) => Change::FormCluster {
            cluster_id: cluster_id_from(&form.cluster_id)?,
            founder: Founder { name: form.node_name, addresses: addresses_from(form.addresses)? },
            groups: form.groups,
            nodes: form.nodes,
        },
        Wire::AddNode(add) => Change::AddNode {
            name: add.name,
            addresses: addresses_from(add.addresses)?,
            token: token_from(&add.token)?,
        },
        Wire::RemoveNode(remove) => Change::RemoveNode { node: NodeId(remove.node) },
        Wire::UpdateNodeAddresses(update) => {
            Change::UpdateNodeAddresses { node: NodeId(update.node), addresses: addresses_from(update.addresses)? }
        }
        Wire::StartNode(start) => Change::StartNode { node: NodeId(start.node), token: start.token },
        Wire::ChangeInSync(change) => Change::ChangeInSync {
            group: GroupId(change.group),
            expect_epoch: Epoch(change.expect_epoch),
            expect_version: change.expect_version,
            in_sync: members_from(change.in_sync),
        },
        Wire::SetPrimary(set) => Change::SetPrimary {
            group: GroupId(set.group),
            primary: member_from(set.primary.ok_or(CodecError("a primary"))?),
            in_sync: members_from(set.in_sync),
            expect_epoch: Epoch(set.expect_epoch),
            reason: reason_from(set.reason)?,
        },
        Wire::SetSetting(set) => Change::SetSetting { name: set.name, value: set.value },
        Wire::ChangeTenant(change) => Change::Tenant(tenants::change_from(change)?),
        Wire::ChangeMove(change) => Change::Move(move_change_from(change)?),
        Wire::ChangeImport(change) => Change::Import(imports::change_from(change)?),
        Wire::Noop(_) => Change::Noop,
        Wire::SetUser(_) | Wire::DeleteUsers(_) | Wire::ReplaceUsers(_) | Wire::ImportUsers(_) => {
            Change::User(users::change_from(change)?)
        }
    })
}

pub(crate) fn member_to(member: Member) -> wire::GroupMember {
    wire::GroupMember { node: member.node.0, incarnation: member.incarnation.0 }
}

pub(crate) fn member_from(member: wire::GroupMember) -> Member {
    Member { node: NodeId(member.node), incarnation: Incarnation(member.incarnation) }
}

fn members_to(members: &BTreeSet<Member>) -> Vec<wire::GroupMember> {
    members.iter().copied().map(member_to).collect()
}

fn members_from(members: Vec<wire::GroupMember>) -> BTreeSet<Member> {
    members.into_iter().map(member_from).collect()
}

pub(crate) fn standing_to(report: &GroupReport) -> wire::GroupStanding {
    let position = |(epoch, position): (Epoch, u64)| wire::SnapshotPosition { epoch: epoch.0, position };
    wire::GroupStanding {
        group: report.group.0,
        epoch: report.epoch.0,
        position: report.position,
        has_data: report.has_data,
        snapshot: report.snapshot.map(position),
        promised_ms: report.promised_ms,
        sealed: report.sealed.0,
        lags: report.lags.iter().map(|(node, lag_ms)| wire::ReplicaLag { node: node.0, lag_ms: *lag_ms }).collect(),
    }
}

pub(crate) fn node_standing_to(standing: &NodeStanding) -> wire::NodeStanding {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    wire::NodeStanding {
        node: standing.node.0,
        incarnation: standing.incarnation.0,
        applied: standing.applied,
        silent_ms: millis(standing.silent_for),
        lease_left_ms: millis(standing.lease_left),
        groups: standing.groups.iter().map(standing_to).collect(),
    }
}

pub(crate) fn node_standing_from(standing: wire::NodeStanding) -> NodeStanding {
    NodeStanding {
        node: NodeId(standing.node),
        incarnation: Incarnation(standing.incarnation),
        applied: standing.applied,
        silent_for: Duration::from_millis(standing.silent_ms),
        lease_left: Duration::from_millis(standing.lease_left_ms),
        groups: standing.groups.into_iter().map(standing_from).collect(),
    }
}

pub(crate) fn standing_from(standing: wire::GroupStanding) -> GroupReport {
    GroupReport {
        group: GroupId(standing.group),
        epoch: Epoch(standing.epoch),
        position: standing.position,
        has_data: standing.has_data,
        snapshot: standing.snapshot.map(|snapshot| (Epoch(snapshot.epoch), snapshot.position)),
        promised_ms: standing.promised_ms,
        sealed: Epoch(standing.sealed),
        lags: standing.lags.iter().map(|lag| (NodeId(lag.node), lag.lag_ms)).collect(),
    }
}

fn reason_from(number: u32) -> Result<FailoverReason, CodecError> {
    FailoverReason::from_number(number).ok_or(CodecError("why a primary was named"))
}

pub(crate) fn addresses_to(addresses: &Addresses) -> wire::Addresses {
    wire::Addresses {
        client: addresses.client.clone(),
        admin: addresses.admin.clone(),
        http: addresses.http.clone(),
        peer: addresses.peer.clone(),
    }
}

pub(crate) fn addresses_from(addresses: Option<wire::Addresses>) -> Result<Addresses, CodecError> {
    let wire::Addresses { client, admin, http, peer } = addresses.ok_or(CodecError("addresses"))?;
    Ok(Addresses { client, admin, http, peer })
}

pub(crate) fn cluster_id_to(id: ClusterId) -> Vec<u8> {
    id.0.to_vec()
}

pub(crate) fn cluster_id_from(bytes: &[u8]) -> Result<ClusterId, CodecError> {
    bytes.try_into().map(ClusterId).map_err(|_| CodecError("a cluster id"))
}

pub(crate) fn token_to(token: JoinToken) -> Vec<u8> {
    sixteen_to(token.0)
}

pub(crate) fn token_from(bytes: &[u8]) -> Result<JoinToken, CodecError> {
    sixteen_from(bytes).map(JoinToken)
}

fn sixteen_to(number: u128) -> Vec<u8> {
    number.to_be_bytes().to_vec()
}

fn sixteen_from(bytes: &[u8]) -> Result<u128, CodecError> {
    bytes.try_into().map(u128::from_be_bytes).map_err(|_| CodecError("a 16 byte id"))
}

// ---- Outcomes ----

pub(crate) fn outcome_to(outcome: &Outcome) -> wire::Outcome {
    use wire::outcome::Outcome as Wire;
    let outcome = match outcome {
        Outcome::Done => Wire::Done(wire::Blank {}),
        Outcome::Unchanged => Wire::Unchanged(wire::Blank {}),
        Outcome::User(outcome) => Wire::User(users::outcome_to(outcome)),
        Outcome::NodeAdded { node, replaced } => {
            Wire::NodeAdded(wire::NodeAdded { node: node.0, replaced: replaced.map(|id| id.0) })
        }
        Outcome::Refused(refusal) => Wire::Refused(wire::Refusal { reason: Some(refusal_to(refusal)) }),
    };
    wire::Outcome { outcome: Some(outcome) }
}

pub(crate) fn outcome_from(outcome: Option<wire::Outcome>) -> Result<Outcome, CodecError> {
    use wire::outcome::Outcome as Wire;
    let outcome = outcome.and_then(|outcome| outcome.outcome).ok_or(CodecError("an outcome"))?;
    Ok(match outcome {
        Wire::Done(_) => Outcome::Done,
        Wire::Unchanged(_) => Outcome::Unchanged,
        Wire::User(outcome) => Outcome::User(users::outcome_from(outcome)?),
        Wire::NodeAdded(added) => Outcome::NodeAdded { node: NodeId(added.node), replaced: added.replaced.map(NodeId) },
        Wire::Refused(refusal) => Outcome::Refused(refusal_from(refusal)?),
    })
}

fn refusal_to(refusal: &Refusal) -> wire::refusal::Reason {
    use wire::refusal::Reason as Wire;
    match refusal {
        Refusal::AlreadyFormed => Wire::AlreadyFormed(wire::Blank {}),
        Refusal::NotFormed => Wire::NotFormed(wire::Blank {}),
        Refusal::UnknownNode(node) => Wire::UnknownNode(node.0),
        Refusal::UnknownGroup(group) => Wire::UnknownGroup(group.0),
        Refusal::StaleEpoch(epoch) => Wire::StaleEpoch(epoch.0),
        Refusal::StaleVersion(version) => Wire::StaleVersion(*version),
        Refusal::StaleMember(member) => Wire::StaleMember(member_to(*member)),
        Refusal::NotInSync(member) => Wire::NotInSync(member_to(*member)),
        Refusal::NotCold(group) => Wire::NotCold(group.0),
        Refusal::PrimaryNotInSync(group) => Wire::PrimaryNotInSync(group.0),
        Refusal::TooManyNodes => Wire::TooManyNodes(wire::Blank {}),
        Refusal::TooManySettings => Wire::TooManySettings(wire::Blank {}),
        Refusal::Tenant(refusal) => Wire::Tenant(tenants::refusal_to(refusal)),
        Refusal::Move(text) => Wire::NotMoved(text.clone()),
        Refusal::Import(text) => Wire::NotImported(text.clone()),
    }
}

fn refusal_from(refusal: wire::Refusal) -> Result<Refusal, CodecError> {
    use wire::refusal::Reason as Wire;
    Ok(match refusal.reason.ok_or(CodecError("why a change was refused"))? {
        Wire::AlreadyFormed(_) => Refusal::AlreadyFormed,
        Wire::NotFormed(_) => Refusal::NotFormed,
        Wire::UnknownNode(node) => Refusal::UnknownNode(NodeId(node)),
        Wire::UnknownGroup(group) => Refusal::UnknownGroup(GroupId(group)),
        Wire::StaleEpoch(epoch) => Refusal::StaleEpoch(Epoch(epoch)),
        Wire::StaleVersion(version) => Refusal::StaleVersion(version),
        Wire::StaleMember(member) => Refusal::StaleMember(member_from(member)),
        Wire::NotInSync(member) => Refusal::NotInSync(member_from(member)),
        Wire::NotCold(group) => Refusal::NotCold(GroupId(group)),
        Wire::PrimaryNotInSync(group) => Refusal::PrimaryNotInSync(GroupId(group)),
        Wire::TooManyNodes(_) => Refusal::TooManyNodes,
        Wire::TooManySettings(_) => Refusal::TooManySettings,
        Wire::Tenant(refusal) => Refusal::Tenant(tenants::refusal_from(refusal)?),
        Wire::NotMoved(text) => Refusal::Move(text),
        Wire::NotImported(text) => Refusal::Import(text),
    })
}

// ---- The written state ----

pub(crate) fn record_to(record: &StateRecord) -> wire::StateRecord {
    wire::StateRecord {
        cluster_id: record.cluster_id.map(cluster_id_to).unwrap_or_default(),
        applied_index: record.applied_index,
        users: record.users.iter().map(users::record_to).collect(),
        nodes: record.nodes.iter().map(node_to).collect(),
        groups: record.groups.iter().map(group_to).collect(),
        settings: record
            .settings
            .iter()
            .map(|(name, value)| wire::SettingRecord { name: name.clone(), value: value.clone() })
            .collect(),
        history: record.history.iter().map(history_to).collect(),
        requests: record.requests.iter().map(request_to).collect(),
        tenants: record.tenants.iter().map(tenants::record_to).collect(),
        last_tenant: record.last_tenant,
        last_move: record.last_move.as_ref().map(move_to),
        routes_changed: record.routes_changed,
        hand_overs: record.hand_overs,
        last_import: record.last_import.as_ref().map(imports::record_to),
    }
}

pub(crate) fn record_from(record: wire::StateRecord) -> Result<StateRecord, CodecError> {
    let cluster_id = if record.cluster_id.is_empty() { None } else { Some(cluster_id_from(&record.cluster_id)?) };
    Ok(StateRecord {
        cluster_id,
        applied_index: record.applied_index,
        users: record.users.into_iter().map(users::record_from).collect::<Result<_, _>>()?,
        nodes: record.nodes.into_iter().map(node_from).collect::<Result<_, _>>()?,
        groups: record.groups.into_iter().map(group_from).collect::<Result<_, _>>()?,
        settings: record.settings.into_iter().map(|setting| (setting.name, setting.value)).collect(),
        history: record.history.into_iter().map(history_from).collect(),
        requests: record.requests.into_iter().map(request_from).collect::<Result<_, _>>()?,
        tenants: record.tenants.into_iter().map(tenants::record_from).collect(),
        last_tenant: record.last_tenant,
        last_move: record.last_move.map(move_from).transpose()?,
        routes_changed: record.routes_changed,
        hand_overs: record.hand_overs,
        last_import: record.last_import.map(imports::record_from).transpose()?,
    })
}

fn node_to(node: &NodeInfo) -> wire::NodeRecord {
    wire::NodeRecord {
        node: node.id.0,
        name: node.name.clone(),
        addresses: Some(addresses_to(&node.addresses)),
        joined_index: node.joined_index,
        token: token_to(node.token),
        incarnation: node.incarnation.0,
        start_token: node.start_token,
    }
}

fn node_from(node: wire::NodeRecord) -> Result<NodeInfo, CodecError> {
    Ok(NodeInfo {
        id: NodeId(node.node),
        name: node.name,
        addresses: addresses_from(node.addresses)?,
        joined_index: node.joined_index,
        token: token_from(&node.token)?,
        incarnation: Incarnation(node.incarnation),
        start_token: node.start_token,
    })
}

fn group_to(group: &ShardGroup) -> wire::GroupRecord {
    let (first, last) = group.slots.first().copied().unwrap_or(NO_SLOTS);
    wire::GroupRecord {
        group: group.id.0,
        first_slot: u32::from(first),
        last_slot: u32::from(last),
        more_slots: group.slots.iter().skip(1).copied().map(range_to).collect(),
        epoch: group.epoch.0,
        primary: group.primary.map(member_to),
        in_sync: members_to(&group.in_sync),
        in_sync_version: group.in_sync_version,
        copies: group.copies.iter().map(|node| node.0).collect(),
        formed_with: group.formed_with,
        last_failover: group.last_failover.map(failover_to),
    }
}

fn group_from(group: wire::GroupRecord) -> Result<ShardGroup, CodecError> {
    let first = wire::SlotRange { first: group.first_slot, last: group.last_slot };
    let ranges = std::iter::once(first).chain(group.more_slots).map(range_from);
    let slots = ranges.filter(|range| *range != Ok(NO_SLOTS)).collect::<Result<_, _>>()?;
    Ok(ShardGroup {
        id: GroupId(group.group),
        slots,
        epoch: Epoch(group.epoch),
        primary: group.primary.map(member_from),
        in_sync: members_from(group.in_sync),
        in_sync_version: group.in_sync_version,
        copies: group.copies.into_iter().map(NodeId).collect(),
        formed_with: group.formed_with,
        last_failover: group.last_failover.map(failover_from).transpose()?,
    })
}

/// The first range of a group without slots.
const NO_SLOTS: SlotRange = (1, 0);

fn range_to((first, last): SlotRange) -> wire::SlotRange {
    wire::SlotRange { first: u32::from(first), last: u32::from(last) }
}

fn range_from(range: wire::SlotRange) -> Result<SlotRange, CodecError> {
    let slot = |slot: u32| u16::try_from(slot).map_err(|_| CodecError("a slot"));
    Ok((slot(range.first)?, slot(range.last)?))
}

fn move_change_to(change: &MoveChange) -> wire::ChangeMove {
    use wire::change_move::{Abort, Begin, Step, begin::What};
    let step = match change {
        MoveChange::Begin { what, to } => {
            let what = match what {
                Moved::Slots(range) => What::Slots(range_to(*range)),
                Moved::Tenant(number) => What::Tenant(number.0),
            };
            Step::Begin(Begin { what: Some(what), to: to.0 })
        }
        MoveChange::Switch { index } => Step::Switch(*index),
        MoveChange::Abort { index, why } => Step::Abort(Abort { index: *index, why: why.clone() }),
        MoveChange::End { index } => Step::End(*index),
    };
    wire::ChangeMove { step: Some(step) }
}

fn move_change_from(change: wire::ChangeMove) -> Result<MoveChange, CodecError> {
    use wire::change_move::{Step, begin::What};
    Ok(match change.step.ok_or(CodecError("a step of a move"))? {
        Step::Begin(begin) => {
            let what = match begin.what.ok_or(CodecError("what is moved"))? {
                What::Slots(range) => Moved::Slots(range_from(range)?),
                What::Tenant(number) => Moved::Tenant(TenantNumber(number)),
            };
            MoveChange::Begin { what, to: GroupId(begin.to) }
        }
        Step::Switch(index) => MoveChange::Switch { index },
        Step::Abort(abort) => MoveChange::Abort { index: abort.index, why: abort.why },
        Step::End(index) => MoveChange::End { index },
    })
}

fn move_to(known: &Move) -> wire::MoveRecord {
    use wire::move_record::{Phase, What};
    wire::MoveRecord {
        index: known.index,
        at_unix_ms: known.at.0,
        what: Some(match &known.what {
            Moved::Slots(range) => What::Slots(range_to(*range)),
            Moved::Tenant(number) => What::Tenant(number.0),
        }),
        from: known.from.0,
        to: known.to.0,
        phase: Some(match known.phase {
            MovePhase::Copying => Phase::Copying(wire::Blank {}),
            MovePhase::Dropping(group) => Phase::Dropping(group.0),
            MovePhase::Done => Phase::Done(wire::Blank {}),
        }),
        failed: known.failed.clone(),
        tries: known.tries,
    }
}

fn move_from(record: wire::MoveRecord) -> Result<Move, CodecError> {
    use wire::move_record::{Phase, What};
    Ok(Move {
        index: record.index,
        at: UnixMillis(record.at_unix_ms),
        what: match record.what.ok_or(CodecError("what is moved"))? {
            What::Slots(range) => Moved::Slots(range_from(range)?),
            What::Tenant(number) => Moved::Tenant(TenantNumber(number)),
        },
        from: GroupId(record.from),
        to: GroupId(record.to),
        phase: match record.phase.ok_or(CodecError("how far a move is"))? {
            Phase::Copying(_) => MovePhase::Copying,
            Phase::Dropping(group) => MovePhase::Dropping(GroupId(group)),
            Phase::Done(_) => MovePhase::Done,
        },
        failed: record.failed,
        tries: record.tries,
    })
}

fn failover_to(failover: Failover) -> wire::FailoverRecord {
    wire::FailoverRecord {
        index: failover.index,
        at_unix_ms: failover.at.0,
        from: failover.from.map(member_to),
        to: Some(member_to(failover.to)),
        reason: failover.reason as u32,
    }
}

fn failover_from(failover: wire::FailoverRecord) -> Result<Failover, CodecError> {
    Ok(Failover {
        index: failover.index,
        at: UnixMillis(failover.at_unix_ms),
        from: failover.from.map(member_from),
        to: member_from(failover.to.ok_or(CodecError("a failover"))?),
        reason: reason_from(failover.reason)?,
    })
}

fn history_to(record: &ChangeRecord) -> wire::HistoryRecord {
    wire::HistoryRecord {
        index: record.index,
        at_unix_ms: record.at.0,
        actor: record.actor.clone(),
        source: record.source.clone(),
        summary: record.summary.clone(),
    }
}

fn history_from(record: wire::HistoryRecord) -> ChangeRecord {
    ChangeRecord {
        index: record.index,
        at: UnixMillis(record.at_unix_ms),
        actor: record.actor,
        source: record.source,
        summary: record.summary,
    }
}

fn request_to(request: &AppliedRequest) -> wire::RequestRecord {
    wire::RequestRecord {
        request: sixteen_to(request.id.0),
        index: request.index,
        outcome: Some(outcome_to(&request.outcome)),
    }
}

fn request_from(request: wire::RequestRecord) -> Result<AppliedRequest, CodecError> {
    Ok(cluster::AppliedRequest {
        id: RequestId(sixteen_from(&request.request)?),
        index: request.index,
        outcome: outcome_from(request.outcome)?,
    })
}
