//! The control plane of one node: its part in the Raft group that agrees on users, nodes and who serves what.
//!
//! ```text
//!                    propose(change)                              view(), version()
//!                          │                                             ▲
//!          propose.rs ─────┴──► core.rs (as leader) ──► openraft         │ view.rs
//!                │ another leads                     ▲     │             │
//!                ▼                                   │     ▼             │
//!          peers.rs ◄──── network.rs ◄───────────────┤  log_store.rs  state_machine.rs ──► cluster::State
//!                │                                   │     ▼             │
//!                └──── gRPC ────► peer_service.rs ───┘  log_disk.rs   snapshot files
//! ```
//!
//! It runs on threads of its own, so that no load on the cache delays a heartbeat. From outside there is one handle,
//! [`Control`]: propose a change, read the view, watch for the end. It knows nothing of commands, sessions or keys.

pub mod config;
pub mod data_plane;
pub mod view;

mod codec;
mod codec_imports;
mod codec_tenants;
mod codec_users;
mod core;
mod disk_error;
mod door;
mod failover;
mod formation;
mod inquiry;
mod invitation;
pub mod lease;
#[cfg(not(simulated))]
mod log_disk;
#[cfg(simulated)]
#[path = "../../../tests/sim/inside/log_disk.rs"]
pub mod log_disk;
mod log_mark;
mod log_store;
mod marker;
mod membership;
mod network;
mod peer_service;
mod peers;
mod propose;
mod raft_types;
mod state_machine;

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use keyward_cluster::{Change, ChangeRecord, ClusterId, Epoch, GroupId, NodeId, NodeInfo, RequestId, Stamped};
use keyward_proto::control::peer_server::PeerServer;
use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use tokio::sync::{Semaphore, watch};
use tonic::service::InterceptorLayer;
use tonic::transport::Server;

use crate::world;
use crate::world::net::{self, Door};

use self::core::{Core, HereError, SharedCore, now};
use self::log_disk::damaged;
use self::log_store::LogStore;
use self::peers::{MESSAGE_BYTES_MAX, Peers};
use self::state_machine::StateMachine;
use self::view::Views;

pub use self::config::{Bootstrap, ControlConfig};
pub use self::core::Committed;
pub use self::data_plane::{DataPlane, GroupReport};
pub use self::door::LinkTaker;
pub use self::failover::NodeStanding;
pub use self::inquiry::{Answerer, INQUIRY_BYTES_MAX};
pub use self::invitation::InviteError;
pub use self::lease::Lease;
pub use self::log_disk::{DiskError, SyncHook};
pub use self::peers::ClusterSecret;
pub use self::propose::ControlError;
pub use self::view::View;

/// Threads for Raft and its listener: one may be busy with a large message while the other sends heartbeats.
const THREADS: usize = 2;

/// Between two looks at Raft of a node that leads itself alone. Whatever changes is seen at once.
const LOOK_ALONE_EVERY: Duration = Duration::from_secs(1);

/// How long a node that was removed stays to let the others finish: its vote may be needed to let it go.
const REMOVED_LINGER: Duration = Duration::from_secs(5);

/// How often a silent connection of a peer is probed, and how long it has to answer.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Streams per peer connection: replication takes a few, the rest is forwarded requests.
const STREAMS_MAX: u32 = 1024;

/// Who wants a change, and through which door it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The user, or `node:<name>`.
    pub actor: String,
    /// `resp`, `admin`, `acl-file`.
    pub source: String,
}

/// Why the control plane cannot start, as one sentence for the operator.
#[derive(Debug)]
pub enum StartError {
    /// The disk is damaged, in use, or not ours.
    Disk(DiskError),
    /// The listener for peers cannot be opened.
    Listen(String, std::io::Error),
    /// The configuration makes no sense.
    Config(String),
    /// The operating system gives no threads.
    Threads(std::io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disk(error) => error.fmt(f),
            Self::Listen(address, error) => {
                write!(f, "cannot listen for peers on {address}: {error}")
            }
            Self::Config(text) => f.write_str(text),
            Self::Threads(error) => {
                write!(f, "cannot start the threads of the control plane: {error}")
            }
        }
    }
}

impl std::error::Error for StartError {}

