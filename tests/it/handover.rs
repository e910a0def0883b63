//! The hand-over: a client whose command needs something lasting goes on at the node that serves the data, and notices
//! nothing but its success.
//!
//! `UNWATCH` brings it about everywhere here: it needs no argument, and what it answers does not matter.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use keyward_tests::{Client, Cluster, Node, Value, poll, resp, wait_until};

/// A node that does not serve the data, and the one that does.
fn edge_and_owner(cluster: &Cluster) -> (&Node, &Node) {
    let owner = cluster.primary();
    let edge = (1..=cluster.size()).find(|number| *number != owner).expect("there are other nodes");
    (cluster.node(edge), cluster.node(owner))
}

fn hand_over(client: &mut Client) {
    client.ask(&["UNWATCH"]);
}

/// The line of `CLIENT LIST` about the client with this id.
fn listed(address: SocketAddr, id: i64) -> Option<String> {
    let list = Client::connect(address).expect("the node accepts").text(&["CLIENT", "LIST"]);
    list.lines().find(|line| line.starts_with(&format!("id={id} "))).map(ToOwned::to_owned)
}

fn id(client: &mut Client) -> i64 {
    match client.ask(&["CLIENT", "ID"]) {
        Value::Integer(id) => id,
        other => panic!("CLIENT ID answered {other}"),
    }
}

fn word(line: &str, name: &str) -> String {
    let word = line.split(' ').find_map(|word| word.strip_prefix(&format!("{name}=")));
    word.unwrap_or_else(|| panic!("no {name} in {line}")).to_owned()
}

#[test]
fn a_client_keeps_everything_it_has_set_when_it_is_handed_over() {
    let cluster = Cluster::start(3);
    let (edge, owner) = edge_and_owner(&cluster);
    owner.client().ok(&["ACL", "SETUSER", "alice", "on", ">secret", "~*", "&*", "+@all"]);
    let mut client = edge.client_as("alice", "secret");
    client.ask(&["HELLO", "3"]);
    client.ok(&["CLIENT", "SETNAME", "walker"]);
    client.ok(&["CLIENT", "SETINFO", "LIB-NAME", "shoes"]);
    client.ok(&["CLIENT", "SETINFO", "LIB-VER", "1.2"]);
    client.ok(&["CLIENT", "NO-TOUCH", "on"]);
    client.ok(&["SELECT", "3"]);
    client.ok(&["SET", "only-in-3", "x"]);
    let id_before = id(&mut client);
    let before = listed(edge.address(), id_before).expect("the node lists its client");
    assert_eq!(listed(owner.address(), id_before), None, "ids are unique in the cluster");

    hand_over(&mut client);

    assert_eq!(id(&mut client), id_before);
    let after = listed(owner.address(), id_before).expect("the owner lists its guest");
    for name in ["addr", "laddr", "name", "db", "user", "resp", "lib-name", "lib-ver", "flags"] {
        assert_eq!(word(&after, name), word(&before, name), "{name}: {before} became {after}");
    }
    assert!(listed(edge.address(), id_before).is_some(), "the node that accepted it lists it still");
    assert_eq!(client.text(&["GET", "only-in-3"]), "x");
    assert!(matches!(client.ask(&["HGETALL", "nothing"]), Value::Map(_)), "it still speaks RESP3");
    assert_eq!(client.text(&["ACL", "WHOAMI"]), "alice");
}

#[test]
fn what_was_sent_around_the_hand_over_is_answered_in_order() {
    let cluster = Cluster::start(3);
    for node in cluster.nodes() {
        let mut client = node.client();
        let key = format!("counter:{}", node.number());
        let mut bytes = Vec::new();
        for number in 0..3000 {
            bytes.extend(resp::encode(&["INCR", &key]));
            if number == 100 {
                bytes.extend(resp::encode(&["UNWATCH"]));
            }
        }
        client.send_raw(&bytes).expect("the node reads");
        for number in 0..3000 {
            assert_eq!(
                client.read().expect("the node answers"),
                Value::Integer(number + 1),
                "at node {}",
                node.number()
            );
            if number == 100 {
                client.read().expect("the node answers");
            }
        }
    }
}

