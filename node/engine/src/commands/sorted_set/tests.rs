//! Conversations with sorted sets, answered as Valkey 9 answers them, and what they leave in the journal.

use crate::commands::collections::replay;
use crate::reply::Protocol;
use crate::testing::{Engine, NOT_FLOAT, NOT_INTEGER, NOT_POSITIVE, SYNTAX, WRONG_TYPE};
use proptest::prelude::*;

const BOUND_NOT_FLOAT: &str = "-ERR min or max is not a float\n";
const BOUND_NOT_STRING: &str = "-ERR min or max not valid string range item\n";

#[test]
fn scores_are_given_under_conditions() {
    let mut engine = Engine::after(&["SET str x"]);
    engine.converse(&[
        ("ZADD z XX 1 a", ":0\n"),
        ("EXISTS z", ":0\n"),
        ("ZADD z 1 a 2 b 3 c", ":3\n"),
        ("ZADD z 1 a 5 b", ":0\n"),
        ("ZADD z CH 1 a 6 b 7 d", ":2\n"),
        ("ZADD z NX CH 9 a 9 e", ":1\n"),
        ("ZADD z GT CH 0 a 9 b", ":1\n"),
        ("ZADD z LT CH 0 a 10 b", ":1\n"),
        ("ZADD z XX INCR 1 nope", "$-1\n"),
        ("ZADD z GT INCR -1 a", "$-1\n"),
        ("ZADD z INCR 2.5 a", "$3\n2.5\n"),
        ("ZADD z INCR 0 a", "$3\n2.5\n"),
        ("ZADD z inf a", ":0\n"),
        ("ZADD z INCR -inf a", "-ERR resulting score is not a number (NaN)\n"),
        ("ZADD z NX XX 1 a", "-ERR XX and NX options at the same time are not compatible\n"),
        ("ZADD z NX GT 1 a", "-ERR GT, LT, and/or NX options at the same time are not compatible\n"),
        ("ZADD z LT GT 1 a", "-ERR GT, LT, and/or NX options at the same time are not compatible\n"),
        ("ZADD z INCR 1 a 2 b", "-ERR INCR option supports a single increment-element pair\n"),
        ("ZADD z 1 new x a", NOT_FLOAT),
        ("ZSCORE z new", "$-1\n"),
        ("ZADD z nan a", NOT_FLOAT),
        ("ZADD z NX CH", SYNTAX),
        ("ZADD z 1 a 2", SYNTAX),
        ("ZADD str 1 a", WRONG_TYPE),
        ("ZINCRBY z x a", NOT_FLOAT),
        ("ZINCRBY z 1.5 c", "$3\n4.5\n"),
        ("ZINCRBY fresh -inf a", "$4\n-inf\n"),
    ]);
    let journal = [
        "ZADD z 1 a 2 b 3 c",
        "ZADD z 1 a 5 b",
        "ZADD z CH 1 a 6 b 7 d",
        "ZADD z NX CH 9 a 9 e",
        "ZADD z GT CH 0 a 9 b",
        "ZADD z LT CH 0 a 10 b",
        "ZADD z INCR 2.5 a",
        "ZADD z inf a",
        "ZINCRBY z 1.5 c",
        "ZINCRBY fresh -inf a",
    ];
    assert_eq!(engine.journal_lines(), journal, "what changed nothing is not repeated");
}

#[test]
fn members_tell_score_and_rank() {
    let mut engine = Engine::after(&["ZADD z 1 a 2.5 b 1e21 c"]);
    engine.converse(&[
        ("ZCARD z", ":3\n"),
        ("ZSCORE z c", "$5\n1e+21\n"),
        ("ZSCORE nope c", "$-1\n"),
        ("ZMSCORE z a zz", "*2\n$1\n1\n$-1\n"),
        ("ZMSCORE nope a", "*1\n$-1\n"),
        ("ZRANK z b", ":1\n"),
        ("ZREVRANK z a", ":2\n"),
        ("ZRANK z b WITHSCORE", "*2\n:1\n$3\n2.5\n"),
        ("ZRANK z zz", "$-1\n"),
        ("ZRANK nope zz WITHSCORE", "*-1\n"),
        ("ZRANK z a BOGUS", SYNTAX),
        ("ZRANK z a WITHSCORE X", "-ERR wrong number of arguments for 'zrank' command\n"),
        ("ZREM z a zz", ":1\n"),
        ("ZREM z zz", ":0\n"),
    ]);
    assert_eq!(engine.journal_lines(), ["ZREM z a zz"]);
    engine.protocol = Protocol::Resp3;
    engine.converse(&[
        ("ZSCORE z b", ",2.5\n"),
        ("ZRANK z b WITHSCORE", "*2\n:0\n,2.5\n"),
        ("ZRANK z zz WITHSCORE", "_\n"),
        ("ZMSCORE z zz", "*1\n_\n"),
        ("ZINCRBY z 1 b", ",3.5\n"),
    ]);
}

