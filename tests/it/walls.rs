//! The leak matrix: what a user with a prefix can do to others under the rules people write, here and elsewhere.
//!
//! ```text
//!   probes × rule sets A-E × servers     Redis and Valkey: red where the specification says so, or the probe proves nothing
//!                                        Keyward:          green everywhere, through the node with the data and through another
//! ```
//! Each cell begins with everybody's data in place. A probe tells whether the attacker, whose rule says `~t:*`, learned of
//! the victim's `v:*` or changed what the victim sees.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use keyward_tests::{Client, Cluster, Peer, Value, free_ports, poll, show, wait_until};

/// The rule sets, by their letter. `&*` in B grants every channel in so many words.
const RULES: [(char, &[&str]); 5] = [
    ('A', &["~t:*", "+@all"]),
    ('B', &["~t:*", "&*", "+@all", "-@admin"]),
    ('C', &["~t:*", "+@read", "+@write"]),
    ('D', &["~t:*", "+@all", "-@admin", "-@dangerous"]),
    ('E', &["~t:*", "+@read", "+@write", "-@dangerous"]),
];

/// How long to wait for what must not come.
const QUIET: Duration = Duration::from_millis(150);

const VICTIMS_LIBRARY: &str =
    "#!lua name=vlib\nredis.register_function('vf', function(keys) return redis.call('get', keys[1]) end)";
const HIJACK: &str = "#!lua name=vlib\nredis.register_function('vf', function() return 'hijacked ' .. (redis.call('get', 'v:secret') or '') end)";

/// The people of one cell.
struct Scene {
    address: SocketAddr,
    admin: Client,
    victim: Client,
    attacker: Client,
    granted_channels: bool,
}

/// Where a scene plays: the administrator and the victim at one address, the attacker at another one of the same cache.
#[derive(Clone, Copy)]
struct Stage {
    home: SocketAddr,
    attackers: SocketAddr,
}

impl Scene {
    fn set(stage: Stage, rules: &[&str]) -> Scene {
        let mut admin = Client::connect(stage.home).expect("the server answers");
        for request in [
            &["FLUSHALL"][..],
            &["FUNCTION", "FLUSH"],
            &["SCRIPT", "FLUSH"],
            &["CONFIG", "SET", "slowlog-log-slower-than", "0"],
            &["CONFIG", "SET", "notify-keyspace-events", "KEA"],
            &["SLOWLOG", "RESET"],
            &["ACL", "LOG", "RESET"],
            &["SET", "t:own", "mine"],
        ] {
            admin.ok(request);
        }
        // A user that is gone loses its connections: nobody is left from the cell before.
        admin.ask(&["ACL", "DELUSER", "attacker", "victim"]);
        admin.ok(&["ACL", "SETUSER", "victim", "on", ">victim", "~v:*", "&v:*", "+@all"]);
        admin.ok(&[&["ACL", "SETUSER", "attacker", "on", ">attacker", "resetchannels"], rules].concat());
        let mut victim = Client::login(stage.home, "victim", "victim").expect("the victim can log in");
        for number in 0..20 {
            victim.ok(&["SET", &format!("v:{number}"), "x"]);
        }
        victim.ok(&["SET", "v:secret", "s3cr3t"]);
        victim.text(&["FUNCTION", "LOAD", VICTIMS_LIBRARY]);
        let attacker = Client::login(stage.attackers, "attacker", "attacker").expect("the attacker can log in");
        for client in [&admin, &victim, &attacker] {
            client.set_patience(Duration::from_secs(5));
        }
        Scene { address: stage.attackers, admin, victim, attacker, granted_channels: rules.contains(&"&*") }
    }

    /// Whether the reply to this request of the attacker tells about the victim.
    fn tells(&mut self, request: &[&str]) -> bool {
        let reply = self.attacker.call(request);
        reply.is_ok_and(|reply| !matches!(reply, Value::Error(_)) && tells_about_victim(&reply))
    }

    fn works(&mut self, request: &[&str]) -> bool {
        self.attacker.call(request).is_ok_and(|reply| !matches!(reply, Value::Error(_)))
    }

    fn victim_has_lost_its_data(&mut self) -> bool {
        self.victim.call(&["GET", "v:secret"]).ok().and_then(|value| value.text()).as_deref() != Some("s3cr3t")
    }

    /// Whether something about the victim comes to the attacker while the victim writes.
    fn overhears(&mut self) -> bool {
        self.victim.ok(&["SET", "v:loud", "s3cr3t"]);
        self.attacker.set_patience(QUIET);
        let mut heard = false;
        while let Ok(reply) = self.attacker.read() {
            heard |= tells_about_victim(&reply);
        }
        heard
    }
}

