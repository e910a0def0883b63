//! The replica's side: find the primary, say where it stands, carry out what comes, say how far it got.
//!
//! ```text
//!   frame ─► epoch not older than sealed? ─► whole steps ─► shards (a step of several records: alone in the corridor) ─► Log ─► Ack
//! ```
//! What arrived of a step that is not complete waits; it counts as nothing if the link breaks. Carrying out decides nothing: the
//! clock stands at zero, so nothing expires here before the primary says so.

use super::copy::{self, Pieces};
use super::log::History;
use super::primary::PIECE_BYTES;
use super::record::{self, Record};
use super::{IDLE, Replication, Role};
use crate::journal::Journal;
use crate::link::{self, FrameWriter};
use crate::node::Node;
use crate::shards::{Call, CallSpace, Wanted};
use crate::snapshot::reader::Loaded;
use crate::world::{Feed, aside_fed};
use bytes::Bytes;
use keyward_acl::KeyUse;
use keyward_cluster::{Epoch, Member};
use keyward_engine::command::Run;
use keyward_engine::events::EventClass;
use keyward_engine::eviction::Usage;
use keyward_engine::keyspace::{CallContext, SpaceId};
use keyward_engine::reply::{Protocol, Reply};
use keyward_engine::scope::Reach;
use keyward_engine::table::Resolved;
use keyward_proto::forward::{Batch, BatchReply};
use keyward_proto::replication::frame::What;
use keyward_proto::replication::{self as wire, Ack, Follow, Frame};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// After a link ended, before the next try.
const PAUSE: Duration = Duration::from_millis(50);

/// A primary that says nothing for this long is tried anew.
const SILENCE: Duration = Duration::from_secs(3);

/// A step is no longer than this, in bytes: a transaction of the largest values.
const STEP_BYTES_MAX: usize = 1 << 30;

/// Follows whoever is primary, as long as the node lives.
pub async fn follow(node: Arc<Node>) {
    let mut views = node.control.views();
    loop {
        // What arrives while a link is up is looked at there.
        views.borrow_and_update();
        match Role::of(&node.views.load().1) {
            Role::Replica { epoch, primary, address } => {
                if let Err(error) = follow_one(&node, epoch, primary, &address).await {
                    tracing::debug!(primary = primary.node.0, %error, "the link to the primary ended");
                }
                flow(&node, false);
                sleep(PAUSE).await;
            }
            Role::Primary(_) | Role::None => {
                if views.changed().await.is_err() {
                    return;
                }
            }
        }
    }
}

/// What the primary changes comes by here from now on, or no longer. Who caches what is served there hears of the end.
fn flow(node: &Node, flows: bool) {
    if node.replication.flows.swap(flows, Ordering::SeqCst) && !flows {
        node.tracking.tell_of_gap();
    }
}

/// From here on nothing but the effects of the primary of this epoch changes the data; unless this node has become primary
/// itself since the caller looked: then what is written here must be written down.
fn settle_down(node: &Node, epoch: Epoch) -> io::Result<()> {
    let _closed = node.corridor.close();
    let _applying = node.replication.applying.lock();
    if epoch.0 < node.replication.sealed.load(Ordering::Acquire) {
        return Err(io::Error::other("its epoch is over"));
    }
    node.journal.attach(false);
    Ok(())
}

async fn follow_one(node: &Arc<Node>, epoch: Epoch, primary: Member, address: &str) -> io::Result<()> {
    let replication = &node.replication;
    settle_down(node, epoch)?;
    let stream = link::connect(node, primary.node.0, address).await.map_err(io::Error::other)?;
    let (mut reader, mut writer) = stream.into_halves();
    let (_, view) = node.views.load();
    writer.push(&Batch { follow: true, group: node.group.0, policy_version: view.index, ..Batch::default() });
    writer.flush().await?;
    let reply = timeout(SILENCE, reader.next::<BatchReply>()).await.map_err(io::Error::other)??;
    let reply = reply.ok_or_else(|| io::Error::other("it closed the link"))?;
    if reply.count != 1 {
        return Err(io::Error::other(reply.error_text));
    }
    let me = view.member().ok_or_else(|| io::Error::other("this process is not registered"))?;
    let stand = replication.stand();
    writer.push(&Follow {
        group: node.group.0,
        node: me.node.0,
        incarnation: me.incarnation.0,
        epoch: epoch.0,
        data_epoch: stand.epoch,
        position: stand.position,
        has_data: replication.has_data() && !replication.unlogged.load(Ordering::Acquire),
    });
    writer.flush().await?;
    let mut applier = Applier::new(node);
    let mut link = Link { writer, epoch, sent_ms: 0, follows: false, copying: None };
    let mut views = node.control.views();
    let mut heard_at = Instant::now();
    loop {
        let frame = news(&mut views, heard_at, reader.next::<Frame>()).await?;
        let still = matches!(Role::of(&node.views.load().1), Role::Replica { epoch: now, primary: by, .. } if now == epoch && by == primary);
        if !still {
            return Err(io::Error::other("there is another primary"));
        }
        let Some(frame) = frame else { continue };
        let Some(frame) = frame else { return Err(io::Error::other("it closed the link")) };
        link.sent_ms = frame.sent_ms;
        take(node, &mut applier, &mut link, frame).await?;
        link.acknowledge(replication).await?;
        heard_at = Instant::now();
    }
}

