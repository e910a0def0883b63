//! Memory of tenants on three nodes: each stays within its limit by its own policy, what one was promised nobody takes
//! away, and what is idle is lent.

use keyward_tests::{Client, Cluster, Dice, Value, binary, run, wait_until, wait_until_for};
use std::time::Duration;

const POLICIES: [&str; 7] =
    ["allkeys-lru", "allkeys-lfu", "allkeys-random", "volatile-lru", "volatile-lfu", "volatile-random", "volatile-ttl"];

fn tenant(admin: &mut Client, name: &str, settings: &[&str]) {
    admin.ok(&["ACL", "SETUSER", name, "on", ">secret", "~*", "&*", "+@all"]);
    let prefix = format!("{name}:");
    let words: Vec<&str> =
        ["TENANT", "CREATE", name, "PREFIX", &prefix, "USER", name].iter().chain(settings).copied().collect();
    admin.ok(&words);
}

fn stat(admin: &mut Client, tenant: &str, name: &str) -> i64 {
    let texts = admin.ask(&["TENANT", "STATS", tenant]);
    let items = texts.items().expect("TENANT STATS answers with pairs");
    let at = items.iter().position(|item| item.text().as_deref() == Some(name)).expect("the figure is there");
    match &items[at + 1] {
        Value::Integer(number) => *number,
        other => panic!("{name} is {other:?}"),
    }
}

fn is_oom(reply: &Value) -> bool {
    reply.is_error("OOM command not allowed when used memory > 'maxmemory'")
}

/// Writes until refused; how many keys there are.
fn fill(client: &mut Client, prefix: &str) -> usize {
    let value = "x".repeat(1000);
    (0..100_000)
        .position(|number| is_oom(&client.ask(&["SET", &format!("{prefix}{number}"), &value])))
        .expect("refused")
}

#[test]
fn a_tenant_that_keeps_its_keys_is_refused_at_its_limit_whatever_way_it_writes() {
    let cluster = Cluster::of(3).flag("enable-debug-command", "yes").start();
    let mut admin = cluster.node(1).client();
    tenant(&mut admin, "gw", &["limit", "1mb", "eviction", "noeviction"]);
    tenant(&mut admin, "lf", &[]);
    let mut gw = cluster.node(2).client_as("gw", "secret");
    gw.ask(&["RPUSH", "gw:list", "a"]);
    let mut waits = cluster.node(1).client_as("gw", "secret");
    waits.send(&["BLMOVE", "gw:empty", "gw:other", "LEFT", "LEFT", "0"]).expect("it is sent");
    let keys = fill(&mut gw, "gw:");
    assert!((700..1100).contains(&keys), "{keys} keys of a kilobyte");
    let refused = gw.ask(&["SET", "gw:more", "v"]);
    assert!(refused.is_error("OOM command not allowed when used memory > 'maxmemory' (tenant gw)"), "{refused}");
    for node in cluster.nodes() {
        let mut gw = node.client_as("gw", "secret");
        for command in [
            &["SET", "gw:1", "y"][..],
            &["RPUSH", "gw:list", "b"],
            &["APPEND", "gw:1", "b"],
            &["COPY", "gw:1", "gw:copy"],
            &["SORT", "gw:list", "BY", "nosort", "STORE", "gw:sorted"],
            &["EVAL", "return redis.call('SET', KEYS[1], 'v')", "1", "gw:s"],
            &["EVAL", "return redis.call('SET', 'gw:undeclared', 'v')", "0"],
        ] {
            let reply = gw.ask(command);
            assert!(is_oom(&reply) || reply.is_error("ERR OOM"), "{command:?}: {reply}");
        }
        assert_eq!(gw.ask(&["GET", "gw:1"]).text().map(|value| value.len()), Some(1000));
        gw.ok(&["MULTI"]);
        assert!(is_oom(&gw.ask(&["SET", "gw:1", "y"])));
        assert!(gw.ask(&["EXEC"]).is_error("EXECABORT"));
        // There is room when it begins, and none when it is to be carried out.
        gw.ask(&["DEL", "gw:0", "gw:filled"]);
        gw.ok(&["MULTI"]);
        assert_eq!(gw.ask(&["SET", "gw:1", "y"]).text().as_deref(), Some("QUEUED"));
        let mut other = node.client_as("gw", "secret");
        other.ok(&["SET", "gw:filled", &"x".repeat(3000)]);
        assert!(gw.ask(&["EXEC"]).is_error("EXECABORT Transaction discarded because of: OOM"));
        let flagged = "#!lua flags=allow-oom\nreturn redis.call('SET', KEYS[1], string.rep('x', 1000))";
        assert_eq!(gw.ask(&["EVAL", flagged, "1", "gw:1"]).text().as_deref(), Some("OK"));
    }
    // Whoever writes there, and whoever waits.
    let dump = admin.ask(&["DUMP", "gw:2"]);
    let Value::Bulk(dump) = dump else { panic!("{dump:?}") };
    assert!(is_oom(&admin.ask(&[&b"RESTORE"[..], b"gw:3", b"0", &dump, b"REPLACE"])));
    assert!(is_oom(&admin.ask(&["SET", "gw:3", "v"])));
    assert!(is_oom(&admin.ask(&["COPY", "gw:4", "gw:5", "REPLACE"])));
    assert!(is_oom(&admin.ask(&["EVAL", "return redis.call('SET', 'gw:5', 'v')", "0"])));
    admin.ok(&["SET", "free", "v"]);
    assert_eq!(admin.ask(&["COPY", "gw:4", "free", "REPLACE"]), Value::Integer(1));
    admin.ok(&["RENAME", "gw:list", "gw:empty"]);
    assert!(is_oom(&waits.read().expect("the one that waits is answered")));
    // Others have room, and so has whoever deletes something.
    cluster.node(3).client_as("lf", "secret").ok(&["SET", "lf:1", "v"]);
    let few: Vec<String> = (1..51).map(|number| format!("gw:{number}")).collect();
    let del: Vec<&str> = std::iter::once("DEL").chain(few.iter().map(String::as_str)).collect();
    assert_eq!(gw.ask(&del), Value::Integer(50));
    gw.ok(&["SET", "gw:more", "v"]);
    assert_eq!(stat(&mut admin, "gw", "evicted-keys"), 0);
    assert!(stat(&mut admin, "gw", "refused-for-memory") > 20);
    assert_eq!(stat(&mut admin, "gw", "limit"), 1 << 20);
    cluster.copies_agree("a tenant was refused");
}

