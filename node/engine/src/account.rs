//! What a tenant, or a user with limits of its own, does on this node: counted, and held against its limits.
//!
//! ```text
//!   every batch ─► Lane of its thread: plain adds, one writer          counters, for everybody who wants to know
//!               └► Bucket, if that rate is limited: one atomic         how far ahead of its rate it is
//! ```
//! Counters cost no locked instruction and no cache line that another thread writes. A rate without a limit is not looked
//! at; what is held against one is gathered by each thread until it is worth telling. Work is charged when it was done, since nobody knows before what a command costs; who is ahead of the rate by more
//! than a second's worth waits, and is told so when that takes long. Debts have an end: no single command locks a tenant out
//! for longer than [`DEBT_MAX`].
//!
//! The time is handed in, in nanoseconds since any fixed moment. This file knows no commands and no keys.

use crate::holdings::Holdings;
use crate::tenancy::Limits;
use keyward_acl::{CommandId, LogReason};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

/// How far ahead of its rate somebody may be: a second's worth may come at once.
pub const BURST: Duration = Duration::from_secs(1);

/// The same for processor time, of which a second's worth at once would be felt by everybody.
pub const BURST_OF_CPU: Duration = Duration::from_millis(100);

/// The same for changes that every node must agree on, of which there is one a second: an application that starts makes a few.
const BURST_OF_CHANGES: Duration = Duration::from_secs(9);

/// What a thread has done and not told is less than a second's worth divided by this: so many threads may be ahead of a rate by
/// a millisecond's worth each, and thousands of requests a second share one write to what all threads read.
const TOLD_PER_SECOND: u64 = 1024;

/// The longest anybody has to wait for what was done before.
pub const DEBT_MAX: Duration = Duration::from_secs(10);

