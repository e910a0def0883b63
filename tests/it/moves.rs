//! Slots and tenants move between shard groups while they are used: no write is lost, none is there twice, and nobody
//! needs to know.

use keyward_tests::{Client, Cluster, Dice, Finished, Value, binary, run, wait_until, wait_until_for};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const GROUPS: usize = 3;

/// The slots of the first group, as it was founded.
const FIRST: &str = "0-5460";

fn cluster() -> Cluster {
    let cluster = Cluster::of(3).flag("groups", "3").flag("enable-debug-command", "yes").start();
    // Right after the founding groups spread over the nodes, and a move would end with each of these hand-overs.
    cluster.spread(GROUPS);
    settle(&cluster);
    cluster
}

/// Waits until each node serves a group, and every group has all copies.
fn settle(cluster: &Cluster) {
    wait_until_for(Duration::from_secs(60), "every group is served and has its copies", || {
        let everywhere = cluster.nodes().iter().all(|node| {
            let Ok(mut client) = Client::connect(node.address()) else { return false };
            client.call(&["WAIT", "2", "100"]).is_ok_and(|reply| reply == Value::Integer(2))
        });
        (everywhere && (0..GROUPS).all(|group| cluster.primary_of(group).is_some())).then_some(())
    });
}

fn ctl(cluster: &Cluster, arguments: &[&str]) -> Finished {
    // Any node that runs will do.
    let node = cluster.nodes().iter().find(|node| node.is_running()).expect("a node runs");
    ctl_at(cluster, node.number(), arguments)
}

fn ctl_at(cluster: &Cluster, node: usize, arguments: &[&str]) -> Finished {
    let address = cluster.node(node).admin_address().to_string();
    let all: Vec<&str> = ["--addr", &address, "--timeout", "60"].into_iter().chain(arguments.iter().copied()).collect();
    run(&binary("keywardctl"), &all, "")
}

fn is_over(cluster: &Cluster) -> bool {
    cluster.nodes().iter().find(|node| node.is_running()).is_some_and(|node| is_over_at(cluster, node.number()))
}

fn is_over_at(cluster: &Cluster, node: usize) -> bool {
    let listed = ctl_at(cluster, node, &["slots", "list"]);
    listed.stdout.contains(": done") || listed.stdout.contains(": failed")
}

/// Moves something, and waits until nothing is left of it where it was.
fn moved(cluster: &Cluster, what: &[&str], to: usize) {
    let to = to.to_string();
    let arguments: Vec<&str> = what.iter().copied().chain(["--to", &to]).collect();
    let done = ctl(cluster, &arguments);
    assert!(done.success, "{arguments:?}: {}{}", done.stdout, done.stderr);
    wait_until_for(Duration::from_secs(30), "the move is over", || is_over(cluster).then_some(()));
}

/// The slots that clients are told a node of each address serves.
fn served(client: &mut Client) -> BTreeMap<i64, i64> {
    let slots = client.ask(&["CLUSTER", "SLOTS"]);
    let mut count = BTreeMap::new();
    for row in slots.items().expect("rows") {
        let [Value::Integer(first), Value::Integer(last), node, ..] = row.items().expect("a row") else {
            panic!("{row}")
        };
        let Some(Value::Integer(port)) = node.items().and_then(|node| node.get(1)) else { panic!("{row}") };
        *count.entry(*port).or_default() += last - first + 1;
    }
    count
}

