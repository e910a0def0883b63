//! `CLIENT PAUSE`: requests of this node's clients wait until a moment, or until somebody ends the wait.
//!
//! A batch looks at one number; what must wait is not run and not answered, and the connection waits here. It knows no
//! command: the caller says whether a request may write.

use parking_lot::Mutex;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Notify;

/// Who waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Paused {
    /// Nobody.
    Nobody,
    /// Whoever wants to write.
    Writes,
    /// Everybody.
    All,
}

/// The pause of one node.
#[derive(Default)]
pub struct Pause {
    /// In milliseconds since 1970; 0: none.
    until: AtomicI64,
    all: Mutex<bool>,
    ended: Notify,
    waiting: AtomicU64,
}

impl Pause {
    /// Begins one, or prolongs the one there is: it never gets shorter or milder.
    pub fn begin(&self, until_ms: i64, writes_only: bool, now_ms: i64) {
        let mut all = self.all.lock();
        let current = self.until.load(Ordering::Relaxed);
        let goes_on = current > now_ms;
        *all = !writes_only || (goes_on && *all);
        self.until.store(if goes_on { current.max(until_ms) } else { until_ms }, Ordering::Release);
    }

    /// Ends it.
    pub fn end(&self) {
        let mut all = self.all.lock();
        *all = false;
        self.until.store(0, Ordering::Release);
        self.ended.notify_waiters();
    }

    /// Who waits now.
    #[inline]
    pub fn state(&self, now_ms: i64) -> Paused {
        let until = self.until.load(Ordering::Acquire);
        if until <= now_ms {
            return Paused::Nobody;
        }
        if *self.all.lock() { Paused::All } else { Paused::Writes }
    }

    /// How many connections wait.
    pub fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Waits until it has ended, whoever ends it.
    pub async fn ended(&self, now_ms: impl Fn() -> i64) {
        let _waiting = Waiting::new(&self.waiting);
        loop {
            let mut ended = std::pin::pin!(self.ended.notified());
            ended.as_mut().enable();
            let left = self.until.load(Ordering::Acquire) - now_ms();
            let Ok(left @ 1..) = u64::try_from(left) else { return };
            // Running out of time and being told are equally good reasons to look again.
            let _ = tokio::time::timeout(Duration::from_millis(left), ended).await;
        }
    }
}

/// Counts one that waits, however it ends.
struct Waiting<'a>(&'a AtomicU64);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicU64) -> Waiting<'a> {
        count.fetch_add(1, Ordering::Relaxed);
        Waiting(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_never_gets_shorter_or_milder() {
        let pause = Pause::default();
        assert_eq!(pause.state(5), Paused::Nobody);
        pause.begin(100, false, 5);
        pause.begin(50, true, 6);
        assert_eq!(pause.state(60), Paused::All);
        assert_eq!(pause.state(100), Paused::Nobody);
        pause.begin(200, true, 150);
        assert_eq!(pause.state(199), Paused::Writes);
        pause.end();
        assert_eq!(pause.state(199), Paused::Nobody);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_goes_on_when_it_is_over() {
        let pause = Pause::default();
        pause.begin(1000, false, 0);
        let begun = tokio::time::Instant::now();
        pause.ended(|| begun.elapsed().as_millis() as i64).await;
        assert!(begun.elapsed() >= Duration::from_secs(1));
        assert_eq!(pause.waiting(), 0);
    }
}
