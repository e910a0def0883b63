//! One client: read, decode, gate, run, write. The only loop.
//!
//! ```text
//!   readable ─► one read ─► decode up to a batch ─► prefetch its keys ─► gate + run each, replies into one buffer ─► one write
//!                                                                        └ a request that must wait ends the batch:
//!                                                                          what came before is sent, then it is awaited
//! ```
//! The buffers of a batch belong to the thread, so an idle client costs little; only what is left over (half a
//! request, unsent replies) moves into the connection. Unsent replies stop the reading: a slow reader slows itself.

use crate::asks;
use crate::forward::ForwardBatch;
use crate::gate::{self, Conditions, KeyBuffer, Refusal};
use crate::live::Hot;
use crate::shards::Call;
use crate::view::View;
use crate::worker::{READ_BYTES, Scratch, Worker};
use keyward_engine::args::Args;
use keyward_engine::asks::Ask;
use keyward_engine::command::Run;
use keyward_engine::error::CommandError;
use keyward_engine::keyspace::{CallContext, Place, SpaceId};
use keyward_engine::reply::Reply;
use keyward_engine::session::{ReplyMode, Session};
use keyward_engine::table::{Resolved, Row};
use keyward_proto::resp::{ArgRange, Decoder};
use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio::sync::Notify;

/// Requests of one batch at most: enough to hide memory latency, few enough that their bookkeeping stays in cache.
const BATCH_REQUESTS_MAX: usize = 64;

/// Replies are sent before more requests run once they are this long, in bytes: bounds what a pipeline of large reads
/// can make the node hold.
const OUTPUT_BYTES_SOFT: usize = 256 * 1024;

/// What a client gets whose request has an answer longer than `client-output-buffer-limit`. What it changed is changed.
const REPLY_TOO_LONG: &str = "ERR the reply is longer than client-output-buffer-limit allows";

/// A buffer larger than this is given back once it is empty, in bytes.
const KEPT_BUFFER_BYTES: usize = 64 * 1024;

/// What other tasks of the thread may see of a connection.
pub struct Connection {
    /// What it remembers.
    pub session: RefCell<Session>,
    /// Bytes read but not yet understood.
    pub input_bytes: Cell<usize>,
    /// Bytes answered but not yet sent.
    pub output_bytes: Cell<usize>,
    /// It waits for a change of users to be in force.
    pub changes_users: Cell<bool>,
    killed: Cell<bool>,
    wake: Notify,
}

impl Connection {
    /// A fresh connection.
    pub fn new(session: Session) -> Connection {
        Connection {
            session: RefCell::new(session),
            input_bytes: Cell::new(0),
            output_bytes: Cell::new(0),
            changes_users: Cell::new(false),
            killed: Cell::new(false),
            wake: Notify::new(),
        }
    }

    /// Ends the connection at once, whatever it is doing.
    pub fn kill(&self) {
        self.killed.set(true);
        self.wake.notify_one();
    }

    /// Whether it was told to end.
    pub fn is_killed(&self) -> bool {
        self.killed.get()
    }

    async fn killed(&self) {
        while !self.killed.get() {
            self.wake.notified().await;
        }
    }
}

/// What the loop owns of a connection.
struct Lane {
    decoder: Decoder,
    /// Bytes received and not yet consumed.
    input: Vec<u8>,
    /// Replies not yet sent.
    output: Vec<u8>,
    /// The view the session's login comes from.
    generation: u64,
    view: Arc<View>,
}

/// How a batch ended.
enum Next {
    /// Everything that arrived completely was answered.
    Read,
    /// Send the replies, then go on with what is left.
    Flush,
    /// Carry this out, then go on.
    Ask(Ask),
    /// Have another node run these, then go on.
    Forward(ForwardBatch),
    /// Send the replies, then close.
    Close,
}

