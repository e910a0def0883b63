//! What strangers and slow or broken clients can do to a node: little, and bounded.

use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use keyward_tests::{Client, Cluster, Peer, Value, resp, wait_until, wait_until_for};

const CLOSED: &str = "user default off\nuser alice on >secret ~* &* +@all\n";

/// Bytes that are not a request, and the error that ends the connection.
const MALFORMED: [(&[u8], &str); 8] = [
    (b"*abc\r\n", "ERR Protocol error: invalid multibulk length"),
    (b"*99999999999\r\n", "ERR Protocol error: invalid multibulk length"),
    (b"*1\r\n+PING\r\n", "ERR Protocol error: expected '$', got '+'"),
    (b"*1\r\n\r\n", "ERR Protocol error: expected '$', got '\r'"),
    (b"*1\r\n$abc\r\n", "ERR Protocol error: invalid bulk length"),
    (b"*1\r\n$-5\r\n", "ERR Protocol error: invalid bulk length"),
    (b"*1\r\n$99999999999\r\n", "ERR Protocol error: invalid bulk length"),
    (b"SET \"a b\r\n", "ERR Protocol error: unbalanced quotes in request"),
];

#[test]
fn malformed_requests_get_one_error_and_the_door() {
    let cluster = Cluster::start(1);
    malformed_requests_are_refused_by(cluster.node(1).address());
}

#[test]
fn malformed_requests_get_the_same_on_valkey() {
    if let Some(valkey) = Peer::valkey(&[]) {
        malformed_requests_are_refused_by(valkey.address());
    }
}

fn malformed_requests_are_refused_by(address: SocketAddr) {
    for (bytes, error) in MALFORMED {
        let mut client = Client::connect(address).expect("the server accepts");
        client.send_raw(b"*1\r\n$4\r\nPING\r\n").expect("the server reads");
        client.send_raw(bytes).expect("the server reads");
        assert_eq!(client.read().expect("the server answers"), Value::Simple("PONG".to_owned()));
        let shown = String::from_utf8_lossy(bytes);
        match client.read().expect("the server answers") {
            // A carriage return inside an error text would end it early; a server may show it otherwise.
            Value::Error(text) => {
                assert!(text.starts_with(error.trim_end_matches(['\r', '\''])), "{shown:?}: {text}")
            }
            other => panic!("{shown:?} was answered with {other}"),
        }
        wait_until("the connection is closed", || client.is_closed().then_some(()));
    }
    // An inline request without an end is cut off as well.
    let mut client = Client::connect(address).expect("the server accepts");
    client.send_raw(&vec![b'a'; 70_000]).expect("the server reads");
    assert!(client.read().expect("the server answers").is_error("ERR Protocol error: too big inline request"));
}

#[test]
fn inline_commands_work_as_typed_into_a_terminal() {
    let cluster = Cluster::start(1);
    let mut client = cluster.node(1).client();
    client
        .send_raw(b"\r\n\r\nPING\r\nSET k \"a b\\x41\"\nget k\r\n*0\r\n*-1\r\nEXISTS  k\r\n")
        .expect("the node reads");
    assert_eq!(client.read().expect("the node answers"), Value::Simple("PONG".to_owned()));
    assert!(client.read().expect("the node answers").is_ok());
    assert_eq!(client.read().expect("the node answers"), Value::Bulk(b"a bA".to_vec()));
    assert_eq!(client.read().expect("the node answers"), Value::Integer(1));
}

#[test]
fn a_request_may_arrive_byte_by_byte() {
    let cluster = Cluster::start(1);
    let mut client = cluster.node(1).client();
    for byte in resp::encode(&["SET", "key", "value"]) {
        client.send_raw(&[byte]).expect("the node reads");
    }
    assert!(client.read().expect("the node answers").is_ok());
}

