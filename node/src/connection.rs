//! One client: read, decode, gate, run, write.
//!
//! ```text
//!   readable ─► one read ─► decode up to a batch ─► prefetch its keys ─► gate + run each, replies into one buffer ─► one write
//!                                                                        └ a request that must wait ends the batch:
//!                                                                          what came before is sent, then it is awaited
//! ```
//! Clients that wait for their next request are read from and served together, in [`crate::rounds`]; this loop is where
//! one is alone: until everything it sent is answered and sent, or it is over.
//!
//! The buffers of a batch belong to the thread, so an idle client costs little; only what is left over (half a
//! request, unsent replies) moves into the connection. Unsent replies stop the reading: a slow reader slows itself.
//! It is long because everything a client may have to wait for is waited for in this one loop.

mod copying;
mod decoding;
mod doubts;
mod lane;
mod sending;

use crate::asks;
use crate::batch::{Received, run_batch};
use crate::corridor::{Entry, InLane};
use crate::entrance::Place;
use crate::forward::{self, ForwardBatch, Seat, Sent};
use crate::gather::{self, Gathering, Spread, Written};
use crate::handover::{self, HandedOver};
use crate::holding::{Kept, NAME_BYTES, Part};
use crate::insight::AdminOutcome;
use crate::mailbox::Mailbox;
use crate::meter::Asked;
use crate::moving;
use crate::observers::{Waiter, Watch};
use crate::pace::{Listening, Seats, Waiting};
use crate::pubsub::Subscriptions;
use crate::rounds::{Booth, GROUP_BUFFER_BYTES, Turn};
use crate::socket::Socket;
use crate::tracking::Tracker;
use crate::transaction::{self, Remaining};
use crate::turns::{self, SLICE, Sharer};
use crate::view::{View, ViewCell};
use crate::walks::{self, Words};
use crate::worker::{READ_BYTES, Scratch, Worker};
pub use decoding::Decoded;
use decoding::Ended;
pub(crate) use decoding::{DecodeEnd, decode};
pub use doubts::Doubts;
pub(crate) use doubts::was_run;
use keyward_cluster::GroupId;
use keyward_engine::asks::Ask;
use keyward_engine::scope::Reach;
use keyward_engine::session::{Login, ReplyMode, Session, Transaction};
use keyward_proto::forward::HandOver;
use keyward_proto::resp::Decoder;
pub use lane::Lane;
use sending::flush;
pub(crate) use sending::{give_back_large, send_now, send_or_keep};
use std::cell::{Cell, RefCell};
use std::io;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Replies are sent before more requests run once they are this long, in bytes: bounds what a pipeline of large reads
/// can make the node hold.
pub const OUTPUT_BYTES_SOFT: usize = 256 * 1024;

/// What is read at once behind half a request, in bytes; a larger buffer is freed apart.
const KEPT_BUFFER_BYTES: usize = 64 * 1024;

/// A buffer larger than this is freed once it is empty: thousands of connections have one, and nobody pays for it.
const KEPT_IDLE_BYTES: usize = 4096;

/// How long slow work goes on for a client that sends no more: it has left, or waits for its answer. Long enough for what `nc -N`
/// asks, short enough that those who give up and ask again do not pile up work.
const HALF_CLOSED_WAIT: Duration = Duration::from_secs(1);

/// Forwarded requests are answered within this time, or else it is listened whether their client leaves.
const FORWARDED_AT_ONCE: Duration = Duration::from_millis(100);

/// What other tasks of the thread may see of a connection.
pub struct Connection {
    /// What it remembers.
    pub session: RefCell<Session>,
    /// Bytes read but not yet understood.
    pub input_bytes: Cell<usize>,
    /// Bytes answered but not yet sent.
    pub output_bytes: Cell<usize>,
    /// Bytes received and sent since it connected.
    pub traffic: Cell<(u64, u64)>,
    /// The same, as far as somebody's account was charged for it.
    pub charged: Cell<(u64, u64)>,
    /// Its places among the connections of its user and tenant.
    pub seats: Seats,
    /// Its place among the waiting clients of its user and tenant, until it begins to wait.
    pub waiting: RefCell<Waiting>,
    /// What it listens to, as far as its user and tenant were told.
    pub listening: RefCell<Listening>,
    /// What it asked of the outside world, while that is carried out.
    pub asked: RefCell<Option<Asked>>,
    /// Its tracker, if the keys its script reads on the script thread go to its cache.
    pub script_tracker: RefCell<Option<Arc<Tracker>>>,
    /// It waits for a change of users to be in force.
    pub changes_users: Cell<bool>,
    /// Another node accepted the client and handed it over to this one.
    pub guest: bool,
    /// This node accepted the client and handed it over: another one knows what it does.
    pub handed_over: Cell<bool>,
    /// The way other threads reach it.
    pub mailbox: Arc<Mailbox>,
    /// What `WATCH` named.
    pub watch: RefCell<Option<Arc<Watch>>>,
    /// What it listens to.
    pub subscriptions: RefCell<Subscriptions>,
    /// It caches what it reads.
    pub tracking: RefCell<Option<Arc<Tracker>>>,
    /// What `CLIENT CACHING` said about the next command.
    pub caching: Cell<Option<bool>>,
    /// What its request may wait for was looked for on a thread for slow work, in vain.
    pub has_looked: Cell<bool>,
    /// What is left of a transaction that had to wait in the middle.
    pub remaining: RefCell<Option<Remaining>>,
    /// Its place among the clients of this node; a guest has none.
    pub place: RefCell<Option<Place>>,
    /// A transaction on its way to a thread for slow work, and what its client watched.
    pub apart: RefCell<Option<(Transaction, Option<Arc<Watch>>)>>,
    /// The data moved: it is to follow before its next request.
    pub moves: Cell<bool>,
    /// Its places on the links to nodes that serve data, one for each shard group at most.
    pub link_seats: RefCell<Vec<Seat>>,
    /// The shard group that what it has here belongs to.
    pub group: Cell<GroupId>,
    /// Its transaction names keys, and so belongs to that group.
    pub pinned: Cell<bool>,
}

