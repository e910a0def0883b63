//! A batch of requests: admitted, run and answered one after the other, without waiting.
//!
//! ```text
//!   decoded requests ─► keys prefetched ─► each: gate ─► run ─► reply appended ─► those who waited for its keys are served
//!                                          │             └ a request that must wait ends the batch (Flow::Stop)
//!                                          └ between MULTI and EXEC: queued
//! ```
//! The same path runs a client's requests, a transaction's ([`crate::transaction`]), those another node forwarded and those
//! of clients that waited. It reads and writes no socket. One request is admitted and run in `batch/admission.rs`; what is for
//! another node, group or thread is told apart in `batch/elsewhere.rs`; clients that wait for keys are in `batch/waiting.rs`.

use crate::connection::{Connection, Lane, Next, OUTPUT_BYTES_SOFT, renew, was_run};
use crate::corridor::Parts;
use crate::forward::ForwardBatch;
use crate::gate::{Conditions, KeyBuffer, LeaseState, Memory};
use crate::gather::Spread;
use crate::journal::Journal;
use crate::large;
use crate::live::Hot;
use crate::meter::Meter;
use crate::pace::{self, Tab};
use crate::tracking::Tracker;
use crate::turns::SLICE;
use crate::worker::{Scratch, Worker, now_us};
use keyward_engine::asks::CommandLogKind;
use keyward_engine::session::{ReplyMode, Session};
use keyward_engine::tenancy::OwnerHint;
use keyward_engine::types::Patience;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

mod admission;
mod elsewhere;
mod forwarded;
mod prepared;
mod waiting;

pub(crate) use admission::{call_context, events_of, show_line};
pub(crate) use elsewhere::{has_part, locks_everything, place_of};
pub use forwarded::{Ran, ask_forwarded, run_forwarded};
pub(crate) use prepared::{Prepared, Received};

/// Clients that are served together share a look at the clock if their requests and answers are no longer than this, each.
const SHARED_LOOK_BYTES: usize = 4096;