#[test]
fn slots_move_with_their_keys_and_everybody_knows() {
    let cluster = cluster();
    let mut client = cluster.node(1).client();
    for number in 0..200 {
        let name = |kind: &str| format!("{kind}:{number}");
        client.ok(&["SET", &name("string"), &format!("value {number}")]);
        client.ok(&["SET", &name("expiring"), "x", "EX", "1000"]);
        client.ask(&["RPUSH", &name("list"), "a", "b", "c"]);
        client.ask(&["HSET", &name("hash"), "field", "1", "other", "2"]);
        client.ask(&["ZADD", &name("ranking"), "1", "a", "2.5", "b"]);
        client.ask(&["XADD", &name("stream"), "1-1", "f", "v"]);
        client.ask(&["XGROUP", "CREATE", &name("stream"), "readers", "0"]);
    }
    client.ask(&["XREADGROUP", "GROUP", "readers", "me", "COUNT", "1", "STREAMS", "stream:7", ">"]);
    client.ok(&["SELECT", "3"]);
    client.ok(&["SET", "in another database", "y"]);
    client.ok(&["SELECT", "0"]);
    for refused in [&["slots", "move", "0-9000", "--to", "1"][..], &["slots", "move", "5", "--to", "9"]] {
        let refused = ctl(&cluster, refused);
        assert!(!refused.success && !refused.stderr.is_empty(), "{}{}", refused.stdout, refused.stderr);
    }
    let before = served(&mut client);
    for (slots, to) in [("0-2000", 1), ("0-1000", 2), ("12000-12999", 0), (FIRST, 0)] {
        if slots == FIRST {
            moved(&cluster, &["slots", "move", "0-1000"], 0);
            moved(&cluster, &["slots", "move", "1001-2000"], 0);
            moved(&cluster, &["slots", "move", "12000-12999"], 2);
        } else {
            moved(&cluster, &["slots", "move", slots], to);
        }
        for node in cluster.nodes() {
            let mut client = node.client();
            assert_eq!(client.ask(&["DBSIZE"]), Value::Integer(1200), "through node {}", node.number());
            assert_eq!(client.ask(&["KEYS", "*"]).items().map(<[_]>::len), Some(1200));
            for number in 0..200 {
                let name = |kind: &str| format!("{kind}:{number}");
                assert_eq!(client.text(&["GET", &name("string")]), format!("value {number}"));
                let Value::Integer(ttl) = client.ask(&["TTL", &name("expiring")]) else { panic!("no expiry") };
                assert!((900..=1000).contains(&ttl), "{ttl}");
                assert_eq!(client.ask(&["LRANGE", &name("list"), "0", "-1"]).texts(), ["a", "b", "c"]);
                assert_eq!(client.text(&["HGET", &name("hash"), "other"]), "2");
                assert_eq!(client.text(&["ZSCORE", &name("ranking"), "b"]), "2.5");
                assert_eq!(client.ask(&["XLEN", &name("stream")]), Value::Integer(1));
            }
            let pending = client.ask(&["XPENDING", "stream:7", "readers"]);
            assert_eq!(pending.items().map(|items| items[0].clone()), Some(Value::Integer(1)), "{pending}");
            assert_eq!(served(&mut client).values().sum::<i64>(), 16384);
            let lines = client.text(&["CLUSTER", "NODES"]);
            assert_eq!(lines.matches("master").count(), GROUPS, "{lines}");
            client.ok(&["SELECT", "3"]);
            assert_eq!(client.text(&["GET", "in another database"]), "y");
        }
        cluster.copies_agree("a move");
    }
    assert_eq!(served(&mut client), before, "everything is back where it was");
}

/// Somebody who adds to counters, and counts what was answered.
struct Adder {
    thread: JoinHandle<Added>,
}

#[derive(Default)]
struct Added {
    /// Confirmed, by counter.
    answered: BTreeMap<usize, i64>,
    /// Answered in a way that says neither.
    unknown: i64,
    errors: Vec<String>,
    slowest: Duration,
    times: Vec<Duration>,
}

const COUNTERS: usize = 48;

fn counter(number: usize) -> String {
    format!("counter:{number}")
}

fn add(address: SocketAddr, user: Option<&'static str>, seed: u64, stop: &Arc<AtomicBool>) -> Adder {
    let stop = Arc::clone(stop);
    let thread = std::thread::spawn(move || {
        let connect = || match user {
            Some(user) => Client::login(address, user, "secret"),
            None => Client::connect(address),
        };
        let (mut dice, mut added) = (Dice::seeded(seed), Added::default());
        let mut client = connect().expect("the node runs");
        client.set_patience(Duration::from_secs(20));
        while !stop.load(Ordering::Relaxed) {
            let number = dice.below(COUNTERS);
            let began = Instant::now();
            let reply = client.call(&["INCR", &counter(number)]);
            let took = began.elapsed();
            added.slowest = added.slowest.max(took);
            added.times.push(took);
            match reply {
                Ok(Value::Integer(_)) => *added.answered.entry(number).or_default() += 1,
                Ok(other) if user.is_none() => added.errors.push(other.to_string()),
                Err(error) if user.is_none() => {
                    added.errors.push(error.to_string());
                    break;
                }
                // The node is gone, or its answer is: it may have been added.
                _ => {
                    added.unknown += 1;
                    std::thread::sleep(Duration::from_millis(50));
                    if let Ok(again) = connect() {
                        client = again;
                        client.set_patience(Duration::from_secs(20));
                    }
                }
            }
        }
        added
    });
    Adder { thread }
}

