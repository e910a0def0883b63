//! Any node answers any command: by having the right one run it, or by telling where to go; and a copy answers those who
//! accept that.

use std::time::{Duration, Instant};

use keyward_tests::{Client, Cluster, Node, Value, poll, resp, wait_until};

/// A node that does not serve the data, and the one that does.
fn edge_and_owner(cluster: &Cluster) -> (&Node, &Node) {
    let owner = cluster.primary();
    let edge = (1..=cluster.size()).find(|number| *number != owner).expect("there are other nodes");
    (cluster.node(edge), cluster.node(owner))
}

fn rows(value: Value) -> Vec<Value> {
    match value {
        Value::Array(rows) => rows,
        other => panic!("not a list: {other}"),
    }
}

/// Waits until every node has a copy with every acknowledged write.
fn wait_for_copies(cluster: &Cluster) {
    wait_until("every node is in sync", || {
        let mut client = cluster.node(1).client();
        let slots = rows(client.ask(&["CLUSTER", "SLOTS"]));
        (rows(slots[0].clone()).len() == 2 + cluster.size()).then_some(())
    });
}

#[test]
fn a_redirecting_node_tells_where_the_keys_are_and_forwards_what_names_none() {
    let cluster = Cluster::of(3).flag("routing", "redirect").start();
    let (edge, owner) = edge_and_owner(&cluster);
    let mut client = edge.client();
    // CRC16 of "foo" is 12182 (the cluster specification's example).
    let moved = format!("MOVED 12182 {}", owner.address());
    for request in [&["GET", "foo"][..], &["SET", "foo", "x"], &["BLPOP", "foo", "0"], &["WATCH", "foo"]] {
        let reply = client.ask(request);
        assert!(reply.is_error(&moved), "{request:?} was answered {reply}");
    }
    assert!(client.ask(&["EVAL", "return 1", "1", "foo"]).is_error(&moved));
    owner.client().ok(&["SET", "foo", "bar"]);
    assert_eq!(client.ask(&["DBSIZE"]), Value::Integer(1), "what names no key concerns the whole cache");
    assert_eq!(client.ask(&["PUBLISH", "news", "x"]), Value::Integer(0));
    assert!(
        client.ask(&["GET", "foo", "more"]).is_error("ERR wrong number"),
        "a bad request is refused where it arrives"
    );
    client.ok(&["ASKING"]);

    client.ok(&["CONFIG", "SET", "routing", "proxy"]);
    assert_eq!(client.text(&["GET", "foo"]), "bar");
    client.ok(&["CONFIG", "SET", "routing", "redirect"]);
    assert!(client.ask(&["GET", "foo"]).is_error(&moved));
    assert!(client.text(&["INFO", "cluster"]).contains("cluster_enabled:1"));
}

#[test]
fn whoever_may_not_read_a_key_is_not_told_where_it_is() {
    let cluster = Cluster::of(3).flag("routing", "redirect").start();
    let (edge, _) = edge_and_owner(&cluster);
    edge.client().ok(&["ACL", "SETUSER", "alice", "on", ">secret", "~mine:*", "+@all"]);
    let mut client = edge.client_as("alice", "secret");
    assert!(client.ask(&["GET", "foo"]).is_error("NOPERM"));
    assert!(client.ask(&["GET", "mine:foo"]).is_error("MOVED"));
}

#[test]
fn a_connection_that_says_readonly_reads_the_copy_and_writes_where_it_belongs() {
    let cluster = Cluster::start(3);
    wait_for_copies(&cluster);
    let (edge, owner) = edge_and_owner(&cluster);
    let mut client = edge.client();
    client.ok(&["READONLY"]);
    client.ok(&["SET", "k", "v"]);
    wait_until("the copy has it", || (client.ask(&["GET", "k"]) == Value::Bulk(b"v".to_vec())).then_some(()));
    let forwarded = |client: &mut Client| {
        let stats = client.text(&["INFO", "stats"]);
        let line = stats.lines().find_map(|line| line.strip_prefix("total_forwarded_commands:"));
        line.and_then(|count| count.trim().parse::<u64>().ok()).unwrap_or_else(|| panic!("no count in {stats}"))
    };
    let before = forwarded(&mut client);
    assert_eq!(client.text(&["GET", "k"]), "v");
    assert_eq!(forwarded(&mut client), before, "the copy answered");
    owner.client().ok(&["SET", "short", "v", "PX", "1"]);
    wait_until("an expired key is gone from the copy too", || {
        (client.ask(&["GET", "short"]) == Value::Nil).then_some(())
    });
    client.ok(&["READWRITE"]);
    assert_eq!(client.text(&["GET", "k"]), "v");
    assert!(forwarded(&mut client) > before, "the owner answered");
}

