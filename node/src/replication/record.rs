//! How one effect is written in the stream: its own length, what it is, whose keys it concerns, its words.
//!
//! ```text
//!   u32 length of what follows │ u8 kind │ tenant │ database │ count of words │ each word: its length, its bytes
//! ```
//! What came from a source that is followed says before all that up to where that source's stream was carried out with it: whoever
//! has the record has both. Numbers without a width are variable-length (LEB128). Beginnings and ends of steps have a kind and nothing else, a
//! signature has a client's id (u64) behind it. It knows no command.

use keyward_engine::keyspace::{SpaceId, TenantId};

/// A place in the stream of a source whose data moves in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// Everything up to there.
    pub offset: u64,
    /// What comes next is for this database.
    pub database: u32,
}

/// What a record says.
#[derive(Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// Do this.
    Command(SpaceId, Vec<&'a [u8]>),
    /// This key is gone: it expired, or was evicted.
    Removed(SpaceId, &'a [u8]),
    /// Do this (`true`: this key is gone); with it the source's stream is carried out up to there.
    Imported(Origin, bool, SpaceId, Vec<&'a [u8]>),
    /// The source's stream is carried out up to there, as far as it concerns this group.
    Reached(Origin),
    /// What is to be known of an import from here on.
    Noted(&'a [u8]),
    /// What follows, up to the end, is one step.
    Begin,
    /// The step is complete.
    End,
    /// The record that follows is of a change that this client made, which is not to be told of it.
    Signed(u64),
}

const COMMAND: u8 = 1;
const REMOVED: u8 = 2;
const BEGIN: u8 = 3;
const END: u8 = 4;
const IMPORTED: u8 = 5;
const REACHED: u8 = 6;
const NOTED: u8 = 7;
const SIGNED: u8 = 8;

/// Words of one command at most: more than any request may have, and than any effect repeats.
const WORDS_MAX: u64 = 1 << 24;

/// The bytes are not a record. The stream cannot be trusted any more.
#[derive(Debug, PartialEq, Eq)]
pub struct Damaged;

/// A record that is one word of `kind`.
pub fn mark(begins: bool) -> [u8; 5] {
    let [a, b, c, d] = 1u32.to_le_bytes();
    [a, b, c, d, if begins { BEGIN } else { END }]
}

/// A record that says whose change the next one is.
pub fn signature(client: u64) -> [u8; 13] {
    let mut bytes = [0; 13];
    bytes[..4].copy_from_slice(&9u32.to_le_bytes());
    bytes[4] = SIGNED;
    bytes[5..].copy_from_slice(&client.to_le_bytes());
    bytes
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

fn whole(body: &[u8]) -> Vec<u8> {
    let mut out = (body.len() as u32).to_le_bytes().to_vec();
    out.extend_from_slice(body);
    out
}

fn origin(kind: u8, origin: Origin) -> Vec<u8> {
    let mut body = vec![kind];
    varint(&mut body, origin.offset);
    varint(&mut body, u64::from(origin.database));
    body
}

/// The record of what came from a source, as [`write`] takes it.
pub fn imported<'w>(
    from: Origin,
    removed: bool,
    space: SpaceId,
    words: impl Iterator<Item = &'w [u8]> + Clone,
) -> Vec<u8> {
    let mut out = vec![0; 4];
    out.append(&mut origin(IMPORTED, from));
    let (inner, size) = (out.len(), size(space, words.clone()));
    write(&mut out, size, removed, space, words);
    // The length is the whole record's.
    out.drain(inner..inner + 4);
    let length = (out.len() - 4) as u32;
    out[..4].copy_from_slice(&length.to_le_bytes());
    out
}

/// The record of a place that was reached.
pub fn reached(at: Origin) -> Vec<u8> {
    whole(&origin(REACHED, at))
}

/// The record of what is to be known of an import.
pub fn noted(note: &[u8]) -> Vec<u8> {
    whole(&[&[NOTED], note].concat())
}

fn take_origin(bytes: &mut &[u8]) -> Result<Origin, Damaged> {
    let offset = take_varint(bytes)?;
    let database = u32::try_from(take_varint(bytes)?).map_err(|_| Damaged)?;
    Ok(Origin { offset, database })
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
        SIGNED => Record::Signed(u64::from_le_bytes(rest.try_into().map_err(|_| Damaged)?)),
        COMMAND | REMOVED => {
            let (space, words) = take_words(rest)?;
            match (*kind, words.as_slice()) {
                (REMOVED, [key]) => Record::Removed(space, key),
                (COMMAND, _) => Record::Command(space, words),
                _ => return Err(Damaged),
            }
        }
        IMPORTED => {
            let from = take_origin(&mut rest)?;
            let (inner, rest) = rest.split_first().ok_or(Damaged)?;
            let (space, words) = take_words(rest)?;
            match (*inner, words.len()) {
                (REMOVED, 1) | (COMMAND, _) => Record::Imported(from, *inner == REMOVED, space, words),
                _ => return Err(Damaged),
            }
        }
        REACHED => {
            let at = take_origin(&mut rest)?;
            if !rest.is_empty() {
                return Err(Damaged);
            }
            Record::Reached(at)
        }
        NOTED => Record::Noted(rest),
        _ => return Err(Damaged),
    };
    Ok(Some((record, 4 + length)))
}

/// Whose keys, and the words; nothing may follow.
fn take_words(mut rest: &[u8]) -> Result<(SpaceId, Vec<&[u8]>), Damaged> {
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
    if rest.is_empty() { Ok((space, words)) } else { Err(Damaged) }
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
        let from = Origin { offset: 1 << 40, database: 9 };
        for (removed, words) in [(false, &words[..]), (true, &words[..1])] {
            let bytes = imported(from, removed, SPACE, words.iter().copied());
            let record = Record::Imported(from, removed, SPACE, words.to_vec());
            assert_eq!(read(&bytes), Ok(Some((record, bytes.len()))));
        }
        assert_eq!(read(&reached(from)), Ok(Some((Record::Reached(from), reached(from).len()))));
        assert_eq!(read(&noted(b"note")), Ok(Some((Record::Noted(b"note"), 9))));
        assert_eq!(read(&mark(true)), Ok(Some((Record::Begin, 5))));
        assert_eq!(read(&mark(false)), Ok(Some((Record::End, 5))));
        assert_eq!(read(&signature(1 << 40)), Ok(Some((Record::Signed(1 << 40), 13))));
    }

    #[test]
    fn half_a_record_is_awaited_and_a_wrong_one_is_refused() {
        let (from, words): (_, [&[u8]; 3]) = (Origin { offset: 300, database: 1 }, [b"DEL", b"a", b"b"]);
        for bytes in [written(false, &words), imported(from, false, SPACE, words.into_iter()), reached(from)] {
            for cut in 0..bytes.len() {
                assert_eq!(read(&bytes[..cut]), Ok(None), "{cut}");
            }
            for at in 4..bytes.len() {
                let mut wrong = bytes.clone();
                wrong[at] = wrong[at].wrapping_add(0x55);
                // Whatever it says then, reading it ends.
                let _ = read(&wrong);
            }
        }
        assert_eq!(read(&[1, 0, 0, 0, 9]), Err(Damaged));
        assert_eq!(read(&[0, 0, 0, 0]), Err(Damaged));
    }
}