impl From<DiskError> for StartError {
    fn from(error: DiskError) -> Self {
        Self::Disk(error)
    }
}

/// The whole group as seen from one node.
#[derive(Clone, Debug)]
pub struct ControlStatus {
    /// The cluster, once formed.
    pub cluster_id: Option<ClusterId>,
    /// This node's id, once it has one.
    pub node: Option<NodeId>,
    /// Who leads, as far as this node knows.
    pub leader: Option<NodeId>,
    /// The Raft term.
    pub term: u64,
    /// The last entry in this node's log.
    pub last_log_index: u64,
    /// The last entry this node has applied.
    pub applied_index: u64,
    /// The last entry in this node's newest snapshot.
    pub snapshot_index: u64,
    /// Every registered node.
    pub nodes: Vec<NodeStatus>,
}

/// One registered node as seen from another.
#[derive(Clone, Debug)]
pub struct NodeStatus {
    /// What the registry says.
    pub info: NodeInfo,
    /// Whether it votes; a node that just joined, or one beyond five, only learns.
    pub voter: bool,
    /// How long ago it was heard from; `None` if never since this node started.
    pub silent_for: Option<Duration>,
    /// What it has applied; `None` if it did not answer just now.
    pub applied_index: Option<u64>,
}

/// The handle to the control plane. Clones share it.
#[derive(Clone)]
pub struct Control {
    inner: Arc<Inner>,
}

struct Inner {
    core: SharedCore,
    runtime: tokio::runtime::Handle,
    address: SocketAddr,
    proposals: Semaphore,
    stop: watch::Sender<bool>,
    thread: Mutex<Option<world::Beside>>,
}

impl Control {
    /// Opens the disk, opens the listener for peers, and starts to form, join or resume. Returns at once; see
    /// [`Self::wait_ready`]. Links that carry
    /// commands arrive on the same port; `links` takes them over.
    pub fn start(config: ControlConfig, links: Option<LinkTaker>) -> Result<Self, StartError> {
        config.raft().map_err(|error| StartError::Config(error.to_string()))?;
        let core = Arc::new(open(config)?);
        let listen = |error| StartError::Listen(core.config.peer_bind.clone(), error);
        let listener = net::listen(&core.config.peer_bind).map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let (stop, stopped) = watch::channel(false);
        let running = run(core.clone(), listener, links, stopped);
        // Nothing is left that may not be cut off: what was acknowledged is on disk.
        let started = world::apart("keyward-control", THREADS, Duration::from_millis(500), running);
        let (runtime, thread) = started.map_err(StartError::Threads)?;
        let proposals = Semaphore::new(core.config.proposals_max);
        let thread = Mutex::new(Some(thread));
        Ok(Self { inner: Arc::new(Inner { core, runtime, address, proposals, stop, thread }) })
    }

    /// Commits a change, from any node. Returns when it is committed, applied here, and, if it is about what users may,
    /// in force everywhere: applied on every node, or the lease of that node is over; such nodes are named. May be called
    /// from any thread and runtime.
    pub async fn propose(&self, change: Change, origin: Origin) -> Result<Committed, ControlError> {
        self.propose_as(change, origin, None).await
    }

    /// The same under a request id of the caller's: a caller who repeats it gets the answer to the first.
    pub async fn propose_as(
        &self,
        change: Change,
        origin: Origin,
        request: Option<RequestId>,
    ) -> Result<Committed, ControlError> {
        let _one_of_many = self.inner.proposals.acquire().await.map_err(|_| ControlError::Stopped)?;
        let stamped = Stamped { at: now(), actor: origin.actor, source: origin.source, request, change };
        self.on_control(|core| async move { core.propose(stamped).await }).await?
    }

    /// What this node has applied.
    pub fn view(&self) -> Arc<View> {
        self.inner.core.views.current()
    }

    /// The same, with a bell for every change of it.
    pub fn views(&self) -> watch::Receiver<Arc<View>> {
        self.inner.core.views.subscribe()
    }

    /// Calls `observer` with every view, in order, before anybody is told that it is applied here: what the observer
    /// makes of a view is in force when "applied on every node" is said. It must be quick and must not call back.
    pub fn observe(&self, observer: impl Fn(&View) + Send + Sync + 'static) {
        self.inner.core.views.observe(Box::new(observer));
    }