/// What DUMP answers of a list whose nodes are so many strings of a million bytes, packed as tightly as LZF packs.
fn packed_list(nodes: usize) -> Vec<u8> {
    const REPEATS: usize = 4000;
    let packed = [&b"\x00a"[..], &b"\xe0\xff\x00".repeat(REPEATS)].concat();
    let len = |len: usize| [&[0x81][..], &(len as u64).to_be_bytes()].concat();
    let node = [&[1, 0xc3][..], &len(packed.len()), &len(1 + 264 * REPEATS), &packed].concat();
    let mut payload = [&[18][..], &len(nodes), &node.repeat(nodes), &[11, 0]].concat();
    let checksum = keyward_engine::dump::Checksum::of(&payload).value();
    payload.extend(checksum.to_le_bytes());
    payload
}

#[test]
fn a_payload_unpacks_to_no_more_than_its_owner_may_still_have() {
    let cluster = Cluster::of(3).flag("enable-debug-command", "yes").start();
    let mut admin = cluster.node(1).client();
    tenant(&mut admin, "gw", &["limit", "4mb", "eviction", "noeviction"]);
    tenant(&mut admin, "lf", &["limit", "8mb", "eviction", "allkeys-lru"]);
    tenant(&mut admin, "ai", &["value-bytes", "100kb"]);
    let (fits, bomb) = (packed_list(2), packed_list(40));
    assert!(bomb.len() < 600_000);
    let script = "return redis.call('RESTORE', KEYS[1], 0, ARGV[1])";
    for node in cluster.nodes() {
        for name in ["gw", "lf"] {
            let key = format!("{name}:bomb").into_bytes();
            let mut client = node.client_as(name, "secret");
            let refused = client.ask(&[&b"RESTORE"[..], &key, b"0", &bomb]);
            assert!(refused.is_error("OOM the payload unpacks to more than there is memory for"), "{name}: {refused}");
            assert!(client.ask(&[&b"EVAL"[..], script.as_bytes(), b"1", &key, &bomb]).is_error(""), "{name}");
            assert_eq!(client.ask(&[&b"EXISTS"[..], &key]), Value::Integer(0));
            assert!(stat(&mut admin, name, "memory") < 1_000_000, "{name}");
        }
        // The operator's request costs the tenant as much.
        assert!(node.client().ask(&[&b"RESTORE"[..], b"gw:bomb", b"0", &bomb]).is_error("OOM"));
        let long = node.client_as("ai", "secret").ask(&[&b"RESTORE"[..], b"ai:bomb", b"0", &fits]);
        assert!(long.is_error("ERR the payload unpacks to more than one argument may have (value-bytes"), "{long}");
    }
    // All of its strings together are held against it, however short each is.
    admin.ok(&["TENANT", "SET", "ai", "value-bytes", "3mb"]);
    let mut ai = cluster.node(2).client_as("ai", "secret");
    ai.ok(&[&b"RESTORE"[..], b"ai:fits", b"0", &fits]);
    let long = ai.ask(&[&b"RESTORE"[..], b"ai:long", b"0", &packed_list(3)]);
    assert!(long.is_error("ERR the payload unpacks to more than one argument may have (value-bytes"), "{long}");
    let mut gw = cluster.node(2).client_as("gw", "secret");
    gw.ok(&[&b"RESTORE"[..], b"gw:list", b"0", &fits]);
    assert_eq!(gw.ask(&["LLEN", "gw:list"]), Value::Integer(2));
    assert!(gw.ask(&[&b"RESTORE"[..], b"gw:other", b"0", &packed_list(3)]).is_error("OOM"), "two of four are used");
    admin.ok(&[&b"RESTORE"[..], b"anybodys", b"0", &bomb]);
    cluster.copies_agree("packed payloads were restored");
}

