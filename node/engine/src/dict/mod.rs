//! The hash table of one tenant's keys in one shard: entries, and the table that finds them. It knows bytes, hashes and
//! an object type `V`; it knows no commands, no time and no locks. It and
//! `types/word.rs` are the only places of the project with `unsafe`.
//!
//! The idea: extendible hashing in hash order. A directory, indexed by the top bits of a key's hash, points at segments
//! of up to 128 buckets; a bucket is one cache line with seven tagged pointers to entries. The buckets of a segment
//! cover its share of the hash space in order, whatever their number, so the whole table is sorted by hash at the
//! granularity of a bucket. What follows from that:
//!
//! * A crowded segment grows or splits alone, and sparse neighbors merge: no operation moves more than a segment's
//!   entries (some hundreds). Only doubling the directory is linear, 16 bytes for every few hundred keys.
//! * A cursor is a position in hash order. A scan that walks the positions from 0 to the end sees every key that is
//!   there all the while, whatever splits and merges in between.
//! * A lookup touches the directory (small, hot), one bucket line, and the entry. All three can be asked for ahead of
//!   time: `prefetch_bucket` for a batch of keys, then `prefetch_entry`, then `prefetch_value`, then the lookups.
//!
//! ```text
//! directory            segment                      bucket, 64 bytes               entry
//! [ 00 ] ───────────▶  homes in hash order ──▶  7 pointers, 7 tags, overflow ──▶  header | key | value
//! [ 01 ] ──┬────────▶  …, then stashes
//! [ 10 ] ──┘
//! ```
//!
//! Of a hash the table uses the top 40 bits as the position and 7 of the next 8 as the tag. The lowest 16 belong to the caller.
//!
//! Invariants: every slot with an entry's tag holds the only pointer to a live entry; the hash given with a key is
//! `hash_key(seed, key)` (a wrong one makes keys unfindable, never memory unsafe); `len`, `expiring` and `bytes` are
//! true after every public call.
#![allow(unsafe_code)]

mod bucket;
mod edit;
mod entry;
mod handle;
mod hash;
mod repack;
mod segment;
mod table;
mod value;
mod walk;

#[cfg(test)]
mod tests;

use std::marker::PhantomData;

pub use entry::{Entry, INLINE_VALUE_BYTES_MAX, OwnedEntry, allocation_bytes};
pub use handle::{EntryMut, Expiry, Place, Upserted, VacantEntry};
pub use hash::hash_key;
pub use repack::Husk;
pub use segment::POSITION_BITS;
pub use value::{NewValue, OldValue, ValueMut, ValueRef};

use bucket::prefetch;
pub use bucket::{prefetch_line, prefetch_lines};
use entry::Header;
use segment::{Location, Segment};
use walk::NO_WALK;

/// A table from keys to values. An empty one owns no memory.
pub struct Dict<V> {
    /// 1 << depth segments, or none at all; a segment of lesser depth appears several times in a row.
    directory: Box<[Segment]>,
    seed: u64,
    len: usize,
    expiring: usize,
    /// Entries, buckets and directory, as the allocator rounds them.
    bytes: usize,
    /// Segments whose depth is the directory's.
    deepest: u32,
    depth: u8,
    /// The position from which on a walk has yet to see the entries.
    unwalked_from: u64,
    owns: PhantomData<V>,
}

// SAFETY: the table owns its entries and buckets; nothing in it is tied to a thread, and `&self` changes nothing.
unsafe impl<V: Send> Send for Dict<V> {}
// SAFETY: as above.
unsafe impl<V: Sync> Sync for Dict<V> {}

impl<V> Dict<V> {
    /// An empty table for keys hashed with `seed`. Allocates nothing.
    pub fn new(seed: u64) -> Self {
        Dict {
            directory: Box::default(),
            seed,
            len: 0,
            expiring: 0,
            bytes: 0,
            deepest: 0,
            depth: 0,
            unwalked_from: NO_WALK,
            owns: PhantomData,
        }
    }

    /// The hash that every call about `key` wants.
    #[inline]
    pub fn hash(&self, key: &[u8]) -> u64 {
        hash_key(self.seed, key)
    }

