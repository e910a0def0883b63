//! What operators and users are told about what goes on: denials on every node.

use keyward_tests::{Cluster, Finished, Node, binary, run, wait_until};

fn ctl(node: &Node, arguments: &[&str]) -> Finished {
    let address = node.admin_address().to_string();
    let mut all = vec!["--addr", &address];
    all.extend(arguments);
    run(&binary("keywardctl"), &all, "")
}

fn error_of(value: keyward_tests::Value) -> String {
    match value {
        keyward_tests::Value::Error(text) => text,
        other => panic!("no error: {other:?}"),
    }
}

#[test]
fn a_denial_says_who_was_denied_what_and_what_would_have_been_nearest() {
    let cluster = Cluster::start(1);
    let mut admin = cluster.node(1).client();
    admin.ok(&["ACL", "SETUSER", "app", "on", ">secret", "~app:*", "~apple:*", "&app.*", "db=0", "+@all", "-eval"]);
    let mut app = cluster.node(1).client_as("app", "secret");
    for (command, expected) in [
        (&["GET", "apple"][..], "User app has no permissions to access key 'apple' (nearest pattern: '~apple:*')"),
        (&["PUBLISH", "app:x", "m"], "access channel 'app:x' (nearest pattern: '&app.*')"),
        (&["EVAL", "return 1", "0"], "User app has no permissions to run the 'eval' command"),
        (&["SELECT", "3"], "access database 3 (allowed: 0)"),
        (&["ACL", "LOAD"], "run the 'acl|load' command (tenant ceiling"),
        (&["GET", "a\r\n+OK"], "access key 'a\\x0d\\x0a+OK'"),
    ] {
        let error = error_of(app.ask(command));
        assert!(error.starts_with("NOPERM ") && error.contains(expected), "{command:?}: {error}");
    }
    let long = "k".repeat(5000);
    assert!(error_of(app.ask(&["GET", &long])).len() < 400, "a long key does not make a long answer");
}

#[test]
fn the_denials_of_all_nodes_are_one_list_that_says_which_node() {
    let mut cluster = Cluster::start(3);
    cluster.node(1).client().ok(&["ACL", "SETUSER", "app", "on", ">secret", "~app:*", "+@all"]);
    for (number, key) in [(1, "one"), (2, "two"), (3, "three")] {
        let mut app = cluster.node(number).client_as("app", "secret");
        assert!(app.ask(&["GET", key]).is_error("NOPERM"));
        assert_eq!(app.ask(&["ACL", "LOG"]).items().map(<[_]>::len), Some(1), "each node shows its own");
    }
    assert!(keyward_tests::Client::login(cluster.node(2).address(), "app", "wrong").is_err());
    let shown = ctl(cluster.node(1), &["acl", "log"]);
    assert!(shown.success, "{shown:?}");
    let lines: Vec<&str> = shown.stdout.lines().collect();
    for (node, words) in [("node-1", "one"), ("node-2", "two"), ("node-3", "three"), ("node-2", "auth")] {
        let line = lines.iter().find(|line| line.contains(words)).unwrap_or_else(|| panic!("{words}: {shown:?}"));
        assert!(line.contains(node) && line.contains("app") && line.contains("127.0.0.1:"), "{line}");
    }
    let times: Vec<&str> = lines[1..].iter().filter_map(|line| line.split(' ').next()).collect();
    assert!(times.is_sorted_by(|a, b| a >= b), "newest first: {times:?}");
    let limited = ctl(cluster.node(3), &["acl", "log", "--of", "app", "--limit", "2"]);
    assert_eq!(limited.stdout.lines().count(), 3, "{limited:?}");
    cluster.kill(3);
    wait_until("the list names the node that is gone", || {
        let shown = ctl(cluster.node(1), &["acl", "log"]);
        (shown.success && shown.stdout.contains("node-3 did not answer") && shown.stdout.contains("two")).then_some(())
    });
}

