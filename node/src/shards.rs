//! Who owns memory: every key of this node, in shards behind plain locks.
//!
//! ```text
//!   key ── hash of its tag ──► shard index ──► Mutex<Shard>     one lock for one key
//!                                                               ascending order for several
//!                                                               all of them, ascending, for the whole node
//! ```
//! There are many more shards than threads, so two threads rarely want the same one; nothing that waits may hold a
//! lock, so a lock is held for microseconds. Effects of a write reach the journal before its locks are released:
//! journal order is memory order. This file decides which locks a command takes and nothing else.

use crate::journal::Journal;
use keyward_acl::KeyUse;
use keyward_engine::args::Args;
use keyward_engine::effects::Effects;
use keyward_engine::error::CommandError;
use keyward_engine::keyspace::{CallContext, EveryKey, Garbage, Keys, Layout, Place, Shard, SpaceId, Tally};
use keyward_engine::reply::Reply;
use parking_lot::{Mutex, MutexGuard};

/// A handler of data commands.
pub type KeysHandler = fn(&mut Keys<'_>, Args<'_>, &mut Reply) -> Result<(), CommandError>;

/// A handler of every-key commands.
pub type EveryKeyHandler = fn(&mut dyn EveryKey, Args<'_>, &mut Reply) -> Result<(), CommandError>;

/// A shard on cache lines of its own: two threads working on neighbors must not slow each other down.
#[repr(align(128))]
struct Slot(Mutex<Shard>);

/// Every key of this node.
pub struct Shards {
    layout: Layout,
    slots: Box<[Slot]>,
}

/// A request, ready to run on keys.
pub struct Call<'a> {
    /// The request, name first.
    pub argv: &'a [&'a [u8]],
    /// How many words the name has.
    pub words: usize,
    /// The keys it names, as the gate checked them.
    pub keys: &'a [KeyUse<'a>],
    /// A key and where it lies, if that was worked out before.
    pub place: Option<(&'a [u8], Place)>,
    /// Time, database, limits.
    pub context: CallContext<'a>,
}

/// Reusable memory of one thread's calls.
#[derive(Default)]
pub struct CallSpace {
    effects: Effects,
    garbage: Vec<Garbage>,
}

impl Shards {
    /// Empty shards.
    pub fn new(layout: Layout) -> Shards {
        let slots = (0..layout.shard_count).map(|_| Slot(Mutex::new(Shard::new(layout.seed)))).collect();
        Shards { layout, slots }
    }

    /// How keys are placed.
    #[inline]
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Fetches the buckets, then the entries, of keys that the next requests of a batch will need.
    /// A shard somebody else is using is left alone: this is only a hint.
    #[inline]
    pub fn prefetch(&self, space: SpaceId, places: &[Place]) {
        for place in places {
            if let Some(shard) = self.slots[place.shard as usize].0.try_lock() {
                shard.prefetch_bucket(space, place.hash);
            }
        }
        for place in places {
            if let Some(shard) = self.slots[place.shard as usize].0.try_lock() {
                shard.prefetch_entry(space, place.hash);
            }
        }
    }

    /// Runs a handler on the keys the request names, and nothing else.
    #[inline]
    pub fn run(
        &self,
        handler: KeysHandler,
        call: &Call<'_>,
        memory: &mut CallSpace,
        journal: &Journal,
        reply: &mut Reply,
    ) -> Result<(), CommandError> {
        if let [only] = call.keys {
            let known = call.place.filter(|(key, _)| std::ptr::eq(*key, only.key));
            let place = known.map_or_else(|| self.layout.place(only.key), |(_, place)| place);
            let index = place.shard;
            let mut shard = self.slots[index as usize].0.lock();
            memory.effects.clear();
            let keys = Keys::one(index, &mut shard, call.context, &mut memory.effects).placed(only.key, place);
            let result = finish(handler, keys, call, &mut memory.garbage, reply);
            shard.count(&memory.effects);
            journal.append(call.context.space, call.argv, &memory.effects);
            drop(shard);
            memory.garbage.clear();
            return result;
        }
        self.run_on_many(handler, call, memory, journal, reply)
    }

