//! Conversations with lists, answered as Valkey 9 answers them, and what they leave in the journal.

use crate::commands::collections::replay;
use crate::reply::Protocol;
use crate::testing::{Engine, NOT_INTEGER, NOT_POSITIVE, SYNTAX, WRONG_TYPE};
use proptest::prelude::*;

#[test]
fn elements_are_pushed_and_popped_at_both_ends() {
    let mut engine = Engine::after(&["SET str x"]);
    engine.converse(&[
        ("LPUSHX l a", ":0\n"),
        ("RPUSH l a b c", ":3\n"),
        ("LPUSH l 1 2", ":5\n"),
        ("RPUSHX l d", ":6\n"),
        ("LRANGE l 0 -1", "*6\n$1\n2\n$1\n1\n$1\na\n$1\nb\n$1\nc\n$1\nd\n"),
        ("LPOP l", "$1\n2\n"),
        ("RPOP l 2", "*2\n$1\nd\n$1\nc\n"),
        ("LPOP l 0", "*0\n"),
        ("LLEN l", ":3\n"),
        ("LPOP l 10", "*3\n$1\n1\n$1\na\n$1\nb\n"),
        ("EXISTS l", ":0\n"),
        ("LPOP l", "$-1\n"),
        ("LPOP l 1", "*-1\n"),
        ("LPOP l abc", NOT_POSITIVE),
        ("RPOP l -1", NOT_POSITIVE),
        ("LPOP l 1 2", "-ERR wrong number of arguments for 'lpop' command\n"),
        ("LPOP str 0", WRONG_TYPE),
        ("RPUSH str a", WRONG_TYPE),
        ("LLEN str", WRONG_TYPE),
    ]);
    engine.protocol = Protocol::Resp3;
    engine.converse(&[("LPOP l", "_\n"), ("LPOP l 1", "_\n"), ("LMPOP 1 l LEFT", "_\n")]);
}

#[test]
fn elements_are_found_by_index() {
    let mut engine = Engine::after(&["RPUSH l a b c", "SET str x"]);
    engine.converse(&[
        ("LINDEX l -1", "$1\nc\n"),
        ("LINDEX l 3", "$-1\n"),
        ("LINDEX nope abc", "$-1\n"),
        ("LINDEX l abc", NOT_INTEGER),
        ("LINDEX str abc", WRONG_TYPE),
        ("LSET l -3 A", "+OK\n"),
        ("LSET l 3 x", "-ERR index out of range\n"),
        ("LSET nope abc x", "-ERR no such key\n"),
        ("LSET l abc x", NOT_INTEGER),
        ("LRANGE l 0 0", "*1\n$1\nA\n"),
        ("LRANGE l 5 9", "*0\n"),
        ("LRANGE l -100 -3", "*1\n$1\nA\n"),
        ("LRANGE nope 0 -1", "*0\n"),
        ("LRANGE l a 0", NOT_INTEGER),
        ("LRANGE l 9223372036854775807 -9223372036854775808", "*0\n"),
    ]);
    assert_eq!(engine.journal_lines(), ["LSET l -3 A"]);
}

#[test]
fn elements_are_inserted_removed_and_trimmed() {
    let mut engine = Engine::after(&["RPUSH l a b a c a"]);
    engine.converse(&[
        ("LINSERT l UP a b", SYNTAX),
        ("LINSERT nope before a b", ":0\n"),
        ("LINSERT l before zz b", ":-1\n"),
        ("LINSERT l AFTER b x", ":6\n"),
        ("LREM l -1 a", ":1\n"),
        ("LREM l 0 zz", ":0\n"),
        ("LREM l x a", NOT_INTEGER),
        (
            "LREM l -9223372036854775808 a",
            "-ERR value is out of range, value must between -9223372036854775807 and 9223372036854775807\n",
        ),
        ("LRANGE l 0 -1", "*5\n$1\na\n$1\nb\n$1\nx\n$1\na\n$1\nc\n"),
        ("LTRIM l 0 -1", "+OK\n"),
        ("LTRIM l 1 -2", "+OK\n"),
        ("LLEN l", ":3\n"),
        ("LTRIM l 5 1", "+OK\n"),
        ("EXISTS l", ":0\n"),
        ("LTRIM l a b", NOT_INTEGER),
    ]);
    let journal = ["LINSERT l AFTER b x", "LREM l -1 a", "LTRIM l 1 -2", "LTRIM l 5 1"];
    assert_eq!(engine.journal_lines(), journal, "what changed nothing is not repeated");
}

