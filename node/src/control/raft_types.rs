//! The types Raft is made of here, named once. Knows the shape of openraft, and nothing of how bytes move.

use keyward_cluster::{NodeId, Outcome, Stamped};
use openraft::type_config::alias;

openraft::declare_raft_types!(
    /// What our Raft agrees on: stamped changes, answered by outcomes.
    pub TypeConfig:
        D = Stamped,
        R = Outcome,
        NodeId = NodeId,
        Node = openraft::BasicNode,
);

pub(crate) type Raft = openraft::Raft<TypeConfig, super::state_machine::StateMachine>;
pub(crate) type Entry = alias::EntryOf<TypeConfig>;
pub(crate) type LogId = alias::LogIdOf<TypeConfig>;
pub(crate) type LeaderId = alias::LeaderIdOf<TypeConfig>;
pub(crate) type Vote = alias::VoteOf<TypeConfig>;
pub(crate) type Membership = openraft::Membership<NodeId, openraft::BasicNode>;
pub(crate) type StoredMembership = alias::StoredMembershipOf<TypeConfig>;
pub(crate) type SnapshotMeta = alias::SnapshotMetaOf<TypeConfig>;
pub(crate) type Snapshot = alias::SnapshotOf<TypeConfig, bytes::Bytes>;
