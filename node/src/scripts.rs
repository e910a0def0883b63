//! Scripts and functions: where they run, what they may do, how they are stopped.
//!
//! ```text
//!   EVAL ─► known to be quick? ─yes─► here, between two commands of the batch ─┐  corridor closed,
//!                              └─no──► the script thread, the client waits ────┴► machine ─► each redis.call: gate ─► shards
//! ```
//! A script runs alone with whatever its user can touch ([`Extent`]): with everything, or with the keys of its tenant or of a
//! confined user while others go on beside it. So it is one step whatever keys it touches; every call it makes passes the gate
//! as its user, with the keys of that very call. A script nobody has seen yet, or that was slow, runs on a thread for
//! that ([`crate::bench`]): data threads stay free to serve others, and to stop it. Whoever made a data thread wait once
//! is not trusted with one for a while. A script ends at the limit of its tenant (`script-ms`); what it wrote until then stays.
//!
//! Each confined user has a Lua machine of its own: its scripts and libraries exist for nobody else, and nobody else's
//! for it, but for the functions of the platform, which it may call and not change ([`machines`]).
//!
//! This file knows no Lua; [`keyward_script`] knows no Redis. It is long because a script's whole way is in it, one step after
//! the other.

use crate::batch::{Batch, Flow, Prepared, has_part, show_line};
use crate::bench::{Bench, Work};
use crate::connection::{Lane, renew};
use crate::corridor::{Closed, Entry, Extent, InLane, SCRIPT_THREADS};
use crate::gate::{self, KeyBuffer, Memory, Refusal};
use crate::large;
use crate::memory::{full_owner, note_owners};
use crate::node::Node;
use crate::pace;
use crate::patience;
use crate::pause::Paused;
use crate::routes::Routes;
use crate::tracking::Tracker;
use crate::view::View;
use crate::worker::{Scratch, Worker, note_full, now_us};
use keyward_acl::{ErrorDetail, Glob};
use keyward_engine::account::Tally;
use keyward_engine::asks::{Program, RestorePolicy, ScriptCall, ScriptCare};
use keyward_engine::command::{Flags, Group, Run};
use keyward_engine::effects::Effects;
use keyward_engine::error::CommandError;
use keyward_engine::keyspace::SpaceId;
use keyward_engine::reply::{Protocol, Reply};
use keyward_engine::scope::{Owner, Reach};
use keyward_engine::session::{Payer, Session};
use keyward_engine::table::{Resolved, Row};
use keyward_engine::tenancy::SCRIPT_MS;
use keyward_engine::types::{Ended, Patience};
use keyward_proto::resp::Decoder;
use keyward_script::{
    CallOptions, Host, Interrupt, Invocation, LogLevel, Machine, MachineStats, Outcome, Replication, Resp, ScriptFlags,
    Sha,
};
use machines::Machines;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

mod machines;

/// A script that took less than this may run on the thread that read it, next time.
const QUICK: Duration = Duration::from_millis(2);

/// A script that takes longer than this where it was read, and has written nothing, ends there and begins anew on the script
/// thread: it was thought to be quick and is not.
const QUICK_AT_MOST: Duration = Duration::from_millis(20);

/// How often a program of a confined user must have been quick before it is thought to be.
const QUICK_RUNS: u32 = 8;

/// How long whoever made a data thread wait does not run scripts on one: so one that wrote first, and cannot be moved, holds
/// up others for `script-ms` once a day and node.
const DISTRUST: Duration = Duration::from_secs(86_400);

/// Programs remembered as quick; when there are more, all are forgotten and learned anew.
const QUICK_MAX: usize = 10_000;

/// How long a library may take to load. Redis allows as much.
const LOAD_TIMEOUT: Duration = Duration::from_millis(500);

const NOT_BUSY: &str = "NOTBUSY No scripts in execution right now.";

const UNKILLABLE: &str = "UNKILLABLE Sorry the script already executed write commands against the dataset. You can \
    either wait the script termination or kill the server in a hard way using the SHUTDOWN NOSAVE command.";

/// The program under way.
struct Running {
    /// Who began it.
    owner: Owner,
    function: Option<String>,
    command: Vec<Vec<u8>>,
    since: Instant,
    wrote: AtomicBool,
    /// Why it was asked to end, if it was.
    ends: OnceLock<End>,
}

/// Why a program is asked to end.
enum End {
    /// Somebody said so.
    Killed,
    /// Its node stops.
    AtStop,
}

/// A program in the list of those under way, for as long as it is, also if it ends in a panic.
struct Listed<'s>(&'s Scripts, &'s Arc<Running>);

impl<'s> Listed<'s> {
    fn new(scripts: &'s Scripts, running: &'s Arc<Running>) -> Listed<'s> {
        scripts.running.lock().push(Arc::clone(running));
        Listed(scripts, running)
    }
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        self.0.running.lock().retain(|known| !Arc::ptr_eq(known, self.1));
    }
}

/// A script that was run.
#[derive(Default)]
pub struct Ran {
    /// Its reply.
    pub reply: Vec<u8>,
    /// How many commands it called.
    pub calls: u64,
}

/// Everything about scripts on one node.
pub struct Scripts {
    machines: Mutex<Machines>,
    /// Programs under way, the oldest first.
    running: Mutex<Vec<Arc<Running>>>,
    /// How often programs have been quick so far.
    quick: Mutex<HashMap<Vec<u8>, u32>>,
    /// Who made a data thread wait, and when.
    distrusted: Mutex<HashMap<Owner, Instant>>,
    bench: Bench,
}

impl Scripts {
    /// None known yet. The Lua states of the platform may take `memory_bytes_max` each.
    pub fn new(memory_bytes_max: usize) -> Scripts {
        Scripts {
            machines: Mutex::new(Machines::new(memory_bytes_max)),
            running: Mutex::default(),
            quick: Mutex::default(),
            distrusted: Mutex::default(),
            bench: Bench::default(),
        }
    }

    /// Starts the threads of unknown and slow work. They end with the process.
    pub fn start(node: &Arc<Node>) -> std::io::Result<()> {
        // Each group has its own, behind those that read from clients.
        let first = node.config.threads + SCRIPT_THREADS * node.group.0 as usize;
        for (index, counters) in node.counters.iter().enumerate().skip(first).take(SCRIPT_THREADS) {
            let (node, counters) = (Arc::clone(node), Arc::clone(counters));
            let work = move || {
                let worker = Worker::new(Arc::clone(&node), index, counters);
                loop {
                    node.scripts.bench.work_one(&worker);
                }
            };
            std::thread::Builder::new().name(format!("keyward-slow-{}", index - first)).spawn(work)?;
        }
        Ok(())
    }

    /// Where slow work waits.
    pub fn bench(&self) -> &Bench {
        &self.bench
    }

    /// Has a script run apart from the data threads. The keys it reads go to the cache of `tracker`.
    pub async fn run_elsewhere(
        &self,
        session: Session,
        call: ScriptCall,
        owner: Owner,
        tracker: Option<Arc<Tracker>>,
    ) -> Result<Ran, ScriptCall> {
        let protocol = session.protocol;
        let (answer, answered) = oneshot::channel();
        let of = owner.clone();
        let sent = self.bench.put(of, Errand { session, call, owner, tracker, answer }.into_work());
        match answered.await {
            Ok(ran) if sent => ran,
            _ => Ok(Ran { reply: error_reply(protocol, "ERR too many scripts are waiting"), calls: 0 }),
        }
    }