#[test]
fn the_audit_stream_tells_who_did_what_and_no_secret() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let path = folder.path().join("audit.jsonl");
    let cluster = Cluster::of(1)
        .flag("audit-file", &path.to_string_lossy())
        .flag("audit-data-sample", "1")
        .flag("enable-debug-command", "yes")
        .start();
    let node = cluster.node(1);
    let mut admin = node.client();
    admin.ok(&["ACL", "SETUSER", "app", "on", ">a-secret-password", "~app:*", "+@all"]);
    admin.ok(&["CONFIG", "SET", "slowlog-max-len", "77"]);
    let mut app = node.client_as("app", "a-secret-password");
    app.ok(&["SET", "app:key-name", "a-secret-value"]);
    assert!(app.ask(&["GET", "other-key-name"]).is_error("NOPERM"));
    app.ok(&["FLUSHALL"]);
    assert!(keyward_tests::Client::login(node.address(), "app", "a-wrong-password").is_err());
    assert!(app.ask(&["CONFIG", "SET", "maxmemory", "7777777"]).is_error("NOPERM"));
    assert!(admin.ask(&["SHUTDOWN", "FOO"]).is_error("ERR"));
    for request in [&["tenant", "list"][..], &["import", "status"], &["status"]] {
        ctl(node, request);
    }
    assert!(ctl(node, &["user", "set", "other", ">another-secret"]).success);
    let text = wait_until("the audit file has all of it", || {
        let text = std::fs::read_to_string(&path).ok()?;
        text.contains("ACL SETUSER other").then_some(text).or_else(|| {
            let text = std::fs::read_to_string(&path).ok()?;
            (text.matches("\"event\":\"policy\"").count() >= 2).then_some(text)
        })
    });
    let has = |words: &[&str]| text.lines().any(|line| words.iter().all(|word| line.contains(word)));
    for words in [
        &["\"event\":\"auth\"", "\"user\":\"app\"", "\"outcome\":\"success\"", "\"client\":\"127.0.0.1:"][..],
        &["\"event\":\"auth\"", "\"user\":\"app\"", "\"outcome\":\"failure\"", "\"cause\":"],
        &["\"event\":\"denial\"", "\"user\":\"app\"", "\"reason\":\"key\""],
        &["\"event\":\"policy\"", "\"index\":", "\"actor\":\"default\"", "\"source\":\"resp 127.0.0.1:", "app"],
        &["\"event\":\"policy\"", "\"source\":\"admin\"", "other"],
        &["\"event\":\"admin\"", "config|set", "\"outcome\":\"done\"", "\"settings\":\"slowlog-max-len\""],
        &["\"event\":\"admin\"", "config|set", "\"outcome\":\"refused\"", "\"settings\":\"maxmemory\""],
        &["\"event\":\"admin\"", "\"command\":\"shutdown\"", "\"outcome\":\"refused\""],
        &["\"event\":\"admin\"", "\"command\":\"acl|setuser\"", "\"door\":\"admin\""],
        // What was asked, and beside it the command whose right it needs.
        &["\"door\":\"admin\"", "\"call\":\"Users/SetUser\"", "\"command\":\"acl|setuser\"", "\"outcome\":\"allowed\""],
        &["\"door\":\"admin\"", "\"call\":\"Tenants/ListTenants\"", "\"command\":\"tenant|list\""],
        &["\"door\":\"admin\"", "\"call\":\"Imports/GetImport\"", "\"command\":\"replicaof\""],
        &["\"door\":\"admin\"", "\"call\":\"Cluster/GetStatus\"", "\"outcome\":\"allowed\""],
        &["\"event\":\"flush\"", "\"user\":\"app\"", "\"command\":\"flushall\""],
        &["\"event\":\"data\"", "\"user\":\"app\"", "\"command\":\"set\""],
    ] {
        assert!(has(words), "no line has {words:?}:\n{text}");
    }
    for never in ["secret", "wrong-password", "key-name", "7777777"] {
        assert!(!text.contains(never), "{never} is in the audit stream:\n{text}");
    }
    assert!(text.lines().all(|line| line.starts_with("{\"time\":\"") && line.ends_with('}')), "{text}");
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::metadata(&path).expect("the file is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

/// One connection wrote 290,000 lines in four seconds without a login, and older evidence was gone in twenty-five.
#[test]
fn nobody_rolls_the_audit_stream_away() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let path = folder.path().join("audit.jsonl");
    let cluster = Cluster::of(1)
        .flag("audit-file", &path.to_string_lossy())
        .flag("audit-lines-per-minute", "20")
        .flag("failed-logins-per-second", "0")
        .start();
    let node = cluster.node(1);
    node.client().ok(&["ACL", "SETUSER", "app", "on", ">secret", "~app:*", "+@all"]);
    let mut stranger = node.client();
    let mut app = node.client_as("app", "secret");
    for (client, request) in [(&mut stranger, &["AUTH", "nobody", "x"][..]), (&mut app, &["GET", "other"])] {
        for _ in 0..500 {
            client.send(request).expect("the node reads");
        }
        for _ in 0..500 {
            assert!(client.read().expect("the node answers").to_string().contains("error"));
        }
    }
    // Another user's line is there, whatever they do.
    node.client().ok(&["ACL", "SETUSER", "late", "on", ">secret", "~late:*", "+@all"]);
    assert!(node.client_as("late", "secret").ask(&["GET", "other"]).is_error("NOPERM"));
    let text = wait_until("the audit file has the last line", || {
        let text = std::fs::read_to_string(&path).ok()?;
        text.lines().any(|line| line.contains("\"denial\"") && line.contains("\"late\"")).then_some(text)
    });
    let lines = |words: &[&str]| text.lines().filter(|line| words.iter().all(|word| line.contains(word))).count();
    // A minute may have ended in between.
    assert!((20..=60).contains(&lines(&["\"auth\"", "\"failure\""])), "{text}");
    assert!((20..=60).contains(&lines(&["\"denial\"", "\"app\""])), "{text}");
    assert!(node.metric("keyward_audit_repeated_total").is_some_and(|count| count >= 880.0));
}

