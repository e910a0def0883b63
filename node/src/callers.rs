//! Commands that other nodes send here, for their clients: the end of a link that runs them.
//!
//! ```text
//!   one read ─► frames of many clients ─► decoded in place ─► their keys prefetched together ─► gate + run each, as
//!   whoever sits on the seat ─► replies appended ─► one write
//! ```
//! The sender says who sits on a seat; that user is looked up here, and renewed whenever the rules change. What may wait
//! for the world (SAVE, INFO) is answered when it is done, and holds nobody up.

use crate::batch::{self, Ran};
use crate::carrier::{self, Arrival, Arrivals, BODY_BYTES_MAX, Departures, Kind, PART_BYTES};
use crate::connection::{self, Connection, Doubts, Lane};
use crate::corridor::{Entry, InLane, Parts};
use crate::forward;
use crate::gather::Written;
use crate::routes::Routes;
use crate::shards::Needed;
use crate::ties::Tie;
use crate::view::{Surety, View};
use crate::walks;
use crate::worker::{Scratch, Worker};
use crate::world::net::TcpStream;
use bytes::Bytes;
use keyward_engine::asks::Ask;
use keyward_engine::reply::Reply;
use keyward_engine::scope::Reach;
use keyward_engine::session::Session;
use keyward_proto::forward::{Batch, BatchError};
use keyward_proto::resp::{ArgRange, Decoder};
use prost::Message;
use std::cell::Cell;
use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Requests that are prefetched together: as many as of a client's own pipeline.
const TOGETHER_MAX: usize = 64;

/// Replies that may wait to be sent before more requests are run, in bytes: bounds what a sender that does not read makes
/// this node hold.
const UNSENT_BYTES_MAX: usize = 16 << 20;

/// Seats of one link: more clients than a node's thread can have.
const SEATS_MAX: u32 = 1 << 20;

/// Somebody another node speaks for.
struct Caller {
    about: Batch,
    /// As of the view with this number; none if the user is gone.
    session: Option<Session>,
    generation: u64,
    /// The sender said that the client is gone.
    left: Rc<Departure>,
}

/// That a client leaves.
#[derive(Default)]
struct Departure {
    past: Cell<bool>,
    told: Notify,
}

impl Departure {
    fn happens(&self) {
        self.past.set(true);
        self.told.notify_waiters();
    }

    fn is_past(&self) -> bool {
        self.past.get()
    }

    async fn comes(&self) {
        let told = self.told.notified();
        if !self.is_past() {
            told.await;
        }
    }
}

/// What is to be done, in the order in which it arrived.
enum Work {
    Introduce(u32, Box<Batch>),
    Run(Requests),
    Leave(u32),
}

/// A batch of one client.
struct Requests {
    seat: u32,
    policy_version: u64,
    /// Where they lie in what was read, unless they came in parts.
    body: Range<usize>,
    own: Option<Vec<u8>>,
    /// Which of all arguments and requests are theirs.
    requests: Range<usize>,
    malformed: bool,
}

/// Requests that were decoded: where their arguments lie in the body they came in.
#[derive(Default)]
pub struct Decoded {
    arguments: Vec<ArgRange>,
    /// Which arguments belong to a request.
    requests: Vec<Range<usize>>,
}

impl Decoded {
    /// The words of each request.
    pub fn requests<'b>(&self, body: &'b [u8]) -> Vec<Vec<&'b [u8]>> {
        let words =
            |request: &Range<usize>| self.arguments[request.clone()].iter().map(|range| range.of(body)).collect();
        self.requests.iter().map(words).collect()
    }
}

/// Why work stopped before it was done.
enum Stop {
    /// Somebody runs alone.
    Closed,
    /// The sender had applied this change, and this node has not.
    Behind(u64),
}

/// Serves a link until it ends.
pub async fn serve(worker: Rc<Worker>, (stream, tie): (TcpStream, Arc<Tie>)) {
    let stream = Rc::new(stream);
    let departures = Rc::new(Departures::new(Rc::clone(&stream), Some(tie)));
    let writing = Rc::clone(&departures);
    tokio::task::spawn_local(async move { writing.send_all().await });
    let mut arrivals = Arrivals::new(stream);
    let (generation, view) = worker.node.views.load();
    let lane = Lane::new(Decoder::new(worker.hot().decoder.clone()), generation, view);
    let (seats, parts, decoded) = (Vec::new(), HashMap::new(), Decoded::default());
    let mut callers = Callers { worker, departures, lane, seats, parts, decoded };
    while let Ok(true) = arrivals.read().await {
        let Some(work) = callers.take_in(&mut arrivals) else { break };
        callers.work_off(work, arrivals.bytes()).await;
        if callers.departures.send_now().is_err() || callers.departures.is_broken() {
            break;
        }
        callers.departures.room(UNSENT_BYTES_MAX).await;
        // A sender that always has more must leave the thread to others now and then.
        tokio::task::consume_budget().await;
    }
    callers.departures.break_off();
    callers.seats.iter().flatten().for_each(|caller| caller.left.happens());
}

