//! What replicas have confirmed, and who waits for it. It knows no link and no command.
//!
//! A position is *confirmed* when every member in sync has carried out everything before it; and an answer counts only while
//! every one of them still promises to support no other primary. That promise runs from the moment the frame was sent which
//! the replica answered, so the primary's idea of it ends first.

use super::marks::Marks;
use super::{DRIFT, PROMISE, ReplicaState};
use crate::view::{Surety, View};
use keyward_cluster::{Epoch, Member, NodeId};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout_at};

/// Between two looks at whether replicas still promise, for somebody who waits.
const LOOK: Duration = Duration::from_millis(20);

/// Why an answer must not be given as it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotConfirmed {
    /// Not in time.
    Late,
    /// Another node is, or is about to be, primary.
    Deposed,
}

impl fmt::Display for NotConfirmed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NotConfirmed::Late => "the replicas in sync did not confirm it in time",
            NotConfirmed::Deposed => "the node that serves the data changed before the replicas in sync confirmed it",
        })
    }
}

/// What is confirmed.
#[derive(Default)]
pub struct Acks {
    /// Everything before it is confirmed.
    confirmed: AtomicU64,
    /// Everything before it is at all members in sync, however few they are.
    in_all: AtomicU64,
    /// Until then, by the clock of this process, the members in sync support nobody else.
    promised_until_ms: AtomicU64,
    few: AtomicBool,
    /// The reign those are of.
    reign: AtomicU64,
    held: Mutex<Held>,
    progress: Notify,
    /// A replica's link began.
    came: Notify,
}

#[derive(Default)]
struct Held {
    /// While this node is primary.
    epoch: Option<Epoch>,
    /// A reign that is being handed over, and where its stream ends: all of that is confirmed, and nothing is run any more
    /// that is not told so.
    handed_over: Option<(Epoch, u64)>,
    me: Option<Member>,
    in_sync: BTreeSet<Member>,
    version: u64,
    /// Members that are about to be in sync: they count as if they were.
    joining: BTreeSet<Member>,
    replicas: BTreeMap<NodeId, Replica>,
    /// What those had whose link ended in this reign.
    gone: BTreeMap<NodeId, u64>,
    /// Where the stream of this reign ended when.
    marks: Marks,
    waiting: BTreeMap<(u64, u64), oneshot::Sender<()>>,
    next: u64,
}

/// One replica.
#[derive(Clone, Copy, Debug)]
pub(super) struct Replica {
    pub(super) member: Member,
    pub(super) position: u64,
    /// When what it answered last was sent.
    pub(super) seen_ms: u64,
    /// It gets the stream.
    pub(super) streams: bool,
    /// Which of its links this is.
    link: u64,
}

/// How things stand for who decides on the members in sync.
pub(super) struct Standing {
    pub(super) epoch: Epoch,
    pub(super) me: Member,
    pub(super) in_sync: BTreeSet<Member>,
    pub(super) version: u64,
    pub(super) replicas: Vec<Replica>,
}

impl Acks {
    /// This node is primary, as of `view`.
    pub(super) fn reign(&self, view: &View) {
        let (Some(group), Some(me)) = (&view.group, view.member()) else { return };
        let mut held = self.held.lock();
        if held.epoch != Some(group.epoch) {
            held.joining.clear();
            held.replicas.clear();
            held.gone.clear();
            held.marks.clear();
            self.confirmed.store(0, Ordering::Release);
            self.in_all.store(0, Ordering::Release);
            self.reign.store(group.epoch.0, Ordering::Release);
        }
        held.epoch = Some(group.epoch);
        held.me = Some(me);
        held.in_sync = group.in_sync.clone();
        if held.version != group.in_sync_version {
            held.joining.clear();
        }
        held.version = group.in_sync_version;
        self.few.store(view.few_in_sync, Ordering::Release);
        self.settle(&mut held);
    }

