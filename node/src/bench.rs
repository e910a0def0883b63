//! Where slow work waits: scripts that are not known to be quick, walks over many keys. A few threads take it from here.
//!
//! ```text
//!   put(owner, work) ─► the owner's queue ─► one piece of each owner at a time, owners in turn ─► a thread for slow work
//! ```
//! Data threads stay free meanwhile, and no owner keeps another waiting for longer than one piece of its work takes,
//! however many it has. A piece that must not begin yet, because somebody is alone with its keys, takes no thread meanwhile:
//! it goes back to its place, and its owner's turn is over. Only who waits for everything to be free may keep one thread
//! while it waits, for it would never come to pass between two tries. This file does not know what the work is.

use crate::worker::Worker;
use keyward_engine::scope::Owner;
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Pieces of work that wait; more are refused.
const WAITING_MAX: usize = 10_000;

/// Pieces of one owner that wait: one that sends faster than it is served takes no place from others.
const WAITING_OF_OWNER_MAX: usize = 1000;

/// Before a thread goes on after a piece of work that could not begin.
const AGAIN_PAUSE: Duration = Duration::from_micros(100);

/// A try to do work.
type Try = dyn FnOnce(&Worker) -> Option<Work> + Send;

/// A piece of work.
pub struct Work(Box<Try>);

impl Work {
    /// Work that is done when it returns.
    pub fn once(work: impl FnOnce(&Worker) + Send + 'static) -> Work {
        Work::trying(move |worker| {
            work(worker);
            None
        })
    }

    /// Work that may return itself instead, if it cannot begin yet.
    pub fn trying(work: impl FnOnce(&Worker) -> Option<Work> + Send + 'static) -> Work {
        Work(Box::new(work))
    }
}

#[derive(Default)]
struct Queues {
    waiting: BTreeMap<Owner, VecDeque<Work>>,
    /// Owners with work of which none is being done, in turn.
    turn: VecDeque<Owner>,
    /// Owners of whom a piece is being done.
    busy: Vec<Owner>,
    count: usize,
}

impl Queues {
    fn take(&mut self) -> Option<(Owner, Work)> {
        let owner = self.turn.pop_front()?;
        let queue = self.waiting.get_mut(&owner)?;
        let work = queue.pop_front()?;
        self.count -= 1;
        self.busy.push(owner.clone());
        Some((owner, work))
    }

    /// It could not begin: it stays the first of its owner's.
    fn put_back(&mut self, owner: &Owner, work: Work) {
        self.count += 1;
        self.waiting.entry(owner.clone()).or_default().push_front(work);
    }

    fn done(&mut self, owner: &Owner) {
        self.busy.retain(|busy| busy != owner);
        match self.waiting.get(owner) {
            Some(queue) if !queue.is_empty() => self.turn.push_back(owner.clone()),
            _ => drop(self.waiting.remove(owner)),
        }
    }
}

/// The work of one node.
#[derive(Default)]
pub struct Bench {
    queues: Mutex<Queues>,
    more: Condvar,
    /// A thread waits for everything to be free.
    camp: AtomicBool,
}

/// The right to keep a thread while it waits; given back when dropped.
pub struct Camp<'a>(&'a AtomicBool);

impl Drop for Camp<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Bench {
    /// Has work done. False: too much is waiting.
    pub fn put(&self, owner: Owner, work: Work) -> bool {
        let queues = self.queues.lock();
        let of_owner = queues.waiting.get(&owner).map_or(0, VecDeque::len);
        if queues.count >= WAITING_MAX || owner != Owner::Platform && of_owner >= WAITING_OF_OWNER_MAX {
            return false;
        }
        self.add(queues, owner, work);
        true
    }

    /// The same for work of the node's own, which there never is more of than writes are under way.
    pub fn put_certainly(&self, owner: Owner, work: Work) {
        self.add(self.queues.lock(), owner, work);
    }

