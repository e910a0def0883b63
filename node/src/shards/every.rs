//! A command about every key, a step at a time: which shards a step locks, and who hears of what it did. It knows no command.

use super::{Apart, Call, CallSpace, Held, Shards, held_at, note_ready};
use crate::journal::Journal;
use crate::observers::Presence;
use keyward_engine::effects::EveryKeyOf;
use keyward_engine::keyspace::{EveryKey, Keys, NamesBound, Shard, SpaceId};
use keyward_engine::scope::Reach;
use std::time::Duration;

/// The keys of one call.
pub(super) struct Every<'a, 'b> {
    pub(super) shards: &'a Shards,
    pub(super) call: &'a Call<'b>,
    pub(super) memory: &'a mut CallSpace,
    pub(super) journal: &'a Journal,
    /// Surrounds each step on one shard.
    pub(super) apart: Apart<'a>,
    /// It is done on a thread that may wait.
    pub(super) waits: bool,
    /// Nobody else touches these keys until it is over.
    pub(super) alone: bool,
    /// How many names it may tell.
    pub(super) names: Option<&'a NamesBound>,
    /// Which keys changed as a whole.
    pub(super) changed_whole: Option<EveryKeyOf>,
}

/// Between two looks at a shard that is kept.
const KEPT_PAUSE: Duration = Duration::from_micros(200);

impl EveryKey for Every<'_, '_> {
    fn reach(&self) -> &Reach {
        self.call.reach
    }

    fn pattern_bytes_max(&self) -> usize {
        self.call.context.limits.pattern_bytes_max
    }

    fn names_bound(&self) -> Option<&NamesBound> {
        self.names
    }

    fn is_alone(&self) -> bool {
        self.alone
    }

    fn databases(&self) -> u32 {
        self.call.context.databases
    }

    fn shard_count(&self) -> u32 {
        self.shards.count()
    }

    /// A data thread's DBSIZE: what else a step on a shard takes care of would be most of the work.
    fn counts(&mut self) -> Option<Vec<u64>> {
        if self.waits || self.call.reach.filters_keys() || !self.call.reach.borrowed().is_empty() {
            return None;
        }
        self.memory.begin(false, self.call.events.of_any);
        let space = self.call.context.space;
        let count = |shard: &mut Shard| {
            shard.settle_all();
            shard.count_in_view(space) as u64
        };
        Some((0..self.shards.count()).map(|index| self.shards.with(index, count)).collect())
    }

    fn with_shard(&mut self, index: u32, with: &mut dyn FnMut(&mut Keys<'_>)) {
        let apart = self.apart;
        // Whoever is in a lane keeps others waiting who close some of it.
        while self.waits && self.shards.keeps_shard(index) {
            std::thread::sleep(KEPT_PAUSE);
        }
        apart(&mut || {
            let mut held = self.shards.slots[index as usize].0.lock();
            self.run(&mut [(index, &mut held)], with);
        });
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

impl Every<'_, '_> {
    /// Locks these shards, ascending, for one call.
    fn with_many(&mut self, ascending: &[u32], with: &mut dyn FnMut(&mut Keys<'_>)) {
        let mut guards = self.shards.lock(ascending);
        let mut held: Vec<(u32, &mut Held)> =
            ascending.iter().copied().zip(guards.iter_mut().map(|guard| &mut **guard)).collect();
        self.run(&mut held, with);
    }

    fn run(&mut self, held: &mut [(u32, &mut Held)], with: &mut dyn FnMut(&mut Keys<'_>)) {
        let (context, layout) = (self.call.context, self.shards.layout);
        let (world, own) = (context.space.tenant.world(), context.space.tenant);
        held.iter_mut().for_each(|(_, of)| of.shard.settle_all());
        let concerned = |space: SpaceId| space.tenant == world;
        // What a tenant does to all of its keys is nothing to others.
        let is_own =
            |of: &Held, space: SpaceId, key: &[u8]| own == world || of.shard.segment_of(space, key).tenant == own;
        // What may change is every key: the observed ones are looked at before and after.
        let there = |of: &Held, space, key: &[u8]| {
            let hash = layout.place(key).hash;
            match of.shard.holds(space, hash, key) {
                false => Presence::Missing,
                true if of.shard.is_overdue(space, hash, key, context.now) => Presence::Overdue,
                true => Presence::Live,
            }
        };
        let mut observed: Vec<(usize, SpaceId, Vec<u8>, Presence)> = Vec::new();
        for (at, (_, of)) in held.iter().enumerate().filter(|(_, (_, of))| !of.observers.is_empty()) {
            let keys = of.observers.keys_in(concerned).into_iter().filter(|(space, key)| is_own(of, *space, key));
            observed.extend(keys.map(|(space, key)| (at, space, key.clone(), there(of, space, &key))));
        }
        self.memory.begin(!observed.is_empty() || self.shards.tracking.has_broadcasts(), self.call.events.of_any);
        let bytes = |held: &[(u32, &mut Held)]| held.iter().map(|(_, of)| of.shard.accounted_bytes()).sum();
        let bytes_before = bytes(held);
        let shards = held.iter_mut().map(|(index, of)| (*index, &mut of.shard)).collect();
        let mut keys = Keys::many(shards, context, &mut self.memory.effects).within(self.call.reach);
        with(&mut keys);
        let garbage = std::mem::take(&mut keys.garbage);
        if !self.memory.effects.is_empty() {
            held.iter_mut().for_each(|(_, of)| of.shard.account_all());
        }
        self.memory.meter.note(bytes_before, bytes(held), &self.shards.used);
        if let Some((_, first)) = held.first_mut() {
            first.shard.count(&self.memory.effects);
        }
        self.journal.append_of(self.call.signer, context.space.world(), self.call.argv, &self.memory.effects);
        self.shards.pubsub.tell(world, self.call.events.of_all, self.memory.effects.events());
        if !self.memory.effects.is_empty() {
            let effects = &self.memory.effects;
            for (at, space, key, before) in observed {
                let of = &held[at].1;
                let now = there(of, space, &key);
                let named = || effects.touched_keys().iter().any(|(of, name)| *of == space.database && *name == key);
                let awaited = match effects.of_every_key() {
                    Some(whole) => whole.has(space.database, &key) && of.observers.exchanged(space, &key, before, now),
                    None => named() && of.observers.touched(space, &key, now != Presence::Missing),
                };
                if awaited {
                    note_ready(&mut self.memory.ready, space, &key);
                }
            }
        }
        for (_, key) in self.memory.effects.touched_keys() {
            if let Some(of) = held_at(held, layout.place(key).shard) {
                of.observers.tracked.changed(world, key, self.call.client, &self.shards.tracking);
            }
            self.shards.tracking.broadcast(world, key, self.call.client);
        }
        if let Some(whole) = self.memory.effects.of_every_key() {
            held.iter_mut().for_each(|(_, of)| of.observers.tracked.clear(world, whole, &self.shards.tracking));
            match &mut self.changed_whole {
                Some(known) => known.add(whole.clone()),
                None => self.changed_whole = Some(whole.clone()),
            }
        }
        // Dropping it takes time: the caller's locks go first.
        self.memory.garbage.extend(garbage);
    }
}
