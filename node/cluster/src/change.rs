//! Everything that can happen to the replicated state, each with the case that made it necessary.
//!
//! A change is a fact to record, already checked and stamped by the proposer: passwords are hashed, time is read, names
//! are well formed. Applying it never fails; what became of it is an [`Outcome`], a value.

use std::collections::BTreeSet;
use std::fmt;

use keyward_acl::{UserChange, UserOutcome};

use crate::{
    Addresses, ClusterId, Epoch, FailoverReason, GroupId, ImportChange, JoinToken, Member, MoveChange, NodeId,
    RequestId, TenantChange, TenantEdit, TenantRefusal, Tenants, UnixMillis,
};

/// A change with who asked for it, when, through which door, and under which request id.
#[derive(Clone, Debug, PartialEq)]
pub struct Stamped {
    /// The proposer's clock when it proposed. Recorded, never compared.
    pub at: UnixMillis,
    /// The user who asked, or the node itself, as `node:<name>`.
    pub actor: String,
    /// The door it came through: `resp`, `admin`, `acl-file`, `control`.
    pub source: String,
    /// Present when the proposal may be sent more than once.
    pub request: Option<RequestId>,
    /// What is to happen.
    pub change: Change,
}

/// One thing that can happen to the replicated state.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// The first entry of a cluster: its name for ever, and its first node, which also is the first primary.
    /// Without it two clusters formed by mistake could not tell that they are two.
    FormCluster {
        /// The name of the cluster from now on.
        cluster_id: ClusterId,
        /// The node that forms it, under [`NodeId::FOUNDER`].
        founder: Founder,
        /// How many shard groups the slots are divided into; what is out of bounds counts as the nearest bound.
        groups: u32,
        /// How many nodes it is formed of; the others join at once.
        nodes: u32,
    },
    /// `ACL SETUSER`, `DELUSER`, `LOAD`, the admin API and the watched file: one door into the directory.
    User(UserChange),
    /// A node asks to join. Its id becomes the index of this entry. If its name is known from another disk, that disk is
    /// gone: the old id leaves in the same entry, so that no moment exists with two nodes of one name.
    AddNode {
        /// Its stable name, as in the StatefulSet.
        name: String,
        /// Where it is found.
        addresses: Addresses,
        /// The same token again means that the answer to the first request was lost.
        token: JoinToken,
    },
    /// An operator retires a node. Its id is never used again.
    RemoveNode {
        /// The node that leaves.
        node: NodeId,
    },
    /// A node came back with its disk and another address.
    UpdateNodeAddresses {
        /// The node that moved.
        node: NodeId,
        /// Where it is found now.
        addresses: Addresses,
    },
    /// A process of a node started. Its incarnation becomes the index of this entry, and everything its predecessor was
    /// ends: a memory that was lost must neither count as a copy nor serve as the original. The first start of a
    /// registered node takes over the incarnation of its registration, which nobody has used yet.
    StartNode {
        /// The node.
        node: NodeId,
        /// Drawn at random by the process, never 0; the same again means that the first answer was lost.
        token: u64,
    },
    /// The primary of a group says who has every acknowledged write. Compare-and-set on epoch and version, so that no
    /// decision is based on a set that somebody else has changed.
    ChangeInSync {
        /// The group.
        group: GroupId,
        /// The epoch the primary reigns in.
        expect_epoch: Epoch,
        /// The version of the set it knows.
        expect_version: u64,
        /// The next set; the primary is in it.
        in_sync: BTreeSet<Member>,
    },
    /// A process is named primary of a group. Compare-and-set on the epoch: of two deciders only one wins.
    SetPrimary {
        /// The group.
        group: GroupId,
        /// Its next primary.
        primary: Member,
        /// Who is known to have every acknowledged write; the primary is among them.
        in_sync: BTreeSet<Member>,
        /// The epoch the decision was based on.
        expect_epoch: Epoch,
        /// Why.
        reason: FailoverReason,
    },
    /// A cluster-wide setting, such as `acl-error-detail`. `None` returns it to its default.
    SetSetting {
        /// The setting.
        name: String,
        /// Its value, as written.
        value: Option<String>,
    },
    /// `TENANT`: who owns which keys, and what they may use.
    Tenant(TenantChange),
    /// Keys go from one shard group to another.
    Move(MoveChange),
    /// Another server's data moves in.
    Import(ImportChange),
    /// Nothing; proves that a quorum can still commit.
    Noop,
}

/// The node that forms a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Founder {
    /// Its stable name.
    pub name: String,
    /// Where it is found.
    pub addresses: Addresses,
}

/// What became of a change. A value, not an error: the entry is committed either way.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Done as asked.
    Done,
    /// It already was so; nothing changed and nothing was recorded.
    Unchanged,
    /// What the directory of users made of it.
    User(UserOutcome),
    /// The node is registered under this id.
    NodeAdded {
        /// Its id.
        node: NodeId,
        /// The id its name had before, which has left.
        replaced: Option<NodeId>,
    },
    /// It makes no sense in this state, and changed nothing.
    Refused(Refusal),
}

