//! What the node itself does with a shard: counting, scanning, removing what expired, repacking, prefetching. It knows no
//! users and no commands.

use super::others::Others;
use super::{Garbage, Keyspace, Left, Shard, SpaceId, TenantId, UnixMillis, discard_later, type_name};
use crate::dict::{Dict, Entry, ValueRef};
use crate::effects::{EffectCommand, Effects};
use crate::tenancy::Gauges;
use crate::types::{KindMut, Value};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The keys whose hashes have fields that expire, each under the earliest of its expiries, so that the sweep finds them
/// without looking at every hash there is.
#[derive(Default)]
pub(super) struct FieldExpiries(pub(super) BTreeSet<(UnixMillis, Box<[u8]>)>);

impl FieldExpiries {
    #[inline]
    pub(super) fn moved(&mut self, key: &[u8], before: Option<UnixMillis>, after: Option<UnixMillis>) {
        if before != after {
            self.note(key, before, after);
        }
    }

    #[cold]
    fn note(&mut self, key: &[u8], before: Option<UnixMillis>, after: Option<UnixMillis>) {
        if let Some(before) = before {
            self.0.remove(&(before, key.into()));
        }
        if let Some(after) = after {
            self.0.insert((after, key.into()));
        }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        const ABOUT_BYTES_EACH: usize = 64;
        self.0.len() * ABOUT_BYTES_EACH
    }
}

/// What the sweep did to one hash.
pub struct ExpiredFields<'a> {
    /// Its key.
    pub key: &'a [u8],
    /// The fields that were removed.
    pub fields: &'a [Box<[u8]>],
    /// Nothing was left, so the key was removed too.
    pub emptied: bool,
}

impl ExpiredFields<'_> {
    /// What must happen elsewhere.
    pub fn effect(&self) -> EffectCommand {
        let fields = self.fields.iter().map(|field| field.to_vec());
        [b"HDEL".to_vec(), self.key.to_vec()].into_iter().chain(fields).collect()
    }
}

impl Keyspace {
    pub(super) fn new(seed: u64) -> Keyspace {
        Keyspace {
            dict: Dict::new(seed),
            objects_bytes: 0,
            sweep_cursor: 0,
            sample_cursor: 0,
            walk: None,
            field_expiries: FieldExpiries::default(),
            accounted: 0,
            gauge: None,
            accounted_keys: 0,
        }
    }

    /// How many keys, expired ones not yet removed included.
    pub fn len(&self) -> usize {
        self.dict.len()
    }

    /// Whether it has no key.
    pub fn is_empty(&self) -> bool {
        self.dict.len() == 0
    }

    /// How many keys have an expiry.
    pub fn expiring_len(&self) -> usize {
        self.dict.expiring_len()
    }

    /// Bytes used by keys, values and tables.
    pub fn memory_bytes(&self) -> usize {
        self.dict.memory_bytes() + self.objects_bytes + self.field_expiries.memory_bytes()
    }

    /// Visits every entry, expired ones included.
    pub fn for_each(&self, visit: &mut dyn FnMut(&Entry<Value>)) {
        self.dict.for_each(visit);
    }

    /// Visits whole buckets from `cursor` on and returns where to go on; see [`Dict::scan`].
    pub fn scan(&self, cursor: u64, visit: &mut dyn FnMut(&Entry<Value>)) -> u64 {
        self.dict.scan(cursor, visit)
    }

