//! The replicated state, and the one function that moves it.
//!
//! Cheap to clone (every part is shared until it changes), so that each node can publish the state it has applied as
//! an immutable view while the next entry is being applied.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use keyward_acl::{Directory, UserChange, UserName};

use crate::group::Failover;
use crate::record::AppliedRequest;
use crate::{
    Addresses, Change, ClusterId, Founder, GroupId, Import, Incarnation, JoinToken, Member, Move, NodeId, Outcome,
    Refusal, RequestId, ShardGroup, Stamped, StateRecord, TenantChange, TenantRefusal, Tenants, UnixMillis,
};

/// Everything the nodes of a cluster agree on. Not the keys.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    pub(crate) cluster_id: Option<ClusterId>,
    pub(crate) directory: Directory,
    pub(crate) tenants: Arc<Tenants>,
    pub(crate) nodes: Arc<BTreeMap<NodeId, NodeInfo>>,
    pub(crate) groups: Arc<BTreeMap<GroupId, ShardGroup>>,
    pub(crate) settings: Arc<BTreeMap<String, String>>,
    pub(crate) history: Arc<VecDeque<Arc<ChangeRecord>>>,
    pub(crate) requests: Arc<VecDeque<AppliedRequest>>,
    pub(crate) applied_index: u64,
    pub(crate) last_move: Option<Arc<Move>>,
    /// The entry since which keys belong to the groups they belong to.
    pub(crate) routes_changed: u64,
    /// How often keys were handed over.
    pub(crate) hand_overs: u64,
    pub(crate) last_import: Option<Arc<Import>>,
}

/// A registered node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeInfo {
    /// Its id, never used before or again.
    pub id: NodeId,
    /// Its stable name; an empty disk under the same name joins under a new id.
    pub name: String,
    /// Where it is found.
    pub addresses: Addresses,
    /// The entry that registered it.
    pub joined_index: u64,
    /// The attempt to join that this registration answered.
    pub token: JoinToken,
    /// Its running process, or the last one that ran.
    pub incarnation: Incarnation,
    /// What that process drew when it started; 0 until the first one has said that it runs.
    pub start_token: u64,
}

impl NodeInfo {
    /// Host and port for Redis clients, an IPv6 address without its brackets.
    pub fn client_place(&self) -> Option<(&str, &str)> {
        let (host, port) = self.addresses.client.rsplit_once(':')?;
        Some((host.trim_matches(['[', ']']), port))
    }

    /// Its running process, or the last one that ran.
    pub fn member(&self) -> Member {
        Member { node: self.id, incarnation: self.incarnation }
    }
}

/// One line of the history of changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeRecord {
    /// The entry.
    pub index: u64,
    /// The proposer's clock.
    pub at: UnixMillis,
    /// Who asked.
    pub actor: String,
    /// Through which door.
    pub source: String,
    /// What happened, without secrets.
    pub summary: String,
}

impl State {
    /// Registered nodes at most. Beyond this, one leader that tells everybody itself is the wrong shape.
    pub const NODES_MAX: usize = 100;
    /// Cluster-wide settings at most: there are a few dozen, and a caller's mistake must not fill every node.
    pub const SETTINGS_MAX: usize = 256;
    /// Lines of history kept: months of a quiet cluster, about 200 KB of a busy one.
    pub const HISTORY_MAX: usize = 1024;
    /// Request ids remembered. A proposer retries for seconds; this many changes take minutes.
    pub const REQUESTS_MAX: usize = 512;

    /// The state before the first entry.
    pub fn new() -> Self {
        Self::default()
    }

    /// The name of the cluster; `None` before it is formed.
    pub fn cluster_id(&self) -> Option<ClusterId> {
        self.cluster_id
    }

    /// All users.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// All tenants.
    pub fn tenants(&self) -> &Arc<Tenants> {
        &self.tenants
    }

    /// All registered nodes, by id.
    pub fn nodes(&self) -> &BTreeMap<NodeId, NodeInfo> {
        &self.nodes
    }

    /// The registered node of this stable name.
    pub fn node_named(&self, name: &str) -> Option<&NodeInfo> {
        self.nodes.values().find(|node| node.name == name)
    }

    /// All shard groups, by id.
    pub fn groups(&self) -> &BTreeMap<GroupId, ShardGroup> {
        &self.groups
    }

    /// Whether this is the running process of a registered node, or the last one that ran.
    pub fn is_current(&self, member: Member) -> bool {
        self.nodes.get(&member.node).is_some_and(|node| node.incarnation == member.incarnation)
    }

    /// The group that holds this slot.
    pub fn group_of_slot(&self, slot: u16) -> Option<&ShardGroup> {
        self.groups.values().find(|group| crate::moving::holds(&group.slots, slot))
    }