/// What all of them added, and how long they waited.
fn sum(adders: Vec<Adder>) -> Added {
    let mut all = Added::default();
    for adder in adders {
        let added = adder.thread.join().expect("it ends");
        added.answered.into_iter().for_each(|(number, count)| *all.answered.entry(number).or_default() += count);
        all.unknown += added.unknown;
        all.errors.extend(added.errors);
        all.slowest = all.slowest.max(added.slowest);
        all.times.extend(added.times);
    }
    all.times.sort_unstable();
    all
}

#[test]
fn counters_lose_and_double_nothing_while_their_slots_go_round() {
    let cluster = cluster();
    let stop = Arc::new(AtomicBool::new(false));
    let adders: Vec<Adder> =
        (0..6).map(|number| add(cluster.node(number % 3 + 1).address(), None, number as u64, &stop)).collect();
    let mut held = Vec::new();
    for (slots, to) in
        [("0-5000", 1), ("0-2500", 2), ("2501-5000", 0), ("0-2500", 0), ("6000-9000", 0), ("6000-9000", 1)]
    {
        let began = Instant::now();
        moved(&cluster, &["slots", "move", slots], to);
        held.push(began.elapsed());
    }
    stop.store(true, Ordering::Relaxed);
    let all = sum(adders);
    assert!(all.errors.is_empty(), "{:?}", all.errors.iter().take(5).collect::<Vec<_>>());
    let percentile = |part: usize| all.times[(all.times.len() * part / 1000).min(all.times.len() - 1)];
    println!(
        "{} additions, p50 {:?}, p99 {:?}, p99.9 {:?}, slowest {:?}; moves took {held:?}",
        all.times.len(),
        percentile(500),
        percentile(990),
        percentile(999),
        all.slowest
    );
    for node in cluster.nodes() {
        let mut client = node.client();
        for (number, count) in &all.answered {
            assert_eq!(client.text(&["GET", &counter(*number)]), count.to_string(), "{}", counter(*number));
        }
        assert_eq!(client.ask(&["DBSIZE"]), Value::Integer(all.answered.len() as i64), "each is in one group");
    }
    cluster.copies_agree("moves under writers");
}

#[test]
fn whoever_waits_watches_or_runs_steps_goes_on_where_the_keys_are() {
    let cluster = cluster();
    let mut admin = cluster.node(1).client();
    // Slots 866, 5061 and 12182.
    let (hello, bar, foo) = ("{hello}", "{bar}", "{foo}");
    for through in 1..=3 {
        let mut waiting = cluster.node(through).client();
        let mut reading = cluster.node(through).client();
        let mut watching = cluster.node(through).client();
        let mut queueing = cluster.node(through).client();
        waiting.send(&["BLPOP", &format!("{hello}list"), "30"]).unwrap();
        reading.send(&["XREAD", "BLOCK", "30000", "STREAMS", &format!("{hello}stream"), "$"]).unwrap();
        watching.ok(&["WATCH", &format!("{hello}watched")]);
        queueing.ok(&["MULTI"]);
        assert_eq!(queueing.ask(&["INCR", &format!("{hello}queued")]).text().as_deref(), Some("QUEUED"));
        std::thread::sleep(Duration::from_millis(200));
        moved(&cluster, &["slots", "move", "800-900"], through % 2 + 1);
        let mut writer = cluster.node(through % 3 + 1).client();
        writer.ask(&["RPUSH", &format!("{hello}list"), "element"]);
        assert_eq!(waiting.read().unwrap().texts()[1], "element");
        writer.ask(&["XADD", &format!("{hello}stream"), "*", "f", "v"]);
        assert_eq!(reading.read().unwrap().items().map(<[_]>::len), Some(1));
        // What was watched counts as changed.
        watching.ok(&["MULTI"]);
        watching.ask(&["SET", &format!("{hello}watched"), "x"]);
        assert_eq!(watching.ask(&["EXEC"]), Value::Nil);
        assert_eq!(queueing.ask(&["EXEC"]), Value::Array(vec![Value::Integer(through as i64)]));
        for client in [&mut waiting, &mut reading, &mut watching, &mut queueing] {
            client.ok(&["SET", &format!("{hello}after"), "1"]);
            client.ok(&["SET", &format!("{foo}after"), "1"]);
            let script = "return redis.call('INCR', KEYS[1])";
            assert!(matches!(client.ask(&["EVAL", script, "1", &format!("{bar}scripted")]), Value::Integer(_)));
            assert!(matches!(client.ask(&["EVAL", script, "1", &format!("{hello}scripted")]), Value::Integer(_)));
        }
        moved(&cluster, &["slots", "move", "800-900"], 0);
    }
    assert_eq!(admin.text(&["GET", &format!("{hello}scripted")]), "12");
    cluster.copies_agree("moves under clients that last");
}