/// A number only one thread changes.
#[derive(Default, Debug)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds; for the one thread that owns it.
    #[inline]
    pub fn add(&self, count: u64) {
        // Not fetch_add: with one writer a plain store loses nothing and costs no bus lock.
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    /// Adds, and takes all of it once it is as much as `enough`; for the one thread that owns it.
    #[inline]
    fn gather(&self, count: u64, enough: u64) -> Option<u64> {
        let all = self.0.load(Ordering::Relaxed).saturating_add(count);
        let told = all >= enough;
        self.0.store(if told { 0 } else { all }, Ordering::Relaxed);
        told.then_some(all)
    }

    /// Takes one back; for the one thread that owns it.
    pub fn take_back(&self) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_sub(1), Ordering::Relaxed);
    }

    /// Reads; from anywhere.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Starts anew. An increment racing with it may survive; statistics bear that.
    pub fn reset(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// What one thread counted of one tenant.
#[derive(Default, Debug)]
#[repr(align(128))]
pub struct Lane {
    /// Commands run, those of scripts and transactions included.
    pub operations: Counter,
    /// Those of them that another node ran, and counted too.
    pub forwarded: Counter,
    /// All of them, weighted by work.
    pub work: Counter,
    /// Bytes received from its clients.
    pub input_bytes: Counter,
    /// Bytes sent to its clients.
    pub output_bytes: Counter,
    /// Time its commands and scripts took, in nanoseconds.
    pub cpu_ns: Counter,
    /// Times a client was not read from for a while.
    pub delays: Counter,
    /// Requests answered with THROTTLED.
    pub throttled: Counter,
    /// Logins refused for want of a place among its connections.
    pub connections_refused: Counter,
    /// Requests refused for another limit: of values, waiting clients, subscriptions, answers.
    pub limits_reached: Counter,
    /// Scripts ended at their limit.
    pub scripts_ended: Counter,
    /// Reads that found their key.
    pub hits: Counter,
    /// Reads that found none.
    pub misses: Counter,
    /// Connections that logged in.
    pub logins: Counter,
    /// Requests the rules forbade, by [`REASONS`].
    pub denied: [Counter; REASONS.len()],
    /// What is yet to be held against the limits: work, bytes, nanoseconds.
    untold: [Counter; 3],
    /// How long commands took. Locked by the thread itself, but for whoever reads them.
    times: Mutex<Vec<(CommandId, Box<Times>)>>,
    /// Error replies to its clients by their first word, of a list that does not grow. Locked likewise.
    errors: Mutex<Vec<(&'static str, u64)>>,
}

/// Powers of two told apart, in microseconds: up to an hour.
pub const POWERS: usize = 32;

/// How long the calls of one command took.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Times {
    /// How many there were.
    pub calls: u64,
    /// All of them together.
    pub nanoseconds: u64,
    /// How many took no longer than 1, 2, 4 … times 1024 nanoseconds, and longer than half of that.
    pub powers: [u64; POWERS],
}

impl Times {
    fn note(&mut self, nanoseconds: u64, calls: u64) {
        self.calls += calls;
        self.nanoseconds = self.nanoseconds.saturating_add(nanoseconds.saturating_mul(calls));
        let power = u64::BITS - (nanoseconds >> 10).leading_zeros();
        self.powers[(power as usize).min(POWERS - 1)] += calls;
    }

    fn add(&mut self, other: &Times) {
        self.calls += other.calls;
        self.nanoseconds = self.nanoseconds.saturating_add(other.nanoseconds);
        self.powers.iter_mut().zip(other.powers).for_each(|(count, more)| *count += more);
    }
}

impl Lane {
    /// So many calls of a command took so long each.
    #[inline]
    pub fn took(&self, command: CommandId, nanoseconds: u64, calls: u64) {
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        match times.iter_mut().find(|(known, _)| *known == command) {
            Some((_, times)) => times.note(nanoseconds, calls),
            None => {
                let mut first = Box::<Times>::default();
                first.note(nanoseconds, calls);
                times.push((command, first));
            }
        }
    }

    /// An error reply that begins with this word.
    pub fn erred(&self, word: &'static str) {
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        match errors.iter_mut().find(|(known, _)| *known == word) {
            Some((_, count)) => *count += 1,
            None => errors.push((word, 1)),
        }
    }
}

/// Why rules forbid a request: these are counted apart.
pub const REASONS: [LogReason; 4] = [LogReason::Command, LogReason::Key, LogReason::Channel, LogReason::Database];

/// The sum of all threads.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Usage {
    /// See [`Lane`].
    pub operations: u64,
    /// See [`Lane`].
    pub forwarded: u64,
    /// See [`Lane`].
    pub work: u64,
    /// See [`Lane`].
    pub input_bytes: u64,
    /// See [`Lane`].
    pub output_bytes: u64,
    /// See [`Lane`].
    pub cpu_ns: u64,
    /// See [`Lane`].
    pub delays: u64,
    /// See [`Lane`].
    pub throttled: u64,
    /// See [`Lane`].
    pub connections_refused: u64,
    /// See [`Lane`].
    pub limits_reached: u64,
    /// See [`Lane`].
    pub scripts_ended: u64,
    /// See [`Lane`].
    pub hits: u64,
    /// See [`Lane`].
    pub misses: u64,
    /// See [`Lane`].
    pub logins: u64,
    /// See [`Lane`].
    pub denied: [u64; REASONS.len()],
    /// Connections to this node, now.
    pub connections: u64,
    /// Clients that wait for keys here, now.
    pub blocked: u64,
    /// Channels and patterns its clients listen to here, now.
    pub subscriptions: u64,
}

impl Usage {
    /// Adds what another counted.
    pub fn add(&mut self, other: &Usage) {
        self.combine(other, u64::saturating_add);
    }

    /// What is left without what another counted.
    #[must_use]
    pub fn without(mut self, other: &Usage) -> Usage {
        self.combine(other, u64::saturating_sub);
        self
    }

    fn combine(&mut self, other: &Usage, with: fn(u64, u64) -> u64) {
        let pairs = [
            (&mut self.operations, other.operations),
            (&mut self.forwarded, other.forwarded),
            (&mut self.work, other.work),
            (&mut self.input_bytes, other.input_bytes),
            (&mut self.output_bytes, other.output_bytes),
            (&mut self.cpu_ns, other.cpu_ns),
            (&mut self.delays, other.delays),
            (&mut self.throttled, other.throttled),
            (&mut self.connections_refused, other.connections_refused),
            (&mut self.limits_reached, other.limits_reached),
            (&mut self.scripts_ended, other.scripts_ended),
            (&mut self.hits, other.hits),
            (&mut self.misses, other.misses),
            (&mut self.logins, other.logins),
            (&mut self.connections, other.connections),
            (&mut self.blocked, other.blocked),
            (&mut self.subscriptions, other.subscriptions),
        ];
        pairs.into_iter().for_each(|(number, more)| *number = with(*number, more));
        self.denied.iter_mut().zip(other.denied).for_each(|(number, more)| *number = with(*number, more));
    }
}

