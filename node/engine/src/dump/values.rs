//! Values taken out of their stored form, in every encoding a server of the last ten years wrote. Which form a value has in
//! memory is decided by this node's own limits, not by the form it was stored in. Knows no file and no payload.

use super::containers::{Run, each, integers};
use super::source::{Reader, Source};
use super::{Problem, VERSION_FIELD_EXPIRY, kind, streams};
use crate::dict::NewValue;
use crate::types::{
    End, Gathered, Hash, Item, Limits, List, Packed, Packing, Set, SortedSet, Text, Unpacked, Value, number,
};

/// A node of a quicklist that is one element, not a listpack.
pub(super) const PLAIN_NODE: u64 = 1;

/// A node of a quicklist that is a listpack.
pub(super) const PACKED_NODE: u64 = 2;

/// Reads a value of this kind, out of a file or payload of this version.
pub(super) fn read<S: Source>(
    reader: &mut Reader<S>,
    kind: u8,
    version: u32,
    limits: &Limits,
) -> Result<NewValue<'static, Value>, Problem> {
    let value = match kind {
        kind::STRING => return Ok(string(reader.string()?)),
        kind::LIST => Value::from(list(reader, limits)?),
        kind::LIST_QUICKLIST => Value::from(quicklist(reader, limits)?),
        kind::LIST_QUICKLIST_2 => Value::from(quicklist_2(reader, limits)?),
        kind::LIST_ZIPLIST => {
            let mut list = List::new();
            push_run(&mut list, Run::Ziplist, &reader.string()?, limits)?;
            Value::from(list)
        }
        kind::SET => Value::from(set(reader, limits)?),
        kind::SET_INTSET => Value::from(packed_set(Run::Intset, &reader.string()?, limits)?),
        kind::SET_LISTPACK => Value::from(packed_set(Run::Listpack, &reader.string()?, limits)?),
        kind::HASH => Value::from(hash(reader, limits)?),
        kind::HASH_ZIPMAP => Value::from(packed_hash(Run::Zipmap, &reader.string()?, limits)?),
        kind::HASH_ZIPLIST => Value::from(packed_hash(Run::Ziplist, &reader.string()?, limits)?),
        kind::HASH_LISTPACK => Value::from(packed_hash(Run::Listpack, &reader.string()?, limits)?),
        kind::HASH_2 if version >= u32::from(VERSION_FIELD_EXPIRY) => Value::from(hash_2(reader, limits)?),
        kind::HASH_METADATA_EARLY => Value::from(hash_metadata(reader, Since::Epoch, limits)?),
        kind::HASH_METADATA => Value::from(hash_metadata(reader, Since::Earliest, limits)?),
        kind::HASH_LISTPACK_EX_EARLY => Value::from(hash_listpack_ex(reader, limits)?),
        kind::HASH_LISTPACK_EX => {
            let _earliest = reader.milliseconds()?;
            Value::from(hash_listpack_ex(reader, limits)?)
        }
        kind::SORTED_SET => Value::from(sorted_set(reader, limits, text_score)?),
        kind::SORTED_SET_2 => Value::from(sorted_set(reader, limits, Reader::double)?),
        kind::SORTED_SET_ZIPLIST => Value::from(packed_sorted_set(Run::Ziplist, &reader.string()?, limits)?),
        kind::SORTED_SET_LISTPACK => Value::from(packed_sorted_set(Run::Listpack, &reader.string()?, limits)?),
        kind::STREAM | kind::STREAM_2 | kind::STREAM_3 => Value::from(streams::read(reader, kind, limits)?),
        kind::MODULE | kind::MODULE_2 => return Err(Problem::Unsupported("values of modules")),
        unknown => return Err(Problem::UnknownType(unknown)),
    };
    if value.is_empty() { Err(Problem::Empty) } else { Ok(NewValue::Object(value)) }
}

fn string(bytes: Vec<u8>) -> NewValue<'static, Value> {
    const DIGITS_MAX: usize = 20;
    let integer = if bytes.len() <= DIGITS_MAX { number::parse_i64(&bytes) } else { None };
    integer.map_or(NewValue::Bytes(bytes), NewValue::Int)
}

fn list<S: Source>(reader: &mut Reader<S>, limits: &Limits) -> Result<List, Problem> {
    let mut list = List::new();
    for _ in 0..reader.count(1)? {
        list.push(End::Back, &[&reader.string()?], limits);
    }
    Ok(list)
}

