//! One copy of the data on every node: the primary's effects travel to the replicas, which carry them out in order.
//!
//! ```text
//!   primary   write ─► shard, journal (one lock) ─► Log ─► primary.rs: frames ══ link ══► replica.rs ─► shards, Log
//!                                                    ▲                                        │
//!             quorum clients' replies ◄── acks.rs ◄──┴──────────────── Ack{position} ◄─────────┘
//! ```
//! The shape is PacificA's (MSR-TR-2008-25): Raft names the primary, its epoch and who is *in sync*; the stream itself is not
//! Raft's business. A replica takes frames of no epoch older than the newest it was told of ([`Replication::seal`]), so an old
//! primary cannot have anything confirmed once the next one is being chosen. A confirmed write is on every member in sync.
//!
//! Replicas decide nothing: expiry, eviction, chance and scripts travel as effects. Everything here runs on a thread of its own,
//! except that writers append to the log and clients wait for confirmation.

mod acks;
mod copy;
mod hand_over;
mod in_sync;
pub mod log;
mod marks;
mod primary;
pub(crate) mod record;
mod replica;

use crate::config::Config;
use crate::control::data_plane::{DataPlane, GroupReport};
use crate::journal::Journal;
use crate::node::Node;
use crate::snapshot::writer::Stand;
use crate::ties::Tie;
use crate::view::{Surety, View};
use crate::world::net::Parcel;
use crate::world::{Stopwatch, beside};
use acks::Acks;
pub use acks::NotConfirmed;
use futures_util::future::BoxFuture;
use keyward_cluster::{Epoch, GroupId, Member, NodeId};
use keyward_engine::keyspace::TenantId;
use log::{History, Log};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};

/// While nothing is written, replicas hear from the primary this often.
const IDLE: Duration = Duration::from_millis(100);

/// A replica that was heard from promises for this long to support no other primary; the primary counts from the moment it
/// sent what was answered. Shorter than the silence after which a primary is replaced.
const PROMISE: Duration = Duration::from_millis(750);

/// What clocks may differ in speed, over one promise.
const DRIFT: Duration = Duration::from_millis(10);

/// A member in sync that is silent for this long leaves the set.
const SILENCE: Duration = Duration::from_millis(1000);

/// Accepted links waiting for the replication thread.
const LINKS_WAITING_MAX: usize = 64;

/// A node that stops tries to hand its data over again and again for so long.
const LEAVE_TRIES: Duration = Duration::from_secs(5);

/// Between two such tries.
const LEAVE_PAUSE: Duration = Duration::from_millis(100);

/// A replica's link on its way to the thread that serves it, and what shows it.
pub type Accepted = (Parcel, Arc<Tie>);

/// What this node knows and does about copies of the data.
pub struct Replication {
    /// The stream of effects.
    pub log: Arc<Log>,
    acks: Acks,
    began: Stopwatch,
    /// Held while received effects are carried out, and by who forbids it.
    applying: Mutex<()>,
    /// Frames of an older epoch are refused.
    sealed: AtomicU64,
    /// What is in memory is the data of the log's position.
    has_data: AtomicBool,
    /// Whatever another node changes as primary comes by here.
    flows: AtomicBool,
    /// When the last frame of the primary came, by [`Replication::clock_ms`].
    heard_ms: AtomicU64,
    /// Where the primary's stream ended, as far as it has said.
    known_end: AtomicU64,
    /// How many full copies were begun to be loaded here: what was read before is not of what is here now.
    copies_begun: AtomicU64,
    /// The data may differ from what the log says.
    unlogged: AtomicBool,
    /// Epoch and position of the newest snapshot on disk.
    snapshot: Mutex<Option<(Epoch, u64)>>,
    /// Links of replicas, for the thread.
    links: OnceLock<mpsc::Sender<Accepted>>,
    stats: Stats,
    /// Held while the data is handed over.
    hand_over: tokio::sync::Mutex<()>,
}

