//! What rules allow, and what is said when they do not.

use super::*;
use crate::DatabaseUse::{Every, Index};
use crate::rule::Rule;
use crate::testing::{FakeCatalog, Try, policy, user};
use proptest::prelude::*;

const R: KeyAccess = KeyAccess::READ;
const W: KeyAccess = KeyAccess::WRITE;
const RW: KeyAccess = KeyAccess::READ_WRITE;
const EITHER: KeyAccess = KeyAccess::EITHER;

fn command(rules: &str, name: &str) -> bool {
    Try::command(name).run(&policy(rules)).is_ok()
}

fn key(rules: &str, name: &str, access: KeyAccess) -> bool {
    let request = Try { keys: &[(name, access)], ..Try::command("copy") };
    request.run(&policy(&format!("{rules} +@all"))).is_ok()
}

fn channel(rules: &str, name: &str, pattern: bool) -> bool {
    let request = Try { channels: &[(name, pattern)], ..Try::command("publish") };
    request.run(&policy(&format!("{rules} +@all"))).is_ok()
}

/// Why user `t` is refused.
fn denied(rules: &str, request: &Try<'_>) -> String {
    let text = request.run(&policy(rules)).unwrap_err().to_string().replace("NOPERM User t has no permissions to ", "");
    text.split_once(" (").map_or(text.clone(), |(what, _)| what.to_owned())
}

#[test]
fn commands_are_allowed_by_name_and_category_in_order() {
    for (rules, allowed, refused) in [
        ("+get", "get", "set"),
        ("+@all -get", "set", "get"),
        ("+@read -get", "exists", "get"),
        ("+@all -@read +get", "get", "exists"),
        ("+config ~*", "config|set", "get"),
        ("+config|get", "config|get", "config|set"),
        ("+@all -config +config|get", "config|get", "config|set"),
        ("+@all -config|set", "config|get", "config|set"),
        ("+@all -@dangerous ~*", "client|id", "client|list"),
        ("-@all -get", "auth", "get"),
        ("+client|list", "client|list", "client"),
    ] {
        assert!(command(rules, allowed), "{rules} should allow {allowed}");
        assert!(!command(rules, refused), "{rules} should refuse {refused}");
    }
}

#[test]
fn a_category_of_a_container_covers_its_subcommands() {
    // `config` is slow, and so is everything under it, as Redis has it.
    assert!(command("+@slow", "config|get"));
    assert!(!command("+@all -@slow", "config|get"));
}

#[test]
fn what_needs_no_login_needs_no_rule() {
    assert!(command("-@all", "auth"));
    assert!(command("+@all -auth", "auth"));
}

#[test]
fn a_first_argument_is_compared_whole_and_in_any_case() {
    let select = |rules: &str, argument: &str| {
        Try { argument: Some(argument), ..Try::command("select") }.run(&policy(rules)).is_ok()
    };
    assert!(select("+select|0", "0"));
    assert!(!select("+select|0", "00"));
    assert!(!select("+select|0", "1"));
    assert!(select("+select|abc", "ABC"));
    assert!(select("+select|0 +select|1", "1"));
    assert!(!select("+select|0 -@connection ~*", "0"));
    assert!(!select("+select|0 -select ~*", "0"));
    assert!(!command("+select|0", "select"));
}

#[test]
fn a_name_this_process_does_not_know_grants_nothing_and_an_unknown_denial_takes_everything() {
    assert!(!command("+later +@later +later|sub +config|later", "get"));
    assert!(command("+get -later -config|later", "get"));
    assert!(!command("+@all -@later", "get"));
    assert!(command("+@all -@later +get", "get"));
    assert!(command("+@all -@later", "auth"));
    // Elsewhere `get|sub` is a subcommand; to refuse it here, all of it goes.
    assert!(!command("+@all -get|sub", "get"));
}