#[test]
fn a_move_outlives_its_primaries_and_no_confirmed_write_is_lost() {
    let mut cluster = cluster();
    cluster.node(1).client().ok(&["ACL", "SETUSER", "queue", "on", ">secret", "~*", "+@all", "ack=quorum"]);
    let mut dice = Dice::from_env("KEYWARD_MOVES_SEED");
    let mut known: BTreeMap<usize, (i64, i64)> = BTreeMap::new();
    let mut home = 0;
    for round in 0..6 {
        settle(&cluster);
        let stop = Arc::new(AtomicBool::new(false));
        let to = (home + 1) % GROUPS;
        let (from_node, to_node) = (cluster.primary_of(home).unwrap(), cluster.primary_of(to).unwrap());
        let killed = if round % 2 == 0 { from_node } else { to_node };
        // One node may serve both groups by now: it is lost once, and started once.
        let both = round < 2 && from_node != to_node;
        let lost = |number: usize| number == killed || both && [from_node, to_node].contains(&number);
        let through: Vec<usize> = (1..=3).filter(|number| !lost(*number)).collect();
        let adders: Vec<Adder> = (0..4)
            .map(|number| {
                add(cluster.node(through[number % through.len()]).address(), Some("queue"), number as u64, &stop)
            })
            .collect();
        std::thread::sleep(Duration::from_millis(300));
        let begun = ctl(&cluster, &["slots", "move", "0-5000", "--to", &to.to_string(), "--no-wait"]);
        assert!(begun.success, "{}{}", begun.stdout, begun.stderr);
        std::thread::sleep(Duration::from_millis(dice.below(400) as u64));
        let freezes = round >= 4;
        if freezes {
            cluster.pause(killed);
            std::thread::sleep(Duration::from_secs(3));
        } else {
            cluster.kill(killed);
        }
        if both {
            let other = if killed == from_node { to_node } else { from_node };
            std::thread::sleep(Duration::from_millis(dice.below(100) as u64));
            cluster.kill(other);
            // Without a majority nothing is decided.
            std::thread::sleep(Duration::from_millis(500));
            cluster.restart(other);
        }
        let asked = through[0];
        wait_until_for(Duration::from_secs(60), "the move is over", || is_over_at(&cluster, asked).then_some(()));
        std::thread::sleep(Duration::from_millis(500));
        stop.store(true, Ordering::Relaxed);
        let all = sum(adders);
        if freezes {
            cluster.resume(killed);
        } else {
            cluster.restart(killed);
        }
        settle(&cluster);
        let listed = ctl(&cluster, &["slots", "list"]).stdout;
        println!("round {round}: node {killed} lost, {} unknown, slowest {:?}: {listed}", all.unknown, all.slowest);
        assert!(listed.contains(": done"), "{listed}");
        home = to;
        let mut client = cluster.node(1).client();
        let mut unknown = 0;
        for number in 0..COUNTERS {
            let value: i64 = client.ask(&["GET", &counter(number)]).text().map_or(0, |text| text.parse().unwrap());
            let (before, _) = known.get(&number).copied().unwrap_or_default();
            let added = all.answered.get(&number).copied().unwrap_or_default();
            assert!(value >= before + added, "{}: {value}, confirmed {before} + {added}", counter(number));
            unknown += value - before - added;
            known.insert(number, (value, 0));
        }
        assert!(unknown <= all.unknown, "{unknown} more than were answered, and {} are unknown", all.unknown);
        let names: BTreeSet<String> = client.ask(&["KEYS", "*"]).texts().into_iter().collect();
        assert_eq!(client.ask(&["DBSIZE"]), Value::Integer(names.len() as i64), "each is in one group");
        cluster.copies_agree("a move that was broken off, or not");
    }
}