/// What there is a number of at any time.
#[derive(Default, Debug)]
pub struct Places(AtomicU64);

impl Places {
    /// Takes `count` more, unless there would be more than `limit`; 0: no limit.
    pub fn take(&self, count: u64, limit: u64) -> bool {
        let fits = |taken: u64| (limit == 0 || taken.saturating_add(count) <= limit).then_some(taken + count);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok()
    }

    /// Gives `count` back.
    pub fn give_back(&self, count: u64) {
        self.0.fetch_sub(count, Ordering::Relaxed);
    }

    /// How many are taken.
    pub fn taken(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A rate: the moment at which everything done so far would have been done, had it been done at that rate.
#[derive(Default, Debug)]
struct Bucket(AtomicI64);

impl Bucket {
    /// How long to wait until there is room, in nanoseconds; 0: there is.
    #[inline]
    fn wait(&self, burst: Duration, now: i64) -> u64 {
        let ahead = self.0.load(Ordering::Relaxed).saturating_sub(now);
        u64::try_from(ahead.saturating_sub(burst.as_nanos() as i64)).unwrap_or(0)
    }

    /// How long so much takes at a rate of `rate` a second, in nanoseconds.
    #[inline]
    fn cost(amount: u64, rate: u64) -> i64 {
        match amount.checked_mul(1_000_000_000) {
            Some(nanoseconds) => (nanoseconds / rate).min(i64::MAX as u64) as i64,
            None => (u128::from(amount) * 1_000_000_000 / u128::from(rate)).min(i64::MAX as u128) as i64,
        }
    }

    /// So much was done at a rate of `rate` a second.
    #[inline]
    fn charge(&self, amount: u64, rate: u64, burst: Duration, now: i64) {
        let cost = Bucket::cost(amount, rate);
        let latest = now.saturating_add((burst + DEBT_MAX).as_nanos() as i64);
        let next = |at: i64| Some(at.max(now).saturating_add(cost).min(latest));
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    }
}

impl Bucket {
    /// As many as `amount` of a rate of `rate` a second, at once, if a second's worth is not gone by that; if it is, how long to wait.
    fn take(&self, amount: u64, rate: u64, now: i64) -> Result<(), Duration> {
        let (cost, burst) = (Bucket::cost(amount, rate), BURST.as_nanos() as i64);
        let next = |at: i64| Some(at.max(now).saturating_add(cost)).filter(|next| *next <= now.saturating_add(burst));
        let taken = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        let ahead = |at: i64| at.saturating_add(cost).saturating_sub(now).saturating_sub(burst);
        taken.map(drop).map_err(|at| Duration::from_nanos(u64::try_from(ahead(at)).unwrap_or(0)))
    }

    /// It was not needed after all.
    fn give_back(&self, amount: u64, rate: u64) {
        self.0.fetch_sub(Bucket::cost(amount, rate), Ordering::Relaxed);
    }
}

/// What one batch of one client cost.
#[derive(Clone, Copy, Default, Debug)]
pub struct Tally {
    /// Commands.
    pub operations: u64,
    /// Those of them that another node runs.
    pub forwarded: u64,
    /// All of them, weighted by work.
    pub work: u64,
    /// Bytes received.
    pub input_bytes: u64,
    /// Bytes sent.
    pub output_bytes: u64,
    /// Time, in nanoseconds.
    pub cpu_ns: u64,
    /// Reads that found their key.
    pub hits: u64,
    /// Reads that found none.
    pub misses: u64,
}

/// A rate somebody is ahead of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Over {
    /// The setting that limits it.
    pub limit: &'static str,
    /// How long until there is room.
    pub wait: Duration,
}

/// What one tenant, or one user with limits of its own, does on this node.
#[derive(Debug)]
pub struct Account {
    /// By thread, made when the thread first serves the tenant.
    lanes: Box<[OnceLock<Box<Lane>>]>,
    /// Connections.
    pub connections: Places,
    /// Clients that wait for keys.
    pub blocked: Places,
    /// What its clients listen to.
    pub subscriptions: Places,
    /// What its clients hold besides keys.
    pub holdings: Arc<Holdings>,
    operations: Bucket,
    bytes: Bucket,
    cpu: Bucket,
    /// Changes that every node must agree on.
    changes: Bucket,
    /// Logins.
    arrivals: Bucket,
    /// What those who watch it are shown.
    lines: Bucket,
}

/// What it did is no part of what was agreed on about it.
impl PartialEq for Account {
    fn eq(&self, _: &Account) -> bool {
        true
    }
}

impl Eq for Account {}

impl Account {
    /// Of nobody yet, for this many threads; one more lane is for whatever has no number.
    pub fn new(threads: usize) -> Account {
        Account {
            lanes: (0..=threads).map(|_| OnceLock::new()).collect(),
            connections: Places::default(),
            blocked: Places::default(),
            subscriptions: Places::default(),
            holdings: Arc::default(),
            operations: Bucket::default(),
            bytes: Bucket::default(),
            cpu: Bucket::default(),
            changes: Bucket::default(),
            arrivals: Bucket::default(),
            lines: Bucket::default(),
        }
    }

