//! The shard group's journal: every write's effects, in memory order.
//!
//! Appended under the lock of the shard that was written. With nobody attached it costs one relaxed load.

use keyward_engine::effects::{Effect, Effects};
use keyward_engine::keyspace::{ExpiredFields, SpaceId};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// What reads the journal: one record per effect.
pub trait Sink: Send {
    /// One effect on space `space`.
    fn record(&mut self, space: SpaceId, effect: Effect<'_>);
    /// Effects between a beginning (true) and the next end (false) are applied together or not at all.
    fn group(&mut self, begins: bool);
}

/// The journal of one node.
#[derive(Default)]
pub struct Journal {
    attached: AtomicBool,
    sink: Mutex<Option<Box<dyn Sink>>>,
}

impl Journal {
    /// A journal nobody reads yet.
    pub fn new() -> Journal {
        Journal::default()
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
        if let Some(sink) = self.sink.lock().as_mut() {
            effects.for_each(request, |effect| sink.record(space, effect));
        }
    }

    /// What follows, up to [`Journal::end_group`], is one step: a transaction or a script. The caller is alone in the corridor.
    pub fn begin_group(&self) {
        if self.attached.load(Ordering::Relaxed)
            && let Some(sink) = self.sink.lock().as_mut()
        {
            sink.group(true);
        }
    }

    /// The step is over.
    pub fn end_group(&self) {
        if self.attached.load(Ordering::Relaxed)
            && let Some(sink) = self.sink.lock().as_mut()
        {
            sink.group(false);
        }
    }

    /// A key the sweep found expired. The caller holds its shard's lock.
    pub fn expired(&self, space: SpaceId, key: &[u8]) {
        if self.attached.load(Ordering::Relaxed)
            && let Some(sink) = self.sink.lock().as_mut()
        {
            sink.record(space, Effect::Removed(key));
        }
    }

    /// Fields the sweep found expired. The caller holds the lock of the hash's shard.
    pub fn expired_fields(&self, space: SpaceId, expired: &ExpiredFields<'_>) {
        if self.attached.load(Ordering::Relaxed)
            && let Some(sink) = self.sink.lock().as_mut()
        {
            sink.record(space, Effect::Command(&expired.effect()));
        }
    }

    /// From now on, `sink` gets every effect.
    pub fn attach(&self, sink: Box<dyn Sink>) {
        *self.sink.lock() = Some(sink);
        self.attached.store(true, Ordering::Release);
    }
}
