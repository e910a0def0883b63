//! Raft's log and vote, as openraft wants them: one writer thread over [`super::log_disk`], with group commit.
//!
//! ```text
//! append ──► pending (readable at once) ──► queue ──► writer: take all that waits, write, flush once, then say so
//! ```
//!
//! The invariant everything rests on: a callback fires, or a reply is sent, only after the flush that covers it. Votes
//! and entries pass the same queue, so they reach the disk in the order Raft gave them. The first error is final: every
//! later call fails, Raft stops, and the process leaves service.
//!
//! [`super::log_mark`] remembers beside the log what it held, so that a log that lost its end is not taken for a whole
//! one.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use keyward_proto::control as wire;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use prost::Message;
use tokio::sync::{mpsc, oneshot};

use super::codec;
use super::log_disk::{DiskError, LogDisk, Meta, SyncHook, damaged};
use super::log_mark::{Mark, MarkFile};
use super::raft_types::{Entry, LogId, TypeConfig, Vote};
use crate::world;

/// Jobs waiting for the writer. Raft itself waits for most of them, so more would never fill.
const QUEUE_MAX: usize = 256;

/// Jobs written under one flush, so that the first of them is not kept waiting for ever.
const GROUP_MAX: usize = 128;

/// Bytes of entries handed to a peer in one message: far below the limit of a message, large enough to catch up fast.
const READ_BYTES_MAX: usize = 2 * 1024 * 1024;

/// The store. Clones share it.
#[derive(Clone)]
pub struct LogStore {
    shared: Arc<Shared>,
}

struct Shared {
    disk: Arc<LogDisk>,
    memory: Arc<Mutex<Memory>>,
    jobs: mpsc::Sender<Job>,
    writer: Mutex<Option<world::Beside>>,
}

/// What readers need without waiting for the disk.
#[derive(Default)]
struct Memory {
    /// Entries the writer has not yet handed to sled.
    pending: BTreeMap<u64, (Entry, usize)>,
    /// The first entry there is; meaningless while there is none.
    first: u64,
    last: Option<LogId>,
    purged: Option<LogId>,
    committed: Option<LogId>,
    vote: Option<Vote>,
    identity: Option<wire::Identity>,
}

impl Memory {
    fn held(&self) -> Mark {
        Mark { end: self.last.map_or(0, |last| last.index() + 1), vote: self.vote.as_ref().map_or((0, 0), vote_mark) }
    }
}

enum Job {
    Append {
        entries: Vec<(u64, Vec<u8>)>,
        done: IOFlushed<TypeConfig>,
    },
    Put {
        meta: Meta,
        body: Vec<u8>,
        done: Done,
    },
    /// Not worth a flush of its own: losing it costs a replay, never a fact.
    Committed {
        body: Vec<u8>,
    },
    Truncate {
        keep: Option<u64>,
        done: Done,
    },
    Purge {
        upto: u64,
        body: Vec<u8>,
        done: Done,
    },
    Stop {
        done: Done,
    },
}

type Done = oneshot::Sender<io::Result<()>>;

/// Somebody who hears about the next flush.
enum Waiting {
    Callback(IOFlushed<TypeConfig>),
    Reply(Done),
}

impl LogStore {
    /// Opens the store in `dir`, reads all of it back, and starts its writer.
    pub fn open(dir: &Path, sync: SyncHook) -> Result<Self, DiskError> {
        let disk = Arc::new(LogDisk::open(dir, sync)?);
        let memory = recover(dir, &disk)?;
        let held = memory.held();
        let mark = MarkFile::open(dir, memory.identity.is_some().then_some(held))?;
        let memory = Arc::new(Mutex::new(memory));
        let (jobs, queue) = mpsc::channel(QUEUE_MAX);
        let writer = Writer { disk: disk.clone(), memory: memory.clone(), mark, held, failed: None };
        let thread = world::beside("keyward-raft-log", move || writer.run(queue));
        let thread = thread.map_err(|error| DiskError::Io(dir.to_owned(), error))?;
        let shared = Shared { disk, memory, jobs, writer: Mutex::new(Some(thread)) };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Who this disk belongs to; `None` on a fresh one.
    pub(crate) fn identity(&self) -> Option<wire::Identity> {
        self.memory().identity.clone()
    }

    /// Writes down who this disk belongs to. Done once, before Raft starts.
    pub(crate) async fn save_identity(&self, identity: wire::Identity) -> io::Result<()> {
        self.memory().identity = Some(identity.clone());
        self.put(Meta::Identity, identity.encode_to_vec()).await
    }

    /// Whether the log holds, or ever held, anything.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        let memory = self.memory();
        memory.last.is_none() && memory.vote.is_none()
    }