#[test]
fn what_a_tenant_lost_is_told_alike_by_every_node() {
    let cluster = Cluster::of(3).flag("enable-debug-command", "yes").start();
    let mut admin = cluster.node(1).client();
    tenant(&mut admin, "lf", &["limit", "1mb", "eviction", "allkeys-random"]);
    let mut lf = cluster.node(2).client_as("lf", "secret");
    let value = "x".repeat(1000);
    (0..2000).for_each(|number| lf.ok(&["SET", &format!("lf:{number}"), &value]));
    wait_until("the tenant is within its limit", || (stat(&mut admin, "lf", "memory") <= 1 << 20).then_some(()));
    cluster.copies_agree("the tenant's keys went");
    let lost = stat(&mut admin, "lf", "evicted-keys");
    assert!(lost > 500, "{lost}");
    for node in cluster.nodes() {
        let mut lf = node.client_as("lf", "secret");
        for section in ["stats", "tenant"] {
            let info = lf.text(&["INFO", section]);
            let told: Vec<&str> = info.lines().filter_map(|line| line.strip_prefix("evicted_keys:")).collect();
            assert!(
                !told.is_empty() && told.iter().all(|told| *told == lost.to_string()),
                "{section}: {told:?} {lost}"
            );
        }
        let address = node.admin_address().to_string();
        for verb in [&["get", "lf"][..], &["list"]] {
            let words = [&["--addr", &address, "--output", "json", "tenant"], verb].concat();
            let told = run(&binary("keywardctl"), &words, "").stdout;
            assert!(told.contains(&lost.to_string()), "{verb:?} at node {}: {told} {lost}", node.number());
        }
    }
}

#[test]
fn every_policy_keeps_a_tenant_within_its_limit_and_takes_nobody_elses_keys() {
    const LIMIT: i64 = 2 << 20;
    let cluster = Cluster::of(3).flag("enable-debug-command", "yes").start();
    let mut admin = cluster.node(1).client();
    tenant(&mut admin, "lf", &[]);
    let mut lf = cluster.node(1).client_as("lf", "secret");
    (0..2000).for_each(|number| lf.ok(&["SET", &format!("lf:{number}"), "v", "EX", "100000"]));
    tenant(&mut admin, "gw", &["limit", "2mb"]);
    for (turn, policy) in POLICIES.into_iter().enumerate() {
        admin.ok(&["TENANT", "SET", "gw", "eviction", policy]);
        let mut gw = cluster.node(turn % 3 + 1).client_as("gw", "secret");
        let value = "x".repeat(1000);
        let before = stat(&mut admin, "gw", "evicted-keys");
        for number in 0..4000 {
            gw.ok(&["SET", &format!("gw:{turn}:{number}"), &value, "EX", &(1000 + number % 100).to_string()]);
        }
        let (used, evicted) = (stat(&mut admin, "gw", "memory"), stat(&mut admin, "gw", "evicted-keys") - before);
        assert!(used <= LIMIT + (64 << 10), "{policy}: {used}");
        assert!(evicted > 2000, "{policy}: {evicted}");
    }
    assert_eq!(lf.ask(&["DBSIZE"]), Value::Integer(2000));
    cluster.copies_agree("keys were evicted");
    // A lower limit lets keys go in the background, and a policy that finds none refuses.
    admin.ok(&["TENANT", "SET", "gw", "limit", "1mb"]);
    wait_until("the tenant is within its new limit", || (stat(&mut admin, "gw", "memory") <= 1 << 20).then_some(()));
    let mut gw = cluster.node(1).client_as("gw", "secret");
    gw.ok(&["FLUSHALL"]);
    fill(&mut gw, "gw:");
    assert_eq!(lf.ask(&["DBSIZE"]), Value::Integer(2000));
}

#[test]
fn a_burst_beside_a_queue_costs_the_queue_nothing() {
    let cluster = Cluster::of(3).flag("enable-debug-command", "yes").flag("maxmemory", "24mb");
    let cluster = cluster.flag("maxmemory-policy", "allkeys-lru").start();
    let mut admin = cluster.node(1).client();
    tenant(&mut admin, "litellm", &["eviction", "allkeys-lru"]);
    tenant(&mut admin, "langfuse", &["reserve", "12mb", "eviction", "noeviction"]);
    let mut queue = cluster.node(2).client_as("langfuse", "secret");
    let job = "j".repeat(1000);
    (0..1000).for_each(|number| queue.ok(&["SET", &format!("langfuse:job:{number}"), &job]));
    let mut burst = cluster.node(3).client_as("litellm", "secret");
    let value = "x".repeat(4000);
    for number in 0..6000 {
        burst.ok(&["SET", &format!("litellm:{number}"), &value]);
    }
    // Idle reserve is lent …
    assert!(stat(&mut admin, "litellm", "memory") > 14 << 20);
    // … and given back when it is wanted.
    for number in 1000..2000 {
        queue.ok(&["SET", &format!("langfuse:job:{number}"), &job]);
        burst.ok(&["SET", &format!("litellm:again:{number}"), &value]);
    }
    for number in 2000..8000 {
        queue.ok(&["SET", &format!("langfuse:more:{number}"), &job]);
    }
    for number in 0..2000 {
        assert_eq!(queue.ask(&["EXISTS", &format!("langfuse:job:{number}")]), Value::Integer(1), "job {number}");
    }
    assert_eq!(queue.ask(&["DBSIZE"]), Value::Integer(8000));
    assert_eq!(stat(&mut admin, "langfuse", "refused-for-memory"), 0);
    // Beyond its reserve, a queue that keeps its keys has what nobody was promised, and no more.
    admin.ok(&["TENANT", "SET", "litellm", "reserve", "10mb"]);
    fill(&mut queue, "langfuse:fill:");
    burst.ok(&["SET", "litellm:one", &value]);
    let kept = stat(&mut admin, "langfuse", "memory");
    assert!((12 << 20..15 << 20).contains(&kept), "{kept} bytes");
    wait_until_for(Duration::from_secs(10), "all nodes agree", || {
        cluster.difference_of_copies().is_none().then_some(())
    });
}

