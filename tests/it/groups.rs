//! Several shard groups: each node serves some of the slots and copies the others, and a plain client notices nothing.

use keyward_tests::{Client, Cluster, Dice, Node, Value, binary, run, wait_until};
use std::collections::BTreeSet;
use std::time::Duration;

const GROUPS: usize = 3;

fn cluster() -> Cluster {
    let cluster = Cluster::of(3).flag("groups", "3").flag("enable-debug-command", "yes").start();
    wait_until("every node serves a group", || (primaries(&cluster).len() == GROUPS).then_some(()));
    cluster
}

/// The ports of the nodes that serve something, as all nodes that answer say; none while they do not agree.
fn primaries(cluster: &Cluster) -> BTreeSet<i64> {
    let ports = |node: &Node| -> Option<BTreeSet<i64>> {
        let slots = Client::connect(node.address()).ok()?.call(&["CLUSTER", "SLOTS"]).ok()?;
        let rows = slots.items()?.iter().map(|row| row.items()?.get(2)?.items()?.get(1).cloned());
        Some(rows.filter_map(|port| if let Some(Value::Integer(port)) = port { Some(port) } else { None }).collect())
    };
    let said: Vec<BTreeSet<i64>> = cluster.nodes().iter().filter_map(ports).collect();
    let first = said.first().cloned().unwrap_or_default();
    if said.iter().all(|ports| *ports == first) { first } else { BTreeSet::new() }
}

/// A key of each group: CRC16 says which.
fn keys(client: &mut Client) -> [String; GROUPS] {
    [0, 1, 2].map(|group| {
        let fits = |name: &String| {
            let Value::Integer(slot) = client.ask(&["CLUSTER", "KEYSLOT", name]) else { panic!("no slot") };
            slot * 3 / 16384 == group
        };
        (0..).map(|number| format!("key{number}")).find(fits).expect("there are keys of every slot")
    })
}

#[test]
fn any_node_answers_commands_on_keys_of_any_group() {
    let cluster = cluster();
    for node in cluster.nodes() {
        let mut client = node.client();
        client.ok(&["FLUSHALL"]);
        let names: Vec<String> = (0..300).map(|number| format!("key:{number}")).collect();
        // One pipeline: the answers come in the order of the requests.
        for name in &names {
            client.send(&["SET", name, &format!("value of {name}")]).unwrap();
            client.send(&["STRLEN", name]).unwrap();
        }
        for name in &names {
            assert!(client.read().unwrap().is_ok(), "{name}");
            assert_eq!(client.read().unwrap(), Value::Integer(name.len() as i64 + 9));
        }
        assert_eq!(client.ask(&["DBSIZE"]), Value::Integer(300));
        let mget: Vec<&str> = std::iter::once("MGET").chain(names.iter().map(String::as_str)).collect();
        let values = client.ask(&mget).texts();
        assert!(values.iter().zip(&names).all(|(value, name)| *value == format!("value of {name}")), "{values:?}");
        assert_eq!(client.ask(&["MGET", "nothing", "key:1", "key:2"]).items().map(<[_]>::len), Some(3));
        assert_eq!(client.ask(&["KEYS", "*"]).items().map(<[_]>::len), Some(300));
        assert!(client.text(&["RANDOMKEY"]).starts_with("key:"));
        for scan in ["SCAN", "CLUSTERSCAN"] {
            let (mut cursor, mut seen) = ("0".to_owned(), BTreeSet::new());
            loop {
                let reply = client.ask(&[scan, &cursor, "COUNT", "50"]);
                let [next, found] = reply.items().expect("a cursor and keys") else { panic!("{reply}") };
                seen.extend(found.texts());
                cursor = next.text().expect("a cursor");
                if cursor == "0" {
                    break;
                }
            }
            assert_eq!(seen.len(), 300, "{scan}");
        }
        client.ok(&["MSET", "key:1", "a", "key:2", "b", "key:3", "c", "key:4", "d"]);
        assert_eq!(client.ask(&["DEL", "key:1", "key:2", "key:3", "key:4", "nothing"]), Value::Integer(4));
        assert_eq!(client.ask(&["EXISTS", "key:1", "key:5", "key:6", "key:7"]), Value::Integer(3));
        assert_eq!(client.ask(&["UNLINK", "key:5", "key:6", "key:7"]), Value::Integer(3));
        assert_eq!(client.ask(&["DBSIZE"]), Value::Integer(293));
        assert_eq!(client.ask(&["WAIT", "2", "5000"]), Value::Integer(2));
        let [a, b, _] = keys(&mut client);
        for request in [&["RENAME", &a, &b][..], &["MSETNX", &a, "1", &b, "2"], &["SINTER", &a, &b]] {
            assert!(client.ask(request).is_error("CROSSSLOT"), "{request:?}");
        }
        assert!(client.ask(&["EVAL", "return 1", "2", &a, &b]).is_error("CROSSSLOT"));
        let of_one_group = client.ask(&["RENAME", &format!("{{{a}}}x"), &format!("{{{a}}}y")]);
        assert!(of_one_group.is_error("ERR no such key"), "{of_one_group}");
    }
    cluster.copies_agree("writes through every node");
}

