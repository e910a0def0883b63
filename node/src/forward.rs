//! Commands on their way to the node that serves the data, and their replies back: the end that sends them.
//!
//! ```text
//!   client ─► data thread of node 3 ══ one link per thread, many batches in flight ══► data thread of node 1 ─► shards
//!             gate (local rules)        frames: see `carrier.rs`                       `callers.rs`: gate again (its own rules)
//! ```
//! A link runs on a data thread at both ends, never on the control plane's. It begins on the peer port with a mutual
//! proof that both sides know the cluster secret; neither sends it. What the sender believes about permissions is not
//! trusted, only who the caller is: the owner looks the user up and checks every command again, once it has applied
//! everything the sender had.
//!
//! A batch that was perhaps run is never sent again, unless it only reads. One that certainly was not (the link could not
//! be made, broke before it left, or the owner refused it) is sent again until `failover-wait` is over.
//!
//! It is long because what a batch may go through on its way is one story: whoever changes one end of it has to see the other.

use crate::callers::{Decoded, decode_all};
use crate::carrier::{self, Arrival, Arrivals, Departures, Kind, PART_BYTES};
use crate::connection::Connection;
use crate::link::{self, LinkStream};
use crate::places::PortPlace;
use crate::replication::NotConfirmed;
use crate::ties::Tie;
use crate::view::View;
use crate::worker::Worker;
use crate::world::net::{self, Parcel, TcpStream};
use bytes::Bytes;
use keyward_acl::User;
use keyward_cluster::GroupId;
use keyward_engine::asks::TrackingMode;
use keyward_engine::command::{Flags, Run};
use keyward_engine::reply::Protocol;
use keyward_engine::session::{ReplyMode, Session};
use keyward_proto::forward::{Batch, BatchError, BatchReply};
use keyward_proto::resp::encode_command;
use prost::Message;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout, timeout_at};

/// An owner of which nothing at all is heard for so long is given up: clients are told that the outcome is unknown.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(10);

/// Between two looks at the answers that are due.
const WATCH_PAUSE: Duration = Duration::from_millis(200);

/// How long a node that no longer serves the data may still answer what it was sent before, in looks.
const MOVED_LOOKS: u32 = 2;

/// A node that owed answers and said nothing for so many looks when the data moved away from it owes none any more: it
/// answers every look, unless it stands still or is cut off.
const SILENT_LOOKS_WHEN_MOVED: u32 = 2;

/// Between two tries.
pub const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// Before it is looked again to which shard group keys belong.
pub const SHIFT_PAUSE: Duration = Duration::from_millis(2);

/// How long the owner waits until it has applied what the sender had.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the owner may take to accept a link.
const ACCEPT_TIMEOUT: Duration = Duration::from_secs(3);

/// What a client calls itself, as far as the owner is told: it is for logs.
const NAME_BYTES_MAX: usize = 1024;

/// What a command gets that reached a node which no longer serves the data.
pub const NOT_SERVED_HERE: &str =
    "CLUSTERDOWN the data moved to another node while the command was on its way; try again";

/// Requests of one client that travel together.
#[derive(Default)]
pub struct ForwardBatch {
    commands: Vec<u8>,
    /// The same, once they are too long to be copied.
    shared: Option<Bytes>,
    /// Where each request ends in `commands`.
    ends: Vec<usize>,
    /// How many requests were answered.
    answered: usize,
    /// The shard group they are for.
    pub group: GroupId,
    /// The last change that was applied here when they were let through.
    pub policy_version: u64,
    /// One of them may change something.
    pub writes: bool,
    /// Which requests read what the client caches, by their places.
    cached: Vec<usize>,
    /// The client wants no replies.
    pub silent: bool,
    /// The client wanted no reply to this one.
    pub skipped: bool,
    /// Nothing may join it any more.
    pub complete: bool,
}

impl ForwardBatch {
    /// Of a shard group's, without any.
    pub fn of(group: GroupId) -> ForwardBatch {
        ForwardBatch { group, ..ForwardBatch::default() }
    }