#[test]
fn memory_doctor_speaks_of_a_users_own_memory_and_of_nothing_else() {
    let cluster = Cluster::of(3).flag("maxmemory", "100mb").flag("maxmemory-policy", "allkeys-lfu").start();
    let mut admin = cluster.node(1).client();
    tenant(&mut admin, "small", &["limit", "1mb", "eviction", "allkeys-lru"]);
    tenant(&mut admin, "bull", &["limit", "20mb", "reserve", "2mb", "eviction", "volatile-lru", "keys", "10000"]);
    admin.ok(&["ACL", "SETUSER", "u", "on", ">secret", "~u:*", "+@all"]);
    let mut bull = cluster.node(1).client_as("bull", "secret");
    let nothing = "There is too little data to say anything about memory.\n";
    let first = "tenant bull: 0 keys take 0B; limit 20.00M, reserve 2.00M, policy volatile-lru, 0 keys evicted.\n";
    assert_eq!(bull.text(&["MEMORY", "DOCTOR"]), format!("{first}{nothing}"));
    let fill = "for n = 1, tonumber(ARGV[1]) do redis.call('SET', KEYS[1] .. n, string.rep('x', 1000)) end";
    bull.ask(&["EVAL", fill, "1", "bull:", "9500"]);
    let mut small = cluster.node(2).client_as("small", "secret");
    for part in 0..3 {
        small.ask(&["EVAL", fill, "1", &format!("small:{part}:"), "600"]);
    }
    small.ok(&["SET", "small:last", "v"]);
    admin.ok(&["SET", "u:1", "v"]);
    admin.ask(&["WAIT", "2", "10000"]);
    for node in cluster.nodes() {
        let told = node.client_as("bull", "secret").text(&["MEMORY", "DOCTOR"]);
        assert!(told.starts_with("tenant bull: 9500 keys take "), "{told}");
        for advice in [
            "- It has more than nine tenths of the keys it may have.\n",
            " lie beyond its reserve: they are given back when others need theirs.\n",
            "- None of its keys expires, and its policy evicts only such: at its limit writes are refused.\n",
        ] {
            assert!(told.contains(advice), "{advice}: {told}");
        }
        assert_eq!(told.lines().count(), 4, "{told}");
        let evicted = stat(&mut cluster.node(cluster.primary()).client(), "small", "evicted-keys");
        let told = node.client_as("small", "secret").text(&["MEMORY", "DOCTOR"]);
        assert!(evicted > 0 && told.contains(&format!(", policy allkeys-lru, {evicted} keys evicted.\n")), "{told}");
        assert!(told.contains("nine tenths of its limit are in use; beyond it keys are evicted."), "{told}");
        // What the node has, may use and does is nobody's who is confined.
        let told = node.client_as("u", "secret").text(&["MEMORY", "DOCTOR"]);
        assert!(told.starts_with("user u: 1 keys take ") && told.ends_with(nothing), "{told}");
        assert!(!told.contains("maxmemory") && told.lines().count() == 2, "{told}");
    }
}

#[test]
fn a_tenant_sees_its_own_memory_and_reserves_must_fit() {
    let cluster = Cluster::of(3).flag("maxmemory", "100mb").flag("maxmemory-policy", "allkeys-lfu").start();
    let mut admin = cluster.node(1).client();
    tenant(&mut admin, "bull", &["limit", "20mb", "eviction", "noeviction"]);
    tenant(&mut admin, "plain", &[]);
    for node in cluster.nodes() {
        let mut bull = node.client_as("bull", "secret");
        bull.ok(&["SET", "bull:1", &"x".repeat(5000)]);
        let info = bull.text(&["INFO", "memory"]);
        assert!(info.contains("maxmemory:20971520\r\n") && info.contains("maxmemory_policy:noeviction\r\n"), "{info}");
        assert!(bull.text(&["INFO"]).contains("maxmemory_policy:noeviction"));
        assert_eq!(
            bull.ask(&["CONFIG", "GET", "maxmemory*"]).texts(),
            ["maxmemory", "20971520", "maxmemory-policy", "noeviction"]
        );
        let info = node.client_as("plain", "secret").text(&["INFO", "memory"]);
        assert!(
            info.contains("maxmemory:104857600\r\n") && info.contains("maxmemory_policy:allkeys-lfu\r\n"),
            "{info}"
        );
    }
    admin.ok(&["TENANT", "SET", "bull", "reserve", "60mb"]);
    let refused = admin.ask(&["TENANT", "SET", "plain", "reserve", "50mb"]);
    assert!(refused.is_error("ERR a reserve of 52428800 bytes is too much"), "{refused}");
    admin.ok(&["TENANT", "SET", "plain", "reserve", "40mb"]);
    assert!(admin.ask(&["TENANT", "CREATE", "third", "PREFIX", "third:", "reserve", "1mb"]).is_error("ERR a reserve"));
    assert!(admin.ask(&["CONFIG", "SET", "maxmemory", "90mb"]).is_error("ERR tenants were promised 104857600 bytes"));
    admin.ok(&["CONFIG", "SET", "maxmemory", "110mb"]);
}

