//! Bad days: each begins, lasts a while, and ends. What is hurt is chosen by what the cluster says of itself at that moment, so
//! that no more is lost than a cluster of this size promises to bear.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use keyward_tests::net::CLIENTS;
use keyward_tests::{Client, Cluster, Dice, binary, poll};

use crate::clients::Clients;
use crate::stage::{Standing, standings};

/// What can happen to a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    KillPrimary,
    KillReplica,
    KillLeader,
    /// The next one dies as soon as another copy is in sync.
    KillAgainAndAgain,
    FreezePrimary,
    FreezeReplica,
    /// No node and no client reaches it.
    IsolatePrimary,
    /// Clients still reach it.
    IsolatePrimaryFromNodes,
    IsolateLeader,
    /// What the primary sends to other nodes is lost.
    DeafenOthers,
    /// What other nodes send to the primary is lost.
    DeafenPrimary,
    /// The primary and one replica do not reach each other; the third reaches both.
    PartTwo,
    /// One direction between two nodes.
    CutOneWay,
    FillDisk,
    HandOver,
    /// SIGTERM and a new start, one node after the other.
    RollingRestart,
}

/// Those that need nothing but signals.
pub const SIGNALS: [Fault; 8] = [
    Fault::KillPrimary,
    Fault::KillReplica,
    Fault::KillLeader,
    Fault::KillAgainAndAgain,
    Fault::FreezePrimary,
    Fault::FreezeReplica,
    Fault::HandOver,
    Fault::RollingRestart,
];

/// Those that need a network that can be cut.
pub const CUTS: [Fault; 7] = [
    Fault::IsolatePrimary,
    Fault::IsolatePrimaryFromNodes,
    Fault::IsolateLeader,
    Fault::DeafenOthers,
    Fault::DeafenPrimary,
    Fault::PartTwo,
    Fault::CutOneWay,
];

/// Makes bad days.
pub struct Nemesis<'a> {
    pub cluster: &'a mut Cluster,
    pub clients: &'a Clients,
    pub dice: Dice,
    pub log: Vec<String>,
    pub began: Instant,
    /// The node whose folder is small, if one is.
    pub small_disk: Option<usize>,
    /// How many shard groups there are.
    pub groups: usize,
    /// The one whose primary is hurt.
    pub group: usize,
}