#[test]
fn what_cluster_clients_are_told_is_the_same_and_true_on_every_node() {
    let cluster = Cluster::start(3);
    wait_for_copies(&cluster);
    let (_, owner) = edge_and_owner(&cluster);
    let mut slots: Vec<Value> = Vec::new();
    for node in cluster.nodes() {
        let mut client = node.client();
        wait_until("this node knows of every copy", || {
            let now = client.ask(&["CLUSTER", "SLOTS"]);
            (rows(rows(now)[0].clone()).len() == 5).then_some(())
        });
        slots.push(client.ask(&["CLUSTER", "SLOTS"]));
        let lines = client.text(&["CLUSTER", "NODES"]);
        let me = client.text(&["CLUSTER", "MYID"]);
        assert_eq!(lines.lines().count(), 3, "{lines}");
        for line in lines.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let serves = words[1].starts_with(&format!("{}@", owner.address()));
            let role = if serves { "master" } else { "slave" };
            let mine = if words[0] == me { "myself," } else { "" };
            assert_eq!(words[2], format!("{mine}{role}"), "{line}");
            assert_eq!(words[7], "connected", "{line}");
            assert_eq!(words.get(8).copied(), serves.then_some("0-16383"), "{line}");
        }
        let info = client.text(&["CLUSTER", "INFO"]);
        assert!(info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3"), "{info}");
        assert_eq!(client.ask(&["CLUSTER", "COUNT-FAILURE-REPORTS", &me]), Value::Integer(0));
    }
    assert_eq!(slots[0], slots[1]);
    assert_eq!(slots[0], slots[2]);
    let shard_ids: Vec<String> =
        cluster.nodes().iter().map(|node| node.client().text(&["CLUSTER", "MYSHARDID"])).collect();
    assert!(shard_ids.iter().all(|id| *id == shard_ids[0] && id.len() == 40));
    assert_eq!(rows(owner.client().ask(&["CLUSTER", "REPLICAS", &owner.client().text(&["CLUSTER", "MYID"])])).len(), 2);
}

#[test]
fn keys_of_a_slot_are_counted_and_listed_through_every_node() {
    let cluster = Cluster::start(3);
    let mut client = cluster.node(1).client();
    for number in 0..100 {
        client.ok(&["SET", &format!("{{tag}}:{number}"), "x"]);
        client.ok(&["SET", &format!("other:{number}"), "x"]);
    }
    for node in cluster.nodes() {
        let mut client = node.client();
        let Value::Integer(slot) = client.ask(&["CLUSTER", "KEYSLOT", "{tag}"]) else { panic!("no slot") };
        let slot = slot.to_string();
        assert_eq!(client.ask(&["CLUSTER", "COUNTKEYSINSLOT", &slot]), Value::Integer(100));
        let some = client.ask(&["CLUSTER", "GETKEYSINSLOT", &slot, "7"]).texts();
        assert_eq!(some.len(), 7);
        assert!(some.iter().all(|key| key.starts_with("{tag}:")), "{some:?}");
        assert_eq!(client.ask(&["CLUSTER", "GETKEYSINSLOT", &slot, "1000"]).texts().len(), 100);
    }
}

