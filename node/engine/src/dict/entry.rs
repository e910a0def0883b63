//! One key and its value: a single heap allocation behind a thin pointer. It knows its own bytes; it does not know the
//! table that points at it, commands, or the time.
//!
//! ```text
//! header 8 bytes                         optional, in this order             bytes
//! +-------+-------------+-------+-------+----------+-----------+----------+-----+---------------------+
//! | flags | access (24) | key   | value | expiry   | payload   | key      | key | value, when inline  |
//! | u8    |             | len16 | len16 | i64 (ms) | 0, 8, 24  | len64    |     |                     |
//! +-------+-------------+-------+-------+----------+-----------+----------+-----+---------------------+
//! ```
//!
//! The payload is an integer (8), the three words of a `Vec<u8>` (24), a `V` (8), or nothing when the value's bytes
//! follow the key. Long keys (65536 bytes and more) store their length in `key len64`. The size of the allocation follows
//! from the header alone: the bytes used, rounded up to the allocator's size class. So a value may change in place as
//! long as it stays in its class, and nothing is stored about capacity.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::ptr::{self, NonNull};

use super::value::{NewValue, OldValue, ValueMut, ValueRef};

/// Strings up to this length live in the entry itself; longer ones get a buffer of their own. Reading 700 bytes in the
/// entry is 15 % cheaper than in a buffer, overwriting them 40 %; beyond a kilobyte the copying outweighs the rest.
pub const INLINE_VALUE_BYTES_MAX: usize = 1024;

pub(super) const INT: u8 = 0;
pub(super) const INLINE: u8 = 1;
pub(super) const HEAP: u8 = 2;
pub(super) const OBJECT: u8 = 3;
pub(super) const KIND: u8 = 3;
pub(super) const HAS_EXPIRY: u8 = 4;
pub(super) const LONG_KEY: u8 = 8;
/// A walk passes over the entry; see `walk`.
pub(super) const WALKED: u8 = 16;
/// The string was changed in place since it was set.
pub(super) const EDITED: u8 = 32;

pub(super) const HEADER_BYTES: usize = 8;
const ALIGN: usize = 8;
/// Where the bytes of the key begin, by the low four bits of the flags.
const KEY_OFFSET: [u8; 16] = {
    let mut table = [0; 16];
    let mut flags = 0;
    while flags < 16 {
        let payload = match flags as u8 & KIND {
            INLINE => 0,
            HEAP => 24,
            _ => 8,
        };
        let expiry = if flags as u8 & HAS_EXPIRY != 0 { 8 } else { 0 };
        let length = if flags as u8 & LONG_KEY != 0 { 8 } else { 0 };
        table[flags] = HEADER_BYTES as u8 + expiry + payload + length;
        flags += 1;
    }
    table
};

#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(super) struct Header {
    pub flags: u8,
    access: [u8; 3],
    key_len: u16,
    pub value_len: u16,
}

/// The three words of a `Vec<u8>` that belongs to an entry.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct HeapParts {
    pub start: *mut u8,
    pub len: usize,
    pub capacity: usize,
}

/// A key with its value, expiry and access clock, as seen in the table.
#[repr(transparent)]
pub struct Entry<V> {
    pub(super) start: NonNull<u8>,
    owns: PhantomData<V>,
}

/// Rounds a request up to what the allocator (jemalloc's size classes) really takes for it.
#[inline]
pub const fn allocation_bytes(request: usize) -> usize {
    if request <= 128 {
        return (request + 15) & !15;
    }
    let step = 1 << (usize::BITS - (request - 1).leading_zeros() - 3);
    (request + step - 1) & !(step - 1)
}

impl<V> Entry<V> {
    /// The bytes of the key.
    #[inline]
    pub fn key(&self) -> &[u8] {
        let header = self.header();
        // SAFETY: the key's bytes were written when the entry was made and the allocation lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.at(key_offset(header.flags)), self.key_len(header)) }
    }

