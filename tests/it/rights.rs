//! Which key a request may read and which it may write, in every command that has two kinds of keys, however it comes: at the
//! node with the data, through another one, and after a wait in which the rules changed.

use std::net::SocketAddr;
use std::time::Duration;

use keyward_tests::{Client, Cluster, Value, show, wait_until};

/// Three nodes, and the addresses of the one with the data and of another.
fn cluster() -> (Cluster, [SocketAddr; 2]) {
    let cluster = Cluster::start(3);
    let primary = cluster.primary();
    let other = cluster.nodes().iter().find(|node| node.number() != primary).expect("there are three").address();
    let addresses = [cluster.node(primary).address(), other];
    (cluster, addresses)
}

/// A request that takes from a source to the key `to`: what it needs of both, and what the second is then.
type Transfer = (&'static str, &'static str, &'static str, &'static str);

/// What Redis asks of them: taking away from a key is reading and writing it, adding to what is there is so for PFMERGE alone.
const TRANSFERS: &[Transfer] = &[
    ("COPY from:text to", "R", "W", "string"),
    ("RENAME from:text to", "RW", "W", "string"),
    ("RENAMENX from:text to", "RW", "W", "string"),
    ("BITOP NOT to from:text", "R", "W", "string"),
    ("BITOP OR to from:text from:text", "R", "W", "string"),
    ("PFMERGE to from:hll", "R", "RW", "string"),
    ("LMOVE from:list to LEFT RIGHT", "RW", "W", "list"),
    ("BLMOVE from:list to LEFT RIGHT 0", "RW", "W", "list"),
    ("RPOPLPUSH from:list to", "RW", "W", "list"),
    ("BRPOPLPUSH from:list to 0", "RW", "W", "list"),
    ("SORT from:list ALPHA STORE to", "R", "W", "list"),
    ("SMOVE from:set to a", "RW", "W", "set"),
    ("SUNIONSTORE to from:set", "R", "W", "set"),
    ("SINTERSTORE to from:set", "R", "W", "set"),
    ("SDIFFSTORE to from:set", "R", "W", "set"),
    ("ZRANGESTORE to from:zset 0 -1", "R", "W", "zset"),
    ("ZUNIONSTORE to 1 from:zset", "R", "W", "zset"),
    ("ZINTERSTORE to 1 from:zset", "R", "W", "zset"),
    ("ZDIFFSTORE to 1 from:zset", "R", "W", "zset"),
    ("GEOSEARCHSTORE to from:geo FROMLONLAT 1 1 BYRADIUS 900 km", "R", "W", "zset"),
    ("GEORADIUS from:geo 1 1 900 km STORE to", "R", "W", "zset"),
    ("GEORADIUSBYMEMBER from:geo a 900 km STOREDIST to", "R", "W", "zset"),
];

const SOURCES: &[&[&str]] = &[
    &["SET", "from:text", "a"],
    &["PFADD", "from:hll", "a"],
    &["RPUSH", "from:list", "a", "b"],
    &["SADD", "from:set", "a", "b"],
    &["ZADD", "from:zset", "1", "a"],
    &["GEOADD", "from:geo", "1", "1", "a"],
];

/// What is not enough where so much is needed.
fn too_little(needed: &str) -> &'static [&'static str] {
    match needed {
        "R" => &["W"],
        "W" => &["R"],
        _ => &["R", "W"],
    }
}

/// Each source with what it holds, and the target.
fn contents(admin: &mut Client) -> String {
    let keys = SOURCES.iter().map(|source| source[1]).chain(["to"]);
    keys.map(|key| show(&admin.ask(&["DUMP", key]))).collect()
}

// dragonfly#7984, dragonfly#8247.
#[test]
fn every_key_of_a_transfer_needs_its_own_right() {
    let (_cluster, addresses) = cluster();
    let mut admin = Client::connect(addresses[0]).expect("the node serves");
    admin.ok(&["ACL", "SETUSER", "u", "on", ">pw", "+@all"]);
    for address in addresses {
        let mut user = Client::login(address, "u", "pw").expect("it can log in");
        for (request, source, target, kind) in TRANSFERS {
            let words: Vec<&str> = request.split(' ').collect();
            let short = too_little(source).iter().map(|less| (*less, *target));
            let short = short.chain(too_little(target).iter().map(|less| (*source, *less)));
            let cases = short.map(|(source, target)| (source, target, false)).chain([(*source, *target, true)]);
            for (source, target, enough) in cases {
                admin.ask(&["FLUSHALL"]);
                SOURCES.iter().for_each(|seed| assert!(!admin.ask(seed).is_error("")));
                let before = contents(&mut admin);
                admin.ok(&["ACL", "SETUSER", "u", "resetkeys", &format!("%{source}~from:*"), &format!("%{target}~to")]);
                let reply = user.ask(&words);
                let told = format!("{request} with %{source}~from:* %{target}~to at {address}: {}", show(&reply));
                if enough {
                    assert!(!matches!(reply, Value::Error(_)), "{told}");
                    assert_eq!(admin.text(&["TYPE", "to"]), *kind, "{told}");
                } else {
                    assert!(reply.is_error("NOPERM"), "{told}");
                    assert_eq!(contents(&mut admin), before, "{told}");
                }
            }
        }
    }
}

