//! How long commands took, and what made the node slow: `LATENCY` and `INFO latencystats`.
//!
//! Each data thread has a histogram for each command it ran, made at the first call; only that thread writes it, so noting
//! a time is a few plain instructions. Buckets grow by an eighth of a power of two: what is told is at most 12 % too long.
//! Slow events are kept by name for the whole node, one for a second, as Redis keeps them; and apart for each confined user
//! or tenant, who sees nothing else. The histograms of tenants lie with what else is counted of them.

use crate::counters::Counter;
use keyward_engine::account;
use keyward_engine::reply::Reply;
use keyward_engine::scope::Owner;
use keyward_engine::table::Table;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write;
use std::sync::OnceLock;

/// Steps between two powers of two.
const STEPS: usize = 8;

/// Powers of two told apart: up to some twenty minutes, in nanoseconds.
const POWERS: usize = 40;

const BUCKETS: usize = STEPS * (POWERS + 1);

/// Moments kept of an event.
const MOMENTS_MAX: usize = 160;

/// Columns of a graph.
const GRAPH_COLUMNS: usize = 80;

/// The bucket of a time.
#[inline]
fn bucket(nanoseconds: u64) -> usize {
    let steps = STEPS as u64;
    if nanoseconds < steps {
        return nanoseconds as usize;
    }
    let power = 63 - nanoseconds.leading_zeros() as usize;
    let step = (nanoseconds >> (power - 3)) as usize & (STEPS - 1);
    ((power - 2) * STEPS + step).min(BUCKETS - 1)
}

/// The longest time of a bucket.
fn longest(bucket: usize) -> u64 {
    if bucket < STEPS {
        return bucket as u64;
    }
    let (power, step) = (bucket / STEPS + 2, bucket % STEPS);
    ((STEPS + step + 1) as u64).checked_shl(power as u32 - 3).map_or(u64::MAX, |end| end - 1)
}

struct Histogram(Box<[Counter]>);

/// The histograms of one data thread, by number of the command.
pub struct Histograms(Box<[OnceLock<Histogram>]>);

impl Histograms {
    /// For a table of `commands` commands.
    pub fn new(commands: usize) -> Histograms {
        Histograms((0..commands).map(|_| OnceLock::new()).collect())
    }

    /// A command took this long, so many times; for the one thread that owns them.
    #[inline]
    pub fn note(&self, command: usize, nanoseconds: u64, times: u64) {
        let make = || Histogram((0..BUCKETS).map(|_| Counter::default()).collect());
        self.0[command].get_or_init(make).0[bucket(nanoseconds)].add(times);
    }

    /// Starts anew.
    pub fn reset(&self) {
        self.0.iter().filter_map(OnceLock::get).flat_map(|histogram| histogram.0.iter()).for_each(Counter::reset);
    }
}

/// What all threads noted of one command.
#[derive(Debug, PartialEq, Eq)]
pub struct Times(Vec<u64>);

