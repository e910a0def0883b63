//! Limits of tenants, one test each: who is at one is told so, and the neighbor notices nothing.

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
        let cluster = Cluster::of(nodes).flag("threads", "1").start();
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
    drop(first);
    wait_until("a place is free", || third.ask(&["AUTH", "gw", "secret"]).is_ok().then_some(()));
    assert!(third.ask(&["AUTH", "gw", "secret"]).is_ok(), "it has its place already");
    drop(second);
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
    assert!(gw.ask(&["GET", "gw:1"]).is_error("ERR the reply is longer"));
    assert!(gw.ask(&["GET", "gw:2"]).text().is_none());
    assert!(scene.stat("limits-reached") >= 3);
}
