//! Failover at work: the leader looks, asks and proposes what [`keyward_cluster::failover`] decides.
//!
//! ```text
//!   renewals (lease.rs) ─► seen ─► Driver::look ─► seal ──► members (their DataPlane) ─► Driver::sealed
//!   a refused connection ─┘                    └─► propose ─► raft
//! ```
//! It also moves leadership of the Raft group away from the node that serves the data, so that one crash does not cost
//! an election and a failover, one after the other.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use keyward_cluster::failover::{Act, Driver, Probes, Seen, Stand};
use keyward_cluster::{
    Change, Epoch, FailoverReason, GroupId, Incarnation, Member, NodeId, Outcome, ShardGroup, State,
};
use keyward_proto::control as wire;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::Status;

use super::codec;
use super::core::{Core, HereError, SharedCore};
use super::data_plane::GroupReport;
use super::lease::{Heard, Leading, RENEW_EVERY, boot_ms};
use super::membership;
use super::view::unhurried;
use crate::world::net::TcpStream;

/// Between two looks. A look costs a few map entries.
const LOOK_EVERY: Duration = Duration::from_millis(25);

/// Between two looks of a node that is alone and serves: there is nobody to fail over to. A look is short, but it wakes a
/// thread, and what a data thread had in its caches goes.
const LOOK_ALONE_EVERY: Duration = Duration::from_millis(250);

/// Whoever looks so late was frozen, or starved: what others said meanwhile is still to be read, and it may lead no longer.
const STOOD_STILL: Duration = Duration::from_millis(500);

/// How long a member has to answer that it is sealed.
const SEAL_TIMEOUT: Duration = Duration::from_millis(1000);

/// A primary that missed a renewal is asked whether its process still listens.
const PROBE_AFTER: Duration = Duration::from_millis(300);

/// How long a connection for that may take. A machine that is gone answers nothing; silence decides then.
const PROBE_TIMEOUT: Duration = Duration::from_millis(200);

/// Between two tries to move leadership away from the primary.
const STEER_EVERY: Duration = Duration::from_secs(5);

/// Between two groups that are moved to spread the load after the founding.
const SPREAD_EVERY: Duration = Duration::from_millis(500);

/// A reign younger than this is left alone: the group may still be forming.
const STEER_AFTER: Duration = Duration::from_secs(3);

/// What a planned hand-over may take, with the data that is still to be sent.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest wait for somebody who is in sync to hand over to.
const READY_WAIT_MAX: Duration = Duration::from_secs(3);

/// What a primary may take until it answers nothing more about keys that move: what runs alone ends first.
const HOLD_TIMEOUT: Duration = Duration::from_secs(1);

/// What a node was found to be by asking for a connection.
struct Probed {
    member: Member,
    gone: bool,
}

/// What came back from the tasks of one reign.
enum Answer {
    Sealed(GroupId, Epoch, Member, Stand),
    Probed(Probed),
    /// What was proposed for the group was not taken: Raft did not see this node lead.
    Unheeded(GroupId),
}

/// What the leader does in one reign.
struct Reign {
    leading: Arc<Leading>,
    driver: Driver,
    /// Processes that were found gone, and when.
    gone: BTreeMap<Member, u64>,
    probes: Probes,
    looked_at: u64,
    steered_at: u64,
    spread_at: u64,
    /// Held twice while a group is being moved to spread the load.
    spreading: Arc<()>,
}

/// Whether there is somebody who may come in sync: `to`, or anybody but the primary.
fn may_join(state: &State, group: &ShardGroup, to: Option<NodeId>) -> bool {
    let primary = group.primary.map(|primary| primary.node);
    match to {
        Some(to) => state.nodes().contains_key(&to),
        None => state.nodes().keys().any(|node| Some(*node) != primary),
    }
}

/// Whether the cluster is one node that serves everything.
pub(crate) fn is_alone(state: &State) -> bool {
    state.nodes().len() == 1 && state.groups().values().all(|group| group.primary.is_some())
}

/// Runs for as long as the node does; acts while it leads.
pub(crate) async fn watch(core: &SharedCore) {
    let (answers, mut answered) = mpsc::channel(64);
    let mut reign: Option<Reign> = None;
    loop {
        let pause = if is_alone(&core.views.current().state) { LOOK_ALONE_EVERY } else { LOOK_EVERY };
        let answer = tokio::time::timeout(pause, answered.recv()).await.ok().flatten();
        let Some(leading) = core.leading() else {
            reign = None;
            continue;
        };
        let now = boot_ms();
        let known = reign.take().filter(|reign| Arc::ptr_eq(&reign.leading, &leading));
        let current = reign.insert(known.unwrap_or_else(|| Reign::new(leading, core)));
        current.take_in(now, answer);
        current.look(core, now, &answers);
    }
}