impl Times {
    /// The sum over the threads.
    pub fn sum<'a>(threads: impl Iterator<Item = &'a Histograms>, command: usize) -> Times {
        let mut sum = vec![0; BUCKETS];
        for histogram in threads.filter_map(|histograms| histograms.0[command].get()) {
            sum.iter_mut().zip(histogram.0.iter()).for_each(|(sum, counter)| *sum += counter.get());
        }
        Times(sum)
    }

    /// The same of what was counted by powers of two.
    pub fn of(powers: &[u64; account::POWERS]) -> Times {
        let mut counts = vec![0; BUCKETS];
        powers.iter().enumerate().for_each(|(power, count)| counts[bucket((1024 << power) - 1)] += count);
        Times(counts)
    }

    /// How many calls.
    pub fn calls(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The time that `percent` of the calls did not exceed, in microseconds.
    pub fn percentile_us(&self, percent: f64) -> f64 {
        let wanted = ((percent / 100.0) * self.calls() as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        let found = self.0.iter().position(|count| {
            seen += count;
            seen >= wanted
        });
        found.map_or(0.0, |bucket| longest(bucket) as f64 / 1000.0)
    }

    /// How many calls took at most so many microseconds, for the powers of two at which that grows.
    pub fn cumulative(&self) -> Vec<(u64, u64)> {
        let mut out: Vec<(u64, u64)> = Vec::new();
        let mut seen = 0;
        for (bucket, count) in self.0.iter().enumerate().filter(|(_, count)| **count > 0) {
            seen += count;
            let microseconds = longest(bucket).div_ceil(1024).next_power_of_two();
            match out.last_mut() {
                Some((last, total)) if *last == microseconds => *total = seen,
                _ => out.push((microseconds, seen)),
            }
        }
        out
    }
}

/// `LATENCY HISTOGRAM`: those of `names` that were called; none named: all.
pub fn show_histograms(table: &Table, times: impl Fn(usize) -> Times, names: &[Vec<u8>], reply: &mut Reply) {
    let mut wanted: Vec<usize> = Vec::new();
    if names.is_empty() {
        wanted.extend(table.rows().iter().map(|row| usize::from(row.id)));
    }
    let mut named = BTreeSet::new();
    for row in names.iter().filter_map(|name| table.find(name)).filter(|row| named.insert(row.id)) {
        wanted.push(usize::from(row.id));
        wanted.extend(row.subcommands.iter().map(|id| usize::from(*id)));
    }
    // Each once, where it was named first.
    let mut seen = vec![false; table.rows().len()];
    wanted.retain(|index| !std::mem::replace(&mut seen[*index], true));
    let called = wanted.into_iter().map(|index| (index, times(index))).filter(|(_, times)| times.calls() > 0);
    let called: Vec<(usize, Times)> = called.collect();
    reply.map(called.len());
    for (index, times) in called {
        reply.bulk(table.rows()[index].full_name.as_bytes());
        reply.map(2);
        reply.bulk(b"calls");
        reply.integer(times.calls() as i64);
        reply.bulk(b"histogram_usec");
        let buckets = times.cumulative();
        reply.map(buckets.len());
        for (microseconds, calls) in buckets {
            reply.integer(microseconds as i64);
            reply.integer(calls as i64);
        }
    }
}

#[derive(Default)]
struct Series {
    /// Oldest first: second, milliseconds.
    moments: VecDeque<(i64, u64)>,
    worst_ms: u64,
}

type Named = BTreeMap<&'static str, Series>;

/// Confined users, or tenants, whose slow events are kept apart: as many as seem likely to be slow at a time.
const OWNERS_MAX: usize = 1024;

/// What made the node slow, by name: for whoever may know of all of it, and for each confined owner what was its own.
#[derive(Default)]
pub struct Events(Mutex<Log>);

#[derive(Default)]
struct Log {
    all: Named,
    owners: BTreeMap<Owner, Named>,
}

impl Log {
    fn of(&self, owner: &Owner) -> Option<&Named> {
        if *owner == Owner::Platform { Some(&self.all) } else { self.owners.get(owner) }
    }

    /// Makes room for one more owner: the one whose last slow moment is longest ago goes.
    fn make_room(&mut self, owner: &Owner) {
        if self.owners.len() < OWNERS_MAX || self.owners.contains_key(owner) {
            return;
        }
        let last = |named: &Named| named.values().filter_map(|series| series.moments.back()).max().copied();
        let quiet = self.owners.iter().min_by_key(|(_, named)| last(named)).map(|(owner, _)| owner.clone());
        quiet.and_then(|quiet| self.owners.remove(&quiet));
    }
}

impl Series {
    fn note(&mut self, at_s: i64, ms: u64) {
        self.worst_ms = self.worst_ms.max(ms);
        match self.moments.back_mut() {
            Some((second, kept)) if *second == at_s => *kept = (*kept).max(ms),
            _ => self.moments.push_back((at_s, ms)),
        }
        if self.moments.len() > MOMENTS_MAX {
            self.moments.pop_front();
        }
    }
}

impl Events {
    /// Something of this owner took so long.
    pub fn note(&self, event: &'static str, owner: &Owner, at_s: i64, ms: u64) {
        let mut log = self.0.lock();
        log.all.entry(event).or_default().note(at_s, ms);
        if *owner != Owner::Platform {
            log.make_room(owner);
            log.owners.entry(owner.clone()).or_default().entry(event).or_default().note(at_s, ms);
        }
    }

    /// `LATENCY LATEST`.
    pub fn latest(&self, owner: &Owner, reply: &mut Reply) {
        let log = self.0.lock();
        let events = log.of(owner);
        reply.array(events.map_or(0, Named::len));
        for (name, series) in events.into_iter().flatten() {
            let (at, ms) = series.moments.back().copied().unwrap_or_default();
            reply.array(4);
            reply.bulk(name.as_bytes());
            reply.integer(at);
            reply.integer(ms as i64);
            reply.integer(series.worst_ms as i64);
        }
    }

    /// `LATENCY HISTORY`.
    pub fn history(&self, owner: &Owner, event: &[u8], reply: &mut Reply) {
        let log = self.0.lock();
        let mut named = log.of(owner).into_iter().flatten();
        let series = named.find(|(name, _)| name.as_bytes().eq_ignore_ascii_case(event));
        reply.array(series.map_or(0, |(_, series)| series.moments.len()));
        for (at, ms) in series.into_iter().flat_map(|(_, series)| &series.moments) {
            reply.array(2);
            reply.integer(*at);
            reply.integer(*ms as i64);
        }
    }

    /// `LATENCY RESET`: how many events there were to forget.
    pub fn reset(&self, owner: &Owner, names: &[Vec<u8>]) -> usize {
        let mut log = self.0.lock();
        let Some(events) = (match owner {
            Owner::Platform => Some(&mut log.all),
            _ => log.owners.get_mut(owner),
        }) else {
            return 0;
        };
        let before = events.len();
        events.retain(|name, _| {
            !names.is_empty() && !names.iter().any(|wanted| wanted.eq_ignore_ascii_case(name.as_bytes()))
        });
        before - events.len()
    }

    /// `LATENCY GRAPH`; `None`: nothing was noted under this name.
    pub fn graph(&self, event: &[u8], now_s: i64) -> Option<String> {
        let log = self.0.lock();
        let (name, series) = log.all.iter().find(|(name, _)| name.as_bytes().eq_ignore_ascii_case(event))?;
        let skipped = series.moments.len().saturating_sub(GRAPH_COLUMNS);
        let shown: Vec<(i64, u64)> = series.moments.iter().skip(skipped).copied().collect();
        let high = shown.iter().map(|(_, ms)| *ms).max()?;
        let low = shown.iter().map(|(_, ms)| *ms).min()?;
        let mut out = format!("{name} - high {high} ms, low {low} ms (all time high {} ms)\n", series.worst_ms);
        out.push_str(&"-".repeat(GRAPH_COLUMNS));
        out.push('\n');
        // Four lines, the longest bar through all of them.
        for line in (1..=4).rev() {
            let bar = |ms: u64| if ms * 4 > high * (line - 1) { '#' } else { ' ' };
            out.extend(shown.iter().map(|(_, ms)| bar(*ms)));
            out.push('\n');
        }
        // How long ago, from top to bottom.
        let ages: Vec<String> = shown.iter().map(|(at, _)| age(now_s - at)).collect();
        let deepest = ages.iter().map(String::len).max().unwrap_or(0);
        for line in 0..deepest {
            out.push('\n');
            out.extend(ages.iter().map(|age| age.as_bytes().get(line).map_or(' ', |byte| char::from(*byte))));
        }
        Some(out)
    }

    /// `LATENCY DOCTOR`.
    pub fn advice(&self, threshold_ms: u64) -> String {
        if threshold_ms == 0 {
            return "Latency monitoring is off. CONFIG SET latency-monitor-threshold <milliseconds> turns it on.\n"
                .to_owned();
        }
        let log = self.0.lock();
        let events = &log.all;
        if events.is_empty() {
            return "No latency event was noted: nothing took as long as latency-monitor-threshold says.\n".to_owned();
        }
        let mut out = "Latency events, newest kept last:\n".to_owned();
        for (name, series) in events.iter() {
            let count = series.moments.len().max(1) as u64;
            let mean = series.moments.iter().map(|(_, ms)| ms).sum::<u64>() / count;
            let _ = write!(out, "- {name}: {count} moments, {mean} ms on average, {} ms at worst. ", series.worst_ms);
            out.push_str(match *name {
                "command" | "fast-command" => "SLOWLOG GET names the commands; look for O(N) ones on large keys.\n",
                "expire-cycle" => "Many keys expire at once; spread their times.\n",
                _ => "\n",
            });
        }
        out
    }
}

/// A time span in two characters or three: `7s`, `12m`, `3h`, `9d`.
fn age(seconds: i64) -> String {
    match seconds.max(0) {
        s @ 0..60 => format!("{s}s"),
        s @ 60..3600 => format!("{}m", s / 60),
        s @ 3600..86_400 => format!("{}h", s / 3600),
        s => format!("{}d", s / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keyward_engine::reply::Protocol;

    #[test]
    fn every_time_lies_in_its_bucket() {
        let mut before = 0;
        for nanoseconds in (0..5000).chain([1 << 20, (1 << 30) + 12345, 1 << 39]) {
            let index = bucket(nanoseconds);
            assert!(longest(index) >= nanoseconds, "{nanoseconds}");
            assert!(index == 0 || longest(index - 1) < nanoseconds, "{nanoseconds}");
            assert!(index >= before);
            before = index;
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn percentiles_and_sums_are_those_of_all_threads() {
        let threads = [Histograms::new(2), Histograms::new(2)];
        (1..=99).for_each(|_| threads[0].note(1, 1000, 1));
        threads[1].note(1, 1_000_000, 1);
        let times = Times::sum(threads.iter(), 1);
        assert_eq!(times.calls(), 100);
        assert!((1.0..1.13).contains(&times.percentile_us(50.0)), "{}", times.percentile_us(50.0));
        assert!(times.percentile_us(100.0) >= 1000.0);
        assert_eq!(times.cumulative(), [(1, 99), (1024, 100)]);
        assert_eq!(Times::sum(threads.iter(), 0).calls(), 0);
    }

    #[test]
    fn times_by_powers_of_two_keep_their_powers() {
        let mut powers = [0; account::POWERS];
        (powers[0], powers[3], powers[31]) = (2, 5, 1);
        let times = Times::of(&powers);
        assert_eq!(times.cumulative()[..2], [(1, 2), (8, 7)]);
        assert_eq!(times.calls(), 8);
    }

    #[test]
    fn events_are_kept_by_the_second_and_by_their_owner() {
        let (events, gw, ai) = (Events::default(), Owner::Tenant(1), Owner::Tenant(2));
        events.note("command", &Owner::Platform, 10, 300);
        events.note("command", &gw, 10, 200);
        events.note("command", &Owner::Platform, 12, 250);
        let history = |owner: &Owner| {
            let mut reply = Reply::new(Protocol::Resp2);
            events.history(owner, b"COMMAND", &mut reply);
            String::from_utf8_lossy(&reply.bytes).into_owned()
        };
        assert_eq!(history(&Owner::Platform), "*2\r\n*2\r\n:10\r\n:300\r\n*2\r\n:12\r\n:250\r\n");
        assert_eq!((history(&gw), history(&ai)), ("*1\r\n*2\r\n:10\r\n:200\r\n".to_owned(), "*0\r\n".to_owned()));
        let graph = events.graph(b"command", 20).expect("noted");
        assert!(graph.starts_with("command - high 300 ms, low 250 ms (all time high 300 ms)\n"), "{graph}");
        assert!(events.advice(100).contains("latency") || events.advice(100).contains("Latency"));
        assert_eq!(events.reset(&ai, &[]), 0);
        assert_eq!(events.reset(&gw, &[b"nope".to_vec()]), 0);
        assert_eq!(events.reset(&gw, &[]), 1);
        assert_eq!(events.reset(&Owner::Platform, &[]), 1);
        for number in 0..OWNERS_MAX as u32 + 9 {
            events.note("command", &Owner::Tenant(number), i64::from(number), 1);
        }
        assert_eq!(events.0.lock().owners.len(), OWNERS_MAX);
    }
}
