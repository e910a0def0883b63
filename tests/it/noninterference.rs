//! Noninterference: whatever one confined user does, another one sees the same replies and has the same data as if the
//! first did not exist.
//!
//! The first user sends random requests over the whole command table, with arguments made from the declared keys of each
//! command, its own names, the other's names, and junk; and everything on a list of known attacks. The second one plays a
//! fixed conversation. Both runs must tell it the same, and count the same of it. Quotas are off: how long things take is not
//! compared. Every command of the table is sent, in each way of living side by side: as users whose rules name prefixes, as
//! tenants with prefixes, as tenants with namespaces; and on three nodes, where one has the data, the second user is at another
//! and the first at the third.
//!
//! `KEYWARD_NONINTERFERENCE_REQUESTS` (1500 unless told) and `KEYWARD_NONINTERFERENCE_SEED` steer it.

use std::collections::BTreeSet;
use std::time::Duration;

use keyward_engine::command::Arity;
use keyward_engine::table::{Row, table};
use keyward_tests::{Client, Cluster, Dice, Node, Value, binary, run as run_program, show};

/// How long the first user waits for an answer before it gives the connection up: some requests wait, and some hang up.
const PATIENCE: Duration = Duration::from_millis(40);

/// How the two live side by side.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Side {
    Users,
    Prefixes,
    Namespaces,
}

/// What is counted of a tenant and depends on no clock and no chance.
const COUNTED: &[&str] = &[
    "keys",
    "evicted-keys",
    "refused-for-memory",
    "operations",
    "input-bytes",
    "connections",
    "blocked-clients",
    "subscriptions",
    "delays",
    "throttled",
    "connections-refused",
    "limits-reached",
    "scripts-ended",
    "keyspace-hits",
    "keyspace-misses",
    "denied",
    "logins",
    "clients-dismissed",
    "refused-for-client-memory",
    "script-texts",
];

/// What no random request would hit upon.
const ATTACKS: &[&str] = &[
    "FLUSHALL",
    "FLUSHDB SYNC",
    "SWAPDB 0 1",
    "SWAPDB 1 0",
    "EVAL return(redis.call('swapdb','0','1')) 0",
    "KEYS *",
    "SCAN 0 COUNT 1000",
    "FUNCTION FLUSH",
    "FUNCTION DELETE blib",
    "SCRIPT FLUSH",
    "SCRIPT KILL",
    "FUNCTION KILL",
    "CONFIG SET maxmemory 1",
    "CONFIG SET notify-keyspace-events KEA",
    "CONFIG SET slowlog-log-slower-than 0",
    "CONFIG RESETSTAT",
    "CLIENT KILL TYPE normal SKIPME yes",
    "CLIENT KILL USER b",
    "CLIENT PAUSE 100000",
    "CLIENT NO-EVICT on",
    "CLIENT TRACKING on BCAST",
    "CLIENT TRACKING on BCAST PREFIX b:",
    "ACL SETUSER a allkeys",
    "ACL DELUSER b",
    "ACL SETUSER b off",
    "ACL LOG RESET",
    "SLOWLOG RESET",
    "LATENCY RESET",
    "MEMORY PURGE",
    "PUBLISH b:news stolen",
    "PUBLISH __keyspace@0__:b:1 del",
    "PUBLISH __keyevent@0__:del b:1",
    "SPUBLISH b:news stolen",
    "SUBSCRIBE b:news",
    "PSUBSCRIBE *",
    "SHUTDOWN NOSAVE",
    "DEBUG SLEEP 5",
    "DEBUG SET-ACTIVE-EXPIRE 0",
    "REPLICAOF 127.0.0.1 1",
    "FAILOVER",
    "SAVE",
    "TENANT CREATE x PREFIX b:",
    "TENANT SET b limit 1",
    "TENANT STATS b",
    "TENANT DEL b PURGE",
    "MOVE b:1 1",
    "RENAME b:1 a:1",
    "COPY b:1 a:copy",
    "SORT a:list BY b:*",
    "SORT a:list GET b:*",
    "SORT a:list STORE b:1",
    "GEORADIUS a:geo 0 0 1 km STORE a:ok STORE b:1",
    "BITOP NOT b:1 a:1",
    "MIGRATE 127.0.0.1 1 b:1 0 100",
    "EVAL redis.call('flushall') 0",
    "EVAL return{redis.pcall('del','b:1'),redis.pcall('set','b:2','x')} 0",
    "EVAL string.rep=nil;_G.redis=nil;return(1) 0",
];

