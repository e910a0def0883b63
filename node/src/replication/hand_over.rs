//! The primary moves on purpose: nobody gets an error, and nothing is lost.
//!
//! ```text
//!   writes wait ─► batches under way end ─► the next primary has everything ─► Raft: it is primary ─► writes go on, there
//! ```
//! If a step before Raft takes too long, writes go on here as if nothing had been asked. Once it was proposed they wait until it
//! is certain who serves: an answer that got lost says nothing, and what is written here after the next one was named is gone.

use super::Role;
use crate::node::Node;
use crate::view::Surety;
use keyward_cluster::{Change, Epoch, FailoverReason, Member, Outcome, Refusal, ShardGroup};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// How long Raft may take to decide.
const DECISION: Duration = Duration::from_secs(3);

/// When nobody answers whether it was agreed on, that is asked again for so long.
const SETTLE_MAX: Duration = Duration::from_secs(10);

/// One such question.
const SETTLE_TRY: Duration = Duration::from_secs(2);

/// How long the next primary may take to have everything, once nothing more is written.
const CATCH_UP: Duration = Duration::from_secs(1);

/// How long the others in sync may take to have everything as well.
const CONFIRMED: Duration = Duration::from_millis(300);

/// Before writes wait, the next primary must nearly have everything, within this time.
const APPROACH: Duration = Duration::from_secs(10);

/// How far behind is nearly everything, in bytes.
const NEAR_BYTES: u64 = 1 << 20;

/// Makes `target` primary in place of this node. It goes on when whoever asked goes away: half a hand-over would lose writes.
pub async fn hand_over(node: &Arc<Node>, target: Member) -> Result<(), String> {
    let node = Arc::clone(node);
    let whole = tokio::spawn(async move {
        let turn = node.replication.hand_over.try_lock();
        let _turn = turn.map_err(|_| "the data is being handed over already".to_owned())?;
        move_to(&node, target).await
    });
    whole.await.map_err(|error| error.to_string())?
}

async fn move_to(node: &Arc<Node>, target: Member) -> Result<(), String> {
    let Role::Primary(epoch) = Role::of(&node.views.load().1) else {
        return Err("this node is not primary".to_owned());
    };
    let group = node.views.load().1.group.clone().ok_or("there is no data")?;
    if !group.in_sync.contains(&target) {
        return Err(format!("node {} is not in sync", target.node));
    }
    let replication = &node.replication;
    let position = |member: Member| {
        replication.replicas().iter().find(|replica| replica.node == member.node).map_or(0, |replica| replica.position)
    };
    let near = async {
        while replication.log.position().saturating_sub(position(target)) > NEAR_BYTES {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(APPROACH, near).await.map_err(|_| format!("node {} does not catch up", target.node))?;

    // However this ends, so does the hold.
    let _held = node.pause.hold_writes();
    {
        // Whoever was let in before the pause has left when it closes.
        let closing = Arc::clone(node);
        let closed = crate::world::aside(move || drop(closing.corridor.close()));
        closed.await.map_err(|error| error.to_string())?;
    }
    let end = replication.log.position();
    replication.log.tell();
    let complete = async {
        while position(target) < end {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(CATCH_UP, complete).await.map_err(|_| format!("node {} does not catch up", target.node))?;
    // Who waits to hear that its write is everywhere hears it, though the reign ends meanwhile. If one is too slow for
    // that, it does not keep the data here.
    if replication.confirmed(Surety::of_write(epoch), end, CONFIRMED).await.is_ok() {
        replication.acks.hand_over(epoch, end);
    }
    let moved = agree(node, target, &group, epoch).await;
    if moved.is_err() {
        replication.acks.go_on();
    }
    moved
}

/// Has it agreed on that `target` is primary from now on.
async fn agree(node: &Arc<Node>, target: Member, group: &ShardGroup, epoch: Epoch) -> Result<(), String> {
    let change = Change::SetPrimary {
        group: node.group,
        primary: target,
        in_sync: group.in_sync.clone(),
        expect_epoch: epoch,
        reason: FailoverReason::Planned,
    };
    let proposed = node.propose(change, "node".to_owned(), "hand-over".to_owned());
    match timeout(DECISION, proposed).await {
        Ok(Ok(Outcome::Done)) => settle(node, epoch, true).await,
        Ok(Ok(outcome)) => Err(format!("it was not agreed on: {outcome:?}")),
        Ok(Err(_)) | Err(_) => settle(node, epoch, false).await,
    }
}

/// Keeps writes waiting until the next reign has begun here, whoever's it is. While that is not `certain` to come, this node
/// proposes itself: of that entry and the one nobody answered only the first counts.
async fn settle(node: &Arc<Node>, epoch: Epoch, mut certain: bool) -> Result<(), String> {
    let give_up = Instant::now() + SETTLE_MAX;
    loop {
        let view = node.views.load().1;
        let (Some(group), Some(me)) = (view.group.as_ref().filter(|_| view.reign() == Some(epoch)), view.member())
        else {
            return match view.reign() {
                None => Ok(()),
                Some(_) => Err("it was not agreed on in time; the data stays where it is".to_owned()),
            };
        };
        if Instant::now() >= give_up {
            return Err("nobody answered whether it was agreed on".to_owned());
        }
        if certain {
            sleep(Duration::from_millis(1)).await;
            continue;
        }
        let stay = Change::SetPrimary {
            group: node.group,
            primary: me,
            in_sync: group.in_sync.clone(),
            expect_epoch: epoch,
            reason: FailoverReason::Planned,
        };
        match timeout(SETTLE_TRY, node.propose(stay, "node".to_owned(), "hand-over".to_owned())).await {
            Ok(Ok(Outcome::Done | Outcome::Refused(Refusal::StaleEpoch(_)))) => certain = true,
            _ => sleep(Duration::from_millis(20)).await,
        }
    }
}
