//! What a key holds besides a string, in one word: a pointer whose lowest bits say what it leads to. So a small collection
//! costs its key eight bytes and one piece of memory, a big one a box. This file knows sizes and owners, never what the
//! bytes mean. Besides the dict it is the only place with `unsafe`.
//!
//! ```text
//! word     address, aligned to 16 | kind (3 bits) | big (1 bit)
//! small    ──▶ used: 30 bits, spare: 2 bits | count: u32 | the bytes      a Run; no memory at all while it is empty
//! big      ──▶ the structure of that kind
//! ```
//!
//! The size of a run's memory follows from `used` and `spare`: the allocator's size class for the bytes used, and so many
//! classes above it. A run grows from class to class (a quarter or less each time), and shrinks when it is four too big.
//!
//! Invariant: the big bit is set by [`Slim::big`] alone, together with the kind that belongs to the type behind it. A run
//! that is swapped for another may lose its kind but never gain that bit, so nothing is ever read as what it is not.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error, realloc};
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::ptr;

use super::hash::Records;
use super::list_nodes::Nodes;
use super::ranking::Ranking;
use super::set::Members;
use super::stream::Inner;
use super::{Hash, List, Set, SortedSet, Stream};
use crate::dict::allocation_bytes;

const ALIGN: usize = 16;
const TAG: usize = ALIGN - 1;
const BIG: usize = 1;
const HEAD_BYTES: usize = size_of::<Head>();
const USED_BITS: u32 = 30;
/// No run grows beyond this.
pub(super) const RUN_BYTES_MAX: usize = (1 << USED_BITS) - 1;
/// Above this, memory is lengthened where it stands, if the allocator can. Below, it would look up what the memory is, far
/// away; to free one whose size it is told, it need not.
const MOVED_BYTES_MAX: usize = 4096;
/// Size classes a run may be too big by.
const SPARE_MAX: u32 = 3;

const LIST: usize = 0;
const HASH: usize = 1;
const SET: usize = 2;
const SORTED_SET: usize = 3;
const STREAM: usize = 4;

#[derive(Clone, Copy)]
#[repr(C)]
struct Head {
    used_and_spare: u32,
    count: u32,
}

impl Head {
    fn new(used: usize, spare: u32, count: u32) -> Head {
        Head { used_and_spare: used as u32 | spare << USED_BITS, count }
    }

    #[inline]
    fn used(self) -> usize {
        self.used_and_spare as usize & RUN_BYTES_MAX
    }

    #[inline]
    fn block_bytes(self) -> usize {
        let class = allocation_bytes(HEAD_BYTES + self.used());
        (0..self.used_and_spare >> USED_BITS).fold(class, |class, _| allocation_bytes(class + 1))
    }
}

/// How many classes lie between two; more than are allowed if they are too far apart.
#[inline]
fn classes_between(mut class: usize, above: usize) -> u32 {
    let mut steps = 0;
    while class < above && steps <= SPARE_MAX {
        class = allocation_bytes(class + 1);
        steps += 1;
    }
    steps
}

/// Bytes that grow and shrink, and a number that belongs to their owner.
#[repr(transparent)]
pub struct Run {
    word: *mut u8,
}

// SAFETY: a run owns its memory, and `&self` changes nothing.
unsafe impl Send for Run {}
// SAFETY: as above.
unsafe impl Sync for Run {}

impl Run {
    /// No bytes, no memory.
    pub(super) const fn empty() -> Run {
        Run { word: ptr::null_mut() }
    }

    /// These bytes.
    pub(super) fn from_bytes(bytes: &[u8], count: u32) -> Run {
        assert!(bytes.len() <= RUN_BYTES_MAX, "runs are bounded by their owners");
        let mut run = Run::empty();
        let block = allocate(allocation_bytes(HEAD_BYTES + bytes.len()));
        // SAFETY: the block has room for the head and the bytes.
        unsafe {
            block.cast::<Head>().write(Head::new(bytes.len(), 0, count));
            ptr::copy_nonoverlapping(bytes.as_ptr(), block.add(HEAD_BYTES), bytes.len());
        }
        run.lead_to(block);
        run
    }

    /// Whether it has memory: one that was filled or made with a count.
    #[inline]
    pub(super) fn has_memory(&self) -> bool {
        !self.block().is_null()
    }

    /// How many bytes there are.
    #[inline]
    pub(super) fn used(&self) -> usize {
        self.head().map_or(0, Head::used)
    }

    /// The owner's number; 0 while there is no memory.
    #[inline]
    pub(super) fn count(&self) -> u32 {
        self.head().map_or(0, |head| head.count)
    }

