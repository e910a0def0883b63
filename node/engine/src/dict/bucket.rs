//! One cache line of the table: seven entry pointers, seven one-byte tags, and a count of entries that found no room here.
//! It knows neither keys nor hashes, and it never follows an entry pointer. A tag is seven bits of the hash, and one that
//! says whether the entry expires: so whoever looks for those passes over all others without touching them.

/// Entry pointers per bucket.
pub(super) const SLOTS: usize = 7;
/// Bytes per bucket.
pub(super) const BUCKET_BYTES: usize = size_of::<Bucket>();

/// Tag of a slot that holds nothing.
const EMPTY: u8 = 0;
/// Tag of the last slot when it holds a pointer to a further bucket instead of an entry.
const CHAIN: u8 = 1;
const LAST: usize = SLOTS - 1;
/// Beside the tag of an entry that expires.
const EXPIRES: u8 = 0x80;
const HIGH_BITS: u64 = 0x0080_8080_8080_8080;
const LOW_SEVEN: u64 = 0x7f7f_7f7f_7f7f_7f7f;
const EACH_BYTE: u64 = 0x0101_0101_0101_0101;

/// Seven slots. All zero bytes are an empty bucket.
#[repr(C, align(64))]
pub(super) struct Bucket {
    /// Valid where the tag is neither empty nor chain.
    pub slots: [*mut u8; SLOTS],
    tags: [u8; SLOTS],
    /// How many entries whose home is this bucket live in the stash. Sticks at 255.
    pub overflow: u8,
}

/// The tag of a hash: never `EMPTY`, never `CHAIN`. From bits that neither the position nor the caller uses: shards are
/// chosen by the lowest bits, and tags that all agree within a shard would tell nothing.
#[inline]
pub(super) fn tag_of(hash: u64) -> u8 {
    let tag = (hash >> 16) as u8 & !EXPIRES;
    if tag < 2 { tag + 2 } else { tag }
}

/// Slot numbers, lowest first, as one bit per byte.
#[derive(Clone, Copy)]
pub(super) struct SlotSet(u64);

impl Iterator for SlotSet {
    type Item = usize;
    #[inline]
    fn next(&mut self) -> Option<usize> {
        if self.0 == 0 {
            return None;
        }
        let slot = self.0.trailing_zeros() as usize / 8;
        self.0 &= self.0 - 1;
        Some(slot)
    }
}

impl SlotSet {
    pub(super) fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl Bucket {
    pub(super) const fn empty() -> Bucket {
        Bucket { slots: [std::ptr::null_mut(); SLOTS], tags: [EMPTY; SLOTS], overflow: 0 }
    }

    #[inline]
    fn tag_word(&self) -> u64 {
        let t = &self.tags;
        u64::from_le_bytes([t[0], t[1], t[2], t[3], t[4], t[5], t[6], 0])
    }

    /// Slots whose tag is exactly `tag`, whether their entries expire or not: no false positives among the bytes.
    #[inline]
    pub(super) fn matching(&self, tag: u8) -> SlotSet {
        let difference = self.tag_word() ^ EACH_BYTE.wrapping_mul(u64::from(tag));
        SlotSet(!(difference & LOW_SEVEN).wrapping_add(LOW_SEVEN) & HIGH_BITS)
    }

    /// Slots whose entries expire.
    #[inline]
    pub(super) fn expiring(&self) -> SlotSet {
        SlotSet(self.tag_word() & HIGH_BITS)
    }

    /// Says whether the entry in a slot expires.
    #[inline]
    pub(super) fn set_expiring(&mut self, slot: usize, expires: bool) {
        debug_assert!(self.tags[slot] & !EXPIRES > CHAIN, "only an entry expires");
        self.tags[slot] = self.tags[slot] & !EXPIRES | if expires { EXPIRES } else { 0 };
    }

    /// The lowest slot that holds nothing.
    #[inline]
    pub(super) fn free_slot(&self) -> Option<usize> {
        self.matching(EMPTY).next()
    }

    /// Slots that hold an entry.
    #[inline]
    pub(super) fn occupied(&self) -> SlotSet {
        let taken = !self.matching(EMPTY).0 & HIGH_BITS;
        SlotSet(if self.tags[LAST] == CHAIN { taken & (HIGH_BITS >> 8) } else { taken })
    }

    /// Puts an entry into a free slot.
    #[inline]
    pub(super) fn fill(&mut self, slot: usize, tag: u8, entry: *mut u8) {
        debug_assert!(self.tags[slot] == EMPTY && tag & !EXPIRES > CHAIN, "only a free slot is filled");
        self.slots[slot] = entry;
        self.tags[slot] = tag;
    }

    /// Empties a slot that holds an entry and returns the entry.
    #[inline]
    pub(super) fn vacate(&mut self, slot: usize) -> *mut u8 {
        self.tags[slot] = EMPTY;
        std::mem::replace(&mut self.slots[slot], std::ptr::null_mut())
    }

    /// The bucket chained to this one, if any.
    #[inline]
    pub(super) fn chained(&self) -> Option<*mut Bucket> {
        (self.tags[LAST] == CHAIN).then(|| self.slots[LAST].cast())
    }

    /// Hangs `child` on the last slot of a full bucket; the entry that was there moves into the child.
    pub(super) fn chain(&mut self, child: *mut Bucket, into_child: impl FnOnce(u8, *mut u8)) {
        into_child(self.tags[LAST], self.slots[LAST]);
        self.slots[LAST] = child.cast();
        self.tags[LAST] = CHAIN;
    }

    /// Takes the chained bucket off; the last slot is free again.
    pub(super) fn unchain(&mut self) -> *mut Bucket {
        debug_assert!(self.tags[LAST] == CHAIN, "only a chained bucket is unchained");
        self.vacate(LAST).cast()
    }
}

/// Asks the processor to load the cache line at which something begins.
#[inline(always)]
pub fn prefetch_line<T>(of: &T) {
    prefetch(std::ptr::from_ref(of).cast());
}

/// Asks the processor to load the first cache lines of something, so many at most.
#[inline(always)]
pub fn prefetch_lines<T>(of: &T, lines: usize) {
    let start = std::ptr::from_ref(of).cast::<u8>();
    for line in 0..lines.min(size_of::<T>().div_ceil(64)) {
        prefetch(start.wrapping_add(line * 64));
    }
}

/// Asks the processor to load the cache line at `address`, which may be any address at all.
#[inline(always)]
pub(super) fn prefetch(address: *const u8) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: a prefetch never faults, whatever the address.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address.cast());
    }
    #[cfg(all(target_arch = "aarch64", not(miri)))]
    // SAFETY: a prefetch never faults, whatever the address; it changes no register and no memory.
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{0}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
    #[cfg(any(miri, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
    let _ = address;
}