    fn is_quick(&self, name: &[u8], owner: &Owner) -> bool {
        let runs = self.quick.lock().get(name).copied().unwrap_or(0);
        if *owner == Owner::Platform {
            return runs > 0;
        }
        runs >= QUICK_RUNS && !self.distrusts(owner)
    }

    /// Whether a script of this owner made others wait on a data thread.
    pub(crate) fn distrusts(&self, owner: &Owner) -> bool {
        self.distrusted.lock().get(owner).is_some_and(|since| since.elapsed() <= DISTRUST)
    }

    /// Whether this request runs a program that is not known to be quick.
    pub(crate) fn may_be_slow(&self, row: &Row, argv: &[&[u8]], owner: &Owner) -> bool {
        let program: fn(Vec<u8>) -> Program = match row.full_name {
            "eval" | "eval_ro" => Program::Text,
            "evalsha" | "evalsha_ro" => Program::Hash,
            "fcall" | "fcall_ro" => Program::Function,
            _ => return false,
        };
        argv.get(1).is_some_and(|text| !self.is_quick(&name_of(&program(text.to_vec()), owner), owner))
    }

    /// `here`: on a data thread.
    fn learn(&self, name: Vec<u8>, owner: &Owner, here: bool, took: Duration) {
        let mut quick = self.quick.lock();
        if took > QUICK {
            quick.remove(&name);
            if took > QUICK_AT_MOST && here && *owner != Owner::Platform {
                let mut distrusted = self.distrusted.lock();
                distrusted.retain(|_, since| since.elapsed() <= DISTRUST);
                distrusted.insert(owner.clone(), Instant::now());
            }
            return;
        }
        if quick.len() >= QUICK_MAX {
            quick.clear();
        }
        let runs = quick.entry(name).or_insert(0);
        *runs = runs.saturating_add(1);
    }

    /// How long the oldest program under way has been running, if there is one.
    pub fn running_for(&self) -> Option<Duration> {
        self.running.lock().first().map(|running| running.since.elapsed())
    }

    /// Ends what has been running for so long without having written: the node stops, and nobody would miss it. What has
    /// written goes on: half of it is not to be kept.
    pub fn end_at_stop(&self, longer_than: Duration) {
        let running = self.running.lock();
        let idle = |one: &&Arc<Running>| one.since.elapsed() > longer_than && !one.wrote.load(Ordering::Relaxed);
        running.iter().filter(idle).for_each(|one| drop(one.ends.set(End::AtStop)));
    }

    /// The libraries' texts, for snapshots.
    pub fn library_codes(&self) -> Vec<Vec<u8>> {
        self.machines.lock().codes()
    }

    /// Takes libraries from a snapshot.
    pub fn restore_codes(&self, codes: &[Vec<u8>]) {
        self.keep(&mut self.machines.lock(), codes);
    }

    /// Does what the primary did to its libraries: `FUNCTION LOAD`, `DELETE`, `RESTORE` or `FLUSH`, as it wrote them down. What it
    /// could load is loaded here once it is needed; that it may fail here, or take too long, concerns its owner alone.
    pub fn carry_out(&self, argv: &[&[u8]]) -> Result<(), String> {
        let mut machines = self.machines.lock();
        match argv {
            [b"FUNCTION", b"LOAD", b"REPLACE", code] => self.keep(&mut machines, &[code.to_vec()]),
            [b"FUNCTION", b"DELETE", name] => {
                let (owner, name) = machines::read(name);
                machines.of(&owner).lock().delete_library(name);
            }
            [b"FUNCTION", b"RESTORE", payload, policy, owner @ ..] => {
                let owner = unmarked(owner);
                if *policy == b"FLUSH" {
                    machines.of(&owner).lock().flush_libraries();
                }
                let codes: Vec<_> = read_libraries(payload)?.iter().map(|code| machines::mark(&owner, code)).collect();
                self.keep(&mut machines, &codes);
            }
            [b"FUNCTION", b"FLUSH", owner @ ..] => machines.of(&unmarked(owner)).lock().flush_libraries(),
            _ => return Err("ERR this is no effect of any command".to_owned()),
        }
        Ok(())
    }

    /// Has these libraries and no others.
    pub fn replace_codes(&self, codes: &[Vec<u8>]) {
        let mut machines = self.machines.lock();
        machines.flush_libraries();
        self.keep(&mut machines, codes);
    }

    /// Libraries of the platform are loaded now, so that one that cannot be is known before it is called.
    fn keep(&self, machines: &mut Machines, codes: &[Vec<u8>]) {
        // Functions that were quick may not be, or be others.
        self.quick.lock().clear();
        let kept = machines.keep(codes);
        let platform = machines.of(&Owner::Platform);
        let loaded = platform.lock().load_waiting(None, || Some(LoadHost::for_one()));
        for error in [kept, loaded].into_iter().filter_map(Result::err) {
            tracing::error!(%error, "a library of functions is kept, but its functions cannot be called");
        }
    }

    /// What the machine of one owner holds.
    pub fn sizes_of(&self, owner: &Owner) -> MachineStats {
        self.machines.lock().sizes(Some(owner))
    }

    /// What all machines hold.
    pub fn sizes(&self) -> MachineStats {
        self.machines.lock().sizes(None)
    }
}

fn error_reply(protocol: Protocol, text: &str) -> Vec<u8> {
    let mut reply = Reply::new(protocol);
    reply.error(text);
    reply.bytes
}

/// What a program is remembered by.
fn name_of(program: &Program, owner: &Owner) -> Vec<u8> {
    let name = match program {
        Program::Text(text) => Sha::of(text).to_string().into_bytes(),
        Program::Hash(hash) => hash.to_ascii_lowercase(),
        Program::Function(name) => [b"function ".as_slice(), &name.to_ascii_lowercase()].concat(),
    };
    machines::mark(owner, &name)
}

/// A script on its way to a thread for slow work.
struct Errand {
    session: Session,
    call: ScriptCall,
    owner: Owner,
    tracker: Option<Arc<Tracker>>,
    answer: oneshot::Sender<Result<Ran, ScriptCall>>,
}

impl Errand {
    fn into_work(self) -> Work {
        Work::trying(|worker| serve(worker, self).map(Errand::into_work))
    }
}