fn tells_about_victim(reply: &Value) -> bool {
    let shown = show(reply);
    shown.contains("v:") || shown.contains("vlib") || shown.contains("s3cr3t") || shown.contains("user=victim")
}

fn number_after(text: &str, name: &str) -> Option<i64> {
    let (_, rest) = text.split_once(name)?;
    rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok()
}

/// Whether an INFO or MEMORY reply counts more keys than the attacker's own one.
fn counts_others(reply: &Value) -> bool {
    let in_text = number_after(&reply.text().unwrap_or_default(), "keys=");
    let items = reply.items().unwrap_or_default();
    let counted = items.windows(2).find_map(|pair| match pair {
        [name, Value::Integer(count)] if name.text().as_deref() == Some("keys.count") => Some(*count),
        _ => None,
    });
    in_text.or(counted).is_some_and(|keys| keys > 1)
}

/// Whether the attacker got through.
type Probe = fn(&mut Scene) -> bool;

/// Its name, under which rule sets Redis and Valkey leak, and the probe.
type Row = (&'static str, &'static str, Probe);

/// The rows of the specification's matrix that Redis and Valkey have without cluster mode.
const MATRIX: &[Row] = &[
    ("foreign keys by name", "", foreign_keys),
    ("KEYS", "ABC", |scene| scene.tells(&["KEYS", "*"])),
    ("SCAN", "ABCDE", |scene| scene.tells(&["SCAN", "0", "COUNT", "10000"])),
    ("RANDOMKEY", "ABCDE", |scene| (0..60).any(|_| scene.tells(&["RANDOMKEY"]))),
    ("DBSIZE", "ABCDE", |scene| matches!(scene.attacker.call(&["DBSIZE"]), Ok(Value::Integer(count)) if count > 1)),
    ("KEYS in a script", "AB", |scene| scene.tells(&["EVAL", "return redis.call('keys', '*')", "0"])),
    ("SCAN in a script", "ABD", |scene| {
        scene.tells(&["EVAL", "return redis.call('scan', '0', 'count', '10000')", "0"])
    }),
    ("RANDOMKEY in a script", "ABD", |scene| {
        (0..60).any(|_| scene.tells(&["EVAL", "return redis.call('randomkey')", "0"]))
    }),
    ("DBSIZE in a script", "ABD", |scene| {
        let reply = scene.attacker.call(&["EVAL", "return redis.call('dbsize')", "0"]);
        matches!(reply, Ok(Value::Integer(count)) if count > 1)
    }),
    ("FLUSHDB", "ABC", |scene| scene.works(&["FLUSHDB"]) && scene.victim_has_lost_its_data()),
    ("FLUSHALL", "ABC", |scene| scene.works(&["FLUSHALL"]) && scene.victim_has_lost_its_data()),
    ("SWAPDB", "ABC", |scene| scene.works(&["SWAPDB", "0", "1"]) && scene.victim_has_lost_its_data()),
    ("INFO keyspace", "AB", |scene| {
        scene.attacker.call(&["INFO", "keyspace"]).is_ok_and(|reply| counts_others(&reply))
    }),
    ("INFO clients", "AB", |scene| {
        let info = scene.attacker.call(&["INFO", "clients"]).ok().and_then(|reply| reply.text()).unwrap_or_default();
        number_after(&info, "connected_clients:").is_some_and(|clients| clients > 1)
    }),
    ("INFO commandstats", "AB", commandstats),
    ("CLIENT LIST", "A", |scene| scene.tells(&["CLIENT", "LIST"])),
    ("CLIENT KILL", "A", client_kill),
    ("CLIENT PAUSE", "A", |scene| scene.works(&["CLIENT", "PAUSE", "1"])),
    ("CLIENT NO-EVICT", "A", |scene| scene.works(&["CLIENT", "NO-EVICT", "on"])),
    ("CLIENT TRACKING BCAST", "ABD", tracking),
    ("MONITOR", "A", |scene| scene.works(&["MONITOR"]) && scene.overhears()),
    ("SLOWLOG GET", "A", |scene| scene.tells(&["SLOWLOG", "GET", "128"])),
    ("SLOWLOG RESET", "A", slowlog_reset),
    ("LATENCY RESET", "A", latency_reset),
    ("MEMORY PURGE", "ABD", |scene| scene.works(&["MEMORY", "PURGE"])),
    ("MEMORY STATS", "ABD", |scene| scene.attacker.call(&["MEMORY", "STATS"]).is_ok_and(|reply| counts_others(&reply))),
    ("PUBSUB CHANNELS", "ABD", pubsub_channels),
    ("SUBSCRIBE to a foreign channel", "B", |scene| !scene.granted_here() && scene.works(&["SUBSCRIBE", "v:news"])),
    ("events of foreign keys", "B", |scene| scene.works(&["PSUBSCRIBE", "__key*"]) && scene.overhears()),
    ("PUBLISH to a foreign channel", "B", |scene| !scene.granted_here() && scene.works(&["PUBLISH", "v:news", "x"])),
    ("SCRIPT FLUSH", "ABD", script_flush),
    ("SCRIPT KILL", "ABD", script_kill),
    ("FUNCTION LIST", "ABD", |scene| scene.tells(&["FUNCTION", "LIST", "WITHCODE"])),
    ("FUNCTION DUMP", "ABD", |scene| scene.tells(&["FUNCTION", "DUMP"])),
    ("FUNCTION LOAD REPLACE", "ABCDE", function_hijack),
    ("FUNCTION FLUSH", "ABCDE", |scene| scene.works(&["FUNCTION", "FLUSH"]) && lost_its_function(scene)),
    ("FUNCTION DELETE", "ABCDE", |scene| scene.works(&["FUNCTION", "DELETE", "vlib"]) && lost_its_function(scene)),
    ("CONFIG GET", "A", |scene| {
        scene.attacker.call(&["CONFIG", "GET", "dir"]).is_ok_and(|reply| !reply.texts().is_empty())
    }),
    ("CONFIG SET", "A", |scene| scene.works(&["CONFIG", "SET", "maxmemory", "1000mb"])),
    ("ACL LIST", "A", |scene| scene.tells(&["ACL", "LIST"])),
    ("ACL LOG", "A", acl_log),
    ("ACL SETUSER of oneself", "A", |scene| {
        scene.works(&["ACL", "SETUSER", "attacker", "allkeys"]) && scene.tells(&["GET", "v:secret"])
    }),
    ("ACL DELUSER", "A", |scene| scene.works(&["ACL", "DELUSER", "victim"])),
    ("MIGRATE", "ABC", migrate),
    ("BGSAVE", "A", |scene| scene.works(&["BGSAVE"])),
    ("REPLICAOF", "A", |scene| scene.works(&["REPLICAOF", "NO", "ONE"])),
    ("REPLCONF", "A", |scene| scene.works(&["REPLCONF", "listening-port", "1"])),
    ("PSYNC", "A", |scene| gets_a_copy(scene, "PSYNC ? -1")),
    ("SYNC", "A", |scene| gets_a_copy(scene, "SYNC")),
];

