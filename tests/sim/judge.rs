//! What must be true of a simulated run, whatever happened. It hurts nobody and asks nobody: it looks at nodes from within, and
//! at what clients wrote down.
//!
//! | | |
//! |---|---|
//! | I1 | nothing is carried out under a rule whose end was answered before it began |
//! | I2 | no confirmed write is lost, and confirmed reads and writes of a register are linearizable |
//! | I3 | at any moment at most one process can confirm what is written to a shard group |
//! | I4 | an epoch of a group has one primary |
//! | I5 | nobody refuses its own disk, or ends by itself |
//! | I6 | nodes that have applied the same entries hold the same state; copies are equal in the end |
//! | I8 | once the faults end, one node serves each group, all are in sync, and all hold a lease |

use std::collections::BTreeMap;
use std::net::IpAddr;

use keyward_cluster::{Epoch, GroupId, Member, ShardGroup};
use keyward_simulated::node::Node;
use keyward_simulated::view::Surety;
use keyward_simulated::world;

use crate::checks::{self, Finals};
use crate::history::{Ended, History};
use crate::work::{Notes, Probed, Turn};

/// So long a node tries to have a change committed, in nanoseconds, and a little more.
const PROPOSED_FOR: u64 = 15_000_000_000;

/// Looks at every node at every moment.
#[derive(Default)]
pub struct Watcher {
    epochs: BTreeMap<(GroupId, Epoch), Member>,
    digests: BTreeMap<u64, u64>,
    looks: u64,
}

impl Watcher {
    /// How many reigns there were.
    pub fn reigns(&self) -> usize {
        self.epochs.len()
    }

    /// One moment.
    pub fn look(&mut self, ips: impl Iterator<Item = IpAddr>) -> Result<(), String> {
        let mut able: BTreeMap<GroupId, Vec<(IpAddr, Epoch)>> = BTreeMap::new();
        self.looks += 1;
        for ip in ips {
            let Some(node) = world::node_at(ip) else { continue };
            if self.looks.is_multiple_of(16) {
                let view = node.views.load().1;
                let digest = view.state.digest();
                let first = *self.digests.entry(view.index).or_insert(digest);
                if first != digest {
                    return Err(format!("I6: nodes hold different states at entry {}", view.index));
                }
            }
            for of in node.groups() {
                if let Some(reign) = self.look_at(ip, of)? {
                    able.entry(of.group).or_default().push((ip, reign));
                }
            }
        }
        match able.values().find(|able| able.len() > 1) {
            None => Ok(()),
            Some(several) => Err(format!("I3: several can confirm: {several:?}")),
        }
    }

    /// A node as far as one group is concerned: in which epoch it can confirm what is written, if it can.
    fn look_at(&mut self, ip: IpAddr, of: &Node) -> Result<Option<Epoch>, String> {
        let view = of.views.load().1;
        if let Some((group, primary)) = view.group.as_ref().and_then(|group| Some((group, group.primary?))) {
            let first = *self.epochs.entry((of.group, group.epoch)).or_insert(primary);
            if first != primary {
                return Err(format!("I4: epoch {} has two primaries, {first} and {primary}", group.epoch));
            }
        }
        let can = |reign: &Epoch| {
            let (copies, end) = (&of.replication, of.replication.stand().position);
            world::visit(ip, || {
                of.lease.is_valid() && !view.few_in_sync && copies.is_confirmed(Surety::of_write(*reign), end)
            })
        };
        Ok(view.reign().filter(can))
    }
}

/// Where the node is that leads, and the one that serves, as far as the newest of what nodes know.
pub fn roles(ips: impl Iterator<Item = IpAddr>) -> (Option<IpAddr>, Option<IpAddr>) {
    let views: Vec<_> = ips.filter_map(|ip| Some((ip, world::node_at(ip)?.control.view()))).collect();
    let Some((_, newest)) = views.iter().max_by_key(|(_, view)| view.index) else { return (None, None) };
    let at = |node| views.iter().find(|(_, view)| view.node == node && node.is_some()).map(|(ip, _)| *ip);
    let primary = newest.state.groups().values().next().and_then(|group| group.primary);
    (at(newest.leader), at(primary.map(|primary| primary.node)))
}

