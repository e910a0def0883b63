//! Writes what came from the source, the way every write goes: gate, shards, journal, those who wait and watch. As the
//! system: no rule of a user holds it back. It knows nothing of the source but the time it gives.

use super::Failure;
use super::carried::Carried;
use crate::batch::{Batch, Prepared};
use crate::connection::Lane;
use crate::counters::ThreadCounters;
use crate::gate::{Conditions, KeyBuffer, LeaseState, Memory};
use crate::journal::Importing;
use crate::live::Hot;
use crate::memory::{Claim, note_owners};
use crate::node::{Node, now_ms};
use crate::pause::Paused;
use crate::replication::record::Origin;
use crate::view::View;
use crate::worker::Worker;
use keyward_acl::{Policy, User};
use keyward_cluster::Epoch;
use keyward_engine::command::{Flags, Run};
use keyward_engine::session::{Login, Session};
use keyward_engine::table::Row;
use keyward_engine::tenancy::Tenancy;
use keyward_proto::replication::import_mark::What;
use keyward_proto::replication::{ImportAhead, ImportMark};
use keyward_proto::resp::{Decoder, ReplyLimits, Value, parse_reply};
use prost::Message as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Requests that run before others get a turn.
const REQUESTS_AT_ONCE: usize = 64;

/// Between two looks at a node that is not ready for writes.
const PAUSE: Duration = Duration::from_micros(200);

/// A node without room for so long does not find any.
const ROOM_WAIT: Duration = Duration::from_secs(5);

/// A request for one database.
pub(super) struct Request<'a> {
    /// Which.
    pub(super) database: u32,
    /// Name first.
    pub(super) argv: Vec<&'a [u8]>,
    /// Up to where the source's stream is carried out with it.
    pub(super) at: Option<Origin>,
    /// A key that is newer than that from here on: its database and name at the source, and up to where.
    pub(super) ahead: Option<(u32, Vec<u8>, u64)>,
}

impl<'a> Request<'a> {
    /// One that is not of a stream.
    pub(super) fn new(database: u32, argv: Vec<&'a [u8]>) -> Request<'a> {
        Request { database, argv, at: None, ahead: None }
    }
}

/// How requests belong together.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Together {
    /// Others may come between.
    Loosely,
    /// They are one step.
    AsOne,
}

/// Runs requests here; belongs to the import's thread.
pub(super) struct Hand {
    worker: Worker,
    session: Session,
    /// Somebody else goes on, or nobody.
    stop: Arc<AtomicBool>,
    /// The reign in which it began: in another one, the data knows of the import what this thread does not.
    reign: Epoch,
    /// Where the effects of what was written here end.
    wrote: Arc<AtomicU64>,
}

impl Hand {
    /// For data from `source`, until `stop` or until `reign` is over. What was written is told in `wrote`.
    pub(super) fn new(
        node: &Arc<Node>,
        source: String,
        (stop, reign): (Arc<AtomicBool>, Epoch),
        wrote: Arc<AtomicU64>,
    ) -> Hand {
        // What is imported is no client's command: it is counted apart, and shown in the import's own figures.
        let counters = Arc::new(ThreadCounters::new(node.table.rows().len()));
        let lane = node.corridor.import_lane();
        let worker = Worker::new(Arc::clone(node), lane, counters);
        let user = Arc::new(User::open_default());
        let policy = Arc::new(Policy::compile(&user, node.table, node.config.walls()));
        let mut session =
            Session::new(0, source, String::new(), now_ms(), Some(Login::new(user, policy, false, None, None)));
        session.no_touch = true;
        Hand { worker, session, stop, reign, wrote }
    }

    /// The node.
    pub(super) fn node(&self) -> &Arc<Node> {
        &self.worker.node
    }