    /// The last entry compacted away: a snapshot must reach at least here.
    pub(crate) fn purged(&self) -> Option<LogId> {
        self.memory().purged
    }

    /// Flushes and stops the writer. Later writes fail.
    pub(crate) async fn close(&self) -> io::Result<()> {
        let result = self.wait(|done| Job::Stop { done }).await;
        let thread = self.shared.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            world::over(thread).await;
        }
        result
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.shared.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn put(&self, meta: Meta, body: Vec<u8>) -> io::Result<()> {
        self.wait(|done| Job::Put { meta, body, done }).await
    }

    async fn wait(&self, job: impl FnOnce(Done) -> Job) -> io::Result<()> {
        let (done, answer) = oneshot::channel();
        self.send(job(done)).await?;
        answer.await.unwrap_or_else(|_| Err(stopped()))
    }

    async fn send(&self, job: Job) -> io::Result<()> {
        self.shared.jobs.send(job).await.map_err(|_| stopped())
    }

    /// Entries of `start..=end`, as far as the log holds them, up to about `bytes_max` but at least one.
    fn read(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let (first, last) = {
            let memory = self.memory();
            let Some(last) = memory.last else { return Ok(Vec::new()) };
            (memory.first.max(start), last.index().min(end))
        };
        let (mut entries, mut bytes) = (Vec::new(), 0);
        for index in first..=last {
            let Some((entry, size)) = self.read_one(index)? else {
                let memory = self.memory();
                let gone = index < memory.first || memory.last.is_none_or(|last| index > last.index());
                if gone {
                    break;
                }
                return Err(io::Error::other(format!("the log has no entry {index}")));
            };
            if !entries.is_empty() && bytes + size > bytes_max {
                break;
            }
            bytes += size;
            entries.push(entry);
        }
        Ok(entries)
    }

    fn read_one(&self, index: u64) -> io::Result<Option<(Entry, usize)>> {
        // Pending first: the writer removes an entry from there only once sled has it.
        if let Some((entry, size)) = self.memory().pending.get(&index) {
            return Ok(Some((entry.clone(), *size)));
        }
        let Some(bytes) = self.shared.disk.entry(index)? else { return Ok(None) };
        let entry = wire::Entry::decode(bytes.as_slice()).map_err(io::Error::other)?;
        Ok(Some((codec::entry_from(entry)?, bytes.len())))
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<Entry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + Send,
    {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(start) => start.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(end) => Some(*end),
            Bound::Excluded(end) => end.checked_sub(1),
            Bound::Unbounded => Some(u64::MAX),
        };
        match end {
            Some(end) => self.read(start, end, usize::MAX),
            None => Ok(Vec::new()),
        }
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        match end.checked_sub(1) {
            Some(end) => self.read(start, end, READ_BYTES_MAX),
            None => Ok(Vec::new()),
        }
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.memory().vote)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let memory = self.memory();
        Ok(LogState { last_purged_log_id: memory.purged, last_log_id: memory.last.or(memory.purged) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        self.put(Meta::Vote, codec::vote_to(vote).encode_to_vec()).await?;
        self.memory().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        let Some(committed) = committed else { return Ok(()) };
        self.memory().committed = Some(committed);
        self.send(Job::Committed { body: codec::log_id_to(&committed).encode_to_vec() }).await
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.memory().committed)
    }

