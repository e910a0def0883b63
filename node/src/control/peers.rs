//! How this node reaches the others: addresses, connections, the cluster secret, and who was heard from when.
//!
//! Addresses come from the replicated registry, so a node that moved is found as soon as the move is committed. Every
//! message names the cluster and the node it is meant for: after a move, an address may belong to somebody else.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use keyward_cluster::{ClusterId, NodeId, State};
use keyward_proto::control as wire;
use keyward_proto::control::peer_client::PeerClient;
use subtle::ConstantTimeEq;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use crate::places::Caller;

use super::codec;
use super::state_machine::SNAPSHOT_BYTES_MAX;
use super::view::Views;

/// The header that carries the cluster secret.
const SECRET_HEADER: &str = "keyward-cluster-secret";

/// A peer that does not accept a connection in this time is down for now; Raft asks again soon.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

/// How long a silent connection is trusted. Shorter than an election, so a cut cable is noticed before its effects.
const KEEP_ALIVE: Duration = Duration::from_secs(2);

/// Messages are bounded by the largest there is, a snapshot, and some room for its envelope.
pub(crate) const MESSAGE_BYTES_MAX: usize = SNAPSHOT_BYTES_MAX + 1024 * 1024;

/// Connections kept. More addresses than this means that nodes moved many times: start over.
const CHANNELS_MAX: usize = 2 * State::NODES_MAX;

/// A connection that proves knowledge of the cluster secret.
pub(crate) type Client = PeerClient<InterceptedService<Channel, ClusterSecret>>;

/// What every node of a cluster knows and nobody else. Printed as nothing.
#[derive(Clone)]
pub struct ClusterSecret(MetadataValue<Ascii>);

impl ClusterSecret {
    /// Takes a secret of at least 16 printable ASCII characters.
    pub fn new(secret: &str) -> Option<Self> {
        let printable = secret.bytes().all(|byte| byte.is_ascii_graphic());
        if secret.len() < 16 || !printable {
            return None;
        }
        let mut value: MetadataValue<Ascii> = secret.parse().ok()?;
        value.set_sensitive(true);
        Some(Self(value))
    }

    /// Whether a request carries the secret; takes equally long for every wrong one of the right length.
    pub(crate) fn check(&self, request: Request<()>) -> Result<Request<()>, Status> {
        let given = request.metadata().get(SECRET_HEADER).map(|value| value.as_encoded_bytes());
        let known = given.is_some_and(|given| bool::from(given.ct_eq(self.0.as_encoded_bytes())));
        if known { Ok(request) } else { Err(Status::unauthenticated("the cluster secret is missing or wrong")) }
    }
}

/// Between two log lines about refused peers: one of them asks several times a second, for as long as it is wrong.
const COMPLAINT_PAUSE: Duration = Duration::from_secs(10);

/// The door's check of the secret, which says now and then that it refuses somebody: usually a node of this cluster that
/// was given another secret.
pub(crate) struct Checker {
    secret: ClusterSecret,
    complained: Mutex<Option<Instant>>,
}

impl Checker {
    pub(crate) fn new(secret: ClusterSecret) -> Self {
        Self { secret, complained: Mutex::new(None) }
    }

    /// As [`ClusterSecret::check`]. A connection on which the secret was said keeps its place.
    pub(crate) fn check(&self, request: Request<()>) -> Result<Request<()>, Status> {
        let checked = self.secret.check(request);
        if let Some(caller) = checked.as_ref().ok().and_then(Caller::of) {
            caller.note_proof();
        }
        checked.inspect_err(|_| {
            let mut complained = self.complained.lock().unwrap_or_else(PoisonError::into_inner);
            if complained.is_none_or(|last| last.elapsed() >= COMPLAINT_PAUSE) {
                *complained = Some(Instant::now());
                tracing::warn!("a peer was refused: its cluster secret is missing or wrong, or this node's is");
            }
        })
    }
}

impl fmt::Debug for ClusterSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterSecret(…)")
    }
}

impl Interceptor for ClusterSecret {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert(SECRET_HEADER, self.0.clone());
        Ok(request)
    }
}

/// All peers. Clones share it.
#[derive(Clone)]
pub(crate) struct Peers {
    shared: Arc<Shared>,
}

struct Shared {
    secret: ClusterSecret,
    views: Views,
    /// Known from the moment this node is part of a cluster.
    identity: OnceLock<(ClusterId, NodeId)>,
    channels: Mutex<BTreeMap<String, Channel>>,
    contacts: Mutex<BTreeMap<NodeId, Instant>>,
}