#[test]
fn transactions_scripts_and_waiting_work_within_one_group_through_any_node() {
    let cluster = cluster();
    let names = keys(&mut cluster.node(1).client());
    for node in cluster.nodes() {
        for (at, name) in names.iter().enumerate() {
            let other = &names[(at + 1) % GROUPS];
            let mut client = node.client();
            client.ask(&["DEL", name]);
            client.ok(&["WATCH", name]);
            client.ok(&["MULTI"]);
            assert_eq!(client.ask(&["INCR", name]).text().as_deref(), Some("QUEUED"));
            assert_eq!(client.ask(&["INCRBY", name, "10"]).text().as_deref(), Some("QUEUED"));
            assert_eq!(client.ask(&["EXEC"]), Value::Array(vec![Value::Integer(1), Value::Integer(11)]));
            // Watched, and changed by another client.
            client.ok(&["WATCH", name]);
            cluster.node(1).client().ok(&["SET", name, "5"]);
            client.ok(&["MULTI"]);
            client.ask(&["INCR", name]);
            assert_eq!(client.ask(&["EXEC"]), Value::Nil);
            // Of two groups.
            client.ok(&["MULTI"]);
            client.ask(&["SET", name, "1"]);
            assert!(client.ask(&["SET", other, "1"]).is_error("CROSSSLOT"));
            assert!(client.ask(&["EXEC"]).is_error("EXECABORT"));
            client.ok(&["MULTI"]);
            client.ask(&["SET", name, "7"]);
            assert!(client.ask(&["DISCARD"]).is_ok());
            assert_eq!(client.text(&["GET", name]), "5");
            // The same connection goes to another group.
            client.ok(&["MULTI"]);
            client.ask(&["SET", other, "x"]);
            client.ask(&["GET", other]);
            assert_eq!(client.ask(&["EXEC"]).items().map(<[_]>::len), Some(2));
            assert_eq!(client.text(&["GET", name]), "5");
            let script = "redis.call('SET', KEYS[1], ARGV[1]); return redis.call('GET', KEYS[1])";
            for key in [name, other, name] {
                assert_eq!(client.text(&["EVAL", script, "1", key, "scripted"]), "scripted");
            }
            let reads_other = client.ask(&["EVAL", "return redis.call('GET', ARGV[1])", "1", name, other]);
            assert!(
                reads_other.is_error("CROSSSLOT") || reads_other.to_string().contains("CROSSSLOT"),
                "{reads_other}"
            );
            let list = format!("{{{name}}}list");
            client.send(&["BLPOP", &list, "10"]).unwrap();
            std::thread::sleep(Duration::from_millis(100));
            cluster.node(2).client().ask(&["RPUSH", &list, "element"]);
            assert_eq!(client.read().unwrap().texts(), [list.clone(), "element".to_owned()]);
            assert_eq!(client.text(&["GET", other]), "scripted");
        }
    }
    let sha = cluster.node(2).client().text(&["SCRIPT", "LOAD", "return KEYS[1]"]);
    let library = "#!lua name=lib\nredis.register_function('put', function(keys, args) return redis.call('SET', keys[1], args[1]) end)";
    assert_eq!(cluster.node(3).client().text(&["FUNCTION", "LOAD", library]), "lib");
    for name in &names {
        assert_eq!(cluster.node(1).client().text(&["EVALSHA", &sha, "1", name]), *name);
        assert!(cluster.node(1).client().ask(&["FCALL", "put", "1", name, "v"]).is_ok());
    }
    cluster.copies_agree("transactions and scripts");
}

