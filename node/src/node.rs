//! Builds every room of a node and hands each what it needs: the only file that knows everybody.
//!
//! ```text
//!   start:  policy file read ─► control plane up (own threads) ─► users seeded ─► data loaded ─► doors open, last
//!   stop:   doors closed ─► leadership handed over ─► data saved ─► control plane down
//! ```
//! Data threads, the control plane and the service thread (admin port, http port, timers) are apart, so that load on one
//! never starves the other. It is long because starting and stopping are one story each, told in order.

use crate::acl_file;
use crate::backend::Waiting;
use crate::blocked::Blocked;
use crate::config::{AclLeasePolicy, Config, Formation, PolicySource, Secret};
use crate::control::{self, Bootstrap, ClusterSecret, Control, ControlConfig, Lease, Origin};
use crate::corridor::{Corridor, Entry, InLane, Parts, SCRIPT_THREADS};
use crate::counters::ThreadCounters;
use crate::entrance::{self, Entrance};
use crate::expiry::Expiry;
use crate::gate::LeaseState;
use crate::guesses::Guesses;
use crate::handover::Guests;
use crate::import::Imports;
use crate::insight::audit::Audit;
use crate::insight::tenants::Days;
use crate::journal::Journal;
use crate::latency::Events;
use crate::live::{Live, MIN_IN_SYNC};
use crate::mailbox::Mailbox;
use crate::monitor::Monitors;
use crate::moves::Bar;
use crate::moving::Farewells;
use crate::observers::Observers;
use crate::owed::Owed;
use crate::pause::Pause;
use crate::places::PortPlace;
use crate::pubsub::PubSub;
use crate::repack::Repacking;
use crate::replication::Replication;
use crate::scripts::Scripts;
use crate::seed;
use crate::shards::Shards;
use crate::slow::CommandLogs;
use crate::snapshot::Snapshots;
use crate::ties::Ties;
use crate::tracking::Tracking;
use crate::view::{Terms, View, ViewCell};
use crate::worker::{INBOX_MESSAGES_MAX, Job, Worker, now_us};
use keyward_acl::AclLog;
use keyward_cluster::{Addresses, Change, Epoch, GroupId, Member, Outcome, State};
use keyward_engine::effects::Effects;
use keyward_engine::events::{Event, EventClass};
use keyward_engine::keyspace::{Garbage, Layout, Shard, SpaceId, Swept, Tally, TenantId};
use keyward_engine::reply::Reply;
use keyward_engine::scope::Reach;
use keyward_engine::session::Payer;
use keyward_engine::table::{Table, table};
use keyward_engine::tenancy::Gauges;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fmt;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

/// Between two looks at idle clients, memory and the save schedule.
const TICK: Duration = Duration::from_secs(1);

/// What clients that are sent away may take for what they asked before. It is less than what is left of any lease then.
const DISMISS_TIMEOUT: Duration = Duration::from_secs(1);
const DISMISS_LOOK: Duration = Duration::from_millis(5);

/// Between two looks at a lease that is over, or nearly.
const LEASE_LOOK: Duration = Duration::from_millis(20);

/// Programs that have run for longer than this without writing are ended when the node stops.
const SCRIPT_AT_STOP: Duration = Duration::from_secs(1);

/// What data threads have at least to end what they run, at a stop.
const CLOSE_MIN: Duration = Duration::from_secs(1);

/// How long clients are kept waiting at the door for a primary to be named. Later ones are told that there is none.
const PRIMARY_WAIT: Duration = Duration::from_secs(2);

/// How much of a client's id names its node. Nodes are numbered by the change that registered them: two whose numbers
/// differ by a multiple of 65536 would share ids. What is left counts 10^11 clients before a client written in
/// JavaScript can no longer tell ids apart.
const CLIENT_ID_NODE_BITS: u32 = 16;

/// What each of the two Lua states may take, in bytes: room for a large value, its copy and a result.
const SCRIPT_MEMORY_BYTES_MAX: usize = 256 << 20;