#[test]
fn reading_and_writing_are_granted_apart() {
    for (rules, expected) in [
        ("~a", [true, true, true, true]),
        ("%R~a", [true, false, true, false]),
        ("%W~a", [false, true, true, false]),
        ("%R~a %W~a", [true, true, true, true]),
        // One pattern must grant all of it.
        ("%R~a* %W~?", [true, true, true, false]),
        ("", [false; 4]),
        ("~*", [true; 4]),
        ("%R~*", [true, false, true, false]),
    ] {
        let allowed = [R, W, EITHER, RW].map(|access| key(rules, "a", access));
        assert_eq!(allowed, expected, "{rules}");
    }
}

#[test]
fn key_patterns_match_as_globs() {
    assert!(key("~{litellm,langfuse}:*", "langfuse:1", RW));
    assert!(!key("~{litellm,langfuse}:*", "{litellm,langfuse}:1", RW));
    assert!(key("~\\{a,b\\}", "{a,b}", RW));
    assert!(key("~u:[0-9]*:x", "u:12:x", RW));
    assert!(!key("~u:[0-9]*:x", "u:a:x", RW));
    assert!(key("~", "", RW));
    assert!(!key("~", "a", RW));
    assert!(!key("~app:*", "app", RW));
}

#[test]
fn among_many_patterns_the_right_one_is_found() {
    let rules: Vec<String> = (0..200).map(|number| format!("~p{number}:* ~exact{number} ~g{number}?x")).collect();
    let rules = rules.join(" ");
    let policy = policy(&format!("+@all {rules} ~p1*"));
    let allows = |key: &str| policy.allows_key(key.as_bytes(), RW);
    assert!(
        allows("p0:a") && allows("p199:") && allows("exact7") && allows("g150-x") && allows("p1") && allows("p1zzz")
    );
    assert!(
        !allows("p2") && !allows("p200:") && !allows("exact") && !allows("exact77x") && !allows("") && !allows("zzz")
    );
}

#[test]
fn channels_are_matched_and_patterns_must_be_the_same() {
    assert!(channel("&news.*", "news.a", false));
    assert!(!channel("&news.*", "olds", false));
    assert!(channel("&news.*", "news.*", true));
    assert!(!channel("&news.*", "news.a*", true));
    assert!(!channel("&news.*", "*", true));
    assert!(channel("&*", "*", true));
    assert!(!channel("", "x", false));
}

#[test]
fn databases_are_checked() {
    let run = |rules: &str, databases: &[DatabaseUse]| {
        Try { databases, ..Try::command("flushall") }.run(&policy(&format!("+@all {rules}"))).is_ok()
    };
    assert!(run("", &[Every]) && run("", &[Index(3)]));
    assert!(run("db=0,2", &[Index(0), Index(2)]));
    assert!(!run("db=0,2", &[Index(0), Index(1)]));
    assert!(!run("db=0,2", &[Every]));
    assert!(run("resetdbs", &[]));
    assert!(!run("resetdbs", &[Index(0)]));
}

#[test]
fn one_set_of_permissions_must_allow_everything() {
    let get =
        |key| Try { keys: &[(key, R)], ..Try::command("get") }.run(&policy("+get ~a (+set ~b) (+get ~c)")).is_ok();
    assert!(get("a") && get("c"));
    assert!(!get("b"));
    let two = Try { keys: &[("a", R), ("c", R)], ..Try::command("get") };
    assert!(two.run(&policy("+get ~a (+get ~c)")).is_err());
    assert!(two.run(&policy("+get ~a (+get ~c ~a)")).is_ok());
}

