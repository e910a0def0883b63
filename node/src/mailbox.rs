//! What other threads put into a client's stream: messages, invalidations, the wake-up of one who waits.
//!
//! A connection belongs to one data thread; its mailbox is the part that any thread may reach. Mail is written to the
//! client between two batches, after their replies. It is bounded: a client that does not read loses its connection, not
//! the node its memory. It may outlive its connection, beside what that client cached or waits for; then nothing is put into it
//! any more. This file does not know what the bytes mean.

use crate::holding::{Holding, Part};
use crate::standing::Standing;
use crate::view::ViewCell;
use futures_util::task::AtomicWaker;
use keyward_engine::holdings::Holder;
use keyward_engine::reply::Protocol;
use parking_lot::Mutex;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

/// Room for mail that is kept once it was collected, in bytes.
const KEPT_MAIL_BYTES: usize = 4096;

/// The way to one client.
pub struct Mailbox {
    mail: Mutex<Vec<u8>>,
    /// The connection is over: changed while `mail` is locked.
    closed: AtomicBool,
    filled: AtomicBool,
    killed: AtomicBool,
    bytes_max: AtomicUsize,
    speaks_resp3: AtomicBool,
    listens: AtomicBool,
    stirred: AtomicBool,
    stands_in: AtomicBool,
    away: AtomicBool,
    /// What the client's user may be told.
    pub standing: Standing,
    /// What the client makes the node hold.
    pub holding: Holding,
    /// The connection's task; there is only one that waits.
    waker: AtomicWaker,
}

impl Mailbox {
    /// An empty one; `bytes_max` is what may lie in it unsent, `views` where the rules of its user are.
    pub fn new(bytes_max: usize, views: Option<Arc<ViewCell>>) -> Arc<Mailbox> {
        Arc::new_cyclic(|me: &Weak<Mailbox>| Mailbox {
            mail: Mutex::new(Vec::new()),
            closed: AtomicBool::new(false),
            filled: AtomicBool::new(false),
            killed: AtomicBool::new(false),
            bytes_max: AtomicUsize::new(bytes_max),
            speaks_resp3: AtomicBool::new(false),
            listens: AtomicBool::new(false),
            stirred: AtomicBool::new(false),
            stands_in: AtomicBool::new(false),
            away: AtomicBool::new(false),
            standing: Standing::new(views),
            holding: Holding::new(Weak::<Mailbox>::clone(me)),
            waker: AtomicWaker::new(),
        })
    }

    /// Puts a whole message in. False: there is no room, and the client is cut off; or it is gone, or about to go.
    pub fn put(&self, message: &[u8]) -> bool {
        let mut mail = self.mail.lock();
        if self.is_closed() || self.is_killed() {
            return false;
        }
        if mail.len() + message.len() > self.bytes_max.load(Ordering::Relaxed) {
            drop(mail);
            self.kill();
            return false;
        }
        mail.extend_from_slice(message);
        self.holding.set_quietly(Part::Mail, mail.len() as u64);
        drop(mail);
        self.holding.settle();
        self.filled.store(true, Ordering::Release);
        self.stir();
        true
    }

    /// Whether mail lies in it.
    #[inline]
    pub fn is_filled(&self) -> bool {
        self.filled.load(Ordering::Acquire)
    }

    /// Appends what lies in it.
    pub fn collect(&self, into: &mut Vec<u8>) {
        self.filled.store(false, Ordering::Relaxed);
        let mut mail = self.mail.lock();
        into.append(&mut mail);
        if mail.capacity() > KEPT_MAIL_BYTES {
            *mail = Vec::new();
        }
        self.holding.set_quietly(Part::Mail, 0);
        drop(mail);
        self.holding.settle();
    }

    /// The connection is over: what lies in it goes, and nothing comes any more.
    pub fn close(&self) {
        let mut mail = self.mail.lock();
        self.closed.store(true, Ordering::Release);
        *mail = Vec::new();
        self.holding.set_quietly(Part::Mail, 0);
        drop(mail);
        self.holding.leave();
    }

    /// Whether the connection is over.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Bytes that lie in it.
    pub fn len_bytes(&self) -> usize {
        self.mail.lock().len()
    }

    /// Changes what may lie in it.
    pub fn set_bytes_max(&self, bytes_max: usize) {
        self.bytes_max.store(bytes_max, Ordering::Relaxed);
    }

    /// In which protocol the client wants its mail.
    pub fn protocol(&self) -> Protocol {
        if self.speaks_resp3.load(Ordering::Relaxed) { Protocol::Resp3 } else { Protocol::Resp2 }
    }

