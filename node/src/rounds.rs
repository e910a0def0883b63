//! Clients that are readable together are served together.
//!
//! ```text
//!   the kernel names readable sockets ─► read each ─► decode each ─► prefetch all keys ─► run each, in turn ─► write each
//! ```
//! That is what a pipeline of one client gets, for clients without one: the cache misses of many requests overlap, and the
//! kernel's ways to read and to write are each gone many times in a row. Only clients that wait for their next request
//! take part; they sit in a [`Booth`]. Whatever does not end in "everything was answered and sent" is handed to the
//! client's own task ([`crate::connection`]), which awaits what must be awaited and then takes its booth again.

use crate::batch::{Batch, Prepared};
use crate::connection::{
    Connection, DecodeEnd, Lane, Next, OUTPUT_BYTES_SOFT, decode, finish_batch, give_back_large, read_and_run, run,
    send_now, send_or_keep,
};
use crate::corridor::{Entry, InLane};
use crate::socket::{Socket, Sockets};
use crate::turns::{SLICE_OF_ALL, Sharer};
use crate::worker::{READ_BYTES, Scratch, Worker};
use keyward_engine::tenancy::OwnerHint;
use rustix::event::epoll::Event;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::future::poll_fn;
use std::io;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Sockets one question to the kernel may name.
const EVENTS_MAX: usize = 1024;

/// Questions to the kernel in a row while there is something to do, before other tasks of the thread get their turn.
const QUESTIONS_MAX: usize = 4;

/// Clients read from before they are served, and bytes: what was read is still near when it is decoded.
const GROUP_CLIENTS_MAX: usize = 64;
/// Clients of a crowd served together: whoever comes meanwhile and shares with few waits for no more than these.
const CROWD_GROUP_MAX: usize = 32;
/// The same where neighbors are about.
const MIXED_GROUP_MAX: usize = 8;
/// Groups of a crowd that whoever comes back may join, so that it has an end even if it comes back as fast as it is served.
const CROWD_GROUPS_JOINED: usize = 8;
/// How long neighbors are about who were served last one after another.
const MIXED_FOR: Duration = Duration::from_millis(20);
const GROUP_INPUT_BYTES: usize = 16 * 1024;

/// Requests whose keys are prefetched before the first of them runs. A client is never divided.
const PREFETCHED_REQUESTS: usize = 32;

/// Bytes a thread needs to read a group.
pub const GROUP_BUFFER_BYTES: usize = GROUP_INPUT_BYTES + READ_BYTES;

/// A client that waits for its next request, as its thread sees it.
pub struct Booth {
    /// Who sits here.
    pub connection: Rc<Connection>,
    /// Its socket.
    pub socket: Socket,
    /// Only while it waits for its next request.
    lane: RefCell<Option<Box<Lane>>>,
    turn: RefCell<Option<Turn>>,
    task: RefCell<Option<Waker>>,
}

/// Why a client's task must look after it.
pub enum Turn {
    /// There may be something to read.
    Readable,
    /// Its batch ended like this; its replies are not all sent.
    Next(Box<Next>),
    /// It has left.
    Left,
    /// Its connection broke.
    Broken(io::Error),
    /// Mail came, or it is to end.
    Stirred,
}

impl Booth {
    /// Nobody sits here yet.
    pub fn new(connection: Rc<Connection>, socket: Socket) -> Booth {
        let (lane, turn, task) = Default::default();
        Booth { connection, socket, lane, turn, task }
    }

    /// Sits down until the task must look after the client. None: its group was lost, and the client with it.
    pub async fn wait(&self, lane: Box<Lane>) -> Option<(Turn, Box<Lane>)> {
        *self.lane.borrow_mut() = Some(lane);
        let turn = poll_fn(|context| self.poll(context)).await;
        let lane = self.lane.borrow_mut().take()?;
        Some((turn, lane))
    }

    /// Between two groups a client that waits has its lane: without it, it was in one that panicked.
    fn end_if_lost(&self) {
        if self.lane.borrow().is_none() {
            self.connection.kill();
        }
    }

