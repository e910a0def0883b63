//! Requests of this node's clients wait: until a moment, or until somebody ends it (`CLIENT PAUSE`), and writes for as long as
//! the data is being handed over, whatever clients say.
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
    /// The same, and whoever wants to know that what it reads is confirmed: the data is being handed over.
    Moving,
    /// Everybody.
    All,
}

/// The pause of one node.
#[derive(Default)]
pub struct Pause {
    /// What a batch looks at: in milliseconds since 1970; 0: none.
    until: AtomicI64,
    reasons: Mutex<Reasons>,
    ended: Notify,
    waiting: AtomicU64,
}

/// Why there is one.
#[derive(Default)]
struct Reasons {
    /// Clients asked for one until then.
    asked_until: i64,
    /// And not only for writes.
    asked_all: bool,
    /// How many hold writes back.
    holds: u32,
}

/// Writes wait until it is dropped.
pub struct Hold<'a>(&'a Pause);

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.0.change(|reasons| reasons.holds -= 1);
    }
}

impl Pause {
    /// Begins one, or prolongs the one there is: it never gets shorter or milder.
    pub fn begin(&self, until_ms: i64, writes_only: bool, now_ms: i64) {
        self.change(|reasons| {
            let goes_on = reasons.asked_until > now_ms;
            reasons.asked_all = !writes_only || (goes_on && reasons.asked_all);
            reasons.asked_until = if goes_on { reasons.asked_until.max(until_ms) } else { until_ms };
        });
    }

    /// Ends what clients asked for.
    pub fn end(&self) {
        self.change(|reasons| (reasons.asked_until, reasons.asked_all) = (0, false));
    }

    /// Holds writes back for as long as the answer lives.
    pub fn hold_writes(&self) -> Hold<'_> {
        self.change(|reasons| reasons.holds += 1);
        Hold(self)
    }

    fn change(&self, change: impl FnOnce(&mut Reasons)) {
        let mut reasons = self.reasons.lock();
        change(&mut reasons);
        let until = if reasons.holds > 0 { i64::MAX } else { reasons.asked_until };
        self.until.store(until, Ordering::Release);
        self.ended.notify_waiters();
    }

    /// Who waits now.
    #[inline]
    pub fn state(&self, now_ms: i64) -> Paused {
        let until = self.until.load(Ordering::Acquire);
        if until <= now_ms {
            return Paused::Nobody;
        }
        let reasons = self.reasons.lock();
        if reasons.asked_all && reasons.asked_until > now_ms {
            Paused::All
        } else if reasons.holds > 0 {
            Paused::Moving
        } else {
            Paused::Writes
        }
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

    #[test]
    fn what_clients_ask_for_does_not_end_a_hold_nor_the_other_way_round() {
        let pause = Pause::default();
        let hold = pause.hold_writes();
        assert_eq!(pause.state(5), Paused::Moving);
        pause.begin(100, false, 5);
        assert_eq!(pause.state(6), Paused::All);
        assert_eq!(pause.state(100), Paused::Moving);
        pause.end();
        assert_eq!(pause.state(6), Paused::Moving);
        pause.begin(100, true, 6);
        drop(hold);
        assert_eq!(pause.state(7), Paused::Writes);
        assert_eq!(pause.state(100), Paused::Nobody);
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
