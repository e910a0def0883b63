//! What the admin services need from the node, as one trait and the plain values it speaks in.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::control::NodeStanding;
use keyward_acl::UserChange;
use keyward_cluster::{GroupId, ImportPlan, MoveChange, NodeId, Outcome, RequestId, State, TenantGrant};
use keyward_engine::asks::TenantAsk;
use keyward_proto::admin as pb;
use keyward_proto::admin::node_question::Question;
use keyward_proto::admin::{AdviseResponse, DiagnoseResponse, ListDenialsResponse};
use tonic::Status;

use super::auth::without_code;
use crate::import;
use crate::insight::Answered;

/// The node, as seen by the admin services.
///
/// `argv` is always a whole Redis command, name first. Nothing here may block for longer than a lookup, except the
/// `async` methods, which end within a bounded time of their own.
#[tonic::async_trait]
pub trait AdminBackend: Send + Sync + 'static {
    /// A user who has logged in, as of the moment it did.
    type Login: Clone + Send + Sync + 'static;

    /// Logs in as `AUTH user password` would, with the same entries in ACL LOG. `None` says as little as `WRONGPASS`.
    /// A user with `nopass` accepts any password, the empty one included. `peer` is the caller's address, for logs.
    fn login(&self, user: &[u8], password: &[u8], peer: &str) -> Option<Self::Login>;

    /// The same login as of now; `None` if a client connection with it would be closed by now.
    fn renew(&self, login: &Self::Login) -> Option<Self::Login>;

    /// Whether this user may run `argv`: the one check that client connections pass, with the same entries in ACL LOG.
    /// [`AdminFailure::Denied`] if not, [`AdminFailure::Invalid`] if `argv` is no command.
    fn permit(&self, login: &Self::Login, argv: &[&[u8]], peer: &str) -> Result<(), AdminFailure>;

    /// The same for a call of this name, which is noted beside the command that stands for it.
    fn permit_call(
        &self,
        login: &Self::Login,
        argv: &[&[u8]],
        peer: &str,
        _call: Option<&str>,
    ) -> Result<(), AdminFailure> {
        self.permit(login, argv, peer)
    }

    /// Answers an `ACL` command that only reads (`GETUSER`, `LIST`, `USERS`, `DRYRUN`) as RESP3, errors included.
    /// The caller has been permitted to run what it asked for.
    fn answer(&self, login: &Self::Login, argv: &[&[u8]]) -> Vec<u8>;

    /// What `ACL SETUSER` or `ACL DELUSER` with these arguments asks to be proposed, passwords hashed. If it makes no
    /// sense, [`AdminFailure::Invalid`] with Redis' text.
    fn user_change(&self, login: &Self::Login, argv: &[&[u8]]) -> Result<UserChange, AdminFailure>;

    /// Proposes a change of users; returns when it is in force as promised for `ACL SETUSER`, and applied here.
    async fn propose_users(&self, change: UserChange, origin: Origin) -> Result<Outcome, AdminFailure>;

    /// What a `TENANT` command that changes something asks for. If it makes no sense, [`AdminFailure::Invalid`].
    fn tenant_ask(&self, login: &Self::Login, argv: &[&[u8]]) -> Result<TenantAsk, AdminFailure>;

    /// Carries it out; returns when it is in force.
    async fn change_tenant(&self, ask: TenantAsk, origin: Origin) -> Result<(), AdminFailure>;

    /// Why what a tenant imports lends it nothing, in a few words; `None`: it is lent.
    fn import_waits_for(&self, tenant: &str, import: &TenantGrant) -> Option<String>;

    /// The state this node has applied.
    fn state(&self) -> Arc<State>;

    /// The state once it is past `index`; at once if it is already. May be dropped while waiting.
    async fn state_past(&self, index: u64) -> Arc<State>;

    /// This node; `None` before it has formed or joined a cluster.
    fn node_id(&self) -> Option<NodeId>;

    /// The control group as seen from here; may ask the other nodes, briefly.
    async fn control(&self) -> Result<ControlStatus, AdminFailure>;

    /// Whether this node serves clients; if not, why, in a sentence.
    fn readiness(&self) -> Result<(), String>;

    /// Takes the node that waits at `peer_address` into the cluster; answers its id once it is a full
    /// member, or at once if it already is one.
    async fn add_node(&self, peer_address: &str, name: Option<&str>, origin: Origin) -> Result<NodeId, AdminFailure>;

    /// Takes a node out of the control group and of the registry.
    async fn remove_node(&self, node: NodeId, origin: Origin) -> Result<(), AdminFailure>;

    /// Hands over the leadership of the control group, to any voter if `to` is `None`; answers the new leader.
    async fn transfer_leadership(&self, to: Option<NodeId>) -> Result<NodeId, AdminFailure>;

    /// Hands a shard group over, to any node if `to` is `None`; returns when the new primary is applied here.
    async fn move_primary(
        &self,
        group: GroupId,
        to: Option<NodeId>,
        accept_loss: bool,
        origin: Origin,
    ) -> Result<(), AdminFailure>;

    /// Changes what is moved between shard groups.
    async fn change_move(&self, change: MoveChange, origin: Origin) -> Result<(), AdminFailure>;

    /// Saves this node's data: begun (`None`), or with `wait` done.
    async fn save(&self, wait: bool) -> Result<Option<SnapshotFile>, AdminFailure>;

    /// The snapshots on this node's disk.
    async fn snapshots(&self) -> Result<SnapshotList, AdminFailure>;

    /// Begins an import.
    async fn start_import(
        &self,
        plan: ImportPlan,
        credentials: import::Credentials,
        origin: Origin,
    ) -> Result<pb::Import, AdminFailure>;

    /// How far the last import is.
    async fn import(&self) -> Result<pb::Import, AdminFailure>;

    /// Ends the import once everything is here; waits as long as `how` says.
    async fn finish_import(&self, how: import::CutOver, origin: Origin) -> Result<pb::Import, AdminFailure>;

    /// Asks every node, this one included, and waits for each only briefly.
    async fn ask_every_node(&self, question: Question) -> Vec<Answered>;

    /// What the rules of a user should be, by what the nodes saw; `None` if there is no such user.
    fn advise(&self, user: &[u8], answered: &[Answered]) -> Option<AdviseResponse>;

    /// What is the matter with a user, by what the nodes said about it, about its denials, and those of `default`.
    fn diagnose(
        &self,
        user: &str,
        answered: Vec<Answered>,
        denials: ListDenialsResponse,
        nameless: ListDenialsResponse,
    ) -> DiagnoseResponse;

    /// Ends the import where it is.
    async fn cancel_import(&self, origin: Origin) -> Result<pb::Import, AdminFailure>;
}