#[test]
fn ranges_are_read_by_rank() {
    let mut engine = Engine::after(&["ZADD z 1 a 2 b 3 c", "SET str x"]);
    let limit = "-ERR syntax error, LIMIT is only supported in combination with either BYSCORE or BYLEX\n";
    engine.converse(&[
        ("ZRANGE z 0 -1 WITHSCORES", "*6\n$1\na\n$1\n1\n$1\nb\n$1\n2\n$1\nc\n$1\n3\n"),
        ("ZRANGE z 0 0 REV", "*1\n$1\nc\n"),
        ("ZREVRANGE z 0 1", "*2\n$1\nc\n$1\nb\n"),
        ("ZRANGE z 5 9 REV", "*0\n"),
        ("ZRANGE nope 0 -1", "*0\n"),
        ("ZRANGE z a b", NOT_INTEGER),
        ("ZRANGE str 0 -1", WRONG_TYPE),
        ("ZRANGE z 0 -1 LIMIT 0 1", limit),
        ("ZRANGE z 0 0 LIMIT 0 -1", "*1\n$1\na\n"),
        ("ZRANGE z 0 -1 LIMIT 0", SYNTAX),
        ("ZRANGE z 0 -1 LIMIT a b", NOT_INTEGER),
        ("ZRANGE z 0 -1 BYLEX BYSCORE", SYNTAX),
        ("ZRANGE z 0 -1 REV REV", SYNTAX),
        ("ZREVRANGE z 0 -1 REV", SYNTAX),
        ("ZREVRANGE z 0 -1 LIMIT 0 1", limit),
    ]);
    engine.protocol = Protocol::Resp3;
    engine.converse(&[("ZRANGE z 0 1 WITHSCORES", "*2\n*2\n$1\na\n,1\n*2\n$1\nb\n,2\n")]);
}

#[test]
fn ranges_are_read_by_score() {
    let mut engine = Engine::after(&["ZADD z 1 a 2 b 3 c 4 d"]);
    engine.converse(&[
        ("ZRANGE z (1 3 BYSCORE", "*2\n$1\nb\n$1\nc\n"),
        ("ZRANGE z +inf -inf BYSCORE REV LIMIT 1 2", "*2\n$1\nc\n$1\nb\n"),
        ("ZRANGE z 0 10 BYSCORE LIMIT 1 -5", "*3\n$1\nb\n$1\nc\n$1\nd\n"),
        ("ZRANGE z 0 10 BYSCORE LIMIT -1 5", "*0\n"),
        ("ZRANGEBYSCORE z -inf (2 WITHSCORES", "*2\n$1\na\n$1\n1\n"),
        ("ZRANGEBYSCORE z 0 5 BYLEX", SYNTAX),
        ("ZREVRANGEBYSCORE z 10 0 LIMIT 0 1", "*1\n$1\nd\n"),
        ("ZRANGEBYSCORE z 3 2", "*0\n"),
        ("ZRANGE z a b BYSCORE", BOUND_NOT_FLOAT),
        ("ZCOUNT z 2 3", ":2\n"),
        ("ZCOUNT z '' 1e400", ":4\n"),
        ("ZCOUNT z ( (2", ":1\n"),
        ("ZCOUNT z nan 1", BOUND_NOT_FLOAT),
        ("ZCOUNT z 0x1 3", BOUND_NOT_FLOAT),
        ("ZCOUNT nope a b", BOUND_NOT_FLOAT),
    ]);
}