/// Words that mean something to some command.
const JUNK: &[&str] = &[
    "0",
    "1",
    "-1",
    "2",
    "10",
    "3.5",
    "inf",
    "*",
    "x",
    "",
    "a:*",
    "b:*",
    "b:1",
    "GET",
    "SET",
    "NX",
    "XX",
    "EX",
    "COUNT",
    "MATCH",
    "LIMIT",
    "BY",
    "STORE",
    "ASC",
    "ALPHA",
    "WITHSCORES",
    "LEFT",
    "RIGHT",
    "MIN",
    "MAX",
    "BEFORE",
    "AFTER",
    "STREAMS",
    "GROUP",
    "CREATE",
    "MKSTREAM",
    "$",
    ">",
    "-",
    "+",
    "FIELDS",
    "km",
    "FROMLONLAT",
    "BYRADIUS",
    "REPLACE",
    "DB",
    "ASYNC",
    "WITHCODE",
    "ON",
    "OFF",
    "BCAST",
    "PREFIX",
    "LOAD",
    "__keyspace@0__:b:1",
    "b",
    "default",
    "ID",
    "TYPE",
    "normal",
    "return 1",
    "KEYS",
    "ARGV",
];

/// Not sent: the test could not tell what they do from the end of a connection, or they end the run by design.
const LEFT_OUT: &[&str] = &["quit", "client|reply"];

fn own_or_foreign(dice: &mut Dice) -> String {
    match dice.below(6) {
        0 => format!("b:{}", dice.below(8)),
        1 => format!("{{b:{}}}a", dice.below(4)),
        2 => "unowned".to_owned(),
        _ => format!("a:{}", dice.below(8)),
    }
}

/// A request of this command: as many words as it wants, keys where it declares keys, most of the time.
fn request(row: &Row, dice: &mut Dice) -> Vec<String> {
    let mut words: Vec<String> = row.full_name.split('|').map(str::to_ascii_uppercase).collect();
    let wanted = match row.command.arity {
        Arity::Exactly(count) => usize::from(count),
        Arity::AtLeast(count) => usize::from(count) + dice.below(4),
    };
    while words.len() < wanted {
        words.push(if dice.one_in(4) { own_or_foreign(dice) } else { (*dice.pick(JUNK)).to_owned() });
    }
    let argv: Vec<&[u8]> = words.iter().map(String::as_bytes).collect();
    let mut keys = Vec::new();
    table().keys_of(row, &argv, &mut keys);
    let places: Vec<usize> = keys.iter().map(|key| key.argument as usize).collect();
    for place in places {
        if !dice.one_in(8) {
            words[place] = own_or_foreign(dice);
        }
    }
    words
}

/// The user who does whatever it likes.
struct Attacker {
    cluster_address: std::net::SocketAddr,
    client: Option<Client>,
    sent: BTreeSet<&'static str>,
    unsent: Vec<&'static Row>,
    queued: usize,
    allowed: usize,
}

impl Attacker {
    fn send(&mut self, words: &[String]) {
        let client = match self.client.take() {
            Some(client) => Some(client),
            None => Client::login(self.cluster_address, "a", "pw").ok(),
        };
        let Some(mut client) = client else { return };
        client.set_patience(PATIENCE);
        // An answer that does not come, the end, and a state in which nothing else is answered mean a new connection.
        let Ok(reply) = client.call(words) else { return };
        self.queued = if reply == Value::Simple("QUEUED".to_owned()) { self.queued + 1 } else { 0 };
        let stuck = reply.is_error("NOAUTH") || reply.is_error("ERR Can't execute") || self.queued > 3;
        self.allowed += usize::from(!matches!(reply, Value::Error(_)));
        if !stuck {
            self.client = Some(client);
        }
    }