impl Connection {
    /// A fresh connection. Mail that it does not fetch may take `mail_bytes_max`; `views` is where its user's rules are.
    pub fn new(session: Session, mail_bytes_max: usize, views: &Arc<ViewCell>) -> Connection {
        let mailbox = Mailbox::new(mail_bytes_max, Some(Arc::clone(views)));
        mailbox.standing.set(session.login.as_ref());
        Connection {
            session: RefCell::new(session),
            input_bytes: Cell::new(0),
            output_bytes: Cell::new(0),
            traffic: Cell::new((0, 0)),
            charged: Cell::new((0, 0)),
            seats: Seats::default(),
            waiting: RefCell::default(),
            listening: RefCell::default(),
            asked: RefCell::new(None),
            script_tracker: RefCell::new(None),
            changes_users: Cell::new(false),
            guest: false,
            handed_over: Cell::new(false),
            mailbox,
            watch: RefCell::new(None),
            subscriptions: RefCell::default(),
            tracking: RefCell::new(None),
            caching: Cell::new(None),
            has_looked: Cell::new(false),
            remaining: RefCell::new(None),
            place: RefCell::new(None),
            apart: RefCell::new(None),
            moves: Cell::new(false),
            link_seats: RefCell::default(),
            group: Cell::new(GroupId(0)),
            pinned: Cell::new(false),
        }
    }

    /// The connection of a client that another node handed over, to be served as far as this group is concerned.
    pub fn guest(session: Session, mail_bytes_max: usize, views: &Arc<ViewCell>, group: GroupId) -> Connection {
        let mut connection = Connection::new(session, mail_bytes_max, views);
        connection.guest = true;
        connection.group.set(group);
        connection
    }

    /// Whether it has something at this node that no other one knows of: a place as a guest, a transaction, keys it
    /// watches or caches, channels it listens to; somebody who has it told in its place.
    pub fn has_lasting_state(&self, session: &Session) -> bool {
        self.mailbox.stands_in() || self.has_state_of_its_own(session)
    }

    /// The same, whoever else counts on it.
    pub fn has_state_of_its_own(&self, session: &Session) -> bool {
        self.guest
            || session.transaction.is_some()
            || session.subscribed
            || self.watch.borrow().is_some()
            || self.tracking.borrow().is_some()
    }

    /// Whether all it has here is at home everywhere, where there are several groups: a transaction without keys, a cache of
    /// what it reads that it is told of itself.
    pub fn is_at_home_anywhere(&self, session: &Session) -> bool {
        let redirects = self.tracking.borrow().as_ref().is_some_and(|tracker| tracker.redirects());
        let pinned = session.transaction.is_some() && self.pinned.get();
        let is_told = redirects || session.subscribed || self.mailbox.stands_in();
        !(self.guest || is_told || pinned || self.watch.borrow().is_some())
    }

    /// Who it is without a login. In a spare place it is nobody, unless that would be one who sees everything: those places are
    /// kept for such users.
    pub fn anonymous(&self, worker: &Worker, view: &View) -> Option<Login> {
        view.anonymous().filter(|login| !login.policy.is_confined() || self.has_usual_place(worker))
    }

    /// Whether it has, or finds, one of the places that everybody may have; a guest's is counted elsewhere.
    pub fn has_usual_place(&self, worker: &Worker) -> bool {
        self.place.borrow().as_ref().is_none_or(|place| place.is_usual(worker.hot().clients_max))
    }

    /// Whoever is nobody, having just come or left a user behind, gives way to others. False: another one has its place already.
    pub fn stays(&self, session: &Session) -> bool {
        match &*self.place.borrow() {
            Some(place) if session.login.is_none() => {
                place.note_stranger(&self.mailbox);
                true
            }
            Some(place) => place.note_known(),
            None => true,
        }
    }