/// The rows that Redis and Valkey have in cluster mode only.
const OF_SLOTS: &[Row] = &[
    ("CLUSTER GETKEYSINSLOT", "ABD", |scene| {
        let slot = slot_of_the_secret(scene);
        scene.tells(&["CLUSTER", "GETKEYSINSLOT", &slot, "10"])
    }),
    ("CLUSTER COUNTKEYSINSLOT", "ABD", |scene| {
        let slot = slot_of_the_secret(scene);
        matches!(scene.attacker.call(&["CLUSTER", "COUNTKEYSINSLOT", &slot]), Ok(Value::Integer(count)) if count > 0)
    }),
];

impl Scene {
    /// `&*` is a rule about channels like any other: here it grants them, and nothing about keys.
    fn granted_here(&mut self) -> bool {
        let keyward = self.admin.text(&["INFO", "server"]).contains("keyward_version");
        self.granted_channels && keyward
    }
}

fn foreign_keys(scene: &mut Scene) -> bool {
    scene.admin.ok(&["SET", "v:weight", "1"]);
    scene.admin.ask(&["RPUSH", "t:list", "a"]);
    let requests: [&[&str]; 9] = [
        &["GET", "v:secret"],
        &["TYPE", "v:secret"],
        &["TTL", "v:secret"],
        &["EXISTS", "v:secret"],
        &["DUMP", "v:secret"],
        &["OBJECT", "ENCODING", "v:secret"],
        &["MEMORY", "USAGE", "v:secret"],
        &["SORT", "t:list", "BY", "v:*"],
        &["EVAL", "return redis.call('get', 'v:secret')", "0"],
    ];
    requests.into_iter().any(|request| scene.works(request))
}

fn commandstats(scene: &mut Scene) -> bool {
    scene.victim.ask(&["LOLWUT"]);
    let reply = scene.attacker.call(&["INFO", "commandstats"]);
    reply.is_ok_and(|reply| show(&reply).contains("cmdstat_lolwut"))
}

fn client_kill(scene: &mut Scene) -> bool {
    scene.attacker.call(&["CLIENT", "KILL", "USER", "victim"]).is_ok()
        && poll(QUIET, || scene.victim.is_closed().then_some(())).is_some()
}

