//! Conversations about keys of any type; walks over all of them; and the promise of the journal: applied elsewhere, it
//! makes the same data.

use crate::keyspace::TenantId;
use crate::testing::Engine;
use crate::types::{End, Ended, Limits, List, Patience, Set, SortedSet, Value};
use proptest::prelude::*;
use std::collections::BTreeSet;

/// The bulk strings of an answer, in order.
fn bulks(answer: &str) -> Vec<String> {
    let mut lines = answer.split("\r\n");
    let mut found = Vec::new();
    while let Some(line) = lines.next() {
        if line.starts_with('$') && line != "$-1" {
            found.extend(lines.next().map(str::to_owned));
        }
    }
    found
}

#[test]
fn keys_are_counted_and_deleted() {
    let mut engine = Engine::new(8);
    engine.converse(&[
        ("MSET a 1 b 2 c 3", "+OK\n"),
        ("EXISTS a a nope", ":2\n"),
        ("TOUCH a nope", ":1\n"),
        ("TYPE a", "+string\n"),
        ("TYPE nope", "+none\n"),
        ("DBSIZE", ":3\n"),
        ("DEL a a nope", ":1\n"),
        ("UNLINK b", ":1\n"),
        ("DBSIZE", ":1\n"),
        ("RANDOMKEY", "$1\nc\n"),
        ("FLUSHALL ASYNC", "+OK\n"),
        ("RANDOMKEY", "$-1\n"),
        ("FLUSHDB SYNC ASYNC", "-ERR syntax error\n"),
    ]);
    assert_eq!(engine.journal_lines(), ["MSET a 1 b 2 c 3", "DEL a a nope", "UNLINK b", "FLUSHALL ASYNC"]);
}

#[test]
fn an_expiry_is_set_asked_for_and_removed() {
    let mut engine = Engine::new(1);
    engine.converse(&[
        ("EXPIRE a 10", ":0\n"),
        ("SET a 1", "+OK\n"),
        ("TTL a", ":-1\n"),
        ("TTL nope", ":-2\n"),
        ("PERSIST a", ":0\n"),
        ("EXPIRE a 100 GT", ":0\n"),
        ("EXPIRE a 100 XX", ":0\n"),
        ("EXPIRE a 100 LT", ":1\n"),
        ("EXPIRE a 100 LT", ":0\n"),
        ("EXPIRE a 100 NX", ":0\n"),
        ("EXPIRE a 200 XX", ":1\n"),
        ("EXPIRE a 200 GT", ":0\n"),
        ("TTL a", ":200\n"),
        ("PTTL a", ":200000\n"),
        ("PEXPIRETIME a", ":1700000200000\n"),
        ("EXPIRETIME a", ":1700000200\n"),
        ("PERSIST a", ":1\n"),
        ("PEXPIRE a 600", ":1\n"),
        ("TTL a", ":1\n"),
        ("PEXPIREAT a 9223372036854775807", ":1\n"),
        ("PTTL a", ":9223370336854775807\n"),
        ("EXPIREAT a 1", ":1\n"),
        ("EXISTS a", ":0\n"),
    ]);
    assert_eq!(
        engine.journal_lines(),
        [
            "SET a 1",
            "PEXPIREAT a 1700000100000",
            "PEXPIREAT a 1700000200000",
            "PERSIST a",
            "PEXPIREAT a 1700000000600",
            "PEXPIREAT a 9223372036854775807",
            "DEL a",
        ]
    );
}

#[test]
fn expire_options_that_contradict_each_other_are_refused() {
    let mut engine = Engine::new(1);
    engine.converse(&[
        ("EXPIRE a x BOGUS", "-ERR Unsupported option BOGUS\n"),
        ("EXPIRE a x", "-ERR value is not an integer or out of range\n"),
        ("EXPIRE a 1 NX GT", "-ERR NX and XX, GT or LT options at the same time are not compatible\n"),
        ("EXPIRE a 1 GT LT", "-ERR GT and LT options at the same time are not compatible\n"),
        ("EXPIRE a 9223372036854775807", "-ERR invalid expire time in 'expire' command\n"),
        ("PEXPIRE a 9223372036854775807", "-ERR invalid expire time in 'pexpire' command\n"),
    ]);
}

