//! Slots and tenants move from one shard group to another while they are used.
//!
//! ```text
//!   Begin  (Raft)   the new group's primary reads its own node's copy of the old group, key by key, and writes what moves
//!                   into its group (`copy.rs`); then, from the old group's stream, what was written meanwhile, again and again
//!   hold            the old group's primary answers nothing about these keys any more (`bar.rs`), and says where its stream ends
//!                   ─► the copy here is as far ─► the last keys ─► every member of the new group in sync has them
//!   Switch (Raft)   one entry: they belong to the new group; whoever waited asks there
//!   then            the old group's primary removes what it still has (`clear.rs`) ─► End (Raft)
//! ```
//! Keys are copied as whole values, as often as they change: a copy too many changes nothing, so no write can be missing or
//! there twice once the last ones were copied. The old primary stopped before `Switch` was proposed, and goes on only when it
//! has applied what was decided; with another primary of either group the copying begins anew by the same entry that names it. Until `Switch`
//! nobody finds the copies: requests for their keys are led to the old group, and requests about all keys leave them out
//! ([`crate::routes::Routes::reach`]).
//!
//! Two things run: [`drive`], on a thread of its own, does what this node has to do as primary; [`release`] lets go of keys
//! that were held, as soon as it may.

mod bar;
mod clear;
mod copy;

pub use bar::Bar;

use crate::node::Node;
use crate::observers::Waiter;
use crate::routes::Moving;
use crate::view::{Surety, View};
use crate::worker::Worker;
use copy::Copier;
use futures_util::future::join_all;
use keyward_cluster::{Change, Epoch, GroupId, MoveChange, MovePhase, Outcome};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// Between two looks at what cannot be waited for.
const LOOK: Duration = Duration::from_millis(2);

/// Before another try of what did not succeed.
const RETRY: Duration = Duration::from_millis(100);

/// How long the new group's primary waits for a copy of the old group on its node.
const COPY_WAIT: Duration = Duration::from_secs(10);

/// The copying is given up when it has not caught up for so long after everything was copied once.
const CATCH_UP: Duration = Duration::from_secs(60);

/// Less than so much of the old group's stream, in bytes, is left when its primary is asked to hold the keys.
const NEAR_BYTES: u64 = 64 << 10;

/// How long the copy here may take to be where the old primary stopped.
const LAST_BYTES: Duration = Duration::from_secs(1);

/// How long the members in sync may take to have the last keys.
const CONFIRMED: Duration = Duration::from_secs(1);

/// How long the members in sync may take to have it all on their disks.
const SAVED: Duration = Duration::from_secs(600);

/// Between two looks at that.
const SAVED_LOOK: Duration = Duration::from_millis(50);

/// Before a further try, for each that there was.
const TRY_PAUSE: Duration = Duration::from_millis(300);

/// How long Raft may take to decide.
const DECISION: Duration = Duration::from_secs(3);

/// Keys that are held for so long without a decision are asked for back.
const HELD_MAX: Duration = Duration::from_secs(4);

/// Starts what this node does about moves. It ends with the process.
pub fn start(node: &Arc<Node>) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let driven = Arc::clone(node);
    let work = move || runtime.block_on(drive(driven));
    std::thread::Builder::new().name("keyward-moves".to_owned()).spawn(work)?;
    node.groups().iter().for_each(|of| drop(tokio::spawn(release(Arc::clone(of)))));
    Ok(())
}

fn moving(view: &View) -> Option<&Arc<Moving>> {
    view.routes.as_ref().and_then(|routes| routes.moving())
}

/// Whether the move is where it was, and this node is primary of `group`.
fn is_still(node: &Node, group: GroupId, of: &Moving) -> bool {
    let Some(here) = node.of(group) else { return false };
    let (_, view) = here.views.load();
    view.is_primary() && moving(&view).is_some_and(|known| known.index == of.index && known.phase == of.phase)
}

/// Does what is to be done here, one thing after the other.
async fn drive(node: Arc<Node>) {
    let mut views = node.control.views();
    loop {
        views.borrow_and_update();
        let known = moving(&node.views.load().1).cloned();
        let done = match &known {
            Some(known) if known.phase == MovePhase::Copying && is_still(&node, known.to, known) => {
                move_here(&node, known).await;
                true
            }
            Some(known) => match known.phase {
                MovePhase::Dropping(group) if is_still(&node, group, known) => clear_up(&node, group, known).await,
                _ => false,
            },
            None => false,
        };
        if done {
            sleep(LOOK).await;
        } else if views.changed().await.is_err() {
            return;
        }
    }
}

/// Brings the keys here, or ends the move.
async fn move_here(node: &Arc<Node>, known: &Arc<Moving>) {
    tracing::info!(index = known.index, from = known.from.0, to = known.to.0, "keys are moved here");
    let Err(why) = bring(node, known).await else { return };
    while is_still(node, known.to, known) {
        tracing::warn!(index = known.index, %why, "keys are not moved");
        if propose(node, MoveChange::Abort { index: known.index, why: why.clone() }).await.is_err() {
            sleep(RETRY).await;
        }
    }
}

