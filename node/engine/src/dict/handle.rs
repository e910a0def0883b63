//! Handles: the place of one key in the table, found once, to be read, changed, filled or emptied. They keep the table's
//! accounts in step; they know nothing of how the table finds a place.

use std::ops::Deref;

use super::Dict;
use super::entry::{self, Entry, INLINE_VALUE_BYTES_MAX, OwnedEntry};
use super::segment::Location;
use super::value::{NewValue, OldValue, ValueMut, ValueRef};

/// What an overwrite does with the expiry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// As it was; none for a new key.
    Keep,
    /// This moment in unix milliseconds, or none.
    Set(Option<i64>),
}

/// What `Dict::upsert_string` found and did.
pub struct Upserted<'a, V> {
    /// The entry as it is now.
    pub entry: EntryMut<'a, V>,
    /// Whether the key was there before.
    pub existed: bool,
    /// The expiry before.
    pub old_expires_at: Option<i64>,
    /// What the old value owned and no longer does.
    pub old_value: OldValue<V>,
}

/// The place of a key: with or without an entry.
pub enum Place<'a, V> {
    /// The key is there.
    Occupied(EntryMut<'a, V>),
    /// It is not.
    Vacant(VacantEntry<'a, V>),
}

/// The place where an absent key would go.
pub struct VacantEntry<'a, V> {
    pub(super) dict: &'a mut Dict<V>,
    pub(super) hash: u64,
    pub(super) key: &'a [u8],
}

impl<'a, V> VacantEntry<'a, V> {
    /// Fills the place.
    #[inline]
    pub fn insert(self, value: NewValue<'_, V>, expires_at: Option<i64>) -> EntryMut<'a, V> {
        self.dict.insert(self.hash, self.key, value, expires_at)
    }
}

/// An entry in the table, exclusively. Reads as `Entry`; every change keeps the table's accounts.
pub struct EntryMut<'a, V> {
    pub(super) dict: &'a mut Dict<V>,
    pub(super) hash: u64,
    pub(super) at: Location,
}

impl<V> Deref for EntryMut<'_, V> {
    type Target = Entry<V>;
    #[inline]
    fn deref(&self) -> &Entry<V> {
        // SAFETY: the location was found in the table, which this handle borrows exclusively.
        unsafe { Entry::in_slot(self.at.slot_pointer()) }
    }
}

impl<'a, V> EntryMut<'a, V> {
    #[inline]
    pub(super) fn entry_mut(&mut self) -> &mut Entry<V> {
        // SAFETY: as in `deref`, and `&mut self` is exclusive.
        unsafe { Entry::in_slot_mut(self.at.slot_pointer()) }
    }

    /// Runs a change that may alter the memory the entry takes.
    #[inline]
    fn change<R>(&mut self, change: impl FnOnce(&mut Entry<V>) -> R) -> R {
        let before = self.memory_bytes();
        let result = change(self.entry_mut());
        self.dict.bytes = self.dict.bytes - before + self.memory_bytes();
        result
    }

