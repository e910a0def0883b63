//! A tenant exchanges its own databases: its users see the exchange as one step, through any node, and nobody else notices.

use keyward_tests::{Client, Cluster, Value, show, wait_until};
use std::time::Duration;

/// How a tenant has its keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    Prefix,
    Namespace,
}

const MODES: [Mode; 2] = [Mode::Prefix, Mode::Namespace];

/// Two tenants whose users hold all of their keys, and keys that are everybody's.
fn two_tenants(cluster: &Cluster, mode: Mode) {
    let mut admin = cluster.node(1).client();
    for name in ["gw", "ai"] {
        admin.ok(&["ACL", "SETUSER", name, "on", ">pw", "~*", "&*", "+@all"]);
        let prefix = format!("{name}:");
        match mode {
            Mode::Prefix => admin.ok(&["TENANT", "CREATE", name, "PREFIX", &prefix, "USER", name]),
            Mode::Namespace => admin.ok(&["TENANT", "CREATE", name, "NAMESPACE", "USER", name]),
        }
        let mut user = cluster.node(1).client_as(name, "pw");
        for database in ["1", "0"] {
            user.ok(&["SELECT", database]);
            user.ok(&["SET", &format!("{name}:both"), database]);
            user.ok(&["SET", &format!("{{{name}:tag}}:{database}"), database]);
        }
        user.ok(&["SET", &format!("{name}:expires"), "soon", "EX", "100000"]);
    }
    for database in ["1", "0"] {
        admin.ok(&["SELECT", database]);
        admin.ok(&["SET", "both", database]);
    }
}

/// What a user finds in its first two databases.
fn seen_by(client: &mut Client) -> Vec<String> {
    let mut found = Vec::new();
    for database in ["1", "0"] {
        client.ok(&["SELECT", database]);
        let mut keys = client.ask(&["KEYS", "*"]).texts();
        keys.sort();
        found.extend(keys.into_iter().map(|key| {
            let value = client.text(&["GET", &key]);
            let expires = client.ask(&["TTL", &key]) != Value::Integer(-1);
            format!("{database} {key} {value} {expires}")
        }));
    }
    found.sort();
    found
}

/// The same with both databases exchanged.
fn exchanged(seen: &[String]) -> Vec<String> {
    let other = |line: &String| match line.split_at(1) {
        ("0", rest) => format!("1{rest}"),
        (_, rest) => format!("0{rest}"),
    };
    let mut lines: Vec<String> = seen.iter().map(other).collect();
    lines.sort();
    lines
}

/// Each way of asking for it.
fn ask_for_swap(client: &mut Client, way: usize) {
    match way {
        0 => client.ok(&["SWAPDB", "0", "1"]),
        1 => {
            client.ok(&["MULTI"]);
            client.ask(&["SWAPDB", "1", "0"]);
            client.ask(&["ECHO", "done"]);
            let answers = client.ask(&["EXEC"]);
            assert_eq!(answers.items().map(<[Value]>::len), Some(2), "{}", show(&answers));
            assert!(answers.items().expect("both were run")[0].is_ok(), "{}", show(&answers));
        }
        _ => {
            let answer = client.ask(&["EVAL", "return redis.call('SWAPDB', 0, 1)", "0"]);
            assert!(answer.is_ok(), "{}", show(&answer));
        }
    }
}

fn assert_counts(cluster: &Cluster) {
    for node in cluster.nodes().iter().filter(|node| node.is_running()) {
        wait_until("everything is counted right", || node.client().ask(&["DEBUG", "RECOUNT"]).is_ok().then_some(()));
    }
}