fn tracking(scene: &mut Scene) -> bool {
    scene.works(&["HELLO", "3"]) && scene.works(&["CLIENT", "TRACKING", "ON", "BCAST"]) && scene.overhears()
}

fn slowlog_reset(scene: &mut Scene) -> bool {
    scene.works(&["SLOWLOG", "RESET"])
        && scene
            .admin
            .ask(&["SLOWLOG", "GET", "128"])
            .items()
            .is_none_or(|entries| !entries.iter().any(|entry| show(entry).contains("v:secret")))
}

/// The victim's times are gone.
fn latency_reset(scene: &mut Scene) -> bool {
    let known = |scene: &mut Scene| !scene.victim.ask(&["LATENCY", "LATEST"]).items().unwrap_or_default().is_empty();
    scene.admin.ok(&["CONFIG", "SET", "latency-monitor-threshold", "1"]);
    wait_until("something of the victim took a while", || {
        scene.victim.ask(&["EVAL", "for number = 1, 500000 do tostring(number) end", "0"]);
        known(scene).then_some(())
    });
    scene.admin.ok(&["CONFIG", "SET", "latency-monitor-threshold", "0"]);
    assert!(known(scene), "what is not watched any more is still known");
    scene.works(&["LATENCY", "RESET"]) && !known(scene)
}

fn pubsub_channels(scene: &mut Scene) -> bool {
    let mut listener = Client::login(scene.address, "victim", "victim").expect("the victim can log in");
    listener.ask(&["SUBSCRIBE", "v:news"]);
    !scene.granted_here() && scene.tells(&["PUBSUB", "CHANNELS"])
}

fn script_flush(scene: &mut Scene) -> bool {
    let sha = scene.victim.text(&["SCRIPT", "LOAD", "return 'v'"]);
    scene.works(&["SCRIPT", "FLUSH"]) && scene.victim.ask(&["EVALSHA", &sha, "0"]).is_error("NOSCRIPT")
}

/// A script of the victim ends although it does not want to.
fn script_kill(scene: &mut Scene) -> bool {
    let mut runner = Client::login(scene.address, "victim", "victim").expect("the victim can log in");
    let mut killer = Client::login(scene.address, "victim", "victim").expect("the victim can log in");
    // Redis and Valkey take a SCRIPT KILL after that time only.
    scene.admin.ask(&["CONFIG", "SET", "lua-time-limit", "20"]);
    scene.admin.ok(&["CONFIG", "RESETSTAT"]);
    runner.send(&["EVAL", "while true do redis.call('exists', KEYS[1]) end", "1", "v:secret"]).expect("it is sent");
    wait_until("the script runs", || {
        let info = scene.admin.ask(&["INFO", "commandstats"]);
        (info.is_error("BUSY") || show(&info).contains("cmdstat_exists")).then_some(())
    });
    let killed = scene.works(&["SCRIPT", "KILL"]);
    runner.set_patience(QUIET);
    wait_until("the script ended", || {
        // Whoever began it may end it.
        let _ = killer.call(&["SCRIPT", "KILL"]);
        runner.read().ok()
    });
    killed
}

fn function_hijack(scene: &mut Scene) -> bool {
    scene.works(&["FUNCTION", "LOAD", "REPLACE", HIJACK])
        && scene.victim.ask(&["FCALL", "vf", "1", "v:secret"]).text().is_some_and(|text| text.starts_with("hijacked"))
}

fn lost_its_function(scene: &mut Scene) -> bool {
    scene.victim.ask(&["FCALL", "vf", "1", "v:secret"]).is_error("ERR Function not found")
}

fn acl_log(scene: &mut Scene) -> bool {
    scene.victim.ask(&["GET", "x:v:denied"]);
    let reply = scene.attacker.call(&["ACL", "LOG"]);
    reply.is_ok_and(|reply| show(&reply).contains("x:v:denied"))
}

/// An answer that tells of the connection means that the server dialed.
fn migrate(scene: &mut Scene) -> bool {
    let reply = scene.attacker.call(&["MIGRATE", "127.0.0.1", "1", "t:own", "0", "100"]);
    reply.is_ok_and(|reply| show(&reply).contains("IOERR"))
}

/// Whether the server treats the attacker as a replica and sends it everybody's data.
fn gets_a_copy(scene: &mut Scene, request: &str) -> bool {
    scene.admin.ask(&["CONFIG", "SET", "repl-diskless-sync", "no"]);
    let mut stream = TcpStream::connect(scene.address).expect("the server answers");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout can be set");
    let (mut received, mut chunk) = (Vec::new(), [0; 4096]);
    stream.write_all(b"AUTH attacker attacker\r\n").expect("it is sent");
    // A copy is refused while an answer is still to be sent.
    let length = stream.read(&mut chunk).expect("an answer");
    assert!(chunk[..length].starts_with(b"+OK"), "{:?}", &chunk[..length]);
    stream.write_all(format!("{request}\r\n").as_bytes()).expect("it is sent");
    loop {
        match stream.read(&mut chunk) {
            Ok(0) | Err(_) => return false,
            Ok(length) => received.extend_from_slice(&chunk[..length]),
        }
        let text = String::from_utf8_lossy(&received);
        if text.contains("s3cr3t") || text.starts_with('-') {
            return text.contains("s3cr3t");
        }
    }
}

