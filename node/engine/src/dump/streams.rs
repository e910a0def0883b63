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

use super::containers::{Listpack, Run, each};
use super::source::{Reader, Source};
use super::write::{length, plain_string, string};
use super::{Problem, kind};
use crate::types::stream::Group;
use crate::types::{Limits, Stream, StreamEntry, StreamId, number};

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
    let mut bytes = 0;
    let mut close = |open: &mut Vec<StreamEntry<'_>>| {
        if let Some(first) = open.first() {
            plain_string(&mut out, &raw_id(first.id));
            plain_string(&mut out, &listpack(open));
            count += 1;
            open.clear();
        }
    };
    for entry in stream.range(StreamId::MIN, StreamId::MAX) {
        let entry_bytes: usize = entry.pairs().map(|(field, value)| field.len() + value.len()).sum();
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

/// Entries as one listpack, told as distances from the first.
fn listpack(entries: &[StreamEntry<'_>]) -> Vec<u8> {
    let first = &entries[0];
    let mut packed = Listpack::new();
    let integer = |packed: &mut Listpack, value: i64| packed.push(&number::format_i64(value));
    integer(&mut packed, entries.len() as i64);
    integer(&mut packed, 0);
    integer(&mut packed, first.len() as i64);
    first.pairs().for_each(|(field, _)| packed.push(&field));
    integer(&mut packed, 0);
    for entry in entries {
        let same = entry.len() == first.len() && entry.pairs().zip(first.pairs()).all(|(one, other)| one.0 == other.0);
        integer(&mut packed, if same { SAME_FIELDS } else { 0 });
        integer(&mut packed, entry.id.ms.wrapping_sub(first.id.ms) as i64);
        integer(&mut packed, entry.id.seq.wrapping_sub(first.id.seq) as i64);
        let pairs = entry.len() as i64;
        if !same {
            integer(&mut packed, pairs);
        }
        for (field, value) in entry.pairs() {
            if !same {
                packed.push(&field);
            }
            packed.push(&value);
        }
        // How many elements it takes to go back to the entry's flags.
        integer(&mut packed, if same { pairs + 3 } else { 2 * pairs + 4 });
    }
    packed.finish()
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
    let mut elements = Elements::default();
    for _ in 0..reader.count(18)? {
        let base = reader.string()?;
        let base = base.first_chunk::<16>().filter(|raw| raw.len() == base.len()).ok_or(MALFORMED)?;
        elements.fill(&reader.string()?)?;
        append(&mut stream, read_raw_id(*base), &elements, limits)?;
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

/// The elements of a listpack, one behind the other.
#[derive(Default)]
struct Elements {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Elements {
    fn fill(&mut self, listpack: &[u8]) -> Result<(), Problem> {
        self.bytes.clear();
        self.ends.clear();
        each(Run::Listpack, listpack, &mut |element| {
            self.bytes.extend_from_slice(&element);
            self.ends.push(self.bytes.len());
            Ok(())
        })
    }

    fn get(&self, index: usize) -> Result<&[u8], Problem> {
        let end = *self.ends.get(index).ok_or(MALFORMED)?;
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        Ok(&self.bytes[start..end])
    }
}

/// Reads elements one after the other.
struct Walk<'a>(&'a Elements, usize);

impl<'a> Walk<'a> {
    fn text(&mut self) -> Result<&'a [u8], Problem> {
        self.1 += 1;
        self.0.get(self.1 - 1)
    }

    fn integer(&mut self) -> Result<i64, Problem> {
        number::parse_i64(self.text()?).ok_or(MALFORMED)
    }

    /// A number of elements, each of which must be there.
    fn count(&mut self) -> Result<usize, Problem> {
        let count = usize::try_from(self.integer()?).map_err(|_| MALFORMED)?;
        if count > self.0.ends.len() { Err(MALFORMED) } else { Ok(count) }
    }

    fn is_done(&self) -> bool {
        self.1 >= self.0.ends.len()
    }
}

/// Adds the entries of one listpack.
fn append(stream: &mut Stream, base: StreamId, elements: &Elements, limits: &Limits) -> Result<(), Problem> {
    let mut walk = Walk(elements, 0);
    let (announced, deleted) = (walk.count()?, walk.count()?);
    let names = (0..walk.count()?).map(|_| walk.text()).collect::<Result<Vec<_>, _>>()?;
    if walk.integer()? != 0 {
        return Err(MALFORMED);
    }
    let (mut seen, mut seen_deleted) = (0, 0);
    let mut pairs: Vec<&[u8]> = Vec::new();
    let bytes_max =
        stream.memory_bytes() + GROWTH_MAX * (elements.bytes.len() + elements.ends.len()) + GROWTH_BYTES_MIN;
    while !walk.is_done() {
        let flags = walk.integer()?;
        let (ms, seq) = (walk.integer()? as u64, walk.integer()? as u64);
        let id = StreamId::new(base.ms.wrapping_add(ms), base.seq.wrapping_add(seq));
        pairs.clear();
        if flags & SAME_FIELDS != 0 {
            for name in &names {
                pairs.extend([name, walk.text()?]);
            }
            check(walk.count()? == names.len() + 3)?;
        } else {
            let own = walk.count()?;
            for _ in 0..2 * own {
                pairs.push(walk.text()?);
            }
            check(walk.count()? == 2 * own + 4)?;
        }
        if flags & DELETED != 0 {
            seen_deleted += 1;
            continue;
        }
        check(!pairs.is_empty() && id > stream.last_id())?;
        stream.append(id, &pairs, limits);
        check(stream.memory_bytes() <= bytes_max)?;
        seen += 1;
    }
    check(seen == announced && seen_deleted == deleted)
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