#[test]
fn a_value_moves_with_its_expiry() {
    let mut engine = Engine::new(8);
    engine.converse(&[
        ("RENAME nope b", "-ERR no such key\n"),
        ("SET a 1 EX 10", "+OK\n"),
        ("RENAME a a", "+OK\n"),
        ("RENAMENX a a", ":0\n"),
        ("RENAME a b", "+OK\n"),
        ("TTL b", ":10\n"),
        ("SET c 1", "+OK\n"),
        ("RENAMENX b c", ":0\n"),
        ("RENAMENX b d", ":1\n"),
        ("COPY d d", "-ERR source and destination objects are the same\n"),
        ("COPY d c", ":0\n"),
        ("COPY d c REPLACE", ":1\n"),
        ("TTL c", ":10\n"),
        ("COPY d d DB 1", ":1\n"),
        ("COPY d d DB 99", "-ERR DB index is out of range\n"),
        ("MOVE d 0", "-ERR source and destination objects are the same\n"),
        ("MOVE d 1", ":0\n"),
        ("MOVE d 2", ":1\n"),
        ("EXISTS d", ":0\n"),
        ("SWAPDB 0 2", "+OK\n"),
        ("TTL d", ":10\n"),
        ("SWAPDB 0 99", "-ERR DB index is out of range\n"),
        ("SWAPDB x 1", "-ERR invalid first DB index\n"),
    ]);
}

#[test]
fn objects_tell_how_they_are_kept() {
    let mut engine = Engine::new(2);
    let long = format!("SET k {}", "a".repeat(113));
    engine.converse(&[
        ("OBJECT ENCODING k", "$-1\n"),
        ("SET k 12", "+OK\n"),
        ("OBJECT ENCODING k", "$3\nint\n"),
        ("SET k 012", "+OK\n"),
        ("OBJECT ENCODING k", "$6\nembstr\n"),
        (&long, "+OK\n"),
        ("OBJECT ENCODING k", "$3\nraw\n"),
        ("OBJECT REFCOUNT k", ":1\n"),
        ("OBJECT IDLETIME k", ":0\n"),
    ]);
    engine.now += 5000;
    engine.converse(&[("OBJECT IDLETIME k", ":5\n"), ("TOUCH k", ":1\n"), ("OBJECT IDLETIME k", ":0\n")]);
}

#[test]
fn scan_walks_over_every_key_while_others_come_and_go() {
    let mut engine = Engine::new(8);
    let stable: BTreeSet<String> = (0..3000).map(|index| format!("stable:{index}")).collect();
    for key in &stable {
        engine.words(&format!("SET {key} v"));
    }
    let (mut seen, mut cursor, mut calls) = (BTreeSet::new(), "0".to_owned(), 0);
    loop {
        let answer = engine.words(&format!("SCAN {cursor} COUNT 20 MATCH stable:*"));
        let mut strings = bulks(&answer).into_iter();
        cursor = strings.next().expect("a cursor comes first");
        let found: Vec<String> = strings.collect();
        assert!(found.len() < 20 + 16, "about as many as asked for: {}", found.len());
        seen.extend(found);
        assert!(cursor.parse::<u64>().expect("a number") < 1 << 53);
        calls += 1;
        for index in 0..30 {
            engine.words(&format!("SET passing:{calls}:{index} v"));
            engine.words(&format!("DEL passing:{}:{index}", calls / 2));
        }
        if cursor == "0" {
            break;
        }
    }
    assert_eq!(seen, stable);
    assert_eq!(bulks(&engine.words("KEYS stable:1?")).len(), 10);
}