impl Reign {
    fn new(leading: Arc<Leading>, core: &Core) -> Self {
        let mut driver = Driver::new(leading.since, core.config.patience);
        if let Some((_, me)) = core.peers.identity() {
            driver = driver.led_by(me);
        }
        let now = boot_ms();
        for group in core.views.current().state.groups().values() {
            let silent_for = core.data.get().and_then(|data| data.primary_silent_for(group.id));
            if let (Some(primary), Some(silent_for)) = (group.primary, silent_for) {
                driver.heard_before(primary, now.saturating_sub(millis(silent_for)));
            }
        }
        Self {
            leading,
            driver,
            gone: BTreeMap::new(),
            probes: Probes::default(),
            looked_at: boot_ms(),
            steered_at: 0,
            spread_at: 0,
            spreading: Arc::default(),
        }
    }

    fn take_in(&mut self, now: u64, answer: Option<Answer>) {
        match answer {
            Some(Answer::Sealed(group, epoch, member, stand)) => self.driver.sealed(now, group, epoch, member, stand),
            Some(Answer::Probed(Probed { member, gone })) => {
                self.probes.answered(member);
                if gone {
                    self.gone.insert(member, now);
                }
            }
            Some(Answer::Unheeded(group)) => self.driver.unheeded(now, group),
            None => {}
        }
    }

    fn look(&mut self, core: &SharedCore, now: u64, answers: &mpsc::Sender<Answer>) {
        if now.saturating_sub(self.looked_at) >= millis(STOOD_STILL) {
            self.driver.stood_still(now);
        }
        self.looked_at = now;
        let view = core.views.current();
        let heard = self.leading.heard();
        self.gone.retain(|member, since| {
            let back = heard.get(&member.node).is_some_and(|heard| heard.at > *since);
            view.state.is_current(*member) && !back
        });
        let seen = seen(&heard, &self.gone);
        for group in view.state.groups().values() {
            self.probe(core, now, group, &seen, answers);
        }
        for act in self.driver.look(now, &view.state, &seen) {
            match act {
                Act::Seal { group, epoch, members } => {
                    tracing::info!(group = group.0, epoch = epoch.0, ?members, "sealing for a failover");
                    members.into_iter().for_each(|member| seal(core, group, epoch, member, answers));
                }
                Act::Propose(change) => propose(core, change, answers),
                Act::Say(group, why) => tracing::error!(group = group.0, why, "the group stays down"),
            }
        }
        self.steer(core, now, &view.state);
        self.spread(core, now, &view.state);
    }

    /// Asks whether the process of a silent primary still listens: a refusal is proof, and sooner than silence is.
    fn probe(
        &mut self,
        core: &SharedCore,
        now: u64,
        group: &ShardGroup,
        seen: &BTreeMap<NodeId, Seen>,
        answers: &mpsc::Sender<Answer>,
    ) {
        let Some(primary) = group.primary else { return };
        let silent = u128::from(self.driver.silent_ms(now, primary, seen));
        let unheard = !seen.contains_key(&primary.node) && silent >= RENEW_EVERY.as_millis() / 2;
        let known_gone = self.gone.contains_key(&primary);
        let me = core.peers.identity().map(|(_, me)| me);
        if known_gone || !(unheard || silent >= PROBE_AFTER.as_millis()) || !self.probes.begin(now, me, primary) {
            return;
        }
        let (core, answers) = (core.clone(), answers.clone());
        tokio::spawn(async move {
            let gone = is_gone(&core, primary).await;
            let _ = answers.send(Answer::Probed(Probed { member: primary, gone })).await;
        });
    }

