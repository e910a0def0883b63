//! Commands that go over their keys as often as the request likes: how long one may go on, and what ends it before.

use keyward_tests::{Client, Cluster, Value, wait_until};

/// Times that a key is named: with its members, more work than a test waits for.
const TIMES: usize = 10_000;

/// One node, a tenant `gw` with a user of its name and a big key, and an administrator.
fn scene() -> (Cluster, Client, Client) {
    scene_of(1)
}

/// The same on several nodes.
fn scene_of(nodes: usize) -> (Cluster, Client, Client) {
    let cluster = Cluster::of(nodes).flag("threads", "1").start();
    let mut admin = cluster.node(1).client();
    admin.ok(&["ACL", "SETUSER", "gw", "on", ">secret", "~*", "&*", "+@all"]);
    admin.ok(&["TENANT", "CREATE", "gw", "PREFIX", "gw:", "USER", "gw"]);
    let mut request = vec!["ZADD".to_owned(), "gw:z".to_owned()];
    request.extend((0..20_000).flat_map(|at| [at.to_string(), format!("member-{at}")]));
    assert_eq!(admin.ask(&request), Value::Integer(20_000));
    let gw = cluster.node(1).client_as("gw", "secret");
    (cluster, admin, gw)
}

fn unions(command: &[&str]) -> Vec<String> {
    let words = command.iter().map(|word| (*word).to_owned());
    words.chain([TIMES.to_string()]).chain(std::iter::repeat_n("gw:z".to_owned(), TIMES)).collect()
}

fn text(value: &Value) -> String {
    match value {
        Value::Error(text) => text.clone(),
        other => panic!("no error: {other}"),
    }
}

/// Sends it and returns once it runs.
fn begin(cluster: &Cluster, client: &mut Client, request: &[String]) {
    let mut monitor = cluster.node(cluster.primary()).client();
    monitor.ok(&["MONITOR"]);
    client.send(request).expect("it is sent");
    loop {
        let line = monitor.read().expect("what is run").text().unwrap_or_default();
        if line.contains(&format!("\"{}\"", request[0])) {
            return;
        }
    }
}

// A tenant's `ZUNION 1000 s s s …` took a core for 46 seconds, its other users with it.
#[test]
fn a_long_command_ends_with_an_error_and_has_changed_nothing() {
    let (cluster, mut admin, mut gw) = scene();
    assert!(text(&admin.ask(&["TENANT", "SET", "gw", "command-ms", "soon"])).contains("a whole number"));
    admin.ok(&["TENANT", "SET", "gw", "command-ms", "100"]);
    admin.ok(&["SET", "gw:d", "as it was"]);
    let ended = "ERR the command was ended at the command-ms of tenant gw, 100, and changed nothing";
    for command in [&["ZUNION"][..], &["ZUNIONSTORE", "gw:d"], &["ZINTERSTORE", "gw:d"], &["ZINTERCARD"]] {
        assert_eq!(text(&gw.ask(&unions(command))), ended);
        assert_eq!(gw.text(&["GET", "gw:d"]), "as it was");
    }
    // Within a transaction it counts for all of it, and what else is in it is done.
    gw.ok(&["MULTI"]);
    for request in [unions(&["ZUNION"]), unions(&["ZUNION"]), vec!["SET".into(), "gw:e".into(), "1".into()]] {
        assert!(gw.ask(&request).text().is_some());
    }
    let answers = gw.ask(&["EXEC"]).items().expect("an answer for each").to_vec();
    assert_eq!((text(&answers[0]), text(&answers[1])), (ended.to_owned(), ended.to_owned()));
    assert_eq!(gw.text(&["GET", "gw:e"]), "1");
    // With time enough it is done: on a busy machine one pass over its keys may take a tenth of a second, and it is asked as well.
    admin.ok(&["TENANT", "SET", "gw", "command-ms", "60000"]);
    assert_eq!(gw.ask(&["ZUNIONSTORE", "gw:d", "2", "gw:z", "gw:e2"]), Value::Integer(20_000));
    drop(cluster);
}

