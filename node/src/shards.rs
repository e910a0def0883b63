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

mod every;
mod kept;

use crate::dropper::Dropper;
use crate::journal::Journal;
use crate::observers::{Observers, Waiter, Watch};
use crate::pubsub::PubSub;
use crate::tracking::{Tracker, Tracking};
use every::Every;
pub use kept::Keeping;
use kept::Kept;
use keyward_acl::KeyUse;
use keyward_engine::args::Args;
use keyward_engine::dict::{Entry, ValueRef, prefetch_line, prefetch_lines};
use keyward_engine::effects::{Effects, Wait, WaitedInVain};
use keyward_engine::error::CommandError;
use keyward_engine::events::{Event, EventClass};
use keyward_engine::keyspace::{
    CallContext, EveryKey, Garbage, Keys, Layout, NamesBound, Place, Shard, SpaceId, Tally, TenantId,
};
use keyward_engine::reply::Reply;
use keyward_engine::scope::Reach;
use keyward_engine::tenancy::{Gauges, OwnerHint, Owners, Tenancy};
use keyward_engine::types::Value;
use parking_lot::{Mutex, MutexGuard};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

/// A handler of data commands.
pub type KeysHandler = fn(&mut Keys<'_>, Args<'_>, &mut Reply) -> Result<(), CommandError>;

/// How a command about every key is done: on a thread that may wait; where nobody else touches any key it may; telling so many
/// names at most.
struct Manner<'a> {
    waits: bool,
    alone: bool,
    names: Option<&'a NamesBound>,
}

/// Surrounds each step of a walk on one shard.
pub type Apart<'a> = &'a dyn Fn(&mut dyn FnMut());