    /// Removes keys that expired before `now`, some buckets at a time, going round, as long as `go_on` says so and until the
    /// round is over. What is big among them is to be dropped after the lock.
    pub fn remove_expired(
        &mut self,
        database: u32,
        now: UnixMillis,
        effects: &mut Effects,
        garbage: &mut Vec<Garbage>,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Swept {
        let mut swept = Swept::default();
        let mut expired: Vec<Vec<u8>> = Vec::new();
        while !swept.finished {
            for _ in 0..SWEPT_STEPS {
                self.sweep_cursor = self.dict.scan_expiring(self.sweep_cursor, &mut |entry| {
                    swept.seen += 1;
                    if entry.expires_at().is_some_and(|at| at <= now) {
                        expired.push(entry.key().to_vec());
                    }
                });
                if self.sweep_cursor == 0 {
                    swept.finished = true;
                    break;
                }
            }
            swept.removed += expired.len();
            for key in expired.drain(..) {
                if let Some(entry) = self.dict.remove(self.dict.hash(&key), &key) {
                    self.forget(&entry);
                    discard_later(garbage, entry);
                }
                effects.expired(database, &key);
            }
            if !go_on() {
                break;
            }
        }
        swept
    }

    /// How many hashes have fields that expire.
    pub fn expiring_hashes(&self) -> usize {
        self.field_expiries.0.len()
    }

    /// Removes up to about `max` fields that expired before `now`, the longest expired first; tells how many, and names
    /// them hash by hash. A hash nothing is left of goes.
    pub fn remove_expired_fields(
        &mut self,
        now: UnixMillis,
        max: usize,
        mut removed: impl FnMut(ExpiredFields<'_>),
    ) -> usize {
        let mut count = 0;
        while count < max {
            if self.field_expiries.0.first().is_none_or(|(at, _)| *at > now) {
                break;
            }
            let Some((_, key)) = self.field_expiries.0.pop_first() else { break };
            let Some(mut entry) = self.dict.find_mut(self.dict.hash(&key), &key) else { continue };
            let Some(KindMut::Hash(hash)) = entry.object_mut().map(Value::kind_mut) else { continue };
            let bytes_before = hash.memory_bytes();
            let fields = hash.purge(now, max - count);
            let emptied = hash.is_empty();
            let (bytes_after, next) = (hash.memory_bytes(), hash.next_expiry());
            self.objects_bytes = (self.objects_bytes + bytes_after).saturating_sub(bytes_before);
            if emptied {
                self.objects_bytes = self.objects_bytes.saturating_sub(bytes_after);
                entry.remove();
            }
            count += fields.len();
            removed(ExpiredFields { key: &key, fields: &fields, emptied });
            if let Some(next) = next {
                self.field_expiries.0.insert((next, key));
            }
        }
        count
    }

    /// An entry was removed.
    pub(crate) fn forget(&mut self, entry: &Entry<Value>) {
        if let ValueRef::Object(object) = entry.value() {
            self.forget_object(entry.key(), object);
        }
    }

    /// The object at a key was removed or replaced.
    pub(super) fn forget_object(&mut self, key: &[u8], object: &Value) {
        self.objects_bytes = self.objects_bytes.saturating_sub(object.memory_bytes());
        self.field_expiries.moved(key, object.next_field_expiry(), None);
    }
}

/// What a slice of a sweep found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Keys looked at.
    pub seen: usize,
    /// Keys that were past their expiry, and are gone.
    pub removed: usize,
    /// It came to the end; the next slice begins anew.
    pub finished: bool,
}

impl Swept {
    /// Both together, finished if both are.
    pub fn plus(self, other: Swept) -> Swept {
        Swept {
            seen: self.seen + other.seen,
            removed: self.removed + other.removed,
            finished: self.finished && other.finished,
        }
    }
}

/// What happened in a shard since the start. Kept inside it, so that counting never touches a line two threads share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Changes, as handlers count them.
    pub changes: u64,
    /// Keys found expired and removed.
    pub expired: u64,
    /// Keys removed because memory ran out.
    pub evicted: u64,
    /// Reads that found their key.
    pub hits: u64,
    /// Reads that found no key.
    pub misses: u64,
}

impl Tally {
    /// Both together.
    pub fn plus(self, other: Tally) -> Tally {
        Tally {
            changes: self.changes + other.changes,
            expired: self.expired + other.expired,
            evicted: self.evicted + other.evicted,
            hits: self.hits + other.hits,
            misses: self.misses + other.misses,
        }
    }
}

impl Shard {
    /// An empty shard whose keys are hashed with `seed`, as the [`Layout`] says.
    pub fn new(seed: u64) -> Shard {
        Shard {
            seed,
            shared: Keyspace::new(seed),
            others: Others::default(),
            owners: None,
            policies: None,
            unsettled: None,
            accounted: 0,
            gauges: Arc::default(),
            detached: Vec::new(),
            tally: Tally::default(),
        }
    }