/// Why a committed change changed nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A cluster is formed once.
    AlreadyFormed,
    /// Nothing else can come before the cluster is formed.
    NotFormed,
    /// No node has this id (any more).
    UnknownNode(NodeId),
    /// No group has this id.
    UnknownGroup(GroupId),
    /// Somebody else decided first; this is the epoch now.
    StaleEpoch(Epoch),
    /// Somebody else changed the set of those in sync first; this is its version now.
    StaleVersion(u64),
    /// This is not, or no longer, a process of a registered node.
    StaleMember(Member),
    /// Only an operator may name somebody who is not in sync.
    NotInSync(Member),
    /// The group has not lost every copy: nobody opens it from a snapshot.
    NotCold(GroupId),
    /// The primary is not among those in sync, or there is no primary.
    PrimaryNotInSync(GroupId),
    /// More nodes than [`crate::State::NODES_MAX`].
    TooManyNodes,
    /// More settings than [`crate::State::SETTINGS_MAX`].
    TooManySettings,
    /// Nothing can be moved so: a sentence.
    Move(String),
    /// Nothing can be imported so: a sentence.
    Import(String),
    /// The tenants cannot be changed so.
    Tenant(TenantRefusal),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AlreadyFormed => write!(f, "the cluster is already formed"),
            Self::NotFormed => write!(f, "the cluster is not formed yet"),
            Self::UnknownNode(node) => write!(f, "no node has the id {node}"),
            Self::UnknownGroup(group) => write!(f, "no shard group has the id {}", group.0),
            Self::StaleEpoch(now) => write!(f, "the epoch has moved on to {now}"),
            Self::StaleVersion(now) => write!(f, "the set of those in sync has moved on to version {now}"),
            Self::StaleMember(member) => {
                write!(f, "node {} has no running incarnation {}", member.node, member.incarnation.0)
            }
            Self::NotInSync(member) => write!(f, "node {} is not in sync", member.node),
            Self::NotCold(group) => write!(f, "shard group {} still has a copy in memory", group.0),
            Self::PrimaryNotInSync(group) => {
                write!(f, "the primary of shard group {} is not among those in sync", group.0)
            }
            Self::TooManyNodes => write!(f, "the cluster has as many nodes as it can register"),
            Self::Tenant(refusal) => refusal.fmt(f),
            Self::Move(text) | Self::Import(text) => f.write_str(text),
            Self::TooManySettings => write!(f, "the cluster has as many settings as it can hold"),
        }
    }
}

impl Change {
    /// What the line of history begins with, if a tenant's user changed what it may of its own tenant: the events that are
    /// told of its keys.
    pub(crate) fn is_users_own(&self, actor: &str, tenants: &Tenants) -> Option<String> {
        let Self::Tenant(TenantChange::Set { name, edits }) = self else { return None };
        let [TenantEdit::Setting(setting, _)] = &edits[..] else { return None };
        let tenant = tenants.get(name).filter(|tenant| tenant.users.contains(actor.as_bytes()))?;
        (setting == "notify-keyspace-events").then(|| format!("set tenant {}, {setting} ", tenant.name))
    }

    /// One line for the history: what happened to whom. Names and counts only, never a rule, so never a password.
    pub fn summary(&self) -> String {
        let mut line = match self {
            Self::FormCluster { cluster_id, founder, .. } => {
                format!("form cluster {cluster_id} on {}", founder.name)
            }
            Self::User(change) => user_summary(change),
            Self::AddNode { name, addresses, .. } => {
                format!("add node {name} at {}", addresses.peer)
            }
            Self::RemoveNode { node } => format!("remove node {node}"),
            Self::UpdateNodeAddresses { node, addresses } => {
                format!("node {node} moved to {}", addresses.peer)
            }
            Self::StartNode { node, .. } => format!("node {node} started"),
            Self::ChangeInSync { group, in_sync, .. } => {
                format!("in sync for group {}: {}", group.0, members(in_sync))
            }
            Self::SetPrimary { group, primary, reason, in_sync, .. } => {
                format!(
                    "node {} is primary of group {} ({reason}), in sync: {}",
                    primary.node,
                    group.0,
                    members(in_sync)
                )
            }
            Self::SetSetting { name, value: Some(value) } => format!("set {name} to {value}"),
            Self::SetSetting { name, value: None } => format!("reset {name}"),
            Self::Tenant(change) => change.summary(),
            Self::Move(change) => change.summary(),
            Self::Import(change) => change.summary(),
            Self::Noop => String::from("nothing"),
        };
        if line.len() > SUMMARY_BYTES_MAX {
            let end = line.floor_char_boundary(SUMMARY_BYTES_MAX);
            line.truncate(end);
            line.push('…');
        }
        line
    }
}

/// A line of history fits a terminal, and a thousand of them fit a snapshot.
const SUMMARY_BYTES_MAX: usize = 200;

fn members(members: &BTreeSet<Member>) -> String {
    let nodes: Vec<String> = members.iter().map(|member| member.node.to_string()).collect();
    nodes.join(" ")
}

fn user_summary(change: &UserChange) -> String {
    match change {
        UserChange::Set { name, .. } => format!("set user {name}"),
        UserChange::Delete { names } => {
            let names: Vec<String> = names.iter().take(8).map(|name| name.to_string()).collect();
            format!("delete users {}", names.join(" "))
        }
        UserChange::ReplaceAll { users } => format!("replace all users by {}", users.len()),
        UserChange::Import { source, users } => {
            format!("import {} users from {source}", users.len())
        }
    }
}

impl fmt::Display for Stamped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} by {}", self.change.summary(), self.actor)
    }
}
