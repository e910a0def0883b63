//! Values, records and the frame of a file, appended to a buffer. Knows no disk; who writes the buffer out keeps the
//! checksum of what it wrote.

use super::containers::{Listpack, intset};
use super::values::{PACKED_NODE, PLAIN_NODE};
use super::{
    Checksum, IMPORT_FIELD, LIBRARY_FIELD, OWNED_LIBRARY, SPACE_FIELD, VERSION, VERSION_FIELD_EXPIRY, kind, opcode,
    streams,
};
use crate::dict::ValueRef;
use crate::keyspace::{SpaceId, UnixMillis};
use crate::types::{Hash, Item, Kind, List, Packed, Set, SortedSet, Value, number};

/// A node of a list is closed when it has grown to this, in bytes; an element that big is a node of its own. Redis' own
/// default for `list-max-listpack-size`.
const LIST_NODE_BYTES: usize = 8192;

/// Starts a file; the fields are for people and tools, no server needs them. Only a file begun with `fields_expire` may hold
/// hashes whose fields do: it names the first version of Valkey that knows them, and Redis does not read it.
pub fn begin(out: &mut Vec<u8>, fields_expire: bool, fields: &[(&str, &str)]) {
    let head = if fields_expire { format!("VALKEY{VERSION_FIELD_EXPIRY:03}") } else { format!("REDIS{VERSION:04}") };
    out.extend_from_slice(head.as_bytes());
    for (name, value) in fields {
        aux(out, name.as_bytes(), value.as_bytes());
    }
}

/// Says how many keys a database of the shared keyspace will have, so that the reader makes room at once.
pub fn sizes(out: &mut Vec<u8>, database: u32, keys: u64, expiring: u64) {
    select(out, database);
    out.push(opcode::RESIZE);
    length(out, keys);
    length(out, expiring);
}

/// Adds records, made by [`record`], of one keyspace.
pub fn part(out: &mut Vec<u8>, space: SpaceId, records: &[u8]) {
    if records.is_empty() {
        return;
    }
    // A key with an owner is told by its name, which any server keeps: whose it is says whoever loads it.
    if !space.tenant.is_namespace() {
        select(out, space.database);
        out.extend_from_slice(records);
        return;
    }
    // Another server would mix up the keys of two tenants, so it must not see them: it skips a field it does not know.
    let mut head = Vec::new();
    length(&mut head, u64::from(space.tenant.0));
    length(&mut head, u64::from(space.database));
    out.push(opcode::AUX);
    string(out, SPACE_FIELD);
    length(out, (head.len() + records.len()) as u64);
    out.extend_from_slice(&head);
    out.extend_from_slice(records);
}

/// Adds one key with its value and expiry.
pub fn record(out: &mut Vec<u8>, key: &[u8], value: &ValueRef<'_, Value>, expires_at: Option<UnixMillis>) {
    if let Some(at) = expires_at {
        out.push(opcode::EXPIRES_MS);
        out.extend_from_slice(&at.to_le_bytes());
    }
    out.push(kind_of(value));
    string(out, key);
    content(out, value);
}

/// Ends a file. `so_far` is the checksum of everything written before, what is in `out` included.
pub fn end(out: &mut Vec<u8>, mut so_far: Checksum) {
    so_far.update(&[opcode::EOF]);
    out.push(opcode::EOF);
    out.extend_from_slice(&so_far.value().to_le_bytes());
}

/// One value as `DUMP` answers it.
pub fn payload(value: &ValueRef<'_, Value>) -> Vec<u8> {
    let mut out = vec![kind_of(value)];
    content(&mut out, value);
    let version = if out[0] == kind::HASH_2 { VERSION_FIELD_EXPIRY } else { VERSION };
    out.extend_from_slice(&version.to_le_bytes());
    let checksum = Checksum::of(&out);
    out.extend_from_slice(&checksum.value().to_le_bytes());
    out
}

