//! Tenants on three nodes: keys belong to whose they are, nothing is lost when that changes, and nobody sees another's.

use keyward_tests::{Client, Cluster, Value, wait_until};
use std::collections::BTreeSet;

fn cluster() -> Cluster {
    Cluster::of(3).flag("enable-debug-command", "yes").start()
}

fn keys_of(client: &mut Client) -> BTreeSet<String> {
    client.ask(&["KEYS", "*"]).texts().into_iter().collect()
}

fn scan(client: &mut Client) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut cursor = "0".to_owned();
    loop {
        let reply = client.ask(&["SCAN", &cursor, "COUNT", "50"]);
        let items = reply.items().expect("SCAN answers with a cursor and keys").to_vec();
        found.extend(items[1].texts());
        cursor = items[0].text().expect("a cursor");
        if cursor == "0" {
            return found;
        }
    }
}

fn number(value: Value) -> i64 {
    match value {
        Value::Integer(number) => number,
        other => panic!("no number: {other:?}"),
    }
}

fn user(admin: &mut Client, name: &str, rules: &[&str]) {
    let words: Vec<&str> = ["ACL", "SETUSER", name, "on", ">secret"].into_iter().chain(rules.iter().copied()).collect();
    admin.ok(&words);
}

#[test]
fn a_tenant_takes_over_the_keys_there_are_and_flushes_only_those() {
    let cluster = cluster();
    let mut admin = cluster.node(1).client();
    for number in 0..500 {
        admin.ok(&["SET", &format!("gw:{number}"), "v"]);
        admin.ok(&["SET", &format!("other:{number}"), "v"]);
    }
    admin.ok(&["SET", "{gw:a}:b", "v"]);
    user(&mut admin, "gw-user", &["~*", "&*", "+@all"]);
    admin.ok(&["TENANT", "CREATE", "gw", "PREFIX", "gw:", "USER", "gw-user"]);
    for node in cluster.nodes() {
        let mut gw = node.client_as("gw-user", "secret");
        assert_eq!(number(gw.ask(&["DBSIZE"])), 501);
        assert_eq!(keys_of(&mut gw).len(), 501);
        assert_eq!(scan(&mut gw).len(), 501);
        assert_eq!(gw.ask(&["GET", "gw:7"]).text().as_deref(), Some("v"));
        assert!(gw.ask(&["GET", "other:7"]).is_error("NOPERM"), "the rules say ~*, the tenant says gw:");
        assert!(gw.ask(&["TENANT", "LIST"]).is_error("NOPERM"));
        assert!(gw.ask(&["FLUSHDB", "PREFIX", "other:"]).is_error("ERR"));
    }
    assert_eq!(number(admin.ask(&["DBSIZE"])), 1001);
    assert_eq!(scan(&mut admin).len(), 1001);
    let mut gw = cluster.node(2).client_as("gw-user", "secret");
    gw.ok(&["FLUSHALL"]);
    assert_eq!(number(gw.ask(&["DBSIZE"])), 0);
    assert_eq!(number(admin.ask(&["DBSIZE"])), 500);
    cluster.copies_agree("a tenant flushed");
}

/// `flush deny` of a tenant was accepted, and meant nothing.
#[test]
fn a_tenant_whose_flush_is_denied_keeps_its_keys_whichever_way_its_users_come() {
    let cluster = cluster();
    let mut admin = cluster.node(1).client();
    user(&mut admin, "gw-user", &["~*", "&*", "+@all"]);
    user(&mut admin, "ns-user", &["~*", "&*", "+@all"]);
    admin.ok(&["TENANT", "CREATE", "gw", "PREFIX", "gw:", "USER", "gw-user", "flush", "deny"]);
    admin.ok(&["TENANT", "CREATE", "ns", "NAMESPACE", "USER", "ns-user", "flush", "deny"]);
    for (name, key) in [("gw-user", "gw:k"), ("ns-user", "k")] {
        for node in cluster.nodes() {
            let mut client = node.client_as(name, "secret");
            client.ok(&["SET", key, "v"]);
            for words in [&["FLUSHALL"][..], &["FLUSHDB", "ASYNC"]] {
                assert!(client.ask(words).is_error("NOPERM"), "{name} {words:?}");
            }
            let script = client.ask(&["EVAL", "return redis.call('FLUSHALL')", "0"]);
            assert!(script.to_string().contains("flush says deny"), "{script}");
            client.ok(&["MULTI"]);
            assert!(client.ask(&["FLUSHALL"]).is_error("NOPERM"));
            assert!(client.ask(&["EXEC"]).is_error("EXECABORT"));
            assert_eq!(number(client.ask(&["DBSIZE"])), 1);
        }
    }
    admin.ok(&["TENANT", "SET", "gw", "flush", "own"]);
    cluster.node(2).client_as("gw-user", "secret").ok(&["FLUSHALL"]);
    assert!(admin.ask(&["GET", "gw:k"]).text().is_none());
    admin.ok(&["TENANT", "SET", "ns", "STATE", "retired"]);
    admin.ok(&["TENANT", "DEL", "ns", "PURGE"]);
    assert_eq!(number(admin.ask(&["DBSIZE"])), 0, "the platform may");
}