/// Serves one client until it leaves, errs or is killed.
pub async fn serve(worker: Rc<Worker>, stream: TcpStream, connection: Rc<Connection>) {
    let (generation, view) = worker.node.views.load();
    // The login comes from the very view whose number is kept: from an older one it would stay unnoticed.
    connection.session.borrow_mut().login = view.anonymous();
    let decoder = Decoder::new(worker.hot().decoder.clone());
    let mut lane = Lane { decoder, input: Vec::new(), output: Vec::new(), generation, view };
    // An error here is the client's connection breaking: there is nobody left to tell.
    let _ = converse(&worker, &stream, &connection, &mut lane).await;
}

async fn converse(
    worker: &Rc<Worker>,
    stream: &TcpStream,
    connection: &Rc<Connection>,
    lane: &mut Lane,
) -> io::Result<()> {
    loop {
        tokio::select! {
            biased;
            () = connection.killed() => return Ok(()),
            ready = stream.readable() => ready?,
        }
        let Some(mut next) = read_and_run(worker, stream, connection, lane)? else { return Ok(()) };
        loop {
            flush(worker, stream, connection, lane).await?;
            match next {
                Next::Read => break,
                Next::Close => return Ok(()),
                Next::Flush => {}
                Next::Ask(ask) => {
                    tokio::select! {
                        biased;
                        () = connection.killed() => return Ok(()),
                        () = asks::carry_out(worker, connection, ask, &mut lane.output) => {}
                    }
                }
                Next::Forward(batch) => {
                    tokio::select! {
                        biased;
                        () = connection.killed() => return Ok(()),
                        () = worker.forward(batch, &mut lane.output) => {}
                    }
                }
            }
            if connection.session.borrow().closing {
                flush(worker, stream, connection, lane).await?;
                return Ok(());
            }
            next = run_pending(worker, connection, lane);
        }
    }
}

/// Sends what was answered. While the client does not read, we wait here and read nothing from it.
async fn flush(worker: &Worker, stream: &TcpStream, connection: &Connection, lane: &mut Lane) -> io::Result<()> {
    let mut sent = 0;
    while sent < lane.output.len() {
        connection.output_bytes.set(lane.output.len() - sent);
        match stream.try_write(&lane.output[sent..]) {
            Ok(count) => {
                sent += count;
                worker.stats.output_bytes.add(count as u64);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                tokio::select! {
                    biased;
                    () = connection.killed() => return Err(io::ErrorKind::ConnectionAborted.into()),
                    ready = stream.writable() => ready?,
                }
            }
            Err(error) => return Err(error),
        }
    }
    connection.output_bytes.set(0);
    lane.output.clear();
    if lane.output.capacity() > KEPT_BUFFER_BYTES {
        lane.output = Vec::new();
    }
    Ok(())
}

/// One read, one batch after the other, one write. `None`: the client has left.
fn read_and_run(
    worker: &Worker,
    stream: &TcpStream,
    connection: &Connection,
    lane: &mut Lane,
) -> io::Result<Option<Next>> {
    let mut scratch = worker.scratch.borrow_mut();
    let scratch = &mut *scratch;
    let would_block = |error: &io::Error| error.kind() == io::ErrorKind::WouldBlock;
    if !lane.input.is_empty() {
        // Half a request is waiting: read behind it, so that a large value is copied once.
        lane.input.reserve(KEPT_BUFFER_BYTES);
        match stream.try_read_buf(&mut lane.input) {
            Ok(0) => return Ok(None),
            Ok(count) => worker.stats.input_bytes.add(count as u64),
            Err(error) if would_block(&error) => return Ok(Some(Next::Read)),
            Err(error) => return Err(error),
        }
        let mut input = std::mem::take(&mut lane.input);
        let (consumed, next) = run(worker, connection, lane, &mut input, scratch);
        lane.input = input;
        keep_rest(connection, lane, consumed);
        send_now(worker, stream, lane, scratch)?;
        return Ok(Some(next));
    }
    let mut input = std::mem::take(&mut scratch.input);
    // A request that panicked took the buffer with it; reading into an empty one would look like a client that left.
    input.resize(READ_BYTES, 0);
    let outcome = stream.try_read(&mut input);
    let next = match outcome {
        Ok(0) => Ok(None),
        Ok(count) => {
            worker.stats.input_bytes.add(count as u64);
            let (consumed, next) = run(worker, connection, lane, &mut input[..count], scratch);
            lane.input.extend_from_slice(&input[consumed..count]);
            connection.input_bytes.set(lane.input.len());
            Ok(Some(next))
        }
        Err(error) if would_block(&error) => Ok(Some(Next::Read)),
        Err(error) => Err(error),
    };
    scratch.input = input;
    let next = next?;
    send_now(worker, stream, lane, scratch)?;
    Ok(next)
}

