//! Files and payloads of real servers, round trips of random values, and bytes nobody meant well.

use super::containers::{Listpack, Run, each};
use super::{Checksum, FileError, FileReader, Problem, begin, end, part, payload, read_payload, record, sizes};
use crate::dict::{NewValue, ValueRef};
use crate::keyspace::{SpaceId, TenantId};
use crate::testing::{Engine, stream_text};
use crate::types::{End, Hash, Kind, Limits, List, Packed, Set, SortedSet, Stream, StreamId, Value};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const VALKEY_9: &[u8] = include_bytes!("../../../../tests/golden/rdb/valkey-9.1.rdb");
const REDIS_7: &[u8] = include_bytes!("../../../../tests/golden/rdb/redis-7.0.rdb");
const REDIS_7_STREAM: &[u8] = include_bytes!("../../../../tests/golden/rdb/redis-7.0-stream.rdb");
const REDIS_7_FUNCTION: &[u8] = include_bytes!("../../../../tests/golden/rdb/redis-7.0-function.rdb");
const VALKEY_9_FIELD_EXPIRY: &[u8] = include_bytes!("../../../../tests/golden/rdb/valkey-9.1-field-expiry.rdb");
const REDIS_8_FIELD_EXPIRY: &[u8] = include_bytes!("../../../../tests/golden/rdb/redis-8.2-field-expiry.rdb");
const REDIS_ENCODINGS: &[u8] = include_bytes!("../../../../tests/golden/rdb/encodings.rdb");
const REDIS_ZIPMAP: &[u8] = include_bytes!("../../../../tests/golden/rdb/hash-zipmap.rdb");
const REDIS_HASH_ZIPLIST: &[u8] = include_bytes!("../../../../tests/golden/rdb/hash-ziplist.rdb");
const REDIS_ZSET_ZIPLIST: &[u8] = include_bytes!("../../../../tests/golden/rdb/zset-ziplist.rdb");
const REDIS_QUICKLIST: &[u8] = include_bytes!("../../../../tests/golden/rdb/list-quicklist.rdb");

/// A value as text that does not depend on its form in memory; order counts where it means something.
fn spelled(value: &ValueRef<'_, Value>) -> String {
    let show = |bytes: &[u8]| bytes.escape_ascii().to_string();
    let words = match value {
        ValueRef::Int(integer) => return integer.to_string(),
        ValueRef::Str(bytes) => return show(bytes),
        ValueRef::Object(object) => match object.kind() {
            Kind::List(list) => list.iter().map(|element| show(&element)).collect(),
            Kind::Set(set) => {
                let members: BTreeSet<String> = set.iter().map(|member| show(&member)).collect();
                members.into_iter().collect::<Vec<_>>()
            }
            Kind::Hash(hash) => {
                let fields: BTreeSet<String> = hash
                    .iter()
                    .map(|pair| {
                        let expiry = pair.expires_at.map_or(String::new(), |at| format!("@{at}"));
                        format!("{}={}{expiry}", show(&pair.field), show(&pair.value))
                    })
                    .collect();
                fields.into_iter().collect()
            }
            Kind::SortedSet(set) => {
                // Small sorted sets keep no sign of zero.
                set.iter().map(|(member, score)| format!("{}={}", show(&member), score + 0.0)).collect()
            }
            Kind::Stream(stream) => return stream_text(stream),
        },
    };
    words.join(" ")
}

fn view<'a>(value: &'a NewValue<'_, Value>) -> ValueRef<'a, Value> {
    match value {
        NewValue::Int(integer) => ValueRef::Int(*integer),
        NewValue::Str(bytes) => ValueRef::Str(bytes),
        NewValue::Bytes(bytes) => ValueRef::Str(bytes),
        NewValue::Object(object) => ValueRef::Object(object),
    }
}

type Contents = BTreeMap<(SpaceId, String), (String, Option<i64>)>;

fn contents(file: &[u8]) -> Result<Contents, FileError> {
    let limits = Limits::default();
    let mut reader = FileReader::open(file, &limits)?;
    let mut found = Contents::new();
    while let Some(record) = reader.next()? {
        let key = record.key.escape_ascii().to_string();
        found.insert((record.space, key), (spelled(&view(&record.value)), record.expires_at));
    }
    Ok(found)
}

