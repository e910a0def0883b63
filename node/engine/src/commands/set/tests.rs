//! Conversations with sets, answered as Valkey 9 answers them, and what they leave in the journal.

use crate::commands::collections::replay;
use crate::reply::Protocol;
use crate::testing::{Engine, NOT_POSITIVE, SYNTAX, WRONG_TYPE};
use proptest::prelude::*;

#[test]
fn members_are_added_and_removed() {
    let mut engine = Engine::after(&["SET str x"]);
    engine.converse(&[
        ("SADD s 3 1 2 1", ":3\n"),
        ("SADD s 1", ":0\n"),
        ("SMEMBERS s", "*3\n$1\n1\n$1\n2\n$1\n3\n"),
        ("SISMEMBER s 1", ":1\n"),
        ("SISMEMBER nope 1", ":0\n"),
        ("SMISMEMBER s 1 x", "*2\n:1\n:0\n"),
        ("SMISMEMBER nope a b", "*2\n:0\n:0\n"),
        ("SCARD s", ":3\n"),
        ("SREM s 1 x 2", ":2\n"),
        ("SREM s x", ":0\n"),
        ("SREM s 3", ":1\n"),
        ("EXISTS s", ":0\n"),
        ("SMEMBERS s", "*0\n"),
        ("SADD str a", WRONG_TYPE),
        ("SMEMBERS str", WRONG_TYPE),
    ]);
    assert_eq!(engine.journal_lines(), ["SADD s 3 1 2 1", "SREM s 1 x 2", "SREM s 3"]);
    engine.words("SADD s 1");
    engine.protocol = Protocol::Resp3;
    engine.converse(&[("SMEMBERS s", "~1\n$1\n1\n"), ("SMEMBERS nope", "~0\n"), ("SPOP nope", "_\n")]);
}

#[test]
fn a_member_moves() {
    let mut engine = Engine::after(&["SADD s a b", "SADD t b", "SET str x"]);
    engine.converse(&[
        ("SMOVE nope str a", ":0\n"),
        ("SMOVE s str a", WRONG_TYPE),
        ("SMOVE str s a", WRONG_TYPE),
        ("SMOVE s s a", ":1\n"),
        ("SMOVE s s zz", ":0\n"),
        ("SMOVE s t zz", ":0\n"),
        ("SMOVE s t a", ":1\n"),
        ("SMOVE s t b", ":1\n"),
        ("EXISTS s", ":0\n"),
        ("SCARD t", ":2\n"),
    ]);
    assert_eq!(engine.journal_lines(), ["SMOVE s t a", "SMOVE s t b"]);
}

#[test]
fn what_was_drawn_is_what_is_journaled() {
    let mut engine = Engine::after(&["SADD s a", "SADD t a b c", "SET str x"]);
    engine.converse(&[
        ("SPOP s x", NOT_POSITIVE),
        ("SPOP s -1", NOT_POSITIVE),
        ("SPOP s 1 1", SYNTAX),
        ("SPOP nope", "$-1\n"),
        ("SPOP nope 1", "*0\n"),
        ("SPOP s 0", "*0\n"),
        ("SPOP str", WRONG_TYPE),
        ("SPOP s", "$1\na\n"),
    ]);
    assert_eq!(engine.journal_lines(), ["SREM s a"]);
    engine.journal.clear();
    let drawn = engine.words("SPOP t 2");
    let words: Vec<&str> = drawn.lines().collect();
    assert_eq!(engine.journal_lines(), [format!("SREM t {} {}", words[2], words[4])]);
    engine.journal.clear();
    assert!(engine.words("SPOP t 2").starts_with("*1"));
    assert_eq!(engine.journal_lines(), ["DEL t"]);
}