/// Goes on with input that was left over when a batch ended early.
fn run_pending(worker: &Worker, connection: &Connection, lane: &mut Lane) -> Next {
    if lane.input.is_empty() {
        return Next::Read;
    }
    let mut scratch = worker.scratch.borrow_mut();
    let mut input = std::mem::take(&mut lane.input);
    let (consumed, next) = run(worker, connection, lane, &mut input, &mut scratch);
    lane.input = input;
    keep_rest(connection, lane, consumed);
    lane.output.append(&mut scratch.reply.bytes);
    next
}

fn keep_rest(connection: &Connection, lane: &mut Lane, consumed: usize) {
    if consumed == lane.input.len() {
        lane.input.clear();
        if lane.input.capacity() > KEPT_BUFFER_BYTES {
            lane.input = Vec::new();
        }
    } else {
        lane.input.drain(..consumed);
    }
    connection.input_bytes.set(lane.input.len());
}

/// Tries to send the replies of the batch straight from the thread's buffer; the rest moves into the connection.
fn send_now(worker: &Worker, stream: &TcpStream, lane: &mut Lane, scratch: &mut Scratch) -> io::Result<()> {
    let bytes = &mut scratch.reply.bytes;
    if bytes.is_empty() {
        return Ok(());
    }
    let sent = if lane.output.is_empty() {
        match stream.try_write(bytes) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => {
                bytes.clear();
                return Err(error);
            }
        }
    } else {
        0
    };
    worker.stats.output_bytes.add(sent as u64);
    lane.output.extend_from_slice(&bytes[sent..]);
    bytes.clear();
    if bytes.capacity() > 4 * OUTPUT_BYTES_SOFT {
        *bytes = Vec::with_capacity(KEPT_BUFFER_BYTES);
    }
    Ok(())
}

/// One decoded request: where its arguments are in the batch, and where it ends in the input.
#[derive(Clone, Copy)]
pub struct Decoded {
    first: u32,
    count: u32,
    end: usize,
}

/// Runs complete requests until the input is used up or one must wait. Returns how many bytes are done with.
fn run(
    worker: &Worker,
    connection: &Connection,
    lane: &mut Lane,
    input: &mut [u8],
    scratch: &mut Scratch,
) -> (usize, Next) {
    let mut session = connection.session.borrow_mut();
    let mut ranges = std::mem::take(&mut scratch.ranges);
    let mut requests = std::mem::take(&mut scratch.requests);
    let mut consumed = 0;
    // Since the last batch a login, a RESET or another thread may have changed who this is.
    lane.decoder.set_authenticated(session.login.is_some());
    let next = loop {
        let ended = decode(&mut lane.decoder, &session, input, consumed, &mut ranges, &mut requests);
        let before = consumed;
        let flow = run_batch(worker, &mut session, lane, input, (&ranges, &requests), &mut consumed, scratch);
        let done = requests.last().map_or(before, |request| request.end);
        if let Some(next) = flow {
            if consumed < ended.position || matches!(ended.how, Ended::Broken(_)) {
                // What was decoded and not run will be decoded again, from its first byte.
                lane.decoder = Decoder::new(worker.hot().decoder.clone());
            }
            lane.decoder.set_authenticated(session.login.is_some());
            break next;
        }
        lane.decoder.set_authenticated(session.login.is_some());
        consumed = ended.position.max(done);
        match ended.how {
            Ended::BatchFull => {}
            Ended::NeedMore => break Next::Read,
            Ended::Broken(text) => {
                scratch.reply.protocol = session.protocol;
                scratch.reply.error(&format!("ERR {text}"));
                break Next::Close;
            }
        }
        if scratch.reply.bytes.len() > OUTPUT_BYTES_SOFT {
            break Next::Flush;
        }
    };
    scratch.ranges = ranges;
    scratch.requests = requests;
    (consumed, next)
}

