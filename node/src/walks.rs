//! Walks over so many keys that a data thread has no time for them: `KEYS`, `SCAN` of a great many at once, counting key by key.
//!
//! They run on a thread for slow work ([`crate::bench`]), shard by shard: between two of them everybody else runs, so a walk
//! over millions of keys keeps a neighbor waiting for as long as one shard takes. It is not one moment: a key that is
//! written meanwhile may be seen as it was or as it is, as with `SCAN`. Where there are few keys, and within transactions and
//! scripts, these commands run at once and as one step.

use crate::batch::{call_context, events_of};
use crate::bench::Work;
use crate::connection::{Connection, renew};
use crate::corridor::{Entry, InLane, Part};
use crate::gate::{self, KeyBuffer};
use crate::holding::Kept;
use crate::large;
use crate::node::Node;
use crate::observers::Watch;
use crate::pace;
use crate::patience::Left;
use crate::shards::{Apart, Call};
use crate::tracking::Tracker;
use crate::worker::Worker;
use keyward_engine::account::Tally;
use keyward_engine::command::Run;
use keyward_engine::keyspace::TenantId;
use keyward_engine::reply::Reply;
use keyward_engine::session::{ReplyMode, Session, Transaction};
use keyward_engine::table::Row;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Keys that a data thread walks over itself.
const KEYS_AT_ONCE: usize = 10_000;

/// Bytes of a request that weigh as much as a key: each key is compared with its pattern.
const PATTERN_BYTES_PER_KEY: usize = 256;

/// Between two tries to enter.
const PAUSE: Duration = Duration::from_micros(50);

/// A request on its way to a thread for slow work.
#[derive(Default)]
pub struct Words {
    bytes: Vec<u8>,
    places: Vec<Range<usize>>,
    noted: bool,
}

impl Words {
    /// A copy of these.
    pub fn copy<'a>(argv: impl IntoIterator<Item = &'a [u8]>) -> Words {
        let mut words = Words::default();
        for word in argv {
            let from = words.bytes.len();
            words.bytes.extend_from_slice(word);
            words.places.push(from..words.bytes.len());
        }
        words
    }

    /// Those at these places of a buffer that nobody else needs any more.
    pub fn lifted(bytes: Vec<u8>, places: Vec<Range<usize>>) -> Words {
        Words { bytes, places, noted: false }
    }

    /// It was begun before, and those who watch what is run were told of it then.
    pub fn noted(self) -> Words {
        Words { noted: true, ..self }
    }

    /// Whether those who watch were told of it.
    pub fn is_noted(&self) -> bool {
        self.noted
    }

    /// The words themselves.
    pub fn list(&self) -> Vec<&[u8]> {
        self.places.iter().map(|place| &self.bytes[place.clone()]).collect()
    }
}

/// Whether a command walks over more keys than a data thread has time for.
pub fn is_long(worker: &Worker, session: &Session, row: &Row, argv: &[&[u8]]) -> bool {
    let reach = session.reach(row);
    let borrows = !reach.borrowed().is_empty();
    let at_once = KEYS_AT_ONCE / weight(argv);
    let walks = match row.full_name {
        "keys" => true,
        "scan" => asks_for_many(argv, at_once),
        "dbsize" | "randomkey" => reach.filters_keys() || borrows || hides_some(worker),
        _ => false,
    };
    // What it borrows lies among the keys of others.
    let among = if borrows { TenantId::SHARED } else { session.tenant };
    walks && worker.node.shards.count_keys(among, at_once) > at_once
}

/// What each key or element weighs that is compared with a pattern among these words.
pub fn weight(argv: &[&[u8]]) -> usize {
    1 + argv.iter().map(|word| word.len()).sum::<usize>() / PATTERN_BYTES_PER_KEY
}

/// Whether keys lie here that are not to be found.
fn hides_some(worker: &Worker) -> bool {
    let (_, view) = worker.node.views.load();
    view.routes.as_ref().is_some_and(|routes| routes.moving().is_some())
}

fn asks_for_many(argv: &[&[u8]], at_once: usize) -> bool {
    let count = argv.windows(2).find(|pair| pair[0].eq_ignore_ascii_case(b"count")).map(|pair| pair[1]);
    let count = count.and_then(|count| std::str::from_utf8(count).ok()).and_then(|count| count.parse::<usize>().ok());
    count.is_some_and(|count| count > at_once)
}

