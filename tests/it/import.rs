//! A live server moves in: real Redis 7 and Valkey 9, written to all the while, then compared key by key. The comparison is
//! made by the source itself: what Keyward dumps is restored beside the original, and the source says whether both are
//! the same.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use keyward_tests::{
    Client, Cluster, Dice, Finished, Process, Value, binary, free_ports, redis_binary, run, valkey_binary, wait_until,
};
use tempfile::TempDir;

mod groups;
mod primaries;

/// Words that no log may hold.
const PASSWORD: &str = "a-password-nobody-may-log";

/// A server to move away from, which can be killed and started again where it was.
struct Source {
    program: PathBuf,
    address: SocketAddr,
    folder: TempDir,
    process: Option<Process>,
    arguments: Vec<String>,
}

impl Source {
    fn start(program: &Path, arguments: &[&str]) -> Source {
        let mut source = Source {
            program: program.to_owned(),
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, free_ports(1)[0])),
            folder: tempfile::Builder::new().prefix("keyward-source-").tempdir().expect("a folder can be made"),
            process: None,
            arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
        };
        source.spawn();
        source
    }

    fn spawn(&mut self) {
        let mut command = Command::new(&self.program);
        command
            .args([
                "--port",
                &self.address.port().to_string(),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--appendonly",
                "no",
            ])
            .args(["--enable-debug-command", "yes", "--repl-diskless-sync-delay", "0"])
            // What is written while a connection is lost and made anew fits into it.
            .args(["--repl-backlog-size", "64mb"])
            .args(["--dir", &self.folder.path().to_string_lossy()])
            .args(&self.arguments);
        self.process = Some(Process::spawn(command, &self.folder.path().join("server.log")));
        let address = self.address;
        wait_until("the source answers PING", || {
            let reply = Client::connect(address).ok()?.call(&["PING"]).ok()?;
            (!reply.is_error("LOADING")).then_some(())
        });
    }

    fn kill(&mut self) {
        self.process.take().expect("it runs").kill();
    }

    fn client(&self) -> Client {
        Client::connect(self.address).expect("the source accepts connections")
    }

    fn url(&self) -> String {
        format!("redis://{}", self.address)
    }
}

/// Between two writes of one writer that nobody waits for. Without it the source writes more than nodes of a debug build copy to each
/// other, a megabyte or two a second, and whatever waits for them waits for minutes of that.
const TRICKLE: Duration = Duration::from_millis(3);

/// Writes of every kind to a source until told to stop.
struct Writers {
    stop: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
    /// Until so much was written they hurry.
    goal: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

const SCRIPT: &str = "redis.call('INCR', KEYS[1]); redis.call('LPUSH', KEYS[2], ARGV[1]); \
    redis.call('LTRIM', KEYS[2], 0, 20); return redis.call('SET', KEYS[3], redis.call('TIME')[2])";

const LIBRARY: &str = "#!lua name=moving\nredis.register_function('twice', function(keys, args) \
    redis.call('INCRBY', keys[1], args[1]); return redis.call('INCRBY', keys[1], args[1]) end)";

impl Writers {
    fn start(address: SocketAddr, count: u64, fields_expire: bool) -> Writers {
        let (stop, written, goal) = (Arc::new(AtomicBool::new(false)), Arc::<AtomicU64>::default(), Arc::default());
        let thread = |number: u64| {
            let (stop, written, goal) = (Arc::clone(&stop), Arc::clone(&written), Arc::<AtomicU64>::clone(&goal));
            std::thread::spawn(move || {
                let mut dice = Dice::seeded(7 + number);
                while !stop.load(Ordering::Relaxed) {
                    // A source that is down or hangs up is tried again.
                    let Ok(mut client) = Client::connect(address) else {
                        std::thread::yield_now();
                        continue;
                    };
                    while !stop.load(Ordering::Relaxed) && write(&mut client, &mut dice, fields_expire).is_some() {
                        if written.fetch_add(1, Ordering::Relaxed) >= goal.load(Ordering::Relaxed) {
                            std::thread::sleep(TRICKLE);
                        }
                    }
                }
            })
        };
        let threads = (0..count).map(thread).collect();
        Writers { stop, written, goal, threads }
    }

