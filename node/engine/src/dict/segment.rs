//! A run of buckets that grows and splits alone, and where an entry goes within it. It knows positions in hash order;
//! it knows neither keys nor the directory.
//!
//! A segment of `total` buckets has `homes` buckets in hash order and, from eight buckets on, one stash bucket for every
//! fifteen homes. An entry lives in its home bucket; when that is full, in the group's stash; when that is full too and
//! the segment is not yet crowded enough to grow, in a bucket chained to the stash.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;

use super::bucket::{BUCKET_BYTES, Bucket, SLOTS, prefetch, tag_of};

/// Top bits of a hash that decide the position of an entry; cursors count positions.
pub const POSITION_BITS: u32 = 40;
/// Buckets of a segment, as it grows; after the last it splits into two of `SPLIT_TOTAL`. The sizes are size classes of
/// the allocator (64 B … 8 KiB). The last steps are smaller than doubling, so that memory per key stays nearly level
/// while a table grows (within 3 %, measured); steps smaller still would move every entry five times.
const TOTALS: [u16; 9] = [1, 2, 4, 8, 16, 32, 64, 96, 128];
/// Buckets of each half after a split, and the least a segment has once there are several.
pub(super) const SPLIT_TOTAL: u16 = 96;
pub(super) const TOTAL_MAX: u16 = 128;
const GROUP: usize = 15;

/// Where an entry is, or would go.
#[derive(Clone, Copy)]
pub(super) struct Location {
    /// The bucket its position names.
    pub home: *mut Bucket,
    /// The bucket it is in: the home, the stash, or one chained to either.
    pub bucket: *mut Bucket,
    /// The bucket `bucket` is chained to, or null.
    pub parent: *mut Bucket,
    pub slot: usize,
}

impl Location {
    #[inline]
    pub(super) fn slot_pointer(&self) -> *mut *mut u8 {
        // SAFETY: a location is made for a bucket that exists, with a slot below seven.
        unsafe { (&raw mut (*self.bucket).slots).cast::<*mut u8>().add(self.slot) }
    }
}

/// A copy of what the directory knows of a segment. Copies of one segment are equal; the table frees the buckets once.
#[derive(Clone, Copy)]
pub(super) struct Segment {
    buckets: NonNull<Bucket>,
    pub total: u16,
    homes: u16,
    /// How many top bits of the hash all its entries share.
    pub depth: u8,
}

impl Segment {
    pub(super) fn allocate(total: u16, depth: u8) -> Segment {
        let layout = Segment::layout(total);
        // SAFETY: the size is not zero. All zero bytes are empty buckets.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(buckets) = NonNull::new(start.cast::<Bucket>()) else { handle_alloc_error(layout) };
        let stashes = if total >= 8 { total.div_ceil(16) } else { 0 };
        Segment { buckets, total, homes: total - stashes, depth }
    }

    fn layout(total: u16) -> Layout {
        Layout::array::<Bucket>(usize::from(total)).expect("a segment is a few kilobytes")
    }

    /// Frees the buckets and those chained to them; returns how many were chained.
    ///
    /// # Safety
    /// No copy of this segment is used afterwards. Entries are not freed.
    pub(super) unsafe fn free(self) -> usize {
        let mut chained = 0;
        for index in 0..usize::from(self.total) {
            // SAFETY: chained buckets were made by `allocate_chained`, each is reached once.
            unsafe {
                let mut next = (*self.bucket(index)).chained();
                while let Some(bucket) = next {
                    next = (*bucket).chained();
                    drop(Box::from_raw(bucket));
                    chained += 1;
                }
            }
        }
        // SAFETY: `allocate` made the buckets with this layout.
        unsafe { dealloc(self.buckets.as_ptr().cast(), Segment::layout(self.total)) };
        chained
    }

    #[inline]
    pub(super) fn table_bytes(&self) -> usize {
        usize::from(self.total) * BUCKET_BYTES
    }

    /// How many homes there are.
    pub(super) fn homes(&self) -> usize {
        usize::from(self.homes)
    }

    pub(super) fn next_total(&self) -> Option<u16> {
        TOTALS.into_iter().find(|total| *total > self.total)
    }

    /// The smallest size that takes `entries` without being crowded.
    pub(super) fn total_for(entries: usize) -> u16 {
        TOTALS.into_iter().find(|total| entries * 3 <= usize::from(*total) * SLOTS * 2).unwrap_or(TOTAL_MAX)
    }

    /// Whether so many entries are enough for the segment to grow rather than to chain a bucket.
    pub(super) fn is_crowded(&self, entries: usize) -> bool {
        entries * 5 >= usize::from(self.total) * 27
    }

