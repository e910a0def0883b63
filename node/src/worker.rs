//! One data thread: its clients, its buffers, its clock; and the inbox through which the rest of the node reaches it.
//!
//! A data thread runs a single-threaded runtime. Sessions never leave it, so listing, closing and sweeping clients is a
//! message to every thread, answered between two batches. It shares nothing with other threads on the way of a
//! command but the shards; its counters are its own.

use crate::connection::{self, Connection};
use crate::counters::ThreadCounters;
use crate::forward::Links;
use crate::gate::{Conditions, LeaseState, Memory, Refusal};
use crate::guesses::network;
use crate::insight::{self, audit::AuditEvent, shares::Doer};
use crate::live::Hot;
use crate::memory::{Claim, Evictor};
use crate::moving;
use crate::node::Node;
use crate::places::PortPlace;
use crate::rounds::Member;
use crate::shards::{CallSpace, Needed};
use crate::socket::{Socket, Sockets};
use crate::standing::may_use_channel;
use crate::turns::Turns;
use crate::view::View;
use crate::world::net::{self, Parcel};
use keyward_acl::{AuthFailure, Denial, LogContext, LogEvent, LogReason};
use keyward_cluster::GroupId;
use keyward_engine::asks::ClientFilter;
use keyward_engine::eviction;
use keyward_engine::keyspace::UnixMillis;
use keyward_engine::reply::{Protocol, Reply};
use keyward_engine::scope::Reach;
use keyward_engine::session::{Login, Session, Surroundings};
use keyward_engine::table::Row;
use keyward_proto::forward::HandOver;
use keyward_proto::resp::ArgRange;
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Messages waiting for a thread; senders wait when it is full.
pub const INBOX_MESSAGES_MAX: usize = 1024;

/// Bytes one read asks for: what a socket usually has at most, and small enough to stay in the second-level cache.
pub const READ_BYTES: usize = 64 * 1024;

/// How much of the name of a failed login is logged, in bytes.
const SHOWN_NAME_BYTES: usize = 128;

/// Failed logins that one thread logs in one second: enough to see what happens, too few to fill a disk.
const FAILED_LOGINS_TOLD: u64 = 10;

/// Memory of the batch being run; belongs to the thread.
pub struct Scratch {
    /// Where reads go.
    pub input: Vec<u8>,
    /// Where replies go.
    pub reply: Reply,
    /// Arguments of the batch.
    pub ranges: Vec<ArgRange>,
    /// Requests of the batch.
    pub requests: Vec<connection::Decoded>,
    /// Keys of the batch, to be prefetched.
    pub places: Vec<Needed>,
    /// Replies of clients that are served together.
    pub sent_together: Vec<u8>,
    /// Clients that are served together; none between two groups.
    pub members: Vec<Member>,
    /// Memory of single calls.
    pub calls: CallSpace,
}

/// A request to a data thread.
pub enum Job {
    /// Take over a node's link.
    Link(Parcel, PortPlace),
    /// The lines of `CLIENT LIST` for matching clients; the second field is the asking client's id.
    List(ClientFilter, u64, Reach, oneshot::Sender<Vec<(u64, String)>>),
    /// Close matching clients; how many. The second field is the asking client's id, which ends after its reply.
    Kill(ClientFilter, u64, Reach, oneshot::Sender<usize>),
    /// A new view was published: close sessions that it ends.
    Sweep(oneshot::Sender<()>),
    /// The node is to leave: close every client after what it is answering, or at once.
    Dismiss {
        /// Whatever it is doing.
        at_once: bool,
    },
    /// Close clients that have been idle for too long or never logged in.
    Tidy,
}