    /// The value.
    #[inline]
    pub fn value(&self) -> ValueRef<'_, V> {
        let header = self.header();
        // SAFETY: the kind in the flags says what the payload is; it is initialized and lives as long as `self`.
        unsafe {
            match header.flags & KIND {
                INLINE => {
                    let offset = key_offset(header.flags) + self.key_len(header);
                    ValueRef::Str(std::slice::from_raw_parts(self.at(offset), usize::from(header.value_len)))
                }
                INT => ValueRef::Int(self.payload(header.flags).cast::<i64>().read()),
                HEAP => {
                    let parts = self.payload(header.flags).cast::<HeapParts>().read();
                    ValueRef::Str(std::slice::from_raw_parts(parts.start, parts.len))
                }
                _ => ValueRef::Object(&*self.payload(header.flags).cast::<V>()),
            }
        }
    }

    /// The value, to be changed in place.
    #[inline]
    pub(super) fn value_mut(&mut self) -> ValueMut<'_, V> {
        let header = self.header();
        // SAFETY: as in `value`; `&mut self` is exclusive.
        unsafe {
            match header.flags & KIND {
                INLINE => {
                    let offset = key_offset(header.flags) + self.key_len(header);
                    ValueMut::Str(std::slice::from_raw_parts_mut(self.at(offset), usize::from(header.value_len)))
                }
                INT => ValueMut::Int(&mut *self.payload(header.flags).cast::<i64>()),
                HEAP => {
                    let parts = self.payload(header.flags).cast::<HeapParts>().read();
                    ValueMut::Str(std::slice::from_raw_parts_mut(parts.start, parts.len))
                }
                _ => ValueMut::Object(&mut *self.payload(header.flags).cast::<V>()),
            }
        }
    }

    /// When the entry expires, in unix milliseconds; `None` means never.
    #[inline]
    pub fn expires_at(&self) -> Option<i64> {
        if self.header().flags & HAS_EXPIRY == 0 {
            return None;
        }
        // SAFETY: the flag says that the eight bytes behind the header are the expiry.
        Some(unsafe { self.at(HEADER_BYTES).cast::<i64>().read() })
    }

    /// The 24 bits of the access clock; their meaning belongs to eviction.
    #[inline]
    pub fn access(&self) -> u32 {
        let [low, middle, high] = self.header().access;
        u32::from_le_bytes([low, middle, high, 0])
    }

    /// Sets the access clock; bits above the 24th are dropped.
    #[inline]
    pub(super) fn set_access(&mut self, access: u32) {
        let [low, middle, high, _] = access.to_le_bytes();
        // SAFETY: the header is initialized and `&mut self` is exclusive.
        unsafe { (*self.start.as_ptr().cast::<Header>()).access = [low, middle, high] };
    }

    /// Whether the value's bytes share the entry's allocation (true for integers too).
    #[inline]
    pub fn is_inline(&self) -> bool {
        matches!(self.kind(), INT | INLINE)
    }

    /// Whether the string was changed in place since it was set: Redis keeps such a one apart from its key.
    #[inline]
    pub fn is_edited(&self) -> bool {
        self.header().flags & EDITED != 0
    }

    #[inline]
    pub(super) fn set_edited(&mut self, edited: bool) {
        let flags = self.header().flags & !EDITED | if edited { EDITED } else { 0 };
        // SAFETY: the header is initialized and `&mut self` is exclusive.
        unsafe { (*self.start.as_ptr().cast::<Header>()).flags = flags };
    }

    /// Bytes taken from the allocator: the entry, and the buffer of a long string. What an object owns is not known
    /// here.
    #[inline]
    pub fn memory_bytes(&self) -> usize {
        self.entry_bytes() + self.payload_bytes()
    }

    #[inline]
    pub(super) fn kind(&self) -> u8 {
        self.header().flags & KIND
    }

    #[inline]
    pub(super) fn has_expiry(&self) -> bool {
        self.header().flags & HAS_EXPIRY != 0
    }

    /// Bytes of the entry's own allocation.
    #[inline]
    pub(super) fn entry_bytes(&self) -> usize {
        let header = self.header();
        let inline = if header.flags & KIND == INLINE { usize::from(header.value_len) } else { 0 };
        allocation_bytes(key_offset(header.flags) + self.key_len(header) + inline)
    }

    #[inline]
    fn payload_bytes(&self) -> usize {
        match self.kind() {
            // SAFETY: the kind says that the payload is the parts of a `Vec`.
            HEAP => allocation_bytes(unsafe { self.payload(self.header().flags).cast::<HeapParts>().read() }.capacity),
            _ => 0,
        }
    }

    #[inline]
    pub(super) fn header(&self) -> Header {
        // SAFETY: every entry begins with an initialized header.
        unsafe { self.start.as_ptr().cast::<Header>().read() }
    }

    #[inline]
    pub(super) fn at(&self, offset: usize) -> *mut u8 {
        self.start.as_ptr().wrapping_add(offset)
    }

    /// Where the integer, the parts of the `Vec` or the object are.
    #[inline]
    pub(super) fn payload(&self, flags: u8) -> *mut u8 {
        self.at(if flags & HAS_EXPIRY != 0 { HEADER_BYTES + 8 } else { HEADER_BYTES })
    }

    #[inline]
    pub(super) fn key_len(&self, header: Header) -> usize {
        if header.flags & LONG_KEY == 0 {
            return usize::from(header.key_len);
        }
        // SAFETY: the flag says that the eight bytes before the key are its length.
        unsafe { self.at(key_offset(header.flags) - 8).cast::<usize>().read() }
    }
}

