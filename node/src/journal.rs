//! The shard group's journal: every write's effects, in memory order.
//!
//! Appended under the lock of the shard that was written. While no other node keeps a copy it costs one relaxed load.

use crate::replication::log::Log;
use keyward_engine::effects::{Effect, Effects};
use keyward_engine::keyspace::{ExpiredFields, SpaceId};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The journal of one node.
pub struct Journal {
    attached: AtomicBool,
    log: Arc<Log>,
}

impl Journal {
    /// A journal that goes into `log` once it is attached.
    pub fn new(log: Arc<Log>) -> Journal {
        Journal { attached: AtomicBool::new(false), log }
    }

    /// A journal nobody reads.
    pub fn unread() -> Journal {
        Journal::new(Arc::new(Log::new(0, 0)))
    }

    /// Appends the effects of one call. The caller holds the lock of every shard the call wrote.
    #[inline]
    pub fn append(&self, space: SpaceId, request: &[&[u8]], effects: &Effects) {
        if self.attached.load(Ordering::Relaxed) && !effects.is_empty() {
            self.write(space, request, effects);
        }
    }

    #[cold]
    fn write(&self, space: SpaceId, request: &[&[u8]], effects: &Effects) {
        effects.for_each(request, |effect| match effect {
            Effect::Request(words) => self.log.append(false, space, words.iter().copied()),
            Effect::Command(words) => self.log.append(false, space, words.iter().map(Vec::as_slice)),
            Effect::Removed(key) => self.log.append(true, space, std::iter::once(key)),
        });
        effects.for_each_elsewhere(|database, effect| {
            if let Effect::Command(words) = effect {
                self.log.append(false, SpaceId { database, ..space }, words.iter().map(Vec::as_slice));
            }
        });
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
