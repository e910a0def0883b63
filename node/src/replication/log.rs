//! The stream of effects: bytes at positions that only grow, the newest of them in memory.
//!
//! ```text
//!   position   base ──────────────── whole ── end
//!              oldest byte held      │        last byte written
//!                                    └ the last step that is complete: nothing behind it is sent
//! ```
//! The primary appends what its writes did, replicas what they received, so that any of them can go on as primary and serve
//! others from where they stand. Which epoch began where is kept beside it: a stream that went on under another primary can be
//! told from one that merely stopped. Old bytes go when there are too many; who needs them then needs a full copy.

use super::record;
use keyward_cluster::Epoch;
use keyward_engine::keyspace::SpaceId;
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::sync::Notify;

/// Bytes are held in pieces of this size; a longer record has one of its own.
const CHUNK_BYTES: usize = 1 << 20;

/// For a replica that follows and falls behind, so many times the usual amount is held; one that is further behind begins anew.
const STREAM_BACKLOGS: u64 = 4;

/// Epochs remembered: as many failovers may lie between a replica's last word and its return.
const REIGNS_MAX: usize = 64;

/// Which epochs began where, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History(Vec<(Epoch, u64)>);

impl History {
    /// As it came; anything that is not ascending is left out.
    pub fn new(reigns: impl IntoIterator<Item = (Epoch, u64)>) -> History {
        let mut history = History::default();
        for (epoch, position) in reigns {
            history.begin(epoch, position);
        }
        history
    }

    /// Epochs and where they began, oldest first.
    pub fn reigns(&self) -> &[(Epoch, u64)] {
        &self.0
    }

    /// The newest epoch.
    pub fn epoch(&self) -> Epoch {
        self.0.last().map_or(Epoch(0), |(epoch, _)| *epoch)
    }

    fn begin(&mut self, epoch: Epoch, position: u64) {
        if self.0.last().is_some_and(|(last, began)| *last >= epoch || *began > position) {
            return;
        }
        if self.0.len() == REIGNS_MAX {
            self.0.remove(0);
        }
        self.0.push((epoch, position));
    }

    /// Whether data whose last effect was made in `epoch` and which ends at `position` is a beginning of this stream: nobody
    /// who comes from there has anything this stream has not.
    pub fn continues(&self, epoch: Epoch, position: u64) -> bool {
        let Some(at) = self.0.iter().position(|(known, _)| *known == epoch) else { return false };
        let ended = self.0.get(at + 1).map_or(u64::MAX, |(_, began)| *began);
        self.0[at].1 <= position && position <= ended
    }

    /// Up to where two streams are the same; `None` where they have no epoch in common that is remembered.
    pub fn same_until(&self, other: &History) -> Option<u64> {
        let (here, there) = self.0.iter().enumerate().rev().find_map(|(at, (epoch, _))| {
            let there = other.0.iter().position(|(known, _)| known == epoch)?;
            Some((at, there))
        })?;
        let ended = |history: &History, at: usize| history.0.get(at + 1).map_or(u64::MAX, |(_, began)| *began);
        Some(ended(self, here).min(ended(other, there)))
    }
}

/// The stream of one shard group, as one node has it.
pub struct Log {
    held: Mutex<Held>,
    /// The end of the last complete step.
    whole: AtomicU64,
    /// Somebody waits for more.
    awaited: AtomicBool,
    more: Notify,
}

struct Held {
    chunks: VecDeque<Chunk>,
    end: u64,
    whole: u64,
    step: Step,
    /// Beginnings without an end: a script within a transaction is part of its step.
    depth: u32,
    history: History,
    bytes_max: u64,
    pinned_bytes_max: u64,
    pins: BTreeMap<u64, Pin>,
    next_pin: u64,
    /// Large pieces of memory that are not needed any more, to be given back when the lock is free.
    garbage: Vec<Vec<u8>>,
}

/// What somebody still needs.
struct Pin {
    position: u64,
    /// Not more than this is held for its sake, in bytes.
    bytes_max: u64,
}

