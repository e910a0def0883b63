//! What the control plane must know about the data of this node, and may ask of it. It never sees a key.

use futures_util::future::BoxFuture;
use keyward_cluster::{Epoch, GroupId, Member, NodeId};
use std::time::Duration;

/// Where this node stands with the data of one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupReport {
    /// The group.
    pub group: GroupId,
    /// The epoch of the last effect it has.
    pub epoch: Epoch,
    /// The position of the last effect it has.
    pub position: u64,
    /// What it has in memory is the data of that position; false while it is loaded or copied.
    pub has_data: bool,
    /// Epoch and position of the newest snapshot on its disk.
    pub snapshot: Option<(Epoch, u64)>,
    /// For so many milliseconds from now the primary may still count on this node to answer reads. Nobody else is named
    /// primary before that has passed.
    pub promised_ms: u64,
    /// It takes nothing of an epoch before this one.
    pub sealed: Epoch,
    /// Of the primary: how old the oldest write is that another node lacks, in milliseconds, where it knows.
    pub lags: Vec<(NodeId, u64)>,
}

/// The data of this node, as the control plane sees it. Nothing here may wait for the control plane.
pub trait DataPlane: Send + Sync {
    /// Where this node stands with each group.
    fn report(&self) -> Vec<GroupReport>;

    /// For how long nothing was heard of the primary of a group by the way the data comes; `None` where that says nothing.
    fn primary_silent_for(&self, group: GroupId) -> Option<Duration>;

    /// From the return on, effects of an epoch before `epoch` are refused; if this node is primary of an older one, it
    /// acknowledges nothing any more. Answers where it stands.
    fn seal(&self, group: GroupId, epoch: Epoch) -> GroupReport;

    /// Asked of the primary: pauses writes, brings `target` to the last position, and proposes it as primary
    /// ([`keyward_cluster::FailoverReason::Planned`]). Returns when that is applied here; after an error this node goes
    /// on as before.
    fn hand_over(&self, group: GroupId, target: Member) -> BoxFuture<'static, Result<(), String>>;

    /// Asked of the primary: removes the keys of the retired tenant that are stored under this number.
    fn purge_tenant(&self, group: GroupId, tenant: u32) -> BoxFuture<'static, Result<(), String>>;

    /// Asked of the primary: from the return on it answers nothing about the keys of the move that the entry `index` began,
    /// until that is decided. Answers where its stream ends as far as they are concerned.
    fn hold_keys(&self, group: GroupId, index: u64) -> BoxFuture<'static, Result<u64, String>>;

    /// Whether the newest snapshot on this node's disk has everything of a group up to this effect, named by its epoch and
    /// position. If not, one is begun, unless nothing is ever written to disk here.
    fn save_group(&self, group: GroupId, effect: (Epoch, u64)) -> bool;

    /// Asked of a node that is to leave: sends its clients away, each after what it was answering. Bounded.
    fn dismiss(&self) -> BoxFuture<'static, ()>;
}
