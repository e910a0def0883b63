//! What one client makes its node hold besides keys, and what its tenant answers for.
//!
//! ```text
//!   its connection: half a request, answers ┐
//!   its names, its transaction              ├─► parts ─► the sum, once it changed by a STEP ─► its payers ([`Holdings`])
//!   other threads: mail, cached keys        ┘
//! ```
//! The parts are plain numbers that whoever changes a buffer sets; below a [`STEP`] nobody else hears of them. What of a
//! client's outlives its connection (keys it cached, work on a thread for slow work) counts until it is gone. This file does
//! not know what the parts consist of.

use crate::connection::Connection;
use crate::mailbox::Mailbox;
use crate::worker::Worker;
use keyward_engine::holdings::{Holder, STEP};
use keyward_engine::session::{Payer, Session};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

/// What a client holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// Requests that were received and not run.
    Input,
    /// Answers that were not sent.
    Output,
    /// Messages that were not sent.
    Mail,
    /// A transaction that waits for EXEC.
    Queue,
    /// Keys it watches.
    Watched,
    /// Channels, patterns and prefixes it is told of.
    Listens,
    /// Keys it caches.
    Cached,
    /// Requests that are being carried out elsewhere, or wait for keys.
    Apart,
}

const PARTS: usize = 8;

/// What a name takes besides its bytes wherever it is kept: a place in a table, its length, who it leads to.
pub const NAME_BYTES: u64 = 160;

/// What one client holds.
pub struct Holding {
    /// Tells it from others.
    number: u64,
    holder: Weak<dyn Holder>,
    parts: [AtomicU64; PARTS],
    /// What the payers know of, to be looked at without a lock.
    known: AtomicU64,
    noted: Mutex<Noted>,
}

#[derive(Default)]
struct Noted {
    bytes: u64,
    payers: Arc<[Payer]>,
}

impl Holding {
    /// Of nothing; nobody pays.
    pub fn new(holder: Weak<dyn Holder>) -> Holding {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Holding {
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            holder,
            parts: Default::default(),
            known: AtomicU64::new(0),
            noted: Mutex::default(),
        }
    }

    fn of(&self, part: Part) -> &AtomicU64 {
        &self.parts[part as usize]
    }

    /// One part.
    #[inline]
    pub fn part(&self, part: Part) -> u64 {
        self.of(part).load(Ordering::Relaxed)
    }

    /// All parts.
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.load(Ordering::Relaxed)).fold(0, u64::saturating_add)
    }

    /// From now on one part is so large.
    #[inline]
    pub fn set(&self, part: Part, bytes: u64) {
        // Not a swap: a part has one writer, or its writers have a lock.
        if self.part(part) != bytes {
            self.set_quietly(part, bytes);
            self.settle();
        }
    }

    /// The same without telling the payers: for who must not wait for them; [`Holding::settle`] follows.
    pub fn set_quietly(&self, part: Part, bytes: u64) {
        self.of(part).store(bytes, Ordering::Relaxed);
    }

    /// One part grows.
    pub fn add(&self, part: Part, bytes: u64) {
        self.of(part).fetch_add(bytes, Ordering::Relaxed);
        self.settle();
    }

    /// One part shrinks by what was added.
    pub fn take_back(&self, part: Part, bytes: u64) {
        self.of(part).fetch_sub(bytes, Ordering::Relaxed);
        self.settle();
    }

    /// Its connection is over: what is left is what outlives it.
    pub fn leave(&self) {
        use Part::{Input, Listens, Mail, Output, Queue, Watched};
        [Input, Output, Mail, Queue, Watched, Listens].iter().for_each(|part| self.set_quietly(*part, 0));
        self.settle();
    }

    /// What counts of so many bytes.
    fn counted(bytes: u64) -> u64 {
        if bytes < STEP { 0 } else { bytes }
    }

    /// Tells the payers, if there is enough to tell.
    #[inline]
    pub fn settle(&self) {
        let (now, known) = (Self::counted(self.bytes()), self.known.load(Ordering::Relaxed));
        if now != known && (now == 0 || known == 0 || now.abs_diff(known) >= STEP) {
            self.tell();
        }
    }

    fn tell(&self) {
        let mut noted = self.noted.lock();
        // Again, now that nobody else tells.
        let now = Self::counted(self.bytes());
        let before = std::mem::replace(&mut noted.bytes, now);
        self.known.store(now, Ordering::Relaxed);
        noted.payers.iter().for_each(|payer| payer.holdings.note((self.number, &self.holder), before, now));
    }

    /// From now on these pay.
    pub fn set_payers(&self, payers: &Arc<[Payer]>) {
        let mut noted = self.noted.lock();
        if Arc::ptr_eq(&noted.payers, payers) {
            return;
        }
        let before = std::mem::replace(&mut noted.payers, Arc::clone(payers));
        let (bytes, me) = (noted.bytes, (self.number, &self.holder));
        if bytes > 0 {
            // The new ones first: most of them are the old ones, and nothing is free in between.
            let stays = |payer: &&Payer, others: &[Payer]| {
                others.iter().any(|other| Arc::ptr_eq(&other.holdings, &payer.holdings))
            };
            let new = payers.iter().filter(|payer| !stays(payer, &before));
            new.for_each(|payer| payer.holdings.note(me, 0, bytes));
            let old = before.iter().filter(|payer| !stays(payer, payers));
            old.for_each(|payer| payer.holdings.note(me, bytes, 0));
        }
    }

    /// Whether it may hold so much more; if not, which of its payers says no.
    #[inline]
    pub fn wants(&self, more: u64) -> Result<(), usize> {
        let (wanted, known) = (self.bytes().saturating_add(more), self.known.load(Ordering::Relaxed));
        if wanted < known + STEP {
            return Ok(());
        }
        let noted = self.noted.lock();
        let refuses = |payer: &Payer| !payer.holdings.has_room(wanted.saturating_sub(noted.bytes));
        noted.payers.iter().position(refuses).map_or(Ok(()), Err)
    }
}

