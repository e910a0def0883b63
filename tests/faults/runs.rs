//! The runs: which faults, under which kind of acknowledgement, and what must hold afterwards.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use keyward_tests::{Client, Cluster, Dice, Net, Value, poll, wait_until};

use crate::checks;
use crate::clients::{self, Clients, Pairs};
use crate::history::History;
use crate::nemesis::{CUTS, Fault, Nemesis, SIGNALS};
use crate::stage::{self, Watch, all_are_equal, all_is_well};

/// Without being told otherwise, faults play for so long in each test.
const SHORT: Duration = Duration::from_secs(30);

/// Clients at a time.
const CLIENTS: usize = 6;

/// A node serves for so long without contact to the others, and a little for the test to look at its watch.
const LEASE: Duration = Duration::from_millis(5500);

/// What is tested.
struct Run<'a> {
    name: &'a str,
    ack: &'a str,
    faults: &'a [Fault],
    /// Shard groups; each fault is about one of them.
    groups: usize,
    /// Acknowledged writes may be missing: that is the contract of `async` when a primary fails.
    losses_allowed: bool,
    /// Every request must end well.
    errors_allowed: bool,
}

/// What came of it.
struct Seen {
    history: History,
    wrong: Vec<String>,
    reigns: usize,
}

/// How long faults play.
fn duration() -> Duration {
    let minutes = env::var("KEYWARD_FAULT_MINUTES").ok().and_then(|text| text.parse::<f64>().ok());
    minutes.map_or(SHORT, |minutes| Duration::from_secs_f64(minutes * 60.0))
}

/// How many nodes there are.
pub fn size() -> usize {
    env::var("KEYWARD_FAULT_NODES").ok().and_then(|text| text.parse().ok()).unwrap_or(3)
}

/// A network that can be cut; `None` after saying why not.
pub fn network(nodes: usize) -> Option<Net> {
    match Net::lay(nodes) {
        Ok(net) => Some(net),
        Err(why) if env::var_os("KEYWARD_NET_REQUIRED").is_some() => panic!("no network that can be cut: {why}"),
        Err(why) => {
            println!("SKIPPED: the network cannot be cut here: {why}");
            None
        }
    }
}

/// What is laid under a node before it is started.
enum Ground<'a> {
    Firm,
    /// The last node's folder lies on a disk that is soon full.
    Disk(&'a SmallDisk),
    /// Each node's clock has a speed of its own.
    Clocks(&'a Path),
}

impl Ground<'_> {
    fn lay(&self, cluster: &mut Cluster) {
        let nodes = cluster.size();
        match self {
            Self::Firm => {}
            Self::Disk(disk) => {
                let folder = cluster.node(nodes).folder();
                std::os::unix::fs::symlink(disk.0.path(), folder).expect("the folder is not there yet");
            }
            Self::Clocks(library) => {
                for number in 1..=nodes {
                    let speed = CLOCK_SPEEDS[number % CLOCK_SPEEDS.len()];
                    let node = cluster.node_mut(number);
                    node.set_variable("LD_PRELOAD", &library.to_string_lossy());
                    node.set_variable("FAKETIME", &format!("+0 x{speed}"));
                    node.set_variable("FAKETIME_DISABLE_SHM", "1");
                }
            }
        }
    }
}

/// How fast clocks run that run wrong: as far apart as leases and promises are made for.
const CLOCK_SPEEDS: [&str; 3] = ["0.994", "1.000", "1.006"];

