//! `FAILOVER` and `CLUSTER FAILOVER`: who asks for another primary gets it, as soon as that may be, or hears why not.

use keyward_tests::{Client, Cluster, Value, binary, run, wait_until};

fn cluster() -> Cluster {
    let cluster = Cluster::of(3).flag("ack", "quorum").start();
    in_sync(&cluster, 2);
    cluster
}

/// Waits until so many replicas are in sync.
fn in_sync(cluster: &Cluster, count: usize) {
    wait_until("the replicas are in sync", || {
        let is_primary = |node: &&keyward_tests::Node| {
            let info = Client::connect(node.address()).and_then(|mut client| client.call(&["INFO", "replication"]));
            info.ok().and_then(|info| info.text()).is_some_and(|text| text.matches("in_sync=1").count() == count)
        };
        cluster.nodes().iter().find(is_primary).map(|_| ())
    });
}

fn is_primary(client: &mut Client) -> bool {
    client.ask(&["ROLE"]).items().and_then(|role| role[0].text()).as_deref() == Some("master")
}

#[test]
fn a_replica_that_is_told_to_takes_over_and_nothing_is_lost() {
    let cluster = cluster();
    for (number, how) in [&[][..], &["FORCE"], &["TAKEOVER"], &["force"]].into_iter().enumerate() {
        let primary = cluster.primary();
        let request: Vec<&str> = ["CLUSTER", "FAILOVER"].into_iter().chain(how.iter().copied()).collect();
        let refused = cluster.node(primary).client().ask(&request);
        assert!(refused.is_error("ERR You should send CLUSTER FAILOVER to a replica"), "{refused}");
        let mut replica = cluster.node(primary % 3 + 1).client();
        replica.ok(&["SET", "k", &number.to_string()]);
        replica.ok(&request);
        assert!(is_primary(&mut replica), "{request:?}: it is over when it is answered");
        assert_eq!(replica.text(&["GET", "k"]), number.to_string());
    }
    let mut replica = cluster.node(cluster.primary() % 3 + 1).client();
    for wrong in [&["CLUSTER", "FAILOVER", "NOW"][..], &["CLUSTER", "FAILOVER", "FORCE", "TAKEOVER"]] {
        let refused = replica.ask(wrong);
        assert!(refused.is_error("ERR syntax error"), "{refused}");
    }
}

#[test]
fn a_replica_is_forced_to_take_over_from_a_primary_that_died() {
    let mut cluster = cluster();
    let primary = cluster.primary();
    let mut replica = cluster.node(primary % 3 + 1).client();
    replica.ok(&["SET", "k", "v"]);
    cluster.kill(primary);
    // Whoever the others named first: it is this one in the end.
    wait_until("it may take over", || replica.ask(&["CLUSTER", "FAILOVER", "FORCE"]).is_ok().then_some(()));
    assert!(is_primary(&mut replica));
    assert_eq!(replica.text(&["GET", "k"]), "v");
}

#[test]
fn what_may_lose_writes_is_done_by_name_only_and_is_on_record() {
    let mut cluster = cluster();
    cluster.node(1).client().ok(&["SET", "k", "v"]);
    let primary = cluster.primary();
    let others: Vec<usize> = (1..=3).filter(|number| *number != primary).collect();
    (1..=3).for_each(|number| cluster.kill(number));
    others.iter().for_each(|number| cluster.spawn(*number));
    let mut replica = wait_until("the others are there", || {
        let mut client = Client::connect(cluster.node(others[0]).address()).ok()?;
        client.ask(&["PING"]).text().filter(|pong| pong == "PONG")?;
        // Without a majority nobody decides.
        let info = client.ask(&["CLUSTER", "FAILOVER"]);
        (!info.to_string().contains("leader")).then_some(client)
    });
    for how in [&["CLUSTER", "FAILOVER"][..], &["CLUSTER", "FAILOVER", "FORCE"]] {
        let refused = replica.ask(how);
        assert!(matches!(refused, Value::Error(_)), "{how:?} answered {refused}");
    }
    wait_until("it takes over", || replica.ask(&["CLUSTER", "FAILOVER", "TAKEOVER"]).is_ok().then_some(()));
    wait_until("it serves", || replica.ask(&["SET", "k", "anew"]).is_ok().then_some(()));
    let address = cluster.node(others[0]).admin_address().to_string();
    let status = run(&binary("keywardctl"), &["--addr", &address, "status"], "");
    assert!(status.stdout.contains("unclean"), "{}{}", status.stdout, status.stderr);
}