    /// Gives up what it watches and listens to.
    pub fn forget(&self, worker: &Worker) {
        self.charge_traffic(worker);
        transaction::unwatch(worker, self);
        self.subscriptions.borrow_mut().clear(&worker.node.pubsub, &self.mailbox);
        self.mailbox.set_listens(false);
        self.listening.take();
        let id = self.session.borrow().id;
        if self.tracking.borrow_mut().take().is_some() {
            worker.node.shards.tracking.remove(id);
        }
        worker.node.monitors.remove(id);
    }

    /// Gives up what it listens to and caches: it becomes somebody to whom names mean something else.
    pub fn leave_world(&self, worker: &Worker) {
        self.subscriptions.borrow_mut().clear(&worker.node.pubsub, &self.mailbox);
        self.mailbox.set_listens(false);
        let mut session = self.session.borrow_mut();
        session.subscribed = false;
        session.signs = false;
        if self.tracking.borrow_mut().take().is_some() {
            worker.node.shards.tracking.remove(session.id);
        }
    }

    /// So much was received and not run.
    pub(crate) fn holds_input(&self, input: &Vec<u8>) {
        self.input_bytes.set(input.len());
        // Room for what is expected was not written to, but for what is read at once.
        let written = input.capacity().min(input.len() + KEPT_BUFFER_BYTES);
        self.mailbox.holding.set(Part::Input, if input.is_empty() { 0 } else { written as u64 });
    }

    /// Counts bytes that were read.
    pub(crate) fn received(&self, worker: &Worker, count: usize) {
        worker.stats.input_bytes.add(count as u64);
        let (received, sent) = self.traffic.get();
        self.traffic.set((received + count as u64, sent));
    }

    fn sent(&self, worker: &Worker, count: usize) {
        worker.stats.output_bytes.add(count as u64);
        let (received, sent) = self.traffic.get();
        self.traffic.set((received, sent + count as u64));
    }

    /// Ends the connection at once, whatever it is doing.
    pub fn kill(&self) {
        self.mailbox.kill();
    }

    /// Whether it was told to end.
    pub fn is_killed(&self) -> bool {
        self.mailbox.is_killed()
    }

    /// Returns once it was told to end.
    pub async fn killed(&self) {
        self.mailbox.killed().await;
    }
}

/// How a batch ended. Small: mostly it says that everything was answered, and is handed on several times.
pub enum Next {
    /// Everything that arrived completely was answered.
    Read,
    /// Send the replies, then go on with what is left.
    Flush,
    /// It has run for long: send the replies, and go on when it is its turn again.
    Yield,
    /// Carry this out, then go on.
    Ask(Box<(Ask, Reach)>),
    /// Have this walk over many keys done apart, then go on.
    Walk(Words),
    /// The same for the last request that was read, whose words lie at these places of its so many bytes: it is too long to be
    /// copied. Whoever has the buffer makes it a [`Next::Walk`]; whether it was begun before.
    Lift(Vec<Range<usize>>, usize, bool),
    /// Have another node run these, then go on.
    Forward(Box<ForwardBatch>),
    /// Have other nodes, and this one, run these, each of which is about one group; then go on.
    Spread(Box<(ForwardBatch, Spread)>),
    /// Have every shard group do its part of this, then go on.
    Gather(Box<Gathering>),
    /// Hand the connection over to the node that serves the data, from this request on, which was not run.
    HandOver(Vec<u8>),
    /// The data moved: the client moves along, with all it has here.
    Move,
    /// The client waits for keys to be written.
    Blocked(Arc<Waiter>),
    /// Somebody runs alone: go on when the corridor is open.
    Wait,
    /// Clients are paused: wait, then go on.
    Paused,
    /// Its keys are on their way to another shard group, or there already: wait for a moment, then ask where they are.
    Shifted,
    /// Its user or tenant is ahead of a rate: nothing is read from the client for so long, then it goes on.
    Held(Duration),
    /// So is one whose long request is received slowly.
    Slowed(Duration),
    /// Send the replies, then close.
    Close,
}

const _: () = assert!(size_of::<Next>() <= 64);

/// Serves one client until it leaves, errs or is killed.
pub async fn serve(worker: Rc<Worker>, socket: Socket, connection: Rc<Connection>) {
    let (generation, view) = worker.node.views.load();
    // The login comes from the very view whose number is kept: from an older one it would stay unnoticed.
    {
        let mut session = connection.session.borrow_mut();
        if session.login.is_none() {
            session.log_in(connection.anonymous(&worker, &view));
            if !connection.stays(&session) {
                return;
            }
            connection.mailbox.standing.set(session.login.as_ref());
            if let Err(text) = connection.seats.take(&worker, session.login.as_ref(), true) {
                // Best effort: whoever floods us need not read why.
                let _ = socket.try_write(format!("-{text}\r\n").as_bytes());
                return;
            }
        } else if !renew(&mut session, &view) {
            return;
        }
        connection.bound(&worker, &session);
    }
    let decoder = Decoder::new(worker.hot().decoder.clone());
    let lane = Box::new(Lane::new(decoder, generation, view));
    let booth = Rc::new(Booth::new(Rc::clone(&connection), socket));
    booth.socket.belongs_to(&booth);
    // An error here is the client's connection breaking: there is nobody left to tell.
    let _ = converse(&worker, &booth, lane).await;
    if let Some(asked) = connection.asked.take() {
        worker.audit_asked(&connection.session.borrow(), &asked, AdminOutcome::Unknown);
    }
    connection.forget(&worker);
}