    /// This node is primary no longer.
    pub(super) fn abdicate(&self) {
        let mut held = self.held.lock();
        if held.epoch.is_none() && held.waiting.is_empty() {
            return;
        }
        held.epoch = None;
        held.waiting.clear();
        held.replicas.clear();
        self.confirmed.store(0, Ordering::Release);
        self.promised_until_ms.store(0, Ordering::Release);
        drop(held);
        self.progress.notify_waiters();
    }

    /// Everything up to `end` is confirmed in this reign, and until it ends or [`Acks::go_on`] is called nothing else is run.
    pub(super) fn hand_over(&self, reign: Epoch, end: u64) {
        self.held.lock().handed_over = Some((reign, end));
    }

    /// The reign goes on.
    pub(super) fn go_on(&self) {
        self.held.lock().handed_over = None;
    }

    /// An epoch is about to begin: as primary of an older one this node confirms nothing any more.
    pub(super) fn seal(&self, epoch: Epoch) {
        let reigns = self.held.lock().epoch;
        if reigns.is_some_and(|reigns| reigns < epoch) {
            self.abdicate();
        }
    }

    /// A replica's link begins; its number. `None`: this node is not primary in `epoch`.
    pub(super) fn enter(&self, epoch: Epoch, member: Member, position: u64, streams: bool) -> Option<u64> {
        let mut held = self.held.lock();
        if held.epoch != Some(epoch) {
            return None;
        }
        held.next += 1;
        let link = held.next;
        held.gone.remove(&member.node);
        // It has answered nothing yet on this link; what it had before still counts where it goes on from there.
        held.replicas.insert(member.node, Replica { member, position, seen_ms: 0, streams, link });
        self.came.notify_one();
        Some(link)
    }

    /// Ends when a replica's link begins, or began since this was last asked.
    pub(super) async fn came(&self) {
        self.came.notified().await;
    }

    /// A replica's link ended.
    pub(super) fn leave(&self, node: NodeId, link: u64) {
        let mut held = self.held.lock();
        let Some(replica) = held.replicas.get(&node).filter(|replica| replica.link == link).copied() else { return };
        held.replicas.remove(&node);
        // What it was copying when it left is nothing.
        if replica.streams {
            held.gone.insert(node, replica.position);
        }
    }

    /// The copy of a replica is complete.
    pub(super) fn streams(&self, node: NodeId, link: u64) {
        let mut held = self.held.lock();
        if let Some(replica) = held.replicas.get_mut(&node).filter(|replica| replica.link == link) {
            replica.streams = true;
        }
    }

    /// A replica says what it has. `false`: nobody wants to know.
    pub(super) fn acked(&self, node: NodeId, link: u64, position: u64, seen_ms: u64, now_ms: u64) -> bool {
        let mut held = self.held.lock();
        let Some(replica) = held.replicas.get_mut(&node).filter(|replica| replica.link == link) else { return false };
        replica.position = replica.position.max(position);
        replica.seen_ms = replica.seen_ms.max(seen_ms.min(now_ms));
        self.settle(&mut held);
        true
    }

    /// Before it is proposed that these be in sync: nothing is confirmed from now on that they have not.
    pub(super) fn join(&self, members: &BTreeSet<Member>) {
        let mut held = self.held.lock();
        held.joining = members.clone();
        self.settle(&mut held);
        // Whoever finds the old value has written before the caller looks where the log ends.
        fence(Ordering::SeqCst);
    }

    /// A bug to plant: from now on only these count, whatever was agreed on.
    #[cfg(simulated)]
    pub(super) fn forget_others(&self, members: &BTreeSet<Member>) {
        let mut held = self.held.lock();
        held.in_sync.retain(|member| members.contains(member));
        self.settle(&mut held);
    }

    pub(super) fn standing(&self) -> Option<Standing> {
        let held = self.held.lock();
        Some(Standing {
            epoch: held.epoch?,
            me: held.me?,
            in_sync: held.in_sync.clone(),
            version: held.version,
            replicas: held.replicas.values().copied().collect(),
        })
    }