    /// The same, telling `gauges` what tenants use.
    pub fn with_gauges(seed: u64, gauges: &Arc<Gauges>) -> Shard {
        Shard { gauges: Arc::clone(gauges), ..Shard::new(seed) }
    }

    /// What happened here since the start.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// Counts the effects of one call.
    #[inline]
    pub fn count(&mut self, effects: &Effects) {
        self.tally.changes += effects.changes();
        self.tally.expired += effects.expired_count() as u64;
        self.tally.evicted += effects.evicted_count() as u64;
        let (hits, misses) = effects.lookups();
        self.tally.hits += hits;
        self.tally.misses += misses;
    }

    /// Starts counting anew (`CONFIG RESETSTAT`); changes go on, the save schedule needs them.
    pub fn reset_tally(&mut self) {
        self.tally = Tally { changes: self.tally.changes, ..Tally::default() };
    }

    /// The keyspace of `space`, if it has any key.
    #[inline]
    pub fn space(&self, space: SpaceId) -> Option<&Keyspace> {
        if space == SpaceId::default() { Some(&self.shared) } else { self.others.get(space) }
    }

    /// The keyspace of `space`, made if need be.
    #[inline]
    pub fn space_mut(&mut self, space: SpaceId) -> &mut Keyspace {
        if space == SpaceId::default() {
            return &mut self.shared;
        }
        let Shard { others, gauges, seed, .. } = self;
        others.get_or_make(space, || Keyspace {
            gauge: (space.tenant != TenantId::SHARED).then(|| gauges.of(space.tenant)),
            ..Keyspace::new(*seed)
        })
    }

    /// The entry of a key, wherever it lies.
    pub(super) fn find(&self, space: SpaceId, hash: u64, key: &[u8]) -> Option<&Entry<Value>> {
        let found = self.space(self.segment_of(space, key)).and_then(|space| space.dict.find(hash, key));
        found.or_else(|| self.find_unsettled(space, hash, key))
    }

    /// Whether the key is there, past its expiry or not.
    pub fn holds(&self, space: SpaceId, hash: u64, key: &[u8]) -> bool {
        self.find(space, hash, key).is_some()
    }

    /// How many elements a key holds, or how many times so many bytes, whichever is more; of a string the latter.
    pub fn len_of(&self, space: SpaceId, hash: u64, key: &[u8], unit: usize) -> usize {
        self.find(space, hash, key).map_or(0, |entry| match entry.value() {
            ValueRef::Object(object) => object.len().max(object.memory_bytes() / unit.max(1)),
            ValueRef::Str(bytes) => bytes.len() / unit.max(1),
            ValueRef::Int(_) => 1,
        })
    }

    /// Whether the key is there and past its expiry.
    pub fn is_overdue(&self, space: SpaceId, hash: u64, key: &[u8], now: UnixMillis) -> bool {
        self.find(space, hash, key).and_then(Entry::expires_at).is_some_and(|at| at <= now)
    }

