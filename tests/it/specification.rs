//! The specification of tenancy, row by row and criterion by criterion: which test proves each.
//!
//! The rows are those of its table of commands and of its table of resources, in their order; then what the walls between
//! tenants were asked to prove. A row without a test that exists fails; what is not built is named as that, with the reason. What
//! has no test of its own elsewhere is looked at by the last test here, as the user of a tenant and as a confined user without one.

use crate::checklist::missing_tests;
use keyward_tests::{Cluster, Value, show};

const MATRIX: &str = "no_rule_set_leaks_here";
const ROWS: &str = "every_row_holds_for_a_tenant_and_for_a_user_without_one";
const APART: &str = "nothing_one_tenant_does_is_seen_by_the_other";

/// A row, and the tests that prove it.
const PROVEN: &[(&str, &[&str])] = &[
    ("KEYS, SCAN, RANDOMKEY, DBSIZE", &[MATRIX, "a_confined_user_lists_and_counts_what_it_may_touch"]),
    (
        "KEYS with a limit of its own",
        &[
            "keys_tells_a_confined_user_so_many_names_or_none",
            "a_long_walk_of_keys_ends_where_there_are_too_many_names",
        ],
    ),
    (
        "SCAN without pages that are empty because of others",
        &["scan_shows_a_confined_user_its_own_keys_once_and_no_empty_page_for_others"],
    ),
    (
        "FLUSHDB, FLUSHALL",
        &[
            "a_flush_of_a_confined_user_takes_what_it_may_delete_and_says_so_key_by_key",
            "a_tenant_takes_over_the_keys_there_are_and_flushes_only_those",
            "what_a_confined_user_does_arrives_the_same_on_every_copy",
        ],
    ),
    (
        "SWAPDB",
        &[
            MATRIX,
            ROWS,
            "a_tenant_exchanges_its_databases_through_any_node_and_nobody_elses",
            "who_waits_watches_and_caches_hears_of_it_in_its_own_tenant_and_databases_only",
            "whoever_does_not_hold_all_of_a_tenant_is_told_why_nothing_is_exchanged",
            "each_group_that_has_keys_of_a_tenant_exchanges_them",
        ],
    ),
    ("SELECT, MOVE, COPY DB", &[MATRIX, ROWS]),
    ("OBJECT, MEMORY USAGE, TYPE, TTL, DUMP, TOUCH", &[MATRIX, "what_looks_at_keys_or_times_shows_a_users_own"]),
    ("RESTORE, SORT BY and GET, undeclared keys of scripts", &["the_key_that_is_checked_is_the_key_that_is_used"]),
    ("XCLAIM, XAUTOCLAIM", &["whoever_may_only_write_a_stream_does_not_get_what_is_in_it"]),
    ("MIGRATE", &[MATRIX]),
    ("INFO", &[MATRIX, "a_tenant_sees_its_own_memory_and_reserves_must_fit", ROWS]),
    ("CLIENT LIST, INFO, KILL, UNBLOCK, PAUSE, NO-EVICT", &[MATRIX, ROWS]),
    (
        "CLIENT TRACKING",
        &[
            MATRIX,
            "nobody_is_told_of_keys_that_do_not_exist_for_its_user",
            "a_cache_of_a_namespace_is_told_of_its_own_keys",
        ],
    ),
    ("MONITOR", &[MATRIX, "monitor_ends_with_the_right_to_it"]),
    ("MEMORY DOCTOR of a tenant", &["memory_doctor_speaks_of_a_users_own_memory_and_of_nothing_else", APART, ROWS]),
    ("MONITOR with a rate", &["monitor_shows_a_confined_user_so_many_lines_a_second_and_tells_how_many_it_left_out"]),
    ("SLOWLOG, LATENCY, MEMORY STATS and DOCTOR", &[MATRIX, "events_are_kept_by_the_second_and_by_their_owner", ROWS]),
    ("PUBSUB, SUBSCRIBE, PUBLISH", &[MATRIX, "a_channel_of_one_namespace_is_no_channel_of_another"]),
    (
        "keyspace events",
        &[
            MATRIX,
            "a_namespace_has_keyspace_events_of_its_own_and_asks_for_them_itself",
            "nobody_is_told_of_keys_that_do_not_exist_for_its_user",
        ],
    ),
    ("SCRIPT, FUNCTION", &[MATRIX, "scripts_and_libraries_belong_to_their_user_and_survive_a_restart_that_way"]),
    (
        "the time of EVAL, KEYS and other long commands is their user's",
        &[
            "a_runaway_script_is_ended_and_its_neighbors_go_on_meanwhile",
            "a_slow_script_of_a_user_without_a_tenant_stops_only_what_it_may_touch",
            "a_walk_over_many_keys_is_done_beside_everybody_else",
            "what_concerns_many_elements_is_done_beside_everybody_else",
            "who_has_much_to_do_takes_turns_with_the_others",
        ],
    ),
    ("CONFIG GET, SET, RESETSTAT", &[MATRIX, "a_confined_user_is_told_why_and_connects_as_libraries_do", ROWS]),
    ("ACL", &[MATRIX, "a_confined_user_is_told_why_and_connects_as_libraries_do"]),
    (
        "the role tenant-admin",
        &[
            "a_tenant_admin_sees_the_users_of_its_tenant_without_their_hashes_on_every_node",
            "a_tenant_admin_sees_what_its_tenants_users_were_denied_and_forgets_only_its_own",
            "the_role_of_a_tenant_admin_comes_from_files_is_shown_and_survives_a_restart",
        ],
    ),
    ("CLUSTER, ROLE, WAIT, TIME, COMMAND", &["keys_of_a_slot_are_counted_and_listed_through_every_node", ROWS]),
    ("what is the platform's alone", &["scopes_follow_the_specification", ROWS]),
    ("AUTH, HELLO, RESET, PING, QUIT, ECHO", &["a_confined_user_is_told_why_and_connects_as_libraries_do"]),
    ("errors tell nothing of what exists", &[ROWS]),
    (
        "memory of each tenant",
        &[
            "a_tenant_that_keeps_its_keys_is_refused_at_its_limit_whatever_way_it_writes",
            "what_tenants_use_equals_a_recount_on_every_node_whatever_happens",
            "a_tenant_with_too_many_keys_is_refused_or_loses_some_whatever_way_it_writes",
        ],
    ),
    (
        "eviction of each tenant",
        &[
            "every_policy_keeps_a_tenant_within_its_limit_and_takes_nobody_elses_keys",
            "whoever_is_within_its_reserve_loses_no_key_whatever_the_others_do",
            "each_group_lets_its_tenants_own_keys_go",
        ],
    ),
    (
        "operations, bytes, processor time",
        &[
            "who_is_ahead_of_its_rate_waits_and_is_then_told_for_how_long",
            "bytes_are_limited_in_and_out",
            "processor_time_is_limited",
            "operations_bytes_and_processor_time_of_one_user_are_limited",
        ],
    ),
    (
        "connections and other guards",
        &[
            "connections_beyond_the_cap_are_refused_when_they_log_in",
            "connections_beyond_the_rate_are_refused_when_they_log_in_and_nobody_elses",
            "values_waiting_clients_subscriptions_and_answers_have_bounds",
            "connections_waiting_clients_subscriptions_answers_and_scripts_of_one_user_are_limited",
        ],
    ),
    (
        "memory besides keys",
        &[
            "half_sent_requests_have_a_bound",
            "half_sent_requests_of_strangers_have_a_bound",
            "queued_transactions_have_a_bound",
            "names_of_channels_and_patterns_have_a_bound",
            "watched_keys_have_a_bound",
            "cached_keys_have_a_bound",
            "answers_nobody_reads_have_a_bound",
            "messages_nobody_reads_have_a_bound",
            "requests_that_wait_for_keys_have_a_bound",
            "scripts_and_libraries_have_a_bound",
            "a_confined_user_without_a_tenant_has_a_bound_as_well",
        ],
    ),
    (
        "metrics and chargeback",
        &[
            "what_a_tenant_does_is_counted_under_its_name",
            "what_a_tenant_uses_is_told_by_node_and_together_whichever_node_is_asked",
            "usage_survives_a_restart_and_goes_on",
        ],
    ),
    ("namespaces", &["names_of_a_namespace_are_its_own_in_and_out", "a_tenant_survives_a_restart_with_its_keys"]),
    ("audit", &["the_audit_stream_tells_who_did_what_and_no_secret"]),
    (
        "revocation, stale nodes",
        &["disabling_a_user_ends_its_connections_on_every_node", "a_minority_does_not_answer_ok"],
    ),
    ("propagation", &["a_change_binds_the_next_command_on_every_open_connection_of_every_node"]),
    (
        "least privilege, report only",
        &[
            "the_rules_allow_what_was_seen_and_no_more",
            "a_user_who_is_only_watched_is_denied_nothing_but_what_no_rule_allows",
        ],
    ),
    (
        "the matrix is red elsewhere",
        &[
            "the_same_probes_get_through_on_redis_and_valkey",
            "the_same_probes_of_slots_get_through_on_redis_and_valkey",
            "whoever_may_only_write_a_stream_gets_what_is_in_it_from_redis_and_valkey",
        ],
    ),
    (
        "noninterference over the whole table, and each command's scope",
        &[
            "nothing_one_user_does_is_seen_by_the_other",
            APART,
            "nothing_one_namespace_does_is_seen_by_the_other",
            "nothing_one_user_does_is_seen_by_the_other_through_other_nodes",
            "nothing_one_tenant_does_is_seen_by_the_other_through_other_nodes",
            "nothing_one_namespace_does_is_seen_by_the_other_through_other_nodes",
            "every_command_has_the_scope_that_was_read_last",
        ],
    ),
    ("the security checklist", &["every_item_has_a_test_that_exists"]),
    ("a burst beside a queue", &["a_burst_beside_a_queue_costs_the_queue_nothing"]),
    (
        "unmodified BullMQ and LiteLLM without a prefix in a namespace, nothing denied",
        &[
            "two workers on two nodes share the work, each job done once",
            "a repeatable job of the older kind",
            "test_a_response_cached_by_one_pod_is_served_by_another",
            "test_spend_updates_queue_up_for_one_pod",
        ],
    ),
    ("what a tenant costs", &["idle_tenants_cost_little"]),
    ("grants between tenants", &["a_grant_needs_both_sides_and_reads_only"]),
    (
        "overlap, renaming, retiring, purging",
        &[
            "overlapping_prefixes_are_refused_with_both_owners_named",
            "a_rename_keeps_the_number_and_takes_grants_along",
            "deleting_a_tenant_gives_its_keys_back_and_locks_its_users_out",
            "purging_a_tenant_removes_its_keys_everywhere_and_nobody_elses",
        ],
    ),
];