fn slot_of_the_secret(scene: &mut Scene) -> String {
    match scene.admin.ask(&["CLUSTER", "KEYSLOT", "v:secret"]) {
        Value::Integer(slot) => slot.to_string(),
        other => panic!("no slot: {other}"),
    }
}

/// The cells in which the attacker got through, `row/letter`.
fn red_cells(stage: Stage, matrix: &[Row]) -> Vec<String> {
    let mut red = Vec::new();
    for (letter, rules) in RULES {
        for (row, _, probe) in matrix {
            let mut scene = Scene::set(stage, rules);
            if probe(&mut scene) {
                red.push(format!("{row}/{letter}"));
            }
        }
    }
    red
}

fn expected_on_peers(matrix: &[Row]) -> Vec<String> {
    let cells = RULES.iter().flat_map(|(letter, _)| matrix.iter().map(move |(row, leaks, _)| (letter, row, leaks)));
    cells
        .filter(|(letter, _, leaks)| leaks.contains(**letter))
        .map(|(letter, row, _)| format!("{row}/{letter}"))
        .collect()
}

#[test]
fn no_rule_set_leaks_here() {
    let cluster = Cluster::start(3);
    let primary = cluster.primary();
    let home = cluster.node(primary).address();
    let other = cluster.nodes().iter().find(|node| node.number() != primary).expect("there are three").address();
    for attackers in [home, other] {
        for matrix in [MATRIX, OF_SLOTS] {
            let red = red_cells(Stage { home, attackers }, matrix);
            assert!(red.is_empty(), "the attacker got through: {red:#?}");
        }
    }
}

/// The servers that are there, one after the other.
fn peers<'a>(arguments: &'a [&str]) -> impl Iterator<Item = Peer> + 'a {
    [Peer::valkey, Peer::redis].into_iter().filter_map(|start| start(arguments))
}

fn is_red_as_the_table_says(peer: &Peer, matrix: &[Row]) {
    let red = red_cells(Stage { home: peer.address(), attackers: peer.address() }, matrix);
    let expected = expected_on_peers(matrix);
    let unexpected: Vec<_> = red.iter().filter(|cell| !expected.contains(cell)).collect();
    let missing: Vec<_> = expected.iter().filter(|cell| !red.contains(cell)).collect();
    assert!(
        unexpected.is_empty() && missing.is_empty(),
        "red beyond the table: {unexpected:#?}; not red: {missing:#?}"
    );
}

#[test]
fn the_same_probes_get_through_on_redis_and_valkey() {
    for peer in peers(&[]) {
        is_red_as_the_table_says(&peer, MATRIX);
    }
}

