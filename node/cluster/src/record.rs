//! The state as it is written down: plain, text-shaped structs without sharing or indexes.
//!
//! Users are written as the texts of their rules, never as what some version of the program compiled them to; so a
//! snapshot of an older version means the same to a newer one.

use std::collections::VecDeque;
use std::sync::Arc;

use keyward_acl::{Directory, RestoreError, UserRecord};

use crate::{ChangeRecord, ClusterId, Import, Move, NodeInfo, Outcome, RequestId, ShardGroup, State, Tenant, Tenants};

/// A whole state, ready to be written or just read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StateRecord {
    /// The name of the cluster.
    pub cluster_id: Option<ClusterId>,
    /// The last entry applied.
    pub applied_index: u64,
    /// All users, by name.
    pub users: Vec<UserRecord>,
    /// All nodes, by id.
    pub nodes: Vec<NodeInfo>,
    /// All groups, by id.
    pub groups: Vec<ShardGroup>,
    /// All settings, by name.
    pub settings: Vec<(String, String)>,
    /// The last changes, oldest first.
    pub history: Vec<ChangeRecord>,
    /// The last requests, oldest first.
    pub requests: Vec<AppliedRequest>,
    /// All tenants, by name.
    pub tenants: Vec<Tenant>,
    /// The number given to the last tenant that was made.
    pub last_tenant: u32,
    /// The move under way, or the last one.
    pub last_move: Option<Move>,
    /// The entry since which keys belong to the groups they belong to; 0: the founding.
    pub routes_changed: u64,
    /// How often keys were handed over to another group.
    pub hand_overs: u64,
    /// The import that runs, or the last one.
    pub last_import: Option<Import>,
}

/// A request that was applied, remembered so that a repetition gets the same answer.
#[derive(Clone, Debug, PartialEq)]
pub struct AppliedRequest {
    /// The proposer's id for it.
    pub id: RequestId,
    /// The entry that carried it first.
    pub index: u64,
    /// What became of it.
    pub outcome: Outcome,
}

impl From<&State> for StateRecord {
    fn from(state: &State) -> Self {
        Self {
            cluster_id: state.cluster_id,
            applied_index: state.applied_index,
            users: state.directory.to_records(),
            nodes: state.nodes.values().cloned().collect(),
            groups: state.groups.values().cloned().collect(),
            settings: state.settings.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
            history: state.history().cloned().collect(),
            requests: state.requests.iter().cloned().collect(),
            tenants: state.tenants.iter().map(|tenant| Tenant::clone(tenant)).collect(),
            last_tenant: state.tenants.last_number(),
            last_move: state.last_move.as_deref().cloned(),
            routes_changed: state.routes_changed,
            hand_overs: state.hand_overs,
            last_import: state.last_import.as_deref().cloned(),
        }
    }
}

impl TryFrom<StateRecord> for State {
    type Error = RestoreError;

    fn try_from(record: StateRecord) -> Result<Self, RestoreError> {
        Ok(Self {
            cluster_id: record.cluster_id,
            directory: Directory::from_records(&record.users)?,
            nodes: Arc::new(record.nodes.into_iter().map(|node| (node.id, node)).collect()),
            groups: Arc::new(record.groups.into_iter().map(|group| (group.id, group)).collect()),
            settings: Arc::new(record.settings.into_iter().collect()),
            history: Arc::new(record.history.into_iter().map(Arc::new).collect::<VecDeque<_>>()),
            requests: Arc::new(record.requests.into()),
            tenants: Arc::new(Tenants::restore(record.tenants, record.last_tenant)),
            applied_index: record.applied_index,
            last_move: record.last_move.map(Arc::new),
            routes_changed: record.routes_changed,
            hand_overs: record.hand_overs,
            last_import: record.last_import.map(Arc::new),
        })
    }
}