#[test]
fn whoever_is_within_its_reserve_loses_no_key_whatever_the_others_do() {
    let cluster = Cluster::of(1).flag("maxmemory", "16mb").flag("maxmemory-policy", "allkeys-lru").start();
    let mut admin = cluster.node(1).client();
    let names = ["one", "two", "three"];
    let settings: [&[&str]; 3] =
        [&["reserve", "3mb"], &["reserve", "4mb", "eviction", "volatile-ttl"], &["eviction", "allkeys-random"]];
    for (name, settings) in names.iter().zip(settings) {
        tenant(&mut admin, name, settings);
    }
    let mut clients: Vec<Client> = names.iter().map(|name| cluster.node(1).client_as(name, "secret")).collect();
    let (mut dice, mut written) = (Dice::from_env("KEYWARD_RESERVE_SEED"), [0_i64; 4]);
    for step in 0..12_000 {
        let who = dice.below(4);
        let value = "x".repeat(200 + dice.below(4000));
        let (client, name) = if who < 3 { (&mut clients[who], names[who]) } else { (&mut admin, "free") };
        // The first two stay within what they were promised, the others take what they get.
        let room = [2_800_000, 3_800_000, i64::MAX, i64::MAX][who];
        if who > 1 || stat_of(client, "used_memory") + 8000 < room {
            client.ok(&["SET", &format!("{name}:{}", written[who]), &value, "EX", "1000"]);
            written[who] += 1;
        }
        if step % 1000 == 999 {
            for (who, client) in clients.iter_mut().enumerate().take(2) {
                assert_eq!(client.ask(&["DBSIZE"]), Value::Integer(written[who]), "{} after {step}", names[who]);
            }
        }
    }
    assert!(written[0] > 500 && written[1] > 500 && written[2] > 2500, "{written:?}");
    assert_eq!(stat(&mut admin, "one", "evicted-keys") + stat(&mut admin, "two", "evicted-keys"), 0);
    assert!(stat(&mut admin, "three", "evicted-keys") > 500);
}

fn stat_of(client: &mut Client, field: &str) -> i64 {
    let info = client.text(&["INFO", "memory"]);
    let line = info.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).expect("the field is there");
    line.trim().parse().expect("a number")
}

/// `K`: some key, `V`: some value, `N`: some number.
const REQUESTS: [&str; 40] = [
    "SET K V",
    "SET K V PX 900",
    "APPEND K V",
    "SETRANGE K N V",
    "INCR K",
    "GETDEL K",
    "MSET K V K V",
    "RPUSH K V V N",
    "LPOP K N",
    "LMOVE K K LEFT RIGHT",
    "LTRIM K 0 N",
    "HSET K V V N V",
    "HDEL K N",
    "HEXPIRE K 1 FIELDS 1 N",
    "SADD K N V V",
    "SPOP K N",
    "SUNIONSTORE K K K",
    "ZADD K N V N N",
    "ZPOPMIN K N",
    "ZRANGESTORE K K 0 N",
    "GEOADD K 1 2 V",
    "PFADD K V N",
    "XADD K * N V",
    "XADD K MAXLEN 3 * N V",
    "XGROUP CREATE K g 0 MKSTREAM",
    "XREADGROUP GROUP g c COUNT 2 STREAMS K >",
    "COPY K K REPLACE",
    "COPY K K DB 1 REPLACE",
    "MOVE K 1",
    "RENAME K K",
    "SORT K ALPHA STORE K",
    "DEL K K",
    "UNLINK K",
    "EXPIRE K 1",
    "PERSIST K",
    "SELECT 0",
    "SELECT 1",
    "EVAL return{redis.call('set',KEYS[1],ARGV[1]),redis.call('del',KEYS[2])} 2 K K V",
    "SWAPDB 0 1",
    "FLUSHDB",
];

fn random_requests(client: &mut Client, prefixes: &[&str], count: usize, dice: &mut Dice) {
    for _ in 0..count {
        let request = dice.pick(&REQUESTS);
        if *request == "FLUSHDB" && dice.below(4) > 0 {
            continue;
        }
        let words: Vec<String> = request
            .split(' ')
            .map(|word| match word {
                "K" => format!("{}{}", dice.pick(prefixes), dice.below(40)),
                "V" if dice.one_in(8) => "v".repeat(dice.below(9000)),
                "V" => format!("v{}", dice.below(20)),
                "N" => dice.below(30).to_string(),
                word => word.to_owned(),
            })
            .collect();
        client.ask(&words);
    }
}

/// Every node counts everything anew and finds what it was told on the way.
fn assert_counts(cluster: &Cluster, after: &str) {
    for node in cluster.nodes().iter().filter(|node| node.is_running()) {
        let mut client = node.client();
        let mut found = String::new();
        let agrees = std::iter::repeat_with(|| client.ask(&["DEBUG", "RECOUNT"])).take(20).any(|reply| {
            found = format!("{reply}");
            // What the primary wrote last may be on its way here.
            reply.is_ok() || {
                std::thread::sleep(Duration::from_millis(50));
                false
            }
        });
        assert!(agrees, "node {} after {after}: {found}", node.number());
    }
}

