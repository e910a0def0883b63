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

#[test]
fn fields_are_given_a_time_to_live() {
    let mut engine = Engine::after(&["HSET h a 1 b 2 c 3", "SET str x"]);
    let mismatch = "-ERR numfields should be greater than 0 and match the provided number of fields\n";
    engine.converse(&[
        ("HEXPIRE h 100 FIELDS 2 a zz", "*2\n:1\n:-2\n"),
        ("HEXPIRE h 50 NX FIELDS 2 a b", "*2\n:0\n:1\n"),
        ("HEXPIRE h 40 XX FIELDS 2 b c", "*2\n:1\n:0\n"),
        ("HEXPIRE h 50 GT FIELDS 3 a b c", "*3\n:0\n:1\n:0\n"),
        ("HEXPIRE h 90 LT FIELDS 3 a b c", "*3\n:1\n:0\n:1\n"),
        ("HTTL h FIELDS 4 a b c zz", "*4\n:90\n:50\n:90\n:-2\n"),
        ("HPTTL h FIELDS 1 b", "*1\n:50000\n"),
        ("HEXPIRETIME h FIELDS 1 b", "*1\n:1700000050\n"),
        ("HPEXPIRETIME h FIELDS 1 b", "*1\n:1700000050000\n"),
        ("HPERSIST h FIELDS 3 a zz b", "*3\n:1\n:-2\n:1\n"),
        ("HPERSIST h FIELDS 1 a", "*1\n:-1\n"),
        ("HTTL h FIELDS 1 a", "*1\n:-1\n"),
        ("HTTL nope FIELDS 2 a b", "*2\n:-2\n:-2\n"),
        ("HEXPIRE nope 10 FIELDS 1 a", "*1\n:-2\n"),
        ("HEXPIRE h 0 FIELDS 2 a zz", "*2\n:2\n:-2\n"),
        ("HEXPIREAT h 1 FIELDS 1 b", "*1\n:2\n"),
        ("HPEXPIREAT h 1 FIELDS 1 c", "*1\n:2\n"),
        ("EXISTS h", ":0\n"),
        ("HEXPIRE str 10 FIELDS 1 a", WRONG_TYPE),
        ("HTTL str FIELDS 1 a", WRONG_TYPE),
        ("HEXPIRE h x FIELDS 1 a", NOT_INTEGER),
        ("HEXPIRE h -1 FIELDS 1 a", "-ERR invalid expire time in 'hexpire' command\n"),
        ("HPEXPIRE h 9223372036854775807 FIELDS 1 a", "-ERR invalid expire time in 'hpexpire' command\n"),
        ("HEXPIRE h 1 FIELDS 2 a", mismatch),
        ("HEXPIRE h 1 a b c", mismatch),
        ("HEXPIRE h 1 BLA FIELDS 1 a", "-ERR Unsupported option BLA\n"),
        ("HEXPIRE h 1 GT LT FIELDS 1 a", "-ERR GT and LT options at the same time are not compatible\n"),
        ("HEXPIRE h 1 NX XX FIELDS 1 a", "-ERR NX and XX, GT or LT options at the same time are not compatible\n"),
        ("HTTL h FIELDS 2 a", SYNTAX),
        ("HPERSIST h FIELDS 2 a", mismatch),
    ]);
}

#[test]
fn an_expired_field_is_missing_for_every_reader() {
    let mut engine = Engine::after(&["HSETEX h PX 5 FIELDS 2 a 1 b 2", "HSET h c 3"]);
    engine.now += 5;
    engine.converse(&[
        ("HGET h a", "$-1\n"),
        ("HMGET h a c", "*2\n$-1\n$1\n3\n"),
        ("HGETALL h", "*2\n$1\nc\n$1\n3\n"),
        ("HKEYS h", "*1\n$1\nc\n"),
        ("HVALS h", "*1\n$1\n3\n"),
        ("HLEN h", ":1\n"),
        ("HEXISTS h a", ":0\n"),
        ("HSTRLEN h a", ":0\n"),
        ("HTTL h FIELDS 1 a", "*1\n:-2\n"),
        ("HRANDFIELD h", "$1\nc\n"),
        ("HRANDFIELD h 9", "*1\n$1\nc\n"),
        ("HRANDFIELD h -2", "*2\n$1\nc\n$1\nc\n"),
        ("HSCAN h 0", "*2\n$1\n0\n*2\n$1\nc\n$1\n3\n"),
        ("HGETEX h PX 100 FIELDS 1 a", "*1\n$-1\n"),
        ("HPERSIST h FIELDS 1 a", "*1\n:-2\n"),
        ("HPEXPIRE h 100 FIELDS 1 a", "*1\n:-2\n"),
    ]);
    assert_eq!(engine.journal_lines(), [""; 0], "reading removes nothing");
    engine.converse(&[("HINCRBY h a 7", ":7\n"), ("HTTL h FIELDS 1 a", "*1\n:-1\n"), ("HSETNX h b 8", ":1\n")]);
    assert_eq!(engine.journal_lines(), ["HDEL h a", "HINCRBY h a 7", "HDEL h b", "HSETNX h b 8"]);
}