/// Why a node cannot start, or had to stop: one sentence.
#[derive(Debug)]
pub enum StartError {
    /// The ACL file.
    AclFile(acl_file::AclFileError),
    /// The control plane.
    Control(control::StartError),
    /// A port.
    Listen(String, std::io::Error),
    /// Threads or runtimes.
    System(std::io::Error),
    /// The data on disk.
    Data(String),
    /// It ran, and must not go on.
    Fatal(String),
    /// Something else about the configuration.
    Config(String),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::AclFile(error) => write!(f, "{error}"),
            StartError::Control(error) => write!(f, "{error}"),
            StartError::Listen(address, error) => write!(f, "cannot listen on {address}: {error}"),
            StartError::System(error) => write!(f, "the operating system refuses: {error}"),
            StartError::Data(text) | StartError::Fatal(text) | StartError::Config(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for StartError {}

/// Asks the node to stop, once.
pub struct Stop {
    sender: watch::Sender<Option<Option<bool>>>,
}

impl Stop {
    fn new() -> Stop {
        Stop { sender: watch::channel(None).0 }
    }

    /// Begins the stop; `save` as in `SHUTDOWN`. A second request changes nothing.
    pub fn request(&self, save: Option<bool>) {
        self.sender.send_if_modified(|wanted| {
            let first = wanted.is_none();
            if first {
                *wanted = Some(save);
            }
            first
        });
    }

    async fn wait(&self) -> Option<bool> {
        let mut receiver = self.sender.subscribe();
        let wanted = receiver.wait_for(Option::is_some).await.map(|wanted| *wanted);
        wanted.ok().flatten().flatten()
    }
}

/// What the shard groups of a node have in common: all there is but their data.
pub struct Common {
    /// What it was told at start.
    pub config: Config,
    /// What can change while it runs.
    pub live: Live,
    /// Every command.
    pub table: &'static Table,
    /// Who may run now.
    pub corridor: Corridor,
    /// Who listens to what.
    pub pubsub: Arc<PubSub>,
    /// The links to other nodes.
    pub ties: Ties,
    /// Answers that other nodes owe clients of this one.
    pub owed: Owed,
    /// Who caches, whichever group the keys are of.
    pub tracking: Arc<Tracking>,
    /// Whether memory is being given back.
    pub repacking: Repacking,
    /// What each tenant uses, in all groups.
    pub gauges: Arc<Gauges>,
    /// Who watches commands.
    pub monitors: Monitors,
    /// Where other clients reach each client.
    pub mailboxes: Mutex<HashMap<u64, Weak<Mailbox>>>,
    /// Who answers for what clients hold that did not log in.
    pub strangers: Arc<[Payer]>,
    /// Who guesses at passwords.
    pub guesses: Guesses,
    /// Places of clients.
    pub entrance: Arc<Entrance>,
    /// Who waits for keys.
    pub blocked: Blocked,
    /// The way to agree on more.
    pub control: Control,
    /// The right of this node to serve.
    pub lease: Arc<Lease>,
    /// Who was denied what.
    pub acl_log: Mutex<AclLog>,
    /// The users the ACL file names now are in force, if there is such a file: its last content was valid and was taken.
    pub acl_file_usable: Arc<AtomicBool>,
    /// Who did what.
    pub audit: Audit,
    /// What tenants used, day by day.
    pub usage: Days,
    /// Remarkable commands.
    pub command_logs: CommandLogs,
    /// What made it slow.
    pub latency: Events,
    /// Scripts may use `DEBUG`, for tests.
    pub debug_in_scripts: AtomicBool,
    /// How to reach each data thread.
    pub inboxes: Vec<mpsc::Sender<Job>>,
    /// What each data thread counted.
    pub counters: Vec<Arc<ThreadCounters>>,
    /// Whether expired keys are looked for.
    pub expiry: Expiry,
    /// What is known of the source of an import.
    pub imports: Imports,
    /// Asks it to stop.
    pub stop: Stop,
    /// When it started.
    pub started: Instant,
    /// 40 hex digits, new at every start.
    pub run_id: String,
    /// Clients of other nodes that are served here.
    pub guests: Guests,
    /// Batches of other nodes that came for data this node does not serve.
    pub strays: AtomicU64,
    /// Held by whoever moves keys to another shard group, for each step.
    pub moving: Mutex<()>,
    /// Those of them that move along with the data.
    pub farewells: Farewells,
    /// The node of each shard group, by its id; empty while they are made.
    groups: OnceLock<Box<[Arc<Node>]>>,
    secret: Vec<u8>,
    next_client: AtomicU64,
    next_link: AtomicU64,
    loading: AtomicBool,
    memory_peak_bytes: AtomicU64,
    rates: Mutex<Rates>,
}

/// A node as far as one shard group is concerned: everything its parts share.
///
/// A process has one for each group, and each of them is a whole cache: keys, journal, copies, scripts, snapshots, a view that
/// says who serves *this* group. So nothing below the place where a request is led to its group knows that
/// there are several. What belongs to the process is in [`Common`], and read as if it were the node's own. The first group's
/// node is the one that clients, operators and other nodes meet; with one group there is no other.
pub struct Node {
    /// Which group.
    pub group: GroupId,
    common: Arc<Common>,
    /// Every key.
    pub shards: Shards,
    /// Scripts and functions.
    pub scripts: Scripts,
    /// What writes did.
    pub journal: Journal,
    /// The copies of the data on other nodes, or this one's copy.
    pub replication: Replication,
    /// What is agreed on.
    pub views: Arc<ViewCell>,
    /// Whether clients wait.
    pub pause: Pause,
    /// Keys that are about to be another group's.
    pub bar: Bar,
    /// Data on disk.
    pub snapshots: Snapshots,
    /// Another server's data on its way in.
    pub import: crate::import::Part,
}

impl Deref for Node {
    type Target = Common;

    #[inline]
    fn deref(&self) -> &Common {
        &self.common
    }
}

impl Node {
    fn of_group(group: GroupId, common: &Arc<Common>, layout: Layout, view: View) -> Node {
        let replication = Replication::new(&common.config);
        Node {
            group,
            shards: Shards::new(layout, Arc::clone(&common.pubsub), Arc::clone(&common.tracking), &common.gauges),
            scripts: Scripts::new(SCRIPT_MEMORY_BYTES_MAX),
            journal: replication.journal(),
            replication,
            views: Arc::new(ViewCell::new(view)),
            pause: Pause::default(),
            bar: Bar::default(),
            snapshots: Snapshots::new(&common.config, group),
            import: crate::import::Part::default(),
            common: Arc::clone(common),
        }
    }

    /// This process as far as each shard group is concerned, by the groups' ids, which count from 0.
    pub fn groups(&self) -> &[Arc<Node>] {
        self.common.groups.get().map_or(&[], |groups| groups)
    }

    /// What happened to keys since the start, in all groups.
    pub fn tally(&self) -> Tally {
        self.groups().iter().fold(Tally::default(), |sum, of| sum.plus(of.shards.tally()))
    }

    /// This process as far as one group is concerned; `None` if there is no such group.
    pub fn of(&self, group: GroupId) -> Option<&Arc<Node>> {
        self.groups().get(group.0 as usize)
    }

    /// This node's id in the cluster.
    pub fn id(&self) -> u64 {
        self.views.load().1.me.0
    }

    /// The cluster's id.
    pub fn cluster_id(&self) -> [u8; 16] {
        self.views.load().1.state.cluster_id().map_or([0; 16], |id| id.0)
    }

    /// What nodes prove to each other that they know.
    pub fn cluster_secret(&self) -> &[u8] {
        &self.secret
    }

    /// Whose place a new client may have.
    pub fn bounds_of_entrance(&self) -> entrance::Bounds {
        entrance::Bounds {
            max: self.live.hot().clients_max,
            strangers_max: self.config.unauthenticated_clients_per_address as usize,
            anonymous: match self.views.load().1.anonymous() {
                None => entrance::Anonymous::Nobody,
                Some(login) if login.policy.is_confined() => entrance::Anonymous::Confined,
                Some(_) => entrance::Anonymous::Everything,
            },
        }
    }

    /// How many clients are connected.
    pub fn client_count(&self) -> u64 {
        self.entrance.count()
    }

    /// An id no other client of the cluster has, and none of this process had. It grows from client to client, and its
    /// lowest bits are the node's, so that a client may go on elsewhere under the id it was told.
    pub fn next_client_id(&self) -> u64 {
        let count = self.next_client.fetch_add(1, Ordering::Relaxed);
        count << CLIENT_ID_NODE_BITS | self.id() & ((1 << CLIENT_ID_NODE_BITS) - 1)
    }

    /// Whether an id is one that another node of the cluster gives its clients.
    pub fn is_client_of_another(&self, client: u64) -> bool {
        let mask = (1 << CLIENT_ID_NODE_BITS) - 1;
        let (_, view) = self.views.load();
        let of_node = |number: u64| client >> CLIENT_ID_NODE_BITS > 0 && number & mask == client & mask;
        !of_node(self.id()) && view.state.nodes().keys().any(|node| of_node(node.0))
    }

    /// What the lease lets this node do.
    #[inline]
    pub fn lease_state(&self) -> LeaseState {
        if self.lease.is_valid() { LeaseState::InForce } else { self.without_lease() }
    }

    #[cold]
    fn without_lease(&self) -> LeaseState {
        match self.config.acl_lease_policy {
            // A node that never had one knows nothing yet.
            _ if self.lease.ended_for().is_none() => LeaseState::Over,
            AclLeasePolicy::Deny => LeaseState::Over,
            AclLeasePolicy::DenyWrites => LeaseState::ReadsOnly,
            AclLeasePolicy::Extend => LeaseState::InForce,
        }
    }

    /// Whether data is still being loaded.
    #[inline]
    pub fn is_loading(&self) -> bool {
        self.loading.load(Ordering::Relaxed)
    }

    /// Bytes the data of all groups uses, nearly.
    #[inline]
    pub fn memory_bytes(&self) -> u64 {
        match self.groups() {
            [] | [_] => self.shards.used_bytes(),
            groups => groups.iter().map(|of| of.shards.used_bytes()).sum(),
        }
    }

    /// The most it ever used, looked at every second.
    pub fn memory_peak_bytes(&self) -> u64 {
        self.memory_peak_bytes.load(Ordering::Relaxed)
    }

    /// Data commands are refused while data is loaded.
    pub fn set_loading(&self, loading: bool) {
        self.loading.store(loading, Ordering::Relaxed);
    }

    /// What it does for clients per second, over the last tick.
    pub fn rates(&self) -> Rates {
        *self.rates.lock()
    }

    /// Proposes a change and waits until it is in force. The error is a reply.
    pub async fn propose(&self, change: Change, actor: String, source: String) -> Result<Outcome, String> {
        match self.control.propose(change, Origin { actor, source }).await {
            Ok(committed) => {
                if !committed.unconfirmed.is_empty() {
                    tracing::warn!(index = committed.index, nodes = ?committed.unconfirmed, "nodes out of contact did not confirm a change");
                }
                Ok(committed.outcome)
            }
            Err(error) => Err(format!("CLUSTERDOWN {error}")),
        }
    }

    /// Takes over what `CONFIG SET` changed and other rooms must know.
    pub fn settings_changed(&self) {
        let hot = self.live.hot();
        // A new limit holds from now on, not from the next look.
        for of in self.groups() {
            of.shards.count_used_bytes();
            of.replication.log.set_bytes_max(hot.backlog_bytes, self.config.repl_copy_backlog_size.bytes());
        }
        if hot.tracked_keys_max > 0 {
            for of in self.groups() {
                (0..of.shards.count()).for_each(|index| of.shards.forget_tracked_beyond(index, hot.tracked_keys_max));
                of.shards.tracking.deliver();
            }
        }
        self.views.load().1.set_clients_hold_max(hot.clients_hold_max);
        self.acl_log.lock().set_max_len(hot.acl_log_max);
        self.command_logs.set_bounds(&hot.remarkable);
    }

    /// What all clients hold besides keys, in bytes.
    pub fn held_by_clients(&self) -> u64 {
        let mailboxes = self.mailboxes.lock();
        mailboxes.values().filter_map(Weak::upgrade).map(|mailbox| mailbox.holding.bytes()).sum()
    }

    /// `CONFIG RESETSTAT`.
    pub fn reset_statistics(&self) {
        self.counters.iter().for_each(|counters| counters.reset());
        for of in self.groups() {
            (0..of.shards.count()).for_each(|index| of.shards.with(index, |shard| shard.reset_tally()));
            of.shards.dropper.reset();
        }
    }

    /// `ACL LOG`, newest first.
    pub fn show_acl_log(&self, count: usize, now_ms: i64, reach: &Reach, reply: &mut Reply) {
        crate::acl_log::show(&self.acl_log.lock(), count, now_ms, reach, reply);
    }

    /// Tells every data thread to look at its sessions again.
    pub async fn sweep(&self) {
        for inbox in &self.inboxes {
            let (done, swept) = oneshot::channel();
            if inbox.send(Job::Sweep(done)).await.is_ok() {
                // An error means that the thread is ending, and its sessions with it.
                let _ = swept.await;
            }
        }
    }

    /// The cluster lets this node go: its clients are sent away, each after what it was answering; whoever takes too long is
    /// cut off. They reconnect elsewhere, as after a stop.
    pub async fn dismiss(&self) {
        tracing::info!(clients = self.client_count(), "this node leaves the cluster: its clients are sent away");
        let deadline = tokio::time::Instant::now() + DISMISS_TIMEOUT;
        for at_once in [false, true] {
            for inbox in &self.inboxes {
                // An error means that the thread is ending, and its sessions with it.
                let _ = inbox.send(Job::Dismiss { at_once }).await;
            }
            while self.client_count() > 0 && tokio::time::Instant::now() < deadline {
                tokio::time::sleep(DISMISS_LOOK).await;
            }
        }
    }

    /// Removes keys nobody asked to remove, expired or evicted, under the shard's lock; how many. The caller knows that nobody
    /// is alone with them: whoever is finds them as they were.
    pub fn remove_in_background(
        &self,
        index: u32,
        space: SpaceId,
        events: EventClass,
        with: impl FnOnce(&mut Shard, &mut Effects) -> Vec<Garbage>,
    ) -> usize {
        self.shards.remove_in_background(index, space, self.events_of(space, events), &self.journal, with)
    }

    /// Removes expired keys of one shard, a slice of it of about this length, and up to `fields` expired fields of the hashes
    /// of each of its keyspaces; the next slice goes on. Nothing while
    /// somebody has the corridor: no key goes between the commands of a transaction.
    pub fn sweep_shard(&self, index: u32, now_ms: i64, events: EventClass, time: Duration, fields: usize) -> Swept {
        let began = Instant::now();
        let mut all = Swept { finished: true, ..Swept::default() };
        if self.shards.keeps_shard(index) {
            return all;
        }
        let lane = self.corridor.upkeep_lane();
        let kept = match self.corridor.enter(lane) {
            Entry::Entered => Parts::default(),
            Entry::Beside(parts) => parts,
            Entry::Closed | Entry::Busy => return all,
        };
        let _in_lane = InLane::new(&self.corridor, lane);
        let is_kept = |space: &SpaceId| kept.iter().any(|part| part.concerns(space.tenant));
        if !self.views.load().1.is_primary() {
            return all;
        }
        for space in self.shards.with(index, |shard| shard.expiring_spaces()) {
            if is_kept(&space) {
                continue;
            }
            self.remove_in_background(index, space, events, |shard, effects| {
                let mut garbage = Vec::new();
                let keys = shard.space_mut(space);
                let mut go_on = || began.elapsed() < time;
                let swept = keys.remove_expired(space.database, now_ms, effects, &mut garbage, &mut go_on);
                all = all.plus(swept);
                garbage
            });
        }
        all.removed += self.sweep_fields(index, now_ms, fields, &is_kept);
        all
    }

    fn sweep_fields(&self, index: u32, now_ms: i64, fields: usize, is_kept: &dyn Fn(&SpaceId) -> bool) -> usize {
        self.shards.with_observers(index, |shard, observers| {
            let mut removed = 0;
            for space in shard.spaces_of_expiring_fields().into_iter().filter(|space| !is_kept(space)) {
                removed += shard.space_mut(space).remove_expired_fields(now_ms, fields, |expired| {
                    self.journal.expired_fields(space, &expired);
                    self.tell(observers, space, EventClass::HASH, "hexpired", expired.key, !expired.emptied);
                    if expired.emptied {
                        self.tell(observers, space, EventClass::GENERIC, "del", expired.key, false);
                    }
                });
            }
            removed
        })
    }

    /// Which events are told of keys of `space`, where `everywhere` are told of all.
    fn events_of(&self, space: SpaceId, everywhere: EventClass) -> EventClass {
        if space.tenant == TenantId::SHARED {
            return everywhere;
        }
        let (_, view) = self.views.load();
        view.tenancy.get(space.tenant).map_or(everywhere, |tenant| everywhere.and(tenant.limits.events))
    }

    /// The node changed a key by itself: everybody whom that concerns is told.
    fn tell(
        &self,
        observers: &mut Observers,
        space: SpaceId,
        class: EventClass,
        name: &'static str,
        key: &[u8],
        exists: bool,
    ) {
        let event = Event { class, name, database: space.database, key: key.to_vec() };
        let wanted = self.events_of(space, self.live.hot().events);
        self.shards.tell(observers, wanted, event, space, exists);
    }

    /// Gives a link another node opened to one of the data threads, in turn.
    fn take_link(&self, stream: crate::world::net::Parcel, place: PortPlace) {
        let turn = self.next_link.fetch_add(1, Ordering::Relaxed) as usize % self.inboxes.len();
        // A full inbox drops the link; its caller tries again.
        let _ = self.inboxes[turn].try_send(Job::Link(stream, place));
    }
}

/// What a node would refuse to start with that lies outside of its settings: the file its users come from. The error says why.
pub fn check(config: &Config) -> Result<(), StartError> {
    seed::read(config, table()).map(drop)
}

/// Runs a node until SIGTERM, SIGINT, `SHUTDOWN` or a failure it must not survive.
pub fn run(config: Config) -> Result<(), StartError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::System)?;
    let outcome = runtime.block_on(serve(config));
    // What somebody else still computes or writes is not waited for: it had its time.
    runtime.shutdown_background();
    outcome
}