#[test]
fn lines_typed_around_the_hand_over_are_understood_once() {
    let cluster = Cluster::start(3);
    let (edge, _) = edge_and_owner(&cluster);
    let mut client = edge.client();
    client
        .send_raw(b"SET a \"1 \\x41\"\r\nUNWATCH\r\nSET b \"2 \\x42\"\r\nGET a\r\nGET b\r\n")
        .expect("the node reads");
    assert!(client.read().expect("the node answers").is_ok());
    client.read().expect("the node answers");
    assert!(client.read().expect("the node answers").is_ok());
    assert_eq!(client.read().expect("the node answers"), Value::Bulk(b"1 A".to_vec()));
    assert_eq!(client.read().expect("the node answers"), Value::Bulk(b"2 B".to_vec()));
}

#[test]
fn large_requests_and_replies_pass_through_the_pipe() {
    let cluster = Cluster::start(3);
    let (edge, _) = edge_and_owner(&cluster);
    let value: Vec<u8> = (0..5_000_000_u32).map(|i| (i % 251) as u8).collect();
    let mut client = edge.client();
    let mut bytes = resp::encode(&["UNWATCH"]);
    bytes.extend(resp::encode(&[b"SET".as_slice(), b"large", &value]));
    client.send_raw(&bytes).expect("the node reads");
    client.read().expect("the node answers");
    assert!(client.read().expect("the node answers").is_ok());
    assert_eq!(client.ask(&["GET", "large"]), Value::Bulk(value));
}

#[test]
fn killing_a_handed_over_client_at_either_node_ends_it_at_both() {
    let cluster = Cluster::start(3);
    let (edge, owner) = edge_and_owner(&cluster);
    for killer in [edge, owner] {
        let mut client = edge.client();
        let id = id(&mut client);
        hand_over(&mut client);
        let killed = killer.client().ask(&["CLIENT", "KILL", "ID", &id.to_string()]);
        assert_eq!(killed, Value::Integer(1), "at node {}", killer.number());
        wait_until("the client is closed", || client.is_closed().then_some(()));
        for node in [edge, owner] {
            wait_until("nobody lists it", || listed(node.address(), id).is_none().then_some(()));
        }
    }
}

#[test]
fn a_client_that_leaves_is_forgotten_at_both_ends() {
    let cluster = Cluster::start(3);
    let (edge, owner) = edge_and_owner(&cluster);
    let mut client = edge.client();
    let id = id(&mut client);
    hand_over(&mut client);
    assert!(listed(owner.address(), id).is_some());
    drop(client);
    for node in [edge, owner] {
        wait_until("nobody lists it", || listed(node.address(), id).is_none().then_some(()));
    }
}

#[test]
fn a_withdrawn_user_is_closed_behind_the_pipe_too() {
    let cluster = Cluster::start(3);
    let (edge, owner) = edge_and_owner(&cluster);
    let mut admin = owner.client();
    admin.ok(&["ACL", "SETUSER", "alice", "on", ">secret", "~*", "&*", "+@all"]);
    let mut client = edge.client_as("alice", "secret");
    let id = id(&mut client);
    hand_over(&mut client);
    admin.ok(&["ACL", "SETUSER", "alice", "-get"]);
    assert!(client.ask(&["GET", "k"]).is_error("NOPERM"), "rules change behind the pipe as anywhere");
    assert_eq!(admin.ask(&["ACL", "DELUSER", "alice"]), Value::Integer(1));
    wait_until("the client is closed", || client.is_closed().then_some(()));
    for node in [edge, owner] {
        wait_until("nobody lists it", || listed(node.address(), id).is_none().then_some(()));
    }
}

#[test]
fn whoever_may_not_run_the_command_is_not_handed_over() {
    let cluster = Cluster::start(3);
    let (edge, owner) = edge_and_owner(&cluster);
    owner.client().ok(&["ACL", "SETUSER", "bob", "on", ">secret", "~*", "+@all", "-unwatch"]);
    let mut client = edge.client_as("bob", "secret");
    let id = id(&mut client);
    assert!(client.ask(&["UNWATCH"]).is_error("NOPERM"));
    assert_eq!(listed(owner.address(), id), None);
    assert!(listed(edge.address(), id).is_some(), "a refusal closes nothing");
}

#[test]
fn the_end_of_the_owner_is_the_end_of_its_guests_and_newcomers_go_to_the_next() {
    let mut cluster = Cluster::start(3);
    let (edge, owner) = edge_and_owner(&cluster);
    let (edge, owner) = (edge.number(), owner.number());
    let mut guest = cluster.node(edge).client();
    hand_over(&mut guest);
    cluster.kill(owner);
    wait_until("the guest is closed", || guest.is_closed().then_some(()));
    cluster.restart(owner);
    let next = cluster.primary();
    assert_ne!(next, owner, "who restarts is not primary by memory of the past");
    let other = (1..=3).find(|number| *number != next).expect("there are three nodes");
    let mut again = cluster.node(other).client();
    let id = id(&mut again);
    hand_over(&mut again);
    assert!(listed(cluster.node(next).address(), id).is_some());
}