/// A request that waits, what wakes it, and what shows that nobody took anything.
const WAITS: &[(&str, &str, &str)] = &[
    ("BLPOP own:list 0", "RPUSH own:list s3cr3t", "LPOP own:list"),
    ("BRPOP own:list 0", "RPUSH own:list s3cr3t", "LPOP own:list"),
    ("BLMOVE own:list own:to LEFT LEFT 0", "RPUSH own:list s3cr3t", "LPOP own:list"),
    ("BRPOPLPUSH own:list own:to 0", "RPUSH own:list s3cr3t", "LPOP own:list"),
    ("BLMPOP 0 1 own:list LEFT", "RPUSH own:list s3cr3t", "LPOP own:list"),
    ("BZPOPMIN own:zset 0", "ZADD own:zset 1 s3cr3t", "ZPOPMIN own:zset"),
    ("BZPOPMAX own:zset 0", "ZADD own:zset 1 s3cr3t", "ZPOPMIN own:zset"),
    ("BZMPOP 0 1 own:zset MIN", "ZADD own:zset 1 s3cr3t", "ZPOPMIN own:zset"),
    ("XREAD BLOCK 0 STREAMS own:stream $", "XADD own:stream * f s3cr3t", "XRANGE own:stream - +"),
    (
        "XREADGROUP GROUP g c BLOCK 0 STREAMS own:stream >",
        "XADD own:stream * f s3cr3t",
        "XREADGROUP GROUP g other STREAMS own:stream >",
    ),
];

fn words(text: &str) -> Vec<&str> {
    text.split(' ').collect()
}

/// Redis 7.0 served whoever waited by the rules of the time at which it began to.
#[test]
fn whatever_waits_gets_nothing_that_it_may_not_have_any_more() {
    let (cluster, addresses) = cluster();
    let mut admin = Client::connect(addresses[0]).expect("the node serves");
    for address in addresses {
        for (waiting, wake, take) in WAITS {
            admin.ok(&["FLUSHALL"]);
            admin.ok(&["XGROUP", "CREATE", "own:stream", "g", "$", "MKSTREAM"]);
            admin.ok(&["ACL", "SETUSER", "u", "reset", "on", ">pw", "~own:*", "+@all"]);
            let mut user = Client::login(address, "u", "pw").expect("it can log in");
            user.send(&words(waiting)).expect("the node reads");
            wait_until("it waits where the data is", || {
                admin.text(&["INFO", "clients"]).contains("blocked_clients:1").then_some(())
            });
            admin.ok(&["ACL", "SETUSER", "u", "resetkeys", "~other:*"]);
            assert!(!admin.ask(&words(wake)).is_error(""), "{wake}");
            let told = user.read();
            let told_nothing = told.as_ref().map_or(true, |reply| reply.is_error("NOPERM"));
            assert!(told_nothing, "{waiting} at {address}: {told:?}");
            assert_eq!(admin.ask(&["EXISTS", "own:to"]), Value::Integer(0), "{waiting}");
            let left = show(&admin.ask(&words(take)));
            assert!(left.contains("s3cr3t"), "{waiting} at {address}: {left}");
            drop(user);
            wait_until("nobody waits", || {
                let nobody = |address| {
                    let mut client = Client::connect(address).expect("the node serves");
                    client.text(&["INFO", "clients"]).contains("blocked_clients:0")
                };
                cluster.nodes().iter().all(|node| nobody(node.address())).then_some(())
            });
        }
    }
}

/// valkey 9.0.3 fell over it: the connection that asks for the file to be loaded is one that loses its channel by it.
#[test]
fn whoever_loads_a_file_that_takes_its_own_channel_is_put_out_and_the_node_goes_on() {
    let with = |channels: &str| {
        format!(
            "user default on nopass ~* &* +@all\nuser u on >pw ~* {channels} +@all\nuser kept on >pw ~* &news +@all\n"
        )
    };
    let cluster = Cluster::of(1).acl_text(&with("&news")).start();
    let node = cluster.node(1);
    let [mut user, mut kept] = ["u", "kept"].map(|name| {
        let mut client = node.client_as(name, "pw");
        client.ask(&["HELLO", "3"]);
        client.ask(&["SUBSCRIBE", "news"]);
        client
    });
    std::fs::write(node.acl_file().expect("it was given one"), with("resetchannels")).expect("it can be written");
    user.send(&["ACL", "LOAD"]).expect("it is sent");
    wait_until("its connection ends", || user.is_closed().then_some(()));
    assert!(node.client_as("u", "pw").ask(&["SUBSCRIBE", "news"]).is_error("NOPERM"));
    assert_eq!(node.client().ask(&["PUBLISH", "news", "still heard"]), Value::Integer(1));
    assert!(show(&kept.read().expect("it kept its channel")).contains("still heard"));
}