    /// The entry for as long as the table stays borrowed.
    #[inline]
    pub fn into_ref(self) -> &'a Entry<V> {
        // SAFETY: as in `deref`; the exclusive borrow of the table for 'a passes on to the result.
        unsafe { Entry::in_slot(self.at.slot_pointer()) }
    }

    /// The hash the entry was found by.
    #[inline]
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// Sets the access clock; bits above the 24th are dropped.
    #[inline]
    pub fn set_access(&mut self, access: u32) {
        self.entry_mut().set_access(access);
    }

    /// The value, to be changed in place. An object's own growth is not counted in `memory_bytes`.
    #[inline]
    pub fn value_mut(&mut self) -> ValueMut<'_, V> {
        self.entry_mut().value_mut()
    }

    /// The object, if the value is one.
    #[inline]
    pub fn object_mut(&mut self) -> Option<&mut V> {
        match self.value_mut() {
            ValueMut::Object(object) => Some(object),
            ValueMut::Int(_) | ValueMut::Str(_) => None,
        }
    }

    /// Replaces the value by a copy of `bytes`, in place when the size class allows.
    #[inline]
    pub fn set_string(&mut self, bytes: &[u8]) -> OldValue<V> {
        // The usual case, and one that changes no account.
        if self.entry_mut().overwrite(bytes) {
            return OldValue::Small;
        }
        self.change(|entry| entry.set_string(bytes))
    }

    /// Replaces the value by `bytes`; a long string moves in without a copy.
    pub fn set_bytes(&mut self, bytes: Vec<u8>) -> OldValue<V> {
        if bytes.len() <= INLINE_VALUE_BYTES_MAX {
            return self.set_string(&bytes);
        }
        self.change(|entry| entry.set_heap(bytes))
    }

    /// Replaces the value by an integer.
    #[inline]
    pub fn set_int(&mut self, number: i64) -> OldValue<V> {
        self.change(|entry| entry.set_int(number))
    }

    /// Replaces the value by an object.
    pub fn set_object(&mut self, object: V) -> OldValue<V> {
        self.change(|entry| entry.set_object(object))
    }

    /// Replaces the value by whatever is given.
    pub fn set_value(&mut self, value: NewValue<'_, V>) -> OldValue<V> {
        match value {
            NewValue::Int(number) => self.set_int(number),
            NewValue::Str(bytes) => self.set_string(bytes),
            NewValue::Bytes(bytes) => self.set_bytes(bytes),
            NewValue::Object(object) => self.set_object(object),
        }
    }

    /// Sets or removes the expiry, in unix milliseconds.
    #[inline]
    pub fn set_expiry(&mut self, expires_at: Option<i64>) {
        let had = self.has_expiry();
        if !had && expires_at.is_none() {
            return;
        }
        self.change(|entry| entry.set_expiry(expires_at));
        if had != expires_at.is_some() {
            // SAFETY: the location was found in the table, which this handle borrows exclusively.
            unsafe { (*self.at.bucket).set_expiring(self.at.slot, !had) };
        }
        self.dict.expiring = self.dict.expiring + usize::from(expires_at.is_some()) - usize::from(had);
    }

    /// Appends to a string and returns its new length; `None` when the value is an object. An integer becomes its
    /// decimal digits first. Repeated appends cost amortised constant time per byte.
    pub fn append(&mut self, bytes: &[u8]) -> Option<usize> {
        let old_len = self.string_len_for_change()?;
        let len = old_len + bytes.len();
        if self.kind() == entry::HEAP {
            self.change(|entry| entry.with_heap(|own| own.extend_from_slice(bytes)));
        } else if len <= INLINE_VALUE_BYTES_MAX {
            self.change(|entry| {
                entry.resize_inline(len);
                if let ValueMut::Str(own) = entry.value_mut() {
                    own[old_len..].copy_from_slice(bytes);
                }
            });
        } else {
            // Somebody who appends past the inline limit is likely to append again.
            let mut own = Vec::with_capacity(len.next_power_of_two().max(len));
            if let ValueRef::Str(old) = self.value() {
                own.extend_from_slice(old);
            }
            own.extend_from_slice(bytes);
            self.change(|entry| entry.set_heap(own));
        }
        self.entry_mut().set_edited(true);
        Some(len)
    }

    /// Changes a string's length: cuts it, or fills it up with zero bytes. `false` when the value is an object. An
    /// integer becomes its decimal digits first.
    pub fn resize(&mut self, len: usize) -> bool {
        let Some(old_len) = self.string_len_for_change() else { return false };
        if self.kind() == entry::HEAP && len > INLINE_VALUE_BYTES_MAX {
            self.change(|entry| {
                entry.with_heap(|own| {
                    own.resize(len, 0);
                    if own.capacity() / 2 > len {
                        own.shrink_to_fit();
                    }
                });
            });
        } else if self.kind() == entry::INLINE && len <= INLINE_VALUE_BYTES_MAX {
            self.change(|entry| entry.resize_inline(len));
        } else {
            let mut own = vec![0; len];
            if let ValueRef::Str(old) = self.value() {
                let kept = old_len.min(len);
                own[..kept].copy_from_slice(&old[..kept]);
            }
            self.set_bytes(own);
        }
        self.entry_mut().set_edited(true);
        true
    }

    /// The length of the string; an integer is turned into its digits.
    fn string_len_for_change(&mut self) -> Option<usize> {
        let number = match self.value() {
            ValueRef::Str(bytes) => return Some(bytes.len()),
            ValueRef::Object(_) => return None,
            ValueRef::Int(number) => number,
        };
        let digits = number.to_string();
        self.set_string(digits.as_bytes());
        Some(digits.len())
    }

    /// Takes the entry out of the table.
    #[inline]
    pub fn remove(self) -> OwnedEntry<V> {
        self.dict.remove_at(self.hash, self.at)
    }
}