/// What a pin is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A full copy is under way, which takes as long as it takes.
    Copy,
    /// A replica follows and is a little behind.
    Stream,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Every record is a step.
    None,
    /// One was announced, and nothing of it was written.
    Announced,
    /// Some of it was written.
    Begun,
}

struct Chunk {
    start: u64,
    bytes: Vec<u8>,
}

/// The bytes somebody asks for are not held any more, or never were.
#[derive(Debug, PartialEq, Eq)]
pub struct Gone;

impl Log {
    /// Empty, at position 0. It holds about `bytes_max`, and while a full copy is under way up to `pinned_bytes_max`.
    pub fn new(bytes_max: u64, pinned_bytes_max: u64) -> Log {
        Log {
            held: Mutex::new(Held {
                chunks: VecDeque::new(),
                end: 0,
                whole: 0,
                step: Step::None,
                depth: 0,
                history: History::default(),
                bytes_max,
                pinned_bytes_max: pinned_bytes_max.max(bytes_max),
                pins: BTreeMap::new(),
                next_pin: 0,
                garbage: Vec::new(),
            }),
            whole: AtomicU64::new(0),
            awaited: AtomicBool::new(false),
            more: Notify::new(),
        }
    }

    /// The end of the last complete step.
    #[inline]
    pub fn position(&self) -> u64 {
        self.whole.load(Ordering::Acquire)
    }

    /// The end of the last complete step, with the history up to there.
    pub fn stand(&self) -> (u64, History) {
        let held = self.held.lock();
        (held.whole, held.history.clone())
    }

    /// The epoch in which the newest effects were made.
    pub fn epoch(&self) -> Epoch {
        self.held.lock().history.epoch()
    }

    /// How much is held, in bytes.
    pub fn len_bytes(&self) -> u64 {
        let held = self.held.lock();
        held.end - held.base()
    }

    /// The oldest position that is held.
    pub fn base(&self) -> u64 {
        self.held.lock().base()
    }

    /// What it may hold from now on.
    pub fn set_bytes_max(&self, bytes_max: u64, pinned_bytes_max: u64) {
        let mut held = self.held.lock();
        held.bytes_max = bytes_max;
        held.pinned_bytes_max = pinned_bytes_max.max(bytes_max);
        held.trim();
    }

    /// From here on the effects are those of `epoch`.
    pub fn begin_epoch(&self, epoch: Epoch) {
        let mut held = self.held.lock();
        let end = held.end;
        held.history.begin(epoch, end);
    }

