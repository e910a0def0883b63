//! What broke elsewhere, item by item: which test of ours keeps it from breaking here.
//!
//! The items are those of the security checklist that was collected from the bugs of Redis, Valkey, Dragonfly, Garnet and
//! Kvrocks. Tests that need a running node and stand nowhere else follow the table.

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

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
    ("MSETEX's count of keys", &["the_keys_of_msetex_are_counted_as_it_counts_them"]),
    ("numkeys beyond the arguments", &["counts_of_keys_that_are_not_there_are_errors"]),
    ("a dry run asks as a request does", &["a_dry_run_answers_as_the_request_would"]),
    (
        "reading and writing per key",
        &["reading_and_writing_are_granted_apart", "every_key_of_a_transfer_needs_its_own_right"],
    ),
    ("EXEC rechecks keys", &["rules_that_change_between_queue_and_exec_count"]),
    (
        "blocked clients are checked again when they wake",
        &["who_lost_the_right_while_waiting_gets_nothing", "whatever_waits_gets_nothing_that_it_may_not_have_any_more"],
    ),
    ("MONITOR ends with the right to it", &["monitor_ends_with_the_right_to_it"]),
    ("tracking and events end with the right to the keys", &["who_lost_the_right_hears_of_no_key_any_more"]),
    (
        "taking a channel from oneself",
        &[
            "who_takes_a_channel_from_itself_gets_its_answer_and_the_node_goes_on",
            "whoever_loads_a_file_that_takes_its_own_channel_is_put_out_and_the_node_goes_on",
        ],
    ),
    ("a user made anew", &["a_connection_of_a_deleted_user_does_not_become_the_new_user_of_that_name"]),
    (
        "CLIENT TRACKING BCAST, KEYS, SCAN, PUBSUB, CLIENT LIST, SLOWLOG, INFO, MONITOR, CLUSTER …",
        &[
            "no_rule_set_leaks_here",
            "nothing_one_user_does_is_seen_by_the_other",
            "nothing_one_tenant_does_is_seen_by_the_other",
            "nothing_one_namespace_does_is_seen_by_the_other",
        ],
    ),
    ("COMMANDLOG, OBJECT, MEMORY, LATENCY, slots, DEBUG OBJECT", &["what_looks_at_keys_or_times_shows_a_users_own"]),
    (
        "keyspace channels across tenants",
        &[
            "no_rule_set_leaks_here",
            "nobody_is_told_of_keys_that_do_not_exist_for_its_user",
            "no_tenant_forges_the_events_of_another",
        ],
    ),
    ("the shared script cache", &["scripts_and_libraries_belong_to_their_user_and_survive_a_restart_that_way"]),
    (
        "the same error whatever is wrong with a login, and hashes compared in constant time",
        &[
            "a_failed_login_says_the_same_whatever_failed",
            "a_login_that_fails_is_told_the_same_whatever_was_wrong",
            "a_login_compares_as_many_hashes_however_it_ends",
            "one_of_several_is_found_and_nothing_matches_nobody",
        ],
    ),
    (
        "no password in MONITOR, SLOWLOG, ACL LOG, errors, history, the log, the data",
        &[
            "no_secret_gets_in",
            "an_error_repeats_no_password",
            "history_tells_who_did_what_and_never_a_password",
            "no_file_of_a_node_holds_a_password",
        ],
    ),
    ("accept fails", &["a_node_that_is_out_of_files_serves_on_and_takes_clients_again"]),
    ("EXEC with keys of its own", &["exec_takes_no_options_that_could_hold_keys"]),
    ("limits before a login", &["strangers_may_send_little", "answers_a_stranger_does_not_read_are_bounded"]),
    (
        "malformed packets of peers, empty requests",
        &["a_frame_nobody_could_have_meant_is_an_error", "malformed_requests_get_one_error_and_the_door"],
    ),
    (
        "malformed selectors, fuzzed rules and files",
        &[
            "a_selector_that_is_never_closed_is_an_error_and_no_crash",
            "any_words_are_read_as_rules_without_harm",
            "any_bytes_are_read_as_an_acl_file_without_harm",
        ],
    ),
    ("patterns with many stars", &["many_stars_cost_no_more_than_pattern_times_text"]),
    (
        "every rule that is taken survives being saved and loaded",
        &["printing_and_reading_again_changes_nothing", "what_is_listed_can_be_loaded", "a_name_with_nul_is_refused"],
    ),
    (
        "a script in another user's context",
        &[
            "raw_writes_do_not_outlive_the_script",
            "a_function_kept_by_a_metatable_sees_no_other_script",
            "the_parser_keeps_its_names_while_garbage_is_collected",
            "the_counts_of_unpack_do_not_overflow",
            "tohex_keeps_to_its_buffer",
        ],
    ),
    ("errors of scripts with line ends", &["error_texts_cannot_forge_a_reply"]),
    ("every call of a script is checked as its caller's", &["what_a_script_calls_is_checked_as_its_caller_is"]),
    (
        "a confined user reaches no global state",
        &[
            "no_rule_lifts_the_ceiling_over_a_user_without_every_key",
            "scopes_follow_the_specification",
            "reset_makes_nobody_an_administrator",
        ],
    ),
    ("denied is NOPERM, not NOAUTH", &["who_is_denied_is_not_told_to_log_in"]),
    (
        "nothing opens by failing",
        &["a_bad_acl_file_stops_the_start_and_names_the_line", "a_missing_acl_file_stops_the_start"],
    ),
    (
        "what replicas repeat is not checked against rules",
        &[
            "what_a_confined_user_does_arrives_the_same_on_every_copy",
            "what_was_written_is_there_after_a_restart_whatever_default_may_do",
        ],
    ),
    (
        "rules that name what is not there",
        &["a_name_this_process_does_not_know_grants_nothing_and_an_unknown_denial_takes_everything"],
    ),
];