#[test]
fn what_is_published_in_any_group_reaches_those_who_listen_anywhere() {
    let cluster = cluster();
    let names = keys(&mut cluster.node(1).client());
    for listening in cluster.nodes() {
        let mut listener = listening.client();
        listener.send(&["SUBSCRIBE", "news"]).unwrap();
        assert_eq!(listener.read().unwrap().texts()[..2], ["subscribe", "news"]);
        for node in cluster.nodes() {
            for name in &names {
                let mut client = node.client();
                client.ask(&["PUBLISH", "news", "plain"]);
                client.ok(&["MULTI"]);
                client.ask(&["SET", name, "x"]);
                client.ask(&["PUBLISH", "news", "in a transaction"]);
                client.ask(&["EXEC"]);
                let script = "return redis.call('PUBLISH', 'news', 'in a script')";
                client.ask(&["EVAL", script, "1", name]);
                let mut heard: Vec<String> = (0..3).map(|_| listener.read().unwrap().texts()[2].clone()).collect();
                heard.sort();
                assert_eq!(heard, ["in a script", "in a transaction", "plain"]);
            }
        }
    }
}

#[test]
fn cluster_clients_are_told_who_serves_what() {
    let cluster = Cluster::of(3).flag("groups", "3").flag("routing", "redirect").start();
    wait_until("every node serves a group", || (primaries(&cluster).len() == GROUPS).then_some(()));
    let names = keys(&mut cluster.node(1).client());
    for node in cluster.nodes() {
        let mut client = node.client();
        let moved: Vec<Value> = names.iter().map(|name| client.ask(&["SET", name, "x"])).collect();
        assert_eq!(moved.iter().filter(|reply| reply.is_ok()).count(), 1, "{moved:?}");
        for (reply, name) in moved.iter().zip(&names).filter(|(reply, _)| !reply.is_ok()) {
            let text = reply.to_string();
            let address = text.trim_matches('"').rsplit(' ').next().expect("an address").parse().expect("an address");
            assert!(Client::connect(address).unwrap().ask(&["GET", name]) != Value::Integer(0), "{text}");
        }
        let lines = client.text(&["CLUSTER", "NODES"]);
        assert_eq!(lines.matches("master").count(), 3, "{lines}");
        let info = client.text(&["CLUSTER", "INFO"]);
        assert!(info.contains("cluster_state:ok") && info.contains("cluster_size:3"), "{info}");
        assert_eq!(client.ask(&["CLUSTER", "SHARDS"]).items().map(<[_]>::len), Some(3));
    }
}

/// Every key that a walk finds at one node.
/// Whether a node is a primary, which everything it says of itself agrees on.
fn is_primary(node: &Node) -> bool {
    let mut client = node.client();
    let mut alice = node.client_as("alice", "secret");
    let nodes = client.text(&["CLUSTER", "NODES"]);
    let line = nodes.lines().find(|line| line.contains("myself")).expect("its own line").to_owned();
    let [id, flags] = [0, 2].map(|at| line.split(' ').nth(at).expect("a word").to_owned());
    let says = flags.ends_with("master");
    let shards = client.ask(&["CLUSTER", "SHARDS"]).to_string();
    let own = shards.split(&id).skip(1).map(|after| after.split("health").next().unwrap_or(after));
    assert!(own.clone().count() > 0 && own.clone().all(|own| own.contains("master") == says), "{shards}");
    for client in [&mut client, &mut alice] {
        let (info, role) = (client.text(&["INFO", "replication"]), client.ask(&["ROLE"]).to_string());
        let hello = client.ask(&["HELLO", "2"]).to_string();
        assert_eq!(info.contains("role:master\r\n"), says, "{line}: {info}");
        assert_eq!(role.contains("master"), says, "{line}: {role}");
        assert_eq!(hello.contains("master"), says, "{line}: {hello}");
    }
    says
}

