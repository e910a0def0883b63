//! What clients of one tenant make a node hold besides keys has a bound, whatever they try, and the neighbor notices nothing.
//! One test for each way to hold something; each looks at the node's own figures and at what the kernel says it holds.

use keyward_tests::{Client, Cluster, Value, resp, wait_until};
use std::fs;
use std::time::Duration;

/// What the clients of `gw` may hold.
const MOST: i64 = 16 << 20;

/// What the kernel may see beyond that: buffers of threads, what is on its way to be freed, the other tenant.
const SLACK: u64 = 96 << 20;

/// Connections of an attack, each of which would hold two megabytes and more.
const ATTACKERS: usize = 100;

/// One node with a tenant that attacks and one that does not.
struct Scene {
    cluster: Cluster,
    admin: Client,
    neighbor: Client,
    /// A connection of the neighbor that holds something itself.
    neighbor_in_transaction: Client,
    before: u64,
}

impl Scene {
    fn new() -> Scene {
        let cluster = Cluster::of(1).flag("threads", "2").start();
        let mut admin = cluster.node(1).client();
        for tenant in ["gw", "ai"] {
            admin.ok(&["ACL", "SETUSER", tenant, "on", ">secret", "~*", "&*", "+@all"]);
            admin.ok(&["TENANT", "CREATE", tenant, "PREFIX", &format!("{tenant}:"), "USER", tenant]);
        }
        admin.ok(&["TENANT", "SET", "gw", "client-bytes", "16mb"]);
        let neighbor = cluster.node(1).client_as("ai", "secret");
        let mut neighbor_in_transaction = cluster.node(1).client_as("ai", "secret");
        neighbor_in_transaction.ok(&["MULTI"]);
        neighbor_in_transaction.ask(&["SET", "ai:queued", &"q".repeat(1 << 20)]);
        let before = resident_bytes(&cluster);
        Scene { cluster, admin, neighbor, neighbor_in_transaction, before }
    }

    fn gw(&self) -> Client {
        let client = self.cluster.node(1).client_as("gw", "secret");
        client.set_send_patience(Duration::from_secs(5));
        client
    }

    fn attackers(&self) -> Vec<Client> {
        (0..ATTACKERS).map(|_| self.gw()).collect()
    }

    fn stat(&mut self, name: &str) -> i64 {
        let reply = self.admin.ask(&["TENANT", "STATS", "gw"]);
        let items = reply.items().expect("names and numbers").to_vec();
        let at = items.iter().position(|item| item.text().as_deref() == Some(name)).expect("it is counted");
        match items[at + 1] {
            Value::Integer(count) => count,
            ref other => panic!("no number: {other:?}"),
        }
    }

    /// The attack is on: it holds no more than it may, here and as the kernel sees it, and the neighbor goes on.
    fn holds(&mut self) {
        wait_until("the clients hold what they may", || (self.stat("client-memory") <= MOST).then_some(()));
        wait_until("and so does the process", || {
            (resident_bytes(&self.cluster) < self.before + MOST as u64 + SLACK).then_some(())
        });
        let value = "v".repeat(1 << 20);
        self.neighbor.ok(&["SET", "ai:1", &value]);
        assert_eq!(self.neighbor.ask(&["GET", "ai:1"]).text().map(|text| text.len()), Some(value.len()));
        self.neighbor.ask(&["EVAL", "return 1", "0"]);
        self.neighbor_in_transaction.ask(&["PING"]);
    }

    /// The attack is over: nothing is left of it, and nothing happened to the neighbor.
    fn ends(mut self, attackers: Vec<Client>) {
        drop(attackers);
        wait_until("nothing is held any more", || (self.stat("client-memory") == 0).then_some(()));
        assert_eq!(self.neighbor_in_transaction.ask(&["EXEC"]).items().map(<[Value]>::len), Some(2));
        let mut after = self.gw();
        after.ok(&["SET", "gw:1", &"v".repeat(1 << 20)]);
    }
}

fn resident_bytes(cluster: &Cluster) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", cluster.node(1).pid())).expect("the node runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("the kernel tells the resident size");
    let kilobytes: u64 = line.split_whitespace().nth(1).and_then(|text| text.parse().ok()).expect("a number of kB");
    kilobytes * 1024
}

fn told(answers: &[Value]) -> bool {
    answers.iter().any(|answer| {
        answer.is_error("OOM command not allowed when clients hold more than client-bytes: tenant gw has 16777216")
    })
}

