//! Tenants and users at their limits: what they do is counted, who is ahead of a rate waits, and is told when that takes long.
//!
//! ```text
//!   request ─► ahead of a rate? ─no─► run ─► what it cost is charged when its batch is over
//!                └ yes: the client is not read from for up to DELAY_MAX (nobody else waits), then
//!                       ─► still ahead: -THROTTLED … retry_after_ms=…
//! ```
//! A long request is received as slowly as its rate asks, a piece at a time: it could be refused only once it is here.
//!
//! A request weighs one operation, and one more for each KiB in and out, for each 16 arguments, and for each 16 µs that a
//! command took beyond 100 µs which is not quick by nature: `KEYS` on a million keys is not one operation. Rates hold on each node for
//! itself. Whoever is confined and has no limit is counted, and never looked at again; platform users are not even counted. Logging in,
//! greeting, `PING` and giving things back waits like everything else, so that a flood of it costs the neighbors nothing either, but
//! is never refused.
//!
//! The counters lie in [`keyward_engine::account`]; this file refuses to know who reads them.

use crate::batch::Batch;
use crate::connection::Connection;
use crate::meter::Moment;
use crate::shards::CallSpace;
use crate::worker::{READ_BYTES, Worker};
use keyward_engine::account::{Account, Over, Tally};
use keyward_engine::command::Flags;
use keyward_engine::session::{AnswerBound, Login, Session};
use keyward_engine::table::Row;
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How long a client that is ahead of a rate is not read from, before it is told.
pub const DELAY_MAX: Duration = Duration::from_millis(150);

/// How late a login is answered that finds no room among the connections of its tenant or user: who tries again at once is slowed,
/// and its neighbors do not notice.
pub const TURNED_AWAY_AFTER: Duration = Duration::from_millis(200);

/// How long it is told, before it is delayed anew: enough for a pipeline to be answered as a whole.
const TOLD_FOR: Duration = Duration::from_millis(50);

/// Bytes of requests it is told so about, before it is delayed anew: what is refused is received all the same.
const TOLD_BYTES: usize = 256 << 10;

/// What a command may take before its time weighs anything.
pub const FREE_TIME: Duration = Duration::from_micros(100);

/// Bytes, arguments and nanoseconds that weigh as much as one operation.
const BYTES_PER_OPERATION: usize = 1024;
const ARGUMENTS_PER_OPERATION: usize = 16;
const NANOSECONDS_PER_OPERATION: u128 = 16_000;

/// A clock that never goes back, in nanoseconds: that of [`Moment`].
#[inline]
pub fn now_ns() -> i64 {
    Moment::now().ns()
}

/// What a request and its answer weigh, without the time it took.
#[inline]
pub fn weight(arguments: usize, bytes: usize) -> u64 {
    (1 + arguments / ARGUMENTS_PER_OPERATION + bytes / BYTES_PER_OPERATION) as u64
}

/// What a slow command weighs for the time it took.
pub fn weight_of(time: Duration) -> u64 {
    u64::try_from(time.as_nanos() / NANOSECONDS_PER_OPERATION).unwrap_or(u64::MAX)
}

/// What is to become of the requests of a client that is ahead of a rate.
#[derive(Clone, Copy)]
pub enum Pace {
    /// They may run.
    Free,
    /// They wait for so long.
    Held(Duration),
    /// They are refused.
    Refused(Over),
}

/// What is never refused, so that nobody is locked out or kept in.
fn is_always_let_in(row: &Row) -> bool {
    let gives_back = row.full_name.ends_with("unsubscribe") || matches!(row.full_name, "unwatch" | "discard");
    gives_back || row.command.flags.has(Flags::NO_AUTH) || row.full_name == "ping"
}

/// What is said to who is ahead.
pub fn throttled(login: &Login, over: &Over) -> String {
    let of = |limits: &keyward_engine::tenancy::Limits| match over.limit {
        "ops-per-second" => limits.operations,
        "bytes-per-second" => limits.bytes,
        _ => limits.cpu_ms,
    };
    let (whose, limit, wait) = (login.whose(of), login.limit(of), over.wait.as_millis().max(1));
    format!("THROTTLED {whose} is over its {} of {limit} on this node: retry_after_ms={wait}", over.limit)
}

