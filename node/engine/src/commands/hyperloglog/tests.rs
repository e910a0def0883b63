//! HyperLogLogs as clients meet them: counting, merging, both forms, and strings that are none.

use crate::testing::{Engine, WRONG_TYPE};

const FOREIGN: &str = "-WRONGTYPE Key is not a valid HyperLogLog string value.\r\n";
const CORRUPTED: &str = "-INVALIDOBJ Corrupted HLL object detected\r\n";

fn integer(answer: &str) -> i64 {
    answer.trim_start_matches(':').trim_end().parse().expect("an integer")
}

/// Adds these numbers, many at a time.
fn add(engine: &mut Engine, key: &str, numbers: std::ops::Range<u32>) {
    let numbers: Vec<u32> = numbers.collect();
    for some in numbers.chunks(100) {
        let words: Vec<String> = some.iter().map(u32::to_string).collect();
        engine.words(&format!("PFADD {key} {}", words.join(" ")));
    }
}

#[test]
fn elements_are_counted_once() {
    Engine::after(&[]).converse(&[
        ("PFADD h", ":1\n"),
        ("PFADD h", ":0\n"),
        ("PFCOUNT h", ":0\n"),
        ("PFADD h a b c d e f g", ":1\n"),
        ("PFADD h a b c d e f g", ":0\n"),
        ("PFCOUNT h", ":7\n"),
        ("PFCOUNT missing h", ":7\n"),
        ("PFCOUNT missing", ":0\n"),
        ("PFDEBUG ENCODING h", "+sparse\n"),
        ("PFDEBUG TODENSE h", ":1\n"),
        ("PFDEBUG TODENSE h", ":0\n"),
        ("PFDEBUG ENCODING h", "+dense\n"),
        ("PFCOUNT h", ":7\n"),
        ("PFADD h a x", ":1\n"),
        ("PFCOUNT h", ":8\n"),
    ]);
}

#[test]
fn the_string_is_the_one_redis_makes() {
    let mut engine = Engine::after(&["PFADD h a b c"]);
    assert_eq!(engine.words("PFDEBUG DECODE h"), "$44\r\nZ:8436 v:1,1 Z:4274 v:2,1 Z:3068 v:1,1 Z:603\r\n",);
    let string = b"$27\r\nHYLL\x01\0\0\0\0\0\0\0\0\0\0\x80\x60\xf3\x80\x50\xb1\x84\x4b\xfb\x80\x42\x5a\r\n";
    assert_eq!(engine.run(&[b"GET", b"h"]), string);
}

#[test]
fn estimates_stay_within_two_percent_in_either_form() {
    let mut engine = Engine::after(&[]);
    for (numbers, encoding) in [(0..1000, "+sparse\r\n"), (1000..30_000, "+dense\r\n")] {
        let upper = i64::from(numbers.end);
        add(&mut engine, "h", numbers);
        let estimate = integer(&engine.words("PFCOUNT h"));
        assert!((estimate - upper).abs() * 50 < upper, "{estimate} for {upper}");
        assert_eq!(engine.words("PFDEBUG ENCODING h"), encoding);
    }
}

#[test]
fn sparse_and_dense_registers_are_the_same() {
    let mut engine = Engine::after(&["PFADD dense", "PFDEBUG TODENSE dense"]);
    add(&mut engine, "sparse", 0..700);
    add(&mut engine, "dense", 0..700);
    assert_eq!(engine.words("PFDEBUG ENCODING sparse"), "+sparse\r\n");
    assert_eq!(engine.words("PFCOUNT sparse"), engine.words("PFCOUNT dense"));
    assert_eq!(engine.words("PFDEBUG GETREG sparse"), engine.words("PFDEBUG GETREG dense"));
}

#[test]
fn the_sparse_form_ends_where_the_configuration_says() {
    let mut engine = Engine::after(&[]);
    engine.limits.hyperloglog_sparse_bytes_max = 30;
    add(&mut engine, "h", 0..5);
    assert_eq!(engine.words("PFDEBUG ENCODING h"), "+sparse\r\n");
    add(&mut engine, "h", 5..100);
    assert_eq!(engine.words("PFDEBUG ENCODING h"), "+dense\r\n");
    engine.limits.hyperloglog_sparse_bytes_max = usize::MAX;
    engine.converse(&[("PFADD any a b", ":1\n"), ("PFMERGE any h", "+OK\n"), ("PFADD any a c", ":1\n")]);
    engine.limits.hyperloglog_sparse_bytes_max = 0;
    engine.converse(&[("PFADD other a", ":1\n"), ("PFDEBUG ENCODING other", "+dense\n"), ("PFCOUNT other", ":1\n")]);
}

#[test]
fn many_elements_at_once_are_the_same_as_one_by_one() {
    let mut engine = Engine::after(&[]);
    add(&mut engine, "many", 0..400);
    (0..400).for_each(|number| _ = engine.words(&format!("PFADD single {number}")));
    assert_eq!(engine.words("PFDEBUG GETREG many"), engine.words("PFDEBUG GETREG single"));
}