#[test]
fn the_error_is_the_one_that_came_furthest() {
    let get = Try { keys: &[("a", R), ("b", R)], channels: &[("x", false)], ..Try::command("get") };
    assert_eq!(denied("", &get), "run the 'get' command");
    assert_eq!(denied("+get", &get), "access key 'a'");
    assert_eq!(denied("+get ~a", &get), "access key 'b'");
    assert_eq!(denied("+get ~a ~b", &get), "access channel 'x'");
    // Of several sets: command, then database, then key at the larger argument, then channel.
    assert_eq!(denied("(+get)", &get), "access key 'a'");
    assert_eq!(denied("+get (+get ~a)", &get), "access key 'b'");
    assert_eq!(denied("+get ~a (+get)", &get), "access key 'b'");
    assert_eq!(denied("+get ~a (+get ~*)", &get), "access channel 'x'");
    let database = Try { databases: &[Index(1)], ..get };
    assert_eq!(denied("+get db=0", &database), "access database 1");
    assert_eq!(denied("+get db=0 (+get ~b)", &database), "access key 'a'");
    assert_eq!(denied("+get (+get db=0 ~a ~b)", &database), "access key 'a'");
}

#[test]
fn commands_are_named_in_full_and_in_lower_case() {
    let argv: [&[u8]; 3] = [b"CONFIG", b"SET", b"x"];
    let command = FakeCatalog::new().id("config|set");
    let request = Request { command, argv: &argv, keys: &[], channels: &[], databases: &[] };
    assert_eq!(&*policy("").check(&request).unwrap_err().object, b"config|set");
    let argv: [&[u8]; 1] = [b"FlushAll"];
    let command = FakeCatalog::new().id("flushall");
    let request = Request { command, argv: &argv, keys: &[], channels: &[], databases: &[Every] };
    let denial = policy("+flushall db=1").check(&request).unwrap_err();
    assert_eq!(denial.to_dryrun_text(), b"User t has no permissions to access database flushall");
}

#[test]
fn whoever_may_do_everything_is_not_checked() {
    assert!(policy("~* &* +@all").is_unrestricted());
    assert!(policy("~** &* -@all +@all alldbs").is_unrestricted());
    for less in ["~* &* +@all -get", "~* +@all", "&* +@all", "~* &* +@all db=0", "%R~* &* +@all", "(~* &* +@all)"] {
        assert!(!policy(less).is_unrestricted(), "{less}");
    }
}

#[test]
fn the_fast_answer_never_says_yes_to_what_the_check_refuses() {
    let catalog = FakeCatalog::new();
    let simple = |rules: &str, key: &[u8]| policy(rules).allows_simple(catalog.id("get"), key, R);
    assert!(simple("+get ~a:*", b"a:1"));
    assert!(!simple("+get ~a:*", b"b:1"));
    assert!(!simple("+set ~a:*", b"a:1"));
    assert!(!simple("+get ~a:* db=0", b"a:1"));
}

#[test]
fn what_a_user_may_see_is_known_without_a_command() {
    let confined = policy("+@all ~app:* %R~shared:* (+get ~extra ~app:x:*) &ch");
    assert!(confined.is_confined());
    assert!(confined.may_touch_key(b"app:1") && confined.may_touch_key(b"extra") && !confined.may_touch_key(b"b"));
    assert!(confined.may_access_key(b"shared:1", R) && !confined.may_access_key(b"shared:1", W));
    assert_eq!(confined.key_prefixes(), Some(vec![&b"app:"[..], b"extra", b"shared:"]));
    assert!(confined.may_use_channel(b"ch", false) && !confined.may_use_channel(b"other", false));
    assert!(!policy("~*").is_confined());
    assert!(policy("%R~*").is_confined());
    assert_eq!(policy("~*").key_prefixes(), None);
    assert_eq!(policy("~?x").key_prefixes(), None);
    assert_eq!(policy("").key_prefixes(), Some(vec![]));
    assert!(policy("(db=2)").may_use_database(2));
    assert!(!policy("db=1 (db=2)").may_use_database(3));
}

#[test]
fn a_selector_with_every_key_frees_its_own_commands_only() {
    let catalog = FakeCatalog::new();
    let policy = policy("+@all ~app:* (+keys ~*)");
    assert!(!policy.is_confined_for(catalog.id("keys")));
    assert!(policy.is_confined_for(catalog.id("flushall")));
}