/// The rate its user or tenant is furthest ahead of.
fn over(login: &Login, now: i64) -> Option<Over> {
    let mut furthest: Option<Over> = None;
    login.for_accounts(|limits, account| {
        let over = account.over(limits, now);
        if over.is_some_and(|over| furthest.is_none_or(|before| over.wait > before.wait)) {
            furthest = over;
        }
    });
    furthest
}

/// Decides once for a batch of requests. The session remembers since when its client is held.
fn decide(session: &mut Session, now: i64) -> Pace {
    let Some(over) = session.login.as_ref().and_then(|login| over(login, now)) else {
        session.held_since = None;
        return Pace::Free;
    };
    let since = *session.held_since.get_or_insert_with(|| {
        session.refused_bytes = 0;
        now
    });
    let held = Duration::from_nanos(u64::try_from(now - since).unwrap_or(0));
    if held < DELAY_MAX {
        return Pace::Held(over.wait.min(DELAY_MAX - held));
    }
    if held > DELAY_MAX + TOLD_FOR || session.refused_bytes > TOLD_BYTES {
        session.held_since = Some(now);
        session.refused_bytes = 0;
        return Pace::Held(over.wait.min(DELAY_MAX));
    }
    Pace::Refused(over)
}

/// Those on a data thread who are ahead of a rate, by whose rate it is. Only the first of each looks whether there is room: many of
/// them, each looking every millisecond, would be the neighbors' to pay.
#[derive(Default)]
pub struct Queues(RefCell<HashMap<usize, Weak<Semaphore>>>);

impl Queues {
    /// The queue of a client's user, if it has limits of its own, or of its tenant.
    fn of(&self, session: &Session) -> Arc<Semaphore> {
        // An account's address tells it apart as long as it exists, which is long enough.
        let account = session.login.iter().flat_map(Login::accounts).last();
        let key = account.map_or(0, |(_, account)| Arc::as_ptr(account) as usize);
        let mut queues = self.0.borrow_mut();
        if let Some(queue) = queues.get(&key).and_then(Weak::upgrade) {
            return queue;
        }
        queues.retain(|_, queue| queue.strong_count() > 0);
        let queue = Arc::new(Semaphore::new(1));
        queues.insert(key, Arc::downgrade(&queue));
        queue
    }
}

/// What a batch cost so far, and whether it may go on.
#[derive(Default)]
pub struct Tab {
    /// What it cost.
    pub tally: Tally,
    /// Somebody's account is charged for it.
    pub counts: bool,
    /// Bytes of an argument of a write at most; 0: no bound.
    pub value_bytes_max: u64,
    /// How long an answer may be.
    pub answer: AnswerBound,
    /// Rates are yet to be looked at.
    paced: bool,
    decided: Option<Pace>,
}

impl Tab {
    /// For what runs as a part of something else, which pays for it.
    pub fn within(outer: &Tab) -> Tab {
        let Tab { counts, value_bytes_max, answer, .. } = *outer;
        Tab { counts, value_bytes_max, answer, ..Tab::default() }
    }

    /// For the next client.
    #[inline]
    pub fn open(&mut self, session: &Session) {
        self.look_at_limits(session);
        let strictest = session.login.as_ref().map(Login::strictest);
        (self.counts, self.paced) = strictest.map_or((false, false), |of| (of.counts, of.has_rates));
        self.decided = None;
    }
}

impl Tab {
    /// Its limits may be new.
    #[inline]
    pub fn look_at_limits(&mut self, session: &Session) {
        let strictest = session.login.as_ref().map(Login::strictest);
        (self.value_bytes_max, self.answer) = strictest.map_or_else(Default::default, |of| (of.value, of.answer));
    }

    /// The same for one that may run whatever its rates.
    pub fn open_paid(&mut self, session: &Session) {
        self.open(session);
        self.paced = false;
    }
}

impl Batch<'_, '_> {
    /// Whether a request may run now, as far as rates are concerned.
    #[inline]
    pub(crate) fn pace(&mut self, session: &mut Session, row: &Row) -> Pace {
        if self.tab.paced { self.look_at_rates(session, row) } else { Pace::Free }
    }

