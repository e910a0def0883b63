//! Operators: `keywardctl` against the admin port, and the http port.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

use keyward_tests::{Client, Cluster, Finished, Node, Value, binary, http_get, run, wait_until};

#[test]
fn keywardctl_lists_sets_shows_and_deletes_users() {
    let cluster = Cluster::start(3);
    let set = ctl(cluster.node(2), &["user", "set", "alice", "on", ">secret", "~cache:*", "+@read"]);
    assert!(set.success, "{set:?}");
    for node in cluster.nodes() {
        let listed = ctl(node, &["user", "list"]);
        assert!(listed.success && listed.stdout.contains("alice"), "{listed:?}");
        node.client_as("alice", "secret");
    }
    let shown = ctl(cluster.node(3), &["user", "get", "alice"]);
    assert!(shown.success && shown.stdout.contains("~cache:*"), "{shown:?}");
    let json = ctl(cluster.node(3), &["--output", "json", "user", "list"]);
    assert!(json.success && json.stdout.trim_start().starts_with(['{', '[']), "{json:?}");
    let deleted = ctl(cluster.node(1), &["user", "delete", "alice"]);
    assert!(deleted.success, "{deleted:?}");
    assert!(Client::login(cluster.node(2).address(), "alice", "secret").is_err());
}

#[test]
fn whoever_asks_a_node_without_contact_to_the_others_is_served_by_the_next() {
    let mut cluster = Cluster::of(3).start();
    let other = Cluster::of(1).start();
    cluster.kill(2);
    cluster.kill(3);
    let cut_off = cluster.node(1).admin_address().to_string();
    wait_until("its lease is over", || {
        let listed = run(&binary("keywardctl"), &["--addr", &cut_off, "user", "list"], "");
        (listed.code == Some(4) && listed.stderr.contains("not in contact with the control plane")).then_some(())
    });
    let next = other.node(1).admin_address().to_string();
    let listed = run(&binary("keywardctl"), &["--addr", &cut_off, "--addr", &next, "user", "list"], "");
    assert!(listed.success, "{listed:?}");
}

#[test]
fn exit_codes_say_what_became_of_it_and_help_names_them() {
    let cluster = Cluster::start(1);
    let node = cluster.node(1);
    assert!(ctl(node, &["user", "set", "one", "on"]).success);
    let partly = ctl(node, &["user", "delete", "one", "nosuch"]);
    assert_eq!((partly.code, partly.stdout.as_str()), (Some(1), "1 deleted, 1 not found\n"));
    assert_eq!(ctl(node, &["user", "delete", "nosuch"]).code, Some(1));
    assert_eq!(ctl(node, &["history", "--limit", "0"]).code, Some(2));
    assert_eq!(ctl(node, &["--user", "nosuch", "status"]).code, Some(3));
    assert_eq!(run(&binary("keywardctl"), &["--addr", "127.0.0.1:1", "--timeout", "1", "status"], "").code, Some(4));
    let help = ctl(node, &["help"]).stdout;
    assert!(help.contains("Exit codes:") && help.contains("not permitted"), "{help}");
}

/// What a client of gRPC says first.
const HELLO_OF_HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// They said that they speak HTTP/2, and nothing more: operators waited until the keep-alive had ended them.
#[test]
fn strangers_that_sit_on_the_admin_port_shut_nobody_out() {
    let cluster = Cluster::start(1);
    let node = cluster.node(1);
    let strangers: Vec<TcpStream> = (0..600)
        .map(|_| {
            let mut stranger = TcpStream::connect(node.admin_address()).expect("the port is open");
            // One that had to go already cannot be written to.
            let _ = stranger.write_all(HELLO_OF_HTTP2);
            stranger
        })
        .collect();
    let status = ctl(node, &["--timeout", "5", "status"]);
    assert!(status.success, "{status:?}");
    drop(strangers);
}