    fn act(&mut self, rows: &[&'static Row], dice: &mut Dice) {
        if dice.one_in(12) {
            let attack: Vec<String> = dice.pick(ATTACKS).split(' ').map(str::to_owned).collect();
            return self.send(&attack);
        }
        // Each command comes once for certain, and then by chance.
        let row = if dice.one_in(2) { self.unsent.pop() } else { None }.unwrap_or_else(|| *dice.pick(rows));
        self.sent.insert(row.full_name);
        self.send(&request(row, dice));
    }
}

/// What the second user says, step by step; steps whose answers depend on time or chance are not compared by value.
fn conversation() -> Vec<Vec<&'static str>> {
    let text = "SET b:1 one|SET b:2 2|INCR b:2|RPUSH b:list a b c|SADD b:set x y|HSET b:hash f v|ZADD b:zset 1 m 2 n\
        |XADD b:stream 1-1 f v|XGROUP CREATE b:stream g 0|DBSIZE|GET b:1|KEYS *|EXISTS b:1 b:2 b:gone|TYPE b:list\
        |FUNCTION LIST|FCALL bf 1 b:1|EVALSHA 1f01efcdd038e6c40180ff9942881febe1abdafe 0|SCRIPT EXISTS 1f01efcdd038e6c40180ff9942881febe1abdafe\
        |PUBSUB CHANNELS|PUBSUB NUMSUB b:news|PUBSUB NUMPAT|PUBLISH b:news hello|CONFIG GET *|ACL WHOAMI|ACL LIST|ACL USERS\
        |ACL LOG|SLOWLOG LEN|LATENCY LATEST|LATENCY HISTORY command|LATENCY RESET|COMMANDLOG LEN slow|ACL DRYRUN b GET a:1|ACL GETUSER b|INFO memory|INFO keyspace|INFO commandstats|INFO errorstats|INFO stats|INFO clients|MEMORY STATS|MEMORY DOCTOR\
        |CLIENT GETNAME|CLIENT TRACKINGINFO|GET a:1|GET b:gone|LRANGE b:list 0 -1|SMEMBERS b:set|HGETALL b:hash\
        |ZRANGE b:zset 0 -1 WITHSCORES|XRANGE b:stream - +|XPENDING b:stream g|OBJECT ENCODING b:zset|STRLEN b:1|DUMP b:1\
        |SORT b:set ALPHA|MULTI|INCR b:2|GET b:1|EXEC|WATCH b:1|MULTI|GET b:1|EXEC|COPY b:1 b:copy|RENAME b:copy b:moved|DEL b:moved\
        |EXPIRE b:1 1000|PERSIST b:1|APPEND b:1 !|SELECT 1|SET b:one x|DBSIZE|KEYS *|SELECT 0|CLUSTER COUNTKEYSINSLOT 1|SETBIT b:bits 7 1\
        |PFADD b:hll x y|PFCOUNT b:hll|GEOADD b:geo 1 1 x|GEOPOS b:geo x|FUNCTION STATS|TTL b:1|PING|ECHO hi|TIME|RANDOMKEY";
    text.split('|').map(|line| line.split_whitespace().collect()).collect()
}