    /// The right of this node to serve.
    pub fn lease(&self) -> Arc<Lease> {
        self.inner.core.lease.clone()
    }

    /// Has a group served by `to`, or by whoever is most up to date, once that is in sync: within `patience`. `accept_loss`:
    /// without the old primary, and whether or not `to` has every acknowledged write. Dropped when this future
    /// is.
    pub async fn move_primary(
        &self,
        group: GroupId,
        to: Option<NodeId>,
        (accept_loss, patience): (bool, Duration),
        actor: String,
    ) -> Result<(), ControlError> {
        let how = (accept_loss, patience);
        let moving = move |core: SharedCore| async move { core.move_primary(group, to, how, &actor).await };
        self.while_wanted(moving).await?
    }

    /// What the leader knows of every node.
    pub async fn standings(&self) -> Result<Vec<NodeStanding>, ControlError> {
        self.on_control(|core| async move { core.standings().await }).await?
    }

    /// Names the data of this node, once. Before, it reports none.
    pub fn set_data_plane(&self, data: Arc<dyn DataPlane>) {
        if self.inner.core.data.set(data).is_err() {
            tracing::warn!("the data plane was named twice; the first stays");
        }
    }

    /// Names who answers other nodes' questions about this one, once. Before, nobody does.
    pub fn set_answerer(&self, answerer: Arc<dyn Answerer>) {
        if self.inner.core.answerer.set(answerer).is_err() {
            tracing::warn!("an answerer was named twice; the first stays");
        }
    }

    /// Asks these other nodes, all at once: an answer, or in a sentence why there is none.
    pub async fn inquire(
        &self,
        nodes: Vec<NodeId>,
        question: Vec<u8>,
    ) -> Result<Vec<(NodeId, Result<Vec<u8>, String>)>, ControlError> {
        self.on_control(|core| async move { core.inquire(nodes, question).await }).await
    }

    /// Counts the views. Keep it, compare it per request, and fetch the view only when it moved.
    pub fn version(&self) -> Arc<AtomicU64> {
        self.inner.core.views.version()
    }

    /// Waits until this node is part of a cluster and has caught up with it since it started. Before, serve nobody.
    pub async fn wait_ready(&self) -> Arc<View> {
        let mut views = self.views();
        match views.wait_for(|view| view.ready).await {
            Ok(view) => view.clone(),
            Err(_) => self.view(),
        }
    }

    /// The reason why this node must stop, once there is one: the disk fails, or the cluster removed the node.
    pub fn fatal(&self) -> watch::Receiver<Option<String>> {
        self.inner.core.fatal.subscribe()
    }

    /// The last changes, newest first.
    pub fn history(&self, limit: usize) -> Vec<ChangeRecord> {
        self.view().state.history().rev().take(limit).cloned().collect()
    }

    /// An index that covers everything acknowledged anywhere before this call; a view at or past it is current.
    pub async fn read_index(&self) -> Result<u64, ControlError> {
        self.on_control(|core| async move { core.read_index().await }).await?
    }

    /// Takes the node that waits to be invited at `address`, and has this name if one is given, into the cluster. Returns
    /// its id once it is a full member; that of a node that already is one, at once. Bounded: ten seconds.
    /// Repeating it is harmless.
    pub async fn invite(&self, address: String, name: Option<String>) -> Result<NodeId, InviteError> {
        let invited = self.on_control(|core| async move { core.invite(&address, name.as_deref()).await }).await;
        invited.map_err(|error| InviteError::Unavailable(error.to_string()))?
    }

    /// Whether this node waits for an invitation to a cluster.
    pub fn awaits_invitation(&self) -> bool {
        self.inner.core.awaits_invitation()
    }

    /// Retires a node for good. A group it was primary of has none until a successor is named.
    pub async fn remove_node(&self, node: NodeId, origin: Origin) -> Result<Committed, ControlError> {
        self.propose(Change::RemoveNode { node }, origin).await
    }

    /// Moves leadership of the Raft group to a voter, or to whichever is most up to date.
    pub async fn transfer_leadership(&self, to: Option<NodeId>) -> Result<(), ControlError> {
        self.while_wanted(move |core| async move { core.hand_over(to).await }).await?
    }