/// The same on the runtime of the caller.
pub async fn serve(mut config: Config) -> Result<(), StartError> {
    // First of all: a start may take minutes, and whoever wants it to stop says so once.
    let mut termination = crate::listen::Termination::watch();
    // A node alone on loopback may be given no secret; then nobody knows it, and still nobody gets in without it.
    config.cluster_secret.get_or_insert_with(|| {
        Secret::of(&crate::random::bytes::<32>().iter().map(|byte| format!("{byte:02x}")).collect::<String>())
    });
    let table = table();
    let seed = seed::read(&config, table)?;
    // Links may arrive before there is anybody to take them: their callers try again.
    let taker: Arc<OnceLock<Arc<Node>>> = Arc::default();
    let links = Arc::clone(&taker);
    let take = Arc::new(move |stream, place| {
        if let Some(node) = links.get() {
            node.take_link(stream, place);
        }
    });
    let control = Control::start(control_config(&config)?, Some(take)).map_err(StartError::Control)?;
    let outcome = serve_with(config, table, seed, control.clone(), &taker, &mut termination).await;
    control.shutdown().await;
    outcome
}

fn control_config(config: &Config) -> Result<ControlConfig, StartError> {
    let bootstrap = match config.formation() {
        Formation::Alone => Bootstrap::Form { members: Vec::new() },
        Formation::Founder(members) => Bootstrap::Form {
            members: members.iter().map(|member| (member.name.clone(), member.address.to_string())).collect(),
        },
        Formation::Joiner(seeds) => Bootstrap::Join { seeds: seeds.iter().map(ToString::to_string).collect() },
        Formation::Invited => Bootstrap::AwaitInvitation,
    };
    let addresses = Addresses {
        client: config.advertised_client().to_string(),
        admin: config.advertised_admin().to_string(),
        http: format!("{}:{}", config.advertise_host, config.http_bind.port()),
        peer: config.advertised_peer().to_string(),
    };
    let secret = config.cluster_secret.as_ref().and_then(|secret| ClusterSecret::new(secret.expose()));
    let secret = secret.ok_or_else(|| {
        StartError::Config("cluster-secret must be at least 16 printable ASCII characters".to_owned())
    })?;
    let mut control = ControlConfig::new(
        config.data_dir.clone(),
        config.name.clone(),
        addresses,
        config.peer_bind.to_string(),
        secret,
        bootstrap,
    );
    control.heartbeat = config.raft_heartbeat;
    control.election_timeout = (config.raft_election_min, config.raft_election_max);
    control.lease_ttl = config.acl_lease_ttl;
    control.groups = config.groups;
    Ok(control)
}