/// Runs one script on a thread for slow work; it comes back if it cannot begin yet.
fn serve(worker: &Worker, errand: Errand) -> Option<Errand> {
    let Errand { mut session, call, owner, tracker, answer } = errand;
    // Whoever asked may have left.
    if answer.is_closed() {
        return None;
    }
    let keys = || call.keys.iter().map(Vec::as_slice);
    let memory = look_for_memory(worker, &session, keys());
    let (closed, (generation, view)) = match be_alone(worker, &mut session, keys()) {
        Ok(alone) => alone,
        Err(NotAlone::UserGone) => return None,
        Err(NotAlone::NotYet) => return Some(Errand { session, call, owner, tracker, answer }),
        Err(NotAlone::Shifted) => {
            let reply = error_reply(session.protocol, SHIFTED);
            // A client that left meanwhile needs no reply.
            let _ = answer.send(Ok(Ran { reply, calls: 0 }));
            return None;
        }
    };
    if !view.is_primary() {
        // The same, if it need not be asked anew.
        let _ = answer.send(Err(call));
        return None;
    }
    let hot = worker.hot();
    let lane = Lane::new(Decoder::new(hot.decoder.clone()), generation, Arc::clone(&view));
    let began = Instant::now();
    let mut scratch = worker.scratch.borrow_mut();
    let conditions = worker.conditions(&view, &hot);
    let mut batch = Batch::new(worker, None, worker.now_ms(), conditions, hot);
    batch.tracker = tracker;
    batch.conditions.memory = memory;
    batch.tab.open(&session);
    let ran = batch.run_script(&session, &lane, (&call, &owner), Place::ScriptThread(&closed), &mut scratch);
    batch.serve_ready(&view, Some(&closed).filter(|closed| closed.is_part()), &mut scratch);
    let ready = std::mem::take(&mut scratch.calls.ready);
    worker.node.shards.tracking.deliver();
    drop((batch, closed));
    let ran = ran.unwrap_or_default();
    let time = began.elapsed();
    let cpu_ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let work = ran.calls + pace::weight_of(time);
    let tally = Tally { operations: ran.calls, work, cpu_ns, ..Tally::default() };
    pace::charge(worker, session.login.as_ref(), &tally, pace::now_ns());
    // A client that left meanwhile needs no reply.
    let _ = answer.send(Ok(ran));
    serve_later(worker, ready);
    None
}

/// Why slow work does not begin.
pub(crate) enum NotAlone {
    /// The user is gone, or must log in anew.
    UserGone,
    /// Its keys are another group's now.
    Shifted,
    /// Somebody else is alone with some of them, or writes are held back: later.
    NotYet,
}

/// Closes everything that the session's user can touch, by the rules that hold then; answers what holds of who serves the data
/// and which group has which keys. While writes are held back, whoever is handed the data over needs them not to come.
/// It does not wait: what cannot begin yet takes no thread from others' work.
pub(crate) fn be_alone<'w, 'k>(
    worker: &'w Worker,
    session: &mut Session,
    mut keys: impl Iterator<Item = &'k [u8]> + Clone,
) -> Result<(Closed<'w>, (u64, Arc<View>)), NotAlone> {
    let node = &worker.node;
    // What clients ask to wait waited before it came here; a hand-over takes along what is written until its pause.
    let is_held = |tenant| {
        let barred = node.bar.is_active() && node.bar.bars_one(tenant, keys.clone());
        barred || matches!(node.pause.state(worker.now_ms()), Paused::Moving | Paused::All)
    };
    // Before others are kept waiting for nothing, and again when nobody else comes in between.
    if is_held(session.tenant) {
        return Err(NotAlone::NotYet);
    }
    let extent = Extent::of(session);
    let closed = match (node.corridor.try_close(None, &extent), &extent) {
        (Some(closed), _) => closed,
        (None, Extent::Part(_)) => return Err(NotAlone::NotYet),
        (None, Extent::Everything) => {
            let Some(_camp) = node.scripts.bench.camp() else { return Err(NotAlone::NotYet) };
            node.corridor.close_extent(&extent)
        }
    };
    let known = node.views.load();
    if !renew(session, &known.1) {
        return Err(NotAlone::UserGone);
    }
    // New rules may let it touch more than what was closed by the old ones.
    let suffices = extent.covers(&Extent::of(session));
    if !suffices || is_held(session.tenant) {
        return Err(NotAlone::NotYet);
    }
    let strays = |routes: &Arc<Routes>| keys.any(|key| routes.of_key(session.tenant, key) != known.1.of);
    if known.1.routes.as_ref().is_some_and(strays) { Err(NotAlone::Shifted) } else { Ok((closed, known)) }
}

/// Whether memory is short, after keys were evicted: before anybody is alone, for whoever is finds its keys as they are.
pub(crate) fn look_for_memory<'k>(worker: &Worker, session: &Session, keys: impl Iterator<Item = &'k [u8]>) -> Memory {
    let corridor = &worker.node.corridor;
    loop {
        if matches!(corridor.enter(worker.lane), Entry::Entered | Entry::Beside(_)) {
            let _in_lane = InLane::new(corridor, worker.lane);
            let (view, hot) = (worker.node.views.load().1, worker.hot());
            let batch = Batch::new(worker, None, worker.now_ms(), worker.conditions(&view, &hot), hot);
            return batch.memory_for(session, &view, keys);
        }
        std::thread::sleep(ENTER_PAUSE);
    }
}

/// What becomes of a transaction that was to run apart when the data had moved: its client may send it again.
pub(crate) const MOVED: &str = "TRYAGAIN the data is served by another node by now; nothing of the transaction was run";

pub(crate) const SHIFTED: &str = "TRYAGAIN the keys of the script were moved to another shard group; nothing was run";

/// Before those are looked at again who wait for keys that a slow script has.
const LATER_PAUSE: Duration = Duration::from_millis(1);

/// Between two tries to enter.
const ENTER_PAUSE: Duration = Duration::from_micros(50);

/// Those who wait for these keys are served once nobody is alone with any.
pub(crate) fn serve_later(worker: &Worker, ready: Vec<(SpaceId, Vec<u8>)>) {
    if ready.is_empty() {
        return;
    }
    let work = move |worker: &Worker| {
        let corridor = &worker.node.corridor;
        let beside = loop {
            match corridor.enter(worker.lane) {
                Entry::Entered => break None,
                // Those who wait for a key of such a part are served after it.
                Entry::Beside(parts) => break Some(parts),
                Entry::Closed | Entry::Busy => {}
            }
            std::thread::sleep(ENTER_PAUSE);
        };
        let in_lane = InLane::new(corridor, worker.lane);
        let (view, hot) = (worker.node.views.load().1, worker.hot());
        let mut scratch = worker.scratch.borrow_mut();
        scratch.calls.ready = ready;
        let mut batch = Batch::new(worker, None, worker.now_ms(), worker.conditions(&view, &hot), hot);
        let waits = beside.is_some();
        batch.beside = beside;
        batch.serve_ready(&view, None, &mut scratch);
        worker.node.shards.tracking.deliver();
        worker.node.replication.log.tell();
        let later = std::mem::take(&mut scratch.calls.ready);
        drop((batch, scratch, in_lane));
        if waits && !later.is_empty() {
            std::thread::sleep(LATER_PAUSE);
            serve_later(worker, later);
        }
    };
    worker.node.scripts.bench.put_certainly(Owner::Platform, Work::once(work));
}

