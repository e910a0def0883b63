//! Figures, on request: `KEYWARD_BIN=… cargo test -p keyward-tests --test faults measure:: -- --ignored --nocapture
//! --test-threads=1`, with a release build. They are printed, not judged: machines differ.
//!
//! `KEYWARD_FAULT_ROUNDS` says how often each fault is made (30), `KEYWARD_COPY_MB` how large a full copy is (1024).

use std::env;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use keyward_tests::{Client, Cluster, Value, poll, wait_until_for};

use crate::runs::network;
use crate::stage::{all_is_well, lay_out, standing};

fn from_env(variable: &str, default: usize) -> usize {
    env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Writers through every node, each with one request at a time; they know when the last acknowledged one had begun and ended.
struct Pulse {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    beats: Vec<Arc<Beat>>,
}

#[derive(Default)]
struct Beat {
    begun_us: AtomicU64,
    ended_us: AtomicU64,
    errors: AtomicU64,
}

impl Pulse {
    fn start(cluster: &Cluster, began: Instant) -> Pulse {
        let stop = Arc::new(AtomicBool::new(false));
        let beats: Vec<Arc<Beat>> = (0..cluster.size()).map(|_| Arc::default()).collect();
        let threads = cluster.nodes().iter().zip(&beats).map(|(node, beat)| {
            let (address, stop, beat) = (node.address(), Arc::clone(&stop), Arc::clone(beat));
            thread::spawn(move || beat_on(address, &stop, &beat, began))
        });
        let threads = threads.collect();
        Pulse { stop, threads, beats }
    }

    /// Microseconds until a write is acknowledged, by a node other than `without`, that began after `since_us`.
    fn resumed(&self, without: usize, since_us: u64) -> Option<u64> {
        let others = self.beats.iter().enumerate().filter(|(at, _)| at + 1 != without);
        let ended = others.filter(|(_, beat)| beat.begun_us.load(Ordering::SeqCst) > since_us);
        ended.map(|(_, beat)| beat.ended_us.load(Ordering::SeqCst) - since_us).min()
    }

    fn finish(self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        self.threads.into_iter().for_each(|thread| thread.join().expect("a writer does not panic"));
        self.beats.iter().map(|beat| beat.errors.load(Ordering::SeqCst)).sum()
    }
}

fn beat_on(address: SocketAddr, stop: &AtomicBool, beat: &Beat, began: Instant) {
    let mut client: Option<Client> = None;
    let mut number = 0_u64;
    while !stop.load(Ordering::SeqCst) {
        let Some(connected) = &mut client else {
            client = Client::connect_within(address, Duration::from_millis(200)).ok();
            if let Some(client) = &client {
                client.set_patience(Duration::from_secs(6));
            }
            thread::sleep(Duration::from_millis(5));
            continue;
        };
        number += 1;
        let begun = began.elapsed().as_micros() as u64;
        let reply = connected.call(&["SET", &format!("pulse:{}", address.port()), &number.to_string()]);
        if reply.is_ok_and(|reply| reply.is_ok()) {
            beat.ended_us.store(began.elapsed().as_micros() as u64, Ordering::SeqCst);
            beat.begun_us.store(begun, Ordering::SeqCst);
        } else {
            beat.errors.fetch_add(1, Ordering::SeqCst);
            client = None;
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// Sorted, with the usual percentiles.
fn percentiles(mut values: Vec<f64>) -> String {
    values.sort_by(f64::total_cmp);
    let at = |share: f64| values[((values.len() - 1) as f64 * share).round() as usize];
    format!("p50 {:.1}  p95 {:.1}  p99 {:.1}  max {:.1}  (n={})", at(0.5), at(0.95), at(0.99), at(1.0), values.len())
}

fn resume(name: &str, ack: &str, needs_net: bool, hurt: fn(&mut Cluster, usize), mend: fn(&mut Cluster, usize)) {
    let net = match needs_net.then(|| network(3)) {
        Some(None) => return,
        Some(net) => net,
        None => None,
    };
    let mut cluster = lay_out(3, net, ack);
    let began = Instant::now();
    let pulse = Pulse::start(&cluster, began);
    let mut times = Vec::new();
    for round in 0..from_env("KEYWARD_FAULT_ROUNDS", 30) {
        thread::sleep(Duration::from_millis(500));
        let before = standing(&cluster, 1);
        let primary = before.as_ref().and_then(|now| now.primary).expect("all is well between rounds");
        hurt(&mut cluster, primary);
        // Cutting takes a while itself: the clock starts when it is done.
        let since = began.elapsed().as_micros() as u64;
        let resumed = poll(Duration::from_secs(30), || pulse.resumed(primary, since));
        let resumed = resumed.unwrap_or_else(|| panic!("round {round}: writes did not resume"));
        times.push(resumed as f64 / 1000.0);
        let leader = before.and_then(|now| now.leader).unwrap_or_default();
        println!("  round {round}: node {primary} was primary, node {leader} led: {:.0} ms", resumed as f64 / 1000.0);
        mend(&mut cluster, primary);
        all_is_well(&cluster).unwrap_or_else(|why| panic!("round {round}: {why}"));
    }
    let errors = pulse.finish();
    println!("resume after {name} ({ack}), ms: {}; errors of all clients: {errors}", percentiles(times));
}

fn kill(cluster: &mut Cluster, node: usize) {
    cluster.kill(node);
}

fn freeze(cluster: &mut Cluster, node: usize) {
    cluster.pause(node);
}

fn isolate(cluster: &mut Cluster, node: usize) {
    cluster.net().expect("it was asked for").isolate(node);
}

fn deafen_others(cluster: &mut Cluster, node: usize) {
    let net = cluster.net().expect("it was asked for");
    (1..=3).filter(|other| *other != node).for_each(|other| net.cut(node, other));
}

fn start_again(cluster: &mut Cluster, node: usize) {
    cluster.spawn(node);
}

fn thaw(cluster: &mut Cluster, node: usize) {
    cluster.resume(node);
}

fn heal(cluster: &mut Cluster, _: usize) {
    cluster.net().expect("it was asked for").heal();
}

#[test]
#[ignore = "prints figures and judges nothing; takes minutes on a quiet machine"]
fn resume_after_kill() {
    resume("kill -9", "quorum", false, kill, start_again);
    resume("kill -9", "async", false, kill, start_again);
}

#[test]
#[ignore = "prints figures and judges nothing; takes minutes on a quiet machine"]
fn resume_after_freeze() {
    resume("SIGSTOP", "quorum", false, freeze, thaw);
    resume("SIGSTOP", "async", false, freeze, thaw);
}

#[test]
#[ignore = "prints figures and judges nothing; takes minutes on a quiet machine"]
fn resume_after_partition() {
    resume("full partition", "quorum", true, isolate, heal);
    resume("one-way cut from the primary", "quorum", true, deafen_others, heal);
}

#[test]
#[ignore = "prints figures and judges nothing; takes minutes on a quiet machine"]
fn how_long_a_cut_off_primary_acknowledges() {
    for ack in ["async", "quorum"] {
        let Some(net) = network(3) else { return };
        let cluster = lay_out(3, Some(net), ack);
        let mut windows = Vec::new();
        for _ in 0..from_env("KEYWARD_FAULT_ROUNDS", 30).div_ceil(3) {
            let primary = standing(&cluster, 1).and_then(|now| now.primary).expect("all is well between rounds");
            let mut client = cluster.node(primary).client();
            client.ok(&["SET", "window", "0"]);
            cluster.net().expect("it was asked for").isolate_from_nodes(primary);
            let (began, mut last) = (Instant::now(), Duration::ZERO);
            while client.call(&["SET", "window", "1"]).is_ok_and(|reply| reply.is_ok()) {
                last = began.elapsed();
            }
            windows.push(last.as_secs_f64() * 1000.0);
            cluster.net().expect("it was asked for").heal();
            all_is_well(&cluster).expect("well between rounds");
        }
        println!("a cut-off primary acknowledges for so long ({ack}), ms: {}", percentiles(windows));
    }
}

#[test]
#[ignore = "prints figures and judges nothing; takes minutes on a quiet machine"]
fn hand_over_pause() {
    let cluster = lay_out(3, None, "quorum");
    let began = Instant::now();
    let stop = Arc::new(AtomicBool::new(false));
    let slow: Vec<_> = cluster
        .nodes()
        .iter()
        .map(|node| {
            let (address, stop) = (node.address(), Arc::clone(&stop));
            thread::spawn(move || latencies(address, "hand-over", |at| !stop.load(Ordering::SeqCst) || at == 0))
        })
        .collect();
    let mut pauses = 0;
    for _ in 0..from_env("KEYWARD_FAULT_ROUNDS", 30) {
        let primary = standing(&cluster, 1).and_then(|now| now.primary).expect("all is well between rounds");
        let to = primary % 3 + 1;
        let admin = cluster.node(to).admin_address().to_string();
        let arguments = ["--addr", &admin, "failover", "--to", &format!("node-{to}")];
        let done = keyward_tests::run(&keyward_tests::binary("keywardctl"), &arguments, "");
        pauses += usize::from(done.success);
        all_is_well(&cluster).expect("well between rounds");
    }
    stop.store(true, Ordering::SeqCst);
    let all: Vec<f64> = slow.into_iter().flat_map(|thread| thread.join().expect("it does not panic")).collect();
    println!("{pauses} hand-overs in {:?}; latency of a write meanwhile, ms: {}", began.elapsed(), percentiles(all));
}

/// Milliseconds of each `SET`, one after the other, while `goes_on`.
fn latencies(address: SocketAddr, key: &str, goes_on: impl Fn(usize) -> bool) -> Vec<f64> {
    let mut client = Client::connect(address).expect("it runs");
    let value = "x".repeat(100);
    let mut times = Vec::new();
    while goes_on(times.len()) {
        let before = Instant::now();
        let reply = client.ask(&["SET", key, &value]);
        assert!(reply.is_ok(), "{reply}");
        times.push(before.elapsed().as_secs_f64() * 1000.0);
    }
    times
}

#[test]
#[ignore = "prints figures and judges nothing; takes minutes on a quiet machine"]
fn latency_of_a_write() {
    for ack in ["async", "quorum"] {
        let cluster = lay_out(3, None, ack);
        let primary = cluster.node(1).client().text(&["PING"]);
        assert_eq!(primary, "PONG");
        let primary = standing(&cluster, 1).and_then(|now| now.primary).expect("there is one");
        for (how, node) in [("at the primary", primary), ("forwarded", primary % 3 + 1)] {
            let address = cluster.node(node).address();
            let times = latencies(address, "latency", |done| done < 5000);
            println!("SET of 100 bytes, {ack}, {how}, ms: {}", percentiles(times));
        }
    }
}

#[test]
#[ignore = "prints figures and judges nothing; takes minutes on a quiet machine"]
fn lag_under_full_load() {
    let cluster = lay_out(3, None, "async");
    let primary = standing(&cluster, 1).and_then(|now| now.primary).expect("there is one");
    let address = cluster.node(primary).address();
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..2)
        .map(|number| {
            let stop = Arc::clone(&stop);
            thread::spawn(move || {
                let mut client = Client::connect(address).expect("it runs");
                let value = "x".repeat(100);
                let mut written = 0_u64;
                while !stop.load(Ordering::SeqCst) {
                    let batch: Vec<u8> = (0..100)
                        .flat_map(|i| {
                            let key = format!("lag:{number}:{}", (written + i) % 100_000);
                            keyward_tests::resp::encode(&["SET", &key, &value])
                        })
                        .collect();
                    client.send_raw(&batch).expect("it reads");
                    (0..100).for_each(|_| assert!(client.read().expect("it answers").is_ok()));
                    written += 100;
                }
                written
            })
        })
        .collect();
    let (mut bytes, mut seconds) = (Vec::new(), Vec::new());
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(15) {
        for replica in (1..=3).filter(|node| *node != primary) {
            let ahead = cluster.node(primary).metric("keyward_replication_position_bytes{group=\"0\"} ").unwrap_or(0.0);
            bytes.extend(
                cluster
                    .node(replica)
                    .metric("keyward_replication_position_bytes{group=\"0\"} ")
                    .map(|at| (ahead - at).max(0.0) / 1024.0),
            );
            seconds.extend(
                cluster.node(replica).metric("keyward_replica_silence_seconds{group=\"0\"} ").map(|s| s * 1000.0),
            );
        }
        thread::sleep(Duration::from_millis(50));
    }
    stop.store(true, Ordering::SeqCst);
    let written: u64 = writers.into_iter().map(|thread| thread.join().expect("it does not panic")).sum();
    println!("{:.0} writes a second; replicas behind, KB: {}", written as f64 / 15.0, percentiles(bytes));
    println!("since the primary was heard from, ms: {}", percentiles(seconds));
    let now = standing(&cluster, primary).expect("it answers");
    println!("in sync in the end: {:?}", now.in_sync);
}

#[test]
#[ignore = "prints figures and judges nothing; takes minutes on a quiet machine"]
fn a_large_full_copy() {
    let megabytes = from_env("KEYWARD_COPY_MB", 1024);
    let mut cluster = lay_out(3, None, "async");
    let primary = standing(&cluster, 1).and_then(|now| now.primary).expect("there is one");
    let replica = primary % 3 + 1;
    let mut client = cluster.node(primary).client();
    for part in 0..megabytes.div_ceil(16) {
        // 16 MB at a time, so that replicas follow in time.
        let prefix = format!("copy:{part}");
        assert!(client.ask(&["DEBUG", "POPULATE", "16000", &prefix, "1000"]).is_ok());
    }
    all_is_well(&cluster).expect("the copies hold it");
    let resident = |cluster: &Cluster| {
        cluster.node(primary).metric("keyward_memory_resident_bytes ").unwrap_or(0.0) / (1 << 20) as f64
    };
    let before = resident(&cluster);
    cluster.kill(replica);
    thread::sleep(Duration::from_secs(3));
    let stop = Arc::new(AtomicBool::new(false));
    let (address, stops) = (cluster.node(primary).address(), Arc::clone(&stop));
    let quiet = latencies(address, "before", |done| done < 2000);
    let during = thread::spawn(move || latencies(address, "during", |_| !stops.load(Ordering::SeqCst)));
    let began = Instant::now();
    cluster.spawn(replica);
    let mut peak = before;
    wait_until_for(Duration::from_secs(300), "the copy is complete and in sync", || {
        peak = peak.max(resident(&cluster));
        thread::sleep(Duration::from_millis(50));
        standing(&cluster, primary).filter(|now| now.in_sync.contains(&replica)).map(drop)
    });
    let took = began.elapsed();
    stop.store(true, Ordering::SeqCst);
    let during = during.join().expect("it does not panic");
    println!("a full copy of {megabytes} MB: {took:?} from the start of the empty process until it was in sync");
    println!("resident memory of the primary: {before:.0} MB before, at most {peak:.0} MB during");
    println!("latency of a write, ms, before: {}", percentiles(quiet));
    println!("latency of a write, ms, during: {}", percentiles(during));
    let keys = cluster.node(primary).client().ask(&["DBSIZE"]);
    assert!(matches!(keys, Value::Integer(_)), "{keys}");
}