/// Runs one batch of one client. `Some`: it ended early, and `consumed` says after which byte.
pub(crate) fn run_batch(
    worker: &Worker,
    connection: &Rc<Connection>,
    session: &mut Session,
    lane: &mut Lane,
    (received, beside): (Received<'_>, &mut Option<Parts>),
    consumed: &mut usize,
    scratch: &mut Scratch,
) -> Option<Next> {
    let Received { input, ranges, requests } = received;
    if requests.is_empty() {
        return None;
    }
    let arguments: Vec<&[u8]> = ranges.iter().map(|range| range.of(input)).collect();
    let mut prepared: Vec<Prepared<'_>> = Vec::with_capacity(requests.len());
    let holds_data = lane.places_keys();
    let mut before = None;
    for request in requests {
        prepared.push(Prepared::decoded(worker, &arguments, input, request, holds_data, &mut before));
    }
    scratch.places.clear();
    let space = session.space();
    let (tenancy, mut hint) = (&lane.view.tenancy, OwnerHint::default());
    scratch.places.extend(prepared.iter_mut().filter_map(|request| request.needed(space, tenancy, &mut hint)));
    if scratch.places.len() > 1 && lane.view.routes.is_none() {
        worker.node.shards.prefetch(&scratch.places);
    }
    let hot = worker.hot();
    scratch.reply.bytes_max = hot.reply_bytes_max();
    let conditions = worker.conditions(&lane.view, &hot);
    let mut batch = Batch::new(worker, Some(connection), worker.now_ms(), conditions, hot);
    batch.beside = beside.take();
    let ended = batch.serve(connection, session, lane, &prepared, consumed, scratch);
    batch.meter.settle_deferred(worker, &batch.hot, Some(session));
    *beside = batch.beside;
    ended
}

fn run_prepared<'a>(
    batch: &mut Batch<'_, 'a>,
    session: &mut Session,
    lane: &mut Lane,
    prepared: &[Prepared<'a>],
    consumed: &mut usize,
    scratch: &mut Scratch,
) -> Option<Next> {
    let until = batch.meter.looked().plus(SLICE);
    for request in prepared {
        if !lane_is_current(batch.worker, lane, session, batch) {
            return Some(Next::Close);
        }
        let end = request.end;
        if batch.grouped {
            match batch.lead(session, lane, request, scratch) {
                None => {}
                Some(Flow::Continue) => {
                    *consumed = end;
                    continue;
                }
                Some(Flow::Stop(next)) => {
                    *consumed = end;
                    return Some(*next);
                }
                Some(_) => break,
            }
            if !lane_is_current(batch.worker, lane, session, batch) {
                return Some(Next::Close);
            }
        }
        if let Ok(resolved) = &request.resolved {
            let (row, bytes) = (resolved.row, end - *consumed);
            batch.worker.measured(CommandLogKind::LargeRequest, &batch.hot, session, row, request.argv, bytes);
        }
        let ran = std::mem::replace(&mut lane.ran, true);
        let before = scratch.reply.bytes.len();
        let flow = batch.step(session, lane, request, scratch);
        if session.wants_quorum() {
            let answer = before..scratch.reply.bytes.len();
            if was_run(&scratch.reply.bytes[answer.clone()]) {
                lane.doubt(batch.front, answer);
            } else {
                lane.ran = ran;
                lane.note(answer, None);
            }
        }
        match flow {
            Flow::Continue => {
                *consumed = end;
                if batch.forward.complete {
                    break;
                }
            }
            Flow::StopBefore => break,
            Flow::Closed => return Some(Next::Wait),
            Flow::Paused => return Some(Next::Paused),
            Flow::Shifted => return Some(Next::Shifted),
            Flow::Held(time) => return Some(Next::Held(time)),
            Flow::Moved => return Some(Next::Move),
            Flow::Stop(next) => {
                *consumed = end;
                return Some(*next);
            }
        }
        if scratch.reply.bytes.len() > OUTPUT_BYTES_SOFT && batch.forward.is_empty() {
            return Some(Next::Flush);
        }
        // Slow commands had their time taken anyway.
        if batch.meter.looked() > until && batch.forward.is_empty() {
            return Some(Next::Yield);
        }
    }
    None
}

/// Takes over a newer view, if there is one. False: the session's user is gone, off, or has other credentials.
#[inline(always)]
fn lane_is_current(worker: &Worker, lane: &mut Lane, session: &mut Session, batch: &mut Batch<'_, '_>) -> bool {
    worker.node.views.generation() == lane.generation || take_over(worker, lane, session, batch)
}

#[cold]
fn take_over(worker: &Worker, lane: &mut Lane, session: &mut Session, batch: &mut Batch<'_, '_>) -> bool {
    // What was run until now was run under the old view. If nothing was, there is nothing to confirm: what is written by now
    // may be of a later reign.
    if session.wants_quorum() && lane.ran {
        lane.await_confirmation(worker);
    }
    lane.ran = false;
    (lane.generation, lane.view) = worker.node.views.load();
    batch.conditions = worker.conditions(&lane.view, &batch.hot);
    batch.looked_under = Some(lane.generation);
    batch.conditions.primary |= batch.anywhere;
    batch.conditions.redirects &= !batch.never_redirects;
    let stays = renew(session, &lane.view);
    batch.tab.look_at_limits(session);
    stays
}

pub(crate) enum Flow {
    /// Answered.
    Continue,
    /// Not done: what came before must be awaited first.
    StopBefore,
    /// Not done: somebody else runs alone.
    Closed,
    /// Not done: clients are paused.
    Paused,
    /// Not done: its keys are on their way to another shard group, or were led to the wrong one.
    Shifted,
    /// Not done: the client is ahead of a rate, and waits for so long.
    Held(Duration),
    /// Not done: the client moves along with the data, and it is done there.
    Moved,
    /// Done as far as can be without waiting.
    Stop(Box<Next>),
}

/// What the requests of one batch share.
pub(crate) struct Batch<'w, 'a> {
    pub(crate) worker: &'w Worker,
    /// The thread as far as the first shard group is concerned.
    pub(crate) front: &'w Worker,
    /// There are several groups, and each request is led to its own.
    grouped: bool,
    /// The request under way needs no data: nothing is asked of those who serve some.
    pub(crate) anywhere: bool,
    /// No cluster client could tell where the keys of this one are.
    pub(crate) never_redirects: bool,
    /// The client's own connection; none where it is connected elsewhere.
    pub(crate) connection: Option<&'w Rc<Connection>>,
    pub(crate) now: i64,
    pub(crate) conditions: Conditions,
    /// Under which view they were looked at for a client that is served.
    looked_under: Option<u64>,
    /// Under which view it was asked whose the keys of its requests are.
    prepared_under: Option<u64>,
    pub(crate) hot: Rc<Hot>,
    keys: KeyBuffer<'a>,
    pub(crate) forward: ForwardBatch,
    /// Requests for other groups than that one's.
    spread: Option<Box<Spread>>,
    pub(crate) meter: Meter<'w, 'a>,
    /// What it cost, and whether its client is ahead of a rate.
    pub(crate) tab: Tab,
    /// Parts of the corridor that others are alone in.
    pub(crate) beside: Option<Parts>,
    /// Where effects are gathered, while its client is alone with the keys of its tenant.
    gathering: Option<Rc<Journal>>,
    /// This is one request on a thread for slow work, alone with its keys.
    apart: bool,
    /// Where the words of the request lie of which those who watch were told before, when it was begun elsewhere.
    pub(crate) noted: usize,
    /// What it answers at length is answered on a thread for slow work.
    goes_apart: bool,
    /// These are the requests of a transaction that is being carried out: nothing is queued, nothing waits, and those who
    /// wait for their keys are served when it is over.
    executing: bool,
    /// What concerns every group is asked of each: this is one group's share of it.
    share: bool,
    /// A script makes these requests.
    scripted: bool,
    /// Whose cache the keys go to that a script reads on the script thread.
    pub(crate) tracker: Option<Arc<Tracker>>,
    /// Who is asked whether what takes long may go on.
    pub(crate) patience: Option<Rc<Patience>>,
    /// The time, in microseconds, while it stands still: what runs as one step sees one moment.
    frozen_us: Option<i64>,
}

impl<'w, 'a> Batch<'w, 'a> {
    /// Of no request yet.
    pub(crate) fn new(
        worker: &'w Worker,
        connection: Option<&'w Rc<Connection>>,
        now: i64,
        conditions: Conditions,
        hot: Rc<Hot>,
    ) -> Batch<'w, 'a> {
        let (keys, forward) = (KeyBuffer::new(), ForwardBatch::default());
        let meter = Meter::new(hot.measures_closely);
        Batch {
            worker,
            front: worker,
            grouped: false,
            anywhere: false,
            never_redirects: false,
            connection,
            now,
            conditions,
            looked_under: None,
            prepared_under: None,
            hot,
            keys,
            forward,
            spread: None,
            meter,
            tab: Tab::default(),
            beside: None,
            gathering: None,
            apart: false,
            noted: 0,
            goes_apart: false,
            executing: false,
            share: false,
            scripted: false,
            tracker: None,
            patience: None,
            frozen_us: None,
        }
    }

    /// Runs what one client sent. `Some`: it ended early, and `consumed` says after which byte.
    #[inline]
    pub(crate) fn serve(
        &mut self,
        connection: &'w Rc<Connection>,
        session: &mut Session,
        lane: &mut Lane,
        prepared: &[Prepared<'a>],
        consumed: &mut usize,
        scratch: &mut Scratch,
    ) -> Option<Next> {
        self.connection = Some(connection);
        self.grouped = lane.view.routes.is_some();
        if self.grouped {
            self.worker = self.front.at(lane.view.of);
            self.anywhere = false;
        }
        // Clients that are served together under one view are let in under the same conditions.
        if self.grouped || self.looked_under != Some(lane.generation) {
            self.conditions = self.worker.conditions(&lane.view, &self.hot);
            self.looked_under = Some(lane.generation);
        }
        self.conditions.memory = Memory::Enough;
        self.prepared_under = Some(lane.generation).filter(|_| !self.grouped);
        lane.under_lease = self.conditions.lease == LeaseState::InForce;
        self.tracker = None;
        self.goes_apart = large::concerns(session);
        scratch.reply.protocol = session.protocol;
        session.active_at = self.now;
        self.worker.stats.batches.add(1);
        self.tab.open(session);
        if self.tab.counts {
            // What others spent is not for this one to pay.
            self.meter.settle_deferred(self.worker, &self.hot, None);
            self.meter.forget_spent();
        }
        scratch.reply.bytes_max = self.reply_bytes_max();
        // What happened before these requests is told before their answers: a cache that asks anything has heard it all then.
        if connection.mailbox.is_filled() && session.replies == ReplyMode::On {
            lane.under_lease = true;
            let before = scratch.reply.bytes.len();
            connection.mailbox.collect(&mut scratch.reply.bytes);
            if session.wants_quorum() {
                // No answers, whatever becomes of these.
                lane.note(before..scratch.reply.bytes.len(), None);
            }
        }
        let ended = run_prepared(self, session, lane, prepared, consumed, scratch);
        let sent = prepared.last().map_or(0, |request| request.end);
        let is_short = sent + scratch.reply.bytes.len() <= SHARED_LOOK_BYTES;
        if ended.is_none() && is_short && !self.tab.counts && !self.grouped {
            self.meter.defer(self.worker, &self.hot, session, connection);
        } else {
            self.meter.settle(self.worker, &self.hot, session);
        }
        self.charge(session);
        if self.forward.is_empty() && self.spread.is_none() { ended } else { self.take_along(ended, lane) }
    }

    /// What goes to other nodes, unless the batch ended early.
    #[cold]
    fn take_along(&mut self, ended: Option<Next>, lane: &Lane) -> Option<Next> {
        let (mut forward, spread) = (std::mem::take(&mut self.forward), self.spread.take());
        if ended.is_some() || forward.is_empty() {
            return ended;
        }
        forward.policy_version = lane.view.index;
        let Some(mut spread) = spread else { return Some(Next::Forward(Box::new(forward))) };
        spread.others.iter_mut().for_each(|other| other.policy_version = lane.view.index);
        Some(Next::Spread(Box::new((forward, *spread))))
    }

    /// Whether these are the requests of a transaction that is being carried out.
    pub(crate) fn is_executing(&self) -> bool {
        self.executing
    }

    /// Whether this runs on a thread for slow work, alone with its keys.
    pub(crate) fn is_apart(&self) -> bool {
        self.apart
    }

    /// A batch for the calls of a script of this one's client. One that `may_exceed` is not stopped for want of memory.
    pub(crate) fn for_script<'t>(&self, may_exceed: bool) -> Batch<'w, 't> {
        let mut inner = self.for_transaction();
        if may_exceed {
            inner.conditions.memory = Memory::Enough;
        }
        inner.scripted = true;
        inner
    }

    /// A batch for the requests of a transaction of this one's client.
    pub(crate) fn for_transaction<'t>(&self) -> Batch<'w, 't> {
        let now = self.frozen_us.map_or(self.now, |us| us / 1000);
        let inner = Batch::new(self.worker, self.connection, now, self.conditions, Rc::clone(&self.hot));
        let (frozen_us, tracker, patience) = (self.frozen_us, self.tracker.clone(), self.patience.clone());
        let tab = Tab::within(&self.tab);
        let gathering = self.gathering.clone();
        Batch { executing: true, meter: Meter::new(true), tab, gathering, frozen_us, tracker, patience, ..inner }
    }

    /// For requests that each group is given, and does its share of.
    pub(crate) fn of_one_group(self) -> Self {
        Batch { share: true, ..self }
    }

    /// What follows is one step. `beside`: its client is alone with some keys only, and others write theirs.
    pub(crate) fn begin_step(&mut self, beside: bool) {
        match &self.gathering {
            // A script within a transaction is part of its step.
            Some(_) => {}
            None if beside => self.gathering = Some(Rc::new(self.worker.node.journal.gathering())),
            None => self.worker.node.journal.begin_group(),
        }
    }

    /// The step is over.
    pub(crate) fn end_step(&mut self) {
        match self.gathering.take() {
            Some(gathered) => gathered.finish(),
            None => self.worker.node.journal.end_group(),
        }
    }

    /// Bytes of the effects of the step so far.
    pub(crate) fn step_bytes(&self) -> u64 {
        self.gathering.as_deref().unwrap_or(&self.worker.node.journal).step_bytes()
    }

    /// From now on time stands still for what this one's client runs as one step. Returns what
    /// [`Batch::let_time_pass`] needs.
    pub(crate) fn freeze_time(&mut self) -> Option<i64> {
        let before = self.frozen_us;
        self.frozen_us = before.or_else(|| Some(now_us()));
        before
    }

    /// The step is over.
    pub(crate) fn let_time_pass(&mut self, before: Option<i64>) {
        self.frozen_us = before;
    }

    /// One request: gate, run, answer.
    #[inline(always)]
    pub(crate) fn step(
        &mut self,
        session: &mut Session,
        lane: &Lane,
        request: &Prepared<'a>,
        scratch: &mut Scratch,
    ) -> Flow {
        let mark = scratch.reply.mark();
        let flow = self.answer(session, lane, request, scratch);
        if session.replies != ReplyMode::On
            && !matches!(
                flow,
                Flow::StopBefore | Flow::Closed | Flow::Paused | Flow::Shifted | Flow::Held(_) | Flow::Moved
            )
        {
            self.hold_back(session, &flow, mark, scratch);
        }
        if !scratch.calls.ready.is_empty() && !self.executing {
            self.serve_ready(&lane.view, None, scratch);
            let later = std::mem::take(&mut scratch.calls.ready);
            if !later.is_empty() {
                crate::scripts::serve_later(self.worker, later);
            }
        }
        // `CLIENT CACHING` was about one command, or one transaction: once that was run.
        if !matches!(flow, Flow::StopBefore | Flow::Closed | Flow::Paused | Flow::Shifted | Flow::Held(_) | Flow::Moved)
        {
            self.end_caching(session);
        }
        flow
    }

    /// What `CLIENT CACHING` said was about the command that was just run, if that is not itself, or about a transaction.
    #[inline]
    pub(crate) fn end_caching(&self, session: &Session) {
        if let Some(connection) = self.connection.filter(|connection| connection.caching.get().is_some())
            && session.last_command != "client|caching"
            && session.transaction.is_none()
        {
            connection.caching.set(None);
        }
    }

    /// `CLIENT REPLY`: the answer is dropped. (`SkipNext` is set by the handler of the command before.)
    fn hold_back(&self, session: &mut Session, flow: &Flow, mark: keyward_engine::reply::Mark, scratch: &mut Scratch) {
        // Subscriptions are confirmed as messages are sent, whatever becomes of replies.
        let mut confirms = session.last_command.ends_with("subscribe");
        scratch.reply.error_since(mark, |_| confirms = false);
        if !confirms {
            scratch.reply.rewind(mark);
        }
        // What is asked of the outside is answered later, by whoever carries it out; so is what another node takes over.
        let answered = !matches!(&flow, Flow::Stop(next) if matches!(**next, Next::Ask(..) | Next::Walk(_) | Next::Lift(..) | Next::HandOver(_)));
        if answered && session.replies == ReplyMode::SkipNext && session.last_command != "client|reply" {
            session.replies = ReplyMode::On;
        }
    }

    /// The same without what follows a client's own request.
    #[inline]
    pub(crate) fn answer(
        &mut self,
        session: &mut Session,
        lane: &Lane,
        request: &Prepared<'a>,
        scratch: &mut Scratch,
    ) -> Flow {
        let mark = scratch.reply.mark();
        let (argv, row) = (request.argv, request.resolved.as_ref().ok().map(|resolved| resolved.row));
        let encoded = request.encoded;
        let run_before = self.tab.tally.operations;
        let flow = self.admit_and_run(session, lane, request, scratch);
        if self.tab.counts && self.tab.tally.operations > run_before {
            let received = encoded.map_or_else(|| argv.iter().map(|word| word.len()).sum(), <[u8]>::len);
            self.tab.tally.work += pace::weight(argv.len(), received + scratch.reply.since(mark));
        }
        // What a script's calls say counts once, when it is known whether it is the script's own answer: see `scripts.rs`.
        if !self.scripted {
            let worker = self.worker;
            scratch.reply.error_since(mark, |error| worker.stats.erred(session, worker.lane, error));
        }
        if let Some(row) = row {
            let bytes = scratch.reply.since(mark);
            self.worker.measured(CommandLogKind::LargeReply, &self.hot, session, row, argv, bytes);
        }
        flow
    }

    /// The longest answer this client may get, in bytes.
    #[inline]
    pub(crate) fn reply_bytes_max(&self) -> usize {
        self.hot.reply_bytes_max_of(self.tab.answer)
    }
}