/// Keys have the same places on every node, so that a SCAN goes on at the next primary where it stood; and nobody who does not
/// know the secret can aim at them. A node that has none is alone: its places are nobody else's, and known to nobody.
fn layout_seed(secret: &[u8]) -> u64 {
    if secret.is_empty() {
        return crate::random::u64();
    }
    let digest = Sha256::new().chain_update(b"keyward layout").chain_update(secret).finalize();
    digest.first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
}

async fn serve_with(
    config: Config,
    table: &'static Table,
    seed: seed::Seed,
    control: Control,
    taker: &Arc<OnceLock<Arc<Node>>>,
    termination: &mut crate::listen::Termination,
) -> Result<(), StartError> {
    let listeners = crate::listen::bind(&config)?;
    let waiting = control.awaits_invitation().then(|| Waiting { control: control.clone(), node: Arc::clone(taker) });
    let waiting = waiting.map(|waiting| crate::listen::open_http_early(&listeners, waiting)).transpose()?;
    let mut fatal = control.fatal();
    let ready = tokio::select! {
        view = control.wait_ready() => view,
        reason = fatal.wait_for(Option::is_some) => return Err(fatal_reason(reason.ok().and_then(|reason| reason.clone()))),
        () = termination.come() => return Ok(()),
    };
    let me = ready.node.ok_or_else(|| StartError::Fatal("the node has no id".to_owned()))?;
    let (inboxes, receivers): (Vec<_>, Vec<_>) = (0..config.threads).map(|_| mpsc::channel(INBOX_MESSAGES_MAX)).unzip();
    // The last ones count for the threads of slow work, of each group.
    let slow_threads = SCRIPT_THREADS * ready.state.groups().len();
    let counters =
        (0..config.threads + slow_threads).map(|_| Arc::new(ThreadCounters::new(table.rows().len()))).collect();
    let secret = config.cluster_secret.as_ref().map(|secret| secret.expose().as_bytes().to_vec()).unwrap_or_default();
    let layout = Layout { seed: layout_seed(&secret), shard_count: config.shards };
    let live = Live::new(&config);
    let common = Arc::new(Common {
        expiry: Expiry::default(),
        imports: Imports::default(),
        acl_log: Mutex::new(AclLog::new(live.hot().acl_log_max)),
        acl_file_usable: Arc::new(AtomicBool::new(true)),
        audit: Audit::start(&config).map_err(StartError::Config)?,
        usage: crate::insight::tenants::days(&config),
        command_logs: CommandLogs::default(),
        latency: Events::default(),
        debug_in_scripts: AtomicBool::new(false),
        live,
        table,
        corridor: Corridor::new(config.threads, slow_threads),
        pubsub: Arc::default(),
        tracking: Arc::default(),
        ties: Ties::default(),
        gauges: Arc::default(),
        monitors: Monitors::new(table.find(b"monitor").map(|row| row.id)),
        mailboxes: Mutex::default(),
        strangers: Arc::new([Payer { holdings: Arc::default(), most: None }]),
        guesses: Guesses::default(),
        entrance: Arc::default(),
        blocked: Blocked::default(),
        lease: control.lease(),
        control,
        inboxes,
        counters,
        stop: Stop::new(),
        started: Instant::now(),
        run_id: crate::random::bytes::<20>().iter().map(|byte| format!("{byte:02x}")).collect(),
        guests: Guests::default(),
        farewells: Farewells::default(),
        strays: AtomicU64::new(0),
        owed: Owed::default(),
        moving: Mutex::default(),
        groups: OnceLock::new(),
        secret,
        next_client: AtomicU64::new(1),
        next_link: AtomicU64::new(0),
        loading: AtomicBool::new(true),
        memory_peak_bytes: AtomicU64::new(0),
        repacking: Repacking::default(),
        rates: Mutex::default(),
        config,
    });
    let (terms, myself) = (Terms::of(&common.config), (me, ready.incarnation));
    let view = View::build(Arc::clone(&ready.state), myself, table, terms, &common.gauges, None);
    let groups: Box<[Arc<Node>]> = ready
        .state
        .groups()
        .keys()
        .map(|id| Arc::new(Node::of_group(*id, &common, layout, view.of_group(*id))))
        .collect();
    let node = groups.first().map(Arc::clone).ok_or_else(|| StartError::Fatal("the cluster has no data".to_owned()))?;
    // Only the first call counts, and this is it.
    let _ = common.groups.set(groups);
    node.groups().iter().for_each(|of| of.shards.set_owners(&node.views.load().1.tenancy));
    node.control.set_answerer(Arc::new(crate::insight::Here::new(&node)));
    node.control.set_data_plane(Arc::new(crate::replication::Plane::new(&node)));
    // A node that formed its cluster alone may serve already; nobody announces the view it begins with.
    node.groups().iter().for_each(|of| of.replication.before_view(&of.journal, &of.views.load().1));
    show_agreed(&node, &node.views.load().1.state);
    let observing = Arc::downgrade(&node);
    node.control.observe(move |applied| {
        if let Some(node) = observing.upgrade() {
            take_over(&node, applied);
        }
    });
    tokio::spawn(follow_views(Arc::clone(&node)));
    tokio::select! {
        planted = seed::plant(&node, &seed) => planted?,
        () = termination.come() => return Ok(()),
    }
    tracing::info!("loading data");
    for of in node.groups() {
        tokio::select! {
            loaded = crate::snapshot::load(of) => loaded.map_err(StartError::Data)?,
            // What is loaded so far is on disk: there is nothing to save.
            () = termination.come() => return Ok(()),
        }
        of.replication.started();
    }
    node.loading.store(false, Ordering::Relaxed);
    if let Some(waiting) = waiting {
        waiting.abort();
    }
    // A simulated node has no threads, and nobody gives it slow work.
    #[cfg(not(simulated))]
    node.groups().iter().try_for_each(Scripts::start).map_err(StartError::System)?;
    crate::replication::start(&node).map_err(StartError::System)?;
    tokio::select! {
        () = wait_for_a_primary(&node) => {}
        () = termination.come() => {
            // Nobody was served here; but it has a place among the copies by now, which it leaves as at any other stop.
            leave_and_save(&node).await;
            return Ok(());
        }
    }
    let threads = crate::listen::open(&node, listeners, receivers)?;
    let _ = taker.set(Arc::clone(&node));
    tracing::info!(node = me.0, clients = %node.config.bind, admin = %node.config.admin_bind, http = %node.config.http_bind, "ready");
    let background = start_background(&node, seed.file)?;
    let save = tokio::select! {
        save = node.stop.wait() => save,
        () = termination.come() => None,
        reason = fatal.wait_for(Option::is_some) => {
            let reason = fatal_reason(reason.ok().and_then(|reason| reason.clone()));
            // What is in memory is still worth saving: the data does not depend on the control plane's disk.
            save_at_stop(&node, None).await;
            return Err(reason);
        }
    };
    tracing::info!("stopping");
    crate::insight::tenants::note(&node, true);
    let ending = tokio::spawn(end_scripts(Arc::clone(&node)));
    let deadline = tokio::time::Instant::now() + node.config.shutdown_timeout;
    for of in node.groups() {
        crate::replication::leave(of, deadline).await;
    }
    crate::moving::see_off(&node).await;
    node.owed.settle(node.live.hot().failover_wait.min(node.config.shutdown_timeout)).await;
    let left = deadline.saturating_duration_since(tokio::time::Instant::now()).max(CLOSE_MIN);
    let closed = threads.close(left).await;
    background.iter().for_each(JoinHandle::abort);
    if closed {
        save_at_stop(&node, save).await;
    } else {
        tracing::error!("the data was not saved: a script that has written did not end in time");
    }
    ending.abort();
    Ok(())
}

