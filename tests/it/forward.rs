//! One cache: whatever node a client talks to, it sees the same data, and hears clearly when the data is away.

use keyward_tests::{Cluster, Value, wait_until};

#[test]
fn what_is_written_through_one_node_is_read_through_every_other() {
    let cluster = Cluster::start(3);
    for writer in cluster.nodes() {
        let key = format!("from:{}", writer.number());
        writer.client().ok(&["SET", &key, "value"]);
        for reader in cluster.nodes() {
            assert_eq!(reader.client().text(&["GET", &key]), "value", "through node {}", reader.number());
        }
    }
    for node in cluster.nodes() {
        assert_eq!(node.client().ask(&["DBSIZE"]), Value::Integer(3));
    }
}

#[test]
fn databases_and_protocols_are_kept_through_every_node() {
    let cluster = Cluster::start(3);
    for node in cluster.nodes() {
        let mut client = node.client();
        client.ok(&["SELECT", "3"]);
        client.ok(&["SET", "only-in-3", "x"]);
        client.ask(&["HELLO", "3"]);
        client.ask(&["HSET", "h", "f", "v"]);
        let map = client.ask(&["HGETALL", "h"]);
        assert!(matches!(map, Value::Map(_)), "through node {}: {map}", node.number());
        assert_eq!(node.client().ask(&["GET", "only-in-3"]), Value::Nil);
    }
}

#[test]
fn a_pipeline_is_answered_in_order_through_every_node() {
    let cluster = Cluster::start(3);
    for node in cluster.nodes() {
        let mut client = node.client();
        let key = format!("counter:{}", node.number());
        for number in 0..1000 {
            client.send(&["INCR", &key]).expect("the node reads");
            if number % 10 == 0 {
                client.send(&["PING", &number.to_string()]).expect("the node reads");
            }
        }
        for number in 0..1000 {
            assert_eq!(client.read().expect("the node answers"), Value::Integer(number + 1));
            if number % 10 == 0 {
                assert_eq!(client.read().expect("the node answers"), Value::Bulk(number.to_string().into_bytes()));
            }
        }
    }
}

#[test]
fn large_values_and_binary_keys_pass_through_every_node() {
    let cluster = Cluster::start(3);
    let value: Vec<u8> = (0..2_000_000_u32).map(|i| (i % 251) as u8).collect();
    for node in cluster.nodes() {
        let mut client = node.client();
        let reply = client.ask(&[b"SET".as_slice(), b"bin\0\r\n\xff", &value]);
        assert!(reply.is_ok(), "{reply}");
        assert_eq!(client.ask(&[b"GET".as_slice(), b"bin\0\r\n\xff"]), Value::Bulk(value.clone()));
    }
}

#[test]
fn without_most_nodes_data_commands_fail_clearly_and_come_back_with_them() {
    let mut cluster = Cluster::start(3);
    let mut client = cluster.node(1).client();
    client.ok(&["SET", "k", "v"]);
    assert_eq!(client.ask(&["WAIT", "2", "10000"]), Value::Integer(2));
    let primary = cluster.primary();
    let lost: Vec<usize> = (1..=3).filter(|number| *number != primary).collect();
    for number in &lost {
        cluster.kill(*number);
    }
    // It serves on until its lease ends: only then is it certain that nobody else decides otherwise.
    wait_until("the last node says that it serves nobody", || {
        let reply = cluster.node(primary).client().ask(&["GET", "k"]);
        reply.is_error("CLUSTERDOWN").then_some(())
    });
    assert_eq!(cluster.node(primary).client().text(&["PING"]), "PONG");
    for number in &lost {
        cluster.spawn(*number);
    }
    for number in 1..=3 {
        wait_until("the data is served again", || {
            let reply = cluster.node(number).client().call(&["GET", "k"]).ok()?;
            (reply.text().as_deref() == Some("v")).then_some(())
        });
    }
}

/// Cluster clients repeat by themselves what gets `CLUSTERDOWN`, and the counter was raised twice.
#[test]
fn a_write_that_may_have_been_made_gets_an_error_that_no_client_repeats() {
    let mut cluster = Cluster::start(3);
    let primary = cluster.primary();
    let other = primary % 3 + 1;
    let (mut counting, mut waiting) = (cluster.node(other).client(), cluster.node(other).client());
    assert_eq!(counting.ask(&["INCR", "counter"]), Value::Integer(1));
    waiting.send(&["BLPOP", "queue", "0"]).unwrap();
    wait_until("it waits where the data is", || {
        let shown = cluster.node(primary).client().ask(&["INFO", "clients"]).text()?;
        shown.contains("blocked_clients:1").then_some(())
    });
    cluster.pause(primary);
    counting.send(&["INCR", "counter"]).unwrap();
    let answer = counting.read().unwrap();
    assert!(answer.is_error("UNKNOWN"), "{answer}");
    cluster.kill(primary);
    let answer = waiting.read().unwrap();
    assert!(answer.is_error("UNKNOWN"), "{answer}");
    let next = counting.ask(&["INCR", "counter"]);
    assert!(matches!(next, Value::Integer(2 | 3)), "{next}");
}
