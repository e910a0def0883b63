//! Who may run now: every data thread at once, or one alone; alone with everything, or with the keys of one tenant.
//!
//! ```text
//!   a batch              enter(lane) ─► runs its commands, taking shard locks as they need ─► leave
//!   EXEC, a script       close(everything) ─► waits until every lane is empty ─► runs alone ─► open
//!   those of a tenant,
//!   of a confined user   close(its keys)   ─► the same ─► runs; others enter beside it, and keep off its keys ─► open
//! ```
//! Whoever closed the corridor runs command after command, each through the ordinary way with its ordinary locks, and
//! nothing comes between: that is what makes transactions and scripts atomic, whatever keys they turn out to touch. What
//! a tenant's users run cannot touch more than its keys, so nobody else has to keep still for it: the slowest script of a tenant
//! is nothing to its neighbors. The same holds for a confined user without a tenant, and for a tenant that borrows keys, if
//! all they may touch begins with something: what they close is keys with these beginnings, and whoever names such a key waits.
//!
//! A lane is a number on a cache line of its own, so entering costs a batch two stores and a load that nobody else writes;
//! closing costs a look at every lane. (The big-reader lock of the Linux kernel's lglock and of BRAVO, Dice and Kogan 2019.)
//! The number says what the batch in it keeps off: nothing (1), or whatever was closed up to that closing (2 and more). A
//! closer waits for every lane whose number is lower than its own: those may touch its keys. One that closes from within a
//! lane takes its own number there first, so two of them never wait for each other.
//!
//! How to use it. Data threads have the lanes 0 … n-1, script threads the next, the upkeep thread, and an import or a move
//! between shard groups, the last two; a lane is entered by one thread at a time. Hold no shard lock when closing, and never enter while you hold the corridor. Work
//! that takes one shard lock at a time, and waits for nothing while it has it, enters too, unless it may run between the
//! commands of a script. This file knows no command.

use keyward_engine::keyspace::TenantId;
use keyward_engine::session::Session;
use keyward_engine::tenancy::Tenant;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Threads that run scripts and other slow work, for each group.
pub const SCRIPT_THREADS: usize = 3;

/// Between two tries of somebody who may touch any key.
const ENTER_PAUSE: Duration = Duration::from_micros(50);

/// Looks at a closed corridor before a batch gives its thread away: most transactions are over by then.
const SPINS: u32 = 200;

/// Looks at a busy lane before the closer lets other threads run.
const SPINS_CLOSING: u32 = 2000;

/// Between two looks of a closer that has waited for long: somebody runs a very long command.
const CLOSING_PAUSE: Duration = Duration::from_micros(50);

/// Between two looks of a client that waits for a part to open.
const PART_PAUSE: Duration = Duration::from_millis(2);

/// How long no part is closed any more after somebody asked for everything in vain.
const WANTED_FOR: Duration = Duration::from_millis(10);

/// A part that has been closed for longer is a slow script's: to close no other beside it would help nobody.
const LONG: Duration = Duration::from_millis(5);

/// How long whoever wants everything lets slow scripts begin beside one that runs.
const PATIENCE: Duration = Duration::from_secs(1);

/// The same for scripts of those who held it up with none lately: there is an end to that, too, since everybody could begin.
const PATIENCE_WITH_OTHERS: Duration = Duration::from_secs(30);

/// A part that was closed for so long while somebody wanted everything held that up.
const HELD_UP: Duration = Duration::from_millis(100);

/// How long that is remembered.
const HELD_UP_LATELY: Duration = Duration::from_secs(60);

/// Parts that are remembered for it: the latest.
const HELD_UP_MAX: usize = 64;

/// What a lane says that keeps off nothing.
const ENTERED: u64 = 1;

const OPEN: u8 = 0;
const PARTS: u8 = 1;
const EVERYTHING: u8 = 2;

/// A thread's sign: it runs a batch, which keeps off what was closed up to this closing.
#[derive(Default)]
#[repr(align(128))]
struct Lane(AtomicU64);

/// Shared by batches, or held by one; or parts of it held by several.
pub struct Corridor {
    door: Door,
    lanes: Box<[Lane]>,
    closings: Mutex<Closings>,
    reopened: Notify,
}

/// Read by every batch, written only by those who close.
#[derive(Default)]
#[repr(align(128))]
struct Door {
    /// Nothing, parts or everything is closed.
    state: AtomicU8,
    /// Whoever closed everything has kept it closed for so long that others are told instead of kept waiting.
    busy: AtomicBool,
}