impl Batch<'_, '_> {
    /// A script is to be run: here if it is known to be quick or must be, else on the script thread.
    pub(crate) fn script(
        &mut self,
        call: ScriptCall,
        reach: &Reach,
        session: &mut Session,
        lane: &Lane,
        scratch: &mut Scratch,
    ) -> Flow {
        let owner = reach.owner();
        let quick = self.worker.node.scripts.is_quick(&name_of(&call.program, &owner), &owner);
        if let Some(connection) = self.connection {
            *connection.script_tracker.borrow_mut() = self.caches();
        }
        if !quick && !self.is_executing() {
            let ask = keyward_engine::asks::Ask::RunScript(call);
            return Flow::Stop(Box::new(crate::connection::Next::Ask(Box::new((ask, reach.clone())))));
        }
        let corridor = &self.worker.node.corridor;
        // Within a transaction it is closed already.
        let ran = if self.is_executing() {
            self.run_script(session, lane, (&call, &owner), Place::InTransaction, scratch)
        } else {
            let shards = &self.worker.node.shards;
            if shards.keeps_any() && shards.keeps(call.keys.iter().map(Vec::as_slice)) {
                return Flow::Closed;
            }
            // Before anybody is alone: whoever is finds its keys as they are, and nobody evicts one.
            self.conditions.memory = self.memory_for(session, &lane.view, call.keys.iter().map(Vec::as_slice));
            let Some(closed) = corridor.try_close(Some(self.worker.lane), &Extent::of(session)) else {
                return Flow::Closed;
            };
            self.beside = Some(closed.beside()).filter(|parts| !parts.is_empty());
            self.run_script(session, lane, (&call, &owner), Place::WhereRead(&closed), scratch)
        };
        match ran {
            Some(ran) => {
                session.commands += ran.calls;
                self.tab.tally.operations += ran.calls;
                self.tab.tally.work += ran.calls;
                scratch.reply.raw(&ran.reply);
                Flow::Continue
            }
            None => {
                let ask = keyward_engine::asks::Ask::RunScript(call);
                Flow::Stop(Box::new(crate::connection::Next::Ask(Box::new((ask, reach.clone())))))
            }
        }
    }

    /// Runs a script; the caller has the corridor. `None`: it must begin anew on the script thread.
    fn run_script(
        &mut self,
        session: &Session,
        lane: &Lane,
        (call, owner): (&ScriptCall, &Owner),
        place: Place<'_>,
        scratch: &mut Scratch,
    ) -> Option<Ran> {
        let scripts = &self.worker.node.scripts;
        if let Program::Function(name) = &call.program
            && !self.look_for_function(name, owner, session, place)
        {
            return None;
        }
        let machine = {
            let mut machines = scripts.machines.lock();
            let machine = machines.that_runs(&call.program, owner);
            payer_of_texts(session, owner).iter().for_each(|payer| machines.are_paid_by(owner, &payer.holdings));
            machine
        };
        // Only a function of the platform is run by several owners: a data thread does not wait for another's run.
        let mut machine = match place {
            Place::WhereRead(_) => machine.try_lock()?,
            Place::InTransaction | Place::ScriptThread(_) => machine.lock(),
        };
        let machine = &mut *machine;
        let (Program::Text(program) | Program::Hash(program) | Program::Function(program)) = &call.program;
        let head =
            [session.last_command.as_bytes().to_vec(), program.clone(), call.keys.len().to_string().into_bytes()];
        let command: Vec<Vec<u8>> = head.into_iter().chain(call.keys.iter().chain(&call.args).cloned()).collect();
        // Before what it calls, and also if it is refused.
        let show = || {
            if self.worker.node.monitors.is_active() {
                let argv: Vec<&[u8]> = command.iter().map(Vec::as_slice).collect();
                show_line(self.worker, session, &session.address, &argv);
            }
        };
        let refuse = |text: &str| Some(Ran { reply: error_reply(session.protocol, text), calls: 0 });
        if let Program::Text(text) = &call.program
            && machine.script(&Sha::of(text)).is_none()
            && let Some(why) = has_no_room(machine, session, owner, text.len())
        {
            show();
            return refuse(&why);
        }
        let (sha, flags, function) = match &call.program {
            Program::Text(text) => match machine.load_script(text, false) {
                Ok(sha) => {
                    note_texts(machine, session, owner);
                    (Some(sha), machine.script(&sha).map(|script| script.flags), None)
                }
                Err(text) => {
                    show();
                    return refuse(&text);
                }
            },
            Program::Hash(hash) => {
                let sha = Sha::parse(hash);
                let flags = sha.and_then(|sha| machine.script(&sha)).map(|script| script.flags);
                (sha.filter(|_| flags.is_some()), flags, None)
            }
            Program::Function(name) => {
                let function = machine.function(name);
                (None, function.map(|function| function.flags), function.map(|function| function.name.clone()))
            }
        };
        let Some(flags) = flags else {
            show();
            let text = match (&call.program, machine.broken()) {
                (Program::Function(_), Some((library, why))) => {
                    &format!("ERR Function not found; library '{library}' cannot be loaded: {why}")
                }
                (Program::Function(_), None) => "ERR Function not found",
                _ => "NOSCRIPT No matching script. Please use EVAL.",
            };
            return refuse(text);
        };
        if let Some(text) = self.forbids(flags, call, session) {
            if text.starts_with("OOM") {
                note_full(session);
            }
            show();
            return refuse(text);
        }
        show();
        let began = Instant::now();
        let thawed = self.freeze_time();
        let running = Arc::new(Running {
            owner: owner.clone(),
            function: function.clone(),
            command,
            since: began,
            wrote: AtomicBool::new(false),
            ends: OnceLock::new(),
        });
        let listed = Listed::new(scripts, &running);
        if place.closed().is_some() {
            self.begin_step(place.closed().is_some_and(|closed| closed.is_part()));
        }
        let keys: Vec<&[u8]> = call.keys.iter().map(Vec::as_slice).collect();
        let args: Vec<&[u8]> = call.args.iter().map(Vec::as_slice).collect();
        let client = if session.protocol == Protocol::Resp3 { Resp::Three } else { Resp::Two };
        let (request_bytes_max, reply_bytes_max) = (self.hot.decoder.request_bytes_max, self.reply_bytes_max());
        let invocation = Invocation { keys: &keys, args: &args, client, request_bytes_max, reply_bytes_max };
        let mut host = ScriptHost {
            batch: self,
            session: session.for_later(),
            lane,
            scratch,
            reads_only: call.read_only || flags.no_writes,
            may_exceed: flags.allow_oom,
            is_function: function.is_some(),
            began,
            ends_after: ends_after(session),
            running: &running,
            wrote: false,
            place,
            moves: false,
            looked_under: lane.generation,
            by_now: None,
            withdrawn: false,
            last_error: None,
        };
        let mut out = Vec::new();
        let outcome = match (&sha, &function) {
            (Some(sha), _) => machine.run_script(sha, &invocation, &mut host, &mut out),
            (None, Some(name)) => machine.run_function(name.as_bytes(), &invocation, &mut host, &mut out),
            (None, None) => None,
        };
        let calls = host.session.commands;
        let (moves, last_error) = (host.moves, host.last_error.take());
        if place.closed().is_some() {
            self.end_step();
        }
        self.let_time_pass(thawed);
        drop(listed);
        let here = self.worker.lane < self.worker.node.config.threads;
        scripts.learn(name_of(&call.program, owner), owner, here, began.elapsed());
        if moves {
            scripts.quick.lock().remove(&name_of(&call.program, owner));
            return None;
        }
        if let Some(error) = last_error {
            // What a call said and the script says as well is one error reply, and whoever sends that counts it.
            let is_said = out.split_first().is_some_and(|(kind, said)| *kind == b'-' && said.starts_with(&error));
            if !is_said {
                self.worker.note_error(session, &error);
            }
        }
        if outcome.is_none() {
            return refuse("NOSCRIPT No matching script. Please use EVAL.");
        }
        if outcome == Some(Outcome::TooLong) || out.len() > reply_bytes_max {
            return refuse(&self.worker.hot().reply_too_long(session));
        }
        Some(Ran { reply: out, calls })
    }