#[test]
fn no_rule_lifts_the_ceiling_over_a_user_without_every_key() {
    for rules in ["+@all ~app:*", "+config|set", "+@all %R~*", "+@all (+@all ~a)", "+config|set (~* +get)"] {
        assert!(!command(rules, "config|set"), "{rules}");
    }
    for rules in ["+@all ~*", "+config|set ~*", "~app:* (+config|set ~*)"] {
        assert!(command(rules, "config|set"), "{rules}");
    }
    let denial = Try::command("config|set").run(&policy("+@all ~app:*")).unwrap_err();
    assert!(denial.to_string().contains("tenant ceiling"), "{denial}");
    assert!(!denial.to_text(crate::ErrorDetail::Redis).contains("ceiling"));
}

#[test]
fn what_concerns_every_key_of_a_tenant_needs_rules_that_hold_them_all() {
    let fence = Fence::of_prefixes([&b"gw:"[..]].into_iter());
    let within = |rules: &str, fence: &Fence| {
        Policy::compile_within(&user("t", rules), &FakeCatalog::new(), Walls::Up, Some(fence))
    };
    for rules in ["+@all ~*", "+swapdb ~gw:* ~{gw:*", "~gw:1 (~* +swapdb)", "mode=report +get ~gw:1"] {
        let policy = within(rules, &fence);
        let allowed = Try::command("swapdb").run(policy.only_reports().unwrap_or(&policy));
        assert!(allowed.is_ok() && policy.may_change_tenant(), "{rules}");
    }
    for rules in ["+@all", "+@all ~gw:*", "+@all ~gw:1* ~{gw:*", "+swapdb ~gw:b* (~* +get)"] {
        let denial = Try::command("swapdb").run(&within(rules, &fence)).expect_err(rules);
        let explains = denial.to_string().contains("let them read and write all of its keys, as ~* does");
        assert_eq!(explains, !rules.contains("(~*"), "{rules}: {denial}");
    }
    let namespace = Fence::of_namespace();
    assert!(Try::command("swapdb").run(&within("+@all ~*", &namespace)).is_ok());
    assert!(Try::command("swapdb").run(&within("+@all ~gw:*", &namespace)).is_err());
    // Of no tenant: nobody's segment is its own.
    assert!(!command("+@all ~gw:*", "swapdb") && !command("mode=report +@all ~gw:*", "swapdb"));
    assert!(command("+@all ~*", "swapdb") && command("+@all ~app:* (~* +swapdb)", "swapdb"));
    let unlimited = Policy::compile(&user("t", "+@all ~app:*"), &FakeCatalog::new(), Walls::Down);
    assert!(Try::command("swapdb").run(&unlimited).is_ok());
}

#[test]
fn within_walls_some_commands_need_no_rule_and_some_need_more() {
    assert!(command("-@all", "client|id"));
    assert!(!command("-@all ~*", "client|id"));
    let select =
        |rules, argument| Try { argument: Some(argument), ..Try::command("select") }.run(&policy(rules)).is_ok();
    assert!(select("-@all", "0") && !select("-@all", "1") && !select("-@all ~*", "0"));
    assert!(command("+@all -@admin -@dangerous ~app:*", "client|list"));
    assert!(!command("+@all -client|list ~app:*", "client|list"));
    let mset = |rules: &str| Try { keys: &[("a", W)], ..Try::command("mset") }.run(&policy(rules)).is_ok();
    assert!(!mset("+@all %W~a") && mset("+@all ~a") && mset("+@all %W~a (~* +mset)"));
    let catalog = FakeCatalog::new();
    assert!(!policy("+@all %W~a").allows_simple(catalog.id("mset"), b"a", W));
}

#[test]
fn who_belongs_to_a_tenant_is_confined_with_every_key_too() {
    let closed = Policy::compile(&user("t", "+@all ~* &*"), &FakeCatalog::new(), Walls::Closed);
    assert!(closed.is_confined() && closed.is_confined_for(0) && !closed.is_unrestricted());
    assert!(Try::command("config|set").run(&closed).is_err());
    assert!(closed.may_touch_key(b"anything"));
}

