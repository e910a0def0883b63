//! A client moves along with the data: what it has at the node that served it goes on at the node that serves it now.
//!
//! ```text
//!   its own client    the data moves ─► packed at the next pause between two requests ─► handed over with its luggage
//!   a guest           packed, and kept for its node ◄── its node sees the pipe end, and asks what became of the client
//!                     (a farewell) ─► hands it over anew, to whoever serves the data now
//! ```
//! Luggage is all that lasts: channels it listens to, a transaction that was begun, and what it sent that was not run, a
//! waiting request first. Keys it watches are not looked after on the way: its transaction will run nothing; and nobody tells
//! it of changes on the way, so a client that caches hears first that everything may have changed, and so does one that is told
//! in its place, whichever of them comes first. One that monitors cannot move, and is closed, as is every client of a node that
//! died.

use crate::connection::{Connection, Lane};
use crate::forward;
use crate::link;
use crate::node::Node;
use crate::observers::Watch;
use crate::socket::Socket;
use crate::tracking::{Target, Tracker};
use crate::transaction;
use crate::worker::Worker;
use bytes::Bytes;
use keyward_engine::asks::{ChannelKind, TrackingMode, TrackingOptions};
use keyward_engine::reply::{Protocol, Reply};
use keyward_engine::session::{Session, Transaction};
use keyward_proto::forward::{Batch, BatchReply, Caching, CachingMode, HandOver, Request};
use parking_lot::Mutex;
use prost::Message;
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio::time::timeout;

/// What a guest's node has sent must arrive within this time, once it was told that its client moves.
const LAST_BYTES_TIMEOUT: Duration = Duration::from_secs(2);

/// How long luggage is kept for a node that does not ask for it.
const KEPT: Duration = Duration::from_secs(10);

/// How long a node may wait for an answer to its question.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// When nothing came from other nodes for so long, they know that the data is elsewhere; who waits asks more often.
const QUIET: Duration = Duration::from_millis(100);

/// Between two reads of a guest's last bytes, room for this many.
const READ_BYTES: usize = 64 * 1024;

/// The luggage of guests that move, until their nodes ask for it.
#[derive(Default)]
pub struct Farewells {
    /// `None` while a guest is packing.
    packed: Mutex<HashMap<u64, (Instant, Option<Batch>)>>,
    changed: Notify,
}

impl Farewells {
    fn announce(&self, client: u64) {
        let mut packed = self.packed.lock();
        packed.retain(|_, (since, _)| since.elapsed() < KEPT);
        packed.insert(client, (Instant::now(), None));
    }

    fn keep(&self, client: u64, luggage: Batch) {
        self.packed.lock().insert(client, (Instant::now(), Some(luggage)));
        self.changed.notify_waiters();
    }

    /// How many guests' luggage waits to be asked for.
    pub fn count(&self) -> usize {
        self.packed.lock().values().filter(|(since, _)| since.elapsed() < KEPT).count()
    }