/// What is closed now.
struct Closings {
    /// The number of the last closing.
    number: u64,
    parts: Parts,
    /// Somebody wanted everything, and could not have it: since when, and when last.
    wanted: Option<(Instant, Instant)>,
    /// Who held that up lately, and when.
    held_up: VecDeque<(Claim, Instant)>,
}

impl Closings {
    fn want(&mut self) {
        let now = Instant::now();
        let since = self.wanted.filter(|(_, last)| now - *last < WANTED_FOR).map_or(now, |(since, _)| since);
        self.wanted = Some((since, now));
    }

    /// Whether a part is closed later, because somebody wants everything first. `quick`: it is closed for a moment.
    ///
    /// While a slow script runs, others may begin beside it: they delay nobody who has to wait for it anyway. But two who run
    /// slow ones by turns must not keep everything closed for ever, so whoever did that lately waits with the next one.
    fn puts_off(&self, keys: &Claim, quick: bool) -> bool {
        let Some((since, last)) = self.wanted else { return false };
        let is_long = |part: &Arc<Part>| part.since.elapsed() > LONG;
        let (now, held_up) = (Instant::now(), &self.held_up);
        let did = || held_up.iter().any(|(by, when)| now - *when < HELD_UP_LATELY && by.meets(keys));
        let patience = || if did() { PATIENCE } else { PATIENCE_WITH_OTHERS };
        last.elapsed() < WANTED_FOR && !(self.parts.iter().any(is_long) && (quick || since.elapsed() < patience()))
    }

    /// A part opens.
    fn note_end(&mut self, part: &Part) {
        let wanted = self.wanted.is_some_and(|(_, last)| last.elapsed() < WANTED_FOR);
        if wanted && part.since.elapsed() > HELD_UP {
            self.held_up.retain(|(by, _)| !by.meets(&part.keys));
            self.held_up.truncate(HELD_UP_MAX - 1);
            self.held_up.push_front((part.keys.clone(), Instant::now()));
        }
    }
}

/// The parts that are closed at one moment.
pub type Parts = Arc<Vec<Arc<Part>>>;

/// Some keys of one world, while somebody is alone with them.
pub struct Part {
    keys: Claim,
    number: u64,
    since: Instant,
    busy: AtomicBool,
}

/// Which keys somebody wants to be alone with.
#[derive(Clone)]
pub enum Claim {
    /// Those of a tenant that shares them with nobody, or only lends them.
    Tenant(Arc<Tenant>),
    /// Those of the shared world that begin with one of these. They may be some tenant's.
    Prefixes(Arc<[Box<[u8]>]>),
}

/// What a name is compared by: `{x:…}` may be a key of `x:`.
fn bare(name: &[u8]) -> &[u8] {
    name.strip_prefix(b"{").unwrap_or(name)
}

fn meet(one: &[u8], other: &[u8]) -> bool {
    one.starts_with(other) || other.starts_with(one)
}

impl Claim {
    /// The tenant whose keys these are and nobody else's.
    fn tenant(&self) -> Option<&Arc<Tenant>> {
        match self {
            Claim::Tenant(tenant) => Some(tenant),
            Claim::Prefixes(_) => None,
        }
    }

    fn world(&self) -> TenantId {
        self.tenant().map_or(TenantId::SHARED, |tenant| tenant.id.world())
    }

    fn prefixes(&self) -> impl Iterator<Item = &[u8]> {
        let (of_tenant, others): (&[Vec<u8>], &[Box<[u8]>]) = match self {
            Claim::Tenant(tenant) => (&tenant.prefixes, &[]),
            Claim::Prefixes(prefixes) => (&[], prefixes),
        };
        of_tenant.iter().map(Vec::as_slice).chain(others.iter().map(|prefix| &**prefix))
    }

    fn meets(&self, other: &Claim) -> bool {
        match (self, other) {
            (Claim::Tenant(one), Claim::Tenant(other)) => one.id == other.id,
            _ if self.world() != other.world() => false,
            _ => self.prefixes().any(|one| other.prefixes().any(|other| meet(bare(one), bare(other)))),
        }
    }
}