#[test]
fn what_is_lent_is_reached_as_far_as_the_users_own_rules_go() {
    let mut fence = Fence::of_prefixes([&b"sub:"[..]].into_iter());
    fence.let_in(b"ai:status:*", true);
    fence.let_in(b"ghw:*:status", false);
    let may = |rules: &str, name: &str, access| {
        let within =
            Policy::compile_within(&user("t", &format!("+@all {rules}")), &FakeCatalog::new(), Walls::Up, Some(&fence));
        Try { keys: &[(name, access)], ..Try::command("copy") }.run(&within).is_ok()
    };
    for (rules, reads, writes) in [
        // Who holds less than the tenant names what it uses of others.
        ("%R~sub:cache:*", false, false),
        ("~sub:cache:* ~ai:cb:*", false, false),
        ("%R~sub:cache:* %R~ai:status:*", true, false),
        ("~sub:cache:* %W~ai:*", false, true),
        ("~sub:cache:* ~ai:status:1", true, true),
        ("~*:1", true, true),
        ("~*:2", false, false),
        ("(~sub:*) (~ai:status:* +@all)", true, true),
        ("", false, false),
        // Who holds all of the tenant holds what is lent to the tenant, to do the same with it.
        ("~sub:*", true, true),
        ("~*", true, true),
        ("%R~sub:*", true, false),
        ("%R~sub:* %W~sub:cache:*", true, false),
    ] {
        assert_eq!((may(rules, "ai:status:1", R), may(rules, "ai:status:1", W)), (reads, writes), "{rules}");
        assert!(!may(rules, "ai:cb:1", R), "{rules}: nobody lent it");
    }
    for (rules, reads) in [("~sub:*", true), ("~sub:x ~ghw:1*", true), ("~sub:x ~ghw:2*", false), ("~g*s", true)] {
        assert_eq!(may(rules, "ghw:1:status", R), reads, "{rules}");
        assert!(!may(rules, "ghw:1:status", W), "{rules}: it is lent for reading");
    }
}

#[test]
fn walls_that_are_down_leave_what_redis_has() {
    let redis = |rules: &str| Policy::compile(&user("t", rules), &FakeCatalog::new(), Walls::Down);
    assert!(Try::command("config|set").run(&redis("+@all ~app:*")).is_ok());
    assert!(Try { keys: &[("a", W)], ..Try::command("mset") }.run(&redis("+@all %W~a")).is_ok());
    assert!(Try::command("client|id").run(&redis("-@all")).is_err());
    assert!(!redis("~a").is_confined() && !redis("~a").is_confined_for(0));
}

#[test]
fn a_denied_key_comes_with_the_pattern_it_is_nearest_to() {
    let hint = |rules: &str, key: &str| {
        let get = Try { keys: &[(key, R)], ..Try::command("get") };
        let text = get.run(&policy(rules)).unwrap_err().to_string();
        text.split_once(" (").unwrap().1.trim_end_matches(')').to_owned()
    };
    assert_eq!(hint("+get", "a"), "no key pattern was given to this user");
    assert_eq!(hint("+get ~x:* ~app:cache:* (+set ~app:z)", "app:cash"), "nearest pattern: '~app:cache:*'");
    assert_eq!(hint("+get %R~x:* ~y", "z"), "nearest pattern: '%R~x:*'");
    assert_eq!(hint("+get %W~app:* ~b", "app:1"), "pattern '%W~app:*' matches, but does not allow this");
    let long = format!("+get ~{}*", "é".repeat(400));
    assert!(hint(&long, "a").len() < 800);
}

#[test]
fn sort_by_needs_a_set_with_the_command_and_every_key() {
    let argv: [&[u8]; 1] = [b"get"];
    let request =
        Request { command: FakeCatalog::new().id("get"), argv: &argv, keys: &[], channels: &[], databases: &[] };
    assert!(policy("+get ~*").allows_with_every_key(&request, R));
    assert!(policy("+get %R~*").allows_with_every_key(&request, R));
    assert!(!policy("+get %W~*").allows_with_every_key(&request, R));
    assert!(!policy("+get ~a* (~*)").allows_with_every_key(&request, R));
}

