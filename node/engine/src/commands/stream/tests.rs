//! Conversations with streams, answered as Valkey 9 answers them, and what they leave in the journal.

use crate::commands::collections::replay;
use crate::reply::Protocol;
use crate::testing::{Engine, SYNTAX, WRONG_TYPE};
use proptest::prelude::*;

const INVALID: &str = "-ERR Invalid stream ID specified as stream command argument\n";
const TOO_SMALL: &str = "-ERR The ID specified in XADD is equal or smaller than the target stream top item\n";

#[test]
fn entries_are_added_with_the_ids_that_are_told_or_chosen() {
    let mut engine = Engine::after(&["SET str x"]);
    engine.now = 5000;
    engine.converse(&[
        ("XADD s NOMKSTREAM * f v", "$-1\n"),
        ("XADD s * f v", "$6\n5000-0\n"),
        ("XADD s * f v", "$6\n5000-1\n"),
        ("XADD s 5000-* f v", "$6\n5000-2\n"),
        ("XADD s 6000-* f v", "$6\n6000-0\n"),
        ("XADD s * f v", "$6\n6000-1\n"),
        ("XADD s 6000 f v", TOO_SMALL),
        ("XADD s 0-0 f v", "-ERR The ID specified in XADD must be greater than 0-0\n"),
        ("XADD s 7000-18446744073709551615 f v", "$25\n7000-18446744073709551615\n"),
        ("XADD s 7000-* f v", TOO_SMALL),
        ("XADD s * f v", "$6\n7001-0\n"),
        ("XADD s abc f v", INVALID),
        ("XADD s 1-2-3 f v", INVALID),
        ("XADD s * f", "-ERR wrong number of arguments for 'xadd' command\n"),
        ("XADD s * f v g", "-ERR wrong number of arguments for 'xadd' command\n"),
        ("XADD str * f v", WRONG_TYPE),
        ("XLEN s", ":7\n"),
        ("XADD s 18446744073709551615-18446744073709551615 f v", "$41\n18446744073709551615-18446744073709551615\n"),
        ("XADD s * f v", "-ERR The stream has exhausted the last possible ID, unable to add more items\n"),
    ]);
    assert_eq!(engine.journal_lines()[..3], ["XADD s 5000-0 f v", "XADD s 5000-1 f v", "XADD s 5000-2 f v"]);
}

#[test]
fn an_approximate_trim_tells_others_what_is_left() {
    let mut engine = Engine::new(1);
    engine.limits.stream_node_entries_max = 3;
    (1..=7).for_each(|id| _ = engine.words(&format!("XADD s {id} f v")));
    engine.journal.clear();
    engine.converse(&[
        ("XADD s MAXLEN ~ 4 8 f v", "$3\n8-0\n"),
        ("XTRIM s MINID ~ 7", ":3\n"),
        ("XTRIM s MAXLEN 1", ":1\n"),
    ]);
    assert_eq!(
        engine.journal_lines(),
        ["XADD s 8-0 f v", "XTRIM s MAXLEN = 5", "XTRIM s MAXLEN = 2", "XTRIM s MAXLEN 1"]
    );
}

#[test]
fn a_group_reads_and_others_are_told_what_it_got() {
    let mut engine = Engine::after(&["XADD s 1-1 f a", "XADD s 2-1 f b", "XGROUP CREATE s g 0"]);
    let now = engine.now;
    engine.converse(&[
        ("XREADGROUP GROUP g c COUNT 1 STREAMS s >", "*1\n*2\n$1\ns\n*1\n*2\n$3\n1-1\n*2\n$1\nf\n$1\na\n"),
        ("XREADGROUP GROUP g c STREAMS s >", "*1\n*2\n$1\ns\n*1\n*2\n$3\n2-1\n*2\n$1\nf\n$1\nb\n"),
        ("XREADGROUP GROUP g c STREAMS s >", "*-1\n"),
        ("XACK s g 1-1 9-9", ":1\n"),
        ("XDEL s 2-1", ":1\n"),
        ("XREADGROUP GROUP g c STREAMS s 0", "*1\n*2\n$1\ns\n*1\n*2\n$3\n2-1\n*-1\n"),
        ("XPENDING s g - + 10", "*1\n*4\n$3\n2-1\n$1\nc\n:0\n:1\n"),
        ("XCLAIM s g d 0 2-1", "*0\n"),
        ("XPENDING s g", "*4\n:0\n$-1\n$-1\n*-1\n"),
        (
            "XREADGROUP GROUP x c STREAMS s >",
            "-NOGROUP No such key 's' or consumer group 'x' in XREADGROUP with GROUP option\n",
        ),
    ]);
    assert_eq!(
        engine.journal_lines(),
        [
            "XGROUP CREATECONSUMER s g c".to_owned(),
            format!("XCLAIM s g c 0 1-1 TIME {now} RETRYCOUNT 1 FORCE JUSTID"),
            "XGROUP SETID s g 1-1 ENTRIESREAD 1".into(),
            format!("XCLAIM s g c 0 2-1 TIME {now} RETRYCOUNT 1 FORCE JUSTID"),
            "XGROUP SETID s g 2-1 ENTRIESREAD 2".into(),
            "XACK s g 1-1 9-9".into(),
            "XDEL s 2-1".into(),
            "XGROUP CREATECONSUMER s g d".into(),
            "XACK s g 2-1".into(),
        ]
    );
}