#[test]
fn ranges_are_read_by_name() {
    let mut engine = Engine::after(&["ZADD z 0 a 0 b 0 c 0 d"]);
    engine.converse(&[
        ("ZRANGE z [b (d BYLEX", "*2\n$1\nb\n$1\nc\n"),
        ("ZRANGE z + - BYLEX REV LIMIT 0 1", "*1\n$1\nd\n"),
        ("ZRANGEBYLEX z - [b", "*2\n$1\na\n$1\nb\n"),
        ("ZREVRANGEBYLEX z + (c", "*1\n$1\nd\n"),
        ("ZRANGEBYLEX z + -", "*0\n"),
        ("ZLEXCOUNT z [ +", ":4\n"),
        ("ZLEXCOUNT z a b", BOUND_NOT_STRING),
        ("ZLEXCOUNT z '' b", BOUND_NOT_STRING),
        ("ZLEXCOUNT z -a +", BOUND_NOT_STRING),
        ("ZRANGE z - + BYLEX WITHSCORES", "-ERR syntax error, WITHSCORES not supported in combination with BYLEX\n"),
    ]);
}

#[test]
fn ranges_are_stored_and_removed() {
    let mut engine = Engine::after(&["ZADD z 1 a 2 b 3 c 4 d 5 e", "SET str x"]);
    engine.converse(&[
        ("ZRANGESTORE d z 0 -1 WITHSCORES", SYNTAX),
        ("ZRANGESTORE d z 1 (4 BYSCORE LIMIT 1 2", ":2\n"),
        ("ZRANGE d 0 -1 WITHSCORES", "*4\n$1\nb\n$1\n2\n$1\nc\n$1\n3\n"),
        ("ZRANGESTORE d str 0 -1", WRONG_TYPE),
        ("ZRANGESTORE str nope 0 -1", ":0\n"),
        ("EXISTS str", ":0\n"),
        ("ZRANGESTORE str nope 0 -1", ":0\n"),
        ("ZREMRANGEBYRANK z a b", NOT_INTEGER),
        ("ZREMRANGEBYSCORE z a b", BOUND_NOT_FLOAT),
        ("ZREMRANGEBYLEX z a b", BOUND_NOT_STRING),
        ("ZREMRANGEBYRANK z -1 -1", ":1\n"),
        ("ZREMRANGEBYSCORE z (1 2", ":1\n"),
        ("ZREMRANGEBYSCORE z 7 9", ":0\n"),
        ("ZREMRANGEBYLEX z - +", ":3\n"),
        ("EXISTS z", ":0\n"),
        ("ZREMRANGEBYRANK z 0 1", ":0\n"),
    ]);
    let journal = [
        "ZRANGESTORE d z 1 (4 BYSCORE LIMIT 1 2",
        "ZRANGESTORE str nope 0 -1",
        "ZREMRANGEBYRANK z -1 -1",
        "ZREMRANGEBYSCORE z (1 2",
        "ZREMRANGEBYLEX z - +",
    ];
    assert_eq!(engine.journal_lines(), journal);
}

#[test]
fn pops_journal_the_members_they_took() {
    let mut engine = Engine::after(&["ZADD z 1 a 2 b 3 c 4 d 5 e 6 f", "SET str x"]);
    engine.converse(&[
        ("ZPOPMIN z x", NOT_POSITIVE),
        ("ZPOPMIN z 1 1", SYNTAX),
        ("ZPOPMIN nope", "*0\n"),
        ("ZPOPMIN str 0", WRONG_TYPE),
        ("ZPOPMIN z 0", "*0\n"),
        ("ZPOPMIN z", "*2\n$1\na\n$1\n1\n"),
        ("ZPOPMAX z 2", "*4\n$1\nf\n$1\n6\n$1\ne\n$1\n5\n"),
        ("ZMPOP 1 z BOGUS", SYNTAX),
        ("ZMPOP 0 z MIN", "-ERR numkeys should be greater than 0\n"),
        ("ZMPOP 1 z MIN COUNT 0", "-ERR count should be greater than 0\n"),
        ("ZMPOP 1 nope MIN", "*-1\n"),
        ("ZMPOP 2 nope z MAX", "*2\n$1\nz\n*1\n*2\n$1\nd\n$1\n4\n"),
    ]);
    assert_eq!(engine.journal_lines(), ["ZREM z a", "ZREM z f e", "ZREM z d"]);
    engine.protocol = Protocol::Resp3;
    engine.converse(&[
        ("ZPOPMIN z", "*2\n$1\nb\n,2\n"),
        ("ZPOPMAX z 1", "*1\n*2\n$1\nc\n,3\n"),
        ("ZMPOP 1 z MIN", "_\n"),
    ]);
}