#[test]
fn every_row_and_criterion_has_a_test_that_exists() {
    let missing = missing_tests(PROVEN);
    assert!(missing.is_empty(), "no such test: {missing:#?}");
}

/// Rows, or parts of rows, that are not built, and why. Whoever builds one names its test above instead.
const NOT_BUILT: &[(&str, &str)] = &[
    (
        "rotation and expiry of credentials: id, added, expires, last used, connections",
        "a password is its hash alone: several are valid at once, and each is taken back by hand",
    ),
    (
        "dry-run, plan, diff, apply and rollback of policy",
        "ACL DRYRUN asks about one command; the history has summaries without secrets, which cannot be played back",
    ),
    (
        "desired state from a repository, beyond the watched ACL file",
        "tenants and their settings are made by command or gRPC",
    ),
];

#[test]
fn what_is_not_built_is_not_proven_and_has_a_reason() {
    for (row, why) in NOT_BUILT {
        assert!(PROVEN.iter().all(|(proven, _)| proven != row) && !why.is_empty(), "{row}");
    }
}

/// What is answered with NOPERM, whatever the rules say.
const REFUSED: &[&[&str]] = &[
    &["TENANT", "SWAPDB", "0", "1", "gw:"],
    &["CLIENT", "PAUSE", "1"],
    &["CLIENT", "NO-EVICT", "on"],
    &["LATENCY", "DOCTOR"],
    &["LATENCY", "GRAPH", "command"],
    &["MEMORY", "PURGE"],
    &["MEMORY", "MALLOC-STATS"],
    &["CONFIG", "SET", "maxmemory", "1"],
    &["CONFIG", "REWRITE"],
    &["ACL", "SETUSER", "gw", "allkeys"],
    &["ACL", "DELUSER", "ai"],
    &["ACL", "LOAD"],
    &["ACL", "SAVE"],
    &["CLUSTER", "FAILOVER"],
    &["CLUSTER", "RESET"],
    &["REPLICAOF", "NO", "ONE"],
    &["FAILOVER"],
    &["PSYNC", "?", "-1"],
    &["SYNC"],
    &["BGSAVE"],
    &["SAVE"],
    &["BGREWRITEAOF"],
    &["SHUTDOWN"],
    &["MODULE", "LIST"],
    &["DEBUG", "OBJECT", "gw:1"],
    &["MIGRATE", "127.0.0.1", "1", "gw:1", "0", "1"],
    &["TENANT", "LIST"],
    &["TENANT", "STATS", "gw"],
    &["COPY", "gw:1", "ai:1"],
    &["RENAME", "gw:1", "ai:1"],
    &["RESTORE", "ai:1", "0", "x"],
    &["GET", "ai:1"],
    &["GET", "ai:missing"],
];