fn shared(database: u32) -> SpaceId {
    SpaceId { tenant: TenantId::SHARED, database }
}

fn value_at(contents: &Contents, key: &str) -> String {
    contents[&(shared(0), key.to_owned())].0.clone()
}

#[test]
fn every_form_that_two_servers_wrote_reads_as_what_was_put_in() {
    let valkey = contents(VALKEY_9).unwrap();
    assert_eq!(valkey, contents(REDIS_7).unwrap());
    assert_eq!(valkey.len(), 32);
    assert_eq!(value_at(&valkey, "string:text"), "hello");
    assert_eq!(value_at(&valkey, "string:empty"), "");
    assert_eq!(value_at(&valkey, "string:long"), "abcdefghij".repeat(200));
    assert_eq!(value_at(&valkey, "12345"), "key is a number");
    for number in [0, 12, -1, 127, 128, -129, 32767, 32768, -32769, 2147483647, 2147483648, i64::MIN, i64::MAX] {
        assert_eq!(value_at(&valkey, &format!("int:{number}")), number.to_string());
    }
    assert_eq!(valkey[&(shared(0), "expires".to_owned())], ("later".to_owned(), Some(4_000_000_000_123)));
    let small = format!("a 1 -5000 70000 -20000000 5000000000 {} {}", "x".repeat(70), "y".repeat(5000));
    assert_eq!(value_at(&valkey, "list:small"), small);
    let big: Vec<String> = (0..3000).map(|index| format!("element:{index}")).collect();
    assert_eq!(value_at(&valkey, "list:big"), big.join(" "));
    assert_eq!(value_at(&valkey, "list:plain"), format!("s {} t", "z".repeat(9000)));
    assert_eq!(value_at(&valkey, "set:int"), "-3 1 2 400");
    assert_eq!(value_at(&valkey, "set:int32"), "-7 100000");
    assert_eq!(value_at(&valkey, "set:int64"), "10000000000 5");
    assert_eq!(value_at(&valkey, "set:small"), "17 a b");
    assert_eq!(value_at(&valkey, "set:big").split(' ').count(), 600);
    assert_eq!(value_at(&valkey, "hash:small"), "f=v n=42");
    assert_eq!(value_at(&valkey, "hash:big").split(' ').count(), 700);
    let huge = 1e300f64;
    let scored = format!("low=-inf one=1 two=2.5 3=3 huge={huge} high=inf");
    assert_eq!(value_at(&valkey, "zset:small"), scored);
    let third = format!("m1={}", 1.0 / 3.0);
    assert!(value_at(&valkey, "zset:big").starts_with(&format!("m0=0 {third} ")));
    assert_eq!(valkey[&(shared(3), "other".to_owned())].0, "database");
}

#[test]
fn files_of_redis_2_and_later_with_the_packed_forms_of_their_time() {
    assert_eq!(value_at(&contents(REDIS_ZIPMAP).unwrap(), "hash"), "f1=v1 f2=v2");
    assert_eq!(value_at(&contents(REDIS_HASH_ZIPLIST).unwrap(), "hash"), "f1=v1 f2=v2");
    assert_eq!(value_at(&contents(REDIS_ZSET_ZIPLIST).unwrap(), "zset"), "one=1 two=2");
    let list = value_at(&contents(REDIS_QUICKLIST).unwrap(), "list");
    assert_eq!(list, "7");
    let all = contents(REDIS_ENCODINGS).unwrap();
    assert_eq!(value_at(&all, "string"), "Hello World");
    assert_eq!(value_at(&all, "number"), "10");
    assert_eq!(value_at(&all, "compressible"), "a".repeat(137));
    assert_eq!(
        value_at(&all, "list"),
        "1 2 3 a b c 100000 6000000000 1 2 3 a b c 100000 6000000000 1 2 3 a b c 100000 6000000000"
    );
    assert_eq!(value_at(&all, "list_zipped"), "1 2 3 a b c 100000 6000000000");
    assert_eq!(value_at(&all, "set_zipped_3"), "1000000000 2000000000 3000000000 4000000000 5000000000 6000000000");
    assert_eq!(value_at(&all, "hash_zipped"), "a=1 b=2 c=3");
    assert_eq!(value_at(&all, "zset_zipped"), "a=1 b=2 c=3");
    assert_eq!(value_at(&all, "zset").split(' ').count(), 12);
}