    /// Right after a cluster of several groups was formed, its founder serves all of them: some go to other nodes, one by one.
    /// Later that is an operator's business.
    fn spread(&mut self, core: &SharedCore, now: u64, state: &State) {
        let due = self.spread_at + millis(SPREAD_EVERY);
        if state.groups().len() < 2 || now < due || self.is_spreading() || !membership::is_settled(core) {
            return;
        }
        let load = |node: NodeId| {
            let serves = |group: &&ShardGroup| group.primary.is_some_and(|primary| primary.node == node);
            state.groups().values().filter(serves).count()
        };
        let unmoved = state.groups().values().filter(|group| group.epoch == Epoch(1));
        let mut moves = unmoved.filter_map(|group| {
            let primary = group.primary?;
            let target = *group.in_sync.iter().min_by_key(|member| (load(member.node), member.node))?;
            (load(primary.node) >= load(target.node) + 2).then_some((group.id, primary, target))
        });
        let Some((group, primary, target)) = moves.next_back() else { return };
        self.spread_at = now;
        let (core, spreading) = (core.clone(), Arc::clone(&self.spreading));
        tokio::spawn(async move {
            match core.hand_over_group_on(primary.node, group, target).await {
                Ok(()) => {
                    tracing::info!(group = group.0, to = target.node.0, "a shard group was moved to spread the load")
                }
                Err(error) => tracing::debug!(group = group.0, error, "a shard group was not moved to spread the load"),
            }
            drop(spreading);
        });
    }

    fn is_spreading(&self) -> bool {
        Arc::strong_count(&self.spreading) > 1
    }