    fn look_at_rates(&mut self, session: &mut Session, row: &Row) -> Pace {
        // The clock was looked at when what others did was settled, or after the last command that is not quick.
        let now = self.meter.looked().ns();
        let pace = self.tab.decided.unwrap_or_else(|| decide(session, now));
        if matches!(pace, Pace::Refused(_)) && is_always_let_in(row) {
            // It has waited; what comes after it waits again.
            session.held_since = Some(now);
            return Pace::Free;
        }
        if let Pace::Free = pace {
            // It holds for the whole batch.
            self.tab.paced = false;
            return pace;
        }
        self.tab.decided = Some(pace);
        for (_, account) in session.login.iter().flat_map(Login::accounts) {
            let lane = account.lane(self.worker.lane);
            match pace {
                Pace::Free => {}
                Pace::Held(_) => lane.delays.add(1),
                Pace::Refused(_) => lane.throttled.add(1),
            }
        }
        pace
    }

    /// What the last call found is its client's.
    #[inline]
    pub(crate) fn note_lookups(&mut self, session: &Session, calls: &CallSpace) {
        if !self.tab.counts {
            return;
        }
        let (hits, misses) = calls.lookups();
        if self.is_executing() {
            // A part of something else, whose tab is not this one.
            for (_, account) in session.login.iter().flat_map(Login::accounts) {
                let lane = account.lane(self.worker.lane);
                lane.hits.add(hits);
                lane.misses.add(misses);
            }
        } else {
            self.tab.tally.hits += hits;
            self.tab.tally.misses += misses;
        }
    }

    /// The batch of this client is over: its accounts are charged.
    #[inline]
    pub(crate) fn charge(&mut self, session: &Session) {
        if self.tab.counts {
            let (time, slow) = self.meter.take_spent();
            self.tab.tally.work += weight_of(slow);
            self.tab.tally.cpu_ns += u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
            if let Some(connection) = self.connection {
                (self.tab.tally.input_bytes, self.tab.tally.output_bytes) = connection.take_uncharged();
            }
            let now = self.meter.looked().ns();
            charge(self.worker, session.login.as_ref(), &std::mem::take(&mut self.tab.tally), now);
        } else {
            // What was spent for others is not for the next one to pay.
            self.meter.forget_spent();
        }
    }
}

/// Charges whoever must pay for it; `now`: by the clock of [`now_ns`].
#[inline]
pub fn charge(worker: &Worker, login: Option<&Login>, tally: &Tally, now: i64) {
    let Some(login) = login else { return };
    login.for_accounts(|limits, account| account.charge(worker.lane, tally, limits, now));
}

/// Counts a request that was refused for a limit other than a rate.
#[cold]
pub fn note_limit(worker: &Worker, session: &Session) {
    for (_, account) in session.login.iter().flat_map(Login::accounts) {
        account.lane(worker.lane).limits_reached.add(1);
    }
}

/// Connections to this node that a user or its tenant may have. A tenant of which nothing is said leaves half of all places to
/// others.
pub fn connections_max(worker: &Worker, login: &Login, limits: &keyward_engine::tenancy::Limits) -> u64 {
    let is_tenants = login.tenant.as_ref().is_some_and(|tenant| std::ptr::eq(&tenant.limits, limits));
    match limits.connections {
        0 if is_tenants => (worker.hot().clients_max / 2).max(1),
        limit => limit,
    }
}

/// The places a client has among the connections of its user and tenant; given back when dropped.
#[derive(Default)]
pub struct Seats(RefCell<Vec<Arc<Account>>>);