#[test]
fn fields_that_expire_read_from_both_servers() {
    assert_eq!(value_at(&contents(VALKEY_9_FIELD_EXPIRY).unwrap(), "h"), "f=v@4000000000000");
    let redis = contents(REDIS_8_FIELD_EXPIRY).unwrap();
    assert_eq!(value_at(&redis, "h"), "a=1@4000000000123 b=2@4000000000999 c=-77");
    assert_eq!(value_at(&redis, "plain"), "x=y");
    let big = value_at(&redis, "big");
    assert!(big.contains("f1=v1@4000000000456 f200=v200 "), "{big}");
    assert!(big.contains("f600=v600@4000000001000"), "{big}");
    assert_eq!(big.split(' ').count(), 600);
}

#[test]
fn fields_that_expire_make_a_file_of_valkey() {
    let mut hash = Hash::new();
    let limits = Limits::default();
    hash.set(b"f", b"v", &limits);
    hash.set_expiring(b"g", b"w", 4_000_000_000_000, &limits);
    let value = Value::from(hash);
    let mut out = Vec::new();
    begin(&mut out, true, &[]);
    let mut bytes = Vec::new();
    record(&mut bytes, b"h", &ValueRef::Object(&value), None);
    part(&mut out, shared(0), &bytes);
    part(&mut out, SpaceId { tenant: TenantId::with_namespace(7), database: 2 }, &bytes);
    let so_far = Checksum::of(&out);
    end(&mut out, so_far);
    assert!(out.starts_with(b"VALKEY080"));
    let read = contents(&out).unwrap();
    assert_eq!(read.values().map(|(value, _)| value.as_str()).collect::<Vec<_>>(), ["f=v g=w@4000000000000"; 2]);
}

#[test]
fn a_stream_of_redis_7() {
    let all = contents(REDIS_7_STREAM).unwrap();
    assert!(value_at(&all, "some:stream").starts_with("stream last "), "{all:?}");
}

#[test]
fn names_that_many_entries_share_are_no_way_to_claim_all_memory() {
    let name = vec![b'x'; 1 << 16];
    let mut packed = super::containers::Listpack::new();
    let entries = 20_000;
    for text in [entries.to_string().as_bytes(), b"0", b"1", &name, b"0"] {
        packed.push(text);
    }
    for seq in 1..=entries {
        for text in ["2", "0", &seq.to_string(), "v", "4"] {
            packed.push(text.as_bytes());
        }
    }
    let mut bytes = vec![super::kind::STREAM_2, 1, 16];
    bytes.extend([0; 16]);
    super::write::plain_string(&mut bytes, &packed.finish());
    for number in [entries, 0, entries, 0, 1, 0, 0, entries, 0] {
        super::write::length(&mut bytes, number);
    }
    let small = Limits { stream_node_entries_max: 1, ..Limits::default() };
    assert_eq!(read_payload(&sealed(bytes.clone()), &small).err(), Some(Problem::Malformed("a stream")));
    let large = Limits { stream_node_entries_max: 0, stream_node_bytes_max: 0, ..Limits::default() };
    assert!(read_payload(&sealed(bytes), &large).is_ok());
}

#[test]
fn functions_are_handed_over_beside_the_keys() {
    let limits = Limits::default();
    let mut reader = FileReader::open(REDIS_7_FUNCTION, &limits).unwrap();
    assert_eq!(reader.next().unwrap().unwrap().key, b"k");
    assert!(reader.next().unwrap().is_none());
    assert!(reader.next().unwrap().is_none(), "the end stays the end");
    let libraries = reader.take_libraries();
    assert_eq!(libraries.len(), 1);
    assert_eq!(super::read_libraries(&super::libraries_payload(&libraries)).unwrap(), libraries);
    assert_eq!(super::read_libraries(&super::libraries_payload(&[])).unwrap(), Vec::<Vec<u8>>::new());
    assert!(super::read_libraries(b"junk").is_err());
    assert_eq!(reader.version(), 10);
}