    #[inline]
    pub(super) fn bucket(&self, index: usize) -> *mut Bucket {
        debug_assert!(index < usize::from(self.total));
        // Wrapping, so that computing the address is no promise that it is read.
        self.buckets.as_ptr().wrapping_add(index)
    }

    /// The index of the home bucket of a hash.
    #[inline]
    pub(super) fn home(&self, hash: u64) -> usize {
        let fraction = (hash >> (64 - POSITION_BITS) << (64 - POSITION_BITS) << self.depth) >> (64 - POSITION_BITS);
        ((fraction * u64::from(self.homes)) >> POSITION_BITS) as usize
    }

    /// The position after the last one whose home is `home`, for a hash in this segment.
    pub(super) fn end_of_home(&self, hash: u64, home: usize) -> u64 {
        let width = POSITION_BITS - u32::from(self.depth);
        let position = hash >> (64 - POSITION_BITS);
        let start = position >> width << width;
        let scaled = ((home as u64 + 1) << POSITION_BITS).div_ceil(u64::from(self.homes));
        start + scaled.div_ceil(1 << self.depth)
    }

    /// The stash bucket of a home bucket, when the segment has stashes.
    #[inline]
    fn stash(&self, home: usize) -> *mut Bucket {
        self.bucket(usize::from(self.homes) + home / GROUP)
    }

    #[inline]
    fn has_stash(&self) -> bool {
        self.homes < self.total
    }

    /// Walks the slots whose tag equals that of `hash`, in the buckets the entry may be in, until `is_it` says yes.
    #[inline]
    pub(super) fn find(&self, hash: u64, mut is_it: impl FnMut(*const *mut u8) -> bool) -> Option<Location> {
        let tag = tag_of(hash);
        let index = self.home(hash);
        let home = self.bucket(index);
        let mut at = Location { home, bucket: home, parent: std::ptr::null_mut(), slot: 0 };
        loop {
            // SAFETY: home, stash and chained buckets live as long as the segment; nobody else writes meanwhile.
            let bucket = unsafe { &*at.bucket };
            for slot in bucket.matching(tag) {
                if is_it(&raw const bucket.slots[slot]) {
                    at.slot = slot;
                    return Some(at);
                }
            }
            if let Some(next) = bucket.chained() {
                at.parent = at.bucket;
                at.bucket = next;
            } else if bucket.overflow > 0 {
                at.bucket = self.stash(index);
            } else {
                return None;
            }
        }
    }

    /// Asks the processor for what a lookup of `hash` touches behind its home bucket, without waiting for any of it.
    #[inline]
    pub(super) fn prefetch_behind_home(&self, hash: u64) {
        let index = self.home(hash);
        // SAFETY: a bucket of this segment; entries are not followed.
        let bucket = unsafe { &*self.bucket(index) };
        let mut found = false;
        for slot in bucket.matching(tag_of(hash)) {
            found = true;
            prefetch(bucket.slots[slot]);
            prefetch(bucket.slots[slot].wrapping_add(64));
        }
        if bucket.overflow > 0 && !found {
            prefetch(self.stash(index).cast());
        }
    }

    /// Puts an entry that is not in the segment into a free slot, if there is one on its way.
    #[inline]
    pub(super) fn place(&self, hash: u64, entry: *mut u8, expires: bool) -> Option<Location> {
        let tag = tag_of(hash);
        let index = self.home(hash);
        let home = self.bucket(index);
        let mut at = Location { home, bucket: home, parent: std::ptr::null_mut(), slot: 0 };
        let mut in_stash = false;
        loop {
            // SAFETY: as in `find`, and the caller has the table to itself.
            let bucket = unsafe { &mut *at.bucket };
            if let Some(slot) = bucket.free_slot() {
                bucket.fill(slot, tag, entry);
                if expires {
                    bucket.set_expiring(slot, true);
                }
                at.slot = slot;
                if in_stash {
                    // SAFETY: the home bucket is another one than the bucket borrowed above.
                    unsafe { (*home).overflow = (*home).overflow.saturating_add(1) };
                }
                return Some(at);
            }
            if let Some(next) = bucket.chained() {
                at.parent = at.bucket;
                at.bucket = next;
            } else if self.has_stash() && !in_stash {
                at.bucket = self.stash(index);
                in_stash = true;
            } else {
                return None;
            }
        }
    }