/// Items about what is not built: logging in to a client port by a certificate. Whoever builds that has to test them.
const NOT_BUILT: &[&str] = &[
    "a CN with an embedded NUL, a CN that matches in part, URIs in the order of the certificate",
    "a certificate that matches no user is not the user default",
    "CLIENT KILL while a TLS handshake or write is pending",
];

#[test]
fn every_item_has_a_test_that_exists() {
    let missing = missing_tests(CHECKLIST);
    assert!(missing.is_empty(), "no such test: {missing:#?}");
    let config = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../node/src/config.rs"));
    let names_tls = config.expect("the source is there").lines().any(|line| line.trim_start().starts_with("tls"));
    assert!(!names_tls, "there is TLS for clients now, and no test for: {NOT_BUILT:#?}");
}

/// Those of the named tests that stand nowhere.
pub fn missing_tests(named: &[(&str, &'static [&'static str])]) -> Vec<&'static str> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut sources = String::new();
    for folder in
        ["acl/src", "node/src", "node/engine/src", "node/cluster/src", "node/script", "tests/it", "tests/clients"]
    {
        read_all(&root.join(folder), &mut sources);
    }
    let tests = named.iter().flat_map(|(_, tests)| tests.iter().copied());
    // Those of Rust, of Python, and of Node.
    let forms = |test: &str| [format!("fn {test}("), format!("def {test}("), format!("test('{test}'")];
    tests.filter(|test| !forms(test).iter().any(|form| sources.contains(form))).collect()
}

