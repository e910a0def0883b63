//! A cluster on which faults play: who is primary, leader and in sync as the nodes say, and how it must look when all is well.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use keyward_tests::{Client, Cluster, Net, http_get, poll};

/// After the last fault, everything is well again within this time.
pub const RECOVERY: Duration = Duration::from_secs(45);

/// What one node says about itself and the group.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    pub epoch: u64,
    pub primary: Option<usize>,
    pub leader: Option<usize>,
    pub in_sync: BTreeSet<usize>,
    pub serves: bool,
}

/// What `/metrics` of a node says; `None` when it does not answer.
pub fn standing(cluster: &Cluster, number: usize) -> Option<Standing> {
    let (status, text) = http_get(cluster.node(number).http_address(), "/metrics")?;
    (status == 200).then(|| parse(&text, |id| cluster.number_of(id)))
}

fn parse(text: &str, number_of: impl Fn(u64) -> Option<usize>) -> Standing {
    let mut values = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        if let Some((name, value)) = line.rsplit_once(' ') {
            values.insert(name, value.parse::<f64>().unwrap_or(0.0));
        }
    }
    let value = |name: &str| values.get(name).copied().unwrap_or(0.0) as u64;
    let node = |name: &str| Some(value(name)).filter(|id| *id > 0).and_then(&number_of);
    let in_sync = values
        .keys()
        .filter_map(|name| name.strip_prefix("keyward_in_sync{node=\"")?.split('"').next()?.parse().ok())
        .filter_map(&number_of);
    Standing {
        epoch: value("keyward_group_epoch"),
        primary: node("keyward_primary_node"),
        leader: node("keyward_leader_node"),
        in_sync: in_sync.collect(),
        serves: value("keyward_serves_data") == 1,
    }
}

/// How nodes are told to start for these tests; `default` may do everything.
pub fn lay_out(nodes: usize, net: Option<Net>, ack: &str) -> Cluster {
    lay_out_on(nodes, net, ack, None)
}

/// [`lay_out`] with the last node's folder on a disk of its own.
pub fn lay_out_on(nodes: usize, net: Option<Net>, ack: &str, disk: Option<&Path>) -> Cluster {
    let builder = Cluster::of(nodes)
        .acl_text("user default on nopass ~* &* +@all\n")
        .flag("ack", ack)
        .flag("save", "")
        .flag("enable-debug-command", "yes");
    let builder = match net {
        Some(net) => builder.apart(net),
        None => builder,
    };
    let mut cluster = builder.lay_out();
    if let Some(disk) = disk {
        std::os::unix::fs::symlink(disk, cluster.node(nodes).folder()).expect("the folder is not there yet");
    }
    for number in 1..=nodes {
        cluster.spawn(number);
    }
    for number in 1..=nodes {
        cluster.wait_ready(number);
    }
    all_is_well(&cluster).unwrap_or_else(|why| panic!("the cluster did not come up: {why}"));
    cluster
}

/// Waits until all nodes agree on a leader and a primary, everybody is in sync, and writes are taken through every node.
pub fn all_is_well(cluster: &Cluster) -> Result<Duration, String> {
    let began = Instant::now();
    let mut why = String::new();
    let well = poll(RECOVERY, || match look(cluster) {
        Ok(()) => Some(()),
        Err(not) => {
            why = not;
            thread::sleep(Duration::from_millis(90));
            None
        }
    });
    well.map(|()| began.elapsed()).ok_or_else(|| format!("not well after {RECOVERY:?}: {why}"))
}

fn look(cluster: &Cluster) -> Result<(), String> {
    let everybody: BTreeSet<usize> = (1..=cluster.size()).collect();
    let mut first: Option<Standing> = None;
    for number in 1..=cluster.size() {
        let now = standing(cluster, number).ok_or_else(|| format!("node {number} does not answer"))?;
        if now.leader.is_none() || now.primary.is_none() {
            return Err(format!("node {number} knows no leader or no primary: {now:?}"));
        }
        if now.in_sync != everybody {
            return Err(format!("not everybody is in sync, says node {number}: {now:?}"));
        }
        if now.serves != (now.primary == Some(number)) {
            return Err(format!("node {number} and who serves: {now:?}"));
        }
        let before = first.get_or_insert_with(|| now.clone());
        if (before.epoch, before.primary, before.leader) != (now.epoch, now.primary, now.leader) {
            return Err(format!("nodes disagree: {before:?} and {now:?}"));
        }
    }
    for number in 1..=cluster.size() {
        let written =
            Client::connect_within(cluster.node(number).address(), Duration::from_secs(1)).and_then(|mut client| {
                client.set_patience(Duration::from_secs(4));
                client.call(&["SET", "all-is-well", &number.to_string()])
            });
        match written {
            Ok(reply) if reply.is_ok() => {}
            other => return Err(format!("a write through node {number}: {other:?}")),
        }
    }
    Ok(())
}

/// Waits until every node holds the same bytes; or says how they differ.
pub fn all_are_equal(cluster: &Cluster) -> Result<(), String> {
    let difference = cluster.difference_of_copies();
    difference.map_or(Ok(()), |difference| Err(format!("copies differ: {difference} {}", differences(cluster))))
}

/// Which keys differ between nodes, as far as each tells of its own copy.
fn differences(cluster: &Cluster) -> String {
    let keys: Vec<String> = cluster.node(1).client().ask(&["KEYS", "*"]).texts();
    let mut out = String::new();
    for key in keys.iter().take(500) {
        let told: Vec<String> = (1..=cluster.size())
            .map(|number| cluster.node(number).client().ask(&["DEBUG", "DIGEST-VALUE", key]).to_string())
            .collect();
        if told.windows(2).any(|pair| pair[0] != pair[1]) {
            out.push_str(&format!("\n{key}: {told:?}"));
        }
    }
    out
}

/// Watches, while faults play, that no two nodes serve in the same epoch.
pub struct Watch {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<BTreeMap<u64, BTreeSet<usize>>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Watch {
    /// Looks at every node a few times a second.
    pub fn start(cluster: &Cluster) -> Watch {
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(BTreeMap::new())));
        let addresses: Vec<_> = cluster.nodes().iter().map(|node| (node.number(), node.http_address())).collect();
        let watch = |(number, address)| {
            let (stop, seen) = (Arc::clone(&stop), Arc::clone(&seen));
            thread::spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    if let Some((200, text)) = http_get(address, "/metrics") {
                        let now = parse(&text, |_| None);
                        if now.serves {
                            let mut seen = seen.lock().expect("nobody panics with it");
                            let serving: &mut BTreeSet<usize> = seen.entry(now.epoch).or_default();
                            serving.insert(number);
                        }
                    }
                    thread::sleep(Duration::from_millis(150));
                }
            })
        };
        let threads = addresses.into_iter().map(watch).collect();
        Watch { stop, seen, threads }
    }

    /// How many reigns were seen, and which of them had two rulers.
    pub fn finish(self) -> (usize, Vec<String>) {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().expect("a watch does not panic");
        }
        let seen = self.seen.lock().expect("nobody panics with it");
        let double = seen.iter().filter(|(_, nodes)| nodes.len() > 1);
        let double = double.map(|(epoch, nodes)| format!("nodes {nodes:?} served in epoch {epoch}")).collect();
        (seen.len(), double)
    }
}