    pub(super) fn replicas(&self, now_ms: u64) -> Vec<ReplicaState> {
        let held = self.held.lock();
        let state = |replica: &Replica| ReplicaState {
            node: replica.member.node,
            position: replica.position,
            silent_ms: now_ms.saturating_sub(replica.seen_ms),
            streams: replica.streams,
            in_sync: held.in_sync.contains(&replica.member),
        };
        held.replicas.values().map(state).collect()
    }

    /// The stream of this node ends here now; before anything of that is sent.
    pub(super) fn note_end(&self, end: u64, now_ms: u64) {
        self.held.lock().marks.note(end, now_ms);
    }

    /// How old the oldest write is that a node lacks, in milliseconds: of those that follow or did so in this reign.
    pub(super) fn lags(&self, now_ms: u64) -> Vec<(NodeId, u64)> {
        let held = self.held.lock();
        let here = held.replicas.values().filter(|replica| replica.streams);
        let here = here.map(|replica| (replica.member.node, replica.position));
        let gone = held.gone.iter().map(|(node, position)| (*node, *position));
        here.chain(gone).map(|(node, position)| (node, held.marks.age_ms(position, now_ms))).collect()
    }

    pub(super) fn count(&self, position: u64) -> usize {
        let held = self.held.lock();
        held.replicas.values().filter(|replica| replica.streams && replica.position >= position).count()
    }

    pub(super) async fn wait_for(&self, count: usize, position: u64, limit: Option<Duration>) -> usize {
        let deadline = limit.map(|limit| Instant::now() + limit);
        loop {
            let progress = self.progress.notified();
            let have = self.count(position);
            if have >= count || self.held.lock().epoch.is_none() {
                return have;
            }
            match deadline {
                None => progress.await,
                Some(deadline) => {
                    if timeout_at(deadline, progress).await.is_err() {
                        return self.count(position);
                    }
                }
            }
        }
    }

    #[inline]
    pub(super) fn is_confirmed(&self, surety: Surety, position: u64, now_ms: impl Fn() -> u64) -> bool {
        fence(Ordering::SeqCst);
        let Surety { reign, few } = surety;
        let reached = if few { &self.in_all } else { &self.confirmed };
        reached.load(Ordering::Acquire) >= position
            && now_ms() < self.promised_until_ms.load(Ordering::Acquire)
            // Last: positions of another reign are of another stream.
            && self.reign.load(Ordering::Acquire) == reign.0
    }

    pub(super) async fn confirmed(
        &self,
        surety: Surety,
        position: u64,
        limit: Duration,
        now_ms: impl Fn() -> u64,
    ) -> Result<(), NotConfirmed> {
        let (deadline, reign) = (Instant::now() + limit, surety.reign);
        loop {
            if self.is_confirmed(surety, position, &now_ms) {
                return Ok(());
            }
            let waiting = {
                let mut held = self.held.lock();
                if held.handed_over.is_some_and(|(of, end)| of == reign && position <= end) {
                    return Ok(());
                }
                if held.epoch != Some(reign) {
                    return Err(NotConfirmed::Deposed);
                }
                if !surety.few && self.confirmed.load(Ordering::Acquire) < position {
                    let (sender, receiver) = oneshot::channel();
                    held.next += 1;
                    let number = held.next;
                    held.waiting.insert((position, number), sender);
                    Some((Waits { acks: self, key: (position, number) }, receiver))
                } else {
                    None
                }
            };
            match waiting {
                // Only the promise has run out, or too few are in sync: replicas answer something all the time.
                None if Instant::now() >= deadline => return Err(NotConfirmed::Late),
                None => tokio::time::sleep(LOOK).await,
                Some((_waits, receiver)) => match timeout_at(deadline, receiver).await {
                    Ok(Ok(())) => {}
                    // Why it was told nothing is seen above.
                    Ok(Err(_)) => {}
                    Err(_) => return Err(NotConfirmed::Late),
                },
            }
        }
    }