#[test]
fn who_reads_the_end_of_a_stream_waits_at_that_end() {
    let mut engine = Engine::after(&["XADD s 1-1 f a"]);
    assert_eq!(engine.words("XREAD BLOCK 100 STREAMS s t $ 0"), "*-1\r\n");
    let wait = engine.waits.take().expect("it waits");
    assert_eq!(wait.until, Some(engine.now + 100));
    let again: Vec<String> =
        wait.again.expect("it was rewritten").iter().map(|word| String::from_utf8_lossy(word).into_owned()).collect();
    assert_eq!(again.join(" "), "XREAD BLOCK 100 STREAMS s t 1-1 0-0");
    assert_eq!(
        engine.words("XREAD STREAMS s +"),
        "*1\r\n*2\r\n$1\r\ns\r\n*1\r\n*2\r\n$3\r\n1-1\r\n*2\r\n$1\r\nf\r\n$1\r\na\r\n"
    );
    assert!(engine.waits.is_none());
    engine.converse(&[
        ("XREAD BLOCK -1 STREAMS s $", "-ERR timeout is negative\n"),
        ("XREAD BLOCK x STREAMS s $", "-ERR timeout is not an integer or out of range\n"),
        ("XREAD STREAMS s", "-ERR wrong number of arguments for 'xread' command\n"),
        ("XREAD COUNT 1 STREAMS", SYNTAX),
        (
            "XREAD STREAMS s t 0",
            "-ERR Unbalanced 'xread' list of streams: for each stream key an ID or '$' must be specified.\n",
        ),
        (
            "XREAD STREAMS s >",
            "-ERR The > ID can be specified only when calling XREADGROUP using the GROUP <group> <consumer> option.\n",
        ),
    ]);
}

#[test]
fn a_reader_that_finds_nothing_touches_nothing() {
    let mut engine = Engine::after(&["XADD s 1-1 f a", "XGROUP CREATE s g $"]);
    assert_eq!(engine.words("XREADGROUP GROUP g c BLOCK 0 STREAMS s >"), "*-1\r\n");
    assert!(engine.waits.is_some());
    assert_eq!(engine.touched, Vec::<String>::new());
}

#[test]
fn streams_are_maps_in_resp3() {
    let mut engine = Engine::after(&["XADD s 1-1 f a", "XADD t 2-1 f b"]);
    engine.protocol = Protocol::Resp3;
    engine.converse(&[
        (
            "XREAD STREAMS s none t 0 0 0",
            "%2\n$1\ns\n*1\n*2\n$3\n1-1\n*2\n$1\nf\n$1\na\n$1\nt\n*1\n*2\n$3\n2-1\n*2\n$1\nf\n$1\nb\n",
        ),
        ("XREAD STREAMS s 5", "_\n"),
        ("XINFO GROUPS s", "*0\n"),
    ]);
    assert!(engine.words("XINFO STREAM s").starts_with("%10\r\n"));
    assert!(engine.words("XINFO STREAM s FULL").starts_with("%9\r\n"));
}

#[test]
fn events_are_told_where_redis_tells_them() {
    let mut engine = Engine::new(1);
    for (request, events) in [
        ("XADD s 1-1 f a", "new s,xadd s"),
        ("XADD s MAXLEN 1 2-1 f a", "xadd s,xtrim s"),
        ("XGROUP CREATE s g 0", "xgroup-create s"),
        ("XREADGROUP GROUP g c STREAMS s >", "xgroup-createconsumer s"),
        ("XGROUP CREATECONSUMER s g d", "xgroup-createconsumer s"),
        ("XGROUP DELCONSUMER s g d", "xgroup-delconsumer s"),
        ("XGROUP SETID s g $", "xgroup-setid s"),
        ("XSETID s 9-9", "xsetid s"),
        ("XDEL s 2-1", "xdel s"),
        ("XDEL s 2-1", ""),
        ("XGROUP DESTROY s g", "xgroup-destroy s"),
    ] {
        engine.words(request);
        assert_eq!(engine.events.join(","), events, "{request}");
    }
    assert_eq!(engine.words("EXISTS s"), ":1\r\n");
}

const TEMPLATES: replay::Templates = &[
    "XADD K * M M",
    "XADD K * M M x 1",
    "XADD K * x M",
    "XADD K I M M",
    "XADD K MAXLEN ~ C * x M",
    "XADD K MAXLEN C * x M",
    "XADD K NOMKSTREAM MINID ~ I * x M",
    "XADD K MINID I LIMIT 1 * x M",
    "XTRIM K MAXLEN ~ C LIMIT C",
    "XTRIM K MINID I",
    "XDEL K I I",
    "XSETID K 1700000000100-7 ENTRIESADDED 100 MAXDELETEDID I",
    "XGROUP CREATE K C I MKSTREAM",
    "XGROUP CREATE K C $ MKSTREAM ENTRIESREAD C",
    "XGROUP CREATE K C 0",
    "XGROUP SETID K C $",
    "XGROUP SETID K C I ENTRIESREAD C",
    "XGROUP DESTROY K C",
    "XGROUP CREATECONSUMER K C M",
    "XGROUP DELCONSUMER K C M",
    "XREADGROUP GROUP C M COUNT C STREAMS K >",
    "XREADGROUP GROUP C M COUNT C STREAMS K >",
    "XREADGROUP GROUP C M STREAMS K K > >",
    "XREADGROUP GROUP C M NOACK STREAMS K >",
    "XREADGROUP GROUP C M STREAMS K I",
    "XACK K C I I",
    "XCLAIM K C M 0 I I",
    "XCLAIM K C M 1 I FORCE IDLE C LASTID I",
    "XCLAIM K C M 0 I I TIME 5 RETRYCOUNT C FORCE JUSTID",
    "XAUTOCLAIM K C M 1 0",
    "XAUTOCLAIM K C M 0 I COUNT 1 JUSTID",
    "COPY K K REPLACE",
    "DEL K",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn effects_make_the_same_streams_elsewhere(requests in replay::requests(TEMPLATES)) {
        replay::check(&requests);
    }
}