/// One data thread.
pub struct Worker {
    /// The node.
    pub node: Arc<Node>,
    /// Its lane in the corridor.
    pub lane: usize,
    /// What it counted.
    pub stats: Arc<ThreadCounters>,
    /// Memory of the batch being run.
    pub scratch: RefCell<Scratch>,
    connections: RefCell<BTreeMap<u64, Rc<Connection>>>,
    /// Who runs next, of those who have much to do.
    pub turns: Turns,
    /// Who is ahead of a rate.
    pub held: Rc<crate::pace::Queues>,
    /// The way to the node that serves the data.
    pub links: Links,
    random: Cell<u64>,
    evictor: RefCell<Evictor>,
    sockets: OnceCell<Rc<Sockets>>,
    /// A copy of its own: even counting references to a shared one would be noticed by other threads.
    hot: RefCell<(u64, Rc<Hot>)>,
    /// The same thread as far as each further shard group is concerned.
    others: OnceCell<Box<[Rc<Worker>]>>,
    /// The second in which logins last failed, and how many did.
    failed_logins: Cell<(i64, u64)>,
}

impl Worker {
    /// A thread without clients.
    pub fn new(node: Arc<Node>, lane: usize, stats: Arc<ThreadCounters>) -> Worker {
        let scratch = Scratch {
            input: Vec::new(),
            reply: Reply::new(Protocol::Resp2),
            ranges: Vec::new(),
            requests: Vec::new(),
            places: Vec::new(),
            sent_together: Vec::new(),
            members: Vec::new(),
            calls: CallSpace::default(),
        };
        let random = Cell::new(crate::random::u64());
        let hot = RefCell::new((node.live.generation(), Rc::new(Hot::clone(&node.live.hot()))));
        Worker {
            node,
            lane,
            stats,
            scratch: RefCell::new(scratch),
            connections: RefCell::default(),
            turns: Turns::default(),
            held: Rc::default(),
            links: Links::default(),
            random,
            evictor: RefCell::default(),
            sockets: OnceCell::new(),
            hot,
            others: OnceCell::new(),
            failed_logins: Cell::new((0, 0)),
        }
    }

    /// The same thread: its clients take turns with those of the other.
    pub fn in_turn_with(self, front: &Worker) -> Worker {
        Worker { turns: front.turns.clone(), held: Rc::clone(&front.held), ..self }
    }

    /// The same thread as far as each further shard group is concerned, in the order of their ids.
    pub fn set_others(&self, others: Box<[Rc<Worker>]>) {
        let _ = self.others.set(others);
    }

    /// This thread as far as a shard group is concerned; asked of the one for the first group, or of that group's own.
    #[inline]
    pub fn at(&self, group: GroupId) -> &Worker {
        if group == self.node.group { self } else { self.other(group) }
    }

    /// The same, to be kept.
    pub fn of(self: &Rc<Self>, group: GroupId) -> &Rc<Worker> {
        if group == self.node.group { self } else { self.other(group) }
    }

    fn other(&self, group: GroupId) -> &Rc<Worker> {
        let others = self.others.get().expect("a thread that leads requests knows every group");
        &others[group.0 as usize - 1]
    }

    /// Something may have been written: whoever sends it to copies is woken.
    #[inline]
    pub fn tell_copies(&self) {
        self.node.replication.log.tell();
        for other in self.others.get().into_iter().flatten() {
            other.node.replication.log.tell();
        }
    }

    /// The settings requests look at, as of now.
    #[inline]
    pub fn hot(&self) -> Rc<Hot> {
        let generation = self.node.live.generation();
        let mut held = self.hot.borrow_mut();
        if held.0 != generation {
            *held = (generation, Rc::new(Hot::clone(&self.node.live.hot())));
        }
        Rc::clone(&held.1)
    }

    /// The wall clock.
    #[inline]
    pub fn now_ms(&self) -> UnixMillis {
        now_us() / 1000
    }