impl Part {
    /// Whether it has been closed for so long that others are told instead of kept waiting.
    pub fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Relaxed)
    }

    /// Whether a key is one of them, for clients who do not live in a namespace.
    pub fn owns(&self, key: &[u8]) -> bool {
        let name = bare(key);
        self.keys.world() == TenantId::SHARED && self.keys.prefixes().any(|prefix| name.starts_with(bare(prefix)))
    }

    /// Whether some of them may be keys of this tenant, or seen by it; of nobody's, if it is none.
    pub fn concerns(&self, tenant: TenantId) -> bool {
        match &self.keys {
            Claim::Tenant(own) if own.id == tenant => true,
            _ if self.keys.world() != tenant.world() => false,
            Claim::Tenant(own) => tenant == TenantId::SHARED || !own.exports.is_empty(),
            Claim::Prefixes(_) => true,
        }
    }

    /// Whether a key that somebody of this tenant, or of none, names is one of them.
    pub fn owns_for(&self, tenant: TenantId, key: &[u8]) -> bool {
        tenant.world() == TenantId::SHARED && self.owns(key)
    }

    /// Whether all keys that its users see are closed with it.
    pub fn is_of(&self, tenant: TenantId) -> bool {
        self.keys.tenant().is_some_and(|own| own.id == tenant)
    }
}

/// What somebody wants to be alone with.
#[derive(Clone)]
pub enum Extent {
    /// Everything.
    Everything,
    /// Some keys.
    Part(Claim),
}

impl Extent {
    /// Everything that a client can touch.
    pub fn of(session: &Session) -> Extent {
        let Some(login) = &session.login else { return Extent::Everything };
        if !login.policy.is_confined() {
            return Extent::Everything;
        }
        match &login.tenant {
            Some(tenant) if tenant.imports.is_empty() => Extent::Part(Claim::Tenant(Arc::clone(tenant))),
            _ => match login.policy.only_reports().unwrap_or(&login.policy).key_prefixes() {
                Some(prefixes) if !prefixes.iter().any(|prefix| bare(prefix).is_empty()) => {
                    Extent::Part(Claim::Prefixes(prefixes.into_iter().map(Box::from).collect()))
                }
                _ => Extent::Everything,
            },
        }
    }
}

impl Extent {
    /// Whether whoever is alone with this is alone with the other as well.
    pub fn covers(&self, other: &Extent) -> bool {
        match (self, other) {
            (Extent::Everything, _) => true,
            (Extent::Part(_), Extent::Everything) => false,
            (Extent::Part(Claim::Tenant(one)), Extent::Part(Claim::Tenant(other))) => {
                one.id == other.id && one.prefixes == other.prefixes
            }
            (Extent::Part(one), Extent::Part(other)) => {
                let is_covered = |name: &[u8]| one.prefixes().any(|prefix| bare(name).starts_with(bare(prefix)));
                one.world() == other.world() && other.tenant().is_none() && other.prefixes().all(is_covered)
            }
        }
    }
}

/// How a batch finds the corridor.
pub enum Entry {
    /// It may run.
    Entered,
    /// It may run what keeps off these.
    Beside(Parts),
    /// It must wait.
    Closed,
    /// It may run what is allowed beside a slow script.
    Busy,
}

impl Corridor {
    /// For this many data threads and threads of slow work, and the others.
    pub fn new(threads: usize, slow_threads: usize) -> Corridor {
        let lanes = (0..threads + slow_threads + 2).map(|_| Lane::default()).collect();
        let closings = Closings { number: ENTERED, parts: Parts::default(), wanted: None, held_up: VecDeque::new() };
        Corridor { door: Door::default(), lanes, closings: Mutex::new(closings), reopened: Notify::new() }
    }

    /// The lane of the thread that looks after memory and expiry.
    pub fn upkeep_lane(&self) -> usize {
        self.lanes.len() - 2
    }

    /// The lane of the thread that imports another server's data.
    pub fn import_lane(&self) -> usize {
        self.lanes.len() - 1
    }

    /// A batch wants to run in `lane`.
    #[inline]
    pub fn enter(&self, lane: usize) -> Entry {
        for _ in 0..SPINS {
            // Either the closer sees our sign, or we see its: both are sequentially consistent.
            self.lanes[lane].0.store(ENTERED, Ordering::SeqCst);
            match self.door.state.load(Ordering::SeqCst) {
                OPEN => return Entry::Entered,
                PARTS => return self.enter_beside(lane),
                _ => {}
            }
            self.leave(lane);
            if self.is_busy() {
                return Entry::Busy;
            }
            std::hint::spin_loop();
        }
        Entry::Closed
    }

