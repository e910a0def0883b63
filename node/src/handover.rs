//! Hand-over: a client that needs something lasting where the data is goes on at the node that serves it.
//!
//! ```text
//!   client ══ node 2 (accepted it) ══ a link of its own ══ node 1 (serves the data)
//!             copies bytes both ways                       the very loop that serves its own clients
//! ```
//! Transactions, subscriptions, waiting, scripts and tracking live in a connection; forwarding single commands does not
//! carry them. At the first command of that kind ([`Home::DataForGood`]) the node opens a link, says once who the client is
//! and what it has set, and from then on looks at no byte: the owner knows the session, checks every command, and lists
//! the client under its true address and id. It stays that way until the client leaves, or the data does: then the client
//! moves along ([`crate::moving`]). Otherwise, whichever side of the pipe ends, both end. There is no buffer but one read in each direction: who does not read is not read from.
//!
//! The node that accepted the client still lists it, and closes it when told to or when the user it was handed over as is
//! gone. If the client has logged in anew behind the pipe, that closes it once too often, never too seldom.
//!
//! [`Home::DataForGood`]: keyward_engine::command::Home::DataForGood

use crate::connection::{self, Connection};
use crate::forward;
use crate::holding::Part;
use crate::link::{self, FrameReader, FrameWriter};
use crate::moving;
use crate::rounds::GROUP_BUFFER_BYTES;
use crate::socket::Socket;
use crate::worker::{READ_BYTES, Worker};
use crate::world::net::{self, TcpStream};
use bytes::Bytes;
use keyward_cluster::GroupId;
use keyward_engine::session::{ReplyMode, Session};
use keyward_proto::forward::{self as wire, Batch, BatchError, BatchReply, HandOver};
use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// Between two tries.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// How long the owner may think about one client: longer than it waits for changes it has not applied.
const ACCEPT_TIMEOUT: Duration = Duration::from_secs(4);

/// What a client gets whose transaction was under way when the data moved.
pub const ENDED_HALFWAY: &str =
    "UNKNOWN the data moved to another node during the transaction; what came first may or may not have taken effect";

/// What the client gets if the pipe ends before the first answer. Later nobody here knows where an answer ends, and a
/// line in the middle of one would be taken for data.
const ENDED_UNANSWERED: &[u8] = b"-UNKNOWN the connection to the node that serves the data has ended; the command \
    may or may not have taken effect\r\n";

/// Clients of other nodes that are served here. They are counted apart from the node's own, and bounded alike: there may
/// be as many of them as `maxclients` says.
#[derive(Default)]
pub struct Guests(Arc<AtomicU64>);

impl Guests {
    /// How many there are.
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn enter(&self, max: u64) -> Option<GuestPlace> {
        let more = |count| (count < max).then_some(count + 1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(GuestPlace(Arc::clone(&self.0)))
    }
}

/// A place among them; dropping it gives it back.
struct GuestPlace(Arc<AtomicU64>);

impl Drop for GuestPlace {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What became of a client that was to be handed over.
pub enum HandedOver {
    /// Its connection is over.
    Ended,
    /// This node serves the data now: the client stays, and this is its input.
    ServedHere(Vec<u8>),
}

/// Hands a client over and carries its bytes until it leaves. `input` is what it sent and was not run; the luggage, what it
/// had where it comes from. When the data moves on, so does the client.
pub async fn hand_over(
    worker: &Rc<Worker>,
    stream: &Socket,
    connection: &Connection,
    mut input: Vec<u8>,
    mut luggage: Option<HandOver>,
) -> HandedOver {
    connection.mailbox.set_away(true);
    if connection.mailbox.stands_in() {
        moving::part(worker, connection);
    }
    loop {
        let of = worker.of(connection.group.get());
        let opened = tokio::select! {
            biased;
            () = connection.killed() => return HandedOver::Ended,
            opened = open(of, connection, luggage.as_ref()) => opened,
        };
        let (link, said, owner, address) = match opened {
            Opened::Link((link, said), owner, address) => (link, said, owner, address),
            Opened::ServedHere => {
                connection.handed_over.set(false);
                connection.mailbox.set_away(false);
                let settled = luggage.is_none_or(|luggage| moving::unpack(worker, connection, &luggage));
                return if settled { HandedOver::ServedHere(input) } else { HandedOver::Ended };
            }
            Opened::UserGone => return HandedOver::Ended,
            Opened::Failed(why) => {
                // What follows may mean something else without the command that failed: a MULTI's commands would run at
                // once.
                let why = why.replace(['\r', '\n'], " ");
                let text = format!(
                    "-CLUSTERDOWN the node that serves the data cannot be reached ({why}); the command was not carried out\r\n"
                );
                tell(worker, stream, connection, text.as_bytes());
                return HandedOver::Ended;
            }
        };
        connection.handed_over.set(true);
        connection.link_seats.borrow_mut().clear();
        let held = Held { to_owner: Rest::of(input), to_client: Rest::of(said) };
        let moves = tokio::select! {
            biased;
            () = connection.killed() => return HandedOver::Ended,
            moves = pipe(worker, connection, stream, &link, (owner, &address), &held) => moves,
        };
        let Some(mut packed) = moves else { return HandedOver::Ended };
        if !adopt(worker, connection, &packed) {
            return HandedOver::Ended;
        }
        connection.group.set(GroupId(packed.group));
        input = std::mem::take(&mut packed.commands).into();
        input.extend_from_slice(held.to_owner.borrow().bytes());
        luggage = packed.hand_over;
    }
}

/// What was read on one side of the pipe and not yet written on the other.
struct Held {
    to_owner: RefCell<Rest>,
    to_client: RefCell<Rest>,
}

/// Bytes of which the first ones were written.
#[derive(Default)]
struct Rest {
    all: Vec<u8>,
    sent: usize,
}

impl Rest {
    fn of(all: Vec<u8>) -> RefCell<Rest> {
        RefCell::new(Rest { all, sent: 0 })
    }

