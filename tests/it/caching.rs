//! Client-side caching where several shard groups have the keys: whoever caches hears of every change through any node, also
//! while keys and primaries move, and of nothing else.

use keyward_tests::{Client, Cluster, Dice, Value, binary, run, wait_until, wait_until_for};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

const GROUPS: usize = 2;

fn cluster(ack: &str) -> Cluster {
    let cluster = Cluster::of(3).flag("groups", "2").flag("ack", ack).start();
    cluster.spread(GROUPS);
    settle(&cluster);
    cluster
}

/// Waits until every group is served and all copies are there.
fn settle(cluster: &Cluster) {
    wait_until_for(Duration::from_secs(60), "every group is served and has its copies", || {
        let everywhere = cluster.nodes().iter().all(|node| {
            let Ok(mut client) = Client::connect(node.address()) else { return false };
            client.call(&["WAIT", "2", "100"]).is_ok_and(|reply| reply == Value::Integer(2))
        });
        everywhere.then_some(())
    });
}

/// Hands a group's data over, once nobody else does.
fn hand_over(cluster: &Cluster, group: usize, to: usize) {
    let (address, group, to) = (cluster.node(1).admin_address().to_string(), group.to_string(), format!("node-{to}"));
    wait_until_for(Duration::from_secs(60), "the data may be handed over", || {
        let arguments = ["--addr", &address, "--timeout", "60", "failover", "--group", &group, "--to", &to];
        let done = run(&binary("keywardctl"), &arguments, "");
        assert!(done.success || done.stderr.contains("handed over already"), "{}{}", done.stdout, done.stderr);
        done.success.then_some(())
    });
}

fn ctl(cluster: &Cluster, arguments: &[&str]) -> String {
    let node = cluster.nodes().iter().find(|node| node.is_running()).expect("a node runs");
    let address = node.admin_address().to_string();
    let all: Vec<&str> = ["--addr", &address, "--timeout", "60"].into_iter().chain(arguments.iter().copied()).collect();
    let done = run(&binary("keywardctl"), &all, "");
    assert!(done.success, "{arguments:?}: {}{}", done.stdout, done.stderr);
    done.stdout
}

/// A word for each group that keys in braces are placed by.
fn tags(client: &mut Client) -> [String; GROUPS] {
    [0, 1].map(|group| {
        let fits = |name: &String| {
            let Value::Integer(slot) = client.ask(&["CLUSTER", "KEYSLOT", name]) else { panic!("no slot") };
            slot / 8192 == group
        };
        (0..).map(|number| format!("tag{number}")).find(fits).expect("there are words of every slot")
    })
}

/// A client with a cache that is kept as the protocol says.
struct Cacher {
    client: Client,
    options: &'static [&'static str],
    held: BTreeMap<String, String>,
    /// Every key it was told of, and `*` for all of them.
    told: Vec<String>,
}