struct DecodeEnd {
    /// The first byte not decoded.
    position: usize,
    how: Ended,
}

enum Ended {
    BatchFull,
    NeedMore,
    Broken(String),
}

fn decode(
    decoder: &mut Decoder,
    session: &Session,
    input: &mut [u8],
    from: usize,
    ranges: &mut Vec<ArgRange>,
    requests: &mut Vec<Decoded>,
) -> DecodeEnd {
    ranges.clear();
    requests.clear();
    // Nobody logged in: each request may change what the next one is allowed to be.
    let limit = if session.login.is_some() { BATCH_REQUESTS_MAX } else { 1 };
    let mut position = from;
    while requests.len() < limit {
        let first = ranges.len();
        match decoder.next(&mut input[position..], ranges) {
            Ok(Some(used)) => {
                for range in &mut ranges[first..] {
                    range.offset += position as u32;
                }
                position += used;
                if ranges.len() > first {
                    let count = (ranges.len() - first) as u32;
                    requests.push(Decoded { first: first as u32, count, end: position });
                }
            }
            Ok(None) => return DecodeEnd { position, how: Ended::NeedMore },
            Err(error) => return DecodeEnd { position, how: Ended::Broken(error.to_string()) },
        }
    }
    DecodeEnd { position, how: Ended::BatchFull }
}

/// A request whose command and place are known.
struct Prepared<'a> {
    argv: &'a [&'a [u8]],
    resolved: Result<Resolved<'static>, CommandError>,
    /// Where its first key lies, if that can be told without looking at its options.
    place: Option<(&'a [u8], Place)>,
    end: usize,
}

/// Runs one batch. `Some`: it ended early, and `consumed` says after which byte.
fn run_batch(
    worker: &Worker,
    session: &mut Session,
    lane: &mut Lane,
    input: &[u8],
    (ranges, requests): (&[ArgRange], &[Decoded]),
    consumed: &mut usize,
    scratch: &mut Scratch,
) -> Option<Next> {
    if requests.is_empty() {
        return None;
    }
    let node = &*worker.node;
    let arguments: Vec<&[u8]> = ranges.iter().map(|range| range.of(input)).collect();
    let space = SpaceId { tenant: session.tenant, database: session.database };
    let layout = node.shards.layout();
    scratch.places.clear();
    let mut prepared: Vec<Prepared<'_>> = Vec::with_capacity(requests.len());
    for request in requests {
        let argv = &arguments[request.first as usize..(request.first + request.count) as usize];
        let resolved = node.table.resolve(argv);
        let index = resolved.as_ref().ok().and_then(|resolved| resolved.row.first_key);
        let key = index.and_then(|index| argv.get(usize::from(index))).copied();
        let place = key.map(|key| (key, layout.place(key)));
        scratch.places.extend(place.map(|(_, place)| place));
        prepared.push(Prepared { argv, resolved, place, end: request.end });
    }
    if scratch.places.len() > 1 && lane.view.is_primary() {
        node.shards.prefetch(space, &scratch.places);
    }
    scratch.reply.protocol = session.protocol;
    let now = worker.now_ms();
    session.active_at = now;
    let hot = worker.hot();
    scratch.reply.bytes_max = hot.reply_bytes_max();
    let mut batch = Batch {
        worker,
        now,
        conditions: worker.conditions(&lane.view, &hot),
        hot,
        keys: KeyBuffer::new(),
        forward: ForwardBatch::default(),
    };
    worker.stats.batches.add(1);
    for request in prepared {
        if !lane_is_current(worker, lane, session, &mut batch) {
            return Some(Next::Close);
        }
        let end = request.end;
        let flow = batch.step(session, lane, request, scratch);
        match flow {
            Flow::Continue => {
                *consumed = end;
                if batch.forward.complete {
                    break;
                }
            }
            Flow::StopBefore => break,
            Flow::Stop(next) => {
                *consumed = end;
                return Some(*next);
            }
        }
        if scratch.reply.bytes.len() > OUTPUT_BYTES_SOFT && batch.forward.is_empty() {
            return Some(Next::Flush);
        }
    }
    if !batch.forward.is_empty() {
        batch.forward.describe(session, &lane.view);
        return Some(Next::Forward(batch.forward));
    }
    None
}

