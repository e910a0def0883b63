//! Clients that wait: who is served, in which order, and that nobody holds up the others.

use std::time::Duration;

use keyward_tests::{Client, Cluster, Value, poll};

/// How long a client may take to be seen waiting.
const PATIENCE: Duration = Duration::from_secs(10);

fn element(client: &mut Client) -> Option<String> {
    client.read().ok().and_then(|served| served.items().and_then(|items| items.get(1).and_then(Value::text)))
}

/// Two clients waited for one key: serving the second took the lock the first still held, and the node stopped for good.
#[test]
fn clients_that_wait_for_one_key_are_served_in_turn() {
    let cluster = Cluster::start(1);
    let node = cluster.node(1);
    let mut other = node.client();
    let mut waiting: Vec<Client> = Vec::new();
    for place in 0..3 {
        let mut client = node.client();
        client.send(&["BLPOP", "queue", "0"]).expect("the node reads");
        waiting.push(client);
        let waits = || (other.text(&["CLIENT", "LIST"]).matches("cmd=blpop").count() > place).then_some(());
        poll(PATIENCE, waits).expect("the client waits");
    }
    other.ask(&["RPUSH", "queue", "first", "second"]);
    assert_eq!(element(&mut waiting[0]).as_deref(), Some("first"));
    assert_eq!(element(&mut waiting[1]).as_deref(), Some("second"));
    other.ask(&["RPUSH", "queue", "third"]);
    assert_eq!(element(&mut waiting[2]).as_deref(), Some("third"));
    assert_eq!(other.ask(&["EXISTS", "queue"]), Value::Integer(0));
}
