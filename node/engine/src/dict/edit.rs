//! Changes to an entry: another value, another length, an expiry that comes or goes. In place while the entry stays in its
//! size class, in a new allocation otherwise. It knows the bytes of one entry and nothing of the table.

use std::mem::ManuallyDrop;
use std::ptr;

use super::bucket::prefetch;
use super::entry::{
    EDITED, Entry, HAS_EXPIRY, HEADER_BYTES, HEAP, Header, HeapParts, INLINE, INLINE_VALUE_BYTES_MAX, INT, KIND,
    LONG_KEY, OBJECT, allocation_bytes, expiry_bytes, key_offset,
};
use super::value::OldValue;

/// Only the table and its handles may call these: the table counts the bytes before and after.
impl<V> Entry<V> {
    /// Makes room for a payload of another kind or an inline value of another length, keeping key, expiry and access.
    /// The bytes of the new payload and value are not initialized.
    ///
    /// # Safety
    /// The old payload has been taken out; the caller writes the new one before anybody reads the value.
    unsafe fn reshape(&mut self, kind: u8, inline: usize) {
        let mut header = self.header();
        let (old_flags, old_bytes) = (header.flags, self.entry_bytes());
        let flags = header.flags & !(KIND | EDITED) | kind;
        let key_len = self.key_len(header);
        // The long-key length travels with the key.
        let lead = if flags & LONG_KEY != 0 { 8 } else { 0 };
        let (from, to) = (key_offset(old_flags) - lead, key_offset(flags) - lead);
        let request = key_offset(flags) + key_len + inline;
        header.flags = flags;
        header.value_len = inline as u16;
        if allocation_bytes(request) == old_bytes {
            // SAFETY: both ranges lie within the allocation; they may overlap.
            unsafe {
                ptr::copy(self.at(from), self.at(to), lead + key_len);
                self.start.cast::<Header>().write(header);
            }
            return;
        }
        let moved = Entry::<V>::allocate_raw(request);
        // SAFETY: both allocations hold the copied ranges; the old one is freed with the size it was made with.
        unsafe {
            moved.start.cast::<Header>().write(header);
            ptr::copy_nonoverlapping(self.at(HEADER_BYTES), moved.at(HEADER_BYTES), expiry_bytes(flags));
            ptr::copy_nonoverlapping(self.at(from), moved.at(to), lead + key_len);
            Entry::<V>::deallocate(self.start, old_bytes);
        }
        self.start = moved.start;
    }

    /// Replaces the value by the bytes of a string. `bytes` is not part of this entry: it could not be borrowed.
    #[inline]
    pub(super) fn set_string(&mut self, bytes: &[u8]) -> OldValue<V> {
        if self.overwrite(bytes) {
            return OldValue::Small;
        }
        if bytes.len() <= INLINE_VALUE_BYTES_MAX {
            // SAFETY: the payload is taken out before, and the value is written right after the reshaping.
            let old = unsafe {
                let old = self.take_payload();
                self.reshape(INLINE, bytes.len());
                old
            };
            self.copy_inline(bytes);
            return old;
        }
        if self.kind() == HEAP && self.heap_room(bytes.len()) {
            self.with_heap(|own| {
                own.clear();
                own.extend_from_slice(bytes);
            });
            return OldValue::Small;
        }
        self.set_heap(bytes.to_vec())
    }

    /// Whether the buffer holds `len` bytes without wasting more than half of itself.
    fn heap_room(&self, len: usize) -> bool {
        // SAFETY: called for long strings only.
        let capacity = unsafe { self.payload(self.header().flags).cast::<HeapParts>().read() }.capacity;
        len <= capacity && len >= capacity / 2
    }

    #[inline]
    fn copy_inline(&mut self, bytes: &[u8]) {
        let header = self.header();
        debug_assert!(header.flags & KIND == INLINE && usize::from(header.value_len) == bytes.len());
        let offset = key_offset(header.flags) + self.key_len(header);
        // SAFETY: the header says that so many bytes behind the key belong to the value.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.at(offset), bytes.len()) };
    }

    /// Replaces the value by a long string's buffer.
    pub(super) fn set_heap(&mut self, bytes: Vec<u8>) -> OldValue<V> {
        // SAFETY: the payload is taken out before, and written right after the reshaping.
        let old = unsafe {
            let old = self.take_payload();
            self.reshape(HEAP, 0);
            old
        };
        self.write_heap(bytes);
        old
    }

    #[inline]
    pub(super) fn set_int(&mut self, number: i64) -> OldValue<V> {
        let mut old = OldValue::Small;
        if self.kind() != INT {
            // SAFETY: the payload is taken out before, and written right after the reshaping.
            unsafe {
                old = self.take_payload();
                self.reshape(INT, 0);
            }
        }
        self.write_int(number);
        old
    }