    /// Whether it holds no request that is to be answered.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.answered == self.ends.len()
    }

    /// Adds a request.
    pub fn push(&mut self, argv: &[&[u8]]) {
        encode_command(&mut self.commands, argv);
        self.ends.push(self.commands.len());
    }

    /// Adds a request as the client sent it: an array of bulk strings.
    #[inline]
    pub fn push_encoded(&mut self, request: &[u8]) {
        self.commands.extend_from_slice(request);
        self.ends.push(self.commands.len());
    }

    /// Adds a request, as the client sent it if it sent it as it travels.
    #[inline]
    pub fn add(&mut self, argv: &[&[u8]], encoded: Option<&[u8]>) {
        match encoded {
            Some(encoded) => self.push_encoded(encoded),
            None => self.push(argv),
        }
    }

    /// The client caches what the last request reads.
    pub fn cache_last(&mut self) {
        self.cached.push(self.ends.len() - 1);
    }

    /// Whether the client caches what the first request reads that was not answered.
    pub fn caches_first(&self) -> bool {
        self.cached.contains(&self.answered)
    }

    /// What the client said of the first request that was not answered, if it said anything about the first one.
    pub fn asked_to_cache(&self, connection: &Connection) -> Option<bool> {
        let mode = connection.tracking.borrow().as_ref().map(|tracker| tracker.options.mode);
        match mode {
            Some(TrackingMode::OptIn) if self.caches_first() => Some(true),
            Some(TrackingMode::OptOut) if !self.caches_first() && self.answered == 0 => Some(false),
            _ => None,
        }
    }

    /// So many more were answered.
    pub fn answer(&mut self, count: u32) {
        self.answered += count as usize;
    }

    /// The requests that were not answered.
    pub fn rest(&self) -> &[u8] {
        let all = self.shared.as_deref().unwrap_or(&self.commands);
        &all[self.start()..]
    }

    fn start(&self) -> usize {
        self.answered.checked_sub(1).map_or(0, |last| self.ends[last])
    }

    /// How many were not answered.
    pub fn count(&self) -> u32 {
        (self.ends.len() - self.answered) as u32
    }

    /// The same as bytes that a link can keep.
    fn shared(&mut self) -> Bytes {
        let start = self.start();
        let all = self.shared.get_or_insert_with(|| std::mem::take(&mut self.commands).into());
        all.slice(start..)
    }
}

/// Says who asks, as of `view`.
pub fn describe(batch: &mut Batch, session: &Session, view: &View) {
    let Some(login) = &session.login else { return };
    batch.user = Bytes::copy_from_slice(login.user.name.as_bytes());
    batch.user_created = login.user.created;
    batch.policy_version = view.index;
    batch.database = session.database;
    batch.resp3 = session.protocol == Protocol::Resp3;
    batch.client_id = session.id;
    batch.client_addr = session.address.clone();
    batch.client_name = Bytes::copy_from_slice(&session.name);
}

/// How one try ended, if not with replies.
enum Failure {
    /// Certainly not run: try again, perhaps elsewhere.
    NotRun(String),
    /// Certainly not run, and nothing but time is needed.
    Paused,
    /// Certainly not run: the keys are another shard group's by now.
    Shifted,
    /// Certainly not run, and never will be.
    Refused(String),
    /// Perhaps run.
    Unknown(String),
    /// This node serves the data now.
    ServedHere,
}

/// What became of a batch.
pub enum Sent {
    /// Some of it was answered; what was not is still in it.
    Answered,
    /// This node serves the data now, and is to run it.
    ServedHere,
    /// What was not answered is to be led anew: its keys are another shard group's, as soon as that is known here.
    Shifted,
}