    /// A new client: greets nobody, counts it, serves it until it ends.
    pub async fn serve(self: Rc<Self>, stream: Parcel) {
        let peer = stream.peer_addr();
        let from = peer.as_ref().map_or(Ipv4Addr::UNSPECIFIED.into(), |peer| network(*peer));
        let address = peer.map(|address| address.to_string()).unwrap_or_default();
        let local = stream.local_addr().map(|address| address.to_string()).unwrap_or_default();
        let id = self.node.next_client_id();
        let session = Session::new(id, address, local, self.now_ms(), None);
        let connection = Rc::new(Connection::new(session, self.hot().mail_bytes_max, &self.node.views));
        let bounds = self.node.bounds_of_entrance();
        let Some((place, given_up)) = self.node.entrance.enter(from, id, &connection.mailbox, &bounds) else {
            self.stats.rejected.add(1);
            // Best effort: whoever floods us need not read why.
            net::say(&stream, b"-ERR max number of clients reached\r\n");
            return;
        };
        self.stats.rejected.add(u64::from(given_up));
        connection.place.replace(Some(place));
        // Without it, a small reply waits for the acknowledgement of the one before.
        let _ = stream.set_nodelay(true);
        self.stats.accepted.add(1);
        let registered = self.register(id, &connection);
        let Ok(socket) = self.socket(stream) else { return };
        connection::serve(Rc::clone(&self), socket, connection).await;
        drop(registered);
    }

    /// A client of another node, handed over to this one: served like its own, and counted apart by whoever took it.
    pub async fn serve_guest(self: Rc<Self>, stream: Parcel, session: Session, luggage: &HandOver, group: GroupId) {
        let id = session.id;
        let connection = Rc::new(Connection::guest(session, self.hot().mail_bytes_max, &self.node.views, group));
        let Ok(socket) = self.socket(stream) else { return };
        let registered = self.register(id, &connection);
        if !moving::unpack(&self, &connection, luggage) {
            return connection.forget(&self);
        }
        connection::serve(Rc::clone(&self), socket, connection).await;
        drop(registered);
    }

    /// Where the clients of this thread have their sockets, once it serves some.
    pub fn set_sockets(&self, sockets: Rc<Sockets>) {
        for other in self.others.get().into_iter().flatten() {
            let _ = other.sockets.set(Rc::clone(&sockets));
        }
        let _ = self.sockets.set(sockets);
    }

    /// A socket of this thread.
    pub fn socket(&self, stream: Parcel) -> io::Result<Socket> {
        self.sockets.get().expect("only a data thread has clients").add(stream)
    }