#[test]
fn scan_filters_by_type_and_refuses_nonsense() {
    let mut engine = Engine::new(4);
    engine.converse(&[
        ("SET a 1", "+OK\n"),
        ("SCAN 0 TYPE list COUNT 1000", "*2\n$1\n0\n*0\n"),
        ("SCAN 0 TYPE STRING COUNT 1000", "*2\n$1\n0\n*1\n$1\na\n"),
        ("SCAN 0 TYPE bogus", "-ERR unknown type name 'bogus'\n"),
        ("SCAN x", "-ERR invalid cursor\n"),
        ("SCAN -1", "-ERR invalid cursor\n"),
        ("SCAN 18446744073709551616", "-ERR invalid cursor\n"),
        ("SCAN 18446744073709551615", "*2\n$1\n0\n*0\n"),
        ("SCAN 0 COUNT 0", "-ERR syntax error\n"),
        ("SCAN 0 COUNT x", "-ERR value is not an integer or out of range\n"),
        ("SCAN 0 MATCH", "-ERR syntax error\n"),
    ]);
}

#[test]
fn a_scan_of_the_cluster_walks_over_every_key_and_knows_slots() {
    let mut engine = Engine::new(4);
    for number in 0..500 {
        engine.words(&format!("SET key:{number} v"));
    }
    let (mut seen, mut cursor) = (BTreeSet::new(), "0".to_owned());
    loop {
        let answer = engine.words(&format!("CLUSTERSCAN {cursor} COUNT 20"));
        let mut strings = bulks(&answer).into_iter();
        cursor = strings.next().expect("a cursor comes first");
        seen.extend(strings);
        if cursor == "0" {
            break;
        }
        assert!(cursor.starts_with("0-{0}-"), "a tag tells cluster clients where to go: {cursor}");
    }
    assert_eq!(seen.len(), 500);
    engine.converse(&[
        ("CLUSTERSCAN 0 COUNT 10000 SLOT 6657 MATCH key:1*", "*2\n$1\n0\n*1\n$5\nkey:1\n"),
        ("CLUSTERSCAN 0 SLOT 16384", "-ERR Invalid or out of range slot\n"),
        ("CLUSTERSCAN 12", "-ERR Invalid cursor\n"),
        ("CLUSTERSCAN 0-{0}-x", "-ERR Invalid cursor\n"),
        ("SCAN 0 SLOT 1", "-ERR syntax error\n"),
    ]);
}

#[test]
fn every_key_is_picked_at_random_sooner_or_later() {
    let mut engine = Engine::new(4);
    engine.words("MSET a 1 b 2 c 3 d 4 e 5");
    let picked: BTreeSet<String> = (0..200).flat_map(|_| bulks(&engine.words("RANDOMKEY"))).collect();
    assert_eq!(picked.len(), 5);
    engine.words("FLUSHALL");
    engine.words("MSETEX 3 a 1 b 2 c 3 PX 10");
    engine.words("SET d 1");
    engine.now += 10;
    assert!((0..20).all(|_| engine.words("RANDOMKEY") == "$1\r\nd\r\n"));
}

fn list(elements: &[&[u8]]) -> Value {
    let mut list = List::new();
    list.push(End::Back, elements, &Limits::default());
    Value::from(list)
}

#[test]
fn elements_are_sorted() {
    let mut engine = Engine::new(4);
    engine.put(b"l", list(&[b"2", b"10", b"1"]));
    engine.put(b"x", list(&[b"a", b"b"]));
    engine.words("SET k v");
    engine.converse(&[
        ("SORT nope", "*0\n"),
        ("SORT l", "*3\n$1\n1\n$1\n2\n$2\n10\n"),
        ("SORT l ALPHA DESC", "*3\n$1\n2\n$2\n10\n$1\n1\n"),
        ("SORT l LIMIT 1 -1", "*2\n$1\n2\n$2\n10\n"),
        ("SORT l BY nosort DESC", "*3\n$1\n1\n$2\n10\n$1\n2\n"),
        ("SORT l LIMIT 0 1 GET # GET const", "*2\n$1\n1\n$-1\n"),
        ("SORT x", "-ERR One or more scores can't be converted into double\n"),
        ("SORT_RO x ALPHA DESC", "*2\n$1\nb\n$1\na\n"),
        ("SORT k", "-WRONGTYPE Operation against a key holding the wrong kind of value\n"),
    ]);
}