/// A handler of every-key commands.
pub type EveryKeyHandler = fn(&mut dyn EveryKey, Args<'_>, &mut Reply) -> Result<(), CommandError>;

/// A shard on cache lines of its own: two threads working on neighbors must not slow each other down.
#[repr(align(128))]
struct Slot(Mutex<Held>);

/// What a shard's lock guards. In this order: whether there is anybody to be told, then what every request looks at.
#[repr(C)]
struct Held {
    observers: Observers,
    shard: Shard,
}

/// Cache lines of a slot that every request touches.
const SLOT_LINES: usize = 6;

/// Every key of this node.
pub struct Shards {
    layout: Layout,
    slots: Box<[Slot]>,
    pubsub: Arc<PubSub>,
    /// Who caches.
    pub tracking: Arc<Tracking>,
    used: Used,
    /// Shards whose lock somebody keeps for long, each as often as it is kept.
    kept: Kept,
    /// Where big garbage goes.
    pub dropper: Dropper,
}

/// Bytes that all data uses, give or take [`METER_BYTES`] for each thread. Read by every command that needs memory,
/// changed seldom: a thread carries what it used until it is worth telling.
#[derive(Default)]
#[repr(align(128))]
struct Used(AtomicI64);

/// What shards without a key take at least, in bytes: with a `maxmemory` below, nothing fits.
const EMPTY_BYTES: i64 = 4096;

/// What a thread may have used before it tells, in bytes.
const METER_BYTES: i64 = 16 << 10;

/// Places of keys a thread keeps room for between requests.
const KEPT_PLACES_MAX: usize = 1024;

/// What one thread used and has not told.
#[derive(Default)]
struct Meter(i64);

impl Meter {
    #[inline]
    fn note(&mut self, before: usize, after: usize, used: &Used) {
        if before != after {
            self.0 += after as i64 - before as i64;
            if self.0.abs() > METER_BYTES {
                used.0.fetch_add(std::mem::take(&mut self.0), Ordering::Relaxed);
            }
        }
    }
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
    /// Whose that key is, if that was worked out before, and by which table; for whoever has no namespace.
    pub owner: Option<(TenantId, Option<&'a Arc<Owners>>)>,
    /// It changes nothing but what is found expired.
    pub reads: bool,
    /// Time, database, limits.
    pub context: CallContext<'a>,
    /// The keyspace events somebody wants told.
    pub events: Wanted,
    /// Whose request it is.
    pub client: u64,
    /// The same, if copies of what it changes are to say so.
    pub signer: Option<u64>,
    /// Which of the keys that it does not name there are for the client.
    pub reach: &'a Reach,
    /// The client caches what this request reads.
    pub reader: Option<Reader<'a>>,
    /// How the client may wait; without it, what finds nothing answers so at once.
    pub park: Option<&'a dyn Fn(Wait) -> Arc<Waiter>>,
}

/// Keyspace events: those told of every key of a world, and those told of some.
#[derive(Clone, Copy)]
pub struct Wanted {
    /// Of every key.
    pub of_all: EventClass,
    /// Of any key.
    pub of_any: EventClass,
}

impl Wanted {
    /// The same of every key.
    pub fn of_all(events: EventClass) -> Wanted {
        Wanted { of_all: events, of_any: events }
    }
}

/// A client that is to be told when what it reads changes.
#[derive(Clone, Copy)]
pub struct Reader<'a> {
    /// Who.
    pub tracker: &'a Arc<Tracker>,
    /// Keys remembered for all clients at most; 0: no bound.
    pub keys_max: usize,
}

/// Keys of one database that belong to somebody.
#[derive(Clone, Copy, Default, Debug)]
pub struct Owned {
    /// How many.
    pub keys: usize,
    /// How many of them expire.
    pub expiring: usize,
    /// Bytes they take.
    pub bytes: usize,
}

fn entry_bytes(entry: &Entry<Value>) -> usize {
    let object_bytes = if let ValueRef::Object(object) = entry.value() { object.memory_bytes() } else { 0 };
    entry.memory_bytes() + object_bytes
}

/// A key that will be needed soon.
#[derive(Clone, Copy)]
pub struct Needed {
    /// The segment it is in.
    pub space: SpaceId,
    /// Where it lies.
    pub place: Place,
    /// The command is about lists, hashes, sets or the like.
    pub object: bool,
}

/// Reusable memory of one thread's calls.
#[derive(Default)]
pub struct CallSpace {
    effects: Effects,
    garbage: Vec<Garbage>,
    places: Vec<(Place, TenantId)>,
    indexes: Vec<u32>,
    meter: Meter,
    /// Keys somebody waits for that were written: to be served once no lock is held.
    pub ready: Vec<(SpaceId, Vec<u8>)>,
    /// The client of the last call waits.
    pub parked: Option<Arc<Waiter>>,
}

impl CallSpace {
    /// Reads of the last call that found their key, and reads that did not.
    #[inline]
    pub fn lookups(&self) -> (u64, u64) {
        self.effects.lookups()
    }

    #[inline]
    fn begin(&mut self, observed: bool, events: EventClass) {
        self.effects.clear();
        self.effects.observe(observed, events);
    }
}

impl Shards {
    /// Empty shards, whose events are told through `pubsub`, who caches by `tracking`, and `gauges` what tenants use.
    pub fn new(layout: Layout, pubsub: Arc<PubSub>, tracking: Arc<Tracking>, gauges: &Arc<Gauges>) -> Shards {
        let slots = (0..layout.shard_count)
            .map(|_| {
                let held = Held { shard: Shard::with_gauges(layout.seed, gauges), observers: Observers::default() };
                Slot(Mutex::new(held))
            })
            .collect();
        Shards {
            layout,
            slots,
            pubsub,
            tracking,
            used: Used::default(),
            kept: Kept::new(layout.shard_count),
            dropper: Dropper::default(),
        }
    }

    /// Who owns which keys from now on. Keys move as they are asked for, and by and by ([`Shards::settle`]).
    pub fn set_owners(&self, tenancy: &Tenancy) {
        self.pubsub.set_told(tenancy.told());
        (0..self.count()).for_each(|index| {
            self.with(index, |shard| {
                shard.set_owners(tenancy.owners());
                shard.set_policies(tenancy.policies());
            });
        });
    }

    /// Moves keys of one shard to where they belong, for about as long as said, and drops what belongs to no tenant any
    /// more. True: nothing is left to do.
    pub fn settle(&self, index: u32, tenancy: &Tenancy, time: Duration) -> bool {
        let began = Instant::now();
        let (settled, mut garbage) = self.with(index, |shard| {
            // A namespace this node has not heard of yet is nobody's only if it is older than the newest one.
            let is_gone = |id: TenantId| tenancy.get(id).is_none() && id.number() <= tenancy.last_number();
            let garbage = shard.drop_namespaces(is_gone);
            (shard.settle_slice(&mut || began.elapsed() < time), garbage)
        });
        self.dropper.free(&mut garbage);
        settled
    }

    /// How keys are placed.
    #[inline]
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Fetches the buckets, then the entries, of keys that the next requests of a batch will need.
    /// A shard somebody else is using is left alone: this is only a hint.
    #[inline]
    pub fn prefetch(&self, needed: &[Needed]) {
        for of in needed {
            prefetch_lines(&self.slots[of.place.shard as usize], SLOT_LINES);
        }
        let stages = [Shard::prefetch_bucket, Shard::prefetch_entry, Shard::prefetch_object];
        // The last one is about objects. Each stage finds what the one before it asked for.
        let any_object = needed.iter().any(|of| of.object);
        for (stage, prefetch) in stages.into_iter().enumerate().take(if any_object { 3 } else { 2 }) {
            for of in needed.iter().filter(|of| stage < 2 || of.object) {
                if let Some(held) = self.slots[of.place.shard as usize].0.try_lock() {
                    prefetch(&held.shard, of.space, of.place.hash);
                }
            }
        }
    }

    /// How many elements a key holds, or how many times so many bytes, whichever is more; of a string the latter.
    pub fn len_of(&self, space: SpaceId, key: &[u8], unit: usize) -> usize {
        let place = self.layout.place(key);
        self.with(place.shard, |shard| shard.len_of(space, place.hash, key, unit))
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
            let mut held = self.slots[index as usize].0.lock();
            let Held { shard, observers } = &mut *held;
            memory.begin(!observers.is_empty() || self.tracking.has_broadcasts(), call.events.of_any);
            if shard.is_unsettled() {
                shard.settle_key(call.context.space, place.hash, only.key);
            }
            let before = shard.accounted_bytes();
            let segment = match call.owner {
                Some((owner, table)) if known.is_some() && shard.goes_by(call.context.space, owner, table) => {
                    SpaceId { tenant: owner, ..call.context.space }
                }
                _ => shard.segment_of(call.context.space, only.key),
            };
            let result = {
                let mut keys = Keys::one(index, shard, call.context, &mut memory.effects);
                keys.set_place(only.key, place, segment);
                let result = handler(&mut keys, Args::new(call.argv, call.words), reply);
                if !keys.garbage.is_empty() {
                    memory.garbage.append(&mut keys.garbage);
                }
                result
            };
            shard.count(&memory.effects);
            if memory.effects.has_strayed() {
                shard.account_all();
            } else if !call.reads || !memory.effects.is_empty() {
                shard.account(segment);
            }
            memory.meter.note(before, shard.accounted_bytes(), &self.used);
            journal.append_of(call.signer, call.context.space.world(), call.argv, &memory.effects);
            if memory.effects.has_aftermath() || call.reader.is_some() {
                self.aftermath(&mut [(index, &mut held)], call, memory, reply);
            }
            drop(held);
            self.dropper.free(&mut memory.garbage);
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
        let (mut places, mut indexes) = (std::mem::take(&mut memory.places), std::mem::take(&mut memory.indexes));
        places.clear();
        places.extend(call.keys.iter().map(|named| (self.layout.place(named.key), TenantId::SHARED)));
        indexes.clear();
        indexes.extend(places.iter().map(|(place, _)| place.shard));
        indexes.sort_unstable();
        indexes.dedup();
        indexes.iter().for_each(|index| prefetch_line(&self.slots[*index as usize]));
        let mut guards = self.lock(&indexes);
        // Where the shard of each key is among those that are locked.
        let at = |place: &Place| indexes.binary_search(&place.shard).expect("every key's shard is locked");
        let (space, mut hint) = (call.context.space, OwnerHint::default());
        for (named, (place, owner)) in call.keys.iter().zip(&mut places) {
            let shard = &guards[at(place)].shard;
            let segment = shard.segment_of_next(space, named.key, &mut hint);
            *owner = segment.tenant;
            shard.prefetch_bucket(segment, place.hash);
        }
        for (place, owner) in &places {
            guards[at(place)].shard.prefetch_entry(SpaceId { tenant: *owner, ..space }, place.hash);
        }
        for (named, (place, _)) in call.keys.iter().zip(&places) {
            let shard = &mut guards[at(place)].shard;
            if shard.is_unsettled() {
                shard.settle_key(space, place.hash, named.key);
            }
        }
        let bytes = |guards: &[MutexGuard<'_, Held>]| guards.iter().map(|held| held.shard.accounted_bytes()).sum();
        let before = bytes(&guards);
        let observed = guards.iter().any(|held| !held.observers.is_empty()) || self.tracking.has_broadcasts();
        memory.begin(observed, call.events.of_any);
        let shards = indexes.iter().copied().zip(guards.iter_mut().map(|guard| &mut guard.shard)).collect();
        let keys = Keys::many(shards, call.context, &mut memory.effects).all_placed(call.keys, &places);
        let result = finish(handler, keys, call, &mut memory.garbage, reply);
        if let Some(first) = guards.first_mut() {
            first.shard.count(&memory.effects);
        }
        if memory.effects.has_strayed() {
            guards.iter_mut().for_each(|held| held.shard.account_all());
        } else if !call.reads || !memory.effects.is_empty() {
            for (place, owner) in &places {
                guards[at(place)].shard.account(SpaceId { tenant: *owner, ..space });
            }
        }
        memory.meter.note(before, bytes(&guards), &self.used);
        journal.append_of(call.signer, call.context.space.world(), call.argv, &memory.effects);
        if memory.effects.has_aftermath() || call.reader.is_some() {
            let mut held: Vec<(u32, &mut Held)> =
                indexes.iter().copied().zip(guards.iter_mut().map(|guard| &mut **guard)).collect();
            self.aftermath(&mut held, call, memory, reply);
        }
        drop(guards);
        self.dropper.free(&mut memory.garbage);
        if places.capacity() <= KEPT_PLACES_MAX {
            (memory.places, memory.indexes) = (places, indexes);
        }
        result
    }

    /// Runs a handler on every key of one space. `alone`: nobody else touches any key it may.
    pub fn run_on_every_key(
        &self,
        handler: EveryKeyHandler,
        call: &Call<'_>,
        memory: &mut CallSpace,
        (journal, alone): (&Journal, bool),
        reply: &mut Reply,
    ) -> Result<(), CommandError> {
        self.run_on_every_key_within(None, handler, call, memory, (journal, alone), reply)
    }

    /// The same for a client that may be told no more than so many names.
    pub fn run_on_every_key_within(
        &self,
        names: Option<&NamesBound>,
        handler: EveryKeyHandler,
        call: &Call<'_>,
        memory: &mut CallSpace,
        (journal, alone): (&Journal, bool),
        reply: &mut Reply,
    ) -> Result<(), CommandError> {
        let apart: Apart<'_> = &|step: &mut dyn FnMut()| step();
        self.on_every_key(handler, call, memory, (journal, apart, Manner { waits: false, alone, names }), reply)
    }

    /// The same on a thread that may wait, where `apart` surrounds each step on one shard.
    pub fn walk(
        &self,
        handler: EveryKeyHandler,
        call: &Call<'_>,
        memory: &mut CallSpace,
        (journal, apart, names): (&Journal, Apart<'_>, Option<&NamesBound>),
        reply: &mut Reply,
    ) -> Result<(), CommandError> {
        self.on_every_key(handler, call, memory, (journal, apart, Manner { waits: true, alone: false, names }), reply)
    }

    fn on_every_key(
        &self,
        handler: EveryKeyHandler,
        call: &Call<'_>,
        memory: &mut CallSpace,
        (journal, apart, manner): (&Journal, Apart<'_>, Manner<'_>),
        reply: &mut Reply,
    ) -> Result<(), CommandError> {
        let Manner { waits, alone, names } = manner;
        let changed_whole = None;
        let mut every = Every { shards: self, call, memory, journal, apart, waits, alone, names, changed_whole };
        let result = handler(&mut every, Args::new(call.argv, call.words), reply);
        if let Some(whole) = every.changed_whole.take() {
            self.tracking.tell_whole(call.context.space.tenant.world(), &whole, call.client);
        }
        self.dropper.free(&mut memory.garbage);
        result
    }

    /// Calls `with` with one shard locked: sweeps, snapshots, statistics.
    pub fn with<R>(&self, index: u32, with: impl FnOnce(&mut Shard) -> R) -> R {
        with(&mut self.slots[index as usize].0.lock().shard)
    }

    /// The same, with those who observe its keys.
    pub fn with_observers<R>(&self, index: u32, with: impl FnOnce(&mut Shard, &mut Observers) -> R) -> R {
        let mut held = self.slots[index as usize].0.lock();
        let Held { shard, observers } = &mut *held;
        with(shard, observers)
    }

    /// Forgets keys that caching clients read from a shard, while there are more in all than may be.
    pub fn forget_tracked_beyond(&self, index: u32, keys_max: usize) {
        self.with_observers(index, |_, observers| observers.tracked.forget_beyond(keys_max, &self.tracking));
    }

    /// Forgets keys that were cached by clients which ended, shard by shard.
    pub fn forget_tracked_of_those_who_left(&self) {
        if self.tracking.take_some_left() {
            let forget = |index| {
                self.with_observers(index, |_, observers| observers.tracked.forget_those_who_left(&self.tracking));
            };
            (0..self.count()).for_each(forget);
        }
    }

    /// What a call means to others, told while its locks are held: watchers are marked, those who wait are noted to be
    /// served, the client itself perhaps begins to wait.
    #[cold]
    fn aftermath(&self, held: &mut [(u32, &mut Held)], call: &Call<'_>, memory: &mut CallSpace, reply: &mut Reply) {
        let tenant = call.context.space.tenant.world();
        if !memory.effects.is_empty() {
            for (database, key) in memory.effects.touched_keys() {
                let (place, space) = (self.layout.place(key), SpaceId { tenant, database: *database });
                let Some(of) = held_at(held, place.shard) else { continue };
                let exists = of.shard.holds(space, place.hash, key);
                of.observers.tracked.changed(tenant, key, call.client, &self.tracking);
                if self.tracking.has_broadcasts() {
                    self.tracking.broadcast(tenant, key, call.client);
                }
                if of.observers.touched(space, key, exists) {
                    note_ready(&mut memory.ready, space, key);
                }
            }
        }
        if let Some(Reader { tracker, keys_max }) = call.reader {
            for named in call.keys {
                if let Some(of) = held_at(held, self.layout.place(named.key).shard) {
                    of.observers.tracked.remember(named.key, tracker, &self.tracking, keys_max);
                }
            }
        }
        // Under the lock, so that the events of one key are told in order.
        self.pubsub.tell(tenant, call.events.of_all, memory.effects.events());
        let Some(wait) = memory.effects.take_wait() else { return };
        match call.park {
            None if wait.in_vain == WaitedInVain::NullArray => reply.null_array(),
            None => reply.null(),
            Some(park) => {
                let waiter = park(wait);
                for key in &waiter.keys {
                    if let Some(of) = held_at(held, self.layout.place(key).shard) {
                        of.observers.wait(key, &waiter);
                    }
                }
                memory.parked = Some(waiter);
            }
        }
    }

    /// Calls `with` with the shard a key lies in, locked, and its observers.
    fn observe<R>(&self, key: &[u8], with: impl FnOnce(&mut Observers, &Shard, Place) -> R) -> R {
        let place = self.layout.place(key);
        let mut held = self.slots[place.shard as usize].0.lock();
        let Held { shard, observers } = &mut *held;
        with(observers, shard, place)
    }

    /// The node changed a key of a locked shard by itself, because it was due or for memory: everybody whom that concerns is
    /// told.
    pub fn tell(&self, observers: &mut Observers, wanted: EventClass, event: Event, space: SpaceId, exists: bool) {
        observers.touched(space.world(), &event.key, exists);
        let world = space.tenant.world();
        observers.tracked.changed(world, &event.key, 0, &self.tracking);
        if self.tracking.has_broadcasts() {
            self.tracking.broadcast(world, &event.key, 0);
        }
        if wanted.has(event.class) {
            self.pubsub.tell(world, wanted, &[event]);
        }
    }

    /// A client is about to read a key where it is served: it is told of changes that come from there.
    pub fn remember(&self, key: &[u8], tracker: &Arc<Tracker>, keys_max: usize) {
        self.observe(key, |observers, _, _| observers.tracked.remember(key, tracker, &self.tracking, keys_max));
    }

    /// A client is about to change a key where it is served. What it has of it is old as soon as it has its answer.
    pub fn outdate(&self, key: &[u8], tracker: &Arc<Tracker>) {
        if tracker.is_broadcast() {
            return self.tracking.broadcast_to(tracker, key);
        }
        self.observe(key, |observers, _, _| observers.tracked.outdate(key, tracker, &self.tracking));
    }

    /// A client watches a key.
    pub fn watch(&self, space: SpaceId, key: &[u8], now: i64, watch: &Arc<Watch>) {
        let space = space.world();
        self.observe(key, |observers, shard, place| {
            let was_expired = shard.is_overdue(space, place.hash, key, now);
            if watch.add(space, key, was_expired) {
                observers.watch(space, key, watch);
            }
        });
    }

    /// A client forgets what it watched.
    pub fn unwatch(&self, watch: &Arc<Watch>) {
        for (space, key, _) in watch.keys() {
            self.observe(&key, |observers, _, _| observers.unwatch(space, &key, watch));
        }
    }

    /// Whether a watched key was written since, or has come to its expiry.
    pub fn is_touched(&self, watch: &Watch, now: i64) -> bool {
        let overdue = |(space, key, was_expired): &(SpaceId, Vec<u8>, bool)| {
            !was_expired && self.observe(key, |_, shard, place| shard.is_overdue(*space, place.hash, key, now))
        };
        watch.is_touched() || watch.keys().iter().any(overdue)
    }

    /// Those who wait for a key, first come first, and the key's type.
    pub fn queue(&self, space: SpaceId, key: &[u8], now: i64) -> (Vec<Arc<Waiter>>, Option<&'static str>) {
        self.observe(key, |observers, shard, place| {
            (observers.queue(space, key), shard.type_of(space, place.hash, key, now))
        })
    }

    /// A client waits no longer.
    pub fn leave(&self, waiter: &Arc<Waiter>) {
        for key in &waiter.keys {
            self.observe(key, |observers, _, _| observers.leave(key, waiter));
        }
    }

    /// Removes keys nobody asked to remove: `with` does, under the shard's lock, and names them as effects, which become
    /// known as those of a command do. Returns how many.
    pub fn remove_in_background(
        &self,
        index: u32,
        space: SpaceId,
        events: EventClass,
        journal: &Journal,
        with: impl FnOnce(&mut Shard, &mut Effects) -> Vec<Garbage>,
    ) -> usize {
        let mut effects = Effects::new();
        let mut held = self.slots[index as usize].0.lock();
        let Held { shard, observers } = &mut *held;
        effects.observe(!observers.is_empty() || self.tracking.has_broadcasts(), events);
        let before = shard.accounted_bytes() as i64;
        let mut garbage = with(shard, &mut effects);
        shard.account(space);
        let after = shard.accounted_bytes() as i64;
        shard.count(&effects);
        let space = space.world();
        let world = space.tenant;
        journal.append(space, &[], &effects);
        for (_, key) in effects.touched_keys() {
            // Nobody waits for a key to go, so there is nobody to serve.
            observers.touched(space, key, false);
            observers.tracked.changed(world, key, 0, &self.tracking);
            if self.tracking.has_broadcasts() {
                self.tracking.broadcast(world, key, 0);
            }
        }
        self.pubsub.tell(world, events, effects.events());
        drop(held);
        if before != after {
            self.used.0.fetch_add(after - before, Ordering::Relaxed);
        }
        self.tracking.deliver();
        self.dropper.free(&mut garbage);
        effects.expired_count() + effects.evicted_count()
    }

    /// Bytes that all data uses, nearly.
    #[inline]
    pub fn used_bytes(&self) -> u64 {
        self.used.0.load(Ordering::Relaxed).max(EMPTY_BYTES) as u64
    }

    /// Counts what all data uses, shard by shard.
    pub fn count_used_bytes(&self) -> u64 {
        let used = |shard: &mut Shard| {
            shard.account_all();
            shard.accounted_bytes()
        };
        let used: usize = (0..self.count()).map(|index| self.with(index, used)).sum();
        self.used.0.store(used as i64, Ordering::Relaxed);
        used as u64
    }

    /// Calls `with` with each of these shards while all of them are locked, as a command on several keys has them.
    #[cfg(test)]
    pub(crate) fn with_several(&self, indexes: [u32; 2], mut with: impl FnMut(u32, &mut Shard)) {
        let mut indexes = indexes.to_vec();
        indexes.sort_unstable();
        indexes.dedup();
        let mut guards = self.lock(&indexes);
        indexes.iter().zip(guards.iter_mut()).for_each(|(index, held)| with(*index, &mut held.shard));
    }

    /// One moment of all shards: `with` gets each of them while all are locked.
    pub fn with_all_locked(&self, mut with: impl FnMut(&mut Shard)) {
        let mut guards: Vec<_> = self.slots.iter().map(|slot| slot.0.lock()).collect();
        guards.iter_mut().for_each(|held| with(&mut held.shard));
    }

    /// Lends the keys of these shards, ascending, to one who only looks.
    pub fn look<R>(&self, indexes: &[u32], context: CallContext<'_>, with: impl FnOnce(&mut Keys<'_>) -> R) -> R {
        let mut guards = self.lock(indexes);
        let shards = indexes.iter().copied().zip(guards.iter_mut().map(|guard| &mut guard.shard)).collect();
        let mut effects = Effects::new();
        with(&mut Keys::many(shards, context, &mut effects))
    }

    /// The keys within reach by database, each looked at: shard by shard, so not of one moment.
    pub fn owned(&self, tenant: TenantId, reach: &Reach) -> BTreeMap<u32, Owned> {
        let mut found: BTreeMap<u32, Owned> = BTreeMap::new();
        for index in 0..self.count() {
            self.with(index, |shard| {
                for (space, keys) in shard.spaces().filter(|(space, _)| shows(tenant, space.tenant)) {
                    keys.for_each(&mut |entry| {
                        if reach.sees_key(entry.key()) {
                            let of = found.entry(space.database).or_default();
                            of.keys += 1;
                            of.expiring += usize::from(entry.expires_at().is_some());
                            of.bytes += entry_bytes(entry);
                        }
                    });
                }
            });
        }
        found
    }

    /// How many keys whoever belongs to `tenant` sees, in all databases; counted until they are more than `enough`.
    pub fn count_keys(&self, tenant: TenantId, enough: usize) -> usize {
        let mut count = 0;
        for index in 0..self.count() {
            count += self.with(index, |shard| {
                let seen = shard.spaces().filter(|(space, _)| shows(tenant, space.tenant));
                seen.map(|(_, keys)| keys.len()).sum::<usize>()
            });
            if count > enough {
                break;
            }
        }
        count
    }

    /// What happened in all shards since the start.
    pub fn tally(&self) -> Tally {
        (0..self.count()).fold(Tally::default(), |sum, index| sum.plus(self.with(index, |shard| shard.tally())))
    }

    /// Clients that watch keys, and the keys they watch, each counted once a client.
    pub fn watched(&self) -> (usize, usize) {
        let mut clients = std::collections::HashSet::new();
        let mut keys = 0;
        for index in 0..self.count() {
            self.with_observers(index, |_, observers| keys += observers.note_watching(&mut clients));
        }
        (clients.len(), keys)
    }

    /// How many shards there are.
    pub fn count(&self) -> u32 {
        self.layout.shard_count
    }

    /// Ascending order, always: two commands that share two shards never wait for each other crosswise.
    fn lock(&self, ascending: &[u32]) -> Vec<MutexGuard<'_, Held>> {
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

/// Whether keys of segment `of` are among those that whoever belongs to `tenant` sees.
fn shows(tenant: TenantId, of: TenantId) -> bool {
    if tenant == TenantId::SHARED { !of.is_namespace() } else { tenant == of }
}

fn held_at<'h>(held: &'h mut [(u32, &mut Held)], index: u32) -> Option<&'h mut Held> {
    held.iter_mut().find(|(at, _)| *at == index).map(|(_, of)| &mut **of)
}

fn note_ready(ready: &mut Vec<(SpaceId, Vec<u8>)>, space: SpaceId, key: &[u8]) {
    if !ready.iter().any(|(in_space, known)| *in_space == space && known == key) {
        ready.push((space, key.to_vec()));
    }
}
