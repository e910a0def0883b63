//! Bytes that are kept where they stand if they are few, and on the heap otherwise. Knows nothing about what they mean.

use crate::dict::prefetch_line;
use std::ops::Deref;

/// As many as fit a slot of 24 bytes.
const INLINE_BYTES_MAX: usize = 22;

/// Owned bytes of fixed length.
#[derive(Clone)]
pub(super) enum CompactBytes {
    Inline { length: u8, bytes: [u8; INLINE_BYTES_MAX] },
    Heap(Box<[u8]>),
}

const _: () = assert!(size_of::<CompactBytes>() == 24);

impl CompactBytes {
    /// All parts, one behind the other.
    pub fn concat(parts: &[&[u8]]) -> CompactBytes {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        if length > INLINE_BYTES_MAX {
            return CompactBytes::Heap(parts.concat().into_boxed_slice());
        }
        let mut bytes = [0u8; INLINE_BYTES_MAX];
        let mut at = 0;
        for part in parts {
            bytes[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        CompactBytes::Inline { length: length as u8, bytes }
    }

    /// What is held outside of the slot.
    #[inline]
    pub fn heap_bytes(&self) -> usize {
        match self {
            CompactBytes::Inline { .. } => 0,
            // Allocators hand out steps of sixteen.
            CompactBytes::Heap(bytes) => bytes.len().next_multiple_of(16),
        }
    }

    /// Asks the processor to load what is held outside of the slot.
    #[inline]
    pub fn prefetch(&self) {
        if let CompactBytes::Heap(bytes) = self
            && let Some(first) = bytes.first()
        {
            prefetch_line(first);
        }
    }

    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        match self {
            CompactBytes::Inline { length, bytes } => &mut bytes[..usize::from(*length)],
            CompactBytes::Heap(bytes) => bytes,
        }
    }
}

impl Default for CompactBytes {
    fn default() -> CompactBytes {
        CompactBytes::Inline { length: 0, bytes: [0; INLINE_BYTES_MAX] }
    }
}

impl From<&[u8]> for CompactBytes {
    fn from(bytes: &[u8]) -> CompactBytes {
        CompactBytes::concat(&[bytes])
    }
}

impl Deref for CompactBytes {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match self {
            CompactBytes::Inline { length, bytes } => &bytes[..usize::from(*length)],
            CompactBytes::Heap(bytes) => bytes,
        }
    }
}