impl Drop for Holding {
    /// Whatever was counted by now is gone with its holder.
    fn drop(&mut self) {
        let Noted { bytes, payers } = std::mem::take(self.noted.get_mut());
        if bytes > 0 {
            payers.iter().for_each(|payer| payer.holdings.note((self.number, &self.holder), bytes, 0));
        }
    }
}

/// Bytes that a client holds elsewhere, until this is dropped.
pub struct Kept {
    mailbox: Arc<Mailbox>,
    bytes: u64,
}

impl Kept {
    /// From now on.
    pub fn new(mailbox: &Arc<Mailbox>, bytes: u64) -> Kept {
        mailbox.holding.add(Part::Apart, bytes);
        Kept { mailbox: Arc::clone(mailbox), bytes }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.mailbox.holding.take_back(Part::Apart, self.bytes);
    }
}

impl Connection {
    /// Its user may be new, or what that may hold.
    pub(crate) fn bound_holding(&self, worker: &Worker, session: &Session) {
        let payers = session.login.as_ref().map_or(&worker.node.strangers, |login| &login.payers);
        for payer in payers.iter() {
            payer.holdings.set_most(payer.most.unwrap_or(worker.hot().clients_hold_max));
        }
        self.mailbox.holding.set_payers(payers);
    }

    /// What it named and queued may be more or less than before.
    pub(crate) fn count_names(&self, session: &Session) {
        let holding = &self.mailbox.holding;
        let apart = self.apart.borrow();
        let transactions = session.transaction.iter().chain(apart.iter().map(|(transaction, _)| transaction));
        holding.set_quietly(Part::Queue, transactions.map(|transaction| transaction.bytes as u64).sum());
        let watch = self.watch.borrow();
        let watches = watch.iter().chain(apart.iter().filter_map(|(_, watch)| watch.as_ref()));
        holding.set_quietly(Part::Watched, watches.map(|watch| watch.bytes()).sum());
        let prefixes = self.tracking.borrow().as_ref().map_or(0, |tracker| tracker.prefix_bytes());
        holding.set_quietly(Part::Listens, self.subscriptions.borrow().bytes() + prefixes);
        holding.settle();
    }

    /// Why it may not hold so much more, if it may not.
    pub(crate) fn lacks_room(&self, session: &Session, more: u64) -> Option<String> {
        let payer = self.mailbox.holding.wants(more).err()?;
        Some(session.login.as_ref().map(|login| login.holds_too_much(payer)).unwrap_or_default())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.mailbox.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keyward_engine::holdings::{Held, Holdings};

    fn payer(most: u64) -> (Arc<Holdings>, Arc<[Payer]>) {
        let holdings: Arc<Holdings> = Arc::default();
        holdings.set_most(most);
        (Arc::clone(&holdings), Arc::new([Payer { holdings, most: None }]))
    }

    #[test]
    fn what_a_client_holds_is_paid_for_in_steps_and_given_back_when_it_leaves() {
        let ((first, payers), (second, others)) = (payer(100_000), payer(100_000));
        let mailbox = Mailbox::new(1 << 20, None);
        let holding = &mailbox.holding;
        holding.set_payers(&payers);
        holding.set(Part::Input, STEP - 1);
        assert_eq!(first.held().bytes, 0, "less than a step is not counted");
        holding.set(Part::Queue, 50_000);
        holding.add(Part::Cached, 10);
        assert_eq!(first.held().bytes, 50_000 + STEP - 1);
        assert_eq!((holding.wants(40_000), holding.wants(60_000)), (Ok(()), Err(0)));
        holding.set_payers(&others);
        assert_eq!((first.held().bytes, second.held().bytes), (0, 50_000 + STEP - 1));
        assert!(mailbox.put(&[b'x'; 60_000]));
        assert!(mailbox.is_killed(), "it is too much, and there is nobody larger");
        holding.leave();
        assert_eq!(second.held(), Held { most: 100_000, dismissed: 1, ..Held::default() });
        assert_eq!(first.held().refused, 1);
    }

    // What was noted after its connection had ended was never given back: the tenant could do nothing until the next start.
    #[test]
    fn who_is_no_more_holds_nothing() {
        let ((first, _), (second, _)) = (payer(0), payer(0));
        let both = [&first, &second].map(|holdings| Payer { holdings: Arc::clone(holdings), most: None });
        let both: Arc<[Payer]> = Arc::new(both);
        let mailbox = Mailbox::new(1 << 20, None);
        mailbox.holding.set_payers(&both);
        mailbox.holding.add(Part::Cached, 50_000);
        mailbox.close();
        assert_eq!((first.held().bytes, second.held().bytes), (50_000, 50_000));
        drop(mailbox);
        assert_eq!((first.held().bytes, second.held().bytes), (0, 0));
    }

    #[test]
    fn what_is_kept_elsewhere_outlives_the_connection() {
        let (holdings, payers) = payer(0);
        let mailbox = Mailbox::new(1 << 20, None);
        mailbox.holding.set_payers(&payers);
        let kept = Kept::new(&mailbox, 1 << 20);
        mailbox.holding.leave();
        drop(mailbox);
        assert_eq!(holdings.held().bytes, 1 << 20);
        drop(kept);
        assert_eq!(holdings.held().bytes, 0);
    }
}