    /// Those who watch it are shown this much, if there was no more than `rate` in a second, which is not 0.
    pub fn show(&self, amount: u64, rate: u64, now: i64) -> bool {
        self.lines.take(amount, rate, now).is_ok()
    }

    /// One more connection logs in, if there were not `rate` in a second, which is not 0; if there were, how long to wait.
    pub fn arrive(&self, rate: u64, now: i64) -> Result<(), Duration> {
        self.arrivals.take(1, rate, now)
    }

    /// It did not log in after all.
    pub fn turn_back(&self, rate: u64) {
        self.arrivals.give_back(1, rate);
    }

    /// One more change that every node must agree on, if there were not too many; if there were, how long to wait.
    pub fn change(&self, now: i64) -> Result<(), Duration> {
        match self.changes.wait(BURST_OF_CHANGES, now) {
            0 => {
                self.changes.charge(1, 1, BURST_OF_CHANGES, now);
                Ok(())
            }
            wait => Err(Duration::from_nanos(wait)),
        }
    }

    /// The counters of a thread. A number beyond those known stands for the last one.
    #[inline]
    pub fn lane(&self, thread: usize) -> &Lane {
        self.lanes[thread.min(self.lanes.len() - 1)].get_or_init(Box::default)
    }

    /// Counts what a batch cost, and holds it against the limits.
    #[inline]
    pub fn charge(&self, thread: usize, tally: &Tally, limits: &Limits, now: i64) {
        let lane = self.lane(thread);
        lane.operations.add(tally.operations);
        lane.forwarded.add(tally.forwarded);
        lane.work.add(tally.work);
        lane.input_bytes.add(tally.input_bytes);
        lane.output_bytes.add(tally.output_bytes);
        lane.cpu_ns.add(tally.cpu_ns);
        lane.hits.add(tally.hits);
        lane.misses.add(tally.misses);
        if limits.has_rates() {
            // What has no number of its own shares a lane, and gathers nothing there.
            let untold = Some(&lane.untold).filter(|_| thread + 1 < self.lanes.len());
            self.hold_against(untold, tally, limits, now);
        }
    }

    #[inline]
    fn hold_against(&self, untold: Option<&[Counter; 3]>, tally: &Tally, limits: &Limits, now: i64) {
        let rates = [
            (&self.operations, tally.work, limits.operations, BURST),
            (&self.bytes, tally.input_bytes + tally.output_bytes, limits.bytes, BURST),
            (&self.cpu, tally.cpu_ns, limits.cpu_ms.saturating_mul(1_000_000), BURST_OF_CPU),
        ];
        for (at, (bucket, amount, rate, burst)) in rates.into_iter().enumerate() {
            if rate == 0 || amount == 0 {
                continue;
            }
            let worth = match untold {
                Some(untold) => untold[at].gather(amount, rate / TOLD_PER_SECOND),
                None => Some(amount),
            };
            if let Some(amount) = worth {
                bucket.charge(amount, rate, burst, now);
            }
        }
    }