#[test]
fn the_name_of_the_user_is_in_the_denial() {
    let policy = Policy::compile(&user("litellm", "+@all ~litellm:*"), &FakeCatalog::new(), Walls::Up);
    let denial = Try { keys: &[("langfuse:test:key", R)], ..Try::command("get") }.run(&policy).unwrap_err();
    assert_eq!(
        denial.to_string(),
        "NOPERM User litellm has no permissions to access key 'langfuse:test:key' (nearest pattern: '~litellm:*')"
    );
    assert_eq!(denial.argument, 1);
}

#[test]
fn an_unknown_command_number_is_refused() {
    let request = Request { command: 60_000, argv: &[], keys: &[], channels: &[], databases: &[] };
    assert!(policy("+@all").check(&request).is_err());
}

proptest! {
    #[test]
    fn many_patterns_match_what_one_of_them_matches(
        patterns in proptest::collection::vec("(same8888)?[ab\\x01*?]{0,4}", 0..12),
        key in "(same8888)?[ab\\x01]{0,5}",
    ) {
        let rules: Vec<Rule> = patterns.iter().flat_map(|pattern| Rule::parse(format!("~{pattern}").as_bytes()).unwrap()).collect();
        let mut user = user("t", "");
        rules.iter().for_each(|rule| user.apply(rule));
        let compiled = Policy::compile(&user, &FakeCatalog::new(), Walls::Up);
        let expected = patterns.iter().any(|pattern| crate::glob::matches(pattern.as_bytes(), key.as_bytes()));
        prop_assert_eq!(compiled.allows_key(key.as_bytes(), RW), expected);
    }

    #[test]
    fn a_fence_cuts_patterns_down_to_what_is_within_and_what_is_lent(
        own in proptest::collection::vec("[ab]{0,3}[*?]?[ab*]{0,2}", 0..4),
        lent in proptest::collection::vec("b[ab]{0,2}[*?]?[ab*]{0,2}", 0..3),
        key in "[ab]{0,5}",
    ) {
        let mut user = user("t", "");
        own.iter().for_each(|pattern| Rule::parse(format!("~{pattern}").as_bytes()).unwrap().iter().for_each(|rule| user.apply(rule)));
        let mut fence = Fence::of_prefixes([&b"ab"[..]].into_iter());
        lent.iter().for_each(|pattern| fence.let_in(pattern.as_bytes(), true));
        let compiled = Policy::compile_within(&user, &FakeCatalog::new(), Walls::Up, Some(&fence));
        let matches = |patterns: &[String], text: &str| patterns.iter().any(|pattern| crate::glob::matches(pattern.as_bytes(), text.as_bytes()));
        let whole = own.iter().any(|own| ["*", "a*", "ab*"].contains(&own.replace("**", "*").replace("**", "*").as_str()));
        let expected = matches(&own, &key) && (key.starts_with("ab") || matches(&lent, &key)) || whole && matches(&lent, &key);
        prop_assert_eq!(compiled.allows_key(key.as_bytes(), RW), expected);
    }
}

#[test]
fn what_is_only_reported_runs_unless_no_rule_could_allow_it() {
    let watched = policy("+get ~app:* mode=report");
    assert!(policy("+get ~app:*").only_reports().is_none());
    let widest = watched.only_reports().expect("the user is only watched");
    for (name, keys) in [("get", &[("other", R)][..]), ("set", &[("app:1", W)]), ("publish", &[])] {
        let request = Try { keys, channels: if keys.is_empty() { &[("c", false)] } else { &[] }, ..Try::command(name) };
        assert!(request.run(&watched).is_err(), "{name} is still found to be forbidden");
        assert!(request.run(widest).is_ok(), "{name} could be allowed by some rule");
    }
    assert!(Try::command("config|set").run(widest).is_err(), "the ceiling stays");
    assert!(widest.is_confined(), "and so do the walls");
    let operator = policy("+get ~* mode=report");
    let widest = operator.only_reports().expect("the user is only watched");
    assert!(Try::command("config|set").run(widest).is_ok(), "for whoever holds every key there is no ceiling");
}