/// Libraries of functions, as they stand in a file before the keys.
pub fn libraries(out: &mut Vec<u8>, codes: &[Vec<u8>]) {
    for code in codes {
        // A library that belongs to one user is none that another server should load: there it is a note.
        if code.starts_with(OWNED_LIBRARY) {
            out.push(opcode::AUX);
            string(out, LIBRARY_FIELD);
        } else {
            out.push(opcode::FUNCTION);
        }
        string(out, code);
    }
}

/// What a node knows of an import, as it stands in a file before the keys.
pub fn import_notes(out: &mut Vec<u8>, notes: &[Vec<u8>]) {
    notes.iter().for_each(|note| aux(out, IMPORT_FIELD, note));
}

/// Libraries of functions as `FUNCTION DUMP` answers them.
pub fn libraries_payload(codes: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    libraries(&mut out, codes);
    out.extend_from_slice(&VERSION.to_le_bytes());
    let checksum = Checksum::of(&out);
    out.extend_from_slice(&checksum.value().to_le_bytes());
    out
}

fn select(out: &mut Vec<u8>, database: u32) {
    out.push(opcode::SELECT);
    length(out, u64::from(database));
}

fn aux(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.push(opcode::AUX);
    string(out, name);
    string(out, value);
}

pub(super) fn length(out: &mut Vec<u8>, len: u64) {
    match len {
        0..=0x3f => out.push(len as u8),
        0x40..=0x3fff => out.extend([0x40 | (len >> 8) as u8, len as u8]),
        0x4000..=0xffff_ffff => {
            out.push(0x80);
            out.extend_from_slice(&(len as u32).to_be_bytes());
        }
        _ => {
            out.push(0x81);
            out.extend_from_slice(&len.to_be_bytes());
        }
    }
}

/// A string, as an integer if it spells a small one.
pub(super) fn string(out: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS_MAX: usize = 11;
    let integer = if bytes.len() <= DIGITS_MAX { number::parse_i64(bytes) } else { None };
    if !integer.is_some_and(|integer| small_integer(out, integer)) {
        plain_string(out, bytes);
    }
}