/// Taken out of its tenant, a user with `~*` could touch every key there is.
#[test]
fn nobody_leaves_a_tenant_for_every_key_there_is() {
    let cluster = Cluster::of(1).start();
    let mut admin = cluster.node(1).client();
    user(&mut admin, "gw-user", &["~*", "+@all"]);
    user(&mut admin, "gw-other", &["%R~gw:*", "(~* +get)", "+@all"]);
    admin.ok(&["TENANT", "CREATE", "gw", "PREFIX", "gw:", "USER", "gw-user", "USER", "gw-other"]);
    for name in ["gw-user", "gw-other"] {
        let refused = admin.ask(&["TENANT", "SET", "gw", "NOUSER", name]);
        assert!(refused.is_error("ERR") && refused.to_string().contains("every key"), "{refused}");
        assert!(cluster.node(1).client_as(name, "secret").ask(&["GET", "other"]).is_error("NOPERM"));
    }
    admin.ok(&["ACL", "SETUSER", "gw-user", "resetkeys", "~gw:*"]);
    admin.ok(&["ACL", "SETUSER", "gw-other", "off"]);
    for name in ["gw-user", "gw-other"] {
        admin.ok(&["TENANT", "SET", "gw", "NOUSER", name]);
    }
}

#[test]
fn deleting_a_tenant_gives_its_keys_back_and_locks_its_users_out() {
    let cluster = cluster();
    let mut admin = cluster.node(2).client();
    user(&mut admin, "gw-user", &["~*", "+@all"]);
    admin.ok(&["TENANT", "CREATE", "gw", "PREFIX", "gw:", "USER", "gw-user"]);
    let mut gw = cluster.node(3).client_as("gw-user", "secret");
    for number in 0..300 {
        gw.ok(&["SET", &format!("gw:{number}"), "v"]);
    }
    admin.ok(&["TENANT", "SET", "gw", "STATE", "retired"]);
    wait_until("the retired tenant's user is turned away", || match gw.call(&["GET", "gw:1"]) {
        Ok(reply) if !reply.is_error("") => None,
        _ => Some(()),
    });
    assert_eq!(number(admin.ask(&["DBSIZE"])), 300, "retiring loses nothing");
    admin.ok(&["TENANT", "DEL", "gw"]);
    assert_eq!(number(admin.ask(&["DBSIZE"])), 300);
    assert_eq!(admin.ask(&["GET", "gw:299"]).text().as_deref(), Some("v"));
    assert!(!admin.ask(&["ACL", "USERS"]).texts().contains(&"gw-user".to_owned()));
    cluster.copies_agree("a tenant was deleted");
}