#[inline]
pub(super) const fn key_offset(flags: u8) -> usize {
    KEY_OFFSET[(flags & 15) as usize] as usize
}

fn layout(request: usize) -> Layout {
    Layout::from_size_align(allocation_bytes(request), ALIGN).expect("an entry is smaller than the address space")
}

/// Building and freeing: only the table and its handles may call these.
impl<V> Entry<V> {
    /// Views the pointer in a slot as an entry.
    ///
    /// # Safety
    /// `slot` holds a pointer made by `create`, and neither it nor the entry changes while the reference lives.
    #[inline]
    pub(super) unsafe fn in_slot<'a>(slot: *const *mut u8) -> &'a Entry<V> {
        // SAFETY: `Entry` is a transparent wrapper of the pointer; the rest is the caller's promise.
        unsafe { &*slot.cast::<Entry<V>>() }
    }

    /// Views the pointer in a slot as an entry that may change and move.
    ///
    /// # Safety
    /// As `in_slot`, and the reference is the only one.
    #[inline]
    pub(super) unsafe fn in_slot_mut<'a>(slot: *mut *mut u8) -> &'a mut Entry<V> {
        // SAFETY: as in `in_slot`.
        unsafe { &mut *slot.cast::<Entry<V>>() }
    }

    /// The entry a raw pointer leads to.
    ///
    /// # Safety
    /// `start` comes from `into_raw`, and from now on leads to the entry only here.
    #[inline]
    pub(super) unsafe fn from_raw(start: *mut u8) -> Entry<V> {
        // SAFETY: `into_raw` gives no null pointers.
        Entry { start: unsafe { NonNull::new_unchecked(start) }, owns: PhantomData }
    }

    #[inline]
    pub(super) fn into_raw(self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// Makes an entry. Nothing frees it but `free`.
    #[inline]
    pub(super) fn create(key: &[u8], value: NewValue<'_, V>, expiry: Option<i64>) -> Entry<V> {
        match value {
            NewValue::Str(bytes) if bytes.len() <= INLINE_VALUE_BYTES_MAX => {
                let entry = Entry::allocate(key, INLINE, bytes.len(), expiry);
                let offset = key_offset(entry.header().flags) + key.len();
                // SAFETY: the allocation has room for the key and these bytes behind it.
                unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), entry.at(offset), bytes.len()) };
                entry
            }
            NewValue::Str(bytes) => Entry::create_with_heap(key, bytes.to_vec(), expiry),
            NewValue::Bytes(bytes) if bytes.len() <= INLINE_VALUE_BYTES_MAX => {
                Entry::create(key, NewValue::Str(&bytes), expiry)
            }
            NewValue::Bytes(bytes) => Entry::create_with_heap(key, bytes, expiry),
            NewValue::Int(number) => {
                let mut entry = Entry::allocate(key, INT, 0, expiry);
                entry.write_int(number);
                entry
            }
            NewValue::Object(object) => {
                let mut entry = Entry::allocate(key, OBJECT, 0, expiry);
                entry.write_object(object);
                entry
            }
        }
    }

    fn create_with_heap(key: &[u8], bytes: Vec<u8>, expiry: Option<i64>) -> Entry<V> {
        let mut entry = Entry::allocate(key, HEAP, 0, expiry);
        entry.write_heap(bytes);
        entry
    }

    /// Everything but the payload and the inline value, which the caller writes at once.
    #[inline]
    fn allocate(key: &[u8], kind: u8, inline: usize, expiry: Option<i64>) -> Entry<V> {
        let long = key.len() > usize::from(u16::MAX);
        let flags = kind | if expiry.is_some() { HAS_EXPIRY } else { 0 } | if long { LONG_KEY } else { 0 };
        let offset = key_offset(flags);
        let entry = Entry::allocate_raw(offset + key.len() + inline);
        let key_len = if long { 0 } else { key.len() as u16 };
        // SAFETY: the allocation is fresh and holds header, expiry, payload, key length, key and inline value.
        unsafe {
            entry.start.cast::<Header>().write(Header { flags, access: [0; 3], key_len, value_len: inline as u16 });
            if let Some(at) = expiry {
                entry.at(HEADER_BYTES).cast::<i64>().write(at);
            }
            if long {
                entry.at(offset - 8).cast::<usize>().write(key.len());
            }
            ptr::copy_nonoverlapping(key.as_ptr(), entry.at(offset), key.len());
        }
        entry
    }

    #[inline]
    pub(super) fn allocate_raw(request: usize) -> Entry<V> {
        let layout = layout(request);
        // SAFETY: the size is not zero, an entry has a header.
        let start = unsafe { alloc(layout) };
        match NonNull::new(start) {
            Some(start) => Entry { start, owns: PhantomData },
            None => handle_alloc_error(layout),
        }
    }

    /// Frees the entry's own allocation, not what the payload owns.
    ///
    /// # Safety
    /// `bytes` is what `entry_bytes` says of the entry at `start`, which is not used any more.
    #[inline]
    pub(super) unsafe fn deallocate(start: NonNull<u8>, bytes: usize) {
        // SAFETY: `allocate_raw` used the same, already rounded, size and alignment.
        unsafe { dealloc(start.as_ptr(), Layout::from_size_align_unchecked(bytes, ALIGN)) };
    }

    /// Frees the entry and what it owns.
    ///
    /// # Safety
    /// The pointer is not used any more.
    #[inline]
    pub(super) unsafe fn free(mut self) {
        // SAFETY: the payload is taken out once, and the entry is not used afterwards.
        unsafe {
            let payload = self.take_payload();
            Entry::<V>::deallocate(self.start, self.entry_bytes());
            drop(payload);
        }
    }

    /// Moves what the payload owns out. The entry keeps stale words: write a payload or free the entry next.
    #[inline]
    pub(super) unsafe fn take_payload(&mut self) -> OldValue<V> {
        let payload = self.payload(self.header().flags);
        // SAFETY: the kind says what the payload is.
        unsafe {
            match self.kind() {
                HEAP => {
                    let parts = payload.cast::<HeapParts>().read();
                    OldValue::Bytes(Vec::from_raw_parts(parts.start, parts.len, parts.capacity))
                }
                OBJECT => OldValue::Object(payload.cast::<V>().read()),
                _ => OldValue::Small,
            }
        }
    }

    #[inline]
    pub(super) fn write_int(&mut self, number: i64) {
        debug_assert_eq!(self.kind(), INT);
        // SAFETY: an integer's payload has eight aligned bytes.
        unsafe { self.payload(self.header().flags).cast::<i64>().write(number) };
    }

    #[inline]
    pub(super) fn write_object(&mut self, object: V) {
        const { assert!(size_of::<V>() <= 8 && align_of::<V>() <= ALIGN, "an object is a word") };
        debug_assert_eq!(self.kind(), OBJECT);
        // SAFETY: an object's payload has eight aligned bytes.
        unsafe { self.payload(self.header().flags).cast::<V>().write(object) };
    }

    pub(super) fn write_heap(&mut self, bytes: Vec<u8>) {
        debug_assert_eq!(self.kind(), HEAP);
        let mut bytes = ManuallyDrop::new(bytes);
        let parts = HeapParts { start: bytes.as_mut_ptr(), len: bytes.len(), capacity: bytes.capacity() };
        // SAFETY: a long string's payload has 24 aligned bytes.
        unsafe { self.payload(self.header().flags).cast::<HeapParts>().write(parts) };
    }
}