#[test]
fn a_long_read_that_is_begun_again_elsewhere_is_shown_once() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let path = folder.path().join("audit.jsonl");
    let cluster = Cluster::of(2).flag("audit-file", &path.to_string_lossy()).flag("audit-data-sample", "1").start();
    let primary = cluster.primary();
    let node = cluster.node(primary);
    let mut admin = node.client();
    admin.ok(&["ACL", "SETUSER", "app", "on", ">secret", "~app:*", "+@all"]);
    let mut watching = node.client();
    watching.ok(&["MONITOR"]);
    let mut app = node.client_as("app", "secret");
    // An answer of three megabytes takes longer to copy than a data thread has time for.
    app.ok(&["SET", "app:long", &"v".repeat(3 << 20)]);
    let mut forwarded = cluster.node(3 - primary).client_as("app", "secret");
    let long = Some(3 << 20);
    assert_eq!(app.ask(&["GET", "app:long"]).text().map(|text| text.len()), long);
    assert_eq!(forwarded.ask(&["GET", "app:long"]).text().map(|text| text.len()), long);
    app.ask(&["GETRANGE", "app:long", "0", "-1"]);
    app.ask(&["STRLEN", "app:long"]);
    let mut shown = Vec::new();
    while !shown.last().is_some_and(|line: &String| line.contains("STRLEN")) {
        let line = match watching.read().expect("a command is shown") {
            keyward_tests::Value::Simple(line) => line,
            other => panic!("no line: {other:?}"),
        };
        shown.push(line.chars().take(80).collect());
    }
    let count = |word: &str| shown.iter().filter(|line| line.contains(word)).count();
    assert_eq!((count("\"GET\""), count("\"GETRANGE\""), count("\"SET\"")), (2, 1, 1), "{shown:?}");
    let text = wait_until("the audit stream has all of it", || {
        let text = std::fs::read_to_string(&path).ok()?;
        text.contains("\"command\":\"strlen\"").then_some(text)
    });
    let told = |command: &str| text.matches(&format!("\"command\":\"{command}\"")).count();
    assert!(told("get") <= 2 + 1 && told("getrange") == 1, "{text}");
}

