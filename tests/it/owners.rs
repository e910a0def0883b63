//! What everybody shares, and nobody may take from the others: traces, history, counters; and what it must not tell.

use keyward_tests::{Client, Cluster, Value, wait_until};

/// Nodes with the tenants `gw` and `ai`, each with a user of its name, and an administrator.
fn scene(nodes: usize) -> (Cluster, Client) {
    let cluster = Cluster::of(nodes).flag("threads", "1").flag("failed-logins-per-second", "0").start();
    let mut admin = cluster.node(1).client();
    for tenant in ["gw", "ai"] {
        admin.ok(&["ACL", "SETUSER", tenant, "on", ">secret", "~*", "&*", "+@all"]);
        admin.ok(&["TENANT", "CREATE", tenant, "PREFIX", &format!("{tenant}:"), "USER", tenant]);
    }
    (cluster, admin)
}

#[test]
fn nobody_pushes_anothers_denials_out_of_the_log() {
    let (cluster, mut admin) = scene(1);
    let [mut gw, mut ai] = ["gw", "ai"].map(|name| cluster.node(1).client_as(name, "secret"));
    let mut stranger = cluster.node(1).client();
    assert!(ai.ask(&["GET", "gw:ai-was-here"]).is_error("NOPERM"));
    for number in 0..140 {
        assert!(gw.ask(&["GET", &format!("ai:{number}")]).is_error("NOPERM"));
        assert!(stranger.ask(&["AUTH", &format!("nobody{number}"), "x"]).is_error("WRONGPASS"));
    }
    assert_eq!(ai.ask(&["ACL", "LOG"]).items().map(<[_]>::len), Some(1));
    let log = admin.ask(&["ACL", "LOG", "1000"]);
    let entries: Vec<Vec<String>> = log.items().expect("entries").iter().map(Value::texts).collect();
    let shows = |object: &str| entries.iter().any(|entry| entry.iter().any(|text| text == object));
    assert!(entries.len() == 128 && shows("gw:ai-was-here") && shows("ai:139") && shows("nobody139"));
}

#[test]
fn how_much_others_write_is_not_told() {
    let (cluster, mut admin) = scene(2);
    let mut gw = cluster.node(1).client_as("gw", "secret");
    (0..100).for_each(|_| admin.ok(&["SET", "k", "v"]));
    let told = |client: &mut Client| {
        let role = client.ask(&["ROLE"]).items().expect("three things")[1].clone();
        (role, format!("{:?}", client.ask(&["CLUSTER", "SHARDS"])))
    };
    let (mine, shards) = told(&mut gw);
    let (all, all_shards) = told(&mut admin);
    assert_eq!(mine, Value::Integer(0));
    assert!(matches!(all, Value::Integer(1..)), "{all:?}");
    assert_ne!(shards, all_shards, "the offset is all that differs");

    // Nor by a node that only forwards, and calls itself a primary.
    let other = cluster.node(cluster.primary() % 2 + 1);
    let mut operator = other.client();
    operator.ok(&["CONFIG", "SET", "advertise-role", "primary"]);
    let position = |client: &mut Client| client.ask(&["ROLE"]).items().expect("three things")[1].clone();
    wait_until("it has a copy", || matches!(position(&mut operator), Value::Integer(1..)).then_some(()));
    assert_eq!(position(&mut other.client_as("gw", "secret")), Value::Integer(0));
}

#[test]
fn a_tenant_changes_its_events_ten_times_at_once_and_then_once_a_second() {
    let (cluster, _admin) = scene(1);
    let mut gw = cluster.node(1).client_as("gw", "secret");
    let mut set = |number: usize| gw.ask(&["CONFIG", "SET", "notify-keyspace-events", ["KEA", "KA"][number % 2]]);
    let answers: Vec<Value> = (0..40).map(&mut set).collect();
    let throttled = answers.iter().filter(|answer| answer.is_error("THROTTLED tenant gw changes")).count();
    assert!(answers[..10].iter().all(|answer| answer.text().as_deref() == Some("OK")), "{answers:?}");
    assert!(throttled > 0, "{answers:?}");
}

#[test]
fn who_is_only_watched_gets_no_tenants_key() {
    let (cluster, mut admin) = scene(1);
    admin.ok(&["ACL", "SETUSER", "app", "on", ">secret", "~app:*", "+get", "mode=report"]);
    let mut app = cluster.node(1).client_as("app", "secret");
    app.ok(&["SET", "other:1", "v"]);
    app.ok(&["SET", "new:1", "v"]);
    for request in [&["GET", "gw:1"][..], &["SET", "ai:1", "x"], &["SORT", "other:1", "BY", "nosort", "GET", "gw:*"]] {
        let answer = app.ask(request);
        assert!(matches!(answer, Value::Error(_)), "{request:?}: {answer:?}");
    }
    // What becomes a tenant's is closed at once.
    admin.ok(&["TENANT", "CREATE", "new", "PREFIX", "new:"]);
    assert!(app.ask(&["GET", "new:1"]).is_error("NOPERM"));
    app.ok(&["SET", "other:1", "v"]);
}
