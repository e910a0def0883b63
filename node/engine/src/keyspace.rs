//! The keys of one node, cut into shards; and [`Keys`], the locked view a command is given.
//!
//! ```text
//!   node          shard 0 … n-1, each behind a mutex the node owns     chosen by the hash of the key's tag
//!   └ Shard       one Keyspace per (tenant, database): a segment       made when its first key is
//!     └ Keyspace  a Dict: key → entry (value, expiry, access clock)
//! ```
//!
//! The owner of a key is the tenant, not whoever wrote it: the shard finds the segment by what the key begins with, unless
//! whoever asks has a namespace ([`crate::tenancy`]). When tenants change, keys move: see `keyspace/segments.rs`. A handler sees only `Keys`: the shards of the keys it named,
//! already locked, for one tenant and database. Asking for any other key is a broken promise and ends the request
//! with a panic the node survives: the key that was checked is the key that is used.
//!
//! This file knows no clock: `now` is passed in once per batch. It is long because it is everything a handler may do to
//! keys, one method after the other.

use crate::dict::{self, Dict, Entry, Husk, NewValue, OldValue, OwnedEntry, ValueRef};
use crate::effects::{EffectCommand, Effects, Wait};
use crate::error::CommandError;
use crate::events::EventClass;
use crate::eviction::Usage;
use crate::scope::Reach;
use crate::snapshot::Walk;
use crate::tenancy::{Gauge, Gauges, Owners, Policies};
use crate::types::{Hash, Kind, KindMut, Limits, List, Set, SortedSet, Stream, Value, number};
use keyward_acl::KeyUse;
use std::cell::Cell;
use std::collections::BTreeSet;
use std::ops::Deref;
use std::sync::Arc;

mod others;
mod recount;
mod segments;

use others::Others;

/// Milliseconds since 1970, as Redis' `PEXPIREAT` counts.
pub type UnixMillis = i64;

/// Who owns keys.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct TenantId(pub u32);

impl TenantId {
    /// The keyspace every user without a namespace of its own works in.
    pub const SHARED: TenantId = TenantId(0);

    /// What says that the tenant is told by who asks. Part of the number, so that whoever repeats a write elsewhere knows
    /// where it belongs even if it has not heard of the tenant.
    const NAMESPACE: u32 = 1 << 31;

    /// The tenant of this number, who owns the keys that begin with its prefixes.
    pub const fn with_prefixes(number: u32) -> TenantId {
        TenantId(number)
    }

    /// The tenant of this number, whose users have a keyspace of their own.
    pub const fn with_namespace(number: u32) -> TenantId {
        TenantId(number | TenantId::NAMESPACE)
    }

    /// The number it was given.
    pub const fn number(self) -> u32 {
        self.0 & !TenantId::NAMESPACE
    }

    /// Whether its users have a keyspace of their own.
    #[inline]
    pub const fn is_namespace(self) -> bool {
        self.0 & TenantId::NAMESPACE != 0
    }

    /// Within which keyspace a name means one key: that of everybody, or a namespace.
    #[inline]
    pub const fn world(self) -> TenantId {
        if self.is_namespace() { self } else { TenantId::SHARED }
    }
}

/// One tenant's database.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct SpaceId {
    /// Whose keys.
    pub tenant: TenantId,
    /// Which of its databases.
    pub database: u32,
}

impl SpaceId {
    /// Within which a name means one key, whichever segment that lies in.
    #[inline]
    pub const fn world(self) -> SpaceId {
        SpaceId { tenant: self.tenant.world(), database: self.database }
    }
}

/// How keys are hashed and spread over shards: the same for the whole life of the process.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Secret, so that nobody can aim keys at one bucket.
    pub seed: u64,
    /// A power of two.
    pub shard_count: u32,
}

/// Where a key lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Index of its shard.
    pub shard: u32,
    /// Its hash in the shard's table.
    pub hash: u64,
}

impl Layout {
    /// Where `key` lies. Keys with the same hash tag (`{…}`, the Redis Cluster rule) lie in the same shard.
    #[inline]
    pub fn place(&self, key: &[u8]) -> Place {
        let hash = dict::hash_key(self.seed, key);
        let tag = hash_tag(key);
        let chooser = if tag.len() == key.len() { hash } else { dict::hash_key(self.seed, tag) };
        Place { shard: (chooser as u32) & (self.shard_count - 1), hash }
    }
}

/// The part of a key that chooses its slot and shard: what lies between the first `{` and the next `}` if that is
/// not empty, else the whole key (<https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#hash-tags>).
#[inline]
pub fn hash_tag(key: &[u8]) -> &[u8] {
    // Most keys are short and have none: looking at them here costs less than a call.
    if key.len() <= TAGLESS_BYTES_MAX && !has_brace(key) { key } else { find_hash_tag(key) }
}

const TAGLESS_BYTES_MAX: usize = 64;

/// Whether there is a `{`, eight bytes at a time.
#[inline]
fn has_brace(key: &[u8]) -> bool {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    const BRACES: u64 = u64::from_le_bytes([b'{'; 8]);
    // A byte of the difference is zero where a brace is: subtracting one then borrows through its highest bit.
    let holds = |word: u64| (word ^ BRACES).wrapping_sub(ONES) & !(word ^ BRACES) & (ONES << 7) != 0;
    let Some(last) = key.last_chunk::<8>() else { return key.contains(&b'{') };
    let (words, _) = key.as_chunks::<8>();
    words.iter().any(|word| holds(u64::from_le_bytes(*word))) || holds(u64::from_le_bytes(*last))
}

fn find_hash_tag(key: &[u8]) -> &[u8] {
    let Some(open) = memchr::memchr(b'{', key) else { return key };
    match memchr::memchr(b'}', &key[open + 1..]) {
        Some(length) if length > 0 => &key[open + 1..open + 1 + length],
        _ => key,
    }
}

/// One tenant's database within one shard. In this order: what every request looks at lies together.
#[repr(C)]
pub struct Keyspace {
    pub(crate) dict: Dict<Value>,
    objects_bytes: usize,
    field_expiries: FieldExpiries,
    /// What it used when that was told last.
    accounted: usize,
    /// Whom it is told besides the shard: the tenant's sum.
    gauge: Option<Arc<Gauge>>,
    pub(crate) walk: Option<Box<Walk>>,
    sweep_cursor: u64,
    pub(crate) sample_cursor: u64,
}

/// The keys whose hashes have fields that expire, each under the earliest of its expiries, so that the sweep finds them
/// without looking at every hash there is.
#[derive(Default)]
struct FieldExpiries(BTreeSet<(UnixMillis, Box<[u8]>)>);