#[test]
fn the_same_probes_of_slots_get_through_on_redis_and_valkey() {
    // The port that is usual for the bus is ten thousand higher, and there may be none.
    let bus = free_ports(1)[0].to_string();
    for peer in peers(&["--cluster-enabled", "yes", "--cluster-port", &bus]) {
        let mut admin = peer.client();
        admin.ok(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
        wait_until("it serves its slots", || {
            admin.text(&["CLUSTER", "INFO"]).contains("cluster_state:ok").then_some(())
        });
        is_red_as_the_table_says(&peer, OF_SLOTS);
    }
}

/// What reads the bodies of messages that are somebody else's, and changes whose they are.
const CLAIMS: [&[&str]; 2] = [&["XAUTOCLAIM", "q", "g", "w", "0", "0"], &["XCLAIM", "q", "g", "w", "0", "1-1"]];

/// A writer of the stream `q`, in which a message waits for its acknowledgement.
fn writer_of_a_stream(address: SocketAddr) -> (Client, Client) {
    let mut admin = Client::connect(address).expect("the server answers");
    admin.ask(&["XADD", "q", "1-1", "body", "s3cr3t"]);
    admin.ok(&["XGROUP", "CREATE", "q", "g", "0"]);
    admin.ask(&["XREADGROUP", "GROUP", "g", "c", "STREAMS", "q", ">"]);
    admin.ok(&["ACL", "SETUSER", "writer", "on", ">pw", "%W~q", "+@all"]);
    let writer = Client::login(address, "writer", "pw").expect("the writer can log in");
    (admin, writer)
}

#[test]
fn whoever_may_only_write_a_stream_gets_what_is_in_it_from_redis_and_valkey() {
    for peer in peers(&[]) {
        let (_, mut writer) = writer_of_a_stream(peer.address());
        assert!(writer.ask(&["XRANGE", "q", "-", "+"]).is_error("NOPERM"));
        for request in CLAIMS {
            let reply = show(&writer.ask(request));
            assert!(reply.contains("s3cr3t"), "{request:?}: {reply}");
        }
    }
}

#[test]
fn whoever_may_only_write_a_stream_does_not_get_what_is_in_it() {
    let cluster = Cluster::start(1);
    let (mut admin, mut writer) = writer_of_a_stream(cluster.node(1).address());
    for request in CLAIMS {
        assert!(writer.ask(request).is_error("NOPERM"), "{request:?}");
    }
    assert!(writer.ask(&["XADD", "q", "2-1", "f", "v"]).text().is_some());
    admin.ok(&["ACL", "SETUSER", "writer", "~q"]);
    assert!(show(&writer.ask(&["XCLAIM", "q", "g", "w", "0", "1-1"])).contains("s3cr3t"));
}

#[test]
fn scripts_and_libraries_belong_to_their_user_and_survive_a_restart_that_way() {
    let mut cluster = Cluster::start(1);
    let mut admin = cluster.node(1).client();
    for user in ["app", "other"] {
        admin.ok(&["ACL", "SETUSER", user, "on", ">pw", &format!("~{user}:*"), "+@all"]);
    }
    let library =
        |value: &str| format!("#!lua name=lib\nredis.register_function('f', function() return '{value}' end)");
    let global = "#!lua name=shared\nredis.register_function('g', function() return 'everybody' end)";
    admin.text(&["FUNCTION", "LOAD", global]);
    admin.text(&["FUNCTION", "LOAD", &library("of the platform")]);
    let mut app = cluster.node(1).client_as("app", "pw");
    let mut other = cluster.node(1).client_as("other", "pw");
    app.text(&["FUNCTION", "LOAD", &library("of app")]);
    other.text(&["FUNCTION", "LOAD", &library("of other")]);
    let check = |cluster: &Cluster| {
        let (mut app, mut other) = (cluster.node(1).client_as("app", "pw"), cluster.node(1).client_as("other", "pw"));
        assert_eq!(app.text(&["FCALL", "f", "0"]), "of app");
        assert_eq!(other.text(&["FCALL", "f", "0"]), "of other");
        assert_eq!(cluster.node(1).client().text(&["FCALL", "f", "0"]), "of the platform");
        assert_eq!(app.text(&["FCALL", "g", "0"]), "everybody");
        assert_eq!(app.ask(&["FUNCTION", "LIST"]).items().map(<[Value]>::len), Some(1));
    };
    check(&cluster);
    cluster.stop(1);
    cluster.restart(1);
    check(&cluster);
    let (mut app, mut other) = (cluster.node(1).client_as("app", "pw"), cluster.node(1).client_as("other", "pw"));
    app.ok(&["FUNCTION", "FLUSH"]);
    assert_eq!(app.text(&["FCALL", "f", "0"]), "of the platform");
    assert_eq!(other.text(&["FCALL", "f", "0"]), "of other");
    let sha = app.text(&["SCRIPT", "LOAD", "return 1"]);
    assert!(other.ask(&["EVALSHA", &sha, "0"]).is_error("NOSCRIPT"));
    assert_eq!(other.ask(&["SCRIPT", "EXISTS", &sha]).items(), Some(&[Value::Integer(0)][..]));
}

// Each of these libraries may be loaded in the time there is for one, all of them together may not. That concerns whoever calls
// them; replicas, starts and everybody's data do not depend on it.
#[test]
fn how_long_libraries_take_to_load_concerns_nobody_but_their_owner() {
    const LIBRARIES: usize = 20;
    let mut cluster = Cluster::of(3).flag("enable-debug-command", "yes").start();
    let mut admin = cluster.node(1).client();
    admin.ok(&["ACL", "SETUSER", "app", "on", ">pw", "~app:*", "+@all"]);
    let mut app = cluster.node(2).client_as("app", "pw");
    let load = |app: &mut Client, number: usize| {
        let code = format!(
            "#!lua name=lib{number}\nfor _ = 1, 5000000 do end\n\
             redis.register_function('f{number}', function() return {number} end)"
        );
        let name = format!("lib{number}");
        wait_until("a library is loaded", || (app.ask(&["FUNCTION", "LOAD", &code]).text()? == name).then_some(()));
    };
    (0..LIBRARIES).for_each(|number| load(&mut app, number));
    admin.ok(&["SET", "other", "kept"]);
    cluster.copies_agree("libraries");

    let serve = |cluster: &Cluster, through: usize| {
        let mut app = cluster.node(through).client_as("app", "pw");
        assert_eq!(cluster.node(through).client().text(&["GET", "other"]), "kept");
        assert_eq!(app.ask(&["FUNCTION", "LIST"]).items().map(<[Value]>::len), Some(LIBRARIES));
        for number in 0..LIBRARIES {
            let called =
                || (app.ask(&["FCALL", &format!("f{number}"), "0"]) == Value::Integer(number as i64)).then_some(());
            wait_until("a function is there", called);
        }
    };
    serve(&cluster, 3);
    let killed = cluster.primary();
    cluster.kill(killed);
    let through = killed % 3 + 1;
    wait_until("somebody serves", || cluster.node(through).client().ask(&["GET", "other"]).text());
    serve(&cluster, through);
    cluster.restart(killed);
    cluster.copies_agree("a node came back");
    for number in 1..=3 {
        cluster.stop(number);
    }
    (1..=3).for_each(|number| cluster.spawn(number));
    (1..=3).for_each(|number| cluster.wait_ready(number));
    serve(&cluster, 1);

    // Also in a transaction, which must not wait for it on the thread of others.
    let mut app = cluster.node(1).client_as("app", "pw");
    app.ok(&["MULTI"]);
    app.text(&["FUNCTION", "LOAD", "#!lua name=more\nredis.register_function('more', function() return 'more' end)"]);
    app.text(&["SET", "app:1", "x"]);
    assert_eq!(app.ask(&["EXEC"]).texts(), ["more", "OK"]);
    assert_eq!(app.text(&["FCALL", "more", "0"]), "more");
}

#[test]
fn what_a_confined_user_does_arrives_the_same_on_every_copy() {
    let mut cluster = Cluster::of(3).flag("enable-debug-command", "yes").start();
    let mut admin = cluster.node(1).client();
    admin.ok(&["ACL", "SETUSER", "app", "on", ">pw", "~app:*", "+@all"]);
    let mut app = cluster.node(2).client_as("app", "pw");
    for number in 0..300 {
        admin.ok(&["SET", &format!("app:{number}"), "x"]);
        admin.ok(&["SET", &format!("other:{number}"), "x"]);
    }
    admin.ok(&["SELECT", "1"]);
    admin.ok(&["SET", "app:1", "x"]);
    admin.ok(&["SET", "other:1", "x"]);
    app.ok(&["FLUSHDB"]);
    assert_eq!(app.ask(&["DBSIZE"]), Value::Integer(0));
    assert_eq!(cluster.difference_of_copies(), None);
    app.ok(&["FLUSHALL"]);
    assert_eq!(admin.ask(&["KEYS", "*"]).texts(), ["other:1"]);
    assert_eq!(cluster.difference_of_copies(), None);
    let library = "#!lua name=lib\nredis.register_function('f', function() return 'of app' end)";
    app.text(&["FUNCTION", "LOAD", library]);
    admin.ask(&["WAIT", "2", "5000"]);
    // Whoever serves next has the library, and still for its owner alone.
    let primary = cluster.primary();
    cluster.stop(primary);
    let other = if primary == 2 { 3 } else { 2 };
    let answer = wait_until("the library is served by another node", || {
        let mut app = Client::login(cluster.node(other).address(), "app", "pw").ok()?;
        let reply = app.call(&["FCALL", "f", "0"]).ok()?;
        if matches!(reply, Value::Error(_)) { None } else { reply.text() }
    });
    assert_eq!(answer, "of app");
    assert!(cluster.node(other).client().ask(&["FCALL", "f", "0"]).is_error("ERR Function not found"));
}

// Of a user without a tenant nothing was counted, and of any the node that forwards knew what it denied itself, no more.
#[test]
fn a_confined_user_is_told_its_errors_whichever_node_denied_it_or_ran_its_command() {
    let cluster = Cluster::start(3);
    let primary = cluster.primary();
    let other = primary % 3 + 1;
    let mut admin = cluster.node(primary).client();
    for user in ["app", "gw", "third"] {
        admin.ok(&["ACL", "SETUSER", user, "on", ">pw", &format!("~{user}:*"), "+@all"]);
    }
    admin.ok(&["TENANT", "CREATE", "gw", "PREFIX", "gw:", "USER", "gw"]);
    for user in ["app", "gw"] {
        let (text, mut here) = (format!("{user}:text"), cluster.node(primary).client_as(user, "pw"));
        let mut there = cluster.node(other).client_as(user, "pw");
        here.ok(&["SET", &text, "v"]);
        assert!(there.ask(&["GET", "other"]).is_error("NOPERM"));
        assert!(there.ask(&["LPUSH", &text, "v"]).is_error("WRONGTYPE"));
        assert!(there.ask(&["INCR", &text]).is_error("ERR"));
        assert!(here.ask(&["LPUSH", &text, "v"]).is_error("WRONGTYPE"));
        let all =
            "# Errorstats\r\nerrorstat_ERR:count=1\r\nerrorstat_NOPERM:count=1\r\nerrorstat_WRONGTYPE:count=2\r\n";
        assert_eq!(there.text(&["INFO", "errorstats"]), all, "{user}");
        for sections in [&["INFO"][..], &["INFO", "everything"], &["INFO", "stats", "errorstats"]] {
            let told = there.text(sections);
            assert!(told.contains(all), "{user}: {sections:?}: {told}");
        }
        // Where the data is, what another node denied is not known.
        let ran = "# Errorstats\r\nerrorstat_ERR:count=1\r\nerrorstat_WRONGTYPE:count=2\r\n";
        assert_eq!(here.text(&["INFO", "errorstats"]), ran, "{user}");
    }
    for number in [primary, other] {
        let told = cluster.node(number).client_as("third", "pw").text(&["INFO", "errorstats"]);
        assert_eq!(told, "# Errorstats\r\n", "nobody else's");
    }
}

#[test]
fn with_strict_redis_acl_rules_alone_decide() {
    let cluster = Cluster::of(1).flag("strict-redis-acl", "true").start();
    let mut admin = cluster.node(1).client();
    assert_eq!(admin.ask(&["CONFIG", "GET", "strict-redis-acl"]).texts(), ["strict-redis-acl", "yes"]);
    admin.ok(&["SET", "v:1", "x"]);
    admin.ok(&["ACL", "SETUSER", "t", "on", ">pw", "~t:*", "+@all", "-ping"]);
    let mut t = cluster.node(1).client_as("t", "pw");
    assert_eq!(t.ask(&["KEYS", "*"]).texts(), ["v:1"]);
    assert!(t.ask(&["PING"]).is_error("NOPERM"));
    assert!(t.ask(&["CONFIG", "GET", "dir"]).texts().len() == 2);
    t.ok(&["FLUSHALL"]);
    assert_eq!(admin.ask(&["DBSIZE"]), Value::Integer(0));
}

#[test]
fn a_confined_user_is_told_why_and_connects_as_libraries_do() {
    let cluster = Cluster::start(1);
    let mut admin = cluster.node(1).client();
    admin.ok(&["SET", "other:1", "x"]);
    admin.ok(&["ACL", "SETUSER", "app", "on", ">pw", "~app:*", "+@all"]);
    admin.ok(&["ACL", "SETUSER", "few", "on", ">pw", "~few:*", "+@read"]);
    let mut app = cluster.node(1).client_as("app", "pw");
    for (request, expected) in [
        (&["CONFIG", "SET", "maxmemory", "1"][..], "NOPERM CONFIG SET of 'maxmemory' concerns everybody"),
        (&["SHUTDOWN"], "NOPERM User app has no permissions to run the 'shutdown' command (tenant ceiling"),
        (&["GET", "other:1"], "NOPERM User app has no permissions to access key 'other:1' (nearest pattern: '~app:*')"),
        (&["GET", "other:missing"], "NOPERM User app has no permissions to access key 'other:missing'"),
        (
            &["CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", "other:"],
            "NOPERM User app has no permissions to access every key",
        ),
    ] {
        assert!(app.ask(request).is_error(expected), "{request:?}: {}", app.ask(request));
    }
    assert!(app.text(&["INFO"]).contains("maxmemory_policy:noeviction"));
    assert!(app.text(&["INFO"]).contains("loading:0"));
    assert!(app.ask(&["CONFIG", "GET", "maxmemory*"]).texts().contains(&"maxmemory-policy".to_owned()));
    assert_eq!(app.ask(&["ACL", "USERS"]).texts(), ["app"]);
    assert_eq!(app.ask(&["ACL", "GETUSER", "default"]), Value::Nil);
    assert!(app.ask(&["ACL", "DRYRUN", "default", "GET", "x"]).is_error("ERR User 'default' not found"));
    assert_eq!(app.text(&["CLIENT", "LIST"]).lines().count(), 1);
    let mut few = cluster.node(1).client_as("few", "pw");
    assert_eq!(few.text(&["PING"]), "PONG");
    few.ok(&["SELECT", "0"]);
    assert!(few.ask(&["SELECT", "1"]).is_error("NOPERM"));
    let log = show(&app.ask(&["ACL", "LOG"]));
    assert!(log.contains("shutdown") && !log.contains("few"), "{log}");
}
