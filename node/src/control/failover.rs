//! Who serves a group that nobody serves. Acts while this node leads.

use std::collections::BTreeSet;
use std::time::Duration;

use keyward_cluster::{Change, FailoverReason, Member, ShardGroup, State};

use super::core::SharedCore;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Runs for as long as the node does.
pub(crate) async fn watch(core: &SharedCore) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let view = core.views.current();
        if view.leader.is_none() || view.leader != view.node || !view.ready {
            continue;
        }
        for group in view.state.groups().values() {
            let Some(primary) = opener(&view.state, group) else { continue };
            let change = Change::SetPrimary {
                group: group.id,
                primary,
                in_sync: BTreeSet::from([primary]),
                expect_epoch: group.epoch,
                reason: FailoverReason::ColdStart,
            };
            if let Err(error) = core.write(core.own_change(change)).await {
                tracing::warn!(?error, "the cold start is not committed yet");
            }
        }
    }
}

/// Who opens a group whose every copy was lost: the node that served it last, or the oldest.
fn opener(state: &State, group: &ShardGroup) -> Option<Member> {
    if group.primary.is_some() || !group.in_sync.is_empty() {
        return None;
    }
    let last = group.last_failover.and_then(|failover| state.nodes().get(&failover.to.node));
    last.or_else(|| state.nodes().values().next()).map(keyward_cluster::NodeInfo::member)
}