async fn converse(worker: &Rc<Worker>, booth: &Booth, lane: Box<Lane>) -> io::Result<()> {
    let (stream, connection) = (&booth.socket, &booth.connection);
    let mut waiting = lane;
    loop {
        if leaves(worker, connection) {
            return Ok(());
        }
        let moves = connection.moves.get();
        if moves && !follow(worker, stream, connection, &mut waiting).await? {
            return Ok(());
        }
        // What came back with it was not run where it was.
        let (turn, lane) = if moves && waiting.has_input() {
            (Turn::Next(Box::new(Next::Flush)), waiting)
        } else {
            let Some(waited) = booth.wait(waiting).await else { return Ok(()) };
            waited
        };
        waiting = lane;
        let lane = &mut *waiting;
        if connection.is_killed() {
            return Ok(());
        }
        let mut next = match turn {
            Turn::Stirred => {
                flush(worker, stream, connection, lane).await?;
                continue;
            }
            Turn::Readable => {
                // It sends faster than its thread reads: a piece at a time, and others have their turns in between.
                let Some(turn) = turn_of(worker, connection).await else { return Ok(()) };
                let ran = read_and_run(worker, stream, connection, lane)?;
                drop(turn);
                match ran {
                    Some(next) => next,
                    None => return Ok(()),
                }
            }
            Turn::Next(next) => *next,
            Turn::Left => return Ok(()),
            Turn::Broken(error) => return Err(error),
        };
        let (mut held, mut owing, mut pass) = (None, None, None);
        loop {
            // Nobody at the same rate waits for a client that does not read its answers.
            if !matches!(next, Next::Held(_)) || !lane.output.is_empty() {
                pass = None;
            }
            if !confirm(worker, connection, lane).await {
                flush(worker, stream, connection, lane).await?;
                return Ok(());
            }
            flush(worker, stream, connection, lane).await?;
            drop(owing.take());
            if matches!(next, Next::Forward(_) | Next::Spread(_) | Next::Gather(_) | Next::Walk(_)) {
                owing = worker.node.owed.enter();
                if owing.is_none() {
                    return Ok(());
                }
            }
            match next {
                Next::Read => break,
                Next::Close => return Ok(()),
                Next::Flush => {}
                Next::Yield => {
                    held = turn_of(worker, connection).await;
                    if held.is_none() {
                        return Ok(());
                    }
                }
                Next::HandOver(mut input) => {
                    input.append(&mut lane.input);
                    if !hand_over(worker, stream, connection, lane, input, None).await {
                        return Ok(());
                    }
                }
                Next::Spread(spread) => {
                    let mut answers = Vec::new();
                    let stays = tokio::select! {
                        biased;
                        () = connection.killed() => return Ok(()),
                        stays = gather::spread(worker, connection, lane, *spread, &mut answers) => stays,
                    };
                    lane.output.append(&mut answers);
                    if !stays {
                        return Ok(());
                    }
                }
                Next::Gather(request) => {
                    let mut answer = Vec::new();
                    let stays = tokio::select! {
                        biased;
                        () = connection.killed() => return Ok(()),
                        stays = gather::gather(worker, connection, lane, *request, &mut answer) => stays,
                    };
                    lane.output.append(&mut answer);
                    if !stays {
                        return Ok(());
                    }
                }
                Next::Move => {
                    if !follow(worker, stream, connection, lane).await? {
                        return Ok(());
                    }
                }
                Next::Ask(asked) => {
                    let (ask, reach) = *asked;
                    if let Ask::SendCopy(holds) = ask {
                        return copying::send_copy(worker.of(lane.view.of), stream, connection, lane, holds).await;
                    }
                    let again = tokio::select! {
                        biased;
                        () = connection.killed() => return Ok(()),
                        again = asks::carry_out(worker.of(lane.view.of), connection, ask, &reach, &mut lane.output) => again,
                    };
                    if let Some(argv) = again {
                        lane.go_back_to(worker, &argv.iter().map(Vec::as_slice).collect::<Vec<_>>());
                    }
                    if connection.session.borrow().wants_quorum() {
                        lane.await_confirmation(worker);
                    }
                }
                // It does not fit into a buffer that clients share.
                Next::Lift(..) => return Ok(()),
                Next::Walk(argv) => {
                    connection.count_names(&connection.session.borrow());
                    let of = worker.of(lane.view.of);
                    let walk = walks::carry_out(of, connection, argv, &mut lane.output);
                    let again = tokio::select! {
                        biased;
                        () = connection.killed() => return Ok(()),
                        again = walk => again,
                        left = hears_it_leave(worker, stream, connection, &mut lane.input) => return left,
                    };
                    if let Some(argv) = again {
                        lane.go_back_to(worker, &argv.list());
                        connection.has_looked.set(true);
                    }
                    if connection.session.borrow().wants_quorum() {
                        lane.await_confirmation(worker);
                    }
                }
                Next::Forward(batch) => {
                    if !forward(worker, stream, connection, lane, *batch).await? {
                        return Ok(());
                    }
                }
                Next::Blocked(waiter) => {
                    if !wait_for_keys(worker.of(lane.view.of), stream, connection, lane, &waiter).await? {
                        return Ok(());
                    }
                }
                Next::Paused => {
                    tokio::select! {
                        biased;
                        () = connection.killed() => return Ok(()),
                        () = worker.at(lane.view.of).node.pause.ended(|| worker.now_ms()) => {}
                    }
                }
                Next::Shifted => {
                    tokio::select! {
                        biased;
                        () = connection.killed() => return Ok(()),
                        () = worker.at(lane.view.of).node.bar.opened() => {}
                    }
                }
                Next::Held(time) | Next::Slowed(time) => {
                    let slowed = matches!(next, Next::Slowed(_));
                    tokio::select! {
                        biased;
                        () = connection.killed() => return Ok(()),
                        () = tokio::time::sleep(time), if slowed => {}
                        () = connection.wait_for_room(worker, &mut pass, time), if !slowed => {}
                    }
                    // However many go on at the same moment, others are served in between.
                    held = turn_of(worker, connection).await;
                    if held.is_none() {
                        return Ok(());
                    }
                    connection.has_waited();
                }
                Next::Wait => {
                    tokio::select! {
                        biased;
                        () = connection.killed() => return Ok(()),
                        () = worker.node.corridor.opened() => {}
                    }
                }
            }
            if connection.session.borrow().closing {
                flush(worker, stream, connection, lane).await?;
                return Ok(());
            }
            next = run_pending(worker, connection, lane);
            connection.has_looked.set(false);
            drop(held.take());
        }
    }
}