#[test]
fn a_user_who_is_only_watched_is_denied_nothing_but_what_no_rule_allows() {
    let cluster = Cluster::start(3);
    let mut admin = cluster.node(1).client();
    admin.ok(&["ACL", "SETUSER", "app", "on", ">secret", "~app:*", "+get", "mode=report"]);
    let line = admin.ask(&["ACL", "LIST"]).texts().into_iter().find(|line| line.starts_with("user app "));
    assert!(line.is_some_and(|line| line.contains(" mode=report ")));
    let fields = admin.ask(&["ACL", "GETUSER", "app"]);
    let flags = fields.items().map(|fields| fields[1].texts()).unwrap_or_default();
    assert_eq!(flags, ["on", "mode=report"]);
    for node in cluster.nodes() {
        let mut app = node.client_as("app", "secret");
        app.ok(&["SET", "app:1", "v"]);
        app.ok(&["SET", "elsewhere:1", "v"]);
        app.ok(&["MULTI"]);
        assert!(app.ask(&["INCR", "elsewhere:count"]).text().is_some_and(|text| text == "QUEUED"));
        assert!(app.ask(&["EXEC"]).items().is_some());
        assert!(app.ask(&["EVAL", "return redis.call('get', 'elsewhere:1')", "0"]).text().is_some());
        assert!(app.ask(&["CONFIG", "SET", "maxmemory", "1"]).is_error("NOPERM"), "the ceiling stays");
        assert!(app.ask(&["ACL", "SETUSER", "app", "mode=enforce"]).is_error("NOPERM"));
    }
    let shown = ctl(cluster.node(2), &["acl", "log", "--of", "app"]);
    let reported = |object: &str| shown.stdout.lines().any(|line| line.contains(object) && line.contains(" report "));
    assert!(reported("elsewhere:1") && reported(" set "), "{shown:?}");
    let advice = ctl(cluster.node(3), &["advise", "app"]);
    assert!(advice.success, "{advice:?}");
    for word in ["keywardctl user set app", "+incr", "+eval", "'~elsewhere:", "outside its rules: elsewhere:"] {
        assert!(advice.stdout.contains(word), "{word}: {}", advice.stdout);
    }
    assert!(!advice.stdout.contains("+lpush"));
    // Whoever follows the advice is denied nothing.
    let json = ctl(cluster.node(3), &["--output", "json", "advise", "app"]);
    let rules: Vec<String> = json
        .stdout
        .split_once("\"rules\": [")
        .and_then(|(_, rest)| rest.split_once(']'))
        .map(|(rules, _)| rules.split('"').skip(1).step_by(2).map(|rule| rule.replace("\\\\", "\\")).collect())
        .unwrap_or_default();
    assert!(json.stdout.contains("\"prefix\": \"elsewhere:"), "{}", json.stdout);
    let mut words = vec!["ACL", "SETUSER", "app", "mode=enforce"];
    words.extend(rules.iter().map(String::as_str));
    admin.ok(&words);
    let mut app = cluster.node(2).client_as("app", "secret");
    app.ok(&["SET", "app:1", "v"]);
    app.ok(&["SET", "elsewhere:1", "v"]);
    assert!(app.ask(&["SET", "third", "v"]).is_error("NOPERM"));
    assert!(app.ask(&["LPUSH", "app:1", "v"]).is_error("NOPERM"));
}

