//! What the clients of a tenant, or of a confined user without one, make this node hold besides keys: requests half received,
//! answers unread, names they watch, listen to and cache, transactions that wait for EXEC, and the texts of their scripts.
//!
//! ```text
//!   a client's share grows by a STEP ─► the sum ─► beyond what may be held? ─► the largest client is told to go, then the next
//!   a request would make it grow     ─► has_room? ─no─► it is refused, with OOM
//! ```
//! Redis does the same with all clients together (`maxmemory-clients`). Whoever holds less than a step is not counted, so what
//! most clients do costs nothing here; a change costs a lock that only the clients of one tenant share. A client that was told
//! to go counts until its memory is free, but closes nobody else meanwhile.
//!
//! This file knows no connection: a client is a number, and can be told to go.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError, Weak};

/// What a client's share is counted in, in bytes: what it holds below that is not counted. Large enough that answers and
/// requests of everyday sizes pass uncounted, and small enough that ten thousand clients hide 40 MB.
pub const STEP: u64 = 4096;

/// A client that holds something.
pub trait Holder: Send + Sync {
    /// It is to go, now.
    fn dismiss(&self);
}

/// What all clients of one tenant, or of one user, hold on this node.
#[derive(Default)]
pub struct Holdings(Mutex<Sum>);

#[derive(Default)]
struct Sum {
    /// What may be held; 0: no bound.
    most: u64,
    /// Of all clients, also of those who are on their way out.
    bytes: u64,
    /// Texts of scripts and libraries.
    texts: u64,
    /// By size, then by number.
    clients: BTreeMap<(u64, u64), Weak<dyn Holder>>,
    /// Those that were told to go, and what they hold still.
    leaving: HashMap<u64, u64>,
    dismissed: u64,
    refused: u64,
}

/// A look at [`Holdings`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Held {
    /// Of all clients.
    pub bytes: u64,
    /// Texts of scripts and libraries.
    pub texts: u64,
    /// What may be held; 0: no bound.
    pub most: u64,
    /// Clients that were told to go so far.
    pub dismissed: u64,
    /// Requests that were refused so far.
    pub refused: u64,
}

impl Held {
    /// Both together.
    #[must_use]
    pub fn plus(self, other: Held) -> Held {
        Held {
            bytes: self.bytes + other.bytes,
            texts: self.texts + other.texts,
            most: self.most.saturating_add(other.most),
            dismissed: self.dismissed + other.dismissed,
            refused: self.refused + other.refused,
        }
    }

    /// What is left without another.
    #[must_use]
    pub fn without(self, other: Held) -> Held {
        Held {
            bytes: self.bytes.saturating_sub(other.bytes),
            texts: self.texts.saturating_sub(other.texts),
            most: self.most.saturating_sub(other.most),
            dismissed: self.dismissed.saturating_sub(other.dismissed),
            refused: self.refused.saturating_sub(other.refused),
        }
    }
}

impl std::fmt::Debug for Holdings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.held().fmt(f)
    }
}

impl Holdings {
    fn sum(&self) -> MutexGuard<'_, Sum> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How it stands.
    pub fn held(&self) -> Held {
        let sum = self.sum();
        let (bytes, texts, most) = (sum.bytes, sum.texts, sum.most);
        Held { bytes, texts, most, dismissed: sum.dismissed, refused: sum.refused }
    }

    /// From now on so much may be held; 0: no bound. Whoever holds more already learns of it when it grows.
    pub fn set_most(&self, most: u64) {
        self.sum().most = most;
    }

    /// Whether so much more may be held.
    pub fn fits(&self, more: u64) -> bool {
        self.sum().fits(more)
    }

    /// The same for a request, which is refused otherwise, and counted.
    pub fn has_room(&self, more: u64) -> bool {
        let mut sum = self.sum();
        let fits = sum.fits(more);
        sum.refused += u64::from(!fits);
        fits
    }

