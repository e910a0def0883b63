//! What broke elsewhere, item by item: which test of ours keeps it from breaking here.
//!
//! The items are those of the security checklist that was collected from the bugs of Redis, Valkey, Dragonfly, Garnet and
//! Kvrocks. Tests that need a running node and stand nowhere else follow the table.

use std::fs;
use std::path::Path;
use std::time::Duration;

use keyward_tests::{Client, Cluster, Value, show, wait_until};

/// What broke, and the tests that cover it.
const CHECKLIST: &[(&str, &[&str])] = &[
    (
        "GEORADIUS STORE twice, SORT STORE BY STORE, XREADGROUP STREAMS STREAMS",
        &["the_key_that_is_checked_is_the_key_that_is_used", "the_last_store_of_a_sort_wins"],
    ),
    (
        "SORT BY and GET, SORT_RO",
        &["the_key_that_is_checked_is_the_key_that_is_used", "sort_by_needs_a_set_with_the_command_and_every_key"],
    ),
    ("numkeys beyond the arguments", &["counts_of_keys_that_are_not_there_are_errors"]),
    ("reading and writing per key", &["reading_and_writing_are_granted_apart"]),
    ("EXEC rechecks keys", &["rules_that_change_between_queue_and_exec_count"]),
    ("blocked clients are checked again when they wake", &["who_lost_the_right_while_waiting_gets_nothing"]),
    ("MONITOR ends with the right to it", &["monitor_ends_with_the_right_to_it"]),
    ("a user made anew", &["a_connection_of_a_deleted_user_does_not_become_the_new_user_of_that_name"]),
    (
        "CLIENT TRACKING BCAST, KEYS, SCAN, PUBSUB, CLIENT LIST, SLOWLOG, INFO, MONITOR, CLUSTER …",
        &["no_rule_set_leaks_here", "nothing_one_user_does_is_seen_by_the_other"],
    ),
    (
        "keyspace channels across tenants",
        &["no_rule_set_leaks_here", "nobody_is_told_of_keys_that_do_not_exist_for_its_user"],
    ),
    ("the shared script cache", &["scripts_and_libraries_belong_to_their_user_and_survive_a_restart_that_way"]),
    ("the same error whatever is wrong with a login", &["a_failed_login_says_the_same_whatever_failed"]),
    (
        "no password in MONITOR, SLOWLOG, ACL LOG, errors, history",
        &["no_secret_gets_in", "an_error_repeats_no_password", "history_tells_who_did_what_and_never_a_password"],
    ),
    ("limits before a login", &["strangers_may_send_little", "answers_a_stranger_does_not_read_are_bounded"]),
    ("malformed selectors", &["a_selector_that_is_never_closed_is_an_error_and_no_crash"]),
    ("patterns with many stars", &["many_stars_cost_no_more_than_pattern_times_text"]),
    (
        "a script in another user's context",
        &["raw_writes_do_not_outlive_the_script", "a_function_kept_by_a_metatable_sees_no_other_script"],
    ),
    (
        "a confined user reaches no global state",
        &["no_rule_lifts_the_ceiling_over_a_user_without_every_key", "scopes_follow_the_specification"],
    ),
    (
        "nothing opens by failing",
        &["a_bad_acl_file_stops_the_start_and_names_the_line", "a_missing_acl_file_stops_the_start"],
    ),
    (
        "what replicas repeat is not checked against rules",
        &["what_a_confined_user_does_arrives_the_same_on_every_copy"],
    ),
    (
        "rules that name what is not there",
        &["a_name_this_process_does_not_know_grants_nothing_and_an_unknown_denial_takes_everything"],
    ),
];

#[test]
fn every_item_has_a_test_that_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut sources = String::new();
    for folder in ["acl/src", "node/src", "node/engine/src", "node/cluster/src", "node/script", "tests/it"] {
        read_all(&root.join(folder), &mut sources);
    }
    let missing: Vec<&str> = CHECKLIST
        .iter()
        .flat_map(|(_, tests)| tests.iter().copied())
        .filter(|test| !sources.contains(&format!("fn {test}()")))
        .collect();
    assert!(missing.is_empty(), "no such test: {missing:#?}");
}

