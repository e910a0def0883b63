//! The shard group's journal: every write's effects, in memory order.
//!
//! Appended under the lock of the shard that was written. While somebody is alone with the keys of one tenant, others write
//! theirs: then its effects are gathered, and appended as one step when it is done; nobody else touches those keys until
//! then, so the order is the same to them. While no other node keeps a copy it costs one relaxed load.

use crate::replication::log::Log;
use crate::replication::record::{self, Origin};
use keyward_engine::effects::{Effect, Effects};
use keyward_engine::keyspace::{ExpiredFields, SpaceId};
use parking_lot::Mutex;
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

thread_local! {
    /// Up to where a source's stream is carried out with what this thread does now; `None` but for imports.
    static ORIGIN: Cell<Option<Origin>> = const { Cell::new(None) };
}

/// Whatever this thread writes down until this ends comes from a source, and says up to where.
pub struct Importing(());

impl Importing {
    /// Up to `origin`.
    pub fn begin(origin: Option<Origin>) -> Importing {
        ORIGIN.set(origin);
        Importing(())
    }
}

impl Drop for Importing {
    fn drop(&mut self) {
        ORIGIN.set(None);
    }
}

/// The journal of one node.
pub struct Journal {
    attached: AtomicBool,
    log: Arc<Log>,
    /// What is to be appended as one step.
    gathered: Option<Mutex<Vec<u8>>>,
}

impl Journal {
    /// A journal that goes into `log` once it is attached.
    pub fn new(log: Arc<Log>) -> Journal {
        Journal { attached: AtomicBool::new(false), log, gathered: None }
    }

    /// A journal of one step; [`Journal::finish`] appends it.
    pub fn gathering(&self) -> Journal {
        let attached = AtomicBool::new(self.attached.load(Ordering::Relaxed));
        Journal { attached, log: Arc::clone(&self.log), gathered: Some(Mutex::default()) }
    }

    /// Appends what was gathered.
    pub fn finish(&self) {
        let Some(gathered) = &self.gathered else { return };
        let records = std::mem::take(&mut *gathered.lock());
        if !records.is_empty() {
            self.log.append_step(records);
        }
    }

    /// Bytes of the step that is not complete.
    pub fn step_bytes(&self) -> u64 {
        match &self.gathered {
            Some(gathered) => gathered.lock().len() as u64,
            None if self.is_attached() => self.log.incomplete_bytes(),
            None => 0,
        }
    }

