//! Limits of tenants, one test each: who is at one is told so, and the neighbor notices nothing. It is long because there are many.

use keyward_tests::{Client, Cluster, Value, wait_until};
use std::time::{Duration, Instant};

/// One node with two tenants, `gw` and `ai`, each with a user of its name, and an administrator.
struct Scene {
    cluster: Cluster,
    admin: Client,
}

impl Scene {
    fn new() -> Scene {
        Scene::of(1)
    }

    fn of(nodes: usize) -> Scene {
        let cluster = Cluster::of(nodes).flag("threads", "1").flag("enable-debug-command", "yes").start();
        let mut admin = cluster.node(1).client();
        for tenant in ["gw", "ai"] {
            admin.ok(&["ACL", "SETUSER", tenant, "on", ">secret", "~*", "&*", "+@all"]);
            admin.ok(&["TENANT", "CREATE", tenant, "PREFIX", &format!("{tenant}:"), "USER", tenant]);
        }
        Scene { cluster, admin }
    }

    fn limit(&mut self, setting: &str, value: &str) {
        self.admin.ok(&["TENANT", "SET", "gw", setting, value]);
    }

    fn gw(&self) -> Client {
        self.cluster.node(1).client_as("gw", "secret")
    }

    fn ai(&self) -> Client {
        self.cluster.node(1).client_as("ai", "secret")
    }

    fn stat(&mut self, name: &str) -> i64 {
        let reply = self.admin.ask(&["TENANT", "STATS", "gw"]);
        let items = reply.items().expect("names and numbers").to_vec();
        let at = items.iter().position(|item| item.text().as_deref() == Some(name)).expect("it is counted");
        match items[at + 1] {
            Value::Integer(count) => count,
            ref other => panic!("no number: {other:?}"),
        }
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::Error(text) => text.clone(),
        other => panic!("no error: {other:?}"),
    }
}

#[test]
fn who_is_ahead_of_its_rate_waits_and_is_then_told_for_how_long() {
    let mut scene = Scene::new();
    scene.limit("ops-per-second", "50");
    let mut gw = scene.gw();
    // A second's worth comes at once; what comes after that waits.
    let began = Instant::now();
    for _ in 0..60 {
        assert!(gw.ask(&["GET", "gw:1"]).text().is_none());
    }
    assert!(began.elapsed() > Duration::from_millis(150), "{:?}", began.elapsed());
    // So much at once that waiting does not help.
    for _ in 0..200 {
        gw.send(&["SET", "gw:1", "v"]).unwrap();
    }
    let answers: Vec<Value> = (0..200).map(|_| gw.read().unwrap()).collect();
    let told = answers.iter().find(|answer| answer.is_error("THROTTLED")).expect("it was told");
    let told = text(told);
    assert!(
        told.starts_with("THROTTLED tenant gw is over its ops-per-second of 50 on this node: retry_after_ms="),
        "{told}"
    );
    assert!(gw.ask(&["PING"]).text().is_some(), "PING is free");
    let began = Instant::now();
    let mut ai = scene.ai();
    for _ in 0..200 {
        ai.ok(&["SET", "ai:1", "v"]);
    }
    assert!(began.elapsed() < Duration::from_secs(2), "a neighbor waits for nothing: {:?}", began.elapsed());
    assert!(scene.stat("throttled") > 0 && scene.stat("delays") > 0 && scene.stat("operations") > 60);
    scene.limit("ops-per-second", "default");
    gw.ok(&["SET", "gw:1", "v"]);
}

/// What is never refused may be sent for ever: it waits like everything else, or a flood of it would be the neighbors' to pay.
#[test]
fn a_flood_of_what_is_never_refused_waits() {
    let mut scene = Scene::new();
    scene.limit("ops-per-second", "20");
    let mut gw = scene.gw();
    let began = Instant::now();
    for _ in 0..60 {
        assert_eq!(gw.text(&["PING"]), "PONG");
    }
    // A second's worth comes at once, and forty more take their time.
    assert!(began.elapsed() > Duration::from_millis(1500), "{:?}", began.elapsed());
    // Many at a time wait together, and each of them has its answer.
    let mut crowd: Vec<Client> = (0..40).map(|_| scene.gw()).collect();
    for _ in 0..2 {
        crowd.iter_mut().for_each(|client| client.send(&["PING"]).unwrap());
        crowd.iter_mut().for_each(|client| assert_eq!(client.read().unwrap().text().as_deref(), Some("PONG")));
    }
    assert!(scene.stat("delays") > 40);
    assert_eq!(scene.stat("throttled"), 0, "nothing of that is refused");
}

/// They wait in a queue, and are told one after another; nobody waits for what those before it were given.
#[test]
fn however_many_wait_for_a_rate_all_are_told_in_time() {
    let mut scene = Scene::new();
    scene.limit("ops-per-second", "5");
    let mut crowd: Vec<Client> = (0..300).map(|_| scene.gw()).collect();
    let began = Instant::now();
    for _ in 0..2 {
        crowd.iter_mut().for_each(|client| client.send(&["GET", "gw:1"]).unwrap());
        crowd.iter_mut().for_each(|client| drop(client.read().unwrap()));
    }
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert!(scene.stat("throttled") > 500, "{}", scene.stat("throttled"));
}

/// Who finds no room comes back at once, again and again: it is told late, and nobody else waits for that.
#[test]
fn a_login_that_finds_no_room_is_told_so_late() {
    let mut scene = Scene::new();
    scene.limit("connections", "1");
    let _first = scene.gw();
    let mut second = scene.cluster.node(1).client();
    let began = Instant::now();
    second.send(&["AUTH", "gw", "secret"]).unwrap();
    let mut ai = scene.ai();
    ai.ok(&["SET", "ai:1", "v"]);
    assert!(second.read().unwrap().is_error("ERR max number of clients reached: tenant gw has its 1 connections"));
    assert!(began.elapsed() >= Duration::from_millis(200), "{:?}", began.elapsed());
}

#[test]
fn bytes_are_limited_in_and_out() {
    let mut scene = Scene::new();
    scene.limit("bytes-per-second", "100kb");
    let mut gw = scene.gw();
    gw.ok(&["SET", "gw:1", &"v".repeat(300 << 10)]);
    wait_until("it is told", || {
        gw.ask(&["GET", "gw:2"]).is_error("THROTTLED tenant gw is over its bytes-per-second").then_some(())
    });
    let mut ai = scene.ai();
    ai.ok(&["SET", "ai:1", &"v".repeat(300 << 10)]);
    ai.ok(&["SET", "ai:1", "v"]);
}

