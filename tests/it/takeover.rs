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