/// Everything the second user was told, and what it has in the end.
fn run(side: Side, nodes: usize, attacker_steps: usize, seed: u64) -> (Vec<String>, BTreeSet<&'static str>) {
    let cluster = Cluster::start(nodes);
    // Of three: the data is at one, each of the two users at another.
    let primary = cluster.primary();
    let (place_of_b, place_of_a) = (primary % nodes + 1, (primary + 1) % nodes + 1);
    let at_b = cluster.node(place_of_b);
    let mut admin = cluster.node(primary).client();
    admin.ok(&["CONFIG", "SET", "notify-keyspace-events", "KA"]);
    // Every command is slow: what the log tells depends on no clock.
    admin.ok(&["CONFIG", "SET", "slowlog-log-slower-than", "0"]);
    for user in ["a", "b"] {
        let (keys, channels) = (format!("~{user}:*"), format!("&{user}:*"));
        admin.ok(&["ACL", "SETUSER", user, "on", ">pw", &keys, &channels, "&__keyspace@0__:*", "+@all"]);
        if user == "a" && side != Side::Users {
            // What concerns all of its tenant happens, and is not only refused.
            admin.ok(&["ACL", "SETUSER", user, "(~* +swapdb +flushdb +flushall)"]);
        }
        let prefix = format!("{user}:");
        match side {
            Side::Users => {}
            Side::Prefixes => admin.ok(&["TENANT", "CREATE", user, "PREFIX", &prefix, "USER", user]),
            Side::Namespaces => admin.ok(&["TENANT", "CREATE", user, "NAMESPACE", "USER", user]),
        }
        if side != Side::Users {
            at_b.client_as(user, "pw").ok(&["CONFIG", "SET", "notify-keyspace-events", "KA"]);
        }
    }
    admin.ok(&["ACL", "SETUSER", "root", "on", ">pw", "~*", "&*", "+@all"]);
    // RESET logs in as `default`: an open one would be everybody's way out.
    admin.ok(&["ACL", "SETUSER", "default", "off"]);
    let mut b = at_b.client_as("b", "pw");
    let mut listener = at_b.client_as("b", "pw");
    listener.ask(&["SUBSCRIBE", "b:news"]);
    listener.ask(&["PSUBSCRIBE", "__keyspace@0__:*"]);
    b.text(&[
        "FUNCTION",
        "LOAD",
        "#!lua name=blib\nredis.register_function('bf', function(keys) return redis.call('get', keys[1]) end)",
    ]);
    b.text(&["SCRIPT", "LOAD", "return 'b'"]);
    let mut cacher = at_b.client_as("b", "pw");
    cacher.ask(&["HELLO", "3"]);
    cacher.ok(&["CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", "b:"]);
    let address = cluster.node(place_of_a).address();
    let mut attacker = Attacker {
        cluster_address: address,
        client: None,
        sent: BTreeSet::new(),
        unsent: Vec::new(),
        queued: 0,
        allowed: 0,
    };
    let rows: Vec<&'static Row> = table().rows().iter().filter(|row| !LEFT_OUT.contains(&row.full_name)).collect();
    let mut dice = Dice::seeded(seed);
    let mut order = rows.clone();
    while !order.is_empty() {
        let at = dice.below(order.len());
        attacker.unsent.push(order.swap_remove(at));
    }
    let conversation = conversation();
    let mut told = Vec::new();
    for words in &conversation {
        for _ in 0..attacker_steps / conversation.len() {
            attacker.act(&rows, &mut dice);
        }
        let reply = b
            .call(words)
            .map_or_else(|error| format!("the connection ended: {error}\n"), |reply| evened_out(words, &reply));
        told.push(format!("{} => {reply}", words.join(" ")));
    }
    let mut root = cluster.node(primary).client_as("root", "pw");
    root.ask(&["WAIT", &(nodes - 1).to_string(), "10000"]);
    // Before the walk, whose cursors are longer and shorter by chance.
    if side != Side::Users {
        let root = Credentials::new();
        let table = root.ctl(at_b, &["tenant", "stats", "b"]);
        let row = |first: &str| -> Vec<&str> {
            let line = table.lines().find(|line| line.split_whitespace().next() == Some(first));
            line.unwrap_or_else(|| panic!("no {first}: {table}")).split_whitespace().collect()
        };
        // Which of the nodes has the data is nobody's doing: they are told apart by what they are for.
        let headings = row("FIGURE");
        let column = |place: usize| headings.iter().position(|heading| *heading == format!("NODE-{place}"));
        let of = |figures: &[&str], place: usize| figures[column(place).expect("a column of each node")].to_owned();
        for name in COUNTED {
            let figures = row(name);
            let (data, b, a) = (of(&figures, primary), of(&figures, place_of_b), of(&figures, place_of_a));
            told.push(format!("{name}: {data} where the data is, {b} and {a} at the two\n"));
        }
    }
    let mut cursor = "0".to_owned();
    let mut found = BTreeSet::new();
    loop {
        let page = b.ask(&["SCAN", &cursor, "COUNT", "7"]);
        let Some(items) = page.items().map(<[Value]>::to_vec) else {
            told.push(format!("SCAN => {}", show(&page)));
            break;
        };
        cursor = items[0].text().expect("a cursor is a text");
        found.extend(items[1].texts());
        if cursor == "0" {
            break;
        }
    }
    told.push(format!("in the end: {found:?}"));
    for key in &found {
        told.push(format!("{key}: {}", show(&b.ask(&["DUMP", key]))));
    }
    listener.set_patience(Duration::from_millis(300));
    while let Ok(message) = listener.read() {
        told.push(format!("heard: {}", show(&message)));
    }
    // How many keys one message names is chance; elsewhere a stream may break off by itself.
    cacher.set_patience(Duration::from_millis(300));
    while let Ok(message) = cacher.read() {
        if nodes == 1 && message.items().is_some_and(|items| items[1] == Value::Nil) {
            told.push("a cache was told that everything may have changed\n".to_owned());
        }
    }
    println!("{side:?} on {nodes}: {} requests of the first user were not refused", attacker.allowed);
    assert!(attacker_steps == 0 || attacker.allowed > attacker_steps / 8, "the first user could do nothing at all");
    (told, attacker.sent)
}

/// The password of `root`, for `keywardctl`.
struct Credentials(tempfile::NamedTempFile);

impl Credentials {
    fn new() -> Credentials {
        let file = tempfile::NamedTempFile::new().expect("a file can be made");
        std::fs::write(file.path(), "pw").expect("it is writable");
        Credentials(file)
    }

