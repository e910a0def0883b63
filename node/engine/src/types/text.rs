//! The bytes of an element, whether they are stored as bytes or as an integer. Knows no collection.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::hash::{Hash, Hasher};
use std::ops::Deref;

use super::number::{IntegerText, format_i64};

/// Bytes of an element, borrowed from where they are stored, or the digits of an integer. Use it as `&[u8]`.
#[derive(Clone, Copy)]
pub struct Text<'a>(Repr<'a>);

#[derive(Clone, Copy)]
enum Repr<'a> {
    Bytes(&'a [u8]),
    Digits(IntegerText),
}

impl Text<'_> {
    /// A copy of the bytes.
    pub fn into_vec(self) -> Vec<u8> {
        self.to_vec()
    }
}

impl<'a> Text<'a> {
    /// The bytes, copied only if they were stored as an integer.
    pub fn into_cow(self) -> Cow<'a, [u8]> {
        match self.0 {
            Repr::Bytes(bytes) => Cow::Borrowed(bytes),
            Repr::Digits(digits) => Cow::Owned(digits.to_vec()),
        }
    }
}

impl<'a> From<&'a [u8]> for Text<'a> {
    #[inline]
    fn from(bytes: &'a [u8]) -> Text<'a> {
        Text(Repr::Bytes(bytes))
    }
}

impl From<i64> for Text<'_> {
    #[inline]
    fn from(integer: i64) -> Self {
        Text(Repr::Digits(format_i64(integer)))
    }
}

impl Deref for Text<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match &self.0 {
            Repr::Bytes(bytes) => bytes,
            Repr::Digits(digits) => digits,
        }
    }
}

impl AsRef<[u8]> for Text<'_> {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl PartialEq for Text<'_> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Text<'_> {}

impl PartialEq<[u8]> for Text<'_> {
    fn eq(&self, other: &[u8]) -> bool {
        **self == *other
    }
}

impl PartialOrd for Text<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Text<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        (**self).cmp(&**other)
    }
}

impl Hash for Text<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

impl std::fmt::Debug for Text<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "\"{}\"", self.escape_ascii())
    }
}
