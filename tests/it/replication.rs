//! Every node has the data: what is written through any of them is soon the same on all, whatever wrote it.

use keyward_tests::{Client, Cluster, Dice, Value, wait_until};
use std::time::Duration;

fn cluster(nodes: usize) -> Cluster {
    Cluster::of(nodes).flag("enable-debug-command", "yes").start()
}

/// Random writes of every type, some in transactions and scripts, some that expire at once.
fn write_something(client: &mut Client, dice: &mut Dice, round: u64) {
    let key = format!("k{}", dice.below(40));
    let other = format!("k{}", dice.below(40));
    let number = round.to_string();
    let commands: [&[&str]; 22] = [
        &["SET", &key, &number],
        &["SET", &key, &number, "PX", "30"],
        &["APPEND", &key, "x"],
        &["INCRBYFLOAT", &key, "0.1"],
        &["LPUSH", &key, &number, "a", "b"],
        &["LPOP", &key],
        &["LMOVE", &key, &other, "LEFT", "RIGHT"],
        &["SADD", &key, &number, "m1", "m2"],
        &["SPOP", &key],
        &["ZADD", &key, &number, "member"],
        &["ZPOPMIN", &key],
        &["HSET", &key, "f", &number],
        &["HEXPIRE", &key, "1", "FIELDS", "1", "f"],
        &["HINCRBYFLOAT", &key, "g", "1.5"],
        &["XADD", &key, "MAXLEN", "~", "50", "*", "f", &number],
        &["PFADD", &key, &number],
        &["PFCOUNT", &key],
        &["EXPIRE", &key, "100"],
        &["RENAME", &key, &other],
        &["COPY", &key, &other, "REPLACE"],
        &["DEL", &key],
        &[
            "EVAL",
            "redis.call('SET', KEYS[1], ARGV[1]); return redis.call('INCR', KEYS[2])",
            "2",
            &key,
            &other,
            &number,
        ],
    ];
    // What does not fit the key's type is refused, which is as good a round as any.
    let _ = client.ask(commands[dice.below(commands.len())]);
    if dice.one_in(10) {
        client.ok(&["MULTI"]);
        client.ask(&["SET", &key, "in"]);
        client.ask(&["RPUSH", &other, "step"]);
        client.ask(&["EXEC"]);
    }
}

#[test]
fn random_writes_through_all_nodes_end_up_on_all_nodes() {
    let cluster = cluster(3);
    let mut dice = Dice::from_env("KEYWARD_REPLICATION_SEED");
    let mut clients: Vec<Client> = cluster.nodes().iter().map(|node| node.client()).collect();
    for round in 0..4000 {
        let at = dice.below(3);
        write_something(&mut clients[at], &mut dice, round);
        if round % 1000 == 999 {
            cluster.copies_agree(&format!("round {round}"));
        }
    }
}

#[test]
fn whoever_waits_hears_how_many_replicas_have_it() {
    let cluster = cluster(3);
    for node in cluster.nodes() {
        let mut client = node.client();
        client.ok(&["SET", "k", "v"]);
        assert_eq!(client.ask(&["WAIT", "2", "5000"]), Value::Integer(2), "through node {}", node.number());
        // More than there are: it answers when the time is over.
        assert_eq!(client.ask(&["WAIT", "3", "50"]), Value::Integer(2));
    }
    let primary = cluster.primary();
    let others: Vec<usize> = (1..=3).filter(|number| *number != primary).collect();
    cluster.pause(others[0]);
    let mut client = cluster.node(primary).client();
    client.ok(&["SET", "k", "w"]);
    assert_eq!(client.ask(&["WAIT", "2", "200"]), Value::Integer(1));
    cluster.resume(others[0]);
    assert_eq!(client.ask(&["WAIT", "2", "10000"]), Value::Integer(2));
}

#[test]
fn a_write_that_must_be_confirmed_waits_for_a_frozen_replica_until_that_is_out_of_sync() {
    let cluster = cluster(3);
    let primary = cluster.primary();
    let mut admin = cluster.node(primary).client();
    admin.ok(&["ACL", "SETUSER", "queue", "on", ">secret", "~*", "+@all", "ack=quorum"]);
    wait_until("both replicas are in sync", || {
        (admin.text(&["INFO", "replication"]).matches("in_sync=1").count() == 2).then_some(())
    });
    let mut queue = cluster.node(primary).client_as("queue", "secret");
    queue.ok(&["SET", "k", "v"]);
    let frozen = (1..=3).find(|number| *number != primary).expect("there are three nodes");
    cluster.pause(frozen);
    let began = std::time::Instant::now();
    queue.ok(&["SET", "k", "w"]);
    assert!(began.elapsed() > Duration::from_millis(300), "it was confirmed by a node that cannot have it");
    assert!(admin.text(&["INFO", "replication"]).matches("in_sync=1").count() == 1);
    // Without the frozen one everything is quick again.
    let began = std::time::Instant::now();
    (0..20).for_each(|_| queue.ok(&["SET", "k", "x"]));
    assert!(began.elapsed() < Duration::from_secs(5));
    cluster.resume(frozen);
    wait_until("the frozen replica is back in sync", || {
        (admin.text(&["INFO", "replication"]).matches("in_sync=1").count() == 2).then_some(())
    });
    cluster.copies_agree("the frozen replica is back");
}

#[test]
fn a_replica_that_restarts_has_everything_again() {
    let mut cluster = cluster(3);
    let primary = cluster.primary();
    let replica = (1..=3).find(|number| *number != primary).expect("there are three nodes");
    let mut client = cluster.node(primary).client();
    for number in 0..2000 {
        client.ok(&["SET", &format!("key:{number}"), &"v".repeat(200)]);
    }
    cluster.kill(replica);
    client.ok(&["SET", "while-it-was-away", "1"]);
    cluster.restart(replica);
    cluster.copies_agree("a kill -9");
    // Stopped in order it has a snapshot, and goes on from there.
    cluster.stop(replica);
    client.ok(&["SET", "while-it-was-away", "2"]);
    cluster.restart(replica);
    cluster.copies_agree("a restart");
}