    fn add(&self, mut queues: MutexGuard<'_, Queues>, owner: Owner, work: Work) {
        queues.count += 1;
        let queue = queues.waiting.entry(owner.clone()).or_default();
        queue.push_back(work);
        if queue.len() == 1 && !queues.busy.contains(&owner) {
            queues.turn.push_back(owner);
        }
        self.more.notify_one();
    }

    /// Waits for a piece of work and does it.
    pub fn work_one(&self, worker: &Worker) {
        let mut queues = self.queues.lock();
        let (owner, work) = loop {
            match queues.take() {
                Some(taken) => break taken,
                None => self.more.wait(&mut queues),
            }
        };
        drop(queues);
        // A broken invariant ends one piece of work, not the thread that does everybody's.
        let again = catch_unwind(AssertUnwindSafe(|| (work.0)(worker))).unwrap_or_else(|_| {
            tracing::error!("a piece of slow work ended in a panic");
            None
        });
        let waits = again.is_some();
        let mut queues = self.queues.lock();
        if let Some(again) = again {
            queues.put_back(&owner, again);
        }
        queues.done(&owner);
        drop(queues);
        self.more.notify_one();
        if waits {
            std::thread::sleep(AGAIN_PAUSE);
        }
    }

    /// Whoever wants to be alone with everything may keep its thread and wait, unless another one does.
    pub fn camp(&self) -> Option<Camp<'_>> {
        (!self.camp.swap(true, Ordering::AcqRel)).then_some(Camp(&self.camp))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_take_turns() {
        let bench = Bench::default();
        let owner = |number| Owner::Tenant(number);
        for number in [1, 1, 1, 2] {
            assert!(bench.put(owner(number), Work::once(|_| {})));
        }
        let mut queues = bench.queues.lock();
        let mut order = Vec::new();
        while let Some((of, _)) = queues.take() {
            order.push(of.clone());
            queues.done(&of);
        }
        assert_eq!(order, [1, 2, 1, 1].map(owner));
    }

    #[test]
    fn one_owner_takes_no_place_from_others() {
        let bench = Bench::default();
        let taken = (0..WAITING_MAX).filter(|_| bench.put(Owner::Tenant(1), Work::once(|_| {}))).count();
        assert_eq!(taken, WAITING_OF_OWNER_MAX);
        assert!(bench.put(Owner::Tenant(2), Work::once(|_| {})) && bench.put(Owner::Platform, Work::once(|_| {})));
        while bench.put(Owner::Platform, Work::once(|_| {})) {}
        assert!(!bench.put(Owner::Tenant(3), Work::once(|_| {})));
        bench.put_certainly(Owner::Platform, Work::once(|_| {}));
        assert_eq!(bench.queues.lock().count, WAITING_MAX + 1);
    }

    #[test]
    fn what_cannot_begin_yet_takes_no_thread_from_others() {
        let bench = Bench::default();
        let owner = |number| Owner::Tenant(number);
        assert!(bench.put(owner(1), Work::once(|_| {})) && bench.put(owner(2), Work::once(|_| {})));
        let mut queues = bench.queues.lock();
        let (first, work) = queues.take().expect("two wait");
        queues.put_back(&first, work);
        queues.done(&first);
        assert_eq!(queues.count, 2);
        let order: Vec<Owner> = std::iter::from_fn(|| queues.take()).map(|(of, _)| of).collect();
        assert_eq!(order, [2, 1].map(owner));
        drop(queues);
        let camp = bench.camp();
        assert!(camp.is_some() && bench.camp().is_none(), "one at most waits for everything");
        drop(camp);
        assert!(bench.camp().is_some());
    }

    #[test]
    fn one_piece_of_an_owner_at_a_time() {
        let bench = Bench::default();
        bench.put(Owner::Platform, Work::once(|_| {}));
        bench.put(Owner::Platform, Work::once(|_| {}));
        let mut queues = bench.queues.lock();
        assert!(queues.take().is_some() && queues.take().is_none());
        queues.done(&Owner::Platform);
        assert!(queues.take().is_some());
    }
}
