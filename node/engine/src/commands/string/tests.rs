//! Conversations with strings, as a Redis client would have them; and what they leave in the journal.

use crate::testing::Engine;

#[test]
fn a_value_that_was_set_is_got() {
    let mut engine = Engine::new(4);
    engine.converse(&[
        ("GET k", "$-1\n"),
        ("SET k hello", "+OK\n"),
        ("GET k", "$5\nhello\n"),
        ("SET k 12", "+OK\n"),
        ("GET k", "$2\n12\n"),
        ("SET k ''", "+OK\n"),
        ("GET k", "$0\n\n"),
        ("STRLEN k", ":0\n"),
        ("MSET a 1 b 2 a 3", "+OK\n"),
        ("MGET a nope b", "*3\n$1\n3\n$-1\n$1\n2\n"),
        ("MSET a 1 b", "-ERR wrong number of arguments for 'mset' command\n"),
        ("MSETNX c 1 a 1", ":0\n"),
        ("MSETNX c 1 d 1", ":1\n"),
        ("GETSET c 2", "$1\n1\n"),
        ("GETDEL c", "$1\n2\n"),
        ("GETDEL c", "$-1\n"),
    ]);
}

#[test]
fn set_obeys_its_conditions() {
    let mut engine = Engine::new(1);
    engine.converse(&[
        ("SET m 1 IFEQ 1", "$-1\n"),
        ("SET m 1 XX GET", "$-1\n"),
        ("SET m 1 NX GET", "$-1\n"),
        ("SET m 2 NX GET", "$1\n1\n"),
        ("SET m 2 IFEQ 1 GET", "$1\n1\n"),
        ("SET m 3 IFEQ 1 GET", "$1\n2\n"),
        ("SET m 3 NX EX abc", "-ERR value is not an integer or out of range\n"),
        ("SET m 3 EX 0", "-ERR invalid expire time in 'set' command\n"),
        ("SET m 3 EX 10 KEEPTTL", "-ERR syntax error\n"),
        ("SETNX m 4", ":0\n"),
        ("DELIFEQ m 3", ":0\n"),
        ("DELIFEQ m 2", ":1\n"),
    ]);
}

#[test]
fn a_deadline_in_the_past_makes_the_key_go() {
    let mut engine = Engine::new(1);
    engine.converse(&[
        ("SET k 1", "+OK\n"),
        ("SET k 2 PXAT 5", "+OK\n"),
        ("GET k", "$-1\n"),
        ("SET k 1", "+OK\n"),
        ("GETEX k EXAT 1", "$1\n1\n"),
        ("GET k", "$-1\n"),
    ]);
    assert_eq!(engine.journal_lines(), ["SET k 1", "DEL k", "SET k 1", "DEL k"]);
}

#[test]
fn what_depends_on_the_clock_is_written_down_absolutely() {
    let mut engine = Engine::new(1);
    for request in [
        "SET k v EX 10",
        "SETEX k 10 v",
        "PSETEX k 10 v",
        "GETEX k PX 10",
        "GETEX k PERSIST",
        "GETEX k PERSIST",
        "GETEX k",
        "SET k 1 NX",
        "MSETEX 2 k 1 l 2 EX 1",
        "INCRBYFLOAT k 1.5",
        "GETDEL k",
    ] {
        engine.words(request);
    }
    assert_eq!(
        engine.journal_lines(),
        [
            "SET k v PXAT 1700000010000",
            "SET k v PXAT 1700000010000",
            "SET k v PXAT 1700000000010",
            "PEXPIREAT k 1700000000010",
            "PERSIST k",
            "SET k 1 PXAT 1700000001000",
            "SET l 2 PXAT 1700000001000",
            "SET k 2.5 KEEPTTL",
            "DEL k",
        ]
    );
}

#[test]
fn an_expired_key_reads_as_missing_and_is_removed_first() {
    let mut engine = Engine::new(1);
    engine.words("SET k 1 PX 10");
    engine.now += 10;
    engine.journal.clear();
    assert_eq!(engine.words("INCR k"), ":1\r\n");
    assert_eq!(engine.journal_lines(), ["DEL k", "INCR k"]);
    assert_eq!(engine.words("TTL k"), ":-1\r\n");

    engine.words("SET k 1 PX 10");
    engine.now += 10;
    engine.journal.clear();
    assert_eq!(engine.words("SET k 2 KEEPTTL NX"), "+OK\r\n");
    assert_eq!(engine.journal_lines(), ["DEL k", "SET k 2 KEEPTTL NX"]);
    assert_eq!(engine.words("TTL k"), ":-1\r\n");
}

