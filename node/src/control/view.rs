//! What this node has applied, published to everybody who reads it.
//!
//! One writer (the state machine), any number of readers who never wait: a reader keeps the version it saw and compares
//! one integer per request; only when that differs does it fetch the new view. The version moves before anybody is told
//! that a change is applied here, so "applied on every node" means that the next request on each node sees it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use keyward_cluster::{ClusterId, Incarnation, Member, NodeId, State};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::watch;
use tokio::task::block_in_place;

use super::lease::Lease;

/// The replicated state as of one entry, and what this node knows about who leads.
#[derive(Clone, Debug)]
pub struct View {
    /// The state.
    pub state: Arc<State>,
    /// The last entry applied here.
    pub index: u64,
    /// The leader of the Raft group, as far as this node knows.
    pub leader: Option<NodeId>,
    /// This node's id; `None` until it has formed or joined a cluster.
    pub node: Option<NodeId>,
    /// Which process of its node this is, once the cluster has registered that it started. Before, it is nobody.
    pub incarnation: Option<Incarnation>,
    /// True once this node has caught up with the cluster since it started. Before, the state may be an old one: serve
    /// nobody from it.
    pub ready: bool,
    /// True when the cluster has removed this node.
    pub removed: bool,
}

impl View {
    fn new() -> Self {
        let state = Arc::new(State::new());
        Self { state, index: 0, leader: None, node: None, incarnation: None, ready: false, removed: false }
    }

    /// The name of the cluster, once this node is part of one.
    pub fn cluster_id(&self) -> Option<ClusterId> {
        self.state.cluster_id()
    }

    /// This process, as the groups know it.
    pub fn member(&self) -> Option<Member> {
        Some(Member { node: self.node?, incarnation: self.incarnation? })
    }

    /// Whether this process is the primary of the group that holds `slot`.
    pub fn is_primary_of(&self, slot: u16) -> bool {
        let primary = self.state.group_of_slot(slot).and_then(|group| group.primary);
        primary.is_some() && primary == self.member()
    }
}

/// Where views are published and read. Clones share it.
#[derive(Clone)]
pub(crate) struct Views {
    sender: Arc<watch::Sender<Arc<View>>>,
    version: Arc<AtomicU64>,
    observer: Arc<OnceLock<Observer>>,
    publishing: Arc<Mutex<()>>,
    /// Learns what is in force here.
    lease: Arc<Lease>,
    /// What this process registers its start with. Two starts never draw the same.
    pub(crate) start_token: u64,
}

/// Does something that may block, without keeping other tasks from running where there is another thread for them.
pub(crate) fn unhurried<T>(work: impl FnOnce() -> T) -> T {
    match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => block_in_place(work),
        _ => work(),
    }
}

/// Called with every view before it is announced.
pub(crate) type Observer = Box<dyn Fn(&View) + Send + Sync>;

impl Views {
    pub(crate) fn new(lease: Arc<Lease>) -> Self {
        let (sender, _) = watch::channel(Arc::new(View::new()));
        let start_token = if planted!(KeepIncarnation) { 1 } else { (super::propose::random() as u64).max(1) };
        Self {
            sender: Arc::new(sender),
            version: Arc::new(AtomicU64::new(0)),
            observer: Arc::default(),
            publishing: Arc::default(),
            lease,
            start_token,
        }
    }

    /// Changes the view; readers see the new one from here on.
    pub(crate) fn publish(&self, change: impl FnOnce(&mut View)) {
        let _one_at_a_time = self.publishing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = View::clone(&self.sender.borrow());
        change(&mut next);
        if let Some(observer) = self.observer.get() {
            // It may wait for the data: whoever reads the view, and the other tasks of this thread, need not.
            unhurried(|| observer(&next));
        }
        self.sender.send_modify(|view| {
            *view = Arc::new(next);
            // Before anybody is woken: whoever hears that a change is applied here finds the version moved. A reader
            // that sees it sooner waits for this closure to end before it gets the view.
            self.version.fetch_add(1, Ordering::Release);
            self.lease.applied(view.index);
        });
    }

    pub(crate) fn publish_state(&self, state: State) {
        let (index, state) = (state.applied_index(), Arc::new(state));
        self.publish(|view| {
            view.removed |= view.node.is_some_and(|node| left(&view.state, &state, node));
            view.state = state;
            view.index = index;
            let started = view.node.and_then(|node| view.state.nodes().get(&node));
            // Once known it stays: a successor of this process under the same id makes it nobody, not somebody else.
            if let Some(started) = started.filter(|started| started.start_token == self.start_token) {
                view.incarnation = Some(started.incarnation);
            }
        });
    }

    /// Sets the observer, once, and shows it the current view.
    pub(crate) fn observe(&self, observer: Observer) {
        if self.observer.set(observer).is_ok() {
            self.publish(|_| {});
        }
    }

    pub(crate) fn current(&self) -> Arc<View> {
        self.sender.borrow().clone()
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<View>> {
        self.sender.subscribe()
    }

    pub(crate) fn version(&self) -> Arc<AtomicU64> {
        self.version.clone()
    }
}

/// Whether the node was registered and no longer is. A snapshot may skip the moment in between, so an id that the new
/// state has passed by counts as well.
fn left(before: &State, after: &State, node: NodeId) -> bool {
    let absent = !after.nodes().contains_key(&node) && after.cluster_id().is_some();
    absent && (before.nodes().contains_key(&node) || after.applied_index() >= node.0)
}