#[test]
fn half_sent_requests_have_a_bound() {
    let mut scene = Scene::new();
    let mut attackers = scene.attackers();
    let part = [b"*3\r\n$3\r\nSET\r\n$4\r\ngw:1\r\n$9000000\r\n".to_vec(), vec![b'x'; 2 << 20]].concat();
    attackers.iter_mut().for_each(|attacker| drop(attacker.send_raw(&part)));
    wait_until("the largest are closed", || (scene.stat("clients-dismissed") >= 90).then_some(()));
    scene.holds();
    let left = attackers.iter_mut().filter_map(|attacker| (!attacker.is_closed()).then_some(())).count();
    assert!((1..=8).contains(&left), "{left} are left");
    scene.ends(attackers);
}

#[test]
fn half_sent_requests_of_strangers_have_a_bound() {
    let acl = "user default off\nuser admin on >secret ~* &* +@all\n";
    let cluster = Cluster::of(1).acl_text(acl).flag("maxmemory", "100mb").start();
    let before = resident_bytes(&cluster);
    // Nine arguments of 16 KB are all a stranger may send; 400 of them would hold 56 MB.
    let part = [b"*10\r\n".to_vec(), format!("$16384\r\n{}\r\n", "x".repeat(16384)).repeat(9).into_bytes()].concat();
    let mut strangers: Vec<Client> = (0..400).map(|_| cluster.node(1).client()).collect();
    strangers.iter_mut().for_each(|stranger| drop(stranger.send_raw(&part)));
    wait_until("the largest are closed", || {
        let gone = strangers.iter_mut().filter_map(|stranger| stranger.is_closed().then_some(())).count();
        (gone > 100).then_some(())
    });
    let grown = resident_bytes(&cluster).saturating_sub(before);
    assert!(grown < (32 << 20) + SLACK, "the node grew by {grown} bytes for strangers");
    let mut admin = cluster.node(1).client_as("admin", "secret");
    admin.ok(&["SET", "k", &"v".repeat(1 << 20)]);
}

#[test]
fn queued_transactions_have_a_bound() {
    let mut scene = Scene::new();
    let mut attackers = scene.attackers();
    let value = "x".repeat(1 << 20);
    let mut refused = 0;
    for attacker in &mut attackers {
        attacker.ok(&["MULTI"]);
        let answers: Vec<Value> = (0..2).map(|_| attacker.ask(&["SET", "gw:1", &value])).collect();
        refused += usize::from(told(&answers));
    }
    assert!(refused > 90, "{refused}");
    scene.holds();
    assert!(attackers.last_mut().expect("many").ask(&["EXEC"]).is_error("EXECABORT"));
    assert!(scene.stat("refused-for-client-memory") > 90);
    let list = scene.admin.ask(&["CLIENT", "LIST"]).text().expect("lines");
    let largest = list.lines().filter_map(|line| {
        let field = |name: &str| line.split(' ').find_map(|word| word.strip_prefix(name)?.parse::<u64>().ok());
        Some((field("multi-mem=")?, field("tot-mem=")?))
    });
    assert!(largest.clone().any(|(queued, _)| queued > 1 << 20), "{list}");
    assert!(largest.clone().all(|(queued, all)| all > queued), "{list}");
    scene.ends(attackers);
}

#[test]
fn names_of_channels_and_patterns_have_a_bound() {
    let mut scene = Scene::new();
    // Together, however long one may be.
    scene.admin.ok(&["CONFIG", "SET", "channel-bytes-max", "2mb", "pattern-bytes-max", "2mb"]);
    let mut attackers = scene.attackers();
    let mut refused = 0;
    for (number, attacker) in attackers.iter_mut().enumerate() {
        let name = format!("gw:{number}:{}", "x".repeat(1 << 20));
        let word = if number % 2 == 0 { "SUBSCRIBE" } else { "PSUBSCRIBE" };
        refused += usize::from(told(&[attacker.ask(&[word, &name])]));
    }
    assert!(refused > 80, "{refused}");
    scene.holds();
    // What RESET forgets is free.
    attackers.iter_mut().for_each(|attacker| drop(attacker.call(&["RESET"])));
    assert_eq!(scene.stat("client-memory"), 0);
    scene.ends(attackers);
}

#[test]
fn watched_keys_have_a_bound() {
    let mut scene = Scene::new();
    let mut attackers = scene.attackers();
    let mut refused = 0;
    for (number, attacker) in attackers.iter_mut().enumerate() {
        let name = format!("gw:{number}:{}", "x".repeat(1 << 20));
        refused += usize::from(told(&[attacker.ask(&["WATCH", &name])]));
    }
    assert!(refused > 80, "{refused}");
    scene.holds();
    scene.ends(attackers);
}