/// Has the node that serves the data run the batch; appends its replies, or one clear error per request. Long replies come
/// in several goes.
pub async fn send(
    worker: &Rc<Worker>,
    connection: &Connection,
    batch: &mut ForwardBatch,
    output: &mut Vec<u8>,
) -> Sent {
    let mut give_up: Option<Instant> = None;
    let text = loop {
        note_cached(worker, connection, batch);
        let why = match attempt(worker, connection, batch, output).await {
            Ok(answered) => {
                batch.answered += answered as usize;
                return Sent::Answered;
            }
            Err(Failure::ServedHere) => return Sent::ServedHere,
            Err(Failure::Shifted) => {
                tokio::time::sleep(SHIFT_PAUSE).await;
                return Sent::Shifted;
            }
            Err(Failure::Refused(text)) => break text,
            Err(Failure::Unknown(why)) if batch.writes => {
                break in_doubt(&format!("no answer from the node that serves the data ({why})"));
            }
            Err(Failure::Paused) => {
                tokio::time::sleep(RETRY_PAUSE).await;
                continue;
            }
            Err(Failure::Unknown(why) | Failure::NotRun(why)) => why,
        };
        let now = Instant::now();
        if now >= *give_up.get_or_insert(now + worker.hot().failover_wait) {
            break format!(
                "CLUSTERDOWN the node that serves the data cannot be reached ({why}); the command was not carried out"
            );
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    };
    if !batch.silent {
        let line = format!("-{}\r\n", text.replace(['\r', '\n'], " "));
        (0..batch.count()).for_each(|_| output.extend_from_slice(line.as_bytes()));
    }
    batch.answered = batch.ends.len();
    Sent::Answered
}

/// A client that caches is told here of what comes by here of the group: of keys it is about to read it is told from now on, of
/// those it is about to change, at once. Before each try: it may have been told of an earlier one.
fn note_cached(worker: &Worker, connection: &Connection, batch: &ForwardBatch) {
    let Some(tracker) = connection.tracking.borrow().clone() else { return };
    let hot = worker.hot();
    let (mut bytes, mut decoded) = (batch.rest().to_vec(), Decoded::default());
    if !decode_all(&mut bytes, hot.decoder.clone(), &mut decoded) {
        return;
    }
    let node = &worker.node;
    for (at, argv) in decoded.requests(&bytes).iter().enumerate() {
        let Ok(resolved) = node.table.resolve(argv) else { continue };
        let mut keys = Vec::new();
        node.table.keys_of(resolved.row, argv, &mut keys);
        let reads = resolved.row.command.flags.has(Flags::READONLY);
        for named in keys {
            if !reads && !tracker.options.no_loop {
                node.shards.outdate(named.key, &tracker);
            } else if reads && batch.cached.contains(&(batch.answered + at)) {
                node.shards.remember(named.key, &tracker, hot.tracked_keys_max);
                if !node.replication.flows() {
                    // Changes of it would not be noticed: it is not to be kept.
                    tracker.tell(named.key, 0);
                }
            }
        }
        if !reads && matches!(resolved.row.run, Run::OnEveryKey(_)) && !tracker.options.no_loop {
            tracker.tell_of_gap();
        }
    }
    node.tracking.deliver();
}

/// One try: how many requests were answered.
async fn attempt(
    worker: &Rc<Worker>,
    connection: &Connection,
    batch: &mut ForwardBatch,
    output: &mut Vec<u8>,
) -> Result<u32, Failure> {
    if batch.rest().len() > carrier::BODY_BYTES_MAX {
        let text = "ERR the request is too long to be forwarded to the node that serves the data";
        return Err(Failure::Refused(text.to_owned()));
    }
    let link = worker.links.current(worker).await?;
    let (number, place) = take_seat(connection, &link, batch.policy_version)?;
    let count = batch.count();
    let head = carrier::requests_head(batch.policy_version, count);
    if batch.rest().len() > PART_BYTES {
        link.departures.push_body(Kind::Requests, number, &head, batch.shared(), &place.end);
    } else {
        place.end.set(link.departures.push(Kind::Requests, number, &head, batch.rest()));
    }
    worker.stats.forwarded.add(u64::from(count));
    let answer = place.answer(&link).await;
    let mut replies = place.replies.borrow_mut();
    let outcome = answer.and_then(|(error, answered)| judge(error, answered, count, &replies));
    match outcome {
        Ok(_) if batch.silent => {}
        // Most often nothing else is waiting to be sent: the buffers change places.
        Ok(_) if output.is_empty() => std::mem::swap(output, &mut replies),
        Ok(_) => output.extend_from_slice(&replies),
        Err(Failure::Unknown(_)) => {
            // A late answer must not be taken for that of the next request: the client takes another seat.
            connection.link_seats.borrow_mut().retain(|seat| !Rc::ptr_eq(&seat.place, &place));
        }
        Err(_) => {}
    }
    replies.clear();
    if replies.capacity() > 4 * PART_BYTES {
        *replies = Vec::new();
    }
    outcome
}

fn judge(error: u8, answered: u32, count: u32, text: &[u8]) -> Result<u32, Failure> {
    let text = || String::from_utf8_lossy(text).into_owned();
    match BatchError::try_from(i32::from(error)) {
        Ok(BatchError::Unspecified) if (1..=count).contains(&answered) => Ok(answered),
        Ok(BatchError::Unspecified) => Err(Failure::Unknown("it answered a different number of commands".to_owned())),
        Ok(BatchError::Paused) => Err(Failure::Paused),
        Ok(BatchError::Elsewhere) => Err(Failure::Shifted),
        Ok(BatchError::Invalid) => Err(Failure::Refused(format!("ERR the node that serves the data says: {}", text()))),
        _ => Err(Failure::NotRun(text())),
    }
}

/// The id and the peer address of the node that serves the data, if that is another one. The error is for people.
pub fn owner(view: &View) -> Result<(u64, String), String> {
    let owner = view.primary.ok_or_else(|| "no node was named".to_owned())?;
    if owner == view.me {
        return Err("this node is about to serve it".to_owned());
    }
    let node = view.state.nodes().get(&owner).ok_or_else(|| "it is not registered".to_owned())?;
    Ok((owner.0, node.addresses.peer.clone()))
}

/// A data thread's way to the node that serves the data: one link, made when it is needed.
#[derive(Default)]
pub struct Links {
    current: RefCell<Option<Rc<ForwardLink>>>,
    opening: Cell<bool>,
    /// Why there is no link, for people.
    why: RefCell<String>,
    opened: Notify,
}

impl Links {
    async fn current(&self, worker: &Rc<Worker>) -> Result<Rc<ForwardLink>, Failure> {
        let generation = worker.node.views.generation();
        if let Some(link) = &*self.current.borrow()
            && link.seen.get() == generation
            && !link.departures.is_broken()
        {
            return Ok(Rc::clone(link));
        }
        self.find(worker).await
    }

    #[cold]
    async fn find(&self, worker: &Rc<Worker>) -> Result<Rc<ForwardLink>, Failure> {
        let (generation, view) = worker.node.views.load();
        if view.is_primary() {
            return Err(Failure::ServedHere);
        }
        let (owner, address) = owner(&view).map_err(Failure::NotRun)?;
        if let Some(link) = self.to(owner, &address) {
            link.seen.set(generation);
            return Ok(link);
        }
        let opened = self.opened.notified();
        if !self.opening.replace(true) {
            // A task of its own: whoever asked first may leave, and others wait for the same link.
            tokio::task::spawn_local(Links::open(Rc::clone(worker), owner, address.clone()));
        }
        opened.await;
        self.to(owner, &address).ok_or_else(|| Failure::NotRun(self.why.borrow().clone()))
    }

    fn to(&self, owner: u64, address: &str) -> Option<Rc<ForwardLink>> {
        let current = self.current.borrow();
        let fits =
            |link: &&Rc<ForwardLink>| !link.departures.is_broken() && link.owner == owner && link.address == address;
        current.as_ref().filter(fits).cloned()
    }

    async fn open(worker: Rc<Worker>, owner: u64, address: String) {
        let made = ForwardLink::open(&worker, owner, address).await;
        let links = &worker.links;
        links.opening.set(false);
        match made {
            Ok(link) => *links.current.borrow_mut() = Some(link),
            Err(why) => *links.why.borrow_mut() = why,
        }
        links.opened.notify_waiters();
    }
}

/// A connection to the node that serves the data, with seats for the clients of this thread.
pub struct ForwardLink {
    group: GroupId,
    owner: u64,
    address: String,
    departures: Departures,
    places: RefCell<Places>,
    /// The view under which it was last found to lead to the owner.
    seen: Cell<u64>,
    /// Something was heard since the last look.
    heard: Cell<bool>,
    /// Why it is over, for people.
    end: Cell<&'static str>,
}

/// Seats by number: those that are taken, and the numbers of those that were given back.
#[derive(Default)]
struct Places {
    taken: Vec<Option<Rc<Place>>>,
    free: Vec<u32>,
}

/// What belongs to a seat on a link.
#[derive(Default)]
struct Place {
    waker: RefCell<Option<Waker>>,
    replies: RefCell<Vec<u8>>,
    /// The error and the number of replies.
    answer: Cell<Option<(u8, u32)>>,
    /// Where the batch ends in what is sent.
    end: Rc<Cell<u64>>,
    /// Somebody waits for an answer.
    asked: Cell<bool>,
    /// The client gave the seat back.
    left: Cell<bool>,
}

impl Place {
    async fn answer(&self, link: &ForwardLink) -> Result<(u8, u32), Failure> {
        self.asked.set(true);
        let answer = poll_fn(|context| {
            if let Some(answer) = self.answer.take() {
                return Poll::Ready(Ok(answer));
            }
            if link.departures.is_broken() {
                let failure = if link.departures.has_left(self.end.get()) { Failure::Unknown } else { Failure::NotRun };
                return Poll::Ready(Err(failure(link.end.get().to_owned())));
            }
            let mut waker = self.waker.borrow_mut();
            if !waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
                *waker = Some(context.waker().clone());
            }
            Poll::Pending
        });
        let answer = answer.await;
        self.asked.set(false);
        answer
    }

    fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }
}

