//! Who may run now: every data thread at once, or one alone.
//!
//! ```text
//!   a batch        enter(lane) ─► runs its commands, taking shard locks as they need ─► leave
//!   EXEC, a script close() ─► waits until every lane is empty ─► runs alone ─► open
//! ```
//! Whoever closed the corridor runs command after command, each through the ordinary way with its ordinary locks, and
//! nothing comes between: that is what makes transactions and scripts atomic, whatever keys they turn out to touch. A
//! lane is a flag on a cache line of its own, so entering costs a batch two stores and a load that nobody else writes;
//! closing costs a look at every lane. (The big-reader lock of the Linux kernel's lglock and of BRAVO, Dice and Kogan 2019.)
//!
//! How to use it. Data threads have the lanes 0 … n-1, the upkeep thread and an import the last two; a lane is entered by one
//! thread only. Hold no shard lock when closing, and never enter while you hold the corridor. Work that takes one shard lock
//! at a time, and waits for nothing while it has it, enters too, unless it may run between the commands of a script.
//! This file knows no command.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::Notify;

/// Looks at a closed corridor before a batch gives its thread away: most transactions are over by then.
const SPINS: u32 = 200;

/// Looks at a busy lane before the closer lets other threads run.
const SPINS_CLOSING: u32 = 2000;

/// Between two looks of a closer that has waited for long: somebody runs a very long command.
const CLOSING_PAUSE: Duration = Duration::from_micros(50);

/// A thread's flag: it runs a batch.
#[derive(Default)]
#[repr(align(128))]
struct Lane(AtomicBool);

/// Shared by batches, or held by one.
pub struct Corridor {
    closed: Door,
    lanes: Box<[Lane]>,
    reopened: Notify,
}

/// Read by every batch, written only by those who close.
#[derive(Default)]
#[repr(align(128))]
struct Door {
    closed: AtomicBool,
    /// Whoever closed it has kept it closed for so long that others are told instead of kept waiting.
    busy: AtomicBool,
}

/// How a batch finds the corridor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry {
    /// It may run.
    Entered,
    /// It must wait.
    Closed,
    /// It may run what is allowed beside a slow script.
    Busy,
}

impl Corridor {
    /// For this many lanes.
    pub fn new(lanes: usize) -> Corridor {
        let lanes = (0..lanes).map(|_| Lane::default()).collect();
        Corridor { closed: Door::default(), lanes, reopened: Notify::new() }
    }

    /// The lane of the thread that looks after memory and expiry.
    pub fn upkeep_lane(&self) -> usize {
        self.lanes.len() - 2
    }

    /// The lane of the thread that imports another server's data.
    pub fn import_lane(&self) -> usize {
        self.lanes.len() - 1
    }

    /// A batch wants to run in `lane`.
    #[inline]
    pub fn enter(&self, lane: usize) -> Entry {
        for _ in 0..SPINS {
            // Either the closer sees our flag, or we see its: both are sequentially consistent.
            self.lanes[lane].0.store(true, Ordering::SeqCst);
            if !self.closed.closed.load(Ordering::SeqCst) {
                return Entry::Entered;
            }
            self.leave(lane);
            if self.is_busy() {
                return Entry::Busy;
            }
            std::hint::spin_loop();
        }
        Entry::Closed
    }

    /// The batch is done.
    #[inline]
    pub fn leave(&self, lane: usize) {
        self.lanes[lane].0.store(false, Ordering::Release);
    }