#[test]
fn positions_are_searched_from_either_end() {
    let mut engine = Engine::after(&["RPUSH l a b a c a", "SET str x"]);
    let range = "-ERR value is out of range, value must between -9223372036854775807 and 9223372036854775807\n";
    engine.converse(&[
        ("LPOS l a", ":0\n"),
        ("LPOS l a RANK -1", ":4\n"),
        ("LPOS l a RANK 2 COUNT 0", "*2\n:2\n:4\n"),
        ("LPOS l a COUNT 0 MAXLEN 3", "*2\n:0\n:2\n"),
        ("LPOS l zz COUNT 1", "*0\n"),
        ("LPOS l zz", "$-1\n"),
        ("LPOS nope a COUNT 1", "*0\n"),
        ("LPOS nope a", "$-1\n"),
        ("LPOS str a", WRONG_TYPE),
        (
            "LPOS l a RANK 0",
            "-ERR RANK can't be zero: use 1 to start from the first match, 2 from the second ... \
             or use negative to start from the end of the list\n",
        ),
        ("LPOS l a RANK -9223372036854775808", range),
        ("LPOS l a COUNT x", "-ERR COUNT can't be negative\n"),
        ("LPOS l a MAXLEN -1", "-ERR MAXLEN can't be negative\n"),
        ("LPOS l a MAXLEN", SYNTAX),
    ]);
}

#[test]
fn elements_move_between_lists() {
    let mut engine = Engine::after(&["RPUSH l a b c", "SET str x"]);
    engine.converse(&[
        ("LMOVE l m LEFT RIGHT", "$1\na\n"),
        ("RPOPLPUSH l m", "$1\nc\n"),
        ("LRANGE m 0 -1", "*2\n$1\nc\n$1\na\n"),
        ("LMOVE m m LEFT RIGHT", "$1\nc\n"),
        ("RPOPLPUSH l l", "$1\nb\n"),
        ("LMOVE l str LEFT UP", SYNTAX),
        ("LMOVE l str LEFT RIGHT", WRONG_TYPE),
        ("LMOVE nope str LEFT RIGHT", "$-1\n"),
        ("LRANGE l 0 -1", "*1\n$1\nb\n"),
        ("LMOVE l m LEFT LEFT", "$1\nb\n"),
        ("EXISTS l", ":0\n"),
    ]);
}

#[test]
fn lmpop_pops_from_the_first_list_there_is() {
    let mut engine = Engine::after(&["RPUSH l a b c d", "SET str x"]);
    engine.converse(&[
        ("LMPOP 0 l LEFT", "-ERR numkeys should be greater than 0\n"),
        ("LMPOP x l LEFT", "-ERR numkeys should be greater than 0\n"),
        ("LMPOP 3 l LEFT", SYNTAX),
        ("LMPOP 1 l UP", SYNTAX),
        ("LMPOP 1 l LEFT COUNT", SYNTAX),
        ("LMPOP 1 l LEFT COUNT 1 COUNT 1", SYNTAX),
        ("LMPOP 1 l LEFT COUNT 0", "-ERR count should be greater than 0\n"),
        ("LMPOP 1 nope LEFT", "*-1\n"),
        ("LMPOP 2 nope str LEFT", WRONG_TYPE),
        ("LMPOP 2 nope l LEFT COUNT 2", "*2\n$1\nl\n*2\n$1\na\n$1\nb\n"),
        ("LMPOP 1 l right", "*2\n$1\nl\n*1\n$1\nd\n"),
    ]);
    assert_eq!(engine.journal_lines(), ["LPOP l 2", "RPOP l 1"], "the list that had some is named");
}

