//! A simulated node: the real lease, state and failover driver, and a copy of the data that is a list of numbers.

use std::collections::{BTreeMap, BTreeSet};

use keyward_cluster::failover::{Driver, Seen, Stand};
use keyward_cluster::lease::{Grants, HeldLease};
use keyward_cluster::{Epoch, GroupId, Member, NodeId, ShardGroup, State};

pub const GROUP: GroupId = GroupId(0);

/// What a node knows as leader.
pub struct Reign {
    pub term: u64,
    pub grants: Grants,
    pub driver: Driver,
    pub seen: BTreeMap<NodeId, Seen>,
    /// Changes whose answer waits until they are in force: entry and version.
    pub waiting: Vec<(u64, u64)>,
}

/// What a primary knows of a replica.
#[derive(Clone, Copy, Default)]
pub struct Followed {
    pub length: usize,
    pub heard_at: u64,
}

/// One node. Everything but `disk` ends with its process.
pub struct SimNode {
    pub id: NodeId,
    /// Its clock shows `offset + rate * time / 1000`.
    pub rate: u64,
    pub offset: u64,
    pub up: bool,
    pub paused_until: u64,
    pub stalled_until: u64,
    /// Counts its processes.
    pub process: u64,
    pub state: State,
    pub lease: HeldLease,
    /// What each grant demanded, by when it ends.
    pub demanded: BTreeMap<u64, u64>,
    pub start_token: u64,
    pub reign: Option<Reign>,
    /// The data, and the epoch it was last written or copied in.
    pub log: Vec<u64>,
    pub log_epoch: Epoch,
    /// Effects of an older epoch are refused.
    pub sealed: Epoch,
    /// As primary of `reigned`: who has how much, and what is not acknowledged yet.
    pub reigned: Epoch,
    pub followed: BTreeMap<Member, Followed>,
    pub acked_length: usize,
    /// Counted as members before they are proposed as such, and from what length on.
    pub joining: BTreeMap<Member, usize>,
    pub shrunk_to: Option<BTreeSet<Member>>,
    pub proposed_at: u64,
    /// Survives.
    pub snapshot: (Epoch, Vec<u64>),
}

impl SimNode {
    pub fn new(id: NodeId, rate: u64, offset: u64) -> Self {
        Self {
            id,
            rate,
            offset,
            up: true,
            paused_until: 0,
            stalled_until: 0,
            process: 1,
            state: State::new(),
            lease: HeldLease::default(),
            demanded: BTreeMap::new(),
            start_token: id.0 * 1000 + 1,
            reign: None,
            log: Vec::new(),
            log_epoch: Epoch(0),
            sealed: Epoch(0),
            reigned: Epoch(0),
            followed: BTreeMap::new(),
            acked_length: 0,
            joining: BTreeMap::new(),
            shrunk_to: None,
            proposed_at: 0,
            snapshot: (Epoch(0), Vec::new()),
        }
    }

    /// The next process of the node, with what its disk holds. A bug lets it keep its name.
    pub fn restart(&mut self, keeps_incarnation: bool) {
        let (id, rate, offset, process) = (self.id, self.rate, self.offset, self.process + 1);
        let (snapshot, state, token) = (self.snapshot.clone(), self.state.clone(), self.start_token);
        *self = Self::new(id, rate, offset);
        self.process = process;
        self.start_token = if keeps_incarnation { token } else { id.0 * 1000 + process };
        (self.log_epoch, self.log) = snapshot.clone();
        self.snapshot = snapshot;
        // The log of Raft is on disk.
        self.state = state;
        self.lease.applied(self.state.applied_index());
    }

    pub fn clock(&self, time: u64) -> u64 {
        self.offset + self.rate * time / 1000
    }

    pub fn runs(&self, time: u64) -> bool {
        self.up && time >= self.paused_until
    }

    pub fn holds_lease(&self, time: u64) -> bool {
        self.clock(time) < self.lease.until()
    }

    /// This process, once its start is registered.
    pub fn member(&self) -> Option<Member> {
        let info = self.state.nodes().get(&self.id)?;
        (info.start_token == self.start_token).then(|| info.member())
    }

    pub fn group(&self) -> Option<&ShardGroup> {
        self.state.groups().get(&GROUP)
    }

    /// The group it believes to serve, if it may.
    pub fn serves(&self, time: u64) -> Option<(Member, &ShardGroup)> {
        let (me, group) = (self.member()?, self.group()?);
        let mine = group.primary == Some(me) && self.sealed <= group.epoch && self.holds_lease(time);
        mine.then_some((me, group))
    }

    /// Who must have a write before it is acknowledged.
    pub fn voices<'n>(&'n self, me: Member, group: &'n ShardGroup) -> impl Iterator<Item = Member> + 'n {
        let set = self.shrunk_to.as_ref().unwrap_or(&group.in_sync);
        set.iter().chain(self.joining.keys()).copied().filter(move |member| *member != me)
    }

    pub fn stand(&self) -> Stand {
        Stand {
            epoch: self.log_epoch,
            position: self.log.len() as u64,
            has_data: true,
            snapshot: Some((self.snapshot.0, self.snapshot.1.len() as u64)),
            promised_ms: 0,
            sealed: self.sealed,
        }
    }

    /// Whether it has this write. Writes are numbered in order, so that a log is sorted.
    pub fn has(&self, value: u64) -> bool {
        self.log.binary_search(&value).is_ok()
    }

    /// The version of the rules it applies.
    pub fn version(&self) -> u64 {
        self.state.setting("rules").and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    pub fn knows_demand(&self) -> u64 {
        self.demanded.get(&self.lease.until()).copied().unwrap_or(0)
    }
}
