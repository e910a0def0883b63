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
//! Here are the parts and how a view is made of them; what a shard does by itself is in `keyspace/shard.rs`, what a handler
//! may do to the keys it named in `keyspace/named.rs`, and to all it may see in `keyspace/every.rs`. This room knows no
//! clock: `now` is passed in once per batch. It is long because all parts of a view are declared in it.

use crate::dict::{self, Dict, Entry, Husk, OldValue, OwnedEntry, ValueRef};
use crate::effects::{Effects, Wait};
use crate::error::CommandError;
use crate::events::EventClass;
use crate::eviction::Usage;
use crate::scope::Reach;
use crate::snapshot::Walk;
use crate::tenancy::{Gauge, Gauges, Owners, Policies};
use crate::types::{Limits, Patience, Steps, Value};
use keyward_acl::KeyUse;
use std::cell::Cell;
use std::sync::Arc;

mod every;
mod named;
mod others;
mod recount;
mod segments;
mod shard;

pub use every::{EveryKey, NamesBound};
pub(crate) use named::GROWS_FREELY_BYTES;
pub use named::{Expiry, Missing, StringRef, Taken, Typed};
use others::Others;
use shard::FieldExpiries;
pub use shard::{ExpiredFields, Swept, Tally};

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
    /// How many keys it had when that sum was told last.
    accounted_keys: usize,
    pub(crate) walk: Option<Box<Walk>>,
    sweep_cursor: u64,
    pub(crate) sample_cursor: u64,
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
    /// Who is asked whether long work may go on; `None`: it may take as long as it likes.
    pub patience: Option<&'a Patience>,
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

    /// The steps of work that may take longer than its keys are long.
    pub fn steps(&self) -> Steps<'a> {
        Steps::new(self.context.patience)
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

    // ---- reading: counted as a hit or a miss, looks used; a key past its expiry is removed ----

    // ---- writing: a key past its expiry is removed first ----

    // ---- the whole space, as far as it is locked; what lies beyond the caller's reach does not exist ----
}

/// A value at least this big is freed after the locks are released, in bytes.
const GARBAGE_BYTES_MIN: usize = 4096;

/// Drops a removed entry: here if it is small, which is cheaper than carrying it away, else after the locks.
fn discard_later(garbage: &mut Vec<Garbage>, entry: OwnedEntry<Value>) {
    let object_bytes = if let ValueRef::Object(object) = entry.value() { object.memory_bytes() } else { 0 };
    if entry.memory_bytes() + object_bytes > GARBAGE_BYTES_MIN {
        garbage.push(Garbage::Entry(entry));
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): evenly distributed, determined by where it starts.
fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The Redis name of a value's type.
pub fn type_name(value: &ValueRef<'_, Value>) -> &'static str {
    match value {
        ValueRef::Str(_) | ValueRef::Int(_) => "string",
        ValueRef::Object(value) => value.type_name(),
    }
}