/// Whether the client is to reconnect elsewhere, since this node leaves the cluster.
fn leaves(worker: &Worker, connection: &Connection) -> bool {
    worker.node.lease.is_leaving() && !connection.guest
}

/// Waits until it is this client's turn. None: it is to end.
pub(crate) async fn turn_of(worker: &Worker, connection: &Connection) -> Option<turns::Turn> {
    let sharer = Sharer::of(&connection.session.borrow());
    tokio::select! {
        biased;
        () = connection.killed() => None,
        turn = worker.turns.next(sharer) => turn,
    }
}

/// Reads ahead, as far as buffers are kept, until a client leaves that waits for slow work; which then ends. One that sends no
/// more may have closed that half alone, and wait for its answer: nobody can tell, so both have some time.
async fn hears_it_leave(
    worker: &Worker,
    stream: &Socket,
    connection: &Connection,
    input: &mut Vec<u8>,
) -> io::Result<()> {
    while input.len() < KEPT_BUFFER_BYTES {
        stream.readable().await;
        match stream.try_read_behind(input, KEPT_BUFFER_BYTES) {
            Ok(0) => {
                tokio::time::sleep(HALF_CLOSED_WAIT).await;
                return Ok(());
            }
            Ok(count) => connection.received(worker, count),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        connection.holds_input(input);
    }
    std::future::pending().await
}

/// Waits until the request was served, its time is over, or the client is gone (false). What the client sends meanwhile
/// is read, up to what a request may be long: only reading tells that it left.
async fn wait_for_keys(
    worker: &Worker,
    stream: &Socket,
    connection: &Connection,
    lane: &mut Lane,
    waiter: &Arc<Waiter>,
) -> io::Result<bool> {
    let place = connection.waiting.take();
    let releases = worker.node.bar.releases();
    let registered = worker.node.blocked.enter(connection.session.borrow().id, waiter);
    let words = waiter.argv.iter().chain(&waiter.keys).chain(&waiter.keys);
    let kept = Kept::new(&connection.mailbox, words.map(|word| word.len() as u64 + NAME_BYTES).sum());
    let left = Leaves { worker, waiter };
    let answer = loop {
        if connection.is_killed() {
            return Ok(false);
        }
        if let Some(answer) = waiter.take_answer() {
            break answer;
        }
        let serves = || worker.at(connection.group.get()).node.views.load().1.is_primary();
        if takes_leave(&connection.moves, serves) || crate::moves::has_shifted(worker, waiter, releases) {
            if let Some(answer) = waiter.give_up() {
                break answer;
            }
            // Nothing was done for it here: it waits again where the data is now.
            let argv: Vec<&[u8]> = waiter.argv.iter().map(Vec::as_slice).collect();
            lane.go_back_to(worker, &argv);
            return Ok(true);
        }
        if leaves(worker, connection) {
            let Some(answer) = waiter.give_up() else { return Ok(false) };
            break answer;
        }
        flush(worker, stream, connection, lane).await?;
        let now = worker.now_ms();
        if waiter.is_overdue(now) {
            break waiter.give_up().unwrap_or_else(|| transaction::in_vain(waiter));
        }
        let listens = lane.input.len() < worker.hot().decoder.request_bytes_max;
        let until = waiter.wait.until.map(|until| Duration::from_millis((until - now).unsigned_abs()));
        tokio::select! {
            biased;
            () = connection.mailbox.stirred() => {}
            () = stream.readable(), if listens => {
                match stream.try_read_behind(&mut lane.input, KEPT_BUFFER_BYTES) {
                    Ok(0) => return Ok(false),
                    Ok(count) => connection.received(worker, count),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
                connection.holds_input(&lane.input);
            }
            () = sleep_or_forever(until) => {}
        }
    };
    drop((left, registered, place, kept));
    if connection.session.borrow().wants_quorum() {
        // Whoever served it wrote before it answered.
        lane.await_confirmation(worker);
    }
    let mut session = connection.session.borrow_mut();
    session.active_at = worker.now_ms();
    session.commands += 1;
    if session.replies == ReplyMode::On {
        lane.output.extend_from_slice(&answer);
    }
    Ok(true)
}

/// Waits until what was answered may leave. False: some of it may not; an error takes the place of each such answer, and the
/// connection ends.
async fn confirm(worker: &Worker, connection: &Connection, lane: &mut Lane) -> bool {
    worker.tell_copies();
    if !lane.must_confirm() {
        lane.doubts.clear();
        return true;
    }
    let give_up = tokio::time::Instant::now() + worker.node.config.ack_timeout;
    let own = lane.confirm.take().map(|(reign, position)| (lane.view.of, reign, position));
    let all = own.into_iter().chain(std::mem::take(&mut lane.confirm_too));
    let mut doubts = std::mem::take(&mut lane.doubts);
    let confirming = async {
        let confirmed = async |(group, reign, position): Written| {
            let left = give_up.saturating_duration_since(tokio::time::Instant::now());
            worker.at(group).node.replication.confirmed(reign, position, left).await
        };
        let mut failed = doubts.confirm_each(&confirmed).await;
        for needs in all {
            failed = failed.and(confirmed(needs).await);
        }
        failed
    };
    let confirmed = tokio::select! {
        biased;
        () = connection.killed() => Ok(()),
        confirmed = confirming => confirmed,
    };
    let Err(error) = confirmed else { return true };
    let line = format!("-{}\r\n", crate::forward::not_confirmed(error));
    lane.output = doubts.settled(&lane.output, &line);
    false
}

/// The client goes on at the node that serves the data, until it leaves (false), or the data is here.
async fn hand_over(
    worker: &Rc<Worker>,
    stream: &Socket,
    connection: &Connection,
    lane: &mut Lane,
    input: Vec<u8>,
    luggage: Option<HandOver>,
) -> bool {
    match handover::hand_over(worker, stream, connection, input, luggage).await {
        HandedOver::Ended => false,
        HandedOver::ServedHere(input) => {
            lane.input = input;
            lane.decoder = Decoder::new(worker.hot().decoder.clone());
            true
        }
    }
}

/// Whether a client that waits for keys was told to move along. The data may be here again by now: then there is nothing to move
/// along to, and it is told no more, since it waits here again and nobody else would say so.
fn takes_leave(moves: &Cell<bool>, serves: impl FnOnce() -> bool) -> bool {
    let told = moves.get();
    if told && serves() {
        moves.set(false);
    }
    told
}

/// The data moved: the client moves along, if it has anything here. False: it is gone from here.
async fn follow(
    worker: &Rc<Worker>,
    stream: &Socket,
    connection: &Rc<Connection>,
    lane: &mut Lane,
) -> io::Result<bool> {
    connection.moves.set(false);
    flush(worker, stream, connection, lane).await?;
    if worker.at(connection.group.get()).node.views.load().1.is_primary() {
        return Ok(true);
    }
    if !moving::may_move(worker, &connection.session.borrow()) {
        return Ok(false);
    }
    if connection.guest {
        moving::say_farewell(worker, stream, connection, lane).await;
        return Ok(false);
    }
    let input = lane.take_input();
    lane.decoder = Decoder::new(worker.hot().decoder.clone());
    if !connection.has_lasting_state(&connection.session.borrow()) {
        lane.input = input;
        return Ok(true);
    }
    let packed = moving::pack(worker, connection, input);
    let input = packed.commands.to_vec();
    Ok(hand_over(worker, stream, connection, lane, input, packed.hand_over).await)
}

/// Has another node run the requests, or goes on with them here if the data is here now. False: the client is gone.
async fn forward(
    worker: &Rc<Worker>,
    stream: &Socket,
    connection: &Connection,
    lane: &mut Lane,
    mut batch: ForwardBatch,
) -> io::Result<bool> {
    let of = worker.of(batch.group);
    let long = Some(batch.rest().len()).filter(|bytes| *bytes > KEPT_IDLE_BYTES);
    let _kept = long.map(|bytes| Kept::new(&connection.mailbox, bytes as u64));
    while !batch.is_empty() {
        let leaves = async {
            // Most answers are here before anybody need look.
            tokio::time::sleep(FORWARDED_AT_ONCE).await;
            hears_it_leave(worker, stream, connection, &mut lane.input).await
        };
        let sent = tokio::select! {
            biased;
            () = connection.killed() => return Ok(false),
            sent = forward::send(of, connection, &mut batch, &mut lane.output) => sent,
            left = leaves => return left.map(|()| false),
        };
        match sent {
            Sent::Answered if batch.is_empty() => {}
            Sent::Answered => flush(worker, stream, connection, lane).await?,
            Sent::ServedHere | Sent::Shifted => {
                if batch.skipped {
                    connection.session.borrow_mut().replies = ReplyMode::SkipNext;
                }
                connection.caching.set(batch.asked_to_cache(connection));
                let mut input = batch.rest().to_vec();
                input.append(&mut lane.input);
                lane.input = input;
                lane.decoder = Decoder::new(worker.hot().decoder.clone());
                break;
            }
        }
    }
    Ok(true)
}

async fn sleep_or_forever(duration: Option<Duration>) {
    match duration {
        Some(duration) => tokio::time::sleep(duration).await,
        None => std::future::pending().await,
    }
}

/// Takes a waiting client off the queues however its wait ends.
struct Leaves<'a> {
    worker: &'a Worker,
    waiter: &'a Arc<Waiter>,
}

impl Drop for Leaves<'_> {
    fn drop(&mut self) {
        self.waiter.give_up();
        self.worker.node.shards.leave(self.waiter);
    }
}