    fn register<'w>(&'w self, id: u64, connection: &Rc<Connection>) -> Registered<'w> {
        self.connections.borrow_mut().insert(id, Rc::clone(connection));
        self.node.mailboxes.lock().insert(id, Arc::downgrade(&connection.mailbox));
        Registered { worker: self, id, connection: Rc::clone(connection) }
    }

    /// Does what the inbox says until the node stops.
    pub async fn answer_inbox(self: Rc<Self>, mut inbox: mpsc::Receiver<Job>) {
        while let Some(job) = inbox.recv().await {
            match job {
                Job::Link(stream, place) => {
                    tokio::task::spawn_local(crate::forward::serve_link(Rc::clone(&self), stream, place));
                }
                // Whoever asked may have left meanwhile; then nobody wants the answer.
                Job::List(filter, asking, reach, answer) => drop(answer.send(self.list(&filter, asking, &reach))),
                Job::Kill(filter, asking, reach, answer) => drop(answer.send(self.kill(&filter, asking, &reach))),
                Job::Sweep(done) => {
                    self.sweep();
                    let _ = done.send(());
                }
                Job::Dismiss { at_once } => self.dismiss(at_once),
                Job::Tidy => self.tidy(),
            }
        }
    }

    fn list(&self, filter: &ClientFilter, asking: u64, reach: &Reach) -> Vec<(u64, String)> {
        let now = self.now_ms();
        let connections = self.connections.borrow();
        let matching = connections.iter().filter_map(|(id, connection)| {
            let session = connection.session.try_borrow().ok()?;
            // One that was told to end is as good as gone.
            let stays = !connection.is_killed();
            let included =
                stays && matches(filter, &session, asking, now) && reach.sees_clients_of(&session.lasting_reach());
            included.then(|| (*id, crate::clients::line(&session, connection, now)))
        });
        matching.collect()
    }

    fn kill(&self, filter: &ClientFilter, asking: u64, reach: &Reach) -> usize {
        let now = self.now_ms();
        let mut killed = 0;
        for connection in self.connections.borrow().values() {
            let Ok(mut session) = connection.session.try_borrow_mut() else { continue };
            if connection.is_killed()
                || !matches(filter, &session, asking, now)
                || !reach.sees_clients_of(&session.lasting_reach())
            {
                continue;
            }
            killed += 1;
            if session.id == asking {
                session.closing = true;
            } else {
                connection.kill();
            }
        }
        killed
    }

    /// Closes every session whose user is gone, off, or has other credentials, and gives the others their new rules.
    fn sweep(&self) {
        let (generation, view) = self.node.views.load();
        let several = view.routes.is_some();
        for (id, connection) in self.connections.borrow().iter() {
            let Ok(mut session) = connection.session.try_borrow_mut() else { continue };
            if self.node.lease_state() == LeaseState::Over {
                // What it waits for or listens to may not be its to know any more.
                self.node.blocked.unblock(*id, true);
                if session.subscribed || self.node.monitors.has(*id) || connection.has_lasting_state(&session) {
                    connection.kill();
                    continue;
                }
            }
            if connection.mailbox.stands_in() && !connection.has_state_of_its_own(&session) {
                // Who is told in another's place is where the first group is served, wherever it waited for keys before.
                connection.group.set(GroupId(0));
            }
            let has_something = self.node.blocked.has(*id)
                || connection.has_lasting_state(&session) && !(several && connection.is_at_home_anywhere(&session));
            let is_here = match connection.group.get() {
                group if group == view.of => view.is_primary(),
                group => self.at(group).node.views.load().1.is_primary(),
            };
            let data_left = !is_here && has_something && !connection.handed_over.get();
            let stays = connection::renew(&mut session, &view)
                && may_listen(&session, connection)
                && self.may_watch(&session)
                && (!data_left || moving::may_move(self, &session));
            if stays {
                // Limits may be new; who is in stays in.
                let _ = connection.seats.take(self, session.login.as_ref().filter(|_| !connection.guest), false);
                connection.bound(self, &session);
                connection.mailbox.standing.judged(session.login.as_ref(), generation);
                if self.node.monitors.has(*id) {
                    self.node.monitors.add(*id, &connection.mailbox, session.login.as_ref());
                }
                if data_left {
                    connection.moves.set(true);
                }
                // Who waits for keys looks whether they are still here.
                if data_left || several && self.node.blocked.has(*id) {
                    connection.mailbox.stir();
                }
                continue;
            }
            if connection.changes_users.get() {
                // It ends its own session: the answer is sent first.
                session.closing = true;
            } else {
                connection.kill();
            }
        }
    }

    /// Sends clients away. Other nodes' guests move along with the data, and left with it.
    fn dismiss(&self, at_once: bool) {
        for connection in self.connections.borrow().values() {
            if at_once || connection.handed_over.get() {
                connection.kill();
            } else {
                // It sees that the node leaves once it has answered.
                connection.mailbox.stir();
            }
        }
    }

    /// Whether the client may still watch what others do, if it does.
    fn may_watch(&self, session: &Session) -> bool {
        !self.node.monitors.has(session.id)
            || session.login.as_ref().is_some_and(|login| self.node.monitors.may_watch(&login.policy))
    }

    fn tidy(&self) {
        let now = self.now_ms();
        let hot = self.hot();
        let (idle_ms, login_ms) = (hot.idle_ms, hot.login_ms);
        for connection in self.connections.borrow().values() {
            let Ok(session) = connection.session.try_borrow() else { continue };
            if connection.handed_over.get() {
                // The node that serves it sees what it does, and ends it by the same rules.
                continue;
            }
            let idle = idle_ms > 0 && now - session.active_at > idle_ms;
            let stranger = session.login.is_none() && login_ms > 0 && now - session.created_at > login_ms;
            if idle || stranger {
                connection.kill();
            }
        }
    }

    /// What the gate must know.
    pub fn conditions(&self, view: &View, hot: &Hot) -> Conditions {
        let primary = view.is_primary();
        Conditions {
            primary,
            // A member in sync whose link broke may have begun anew.
            reads_copy: !primary && view.is_in_sync() && self.node.replication.has_data(),
            redirects: hot.redirects,
            loading: self.node.is_loading(),
            // Looked at when a command needs memory: see `memory_for`.
            memory: Memory::Enough,
            busy: self.node.corridor.is_busy(),
            few_in_sync: view.few_in_sync,
            few_replicas: hot.replicas_min > 0
                && self.node.replication.count_near(hot.replica_lag_max) < hot.replicas_min,
            lease: self.node.lease_state(),
            detail: hot.detail,
            names_max: hot.request_names_max,
        }
    }

    /// Whether there is memory for what is claimed; if not, keys are evicted first. The caller holds no shard.
    #[inline]
    pub fn memory_for(&self, hot: &Hot, claim: &Claim<'_>, now: UnixMillis) -> Memory {
        let all_fits = hot.memory_bytes_max == 0 || self.node.memory_bytes() <= hot.memory_bytes_max;
        if all_fits && claim.is_modest(hot) { Memory::Enough } else { self.make_room(hot, claim, now) }
    }

    /// Whether more memory is used than may be, and keys may be evicted.
    #[inline]
    pub fn exceeds_memory(&self, hot: &Hot) -> bool {
        let limit = hot.memory_bytes_max;
        limit > 0 && hot.eviction.policy != eviction::Policy::NoEviction && self.node.memory_bytes() > limit
    }

    fn make_room(&self, hot: &Hot, claim: &Claim<'_>, now: UnixMillis) -> Memory {
        self.evictor.borrow_mut().make_room(&self.node, hot, claim, now)
    }

    /// What a handler may look at.
    pub fn surroundings<'v>(&self, view: &'v View, hot: &Hot, reach: Reach) -> Surroundings<'v> {
        Surroundings {
            table: self.node.table,
            reach,
            walls: self.node.config.walls(),
            directory: view.state.directory(),
            policy_version: view.index,
            now_us: now_us(),
            random: crate::random::bytes,
            databases: self.node.config.databases,
            value_bytes_max: hot.value_bytes_max,
            pattern_bytes_max: hot.limits.pattern_bytes_max,
            new_users_get_channels: hot.new_users_get_channels,
            topology: &view.topology,
            serves: self.node.lease_state() == LeaseState::InForce,
            tenancy: &view.tenancy,
            position: self.node.replication.log.position(),
        }
    }

    /// A number no other call of the process gets, and nobody outside can tell.
    #[inline]
    pub fn next_random(&self) -> u64 {
        let next = self.random.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.random.set(next);
        next
    }

    /// Counts a command that was let through.
    #[inline]
    pub fn count(&self, row: &Row) {
        self.stats.commands.add(1);
        self.stats.calls[usize::from(row.id)].add(1);
    }

    /// Notes a refusal where operators look: the counters and ACL LOG. Whether a script's is an error reply of its own,
    /// `scripts.rs` knows.
    pub fn refused(&self, session: &Session, row: &'static Row, refusal: &Refusal, context: LogContext) {
        if matches!(refusal, Refusal::MemoryFull(_)) {
            note_full(session);
        }
        if context != LogContext::Lua {
            self.stats.errors.add(1);
        }
        self.stats.refusals[usize::from(row.id)].add(1);
        if let Refusal::Denied(denial) = refusal {
            self.denied(session, denial, context);
        }
    }

    /// Notes a denial, or what would have been one, in ACL LOG and in the audit stream.
    pub fn denied(&self, session: &Session, denial: &Denial, context: LogContext) {
        self.node.audit.note(
            AuditEvent::Denial,
            || Doer::of(session),
            self.now_ms(),
            |line| insight::denied(insight::of_session(line, session), denial, context, self.node.audit.names_keys()),
        );
        if context != LogContext::Report {
            let accounts = session.login.iter().flat_map(Login::accounts);
            accounts.for_each(|(_, account)| account.note_denied(self.lane, denial.log_reason()));
        }
        let client = crate::clients::info(session, self.now_ms());
        let event = LogEvent {
            owner: &crate::acl_log::owner(session),
            reason: denial.log_reason(),
            context,
            object: &denial.object,
            username: session.user_name(),
            client_info: client.as_bytes(),
        };
        self.node.acl_log.lock().record(&event, now_us() as u64 / 1000);
    }

    /// Notes a failed login.
    pub fn login_failed(&self, session: &Session, user: &[u8], word: &[u8], failure: AuthFailure) {
        let client = crate::clients::info(session, self.now_ms());
        // Chosen by a stranger, and as long as they like.
        let shown = &user[..user.len().min(SHOWN_NAME_BYTES)];
        if self.may_log_failed_login() {
            tracing::warn!(client = %session.address, user = %shown.escape_ascii(), cause = failure.cause(), "login failed");
        }
        self.node.audit.note(
            AuditEvent::Auth,
            || Doer::of(session),
            self.now_ms(),
            |line| {
                let line = line.bytes("user", user).word("client", &session.address).number("id", session.id);
                line.word("outcome", "failure").word("cause", failure.cause())
            },
        );
        let event = LogEvent {
            owner: &crate::acl_log::owner(session),
            reason: LogReason::Auth,
            context: LogContext::Toplevel,
            object: word,
            username: user,
            client_info: client.as_bytes(),
        };
        self.node.acl_log.lock().record(&event, now_us() as u64 / 1000);
    }

    /// Strangers choose how often this happens: only the first few of a second are told one by one, then their number.
    fn may_log_failed_login(&self) -> bool {
        let second = self.now_ms() / 1000;
        let (last, count) = self.failed_logins.get();
        if last == second {
            self.failed_logins.set((second, count + 1));
            return count < FAILED_LOGINS_TOLD;
        }
        if count > FAILED_LOGINS_TOLD {
            tracing::warn!(untold = count - FAILED_LOGINS_TOLD, "more logins failed");
        }
        self.failed_logins.set((second, 1));
        true
    }
}