/// Who asked for a change through this door, whose name is `admin`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The user.
    pub actor: String,
    /// Given by the caller so that repeating the request is harmless.
    pub request: Option<RequestId>,
}

impl Origin {
    /// The name of this door in the history of changes.
    pub const SOURCE: &'static str = "admin";
}

/// What this node knows of the control group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ControlStatus {
    /// The leader, if one is known.
    pub leader: Option<NodeId>,
    /// The term.
    pub term: u64,
    /// Every member, this node included.
    pub members: BTreeMap<NodeId, Member>,
    /// What the leader has heard of every node; empty if it could not be asked.
    pub standings: Vec<NodeStanding>,
}

/// A node of the control group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// It votes; otherwise it only learns.
    pub voter: bool,
    /// The last change it has applied; `None` if it did not answer just now.
    pub applied_index: Option<u64>,
}

/// A snapshot on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotFile {
    /// The file's name.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// When it was finished, milliseconds since 1970.
    pub saved_unix_ms: u64,
}

/// The snapshots of this node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SnapshotList {
    /// In any order.
    pub files: Vec<SnapshotFile>,
    /// A save is running.
    pub saving: bool,
    /// When the last successful save ended, milliseconds since 1970.
    pub last_save_unix_ms: Option<u64>,
    /// Why the last save failed, if it did.
    pub last_error: Option<String>,
}

/// Why the node did not do what was asked. The text is a sentence for the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminFailure {
    /// It cannot be done now (no leader, no quorum) and nothing was done: asking again is safe.
    Unavailable(String),
    /// It may or may not have been done.
    Unknown(String),
    /// The rules of the caller forbid it. The text may begin with a code of Redis.
    Denied(String),
    /// What it is about does not exist.
    NotFound(String),
    /// It makes no sense as asked.
    Invalid(String),
    /// The state of things forbids it.
    Refused(String),
}

impl From<AdminFailure> for Status {
    fn from(failure: AdminFailure) -> Self {
        match failure {
            AdminFailure::Unavailable(text) => Status::unavailable(text),
            AdminFailure::Unknown(text) => Status::aborted(text),
            AdminFailure::Denied(text) => Status::permission_denied(without_code(&text)),
            AdminFailure::NotFound(text) => Status::not_found(text),
            AdminFailure::Invalid(text) => Status::invalid_argument(without_code(&text)),
            AdminFailure::Refused(text) => Status::failed_precondition(text),
        }
    }
}