    /// Chains a bucket where `place` found no room.
    pub(super) fn chain(&self, hash: u64) {
        let index = self.home(hash);
        let mut last = if self.has_stash() { self.stash(index) } else { self.bucket(index) };
        // SAFETY: the chain's buckets live as long as the segment; the caller has the table to itself.
        unsafe {
            while let Some(next) = (*last).chained() {
                last = next;
            }
            let child = Box::into_raw(Box::new(Bucket::empty()));
            (*last).chain(child, |tag, entry| (*child).fill(0, tag, entry));
        }
    }

    /// Takes the entry at `at` out; returns it, and how many chained buckets became empty and were freed.
    #[inline]
    pub(super) fn remove(&self, at: Location) -> (*mut u8, usize) {
        // SAFETY: the location was found in this segment and nothing changed since; the caller has the table to itself.
        unsafe {
            let entry = (*at.bucket).vacate(at.slot);
            if at.bucket != at.home && self.has_stash() && (*at.home).overflow != u8::MAX {
                (*at.home).overflow = (*at.home).overflow.saturating_sub(1);
            }
            let unused = !at.parent.is_null() && (*at.bucket).occupied().is_empty() && (*at.bucket).chained().is_none();
            if unused {
                drop(Box::from_raw((*at.parent).unchain()));
            }
            (entry, usize::from(unused))
        }
    }

    /// Calls `visit` with every slot that holds an entry, bucket by bucket, chained ones included.
    pub(super) fn for_each_slot(&self, mut visit: impl FnMut(*mut *mut u8)) {
        for index in 0..usize::from(self.total) {
            self.prefetch_ahead(index);
            Segment::for_each_in_chain(self.bucket(index), &mut visit);
        }
    }

    /// Calls `visit` with every slot of a bucket and of those chained to it.
    pub(super) fn for_each_in_chain(bucket: *mut Bucket, visit: &mut impl FnMut(*mut *mut u8)) {
        let mut next = Some(bucket);
        while let Some(bucket) = next {
            // SAFETY: the bucket belongs to a segment that lives; `visit` does not change buckets.
            unsafe {
                for slot in (*bucket).occupied() {
                    visit((&raw mut (*bucket).slots).cast::<*mut u8>().add(slot));
                }
                next = (*bucket).chained();
            }
        }
    }

    /// Calls `visit` with the slots of expiring entries where those of one home bucket may be.
    pub(super) fn for_each_expiring_of_home(&self, home: usize, mut visit: impl FnMut(*mut *mut u8, bool)) {
        let mut own = true;
        let mut next = Some(self.bucket(home));
        while let Some(bucket) = next {
            // SAFETY: a bucket of this segment, or one chained to it; `visit` does not change buckets.
            let (expiring, chained, overflow) =
                unsafe { ((*bucket).expiring(), (*bucket).chained(), (*bucket).overflow) };
            for slot in expiring {
                // SAFETY: as above; a slot is below seven.
                visit(unsafe { (&raw mut (*bucket).slots).cast::<*mut u8>().add(slot) }, own);
            }
            next = chained;
            if next.is_none() && own && overflow > 0 {
                own = false;
                next = Some(self.stash(home));
            }
        }
    }

    /// Calls `visit` with the slots where entries of one home bucket may be: all of the home's, and when some of them
    /// overflowed, all of the stash's, which holds other homes' entries too.
    pub(super) fn for_each_of_home(&self, home: usize, mut visit: impl FnMut(*mut *mut u8, bool)) {
        let bucket = self.bucket(home);
        Segment::for_each_in_chain(bucket, &mut |slot| visit(slot, true));
        // SAFETY: a bucket of this segment.
        if unsafe { (*bucket).overflow } > 0 {
            Segment::for_each_in_chain(self.stash(home), &mut |slot| visit(slot, false));
        }
    }

    /// Asks for the entries that a walk from bucket to bucket will come to soon.
    #[inline]
    pub(super) fn prefetch_ahead(&self, home: usize) {
        const BUCKETS: usize = 4;
        if home + BUCKETS < usize::from(self.homes) {
            // SAFETY: a bucket of this segment; the entries are not followed.
            let ahead = unsafe { &*self.bucket(home + BUCKETS) };
            ahead.occupied().for_each(|slot| prefetch(ahead.slots[slot]));
        }
    }

    /// Counts the entries.
    pub(super) fn count(&self) -> usize {
        let mut count = 0;
        for index in 0..usize::from(self.total) {
            let mut next = Some(self.bucket(index));
            while let Some(bucket) = next {
                // SAFETY: buckets of this segment.
                unsafe {
                    count += (*bucket).occupied().len();
                    next = (*bucket).chained();
                }
            }
        }
        count
    }
}