/// A client's seat on a link, and what the owner was told about the client.
pub struct Seat {
    link: Rc<ForwardLink>,
    number: u32,
    place: Rc<Place>,
    told: Told,
}

/// What the owner knows of a client besides what never changes.
struct Told {
    user: Arc<User>,
    database: u32,
    protocol: Protocol,
    no_touch: bool,
    signs: bool,
    name: Vec<u8>,
}

impl Told {
    fn is_true_of(&self, session: &Session) -> bool {
        session.login.as_ref().is_some_and(|login| Arc::ptr_eq(&login.user, &self.user))
            && session.database == self.database
            && session.protocol == self.protocol
            && session.no_touch == self.no_touch
            && session.signs == self.signs
            && session.name == self.name
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.place.left.set(true);
        if !self.link.departures.is_broken() {
            self.link.departures.forget(self.number);
            self.link.departures.push(Kind::Left, self.number, &[], &[]);
        }
    }
}

/// A seat of the client on this link that nobody waits at; the owner knows who sits there. A client has several when keys
/// moved under parts of one request, and two of these are asked of the same group.
fn take_seat(connection: &Connection, link: &Rc<ForwardLink>, version: u64) -> Result<(u32, Rc<Place>), Failure> {
    let session = connection.session.borrow();
    let mut seats = connection.link_seats.borrow_mut();
    let held = seats.iter().position(|seat| seat.link.group == link.group && !seat.place.asked.get());
    if let Some(seat) = held.map(|at| &seats[at])
        && Rc::ptr_eq(&seat.link, link)
        && seat.told.is_true_of(&session)
    {
        return Ok((seat.number, Rc::clone(&seat.place)));
    }
    let Some(login) = &session.login else {
        return Err(Failure::Refused("NOAUTH Authentication required.".to_owned()));
    };
    let told = Told {
        user: Arc::clone(&login.user),
        database: session.database,
        protocol: session.protocol,
        no_touch: session.no_touch,
        signs: session.signs,
        name: session.name.clone(),
    };
    let at = match held {
        Some(at) if Rc::ptr_eq(&seats[at].link, link) => {
            seats[at].told = told;
            at
        }
        before => {
            if let Some(at) = before {
                seats.swap_remove(at);
            }
            let (number, place) = link.seat();
            seats.push(Seat { link: Rc::clone(link), number, place, told });
            seats.len() - 1
        }
    };
    let seat = &seats[at];
    let mut name = session.name.clone();
    name.truncate(NAME_BYTES_MAX);
    let about = Batch {
        user: Bytes::copy_from_slice(login.user.name.as_bytes()),
        user_created: login.user.created,
        policy_version: version,
        database: session.database,
        resp3: session.protocol == Protocol::Resp3,
        client_id: session.id,
        client_addr: session.address.clone(),
        client_name: name.into(),
        hand_over: Some(crate::handover::luggage(&session, NAME_BYTES_MAX)),
        ..Batch::default()
    };
    link.departures.push(Kind::Caller, seat.number, &[], &about.encode_to_vec());
    Ok((seat.number, Rc::clone(&seat.place)))
}