#[test]
fn whoever_is_only_watched_stays_within_its_tenant() {
    let cluster = Cluster::start(1);
    let mut admin = cluster.node(1).client();
    admin.ok(&["ACL", "SETUSER", "gw-user", "on", ">secret", "~gw:a:*", "+get", "mode=report"]);
    admin.ok(&["TENANT", "CREATE", "gw", "PREFIX", "gw:", "USER", "gw-user"]);
    let mut gw = cluster.node(1).client_as("gw-user", "secret");
    gw.ok(&["SET", "gw:b:1", "v"]);
    assert!(gw.ask(&["SET", "other:1", "v"]).is_error("NOPERM"), "no rule of a tenant's user reaches further");
}

#[test]
fn whoever_is_only_watched_hears_of_no_keys_its_rules_do_not_name() {
    let cluster = Cluster::start(1);
    let mut admin = cluster.node(1).client();
    admin.ok(&["CONFIG", "SET", "notify-keyspace-events", "KA"]);
    admin.ok(&["ACL", "SETUSER", "ai-user", "on", ">secret", "~*", "&*", "+@all"]);
    admin.ok(&["TENANT", "CREATE", "ai", "PREFIX", "ai:", "USER", "ai-user"]);
    admin.ok(&["ACL", "SETUSER", "watched", "on", ">secret", "~w:*", "resetchannels", "+@all", "mode=report"]);
    let mut watched = cluster.node(1).client_as("watched", "secret");
    watched.ask(&["PSUBSCRIBE", "__keyspace@0__:*"]);
    cluster.node(1).client_as("ai-user", "secret").ok(&["SET", "ai:1", "v"]);
    admin.ok(&["SET", "of nobody", "v"]);
    admin.ok(&["SET", "w:1", "v"]);
    let heard = watched.read().expect("a message").texts();
    assert_eq!(heard, ["pmessage", "__keyspace@0__:*", "__keyspace@0__:w:1", "set"], "the first it is told of");
}

#[test]
fn the_doctor_says_what_is_wrong_and_what_mends_it() {
    let cluster = Cluster::start(3);
    let mut admin = cluster.node(1).client();
    let doctor = |name: &str| ctl(cluster.node(2), &["doctor", name]);
    let missing = doctor("litellm");
    assert!(!missing.success && missing.stdout.contains("no user is called 'litellm'"), "{missing:?}");
    admin.ok(&["ACL", "SETUSER", "litellm", ">secret", "~litelm:*", "+@all"]);
    assert!(keyward_tests::Client::login(cluster.node(3).address(), "litellm", "secret").is_err());
    let off = doctor("litellm");
    assert!(off.stdout.contains("it is off") && off.stdout.contains("keywardctl user set litellm on"), "{off:?}");
    assert!(off.stdout.contains("logins as 'litellm' failed lately") && off.stdout.contains("node-3"), "{off:?}");
    admin.ok(&["ACL", "SETUSER", "litellm", "on"]);
    let mut app = cluster.node(1).client_as("litellm", "secret");
    assert!(app.ask(&["GET", "litellm:cache:1"]).is_error("NOPERM"));
    let typo = doctor("litellm");
    assert!(
        typo.stdout.contains("the key 'litellm:cache:1' was denied") && typo.stdout.contains("a typo?"),
        "{typo:?}"
    );
    assert!(typo.stdout.contains("all 3 nodes that answered have its last change"), "{typo:?}");
    admin.ok(&["ACL", "SETUSER", "litellm", "~litellm:*"]);
    for node in cluster.nodes() {
        node.client().ok(&["ACL", "LOG", "RESET"]);
    }
    let healthy = doctor("litellm");
    assert!(healthy.success, "{healthy:?}");
}