#[test]
fn strangers_may_send_little() {
    let cluster = Cluster::of(1).acl_text(CLOSED).start();
    let node = cluster.node(1);
    let mut client = node.client();
    client.send_raw(b"*11\r\n").expect("the node reads");
    let reply = client.read().expect("the node answers");
    assert!(reply.is_error("ERR Protocol error: unauthenticated multibulk length"), "{reply}");
    wait_until("the connection is closed", || client.is_closed().then_some(()));

    let mut client = node.client();
    client.send_raw(b"*2\r\n$4\r\nAUTH\r\n$16385\r\n").expect("the node reads");
    let reply = client.read().expect("the node answers");
    assert!(reply.is_error("ERR Protocol error: unauthenticated bulk length"), "{reply}");
    wait_until("the connection is closed", || client.is_closed().then_some(()));

    let mut alice = node.client_as("alice", "secret");
    let mut command = vec!["DEL".to_owned()];
    command.extend((0..100).map(|i| format!("{i:020000}")));
    assert_eq!(alice.ask(&command), Value::Integer(0), "who has logged in may send much");
}

// Every name it is compared with costs a look at the pattern: one of megabytes kept a thread for minutes.
// Somebody guessed at a password as fast as the node answered.
#[test]
fn who_guesses_at_passwords_waits_and_gets_in_with_the_right_one() {
    let cluster = Cluster::of(1).acl_text(CLOSED).flag("threads", "1").flag("failed-logins-per-second", "1").start();
    let node = cluster.node(1);
    let mut alice = node.client_as("alice", "secret");
    let mut guesses: Vec<_> = (0..6).map(|_| node.client()).collect();
    for (guess, name) in guesses.iter_mut().zip(["alice", "nobody"].into_iter().cycle()) {
        guess.send(&["AUTH", name, "guess"]).expect("the node reads");
    }
    // All of them were read.
    alice.ok(&["SET", "k", "v"]);
    // The next ones wait for seconds on whatever connection, whether there is such a user or not; and the right password, too,
    // for an early answer would tell the guesser. Who is in goes on meanwhile.
    let began = Instant::now();
    let mut next = [("alice", "guess"), ("nobody", "guess"), ("alice", "secret")].map(|(name, password)| {
        let mut client = node.client();
        client.send(&["AUTH", name, password]).expect("the node reads");
        client
    });
    alice.ok(&["SET", "k", "v"]);
    for (client, is_right) in next.iter_mut().zip([false, false, true]) {
        let answer = client.read().expect("the node answers");
        assert!(if is_right { answer.is_ok() } else { answer.is_error("WRONGPASS") }, "{answer}");
        assert!(began.elapsed() > Duration::from_secs(1), "{:?}", began.elapsed());
    }
    alice.ok(&["CONFIG", "SET", "failed-logins-per-second", "0"]);
    let mut guesser = node.client();
    for _ in 0..200 {
        assert!(guesser.ask(&["HELLO", "3", "AUTH", "alice", "guess"]).is_error("WRONGPASS"));
    }
}

#[test]
fn a_pattern_has_a_length_of_its_own() {
    let cluster = Cluster::of(1).flag("pattern-bytes-max", "2kb").start();
    let mut client = cluster.node(1).client();
    client.ask(&["SADD", "set", "a"]);
    client.ask(&["HSET", "hash", "a", "b"]);
    client.ask(&["ZADD", "ranked", "1", "a"]);
    let (long, longest) = (format!("a*{}", "?".repeat(2047)), format!("a*{}", "?".repeat(2046)));
    let refused = "ERR a pattern of 2049 bytes is longer than pattern-bytes-max (2048)";
    for request in [
        "KEYS *",
        "SCAN 0 COUNT 5 MATCH *",
        "CLUSTERSCAN 0 MATCH *",
        "SSCAN set 0 MATCH *",
        "HSCAN hash 0 MATCH *",
        "ZSCAN ranked 0 MATCH *",
        "PUBSUB CHANNELS *",
        "PUBSUB SHARDCHANNELS *",
        "CONFIG GET maxmemory *",
        "COMMAND LIST FILTERBY PATTERN *",
        "FUNCTION LIST LIBRARYNAME *",
        "PSUBSCRIBE a *",
    ] {
        let of = |pattern: &str| request.split(' ').map(|word| word.replace('*', pattern)).collect::<Vec<_>>();
        assert_eq!(client.ask(&of(&long)), Value::Error(refused.to_owned()), "{request}");
        if !request.starts_with('P') {
            assert!(!matches!(client.ask(&of(&longest)), Value::Error(_)), "{request}");
        }
    }
    assert!(client.ask(&["EVAL", "return redis.call('KEYS', ARGV[1])", "0", &long]).is_error(refused));
    client.ok(&["CONFIG", "SET", "pattern-bytes-max", "1mb"]);
    assert_eq!(client.ask(&["KEYS", &long]), Value::Array(Vec::new()));
}