/// Has a walk done for a client, and appends its answer.
///
/// The request comes back if it found nothing, and may wait for something.
pub async fn carry_out(
    worker: &Rc<Worker>,
    connection: &Connection,
    argv: Words,
    output: &mut Vec<u8>,
) -> Option<Words> {
    let session = connection.session.borrow().for_later();
    let lent = Lent {
        tracker: connection.script_tracker.borrow_mut().take(),
        transaction: connection.apart.borrow_mut().take(),
        ..Lent::default()
    };
    // It is here no more.
    connection.count_names(&connection.session.borrow());
    let bytes = argv.bytes.len() + lent.transaction.as_ref().map_or(0, |(transaction, _)| transaction.bytes);
    if let Some(text) = connection.lacks_room(&session, bytes as u64) {
        let mut reply = Reply::new(session.protocol);
        reply.error(&text);
        output.append(&mut reply.bytes);
        let watch = lent.transaction.and_then(|(_, watch)| watch);
        watch.iter().for_each(|watch| worker.node.shards.unwatch(watch));
        return None;
    }
    let lent = Lent { kept: Some(Kept::new(&connection.mailbox, bytes as u64)), ..lent };
    let again = large::may_wait(worker.node.table, &argv.list()).then(|| Words::copy(argv.list()));
    let mut reply = Reply::new(session.protocol);
    reply.bytes = match answer(worker, session, argv, lent).await {
        Ok(answer) => answer,
        Err(argv) => return Some(argv),
    };
    if again.is_some() && matches!(reply.bytes.as_slice(), b"*-1\r\n" | b"$-1\r\n" | b"_\r\n") {
        return again;
    }
    let asked = connection.asked.borrow_mut().take();
    let mut session = connection.session.borrow_mut();
    match asked {
        Some(asked) => worker.asked(&session, asked, &reply),
        None => session.commands += 1,
    }
    match session.replies {
        ReplyMode::On if output.is_empty() => *output = reply.bytes,
        ReplyMode::On => output.append(&mut reply.bytes),
        ReplyMode::SkipNext => session.replies = ReplyMode::On,
        ReplyMode::Off => {}
    }
    None
}

/// What a client lends to slow work.
#[derive(Default)]
pub struct Lent {
    /// Where the keys go that it reads.
    pub tracker: Option<Arc<Tracker>>,
    /// What it does, if that is a transaction, and what the client watched.
    pub transaction: Option<(Transaction, Option<Arc<Watch>>)>,
    /// What it holds with its request.
    pub kept: Option<Kept>,
    /// Those who watch what is run were told of it before.
    pub noted: bool,
    /// Whether it waits no more.
    pub left: Left,
    /// It was led here by what another node knew at this version of whose keys are whose.
    pub led_at: Option<u64>,
}

/// What a client watched, until its transaction is over or dropped.
struct Watching {
    node: Arc<Node>,
    watch: Option<Arc<Watch>>,
}

impl Drop for Watching {
    fn drop(&mut self) {
        if let Some(watch) = &self.watch {
            self.node.shards.unwatch(watch);
        }
    }
}

/// The answer of a walk, or of what concerns many elements, once it is done. An error has the request, of which nothing was run:
/// the data is with another node by now, or keys moved between shard groups meanwhile.
pub async fn answer(worker: &Worker, session: Session, argv: Words, lent: Lent) -> Result<Vec<u8>, Words> {
    let (done, answer) = oneshot::channel();
    let protocol = session.protocol;
    let owner = session.lasting_reach().owner();
    let watch = lent.transaction.as_ref().and_then(|(_, watch)| watch.clone());
    let watching = Watching { node: Arc::clone(&worker.node), watch };
    let left = Left::default();
    let _waits = left.watch();
    let lent = Lent { noted: argv.is_noted(), left, ..lent };
    let errand = Errand { session, argv, lent, watching, done };
    let put = worker.node.scripts.bench().put(owner, errand.into_work());
    match answer.await {
        Ok(answer) if put => answer,
        _ => {
            let mut reply = Reply::new(protocol);
            reply.error("ERR too much slow work is waiting");
            Ok(reply.bytes)
        }
    }
}

/// Slow work of a client, until it is done.
struct Errand {
    session: Session,
    argv: Words,
    lent: Lent,
    watching: Watching,
    done: oneshot::Sender<Result<Vec<u8>, Words>>,
}

impl Errand {
    fn into_work(self) -> Work {
        Work::trying(|worker| self.attempt(worker).map(Errand::into_work))
    }

    /// Does it; it comes back if it cannot begin yet.
    fn attempt(self, worker: &Worker) -> Option<Errand> {
        let Errand { session, argv, lent, watching, done } = self;
        // Whoever asked may have left.
        if done.is_closed() {
            return None;
        }
        let words = argv.list();
        let walks = worker.node.table.resolve(&words).is_ok_and(|of| may_walk(of.row));
        let answer = match walks {
            true if sees_kept(worker, session.tenant) => Err(Box::new((session, lent))),
            true => Ok(walk(worker, session, &words, (lent.led_at, &|| done.is_closed()))),
            false => large::run(worker, session, &words, lent),
        };
        match answer {
            Ok(answer) => {
                // A client that left meanwhile needs no answer.
                let _ = done.send(answer.ok_or(argv));
                None
            }
            Err(back) => {
                let (session, lent) = *back;
                Some(Errand { session, argv, lent, watching, done })
            }
        }
    }
}