    fn run_on_many(
        &self,
        handler: KeysHandler,
        call: &Call<'_>,
        memory: &mut CallSpace,
        journal: &Journal,
        reply: &mut Reply,
    ) -> Result<(), CommandError> {
        let mut indexes: Vec<u32> = call.keys.iter().map(|named| self.layout.place(named.key).shard).collect();
        indexes.sort_unstable();
        indexes.dedup();
        let mut guards = self.lock(&indexes);
        memory.effects.clear();
        let shards = indexes.iter().copied().zip(guards.iter_mut().map(|guard| &mut **guard)).collect();
        let keys = Keys::many(shards, call.context, &mut memory.effects);
        let result = finish(handler, keys, call, &mut memory.garbage, reply);
        if let Some(first) = guards.first_mut() {
            first.count(&memory.effects);
        }
        journal.append(call.context.space, call.argv, &memory.effects);
        drop(guards);
        memory.garbage.clear();
        result
    }

    /// Runs a handler on every key of one space.
    pub fn run_on_every_key(
        &self,
        handler: EveryKeyHandler,
        call: &Call<'_>,
        memory: &mut CallSpace,
        journal: &Journal,
        reply: &mut Reply,
    ) -> Result<(), CommandError> {
        let mut every = Every { shards: self, call, memory, journal };
        handler(&mut every, Args::new(call.argv, call.words), reply)
    }

    /// Calls `with` with one shard locked: sweeps, snapshots, statistics.
    pub fn with<R>(&self, index: u32, with: impl FnOnce(&mut Shard) -> R) -> R {
        with(&mut self.slots[index as usize].0.lock())
    }

    /// What happened in all shards since the start.
    pub fn tally(&self) -> Tally {
        (0..self.count()).fold(Tally::default(), |sum, index| sum.plus(self.with(index, |shard| shard.tally())))
    }

    /// How many shards there are.
    pub fn count(&self) -> u32 {
        self.layout.shard_count
    }

    /// Ascending order, always: two commands that share two shards never wait for each other crosswise.
    fn lock(&self, ascending: &[u32]) -> Vec<MutexGuard<'_, Shard>> {
        ascending.iter().map(|index| self.slots[*index as usize].0.lock()).collect()
    }
}

#[inline]
fn finish(
    handler: KeysHandler,
    mut keys: Keys<'_>,
    call: &Call<'_>,
    garbage: &mut Vec<Garbage>,
    reply: &mut Reply,
) -> Result<(), CommandError> {
    let result = handler(&mut keys, Args::new(call.argv, call.words), reply);
    if !keys.garbage.is_empty() {
        garbage.append(&mut keys.garbage);
    }
    result
}

struct Every<'a, 'b> {
    shards: &'a Shards,
    call: &'a Call<'b>,
    memory: &'a mut CallSpace,
    journal: &'a Journal,
}

impl Every<'_, '_> {
    /// Locks these shards, ascending, for one call.
    fn with_many(&mut self, indexes: &[u32], with: &mut dyn FnMut(&mut Keys<'_>)) {
        let mut guards = self.shards.lock(indexes);
        self.memory.effects.clear();
        let shards = indexes.iter().copied().zip(guards.iter_mut().map(|guard| &mut **guard)).collect();
        let mut keys = Keys::many(shards, self.call.context, &mut self.memory.effects);
        with(&mut keys);
        let garbage = std::mem::take(&mut keys.garbage);
        if let Some(first) = guards.first_mut() {
            first.count(&self.memory.effects);
        }
        self.journal.append(self.call.context.space, self.call.argv, &self.memory.effects);
        drop(guards);
        drop(garbage);
    }
}

impl EveryKey for Every<'_, '_> {
    fn shard_count(&self) -> u32 {
        self.shards.count()
    }

    fn with_shard(&mut self, index: u32, with: &mut dyn FnMut(&mut Keys<'_>)) {
        let mut shard = self.shards.slots[index as usize].0.lock();
        self.memory.effects.clear();
        let mut keys = Keys::one(index, &mut shard, self.call.context, &mut self.memory.effects);
        with(&mut keys);
        let garbage = std::mem::take(&mut keys.garbage);
        shard.count(&self.memory.effects);
        self.journal.append(self.call.context.space, self.call.argv, &self.memory.effects);
        drop(shard);
        drop(garbage);
    }

    fn with_all(&mut self, with: &mut dyn FnMut(&mut Keys<'_>)) {
        let indexes: Vec<u32> = (0..self.shards.count()).collect();
        self.with_many(&indexes, with);
    }

    fn with_keys(&mut self, named: &[&[u8]], with: &mut dyn FnMut(&mut Keys<'_>)) {
        let mut indexes: Vec<u32> = named.iter().map(|key| self.shards.layout.place(key).shard).collect();
        indexes.sort_unstable();
        indexes.dedup();
        self.with_many(&indexes, with);
    }
}