/// Takes over a newer view, if there is one. False: the session's user is gone, off, or has other credentials.
#[inline]
fn lane_is_current(worker: &Worker, lane: &mut Lane, session: &mut Session, batch: &mut Batch<'_, '_>) -> bool {
    if worker.node.views.generation() == lane.generation {
        return true;
    }
    (lane.generation, lane.view) = worker.node.views.load();
    batch.conditions = worker.conditions(&lane.view, &batch.hot);
    renew(session, &lane.view)
}

/// Gives the session its rules as of `view`. False: it must end.
pub fn renew(session: &mut Session, view: &View) -> bool {
    let Some(held) = &session.login else { return true };
    match view.renew(&held.user) {
        Some(login) => {
            session.login = Some(login);
            true
        }
        None => false,
    }
}

enum Flow {
    /// Answered.
    Continue,
    /// Not done: what came before must be awaited first.
    StopBefore,
    /// Done as far as can be without waiting.
    Stop(Box<Next>),
}

struct Batch<'w, 'a> {
    worker: &'w Worker,
    now: i64,
    conditions: Conditions,
    hot: Arc<Hot>,
    keys: KeyBuffer<'a>,
    forward: ForwardBatch,
}

impl<'a> Batch<'_, 'a> {
    /// One request: gate, run, answer.
    #[inline]
    fn step(&mut self, session: &mut Session, lane: &Lane, request: Prepared<'a>, scratch: &mut Scratch) -> Flow {
        let mark = scratch.reply.mark();
        let flow = self.answer(session, lane, request, scratch);
        if session.replies != ReplyMode::On && !matches!(flow, Flow::StopBefore) {
            self.hold_back(session, &flow, mark, scratch);
        }
        flow
    }

    /// `CLIENT REPLY`: the answer is dropped. (`SkipNext` is set by the handler of the command before.)
    fn hold_back(&self, session: &mut Session, flow: &Flow, mark: keyward_engine::reply::Mark, scratch: &mut Scratch) {
        scratch.reply.rewind(mark);
        // What is asked of the outside is answered later, by whoever carries it out.
        let answered = !matches!(&flow, Flow::Stop(next) if matches!(**next, Next::Ask(_)));
        if answered && session.replies == ReplyMode::SkipNext && session.last_command != "client|reply" {
            session.replies = ReplyMode::On;
        }
    }

    fn answer(&mut self, session: &mut Session, lane: &Lane, request: Prepared<'a>, scratch: &mut Scratch) -> Flow {
        let Resolved { row, words } = match request.resolved {
            Ok(resolved) => resolved,
            Err(_) if !self.forward.is_empty() => return Flow::StopBefore,
            // Before a login nobody learns which commands exist.
            Err(_) if session.login.is_none() => {
                scratch.reply.error(&Refusal::NotAuthenticated.text(self.conditions.detail));
                return Flow::Continue;
            }
            Err(error) => {
                self.worker.stats.errors.add(1);
                scratch.reply.command_error(&error);
                return Flow::Continue;
            }
        };
        let admitted =
            match gate::admit(self.worker.node.table, row, request.argv, session, &self.conditions, &mut self.keys) {
                Ok(admitted) => admitted,
                Err(Refusal::Elsewhere) => return self.send_elsewhere(session, row, request.argv),
                Err(_) if !self.forward.is_empty() => return Flow::StopBefore,
                Err(refusal) => {
                    session.last_command = row.full_name;
                    self.worker.refused(session, row, &refusal);
                    scratch.reply.error(&refusal.text(self.conditions.detail));
                    return Flow::Continue;
                }
            };
        if !self.forward.is_empty() {
            return Flow::StopBefore;
        }
        session.commands += 1;
        session.last_command = row.full_name;
        self.worker.count(row);
        let (run, argv) = (admitted.row().run, admitted.argv());
        let context = call_context(self.worker, &self.hot, session, self.now);
        let mark = scratch.reply.mark();
        let result = match run {
            Run::OnKeys(handler) => {
                let call = Call { argv, words, keys: admitted.keys(), place: request.place, context };
                let node = &self.worker.node;
                node.shards.run(handler, &call, &mut scratch.calls, &node.journal, &mut scratch.reply)
            }
            Run::OnEveryKey(handler) => {
                let call = Call { argv, words, keys: &[], place: None, context };
                let node = &self.worker.node;
                node.shards.run_on_every_key(handler, &call, &mut scratch.calls, &node.journal, &mut scratch.reply)
            }
            Run::OnSession(handler) => {
                let surroundings = self.worker.surroundings(&lane.view, &self.hot);
                let result = handler(session, &surroundings, Args::new(argv, words), &mut scratch.reply);
                scratch.reply.protocol = session.protocol;
                result
            }
            Run::Ask(handler) | Run::AskOwner(handler) => {
                let surroundings = self.worker.surroundings(&lane.view, &self.hot);
                match handler(session, &surroundings, Args::new(argv, words)) {
                    Ok(ask) => return Flow::Stop(Box::new(Next::Ask(ask))),
                    Err(error) => Err(error),
                }
            }
            Run::Container(_) => Err(CommandError::Arity(row.full_name.to_owned())),
            Run::Refused(text) => {
                Err(CommandError::err(format!("{} is not available: {text}", row.full_name.to_uppercase())))
            }
        };
        if let Err(error) = result {
            self.worker.stats.errors.add(1);
            scratch.reply.rewind(mark);
            scratch.reply.command_error(&error);
        } else if scratch.reply.is_too_long() {
            self.worker.stats.errors.add(1);
            scratch.reply.rewind(mark);
            scratch.reply.error(REPLY_TOO_LONG);
        }
        if session.closing { Flow::Stop(Box::new(Next::Close)) } else { Flow::Continue }
    }

    /// Another node serves the data: the request joins those that travel there together.
    fn send_elsewhere(&mut self, session: &mut Session, row: &'static Row, argv: &[&[u8]]) -> Flow {
        // Without replies the count would not tell which answer belongs to what; and what may wait there must not keep
        // others waiting: one at a time.
        let silent = session.replies != ReplyMode::On;
        let alone = silent || matches!(row.run, Run::AskOwner(_));
        if alone && !self.forward.is_empty() {
            return Flow::StopBefore;
        }
        session.commands += 1;
        session.last_command = row.full_name;
        self.worker.count(row);
        self.forward.push(argv);
        self.forward.complete = alone;
        if silent {
            self.forward.silent = true;
            if session.replies == ReplyMode::SkipNext {
                session.replies = ReplyMode::On;
            }
        }
        Flow::Continue
    }
}