/// Whether somebody is alone with keys that a walk of this tenant would see.
fn sees_kept(worker: &Worker, tenant: TenantId) -> bool {
    let corridor = &worker.node.corridor;
    let waits = match corridor.enter(worker.lane) {
        Entry::Entered => false,
        Entry::Beside(parts) => parts.iter().any(|part| part.concerns(tenant)),
        Entry::Closed | Entry::Busy => return true,
    };
    corridor.leave(worker.lane);
    waits
}

/// Whether it need not be one step.
pub fn may_walk(row: &Row) -> bool {
    matches!(row.full_name, "keys" | "scan" | "dbsize" | "randomkey")
}

/// Nothing more is looked at once whoever asked is gone. `None`: it may have seen keys that were being moved, and is to be led anew.
fn walk(
    worker: &Worker,
    mut session: Session,
    argv: &[&[u8]],
    (led_at, is_gone): (Option<u64>, &dyn Fn() -> bool),
) -> Option<Vec<u8>> {
    let began = Instant::now();
    let mut reply = Reply::new(session.protocol);
    let (_, view) = worker.node.views.load();
    let hot = worker.hot();
    reply.bytes_max = hot.reply_bytes_max_for(&session);
    if !renew(&mut session, &view) {
        return Some(reply.bytes);
    }
    let resolved = match worker.node.table.resolve(argv) {
        Ok(resolved) => resolved,
        Err(error) => {
            reply.command_error(&error);
            return Some(reply.bytes);
        }
    };
    let Run::OnEveryKey(handler) = resolved.row.run else { return Some(reply.bytes) };
    let (mut keys, conditions) = (KeyBuffer::new(), worker.conditions(&view, &hot));
    if let Err(refusal) = gate::admit(worker.node.table, resolved.row, argv, &session, &conditions, &mut keys) {
        reply.error(&refusal.text(conditions.detail));
        return Some(reply.bytes);
    }
    let reach = session.reach(resolved.row);
    let reach = match &view.routes {
        Some(routes) => routes.reach(view.of, session.tenant, reach),
        None => reach,
    };
    let call = Call {
        argv,
        words: resolved.words,
        keys: &[],
        place: None,
        owner: None,
        reads: false,
        context: call_context(worker, &hot, &session, worker.now_ms()),
        events: events_of(&hot, &session, &view.tenancy),
        client: session.id,
        signer: session.signs.then_some(session.id),
        reach: &reach,
        reader: None,
        park: None,
    };
    let mut scratch = worker.scratch.borrow_mut();
    let apart = |step: &mut dyn FnMut()| {
        if !is_gone() {
            in_lane(worker, session.tenant, step);
        }
    };
    let node = &worker.node;
    let names = hot.names_bound(&session, resolved.row.full_name, &reach);
    let how = (&node.journal, &apart as Apart<'_>, names.as_ref());
    let result = node.shards.walk(handler, &call, &mut scratch.calls, how, &mut reply);
    if let Err(error) = result {
        reply.bytes.clear();
        reply.command_error(&error);
    } else if reply.is_too_long() {
        reply.bytes.clear();
        reply.error(&worker.hot().reply_too_long(&session));
    }
    if !worker.node.views.load().1.is_primary() {
        reply.bytes.clear();
        reply.error(crate::forward::NOT_SERVED_HERE);
    }
    let time = began.elapsed();
    let cpu_ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let tally = Tally { work: pace::weight_of(time), cpu_ns, ..Tally::default() };
    pace::charge(worker, session.login.as_ref(), &tally, pace::now_ns());
    // Who copies keys here or removes them begins when this node knows of it.
    let now = worker.node.views.load().1;
    let moved = view.routes.as_ref().zip(now.routes.as_ref()).is_some_and(|(before, now)| {
        now.finds_others(before) || led_at.is_some_and(|version| now.changed_at() > version)
    });
    (!moved).then_some(reply.bytes)
}

/// One step of a walk, while nobody is alone with keys it sees.
fn in_lane(worker: &Worker, tenant: TenantId, step: &mut dyn FnMut()) {
    let corridor = &worker.node.corridor;
    let sees = |part: &Arc<Part>| part.concerns(tenant);
    loop {
        let entered = match corridor.enter(worker.lane) {
            Entry::Entered => true,
            Entry::Beside(parts) if !parts.iter().any(sees) => true,
            Entry::Beside(_) => {
                corridor.leave(worker.lane);
                false
            }
            Entry::Closed | Entry::Busy => false,
        };
        if entered {
            let _in_lane = InLane::new(corridor, worker.lane);
            return step();
        }
        std::thread::sleep(PAUSE);
    }
}