/// They held every place of the peer port until the keep-alive had ended them, and no node could reach this one before.
#[test]
fn strangers_that_sit_on_the_peer_port_shut_no_node_out() {
    let mut cluster = Cluster::of(2).flag("enable-debug-command", "yes").start();
    let (primary, other) = (cluster.primary(), 3 - cluster.primary());
    cluster.kill(other);
    let mut strangers: Vec<TcpStream> = (0..600)
        .map(|_| {
            let mut stranger = TcpStream::connect(cluster.node(primary).peer_address()).expect("the port is open");
            let _ = stranger.write_all(HELLO_OF_HTTP2);
            stranger.set_nonblocking(true).expect("a socket");
            stranger
        })
        .collect();
    cluster.spawn(other);
    cluster.wait_ready(other);
    cluster.copies_agree("strangers came");
    let sits = |stranger: &mut TcpStream| {
        // What the other side says of itself comes first.
        while stranger.read(&mut [0; 256]).is_ok_and(|count| count > 0) {}
        stranger.read(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    };
    let sitting = strangers.iter_mut().filter_map(|stranger| sits(stranger).then_some(())).count();
    assert!(sitting > 300, "{sitting} of 600 strangers are left: the node may have waited for them to go");
}

#[test]
fn keywardctl_refuses_a_bad_rule_and_changes_nothing() {
    let cluster = Cluster::start(1);
    let refused = ctl(cluster.node(1), &["user", "set", "alice", "on", "+nosuchcommand"]);
    assert!(!refused.success, "{refused:?}");
    assert!(refused.stderr.contains("nosuchcommand"), "{refused:?}");
    assert_eq!(cluster.node(1).client().ask(&["ACL", "USERS"]).texts(), ["default"]);
}

#[test]
fn the_admin_port_knows_who_calls() {
    let policy = "user default on >admin ~* &* +@all\nuser app on >secret ~app:* +@read\n";
    let cluster = Cluster::of(1).acl_text(policy).start();
    let node = cluster.node(1);
    let anonymous = ctl(node, &["user", "list"]);
    assert!(!anonymous.success, "an anonymous call got through: {anonymous:?}");
    let password = cluster.folder().join("password");
    std::fs::write(&password, "admin\n").expect("a file can be written");
    let password = password.to_string_lossy().into_owned();
    let allowed = ctl(node, &["--user", "default", "--password-file", &password, "user", "list"]);
    assert!(allowed.success && allowed.stdout.contains("app"), "{allowed:?}");
    std::fs::write(&password, "secret\n").expect("a file can be written");
    let app = ctl(node, &["--user", "app", "--password-file", &password, "user", "set", "app", "+@all"]);
    assert!(!app.success, "a user without +acl changed users: {app:?}");
}

#[test]
fn keywardctl_shows_the_cluster() {
    let cluster = Cluster::start(3);
    let status = ctl(cluster.node(2), &["status"]);
    assert!(status.success, "{status:?}");
    for node in 1..=3 {
        assert!(status.stdout.contains(&format!("node-{node}")), "{}", status.stdout);
    }
}

#[test]
fn the_http_port_tells_life_readiness_and_metrics() {
    let mut cluster = Cluster::start(3);
    let get = |cluster: &Cluster, number: usize, path: &str| http_get(cluster.node(number).http_address(), path);
    assert_eq!(get(&cluster, 1, "/livez").map(|(status, _)| status), Some(200));
    let (status, metrics) = get(&cluster, 1, "/metrics").expect("the port answers");
    assert_eq!(status, 200);
    assert!(metrics.contains("# TYPE "), "{metrics}");
    assert_eq!(get(&cluster, 1, "/nothing").map(|(status, _)| status), Some(404));
    cluster.kill(2);
    cluster.kill(3);
    wait_until("a node without a quorum is alive but not ready", || {
        let ready = get(&cluster, 1, "/readyz")?.0;
        let alive = get(&cluster, 1, "/livez")?.0;
        (ready != 200 && alive == 200).then_some(())
    });
    wait_until("it says so at every door", || {
        let status = ctl(cluster.node(1), &["status"]);
        let told = status.stdout.lines().any(|line| line.starts_with("ready") && line.contains("control plane"));
        let info = cluster.node(1).client().text(&["CLUSTER", "INFO"]);
        (told && info.contains("cluster_state:fail")).then_some(())
    });
}

#[test]
fn refusals_name_commands_of_keywardctl_that_there_are() {
    let cluster = Cluster::start(1);
    let mut client = cluster.node(1).client();
    for refused in
        [&["CLUSTER", "ADDSLOTS", "1"][..], &["CLUSTER", "SETSLOT", "1", "STABLE"], &["CLUSTER", "FORGET", "x"]]
    {
        let Value::Error(text) = client.ask(refused) else { panic!("{refused:?} is not refused") };
        let mut named = text.split("keywardctl ").skip(1).peekable();
        assert!(named.peek().is_some(), "{text}");
        for rest in named {
            // Words of the command come first; then the sentence goes on.
            let first = rest.split([' ', ',', ';']).next().expect("a command follows");
            let help = run(&binary("keywardctl"), &[first, "--help"], "");
            assert!(help.success, "there is no keywardctl {first}: {text}");
        }
    }
}

fn ctl(node: &Node, arguments: &[&str]) -> Finished {
    let address = node.admin_address().to_string();
    let mut all = vec!["--addr", &address];
    all.extend(arguments);
    run(&binary("keywardctl"), &all, "")
}