/// What happened since the start.
#[derive(Default)]
pub struct Stats {
    /// Full copies that were sent.
    pub full_copies: AtomicU64,
    /// Replicas that went on where they stood.
    pub continued: AtomicU64,
    /// Replicas that wanted to go on and could not.
    pub refused: AtomicU64,
    /// Bytes of effects this node had made as primary and its successor did not have; they are gone.
    pub discarded_bytes: AtomicU64,
}

/// What a node does with the data.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Role {
    /// It serves it.
    Primary(Epoch),
    /// It copies it from there.
    Replica { epoch: Epoch, primary: Member, address: String },
    /// Nobody serves it, or this process is not registered yet.
    None,
}

impl Role {
    fn of(view: &View) -> Role {
        let (Some(group), Some(me)) = (&view.group, view.member()) else { return Role::None };
        let Some(primary) = group.primary else { return Role::None };
        if primary == me {
            return Role::Primary(group.epoch);
        }
        let node = view.state.nodes().get(&primary.node).filter(|node| node.member() == primary);
        node.map_or(Role::None, |node| Role::Replica {
            epoch: group.epoch,
            primary,
            address: node.addresses.peer.clone(),
        })
    }
}

impl Replication {
    /// Of a node that has no data yet.
    pub fn new(config: &Config) -> Replication {
        Replication {
            log: Arc::new(Log::new(config.repl_backlog_size.bytes(), config.repl_copy_backlog_size.bytes())),
            acks: Acks::default(),
            began: Stopwatch::start(),
            applying: Mutex::new(()),
            sealed: AtomicU64::new(0),
            has_data: AtomicBool::new(false),
            flows: AtomicBool::new(false),
            heard_ms: AtomicU64::new(0),
            known_end: AtomicU64::new(0),
            copies_begun: AtomicU64::new(0),
            unlogged: AtomicBool::new(false),
            snapshot: Mutex::new(None),
            links: OnceLock::new(),
            stats: Stats::default(),
            hand_over: tokio::sync::Mutex::new(()),
        }
    }

    /// A journal that goes into the log.
    pub fn journal(&self) -> Journal {
        Journal::new(Arc::clone(&self.log))
    }

    /// Milliseconds since this process began; never goes back.
    pub fn clock_ms(&self) -> u64 {
        self.began.ms()
    }

    /// Where in the stream of effects the data stands. The caller sees to it that nothing is half done.
    pub fn stand(&self) -> Stand {
        let (position, history) = self.log.stand();
        Stand { epoch: history.epoch().0, position }
    }

    /// A snapshot was loaded into the empty node.
    pub fn loaded(&self, stand: Stand) {
        let epoch = Epoch(stand.epoch);
        self.log.restart(stand.position, History::new([(epoch, stand.position)]));
        *self.snapshot.lock() = Some((epoch, stand.position));
    }

    /// What is here lacks what the stream may yet speak of: only a full copy brings that.
    pub fn cannot_go_on(&self) {
        self.unlogged.store(true, Ordering::Release);
    }

    /// A snapshot was written.
    pub fn saved(&self, stand: Stand) {
        *self.snapshot.lock() = Some((Epoch(stand.epoch), stand.position));
    }

    /// What is in memory is what the disk had, or nothing because the disk had nothing.
    pub fn started(&self) {
        self.has_data.store(true, Ordering::Release);
    }

    /// Whether the data here is whole, so that it may be read by whoever does not mind that it is a little old.
    pub fn has_data(&self) -> bool {
        self.has_data.load(Ordering::Acquire)
    }

    /// Whether whatever another node changes as primary comes by here, in order.
    pub fn flows(&self) -> bool {
        self.flows.load(Ordering::SeqCst)
    }

    /// How many full copies were begun to be loaded here.
    pub fn copies_begun(&self) -> u64 {
        self.copies_begun.load(Ordering::Acquire)
    }

    /// What happened since the start.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// How many milliseconds ago the primary was last heard from, and how many bytes this replica is behind what it said then.
    pub fn lag(&self) -> (u64, u64) {
        let behind = self.known_end.load(Ordering::Relaxed).saturating_sub(self.log.position());
        (self.clock_ms().saturating_sub(self.heard_ms.load(Ordering::Relaxed)), behind)
    }