#[test]
fn an_owner_that_stops_sends_its_guests_on() {
    let mut cluster = Cluster::start(3);
    let (edge, owner) = edge_and_owner(&cluster);
    let (edge, owner) = (edge.number(), owner.number());
    let mut guest = cluster.node(edge).client();
    hand_over(&mut guest);
    let id_before = id(&mut guest);
    assert!(cluster.stop(owner).success());
    assert_eq!(id(&mut guest), id_before, "it goes on at the next primary, or where it is connected");
}

/// A client that sends and never reads is not read from: neither node grows with what it sends.
#[test]
fn a_client_that_does_not_read_makes_neither_node_grow() {
    let cluster = Cluster::start(3);
    let (edge, owner) = edge_and_owner(&cluster);
    owner.client().ok(&["SET", "large", &"x".repeat(100_000)]);
    let mut client = edge.client();
    hand_over(&mut client);
    let before = [resident_bytes(edge.pid()), resident_bytes(owner.pid())];
    // As replies: 10 GB. The sockets hold a few megabytes of them, and then the requests.
    let requests = resp::encode(&["GET", "large"]).repeat(1000);
    client.set_send_patience(Duration::from_millis(500));
    let stuck = (0..1000).any(|_| client.send_raw(&requests).is_err());
    let after = [resident_bytes(edge.pid()), resident_bytes(owner.pid())];
    for (before, after) in before.iter().zip(after) {
        assert!(after.saturating_sub(*before) < 32 << 20, "a node grew from {before} to {after} bytes");
    }
    assert!(stuck, "everything was taken in although nobody reads the answers");
    drop(client);
    assert!(poll(Duration::from_secs(30), || (guests(owner) == 0).then_some(())).is_some(), "the guest stayed");
}

/// How many clients the owner lists whose local end is not its own port.
fn guests(owner: &Node) -> usize {
    let own = format!("laddr={} ", owner.address());
    owner.client().text(&["CLIENT", "LIST"]).lines().filter(|line| !line.contains(&own)).count()
}

fn resident_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the node runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("the kernel tells the resident size");
    let kilobytes = line.split_whitespace().nth(1).and_then(|number| number.parse::<u64>().ok());
    kilobytes.expect("the resident size is a number") * 1024
}

#[test]
fn transactions_messages_and_waiting_work_through_every_node() {
    let cluster = Cluster::start(3);
    for (number, node) in cluster.nodes().iter().enumerate() {
        let other = &cluster.nodes()[(number + 1) % 3];
        let mut client = node.client();
        client.ok(&["WATCH", "watched"]);
        client.ok(&["MULTI"]);
        assert_eq!(client.text(&["INCR", "n"]), "QUEUED");
        assert_eq!(client.ask(&["EXEC"]), Value::Array(vec![Value::Integer(number as i64 + 1)]));
        client.ok(&["WATCH", "watched"]);
        other.client().ask(&["INCR", "watched"]);
        client.ok(&["MULTI"]);
        assert_eq!(client.ask(&["EXEC"]), Value::Nil, "what another node's client writes ends the transaction");

        let mut listener = node.client();
        listener.ask(&["SUBSCRIBE", "news"]);
        assert_eq!(other.client().ask(&["PUBLISH", "news", "hello"]), Value::Integer(1));
        assert_eq!(listener.read().expect("the message comes").texts(), ["message", "news", "hello"]);

        let mut waiting = node.client();
        let id = id(&mut waiting);
        waiting.send(&["BLPOP", "queue", "0"]).expect("the node reads");
        let unblock = || other.client().ask(&["CLIENT", "UNBLOCK", &id.to_string(), "ERROR"]);
        wait_until("it waits", || (unblock() == Value::Integer(1)).then_some(()));
        assert!(waiting.read().expect("it is told").is_error("UNBLOCKED"));
        waiting.send(&["BLPOP", "queue", "0"]).expect("the node reads");
        other.client().ask(&["RPUSH", "queue", "element"]);
        assert_eq!(waiting.read().expect("the element comes").texts(), ["queue", "element"]);
    }
}
