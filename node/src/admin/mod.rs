//! The admin port: gRPC for operators. Translation only.
//!
//! ```text
//! call ─► auth.rs (who? may they run the same Redis command?) ─► users.rs / cluster.rs / snapshots.rs / imports.rs
//!                                                                     │ messages <-> Redis answers, changes
//!                                                                     ▼
//!                                                              trait AdminBackend, implemented in for_node.rs
//! ```
//! Two doors, one corridor: what an operator asks for here is permitted, checked and proposed exactly like the Redis
//! command that does the same, and its answers are read off that command's answers. So nothing here but `for_node` knows
//! what a rule is, how a change reaches the other nodes, or where data is kept.

pub mod auth;
pub mod backend;
pub mod cluster;
pub mod for_node;
pub mod imports;
pub mod insight;
mod listen;
pub mod snapshots;
pub mod tenants;
pub mod users;

use std::sync::Arc;
use std::time::Duration;

use keyward_proto::FILE_DESCRIPTOR_SET;
use keyward_proto::admin::cluster_server::{ClusterServer, SERVICE_NAME as CLUSTER};
use keyward_proto::admin::imports_server::{ImportsServer, SERVICE_NAME as IMPORTS};
use keyward_proto::admin::insight_server::{InsightServer, SERVICE_NAME as INSIGHT};
use keyward_proto::admin::snapshots_server::{SERVICE_NAME as SNAPSHOTS, SnapshotsServer};
use keyward_proto::admin::tenants_server::{SERVICE_NAME as TENANTS, TenantsServer};
use keyward_proto::admin::users_server::{SERVICE_NAME as USERS, UsersServer};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tonic::transport::server::{Router, ServerTlsConfig};
use tonic::transport::{Error, Server};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

pub use auth::Door;
use auth::Named;
pub use backend::{AdminBackend, AdminFailure, ControlStatus, Member, Origin, SnapshotFile, SnapshotList};
pub use for_node::NodeBackend;

/// The health service's name is a constant of its protocol.
const HEALTH: &str = "grpc.health.v1.Health";

/// How long a call may take before it is given up. The control plane fails a proposal far sooner by itself; but a
/// snapshot of everything, when the caller waits for it, takes minutes.
const CALL_TIMEOUT: Duration = Duration::from_secs(300);
/// Calls at a time on one connection; an operator's script makes one.
const CALLS_PER_CONNECTION_MAX: u32 = 32;
/// A request holds at most all rules of one user, and a password file's worth of hashes.
const REQUEST_BYTES_MAX: usize = 1024 * 1024;
/// An answer holds at most every user with every rule; the client accepts as much.
const RESPONSE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Credentials are the only header of any size.
const HEADER_BYTES_MAX: u32 = 16 * 1024;
/// How often an idle connection is probed, and how long it has to answer.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// How long calls may go on once the node stops.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(3);
/// How often the health service learns whether the node is ready.
const HEALTH_EVERY: Duration = Duration::from_secs(1);

/// Serves operators on `listener` until `shutdown` is ready. Calls that are under way then have a few seconds.
pub async fn serve<B: AdminBackend>(
    listener: TcpListener,
    backend: Arc<B>,
    tls: Option<ServerTlsConfig>,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), Error> {
    let (stop, stopping) = watch::channel(false);
    let (reporter, router) = router(Arc::clone(&backend), tls, stopping.clone())?;
    let health = tokio::spawn(report_health(backend, reporter));

    let stopped = wait_until_true(stopping);
    let serving = router.serve_with_incoming_shutdown(listen::incoming(listener), stopped);
    tokio::pin!(serving);
    tokio::pin!(shutdown);
    let result = tokio::select! {
        result = &mut serving => result,
        () = &mut shutdown => {
            stop.send_replace(true);
            tokio::select! {
                result = &mut serving => result,
                () = sleep(SHUTDOWN_GRACE) => Ok(()),
            }
        }
    };
    health.abort();
    result
}

fn router<B: AdminBackend>(
    backend: Arc<B>,
    tls: Option<ServerTlsConfig>,
    stopping: watch::Receiver<bool>,
) -> Result<(HealthReporter, Router), Error> {
    let door = Arc::new(Door::new(backend, stopping));
    let (reporter, health) = tonic_health::server::health_reporter();
    let mut server = Server::builder()
        .timeout(CALL_TIMEOUT)
        .max_concurrent_streams(CALLS_PER_CONNECTION_MAX)
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE));
    if let Some(tls) = tls {
        server = server.tls_config(tls)?;
    }
    let users = UsersServer::new(users::UserService::new(Arc::clone(&door)))
        .max_decoding_message_size(REQUEST_BYTES_MAX)
        .max_encoding_message_size(RESPONSE_BYTES_MAX);
    let cluster = ClusterServer::new(cluster::ClusterService::new(Arc::clone(&door)))
        .max_decoding_message_size(REQUEST_BYTES_MAX)
        .max_encoding_message_size(RESPONSE_BYTES_MAX);
    let tenants = TenantsServer::new(tenants::TenantService::new(Arc::clone(&door)))
        .max_decoding_message_size(REQUEST_BYTES_MAX)
        .max_encoding_message_size(RESPONSE_BYTES_MAX);
    let snapshots = SnapshotsServer::new(snapshots::SnapshotService::new(Arc::clone(&door)))
        .max_decoding_message_size(REQUEST_BYTES_MAX);
    let insight = InsightServer::new(insight::InsightService::new(Arc::clone(&door)))
        .max_decoding_message_size(REQUEST_BYTES_MAX)
        .max_encoding_message_size(RESPONSE_BYTES_MAX);
    let imports = ImportsServer::new(imports::ImportService::new(door)).max_decoding_message_size(REQUEST_BYTES_MAX);
    // Both generations: older tools know only the first. What is spoken on other ports is not advertised here.
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .with_service_name(USERS)
            .with_service_name(CLUSTER)
            .with_service_name(TENANTS)
            .with_service_name(SNAPSHOTS)
            .with_service_name(IMPORTS)
            .with_service_name(INSIGHT)
            .with_service_name(HEALTH)
    };
    let router = server
        .add_service(Named(users))
        .add_service(Named(cluster))
        .add_service(Named(tenants))
        .add_service(Named(snapshots))
        .add_service(Named(imports))
        .add_service(Named(insight))
        .add_service(health)
        .add_service(reflection().build_v1().expect("the committed descriptors are valid"))
        .add_service(reflection().build_v1alpha().expect("the committed descriptors are valid"));
    Ok((reporter, router))
}

/// The health service answers whether this node is ready, without credentials: probes have none.
async fn report_health<B: AdminBackend>(backend: Arc<B>, reporter: HealthReporter) {
    let mut ticks = interval(HEALTH_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let status = match backend.readiness() {
            Ok(()) => ServingStatus::Serving,
            Err(_) => ServingStatus::NotServing,
        };
        for service in ["", USERS, CLUSTER, TENANTS, SNAPSHOTS, IMPORTS, INSIGHT] {
            reporter.set_service_status(service, status).await;
        }
    }
}

async fn wait_until_true(mut flag: watch::Receiver<bool>) {
    // The sender outlives the server; if it is gone, so is the reason to serve.
    let _ = flag.wait_for(|set| *set).await;
}

#[cfg(test)]
mod tests;