/// It said that it was a replica unless it served the first group, though `CLUSTER NODES` called it a master and it took writes:
/// dashboards showed one primary of three, and clients that look for one by role left it.
#[test]
fn a_node_that_serves_any_group_says_so_everywhere_and_takes_over_from_nobody() {
    let cluster = cluster();
    cluster.node(1).client().ok(&["ACL", "SETUSER", "alice", "on", ">secret", "~a:*", "+@all"]);
    for node in cluster.nodes() {
        assert!(is_primary(node), "node {}", node.number());
        let mut client = node.client();
        wait_until("both others copy its group", || {
            client.text(&["INFO", "replication"]).contains("connected_slaves:2\r\n").then_some(())
        });
        let refused = client.ask(&["CLUSTER", "FAILOVER"]).to_string();
        let shown = client.text(&["INFO", "keyward"]);
        let id = shown.lines().find_map(|line| line.strip_prefix("node_id:")).expect("its number");
        let told = format!("keywardctl failover --group GROUP --to {id}");
        assert!(
            refused.contains("ERR You should send CLUSTER FAILOVER to a replica: ") && refused.contains(&told),
            "{refused}"
        );
    }
    let address = cluster.node(1).admin_address().to_string();
    wait_until("node 1 serves every group", || {
        let shown = cluster.node(1).client().text(&["INFO", "replication"]);
        let served = |group: &&str| {
            let line = shown.lines().find(|line| line.starts_with(&format!("shard_group{group}:")));
            line.is_some_and(|line| line.contains("role=master"))
        };
        let missing: Vec<&str> = ["0", "1", "2"].into_iter().filter(|group| !served(group)).collect();
        for group in &missing {
            run(&binary("keywardctl"), &["--addr", &address, "failover", "--group", group, "--to", "1"], "");
        }
        missing.is_empty().then_some(())
    });
    let expect = |primary: usize| {
        wait_until("all say who serves", || {
            let says = |node: &Node| node.client().text(&["CLUSTER", "NODES"]).matches("master").count() == 1;
            cluster.nodes().iter().all(says).then_some(())
        });
        cluster.nodes().iter().for_each(|node| assert_eq!(is_primary(node), node.number() == primary));
        let place = cluster.node(primary).address();
        for node in cluster.nodes().iter().filter(|node| node.number() != primary) {
            let role = node.client().ask(&["ROLE"]).to_string();
            assert!(role.contains("slave") && role.contains(&place.port().to_string()), "{role}");
        }
    };
    expect(1);
    // One that serves nothing is a replica, and takes over all that its primary serves.
    let mut replica = cluster.node(2).client();
    wait_until("it may take over", || replica.ask(&["CLUSTER", "FAILOVER"]).is_ok().then_some(()));
    expect(2);
}

fn walked(client: &mut Client) -> Vec<String> {
    let (mut cursor, mut found) = ("0".to_owned(), Vec::new());
    loop {
        let reply = client.ask(&["SCAN", &cursor, "COUNT", "20"]);
        let [next, keys] = reply.items().expect("a cursor and keys") else { panic!("{reply}") };
        found.extend(keys.texts());
        cursor = next.text().expect("a cursor");
        if cursor == "0" {
            return found;
        }
    }
}

fn listed(client: &mut Client) -> Vec<String> {
    client.ask(&["KEYS", "*"]).texts()
}

fn count(client: &mut Client) -> i64 {
    let Value::Integer(count) = client.ask(&["DBSIZE"]) else { panic!("no count") };
    count
}

#[test]
fn who_asks_every_primary_of_a_redirecting_cluster_counts_each_key_once() {
    let cluster = cluster();
    let mut admin = cluster.node(1).client();
    admin.ok(&["TENANT", "CREATE", "held", "NAMESPACE", "USER", "u"]);
    admin.ok(&["ACL", "SETUSER", "u", "on", ">secret", "~*", "+@all"]);
    admin.ok(&["TENANT", "SET", "held", "GROUP", "1"]);
    let (all, own) = (|number| format!("key:{number}"), |number| format!("own:{number}"));
    (0..200).for_each(|number| admin.ok(&["SET", &all(number), "v"]));
    let mut confined = cluster.node(1).client_as("u", "secret");
    (0..7).for_each(|number| confined.ok(&["SET", &own(number), "v"]));
    let mut clients: Vec<Client> = cluster.nodes().iter().map(Node::client).collect();
    let mut within: Vec<Client> = cluster.nodes().iter().map(|node| node.client_as("u", "secret")).collect();
    let every = counts_of(&mut clients);
    assert!(every.iter().all(|count| *count == every[0]), "{every:?}: forwarding nodes are one server");
    clients.iter_mut().for_each(|client| client.ok(&["CONFIG", "SET", "routing", "redirect"]));

    let counts = counts_of(&mut clients);
    assert_eq!(counts.iter().sum::<i64>(), every[0], "{counts:?}");
    assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
    assert_eq!(counts_of(&mut within).iter().sum::<i64>(), 7);
    for find in [walked, listed] {
        let mut found: Vec<String> = clients.iter_mut().flat_map(find).filter(|key| key.starts_with("key:")).collect();
        assert_eq!(found.len(), 200);
        found.sort();
        found.dedup();
        assert_eq!(found.len(), 200, "no key is shown twice");
        assert_eq!(within.iter_mut().flat_map(find).count(), 7);
    }
    let library = "#!lua name=l\nredis.register_function('f', function() return 1 end)";
    for request in [&["FUNCTION", "LOAD", library][..], &["FUNCTION", "DELETE", "l"]] {
        for client in &mut clients {
            let answer = client.ask(request);
            assert!(!matches!(answer, Value::Error(_)), "each primary has its own: {request:?} answered {answer}");
        }
    }
    clients[0].ok(&["FLUSHALL"]);
    assert_eq!(counts_of(&mut clients), [0, 0, 0], "what can be done twice concerns every group");
}