    /// Has the primary of a group remove the keys of a retired tenant. If not, why not, as a sentence.
    pub async fn purge_tenant(&self, primary: NodeId, group: GroupId, tenant: u32) -> Result<(), String> {
        let asked = self.on_control(move |core| async move { core.purge_tenant_on(primary, group, tenant).await });
        asked.await.map_err(|error| error.to_string())?
    }

    /// Has the primary of a group answer nothing about the keys of a move until it is decided. Where its stream ends as far
    /// as they are concerned, or why it does not, as a sentence.
    pub async fn hold_keys(&self, primary: NodeId, group: GroupId, index: u64) -> Result<u64, String> {
        let asked = self.on_control(move |core| async move { core.hold_keys_on(primary, group, index).await });
        asked.await.map_err(|error| error.to_string())?
    }

    /// Whether a node has a group on its disk up to an effect, named by its epoch and position; if not, it begins to.
    pub async fn save_group(&self, node: NodeId, group: GroupId, effect: (Epoch, u64)) -> Result<bool, String> {
        let asked = self.on_control(move |core| async move { core.save_group_on(node, group, effect).await });
        asked.await.map_err(|error| error.to_string())?
    }

    /// The group as seen from here; asks every node what it has applied, briefly.
    pub async fn status(&self) -> Result<ControlStatus, ControlError> {
        self.on_control(|core| async move { core.status().await }).await
    }

    /// Where this node listens for peers.
    pub fn peer_address(&self) -> SocketAddr {
        self.inner.address
    }

    /// Hands over leadership if this node has it, stops Raft, and closes the disk. Bounded: a few seconds at most.
    pub async fn shutdown(&self) {
        self.inner.proposals.close();
        let stopping = self.on_control(|core| async move { core.stop().await }).await;
        if stopping.is_err() {
            tracing::warn!("the control plane was stopped already");
        }
        self.inner.stop.send_replace(true);
        let thread = self.inner.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            world::over(thread).await;
        }
    }

    /// Ends at once, as if the process had been killed: no hand-over, nothing flushed. For tests of exactly that.
    #[cfg(test)]
    pub(crate) async fn kill(&self) {
        self.inner.stop.send_replace(true);
        let thread = self.inner.thread.lock().unwrap().take();
        if let Some(thread) = thread {
            tokio::task::spawn_blocking(move || thread.join()).await.unwrap().unwrap();
        }
    }

    /// Runs something on the control plane's own threads.
    async fn on_control<T, F>(&self, work: impl FnOnce(SharedCore) -> F) -> Result<T, ControlError>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let work = work(self.inner.core.clone());
        self.inner.runtime.spawn(work).await.map_err(|_| ControlError::Stopped)
    }

    /// The same for what must not happen once nobody waits for it any more: an operator who gave up has looked again, and
    /// what was right then may be wrong by now.
    async fn while_wanted<T, F>(&self, work: impl FnOnce(SharedCore) -> F) -> Result<T, ControlError>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let mut task = Wanted(self.inner.runtime.spawn(work(self.inner.core.clone())));
        (&mut task.0).await.map_err(|_| ControlError::Stopped)
    }
}

/// A task that ends with whoever waits for it.
struct Wanted<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for Wanted<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Makes a folder that nobody else may look into, whatever files are made there: what is agreed on names the hashes of passwords.
fn private_folder(dir: &std::path::Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let mut permissions = std::fs::metadata(dir)?.permissions();
    if permissions.mode() & 0o077 != 0 {
        permissions.set_mode(0o700);
        if let Err(error) = std::fs::set_permissions(dir, permissions) {
            tracing::warn!(dir = %dir.display(), %error, "others on this machine may read hashes of passwords here");
        }
    }
    Ok(())
}