    /// Loads what must be loaded before it is known which function is meant: the caller's own come first, then the platform's.
    /// False: not here, but on the script thread.
    fn look_for_function(&self, name: &[u8], owner: &Owner, session: &Session, place: Place<'_>) -> bool {
        let machines = &self.worker.node.scripts.machines;
        for owner in [owner, &Owner::Platform] {
            let Some(machine) = machines.lock().known(owner) else { continue };
            let machine = if matches!(place, Place::WhereRead(_)) { machine.try_lock() } else { Some(machine.lock()) };
            let Some(mut machine) = machine else { return false };
            if machine.lacks(name) {
                let patience = match place {
                    Place::WhereRead(_) => return false,
                    Place::InTransaction if !self.is_apart() && *owner != Owner::Platform => QUICK_AT_MOST,
                    _ => ends_after(session).unwrap_or(Duration::MAX),
                };
                let began = Instant::now();
                let host = || (began.elapsed() < patience).then(|| LoadHost::until(began, patience));
                if let Err(error) = machine.load_waiting(Some(name), host) {
                    tracing::debug!(?owner, %error, "a function was looked for");
                }
            }
            if machine.function(name).is_some() {
                break;
            }
        }
        true
    }

    /// Why a program with these flags may not begin now.
    fn forbids(&self, flags: ScriptFlags, call: &ScriptCall, session: &Session) -> Option<&'static str> {
        if flags.unspecified {
            return None;
        }
        if call.read_only && !flags.no_writes {
            return Some("ERR Can not execute a script with write flag using *_ro command.");
        }
        if self.conditions.memory != Memory::Enough && !flags.allow_oom && !flags.no_writes {
            return Some("OOM allow-oom flag is not set on the script, can not run it when used memory > 'maxmemory'");
        }
        if self.conditions.too_few(session) && !flags.no_writes {
            return Some("NOREPLICAS Not enough good replicas to write.");
        }
        None
    }

    /// Takes care of scripts and libraries. False: not done, since one of this owner's scripts runs.
    pub(crate) fn care_for_scripts(
        &self,
        care: &ScriptCare,
        reach: &Reach,
        session: &Session,
        reply: &mut Reply,
    ) -> bool {
        let scripts = &self.worker.node.scripts;
        let owner = reach.owner();
        match care {
            ScriptCare::Kill { function } => {
                let runs = |of: &&Arc<Node>| of.scripts.running.lock().iter().any(|running| concerns(running, &owner));
                let busy = self.worker.node.groups().iter().find(runs);
                kill(busy.map_or(scripts, |of| &of.scripts), *function, &owner, reply);
                return true;
            }
            ScriptCare::ShowStats => {
                show_stats(scripts, &owner, reply);
                return true;
            }
            _ => {}
        }
        let machine = {
            let mut machines = scripts.machines.lock();
            let machine = machines.of(&owner);
            payer_of_texts(session, &owner).iter().for_each(|payer| machines.are_paid_by(&owner, &payer.holdings));
            machine
        };
        if self.is_executing() || self.is_apart() {
            self.care_with(&mut machine.lock(), care, &owner, session, reply);
            return true;
        }
        let Some(mut machine) = machine.try_lock() else { return false };
        self.care_with(&mut machine, care, &owner, session, reply);
        true
    }

    fn care_with(&self, machine: &mut Machine, care: &ScriptCare, owner: &Owner, session: &Session, reply: &mut Reply) {
        let more = match care {
            ScriptCare::Load(text) | ScriptCare::LoadLibrary { code: text, .. } | ScriptCare::Restore(text, _) => {
                text.len()
            }
            _ => 0,
        };
        if more > 0
            && let Some(why) = has_no_room(machine, session, owner, more)
        {
            return reply.error(&why);
        }
        self.carry_out_care(machine, care, owner, session, reply);
        note_texts(machine, session, owner);
    }

    fn carry_out_care(
        &self,
        machine: &mut Machine,
        care: &ScriptCare,
        owner: &Owner,
        session: &Session,
        reply: &mut Reply,
    ) {
        // Who may touch everything keeps others waiting as on any server; who may not, and is on their thread, may hardly.
        let is_guest = *owner != Owner::Platform && !self.is_apart();
        let patience = if is_guest { QUICK_AT_MOST } else { LOAD_TIMEOUT };
        if matches!(care, ScriptCare::LoadLibrary { .. } | ScriptCare::Restore(..) | ScriptCare::ListLibraries { .. }) {
            let began = Instant::now();
            // Whether all could be is seen by whoever lists or calls them.
            let _ =
                machine.load_waiting(None, || (began.elapsed() < patience).then(|| LoadHost::until(began, patience)));
        }
        let mut host = LoadHost::until(Instant::now(), patience);
        let changed = match care {
            ScriptCare::Load(body) => match machine.load_script(body, true) {
                Ok(sha) => return reply.bulk(sha.to_string().as_bytes()),
                Err(text) => return reply.error(&text),
            },
            ScriptCare::Exists(hashes) => {
                reply.array(hashes.len());
                let known = |hash: &Vec<u8>| Sha::parse(hash).is_some_and(|sha| machine.script(&sha).is_some());
                return hashes.iter().for_each(|hash| reply.flag(known(hash)));
            }
            ScriptCare::Flush => {
                machine.flush_scripts();
                return reply.ok();
            }
            ScriptCare::Show(hash) => {
                return match Sha::parse(hash).and_then(|sha| machine.script(&sha).map(|script| script.body.clone())) {
                    Some(body) => reply.bulk(&body),
                    None => reply.error("NOSCRIPT No matching script. Please use EVAL."),
                };
            }
            ScriptCare::ListLibraries { pattern, with_code } => {
                return list_libraries(machine, pattern.as_deref(), *with_code, reply);
            }
            ScriptCare::Dump => {
                let codes: Vec<Vec<u8>> = machine.codes().iter().map(|code| code.to_vec()).collect();
                return reply.bulk(&keyward_engine::dump::libraries_payload(&codes));
            }
            ScriptCare::LoadLibrary { replace, code } => match machine.load_library(code, *replace, &mut host) {
                Ok(name) => {
                    reply.bulk(name.as_bytes());
                    vec![b"FUNCTION".to_vec(), b"LOAD".to_vec(), b"REPLACE".to_vec(), machines::mark(owner, code)]
                }
                Err(text) => return reply.error(&text),
            },
            ScriptCare::DeleteLibrary(name) if machine.delete_library(name) => {
                reply.ok();
                vec![b"FUNCTION".to_vec(), b"DELETE".to_vec(), machines::mark(owner, name)]
            }
            ScriptCare::DeleteLibrary(_) => return reply.error("ERR Library not found"),
            ScriptCare::Restore(payload, policy) => match restore(machine, payload, *policy, &mut host) {
                Ok(()) => {
                    reply.ok();
                    let word = match policy {
                        RestorePolicy::Append => "APPEND",
                        RestorePolicy::Flush => "FLUSH",
                        RestorePolicy::Replace => "REPLACE",
                    };
                    let words = [b"FUNCTION".to_vec(), b"RESTORE".to_vec(), payload.clone(), word.as_bytes().to_vec()];
                    words.into_iter().chain(marked(owner)).collect()
                }
                Err(text) => return reply.error(&text),
            },
            ScriptCare::FlushLibraries => {
                machine.flush_libraries();
                reply.ok();
                [b"FUNCTION".to_vec(), b"FLUSH".to_vec()].into_iter().chain(marked(owner)).collect()
            }
            ScriptCare::Kill { .. } | ScriptCare::ShowStats => return,
        };
        let mut effects = Effects::new();
        effects.changed(1);
        let argv: Vec<&[u8]> = changed.iter().map(Vec::as_slice).collect();
        // While its machine is locked, and not at the end of a transaction that others run beside: a library that somebody else
        // loads meanwhile must come later on every copy, too.
        self.worker.node.journal.append(session.space(), &argv, &effects);
    }
}