async fn propose(node: &Arc<Node>, change: MoveChange) -> Result<Outcome, String> {
    let proposed = node.propose(Change::Move(change), "node".to_owned(), "move".to_owned());
    timeout(DECISION, proposed).await.map_err(|_| "nobody answered whether it was agreed on".to_owned())?
}

async fn bring(node: &Arc<Node>, known: &Arc<Moving>) -> Result<(), String> {
    let (Some(from), Some(to)) = (node.of(known.from), node.of(known.to)) else {
        return Err("a shard group is not there".to_owned());
    };
    let still = || is_still(node, known.to, known);
    let has_copy = || {
        let (_, view) = from.views.load();
        (view.is_primary() || view.is_in_sync()) && from.replication.has_data()
    };
    sleep(TRY_PAUSE * known.tries).await;
    let waiting = Instant::now();
    while !has_copy() {
        if waiting.elapsed() > COPY_WAIT || !still() {
            let me = node.id();
            return Err(format!(
                "node {me}, which serves group {}, has no copy of group {} in sync",
                known.to.0, known.from.0
            ));
        }
        sleep(RETRY).await;
    }
    let mut copier = Copier::new(from, to, known);
    copier.copy_all(&still)?;
    let (mut again, mut copied, mut saving) = (copier.again(), Instant::now(), Saving::of(to));
    loop {
        copier.follow(&still)?;
        if copier.again() != again {
            // What a snapshot has of these keys was removed, and copied once more.
            (again, copied, saving) = (copier.again(), Instant::now(), Saving::of(to));
        }
        if !saving.is_done(node).await? {
            sleep(SAVED_LOOK).await;
            continue;
        }
        if copier.behind() < NEAR_BYTES && from.replication.lag().1 < NEAR_BYTES {
            break;
        }
        if copied.elapsed() > CATCH_UP + saving.took {
            return Err("these keys are written faster than they are copied".to_owned());
        }
        sleep(LOOK).await;
    }
    to.replication.log.tell();
    let reign = to.views.load().1.reign().ok_or("this node is primary no longer")?;
    // What was copied before is everywhere before anybody has to wait.
    let confirmed = to.replication.confirmed(Surety::of_write(reign), to.replication.log.position(), CATCH_UP);
    confirmed.await.map_err(|error| error.to_string())?;
    copier.follow(&still)?;
    is_saved_still(again, copier.again())?;

    let began = Instant::now();
    let primary = from.views.load().1.primary.ok_or("nobody serves the old group")?;
    let end = node.control.hold_keys(primary, known.from, known.index).await?;
    while copier.position() < end {
        copier.follow(&still)?;
        if began.elapsed() > LAST_BYTES + CONFIRMED {
            return Err("the copy here is too far behind".to_owned());
        }
        tokio::task::yield_now().await;
        if copier.position() < end {
            timeout(LOOK, from.replication.log.beyond(copier.position())).await.ok();
        }
    }
    is_saved_still(again, copier.again())?;
    to.replication.log.tell();
    let confirmed = to.replication.confirmed(Surety::of_write(reign), to.replication.log.position(), CONFIRMED);
    confirmed.await.map_err(|error| error.to_string())?;
    let outcome = propose(node, MoveChange::Switch { index: known.index }).await?;
    if outcome != Outcome::Done {
        return Err(format!("it was not agreed on: {outcome:?}"));
    }
    let held_ms = began.elapsed().as_millis() as u64;
    tracing::info!(index = known.index, keys = copier.copied(), held_ms, "keys were moved here");
    Ok(())
}

/// Whether what the snapshots have of the keys is what was copied.
fn is_saved_still(saved: u32, copied: u32) -> Result<(), String> {
    if copied == saved { Ok(()) } else { Err("everything was copied once more, and is in no snapshot yet".to_owned()) }
}

/// What a group has now gets to the disks of its members in sync.
struct Saving<'a> {
    of: &'a Arc<Node>,
    effect: (Epoch, u64),
    began: Instant,
    took: Duration,
    done: bool,
}