#[test]
fn a_request_of_a_confined_user_names_so_much_at_most() {
    let cluster = Cluster::of(3).flag("request-names-max", "1000").start();
    let mut admin = cluster.node(1).client();
    admin.ok(&["ACL", "SETUSER", "gw", "on", ">secret", "~gw:*", "+@all"]);
    let names = |word: &[&str], name: &str, count: usize| -> Vec<String> {
        word.iter().map(|word| (*word).to_owned()).chain((0..count).map(|at| format!("{name}{at}"))).collect()
    };
    let refused = "ERR 1001 names in one request are more than request-names-max (1000)";
    for node in cluster.nodes() {
        let mut gw = node.client_as("gw", "secret");
        for word in ["DEL", "MGET", "EXISTS", "WATCH", "SINTER"] {
            assert_eq!(gw.ask(&names(&[word], "gw:", 1001)), Value::Error(refused.to_owned()), "{word}");
            assert!(!matches!(gw.ask(&names(&[word], "gw:", 1000)), Value::Error(_)), "{word}");
        }
        gw.ok(&["UNWATCH"]);
        assert!(gw.ask(&names(&["COMMAND", "INFO"], "get", 1000)).is_error("ERR 1001 names"));
        // Members and arguments are no names.
        assert!(!matches!(gw.ask(&names(&["SADD", "gw:set"], "m", 5000)), Value::Error(_)));
        assert!(!matches!(gw.ask(&names(&["EVAL", "return #ARGV", "0"], "a", 5000)), Value::Error(_)));
        let script =
            "local keys = {} for at = 1, 1001 do keys[at] = 'gw:' .. at end return redis.call('DEL', unpack(keys))";
        assert!(gw.ask(&["EVAL", script, "0"]).is_error(refused), "from a script");
        // Platform users are their own masters.
        assert_eq!(node.client().ask(&names(&["EXISTS"], "gw:", 2000)), Value::Integer(0));
    }
    admin.ok(&["CONFIG", "SET", "request-names-max", "2000"]);
    let mut gw = cluster.node(1).client_as("gw", "secret");
    assert_eq!(gw.ask(&names(&["EXISTS"], "gw:", 2000)), Value::Integer(0));
}

/// Makes 60 keys for a tenant with prefixes, one with a namespace, and a user without a tenant, and the users `gw`, `ns`, `u`.
fn sixty_keys_each(cluster: &Cluster) -> Client {
    let mut admin = cluster.node(1).client();
    for (user, keys) in [("gw", "~*"), ("ns", "~*"), ("u", "~u:*")] {
        admin.ok(&["ACL", "SETUSER", user, "on", ">secret", keys, "&*", "+@all"]);
    }
    admin.ok(&["TENANT", "CREATE", "gw", "PREFIX", "gw:", "USER", "gw"]);
    admin.ok(&["TENANT", "CREATE", "ns", "NAMESPACE", "USER", "ns"]);
    for (user, beginning) in [("gw", "gw:"), ("ns", "n:"), ("u", "u:")] {
        let mut client = cluster.node(1).client_as(user, "secret");
        for number in 0..60 {
            client.ok(&["SET", &format!("{beginning}{number}"), "v"]);
        }
    }
    admin
}