impl Seats {
    /// Takes places for this login, and gives back those of the one before; if there is no room, nothing changes. The error
    /// is a reply. Without `enforce` there is always room.
    pub fn take(&self, worker: &Worker, login: Option<&Login>, enforce: bool) -> Result<(), String> {
        let mut held = self.0.borrow_mut();
        let Some(login) = login else {
            release(&mut held);
            return Ok(());
        };
        let is_held = |account: &Arc<Account>| held.iter().any(|known| Arc::ptr_eq(known, account));
        let mut next: Vec<Arc<Account>> = Vec::new();
        for (limits, account) in login.accounts() {
            let limit = if enforce { connections_max(worker, login, limits) } else { 0 };
            if is_held(account) || account.connections.take(1, limit) {
                next.push(Arc::clone(account));
                continue;
            }
            release(&mut next.into_iter().filter(|new| !is_held(new)).collect());
            let whose = login.whose(|limits| limits.connections);
            return Err(turned_away(worker, login, &format!("{whose} has its {limit} connections to this node")));
        }
        if enforce && let Err(why) = arrive(login, is_held, now_ns()) {
            release(&mut next.into_iter().filter(|new| !is_held(new)).collect());
            return Err(turned_away(worker, login, &why));
        }
        let kept = |account: &Arc<Account>| next.iter().any(|known| Arc::ptr_eq(known, account));
        let mut gone: Vec<Arc<Account>> = held.drain(..).filter(|account| !kept(account)).collect();
        release(&mut gone);
        *held = next;
        Ok(())
    }
}

impl Drop for Seats {
    fn drop(&mut self) {
        release(&mut self.0.borrow_mut());
    }
}

/// Counts a login that found no room, and says so.
#[cold]
fn turned_away(worker: &Worker, login: &Login, why: &str) -> String {
    login.accounts().for_each(|(_, account)| account.lane(worker.lane).connections_refused.add(1));
    format!("ERR max number of clients reached: {why}")
}

/// One more connection logs in, as far as rates of its tenant and user are concerned; where it `is_held` already, it is none.
fn arrive(login: &Login, is_held: impl Fn(&Arc<Account>) -> bool, now: i64) -> Result<(), String> {
    let rated = || {
        let new = login.accounts().filter(|(limits, account)| limits.connection_rate > 0 && !is_held(account));
        new.map(|(limits, account)| (limits.connection_rate, account))
    };
    for (at, (rate, account)) in rated().enumerate() {
        let Err(wait) = account.arrive(rate, now) else { continue };
        rated().take(at).for_each(|(rate, account)| account.turn_back(rate));
        let (whose, wait_ms) = (login.whose(|limits| limits.connection_rate), wait.as_millis().max(1));
        return Err(format!("{whose} has its connections-per-second of {rate} on this node: retry_after_ms={wait_ms}"));
    }
    Ok(())
}

fn release(places: &mut Vec<Arc<Account>>) {
    places.drain(..).for_each(|account| account.connections.give_back(1));
}

/// The places of a client among the waiting ones of its user and tenant; given back when dropped.
#[derive(Default)]
pub struct Waiting(Vec<Arc<Account>>);

impl Waiting {
    /// Takes them. The error is a reply.
    pub fn take(login: &Login) -> Result<Waiting, String> {
        let mut taken = Waiting::default();
        for (limits, account) in login.accounts() {
            if !account.blocked.take(1, limits.blocked) {
                let (whose, limit) = (login.whose(|limits| limits.blocked), limits.blocked);
                return Err(format!(
                    "ERR too many clients wait: {whose} has its blocked-clients of {limit} on this node"
                ));
            }
            taken.0.push(Arc::clone(account));
        }
        Ok(taken)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.drain(..).for_each(|account| account.blocked.give_back(1));
    }
}

/// What a client listens to, as far as its user and tenant were told; given back when dropped.
#[derive(Default)]
pub struct Listening {
    count: u64,
    accounts: Vec<Arc<Account>>,
}

impl Listening {
    /// From now on it is so much.
    pub fn note(&mut self, session: &Session, count: usize) {
        if self.accounts.is_empty() && count > 0 {
            let accounts = session.login.iter().flat_map(Login::accounts);
            self.accounts = accounts.map(|(_, account)| Arc::clone(account)).collect();
        }
        let (before, now) = (self.count, count as u64);
        for account in &self.accounts {
            // Whether there is room was looked at before.
            account.subscriptions.take(now.saturating_sub(before), 0);
            account.subscriptions.give_back(before.saturating_sub(now));
        }
        self.count = now;
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.accounts.iter().for_each(|account| account.subscriptions.give_back(self.count));
    }
}