impl Cacher {
    fn start(mut client: Client, options: &'static [&'static str]) -> io::Result<Cacher> {
        client.call(&["HELLO", "3"])?;
        let tracking: Vec<&str> = ["CLIENT", "TRACKING", "ON"].into_iter().chain(options.iter().copied()).collect();
        let answer = client.call(&tracking)?;
        assert!(answer.is_ok(), "{tracking:?} answered {answer}");
        Ok(Cacher { client, options, held: BTreeMap::new(), told: Vec::new() })
    }

    fn take(&mut self, push: &[Value]) {
        assert_eq!(push[0].text().as_deref(), Some("invalidate"), "{push:?}");
        match &push[1] {
            Value::Nil => {
                self.held.clear();
                self.told.push("*".to_owned());
            }
            keys => {
                for key in keys.texts() {
                    self.held.remove(&key);
                    self.told.push(key);
                }
            }
        }
    }

    /// The next thing it hears that is an answer.
    fn answer(&mut self) -> io::Result<Value> {
        loop {
            match self.client.read()? {
                Value::Push(push) => self.take(&push),
                answer => return Ok(answer),
            }
        }
    }

    fn call(&mut self, request: &[&str]) -> io::Result<Value> {
        self.client.send(request)?;
        self.answer()
    }

    fn fetch(&mut self, key: &str) -> io::Result<()> {
        if self.options.contains(&"OPTIN") {
            self.call(&["CLIENT", "CACHING", "YES"])?;
        }
        let value = self.call(&["GET", key])?;
        match value {
            Value::Error(_) => {}
            value => _ = self.held.insert(key.to_owned(), value.text().unwrap_or_default()),
        }
        Ok(())
    }

    /// Returns once what it holds of a key is this: it has heard everything then that was confirmed before about the slot.
    fn wait_for(&mut self, key: &str, value: &str) -> io::Result<()> {
        loop {
            match self.held.get(key) {
                Some(held) if held == value => return Ok(()),
                Some(_) => match self.client.read()? {
                    Value::Push(push) => self.take(&push),
                    other => panic!("{other} was not asked for"),
                },
                None => self.fetch(key)?,
            }
        }
    }

    /// What it was told since the last time, once it was told of a key that begins with `fence`, which another client changes now.
    fn told_until(&mut self, other: &mut Client, fence: &str) -> Vec<String> {
        self.hear_of(other, fence, false);
        // On a busy machine a primary may change meanwhile: then everything may have changed, and it is told so.
        std::mem::take(&mut self.told).into_iter().filter(|key| !key.starts_with(fence) && key != "*").collect()
    }

    /// The same, but `None` if everything may have changed: whoever hears that hears nothing more of what it had read.
    fn told_singly(&mut self, other: &mut Client, fence: &str) -> Option<Vec<String>> {
        self.hear_of(other, fence, true);
        let told = std::mem::take(&mut self.told);
        let gap = told.iter().any(|key| key == "*");
        (!gap).then(|| told.into_iter().filter(|key| !key.starts_with(fence)).collect())
    }

    fn hear_of(&mut self, other: &mut Client, fence: &str, or_of_all: bool) {
        // Each its own: of one that was changed just before, who begins then may hear as well.
        static FENCES: AtomicUsize = AtomicUsize::new(0);
        let fence = format!("{fence}{}", FENCES.fetch_add(1, Ordering::Relaxed));
        let broadcast = self.options.contains(&"BCAST");
        if !broadcast {
            self.fetch(&fence).expect("the fence is read");
        }
        other.ok(&["SET", &fence, "changed"]);
        while !self.told.iter().any(|key| *key == fence || or_of_all && key == "*") {
            let Value::Push(push) = self.client.read().expect("the node goes on") else { panic!("nothing was asked") };
            self.take(&push);
        }
    }
}

/// Has `round` done until no primary changed on the way, as may happen on a busy machine, and no FLUSHALL from before came late:
/// then everything may have changed, and clients are told that instead.
fn hears<T>(round: impl FnMut() -> Option<T>) -> T {
    wait_until("clients hear of single keys", round)
}

const MODES: [&[&str]; 5] = [&[], &["BCAST"], &["OPTIN"], &["OPTOUT"], &["NOLOOP"]];

const TAGS: usize = 6;
const KEYS: usize = 5 * TAGS;

fn key(number: usize) -> String {
    format!("{{tag{}}}key{number}", number % TAGS)
}

/// What writers and readers share.
#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    /// For each key the newest value that was confirmed.
    confirmed: [AtomicU64; KEYS],
    /// Looks at what is held, and values of keys that were found held.
    looks: AtomicU64,
    hits: AtomicU64,
}

/// Writes growing values to every key of its own, through any node.
fn write(addresses: &[SocketAddr], shared: &Shared, mine: &[usize], dice: &mut Dice) {
    let mut value = 0;
    let mut clients: BTreeMap<SocketAddr, Client> = BTreeMap::new();
    while !shared.stop.load(Ordering::Relaxed) {
        let (number, address) = (*dice.pick(mine), *dice.pick(addresses));
        value += 1;
        let client = match clients.remove(&address) {
            Some(client) => client,
            None => match Client::connect(address) {
                Ok(client) => client,
                Err(_) => continue,
            },
        };
        let mut client = client;
        let Ok(answer) = client.call(&["SET", &key(number), &value.to_string()]) else { continue };
        if answer.is_ok() {
            shared.confirmed[number].store(value, Ordering::Release);
        }
        clients.insert(address, client);
    }
}