    /// Waits until so many more writes were made.
    fn go_on(&self, more: u64) {
        let goal = self.written.load(Ordering::Relaxed) + more;
        self.goal.store(goal, Ordering::Relaxed);
        wait_until("the writers have written more", || (self.written.load(Ordering::Relaxed) >= goal).then_some(()));
    }

    /// Stops them without letting a write through that the source still holds back.
    fn stop(self, source: &Source) {
        self.stop.store(true, Ordering::Relaxed);
        let mut client = source.client();
        client.ask(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        for thread in self.threads {
            while !thread.is_finished() {
                client.ask(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
                std::thread::yield_now();
            }
            thread.join().expect("a writer does not panic");
        }
        client.ok(&["CLIENT", "UNPAUSE"]);
    }
}

/// One random write; `None`: the connection is gone.
fn write(client: &mut Client, dice: &mut Dice, fields_expire: bool) -> Option<()> {
    let key = |dice: &mut Dice, kind: &str| format!("{kind}:{}", dice.below(60));
    let n = dice.below(100_000).to_string();
    let ms = (5 + dice.below(3000)).to_string();
    let mut send = |words: &[&str]| client.call(words).ok().map(drop);
    match dice.below(35) {
        0 => send(&["INCR", &key(dice, "counter")]),
        1 => send(&["RPUSH", &key(dice, "list"), &n, "x"]),
        2 => send(&["LPOP", &key(dice, "list")]),
        3 => send(&["SADD", &key(dice, "set"), &n, "a", "b"]),
        4 => send(&["SPOP", &key(dice, "set")]),
        5 => send(&["PEXPIRE", &key(dice, "set"), &ms]),
        6 => send(&["ZADD", &key(dice, "zset"), &n, &n]),
        7 => send(&["ZPOPMIN", &key(dice, "zset")]),
        8 => send(&["HSET", &key(dice, "hash"), &n, "v", "f", &n]),
        9 => send(&["HINCRBYFLOAT", &key(dice, "hash"), "f", "1.25"]),
        10 => send(&["XADD", &key(dice, "stream"), "MAXLEN", "~", "100", "*", "f", &n]),
        11 => {
            let stream = key(dice, "stream");
            send(&["XGROUP", "CREATE", &stream, "g", "0", "MKSTREAM"])?;
            send(&["XREADGROUP", "GROUP", "g", "c", "COUNT", "3", "STREAMS", &stream, ">"])
        }
        12 => send(&["SET", &key(dice, "brief"), &n, "PX", &ms]),
        13 => {
            send(&["MULTI"])?;
            let key = dice.below(20).to_string();
            send(&["INCR", &format!("pair:a:{key}")])?;
            send(&["INCR", &format!("pair:b:{key}")])?;
            send(&["EXEC"])
        }
        14 => send(&["EVAL", SCRIPT, "3", &key(dice, "counter"), &key(dice, "short"), &key(dice, "clock"), &n]),
        15 => send(&["FCALL", "twice", "1", &key(dice, "counter"), "3"]),
        16 => send(&["DEL", &key(dice, "list"), &key(dice, "zset")]),
        17 => send(&["RENAME", &key(dice, "brief"), &key(dice, "named")]),
        18 => send(&["SETRANGE", &key(dice, "text"), &dice.below(300).to_string(), "some bytes \0\r\n"]),
        19 => send(&["PFADD", &key(dice, "about"), &n]),
        20 => send(&["GEOADD", &key(dice, "geo"), "13.3", "38.1", &n]),
        21 => send(&["SORT", &key(dice, "list"), "ALPHA", "STORE", &key(dice, "sorted")]),
        22 => {
            send(&["SELECT", "3"])?;
            send(&["INCR", &key(dice, "counter")])?;
            send(&["SET", &key(dice, "other"), &n, "EX", "100"])?;
            if dice.below(40) == 0 {
                send(&["FLUSHDB"])?;
            }
            send(&["SELECT", "0"])
        }
        23 => send(&["GETEX", &key(dice, "counter"), "PX", &ms]),
        24 => send(&["SET", &key(dice, "large"), &"0123456789".repeat(dice.below(4000))]),
        25 => send(&["INCR", &key(dice, "brief")]),
        26 => send(&["PERSIST", &key(dice, "brief")]),
        27 => send(&["COPY", &key(dice, "hash"), &key(dice, "copied"), "REPLACE"]),
        28 => send(&["BITOP", "XOR", &key(dice, "bits"), &key(dice, "text"), &key(dice, "large")]),
        30 => send(&["RPOPLPUSH", &key(dice, "list"), &key(dice, "list")]),
        31 => send(&["SMOVE", &key(dice, "set"), &key(dice, "set"), "a"]),
        32 => {
            send(&["MSET", &key(dice, "text"), &n, &key(dice, "counter"), "5", &key(dice, "brief"), &n])?;
            send(&["MSETNX", &key(dice, "once"), &n, &key(dice, "once"), &n])?;
            send(&["UNLINK", &key(dice, "once"), &key(dice, "bits"), &key(dice, "once")])
        }
        33 => send(&["MOVE", &key(dice, "brief"), "3"]),
        34 if dice.below(20) == 0 => send(&["SWAPDB", "3", "9"]),
        _ if fields_expire => send(&["HPEXPIRE", &key(dice, "hash"), &ms, "FIELDS", "1", "f"]),
        _ => send(&["ZUNIONSTORE", &key(dice, "union"), "2", &key(dice, "zset"), &key(dice, "geo")]),
    }
}

/// A source with something of everything in it already.
fn prepare(source: &Source) {
    let mut client = source.client();
    client.ask(&["FUNCTION", "LOAD", LIBRARY]);
    for database in ["0", "9"] {
        client.ok(&["SELECT", database]);
        for i in 0..2000 {
            client.ok(&["SET", &format!("old:{i}"), &"value ".repeat(i % 50)]);
        }
        client.ok(&["SET", "expired soon", "1", "PX", "700"]);
        client.ask(&["RPUSH", "long list", "1", "two", &"three".repeat(5000)]);
        client.ask(&["XADD", "events", "1-1", "a", "b"]);
        client.ask(&["XGROUP", "CREATE", "events", "readers", "0"]);
        client.ask(&["XREADGROUP", "GROUP", "readers", "me", "STREAMS", "events", ">"]);
    }
}

/// Every key of the source is here, with the same value and expiry, and no other.
fn assert_same(source: &Source, cluster: &Cluster, fields_expire: bool) {
    let (mut there, mut here) = (source.client(), cluster.node(cluster.primary()).client());
    for database in ["0", "3", "9"] {
        there.ok(&["SELECT", database]);
        here.ok(&["SELECT", database]);
        let keys: BTreeSet<String> = there.ask(&["KEYS", "*"]).texts().into_iter().collect();
        let (keys, of_nothing): (BTreeSet<_>, BTreeSet<_>) =
            keys.into_iter().partition(|key| !is_of_nothing(&mut there, key));
        let keys_here: BTreeSet<String> = here.ask(&["KEYS", "*"]).texts().into_iter().collect();
        let keys_here: BTreeSet<String> =
            keys_here.into_iter().filter(|key| !of_nothing.contains(key) || !is_of_nothing(&mut here, key)).collect();
        // Both answer without what is past its expiry, each by its own clock.
        let differing: Vec<&String> = keys.symmetric_difference(&keys_here).collect();
        for key in differing {
            assert_agreed(&mut there, &mut here, &["EXISTS", key]);
        }
        for key in &keys {
            assert_same_key(&mut there, &mut here, key, fields_expire);
        }
    }
    let listed = |client: &mut Client| client.ask(&["FUNCTION", "LIST", "WITHCODE"]).to_string();
    assert_eq!(listed(&mut there), listed(&mut here));
}

/// Whether a key is a hash without a single field. Valkey 9 makes one that stays for ever if a hash is copied whose fields have all
/// expired and were not yet removed; what is moved in has nothing of it to keep.
fn is_of_nothing(client: &mut Client, key: &str) -> bool {
    client.text(&["TYPE", key]) == "hash" && client.ask(&["HLEN", key]) == Value::Integer(0)
}

/// Both sides answer the same. They are asked one after the other, so an expiry may fall between two questions: then the next
/// two agree. A hash of expired fields alone is there until its server comes by: that takes some tries more.
fn assert_agreed(there: &mut Client, here: &mut Client, question: &[&str]) {
    const TRIES: usize = 50;
    let mut answers = (Value::Nil, Value::Nil);
    for round in 0..TRIES {
        answers = (there.ask(question), here.ask(question));
        if answers.0 == answers.1 {
            return;
        }
        std::thread::sleep(Duration::from_millis(5 * round as u64));
    }
    panic!("{question:?}: the source says {:?}, Keyward {:?}", answers.0, answers.1);
}

fn assert_same_key(there: &mut Client, here: &mut Client, key: &str, fields_expire: bool) {
    assert_agreed(there, here, &["PEXPIRETIME", key]);
    // A field may expire between the two answers: then the next ones agree.
    let digests = (0..3).map(|_| digests(there, here, key)).find(|pair| pair.as_ref().is_none_or(|(a, b)| a == b));
    match digests {
        Some(None) => return,
        Some(Some(_)) => {}
        None => panic!("{} {key} differs", there.text(&["TYPE", key])),
    }
    if there.text(&["TYPE", key]) == "stream" {
        for question in [["XPENDING", key, "g"], ["XPENDING", key, "readers"]] {
            assert_agreed(there, here, &question);
        }
        assert_eq!(groups(there, key), groups(here, key), "groups of {key}");
    }
    if fields_expire && there.text(&["TYPE", key]) == "hash" {
        let question = ["HPEXPIRETIME", key, "FIELDS", "1", "f"];
        assert_agreed(there, here, &question);
    }
}

/// The source's digests of its key and of what Keyward has; `None`: it expired since its name was listed.
fn digests(there: &mut Client, here: &mut Client, key: &str) -> Option<(String, String)> {
    let Value::Integer(at) = there.ask(&["PEXPIRETIME", key]) else { panic!("PEXPIRETIME tells no number") };
    let Value::Bulk(copied) = here.ask(&["DUMP", key]) else {
        assert_agreed(there, here, &["EXISTS", key]);
        return None;
    };
    if at == -2 {
        return None;
    }
    let beside: &[u8] = b"the copy that Keyward dumped";
    // The source's digest tells whether a key expires at all, so the copy must, too.
    let expires_at = at.max(0).to_string();
    there.ok(&[b"RESTORE".as_slice(), beside, expires_at.as_bytes(), &copied, b"REPLACE", b"ABSTTL"]);
    let digests = there.ask(&[b"DEBUG".as_slice(), b"DIGEST-VALUE", key.as_bytes(), beside]).texts();
    there.ask(&[b"DEL".as_slice(), beside]);
    let [of_source, of_copy] = <[String; 2]>::try_from(digests).expect("a digest of each key");
    (there.ask(&["EXISTS", key]) == Value::Integer(1)).then_some((of_source, of_copy))
}

/// Name, pending entries and last delivered entry of each group. Consumers without entries, and how many entries a group has
/// read, Redis 7.0 does not tell its replicas.
fn groups(client: &mut Client, key: &str) -> Vec<Vec<String>> {
    let Value::Array(groups) = client.ask(&["XINFO", "GROUPS", key]) else { return Vec::new() };
    let told = |group: Value| {
        let Value::Array(fields) = group else { panic!("a group is told as an array") };
        let wanted = ["name", "pending", "last-delivered-id"];
        let pairs =
            fields.chunks(2).filter(|pair| wanted.iter().any(|name| pair[0] == Value::Bulk(name.as_bytes().to_vec())));
        pairs.map(|pair| pair[1].to_string()).collect()
    };
    groups.into_iter().map(told).collect()
}

/// Through the first node that runs.
fn ctl(cluster: &Cluster, arguments: &[&str]) -> Finished {
    let node = cluster.nodes().iter().find(|node| node.is_running()).expect("a node runs");
    ctl_at(cluster, node.number(), arguments)
}

fn ctl_at(cluster: &Cluster, node: usize, arguments: &[&str]) -> Finished {
    let address = cluster.node(node).admin_address().to_string();
    let mut all = vec!["--addr", &address];
    all.extend(arguments);
    run(&binary("keywardctl"), &all, "")
}

#[test]
fn what_finds_no_room_names_the_limit_that_bit() {
    let Some(program) = redis_binary() else { return };
    let source = Source::start(&program, &[]);
    (0..500).for_each(|key| source.client().ok(&["SET", &format!("gw:{key}"), "v"]));
    let cluster = Cluster::start(1);
    let mut admin = cluster.node(1).client();
    admin.ok(&["ACL", "SETUSER", "gw", "on", ">pw", "~*", "+@all"]);
    admin.ok(&["TENANT", "CREATE", "gw", "PREFIX", "gw:", "USER", "gw"]);
    for (setting, value, says) in [
        ("keys", "100", "tenant gw has its keys of 100"),
        ("limit", "20000", "tenant gw has its limit of 20000 bytes"),
        ("maxmemory", "10kb", "maxmemory of this cluster is reached"),
    ] {
        if setting == "maxmemory" {
            admin.ok(&["CONFIG", "SET", setting, value]);
        } else {
            admin.ok(&["TENANT", "SET", "gw", setting, value]);
        }
        // It may end before the first answer, or later: both say why.
        let told = ctl(&cluster, &["import", &source.url()]);
        let told = wait_until(says, || {
            let status = ctl(&cluster, &["import", "status"]);
            let all = format!("{}{}{}{}", told.stdout, told.stderr, status.stdout, status.stderr);
            (all.contains(says) || all.contains("raise")).then_some(all)
        });
        assert!(told.contains(says), "{setting}: {told}");
        if setting != "maxmemory" {
            admin.ok(&["TENANT", "SET", "gw", setting, "default"]);
        }
        admin.ok(&["FLUSHALL"]);
    }
}

/// A figure of the import, as scripts read it.
fn figure(cluster: &Cluster, name: &str) -> Option<u64> {
    let told = ctl(cluster, &["--output", "json", "import", "status"]);
    let at = told.stdout.find(&format!("\"{name}\":"))?;
    let digits = told.stdout[at..].chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit);
    digits.collect::<String>().parse().ok()
}

fn move_in(program: &Path, arguments: &[&str], fields_expire: bool) {
    let source = Source::start(program, arguments);
    let url = source.url();
    move_in_from(&source, &[&url], fields_expire);
}

/// `from`: how `keywardctl import` is told of the source.
fn move_in_from(source: &Source, from: &[&str], fields_expire: bool) {
    prepare(source);
    let cluster = Cluster::start(3);
    let writers = Writers::start(source.address, 3, fields_expire);
    writers.go_on(2000);
    let begun = ctl(&cluster, &[&["import"], from].concat());
    assert!(begun.success && begun.stdout.contains("following"), "{begun:?}");
    writers.go_on(3000);
    for _ in 0..3 {
        source.client().ask(&["CLIENT", "KILL", "TYPE", "replica"]);
        writers.go_on(1000);
    }
    wait_until("the lost connections were noticed", || (figure(&cluster, "reconnects")? >= 1).then_some(()));
    assert_eq!(figure(&cluster, "copies"), Some(1), "a lost connection cost a whole copy");
    let over = ctl(&cluster, &["import", "cut-over", "--pause-source", "60000"]);
    writers.stop(source);
    assert!(over.success && over.stdout.contains("finished"), "{over:?}");
    assert_same(source, &cluster, fields_expire);
    // It is this cluster's own data now: through any node, and it may be written.
    let other = cluster.nodes().iter().find(|node| node.number() != cluster.primary()).expect("three nodes");
    assert_eq!(other.client().text(&["GET", "old:7"]), "value ".repeat(7));
    other.client().ok(&["SET", "old:7", "new"]);
    assert_eq!(other.client().ask(&["FCALL", "twice", "1", "a new counter", "2"]), Value::Integer(4));
}

#[test]
fn a_live_redis_moves_in() {
    let Some(program) = redis_binary() else { return };
    move_in(&program, &["--repl-diskless-sync", "yes"], false);
}

#[test]
fn a_live_redis_that_sends_its_file_moves_in() {
    let Some(program) = redis_binary() else { return };
    move_in(&program, &["--repl-diskless-sync", "no"], false);
}

#[test]
fn a_live_valkey_moves_in() {
    let Some(program) = valkey_binary() else { return };
    move_in(&program, &[], true);
}

#[test]
fn a_live_redis_that_speaks_tls_moves_in_once_its_certificate_is_trusted() {
    let Some(program) = redis_binary() else { return };
    let folder = tempfile::tempdir().expect("a folder can be made");
    let signed = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate can be made");
    let [certificate, key] = ["cert.pem", "key.pem"].map(|name| folder.path().join(name).display().to_string());
    fs::write(&certificate, signed.cert.pem()).expect("it can be written");
    fs::write(&key, signed.signing_key.serialize_pem()).expect("it can be written");
    let port = free_ports(1)[0].to_string();
    let tls =
        ["--tls-port", &port, "--tls-cert-file", &certificate, "--tls-key-file", &key, "--tls-auth-clients", "no"];
    let source = Source::start(&program, &tls);
    let url = format!("rediss://127.0.0.1:{port}");
    let cluster = Cluster::start(1);
    let says = |arguments: &[&str], sentence: &str| {
        let told = ctl(&cluster, &[&["import"], arguments].concat());
        assert!(!told.success && told.stderr.contains(sentence), "{arguments:?}: {told:?}");
    };
    says(&[&url], "no TLS: invalid peer certificate");
    says(&[&format!("rediss://localhost:{port}"), "--source-ca", &certificate], "no TLS: invalid peer certificate");
    says(&[&format!("rediss://{}", source.address), "--source-ca", &certificate], "no TLS");
    says(&[&url, "--source-ca", &key], "no certificates in PEM");
    says(&[&source.url(), "--source-ca", &certificate], "of use for a source with TLS only");
    drop(cluster);
    move_in_from(&source, &[&url, "--source-ca", &certificate], false);
}

/// Keys past their expiry stay until the source says that they end, and what it says of them until then concerns copies, too.
#[test]
fn a_replica_that_is_copied_anew_while_a_source_is_followed_lacks_nothing() {
    let Some(program) = redis_binary() else { return };
    let source = Source::start(&program, &[]);
    prepare(&source);
    let mut cluster = Cluster::start(3);
    let writers = Writers::start(source.address, 2, false);
    let begun = ctl(&cluster, &["import", &source.url()]);
    assert!(begun.success, "{begun:?}");
    let replica = if cluster.primary() == 2 { 3 } else { 2 };
    for _ in 0..3 {
        cluster.kill(replica);
        writers.go_on(500);
        cluster.restart(replica);
    }
    let over = ctl(&cluster, &["import", "cut-over", "--pause-source", "60000", "--wait", "60"]);
    writers.stop(&source);
    assert!(over.success && over.stdout.contains("finished"), "{over:?}");
    assert_same(&source, &cluster, false);
    assert!(!cluster.node(replica).log().contains("cannot be carried out here"), "the copy lacked keys");
}

#[test]
fn a_source_that_may_not_be_followed_is_read_in_passes() {
    for (program, fields_expire) in [(redis_binary(), false), (valkey_binary(), true)] {
        let Some(program) = program else { continue };
        let source = Source::start(&program, &[]);
        prepare(&source);
        let rules = ["on", &format!(">{PASSWORD}"), "~*", "&*", "+@all", "-psync"];
        let mut argv = vec!["ACL", "SETUSER", "mover"];
        argv.extend(rules);
        source.client().ok(&argv);
        let cluster = Cluster::start(1);
        let password = cluster.folder().join("password");
        std::fs::write(&password, format!("{PASSWORD}\n")).expect("a file can be written");
        let writers = Writers::start(source.address, 1, fields_expire);
        writers.go_on(500);
        let url = format!("redis://mover@{}", source.address);
        let begun = ctl(&cluster, &["import", &url, "--source-password-file", &password.to_string_lossy()]);
        assert!(begun.success && begun.stdout.contains("scanning") && begun.stdout.contains("SCAN"), "{begun:?}");
        writers.go_on(500);
        source.client().ask(&["DEL", "old:1"]);
        let over = ctl(&cluster, &["import", "cut-over", "--pause-source", "60000", "--wait", "60"]);
        writers.stop(&source);
        assert!(over.success && over.stdout.contains("finished"), "{over:?}");
        assert_same(&source, &cluster, fields_expire);
        assert!(!cluster.node(1).log().contains(PASSWORD), "the log names the password of the source");
    }
}

#[test]
fn a_source_killed_and_started_again_is_copied_anew() {
    for (program, fields_expire) in [(redis_binary(), false), (valkey_binary(), true)] {
        let Some(program) = program else { continue };
        let mut source = Source::start(&program, &[]);
        prepare(&source);
        let cluster = Cluster::start(1);
        let begun = ctl(&cluster, &["import", &source.url()]);
        assert!(begun.success, "{begun:?}");
        // What is written after the save is lost with the source.
        source.client().ok(&["SAVE"]);
        let mut client = source.client();
        client.ok(&["SET", "written after the save", "1"]);
        let mut here = cluster.node(1).client();
        wait_until("it came here", || {
            (here.ask(&["EXISTS", "written after the save"]) == Value::Integer(1)).then_some(())
        });
        source.kill();
        wait_until("the loss is told", || {
            ctl(&cluster, &["import", "status"]).stdout.contains("waiting").then_some(())
        });
        source.spawn();
        wait_until("a second copy came", || (figure(&cluster, "copies")? >= 2).then_some(()));
        let writers = Writers::start(source.address, 1, fields_expire);
        writers.go_on(500);
        wait_until("it is followed again", || {
            ctl(&cluster, &["import", "status"]).stdout.contains("following").then_some(())
        });
        writers.stop(&source);
        let over = ctl(&cluster, &["import", "cut-over"]);
        assert!(over.success, "{over:?}");
        assert_eq!(here.ask(&["EXISTS", "written after the save"]), Value::Integer(0));
        assert_same(&source, &cluster, fields_expire);
    }
}

#[test]
fn what_makes_no_sense_is_refused_in_a_sentence() {
    let Some(program) = redis_binary() else { return };
    let source = Source::start(&program, &["--requirepass", PASSWORD]);
    let replica = Source::start(&program, &[]);
    replica.client().ask(&["REPLICAOF", "127.0.0.1", &source.address.port().to_string()]);
    let cluster = Cluster::start(1);
    let says = |arguments: &[&str], sentence: &str| {
        let mut all = vec!["import"];
        all.extend(arguments);
        let told = ctl(&cluster, &all);
        assert!(!told.success && told.stderr.contains(sentence), "{arguments:?}: {told:?}");
    };
    let address = source.address;
    says(&[&format!("redis://{address}")], "wants a password");
    says(&[&format!("redis://:wrong@{address}")], "password are wrong");
    says(&[&format!("redis://nobody:wrong@{address}")], "password are wrong");
    says(&[&replica.url()], "is itself a replica, of 127.0.0.1");
    says(&[&format!("redis://127.0.0.1:{}", free_ports(1)[0])], "cannot be reached");
    says(&["status"], "there was no import");
    says(&["cut-over"], "no import is running");
    cluster.node(1).client().ok(&["SET", "mine", "1"]);
    says(&[&format!("redis://:{PASSWORD}@{address}")], "there are 1 keys here already");
    assert!(!cluster.node(1).log().contains(PASSWORD), "the log names the password of the source");
}

#[test]
fn keys_that_were_here_stay_when_a_source_is_merged_under_another_prefix() {
    let Some(program) = redis_binary() else { return };
    let source = Source::start(&program, &[]);
    source.client().ok(&["SET", "app:a", "theirs"]);
    let cluster = Cluster::start(1);
    let mut here = cluster.node(1).client();
    here.ok(&["SET", "app:a", "mine"]);
    let begun = ctl(&cluster, &["import", &format!("{}/0", source.url()), "--merge", "--prefix-map", "app:=moved:"]);
    assert!(begun.success, "{begun:?}");
    let mut there = source.client();
    there.ok(&["MSET", "app:b", "1", "other", "2"]);
    wait_until("the stream came", || (here.ask(&["EXISTS", "moved:b", "other"]) == Value::Integer(2)).then_some(()));
    // A source that empties itself takes away what it brought, and nothing else.
    there.ok(&["FLUSHALL"]);
    wait_until("it is gone", || (here.ask(&["EXISTS", "moved:a", "moved:b"]) == Value::Integer(0)).then_some(()));
    assert_eq!(here.text(&["GET", "app:a"]), "mine");
    let ended = ctl(&cluster, &["import", "cancel"]);
    assert!(ended.success && ended.stdout.contains("cancelled"), "{ended:?}");
}

/// Whatever speaks to it gets an empty copy and then `stream`.
fn pretend_to_be_a_source(stream: &'static [u8]) -> SocketAddr {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it has an address");
    std::thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let (mut connection, mut bytes) = (connection, [0; 4096]);
                while let Ok(count @ 1..) = connection.read(&mut bytes) {
                    let said = String::from_utf8_lossy(&bytes[..count]).to_ascii_uppercase();
                    let mut answer = Vec::new();
                    for word in said.lines() {
                        let text: &[u8] = match word {
                            "PING" => b"+PONG\r\n",
                            "INFO" => b"$21\r\nredis_version:7.0.15\n\r\n",
                            "REPLCONF" => b"+OK\r\n",
                            "TIME" => b"*2\r\n$10\r\n1700000000\r\n$1\r\n0\r\n",
                            "PSYNC" => {
                                answer.extend_from_slice(b"+FULLRESYNC 0123456789012345678901234567890123456789 7\r\n");
                                answer.extend_from_slice(b"$18\r\nREDIS0010\xff\0\0\0\0\0\0\0\0");
                                stream
                            }
                            _ => b"",
                        };
                        answer.extend_from_slice(text);
                    }
                    if connection.write_all(&answer).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

#[test]
fn a_source_that_makes_no_sense_ends_the_import_and_every_node_says_why() {
    let cluster = Cluster::start(3);
    let source = pretend_to_be_a_source(b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\n1\r\n*many\r\n");
    let _ = ctl(&cluster, &["import", &format!("redis://{source}")]);
    for node in 1..=3 {
        wait_until("the node says why", || {
            let told = ctl_at(&cluster, node, &["import", "status"]).stdout;
            (told.contains("failed") && told.contains("the source's stream is no RESP")).then_some(())
        });
    }
    // What is no command of data is named, and nothing else happens.
    let source = pretend_to_be_a_source(b"*1\r\n$8\r\nSHUTDOWN\r\n*2\r\n$7\r\nNOTHING\r\n$1\r\na\r\n");
    let begun = ctl(&cluster, &["import", &format!("redis://{source}"), "--merge"]);
    assert!(begun.success, "{begun:?}");
    wait_until("it is told", || (figure(&cluster, "problems")? >= 1).then_some(()));
    assert!(ctl(&cluster, &["import", "cancel"]).success);
}