#[test]
fn what_tenants_use_equals_a_recount_on_every_node_whatever_happens() {
    let mut cluster = Cluster::of(3).flag("enable-debug-command", "yes").start();
    let mut dice = Dice::from_env("KEYWARD_RECOUNT_SEED");
    let primary = cluster.primary();
    let mut admin = cluster.node(primary).client();
    random_requests(&mut admin, &["gw:", "{gw:x}", "other:"], 800, &mut dice);
    tenant(&mut admin, "gw", &[]);
    assert_counts(&cluster, "a tenant was made over existing keys");
    admin.ok(&["ACL", "SETUSER", "ns", "on", ">secret", "~*", "&*", "+@all"]);
    admin.ok(&["TENANT", "CREATE", "ns", "NAMESPACE", "USER", "ns"]);
    let replica = primary % 3 + 1;
    let mut gw = cluster.node(replica).client_as("gw", "secret");
    let mut ns = cluster.node(primary).client_as("ns", "secret");
    random_requests(&mut gw, &["gw:", "{gw:x}"], 800, &mut dice);
    random_requests(&mut ns, &["", "gw:"], 800, &mut dice);
    random_requests(&mut admin, &["gw:", "{gw:x}", "other:", "ai:"], 800, &mut dice);
    assert_counts(&cluster, "random requests");
    admin.ok(&["TENANT", "SET", "gw", "PREFIX", "ai:"]);
    random_requests(&mut admin, &["gw:", "other:", "ai:"], 200, &mut dice);
    admin.ok(&["TENANT", "SET", "gw", "NAME", "gateway"]);
    admin.ok(&["TENANT", "SET", "gateway", "NOPREFIX", "gw:"]);
    assert_counts(&cluster, "prefixes changed");
    admin.ok(&["TENANT", "SET", "gateway", "PREFIX", "gw:", "limit", "300kb", "eviction", "allkeys-lru"]);
    random_requests(&mut admin, &["gw:", "ai:"], 800, &mut dice);
    assert_counts(&cluster, "keys were evicted");
    cluster.kill(replica);
    cluster.restart(replica);
    wait_until_for(Duration::from_secs(30), "the copy is whole", || {
        cluster.difference_of_copies().is_none().then_some(())
    });
    assert_counts(&cluster, "a full copy");
    admin.ok(&["DEBUG", "RELOAD"]);
    assert_counts(&cluster, "a snapshot was loaded");
    gw = cluster.node(replica).client_as("gw", "secret");
    gw.ok(&["SET", "gw:flushed", "v"]);
    gw.ok(&["FLUSHALL"]);
    assert_counts(&cluster, "a flush");
    assert_eq!(stat(&mut admin, "gateway", "memory"), 0);
}

#[test]
fn purging_a_tenant_removes_its_keys_everywhere_and_nobody_elses() {
    let cluster = Cluster::of(3).flag("enable-debug-command", "yes").start();
    let primary = cluster.primary();
    let mut admin = cluster.node(primary % 3 + 1).client();
    for name in ["gw", "lf"] {
        tenant(&mut admin, name, &[]);
        let mut client = cluster.node(primary).client_as(name, "secret");
        for number in 0..300 {
            client.ok(&["SELECT", &(number % 2).to_string()]);
            client.ok(&["SET", &format!("{name}:{number}"), "v"]);
        }
    }
    admin.ok(&["SET", "gw", "not the tenant's"]);
    assert!(admin.ask(&["TENANT", "DEL", "gw", "PURGE"]).is_error("ERR tenant 'gw' is in use"));
    admin.ok(&["TENANT", "SET", "gw", "STATE", "retired"]);
    admin.ok(&["TENANT", "DEL", "gw", "PURGE"]);
    assert_eq!(admin.ask(&["DBSIZE"]), Value::Integer(151));
    admin.ok(&["SELECT", "1"]);
    assert_eq!(admin.ask(&["DBSIZE"]), Value::Integer(150));
    assert!(!admin.ask(&["ACL", "USERS"]).texts().contains(&"gw".to_owned()));
    cluster.copies_agree("a tenant was purged");
    assert_counts(&cluster, "a tenant was purged");
}

#[test]
fn use_is_counted_where_a_tenants_policy_wants_it_counted() {
    let cluster = Cluster::of(1).flag("maxmemory-policy", "allkeys-lru").start();
    let mut admin = cluster.node(1).client();
    tenant(&mut admin, "often", &["limit", "1mb", "eviction", "allkeys-lfu"]);
    let mut often = cluster.node(1).client_as("often", "secret");
    for number in 0..50 {
        often.ok(&["SET", &format!("often:hot:{number}"), "v"]);
        (0..60).for_each(|_| _ = often.ask(&["GET", &format!("often:hot:{number}")]));
    }
    let mut frequency = |number| match often.ask(&["OBJECT", "FREQ", &format!("often:hot:{number}")]) {
        Value::Integer(frequency) => frequency,
        other => panic!("no frequency: {other}"),
    };
    // Counting is a matter of chance: about 9 after so many uses, from 5 on.
    let total: i64 = (0..50).map(&mut frequency).sum();
    assert!(total > 50 * 7, "{total}");
    assert!(often.ask(&["OBJECT", "IDLETIME", "often:hot:1"]).is_error("ERR An LFU"));
    admin.ok(&["SET", "plain", "v"]);
    assert_eq!(admin.ask(&["OBJECT", "IDLETIME", "plain"]), Value::Integer(0));
    for number in 0..4000 {
        often.ok(&["SET", &format!("often:cold:{number}"), &"x".repeat(1000)]);
    }
    let left = (0..50).filter(|number| often.ask(&["EXISTS", &format!("often:hot:{number}")]) == Value::Integer(1));
    assert!(left.count() >= 45, "what is used often stays");
}