impl ForwardLink {
    /// Connects, proves the secret both ways, and starts what reads, writes and looks after it.
    async fn open(worker: &Rc<Worker>, owner: u64, address: String) -> Result<Rc<ForwardLink>, String> {
        let (stream, tie) = begin(worker, owner, &address).await?;
        let stream = Rc::new(stream);
        let made = Rc::new(ForwardLink {
            group: worker.node.group,
            owner,
            address,
            departures: Departures::new(Rc::clone(&stream), Some(tie)),
            places: RefCell::default(),
            seen: Cell::new(0),
            heard: Cell::new(false),
            end: Cell::new("the link broke"),
        });
        let writing = Rc::clone(&made);
        tokio::task::spawn_local(async move { writing.departures.send_all().await });
        tokio::task::spawn_local(read_replies(Rc::clone(&made), stream));
        tokio::task::spawn_local(look_after(Rc::clone(worker), Rc::clone(&made)));
        Ok(made)
    }

    fn seat(&self) -> (u32, Rc<Place>) {
        let mut places = self.places.borrow_mut();
        let place = Rc::<Place>::default();
        let number = places.free.pop().unwrap_or_else(|| {
            places.taken.push(None);
            places.taken.len() as u32 - 1
        });
        places.taken[number as usize] = Some(Rc::clone(&place));
        (number, place)
    }