    fn poll(&self, context: &mut Context<'_>) -> Poll<Turn> {
        if let Some(turn) = self.turn.borrow_mut().take() {
            return Poll::Ready(turn);
        }
        if self.connection.mailbox.poll_stirred(context).is_ready() {
            return Poll::Ready(Turn::Stirred);
        }
        if self.socket.is_readable() {
            return Poll::Ready(Turn::Readable);
        }
        let mut task = self.task.borrow_mut();
        if task.as_ref().is_none_or(|known| !known.will_wake(context.waker())) {
            *task = Some(context.waker().clone());
        }
        Poll::Pending
    }

    /// Whose client it is. A session is borrowed by nobody between two groups.
    fn sharer(&self) -> Sharer {
        self.connection.session.try_borrow().map_or_else(|_| Sharer::default(), |of| Sharer::of(&of))
    }

    /// Whether it waits for its next request, and nobody has to look after it before.
    fn is_waiting(&self) -> bool {
        self.lane.borrow().is_some() && self.turn.borrow().is_none() && !self.connection.is_killed()
    }

    /// It was served; with a turn, its task must look after it.
    fn give_back(&self, lane: Box<Lane>, turn: Option<Turn>) {
        *self.lane.borrow_mut() = Some(lane);
        // A buffer that was filled, or the end of what the client says, is not told again.
        let turn = turn.or_else(|| self.socket.is_readable().then_some(Turn::Readable));
        if turn.is_some() {
            *self.turn.borrow_mut() = turn;
            if let Some(task) = self.task.borrow().as_ref() {
                task.wake_by_ref();
            }
        }
    }
}

/// The readable clients of a thread, served as they come. Ends when the system does not let it ask.
pub async fn serve(worker: Rc<Worker>, sockets: Rc<Sockets>) -> io::Result<()> {
    #[expect(deprecated, reason = "its successor is unsafe for the sake of borrowed descriptors; this one is owned")]
    let register = AsyncFd::with_interest(sockets.register(), Interest::READABLE)?;
    let mut events = Vec::with_capacity(EVENTS_MAX);
    let mut ready: Vec<Rc<Booth>> = Vec::new();
    let mut neighbors = Neighbors::default();
    loop {
        let mut told = poll_fn(|context| register.poll_read_ready(context)).await?;
        let mut quiet = false;
        for _ in 0..QUESTIONS_MAX {
            sockets.ask(&mut events)?;
            note(&sockets, &events, &mut ready);
            let together = if neighbors.are_among(&ready) { MIXED_GROUP_MAX } else { GROUP_CLIENTS_MAX };
            if ready.len() > together {
                serve_crowd(&worker, &sockets, &mut events, &mut ready, together.min(CROWD_GROUP_MAX))?;
                break;
            }
            let mut waiting = ready.iter().cloned().peekable();
            while waiting.peek().is_some() {
                serve_some(&worker, &mut waiting, &ready);
            }
            ready.clear();
            // One event is seldom followed by another at once: then the runtime's own question finds it.
            if events.len() <= 1 {
                quiet = true;
                break;
            }
        }
        if quiet {
            told.clear_ready();
        } else {
            tokio::task::yield_now().await;
        }
    }
}

/// Adds those that are to be read from.
fn note(sockets: &Sockets, events: &[Event], ready: &mut Vec<Rc<Booth>>) {
    ready.extend(events.iter().filter_map(|event| sockets.note(event)).filter(|booth| booth.is_waiting()));
}

/// Serves some of `waiting`, who are among `ready`.
fn serve_some(worker: &Worker, waiting: &mut impl Iterator<Item = Rc<Booth>>, ready: &[Rc<Booth>]) {
    // A broken invariant between two clients' requests ends those of one group, not the thread.
    if catch_unwind(AssertUnwindSafe(|| serve_group(worker, waiting))).is_err() {
        tracing::error!("clients were served together, and a request panicked");
        ready.iter().for_each(|booth| booth.end_if_lost());
    }
}