#[test]
fn patterns_of_a_sort_look_at_other_keys() {
    let mut engine = Engine::after(&["RPUSH l 3 1 2 10 4", "MSET w_1 30 w_2 20 w_3 10 w_10 0 t_1 b t_2 a t_3 c"]);
    engine.words("HSET h_1 n one w 5");
    engine.words("HSET h_2 n two w 7");
    engine.journal.clear();
    engine.converse(&[
        ("SORT l BY w_*", "*5\n$2\n10\n$1\n4\n$1\n3\n$1\n2\n$1\n1\n"),
        ("SORT l BY w_* DESC LIMIT 0 2 GET w_* GET #", "*4\n$2\n30\n$1\n1\n$2\n20\n$1\n2\n"),
        ("SORT l BY t_* ALPHA GET t_*", "*5\n$-1\n$-1\n$1\na\n$1\nb\n$1\nc\n"),
        (
            "SORT l BY h_*->w DESC LIMIT 0 2 GET h_*->n GET h_*-> GET h_* GET w_*->n",
            "*8\n$3\ntwo\n$-1\n$-1\n$-1\n$3\none\n$-1\n$-1\n$-1\n",
        ),
        ("SORT l BY t_*", "-ERR One or more scores can't be converted into double\n"),
        ("SORT_RO l BY w_* LIMIT 0 1", "*1\n$2\n10\n"),
        ("SORT l BY w_* GET w_* STORE d", ":5\n"),
        ("LRANGE d 0 -1", "*5\n$1\n0\n$0\n\n$2\n10\n$2\n20\n$2\n30\n"),
    ]);
    assert_eq!(engine.journal_lines(), ["DEL d", "RPUSH d 0  10 20 30"]);
}

#[test]
fn a_sorted_result_is_stored_as_a_list_that_is_the_same_everywhere() {
    let mut engine = Engine::new(4);
    let mut set = Set::new();
    let mut scores = SortedSet::new();
    for (index, member) in [b"c", b"a", b"b"].into_iter().enumerate() {
        set.add(member, &Limits::default());
        scores.set(member, index as f64, &Limits::default()).expect("an index is a number");
    }
    engine.put(b"s", Value::from(set));
    engine.put(b"z", Value::from(scores));
    engine.converse(&[
        ("SORT z BY nosort DESC LIMIT 1 1", "*1\n$1\na\n"),
        ("SORT s BY nosort STORE d", ":3\n"),
        ("TYPE d", "+list\n"),
        ("SORT d BY nosort", "*3\n$1\na\n$1\nb\n$1\nc\n"),
        ("SORT nope STORE d", ":0\n"),
        ("EXISTS d", ":0\n"),
        ("SORT nope STORE d", ":0\n"),
    ]);
    assert_eq!(engine.journal_lines(), ["SORT s BY nosort STORE d", "DEL d"]);
}

