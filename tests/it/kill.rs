//! `kill -9` at any moment: no acknowledged change of a user is lost, all nodes agree afterwards, saved data is there.
//!
//! `KEYWARD_KILL_ROUNDS` says how often (10 unless told), `KEYWARD_KILL_SEED` replays a run's dice.

use std::collections::BTreeMap;
use std::env;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use keyward_tests::{Client, Cluster, Dice, Value, binary, http_get, poll, run, wait_until};

use crate::acl::list;

const WRITERS: usize = 3;

/// One writer's user: the number it last set and had acknowledged, and the number it last tried.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    acknowledged: u64,
    attempted: u64,
}

#[test]
fn no_acknowledged_change_is_lost_however_nodes_are_killed() {
    let rounds: usize = env::var("KEYWARD_KILL_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(10);
    let mut dice = Dice::from_env("KEYWARD_KILL_SEED");
    let mut cluster = Cluster::start(3);
    let addresses: Vec<SocketAddr> = cluster.nodes().iter().map(|node| node.address()).collect();
    let mut progress = [Progress::default(); WRITERS];
    let mut created: BTreeMap<String, ()> = BTreeMap::new();
    for round in 0..rounds {
        let stop = AtomicBool::new(false);
        let results: Vec<(Progress, Vec<String>)> = thread::scope(|scope| {
            let writers: Vec<_> = (0..WRITERS)
                .map(|writer| {
                    let (addresses, stop, start) = (&addresses, &stop, progress[writer]);
                    scope.spawn(move || write(addresses, writer, round, start, stop))
                })
                .collect();
            hurt(&mut cluster, round, &mut dice);
            stop.store(true, Ordering::SeqCst);
            writers.into_iter().map(|writer| writer.join().expect("a writer does not panic")).collect()
        });
        for (writer, (done, names)) in results.into_iter().enumerate() {
            progress[writer] = done;
            created.extend(names.into_iter().map(|name| (name, ())));
        }
        check(&cluster, round, &progress, &created);
    }
    println!("{rounds} rounds, {} users created, changes acknowledged per writer: {progress:?}", created.len());
    assert!(
        progress.iter().any(|writer| writer.acknowledged > 0),
        "no change was ever acknowledged: nothing was proved"
    );
}

/// One node after the other, and every fourth time all of them.
fn hurt(cluster: &mut Cluster, round: usize, dice: &mut Dice) {
    // Some changes must get through before the blow, at an unpredictable moment of the next one.
    let blow = dice.below(400) as u64;
    let _: Option<()> = poll(Duration::from_millis(100 + blow), || None);
    let victims: Vec<usize> = if round % 4 == 3 { vec![1, 2, 3] } else { vec![round % 4 + 1] };
    for number in &victims {
        cluster.kill(*number);
    }
    for number in &victims {
        cluster.spawn(*number);
    }
    for number in 1..=3 {
        cluster.wait_ready(number);
    }
}

/// Sets ever higher numbers on its own user, and now and then makes a new user, until told to stop.
fn write(
    addresses: &[SocketAddr],
    writer: usize,
    round: usize,
    start: Progress,
    stop: &AtomicBool,
) -> (Progress, Vec<String>) {
    let mut done = start;
    let mut created = Vec::new();
    let user = format!("writer-{writer}");
    let mut at = writer;
    while !stop.load(Ordering::SeqCst) {
        at += 1;
        let Ok(mut client) = Client::connect(addresses[at % addresses.len()]) else {
            thread::yield_now();
            continue;
        };
        client.set_patience(Duration::from_secs(10));
        while !stop.load(Ordering::SeqCst) {
            done.attempted += 1;
            let pattern = format!("~{}", done.attempted);
            let reply = client.call(&["ACL", "SETUSER", &user, "resetkeys", &pattern]);
            if !reply.is_ok_and(|reply| reply.is_ok()) {
                break;
            }
            done.acknowledged = done.attempted;
            let name = format!("made-{writer}-{round}-{}", done.attempted);
            if done.attempted.is_multiple_of(16)
                && client.call(&["ACL", "SETUSER", &name, "on"]).is_ok_and(|reply| reply.is_ok())
            {
                created.push(name);
            }
        }
    }
    (done, created)
}

fn check(cluster: &Cluster, round: usize, progress: &[Progress], created: &BTreeMap<String, ()>) {
    let lists = wait_until("all nodes list the same users", || {
        let lists: Vec<Vec<String>> = (1..=3).map(|number| list(cluster, number)).collect();
        (lists[0] == lists[1] && lists[1] == lists[2]).then_some(lists)
    });
    for (writer, done) in progress.iter().enumerate() {
        let prefix = format!("user writer-{writer} ");
        let Some(line) = lists[0].iter().find(|line| line.starts_with(&prefix)) else {
            assert_eq!(done.acknowledged, 0, "round {round}: writer-{writer} is lost");
            continue;
        };
        let number: u64 = line
            .split(' ')
            .find_map(|token| token.strip_prefix('~'))
            .and_then(|digits| digits.parse().ok())
            .unwrap_or_else(|| panic!("round {round}: {line}"));
        assert!(
            (done.acknowledged..=done.attempted).contains(&number),
            "round {round}: writer-{writer} is at {number}, acknowledged {}, attempted {}",
            done.acknowledged,
            done.attempted
        );
    }
    for name in created.keys() {
        let prefix = format!("user {name} ");
        assert!(lists[0].iter().any(|line| line.starts_with(&prefix)), "round {round}: {name} is lost");
    }
}

#[test]
fn saved_data_survives_kill_9_and_later_data_survives_sigterm() {
    let mut cluster = Cluster::start(3);
    let mut client = cluster.node(1).client();
    for number in 0..1000 {
        client.ok(&["SET", &format!("key:{number}"), &format!("value {number}")]);
    }
    client.ask(&["HSET", "hash", "f", "v"]);
    client.ask(&["RPUSH", "list", "a", "b"]);
    client.ask(&["SADD", "set", "1", "x"]);
    client.ask(&["ZADD", "zset", "1.5", "m"]);
    client.ok(&["SET", "ends", "x", "EX", "10000"]);
    let primary = cluster.primary();
    cluster.node(primary).client().ok(&["SAVE"]);
    cluster.kill(primary);
    cluster.restart(primary);
    check_data(&cluster, 1005);

    let mut client = wait_until("writes are taken again", || {
        let mut client = cluster.node(1).client();
        client.call(&["SET", "later", "x"]).ok()?.is_ok().then_some(client)
    });
    client.ok(&["SET", "later", "y"]);
    let primary = cluster.primary();
    assert!(cluster.stop(primary).success());
    cluster.restart(primary);
    check_data(&cluster, 1006);
    assert_eq!(cluster.node(2).client().text(&["GET", "later"]), "y");
}

fn check_data(cluster: &Cluster, keys: i64) {
    for node in cluster.nodes() {
        wait_until("data is served again", || {
            let size = node.client().call(&["DBSIZE"]).ok()?;
            (size == Value::Integer(keys)).then_some(())
        });
        let mut client = node.client();
        assert_eq!(client.text(&["GET", "key:999"]), "value 999");
        assert_eq!(client.text(&["HGET", "hash", "f"]), "v");
        assert_eq!(client.ask(&["LRANGE", "list", "0", "-1"]).texts(), ["a", "b"]);
        assert_eq!(
            client.ask(&["SMISMEMBER", "set", "1", "x"]),
            Value::Array(vec![Value::Integer(1), Value::Integer(1)])
        );
        assert_eq!(client.text(&["ZSCORE", "zset", "m"]), "1.5");
        assert!(matches!(client.ask(&["TTL", "ends"]), Value::Integer(9000..=10000)));
    }
}

#[test]
fn a_frozen_node_rejoins_and_agrees() {
    let cluster = Cluster::start(3);
    cluster.node(1).client().ok(&["ACL", "SETUSER", "alice", "on", ">secret", "~*", "+@all"]);
    cluster.pause(3);
    wait_until("the other two commit", || {
        let mut client = cluster.node(1).client();
        let reply = client.call(&["ACL", "SETUSER", "alice", "-set"]);
        println!("with node 3 frozen: {reply:?}");
        reply.is_ok_and(|reply| reply.is_ok()).then_some(())
    });
    cluster.resume(3);
    wait_until("the thawed node has caught up", || (list(&cluster, 3) == list(&cluster, 1)).then_some(()));
}

/// An operator asked for a failover that gives up on the primary while neither it nor the leader answered, and gave up. It was
/// carried out when both were back: the leader had not heard from the primary while it stood still itself.
#[test]
fn a_failover_that_was_given_up_does_not_happen_later() {
    let cluster = Cluster::start(3);
    let primary = cluster.primary();
    let leader_seen_by = |number: usize| {
        let (_, metrics) = http_get(cluster.node(number).http_address(), "/metrics")?;
        metrics.lines().find_map(|line| line.strip_prefix("keyward_leader_node ")?.trim().parse::<u64>().ok())
    };
    let leader = wait_until("another node than the primary leads", || {
        let id = leader_seen_by(primary)?;
        (1..=3).find(|number| *number != primary && cluster.node(*number).id() == Some(id))
    });
    let asker = 6 - primary - leader;
    let ctl = |arguments: &[&str]| {
        let admin = cluster.node(asker).admin_address().to_string();
        run(&binary("keywardctl"), &[&["--addr", &admin, "--timeout", "2"], arguments].concat(), "")
    };
    cluster.pause(leader);
    cluster.pause(primary);
    wait_until("the third node has no leader", || (leader_seen_by(asker)? == 0).then_some(()));
    let asked = ctl(&["failover", "--to", &format!("node-{asker}"), "--accept-loss"]);
    assert!(!asked.success, "{asked:?}");
    cluster.resume(leader);
    cluster.resume(primary);
    let mut client = cluster.node(asker).client();
    wait_until("the cluster serves again", || {
        client.call(&["SET", "key", "value"]).is_ok_and(|reply| reply.is_ok()).then_some(())
    });
    wait_until("the cluster agrees on changes again", || {
        client.call(&["ACL", "SETUSER", "alice", "on"]).is_ok_and(|reply| reply.is_ok()).then_some(())
    });
    let history = wait_until("the history can be read", || {
        let history = ctl(&["history"]);
        history.success.then_some(history.stdout)
    });
    assert!(!history.contains("unclean"), "{history}");
}