    /// Appends one effect; [`Log::tell`] says so to who waits. The caller holds the locks of what it concerns.
    pub fn append<'w>(&self, removed: bool, space: SpaceId, words: impl Iterator<Item = &'w [u8]> + Clone) {
        self.append_of(None, removed, space, words);
    }

    /// The same, signed by the client that made it, if there is one that wants it.
    pub fn append_of<'w>(
        &self,
        signer: Option<u64>,
        removed: bool,
        space: SpaceId,
        words: impl Iterator<Item = &'w [u8]> + Clone,
    ) {
        let size = record::size(space, words.clone());
        // A long one is copied before anybody has to wait for it.
        let own = (size > CHUNK_BYTES).then(|| {
            let mut bytes = Vec::with_capacity(size);
            record::write(&mut bytes, size, removed, space, words.clone());
            bytes
        });
        let mut held = self.held.lock();
        if held.step == Step::Announced {
            held.extend(&record::mark(true));
            held.step = Step::Begun;
        }
        if let Some(client) = signer {
            held.extend(&record::signature(client));
        }
        match own {
            Some(bytes) => held.push(bytes),
            None => {
                record::write(held.room(size), size, removed, space, words);
                held.end += size as u64;
            }
        }
        if held.step == Step::None {
            held.whole = held.end;
            self.whole.store(held.end, Ordering::Release);
        }
        let garbage = std::mem::take(&mut held.garbage);
        drop(held);
        drop(garbage);
    }

    /// Appends one record that is already spelled. The caller holds the locks of what it concerns.
    pub fn append_spelled(&self, record: Vec<u8>) {
        let mut held = self.held.lock();
        if held.step == Step::Announced {
            held.extend(&record::mark(true));
            held.step = Step::Begun;
        }
        if record.len() > CHUNK_BYTES {
            held.push(record)
        } else {
            held.extend(&record)
        }
        if held.step == Step::None {
            held.whole = held.end;
            self.whole.store(held.end, Ordering::Release);
        }
        let garbage = std::mem::take(&mut held.garbage);
        drop(held);
        drop(garbage);
    }

    /// Appends the records of one step. The caller is alone with the keys they concern.
    pub fn append_step(&self, records: Vec<u8>) {
        let mut held = self.held.lock();
        let within = held.step != Step::None;
        if !within {
            held.extend(&record::mark(true));
        }
        if records.len() > CHUNK_BYTES {
            held.push(records);
        } else {
            held.extend(&records);
        }
        if !within {
            held.extend(&record::mark(false));
            held.whole = held.end;
            self.whole.store(held.end, Ordering::Release);
        }
    }

    /// What is appended from now on is one step.
    pub fn begin_step(&self) {
        let mut held = self.held.lock();
        held.depth += 1;
        if held.step == Step::None {
            held.step = Step::Announced;
        }
    }

    /// Bytes of a step that is not complete.
    pub fn incomplete_bytes(&self) -> u64 {
        let held = self.held.lock();
        held.end - held.whole
    }

    /// The step is complete.
    pub fn end_step(&self) {
        let mut held = self.held.lock();
        held.depth = held.depth.saturating_sub(1);
        if held.depth > 0 {
            return;
        }
        if held.step == Step::Begun {
            held.extend(&record::mark(false));
        }
        held.step = Step::None;
        held.whole = held.end;
        self.whole.store(held.end, Ordering::Release);
    }

    /// Appends whole steps that were received.
    pub fn append_received(&self, steps: &[u8]) {
        let own = (steps.len() > CHUNK_BYTES).then(|| steps.to_vec());
        let mut held = self.held.lock();
        match own {
            Some(bytes) => held.push(bytes),
            None => held.extend(steps),
        }
        held.whole = held.end;
        self.whole.store(held.end, Ordering::Release);
        let garbage = std::mem::take(&mut held.garbage);
        drop(held);
        drop(garbage);
    }

    /// The history of a stream this one continues.
    pub fn adopt(&self, history: History) {
        self.held.lock().history = history;
    }

    /// Empties it: what comes next is at `position` of a stream with this history.
    pub fn restart(&self, position: u64, history: History) {
        let mut held = self.held.lock();
        held.chunks.clear();
        (held.step, held.depth) = (Step::None, 0);
        (held.end, held.whole, held.history) = (position, position, history);
        self.whole.store(position, Ordering::Release);
    }

    /// Wakes who waits for more. Cheap when nobody does.
    #[inline]
    pub fn tell(&self) {
        if self.awaited.load(Ordering::Relaxed) {
            self.wake();
        }
    }

    #[cold]
    fn wake(&self) {
        if self.awaited.swap(false, Ordering::AcqRel) {
            self.more.notify_waiters();
        }
    }

    /// Waits until there is more than `position`. It may return early.
    pub async fn beyond(&self, position: u64) {
        let more = self.more.notified();
        self.awaited.store(true, Ordering::Release);
        if self.position() <= position {
            more.await;
        }
    }

    /// Whether the bytes from `position` on are held.
    pub fn holds(&self, position: u64) -> bool {
        let held = self.held.lock();
        (held.base()..=held.whole).contains(&position)
    }

    /// Appends up to `max` bytes from `position` on to `into`; not beyond the last complete step.
    pub fn copy(&self, position: u64, max: usize, into: &mut Vec<u8>) -> Result<(), Gone> {
        let held = self.held.lock();
        if !(held.base()..=held.whole).contains(&position) {
            return Err(Gone);
        }
        let mut at = position;
        let until = held.whole.min(position + max as u64);
        let first = held.chunks.partition_point(|chunk| chunk.end() <= position);
        for chunk in held.chunks.range(first..) {
            if at >= until {
                break;
            }
            let (from, to) = ((at - chunk.start) as usize, (until.min(chunk.end()) - chunk.start) as usize);
            into.extend_from_slice(&chunk.bytes[from..to]);
            at = chunk.start + to as u64;
        }
        Ok(())
    }

    /// Holds what comes from `position` on until [`Log::unpin`] is called with the number returned, within bounds.
    pub fn pin(&self, position: u64, purpose: Purpose) -> u64 {
        let mut held = self.held.lock();
        let id = held.next_pin;
        held.next_pin += 1;
        held.set_pin(id, position, purpose);
        id
    }

    /// What comes before `position` is not needed for this pin any more.
    pub fn move_pin(&self, id: u64, position: u64, purpose: Purpose) {
        self.held.lock().set_pin(id, position, purpose);
    }

    /// Lets what was pinned go.
    pub fn unpin(&self, id: u64) {
        let mut held = self.held.lock();
        held.pins.remove(&id);
        held.trim();
    }
}