/// Keeps a cache, and looks again and again whether it holds anything older than what was confirmed before.
fn keep(
    addresses: &[SocketAddr],
    at: usize,
    options: &'static [&'static str],
    shared: &Shared,
    dice: &mut Dice,
) -> io::Result<()> {
    let mut cacher = Cacher::start(Client::connect(addresses[at])?, options)?;
    let mut others: Vec<Client> = addresses.iter().filter_map(|address| Client::connect(*address).ok()).collect();
    let mut turn = 0u64;
    while !shared.stop.load(Ordering::Relaxed) {
        let before: Vec<u64> = shared.confirmed.iter().map(|value| value.load(Ordering::Acquire)).collect();
        turn += 1;
        let fence = format!("{turn}");
        let marker = |tag: usize| format!("{{tag{tag}}}marker{at}{}", options.first().unwrap_or(&""));
        for tag in 0..TAGS {
            loop {
                if others.is_empty() {
                    return Err(io::ErrorKind::NotConnected.into());
                }
                let other = dice.below(others.len());
                match others[other].call(&["SET", &marker(tag), &fence]) {
                    Ok(answer) if answer.is_ok() => break,
                    Ok(_) => {}
                    Err(_) => drop(others.swap_remove(other)),
                }
            }
        }
        for tag in 0..TAGS {
            cacher.wait_for(&marker(tag), &fence)?;
        }
        for (number, before) in before.iter().enumerate() {
            let Some(held) = cacher.held.get(&key(number)) else { continue };
            let held: u64 = held.parse().unwrap_or(0);
            assert!(held >= *before, "{options:?} at {at} holds {held} of {}, confirmed was {before}", key(number));
            shared.hits.fetch_add(1, Ordering::Relaxed);
        }
        shared.looks.fetch_add(1, Ordering::Relaxed);
        for _ in 0..8 {
            // What a transaction reads goes to the cache as well; it may take the client to another node.
            let number = dice.below(KEYS);
            match dice.below(12) {
                0 => {
                    if options.contains(&"OPTIN") {
                        cacher.call(&["CLIENT", "CACHING", "YES"])?;
                    }
                    cacher.call(&["MULTI"])?;
                    cacher.call(&["GET", &key(number)])?;
                    if let Value::Array(values) = cacher.call(&["EXEC"])?
                        && let [Value::Bulk(_) | Value::Nil] = values[..]
                    {
                        cacher.held.insert(key(number), values[0].text().unwrap_or_default());
                    }
                }
                1 => {
                    let [one, two] = [number, (number + 1) % KEYS].map(key);
                    if options.contains(&"OPTIN") {
                        cacher.call(&["CLIENT", "CACHING", "YES"])?;
                    }
                    if let Value::Array(values) = cacher.call(&["MGET", &one, &two])? {
                        cacher.held.insert(one, values[0].text().unwrap_or_default());
                        cacher.held.insert(two, values[1].text().unwrap_or_default());
                    }
                }
                _ => cacher.fetch(&key(number))?,
            }
        }
    }
    Ok(())
}

/// Waits for so many more looks at what caches hold.
fn looked(shared: &Shared, count: u64) {
    let until = shared.looks.load(Ordering::Relaxed) + count;
    wait_until_for(Duration::from_secs(120), "caches were looked at", || {
        (shared.looks.load(Ordering::Relaxed) >= until || shared.stop.load(Ordering::Relaxed)).then_some(())
    });
}