/// Takes the connection off the list however its task ends.
struct Registered<'a> {
    worker: &'a Worker,
    id: u64,
    connection: Rc<Connection>,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.worker.connections.borrow_mut().remove(&self.id);
        self.worker.node.mailboxes.lock().remove(&self.id);
        self.connection.place.take();
    }
}

/// A request of this session was refused for want of memory.
pub(crate) fn note_full(session: &Session) {
    if let Some(tenant) = session.login.as_ref().and_then(|login| login.tenant.as_ref()) {
        tenant.gauge.note_refused();
    }
}

/// Whether the client may still use every channel it listens to.
fn may_listen(session: &Session, connection: &Connection) -> bool {
    let Some(login) = session.login.as_ref().filter(|_| session.subscribed) else { return true };
    let subscriptions = connection.subscriptions.borrow();
    subscriptions.names().all(|(name, pattern)| may_use_channel(&login.policy, name, pattern))
}

/// Whether a client is meant by the filter.
fn matches(filter: &ClientFilter, session: &Session, asking: u64, now: UnixMillis) -> bool {
    let kind_fits = filter.kind.as_deref().is_none_or(|kind| kind == "normal");
    filter.ids.as_ref().is_none_or(|ids| ids.contains(&session.id))
        && filter.address.as_ref().is_none_or(|address| session.address.as_bytes() == address)
        && filter.local_address.as_ref().is_none_or(|address| session.local_address.as_bytes() == address)
        && filter.user.as_ref().is_none_or(|user| session.login.is_some() && session.user_name() == user)
        && filter.age_min_s.is_none_or(|age| (now - session.created_at) / 1000 >= age)
        && kind_fits
        && !(filter.skip_me && session.id == asking)
}

/// Microseconds since 1970.
#[inline]
pub fn now_us() -> i64 {
    crate::world::unix_us()
}