/// What a call on data is lent.
#[inline]
fn call_context<'h>(worker: &Worker, hot: &'h Hot, session: &Session, now: i64) -> CallContext<'h> {
    CallContext {
        layout: worker.node.shards.layout(),
        space: SpaceId { tenant: session.tenant, database: session.database },
        now,
        limits: &hot.limits,
        value_bytes_max: hot.value_bytes_max,
        databases: worker.node.config.databases,
        random: worker.next_random(),
        no_touch: session.no_touch,
    }
}

/// What a forwarded request asks of the node that holds the data, if it is of that kind and the user may. What other
/// asks do concerns the node the client is connected to, and is refused by [`run_forwarded`].
pub fn ask_forwarded(worker: &Worker, session: &mut Session, view: &Arc<View>, request: &[Vec<u8>]) -> Option<Ask> {
    let argv: Vec<&[u8]> = request.iter().map(Vec::as_slice).collect();
    let hot = worker.hot();
    let Resolved { row, words } = worker.node.table.resolve(&argv).ok()?;
    let (Run::AskOwner(handler) | Run::Ask(handler)) = row.run else { return None };
    let mut keys = KeyBuffer::new();
    gate::admit(worker.node.table, row, &argv, session, &worker.conditions(view, &hot), &mut keys).ok()?;
    let ask = handler(session, &worker.surroundings(view, &hot), Args::new(&argv, words)).ok()?;
    matches!(ask, Ask::Save | Ask::SaveInBackground | Ask::ShowLastSave | Ask::ShowInfo(_)).then_some(ask)
}