#[test]
fn no_cache_is_older_than_what_was_confirmed_while_keys_and_primaries_move() {
    let mut cluster = cluster("quorum");
    let seed = Dice::from_env("KEYWARD_CACHING_SEED").roll();
    let shared = Arc::new(Shared::default());
    let addresses: Vec<SocketAddr> = cluster.nodes().iter().map(|node| node.address()).collect();
    let writers: Vec<_> = (0..2)
        .map(|writer| {
            let (shared, addresses) = (Arc::clone(&shared), addresses.clone());
            let mine: Vec<usize> = (0..KEYS).filter(|number| number % 2 == writer).collect();
            std::thread::spawn(move || write(&addresses, &shared, &mine, &mut Dice::seeded(seed + writer as u64)))
        })
        .collect();
    let caches: Vec<_> = (0..6)
        .map(|number| {
            let (shared, addresses) = (Arc::clone(&shared), addresses.clone());
            let options = MODES[number % MODES.len()];
            std::thread::spawn(move || {
                let mut dice = Dice::seeded(seed + 100 + number as u64);
                let mut ended = 0;
                while !shared.stop.load(Ordering::Relaxed) {
                    // Whoever loses its connection has no cache any more, and begins anew: perhaps elsewhere.
                    if keep(&addresses, (number + ended) % addresses.len(), options, &shared, &mut dice).is_err() {
                        ended += 1;
                    }
                }
            })
        })
        .collect();
    looked(&shared, 60);
    for (slots, to) in [("0-5000", "1"), ("0-5000", "0"), ("9000-16383", "0"), ("9000-16383", "1")] {
        wait_until_for(Duration::from_secs(60), "what moved before is in its place", || {
            let listed = ctl(&cluster, &["slots", "list"]);
            (!listed.contains("slots ") || listed.contains(": done")).then_some(())
        });
        ctl(&cluster, &["slots", "move", slots, "--to", to]);
        looked(&shared, 6);
    }
    for round in 0..4 {
        let (group, node) = (round % GROUPS, 1 + round % 3);
        wait_until_for(Duration::from_secs(60), "the group is served by another node", || {
            let id = cluster.node(node).id()?.to_string();
            let address = cluster.node(1).admin_address().to_string();
            let arguments = ["--addr", &address, "failover", "--group", &group.to_string(), "--to", &id];
            run(&binary("keywardctl"), &arguments, "").success.then_some(())
        });
        looked(&shared, 6);
    }
    for group in 0..GROUPS {
        let killed = wait_until("the group is served", || cluster.primary_of(group));
        cluster.kill(killed);
        looked(&shared, 12);
        cluster.restart(killed);
        settle(&cluster);
        looked(&shared, 6);
    }
    let failed = shared.stop.swap(true, Ordering::Relaxed);
    writers.into_iter().for_each(|writer| writer.join().expect("it writes"));
    caches.into_iter().for_each(|cache| cache.join().expect("no cache is old"));
    assert!(!failed);
    let (looks, hits) = (shared.looks.load(Ordering::Relaxed), shared.hits.load(Ordering::Relaxed));
    println!("{looks} looks, {hits} keys found held");
    assert!(hits > looks, "caches hold something: {hits} keys in {looks} looks");
}