#[test]
fn a_namespace_moves_whole_and_an_operator_may_end_a_move() {
    let cluster = cluster();
    let mut admin = cluster.node(1).client();
    admin.ok(&["TENANT", "CREATE", "gw", "NAMESPACE", "GROUP", "2", "USER", "gw-user"]);
    admin.ok(&["TENANT", "CREATE", "spread", "NAMESPACE", "USER", "spread-user"]);
    for user in ["gw-user", "spread-user"] {
        admin.ok(&["ACL", "SETUSER", user, "on", ">secret", "~*", "&*", "+@all"]);
    }
    let mut spread = cluster.node(1).client_as("spread-user", "secret");
    for number in 0..50 {
        spread.ok(&["SET", &format!("key:{number}"), "x"]);
    }
    moved(&cluster, &["tenant", "move", "spread"], 1);
    assert_eq!(spread.ask(&["EXISTS", "key:0", "key:1", "key:49"]), Value::Integer(3));
    assert_eq!(spread.text(&["RENAME", "key:0", "key:x"]), "OK");
    assert_eq!(spread.ask(&["DBSIZE"]), Value::Integer(50));
    assert!(!ctl(&cluster, &["tenant", "move", "nobody", "--to", "1"]).success);
    assert!(!ctl(&cluster, &["slots", "abort"]).success, "nothing is under way");
    let stop = Arc::new(AtomicBool::new(false));
    let adders: Vec<Adder> =
        (1..=3).map(|node| add(cluster.node(node).address(), Some("gw-user"), node as u64, &stop)).collect();
    for number in 0..100 {
        admin.ok(&["SET", &format!("everybody's:{number}"), "x"]);
    }
    for to in [0, 1, 2] {
        moved(&cluster, &["tenant", "move", "gw"], to);
        let shown = admin.ask(&["TENANT", "GET", "gw"]).to_string();
        assert!(shown.contains(&format!("\"{to}\"")) || shown.contains(&to.to_string()), "{shown}");
        assert_eq!(admin.ask(&["DBSIZE"]), Value::Integer(100));
    }
    stop.store(true, Ordering::Relaxed);
    let all = sum(adders);
    assert_eq!(all.unknown, 0);
    for node in cluster.nodes() {
        let mut client = node.client_as("gw-user", "secret");
        assert_eq!(client.ask(&["DBSIZE"]), Value::Integer(all.answered.len() as i64));
        for (number, count) in &all.answered {
            assert_eq!(client.text(&["GET", &counter(*number)]), count.to_string(), "{}", counter(*number));
        }
        client.ok(&["MSET", "one", "1", "two", "2"]);
        client.ask(&["DEL", "one", "two"]);
    }
    cluster.copies_agree("a namespace was moved");
    // A move that somebody ends leaves everything where it was.
    let begun = ctl(&cluster, &["slots", "move", "0-5000", "--to", "1", "--no-wait"]);
    assert!(begun.success, "{}", begun.stderr);
    let ended = ctl(&cluster, &["slots", "abort"]);
    wait_until("the move is over", || is_over(&cluster).then_some(()));
    assert!(ended.success || ctl(&cluster, &["slots", "list"]).stdout.contains(": done"), "{}", ended.stderr);
    assert_eq!(admin.ask(&["DBSIZE"]), Value::Integer(100));
    cluster.copies_agree("a move was ended");
}

#[test]
fn what_was_in_a_snapshot_before_a_move_is_there_when_all_nodes_fail() {
    let mut cluster = cluster();
    let mut dice = Dice::from_env("KEYWARD_MOVES_SEED");
    let mut client = cluster.node(1).client();
    for number in 0..300 {
        client.ok(&["SET", &format!("key:{number}"), "x"]);
    }
    client.ok(&["TENANT", "CREATE", "gw", "PREFIX", "key:"]);
    client.ok(&["SAVE"]);
    for round in 0..5 {
        let to = ["1", "2", "0"][round % 3];
        let begun = match round {
            3 | 4 => ctl(&cluster, &["tenant", "move", "gw", "--to", to, "--no-wait"]),
            0 => ctl(&cluster, &["slots", "move", "0-5000", "--to", to, "--no-wait"]),
            _ => ctl(&cluster, &["slots", "move", "0-5000", "--to", to]),
        };
        assert!(begun.success, "{}{}", begun.stdout, begun.stderr);
        std::thread::sleep(Duration::from_millis(dice.below(if round % 2 == 0 { 300 } else { 20 }) as u64));
        (1..=3).for_each(|number| cluster.kill(number));
        (1..=3).for_each(|number| cluster.spawn(number));
        (1..=3).for_each(|number| cluster.wait_ready(number));
        settle(&cluster);
        wait_until_for(Duration::from_secs(60), "the move is over", || is_over(&cluster).then_some(()));
        for node in cluster.nodes() {
            let mut client = node.client();
            let missing: Vec<String> = (0..300)
                .map(|number| format!("key:{number}"))
                .filter(|key| client.ask(&["EXISTS", key]) != Value::Integer(1))
                .collect();
            assert!(missing.is_empty(), "round {round}, through node {}: {missing:?}", node.number());
            assert_eq!(client.ask(&["DBSIZE"]), Value::Integer(300), "round {round}: each is in one group");
        }
        cluster.copies_agree("all nodes failed");
    }
}