#[test]
fn who_is_about_to_come_in_sync_is_waited_for() {
    let cluster = cluster();
    let primary = cluster.primary();
    let replica = primary % 3 + 1;
    cluster.pause(replica);
    in_sync(&cluster, 1);
    let address = cluster.node(replica).address();
    let mut operator = cluster.node(primary).client();
    cluster.resume(replica);
    operator.ok(&["FAILOVER", "TO", &address.ip().to_string(), &address.port().to_string(), "TIMEOUT", "60000"]);
    assert_eq!(cluster.primary(), replica);
    let single = Cluster::start(1);
    let mut alone = single.node(1).client();
    let refused = alone.ask(&["FAILOVER"]);
    assert!(refused.is_error("ERR FAILOVER requires connected replicas."), "{refused}");
}

/// Hands the data over to that node.
fn hand_over_to(cluster: &Cluster, number: usize) {
    cluster.node(number).client().ok(&["CLUSTER", "FAILOVER"]);
    wait_until("it serves", || is_primary(&mut cluster.node(number).client()).then_some(()));
    in_sync(cluster, 2);
}

/// Its view was of the first reign. What it writes in the third was taken for the end of the first, which is confirmed for good:
/// the write was acknowledged while no replica had it.
#[test]
fn what_an_idle_client_writes_after_the_data_went_and_came_back_is_confirmed_by_those_who_have_it() {
    let cluster = cluster();
    let (primary, other) = (cluster.primary(), cluster.primary() % 3 + 1);
    let mut idle = cluster.node(primary).client();
    assert_eq!(idle.ask(&["INCR", "n"]), Value::Integer(1));
    hand_over_to(&cluster, other);
    hand_over_to(&cluster, primary);
    let others: Vec<usize> = (1..=3).filter(|number| *number != primary).collect();
    others.iter().for_each(|number| cluster.pause(*number));
    let answered = idle.call(&["INCR", "n"]);
    others.iter().for_each(|number| cluster.resume(*number));
    assert!(!matches!(answered, Ok(Value::Integer(_))), "nobody else can have it: {answered:?}");
}

/// Nothing of it had been run when the data moved, and yet it was told that its request may or may not have taken effect.
#[test]
fn a_client_that_was_idle_while_the_data_moved_goes_on_where_it_is_now() {
    let cluster = cluster();
    let (primary, other) = (cluster.primary(), cluster.primary() % 3 + 1);
    let mut idle = cluster.node(primary).client();
    assert_eq!(idle.ask(&["INCR", "n"]), Value::Integer(1));
    hand_over_to(&cluster, other);
    let mut elsewhere = cluster.node(other).client();
    assert_eq!(elsewhere.ask(&["INCR", "n"]), Value::Integer(2));
    assert_eq!(idle.ask(&["INCR", "n"]), Value::Integer(3));
    assert_eq!(idle.ask(&["PING"]), Value::Simple("PONG".to_owned()));
}

/// A script that waited for the end of a hand-over began where the data no longer was: its commands were refused one by one.
#[test]
fn scripts_that_wait_while_the_data_moves_are_run_where_it_is_then() {
    let cluster = cluster();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..3)
            .map(|writer| {
                let (address, stop) = (cluster.node(writer + 1).address(), &stop);
                scope.spawn(move || {
                    let mut client = Client::connect(address).expect("the node serves");
                    let mut count = 0;
                    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                        count += 1;
                        // Each is a new one, so that none is known to be quick.
                        let text = format!("return redis.pcall('INCR', KEYS[1]) -- {count}");
                        let answer = client.ask(&["EVAL", &text, "1", &format!("counter:{writer}")]);
                        assert_eq!(answer, Value::Integer(count), "writer {writer}");
                    }
                })
            })
            .collect();
        for _ in 0..8 {
            hand_over_to(&cluster, cluster.primary() % 3 + 1);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        writers.into_iter().for_each(|writer| writer.join().expect("every script was run once"));
    });
}