    /// The rate it is furthest ahead of, if it is ahead of any.
    #[inline]
    pub fn over(&self, limits: &Limits, now: i64) -> Option<Over> {
        let waits = |rate: u64, bucket: &Bucket, burst| if rate > 0 { bucket.wait(burst, now) } else { 0 };
        let work = waits(limits.operations, &self.operations, BURST);
        let bytes = waits(limits.bytes, &self.bytes, BURST);
        let cpu = waits(limits.cpu_ms, &self.cpu, BURST_OF_CPU);
        if work | bytes | cpu == 0 {
            return None;
        }
        let rates = [("ops-per-second", work), ("bytes-per-second", bytes), ("cpu-ms-per-second", cpu)];
        let (limit, wait) = rates.into_iter().max_by_key(|of| of.1)?;
        Some(Over { limit, wait: Duration::from_nanos(wait) })
    }

    /// The rules forbade a request, for this reason.
    pub fn note_denied(&self, thread: usize, reason: LogReason) {
        if let Some(place) = REASONS.iter().position(|known| *known == reason) {
            self.lane(thread).denied[place].add(1);
        }
    }

    /// How long commands took, on all threads.
    pub fn times(&self) -> BTreeMap<CommandId, Times> {
        let mut sum: BTreeMap<CommandId, Times> = BTreeMap::new();
        for lane in self.lanes.iter().filter_map(OnceLock::get) {
            for (command, times) in &*lane.times.lock().unwrap_or_else(PoisonError::into_inner) {
                sum.entry(*command).or_default().add(times);
            }
        }
        sum
    }

    /// Error replies by their first word, on all threads.
    pub fn errors(&self) -> BTreeMap<&'static str, u64> {
        let mut sum = BTreeMap::new();
        for lane in self.lanes.iter().filter_map(OnceLock::get) {
            for (word, count) in &*lane.errors.lock().unwrap_or_else(PoisonError::into_inner) {
                *sum.entry(*word).or_default() += count;
            }
        }
        sum
    }

    /// What all threads counted.
    pub fn usage(&self) -> Usage {
        let mut sum = Usage {
            connections: self.connections.taken(),
            blocked: self.blocked.taken(),
            subscriptions: self.subscriptions.taken(),
            ..Usage::default()
        };
        for lane in self.lanes.iter().filter_map(OnceLock::get) {
            sum.operations += lane.operations.get();
            sum.forwarded += lane.forwarded.get();
            sum.work += lane.work.get();
            sum.input_bytes += lane.input_bytes.get();
            sum.output_bytes += lane.output_bytes.get();
            sum.cpu_ns += lane.cpu_ns.get();
            sum.delays += lane.delays.get();
            sum.throttled += lane.throttled.get();
            sum.connections_refused += lane.connections_refused.get();
            sum.limits_reached += lane.limits_reached.get();
            sum.scripts_ended += lane.scripts_ended.get();
            sum.hits += lane.hits.get();
            sum.misses += lane.misses.get();
            sum.logins += lane.logins.get();
            sum.denied.iter_mut().zip(&lane.denied).for_each(|(count, of)| *count += of.get());
        }
        sum
    }
}

/// Limits, and who is held against them.
#[derive(Debug)]
pub struct Allowance {
    /// What it may use.
    pub limits: Limits,
    /// What it does.
    pub account: Arc<Account>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    #[test]
    fn a_seconds_worth_of_connections_comes_at_once_and_those_turned_away_cost_nothing() {
        let account = Account::new(1);
        for _ in 0..3 {
            assert_eq!(account.arrive(3, SECOND), Ok(()));
        }
        let third = Duration::from_nanos(333_333_333 - 1);
        for _ in 0..100 {
            let wait = account.arrive(3, SECOND).expect_err("three were there already");
            assert!(wait >= third - Duration::from_nanos(10) && wait <= third, "{wait:?}");
        }
        assert_eq!(account.arrive(3, SECOND + SECOND / 3), Ok(()));
        assert!(account.arrive(3, SECOND + SECOND / 3).is_err());
        account.turn_back(3);
        assert_eq!(account.arrive(3, SECOND + SECOND / 3), Ok(()));
        // Whoever was away for long has no more than a second's worth.
        let late = 100 * SECOND;
        assert_eq!((0..10).filter(|_| account.arrive(3, late).is_ok()).count(), 3);
        assert_eq!((account.arrive(1, late).is_ok(), account.arrive(u64::MAX, 200 * SECOND)), (false, Ok(())));
    }

