//! Every node has the data: what is written through any of them is soon the same on all, whatever wrote it.

use keyward_tests::resp::encode;
use keyward_tests::{Client, Cluster, Dice, Value, show, wait_until};
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
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

/// Copies take as much memory as what they are copies of: to the byte if they followed from the start, while a full copy fills
/// tables that are of its size at once.
fn copies_weigh_the_same(cluster: &Cluster, tolerance: f64, after: &str) {
    let bytes = |node: &keyward_tests::Node| {
        // What all data uses is counted anew when settings change; until then it is known nearly.
        node.client().ok(&["CONFIG", "SET", "maxmemory-samples", "5"]);
        node.metric("keyward_memory_data_bytes ").expect("it answers")
    };
    let bytes: Vec<f64> = cluster.nodes().iter().map(bytes).collect();
    let apart = bytes.iter().any(|of| (of - bytes[0]).abs() > bytes[0] * tolerance);
    assert!(bytes[0] > 0.0 && !apart, "after {after}: {bytes:?}");
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
            copies_weigh_the_same(&cluster, 0.0, &format!("round {round}"));
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

/// How far a replica is behind in time is what it lacks, not when it was heard: while nothing is written it lacks nothing, however
/// long it is silent.
#[test]
fn status_and_metrics_say_how_old_the_oldest_write_is_that_a_replica_lacks() {
    let cluster = cluster(3);
    all_in_sync(&cluster);
    let primary = cluster.primary();
    let replicas: Vec<usize> = (1..=3).filter(|number| *number != primary).collect();
    let (frozen, other) = (replicas[0], replicas[1]);
    let mut client = cluster.node(primary).client();
    client.ok(&["SET", "k", "v"]);
    assert_eq!(client.ask(&["WAIT", "2", "10000"]), Value::Integer(2));
    let id = |number: usize| cluster.node(number).id().expect("it runs");
    let told = |number: usize| {
        let label = format!("keyward_replica_lag_seconds{{group=\"0\",node=\"{}\"}}", id(number));
        cluster.node(primary).metric(&label)
    };
    // The table of copies: group, node@process, copy, epoch, position, behind, lag, heard …
    let shown = |number: usize| {
        let address = cluster.node(primary).admin_address().to_string();
        let status = keyward_tests::run(&keyward_tests::binary("keywardctl"), &["--addr", &address, "status"], "");
        let heading = status.stdout.lines().find(|line| line.contains("LAG"))?.to_owned();
        let at = heading.find("LAG")?;
        let row = status.stdout.lines().find(|line| line.contains(&format!(" {}@", id(number))))?.to_owned();
        row.get(at..)?.split_once(" ms")?.0.trim().parse::<f64>().ok()
    };
    assert_eq!((told(frozen), told(other)), (Some(0.0), Some(0.0)));
    cluster.pause(frozen);
    // It is silent for longer than it may to be in sync, and lacks nothing.
    wait_until("it is out of sync", || {
        (client.text(&["INFO", "replication"]).matches("in_sync=1").count() == 1).then_some(())
    });
    assert_eq!(told(frozen), Some(0.0), "nothing was written since");
    let began = std::time::Instant::now();
    client.ok(&["SET", "k", "w"]);
    wait_until("what it lacks grows old, by the metrics and by the status", || {
        (told(frozen)? > 2.0 && shown(frozen)? > 2000.0).then_some(())
    });
    let age = began.elapsed().as_secs_f64();
    assert!(told(frozen).is_some_and(|lag| lag <= age + 1.0), "it cannot be older than that");
    wait_until("the other one has it", || (told(other)? == 0.0 && shown(other)? == 0.0).then_some(()));
    assert_eq!(shown(primary), Some(0.0));
    cluster.resume(frozen);
    wait_until("it has caught up", || (told(frozen)? == 0.0 && shown(frozen)? == 0.0).then_some(()));
}

#[test]
fn a_write_that_must_be_confirmed_waits_for_a_frozen_replica_until_that_is_out_of_sync() {
    let cluster = cluster(3);
    let primary = cluster.primary();
    let mut admin = cluster.node(primary).client();
    admin.ok(&["ACL", "SETUSER", "queue", "on", ">secret", "~*", "+@all", "ack=quorum"]);
    wait_until("all replicas are in sync", || {
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

/// One write that the replicas did not confirm made `UNKNOWN` of all answers of its pipeline: a client could not tell that what it
/// had read was good.
#[test]
fn a_write_in_doubt_takes_no_answer_along_that_came_before_it() {
    answers_around_a_write_in_doubt(false);
}

/// The same through a node that forwards: it made `UNKNOWN` of all that it had sent in one batch.
#[test]
fn a_forwarded_write_in_doubt_takes_no_answer_along_that_came_before_it() {
    answers_around_a_write_in_doubt(true);
}

fn answers_around_a_write_in_doubt(forwarded: bool) {
    // Without those that are frozen nothing can be agreed on: nobody leaves the set.
    let nodes = if forwarded { 4 } else { 3 };
    let cluster = Cluster::of(nodes).flag("ack", "quorum").flag("ack-timeout", "500ms").start();
    all_in_sync(&cluster);
    let primary = cluster.primary();
    let mut replicas: Vec<usize> = (1..=nodes).filter(|number| *number != primary).collect();
    let asked = if forwarded { replicas.pop().expect("there are four nodes") } else { primary };
    cluster.node(primary).client().ok(&["SET", "known", "v"]);
    wait_until("the read got in while the replicas still promised", || {
        let mut client = cluster.node(asked).client();
        client.ask(&["GET", "known"]).text().filter(|value| value == "v")?;
        replicas.iter().for_each(|number| cluster.pause(*number));
        // In one piece: what comes later than an answer in doubt is not answered any more.
        let requests = [&["GET", "known"][..], &["SET", "new", "x"], &["GET", "new"], &["GET", "known"]];
        client.send_raw(&requests.map(encode).concat()).expect("the primary runs");
        let answers: Vec<Option<String>> =
            (0..4).map(|_| client.read().ok().map(|answer| answer.to_string())).collect();
        // The node that serves the data takes leave of a client that is told so.
        let ended = forwarded || client.read().is_err();
        replicas.iter().for_each(|number| cluster.resume(*number));
        all_in_sync(&cluster);
        let told: Vec<String> = answers.into_iter().flatten().collect();
        let is_unknown = |answer: &String| answer.contains("UNKNOWN the replicas in sync did not confirm it in time");
        let first = told.first()?;
        if is_unknown(first) {
            // Slowly frozen: nothing is known by then, and each answer says so.
            assert!(told.len() == 4 && told.iter().all(is_unknown), "{told:?}");
            return None;
        }
        assert_eq!(first, "\"v\"");
        assert!(told.len() == 4 && told[1..].iter().all(is_unknown) && ended, "{told:?}");
        Some(())
    });
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
    copies_weigh_the_same(&cluster, 0.01, "a kill -9");
    // Stopped in order it has a snapshot, and goes on from there.
    cluster.stop(replica);
    client.ok(&["SET", "while-it-was-away", "2"]);
    cluster.restart(replica);
    cluster.copies_agree("a restart");
    copies_weigh_the_same(&cluster, 0.01, "a restart");
}

#[test]
fn a_frozen_replica_neither_holds_up_the_primary_nor_makes_it_grow() {
    let cluster = Cluster::of(3)
        .flag("enable-debug-command", "yes")
        .flag("repl-backlog-size", "1mb")
        .flag("repl-copy-backlog-size", "16mb")
        .start();
    let primary = cluster.primary();
    let node = cluster.node(primary);
    let mut client = node.client();
    let value = "v".repeat(64 << 10);
    let mut write = |megabytes: usize| (0..megabytes * 16).for_each(|_| client.ok(&["SET", "key", &value]));
    // What buffers and threads take for themselves is there once it has been used.
    write(16);
    cluster.copies_agree("the first writes");
    let resident = || node.metric("keyward_memory_resident_bytes ").expect("it answers");
    let before = resident();
    cluster.pause(primary % 3 + 1);
    // All of it while nobody has noticed yet that the replica is silent, and after that.
    write(128);
    wait_until("the replica is out of sync", || {
        write(1);
        (node.metric("keyward_replicas_in_sync{group=\"0\"} ") == Some(1.0)).then_some(())
    });
    write(32);
    let kept = node.metric("keyward_replication_backlog_bytes{group=\"0\"} ").expect("it answers");
    let grown = resident() - before;
    // On a busy machine the other replica may have fallen behind as well, and be copied to anew.
    assert!(kept <= f64::from(20 << 20), "{kept} bytes of the stream are kept");
    assert!(grown < f64::from(80 << 20), "it grew by {grown} bytes of more than 160 MB that were written");
    cluster.resume(primary % 3 + 1);
    cluster.copies_agree("the thaw");
}

/// Writes through one node until told to stop; the highest number that was acknowledged, and the errors.
struct Writer {
    stop: std::sync::Arc<std::sync::atomic::AtomicBool>,
    thread: std::thread::JoinHandle<(u64, Vec<String>)>,
}

impl Writer {
    fn start(address: std::net::SocketAddr, user: &'static str, key: &'static str) -> Writer {
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let stopped = std::sync::Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let (mut acknowledged, mut errors, mut number) = (0, Vec::new(), 0_u64);
            let mut client = None;
            while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
                if client.is_none() {
                    client = Client::login(address, user, "secret").ok();
                    if let Some(client) = &client {
                        client.set_patience(Duration::from_secs(20));
                    }
                }
                let Some(connected) = client.as_mut() else {
                    std::thread::sleep(Duration::from_millis(20));
                    continue;
                };
                number += 1;
                match connected.call(&["RPUSH", key, &number.to_string()]) {
                    Ok(Value::Integer(_)) => acknowledged = number,
                    Ok(other) => errors.push(other.to_string()),
                    Err(error) => {
                        errors.push(error.to_string());
                        client = None;
                    }
                }
            }
            (acknowledged, errors)
        });
        Writer { stop, thread }
    }

    fn stop(self) -> (u64, Vec<String>) {
        self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        self.thread.join().expect("the writer ends in order")
    }
}

fn quorum_cluster() -> Cluster {
    let cluster = cluster(3);
    let mut admin = cluster.node(1).client();
    admin.ok(&["ACL", "SETUSER", "queue", "on", ">secret", "~*", "+@all", "ack=quorum"]);
    admin.ok(&["ACL", "SETUSER", "cache", "on", ">secret", "~*", "+@all"]);
    all_in_sync(&cluster);
    cluster
}

fn all_in_sync(cluster: &Cluster) {
    wait_until("all replicas are in sync", || {
        let primary = cluster.nodes().iter().find(|node| {
            let info = Client::connect(node.address()).and_then(|mut client| client.call(&["INFO", "replication"]));
            info.ok()
                .and_then(|info| info.text())
                .is_some_and(|text| text.matches("in_sync=1").count() == cluster.nodes().len() - 1)
        });
        primary.map(|_| ())
    });
}

fn pushed(cluster: &Cluster, number: usize, key: &str) -> Vec<String> {
    cluster.node(number).client().ask(&["LRANGE", key, "0", "-1"]).texts()
}

#[test]
fn the_primary_is_killed_and_no_confirmed_write_is_lost() {
    let mut cluster = quorum_cluster();
    for round in 0..3 {
        let primary = cluster.primary();
        let other = (1..=3).find(|number| *number != primary).expect("there are three nodes");
        let key: &'static str = ["a", "b", "c"][round];
        let writer = Writer::start(cluster.node(other).address(), "queue", key);
        std::thread::sleep(Duration::from_millis(500));
        cluster.kill(primary);
        std::thread::sleep(Duration::from_secs(4));
        let (acknowledged, errors) = writer.stop();
        let kept = pushed(&cluster, other, key);
        assert!(kept.iter().any(|kept| *kept == acknowledged.to_string()), "{acknowledged} is gone; {errors:?}");
        assert!(acknowledged > 20, "writes did not go on: {acknowledged} {errors:?}");
        assert!(errors.len() <= 3, "{errors:?}");
        cluster.restart(primary);
        cluster.copies_agree("the old primary is back");
        all_in_sync(&cluster);
    }
}

#[test]
fn nodes_are_stopped_in_order_one_after_the_other_and_everything_is_there() {
    let mut cluster = quorum_cluster();
    for number in 0..500 {
        cluster.node(1).client().ok(&["SET", &format!("key:{number}"), "v"]);
    }
    for number in 1..=3 {
        let through = number % 3 + 1;
        let key: &'static str = ["x", "y", "z"][number - 1];
        let writer = Writer::start(cluster.node(through).address(), "cache", key);
        std::thread::sleep(Duration::from_millis(300));
        cluster.stop(number);
        std::thread::sleep(Duration::from_secs(1));
        let (acknowledged, errors) = writer.stop();
        assert!(errors.is_empty(), "while node {number} stopped: {errors:?}");
        let kept = pushed(&cluster, through, key);
        assert_eq!(kept.len() as u64, acknowledged, "while node {number} stopped");
        cluster.restart(number);
        cluster.copies_agree("a restart");
        all_in_sync(&cluster);
    }
    assert_eq!(cluster.node(2).client().ask(&["DBSIZE"]), Value::Integer(503));
}

#[test]
fn how_many_must_be_in_sync_is_set_for_the_whole_cluster_and_stays() {
    let mut cluster = quorum_cluster();
    let queue = |cluster: &Cluster, number: usize| cluster.node(number).client_as("queue", "secret");
    let set = |cluster: &Cluster, number: usize, value: &str| {
        cluster.node(number).client().ask(&["CONFIG", "SET", "min-in-sync", value])
    };
    for value in ["4", "-1", "", "x", "99999999999999999999999"] {
        let refused = set(&cluster, 1, value);
        assert!(refused.is_error("ERR CONFIG SET failed (possibly related to argument 'min-in-sync')"), "{refused}");
    }
    let both = ["CONFIG", "SET", "maxmemory-samples", "5", "min-in-sync", "3"];
    assert!(cluster.node(1).client().ask(&both).is_error("ERR CONFIG SET failed"));
    assert!(set(&cluster, 2, "3").is_ok());
    let lost = cluster.primary() % 3 + 1;
    let other = lost % 3 + 1;
    queue(&cluster, other).ok(&["SET", "k", "with-all"]);
    let gone = cluster.node(lost).id().expect("it is registered").to_string();
    let admin = cluster.node(other).admin_address().to_string();
    let removed =
        keyward_tests::run(&keyward_tests::binary("keywardctl"), &["--addr", &admin, "node", "remove", &gone], "");
    assert!(!removed.success && removed.stderr.contains("min-in-sync is 3"), "{removed:?}");
    cluster.kill(lost);
    let few = "NOREPLICAS Not enough good replicas to write.";
    wait_until("the lost node is out of sync", || {
        queue(&cluster, other).ask(&["SET", "k", "refused"]).is_error(few).then_some(())
    });
    let mut at_primary = queue(&cluster, cluster.primary());
    let around = encode(&["PING"])
        .into_iter()
        .chain(encode(&["SET", "k", "refused"]))
        .chain(encode(&["PING"]))
        .collect::<Vec<_>>();
    at_primary.send_raw(&around).expect("it reads");
    let told: Vec<String> = (0..3).map(|_| at_primary.read().expect("it answers").to_string()).collect();
    assert!(told[1].contains(few) && told[0].contains("PONG") && told[2].contains("PONG"), "{told:?}");
    // What they read is what all that are in sync have, also if nobody confirmed it when it was written.
    cluster.node(other).client().ok(&["SET", "k", "unconfirmed"]);
    assert_eq!(at_primary.text(&["GET", "k"]), "unconfirmed");
    assert_eq!(queue(&cluster, other).text(&["GET", "k"]), "unconfirmed");
    at_primary.ok(&["MULTI"]);
    at_primary.ask(&["SET", "k", "refused"]);
    assert!(at_primary.ask(&["EXEC"]).is_error("EXECABORT"));
    // Who does not ask for confirmation is not concerned.
    cluster.node(other).client().ok(&["SET", "cached", "v"]);
    cluster.spawn(lost);
    cluster.wait_ready(lost);
    all_in_sync(&cluster);
    for node in cluster.nodes() {
        let shown = node.client().ask(&["CONFIG", "GET", "min-in-sync"]).to_string();
        assert!(shown.contains('3') && shown.contains("min-in-sync"), "{shown}");
    }
    cluster.kill(lost);
    wait_until("the lost node is out of sync", || {
        queue(&cluster, other).ask(&["SET", "k", "refused"]).is_error(few).then_some(())
    });
    assert!(set(&cluster, other, "0").is_ok());
    queue(&cluster, other).ok(&["SET", "k", "with-two"]);
}

#[test]
fn a_frozen_primary_is_replaced_and_comes_back_as_a_replica() {
    let cluster = quorum_cluster();
    let primary = cluster.primary();
    let other = (1..=3).find(|number| *number != primary).expect("there are three nodes");
    let writer = Writer::start(cluster.node(other).address(), "queue", "k");
    std::thread::sleep(Duration::from_millis(500));
    cluster.pause(primary);
    std::thread::sleep(Duration::from_secs(5));
    cluster.resume(primary);
    std::thread::sleep(Duration::from_secs(1));
    let (acknowledged, errors) = writer.stop();
    let kept = pushed(&cluster, other, "k");
    assert!(kept.iter().any(|kept| *kept == acknowledged.to_string()), "{acknowledged} is gone; {errors:?}");
    assert_ne!(cluster.primary(), primary);
    cluster.copies_agree("the frozen node is back");
}

#[test]
fn all_nodes_restart_and_the_newest_snapshot_is_back() {
    let mut cluster = quorum_cluster();
    let mut client = cluster.node(1).client();
    for number in 0..300 {
        client.ok(&["SET", &format!("key:{number}"), "v"]);
    }
    for number in 1..=3 {
        cluster.stop(number);
    }
    for number in 1..=3 {
        cluster.spawn(number);
    }
    for number in 1..=3 {
        cluster.wait_ready(number);
    }
    wait_until("the data is back", || {
        let size = Client::connect(cluster.node(1).address()).and_then(|mut client| client.call(&["DBSIZE"]));
        size.is_ok_and(|size| size == Value::Integer(300)).then_some(())
    });
    let told = |number: usize| cluster.node(number).client().text(&["INFO", "persistence"]);
    let of_snapshot = (1..=3).filter(|number| told(*number).contains("rdb_last_load_keys_loaded:300\r\n"));
    assert!(of_snapshot.count() > 0, "whoever serves had it in its snapshot");
    cluster.copies_agree("a cold start");
}

#[test]
fn where_too_few_replicas_follow_nothing_is_written_and_no_transaction_is_half_done() {
    let mut cluster = cluster(3);
    let primary = cluster.primary();
    let (lost, other) = (primary % 3 + 1, (primary + 1) % 3 + 1);
    let mut client = cluster.node(primary).client();
    client.ok(&["CONFIG", "SET", "min-replicas-to-write", "2"]);
    wait_until("both replicas count", || client.ask(&["SET", "k", "1"]).is_ok().then_some(()));
    client.ok(&["MULTI"]);
    assert_eq!(client.text(&["INCR", "k"]), "QUEUED");
    assert_eq!(client.text(&["GET", "k"]), "QUEUED");
    cluster.kill(lost);
    let mut through = cluster.node(other).client();
    wait_until("one replica is missed", || {
        through.ask(&["SET", "other", "x"]).is_error("NOREPLICAS Not enough good replicas to write.").then_some(())
    });
    let aborted = "EXECABORT Transaction discarded because of: NOREPLICAS Not enough good replicas to write.";
    assert!(client.ask(&["EXEC"]).is_error(aborted));
    let script = "#!lua\nreturn redis.call('SET', KEYS[1], 'x')";
    assert!(client.ask(&["EVAL", script, "1", "k"]).is_error("NOREPLICAS"));
    assert_eq!(client.text(&["GET", "k"]), "1");
    client.ok(&["MULTI"]);
    assert_eq!(client.text(&["GET", "k"]), "QUEUED");
    assert_eq!(client.ask(&["EXEC"]).items().map(<[Value]>::len), Some(1), "what only reads goes on");
    cluster.restart(lost);
    wait_until("both follow again", || client.ask(&["SET", "k", "2"]).is_ok().then_some(()));
}

#[test]
fn a_script_that_writes_without_end_ends_with_an_error_and_copies_stay() {
    let cluster = Cluster::of(3).flag("script-write-bytes", "1mb").flag("enable-debug-command", "yes").start();
    let mut admin = cluster.node(1).client();
    admin.ok(&["ACL", "SETUSER", "app", "on", ">pw", "~app:*", "+@all"]);
    let endless = "local value = ('x'):rep(100000)
        for number = 1, 1000000 do redis.call('set', KEYS[1], value) redis.call('set', KEYS[2], number) end";
    for (mut client, prefix) in [(cluster.node(2).client(), "all"), (cluster.node(2).client_as("app", "pw"), "app")] {
        let (large, count) = (format!("{prefix}:large"), format!("{prefix}:count"));
        let ended = client.ask(&["EVAL", endless, "2", &large, &count]);
        assert!(ended.is_error("ERR the script wrote more than script-write-bytes allows"), "{}", show(&ended));
        // What it wrote stays, and whoever caught the error can write no more.
        assert_eq!(client.text(&["GET", &count]), "10");
        let caught = "redis.call('set', KEYS[1], ('x'):rep(1100000)) redis.pcall('del', KEYS[1]) return redis.call('strlen', KEYS[1])";
        assert_eq!(client.ask(&["EVAL", caught, "1", &large]), Value::Integer(1_100_000));
        client.ok(&["SET", &large, "x"]);
    }
    cluster.copies_agree("long scripts");
}

/// A copy for `redis-cli --rdb` and a snapshot take turns. A snapshot that was asked for meanwhile was forgotten, and with copies
/// that followed each other none was ever written: a move of slots, which needs one, was never over.
#[test]
fn copies_that_follow_each_other_do_not_keep_a_snapshot_from_being_written() {
    let cluster = Cluster::of(1).start();
    let mut client = cluster.node(1).client();
    client.ok(&["SET", "k", "v"]);
    let address = cluster.node(1).address();
    let (stop, begun) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let mut copy = std::net::TcpStream::connect(address).expect("the node runs");
                    copy.write_all(b"REPLCONF rdb-only 1\r\nSYNC\r\n").expect("it is sent");
                    let mut file = Vec::new();
                    copy.read_to_end(&mut file).expect("a copy");
                    assert!(file.windows(5).any(|window| window == b"REDIS"), "{file:?}");
                    begun.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let saves = |client: &mut Client| {
            let shown = client.text(&["INFO", "persistence"]);
            let line = shown.lines().find_map(|line| line.strip_prefix("rdb_saves:").map(str::to_owned));
            line.and_then(|count| count.parse::<u64>().ok()).expect("a number of snapshots")
        };
        wait_until("copies follow each other", || (begun.load(Ordering::Relaxed) > 10).then_some(()));
        let mut outcome = Ok(());
        for _ in 0..3 {
            let before = saves(&mut client);
            client.ask(&["BGSAVE"]);
            let written = || (saves(&mut client) > before).then_some(());
            outcome =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| wait_until("a snapshot is written", written)));
            if outcome.is_err() {
                break;
            }
        }
        stop.store(true, Ordering::Relaxed);
        outcome.expect("a snapshot was written between the copies");
    });
}