/// One read, one batch after the other, one write. `None`: the client has left.
pub(crate) fn read_and_run(
    worker: &Worker,
    stream: &Socket,
    connection: &Rc<Connection>,
    lane: &mut Lane,
) -> io::Result<Option<Next>> {
    let mut scratch = worker.scratch.borrow_mut();
    let scratch = &mut *scratch;
    let would_block = |error: &io::Error| error.kind() == io::ErrorKind::WouldBlock;
    if !lane.input.is_empty() {
        // Half a request is waiting: read behind it, so that a large value is copied once.
        let piece = lane.make_room();
        match stream.try_read_behind(&mut lane.input, piece) {
            Ok(0) => return Ok(None),
            Ok(count) => connection.received(worker, count),
            Err(error) if would_block(&error) => return Ok(Some(Next::Read)),
            Err(error) => return Err(error),
        }
        let mut input = std::mem::take(&mut lane.input);
        let (consumed, next) = run(worker, connection, lane, &mut input, scratch);
        let (consumed, next) = lift(&mut input, consumed, next);
        lane.input = input;
        keep_rest(worker, connection, lane, consumed);
        send_now(worker, stream, connection, lane, scratch)?;
        let slowed = matches!(next, Next::Read).then(|| connection.slows_down(worker, lane.input.len())).flatten();
        return Ok(Some(slowed.map_or(next, Next::Slowed)));
    }
    let mut input = std::mem::take(&mut scratch.input);
    // A request that panicked took the buffer with it; reading into an empty one would look like a client that left.
    input.resize(GROUP_BUFFER_BYTES, 0);
    let next = match stream.try_read(&mut input[..READ_BYTES]) {
        Ok(0) => Ok(None),
        Ok(count) => {
            connection.received(worker, count);
            let (consumed, next) = run(worker, connection, lane, &mut input[..count], scratch);
            lane.input.extend_from_slice(&input[consumed..count]);
            connection.holds_input(&lane.input);
            Ok(Some(next))
        }
        Err(error) if would_block(&error) => Ok(Some(Next::Read)),
        Err(error) => Err(error),
    };
    scratch.input = input;
    let next = next?;
    send_now(worker, stream, connection, lane, scratch)?;
    Ok(next)
}