fn counts_of(clients: &mut [Client]) -> Vec<i64> {
    clients.iter_mut().map(count).collect()
}

#[test]
fn the_group_of_a_killed_node_goes_on_elsewhere_and_copies_are_equal() {
    let mut cluster = cluster();
    let mut admin = cluster.node(1).client();
    admin.ok(&["ACL", "SETUSER", "queue", "on", ">secret", "~*", "+@all", "ack=quorum"]);
    let mut dice = Dice::from_env("KEYWARD_GROUPS_SEED");
    let mut written = 0;
    for round in 0..3 {
        let killed = dice.below(3) + 1;
        let through = killed % 3 + 1;
        wait_until("every group has all copies", || in_sync_everywhere(&cluster).then_some(()));
        let mut client = cluster.node(through).client_as("queue", "secret");
        client.set_patience(Duration::from_secs(20));
        let mut confirmed = Vec::new();
        for number in 0..400 {
            if number == 200 {
                cluster.kill(killed);
            }
            let name = format!("round{round}:{number}");
            match client.call(&["SET", &name, &name]) {
                Ok(reply) if reply.is_ok() => confirmed.push(name),
                // What was on its way may or may not have been carried out, and the client must begin anew.
                Ok(_) => {}
                Err(_) => client = cluster.node(through).client_as("queue", "secret"),
            }
        }
        assert!(confirmed.len() > 390, "{} of 400 were confirmed", confirmed.len());
        for name in &confirmed {
            assert_eq!(client.text(&["GET", name]), *name, "confirmed before or after node {killed} was killed");
        }
        written += confirmed.len();
        cluster.restart(killed);
        cluster.copies_agree("the killed node is back");
    }
    let Value::Integer(count) = cluster.node(1).client().ask(&["DBSIZE"]) else { panic!("no count") };
    assert!(count as usize >= written);
}

/// Whether each node's copies are in sync: then the first group's primary counts both others, and so do those of the other ones.
fn in_sync_everywhere(cluster: &Cluster) -> bool {
    cluster.nodes().iter().all(|node| {
        let Ok(mut client) = Client::connect(node.address()) else { return false };
        client.call(&["WAIT", "2", "100"]).is_ok_and(|reply| reply == Value::Integer(2))
    })
}

#[test]
fn a_node_that_stops_hands_its_groups_over_and_nothing_is_lost() {
    let mut cluster = cluster();
    for stopped in 1..=3 {
        wait_until("every group has all copies", || in_sync_everywhere(&cluster).then_some(()));
        let through = stopped % 3 + 1;
        let address = cluster.node(through).address();
        let writer = std::thread::spawn(move || {
            let mut client = Client::connect(address).unwrap();
            client.set_patience(Duration::from_secs(20));
            let mut errors = Vec::new();
            for name in (0..3000).map(|number| format!("stop{stopped}:{number}")) {
                let reply = client.call(&["SET", &name, "x"]);
                if !reply.as_ref().is_ok_and(Value::is_ok) {
                    errors.push(format!("{reply:?}"));
                }
            }
            errors
        });
        std::thread::sleep(Duration::from_millis(200));
        cluster.stop(stopped);
        let errors = writer.join().unwrap();
        assert!(errors.is_empty(), "while node {stopped} stopped: {errors:?}");
        cluster.restart(stopped);
        cluster.copies_agree("a restart");
    }
    assert_eq!(cluster.node(1).client().ask(&["DBSIZE"]), Value::Integer(9000));
}

