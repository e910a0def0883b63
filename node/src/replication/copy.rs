//! A full copy of the data, from a primary that goes on serving to a replica that has nothing of use.
//!
//! What travels is a snapshot file, as it would be written to disk, of one moment of the stream; the log keeps what comes after
//! that moment until the replica has it. One is made at a time: snapshots share the shards' place for what writes preserve.

use super::IDLE;
use super::log::{History, Log, Purpose};
use super::primary::{Serving, to_wire};
use crate::link::FrameWriter;
use crate::node::Node;
use crate::snapshot::reader::{self, Loaded, Wanted};
use crate::snapshot::writer::{self, Besides, Stand};
use crate::world::{Fed, Feed, aside, feed};
use bytes::Bytes;
use keyward_engine::dump::{NotRead, Source};
use keyward_proto::replication as wire;
use keyward_proto::replication::frame::What;
use parking_lot::Mutex;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tokio::time::timeout;

/// Pieces of a copy under way in memory: what the disk would take at once, a few times.
const PIECES_WAITING_MAX: usize = 4;

/// A copy was sent.
pub(super) struct Copied {
    /// Where the stream goes on.
    pub(super) position: u64,
    /// Keeps what comes after.
    pub(super) pinned: Pinned,
}

/// Keeps the log from a position on. It owns the log it keeps.
pub(super) struct Pinned {
    log: Arc<Log>,
    id: u64,
}

impl Pinned {
    pub(super) fn new(log: &Arc<Log>, position: u64, purpose: Purpose) -> Pinned {
        Pinned { log: Arc::clone(log), id: log.pin(position, purpose) }
    }

    /// The replica follows, and needs nothing before `position` any more.
    pub(super) fn follow(&self, position: u64) {
        self.log.move_pin(self.id, position, Purpose::Stream);
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.log.unpin(self.id);
    }
}

/// What the writing thread says.
enum Said {
    Begin(u64, History, Pinned),
    Piece(Bytes),
}

/// Sends one.
pub(super) async fn send(serving: &Serving, writer: &mut FrameWriter) -> io::Result<Copied> {
    let node = &serving.node;
    let turn = meanwhile(serving, writer, node.snapshots.turn()).await?;
    let (sender, mut said) = feed(PIECES_WAITING_MAX);
    let making = Arc::clone(node);
    let made = aside(move || {
        let _turn = turn;
        make(&making, &sender)
    });
    let mut begun = None;
    while let Some(next) = meanwhile(serving, writer, said.recv()).await? {
        let what = match next {
            Said::Begin(position, history, pinned) => {
                begun = Some(Copied { position, pinned });
                What::CopyBegin(wire::CopyBegin { position, history: Some(to_wire(&history)) })
            }
            Said::Piece(bytes) => What::CopyPiece(bytes),
        };
        writer.push(&serving.frame(what));
        writer.flush().await?;
    }
    let keys = made.await.map_err(io::Error::other)??;
    let copied = begun.ok_or_else(|| io::Error::other("the copy did not begin"))?;
    writer.push(&serving.frame(What::CopyEnd(wire::CopyEnd {})));
    writer.flush().await?;
    tracing::info!(keys, position = copied.position, "a full copy was sent");
    Ok(copied)
}

/// Waits for something; the replica hears meanwhile that this node is there.
async fn meanwhile<T>(serving: &Serving, writer: &mut FrameWriter, awaited: impl Future<Output = T>) -> io::Result<T> {
    let mut awaited = pin!(awaited);
    loop {
        if let Ok(there) = timeout(IDLE, &mut awaited).await {
            return Ok(there);
        }
        let position = serving.node.replication.log.position();
        writer.push(&serving.frame(What::Idle(wire::Idle { position })));
        writer.flush().await?;
    }
}

fn make(node: &Node, said: &Feed<Said>) -> io::Result<u64> {
    let gone = |_| io::Error::other("the replica is gone");
    let begin = Mutex::new(None);
    let at_once = |moment: &mut dyn FnMut()| {
        let _closed = node.corridor.close();
        moment();
        let log = &node.replication.log;
        let (position, history) = log.stand();
        let pinned = Pinned::new(log, position, Purpose::Copy);
        let epoch = history.epoch().0;
        *begin.lock() = Some(Said::Begin(position, history, pinned));
        // No script runs now, so the machine is free.
        Besides {
            stand: Stand { epoch, position },
            libraries: node.scripts.library_codes(),
            import: node.import.notes(),
        }
    };
    // What has expired and is still there is part of it: effects may yet speak of it, as those of an import do.
    let written = writer::write_to(&node.shards, 0, at_once, |bytes| {
        if let Some(begin) = begin.lock().take() {
            said.blocking_send(begin).map_err(gone)?;
        }
        said.blocking_send(Said::Piece(Bytes::copy_from_slice(bytes))).map_err(gone)
    })?;
    Ok(written.keys)
}

/// A copy on its way in, piece by piece.
pub(super) struct Pieces {
    pieces: Fed<Bytes>,
    current: Bytes,
}

impl Pieces {
    /// None of it looked at yet.
    pub(super) fn new(pieces: Fed<Bytes>) -> Pieces {
        Pieces { pieces, current: Bytes::new() }
    }
}

/// The way in for a copy, and where its pieces come out.
pub(super) fn on_its_way_in() -> (Feed<Bytes>, Fed<Bytes>) {
    feed(PIECES_WAITING_MAX)
}

/// A stream does not say how much is left: no more than this, in bytes.
const COPY_BYTES_MAX: u64 = 1 << 44;

impl Source for Pieces {
    fn fill(&mut self, mut buffer: &mut [u8]) -> Result<(), NotRead> {
        while !buffer.is_empty() {
            if self.current.is_empty() {
                self.current = self.pieces.blocking_recv().ok_or(NotRead::End)?;
                continue;
            }
            let count = buffer.len().min(self.current.len());
            let (now, later) = buffer.split_at_mut(count);
            now.copy_from_slice(&self.current.split_to(count));
            buffer = later;
        }
        Ok(())
    }

    fn left(&self) -> u64 {
        COPY_BYTES_MAX
    }
}

/// Drops everything this node has, and loads the copy instead. Nobody is served from here meanwhile.
pub(super) fn load(node: &Node, pieces: Pieces) -> Result<Loaded, String> {
    {
        let _closed = node.corridor.close();
        for index in 0..node.shards.count() {
            node.shards.with(index, |shard| shard.clear());
        }
    }
    let limits = node.live.hot().limits.clone();
    // The primary decides what has expired, not the clock of this node.
    let never = AtomicBool::new(false);
    let databases = node.config.databases;
    let wanted = Wanted { limits: &limits, databases, now_ms: i64::MIN, damaged: false, given_up: &never };
    let loaded = reader::load_from(&node.shards, pieces, "the copy", &wanted)?;
    node.shards.count_used_bytes();
    node.scripts.replace_codes(&loaded.libraries);
    node.import.restore(&loaded.import)?;
    Ok(loaded)
}
