//! Entries move to fresh memory, where they lie side by side: what mass deletes leave behind keeps a page alive for a few
//! entries each. Nothing here decides when, and what was left is freed by whoever gets it: by another thread than the one
//! that moves, lest the allocator hand the same pieces out again.

use std::ptr::{self, NonNull};

use super::Dict;
use super::entry::{Entry, OBJECT};
use super::segment::POSITION_BITS;
use super::value::ValueMut;

/// Memory that an entry has left; to be dropped where it does not matter.
pub struct Husk {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: it is memory that nobody points to any more.
unsafe impl Send for Husk {}

impl Drop for Husk {
    fn drop(&mut self) {
        // SAFETY: `repack` read the size from the entry, and took the only pointer away.
        unsafe { Entry::<()>::deallocate(self.start, self.bytes) };
    }
}

impl<V> Dict<V> {
    /// Moves the entries of some buckets from a position on, and shows the objects among them; the next position, 0 at
    /// the end. An entry is moved at most once, unless the table changes its shape meanwhile.
    pub fn repack(&mut self, cursor: u64, husks: &mut Vec<Husk>, objects: &mut dyn FnMut(&mut V)) -> u64 {
        const HOMES: usize = 16;
        let hash = cursor << (64 - POSITION_BITS);
        let Some(segment) = self.segment(hash).filter(|_| cursor >> POSITION_BITS == 0) else { return 0 };
        let first = segment.home(hash);
        let last = (first + HOMES).min(segment.homes()) - 1;
        for home in first..=last {
            segment.prefetch_ahead(home);
            segment.for_each_of_home(home, |slot, own| {
                // SAFETY: the slot holds the only pointer to an entry, and the table is borrowed exclusively. The new
                // memory is as large as the old, which nobody looks at again.
                unsafe {
                    let entry = Entry::<V>::in_slot(slot);
                    if !own && segment.home(self.hash(entry.key())) != home {
                        return;
                    }
                    let (start, bytes) = (entry.start, entry.entry_bytes());
                    let moved = Entry::<V>::allocate_raw(bytes).into_raw();
                    ptr::copy_nonoverlapping(start.as_ptr(), moved, bytes);
                    *slot = moved;
                    husks.push(Husk { start, bytes });
                    let entry = Entry::<V>::in_slot_mut(slot);
                    if entry.kind() == OBJECT
                        && let ValueMut::Object(object) = entry.value_mut()
                    {
                        objects(object);
                    }
                }
            });
        }
        let next = segment.end_of_home(hash, last);
        if next >> POSITION_BITS == 0 { next } else { 0 }
    }
}