#[test]
fn a_walk_over_all_keys_through_any_node_finds_each() {
    let cluster = Cluster::start(3);
    let mut client = cluster.node(1).client();
    for number in 0..1000 {
        client.send(&["SET", &format!("key:{number}"), "x"]).expect("the node reads");
    }
    for _ in 0..1000 {
        assert!(client.read().expect("the node answers").is_ok());
    }
    // Each page through another node: the cursor means the same on all of them.
    let mut clients: Vec<Client> = cluster.nodes().iter().map(Node::client).collect();
    let (mut cursor, mut turn, mut found) = ("0".to_owned(), 0, std::collections::BTreeSet::new());
    loop {
        let page = rows(clients[turn % 3].ask(&["SCAN", &cursor, "COUNT", "50"]));
        cursor = page[0].text().expect("a cursor");
        found.extend(page[1].texts());
        turn += 1;
        if cursor == "0" {
            break;
        }
    }
    assert_eq!(found.len(), 1000);
    assert!(turn > 3, "the walk had pages");
}

#[test]
fn scripts_functions_and_watched_keys_work_through_every_node() {
    let cluster = Cluster::start(3);
    let mut first = cluster.node(1).client();
    let sha = first.text(&["SCRIPT", "LOAD", "return redis.call('INCR', KEYS[1])"]);
    first.ask(&["FUNCTION", "LOAD", "#!lua name=lib\nredis.register_function('twice', function(keys, args) return 2 * redis.call('INCR', keys[1]) end)"]);
    for (number, node) in cluster.nodes().iter().enumerate() {
        let mut client = node.client();
        assert_eq!(client.ask(&["EVALSHA", &sha, "1", "n"]), Value::Integer(number as i64 + 1));
        assert_eq!(client.ask(&["FCALL", "twice", "1", "m"]), Value::Integer(2 * (number as i64 + 1)));
        client.ok(&["WATCH", "n"]);
        client.ok(&["MULTI"]);
        client.ask(&["GET", "n"]);
        assert_eq!(rows(client.ask(&["EXEC"])).len(), 1);
    }
}

#[test]
fn one_clients_long_values_keep_nobody_else_on_the_link_waiting() {
    let cluster = Cluster::of(3).flag("threads", "1").start();
    let (edge, _) = edge_and_owner(&cluster);
    let value = vec![b'x'; 16 << 20];
    let address = edge.address();
    let sender = std::thread::spawn(move || {
        let mut client = Client::connect(address).expect("the node accepts");
        let request = resp::encode(&[b"SET".as_slice(), b"long", &value]);
        for _ in 0..8 {
            client.send_raw(&request).expect("the node reads");
            assert!(client.read().expect("the node answers").is_ok());
            assert!(matches!(client.ask(&["GET", "long"]), Value::Bulk(bytes) if bytes.len() == 16 << 20));
        }
    });
    let mut client = edge.client();
    let (mut asked, mut slow) = (0, 0);
    while !sender.is_finished() {
        let began = Instant::now();
        client.ask(&["GET", "short"]);
        asked += 1;
        slow += usize::from(began.elapsed() > Duration::from_millis(500));
    }
    sender.join().expect("the long values pass");
    assert!(slow * 4 <= asked, "{slow} of {asked} short commands waited for half a second");
}

#[test]
fn forwarded_commands_wait_while_clients_are_paused() {
    let cluster = Cluster::start(3);
    let (edge, owner) = edge_and_owner(&cluster);
    let mut client = edge.client();
    client.ok(&["SET", "k", "1"]);
    owner.client().ok(&["CLIENT", "PAUSE", "700", "WRITE"]);
    let began = Instant::now();
    assert_eq!(client.text(&["GET", "k"]), "1");
    assert_eq!(client.ask(&["INCR", "k"]), Value::Integer(2));
    assert!(began.elapsed() > Duration::from_millis(300), "it waited {:?}", began.elapsed());
}