fn quicklist<S: Source>(reader: &mut Reader<S>, limits: &Limits) -> Result<List, Problem> {
    let mut list = List::new();
    for _ in 0..reader.count(1)? {
        push_run(&mut list, Run::Ziplist, &reader.string()?, limits)?;
    }
    Ok(list)
}

fn quicklist_2<S: Source>(reader: &mut Reader<S>, limits: &Limits) -> Result<List, Problem> {
    let mut list = List::new();
    let mut bytes = Vec::new();
    for _ in 0..reader.count(2)? {
        let node = reader.length()?;
        reader.string_into(&mut bytes)?;
        match node {
            PLAIN_NODE => list.push(End::Back, &[&bytes], limits),
            PACKED_NODE => push_run(&mut list, Run::Listpack, &bytes, limits)?,
            _ => return Err(Problem::Malformed("a quicklist")),
        }
    }
    Ok(list)
}

/// Those of so many elements that room is made for at once: no more than there can be, if they are of usual length.
fn expected<S: Source>(reader: &Reader<S>, elements: u64) -> usize {
    const USUAL_BYTES: u64 = 8;
    usize::try_from(elements.min(reader.left() / USUAL_BYTES)).unwrap_or(0)
}

fn push_run(list: &mut List, run: Run, bytes: &[u8], limits: &Limits) -> Result<(), Problem> {
    if run == Run::Listpack
        && let Some(unpacked) = Packed::from_listpack(bytes)
        && list.push_run(unpacked.run, limits)
    {
        return Ok(());
    }
    each(run, bytes, &mut |element| {
        list.push(End::Back, &[&element], limits);
        Ok(())
    })
}

fn add_member(set: &mut Set, member: &[u8], limits: &Limits) -> Result<(), Problem> {
    if set.add(member, limits) { Ok(()) } else { Err(Problem::Malformed("a set with a member twice")) }
}

fn set<S: Source>(reader: &mut Reader<S>, limits: &Limits) -> Result<Set, Problem> {
    let members = reader.count(1)?;
    if members <= limits.set_listpack_entries_max as u64 {
        return small_set(reader, members, limits);
    }
    let mut set = Set::new();
    let mut member = Vec::new();
    if members > limits.set_listpack_entries_max.max(limits.set_intset_entries_max) as u64 {
        set = Set::prepared(b"", usize::try_from(members).unwrap_or(usize::MAX), limits);
        set.reserve(expected(reader, members));
    }
    for _ in 0..members {
        reader.string_into(&mut member)?;
        add_member(&mut set, &member, limits)?;
    }
    Ok(set)
}

/// Of few it is seen once, when all are there, that none is there twice.
fn small_set<S: Source>(reader: &mut Reader<S>, members: u64, limits: &Limits) -> Result<Set, Problem> {
    let mut member = Vec::new();
    let (mut packing, mut longest, mut integers, mut left) = (Packing::default(), 0, true, members);
    while left > 0 {
        reader.string_into(&mut member)?;
        left -= 1;
        longest = longest.max(member.len());
        let item = Item::of(&member);
        integers &= matches!(item, Item::Integer(_));
        if longest > limits.set_listpack_value_bytes_max || !packing.push(item) {
            break;
        }
        member.clear();
    }
    let is_all = left == 0 && longest <= limits.set_listpack_value_bytes_max;
    let run = packing.finish().unwrap_or_default();
    let run = match Set::of_run(Unpacked { run, longest, integers: integers || !is_all }, limits) {
        Ok(set) => return Ok(set),
        Err(run) => run,
    };
    let mut set = Set::new();
    for item in run.iter() {
        add_member(&mut set, &item.text(), limits)?;
    }
    if !is_all {
        add_member(&mut set, &member, limits)?;
    }
    for _ in 0..left {
        reader.string_into(&mut member)?;
        add_member(&mut set, &member, limits)?;
    }
    Ok(set)
}

fn packed_set(run: Run, bytes: &[u8], limits: &Limits) -> Result<Set, Problem> {
    let whole = match run {
        Run::Listpack => Packed::from_listpack(bytes).and_then(|unpacked| Set::of_run(unpacked, limits).ok()),
        Run::Intset => integers(bytes).and_then(|(width, integers)| Set::of_integers(width, integers, limits)),
        _ => None,
    };
    if let Some(set) = whole {
        return Ok(set);
    }
    let mut set = Set::new();
    each(run, bytes, &mut |member| add_member(&mut set, &member, limits))?;
    Ok(set)
}

