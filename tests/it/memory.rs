//! What a node does with memory: it stays within `maxmemory`, and what it saves is one moment.

use keyward_tests::{Client, Cluster, Value, wait_until, wait_until_for};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

fn info(client: &mut Client, section: &str, field: &str) -> u64 {
    let text = client.text(&["INFO", section]);
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{field}:")).map(str::to_owned));
    line.and_then(|value| value.trim().parse().ok()).unwrap_or_else(|| panic!("INFO {section} has {field}: {text}"))
}

#[test]
fn without_eviction_a_full_node_refuses_writes_and_nothing_else() {
    let cluster = Cluster::start(1);
    let mut client = cluster.node(1).client();
    client.ok(&["SET", "key", "value"]);
    client.ok(&["CONFIG", "SET", "maxmemory", "1"]);
    let refused = client.ask(&["SET", "other", "value"]);
    assert!(refused.is_error("OOM command not allowed when used memory > 'maxmemory'."), "{refused}");
    assert_eq!(client.text(&["GET", "key"]), "value");
    assert_eq!(client.ask(&["DEL", "key"]), Value::Integer(1));
    // A policy that may let nothing go is no help either.
    client.ok(&["SELECT", "1"]);
    client.ok(&["CONFIG", "SET", "maxmemory", "0"]);
    client.ok(&["SET", "key", "value"]);
    client.ok(&["CONFIG", "SET", "maxmemory", "1", "maxmemory-policy", "volatile-lru"]);
    assert!(client.ask(&["SET", "other", "value"]).is_error("OOM"));
}

#[test]
fn evicting_keeps_a_node_within_its_memory() {
    const LIMIT: u64 = 8 << 20;
    for policy in ["allkeys-lru", "allkeys-lfu", "allkeys-random", "volatile-lru", "volatile-ttl"] {
        let cluster = Cluster::start(1);
        let mut client = cluster.node(1).client();
        client.ok(&["CONFIG", "SET", "maxmemory", &LIMIT.to_string(), "maxmemory-policy", policy]);
        let value = "x".repeat(1000);
        for number in 0..20_000 {
            client.ok(&["SET", &format!("key:{number}"), &value, "EX", &(1000 + number % 100).to_string()]);
            if number % 1000 == 999 {
                let used = info(&mut client, "memory", "used_memory");
                assert!(used < LIMIT + (1 << 20), "{policy}: {used} after {number}");
            }
        }
        assert!(info(&mut client, "stats", "evicted_keys") > 10_000);
    }
}

#[test]
fn a_lower_limit_lets_keys_go_in_the_background() {
    let cluster = Cluster::start(1);
    let mut client = cluster.node(1).client();
    for number in 0..5_000 {
        client.ok(&["SET", &format!("key:{number}"), &"x".repeat(1000)]);
    }
    client.ok(&["CONFIG", "SET", "maxmemory", "2000000", "maxmemory-policy", "allkeys-lru"]);
    wait_until("the node is within its memory", || {
        (info(&mut client, "memory", "used_memory") <= 2_000_000).then_some(())
    });
    assert!(info(&mut client, "stats", "evicted_keys") > 2000);
}

#[test]
fn what_was_written_together_is_never_torn_by_a_snapshot_and_a_kill() {
    const PAIRS: usize = 3000;
    let mut cluster = Cluster::of(1).flag("save", "").start();
    let mut client = cluster.node(1).client();
    let write_round = |client: &mut Client, round: usize| {
        for pair in 0..PAIRS {
            let value = round.to_string();
            client.send(&["MSET", &format!("first:{pair}"), &value, &format!("second:{pair}"), &value])?;
            if pair % 100 == 99 {
                (0..100).try_for_each(|_| client.read().map(drop))?;
            }
        }
        Ok::<(), std::io::Error>(())
    };
    write_round(&mut client, 0).expect("the node answers");
    let stop = AtomicBool::new(false);
    let mut other = cluster.node(1).client();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut round = 1;
            while !stop.load(Ordering::Relaxed) && write_round(&mut client, round).is_ok() {
                round += 1;
            }
        });
        for saves in 1..=3 {
            other.ask(&["BGSAVE"]);
            wait_until_for(Duration::from_secs(60), "a snapshot is written", || {
                (info(&mut other, "persistence", "rdb_saves") >= saves).then_some(())
            });
        }
        other.ask(&["BGSAVE"]);
        cluster.kill(1);
        stop.store(true, Ordering::Relaxed);
    });
    cluster.spawn(1);
    cluster.wait_ready(1);
    let mut client = cluster.node(1).client();
    assert_eq!(client.ask(&["DBSIZE"]), Value::Integer(2 * PAIRS as i64));
    let mut rounds = Vec::new();
    for pair in 0..PAIRS {
        let texts = client.ask(&["MGET", &format!("first:{pair}"), &format!("second:{pair}")]).texts();
        assert_eq!(texts[0], texts[1], "pair {pair}");
        rounds.push(texts[0].parse::<usize>().expect("a round"));
    }
    // One writer, one moment: the pairs up to some one are of a round, the others of the round before.
    assert!(
        rounds.is_sorted_by(|a, b| a >= b) && rounds[0] - rounds[PAIRS - 1] <= 1,
        "{} … {}",
        rounds[0],
        rounds[PAIRS - 1]
    );
}