/// Whoever stops does not wait for programs without an end, and neither do those who take over from it.
async fn end_scripts(node: Arc<Node>) {
    loop {
        node.groups().iter().for_each(|of| of.scripts.end_at_stop(SCRIPT_AT_STOP));
        tokio::time::sleep(TICK).await;
    }
}

/// The end of a node that has no clients yet.
async fn leave_and_save(node: &Arc<Node>) {
    tracing::info!("stopping before it was ready");
    let deadline = tokio::time::Instant::now() + node.config.shutdown_timeout;
    for of in node.groups() {
        crate::replication::leave(of, deadline).await;
    }
    save_at_stop(node, None).await;
}

/// A cluster that started as a whole opens its data once it was loaded: clients that come at once need not see that.
async fn wait_for_a_primary(node: &Node) {
    let named = async {
        let named = |of: &Arc<Node>| of.views.load().1.primary.is_some();
        while !node.groups().iter().all(named) || !node.lease.is_valid() {
            tokio::time::sleep(LEASE_LOOK).await;
        }
    };
    if tokio::time::timeout(PRIMARY_WAIT, named).await.is_err() {
        tracing::warn!("nobody serves the data yet");
    }
}

fn fatal_reason(reason: Option<String>) -> StartError {
    StartError::Fatal(reason.unwrap_or_else(|| "the control plane has ended".to_owned()))
}

