//! Where slow work waits: scripts that are not known to be quick, walks over many keys. A few threads take it from here.
//!
//! ```text
//!   put(owner, work) ─► the owner's queue ─► one piece of each owner at a time, owners in turn ─► a thread for slow work
//! ```
//! Data threads stay free meanwhile, and no owner keeps another waiting for longer than one piece of its work takes,
//! however many it has. This file does not know what the work is.

use crate::worker::Worker;
use keyward_engine::scope::Owner;
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Pieces of work that wait; more are refused.
const WAITING_MAX: usize = 10_000;

/// Pieces of one owner that wait: one that sends faster than it is served takes no place from others.
const WAITING_OF_OWNER_MAX: usize = 1000;

/// A piece of work.
pub type Work = Box<dyn FnOnce(&Worker) + Send>;

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
        if catch_unwind(AssertUnwindSafe(|| work(worker))).is_err() {
            tracing::error!("a piece of slow work ended in a panic");
        }
        self.queues.lock().done(&owner);
        self.more.notify_one();
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
            assert!(bench.put(owner(number), Box::new(|_| {})));
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
        let taken = (0..WAITING_MAX).filter(|_| bench.put(Owner::Tenant(1), Box::new(|_| {}))).count();
        assert_eq!(taken, WAITING_OF_OWNER_MAX);
        assert!(bench.put(Owner::Tenant(2), Box::new(|_| {})) && bench.put(Owner::Platform, Box::new(|_| {})));
        while bench.put(Owner::Platform, Box::new(|_| {})) {}
        assert!(!bench.put(Owner::Tenant(3), Box::new(|_| {})));
        bench.put_certainly(Owner::Platform, Box::new(|_| {}));
        assert_eq!(bench.queues.lock().count, WAITING_MAX + 1);
    }

    #[test]
    fn one_piece_of_an_owner_at_a_time() {
        let bench = Bench::default();
        bench.put(Owner::Platform, Box::new(|_| {}));
        bench.put(Owner::Platform, Box::new(|_| {}));
        let mut queues = bench.queues.lock();
        assert!(queues.take().is_some() && queues.take().is_none());
        queues.done(&Owner::Platform);
        assert!(queues.take().is_some());
    }
}