/// Why it may not listen to so much more. Threads that look at the same time may each let one in.
pub fn too_much_heard(login: &Login, more: usize) -> Option<String> {
    let fits = |limit: u64, account: &Account| limit == 0 || account.subscriptions.taken() + more as u64 <= limit;
    let over = login.accounts().find(|(limits, account)| !fits(limits.subscriptions, account))?;
    let (whose, limit) = (login.whose(|limits| limits.subscriptions), over.0.subscriptions);
    Some(format!("ERR too many subscriptions: {whose} has its subscriptions of {limit} on this node"))
}

/// Why this cannot be written: an argument is longer than its tenant may write.
pub fn too_long(session: &Session, argv: &[&[u8]]) -> Option<String> {
    let login = session.login.as_ref()?;
    let limit = Some(login.limit(|limits| limits.value)).filter(|limit| *limit > 0)?;
    let longest = argv.iter().map(|word| word.len() as u64).max().filter(|longest| *longest > limit)?;
    let whose = login.whose(|limits| limits.value);
    Some(format!("ERR an argument of {longest} bytes is longer than value-bytes of {whose} allows: {limit}"))
}

/// The longest string value its user may make, where the node allows `all`.
#[inline]
pub fn value_bytes_max(session: &Session, all: u64) -> u64 {
    match &session.login {
        Some(login) if login.strictest().value > 0 => all.min(login.strictest().value),
        _ => all,
    }
}

impl Connection {
    /// What its user lets lie unread, and who answers for what it holds.
    pub(crate) fn bound(&self, worker: &Worker, session: &Session) {
        self.bound_holding(worker, session);
        self.count_names(session);
        let hot = worker.hot();
        // Mail is an answer like others.
        let own = hot.reply_bytes_max_for(session);
        self.mailbox.set_bytes_max(hot.mail_bytes_max.min(own));
    }

    /// Bytes received and sent since the last time.
    pub(crate) fn take_uncharged(&self) -> (u64, u64) {
        let (traffic, charged) = (self.traffic.get(), self.charged.replace(self.traffic.get()));
        (traffic.0 - charged.0, traffic.1 - charged.1)
    }

    /// Waits `time` for room at a rate, one client of those it concerns after another: `pass` says that it is this one's turn to
    /// look, until it finds room. Whoever came first is told first that there is none, so nobody waits for much longer than it may.
    pub(crate) async fn wait_for_room(&self, worker: &Worker, pass: &mut Option<OwnedSemaphorePermit>, time: Duration) {
        if pass.is_none() {
            let queue = worker.held.of(&self.session.borrow());
            match Arc::clone(&queue).try_acquire_owned() {
                Ok(first) => *pass = Some(first),
                Err(_) => {
                    *pass = queue.acquire_owned().await.ok();
                    return;
                }
            }
        }
        tokio::time::sleep(time).await;
    }

    /// It was held for a while, and is served now: if it may not run even so, it is told, however late it is.
    pub(crate) fn has_waited(&self) {
        let (mut session, longest) = (self.session.borrow_mut(), now_ns() - DELAY_MAX.as_nanos() as i64);
        session.held_since = session.held_since.map(|since| since.max(longest));
    }

    /// How long nothing more of a long request is received, if its user is ahead of a rate; `held`: bytes of it that are here. They
    /// are charged for when they all are, so one that finds room has it to its end.
    pub(crate) fn slows_down(&self, worker: &Worker, held: usize) -> Option<Duration> {
        if held < READ_BYTES {
            return None;
        }
        let session = self.session.try_borrow().ok()?;
        let login = session.login.as_ref().filter(|login| login.strictest().has_rates)?;
        let over = over(login, now_ns())?;
        login.accounts().for_each(|(_, account)| account.lane(worker.lane).delays.add(1));
        Some(over.wait.min(DELAY_MAX))
    }

    /// Charges for what was sent beside answers: messages; and what was received and never understood.
    pub(crate) fn charge_traffic(&self, worker: &Worker) {
        let Ok(session) = self.session.try_borrow() else { return };
        if session.login.as_ref().is_some_and(|login| login.strictest().counts) {
            let (input_bytes, output_bytes) = self.take_uncharged();
            charge(worker, session.login.as_ref(), &Tally { input_bytes, output_bytes, ..Tally::default() }, now_ns());
        }
    }
}