    #[cold]
    fn enter_beside(&self, lane: usize) -> Entry {
        // Somebody who closes a part may be waiting for us to make up our mind.
        self.leave(lane);
        let closings = self.closings.lock();
        // Whoever closes more does so under this lock, and looks at the lanes after it.
        match self.door.state.load(Ordering::SeqCst) {
            EVERYTHING => Entry::Closed,
            _ => {
                self.lanes[lane].0.store(closings.number, Ordering::SeqCst);
                Entry::Beside(Arc::clone(&closings.parts))
            }
        }
    }

    /// The batch is done.
    #[inline]
    pub fn leave(&self, lane: usize) {
        self.lanes[lane].0.store(0, Ordering::Release);
    }

    /// Closes everything, or some keys, unless somebody else has any of them, and waits until nobody runs who may touch
    /// them. `own`: the lane the caller is in. From then on the batch there keeps off whatever else was closed:
    /// [`Closed::beside`].
    pub fn try_close(&self, own: Option<usize>, extent: &Extent) -> Option<Closed<'_>> {
        let mut closings = self.closings.lock();
        let state = self.door.state.load(Ordering::SeqCst);
        let beside = Arc::clone(&closings.parts);
        let part = match extent {
            _ if state == EVERYTHING => return None,
            Extent::Everything if state == PARTS => {
                closings.want();
                return None;
            }
            Extent::Everything => {
                closings.wanted = None;
                None
            }
            Extent::Part(keys) if closings.puts_off(keys, own.is_some()) => return None,
            Extent::Part(keys) if beside.iter().any(|part| part.keys.meets(keys)) => return None,
            Extent::Part(keys) => {
                let (keys, number) = (keys.clone(), closings.number + 1);
                Some(Arc::new(Part { keys, number, since: Instant::now(), busy: AtomicBool::new(false) }))
            }
        };
        closings.number += 1;
        let number = closings.number;
        if let Some(part) = &part {
            closings.parts = Arc::new(beside.iter().chain([part]).cloned().collect());
        }
        self.door.state.store(if part.is_some() { PARTS } else { EVERYTHING }, Ordering::SeqCst);
        if let Some(own) = own {
            self.lanes[own].0.store(number, Ordering::SeqCst);
        }
        drop(closings);
        let closed = Closed { corridor: self, part, beside };
        for (index, lane) in self.lanes.iter().enumerate() {
            let mut looks = 0_u32;
            while Some(index) != own && (ENTERED..number).contains(&lane.0.load(Ordering::SeqCst)) {
                looks = looks.saturating_add(1);
                match looks {
                    0..SPINS => std::hint::spin_loop(),
                    SPINS..SPINS_CLOSING => std::thread::yield_now(),
                    _ => std::thread::sleep(CLOSING_PAUSE),
                }
            }
        }
        Some(closed)
    }

    /// The same for a thread of its own, which may wait. It must not be in a lane.
    pub fn close_extent(&self, extent: &Extent) -> Closed<'_> {
        loop {
            if let Some(closed) = self.try_close(None, extent) {
                return closed;
            }
            std::thread::sleep(CLOSING_PAUSE);
        }
    }

    /// Closes everything, for a thread of its own.
    pub fn close(&self) -> Closed<'_> {
        self.close_extent(&Extent::Everything)
    }

    /// Enters as somebody who may touch any key, and waits until that can be: not for data threads.
    pub fn enter_for_any_key(&self, lane: usize) -> InLane<'_> {
        loop {
            match self.enter(lane) {
                Entry::Entered => return InLane::new(self, lane),
                Entry::Beside(_) => {
                    self.leave(lane);
                    self.want_everything();
                }
                Entry::Closed | Entry::Busy => {}
            }
            std::thread::sleep(ENTER_PAUSE);
        }
    }

    /// Somebody waits for everything to be open: for a while no part is closed any more.
    pub fn want_everything(&self) {
        self.closings.lock().want();
    }

    /// Whether somebody is alone with a key that lies among those of this tenant, or of nobody.
    #[inline]
    pub fn keeps(&self, tenant: TenantId, key: &[u8]) -> bool {
        self.door.state.load(Ordering::SeqCst) == PARTS
            && self.closings.lock().parts.iter().any(|part| part.is_of(tenant) || part.owns_for(tenant, key))
    }

    /// Waits until it is open, or busy; or, while parts are closed, for a while.
    pub async fn opened(&self) {
        loop {
            let mut reopened = std::pin::pin!(self.reopened.notified());
            reopened.as_mut().enable();
            match self.door.state.load(Ordering::SeqCst) {
                OPEN => return,
                // The caller looks for itself whether it was the right part.
                PARTS => {
                    let _ = tokio::time::timeout(PART_PAUSE, reopened).await;
                    return;
                }
                _ if self.is_busy() => return,
                _ => reopened.await,
            }
        }
    }

    /// Whether others are told that a script keeps the node.
    #[inline]
    pub fn is_busy(&self) -> bool {
        self.door.busy.load(Ordering::Relaxed)
    }
}