/// What comes first: a frame, or `None` for another view. The error: nothing came for too long since the primary was heard.
async fn news<V, F>(
    views: &mut watch::Receiver<V>,
    heard_at: Instant,
    frame: impl Future<Output = io::Result<F>>,
) -> io::Result<Option<F>> {
    tokio::select! {
        biased;
        // There may be another primary; the old one need not be silent for that. Nor does it speak by that: views may
        // change often.
        _ = views.changed() => Ok(None),
        frame = timeout_at(heard_at + SILENCE, frame) => frame.map_err(io::Error::other)?.map(Some),
    }
}

/// The way to the primary.
struct Link {
    writer: FrameWriter,
    epoch: Epoch,
    /// When the frame was sent that is answered next.
    sent_ms: u64,
    /// What is here is a beginning of the primary's stream: it said so, or a copy of its data is complete.
    follows: bool,
    copying: Option<Copying>,
}

impl Link {
    /// Says how far this node got; a copy that is not complete is nothing.
    async fn acknowledge(&mut self, replication: &Replication) -> io::Result<()> {
        let position = if self.follows && replication.has_data() { replication.log.position() } else { 0 };
        self.writer.push(&Ack { epoch: self.epoch.0, position, seen_ms: self.sent_ms });
        self.writer.flush().await
    }

    /// Waits for what takes long; the primary hears meanwhile that this node is there.
    async fn meanwhile<T>(&mut self, replication: &Replication, awaited: impl Future<Output = T>) -> io::Result<T> {
        let mut awaited = pin!(awaited);
        loop {
            if let Ok(there) = timeout(IDLE, &mut awaited).await {
                return Ok(there);
            }
            self.acknowledge(replication).await?;
        }
    }
}

/// A copy on its way in.
struct Copying {
    pieces: Feed<Bytes>,
    loading: JoinHandle<Result<Loaded, String>>,
    position: u64,
    history: History,
}