impl Peers {
    pub(crate) fn new(secret: ClusterSecret, views: Views) -> Self {
        let shared =
            Shared { secret, views, identity: OnceLock::new(), channels: Mutex::default(), contacts: Mutex::default() };
        Self { shared: Arc::new(shared) }
    }

    pub(crate) fn set_identity(&self, cluster_id: ClusterId, node: NodeId) {
        self.shared.identity.get_or_init(|| (cluster_id, node));
    }

    pub(crate) fn identity(&self) -> Option<(ClusterId, NodeId)> {
        self.shared.identity.get().copied()
    }

    /// Where the registry says a node is.
    pub(crate) fn address_of(&self, node: NodeId) -> Option<String> {
        let view = self.shared.views.current();
        view.state.nodes().get(&node).map(|info| info.addresses.peer.clone())
    }

    /// A client for an address; connects when it is used.
    pub(crate) fn client(&self, address: &str) -> Result<Client, Status> {
        let channel = self.channel(address)?;
        Ok(PeerClient::with_interceptor(channel, self.shared.secret.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX))
    }

    /// A client for a registered node.
    pub(crate) fn client_of(&self, node: NodeId) -> Result<Client, Status> {
        let address = self.address_of(node).ok_or_else(|| Status::unavailable("the node is not registered"))?;
        self.client(&address)
    }

    fn channel(&self, address: &str) -> Result<Channel, Status> {
        let mut channels = lock(&self.shared.channels);
        if let Some(channel) = channels.get(address) {
            return Ok(channel.clone());
        }
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|_| Status::invalid_argument("a peer address is not host:port"))?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true);
        let channel = crate::world::net::channel(&endpoint);
        if channels.len() >= CHANNELS_MAX {
            channels.clear();
        }
        channels.insert(address.to_owned(), channel.clone());
        Ok(channel)
    }

    /// What a message to `target` opens with. A node without identity sends none that needs it.
    pub(crate) fn header(&self, target: NodeId) -> Option<wire::Header> {
        let (cluster_id, source) = self.identity()?;
        Some(wire::Header { cluster_id: codec::cluster_id_to(cluster_id), target: target.0, source: source.0 })
    }

    /// Refuses a message that is not for this node of this cluster, or comes from a node that was removed.
    pub(crate) fn check(&self, header: Option<wire::Header>) -> Result<NodeId, Status> {
        let header = header.ok_or_else(|| Status::invalid_argument("the message has no header"))?;
        let (cluster_id, node) = self.identity().ok_or_else(|| Status::unavailable("this node has not joined yet"))?;
        if header.cluster_id != cluster_id.0 {
            return Err(Status::failed_precondition("the message is for another cluster"));
        }
        if header.target != node.0 {
            return Err(Status::failed_precondition("the message is for another node"));
        }
        let source = NodeId(header.source);
        let view = self.shared.views.current();
        let known = view.state.nodes().contains_key(&source);
        // Ids are indexes of entries: a node this state could know and does not was removed.
        if !known && view.cluster_id().is_some() && view.index >= source.0 {
            return Err(Status::permission_denied("this node was removed from the cluster"));
        }
        self.heard_from(source);
        Ok(source)
    }

    pub(crate) fn heard_from(&self, node: NodeId) {
        let mut contacts = lock(&self.shared.contacts);
        if contacts.len() >= CHANNELS_MAX {
            contacts.clear();
        }
        contacts.insert(node, Instant::now());
    }

    /// How long ago a node was heard from; `None` if never.
    pub(crate) fn silent_for(&self, node: NodeId) -> Option<Duration> {
        lock(&self.shared.contacts).get(&node).map(Instant::elapsed)
    }

    /// What a refused or failed call means for this node itself.
    pub(crate) fn learn_from(&self, status: &Status) {
        if status.code() == tonic::Code::PermissionDenied {
            self.shared.views.publish(|view| view.removed = true);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_needs_the_very_secret() {
        let secret = ClusterSecret::new("correct-horse-battery").unwrap();
        assert!(secret.check(Request::new(())).is_err());
        let with = |text: &str| ClusterSecret::new(text).unwrap().call(Request::new(())).unwrap();
        assert!(secret.check(with("correct-horse-batterz")).is_err());
        assert!(secret.check(with("correct-horse-battery")).is_ok());
    }

    #[test]
    fn short_or_unprintable_secrets_are_not_taken() {
        assert!(ClusterSecret::new("short").is_none());
        assert!(ClusterSecret::new("sixteen or more but spaces").is_none());
    }

    #[test]
    fn a_secret_is_never_printed() {
        let secret = ClusterSecret::new("correct-horse-battery").unwrap();
        assert!(!format!("{secret:?}").contains("horse"));
    }
}