    async fn append<I>(&mut self, entries: I, done: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let mut encoded = Vec::new();
        {
            let mut memory = self.memory();
            for entry in entries {
                let (id, bytes) = (entry.log_id, codec::entry_to(&entry).encode_to_vec());
                if memory.last == memory.purged {
                    memory.first = id.index();
                }
                memory.last = Some(id);
                memory.pending.insert(id.index(), (entry, bytes.len()));
                encoded.push((id.index(), bytes));
            }
        }
        self.send(Job::Append { entries: encoded, done }).await
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let keep = last.map(|last| last.index());
        {
            let mut memory = self.memory();
            memory.pending.split_off(&keep.map_or(0, |keep| keep + 1));
            if memory.last.is_some_and(|end| keep.is_none_or(|keep| end.index() > keep)) {
                memory.last = last.or(memory.purged);
            }
        }
        self.wait(|done| Job::Truncate { keep, done }).await
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        {
            let mut memory = self.memory();
            memory.purged = memory.purged.max(Some(upto));
            memory.first = memory.first.max(upto.index() + 1);
            memory.last = memory.last.max(Some(upto));
        }
        let body = codec::log_id_to(&upto).encode_to_vec();
        self.wait(|done| Job::Purge { upto: upto.index(), body, done }).await
    }
}

struct Writer {
    disk: Arc<LogDisk>,
    memory: Arc<Mutex<Memory>>,
    mark: MarkFile,
    /// What the log holds once everything written so far is flushed.
    held: Mark,
    failed: Option<String>,
}

impl Writer {
    async fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        let mut group = Vec::with_capacity(GROUP_MAX);
        while queue.recv_many(&mut group, GROUP_MAX).await > 0 {
            world::before_disk().await;
            if self.write_group(&mut group) {
                return;
            }
        }
        // Nobody is left to tell; what was acknowledged is on disk.
        let _ = self.disk.flush();
    }

    /// Writes what has gathered, flushes once, then tells everybody. True if it was told to stop.
    fn write_group(&mut self, group: &mut Vec<Job>) -> bool {
        let (mut waiting, mut purged, mut stop) = (Vec::new(), None, false);
        #[cfg(simulated)]
        self.answer_too_early(group);
        for job in group.drain(..) {
            stop |= matches!(job, Job::Stop { .. });
            let written = self.write(job, &mut waiting, &mut purged);
            self.fail_on(written);
        }
        if !waiting.is_empty() && self.failed.is_none() {
            // The mark follows the flush and precedes the answers: it covers all that was acknowledged, and no more.
            let flushed = self.disk.flush().and_then(|()| self.mark.raise(self.held));
            self.fail_on(flushed);
        }
        // Deleting comes after its marker is durable; a crash in between leaves entries that the next start removes.
        if let (Some(upto), None) = (purged, &self.failed) {
            let removed = self.disk.remove_upto(upto);
            self.fail_on(removed);
        }
        for one in waiting {
            let result = self.failed.clone().map_or(Ok(()), |text| Err(io::Error::other(text)));
            match one {
                Waiting::Callback(callback) => callback.io_completed(result),
                // Whoever stopped waiting does not need the answer.
                Waiting::Reply(reply) => drop(reply.send(result)),
            }
        }
        #[cfg(simulated)]
        self.disk.answered();
        stop
    }

    fn write(&mut self, job: Job, waiting: &mut Vec<Waiting>, purged: &mut Option<u64>) -> io::Result<()> {
        let healthy = self.failed.is_none();
        match job {
            Job::Append { entries, done } => {
                waiting.push(Waiting::Callback(done));
                if healthy {
                    self.disk.put_entries(&entries)?;
                    let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
                    for (index, _) in &entries {
                        memory.pending.remove(index);
                        self.held.end = index + 1;
                    }
                }
            }
            Job::Put { meta, body, done } => {
                waiting.push(Waiting::Reply(done));
                if healthy {
                    self.disk.put_meta(meta, &body)?;
                    if meta == Meta::Vote {
                        self.held.vote = self.held.vote.max(vote_mark(&recover_vote(&body)?));
                    }
                }
            }
            Job::Committed { body } if healthy => self.disk.put_meta(Meta::Committed, &body)?,
            Job::Committed { .. } => {}
            Job::Truncate { keep, done } => {
                waiting.push(Waiting::Reply(done));
                if healthy {
                    self.held.end = self.held.end.min(keep.map_or(0, |keep| keep + 1));
                    self.mark.lower(self.held.end)?;
                    self.disk.remove_after(keep)?;
                }
            }
            Job::Purge { upto, body, done } => {
                waiting.push(Waiting::Reply(done));
                if healthy {
                    self.disk.put_meta(Meta::Purged, &body)?;
                    self.held.end = self.held.end.max(upto + 1);
                    *purged = (*purged).max(Some(upto));
                }
            }
            Job::Stop { done } => waiting.push(Waiting::Reply(done)),
        }
        Ok(())
    }

    /// Bugs to plant: what is to be made durable is said to be so before it is.
    #[cfg(simulated)]
    fn answer_too_early(&mut self, group: &mut Vec<Job>) {
        let early = |job: &Job| match job {
            Job::Append { .. } => planted!(AnswerBeforeSync),
            Job::Put { meta: Meta::Vote, .. } => planted!(VoteBeforeSync),
            _ => false,
        };
        if !group.iter().any(early) {
            return;
        }
        for job in group.drain(..) {
            let (mut waiting, mut purged) = (Vec::new(), None);
            let _ = self.write(job, &mut waiting, &mut purged);
            for one in waiting {
                match one {
                    Waiting::Callback(callback) => callback.io_completed(Ok(())),
                    Waiting::Reply(reply) => drop(reply.send(Ok(()))),
                }
            }
        }
        // The disk gets to it later, if there is a later.
        self.disk.answered();
    }

    fn fail_on(&mut self, result: io::Result<()>) {
        if let (Err(error), None) = (result, &self.failed) {
            tracing::error!(%error, "the raft log cannot be written; this node must stop");
            self.failed = Some(error.to_string());
        }
    }
}

