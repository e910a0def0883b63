//! A cluster on which faults play: who is primary, leader and in sync as the nodes say, and how it must look when all is well.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use keyward_tests::{Client, Cluster, Net, http_get, poll};

/// After the last fault, everything is well again within this time.
pub const RECOVERY: Duration = Duration::from_secs(45);

/// What one node says about itself and a shard group.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    pub epoch: u64,
    pub primary: Option<usize>,
    pub leader: Option<usize>,
    pub in_sync: BTreeSet<usize>,
    pub serves: bool,
}

/// What `/metrics` of a node says about the first group; `None` when it does not answer.
pub fn standing(cluster: &Cluster, number: usize) -> Option<Standing> {
    standings(cluster, number)?.into_iter().next()
}

/// What it says about each group, in the order of their numbers.
pub fn standings(cluster: &Cluster, number: usize) -> Option<Vec<Standing>> {
    let (status, text) = http_get(cluster.node(number).http_address(), "/metrics")?;
    (status == 200).then(|| parse(&text, |id| cluster.number_of(id)))
}

fn parse(text: &str, number_of: impl Fn(u64) -> Option<usize>) -> Vec<Standing> {
    let mut values = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        if let Some((name, value)) = line.rsplit_once(' ') {
            values.insert(name, value.parse::<f64>().unwrap_or(0.0));
        }
    }
    let value = |name: &str| values.get(name).copied().map(|value| value as u64);
    let node = |id: Option<u64>| id.filter(|id| *id > 0).and_then(&number_of);
    let of_group = |group: usize| {
        let of = |name: &str| value(&format!("{name}{{group=\"{group}\"}}"));
        let start = format!("keyward_in_sync{{group=\"{group}\",node=\"");
        let in_sync = values.keys().filter_map(|name| name.strip_prefix(&start)?.split('"').next()?.parse().ok());
        Some(Standing {
            epoch: of("keyward_group_epoch")?,
            primary: node(of("keyward_primary_node")),
            leader: node(value("keyward_leader_node")),
            in_sync: in_sync.filter_map(&number_of).collect(),
            serves: of("keyward_serves_data") == Some(1),
        })
    };
    (0..).map_while(of_group).collect()
}

/// How nodes are told to start for these tests; `default` may do everything.
pub fn lay_out(nodes: usize, net: Option<Net>, ack: &str) -> Cluster {
    lay_out_as(nodes, 1, net, ack, |_| {})
}

/// [`lay_out`] with several shard groups, and with something done before any node is started.
pub fn lay_out_as(
    nodes: usize,
    groups: usize,
    net: Option<Net>,
    ack: &str,
    prepare: impl FnOnce(&mut Cluster),
) -> Cluster {
    let builder = Cluster::of(nodes)
        .acl_text("user default on nopass ~* &* +@all\n")
        .flag("ack", ack)
        .flag("groups", &groups.to_string())
        .flag("save", "")
        .flag("enable-debug-command", "yes");
    let builder = match net {
        Some(net) => builder.apart(net),
        None => builder,
    };
    let mut cluster = builder.lay_out();
    prepare(&mut cluster);
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
    let mut first: Option<Vec<Standing>> = None;
    for number in 1..=cluster.size() {
        let all = standings(cluster, number).ok_or_else(|| format!("node {number} does not answer"))?;
        for now in &all {
            if now.leader.is_none() || now.primary.is_none() {
                return Err(format!("node {number} knows no leader or no primary: {now:?}"));
            }
            if now.in_sync != everybody {
                return Err(format!("not everybody is in sync, says node {number}: {now:?}"));
            }
            if now.serves != (now.primary == Some(number)) {
                return Err(format!("node {number} and who serves: {now:?}"));
            }
        }
        let before = first.get_or_insert_with(|| all.clone());
        let gist =
            |all: &[Standing]| -> Vec<_> { all.iter().map(|one| (one.epoch, one.primary, one.leader)).collect() };
        if all.is_empty() || gist(before) != gist(&all) {
            return Err(format!("nodes disagree: {before:?} and {all:?}"));
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
    let told = Client::connect(cluster.node(1).address()).and_then(|mut client| client.call(&["KEYS", "*"]));
    let keys = match told {
        Ok(keys) => keys.texts(),
        Err(error) => return format!("(and node 1 does not answer KEYS: {error})"),
    };
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

/// Who was seen to serve, by group and epoch.
type Reigns = BTreeMap<(usize, u64), BTreeSet<usize>>;

/// Watches, while faults play, that no two nodes serve a group in the same epoch.
pub struct Watch {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Reigns>>,
    threads: Vec<JoinHandle<()>>,
}

impl Watch {
    /// Looks at every node a few times a second.
    pub fn start(cluster: &Cluster) -> Watch {
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Reigns::new())));
        let addresses: Vec<_> = cluster.nodes().iter().map(|node| (node.number(), node.http_address())).collect();
        let watch = |(number, address)| {
            let (stop, seen) = (Arc::clone(&stop), Arc::clone(&seen));
            thread::spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    if let Some((200, text)) = http_get(address, "/metrics") {
                        let all = parse(&text, |_| None);
                        for (group, now) in all.iter().enumerate().filter(|(_, now)| now.serves) {
                            let mut seen = seen.lock().expect("nobody panics with it");
                            let serving: &mut BTreeSet<usize> = seen.entry((group, now.epoch)).or_default();
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

    /// How many reigns were seen, over all groups, and which of them had two rulers.
    pub fn finish(self) -> (usize, Vec<String>) {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().expect("a watch does not panic");
        }
        let seen = self.seen.lock().expect("nobody panics with it");
        let double = seen.iter().filter(|(_, nodes)| nodes.len() > 1);
        let double = double
            .map(|((group, epoch), nodes)| format!("nodes {nodes:?} served group {group} in epoch {epoch}"))
            .collect();
        (seen.len(), double)
    }
}