impl FieldExpiries {
    #[inline]
    fn moved(&mut self, key: &[u8], before: Option<UnixMillis>, after: Option<UnixMillis>) {
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

    fn memory_bytes(&self) -> usize {
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
    fn new(seed: u64) -> Keyspace {
        Keyspace {
            dict: Dict::new(seed),
            objects_bytes: 0,
            sweep_cursor: 0,
            sample_cursor: 0,
            walk: None,
            field_expiries: FieldExpiries::default(),
            accounted: 0,
            gauge: None,
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
    fn forget_object(&mut self, key: &[u8], object: &Value) {
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

/// How far a SCAN came in one shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ScanPosition {
    /// The segment it stands in.
    pub segment: TenantId,
    /// The position in its table.
    pub position: u64,
}

/// A share of the node's keys, under one lock. In this order: what every request looks at lies on few cache lines, which
/// threads take from each other.
#[repr(C)]
pub struct Shard {
    shared: Keyspace,
    others: Others,
    /// Who owns which keys; `None` while nobody does.
    owners: Option<Arc<Owners>>,
    /// Whose keys go by a policy of their own; `None` while nobody's do.
    policies: Option<Arc<Policies>>,
    /// Keys may lie where an earlier table had them.
    unsettled: Option<Box<segments::Unsettled>>,
    /// What all keyspaces used when that was told last.
    accounted: usize,
    tally: Tally,
    seed: u64,
    gauges: Arc<Gauges>,
    /// Keyspaces that were flushed before a snapshot had seen all of them.
    pub(crate) detached: Vec<Keyspace>,
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
    fn find(&self, space: SpaceId, hash: u64, key: &[u8]) -> Option<&Entry<Value>> {
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
    fn take_space(&mut self, space: SpaceId) -> Keyspace {
        let mut taken = if space == SpaceId::default() {
            std::mem::replace(&mut self.shared, Keyspace::new(self.seed))
        } else {
            self.others.remove(space).unwrap_or_else(|| Keyspace::new(self.seed))
        };
        self.accounted -= taken.unaccount();
        taken
    }

    /// Puts a whole keyspace where an empty one is.
    fn give_space(&mut self, space: SpaceId, keys: Keyspace) {
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

/// The shards a call may touch.
enum Locked<'a> {
    One(u32, &'a mut Shard),
    /// Ascending by index.
    Many(Vec<(u32, &'a mut Shard)>),
}

impl Locked<'_> {
    const UNNAMED: &'static str = "a command touches only the keys it names";

    #[inline]
    fn get(&self, index: u32) -> &Shard {
        match self {
            Locked::One(only, shard) => {
                assert!(*only == index, "{}", Self::UNNAMED);
                shard
            }
            Locked::Many(shards) => {
                let found = shards.binary_search_by_key(&index, |(index, _)| *index).expect(Self::UNNAMED);
                shards[found].1
            }
        }
    }

    #[inline]
    fn get_mut(&mut self, index: u32) -> &mut Shard {
        match self {
            Locked::One(only, shard) => {
                assert!(*only == index, "{}", Self::UNNAMED);
                shard
            }
            Locked::Many(shards) => {
                let found = shards.binary_search_by_key(&index, |(index, _)| *index).expect(Self::UNNAMED);
                shards[found].1
            }
        }
    }
}

/// What the node lends to every call, besides the locked shards.
#[derive(Clone, Copy)]
pub struct CallContext<'a> {
    /// How keys are placed.
    pub layout: Layout,
    /// Whose keys, which database.
    pub space: SpaceId,
    /// The wall clock, read once per batch.
    pub now: UnixMillis,
    /// When values change their encoding.
    pub limits: &'a Limits,
    /// The longest string value, in bytes.
    pub value_bytes_max: u64,
    /// How much memory a value may take that comes packed (`RESTORE`).
    pub room_bytes: u64,
    /// How many databases there are.
    pub databases: u32,
    /// Fresh randomness for this call.
    pub random: u64,
    /// Reads leave the access clock alone (`CLIENT NO-TOUCH`).
    pub no_touch: bool,
    /// How the use of keys is remembered.
    pub usage: Usage,
    /// Keys past their expiry look missing and stay: on a copy only the primary removes them, and while clients are paused
    /// nobody does. For calls that only read.
    pub keeps_expired: bool,
}

/// The locked, filtered view of the data a command is given.
pub struct Keys<'a> {
    shards: Locked<'a>,
    context: CallContext<'a>,
    random: u64,
    /// What the command did; see [`Effects`].
    pub effects: &'a mut Effects,
    /// Big values that were replaced or removed; the node drops them after the locks.
    pub garbage: Vec<Garbage>,
    /// The key the node already placed, which is usually the only one.
    known: Option<(&'a [u8], Place, TenantId)>,
    /// The same for a request with several; each is asked for in turn.
    known_many: KnownPlaces<'a>,
    /// The last update left nothing of its key.
    emptied: bool,
    /// Which of the keys that nobody named exist for whoever asks.
    reach: &'a Reach,
}

/// Where the keys of a request lie, in their order.
#[derive(Default)]
struct KnownPlaces<'a> {
    keys: &'a [KeyUse<'a>],
    places: &'a [(Place, TenantId)],
    /// The key last asked for.
    at: Cell<usize>,
}

impl KnownPlaces<'_> {
    /// The place of a key, and whose it is, if it is the one last asked for or the next.
    #[inline]
    fn find(&self, key: &[u8]) -> Option<(Place, TenantId)> {
        let at = self.at.get();
        let found =
            (at..=at + 1).find(|index| self.keys.get(*index).is_some_and(|named| std::ptr::eq(named.key, key)))?;
        self.at.set(found);
        self.places.get(found).copied()
    }
}

/// Something big on its way out; dropping it takes time.
pub enum Garbage {
    /// A removed entry.
    Entry(OwnedEntry<Value>),
    /// What an overwritten entry held.
    Value(OldValue<Value>),
    /// A whole keyspace.
    Keyspace(Box<Keyspace>),
    /// Memory that keys and values have left for other memory.
    Left(Left),
}

/// What keys and small values have left behind on their way to fresh memory.
#[derive(Default)]
pub struct Left {
    husks: Vec<Husk>,
    values: Vec<Value>,
}

impl Garbage {
    /// How many pieces of memory it is, about.
    pub fn element_count(&self) -> usize {
        let value = |value: &ValueRef<'_, Value>| if let ValueRef::Object(object) = value { object.len() } else { 1 };
        match self {
            Garbage::Entry(entry) => value(&entry.value()),
            Garbage::Value(OldValue::Object(object)) => object.len(),
            Garbage::Value(_) => 1,
            Garbage::Keyspace(keys) => keys.len(),
            Garbage::Left(left) => left.husks.len(),
        }
    }

    /// Bytes of it that are one piece of memory; of what consists of many, none.
    pub fn buffer_bytes(&self) -> usize {
        match self {
            Garbage::Entry(entry) => {
                if let ValueRef::Str(bytes) = entry.value() {
                    bytes.len()
                } else {
                    0
                }
            }
            Garbage::Value(OldValue::Bytes(bytes)) => bytes.capacity(),
            Garbage::Value(_) | Garbage::Keyspace(_) | Garbage::Left(_) => 0,
        }
    }

    /// How many objects it is to a user: a value is one, a keyspace as many as it has keys.
    pub fn object_count(&self) -> usize {
        match self {
            Garbage::Keyspace(keys) => keys.len(),
            Garbage::Left(_) => 0,
            Garbage::Entry(_) | Garbage::Value(_) => 1,
        }
    }
}

/// What a write does to the expiry of the key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expiry {
    /// Leaves it.
    Keep,
    /// Removes it.
    Never,
    /// Sets it.
    At(UnixMillis),
}

/// Whether an update may make the key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Missing {
    /// A missing key is made, empty.
    Create,
    /// A missing key is left missing and the update does not run.
    Skip,
}

/// A string value: bytes in place, or an integer spelled on the stack.
pub enum StringRef<'a> {
    /// As stored.
    Bytes(&'a [u8]),
    /// Stored as an integer: its digits, and how many bytes of them count.
    Integer([u8; 20], u8),
}

impl<'a> StringRef<'a> {
    /// The value as a string, if it is one.
    #[inline]
    fn of(value: ValueRef<'a, Value>) -> Result<StringRef<'a>, CommandError> {
        match value {
            ValueRef::Str(bytes) => Ok(StringRef::Bytes(bytes)),
            ValueRef::Int(value) => Ok(StringRef::from_integer(value)),
            ValueRef::Object(_) => Err(CommandError::WrongType),
        }
    }

    fn from_integer(value: i64) -> Self {
        let mut buffer = itoa::Buffer::new();
        let text = buffer.format(value).as_bytes();
        let mut digits = [0; 20];
        digits[..text.len()].copy_from_slice(text);
        StringRef::Integer(digits, text.len() as u8)
    }
}

impl Deref for StringRef<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match self {
            StringRef::Bytes(bytes) => bytes,
            StringRef::Integer(digits, len) => &digits[..usize::from(*len)],
        }
    }
}

/// A type of value that an entry holds as an object.
pub trait Typed: Sized {
    /// The value as this type, if it is.
    fn of(value: &Value) -> Option<&Self>;
    /// The value as this type, if it is.
    fn of_mut(value: &mut Value) -> Option<&mut Self>;
    /// An empty one.
    fn empty(limits: &Limits) -> Value;
    /// Whether nothing is left, so that the key goes.
    fn is_gone(&self) -> bool;
    /// About what it holds on the heap.
    fn heap_bytes(&self) -> usize;
    /// The earliest expiry of anything in it.
    fn next_part_expiry(&self) -> Option<UnixMillis>;
}

macro_rules! typed {
    ($($variant:ident, $next_expiry:expr;)*) => {$(
        impl Typed for $variant {
            #[inline]
            fn of(value: &Value) -> Option<&Self> {
                if let Kind::$variant(inner) = value.kind() { Some(inner) } else { None }
            }
            #[inline]
            fn of_mut(value: &mut Value) -> Option<&mut Self> {
                if let KindMut::$variant(inner) = value.kind_mut() { Some(inner) } else { None }
            }
            fn empty(_limits: &Limits) -> Value {
                $variant::new().into()
            }
            #[inline]
            fn is_gone(&self) -> bool {
                self.is_empty()
            }
            #[inline]
            fn heap_bytes(&self) -> usize {
                self.memory_bytes()
            }
            #[inline]
            fn next_part_expiry(&self) -> Option<UnixMillis> {
                $next_expiry(self)
            }
        }
    )*};
}
typed! {
    List, |_| None;
    Hash, Hash::next_expiry;
    Set, |_| None;
    SortedSet, |_| None;
}

impl Typed for Stream {
    #[inline]
    fn of(value: &Value) -> Option<&Self> {
        if let Kind::Stream(stream) = value.kind() { Some(stream) } else { None }
    }
    #[inline]
    fn of_mut(value: &mut Value) -> Option<&mut Self> {
        if let KindMut::Stream(stream) = value.kind_mut() { Some(stream) } else { None }
    }
    fn empty(_limits: &Limits) -> Value {
        Stream::new().into()
    }
    /// Its past and its groups are left even when no entry is.
    #[inline]
    fn is_gone(&self) -> bool {
        false
    }
    #[inline]
    fn heap_bytes(&self) -> usize {
        self.memory_bytes()
    }
    #[inline]
    fn next_part_expiry(&self) -> Option<UnixMillis> {
        None
    }
}

/// A value lifted out of the keyspace, for RENAME, COPY, GETDEL and the like.
pub struct Taken {
    /// The value.
    pub value: NewValue<'static, Value>,
    /// Its expiry.
    pub expires_at: Option<UnixMillis>,
}

impl<'a> Keys<'a> {
    /// A view of one locked shard. Always inlined: it is large, and made once for each request where it stays.
    #[inline(always)]
    pub fn one(index: u32, shard: &'a mut Shard, context: CallContext<'a>, effects: &'a mut Effects) -> Keys<'a> {
        let shards = Locked::One(index, shard);
        Keys {
            shards,
            random: context.random,
            context,
            effects,
            garbage: Vec::new(),
            known: None,
            known_many: KnownPlaces::default(),
            emptied: false,
            reach: &Reach::Nothing,
        }
    }

    /// The request's one key was placed before, in this segment.
    #[inline]
    pub fn set_place(&mut self, key: &'a [u8], place: Place, segment: SpaceId) {
        let shard = self.shards.get(place.shard);
        if let Some(usage) = shard.own_usage_of(segment.tenant, self.context.usage) {
            self.context.usage = usage;
        }
        self.known = Some((key, place, segment.tenant));
    }

    /// The same, for a request whose keys were placed before, each with whose it is.
    pub fn all_placed(mut self, keys: &'a [KeyUse<'a>], places: &'a [(Place, TenantId)]) -> Keys<'a> {
        self.known_many = KnownPlaces { keys, places, at: Cell::new(0) };
        // Several owners' keys in one request are all used the way of the first one's.
        if let [(first, owner), ..] = places {
            self.context.usage = self.shards.get(first.shard).usage_of(*owner, self.context.usage);
        }
        self
    }

    /// A view of several locked shards, ascending by index.
    pub fn many(shards: Vec<(u32, &'a mut Shard)>, context: CallContext<'a>, effects: &'a mut Effects) -> Keys<'a> {
        let shards = Locked::Many(shards);
        Keys {
            shards,
            random: context.random,
            context,
            effects,
            garbage: Vec::new(),
            known: None,
            known_many: KnownPlaces::default(),
            emptied: false,
            reach: &Reach::Nothing,
        }
    }

    /// The same, where keys that nobody named may be found, too: those within `reach`.
    pub fn within(self, reach: &'a Reach) -> Keys<'a> {
        Keys { reach, ..self }
    }

    /// The wall clock.
    #[inline]
    pub fn now(&self) -> UnixMillis {
        self.context.now
    }

    /// How the use of keys is remembered.
    pub fn usage(&self) -> Usage {
        self.context.usage
    }

    /// When values change their encoding.
    pub fn limits(&self) -> &'a Limits {
        self.context.limits
    }

    /// The longest string value, in bytes.
    pub fn value_bytes_max(&self) -> u64 {
        self.context.value_bytes_max
    }

    /// How much memory a value may take that comes packed.
    pub fn room_bytes(&self) -> u64 {
        self.context.room_bytes
    }

    /// How many databases there are.
    pub fn databases(&self) -> u32 {
        self.context.databases
    }

    /// The database of this call.
    pub fn database(&self) -> u32 {
        self.context.space.database
    }

    /// A fresh pseudo-random number.
    pub fn random(&mut self) -> u64 {
        next_random(&mut self.random)
    }

    /// A source of pseudo-random numbers that does not borrow the keys.
    pub fn dice(&mut self) -> impl FnMut() -> u64 + use<> {
        let mut seed = self.random();
        move || next_random(&mut seed)
    }

    /// Nothing to answer yet: the request is run again when one of its keys was written. The handler has written no reply.
    pub fn wait(&mut self, wait: Wait) -> Result<(), CommandError> {
        self.effects.wait(wait);
        Ok(())
    }

    /// Something happened that `notify-keyspace-events` may want told. Costs one test when nobody does.
    #[inline]
    pub fn event(&mut self, class: EventClass, name: &'static str, key: &[u8]) {
        self.effects.event(class, name, self.context.space.database, key);
    }

    /// The same, after an update that took something away: if that left nothing, the key is told to be gone too.
    #[inline]
    pub fn event_of_removal(&mut self, class: EventClass, name: &'static str, key: &[u8]) {
        self.event(class, name, key);
        self.event_if_emptied(key);
    }

    /// Whether the last update left nothing of its key.
    pub fn emptied(&self) -> bool {
        self.emptied
    }

    /// If the last update left nothing of the key, it is told to be gone.
    pub fn event_if_emptied(&mut self, key: &[u8]) {
        if self.emptied {
            self.event(EventClass::GENERIC, "del", key);
        }
    }

    /// Fields of a hash were found expired and removed by the last update, before the request did anything.
    pub fn expired_fields<'f>(&mut self, key: &'f [u8], fields: impl IntoIterator<Item = &'f [u8]>) {
        self.effects.expired_fields(key, fields);
        self.event(EventClass::HASH, "hexpired", key);
    }

    /// The key was written, made or removed. Every method that writes says so by itself, except [`Keys::amend`].
    #[inline]
    pub fn touched(&mut self, key: &[u8]) {
        self.effects.touched(self.context.space.database, key);
    }

    /// The key was made.
    #[inline]
    fn made(&mut self, key: &[u8]) {
        self.event(EventClass::NEW, "new", key);
    }

    /// The key was found expired and removed.
    fn found_expired(&mut self, key: &[u8]) {
        self.effects.expired(self.context.space.database, key);
    }

    /// The same view on another of the tenant's databases (MOVE, COPY … DB). Effects belong to the database of the call,
    /// so nothing in there may remove expired keys: look with `exists` and `peek`, write with `put` and `put_taken`.
    pub fn in_database<R>(&mut self, database: u32, call: impl FnOnce(&mut Keys<'_>) -> R) -> R {
        let home = self.context.space.database;
        if database != home {
            self.effects.strayed();
        }
        self.context.space.database = database;
        let result = call(self);
        self.context.space.database = home;
        result
    }

    /// Where the key lies, and in which segment. The request's own key was placed by the node; it is recognized by its
    /// address, which nothing else can have while the request is borrowed.
    #[inline(always)]
    fn locate(&self, key: &[u8]) -> (Place, SpaceId) {
        match self.known {
            Some((known, place, tenant)) if std::ptr::eq(known, key) => {
                (place, SpaceId { tenant, database: self.context.space.database })
            }
            _ => self.locate_another(key),
        }
    }

    /// The same for one of several keys, or one the node did not place.
    fn locate_another(&self, key: &[u8]) -> (Place, SpaceId) {
        match self.known_many.find(key) {
            Some((place, tenant)) => (place, SpaceId { tenant, database: self.context.space.database }),
            None => {
                let place = self.context.layout.place(key);
                (place, self.shards.get(place.shard).segment_of(self.context.space, key))
            }
        }
    }

    // ---- looking: a key past its expiry looks missing; nothing is counted, nothing looks used ----
    //
    // A write that depends on what it peeked settles those keys first: its request is repeated elsewhere, where an expired
    // key is still there until told otherwise.

    /// The key's entry, for OBJECT, TYPE, DUMP, and for commands that read several keys at once.
    #[inline]
    pub fn peek(&self, key: &[u8]) -> Option<&Entry<Value>> {
        let (place, segment) = self.locate(key);
        let entry = self.shards.get(place.shard).space(segment)?.dict.find(place.hash, key)?;
        entry.expires_at().is_none_or(|at| at > self.context.now).then_some(entry)
    }

    /// The key's entry, past its expiry or not: for DEBUG.
    pub fn find(&self, key: &[u8]) -> Option<&Entry<Value>> {
        let (place, segment) = self.locate(key);
        self.shards.get(place.shard).space(segment)?.dict.find(place.hash, key)
    }

    /// The key as a list, hash, set or sorted set, for commands that read several keys at once.
    pub fn peek_as<T: Typed>(&self, key: &[u8]) -> Result<Option<&T>, CommandError> {
        match self.peek(key).map(Entry::value) {
            None => Ok(None),
            Some(ValueRef::Object(value)) => T::of(value).map(Some).ok_or(CommandError::WrongType),
            Some(_) => Err(CommandError::WrongType),
        }
    }

    /// The key as a string, for commands that read several keys at once.
    pub fn peek_string(&self, key: &[u8]) -> Result<Option<StringRef<'_>>, CommandError> {
        self.peek(key).map(|entry| StringRef::of(entry.value())).transpose()
    }

    /// Whether the key is there.
    pub fn exists(&self, key: &[u8]) -> bool {
        self.peek(key).is_some()
    }

    /// The Redis name of the key's type.
    pub fn type_name(&self, key: &[u8]) -> Option<&'static str> {
        self.peek(key).map(|entry| type_name(&entry.value()))
    }

    /// `None`: no such key. `Some(None)`: it never expires.
    pub fn expires_at(&self, key: &[u8]) -> Option<Option<UnixMillis>> {
        self.peek(key).map(Entry::expires_at)
    }

    // ---- reading: counted as a hit or a miss, looks used; a key past its expiry is removed ----

    /// The key's entry.
    #[inline]
    pub fn entry(&mut self, key: &[u8]) -> Option<&Entry<Value>> {
        let (place, segment) = self.locate(key);
        let now = self.context.now;
        // Reading makes no segment.
        let found = self.shards.get_mut(place.shard).existing_mut(segment).and_then(|space| {
            let Keyspace { dict, objects_bytes, field_expiries, .. } = space;
            Some((dict.find_mut(place.hash, key)?, objects_bytes, field_expiries))
        });
        let Some((mut entry, objects_bytes, field_expiries)) = found else {
            self.effects.looked_up(false);
            self.effects.event(EventClass::KEY_MISS, "keymiss", self.context.space.database, key);
            return None;
        };
        if entry.expires_at().is_some_and(|at| at <= now) {
            if self.context.keeps_expired {
                self.effects.looked_up(false);
                self.effects.event(EventClass::KEY_MISS, "keymiss", self.context.space.database, key);
                return None;
            }
            let removed = entry.remove();
            if let ValueRef::Object(object) = removed.value() {
                *objects_bytes = objects_bytes.saturating_sub(object.memory_bytes());
                field_expiries.moved(key, object.next_field_expiry(), None);
            }
            discard_later(&mut self.garbage, removed);
            self.effects.looked_up(false);
            let database = self.context.space.database;
            self.effects.expired(database, key);
            self.effects.event(EventClass::KEY_MISS, "keymiss", database, key);
            return None;
        }
        self.effects.looked_up(true);
        if !self.context.no_touch {
            let access = self.context.usage.used(entry.access(), now, || next_random(&mut self.random));
            if access != entry.access() {
                entry.set_access(access);
            }
        }
        Some(entry.into_ref())
    }

    /// Makes the key look used (TOUCH); whether it is there.
    pub fn touch(&mut self, key: &[u8]) -> bool {
        self.entry(key).is_some()
    }

    /// The key's value.
    #[inline]
    pub fn value(&mut self, key: &[u8]) -> Option<ValueRef<'_, Value>> {
        self.entry(key).map(Entry::value)
    }

    /// The key as a string.
    #[inline]
    pub fn string(&mut self, key: &[u8]) -> Result<Option<StringRef<'_>>, CommandError> {
        self.value(key).map(StringRef::of).transpose()
    }

    /// The key as a list, hash, set or sorted set.
    #[inline]
    pub fn get<T: Typed>(&mut self, key: &[u8]) -> Result<Option<&T>, CommandError> {
        match self.value(key) {
            None => Ok(None),
            Some(ValueRef::Object(value)) => T::of(value).map(Some).ok_or(CommandError::WrongType),
            Some(_) => Err(CommandError::WrongType),
        }
    }

    // ---- writing: a key past its expiry is removed first ----

    #[inline]
    fn place_of(&mut self, key: &[u8]) -> (u64, &mut Keyspace) {
        let (place, segment) = self.locate(key);
        let space = self.shards.get_mut(place.shard).space_mut(segment);
        // Whoever asks for the place may change what lies there: a snapshot that has not seen it keeps it first.
        space.preserve(place.hash, key);
        (place.hash, space)
    }

    /// What the access bits of a key become that is written now: made if it was not there, used if it was.
    #[inline]
    fn marks(&mut self) -> Marks {
        let Keys { context: CallContext { usage, now, .. }, random, .. } = self;
        Marks { usage: *usage, now: *now, random: if usage.counted { next_random(random) } else { 0 } }
    }

    /// Removes the key if it is past its expiry; the removal becomes an effect of its own.
    pub fn settle(&mut self, key: &[u8]) {
        if self.context.keeps_expired {
            return;
        }
        let now = self.context.now;
        let (hash, space) = self.place_of(key);
        let due = space.dict.find(hash, key).and_then(Entry::expires_at).is_some_and(|at| at <= now);
        if due {
            self.discard(key);
            self.found_expired(key);
        }
    }

    fn discard(&mut self, key: &[u8]) -> bool {
        let (hash, space) = self.place_of(key);
        let Some(entry) = space.dict.remove(hash, key) else { return false };
        space.forget(&entry);
        discard_later(&mut self.garbage, entry);
        true
    }

    fn bin(&mut self, old: OldValue<Value>) {
        let big = match &old {
            OldValue::Small => false,
            OldValue::Bytes(bytes) => bytes.capacity() > GARBAGE_BYTES_MIN,
            OldValue::Object(object) => object.memory_bytes() > GARBAGE_BYTES_MIN,
        };
        if big {
            self.garbage.push(Garbage::Value(old));
        }
    }

    /// Makes the key this string, whatever it was. Does not count as a change; the handler does that.
    #[inline]
    pub fn put_string(&mut self, key: &[u8], value: &[u8], expiry: Expiry) {
        let expiry = match expiry {
            Expiry::Keep => {
                // What is kept must not be the expiry of a key that is already gone.
                self.settle(key);
                dict::Expiry::Keep
            }
            Expiry::Never => dict::Expiry::Set(None),
            Expiry::At(at) => dict::Expiry::Set(Some(at)),
        };
        let marks = self.marks();
        let (hash, space) = self.place_of(key);
        let mut made = false;
        let old = match compact_integer(value) {
            None => {
                let mut upserted = space.dict.upsert_string(hash, key, value, expiry);
                let before = upserted.existed.then(|| upserted.entry.access());
                upserted.entry.set_access(marks.after(before));
                made = !upserted.existed;
                upserted.old_value
            }
            Some(number) => match space.dict.place_of(hash, key) {
                dict::Place::Occupied(mut entry) => {
                    if let dict::Expiry::Set(expires_at) = expiry {
                        entry.set_expiry(expires_at);
                    }
                    let before = entry.access();
                    entry.set_access(marks.after(Some(before)));
                    entry.set_int(number)
                }
                dict::Place::Vacant(vacant) => {
                    let expires_at = if let dict::Expiry::Set(expires_at) = expiry { expires_at } else { None };
                    vacant.insert(NewValue::Int(number), expires_at).set_access(marks.after(None));
                    made = true;
                    OldValue::Small
                }
            },
        };
        if let OldValue::Object(object) = &old {
            space.forget_object(key, object);
        }
        self.bin(old);
        self.touched(key);
        if made {
            self.made(key);
        }
    }

    /// Reads the string as an integer, a missing key as 0, and makes it what `change` answers. The expiry stays (INCR).
    #[inline]
    pub fn edit_integer(
        &mut self,
        key: &[u8],
        change: impl FnOnce(i64) -> Result<i64, CommandError>,
    ) -> Result<i64, CommandError> {
        let now = self.context.now;
        let marks = self.marks();
        let (hash, space) = self.place_of(key);
        match space.dict.place_of(hash, key) {
            dict::Place::Occupied(mut entry) if entry.expires_at().is_none_or(|at| at > now) => {
                let before = match entry.value() {
                    ValueRef::Int(value) => value,
                    ValueRef::Str(bytes) => number::parse_i64(bytes).ok_or(CommandError::NotInteger)?,
                    ValueRef::Object(_) => return Err(CommandError::WrongType),
                };
                let after = change(before)?;
                let access = marks.after(Some(entry.access()));
                entry.set_access(access);
                entry.set_int(after);
                self.touched(key);
                return Ok(after);
            }
            dict::Place::Vacant(vacant) => {
                let after = change(0)?;
                vacant.insert(NewValue::Int(after), None).set_access(marks.after(None));
                self.touched(key);
                self.made(key);
                return Ok(after);
            }
            dict::Place::Occupied(_) => {}
        }
        self.settle(key);
        self.edit_integer(key, change)
    }

    /// Makes the key this object, whatever it was, with this expiry.
    pub fn put(&mut self, key: &[u8], value: Value, expires_at: Option<UnixMillis>) {
        self.put_taken(key, Taken { value: NewValue::Object(value), expires_at });
    }

    /// Makes the key what was taken or copied.
    pub fn put_taken(&mut self, key: &[u8], taken: Taken) {
        if !self.discard(key) {
            self.made(key);
        }
        self.touched(key);
        let fresh = self.context.usage.fresh(self.context.now);
        let (hash, space) = self.place_of(key);
        if let NewValue::Object(object) = &taken.value {
            space.objects_bytes += object.memory_bytes();
            space.field_expiries.moved(key, None, object.next_field_expiry());
        }
        space.dict.insert(hash, key, taken.value, taken.expires_at).set_access(fresh);
    }

    /// Lifts the key's value out.
    pub fn take(&mut self, key: &[u8]) -> Option<Taken> {
        self.settle(key);
        let (hash, space) = self.place_of(key);
        let entry = space.dict.remove(hash, key)?;
        space.forget(&entry);
        self.touched(key);
        Some(Taken { expires_at: entry.expires_at(), value: entry.into_value() })
    }

    /// A copy of the key's value.
    pub fn copy(&self, key: &[u8]) -> Option<Taken> {
        let entry = self.peek(key)?;
        let value = match entry.value() {
            ValueRef::Int(value) => NewValue::Int(value),
            ValueRef::Str(bytes) => NewValue::Bytes(bytes.to_vec()),
            ValueRef::Object(value) => NewValue::Object(value.clone()),
        };
        Some(Taken { value, expires_at: entry.expires_at() })
    }

    /// Appends to the string, making it if need be; its new length.
    pub fn append_string(&mut self, key: &[u8], suffix: &[u8]) -> Result<usize, CommandError> {
        let now = self.context.now;
        let limit = self.context.value_bytes_max;
        let marks = self.marks();
        let (hash, space) = self.place_of(key);
        match space.dict.place_of(hash, key) {
            dict::Place::Occupied(mut entry) if entry.expires_at().is_none_or(|at| at > now) => {
                let len = StringRef::of(entry.value())?.len();
                if (len + suffix.len()) as u64 > limit {
                    return Err(CommandError::StringTooLong);
                }
                let access = marks.after(Some(entry.access()));
                entry.set_access(access);
                let len = entry.append(suffix).ok_or(CommandError::WrongType);
                self.touched(key);
                return len;
            }
            dict::Place::Vacant(vacant) => {
                vacant.insert(NewValue::Str(suffix), None).set_access(marks.after(None));
                self.touched(key);
                self.made(key);
                return Ok(suffix.len());
            }
            dict::Place::Occupied(_) => {}
        }
        self.settle(key);
        self.append_string(key, suffix)
    }

    /// Makes the string at least `len` bytes long, padding with zero bytes, and lets `change` write into it
    /// (SETRANGE, SETBIT). A missing key begins empty; the expiry stays. The caller has checked the length limit.
    pub fn edit_string<R>(
        &mut self,
        key: &[u8],
        len: usize,
        change: impl FnOnce(&mut [u8]) -> R,
    ) -> Result<R, CommandError> {
        self.settle(key);
        if !self.exists(key) {
            self.made(key);
        }
        self.touched(key);
        let marks = self.marks();
        let (hash, space) = self.place_of(key);
        let (mut entry, before) = match space.dict.place_of(hash, key) {
            dict::Place::Occupied(entry) => {
                let before = entry.access();
                (entry, Some(before))
            }
            dict::Place::Vacant(vacant) => (vacant.insert(NewValue::Str(b""), None), None),
        };
        entry.set_access(marks.after(before));
        let length_now = match entry.value() {
            ValueRef::Object(_) => return Err(CommandError::WrongType),
            ValueRef::Str(bytes) => bytes.len(),
            ValueRef::Int(value) => itoa::Buffer::new().format(value).len(),
        };
        // Resizing also turns a stored integer into bytes.
        entry.resize(len.max(length_now));
        match entry.value_mut() {
            dict::ValueMut::Str(bytes) => Ok(change(bytes)),
            _ => Err(CommandError::WrongType),
        }
    }

    /// Changes an object in place. The key goes when nothing is left of it.
    /// `Ok(None)`: the key is missing and `missing` says to leave it so.
    #[inline]
    pub fn update<T: Typed, R>(
        &mut self,
        key: &[u8],
        missing: Missing,
        change: impl FnOnce(&mut T) -> R,
    ) -> Result<Option<R>, CommandError> {
        let result = self.amend(key, missing, change)?;
        if result.is_some() {
            self.touched(key);
        }
        Ok(result)
    }

    /// The same, for changes nobody waits for or watches (who reads for a group), or that may turn out to be none: the
    /// handler says [`Keys::touched`] if they were.
    #[inline]
    pub fn amend<T: Typed, R>(
        &mut self,
        key: &[u8],
        missing: Missing,
        change: impl FnOnce(&mut T) -> R,
    ) -> Result<Option<R>, CommandError> {
        let (now, limits, (place, segment)) = (self.context.now, self.context.limits, self.locate(key));
        let marks = self.marks();
        let space = self.shards.get_mut(place.shard).space_mut(segment);
        space.preserve(place.hash, key);
        let Keyspace { dict, objects_bytes, field_expiries, .. } = space;
        let mut made = false;
        let mut entry = match dict.place_of(place.hash, key) {
            dict::Place::Occupied(entry) if entry.expires_at().is_some_and(|at| at <= now) => {
                self.settle(key);
                return self.amend(key, missing, change);
            }
            dict::Place::Occupied(entry) => entry,
            dict::Place::Vacant(_) if missing == Missing::Skip => return Ok(None),
            dict::Place::Vacant(vacant) => {
                let value = T::empty(limits);
                *objects_bytes += value.memory_bytes();
                made = true;
                vacant.insert(NewValue::Object(value), None)
            }
        };
        let before = (!made).then(|| entry.access());
        entry.set_access(marks.after(before));
        let typed = entry.object_mut().and_then(T::of_mut).ok_or(CommandError::WrongType)?;
        let (bytes_before, expiry_before) = (typed.heap_bytes(), typed.next_part_expiry());
        let result = change(typed);
        self.emptied = typed.is_gone();
        if self.emptied {
            *objects_bytes = objects_bytes.saturating_sub(bytes_before);
            field_expiries.moved(key, expiry_before, None);
            discard_later(&mut self.garbage, entry.remove());
        } else {
            *objects_bytes = (*objects_bytes + typed.heap_bytes()).saturating_sub(bytes_before);
            field_expiries.moved(key, expiry_before, typed.next_part_expiry());
        }
        if made && !self.emptied {
            self.made(key);
        }
        Ok(Some(result))
    }

    /// Makes the key look used so often or so long ago (RESTORE).
    pub fn set_access(&mut self, key: &[u8], access: u32) {
        let (hash, space) = self.place_of(key);
        if let Some(mut entry) = space.dict.find_mut(hash, key) {
            entry.set_access(access);
        }
    }

    /// Removes the key; whether it was there.
    pub fn remove(&mut self, key: &[u8]) -> bool {
        let now = self.context.now;
        let (hash, space) = self.place_of(key);
        let Some(entry) = space.dict.remove(hash, key) else { return false };
        space.forget(&entry);
        let expired = entry.expires_at().is_some_and(|at| at <= now);
        discard_later(&mut self.garbage, entry);
        if expired {
            self.found_expired(key);
        } else {
            self.touched(key);
        }
        !expired
    }

    /// Sets or clears the expiry; whether the key is there.
    pub fn set_expiry(&mut self, key: &[u8], expires_at: Option<UnixMillis>) -> bool {
        self.settle(key);
        let (hash, space) = self.place_of(key);
        match space.dict.find_mut(hash, key) {
            Some(mut entry) => {
                entry.set_expiry(expires_at);
                self.touched(key);
                true
            }
            None => false,
        }
    }

    // ---- the whole space, as far as it is locked; what lies beyond the caller's reach does not exist ----

    fn each_locked(&self) -> impl Iterator<Item = &Shard> {
        let (one, many) = match &self.shards {
            Locked::One(_, shard) => (Some(&**shard), None),
            Locked::Many(shards) => (None, Some(shards.iter().map(|(_, shard)| &**shard))),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }

    /// What is whoever asks's: a tenant's own segment, or all that share its names.
    fn own_spaces(&self) -> impl Iterator<Item = &Keyspace> {
        let space = self.context.space;
        self.each_locked().flat_map(move |shard| shard.view(space).map(|(_, keys)| keys))
    }

    /// What whoever asks sees: the same, and the segments in which keys lie that its tenant borrows.
    fn locked_spaces(&self) -> impl Iterator<Item = &Keyspace> {
        let (space, lenders) = (self.context.space, self.lenders());
        let lent = self.each_locked().flat_map(move |shard| {
            let of = lenders.iter().filter_map(|tenant| shard.space(SpaceId { tenant: *tenant, ..space }));
            of.collect::<Vec<&Keyspace>>()
        });
        self.own_spaces().chain(lent)
    }

    /// The tenants of which whoever asks borrows keys.
    fn lenders(&self) -> Vec<TenantId> {
        let Some(shard) = self.each_locked().next().filter(|_| self.borrows()) else { return Vec::new() };
        let owners = self.reach.borrowed().iter().map(|pattern| shard.segment_of(SpaceId::default(), pattern).tenant);
        let others: BTreeSet<TenantId> =
            owners.filter(|of| *of != TenantId::SHARED && *of != self.context.space.tenant).collect();
        others.into_iter().collect()
    }

    #[inline]
    fn borrows(&self) -> bool {
        !self.reach.borrowed().is_empty()
    }

    /// Whether keys must be looked at one by one.
    #[inline]
    fn is_filtered(&self) -> bool {
        self.reach.filters_keys() || self.borrows()
    }

    /// The first segment from this tenant's on that whoever asks sees, in the one locked shard.
    fn next_seen(&self, lenders: &[TenantId], from: TenantId) -> Option<(TenantId, &Keyspace)> {
        let (shard, view) = (self.each_locked().next()?, self.context.space);
        if lenders.is_empty() {
            return shard.next_in_view(view, from);
        }
        let all: BTreeSet<TenantId> = lenders.iter().copied().chain([view.tenant]).collect();
        all.range(from..).find_map(|tenant| Some((*tenant, shard.space(SpaceId { tenant: *tenant, ..view })?)))
    }

    /// Whether the key exists for whoever asks.
    #[inline]
    fn sees(&self, key: &[u8]) -> bool {
        !self.is_filtered() || self.reach.sees_key(key)
    }

    /// How many keys the locked shards hold. Within a limited reach each key must be looked at, unless that is all of a
    /// tenant.
    pub fn key_count(&self) -> usize {
        if !self.is_filtered() {
            return self.locked_spaces().map(Keyspace::len).sum();
        }
        let mut count = 0;
        self.for_each(&mut |_| count += 1);
        count
    }

    /// How many keys the locked shards hold, whoever they belong to: how much there is to look through.
    pub fn len_of_all(&self) -> usize {
        self.locked_spaces().map(Keyspace::len).sum()
    }

    /// Visits every live entry of the locked shards.
    pub fn for_each(&self, visit: &mut dyn FnMut(&Entry<Value>)) {
        let now = self.context.now;
        for space in self.locked_spaces() {
            space.for_each(&mut |entry| {
                if entry.expires_at().is_none_or(|at| at > now) && self.sees(entry.key()) {
                    visit(entry);
                }
            });
        }
    }

    /// Visits the live entries of the next bucket of the one locked shard, and removes the expired ones of a type, if one is
    /// asked for; returns where to go on, `None` at the end.
    pub fn scan(
        &mut self,
        at: ScanPosition,
        of_type: Option<&str>,
        visit: &mut dyn FnMut(&Entry<Value>),
    ) -> Option<ScanPosition> {
        let (now, view) = (self.context.now, self.context.space);
        let mut expired = Vec::new();
        let lenders = self.lenders();
        let (tenant, space) = self.next_seen(&lenders, at.segment)?;
        // The segment it stood in may be gone by now. Whoever sees one segment only need not be told which.
        let single = view.tenant != TenantId::SHARED && lenders.is_empty();
        let cursor = if tenant == at.segment || single { at.position } else { 0 };
        let position = space.scan(cursor, &mut |entry| {
            let expired_by_now = entry.expires_at().is_some_and(|at| at <= now);
            if !expired_by_now && self.sees(entry.key()) {
                visit(entry);
            } else if expired_by_now && of_type.is_none_or(|name| type_name(&entry.value()) == name) {
                expired.push(entry.key().to_vec());
            }
        });
        if !self.context.keeps_expired {
            expired.iter().for_each(|key| self.settle(key));
        }
        if position != 0 {
            return Some(ScanPosition { segment: if single { TenantId::SHARED } else { tenant }, position });
        }
        let from = TenantId(tenant.0.checked_add(1)?);
        let (segment, _) = self.next_seen(&lenders, from)?;
        Some(ScanPosition { segment, position: 0 })
    }

    /// One of the locked segments, the more likely the more keys it has.
    fn lucky_space(&self, random: u64) -> Option<&Keyspace> {
        let total: u64 = self.locked_spaces().map(|space| space.len() as u64).sum();
        let mut target = ((u128::from(random.rotate_left(17)) * u128::from(total)) >> 64) as u64;
        self.locked_spaces().find(|space| {
            let here = target < space.len() as u64;
            target = target.wrapping_sub(space.len() as u64);
            here
        })
    }

    /// Some live key of the locked shards. Expired ones that are met are removed; the search ends after some tries.
    pub fn random_key(&mut self) -> Option<Vec<u8>> {
        const TRIES: usize = 100;
        if self.is_filtered() {
            return self.random_visible_key();
        }
        for _ in 0..TRIES {
            let random = self.random();
            let now = self.context.now;
            let entry = self.lucky_space(random)?.dict.random(random)?;
            let key = entry.key().to_vec();
            if entry.expires_at().is_none_or(|at| at > now) {
                return Some(key);
            }
            self.settle(&key);
        }
        None
    }

    /// Some entry of the locked shards, if it is live and within reach: every key is as likely as every other.
    pub fn lucky_key(&mut self) -> Option<Vec<u8>> {
        let (random, now) = (self.random(), self.context.now);
        let entry = self.lucky_space(random)?.dict.random(random)?;
        let found = entry.expires_at().is_none_or(|at| at > now) && self.sees(entry.key());
        found.then(|| entry.key().to_vec())
    }

    /// Every key within reach is looked at; the one that was drawn last is kept (Vitter 1985, algorithm R for one).
    fn random_visible_key(&mut self) -> Option<Vec<u8>> {
        let mut dice = self.dice();
        let (mut seen, mut drawn) = (0, None);
        self.for_each(&mut |entry| {
            seen += 1;
            if dice().is_multiple_of(seen) {
                drawn = Some(entry.key().to_vec());
            }
        });
        drawn
    }

    /// Removes the keys of this database that `wanted` says, one by one.
    fn clear_some(&mut self, wanted: impl Fn(&[u8]) -> bool) -> Vec<Vec<u8>> {
        let mut keys: Vec<Vec<u8>> = Vec::new();
        for space in self.own_spaces() {
            space.for_each(&mut |entry| {
                if wanted(entry.key()) {
                    keys.push(entry.key().to_vec());
                }
            });
        }
        for key in &keys {
            self.discard(key);
            self.touched(key);
        }
        keys
    }

    /// Removes the keys of this database that lie within reach and may be deleted, one by one.
    fn clear_within_reach(&mut self) -> usize {
        /// Keys one effect names.
        const KEYS_AT_ONCE: usize = 128;
        let reach = self.reach;
        let keys = self.clear_some(|key| reach.may_delete_key(key));
        for named in keys.chunks(KEYS_AT_ONCE) {
            let command = std::iter::once(&b"DEL"[..]).chain(named.iter().map(Vec::as_slice));
            self.effects.replace_in(self.context.space.database, command);
        }
        keys.len()
    }

    /// Removes every key of this database in the locked shards; how many. Within a limited reach: those that may be
    /// deleted.
    pub fn clear(&mut self) -> usize {
        if self.reach.filters_keys() {
            return self.clear_within_reach();
        }
        let space = self.context.space;
        let mut ids: Vec<TenantId> = self.each_locked().flat_map(|shard| shard.view(space)).map(|(id, _)| id).collect();
        ids.sort_unstable();
        ids.dedup();
        let removed = ids.into_iter().map(|tenant| self.clear_segment(SpaceId { tenant, ..space })).sum();
        self.effects.touched_every_key();
        removed
    }

    fn clear_segment(&mut self, segment: SpaceId) -> usize {
        let (mut removed, mut garbage) = (0, Vec::new());
        for shard in self.locked_shards() {
            let taken = shard.take_space(segment);
            removed += taken.len();
            if taken.walk.is_some() {
                // The snapshot has yet to see the rest of it.
                shard.detached.push(taken);
            } else if !taken.is_empty() {
                garbage.push(Garbage::Keyspace(Box::new(taken)));
            }
        }
        self.garbage.append(&mut garbage);
        removed
    }

    /// Removes the keys of this database that begin with one of these, or `{` and one of these, in the locked shards; how
    /// many. Costs their number where they are all of a tenant.
    pub fn clear_prefixes(&mut self, prefixes: &[&[u8]]) -> usize {
        let owner = |prefix: &&&[u8]| self.each_locked().next().and_then(|shard| shard.whole_owner(prefixes, prefix));
        let owners: BTreeSet<TenantId> = prefixes.iter().filter_map(|prefix| owner(&prefix)).collect();
        let rest: Vec<&[u8]> = prefixes.iter().filter(|prefix| owner(prefix).is_none()).copied().collect();
        let database = self.context.space.database;
        let mut removed = owners.into_iter().map(|tenant| self.clear_segment(SpaceId { tenant, database })).sum();
        if !rest.is_empty() {
            let begins = |key: &[u8]| {
                let name = key.strip_prefix(b"{").unwrap_or(key);
                rest.iter().any(|prefix| name.starts_with(prefix))
            };
            removed += self.clear_some(begins).len();
        }
        self.effects.touched_every_key();
        removed
    }

    /// What the keys of the tenant begin with whose segment is asked for: whoever repeats elsewhere what was done to all of
    /// it must not depend on whose they are there. Empty for a namespace, and for everybody.
    pub fn prefixes_of_tenant(&self) -> Vec<Vec<u8>> {
        let tenant = self.context.space.tenant;
        if tenant == TenantId::SHARED || tenant.is_namespace() {
            return Vec::new();
        }
        self.each_locked().next().map(|shard| shard.prefixes_of(tenant)).unwrap_or_default()
    }

    /// Exchanges two databases in the locked shards, whoever their keys belong to: never within a limited reach.
    pub fn swap_databases(&mut self, first: u32, second: u32) {
        if self.reach.is_confined() {
            return;
        }
        self.effects.touched_every_key();
        if first == second {
            return;
        }
        let [a, b] = [first, second].map(|database| SpaceId { database, ..self.context.space });
        for shard in self.locked_shards() {
            let tenants: BTreeSet<TenantId> =
                [a, b].into_iter().flat_map(|space| shard.view(space)).map(|(tenant, _)| tenant).collect();
            for tenant in tenants {
                let [a, b] = [a, b].map(|space| SpaceId { tenant, ..space });
                let (of_a, of_b) = (shard.take_space(a), shard.take_space(b));
                shard.give_space(a, of_b);
                shard.give_space(b, of_a);
            }
        }
    }

    fn locked_shards(&mut self) -> impl Iterator<Item = &mut Shard> {
        let (one, many) = match &mut self.shards {
            Locked::One(_, shard) => (Some(&mut **shard), None),
            Locked::Many(shards) => (None, Some(shards.iter_mut().map(|(_, shard)| &mut **shard))),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }
}

/// Drops a removed entry: here if it is small, which is cheaper than carrying it away, else after the locks.
fn discard_later(garbage: &mut Vec<Garbage>, entry: OwnedEntry<Value>) {
    let object_bytes = if let ValueRef::Object(object) = entry.value() { object.memory_bytes() } else { 0 };
    if entry.memory_bytes() + object_bytes > GARBAGE_BYTES_MIN {
        garbage.push(Garbage::Entry(entry));
    }
}

/// The integer a string is stored as, if it spells one exactly: shorter than the digits, and ready to count with.
#[inline]
fn compact_integer(value: &[u8]) -> Option<i64> {
    const DIGITS_MAX: usize = 20;
    let starts_like_one = value.first().is_some_and(|first| first.is_ascii_digit() || *first == b'-');
    if value.len() > DIGITS_MAX || !starts_like_one { None } else { number::parse_i64(value) }
}

/// Where every-key commands get their shards from: one after the other, or all at once.
pub trait EveryKey {
    /// Which keys there are for whoever asks: the others are not shown.
    fn reach(&self) -> &Reach;
    /// How many shards there are.
    fn shard_count(&self) -> u32;
    /// Nobody else touches any of these keys meanwhile: one shard after the other is one moment as well.
    fn is_alone(&self) -> bool {
        false
    }
    /// Calls `with` with one shard locked.
    fn with_shard(&mut self, index: u32, with: &mut dyn FnMut(&mut Keys<'_>));
    /// Calls `with` with every shard locked: one moment of the whole node.
    fn with_all(&mut self, with: &mut dyn FnMut(&mut Keys<'_>));
    /// Calls `with` with the shards of these keys locked, at least.
    fn with_keys(&mut self, _named: &[&[u8]], with: &mut dyn FnMut(&mut Keys<'_>)) {
        self.with_all(with);
    }
}

/// Steps of some sixteen buckets between two questions whether a sweep goes on.
const SWEPT_STEPS: usize = 2;

/// A value at least this big is freed after the locks are released, in bytes.
const GARBAGE_BYTES_MIN: usize = 4096;

/// SplitMix64 (Steele, Lea, Flood 2014): evenly distributed, determined by where it starts.
fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The access bits that a write leaves.
#[derive(Clone, Copy)]
struct Marks {
    usage: Usage,
    now: UnixMillis,
    random: u64,
}

impl Marks {
    /// For a key that had these before; none if it was made.
    #[inline]
    fn after(self, before: Option<u32>) -> u32 {
        match before {
            Some(before) => self.usage.used(before, self.now, || self.random),
            None => self.usage.fresh(self.now),
        }
    }
}

/// The Redis name of a value's type.
pub fn type_name(value: &ValueRef<'_, Value>) -> &'static str {
    match value {
        ValueRef::Str(_) | ValueRef::Int(_) => "string",
        ValueRef::Object(value) => value.type_name(),
    }
}