/// Why the owner's scripts and libraries may not be so much longer, if they may not. Those of EVAL go first.
fn has_no_room(machine: &mut Machine, session: &Session, owner: &Owner, more: usize) -> Option<String> {
    let login = session.login.as_ref().filter(|_| *owner != Owner::Platform)?;
    if login.payers.iter().all(|payer| payer.holdings.fits(more as u64)) {
        return None;
    }
    machine.forget_evaluated();
    note_texts(machine, session, owner);
    let refuses = |payer: &Payer| !payer.holdings.has_room(more as u64);
    login.payers.iter().position(refuses).map(|payer| login.holds_too_much(payer))
}

/// Whoever answers for an owner's scripts and libraries is told how long they are.
fn note_texts(machine: &Machine, session: &Session, owner: &Owner) {
    if let Some(payer) = payer_of_texts(session, owner) {
        payer.holdings.note_texts(machine.text_bytes() as u64);
    }
}

fn payer_of_texts<'s>(session: &'s Session, owner: &Owner) -> Option<&'s Payer> {
    let first = session.login.as_ref().and_then(|login| login.payers.first());
    first.filter(|_| *owner != Owner::Platform)
}

fn read_libraries(payload: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    keyward_engine::dump::read_libraries(payload)
        .map_err(|_| "ERR DUMP payload version or checksum are wrong".to_owned())
}

fn restore(machine: &mut Machine, payload: &[u8], policy: RestorePolicy, host: &mut dyn Host) -> Result<(), String> {
    let codes = read_libraries(payload)?;
    let policy = match policy {
        RestorePolicy::Append => keyward_script::RestorePolicy::Append,
        RestorePolicy::Flush => keyward_script::RestorePolicy::Flush,
        RestorePolicy::Replace => keyward_script::RestorePolicy::Replace,
    };
    machine.restore(&codes, policy, host)
}

/// The mark of an owner as a word of its own; none for the platform, so that its effects read as Redis' commands.
fn marked(owner: &Owner) -> Option<Vec<u8>> {
    (*owner != Owner::Platform).then(|| machines::mark(owner, b""))
}

/// The owner whose mark is the first word.
fn unmarked(words: &[&[u8]]) -> Owner {
    words.first().map_or(Owner::Platform, |mark| machines::read(mark).0)
}

/// Whether a program exists for this owner.
fn concerns(running: &Running, owner: &Owner) -> bool {
    *owner == Owner::Platform || running.owner == *owner
}

fn kill(scripts: &Scripts, function: bool, owner: &Owner, reply: &mut Reply) {
    let running = scripts.running.lock();
    match running.iter().find(|running| concerns(running, owner)) {
        None => reply.error(NOT_BUSY),
        Some(running) if running.function.is_some() != function => {
            reply.error(&Refusal::Busy.text(ErrorDetail::Redis));
        }
        Some(running) if running.wrote.load(Ordering::Relaxed) => reply.error(UNKILLABLE),
        Some(running) => {
            let _ = running.ends.set(End::Killed);
            reply.ok();
        }
    }
}

impl Scripts {
    /// Whether a cached script or a function has the flag `no-writes`. False too while a script runs: who asks may not wait.
    pub(crate) fn promises_not_to_write(&self, program: &[u8], owner: &Owner) -> bool {
        let machine = self.machines.lock().of(owner);
        let Some(machine) = machine.try_lock() else { return false };
        let script = Sha::parse(program).and_then(|sha| machine.script(&sha)).map(|script| script.flags);
        script.or_else(|| machine.function(program).map(|function| function.flags)).is_some_and(|flags| flags.no_writes)
    }
}

fn show_stats(scripts: &Scripts, owner: &Owner, reply: &mut Reply) {
    let sizes = scripts.machines.lock().sizes(Some(owner));
    let (libraries, functions) = (sizes.libraries, sizes.functions);
    reply.map(2);
    reply.bulk(b"running_script");
    match scripts.running.lock().iter().find(|running| concerns(running, owner)) {
        None => reply.null(),
        Some(running) => {
            reply.map(3);
            reply.bulk(b"name");
            reply.bulk(running.function.as_deref().unwrap_or("").as_bytes());
            reply.bulk(b"command");
            reply.array(running.command.len());
            running.command.iter().for_each(|word| reply.bulk(word));
            reply.bulk(b"duration_ms");
            reply.integer(running.since.elapsed().as_millis() as i64);
        }
    }
    reply.bulk(b"engines");
    reply.map(1);
    reply.bulk(b"LUA");
    reply.map(2);
    reply.bulk(b"libraries_count");
    reply.count(libraries);
    reply.bulk(b"functions_count");
    reply.count(functions);
}

fn list_libraries(machine: &Machine, pattern: Option<&[u8]>, with_code: bool, reply: &mut Reply) {
    let glob = pattern.map(|pattern| Glob::compile(&pattern.to_ascii_lowercase()));
    let fits = |name: &str| glob.as_ref().is_none_or(|glob| glob.matches(name.to_ascii_lowercase().as_bytes()));
    let loaded = machine.libraries().map(|library| (&*library.name, &*library.code, &*library.functions));
    // Of one that cannot be loaded nobody knows the functions.
    let waiting = machine.waiting().map(|(name, code)| (name, code, &[][..]));
    let mut shown: Vec<_> = loaded.chain(waiting).filter(|(name, ..)| fits(name)).collect();
    shown.sort_by_key(|(name, ..)| *name);
    reply.array(shown.len());
    for (name, code, functions) in shown {
        reply.map(if with_code { 4 } else { 3 });
        reply.bulk(b"library_name");
        reply.bulk(name.as_bytes());
        reply.bulk(b"engine");
        reply.bulk(b"LUA");
        reply.bulk(b"functions");
        reply.array(functions.len());
        for function in functions {
            reply.map(3);
            reply.bulk(b"name");
            reply.bulk(function.name.as_bytes());
            reply.bulk(b"description");
            match &function.description {
                Some(text) => reply.bulk(text.as_bytes()),
                None => reply.null(),
            }
            reply.bulk(b"flags");
            let flags: Vec<_> = function.flags.names().collect();
            reply.set(flags.len());
            flags.iter().for_each(|flag| reply.bulk(flag.as_bytes()));
        }
        if with_code {
            reply.bulk(b"library_code");
            reply.bulk(code);
        }
    }
}

/// Where a script runs.
#[derive(Clone, Copy)]
enum Place<'c> {
    /// On the data thread of its client.
    WhereRead(&'c Closed<'c>),
    /// There too, as part of a transaction.
    InTransaction,
    /// On a thread for slow work.
    ScriptThread(&'c Closed<'c>),
}

impl<'c> Place<'c> {
    /// What it is alone with by itself.
    fn closed(self) -> Option<&'c Closed<'c>> {
        match self {
            Place::WhereRead(closed) | Place::ScriptThread(closed) => Some(closed),
            Place::InTransaction => None,
        }
    }
}