/// Whether clients of several sharers are served by turns: then none of them is to wait for many of another's at once.
#[derive(Default)]
struct Neighbors {
    last: Sharer,
    until: Option<Instant>,
}

impl Neighbors {
    /// Whether they are, now that these are to be served.
    fn are_among(&mut self, ready: &[Rc<Booth>]) -> bool {
        let last = self.last;
        let mut met = false;
        for booth in ready {
            let sharer = booth.sharer();
            met |= sharer != last;
            self.last = sharer;
        }
        if met {
            self.until = Some(Instant::now() + MIXED_FOR);
        }
        ready.len() > MIXED_GROUP_MAX && self.until.is_some_and(|until| met || Instant::now() < until)
    }
}

/// Serves more clients than fit into one group: the first one of each sharer, then the second of each, and so on. Whoever becomes
/// readable meanwhile has its place among them, so a client of one that has few does not wait for hundreds of another's. Those
/// who came back too often are left in `ready`.
fn serve_crowd(
    worker: &Worker,
    sockets: &Sockets,
    events: &mut Vec<Event>,
    ready: &mut Vec<Rc<Booth>>,
    together: usize,
) -> io::Result<()> {
    let mut seen: HashMap<Sharer, u32> = HashMap::new();
    let mut waiting: BTreeMap<(u32, usize), Rc<Booth>> = BTreeMap::new();
    let (mut come, mut groups, mut later) = (0, 0, Vec::new());
    loop {
        let lowest = waiting.first_key_value().map(|((rank, _), _)| *rank);
        for booth in ready.drain(..) {
            let rank = seen.entry(booth.sharer()).or_default();
            if groups > CROWD_GROUPS_JOINED && lowest.is_some_and(|lowest| *rank >= lowest) {
                later.push(booth);
                continue;
            }
            waiting.insert((*rank, come), booth);
            come += 1;
            *rank += 1;
        }
        let group: Vec<Rc<Booth>> = (0..together).map_while(|_| waiting.pop_first()).map(|(_, booth)| booth).collect();
        let mut served = group.iter().cloned().peekable();
        while served.peek().is_some() {
            serve_some(worker, &mut served, &group);
        }
        if waiting.is_empty() {
            *ready = later;
            return Ok(());
        }
        groups += 1;
        sockets.ask(events)?;
        note(sockets, events, ready);
    }
}

/// A client of the group, and how far it was served.
pub struct Member {
    booth: Rc<Booth>,
    lane: Box<Lane>,
    consumed: usize,
    /// Its replies among those of the group.
    replies: Range<usize>,
    /// How its batch ended; none while there is more of its input to be run.
    next: Option<Next>,
    broken: Option<io::Error>,
}