#[test]
fn other_files_and_other_versions_are_refused() {
    let refused = |bytes: &[u8]| contents(bytes).unwrap_err().problem;
    assert_eq!(refused(b""), Problem::NotRdb);
    assert_eq!(refused(b"REDIS001"), Problem::NotRdb);
    assert_eq!(refused(b"#!/bin/sh\n"), Problem::NotRdb);
    assert_eq!(refused(b"REDIS0013\xff12345678"), Problem::Version(13));
    assert_eq!(refused(b"REDIS0011\xfe\x00"), Problem::Truncated);
    assert_eq!(refused(b"REDIS0011\x30\x01k\x01v"), Problem::UnknownType(0x30));
}

#[test]
fn a_changed_byte_anywhere_is_noticed() {
    for index in (0..REDIS_7.len()).step_by(61) {
        let mut changed = REDIS_7.to_vec();
        changed[index] ^= 0x40;
        assert!(contents(&changed).is_err(), "byte {index}");
    }
}

#[test]
fn every_cut_is_noticed() {
    for len in (0..REDIS_7.len()).step_by(397) {
        assert!(contents(&REDIS_7[..len]).is_err(), "{len} bytes");
    }
}

type Row<'a> = (SpaceId, &'a [u8], ValueRef<'a, Value>, Option<i64>);