/// A request about few keys, so that they meet; and sometimes time passes.
fn request() -> impl Strategy<Value = (String, i64)> {
    let key = || (0..6u8).prop_map(|index| format!("k{index}"));
    let value = || prop_oneof!["[a-c]{0,3}", (-3..300i64).prop_map(|number| number.to_string()), Just("0.5".into())];
    let value = move || value().prop_map(|value| if value.is_empty() { "''".to_owned() } else { value });
    let time = || -2..40i64;
    let set_options = prop_oneof![
        Just(String::new()),
        Just(" NX".to_owned()),
        Just(" XX GET".to_owned()),
        Just(" KEEPTTL".to_owned()),
        time().prop_map(|time| format!(" PX {time}")),
        time().prop_map(|time| format!(" NX PXAT {}", 1_700_000_000_000 + time)),
        value().prop_map(|value| format!(" IFEQ {value}")),
    ];
    let request = prop_oneof![
        (key(), value(), set_options).prop_map(|(key, value, options)| format!("SET {key} {value}{options}")),
        (key(), value(), value(), key()).prop_map(|(k, v, w, l)| format!("MSETNX {k} {v} {l} {w}")),
        (key(), value(), time(), key()).prop_map(|(k, v, t, l)| format!("MSETEX 2 {k} {v} {l} x PX {t}")),
        (
            prop_oneof![Just("GETSET"), Just("SETNX"), Just("APPEND"), Just("DELIFEQ"), Just("INCRBYFLOAT")],
            key(),
            value()
        )
            .prop_map(|(name, key, value)| format!("{name} {key} {value}")),
        (prop_oneof![Just("GETDEL"), Just("INCR"), Just("DECR"), Just("PERSIST"), Just("DEL"), Just("GET")], key())
            .prop_map(|(name, key)| format!("{name} {key}")),
        (key(), time()).prop_map(|(key, time)| format!("GETEX {key} PX {time}")),
        key().prop_map(|key| format!("GETEX {key} PERSIST")),
        (key(), time(), value()).prop_map(|(key, time, value)| format!("PSETEX {key} {time} {value}")),
        (key(), time(), prop_oneof![Just(""), Just(" NX"), Just(" GT"), Just(" LT"), Just(" XX")])
            .prop_map(|(key, time, option)| format!("PEXPIRE {key} {time}{option}")),
        (key(), 0..9i64, value()).prop_map(|(key, offset, value)| format!("SETRANGE {key} {offset} {value}")),
        (prop_oneof![Just("RENAME"), Just("RENAMENX"), Just("COPY")], key(), key())
            .prop_map(|(name, from, to)| format!("{name} {from} {to}")),
        (key(), key(), 0..3u8).prop_map(|(from, to, db)| format!("COPY {from} {to} DB {db} REPLACE")),
        (key(), 0..3u8).prop_map(|(key, database)| format!("MOVE {key} {database}")),
        (0..3u8, 0..3u8).prop_map(|(first, second)| format!("SWAPDB {first} {second}")),
        (0..3u8, 0..3u8, key()).prop_map(|(first, second, prefix)| format!("TENANT SWAPDB {first} {second} {prefix}")),
        (0..10u8).prop_map(|dice| if dice == 0 { "FLUSHALL".into() } else { "RANDOMKEY".to_owned() }),
        (key(), 0..20u8, 0..2u8).prop_map(|(key, offset, bit)| format!("SETBIT {key} {offset} {bit}")),
        (prop_oneof![Just("AND"), Just("OR"), Just("XOR")], key(), key(), key())
            .prop_map(|(name, to, a, b)| format!("BITOP {name} {to} {a} {b}")),
        (key(), -9..9i64).prop_map(|(key, by)| format!("BITFIELD {key} OVERFLOW FAIL INCRBY u4 #1 {by}")),
        (key(), value()).prop_map(|(key, value)| format!("RPUSH {key} {value}")),
        (key(), key()).prop_map(|(key, to)| format!("SORT {key} ALPHA STORE {to}")),
    ];
    (request, prop_oneof![3 => Just(0i64), 1 => 1..30i64])
}

proptest! {
    /// Whatever clients do and however time passes, a replica that applies the journal and knows no time holds the same.
    #[test]
    fn the_journal_makes_the_same_data_elsewhere(
        requests in proptest::collection::vec((request(), 0..2u32), 1..120),
        shard_bits in 0..4u32,
    ) {
        let mut primary = Engine::new(1 << shard_bits);
        let mut replica = Engine::new(4);
        for ((request, pause), database) in &requests {
            primary.now += pause;
            primary.database = *database;
            let answer = primary.words(request);
            if answer.starts_with('-') {
                prop_assert_eq!(primary.changes, 0, "an error changes nothing: {}", request);
            }
        }
        replica.apply(&primary.journal);
        replica.now = primary.now;
        prop_assert_eq!(primary.contents(), replica.contents());
    }
}

/// What a user with these key patterns reaches.
fn within(rules: &str) -> crate::scope::Reach {
    use keyward_acl::{Policy, User, UserName, Walls, parse_rules};
    let mut user = User::new(UserName::new(b"app").unwrap(), 1);
    let words: Vec<&str> = rules.split(' ').collect();
    parse_rules(&words).unwrap().iter().for_each(|rule| user.apply(rule));
    let policy = Policy::compile(&user, crate::table::table(), Walls::Up);
    crate::scope::Reach::Within(std::sync::Arc::new(policy), crate::keyspace::TenantId::SHARED)
}

