//! How far behind the source we are, measured by asking it: where its stream stood at which moment.
//!
//! A sample says "at this moment of the source's clock its stream was that long". Whatever lies behind that offset ran
//! later. So samples tell three things: how many bytes are missing, for how long, and the latest moment that surely lies
//! before the next command to be applied, by the source's own clock: no key that was alive then may look expired to it.

use parking_lot::Mutex;
use std::collections::VecDeque;
use std::time::Instant;

/// Samples kept; when there are more, every other one goes. Two per second reach back five minutes.
const SAMPLES_MAX: usize = 600;

/// Where the source stood.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// The length of its stream.
    pub(super) offset: u64,
    /// Its clock, in milliseconds since 1970.
    pub(super) source_ms: i64,
    /// Ours.
    pub(super) at: Instant,
}

#[derive(Default)]
struct Known {
    applied: u64,
    samples: VecDeque<Sample>,
    /// The latest source time that lies before everything not yet applied.
    floor_ms: i64,
}

/// Shared by the thread that applies and the one that asks.
#[derive(Default)]
pub(super) struct Followed(Mutex<Known>);

impl Followed {
    /// A new stream begins at `offset`, and nothing in it ran before `source_ms`.
    pub(super) fn begin(&self, offset: u64, source_ms: i64) {
        *self.0.lock() = Known { applied: offset, samples: VecDeque::new(), floor_ms: source_ms };
    }

    /// Everything up to `offset` was applied.
    pub(super) fn applied(&self, offset: u64) {
        let mut known = self.0.lock();
        known.applied = offset;
        while let Some(first) = known.samples.front().copied().filter(|first| first.offset <= offset) {
            // The last one is kept: it is what we know of the source.
            known.floor_ms = known.floor_ms.max(first.source_ms);
            if known.samples.len() == 1 {
                break;
            }
            known.samples.pop_front();
        }
    }

    /// The source told where it stands.
    pub(super) fn told(&self, sample: Sample) {
        let mut known = self.0.lock();
        if known.samples.back().is_some_and(|last| last.offset > sample.offset) {
            // It began anew.
            known.samples.clear();
        }
        known.samples.push_back(sample);
        if known.samples.len() > SAMPLES_MAX {
            let mut nth = 0;
            known.samples.retain(|_| {
                nth += 1;
                nth % 2 == 0
            });
        }
        let applied = known.applied;
        drop(known);
        self.applied(applied);
    }

    /// The clock by which the next command is to be applied.
    pub(super) fn floor_ms(&self) -> i64 {
        self.0.lock().floor_ms
    }

    /// Bytes missing, and milliseconds since the first of them was seen; `None` before the source was asked.
    pub(super) fn lag(&self) -> (Option<u64>, Option<u64>) {
        let known = self.0.lock();
        let Some(last) = known.samples.back() else { return (None, None) };
        let bytes = last.offset.saturating_sub(known.applied);
        let since = known.samples.iter().find(|sample| sample.offset > known.applied);
        (Some(bytes), Some(since.map_or(0, |sample| sample.at.elapsed().as_millis() as u64)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(offset: u64, source_ms: i64) -> Sample {
        Sample { offset, source_ms, at: Instant::now() }
    }

    #[test]
    fn the_clock_follows_what_surely_ran_before() {
        let followed = Followed::default();
        followed.begin(100, 1000);
        assert_eq!((followed.floor_ms(), followed.lag()), (1000, (None, None)));
        followed.told(sample(100, 1500));
        followed.told(sample(300, 2000));
        // What lies behind 100 ran after 1500; whether it ran after 2000 nobody knows.
        assert_eq!(followed.floor_ms(), 1500);
        assert_eq!(followed.lag().0, Some(200));
        followed.applied(299);
        assert_eq!(followed.floor_ms(), 1500);
        followed.applied(300);
        assert_eq!((followed.floor_ms(), followed.lag()), (2000, (Some(0), Some(0))));
        // A quiet source: time goes on without its stream.
        followed.told(sample(300, 9000));
        assert_eq!(followed.floor_ms(), 9000);
    }

    #[test]
    fn samples_are_bounded_however_far_behind_we_are() {
        let followed = Followed::default();
        (1..10_000).for_each(|offset| followed.told(sample(offset, offset as i64)));
        assert!(followed.0.lock().samples.len() <= SAMPLES_MAX);
        assert_eq!(followed.lag().0, Some(9999));
    }
}