    /// A cluster-wide setting, if somebody set it.
    pub fn setting(&self, name: &str) -> Option<&str> {
        self.settings.get(name).map(String::as_str)
    }

    /// All cluster-wide settings that somebody set.
    pub fn settings(&self) -> &BTreeMap<String, String> {
        &self.settings
    }

    /// The last changes, oldest first.
    pub fn history(&self) -> impl DoubleEndedIterator<Item = &ChangeRecord> + ExactSizeIterator {
        self.history.iter().map(Arc::as_ref)
    }

    /// The last entry applied.
    pub fn applied_index(&self) -> u64 {
        self.applied_index
    }

    /// A number that is equal on two nodes exactly if (up to chance) they hold the same state. Costs a walk over
    /// everything: for snapshots and checks, not for the path of a change.
    pub fn digest(&self) -> u64 {
        crate::digest::of(&StateRecord::from(self))
    }

    /// Moves the state past the entry `index` without a change: entries that are Raft's own business.
    pub fn skip(&mut self, index: u64) {
        self.applied_index = index;
    }

    /// Applies one entry. Total and deterministic: every node gets the same state and the same outcome.
    pub fn apply(&mut self, index: u64, stamped: &Stamped) -> Outcome {
        self.applied_index = index;
        if let Some(earlier) = stamped.request.and_then(|id| self.applied(id)) {
            return earlier.outcome.clone();
        }
        let outcome = self.change(index, stamped);
        if let Some(id) = stamped.request {
            let requests = Arc::make_mut(&mut self.requests);
            requests.push_back(AppliedRequest { id, index, outcome: outcome.clone() });
            if requests.len() > Self::REQUESTS_MAX {
                requests.pop_front();
            }
        }
        if changed_something(&outcome) {
            self.remember(index, stamped);
        }
        outcome
    }

    /// What became of a request, if it is among the last [`Self::REQUESTS_MAX`].
    pub fn applied(&self, id: RequestId) -> Option<&AppliedRequest> {
        self.requests.iter().rev().find(|request| request.id == id)
    }

    fn change(&mut self, index: u64, stamped: &Stamped) -> Outcome {
        let change = &stamped.change;
        if let Change::FormCluster { cluster_id, founder, groups, nodes } = change {
            return self.form(index, *cluster_id, founder, (*groups, *nodes));
        }
        if self.cluster_id.is_none() {
            return Outcome::Refused(Refusal::NotFormed);
        }
        match change {
            Change::FormCluster { .. } => Outcome::Refused(Refusal::AlreadyFormed),
            Change::User(change) => self.change_users(index, change),
            Change::AddNode { name, addresses, token } => self.add_node(index, name, addresses, *token),
            Change::RemoveNode { node } => self.remove_node(*node),
            Change::UpdateNodeAddresses { node, addresses } => self.move_node(*node, addresses),
            Change::StartNode { node, token } => self.start_node(index, *node, *token),
            Change::ChangeInSync { group, expect_epoch, expect_version, in_sync } => {
                self.change_in_sync(*group, *expect_epoch, *expect_version, in_sync)
            }
            Change::SetPrimary { group, primary, in_sync, expect_epoch, reason } => {
                let named = Failover { index, at: stamped.at, from: None, to: *primary, reason: *reason };
                self.set_primary(*group, named, in_sync, *expect_epoch)
            }
            Change::SetSetting { name, value } => self.set_setting(name, value.as_deref()),
            Change::Tenant(change) => self.change_tenants(index, stamped.at, change),
            Change::Move(change) => self.change_move(index, stamped.at, change),
            Change::Import(change) => self.change_import(index, stamped.at, change),
            Change::Noop => Outcome::Unchanged,
        }
    }

    fn form(&mut self, index: u64, cluster_id: ClusterId, founder: &Founder, (groups, nodes): (u32, u32)) -> Outcome {
        if self.cluster_id == Some(cluster_id) {
            return Outcome::Unchanged;
        }
        if self.cluster_id.is_some() {
            return Outcome::Refused(Refusal::AlreadyFormed);
        }
        let id = NodeId::FOUNDER;
        let node = NodeInfo {
            id,
            name: founder.name.clone(),
            addresses: founder.addresses.clone(),
            joined_index: index,
            token: JoinToken::default(),
            incarnation: Incarnation(index),
            start_token: 0,
        };
        self.cluster_id = Some(cluster_id);
        let groups = ShardGroup::founded(groups, nodes, node.member());
        Arc::make_mut(&mut self.groups).extend(groups.map(|group| (group.id, group)));
        Arc::make_mut(&mut self.nodes).insert(id, node);
        Outcome::Done
    }

    fn change_users(&mut self, index: u64, change: &UserChange) -> Outcome {
        Outcome::User(self.directory.apply(index, change))
    }

