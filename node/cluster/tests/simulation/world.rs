//! The world of the simulation: time, the network, Raft as an oracle, clients, misfortunes, and the invariants.
//!
//! Raft itself is not simulated here. It is a list of committed entries that only a node in contact with a majority can
//! extend; a node that was leader goes on believing so until it hears of a later one. It is long because what happens to
//! a message, and what must never happen, reads best in one place.

use std::collections::{BTreeMap, BTreeSet};

use keyward_cluster::failover::{Act, Driver, Patience, Seen, Stand};
use keyward_cluster::lease::{Grant, Grants, Standing, held_ms};
use keyward_cluster::{
    Addresses, Change, ClusterId, Epoch, FailoverReason, Founder, Incarnation, JoinToken, Member, NodeId, Outcome,
    Stamped, UnixMillis,
};

use crate::Bug;
use crate::node::{GROUP, Reign, SimNode};

const TICK_MS: u64 = 10;
const TTL_MS: u64 = 5000;
/// Misfortunes happen until then, and everything must be well by the end.
const TROUBLE_MS: u64 = 60_000;
const END_MS: u64 = 100_000;
const NODES: usize = 3;

#[derive(Clone)]
enum Message {
    /// The leader tells how far everything is committed, and which reign this is.
    Committed {
        term: u64,
        index: usize,
    },
    Renew {
        token: u64,
        incarnation: Incarnation,
        applied: u64,
        stand: Stand,
    },
    Grant {
        token: u64,
        grant: Grant,
    },
    Propose {
        change: Change,
    },
    Seal {
        epoch: Epoch,
        member: Member,
    },
    Sealed {
        epoch: Epoch,
        member: Member,
        stand: Stand,
    },
    Effects {
        epoch: Epoch,
        from: Member,
        log: Vec<u64>,
    },
    Ack {
        epoch: Epoch,
        member: Member,
        length: usize,
    },
}

struct Envelope {
    at: u64,
    from: usize,
    to: usize,
    /// Which processes it goes from and to: a connection ends with either.
    processes: (u64, u64),
    message: Message,
}

pub struct World {
    bug: Option<Bug>,
    random: u64,
    time: u64,
    nodes: Vec<SimNode>,
    /// Which links are cut, by direction.
    cut: [[bool; NODES]; NODES],
    post: Vec<Envelope>,
    entries: Vec<Stamped>,
    leader: Option<usize>,
    term: u64,
    leaderless_since: u64,
    next_value: u64,
    next_version: u64,
    acknowledged: BTreeSet<u64>,
    acknowledged_total: usize,
    answered_version: u64,
    epochs: BTreeMap<Epoch, Member>,
    failovers: usize,
    answered: usize,
    story: Vec<String>,
}

type Checked = Result<(), String>;