/// A file of these records.
fn file(records: &[Row<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    begin(&mut out, false, &[("keyward-ver", "0.0.0")]);
    sizes(&mut out, 0, records.len() as u64, 0);
    for (space, key, value, expires_at) in records {
        let mut bytes = Vec::new();
        record(&mut bytes, key, value, *expires_at);
        part(&mut out, *space, &bytes);
    }
    let so_far = Checksum::of(&out);
    end(&mut out, so_far);
    out
}

#[test]
fn tenants_and_databases_come_back_where_they_were() {
    let tenant = SpaceId { tenant: TenantId::with_namespace(7), database: 2 };
    let written = file(&[
        (shared(0), b"a", ValueRef::Str(b"1st"), None),
        (tenant, b"a", ValueRef::Int(2), Some(5)),
        (tenant, b"b", ValueRef::Str(b""), None),
        (shared(1), b"a", ValueRef::Int(i64::MIN), Some(i64::MAX)),
    ]);
    let read = contents(&written).unwrap();
    let expected = [
        ((shared(0), "a".to_owned()), ("1st".to_owned(), None)),
        ((tenant, "a".to_owned()), ("2".to_owned(), Some(5))),
        ((tenant, "b".to_owned()), (String::new(), None)),
        ((shared(1), "a".to_owned()), (i64::MIN.to_string(), Some(i64::MAX))),
    ];
    assert_eq!(read, Contents::from(expected));
}

#[test]
fn a_file_without_a_checksum_is_read() {
    let mut written = file(&[(shared(0), b"a", ValueRef::Int(1), None)]);
    let len = written.len();
    written[len - 8..].fill(0);
    assert_eq!(contents(&written).unwrap().len(), 1);
}

#[test]
fn an_old_file_with_an_empty_collection_loads_without_it() {
    let mut bytes = b"REDIS0010\x02\x05empty\x00\x00\x01k\x01v".to_vec();
    let so_far = Checksum::of(&bytes);
    end(&mut bytes, so_far);
    let limits = Limits::default();
    let mut reader = FileReader::open(bytes.as_slice(), &limits).unwrap();
    assert_eq!(reader.next().unwrap().unwrap().key, b"k");
    assert!(reader.next().unwrap().is_none());
    assert_eq!(reader.skipped().empty, 1);
}

/// As Valkey 9.1 and Redis 7.0 answered `DUMP`.
#[test]
fn payloads_of_real_servers() {
    let limits = Limits::default();
    let read = |bytes: &[u8]| read_payload(bytes, &limits).map(|value| spelled(&view(&value)));
    for (bytes, value) in include!("tests/payloads.in") {
        assert_eq!(read(bytes), Ok(value.to_owned()), "{}", bytes.escape_ascii());
        let mut changed = bytes.to_vec();
        changed[0] ^= 1;
        assert_eq!(read(&changed), Err(Problem::Checksum));
    }
    assert_eq!(read(b""), Err(Problem::Truncated));
}

mod commands {
    use super::*;

    fn dumped(engine: &mut Engine, key: &str) -> Vec<u8> {
        let reply = engine.run(&[b"DUMP", key.as_bytes()]);
        let start = reply.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        reply[start..reply.len() - 2].to_vec()
    }

    #[test]
    fn what_was_dumped_is_restored() {
        let mut engine = Engine::new(1);
        engine.words("RPUSH list a 2 c");
        let payload = dumped(&mut engine, "list");
        assert_eq!(engine.run(&[b"RESTORE", b"copy", b"0", &payload]), b"+OK\r\n");
        engine.converse(&[("LRANGE copy 0 -1", "*3\n$1\na\n$1\n2\n$1\nc\n"), ("PTTL copy", ":-1\n")]);
        assert_eq!(engine.words("DUMP missing"), "$-1\r\n");
    }

    #[test]
    fn a_key_in_the_way_is_replaced_only_if_told() {
        let mut engine = Engine::new(1);
        engine.words("SET a old");
        engine.words("SET b new");
        let payload = dumped(&mut engine, "b");
        let busy = b"-BUSYKEY Target key name already exists.\r\n";
        assert_eq!(engine.run(&[b"RESTORE", b"a", b"0", &payload]), busy);
        assert_eq!(engine.run(&[b"RESTORE", b"a", b"0", &payload, b"replace"]), b"+OK\r\n");
        engine.converse(&[("GET a", "$3\nnew\n")]);
    }

    #[test]
    fn the_time_to_live_is_relative_or_absolute_and_the_journal_says_when() {
        let mut engine = Engine::new(1);
        engine.words("SET a 1");
        let payload = dumped(&mut engine, "a");
        engine.journal.clear();
        assert_eq!(engine.run(&[b"RESTORE", b"b", b"1000", &payload]), b"+OK\r\n");
        let at = (engine.now + 1000).to_string();
        assert_eq!(engine.journal[0].1[2], at.as_bytes());
        assert_eq!(engine.words("PTTL b"), ":1000\r\n");
        let now = engine.now.to_string();
        assert_eq!(engine.run(&[b"RESTORE", b"b", now.as_bytes(), &payload, b"REPLACE", b"ABSTTL"]), b"+OK\r\n");
        assert_eq!(engine.words("EXISTS b"), ":0\r\n");
        assert_eq!(engine.journal.last().unwrap().1, [b"DEL".to_vec(), b"b".to_vec()]);
    }

    #[test]
    fn wrong_requests_are_refused_with_redis_words() {
        let mut engine = Engine::new(1);
        engine.words("SET a 1");
        let payload = dumped(&mut engine, "a");
        let mut refused = |argv: &[&[u8]], text: &str| {
            let all = [&[b"RESTORE".as_slice(), b"b"], argv].concat();
            assert_eq!(engine.run(&all), format!("-{text}\r\n").into_bytes());
        };
        let mut broken = payload.clone();
        broken[0] ^= 0x20;
        refused(&[b"0", &broken], "ERR DUMP payload version or checksum are wrong");
        refused(&[b"0", b""], "ERR DUMP payload version or checksum are wrong");
        let mut nonsense = b"\x10\x03abc\x0a\x00".to_vec();
        nonsense.extend(Checksum::of(&nonsense).value().to_le_bytes());
        refused(&[b"0", &nonsense], "ERR Bad data format");
        refused(&[b"-1", &payload], "ERR Invalid TTL value, must be >= 0");
        refused(&[b"x", &payload], "ERR value is not an integer or out of range");
        refused(&[b"0", &payload, b"FREQ", b"256"], "ERR Invalid FREQ value, must be >= 0 and <= 255");
        refused(&[b"0", &payload, b"IDLETIME", b"-1"], "ERR Invalid IDLETIME value, must be >= 0");
        refused(&[b"0", &payload, b"IDLETIME", b"1", b"FREQ", b"1"], "ERR syntax error");
        refused(&[b"0", &payload, b"NONSENSE"], "ERR syntax error");
    }
}

/// Text, integers and bytes of all lengths that are stored in different ways.
fn element() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        any::<i64>().prop_map(|integer| integer.to_string().into_bytes()),
        (-5000i64..5000).prop_map(|integer| integer.to_string().into_bytes()),
        proptest::collection::vec(any::<u8>(), 0..80),
        (prop_oneof![Just(63usize), Just(64), Just(4095), Just(4096), 120usize..130, 16_370usize..16_390], any::<u8>())
            .prop_map(|(len, byte)| vec![byte; len]),
    ]
}