    /// The luggage of a guest that has moved; `None`: it has not.
    async fn take(&self, client: u64) -> Option<Batch> {
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        loop {
            let changed = self.changed.notified();
            {
                let mut packed = self.packed.lock();
                let (_, luggage) = packed.get(&client)?;
                if luggage.is_some() {
                    return packed.remove(&client)?.1;
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            timeout(left, changed).await.ok()?;
        }
    }
}

/// Whether all it has here can be taken along.
pub fn may_move(worker: &Worker, session: &Session) -> bool {
    !worker.node.monitors.has(session.id) && session.login.is_some()
}

/// How long one of two clients that move waits for the other one at most.
pub(crate) fn waits_for_others(worker: &Worker) -> Duration {
    worker.hot().failover_wait.max(KEPT)
}

/// Packs what a client has here, and `input`, which was not run. It has nothing here any more.
pub fn pack(worker: &Worker, connection: &Connection, input: Vec<u8>) -> Batch {
    let (_, view) = worker.node.views.load();
    let mut session = connection.session.borrow_mut();
    let mut luggage = crate::handover::luggage(&session, usize::MAX);
    {
        let listens = connection.subscriptions.borrow();
        let names = |kind| listens.named(kind).map(Bytes::copy_from_slice).collect();
        luggage.channels = names(ChannelKind::Channel);
        luggage.patterns = names(ChannelKind::Pattern);
        luggage.shard_channels = names(ChannelKind::Shard);
    }
    luggage.watched = connection.watch.borrow().is_some();
    let tracker = connection.tracking.borrow().clone();
    luggage.caching = tracker.map(|tracker| caching(&tracker, connection.caching.get()));
    if let Some(transaction) = session.transaction.take() {
        luggage.in_transaction = true;
        luggage.pinned = connection.pinned.get();
        luggage.transaction_broken = transaction.broken;
        let words = |request: Vec<Vec<u8>>| Request { words: request.into_iter().map(Bytes::from).collect() };
        luggage.transaction = transaction.requests.into_iter().map(words).collect();
    }
    let group = connection.group.get().0;
    let mut batch = Batch { hand_over: Some(luggage), commands: input.into(), group, ..Batch::default() };
    forward::describe(&mut batch, &session, &view);
    session.subscribed = false;
    drop(session);
    part(worker, connection);
    connection.forget(worker);
    connection.count_names(&connection.session.borrow());
    batch
}

/// A client leaves for another node: those who have it told in their place wait for it.
pub fn part(worker: &Worker, connection: &Connection) {
    connection.mailbox.set_stands_in(false);
    let id = connection.session.borrow().id;
    worker.node.tracking.part(id, Instant::now() + waits_for_others(worker));
}

/// Gives a client what it had elsewhere. False: it may not have that any more.
pub fn unpack(worker: &Worker, connection: &Connection, luggage: &HandOver) -> bool {
    let mut session = connection.session.borrow_mut();
    let mut unread = Reply::new(Protocol::Resp2);
    connection.mailbox.set_protocol(session.protocol);
    let mut listens = connection.subscriptions.borrow_mut();
    for (kind, names) in [
        (ChannelKind::Channel, &luggage.channels),
        (ChannelKind::Pattern, &luggage.patterns),
        (ChannelKind::Shard, &luggage.shard_channels),
    ] {
        let names: Vec<Vec<u8>> = names.iter().map(|name| name.to_vec()).collect();
        listens.subscribe(&worker.node.pubsub, session.tenant.world(), kind, &names, &connection.mailbox, &mut unread);
    }
    session.subscribed = !listens.is_empty();
    connection.mailbox.set_listens(session.subscribed);
    if let Some(caching) = &luggage.caching {
        let (options, world) = (tracking_options(caching), session.tenant.world());
        let until = Instant::now() + waits_for_others(worker);
        let nobody = || Target::Here(Weak::new());
        let target =
            options.redirect.map(|_| if caching.redirect_is_broken { nobody() } else { Target::Awaited(until) });
        let tracker = Tracker::new(session.id, options, world, Arc::clone(&connection.mailbox), target);
        if caching.redirect_is_broken {
            tracker.set_broken();
        }
        // Before it looks who is here: who comes meanwhile looks for it.
        worker.node.tracking.add(&tracker);
        match caching.redirect {
            0 => tracker.tell_of_gap(),
            _ if caching.redirect_is_broken => {}
            other => {
                let mailbox = worker.node.mailboxes.lock().get(&other).and_then(Weak::upgrade);
                mailbox.iter().for_each(|mailbox| tracker.meet(mailbox));
            }
        }
        *connection.tracking.borrow_mut() = Some(tracker);
        connection.caching.set(caching.next);
    }
    worker.node.tracking.meet(session.id, &connection.mailbox);
    if luggage.watched {
        let watch = Watch::new();
        // Nobody looked after the keys on the way.
        watch.touch();
        *connection.watch.borrow_mut() = Some(watch);
    }
    if luggage.in_transaction {
        let requests: Vec<Vec<Vec<u8>>> = luggage.transaction.iter().map(words_of).collect();
        let words =
            |request: &Vec<Vec<u8>>| transaction::bytes_of(&request.iter().map(Vec::as_slice).collect::<Vec<_>>());
        let bytes = requests.iter().map(words).sum();
        session.transaction = Some(Transaction { requests, bytes, broken: luggage.transaction_broken });
        connection.pinned.set(luggage.pinned);
    }
    let login = session.login.as_ref();
    login.is_some_and(|login| listens.names().all(|(name, pattern)| login.policy.may_use_channel(name, pattern)))
}

fn caching(tracker: &Tracker, next: Option<bool>) -> Caching {
    let options = &tracker.options;
    let mode = match options.mode {
        TrackingMode::Every => CachingMode::Unspecified,
        TrackingMode::OptIn => CachingMode::OptIn,
        TrackingMode::OptOut => CachingMode::OptOut,
        TrackingMode::Broadcast => CachingMode::Broadcast,
    };
    let prefixes = options.prefixes.iter().map(|prefix| Bytes::copy_from_slice(prefix)).collect();
    // Ids are used again once a node has restarted: who is no more is not looked for.
    let gone = tracker.target().is_some_and(|(_, is_known)| !is_known);
    Caching {
        mode: mode.into(),
        no_loop: options.no_loop,
        prefixes,
        next,
        redirect: options.redirect.unwrap_or(0),
        redirect_is_broken: gone,
    }
}

fn tracking_options(caching: &Caching) -> TrackingOptions {
    let mode = match caching.mode() {
        CachingMode::Unspecified => TrackingMode::Every,
        CachingMode::OptIn => TrackingMode::OptIn,
        CachingMode::OptOut => TrackingMode::OptOut,
        CachingMode::Broadcast => TrackingMode::Broadcast,
    };
    let prefixes = caching.prefixes.iter().map(|prefix| prefix.to_vec()).collect();
    let redirect = Some(caching.redirect).filter(|client| *client != 0);
    TrackingOptions { mode, no_loop: caching.no_loop, redirect, prefixes }
}

fn words_of(request: &Request) -> Vec<Vec<u8>> {
    request.words.iter().map(|word| word.to_vec()).collect()
}

/// Before the node stops: guests that move take their leave first, and other nodes hear that what they still sent here was not
/// run. A link that ends under a request leaves its client in doubt.
pub async fn see_off(node: &Node) {
    let deadline = Instant::now() + LAST_BYTES_TIMEOUT;
    let serves = |of: &Arc<Node>| of.views.load().1.is_primary();
    let moved = || node.groups().iter().any(serves) || (node.guests.count() == 0 && node.farewells.count() == 0);
    while !moved() && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut strays = node.strays.load(Ordering::Relaxed);
    while node.views.load().1.state.nodes().len() > 1 && Instant::now() < deadline {
        tokio::time::sleep(QUIET).await;
        let now = node.strays.load(Ordering::Relaxed);
        if std::mem::replace(&mut strays, now) == now {
            break;
        }
    }
}

/// Packs a guest, and keeps that for its node: everything answered was sent already.
pub async fn say_farewell(worker: &Worker, stream: &Socket, connection: &Connection, lane: &mut Lane) {
    let id = connection.session.borrow().id;
    worker.node.farewells.announce(id);
    // Its node sends nothing more once it sees this, and closes when all it sent is here.
    stream.shutdown_write();
    let mut input = lane.take_input();
    let last = async {
        loop {
            stream.readable().await;
            match stream.try_read_behind(&mut input, READ_BYTES) {
                Ok(0) => return std::io::Result::Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    };
    if let Ok(Ok(())) = timeout(LAST_BYTES_TIMEOUT, last).await {
        let luggage = pack(worker, connection, input);
        worker.node.farewells.keep(id, luggage);
    }
}

/// Asks a node whether a client that was handed over to it moves, and with what.
pub async fn ask_farewell(worker: &Worker, owner: u64, address: &str, client: u64) -> Option<Batch> {
    let asked = async {
        let (mut reader, mut writer) = link::connect(&worker.node, owner, address).await.ok()?.into_halves();
        writer.push(&Batch { farewell: true, client_id: client, ..Batch::default() });
        writer.flush().await.ok()?;
        let reply = reader.next::<BatchReply>().await.ok()??;
        (reply.count == 1).then(|| Batch::decode(reply.replies).ok()).flatten()
    };
    timeout(ANSWER_TIMEOUT, asked).await.ok().flatten()
}

/// Answers such a question: the other end of [`ask_farewell`].
pub async fn answer_farewell(worker: &Worker, question: &Batch, mut writer: link::FrameWriter) {
    let luggage = worker.node.farewells.take(question.client_id).await;
    let replies = luggage.as_ref().map(|luggage| Bytes::from(luggage.encode_to_vec())).unwrap_or_default();
    let count = u32::from(luggage.is_some() && replies.len() <= link::MESSAGE_BYTES_MAX);
    let replies = if count == 1 { replies } else { Bytes::new() };
    writer.push(&BatchReply { count, replies, ..BatchReply::default() });
    // Whoever asked sees the link close either way.
    let _ = writer.flush().await;
}
