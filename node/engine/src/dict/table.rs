//! How the table changes its shape: growing, splitting and merging segments, doubling and halving the directory. It moves
//! entries by their hashes and never looks at a value.

use super::bucket::{BUCKET_BYTES, prefetch};
use super::entry::{Entry, OwnedEntry, allocation_bytes};
use super::segment::{Location, SPLIT_TOTAL, Segment, TOTAL_MAX};
use super::{Dict, hash_key};

/// The directory never has more than 1 << this many places; sixteen million segments are some billions of keys.
const DEPTH_MAX: u8 = 24;
/// The directory has at most one place for so many entries (from sixty-four places on), so that keys which share the
/// top bits of their hashes against all odds cost chained buckets, not a huge directory.
const ENTRIES_PER_PLACE_MIN: usize = 16;
/// While entries move, those of the bucket so far ahead are asked for.
const PREFETCH_BUCKETS: usize = 6;

impl<V> Dict<V> {
    /// Puts an entry that is not in the table into a slot.
    #[inline]
    pub(super) fn put(&mut self, hash: u64, entry: *mut u8, expires: bool) -> Location {
        loop {
            if let Some(segment) = self.segment(hash)
                && let Some(at) = segment.place(hash, entry, expires)
            {
                return at;
            }
            self.make_room(hash);
        }
    }

    /// Takes the entry at a location out, and gives memory back where the table has become sparse.
    #[inline]
    pub(super) fn remove_at(&mut self, hash: u64, at: Location) -> OwnedEntry<V> {
        let index = self.directory_index(hash);
        let segment = self.directory[index];
        let (start, freed) = segment.remove(at);
        // SAFETY: the pointer came out of the only slot that held it.
        let entry = unsafe { Entry::<V>::from_raw(start) };
        self.len -= 1;
        self.expiring -= usize::from(entry.has_expiry());
        self.bytes -= entry.memory_bytes() + freed * BUCKET_BYTES;
        if self.len == 0 {
            self.release();
        // Sparse segments have empty buckets, and a look at a whole segment is dear: look now and then.
        // SAFETY: the home bucket belongs to the segment.
        } else if (self.len.is_multiple_of(16) || segment.total <= 16) && unsafe { (*at.home).occupied().is_empty() } {
            self.shrink(index);
        }
        OwnedEntry::new(entry)
    }

    /// Frees all entries, buckets and the directory.
    pub(super) fn release(&mut self) {
        for segment in self.segments() {
            segment.for_each_slot(|slot| {
                // SAFETY: each slot holds the only pointer to its entry, and is not looked at again.
                unsafe { Entry::<V>::from_raw(*slot).free() };
            });
            // SAFETY: the directory is dropped below.
            unsafe { segment.free() };
        }
        self.directory = Box::default();
        (self.len, self.expiring, self.bytes, self.deepest, self.depth) = (0, 0, 0, 0, 0);
    }

