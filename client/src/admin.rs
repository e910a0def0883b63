//! The admin service as methods: one per call, in the order of `admin.proto`.

use std::sync::Arc;

use keyward_proto::admin::cluster_client::ClusterClient;
use keyward_proto::admin::imports_client::ImportsClient;
use keyward_proto::admin::insight_client::InsightClient;
use keyward_proto::admin::snapshots_client::SnapshotsClient;
use keyward_proto::admin::tenants_client::TenantsClient;
use keyward_proto::admin::users_client::UsersClient;
use keyward_proto::admin::{self as pb};
use tonic::transport::Channel;

use crate::error::ClientError;
use crate::link::{Links, MESSAGE_BYTES_MAX, Repeat, new_request_id};
use crate::options::Options;
use crate::watch::ChangeWatch;

/// A client of one cluster. Cheap to clone; clones share their connection.
#[derive(Debug, Clone)]
pub struct AdminClient {
    pub(crate) links: Arc<Links>,
    options: Arc<Options>,
}

impl AdminClient {
    /// A client that connects at its first call.
    pub fn new(options: Options) -> Result<Self, ClientError> {
        Ok(Self { links: Arc::new(Links::new(&options)?), options: Arc::new(options) })
    }

    /// A client that talks to one node only, at the address the node registered: for what belongs to a node
    /// rather than to the cluster, such as snapshots.
    pub fn of_node(&self, node: &pb::Node) -> Result<Self, ClientError> {
        let addresses = node.addresses.iter().map(|addresses| addresses.admin.clone()).collect();
        Self::new(Options { addresses, ..self.options.as_ref().clone() })
    }

    /// All users, by name.
    pub async fn list_users(&self) -> Result<pb::ListUsersResponse, ClientError> {
        let send = |channel, request| async { users(channel).list_users(request).await };
        self.links.call(Repeat::Safe, pb::ListUsersRequest {}, send).await
    }

    /// One user.
    pub async fn get_user(&self, name: &str) -> Result<pb::User, ClientError> {
        let message = pb::GetUserRequest { name: name.to_owned() };
        let send = |channel, request| async { users(channel).get_user(request).await };
        let response = self.links.call(Repeat::Safe, message, send).await?;
        response.user.ok_or_else(|| ClientError::Unknown("the answer holds no user".to_owned()))
    }

    /// Creates or changes a user, all rules or none. Safe to lose the connection during: it is applied once.
    pub async fn set_user<R: AsRef<str>>(
        &self,
        name: &str,
        rules: &[R],
        reset: bool,
    ) -> Result<pb::SetUserResponse, ClientError> {
        let message = pb::SetUserRequest {
            name: name.to_owned(),
            rules: rules.iter().map(|rule| rule.as_ref().to_owned()).collect(),
            reset,
            request_id: new_request_id(),
        };
        let send = |channel, request| async { users(channel).set_user(request).await };
        self.links.call(Repeat::Safe, message, send).await
    }

    /// Deletes users; answers how many there were.
    pub async fn delete_users<N: AsRef<str>>(&self, names: &[N]) -> Result<u64, ClientError> {
        let message = pb::DeleteUserRequest {
            names: names.iter().map(|name| name.as_ref().to_owned()).collect(),
            request_id: new_request_id(),
        };
        let send = |channel, request| async { users(channel).delete_user(request).await };
        Ok(self.links.call(Repeat::Safe, message, send).await?.deleted)
    }

    /// Whether `user` may run `command`.
    pub async fn dry_run<A: AsRef<str>>(&self, user: &str, command: &[A]) -> Result<pb::DryRunResponse, ClientError> {
        let message = pb::DryRunRequest {
            user: user.to_owned(),
            command: command.iter().map(|arg| arg.as_ref().to_owned()).collect(),
        };
        let send = |channel, request| async { users(channel).dry_run(request).await };
        self.links.call(Repeat::Safe, message, send).await
    }

    /// All tenants, by name.
    pub async fn list_tenants(&self) -> Result<Vec<pb::Tenant>, ClientError> {
        let send = |channel, request| async { tenants(channel).list_tenants(request).await };
        Ok(self.links.call(Repeat::Safe, pb::ListTenantsRequest {}, send).await?.tenants)
    }

    /// One tenant.
    pub async fn get_tenant(&self, name: &str) -> Result<pb::Tenant, ClientError> {
        let message = pb::GetTenantRequest { name: name.to_owned() };
        let send = |channel, request| async { tenants(channel).get_tenant(request).await };
        let response = self.links.call(Repeat::Safe, message, send).await?;
        response.tenant.ok_or_else(|| ClientError::Unknown("the answer holds no tenant".to_owned()))
    }

    /// Creates a tenant, with the arguments of `TENANT CREATE`.
    pub async fn create_tenant<A: AsRef<str>>(&self, name: &str, arguments: &[A]) -> Result<(), ClientError> {
        let arguments = arguments.iter().map(|argument| argument.as_ref().to_owned()).collect();
        let message = pb::CreateTenantRequest { name: name.to_owned(), arguments };
        let send = |channel, request| async { tenants(channel).create_tenant(request).await };
        self.links.call(Repeat::Unsafe, message, send).await?;
        Ok(())
    }

