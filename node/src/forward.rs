//! Commands on their way to the node that serves the data, and their replies back.
//!
//! ```text
//!   client ─► data thread of node 3 ══ one link per thread, many batches in flight ══► data thread of node 1 ─► shards
//!             gate (local rules)        frames: length, then a Batch or BatchReply       gate again (its own rules)
//! ```
//! A link runs on a data thread at both ends, never on the control plane's. It begins on the peer port with a mutual
//! proof that both sides know the cluster secret; neither sends it. What the sender believes about permissions is not
//! trusted, only who the caller is: the owner looks the user up and checks every command again, once it has applied
//! everything the sender had.
//!
//! A batch that was perhaps run is never sent again. One that certainly was not (the link could not be made, the owner
//! refused it) is sent again until a deadline passes.

use crate::connection::Connection;
use crate::link::{self, LinkStream, MESSAGE_BYTES_MAX};
use crate::replication::NotConfirmed;
use crate::view::View;
use crate::worker::Worker;
use bytes::Bytes;
use keyward_engine::reply::Protocol;
use keyward_engine::session::Session;
use keyward_proto::forward::{Batch, BatchError, BatchReply};
use keyward_proto::resp::{ArgRange, Decoder, Limits, encode_command};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

/// A forwarded command must be answered within this time, or the client is told that its outcome is unknown.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a batch that was certainly not run waits for a node that serves the data.
const RETRY_TIMEOUT: Duration = Duration::from_secs(3);

/// Between two tries.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// How long the owner waits until it has applied what the sender had.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(2);

/// Batches of one thread in flight to the owner: bounds what a stalled owner can make this node hold.
const BATCHES_IN_FLIGHT_MAX: usize = 1024;

/// What a command gets that reached a node which no longer serves the data.
pub const NOT_SERVED_HERE: &str =
    "CLUSTERDOWN the data moved to another node while the command was on its way; try again";

/// Requests of one client that travel together.
#[derive(Default)]
pub struct ForwardBatch {
    batch: Batch,
    commands: Vec<u8>,
    /// Where each request ends in `commands`.
    ends: Vec<usize>,
    /// The client wants no replies.
    pub silent: bool,
    /// Nothing may join it any more.
    pub complete: bool,
}

impl ForwardBatch {
    /// Whether it holds no request.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.batch.count == 0
    }

    /// Adds a request.
    pub fn push(&mut self, argv: &[&[u8]]) {
        encode_command(&mut self.commands, argv);
        self.ends.push(self.commands.len());
        self.batch.count += 1;
    }

    /// Takes the first `answered` requests off: they were run.
    fn drop_answered(&mut self, answered: u32) {
        let Some(last) = (answered as usize).checked_sub(1).and_then(|last| self.ends.get(last).copied()) else {
            return;
        };
        self.batch.commands = self.batch.commands.slice(last..);
        self.ends.drain(..answered as usize);
        self.ends.iter_mut().for_each(|end| *end -= last);
        self.batch.count -= answered;
    }

    /// Says who asks.
    pub fn describe(&mut self, session: &Session, view: &View) {
        self.batch.commands = std::mem::take(&mut self.commands).into();
        describe(&mut self.batch, session, view);
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
    /// Perhaps run.
    Unknown(String),
}

/// Has the node that serves the data run the batch; appends its replies, or one clear error per request.
pub async fn send(
    worker: &Rc<Worker>,
    link: &RefCell<Option<Rc<ForwardLink>>>,
    mut forward: ForwardBatch,
    output: &mut Vec<u8>,
) {
    worker.stats.forwarded.add(u64::from(forward.batch.count));
    let mut give_up = Instant::now() + RETRY_TIMEOUT;
    let text = loop {
        if forward.batch.commands.len() > MESSAGE_BYTES_MAX {
            break "ERR the request is too long to be forwarded to the node that serves the data".to_owned();
        }
        match attempt(worker, link, &forward.batch).await {
            Ok(reply) => {
                if !forward.silent {
                    output.extend_from_slice(&reply.replies);
                }
                forward.drop_answered(reply.count);
                if forward.is_empty() {
                    return;
                }
                give_up = Instant::now() + RETRY_TIMEOUT;
            }
            Err(Failure::Unknown(why)) => {
                break format!(
                    "CLUSTERDOWN no answer from the node that serves the data ({why}); the command may have been carried out"
                );
            }
            Err(Failure::NotRun(why)) if Instant::now() >= give_up => {
                break format!(
                    "CLUSTERDOWN the node that serves the data cannot be reached ({why}); the command was not carried out"
                );
            }
            Err(Failure::NotRun(_)) => tokio::time::sleep(RETRY_PAUSE).await,
        }
    };
    if !forward.silent {
        let line = format!("-{}\r\n", text.replace(['\r', '\n'], " "));
        (0..forward.batch.count).for_each(|_| output.extend_from_slice(line.as_bytes()));
    }
}