/// What everybody may ask.
const ANSWERED: &[&[&str]] = &[
    &["SELECT", "1"],
    &["SELECT", "0"],
    &["MOVE", "gw:1", "1"],
    &["COPY", "gw:2", "gw:2", "DB", "1"],
    &["CLIENT", "INFO"],
    &["CLIENT", "KILL", "TYPE", "pubsub"],
    &["CLIENT", "UNBLOCK", "1"],
    &["SLOWLOG", "RESET"],
    &["LATENCY", "RESET"],
    &["LATENCY", "LATEST"],
    &["LATENCY", "HISTORY", "command"],
    &["LATENCY", "HISTOGRAM"],
    &["MEMORY", "STATS"],
    &["MEMORY", "DOCTOR"],
    &["SCRIPT", "FLUSH"],
    &["FUNCTION", "FLUSH"],
    &["CONFIG", "GET", "maxmemory-policy"],
    &["ACL", "WHOAMI"],
    &["ACL", "CAT"],
    &["ACL", "GENPASS"],
    &["CLUSTER", "SLOTS"],
    &["CLUSTER", "INFO"],
    &["CLUSTER", "KEYSLOT", "gw:1"],
    &["ROLE"],
    &["WAIT", "0", "0"],
    &["TIME"],
    &["COMMAND", "COUNT"],
    &["LOLWUT"],
    &["ECHO", "x"],
    &["PING"],
];

