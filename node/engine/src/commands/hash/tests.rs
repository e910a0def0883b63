//! Conversations with hashes, answered as Valkey 9 answers them, and what they leave in the journal.

use crate::commands::collections::replay;
use crate::reply::Protocol;
use crate::testing::{Engine, NOT_INTEGER, SYNTAX, WRONG_TYPE};
use proptest::prelude::*;

#[test]
fn fields_are_set_and_read() {
    let mut engine = Engine::after(&["SET str x"]);
    engine.converse(&[
        ("HSET h a 1 b", "-ERR wrong number of arguments for 'hset' command\n"),
        ("HMSET h a 1 b", "-ERR wrong number of arguments for 'hmset' command\n"),
        ("HSET h a 1 b 2", ":2\n"),
        ("HSET h a 3 c 4", ":1\n"),
        ("HMSET h b 5", "+OK\n"),
        ("HSETNX h a 9", ":0\n"),
        ("HSETNX h d ''", ":1\n"),
        ("HGET h a", "$1\n3\n"),
        ("HGET h zz", "$-1\n"),
        ("HGET nope a", "$-1\n"),
        ("HMGET h a zz b", "*3\n$1\n3\n$-1\n$1\n5\n"),
        ("HMGET nope a", "*1\n$-1\n"),
        ("HEXISTS h a", ":1\n"),
        ("HEXISTS nope a", ":0\n"),
        ("HLEN h", ":4\n"),
        ("HSTRLEN h d", ":0\n"),
        ("HSTRLEN h a", ":1\n"),
        ("HKEYS h", "*4\n$1\na\n$1\nb\n$1\nc\n$1\nd\n"),
        ("HVALS h", "*4\n$1\n3\n$1\n5\n$1\n4\n$0\n\n"),
        ("HDEL h a zz d b", ":3\n"),
        ("HGETALL h", "*2\n$1\nc\n$1\n4\n"),
        ("HGETALL nope", "*0\n"),
        ("HDEL h c", ":1\n"),
        ("EXISTS h", ":0\n"),
        ("HDEL h c", ":0\n"),
        ("HSET str a 1", WRONG_TYPE),
        ("HGETALL str", WRONG_TYPE),
    ]);
    let journal = ["HSET h a 1 b 2", "HSET h a 3 c 4", "HMSET h b 5", "HSETNX h d ", "HDEL h a zz d b", "HDEL h c"];
    assert_eq!(engine.journal_lines(), journal);
    engine.words("HSET h a 1");
    engine.protocol = Protocol::Resp3;
    engine.converse(&[
        ("HGETALL h", "%1\n$1\na\n$1\n1\n"),
        ("HGETALL nope", "%0\n"),
        ("HGET h zz", "_\n"),
        ("HKEYS h", "*1\n$1\na\n"),
    ]);
}

#[test]
fn numbers_in_fields_are_counted_with() {
    let mut engine = Engine::after(&["HSET h a 1 b x c 1.5", "SET str x"]);
    engine.converse(&[
        ("HINCRBY h a x", NOT_INTEGER),
        ("HINCRBY str a x", NOT_INTEGER),
        ("HINCRBY str a 1", WRONG_TYPE),
        ("HINCRBY h b 1", "-ERR hash value is not an integer\n"),
        ("HINCRBY h a 9223372036854775807", "-ERR increment or decrement would overflow\n"),
        ("HINCRBY h a -3", ":-2\n"),
        ("HINCRBY new n 7", ":7\n"),
        ("HINCRBYFLOAT h b 1", "-ERR hash value is not a float\n"),
        ("HINCRBYFLOAT h a x", "-ERR value is not a valid float\n"),
        ("HINCRBYFLOAT h a inf", "-ERR value is NaN or Infinity\n"),
        ("HINCRBYFLOAT h c 0.1", "$3\n1.6\n"),
        ("HINCRBYFLOAT fresh f x", "-ERR value is not a valid float\n"),
        ("EXISTS fresh", ":0\n"),
    ]);
    assert_eq!(engine.journal_lines(), ["HINCRBY h a -3", "HINCRBY new n 7", "HSET h c 1.6"]);
}