async fn take(node: &Arc<Node>, applier: &mut Applier, link: &mut Link, frame: Frame) -> io::Result<()> {
    let replication = &node.replication;
    let what = frame.what.ok_or_else(|| io::Error::other("an empty frame"))?;
    if let What::Refused(why) = what {
        return Err(io::Error::other(why));
    }
    {
        // Each frame is answered, and the primary counts on whoever answered: so none of them may come from an epoch that
        // this node was told to support no more, and from each of them the promise runs anew.
        let _applying = replication.applying.lock();
        replication.hears(frame.epoch)?;
    }
    match what {
        // Seen above.
        What::Refused(_) => {}
        What::Continued(continued) => {
            replication.log.adopt(history(continued.history));
            link.follows = true;
            flow(node, true);
        }
        What::CopyBegin(begin) => {
            let history = history(begin.history);
            note_discarded(replication, &history);
            replication.has_data.store(false, Ordering::Release);
            flow(node, false);
            replication.copies_begun.fetch_add(1, Ordering::AcqRel);
            link.follows = false;
            let turn = link.meanwhile(replication, node.snapshots.turn()).await?;
            let (pieces, source) = copy::on_its_way_in();
            let into = Arc::clone(node);
            let loading = aside_fed(source, move |source| {
                let _turn = turn;
                copy::load(&into, Pieces::new(source))
            });
            link.copying = Some(Copying { pieces, loading, position: begin.position, history });
        }
        What::CopyPiece(bytes) => {
            let copying = link.copying.as_ref().ok_or_else(|| io::Error::other("a piece of no copy"))?;
            let pieces = copying.pieces.clone();
            // A loader that failed says why at the end.
            let _ = link.meanwhile(replication, pieces.send(bytes)).await?;
        }
        What::CopyEnd(_) => {
            let done = link.copying.take().ok_or_else(|| io::Error::other("the end of no copy"))?;
            drop(done.pieces);
            let loaded = link.meanwhile(replication, done.loading).await?;
            let loaded = loaded.map_err(io::Error::other)?.map_err(io::Error::other)?;
            let _applying = replication.applying.lock();
            replication.log.restart(done.position, done.history);
            replication.unlogged.store(false, Ordering::Release);
            replication.has_data.store(true, Ordering::Release);
            link.follows = true;
            flow(node, true);
            // Of what was read here before nobody can say how it differs.
            node.tracking.tell_of_gap();
            tracing::info!(keys = loaded.keys, position = done.position, "a full copy was loaded");
        }
        What::Piece(piece) => {
            let bytes = unpacked(&piece)?;
            let _applying = replication.applying.lock();
            replication.hears(frame.epoch)?;
            let end = piece.position + bytes.len() as u64;
            if let Err(error) = applier.carry_out(piece.position, &bytes) {
                // What is here may be half of a step: only a full copy helps.
                replication.has_data.store(false, Ordering::Release);
                tracing::error!(%error, position = piece.position, "the stream of effects cannot be carried out here");
                return Err(error);
            }
            replication.known_end.store(end, Ordering::Relaxed);
            // A long one took its time: that was no silence.
            replication.heard_ms.store(replication.clock_ms(), Ordering::Release);
        }
        What::Idle(idle) => replication.known_end.store(idle.position, Ordering::Relaxed),
    }
    Ok(())
}

/// A full copy takes the place of what is here: what this node made as primary and its successor does not have is gone with that.
fn note_discarded(replication: &Replication, theirs: &History) {
    let (position, ours) = replication.log.stand();
    if !replication.has_data() {
        return;
    }
    let lost = ours.same_until(theirs).map_or(0, |same| position.saturating_sub(same));
    if lost > 0 {
        replication.stats.discarded_bytes.fetch_add(lost, Ordering::Relaxed);
        tracing::warn!(
            bytes = lost,
            epoch = ours.epoch().0,
            "effects that were made here and nobody else has are discarded: those acknowledged without quorum are lost"
        );
    }
}

fn history(wire: Option<wire::History>) -> History {
    let reigns = wire.map(|history| history.reigns).unwrap_or_default();
    History::new(reigns.into_iter().map(|reign| (Epoch(reign.epoch), reign.position)))
}

fn unpacked(piece: &wire::Piece) -> io::Result<Bytes> {
    if crc32fast::hash(&piece.bytes) != piece.checksum {
        return Err(io::Error::other("a piece of the stream was damaged on its way"));
    }
    if piece.length == 0 {
        return Ok(piece.bytes.clone());
    }
    if piece.length as usize > PIECE_BYTES {
        return Err(io::Error::other("a piece of the stream is too long"));
    }
    let bytes = lz4_flex::block::decompress(&piece.bytes, piece.length as usize).map_err(io::Error::other)?;
    // The checksum is of what was sent; the length is not in it.
    if bytes.len() != piece.length as usize {
        return Err(io::Error::other("a piece of the stream is not as long as it says"));
    }
    Ok(bytes.into())
}

/// Carries out whole steps.
struct Applier {
    node: Arc<Node>,
    /// What arrived and is not a whole step yet.
    rest: Vec<u8>,
    /// How far the records of `rest` have been looked at.
    looked_at: LookedAt,
    memory: CallSpace,
    reply: Reply,
    /// What is carried out here is not written down a second time.
    unread: Journal,
}

impl Applier {
    fn new(node: &Arc<Node>) -> Applier {
        Applier {
            node: Arc::clone(node),
            rest: Vec::new(),
            looked_at: LookedAt::default(),
            memory: CallSpace::default(),
            reply: Reply::new(Protocol::Resp2),
            unread: Journal::unread(),
        }
    }