#[test]
fn what_is_drawn_beyond_measure_is_told_in_parts() {
    let mut engine = Engine::after(&["SADD s 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20"]);
    engine.journal.clear();
    let drawn = engine.words("SPOP s 19");
    let lines = engine.journal_lines();
    let sizes: Vec<usize> = lines.iter().map(|line| line.split(' ').count() - 2).collect();
    assert_eq!(sizes, [8, 8, 3], "{lines:?}");
    let told: Vec<&str> = lines.iter().flat_map(|line| line.split(' ').skip(2)).collect();
    assert_eq!(told, drawn.lines().skip(2).step_by(2).collect::<Vec<_>>());
    assert!(lines.iter().all(|line| line.starts_with("SREM s ")), "{lines:?}");
}

#[test]
fn a_few_long_members_weigh_as_much_as_many_short_ones() {
    let mut engine = Engine::after(&["SADD short 1 2 3"]);
    for word in ["SADD", "RPUSH", "PFADD"] {
        assert!(engine.len_of(word, 64) == 0);
        (0..4u8).for_each(|n| _ = engine.run(&[word.as_bytes(), word.as_bytes(), &vec![b'a' + n; 100_000]]));
    }
    assert_eq!(engine.len_of("short", 64), 3);
    assert!((6250..7500).contains(&engine.len_of("SADD", 64)), "{}", engine.len_of("SADD", 64));
    assert!((6250..7500).contains(&engine.len_of("RPUSH", 64)), "{}", engine.len_of("RPUSH", 64));
    assert!(engine.len_of("PFADD", 64) < 1000);
}

#[test]
fn members_are_drawn_at_random() {
    let mut engine = Engine::after(&["SADD s a"]);
    engine.converse(&[
        ("SRANDMEMBER s", "$1\na\n"),
        ("SRANDMEMBER s 5", "*1\n$1\na\n"),
        ("SRANDMEMBER s -2", "*2\n$1\na\n$1\na\n"),
        ("SRANDMEMBER s 0", "*0\n"),
        ("SRANDMEMBER nope", "$-1\n"),
        ("SRANDMEMBER nope 1", "*0\n"),
        ("SRANDMEMBER s 1 1", SYNTAX),
        ("SRANDMEMBER s x 1", SYNTAX),
        ("SRANDMEMBER s x", "-ERR value is not an integer or out of range\n"),
    ]);
}

#[test]
fn an_answer_without_end_is_refused() {
    let mut engine = Engine::after(&[]);
    engine.run(&[b"SADD", b"s", &vec![b'x'; 64 << 20]]);
    engine.converse(&[("SRANDMEMBER s -9223372036854775807", "-ERR value is out of range\n")]);
}

#[test]
fn sets_are_combined() {
    let mut engine = Engine::after(&["SADD s 1 2 3", "SADD t 2 3 4", "SET str x"]);
    engine.converse(&[
        ("SINTER s t", "*2\n$1\n2\n$1\n3\n"),
        ("SINTER s nope", "*0\n"),
        ("SINTER s nope str", WRONG_TYPE),
        ("SUNION s nope t", "*4\n$1\n1\n$1\n2\n$1\n3\n$1\n4\n"),
        ("SUNION nope str", WRONG_TYPE),
        ("SDIFF s t", "*1\n$1\n1\n"),
        ("SDIFF nope s", "*0\n"),
        ("SDIFF nope str", WRONG_TYPE),
        ("SINTERCARD 2 s t", ":2\n"),
        ("SINTERCARD 2 s t LIMIT 1", ":1\n"),
        ("SINTERCARD 2 s t LIMIT 0", ":2\n"),
        ("SINTERCARD 0 s", "-ERR numkeys should be greater than 0\n"),
        ("SINTERCARD x s", "-ERR numkeys should be greater than 0\n"),
        ("SINTERCARD 2 s", "-ERR Number of keys can't be greater than number of args\n"),
        ("SINTERCARD 1 s LIMIT -1", "-ERR LIMIT can't be negative\n"),
        ("SINTERCARD 2 s str LIMIT x", "-ERR LIMIT can't be negative\n"),
        ("SINTERCARD 1 s LIMIT", SYNTAX),
    ]);
    assert!(engine.journal.is_empty());
    engine.protocol = Protocol::Resp3;
    engine.converse(&[("SINTER s t", "~2\n$1\n2\n$1\n3\n"), ("SDIFF nope s", "~0\n")]);
}