/// Keys of two applications: `a` has a few, `b` many, and some that `a` may only read.
fn shared_by_two() -> Engine {
    let mut engine = Engine::new(4);
    (0..5).for_each(|number| _ = engine.words(&format!("SET a:{number} x")));
    (0..500).for_each(|number| _ = engine.words(&format!("SET b:{number} x")));
    engine.words("SET shared:1 x");
    engine.database = 3;
    engine.words("SET a:other x");
    engine.words("SET b:other x");
    engine.database = 0;
    engine.journal.clear();
    engine.reach = within("+@all ~a:* %R~shared:*");
    engine
}

fn sorted(mut words: Vec<String>) -> Vec<String> {
    words.sort();
    words
}

#[test]
fn a_confined_user_lists_and_counts_what_it_may_touch() {
    let mut engine = shared_by_two();
    let mine = ["a:0", "a:1", "a:2", "a:3", "a:4", "shared:1"];
    assert_eq!(sorted(bulks(&engine.words("KEYS *"))), mine);
    assert_eq!(engine.words("KEYS b:*"), "*0\r\n");
    assert_eq!(engine.words("DBSIZE"), ":6\r\n");
    for _ in 0..200 {
        let key = bulks(&engine.words("RANDOMKEY"));
        assert!(mine.contains(&key[0].as_str()), "{key:?}");
    }
    engine.reach = within("+@all ~none:*");
    assert_eq!(engine.words("RANDOMKEY"), "$-1\r\n");
    assert_eq!(engine.words("DBSIZE"), ":0\r\n");
}

#[test]
fn scan_shows_a_confined_user_its_own_keys_once_and_no_empty_page_for_others() {
    let mut engine = shared_by_two();
    let (mut cursor, mut pages, mut found) = ("0".to_owned(), 0, Vec::new());
    loop {
        let mut page = bulks(&engine.words(&format!("SCAN {cursor} COUNT 3")));
        cursor = page.remove(0);
        found.append(&mut page);
        pages += 1;
        if cursor == "0" {
            break;
        }
    }
    found.sort();
    assert_eq!(found, ["a:0", "a:1", "a:2", "a:3", "a:4", "shared:1"]);
    assert!(pages <= 7, "{pages} pages for six keys");
}

#[test]
fn a_flush_of_a_confined_user_takes_what_it_may_delete_and_says_so_key_by_key() {
    let mut engine = shared_by_two();
    assert_eq!(engine.words("FLUSHDB"), "+OK\r\n");
    let deleted: Vec<String> = engine
        .journal
        .iter()
        .flat_map(|(database, command)| {
            assert_eq!((*database, &command[0][..]), (0, &b"DEL"[..]));
            command[1..].iter().map(|key| String::from_utf8(key.clone()).unwrap())
        })
        .collect();
    assert_eq!(sorted(deleted), ["a:0", "a:1", "a:2", "a:3", "a:4"]);
    assert_eq!(engine.changes, 5);
    engine.reach = crate::scope::Reach::Everything;
    assert_eq!(engine.words("DBSIZE"), ":501\r\n");

    let mut engine = shared_by_two();
    engine.words("FLUSHALL");
    assert!(engine.journal.contains(&(3, vec![b"DEL".to_vec(), b"a:other".to_vec()])));
    engine.reach = crate::scope::Reach::Everything;
    engine.database = 3;
    assert_eq!(bulks(&engine.words("KEYS *")), ["b:other"]);
}

const GW: TenantId = TenantId::with_prefixes(1);

/// What a user of the tenant reaches that owns `gw:`.
fn within_tenant(rules: &str) -> crate::scope::Reach {
    use keyward_acl::{Fence, Policy, User, UserName, Walls, parse_rules};
    let mut user = User::new(UserName::new(b"gw").unwrap(), 1);
    let words: Vec<&str> = rules.split(' ').collect();
    parse_rules(&words).unwrap().iter().for_each(|rule| user.apply(rule));
    let fence = Fence::of_prefixes([&b"gw:"[..]].into_iter());
    let policy = Policy::compile_within(&user, crate::table::table(), Walls::Up, Some(&fence));
    crate::scope::Reach::Within(std::sync::Arc::new(policy), GW)
}

