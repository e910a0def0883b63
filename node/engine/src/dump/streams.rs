//! Streams in their stored form: listpacks of entries, then what the stream remembers, then its groups with their
//! consumers. Trusts no byte: ids must ascend, counts must agree, and every pending entry must be somebody's.
//!
//! ```text
//!   nodes, (id of the node, listpack)*
//!   entries, last id, [first id, highest deleted id, entries ever added]
//!   groups, (name, last id, [entries read], pending, (id, time, deliveries)*, consumers, (name, seen, [active], ids)*)*
//! ```
//!
//! What stands in brackets came with the second form (Redis 7.0) and the third (7.2): `active`.

use super::containers::{Elements, Listpack};
use super::source::{Reader, Source};
use super::write::{length, plain_string, string};
use super::{Problem, kind};
use crate::types::stream::Group;
use crate::types::{Item, Limits, Stream, StreamEntry, StreamId};

/// The entry was deleted and is still there.
const DELETED: i64 = 1;
/// The entry's fields are those of the listpack's head.
const SAME_FIELDS: i64 = 2;
/// What stands for a count that is not known.
const UNKNOWN: u64 = u64::MAX;

/// The bytes of a listpack after which a new one is begun, and the entries: Redis' own defaults.
const LISTPACK_BYTES: usize = 4096;
const LISTPACK_ENTRIES: usize = 100;

/// Names that many entries share are told once a listpack, and once a node here. Where nodes are much smaller that
/// adds up: to so many times the listpack at most, or what claims to be one is not believed.
const GROWTH_MAX: usize = 64;
const GROWTH_BYTES_MIN: usize = 1 << 16;

const MALFORMED: Problem = Problem::Malformed("a stream");

// ---- writing ----

/// Writes the second form, the newest that Redis 7.0 can read.
pub(super) fn write(out: &mut Vec<u8>, stream: &Stream) {
    let (count, nodes) = nodes(stream);
    length(out, count);
    out.extend_from_slice(&nodes);
    length(out, stream.len() as u64);
    for id in [stream.last_id(), stream.first_id(), stream.max_deleted_id()] {
        write_id(out, id);
    }
    length(out, stream.entries_added());
    length(out, stream.groups().len() as u64);
    stream.groups().iter().for_each(|group| write_group(out, group));
}

fn write_id(out: &mut Vec<u8>, id: StreamId) {
    length(out, id.ms);
    length(out, id.seq);
}

fn raw_id(id: StreamId) -> [u8; 16] {
    let mut raw = [0; 16];
    raw[..8].copy_from_slice(&id.ms.to_be_bytes());
    raw[8..].copy_from_slice(&id.seq.to_be_bytes());
    raw
}

/// All entries as listpacks, and how many of those.
fn nodes(stream: &Stream) -> (u64, Vec<u8>) {
    let (mut count, mut out) = (0, Vec::new());
    let mut open: Vec<StreamEntry<'_>> = Vec::new();
    let mut packed = Listpack::new();
    let mut bytes = 0;
    let mut close = |open: &mut Vec<StreamEntry<'_>>| {
        if let Some(first) = open.first() {
            plain_string(&mut out, &raw_id(first.id));
            pack(&mut packed, open);
            plain_string(&mut out, packed.end());
            packed.clear();
            count += 1;
            open.clear();
        }
    };
    for entry in stream.range(StreamId::MIN, StreamId::MAX) {
        let entry_bytes = entry.text_bytes();
        if bytes + entry_bytes >= LISTPACK_BYTES || open.len() >= LISTPACK_ENTRIES {
            close(&mut open);
            bytes = 0;
        }
        bytes += entry_bytes;
        open.push(entry);
    }
    close(&mut open);
    (count, out)
}