fn value() -> impl Strategy<Value = NewValue<'static, Value>> {
    let limits = Limits::default();
    let many = || proptest::collection::vec(element(), 1..40);
    let pairs = proptest::collection::vec((element(), element()), 1..700);
    let scores = proptest::collection::vec((element(), any::<f64>().prop_filter("a number", |n| !n.is_nan())), 1..200);
    let (for_list, for_set, for_hash, for_sorted) = (limits.clone(), limits.clone(), limits.clone(), limits);
    prop_oneof![
        stream(),
        any::<i64>().prop_map(NewValue::Int),
        element().prop_map(NewValue::Bytes),
        many().prop_map(move |elements| {
            let mut list = List::new();
            elements.iter().for_each(|element| list.push(End::Back, &[element], &for_list));
            NewValue::Object(Value::from(list))
        }),
        prop_oneof![many(), proptest::collection::vec(any::<i32>().prop_map(|n| n.to_string().into_bytes()), 1..600)]
            .prop_map(move |members| {
                let mut set = Set::new();
                members.iter().for_each(|member| {
                    set.add(member, &for_set);
                });
                NewValue::Object(Value::from(set))
            }),
        pairs.prop_map(move |pairs| {
            let mut hash = Hash::new();
            pairs.iter().for_each(|(field, value)| {
                hash.set(field, value, &for_hash);
            });
            NewValue::Object(Value::from(hash))
        }),
        scores.prop_map(move |pairs| {
            let mut set = SortedSet::new();
            pairs.iter().for_each(|(member, score)| {
                set.set(member, *score, &for_sorted).expect("a number");
            });
            NewValue::Object(Value::from(set))
        }),
    ]
}

/// A stream with gaps, groups and pending entries, as its draws say.
fn stream() -> impl Strategy<Value = NewValue<'static, Value>> {
    let entries = proptest::collection::vec((0u64..3, 0u64..300, element(), element(), any::<bool>()), 0..300);
    let given = proptest::collection::vec((any::<u8>(), 0u8..2, 0u8..3, any::<i64>(), any::<u64>()), 0..200);
    (entries, given, any::<[u8; 8]>()).prop_map(|(entries, given, deleted)| {
        let limits = Limits::default();
        let (mut stream, mut ids) = (Stream::new(), Vec::new());
        for (ms, seq, field, value, usual) in &entries {
            let last = stream.last_id();
            let id = StreamId::new(last.ms + ms, if *ms == 0 { last.seq + 1 + seq } else { *seq });
            let field: &[u8] = if *usual { b"usual" } else { field };
            stream.append(id, &[field, value, b"n", b"1"], &limits);
            ids.push(id);
        }
        deleted.iter().filter_map(|index| ids.get(usize::from(*index))).for_each(|id| _ = stream.delete(*id));
        for (index, group, consumer, at, deliveries) in given {
            let Some(id) = ids.get(usize::from(index)) else { continue };
            let name = [b'g', group];
            stream.add_group(&name, *id, (group == 0).then_some(7));
            stream.with_group(&name, |group| {
                let number = group.number_of(&[consumer]).or_else(|| group.add_consumer(&[consumer], at));
                group.give(*id, number.expect("found or made"), at, deliveries);
            });
        }
        NewValue::Object(Value::from(stream))
    })
}