fn set_field(hash: &mut Hash, field: &[u8], value: &[u8], limits: &Limits) -> Result<(), Problem> {
    if hash.set(field, value, limits) { Ok(()) } else { Err(Problem::Malformed("a hash with a field twice")) }
}

/// The longest form a hash starts in is asked for at once: growing out of the small one costs as much as filling it.
fn hash_of(fields: u64, limits: &Limits) -> Hash {
    let mut hash = Hash::new();
    hash.prepare(usize::try_from(fields).unwrap_or(usize::MAX), 0, limits);
    hash
}

fn hash<S: Source>(reader: &mut Reader<S>, limits: &Limits) -> Result<Hash, Problem> {
    let fields = reader.count(2)?;
    let mut hash = hash_of(fields, limits);
    hash.reserve(expected(reader, fields));
    let (mut field, mut value) = (Vec::new(), Vec::new());
    for _ in 0..fields {
        reader.string_into(&mut field)?;
        reader.string_into(&mut value)?;
        set_field(&mut hash, &field, &value, limits)?;
    }
    Ok(hash)
}

/// As Valkey 9 writes it: every field with its expiry, -1 for none.
fn hash_2<S: Source>(reader: &mut Reader<S>, limits: &Limits) -> Result<Hash, Problem> {
    const NEVER: i64 = -1;
    let fields = reader.count(10)?;
    let mut hash = hash_of(fields, limits);
    for _ in 0..fields {
        let field = reader.string()?;
        let value = reader.string()?;
        let expires_at = Some(reader.milliseconds()?).filter(|at| *at != NEVER);
        set_expiring_field(&mut hash, &field, &value, expires_at, limits)?;
    }
    Ok(hash)
}

fn set_expiring_field(
    hash: &mut Hash,
    field: &[u8],
    value: &[u8],
    expires_at: Option<i64>,
    limits: &Limits,
) -> Result<(), Problem> {
    let is_new = match expires_at {
        None => hash.set(field, value, limits),
        Some(at) if at < 0 => return Err(Problem::Malformed("the expiry of a field")),
        Some(at) => hash.set_expiring(field, value, at, limits),
    };
    if is_new { Ok(()) } else { Err(Problem::Malformed("a hash with a field twice")) }
}

/// From when on the expiries of a hash are counted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Since {
    /// From 1970.
    Epoch,
    /// From one before the earliest, which is told first.
    Earliest,
}

/// As Redis 7.4 and later write it: every field behind its expiry, 0 for none.
fn hash_metadata<S: Source>(reader: &mut Reader<S>, since: Since, limits: &Limits) -> Result<Hash, Problem> {
    let start = if since == Since::Earliest { reader.milliseconds()?.checked_sub(1) } else { Some(0) };
    let start = start.ok_or(Problem::Malformed("the expiry of a field"))?;
    let fields = reader.count(3)?;
    let mut hash = hash_of(fields, limits);
    for _ in 0..fields {
        let at = match i64::try_from(reader.length()?) {
            Ok(0) => None,
            Ok(after) => Some(start.checked_add(after).ok_or(Problem::Malformed("the expiry of a field"))?),
            Err(_) => return Err(Problem::Malformed("the expiry of a field")),
        };
        let field = reader.string()?;
        let value = reader.string()?;
        set_expiring_field(&mut hash, &field, &value, at, limits)?;
    }
    Ok(hash)
}

/// The same, packed: field, value and expiry in turn.
fn hash_listpack_ex<S: Source>(reader: &mut Reader<S>, limits: &Limits) -> Result<Hash, Problem> {
    let mut hash = Hash::new();
    let mut met: Vec<Vec<u8>> = Vec::with_capacity(2);
    each(Run::Listpack, &reader.string()?, &mut |element| {
        if met.len() < 2 {
            met.push(element.into_vec());
            return Ok(());
        }
        let at = number::parse_i64(&element).ok_or(Problem::Malformed("the expiry of a field"))?;
        let at = if at == 0 { None } else { Some(at) };
        set_expiring_field(&mut hash, &met[0], &met[1], at, limits)?;
        met.clear();
        Ok(())
    })?;
    if met.is_empty() { Ok(hash) } else { Err(Problem::Malformed("a hash with a field without an expiry")) }
}