    /// A client holds `now` instead of `before`. If that is too much of all, the largest clients go.
    pub fn note(&self, (client, holder): (u64, &Weak<dyn Holder>), before: u64, now: u64) {
        let mut sum = self.sum();
        sum.bytes = (sum.bytes + now).saturating_sub(before);
        if let Some(left) = sum.leaving.get_mut(&client) {
            *left = now;
            if now == 0 {
                sum.leaving.remove(&client);
            }
            return;
        }
        sum.clients.remove(&(before, client));
        if now > 0 {
            sum.clients.insert((now, client), holder.clone());
        }
        if now > before {
            let leave = sum.dismiss();
            drop(sum);
            leave.iter().filter_map(Weak::upgrade).for_each(|holder| holder.dismiss());
        }
    }

    /// Its scripts and libraries are so long together.
    pub fn note_texts(&self, bytes: u64) {
        let mut sum = self.sum();
        let grows = bytes > sum.texts;
        sum.texts = bytes;
        if grows {
            let leave = sum.dismiss();
            drop(sum);
            leave.iter().filter_map(Weak::upgrade).for_each(|holder| holder.dismiss());
        }
    }
}

impl Sum {
    fn fits(&self, more: u64) -> bool {
        self.most == 0 || self.bytes.saturating_add(self.texts).saturating_add(more) <= self.most
    }

    /// The largest clients, until the others hold what they may.
    fn dismiss(&mut self) -> Vec<Weak<dyn Holder>> {
        let mut dismissed = Vec::new();
        if self.most == 0 {
            return dismissed;
        }
        let leaving: u64 = self.leaving.values().sum();
        let mut stays = (self.bytes + self.texts).saturating_sub(leaving);
        while stays > self.most
            && let Some(((bytes, client), holder)) = self.clients.pop_last()
        {
            stays -= bytes;
            self.leaving.insert(client, bytes);
            self.dismissed += 1;
            dismissed.push(holder);
        }
        dismissed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[derive(Default)]
    struct Client(AtomicBool);

    impl Holder for Client {
        fn dismiss(&self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    fn clients() -> Vec<(Arc<Client>, Weak<dyn Holder>)> {
        let client = |_| {
            let client = Arc::new(Client::default());
            let strong: Arc<dyn Holder> = Arc::<Client>::clone(&client);
            (client, Arc::downgrade(&strong))
        };
        (0..4).map(client).collect()
    }

    fn gone(clients: &[(Arc<Client>, Weak<dyn Holder>)]) -> Vec<usize> {
        (0..clients.len()).filter(|at| clients[*at].0.0.load(Ordering::Relaxed)).collect()
    }

    #[test]
    fn the_largest_client_goes_and_nobody_else_while_its_memory_is_freed() {
        let (holdings, clients) = (Holdings::default(), clients());
        let note = |at: usize, before, now| holdings.note((at as u64, &clients[at].1), before, now);
        holdings.set_most(100);
        note(0, 0, 40);
        note(1, 0, 50);
        assert!(holdings.has_room(10) && !holdings.has_room(11));
        note(2, 0, 20);
        assert_eq!(gone(&clients), [1]);
        // It is on its way out.
        note(2, 20, 30);
        note(1, 50, 55);
        assert_eq!((gone(&clients), holdings.held().bytes), (vec![1], 125));
        assert!(!holdings.has_room(1));
        note(1, 55, 0);
        assert_eq!(holdings.held(), Held { bytes: 70, texts: 0, most: 100, dismissed: 1, refused: 2 });
        // One that is too large by itself goes as well.
        note(3, 0, 1000);
        note(3, 1000, 0);
        assert_eq!((gone(&clients), holdings.held().bytes), (vec![1, 3], 70));
    }

    #[test]
    fn texts_count_and_without_a_bound_everything_fits() {
        let (holdings, clients) = (Holdings::default(), clients());
        holdings.note((0, &clients[0].1), 0, 1 << 40);
        assert!(holdings.has_room(u64::MAX) && gone(&clients).is_empty());
        holdings.set_most(100);
        holdings.note((0, &clients[0].1), 1 << 40, 30);
        holdings.note_texts(60);
        assert!(holdings.has_room(10) && !holdings.has_room(11));
        holdings.note_texts(80);
        assert_eq!(gone(&clients), [0]);
    }
}