#[test]
fn keys_tells_a_confined_user_so_many_names_or_none() {
    for groups in ["1", "3"] {
        let cluster = Cluster::of(3).flag("keys-names-max", "50").flag("groups", groups).start();
        let mut admin = sixty_keys_each(&cluster);
        let refused =
            "ERR KEYS finds more than 50 names, the most that keys-names-max allows: SCAN tells them part by part";
        let by_script = "return redis.call('KEYS', ARGV[1])";
        for node in cluster.nodes() {
            for (user, beginning) in [("gw", "gw:"), ("ns", "n:"), ("u", "u:")] {
                let mut client = node.client_as(user, "secret");
                let all = format!("{beginning}*");
                for pattern in ["*", &all] {
                    client.send(&["PING"]).expect("it is sent");
                    client.send(&["KEYS", pattern]).expect("it is sent");
                    client.send(&["GET", &format!("{beginning}1")]).expect("it is sent");
                    assert_eq!(client.read().expect("an answer").text().as_deref(), Some("PONG"));
                    assert_eq!(client.read().expect("an answer"), Value::Error(refused.to_owned()), "{user} {pattern}");
                    assert_eq!(client.read().expect("an answer").text().as_deref(), Some("v"));
                }
                let some = format!("{beginning}[1-4]?");
                assert_eq!(client.ask(&["KEYS", &some]).texts().len(), 40, "{user}");
                let page = client.ask(&["SCAN", "0", "COUNT", "1000"]);
                assert!(matches!(page.items(), Some([_, Value::Array(_)])), "{page}");
                if groups == "1" {
                    let told = client.ask(&["EVAL", by_script, "0", &all]);
                    assert!(told.is_error(refused), "{user}: {told}");
                    client.ok(&["MULTI"]);
                    client.ask(&["KEYS", &all]);
                    client.ask(&["KEYS", &some]);
                    let answers = client.ask(&["EXEC"]);
                    let [Value::Error(text), few] = answers.items().expect("two answers") else { panic!("{answers}") };
                    assert_eq!((text.as_str(), few.texts().len()), (refused, 40), "{user}");
                }
            }
            assert_eq!(node.client().ask(&["KEYS", "*"]).texts().len(), 120, "whoever holds every key is not bound");
        }
        // What is said of a tenant, or of a user, holds instead; the stricter of both.
        admin.ok(&["TENANT", "SET", "gw", "keys-names", "60"]);
        admin.ok(&["TENANT", "SET", "ns", "keys-names", "0"]);
        admin.ok(&["ACL", "SETUSER", "u", "limit:keys-names=60"]);
        for user in ["gw", "ns", "u"] {
            let mut client = cluster.node(2).client_as(user, "secret");
            assert_eq!(client.ask(&["KEYS", "*"]).texts().len(), 60, "{user}");
        }
        admin.ok(&["ACL", "SETUSER", "gw", "limit:keys-names=10"]);
        admin.ok(&["ACL", "SETUSER", "default", "limit:keys-names=100"]);
        for (user, bound) in
            [("gw", "10 names, the most that keys-names of user gw"), ("default", "100 names, the most")]
        {
            let mut client = cluster.node(3).client();
            if user != "default" {
                client.ok(&["AUTH", user, "secret"]);
            }
            let told = client.ask(&["KEYS", "*"]);
            assert!(told.is_error(&format!("ERR KEYS finds more than {bound}")), "{user}: {told}");
        }
        admin.ok(&["ACL", "SETUSER", "gw", "limit:keys-names=default"]);
        assert_eq!(cluster.node(3).client_as("gw", "secret").ask(&["KEYS", "*"]).texts().len(), 60);
    }
}