    /// Works out anew what is confirmed.
    fn settle(&self, held: &mut Held) {
        let Some(me) = held.me.filter(|_| held.epoch.is_some()) else { return };
        let others = held.in_sync.union(&held.joining).filter(|member| **member != me);
        let (mut confirmed, mut promised) = (u64::MAX, u64::MAX);
        for member in others {
            let replica = held.replicas.get(&member.node).filter(|replica| replica.member == *member);
            let (position, seen_ms) = replica.map_or((0, 0), |replica| (replica.position, replica.seen_ms));
            confirmed = confirmed.min(position);
            let until = seen_ms + (PROMISE - DRIFT).as_millis() as u64;
            // Also of one that is about to be in sync: it may be already, and even be primary, before this node hears of it.
            promised = promised.min(if seen_ms == 0 { 0 } else { until });
        }
        self.in_all.store(confirmed, Ordering::Release);
        if self.few.load(Ordering::Acquire) {
            // With fewer copies than were asked for nothing more is confirmed, not even what waited when the set shrank.
            confirmed = confirmed.min(self.confirmed.load(Ordering::Acquire));
        }
        self.promised_until_ms.store(promised, Ordering::Release);
        // It may go back when somebody joins: what was confirmed before was answered before.
        self.confirmed.store(confirmed, Ordering::Release);
        while let Some(first) = held.waiting.first_entry().filter(|first| first.key().0 <= confirmed) {
            // Whoever waited may have left.
            let _ = first.remove().send(());
        }
        self.progress.notify_waiters();
    }
}