    /// Sets the owner's number of a run that has memory.
    #[inline]
    pub(super) fn set_count(&mut self, count: u32) {
        debug_assert!(count == 0 || self.has_memory());
        if self.has_memory() {
            // SAFETY: a run's memory begins with a head; `&mut self` is exclusive.
            unsafe { (*self.block().cast::<Head>()).count = count };
        }
    }

    /// The bytes.
    #[inline]
    pub(super) fn bytes(&self) -> &[u8] {
        let Some(head) = self.head() else { return &[] };
        // SAFETY: so many bytes behind the head are initialized.
        unsafe { std::slice::from_raw_parts(self.block().add(HEAD_BYTES), head.used()) }
    }

    /// The same, to be changed.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        let Some(head) = self.head() else { return &mut [] };
        // SAFETY: so many bytes behind the head are initialized, and the run, which owns them, is borrowed.
        unsafe { std::slice::from_raw_parts_mut(self.block().add(HEAD_BYTES), head.used()) }
    }

    /// What it takes from the allocator.
    #[inline]
    pub(super) fn heap_bytes(&self) -> usize {
        self.head().map_or(0, Head::block_bytes)
    }

    /// Puts the parts, one behind the other, in place of `old` bytes at `at`.
    #[inline]
    pub(super) fn splice(&mut self, at: usize, old: usize, parts: [&[u8]; 3]) {
        let head = self.head().unwrap_or(Head::new(0, 0, 0));
        let used = head.used();
        assert!(at <= used && old <= used - at, "only bytes that are there are replaced");
        let new: usize = parts.iter().map(|part| part.len()).sum();
        let wanted = used - old + new;
        assert!(wanted <= RUN_BYTES_MAX, "runs are bounded by their owners");
        if wanted == 0 {
            return self.free();
        }
        let have = if self.has_memory() { head.block_bytes() } else { 0 };
        let need = allocation_bytes(HEAD_BYTES + wanted);
        let mut spare = classes_between(need, have);
        let (tail, tail_at) = (at + old..used, at + new);
        if (need > have && have <= MOVED_BYTES_MAX) || spare > SPARE_MAX {
            let block = allocate(need);
            // SAFETY: the new block has room for all of it; the old one, if any, holds `used` bytes and is freed once.
            unsafe {
                block.cast::<Head>().write(Head::new(wanted, 0, head.count));
                if have > 0 {
                    let (from, to) = (self.block().add(HEAD_BYTES), block.add(HEAD_BYTES));
                    ptr::copy_nonoverlapping(from, to, at);
                    ptr::copy_nonoverlapping(from.add(tail.start), to.add(tail_at), tail.len());
                    deallocate(self.block(), have);
                }
            }
            self.lead_to(block);
        } else {
            if need > have {
                // SAFETY: the block was allocated with that size.
                self.lead_to(unsafe { reallocate(self.block(), have, need) });
                spare = 0;
            }
            // SAFETY: the block has room for all of it.
            unsafe {
                let bytes = self.block().add(HEAD_BYTES);
                ptr::copy(bytes.add(tail.start), bytes.add(tail_at), tail.len());
                self.block().cast::<Head>().write(Head::new(wanted, spare, head.count));
            }
        }
        let mut to = self.block().wrapping_add(HEAD_BYTES + at);
        for part in parts {
            // SAFETY: the parts fill the gap between what precedes `at` and the tail; they are borrowed from elsewhere.
            unsafe { ptr::copy_nonoverlapping(part.as_ptr(), to, part.len()) };
            to = to.wrapping_add(part.len());
        }
    }

    /// Gives back all memory it does not need; for a run that will not be written for a while.
    pub(super) fn shrink(&mut self) {
        let Some(head) = self.head() else { return };
        if head.used_and_spare >> USED_BITS > 0 {
            let mut tight = Run::from_bytes(self.bytes(), head.count);
            // The memory changes hands, the tags stay.
            let (own, other) = (self.block(), tight.block());
            self.lead_to(other);
            tight.lead_to(own);
        }
    }

    #[inline]
    fn block(&self) -> *mut u8 {
        self.word.map_addr(|address| address & !TAG)
    }

    #[inline]
    fn head(&self) -> Option<Head> {
        // SAFETY: a run's memory begins with a head.
        self.has_memory().then(|| unsafe { self.block().cast::<Head>().read() })
    }

    /// Leads to another block from now on; the tag stays.
    #[inline]
    fn lead_to(&mut self, block: *mut u8) {
        let tag = self.word.addr() & TAG;
        self.word = block.map_addr(|address| address | tag);
    }

    fn free(&mut self) {
        if let Some(head) = self.head() {
            // SAFETY: the block has this size, and is not used afterwards.
            unsafe { deallocate(self.block(), head.block_bytes()) };
            self.lead_to(ptr::null_mut());
        }
    }
}

impl Default for Run {
    fn default() -> Run {
        Run::empty()
    }
}