struct Callers {
    worker: Rc<Worker>,
    departures: Rc<Departures>,
    lane: Lane,
    seats: Vec<Option<Caller>>,
    /// The parts of requests that arrived so far, by seat.
    parts: HashMap<u32, Vec<u8>>,
    decoded: Decoded,
}

impl Callers {
    /// Decodes what was read. `None`: it makes no sense, and the link must end.
    fn take_in(&mut self, arrivals: &mut Arrivals) -> Option<Vec<Work>> {
        self.decoded.arguments.clear();
        self.decoded.requests.clear();
        let mut work = Vec::new();
        while let Some(arrival) = arrivals.take().ok()? {
            let body = &mut arrivals.bytes()[arrival.from..arrival.to];
            match arrival.kind {
                Kind::Caller if arrival.seat < SEATS_MAX => {
                    self.parts.remove(&arrival.seat);
                    work.push(Work::Introduce(arrival.seat, Box::new(Batch::decode(&*body).ok()?)));
                }
                Kind::Part => {
                    // Who is introduced by what arrived along with it has no seat yet.
                    let comes = |work: &Work| matches!(work, Work::Introduce(seat, _) if *seat == arrival.seat);
                    self.keep_part(arrival.seat, body, work.iter().any(comes))?;
                }
                Kind::Requests => work.push(Work::Run(self.decode(arrival, body)?)),
                Kind::Left => {
                    self.parts.remove(&arrival.seat);
                    work.push(Work::Leave(arrival.seat));
                }
                Kind::Ping => drop(self.departures.push(Kind::Pong, 0, &[], &[])),
                Kind::Caller | Kind::Replies | Kind::Gone | Kind::Pong => return None,
            }
        }
        Some(work)
    }

    fn seat(&mut self, seat: u32) -> Option<&mut Caller> {
        self.seats.get_mut(seat as usize)?.as_mut()
    }

    fn keep_part(&mut self, seat: u32, part: &[u8], comes: bool) -> Option<()> {
        // Of a client that was never introduced, or one that left while its request was on the way.
        if !comes && self.seat(seat).is_none() {
            return Some(());
        }
        let parts = self.parts.entry(seat).or_default();
        parts.extend_from_slice(part);
        (parts.len() <= BODY_BYTES_MAX).then_some(())
    }

    fn decode(&mut self, arrival: Arrival, body: &mut [u8]) -> Option<Requests> {
        let (policy_version, count, from) = carrier::read_requests_head(body)?;
        let mut own = self.parts.remove(&arrival.seat);
        if let Some(own) = &mut own {
            own.extend_from_slice(&body[from..]);
        }
        let decoded = &mut self.decoded;
        let first = decoded.requests.len();
        let bytes = own.as_deref_mut().unwrap_or(&mut body[from..]);
        let limits = &self.worker.hot().decoder;
        let complete = decode_all(bytes, limits.clone(), decoded) && decoded.requests.len() - first == count as usize;
        if !complete {
            decoded.requests.truncate(first);
        }
        let requests = first..decoded.requests.len();
        let body = arrival.from + from..arrival.to;
        Some(Requests { seat: arrival.seat, policy_version, body, own, requests, malformed: !complete || count == 0 })
    }

    /// Does everything, waiting where that is needed.
    async fn work_off(&mut self, work: Vec<Work>, bytes: &[u8]) {
        let mut work: std::collections::VecDeque<Work> = work.into();
        while !work.is_empty() {
            match self.some(&mut work, bytes) {
                None => {}
                Some(Stop::Closed) => self.worker.node.corridor.opened().await,
                Some(Stop::Behind(version)) => {
                    if forward::caught_up(&self.worker, version).await.is_none()
                        && let Some(Work::Run(requests)) = work.pop_front()
                    {
                        self.refuse(requests.seat, BatchError::PolicyBehind, "it has not applied the latest changes");
                    }
                }
            }
        }
    }