    fn change_tenants(&mut self, index: u64, at: UnixMillis, change: &TenantChange) -> Outcome {
        let exists = |group: &str| group.parse().is_ok_and(|id| self.groups.contains_key(&GroupId(id)));
        if let Some(unknown) = change.groups().find(|group| !exists(group)) {
            let text = format!("there is no shard group {}", unknown.escape_debug());
            return Outcome::Refused(Refusal::Tenant(TenantRefusal::Invalid(text)));
        }
        if let Some(text) = self.move_forbids(change) {
            return Outcome::Refused(Refusal::Tenant(TenantRefusal::Invalid(text)));
        }
        let basis = self.move_basis();
        let mut users_gone = Vec::new();
        match Arc::make_mut(&mut self.tenants).apply(index, change, &mut users_gone) {
            Ok(false) => Outcome::Unchanged,
            Ok(true) => {
                let names: Vec<UserName> = users_gone.iter().filter_map(|name| UserName::new(name).ok()).collect();
                if !names.is_empty() {
                    self.directory.apply(index, &UserChange::Delete { names });
                }
                if matches!(change, TenantChange::Delete { .. }) {
                    // Its keys, if there are any again, lie where their slots say.
                    self.routes_changed = index;
                }
                self.tenants_changed(at, &basis);
                Outcome::Done
            }
            Err(refusal) => Outcome::Refused(Refusal::Tenant(refusal)),
        }
    }

    fn add_node(&mut self, index: u64, name: &str, addresses: &Addresses, token: JoinToken) -> Outcome {
        let known = self.node_named(name).map(|node| (node.id, node.token));
        if let Some((node, known_token)) = known
            && known_token == token
        {
            return Outcome::NodeAdded { node, replaced: None };
        }
        if known.is_none() && self.nodes.len() >= Self::NODES_MAX {
            return Outcome::Refused(Refusal::TooManyNodes);
        }
        let id = NodeId(index);
        let replaced = known.map(|(old, _)| old);
        let nodes = Arc::make_mut(&mut self.nodes);
        if let Some(old) = replaced {
            nodes.remove(&old);
        }
        nodes.insert(
            id,
            NodeInfo {
                id,
                name: name.to_owned(),
                addresses: addresses.clone(),
                joined_index: index,
                token,
                incarnation: Incarnation(index),
                start_token: 0,
            },
        );
        if let Some(old) = replaced {
            self.withdraw(old);
        }
        Outcome::NodeAdded { node: id, replaced }
    }

    fn remove_node(&mut self, node: NodeId) -> Outcome {
        if Arc::make_mut(&mut self.nodes).remove(&node).is_none() {
            return Outcome::Refused(Refusal::UnknownNode(node));
        }
        self.withdraw(node);
        Outcome::Done
    }

    fn move_node(&mut self, node: NodeId, addresses: &Addresses) -> Outcome {
        let Some(known) = Arc::make_mut(&mut self.nodes).get_mut(&node) else {
            return Outcome::Refused(Refusal::UnknownNode(node));
        };
        if known.addresses == *addresses {
            return Outcome::Unchanged;
        }
        known.addresses = addresses.clone();
        Outcome::Done
    }

    fn set_setting(&mut self, name: &str, value: Option<&str>) -> Outcome {
        if self.setting(name) == value {
            return Outcome::Unchanged;
        }
        if value.is_some() && !self.settings.contains_key(name) && self.settings.len() >= Self::SETTINGS_MAX {
            return Outcome::Refused(Refusal::TooManySettings);
        }
        let settings = Arc::make_mut(&mut self.settings);
        match value {
            Some(value) => settings.insert(name.to_owned(), value.to_owned()),
            None => settings.remove(name),
        };
        Outcome::Done
    }

    fn remember(&mut self, index: u64, stamped: &Stamped) {
        let record = ChangeRecord {
            index,
            at: stamped.at,
            actor: stamped.actor.clone(),
            source: stamped.source.clone(),
            summary: stamped.change.summary(),
        };
        let own = stamped.change.is_users_own(&stamped.actor, &self.tenants);
        let history = Arc::make_mut(&mut self.history);
        if let Some(summary) = own {
            // Whoever may repeat this as often as it likes has one line, so that nothing of others is pushed out.
            history.retain(|earlier| earlier.actor != record.actor || !earlier.summary.starts_with(&summary));
        }
        history.push_back(Arc::new(record));
        if history.len() > Self::HISTORY_MAX {
            history.pop_front();
        }
    }
}

fn changed_something(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Done | Outcome::NodeAdded { .. } => true,
        Outcome::User(outcome) => outcome.changed(),
        Outcome::Unchanged | Outcome::Refused(_) => false,
    }
}

#[cfg(test)]
mod tests;
