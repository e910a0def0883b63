//! Whoever was sealed for an epoch that never came.
//!
//! A leader seals members against a primary and then proposes the next one. If it stops leading in between, the primary serves
//! on in its epoch, and whoever was sealed takes nothing of it any more. Nobody may break a seal: the proposal might still be
//! committed. But the group can go on to the next epoch, where the seal means nothing: after a while the sealed member proposes
//! the very primary there is, with those in sync. Of that entry and the leader's own only the first counts.

use crate::node::Node;
use keyward_cluster::{Change, Epoch, FailoverReason, Outcome};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(250);

/// A failover that is under way is over within this time.
const PATIENCE: Duration = Duration::from_millis(2500);

/// A proposal that is not answered in this time is made again, if it still makes sense.
const PROPOSAL: Duration = Duration::from_secs(3);

/// Runs as long as the node lives.
pub async fn watch(node: Arc<Node>) {
    let mut since: Option<(Epoch, Instant)> = None;
    loop {
        sleep(LOOK).await;
        let Some(change) = renewal(&node) else {
            since = None;
            continue;
        };
        let sealed = Epoch(node.replication.sealed.load(Ordering::Acquire));
        let (epoch, began) = *since.get_or_insert_with(|| (sealed, Instant::now()));
        if epoch != sealed {
            since = None;
        } else if began.elapsed() >= PATIENCE {
            since = None;
            propose(&node, change).await;
        }
    }
}

/// What would make the seal meaningless, if this node is sealed against a primary that is still the primary.
fn renewal(node: &Node) -> Option<Change> {
    let view = node.views.load().1;
    let group = view.group.as_ref()?;
    let primary = group.primary?;
    let sealed = node.replication.sealed.load(Ordering::Acquire) > group.epoch.0;
    (sealed && group.in_sync.contains(&primary)).then(|| Change::SetPrimary {
        group: node.group,
        primary,
        in_sync: group.in_sync.clone(),
        expect_epoch: group.epoch,
        reason: FailoverReason::Failed,
    })
}

async fn propose(node: &Node, change: Change) {
    match timeout(PROPOSAL, node.propose(change, "node".to_owned(), "replication".to_owned())).await {
        Ok(Ok(Outcome::Done)) => tracing::info!("the primary goes on in the epoch this node was sealed for"),
        Ok(Ok(outcome)) => tracing::debug!(?outcome, "somebody else was faster"),
        Ok(Err(error)) => tracing::debug!(%error, "the epoch this node was sealed for did not begin"),
        Err(_) => tracing::debug!("nobody answered whether the epoch this node was sealed for began"),
    }
}