/// Reads everything back and checks that it is whole: each checksum, no hole, nothing before the purge marker.
fn recover(dir: &Path, disk: &LogDisk) -> Result<Memory, DiskError> {
    let wrong = |error: io::Error| damaged(dir, error.to_string());
    let log_id = |meta| -> io::Result<Option<LogId>> {
        let Some(body) = disk.meta(meta)? else { return Ok(None) };
        Ok(codec::log_id_from(Some(wire::LogId::decode(body.as_slice()).map_err(io::Error::other)?))?)
    };
    let purged = log_id(Meta::Purged).map_err(wrong)?;
    if let Some(purged) = purged {
        disk.remove_upto(purged.index()).map_err(wrong)?;
    }
    let mut last = purged;
    let expected = purged.map_or(0, |purged| purged.index() + 1);
    if let Some((first, end)) = disk.bounds().map_err(wrong)? {
        if first != expected {
            return Err(damaged(dir, format!("the log starts at entry {first} instead of {expected}")));
        }
        for index in first..=end {
            last = Some(recover_entry(disk, index).map_err(wrong)?);
        }
    }
    let vote = match disk.meta(Meta::Vote).map_err(wrong)? {
        Some(body) => Some(recover_vote(&body).map_err(wrong)?),
        None => None,
    };
    let identity = match disk.meta(Meta::Identity).map_err(wrong)? {
        Some(body) => Some(wire::Identity::decode(body.as_slice()).map_err(|error| wrong(io::Error::other(error)))?),
        None => None,
    };
    if identity.is_none() && (last.is_some() || vote.is_some()) {
        return Err(damaged(dir, "its identity record is missing"));
    }
    let committed = log_id(Meta::Committed).map_err(wrong)?.min(last);
    Ok(Memory { pending: BTreeMap::new(), first: expected, last, purged, committed, vote, identity })
}

fn recover_entry(disk: &LogDisk, index: u64) -> io::Result<LogId> {
    let bytes = disk.entry(index)?.ok_or_else(|| io::Error::other(format!("the log has no entry {index}")))?;
    let entry = codec::entry_from(wire::Entry::decode(bytes.as_slice()).map_err(io::Error::other)?)?;
    if entry.log_id.index() != index {
        return Err(io::Error::other(format!("entry {index} says it is another")));
    }
    Ok(entry.log_id)
}

fn recover_vote(body: &[u8]) -> io::Result<Vote> {
    Ok(codec::vote_from(Some(wire::Vote::decode(body).map_err(io::Error::other)?))?)
}

/// What of a vote must not be forgotten: a second one in the same term could make a second leader.
fn vote_mark(vote: &Vote) -> (u64, u64) {
    let leader = vote.leader_id();
    (leader.term, leader.node_id.0)
}

fn stopped() -> io::Error {
    io::Error::other("the raft log is closed")
}

#[cfg(test)]
mod tests;
