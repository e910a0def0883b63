//! Stands in for the crate of this name, which openraft counts the sizes of its batches in. That one makes tables for sixteen
//! precisions at its first use, 26 MB that nobody reads; this one has a count for each power of two. It knows numbers only,
//! and as much of that crate's interface as openraft uses.

use std::fmt;
use std::marker::PhantomData;

/// One for zero, and one for each number of bits.
const BUCKETS: usize = 65;

/// How often numbers were seen, by how many bits they have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    counts: [u64; BUCKETS],
    marks: PhantomData<T>,
}

/// Below which number so many of all are: each is the largest with as many bits as the one meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PercentileStats {
    /// How many numbers were seen.
    pub samples: u64,
    /// One in a thousand is below.
    pub p0_1: u64,
    /// One in a hundred is below.
    pub p1: u64,
    /// Five in a hundred are below.
    pub p5: u64,
    /// A tenth is below.
    pub p10: u64,
    /// Half are below.
    pub p50: u64,
    /// Nine tenths are below.
    pub p90: u64,
    /// All but one in a hundred are below.
    pub p99: u64,
    /// All but one in a thousand are below.
    pub p99_9: u64,
}

impl<T> Default for Histogram<T> {
    fn default() -> Histogram<T> {
        Histogram::new()
    }
}

impl<T> Histogram<T> {
    /// Nothing was seen yet.
    pub fn new() -> Histogram<T> {
        Histogram { counts: [0; BUCKETS], marks: PhantomData }
    }

    /// Notes a number.
    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    /// Notes a number that was seen `count` times.
    pub fn record_n(&mut self, value: u64, count: u64) {
        let bucket = &mut self.counts[(u64::BITS - value.leading_zeros()) as usize];
        *bucket = bucket.saturating_add(count);
    }

    /// How many numbers were seen.
    pub fn total(&self) -> u64 {
        self.counts.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// What most of them are below.
    pub fn percentile_stats(&self) -> PercentileStats {
        let samples = self.total();
        let below = |share: f64| {
            let wanted = (samples as f64 * share).ceil() as u64;
            let mut seen = 0;
            let bits = self.counts.iter().position(|count| {
                seen += count;
                *count > 0 && seen >= wanted
            });
            bits.map_or(0, |bits| u64::MAX.checked_shr(u64::BITS - bits as u32).unwrap_or(0))
        };
        PercentileStats {
            samples,
            p0_1: below(0.001),
            p1: below(0.01),
            p5: below(0.05),
            p10: below(0.1),
            p50: below(0.5),
            p90: below(0.9),
            p99: below(0.99),
            p99_9: below(0.999),
        }
    }
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PercentileStats { samples, p50, p90, p99, p99_9, .. } = self;
        write!(formatter, "{samples} samples: P50 {p50}, P90 {p90}, P99 {p99}, P99.9 {p99_9}")
    }
}

/// Several histograms, each with a name, as lines of text.
#[derive(Debug, Clone, Default)]
pub struct AsciiChart {
    lines: Vec<(String, PercentileStats)>,
}

impl AsciiChart {
    /// Without lines.
    pub fn new() -> AsciiChart {
        AsciiChart::default()
    }

    /// The same with one line more.
    #[must_use]
    pub fn add<T>(mut self, name: impl Into<String>, histogram: Histogram<T>) -> AsciiChart {
        self.lines.push((name.into(), histogram.percentile_stats()));
        self
    }
}

impl fmt::Display for AsciiChart {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|(name, stats)| writeln!(formatter, "{name}: {stats}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_told_by_powers_of_two() {
        let mut histogram = Histogram::<()>::new();
        assert_eq!(histogram.percentile_stats().p50, 0);
        (0..900).for_each(|_| histogram.record(5));
        histogram.record_n(1000, 99);
        histogram.record(u64::MAX);
        let stats = histogram.percentile_stats();
        assert_eq!((stats.samples, stats.p50, stats.p99, stats.p99_9), (1000, 7, 1023, 1023));
        let chart = AsciiChart::new().add("sizes", histogram);
        assert_eq!(chart.to_string(), "sizes: 1000 samples: P50 7, P90 7, P99 1023, P99.9 1023\n");
    }
}