    pub(super) fn set_object(&mut self, object: V) -> OldValue<V> {
        // SAFETY: the payload is taken out before, and written right after the reshaping.
        let old = unsafe {
            let old = self.take_payload();
            self.reshape(OBJECT, 0);
            old
        };
        self.write_object(object);
        old
    }

    /// Runs `change` on the buffer of a long string.
    pub(super) fn with_heap<R>(&mut self, change: impl FnOnce(&mut Vec<u8>) -> R) -> R {
        debug_assert_eq!(self.kind(), HEAP);
        let payload = self.payload(self.header().flags).cast::<HeapParts>();
        // SAFETY: the payload is the parts of a `Vec`; they are written back even if the buffer moved. Should `change`
        // unwind, it does so (capacity overflow) before the buffer moved, so the stored parts stay true.
        unsafe {
            let parts = payload.read();
            let mut bytes = ManuallyDrop::new(Vec::from_raw_parts(parts.start, parts.len, parts.capacity));
            let result = change(&mut bytes);
            payload.write(HeapParts { start: bytes.as_mut_ptr(), len: bytes.len(), capacity: bytes.capacity() });
            result
        }
    }

    /// Changes an inline string's length, keeping what fits of its bytes and zeroing what is new.
    pub(super) fn resize_inline(&mut self, len: usize) {
        debug_assert!(self.kind() == INLINE && len <= INLINE_VALUE_BYTES_MAX);
        let mut header = self.header();
        let old_bytes = self.entry_bytes();
        let offset = key_offset(header.flags) + self.key_len(header);
        let old_len = usize::from(header.value_len);
        header.value_len = len as u16;
        // SAFETY: the kept bytes lie in both allocations, which may be one; the new ones are zeroed.
        unsafe {
            if allocation_bytes(offset + len) != old_bytes {
                let moved = Entry::<V>::allocate_raw(offset + len);
                ptr::copy_nonoverlapping(self.at(0), moved.at(0), offset + old_len.min(len));
                Entry::<V>::deallocate(self.start, old_bytes);
                self.start = moved.start;
            }
            self.start.cast::<Header>().write(header);
            if len > old_len {
                ptr::write_bytes(self.at(offset + old_len), 0, len - old_len);
            }
        }
    }

    /// Sets or removes the expiry.
    #[inline]
    pub(super) fn set_expiry(&mut self, expiry: Option<i64>) {
        if expiry.is_some() != self.has_expiry() {
            self.toggle_expiry();
        }
        if let Some(at) = expiry {
            // SAFETY: the entry has room for an expiry now.
            unsafe { self.at(HEADER_BYTES).cast::<i64>().write(at) };
        }
    }

    /// Makes or removes the room of the expiry: all that follows moves by eight bytes.
    fn toggle_expiry(&mut self) {
        let mut header = self.header();
        let old_bytes = self.entry_bytes();
        let inline = if header.flags & KIND == INLINE { usize::from(header.value_len) } else { 0 };
        let used = key_offset(header.flags) + self.key_len(header) + inline;
        let from = HEADER_BYTES + expiry_bytes(header.flags);
        header.flags ^= HAS_EXPIRY;
        let to = HEADER_BYTES + expiry_bytes(header.flags);
        let request = used - from + to;
        // SAFETY: the moved range lies within both allocations, which may be one; the old one is freed with its size.
        unsafe {
            if allocation_bytes(request) == old_bytes {
                ptr::copy(self.at(from), self.at(to), used - from);
            } else {
                let moved = Entry::<V>::allocate_raw(request);
                ptr::copy_nonoverlapping(self.at(from), moved.at(to), used - from);
                Entry::<V>::deallocate(self.start, old_bytes);
                self.start = moved.start;
            }
            self.start.cast::<Header>().write(header);
        }
    }

    /// Asks for the first lines of a long string or of an object, as far as `prefetch_entry` has not.
    #[inline]
    pub(super) fn prefetch_payload(&self) {
        let header = self.header();
        if !self.is_inline() {
            // SAFETY: the parts of a `Vec` begin with a pointer, and an object is a word, most likely one.
            let target = unsafe { self.payload(header.flags).cast::<*const u8>().read() };
            prefetch(target);
            prefetch(target.wrapping_add(64));
        } else if header.value_len > 96 {
            prefetch(self.at(128));
            prefetch(self.at(192));
            prefetch(self.at(256));
        }
    }

    /// Overwrites an inline string by one of the same length; `false` if it is not one.
    #[inline]
    pub(super) fn overwrite(&mut self, bytes: &[u8]) -> bool {
        let header = self.header();
        let fits = header.flags & KIND == INLINE && usize::from(header.value_len) == bytes.len();
        if fits {
            if header.flags & EDITED != 0 {
                self.set_edited(false);
            }
            self.copy_inline(bytes);
        }
        fits
    }
}