#[test]
fn a_script_ends_while_it_waits_for_a_long_command() {
    let (_cluster, mut admin, mut gw) = scene();
    admin.ok(&["TENANT", "SET", "gw", "script-ms", "200"]);
    let script = format!(
        "local a = {{}} for i = 1, {TIMES} do a[i] = KEYS[1] end \
         return redis.call('ZUNION', #a, unpack(a, 1, 7000))"
    );
    let script = script.replace("#a", "7000");
    let ended = text(&gw.ask(&["EVAL", &script, "1", "gw:z"]));
    assert!(ended.contains("script-ms of tenant gw, 200") || ended.contains("the script of this command was ended"));
    admin.ok(&["TENANT", "SET", "gw", "script-ms", "600000", "command-ms", "100"]);
    let ended = text(&gw.ask(&["EVAL", &script, "1", "gw:z"]));
    assert!(ended.contains("command-ms of tenant gw, 100"), "{ended}");
}

#[test]
fn a_long_command_ends_when_its_client_is_killed_or_leaves() {
    let (cluster, mut admin, mut gw) = scene();
    admin.ok(&["TENANT", "SET", "gw", "command-ms", "0"]);
    let mut other = cluster.node(1).client_as("gw", "secret");
    let Value::Integer(id) = gw.ask(&["CLIENT", "ID"]) else { panic!("a number") };
    begin(&cluster, &mut gw, &unions(&["ZUNIONSTORE", "gw:d"]));
    assert_eq!(admin.ask(&["CLIENT", "KILL", "ID", &id.to_string()]), Value::Integer(1));
    wait_until("it is closed", || gw.is_closed().then_some(()));
    assert_eq!(other.ask(&["EXISTS", "gw:z", "gw:d"]), Value::Integer(1));

    let mut gw = cluster.node(1).client_as("gw", "secret");
    begin(&cluster, &mut gw, &unions(&["ZUNIONSTORE", "gw:d"]));
    gw.send(&["PING"]).expect("it is sent");
    drop(gw);
    assert_eq!(other.ask(&["EXISTS", "gw:z", "gw:d"]), Value::Integer(1));
}

// The node that runs it did not hear that the client of another node left, or was killed: it went on till its command-ms.
#[test]
fn a_forwarded_long_command_ends_when_its_client_is_killed_or_leaves() {
    let (cluster, mut admin, _) = scene_of(3);
    admin.ok(&["TENANT", "SET", "gw", "command-ms", "0"]);
    let through = cluster.nodes().iter().find(|node| node.number() != cluster.primary()).expect("one of three");
    let mut other = cluster.node(cluster.primary()).client_as("gw", "secret");
    let mut gw = through.client_as("gw", "secret");
    let Value::Integer(id) = gw.ask(&["CLIENT", "ID"]) else { panic!("a number") };
    begin(&cluster, &mut gw, &unions(&["ZUNIONSTORE", "gw:d"]));
    assert_eq!(through.client().ask(&["CLIENT", "KILL", "ID", &id.to_string()]), Value::Integer(1));
    assert_eq!(other.ask(&["EXISTS", "gw:z", "gw:d"]), Value::Integer(1));

    let mut gw = through.client_as("gw", "secret");
    begin(&cluster, &mut gw, &unions(&["ZUNIONSTORE", "gw:d"]));
    drop(gw);
    assert_eq!(other.ask(&["EXISTS", "gw:z", "gw:d"]), Value::Integer(1));
}

#[test]
fn a_client_that_sends_no_more_gets_the_answer_of_a_long_command() {
    let (cluster, _, mut gw) = scene();
    gw.send(&["ZUNIONSTORE", "gw:d", "2", "gw:z", "gw:z"]).expect("it is sent");
    gw.send(&["ZCARD", "gw:d"]).expect("it is sent");
    gw.sends_no_more().expect("that half is closed");
    assert_eq!(gw.read().expect("the first answer"), Value::Integer(20_000));
    assert_eq!(gw.read().expect("the second"), Value::Integer(20_000));
    wait_until("it is closed", || gw.is_closed().then_some(()));
    drop(cluster);
}

#[test]
fn a_user_with_every_key_has_such_a_limit_if_a_rule_says_so() {
    let (cluster, mut admin, _) = scene();
    admin.ok(&["ACL", "SETUSER", "boss", "on", ">secret", "~*", "&*", "+@all", "limit:command-ms=100"]);
    let mut boss = cluster.node(1).client_as("boss", "secret");
    let ended = text(&boss.ask(&unions(&["ZUNION"])));
    assert!(ended.contains("command-ms of user boss, 100"), "{ended}");
    assert!(admin.text(&["ACL", "WHOAMI"]) == "default", "others have their turn");
}
