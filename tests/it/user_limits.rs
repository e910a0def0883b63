//! Limits of single users, with a tenant and without one: who is at one is told so, everybody else notices nothing.

use keyward_tests::{Client, Cluster, Value, wait_until};
use std::time::{Duration, Instant};

fn text(value: &Value) -> String {
    match value {
        Value::Error(text) => text.clone(),
        other => panic!("no error: {other:?}"),
    }
}

fn limit(admin: &mut Client, user: &str, rules: &[&str]) {
    admin.ok(&["ACL", "SETUSER", user].iter().chain(rules).copied().collect::<Vec<_>>());
}

/// One node with a user `app` of no tenant.
fn scene() -> (Cluster, Client) {
    let cluster = Cluster::of(1).flag("threads", "1").start();
    let mut admin = cluster.node(1).client();
    limit(&mut admin, "app", &["on", ">secret", "~app:*", "&app:*", "+@all"]);
    (cluster, admin)
}

#[test]
fn limits_are_rules_that_are_shown_kept_and_taken_back() {
    let cluster = Cluster::of(3).start();
    let mut admin = cluster.node(2).client();
    limit(&mut admin, "app", &["on", ">secret", "~app:*", "+@all", "limit:value-bytes=1kb", "LIMIT:connections=3"]);
    for node in cluster.nodes() {
        let mut client = node.client();
        let list = client.ask(&["ACL", "LIST"]).texts().join("\n");
        assert!(list.contains("user app on limit:connections=3 limit:value-bytes=1024 #"), "{list}");
        let fields = client.ask(&["ACL", "GETUSER", "app"]);
        let flags = fields.items().expect("fields")[1].texts();
        assert_eq!(flags, ["on", "limit:connections=3", "limit:value-bytes=1024"]);
        let mut app = node.client_as("app", "secret");
        let refused = app.ask(&["SET", "app:1", &"v".repeat(2000)]);
        assert!(text(&refused).starts_with("ERR an argument of 2000 bytes is longer than value-bytes of user app"));
    }
    for (rule, reason) in [
        ("limit:speed=1", "A limit is limit:NAME=VALUE. The names are ops-per-second, bytes-per-second"),
        ("limit:connections=0", "a whole number above 0"),
        ("limit:connections=1kb", "or 'default' for none"),
        ("(limit:connections=1)", "Syntax error"),
    ] {
        let answer = text(&admin.ask(&["ACL", "SETUSER", "app", rule]));
        assert!(answer.contains(rule) && answer.contains(reason), "{answer}");
    }
    limit(&mut admin, "app", &["limit:value-bytes=default"]);
    cluster.node(3).client_as("app", "secret").ok(&["SET", "app:1", &"v".repeat(2000)]);
    assert!(admin.ask(&["ACL", "LIST"]).texts().join("\n").contains("user app on limit:connections=3 #"));
}

#[test]
fn operations_bytes_and_processor_time_of_one_user_are_limited() {
    let (cluster, mut admin) = scene();
    let mut app = cluster.node(1).client_as("app", "secret");
    let looped = "for i = 1, 200000 do end return redis.call('GET', KEYS[1])";
    for (rule, name) in [
        ("limit:ops-per-second=20", "ops-per-second of 20"),
        ("limit:bytes-per-second=2kb", "bytes-per-second of 2048"),
        ("limit:cpu-ms-per-second=5", "cpu-ms-per-second of 5"),
    ] {
        limit(&mut admin, "app", &[rule]);
        let told = wait_until("the user is told", || {
            (0..50).for_each(|_| app.send(&["EVAL", looped, "1", "app:1"]).expect("it is sent"));
            let answers: Vec<Value> = (0..50).map(|_| app.read().expect("an answer")).collect();
            answers.iter().find(|answer| answer.is_error("THROTTLED")).map(text)
        });
        let expected = format!("THROTTLED user app is over its {name} on this node: retry_after_ms=");
        assert!(told.starts_with(&expected), "{told}");
        assert!(app.ask(&["PING"]).text().is_some(), "PING is free");
        // Whoever has no limit notices nothing, not even of the same tenant, which is none.
        let began = Instant::now();
        (0..100).for_each(|_| admin.ok(&["SET", "app:1", "v"]));
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        limit(&mut admin, "app", &[&format!("{}=default", rule.split_once('=').expect("a value").0)]);
        app.ok(&["SET", "app:1", "v"]);
    }
}