    /// Changes a tenant, with the arguments of `TENANT SET`: all of them or none. Harmless to repeat.
    pub async fn set_tenant<A: AsRef<str>>(&self, name: &str, arguments: &[A]) -> Result<(), ClientError> {
        let arguments = arguments.iter().map(|argument| argument.as_ref().to_owned()).collect();
        let message = pb::SetTenantRequest { name: name.to_owned(), arguments };
        let send = |channel, request| async { tenants(channel).set_tenant(request).await };
        self.links.call(Repeat::Unsafe, message, send).await?;
        Ok(())
    }

    /// Deletes a retired tenant with its users, and with `purge` its keys.
    pub async fn delete_tenant(&self, name: &str, purge: bool) -> Result<(), ClientError> {
        let message = pb::DeleteTenantRequest { name: name.to_owned(), purge };
        let send = |channel, request| async { tenants(channel).delete_tenant(request).await };
        self.links.call(Repeat::Unsafe, message, send).await?;
        Ok(())
    }

    /// What this tenant uses on each node and on all together; with an empty name, what each does.
    pub async fn tenant_stats(&self, name: &str) -> Result<pb::GetTenantStatsResponse, ClientError> {
        let message = pb::GetTenantStatsRequest { tenant: name.to_owned() };
        let send = |channel, request| async { tenants(channel).get_tenant_stats(request).await };
        self.links.call(Repeat::Safe, message, send).await
    }

    /// The cluster as the answering node sees it.
    pub async fn status(&self) -> Result<pb::GetStatusResponse, ClientError> {
        let send = |channel, request| async { cluster(channel).get_status(request).await };
        self.links.call(Repeat::Safe, pb::GetStatusRequest {}, send).await
    }

    /// All registered nodes.
    pub async fn list_nodes(&self) -> Result<pb::ListNodesResponse, ClientError> {
        let send = |channel, request| async { cluster(channel).list_nodes(request).await };
        self.links.call(Repeat::Safe, pb::ListNodesRequest {}, send).await
    }

    /// Takes the node that waits at `peer_address` into the cluster. A second time finds it there already.
    pub async fn add_node(&self, peer_address: &str, name: &str) -> Result<pb::AddNodeResponse, ClientError> {
        let message = pb::AddNodeRequest { peer_address: peer_address.to_owned(), name: name.to_owned() };
        let send = |channel, request| async { cluster(channel).add_node(request).await };
        self.links.call(Repeat::Safe, message, send).await
    }

    /// Retires a node for ever.
    pub async fn remove_node(&self, node_id: u64) -> Result<(), ClientError> {
        let send = |channel, request| async { cluster(channel).remove_node(request).await };
        self.links.call(Repeat::Unsafe, pb::RemoveNodeRequest { node_id }, send).await?;
        Ok(())
    }

    /// Hands over the leadership of the control group; 0 lets the cluster choose. Answers the new leader.
    pub async fn transfer_leadership(&self, to_node: u64) -> Result<u64, ClientError> {
        let message = pb::TransferLeadershipRequest { to_node };
        let send = |channel, request| async { cluster(channel).transfer_leadership(request).await };
        Ok(self.links.call(Repeat::Unsafe, message, send).await?.leader_id)
    }

    /// Hands over a shard group; 0 lets the cluster choose. `accept_loss`: the old primary is gone, and the node is to
    /// serve whether or not it has every acknowledged write. Answers the group as it is then.
    pub async fn move_primary(
        &self,
        group_id: u32,
        to_node: u64,
        accept_loss: bool,
    ) -> Result<pb::MovePrimaryResponse, ClientError> {
        let message = pb::MovePrimaryRequest { group_id, to_node, accept_loss };
        let send = |channel, request| async { cluster(channel).move_primary(request).await };
        self.links.call(Repeat::Unsafe, message, send).await
    }

    /// Begins to move slots, first and last included, to another shard group; `None` if they are there already.
    pub async fn move_slots(&self, slots: (u32, u32), to_group: u32) -> Result<Option<pb::Move>, ClientError> {
        let slots = Some(pb::SlotRange { first: slots.0, last: slots.1 });
        self.move_keys(pb::MoveKeysRequest { slots, tenant: String::new(), to_group }).await
    }

    /// Begins to move all keys of a tenant to one shard group; `None` if they are there already.
    pub async fn move_tenant(&self, name: &str, to_group: u32) -> Result<Option<pb::Move>, ClientError> {
        self.move_keys(pb::MoveKeysRequest { slots: None, tenant: name.to_owned(), to_group }).await
    }