impl Chunk {
    fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }
}

impl Held {
    fn base(&self) -> u64 {
        self.chunks.front().map_or(self.end, |chunk| chunk.start)
    }

    fn extend(&mut self, bytes: &[u8]) {
        self.room(bytes.len()).extend_from_slice(bytes);
        self.end += bytes.len() as u64;
    }

    /// Where the next `size` bytes go.
    fn room(&mut self, size: usize) -> &mut Vec<u8> {
        let fits = self.chunks.back().is_some_and(|last| last.bytes.capacity() - last.bytes.len() >= size);
        if !fits {
            let used = self.trim();
            let bytes = used.filter(|bytes| bytes.capacity() >= size);
            let bytes = bytes.unwrap_or_else(|| Vec::with_capacity(CHUNK_BYTES.max(size)));
            self.chunks.push_back(Chunk { start: self.end, bytes });
        }
        &mut self.chunks.back_mut().expect("one was pushed if there was none").bytes
    }

    /// Appends a piece of its own.
    fn push(&mut self, bytes: Vec<u8>) {
        self.trim();
        let start = self.end;
        self.end += bytes.len() as u64;
        self.chunks.push_back(Chunk { start, bytes });
    }

    fn set_pin(&mut self, id: u64, position: u64, purpose: Purpose) {
        let bytes_max = match purpose {
            Purpose::Copy => self.pinned_bytes_max,
            Purpose::Stream => self.bytes_max.saturating_mul(STREAM_BACKLOGS).min(self.pinned_bytes_max),
        };
        self.pins.insert(id, Pin { position, bytes_max });
    }

