//! What a thread counts. One writer each, many readers: an increment is a plain add, never a locked one.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number only one thread changes.
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds; for the one thread that owns it.
    #[inline]
    pub fn add(&self, count: u64) {
        // Not fetch_add: with one writer a plain store loses nothing and costs no bus lock.
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    /// Reads; from anywhere.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Starts anew. An increment racing with it may survive; statistics bear that.
    pub fn reset(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// The counters of one data thread.
#[repr(align(128))]
pub struct ThreadCounters {
    /// Clients accepted.
    pub accepted: Counter,
    /// Clients turned away for `maxclients`.
    pub rejected: Counter,
    /// Commands let through.
    pub commands: Counter,
    /// Error replies.
    pub errors: Counter,
    /// Batches run.
    pub batches: Counter,
    /// Bytes read.
    pub input_bytes: Counter,
    /// Bytes sent.
    pub output_bytes: Counter,
    /// Commands forwarded to the node that serves the data.
    pub forwarded: Counter,
    /// Calls of each command, by its number.
    pub calls: Box<[Counter]>,
    /// Refusals at the gate of each command, by its number.
    pub refusals: Box<[Counter]>,
}

impl ThreadCounters {
    /// All zero, for a table of `commands` commands.
    pub fn new(commands: usize) -> ThreadCounters {
        let zeros = || (0..commands).map(|_| Counter::default()).collect();
        ThreadCounters {
            accepted: Counter::default(),
            rejected: Counter::default(),
            commands: Counter::default(),
            errors: Counter::default(),
            batches: Counter::default(),
            input_bytes: Counter::default(),
            output_bytes: Counter::default(),
            forwarded: Counter::default(),
            calls: zeros(),
            refusals: zeros(),
        }
    }

    /// Starts anew (`CONFIG RESETSTAT`).
    pub fn reset(&self) {
        let singles = [
            &self.accepted,
            &self.rejected,
            &self.commands,
            &self.errors,
            &self.batches,
            &self.input_bytes,
            &self.output_bytes,
            &self.forwarded,
        ];
        singles.into_iter().chain(self.calls.iter()).chain(self.refusals.iter()).for_each(Counter::reset);
    }
}