async fn attempt(
    worker: &Rc<Worker>,
    link: &RefCell<Option<Rc<ForwardLink>>>,
    batch: &Batch,
) -> Result<BatchReply, Failure> {
    let (owner, address) = owner(&worker.node.views.load().1).map_err(Failure::NotRun)?;
    let held = link.borrow().clone().filter(|link| link.leads_to(owner, &address));
    let current = match held {
        Some(link) => link,
        None => {
            let made = ForwardLink::open(worker, owner, address).await.map_err(Failure::NotRun)?;
            *link.borrow_mut() = Some(Rc::clone(&made));
            made
        }
    };
    let reply = current.ask(batch.clone()).await?;
    match reply.error() {
        BatchError::Unspecified if (1..=batch.count).contains(&reply.count) => Ok(reply),
        BatchError::Unspecified => Err(Failure::Unknown("it answered a different number of commands".to_owned())),
        _ => Err(Failure::NotRun(reply.error_text)),
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

/// A connection to the node that serves the data, with batches in flight.
pub struct ForwardLink {
    owner: u64,
    address: String,
    frames: mpsc::Sender<Batch>,
    waiting: RefCell<HashMap<u64, oneshot::Sender<BatchReply>>>,
    next_sequence: Cell<u64>,
    broken: Cell<bool>,
}

impl ForwardLink {
    /// Connects, proves the secret both ways, and starts the two halves.
    async fn open(worker: &Rc<Worker>, owner: u64, address: String) -> Result<Rc<ForwardLink>, String> {
        let stream = link::connect(&worker.node, owner, &address).await?;
        let (frames, outgoing) = mpsc::channel(BATCHES_IN_FLIGHT_MAX);
        let made = Rc::new(ForwardLink {
            owner,
            address,
            frames,
            waiting: RefCell::default(),
            next_sequence: Cell::new(1),
            broken: Cell::new(false),
        });
        let (reader, writer) = stream.into_halves();
        tokio::task::spawn_local(write_batches(Rc::clone(&made), writer, outgoing));
        tokio::task::spawn_local(read_replies(Rc::clone(&made), reader));
        Ok(made)
    }

    fn leads_to(&self, owner: u64, address: &str) -> bool {
        !self.broken.get() && self.owner == owner && self.address == address
    }

    /// No reply will come any more: whoever waits is told.
    fn break_off(&self) {
        self.broken.set(true);
        self.waiting.borrow_mut().clear();
    }

    async fn ask(&self, mut batch: Batch) -> Result<BatchReply, Failure> {
        let sequence = self.next_sequence.get();
        self.next_sequence.set(sequence + 1);
        batch.sequence = sequence;
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        let (sender, answer) = oneshot::channel();
        self.waiting.borrow_mut().insert(sequence, sender);
        let sent = timeout_at(deadline, self.frames.send(batch)).await;
        if !matches!(sent, Ok(Ok(()))) {
            self.waiting.borrow_mut().remove(&sequence);
            return Err(Failure::NotRun("the link is down or full".to_owned()));
        }
        match timeout_at(deadline, answer).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(_)) => Err(Failure::Unknown("the link broke".to_owned())),
            Err(_) => {
                self.waiting.borrow_mut().remove(&sequence);
                Err(Failure::Unknown("timeout".to_owned()))
            }
        }
    }
}

async fn write_batches(link: Rc<ForwardLink>, mut writer: link::FrameWriter, mut outgoing: mpsc::Receiver<Batch>) {
    while let Some(batch) = outgoing.recv().await {
        writer.push(&batch);
        // Everything that waits leaves in one write.
        while let Ok(batch) = outgoing.try_recv() {
            writer.push(&batch);
        }
        if link.broken.get() || writer.flush().await.is_err() {
            break;
        }
    }
    link.break_off();
}

async fn read_replies(link: Rc<ForwardLink>, mut reader: link::FrameReader) {
    while let Ok(Some(reply)) = reader.next::<BatchReply>().await {
        let waiting = link.waiting.borrow_mut().remove(&reply.sequence);
        if let Some(waiting) = waiting {
            // A client that left meanwhile needs no reply.
            let _ = waiting.send(reply);
        }
    }
    link.break_off();
}