#[test]
fn a_scan_finds_every_key_while_keys_and_primaries_move() {
    const KEYS: usize = 3000;
    let cluster = cluster();
    let mut client = cluster.node(1).client();
    for number in 0..KEYS {
        client.ok(&["SET", &format!("key:{number}"), "x"]);
    }
    client.ok(&["TENANT", "CREATE", "gw", "PREFIX", "key:"]);
    let step = |client: &mut Client, cursor: &mut String, found: &mut BTreeSet<String>| {
        let answer = client.ask(&["SCAN", cursor, "COUNT", "50"]);
        let parts = answer.items().expect("a cursor and keys");
        *cursor = parts[0].text().expect("a cursor");
        found.extend(parts[1].texts());
    };
    for round in 0..4 {
        let mut found = BTreeSet::new();
        let mut cursor = "0".to_owned();
        while found.len() < KEYS / 2 {
            step(&mut client, &mut cursor, &mut found);
            assert_ne!(cursor, "0", "there is more");
        }
        // What the walk has not met yet goes where it has been.
        match round {
            0 => moved(&cluster, &["slots", "move", "11000-16383"], 0),
            1 => moved(&cluster, &["tenant", "move", "gw"], 0),
            2 => moved(&cluster, &["tenant", "move", "gw"], 1),
            _ => {
                let to = cluster.primary_of(1).unwrap() % 3 + 1;
                let done = ctl(&cluster, &["failover", "--group", "1", "--to", &format!("node-{to}")]);
                assert!(done.success, "{}{}", done.stdout, done.stderr);
            }
        }
        let mut through = cluster.node(round % 3 + 1).client();
        while cursor != "0" {
            step(&mut through, &mut cursor, &mut found);
        }
        assert_eq!(found.len(), KEYS, "round {round}");
    }
}

/// Waits until a tenant's keys are where they are to be.
fn settled(cluster: &Cluster, tenant: &str) {
    wait_until_for(Duration::from_secs(60), "the tenant's keys are where they are to be", || {
        let shown = ctl(cluster, &["tenant", "get", tenant]).stdout;
        (shown.contains(tenant) && !shown.contains("held-by") && is_over(cluster)).then_some(())
    });
}