/// The corridor, held by one. Opens when dropped.
pub struct Closed<'a> {
    corridor: &'a Corridor,
    part: Option<Arc<Part>>,
    beside: Parts,
}

impl Closed<'_> {
    /// From now on, until it opens, others are told; whether that is new.
    pub fn note_busy(&self) -> bool {
        let busy = self.part.as_ref().map_or(&self.corridor.door.busy, |part| &part.busy);
        let is_new = !busy.swap(true, Ordering::Relaxed);
        if is_new {
            self.corridor.reopened.notify_waiters();
        }
        is_new
    }

    /// Whether others run beside it.
    pub fn is_part(&self) -> bool {
        self.part.is_some()
    }

    /// Whether a client who waits for keys in this keyspace can touch no others than these.
    pub fn encloses(&self, tenant: TenantId) -> bool {
        self.part.as_ref().is_none_or(|part| part.is_of(tenant))
    }

    /// What else was closed when this was.
    pub fn beside(&self) -> Parts {
        Arc::clone(&self.beside)
    }
}

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        let mut closings = self.corridor.closings.lock();
        match &self.part {
            None => {
                self.corridor.door.busy.store(false, Ordering::Relaxed);
                self.corridor.door.state.store(OPEN, Ordering::SeqCst);
            }
            Some(own) => {
                closings.note_end(own);
                let others = closings.parts.iter().filter(|part| part.number != own.number);
                closings.parts = Arc::new(others.cloned().collect());
                let state = if closings.parts.is_empty() { OPEN } else { PARTS };
                self.corridor.door.state.store(state, Ordering::SeqCst);
            }
        }
        drop(closings);
        self.corridor.reopened.notify_waiters();
    }
}

/// Leaves the lane however the batch ends.
pub struct InLane<'a> {
    corridor: &'a Corridor,
    lane: usize,
}