    /// What the owner says. False: it makes no sense, and the link must end.
    fn hear(&self, arrival: Arrival, body: &[u8]) -> bool {
        self.heard.set(true);
        if arrival.kind == Kind::Pong {
            return true;
        }
        let mut places = self.places.borrow_mut();
        let Some(Some(place)) = places.taken.get(arrival.seat as usize) else { return false };
        match arrival.kind {
            Kind::Gone if place.left.get() => {
                places.taken[arrival.seat as usize] = None;
                places.free.push(arrival.seat);
                true
            }
            Kind::Part | Kind::Replies if place.left.get() => true,
            Kind::Part => {
                let mut replies = place.replies.borrow_mut();
                replies.extend_from_slice(body);
                replies.len() <= carrier::BODY_BYTES_MAX
            }
            Kind::Replies => {
                let Some((error, count, from)) = carrier::read_replies_head(body) else { return false };
                place.replies.borrow_mut().extend_from_slice(&body[from..]);
                place.answer.set(Some((error, count)));
                place.wake();
                true
            }
            Kind::Caller | Kind::Requests | Kind::Left | Kind::Gone | Kind::Ping | Kind::Pong => false,
        }
    }

    /// No reply will come any more: whoever waits is told.
    fn break_off(&self) {
        self.departures.break_off();
        self.places.borrow().taken.iter().flatten().for_each(|place| place.wake());
    }
}

/// A link on which requests may follow. The error is for people.
async fn begin(worker: &Worker, owner: u64, address: &str) -> Result<(TcpStream, Arc<Tie>), String> {
    let (mut reader, mut writer) = link::connect(&worker.node, owner, address).await?.into_halves();
    let accepted = async {
        writer.push(&Batch { carry: true, group: worker.node.group.0, ..Batch::default() });
        writer.flush().await?;
        reader.next::<BatchReply>().await
    };
    let reply = timeout(ACCEPT_TIMEOUT, accepted).await.map_err(|_| "it did not answer in time".to_owned())?;
    let reply = reply.map_err(|error| format!("the link broke: {error}"))?;
    let reply = reply.ok_or_else(|| "it closed the link".to_owned())?;
    if reply.count != 1 {
        return Err(reply.error_text);
    }
    let (stream, tie) = link::into_stream(reader, writer).map_err(|error| error.to_string())?;
    crate::handover::keep_alive(worker, &stream);
    Ok((stream, tie))
}