impl Nemesis<'_> {
    /// One fault from beginning to end. Whether the cluster is well again is for others to ask.
    pub fn strike(&mut self, fault: Fault) {
        self.group = self.dice.below(self.groups);
        let Some(now) = self.best_view() else {
            self.note("nobody answers; no fault".to_owned());
            return;
        };
        self.note(format!(
            "{fault:?} in group {}: epoch {} primary {:?} leader {:?} in sync {:?}",
            self.group, now.epoch, now.primary, now.leader, now.in_sync
        ));
        let primary = now.primary.unwrap_or(1);
        let leader = now.leader.unwrap_or(1);
        let replica = self.other_than(primary);
        match fault {
            Fault::KillPrimary => self.kill(primary),
            Fault::KillReplica => self.kill(replica),
            Fault::KillLeader => self.kill(leader),
            Fault::KillAgainAndAgain => {
                for _ in 0..3 {
                    if let Some(primary) = self.best_view().and_then(|now| now.primary) {
                        self.kill(primary);
                    }
                    self.pass(300, 1500);
                }
            }
            Fault::FreezePrimary => self.freeze(primary),
            Fault::FreezeReplica => self.freeze(replica),
            Fault::IsolatePrimary => self.isolate(primary),
            Fault::IsolateLeader => self.isolate(leader),
            Fault::IsolatePrimaryFromNodes => self.cut_for_a_while(|cluster| net(cluster).isolate_from_nodes(primary)),
            Fault::DeafenOthers => self.cut_for_a_while(|cluster| {
                others(cluster, primary).for_each(|other| net(cluster).cut(primary, other));
            }),
            Fault::DeafenPrimary => self.cut_for_a_while(|cluster| {
                others(cluster, primary).for_each(|other| net(cluster).cut(other, primary));
            }),
            Fault::PartTwo => self.cut_for_a_while(|cluster| net(cluster).part(primary, replica)),
            Fault::CutOneWay => {
                let from = 1 + self.dice.below(self.cluster.size());
                let to = self.other_than(from);
                self.cut_for_a_while(|cluster| net(cluster).cut(from, to));
            }
            Fault::FillDisk => self.fill_disk(),
            Fault::HandOver => self.hand_over(replica),
            Fault::RollingRestart => {
                for number in 1..=self.cluster.size() {
                    self.terminate(number);
                }
            }
        }
    }

    /// What the node says of the group that knows its newest reign.
    pub fn best_view(&self) -> Option<Standing> {
        let views = self.views(self.group);
        views.into_iter().max_by_key(|standing| (standing.epoch, standing.leader.is_some()))
    }

    /// What every node that runs says of a group.
    fn views(&self, group: usize) -> Vec<Standing> {
        let all = (1..=self.cluster.size()).filter(|number| self.cluster.node(*number).is_running());
        all.filter_map(|number| standings(self.cluster, number)?.into_iter().nth(group)).collect()
    }

    fn note(&mut self, text: String) {
        self.log.push(format!("{:8.3} s {text}", self.began.elapsed().as_secs_f64()));
    }

    fn other_than(&mut self, node: usize) -> usize {
        let others: Vec<usize> = others(self.cluster, node).collect();
        *self.dice.pick(&others)
    }

    fn pass(&mut self, least_ms: usize, most_ms: usize) {
        thread::sleep(Duration::from_millis((least_ms + self.dice.below(most_ms - least_ms)) as u64));
    }

    /// Whether every acknowledged write survives without this node: another member in sync of each group runs.
    fn is_safe_to_lose(&self, number: usize) -> bool {
        (0..self.groups).all(|group| {
            let views = self.views(group);
            let newest = views.iter().map(|view| view.epoch).max().unwrap_or(0);
            let sets = views.iter().filter(|view| view.epoch == newest).map(|view| &view.in_sync);
            let agreed = sets.fold(None::<BTreeSet<usize>>, |agreed, set| {
                Some(agreed.map_or_else(|| set.clone(), |agreed| &agreed & set))
            });
            agreed.is_some_and(|set| set.iter().any(|other| *other != number))
        })
    }

    /// `kill -9`, and after a while a new start.
    fn kill(&mut self, number: usize) {
        if poll(Duration::from_secs(20), || self.is_safe_to_lose(number).then_some(())).is_none() {
            self.note(format!("node {number} is the only one in sync; it lives"));
            return;
        }
        self.cluster.kill(number);
        self.note(format!("node {number} killed"));
        // Sometimes it is back before anybody noticed.
        match self.dice.below(3) {
            0 => {}
            1 => self.pass(50, 800),
            _ => self.pass(1500, 4000),
        }
        self.cluster.spawn(number);
        self.note(format!("node {number} started"));
    }

    fn terminate(&mut self, number: usize) {
        let status = self.cluster.stop(number);
        self.note(format!("node {number} ended with {status}"));
        self.cluster.spawn(number);
        let ready = poll(Duration::from_secs(40), || self.cluster.node(number).is_ready().then_some(()));
        self.note(format!("node {number} is back: {ready:?}"));
        // An operator, and Kubernetes, wait until it is in sync before they go on.
        let everybody: BTreeSet<usize> = (1..=self.cluster.size()).collect();
        poll(Duration::from_secs(20), || {
            let whole = |group| self.views(group).iter().any(|now| now.in_sync == everybody);
            (0..self.groups).all(whole).then_some(())
        });
    }

    fn freeze(&mut self, number: usize) {
        self.cluster.pause(number);
        self.note(format!("node {number} frozen"));
        self.clients.avoid(&[number]);
        self.pass(300, 5000);
        self.cluster.resume(number);
        self.clients.avoid(&[]);
        self.note(format!("node {number} thawed"));
    }

    fn isolate(&mut self, number: usize) {
        self.clients.avoid(&[number]);
        self.cut_for_a_while(|cluster| net(cluster).isolate(number));
        self.clients.avoid(&[]);
    }

    fn cut_for_a_while(&mut self, cut: impl FnOnce(&Cluster)) {
        cut(self.cluster);
        self.note("cut".to_owned());
        self.pass(500, 6000);
        net(self.cluster).heal();
        self.note("healed".to_owned());
    }

    fn fill_disk(&mut self) {
        let Some(number) = self.small_disk else { return };
        let filler = self.cluster.node(number).folder().join("filler");
        // It ends with an error when nothing is left.
        let _ = fs::write(&filler, vec![b'x'; 256 << 20]);
        self.note(format!("the disk of node {number} is full"));
        let give_up = Instant::now() + Duration::from_millis(2000 + self.dice.below(3000) as u64);
        let mut changed = 0;
        while Instant::now() < give_up {
            // Every change of a user is written by every node.
            let user = format!("user-{}", self.dice.below(1000));
            let client = Client::connect_within(self.cluster.node(1).address(), Duration::from_millis(500));
            let reply = client.and_then(|mut client| client.call(&["ACL", "SETUSER", &user, "on", "~x"]));
            changed += usize::from(reply.is_ok_and(|reply| reply.is_ok()));
        }
        self.note(format!("{changed} changes of users meanwhile"));
        let _ = fs::remove_file(&filler);
        self.note(format!("the disk of node {number} has room again"));
        let ended = self.cluster.node_mut(number).process().exited();
        if let Some(status) = ended {
            self.note(format!("node {number} had ended with {status}"));
            self.cluster.kill(number);
            self.cluster.spawn(number);
        }
    }

    fn hand_over(&mut self, to: usize) {
        let admin = self.cluster.node(to).admin_address().to_string();
        let (to_name, group) = (format!("node-{to}"), self.group.to_string());
        let arguments = ["--addr", &admin, "failover", "--to", &to_name, "--group", &group];
        let output = Command::new(binary("keywardctl")).args(arguments).output();
        let said = output.map(|output| {
            let text = [output.stdout, output.stderr].concat();
            format!("{} {}", output.status, String::from_utf8_lossy(&text).trim().replace('\n', " "))
        });
        self.note(format!("hand-over to node {to}: {said:?}"));
    }
}

fn net(cluster: &Cluster) -> &keyward_tests::Net {
    cluster.net().expect("cuts are only chosen where there is a network to cut")
}

fn others(cluster: &Cluster, node: usize) -> impl Iterator<Item = usize> + use<> {
    (CLIENTS + 1..=cluster.size()).filter(move |other| *other != node)
}
