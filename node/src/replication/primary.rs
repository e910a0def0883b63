//! The primary's side of a replica's link: a full copy if one is needed, then the stream, and what the replica answers.
//!
//! A replica gets what it can take: one that is slow is behind, and one that is so far behind that the log no longer has what it
//! needs begins anew. Nobody else waits for it.

use super::copy::{self, Copied, Pinned};
use super::log::Purpose;
use super::{Accepted, History, IDLE, Replication, Role};
use crate::link::{self, FrameReader, FrameWriter};
use crate::node::Node;
use bytes::Bytes;
use keyward_cluster::{Epoch, Incarnation, Member, NodeId};
use keyward_proto::replication::frame::What;
use keyward_proto::replication::{self as wire, Ack, Follow, Frame};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// A piece of the stream, in bytes: large enough to be cheap, small enough that answers come often.
pub(super) const PIECE_BYTES: usize = 256 << 10;

/// A shorter piece is not worth compressing, in bytes.
const COMPRESSED_MIN: usize = 512;

/// A replica says who it is within this time.
const GREETING: Duration = Duration::from_secs(3);

/// A replica that answers nothing for this long is given up.
const ANSWER: Duration = Duration::from_secs(10);

/// Serves the links of replicas.
pub async fn accept(node: Arc<Node>, mut links: mpsc::Receiver<Accepted>) {
    while let Some((stream, tie)) = links.recv().await {
        let node = Arc::clone(&node);
        tokio::task::spawn_local(async move {
            let peer = stream.peer_addr().map(|address| address.to_string()).unwrap_or_default();
            if let Err(error) = serve(&node, (stream, tie)).await {
                tracing::info!(%peer, %error, "a replica's link ended");
            }
        });
    }
}

async fn serve(node: &Arc<Node>, (stream, tie): Accepted) -> io::Result<()> {
    let (mut reader, mut writer) = link::of_parcel(stream, tie)?;
    let follow = timeout(GREETING, reader.next::<Follow>()).await.map_err(io::Error::other)??;
    let Some(follow) = follow else { return Ok(()) };
    let member = Member { node: NodeId(follow.node), incarnation: Incarnation(follow.incarnation) };
    let replication = &node.replication;
    let epoch = match Role::of(&node.views.load().1) {
        Role::Primary(epoch) if epoch.0 == follow.epoch && follow.group == node.group.0 => epoch,
        _ => return refuse(replication, &mut writer, "this node is not the primary of that epoch").await,
    };
    let (_, history) = replication.log.stand();
    let goes_on = follow.has_data
        && history.continues(Epoch(follow.data_epoch), follow.position)
        && replication.log.holds(follow.position);
    let Some(link) = replication.acks.enter(epoch, member, if goes_on { follow.position } else { 0 }, goes_on) else {
        return refuse(replication, &mut writer, "this node is primary no longer").await;
    };
    let serving = Rc::new(Serving { node: Arc::clone(node), epoch, member, link });
    let _entered = Entered(Rc::clone(&serving));
    tracing::info!(node = member.node.0, position = follow.position, goes_on, "a replica follows");
    let answers = tokio::task::spawn_local(hear(Rc::clone(&serving), reader));
    tokio::select! {
        sent = send(&serving, &mut writer, follow.position, goes_on.then_some(history)) => sent,
        heard = answers => heard.unwrap_or_else(|error| Err(io::Error::other(error))),
    }
}

/// A replica that is served.
pub(super) struct Serving {
    pub(super) node: Arc<Node>,
    epoch: Epoch,
    member: Member,
    link: u64,
}

/// Takes the replica off the list however its link ends.
struct Entered(Rc<Serving>);

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.node.replication.acks.leave(self.0.member.node, self.0.link);
    }
}

impl Serving {
    pub(super) fn frame(&self, what: What) -> Frame {
        Frame { epoch: self.epoch.0, sent_ms: self.node.replication.clock_ms(), what: Some(what) }
    }

    fn reigns(&self) -> bool {
        Role::of(&self.node.views.load().1) == Role::Primary(self.epoch)
    }
}