#[test]
fn every_row_holds_for_a_tenant_and_for_a_user_without_one() {
    for in_tenant in [true, false] {
        let cluster = Cluster::of(1).flag("enable-debug-command", "yes").start();
        let mut admin = cluster.node(1).client();
        for name in ["gw", "ai"] {
            let keys = if in_tenant { "~*".to_owned() } else { format!("~{name}:*") };
            admin.ok(&["ACL", "SETUSER", name, "on", ">pw", &keys, "&*", "+@all"]);
            if in_tenant {
                admin.ok(&["TENANT", "CREATE", name, "PREFIX", &format!("{name}:"), "USER", name]);
            }
            (1..4).for_each(|number| admin.ok(&["SET", &format!("{name}:{number}"), "v"]));
        }
        let (mut gw, mut ai) = (cluster.node(1).client_as("gw", "pw"), cluster.node(1).client_as("ai", "pw"));
        assert!(ai.ask(&["LPUSH", "ai:1", "v"]).is_error("WRONGTYPE"));
        for request in REFUSED {
            let reply = gw.ask(request);
            assert!(reply.is_error("NOPERM"), "in a tenant: {in_tenant}: {request:?}: {}", show(&reply));
        }
        assert_eq!(
            text(&gw.ask(&["GET", "ai:1"])).replace("ai:1", ""),
            text(&gw.ask(&["GET", "ai:missing"])).replace("ai:missing", ""),
            "a denial tells nothing of what exists"
        );
        // Its own databases are exchanged, if they are its own: there and back.
        for _ in 0..2 {
            let reply = gw.ask(&["SWAPDB", "0", "1"]);
            assert_eq!((reply.is_ok(), reply.is_error("NOPERM")), (in_tenant, !in_tenant), "{}", show(&reply));
        }
        for request in ANSWERED {
            let reply = gw.ask(request);
            assert!(!matches!(reply, Value::Error(_)), "in a tenant: {in_tenant}: {request:?}: {}", show(&reply));
        }
        assert_eq!(ai.ask(&["DBSIZE"]), Value::Integer(3));
        assert_eq!(gw.ask(&["DBSIZE"]), Value::Integer(2));
        gw.ok(&["SELECT", "1"]);
        assert_eq!(gw.ask(&["DBSIZE"]), Value::Integer(2), "what was moved and copied there");
        let info = gw.text(&["INFO", "everything"]);
        assert!(info.contains("maxmemory_policy:") && info.contains("db1:keys=2"), "{info}");
        assert!(info.contains("cmdstat_dbsize:calls=2"), "{info}");
        let swaps = if in_tenant { 0 } else { 2 };
        let denied = format!("errorstat_NOPERM:count={}", REFUSED.len() + 2 + swaps);
        assert!(info.contains(&denied), "{denied}: {info}");
        let own = info.lines().filter(|line| line.starts_with("errorstat_")).count();
        assert_eq!(own, 1, "nobody else's errors: {info}");
        assert!(info.contains("latency_percentiles_usec_dbsize:p50="), "{info}");
        assert!(!info.contains("db0:keys=6") && !info.contains("process_id"), "{info}");
        let histogram = show(&gw.ask(&["LATENCY", "HISTOGRAM", "dbsize"]));
        assert!(histogram.contains("calls"), "{histogram}");
    }
}

fn text(reply: &Value) -> String {
    match reply {
        Value::Error(text) => text.clone(),
        other => panic!("no error: {other:?}"),
    }
}