    /// How many entries there are.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many entries have an expiry.
    #[inline]
    pub fn expiring_len(&self) -> usize {
        self.expiring
    }

    /// Bytes taken from the allocator for entries, buckets and directory; see `Entry::memory_bytes` for objects.
    #[inline]
    pub fn memory_bytes(&self) -> usize {
        self.bytes
    }

    /// The entry of a key.
    #[inline]
    pub fn find(&self, hash: u64, key: &[u8]) -> Option<&Entry<V>> {
        let at = self.locate(hash, key)?;
        // SAFETY: the slot was found to hold an entry, and the table is borrowed for as long as the result.
        Some(unsafe { Entry::in_slot(at.slot_pointer()) })
    }

    /// The entry of a key, to be changed.
    #[inline]
    pub fn find_mut(&mut self, hash: u64, key: &[u8]) -> Option<EntryMut<'_, V>> {
        let at = self.locate(hash, key)?;
        Some(EntryMut { dict: self, hash, at })
    }

    /// The place of a key, whether it is there or not: one probe for "look, then change or insert".
    #[inline]
    pub fn place_of<'a>(&'a mut self, hash: u64, key: &'a [u8]) -> Place<'a, V> {
        match self.locate(hash, key) {
            Some(at) => Place::Occupied(EntryMut { dict: self, hash, at }),
            None => Place::Vacant(VacantEntry { dict: self, hash, key }),
        }
    }

    /// Inserts a key that is not there. Inserting one that is would hide one of the two.
    #[inline]
    pub fn insert(
        &mut self,
        hash: u64,
        key: &[u8],
        value: NewValue<'_, V>,
        expires_at: Option<i64>,
    ) -> EntryMut<'_, V> {
        debug_assert_eq!(hash, self.hash(key), "the hash is made with the table's seed");
        debug_assert!(self.locate(hash, key).is_none(), "only an absent key is inserted");
        let mut entry = Entry::create(key, value, expires_at);
        if self.is_unwalked(hash) {
            entry.mark();
        }
        self.bytes += entry.memory_bytes();
        self.len += 1;
        self.expiring += usize::from(expires_at.is_some());
        let at = self.put(hash, entry.into_raw(), expires_at.is_some());
        EntryMut { dict: self, hash, at }
    }

    /// SET in one probe: overwrites whatever the key holds by a string, or inserts it.
    #[inline]
    pub fn upsert_string(&mut self, hash: u64, key: &[u8], value: &[u8], expiry: Expiry) -> Upserted<'_, V> {
        let Some(at) = self.locate(hash, key) else {
            let expires_at = match expiry {
                Expiry::Keep => None,
                Expiry::Set(expires_at) => expires_at,
            };
            let entry = self.insert(hash, key, NewValue::Str(value), expires_at);
            return Upserted { entry, existed: false, old_expires_at: None, old_value: OldValue::Small };
        };
        let mut entry = EntryMut { dict: self, hash, at };
        let old_expires_at = entry.expires_at();
        // The expiry first: a removed one makes room that a longer value may use.
        if let Expiry::Set(expires_at) = expiry {
            entry.set_expiry(expires_at);
        }
        let old_value = entry.set_string(value);
        Upserted { entry, existed: true, old_expires_at, old_value }
    }

    /// Takes an entry out.
    #[inline]
    pub fn remove(&mut self, hash: u64, key: &[u8]) -> Option<OwnedEntry<V>> {
        let at = self.locate(hash, key)?;
        Some(self.remove_at(hash, at))
    }

    /// Visits the entries at a position and returns the next position, 0 at the end. Start with 0.
    ///
    /// Every entry that is present from the first call to the last is visited at least once, and exactly once unless the
    /// table changed its shape in between. Cursors are below `1 << POSITION_BITS`; one that was never given out is
    /// treated as the position it names. One call visits the entries of one bucket, five on average.
    pub fn scan(&self, cursor: u64, visit: &mut dyn FnMut(&Entry<V>)) -> u64 {
        if cursor >> POSITION_BITS != 0 {
            return 0;
        }
        let hash = cursor << (64 - POSITION_BITS);
        let Some(segment) = self.segment(hash) else { return 0 };
        let home = segment.home(hash);
        segment.prefetch_ahead(home);
        segment.for_each_of_home(home, |slot, own| {
            // SAFETY: the slot holds an entry; the table is borrowed for the visit.
            let entry = unsafe { Entry::<V>::in_slot(slot) };
            if own || segment.home(self.hash(entry.key())) == home {
                visit(entry);
            }
        });
        let next = segment.end_of_home(hash, home);
        if next >> POSITION_BITS == 0 { next } else { 0 }
    }

    /// Visits expiring entries from a position on, some buckets at a time, as [`Dict::scan`] does with all. Those that do
    /// not expire cost a look at their bucket.
    pub fn scan_expiring(&self, cursor: u64, visit: &mut dyn FnMut(&Entry<V>)) -> u64 {
        const HOMES: usize = 16;
        if cursor >> POSITION_BITS != 0 {
            return 0;
        }
        let hash = cursor << (64 - POSITION_BITS);
        let Some(segment) = self.segment(hash) else { return 0 };
        let first = segment.home(hash);
        let last = (first + HOMES).min(segment.homes()) - 1;
        for home in first..=last {
            segment.for_each_expiring_of_home(home, |slot, own| {
                // SAFETY: the slot holds an entry; the table is borrowed for the visit.
                let entry = unsafe { Entry::<V>::in_slot(slot) };
                if own || segment.home(self.hash(entry.key())) == home {
                    visit(entry);
                }
            });
        }
        let next = segment.end_of_home(hash, last);
        if next >> POSITION_BITS == 0 { next } else { 0 }
    }

    /// An entry chosen by the random number `r`, nearly uniformly; `None` when there is none.
    pub fn random(&self, r: u64) -> Option<&Entry<V>> {
        let slot = self.random_slot(r)?;
        // SAFETY: the slot holds an entry, and the table is borrowed for as long as the result.
        Some(unsafe { Entry::in_slot(slot) })
    }

    /// Visits every entry, in no useful order.
    pub fn for_each(&self, visit: &mut dyn FnMut(&Entry<V>)) {
        for segment in self.segments() {
            segment.for_each_slot(|slot| {
                // SAFETY: the slot holds an entry; the table is borrowed for the visit.
                visit(unsafe { Entry::in_slot(slot) });
            });
        }
    }

    /// Drops every entry, here and now. To drop them elsewhere, replace the table by a new one and send it away.
    pub fn clear(&mut self) {
        *self = Dict::new(self.seed);
    }

    /// Asks the processor for the bucket of a hash. First of the three stages of a batch.
    #[inline]
    pub fn prefetch_bucket(&self, hash: u64) {
        if let Some(segment) = self.segment(hash) {
            prefetch(segment.bucket(segment.home(hash)).cast());
        }
    }

    /// Asks the processor for the entry of a hash; its bucket should have arrived. Second stage.
    #[inline]
    pub fn prefetch_entry(&self, hash: u64) {
        if let Some(segment) = self.segment(hash) {
            segment.prefetch_behind_home(hash);
        }
    }

    /// Asks the processor for a long string's or an object's first lines; the entry should have arrived. Third stage,
    /// worth its price only where such values are expected.
    #[inline]
    pub fn prefetch_value(&self, hash: u64) {
        if let Some(segment) = self.segment(hash) {
            segment.find(hash, |slot| {
                // SAFETY: the slot holds an entry.
                unsafe { Entry::<V>::in_slot(slot) }.prefetch_payload();
                true
            });
        }
    }

    #[inline]
    fn segment(&self, hash: u64) -> Option<Segment> {
        self.directory.get(self.directory_index(hash)).copied()
    }

    #[inline]
    fn directory_index(&self, hash: u64) -> usize {
        (hash >> 1 >> (63 - self.depth)) as usize
    }

    // What it finds is four words: returned from a call they would be written and read again at once.
    #[inline(always)]
    fn locate(&self, hash: u64, key: &[u8]) -> Option<Location> {
        self.segment(hash)?.find(hash, |slot| {
            // SAFETY: the slot holds an entry; the table is borrowed.
            unsafe { Entry::<V>::in_slot(slot) }.key() == key
        })
    }
}

impl<V> Drop for Dict<V> {
    fn drop(&mut self) {
        self.release();
    }
}