/// Goes on with input that was left over when a batch ended early.
fn run_pending(worker: &Worker, connection: &Rc<Connection>, lane: &mut Lane) -> Next {
    let remaining = connection.remaining.borrow_mut().take();
    if let Some(remaining) = remaining {
        return transaction::go_on(worker, connection, lane, remaining);
    }
    if lane.input.is_empty() {
        return Next::Read;
    }
    let mut scratch = worker.scratch.borrow_mut();
    let mut input = std::mem::take(&mut lane.input);
    let (consumed, next) = run(worker, connection, lane, &mut input, &mut scratch);
    let (consumed, next) = lift(&mut input, consumed, next);
    lane.input = input;
    keep_rest(worker, connection, lane, consumed);
    lane.take_replies(&mut scratch.reply);
    next
}

/// Hands a long request over with its buffer; what came behind it stays.
fn lift(input: &mut Vec<u8>, consumed: usize, next: Next) -> (usize, Next) {
    let Next::Lift(mut places, bytes, noted) = next else { return (consumed, next) };
    let rest = input.split_off(consumed);
    let taken = std::mem::replace(input, rest);
    let from = consumed - bytes;
    places.iter_mut().for_each(|place| *place = place.start + from..place.end + from);
    let words = Words::lifted(taken, places);
    (0, Next::Walk(if noted { words.noted() } else { words }))
}