#[test]
fn a_message_published_at_any_node_reaches_the_listeners_of_every_node() {
    let cluster = Cluster::start(3);
    let mut listeners: Vec<Client> = cluster.nodes().iter().map(Node::client).collect();
    for listener in &mut listeners {
        listener.ask(&["SUBSCRIBE", "news"]);
    }
    let mut patterns = cluster.node(2).client();
    patterns.ask(&["PSUBSCRIBE", "n*"]);
    let mut sharded = cluster.node(3).client();
    sharded.ask(&["SSUBSCRIBE", "news"]);
    for node in cluster.nodes() {
        let text = format!("from node {}", node.number());
        let mut client = node.client();
        assert_eq!(client.ask(&["PUBLISH", "news", &text]), Value::Integer(4));
        assert_eq!(client.ask(&["SPUBLISH", "news", &text]), Value::Integer(1));
        for listener in &mut listeners {
            assert_eq!(listener.read().expect("the message comes").texts(), ["message", "news", &text]);
        }
        assert_eq!(patterns.read().expect("the message comes").texts(), ["pmessage", "n*", "news", &text]);
        assert_eq!(sharded.read().expect("the message comes").texts(), ["smessage", "news", &text]);
        assert_eq!(rows(client.ask(&["PUBSUB", "NUMSUB", "news"]))[1], Value::Integer(3));
    }
    drop(listeners);
    let left = poll(Duration::from_secs(20), || {
        let count = rows(cluster.node(1).client().ask(&["PUBSUB", "NUMSUB", "news"]));
        (count[1] == Value::Integer(0)).then_some(())
    });
    assert!(left.is_some(), "listeners that left are still counted");
}

/// Who serves the data stops, as in a rolling update: nobody who is connected to another node notices.
#[test]
fn a_planned_move_takes_along_what_clients_of_other_nodes_have() {
    let mut cluster = Cluster::start(3);
    wait_for_copies(&cluster);
    let owner = cluster.primary();
    let edge = (1..=3).find(|number| *number != owner).expect("there are other nodes");
    let edge = cluster.node(edge).address();
    let connect = || Client::connect(edge).expect("the node accepts");

    let mut plain = connect();
    plain.ok(&["SET", "k", "v"]);
    let mut listener = connect();
    listener.ask(&["SUBSCRIBE", "news"]);
    let mut patterns = connect();
    patterns.ask(&["HELLO", "3"]);
    patterns.ask(&["PSUBSCRIBE", "n*"]);
    let mut waiting = connect();
    waiting.ask(&["UNWATCH"]);
    waiting.send(&["BLPOP", "queue", "0"]).expect("the node reads");
    let mut within = connect();
    within.ok(&["SELECT", "3"]);
    within.ok(&["MULTI"]);
    within.ask(&["SET", "done", "yes"]);
    let mut watching = connect();
    watching.ok(&["WATCH", "k"]);
    let mut renamed = connect();
    renamed.ask(&["UNWATCH"]);
    renamed.ok(&["CLIENT", "SETNAME", "behind-the-pipe"]);
    renamed.ok(&["SELECT", "5"]);
    wait_until("the client waits", || {
        let info = cluster.node(owner).client().text(&["INFO", "clients"]);
        info.contains("blocked_clients:1").then_some(())
    });

    assert!(cluster.stop(owner).success());

    assert_eq!(plain.text(&["GET", "k"]), "v");
    wait_until("everybody listens again", || {
        (connect().ask(&["PUBLISH", "news", "hello"]) == Value::Integer(2)).then_some(())
    });
    assert_eq!(listener.read().expect("the message comes").texts().last().map(String::as_str), Some("hello"));
    assert_eq!(patterns.read().expect("the message comes").texts(), ["pmessage", "n*", "news", "hello"]);
    connect().ask(&["RPUSH", "queue", "element"]);
    assert_eq!(waiting.read().expect("the element comes").texts(), ["queue", "element"]);
    assert_eq!(within.ask(&["EXEC"]).texts(), ["OK"]);
    assert_eq!(within.text(&["GET", "done"]), "yes");
    watching.ok(&["MULTI"]);
    assert_eq!(watching.ask(&["EXEC"]), Value::Nil, "nobody looked after the watched key meanwhile");
    assert_eq!(renamed.text(&["CLIENT", "GETNAME"]), "behind-the-pipe");
    renamed.ok(&["SET", "in-5", "x"]);
    assert_eq!(connect().ask(&["GET", "in-5"]), Value::Nil);
}