fn play(run: &Run<'_>, net: Option<Net>, ground: Ground<'_>) -> Seen {
    let mut dice = Dice::from_env("KEYWARD_FAULT_SEED");
    let nodes = size();
    let mut cluster = stage::lay_out_as(nodes, run.groups, net, run.ack, |cluster| ground.lay(cluster));
    let on_small_disk = matches!(ground, Ground::Disk(_));
    let pairs = if run.groups == 1 { Pairs::Apart } else { Pairs::Together };
    let began = Instant::now();
    let addresses = cluster.nodes().iter().map(|node| node.address()).collect();
    let clients = Clients::start(addresses, CLIENTS, began, dice.roll(), pairs);
    let watch = Watch::start(&cluster);
    let mut nemesis = Nemesis {
        cluster: &mut cluster,
        clients: &clients,
        dice: dice.clone(),
        log: Vec::new(),
        began,
        small_disk: on_small_disk.then_some(nodes),
        groups: run.groups,
        group: 0,
    };
    let mut wrong = Vec::new();
    let mut turns: Vec<Fault> = Vec::new();
    let give_up = Instant::now() + duration();
    while Instant::now() < give_up && wrong.is_empty() {
        if turns.is_empty() {
            // Every fault has its turn before any has its second one.
            turns = run.faults.to_vec();
            for at in (1..turns.len()).rev() {
                turns.swap(at, dice.below(at + 1));
            }
        }
        std::thread::sleep(Duration::from_millis(dice.below(1200) as u64));
        nemesis.strike(turns.pop().unwrap_or(Fault::KillPrimary));
        // Now and then the next one comes before the last one is over.
        if !dice.one_in(4)
            && let Err(why) = all_is_well(nemesis.cluster)
        {
            wrong.push(why);
        }
    }
    let log = std::mem::take(&mut nemesis.log);
    if let Err(why) = all_is_well(&cluster) {
        wrong.push(why);
    }
    let history = clients.finish();
    let (reigns, double) = watch.finish();
    wrong.extend(double);
    wrong.extend(judge(run, &cluster, &history, pairs));
    if reigns <= run.groups && !on_small_disk {
        wrong.push("nobody else ever served: nothing was proved".to_owned());
    }
    let seen = Seen { history, wrong, reigns };
    report(run, &cluster, &log, &seen);
    seen
}

fn judge(run: &Run<'_>, cluster: &Cluster, history: &History, pairs: Pairs) -> Vec<String> {
    let mut wrong = Vec::new();
    let quiet = poll(Duration::from_secs(10), || {
        let mut client = Client::connect_within(cluster.node(1).address(), Duration::from_secs(1)).ok()?;
        client.call(&["SET", "quiet", "now"]).ok()?.is_ok().then_some(client)
    });
    match quiet {
        Some(mut client) => {
            let finals = clients::finals(&mut client, pairs);
            wrong.extend(checks::judge(history, &finals, run.losses_allowed));
        }
        None => wrong.push("no node answers in the end".to_owned()),
    }
    if let Err(why) = all_are_equal(cluster) {
        wrong.push(why);
    }
    let [_, failed, unknown] = history.tally();
    if !run.errors_allowed && failed + unknown > 0 {
        wrong.push(format!("{failed} requests failed and of {unknown} nobody knows"));
    }
    for (text, count) in &history.errors {
        wrong.push(format!("{count} times an error nobody expects: {text}"));
    }
    wrong
}

fn report(run: &Run<'_>, cluster: &Cluster, log: &[String], seen: &Seen) {
    let [ok, failed, unknown] = seen.history.tally();
    println!(
        "{}: {} faults, {} reigns; requests: {ok} ended well, {failed} certainly not done, {unknown} unknown",
        run.name,
        log.iter().filter(|line| line.contains("epoch")).count(),
        seen.reigns
    );
    if !seen.wrong.is_empty() {
        println!("{}", log.join("\n"));
    }
    if let Some(folder) = env::var_os("KEYWARD_FAULT_KEEP") {
        let folder = Path::new(&folder).join(run.name.replace(' ', "-"));
        fs::create_dir_all(&folder).expect("the folder for logs can be made");
        for node in cluster.nodes() {
            fs::write(folder.join(format!("node-{}.log", node.number())), node.log()).expect("a log can be kept");
        }
        fs::write(folder.join("faults.txt"), log.join("\n") + "\n").expect("the list of faults can be kept");
        fs::write(folder.join("wrong.txt"), seen.wrong.join("\n") + "\n").expect("the verdict can be kept");
    }
}

fn must_be_right(seen: &Seen) {
    assert!(seen.wrong.is_empty(), "{} things are wrong:\n{}", seen.wrong.len(), seen.wrong.join("\n"));
    let [ok, ..] = seen.history.tally();
    assert!(ok > 100, "only {ok} requests ended well: nothing was proved");
}

#[test]
fn quorum_loses_nothing_however_processes_are_killed_frozen_and_stopped() {
    let run = Run {
        name: "quorum signals",
        ack: "quorum",
        faults: &SIGNALS,
        groups: 1,
        losses_allowed: false,
        errors_allowed: true,
    };
    must_be_right(&play(&run, None, Ground::Firm));
}

#[test]
fn quorum_loses_nothing_however_the_network_is_cut() {
    let Some(net) = network(size()) else { return };
    let run = Run {
        name: "quorum cuts",
        ack: "quorum",
        faults: &CUTS,
        groups: 1,
        losses_allowed: false,
        errors_allowed: true,
    };
    must_be_right(&play(&run, Some(net), Ground::Firm));
}