/// Serves a link another node opened: the other end of [`ForwardLink`].
pub async fn serve_link(worker: Rc<Worker>, stream: std::net::TcpStream) {
    let peer = stream.peer_addr().map(|address| address.to_string()).unwrap_or_default();
    let accepted: Result<LinkStream, String> = link::accept(&worker.node, stream).await;
    match accepted {
        Ok(stream) => {
            let (mut reader, mut writer) = stream.into_halves();
            while let Ok(Some(batch)) = reader.next::<Batch>().await {
                if batch.follow {
                    return accept_follower(&worker, &batch, reader, writer).await;
                }
                if batch.hand_over.is_some() {
                    return crate::handover::take_over(worker, batch, reader, writer).await;
                }
                let reply = run(&worker, batch).await;
                writer.push(&reply);
                if (reader.is_drained() || writer.is_full()) && writer.flush().await.is_err() {
                    return;
                }
            }
        }
        Err(why) => tracing::warn!(%peer, %why, "a peer link was refused"),
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
        let stream = link::into_stream(reader, writer).and_then(tokio::net::TcpStream::into_std);
        if !stream.is_ok_and(|stream| worker.node.replication.take_link(stream)) {
            tracing::warn!("a replica's link was not taken");
        }
    }
}

/// Runs one batch as the user it names.
async fn run(worker: &Rc<Worker>, batch: Batch) -> BatchReply {
    let (view, mut session) = match identify(worker, &batch).await {
        Ok(known) => known,
        Err((error, text)) => return refusal(&batch, error, text),
    };
    let Some(requests) = decode(&batch, worker.hot().decoder.clone()) else {
        return refusal(&batch, BatchError::Invalid, "a malformed batch");
    };
    if let [only] = requests.as_slice()
        && let Some(ask) = crate::batch::ask_forwarded(worker, &mut session, &view, only)
    {
        let mut replies = Vec::new();
        crate::asks::carry_out(
            worker,
            &Rc::new(Connection::new(session, worker.hot().mail_bytes_max)),
            ask,
            &mut replies,
        )
        .await;
        return BatchReply {
            sequence: batch.sequence,
            replies: replies.into(),
            count: 1,
            error: BatchError::Unspecified.into(),
            error_text: String::new(),
        };
    }
    let (reply, answered) = loop {
        match crate::batch::run_forwarded(worker, &mut session, &view, &requests) {
            Some(done) => break done,
            None => worker.node.corridor.opened().await,
        }
    };
    worker.node.replication.log.tell();
    if session.wants_quorum() && answered > 0 {
        let position = worker.node.replication.log.position();
        if let Err(error) = worker.node.replication.confirmed(position, worker.node.config.ack_timeout).await {
            return unconfirmed(&batch, error);
        }
    }
    BatchReply {
        sequence: batch.sequence,
        replies: reply.bytes.into(),
        count: answered as u32,
        error: BatchError::Unspecified.into(),
        error_text: String::new(),
    }
}

/// The answer to a batch that was run, and may yet be lost.
fn unconfirmed(batch: &Batch, error: NotConfirmed) -> BatchReply {
    let line = format!("-{}\r\n", not_confirmed(error));
    BatchReply {
        sequence: batch.sequence,
        replies: line.repeat(batch.count as usize).into(),
        count: batch.count,
        error: BatchError::Unspecified.into(),
        error_text: String::new(),
    }
}

/// What a client gets whose write was made and not confirmed.
pub fn not_confirmed(error: NotConfirmed) -> String {
    format!("UNKNOWN {error}; the command may or may not have taken effect")
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
    if !view.is_primary() {
        return Err((BatchError::NotPrimary, "it does not serve the data"));
    }
    if worker.node.is_loading() {
        return Err((BatchError::Unavailable, "it is loading its data"));
    }
    // A way to log in that was withdrawn after what the sender knew may be the one its client came by.
    let login = view.login(&batch.user).filter(|login| {
        let user = &login.user;
        user.created == batch.user_created && user.enabled && user.withdrawn_revision <= batch.policy_version
    });
    let Some(login) = login.cloned() else { return Err((BatchError::UserGone, "the user is gone")) };
    let now = worker.now_ms();
    let mut session = Session::new(batch.client_id, batch.client_addr.clone(), String::new(), now, Some(login));
    session.name = batch.client_name.to_vec();
    session.protocol = if batch.resp3 { Protocol::Resp3 } else { Protocol::Resp2 };
    session.database = batch.database.min(worker.node.config.databases - 1);
    Ok((view, session))
}

async fn caught_up(worker: &Worker, index: u64) -> Option<Arc<View>> {
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

fn decode(batch: &Batch, limits: Limits) -> Option<Vec<Vec<Vec<u8>>>> {
    let mut bytes = batch.commands.to_vec();
    let mut decoder = Decoder::new(limits);
    decoder.set_authenticated(true);
    let mut requests = Vec::new();
    let mut ranges: Vec<ArgRange> = Vec::new();
    let mut position = 0;
    while position < bytes.len() {
        ranges.clear();
        let used = decoder.next(&mut bytes[position..], &mut ranges).ok()??;
        let request = &bytes[position..position + used];
        requests.push(ranges.iter().map(|range| range.of(request).to_vec()).collect());
        position += used;
    }
    (requests.len() == batch.count as usize).then_some(requests)
}