#[test]
fn members_are_drawn_at_random() {
    let mut engine = Engine::after(&["ZADD z 1 a"]);
    engine.converse(&[
        ("ZRANDMEMBER z", "$1\na\n"),
        ("ZRANDMEMBER z 3 WITHSCORES", "*2\n$1\na\n$1\n1\n"),
        ("ZRANDMEMBER z -2", "*2\n$1\na\n$1\na\n"),
        ("ZRANDMEMBER nope", "$-1\n"),
        ("ZRANDMEMBER nope 1", "*0\n"),
        ("ZRANDMEMBER z x", NOT_INTEGER),
        ("ZRANDMEMBER z 1 BOGUS", SYNTAX),
    ]);
    engine.protocol = Protocol::Resp3;
    engine.converse(&[("ZRANDMEMBER z 1 WITHSCORES", "*1\n*2\n$1\na\n,1\n")]);
}

#[test]
fn sorted_sets_and_sets_are_combined() {
    let mut engine = Engine::after(&["ZADD z 1 a 2 b 3 c", "SADD s a b 1", "SET str x"]);
    engine.converse(&[
        ("ZUNION 2 z s AGGREGATE MAX WITHSCORES", "*8\n$1\n1\n$1\n1\n$1\na\n$1\n1\n$1\nb\n$1\n2\n$1\nc\n$1\n3\n"),
        ("ZUNION 1 z WEIGHTS -1", "*3\n$1\nc\n$1\nb\n$1\na\n"),
        ("ZINTER 2 z s WITHSCORES", "*4\n$1\na\n$1\n2\n$1\nb\n$1\n3\n"),
        ("ZINTER 2 z nope", "*0\n"),
        ("ZDIFF 2 z s WITHSCORES", "*2\n$1\nc\n$1\n3\n"),
        ("ZINTERCARD 2 z s", ":2\n"),
        ("ZINTERCARD 2 z s LIMIT 1", ":1\n"),
        ("ZINTERCARD 2 z s LIMIT -1", "-ERR LIMIT can't be negative\n"),
        ("ZUNION 0 z", "-ERR at least 1 input key is needed for 'zunion' command\n"),
        ("ZUNION x z", NOT_INTEGER),
        ("ZUNION 3 z", SYNTAX),
        ("ZUNION 1 z WEIGHTS", SYNTAX),
        ("ZUNION 1 z WEIGHTS x", "-ERR weight value is not a float\n"),
        ("ZUNION 1 z AGGREGATE x", SYNTAX),
        ("ZUNION 1 str AGGREGATE x", WRONG_TYPE),
        ("ZDIFF 1 z WEIGHTS 1", SYNTAX),
        ("ZUNIONSTORE d 1 z WITHSCORES", SYNTAX),
        ("ZUNIONSTORE d 0 z", "-ERR at least 1 input key is needed for 'zunionstore' command\n"),
    ]);
    assert!(engine.journal.is_empty());
    engine.converse(&[
        ("ZUNIONSTORE str 2 z s WEIGHTS 2 1", ":4\n"),
        ("ZRANGE str 0 -1 WITHSCORES", "*8\n$1\n1\n$1\n1\n$1\na\n$1\n3\n$1\nb\n$1\n5\n$1\nc\n$1\n6\n"),
        ("ZINTERSTORE z 2 z s", ":2\n"),
        ("ZDIFFSTORE z 2 z z", ":0\n"),
        ("EXISTS z", ":0\n"),
    ]);
    assert_eq!(engine.journal.len(), 3);
    engine.protocol = Protocol::Resp3;
    engine.converse(&[("ZINTER 1 s WITHSCORES", "*3\n*2\n$1\n1\n,1\n*2\n$1\na\n,1\n*2\n$1\nb\n,1\n")]);
}