    /// The distinct segments, in hash order.
    pub(super) fn segments(&self) -> impl Iterator<Item = Segment> + '_ {
        let mut index = 0;
        std::iter::from_fn(move || {
            let segment = *self.directory.get(index)?;
            index += self.span(segment);
            Some(segment)
        })
    }

    /// How many places of the directory a segment fills.
    fn span(&self, segment: Segment) -> usize {
        1 << (self.depth - segment.depth)
    }

    /// There was no free slot for `hash`: makes one, as cheaply as the crowd in its segment allows.
    #[cold]
    fn make_room(&mut self, hash: u64) {
        let Some(segment) = self.segment(hash) else {
            let first = Segment::allocate(1, 0);
            self.bytes += first.table_bytes();
            self.set_directory(Box::new([first]), 0);
            return;
        };
        if segment.is_crowded(segment.count()) {
            let index = self.directory_index(hash);
            match segment.next_total() {
                Some(total) => return self.rebuild(index, total),
                None if self.split(index) => return,
                None => {}
            }
        }
        segment.chain(hash);
        self.bytes += BUCKET_BYTES;
    }

    /// Gives the segment at `index` another number of buckets.
    fn rebuild(&mut self, index: usize, total: u16) {
        let old = self.directory[index];
        let new = Segment::allocate(total, old.depth);
        self.bytes += new.table_bytes();
        self.move_entries(old, [new, new]);
        self.point(index, new);
        self.discard(old);
    }

    /// Splits the segment at `index` in two; `false` if the directory is as large as it may get.
    fn split(&mut self, index: usize) -> bool {
        let old = self.directory[index];
        let mut index = index;
        if old.depth == self.depth {
            if !self.double() {
                return false;
            }
            index *= 2;
        }
        let depth = old.depth + 1;
        let halves = [Segment::allocate(SPLIT_TOTAL, depth), Segment::allocate(SPLIT_TOTAL, depth)];
        self.bytes += 2 * halves[0].table_bytes();
        self.move_entries(old, halves);
        let span = self.span(old);
        let start = index & !(span - 1);
        self.point(start, halves[0]);
        self.point(start + span / 2, halves[1]);
        if depth == self.depth {
            self.deepest += 2;
        }
        self.discard(old);
        true
    }

    /// Looks whether the segment at `index` is worth merging with its neighbor, or has far too many buckets.
    #[cold]
    fn shrink(&mut self, index: usize) {
        let segment = self.directory[index];
        let count = segment.count();
        if segment.depth > 0 {
            let span = self.span(segment);
            let start = index & !(span - 1);
            let buddy = self.directory[start ^ span];
            if buddy.depth == segment.depth {
                let both = count + buddy.count();
                if both <= usize::from(SPLIT_TOTAL) * 2 {
                    return self.merge(start & !span, both);
                }
            }
        }
        let least = if segment.depth > 0 { SPLIT_TOTAL } else { 1 };
        let total = Segment::total_for(count).max(least);
        if total * 3 <= segment.total * 2 {
            self.rebuild(index, total);
        }
    }

    /// Merges the segments at `start` and behind it, which are of one depth.
    fn merge(&mut self, start: usize, count: usize) {
        let low = self.directory[start];
        let high = self.directory[start + self.span(low)];
        let total = if low.depth > 1 { SPLIT_TOTAL } else { Segment::total_for(count).min(TOTAL_MAX) };
        let both = Segment::allocate(total, low.depth - 1);
        self.bytes += both.table_bytes();
        self.move_entries(low, [both, both]);
        self.move_entries(high, [both, both]);
        self.point(start, both);
        if low.depth == self.depth {
            self.deepest -= 2;
        }
        self.discard(low);
        self.discard(high);
        self.halve();
    }

    /// Doubles the directory; `false` if it would be out of proportion.
    fn double(&mut self) -> bool {
        let places = self.directory.len() * 2;
        if self.depth >= DEPTH_MAX || (places > 64 && places > self.len / ENTRIES_PER_PLACE_MIN) {
            return false;
        }
        let doubled = self.directory.iter().flat_map(|segment| [*segment; 2]).collect();
        self.set_directory(doubled, self.depth + 1);
        true
    }

    /// Halves the directory while no segment needs all of its bits.
    fn halve(&mut self) {
        while self.depth > 0 && self.deepest == 0 {
            let halved = self.directory.iter().step_by(2).copied().collect();
            self.set_directory(halved, self.depth - 1);
        }
    }

    fn set_directory(&mut self, directory: Box<[Segment]>, depth: u8) {
        self.bytes -= allocation_bytes(size_of_val(&*self.directory));
        self.bytes += allocation_bytes(size_of_val(&*directory));
        self.directory = directory;
        self.depth = depth;
        self.deepest = self.segments().filter(|segment| segment.depth == depth).count() as u32;
    }

    /// Lets every place of the directory that belongs to `segment`, one of them `index`, point to it.
    fn point(&mut self, index: usize, segment: Segment) {
        let span = self.span(segment);
        let start = index & !(span - 1);
        self.directory[start..start + span].fill(segment);
    }

    /// Frees a segment whose entries have moved.
    fn discard(&mut self, segment: Segment) {
        // SAFETY: the directory points to it no more.
        let chained = unsafe { segment.free() };
        self.bytes -= segment.table_bytes() + chained * BUCKET_BYTES;
    }

    /// Copies the entries of a segment to one of two others, by the bit of the hash below the old depth. The old slots
    /// are stale afterwards.
    fn move_entries(&mut self, from: Segment, to: [Segment; 2]) {
        let last = usize::from(from.total) - 1;
        let mut chained = 0;
        for index in 0..=last {
            let ahead = from.bucket((index + PREFETCH_BUCKETS).min(last));
            // SAFETY: buckets of a living segment; the entries are not followed.
            unsafe { (*ahead).occupied().for_each(|slot| prefetch((*ahead).slots[slot])) };
            Segment::for_each_in_chain(from.bucket(index), &mut |slot| {
                // SAFETY: the slot holds an entry.
                let (start, entry) = unsafe { (*slot, Entry::<V>::in_slot(slot)) };
                let (hash, expires) = (hash_key(self.seed, entry.key()), entry.has_expiry());
                let target = to[usize::from(hash << from.depth >> 63 == 1)];
                while target.place(hash, start, expires).is_none() {
                    target.chain(hash);
                    chained += BUCKET_BYTES;
                }
            });
        }
        self.bytes += chained;
    }

    /// Entries, entries with an expiry, and bytes: each of them looked at, instead of what was counted on the way.
    pub fn recount(&self) -> (usize, usize, usize) {
        let (mut len, mut expiring, mut bytes) = (0, 0, allocation_bytes(size_of_val(&*self.directory)));
        self.for_each(&mut |entry| {
            len += 1;
            expiring += usize::from(entry.has_expiry());
            bytes += entry.memory_bytes();
        });
        for segment in self.segments() {
            bytes += segment.table_bytes();
            for index in 0..usize::from(segment.total) {
                // SAFETY: a bucket of a living segment, and the chain behind it.
                let mut next = unsafe { (*segment.bucket(index)).chained() };
                while let Some(bucket) = next {
                    bytes += BUCKET_BYTES;
                    // SAFETY: as above.
                    next = unsafe { (*bucket).chained() };
                }
            }
        }
        (len, expiring, bytes)
    }

    /// A slot with an entry. Each try aims at any slot of the table with equal chance; only entries in chained buckets
    /// are a little less likely, and in a nearly empty table the tries end with the first entry behind a random place.
    pub(super) fn random_slot(&self, r: u64) -> Option<*const *mut u8> {
        if self.len == 0 {
            return None;
        }
        let mut state = r;
        for _ in 0..64 {
            state = hash_key(state, &r.to_le_bytes());
            if let Some(slot) = self.try_slot(state) {
                return Some(slot);
            }
        }
        self.slot_behind((state as usize) & (self.directory.len() - 1))
    }

    /// One try: a place of the directory, a bucket, and a slot, each from bits of its own.
    fn try_slot(&self, r: u64) -> Option<*const *mut u8> {
        let index = self.directory_index(r);
        let segment = self.directory[index];
        // A segment that fills several places counts at its first one only.
        if index & (self.span(segment) - 1) != 0 {
            return None;
        }
        let widest = if self.depth == 0 { segment.total } else { TOTAL_MAX };
        let bucket = (((r & 0xffff_ffff) * u64::from(widest)) >> 32) as usize;
        if bucket >= usize::from(segment.total) {
            return None;
        }
        let bucket = segment.bucket(bucket);
        // SAFETY: a bucket of a living segment.
        let (taken, is_chained) = unsafe { ((*bucket).occupied(), (*bucket).chained().is_some()) };
        if is_chained {
            let mut slots = Vec::new();
            Segment::for_each_in_chain(bucket, &mut |slot| slots.push(slot.cast_const()));
            return slots.get((r >> 33) as usize % slots.len().max(1)).copied();
        }
        let slot = (r >> 33 & 7) as usize;
        // SAFETY: as above; a taken slot is below seven.
        taken.into_iter().any(|taken| taken == slot).then(|| unsafe { &raw const (*bucket).slots[slot] })
    }

    /// The first entry of the segments from a place of the directory on, round the end.
    fn slot_behind(&self, start: usize) -> Option<*const *mut u8> {
        let places = self.directory.len();
        for index in (start..places).chain(0..start) {
            let mut found = None;
            self.directory[index].for_each_slot(|slot| found = Some(slot.cast_const()));
            if found.is_some() {
                return found;
            }
        }
        None
    }
}