impl<'a> InLane<'a> {
    /// For a lane that was entered.
    pub fn new(corridor: &'a Corridor, lane: usize) -> InLane<'a> {
        InLane { corridor, lane }
    }
}

impl Drop for InLane<'_> {
    fn drop(&mut self) {
        self.corridor.leave(self.lane);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keyward_engine::account::Account;
    use keyward_engine::tenancy::Limits;

    fn tenant(number: u32) -> Extent {
        Extent::Part(Claim::Tenant(Arc::new(Tenant {
            id: TenantId::with_prefixes(number),
            name: format!("t{number}"),
            prefixes: vec![format!("t{number}:").into_bytes()],
            users: Vec::new(),
            settings: Arc::default(),
            limits: Limits::default(),
            gauge: Arc::default(),
            account: Arc::new(Account::new(1)),
            exports: Vec::new(),
            imports: Vec::new(),
            retired: false,
            created: 0,
            revision: 0,
        })))
    }

    fn prefixes(of: &[&str]) -> Extent {
        Extent::Part(Claim::Prefixes(of.iter().map(|prefix| Box::from(prefix.as_bytes())).collect()))
    }

    #[test]
    fn one_alone_or_batches_together() {
        let corridor = Corridor::new(3, 0);
        assert!(matches!(corridor.enter(0), Entry::Entered));
        assert!(matches!(corridor.enter(1), Entry::Entered));
        corridor.leave(1);
        let closed = corridor.try_close(Some(0), &Extent::Everything).expect("nobody else has it");
        assert!(corridor.try_close(Some(1), &Extent::Everything).is_none());
        assert!(matches!(corridor.enter(1), Entry::Closed));
        assert!(closed.note_busy() && !closed.note_busy());
        assert!(matches!(corridor.enter(1), Entry::Busy));
        drop(closed);
        assert!(matches!(corridor.enter(1), Entry::Entered));
        assert!(!corridor.is_busy());
    }

    #[test]
    fn beside_a_part_others_run_and_close_theirs() {
        let corridor = Corridor::new(2, 0);
        let one = corridor.try_close(None, &tenant(1)).expect("nobody else has it");
        assert!(corridor.try_close(None, &tenant(1)).is_none());
        let Entry::Beside(parts) = corridor.enter(0) else { panic!("others may run") };
        assert!(parts.len() == 1 && parts[0].owns(b"t1:x") && parts[0].owns(b"{t1:x}") && !parts[0].owns(b"t2:x"));
        // Who is beside keeps off the first part, and its own closing waits for nobody.
        let two = corridor.try_close(Some(0), &tenant(2)).expect("these are other keys");
        assert_eq!(two.beside().len(), 1);
        assert!(corridor.keeps(TenantId::with_prefixes(1), b"t1:x") && !corridor.keeps(TenantId::SHARED, b"x"));
        assert!(corridor.try_close(None, &Extent::Everything).is_none());
        assert!(corridor.try_close(None, &tenant(3)).is_none(), "somebody wants everything");
        std::thread::sleep(LONG * 2);
        assert!(corridor.try_close(None, &Extent::Everything).is_none());
        assert!(corridor.try_close(Some(0), &tenant(3)).is_some(), "it has to wait for slow ones anyway");
        drop((one, two));
        corridor.leave(0);
        assert!(corridor.try_close(None, &Extent::Everything).is_some());
        assert!(matches!(corridor.enter(0), Entry::Entered));
    }

    // A snapshot waited for a tenant's script of five seconds, and everybody's scripts for the snapshot.
    #[test]
    fn only_those_who_held_up_whoever_wants_everything_wait_for_it() {
        let corridor = Corridor::new(1, 0);
        let wants = |since: Duration| {
            assert!(corridor.try_close(None, &Extent::Everything).is_none());
            // It goes on wanting it, however slow this test is.
            corridor.closings.lock().wanted = Some((Instant::now() - since, Instant::now() + PATIENCE_WITH_OTHERS));
        };
        let run_for = |time: Duration, extent: &Extent| {
            let closed = corridor.try_close(None, extent);
            if closed.is_some() {
                let mut closings = corridor.closings.lock();
                let aged = |part: &Arc<Part>| {
                    let (keys, number) = (part.keys.clone(), part.number);
                    let since = if part.since.elapsed() < LONG { Instant::now() - time } else { part.since };
                    Arc::new(Part { keys, number, since, busy: AtomicBool::new(false) })
                };
                closings.parts = Arc::new(closings.parts.iter().map(aged).collect());
            }
            closed
        };
        let slow = run_for(4 * PATIENCE, &tenant(1)).expect("nobody else has it");
        wants(3 * PATIENCE);
        let other = run_for(4 * PATIENCE, &tenant(2)).expect("it never held up anybody");
        let keys = Claim::Prefixes(Arc::new([Box::from(&b"x:"[..])]));
        let ended = Part { keys, number: 0, since: Instant::now() - 2 * HELD_UP, busy: AtomicBool::new(false) };
        corridor.closings.lock().note_end(&ended);
        wants(3 * PATIENCE);
        assert!(corridor.try_close(None, &prefixes(&["x:"])).is_none(), "it held it up lately");
        assert!(corridor.try_close(None, &prefixes(&["y:"])).is_some());
        wants(2 * PATIENCE_WITH_OTHERS);
        assert!(corridor.try_close(None, &prefixes(&["y:"])).is_none(), "there is an end to it");
        drop((slow, other));
        assert!(corridor.try_close(None, &Extent::Everything).is_some());
    }

    #[test]
    fn parts_of_users_without_a_tenant_keep_off_each_other_where_they_meet() {
        let corridor = Corridor::new(2, 0);
        let one = corridor.try_close(None, &prefixes(&["a:", "t1:x"])).expect("nobody else has it");
        for met in [&["a:b:"][..], &["a"], &["b:", "{a:"], &["t1:"]] {
            assert!(corridor.try_close(None, &prefixes(met)).is_none(), "{met:?}");
        }
        assert!(corridor.try_close(None, &tenant(1)).is_none(), "some of its keys are kept");
        let others = [corridor.try_close(None, &tenant(2)), corridor.try_close(None, &prefixes(&["b:", "ab"]))];
        assert!(others.iter().all(Option::is_some));
        let nothing = corridor.try_close(None, &prefixes(&[])).expect("it touches nothing");
        assert!(corridor.keeps(TenantId::SHARED, b"a:1") && !corridor.keeps(TenantId::SHARED, b"c:1"));
        assert!(
            corridor.keeps(TenantId::with_prefixes(1), b"{t1:x}")
                && !corridor.keeps(TenantId::with_prefixes(1), b"t1:y")
        );
        let Entry::Beside(parts) = corridor.enter(0) else { panic!("others may run") };
        assert!(parts[0].concerns(TenantId::with_prefixes(3)), "whoever asks for all keys waits");
        assert!(!parts[0].concerns(TenantId::with_namespace(4)) && !parts[1].concerns(TenantId::with_prefixes(3)));
        drop((one, others, nothing));
        corridor.leave(0);
        assert!(matches!(corridor.enter(0), Entry::Entered));
    }

    #[test]
    fn rules_that_reach_further_are_not_covered_by_what_earlier_ones_closed() {
        let of = |names: &[&str]| prefixes(names);
        assert!(Extent::Everything.covers(&of(&["a:"])) && !of(&["a:"]).covers(&Extent::Everything));
        assert!(of(&["a:", "b:"]).covers(&of(&["b:x", "{a:"])) && !of(&["a:"]).covers(&of(&["b:"])));
        assert!(!of(&["a:x"]).covers(&of(&["a:"])) && of(&["a:"]).covers(&of(&[])));
        assert!(tenant(1).covers(&tenant(1)) && !tenant(1).covers(&tenant(2)));
        assert!(!of(&["t1:"]).covers(&tenant(1)), "a tenant's keys are more than names");
    }

    /// Whoever is alone makes both numbers of a pair differ for a while; others must never see that.
    type Pair = Arc<(AtomicU64, AtomicU64)>;

    fn look(pair: &Pair) {
        assert_eq!(pair.0.load(Ordering::Relaxed), pair.1.load(Ordering::Relaxed));
    }

    fn change(pair: &Pair) {
        pair.0.fetch_add(1, Ordering::Relaxed);
        std::thread::yield_now();
        pair.1.fetch_add(1, Ordering::Relaxed);
    }

    #[test]
    fn nothing_comes_between_what_one_does_alone() {
        const THREADS: usize = 4;
        const ROUNDS: u64 = 2000;
        let corridor = Arc::new(Corridor::new(THREADS, 0));
        let pairs: Arc<Vec<Pair>> = Arc::new((0..2).map(|_| Pair::default()).collect());
        let threads: Vec<_> = (0..THREADS)
            .map(|lane| {
                let (corridor, pairs) = (Arc::clone(&corridor), Arc::clone(&pairs));
                std::thread::spawn(move || {
                    let mut round = 0;
                    while round < ROUNDS {
                        let parts = match corridor.enter(lane) {
                            Entry::Entered => Parts::default(),
                            Entry::Beside(parts) => parts,
                            Entry::Closed | Entry::Busy => {
                                std::thread::yield_now();
                                continue;
                            }
                        };
                        let in_lane = InLane::new(&corridor, lane);
                        let of = |parts: &Parts| parts.iter().filter_map(|part| Some(part.keys.tenant()?.id)).collect();
                        let mut kept: Vec<TenantId> = of(&parts);
                        if round % 7 == 0 {
                            // From within the lane, as a data thread does.
                            let own = (lane % 2) as u32 + 1;
                            if let Some(closed) = corridor.try_close(Some(lane), &tenant(own)) {
                                change(&pairs[own as usize - 1]);
                                kept = of(&closed.beside());
                            }
                        }
                        for number in [1, 2].into_iter().filter(|n| !kept.contains(&TenantId::with_prefixes(*n))) {
                            look(&pairs[number as usize - 1]);
                        }
                        drop(in_lane);
                        round += 1;
                    }
                })
            })
            .collect();
        for round in 0..ROUNDS / 10 {
            if round % 3 == 0 {
                let closed = corridor.close();
                pairs.iter().for_each(change);
                drop(closed);
            } else {
                let number = (round % 3) as u32;
                let closed = corridor.close_extent(&tenant(number));
                change(&pairs[number as usize - 1]);
                drop(closed);
            }
        }
        threads.into_iter().for_each(|thread| thread.join().expect("no batch saw half of it"));
    }
}