/// Serves the first of those that are ready.
fn serve_group(worker: &Worker, ready: &mut impl Iterator<Item = Rc<Booth>>) {
    let mut guard = worker.scratch.borrow_mut();
    let scratch = &mut *guard;
    let mut buffer = std::mem::take(&mut scratch.input);
    // A request that panicked may have taken the buffer with it.
    buffer.resize(GROUP_BUFFER_BYTES, 0);
    let expected = ready.size_hint().0.clamp(1, GROUP_CLIENTS_MAX);
    let mut members = std::mem::take(&mut scratch.members);
    members.clear();
    let mut inputs: Vec<&mut [u8]> = Vec::with_capacity(expected);
    let mut behind = None;
    let mut free = &mut *buffer;
    while members.len() < GROUP_CLIENTS_MAX && free.len() > READ_BYTES {
        let Some(booth) = ready.next() else { break };
        // It may have been told of twice.
        if !booth.is_waiting() {
            continue;
        }
        let Some(lane) = booth.lane.borrow_mut().take() else { continue };
        if lane.has_input() {
            behind = Some((booth, lane));
            break;
        }
        match booth.socket.try_read(&mut free[..READ_BYTES]) {
            Ok(count) if count > 0 => {
                booth.connection.received(worker, count);
                let (input, rest) = std::mem::take(&mut free).split_at_mut(count);
                free = rest;
                inputs.push(input);
                members.push(Member { booth, lane, consumed: 0, replies: 0..0, next: None, broken: None });
            }
            Ok(_) => booth.give_back(lane, Some(Turn::Left)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => booth.give_back(lane, None),
            Err(error) => booth.give_back(lane, Some(Turn::Broken(error))),
        }
    }
    let mut rest = (&mut members[..], &mut inputs[..]);
    while !rest.0.is_empty() {
        let served = run_some(worker, rest.0, rest.1, scratch);
        let (now, later) = (rest.0.split_at_mut(served), rest.1.split_at_mut(served));
        send(worker, now.0, later.0, scratch);
        rest = (now.1, later.1);
    }
    for member in members.drain(..) {
        member.rise();
    }
    scratch.members = members;
    scratch.input = buffer;
    drop(guard);
    if let Some((booth, mut lane)) = behind {
        let turn = match caught(|| read_and_run(worker, &booth.socket, &booth.connection, &mut lane)) {
            Ok(Some(next)) if lane.is_idle(&next) => None,
            Ok(Some(next)) => Some(Turn::Next(Box::new(next))),
            Ok(None) => Some(Turn::Left),
            Err(error) => Some(Turn::Broken(error)),
        };
        booth.give_back(lane, turn);
    }
}

/// A broken invariant ends one connection, not those that happen to be served with it.
fn caught<R>(work: impl FnOnce() -> io::Result<R>) -> io::Result<R> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(io::Error::other("its request panicked")))
}

/// Runs what the first members sent, up to one batch of each. Returns how many members that were.
fn run_some(worker: &Worker, members: &mut [Member], inputs: &mut [&mut [u8]], scratch: &mut Scratch) -> usize {
    let node = &*worker.node;
    let (_in_lane, beside) = match node.corridor.enter(worker.lane) {
        Entry::Entered => (Some(InLane::new(&node.corridor, worker.lane)), None),
        Entry::Beside(parts) => (Some(InLane::new(&node.corridor, worker.lane)), Some(parts)),
        Entry::Closed => {
            members.iter_mut().for_each(|member| member.next = Some(Next::Wait));
            return members.len();
        }
        Entry::Busy => (None, None),
    };
    let mut ranges = std::mem::take(&mut scratch.ranges);
    let mut requests = std::mem::take(&mut scratch.requests);
    ranges.clear();
    requests.clear();
    // For each member: the ends of its ranges and requests, and of what was decoded.
    let mut decoded: Vec<(usize, usize, DecodeEnd)> = Vec::with_capacity(members.len());
    for (member, input) in members.iter_mut().zip(inputs.iter_mut()) {
        let known = member.booth.connection.session.borrow().login.is_some();
        let end = decode(&mut member.lane, known, input, 0, &mut ranges, &mut requests);
        decoded.push((ranges.len(), requests.len(), end));
        if requests.len() >= PREFETCHED_REQUESTS {
            break;
        }
    }
    let served = decoded.len();
    let mut arguments: Vec<&[u8]> = Vec::with_capacity(ranges.len());
    for (input, (ranges_end, ..)) in inputs.iter().zip(&decoded) {
        let from = arguments.len();
        arguments.extend(ranges[from..*ranges_end].iter().map(|range| range.of(input)));
    }
    let mut prepared: Vec<Prepared<'_>> = Vec::with_capacity(requests.len());
    let mut before = None;
    scratch.places.clear();
    for ((member, input), (_, requests_end, _)) in members.iter().zip(inputs.iter()).zip(&decoded) {
        let (holds_data, space) = (member.lane.places_keys(), member.booth.connection.session.borrow().space());
        let mut hint = OwnerHint::default();
        for request in &requests[prepared.len()..*requests_end] {
            let mut request = Prepared::decoded(worker, &arguments, input, request, holds_data, &mut before);
            scratch.places.extend(request.needed(space, &member.lane.view.tenancy, &mut hint));
            prepared.push(request);
        }
    }
    if scratch.places.len() > 1 && members[0].lane.view.routes.is_none() {
        node.shards.prefetch(&scratch.places);
    }
    let hot = worker.hot();
    scratch.reply.bytes_max = hot.reply_bytes_max();
    let mut batch = Batch::new(worker, None, worker.now_ms(), worker.conditions(&members[0].lane.view, &hot), hot);
    batch.beside = beside;
    let mut first = 0;
    scratch.sent_together.clear();
    let until = batch.meter.looked().plus(SLICE_OF_ALL);
    for (member, (_, requests_end, end)) in members.iter_mut().zip(decoded) {
        // Slow commands had their time taken anyway.
        let late = batch.meter.looked() > until;
        let own = &prepared[first..requests_end];
        first = requests_end;
        let done = own.last().map_or(0, |request| request.end());
        let Member { booth, lane, consumed, next, broken, replies } = member;
        let ran = caught(|| {
            let mut session = booth.connection.session.borrow_mut();
            let flow = if late && !own.is_empty() {
                Some(Next::Yield)
            } else {
                batch.serve(&booth.connection, &mut session, lane, own, consumed, scratch)
            };
            let ended = finish_batch(worker, &mut session, lane, flow, end, done, consumed, scratch);
            lane.await_quorum(worker, &session);
            Ok(ended)
        });
        match ran {
            Ok(ended) => *next = ended,
            Err(error) => {
                scratch.reply.bytes.clear();
                *broken = Some(error);
            }
        }
        if scratch.reply.bytes.len() > OUTPUT_BYTES_SOFT {
            lane.take_bytes(&mut scratch.reply.bytes);
        }
        let from = scratch.sent_together.len();
        if from == 0 {
            std::mem::swap(&mut scratch.sent_together, &mut scratch.reply.bytes);
        } else {
            scratch.sent_together.append(&mut scratch.reply.bytes);
        }
        *replies = from..scratch.sent_together.len();
    }
    batch.meter.settle_deferred(worker, &batch.hot, None);
    drop(batch);
    drop(prepared);
    node.shards.tracking.deliver();
    worker.tell_copies();
    scratch.ranges = ranges;
    scratch.requests = requests;
    served
}