#[test]
fn caches_hear_of_what_they_asked_for_and_of_nothing_else_through_any_node() {
    let cluster = cluster("async");
    let tags = tags(&mut cluster.node(1).client());
    for node in cluster.nodes() {
        let mut other = cluster.node(node.number() % 3 + 1).client();
        let start = |options| Cacher::start(node.client(), options).unwrap();
        for tag in &tags {
            let name = |key: &str| format!("{{{tag}}}{key}");
            let (k, other_key, fence) = (name("k"), name("other"), name("fence"));
            other.ask(&["DEL", &k, &other_key]);

            // Of what was read, once.
            let (mut every, told) = hears(|| {
                let mut every = start(&[]);
                every.fetch(&k).unwrap();
                for _ in 0..2 {
                    other.ok(&["SET", &k, "v"]);
                    other.ok(&["SET", &other_key, "v"]);
                }
                let told = every.told_singly(&mut other, &fence)?;
                Some((every, told))
            });
            assert_eq!(told, std::slice::from_ref(&k), "node {}", node.number());
            // What it writes itself it hears of before it can ask what it holds.
            every.fetch(&k).unwrap();
            every.call(&["SET", &k, "own"]).unwrap();
            every.call(&["PING"]).unwrap();
            assert!(!every.held.contains_key(&k), "node {}", node.number());

            let told = hears(|| {
                let mut silent = start(&["NOLOOP"]);
                // What the one before wrote has come by here.
                silent.told_singly(&mut other, &fence)?;
                silent.fetch(&k).unwrap();
                silent.call(&["SET", &k, "own"]).unwrap();
                silent.fetch(&k).unwrap();
                silent.call(&["SET", &k, "own again"]).unwrap();
                silent.fetch(&other_key).unwrap();
                other.ok(&["SET", &other_key, "v"]);
                let told = silent.told_singly(&mut other, &fence)?;
                silent.fetch(&k).unwrap();
                silent.call(&["SET", &k, "own"]).unwrap();
                other.ok(&["SET", &k, "another's"]);
                Some([told, silent.told_singly(&mut other, &fence)?])
            });
            assert_eq!(told, [[other_key.clone()], [k.clone()]], "node {}", node.number());

            let told = hears(|| {
                let mut broadcast = start(&["BCAST", "PREFIX", "{tag"]);
                let mut elsewhere = start(&["BCAST", "PREFIX", "fence", "PREFIX", "no"]);
                other.ok(&["SET", &k, "v"]);
                other.ok(&["SET", "unseen", "v"]);
                let told = broadcast.told_singly(&mut other, &fence)?;
                let told_elsewhere = elsewhere.told_singly(&mut other, "fence")?;
                let mut quiet = start(&["BCAST", "NOLOOP", "PREFIX", "{tag"]);
                quiet.call(&["SET", &k, "own"]).unwrap();
                Some([told, told_elsewhere, quiet.told_singly(&mut other, &fence)?])
            });
            assert_eq!(told, [vec![k.clone()], vec![], vec![]], "node {}", node.number());

            let told = hears(|| {
                let mut asked = start(&["OPTIN"]);
                asked.call(&["GET", &k]).unwrap();
                asked.fetch(&other_key).unwrap();
                other.ok(&["SET", &k, "v"]);
                other.ok(&["SET", &other_key, "v"]);
                asked.told_singly(&mut other, &fence)
            });
            assert_eq!(told, std::slice::from_ref(&other_key), "node {}", node.number());
            let told = hears(|| {
                let mut unasked = start(&["OPTOUT"]);
                unasked.call(&["CLIENT", "CACHING", "NO"]).unwrap();
                unasked.call(&["GET", &k]).unwrap();
                unasked.fetch(&other_key).unwrap();
                other.ok(&["SET", &k, "v"]);
                other.ok(&["SET", &other_key, "v"]);
                unasked.told_singly(&mut other, &fence)
            });
            assert_eq!(told, std::slice::from_ref(&other_key), "node {}", node.number());

            // A command over several groups uses it up as well.
            let all: Vec<String> = tags.iter().map(|tag| format!("{{{tag}}}k")).collect();
            let words: Vec<&str> = ["MGET"].into_iter().chain(all.iter().map(String::as_str)).collect();
            let told = hears(|| {
                let mut across = start(&["OPTOUT"]);
                across.call(&["CLIENT", "CACHING", "NO"]).unwrap();
                across.call(&words).unwrap();
                across.fetch(&other_key).unwrap();
                other.ok(&["SET", &other_key, "v"]);
                across.told_singly(&mut other, &fence)
            });
            assert_eq!(told, std::slice::from_ref(&other_key), "node {}", node.number());

            // What goes by itself goes for caches, too.
            let told = hears(|| {
                every.told.clear();
                other.ok(&["SET", &k, "v", "PX", "100"]);
                every.fetch(&k).unwrap();
                // On a busy machine it was gone before it was read: then nothing goes any more.
                if every.held.get(&k).is_some_and(String::is_empty) {
                    return None;
                }
                while !every.told.iter().any(|key| *key == k || key == "*") {
                    let Value::Push(push) = every.client.read().unwrap() else { panic!("nothing was asked") };
                    every.take(&push);
                }
                let told = std::mem::take(&mut every.told);
                (!told.contains(&"*".to_owned())).then_some(told)
            });
            assert_eq!(told, std::slice::from_ref(&k), "node {}", node.number());
            every.told.clear();
            every.fetch(&k).unwrap();
            other.ok(&["FLUSHALL"]);
            while every.told.iter().all(|key| key != "*") {
                let Value::Push(push) = every.client.read().unwrap() else { panic!("nothing was asked") };
                every.take(&push);
            }
        }
        let mut info = node.client();
        let mut told = Vec::new();
        // That everything may have changed it hears whenever a primary does.
        let mut answer = |request: &[&str], told: &mut Vec<String>| {
            info.send(request).unwrap();
            loop {
                match info.read().unwrap() {
                    Value::Push(push) => told.push(format!("{push:?}")),
                    answer => break answer,
                }
            }
        };
        answer(&["HELLO", "3"], &mut told);
        let on = ["CLIENT", "TRACKING", "ON", "BCAST", "NOLOOP", "PREFIX", "a", "PREFIX", "b"];
        assert!(answer(&on, &mut told).is_ok());
        let shown = answer(&["CLIENT", "TRACKINGINFO"], &mut told).to_string();
        assert!(["bcast", "noloop", "a", "b"].iter().all(|word| shown.contains(word)), "{shown}");
        assert!(answer(&["CLIENT", "TRACKING", "OFF"], &mut told).is_ok());
        told.clear();
        other.ok(&["SET", "a", "v"]);
        answer(&["PING"], &mut told);
        assert!(told.is_empty(), "{told:?}");
    }
}