/// What is refused was received before, and that costs as well: a long request of who is ahead comes in slowly.
#[test]
fn a_long_request_of_who_is_ahead_is_received_slowly() {
    let mut scene = Scene::new();
    scene.limit("bytes-per-second", "64kb");
    let (mut gw, mut ai) = (scene.gw(), scene.ai());
    let long = "v".repeat(1 << 20);
    // It has room for a first one, however long that is, and then for none during sixteen seconds.
    gw.ok(&["SET", "gw:1", &long]);
    let delays = scene.stat("delays");
    let began = Instant::now();
    gw.send(&["SET", "gw:1", &long]).unwrap();
    ai.ok(&["SET", "ai:1", &long]);
    let answer = gw.read().unwrap();
    assert!(
        answer.is_error("THROTTLED tenant gw is over its bytes-per-second of 65536") || answer.is_ok(),
        "{answer:?}"
    );
    assert!(began.elapsed() > Duration::from_secs(1), "{:?}", began.elapsed());
    assert!(scene.stat("delays") > delays + 8);
    // Whoever has room is not slowed down.
    scene.limit("bytes-per-second", "100mb");
    wait_until("it has room", || gw.ask(&["SET", "gw:1", &long]).is_ok().then_some(()));
    std::thread::sleep(Duration::from_millis(300));
    let delays = scene.stat("delays");
    (0..5).for_each(|_| gw.ok(&["SET", "gw:1", &long]));
    assert_eq!(scene.stat("delays"), delays);
}

#[test]
fn processor_time_is_limited() {
    let mut scene = Scene::new();
    scene.limit("cpu-ms-per-second", "20");
    let (mut gw, mut ai) = (scene.gw(), scene.ai());
    let looped = "local t = 0 for i = 1, 300000 do t = t + i end return t";
    let told = wait_until("it is told", || {
        (0..40).for_each(|_| gw.send(&["EVAL", looped, "0"]).unwrap());
        let answers: Vec<Value> = (0..40).map(|_| gw.read().unwrap()).collect();
        answers.iter().find(|answer| answer.is_error("THROTTLED")).map(text)
    });
    assert!(told.starts_with("THROTTLED tenant gw is over its cpu-ms-per-second of 20 on this node"), "{told}");
    assert!(scene.stat("cpu-us") > 2000 && scene.stat("throttled") > 0);
    ai.ok(&["SET", "ai:1", "v"]);
}

#[test]
fn connections_beyond_the_cap_are_refused_when_they_log_in() {
    let mut scene = Scene::new();
    scene.limit("connections", "2");
    let (first, second) = (scene.gw(), scene.gw());
    let mut third = scene.cluster.node(1).client();
    let refused = third.ask(&["AUTH", "gw", "secret"]);
    assert!(text(&refused).starts_with("ERR max number of clients reached: tenant gw has its 2 connections"));
    assert!(third.ask(&["HELLO", "3", "AUTH", "gw", "secret"]).is_error("ERR max number of clients"));
    third.ok(&["SET", "it is still whoever it was before", "v"]);
    let _neighbor = scene.ai();
    assert_eq!((scene.stat("connections"), scene.stat("connections-refused")), (2, 2));
    let metric = |tenant: &str| {
        scene.cluster.node(1).metric(&format!("keyward_tenant_connections_refused_total{{tenant=\"{tenant}\"}}"))
    };
    assert_eq!((metric("gw"), metric("ai")), (Some(2.0), Some(0.0)));
    drop(first);
    wait_until("a place is free", || third.ask(&["AUTH", "gw", "secret"]).is_ok().then_some(()));
    assert!(third.ask(&["AUTH", "gw", "secret"]).is_ok(), "it has its place already");
    drop(second);
}

#[test]
fn connections_beyond_the_rate_are_refused_when_they_log_in_and_nobody_elses() {
    let mut scene = Scene::of(3);
    let mut first = scene.gw();
    scene.limit("connections-per-second", "2");
    let node = |number: usize| scene.cluster.node(number);
    let mut here: Vec<Client> = (0..4).map(|_| node(1).client()).collect();
    // Four at once: two at most have room, however slowly this goes on.
    let began = Instant::now();
    here.iter_mut().for_each(|client| client.send(&["AUTH", "gw", "secret"]).expect("it is sent"));
    let answers: Vec<Value> = here.iter_mut().map(|client| client.read().expect("an answer")).collect();
    let refused: Vec<String> = answers.iter().filter(|answer| !answer.is_ok()).map(text).collect();
    let allowed_since = 2 + 2 * began.elapsed().as_millis() / 1000;
    assert!((4 - refused.len()) as u128 <= allowed_since, "{answers:?}");
    // At last there is no room for a moment, and the error says how long that is.
    let told = wait_until("a login is refused", || {
        let mut late = node(1).client();
        let answer = late.ask(&["AUTH", "gw", "secret"]);
        let refused = (!answer.is_ok()).then(|| text(&answer));
        if refused.is_some() {
            late.ok(&["SET", "it is still whoever it was before", "v"]);
        }
        refused
    });
    let start = "ERR max number of clients reached: tenant gw has its connections-per-second of 2 on this node: retry_after_ms=";
    assert!(told.starts_with(start) && told[start.len()..].parse::<u64>().is_ok_and(|wait| wait <= 1000), "{told}");
    // Neither its neighbor, nor the platform, nor another node, nor who is there already has to wait.
    let mut others: Vec<Client> = (0..10).flat_map(|_| [node(1).client_as("ai", "secret"), node(1).client()]).collect();
    others.iter_mut().for_each(|client| assert_eq!(client.text(&["PING"]), "PONG"));
    for number in [2, 3] {
        assert!(node(number).client().ask(&["AUTH", "gw", "secret"]).is_ok(), "each node counts for itself");
    }
    for _ in 0..10 {
        assert!(first.ask(&["AUTH", "gw", "secret"]).is_ok(), "it has its place already");
    }
    let mut again = node(1).client();
    wait_until("there is room again", || {
        let answer = again.ask(&["HELLO", "3", "AUTH", "gw", "secret"]);
        (!matches!(answer, Value::Error(_))).then_some(())
    });
    assert!(scene.stat("connections-refused") >= 1);
    scene.limit("connections-per-second", "default");
    let many: Vec<Client> = (0..10).map(|_| scene.gw()).collect();
    drop(many);
}