fn app_if_it_may(cluster: &Cluster) -> Option<Client> {
    Client::login(cluster.node(1).address(), "app", "secret").ok()
}

#[test]
fn connections_waiting_clients_subscriptions_answers_and_scripts_of_one_user_are_limited() {
    let (cluster, mut admin) = scene();
    let app = || cluster.node(1).client_as("app", "secret");
    // One that is there already counts from the moment there is a limit.
    let mut first = app();
    first.ok(&["SET", "app:1", &"v".repeat(20_000)]);
    limit(&mut admin, "app", &["limit:connections=2"]);
    wait_until("the first one has its place", || {
        let _second = app();
        let mut third = cluster.node(1).client();
        let refused = third.ask(&["AUTH", "app", "secret"]);
        refused.is_error("ERR max number of clients reached: user app has its 2 connections").then_some(())
    });
    limit(&mut admin, "app", &["limit:connections=default", "limit:connections-per-second=1"]);
    wait_until("one more a second is too many", || {
        let (_one, mut more) = (app_if_it_may(&cluster), cluster.node(1).client());
        let refused = more.ask(&["AUTH", "app", "secret"]);
        let told = "ERR max number of clients reached: user app has its connections-per-second of 1 on this node";
        refused.is_error(told).then_some(())
    });
    limit(&mut admin, "app", &["limit:connections-per-second=default", "limit:blocked-clients=1"]);
    let (mut waits, mut more) = (app(), app());
    waits.send(&["BLPOP", "app:list", "0"]).expect("it is sent");
    wait_until("a second one may not wait", || {
        more.send(&["BLPOP", "app:list", "0.01"]).expect("it is sent");
        more.read().expect("an answer").is_error("ERR too many clients wait: user app").then_some(())
    });
    limit(&mut admin, "app", &["limit:subscriptions=2", "limit:output-bytes=10kb", "limit:script-ms=50"]);
    assert!(more.ask(&["SUBSCRIBE", "app:a", "app:b", "app:c"]).is_error("ERR too many subscriptions: user app"));
    assert_eq!(
        text(&more.ask(&["GET", "app:1"])),
        "ERR the reply is longer than output-bytes of user app allows: 10240"
    );
    let ended = text(&more.ask(&["EVAL", "while true do end", "0"]));
    assert!(ended.contains("script-ms of user app, 50"), "{ended}");
}

#[test]
fn the_stricter_of_a_tenants_and_its_users_limits_holds() {
    let (cluster, mut admin) = scene();
    admin.ok(&["TENANT", "CREATE", "gw", "PREFIX", "app:", "USER", "app", "USER", "other", "value-bytes", "2kb"]);
    limit(&mut admin, "other", &["on", ">secret", "~*", "+@all"]);
    limit(&mut admin, "app", &["limit:value-bytes=1kb", "limit:script-ms=100000"]);
    let (mut app, mut other) =
        (cluster.node(1).client_as("app", "secret"), cluster.node(1).client_as("other", "secret"));
    let longer = "v".repeat(1500);
    assert!(
        app.ask(&["SET", "app:1", &longer])
            .is_error("ERR an argument of 1500 bytes is longer than value-bytes of user app")
    );
    other.ok(&["SET", "app:1", &longer]);
    let longest = "v".repeat(2500);
    assert!(
        other
            .ask(&["SET", "app:1", &longest])
            .is_error("ERR an argument of 2500 bytes is longer than value-bytes of tenant gw")
    );
    limit(&mut admin, "app", &["limit:value-bytes=1mb"]);
    assert!(
        app.ask(&["SET", "app:1", &longest])
            .is_error("ERR an argument of 2500 bytes is longer than value-bytes of tenant gw")
    );
}