    /// How the link to the primary is, in the words of `ROLE`.
    pub fn link_state(&self) -> &'static str {
        if !self.has_data() {
            "sync"
        } else if Duration::from_millis(self.lag().0) < 2 * SILENCE {
            "connected"
        } else {
            "connect"
        }
    }

    /// The replicas as the primary sees them.
    pub fn replicas(&self) -> Vec<ReplicaState> {
        self.acks.replicas(self.clock_ms())
    }

    /// At the primary: how old the oldest write is that each of the others lacks, in milliseconds, to within a look at who is in
    /// sync (100 ms). Nothing is said of who copies the data or never followed in this reign.
    pub fn lags(&self) -> Vec<(NodeId, u64)> {
        self.acks.lags(self.clock_ms())
    }

    /// How many replicas have everything up to `position`.
    pub fn count_acked(&self, position: u64) -> usize {
        self.acks.count(position)
    }

    /// How many replicas were heard from within this time.
    pub fn count_near(&self, silence_max: Duration) -> usize {
        let near = |replica: &ReplicaState| replica.streams && Duration::from_millis(replica.silent_ms) <= silence_max;
        self.replicas().iter().filter(|replica| near(replica)).count()
    }

    /// Waits until `count` replicas have everything up to `position`, for so long at most; how many have it then.
    pub async fn wait_for_replicas(&self, count: usize, position: u64, limit: Option<Duration>) -> usize {
        self.log.tell();
        self.acks.wait_for(count, position, limit).await
    }

    /// Returns once every member in sync has everything up to `position` and this node certainly still is primary.
    pub async fn confirmed(&self, surety: Surety, position: u64, limit: Duration) -> Result<(), NotConfirmed> {
        self.acks.confirmed(surety, position, limit, || self.clock_ms()).await
    }

    /// Whether everything up to `position` is confirmed by now.
    #[inline]
    pub fn is_confirmed(&self, surety: Surety, position: u64) -> bool {
        self.acks.is_confirmed(surety, position, || self.clock_ms())
    }

    /// Called with the next view before requests see it.
    pub fn before_view(&self, journal: &Journal, next: &View) {
        if let Role::Primary(epoch) = Role::of(next) {
            // Whatever an earlier primary sent and was not carried out by now never will be.
            let _applying = self.applying.lock();
            self.sealed.fetch_max(epoch.0, Ordering::AcqRel);
            let copies = next.state.nodes().len() > 1;
            if copies && !journal.is_attached() && self.unlogged.swap(false, Ordering::AcqRel) {
                // What was written meanwhile is not in the log: nobody can go on from before.
                let (position, history) = self.log.stand();
                self.log.restart(position + 1, History::new([(history.epoch(), position + 1)]));
            }
            self.log.begin_epoch(epoch);
            self.has_data.store(true, Ordering::Release);
            if copies {
                journal.attach(true);
            } else if !journal.is_attached() {
                self.unlogged.store(true, Ordering::Release);
            }
            if self.sealed.load(Ordering::Acquire) <= epoch.0 {
                self.acks.reign(next);
            }
        }
    }

    /// Called when requests see the view.
    pub fn after_view(&self, view: &View) {
        if !view.is_primary() {
            self.acks.abdicate();
        }
    }

    /// Takes a link whose other end wants a copy of the data. `false`: there is no room for it.
    pub fn take_link(&self, link: Accepted) -> bool {
        self.links.get().is_some_and(|links| links.try_send(link).is_ok())
    }

    fn where_it_stands(&self, group: GroupId) -> GroupReport {
        let (position, history) = self.log.stand();
        GroupReport {
            group,
            epoch: history.epoch(),
            position,
            has_data: self.has_data(),
            snapshot: *self.snapshot.lock(),
            promised_ms: self.promised_ms(),
            sealed: Epoch(self.sealed.load(Ordering::Acquire)),
            lags: self.lags(),
        }
    }

    /// For so long the primary may count on this node.
    fn promised_ms(&self) -> u64 {
        let heard = self.heard_ms.load(Ordering::Acquire);
        let until = heard + (PROMISE + DRIFT).as_millis() as u64;
        if heard == 0 { 0 } else { until.saturating_sub(self.clock_ms()) }
    }

    /// A frame of the primary of `epoch` came: from now on it may count on this node for a while. Whoever calls forbids
    /// sealing meanwhile.
    fn hears(&self, epoch: u64) -> std::io::Result<()> {
        if epoch < self.sealed.load(Ordering::Acquire) && !planted!(OldEpochAccepted) {
            return Err(std::io::Error::other("its epoch is over"));
        }
        self.heard_ms.store(self.clock_ms(), Ordering::Release);
        Ok(())
    }

    fn seal(&self, group: GroupId, epoch: Epoch) -> GroupReport {
        let _applying = self.applying.lock();
        self.sealed.fetch_max(epoch.0, Ordering::AcqRel);
        self.acks.seal(epoch);
        self.where_it_stands(group)
    }
}