    /// The client changed its protocol.
    pub fn set_protocol(&self, protocol: Protocol) {
        self.speaks_resp3.store(protocol == Protocol::Resp3, Ordering::Relaxed);
    }

    /// Whether the client listens to a channel.
    pub fn listens(&self) -> bool {
        self.listens.load(Ordering::Relaxed)
    }

    /// The client began to listen, or ended.
    pub fn set_listens(&self, listens: bool) {
        self.listens.store(listens, Ordering::Relaxed);
    }

    /// Whether somebody who caches has this client told in its place, or had: it moves along with the data, as that one does.
    pub fn stands_in(&self) -> bool {
        self.stands_in.load(Ordering::Acquire)
    }

    /// The client is told in another's place from now on, or is no more because it moves.
    pub fn set_stands_in(&self, stands_in: bool) {
        self.stands_in.store(stands_in, Ordering::Release);
    }

    /// Whether the client is served by another node meanwhile: nobody here would read its mail.
    pub fn is_away(&self) -> bool {
        self.away.load(Ordering::Acquire)
    }

    /// The client is handed over to another node, or has come back.
    pub fn set_away(&self, away: bool) {
        self.away.store(away, Ordering::Release);
    }

    /// Ends the connection at once, whatever it is doing.
    pub fn kill(&self) {
        self.killed.store(true, Ordering::Release);
        self.stir();
    }

    /// Whether it was told to end.
    #[inline]
    pub fn is_killed(&self) -> bool {
        self.killed.load(Ordering::Acquire)
    }

    /// Makes the connection look around: what it waits for may be there.
    pub fn stir(&self) {
        self.stirred.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Ready once it was stirred since the last time; the task is woken then.
    #[inline]
    pub fn poll_stirred(&self, context: &mut Context<'_>) -> Poll<()> {
        self.waker.register(context.waker());
        // A load first: the swap would take the cache line from whoever else looks at it.
        let stirred = self.stirred.load(Ordering::Acquire) && self.stirred.swap(false, Ordering::AcqRel);
        if stirred { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Waits until it is stirred, mail comes or the end does; may return for nothing.
    pub async fn stirred(&self) {
        poll_fn(|context| self.poll_stirred(context)).await;
    }

    /// Waits until the connection is told to end. That it was stirred stays known to whoever asks next: the news may be mail
    /// or an answer that nobody would look for otherwise.
    pub async fn killed(&self) {
        poll_fn(|context| {
            // Registered first: an end between the two is seen by the look, one after it wakes.
            self.waker.register(context.waker());
            if self.is_killed() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

impl Holder for Mailbox {
    fn dismiss(&self) {
        self.kill();
        // It will not be sent: what lies here need not wait for its thread to find the time. The account is settled when it ends;
        // whoever dismisses holds what an account is told with.
        if let Some(mut mail) = self.mail.try_lock() {
            *mail = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_does_not_read_is_cut_off() {
        let mailbox = Mailbox::new(10, None);
        assert!(mailbox.put(b"12345"));
        assert!(mailbox.put(b"67890"));
        assert!(!mailbox.put(b"x"));
        assert!(mailbox.is_killed());
        let mut out = Vec::new();
        mailbox.collect(&mut out);
        assert_eq!(out, b"1234567890");
        assert!(!mailbox.is_filled());
    }

    #[test]
    fn nothing_is_kept_for_a_client_that_is_gone() {
        let mailbox = Mailbox::new(1 << 20, None);
        assert!(mailbox.put(&[b'x'; 10_000]));
        mailbox.close();
        assert!(!mailbox.put(b"x"));
        assert_eq!((mailbox.len_bytes(), mailbox.holding.bytes()), (0, 0));
        let killed = Mailbox::new(1 << 20, None);
        killed.kill();
        assert!(!killed.put(b"x"));
        assert_eq!(killed.len_bytes(), 0);
    }

    #[test]
    fn mail_that_comes_while_the_end_is_waited_for_is_not_forgotten() {
        use futures_util::FutureExt;
        let mailbox = Mailbox::new(10, None);
        // As when a slow reader takes its replies: the mail comes while the writing waits for room.
        assert!(mailbox.killed().now_or_never().is_none());
        assert!(mailbox.put(b"news"));
        assert!(mailbox.killed().now_or_never().is_none());
        assert!(mailbox.stirred().now_or_never().is_some(), "the task would sleep with mail in its box");
    }
}