#[test]
fn cached_keys_have_a_bound() {
    let mut scene = Scene::new();
    let mut attackers = scene.attackers();
    for (number, attacker) in attackers.iter_mut().enumerate() {
        attacker.ask(&["HELLO", "3"]);
        attacker.ok(&["CLIENT", "TRACKING", "ON"]);
        for key in 0..3 {
            // Beyond the bound a key is forgotten at once, and its reader is told.
            // The largest are closed: those that cache most.
            let _ = attacker.call(&["GET", &format!("gw:{number}:{key}:{}", "x".repeat(1 << 20))]);
        }
    }
    scene.holds();
    assert!(scene.stat("client-memory") > MOST / 2, "what fits is remembered");
    // The keys of those who left are forgotten, though nobody wrote them.
    scene.ends(attackers);
}

#[test]
fn answers_nobody_reads_have_a_bound() {
    let mut scene = Scene::new();
    scene.gw().ok(&["SET", "gw:1", &"v".repeat(4 << 20)]);
    let mut attackers = scene.attackers();
    let request = resp::encode(&["GET", "gw:1"]).repeat(4);
    attackers.iter_mut().for_each(|attacker| drop(attacker.send_raw(&request)));
    wait_until("the largest are closed", || (scene.stat("clients-dismissed") >= 80).then_some(()));
    scene.holds();
    scene.ends(attackers);
}

#[test]
fn messages_nobody_reads_have_a_bound() {
    let mut scene = Scene::new();
    let mut attackers = scene.attackers();
    attackers.iter_mut().for_each(|attacker| drop(attacker.ask(&["SUBSCRIBE", "gw:news"])));
    let (mut speaker, message) = (scene.gw(), "m".repeat(1 << 20));
    // Sockets take some megabytes each before anything is held here.
    for _ in 0..12 {
        // Who speaks holds what it says, and may be the largest.
        if speaker.call(&["PUBLISH", "gw:news", &message]).is_err() {
            speaker = scene.gw();
        }
        // Whoever was told to go counts until it has gone.
        wait_until("they hold what they may", || (scene.stat("client-memory") <= 2 * MOST).then_some(()));
    }
    wait_until("the largest are closed", || (scene.stat("clients-dismissed") >= 80).then_some(()));
    scene.holds();
    drop(speaker);
    scene.ends(attackers);
}

// What one listener left unread had the bound of the whole node, though `output-bytes` is half of `client-bytes` unless it is said.
#[test]
fn messages_that_one_client_does_not_read_take_half_of_what_all_may_hold() {
    let mut scene = Scene::new();
    let mut listener = scene.gw();
    listener.ask(&["SUBSCRIBE", "gw:news"]);
    let (message, mut most) = ("m".repeat(1 << 20), 0);
    // Sockets take some megabytes before anything is held here.
    let told = (0..64).take_while(|_| {
        most = most.max(scene.stat("client-memory"));
        scene.admin.ask(&["PUBLISH", "gw:news", &message]) == Value::Integer(1)
    });
    let told = told.count();
    assert!(told < 64, "it is closed");
    assert!(most <= MOST / 2 + (2 << 20), "{most} bytes were held");
    scene.holds();
    scene.ends(vec![listener]);
}

#[test]
fn requests_that_wait_for_keys_have_a_bound() {
    let mut scene = Scene::new();
    let mut attackers = scene.attackers();
    for (number, attacker) in attackers.iter_mut().enumerate() {
        let name = format!("gw:{number}:{}", "x".repeat(1 << 20));
        let _ = attacker.send(&["BLPOP", &name, "0"]);
    }
    wait_until("the largest are closed", || (scene.stat("clients-dismissed") >= 80).then_some(()));
    scene.holds();
    scene.ends(attackers);
}

#[test]
fn scripts_and_libraries_have_a_bound() {
    let mut scene = Scene::new();
    let mut gw = scene.gw();
    let comment = "-".repeat(1 << 20);
    let mut loaded = 0;
    let mut refused = Vec::new();
    for number in 0..30 {
        match gw.ask(&["SCRIPT", "LOAD", &format!("--{number}{comment}\nreturn {number}")]) {
            Value::Bulk(_) => loaded += 1,
            other => refused.push(other),
        }
    }
    assert!(told(&refused) && (10..=15).contains(&loaded), "{loaded}");
    // A script of EVAL needs room for a moment only: others of its kind make some.
    gw.ok(&["SCRIPT", "FLUSH"]);
    for number in 0..30 {
        let answer = gw.ask(&["EVAL", &format!("--{number}{comment}\nreturn {number}"), "0"]);
        assert_eq!(answer, Value::Integer(number));
    }
    gw.ok(&["SCRIPT", "FLUSH"]);
    let library = |number: i32| {
        format!(
            "#!lua name=l{number}\n--{comment}\nredis.register_function('f{number}', function() return {number} end)"
        )
    };
    let answers: Vec<Value> = (0..30).map(|number| gw.ask(&["FUNCTION", "LOAD", &library(number)])).collect();
    assert!(told(&answers));
    assert_eq!(gw.ask(&["FCALL", "f3", "0"]), Value::Integer(3));
    let texts = scene.stat("script-texts");
    assert!(texts > MOST / 2 && texts <= MOST, "{texts}");
    scene.holds();
    gw.ok(&["FUNCTION", "FLUSH"]);
    assert_eq!(scene.stat("script-texts"), 0);
    scene.ends(vec![gw]);
}