    fn carry_out(&mut self, position: u64, bytes: &[u8]) -> io::Result<()> {
        let expected = self.node.replication.log.position() + self.rest.len() as u64;
        if position != expected {
            return Err(io::Error::other("a piece of the stream is missing"));
        }
        let mut held = std::mem::take(&mut self.rest);
        if held.is_empty() {
            let whole = self.steps(bytes)?;
            held.extend_from_slice(&bytes[whole..]);
        } else {
            held.extend_from_slice(bytes);
            let whole = self.steps(&held)?;
            held.drain(..whole);
        }
        if held.len() > STEP_BYTES_MAX {
            return Err(io::Error::other("a step is too long"));
        }
        self.rest = held;
        Ok(())
    }

    /// Carries out the whole steps at the front; how long they are.
    fn steps(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut done = 0;
        while let Some(length) = self.looked_at.step_length(&bytes[done..])? {
            let step = &bytes[done..done + length];
            self.step(step)?;
            done += length;
        }
        if done > 0 {
            self.node.replication.log.append_received(&bytes[..done]);
            self.node.replication.log.tell();
            self.node.tracking.deliver();
        }
        Ok(done)
    }

    fn step(&mut self, mut step: &[u8]) -> io::Result<()> {
        let node = Arc::clone(&self.node);
        let mut closed = None;
        let mut signer = 0;
        while let Some((record, length)) = record::read(step).map_err(|_| damaged())? {
            match record {
                Record::Begin => closed = Some(node.corridor.close()),
                Record::End => closed = None,
                Record::Signed(client) => signer = client,
                Record::Removed(space, key) => self.run(space, &[b"DEL", key], std::mem::take(&mut signer))?,
                Record::Command(space, argv) => self.run(space, &argv, std::mem::take(&mut signer))?,
                Record::Imported(from, removed, space, argv) => {
                    if removed {
                        self.run(space, &[b"DEL", argv[0]], 0)?
                    } else {
                        self.run(space, &argv, 0)?
                    }
                    node.import.reached(from);
                }
                Record::Reached(at) => node.import.reached(at),
                Record::Noted(note) => node.import.noted(note).map_err(io::Error::other)?,
            }
            step = &step[length..];
        }
        drop(closed);
        Ok(())
    }

    fn run(&mut self, space: SpaceId, argv: &[&[u8]], signer: u64) -> io::Result<()> {
        let node = &*self.node;
        let Ok(Resolved { row, words }) = node.table.resolve(argv) else {
            return Err(io::Error::other(format!(
                "the primary speaks of a command this version does not know: {}",
                argv[0].escape_ascii()
            )));
        };
        let hot = node.live.hot();
        let mut keys: Vec<KeyUse<'_>> = Vec::new();
        node.table.keys_of(row, argv, &mut keys);
        let context = CallContext {
            layout: node.shards.layout(),
            space,
            now: 0,
            limits: &hot.limits,
            value_bytes_max: u64::MAX,
            room_bytes: u64::MAX,
            databases: node.config.databases,
            random: 0,
            no_touch: false,
            usage: Usage::default(),
            keeps_expired: false,
            patience: None,
        };
        let call = Call {
            argv,
            words,
            keys: &keys,
            place: None,
            owner: None,
            reads: false,
            context,
            events: Wanted::of_all(EventClass::NONE),
            client: signer,
            signer: None,
            reach: &Reach::Everything,
            reader: None,
            park: None,
        };
        self.reply.bytes.clear();
        let result = match row.run {
            Run::OnKeys(handler) => node.shards.run(handler, &call, &mut self.memory, &self.unread, &mut self.reply),
            Run::OnEveryKey(handler) => {
                node.shards.run_on_every_key(handler, &call, &mut self.memory, (&self.unread, false), &mut self.reply)
            }
            _ => node.scripts.carry_out(argv).map_err(keyward_engine::error::CommandError::err),
        };
        self.memory.ready.clear();
        self.memory.parked = None;
        // The primary did it, so it can be done here; if not, what is here is not what is there.
        result.map_err(|error| io::Error::other(format!("{} cannot be repeated here: {error:?}", row.full_name)))
    }
}

fn damaged() -> io::Error {
    io::Error::other("the stream is damaged")
}

/// How much of a step that is not whole has been looked at: a long one comes in many pieces.
#[derive(Default)]
struct LookedAt {
    length: usize,
    begun: bool,
}

