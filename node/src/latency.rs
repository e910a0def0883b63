//! How long commands took, and what made the node slow: `LATENCY` and `INFO latencystats`.
//!
//! Each data thread has a histogram for each command it ran, made at the first call; only that thread writes it, so noting
//! a time is a few plain instructions. Buckets grow by an eighth of a power of two: what is told is at most 12 % too long.
//! Slow events are kept by name for the whole node, one for a second, as Redis keeps them.

use crate::counters::Counter;
use keyward_engine::reply::Reply;
use keyward_engine::table::Table;
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
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
    for row in names.iter().filter_map(|name| table.find(name)) {
        wanted.push(usize::from(row.id));
        wanted.extend(row.subcommands.iter().map(|id| usize::from(*id)));
    }
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

/// What made the node slow, by name.
#[derive(Default)]
pub struct Events(Mutex<BTreeMap<&'static str, Series>>);

impl Events {
    /// Something took this long.
    pub fn note(&self, event: &'static str, at_s: i64, ms: u64) {
        let mut events = self.0.lock();
        let series = events.entry(event).or_default();
        series.worst_ms = series.worst_ms.max(ms);
        match series.moments.back_mut() {
            Some((second, kept)) if *second == at_s => *kept = (*kept).max(ms),
            _ => series.moments.push_back((at_s, ms)),
        }
        if series.moments.len() > MOMENTS_MAX {
            series.moments.pop_front();
        }
    }

    /// `LATENCY LATEST`.
    pub fn latest(&self, reply: &mut Reply) {
        let events = self.0.lock();
        reply.array(events.len());
        for (name, series) in events.iter() {
            let (at, ms) = series.moments.back().copied().unwrap_or_default();
            reply.array(4);
            reply.bulk(name.as_bytes());
            reply.integer(at);
            reply.integer(ms as i64);
            reply.integer(series.worst_ms as i64);
        }
    }

    /// `LATENCY HISTORY`.
    pub fn history(&self, event: &[u8], reply: &mut Reply) {
        let events = self.0.lock();
        let series = events.iter().find(|(name, _)| name.as_bytes().eq_ignore_ascii_case(event));
        reply.array(series.map_or(0, |(_, series)| series.moments.len()));
        for (at, ms) in series.into_iter().flat_map(|(_, series)| &series.moments) {
            reply.array(2);
            reply.integer(*at);
            reply.integer(*ms as i64);
        }
    }

    /// `LATENCY RESET`: how many events there were to forget.
    pub fn reset(&self, names: &[Vec<u8>]) -> usize {
        let mut events = self.0.lock();
        let before = events.len();
        events.retain(|name, _| {
            !names.is_empty() && !names.iter().any(|wanted| wanted.eq_ignore_ascii_case(name.as_bytes()))
        });
        before - events.len()
    }

    /// `LATENCY GRAPH`; `None`: nothing was noted under this name.
    pub fn graph(&self, event: &[u8], now_s: i64) -> Option<String> {
        let events = self.0.lock();
        let (name, series) = events.iter().find(|(name, _)| name.as_bytes().eq_ignore_ascii_case(event))?;
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
        let events = self.0.lock();
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
    fn events_are_kept_by_the_second() {
        let events = Events::default();
        events.note("command", 10, 300);
        events.note("command", 10, 200);
        events.note("command", 12, 250);
        let mut reply = Reply::new(Protocol::Resp2);
        events.history(b"COMMAND", &mut reply);
        assert_eq!(String::from_utf8_lossy(&reply.bytes), "*2\r\n*2\r\n:10\r\n:300\r\n*2\r\n:12\r\n:250\r\n");
        let graph = events.graph(b"command", 20).expect("noted");
        assert!(graph.starts_with("command - high 300 ms, low 250 ms (all time high 300 ms)\n"), "{graph}");
        assert!(events.advice(100).contains("latency") || events.advice(100).contains("Latency"));
        assert_eq!(events.reset(&[b"nope".to_vec()]), 0);
        assert_eq!(events.reset(&[]), 1);
    }
}
