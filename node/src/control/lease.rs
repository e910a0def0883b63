//! The lease at work: this node's own, and those it grants while it leads. The rules are [`keyward_cluster::lease`]'s.
//!
//! ```text
//!   every node   renew() ── a few times a second ──► leader: note_renewal ─► confirm(): one ReadIndex per batch ─► grant
//!                  └─► Lease, one atomic number that every batch of requests compares with the clock
//!   the leader   in_force(R): who has applied R, or certainly serves nobody
//! ```
//! A renewal also is the sign of life that failover goes by, and tells where its node stands with the data.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use keyward_cluster::lease::{Grant, Grants, HeldLease, Standing, feared_ms};
use keyward_cluster::{Incarnation, NodeId};
use keyward_proto::control as wire;
use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::codec;
use super::core::{Core, HereError, Hint, SharedCore};
use super::data_plane::GroupReport;
use super::failover::is_alone;
use super::propose::hint_from;

/// Between two renewals. A few of them fit into the second of silence after which a primary is replaced.
pub(crate) const RENEW_EVERY: Duration = Duration::from_millis(250);

/// The same for a node that is alone: nobody goes by its silence. A few fit into the shortest lease.
const RENEW_ALONE_EVERY: Duration = Duration::from_millis(700);

/// How long a renewal may take. A late one is worth little: it counts from when it was sent.
const RENEW_TIMEOUT: Duration = Duration::from_millis(1500);

/// Renewals under way at once: the ones before may hang at a leader that stands still.
const RENEWALS_MAX: usize = 8;

/// Renewals that one quorum round answers at most; every node has a few under way.
pub(crate) const BATCH_MAX: usize = 512;

/// How long a quorum may take to confirm a batch.
const CONFIRM_TIMEOUT: Duration = Duration::from_millis(1000);

/// How long one question after what a node has applied is left open.
const ASK_WAIT: Duration = Duration::from_millis(1000);

/// Between two tries at a node that cannot be asked.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// Between two looks at a node that is to give up its lease.
const GIVE_UP_PAUSE: Duration = Duration::from_millis(20);

pub use crate::world::boot_ms;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// This node's own lease.
#[derive(Default)]
pub struct Lease {
    /// What requests look at.
    until: AtomicU64,
    held: Mutex<HeldLease>,
    /// Since when this node is to leave; 0: it is not.
    leaving_since: AtomicU64,
}

impl Lease {
    /// Whether this node may serve.
    #[inline]
    pub fn is_valid(&self) -> bool {
        boot_ms() < self.until.load(Ordering::Relaxed)
    }

    /// How long it still may; 0: it may not.
    pub fn left(&self) -> Duration {
        Duration::from_millis(self.until.load(Ordering::Relaxed).saturating_sub(boot_ms()))
    }

    /// How long ago it ended; `None` if there never was one.
    pub fn ended_for(&self) -> Option<Duration> {
        let until = self.until.load(Ordering::Relaxed);
        (until > 0).then(|| Duration::from_millis(boot_ms().saturating_sub(until)))
    }

    /// Whether the cluster lets this node go: it sends its clients away and takes no more, while it still may serve.
    #[inline]
    pub fn is_leaving(&self) -> bool {
        self.leaving_since.load(Ordering::Relaxed) > 0
    }

    /// True for the first that says so.
    fn begin_leaving(&self, now: u64) -> bool {
        self.leaving_since.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    pub(crate) fn applied(&self, index: u64) {
        self.change(|held| held.applied(index));
    }

    fn granted(&self, sent_at: u64, grant: Grant) {
        let must_apply = if planted!(SkipMustApply) { 0 } else { grant.must_apply };
        self.change(|held| held.granted(sent_at, Grant { must_apply, ..grant }));
        // Whoever gets a lease it asked for since then is not to leave after all.
        let stays = |since| (since > 0 && since < sent_at).then_some(0);
        let _ = self.leaving_since.fetch_update(Ordering::Relaxed, Ordering::Relaxed, stays);
    }

    fn give_up(&self) {
        self.change(|held| held.give_up(boot_ms()));
    }

    fn is_given_up(&self) -> bool {
        lock(&self.held).is_given_up()
    }

    fn change(&self, change: impl FnOnce(&mut HeldLease)) {
        let mut held = lock(&self.held);
        change(&mut held);
        self.until.store(held.until(), Ordering::Relaxed);
    }
}

/// What a leader knows of the nodes, for one reign.
pub(crate) struct Leading {
    term: u64,
    /// When it began, or later.
    pub(crate) since: u64,
    grants: Mutex<Grants>,
    heard: Mutex<BTreeMap<NodeId, Heard>>,
}

/// A node's last renewal.
#[derive(Clone, Debug)]
pub(crate) struct Heard {
    pub(crate) at: u64,
    pub(crate) incarnation: Incarnation,
    pub(crate) applied: u64,
    pub(crate) groups: Vec<GroupReport>,
}

impl Leading {
    pub(crate) fn heard(&self) -> BTreeMap<NodeId, Heard> {
        lock(&self.heard).clone()
    }