/// A listpack of these elements, a text even where it spells an integer.
fn texts(elements: &[&[u8]]) -> Vec<u8> {
    let mut bytes = vec![0; 6];
    for element in elements {
        bytes.push(0x80 | element.len() as u8);
        bytes.extend_from_slice(element);
        bytes.push(element.len() as u8 + 1);
    }
    bytes.push(0xff);
    let total = (bytes.len() as u32).to_le_bytes();
    bytes[..4].copy_from_slice(&total);
    bytes[4] = elements.len() as u8;
    bytes
}

/// As a payload of this kind.
fn packed_payload(kind: u8, listpack: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind, 0x80];
    bytes.extend((listpack.len() as u32).to_be_bytes());
    bytes.extend_from_slice(listpack);
    sealed(bytes)
}

#[test]
fn what_another_hand_packed_otherwise_is_found_all_the_same() {
    use super::kind::{HASH_LISTPACK, SET_LISTPACK, SORTED_SET_LISTPACK};
    let limits = Limits::default();
    let read = |kind, elements: &[&[u8]]| read_payload(&packed_payload(kind, &texts(elements)), &limits);
    let hash = read(HASH_LISTPACK, &[b"12", b"one", b"x", b"34"]).unwrap();
    let NewValue::Object(value) = &hash else { panic!("a hash") };
    let Kind::Hash(hash) = value.kind() else { panic!("a hash") };
    assert_eq!(hash.get(b"12").as_deref(), Some(&b"one"[..]));
    assert_eq!(hash.get(b"x").as_deref(), Some(&b"34"[..]));
    // Not in order, and in order with one that is a number.
    let spell = |value: Result<NewValue<'static, Value>, Problem>| spelled(&view(&value.unwrap()));
    assert_eq!(spell(read(SORTED_SET_LISTPACK, &[b"b", b"2.5", b"a", b"1.5"])), "a=1.5 b=2.5");
    assert_eq!(spell(read(SORTED_SET_LISTPACK, &[b"a", b"1.5", b"b", b"inf"])), "a=1.5 b=inf");
    assert_eq!(spell(read(SET_LISTPACK, &[b"1", b"a"])), "1 a");
}

#[test]
fn nothing_is_in_a_collection_twice() {
    use super::kind::{HASH_LISTPACK, SET_LISTPACK, SORTED_SET_LISTPACK};
    for count in [2, 10, 40] {
        let names: Vec<String> = (0..count).map(|number| format!("name{number}")).collect();
        let set: Vec<&[u8]> = names.iter().map(|name| name.as_bytes()).collect();
        let pairs: Vec<&[u8]> = set.iter().flat_map(|name| [*name, b"1"]).collect();
        let read = |kind, elements: &[&[u8]]| read_payload(&packed_payload(kind, &texts(elements)), &Limits::default());
        for (kind, elements) in [(SET_LISTPACK, &set), (HASH_LISTPACK, &pairs), (SORTED_SET_LISTPACK, &pairs)] {
            assert!(read(kind, elements).is_ok());
            let twice = [&elements[..], &elements[..2]].concat();
            assert!(matches!(read(kind, &twice), Err(Problem::Malformed(_))), "{count} of kind {kind}");
        }
    }
    // Nor in a set of integers, which come in order.
    let intset = |integers: &[u8]| {
        let head = [&2u32.to_le_bytes()[..], &(integers.len() as u32 / 2).to_le_bytes()].concat();
        read_payload(&packed_payload(super::kind::SET_INTSET, &[&head, integers].concat()), &Limits::default())
    };
    assert_eq!(spelled(&view(&intset(&[1, 0, 2, 0, 3, 0]).unwrap())), "1 2 3");
    assert_eq!(spelled(&view(&intset(&[1, 0, 3, 0, 2, 0]).unwrap())), "1 2 3");
    assert!(matches!(intset(&[1, 0, 2, 0, 2, 0]), Err(Problem::Malformed(_))));
}