#[test]
fn a_command_that_finds_no_element_waits() {
    let mut engine = Engine::after(&["SET str x"]);
    for request in ["BLPOP a b 1.5", "BRPOP a 1.5", "BLMOVE a b LEFT RIGHT 1.5", "BRPOPLPUSH a b 1.5"] {
        assert_eq!(engine.words(request), "*-1\r\n", "{request}");
        assert_eq!(engine.waits.take().map(|wait| wait.until), Some(Some(engine.now + 1500)), "{request}");
    }
    engine.words("BLMPOP 0 1 a LEFT");
    assert_eq!(engine.waits.take().map(|wait| wait.until), Some(None), "zero is for ever");
    engine.converse(&[
        ("RPUSH a 1 2 3 4 5 6", ":6\n"),
        ("BLPOP nope a 0", "*2\n$1\na\n$1\n1\n"),
        ("BRPOP a 0", "*2\n$1\na\n$1\n6\n"),
        ("BLMOVE a b left RIGHT 0", "$1\n2\n"),
        ("BRPOPLPUSH a b 0", "$1\n5\n"),
        ("BLMPOP 0 2 nope a LEFT COUNT 9", "*2\n$1\na\n*2\n$1\n3\n$1\n4\n"),
        ("BLPOP str a 1", WRONG_TYPE),
        ("BLPOP a x", "-ERR timeout is not a float or out of range\n"),
        ("BLPOP a -1", "-ERR timeout is negative\n"),
        ("BLPOP a inf", "-ERR timeout is out of range\n"),
        ("BLPOP a 0x7FFFFFFFFFFFFF", "-ERR timeout is out of range\n"),
        ("BLPOP a -0x1", "-ERR timeout is negative\n"),
        ("BLPOP a 0x1g", "-ERR timeout is not a float or out of range\n"),
        ("BLPOP a 9223372036854775", "-ERR timeout is out of range\n"),
        ("BLMOVE a b UP RIGHT x", SYNTAX),
        ("BLMPOP x 0 a LEFT", "-ERR numkeys should be greater than 0\n"),
    ]);
    assert_eq!(engine.waits, None);
    let journal = ["RPUSH a 1 2 3 4 5 6", "LPOP a", "RPOP a", "LMOVE a b left RIGHT", "RPOPLPUSH a b", "LPOP a 2"];
    assert_eq!(engine.journal_lines(), journal);
}

#[test]
fn what_happens_to_lists_is_told() {
    let mut engine = Engine::after(&[]);
    for (request, events) in [
        ("RPUSH a 1 2 2", "new a, rpush a"),
        ("LPUSHX nope 1", ""),
        ("LPUSH a 0", "lpush a"),
        ("LINSERT a BEFORE 1 x", "linsert a"),
        ("LSET a 0 y", "lset a"),
        ("LREM a 0 2", "lrem a"),
        ("LREM a 0 2", ""),
        ("LMOVE a b LEFT RIGHT", "new b, rpush b, lpop a"),
        ("LTRIM a 0 0", "ltrim a"),
        ("RPOP a", "rpop a, del a"),
        ("RPOPLPUSH b b", "lpush b, rpop b"),
        ("BLPOP b 0", "lpop b, del b"),
    ] {
        engine.words(request);
        assert_eq!(engine.events.join(", "), events, "{request}");
    }
}

const TEMPLATES: replay::Templates = &[
    "LPUSH K M M",
    "RPUSH K M M M",
    "RPUSHX K M",
    "LPOP K",
    "RPOP K C",
    "LSET K C M",
    "LINSERT K BEFORE M M",
    "LREM K N M",
    "LTRIM K N C",
    "LMOVE K K LEFT RIGHT",
    "LMOVE K K RIGHT RIGHT",
    "RPOPLPUSH K K",
    "LMPOP 2 K K LEFT COUNT C",
    "LRANGE K 0 -1",
    "LPOS K M",
];

proptest! {
    #[test]
    fn effects_make_the_same_lists_elsewhere(requests in replay::requests(TEMPLATES)) {
        replay::check(&requests);
    }
}