/// What is sent while the data moves is carried out once, and answered.
#[test]
fn commands_sent_during_a_planned_move_are_carried_out_once() {
    let mut cluster = Cluster::start(3);
    wait_for_copies(&cluster);
    let owner = cluster.primary();
    let edge = (1..=3).find(|number| *number != owner).expect("there are other nodes");
    let edge = cluster.node(edge).address();
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let stop = std::sync::Arc::clone(&stop);
            std::thread::spawn(move || {
                let key = format!("counter:{writer}");
                let mut client = Client::connect(edge).expect("the node accepts");
                let script = ["EVAL", "return redis.call('INCR', KEYS[1])", "1", key.as_str()];
                let plain = ["INCR", key.as_str()];
                let request: &[&str] = if writer % 2 == 0 { &plain } else { &script };
                let mut count = 0;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let reply = client.ask(request);
                    count += 1;
                    assert_eq!(reply, Value::Integer(count), "writer {writer}");
                }
                count
            })
        })
        .collect();
    let written = |at_least: u64| {
        wait_until("everybody writes on", || {
            let mut client = Client::connect(edge).expect("the node accepts");
            let count = |writer: u64| client.ask(&["GET", &format!("counter:{writer}")]).text()?.parse::<u64>().ok();
            let counts: Option<Vec<u64>> = (0..8).map(count).collect();
            let least = counts?.into_iter().min()?;
            (least >= at_least).then_some(least)
        })
    };
    let before = written(10);
    assert!(cluster.stop(owner).success());
    written(before + 10);
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    for (writer, thread) in writers.into_iter().enumerate() {
        let count = thread.join().expect("no command failed");
        let mut client = Client::connect(edge).expect("the node accepts");
        assert_eq!(client.text(&["GET", &format!("counter:{writer}")]), count.to_string());
    }
}

/// Who serves the data dies: what reads, and what was not sent yet, waits for the next primary.
#[test]
fn when_the_primary_dies_commands_wait_for_the_next_one() {
    let mut cluster = Cluster::of(3).flag("failover-wait", "60s").start();
    wait_for_copies(&cluster);
    let owner = cluster.primary();
    let others: Vec<_> =
        (1..=3).filter(|number| *number != owner).map(|number| cluster.node(number).address()).collect();
    let mut client = Client::connect(others[0]).expect("the node accepts");
    client.ok(&["SET", "k", "v"]);
    assert_eq!(client.ask(&["WAIT", "2", "10000"]), Value::Integer(2));
    let mut guest = Client::connect(others[0]).expect("the node accepts");
    guest.ask(&["SUBSCRIBE", "news"]);

    cluster.kill(owner);

    assert_eq!(client.text(&["GET", "k"]), "v", "a read waits");
    client.ok(&["SET", "k", "after"]);
    let mut late = Client::connect(others[1]).expect("the node accepts");
    assert_eq!(late.text(&["GET", "k"]), "after");
    wait_until("the guest is closed", || guest.is_closed().then_some(()));
    late.ask(&["SUBSCRIBE", "news"]);
    assert_eq!(client.ask(&["PUBLISH", "news", "hello"]), Value::Integer(1));
    assert_eq!(late.read().expect("the message comes").texts(), ["message", "news", "hello"]);
}