    /// Closes the corridor, unless somebody else has it, and waits until every lane but `own` is empty.
    pub fn try_close(&self, own: Option<usize>) -> Option<Closed<'_>> {
        self.closed.closed.compare_exchange(false, true, Ordering::SeqCst, Ordering::Relaxed).ok()?;
        let closed = Closed { corridor: self };
        for (index, lane) in self.lanes.iter().enumerate() {
            let mut looks = 0_u32;
            while Some(index) != own && lane.0.load(Ordering::SeqCst) {
                looks = looks.saturating_add(1);
                match looks {
                    0..SPINS => std::hint::spin_loop(),
                    SPINS..SPINS_CLOSING => std::thread::yield_now(),
                    _ => std::thread::sleep(CLOSING_PAUSE),
                }
            }
        }
        Some(closed)
    }

    /// The same for a thread of its own, which may wait. It must not have a lane.
    pub fn close(&self) -> Closed<'_> {
        loop {
            if let Some(closed) = self.try_close(None) {
                return closed;
            }
            std::thread::sleep(CLOSING_PAUSE);
        }
    }

    /// Waits until it is open, or busy.
    pub async fn opened(&self) {
        loop {
            let mut reopened = std::pin::pin!(self.reopened.notified());
            reopened.as_mut().enable();
            if !self.closed.closed.load(Ordering::SeqCst) || self.is_busy() {
                return;
            }
            reopened.await;
        }
    }

    /// Whether others are told that a script keeps the node.
    #[inline]
    pub fn is_busy(&self) -> bool {
        self.closed.busy.load(Ordering::Relaxed)
    }

    /// From now on, until it opens, others are told.
    pub fn note_busy(&self) {
        self.closed.busy.store(true, Ordering::Relaxed);
        self.reopened.notify_waiters();
    }
}

/// The corridor, held by one. Opens when dropped.
pub struct Closed<'a> {
    corridor: &'a Corridor,
}

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        self.corridor.closed.busy.store(false, Ordering::Relaxed);
        self.corridor.closed.closed.store(false, Ordering::SeqCst);
        self.corridor.reopened.notify_waiters();
    }
}

/// Leaves the lane however the batch ends.
pub struct InLane<'a> {
    corridor: &'a Corridor,
    lane: usize,
}

impl<'a> InLane<'a> {
    /// For a lane that was entered.
    pub fn new(corridor: &'a Corridor, lane: usize) -> InLane<'a> {
        InLane { corridor, lane }
    }
}

impl Drop for InLane<'_> {
    fn drop(&mut self) {
        self.corridor.leave(self.lane);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;

    #[test]
    fn one_alone_or_batches_together() {
        let corridor = Corridor::new(3);
        assert_eq!(corridor.enter(0), Entry::Entered);
        assert_eq!(corridor.enter(1), Entry::Entered);
        corridor.leave(1);
        let closed = corridor.try_close(Some(0)).expect("nobody else has it");
        assert!(corridor.try_close(Some(1)).is_none());
        assert_eq!(corridor.enter(1), Entry::Closed);
        corridor.note_busy();
        assert_eq!(corridor.enter(1), Entry::Busy);
        drop(closed);
        assert_eq!(corridor.enter(1), Entry::Entered);
        assert!(!corridor.is_busy());
    }

    #[test]
    fn nothing_comes_between_what_one_does_alone() {
        const THREADS: usize = 4;
        const ROUNDS: u64 = 3000;
        let corridor = Arc::new(Corridor::new(THREADS));
        // Whoever is alone makes both differ for a while; batches must never see that.
        let pair = Arc::new((AtomicU64::new(0), AtomicU64::new(0)));
        let threads: Vec<_> = (0..THREADS)
            .map(|lane| {
                let (corridor, pair) = (Arc::clone(&corridor), Arc::clone(&pair));
                std::thread::spawn(move || {
                    let mut round = 0;
                    while round < ROUNDS {
                        if corridor.enter(lane) != Entry::Entered {
                            std::thread::yield_now();
                            continue;
                        }
                        let lane = InLane::new(&corridor, lane);
                        assert_eq!(pair.0.load(Ordering::Relaxed), pair.1.load(Ordering::Relaxed));
                        drop(lane);
                        round += 1;
                    }
                })
            })
            .collect();
        for _ in 0..ROUNDS / 10 {
            let closed = corridor.close();
            pair.0.fetch_add(1, Ordering::Relaxed);
            std::thread::yield_now();
            pair.1.fetch_add(1, Ordering::Relaxed);
            drop(closed);
        }
        threads.into_iter().for_each(|thread| thread.join().expect("no batch saw half of it"));
    }
}