#[test]
fn parts_of_a_string_are_read_and_written() {
    let mut engine = Engine::new(1);
    engine.converse(&[
        ("APPEND k 12", ":2\n"),
        ("INCR k", ":13\n"),
        ("APPEND k x", ":3\n"),
        ("INCR k", "-ERR value is not an integer or out of range\n"),
        ("SETRANGE k 5 ab", ":7\n"),
        ("GET k", "$7\n13x\0\0ab\n"),
        ("SETRANGE k 0 ''", ":7\n"),
        ("SETRANGE nope 5 ''", ":0\n"),
        ("STRLEN nope", ":0\n"),
        ("SETRANGE k -1 x", "-ERR offset is out of range\n"),
        ("SETRANGE k 536870912 x", "-ERR string exceeds maximum allowed size (proto-max-bulk-len)\n"),
        ("GETRANGE k 0 1", "$2\n13\n"),
        ("GETRANGE k -2 -1", "$2\nab\n"),
        ("GETRANGE k -1 -2", "$0\n\n"),
        ("GETRANGE k -100 0", "$1\n1\n"),
        ("SUBSTR k 5 100", "$2\nab\n"),
        ("GETRANGE nope 0 -1", "$0\n\n"),
    ]);
}

#[test]
fn numbers_are_counted_with() {
    let mut engine = Engine::new(1);
    engine.converse(&[
        ("INCR n", ":1\n"),
        ("DECRBY n 5", ":-4\n"),
        ("INCRBY n 9223372036854775807", ":9223372036854775803\n"),
        ("INCRBY n 5", "-ERR increment or decrement would overflow\n"),
        ("DECRBY n -9223372036854775808", "-ERR decrement would overflow\n"),
        ("DECR nope", ":-1\n"),
        ("SET f 0.1", "+OK\n"),
        ("INCRBYFLOAT f 0.2", "$3\n0.3\n"),
        ("INCRBYFLOAT f 2.7", "$1\n3\n"),
        ("INCR f", ":4\n"),
        ("INCRBYFLOAT f x", "-ERR value is not a valid float\n"),
        ("INCRBYFLOAT f inf", "-ERR increment would produce NaN or Infinity\n"),
    ]);
}

#[test]
fn msetex_sets_all_or_none() {
    let mut engine = Engine::new(8);
    engine.converse(&[
        ("MSETEX 2 a 1 b 2", ":1\n"),
        ("MSETEX 2 a 1 c 2 NX", ":0\n"),
        ("MSETEX 2 a 1 c 2 XX", ":0\n"),
        ("MSETEX 2 a 1 b 2 XX EX 10", ":1\n"),
        ("TTL a", ":10\n"),
        ("MSETEX 2 a 3 b 4 XX KEEPTTL", ":1\n"),
        ("TTL b", ":10\n"),
        ("MSETEX 0 a 1", "-ERR invalid numkeys value or out of range\n"),
        ("MSETEX 2 a 1 b", "-ERR syntax error\n"),
        ("MSETEX 1 a 1 NX XX", "-ERR syntax error\n"),
    ]);
}

#[test]
fn lcs_finds_what_two_strings_share() {
    let mut engine = Engine::new(4);
    engine.converse(&[
        ("MSET a ohmytext b mynewtext", "+OK\n"),
        ("LCS a b", "$6\nmytext\n"),
        ("LCS a b LEN", ":6\n"),
        (
            "LCS a b IDX MINMATCHLEN 4 WITHMATCHLEN",
            "*4\n$7\nmatches\n*1\n*3\n*2\n:4\n:7\n*2\n:5\n:8\n:4\n$3\nlen\n:6\n",
        ),
        ("LCS a b LEN IDX", "-ERR If you want both the length and indexes, please just use IDX.\n"),
        ("LCS a nope", "$0\n\n"),
    ]);
}

/// The table of two strings of 16 KB takes a gigabyte: one tenant's came on top of all that its clients may hold.
#[test]
fn the_table_of_lcs_takes_no_more_than_an_answer_may() {
    let mut engine = Engine::new(1);
    for key in [b"a", b"b"] {
        engine.run(&[b"SET", key, &[b'x'; 2000]]);
    }
    assert_eq!(engine.words("LCS a b LEN"), ":2000\r\n", "sixteen megabytes");
    engine.answer_bytes_max = 10 << 20;
    let refused = "-ERR Insufficient memory, transient memory for LCS exceeds what an answer may take\r\n";
    assert_eq!(engine.words("LCS a b LEN"), refused);
    engine.answer_bytes_max = 10;
    engine.run(&[b"SET", b"b", b"axbx"]);
    assert_eq!(engine.words("LCS a b LEN"), ":2\r\n", "what is small anybody may have");
}