fn keep_rest(worker: &Worker, connection: &Connection, lane: &mut Lane, consumed: usize) {
    if consumed == lane.input.len() {
        give_back(worker, &mut lane.input);
    } else if consumed > 0 && lane.input.len() - consumed <= lane.input.capacity() / 2 {
        // What is left is not worth a buffer of this size.
        let rest = lane.input[consumed..].to_vec();
        give_back(worker, &mut std::mem::replace(&mut lane.input, rest));
    } else {
        lane.input.drain(..consumed);
    }
    connection.holds_input(&lane.input);
}

/// Empties a buffer, and frees what of it is worth it: apart, if that takes long.
fn give_back(worker: &Worker, buffer: &mut Vec<u8>) {
    if buffer.capacity() <= KEPT_IDLE_BYTES {
        buffer.clear();
    } else if buffer.capacity() <= KEPT_BUFFER_BYTES {
        *buffer = Vec::new();
    } else {
        worker.node.shards.dropper.free_bytes(std::mem::take(buffer));
    }
}

/// Runs complete requests until the input is used up or one must wait. Returns how many bytes are done with.
pub(crate) fn run(
    worker: &Worker,
    connection: &Rc<Connection>,
    lane: &mut Lane,
    input: &mut [u8],
    scratch: &mut Scratch,
) -> (usize, Next) {
    // While a slow script has the corridor, only what is allowed beside it is let through the gate.
    let corridor = &worker.node.corridor;
    let (_in_lane, mut beside) = match corridor.enter(worker.lane) {
        Entry::Entered => (Some(InLane::new(corridor, worker.lane)), None),
        Entry::Beside(parts) => (Some(InLane::new(corridor, worker.lane)), Some(parts)),
        Entry::Closed => return (0, Next::Wait),
        Entry::Busy => (None, None),
    };
    let mut session = connection.session.borrow_mut();
    let mut ranges = std::mem::take(&mut scratch.ranges);
    let mut requests = std::mem::take(&mut scratch.requests);
    let mut consumed = 0;
    let began = Instant::now();
    let next = loop {
        ranges.clear();
        requests.clear();
        let known = session.login.is_some();
        let ended = decode(lane, known, input, consumed, &mut ranges, &mut requests);
        let done = requests.last().map_or(consumed, |request| request.end);
        let received = Received { input, ranges: &ranges, requests: &requests };
        let flow = run_batch(worker, connection, &mut session, lane, (received, &mut beside), &mut consumed, scratch);
        if let Some(next) = finish_batch(worker, &mut session, lane, flow, ended, done, &mut consumed, scratch) {
            break next;
        }
        if scratch.reply.bytes.len() > OUTPUT_BYTES_SOFT {
            break Next::Flush;
        }
        if began.elapsed() > SLICE {
            break Next::Yield;
        }
    };
    scratch.ranges = ranges;
    scratch.requests = requests;
    worker.node.shards.tracking.deliver();
    worker.tell_copies();
    lane.await_quorum(worker, &session);
    (consumed, next)
}

/// After a batch: what comes next, none if there may be more to decode. `done`: where its last request ends.
#[expect(clippy::too_many_arguments, reason = "the parts of a batch, which its callers hold in different places")]
#[inline]
pub(crate) fn finish_batch(
    worker: &Worker,
    session: &mut Session,
    lane: &mut Lane,
    flow: Option<Next>,
    ended: DecodeEnd,
    done: usize,
    consumed: &mut usize,
    scratch: &mut Scratch,
) -> Option<Next> {
    if flow.is_some() && (*consumed < ended.position || matches!(ended.how, Ended::Broken(_))) {
        // What was decoded and not run will be decoded again, from its first byte.
        lane.decoder = Decoder::new(worker.hot().decoder.clone());
    }
    lane.decoder.set_authenticated(session.login.is_some());
    if flow.is_some() {
        return flow;
    }
    *consumed = ended.position.max(done);
    match ended.how {
        Ended::BatchFull => None,
        Ended::NeedMore => Some(Next::Read),
        Ended::Broken(text) => {
            scratch.reply.protocol = session.protocol;
            scratch.reply.error(&format!("ERR {text}"));
            Some(Next::Close)
        }
    }
}

/// Gives the session its rules as of `view`. False: it must end.
pub fn renew(session: &mut Session, view: &View) -> bool {
    #[cfg(simulated)]
    if planted!(LoginNotRechecked) || planted!(QueueNotRechecked) && session.transaction.is_some() {
        return true;
    }
    let Some(held) = &session.login else { return true };
    let tenant = session.tenant;
    match view.renew(&held.user) {
        Some(login) => {
            session.log_in(Some(login));
            // What it watches, waits for and listens to lies where it was: it must begin anew elsewhere.
            session.tenant == tenant
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_waits_is_told_once_to_move_along_when_the_data_came_back() {
        // It was told, found the data here, waited again and was told again, without a pause: nobody else of its thread was served.
        let moves = Cell::new(true);
        assert!(takes_leave(&moves, || true));
        assert!(!takes_leave(&moves, || true), "it waits here again");
        moves.set(true);
        assert!(takes_leave(&moves, || false));
        assert!(moves.get(), "it still has to follow the data");
    }
}