async fn read_replies(link: Rc<ForwardLink>, stream: Rc<TcpStream>) {
    let mut arrivals = Arrivals::new(stream);
    'link: while let Ok(true) = arrivals.read().await {
        loop {
            match arrivals.take() {
                Ok(Some(arrival)) => {
                    if !link.hear(arrival, &arrivals.bytes()[arrival.from..arrival.to]) {
                        break 'link;
                    }
                }
                Ok(None) => break,
                Err(_) => break 'link,
            }
        }
    }
    link.break_off();
}

/// Ends waiting that has become pointless, and the link when it leads where the data no longer is.
async fn look_after(worker: Rc<Worker>, link: Rc<ForwardLink>) {
    const SILENT_LOOKS: u32 = (SILENCE_TIMEOUT.as_millis() / WATCH_PAUSE.as_millis()) as u32;
    let mut views = worker.node.control.views();
    let mut look_at = Instant::now() + WATCH_PAUSE;
    let (mut moved, mut silent) = (0, 0);
    while !link.departures.is_broken() {
        // Where the data is may be known anew at any time: then too, but that counts as no look.
        let due = match timeout_at(look_at, views.changed()).await {
            Ok(Ok(())) => false,
            // The node ends.
            Ok(Err(_)) => return link.break_off(),
            Err(_) => true,
        };
        let (_, view) = worker.node.views.load();
        let leads = owner(&view).is_ok_and(|(owner, address)| owner == link.owner && address == link.address);
        moved = if leads { 0 } else { moved + u32::from(due) };
        if !leads && (moved > MOVED_LOOKS || silent >= SILENT_LOOKS_WHEN_MOVED) {
            // What was sent before may or may not have been run; what was not sent goes to the new owner.
            link.end.set("the data moved to another node");
            return link.break_off();
        }
        if !due {
            continue;
        }
        look_at = Instant::now() + WATCH_PAUSE;
        let asked = link.places.borrow().taken.iter().flatten().any(|place| place.asked.get());
        if link.heard.take() || !asked {
            silent = 0;
            continue;
        }
        silent += 1;
        if silent > SILENT_LOOKS {
            link.end.set("timeout");
            return link.break_off();
        }
        link.departures.push(Kind::Ping, 0, &[], &[]);
    }
}

/// Serves a link another node opened: what it is for is said in its first batch.
pub async fn serve_link(worker: Rc<Worker>, stream: Parcel, mut place: PortPlace) {
    let peer = stream.peer_addr().map(|address| address.to_string()).unwrap_or_default();
    let accepted: Result<LinkStream, String> = tokio::select! {
        () = place.told() => return,
        accepted = link::accept(&worker.node, stream) => accepted,
    };
    // Once it has proved what it is, it is not one of those that may have to go.
    drop(place);
    let (mut reader, mut writer) = match accepted {
        Ok(stream) => stream.into_halves(),
        Err(why) => return tracing::warn!(%peer, %why, "a peer link was refused"),
    };
    let first = timeout(ACCEPT_TIMEOUT, reader.next::<Batch>()).await;
    let Ok(Ok(Some(first))) = first else { return };
    let Some(of) = worker.node.of(GroupId(first.group)).map(|of| Rc::clone(worker.of(of.group))) else {
        return tracing::warn!(%peer, group = first.group, "a link is about a shard group that does not exist");
    };
    if first.follow {
        return accept_follower(&of, &first, reader, writer).await;
    }
    if !first.said.is_empty() {
        // Whoever passes messages on may leave at any time.
        let _ = crate::relay::hear(&worker.node, first, reader).await;
        return;
    }
    if first.farewell {
        return crate::moving::answer_farewell(&worker, &first, writer).await;
    }
    if first.hand_over.is_some() {
        return crate::handover::take_over(worker, of, first, reader, writer).await;
    }
    if !first.carry {
        writer.push(&refusal(&first, BatchError::Invalid, "its version knows no such link"));
        // Whoever asked sees the link close either way.
        let _ = writer.flush().await;
        return;
    }
    writer.push(&BatchReply { count: 1, ..BatchReply::default() });
    if writer.flush().await.is_err() {
        return;
    }
    if let Ok((stream, tie)) = link::into_stream(reader, writer) {
        crate::handover::keep_alive(&worker, &stream);
        crate::callers::serve(of, (stream, tie)).await;
    }
}