#[test]
fn a_grant_needs_both_sides_and_reads_only() {
    let cluster = cluster();
    let mut admin = cluster.node(1).client();
    for (tenant, name) in [("ai", "ai-user"), ("sub", "sub-user")] {
        let prefix = format!("{tenant}:");
        user(&mut admin, name, &[&format!("~{prefix}*"), "&*", "+@all", "-@admin"]);
        admin.ok(&["TENANT", "CREATE", tenant, "PREFIX", &prefix, "USER", name]);
    }
    let mut ai = cluster.node(2).client_as("ai-user", "secret");
    ai.ok(&["SET", "ai:status:1", "done"]);
    let mut sub = cluster.node(3).client_as("sub-user", "secret");
    assert!(sub.ask(&["GET", "ai:status:1"]).is_error("NOPERM"));
    admin.ok(&["TENANT", "SET", "sub", "IMPORT", "ai:status:*", "FROM", "ai"]);
    assert!(sub.ask(&["GET", "ai:status:1"]).is_error("NOPERM"), "nobody exported it");
    admin.ok(&["TENANT", "SET", "ai", "EXPORT", "ai:status:*", "TO", "sub"]);
    assert_eq!(sub.ask(&["GET", "ai:status:1"]).text().as_deref(), Some("done"));
    assert!(sub.ask(&["SET", "ai:status:1", "forged"]).is_error("NOPERM"));
    assert!(sub.ask(&["GET", "ai:cb:1"]).is_error("NOPERM"));
    // What it borrows is found like its own keys, and nothing else of whoever lends it.
    ai.ok(&["SET", "ai:cb:1", "v"]);
    assert_eq!(sub.ask(&["KEYS", "*"]).texts(), ["ai:status:1"]);
    assert_eq!(sub.ask(&["RANDOMKEY"]).text().as_deref(), Some("ai:status:1"));
    for number in 0..300 {
        ai.ok(&["SET", &format!("ai:status:{number}"), "done"]);
        ai.ok(&["SET", &format!("ai:cb:{number}"), "v"]);
        sub.ok(&["SET", &format!("sub:{number}"), "v"]);
    }
    let own = (0..300).map(|number| format!("sub:{number}"));
    let seen: BTreeSet<String> = own.chain((0..300).map(|number| format!("ai:status:{number}"))).collect();
    assert_eq!((scan(&mut sub), keys_of(&mut sub)), (seen.clone(), seen));
    assert_eq!(number(sub.ask(&["DBSIZE"])), 600);
    sub.ok(&["FLUSHDB"]);
    assert_eq!(number(sub.ask(&["DBSIZE"])), 300, "what is lent is not its own to flush");
    assert_eq!(number(ai.ask(&["DBSIZE"])), 600);
    admin.ok(&["TENANT", "SET", "ai", "NOEXPORT", "ai:status:*", "TO", "sub"]);
    assert!(sub.ask(&["GET", "ai:status:1"]).is_error("NOPERM"));
    assert_eq!((number(sub.ask(&["DBSIZE"])), keys_of(&mut sub)), (0, BTreeSet::new()));
}

#[test]
fn what_a_tenant_borrows_its_users_reach_as_far_as_their_own_rules_go() {
    let cluster = cluster();
    let mut admin = cluster.node(1).client();
    for tenant in ["ai", "sub"] {
        let prefix = format!("{tenant}:");
        user(&mut admin, tenant, &["~*", "+@all"]);
        admin.ok(&["TENANT", "CREATE", tenant, "PREFIX", &prefix, "USER", tenant]);
    }
    for (name, rules) in [
        ("sub-ro", &["%R~sub:cache:*", "+@all"][..]),
        ("sub-status", &["%R~sub:cache:*", "%R~ai:status:*", "+@all"]),
        ("sub-worker", &["%R~sub:cache:*", "+@all", "(~ai:status:* +hset)"]),
    ] {
        user(&mut admin, name, rules);
        admin.ok(&["TENANT", "SET", "sub", "USER", name]);
    }
    let described = |admin: &mut Client| admin.ask(&["TENANT", "GET", "sub"]).to_string();
    admin.ok(&["TENANT", "SET", "sub", "IMPORT", "ai:status:*", "FROM", "ai", "WRITE"]);
    assert!(described(&mut admin).contains("ai:status:* from ai write (waiting: ai does not export it)"));
    let foreign = admin.ask(&["TENANT", "SET", "ai", "EXPORT", "gw:*", "TO", "sub"]);
    assert!(foreign.is_error("ERR tenant 'ai' cannot export 'gw:*': its own keys begin with ai:"), "{foreign}");
    admin.ok(&["TENANT", "SET", "ai", "EXPORT", "ai:status:*", "TO", "sub", "WRITE"]);
    assert!(!described(&mut admin).contains("waiting"), "{}", described(&mut admin));
    for (name, reads, writes) in
        [("sub-ro", false, false), ("sub-status", true, false), ("sub-worker", false, true), ("sub", true, true)]
    {
        for node in cluster.nodes() {
            let mut client = node.client_as(name, "secret");
            let may = |reply: Value| !reply.is_error("NOPERM");
            assert_eq!(may(client.ask(&["HGET", "ai:status:1", "f"])), reads, "{name} reads");
            assert_eq!(may(client.ask(&["HSET", "ai:status:1", "f", name])), writes, "{name} writes");
            assert!(!may(client.ask(&["HGET", "ai:cb:1", "f"])), "{name}: nobody lent it");
        }
    }
}