/// Nodes that have every confirmed write of every group, as far as the newest of what nodes know.
pub fn in_sync(ips: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
    let nodes: Vec<_> = ips.filter_map(|ip| Some((ip, world::node_at(ip)?))).collect();
    let mut newest: BTreeMap<GroupId, ShardGroup> = BTreeMap::new();
    for of in nodes.iter().flat_map(|(_, node)| node.groups()) {
        let Some(known) = of.views.load().1.group.clone() else { continue };
        let so_far = newest.get(&of.group).map(|group| (group.epoch, group.in_sync_version));
        if so_far.is_none_or(|so_far| so_far <= (known.epoch, known.in_sync_version)) {
            newest.insert(of.group, known);
        }
    }
    let has_all = |node: &Node| {
        let member = node.views.load().1.member();
        member.is_some_and(|member| newest.values().all(|group| group.in_sync.contains(&member)))
    };
    nodes.iter().filter(|(_, node)| !newest.is_empty() && has_all(node)).map(|(ip, _)| *ip).collect()
}

/// Whether everything is as it should be.
pub fn is_well(count: usize, ips: impl Iterator<Item = IpAddr>) -> Result<(), String> {
    for ip in ips {
        let node = world::node_at(ip).ok_or_else(|| format!("{ip} does not serve"))?;
        for of in node.groups() {
            let view = of.views.load().1;
            let group = view.group.as_ref().ok_or_else(|| format!("{ip} knows no group"))?;
            if group.primary.is_none() || group.in_sync.len() < count {
                return Err(format!("{ip} sees {:?} in sync with {:?}", group.primary, group.in_sync));
            }
        }
        if !world::visit(ip, || node.lease.is_valid()) {
            return Err(format!("{ip} holds no lease"));
        }
    }
    Ok(())
}

/// What the nodes hold, for the judges of histories.
pub fn finals(held: Vec<(String, Option<String>)>) -> Finals {
    let mut finals = Finals::default();
    for (key, value) in held {
        let number = value.and_then(|text| text.parse().ok());
        if key.starts_with('r') {
            finals.registers.insert(key, number);
        } else if key.starts_with('c') {
            finals.counters.insert(key, number.unwrap_or(0));
        }
    }
    finals
}

/// Everything clients wrote down.
pub fn all(notes: &Notes, finals: &Finals) -> Result<(), String> {
    let wrong = checks::judge(&notes.history.borrow(), finals, false);
    if !wrong.is_empty() {
        return Err(format!("I2: {}", wrong.join("; ")));
    }
    let turns = notes.turns.borrow();
    for probed in notes.probed.borrow().iter() {
        if let Some(turn) = forbidden(probed, &turns) {
            let Probed { what, begin, end } = probed;
            return Err(format!(
                "I1: {what} between {begin} and {end} ns was carried out, and had been forbidden: {turn:?}"
            ));
        }
    }
    Ok(())
}

/// The change that forbade it: answered before it began, and nothing was given back before it was over.
fn forbidden<'t>(probed: &Probed, turns: &'t [Turn]) -> Option<&'t Turn> {
    let last = turns.iter().rposition(|turn| turn.answered.is_some_and(|answered| answered <= probed.begin))?;
    let given_since = turns[last + 1..].iter().any(|turn| turn.gives && turn.asked <= probed.end);
    // One nobody answered may be committed for as long as a node goes on proposing it.
    let perhaps = |turn: &Turn| turn.gives && turn.answered.is_none() && turn.asked + PROPOSED_FOR >= probed.begin;
    let given_since = given_since || turns[..last].iter().any(perhaps);
    (!turns[last].gives && !given_since).then(|| &turns[last])
}

/// A number that two runs have in common only if they were the same.
pub fn digest(history: &History, probed: &[Probed]) -> u64 {
    let mut digest = 0xcbf2_9ce4_8422_2325_u64;
    let mut add = |number: u64| digest = (digest ^ number).wrapping_mul(0x0100_0000_01b3).rotate_left(7);
    for op in history.registers.values().flatten() {
        add(op.begin);
        add(op.end);
        add(match op.ended {
            Ended::Ok(value) => value.unwrap_or(1),
            Ended::Failed => 2,
            Ended::Unknown => 3,
        });
    }
    for op in history.counters.values().flatten() {
        add(op.begin);
        add(op.end);
    }
    for one in probed {
        add(one.begin);
        add(one.end);
    }
    digest
}