/// Takes a waiting client off the list however its wait ends.
struct Waits<'a> {
    acks: &'a Acks,
    key: (u64, u64),
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.acks.held.lock().waiting.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keyward_cluster::Incarnation;

    const FIFTH: Surety = Surety { reign: Epoch(5), few: false };

    fn member(node: u64) -> Member {
        Member { node: NodeId(node), incarnation: Incarnation(node) }
    }

    /// Primary 1 with 2 and 3 in sync, nobody linked yet.
    fn reigning() -> Acks {
        let acks = Acks::default();
        {
            let mut held = acks.held.lock();
            held.epoch = Some(Epoch(5));
            acks.reign.store(5, Ordering::Release);
            held.me = Some(member(1));
            held.in_sync = [1, 2, 3].map(member).into();
            acks.settle(&mut held);
        }
        acks
    }

    fn follow(acks: &Acks, node: u64) -> u64 {
        acks.enter(Epoch(5), member(node), 0, true).expect("it is primary in that epoch")
    }

    #[test]
    fn what_one_member_in_sync_lacks_is_not_confirmed() {
        let acks = reigning();
        let (two, three) = (follow(&acks, 2), follow(&acks, 3));
        assert!(acks.acked(NodeId(2), two, 100, 1000, 1000));
        assert!(!acks.is_confirmed(FIFTH, 1, || 1000));
        assert!(acks.acked(NodeId(3), three, 60, 1000, 1000));
        assert!(acks.is_confirmed(FIFTH, 60, || 1000) && !acks.is_confirmed(FIFTH, 61, || 1000));
        assert_eq!(acks.count(60), 2);
        assert_eq!(acks.count(100), 1);
    }

    #[test]
    fn nothing_is_confirmed_once_a_promise_may_be_over() {
        let acks = reigning();
        let (two, three) = (follow(&acks, 2), follow(&acks, 3));
        // The promise runs from when the frame was sent, not from when its answer came.
        acks.acked(NodeId(2), two, 100, 1000, 1600);
        acks.acked(NodeId(3), three, 100, 1500, 1600);
        let until = 1000 + (PROMISE - DRIFT).as_millis() as u64;
        assert!(acks.is_confirmed(FIFTH, 100, || until - 1));
        assert!(!acks.is_confirmed(FIFTH, 100, || until));
    }

    #[test]
    fn a_sealed_primary_confirms_nothing() {
        let acks = reigning();
        let (two, three) = (follow(&acks, 2), follow(&acks, 3));
        acks.acked(NodeId(2), two, 100, 1000, 1000);
        acks.acked(NodeId(3), three, 100, 1000, 1000);
        acks.seal(Epoch(5));
        assert!(acks.is_confirmed(FIFTH, 100, || 1000), "its own epoch changes nothing");
        acks.seal(Epoch(6));
        assert!(!acks.is_confirmed(FIFTH, 1, || 1000));
        assert!(!acks.acked(NodeId(2), two, 200, 1001, 1001));
        assert_eq!(acks.enter(Epoch(5), member(2), 0, true), None);
    }

    #[test]
    fn with_too_few_in_sync_nothing_more_is_confirmed() {
        let acks = reigning();
        let (two, three) = (follow(&acks, 2), follow(&acks, 3));
        acks.acked(NodeId(2), two, 100, 1000, 1000);
        acks.acked(NodeId(3), three, 100, 1000, 1000);
        {
            let mut held = acks.held.lock();
            held.in_sync = [member(1)].into();
            acks.few.store(true, Ordering::Release);
            acks.settle(&mut held);
        }
        assert!(acks.is_confirmed(FIFTH, 100, || 1000), "what was, is");
        assert!(!acks.is_confirmed(FIFTH, 101, || 1000), "the last copy alone confirms nothing");
        let few = Surety { few: true, ..FIFTH };
        assert!(acks.is_confirmed(few, 101, || 1000), "and tells what all that are in sync have");
        assert!(!acks.is_confirmed(Surety::of_write(Epoch(4)), 100, || 1000), "another reign is another stream");
    }

    #[test]
    fn who_is_about_to_join_counts_already_and_another_life_does_not() {
        let acks = reigning();
        let (two, three) = (follow(&acks, 2), follow(&acks, 3));
        acks.acked(NodeId(2), two, 100, 1000, 1000);
        acks.acked(NodeId(3), three, 100, 1000, 1000);
        let four = follow(&acks, 4);
        acks.join(&[member(4)].into());
        assert!(!acks.is_confirmed(FIFTH, 1, || 1000));
        acks.acked(NodeId(4), four, 80, 1000, 1000);
        assert!(acks.is_confirmed(FIFTH, 80, || 1000) && !acks.is_confirmed(FIFTH, 81, || 1000));
        // It may be in sync, and primary, before anybody says so here: without its promise nothing is confirmed.
        acks.acked(NodeId(2), two, 100, 1900, 1900);
        acks.acked(NodeId(3), three, 100, 1900, 1900);
        assert!(!acks.is_confirmed(FIFTH, 80, || 1900));
        acks.acked(NodeId(4), four, 80, 1900, 1900);
        assert!(acks.is_confirmed(FIFTH, 80, || 1900));
        acks.join(&BTreeSet::new());
        assert!(acks.is_confirmed(FIFTH, 100, || 1000));
        // Node 2 restarted: what its new process has does not make the old one confirm anything.
        let again = Member { node: NodeId(2), incarnation: Incarnation(9) };
        let link = acks.enter(Epoch(5), again, 0, true).unwrap();
        acks.acked(NodeId(2), link, 500, 1000, 1000);
        assert!(!acks.is_confirmed(FIFTH, 1, || 1000));
        assert!(!acks.acked(NodeId(2), two, 500, 1000, 1000), "the old link is over");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_hears_of_success_lateness_and_the_end_of_the_reign() {
        let acks = std::sync::Arc::new(reigning());
        let (two, three) = (follow(&acks, 2), follow(&acks, 3));
        let wait = |position| {
            let acks = std::sync::Arc::clone(&acks);
            tokio::spawn(async move { acks.confirmed(FIFTH, position, Duration::from_secs(1), || 1000).await })
        };
        let (soon, late) = (wait(10), wait(99));
        tokio::task::yield_now().await;
        acks.acked(NodeId(2), two, 10, 1000, 1000);
        acks.acked(NodeId(3), three, 10, 1000, 1000);
        assert_eq!(soon.await.unwrap(), Ok(()));
        assert_eq!(late.await.unwrap(), Err(NotConfirmed::Late));
        let deposed = wait(50);
        tokio::task::yield_now().await;
        acks.abdicate();
        assert_eq!(deposed.await.unwrap(), Err(NotConfirmed::Deposed));
        assert!(acks.held.lock().waiting.is_empty());
    }
}