#[test]
fn names_of_a_namespace_are_its_own_in_and_out() {
    let cluster = cluster();
    let mut admin = cluster.node(1).client();
    for name in ["langfuse", "litellm"] {
        user(&mut admin, name, &["~*", "&*", "+@all"]);
        admin.ok(&["TENANT", "CREATE", name, "NAMESPACE", "USER", name]);
    }
    let mut one = cluster.node(2).client_as("langfuse", "secret");
    let mut other = cluster.node(3).client_as("litellm", "secret");
    one.ok(&["SET", "bull:q", "of one"]);
    other.ok(&["SET", "bull:q", "of the other"]);
    other.ok(&["SELECT", "1"]);
    other.ok(&["SET", "second", "v"]);
    other.ok(&["SELECT", "0"]);
    assert_eq!(one.ask(&["GET", "bull:q"]).text().as_deref(), Some("of one"));
    assert_eq!(keys_of(&mut one), BTreeSet::from(["bull:q".to_owned()]));
    let script = "redis.call('SET', KEYS[1], 'x'); return redis.call('KEYS', '*')";
    assert_eq!(one.ask(&["EVAL", script, "1", "made"]).texts().len(), 2);
    assert_eq!(number(admin.ask(&["DBSIZE"])), 0, "a world of its own");
    assert!(admin.ask(&["GET", "bull:q"]).text().is_none());
    one.ok(&["FLUSHALL"]);
    assert_eq!(other.ask(&["GET", "bull:q"]).text().as_deref(), Some("of the other"));
    cluster.copies_agree("namespaces were written");
}

#[test]
fn a_tenant_survives_a_restart_with_its_keys() {
    let mut cluster = Cluster::start(1);
    let mut admin = cluster.node(1).client();
    for name in ["gw", "lf"] {
        user(&mut admin, name, &["~*", "+@all"]);
    }
    admin.ok(&["TENANT", "CREATE", "gw", "PREFIX", "gw:", "USER", "gw"]);
    admin.ok(&["TENANT", "CREATE", "lf", "NAMESPACE", "USER", "lf"]);
    cluster.node(1).client_as("gw", "secret").ok(&["SET", "gw:1", "kept"]);
    cluster.node(1).client_as("lf", "secret").ok(&["SET", "gw:1", "kept apart"]);
    cluster.stop(1);
    cluster.spawn(1);
    cluster.wait_ready(1);
    let mut gw = cluster.node(1).client_as("gw", "secret");
    assert_eq!(gw.ask(&["GET", "gw:1"]).text().as_deref(), Some("kept"));
    assert_eq!(number(gw.ask(&["DBSIZE"])), 1);
    let mut lf = cluster.node(1).client_as("lf", "secret");
    assert_eq!(lf.ask(&["GET", "gw:1"]).text().as_deref(), Some("kept apart"));
    assert_eq!(number(cluster.node(1).client().ask(&["DBSIZE"])), 1);
}

#[test]
fn events_a_tenant_asked_for_are_told_of_its_keys_whoever_changes_them_and_of_no_others() {
    let cluster = cluster();
    let mut admin = cluster.node(1).client();
    for name in ["gw", "ai"] {
        admin.ok(&["ACL", "SETUSER", name, "on", ">pw", "~*", "&*", "+@all"]);
        admin.ok(&["TENANT", "CREATE", name, "PREFIX", &format!("{name}:"), "USER", name]);
    }
    let mut gw = cluster.node(2).client_as("gw", "pw");
    gw.ok(&["CONFIG", "SET", "notify-keyspace-events", "K$"]);
    let mut listener = cluster.node(1).client();
    listener.ask(&["PSUBSCRIBE", "__key*"]);
    let mut ai = cluster.node(3).client_as("ai", "pw");
    for (client, key) in [(&mut admin, "gw:platform"), (&mut ai, "ai:1"), (&mut gw, "gw:own")] {
        client.ok(&["SET", key, "v"]);
    }
    admin.ok(&["MSET", "of nobody", "v", "gw:among others", "v", "ai:2", "v"]);
    // No class of events it asked for.
    admin.ask(&["RPUSH", "gw:list", "a"]);
    admin.ok(&["SET", "gw:last", "v"]);
    let mut heard = Vec::new();
    while heard.last().is_none_or(|channel| channel != "__keyspace@0__:gw:last") {
        heard.push(listener.read().expect("it is told").texts()[2].clone());
    }
    let keys: Vec<&str> = heard.iter().filter_map(|channel| channel.strip_prefix("__keyspace@0__:")).collect();
    assert_eq!(keys, ["gw:platform", "gw:own", "gw:among others", "gw:last"]);
}