#[test]
fn transactions_and_scripts_of_a_client_that_caches_run_in_any_group_and_take_its_cache_along() {
    let cluster = cluster("async");
    let tags = tags(&mut cluster.node(1).client());
    for node in cluster.nodes() {
        let mut other = cluster.node(node.number() % 3 + 1).client();
        let mut cacher = Cacher::start(node.client(), &["NOLOOP"]).unwrap();
        for tag in tags.iter().chain(&tags) {
            let (k, fence) = (format!("{{{tag}}}k"), format!("{{{tag}}}fence"));
            other.ok(&["SET", &k, "before"]);
            let script = "return redis.call('GET', KEYS[1])";
            assert_eq!(cacher.call(&["EVAL", script, "1", &k]).unwrap().text().as_deref(), Some("before"));
            other.ok(&["SET", &k, "after"]);
            // It goes on to cache where it is now, and what the script read counts as read.
            let told = cacher.told_until(&mut other, &fence);
            assert!(told.contains(&k), "{told:?}");
            assert!(cacher.call(&["MULTI"]).unwrap().is_ok());
            cacher.call(&["GET", &k]).unwrap();
            assert_eq!(cacher.call(&["EXEC"]).unwrap().texts(), ["after"]);
            cacher.call(&["SET", &k, "own"]).unwrap();
            let told = cacher.told_until(&mut other, &fence);
            assert!(!told.contains(&k), "{told:?}");
            let shown = cacher.call(&["CLIENT", "TRACKINGINFO"]).unwrap().to_string();
            assert!(shown.contains("noloop"), "{shown}");
        }
    }
}

#[test]
fn another_client_is_told_in_its_place_through_any_node() {
    let cluster = cluster("async");
    let tags = tags(&mut cluster.node(1).client());
    for node in cluster.nodes() {
        let (mut reader, mut listener) = (node.client(), node.client());
        let mut other = cluster.node(node.number() % 3 + 1).client();
        let Value::Integer(id) = listener.ask(&["CLIENT", "ID"]) else { panic!("no id") };
        listener.ask(&["SUBSCRIBE", "__redis__:invalidate"]);
        reader.ok(&["CLIENT", "TRACKING", "ON", "REDIRECT", &id.to_string()]);
        for tag in &tags {
            let k = format!("{{{tag}}}k");
            reader.ask(&["GET", &k]);
            other.ok(&["SET", &k, "v"]);
            let message = listener.read().unwrap();
            let [kind, channel, keys] = message.items().expect("a message") else { panic!("{message}") };
            assert_eq!([kind, channel].map(|word| word.text().unwrap()), ["message", "__redis__:invalidate"]);
            assert_eq!(keys.texts(), [k], "node {}", node.number());
        }
    }
}