#[test]
fn what_a_tenant_does_is_counted_under_its_name() {
    let cluster = Cluster::of(3).flag("metrics-tenants-max", "2").start();
    let mut admin = cluster.node(1).client();
    for name in ["gw", "sub", "zeta"] {
        admin.ok(&["ACL", "SETUSER", name, "on", ">secret", &format!("~{name}:*"), "+@all"]);
        admin.ok(&["TENANT", "CREATE", name, "PREFIX", &format!("{name}:"), "USER", name]);
    }
    let owner = cluster.primary();
    let other = owner % 3 + 1;
    for number in [owner, other] {
        let mut gw = cluster.node(number).client_as("gw", "secret");
        for key in 0..10 {
            gw.ok(&["SET", &format!("gw:{number}:{key}"), &"v".repeat(1000)]);
            assert!(gw.ask(&["GET", &format!("gw:{number}:{key}")]).text().is_some());
            assert!(gw.ask(&["GET", "gw:missing"]).text().is_none());
        }
        assert!(gw.ask(&["GET", "sub:1"]).is_error("NOPERM"));
        // A client on whose behalf nothing more runs has been charged for all of it.
        gw.ask(&["PING"]);
    }
    let node = cluster.node(owner);
    let labelled = |name: &str| format!("keyward_tenant_{name}{{tenant=\"gw\"}}");
    wait_until("the hits of both clients are counted where the data is", || {
        (node.metric(&labelled("keyspace_hits_total"))? >= 20.0).then_some(())
    });
    assert!(node.metric(&labelled("keyspace_misses_total")).is_some_and(|count| count >= 20.0));
    assert_eq!(node.metric(&labelled("keys")), Some(20.0));
    assert!(node.metric(&labelled("memory_bytes")).is_some_and(|bytes| bytes > 20_000.0));
    assert!(node.metric(&labelled("input_bytes_total")).is_some_and(|bytes| bytes > 10_000.0));
    assert!(node.metric(&labelled("cpu_seconds_total")).is_some_and(|seconds| seconds > 0.0));
    assert!(node.metric("keyward_tenant_denied_total{tenant=\"gw\",reason=\"key\"}").is_some_and(|count| count >= 1.0));
    assert_eq!(node.metric("keyward_tenant_keys{tenant=\"sub\"}"), Some(0.0));
    assert_eq!(node.metric("keyward_tenant_keys{tenant=\"zeta\"}"), None, "the label is bounded");
    assert!(node.metric("keyward_tenant_operations_total{tenant=\"_other\"}").is_some());
    let stats = admin.ask(&["TENANT", "STATS", "gw"]);
    assert!(format!("{stats:?}").len() > 100);
    let own = cluster.node(owner).client_as("gw", "secret").text(&["INFO", "tenant"]);
    assert!(own.contains("tenant:gw\r\n") && own.contains("keyspace_hits:20\r\n"), "{own}");
    assert!(!admin.text(&["INFO", "everything"]).contains("# Tenant"), "who belongs to none has none");
    let usage = ctl(cluster.node(other), &["usage", "--csv"]);
    assert!(usage.success && usage.stdout.starts_with("day,tenant,node,"), "{usage:?}");
    let operations: u64 = usage
        .stdout
        .lines()
        .filter(|line| line.split(',').nth(1) == Some("gw"))
        .filter_map(|line| line.split(',').nth(4)?.parse::<u64>().ok())
        .sum();
    // 2 x 30 on data, and AUTH, PING and the like; what was forwarded is counted once.
    assert!((60..=75).contains(&operations), "{operations} operations: {usage:?}");
    for month in ["November", "2026-13", "2026-1", "26-11", "2026-+1"] {
        let wrong = ctl(cluster.node(1), &["usage", "--month", month]);
        assert!(wrong.code == Some(2) && wrong.stderr.contains("looks like"), "{month}: {wrong:?}");
    }
    let past = ctl(cluster.node(1), &["usage", "--month", "2024-02"]);
    assert!(past.success, "{past:?}");
}

