//! What `CLUSTER LINKS` tells: which links this process has to other nodes, whose they are, and what waits to be sent on them.
//!
//! A link registers itself when it is made ([`crate::link`]) and is forgotten when it is dropped. Shown are those that last: what
//! forwards commands, a pair of nodes has one for each data thread and group; streams of effects; messages passed on. A client
//! that was handed over has a connection of its own to the other node: that is a client's, and not shown. It sends nothing.

use parking_lot::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

/// One link.
pub struct Tie {
    /// The other node.
    pub peer: u64,
    /// This node made it.
    pub from_here: bool,
    /// When, in milliseconds since 1970.
    pub since_ms: i64,
    allocated: AtomicUsize,
    used: AtomicUsize,
}

impl Tie {
    /// So many bytes are there for what is to be sent, and so many of them wait.
    #[inline]
    pub fn note(&self, allocated: usize, used: usize) {
        self.allocated.store(allocated, Ordering::Relaxed);
        self.used.store(used, Ordering::Relaxed);
    }

    /// What was noted last.
    pub fn buffered(&self) -> (usize, usize) {
        (self.allocated.load(Ordering::Relaxed), self.used.load(Ordering::Relaxed))
    }
}

/// The links of this process.
#[derive(Default)]
pub struct Ties(Mutex<Vec<Weak<Tie>>>);

impl Ties {
    /// A link was made.
    pub fn add(&self, peer: u64, from_here: bool, since_ms: i64) -> Arc<Tie> {
        let buffers = (AtomicUsize::new(0), AtomicUsize::new(0));
        let tie = Arc::new(Tie { peer, from_here, since_ms, allocated: buffers.0, used: buffers.1 });
        let mut ties = self.0.lock();
        ties.retain(|known| known.strong_count() > 0);
        ties.push(Arc::downgrade(&tie));
        tie
    }

    /// Those that are there, oldest first.
    pub fn all(&self) -> Vec<Arc<Tie>> {
        self.0.lock().iter().filter_map(Weak::upgrade).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_there_until_it_is_dropped() {
        let ties = Ties::default();
        let (one, two) = (ties.add(1, true, 10), ties.add(2, false, 20));
        two.note(100, 7);
        let shown = |ties: &Ties| ties.all().iter().map(|tie| (tie.peer, tie.buffered())).collect::<Vec<_>>();
        assert_eq!(shown(&ties), [(1, (0, 0)), (2, (100, 7))]);
        drop(one);
        assert_eq!(shown(&ties), [(2, (100, 7))]);
    }
}