fn read_all(folder: &Path, into: &mut String) {
    for entry in fs::read_dir(folder).expect("the folder of a crate can be read").flatten() {
        let path = entry.path();
        if path.is_dir() && !path.ends_with("node_modules") {
            read_all(&path, into);
        } else if path.extension().is_some_and(|extension| ["rs", "py", "mjs"].iter().any(|known| extension == *known))
        {
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
    for command in [
        "EVAL",
        "EVALSHA",
        "FCALL",
        "EVAL_RO",
        "EVALSHA_RO",
        "FCALL_RO",
        "ZUNION",
        "ZINTER",
        "ZDIFF",
        "ZINTERCARD",
        "ZUNIONSTORE",
        "ZINTERSTORE",
        "ZDIFFSTORE",
        "LMPOP",
        "ZMPOP",
        "BLMPOP",
        "BZMPOP",
        "SINTERCARD",
        "SINTERCARD LIMIT",
    ] {
        for count in ["9", "2", "-1", "18446744073709551615", "x"] {
            let request: Vec<&str> = match command {
                "EVAL" | "EVALSHA" | "FCALL" | "EVAL_RO" | "EVALSHA_RO" | "FCALL_RO" => {
                    vec![command, "return 1", count, "ok:1"]
                }
                "ZUNIONSTORE" | "ZINTERSTORE" | "ZDIFFSTORE" => vec![command, "ok:to", count, "ok:1"],
                "BLMPOP" | "BZMPOP" => vec![command, "0", count, "ok:1"],
                // Whose option could be taken for a key, and whose key for an option.
                "SINTERCARD LIMIT" => vec!["SINTERCARD", count, "ok:1", "LIMIT", "1"],
                "SINTERCARD" | "ZUNION" | "ZINTER" | "ZDIFF" | "ZINTERCARD" => vec![command, count, "ok:1"],
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

// valkey#4019: what has no keys cannot be checked with the wrong ones.
#[test]
fn exec_takes_no_options_that_could_hold_keys() {
    let (_cluster, mut admin, mut user) = node_with(&["+@all", "~a"]);
    admin.ok(&["SET", "secret", "s3cr3t"]);
    user.ok(&["MULTI"]);
    assert_eq!(user.text(&["SET", "a", "1"]), "QUEUED");
    assert!(user.ask(&["EXEC", "IFEQ", "secret", "s3cr3t"]).is_error("ERR wrong number of arguments"));
    assert!(user.ask(&["EXEC"]).is_error("EXECABORT"));
    assert_eq!(admin.ask(&["EXISTS", "a"]), Value::Integer(0));
}

// CVE-2025-48367: errors of accept took the service away from everybody.
#[test]
fn a_node_that_is_out_of_files_serves_on_and_takes_clients_again() {
    let (cluster, _admin, mut user) = node_with(&["+@all", "~a"]);
    let node = Pid::from_raw(cluster.node(1).pid().cast_signed());
    let open = fs::read_dir(format!("/proc/{}/fd", cluster.node(1).pid())).expect("it runs").count();
    let maximum = getrlimit(Resource::Nofile).maximum; // a process has its parent's
    let few = Rlimit { current: Some(u64::try_from(open).expect("a count") + 4), maximum };
    let before = prlimit(node, Resource::Nofile, few).expect("it is our process");

    let crowd: Vec<_> = (0..64).filter_map(|_| TcpStream::connect(cluster.node(1).address()).ok()).collect();
    wait_until("an accept has failed", || cluster.node(1).log().contains("cannot accept").then_some(()));
    user.ok(&["SET", "a", "1"]);
    drop(crowd);
    assert_eq!(user.text(&["GET", "a"]), "1");
    assert_eq!(cluster.node(1).client_as("u", "pw").text(&["GET", "a"]), "1");

    prlimit(node, Resource::Nofile, before).expect("it is our process");
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

// redis#14659: `MSETEX numkeys key value … [options]`.
#[test]
fn the_keys_of_msetex_are_counted_as_it_counts_them() {
    let (_cluster, mut admin, mut user) = node_with(&["+@all", "~ok:*"]);
    for request in [
        &["MSETEX", "2", "ok:1", "v", "forbidden", "v"][..],
        &["MSETEX", "1", "forbidden", "ok:1"],
        &["MSETEX", "9", "ok:1", "v"],
        &["MSETEX", "-1", "ok:1", "v"],
        &["MSETEX", "x", "ok:1", "v"],
    ] {
        let reply = user.ask(request);
        assert!(matches!(reply, Value::Error(_)), "{request:?}: {}", show(&reply));
    }
    assert_eq!(user.ask(&["MSETEX", "1", "ok:1", "forbidden", "EX", "100"]), Value::Integer(1));
    assert_eq!(admin.ask(&["EXISTS", "forbidden"]), Value::Integer(0));
}

// dragonfly#7871, dragonfly#7919. A user of a tenant is checked within its tenant, in a dry run as well.
#[test]
fn a_dry_run_answers_as_the_request_would() {
    let cluster = Cluster::start(1);
    let mut admin = cluster.node(1).client();
    admin.ok(&["ACL", "SETUSER", "plain", "on", ">pw", "~ok:*", "+@all", "-config|resetstat", "(~more:* +get)"]);
    admin.ok(&["ACL", "SETUSER", "owned", "on", ">pw", "~*", "+@all"]);
    admin.ok(&["TENANT", "CREATE", "t", "PREFIX", "ok:", "USER", "owned"]);
    for name in ["plain", "owned"] {
        let mut user = cluster.node(1).client_as(name, "pw");
        for request in [
            &["GET", "ok:1"][..],
            &["GET", "more:1"],
            &["SET", "more:1", "v"],
            &["COPY", "ok:1", "other:1"],
            &["OBJECT", "ENCODING", "ok:1"],
            &["OBJECT", "ENCODING", "other:1"],
            &["CONFIG", "RESETSTAT"],
            &["ACL", "WHOAMI"],
            &["ACL", "LOAD"],
            &["DEBUG", "OBJECT", "ok:1"],
            &["XINFO", "STREAM", "other:1"],
            &["MEMORY", "USAGE", "other:1"],
        ] {
            let dry = admin.ask(&[&["ACL", "DRYRUN", name], request].concat());
            let real = user.ask(request);
            let (dry, real) = (dry.is_ok(), !real.is_error("NOPERM"));
            assert_eq!(dry, real, "{name}: {request:?}");
        }
    }
}

// redis#15371 and what MONITOR's item says of tracking and events.
#[test]
fn who_lost_the_right_hears_of_no_key_any_more() {
    let (cluster, mut admin, mut user) = node_with(&["+@all", "~a:*", "~b:*", "&*"]);
    admin.ok(&["CONFIG", "SET", "notify-keyspace-events", "KEA"]);
    user.ask(&["HELLO", "3"]);
    user.ok(&["CLIENT", "TRACKING", "ON", "BCAST"]);
    user.ask(&["PSUBSCRIBE", "__keyspace@0__:*"]);
    let mut listener = cluster.node(1).client_as("u", "pw");
    listener.ask(&["PSUBSCRIBE", "__key*"]);
    admin.ok(&["ACL", "SETUSER", "u", "resetkeys", "~a:*"]);
    admin.ok(&["SET", "b:secret", "v"]);
    admin.ok(&["SET", "a:own", "v"]);
    for client in [&mut user, &mut listener] {
        client.set_patience(Duration::from_secs(5));
        // What it may still know comes; what came before that is everything it was told.
        loop {
            let heard = show(&client.read().expect("it is told of its own key, or was disconnected"));
            assert!(!heard.contains("b:secret"), "{heard}");
            if heard.contains("a:own") {
                break;
            }
        }
    }
}

// redis#13274.
#[test]
fn who_takes_a_channel_from_itself_gets_its_answer_and_the_node_goes_on() {
    let (cluster, _admin, mut user) = node_with(&["+@all", "~*", "&news"]);
    user.ask(&["HELLO", "3"]);
    user.ask(&["SUBSCRIBE", "news"]);
    user.ok(&["ACL", "SETUSER", "u", "resetchannels"]);
    wait_until("its connection ends", || user.is_closed().then_some(()));
    let mut again = cluster.node(1).client_as("u", "pw");
    assert!(again.ask(&["SUBSCRIBE", "news"]).is_error("NOPERM"));
    assert!(again.ask(&["PING"]).text().is_some());
}

#[test]
fn what_looks_at_keys_or_times_shows_a_users_own() {
    let (_cluster, mut admin, mut user) = node_with(&["+@all", "~ok:*"]);
    for request in [
        &["CONFIG", "SET", "slowlog-log-slower-than", "0"][..],
        &["CONFIG", "SET", "latency-monitor-threshold", "1"],
        &["SET", "{tag}secret", "v"],
        &["SET", "ok:1", "v"],
    ] {
        admin.ok(request);
    }
    admin.ask(&["EVAL", "local t = 0 for i = 1, 3000000 do t = t + i end return t", "0"]);
    for log in ["slow", "large-request", "large-reply"] {
        let shown = show(&user.ask(&["COMMANDLOG", "GET", "100", log]));
        assert!(!shown.contains("secret"), "{shown}");
    }
    for request in
        [&["OBJECT", "FREQ", "{tag}secret"][..], &["MEMORY", "USAGE", "{tag}secret"], &["DUMP", "{tag}secret"]]
    {
        assert!(user.ask(request).is_error("NOPERM"), "{request:?}");
    }
    for request in [&["DEBUG", "OBJECT", "ok:1"][..], &["LATENCY", "DOCTOR"], &["LATENCY", "GRAPH", "command"]] {
        assert!(user.ask(request).is_error("NOPERM"), "{request:?}");
    }
    let slot = match admin.ask(&["CLUSTER", "KEYSLOT", "{tag}secret"]) {
        Value::Integer(slot) => slot.to_string(),
        other => panic!("no slot: {other:?}"),
    };
    assert_eq!(user.ask(&["CLUSTER", "COUNTKEYSINSLOT", &slot]), Value::Integer(0));
    assert!(user.ask(&["CLUSTER", "GETKEYSINSLOT", &slot, "10"]).texts().is_empty());
}

// garnet#1887 and the items beside it.
#[test]
fn what_a_script_calls_is_checked_as_its_caller_is() {
    let (_cluster, mut admin, mut user) = node_with(&["+@all", "~ok:*", "-incr", "-config|get"]);
    admin.ok(&["SET", "secret", "s3cr3t"]);
    admin.text(&[
        "FUNCTION",
        "LOAD",
        "#!lua name=lib\nredis.register_function('read', function(keys) return redis.call('get', 'secret') end)",
    ]);
    for call in [
        "redis.call('get', 'secret')",
        "redis.call('mget', 'ok:1', 'secret')",
        "redis.call('sort_ro', 'secret')",
        "redis.call('georadius_ro', 'secret', 1, 1, 1, 'km')",
        "redis.call('object', 'encoding', 'secret')",
        "redis.call('incr', 'ok:1')",
        "redis.call('config', 'get', 'maxmemory')",
        "redis.call('acl', 'whoami')",
        "redis.call('auth', 'default', '')",
        "redis.call('multi')",
        "redis.call('hello', '3')",
        "redis.call('client', 'list')",
        "redis.call('debug', 'object', 'ok:1')",
        "redis.call('fcall', 'read', 0)",
        "redis.call('eval', 'return 1', 0)",
    ] {
        for (command, call) in [("EVAL", call.to_owned()), ("EVAL", call.replace("redis.call", "redis.pcall"))] {
            let reply = user.ask(&[command, &format!("return {call}"), "0"]);
            assert!(matches!(reply, Value::Error(_)), "{call}: {}", show(&reply));
        }
    }
    let reply = user.ask(&["FCALL", "read", "0"]);
    assert!(matches!(reply, Value::Error(_)), "{}", show(&reply));
    assert!(user.ask(&["EVAL_RO", "return redis.call('set', 'ok:1', 'v')", "0"]).is_error("ERR"));
}

// kvrocks#3191.
#[test]
fn reset_makes_nobody_an_administrator() {
    let (cluster, mut admin, mut user) = node_with(&["+@all", "~ok:*"]);
    admin.ok(&["ACL", "SETUSER", "root", "on", ">pw", "~*", "&*", "+@all"]);
    let mut root = cluster.node(1).client_as("root", "pw");
    root.ok(&["ACL", "SETUSER", "default", "off"]);
    user.text(&["RESET"]);
    for request in [&["GET", "ok:1"][..], &["ACL", "WHOAMI"], &["CONFIG", "GET", "*"]] {
        assert!(user.ask(request).is_error("NOAUTH"), "{request:?}");
    }
}

// garnet#2026: clients that are told NOAUTH connect anew for ever.
#[test]
fn who_is_denied_is_not_told_to_log_in() {
    let (_cluster, _admin, mut user) = node_with(&["+get", "~ok:*"]);
    for request in [&["GET", "other"][..], &["SET", "ok:1", "v"], &["ACL", "LIST"], &["SUBSCRIBE", "x"], &["SHUTDOWN"]]
    {
        assert!(user.ask(request).is_error("NOPERM"), "{request:?}");
    }
}

/// A page in somebody's browser can have HTTP sent to a port on that machine. What follows the head is not run.
#[test]
fn what_a_browser_sends_is_not_run() {
    let cluster = Cluster::start(1);
    let mut admin = cluster.node(1).client();
    for head in ["POST / HTTP/1.1\r\n", "post /\r\n", "Host: 127.0.0.1\r\n", "PUT / HTTP/1.1\r\nhost: 127.0.0.1\r\n"] {
        let mut page = Client::connect(cluster.node(1).address()).expect("the node serves");
        page.send_raw(format!("{head}\r\nSET forged 1\r\n").as_bytes()).expect("it is sent");
        wait_until("it is closed", || page.read().is_err().then_some(()));
        assert_eq!(admin.ask(&["EXISTS", "forged"]), Value::Integer(0), "{head}");
    }
}

/// A script went on with the rights it began with, for as long as `script-ms` allowed, after the change was in force.
#[test]
fn a_script_under_way_loses_what_its_user_loses() {
    let cluster = Cluster::start(3);
    let mut admin = cluster.node(1).client();
    let endless = "while true do redis.call('INCR', KEYS[1]) end";
    for (number, change) in [
        &["ACL", "SETUSER", "app", "resetkeys"][..],
        &["ACL", "SETUSER", "app", "-incr"],
        &["ACL", "SETUSER", "app", "off"],
        &["ACL", "DELUSER", "app"],
    ]
    .into_iter()
    .enumerate()
    {
        let rules = ["ACL", "SETUSER", "app", "reset", "on", ">secret", "~app:*", "+@all", "limit:script-ms=600000"];
        admin.ok(&rules);
        let key = format!("app:{number}");
        let mut app = cluster.node(number % 3 + 1).client_as("app", "secret");
        app.send(&["EVAL", endless, "1", &key]).expect("it is sent");
        wait_until("it runs", || {
            cluster
                .nodes()
                .iter()
                .any(|node| node.client().text(&["INFO", "commandstats"]).contains("cmdstat_incr"))
                .then_some(())
        });
        assert!(!admin.ask(change).is_error(""), "{change:?}");
        // Nobody else reads its keys while it runs.
        let count = admin.text(&["GET", &key]);
        let ended = app.read();
        // Through another node it hears that its connection there has ended.
        assert!(!matches!(&ended, Ok(answer) if !answer.is_error("")), "{change:?}: {ended:?}");
        assert_eq!(admin.text(&["GET", &key]), count, "{change:?}");
        cluster.nodes().iter().for_each(|node| node.client().ok(&["CONFIG", "RESETSTAT"]));
    }
}