#[test]
fn quorum_loses_nothing_when_everything_happens() {
    let Some(net) = network(size()) else { return };
    let faults = [&SIGNALS[..], &CUTS[..]].concat();
    let run = Run {
        name: "quorum everything",
        ack: "quorum",
        faults: &faults,
        groups: 1,
        losses_allowed: false,
        errors_allowed: true,
    };
    must_be_right(&play(&run, Some(net), Ground::Firm));
}

#[test]
fn async_copies_agree_after_every_fault() {
    let Some(net) = network(size()) else { return };
    let faults = [&SIGNALS[..], &CUTS[..]].concat();
    let run = Run {
        name: "async everything",
        ack: "async",
        faults: &faults,
        groups: 1,
        losses_allowed: true,
        errors_allowed: true,
    };
    must_be_right(&play(&run, Some(net), Ground::Firm));
}

/// The judges at work on a true lie: a primary that is cut off from the others goes on acknowledging to clients, until it hears
/// that it may not. With `async` those writes are lost, and that must be seen.
#[test]
fn what_async_loses_is_seen() {
    let Some(net) = network(size()) else { return };
    let run = Run {
        name: "async cut off",
        ack: "async",
        faults: &[Fault::IsolatePrimaryFromNodes],
        groups: 1,
        losses_allowed: false,
        errors_allowed: true,
    };
    let seen = play(&run, Some(net), Ground::Firm);
    let losses = seen.wrong.iter().filter(|text| text.starts_with("register") || text.starts_with("counter"));
    assert!(losses.count() > 0, "nothing was lost, or nobody saw it: {:?}", seen.wrong);
    let others =
        seen.wrong.iter().filter(|text| !["register", "counter", "queue"].iter().any(|kind| text.starts_with(kind)));
    assert_eq!(others.count(), 0, "more is wrong than losses: {:?}", seen.wrong);
}

/// For how long a primary that is cut off acknowledges what is lost: a lease, and not one moment more; with `quorum` nothing at all.
/// When it is back it says how much that was.
#[test]
fn a_cut_off_primary_acknowledges_no_longer_than_its_lease_and_says_what_was_lost() {
    for ack in ["async", "quorum"] {
        let Some(net) = network(3) else { return };
        let cluster = stage::lay_out(3, Some(net), ack);
        let primary = stage::standing(&cluster, 1).and_then(|now| now.primary).expect("all is well");
        let mut client = cluster.node(primary).client();
        client.ok(&["SET", "window", "0"]);
        let discarded = || cluster.node(primary).metric("keyward_discarded_effects_bytes_total{group=\"0\"}");
        assert_eq!(discarded(), Some(0.0));
        cluster.net().expect("it was asked for").isolate_from_nodes(primary);
        // Each write adds a byte, so that what was acknowledged can be told from what is left.
        let (began, mut last, mut acknowledged) = (Instant::now(), Duration::ZERO, 0);
        while client.call(&["APPEND", "lost", "x"]).is_ok_and(|reply| matches!(reply, Value::Integer(_))) {
            (last, acknowledged) = (began.elapsed(), acknowledged + 1);
        }
        cluster.net().expect("it was asked for").heal();
        all_is_well(&cluster).expect("the old primary is back as a replica");
        let kept = cluster.node(primary).client().ask(&["STRLEN", "lost"]);
        println!(
            "{ack}: {acknowledged} acknowledged in {last:?} after the cut, {kept} kept, {:?} bytes discarded",
            discarded()
        );
        assert_eq!(kept, Value::Integer(0), "the new primary cannot have any of it");
        if ack == "quorum" {
            assert_eq!(acknowledged, 0, "nobody could confirm them");
        } else {
            assert!(last <= LEASE, "acknowledged {last:?} after the cut");
            assert!(acknowledged > 0, "async acknowledges while the lease lasts: nothing was proved");
        }
        // The write that was under way at the end may be among it as well.
        assert!(discarded() > Some(acknowledged as f64), "{acknowledged} acknowledged, {:?} discarded", discarded());
        let log = cluster.node(primary).log();
        assert!(log.contains("effects that were made here and nobody else has are discarded"), "{log}");
    }
}