impl Clone for Run {
    fn clone(&self) -> Run {
        if self.has_memory() { Run::from_bytes(self.bytes(), self.count()) } else { Run::empty() }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.free();
    }
}

fn layout(bytes: usize) -> Layout {
    Layout::from_size_align(bytes, ALIGN).expect("runs are below two gigabytes")
}

fn allocate(bytes: usize) -> *mut u8 {
    // SAFETY: the size is not zero, a run has a head.
    let block = unsafe { alloc(layout(bytes)) };
    if block.is_null() {
        handle_alloc_error(layout(bytes));
    }
    block
}

/// # Safety
/// `block` was allocated with `have` bytes, and is not used afterwards.
unsafe fn reallocate(block: *mut u8, have: usize, need: usize) -> *mut u8 {
    // SAFETY: the caller's promise; the larger size is a size class below two gigabytes.
    let block = unsafe { realloc(block, layout(have), need) };
    if block.is_null() {
        handle_alloc_error(layout(need));
    }
    block
}

/// # Safety
/// `block` was allocated with so many bytes, and is not used afterwards.
#[inline]
unsafe fn deallocate(block: *mut u8, bytes: usize) {
    // SAFETY: the caller's promise; the layout was made before, when the block was.
    unsafe { dealloc(block, Layout::from_size_align_unchecked(bytes, ALIGN)) };
}

/// A structure that a word may lead to.
///
/// # Safety
/// No two of them have the same kind, which is below eight.
pub(super) unsafe trait Big {
    const KIND: usize;
}
// SAFETY: these are all, and their kinds differ.
unsafe impl Big for Nodes {
    const KIND: usize = LIST;
}
// SAFETY: as above.
unsafe impl Big for Records {
    const KIND: usize = HASH;
}
// SAFETY: as above.
unsafe impl Big for Members {
    const KIND: usize = SET;
}
// SAFETY: as above.
unsafe impl Big for Ranking {
    const KIND: usize = SORTED_SET;
}
// SAFETY: as above.
unsafe impl Big for Inner {
    const KIND: usize = STREAM;
}

/// Leaves the lowest bits of its address free.
#[repr(align(16))]
struct Aligned<B>(B);

/// Either a run, or a structure of type `B`.
#[repr(transparent)]
pub(super) struct Slim<B: Big> {
    word: *mut u8,
    owns: PhantomData<B>,
}

/// What a [`Slim`] holds.
pub(super) enum Form<'a, B> {
    Small(&'a Run),
    Big(&'a B),
}

/// What a [`Slim`] holds, to be changed.
pub(super) enum FormMut<'a, B> {
    /// Not to be swapped for another run: use [`Slim::small`].
    Small(&'a mut Run),
    Big(&'a mut B),
}

// SAFETY: it owns what it leads to, and `&self` changes nothing.
unsafe impl<B: Big + Send> Send for Slim<B> {}
// SAFETY: as above.
unsafe impl<B: Big + Sync> Sync for Slim<B> {}

impl<B: Big> Slim<B> {
    /// What the big form takes from the allocator before it holds anything.
    pub const BIG_BYTES: usize = allocation_bytes(size_of::<Aligned<B>>());

    /// The small form.
    pub fn small(run: Run) -> Slim<B> {
        let run = ManuallyDrop::new(run);
        Slim { word: run.block().map_addr(|address| address | B::KIND << 1), owns: PhantomData }
    }

    /// The big form.
    pub fn big(structure: B) -> Slim<B> {
        let start = Box::into_raw(Box::new(Aligned(structure))).cast::<u8>();
        Slim { word: start.map_addr(|address| address | B::KIND << 1 | BIG), owns: PhantomData }
    }

    #[inline]
    pub fn is_big(&self) -> bool {
        self.word.addr() & BIG != 0
    }

    /// What it holds.
    #[inline]
    pub fn form(&self) -> Form<'_, B> {
        // SAFETY: the bit says that the pointer leads to such a structure; otherwise the word is a run's.
        unsafe {
            if self.is_big() { Form::Big(&(*self.structure()).0) } else { Form::Small(&*ptr::from_ref(self).cast()) }
        }
    }

    /// What it holds, to be changed.
    #[inline]
    pub fn form_mut(&mut self) -> FormMut<'_, B> {
        // SAFETY: as in `form`; `&mut self` is exclusive.
        unsafe {
            if self.is_big() {
                FormMut::Big(&mut (*self.structure()).0)
            } else {
                FormMut::Small(&mut *ptr::from_mut(self).cast())
            }
        }
    }

    #[inline]
    fn structure(&self) -> *mut Aligned<B> {
        self.word.map_addr(|address| address & !TAG).cast()
    }
}

