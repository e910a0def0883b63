//! One walk over the whole table that sees it as it was when the walk began, while the table goes on changing.
//!
//! The walk goes in hash order, bucket by bucket, so what it has seen is everything below a position. Whoever changes or
//! removes an entry above it calls [`EntryMut::mark_walked`] first and keeps the old value; entries made above it
//! are marked as they are made. The walk passes over marked entries and takes the marks off, so that none is left
//! when it ends. A mark is a bit of the entry: a walk costs no memory, and without one a change costs a comparison.

use super::entry::{Entry, WALKED};
use super::handle::EntryMut;
use super::segment::POSITION_BITS;
use super::{Dict, Header};

/// Where a table stands that no walk is in.
pub(super) const NO_WALK: u64 = u64::MAX;

/// The position of a hash.
#[inline]
fn position(hash: u64) -> u64 {
    hash >> (64 - POSITION_BITS)
}

impl<V> Dict<V> {
    /// Begins a walk: from now on, changes above it must be told. One at a time.
    pub fn begin_walk(&mut self) {
        assert!(!self.is_walking(), "the walk before has ended");
        self.unwalked_from = if self.is_empty() { NO_WALK } else { 0 };
    }

    /// Whether a walk has more to see.
    #[inline]
    pub fn is_walking(&self) -> bool {
        self.unwalked_from != NO_WALK
    }

    /// Whether a walk has yet to come to this hash.
    #[inline]
    pub fn is_unwalked(&self, hash: u64) -> bool {
        position(hash) >= self.unwalked_from
    }

    /// Goes on by one bucket, some five entries, and visits those that are as they were. False: that was the last.
    pub fn walk(&mut self, visit: &mut dyn FnMut(&Entry<V>)) -> bool {
        let from = self.unwalked_from;
        if from == NO_WALK {
            return false;
        }
        let hash = from << (64 - POSITION_BITS);
        let Some(segment) = self.segment(hash) else {
            self.unwalked_from = NO_WALK;
            return false;
        };
        let home = segment.home(hash);
        segment.prefetch_ahead(home);
        segment.for_each_of_home(home, |slot, own| {
            // SAFETY: the slot holds an entry, and the table is borrowed exclusively.
            let entry = unsafe { Entry::<V>::in_slot_mut(slot) };
            let hash = self.hash(entry.key());
            // A bucket may begin below the position, when the table changed its shape.
            let ahead = position(hash) >= from && (own || segment.home(hash) == home);
            if ahead && !entry.take_mark() {
                visit(entry);
            }
        });
        let next = segment.end_of_home(hash, home);
        self.unwalked_from = if next >> POSITION_BITS == 0 { next } else { NO_WALK };
        self.is_walking()
    }
}

impl<V> EntryMut<'_, V> {
    /// Tells the walk to pass over the entry. False: it was told before, or has been here: there is nothing to keep.
    pub fn mark_walked(&mut self) -> bool {
        self.dict.is_unwalked(self.hash) && self.entry_mut().mark()
    }
}

impl<V> Entry<V> {
    /// Whether the mark is new.
    pub(super) fn mark(&mut self) -> bool {
        let flags = self.header().flags;
        self.write_flags(flags | WALKED);
        flags & WALKED == 0
    }

    /// Whether there was a mark.
    fn take_mark(&mut self) -> bool {
        let flags = self.header().flags;
        // Most have none: their lines stay clean.
        if flags & WALKED != 0 {
            self.write_flags(flags & !WALKED);
        }
        flags & WALKED != 0
    }

    fn write_flags(&mut self, flags: u8) {
        // SAFETY: every entry begins with an initialized header, and `&mut self` is exclusive.
        unsafe { (*self.start.as_ptr().cast::<Header>()).flags = flags };
    }
}