#[inline]
pub(super) const fn expiry_bytes(flags: u8) -> usize {
    if flags & HAS_EXPIRY != 0 { 8 } else { 0 }
}

/// An entry that has left its table. It may be dropped on any thread.
pub struct OwnedEntry<V> {
    entry: ManuallyDrop<Entry<V>>,
}

impl<V> OwnedEntry<V> {
    #[inline]
    pub(super) fn new(entry: Entry<V>) -> Self {
        OwnedEntry { entry: ManuallyDrop::new(entry) }
    }

    /// Takes the value, ready to be inserted under another key.
    pub fn into_value(self) -> NewValue<'static, V> {
        let mut this = ManuallyDrop::new(self);
        let small = match this.entry.value() {
            ValueRef::Int(number) => NewValue::Int(number),
            ValueRef::Str(bytes) if this.entry.kind() == INLINE => NewValue::Bytes(bytes.to_vec()),
            _ => NewValue::Int(0),
        };
        // SAFETY: the payload leaves once; the entry is freed and not used afterwards.
        unsafe {
            let payload = this.entry.take_payload();
            Entry::<V>::deallocate(this.entry.start, this.entry.entry_bytes());
            match payload {
                OldValue::Small => small,
                OldValue::Bytes(bytes) => NewValue::Bytes(bytes),
                OldValue::Object(object) => NewValue::Object(object),
            }
        }
    }
}

impl<V> Deref for OwnedEntry<V> {
    type Target = Entry<V>;
    #[inline]
    fn deref(&self) -> &Entry<V> {
        &self.entry
    }
}

impl<V> Drop for OwnedEntry<V> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: an owned entry is the only pointer to its allocation.
        unsafe { ManuallyDrop::take(&mut self.entry).free() };
    }
}

// SAFETY: an entry is plain bytes and an owned `V`; reading through `&` changes nothing.
unsafe impl<V: Send> Send for Entry<V> {}
// SAFETY: as above.
unsafe impl<V: Sync> Sync for Entry<V> {}