/// `ACL LOAD` removed every user the file did not name: tenants were left without users, and listed them still.
#[test]
fn loading_the_platforms_users_leaves_tenants_theirs() {
    let cluster = Cluster::of(1).acl_text("user default on nopass ~* &* +@all\nuser ops on >secret ~* +@all\n").start();
    let node = cluster.node(1);
    let mut admin = node.client();
    admin.ok(&["ACL", "SETUSER", "gw-user", "on", ">secret", "~gw:*", "+@all"]);
    admin.ok(&["TENANT", "CREATE", "gw", "PREFIX", "gw:", "USER", "gw-user"]);
    admin.ok(&["ACL", "SETUSER", "passing", "on", ">secret"]);
    admin.ok(&["ACL", "SETUSER", "ops", "off"]);
    admin.ok(&["ACL", "LOAD"]);
    assert_eq!(admin.ask(&["ACL", "USERS"]).texts(), ["default", "gw-user", "ops"]);
    node.client_as("gw-user", "secret").ok(&["SET", "gw:key", "value"]);
    node.client_as("ops", "secret").ok(&["SET", "key", "value"]);
}

#[test]
fn every_channel_means_those_of_the_tenant_unless_it_shares_them() {
    let cluster = Cluster::of(1).start();
    let mut admin = cluster.node(1).client();
    for tenant in ["gw", "ai"] {
        admin.ok(&["ACL", "SETUSER", tenant, "on", ">secret", "~*", "&*", "+@all"]);
        admin.ok(&["TENANT", "CREATE", tenant, "PREFIX", &format!("{tenant}:"), "USER", tenant]);
    }
    let of = |user: &str| cluster.node(1).client_as(user, "secret");
    let mut victim = of("ai");
    victim.ask(&["SUBSCRIBE", "ai:news"]);
    let mut gw = of("gw");
    for request in [
        &["SUBSCRIBE", "ai:news"][..],
        &["SSUBSCRIBE", "ai:news"],
        &["PSUBSCRIBE", "*"],
        &["PSUBSCRIBE", "ai:*"],
        &["PUBLISH", "ai:news", "forged"],
        &["SUBSCRIBE", "gw:news", "gossip"],
    ] {
        let refused = gw.ask(request);
        assert!(refused.is_error("NOPERM User gw has no permissions to access channel"), "{request:?}: {refused}");
    }
    let nearest = format!("{}", gw.ask(&["PUBLISH", "gossip", "m"]));
    assert!(nearest.contains("nearest pattern: '&gw:*'"), "{nearest}");
    let mut listener = of("gw");
    listener.ask(&["SUBSCRIBE", "gw:news"]);
    listener.ask(&["PSUBSCRIBE", "{gw:*"]);
    listener.ask(&["PSUBSCRIBE", "__key*"]);
    assert_eq!(gw.ask(&["PUBSUB", "CHANNELS"]).texts(), ["gw:news"]);
    // The pattern is meant for the server's channels: what others say on one of theirs that begins alike is not for it.
    admin.ask(&["PUBLISH", "__keychain", "not for gw"]);
    assert_eq!(gw.ask(&["PUBLISH", "gw:news", "hi"]), Value::Integer(1));
    assert_eq!(gw.ask(&["PUBLISH", "{gw:1}", "hi"]), Value::Integer(1));
    assert_eq!(listener.read().expect("a message").texts(), ["message", "gw:news", "hi"]);
    assert_eq!(listener.read().expect("a message").texts(), ["pmessage", "{gw:*", "{gw:1}", "hi"]);
    // What a rule names is granted.
    admin.ok(&["ACL", "SETUSER", "gw", "resetchannels", "&ai:news"]);
    assert_eq!(of("gw").ask(&["PUBLISH", "ai:news", "granted"]), Value::Integer(1));
    admin.ok(&["ACL", "SETUSER", "gw", "&*"]);
    admin.ok(&["TENANT", "SET", "gw", "channels", "all"]);
    let mut gw = of("gw");
    assert_eq!(gw.ask(&["PUBLISH", "ai:news", "shared"]), Value::Integer(1));
    gw.ask(&["PSUBSCRIBE", "*"]);
    let said: Vec<String> = (0..2).map(|_| victim.read().expect("a message").texts()[2].clone()).collect();
    assert_eq!(said, ["granted", "shared"]);
    admin.ok(&["TENANT", "SET", "gw", "channels", "default"]);
    wait_until("what it may not hear any more ends", || gw.is_closed().then_some(()));
}