/// Opens what is on disk and checks that it fits together and is ours.
fn open(config: ControlConfig) -> Result<Core, StartError> {
    let dir = &config.data_dir;
    std::fs::create_dir_all(dir).map_err(|error| DiskError::Io(dir.clone(), error))?;
    let log = LogStore::open(&dir.join("log"), config.sync.clone())?;
    let identity = log.identity();
    if let Some(identity) = identity.as_ref().filter(|identity| identity.node_name != config.node_name) {
        return Err(StartError::Config(format!(
            "the data in {} belongs to the node {}, but this node is named {}; give each node its own folder",
            dir.display(),
            identity.node_name,
            config.node_name
        )));
    }
    let owner = match &identity {
        Some(identity) => {
            let id = codec::cluster_id_from(&identity.cluster_id).map_err(|error| damaged(dir, error.to_string()))?;
            Some((id, NodeId(identity.node)))
        }
        None => None,
    };
    marker::check(dir, owner)?;
    let lease = Arc::new(Lease::default());
    let views = Views::new(lease.clone());
    let machine = StateMachine::open(&dir.join("snapshots"), owner, views.clone())?;
    if let Some(purged) = log.purged().filter(|purged| machine.snapshot_end().is_none_or(|end| end < *purged)) {
        let what = format!("the log begins after entry {}, and no snapshot reaches there", purged.index());
        return Err(damaged(dir, what).into());
    }
    let peers = Peers::new(config.cluster_secret.clone(), views.clone());
    if let Some((cluster_id, node)) = owner {
        peers.set_identity(cluster_id, node);
    }
    let (fatal, _) = watch::channel(None);
    Ok(Core {
        config,
        views,
        peers,
        log,
        machine,
        raft: OnceLock::new(),
        fatal,
        stopping: AtomicBool::new(false),
        membership: tokio::sync::Mutex::new(()),
        invited: watch::channel(None).0,
        data: OnceLock::new(),
        answerer: OnceLock::new(),
        lease,
        leading: Mutex::default(),
        renewals: lease::Renewals::default(),
    })
}

/// Everything the control plane does until it is told to stop.
async fn run(core: SharedCore, listener: Door, links: Option<LinkTaker>, mut stop: watch::Receiver<bool>) {
    let serving = tokio::spawn(serve(core.clone(), listener, links, stop.clone()));
    let living = tokio::spawn(live(core));
    let _ = stop.wait_for(|stop| *stop).await;
    living.abort();
    serving.abort();
}

async fn serve(core: SharedCore, listener: Door, links: Option<LinkTaker>, mut stop: watch::Receiver<bool>) {
    let listener = match net::open(listener) {
        Ok(listener) => listener,
        Err(error) => return core.fail(format!("cannot listen for peers: {error}")),
    };
    let peer = PeerServer::new(peer_service::PeerService { core: core.clone() })
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    // Without a taker nobody serves data here: such a link ends at once.
    let links = links.unwrap_or_else(|| Arc::new(|stream, _| drop(stream)));
    let checker = Arc::new(peers::Checker::new(core.config.cluster_secret.clone()));
    let served = Server::builder()
        .max_concurrent_streams(STREAMS_MAX)
        // A caller that vanished must not keep its place.
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .layer(InterceptorLayer::new(move |request| checker.check(request)))
        .add_service(peer)
        .serve_with_incoming_shutdown(door::open(listener, links), async move {
            let _ = stop.wait_for(|stop| *stop).await;
        })
        .await;
    if let Err(error) = served {
        core.fail(format!("the listener for peers failed: {error}"));
    }
}

async fn live(core: SharedCore) {
    if let Err(reason) = formation::establish(&core).await {
        return core.fail(reason);
    }
    tokio::join!(
        watch_raft(&core),
        membership::follow_registry(core.clone()),
        catch_up(&core),
        watch_removal(&core),
        failover::watch(&core),
        lease::renew(&core),
        lease::confirm(&core),
    );
}

/// Publishes who leads, and notices when Raft has stopped for good. Silence is no event, so it looks now and then too.
///
/// Raft's clock stands still while this node leads itself alone: there is nobody to send heartbeats to, nor an election.
async fn watch_raft(core: &SharedCore) {
    let Some(raft) = core.raft() else { return };
    let mut metrics = raft.metrics();
    loop {
        let running = metrics.borrow_watched().running_state.clone();
        if let Err(error) = running {
            return core.fail(format!("raft stopped: {error}"));
        }
        let leader = core.leader();
        if core.views.current().leader != leader {
            core.views.publish(|view| view.leader = leader);
        }
        let alone = {
            let metrics = metrics.borrow_watched();
            let mut members = metrics.membership_config.nodes().map(|(node, _)| *node);
            metrics.state == ServerState::Leader && members.all(|node| node == *raft.node_id())
        };
        raft.runtime_config().tick(!alone);
        let pause = if alone { LOOK_ALONE_EVERY } else { core.config.heartbeat };
        let changed = tokio::time::timeout(pause, metrics.changed()).await;
        if changed.is_ok_and(|changed| changed.is_err()) {
            return core.fail("raft stopped");
        }
    }
}