/// An edit that hostile or broken hands make.
fn edited(mut bytes: Vec<u8>, edits: &[(u16, u8)]) -> Vec<u8> {
    for (at, byte) in edits {
        let len = bytes.len().max(1);
        match bytes.get_mut(usize::from(*at) % len) {
            Some(slot) => *slot = *byte,
            None => bytes.push(*byte),
        }
    }
    bytes
}

fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.extend(10u16.to_le_bytes());
    let checksum = Checksum::of(&bytes);
    bytes.extend(checksum.value().to_le_bytes());
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn every_value_survives_a_payload(value in value()) {
        let written = payload(&view(&value));
        let read = read_payload(&written, &Limits::default()).unwrap();
        prop_assert_eq!(spelled(&view(&read)), spelled(&view(&value)));
    }

    #[test]
    fn every_value_survives_a_file(value in value(), key in element(), expires_at in any::<Option<i64>>()) {
        let written = file(&[(shared(3), &key, view(&value), expires_at)]);
        let read = contents(&written).unwrap();
        let expected = (spelled(&view(&value)), expires_at);
        prop_assert_eq!(read, Contents::from([((shared(3), key.escape_ascii().to_string()), expected)]));
    }

    #[test]
    fn an_edited_payload_with_a_right_checksum_never_panics(
        value in value(),
        edits in proptest::collection::vec((any::<u16>(), any::<u8>()), 1..6),
    ) {
        let written = payload(&view(&value));
        let edited = sealed(edited(written[..written.len() - 10].to_vec(), &edits));
        let _ = read_payload(&edited, &Limits::default());
    }

    /// What is taken over as a whole is what is read element by element, whoever packed it.
    #[test]
    fn a_listpack_is_the_run_of_its_elements(
        elements in proptest::collection::vec(element(), 1..60),
        edits in proptest::collection::vec((any::<u16>(), any::<u8>()), 1..4),
    ) {
        let mut packed = Listpack::new();
        elements.iter().for_each(|element| packed.push(element));
        let packed = packed.finish();
        let taken = |listpack: &[u8]| {
            Packed::from_listpack(listpack).map(|unpacked| {
                let texts: Vec<Vec<u8>> = unpacked.run.iter().map(|item| item.text().into_vec()).collect();
                (unpacked, texts)
            })
        };
        match taken(&packed) {
            None => prop_assert!(elements.iter().any(|element| element.len() > 16_000)),
            Some((unpacked, texts)) => {
                prop_assert_eq!(&texts, &elements);
                let mut again = Vec::new();
                prop_assert!(unpacked.run.write_listpack(&mut again));
                prop_assert_eq!(again, &*packed);
                for step in [1, 2] {
                    let firsts: Vec<&Vec<u8>> = elements.iter().step_by(step).collect();
                    let different: BTreeSet<&Vec<u8>> = firsts.iter().copied().collect();
                    prop_assert_eq!(unpacked.run.are_distinct(step, 7), different.len() == firsts.len());
                }
                prop_assert!(unpacked.longest >= elements.iter().map(Vec::len).max().unwrap_or(0));
            }
        }
        let edited = edited(packed, &edits);
        if let Some((_, texts)) = taken(&edited) {
            let mut read = Vec::new();
            let fine = each(Run::Listpack, &edited, &mut |element| {
                read.push(element.into_vec());
                Ok(())
            });
            prop_assert_eq!((fine, read), (Ok(()), texts));
        }
    }

    #[test]
    fn random_bytes_of_every_kind_never_panic(kind in 0u8..32, bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = read_payload(&sealed([&[kind][..], &bytes].concat()), &Limits::default());
        let _ = contents(&[b"REDIS0011", &bytes[..]].concat());
        let _ = contents(&[&b"REDIS0011"[..], &[kind], &bytes].concat());
    }

    #[test]
    fn an_edited_file_never_panics(edits in proptest::collection::vec((any::<u16>(), any::<u8>()), 1..4)) {
        for golden in [VALKEY_9, REDIS_7, REDIS_7_STREAM, REDIS_ENCODINGS, REDIS_ZIPMAP, REDIS_QUICKLIST] {
            let _ = contents(&edited(golden.to_vec(), &edits));
        }
    }
}