async fn refuse(replication: &Replication, writer: &mut FrameWriter, why: &str) -> io::Result<()> {
    replication.stats.refused.fetch_add(1, Ordering::Relaxed);
    writer.push(&Frame { epoch: 0, sent_ms: 0, what: Some(What::Refused(why.to_owned())) });
    writer.flush().await
}

/// Takes the replica's answers until it leaves.
async fn hear(serving: Rc<Serving>, mut reader: FrameReader) -> io::Result<()> {
    let replication = &serving.node.replication;
    loop {
        let ack = timeout(ANSWER, reader.next::<Ack>()).await;
        let ack = ack.map_err(|_| io::Error::other("the replica answers nothing"))??;
        let Some(ack) = ack else { return Err(io::Error::other("the replica closed it")) };
        let now = replication.clock_ms();
        let (node, link) = (serving.member.node, serving.link);
        if ack.epoch != serving.epoch.0 || !replication.acks.acked(node, link, ack.position, ack.seen_ms, now) {
            return Err(io::Error::other("this node is primary of that epoch no longer"));
        }
    }
}

async fn send(
    serving: &Rc<Serving>,
    writer: &mut FrameWriter,
    position: u64,
    goes_on: Option<History>,
) -> io::Result<()> {
    let replication = &serving.node.replication;
    let (position, pinned) = match goes_on {
        Some(history) => {
            replication.stats.continued.fetch_add(1, Ordering::Relaxed);
            let history = Some(to_wire(&history));
            writer.push(&serving.frame(What::Continued(wire::Continued { history })));
            (position, Pinned::new(&replication.log, position, Purpose::Stream))
        }
        None => {
            replication.stats.full_copies.fetch_add(1, Ordering::Relaxed);
            let Copied { position, pinned } = copy::send(serving, writer).await?;
            replication.acks.streams(serving.member.node, serving.link);
            (position, pinned)
        }
    };
    stream(serving, writer, position, pinned).await
}

/// Sends the stream from `position` on, until the link breaks or the reign ends. `pinned` keeps what was not sent yet.
async fn stream(serving: &Rc<Serving>, writer: &mut FrameWriter, mut position: u64, pinned: Pinned) -> io::Result<()> {
    let replication = &serving.node.replication;
    let log = &replication.log;
    let compresses = serving.node.config.repl_compression;
    let mut piece = Vec::new();
    let mut has_caught_up = false;
    loop {
        if !serving.reigns() {
            return Err(io::Error::other("this node is primary no longer"));
        }
        piece.clear();
        replication.acks.note_end(log.position(), replication.clock_ms());
        log.copy(position, PIECE_BYTES, &mut piece)
            .map_err(|_| io::Error::other("the replica is too far behind; it begins anew"))?;
        // What came after a full copy is held for as long as it takes to send it.
        has_caught_up |= piece.is_empty();
        if has_caught_up {
            pinned.follow(position);
        }
        if piece.is_empty() {
            writer.push(&serving.frame(What::Idle(wire::Idle { position })));
            writer.flush().await?;
            // Running out of time is as good a reason to send something.
            let _ = timeout(IDLE, log.beyond(position)).await;
            continue;
        }
        let length = piece.len();
        writer.push(&serving.frame(What::Piece(packed(position, &piece, compresses))));
        writer.flush().await?;
        position += length as u64;
        // A replica that takes all it gets must leave the thread to others now and then.
        tokio::task::consume_budget().await;
    }
}

pub(super) fn packed(position: u64, piece: &[u8], compresses: bool) -> wire::Piece {
    if compresses && piece.len() >= COMPRESSED_MIN {
        let bytes = lz4_flex::block::compress(piece);
        if bytes.len() < piece.len() {
            let checksum = crc32fast::hash(&bytes);
            return wire::Piece { position, bytes: bytes.into(), length: piece.len() as u32, checksum };
        }
    }
    wire::Piece { position, bytes: Bytes::copy_from_slice(piece), length: 0, checksum: crc32fast::hash(piece) }
}

pub(super) fn to_wire(history: &History) -> wire::History {
    let reign = |(epoch, position): &(Epoch, u64)| wire::Reign { epoch: epoch.0, position: *position };
    wire::History { reigns: history.reigns().iter().map(reign).collect() }
}