    pub(crate) fn lease_left_ms(&self, node: NodeId) -> u64 {
        lock(&self.grants).left_ms(node, boot_ms())
    }

    /// Whether `node` certainly holds no lease.
    pub(crate) fn is_over(&self, node: NodeId) -> bool {
        lock(&self.grants).standing(node, u64::MAX, boot_ms()) == Standing::Over
    }

    pub(crate) fn withhold_no_more(&self, node: NodeId) {
        lock(&self.grants).withhold_no_more(node);
    }
}

/// A renewal that waits for a quorum.
pub(crate) struct Renewal {
    node: NodeId,
    incarnation: Incarnation,
    received_at: u64,
    answer: oneshot::Sender<Renewed>,
}

/// The answer to a renewal.
#[derive(Clone, Debug)]
pub(crate) enum Renewed {
    Granted(Grant),
    NotLeader(Hint),
    GiveUp,
    Refused(String),
}

/// The queue of renewals, and its other end until somebody works on it.
pub(crate) struct Renewals {
    sender: mpsc::Sender<Renewal>,
    receiver: Mutex<Option<mpsc::Receiver<Renewal>>>,
}

impl Default for Renewals {
    fn default() -> Self {
        let (sender, receiver) = mpsc::channel(BATCH_MAX);
        Self { sender, receiver: Mutex::new(Some(receiver)) }
    }
}

// ---- Every node ----

/// Renews this node's lease for as long as it runs.
pub(crate) async fn renew(core: &SharedCore) {
    let under_way = Arc::new(Semaphore::new(RENEWALS_MAX));
    let (mut views, mut leader, mut round) = (core.views.subscribe(), None, 0);
    loop {
        let alone = is_alone(&core.views.current().state);
        let pause = if alone { RENEW_ALONE_EVERY } else { RENEW_EVERY };
        // A new leader is told at once: it knows nothing of this node. So is one that others may come to go by.
        let changed =
            views.wait_for(|view| view.leader.is_some() && view.leader != leader || alone && !is_alone(&view.state));
        if let Ok(Ok(view)) = tokio::time::timeout(pause, changed).await {
            leader = view.leader;
        }
        round += 1;
        let Some(incarnation) = core.views.current().incarnation else { continue };
        let Ok(permit) = under_way.clone().try_acquire_owned() else { continue };
        let core = core.clone();
        tokio::spawn(async move {
            let sent_at = boot_ms();
            let renewing = renew_once(&core, incarnation, round);
            match tokio::time::timeout(RENEW_TIMEOUT, renewing).await {
                Ok(Some(Renewed::Granted(grant))) => {
                    let from = if planted!(LeaseFromReceipt) { boot_ms() } else { sent_at };
                    core.lease.granted(from, grant);
                }
                Ok(Some(Renewed::GiveUp)) => leave(&core),
                Ok(Some(Renewed::Refused(reason))) => tracing::warn!(reason, "the lease was not renewed"),
                Ok(Some(Renewed::NotLeader(_)) | None) | Err(_) => {}
            }
            drop(permit);
        });
    }
}

/// The cluster lets this node go: its clients are sent away, and then it gives up its lease. The other way round they would
/// be told that they are not served here, and take it for an answer.
pub(crate) fn leave(core: &SharedCore) {
    let now = boot_ms();
    if !core.lease.begin_leaving(now) {
        return;
    }
    let core = core.clone();
    tokio::spawn(async move {
        if let Some(data) = core.data.get() {
            data.dismiss().await;
        }
        if core.lease.leaving_since.load(Ordering::Relaxed) == now {
            core.lease.give_up();
        }
    });
}

async fn renew_once(core: &SharedCore, incarnation: Incarnation, round: usize) -> Option<Renewed> {
    let me = core.peers.identity()?.1;
    let mut target = core.probable_leader(round)?;
    let groups = core.data.get().map(|data| data.report()).unwrap_or_default();
    let (applied, gave_up) = (core.views.current().index, core.lease.is_given_up());
    for _ in 0..3 {
        let (leader, address) = target;
        let renewed = if leader == me {
            core.renew_here(me, incarnation, applied, gave_up, groups.clone()).await
        } else {
            let request = wire::RenewRequest {
                header: core.peers.header(leader),
                incarnation: incarnation.0,
                applied,
                gave_up,
                groups: groups.iter().map(codec::standing_to).collect(),
            };
            renew_there(core, leader, &address, request).await?
        };
        match renewed {
            Renewed::NotLeader(Some(better)) if better.0 != leader => target = better,
            renewed => return Some(renewed),
        }
    }
    None
}

async fn renew_there(core: &SharedCore, leader: NodeId, address: &str, request: wire::RenewRequest) -> Option<Renewed> {
    let mut client = core.peers.client(address).ok()?;
    let answer = match client.renew(request).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => {
            core.peers.learn_from(&status);
            return None;
        }
    };
    core.peers.heard_from(leader);
    use wire::renew_response::Result as Wire;
    Some(match answer.result? {
        Wire::Grant(grant) => Renewed::Granted(Grant { ttl_ms: grant.ttl_ms, must_apply: grant.must_apply }),
        Wire::NotLeader(not_leader) => Renewed::NotLeader(hint_from(not_leader)),
        Wire::GiveUp(_) => Renewed::GiveUp,
        Wire::Refused(reason) => Renewed::Refused(reason),
    })
}