/// As Redis: without a word about it, data is saved if saving is configured at all.
async fn save_at_stop(node: &Arc<Node>, save: Option<bool>) {
    if save.unwrap_or_else(|| !node.live.hot().save_rules.is_empty()) {
        let saving = async {
            for of in node.groups() {
                crate::snapshot::save_in_turn(of).await?;
            }
            Ok::<(), String>(())
        };
        match tokio::time::timeout(node.config.shutdown_timeout, saving).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "the data was not saved"),
            Err(_) => tracing::error!("the data was not saved in time"),
        }
    }
}

/// After each change, closes the sessions it ends. Their next request would be refused anyway.
async fn follow_views(node: Arc<Node>) {
    let mut views = node.control.views();
    while views.changed().await.is_ok() {
        views.borrow_and_update();
        node.sweep().await;
    }
}

/// When the lease ends, ends what was begun under it: who waits, listens or watches is sent away.
async fn follow_lease(node: Arc<Node>) {
    let mut held = false;
    loop {
        let left = node.lease.left();
        let lost = held && left.is_zero();
        held = !left.is_zero();
        if lost {
            tracing::warn!(
                policy = ?node.config.acl_lease_policy,
                "not in contact with the control plane: the lease of this node is over"
            );
            node.sweep().await;
        }
        tokio::time::sleep(left.clamp(LEASE_LOOK, TICK)).await;
    }
}