#[test]
fn a_walk_shows_scores_as_redis_stores_them() {
    let mut engine = Engine::after(&["ZADD z 3.3 a 1 b"]);
    engine.converse(&[
        ("ZSCAN z 0", "*2\n$1\n0\n*4\n$1\nb\n$1\n1\n$1\na\n$3\n3.3\n"),
        ("ZSCAN z 0 NOSCORES MATCH a", "*2\n$1\n0\n*1\n$1\na\n"),
        ("ZSCAN z 0 NOVALUES", "-ERR NOVALUES option can only be used in HSCAN\n"),
        ("ZSCAN z x", "-ERR invalid cursor\n"),
    ]);
    let texts = [(3.3, "3.2999999999999998"), (1e21, "1e+21"), (1e-7, "9.9999999999999995e-08"), (120.0, "120")];
    for (score, text) in texts {
        assert_eq!(super::seventeen_digits(score), text);
    }
}

#[test]
fn a_command_that_finds_no_member_waits() {
    let mut engine = Engine::after(&["SET str x"]);
    for request in ["BZPOPMIN z y 0.001", "BZPOPMAX z 0.001", "BZMPOP 0.001 1 z MIN"] {
        assert_eq!(engine.words(request), "*-1\r\n", "{request}");
        assert_eq!(engine.waits.take().map(|wait| wait.until), Some(Some(engine.now + 1)), "{request}");
    }
    engine.converse(&[
        ("ZADD z 1 a 2 b 3 c", ":3\n"),
        ("BZPOPMIN nope z 0", "*3\n$1\nz\n$1\na\n$1\n1\n"),
        ("BZPOPMAX z 0", "*3\n$1\nz\n$1\nc\n$1\n3\n"),
        ("BZMPOP 0 1 z MAX", "*2\n$1\nz\n*1\n*2\n$1\nb\n$1\n2\n"),
        ("BZPOPMIN str 1", WRONG_TYPE),
    ]);
    assert_eq!(engine.journal_lines(), ["ZADD z 1 a 2 b 3 c", "ZREM z a", "ZREM z c", "ZREM z b"]);
}

#[test]
fn what_happens_to_sorted_sets_is_told() {
    let mut engine = Engine::after(&[]);
    for (request, events) in [
        ("ZADD z 1 a 2 b 3 c 4 d 5 e 6 f", "new z, zadd z"),
        ("ZADD z 1 a", ""),
        ("ZINCRBY z 1 a", "zincr z"),
        ("ZADD z INCR 1 a", "zincr z"),
        ("ZREM z a", "zrem z"),
        ("ZREMRANGEBYRANK z 0 0", "zremrangebyrank z"),
        ("ZREMRANGEBYSCORE z 3 3", "zremrangebyscore z"),
        ("ZREMRANGEBYSCORE z 3 3", ""),
        ("ZRANGESTORE {z}y z 0 -1", "new {z}y, zrangestore {z}y"),
        ("ZUNIONSTORE {z}y 1 z", "zunionstore {z}y"),
        ("ZINTERSTORE {z}y 2 z nope", "del {z}y"),
        ("ZPOPMIN z", "zpopmin z"),
        ("ZPOPMAX z 9", "zpopmax z, del z"),
    ] {
        engine.words(request);
        assert_eq!(engine.events.join(", "), events, "{request}");
    }
}

const TEMPLATES: replay::Templates = &[
    "ZADD K N M N M",
    "ZADD K XX GT N M",
    "ZADD K INCR N M",
    "ZINCRBY K N M",
    "ZREM K M M",
    "ZPOPMIN K",
    "ZPOPMAX K C",
    "ZMPOP 2 K K MIN COUNT C",
    "ZRANGESTORE K K 0 C",
    "ZRANGESTORE K K N N BYSCORE",
    "ZREMRANGEBYRANK K C C",
    "ZREMRANGEBYSCORE K N N",
    "ZREMRANGEBYLEX K - [x",
    "ZUNIONSTORE K 2 K K",
    "ZINTERSTORE K 2 K K WEIGHTS N N AGGREGATE MAX",
    "ZDIFFSTORE K 2 K K",
    "SADD K M M",
    "ZRANDMEMBER K -5",
];

proptest! {
    #[test]
    fn effects_make_the_same_sorted_sets_elsewhere(requests in replay::requests(TEMPLATES)) {
        replay::check(&requests);
    }
}