/// Clients ask for the id, name it, and subscribe then: no client existed by that id, unless both were at the first group's primary.
#[test]
fn who_is_told_in_anothers_place_may_subscribe_once_it_was_named_and_be_connected_anywhere() {
    let cluster = cluster("async");
    let tags = tags(&mut cluster.node(1).client());
    for at in cluster.nodes() {
        for listens_at in cluster.nodes() {
            let (mut reader, mut listener) = (at.client(), listens_at.client());
            let mut other = cluster.node(at.number() % 3 + 1).client();
            let Value::Integer(id) = listener.ask(&["CLIENT", "ID"]) else { panic!("no id") };
            reader.ok(&["CLIENT", "TRACKING", "ON", "REDIRECT", &id.to_string()]);
            listener.ask(&["SUBSCRIBE", "__redis__:invalidate"]);
            for tag in &tags {
                let k = format!("{{{tag}}}k");
                reader.ask(&["GET", &k]);
                other.ok(&["SET", &k, "v"]);
                let pair = format!("reader at {}, listener at {}", at.number(), listens_at.number());
                assert_eq!(invalidated(&mut listener), Some(k), "{pair}");
            }
        }
    }
    let mut reader = cluster.node(1).client();
    let nobody = ((1 << 20) - 1).to_string();
    let answer = reader.ask(&["CLIENT", "TRACKING", "ON", "REDIRECT", &nobody]).to_string();
    assert!(answer.contains("The client ID you want redirect to does not exist"), "{answer}");
}

/// What a message says that it listens to: the key that changed; none if all may have.
fn invalidated(listener: &mut Client) -> Option<String> {
    let message = listener.read().expect("whoever is told in another's place stays connected");
    let [_, channel, keys] = message.items().expect("a message") else { panic!("{message}") };
    assert_eq!(channel.text().as_deref(), Some("__redis__:invalidate"));
    if *keys == Value::Nil { None } else { keys.texts().pop() }
}

#[test]
fn who_is_told_in_anothers_place_goes_on_to_be_while_primaries_change() {
    let cluster = cluster("async");
    let tags = tags(&mut cluster.node(1).client());
    let mut pairs: Vec<(Client, Client)> = Vec::new();
    for node in cluster.nodes() {
        for through in cluster.nodes() {
            let (mut reader, mut listener) = (node.client(), through.client());
            let Value::Integer(id) = listener.ask(&["CLIENT", "ID"]) else { panic!("no id") };
            listener.ask(&["SUBSCRIBE", "__redis__:invalidate"]);
            reader.ok(&["CLIENT", "TRACKING", "ON", "REDIRECT", &id.to_string()]);
            pairs.push((reader, listener));
        }
    }
    let keys = tags.map(|tag| format!("{{{tag}}}k"));
    let mut other = cluster.node(1).client();
    for round in 0..3 {
        for group in 0..GROUPS {
            pairs.iter_mut().for_each(|(reader, _)| keys.iter().for_each(|key| drop(reader.ask(&["GET", key]))));
            let next = cluster.primary_of(group).map_or(1, |of| of % 3 + 1);
            hand_over(&cluster, group, next);
            settle(&cluster);
            for (reader, listener) in &mut pairs {
                // Nobody told it of changes on the way.
                while invalidated(listener).is_some() {}
                for key in &keys {
                    // While it is on its way itself it hears of no key, but that everything may have changed.
                    loop {
                        reader.ask(&["GET", key]);
                        other.ok(&["SET", key, &round.to_string()]);
                        match invalidated(listener) {
                            Some(changed) if changed == *key => break,
                            _ => {}
                        }
                    }
                }
            }
        }
    }
}