    fn bytes(&self) -> &[u8] {
        &self.all[self.sent..]
    }

    fn is_empty(&self) -> bool {
        self.sent == self.all.len()
    }
}

/// The client comes back with what it set where it was: from there it goes on. False: its user is gone.
fn adopt(worker: &Worker, connection: &Connection, packed: &Batch) -> bool {
    let (_, view) = worker.node.views.load();
    let Some(there) = forward::introduce(worker, packed, &view) else { return false };
    let mut session = connection.session.borrow_mut();
    let replies = packed.hand_over.as_ref().map(|luggage| {
        unpack(luggage, &mut session);
        session.replies
    });
    session.replies = replies.unwrap_or_default();
    session.login = there.login;
    session.tenant = there.tenant;
    session.database = there.database;
    session.protocol = there.protocol;
    session.name = there.name;
    connection.mailbox.standing.set(session.login.as_ref());
    connection.bound(worker, &session);
    true
}

/// Last words, if the client wants answers and its socket has room.
fn tell(worker: &Worker, stream: &Socket, connection: &Connection, text: &[u8]) {
    if connection.session.borrow().replies == ReplyMode::On
        && let Ok(count) = stream.try_write(text)
    {
        worker.stats.output_bytes.add(count as u64);
    }
}

enum Opened {
    /// What it says comes over this, and this has come already; to this node, at this address.
    Link((Socket, Vec<u8>), u64, String),
    ServedHere,
    UserGone,
    Failed(String),
}

async fn open(worker: &Rc<Worker>, connection: &Connection, more: Option<&HandOver>) -> Opened {
    let give_up = Instant::now() + worker.hot().failover_wait;
    loop {
        let (_, view) = worker.node.views.load();
        if view.is_primary() {
            return Opened::ServedHere;
        }
        let batch = {
            let mut session = connection.session.borrow_mut();
            // The owner is told that this view was applied: then the login must be one of this view, too.
            if !connection::renew(&mut session, &view) {
                return Opened::UserGone;
            }
            let hand_over = more.cloned().unwrap_or_else(|| luggage(&session, usize::MAX));
            let group = worker.node.group.0;
            let mut batch = Batch { hand_over: Some(hand_over), group, ..Batch::default() };
            forward::describe(&mut batch, &session, &view);
            batch
        };
        let outcome = match forward::owner(&view) {
            Ok((owner, address)) => {
                ask(worker, owner, &address, batch).await.map(|link| Opened::Link(link, owner, address))
            }
            Err(why) => Err(why),
        };
        match outcome {
            Ok(opened) => return opened,
            Err(why) if Instant::now() >= give_up => return Opened::Failed(why),
            Err(_) => tokio::time::sleep(RETRY_PAUSE).await,
        }
    }
}

/// What a session takes along, beyond what every batch says; texts up to a length.
pub fn luggage(session: &Session, text_bytes_max: usize) -> HandOver {
    let text = |text: &[u8]| Bytes::copy_from_slice(&text[..text.len().min(text_bytes_max)]);
    let replies = match session.replies {
        ReplyMode::On => wire::ReplyMode::Unspecified,
        ReplyMode::Off => wire::ReplyMode::Off,
        ReplyMode::SkipNext => wire::ReplyMode::SkipNext,
    };
    HandOver {
        library_name: text(&session.library_name),
        library_version: text(&session.library_version),
        replies: replies.into(),
        no_evict: session.no_evict,
        no_touch: session.no_touch,
        created_unix_ms: session.created_at,
        local_addr: session.local_address.clone(),
        readonly: session.readonly,
        signs: session.signs,
        ..HandOver::default()
    }
}

/// The other end of [`luggage`].
pub fn unpack(hand_over: &HandOver, session: &mut Session) {
    session.library_name = hand_over.library_name.to_vec();
    session.library_version = hand_over.library_version.to_vec();
    session.replies = match hand_over.replies() {
        wire::ReplyMode::Unspecified => ReplyMode::On,
        wire::ReplyMode::Off => ReplyMode::Off,
        wire::ReplyMode::SkipNext => ReplyMode::SkipNext,
    };
    session.no_evict = hand_over.no_evict;
    session.no_touch = hand_over.no_touch;
    session.created_at = hand_over.created_unix_ms;
    session.local_address = hand_over.local_addr.clone();
    session.readonly = hand_over.readonly;
    session.signs = hand_over.signs;
}

/// One try. Nothing of the client's input has been sent when it fails.
async fn ask(worker: &Worker, owner: u64, address: &str, batch: Batch) -> Result<(Socket, Vec<u8>), String> {
    let (mut reader, mut writer) = link::connect(&worker.node, owner, address).await?.into_halves();
    let answered = async {
        writer.push(&batch);
        writer.flush().await?;
        reader.next::<BatchReply>().await
    };
    let reply = timeout(ACCEPT_TIMEOUT, answered).await.map_err(|_| "it did not answer in time".to_owned())?;
    let reply = reply.map_err(|error| format!("the link broke: {error}"))?;
    let reply = reply.ok_or_else(|| "it closed the link".to_owned())?;
    if reply.error() != BatchError::Unspecified {
        return Err(reply.error_text);
    }
    if reply.count != 1 {
        return Err("its version takes no clients over".to_owned());
    }
    // What the client is told of in another's place, or has waiting, may come right behind the answer.
    let (link, _, said) = link::into_stream_and_rest(reader, writer).map_err(|error| error.to_string())?;
    keep_alive(worker, &link);
    let link = net::pack(link).and_then(|link| worker.socket(link)).map_err(|error| error.to_string())?;
    Ok((link, said))
}

/// Takes over a client that another node hands over for a shard group (`of`), and serves it until it leaves: the other end
/// of [`hand_over`].
pub async fn take_over(worker: Rc<Worker>, of: Rc<Worker>, batch: Batch, reader: FrameReader, mut writer: FrameWriter) {
    let accepted = match forward::identify(&of, &batch).await {
        Ok(_) if still_here(&worker, batch.client_id) => {
            Err((BatchError::Unavailable, "the client's id is still in use"))
        }
        Ok((_, session)) => {
            let place = worker.node.guests.enter(worker.hot().clients_max);
            place.map(|place| (place, session)).ok_or((BatchError::Overloaded, "it serves too many clients of others"))
        }
        Err(refused) => Err(refused),
    };
    match accepted {
        Err((error, text)) => {
            writer.push(&forward::refusal(&batch, error, text));
            // Whoever asked sees the link close, and tries again either way.
            let _ = writer.flush().await;
        }
        Ok((place, mut session)) => {
            let luggage = batch.hand_over.clone().unwrap_or_default();
            unpack(&luggage, &mut session);
            writer.push(&BatchReply { sequence: batch.sequence, count: 1, ..BatchReply::default() });
            if writer.flush().await.is_err() {
                return;
            }
            let Ok((stream, _)) = link::into_stream(reader, writer) else { return };
            keep_alive(&worker, &stream);
            let Ok(stream) = net::pack(stream) else { return };
            worker.serve_guest(stream, session, &luggage, of.node.group).await;
            drop(place);
        }
    }
}

/// Whether a client of this id is served here: one of an earlier life of its node, which counted its clients from the
/// beginning again, or of a hand-over that its node gave up. It is told to end, and whoever asked tries again soon.
fn still_here(worker: &Worker, id: u64) -> bool {
    let before = worker.node.mailboxes.lock().get(&id).and_then(Weak::upgrade);
    before.inspect(|mailbox| mailbox.kill()).is_some()
}

/// A node that lost its power says nothing: the pipe must not wait for it for ever.
pub fn keep_alive(worker: &Worker, stream: &TcpStream) {
    net::keep_alive(stream, worker.node.config.tcp_keepalive);
}

/// Why one direction ended.
#[derive(PartialEq, Eq)]
enum End {
    /// Whoever sends has said everything.
    Said,
    /// Whoever sends is gone.
    SenderGone,
    /// Whoever receives is gone.
    ReceiverGone,
}

/// Carries bytes both ways until the client is gone, or the owner has said everything. `Some`: the client moves, and this is
/// what it had there.
async fn pipe(
    worker: &Worker,
    connection: &Connection,
    client: &Socket,
    link: &Socket,
    (owner, address): (u64, &str),
    held: &Held,
) -> Option<Batch> {
    let said = held.to_client.borrow().bytes().len();
    worker.stats.output_bytes.add(said as u64);
    let answered = Cell::new(said > 0);
    let to_owner = copy(worker, client, link, &held.to_owner, |read, held| {
        connection.input_bytes.set(held);
        connection.mailbox.holding.set(Part::Input, held as u64);
        if read > 0 {
            connection.session.borrow_mut().active_at = worker.now_ms();
            worker.stats.input_bytes.add(read as u64);
        }
    });
    let to_client = copy(worker, link, client, &held.to_client, |read, held| {
        connection.mailbox.holding.set(Part::Output, held as u64);
        connection.output_bytes.set(held);
        answered.set(answered.get() || read > 0);
        worker.stats.output_bytes.add(read as u64);
    });
    tokio::pin!(to_owner, to_client);
    let ended = tokio::select! {
        biased;
        ended = &mut to_client => ended,
        ended = &mut to_owner => match ended {
            End::SenderGone => return None,
            End::Said => {
                link.shutdown_write();
                to_client.await;
                return None;
            }
            // What the owner said before it left is still on the link.
            End::ReceiverGone => to_client.await,
        }
    };
    if ended == End::Said {
        // Now the owner has everything that was sent to it.
        link.shutdown_write();
        let id = connection.session.borrow().id;
        if let Some(packed) = moving::ask_farewell(worker, owner, address, id).await {
            return Some(packed);
        }
    }
    if ended != End::ReceiverGone && !answered.get() {
        tell(worker, client, connection, ENDED_UNANSWERED);
    }
    None
}

/// Carries bytes one way, `held` first. Holds one read at most besides; `note` hears how much was read and how much is
/// held.
async fn copy(worker: &Worker, from: &Socket, to: &Socket, held: &RefCell<Rest>, note: impl Fn(usize, usize)) -> End {
    loop {
        if !held.borrow().is_empty() {
            if write_all(to, held).await.is_err() {
                return End::ReceiverGone;
            }
            *held.borrow_mut() = Rest::default();
            note(0, 0);
        }
        from.readable().await;
        let outcome = read_and_pass_on(worker, from, to, &mut held.borrow_mut().all);
        match outcome {
            Ok(0) => return End::Said,
            Ok(read) => note(read, held.borrow().bytes().len()),
            Err(Broken::From(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(Broken::From(_)) => return End::SenderGone,
            Err(Broken::To) => return End::ReceiverGone,
        }
        // A sender that is always ready must leave the thread to others now and then.
        tokio::task::consume_budget().await;
    }
}

enum Broken {
    From(io::Error),
    To,
}

/// One read into the thread's buffer, one write out of it; `held` keeps what did not go. How much was read.
fn read_and_pass_on(worker: &Worker, from: &Socket, to: &Socket, held: &mut Vec<u8>) -> Result<usize, Broken> {
    let mut scratch = worker.scratch.borrow_mut();
    let buffer = &mut scratch.input;
    // A request that panicked took the buffer with it.
    buffer.resize(GROUP_BUFFER_BYTES, 0);
    let read = from.try_read(&mut buffer[..READ_BYTES]).map_err(Broken::From)?;
    if read == 0 {
        return Ok(0);
    }
    let sent = match to.try_write(&buffer[..read]) {
        Ok(sent) => sent,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
        Err(_) => return Err(Broken::To),
    };
    held.extend_from_slice(&buffer[sent..read]);
    Ok(read)
}

async fn write_all(to: &Socket, held: &RefCell<Rest>) -> io::Result<()> {
    loop {
        let outcome = {
            let held = held.borrow();
            if held.is_empty() {
                return Ok(());
            }
            to.try_write(held.bytes())
        };
        match outcome {
            Ok(count) => held.borrow_mut().sent += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => to.writable().await,
            Err(error) => return Err(error),
        }
    }
}