impl LookedAt {
    /// How long the step is that these bytes begin with; none if it is not whole. Then the next ones begin with them.
    fn step_length(&mut self, bytes: &[u8]) -> io::Result<Option<usize>> {
        loop {
            let read = record::read(&bytes[self.length..]).map_err(|_| damaged())?;
            let Some((record, used)) = read else { return Ok(None) };
            self.length += used;
            match record {
                Record::Signed(_) => {}
                Record::Begin if !self.begun => self.begun = true,
                Record::Begin => return Err(damaged()),
                Record::End if !self.begun => return Err(damaged()),
                _ if self.begun && !matches!(record, Record::End) => {}
                _ => return Ok(Some(std::mem::take(self).length)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keyward_engine::keyspace::TenantId;
    use std::future::pending;

    #[test]
    fn a_piece_that_is_not_what_it_says_is_refused() {
        let text = [b'x'; 4096];
        for compresses in [true, false] {
            let piece = super::super::primary::packed(0, &text, compresses);
            assert_eq!(unpacked(&piece).unwrap(), &text[..]);
            let with_checksum = |checksum| wire::Piece { checksum, ..piece.clone() };
            assert!(unpacked(&with_checksum(piece.checksum ^ 1)).is_err());
        }
        let piece = super::super::primary::packed(0, &text, true);
        for length in [1, 4095, 4097, PIECE_BYTES as u32, PIECE_BYTES as u32 + 1, u32::MAX] {
            assert!(unpacked(&wire::Piece { length, ..piece.clone() }).is_err(), "{length}");
        }
        let bytes = Bytes::from_static(b"\xff\xff\xff no such block");
        let forged = wire::Piece { checksum: crc32fast::hash(&bytes), bytes, ..piece };
        assert!(unpacked(&forged).is_err());
    }

    #[test]
    fn a_signature_is_one_step_with_what_is_signed() {
        let space = SpaceId { tenant: TenantId(0), database: 0 };
        let log = super::super::log::Log::new(1 << 20, 1 << 20);
        log.append_of(Some(7), false, space, [&b"SET"[..], b"k", b"v"].into_iter());
        let mut bytes = record::signature(7).to_vec();
        assert_eq!(LookedAt::default().step_length(&bytes).unwrap(), None, "nothing to carry out yet");
        let words = || [&b"SET"[..], b"k", b"v"].into_iter();
        let size = record::size(space, words());
        record::write(&mut bytes, size, false, space, words());
        assert_eq!(LookedAt::default().step_length(&bytes).unwrap(), Some(bytes.len()));
        assert_eq!(log.position(), bytes.len() as u64);
        let step = [&record::mark(true)[..], &bytes, &record::mark(false)].concat();
        assert_eq!(LookedAt::default().step_length(&step).unwrap(), Some(step.len()));
    }

    #[test]
    fn a_step_in_many_pieces_is_looked_at_once() {
        let space = SpaceId { tenant: keyward_engine::keyspace::TenantId(0), database: 0 };
        let mut bytes = record::mark(true).to_vec();
        for number in 0..100_u8 {
            let key = [number];
            let words = || [&b"SET"[..], &key, b"x"].into_iter();
            record::write(&mut bytes, record::size(space, words()), false, space, words());
        }
        bytes.extend(record::mark(false));
        let whole = bytes.len();
        bytes.extend(&record::mark(true)[..3]);
        let mut looked_at = LookedAt::default();
        let mut furthest = 0;
        for arrived in 1..whole {
            assert_eq!(looked_at.step_length(&bytes[..arrived]).unwrap(), None);
            assert!(looked_at.length >= furthest && looked_at.length <= arrived);
            furthest = looked_at.length;
        }
        assert!(furthest > whole - 20, "what was looked at is not looked at again");
        assert_eq!(looked_at.step_length(&bytes).unwrap(), Some(whole));
        assert_eq!(looked_at.step_length(&bytes[whole..]).unwrap(), None);
        assert!(LookedAt::default().step_length(&record::mark(false)).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_link_is_given_up_while_views_change_often() {
        // Each change of users or settings once began the three seconds anew: a dead link was kept as long as TCP kept it.
        let (sender, mut views) = watch::channel(0);
        tokio::spawn(async move {
            for change in 1.. {
                sleep(Duration::from_secs(1)).await;
                sender.send_replace(change);
            }
        });
        let heard_at = Instant::now();
        let mut seen = 0;
        while let Ok(None) = news(&mut views, heard_at, pending::<io::Result<()>>()).await {
            seen += 1;
            assert!(seen < 10, "the silence begins anew");
        }
        assert!(
            (SILENCE..SILENCE + Duration::from_millis(10)).contains(&heard_at.elapsed()),
            "{:?}",
            heard_at.elapsed()
        );
    }
}
