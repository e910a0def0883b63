//! The keyed hash of a key. It knows bytes and a seed; it does not know the table that uses the result.
//!
//! The shape is the well-known "fold a 64 × 64 multiplication" family. Both factors of every multiplication are masked
//! with words derived from the secret seed, so no key can be chosen that zeroes a factor without knowing the seed.

const SPREAD: [u64; 4] = [0x9e37_79b9_7f4a_7c15, 0xd1b5_4a32_d192_ed03, 0x8cb9_2ba7_2f3d_8dd7, 0xaef1_7502_b3db_4f8d];

/// Hashes `key` under a secret `seed`; every bit of the result is usable. The table uses the top 48; the lowest 16 are
/// free for the caller, to choose a shard by.
///
/// Two processes with different seeds hash differently, so clients cannot prepare keys that collide.
#[inline]
pub fn hash_key(seed: u64, key: &[u8]) -> u64 {
    let first = seed ^ SPREAD[0];
    let second = fold(seed ^ SPREAD[1], SPREAD[2]) | 1 << 63;
    let length = key.len();
    if length <= 16 {
        let (low, high) = short_words(key);
        return finish(low ^ first, high ^ second, length as u64 ^ first, second);
    }
    hash_long(first, second, key)
}

fn hash_long(first: u64, second: u64, key: &[u8]) -> u64 {
    let mut state = second;
    let mut lane = first.rotate_left(29) ^ SPREAD[3];
    let mut rest = key;
    while rest.len() > 32 {
        let (now, later) = rest.split_at(32);
        state = fold(word(now, 0) ^ first, word(now, 8) ^ state);
        lane = fold(word(now, 16) ^ second, word(now, 24) ^ lane);
        rest = later;
    }
    state ^= lane;
    if rest.len() > 16 {
        state = fold(word(rest, 0) ^ first, word(rest, 8) ^ state);
    }
    let end = key.len() - 16;
    finish(word(key, end) ^ first, word(key, end + 8) ^ state, key.len() as u64 ^ first, second)
}

/// At most sixteen bytes as two words; together with the length they determine the key.
#[inline]
fn short_words(key: &[u8]) -> (u64, u64) {
    let length = key.len();
    if length >= 8 {
        (word(key, 0), word(key, length - 8))
    } else if length >= 4 {
        (u64::from(half(key, 0)), u64::from(half(key, length - 4)))
    } else if length > 0 {
        let spread = u64::from(key[0]) << 16 | u64::from(key[length / 2]) << 8 | u64::from(key[length - 1]);
        (spread, 0)
    } else {
        (0, 0)
    }
}

#[inline]
fn finish(low: u64, high: u64, length: u64, second: u64) -> u64 {
    let wide = u128::from(low) * u128::from(high);
    fold(wide as u64 ^ length, (wide >> 64) as u64 ^ second)
}

#[inline]
fn fold(left: u64, right: u64) -> u64 {
    let wide = u128::from(left) * u128::from(right);
    wide as u64 ^ (wide >> 64) as u64
}

#[inline]
fn word(bytes: &[u8], at: usize) -> u64 {
    let mut eight = [0; 8];
    eight.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(eight)
}

#[inline]
fn half(bytes: &[u8], at: usize) -> u32 {
    let mut four = [0; 4];
    four.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(four)
}