    fn limits(operations: u64) -> Limits {
        Limits { operations, ..Limits::default() }
    }

    #[test]
    fn a_seconds_worth_may_come_at_once_and_the_rest_at_the_rate() {
        let (account, limits) = (Account::new(2), limits(100));
        let one = Tally { work: 1, ..Tally::default() };
        let mut done = 0;
        for millisecond in 0..3000 {
            let now = 5 * SECOND + millisecond * 1_000_000;
            while account.over(&limits, now).is_none() {
                account.charge(0, &one, &limits, now);
                done += 1;
            }
        }
        assert!((395..=405).contains(&done), "{done}: 100 at once and 100 in each of three seconds");
    }

    #[test]
    fn ten_changes_may_come_at_once_and_then_one_a_second() {
        let account = Account::new(0);
        let made = |now| (0..100).filter(|_| account.change(now).is_ok()).count();
        assert_eq!(made(5 * SECOND), 10);
        assert!(account.change(5 * SECOND).is_err_and(|wait| wait == Duration::from_secs(1)));
        assert_eq!((made(6 * SECOND), made(6 * SECOND + SECOND / 2), made(100 * SECOND)), (1, 0, 10));
    }

    #[test]
    fn threads_gather_what_is_held_against_a_rate_and_tell_it_in_time() {
        let (account, limits) = (Account::new(2), limits(1_000_000));
        let now = 5 * SECOND;
        let batch = Tally { work: 100, ..Tally::default() };
        // A second's worth, of which every thread may keep a thousandth to itself.
        for thread in [0, 1] {
            (0..5_020).for_each(|_| account.charge(thread, &batch, &limits, now));
        }
        assert!(account.over(&limits, now).is_some(), "more than a second's worth was told");
        let beside = Account::new(2);
        beside.charge(0, &batch, &limits, now);
        let told = |account: &Account| account.operations.0.load(Ordering::Relaxed);
        assert_eq!(told(&beside), 0, "a hundred of a million is not worth it");
        // Script threads have no lane of their own.
        beside.charge(2, &batch, &limits, now);
        assert_eq!(told(&beside), now + 100_000);
    }

    #[test]
    fn no_debt_lasts_for_ever() {
        let (account, limits) = (Account::new(0), limits(1));
        account.charge(0, &Tally { work: u64::MAX, ..Tally::default() }, &limits, SECOND);
        let over = account.over(&limits, SECOND).expect("it is");
        assert_eq!((over.limit, over.wait), ("ops-per-second", DEBT_MAX));
        assert_eq!(account.over(&limits, 12 * SECOND), None);
    }

    #[test]
    fn what_is_not_limited_is_counted_only() {
        let account = Account::new(1);
        let tally = Tally {
            operations: 3,
            forwarded: 1,
            work: 9,
            input_bytes: 10,
            output_bytes: 20,
            cpu_ns: 7,
            hits: 2,
            misses: 1,
        };
        account.charge(0, &tally, &Limits::default(), 0);
        account.charge(usize::MAX, &tally, &Limits::default(), 0);
        assert_eq!(account.over(&limits(1), 0), None);
        let usage = account.usage();
        assert_eq!((usage.operations, usage.work, usage.input_bytes, usage.cpu_ns), (6, 18, 20, 14));
        assert_eq!((usage.hits, usage.misses), (4, 2));
        for (nanoseconds, calls) in [(0, 1), (1023, 2), (1024, 4), (u64::MAX, 1)] {
            account.lane(0).took(7, nanoseconds, calls);
        }
        account.lane(1).took(7, 5000, 3);
        let times = account.times()[&7];
        assert_eq!((times.calls, times.powers[0], times.powers[1], times.powers[3]), (11, 3, 4, 3));
        assert_eq!((times.powers[POWERS - 1], account.times().len()), (1, 1));
        account.note_denied(1, LogReason::Channel);
        account.note_denied(1, LogReason::Auth);
        assert_eq!(account.usage().denied, [0, 0, 1, 0]);
    }

    #[test]
    fn places_end_at_the_limit() {
        let places = Places::default();
        assert!(places.take(2, 2) && !places.take(1, 2));
        places.give_back(1);
        assert!(places.take(1, 2) && places.take(5, 0));
        assert_eq!(places.taken(), 7);
    }
}