#[test]
fn a_tenant_by_prefix_is_held_by_one_group_and_moves_while_it_is_written() {
    let cluster = cluster();
    let mut admin = cluster.node(1).client();
    for number in 0..100 {
        admin.ok(&["SET", &format!("everybody's:{number}"), "x"]);
    }
    admin.ok(&["TENANT", "CREATE", "counters", "PREFIX", "counter:", "USER", "teller"]);
    admin.ok(&["ACL", "SETUSER", "teller", "on", ">secret", "~counter:*", "+@all"]);
    let stop = Arc::new(AtomicBool::new(false));
    let adders: Vec<Adder> =
        (0..6).map(|number| add(cluster.node(number % 3 + 1).address(), None, number as u64, &stop)).collect();
    std::thread::sleep(Duration::from_millis(300));
    let script = "return redis.call('INCRBY', 'counter:undeclared', 0)";
    for (step, group) in ["2", "0", "1", "default"].into_iter().enumerate() {
        if step == 1 {
            let done = ctl(&cluster, &["tenant", "move", "counters", "--to", group]);
            assert!(done.success, "{}{}", done.stdout, done.stderr);
        } else {
            admin.ok(&["TENANT", "SET", "counters", "GROUP", group]);
        }
        settled(&cluster, "counters");
        for node in cluster.nodes() {
            let mut teller = node.client_as("teller", "secret");
            // Slots of all groups.
            let renamed = teller.ask(&["COPY", "counter:1", "counter:x"]);
            let across =
                teller.ask(&["SUNIONSTORE", "counter:y", "counter:none", "counter:nothing", "counter:nowhere"]);
            let scripted = teller.ask(&["EVAL", script, "0"]);
            teller.ok(&["MULTI"]);
            ["counter:a", "counter:b", "counter:c"].iter().for_each(|key| drop(teller.ask(&["SET", key, "1"])));
            let steps = teller.ask(&["EXEC"]);
            if group == "default" {
                assert!(matches!(&across, Value::Error(text) if text.starts_with("CROSSSLOT")), "{across}");
            } else {
                assert_eq!(renamed, Value::Integer(1), "through node {}", node.number());
                assert_eq!(across, Value::Integer(0), "through node {}", node.number());
                assert_eq!(steps.items().map(<[_]>::len), Some(3), "{steps}");
                assert_eq!(scripted, Value::Integer(0));
            }
            teller.ask(&["DEL", "counter:x", "counter:a", "counter:b", "counter:c", "counter:undeclared"]);
            let slot = teller.ask(&["CLUSTER", "KEYSLOT", "counter:1"]).to_string();
            let in_slot = teller.ask(&["CLUSTER", "COUNTKEYSINSLOT", slot.trim_matches(['(', ')'])]);
            assert_ne!(in_slot, Value::Integer(0), "{slot}");
        }
    }
    stop.store(true, Ordering::Relaxed);
    let all = sum(adders);
    assert!(all.errors.is_empty(), "{:?}", all.errors.iter().take(5).collect::<Vec<_>>());
    println!("{} additions, slowest {:?}", all.times.len(), all.slowest);
    for node in cluster.nodes() {
        let mut client = node.client();
        for (number, count) in &all.answered {
            assert_eq!(client.text(&["GET", &counter(*number)]), count.to_string(), "{}", counter(*number));
        }
        assert_eq!(client.ask(&["DBSIZE"]), Value::Integer(100 + all.answered.len() as i64), "each is in one group");
        let names: BTreeSet<String> = client.ask(&["KEYS", "*"]).texts().into_iter().collect();
        assert_eq!(names.len(), 100 + all.answered.len());
    }
    cluster.copies_agree("a tenant by prefix was moved");
    let gone = ctl(&cluster, &["tenant", "move", "counters", "--to", "1"]);
    assert!(gone.success, "{}", gone.stderr);
    for refused in
        [&["TENANT", "SET", "counters", "PREFIX", "more:"][..], &["TENANT", "SET", "counters", "HELD-BY", "0"]]
    {
        assert!(matches!(admin.ask(refused), Value::Error(_)), "{refused:?}");
    }
}

#[test]
fn what_concerns_every_key_finds_each_once_while_keys_move() {
    const KEYS: usize = 300;
    let cluster = cluster();
    let names: Vec<String> = (0..KEYS).map(|number| format!("key:{number}")).collect();
    let mut writer = cluster.node(1).client();
    let fill = |client: &mut Client| {
        let set: Vec<&str> =
            std::iter::once("MSET").chain(names.iter().flat_map(|name| [name.as_str(), name.as_str()])).collect();
        client.ok(&set);
    };
    fill(&mut writer);
    let stop = Arc::new(AtomicBool::new(false));
    let lookers: Vec<JoinHandle<u64>> = (1..=3)
        .map(|node| {
            let (address, stop, names) = (cluster.node(node).address(), Arc::clone(&stop), names.clone());
            std::thread::spawn(move || {
                let mut client = Client::connect(address).unwrap();
                client.set_patience(Duration::from_secs(20));
                let get: Vec<&str> = std::iter::once("MGET").chain(names.iter().map(String::as_str)).collect();
                let exist: Vec<&str> = std::iter::once("EXISTS").chain(names.iter().map(String::as_str)).collect();
                let mut looks = 0;
                while !stop.load(Ordering::Relaxed) {
                    assert_eq!(client.ask(&["DBSIZE"]), Value::Integer(KEYS as i64));
                    assert_eq!(client.ask(&["KEYS", "*"]).items().map(<[_]>::len), Some(KEYS));
                    assert_eq!(client.ask(&get).texts(), names);
                    assert_eq!(client.ask(&exist), Value::Integer(KEYS as i64));
                    // A pipeline about all groups.
                    names.iter().for_each(|name| client.send(&["GET", name]).unwrap());
                    for name in &names {
                        assert_eq!(client.read().unwrap().text().as_deref(), Some(name.as_str()));
                    }
                    looks += 1;
                }
                looks
            })
        })
        .collect();
    for (slots, to) in [("0-5000", 1), ("0-2500", 2), ("2501-5000", 0), ("0-2500", 0)] {
        moved(&cluster, &["slots", "move", slots], to);
    }
    stop.store(true, Ordering::Relaxed);
    let looks: u64 = lookers.into_iter().map(|looker| looker.join().expect("it always found all keys")).sum();
    assert!(looks > 0);
    // What was flushed does not come back with a move, whenever that is.
    let mut dice = Dice::from_env("KEYWARD_MOVES_SEED");
    for round in 0..4 {
        fill(&mut writer);
        let begun = ctl(&cluster, &["slots", "move", "0-5000", "--to", &((round + 1) % 2).to_string(), "--no-wait"]);
        assert!(begun.success, "{}", begun.stderr);
        std::thread::sleep(Duration::from_millis(dice.below(150) as u64));
        writer.ok(&["FLUSHALL"]);
        assert_eq!(writer.ask(&["DBSIZE"]), Value::Integer(0));
        wait_until_for(Duration::from_secs(30), "the move is over", || is_over(&cluster).then_some(()));
        for node in cluster.nodes() {
            assert_eq!(node.client().ask(&["DBSIZE"]), Value::Integer(0), "round {round}");
        }
    }
    cluster.copies_agree("flushes among moves");
}