    fn ctl(&self, node: &Node, arguments: &[&str]) -> String {
        let (address, password) = (node.admin_address().to_string(), self.0.path().to_string_lossy().into_owned());
        let all = [&["--addr", &address, "--user", "root", "--password-file", &password], arguments].concat();
        run_program(&binary("keywardctl"), &all, "").stdout
    }
}

/// What is left to compare of an answer: lists without an order are sorted, chance and time are taken out.
fn evened_out(words: &[&str], reply: &Value) -> String {
    match words[0] {
        "TIME" => "some time".to_owned(),
        "RANDOMKEY" => format!("one of its own: {}", reply.text().is_some_and(|key| key.starts_with("b:"))),
        "TTL" => "a time".to_owned(),
        "KEYS" | "SMEMBERS" => format!("{:?}", reply.texts().into_iter().collect::<BTreeSet<_>>()),
        // So do the bytes of answers.
        "INFO" => reply
            .text()
            .unwrap_or_default()
            .lines()
            .filter(|line| !line.contains("output_bytes") && !line.contains("cpu_") && !line.contains("memory_human"))
            .map(|line| format!("{}\n", line.split_once(",usec=").map_or(line, |(calls, _)| calls)))
            .map(|line| if line.starts_with("used_memory") { without_chance(&line) } else { line })
            .collect(),
        // How much its tables take is chance.
        "MEMORY" if words[1] == "DOCTOR" => {
            let text = reply.text().unwrap_or_default();
            let (counted, rest) = text.split_once(" take ").unwrap_or_default();
            let rest = rest.split_once([';', '\n']).map(|(_, rest)| rest);
            format!("{counted} take some memory; {}\n", rest.unwrap_or_default())
        }
        // What is kept of denials tells of times and of the connection.
        "ACL" if words[1] == "LOG" => format!("{} denials", reply.items().map_or(0, <[Value]>::len)),
        _ => show(reply),
    }
}

/// A line that tells of bytes, without what each shard takes that holds any key: which keys share one is chance.
fn without_chance(line: &str) -> String {
    const BYTES_PER_SHARD: u64 = 64 + 16;
    let (name, bytes) = line.trim_end().split_once(':').expect("a name and a number");
    format!("{name}: {} beyond its shards\n", bytes.parse::<u64>().expect("a number") % BYTES_PER_SHARD)
}

fn nothing_is_noticed(side: Side, nodes: usize) {
    let requests = std::env::var("KEYWARD_NONINTERFERENCE_REQUESTS").ok().and_then(|text| text.parse().ok());
    let requests = requests.unwrap_or(1500);
    let seed =
        std::env::var("KEYWARD_NONINTERFERENCE_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(20_261_122);
    println!("KEYWARD_NONINTERFERENCE_SEED={seed} KEYWARD_NONINTERFERENCE_REQUESTS={requests}");
    let (alone, _) = run(side, nodes, 0, seed);
    let (beside, sent) = run(side, nodes, requests, seed);
    let pairs = alone.iter().zip(&beside).filter(|(alone, beside)| alone != beside);
    let noticed: Vec<String> = pairs.map(|(alone, beside)| format!("alone:  {alone}beside: {beside}")).collect();
    assert!(noticed.is_empty(), "the other user was noticed:\n{}", noticed.join("\n"));
    assert_eq!(alone.len(), beside.len(), "{:#?}", &beside[alone.len().min(beside.len())..]);
    let unsent: Vec<&str> = table()
        .rows()
        .iter()
        .map(|row| row.full_name)
        .filter(|name| !sent.contains(name) && !LEFT_OUT.contains(name))
        .collect();
    assert!(requests < 1500 || unsent.is_empty(), "never sent: {unsent:?}");
}

#[test]
fn nothing_one_user_does_is_seen_by_the_other() {
    nothing_is_noticed(Side::Users, 1);
}

#[test]
fn nothing_one_tenant_does_is_seen_by_the_other() {
    nothing_is_noticed(Side::Prefixes, 1);
}

#[test]
fn nothing_one_namespace_does_is_seen_by_the_other() {
    nothing_is_noticed(Side::Namespaces, 1);
}

#[test]
fn nothing_one_user_does_is_seen_by_the_other_through_other_nodes() {
    nothing_is_noticed(Side::Users, 3);
}

#[test]
fn nothing_one_tenant_does_is_seen_by_the_other_through_other_nodes() {
    nothing_is_noticed(Side::Prefixes, 3);
}

#[test]
fn nothing_one_namespace_does_is_seen_by_the_other_through_other_nodes() {
    nothing_is_noticed(Side::Namespaces, 3);
}
