//! Which answers of a pipeline wait for which writes to be confirmed, so that one write in doubt takes no other answer along.
//!
//! ```text
//!   GET a │ SET b │ GET c        each answer: everything written before it, by anybody    (a read tells of others' writes)
//!   └ confirmed └ in doubt ─► UNKNOWN └ in doubt as well
//! ```
//! Nothing is noted for clients that do not wait for the replicas. An answer that nothing is known about waits for everything.

use crate::gather::Written;
use keyward_proto::resp::skip_reply;
use std::ops::Range;

/// Answers that wait for different writes, at most: what follows waits with the last of them. A pipeline of more writes without a
/// pause waits for them together, in the end.
const DOUBTS_MAX: usize = 64;

/// The answers that were not sent yet.
#[derive(Default)]
pub struct Doubts(Vec<Doubt>);

/// Neighboring answers.
struct Doubt {
    /// Where they lie in the output.
    bytes: Range<usize>,
    /// What must be confirmed before they leave; `None`: nothing.
    needs: Option<Written>,
    confirmed: bool,
}

impl Doubts {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Whether every answer may leave at once: nothing of these requests was run.
    pub(crate) fn need_nothing(&self) -> bool {
        (1..DOUBTS_MAX).contains(&self.0.len()) && self.0.iter().all(|doubt| doubt.needs.is_none())
    }

    /// These answers need that.
    pub(crate) fn add(&mut self, bytes: Range<usize>, needs: Option<Written>) {
        let is_full = self.0.len() >= DOUBTS_MAX;
        if let Some(last) = self.0.last_mut().filter(|last| last.bytes.end == bytes.start) {
            let same_reign = match (last.needs, needs) {
                (Some(last), Some(needs)) => (last.0, last.1) == (needs.0, needs.1),
                _ => false,
            };
            if last.needs == needs || is_full && same_reign {
                last.bytes.end = bytes.end;
                last.needs = needs;
                return;
            }
        }
        if !is_full {
            self.0.push(Doubt { confirmed: needs.is_none(), bytes, needs });
        }
    }

    /// Waits for each in the order of the answers: what came before a write in doubt is known while its replicas still promise.
    /// An error if some of it was not confirmed; of a reign that failed once nothing more is asked.
    pub(crate) async fn confirm_each<E>(&mut self, confirmed: impl AsyncFn(Written) -> Result<(), E>) -> Result<(), E> {
        let (mut all, mut lost) = (Ok(()), Vec::new());
        for doubt in &mut self.0 {
            let Some(needs) = doubt.needs else { continue };
            let reign = (needs.0, needs.1);
            match if lost.contains(&reign) { continue } else { confirmed(needs).await } {
                Ok(()) => doubt.confirmed = true,
                Err(error) => {
                    all = Err(error);
                    lost.push(reign);
                }
            }
        }
        all
    }

    /// The answers, with `line` in place of each that is in doubt. What is sent by itself is no answer, and stays.
    pub(crate) fn settled(&self, output: &[u8], line: &str) -> Vec<u8> {
        let (mut settled, mut at) = (Vec::with_capacity(output.len()), 0);
        while at < output.len() {
            if let Some(known) = self.0.iter().find(|doubt| doubt.confirmed && doubt.bytes.contains(&at)) {
                let end = known.bytes.end.min(output.len());
                settled.extend_from_slice(&output[at..end]);
                at = end;
                continue;
            }
            // What is no answer was made by nobody: it is in doubt as a whole.
            let length = skip_reply(&output[at..]).ok().flatten().unwrap_or(output.len() - at);
            let reply = &output[at..at + length];
            settled.extend_from_slice(if reply.starts_with(b">") { reply } else { line.as_bytes() });
            at += length;
        }
        settled
    }
}

/// Whether an answer tells anything of the data, or is that of a write for which too few nodes are at hand: nothing was run then,
/// and there is nothing to wait for.
pub(crate) fn was_run(reply: &[u8]) -> bool {
    !reply.starts_with(b"-NOREPLICAS ") && !reply.starts_with(b"-EXECABORT ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::Surety;
    use keyward_cluster::{Epoch, GroupId};
    use std::future::Future;

    const LINE: &str = "-UNKNOWN\r\n";

    fn needs(group: u32, position: u64) -> Option<Written> {
        Some((GroupId(group), Surety::of_write(Epoch(1)), position))
    }

    /// How many were asked for, each of which `is_known` or not.
    fn confirm(doubts: &mut Doubts, is_known: impl Fn(Written) -> bool) -> usize {
        let asked = std::cell::Cell::new(0);
        let confirming = doubts.confirm_each(async |needs| {
            asked.set(asked.get() + 1);
            is_known(needs).then_some(()).ok_or(())
        });
        let ended = std::pin::pin!(confirming).poll(&mut std::task::Context::from_waker(std::task::Waker::noop()));
        assert_eq!(ended, std::task::Poll::Ready(Err(())));
        asked.get()
    }

    #[test]
    fn only_what_is_in_doubt_is_replaced() {
        let mut doubts = Doubts::default();
        // An answer about nothing was noted is in doubt, like the last one here.
        let output = b":1\r\n+OK\r\n$1\r\nx\r\n>2\r\n+a\r\n+b\r\n:7\r\n+OK\r\n";
        doubts.add(0..4, needs(0, 5));
        doubts.add(4..9, needs(0, 6));
        doubts.add(9..16, None);
        doubts.add(28..32, needs(2, 1));
        assert_eq!(confirm(&mut doubts, |needs| needs.2 != 6), 3);
        let expected = b":1\r\n-UNKNOWN\r\n$1\r\nx\r\n>2\r\n+a\r\n+b\r\n:7\r\n-UNKNOWN\r\n".to_vec();
        assert_eq!(doubts.settled(output, LINE), expected);
    }

    #[test]
    fn a_long_pipeline_is_told_apart_as_far_as_there_is_room_and_nothing_is_known_too_early() {
        let mut doubts = Doubts::default();
        let count = 3 * DOUBTS_MAX;
        (0..count).for_each(|at| doubts.add(5 * at..5 * (at + 1), needs(0, at as u64)));
        let last = count as u64 - 1;
        assert_eq!(confirm(&mut doubts, |needs| needs.2 != last), DOUBTS_MAX, "the last one waits for all");
        let settled = doubts.settled("+OK\r\n".repeat(count).as_bytes(), LINE);
        let known = settled.windows(5).filter(|window| window == b"+OK\r\n").count();
        assert_eq!(known, DOUBTS_MAX - 1);
    }
}
