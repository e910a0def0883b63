//! Answers that other nodes owe this node's clients: a node that stops waits for them before it closes its connections.
//!
//! Whoever sends a client's request to another node notes it before, and takes the note back when the answer is on its way to
//! the client. From the moment the node stops nothing more is sent: a client finds its connection closed between two requests,
//! or with one that was certainly not run. It knows no request.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::timeout;

/// How many there are.
#[derive(Default)]
pub struct Owed {
    count: AtomicU64,
    closing: AtomicBool,
    changed: Notify,
}

impl Owed {
    /// A request is about to be sent. `None`: the node stops, and it must not be.
    pub fn enter(&self) -> Option<Owing<'_>> {
        self.count.fetch_add(1, Ordering::SeqCst);
        let owing = Owing(self);
        (!self.closing.load(Ordering::SeqCst)).then_some(owing)
    }

    /// From now on nothing is sent; returns when everything is answered, or after this time.
    pub async fn settle(&self, patience: Duration) {
        self.closing.store(true, Ordering::SeqCst);
        let settled = async {
            loop {
                let mut changed = std::pin::pin!(self.changed.notified());
                changed.as_mut().enable();
                if self.count.load(Ordering::SeqCst) == 0 {
                    return;
                }
                changed.await;
            }
        };
        if timeout(patience, settled).await.is_err() {
            tracing::warn!(
                count = self.count.load(Ordering::SeqCst),
                "requests sent to other nodes were not answered in time"
            );
        }
    }
}

/// An answer that is owed.
pub struct Owing<'o>(&'o Owed);

impl Drop for Owing<'_> {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::SeqCst);
        if self.0.closing.load(Ordering::SeqCst) {
            self.0.changed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_was_sent_is_waited_for_and_nothing_is_sent_after() {
        let owed = Owed::default();
        let first = owed.enter().expect("it does not stop");
        let (waited, ()) = tokio::join!(timeout(Duration::from_secs(5), owed.settle(Duration::from_secs(60))), async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert!(owed.enter().is_none(), "it stops");
            drop(first);
        });
        waited.expect("everything was answered");
        let late = Owed::default();
        let _never = late.enter();
        late.settle(Duration::from_secs(2)).await;
    }
}