#[test]
fn a_namespace_on_one_group_has_every_command_through_any_node() {
    let cluster = cluster();
    let mut admin = cluster.node(1).client();
    admin.ok(&["TENANT", "CREATE", "gw", "NAMESPACE", "GROUP", "2", "USER", "gw-user"]);
    admin.ok(&["ACL", "SETUSER", "gw-user", "on", ">secret", "~*", "&*", "+@all"]);
    assert!(admin.ask(&["TENANT", "CREATE", "x", "NAMESPACE", "GROUP", "7"]).is_error("ERR there is no shard group 7"));
    let names = keys(&mut admin);
    for node in cluster.nodes() {
        let mut client = node.client_as("gw-user", "secret");
        client.ok(&["FLUSHALL"]);
        client.ok(&["MSET", &names[0], "a", &names[1], "b"]);
        client.ok(&["RENAME", &names[0], &names[2]]);
        assert_eq!(client.ask(&["MSETNX", &names[1], "x", "other", "y"]), Value::Integer(0));
        client.ok(&["MULTI"]);
        client.ask(&["GET", &names[1]]);
        client.ask(&["GET", &names[2]]);
        client.ask(&["DBSIZE"]);
        let answers = client.ask(&["EXEC"]);
        let bulk = |text: &str| Value::Bulk(text.as_bytes().to_vec());
        assert_eq!(answers, Value::Array(vec![bulk("b"), bulk("a"), Value::Integer(2)]));
        assert_eq!(client.ask(&["EVAL", "return redis.call('DBSIZE')", "0"]), Value::Integer(2));
        assert_eq!(client.ask(&["DBSIZE"]), Value::Integer(2));
    }
    assert_eq!(admin.ask(&["DBSIZE"]), Value::Integer(0), "users of everybody's keyspace do not see it");
    cluster.copies_agree("a namespace on one group");
}

#[test]
fn each_group_lets_its_tenants_own_keys_go() {
    const LIMIT: i64 = 2 << 20;
    let cluster = cluster();
    let mut admin = cluster.node(1).client();
    for name in ["burst", "queue"] {
        admin.ok(&["ACL", "SETUSER", name, "on", ">secret", "~*", "+@all"]);
        admin.ok(&["TENANT", "CREATE", name, "PREFIX", &format!("{name}:"), "USER", name]);
    }
    admin.ok(&["TENANT", "SET", "burst", "limit", &LIMIT.to_string(), "eviction", "allkeys-lru"]);
    let mut queue = cluster.node(2).client_as("queue", "secret");
    (0..500).for_each(|number| queue.ok(&["SET", &format!("queue:{number}"), "v"]));
    let mut burst = cluster.node(3).client_as("burst", "secret");
    let value = "x".repeat(1000);
    for number in 0..6000 {
        // A limit holds on each node, for all groups it has keys of: whichever group the key is of, there is room.
        let reply = burst.ask(&["SET", &format!("burst:{number}"), &value]);
        assert!(reply.is_ok(), "{number}: {reply}");
    }
    for node in cluster.nodes() {
        wait_until("the tenant is within its limit", || {
            let stats = node.client().ask(&["TENANT", "STATS", "burst"]);
            let items = stats.items()?.to_vec();
            let at = items.iter().position(|item| item.text().as_deref() == Some("memory"))?;
            matches!(items[at + 1], Value::Integer(used) if used <= LIMIT + (128 << 10)).then_some(())
        });
    }
    assert_eq!(queue.ask(&["DBSIZE"]), Value::Integer(500));
    let Value::Integer(left) = burst.ask(&["DBSIZE"]) else { panic!("no number") };
    assert!((1000..2100).contains(&left), "{left} keys of a kilobyte");
    wait_until("the copies agree", || cluster.difference_of_copies().is_none().then_some(()));
}