/// redis#14541, valkey#3983: with `default` off, what transactions and scripts had written was refused when it was read back.
#[test]
fn what_was_written_is_there_after_a_restart_whatever_default_may_do() {
    let mut cluster = Cluster::of(3).flag("enable-debug-command", "yes").start();
    let primary = cluster.primary();
    cluster.node(1).client().ok(&["ACL", "SETUSER", "root", "on", ">pw", "~*", "&*", "+@all"]);
    let root = |cluster: &Cluster, number: usize| {
        let address = cluster.node(number).address();
        wait_until("the node answers its administrator", || Client::login(address, "root", "pw").ok())
    };
    root(&cluster, 2).ok(&["ACL", "SETUSER", "default", "reset", "off"]);
    let write = |admin: &mut Client, number: usize| {
        admin.ok(&["MULTI"]);
        admin.text(&["SET", &format!("transaction:{number}"), "v"]);
        admin.text(&["RPUSH", &format!("list:{number}"), "v"]);
        assert!(admin.ask(&["EXEC"]).items().is_some_and(|items| items.len() == 2));
        let script = "redis.call('SET', KEYS[1], 'v') return redis.call('HSET', KEYS[2], 'f', 'v')";
        assert_eq!(
            admin.ask(&["EVAL", script, "2", &format!("script:{number}"), &format!("hash:{number}")]),
            Value::Integer(1)
        );
    };
    (0..20).for_each(|number| write(&mut root(&cluster, 1 + number % 3), number));
    // One that was away gets what it missed, and none of it is asked for rights.
    let away = 1 + primary % 3;
    cluster.stop(away);
    (20..40).for_each(|number| write(&mut root(&cluster, primary), number));
    cluster.restart(away);
    cluster.copies_agree("a replica came back");
    for number in 1..=3 {
        cluster.stop(number);
    }
    (1..=3).for_each(|number| cluster.spawn(number));
    (1..=3).for_each(|number| cluster.wait_ready(number));
    for number in 1..=3 {
        let mut admin = root(&cluster, number);
        assert!(
            Client::connect(cluster.node(number).address()).expect("it serves").ask(&["GET", "x"]).is_error("NOAUTH")
        );
        let keys = wait_until("it serves data", || match admin.call(&["DBSIZE"]) {
            Ok(Value::Integer(keys)) => Some(keys),
            _ => {
                admin = root(&cluster, number);
                None
            }
        });
        assert_eq!(keys, 40 * 4, "node {number}");
        for key in 0..40 {
            assert_eq!(admin.text(&["GET", &format!("transaction:{key}")]), "v");
            assert_eq!(admin.text(&["HGET", &format!("hash:{key}"), "f"]), "v");
        }
    }
}

/// What looks like an event and was sent by another tenant is heard by nobody.
#[test]
fn no_tenant_forges_the_events_of_another() {
    for mode in ["PREFIX", "NAMESPACE"] {
        let (_cluster, addresses) = cluster();
        let mut admin = Client::connect(addresses[0]).expect("the node serves");
        for tenant in ["a", "b"] {
            admin.ok(&["ACL", "SETUSER", tenant, "on", ">pw", "~*", "&*", "+@all"]);
            let prefix = format!("{tenant}:");
            let isolation: &[&str] = if mode == "PREFIX" { &["PREFIX", &prefix] } else { &["NAMESPACE"] };
            admin.ok(&[&["TENANT", "CREATE", tenant], isolation, &["USER", tenant]].concat());
        }
        let of = |name: &str, at: SocketAddr| Client::login(at, name, "pw").expect("it can log in");
        for address in addresses {
            let mut writer = of("b", addresses[0]);
            of("b", address).ok(&["CONFIG", "SET", "notify-keyspace-events", "KEA"]);
            let mut listeners = Vec::new();
            for request in [
                &["SUBSCRIBE", "__keyspace@0__:b:1"][..],
                &["PSUBSCRIBE", "__key*@0__:*"],
                &["SSUBSCRIBE", "__keyspace@0__:b:1"],
            ] {
                let mut listener = of("b", address);
                assert!(!listener.ask(request).is_error(""), "{request:?}");
                listener.set_patience(Duration::from_secs(10));
                listeners.push(listener);
            }
            for at in addresses {
                for command in ["PUBLISH", "SPUBLISH"] {
                    for channel in ["__keyspace@0__:b:1", "__keyevent@0__:del", "__keyspace@0__:*"] {
                        // Nobody of its own listens.
                        let reply = of("a", at).ask(&[command, channel, "forged"]);
                        assert!(matches!(reply, Value::Error(_) | Value::Integer(0)), "{command} {channel}: {reply}");
                    }
                }
            }
            writer.ok(&["SET", "b:1", "v"]);
            assert!(!writer.ask(&["SPUBLISH", "__keyspace@0__:b:1", "set by itself"]).is_error(""));
            for mut listener in listeners {
                let heard = show(&listener.read().expect("it hears of its own key"));
                assert!(heard.contains("set") && !heard.contains("forged"), "{mode}: {heard}");
            }
        }
    }
}
