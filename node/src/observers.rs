//! Who watches keys of a shard, and who waits for them.
//!
//! Kept beside the shard, under its lock: whoever writes a key learns in the same moment whom that concerns. Watchers
//! (`WATCH`) are marked there and then; those who wait (`BLPOP`) are served in the order they came, once the writer has let
//! go of its locks, by the thread that wrote. With nobody observing a shard, a write pays one test.
//!
//! It refuses to know what a command does: a waiting request is run again, as a whole, through the gate.

use crate::holding::NAME_BYTES;
use crate::mailbox::Mailbox;
use crate::tracking::TrackedKeys;
use keyward_engine::effects::Wait;
use keyward_engine::keyspace::{SpaceId, UnixMillis};
use keyward_engine::session::Session;
use parking_lot::Mutex;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// One client's `WATCH`.
pub struct Watch {
    touched: AtomicBool,
    /// Each key, and whether it was past its expiry already when it was watched: its removal then changes nothing.
    keys: Mutex<HashMap<KeyOf, bool>>,
    bytes: AtomicU64,
}

impl Watch {
    /// Of nothing yet.
    pub fn new() -> Arc<Watch> {
        Arc::new(Watch { touched: AtomicBool::new(false), keys: Mutex::default(), bytes: AtomicU64::new(0) })
    }

    /// A key was written.
    pub fn touch(&self) {
        self.touched.store(true, Ordering::Release);
    }

    /// Whether a key was written since.
    pub fn is_touched(&self) -> bool {
        self.touched.load(Ordering::Acquire)
    }

    /// Notes a key; false if it was noted before.
    pub fn add(&self, space: SpaceId, key: &[u8], was_expired: bool) -> bool {
        let mut keys = self.keys.lock();
        let Entry::Vacant(place) = keys.entry((space, key.to_vec())) else { return false };
        place.insert(was_expired);
        self.bytes.fetch_add(Watch::bytes_of(key), Ordering::Relaxed);
        true
    }

    /// What it takes to watch a key: its name lies here and at its shard.
    pub fn bytes_of(key: &[u8]) -> u64 {
        2 * (key.len() as u64 + NAME_BYTES)
    }

    /// What all of it takes.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The keys.
    pub fn keys(&self) -> Vec<(SpaceId, Vec<u8>, bool)> {
        self.keys.lock().iter().map(|((space, key), was_expired)| (*space, key.clone(), *was_expired)).collect()
    }

    /// It is lost in any case: nobody looks after its keys any more.
    pub fn forget(&self) {
        *self.keys.lock() = HashMap::new();
        self.bytes.store(0, Ordering::Relaxed);
    }

    /// How many keys.
    pub fn key_count(&self) -> usize {
        self.keys.lock().len()
    }

    /// The key, missing when it was watched, is there now, past its expiry: nothing a client could see has changed, and
    /// nothing will when it goes.
    fn note_expired(&self, space: SpaceId, key: &[u8]) {
        if let Some(was_expired) = self.keys.lock().get_mut(&(space, key.to_vec())) {
            *was_expired = true;
        }
    }

    fn was_expired(&self, space: SpaceId, key: &[u8]) -> bool {
        self.keys.lock().get(&(space, key.to_vec())).is_some_and(|was_expired| *was_expired)
    }
}

/// How far a waiting request is.
enum Progress {
    Waiting,
    /// Its answer, ready to be sent.
    Served(Vec<u8>),
    /// It gave up or its client left.
    Gone,
}

/// A client that waits for keys: its request, and what is needed to run it for the client on another thread.
pub struct Waiter {
    /// The request to run again.
    pub argv: Vec<Vec<u8>>,
    /// The keys it waits for.
    pub keys: Vec<Vec<u8>>,
    /// Where they are.
    pub space: SpaceId,
    /// Who waits: a copy for the gate.
    pub session: Mutex<Session>,
    /// When it gives up, and with which answer.
    pub wait: Wait,
    /// Wakes its connection.
    pub mailbox: Arc<Mailbox>,
    progress: Mutex<Progress>,
}

impl Waiter {
    /// A client begins to wait.
    pub fn new(
        argv: Vec<Vec<u8>>,
        keys: Vec<Vec<u8>>,
        space: SpaceId,
        session: Session,
        wait: Wait,
        mailbox: Arc<Mailbox>,
    ) -> Arc<Waiter> {
        let (session, progress) = (Mutex::new(session), Mutex::new(Progress::Waiting));
        // By its world: whoever writes the key may belong to another tenant, or to none.
        let space = space.world();
        Arc::new(Waiter { argv, keys, space, session, wait, mailbox, progress })
    }

    /// Runs `serve` unless it is too late; `Some` is the answer, and ends the wait.
    pub fn try_serve(&self, serve: impl FnOnce() -> Option<Vec<u8>>) -> bool {
        let mut progress = self.progress.lock();
        if !matches!(*progress, Progress::Waiting) {
            return false;
        }
        let Some(answer) = serve() else { return false };
        *progress = Progress::Served(answer);
        drop(progress);
        self.mailbox.stir();
        true
    }

    /// The answer, once there is one.
    pub fn take_answer(&self) -> Option<Vec<u8>> {
        let mut progress = self.progress.lock();
        match std::mem::replace(&mut *progress, Progress::Gone) {
            Progress::Served(answer) => Some(answer),
            other => {
                *progress = other;
                None
            }
        }
    }