// ---- The leader ----

impl Core {
    /// What this node knows as leader; `None` while it does not lead.
    pub(crate) fn leading(&self) -> Option<Arc<Leading>> {
        let raft = self.raft()?;
        let metrics = raft.metrics();
        let (leads, term) = {
            let metrics = metrics.borrow_watched();
            (metrics.state == ServerState::Leader, metrics.current_term)
        };
        let mut leading = lock(&self.leading);
        if !leads {
            *leading = None;
        } else if leading.as_ref().is_none_or(|known| known.term != term) {
            let since = boot_ms();
            let feared_since = if planted!(NewLeaderDoesNotWait) { 0 } else { since };
            let grants = Mutex::new(Grants::new(feared_since, self.lease_ttl_ms()));
            *leading = Some(Arc::new(Leading { term, since, grants, heard: Mutex::default() }));
        }
        leading.clone()
    }

    fn lease_ttl_ms(&self) -> u64 {
        u64::try_from(self.config.lease_ttl.as_millis()).unwrap_or(u64::MAX)
    }

    /// Answers a renewal as leader: noted at once, granted once a quorum has confirmed since that this node leads.
    pub(crate) async fn renew_here(
        &self,
        node: NodeId,
        incarnation: Incarnation,
        applied: u64,
        gave_up: bool,
        groups: Vec<GroupReport>,
    ) -> Renewed {
        let Some(leading) = self.leading() else { return Renewed::NotLeader(self.hint()) };
        let received_at = boot_ms();
        lock(&leading.heard).insert(node, Heard { at: received_at, incarnation, applied, groups });
        let withheld = {
            let mut grants = lock(&leading.grants);
            grants.applied(node, incarnation, applied);
            if gave_up {
                grants.given_up(node);
            }
            grants.is_withheld(node, received_at)
        };
        if withheld {
            return Renewed::GiveUp;
        }
        let (answer, answered) = oneshot::channel();
        if self.renewals.sender.try_send(Renewal { node, incarnation, received_at, answer }).is_err() {
            return Renewed::Refused(String::from("too many renewals are under way"));
        }
        answered.await.unwrap_or(Renewed::NotLeader(None))
    }

