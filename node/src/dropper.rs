//! Frees what is big, away from the threads that serve clients.
//!
//! A set of a million elements or a flushed database takes its time to give back: a thread of its own does that. What is
//! small is freed where it is, which is cheaper than carrying it away. The queue is bounded; when it is full, whoever
//! brings garbage frees it himself, and so slows down what makes garbage faster than it can be freed.

use keyward_engine::dict::OldValue;
use keyward_engine::keyspace::Garbage;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

/// Values and keyspaces that wait to be freed: each is big, and thousands of them are a sign of trouble.
const WAITING_MAX: usize = 4096;

/// A value of fewer elements is freed on the spot: some microseconds, as Redis judges.
const ELEMENTS_MIN: usize = 64;

/// A buffer of fewer bytes is freed on the spot: the allocator keeps it for the next one.
const BYTES_MIN: usize = 4 << 20;

/// Counts objects on their way out.
#[derive(Default)]
struct Counts {
    pending: AtomicU64,
    freed: AtomicU64,
}

/// The way to the thread that frees.
#[derive(Default)]
pub struct Dropper {
    sender: OnceLock<Option<SyncSender<Garbage>>>,
    counts: std::sync::Arc<Counts>,
}

impl Dropper {
    /// Frees all of it, sooner or later. The caller holds no lock.
    #[inline]
    pub fn free(&self, garbage: &mut Vec<Garbage>) {
        if !garbage.is_empty() {
            self.free_all(garbage);
        }
    }

    #[cold]
    fn free_all(&self, garbage: &mut Vec<Garbage>) {
        for one in garbage.drain(..) {
            if one.element_count() >= ELEMENTS_MIN || one.buffer_bytes() > BYTES_MIN {
                self.send(one);
            }
        }
    }

    /// Frees a buffer: one of many megabytes is given back to the system page by page.
    pub fn free_bytes(&self, bytes: Vec<u8>) {
        if bytes.capacity() > BYTES_MIN {
            self.send(Garbage::Value(OldValue::Bytes(bytes)));
        }
    }

    /// Frees it on the thread for that.
    pub fn send(&self, garbage: Garbage) {
        let Some(sender) = self.sender.get_or_init(|| start(self.counts.clone())) else { return };
        let objects = garbage.object_count() as u64;
        self.counts.pending.fetch_add(objects, Ordering::Relaxed);
        if let Err(TrySendError::Full(garbage) | TrySendError::Disconnected(garbage)) = sender.try_send(garbage) {
            drop(garbage);
            self.counts.note_freed(objects);
        }
    }

    /// Objects that wait to be freed: values, and the keys of flushed databases.
    pub fn pending(&self) -> u64 {
        self.counts.pending.load(Ordering::Relaxed)
    }

    /// Objects freed since the start.
    pub fn freed(&self) -> u64 {
        self.counts.freed.load(Ordering::Relaxed)
    }

    /// Starts counting anew.
    pub fn reset(&self) {
        self.counts.freed.store(0, Ordering::Relaxed);
    }
}

impl Counts {
    fn note_freed(&self, objects: u64) {
        self.pending.fetch_sub(objects, Ordering::Relaxed);
        self.freed.fetch_add(objects, Ordering::Relaxed);
    }
}

/// The thread ends when nobody can send any more. Without one, garbage is freed where it is.
fn start(counts: std::sync::Arc<Counts>) -> Option<SyncSender<Garbage>> {
    let (sender, receiver): (_, Receiver<Garbage>) = sync_channel(WAITING_MAX);
    let work = move || {
        for garbage in receiver {
            let objects = garbage.object_count() as u64;
            drop(garbage);
            counts.note_freed(objects);
        }
    };
    let thread = std::thread::Builder::new().name("keyward-dropper".to_owned()).spawn(work);
    if let Err(error) = &thread {
        tracing::warn!(%error, "no thread for freeing big values: they are freed where they are");
    }
    thread.is_ok().then_some(sender)
}

#[cfg(test)]
mod tests {
    use super::*;
    use keyward_engine::effects::Effects;
    use keyward_engine::eviction::Usage;
    use keyward_engine::keyspace::{CallContext, Expiry, Keys, Layout, Shard, SpaceId};
    use keyward_engine::scope::Reach;
    use keyward_engine::types::Limits;

    #[test]
    fn a_flushed_database_is_freed_and_counted() {
        let layout = Layout { seed: 1, shard_count: 1 };
        let (mut shard, mut effects, limits) = (Shard::new(1), Effects::new(), Limits::default());
        let context = CallContext {
            layout,
            space: SpaceId::default(),
            now: 0,
            limits: &limits,
            value_bytes_max: 1 << 20,
            room_bytes: u64::MAX,
            databases: 16,
            random: 1,
            no_touch: false,
            usage: Usage::default(),
            keeps_expired: false,
            patience: None,
        };
        let mut keys = Keys::one(0, &mut shard, context, &mut effects).within(&Reach::Everything);
        (0..1000).for_each(|number| keys.put_string(format!("key:{number}").as_bytes(), b"value", Expiry::Never));
        keys.clear();
        let dropper = Dropper::default();
        dropper.free(&mut keys.garbage);
        while dropper.pending() > 0 {
            std::thread::yield_now();
        }
        assert_eq!((dropper.freed(), keys.garbage.len()), (1000, 0));
    }
}