#[test]
fn a_tenant_with_too_many_keys_is_refused_or_loses_some_whatever_way_it_writes() {
    let cluster = Cluster::of(3).flag("enable-debug-command", "yes").start();
    let mut admin = cluster.node(1).client();
    tenant(&mut admin, "gw", &["keys", "10", "eviction", "noeviction"]);
    tenant(&mut admin, "lf", &["keys", "100", "eviction", "allkeys-lru"]);
    let mut gw = cluster.node(2).client_as("gw", "secret");
    let refused = "OOM command not allowed when keys > 10 (tenant gw)";
    // It is looked at before a command: the first one beyond is let in, and no other.
    let keys = (0..50).position(|number| !gw.ask(&["SET", &format!("gw:{number}"), "v"]).is_ok());
    assert_eq!(keys, Some(11));
    let Value::Bulk(dumped) = gw.ask(&["DUMP", "gw:1"]) else { panic!("no dump") };
    for node in cluster.nodes() {
        let mut gw = node.client_as("gw", "secret");
        for command in [
            &["SET", "gw:new", "v"][..],
            &["MSET", "gw:new", "v", "gw:newer", "v"],
            &["RPUSH", "gw:new", "v"],
            &["COPY", "gw:1", "gw:new"],
            &["EVAL", "return redis.call('set', KEYS[1], 'v')", "1", "gw:new"],
            &["XGROUP", "CREATE", "gw:new", "g", "0", "MKSTREAM"],
        ] {
            assert!(gw.ask(command).is_error("OOM"), "{command:?}");
        }
        assert!(gw.ask(&["SET", "gw:new", "v"]).is_error(refused));
        let restore = [b"RESTORE".as_slice(), b"gw:new", b"0", &dumped];
        assert!(gw.call(&restore).expect("an answer").is_error(refused));
        gw.ok(&["MULTI"]);
        gw.ask(&["SET", "gw:new", "v"]);
        assert!(matches!(gw.ask(&["EXEC"]), Value::Error(_)), "refused when it is queued, or where it runs");
        gw.ok(&["SELECT", "1"]);
        assert!(gw.ask(&["SET", "gw:new", "v"]).is_error(refused), "other databases are no way around it");
        // Whoever writes them, they are its keys.
        let mut platform = node.client();
        assert!(platform.ask(&["SET", "gw:new", "v"]).is_error(refused));
        assert!(platform.ask(&["EVAL", "return redis.call('set', 'gw:new', 'v')", "0"]).is_error("OOM"));
        platform.ok(&["SET", "anybodys", "v"]);
        assert_eq!(gw.ask(&["EXISTS", "gw:new"]), Value::Integer(0));
    }
    assert_eq!(gw.ask(&["DBSIZE"]), Value::Integer(11));
    // What takes keys away, and reads, is let in; then there is room.
    assert_eq!(gw.text(&["GET", "gw:1"]), "v");
    assert_eq!(gw.ask(&["DEL", "gw:1", "gw:2"]), Value::Integer(2));
    gw.ok(&["SET", "gw:new", "v"]);
    // A lower limit takes nothing from who keeps its keys; a higher one lets it write.
    admin.ok(&["TENANT", "SET", "gw", "keys", "5"]);
    assert!(gw.ask(&["SET", "gw:more", "v"]).is_error("OOM command not allowed when keys > 5 (tenant gw)"));
    assert_eq!(gw.ask(&["DBSIZE"]), Value::Integer(10));
    admin.ok(&["TENANT", "SET", "gw", "keys", "default"]);
    (0..50).for_each(|number| gw.ok(&["SET", &format!("gw:{number}"), "v"]));
    gw.ok(&["FLUSHALL"]);
    admin.ok(&["TENANT", "SET", "gw", "keys", "10"]);
    gw.ok(&["SET", "gw:1", "v"]);
    assert_eq!((stat(&mut admin, "gw", "keys"), stat(&mut admin, "gw", "keys-limit")), (1, 10));
    // Whose policy lets keys go loses its own, and nobody else's.
    let mut lf = cluster.node(3).client_as("lf", "secret");
    for number in 0..500 {
        lf.ok(&["SET", &format!("lf:{number}"), "v"]);
    }
    let Value::Integer(left) = lf.ask(&["DBSIZE"]) else { panic!("no number") };
    assert!((90..=101).contains(&left), "{left} keys");
    assert_eq!((stat(&mut admin, "lf", "evicted-keys"), gw.ask(&["DBSIZE"])), (500 - left, Value::Integer(1)));
    wait_until("the copies agree", || cluster.difference_of_copies().is_none().then_some(()));
}

/// What the process holds, in bytes.
fn resident(client: &mut Client) -> i64 {
    let info = client.text(&["INFO", "memory"]);
    let line = info.lines().find_map(|line| line.strip_prefix("used_memory_rss:")).expect("the field is there");
    line.trim().parse::<i64>().expect("a number")
}