/// Visits the elements of a run two by two.
fn each_pair(
    run: Run,
    bytes: &[u8],
    odd: Problem,
    mut visit: impl FnMut(&[u8], Text<'_>) -> Result<(), Problem>,
) -> Result<(), Problem> {
    let mut first: Option<Vec<u8>> = None;
    each(run, bytes, &mut |element| match first.take() {
        None => {
            first = Some(element.into_vec());
            Ok(())
        }
        Some(first) => visit(&first, element),
    })?;
    if first.is_some() { Err(odd) } else { Ok(()) }
}

fn packed_hash(run: Run, bytes: &[u8], limits: &Limits) -> Result<Hash, Problem> {
    let unpacked = if run == Run::Listpack { Packed::from_listpack(bytes) } else { None };
    if let Some(hash) = unpacked.and_then(|unpacked| Hash::of_run(unpacked, limits)) {
        return Ok(hash);
    }
    let mut hash = Hash::new();
    let odd = Problem::Malformed("a hash with a field without a value");
    each_pair(run, bytes, odd, |field, value| set_field(&mut hash, field, &value, limits))?;
    Ok(hash)
}

fn add_scored(set: &mut SortedSet, member: &[u8], score: f64, limits: &Limits) -> Result<(), Problem> {
    let len = set.len();
    let scored = set.set(member, score, limits);
    if scored.is_err() {
        return Err(Problem::Malformed("a score"));
    }
    if set.len() > len { Ok(()) } else { Err(Problem::Malformed("a sorted set with a member twice")) }
}

fn sorted_set<S: Source>(
    reader: &mut Reader<S>,
    limits: &Limits,
    score: impl Fn(&mut Reader<S>) -> Result<f64, Problem>,
) -> Result<SortedSet, Problem> {
    let members = reader.count(2)?;
    if members > limits.sorted_set_listpack_entries_max as u64 {
        return many_scored(reader, members, limits, score);
    }
    let mut set = SortedSet::new();
    for _ in 0..members {
        let member = reader.string()?;
        add_scored(&mut set, &member, score(reader)?, limits)?;
    }
    Ok(set)
}

/// Of many the order is made once, when all are there.
fn many_scored<S: Source>(
    reader: &mut Reader<S>,
    members: u64,
    limits: &Limits,
    score: impl Fn(&mut Reader<S>) -> Result<f64, Problem>,
) -> Result<SortedSet, Problem> {
    let mut set = Gathered::new(limits);
    set.reserve(expected(reader, members));
    let mut member = Vec::new();
    for _ in 0..members {
        reader.string_into(&mut member)?;
        let score = score(reader)?;
        if score.is_nan() {
            return Err(Problem::Malformed("a score"));
        }
        let mut is_new = true;
        set.join(&member, |so_far| {
            is_new = so_far.is_none();
            score
        });
        if !is_new {
            return Err(Problem::Malformed("a sorted set with a member twice"));
        }
    }
    Ok(set.finish())
}

/// A score as servers before 4.0 wrote it: its digits with their number before them.
fn text_score<S: Source>(reader: &mut Reader<S>) -> Result<f64, Problem> {
    match reader.byte()? {
        253 => Ok(f64::NAN),
        254 => Ok(f64::INFINITY),
        255 => Ok(f64::NEG_INFINITY),
        len => parse_score(&reader.bytes(u64::from(len))?),
    }
}

fn packed_sorted_set(run: Run, bytes: &[u8], limits: &Limits) -> Result<SortedSet, Problem> {
    let unpacked = if run == Run::Listpack { Packed::from_listpack(bytes) } else { None };
    if let Some(set) = unpacked.and_then(|unpacked| SortedSet::of_run(&unpacked, limits)) {
        return Ok(set);
    }
    let mut set = SortedSet::new();
    let odd = Problem::Malformed("a sorted set with a member without a score");
    each_pair(run, bytes, odd, |member, score| add_scored(&mut set, member, parse_score(&score)?, limits))?;
    Ok(set)
}

fn parse_score(text: &[u8]) -> Result<f64, Problem> {
    // Not `number::parse_f64`, which also refuses what vanishes to zero, and a stored score may be denormal.
    let text = std::str::from_utf8(text).map_err(|_| Problem::Malformed("a score"))?;
    text.parse().map_err(|_| Problem::Malformed("a score"))
}