// Where there are many keys it is done apart, shard by shard, and ends as soon as there are too many.
#[test]
fn a_long_walk_of_keys_ends_where_there_are_too_many_names() {
    let cluster = Cluster::of(1).flag("keys-names-max", "11999").start();
    let mut admin = cluster.node(1).client();
    admin.ok(&["ACL", "SETUSER", "u", "on", ">secret", "~u:*", "+@all"]);
    admin.ask(&["EVAL", "for n = 1, 12000 do redis.call('SET', 'u:' .. n, '') end", "0"]);
    let mut client = cluster.node(1).client_as("u", "secret");
    assert!(client.ask(&["KEYS", "*"]).is_error("ERR KEYS finds more than 11999 names"));
    admin.ok(&["CONFIG", "SET", "keys-names-max", "12000"]);
    assert_eq!(client.ask(&["KEYS", "*"]).items().map(<[_]>::len), Some(12_000));
}

/// What a client that monitors was shown of these commands, and how many it was told were left out, until that is all of them.
fn watched(client: &mut Client, word: &str, all: usize) -> (usize, usize) {
    let (mut shown, mut left_out) = (0, 0);
    while shown + left_out < all {
        let line = client.read().expect("a line").text().unwrap_or_default();
        // Clients look for a time, a database, a source with a port, and quoted words.
        let (time, rest) = line.split_once(" [0 ").expect("time and source");
        assert!(
            time.parse::<f64>().is_ok() && rest.split_once("] \"").is_some_and(|(from, _)| from.contains(':')),
            "{line}"
        );
        if let Some((_, count)) = line.split_once("[0 keyward:0] \"LEFT-OUT\" ") {
            let count = count.strip_suffix(" \"monitor-per-second\"").expect("the setting").trim_matches('"');
            left_out += count.parse::<usize>().expect("how many");
        } else if line.contains(word) {
            shown += 1;
        }
    }
    (shown, left_out)
}

#[test]
fn monitor_shows_a_confined_user_so_many_lines_a_second_and_tells_how_many_it_left_out() {
    let cluster = Cluster::of(2).flag("monitor-per-second", "10").start();
    let node = cluster.node(1);
    let mut admin = node.client();
    for (user, keys) in [("gw", "~*"), ("ai", "~*"), ("u", "~u:*")] {
        admin.ok(&["ACL", "SETUSER", user, "on", ">secret", keys, "&*", "+@all"]);
    }
    admin.ok(&["TENANT", "CREATE", "gw", "PREFIX", "gw:", "USER", "gw"]);
    admin.ok(&["TENANT", "CREATE", "ai", "NAMESPACE", "USER", "ai"]);
    let mut platform = node.client();
    platform.ok(&["MONITOR"]);
    for user in ["gw", "ai", "u"] {
        // One of them comes through the other node.
        let mut watching: Vec<Client> = cluster.nodes().iter().map(|node| node.client_as(user, "secret")).collect();
        watching.iter_mut().for_each(|client| client.ok(&["MONITOR"]));
        let mut client = node.client_as(user, "secret");
        for _ in 0..300 {
            client.send(&["ECHO", user]).expect("it is sent");
        }
        (0..300).for_each(|_| assert_eq!(client.read().expect("an answer").text().as_deref(), Some(user)));
        for watching in &mut watching {
            let (shown, left_out) = watched(watching, "\"ECHO\"", 300);
            assert!(shown > 0 && left_out > 0, "{user}: {shown} were shown, {left_out} left out");
        }
        assert_eq!(
            watched(&mut platform, &format!("\"ECHO\" \"{user}\""), 300),
            (300, 0),
            "with every key nothing is left out"
        );
    }
    // What is said of a tenant or of a user holds instead, at once.
    admin.ok(&["TENANT", "SET", "gw", "monitor-per-second", "0"]);
    admin.ok(&["ACL", "SETUSER", "default", "limit:monitor-per-second=5"]);
    for (user, is_bound) in [("gw", false), ("default", true)] {
        let mut watching = node.client();
        if user != "default" {
            watching.ok(&["AUTH", user, "secret"]);
        }
        watching.ok(&["MONITOR"]);
        let mut client = node.client_as("gw", "secret");
        for _ in 0..300 {
            client.send(&["ECHO", "again"]).expect("it is sent");
        }
        (0..300).for_each(|_| assert_eq!(client.read().expect("an answer").text().as_deref(), Some("again")));
        let (shown, left_out) = watched(&mut watching, "\"again\"", 300);
        assert_eq!(left_out > 0, is_bound, "{user}: {shown} were shown");
    }
}