/// Sends each member its replies, and runs what is left of long pipelines.
fn send(worker: &Worker, members: &mut [Member], inputs: &mut [&mut [u8]], scratch: &mut Scratch) {
    for member in members.iter_mut() {
        let replies = &scratch.sent_together[member.replies.clone()];
        if let Err(error) =
            send_or_keep(worker, &member.booth.socket, &member.booth.connection, &mut member.lane, replies)
        {
            member.broken = Some(error);
        }
    }
    give_back_large(&mut scratch.sent_together);
    for (member, input) in members.iter_mut().zip(inputs) {
        let Member { booth, lane, consumed, next, broken, .. } = member;
        if next.is_none() && broken.is_none() {
            if *consumed == input.len() {
                *next = Some(Next::Read);
            } else if lane.is_full() {
                *next = Some(Next::Flush);
            } else {
                let ran = caught(|| {
                    let (done, ended) = run(worker, &booth.connection, lane, &mut input[*consumed..], scratch);
                    *consumed += done;
                    *next = Some(ended);
                    send_now(worker, &booth.socket, &booth.connection, lane, scratch)
                });
                *broken = ran.err();
            }
        }
        lane.keep(&booth.connection, &input[*consumed..]);
    }
}

impl Member {
    /// The client takes its booth again, or its task looks after it.
    fn rise(self) {
        let Member { booth, lane, next, broken, .. } = self;
        let turn = match (broken, next) {
            (Some(error), _) => Some(Turn::Broken(error)),
            (None, Some(next)) if !lane.is_idle(&next) => Some(Turn::Next(Box::new(next))),
            (None, _) => None,
        };
        booth.give_back(lane, turn);
    }
}
