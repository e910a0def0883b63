//! Who is in sync, as the primary sees it: it proposes, Raft decides.
//!
//! A member leaves when it is silent or behind for too long, so that it no longer holds up what must be confirmed. A replica
//! joins when it has everything: first it counts as a member, then it must have all that was written before it counted, and only
//! then is it proposed. Had it the other way round, a write confirmed in between could be missing on a member in sync.

use super::SILENCE;
use super::acks::{Replica, Standing};
use crate::node::Node;
use keyward_cluster::{Change, Member};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// Between two looks.
const TICK: Duration = Duration::from_millis(100);

/// Between two looks while this node has no replicas and waits for none; one that comes is looked at like any other. A look is
/// short, but it wakes a thread, and what a data thread had in its caches goes.
const TICK_ALONE: Duration = Duration::from_secs(1);

/// A replica that joins must have everything within this time.
const JOINING: Duration = Duration::from_millis(500);

/// A proposal that is not answered in this time is made again, if it still makes sense.
const PROPOSAL: Duration = Duration::from_secs(5);

/// A member in sync that answers, but had not for so long what was written before, leaves the set. Longer than a long value
/// takes on its way.
const LATE: Duration = Duration::from_secs(3);

/// What a member was behind, and since when.
#[derive(Default)]
struct Behind(BTreeMap<Member, (u64, u64)>);

impl Behind {
    /// Whether the member has less than the end of the stream of [`LATE`] ago.
    fn is_late(&mut self, replica: &Replica, end: u64, now_ms: u64) -> bool {
        let (target, since) = self.0.entry(replica.member).or_insert((end, now_ms));
        if replica.position >= *target {
            (*target, *since) = (end, now_ms);
        }
        now_ms - *since > LATE.as_millis() as u64
    }
}

/// Tends the set while this node is primary.
pub async fn tend(node: Arc<Node>) {
    let mut behind = Behind::default();
    let mut since = BTreeMap::new();
    let mut alone = false;
    loop {
        if std::mem::take(&mut alone) {
            let _ = timeout(TICK_ALONE, node.replication.acks.came()).await;
        } else {
            sleep(TICK).await;
        }
        let Some(standing) = node.replication.acks.standing() else {
            behind.0.clear();
            since.clear();
            continue;
        };
        let wanted = wanted(&node, &standing, &mut behind, &mut since);
        if wanted == standing.in_sync {
            alone = standing.replicas.is_empty() && wanted.len() == 1;
            continue;
        }
        #[cfg(simulated)]
        if planted!(ShrinkBeforeCommit) {
            node.replication.acks.forget_others(&wanted);
        }
        if wanted.is_subset(&standing.in_sync) || caught_up(&node, &standing, &wanted).await {
            propose(&node, &standing, wanted).await;
        } else {
            node.replication.acks.join(&BTreeSet::new());
        }
    }
}

/// The set as it should be.
fn wanted(
    node: &Node,
    standing: &Standing,
    behind: &mut Behind,
    absent: &mut BTreeMap<Member, u64>,
) -> BTreeSet<Member> {
    let (end, now_ms) = (node.replication.log.position(), node.replication.clock_ms());
    node.replication.acks.note_end(end, now_ms);
    let silence = SILENCE.as_millis() as u64;
    let view = node.views.load().1;
    let mut wanted = BTreeSet::from([standing.me]);
    for replica in &standing.replicas {
        let late = behind.is_late(replica, end, now_ms);
        let heard = replica.seen_ms > 0 && now_ms.saturating_sub(replica.seen_ms) <= silence;
        let current = view.state.is_current(replica.member);
        if replica.streams && heard && !late && current {
            wanted.insert(replica.member);
            absent.remove(&replica.member);
        }
    }
    // One whose link just ended has the same time to come back.
    for member in standing.in_sync.difference(&wanted.clone()) {
        let missed = *absent.entry(*member).or_insert(now_ms);
        if view.state.is_current(*member) && now_ms - missed <= silence {
            wanted.insert(*member);
        }
    }
    absent.retain(|member, _| standing.in_sync.contains(member));
    wanted
}

/// Counts the joining as members, and waits until they have what was written before they counted.
async fn caught_up(node: &Node, standing: &Standing, wanted: &BTreeSet<Member>) -> bool {
    let replication = &node.replication;
    let joining: BTreeSet<Member> = wanted.difference(&standing.in_sync).copied().collect();
    replication.acks.join(&joining);
    let target = replication.log.position();
    replication.log.tell();
    let have = async {
        loop {
            let now = replication.acks.standing();
            let Some(now) = now.filter(|now| now.epoch == standing.epoch) else { return false };
            let has = |member: &Member| {
                now.replicas.iter().any(|replica| replica.member == *member && replica.position >= target)
            };
            if joining.iter().all(has) {
                return true;
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(JOINING, have).await.unwrap_or(false)
}

async fn propose(node: &Node, standing: &Standing, in_sync: BTreeSet<Member>) {
    let names: Vec<u64> = in_sync.iter().map(|member| member.node.0).collect();
    let change = Change::ChangeInSync {
        group: node.group,
        expect_epoch: standing.epoch,
        expect_version: standing.version,
        in_sync,
    };
    let proposed = node.propose(change, "node".to_owned(), "replication".to_owned());
    // Whatever became of it shows in the next view; until then the joining go on counting as members.
    match timeout(PROPOSAL, proposed).await {
        Ok(Ok(outcome)) => tracing::info!(?outcome, nodes = ?names, "members in sync"),
        Ok(Err(error)) => tracing::warn!(%error, nodes = ?names, "the members in sync were not changed"),
        Err(_) => tracing::warn!(nodes = ?names, "nobody answered whether the members in sync changed"),
    }
}