/// Writes entries as one listpack, told as distances from the first.
fn pack(packed: &mut Listpack, entries: &[StreamEntry<'_>]) {
    let first = &entries[0];
    let integer = |packed: &mut Listpack, value: i64| packed.push_item(Item::Integer(value));
    integer(packed, entries.len() as i64);
    integer(packed, 0);
    integer(packed, first.len() as i64);
    first.items().for_each(|(field, _)| packed.push_item(field));
    integer(packed, 0);
    for entry in entries {
        let same = entry.has_names_of(first);
        integer(packed, if same { SAME_FIELDS } else { 0 });
        integer(packed, entry.id.ms.wrapping_sub(first.id.ms) as i64);
        integer(packed, entry.id.seq.wrapping_sub(first.id.seq) as i64);
        let pairs = entry.len() as i64;
        if !same {
            integer(packed, pairs);
        }
        for (field, value) in entry.items() {
            if !same {
                packed.push_item(field);
            }
            packed.push_item(value);
        }
        // How many elements it takes to go back to the entry's flags.
        integer(packed, if same { pairs + 3 } else { 2 * pairs + 4 });
    }
}

fn write_group(out: &mut Vec<u8>, group: &Group) {
    string(out, group.name());
    write_id(out, group.last_id);
    length(out, group.entries_read.unwrap_or(UNKNOWN));
    length(out, group.pending_len() as u64);
    for (id, pending) in group.pending_from(StreamId::MIN) {
        out.extend_from_slice(&raw_id(id));
        out.extend_from_slice(&pending.delivered_at.to_le_bytes());
        length(out, pending.deliveries);
    }
    length(out, group.consumers().len() as u64);
    for consumer in group.consumers() {
        string(out, consumer.name());
        out.extend_from_slice(&consumer.seen_at.to_le_bytes());
        length(out, consumer.pending_len() as u64);
        consumer.pending_from(StreamId::MIN).for_each(|id| out.extend_from_slice(&raw_id(id)));
    }
}

// ---- reading ----

/// Reads any of the three forms.
pub(super) fn read<S: Source>(reader: &mut Reader<S>, kind: u8, limits: &Limits) -> Result<Stream, Problem> {
    let mut stream = Stream::new();
    let mut listpack = Vec::new();
    for _ in 0..reader.count(18)? {
        let base = reader.string()?;
        let base = base.first_chunk::<16>().filter(|raw| raw.len() == base.len()).ok_or(MALFORMED)?;
        reader.string_into(&mut listpack)?;
        append(&mut stream, read_raw_id(*base), &listpack, limits)?;
    }
    let entries = reader.length()?;
    let last_id = read_id(reader)?;
    if entries != stream.len() as u64 || last_id < stream.last_id() {
        return Err(MALFORMED);
    }
    let (mut max_deleted_id, mut entries_added) = (StreamId::MIN, entries);
    if kind != kind::STREAM {
        let _first_id = read_id(reader)?;
        max_deleted_id = read_id(reader)?;
        entries_added = reader.length()?;
    }
    stream.set_history(last_id, entries_added, max_deleted_id);
    for _ in 0..reader.count(6)? {
        read_group(reader, &mut stream, kind)?;
    }
    Ok(stream)
}

fn read_raw_id(raw: [u8; 16]) -> StreamId {
    let number = u128::from_be_bytes(raw);
    StreamId::new((number >> 64) as u64, number as u64)
}

fn read_id<S: Source>(reader: &mut Reader<S>) -> Result<StreamId, Problem> {
    Ok(StreamId::new(reader.length()?, reader.length()?))
}

/// Reads the elements of a listpack one after the other.
struct Walk<'a> {
    elements: Elements<'a>,
    /// More than this there cannot be.
    len_max: usize,
}

impl<'a> Walk<'a> {
    fn of(listpack: &'a [u8]) -> Result<Walk<'a>, Problem> {
        Ok(Walk { elements: Elements::of(listpack)?, len_max: listpack.len() })
    }

    /// The next one, which must be there; an integer, if it spells one.
    #[inline]
    fn item(&mut self) -> Result<Item<'a>, Problem> {
        match self.elements.next()?.ok_or(MALFORMED)? {
            Item::Bytes(text) => Ok(Item::of(text)),
            other => Ok(other),
        }
    }

    #[inline]
    fn integer(&mut self) -> Result<i64, Problem> {
        if let Item::Integer(integer) = self.item()? { Ok(integer) } else { Err(MALFORMED) }
    }

    /// A number of elements, each of which must be there.
    fn count(&mut self) -> Result<usize, Problem> {
        let count = usize::try_from(self.integer()?).map_err(|_| MALFORMED)?;
        if count > self.len_max { Err(MALFORMED) } else { Ok(count) }
    }
}