/// Clients that look for the primary by role write to no other node: with this, any will do.
#[test]
fn every_node_that_forwards_is_a_primary_to_whoever_asks_if_told_to_say_so() {
    let cluster = Cluster::of(3).flag("advertise-role", "primary").start();
    wait_for_copies(&cluster);
    let says_primary = |node: &Node| {
        let mut client = node.client();
        let role = rows(client.ask(&["ROLE"]));
        let shown = client.text(&["INFO", "replication"]);
        let by_role = role[0] == Value::Bulk(b"master".to_vec());
        assert_eq!(by_role, shown.contains("role:master\r\n"), "{role:?} {shown}");
        by_role
    };
    let confined_too = |node: &Node, primary: bool| {
        let mut alice = node.client_as("alice", "secret");
        let shown = alice.text(&["INFO", "replication"]);
        let hello = alice.ask(&["HELLO", "2"]).to_string();
        let role = alice.ask(&["ROLE"]).to_string();
        for (told, master, copy) in
            [(&shown, "role:master\r\n", "role:slave\r\n"), (&role, "master", "slave"), (&hello, "master", "replica")]
        {
            let (yes, no) = if primary { (master, copy) } else { (copy, master) };
            assert!(told.contains(yes) && !told.contains(no), "node {}: {told}", node.number());
        }
    };
    cluster.node(1).client().ok(&["ACL", "SETUSER", "alice", "on", ">secret", "~a:*", "+@all"]);
    // The truth is told where clients do not look for it.
    let serves = |node: &Node| {
        let shown = node.client().text(&["INFO", "replication", "keyward"]);
        let truly = shown.contains("shard_group0:slots=0-16383,role=master,");
        assert_eq!(truly, shown.contains("serves_data:1"), "{shown}");
        truly
    };
    for node in cluster.nodes() {
        assert!(says_primary(node), "node {}", node.number());
        confined_too(node, true);
        node.client().ok(&["SET", &format!("from:{}", node.number()), "x"]);
    }
    assert_eq!(cluster.nodes().iter().filter(|node| serves(node)).count(), 1);
    let nodes = cluster.node(1).client().text(&["CLUSTER", "NODES"]);
    assert_eq!(nodes.lines().filter(|line| line.contains("master")).count(), 1, "{nodes}");

    // A node that sends clients away says what it is.
    for node in cluster.nodes() {
        node.client().ok(&["CONFIG", "SET", "routing", "redirect"]);
    }
    assert_eq!(cluster.nodes().iter().filter(|node| says_primary(node)).count(), 1);
    for node in cluster.nodes() {
        node.client().ok(&["CONFIG", "SET", "routing", "proxy", "advertise-role", "actual"]);
    }
    assert_eq!(cluster.nodes().iter().filter(|node| says_primary(node)).count(), 1);
    cluster.nodes().iter().for_each(|node| confined_too(node, node.number() == cluster.primary()));
}

#[test]
fn settings_that_concern_the_data_are_in_force_everywhere_whichever_node_is_told() {
    let mut cluster = Cluster::start(3);
    wait_for_copies(&cluster);
    let shown = |cluster: &Cluster, name: &str| -> Vec<String> {
        let running = cluster.nodes().iter().filter(|node| node.is_running());
        running.map(|node| node.client().ask(&["CONFIG", "GET", name]).texts().pop().unwrap_or_default()).collect()
    };
    for node in cluster.nodes() {
        let letters = ["KEA", "K$", "Ex"][node.number() - 1];
        node.client().ok(&["CONFIG", "SET", "notify-keyspace-events", letters]);
        let told = shown(&cluster, "notify-keyspace-events");
        assert!(told.iter().all(|text| *text == told[0] && !text.is_empty()), "{told:?}");
    }
    let (edge, owner) = edge_and_owner(&cluster);
    let (edge, owner) = (edge.number(), owner.number());
    let mut client = cluster.node(edge).client();
    // An older name, and one that is not about the data.
    client.ok(&[
        "CONFIG",
        "SET",
        "hash-max-ziplist-entries",
        "7",
        "maxmemory-policy",
        "allkeys-lru",
        "timeout",
        "1234",
    ]);
    assert_eq!(shown(&cluster, "hash-max-listpack-entries"), ["7", "7", "7"]);
    assert_eq!(shown(&cluster, "maxmemory-policy"), ["allkeys-lru"; 3]);
    assert_eq!(shown(&cluster, "timeout").iter().filter(|text| *text == "1234").count(), 1);
    (0..8).for_each(|number| drop(client.ask(&["HSET", "h", &number.to_string(), "v"])));
    assert_eq!(client.text(&["OBJECT", "ENCODING", "h"]), "hashtable");
    assert!(client.ask(&["CONFIG", "SET", "maxmemory-policy", "nonsense"]).is_error("ERR CONFIG SET failed"));
    // A node that is gone keeps nobody from setting.
    cluster.kill(owner);
    client.ok(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lfu"]);
    assert_eq!(shown(&cluster, "maxmemory-policy"), ["allkeys-lfu"; 2]);
}
