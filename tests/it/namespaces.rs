//! Names of a namespace mean something in it alone: channels, keyspace events and caches too, through every node.

use keyward_tests::{Client, Cluster, Value};

fn namespaces(cluster: &Cluster, names: &[&str]) -> Client {
    let mut admin = cluster.node(1).client();
    for name in names {
        admin.ok(&["ACL", "SETUSER", name, "on", ">secret", "~*", "&*", "+@all"]);
        admin.ok(&["TENANT", "CREATE", name, "NAMESPACE", "USER", name]);
    }
    admin
}

/// What the client hears next, as texts; after a message of its own, so that it need not wait for silence.
fn heard(client: &mut Client, said: impl FnOnce()) -> Vec<Vec<String>> {
    said();
    let mut messages = Vec::new();
    loop {
        let message = client.read().expect("a message").texts();
        let last = message.last().is_some_and(|text| text == "that is all");
        if last {
            return messages;
        }
        messages.push(message);
    }
}

fn number(value: &Value) -> i64 {
    match value {
        Value::Integer(number) => *number,
        other => panic!("no number: {other:?}"),
    }
}

#[test]
fn a_channel_of_one_namespace_is_no_channel_of_another() {
    let cluster = Cluster::start(3);
    let mut admin = namespaces(&cluster, &["one", "two"]);
    let mut listener = cluster.node(2).client_as("one", "secret");
    listener.ask(&["SUBSCRIBE", "news"]);
    listener.ask(&["PSUBSCRIBE", "*"]);
    let mut other = cluster.node(3).client_as("two", "secret");
    other.ask(&["SUBSCRIBE", "news"]);
    let mut two = cluster.node(1).client_as("two", "secret");
    let mut one = cluster.node(3).client_as("one", "secret");
    let messages = heard(&mut listener, || {
        assert_eq!(number(&admin.ask(&["PUBLISH", "news", "of everybody"])), 0);
        assert_eq!(number(&two.ask(&["PUBLISH", "news", "of two"])), 1);
        assert_eq!(number(&one.ask(&["PUBLISH", "news", "of one"])), 2);
        one.ask(&["PUBLISH", "end", "that is all"]);
    });
    assert_eq!(
        messages,
        [
            vec!["message".to_owned(), "news".to_owned(), "of one".to_owned()],
            vec!["pmessage".to_owned(), "*".to_owned(), "news".to_owned(), "of one".to_owned()],
        ]
    );
    assert_eq!(one.ask(&["PUBSUB", "CHANNELS"]).texts(), ["news"]);
    assert_eq!(number(&one.ask(&["PUBSUB", "NUMPAT"])), 1);
    assert_eq!(number(&two.ask(&["PUBSUB", "NUMPAT"])), 0);
    assert!(admin.ask(&["PUBSUB", "CHANNELS"]).texts().is_empty());
}

#[test]
fn a_namespace_has_keyspace_events_of_its_own_and_asks_for_them_itself() {
    let cluster = Cluster::start(3);
    let mut admin = namespaces(&cluster, &["one", "two"]);
    let mut one = cluster.node(2).client_as("one", "secret");
    one.ok(&["CONFIG", "SET", "notify-keyspace-events", "KEA"]);
    assert_eq!(one.ask(&["CONFIG", "GET", "notify-keyspace-events"]).texts()[1], "AKE");
    assert_eq!(admin.ask(&["CONFIG", "GET", "notify-keyspace-events"]).texts()[1], "", "it is the tenant's alone");
    let mut listener = cluster.node(3).client_as("one", "secret");
    listener.ask(&["PSUBSCRIBE", "__key*", "end"]);
    listener.read().expect("the second confirmation");
    let mut deaf = cluster.node(1).client_as("two", "secret");
    deaf.ask(&["PSUBSCRIBE", "*"]);
    let mut two = cluster.node(1).client_as("two", "secret");
    let messages = heard(&mut listener, || {
        two.ok(&["SET", "k", "v"]);
        admin.ok(&["SET", "k", "v"]);
        one.ok(&["SET", "k", "v", "PX", "1"]);
        while one.ask(&["GET", "k"]).text().is_some() {}
        one.ask(&["PUBLISH", "end", "that is all"]);
    });
    let events: Vec<(&str, &str)> = messages.iter().map(|message| (message[2].as_str(), message[3].as_str())).collect();
    for event in [("__keyspace@0__:k", "set"), ("__keyevent@0__:set", "k"), ("__keyevent@0__:expired", "k")] {
        assert_eq!(events.iter().filter(|known| **known == event).count(), 1, "{event:?} in {events:?}");
    }
    assert_eq!(heard(&mut deaf, || _ = two.ask(&["PUBLISH", "x", "that is all"])), Vec::<Vec<String>>::new());
}

#[test]
fn a_cache_of_a_namespace_is_told_of_its_own_keys() {
    let cluster = Cluster::start(1);
    namespaces(&cluster, &["one", "two"]);
    let mut two = cluster.node(1).client_as("two", "secret");
    let mut one = cluster.node(1).client_as("one", "secret");
    let (mut reader, mut broadcast) =
        (cluster.node(1).client_as("one", "secret"), cluster.node(1).client_as("one", "secret"));
    for client in [&mut reader, &mut broadcast] {
        client.ask(&["HELLO", "3"]);
    }
    reader.ok(&["CLIENT", "TRACKING", "on"]);
    broadcast.ok(&["CLIENT", "TRACKING", "on", "BCAST"]);
    one.ok(&["SET", "k", "v"]);
    reader.ask(&["GET", "k"]);
    two.ok(&["SET", "k", "v"]);
    two.ok(&["SET", "other", "v"]);
    two.ok(&["FLUSHALL"]);
    one.ok(&["SET", "k", "w"]);
    let told = reader.read().expect("an invalidation");
    assert_eq!(told.items().map(|items| items[1].texts()), Some(vec!["k".to_owned()]));
    for _ in 0..2 {
        let told = broadcast.read().expect("an invalidation");
        assert_eq!(told.items().map(|items| items[1].texts()), Some(vec!["k".to_owned()]), "and nothing of another's");
    }
}

#[test]
fn who_logs_in_to_another_namespace_hears_the_old_one_no_more() {
    let cluster = Cluster::start(1);
    namespaces(&cluster, &["one", "two"]);
    let mut client = cluster.node(1).client_as("one", "secret");
    client.ask(&["HELLO", "3"]);
    client.ask(&["SUBSCRIBE", "news"]);
    client.ok(&["AUTH", "two", "secret"]);
    let mut one = cluster.node(1).client_as("one", "secret");
    assert_eq!(number(&one.ask(&["PUBLISH", "news", "hi"])), 0);
}