/// Runs a batch that another node forwarded, as the user it names. Returns the replies and how many requests they answer:
/// once they are long, the sender must ask for the rest again, so that a batch of large reads is not held as a whole.
pub fn run_forwarded(
    worker: &Worker,
    session: &mut Session,
    view: &Arc<View>,
    requests: &[Vec<Vec<u8>>],
) -> (Reply, usize) {
    let mut scratch = worker.scratch.borrow_mut();
    let scratch = &mut *scratch;
    let outer = std::mem::replace(&mut scratch.reply, Reply::new(session.protocol));
    let now = worker.now_ms();
    let lane = Lane {
        decoder: Decoder::new(worker.hot().decoder.clone()),
        input: Vec::new(),
        output: Vec::new(),
        generation: 0,
        view: Arc::clone(view),
    };
    let argvs: Vec<Vec<&[u8]>> = requests.iter().map(|request| request.iter().map(Vec::as_slice).collect()).collect();
    let hot = worker.hot();
    let mut conditions = worker.conditions(view, &hot);
    // Whoever forwards believes this node serves the data; if that is over, the request must not travel on.
    let serves = conditions.primary;
    conditions.primary = true;
    // A reply must also fit the frame it travels in.
    scratch.reply.bytes_max = hot.reply_bytes_max().min(crate::link::MESSAGE_BYTES_MAX);
    let mut batch = Batch { worker, now, conditions, hot, keys: KeyBuffer::new(), forward: ForwardBatch::default() };
    let mut answered = 0;
    for argv in &argvs {
        if scratch.reply.bytes.len() > OUTPUT_BYTES_SOFT {
            break;
        }
        answered += 1;
        if !serves {
            scratch.reply.error(crate::forward::NOT_SERVED_HERE);
            continue;
        }
        let resolved = worker.node.table.resolve(argv);
        let data = |resolved: &Resolved<'_>| matches!(resolved.row.run, Run::OnKeys(_) | Run::OnEveryKey(_));
        let data = resolved.as_ref().is_ok_and(data);
        if !data {
            scratch.reply.error("ERR only data commands are forwarded");
            continue;
        }
        batch.step(session, &lane, Prepared { argv, resolved, place: None, end: 0 }, scratch);
    }
    (std::mem::replace(&mut scratch.reply, outer), answered)
}