fn read_all(folder: &Path, into: &mut String) {
    for entry in fs::read_dir(folder).expect("the folder of a crate can be read").flatten() {
        let path = entry.path();
        if path.is_dir() {
            read_all(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push_str(&fs::read_to_string(&path).unwrap_or_default());
        }
    }
}

/// A node, its administrator, and a user with these rules.
fn node_with(rules: &[&str]) -> (Cluster, Client, Client) {
    let cluster = Cluster::start(1);
    let mut admin = cluster.node(1).client();
    admin.ok(&[&["ACL", "SETUSER", "u", "on", ">pw"], rules].concat());
    let user = cluster.node(1).client_as("u", "pw");
    (cluster, admin, user)
}

// redis#15478, redis#15538, CVE-2023-41053.
#[test]
fn the_key_that_is_checked_is_the_key_that_is_used() {
    let rules = ["+@all", "~ok:*", "~STREAMS", "~BY", "~STORE"];
    let (_cluster, mut admin, mut user) = node_with(&rules);
    admin.ask(&["GEOADD", "ok:geo", "1", "1", "x"]);
    admin.ask(&["RPUSH", "BY", "1"]);
    admin.ask(&["XADD", "secret", "1-1", "f", "s3cr3t"]);
    admin.ok(&["XGROUP", "CREATE", "secret", "g", "0"]);
    admin.ok(&["SET", "weight:1", "7"]);
    for request in [
        &["GEORADIUS", "ok:geo", "1", "1", "9", "km", "STORE", "ok:to", "STORE", "forbidden"][..],
        &["GEORADIUSBYMEMBER", "ok:geo", "x", "9", "km", "STORE", "ok:to", "STOREDIST", "forbidden"],
        &["SORT", "BY", "STORE", "BY", "STORE", "forbidden"],
        &["SORT", "BY", "BY", "weight:*"],
        &["SORT_RO", "BY", "GET", "weight:*"],
        &["SORT_RO", "forbidden"],
        &["XREADGROUP", "NOACK", "GROUP", "g", "STREAMS", "STREAMS", "secret", ">"],
        &["XREADGROUP", "COUNT", "1", "GROUP", "g", "c", "STREAMS", "secret", ">"],
    ] {
        let reply = user.ask(request);
        assert!(matches!(reply, Value::Error(_)), "{request:?}: {}", show(&reply));
    }
    assert_eq!(admin.ask(&["EXISTS", "forbidden"]), Value::Integer(0));
}

// redis#14847.
#[test]
fn counts_of_keys_that_are_not_there_are_errors() {
    let (_cluster, _admin, mut user) = node_with(&["+@all", "~ok:*"]);
    for command in ["EVAL", "EVALSHA", "FCALL", "ZUNION", "ZINTER", "LMPOP", "ZMPOP", "SINTERCARD"] {
        for count in ["9", "-1", "18446744073709551615", "x"] {
            let request: Vec<&str> = match command {
                "EVAL" | "EVALSHA" | "FCALL" => vec![command, "return 1", count, "ok:1"],
                _ => vec![command, count, "ok:1", "LEFT"],
            };
            let reply = user.ask(&request);
            assert!(matches!(reply, Value::Error(_)), "{request:?}: {}", show(&reply));
        }
    }
    assert_eq!(user.text(&["PING"]), "PONG");
}

// redis#15673.
#[test]
fn rules_that_change_between_queue_and_exec_count() {
    let (_cluster, mut admin, mut user) = node_with(&["+@all", "~a", "~b"]);
    user.ok(&["MULTI"]);
    assert_eq!(user.text(&["SET", "a", "1"]), "QUEUED");
    assert_eq!(user.text(&["SET", "b", "1"]), "QUEUED");
    admin.ok(&["ACL", "SETUSER", "u", "resetkeys", "~b"]);
    let done = user.ask(&["EXEC"]);
    let items = done.items().expect("EXEC answers each").to_vec();
    assert!(items[0].is_error("NOPERM") && items[1].is_ok(), "{}", show(&done));
    assert_eq!(admin.ask(&["EXISTS", "a"]), Value::Integer(0));
}

#[test]
fn who_lost_the_right_while_waiting_gets_nothing() {
    let (_cluster, mut admin, mut user) = node_with(&["+@all", "~list"]);
    user.send(&["BLPOP", "list", "0"]).expect("the node reads");
    wait_until("the client waits", || admin.text(&["INFO", "clients"]).contains("blocked_clients:1").then_some(()));
    admin.ok(&["ACL", "SETUSER", "u", "resetkeys", "~other"]);
    admin.ask(&["RPUSH", "list", "s3cr3t"]);
    user.set_patience(Duration::from_secs(5));
    let reply = user.read();
    assert!(reply.is_err() || reply.as_ref().is_ok_and(|reply| reply.is_error("NOPERM")), "{reply:?}");
    assert_eq!(admin.ask(&["LLEN", "list"]), Value::Integer(1));
}

#[test]
fn monitor_ends_with_the_right_to_it() {
    let (_cluster, mut admin, mut user) = node_with(&["+@all", "~*"]);
    user.ok(&["MONITOR"]);
    admin.ok(&["ACL", "SETUSER", "u", "-monitor"]);
    wait_until("the connection ends", || user.is_closed().then_some(()));
}