    /// Ends the wait. `Some`: it was served just before.
    pub fn give_up(&self) -> Option<Vec<u8>> {
        match std::mem::replace(&mut *self.progress.lock(), Progress::Gone) {
            Progress::Served(answer) => Some(answer),
            Progress::Waiting | Progress::Gone => None,
        }
    }

    /// Whether it still waits.
    pub fn is_waiting(&self) -> bool {
        // Locked means that somebody serves it right now.
        self.progress.try_lock().is_none_or(|progress| matches!(*progress, Progress::Waiting))
    }

    /// Itself, once more: for a request that is run again and still finds nothing. Whoever runs it holds the lock of
    /// `session` already, so its copy comes in.
    pub fn again(&self, session: Session) -> Arc<Waiter> {
        let parts = (Vec::new(), Vec::new(), self.space, session, self.wait.clone(), Arc::clone(&self.mailbox));
        Waiter::new(parts.0, parts.1, parts.2, parts.3, parts.4, parts.5)
    }

    /// Whether its time is over.
    pub fn is_overdue(&self, now: UnixMillis) -> bool {
        self.wait.until.is_some_and(|until| until <= now)
    }
}

/// How a key is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Presence {
    /// It is not.
    Missing,
    /// It is past its expiry, and not removed yet.
    Overdue,
    /// It is.
    Live,
}

/// A key of a shard, whoever's.
type KeyOf = (SpaceId, Vec<u8>);

/// Everybody who watches keys of one shard or waits for them.
#[derive(Default)]
pub struct Observers {
    watched: HashMap<KeyOf, Vec<Arc<Watch>>>,
    waiting: HashMap<KeyOf, VecDeque<Arc<Waiter>>>,
    /// The keys caching clients have read.
    pub tracked: TrackedKeys,
}

impl Observers {
    /// Whether there is nobody.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.watched.is_empty() && self.waiting.is_empty() && self.tracked.is_empty()
    }

    /// A client watches a key.
    pub fn watch(&mut self, space: SpaceId, key: &[u8], watch: &Arc<Watch>) {
        self.watched.entry((space, key.to_vec())).or_default().push(Arc::clone(watch));
    }

    /// It does no longer.
    pub fn unwatch(&mut self, space: SpaceId, key: &[u8], watch: &Arc<Watch>) {
        let of = (space, key.to_vec());
        if let Some(watches) = self.watched.get_mut(&of) {
            watches.retain(|other| !Arc::ptr_eq(other, watch));
            if watches.is_empty() {
                self.watched.remove(&of);
            }
        }
    }

    /// Adds those who watch keys here, told apart by where their watch lies; how many keys are watched.
    pub fn note_watching(&self, clients: &mut std::collections::HashSet<usize>) -> usize {
        clients.extend(self.watched.values().flatten().map(|watch| Arc::as_ptr(watch) as usize));
        self.watched.values().map(Vec::len).sum()
    }

    /// A client waits for a key, behind those who did before.
    pub fn wait(&mut self, key: &[u8], waiter: &Arc<Waiter>) {
        self.waiting.entry((waiter.space, key.to_vec())).or_default().push_back(Arc::clone(waiter));
    }

    /// It does no longer.
    pub fn leave(&mut self, key: &[u8], waiter: &Arc<Waiter>) {
        let of = (waiter.space, key.to_vec());
        if let Some(queue) = self.waiting.get_mut(&of) {
            queue.retain(|other| !Arc::ptr_eq(other, waiter));
            if queue.is_empty() {
                self.waiting.remove(&of);
            }
        }
    }

    /// A key was written: its watchers are marked. True if somebody waits for it. `exists` as of now.
    pub fn touched(&self, space: SpaceId, key: &[u8], exists: bool) -> bool {
        let of = (space, key.to_vec());
        for watch in self.watched.get(&of).into_iter().flatten() {
            if exists || !watch.was_expired(space, key) {
                watch.touch();
            }
        }
        self.waiting.contains_key(&of)
    }

    /// A key may be another one now, with all keys of its database. True if somebody waits for it.
    pub fn exchanged(&self, space: SpaceId, key: &[u8], before: Presence, now: Presence) -> bool {
        let of = (space, key.to_vec());
        for watch in self.watched.get(&of).into_iter().flatten() {
            match (before, now) {
                (_, Presence::Missing) if watch.was_expired(space, key) => {}
                (Presence::Missing, Presence::Missing) => {}
                (_, Presence::Overdue) if watch.was_expired(space, key) => {}
                (Presence::Missing, Presence::Overdue) => watch.note_expired(space, key),
                _ => watch.touch(),
            }
        }
        self.waiting.contains_key(&of)
    }

    /// Those who wait for the key, first come first.
    pub fn queue(&self, space: SpaceId, key: &[u8]) -> Vec<Arc<Waiter>> {
        self.waiting.get(&(space, key.to_vec())).into_iter().flatten().cloned().collect()
    }

    /// Every observed key of these spaces.
    pub fn keys_in(&self, concerns: impl Fn(SpaceId) -> bool) -> Vec<KeyOf> {
        let all = self.watched.keys().chain(self.waiting.keys());
        all.filter(|(space, _)| concerns(*space)).cloned().collect()
    }
}