#[test]
fn values_waiting_clients_subscriptions_and_answers_have_bounds() {
    let mut scene = Scene::new();
    scene.limit("value-bytes", "1kb");
    let mut gw = scene.gw();
    assert!(gw.ask(&["SET", "gw:1", &"v".repeat(2000)]).is_error("ERR an argument of 2000 bytes is longer"));
    gw.ok(&["SET", "gw:1", &"v".repeat(1000)]);
    assert!(gw.ask(&["APPEND", "gw:1", &"v".repeat(1000)]).is_error("ERR"));
    assert!(gw.ask(&["SETRANGE", "gw:1", "5000", "v"]).is_error("ERR"));
    let script = "return redis.call('SET', KEYS[1], string.rep('v', 5000))";
    assert!(gw.ask(&["EVAL", script, "1", "gw:1"]).is_error("ERR an argument"));

    scene.limit("blocked-clients", "1");
    let mut waiting = scene.gw();
    waiting.send(&["BLPOP", "gw:list", "0"]).unwrap();
    wait_until("it waits", || (scene.stat("blocked-clients") == 1).then_some(()));
    assert!(gw.ask(&["BLPOP", "gw:list", "0"]).is_error("ERR too many clients wait: tenant gw"));
    gw.ask(&["RPUSH", "gw:list", "a", "b"]);
    assert_eq!(waiting.read().unwrap().texts(), ["gw:list", "a"]);
    assert_eq!(gw.ask(&["BLPOP", "gw:list", "0"]).texts(), ["gw:list", "b"], "who finds something need not wait");
    wait_until("nobody waits", || (scene.stat("blocked-clients") == 0).then_some(()));

    scene.limit("subscriptions", "2");
    let mut listening = scene.gw();
    assert!(listening.ask(&["SUBSCRIBE", "gw:a", "gw:b", "gw:c"]).is_error("ERR too many subscriptions: tenant gw"));
    listening.ask(&["SUBSCRIBE", "gw:a"]);
    assert_eq!(scene.stat("subscriptions"), 1);
    drop(listening);
    wait_until("it left", || (scene.stat("subscriptions") == 0).then_some(()));

    scene.limit("value-bytes", "default");
    scene.limit("output-bytes", "10kb");
    gw.ok(&["SET", "gw:1", &"v".repeat(20_000)]);
    let too_long = "ERR the reply is longer than output-bytes of tenant gw allows: 10240";
    for request in [&["GET", "gw:1"][..], &["EVAL", "return redis.call('get', 'gw:1')", "1", "gw:1"]] {
        assert_eq!(text(&gw.ask(request)), too_long, "{request:?}");
    }
    let names: Vec<String> = (0..200).map(|number| format!("gw:{number}{}", "x".repeat(100))).collect();
    let words: Vec<&str> = names.iter().flat_map(|name| [name, "v"]).collect();
    gw.ok(&[&["MSET"], &words[..]].concat());
    assert_eq!(text(&gw.ask(&["KEYS", "*"])), too_long);
    assert!(gw.ask(&["GET", "gw:2"]).text().is_none());
    // What all clients may hold bounds one answer, too; and it is told which of the two did.
    scene.limit("output-bytes", "default");
    scene.limit("client-bytes", "30kb");
    wait_until("the other limit is named", || {
        let refused = gw.ask(&["GET", "gw:1"]);
        refused.is_error("ERR the reply is longer than half of client-bytes of tenant gw allows: 15360").then_some(())
    });
    scene.limit("client-bytes", "default");
    assert!(scene.stat("limits-reached") >= 3);
}

// Its pattern is compared for minutes; the next one of its tenant would have waited for that.
#[test]
fn a_walk_over_many_keys_ends_when_its_client_is_closed() {
    let mut scene = Scene::new();
    scene.admin.ok(&["CONFIG", "SET", "pattern-bytes-max", "1mb"]);
    let names = "for n = 1, 12000 do redis.call('SET', 'gw:' .. n .. string.rep('x', 200), '') end";
    scene.admin.ask(&["EVAL", names, "0"]);
    let mut walks = scene.gw();
    let pattern = format!("*[{}]y", "a".repeat(500_000));
    walks.send(&["KEYS", &pattern]).expect("the node reads");
    scene.ai().ok(&["SET", "ai:1", "v"]);
    scene.admin.ask(&["CLIENT", "KILL", "USER", "gw"]);
    let found = scene.gw().ask(&["KEYS", "gw:11*"]);
    assert_eq!(found.items().map(<[_]>::len), Some(1111));
}

/// Does something often until `time` is over; the longest it took.
fn longest(time: Duration, mut what: impl FnMut()) -> Duration {
    let began = Instant::now();
    let mut longest = Duration::ZERO;
    while began.elapsed() < time {
        let one = Instant::now();
        what();
        longest = longest.max(one.elapsed());
    }
    longest
}

#[test]
fn a_runaway_script_is_ended_and_its_neighbors_go_on_meanwhile() {
    let mut scene = Scene::new();
    scene.limit("script-ms", "1500");
    let (mut gw, mut ai) = (scene.gw(), scene.ai());
    ai.ok(&["SET", "ai:1", "v"]);
    for (script, end) in [
        ("while true do end", "ERR the script was ended at the script-ms of tenant gw, 1500"),
        (
            "redis.call('SET', KEYS[1], 'x') while true do redis.call('GET', KEYS[1]) end",
            "and what it wrote until then stays",
        ),
    ] {
        gw.send(&["EVAL", script, "1", "gw:1"]).unwrap();
        let began = Instant::now();
        let slowest = longest(Duration::from_millis(1000), || {
            assert_eq!(ai.ask(&["GET", "ai:1"]).text().as_deref(), Some("v"));
            ai.ok(&["MULTI"]);
            ai.ask(&["SET", "ai:2", "v"]);
            assert_eq!(ai.ask(&["EXEC"]).items().map(<[Value]>::len), Some(1));
            assert_eq!(
                ai.ask(&["EVAL", "return redis.call('GET', KEYS[1])", "1", "ai:1"]).text().as_deref(),
                Some("v")
            );
            scene.admin.ok(&["SET", "of nobody", "v"]);
            assert!(scene.admin.ask(&["PING"]).text().is_some());
        });
        assert!(slowest < Duration::from_millis(500), "a neighbor waited for {slowest:?}");
        let told = text(&gw.read().unwrap());
        assert!(told.contains(end), "{told}");
        assert!(began.elapsed() > Duration::from_millis(1400));
    }
    assert_eq!(gw.ask(&["GET", "gw:1"]).text().as_deref(), Some("x"));
    assert_eq!(scene.stat("scripts-ended"), 2);
}