    async fn confirm_batch(&self, batch: Vec<Renewal>) {
        // The reign that the quorum confirms is the one before the question or a later one; grants of a later one are
        // noted there, so both must be the same.
        let before = self.leading();
        let asked = if planted!(GrantWithoutQuorum) {
            Ok(Ok(self.views.current().index))
        } else {
            tokio::time::timeout(CONFIRM_TIMEOUT, self.read_index_here()).await
        };
        let index = match (&before, asked) {
            (Some(_), Ok(Ok(index))) => index,
            (_, Ok(Err(HereError::NotLeader(hint)))) => return refuse(batch, &Renewed::NotLeader(hint)),
            _ => return refuse(batch, &Renewed::NotLeader(None)),
        };
        let same = |leading: &Arc<Leading>| before.as_ref().is_some_and(|before| Arc::ptr_eq(before, leading));
        let Some(leading) = self.leading().filter(same) else { return refuse(batch, &Renewed::NotLeader(None)) };
        // Who is registered is read as of that index.
        if self.wait_applied_here(index, CONFIRM_TIMEOUT).await < index {
            return refuse(batch, &Renewed::NotLeader(None));
        }
        let view = self.views.current();
        for Renewal { node, incarnation, received_at, answer } in batch {
            let current = view.state.nodes().get(&node).is_some_and(|info| info.incarnation == incarnation);
            let renewed = if current {
                let granted = lock(&leading.grants).grant(node, received_at, index);
                granted.map_or(Renewed::GiveUp, Renewed::Granted)
            } else {
                Renewed::Refused(String::from("the cluster knows no such process of this node"))
            };
            // Whoever gave up waiting asks again.
            let _ = answer.send(renewed);
        }
    }

    /// Waits until a committed entry is in force everywhere: applied on every registered node, or that node certainly
    /// serves nobody. Answers those that have not applied it.
    pub(crate) async fn in_force(&self, leading: &Leading, index: u64) -> BTreeSet<NodeId> {
        let view = self.views.current();
        let others = view.state.nodes().keys().copied().filter(|node| Some(*node) != view.node);
        let asked = others.map(|node| async move { (node, self.in_force_on(leading, node, index).await) });
        join_all(asked).await.into_iter().filter(|(_, applied)| !applied).map(|(node, _)| node).collect()
    }

    async fn in_force_on(&self, leading: &Leading, node: NodeId, index: u64) -> bool {
        loop {
            let now = boot_ms();
            let until = match lock(&leading.grants).standing(node, index, now) {
                Standing::Applied => return true,
                Standing::Over => return false,
                Standing::FearedUntil(until) => until,
            };
            let wait = Duration::from_millis(until.saturating_sub(now)).min(ASK_WAIT);
            match tokio::time::timeout(wait, self.applied_on(node, index, wait)).await {
                Ok(Some(applied)) if applied >= index => return true,
                Ok(None) => tokio::time::sleep(RETRY_PAUSE).await,
                Ok(Some(_)) | Err(_) => {}
            }
        }
    }

    /// Has a node that is to leave give up its lease, and waits until it certainly has none.
    pub(crate) async fn retire(&self, node: NodeId) -> Result<Arc<Leading>, HereError> {
        let leading = self.leading().ok_or_else(|| HereError::NotLeader(self.hint()))?;
        lock(&leading.grants).withhold(node, boot_ms());
        while !leading.is_over(node) {
            tokio::time::sleep(GIVE_UP_PAUSE).await;
        }
        Ok(leading)
    }

    /// The longest a change may wait for leases to end.
    pub(crate) fn lease_wait(&self) -> Duration {
        Duration::from_millis(feared_ms(self.lease_ttl_ms()))
    }
}

fn refuse(batch: Vec<Renewal>, renewed: &Renewed) {
    for renewal in batch {
        let _ = renewal.answer.send(renewed.clone());
    }
}

/// Answers renewals in batches, one quorum round each.
pub(crate) async fn confirm(core: &SharedCore) {
    let receiver = lock(&core.renewals.receiver).take();
    let Some(mut receiver) = receiver else { return };
    let mut batch = Vec::new();
    while receiver.recv_many(&mut batch, BATCH_MAX).await > 0 {
        core.confirm_batch(std::mem::take(&mut batch)).await;
    }
}