/// A replica as the primary sees it.
#[derive(Clone, Debug)]
pub struct ReplicaState {
    /// The node.
    pub node: NodeId,
    /// Everything before this position is carried out there.
    pub position: u64,
    /// When it was last heard from, in milliseconds ago.
    pub silent_ms: u64,
    /// It gets the stream, and no full copy.
    pub streams: bool,
    /// It is in sync.
    pub in_sync: bool,
}

/// What the control plane sees of it.
pub struct Plane(Weak<Node>);

impl Plane {
    /// Of this node.
    pub fn new(node: &Arc<Node>) -> Plane {
        Plane(Arc::downgrade(node))
    }

    fn of(&self, group: GroupId) -> Option<Arc<Node>> {
        self.0.upgrade().and_then(|node| node.of(group).cloned())
    }
}

impl DataPlane for Plane {
    fn report(&self) -> Vec<GroupReport> {
        let report = |of: &Arc<Node>| of.replication.where_it_stands(of.group);
        self.0.upgrade().map(|node| node.groups().iter().map(report).collect()).unwrap_or_default()
    }

    fn primary_silent_for(&self, group: GroupId) -> Option<Duration> {
        let node = self.0.upgrade()?;
        let of = node.of(group)?;
        // Only who follows hears: of a primary it has not followed yet a node can say nothing.
        let follows = matches!(Role::of(&of.views.load().1), Role::Replica { .. }) && of.replication.has_data();
        follows.then(|| Duration::from_millis(of.replication.lag().0))
    }

    fn seal(&self, group: GroupId, epoch: Epoch) -> GroupReport {
        let nothing = GroupReport {
            group,
            epoch: Epoch(0),
            position: 0,
            has_data: false,
            snapshot: None,
            promised_ms: 0,
            sealed: Epoch(0),
            lags: Vec::new(),
        };
        self.of(group).map_or(nothing, |node| node.replication.seal(group, epoch))
    }

    fn hand_over(&self, group: GroupId, target: Member) -> BoxFuture<'static, Result<(), String>> {
        let node = self.of(group);
        Box::pin(async move {
            let node = node.ok_or_else(|| "the node is stopping, or knows no such group".to_owned())?;
            hand_over::hand_over(&node, target).await
        })
    }

    fn purge_tenant(&self, group: GroupId, tenant: u32) -> BoxFuture<'static, Result<(), String>> {
        let node = self.of(group);
        Box::pin(async move {
            let node = node.ok_or_else(|| "the node is stopping, or knows no such group".to_owned())?;
            crate::tenants::purge_here(node, TenantId(tenant)).await
        })
    }

    fn hold_keys(&self, group: GroupId, index: u64) -> BoxFuture<'static, Result<u64, String>> {
        let node = self.of(group);
        Box::pin(async move {
            let node = node.ok_or_else(|| "the node is stopping, or knows no such group".to_owned())?;
            crate::moves::hold(&node, index).await
        })
    }

    fn save_group(&self, group: GroupId, effect: (Epoch, u64)) -> bool {
        let Some(node) = self.of(group) else { return false };
        let snapshot_of = |of: &Arc<Node>| *of.replication.snapshot.lock();
        // Keys that moved here may be in the snapshot of the group they came from.
        let has_any = node.groups().iter().any(|of| snapshot_of(of).is_some());
        let saves = has_any || !node.live.hot().save_rules.is_empty();
        if is_saved(snapshot_of(&node), effect, saves) {
            return true;
        }
        node.snapshots.request();
        false
    }

    fn dismiss(&self) -> BoxFuture<'static, ()> {
        let node = self.0.upgrade();
        Box::pin(async move {
            if let Some(node) = node {
                node.dismiss().await;
            }
        })
    }
}

