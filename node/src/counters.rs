//! What a thread counts. One writer each, many readers: an increment is a plain add, never a locked one.

use crate::insight::traffic::Traffic;
use crate::latency::Histograms;
pub use keyward_engine::account::Counter;
use parking_lot::Mutex;
use std::collections::BTreeMap;

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
    /// Calls of each command that were answered with an error, by its number.
    pub failures: Box<[Counter]>,
    /// Time spent on each command, in nanoseconds, by its number.
    pub nanoseconds: Box<[Counter]>,
    /// How long calls of each command took.
    pub latency: Histograms,
    /// Error replies by their first word. Locked by this thread alone, but for whoever reads `INFO`.
    pub error_words: Mutex<ErrorWords>,
    /// What watched users did. Locked likewise.
    pub traffic: Mutex<Traffic>,
}

/// Error replies by their first word.
#[derive(Default)]
pub struct ErrorWords {
    counts: BTreeMap<String, u64>,
    /// There were more words than we count.
    pub overflowed: bool,
}

impl ErrorWords {
    /// Words counted apart; scripts make up their own.
    const WORDS_MAX: usize = 128;

    /// Counts an error reply, the bytes after its `-`.
    pub fn note(&mut self, reply: &[u8]) {
        let end = reply.iter().position(|byte| matches!(byte, b' ' | b'\r' | b'\n')).unwrap_or(reply.len());
        let word = String::from_utf8_lossy(&reply[..end]);
        if let Some(count) = self.counts.get_mut(word.as_ref()) {
            *count += 1;
        } else if self.counts.len() < Self::WORDS_MAX {
            self.counts.insert(word.into_owned(), 1);
        } else {
            self.overflowed = true;
        }
    }

    /// Each word with its count.
    pub fn counts(&self) -> impl Iterator<Item = (&str, u64)> {
        self.counts.iter().map(|(word, count)| (word.as_str(), *count))
    }
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
            failures: zeros(),
            nanoseconds: zeros(),
            latency: Histograms::new(commands),
            error_words: Mutex::default(),
            traffic: Mutex::default(),
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
        let many = [&self.calls, &self.refusals, &self.failures, &self.nanoseconds];
        singles.into_iter().chain(many.into_iter().flat_map(|counters| counters.iter())).for_each(Counter::reset);
        self.latency.reset();
        *self.error_words.lock() = ErrorWords::default();
    }
}