// A channel is compared with everybody's patterns: one of megabytes kept a thread for as long as there were patterns.
#[test]
fn the_channels_of_a_confined_user_have_a_length_of_their_own() {
    let cluster = Cluster::of(1).flag("channel-bytes-max", "1kb").start();
    let mut admin = cluster.node(1).client();
    admin.ok(&["ACL", "SETUSER", "u", "on", ">secret", "~u:*", "&*", "+@all"]);
    let mut confined = cluster.node(1).client_as("u", "secret");
    let (long, longest) = ("c".repeat(1025), "c".repeat(1024));
    let refused = "ERR the name of a channel of 1025 bytes is longer than channel-bytes-max (1024)";
    for request in [&["PUBLISH", &long, "x"][..], &["SPUBLISH", &long, "x"], &["SUBSCRIBE", "a", &long]] {
        assert_eq!(confined.ask(request), Value::Error(refused.to_owned()), "{}", request[0]);
    }
    assert_eq!(confined.ask(&["PUBLISH", &longest, "x"]), Value::Integer(0));
    assert_eq!(admin.ask(&["PUBLISH", &long, "x"]), Value::Integer(0), "who has every key waits for nobody else");
    admin.ok(&["CONFIG", "SET", "channel-bytes-max", "2kb"]);
    assert_eq!(confined.ask(&["PUBLISH", &long, "x"]), Value::Integer(0));
}

#[test]
fn answers_a_stranger_does_not_read_are_bounded() {
    let cluster = Cluster::of(1).acl_text(CLOSED).start();
    let before = resident_bytes(&cluster);
    let mut client = cluster.node(1).client();
    client.set_patience(Duration::from_secs(2));
    let junk = resp::encode(&["GET", "k"]).repeat(1000);
    let cut_off = (0..2000).any(|_| client.send_raw(&junk).is_err());
    let grown = resident_bytes(&cluster).saturating_sub(before);
    assert!(grown < 64 << 20, "the node grew by {grown} bytes for a stranger (cut off: {cut_off})");
}

#[test]
fn a_slow_reader_does_not_make_the_node_grow() {
    let cluster = Cluster::of(1).flag("client-output-buffer-limit", "32mb").start();
    let mut writer = cluster.node(1).client();
    writer.ok(&["SET", "big", &"x".repeat(1 << 20)]);
    let before = resident_bytes(&cluster);
    let mut slow = cluster.node(1).client();
    let request = resp::encode(&["GET", "big"]).repeat(2000);
    // Two gigabytes are asked for and nothing is read.
    let _ = slow.send_raw(&request);
    for _ in 0..200 {
        assert_eq!(writer.text(&["PING"]), "PONG");
    }
    let grown = resident_bytes(&cluster).saturating_sub(before);
    assert!(grown < 200 << 20, "the node grew by {grown} bytes");
}

#[test]
fn more_clients_than_allowed_are_told_so() {
    let cluster = Cluster::of(1).flag("maxclients", "5").start();
    let node = cluster.node(1);
    let mut held: Vec<Client> = Vec::new();
    let refused = wait_until("the node refuses one more", || {
        let mut client = Client::connect(node.address()).ok()?;
        match client.call(&["PING"]) {
            Ok(Value::Error(text)) => Some(text),
            Ok(_) => {
                held.push(client);
                None
            }
            Err(_) => None,
        }
    });
    assert_eq!(refused, "ERR max number of clients reached");
    assert_eq!(held.len(), 5);
    held.pop();
    wait_until("a place is free again", || {
        let reply = Client::connect(node.address()).ok()?.call(&["PING"]).ok()?;
        (reply == Value::Simple("PONG".to_owned())).then_some(())
    });
}