#[test]
fn a_node_that_stops_waits_for_the_answers_that_others_owe_its_clients() {
    let mut cluster = Cluster::of(3).flag("groups", "2").flag("ack", "quorum").start();
    let serving = wait_until("two nodes serve a group each", || {
        let ports = primaries(&cluster);
        (ports.len() == 2 && in_sync_everywhere(&cluster)).then_some(ports)
    });
    let serves = |node: &&Node| serving.contains(&i64::from(node.address().port()));
    let stopped = cluster.nodes().iter().find(|node| !serves(node)).expect("a node serves none").number();
    let names: Vec<String> = (0..8).map(|number| format!("key{number}")).collect();
    let mut clients: Vec<Client> = names.iter().map(|_| cluster.node(stopped).client()).collect();
    for (client, name) in clients.iter_mut().zip(&names) {
        client.ok(&["SET", name, "before"]);
    }
    // One that has not answered yet is waited for by who serves: about a second, until it is out of sync.
    let frozen = cluster.nodes().iter().find(serves).expect("a node serves").number();
    let waits = |name: &String| {
        let shown = cluster.node(stopped).client().ask(&["CLUSTER", "SLOTS"]);
        let Value::Integer(slot) = cluster.node(stopped).client().ask(&["CLUSTER", "KEYSLOT", name]) else {
            return false;
        };
        let of = shown.items().expect("rows").iter().find(|row| {
            let row = row.items().expect("a row");
            matches!((&row[0], &row[1]), (Value::Integer(first), Value::Integer(last)) if (*first..=*last).contains(&slot))
        });
        let port = of.and_then(|row| row.items()?[2].items()?.get(1).cloned());
        port != Some(Value::Integer(i64::from(cluster.node(frozen).address().port())))
    };
    let waiting: Vec<bool> = names.iter().map(waits).collect();
    assert!(waiting.contains(&true), "a key is served by the other one");
    cluster.pause(frozen);
    for ((client, name), _) in clients.iter_mut().zip(&names).zip(&waiting).filter(|(_, waits)| **waits) {
        client.send(&["SET", name, "after"]).unwrap();
    }
    cluster.stop(stopped);
    for ((client, name), _) in clients.iter_mut().zip(&names).zip(&waiting).filter(|(_, waits)| **waits) {
        let answer = client.read();
        assert!(answer.as_ref().is_ok_and(Value::is_ok), "{name}: {answer:?}");
    }
    cluster.resume(frozen);
}

/// Who copies calls whoever serves. A test once expected both directions at each node: with one group the node that serves it calls
/// nobody, and its copies do not call each other.
#[test]
fn links_go_from_copies_to_those_who_serve_and_both_ends_show_each() {
    let one = Cluster::start(3);
    let three = cluster();
    for (cluster, is_spread) in [(&one, false), (&three, true)] {
        let ids: Vec<String> = cluster.nodes().iter().map(|node| node.client().text(&["CLUSTER", "MYID"])).collect();
        let primary = cluster.primary() - 1;
        let links = |at: usize, direction: &str, peer: usize| {
            let rows = cluster.nodes()[at].client().ask(&["CLUSTER", "LINKS"]);
            let rows = rows.items().expect("links").iter().map(Value::texts);
            rows.filter(|row| row[1] == direction && row[3] == ids[peer]).count()
        };
        let pairs = || (0..3).flat_map(|at| (0..3).map(move |peer| (at, peer))).filter(|(at, peer)| at != peer);
        wait_until("both ends show the same links, and each copy is linked", || {
            let agree = |(at, peer): (usize, usize)| {
                let (to, from) = (links(at, "to", peer), links(peer, "from", at));
                to == from && (to > 0) == (is_spread || peer == primary)
            };
            pairs().all(agree).then_some(())
        });
    }
}

/// The part of one group was carried out, the part of the other was not: who repeats the whole does a part twice.
#[test]
fn a_write_that_one_group_made_and_another_did_not_gets_an_error_that_no_client_repeats() {
    let mut cluster = cluster();
    let serving = wait_until("each group is served", || cluster.primary_of(0).zip(cluster.primary_of(1)));
    let mut client = cluster.node(serving.0).client();
    let [here, there, _] = keys(&mut client);
    client.ok(&["MSET", &here, "before", &there, "before"]);
    client.ok(&["CONFIG", "SET", "failover-wait", "0"]);
    cluster.kill(serving.1);
    let answer = client.ask(&["MSET", &here, "after", &there, "after"]);
    assert!(answer.is_error("UNKNOWN"), "{answer}");
    assert_eq!(client.text(&["GET", &here]), "after");
}
