//! Values on their way in and out of an entry. They know nothing of how an entry stores them.

/// A value as it is read.
#[derive(Debug, PartialEq, Eq)]
pub enum ValueRef<'a, V> {
    /// A string that was stored as an integer.
    Int(i64),
    /// The bytes of a string.
    Str(&'a [u8]),
    /// A list, hash, set or sorted set.
    Object(&'a V),
}

/// A value to be changed in place.
#[derive(Debug)]
pub enum ValueMut<'a, V> {
    /// A string that was stored as an integer.
    Int(&'a mut i64),
    /// The bytes of a string; its length stays.
    Str(&'a mut [u8]),
    /// A list, hash, set or sorted set.
    Object(&'a mut V),
}

/// A value on its way in.
#[derive(Debug)]
pub enum NewValue<'a, V> {
    /// A string that is stored as an integer.
    Int(i64),
    /// The bytes of a string, to be copied.
    Str(&'a [u8]),
    /// The bytes of a string; a long one moves in without a copy.
    Bytes(Vec<u8>),
    /// A list, hash, set or sorted set.
    Object(V),
}

/// A value on its way out, owned by the receiver, who may drop it on another thread.
#[derive(Debug, PartialEq, Eq)]
pub enum OldValue<V> {
    /// Nothing that would be worth freeing elsewhere: an integer or a short string, already gone.
    Small,
    /// The buffer of a long string.
    Bytes(Vec<u8>),
    /// A list, hash, set or sorted set.
    Object(V),
}