    fn steer(&mut self, core: &SharedCore, now: u64, state: &State) {
        let young = now < self.leading.since + millis(STEER_AFTER) || now < self.steered_at + millis(STEER_EVERY);
        let me = core.peers.identity().map(|(_, me)| me);
        let primaries: BTreeSet<NodeId> =
            state.groups().values().filter_map(|group| group.primary.map(|primary| primary.node)).collect();
        let serves = me.is_some_and(|me| primaries.contains(&me));
        // With several groups, only a node that serves none is better; where each serves some there is none.
        let several = state.groups().len() > 1;
        let heard = self.leading.heard();
        let lives = |node: &NodeId| heard.get(node).is_some_and(|heard| now < heard.at + millis(STOOD_STILL));
        let free = state.nodes().keys().copied().find(|node| !primaries.contains(node) && lives(node));
        let to = free.filter(|_| several);
        // The next leader would not know of it, and move another group to the same node.
        if self.is_spreading() {
            return;
        }
        if young || !serves || several && to.is_none() || state.nodes().len() < 3 || !membership::is_settled(core) {
            return;
        }
        self.steered_at = now;
        let core = core.clone();
        tokio::spawn(async move {
            match core.hand_over_here(to).await {
                Ok(()) => tracing::info!("leadership was moved away from the node that serves the data"),
                Err(error) => tracing::debug!(?error, "leadership was not moved away from the primary"),
            }
        });
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn seen(heard: &BTreeMap<NodeId, Heard>, gone: &BTreeMap<Member, u64>) -> BTreeMap<NodeId, Seen> {
    let stands = |groups: &[GroupReport]| groups.iter().map(|report| (report.group, stand(report))).collect();
    let mut seen: BTreeMap<NodeId, Seen> = heard
        .iter()
        .map(|(node, heard)| {
            let stands = stands(&heard.groups);
            (*node, Seen { incarnation: heard.incarnation, at: heard.at, gone: false, stands })
        })
        .collect();
    for member in gone.keys() {
        let of = seen.entry(member.node).or_insert_with(|| Seen { incarnation: member.incarnation, ..Seen::default() });
        of.gone = of.incarnation == member.incarnation;
    }
    seen
}

fn stand(report: &GroupReport) -> Stand {
    Stand {
        epoch: report.epoch,
        position: report.position,
        has_data: report.has_data,
        snapshot: report.snapshot,
        promised_ms: report.promised_ms,
        sealed: report.sealed,
    }
}

async fn is_gone(core: &SharedCore, member: Member) -> bool {
    let Some(address) = core.peers.address_of(member.node) else { return false };
    let connected = tokio::time::timeout(PROBE_TIMEOUT, TcpStream::connect(address)).await;
    matches!(connected, Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused)
}

fn seal(core: &SharedCore, group: GroupId, epoch: Epoch, member: Member, answers: &mpsc::Sender<Answer>) {
    let (core, answers) = (core.clone(), answers.clone());
    tokio::spawn(async move {
        match tokio::time::timeout(SEAL_TIMEOUT, core.seal_on(member, group, epoch)).await {
            Ok(Ok(report)) => drop(answers.send(Answer::Sealed(group, epoch, member, stand(&report))).await),
            Ok(Err(error)) => tracing::debug!(node = member.node.0, %error, "a member could not be sealed"),
            Err(_) => tracing::debug!(node = member.node.0, "a member did not answer that it is sealed"),
        }
    });
}

fn propose(core: &SharedCore, change: Change, answers: &mpsc::Sender<Answer>) {
    let (core, answers) = (core.clone(), answers.clone());
    tokio::spawn(async move {
        let what = change.summary();
        let group = if let Change::SetPrimary { group, .. } = change { Some(group) } else { None };
        match core.write(core.own_change(change)).await {
            Ok((index, Outcome::Refused(refusal))) => {
                tracing::warn!(index, what, %refusal, "the failover came too late")
            }
            Ok((index, _)) => tracing::info!(index, what, "failover committed"),
            // Elected is not confirmed: until a quorum has taken this reign's first entry, Raft refuses every other.
            Err(HereError::NotLeader(_)) => {
                tracing::debug!(what, "the failover is proposed again");
                if let Some(group) = group {
                    let _ = answers.send(Answer::Unheeded(group)).await;
                }
            }
            Err(error) => tracing::warn!(what, ?error, "the failover is not committed yet"),
        }
    });
}

impl Core {
    /// Seals this node, if it runs under an incarnation.
    pub(crate) fn seal_here(&self, group: GroupId, epoch: Epoch) -> Result<(Incarnation, GroupReport), Status> {
        let incarnation = self.views.current().incarnation;
        let incarnation = incarnation.ok_or_else(|| Status::unavailable("this node is still starting"))?;
        let data = self.data.get().ok_or_else(|| Status::unavailable("this node has no data yet"))?;
        Ok((incarnation, unhurried(|| data.seal(group, epoch))))
    }

    async fn seal_on(&self, member: Member, group: GroupId, epoch: Epoch) -> Result<GroupReport, Status> {
        let (incarnation, report) = if self.peers.identity().is_some_and(|(_, me)| me == member.node) {
            self.seal_here(group, epoch)?
        } else {
            let mut client = self.peers.client_of(member.node)?;
            let header = self.peers.header(member.node);
            let request = wire::SealRequest { header, group: group.0, epoch: epoch.0 };
            let answer = client.seal(request).await?.into_inner();
            let standing = answer.standing.ok_or_else(|| Status::internal("the answer is empty"))?;
            (Incarnation(answer.incarnation), codec::standing_from(standing))
        };
        if incarnation != member.incarnation {
            return Err(Status::failed_precondition("it is another process by now"));
        }
        Ok(report)
    }

    /// Has the data of this node hand a group over, as its primary.
    pub(crate) async fn hand_over_group_here(&self, group: GroupId, target: Member) -> Result<(), String> {
        let data = self.data.get().ok_or_else(|| String::from("this node has no data yet"))?;
        let handed_over = tokio::time::timeout(HAND_OVER_TIMEOUT, data.hand_over(group, target)).await;
        handed_over.map_err(|_| String::from("the hand-over did not end in time"))?
    }

    async fn hand_over_group_on(&self, node: NodeId, group: GroupId, target: Member) -> Result<(), String> {
        if self.peers.identity().is_some_and(|(_, me)| me == node) {
            return self.hand_over_group_here(group, target).await;
        }
        let mut client = self.peers.client_of(node).map_err(|status| status.message().to_owned())?;
        let header = self.peers.header(node);
        let request = wire::HandOverGroupRequest { header, group: group.0, target: Some(codec::member_to(target)) };
        let asked = tokio::time::timeout(HAND_OVER_TIMEOUT + SEAL_TIMEOUT, client.hand_over_group(request)).await;
        let answer = asked.map_err(|_| String::from("the primary does not answer"))?;
        let failed = answer.map_err(|status| status.message().to_owned())?.into_inner().failed;
        if failed.is_empty() { Ok(()) } else { Err(failed) }
    }

    /// Has the data of this node remove the keys of a retired tenant, as the primary of a group.
    pub(crate) async fn purge_tenant_here(&self, group: GroupId, tenant: u32) -> Result<(), String> {
        let data = self.data.get().ok_or_else(|| String::from("this node has no data yet"))?;
        data.purge_tenant(group, tenant).await
    }

    /// The same on another node.
    pub(crate) async fn purge_tenant_on(&self, node: NodeId, group: GroupId, tenant: u32) -> Result<(), String> {
        let mut client = self.peers.client_of(node).map_err(|status| status.message().to_owned())?;
        let request = wire::PurgeTenantRequest { header: self.peers.header(node), group: group.0, tenant };
        let asked = tokio::time::timeout(HAND_OVER_TIMEOUT, client.purge_tenant(request)).await;
        let answer = asked.map_err(|_| String::from("the primary does not answer"))?;
        let failed = answer.map_err(|status| status.message().to_owned())?.into_inner().failed;
        if failed.is_empty() { Ok(()) } else { Err(failed) }
    }

    /// Has the data of this node hold the keys of a move, as the primary of a group.
    pub(crate) async fn hold_keys_here(&self, group: GroupId, index: u64) -> Result<u64, String> {
        let data = self.data.get().ok_or_else(|| String::from("this node has no data yet"))?;
        data.hold_keys(group, index).await
    }

    /// The same on any node.
    pub(crate) async fn hold_keys_on(&self, node: NodeId, group: GroupId, index: u64) -> Result<u64, String> {
        if self.peers.identity().is_some_and(|(_, me)| me == node) {
            return self.hold_keys_here(group, index).await;
        }
        let mut client = self.peers.client_of(node).map_err(|status| status.message().to_owned())?;
        let request = wire::HoldKeysRequest { header: self.peers.header(node), group: group.0, index };
        let asked = tokio::time::timeout(HOLD_TIMEOUT, client.hold_keys(request)).await;
        let answer = asked.map_err(|_| String::from("the primary does not answer"))?;
        let answer = answer.map_err(|status| status.message().to_owned())?.into_inner();
        if answer.failed.is_empty() { Ok(answer.position) } else { Err(answer.failed) }
    }

    /// Whether this node has a group on its disk up to an effect, named by its epoch and position; if not, it begins to.
    pub(crate) fn save_group_here(&self, group: GroupId, effect: (Epoch, u64)) -> Result<bool, String> {
        let data = self.data.get().ok_or_else(|| String::from("this node has no data yet"))?;
        Ok(data.save_group(group, effect))
    }

    /// The same on any node.
    pub(crate) async fn save_group_on(
        &self,
        node: NodeId,
        group: GroupId,
        effect: (Epoch, u64),
    ) -> Result<bool, String> {
        if self.peers.identity().is_some_and(|(_, me)| me == node) {
            return self.save_group_here(group, effect);
        }
        let mut client = self.peers.client_of(node).map_err(|status| status.message().to_owned())?;
        let (epoch, position) = (effect.0.0, effect.1);
        let request = wire::SaveGroupRequest { header: self.peers.header(node), group: group.0, epoch, position };
        let asked = tokio::time::timeout(HOLD_TIMEOUT, client.save_group(request)).await;
        let answer = asked.map_err(|_| String::from("the node does not answer"))?;
        Ok(answer.map_err(|status| status.message().to_owned())?.into_inner().saved)
    }

    /// Has a group served by `to`, or by whoever is most up to date, as leader. `accept_loss`: without the old primary,
    /// and whether or not `to` has every acknowledged write.
    pub(crate) async fn move_primary_here(
        &self,
        group: GroupId,
        to: Option<NodeId>,
        (accept_loss, patience): (bool, Duration),
        actor: &str,
    ) -> Result<(), HereError> {
        let refused = |text: String| HereError::Refused(text);
        let give_up = Instant::now() + patience.min(READY_WAIT_MAX);
        let (primary, target) = loop {
            let leading = self.leading().ok_or_else(|| HereError::NotLeader(self.hint()))?;
            let view = self.views.current();
            let known = view.state.groups().get(&group);
            let known = known.ok_or_else(|| refused(format!("no shard group has the id {}", group.0)))?;
            let target = self.target(&leading, &view.state, known, to);
            if let Ok(target) = target
                && known.primary == Some(target)
            {
                return Ok(());
            }
            if accept_loss {
                return self.move_unclean(&leading, known, target?, actor).await;
            }
            let Some(primary) = known.primary else {
                return Err(refused(String::from(
                    "nobody serves the group: it fails over by itself as soon as it can",
                )));
            };
            let ready = target.and_then(|target| {
                let text = || format!("node {} is not in sync", target.node);
                if known.in_sync.contains(&target) { Ok(target) } else { Err(refused(text())) }
            });
            match ready {
                Ok(target) => break (primary, target),
                Err(error) if Instant::now() >= give_up || !may_join(&view.state, known, to) => return Err(error),
                // It comes in sync, or has and was not heard of since.
                Err(_) => tokio::time::sleep(LOOK_EVERY).await,
            }
        };
        self.hand_over_group_on(primary.node, group, target).await.map_err(refused)
    }

    fn target(
        &self,
        leading: &Leading,
        state: &State,
        group: &ShardGroup,
        to: Option<NodeId>,
    ) -> Result<Member, HereError> {
        if let Some(to) = to {
            let known = state.nodes().get(&to).map(|node| node.member());
            return known.ok_or_else(|| HereError::Refused(format!("no node has the id {to}")));
        }
        let heard = leading.heard();
        let position = |member: &Member| {
            let heard = heard.get(&member.node).filter(|heard| heard.incarnation == member.incarnation)?;
            let report = heard.groups.iter().find(|report| report.group == group.id && report.has_data)?;
            Some((report.epoch, report.position))
        };
        let others = group.in_sync.iter().copied().filter(|member| Some(*member) != group.primary);
        let best = others.filter(|member| position(member).is_some()).max_by_key(position);
        best.ok_or_else(|| HereError::Refused(String::from("no other node is in sync")))
    }

    /// Whether the primary's node answers now. When it was heard from last says too little: this node may have stood still
    /// itself, and what the primary said meanwhile is still to be read.
    async fn primary_answers(&self, group: &ShardGroup) -> bool {
        // Another process of its node has nothing of what this one served.
        let Some(primary) = group.primary.filter(|primary| self.views.current().state.is_current(*primary)) else {
            return false;
        };
        if self.peers.identity().is_some_and(|(_, me)| me == primary.node) {
            return true;
        }
        let asked = tokio::time::timeout(SEAL_TIMEOUT, self.applied_on(primary.node, 0, Duration::ZERO)).await;
        asked.is_ok_and(|applied| applied.is_some())
    }

    async fn move_unclean(
        &self,
        leading: &Leading,
        group: &ShardGroup,
        target: Member,
        actor: &str,
    ) -> Result<(), HereError> {
        let heard = group.primary.and_then(|primary| leading.heard().get(&primary.node).map(|heard| heard.at));
        let dead_after = self.config.patience.dead_after_ms;
        let heard_lately = heard.is_some_and(|at| boot_ms() < at + dead_after);
        if heard_lately || self.primary_answers(group).await {
            return Err(HereError::Refused(String::from("the primary is alive: move it without accepting loss")));
        }
        let next = Epoch(group.epoch.0 + 1);
        let sealed = tokio::time::timeout(SEAL_TIMEOUT, self.seal_on(target, group.id, next)).await;
        let report = match sealed {
            Ok(Ok(report)) => report,
            Ok(Err(status)) => return Err(HereError::Refused(status.message().to_owned())),
            Err(_) => return Err(HereError::Refused(format!("node {} does not answer", target.node))),
        };
        if !report.has_data {
            return Err(HereError::Refused(format!("node {} has no complete copy", target.node)));
        }
        let change = Change::SetPrimary {
            group: group.id,
            primary: target,
            in_sync: BTreeSet::from([target]),
            expect_epoch: group.epoch,
            reason: FailoverReason::Unclean,
        };
        let mut stamped = self.own_change(change);
        stamped.actor = actor.to_owned();
        stamped.source = String::from("admin");
        match self.write(stamped).await?.1 {
            Outcome::Refused(refusal) => Err(HereError::Refused(refusal.to_string())),
            _ => Ok(()),
        }
    }

    /// What this node knows of every registered node as leader.
    pub(crate) fn standings_here(&self) -> Option<Vec<NodeStanding>> {
        let leading = self.leading()?;
        let (view, heard, now) = (self.views.current(), leading.heard(), boot_ms());
        let standing = |node: &NodeId| {
            let heard = heard.get(node);
            NodeStanding {
                node: *node,
                incarnation: heard.map_or(Incarnation(0), |heard| heard.incarnation),
                applied: heard.map_or(0, |heard| heard.applied),
                silent_for: Duration::from_millis(now.saturating_sub(heard.map_or(leading.since, |heard| heard.at))),
                lease_left: Duration::from_millis(leading.lease_left_ms(*node)),
                groups: heard.map(|heard| heard.groups.clone()).unwrap_or_default(),
            }
        };
        Some(view.state.nodes().keys().map(standing).collect())
    }
}

/// What the leader knows of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeStanding {
    /// The node.
    pub node: NodeId,
    /// Which of its processes was heard from; 0: none in this reign.
    pub incarnation: Incarnation,
    /// What it has applied.
    pub applied: u64,
    /// How long it has been silent, in this reign.
    pub silent_for: Duration,
    /// How long it may serve from now on, if nothing more is heard.
    pub lease_left: Duration,
    /// Where it stands with the data.
    pub groups: Vec<GroupReport>,
}