#[test]
fn fields_are_drawn_at_random() {
    let mut engine = Engine::after(&["HSET h a 1", "HSET big a 1 b 2 c 3"]);
    let range = "-ERR value is out of range, value must between -9223372036854775807 and 9223372036854775807\n";
    engine.converse(&[
        ("HRANDFIELD h", "$1\na\n"),
        ("HRANDFIELD h 5", "*1\n$1\na\n"),
        ("HRANDFIELD h -3", "*3\n$1\na\n$1\na\n$1\na\n"),
        ("HRANDFIELD h -2 WITHVALUES", "*4\n$1\na\n$1\n1\n$1\na\n$1\n1\n"),
        ("HRANDFIELD h 0", "*0\n"),
        ("HRANDFIELD nope", "$-1\n"),
        ("HRANDFIELD nope 3 WITHVALUES", "*0\n"),
        ("HRANDFIELD h x", NOT_INTEGER),
        ("HRANDFIELD h 1 BOGUS", SYNTAX),
        ("HRANDFIELD h 1 WITHVALUES X", SYNTAX),
        ("HRANDFIELD h -9223372036854775808", range),
        ("HRANDFIELD h -9223372036854775807 WITHVALUES", "-ERR value is out of range\n"),
    ]);
    engine.protocol = Protocol::Resp3;
    engine.converse(&[("HRANDFIELD h 1 WITHVALUES", "*1\n*2\n$1\na\n$1\n1\n"), ("HRANDFIELD nope", "_\n")]);
    let drawn = engine.words("HRANDFIELD big 2");
    assert!(drawn.starts_with("*2") && drawn.lines().nth(2) != drawn.lines().nth(4), "{drawn}");
    assert!(engine.journal.is_empty());
}

#[test]
fn a_walk_shows_every_field() {
    let mut engine = Engine::after(&["HSET h a 1 b 2", "SET str x"]);
    engine.converse(&[
        ("HSCAN h 0", "*2\n$1\n0\n*4\n$1\na\n$1\n1\n$1\nb\n$1\n2\n"),
        ("HSCAN h +0 MATCH b* COUNT 5 NOVALUES", "*2\n$1\n0\n*1\n$1\nb\n"),
        ("HSCAN nope 0 BOGUS", "*2\n$1\n0\n*0\n"),
        ("HSCAN nope x", "-ERR invalid cursor\n"),
        ("HSCAN h -1", "-ERR invalid cursor\n"),
        ("HSCAN h 18446744073709551616", "-ERR invalid cursor\n"),
        ("HSCAN h 0 BOGUS", SYNTAX),
        ("HSCAN h 0 COUNT 0", SYNTAX),
        ("HSCAN h 0 COUNT x", NOT_INTEGER),
        ("HSCAN h 0 COUNT", SYNTAX),
        ("HSCAN str 0", WRONG_TYPE),
    ]);
    let mut request = "HSET many".to_owned();
    (0..2000).for_each(|number| request += &format!(" f{number} v"));
    engine.words(&request);
    let (mut cursor, mut seen) = ("0".to_owned(), std::collections::BTreeSet::new());
    loop {
        let page = engine.words(&format!("HSCAN many {cursor} NOVALUES"));
        let lines: Vec<&str> = page.lines().collect();
        lines[4..].iter().filter(|line| line.starts_with('f')).for_each(|line| _ = seen.insert(line.to_string()));
        assert!(lines.len() < 500, "a step shows some fields, not all");
        cursor = lines[2].to_owned();
        if cursor == "0" {
            break;
        }
    }
    assert_eq!(seen.len(), 2000);
}

#[test]
fn hgetdel_returns_what_it_deletes() {
    let mut engine = Engine::after(&["HSET h a 1 b 2", "SET str x"]);
    let refused = "-ERR numfields should be greater than 0 and match the provided number of fields\n";
    engine.converse(&[
        ("HGETDEL h FIELDS 2 a", refused),
        ("HGETDEL h FIELDS 1 a b", refused),
        ("HGETDEL h FIELDS 0 a", refused),
        ("HGETDEL h FIELDS x a", NOT_INTEGER),
        ("HGETDEL h FIELDZ 1 a", SYNTAX),
        ("HGETDEL str FIELDS 1 a", WRONG_TYPE),
        ("HGETDEL nope FIELDS 1 a", "*1\n$-1\n"),
        ("HGETDEL h FIELDS 1 zz", "*1\n$-1\n"),
        ("HGETDEL h FIELDS 2 a a", "*2\n$1\n1\n$-1\n"),
        ("HGETDEL h FIELDS 1 b", "*1\n$1\n2\n"),
        ("EXISTS h", ":0\n"),
    ]);
    assert_eq!(engine.journal_lines(), ["HGETDEL h FIELDS 2 a a", "HGETDEL h FIELDS 1 b"]);
}

const TEMPLATES: replay::Templates = &[
    "HSET K M M",
    "HSET K M N M N",
    "HMSET K M N",
    "HSETNX K M M",
    "HDEL K M M",
    "HINCRBY K M C",
    "HINCRBYFLOAT K M N",
    "HGETDEL K FIELDS 2 M M",
    "HGETALL K",
    "HRANDFIELD K -5",
    "HMGET K M M",
];

proptest! {
    #[test]
    fn effects_make_the_same_hashes_elsewhere(requests in replay::requests(TEMPLATES)) {
        replay::check(&requests);
    }
}