/// Keys of the tenant, of others, and of nobody, in two databases; its user asks.
fn two_databases() -> Engine {
    let mut engine = Engine::new(4);
    engine.own(&[("gw:", GW), ("ai:", TenantId::with_prefixes(2))]);
    for (database, keys) in [(0, &["gw:1", "gw:both", "{gw:t}:1", "ai:1", "g"][..]), (1, &["gw:both", "ai:2", "gw"])] {
        engine.database = database;
        keys.iter().for_each(|key| _ = engine.words(&format!("SET {key} of{database}")));
        engine.words(&format!("HSET gw:hash{database} f v"));
        engine.words(&format!("HEXPIRE gw:hash{database} 100 FIELDS 1 f"));
    }
    (engine.database, engine.tenant, engine.reach) = (0, GW, within_tenant("~* +@all"));
    engine
}

#[test]
fn a_tenant_exchanges_its_own_databases_and_nobody_elses() {
    let mut engine = two_databases();
    let made = std::mem::take(&mut engine.journal);
    let before = engine.contents();
    assert_eq!(engine.words("SWAPDB 0 1"), "+OK\r\n");
    let exchanged = |line: &String| match line.split_at(1) {
        ("0", rest) if rest.contains("gw:") => format!("1{rest}"),
        ("1", rest) if rest.contains("gw:") => format!("0{rest}"),
        _ => line.clone(),
    };
    let after = sorted(before.iter().map(exchanged).collect());
    assert_eq!(engine.contents(), after);
    assert!(before != after && after.iter().any(|line| line.starts_with("0 gw:both") && line.ends_with("of1")));
    let [(0, written)] = &engine.journal[..] else { panic!("{:?}", engine.journal) };
    assert_eq!(written.join(&b' '), b"TENANT SWAPDB 0 1 gw:");
    assert_eq!(engine.words("DBSIZE"), ":2\r\n");
    assert!(engine.shards().iter_mut().all(|shard| shard.recount().is_empty()));
    // Whoever repeats it may not have heard of the tenant yet, or know others.
    let whole = [made, std::mem::take(&mut engine.journal)].concat();
    for owned in [&[][..], &[("gw:", GW)], &[("g", GW)], &[("gw:b", GW), ("gw:h", TenantId::with_prefixes(2))]] {
        let mut replica = Engine::new(2);
        replica.own(owned);
        replica.apply(&whole);
        replica.now = engine.now;
        assert_eq!(replica.contents(), after, "{owned:?}");
        let found: String = replica.shards().iter_mut().map(|shard| shard.recount()).collect();
        assert_eq!(found, "", "{owned:?}");
    }
    // There and back.
    assert_eq!(engine.words("SWAPDB 1 0"), "+OK\r\n");
    assert_eq!(engine.contents(), before);
    for (request, error) in [("SWAPDB 0 16", "-ERR DB index is out of range\r\n"), ("SWAPDB 0 0", "+OK\r\n")] {
        engine.journal.clear();
        assert_eq!(engine.words(request), error);
        assert!(engine.journal.is_empty() && engine.contents() == before, "{request}");
    }
}

#[test]
fn whoever_holds_less_than_its_tenant_exchanges_nothing() {
    let mut engine = two_databases();
    let before = engine.contents();
    let mut may = |reach: crate::scope::Reach| {
        engine.reach = reach;
        let answer = engine.words("SWAPDB 0 1");
        assert_eq!(answer.starts_with("-NOPERM "), engine.contents() == before, "{answer}");
        let done = answer == "+OK\r\n";
        if done {
            engine.words("SWAPDB 0 1");
        }
        done
    };
    for rules in ["~gw:* ~{gw:* +@all", "~* +@all", "~none (~* +swapdb)", "mode=report +get ~gw:1"] {
        assert!(may(within_tenant(rules)), "{rules}");
    }
    for rules in ["~gw:* +@all", "%R~* +@all", "%W~* +@all", "~gw:b* +@all", "+@all"] {
        assert!(!may(within_tenant(rules)), "{rules}");
    }
    assert!(!may(within("+@all ~gw:*")), "nobody's segment is its own");
    assert!(!may(crate::scope::Reach::Nothing));
}