#[test]
fn a_slow_script_of_a_user_without_a_tenant_stops_only_what_it_may_touch() {
    let mut scene = Scene::new();
    for (name, rules) in [("own", vec!["~own:*"]), ("other", vec!["~other:*", "~gx:*"])] {
        let words = ["ACL", "SETUSER", name, "on", ">secret", "+@all"].into_iter().chain(rules);
        scene.admin.ok(&words.collect::<Vec<_>>());
    }
    scene.admin.ok(&["ACL", "SETUSER", "own", "limit:script-ms=1500"]);
    let (mut own, mut ai) = (scene.cluster.node(1).client_as("own", "secret"), scene.ai());
    let mut other = scene.cluster.node(1).client_as("other", "secret");
    own.send(&["EVAL", "redis.call('SET', KEYS[1], 'x') while true do redis.call('GET', KEYS[1]) end", "1", "own:1"])
        .unwrap();
    let began = Instant::now();
    let slowest = longest(Duration::from_millis(1000), || {
        ai.ok(&["SET", "ai:1", "v"]);
        other.ok(&["SET", "other:1", "v"]);
        let script = "return redis.call('GET', KEYS[1])";
        assert_eq!(other.ask(&["EVAL", script, "1", "other:1"]).text().as_deref(), Some("v"));
        ai.ok(&["MULTI"]);
        ai.ask(&["SET", "ai:2", "v"]);
        assert_eq!(ai.ask(&["EXEC"]).items().map(<[Value]>::len), Some(1));
        scene.admin.ok(&["SET", "of nobody", "v"]);
    });
    assert!(slowest < Duration::from_millis(500), "a neighbor waited for {slowest:?}");
    // Whoever names such a key waits for it, or is told.
    assert_ne!(scene.admin.ask(&["GET", "own:1"]).text().as_deref(), Some("v"));
    assert!(text(&own.read().unwrap()).contains("and what it wrote until then stays"));
    assert!(began.elapsed() > Duration::from_millis(1400));
    assert_eq!(scene.admin.ask(&["GET", "own:1"]).text().as_deref(), Some("x"));
}

#[test]
fn a_script_within_a_transaction_keeps_no_neighbor_waiting_either() {
    let mut scene = Scene::new();
    scene.admin.ok(&["ACL", "SETUSER", "own", "on", ">secret", "+@all", "~own:*", "limit:script-ms=1500"]);
    let (mut own, mut ai) = (scene.cluster.node(1).client_as("own", "secret"), scene.ai());
    let endless = "redis.call('SET', KEYS[1], 'x') while true do redis.call('GET', KEYS[1]) end";
    own.ok(&["MULTI"]);
    own.ask(&["SET", "own:2", "v"]);
    own.ask(&["EVAL", endless, "1", "own:1"]);
    own.send(&["EXEC"]).unwrap();
    let slowest = longest(Duration::from_millis(1000), || {
        ai.ok(&["SET", "ai:1", "v"]);
        // A connection of any data thread.
        scene.ai().ok(&["SET", "ai:2", "v"]);
        scene.admin.ok(&["SET", "of nobody", "v"]);
    });
    assert!(slowest < Duration::from_millis(500), "a neighbor waited for {slowest:?}");
    let told = own.read().unwrap();
    let told = told.items().expect("both were run");
    assert!(told[0].text().is_some() && text(&told[1]).contains("and what it wrote until then stays"));
    // With what concerns the connection, it is run where that is: the first time only.
    let mut beside_select = || {
        own.ok(&["MULTI"]);
        own.ask(&["SELECT", "0"]);
        own.ask(&["EVAL", endless, "1", "own:1"]);
        own.ask(&["EXEC"])
    };
    assert!(text(&beside_select().items().expect("both were run")[1]).contains("script-ms"));
    assert!(beside_select().is_error("EXECABORT"));
}

#[test]
fn what_concerns_many_elements_is_answered_when_the_data_moves_meanwhile() {
    const ELEMENTS: usize = 12_000;
    let scene = Scene::of(3);
    let primary = scene.cluster.primary();
    let mut operator = scene.cluster.node(primary).client();
    wait_until("both replicas are in sync", || {
        (operator.text(&["INFO", "replication"]).matches("in_sync=1").count() == 2).then_some(())
    });
    let members: Vec<String> = (0..ELEMENTS).map(|number| number.to_string()).collect();
    let mut clients: Vec<Client> = (1..=3).map(|number| scene.cluster.node(number).client_as("gw", "secret")).collect();
    let words = ["SADD", "gw:set"].into_iter().chain(members.iter().map(String::as_str));
    clients[0].ask(&words.collect::<Vec<_>>());
    for client in &mut clients {
        for _ in 0..20 {
            client.send(&["SMEMBERS", "gw:set"]).unwrap();
            client.send(&["PING"]).unwrap();
        }
    }
    operator.ok(&["FAILOVER"]);
    for (number, client) in clients.iter_mut().enumerate() {
        for round in 0..20 {
            let told = client.read().expect("each request has an answer");
            let count = told.items().map(<[Value]>::len);
            assert_eq!(count, Some(ELEMENTS), "node {}, request {round}: {told:?}", number + 1);
            assert_eq!(client.read().unwrap().text().as_deref(), Some("PONG"), "answers keep their order");
        }
    }
    wait_until("the data moved", || (scene.cluster.primary() != primary).then_some(()));
}

/// Whether an answer is right.
type IsRight<'a> = &'a dyn Fn(&Value) -> bool;