#[test]
fn a_confined_user_without_a_tenant_has_a_bound_as_well() {
    let cluster = Cluster::of(1).flag("maxmemory", "100mb").start();
    let mut admin = cluster.node(1).client();
    admin.ok(&["ACL", "SETUSER", "app", "on", ">secret", "~app:*", "+@all"]);
    admin.ok(&["ACL", "SETUSER", "other", "on", ">secret", "~other:*", "+@all", "limit:client-bytes=4mb"]);
    let value = "x".repeat(1 << 20);
    let queue = |name: &str, most: usize| {
        let mut client = cluster.node(1).client_as(name, "secret");
        client.ok(&["MULTI"]);
        let refused = (0..most).find_map(|at| {
            let answer = client.ask(&["SET", &format!("{name}:1"), &value]);
            answer.is_error("OOM").then_some((at, answer))
        });
        (refused, client)
    };
    // An eighth of 100 MB would be too little for anybody: it is 32.
    let (refused, app) = queue("app", 40);
    let (at, text) = refused.expect("it is refused");
    assert!((28..=31).contains(&at), "{at}");
    let expected =
        "OOM command not allowed when clients hold more than client-bytes: user app has 33554432 on this node";
    assert!(text.is_error(expected), "{text}");
    let (refused, _other) = queue("other", 6);
    assert!(refused.is_some_and(|(at, _)| (1..=3).contains(&at)));
    // Whoever has every key is not held against anything.
    let (refused, _admin) = queue("default", 1);
    assert_eq!(refused.map(|(at, _)| at), None);
    admin.ok(&["CONFIG", "SET", "maxmemory", "800mb"]);
    drop(app);
    let (refused, _app) = queue("app", 40);
    assert_eq!(refused.map(|(at, _)| at), None, "an eighth of 800 MB is more");
}

#[test]
fn an_answer_is_at_most_half_as_long_as_the_clients_own_bound() {
    let cluster = Cluster::of(1).flag("maxmemory", "400mb").start();
    let mut admin = cluster.node(1).client();
    admin.ok(&["ACL", "SETUSER", "app", "on", ">secret", "~app:*", "+@all"]);
    admin.ok(&["TENANT", "CREATE", "gw", "PREFIX", "gw:", "USER", "gw", "client-bytes", "4mb"]);
    admin.ok(&["ACL", "SETUSER", "gw", "on", ">secret", "~*", "+@all"]);
    let mut set = |key: &str, bytes: usize| {
        admin.ask(&["SETRANGE", key, &(bytes - 1).to_string(), "x"]);
    };
    set("gw:fits", 1 << 20);
    set("gw:long", 3 << 20);
    set("app:fits", 20 << 20);
    set("app:long", 30 << 20);
    let is_told = |name: &str, request: &[&str]| {
        let answer = cluster.node(1).client_as(name, "secret").ask(request);
        assert!(!matches!(answer, Value::Error(_)) || answer.is_error("ERR the reply is longer"), "{answer}");
        !matches!(answer, Value::Error(_))
    };
    assert!(is_told("gw", &["GET", "gw:fits"]) && !is_told("gw", &["GET", "gw:long"]));
    // If nothing is said it is an eighth of maxmemory that is halved; what is said may be more.
    assert!(is_told("app", &["GET", "app:fits"]) && !is_told("app", &["GET", "app:long"]));
    admin.ok(&["ACL", "SETUSER", "app", "limit:client-bytes=70mb"]);
    assert!(is_told("app", &["GET", "app:long"]));
    // Walks over many keys answer no more, either.
    let names = "for n = 1, 11000 do redis.call('SET', 'gw:' .. n .. string.rep('x', 300), '') end";
    admin.ask(&["EVAL", names, "0"]);
    assert!(is_told("gw", &["KEYS", "gw:11*"]));
    assert!(!is_told("gw", &["KEYS", "*"]));
}