pub(super) fn plain_string(out: &mut Vec<u8>, bytes: &[u8]) {
    length(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Writes the integer if it has at most four bytes.
fn small_integer(out: &mut Vec<u8>, integer: i64) -> bool {
    let (encoding, width) = match integer {
        -0x80..=0x7f => (0xc0, 1),
        -0x8000..=0x7fff => (0xc1, 2),
        -0x8000_0000..=0x7fff_ffff => (0xc2, 4),
        _ => return false,
    };
    out.push(encoding);
    out.extend_from_slice(&integer.to_le_bytes()[..width]);
    true
}

/// The oldest form that holds the value compactly.
fn kind_of(value: &ValueRef<'_, Value>) -> u8 {
    match value {
        ValueRef::Int(_) | ValueRef::Str(_) => kind::STRING,
        ValueRef::Object(object) => match object.kind() {
            Kind::List(_) => kind::LIST_QUICKLIST_2,
            Kind::Set(set) if set.encoding() == "intset" => kind::SET_INTSET,
            // Sets as listpacks came with Redis 7.2 only.
            Kind::Set(_) => kind::SET,
            Kind::Hash(hash) if hash.expiring_len() > 0 => kind::HASH_2,
            Kind::Hash(hash) if hash.encoding() == "listpack" => kind::HASH_LISTPACK,
            Kind::Hash(_) => kind::HASH,
            Kind::SortedSet(set) if set.encoding() == "listpack" => kind::SORTED_SET_LISTPACK,
            Kind::SortedSet(_) => kind::SORTED_SET_2,
            // The next one came with Redis 7.2 only; it also tells when consumers last got something.
            Kind::Stream(_) => kind::STREAM_2,
        },
    }
}

/// The value in the form that [`kind_of`] names.
fn content(out: &mut Vec<u8>, value: &ValueRef<'_, Value>) {
    match value {
        ValueRef::Int(integer) => {
            if !small_integer(out, *integer) {
                plain_string(out, &number::format_i64(*integer));
            }
        }
        ValueRef::Str(bytes) => string(out, bytes),
        ValueRef::Object(object) => match object.kind() {
            Kind::List(list) => list_content(out, list),
            Kind::Set(set) => set_content(out, set),
            Kind::Hash(hash) => hash_content(out, hash),
            Kind::SortedSet(set) => sorted_set_content(out, set),
            Kind::Stream(stream) => streams::write(out, stream),
        },
    }
}

/// A string as it is kept: what spells an integer is kept as one.
fn item(out: &mut Vec<u8>, item: Item<'_>) {
    match item {
        Item::Integer(integer) if small_integer(out, integer) => {}
        Item::Bytes(bytes) => plain_string(out, bytes),
        other => plain_string(out, &other.text()),
    }
}

/// A run as the string that its listpack is.
fn run_content(out: &mut Vec<u8>, run: &Packed) {
    let mut listpack = Vec::with_capacity(run.listpack_bytes());
    if !run.write_listpack(&mut listpack) {
        let mut packed = Listpack::new();
        run.iter().for_each(|element| packed.push_item(element));
        listpack = packed.finish();
    }
    plain_string(out, &listpack);
}

fn list_content(out: &mut Vec<u8>, list: &List) {
    let big = |run: &Packed| {
        run.listpack_bytes() > LIST_NODE_BYTES && run.iter().any(|element| element.text().len() >= LIST_NODE_BYTES)
    };
    if list.runs().all(|run| !big(run)) {
        length(out, list.runs().count() as u64);
        list.runs().for_each(|run| {
            length(out, PACKED_NODE);
            run_content(out, run);
        });
        return;
    }
    let mut nodes = Vec::new();
    let mut count = 0u64;
    let mut open = Listpack::new();
    let mut close = |open: &mut Listpack, nodes: &mut Vec<u8>| {
        if !open.is_empty() {
            length(nodes, PACKED_NODE);
            plain_string(nodes, &std::mem::replace(open, Listpack::new()).finish());
            count += 1;
        }
    };
    let mut plain = 0u64;
    for element in list.iter() {
        if element.len() >= LIST_NODE_BYTES {
            close(&mut open, &mut nodes);
            length(&mut nodes, PLAIN_NODE);
            plain_string(&mut nodes, &element);
            plain += 1;
            continue;
        }
        open.push(&element);
        if open.len_bytes() >= LIST_NODE_BYTES {
            close(&mut open, &mut nodes);
        }
    }
    close(&mut open, &mut nodes);
    length(out, count + plain);
    out.extend_from_slice(&nodes);
}

fn set_content(out: &mut Vec<u8>, set: &Set) {
    if let Some((width, integers)) = set.integers() {
        return plain_string(out, &intset(width, integers));
    }
    length(out, set.len() as u64);
    match set.run() {
        Some(run) => run.iter().for_each(|member| item(out, member)),
        None => set.iter().for_each(|member| string(out, &member)),
    }
}

fn hash_content(out: &mut Vec<u8>, hash: &Hash) {
    let expiring = hash.expiring_len() > 0;
    if let Some(run) = hash.run() {
        return run_content(out, run);
    }
    length(out, hash.len() as u64);
    for pair in hash.iter() {
        string(out, &pair.field);
        string(out, &pair.value);
        if expiring {
            out.extend_from_slice(&pair.expires_at.unwrap_or(-1).to_le_bytes());
        }
    }
}

fn sorted_set_content(out: &mut Vec<u8>, set: &SortedSet) {
    if let Some(run) = set.run() {
        return run_content(out, run);
    }
    length(out, set.len() as u64);
    // From the highest down: what a server inserts at the front of its order finds its place fastest.
    for (member, score) in set.iter().rev() {
        string(out, &member);
        out.extend_from_slice(&score.to_le_bytes());
    }
}
