//! What writes cost, on request like all of [`crate::measure`]: at the primary, forwarded, one by one and in pipelines, with one
//! shard group and with two. CPU is that of all nodes together.

use std::fs;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use keyward_tests::{Client, Cluster};

use crate::stage::{lay_out, lay_out_as, standing};

/// How long each load lasts.
const LENGTH: Duration = Duration::from_secs(4);

/// Clients at the same time.
const CLIENTS: usize = 16;

/// What came of a load.
struct Load {
    per_second: f64,
    cpu_us: f64,
}

#[test]
#[ignore = "prints figures and judges nothing; takes minutes on a quiet machine"]
fn cost_of_forwarding() {
    for ack in ["async", "quorum"] {
        let cluster = lay_out(3, None, ack);
        let primary = standing(&cluster, 1).and_then(|now| now.primary).expect("there is one");
        for depth in [1, 16] {
            let of = |node: usize| run(&cluster, &[node], depth);
            // Alternating, so that a noisy moment meets both.
            let rounds: Vec<[Load; 2]> = (0..3).map(|_| [of(primary), of(primary % 3 + 1)]).collect();
            let middle = |read: fn(&Load) -> f64, at: usize| median(rounds.iter().map(|round| read(&round[at])));
            let (direct, forwarded) = (middle(|load| load.per_second, 0), middle(|load| load.per_second, 1));
            let (cost, cost_forwarded) = (middle(|load| load.cpu_us, 0), middle(|load| load.cpu_us, 1));
            println!(
                "SET of 100 bytes, {ack}, pipeline {depth}, a second: {direct:.0} at the primary, {forwarded:.0} forwarded \
                 ({:.0} %); CPU of all nodes, µs: {cost:.1}, {cost_forwarded:.1} (x{:.2})",
                forwarded / direct * 100.0,
                cost_forwarded / cost
            );
        }
    }
}

#[test]
#[ignore = "prints figures and judges nothing; takes minutes on a quiet machine"]
fn two_groups_against_one() {
    let clusters = [1, 2].map(|groups| lay_out_as(3, groups, None, "async", |_| {}));
    for depth in [1, 16] {
        let rounds: Vec<[Load; 2]> = (0..3).map(|_| [0, 1].map(|at| run(&clusters[at], &[1, 2, 3], depth))).collect();
        for (at, name) in ["one group", "two groups"].iter().enumerate() {
            let per_second = median(rounds.iter().map(|round| round[at].per_second));
            let cpu_us = median(rounds.iter().map(|round| round[at].cpu_us));
            println!(
                "SET of 100 bytes through all nodes, {name}, pipeline {depth}: {per_second:.0} a second, {cpu_us:.1} µs of CPU each"
            );
        }
    }
}

/// Clients of these nodes, each with `depth` requests on their way.
fn run(cluster: &Cluster, nodes: &[usize], depth: usize) -> Load {
    let before = cpu(cluster);
    let began = Instant::now();
    let clients = (0..CLIENTS).map(|number| {
        let address = cluster.node(nodes[number % nodes.len()]).address();
        thread::spawn(move || write(address, number, depth, began))
    });
    let clients: Vec<_> = clients.collect();
    let count: usize = clients.into_iter().map(|client| client.join().expect("it does not panic")).sum();
    let seconds = began.elapsed().as_secs_f64();
    Load { per_second: count as f64 / seconds, cpu_us: (cpu(cluster) - before) * 1e6 / count as f64 }
}

/// Writes until the time is over; how many were acknowledged.
fn write(address: SocketAddr, number: usize, depth: usize, began: Instant) -> usize {
    let mut client = Client::connect(address).expect("it runs");
    let value = "x".repeat(100);
    let batches: Vec<Vec<u8>> = (0..64)
        .map(|batch| {
            let keys = (0..depth).map(|at| format!("load:{number}:{batch}:{at}"));
            keys.flat_map(|key| keyward_tests::resp::encode(&["SET", &key, &value])).collect()
        })
        .collect();
    let mut written = 0;
    for batch in batches.iter().cycle() {
        if began.elapsed() > LENGTH {
            break;
        }
        client.send_raw(batch).expect("it reads");
        for _ in 0..depth {
            let reply = client.read().expect("it answers");
            assert!(reply.is_ok(), "{reply}");
        }
        written += depth;
    }
    written
}

/// Seconds of CPU that all nodes have used.
fn cpu(cluster: &Cluster) -> f64 {
    let of = |pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the node runs");
        let (_, fields) = stat.rsplit_once(')').expect("the name stands in parentheses");
        // utime and stime, the 14th and 15th of proc(5), in hundredths.
        let ticks = fields.split_whitespace().skip(11).take(2).map(|field| field.parse::<f64>().expect("a number"));
        ticks.sum::<f64>() / 100.0
    };
    cluster.nodes().iter().map(|node| of(node.pid())).sum()
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