/// What tenants with a user each add to the process: a thousand of them at most 8 MiB. Five hundred are made, and as many changes, as
/// long, of eight tenants on another node; both begin anew, and are compared: what changes leave behind is not what tenants cost.
#[test]
fn idle_tenants_cost_little() {
    const TENANTS: usize = 500;
    const BYTES_MAX: i64 = (8 << 20) / 1000 * TENANTS as i64;
    const CLIENTS: usize = 4;
    let started = || Cluster::of(1).flag("threads", "1").start();
    let (mut with, mut without) = (started(), started());
    let changes = |cluster: &Cluster, names: usize, client: usize| {
        let mut admin = cluster.node(1).client();
        for number in (client..TENANTS).step_by(CLIENTS) {
            let (name, rate) = (format!("idle{:04}", number % names), (1000 + number).to_string());
            let limit = format!("limit:connections={rate}");
            admin.ok(&["ACL", "SETUSER", &name, "on", ">secret", "~*", "&*", "+@all", &limit]);
            let prefix = format!("{name}:");
            let made = ["TENANT", "CREATE", &name, "PREFIX", &prefix, "USER", &name];
            let head = if number < names { &made[..] } else { &["TENANT", "SET", &name] };
            admin.ok(&[head, &["limit", "1gb", "reserve", "1mb", "ops-per-second", &rate]].concat());
        }
    };
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (with, without, changes) = (&with, &without, &changes);
            scope.spawn(move || changes(with, TENANTS, client));
            scope.spawn(move || changes(without, 8, client));
        }
    });
    for cluster in [&mut with, &mut without] {
        assert!(cluster.stop(1).success());
        cluster.restart(1);
    }
    let (mut with, mut without) = (with.node(1).client(), without.node(1).client());
    assert_eq!(with.ask(&["TENANT", "LIST"]).items().map(<[_]>::len), Some(TENANTS));
    let compared = |with: &mut Client, without: &mut Client, what: &str| {
        // What was used to begin is given back within some seconds.
        let more = wait_until(what, || {
            let more = resident(with) - resident(without);
            (more <= BYTES_MAX).then_some(more)
        });
        println!("{what}: {} bytes each", more / TENANTS as i64);
    };
    compared(&mut with, &mut without, "an idle tenant takes no more than a thousandth of 8 MiB");
    for number in 0..TENANTS {
        with.ok(&["SET", &format!("idle{number:04}:key"), "v"]);
    }
    assert!((1..2048).contains(&stat(&mut with, "idle0007", "memory")), "a key of a byte, and its tables");
    compared(&mut with, &mut without, "nor does one with a key");
}

/// Figures, on request (`-- --ignored --nocapture`): evictions from one that has 1 % of the keys, and from one that has them all.
#[test]
#[ignore = "prints figures and judges nothing: machines differ"]
fn measured_what_an_eviction_costs() {
    let cluster = Cluster::of(1).start();
    let mut admin = cluster.node(1).client();
    tenant(&mut admin, "small", &["eviction", "allkeys-lru"]);
    tenant(&mut admin, "large", &["eviction", "allkeys-lru"]);
    let measured = |admin: &mut Client, name: &str, keys: usize, writes: usize| {
        let mut client = cluster.node(1).client_as(name, "secret");
        let value = "x".repeat(100);
        let mut write = |from: usize, to: usize| {
            for number in from..to {
                client.send(&["SET", &format!("{name}:{number}"), &value]).expect("it is sent");
                if number % 100 == 99 {
                    (0..100).for_each(|_| assert!(client.read().expect("an answer").is_ok()));
                }
            }
        };
        write(0, keys);
        let used = stat(admin, name, "memory");
        // Below the limit first: what a write costs by itself.
        let began = std::time::Instant::now();
        write(0, writes);
        let plain = began.elapsed();
        admin.ok(&["TENANT", "SET", name, "limit", &used.to_string()]);
        std::thread::sleep(Duration::from_millis(500));
        let (before, began) = (stat(admin, name, "evicted-keys"), std::time::Instant::now());
        write(keys, keys + writes);
        let (evicted, took) = (stat(admin, name, "evicted-keys") - before, began.elapsed());
        admin.ok(&["TENANT", "SET", name, "limit", "default"]);
        let each = (took.as_nanos() as i64 - plain.as_nanos() as i64) / evicted.max(1);
        println!(
            "{name}: {keys} keys, {evicted} evicted, {:.0?} a write, {each} ns more for an eviction",
            took / writes as u32
        );
    };
    measured(&mut admin, "small", 10_000, 10_000);
    measured(&mut admin, "large", 990_000, 10_000);
    measured(&mut admin, "small", 10_000, 10_000);
}

/// Forty bytes made half a gigabyte: a tenant went eight times beyond its limit, and with some of them in a transaction to where
/// nobody could write any more.
#[test]
fn a_few_words_do_not_make_a_tenant_larger_than_its_limit() {
    let cluster = Cluster::start(1);
    let mut admin = cluster.node(1).client();
    tenant(&mut admin, "gw", &["limit", "64mb", "eviction", "noeviction"]);
    let mut gw = cluster.node(1).client_as("gw", "secret");
    for far in [
        &["SETRANGE", "gw:far", "100000000", "x"][..],
        &["SETBIT", "gw:far", "4294967295", "1"],
        &["BITFIELD", "gw:far", "SET", "u8", "#100000000", "1"],
    ] {
        let refused = gw.ask(far);
        assert!(refused.is_error("OOM the value would grow by more than there is memory for"), "{far:?}: {refused}");
        assert_eq!(gw.ask(&["EXISTS", "gw:far"]), Value::Integer(0), "{far:?}");
    }
    gw.ask(&["SETRANGE", "gw:20mb", "20000000", "x"]);
    gw.ok(&["MULTI"]);
    for number in 0..20 {
        gw.ask(&["COPY", "gw:20mb", &format!("gw:copy{number}")]);
    }
    let copied =
        gw.ask(&["EXEC"]).items().map_or(0, |items| items.iter().filter(|item| **item == Value::Integer(1)).count());
    assert_eq!(copied, 2, "more has no room");
    gw.ask(&["DEL", "gw:copy0", "gw:copy1"]);
    let script = "for number = 1, 20 do redis.pcall('SETRANGE', KEYS[1] .. number, 20000000, 'x') end";
    gw.ask(&["EVAL", script, "1", "gw:more"]);
    assert!(stat(&mut admin, "gw", "memory") < 70_000_000);
    // As far as there is room, and a little further, anybody may.
    admin.ok(&["TENANT", "SET", "gw", "limit", "512mb"]);
    assert_eq!(gw.ask(&["SETRANGE", "gw:far", "100000000", "x"]), Value::Integer(100_000_001));
}
