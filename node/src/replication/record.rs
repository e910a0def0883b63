//! How one effect is written in the stream: its own length, what it is, whose keys it concerns, its words.
//!
//! ```text
//!   u32 length of what follows │ u8 kind │ tenant │ database │ count of words │ each word: its length, its bytes
//! ```
//! Numbers without a width are variable-length (LEB128). Beginnings and ends of steps have a kind and nothing else. It knows
//! no command.

use keyward_engine::keyspace::{SpaceId, TenantId};

/// What a record says.
#[derive(Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// Do this.
    Command(SpaceId, Vec<&'a [u8]>),
    /// This key is gone: it expired, or was evicted.
    Removed(SpaceId, &'a [u8]),
    /// What follows, up to the end, is one step.
    Begin,
    /// The step is complete.
    End,
}

const COMMAND: u8 = 1;
const REMOVED: u8 = 2;
const BEGIN: u8 = 3;
const END: u8 = 4;

/// Words of one command at most: more than any request may have.
const WORDS_MAX: u64 = 1 << 24;

/// The bytes are not a record. The stream cannot be trusted any more.
#[derive(Debug, PartialEq, Eq)]
pub struct Damaged;

/// A record that is one word of `kind`.
pub fn mark(begins: bool) -> [u8; 5] {
    let [a, b, c, d] = 1u32.to_le_bytes();
    [a, b, c, d, if begins { BEGIN } else { END }]
}

/// How many bytes [`write`] appends.
pub fn size<'w>(space: SpaceId, words: impl Iterator<Item = &'w [u8]> + Clone) -> usize {
    let count = words.clone().count();
    let bytes: usize = words.map(|word| varint_size(word.len() as u64) + word.len()).sum();
    4 + head_size(space, count) + bytes
}

fn head_size(space: SpaceId, count: usize) -> usize {
    1 + varint_size(u64::from(space.tenant.0)) + varint_size(u64::from(space.database)) + varint_size(count as u64)
}

/// Appends a command, or with `removed` the removal of the key that is its only word. `size` is what [`size`] said.
pub fn write<'w>(
    out: &mut Vec<u8>,
    size: usize,
    removed: bool,
    space: SpaceId,
    words: impl Iterator<Item = &'w [u8]> + Clone,
) {
    out.extend_from_slice(&((size - 4) as u32).to_le_bytes());
    out.push(if removed { REMOVED } else { COMMAND });
    varint(out, u64::from(space.tenant.0));
    varint(out, u64::from(space.database));
    varint(out, words.clone().count() as u64);
    for word in words {
        varint(out, word.len() as u64);
        out.extend_from_slice(word);
    }
}

/// The first record of `bytes` and its length; `None` if it is not all there yet.
pub fn read(bytes: &[u8]) -> Result<Option<(Record<'_>, usize)>, Damaged> {
    let Some(head) = bytes.first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_le_bytes(*head) as usize;
    let Some(body) = bytes.get(4..4 + length) else { return Ok(None) };
    let (kind, mut rest) = body.split_first().ok_or(Damaged)?;
    let record = match *kind {
        BEGIN if rest.is_empty() => Record::Begin,
        END if rest.is_empty() => Record::End,
        COMMAND | REMOVED => {
            let tenant = u32::try_from(take_varint(&mut rest)?).map_err(|_| Damaged)?;
            let database = u32::try_from(take_varint(&mut rest)?).map_err(|_| Damaged)?;
            let space = SpaceId { tenant: TenantId(tenant), database };
            let count = take_varint(&mut rest)?;
            if count == 0 || count > WORDS_MAX || count > rest.len() as u64 {
                return Err(Damaged);
            }
            let mut words = Vec::with_capacity(count as usize);
            for _ in 0..count {
                let length = usize::try_from(take_varint(&mut rest)?).map_err(|_| Damaged)?;
                let (word, after) = rest.split_at_checked(length).ok_or(Damaged)?;
                words.push(word);
                rest = after;
            }
            match (rest.is_empty(), *kind, words.as_slice()) {
                (true, REMOVED, [key]) => Record::Removed(space, key),
                (true, COMMAND, _) => Record::Command(space, words),
                _ => return Err(Damaged),
            }
        }
        _ => return Err(Damaged),
    };
    Ok(Some((record, 4 + length)))
}

fn varint_size(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn take_varint(bytes: &mut &[u8]) -> Result<u64, Damaged> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first().ok_or(Damaged)?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Damaged)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPACE: SpaceId = SpaceId { tenant: TenantId(300), database: 15 };

    fn written(removed: bool, words: &[&[u8]]) -> Vec<u8> {
        let size = size(SPACE, words.iter().copied());
        let mut out = Vec::new();
        write(&mut out, size, removed, SPACE, words.iter().copied());
        assert_eq!(out.len(), size);
        out
    }

    #[test]
    fn what_was_written_is_read() {
        let long = vec![b'x'; 70_000];
        let words: [&[u8]; 3] = [b"SET", b"", &long];
        let bytes = written(false, &words);
        assert_eq!(read(&bytes), Ok(Some((Record::Command(SPACE, words.to_vec()), bytes.len()))));
        let bytes = written(true, &[b"key"]);
        assert_eq!(read(&bytes), Ok(Some((Record::Removed(SPACE, b"key"), bytes.len()))));
        assert_eq!(read(&mark(true)), Ok(Some((Record::Begin, 5))));
        assert_eq!(read(&mark(false)), Ok(Some((Record::End, 5))));
    }

    #[test]
    fn half_a_record_is_awaited_and_a_wrong_one_is_refused() {
        let bytes = written(false, &[b"DEL", b"a", b"b"]);
        for cut in 0..bytes.len() {
            assert_eq!(read(&bytes[..cut]), Ok(None), "{cut}");
        }
        for at in 4..bytes.len() {
            let mut wrong = bytes.clone();
            wrong[at] = wrong[at].wrapping_add(0x55);
            // Whatever it says then, reading it ends.
            let _ = read(&wrong);
        }
        assert_eq!(read(&[1, 0, 0, 0, 9]), Err(Damaged));
        assert_eq!(read(&[0, 0, 0, 0]), Err(Damaged));
    }
}