    fn put<'w>(
        &self,
        signer: Option<u64>,
        removed: bool,
        space: SpaceId,
        words: impl Iterator<Item = &'w [u8]> + Clone,
    ) {
        match &self.gathered {
            None => self.log.append_of(signer, removed, space, words),
            Some(gathered) => {
                let size = record::size(space, words.clone());
                let mut gathered = gathered.lock();
                if let Some(client) = signer {
                    gathered.extend_from_slice(&record::signature(client));
                }
                record::write(&mut gathered, size, removed, space, words);
            }
        }
    }

    /// A journal nobody reads.
    pub fn unread() -> Journal {
        Journal::new(Arc::new(Log::new(0, 0)))
    }

    /// Appends the effects of one call. The caller holds the lock of every shard the call wrote.
    #[inline]
    pub fn append(&self, space: SpaceId, request: &[&[u8]], effects: &Effects) {
        self.append_of(None, space, request, effects);
    }

    /// The same, signed by the client that made the call, if there is one that wants it.
    #[inline]
    pub fn append_of(&self, signer: Option<u64>, space: SpaceId, request: &[&[u8]], effects: &Effects) {
        if self.attached.load(Ordering::Relaxed) && !effects.is_empty() {
            self.write(signer, space, request, effects);
        }
    }

    #[cold]
    fn write(&self, signer: Option<u64>, space: SpaceId, request: &[&[u8]], effects: &Effects) {
        if let Some(origin) = ORIGIN.get() {
            return self.write_imported(origin, space, request, effects);
        }
        effects.for_each(request, |effect| match effect {
            Effect::Request(words) => self.put(signer, false, space, words.iter().copied()),
            Effect::Command(words) => self.put(signer, false, space, words.iter().map(Vec::as_slice)),
            Effect::Removed(key) => self.put(signer, true, space, std::iter::once(key)),
        });
        effects.for_each_elsewhere(|database, effect| {
            if let Effect::Command(words) = effect {
                self.put(signer, false, SpaceId { database, ..space }, words.iter().map(Vec::as_slice));
            }
        });
    }

    /// One effect and the place it brings the source's stream to are one record; several are a step that ends with the place.
    fn write_imported(&self, origin: Origin, space: SpaceId, request: &[&[u8]], effects: &Effects) {
        let gathering = self.gathering();
        let (mut count, mut only) = (0, Vec::new());
        effects.for_each(request, |effect| {
            count += 1;
            match effect {
                Effect::Request(words) => {
                    only = record::imported(origin, false, space, words.iter().copied());
                    gathering.put(None, false, space, words.iter().copied());
                }
                Effect::Command(words) => {
                    only = record::imported(origin, false, space, words.iter().map(Vec::as_slice));
                    gathering.put(None, false, space, words.iter().map(Vec::as_slice));
                }
                Effect::Removed(key) => {
                    only = record::imported(origin, true, space, std::iter::once(key));
                    gathering.put(None, true, space, std::iter::once(key));
                }
            }
        });
        effects.for_each_elsewhere(|database, effect| {
            if let Effect::Command(words) = effect {
                count += 1;
                let space = SpaceId { database, ..space };
                only = record::imported(origin, false, space, words.iter().map(Vec::as_slice));
                gathering.put(None, false, space, words.iter().map(Vec::as_slice));
            }
        });
        if count == 1 {
            return self.log.append_spelled(only);
        }
        let mut records = gathering.gathered.map(Mutex::into_inner).unwrap_or_default();
        records.append(&mut record::reached(origin));
        self.log.append_step(records);
    }

    /// The source's stream is carried out up to there. The caller is in the corridor.
    pub fn reached(&self, at: Origin) {
        if self.attached.load(Ordering::Relaxed) {
            self.log.append_spelled(record::reached(at));
        }
    }

    /// Something is to be known of an import from here on. The caller is in the corridor.
    pub fn noted(&self, note: &[u8]) {
        if self.attached.load(Ordering::Relaxed) {
            self.log.append_spelled(record::noted(note));
        }
    }

    /// What follows, up to [`Journal::end_group`], is one step: a transaction or a script. The caller is alone in the corridor.
    pub fn begin_group(&self) {
        if self.attached.load(Ordering::Relaxed) {
            self.log.begin_step();
        }
    }

    /// The step is over.
    pub fn end_group(&self) {
        if self.attached.load(Ordering::Relaxed) {
            self.log.end_step();
        }
    }

    /// A key the sweep found expired. The caller holds its shard's lock.
    pub fn expired(&self, space: SpaceId, key: &[u8]) {
        if self.attached.load(Ordering::Relaxed) {
            self.log.append(true, space, std::iter::once(key));
        }
    }

    /// Fields the sweep found expired. The caller holds the lock of the hash's shard.
    pub fn expired_fields(&self, space: SpaceId, expired: &ExpiredFields<'_>) {
        if self.attached.load(Ordering::Relaxed) {
            self.log.append(false, space, expired.effect().iter().map(Vec::as_slice));
        }
    }

    /// Whether effects are written down.
    #[inline]
    pub fn is_attached(&self) -> bool {
        self.attached.load(Ordering::Relaxed)
    }

    /// From now on effects are written down, or no longer. The caller is alone in the corridor.
    pub fn attach(&self, attached: bool) {
        self.attached.store(attached, Ordering::Release);
    }
}