    /// What may come from a source: writes, messages, and scripts with what they need. Whoever speaks for the source must
    /// not be able to do more than a client with data can.
    pub(super) fn may_run(&self, argv: &[&[u8]]) -> Result<&'static Row, String> {
        let name = || argv.first().map_or(String::new(), |name| name.escape_ascii().to_string());
        let row = self.worker.node.table.resolve(argv).map_err(|_| format!("{} is not known here", name()))?.row;
        let flags = row.command.flags;
        let wanted = flags.has(Flags::WRITE) || flags.has(Flags::MAY_REPLICATE) || row.full_name.starts_with("script|");
        let runs = matches!(row.run, Run::OnKeys(_) | Run::OnEveryKey(_) | Run::AtOnce(_));
        if wanted && runs { Ok(row) } else { Err(format!("{} is not carried out here", name())) }
    }

    /// Runs requests in order, by the clock `now_ms`; `answered` gets the index and the reply of each, as RESP2.
    pub(super) fn run(
        &mut self,
        requests: &[Request<'_>],
        now_ms: i64,
        together: Together,
        answered: &mut dyn FnMut(usize, &[u8]),
    ) -> Result<(), Failure> {
        let mut first = 0;
        while first < requests.len() {
            let one_step = together == Together::AsOne || runs_alone(&self.worker, &requests[first]);
            let count = if together == Together::AsOne {
                requests.len() - first
            } else if one_step {
                1
            } else {
                let loose = requests[first..].iter().take(REQUESTS_AT_ONCE);
                loose.take_while(|request| !runs_alone(&self.worker, request)).count()
            };
            let part = &requests[first..first + count];
            self.wait_until_welcome(part)?;
            if self.run_part(part, now_ms, one_step, &mut |index, reply| answered(first + index, reply)) {
                first += count;
            }
        }
        Ok(())
    }

    /// The reply to one request of our own, as a value. No key looks expired to it, so that none ends by being looked at.
    pub(super) fn ask(&mut self, database: u32, argv: &[&[u8]]) -> Result<Value, Failure> {
        let mut reply = Vec::new();
        let request = Request::new(database, argv.to_vec());
        self.run(&[request], 0, Together::Loosely, &mut |_, bytes| reply.extend_from_slice(bytes))?;
        let parsed = parse_reply(&reply, &ReplyLimits::default()).ok().flatten();
        Ok(parsed.map_or(Value::Nil, |(value, _)| value))
    }

    /// Has everybody who has a copy of the data know something about the import from here on.
    pub(super) fn note(&self, mark: impl Fn(&Node) -> ImportMark) -> Result<(), Failure> {
        loop {
            self.wait_until_welcome(&[])?;
            let node = &self.worker.node;
            let _turn = node.moving.lock();
            let _in_lane = node.corridor.enter_for_any_key(self.worker.lane);
            let (_, view) = node.views.load();
            if !self.may_write(&view, &self.worker.conditions(&view, &self.worker.hot())) {
                continue;
            }
            node.journal.noted(&mark(node).encode_to_vec());
            self.wrote();
            return Ok(());
        }
    }

    /// Changes where the import stands, here and wherever the data is.
    pub(super) fn stand(&self, change: impl Fn(&mut Carried)) -> Result<(), Failure> {
        self.note(|node| node.import.stand(&change))
    }

    /// Adds to what is known of it.
    pub(super) fn add(&self, what: &What) -> Result<(), Failure> {
        self.note(|node| {
            let mark = ImportMark { index: node.import.index(), what: Some(what.clone()) };
            node.import.take_in(mark.clone());
            mark
        })
    }

    fn wrote(&self) {
        let log = &self.worker.node.replication.log;
        self.wrote.store(log.position(), Ordering::Release);
        log.tell();
    }

    /// Waits while clients are paused or keys must be evicted first.
    pub(super) fn wait_until_welcome(&self, requests: &[Request<'_>]) -> Result<(), Failure> {
        let began = Instant::now();
        let needs_room = requests.iter().any(|request| {
            let resolved = self.worker.node.table.resolve(&request.argv);
            resolved.is_ok_and(|resolved| resolved.row.command.flags.has(Flags::DENYOOM))
        });
        loop {
            let (_, view) = self.worker.node.views.load();
            let hot = self.worker.hot();
            let conditions = self.worker.conditions(&view, &hot);
            if self.stop.load(Ordering::Acquire) {
                return Err(Failure::Moved);
            }
            if !conditions.primary || view.reign() != Some(self.reign) {
                return Err(Failure::Moved);
            }
            let paused = self.worker.node.pause.state(now_ms()) != Paused::Nobody;
            if !paused && self.may_write(&view, &conditions) {
                let memory = if needs_room { self.memory(requests, &view.tenancy, &hot) } else { Memory::Enough };
                if memory == Memory::Enough {
                    return Ok(());
                }
                if began.elapsed() > ROOM_WAIT {
                    return Err(Failure::Final(no_room(memory, &view.tenancy)));
                }
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Whether there is room. Keys may be evicted for it, so no transaction runs meanwhile.
    fn memory(&self, requests: &[Request<'_>], tenancy: &Tenancy, hot: &Hot) -> Memory {
        let (table, mut keys, mut owners) = (self.worker.node.table, KeyBuffer::new(), Vec::new());
        for request in requests {
            if let Ok(resolved) = table.resolve(&request.argv) {
                note_owners(tenancy, None, keys.written(table, resolved.row, &request.argv), &mut owners);
            }
        }
        let _turn = self.worker.node.moving.lock();
        let _in_lane = self.worker.node.corridor.enter_for_any_key(self.worker.lane);
        let claim = Claim { tenancy, writer: None, owners: &owners };
        self.worker.memory_for(hot, &claim, now_ms())
    }

    /// Whether this node may write by itself now.
    fn may_write(&self, view: &View, conditions: &Conditions) -> bool {
        let enough = !conditions.few_replicas && !conditions.loading;
        conditions.primary && view.reign() == Some(self.reign) && conditions.lease == LeaseState::InForce && enough
    }

    /// False: the node may not write after all, and nothing was run.
    fn run_part(
        &mut self,
        requests: &[Request<'_>],
        now: i64,
        one_step: bool,
        answered: &mut dyn FnMut(usize, &[u8]),
    ) -> bool {
        let node = Arc::clone(&self.worker.node);
        // The lane is one, and other groups' data may be on its way in as well.
        let _turn = node.moving.lock();
        let closed = one_step.then(|| node.corridor.close());
        let in_lane = (!one_step).then(|| node.corridor.enter_for_any_key(self.worker.lane));
        // Who serves the data may change until we are in the corridor, and no more while we are.
        let (generation, view) = node.views.load();
        let hot = self.worker.hot();
        let lane = Lane::new(Decoder::new(hot.decoder.clone()), generation, Arc::clone(&view));
        let conditions = self.worker.conditions(&view, &hot);
        if !self.may_write(&view, &conditions) {
            return false;
        }
        if one_step {
            node.journal.begin_group();
        }
        let mut scratch = self.worker.scratch.borrow_mut();
        let mut batch = Batch::new(&self.worker, None, now, conditions, hot.clone()).for_transaction().of_one_group();
        for (index, request) in requests.iter().enumerate() {
            scratch.reply.bytes.clear();
            self.session.database = request.database;
            // What is one step says at its end how far it brings the stream.
            let _importing = Importing::begin(request.at.filter(|_| !one_step));
            batch.answer(&mut self.session, &lane, &Prepared::of(&self.worker, &request.argv), &mut scratch);
            answered(index, &scratch.reply.bytes);
            if let Some((database, key, offset)) = request.ahead.clone() {
                let ahead = ImportAhead { database, key: key.into(), offset };
                let mark = ImportMark { index: node.import.index(), what: Some(What::Ahead(ahead)) };
                node.journal.noted(&mark.encode_to_vec());
                node.import.take_in(mark);
            }
        }
        scratch.reply.bytes.clear();
        let reached = requests.iter().rev().find_map(|request| request.at);
        if let Some(at) = reached {
            node.import.reached(at);
        }
        if one_step {
            reached.into_iter().for_each(|at| node.journal.reached(at));
            node.journal.end_group();
        }
        // Those who waited are clients of this node: for them it is now.
        let mut batch = Batch::new(&self.worker, None, now_ms(), conditions, hot);
        batch.serve_ready(&view, None, &mut scratch);
        drop((in_lane, closed));
        self.wrote();
        self.session.closing = false;
        true
    }
}

/// Whether nobody may run beside it: it touches keys it does not name.
fn runs_alone(worker: &Worker, request: &Request<'_>) -> bool {
    let resolved = worker.node.table.resolve(&request.argv);
    request.ahead.is_some()
        || resolved.is_ok_and(|resolved| {
            resolved.row.command.flags.has(Flags::WRITE) && !matches!(resolved.row.run, Run::OnKeys(_))
        })
        || is_script(worker, request)
}

fn is_script(worker: &Worker, request: &Request<'_>) -> bool {
    let name = request.argv.first().copied().unwrap_or_default();
    let looks_like =
        name.len() >= 4 && (name[..4].eq_ignore_ascii_case(b"eval") || name[..4].eq_ignore_ascii_case(b"fcal"));
    looks_like && worker.node.table.resolve(&request.argv).is_ok()
}

/// The text of an error reply.
pub(super) fn error(reply: &[u8]) -> Option<String> {
    let text = reply.strip_prefix(b"-")?;
    let end = text.iter().position(|byte| matches!(byte, b'\r' | b'\n')).unwrap_or(text.len());
    Some(String::from_utf8_lossy(&text[..end]).into_owned())
}

/// Which limit keeps the source's keys out, and what to do about it.
fn no_room(memory: Memory, tenancy: &Tenancy) -> String {
    let tenant = if let Memory::OfTenant(owner) = memory { tenancy.get(owner) } else { None };
    match tenant {
        Some(of) if of.has_too_many_keys() => {
            format!("tenant {} has its keys of {}: raise that, or let some go (eviction)", of.name, of.limits.keys)
        }
        Some(of) => {
            format!(
                "tenant {} has its limit of {} bytes: raise that, or let keys go (eviction)",
                of.name, of.limits.limit
            )
        }
        None => "maxmemory of this cluster is reached: raise it, or choose a policy that evicts".to_owned(),
    }
}