/// Declares the node ready once it is a full member, its start is registered, it holds a lease, and it has applied
/// everything that was acknowledged when it came up.
async fn catch_up(core: &SharedCore) {
    let Some((_, me)) = core.peers.identity() else { return };
    loop {
        let known = core.views.current().state.nodes().get(&me).map(|node| node.addresses.clone());
        if known.as_ref().is_some_and(|known| *known != core.config.addresses) {
            let addresses = core.config.addresses.clone();
            let moved = core.own_change(Change::UpdateNodeAddresses { node: me, addresses });
            if let Err(error) = core.propose(moved).await {
                tracing::info!(%error, "cannot tell the cluster about a new address yet");
                continue;
            }
        }
        if known.is_some() && core.views.current().incarnation.is_none() {
            let started = core.own_change(Change::StartNode { node: me, token: core.views.start_token });
            if let Err(error) = core.propose(started).await {
                tracing::info!(%error, "cannot register that this node started yet");
                continue;
            }
        }
        if let Ok(index) = core.read_index().await
            && core.views.current().incarnation.is_some()
            && core.lease.is_valid()
            && core.wait_applied_here(index, core.config.propose_timeout).await >= index
            && known.is_some()
            && core.is_settled(me)
        {
            return core.views.publish(|view| view.ready = true);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Stops a node that the cluster has removed, once the others no longer need it to let it go.
async fn watch_removal(core: &SharedCore) {
    let mut views = core.views.subscribe();
    if views.wait_for(|view| view.removed).await.is_ok() {
        // Mostly it did so before; a node that was out of reach meanwhile did not.
        lease::leave(core);
        tokio::time::sleep(REMOVED_LINGER).await;
        core.fail("the cluster has removed this node; to use it again, empty its data folder and let it join");
    }
}

impl Core {
    async fn status(&self) -> ControlStatus {
        let view = self.views.current();
        let metrics = self.raft().map(|raft| raft.metrics().borrow_watched().clone());
        let voters: BTreeSet<NodeId> =
            metrics.iter().flat_map(|metrics| metrics.membership_config.voter_ids()).collect();
        let patience = Duration::from_millis(500);
        let asked = view.state.nodes().values().map(|info| async {
            let applied_index = if view.node == Some(info.id) {
                Some(view.index)
            } else {
                tokio::time::timeout(patience, self.applied_on(info.id, 0, patience)).await.ok().flatten()
            };
            let silent_for =
                if view.node == Some(info.id) { Some(Duration::ZERO) } else { self.peers.silent_for(info.id) };
            NodeStatus { info: info.clone(), voter: voters.contains(&info.id), silent_for, applied_index }
        });
        ControlStatus {
            cluster_id: view.cluster_id(),
            node: view.node,
            leader: view.leader,
            term: metrics.as_ref().map_or(0, |metrics| metrics.current_term),
            last_log_index: metrics.as_ref().and_then(|metrics| metrics.last_log_index).unwrap_or(0),
            applied_index: view.index,
            snapshot_index: self.machine.snapshot_end().map_or(0, |end| end.index()),
            nodes: join_all(asked).await,
        }
    }

    async fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        if let Some(raft) = self.raft() {
            if self.leader() == Some(*raft.node_id())
                && let Err(HereError::Unknown | HereError::Stopped) = self.hand_over_here(None).await
            {
                tracing::warn!("leadership was not handed over in time; the others will elect");
            }
            let _ = raft.shutdown().await;
        }
        if let Err(error) = self.log.close().await {
            tracing::warn!(%error, "the raft log did not close cleanly");
        }
    }
}

#[cfg(test)]
mod tests;