impl World {
    pub fn new(seed: u64, bug: Option<Bug>) -> Self {
        let mut world = Self {
            bug,
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            time: 0,
            nodes: Vec::new(),
            cut: [[false; NODES]; NODES],
            post: Vec::new(),
            entries: Vec::new(),
            leader: None,
            term: 0,
            leaderless_since: 0,
            next_value: 0,
            next_version: 0,
            acknowledged: BTreeSet::new(),
            acknowledged_total: 0,
            answered_version: 0,
            epochs: BTreeMap::new(),
            failovers: 0,
            answered: 0,
            story: Vec::new(),
        };
        let founder = Founder { name: "1".into(), addresses: Addresses::default() };
        world.append(Change::FormCluster { cluster_id: ClusterId([1; 16]), founder, groups: 1, nodes: 1 });
        for token in 2..=NODES as u128 {
            let (name, addresses) = (token.to_string(), Addresses::default());
            world.append(Change::AddNode { name, addresses, token: JoinToken(token) });
        }
        for index in 0..NODES {
            let id = if index == 0 { NodeId::FOUNDER } else { NodeId(index as u64 + 1 + 1) };
            let (rate, offset) = (950 + world.below(101), world.below(1_000_000));
            world.nodes.push(SimNode::new(id, rate, offset));
            world.catch_up(index, world.entries.len());
        }
        world
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) % bound
    }

    fn chance(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }

    fn tell(&mut self, line: String) {
        self.story.push(format!("{:>6} {line}", self.time));
    }

    pub fn story(&self) -> String {
        self.story.join("\n")
    }

    pub fn acknowledged(&self) -> usize {
        self.acknowledged_total
    }

    pub fn failovers(&self) -> usize {
        self.failovers
    }

    pub fn answered(&self) -> usize {
        self.answered
    }

    pub fn digest(&self) -> u64 {
        self.nodes.iter().fold(0, |digest, node| digest.rotate_left(7) ^ node.state.digest() ^ node.log.len() as u64)
    }

    pub fn run(&mut self) -> Checked {
        while self.time < END_MS {
            self.time += TICK_MS;
            if self.time < TROUBLE_MS {
                self.misfortune();
            } else if self.time == TROUBLE_MS {
                self.heal();
            }
            self.raft();
            self.deliver()?;
            for index in 0..NODES {
                if self.nodes[index].runs(self.time) {
                    self.live(index)?;
                }
            }
            self.check()?;
        }
        self.check_all_well()
    }

    // ---- Misfortunes ----

    fn misfortune(&mut self) {
        if !self.chance(120) {
            return;
        }
        let (node, other) = (self.below(NODES as u64) as usize, self.below(NODES as u64) as usize);
        let length = 100 + self.below(8000);
        match self.below(8) {
            0 | 1 => {
                self.tell(format!("node {} stands still for {length} ms", self.nodes[node].id));
                self.nodes[node].paused_until = self.time + length;
            }
            2 | 3 => {
                self.tell(format!("node {} is killed", self.nodes[node].id));
                self.nodes[node].up = false;
                // Whoever led leads no more when it starts again.
                self.leader = self.leader.filter(|leader| *leader != node);
            }
            4 => {
                self.tell(format!("node {} applies nothing for {length} ms", self.nodes[node].id));
                self.nodes[node].stalled_until = self.time + length;
            }
            5 => {
                self.tell(format!("node {} is cut off", self.nodes[node].id));
                (0..NODES).for_each(|peer| (self.cut[node][peer], self.cut[peer][node]) = (true, true));
            }
            6 => {
                self.tell(format!("node {} is not heard by {}", self.nodes[node].id, self.nodes[other].id));
                self.cut[node][other] = true;
            }
            _ => {
                self.tell("the network heals".into());
                self.cut = [[false; NODES]; NODES];
            }
        }
        if self.chance(2) {
            self.revive();
        }
    }

    fn revive(&mut self) {
        let keeps = self.bug == Some(Bug::KeepIncarnation);
        for index in 0..NODES {
            if !self.nodes[index].up {
                self.nodes[index].restart(keeps);
                self.tell(format!("node {} starts again", self.nodes[index].id));
            }
        }
    }

    fn heal(&mut self) {
        self.tell("everything heals".into());
        self.cut = [[false; NODES]; NODES];
        self.revive();
        for node in &mut self.nodes {
            (node.paused_until, node.stalled_until) = (0, 0);
        }
    }

    // ---- Raft, as an oracle ----

    fn connected(&self, one: usize, other: usize) -> bool {
        let runs = self.nodes[one].runs(self.time) && self.nodes[other].runs(self.time);
        runs && (one == other || !self.cut[one][other] && !self.cut[other][one])
    }

    fn has_majority(&self, index: usize) -> bool {
        (0..NODES).filter(|other| self.connected(index, *other)).count() * 2 > NODES
    }

    fn raft(&mut self) {
        if self.leader.is_some_and(|leader| self.has_majority(leader)) {
            self.leaderless_since = self.time;
            return;
        }
        let patience = 400 + self.below(800);
        if self.time - self.leaderless_since < patience {
            return;
        }
        let able: Vec<usize> = (0..NODES).filter(|index| self.has_majority(*index)).collect();
        if able.is_empty() {
            return;
        }
        let next = able[self.below(able.len() as u64) as usize];
        (self.leader, self.leaderless_since) = (Some(next), self.time);
        self.term += 1;
        self.catch_up(next, self.entries.len());
        let now = self.nodes[next].clock(self.time);
        let since = if self.bug == Some(Bug::NewLeaderDoesNotWait) { 0 } else { now };
        self.nodes[next].reign = Some(Reign {
            term: self.term,
            grants: Grants::new(since, TTL_MS),
            driver: Driver::new(now, Patience::default()),
            seen: BTreeMap::new(),
            waiting: Vec::new(),
        });
        self.tell(format!("node {} leads", self.nodes[next].id));
    }

    /// Whether the node is the leader and a majority says so now.
    fn leads(&self, index: usize) -> bool {
        self.leader == Some(index) && self.has_majority(index)
    }

    fn append(&mut self, change: Change) -> usize {
        let (actor, source) = (String::new(), String::new());
        self.entries.push(Stamped { at: UnixMillis(self.time), actor, source, request: None, change });
        self.entries.len()
    }

    fn commit(&mut self, index: usize, change: Change) -> Result<Option<usize>, String> {
        if !self.leads(index) {
            return Ok(None);
        }
        let named = match &change {
            Change::SetPrimary { primary, reason, .. } => Some((*primary, *reason)),
            _ => None,
        };
        let summary = change.summary();
        let length = self.append(change);
        let outcome = self.catch_up(index, length);
        if let Some((primary, reason)) = named.filter(|_| outcome == Some(Outcome::Done)) {
            self.tell(summary);
            self.failovers += 1;
            self.named(primary, reason)?;
        }
        (0..NODES).filter(|other| *other != index).for_each(|other| self.announce(index, other));
        Ok(Some(length))
    }

    fn named(&mut self, primary: Member, reason: FailoverReason) -> Checked {
        // A process that has ended by now serves nobody: its successor says so.
        let Some(holder) = self.nodes.iter().find(|node| node.member() == Some(primary)) else { return Ok(()) };
        let log: BTreeSet<u64> = holder.log.iter().copied().collect();
        if reason == FailoverReason::ColdStart {
            // Every memory was lost: what no snapshot held is gone, and that is said.
            self.acknowledged.retain(|value| log.contains(value));
            return Ok(());
        }
        match self.acknowledged.iter().find(|value| !log.contains(value)) {
            Some(lost) => Err(format!("I2: {primary} was named without the acknowledged write {lost}")),
            None => Ok(()),
        }
    }

    /// Applies committed entries at a node; answers what became of the last one.
    fn catch_up(&mut self, index: usize, length: usize) -> Option<Outcome> {
        let node = &mut self.nodes[index];
        let mut outcome = None;
        while (node.state.applied_index() as usize) < length + 1 && length > 0 {
            // Entries are numbered from 2, as the founding one is after Raft's own first.
            let at = (node.state.applied_index() as usize).max(1);
            if at > length {
                break;
            }
            outcome = Some(node.state.apply(at as u64 + 1, &self.entries[at - 1]));
        }
        node.lease.applied(node.state.applied_index());
        outcome
    }

    fn announce(&mut self, from: usize, to: usize) {
        let index = self.entries.len();
        self.send(from, to, Message::Committed { term: self.term, index });
    }

    // ---- The network ----

    fn send(&mut self, from: usize, to: usize, message: Message) {
        let lost = self.cut[from][to] || self.time < TROUBLE_MS && self.chance(50);
        if from != to && lost {
            return;
        }
        let slow = if self.time < TROUBLE_MS && self.chance(100) { self.below(1500) } else { 0 };
        let at = self.time + if from == to { 0 } else { 1 + self.below(20) + slow };
        let processes = (self.nodes[from].process, self.nodes[to].process);
        self.post.push(Envelope { at, from, to, processes, message });
    }

    fn deliver(&mut self) -> Checked {
        // Whoever stands still finds its messages when it goes on.
        let (time, nodes) = (self.time, &self.nodes);
        let due = |envelope: &Envelope| envelope.at <= time && nodes[envelope.to].runs(time);
        let (mut now, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.post).into_iter().partition(due);
        self.post = later;
        now.sort_by_key(|envelope| envelope.at);
        for Envelope { from, to, processes, message, .. } in now {
            if processes == (self.nodes[from].process, self.nodes[to].process) {
                self.receive(from, to, message)?;
            }
        }
        let up: Vec<bool> = self.nodes.iter().map(|node| node.up).collect();
        self.post.retain(|envelope| up[envelope.to]);
        Ok(())
    }

    fn receive(&mut self, from: usize, to: usize, message: Message) -> Checked {
        match message {
            Message::Committed { term, index } => {
                let node = &mut self.nodes[to];
                if node.reign.as_ref().is_some_and(|reign| reign.term < term) {
                    node.reign = None;
                }
                if self.time >= node.stalled_until {
                    self.catch_up(to, index);
                }
            }
            Message::Renew { token, incarnation, applied, stand } => {
                self.renewed(from, to, token, incarnation, applied, stand);
            }
            Message::Grant { token, grant } => self.granted(to, token, grant),
            Message::Propose { change } => drop(self.commit(to, change)?),
            Message::Seal { epoch, member } => {
                if self.nodes[to].member() == Some(member) {
                    if self.bug != Some(Bug::OldEpochAccepted) {
                        self.nodes[to].sealed = self.nodes[to].sealed.max(epoch);
                    }
                    let stand = self.nodes[to].stand();
                    self.send(to, from, Message::Sealed { epoch, member, stand });
                }
            }
            Message::Sealed { epoch, member, stand } => {
                let now = self.nodes[to].clock(self.time);
                if let Some(reign) = &mut self.nodes[to].reign {
                    reign.driver.sealed(now, GROUP, epoch, member, stand);
                }
            }
            Message::Effects { epoch, from: primary, log } => self.effects(from, to, epoch, primary, log),
            Message::Ack { epoch, member, length } => {
                let (node, time) = (&mut self.nodes[to], self.time);
                if node.reigned == epoch {
                    let followed = node.followed.entry(member).or_default();
                    followed.length = followed.length.max(length);
                    followed.heard_at = time;
                }
            }
        }
        Ok(())
    }

    fn renewed(&mut self, from: usize, to: usize, token: u64, incarnation: Incarnation, applied: u64, stand: Stand) {
        let confirmed = self.leads(to) || self.bug == Some(Bug::GrantWithoutQuorum);
        let (id, committed) = (self.nodes[from].id, self.nodes[to].state.applied_index());
        let now = self.nodes[to].clock(self.time);
        let known = self.nodes[to].state.is_current(Member { node: id, incarnation });
        let Some(reign) = &mut self.nodes[to].reign else { return };
        let stands = BTreeMap::from([(GROUP, stand)]);
        reign.seen.insert(id, Seen { incarnation, at: now, gone: false, stands });
        reign.grants.applied(id, incarnation, applied);
        if confirmed
            && known
            && let Some(grant) = reign.grants.grant(id, now, committed)
        {
            self.send(to, from, Message::Grant { token, grant });
        }
    }

    fn granted(&mut self, index: usize, token: u64, grant: Grant) {
        let now = self.nodes[index].clock(self.time);
        let sent_at = if self.bug == Some(Bug::LeaseFromReceipt) { now } else { token };
        let must_apply = if self.bug == Some(Bug::SkipMustApply) { 0 } else { grant.must_apply };
        let node = &mut self.nodes[index];
        let demanded = node.demanded.entry(sent_at + held_ms(grant.ttl_ms)).or_default();
        *demanded = if *demanded == 0 { grant.must_apply } else { grant.must_apply.min(*demanded) };
        node.lease.granted(sent_at, Grant { must_apply, ..grant });
    }

    /// A replica becomes what the primary is: the stream and the full copy in one.
    fn effects(&mut self, from: usize, to: usize, epoch: Epoch, primary: Member, log: Vec<u64>) {
        let lax = self.bug == Some(Bug::OldEpochAccepted);
        let node = &mut self.nodes[to];
        let (Some(me), Some(group)) = (node.member(), node.group()) else { return };
        let current = group.epoch == epoch && group.primary == Some(primary) && node.sealed <= epoch;
        let newer = (epoch, log.len()) >= (node.log_epoch, node.log.len());
        if !(current || lax) {
            return;
        }
        if newer || lax {
            (node.log_epoch, node.log) = (epoch, log);
        }
        let length = node.log.len();
        self.send(to, from, Message::Ack { epoch, member: me, length });
    }

    // ---- What nodes do by themselves ----

    fn live(&mut self, index: usize) -> Checked {
        let beat = self.time / TICK_MS;
        if self.leader == Some(index) && beat.is_multiple_of(5) {
            (0..NODES).filter(|other| *other != index).for_each(|other| self.announce(index, other));
        }
        if beat % 25 == index as u64 {
            self.renew(index);
        }
        if self.nodes[index].member().is_none() && beat.is_multiple_of(20) {
            let change = Change::StartNode { node: self.nodes[index].id, token: self.nodes[index].start_token };
            self.propose(index, change);
        }
        if self.chance(2000) {
            self.nodes[index].snapshot = (self.nodes[index].log_epoch, self.nodes[index].log.clone());
        }
        if self.nodes[index].reign.is_some() {
            self.rule(index)?;
        }
        self.command(index)?;
        self.serve(index)
    }

    fn renew(&mut self, index: usize) {
        let (Some(me), Some(leader)) = (self.nodes[index].member(), self.probable_leader(index)) else { return };
        let node = &self.nodes[index];
        let (token, applied, stand) = (node.clock(self.time), node.state.applied_index(), node.stand());
        self.send(index, leader, Message::Renew { token, incarnation: me.incarnation, applied, stand });
    }

    /// Itself, if it believes to lead.
    fn probable_leader(&self, index: usize) -> Option<usize> {
        if self.nodes[index].reign.is_some() { Some(index) } else { self.leader }
    }

    fn propose(&mut self, index: usize, change: Change) {
        if let Some(leader) = self.leader {
            self.send(index, leader, Message::Propose { change });
        }
    }

    fn rule(&mut self, index: usize) -> Checked {
        let now = self.nodes[index].clock(self.time);
        let state = self.nodes[index].state.clone();
        let Some(mut reign) = self.nodes[index].reign.take() else { return Ok(()) };
        let acts = reign.driver.look(now, &state, &reign.seen);
        if self.leads(index) && self.chance(150) {
            self.next_version += 1;
            let (version, name) = (self.next_version, String::from("rules"));
            let changed = self.commit(index, Change::SetSetting { name, value: Some(version.to_string()) })?;
            reign.waiting.extend(changed.map(|_| (self.nodes[index].state.applied_index(), version)));
        }
        let others: Vec<NodeId> = state.nodes().keys().copied().filter(|id| *id != self.nodes[index].id).collect();
        let in_force = |entry: u64| {
            let feared = |id: &NodeId| matches!(reign.grants.standing(*id, entry, now), Standing::FearedUntil(_));
            !others.iter().any(feared)
        };
        let (done, waiting): (Vec<_>, Vec<_>) = reign.waiting.iter().copied().partition(|(entry, _)| in_force(*entry));
        reign.waiting = waiting;
        for (_, version) in done {
            self.answered += 1;
            self.answered_version = self.answered_version.max(version);
        }
        self.nodes[index].reign = Some(reign);
        for act in acts {
            match act {
                Act::Seal { epoch, members, .. } => {
                    for member in members {
                        let to = self.nodes.iter().position(|node| node.id == member.node);
                        to.into_iter().for_each(|to| self.send(index, to, Message::Seal { epoch, member }));
                    }
                }
                Act::Propose(change) => drop(self.commit(index, change)?),
                Act::Say(..) => {}
            }
        }
        Ok(())
    }

    /// A client's command, which needs some right.
    fn command(&mut self, index: usize) -> Checked {
        let node = &self.nodes[index];
        if node.member().is_some() && node.holds_lease(self.time) && node.version() < self.answered_version {
            let (id, has, answered) = (node.id, node.version(), self.answered_version);
            return Err(format!("I1: node {id} serves under rules {has}, and {answered} was answered"));
        }
        Ok(())
    }

    /// What a primary does: writes, sends, acknowledges, and tends the set.
    fn serve(&mut self, index: usize) -> Checked {
        let time = self.time;
        let node = &mut self.nodes[index];
        let Some((me, group)) = node.serves(time) else { return Ok(()) };
        let (epoch, group) = (group.epoch, group.clone());
        if node.reigned != epoch {
            node.reigned = epoch;
            node.sealed = node.sealed.max(epoch);
            node.log_epoch = epoch;
            node.followed.clear();
            node.joining.clear();
            (node.acked_length, node.shrunk_to) = (0, None);
            for member in group.in_sync.iter().filter(|member| **member != me) {
                node.followed.entry(*member).or_default().heard_at = time;
            }
        }
        node.joining.retain(|member, _| !group.in_sync.contains(member));
        if node.shrunk_to.as_ref() == Some(&group.in_sync) {
            node.shrunk_to = None;
        }
        if time.is_multiple_of(100) {
            self.next_value += 1;
            let value = self.next_value;
            self.nodes[index].log.push(value);
        }
        if time.is_multiple_of(50) {
            let log = self.nodes[index].log.clone();
            for to in (0..NODES).filter(|to| *to != index) {
                self.send(index, to, Message::Effects { epoch, from: me, log: log.clone() });
            }
            self.tend(index, me, &group);
        }
        self.acknowledge(index)
    }

    fn tend(&mut self, index: usize, me: Member, group: &keyward_cluster::ShardGroup) {
        let (time, early) = (self.time, self.bug == Some(Bug::ShrinkBeforeCommit));
        let node = &mut self.nodes[index];
        let fresh = |member: &Member| node.followed.get(member).is_some_and(|one| time - one.heard_at < 1000);
        let mut wanted: BTreeSet<Member> =
            group.in_sync.iter().copied().filter(|member| *member == me || fresh(member)).collect();
        let candidates: Vec<Member> = node.state.nodes().values().map(|info| info.member()).collect();
        let length = node.log.len();
        let joins: Vec<Member> =
            candidates.into_iter().filter(|one| *one != me && fresh(one) && !group.in_sync.contains(one)).collect();
        for member in joins {
            // First it counts, then it must have what was there before it counted, then it is proposed.
            let from = *node.joining.entry(member).or_insert(length);
            if node.followed[&member].length >= from {
                wanted.insert(member);
            }
        }
        if wanted == group.in_sync || time < node.proposed_at + 300 {
            return;
        }
        node.proposed_at = time;
        if early {
            node.shrunk_to = Some(wanted.clone());
        }
        let (expect_epoch, expect_version) = (group.epoch, group.in_sync_version);
        let change = Change::ChangeInSync { group: GROUP, expect_epoch, expect_version, in_sync: wanted };
        self.propose(index, change);
    }

    fn acknowledge(&mut self, index: usize) -> Checked {
        let node = &self.nodes[index];
        let Some((me, group)) = node.serves(self.time) else { return Ok(()) };
        let has = |member: Member| node.followed.get(&member).map_or(0, |followed| followed.length);
        let common = node.voices(me, group).map(has).min().unwrap_or(node.log.len()).min(node.log.len());
        if common <= node.acked_length {
            return Ok(());
        }
        let epoch = group.epoch;
        let values: Vec<u64> = node.log[node.acked_length..common].to_vec();
        self.nodes[index].acked_length = common;
        self.acknowledged_total += values.len();
        self.acknowledged.extend(&values);
        let first = *self.epochs.entry(epoch).or_insert(me);
        if first != me {
            return Err(format!("I4: {me} acknowledges in epoch {epoch}, as {first} did"));
        }
        // Whoever was named meanwhile must have it.
        let decided = self.nodes.iter().max_by_key(|other| other.state.applied_index()).and_then(SimNode::group);
        let Some((now, next)) = decided.and_then(|group| group.primary.map(|primary| (group.epoch, primary))) else {
            return Ok(());
        };
        let holder = self.nodes.iter().find(|other| other.id == next.node);
        let missing = |holder: &SimNode| values.iter().any(|value| !holder.has(*value));
        match now > epoch && holder.is_some_and(missing) {
            true => Err(format!("I2: {me} acknowledged what {next}, primary since epoch {now}, has not")),
            false => Ok(()),
        }
    }

    // ---- What must never be ----

    fn check(&mut self) -> Checked {
        let mut able = Vec::new();
        for node in self.nodes.iter().filter(|node| node.runs(self.time)) {
            if node.holds_lease(self.time) && node.state.applied_index() < node.knows_demand() {
                return Err(format!("I7: node {} holds a lease it may not", node.id));
            }
            let Some((me, group)) = node.serves(self.time) else { continue };
            let willing = |member: Member| {
                let holder = self.nodes.iter().find(|other| other.member() == Some(member));
                holder.is_some_and(|holder| holder.sealed <= group.epoch)
            };
            if node.reigned == group.epoch && node.voices(me, group).all(willing) {
                able.push(me);
                if self.time.is_multiple_of(100)
                    && let Some(lost) = self.acknowledged.iter().find(|value| !node.has(**value))
                {
                    return Err(format!("I2: {me} serves without the acknowledged write {lost}"));
                }
            }
        }
        if able.len() > 1 {
            return Err(format!("I3: {} and {} can both acknowledge", able[0], able[1]));
        }
        let known = self.epochs.keys().next_back().copied();
        let newest = self.nodes.iter().filter_map(SimNode::group).map(|group| group.epoch).max();
        if known > newest {
            return Err(format!("I4: epoch {known:?} was used, and {newest:?} is the newest"));
        }
        Ok(())
    }

    fn check_all_well(&self) -> Checked {
        for node in &self.nodes {
            let Some(group) = node.group() else { return Err("I8: a node knows no group".into()) };
            if group.primary.is_none() || group.in_sync.len() < NODES || !node.holds_lease(self.time) {
                return Err(format!("I8: node {} is not well: {group:?}", node.id));
            }
        }
        let mut digests = BTreeMap::new();
        for node in &self.nodes {
            let first = *digests.entry(node.state.applied_index()).or_insert(node.state.digest());
            if first != node.state.digest() {
                return Err("I6: the nodes hold different states".into());
            }
        }
        Ok(())
    }
}