/// How long a script of this user may run; what it wrote until then stays.
fn ends_after(session: &Session) -> Option<Duration> {
    let login = session.login.as_ref()?;
    let said = login.limit(|limits| limits.script_ms);
    // Of a tenant it is known what holds if nothing is said.
    let limit = if said == 0 && login.tenant.is_none() && login.policy.is_confined() { SCRIPT_MS } else { said };
    (limit > 0).then(|| Duration::from_millis(limit))
}

/// The world as a running script sees it.
struct ScriptHost<'h, 'w, 'a> {
    batch: &'h Batch<'w, 'a>,
    session: Session,
    lane: &'h Lane,
    scratch: &'h mut Scratch,
    reads_only: bool,
    may_exceed: bool,
    is_function: bool,
    began: Instant,
    /// The limit of its user or tenant.
    ends_after: Option<Duration>,
    running: &'h Arc<Running>,
    wrote: bool,
    place: Place<'h>,
    moves: bool,
    /// Under which view its user's rights were last looked at.
    looked_under: u64,
    /// What its user may do by now, if that changed since it began. It may do what it might then and may now.
    by_now: Option<Box<Session>>,
    /// By now its user is gone, off, or has other credentials.
    withdrawn: bool,
    /// The error the last failed call was answered with, not counted yet.
    last_error: Option<Vec<u8>>,
}

/// What a script hears whose user may not go on; what it wrote stays.
const WITHDRAWN: &str = "ERR the user of this script was changed or deleted while it ran";

/// Nobody hears it: what a script says that begins anew is not its answer.
const BEGINS_ANEW: &str = "ERR the script begins anew elsewhere";

/// No more is logged of what a confined user's script says, in bytes.
const LOGGED_BYTES_MAX: usize = 256;

/// No more of an error is kept than tells it from others, in bytes.
const ERROR_KEPT_BYTES: usize = 128;

impl ScriptHost<'_, '_, '_> {
    /// Whether the command may be called from this script; if not, the error.
    fn admit(&self, resolved: &Resolved<'static>, argv: &[&[u8]]) -> Result<(), String> {
        let row = resolved.row;
        let flags = row.command.flags;
        let worker = self.batch.worker;
        let not_counted = |text: &str| {
            worker.stats.refusals[usize::from(row.id)].add(1);
            Err(text.to_owned())
        };
        // Within a script these answer at once.
        let waits = matches!(row.full_name, "wait" | "waitaof");
        if flags.has(Flags::NOSCRIPT) || matches!(row.run, Run::Ask(_) | Run::AskOwner(_)) && !waits {
            return not_counted("ERR This Redis command is not allowed from script");
        }
        if self.reads_only && (flags.has(Flags::WRITE) || crate::meter::travels_to_replicas(row)) {
            return not_counted("ERR Write commands are not allowed from read-only scripts.");
        }
        if flags.has(Flags::WRITE) && self.batch.step_bytes() > worker.node.config.script_write_bytes.bytes() {
            return not_counted("ERR the script wrote more than script-write-bytes allows; what it wrote stays");
        }
        let mut conditions = self.batch.conditions;
        // Once it has written it must be able to finish.
        if self.may_exceed || self.wrote {
            conditions.memory = Memory::Enough;
        } else if conditions.memory == Memory::Enough && flags.has(Flags::DENYOOM) {
            conditions.memory = self.memory_for(row, argv);
        }
        let asks = [Some(&self.session), self.by_now.as_deref()];
        let refused = |session: &Session| {
            gate::admit(worker.node.table, row, argv, session, &conditions, &mut KeyBuffer::new()).err()
        };
        let Some(refusal) = asks.into_iter().flatten().find_map(refused) else { return Ok(()) };
        worker.refused(&self.session, row, &refusal, keyward_acl::LogContext::Lua);
        let text = refusal.explained(conditions.detail, &self.lane.view.tenancy);
        match refusal {
            Refusal::Denied(_) => {
                Err(format!("ERR ACL failure in script: {}", text.strip_prefix("NOPERM ").unwrap_or(&text)))
            }
            _ => Err(text),
        }
    }

    /// What its user may do is what it may do now, not when the script began.
    #[inline]
    fn keep_up(&mut self) -> Result<(), String> {
        let now = self.batch.worker.node.views.generation();
        if now != self.looked_under {
            self.look_again();
        }
        if self.withdrawn { Err(WITHDRAWN.to_owned()) } else { Ok(()) }
    }

    #[cold]
    fn look_again(&mut self) {
        let (generation, view) = self.batch.worker.node.views.load();
        self.looked_under = generation;
        let mut by_now = self.session.for_later();
        self.withdrawn |= !renew(&mut by_now, &view);
        self.by_now = Some(Box::new(by_now));
    }

    /// Whether there is memory for keys nobody named before: a script evicts nothing between its steps.
    fn memory_for(&self, row: &'static Row, argv: &[&[u8]]) -> Memory {
        let tenancy = &self.lane.view.tenancy;
        if !tenancy.bounds_memory() {
            return Memory::Enough;
        }
        let (mut keys, mut owners) = (KeyBuffer::new(), Vec::new());
        let writer = self.session.login.as_ref().and_then(|login| login.tenant.as_deref());
        note_owners(tenancy, writer, keys.written(self.batch.worker.node.table, row, argv), &mut owners);
        let full = full_owner(tenancy, self.batch.hot.eviction.policy, &owners);
        full.map_or(Memory::Enough, Memory::OfTenant)
    }

    /// Runs one command of the script and appends its answer.
    fn run(&mut self, argv: &[&[u8]], protocol: Protocol, reply: &mut Vec<u8>) -> Result<(), String> {
        let worker = self.batch.worker;
        let resolved = match worker.node.table.resolve(argv) {
            Ok(resolved) => resolved,
            Err(error @ CommandError::Arity(_)) => {
                worker.malformed_call(&error);
                return Err("ERR Wrong number of args calling command from script".to_owned());
            }
            Err(_) => return Err("ERR Unknown command called from script".to_owned()),
        };
        self.session.protocol = protocol;
        if let Some(answer) = crate::debug::in_script(worker, &self.session, self.lane, &resolved, argv) {
            reply.extend_from_slice(&answer);
            return Ok(());
        }
        self.keep_up()?;
        self.admit(&resolved, argv)?;
        let is_long = large::concerns(&self.session) && large::takes_long(worker, &self.session, resolved.row, argv);
        self.moves |= is_long && matches!(self.place, Place::WhereRead(_)) && !self.wrote && has_part(&self.session);
        if self.moves {
            return Err(BEGINS_ANEW.to_owned());
        }
        let mut keys = Vec::new();
        if is_long {
            worker.node.table.keys_of(resolved.row, argv, &mut keys);
        }
        let kept = worker.node.shards.keep(keys.iter().map(|named| named.key));
        self.note_write(resolved.row);
        let outer = std::mem::replace(&mut self.scratch.reply, Reply::new(protocol));
        self.scratch.reply.bytes_max = outer.bytes_max;
        let mut inner = self.batch.for_script(self.may_exceed || self.wrote);
        if is_long && inner.patience.is_none() {
            inner.patience = self.patience();
        }
        inner.answer(&mut self.session, self.lane, &Prepared::of(worker, argv), self.scratch);
        drop(kept);
        let answered = std::mem::replace(&mut self.scratch.reply, outer);
        reply.extend_from_slice(&answered.bytes);
        Ok(())
    }

    /// What a long command asks that this script runs now: it ends with the script.
    fn patience(&self) -> Option<Rc<Patience>> {
        let (running, began, ends_after) = (Arc::clone(self.running), self.began, self.ends_after);
        let ended = move || {
            let is_over = running.ends.get().is_some() || ends_after.is_some_and(|most| began.elapsed() > most);
            if is_over { Err(Ended("ERR the script of this command was ended".into())) } else { Ok(()) }
        };
        patience::within_script(&self.session, self.batch.worker.lane, ended)
    }

    #[cold]
    fn over_its_limit(&self, limit: Duration) -> String {
        let worker = self.batch.worker;
        let Some(login) = &self.session.login else { return "ERR the script ran for too long".to_owned() };
        login.accounts().for_each(|(_, account)| account.lane(worker.lane).scripts_ended.add(1));
        let (whose, ms) = (login.whose(|limits| limits.script_ms), limit.as_millis());
        let wrote = if self.wrote { ", and what it wrote until then stays" } else { "" };
        format!("ERR the script was ended at the script-ms of {whose}, {ms}{wrote}")
    }

    fn note_write(&mut self, row: &Row) {
        let flags = row.command.flags;
        if (flags.has(Flags::WRITE) || row.command.group == Group::PubSub) && !self.wrote {
            self.wrote = true;
            self.running.wrote.store(true, Ordering::Relaxed);
        }
    }
}