    async fn move_keys(&self, message: pb::MoveKeysRequest) -> Result<Option<pb::Move>, ClientError> {
        let send = |channel, request| async { cluster(channel).move_keys(request).await };
        Ok(self.links.call(Repeat::Unsafe, message, send).await?.r#move)
    }

    /// The move under way comes to nothing.
    pub async fn abort_move(&self) -> Result<Option<pb::Move>, ClientError> {
        let send = |channel, request| async { cluster(channel).abort_move(request).await };
        Ok(self.links.call(Repeat::Unsafe, pb::AbortMoveRequest {}, send).await?.r#move)
    }

    /// The newest `limit` changes after the index `since`, oldest first.
    pub async fn list_changes(&self, since: u64, limit: u32) -> Result<pb::ListChangesResponse, ClientError> {
        let send = |channel, request| async { cluster(channel).list_changes(request).await };
        self.links.call(Repeat::Safe, pb::ListChangesRequest { since, limit }, send).await
    }

    /// Changes as they happen, after the index `since`. Goes on at another node when one is lost.
    pub fn watch_changes(&self, since: u64) -> ChangeWatch {
        ChangeWatch::new(self.clone(), since)
    }

    /// Saves the data of the answering node: begun, or with `wait` done.
    pub async fn save(&self, wait: bool) -> Result<pb::SaveResponse, ClientError> {
        let send = |channel, request| async { snapshots(channel).save(request).await };
        self.links.call(Repeat::Unsafe, pb::SaveRequest { wait }, send).await
    }

    /// The snapshots of the answering node.
    pub async fn list_snapshots(&self) -> Result<pb::ListSnapshotsResponse, ClientError> {
        let send = |channel, request| async { snapshots(channel).list_snapshots(request).await };
        self.links.call(Repeat::Safe, pb::ListSnapshotsRequest {}, send).await
    }

    /// Begins an import.
    pub async fn start_import(&self, message: pb::StartImportRequest) -> Result<pb::Import, ClientError> {
        let send = |channel, request| async { imports(channel).start_import(request).await };
        told(self.links.call(Repeat::Unsafe, message, send).await?.import)
    }

    /// How far the last import of the answering node is.
    pub async fn import(&self) -> Result<pb::Import, ClientError> {
        let send = |channel, request| async { imports(channel).get_import(request).await };
        told(self.links.call(Repeat::Safe, pb::GetImportRequest {}, send).await?.import)
    }

    /// Ends the import once everything is here; waits so long at most. 0 leaves the source's writers alone.
    pub async fn finish_import(
        &self,
        wait_ms: u32,
        pause_source_ms: u32,
        despite_problems: bool,
    ) -> Result<pb::Import, ClientError> {
        let message = pb::FinishImportRequest { wait_ms, pause_source_ms, despite_problems };
        let send = |channel, request| async { imports(channel).finish_import(request).await };
        told(self.links.call(Repeat::Unsafe, message, send).await?.import)
    }

    /// Ends the import where it is.
    pub async fn cancel_import(&self) -> Result<pb::Import, ClientError> {
        let send = |channel, request| async { imports(channel).cancel_import(request).await };
        told(self.links.call(Repeat::Unsafe, pb::CancelImportRequest {}, send).await?.import)
    }

    /// What was denied on every node, newest first; of this user, or of all if it is empty.
    pub async fn list_denials(&self, user: &str, limit: u32) -> Result<pb::ListDenialsResponse, ClientError> {
        let message = pb::ListDenialsRequest { limit, user: user.to_owned() };
        let send = |channel, request| async { insight(channel).list_denials(request).await };
        self.links.call(Repeat::Safe, message, send).await
    }

    /// What tenants used in a month such as `2026-11`, by day and node; the current one if it is empty.
    pub async fn usage(&self, month: &str) -> Result<pb::GetUsageResponse, ClientError> {
        let message = pb::GetUsageRequest { month: month.to_owned() };
        let send = |channel, request| async { insight(channel).get_usage(request).await };
        self.links.call(Repeat::Safe, message, send).await
    }

    /// The smallest rules that allow what a user was seen doing.
    pub async fn advise(&self, user: &str) -> Result<pb::AdviseResponse, ClientError> {
        let message = pb::AdviseRequest { user: user.to_owned() };
        let send = |channel, request| async { insight(channel).advise(request).await };
        self.links.call(Repeat::Safe, message, send).await
    }

    /// What is the matter with a user.
    pub async fn diagnose(&self, user: &str) -> Result<pb::DiagnoseResponse, ClientError> {
        let message = pb::DiagnoseRequest { user: user.to_owned() };
        let send = |channel, request| async { insight(channel).diagnose(request).await };
        self.links.call(Repeat::Safe, message, send).await
    }
}

fn told(import: Option<pb::Import>) -> Result<pb::Import, ClientError> {
    import.ok_or_else(|| ClientError::Unknown("the answer holds no import".to_owned()))
}

fn imports(channel: Channel) -> ImportsClient<Channel> {
    ImportsClient::new(channel)
}

fn insight(channel: Channel) -> InsightClient<Channel> {
    InsightClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

fn users(channel: Channel) -> UsersClient<Channel> {
    UsersClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

pub(crate) fn cluster(channel: Channel) -> ClusterClient<Channel> {
    ClusterClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

fn tenants(channel: Channel) -> TenantsClient<Channel> {
    TenantsClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

fn snapshots(channel: Channel) -> SnapshotsClient<Channel> {
    SnapshotsClient::new(channel)
}