    /// Does as much as is prefetched together.
    fn some(&mut self, work: &mut std::collections::VecDeque<Work>, bytes: &[u8]) -> Option<Stop> {
        let worker = Rc::clone(&self.worker);
        let corridor = &worker.node.corridor;
        let (in_lane, beside) = match corridor.enter(worker.lane) {
            Entry::Entered => (Some(InLane::new(corridor, worker.lane)), None),
            Entry::Beside(parts) => (Some(InLane::new(corridor, worker.lane)), Some(parts)),
            Entry::Closed => return Some(Stop::Closed),
            Entry::Busy => (None, None),
        };
        let busy = in_lane.is_none();
        self.look_around();
        let mut scratch = worker.scratch.borrow_mut();
        self.prefetch(work, bytes, &mut scratch);
        let mut requests_done = 0;
        while let Some(next) = work.pop_front() {
            match next {
                Work::Introduce(seat, about) => self.introduce(seat, *about),
                Work::Leave(seat) => self.leave(seat),
                Work::Run(requests) => {
                    self.look_around();
                    if self.lane.view.index < requests.policy_version {
                        let version = requests.policy_version;
                        work.push_front(Work::Run(requests));
                        return Some(Stop::Behind(version));
                    }
                    requests_done += requests.requests.len();
                    self.run(requests, bytes, (busy, beside.clone()), &mut scratch);
                }
            }
            if requests_done >= TOGETHER_MAX {
                break;
            }
        }
        None
    }

    /// Takes over a newer view, if there is one.
    fn look_around(&mut self) {
        if self.worker.node.views.generation() != self.lane.generation {
            (self.lane.generation, self.lane.view) = self.worker.node.views.load();
        }
    }

    /// Fetches what the next requests will touch, whoever's they are.
    fn prefetch(&self, work: &std::collections::VecDeque<Work>, bytes: &[u8], scratch: &mut Scratch) {
        let node = &self.worker.node;
        let layout = node.shards.layout();
        scratch.places.clear();
        let mut space = None;
        for requests in
            work.iter().filter_map(|work| if let Work::Run(requests) = work { Some(requests) } else { None })
        {
            let session = self.seats.get(requests.seat as usize).and_then(Option::as_ref);
            let Some(session) = session.and_then(|caller| caller.session.as_ref()) else { continue };
            if *space.get_or_insert(session.space()) != session.space() {
                continue;
            }
            let body = requests.own.as_deref().unwrap_or(&bytes[requests.body.clone()]);
            for request in &self.decoded.requests[requests.requests.clone()] {
                let arguments = &self.decoded.arguments[request.clone()];
                // Nearly every command has its key here; fetching for nothing does no harm.
                let place = arguments.get(1).map(|key| layout.place(key.of(body)));
                scratch.places.extend(place.map(|place| Needed { space: session.space(), place, object: false }));
            }
            if scratch.places.len() >= TOGETHER_MAX {
                break;
            }
        }
        if scratch.places.len() > 1 {
            node.shards.prefetch(&scratch.places);
        }
    }

    fn introduce(&mut self, seat: u32, about: Batch) {
        let index = seat as usize;
        if self.seats.len() <= index {
            self.seats.resize_with(index + 1, || None);
        }
        let left = Rc::default();
        // Looked up when it first asks: then everything is applied here that the sender had.
        self.seats[index] = Some(Caller { about, session: None, generation: 0, left });
    }

    fn leave(&mut self, seat: u32) {
        if let Some(caller) = self.seats.get_mut(seat as usize).and_then(Option::take) {
            caller.left.happens();
        }
        self.departures.forget(seat);
        self.departures.push(Kind::Gone, seat, &[], &[]);
    }

    fn refuse(&self, seat: u32, error: BatchError, text: &str) {
        refuse(&self.departures, seat, error, text);
    }