#[test]
fn a_merge_counts_what_any_of_them_saw() {
    let mut engine = Engine::after(&["PFADD a 1 2 3", "PFADD b 3 4 5", "SET s x"]);
    engine.converse(&[
        ("PFCOUNT a b", ":5\n"),
        ("PFMERGE c a b missing", "+OK\n"),
        ("PFCOUNT c", ":5\n"),
        ("PFDEBUG ENCODING c", "+sparse\n"),
        ("PFMERGE a", "+OK\n"),
        ("PFCOUNT a", ":3\n"),
        ("PFMERGE new", "+OK\n"),
        ("PFCOUNT new", ":0\n"),
        ("PFDEBUG TODENSE b", ":1\n"),
        ("PFMERGE c b", "+OK\n"),
        ("PFDEBUG ENCODING c", "+dense\n"),
        ("PFCOUNT c", ":5\n"),
    ]);
    assert_eq!(engine.words("PFMERGE c s"), FOREIGN);
}

#[test]
fn an_estimate_is_kept_until_something_new_is_seen() {
    let mut engine = Engine::after(&["PFADD h a b c"]);
    engine.words("PFCOUNT h");
    assert_eq!(engine.journal_lines(), ["PFCOUNT h"], "the kept estimate is a change");
    engine.journal.clear();
    engine.words("PFCOUNT h");
    assert!(engine.journal.is_empty());
    engine.words("PFADD h d");
    assert_eq!(engine.words("PFCOUNT h"), ":4\r\n");
}

#[test]
fn an_expiry_survives_additions() {
    let mut engine = Engine::after(&["PFADD h a", "EXPIRE h 100"]);
    engine.converse(&[("PFADD h b", ":1\n"), ("PFMERGE h h", "+OK\n"), ("TTL h", ":100\n")]);
}

#[test]
fn strings_that_are_no_hyperloglogs_are_refused() {
    let mut engine = Engine::after(&["PFADD h a b c", "COPY h tail", "APPEND tail hello", "RPUSH list x", "SET n 5"]);
    engine.words("COPY h magic");
    engine.words("SETRANGE magic 0 0123");
    engine.words("COPY h encoding");
    engine.words("SETRANGE encoding 4 x");
    engine.words("COPY h length");
    engine.words("PFDEBUG TODENSE length");
    engine.words("APPEND length x");
    for key in ["magic", "encoding", "length", "n"] {
        for request in ["PFCOUNT", "PFADD", "PFMERGE", "PFCOUNT h", "PFDEBUG GETREG"] {
            assert_eq!(engine.words(&format!("{request} {key}")), FOREIGN, "{request} {key}");
        }
    }
    for request in ["PFCOUNT tail", "PFADD tail z", "PFCOUNT h tail", "PFMERGE h tail", "PFDEBUG GETREG tail"] {
        assert_eq!(engine.words(request), CORRUPTED, "{request}");
    }
    engine.converse(&[("PFADD list x", WRONG_TYPE), ("PFCOUNT list", WRONG_TYPE)]);
    engine.converse(&[
        ("PFDEBUG GETREG none", "-ERR The specified key does not exist\n"),
        ("PFDEBUG WHAT h", "-ERR Unknown PFDEBUG subcommand 'WHAT'\n"),
        ("PFDEBUG DECODE length", "-WRONGTYPE Key is not a valid HyperLogLog string value.\n"),
    ]);
}

#[test]
fn hostile_strings_do_not_harm() {
    let mut dice = 1u64;
    let mut roll = move || {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (dice >> 33) as usize
    };
    let mut engine = Engine::after(&[]);
    for round in 0..3000 {
        let mut bytes = b"HYLL\x01\0\0\0\0\0\0\0\0\0\0\x80".to_vec();
        if round % 4 == 0 {
            bytes[4] = 0;
            bytes.resize(12_304 - usize::from(round % 8 == 0), roll() as u8);
        } else {
            let len = roll() % 300;
            bytes.extend((0..len).map(|_| roll() as u8));
        }
        engine.run(&[b"SET", b"h", &bytes]);
        for request in
            ["PFCOUNT h", "PFADD h a b c d", "PFMERGE m h", "PFCOUNT h m", "PFDEBUG DECODE h", "PFDEBUG GETREG h"]
        {
            engine.words(request);
        }
    }
}

#[test]
fn a_replica_ends_with_the_same_string() {
    let mut primary = Engine::after(&["PFADD a 1 2 3"]);
    let mut replica = Engine::after(&["PFADD a 1 2 3"]);
    for request in ["PFADD a 4", "PFCOUNT a", "PFMERGE b a", "PFDEBUG TODENSE a", "PFADD a 9", "PFDEBUG GETREG b"] {
        primary.words(request);
    }
    let journal = std::mem::take(&mut primary.journal);
    replica.apply(&journal);
    assert_eq!(primary.contents(), replica.contents());
}