#[test]
fn cluster_clients_find_slots_that_moved() {
    let cluster = Cluster::of(3).flag("groups", "3").flag("routing", "redirect").start();
    cluster.spread(GROUPS);
    let mut clients: BTreeMap<SocketAddr, Client> =
        cluster.nodes().iter().map(|node| (node.address(), node.client())).collect();
    let mut at = cluster.node(1).address();
    let mut redirected = 0;
    let mut add = |at: &mut SocketAddr| loop {
        let reply = clients.get_mut(at).expect("a node's address").ask(&["INCR", "hello"]);
        match reply {
            Value::Integer(value) => return value,
            Value::Error(text) if text.starts_with("MOVED 866 ") => {
                redirected += 1;
                *at = text.rsplit(' ').next().unwrap().parse().expect("an address");
                // Who is told to go there must not be sent back for ever.
                std::thread::sleep(Duration::from_millis(5));
            }
            other => panic!("{other}"),
        }
    };
    for number in 1..=600 {
        if number % 100 == 0 {
            let to = (number / 100 % GROUPS as i64).to_string();
            let begun = ctl(&cluster, &["slots", "move", "866", "--to", &to, "--no-wait"]);
            assert!(begun.success, "{}", begun.stderr);
        }
        assert_eq!(add(&mut at), number);
        if number % 100 == 99 {
            wait_until_for(Duration::from_secs(30), "the move is over", || {
                (number < 100 || is_over(&cluster)).then_some(())
            });
        }
    }
    assert!(redirected >= 5, "{redirected}");
}

#[test]
fn a_cluster_that_lost_all_its_nodes_in_the_middle_of_a_move_has_each_key_once() {
    let mut cluster = cluster();
    let mut client = cluster.node(1).client();
    let names: Vec<String> = (0..300).map(|number| format!("key:{number}")).collect();
    names.iter().for_each(|name| client.ok(&["SET", name, name]));
    client.ok(&["SAVE"]);
    // While nothing of it is decided; then everything is opened from what was saved before.
    let begun = ctl(&cluster, &["slots", "move", "0-5000", "--to", "1", "--no-wait"]);
    assert!(begun.success, "{}", begun.stderr);
    for number in 1..=3 {
        cluster.kill(number);
    }
    for number in 1..=3 {
        cluster.spawn(number);
    }
    for number in 1..=3 {
        cluster.wait_ready(number);
    }
    wait_until_for(Duration::from_secs(60), "the move is over", || is_over(&cluster).then_some(()));
    settle(&cluster);
    let mut client = cluster.node(2).client();
    let ended_well = ctl(&cluster, &["slots", "list"]).stdout.contains(": done");
    if !ended_well {
        names.iter().for_each(|name| assert_eq!(client.text(&["GET", name]), *name));
        assert_eq!(client.ask(&["DBSIZE"]), Value::Integer(300));
    }
    moved(&cluster, &["slots", "move", "0-100"], 2);
    cluster.copies_agree("a start of all nodes in the middle of a move");
}