impl<B: Big + Clone> Clone for Slim<B> {
    fn clone(&self) -> Slim<B> {
        match self.form() {
            Form::Small(run) => Slim::small(run.clone()),
            Form::Big(structure) => Slim::big(structure.clone()),
        }
    }
}

impl<B: Big> Drop for Slim<B> {
    fn drop(&mut self) {
        match self.form_mut() {
            FormMut::Small(run) => run.free(),
            // SAFETY: `big` made the box, and nobody looks at it again.
            FormMut::Big(_) => drop(unsafe { Box::from_raw(self.structure()) }),
        }
    }
}

/// A structure that has no small form.
#[derive(Clone)]
#[repr(transparent)]
pub(super) struct Always<B: Big>(Slim<B>);

impl<B: Big> Always<B> {
    pub fn new(structure: B) -> Always<B> {
        Always(Slim::big(structure))
    }
}

impl<B: Big> Deref for Always<B> {
    type Target = B;

    #[inline]
    fn deref(&self) -> &B {
        match self.0.form() {
            Form::Big(structure) => structure,
            Form::Small(_) => unreachable!("it was made big"),
        }
    }
}

impl<B: Big> DerefMut for Always<B> {
    #[inline]
    fn deref_mut(&mut self) -> &mut B {
        match self.0.form_mut() {
            FormMut::Big(structure) => structure,
            FormMut::Small(_) => unreachable!("it was made big"),
        }
    }
}

/// What a key can hold besides a string.
#[repr(transparent)]
pub struct Value {
    word: *mut u8,
}

// What every key with a value of these pays besides its contents.
const _: () = assert!(size_of::<Value>() == 8);

// SAFETY: each of the five may be sent.
unsafe impl Send for Value {}
// SAFETY: each of the five may be shared.
unsafe impl Sync for Value {}

macro_rules! values {
    ($($type:ident, $kind:ident, $what:literal;)*) => {
        /// A value as what it is.
        #[derive(Clone, Copy)]
        pub enum Kind<'a> {
            $(#[doc = $what] $type(&'a $type),)*
        }

        /// A value as what it is, to be changed.
        pub enum KindMut<'a> {
            $(#[doc = $what] $type(&'a mut $type),)*
        }

        $(impl From<$type> for Value {
            #[inline]
            fn from(value: $type) -> Value {
                let value = ManuallyDrop::new(value);
                // SAFETY: the type is a transparent wrapper of a word, which passes on to the result.
                Value { word: unsafe { ptr::from_ref(&value).cast::<*mut u8>().read() } }
            }
        }
        const _: () = assert!(size_of::<$type>() == size_of::<Value>());
        const _: fn() = || {
            fn sent_and_shared<T: Send + Sync>() {}
            sent_and_shared::<$type>();
        };)*

        impl Value {
            /// What it is.
            #[inline]
            pub fn kind(&self) -> Kind<'_> {
                // SAFETY: the kind says which of the types the word belongs to; each is a transparent wrapper of it.
                unsafe {
                    match (self.word.addr() & TAG) >> 1 {
                        $($kind => Kind::$type(&*ptr::from_ref(self).cast()),)*
                        // Only five kinds are ever written; a run of no kind would be a list.
                        _ => Kind::List(&*ptr::from_ref(self).cast()),
                    }
                }
            }

            /// What it is, to be changed.
            #[inline]
            pub fn kind_mut(&mut self) -> KindMut<'_> {
                // SAFETY: as in `kind`; `&mut self` is exclusive.
                unsafe {
                    match (self.word.addr() & TAG) >> 1 {
                        $($kind => KindMut::$type(&mut *ptr::from_mut(self).cast()),)*
                        _ => KindMut::List(&mut *ptr::from_mut(self).cast()),
                    }
                }
            }
        }

        impl Value {
            /// Moves a small value to fresh memory, as tight as can be; what it leaves is for the caller to drop.
            pub fn renew(&mut self) -> Option<Value> {
                let is_small = self.word.addr() & BIG == 0 && self.word.addr() & !TAG != 0;
                is_small.then(|| {
                    let fresh = self.clone();
                    std::mem::replace(self, fresh)
                })
            }
        }

        impl Clone for Value {
            fn clone(&self) -> Value {
                match self.kind() {
                    $(Kind::$type(value) => value.clone().into(),)*
                }
            }
        }

        impl Drop for Value {
            fn drop(&mut self) {
                // SAFETY: the value is what its kind says, and nobody looks at it again.
                match self.kind_mut() {
                    $(KindMut::$type(value) => unsafe { ptr::drop_in_place(value) },)*
                }
            }
        }
    };
}
values! {
    List, LIST, "A list.";
    Hash, HASH, "A hash.";
    Set, SET, "A set.";
    SortedSet, SORTED_SET, "A sorted set.";
    Stream, STREAM, "A stream.";
}