// A user of no tenant read keys of a tenant while it was only watched.
#[test]
fn what_is_only_reported_of_a_user_of_no_tenant_is_no_tenants_key() {
    let mut watched = policy("+get ~app:* ~gw:shared:* mode=report");
    watched.report_outside([&b"gw:"[..], b"ai:"].into_iter());
    let widest = watched.only_reports().expect("the user is only watched");
    let may = |name: &str, key: &str, access| Try { keys: &[(key, access)], ..Try::command(name) }.run(widest).is_ok();
    for key in ["other", "g", "gw", "app:1", "gw:shared:1", "zz", ""] {
        assert!(may("set", key, W) && may("get", key, R), "{key}");
    }
    for key in ["gw:1", "{gw:1}", "{ai:", "ai:shared:1", "gw:share"] {
        assert!(!may("set", key, W) && !may("get", key, R), "{key}");
    }
    assert!(widest.is_confined() && widest.key_prefixes().is_none());
    assert!(!widest.allows_with_every_key(
        &Request { command: FakeCatalog::new().id("get"), argv: &[b"get"], keys: &[], channels: &[], databases: &[] },
        KeyAccess::READ
    ));
    let mut operator = policy("+get ~* mode=report");
    operator.report_outside([&b"gw:"[..]].into_iter());
    let widest = operator.only_reports().expect("the user is only watched");
    assert!(Try { keys: &[("gw:1", W)], ..Try::command("set") }.run(widest).is_ok(), "operators are in every tenant");
}

#[test]
fn a_denied_channel_or_database_names_what_is_nearest() {
    let policy = policy("+@all &app.* &apple.* db=0,2 ~*");
    let denial = Try { channels: &[("apples", false)], ..Try::command("publish") }.run(&policy).unwrap_err();
    assert!(denial.to_string().ends_with("channel 'apples' (nearest pattern: '&apple.*')"), "{denial}");
    let denial = Try { channels: &[("x", false)], ..Try::command("publish") }.run(&self::policy("+@all")).unwrap_err();
    assert!(denial.to_string().ends_with("(no channel pattern was given to this user)"), "{denial}");
}

#[test]
fn what_is_seen_of_a_key_at_a_glance_is_what_its_patterns_say() {
    let catalog = FakeCatalog::new();
    let get = catalog.id("get");
    let beginnings =
        ["", "a", "own:", "litellm:", "langfuse:", "fifteen-bytes-:", "sixteen-bytes-:x", "seventeen-bytes-:"];
    for beginning in beginnings {
        for more in ["", " ~b*", " %R~c*", " ~d", " db=0", " resetkeys %R~own:*", " resetkeys %W~own:* %R~own:*"] {
            let policy = policy(&format!("+@all ~{beginning}*{more}"));
            for known in beginnings {
                for cut in 0..=known.len() {
                    for rest in ["", "x", ":1", "12345678", "1234567812345678"] {
                        let key = format!("{}{rest}", &known[..cut]);
                        for access in [R, W, RW, EITHER] {
                            let keys = [KeyUse { key: key.as_bytes(), access, argument: 1 }];
                            let databases = [Index(7)];
                            let request =
                                Request { command: get, argv: &[], keys: &keys, channels: &[], databases: &databases };
                            let (seen, right) =
                                (policy.allows_simple(get, key.as_bytes(), access), policy.check(&request).is_ok());
                            assert!(right || !seen, "~{beginning}*{more} {key} {access:?}");
                            assert_eq!(
                                seen,
                                policy.allows_simple_keys(get, &keys),
                                "~{beginning}*{more} {key} {access:?}"
                            );
                            // Without selectors and rules about databases it is the whole answer.
                            assert!(seen == right || more.contains("db"), "~{beginning}*{more} {key} {access:?}");
                        }
                    }
                }
            }
        }
    }
}