/// Makes an applied state the view that requests see. Called before the change is reported as applied here.
fn take_over(node: &Node, applied: &control::View) {
    let (_, current) = node.views.load();
    let Some(me) = applied.node else { return };
    if applied.index > current.index || (me, applied.incarnation) != (current.me, current.my_incarnation) {
        let (me, terms) = ((me, applied.incarnation), Terms::of(&node.config));
        let (state, gauges) = (Arc::clone(&applied.state), &node.gauges);
        let next = Arc::new(View::build(state, me, node.table, terms, gauges, Some(&current)));
        let mut missed = false;
        for of in node.groups() {
            let next = if of.group == node.group { Arc::clone(&next) } else { Arc::new(next.of_group(of.group)) };
            if !Arc::ptr_eq(&next.tenancy, &current.tenancy) {
                of.shards.set_owners(&next.tenancy);
            }
            of.replication.before_view(&of.journal, &next);
            let before = of.views.load().1;
            of.views.publish(Arc::clone(&next));
            of.replication.after_view(&next);
            missed |= serving(&before) != serving(&next);
        }
        if missed {
            node.tracking.tell_of_gap();
        }
        show_agreed(node, &applied.state);
        crate::insight::note_changes(&node.audit, &current.state, &applied.state);
    }
}

/// `CONFIG GET` tells what every node agreed on.
fn show_agreed(node: &Node, state: &keyward_cluster::State) {
    node.live.show_agreed(MIN_IN_SYNC, state.setting(MIN_IN_SYNC).unwrap_or("0"));
}