impl<'a> Saving<'a> {
    fn of(of: &'a Arc<Node>) -> Saving<'a> {
        let log = &of.replication.log;
        let effect = (log.epoch(), log.position());
        Saving { of, effect, began: Instant::now(), took: Duration::ZERO, done: false }
    }

    /// Whether it is there. The members are asked, and begin to write if it is not.
    async fn is_done(&mut self, node: &Arc<Node>) -> Result<bool, String> {
        if self.done {
            return Ok(true);
        }
        self.took = self.began.elapsed();
        if self.took > SAVED {
            return Err("the snapshots that a move needs are not written".to_owned());
        }
        let members = self.of.views.load().1.group.clone().map(|group| group.in_sync.clone()).unwrap_or_default();
        let asked = members.iter().map(|member| node.control.save_group(member.node, self.of.group, self.effect));
        let saved = join_all(asked).await;
        self.done = !saved.is_empty() && saved.into_iter().all(|saved| saved == Ok(true));
        Ok(self.done)
    }
}

/// Removes what does not belong to the group any more. False: not yet.
async fn clear_up(node: &Arc<Node>, group: GroupId, known: &Arc<Moving>) -> bool {
    let Some(of) = node.of(group) else { return false };
    let still = || is_still(node, group, known);
    clear::clear(of, known, &still);
    of.replication.log.tell();
    let Some(reign) = of.views.load().1.reign().filter(|_| still()) else { return true };
    if of.replication.confirmed(Surety::of_write(reign), of.replication.log.position(), CATCH_UP).await.is_err() {
        return true;
    }
    let mut saving = Saving::of(of);
    while !saving.is_done(node).await.unwrap_or(false) {
        if !still() || saving.took > SAVED {
            return true;
        }
        sleep(SAVED_LOOK).await;
    }
    if propose(node, MoveChange::End { index: known.index }).await.is_err() {
        sleep(RETRY).await;
    }
    true
}

/// Answers nothing about the keys of a move from now on, as the old group's primary; where its stream ends.
pub async fn hold(of: &Arc<Node>, index: u64) -> Result<u64, String> {
    let (_, view) = of.views.load();
    let known = moving(&view).filter(|known| known.index == index && known.from == of.group).cloned();
    let known = known.filter(|known| known.phase == MovePhase::Copying).ok_or("this node knows of no such move")?;
    if !view.is_primary() {
        return Err("this node does not serve the group".to_owned());
    }
    of.bar.hold(&known);
    let (held, reign) = (Arc::clone(of), view.reign());
    let closing = move || {
        // Whoever was let in before has left when it closes.
        let _closed = held.corridor.close();
        let (_, view) = held.views.load();
        let undecided = moving(&view).is_some_and(|now| now.index == index && now.phase == MovePhase::Copying);
        if !undecided || view.reign() != reign || !held.bar.holds(index) {
            held.bar.release(index);
            return Err("it was decided meanwhile".to_owned());
        }
        // Nobody looks after watched keys while they move.
        for index in 0..held.shards.count() {
            held.shards.with_observers(index, |_, observers| {
                for (space, key) in observers.keys_in(|_| true) {
                    if known.concerns(space.tenant, &key) {
                        observers.touched(space, &key, true);
                    }
                }
            });
        }
        Ok(held.replication.log.position())
    };
    let end = tokio::task::spawn_blocking(closing).await.map_err(|error| error.to_string())?;
    of.replication.log.tell();
    end
}

/// Lets go of keys that were held once it is decided whose they are, and asks for them back when nobody decides.
async fn release(of: Arc<Node>) {
    let mut views = of.control.views();
    loop {
        views.borrow_and_update();
        if let Some((index, since)) = of.bar.held() {
            let (_, view) = of.views.load();
            let undecided =
                moving(&view).is_some_and(|known| known.index == index && known.phase == MovePhase::Copying);
            let stayed = view.state.last_move().is_some_and(|last| last.index == index && last.failed.is_some());
            if !undecided && stayed {
                // They are where they were: whatever is under way is right about them.
                of.bar.release(index);
            } else if !undecided {
                let opening = Arc::clone(&of);
                // A batch that began under the old view must not find them free. Nobody waits for this: who is led
                // by the new view asks the new group.
                let opened = move || {
                    let closed = opening.corridor.close();
                    opening.bar.release(index);
                    drop(closed);
                };
                if tokio::task::spawn_blocking(opened).await.is_err() {
                    return;
                }
            } else if since.elapsed() > HELD_MAX {
                let why = "the new group's primary did not go on".to_owned();
                let _ = propose(&of, MoveChange::Abort { index, why }).await;
            }
        }
        let pause = if of.bar.held().is_some() { LOOK } else { HELD_MAX };
        let _ = timeout(pause, views.changed()).await;
    }
}

/// Whether a key that a client waits for may have been moved to another shard group since then, or was held for that: who wrote it
/// meanwhile has not served the client.
pub fn has_shifted(worker: &Worker, waiter: &Waiter, releases: u64) -> bool {
    let (_, view) = worker.node.views.load();
    let Some(routes) = &view.routes else { return false };
    let tenant = waiter.session.lock().tenant;
    let group = worker.node.group;
    let (released, bar) = (worker.node.bar.releases() != releases, &worker.node.bar);
    released && bar.released(tenant, &waiter.keys) || waiter.keys.iter().any(|key| routes.of_key(tenant, key) != group)
}

/// Runs something beside clients' batches, while nobody runs alone.
fn in_lane<R>(node: &Node, step: impl FnOnce() -> R) -> R {
    // The lane is one, whoever of this module uses it.
    let _turn = node.moving.lock();
    let _in_lane = node.corridor.enter_for_any_key(node.corridor.import_lane());
    step()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_copied_once_more_is_not_what_was_saved() {
        assert_eq!(is_saved_still(0, 0), Ok(()));
        assert_eq!(is_saved_still(2, 2), Ok(()));
        assert!(is_saved_still(0, 1).is_err());
    }
}