/// What stands behind the first word of a line that begins with it.
fn row<'a>(table: &'a str, first: &str) -> Vec<&'a str> {
    let line = table.lines().find(|line| line.split_whitespace().next() == Some(first));
    line.unwrap_or_else(|| panic!("no {first}:\n{table}")).split_whitespace().skip(1).collect()
}

#[test]
fn what_a_tenant_uses_is_told_by_node_and_together_whichever_node_is_asked() {
    let mut cluster = Cluster::start(3);
    let mut admin = cluster.node(1).client();
    for (name, limit) in [("gw", "100mb"), ("sub", "1mb")] {
        admin.ok(&["ACL", "SETUSER", name, "on", ">secret", &format!("~{name}:*"), "+@all"]);
        admin.ok(&["TENANT", "CREATE", name, "PREFIX", &format!("{name}:"), "USER", name, "limit", limit]);
    }
    let primary = cluster.primary();
    let (other, third) = (primary % 3 + 1, (primary + 1) % 3 + 1);
    let mut here = cluster.node(primary).client_as("gw", "secret");
    let mut there = cluster.node(other).client_as("gw", "secret");
    for number in 0..20 {
        let client = if number % 2 == 0 { &mut here } else { &mut there };
        client.ok(&["SET", &format!("gw:{number}"), "v"]);
    }
    let (table, operations) = wait_until("every node has a copy, and what was forwarded is counted", || {
        let table = ctl(cluster.node(third), &["tenant", "stats", "gw"]).stdout;
        let operations: u64 = row(&table, "operations").last()?.parse().ok()?;
        // Copies are no more keys.
        (operations >= 20 && row(&table, "keys") == ["20"; 4]).then_some((table, operations))
    });
    // In the order of their ids, which need not be that of their names.
    let heading = row(&table, "FIGURE");
    assert!(heading.len() == 4 && heading[3] == "ALL", "{table}");
    let of = |figure: &str, number: usize| {
        let at = heading.iter().position(|name| *name == format!("NODE-{number}")).expect("each has a column");
        row(&table, figure)[at].to_owned()
    };
    assert_eq!(row(&table, "memory")[3], of("memory", primary), "nor more memory:\n{table}");
    assert_eq!(row(&table, "limit")[3], (100 << 20).to_string(), "{table}");
    let connections = [of("connections", other), of("connections", third), row(&table, "connections")[3].to_owned()];
    assert_eq!(connections, ["1", "0", "2"], "{table}");
    // What one forwards and another runs: once. Each logged in, and said a few things besides.
    assert!(operations <= 30, "{table}");
    assert!(row(&table, "forwarded")[3].parse::<u64>().is_ok_and(|count| count >= 10), "{table}");
    let json = ctl(cluster.node(other), &["--output", "json", "tenant", "stats", "gw"]).stdout;
    let served = json.matches("\"served_keys\": 20,").count();
    assert!(served == 1 && json.matches("\"served_keys\": 0,").count() == 2, "{json}");
    assert!(json.contains("\"cluster\": [") && json.matches("\"limit\": 104857600,").count() == 4, "{json}");
    let table = ctl(cluster.node(other), &["tenant", "stats"]);
    let names: Vec<&str> = table.stdout.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(names, ["TENANT", "gw", "sub"], "{table:?}");
    let missing = ctl(cluster.node(1), &["tenant", "stats", "nobody"]);
    assert!(missing.code == Some(1) && missing.stderr.contains("no tenant 'nobody'"), "{missing:?}");
    // Whoever may not ask one node may not ask all.
    admin.ok(&["ACL", "SETUSER", "reader", "on", ">secret", "~*", "+@all", "-tenant|stats"]);
    let folder = tempfile::tempdir().expect("a folder can be made");
    let password = folder.path().join("password");
    std::fs::write(&password, "secret").expect("the folder is writable");
    let credentials = ["--user", "reader", "--password-file", &password.to_string_lossy()];
    let denied = ctl(cluster.node(1), &[&credentials[..], &["tenant", "stats"]].concat());
    assert_eq!(denied.code, Some(3), "{denied:?}");
    cluster.kill(third);
    wait_until("the node that is gone is named", || {
        let told = ctl(cluster.node(primary), &["tenant", "stats", "gw"]);
        told.stdout.contains(&format!("node-{third} did not answer")).then_some(())
    });
}