#[test]
fn a_silent_connection_is_closed_after_the_timeout() {
    let cluster = Cluster::of(1).flag("timeout", "1s").start();
    let mut silent = cluster.node(1).client();
    let mut talking = cluster.node(1).client();
    silent.ask(&["PING"]);
    wait_until_for(Duration::from_secs(10), "the silent one is closed", || {
        assert_eq!(talking.text(&["PING"]), "PONG");
        silent.is_closed().then_some(())
    });
}

#[test]
fn one_connection_that_pipelines_does_not_starve_another() {
    let cluster = Cluster::start(1);
    let mut busy = cluster.node(1).client();
    busy.send_raw(&resp::encode(&["INCR", "n"]).repeat(20_000)).expect("the node reads");
    assert_eq!(cluster.node(1).client().text(&["PING"]), "PONG");
    for expected in 1..=20_000 {
        assert_eq!(busy.read().expect("the node answers"), Value::Integer(expected));
    }
}

#[test]
fn the_peer_and_admin_ports_tell_a_stranger_nothing() {
    let cluster = Cluster::start(3);
    for address in [cluster.node(1).peer_address(), cluster.node(1).admin_address()] {
        let mut stranger = Client::connect(address).expect("the port is open");
        stranger.set_patience(Duration::from_secs(5));
        let _ = stranger.send(&["PING"]);
        let reply = stranger.read();
        assert!(!matches!(&reply, Ok(Value::Simple(_) | Value::Bulk(_))), "{address} answered a stranger: {reply:?}");
    }
    assert_eq!(cluster.node(1).client().text(&["PING"]), "PONG");
}

fn resident_bytes(cluster: &Cluster) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", cluster.node(1).pid())).expect("the node runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("the kernel tells the resident size");
    let kilobytes: u64 = line.split_whitespace().nth(1).and_then(|text| text.parse().ok()).expect("a number of kB");
    kilobytes * 1024
}

/// What is named a thousand times is answered for once, or as often as it is asked: never a thousand times a thousand.
#[test]
fn names_that_are_repeated_are_looked_at_once() {
    let cluster = Cluster::of(1).start();
    let node = cluster.node(1);
    let mut client = node.client();
    client.ok(&["SET", "k", "v"]);
    let often = |words: &[&'static str], name: &'static str| {
        let repeated = std::iter::repeat_n(name, 1000);
        words.iter().copied().chain(repeated).collect::<Vec<&str>>()
    };
    let once = |client: &mut Client, words: &[&'static str], name| client.ask(&often(words, name)[..=words.len()]);
    for words in [&["LATENCY", "HISTOGRAM"][..], &["COMMAND", "DOCS"]] {
        let names = |value: &Value| value.to_string().matches("set").count();
        let (one, many) = (once(&mut client, words, "set"), client.ask(&often(words, "set")));
        assert!(names(&one) > 0 && names(&one) == names(&many), "{words:?}");
    }
    // A list has as many as were asked for.
    assert_eq!(client.ask(&often(&["COMMAND", "INFO"], "get")).items().map(<[Value]>::len), Some(1000));
    // Who waits for one name a thousand times gets one element, and the next one goes to somebody else.
    let mut waiting = node.client();
    let mut words = often(&["BLPOP"], "q");
    words.push("0");
    waiting.send(&words).expect("it is sent");
    wait_until("it waits", || client.text(&["INFO", "clients"]).contains("blocked_clients:1").then_some(()));
    assert_eq!(client.ask(&["RPUSH", "q", "a", "b"]).to_string(), "(integer) 2");
    assert_eq!(waiting.read().expect("an element").texts(), ["q", "a"]);
    assert_eq!(client.ask(&["LRANGE", "q", "0", "-1"]).texts(), ["b"]);
}