// It has no channels, no transaction and no cache of its own, and stayed behind: whoever had it told in its place came to the new
// primary alone, and what changed there was told to nobody.
#[test]
fn who_is_told_in_anothers_place_and_has_nothing_else_goes_on_to_be_while_primaries_change() {
    let cluster = cluster("async");
    let tags = tags(&mut cluster.node(1).client());
    let first = cluster.primary_of(0).expect("the first group is served");
    let (mut reader, mut listener) = (cluster.node(first).client(), cluster.node(first).client());
    let list = format!("{{{}}}list", tags[1]);
    listener.call(&["HELLO", "3"]).unwrap();
    let Value::Integer(id) = listener.ask(&["CLIENT", "ID"]) else { panic!("no id") };
    reader.ok(&["CLIENT", "TRACKING", "ON", "REDIRECT", &id.to_string()]);
    let keys = tags.map(|tag| format!("{{{tag}}}k"));
    let mut other = cluster.node(1).client();
    let told = |listener: &mut Client| {
        let heard = listener.read().expect("it hears of it, and stays connected");
        let Value::Push(push) = &heard else { panic!("{heard}") };
        assert_eq!(push[0].text().as_deref(), Some("invalidate"), "{push:?}");
        if push[1] == Value::Nil { None } else { push[1].texts().pop() }
    };
    for round in 0..3 {
        let next = cluster.primary_of(0).map_or(1, |of| of % 3 + 1);
        hand_over(&cluster, 0, next);
        for key in &keys {
            // Each change is told, or that everything may have changed.
            loop {
                reader.ask(&["GET", key]);
                other.ok(&["SET", key, &round.to_string()]);
                if told(&mut listener).is_some_and(|changed| changed == *key) {
                    break;
                }
            }
        }
        settle(&cluster);
    }
    // For what it would have to leave the first group's primary, it is refused.
    listener.send(&["BLPOP", &list, "1"]).unwrap();
    let answer = std::iter::repeat_with(|| listener.read().unwrap()).find(|reply| !matches!(reply, Value::Push(_)));
    let refused = answer.expect("an answer comes").to_string();
    assert!(refused.contains("CROSSSLOT"), "{refused}");
}

#[test]
fn who_is_confined_caches_its_own_keys_of_any_group() {
    let cluster = cluster("async");
    let tags = tags(&mut cluster.node(1).client());
    let mut admin = cluster.node(1).client();
    admin.ok(&["ACL", "SETUSER", "u", "on", ">secret", "~{tag*}own*", "+@all"]);
    for name in ["one", "two"] {
        admin.ok(&["TENANT", "CREATE", name, "NAMESPACE", "USER", &format!("{name}-user")]);
        admin.ok(&["ACL", "SETUSER", &format!("{name}-user"), "on", ">secret", "~*", "+@all"]);
    }
    for node in cluster.nodes() {
        let mut confined = Cacher::start(node.client_as("u", "secret"), &["BCAST"]).unwrap();
        for tag in &tags {
            admin.ok(&["SET", &format!("{{{tag}}}foreign"), "v"]);
            let own = format!("{{{tag}}}own");
            assert_eq!(confined.told_until(&mut admin, &own), Vec::<String>::new(), "node {}", node.number());
        }
        let mut reader = Cacher::start(node.client_as("one-user", "secret"), &[]).unwrap();
        let mut broadcast = Cacher::start(node.client_as("one-user", "secret"), &["BCAST"]).unwrap();
        let elsewhere = cluster.node(node.number() % 3 + 1);
        let (mut one, mut two) = (elsewhere.client_as("one-user", "secret"), elsewhere.client_as("two-user", "secret"));
        for tag in &tags {
            let (k, fence) = (format!("{{{tag}}}k"), format!("{{{tag}}}fence"));
            reader.fetch(&k).unwrap();
            two.ok(&["SET", &k, "another world's"]);
            two.ok(&["SET", &format!("{{{tag}}}theirs"), "another world's"]);
            two.ok(&["FLUSHALL"]);
            assert_eq!(reader.told_until(&mut one, &fence), Vec::<String>::new(), "node {}", node.number());
            one.ok(&["SET", &k, "its own"]);
            assert_eq!(reader.told_until(&mut one, &fence), std::slice::from_ref(&k), "node {}", node.number());
            let told = broadcast.told_until(&mut one, &fence);
            assert!(told.iter().all(|key| !key.ends_with("theirs") && key != "*"), "{told:?}");
        }
    }
}