#[test]
fn a_namespace_exchanges_its_own_databases() {
    let mut engine = two_databases();
    let names = TenantId::with_namespace(3);
    let space = |database| crate::keyspace::SpaceId { tenant: names, database };
    // Its keys are made elsewhere: here requests that name keys are everybody's.
    let before = engine.contents();
    engine.tenant = names;
    engine.reach = crate::scope::Reach::Everything;
    engine.shards()[0].space_mut(space(0));
    assert_eq!(engine.words("SWAPDB 0 1"), "+OK\r\n");
    assert_eq!(engine.contents(), before, "what is everybody's stays");
    let [.., (0, written)] = &engine.journal[..] else { panic!("{:?}", engine.journal) };
    assert_eq!(written.join(&b' '), b"SWAPDB 0 1", "where that is carried out its keyspace is known");
}

/// `ZUNION 1000 s s s …` of a hundred thousand members took a core for 46 seconds, and nobody could end it.
#[test]
fn what_goes_over_its_keys_many_times_ends_when_it_is_told_and_changes_nothing() {
    let mut engine = Engine::new(4);
    for at in 0..300 {
        engine.words(&format!("ZADD z {at} m{at}"));
        engine.words(&format!("SADD s m{at}"));
        engine.words(&format!("RPUSH l {}", 1000 - at));
    }
    let long = "x".repeat(3000);
    engine.run(&[b"SET", b"a", long.as_bytes()]);
    engine.run(&[b"SET", b"b", long.as_bytes()]);
    engine.run(&[b"PFADD", b"p", b"1"]);
    engine.run(&[b"SET", b"d", b"as it was"]);
    let before = engine.contents();
    let (zs, ss, bs, ps) = (" z".repeat(20), " s".repeat(20), " a".repeat(500), " p".repeat(20));
    let requests = [
        format!("ZUNION 20{zs}"),
        format!("ZINTER 20{zs}"),
        format!("ZINTERCARD 20{zs}"),
        format!("ZDIFF 20{zs}"),
        format!("ZUNIONSTORE d 20{zs}"),
        format!("ZINTERSTORE d 20{zs}"),
        format!("ZDIFFSTORE d 20{zs}"),
        format!("SUNION{ss}"),
        format!("SINTER{ss}"),
        format!("SINTERCARD 20{ss}"),
        format!("SDIFF{ss}"),
        format!("SUNIONSTORE d{ss}"),
        format!("SINTERSTORE d{ss}"),
        format!("SDIFFSTORE d{ss}"),
        "SORT l".to_owned(),
        "SORT s ALPHA STORE d".to_owned(),
        "SORT_RO l BY w_*".to_owned(),
        "LCS a b".to_owned(),
        format!("BITOP AND d{bs}"),
        format!("PFCOUNT{ps}"),
        format!("PFMERGE d2{ps}"),
    ];
    for request in requests {
        // Whenever it is told: at its beginning, and well after it.
        for patience in [0, 1] {
            let asked = std::cell::Cell::new(0);
            engine.patience = Some(Patience::new(move || {
                asked.set(asked.get() + 1);
                if asked.get() > patience { Err(Ended("ERR enough".into())) } else { Ok(()) }
            }));
            let short = patience > 0 && ["SORT", "SDIFF", "ZDIFF"].iter().any(|begins| request.starts_with(begins));
            if !short {
                assert_eq!(engine.words(&request), "-ERR enough\r\n", "{request}");
                assert_eq!(engine.contents(), before, "{request}");
                assert_eq!(engine.changes, 0, "{request}");
            }
            engine.patience = None;
        }
        assert!(!engine.words(&request).starts_with("-ERR enough"), "{request}");
        engine.run(&[b"SET", b"d", b"as it was"]);
        engine.run(&[b"DEL", b"d2"]);
    }
}

#[test]
fn elements_sorted_in_steps_are_in_the_same_order() {
    let mut engine = Engine::new(1);
    for at in 0..30_000_u32 {
        engine.words(&format!("RPUSH l {}", at.wrapping_mul(2_654_435_761) % 9973));
    }
    let at_once = engine.words("SORT l");
    let as_texts = engine.words("SORT l ALPHA DESC");
    engine.patience = Some(Patience::new(|| Ok(())));
    assert_eq!(engine.words("SORT l"), at_once);
    assert_eq!(engine.words("SORT l ALPHA DESC"), as_texts);
}