    /// Runs a batch as whoever sits on its seat, and makes its replies ready.
    fn run(&mut self, requests: Requests, bytes: &[u8], how: (bool, Option<Parts>), scratch: &mut Scratch) {
        let seat = requests.seat;
        if requests.malformed {
            return self.refuse(seat, BatchError::Invalid, "a malformed batch");
        }
        if let Err((error, text)) = forward::serves(&self.worker, &self.lane.view) {
            self.worker.node.strays.fetch_add(1, Ordering::Relaxed);
            return self.refuse(seat, error, text);
        }
        let changed = |routes: &Arc<Routes>| routes.changed_at() > requests.policy_version;
        if self.lane.view.routes.as_ref().is_some_and(changed) {
            // What the sender knows of whose keys are whose is out of date.
            return self.refuse(seat, BatchError::Elsewhere, "keys were moved meanwhile");
        }
        let (generation, view) = (self.lane.generation, Arc::clone(&self.lane.view));
        let worker = Rc::clone(&self.worker);
        let Some(caller) = self.seats.get_mut(seat as usize).and_then(Option::as_mut) else {
            return self.refuse(seat, BatchError::UserGone, "nobody sits there");
        };
        renew(&worker, caller, generation, &view);
        let left = Rc::clone(&caller.left);
        let Some(session) = &mut caller.session else {
            return self.refuse(seat, BatchError::UserGone, "the user is gone");
        };
        let body = requests.own.as_deref().unwrap_or(&bytes[requests.body.clone()]);
        let ranges = &self.decoded.requests[requests.requests.clone()];
        let words = |request: &Range<usize>| self.decoded.arguments[request.clone()].iter().map(|range| range.of(body));
        let arguments: Vec<&[u8]> = ranges.iter().flat_map(words).collect();
        let mut rest = arguments.as_slice();
        let mut argvs: Vec<&[&[u8]]> = Vec::with_capacity(ranges.len());
        for request in ranges {
            let (argv, others) = rest.split_at(request.len());
            argvs.push(argv);
            rest = others;
        }
        if let [only] = argvs.as_slice()
            && let Some(asked) = batch::ask_forwarded(&worker, session, &view, only)
        {
            let session = session.for_later();
            tokio::task::spawn_local(answer_later(worker, session, asked, Rc::clone(&self.departures), seat, left));
            return;
        }
        if let [only] = argvs.as_slice()
            && let Ok(resolved) = worker.node.table.resolve(only)
            && walks::is_long(&worker, session, resolved.row, only)
        {
            let session = session.for_later();
            let departures = Rc::clone(&self.departures);
            let (words, version) = (owned(only), requests.policy_version);
            tokio::task::spawn_local(walk_later(worker, session, (words, version), departures, seat, left));
            return;
        }
        session.active_at = worker.now_ms();
        let version = requests.policy_version;
        match batch::run_forwarded(&worker, session, &mut self.lane, (&argvs, version), how, scratch) {
            Ran::Answered(count, doubts) => {
                let replication = &worker.node.replication;
                replication.log.tell();
                let position = replication.log.position();
                // The first of them may have been run in a reign that ended among them.
                let awaited = view
                    .surety()
                    .map(|surety| (surety, position))
                    .filter(|_| session.wants_quorum() && !doubts.need_nothing());
                let awaited = awaited.filter(|(surety, position)| !replication.is_confirmed(*surety, *position));
                if let Some(awaited) = awaited {
                    let answer = (count, std::mem::take(&mut scratch.reply.bytes), doubts);
                    let departures = Rc::clone(&self.departures);
                    tokio::task::spawn_local(confirm(Rc::clone(&worker), awaited, answer, departures, seat, left));
                } else {
                    send(&self.departures, seat, count, &mut scratch.reply.bytes);
                }
            }
            // The sender asks for the others again.
            Ran::Long(noted) => {
                let session = session.for_later();
                let departures = Rc::clone(&self.departures);
                let words = if noted { owned(argvs[0]).noted() } else { owned(argvs[0]) };
                tokio::task::spawn_local(walk_later(worker, session, (words, version), departures, seat, left));
            }
            Ran::Paused => self.refuse(seat, BatchError::Paused, "clients are paused"),
            Ran::Shifted => self.refuse(seat, BatchError::Elsewhere, "the keys are another shard group's"),
            Ran::NotPrimary => self.refuse(seat, BatchError::NotPrimary, "it does not serve the data"),
            Ran::UserGone => self.refuse(seat, BatchError::UserGone, "the user is gone"),
        }
        scratch.reply.bytes.clear();
    }
}

/// Gives a caller its user and rules as of the view.
fn renew(worker: &Worker, caller: &mut Caller, generation: u64, view: &View) {
    if caller.generation == generation && caller.session.is_some() {
        return;
    }
    let known = caller.session.as_mut().is_some_and(|session| connection::renew(session, view));
    if !known {
        caller.session = forward::introduce(worker, &caller.about, view);
    }
    caller.generation = generation;
}