#[test]
fn a_tenant_exchanges_its_databases_through_any_node_and_nobody_elses() {
    for mode in MODES {
        let mut cluster = Cluster::of(3).flag("enable-debug-command", "yes").start();
        two_tenants(&cluster, mode);
        let (mut ai, mut admin) = (cluster.node(2).client_as("ai", "pw"), cluster.node(3).client());
        let (of_ai, of_all) = (seen_by(&mut ai), seen_by(&mut admin));
        for number in 1..=3 {
            for way in 0..3 {
                let mut gw = cluster.node(number).client_as("gw", "pw");
                let before = seen_by(&mut gw);
                assert_eq!(before.len(), 5, "{before:?}");
                ask_for_swap(&mut gw, way);
                let after = seen_by(&mut gw);
                assert_eq!(after, exchanged(&before), "{mode:?}, node {number}, way {way}");
                assert_eq!(seen_by(&mut ai), of_ai, "{mode:?}, node {number}, way {way}");
                // It sees keys with prefixes, whoever owns them.
                let foreign = |line: &&String| line.contains("gw:");
                let mut of_others = seen_by(&mut admin);
                of_others.retain(|line| !foreign(&line));
                assert_eq!(of_others, of_all.iter().filter(|line| !foreign(line)).cloned().collect::<Vec<_>>());
            }
        }
        cluster.copies_agree("swaps through all nodes");
        assert_counts(&cluster);

        // A copy that was away catches up, or is copied anew; and what is on disk is as it was exchanged.
        let away = cluster.primary() % 3 + 1;
        cluster.pause(away);
        let through = (1..=3).find(|number| *number != away).unwrap();
        let mut gw = cluster.node(through).client_as("gw", "pw");
        let before = seen_by(&mut gw);
        (0..3).for_each(|_| ask_for_swap(&mut gw, 0));
        cluster.resume(away);
        cluster.copies_agree("a copy that was away");
        drop((gw, ai, admin));
        for number in 1..=3 {
            cluster.stop(number);
        }
        (1..=3).for_each(|number| cluster.spawn(number));
        (1..=3).for_each(|number| cluster.wait_ready(number));
        assert_eq!(seen_by(&mut cluster.node(1).client_as("gw", "pw")), exchanged(&before), "{mode:?}, after a start");
        assert_eq!(seen_by(&mut cluster.node(1).client_as("ai", "pw")), of_ai, "{mode:?}, after a start");
        cluster.copies_agree("a start");
        assert_counts(&cluster);
    }
}

/// A client that caches, through RESP3; whether it hears that everything may have changed.
fn cacher(mut client: Client, key: &str) -> Client {
    client.ask(&["HELLO", "3"]);
    client.ok(&["CLIENT", "TRACKING", "ON"]);
    client.ask(&["GET", key]);
    client
}

fn hears_of_everything(client: &mut Client) -> bool {
    client.set_patience(Duration::from_secs(10));
    client.send(&["PING"]).expect("it is sent");
    let mut heard = false;
    loop {
        match client.read().expect("it is told") {
            Value::Push(items) => heard |= items[1] == Value::Nil,
            _ => return heard,
        }
    }
}

#[test]
fn who_waits_watches_and_caches_hears_of_it_in_its_own_tenant_and_databases_only() {
    for mode in MODES {
        let cluster = Cluster::start(1);
        two_tenants(&cluster, mode);
        let user = |name: &str| cluster.node(1).client_as(name, "pw");
        let (mut gw, mut admin) = (user("gw"), cluster.node(1).client());
        // A list that appears.
        gw.ok(&["SELECT", "1"]);
        gw.ask(&["RPUSH", "gw:list", "from 1"]);
        gw.ok(&["SELECT", "0"]);
        let mut waiter = user("gw");
        waiter.send(&["BLPOP", "gw:list", "30"]).unwrap();
        wait_until("it waits", || admin.text(&["INFO", "clients"]).contains("blocked_clients:1").then_some(()));
        let watch = |name: &str, database: &str, key: &str| {
            let mut client = user(name);
            client.ok(&["SELECT", database]);
            client.ok(&["SET", key, "v"]);
            client.ok(&["WATCH", key]);
            client
        };
        let mut touched = [watch("gw", "0", "gw:both"), watch("gw", "1", "{gw:tag}:0")];
        let mut untouched = [watch("gw", "5", "gw:both"), watch("ai", "0", "ai:both")];
        let mut ours = admin_watch(&cluster);
        let mut cachers = [cacher(user("gw"), "gw:both"), cacher(user("ai"), "ai:both")];
        gw.ok(&["SWAPDB", "0", "1"]);
        assert_eq!(waiter.read().unwrap().texts(), ["gw:list", "from 1"], "{mode:?}");
        for (at, client) in touched.iter_mut().enumerate() {
            client.ok(&["MULTI"]);
            assert_eq!(client.ask(&["EXEC"]), Value::Nil, "{mode:?}: {at}");
        }
        for (at, client) in untouched.iter_mut().chain([&mut ours]).enumerate() {
            client.ok(&["MULTI"]);
            assert_eq!(client.ask(&["EXEC"]), Value::Array(Vec::new()), "{mode:?}: {at}");
        }
        assert_eq!(cachers.each_mut().map(hears_of_everything), [true, false], "{mode:?}");
        // The same of a flush.
        gw.ok(&["FLUSHDB"]);
        assert_eq!(cachers.each_mut().map(hears_of_everything), [true, false], "{mode:?}");
    }
}

fn admin_watch(cluster: &Cluster) -> Client {
    let mut admin = cluster.node(1).client();
    admin.ok(&["WATCH", "both"]);
    admin
}