/// Whether what a group had at `effect` would be there after a restart, as far as anything is: a node that never `saves` has
/// nothing that a restart could bring back.
fn is_saved(snapshot: Option<(Epoch, u64)>, effect: (Epoch, u64), saves: bool) -> bool {
    effect.1 == 0 || !saves || snapshot.is_some_and(|snapshot| snapshot >= effect)
}

/// Before the node stops: if it serves the data, another one does from now on, if any is in sync. At the deadline it stops all the
/// same.
pub async fn leave(node: &Arc<Node>, deadline: Instant) {
    let last_try = Instant::now() + LEAVE_TRIES;
    while let Some(target) = next_primary(node) {
        match timeout_at(deadline, hand_over::hand_over(node, target)).await {
            Ok(Ok(())) => return tracing::info!(to = target.node.0, "the data is served elsewhere now"),
            Ok(Err(why)) => tracing::warn!(to = target.node.0, %why, "the data could not be handed over"),
            Err(_) => return tracing::error!(to = target.node.0, "the data was not handed over in time"),
        }
        // Who is in sync may be about to change, or a copy have lost a moment on a busy machine.
        sleep(LEAVE_PAUSE).await;
        if Instant::now() > last_try.min(deadline) {
            return;
        }
    }
}

/// Who takes the data of a node that leaves: of those in sync the one that has most. `None`: this node does not serve it, or
/// nobody else is in sync.
fn next_primary(node: &Node) -> Option<Member> {
    let (_, view) = node.views.load();
    if !view.is_primary() {
        return None;
    }
    let replicas = node.replication.replicas();
    let best = replicas.iter().filter(|replica| replica.in_sync).max_by_key(|replica| replica.position)?;
    view.state.nodes().get(&best.node).map(|node| node.member())
}

/// Starts the thread, for all groups. It ends with the process.
pub fn start(node: &Arc<Node>) -> std::io::Result<()> {
    let links: Vec<_> = node
        .groups()
        .iter()
        .map(|of| {
            let (sender, links) = mpsc::channel(LINKS_WAITING_MAX);
            // Only the first start counts, and there is one.
            let _ = of.replication.links.set(sender);
            links
        })
        .collect();
    let node = Arc::clone(node);
    beside("keyward-copies", move || async move {
        let groups = node.groups().iter().zip(links);
        futures_util::future::join_all(groups.map(|(of, links)| async {
            tokio::join!(
                replica::follow(Arc::clone(of)),
                primary::accept(Arc::clone(of), links),
                in_sync::tend(Arc::clone(of)),
            );
        }))
        .await;
    })
    .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_saved_when_its_snapshot_is_as_new_or_no_group_here_has_any() {
        let effect = (Epoch(2), 100);
        assert!(!is_saved(None, effect, true), "another group's snapshot may have its keys");
        assert!(is_saved(None, effect, false), "a restart brings nothing back");
        assert!(!is_saved(Some((Epoch(2), 99)), effect, true));
        assert!(!is_saved(Some((Epoch(1), 500)), effect, true));
        assert!(is_saved(Some((Epoch(2), 100)), effect, true));
        assert!(is_saved(None, (Epoch(2), 0), true), "nothing was ever written");
    }
}