    /// The Redis name of a live key's type.
    pub fn type_of(&self, space: SpaceId, hash: u64, key: &[u8], now: UnixMillis) -> Option<&'static str> {
        let entry = self.find(space, hash, key)?;
        entry.expires_at().is_none_or(|at| at > now).then(|| type_name(&entry.value()))
    }

    /// Takes a whole keyspace away, leaving an empty one.
    pub(super) fn take_space(&mut self, space: SpaceId) -> Keyspace {
        let mut taken = if space == SpaceId::default() {
            std::mem::replace(&mut self.shared, Keyspace::new(self.seed))
        } else {
            self.others.remove(space).unwrap_or_else(|| Keyspace::new(self.seed))
        };
        self.accounted -= taken.unaccount();
        taken
    }

    /// Puts a whole keyspace where an empty one is.
    pub(super) fn give_space(&mut self, space: SpaceId, keys: Keyspace) {
        if keys.is_empty() && keys.walk.is_none() {
            return;
        }
        let place = self.space_mut(space);
        let gauge = place.gauge.take();
        *place = Keyspace { gauge, ..keys };
        self.account(space);
    }

    /// Every keyspace with its id.
    pub fn spaces(&self) -> impl Iterator<Item = (SpaceId, &Keyspace)> {
        std::iter::once((SpaceId::default(), &self.shared)).chain(self.others.iter())
    }

    /// Every keyspace, to be changed.
    pub(crate) fn spaces_mut(&mut self) -> impl Iterator<Item = (SpaceId, &mut Keyspace)> {
        std::iter::once((SpaceId::default(), &mut self.shared)).chain(self.others.iter_mut())
    }

    /// The keyspace of `space`, if it has any key, to be changed.
    #[inline]
    pub(crate) fn existing_mut(&mut self, space: SpaceId) -> Option<&mut Keyspace> {
        if space == SpaceId::default() { Some(&mut self.shared) } else { self.others.get_mut(space) }
    }

    /// The ids of keyspaces that have expiring keys.
    pub fn expiring_spaces(&self) -> Vec<SpaceId> {
        self.spaces().filter(|(_, space)| space.expiring_len() > 0).map(|(id, _)| id).collect()
    }

    /// Whether it holds a hash whose fields expire.
    pub fn has_expiring_fields(&self) -> bool {
        self.spaces().any(|(_, space)| space.expiring_hashes() > 0)
    }

    /// The ids of keyspaces that have hashes whose fields expire.
    pub fn spaces_of_expiring_fields(&self) -> Vec<SpaceId> {
        self.spaces().filter(|(_, space)| space.expiring_hashes() > 0).map(|(id, _)| id).collect()
    }

    /// Forgets every key, and tells nobody.
    pub fn clear(&mut self) {
        for id in self.spaces().map(|(id, _)| id).collect::<Vec<_>>() {
            self.take_space(id);
        }
    }

    /// Bytes used by everything in it.
    pub fn memory_bytes(&self) -> usize {
        self.spaces().map(|(_, space)| space.memory_bytes()).sum()
    }

    /// Bytes used by one keyspace.
    #[inline]
    pub fn space_bytes(&self, space: SpaceId) -> usize {
        self.space(space).map_or(0, Keyspace::memory_bytes)
    }

    /// Moves some keys and small values of a keyspace to fresh memory, from a position on, and tells the next, 0 at the end.
    /// What they leave is to be freed after the lock, by another thread.
    pub fn repack(&mut self, space: SpaceId, cursor: u64, left: &mut Left) -> u64 {
        let space = if space == SpaceId::default() { Some(&mut self.shared) } else { self.others.get_mut(space) };
        let Some(Keyspace { dict, objects_bytes, .. }) = space else { return 0 };
        let Left { husks, values } = left;
        dict.repack(cursor, husks, &mut |value| {
            let before = value.memory_bytes();
            if let Some(old) = value.renew() {
                *objects_bytes = (*objects_bytes + value.memory_bytes()).saturating_sub(before);
                values.push(old);
            }
        })
    }

    /// Asks the processor to fetch the bucket of a key that will be needed soon, in its segment.
    #[inline]
    pub fn prefetch_bucket(&self, space: SpaceId, hash: u64) {
        if let Some(space) = self.space(space) {
            space.dict.prefetch_bucket(hash);
        }
    }

    /// Asks the processor to fetch the entry of a key that will be needed soon; its bucket is at hand by now.
    #[inline]
    pub fn prefetch_entry(&self, space: SpaceId, hash: u64) {
        if let Some(space) = self.space(space) {
            space.dict.prefetch_entry(hash);
        }
    }

    /// The same for what the value leads to: a small object's elements; the entry is at hand by now.
    #[inline]
    pub fn prefetch_object(&self, space: SpaceId, hash: u64) {
        if let Some(space) = self.space(space) {
            space.dict.prefetch_value(hash);
        }
    }
}

/// Steps of some sixteen buckets between two questions whether a sweep goes on.
const SWEPT_STEPS: usize = 2;