/// Gives the link of a node that wants a copy of the data to the thread that serves copies.
async fn accept_follower(worker: &Rc<Worker>, batch: &Batch, reader: link::FrameReader, mut writer: link::FrameWriter) {
    let refused = match caught_up(worker, batch.policy_version).await {
        None => Some((BatchError::PolicyBehind, "it has not applied the latest changes")),
        Some(view) if !view.is_primary() => Some((BatchError::NotPrimary, "it does not serve the data")),
        Some(_) if worker.node.is_loading() => Some((BatchError::Unavailable, "it is loading its data")),
        Some(_) => None,
    };
    writer.push(&match refused {
        Some((error, text)) => refusal(batch, error, text),
        None => BatchReply { sequence: batch.sequence, count: 1, ..BatchReply::default() },
    });
    // Whoever asked sees the link close, and tries again either way.
    if writer.flush().await.is_ok() && refused.is_none() {
        let stream = link::into_stream(reader, writer).and_then(|(stream, tie)| Ok((net::pack(stream)?, tie)));
        if !stream.is_ok_and(|stream| worker.node.replication.take_link(stream)) {
            tracing::warn!("a replica's link was not taken");
        }
    }
}

/// What a client gets whose write was made and not confirmed.
pub fn not_confirmed(error: NotConfirmed) -> String {
    in_doubt(&error.to_string())
}

/// The error of a write that may have been made. Not `CLUSTERDOWN`: cluster clients repeat by themselves what gets that, and a
/// counter would be raised twice.
pub fn in_doubt(why: &str) -> String {
    format!("UNKNOWN {why}; the command may or may not have taken effect")
}

/// The answer to a batch of which nothing was run.
pub fn refusal(batch: &Batch, error: BatchError, text: &str) -> BatchReply {
    BatchReply {
        sequence: batch.sequence,
        replies: Bytes::new(),
        count: 0,
        error: error.into(),
        error_text: text.to_owned(),
    }
}

/// The session of whoever a batch names, once everything the sender had is applied here; or why it is not served.
pub async fn identify(worker: &Worker, batch: &Batch) -> Result<(Arc<View>, Session), (BatchError, &'static str)> {
    let Some(view) = caught_up(worker, batch.policy_version).await else {
        return Err((BatchError::PolicyBehind, "it has not applied the latest changes"));
    };
    serves(worker, &view)?;
    let session = introduce(worker, batch, &view).ok_or((BatchError::UserGone, "the user is gone"))?;
    Ok((view, session))
}

/// Whether this node serves the data, or why not.
pub fn serves(worker: &Worker, view: &View) -> Result<(), (BatchError, &'static str)> {
    if !view.is_primary() {
        return Err((BatchError::NotPrimary, "it does not serve the data"));
    }
    if worker.node.is_loading() {
        return Err((BatchError::Unavailable, "it is loading its data"));
    }
    Ok(())
}

/// The session of whoever a batch names, as of a view in which everything is applied that the sender had.
pub fn introduce(worker: &Worker, batch: &Batch, view: &View) -> Option<Session> {
    // A way to log in that was withdrawn after what the sender knew may be the one its client came by.
    let login = view.login(&batch.user).filter(|login| {
        let user = &login.user;
        user.created == batch.user_created && user.enabled && user.withdrawn_revision <= batch.policy_version
    })?;
    let now = worker.now_ms();
    let mut session = Session::new(batch.client_id, batch.client_addr.clone(), String::new(), now, Some(login.clone()));
    if let Some(luggage) = &batch.hand_over {
        crate::handover::unpack(luggage, &mut session);
        session.replies = ReplyMode::On;
    }
    session.name = batch.client_name.to_vec();
    session.protocol = if batch.resp3 { Protocol::Resp3 } else { Protocol::Resp2 };
    session.database = batch.database.min(worker.node.config.databases - 1);
    Some(session)
}

/// The view in which a change is applied, once it is.
pub async fn caught_up(worker: &Worker, index: u64) -> Option<Arc<View>> {
    let deadline = Instant::now() + CATCH_UP_TIMEOUT;
    loop {
        let (_, view) = worker.node.views.load();
        if view.index >= index {
            return Some(view);
        }
        if Instant::now() >= deadline {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