/// Who serves a group and since when, and how often keys were handed over: when it is another, changes may have been made
/// that did not come by here.
fn serving(view: &View) -> (Option<(Option<Member>, Epoch)>, u64) {
    let group = view.group.as_ref().map(|group| (group.primary, group.epoch));
    (group, view.routes.as_ref().map_or(0, |routes| routes.hand_overs()))
}

fn start_background(node: &Arc<Node>, digest: Option<acl_file::Digest>) -> Result<Vec<JoinHandle<()>>, StartError> {
    start_upkeep(node)?;
    let mut tasks = vec![tokio::spawn(follow_lease(Arc::clone(node))), tokio::spawn(tick(Arc::clone(node)))];
    if node.groups().len() > 1 {
        let (sender, said) = mpsc::channel(crate::relay::WAITING_MAX);
        node.pubsub.set_relay(sender);
        tasks.push(tokio::spawn(crate::relay::send(Arc::clone(node), said)));
        crate::moves::start(node).map_err(StartError::System)?;
    }
    tasks.extend(node.groups().iter().map(|of| tokio::spawn(crate::snapshot::schedule(Arc::clone(of)))));
    tasks.extend(node.groups().iter().map(|of| tokio::spawn(crate::import::keep(Arc::clone(of)))));
    if let PolicySource::AclFile(path, password) = node.config.policy_source() {
        let (sender, changes) = mpsc::channel(1);
        let usable = Arc::clone(&node.acl_file_usable);
        tasks.push(tokio::spawn(acl_file::watch(path, digest, node.table, password, sender, usable)));
        tasks.push(tokio::spawn(seed::follow(Arc::clone(node), changes)));
    }
    Ok(tasks)
}

/// What waits for shards' locks has a thread of its own: a slow command must not hold up probes and admin calls. It ends
/// with the process.
fn start_upkeep(node: &Arc<Node>) -> Result<(), StartError> {
    let node = Arc::clone(node);
    let upkeep = move || async move {
        let groups = futures_util::future::join_all(node.groups().iter().map(|of| async {
            tokio::join!(
                crate::memory::watch(Arc::clone(of)),
                crate::tenants::settle(Arc::clone(of)),
                crate::expiry::sweep(Arc::clone(of))
            );
        }));
        tokio::join!(groups, crate::insight::tenants::keep(Arc::clone(&node)));
    };
    crate::world::beside("keyward-upkeep", upkeep).map(drop).map_err(StartError::System)
}

/// What a node does for clients.
#[derive(Clone, Copy, Default)]
pub struct Rates {
    /// Commands it carried out.
    pub commands: u64,
    /// Bytes they sent.
    pub input_bytes: u64,
    /// Bytes it answered.
    pub output_bytes: u64,
}

impl Rates {
    /// Per second, a tick after `before`. Counters begin anew when statistics are reset.
    fn since(self, before: Rates) -> Rates {
        let per_second = |now: u64, before: u64| now.saturating_sub(before) / TICK.as_secs();
        Rates {
            commands: per_second(self.commands, before.commands),
            input_bytes: per_second(self.input_bytes, before.input_bytes),
            output_bytes: per_second(self.output_bytes, before.output_bytes),
        }
    }
}

async fn tick(node: Arc<Node>) {
    let mut before = Rates::default();
    loop {
        tokio::time::sleep(TICK).await;
        node.memory_peak_bytes.fetch_max(node.memory_bytes(), Ordering::Relaxed);
        crate::repack::look(&node);
        node.monitors.tell_left_out(now_us());
        let sum = |of: fn(&ThreadCounters) -> u64| -> u64 { node.counters.iter().map(|counters| of(counters)).sum() };
        let now = Rates {
            commands: sum(|counters| counters.commands.get()),
            input_bytes: sum(|counters| counters.input_bytes.get()),
            output_bytes: sum(|counters| counters.output_bytes.get()),
        };
        *node.rates.lock() = now.since(before);
        before = now;
        for inbox in &node.inboxes {
            // A full inbox means a busy thread; the next tick will do.
            let _ = inbox.try_send(Job::Tidy);
        }
    }
}

/// A worker for tests and data threads alike.
pub(crate) fn worker(node: &Arc<Node>, index: usize) -> Rc<Worker> {
    let make = |of: &Arc<Node>| Worker::new(Arc::clone(of), index, Arc::clone(&of.counters[index]));
    let worker = Rc::new(make(node));
    let other = |of: &Arc<Node>| Rc::new(make(of).in_turn_with(&worker));
    worker.set_others(node.groups().iter().skip(1).map(other).collect());
    worker
}

/// The wall clock, in milliseconds since 1970.
pub fn now_ms() -> i64 {
    now_us() / 1000
}

/// The state this node has applied.
pub fn state(node: &Node) -> Arc<State> {
    Arc::clone(&node.views.load().1.state)
}