#[test]
fn a_hash_whose_fields_all_expired_reads_empty_and_is_swept() {
    let mut engine = Engine::after(&["HSETEX h PX 5 FIELDS 3 a 1 b 2 c 3", "HSETEX later EX 5 FIELDS 1 a 1"]);
    engine.now += 5;
    engine.converse(&[
        ("HLEN h", ":0\n"),
        ("HGETALL h", "*0\n"),
        ("HRANDFIELD h", "$-1\n"),
        ("HRANDFIELD h -3", "*0\n"),
        ("EXISTS h", ":1\n"),
    ]);
    assert_eq!(engine.sweep_fields(2), 2);
    assert_eq!(engine.words("EXISTS h"), ":1\r\n");
    assert_eq!(engine.sweep_fields(2), 1);
    assert_eq!(engine.words("EXISTS h"), ":0\r\n");
    assert_eq!(engine.sweep_fields(2), 0, "what expires later stays");
    let mut removed: Vec<String> =
        engine.journal_lines().iter().flat_map(|line| line.split(' ').skip(2)).map(str::to_owned).collect();
    removed.sort();
    assert_eq!(removed, ["a", "b", "c"]);
    engine.now += 5000;
    assert_eq!(engine.sweep_fields(2), 1, "and goes when its time has come");
}

#[test]
fn a_hash_made_anew_after_its_last_field_expired_has_no_expiry_of_its_key() {
    let mut engine = Engine::after(&["HSETEX h PX 5 FIELDS 1 a 1", "PEXPIRE h 100"]);
    engine.now += 5;
    engine.converse(&[("HSET h a 2", ":1\n"), ("PTTL h", ":-1\n")]);
    assert_eq!(engine.journal_lines(), ["HDEL h a", "HSET h a 2"], "elsewhere HDEL takes the key and its expiry away");
}

#[test]
fn setting_clears_an_expiry_and_counting_keeps_it() {
    let mut engine = Engine::after(&["HSETEX h EX 100 FIELDS 3 a 1 b 2 c 3"]);
    engine.converse(&[
        ("HSET h a 2", ":0\n"),
        ("HINCRBY h b 1", ":3\n"),
        ("HINCRBYFLOAT h c 0.5", "$3\n3.5\n"),
        ("HTTL h FIELDS 3 a b c", "*3\n:-1\n:100\n:100\n"),
        ("COPY h h2", ":1\n"),
        ("RENAME h2 h3", "+OK\n"),
        ("HTTL h3 FIELDS 3 a b c", "*3\n:-1\n:100\n:100\n"),
    ]);
    let journal =
        ["HSET h a 2", "HINCRBY h b 1", "HSETEX h KEEPTTL FIELDS 1 c 3.5", "COPY h h2 DB 0 REPLACE", "RENAME h2 h3"];
    assert_eq!(engine.journal_lines(), journal);
}