/// Adds the entries of one listpack.
fn append(stream: &mut Stream, base: StreamId, listpack: &[u8], limits: &Limits) -> Result<(), Problem> {
    let mut walk = Walk::of(listpack)?;
    let (announced, deleted) = (walk.count()?, walk.count()?);
    let mut names: Vec<Item<'_>> = Vec::new();
    for _ in 0..walk.count()? {
        names.push(walk.item()?);
    }
    if walk.integer()? != 0 {
        return Err(MALFORMED);
    }
    let (mut seen, mut seen_deleted) = (0, 0);
    let mut pairs: Vec<Item<'_>> = Vec::new();
    let bytes_max = stream.memory_bytes() + GROWTH_MAX * listpack.len() + GROWTH_BYTES_MIN;
    while !walk.elements.is_done() {
        let flags = walk.integer()?;
        let (ms, seq) = (walk.integer()? as u64, walk.integer()? as u64);
        let id = StreamId::new(base.ms.wrapping_add(ms), base.seq.wrapping_add(seq));
        pairs.clear();
        if flags & SAME_FIELDS != 0 {
            for name in &names {
                pairs.extend([*name, walk.item()?]);
            }
            check(walk.count()? == names.len() + 3)?;
        } else {
            let own = walk.count()?;
            for _ in 0..2 * own {
                pairs.push(walk.item()?);
            }
            check(walk.count()? == 2 * own + 4)?;
        }
        if flags & DELETED != 0 {
            seen_deleted += 1;
            continue;
        }
        check(!pairs.is_empty() && id > stream.last_id())?;
        stream.append_items(id, &pairs, limits);
        check(stream.memory_bytes() <= bytes_max)?;
        seen += 1;
    }
    // The end, with its count.
    check(walk.elements.next()?.is_none() && seen == announced && seen_deleted == deleted)
}

fn check(holds: bool) -> Result<(), Problem> {
    if holds { Ok(()) } else { Err(MALFORMED) }
}

fn read_group<S: Source>(reader: &mut Reader<S>, stream: &mut Stream, kind: u8) -> Result<(), Problem> {
    let name = reader.string()?;
    let last_id = read_id(reader)?;
    let entries_read = match kind {
        kind::STREAM => stream.count_up_to(last_id),
        _ => Some(reader.length()?).filter(|read| *read != UNKNOWN),
    };
    check(stream.add_group(&name, last_id, entries_read))?;
    let pending = read_pending(reader)?;
    let mut given = 0;
    for _ in 0..reader.count(10)? {
        let consumer = reader.string()?;
        let seen_at = reader.milliseconds()?;
        // Who was not told to have got something got it when last seen, as servers reckon that.
        let active_at = if kind == kind::STREAM_3 { reader.milliseconds()? } else { seen_at };
        let ids = (0..reader.count(16)?).map(|_| reader.array().map(read_raw_id)).collect::<Result<Vec<_>, _>>()?;
        given += ids.len();
        let given: Option<Result<(), Problem>> = stream.with_group(&name, |group| {
            let number = group.add_consumer(&consumer, seen_at).ok_or(MALFORMED)?;
            group.activate(number, Some(active_at).filter(|at| *at >= 0));
            for id in ids {
                let row = pending.binary_search_by_key(&id, |row| row.0).map_err(|_| MALFORMED)?;
                check(group.pending(id).is_none())?;
                group.give(id, number, pending[row].1, pending[row].2);
            }
            Ok(())
        });
        given.ok_or(MALFORMED)??;
    }
    check(given == pending.len())
}

/// The pending entries of a group: id, when and how often each was given out.
fn read_pending<S: Source>(reader: &mut Reader<S>) -> Result<Vec<(StreamId, i64, u64)>, Problem> {
    let mut pending: Vec<(StreamId, i64, u64)> = Vec::new();
    for _ in 0..reader.count(25)? {
        let id = read_raw_id(reader.array()?);
        check(pending.last().is_none_or(|last| last.0 < id))?;
        pending.push((id, reader.milliseconds()?, reader.length()?));
    }
    Ok(pending)
}