#[test]
fn whoever_does_not_hold_all_of_a_tenant_is_told_why_nothing_is_exchanged() {
    let cluster = Cluster::of(1).flag("enable-debug-command", "yes").start();
    two_tenants(&cluster, Mode::Prefix);
    let mut admin = cluster.node(1).client();
    admin.ok(&["ACL", "SETUSER", "alone", "on", ">pw", "~gw:*", "~{gw:*", "~ai:*", "+@all"]);
    for (name, rules) in [("some", "~gw:*"), ("reads", "%R~*"), ("zero", "~* db=0")] {
        let rules: Vec<&str> =
            ["ACL", "SETUSER", name, "on", ">pw", "+@all"].into_iter().chain(rules.split(' ')).collect();
        admin.ok(&rules);
        admin.ok(&["TENANT", "SET", "gw", "USER", name]);
    }
    let before = seen_by(&mut admin);
    for (name, why) in [
        ("some", "let them read and write all of its keys"),
        ("reads", "let them read and write all of its keys"),
        ("alone", "only for users with ~*"),
        ("zero", "no permissions to access database 1 (allowed: 0)"),
    ] {
        let mut client = cluster.node(1).client_as(name, "pw");
        let answer = client.ask(&["SWAPDB", "0", "1"]);
        let Value::Error(text) = &answer else { panic!("{name}: {}", show(&answer)) };
        assert!(text.starts_with("NOPERM ") && text.contains(why), "{name}: {text}");
        let answer = client.ask(&["EVAL", "return redis.call('swapdb', 0, 1)", "0"]);
        assert!(matches!(answer, Value::Error(_)), "{name}: {}", show(&answer));
        let answer = client.ask(&["TENANT", "SWAPDB", "0", "1", "gw:"]);
        assert!(answer.is_error("NOPERM"), "{name}: {}", show(&answer));
        assert_eq!(seen_by(&mut admin), before, "{name}");
    }
    // A flag that keeps what is there from being flushed says nothing about an exchange, which loses nothing.
    admin.ok(&["TENANT", "SET", "gw", "flush", "deny"]);
    cluster.node(1).client_as("gw", "pw").ok(&["SWAPDB", "0", "1"]);
    // What is borrowed stays where it is.
    admin.ok(&["TENANT", "SET", "ai", "EXPORT", "ai:both", "TO", "gw", "WRITE"]);
    admin.ok(&["TENANT", "SET", "gw", "IMPORT", "ai:both", "FROM", "ai", "WRITE"]);
    let mut gw = cluster.node(1).client_as("gw", "pw");
    gw.ok(&["SWAPDB", "1", "0"]);
    assert_eq!(gw.text(&["GET", "ai:both"]), "0");
    assert_eq!(seen_by(&mut admin), before);
    assert_counts(&cluster);
    // The platform does the same by prefix.
    admin.ok(&["TENANT", "SWAPDB", "0", "1", "gw:"]);
    let (of_gw, others): (Vec<String>, Vec<String>) =
        seen_by(&mut admin).into_iter().partition(|line| line.contains("gw:"));
    let (before_gw, before_others): (Vec<String>, Vec<String>) =
        before.into_iter().partition(|line| line.contains("gw:"));
    assert_eq!((of_gw, others), (exchanged(&before_gw), before_others));
}

#[test]
fn each_group_that_has_keys_of_a_tenant_exchanges_them() {
    for mode in MODES {
        let cluster = Cluster::of(3).flag("groups", "2").flag("enable-debug-command", "yes").start();
        cluster.spread(2);
        two_tenants(&cluster, mode);
        let mut ai = cluster.node(2).client_as("ai", "pw");
        let of_ai = seen_by(&mut ai);
        for number in 1..=3 {
            let mut gw = cluster.node(number).client_as("gw", "pw");
            (0..20).for_each(|key| gw.ok(&["SET", &format!("gw:{key}"), "v"]));
            let before = seen_by(&mut gw);
            gw.ok(&["SWAPDB", "0", "1"]);
            assert_eq!(seen_by(&mut gw), exchanged(&before), "{mode:?}, node {number}");
            assert_eq!(seen_by(&mut ai), of_ai, "{mode:?}, node {number}");
            gw.ok(&["MULTI"]);
            let answer = gw.ask(&["SWAPDB", "0", "1"]);
            assert!(answer.is_error("CROSSSLOT"), "{mode:?}: {}", show(&answer));
        }
        cluster.copies_agree("swaps in two groups");
        assert_counts(&cluster);
    }
}