#[test]
fn hgetex_and_hsetex() {
    let mut engine = Engine::after(&["HSET h a 1 b 2"]);
    let mismatch = "-ERR numfields should be greater than 0 and match the provided number of fields\n";
    engine.converse(&[
        ("HGETEX h FIELDS 2 a zz", "*2\n$1\n1\n$-1\n"),
        ("HGETEX h EX 10 FIELDS 2 a zz", "*2\n$1\n1\n$-1\n"),
        ("HGETEX h PERSIST FIELDS 2 a b", "*2\n$1\n1\n$1\n2\n"),
        ("HGETEX h PX 0 FIELDS 1 a", "*1\n$1\n1\n"),
        ("HGETALL h", "*2\n$1\nb\n$1\n2\n"),
        ("HGETEX nope EX 10 FIELDS 2 b c", "*2\n$-1\n$-1\n"),
        ("HGETEX h EX 10 PX 10 FIELDS 1 b", SYNTAX),
        ("HGETEX h KEEPTTL FIELDS 1 b", SYNTAX),
        ("HGETEX h X 1 b", mismatch),
        ("HSETEX h FNX EX 10 FIELDS 2 b 9 c 9", ":0\n"),
        ("HSETEX h FXX EX 10 FIELDS 2 b 9 c 9", ":0\n"),
        ("HSETEX h NX FIELDS 1 b 9", ":0\n"),
        ("HSETEX nope XX FIELDS 1 b 9", ":0\n"),
        ("HSETEX h XX FXX EX 10 FIELDS 1 b 9", ":1\n"),
        ("HSETEX h KEEPTTL FIELDS 1 b 8", ":1\n"),
        ("HTTL h FIELDS 1 b", "*1\n:10\n"),
        ("HSETEX h FIELDS 1 b 7", ":1\n"),
        ("HTTL h FIELDS 1 b", "*1\n:-1\n"),
        ("HSETEX h PXAT 1 FIELDS 2 b 6 c 6", ":1\n"),
        ("EXISTS h", ":0\n"),
        ("HSETEX h PXAT 1 FIELDS 1 b 6", ":1\n"),
        ("HSETEX h EX 10 KEEPTTL FIELDS 1 a 1", SYNTAX),
        ("HSETEX h EX 10 FIELDS 2 a 1 b", mismatch),
    ]);
    let journal = [
        "HPEXPIREAT h 1700000010000 FIELDS 1 a",
        "HPERSIST h FIELDS 1 a",
        "HDEL h a",
        "HSETEX h PXAT 1700000010000 FIELDS 1 b 9",
        "HSETEX h KEEPTTL FIELDS 1 b 8",
        "HSET h b 7",
        "HDEL h b",
    ];
    assert_eq!(engine.journal_lines(), journal);
}

#[test]
fn what_happens_to_fields_is_told() {
    let mut engine = Engine::after(&[]);
    for (request, events) in [
        ("HSET h a 1 b 2", "new h, hset h"),
        ("HINCRBY h a 1", "hincrby h"),
        ("HINCRBYFLOAT h a 1", "hincrbyfloat h"),
        ("HSETNX h a 1", ""),
        ("HEXPIRE h 10 FIELDS 1 a", "hexpire h"),
        ("HPERSIST h FIELDS 1 a", "hpersist h"),
        ("HSETEX h EX 10 FIELDS 1 a 1", "hset h, hexpire h"),
        ("HDEL h zz", ""),
        ("HDEL h b", "hdel h"),
        ("HEXPIRE h 0 FIELDS 1 a", "hexpired h, del h"),
        ("HSETEX h PX 0 FIELDS 1 a 1", "hset h, hexpire h, hexpired h, del h"),
        ("HSET h a 1", "new h, hset h"),
        ("HGETDEL h FIELDS 1 a", "hdel h, del h"),
    ] {
        engine.words(request);
        assert_eq!(engine.events.join(", "), events, "{request}");
    }
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
    "HPEXPIRE K 2 FIELDS 2 M M",
    "HPEXPIRE K 5 GT FIELDS 1 M",
    "HPEXPIRE K 4 XX FIELDS 2 M M",
    "HPEXPIRE K 0 FIELDS 1 M",
    "HEXPIRE K 100 NX FIELDS 3 M M M",
    "HPERSIST K FIELDS 2 M M",
    "HGETEX K PX 3 FIELDS 2 M M",
    "HGETEX K PERSIST FIELDS 1 M",
    "HGETEX K PXAT 1 FIELDS 1 M",
    "HSETEX K PX 3 FIELDS 2 M N M N",
    "HSETEX K FNX PX 1 FIELDS 2 M N M M",
    "HSETEX K FXX EX 1 FIELDS 1 M N",
    "HSETEX K XX KEEPTTL FIELDS 1 M M",
    "HSETEX K PXAT 1 FIELDS 2 M M M M",
    "HSETEX K FIELDS 1 M N",
    "HTTL K FIELDS 1 M",
    "RENAME K K",
    "COPY K K REPLACE",
    "DEL K",
];

proptest! {
    #[test]
    fn effects_make_the_same_hashes_elsewhere(requests in replay::requests(TEMPLATES)) {
        replay::check(&requests);
    }
}