    /// Lets old bytes go; memory to be used again, if some of the usual size became free.
    fn trim(&mut self) -> Option<Vec<u8>> {
        let within = |pin: &&Pin| self.end.saturating_sub(pin.position) <= pin.bytes_max;
        let pinned = self.pins.values().filter(within).map(|pin| pin.position).min();
        let keep_from = self.end.saturating_sub(self.bytes_max).min(pinned.unwrap_or(u64::MAX)).min(self.whole);
        let mut free = None;
        while self.chunks.front().is_some_and(|first| first.end() <= keep_from && !first.bytes.is_empty()) {
            let Some(mut chunk) = self.chunks.pop_front() else { break };
            if chunk.bytes.capacity() == CHUNK_BYTES {
                chunk.bytes.clear();
                free = Some(chunk.bytes);
            } else {
                self.garbage.push(chunk.bytes);
            }
        }
        free
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_the_same_until_one_of_them_went_on_under_another_epoch() {
        let history = |reigns: &[(u64, u64)]| History::new(reigns.iter().map(|(epoch, at)| (Epoch(*epoch), *at)));
        let ours = history(&[(1, 0), (3, 100)]);
        assert_eq!(ours.same_until(&history(&[(1, 0), (3, 100)])), Some(u64::MAX));
        assert_eq!(ours.same_until(&history(&[(1, 0), (3, 100), (4, 250)])), Some(250));
        assert_eq!(ours.same_until(&history(&[(1, 0), (4, 80)])), Some(80), "the reign of 3 was nobody's but ours");
        assert_eq!(ours.same_until(&history(&[(1, 0), (4, 120)])), Some(100), "from there on each wrote its own");
        assert_eq!(ours.same_until(&history(&[(5, 10)])), None, "too long ago");
        assert_eq!(history(&[]).same_until(&ours), None);
    }

    const SPACE: SpaceId = SpaceId { tenant: keyward_engine::keyspace::TenantId(0), database: 0 };

    fn append(log: &Log, words: &[&[u8]]) {
        log.append(false, SPACE, words.iter().copied());
    }

    #[test]
    fn an_incomplete_step_is_not_handed_out() {
        let log = Log::new(1 << 20, 1 << 20);
        append(&log, &[b"SET", b"a", b"1"]);
        let whole = log.position();
        log.begin_step();
        append(&log, &[b"SET", b"b", b"2"]);
        assert_eq!(log.position(), whole);
        let mut seen = Vec::new();
        log.copy(0, usize::MAX >> 1, &mut seen).unwrap();
        assert_eq!(seen.len() as u64, whole);
        log.end_step();
        assert!(log.position() > whole);
        // A step in which nothing happened leaves no trace.
        let before = log.position();
        log.begin_step();
        log.end_step();
        assert_eq!(log.position(), before);
    }

    #[test]
    fn old_bytes_go_unless_somebody_needs_them() {
        let log = Log::new(3 << 20, 8 << 20);
        let value = vec![7; 100_000];
        let pin = log.pin(0, Purpose::Copy);
        for _ in 0..60 {
            append(&log, &[b"SET", b"k", &value]);
        }
        assert!(log.holds(0));
        for _ in 0..60 {
            append(&log, &[b"SET", b"k", &value]);
        }
        assert!(!log.holds(0), "a pin has its bound");
        log.unpin(pin);
        assert!(log.len_bytes() <= 5 << 20);
        let mut piece = Vec::new();
        assert_eq!(log.copy(0, 10, &mut piece), Err(Gone));
        let from = log.base();
        log.copy(from, 3 << 20, &mut piece).unwrap();
        assert_eq!(piece.len(), 3 << 20);
        assert_eq!(log.copy(log.position() + 1, 10, &mut piece), Err(Gone));
    }

    #[test]
    fn a_replica_that_follows_may_be_behind_by_a_few_long_values() {
        let log = Log::new(1 << 20, 64 << 20);
        let value = vec![7; 3 << 20];
        append(&log, &[b"SET", b"k", b"v"]);
        let mut position = 0;
        let pin = log.pin(position, Purpose::Stream);
        append(&log, &[b"SET", b"k", &value]);
        append(&log, &[b"SET", b"k", b"v"]);
        assert!(log.holds(position), "the log alone would have let it go");
        let mut seen = Vec::new();
        while log.position() > position {
            let before = seen.len();
            log.copy(position, 1 << 20, &mut seen).unwrap();
            position += (seen.len() - before) as u64;
            log.move_pin(pin, position, Purpose::Stream);
        }
        append(&log, &[b"SET", b"k", &value]);
        append(&log, &[b"SET", b"k", &value]);
        append(&log, &[b"SET", b"k", b"v"]);
        assert!(!log.holds(position), "one that is too far behind is not waited for");
    }

    #[test]
    fn a_stream_that_went_its_own_way_is_noticed() {
        let history = History::new([(Epoch(1), 0), (Epoch(3), 500), (Epoch(4), 800)]);
        assert!(history.continues(Epoch(1), 500));
        assert!(history.continues(Epoch(3), 700));
        assert!(history.continues(Epoch(4), 9000));
        // It wrote on while others had a new primary.
        assert!(!history.continues(Epoch(1), 501));
        // Nobody here knows that epoch.
        assert!(!history.continues(Epoch(2), 400));
        assert!(!history.continues(Epoch(5), 900));
        assert!(!history.continues(Epoch(3), 400));
    }
}