impl Host for ScriptHost<'_, '_, '_> {
    fn call(&mut self, argv: &[&[u8]], options: CallOptions, reply: &mut Vec<u8>) {
        let protocol = if options.resp == Resp::Three { Protocol::Resp3 } else { Protocol::Resp2 };
        let start = reply.len();
        if let Err(text) = self.run(argv, protocol, reply) {
            reply.truncate(start);
            reply.extend_from_slice(&error_reply(protocol, &text));
        }
        if let Some((b'-', said)) = reply[start..].split_first() {
            let end = said.iter().position(|byte| *byte == b'\r').unwrap_or(said.len()).min(ERROR_KEPT_BYTES);
            if let Some(earlier) = self.last_error.replace(said[..end].to_vec()) {
                self.batch.worker.note_error(&self.session, &earlier);
            }
        }
    }

    fn acl_check(&mut self, argv: &[&[u8]]) -> Result<bool, String> {
        let table = self.batch.worker.node.table;
        // Whether it may be used does not hang on how many arguments it has.
        let named = |name: &str| table.find(name.as_bytes());
        let row = match table.resolve(argv) {
            Ok(resolved) => Some(resolved.row),
            Err(CommandError::Arity(name)) => named(&name),
            Err(_) => None,
        };
        let Some(row) = row else {
            return Err("ERR Invalid command passed to server.acl_check_cmd()".to_owned());
        };
        let mut keys = KeyBuffer::new();
        let conditions = self.batch.conditions;
        let admitted = gate::admit(table, row, argv, &self.session, &conditions, &mut keys);
        Ok(!matches!(admitted, Err(Refusal::Denied(_) | Refusal::NotAuthenticated)))
    }

    fn log(&mut self, level: LogLevel, message: &[u8]) {
        // What is written there is for the operator: a tenant shall not fill a disk.
        if large::concerns(&self.session) {
            let shown = message[..message.len().min(LOGGED_BYTES_MAX)].escape_ascii();
            return tracing::debug!(message = %shown, "a confined user's script says");
        }
        let shown = message.escape_ascii();
        match level {
            LogLevel::Debug | LogLevel::Verbose => tracing::debug!(message = %shown, "a script says"),
            LogLevel::Notice => tracing::info!(message = %shown, "a script says"),
            LogLevel::Warning => tracing::warn!(message = %shown, "a script says"),
        }
    }

    fn set_replication(&mut self, _: Replication) {
        // What a script writes is always replicated: a replica that lacks some of it would be no replica.
    }

    fn interrupted(&mut self) -> Interrupt {
        match self.running.ends.get() {
            Some(End::Killed) => {
                let by = if self.is_function { "FUNCTION KILL" } else { "SCRIPT KILL" };
                return Interrupt::Stop(format!("ERR Script killed by user with {by}..."));
            }
            Some(End::AtStop) => return Interrupt::Stop("ERR the script was ended: this node stops".to_owned()),
            None => {}
        }
        if self.moves {
            return Interrupt::Stop(BEGINS_ANEW.to_owned());
        }
        if let Err(text) = self.keep_up() {
            return Interrupt::Stop(text);
        }
        let elapsed = self.began.elapsed();
        if let Some(limit) = self.ends_after.filter(|limit| elapsed > *limit) {
            return Interrupt::Stop(self.over_its_limit(limit));
        }
        match self.place {
            Place::WhereRead(_) if !self.wrote && elapsed > QUICK_AT_MOST => {
                self.moves = true;
                return Interrupt::Stop(BEGINS_ANEW.to_owned());
            }
            // It cannot move, and its thread can serve nobody who would end it.
            Place::InTransaction if !self.wrote && elapsed > self.batch.hot.busy_after => {
                let text = "ERR a script within a transaction ran for longer than busy-reply-threshold";
                return Interrupt::Stop(text.to_owned());
            }
            _ => {}
        }
        if elapsed > self.batch.hot.busy_after && self.place.closed().is_some_and(Closed::note_busy) {
            let ms = elapsed.as_millis();
            tracing::warn!(ms, "a slow script keeps others waiting; SCRIPT KILL ends it if it has not written");
        }
        Interrupt::Continue
    }

    fn random(&mut self) -> u32 {
        crate::random::quick() as u32
    }

    fn now_us(&mut self) -> u64 {
        now_us() as u64
    }
}

/// The world as a library sees it while it is loaded: empty, and soon over.
struct LoadHost {
    began: Instant,
    patience: Duration,
}

impl LoadHost {
    fn for_one() -> LoadHost {
        LoadHost::until(Instant::now(), LOAD_TIMEOUT)
    }

    /// For a library that is one of several, which have so long together.
    fn until(began: Instant, patience: Duration) -> LoadHost {
        let left = patience.saturating_sub(began.elapsed());
        LoadHost { began: Instant::now(), patience: left.min(LOAD_TIMEOUT) }
    }
}

impl Host for LoadHost {
    fn call(&mut self, _: &[&[u8]], _: CallOptions, reply: &mut Vec<u8>) {
        reply.extend_from_slice(b"-ERR redis.call can only be called inside a script invocation\r\n");
    }

    fn acl_check(&mut self, _: &[&[u8]]) -> Result<bool, String> {
        Err("ERR redis.acl_check_cmd can only be called inside a script invocation".to_owned())
    }

    fn log(&mut self, _: LogLevel, message: &[u8]) {
        // Whose it is is not known here.
        let shown = message[..message.len().min(LOGGED_BYTES_MAX)].escape_ascii();
        tracing::debug!(message = %shown, "a library says");
    }

    fn set_replication(&mut self, _: Replication) {}

    fn interrupted(&mut self) -> Interrupt {
        if self.began.elapsed() > self.patience {
            return Interrupt::Stop("ERR FUNCTION LOAD timeout".to_owned());
        }
        Interrupt::Continue
    }

    fn random(&mut self) -> u32 {
        crate::random::u64() as u32
    }

    fn now_us(&mut self) -> u64 {
        now_us() as u64
    }
}
