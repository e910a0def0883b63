//! A number for a value: what `DEBUG DIGEST` compares before and after a restart, a reload, a hand-over.
//!
//! It depends on what a client can read and on nothing else: not on encodings, not on the order of members without one.

use crate::dict::ValueRef;
use crate::dump;
use crate::types::{Kind, Value, number};

/// 160 bits that differ between different values and do not depend on the order of members. For tests, not against
/// anybody who means harm.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Digest([u64; 3]);

impl Digest {
    fn of(bytes: &[u8]) -> Digest {
        Digest([1_u64, 2, 3].map(|seed| {
            let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ bytes.len() as u64;
            for chunk in bytes.chunks(8) {
                let mut word = [0; 8];
                word[..chunk.len()].copy_from_slice(chunk);
                state = mix(state ^ u64::from_le_bytes(word));
            }
            mix(state)
        }))
    }

    /// Of several parts in this order.
    fn of_parts(parts: &[&[u8]]) -> Digest {
        parts.iter().fold(Digest::default(), |sum, part| sum.then(Digest::of(part)))
    }

    /// This, and then that.
    fn then(self, next: Digest) -> Digest {
        Digest([0, 1, 2].map(|index| mix(self.0[index].wrapping_mul(31).wrapping_add(next.0[index]))))
    }

    /// Both, in any order.
    #[must_use]
    pub fn with(self, other: Digest) -> Digest {
        Digest([0, 1, 2].map(|index| self.0[index].wrapping_add(other.0[index])))
    }

    /// Of a value.
    pub fn of_value(value: &ValueRef<'_, Value>) -> Digest {
        let any_order = |sum: Digest, parts: &[&[u8]]| sum.with(Digest::of_parts(parts));
        match value {
            ValueRef::Int(number) => Digest::of_parts(&[b"string", &number::format_i64(*number)]),
            ValueRef::Str(bytes) => Digest::of_parts(&[b"string", bytes]),
            ValueRef::Object(object) => match object.kind() {
                Kind::List(list) => {
                    list.iter().fold(Digest::of(b"list"), |sum, element| sum.then(Digest::of(&element)))
                }
                Kind::Set(set) => set.iter().fold(Digest::of(b"set"), |sum, member| any_order(sum, &[&member])),
                Kind::Hash(hash) => hash.iter().fold(Digest::of(b"hash"), |sum, field| {
                    let expires = hash.expiry(&field.field).unwrap_or(-1).to_le_bytes();
                    any_order(sum, &[&field.field, &field.value, &expires])
                }),
                Kind::SortedSet(set) => set.iter().fold(Digest::of(b"zset"), |sum, (member, score)| {
                    any_order(sum, &[&member, &score.to_bits().to_le_bytes()])
                }),
                Kind::Stream(stream) => {
                    // When a consumer was last heard of is each node's own observation.
                    let stream = stream.without_sightings();
                    Digest::of(&dump::payload(&ValueRef::Object(&Value::from(stream))))
                }
            },
        }
    }

    /// Of a key with its value, in a database.
    pub fn of_entry(database: u32, key: &[u8], value: &ValueRef<'_, Value>, expires_at: Option<i64>) -> Digest {
        let place =
            Digest::of_parts(&[&database.to_le_bytes(), key, if expires_at.is_some() { b"!expire!" } else { b"" }]);
        place.then(Digest::of_value(value))
    }
}

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}{:016x}{:08x}", self.0[0], self.0[1], self.0[2] as u32)
    }
}

/// The finalizer of SplitMix64.
fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_client_can_read_counts() {
        let of = |bytes: &[u8]| Digest::of_value(&ValueRef::Str(bytes));
        assert_eq!(of(b"12"), Digest::of_value(&ValueRef::Int(12)));
        assert_ne!(of(b"12"), of(b"13"));
        assert_ne!(of(b""), of(b"\0"));
        let (one, two) = (Digest::of(b"one"), Digest::of(b"two"));
        assert_eq!(one.with(two), two.with(one));
        assert_ne!(one.then(two), two.then(one));
        let entry = |at| Digest::of_entry(0, b"k", &ValueRef::Str(b"v"), at);
        assert_ne!(entry(None), entry(Some(7)));
    }
}