/// Does to many elements what takes long; `parts` times 5000 of them. With `neighbor`, somebody asks at the same time.
fn do_long_things(scene: &mut Scene, parts: i64, neighbor: bool) {
    let (mut gw, mut ai) = (scene.gw(), scene.ai());
    for part in 0..parts {
        let numbers: Vec<String> = (0..5000).map(|number| ((number * 7919 + part) % 100_003).to_string()).collect();
        for command in [&["RPUSH", "gw:list"][..], &["SADD", "gw:set"]] {
            gw.ask(&command.iter().copied().chain(numbers.iter().map(String::as_str)).collect::<Vec<_>>());
        }
        let words = ["ZADD", "gw:sorted"].into_iter().chain(numbers.iter().flat_map(|of| [of.as_str(), of.as_str()]));
        gw.ask(&words.collect::<Vec<_>>());
    }
    let members = match gw.ask(&["SCARD", "gw:set"]) {
        Value::Integer(members) => members,
        other => panic!("no number: {}", keyward_tests::show(&other)),
    };
    let mut waiting = scene.gw();
    waiting.send(&["BLPOP", "gw:result", "0"]).expect("the connection stands");
    let mut elsewhere = scene.cluster.nodes().last().expect("a node").client_as("gw", "secret");
    let script = "redis.call('SET', KEYS[2], 'v') return #redis.call('SORT', KEYS[1], 'ALPHA')";
    let slow: &[(&[&str], IsRight<'_>)] = &[
        (&["SORT", "gw:list", "ALPHA", "STORE", "gw:result"], &|value| *value == Value::Integer(5000 * parts)),
        (&["SMEMBERS", "gw:set"], &|value| value.items().is_some_and(|all| all.len() as i64 == members)),
        (&["ZUNIONSTORE", "gw:union", "2", "gw:sorted", "gw:set"], &|value| *value == Value::Integer(members)),
        (&["EVAL", script, "2", "gw:list", "gw:2"], &|value| *value == Value::Integer(5000 * parts)),
        (&["SRANDMEMBER", "gw:set", "-100000"], &|value| value.items().is_some_and(|all| all.len() == 100_000)),
    ];
    for through_another in [false, true] {
        for (request, is_right) in slow {
            let client = if through_another { &mut elsewhere } else { &mut gw };
            client.send(request).expect("the connection stands");
            client.send(&["SET", "gw:after", "v"]).expect("the connection stands");
            let slowest = longest(Duration::from_millis(if neighbor { 150 } else { 0 }), || {
                assert_eq!(ai.ask(&["SET", "ai:1", "v"]).text().as_deref(), Some("OK"));
                ai.ok(&["MULTI"]);
                ai.ask(&["GET", "ai:1"]);
                assert_eq!(ai.ask(&["EXEC"]).texts(), ["v"]);
            });
            assert!(slowest < Duration::from_millis(500), "{request:?}: a neighbor waited for {slowest:?}");
            let answer = client.read().expect("the connection stands");
            assert!(is_right(&answer), "{request:?}");
            assert!(client.read().expect("the connection stands").is_ok());
        }
    }
    assert_eq!(
        waiting.read().expect("the connection stands").texts(),
        ["gw:result", "0"],
        "who waits for what it writes is served"
    );
    // A transaction is one step, and what was watched counts.
    for touched in [false, true] {
        gw.ok(&["WATCH", "gw:watched"]);
        if touched {
            elsewhere.ok(&["SET", "gw:watched", "v"]);
        }
        gw.ok(&["MULTI"]);
        for request in [&["SMEMBERS", "gw:set"][..], &["INCR", "gw:counter"], &["PUBLISH", "gw:news", "x"]] {
            gw.ask(request);
        }
        let answer = gw.ask(&["EXEC"]);
        match answer.items() {
            Some([all, count, _]) if !touched => {
                assert!(all.items().is_some_and(|all| all.len() as i64 == members) && *count == Value::Integer(1));
            }
            _ => assert!(touched && answer == Value::Nil, "{}", keyward_tests::show(&answer)),
        }
    }
    gw.ok(&["MULTI"]);
    gw.ask(&["SMEMBERS", "gw:set"]);
    gw.ask(&["CLIENT", "SETNAME", "x"]);
    assert!(gw.ask(&["EXEC"]).is_error("EXECABORT"));
    assert!(gw.text(&["INFO", "commandstats"]).contains("cmdstat_sort:calls=4"), "they are counted as any");
    assert!(scene.stat("cpu-us") > 50_000);
}

#[test]
fn what_concerns_many_elements_is_done_beside_everybody_else() {
    do_long_things(&mut Scene::new(), 20, true);
}

#[test]
fn what_concerns_many_elements_is_the_same_through_every_node_and_on_every_copy() {
    let mut scene = Scene::of(3);
    do_long_things(&mut scene, 4, false);
    scene.cluster.copies_agree("many elements were written");
}

/// Sets, reads and changes values of many megabytes; with `neighbor`, somebody asks at the same time.
fn use_long_values(scene: &mut Scene, megabytes: u64, neighbor: bool) {
    let long: String = (0..megabytes << 17).map(|number| format!("{:08}", number * 7919 % 99_999_989)).collect();
    let (mut gw, mut ai) = (scene.gw(), scene.ai());
    let mut elsewhere = scene.cluster.nodes().last().expect("a node").client_as("gw", "secret");
    for through_another in [false, true] {
        let client = if through_another { &mut elsewhere } else { &mut gw };
        client.ask(&["DEL", "gw:n"]);
        // Whoever does not read its answers is not read from: one part after the other.
        let parts: [&[&[&str]]; 2] = [
            &[
                &["SET", "gw:long", &long, "EX", "1000"],
                &["INCR", "gw:n"],
                &["GET", "gw:long"],
                &["INCR", "gw:n"],
                &["APPEND", "gw:long", "end"],
                &["MGET", "gw:long", "gw:n"],
            ],
            &[
                &["MULTI"],
                &["SET", "gw:second", &long],
                &["GET", "gw:second"],
                &["EXEC"],
                &["DEL", "gw:long", "gw:second"],
            ],
        ];
        let mut answers: Vec<Value> = Vec::new();
        for requests in parts {
            requests.iter().for_each(|request| client.send(request).expect("the connection stands"));
            let asked_for = Duration::from_millis(if neighbor { 300 } else { 0 });
            let slowest = longest(asked_for, || ai.ok(&["SET", "ai:1", "v"]));
            assert!(slowest < Duration::from_millis(500), "a neighbor waited for {slowest:?}");
            answers.extend(requests.iter().map(|_| client.read().expect("the connection stands")));
        }
        let is_long = |value: &Value| value.text().is_some_and(|text| text == long);
        assert!(answers[0].is_ok() && is_long(&answers[2]));
        assert_eq!([&answers[1], &answers[3]], [&Value::Integer(1), &Value::Integer(2)]);
        assert_eq!(answers[4], Value::Integer(long.len() as i64 + 3));
        let both = answers[5].texts();
        assert!(both[0].starts_with(&long) && both[0].ends_with("end") && both[1] == "2");
        assert!(answers[9].items().is_some_and(|items| items[0].is_ok() && is_long(&items[1])));
        assert_eq!(answers[10], Value::Integer(2));
    }
}

#[test]
fn values_of_many_megabytes_are_read_and_written_beside_everybody_else() {
    use_long_values(&mut Scene::new(), 12, true);
}

#[test]
fn values_of_many_megabytes_are_the_same_through_every_node_and_on_every_copy() {
    let mut scene = Scene::of(3);
    use_long_values(&mut scene, 3, false);
    scene.cluster.copies_agree("long values were written");
}

#[test]
fn a_group_that_may_wait_reads_a_great_many_entries_beside_everybody_else() {
    let scene = Scene::new();
    let (mut gw, mut ai) = (scene.gw(), scene.ai());
    let fill = "for i = 1, 25000 do redis.call('XADD', KEYS[1], i .. '-1', 'f', i) end";
    gw.ask(&["EVAL", fill, "1", "gw:stream"]);
    gw.ok(&["XGROUP", "CREATE", "gw:stream", "g", "0"]);
    let read: &[&str] =
        &["XREADGROUP", "GROUP", "g", "c", "COUNT", "100000", "BLOCK", "20000", "STREAMS", "gw:stream", ">"];
    gw.send(read).unwrap();
    let slowest = longest(Duration::from_millis(200), || ai.ok(&["SET", "ai:1", "v"]));
    assert!(slowest < Duration::from_millis(500), "a neighbor waited for {slowest:?}");
    let entries = |answer: &Value| answer.items().and_then(|streams| Some(streams[0].items()?[1].items()?.len()));
    assert_eq!(entries(&gw.read().unwrap()), Some(25_000));
    // There is nothing more: it waits for that.
    gw.send(read).unwrap();
    gw.send(&["PING"]).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    scene.gw().ask(&["XADD", "gw:stream", "30000-1", "f", "v"]);
    assert_eq!(entries(&gw.read().unwrap()), Some(1));
    assert_eq!(gw.read().unwrap().text().as_deref(), Some("PONG"));
}

#[test]
fn a_transaction_of_many_middling_commands_is_done_beside_everybody_else() {
    let scene = Scene::new();
    let (mut gw, mut ai) = (scene.gw(), scene.ai());
    let numbers: Vec<String> = (0..9000).map(|number| number.to_string()).collect();
    gw.ask(&["RPUSH", "gw:list"].into_iter().chain(numbers.iter().map(String::as_str)).collect::<Vec<_>>());
    gw.ok(&["MULTI"]);
    for _ in 0..40 {
        gw.ask(&["LRANGE", "gw:list", "0", "-1"]);
    }
    gw.ask(&["INCR", "gw:n"]);
    gw.send(&["EXEC"]).unwrap();
    let slowest = longest(Duration::from_millis(200), || ai.ok(&["SET", "ai:1", "v"]));
    assert!(slowest < Duration::from_millis(500), "a neighbor waited for {slowest:?}");
    let answer = gw.read().unwrap();
    let items = answer.items().expect("it was carried out");
    assert!(items[..40].iter().all(|item| item.items().is_some_and(|all| all.len() == 9000)));
    assert_eq!(items[40], Value::Integer(1));
    assert!(gw.text(&["INFO", "commandstats"]).contains("cmdstat_lrange:calls=40"));
}

#[test]
fn slow_work_that_waits_for_other_slow_work_takes_no_thread_from_a_neighbor() {
    let mut scene = Scene::new();
    for (name, pattern) in [("own", "~own:*"), ("part", "~own:x:*"), ("second", "~own:y:*"), ("wild", "~*:z")] {
        scene.admin.ok(&["ACL", "SETUSER", name, "on", ">secret", "+@all", pattern]);
    }
    scene.admin.ok(&["ACL", "SETUSER", "own", "limit:script-ms=1500"]);
    let node = scene.cluster.node(1);
    let mut own = node.client_as("own", "secret");
    own.send(&["EVAL", "redis.call('SET', KEYS[1], 'x') while true do redis.call('GET', KEYS[1]) end", "1", "own:1"])
        .unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let mut waiting: Vec<Client> = ["part", "second", "wild"].map(|name| node.client_as(name, "secret")).into();
    for client in &mut waiting {
        client.send(&["EVAL", "return 7", "0"]).unwrap();
    }
    let mut ai = scene.ai();
    let mut number = 0;
    let slowest = longest(Duration::from_millis(500), || {
        // Each is unknown, and so not run where it was read.
        number += 1;
        assert_eq!(ai.ask(&["EVAL", &format!("return {number}"), "0"]), Value::Integer(number));
    });
    assert!(slowest < Duration::from_millis(300), "a neighbor waited for {slowest:?}");
    assert!(text(&own.read().unwrap()).contains("and what it wrote until then stays"));
    for client in &mut waiting {
        assert_eq!(client.read().unwrap(), Value::Integer(7));
    }
}

#[test]
fn who_flushes_many_keys_one_by_one_keeps_nobody_waiting_and_the_copies_agree() {
    let mut scene = Scene::of(3);
    scene.admin.ok(&["ACL", "SETUSER", "own", "on", ">secret", "+@all", "~own:*"]);
    let mut own = scene.cluster.node(1).client_as("own", "secret");
    for part in 0..15 {
        for name in ["own", "rest"] {
            let names: Vec<String> = (0..1000).map(|number| format!("{name}:{part}:{number}")).collect();
            let pairs = names.iter().flat_map(|name| [name.as_str(), "v"]);
            scene.admin.ok(&["MSET"].into_iter().chain(pairs).collect::<Vec<_>>());
        }
    }
    own.send(&["FLUSHDB"]).unwrap();
    let mut ai = scene.ai();
    let slowest = longest(Duration::from_millis(200), || ai.ok(&["SET", "ai:1", "v"]));
    assert!(slowest < Duration::from_millis(500), "a neighbor waited for {slowest:?}");
    assert!(own.read().unwrap().is_ok());
    assert_eq!((own.ask(&["DBSIZE"]), scene.admin.ask(&["DBSIZE"])), (Value::Integer(0), Value::Integer(15_001)));
    scene.cluster.copies_agree("many keys were flushed");
}

#[test]
fn tenants_write_side_by_side_and_the_copies_agree() {
    let mut scene = Scene::of(3);
    scene.limit("script-ms", "5000");
    let writer = "local t = redis.call('TIME') for i = 1, 300 do redis.call('SET', KEYS[1] .. i, ARGV[1]) \
        redis.call('INCR', KEYS[1] .. 'n') for j = 1, 3000 do end end redis.call('LPUSH', KEYS[1] .. 'list', 'a') return 1";
    // A platform client waits for a key of a tenant, whose script writes it.
    let mut waiting = scene.cluster.node(1).client();
    waiting.send(&["BLPOP", "gw:list", "0"]).unwrap();
    let workers: Vec<_> = ["gw", "ai"]
        .into_iter()
        .map(|tenant| {
            let mut clients: Vec<Client> =
                (1..=3).map(|node| scene.cluster.node(node).client_as(tenant, "secret")).collect();
            std::thread::spawn(move || {
                for round in 0..12 {
                    let client = &mut clients[round % 3];
                    let (key, value) = (format!("{tenant}:"), round.to_string());
                    assert_eq!(client.ask(&["EVAL", writer, "1", &key, &value]), Value::Integer(1));
                    client.ok(&["MULTI"]);
                    client.ask(&["INCR", &format!("{tenant}:n")]);
                    client.ask(&["DEL", &format!("{tenant}:{round}")]);
                    client.ask(&["EXEC"]);
                }
            })
        })
        .collect();
    for number in 0..300 {
        scene.admin.ok(&["SET", &format!("of nobody:{number}"), "v"]);
        scene.admin.ask(&["INCR", "gw:n"]);
    }
    workers.into_iter().for_each(|worker| worker.join().expect("it wrote"));
    assert_eq!(waiting.read().unwrap().texts(), ["gw:list", "a"]);
    assert_eq!(scene.admin.ask(&["GET", "ai:n"]).text().as_deref(), Some("3612"));
    assert_eq!(scene.admin.ask(&["GET", "gw:n"]).text().as_deref(), Some("3912"));
    scene.cluster.copies_agree("tenants wrote side by side");
}

#[test]
fn a_walk_over_many_keys_is_done_beside_everybody_else() {
    let scene = Scene::new();
    let (mut gw, mut ai) = (scene.gw(), scene.ai());
    for part in 0..40 {
        let names: Vec<String> = (0..1000).map(|number| format!("gw:{part}:{number}")).collect();
        let words: Vec<&str> = ["MSET"].into_iter().chain(names.iter().flat_map(|name| [name.as_str(), "v"])).collect();
        gw.ok(&words);
    }
    gw.send(&["KEYS", "*"]).unwrap();
    let slowest = longest(Duration::from_millis(200), || drop(ai.ask(&["GET", "ai:1"])));
    assert!(slowest < Duration::from_millis(500), "a neighbor waited for {slowest:?}");
    assert_eq!(gw.read().unwrap().items().map(<[Value]>::len), Some(40_000));
    assert_eq!(gw.ask(&["KEYS", "gw:7:1?"]).texts().len(), 10);
    let page = gw.ask(&["SCAN", "0", "COUNT", "1000000"]);
    assert_eq!(page.items().and_then(|parts| parts[1].items().map(<[Value]>::len)), Some(40_000));
    gw.ok(&["MULTI"]);
    gw.ask(&["KEYS", "gw:7:1?"]);
    assert_eq!(gw.ask(&["EXEC"]).items().map(|items| items[0].texts().len()), Some(10));
}

#[test]
fn who_has_much_to_do_takes_turns_with_the_others() {
    let scene = Scene::new();
    let (mut gw, mut ai) = (scene.gw(), scene.ai());
    for _ in 0..20 {
        let words: Vec<String> =
            ["RPUSH".to_owned(), "gw:list".to_owned()].into_iter().chain((0..1000).map(|n| n.to_string())).collect();
        gw.ask(&words);
    }
    // Each looks through the whole list.
    let mut flood: Vec<Client> = (0..20).map(|_| scene.gw()).collect();
    for client in &mut flood {
        for _ in 0..50 {
            client.send(&["LPOS", "gw:list", "nothing"]).unwrap();
        }
    }
    let slowest = longest(Duration::from_millis(300), || drop(ai.ask(&["GET", "ai:1"])));
    assert!(slowest < Duration::from_millis(700), "a neighbor waited for {slowest:?}");
    for client in &mut flood {
        for _ in 0..50 {
            assert_eq!(client.read().unwrap(), Value::Nil);
        }
    }
}

#[test]
fn a_tenant_leaves_places_to_others_and_platform_users_always_get_in() {
    let cluster = Cluster::of(1).flag("maxclients", "20").start();
    let mut default = cluster.node(1).client();
    default.ok(&["ACL", "SETUSER", "root", "on", ">secret", "~*", "&*", "+@all"]);
    let mut admin = cluster.node(1).client_as("root", "secret");
    admin.ok(&["ACL", "SETUSER", "default", "off"]);
    for tenant in ["gw", "ai"] {
        admin.ok(&["ACL", "SETUSER", tenant, "on", ">secret", "~*", "+@all"]);
        admin.ok(&["TENANT", "CREATE", tenant, "PREFIX", &format!("{tenant}:"), "USER", tenant]);
    }
    let mut flood: Vec<Client> = Vec::new();
    let refused = loop {
        let mut client = cluster.node(1).client();
        match client.ask(&["AUTH", "gw", "secret"]) {
            reply if reply.is_ok() => flood.push(client),
            reply => break text(&reply),
        }
    };
    assert_eq!(flood.len(), 10, "half of them");
    assert_eq!(refused, "ERR max number of clients reached: tenant gw has its 10 connections to this node");
    cluster.node(1).client_as("ai", "secret").ok(&["SET", "ai:1", "v"]);
    // Another user takes what is left; who has yet to log in finds a place only if it sees everything.
    admin.ok(&["ACL", "SETUSER", "app", "on", ">secret", "~app:*", "+@all"]);
    let mut others: Vec<Client> = Vec::new();
    let refused = loop {
        let mut client = cluster.node(1).client();
        match client.ask(&["AUTH", "app", "secret"]) {
            reply if reply.is_ok() => others.push(client),
            reply => break text(&reply),
        }
    };
    assert_eq!(refused, "ERR max number of clients reached");
    let mut late = cluster.node(1).client();
    assert_eq!(text(&late.ask(&["AUTH", "ai", "secret"])), "ERR max number of clients reached");
    let mut mending = cluster.node(1).client_as("root", "secret");
    assert!(mending.text(&["INFO", "clients"]).contains("maxclients:20"));
    mending.ok(&["ACL", "SETUSER", "gw", "off"]);
    wait_until("there is room again", || {
        others.clear();
        cluster.node(1).client().ask(&["AUTH", "ai", "secret"]).is_ok().then_some(())
    });
}

#[test]
fn strangers_shut_nobody_out() {
    let cluster = Cluster::of(1).flag("maxclients", "20").start();
    let mut admin = cluster.node(1).client();
    admin.ok(&["ACL", "SETUSER", "root", "on", ">secret", "~*", "&*", "+@all"]);
    admin.ok(&["ACL", "SETUSER", "app", "on", ">secret", "~app:*", "+@all"]);
    admin.ok(&["ACL", "SETUSER", "default", "resetpass", ">secret"]);
    let mut known = cluster.node(1).client_as("app", "secret");
    // More than there are places, spare ones included, from the one address that everybody here has.
    let mut flood: Vec<Client> = (0..100).map(|_| cluster.node(1).client()).collect();
    let mut root = cluster.node(1).client_as("root", "secret");
    let mut app = cluster.node(1).client_as("app", "secret");
    app.ok(&["SET", "app:1", "v"]);
    assert_eq!(known.text(&["GET", "app:1"]), "v", "who is known loses no place");
    let info = root.text(&["INFO", "clients"]);
    let connected = info.lines().find_map(|line| line.strip_prefix("connected_clients:")?.trim().parse::<usize>().ok());
    let connected = connected.expect("it is told");
    assert!((20..=52).contains(&connected), "{info}");
    // Some of the flood were cut off, about the first; who was not is nobody else's loss.
    let stays = |client: &mut Client| client.call(&["AUTH", "root", "secret"]).is_ok_and(|reply| reply.is_ok());
    let left = flood.iter_mut().map(stays).filter(|stays| *stays).count();
    assert!((30..=49).contains(&left), "{left} of the flood are there");
    // Whoever forgets who it is becomes a stranger again.
    assert_eq!(app.text(&["RESET"]), "RESET");
    let _flood: Vec<Client> = (0..100).map(|_| cluster.node(1).client()).collect();
    wait_until("the one who forgot leaves", || app.call(&["PING"]).is_err().then_some(()));
    root.ok(&["SET", "app:1", "w"]);
}

/// Whoever needs no password took all places, the platform's among them, if it was a user that sees little.
#[test]
fn who_needs_no_password_keeps_nobody_out_who_sees_everything() {
    let cluster = Cluster::of(1).flag("maxclients", "20").start();
    let mut admin = cluster.node(1).client();
    admin.ok(&["ACL", "SETUSER", "root", "on", ">secret", "~*", "&*", "+@all"]);
    let mut root = cluster.node(1).client_as("root", "secret");
    root.ok(&["ACL", "SETUSER", "default", "reset", "on", "nopass", "~public:*", "+@all"]);
    drop((admin, root));
    let mut anybody: Vec<Client> = (0..100).map(|_| cluster.node(1).client()).collect();
    let mut root = cluster.node(1).client_as("root", "secret");
    root.ok(&["SET", "public:1", "v"]);
    // With the first answer, or its end, each of them has come in, and whoever had to make room has been told to go.
    anybody.iter_mut().for_each(|client| drop(client.call(&["PING"])));
    let answers: Vec<Option<Value>> = anybody.iter_mut().map(|client| client.call(&["GET", "public:1"]).ok()).collect();
    let served = answers.iter().flatten().filter(|answer| answer.text().as_deref() == Some("v")).count();
    let nobody = answers.iter().flatten().filter(|answer| answer.is_error("NOAUTH")).count();
    assert!((19..=20).contains(&served), "all usual places are theirs: {served}");
    assert!((1..=32).contains(&nobody), "whoever is in a spare place is nobody: {nobody}");
    // Whoever forgets who it is, in a spare place, is nobody as well.
    assert_eq!(root.text(&["RESET"]), "RESET");
    assert!(root.ask(&["GET", "public:1"]).is_error("NOAUTH"));
    root.ok(&["AUTH", "root", "secret"]);
    anybody.clear();
    wait_until("there is room again", || {
        let answer = cluster.node(1).client().call(&["GET", "public:1"]);
        answer.is_ok_and(|answer| answer.text().as_deref() == Some("v")).then_some(())
    });
}

#[test]
fn one_address_has_so_many_strangers() {
    let cluster = Cluster::of(1).flag("unauthenticated-clients-per-address", "4").start();
    cluster.node(1).client().ok(&["ACL", "SETUSER", "default", "resetpass", ">secret"]);
    let mut known = cluster.node(1).client();
    known.ok(&["AUTH", "secret"]);
    let mut strangers: Vec<Client> = (0..8)
        .map(|_| {
            let mut stranger = cluster.node(1).client();
            // With an answer it has come in, and the oldest one has been told to go.
            assert!(stranger.ask(&["GET", "k"]).is_error("NOAUTH"));
            stranger
        })
        .collect();
    let logs_in = |client: &mut Client| client.call(&["AUTH", "secret"]).is_ok_and(|reply| reply.is_ok());
    known.ok(&["SET", "k", "v"]);
    assert_eq!(strangers.iter_mut().map(logs_in).filter(|stays| *stays).count(), 4);
    known.ok(&["SET", "k", "v"]);
}