#[test]
fn planned_moves_lose_nothing_and_fail_nobody() {
    let run = Run {
        name: "async planned",
        ack: "async",
        faults: &[Fault::HandOver],
        groups: 1,
        losses_allowed: false,
        errors_allowed: false,
    };
    must_be_right(&play(&run, None, Ground::Firm));
}

#[test]
fn rolling_restarts_lose_nothing() {
    let run = Run {
        name: "async rolling",
        ack: "async",
        faults: &[Fault::RollingRestart],
        groups: 1,
        losses_allowed: false,
        errors_allowed: true,
    };
    must_be_right(&play(&run, None, Ground::Firm));
}

#[test]
fn after_a_cold_start_the_newest_snapshot_is_back() {
    let mut cluster = stage::lay_out(size(), None, "async");
    let mut client = cluster.node(1).client();
    for number in 0..500 {
        client.ok(&["SET", &format!("key:{number}"), "old"]);
    }
    for node in cluster.nodes() {
        wait_until("an old snapshot is on every disk", || node.client().ask(&["SAVE"]).is_ok().then_some(()));
    }
    for number in 0..500 {
        client.ok(&["SET", &format!("key:{number}"), "new"]);
    }
    // The newest one is on a node that is not primary.
    let primary = cluster.primary();
    let newest = (1..=cluster.size()).find(|number| *number != primary).expect("there are several nodes");
    all_are_equal(&cluster).expect("everything has arrived everywhere");
    cluster.node(newest).client().ok(&["SAVE"]);
    client.ok(&["SET", "in-no-snapshot", "x"]);
    (1..=cluster.size()).for_each(|number| cluster.kill(number));
    (1..=cluster.size()).for_each(|number| cluster.spawn(number));
    (1..=cluster.size()).for_each(|number| cluster.wait_ready(number));
    all_is_well(&cluster).expect("the cluster comes back by itself");
    all_are_equal(&cluster).expect("the copies agree");
    let mut client = cluster.node(1).client();
    for number in 0..500 {
        assert_eq!(client.text(&["GET", &format!("key:{number}")]), "new", "key:{number}");
    }
}

#[test]
fn a_full_disk_stops_no_more_than_its_node() {
    let run = Run {
        name: "quorum full disk",
        ack: "quorum",
        faults: &[Fault::FillDisk],
        groups: 1,
        losses_allowed: false,
        errors_allowed: true,
    };
    match SmallDisk::make() {
        Ok(disk) => must_be_right(&play(&run, None, Ground::Disk(&disk))),
        Err(why) if env::var_os("KEYWARD_NET_REQUIRED").is_some() => panic!("no small disk: {why}"),
        Err(why) => println!("SKIPPED: no small disk can be made here: {why}"),
    }
}

#[test]
fn quorum_loses_nothing_with_several_shard_groups() {
    let Some(net) = network(size()) else { return };
    let faults = [&SIGNALS[..], &CUTS[..]].concat();
    let run = Run {
        name: "quorum groups",
        ack: "quorum",
        faults: &faults,
        groups: 3,
        losses_allowed: false,
        errors_allowed: true,
    };
    must_be_right(&play(&run, Some(net), Ground::Firm));
}

#[test]
fn quorum_loses_nothing_when_clocks_run_at_different_speeds() {
    let run = Run {
        name: "quorum clocks",
        ack: "quorum",
        faults: &SIGNALS,
        groups: 1,
        losses_allowed: false,
        errors_allowed: true,
    };
    match faketime() {
        Some(library) => must_be_right(&play(&run, None, Ground::Clocks(&library))),
        None if env::var_os("KEYWARD_NET_REQUIRED").is_some() => panic!("libfaketime is not installed"),
        None => println!("SKIPPED: libfaketime is not installed"),
    }
}

/// The library that bends a process' clock, for threads.
fn faketime() -> Option<PathBuf> {
    let folders = fs::read_dir("/usr/lib").ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    folders.map(|folder| folder.join("faketime/libfaketimeMT.so.1")).find(|path| path.is_file())
}

/// A file system of a few megabytes; unmounted when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn make() -> Result<SmallDisk, String> {
        let folder = tempfile::Builder::new().prefix("keyward-disk-").tempdir().map_err(|error| error.to_string())?;
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=48m", "tmpfs"]).arg(folder.path()).output();
        let output = mount.map_err(|error| format!("the program `mount` cannot be run: {error}"))?;
        if output.status.success() {
            Ok(SmallDisk(folder))
        } else {
            Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Whoever still has a file open there keeps it until it ends.
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).output();
    }
}