/// Makes replies ready; the buffer is left empty.
fn send(departures: &Departures, seat: u32, count: u32, replies: &mut Vec<u8>) {
    let head = carrier::replies_head(0, count);
    if replies.len() > PART_BYTES {
        let body = Bytes::from(std::mem::take(replies));
        departures.push_body(Kind::Replies, seat, &head, body, &Rc::default());
    } else {
        departures.push(Kind::Replies, seat, &head, replies);
    }
}

/// Answers once what was written is confirmed, or tells in place of each answer in doubt that it is not: what was run may yet be
/// lost.
async fn confirm(
    worker: Rc<Worker>,
    (surety, position): (Surety, u64),
    (count, mut replies, mut doubts): (u32, Vec<u8>, Doubts),
    departures: Rc<Departures>,
    seat: u32,
    left: Rc<Departure>,
) {
    let replication = &worker.node.replication;
    let give_up = Instant::now() + worker.node.config.ack_timeout;
    let confirmed = async |surety, position| {
        replication.confirmed(surety, position, give_up.saturating_duration_since(Instant::now())).await
    };
    let each = doubts.confirm_each(async |(_, surety, position): Written| confirmed(surety, position).await).await;
    if let Err(error) = each.and(confirmed(surety, position).await) {
        replies = doubts.settled(&replies, &format!("-{}\r\n", forward::not_confirmed(error)));
    }
    if !left.is_past() {
        send(&departures, seat, count, &mut replies);
    }
}

/// Nothing of it was run.
fn refuse(departures: &Departures, seat: u32, error: BatchError, text: &str) {
    let error = u8::try_from(i32::from(error)).unwrap_or(u8::MAX);
    departures.push(Kind::Replies, seat, &carrier::replies_head(error, 0), text.as_bytes());
}

fn owned(argv: &[&[u8]]) -> walks::Words {
    walks::Words::copy(argv.iter().copied())
}

/// Has slow work done, and answers when it is.
async fn walk_later(
    worker: Rc<Worker>,
    session: Session,
    (argv, version): (walks::Words, u64),
    departures: Rc<Departures>,
    seat: u32,
    left: Rc<Departure>,
) {
    // What it writes is confirmed by the reign in which it began, or not at all.
    let surety = worker.node.views.load().1.surety();
    let wants_quorum = session.wants_quorum();
    let protocol = session.protocol;
    let lent = walks::Lent { led_at: Some(version), ..walks::Lent::default() };
    let answer = tokio::select! {
        biased;
        // What is dropped here ends.
        () = left.comes() => return,
        answer = walks::answer(&worker, session, argv, lent) => answer,
    };
    let mut replies = match answer {
        Ok(replies) => replies,
        Err(_) => return refuse(&departures, seat, BatchError::NotPrimary, "the data moved before it was run"),
    };
    match surety {
        Some(surety) if wants_quorum => {
            let awaited = (surety, worker.node.replication.log.position());
            return confirm(Rc::clone(&worker), awaited, (1, replies, Doubts::default()), departures, seat, left).await;
        }
        None if wants_quorum => {
            let mut reply = Reply::new(protocol);
            reply.error(forward::NOT_SERVED_HERE);
            replies = reply.bytes;
        }
        _ => {}
    }
    if !left.is_past() {
        send(&departures, seat, 1, &mut replies);
    }
}

/// Does what a request asks of the node, and answers when that is done.
async fn answer_later(
    worker: Rc<Worker>,
    session: Session,
    (ask, reach): (Ask, Reach),
    departures: Rc<Departures>,
    seat: u32,
    left: Rc<Departure>,
) {
    let mut replies = Vec::new();
    let connection = Rc::new(Connection::new(session, worker.hot().mail_bytes_max, &worker.node.views));
    crate::asks::carry_out(&worker, &connection, ask, &reach, &mut replies).await;
    if !left.is_past() {
        send(&departures, seat, 1, &mut replies);
    }
}

/// Decodes every request of a body; false if that is not what it holds.
pub fn decode_all(bytes: &mut [u8], limits: keyward_proto::resp::Limits, decoded: &mut Decoded) -> bool {
    let mut decoder = Decoder::new(limits);
    decoder.set_authenticated(true);
    let mut position = 0;
    while position < bytes.len() {
        let first = decoded.arguments.len();
        let Ok(Some(used)) = decoder.next(&mut bytes[position..], &mut decoded.arguments) else { return false };
        for range in &mut decoded.arguments[first..] {
            range.offset += position as u32;
        }
        position += used;
        if decoded.arguments.len() == first {
            return false;
        }
        decoded.requests.push(first..decoded.arguments.len());
    }
    true
}