#[test]
fn usage_survives_a_restart_and_goes_on() {
    let mut cluster = Cluster::start(1);
    let mut admin = cluster.node(1).client();
    admin.ok(&["ACL", "SETUSER", "gw", "on", ">secret", "~gw:*", "+@all"]);
    admin.ok(&["TENANT", "CREATE", "gw", "PREFIX", "gw:", "USER", "gw"]);
    let work = |cluster: &Cluster| {
        let mut gw = cluster.node(1).client_as("gw", "secret");
        (0..100).for_each(|number| gw.ok(&["SET", &format!("gw:{number}"), "v"]));
    };
    let used = |cluster: &Cluster| -> u64 {
        let usage = ctl(cluster.node(1), &["--output", "json", "usage"]);
        let of_gw = usage.stdout.split("\"tenant\": \"gw\"").nth(1).unwrap_or_default();
        // Fields of an object are in no order that matters: the row is between two braces.
        let row = usage.stdout.split('{').find(|row| row.contains("\"tenant\": \"gw\"")).unwrap_or(of_gw).to_owned();
        let number = row.split("\"operations\": ").nth(1).unwrap_or_default();
        number.split(|letter: char| !letter.is_ascii_digit()).next().and_then(|digits| digits.parse().ok()).unwrap_or(0)
    };
    work(&cluster);
    wait_until("the first hundred are counted", || (used(&cluster) >= 100).then_some(()));
    cluster.stop(1);
    cluster.restart(1);
    let before = used(&cluster);
    assert!(before >= 100, "{before}");
    work(&cluster);
    wait_until("the second hundred come on top", || (used(&cluster) >= before + 100).then_some(()));
}

/// Dashboards made for Redis read these; scripts and clients hear of one version.
#[test]
fn info_has_what_dashboards_of_redis_read_and_names_one_version() {
    let cluster = Cluster::start(3);
    let mut client = cluster.node(cluster.primary()).client();
    let value = "x".repeat(100_000);
    let field = |info: &str, name: &str| -> String {
        let line = info.split("\r\n").find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("{name} is missing")).to_owned()
    };
    let info = wait_until("what comes in is counted", || {
        client.ok(&["SET", "k", &value]);
        client.text(&["GET", "k"]);
        let info = client.text(&["INFO", "everything"]);
        let counts = |name| field(&info, name).parse::<f64>().expect("a number") > 0.0;
        (counts("instantaneous_input_kbps") && counts("instantaneous_output_kbps")).then_some(info)
    });
    for name in
        ["sync_full", "sync_partial_ok", "sync_partial_err", "mem_fragmentation_bytes", "mem_replication_backlog"]
    {
        assert!(field(&info, name).parse::<i64>().is_ok(), "{name}");
    }
    // What is never done is said to be so, since dashboards look for it.
    for name in [
        "active_defrag_hits",
        "active_defrag_misses",
        "current_cow_size",
        "rdb_last_cow_size",
        "aof_last_cow_size",
        "io_threaded_reads_processed",
        "slave_expires_tracked_keys",
        "rdb_last_load_keys_loaded",
    ] {
        assert_eq!(field(&info, name), "0", "{name}");
    }
    let seconds = |name| field(&info, name).parse::<f64>().expect("seconds");
    assert!(seconds("used_cpu_user_main_thread") <= seconds("used_cpu_user"));
    assert_eq!(seconds("used_cpu_sys_children"), 0.0);
    assert_eq!(field(&info, "aof_last_write_status"), "ok");
    assert_eq!(client.text(&["EVAL", "return redis.REDIS_VERSION", "0"]), field(&info, "redis_version"));
}