#[test]
fn a_combination_replaces_what_was_there() {
    let mut engine = Engine::after(&["SADD s 1 2 3", "SADD t 2 3 4", "SET d x"]);
    engine.converse(&[
        ("SINTERSTORE d s t", ":2\n"),
        ("SMEMBERS d", "*2\n$1\n2\n$1\n3\n"),
        ("SUNIONSTORE s s t", ":4\n"),
        ("SDIFFSTORE d t s", ":0\n"),
        ("EXISTS d", ":0\n"),
        ("SDIFFSTORE d t s", ":0\n"),
    ]);
    let journal = ["SINTERSTORE d s t", "SUNIONSTORE s s t", "SDIFFSTORE d t s"];
    assert_eq!(engine.journal_lines(), journal, "what changed nothing is not repeated");
}

#[test]
fn an_expired_source_is_removed_before_the_combination_is_repeated() {
    let mut engine = Engine::after(&["SADD s 1 2", "SADD t 3", "PEXPIRE s 5"]);
    engine.now += 10;
    engine.converse(&[("SUNIONSTORE d s t", ":1\n")]);
    assert_eq!(engine.journal_lines(), ["DEL s", "SUNIONSTORE d s t"]);
}

#[test]
fn a_walk_shows_matching_members() {
    let mut engine = Engine::after(&["SADD s a b ab"]);
    engine.converse(&[
        ("SSCAN s 0 MATCH a* COUNT 100", "*2\n$1\n0\n*2\n$1\na\n$2\nab\n"),
        ("SSCAN s 0 NOVALUES", "-ERR NOVALUES option can only be used in HSCAN\n"),
        ("SSCAN nope 0", "*2\n$1\n0\n*0\n"),
    ]);
}

#[test]
fn what_happens_to_sets_is_told() {
    let mut engine = Engine::after(&[]);
    for (request, events) in [
        ("SADD s a b c", "new s, sadd s"),
        ("SADD s a", ""),
        ("SREM s a", "srem s"),
        ("SMOVE s t b", "srem s, new t, sadd t"),
        ("SUNIONSTORE u s t", "new u, sunionstore u"),
        ("SINTERSTORE u s nope", "del u"),
        ("SPOP s", "spop s, del s"),
        ("SPOP t 5", "spop t, del t"),
    ] {
        engine.words(request);
        assert_eq!(engine.events.join(", "), events, "{request}");
    }
}

const TEMPLATES: replay::Templates = &[
    "SADD K M M M",
    "SADD K C C",
    "SREM K M M",
    "SPOP K",
    "SPOP K C",
    "SMOVE K K M",
    "SINTERSTORE K K K",
    "SUNIONSTORE K K K",
    "SDIFFSTORE K K K",
    "SRANDMEMBER K -5",
    "SINTER K K",
];

proptest! {
    #[test]
    fn effects_make_the_same_sets_elsewhere(requests in replay::requests(TEMPLATES)) {
        replay::check(&requests);
    }
}

#[test]
fn a_small_request_does_not_draw_without_end() {
    let mut engine = Engine::after(&["SADD s a", "HSET h f v", "ZADD z 1 m"]);
    for request in ["SRANDMEMBER s -2147483648", "HRANDFIELD h -2147483648", "ZRANDMEMBER z -2147483648"] {
        engine.converse(&[(request, "-ERR value is out of range\n")]);
    }
}

/// A page was gathered whole before anybody asked how long an answer may be.
#[test]
fn a_page_stops_growing_where_an_answer_does() {
    let mut engine = Engine::new(1);
    (0..100).for_each(|at| _ = engine.words(&format!("SADD s member-{at}-{}", "x".repeat(1000))));
    engine.answer_bytes_max = 10_000;
    for request in ["SSCAN s 0 COUNT 1000", "SINTER s s"] {
        let answer = engine.words(request);
        assert!(engine.is_too_long && answer.len() <= 10_000, "{request}: {}", answer.len());
    }
    assert!(engine.words("SSCAN s 0 COUNT 1000 MATCH *-7-*").contains("member-7-") && !engine.is_too_long);
}
