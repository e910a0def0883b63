//! Where the stream ended at which time, so that it can be said how old the oldest write is that a replica lacks.
//!
//! ```text
//!   marks     end 100 at 5 ms ── end 180 at 6 ms ── end 900 at 40 ms        a replica has everything before 150:
//!                                └ was written by then                      it is behind since 6 ms
//! ```
//! Marks are made whenever something is sent and at least once per look at who is in sync, so that an age is too small by that at
//! most, and by a sixteenth of it. There are few: the older they are, the further they are apart. Knows no replica.

use std::collections::VecDeque;

/// Marks held at most. A logarithm bounds those that have to stay: about 16 * ln(age of the oldest, in ms).
const MARKS_MAX: usize = 1024;

/// Two marks are no further apart than this part of their age.
const RESOLUTION: u64 = 16;

/// Where the stream ended when.
#[derive(Default)]
pub(super) struct Marks(VecDeque<Mark>);

#[derive(Clone, Copy)]
struct Mark {
    end: u64,
    at_ms: u64,
}

impl Marks {
    /// The stream ends here now.
    pub(super) fn note(&mut self, end: u64, now_ms: u64) {
        match self.0.back_mut() {
            Some(last) if last.end >= end => return,
            Some(last) if last.at_ms == now_ms => last.end = end,
            _ => self.0.push_back(Mark { end, at_ms: now_ms }),
        }
        if self.0.len() > MARKS_MAX {
            self.thin(now_ms);
        }
    }

    /// Lets those go whose neighbors tell nearly the same.
    fn thin(&mut self, now_ms: u64) {
        let mut kept: VecDeque<Mark> = VecDeque::with_capacity(MARKS_MAX / 2);
        let mut marks = self.0.iter().copied().peekable();
        while let Some(mark) = marks.next() {
            let (Some(before), Some(next)) = (kept.back(), marks.peek()) else {
                // The oldest one and the newest one stay.
                kept.push_back(mark);
                continue;
            };
            if next.at_ms - before.at_ms > (now_ms - next.at_ms) / RESOLUTION {
                kept.push_back(mark);
            }
        }
        self.0 = kept;
    }

    /// For how long somebody has lacked something who has everything before `position`, in milliseconds.
    pub(super) fn age_ms(&self, position: u64, now_ms: u64) -> u64 {
        let first = self.0.partition_point(|mark| mark.end <= position);
        self.0.get(first).map_or(0, |mark| now_ms.saturating_sub(mark.at_ms))
    }

    /// Another stream begins.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_lacks_nothing_is_not_behind_and_who_lacks_something_is_since_it_was_written() {
        let mut marks = Marks::default();
        assert_eq!(marks.age_ms(0, 1000), 0, "nothing was written");
        marks.note(100, 5);
        marks.note(180, 6);
        marks.note(900, 40);
        // Nothing was written since: that is no news.
        marks.note(900, 500);
        assert_eq!(marks.age_ms(900, 1000), 0);
        assert_eq!(marks.age_ms(899, 1000), 960);
        assert_eq!(marks.age_ms(180, 1000), 960);
        assert_eq!(marks.age_ms(150, 1000), 994);
        assert_eq!(marks.age_ms(0, 1000), 995);
        marks.clear();
        assert_eq!(marks.age_ms(0, 1000), 0);
    }

    #[test]
    fn many_marks_take_little_room_and_forget_neither_the_oldest_nor_the_newest() {
        let mut marks = Marks::default();
        for ms in 1..=1_000_000 {
            marks.note(ms * 10, ms);
        }
        assert!(marks.0.len() <= MARKS_MAX);
        assert_eq!(marks.age_ms(0, 1_000_000), 999_999);
        for behind in [1, 10, 100, 1000, 10_000, 100_000] {
            let age = marks.age_ms((1_000_000 - behind) * 10, 1_000_000);
            assert!(age < behind && age + 1 + behind / RESOLUTION >= behind, "{behind} ms behind are told as {age}");
        }
    }
}
