//! A batch of requests: admitted, run and answered one after the other, without waiting.
//!
//! ```text
//!   decoded requests ─► keys prefetched ─► each: gate ─► run ─► reply appended ─► those who waited for its keys are served
//!                                          │             └ a request that must wait ends the batch (Flow::Stop)
//!                                          └ between MULTI and EXEC: queued
//! ```
//! The same path runs a client's requests, a transaction's ([`crate::transaction`]), those another node forwarded and those
//! of clients that waited. It reads and writes no socket. It is long because these paths share every step.

use crate::connection::{Connection, Decoded, Lane, Next, OUTPUT_BYTES_SOFT, renew};
use crate::corridor::{Closed, Extent, Part, Parts};
use crate::forward::ForwardBatch;
use crate::gate::{self, Admitted, Conditions, KeyBuffer, LeaseState, Memory, Refusal};
use crate::gather::Spread;
use crate::holding;
use crate::insight::audit::AuditEvent;
use crate::insight::{self, AdminOutcome};
use crate::journal::Journal;
use crate::large;
use crate::live::Hot;
use crate::memory::{Claim, note_owners, writes_only_its_own};
use crate::meter::{Asked, Meter};
use crate::observers::{Waiter, Watch};
use crate::pace::{self, Pace, Tab, Waiting};
use crate::pause::Paused;
use crate::routes::{self, Routes};
use crate::shards::{Call, Needed, Reader, Wanted};
use crate::tracking::Tracker;
use crate::transaction;
use crate::turns::SLICE;
use crate::view::View;
use crate::walks::Words;
use crate::worker::{Scratch, Worker, now_us};
use keyward_acl::{KeyUse, LogContext};
use keyward_cluster::GroupId;
use keyward_engine::account::Over;
use keyward_engine::args::Args;
use keyward_engine::asks::{Ask, CommandLogKind, TenantAsk};
use keyward_engine::command::{Flags, Group, Home, Run};
use keyward_engine::effects::Wait;
use keyward_engine::error::CommandError;
use keyward_engine::keyspace::{CallContext, Place, SpaceId, TenantId};
use keyward_engine::reply::Reply;
use keyward_engine::scope::Reach;
use keyward_engine::session::{ReplyMode, Session, Transaction};
use keyward_engine::table::{Resolved, Row};
use keyward_engine::tenancy::{OwnerHint, Tenancy};
use keyward_proto::resp::{ArgRange, encode_command};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a client gets whose request has an answer longer than `client-output-buffer-limit`. What it changed is changed.
pub(crate) const REPLY_TOO_LONG: &str = "ERR the reply is longer than client-output-buffer-limit allows";

/// Clients that are served together share a look at the clock if their requests and answers are no longer than this, each.
const SHARED_LOOK_BYTES: usize = 4096;

/// The name of the last request's command, and the command.
pub(crate) type Before<'a> = Option<(&'a [u8], &'static Row)>;

/// A request whose command and place are known.
pub(crate) struct Prepared<'a> {
    pub(crate) argv: &'a [&'a [u8]],
    pub(crate) resolved: Result<Resolved<'static>, CommandError>,
    /// Where its first key lies, if that can be told without looking at its options.
    place: Option<(&'a [u8], Place)>,
    /// Whose that key is, by the view of its batch, if that was asked.
    owner: Option<TenantId>,
    /// As the client sent it, if that is an array of bulk strings.
    encoded: Option<&'a [u8]>,
    end: usize,
}

impl<'a> Prepared<'a> {
    /// A request that did not come in a batch.
    pub(crate) fn of(worker: &Worker, argv: &'a [&'a [u8]]) -> Prepared<'a> {
        Prepared { argv, resolved: worker.node.table.resolve(argv), place: None, owner: None, encoded: None, end: 0 }
    }

    /// The same, where its first key is looked up here.
    fn placed(worker: &Worker, argv: &'a [&'a [u8]]) -> Prepared<'a> {
        let mut request = Prepared::of(worker, argv);
        request.place = request.place_of_first_key(worker);
        request
    }

    /// Where it ends in what its client sent.
    #[inline]
    pub(crate) fn end(&self) -> usize {
        self.end
    }

    #[inline]
    fn place_of_first_key(&self, worker: &Worker) -> Option<(&'a [u8], Place)> {
        first_key(self).map(|key| (key, worker.node.shards.layout().place(key)))
    }

    /// A request of a batch with these arguments, decoded from `input`. `placed`: its first key is looked up here.
    /// `before`: the command of the last one.
    #[inline]
    pub(crate) fn decoded(
        worker: &Worker,
        arguments: &'a [&'a [u8]],
        input: &'a [u8],
        request: &Decoded,
        placed: bool,
        before: &mut Before<'a>,
    ) -> Prepared<'a> {
        let argv = &arguments[request.first as usize..(request.first + request.count) as usize];
        let resolved = worker.node.table.resolve_next(before, argv);
        let encoded = Some(&input[request.start..request.end]).filter(|encoded| encoded.first() == Some(&b'*'));
        let mut prepared = Prepared { argv, resolved, place: None, owner: None, encoded, end: request.end };
        if placed {
            prepared.place = prepared.place_of_first_key(worker);
        }
        prepared
    }

    /// Its first key, which it will need. `hint`: for all requests of one client.
    #[inline]
    pub(crate) fn needed(&mut self, space: SpaceId, tenancy: &Tenancy, hint: &mut OwnerHint) -> Option<Needed> {
        let (key, place) = self.place?;
        let space = tenancy.segment_of_next(space, key, hint);
        self.owner = Some(space.tenant);
        let group = self.resolved.as_ref().ok()?.row.command.group;
        let object = matches!(group, Group::List | Group::Hash | Group::Set | Group::SortedSet | Group::Stream);
        Some(Needed { space, place, object })
    }
}

/// The first key of a request, if that can be told without looking at its options.
#[inline]
fn first_key<'a>(request: &Prepared<'a>) -> Option<&'a [u8]> {
    let index = request.resolved.as_ref().ok()?.row.first_key?;
    request.argv.get(usize::from(index)).copied()
}

/// The requests of one batch, as they were decoded.
#[derive(Clone, Copy)]
pub(crate) struct Received<'i> {
    /// What the client sent.
    pub(crate) input: &'i [u8],
    /// Every argument of every request.
    pub(crate) ranges: &'i [ArgRange],
    /// Which of them belong together.
    pub(crate) requests: &'i [Decoded],
}

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
        let flow = batch.step(session, lane, request, scratch);
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
    if session.wants_quorum() {
        // What was run until now was run under the old view.
        lane.await_confirmation(worker);
    }
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
            connection.mailbox.collect(&mut scratch.reply.bytes);
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
        let (frozen_us, tracker) = (self.frozen_us, self.tracker.clone());
        let tab = Tab::within(&self.tab);
        let gathering = self.gathering.clone();
        Batch { executing: true, meter: Meter::new(true), tab, gathering, frozen_us, tracker, ..inner }
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
        if let Some(connection) = self.connection.filter(|connection| connection.caching.get().is_some()) {
            // It was about one command, or one transaction: once that was run.
            let ran = !matches!(
                flow,
                Flow::StopBefore | Flow::Closed | Flow::Paused | Flow::Shifted | Flow::Held(_) | Flow::Moved
            );
            if ran && session.last_command != "client|caching" && session.transaction.is_none() {
                connection.caching.set(None);
            }
        }
        flow
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
            scratch.reply.error_since(mark, |error| self.worker.stats.error_words.lock().note_of(session, error));
        }
        if let Some(row) = row {
            let bytes = scratch.reply.since(mark);
            self.worker.measured(CommandLogKind::LargeReply, &self.hot, session, row, argv, bytes);
        }
        flow
    }

    fn admit_and_run(
        &mut self,
        session: &mut Session,
        lane: &Lane,
        request: &Prepared<'a>,
        scratch: &mut Scratch,
    ) -> Flow {
        let (row, words) = match &request.resolved {
            Ok(Resolved { row, words }) => (*row, *words),
            Err(_) if !self.forward.is_empty() => return Flow::StopBefore,
            // Before a login nobody learns which commands exist.
            Err(_) if session.login.is_none() => {
                scratch.reply.error(&Refusal::NotAuthenticated.text(self.conditions.detail));
                return Flow::Continue;
            }
            Err(error) => {
                self.worker.malformed(error);
                self.break_transaction(session);
                scratch.reply.command_error(error);
                return Flow::Continue;
            }
        };
        // A transaction was let in as a whole: nothing of it is refused half way.
        if !self.executing {
            match self.pace(session, row) {
                Pace::Free => {}
                _ if !self.forward.is_empty() => return Flow::StopBefore,
                Pace::Held(time) => return Flow::Held(time),
                Pace::Refused(over) => return self.refuse_for_rate(session, row, &over, scratch),
            }
        }
        // What one command used up too much is evicted before the next one, whatever that is.
        let needs_memory = row.command.flags.has(Flags::DENYOOM) || self.worker.exceeds_memory(&self.hot);
        if needs_memory && self.conditions.primary && !self.executing && !self.anywhere && !self.apart {
            self.look_for_memory(session, lane, row, request);
            // What was evicted for this command the client learns before the answer, which may depend on it.
            if let Some(connection) = self.connection.filter(|connection| connection.mailbox.is_filled())
                && session.replies == ReplyMode::On
            {
                connection.mailbox.collect(&mut scratch.reply.bytes);
            }
        }
        let admitted =
            match gate::admit(self.worker.node.table, row, request.argv, session, &self.conditions, &mut self.keys) {
                Ok(admitted) => admitted,
                Err(refusal) => return self.not_admitted(session, lane, (request, row), refusal, scratch),
            };
        if !self.forward.is_empty() {
            // Its answer has its place among those of the others.
            let joins = self.grouped && !self.anywhere && matches!(row.run, Run::OnKeys(_));
            if joins && row.command.home(request.argv) == Home::Data {
                return self.send_elsewhere(session, row, request.argv, request.encoded);
            }
            return Flow::StopBefore;
        }
        // What a transaction runs was noted when it was queued.
        if let Some(denial) = admitted.reported().filter(|_| !self.executing || self.scripted) {
            self.worker.denied(session, denial, LogContext::Report);
        }
        if self.tab.value_bytes_max > 0
            && row.command.flags.has(Flags::WRITE)
            && request.encoded.is_none_or(|encoded| encoded.len() as u64 > self.tab.value_bytes_max)
            && let Some(text) = pace::too_long(session, request.argv)
        {
            self.break_transaction(session);
            self.failed(row);
            pace::note_limit(self.worker, session);
            scratch.reply.error(&text);
            return Flow::Continue;
        }
        if !self.executing && !self.apart && self.worker.waits_for_pause(self.now, session, row, request.argv) {
            return Flow::Paused;
        }
        if session.transaction.is_some() && !self.executing && transaction::is_queued(row) {
            self.queue(session, row, request.argv, &mut scratch.reply);
            return Flow::Continue;
        }
        if let Some(routes) = &lane.view.routes
            && let Some(stray) =
                stray(self.worker, (self.executing, self.anywhere, self.share), session, lane, routes, &admitted)
        {
            let Stray::Refused(text) = stray else { return Flow::Shifted };
            self.break_transaction(session);
            scratch.reply.error(text);
            return Flow::Continue;
        }
        if self.beside.is_some()
            && let Some(busy) = is_barred(self.beside.as_ref(), session, row, (request.argv, admitted.keys()))
        {
            if !busy || self.executing {
                return Flow::Closed;
            }
            self.worker.refused(session, row, &Refusal::Busy, self.log_context(session));
            scratch.reply.error(&Refusal::Busy.text(self.conditions.detail));
            return Flow::Continue;
        }
        let may_be_long = || {
            large::concerns(session)
                && (large::may_be_long(row, request.argv)
                    || request.encoded.is_none_or(|encoded| encoded.len() > large::BYTES_AT_ONCE))
        };
        if (self.worker.node.shards.keeps_any() || may_be_long())
            && !self.executing
            && !self.apart
            && let Some(aside) =
                set_aside((self.worker, self.connection, &mut self.noted), session, (row, request), admitted.keys())
        {
            if let (Flow::Stop(_), Some(connection)) = (&aside, self.connection) {
                *connection.script_tracker.borrow_mut() = caches(Some(connection), &None);
            }
            return aside;
        }
        session.commands += 1;
        self.tab.tally.operations += 1;
        session.last_command = row.full_name;
        self.worker.count(row);
        if let Some(login) = &session.login
            && insight::is_watched(&self.worker.node, login)
            && self.noted != place_of(request.argv)
        {
            let denied = admitted.reported().is_some();
            insight::record(self.worker, session, row, request.argv, admitted.keys(), denied);
        }
        // EXEC is shown after what it runs.
        if self.worker.node.monitors.is_active() && row.full_name != "exec" && self.noted != place_of(request.argv) {
            show(self.worker, session, row, request.argv, self.scripted);
        }
        if self.worker.node.audit.watches_commands() && self.noted != place_of(request.argv) {
            insight::audit_command(&self.worker.node, session, row, &admitted, self.now);
        }
        let (run, argv) = (admitted.row().run, admitted.argv());
        self.meter.before(self.worker, &self.hot, session, row);
        // A copy changes nothing, and while clients are paused nothing changes; a write that runs nevertheless may. Nor does
        // a read end what a followed source may still write to: the source says when it ends.
        let node = &self.worker.node;
        let rests = || node.import.is_following() || node.pause.state(self.now) != Paused::Nobody;
        let keeps_expired = !self.conditions.primary || !row.command.flags.has(Flags::WRITE) && rests();
        let room_bytes = if row.full_name == "restore" {
            room_bytes(self.worker, &self.hot, session, &lane.view.tenancy, admitted.keys())
        } else {
            u64::MAX
        };
        let context =
            CallContext { keeps_expired, room_bytes, ..call_context(self.worker, &self.hot, session, self.now) };
        let mark = scratch.reply.mark();
        let result = match run {
            Run::OnKeys(handler) => {
                let node = &self.worker.node;
                let parking = |wait| park(self.connection, session, context.space, argv, admitted.keys(), wait);
                let may_wait = row.command.flags.has(Flags::BLOCKING) && !self.executing && self.connection.is_some();
                let park: Option<&dyn Fn(Wait) -> Arc<Waiter>> = if may_wait { Some(&parking) } else { None };
                let (keys, place, events) =
                    (admitted.keys(), request.place, events_of(&self.hot, session, &lane.view.tenancy));
                let reading =
                    if row.command.flags.has(Flags::READONLY) { caches(self.connection, &self.tracker) } else { None };
                let keys_max = self.hot.tracked_keys_max;
                let reader = reading.as_ref().map(|tracker| Reader { tracker, keys_max });
                let (client, signer, reach) = (session.id, session.signs.then_some(session.id), &Reach::Nothing);
                let owner = request.owner.filter(|_| self.prepared_under == Some(lane.generation));
                let owner = owner.map(|owner| (owner, lane.view.tenancy.owners()));
                let reads = row.command.flags.has(Flags::READONLY);
                let call = Call {
                    argv,
                    words,
                    keys,
                    place,
                    owner,
                    reads,
                    context,
                    events,
                    client,
                    signer,
                    reach,
                    reader,
                    park,
                };
                let journal = self.gathering.as_deref().unwrap_or(&node.journal);
                let bytes_max = scratch.reply.bytes_max;
                if reads && self.goes_apart && !self.executing {
                    scratch.reply.bytes_max = bytes_max.min(scratch.reply.bytes.len() + large::BYTES_AT_ONCE);
                }
                let mut result = node.shards.run(handler, &call, &mut scratch.calls, journal, &mut scratch.reply);
                if scratch.reply.is_too_long() && scratch.reply.bytes_max < bytes_max {
                    scratch.reply.bytes_max = bytes_max;
                    scratch.reply.rewind(mark);
                    if has_part(session) {
                        // Copying the rest takes longer than this thread has time for. It changed nothing, and begins anew.
                        session.commands -= 1;
                        self.tab.tally.operations -= 1;
                        self.worker.waits(row);
                        if let Some(connection) = self.connection {
                            *connection.script_tracker.borrow_mut() = reading;
                        }
                        return elsewhere(session, row, request, true);
                    }
                    result = node.shards.run(handler, &call, &mut scratch.calls, journal, &mut scratch.reply);
                }
                scratch.reply.bytes_max = bytes_max;
                self.note_lookups(session, &scratch.calls);
                result
            }
            Run::OnEveryKey(_) if !self.executing && walks_apart(self.worker, self.connection, session, row, argv) => {
                return Flow::Stop(Box::new(Next::Walk(Words::copy(argv.iter().copied()))));
            }
            Run::OnEveryKey(handler) => {
                let events = events_of(&self.hot, session, &lane.view.tenancy);
                let reach = session.reach(row);
                let reach = lane
                    .view
                    .routes
                    .as_ref()
                    .map_or(reach.clone(), |routes| routes.reach(lane.view.of, session.tenant, reach));
                let (client, signer, reach) = (session.id, session.signs.then_some(session.id), &reach);
                let (keys, place, owner, reads, reader, park) = (&[], None, None, false, None, None);
                let call = Call {
                    argv,
                    words,
                    keys,
                    place,
                    owner,
                    reads,
                    context,
                    events,
                    client,
                    signer,
                    reach,
                    reader,
                    park,
                };
                let node = &self.worker.node;
                let journal = self.gathering.as_deref().unwrap_or(&node.journal);
                let journal = (journal, self.apart || self.executing);
                node.shards.run_on_every_key(handler, &call, &mut scratch.calls, journal, &mut scratch.reply)
            }
            Run::AtOnce(handler) => {
                let reach = session.reach(row);
                let surroundings = self.worker.surroundings(&lane.view, &self.hot, reach.clone());
                match handler(session, &surroundings, Args::new(argv, words)) {
                    Ok(now) => {
                        let keys: Vec<Vec<u8>> = admitted.keys().iter().map(|named| named.key.to_vec()).collect();
                        let flow = self.at_once(now, &reach, session, lane, &keys, scratch);
                        let shows = row.full_name == "exec" && !matches!(flow, Flow::Closed);
                        if shows && self.worker.node.monitors.is_active() {
                            let monitors = &self.worker.node.monitors;
                            monitors.show(now_us(), session.database, &session.address, &session.lasting_reach(), argv);
                        }
                        if matches!(flow, Flow::Continue) {
                            scratch.reply.error_since(mark, |_| self.failed(row));
                        }
                        if let (Flow::Stop(next), Some(connection)) = (&flow, self.connection)
                            && matches!(**next, Next::Ask(..))
                        {
                            // What a command of a transaction asked is that command's.
                            connection.asked.borrow_mut().get_or_insert_with(|| Asked::new(row, argv));
                            return flow;
                        }
                        if !matches!(flow, Flow::Closed) {
                            self.meter.after(self.worker, &self.hot, session, row, argv);
                        }
                        return flow;
                    }
                    Err(error) => Err(error),
                }
            }
            Run::OnSession(handler) => {
                let mut surroundings = self.worker.surroundings(&lane.view, &self.hot, session.reach(row));
                surroundings.now_us = self.frozen_us.unwrap_or(surroundings.now_us);
                let result = handler(session, &surroundings, Args::new(argv, words), &mut scratch.reply);
                scratch.reply.protocol = session.protocol;
                result
            }
            Run::Ask(handler) | Run::AskOwner(handler) => {
                let reach = session.reach(row);
                let surroundings = self.worker.surroundings(&lane.view, &self.hot, reach.clone());
                match handler(session, &surroundings, Args::new(argv, words)) {
                    // Nothing waits within a transaction.
                    Ok(Ask::WaitForReplicas { files, .. }) if self.executing => {
                        let replication = &self.worker.node.replication;
                        let have = replication.count_acked(replication.log.position());
                        crate::asks::show_waited(have, files, &mut scratch.reply);
                        Ok(())
                    }
                    Ok(ask) => {
                        if let Some(connection) = self.connection {
                            *connection.asked.borrow_mut() = Some(Asked::new(row, argv));
                        }
                        return Flow::Stop(Box::new(Next::Ask(Box::new((ask, reach)))));
                    }
                    Err(error) => Err(error),
                }
            }
            Run::Container(_) => Err(CommandError::Arity(row.full_name.to_owned())),
            Run::Refused(text) => {
                Err(CommandError::err(format!("{} is not available: {text}", row.full_name.to_uppercase())))
            }
        };
        // Who waits is counted and measured when it is served.
        if scratch.calls.parked.is_some() {
            session.commands -= 1;
            self.worker.waits(row);
        } else {
            self.meter.after(self.worker, &self.hot, session, row, argv);
        }
        if let Err(error) = result {
            self.failed(row);
            scratch.reply.rewind(mark);
            scratch.reply.command_error(&error);
        } else if scratch.reply.is_too_long() {
            self.worker.stats.errors.add(1);
            scratch.reply.rewind(mark);
            scratch.reply.error(REPLY_TOO_LONG);
        }
        if self.worker.node.audit.wants(AuditEvent::Admin) && insight::is_administration(row) {
            let mut outcome = AdminOutcome::Done;
            scratch.reply.error_since(mark, |_| outcome = AdminOutcome::Refused);
            insight::audit_administration(&self.worker.node, session, row, argv, outcome, self.now);
        }
        if let Some(waiter) = scratch.calls.parked.take() {
            return self.wait_or_refuse(session, row, waiter, scratch);
        }
        if session.closing { Flow::Stop(Box::new(Next::Close)) } else { Flow::Continue }
    }

    /// What becomes of a request that may not run here: it travels, waits, or is answered with the reason.
    #[inline(never)]
    fn not_admitted(
        &mut self,
        session: &mut Session,
        lane: &Lane,
        (request, row): (&Prepared<'a>, &'static Row),
        refusal: Refusal,
        scratch: &mut Scratch,
    ) -> Flow {
        let group = self.worker.node.group;
        // A client that is told where a slot is does not look for a tenant's keys there.
        let by_tenant = |slot| lane.view.routes.as_ref().is_some_and(|routes| routes.of_slot(slot) != group);
        let refusal = match refusal {
            Refusal::Moved(slot) if by_tenant(slot) => Refusal::Elsewhere,
            refusal => refusal,
        };
        match refusal {
            // With several groups, what a client has here does not concern what it asks of another one.
            Refusal::Elsewhere if self.grouped && row.command.home(request.argv) == Home::Data && !self.executing => {
                self.send_elsewhere(session, row, request.argv, request.encoded)
            }
            Refusal::Elsewhere if !self.executing && follows_data(self.worker, self.connection, session) => {
                if self.forward.is_empty() { Flow::Moved } else { Flow::StopBefore }
            }
            Refusal::Elsewhere if self.executing || has_lasting_state(self.connection, session) => {
                session.closing = true;
                scratch.reply.error(crate::forward::NOT_SERVED_HERE);
                Flow::Stop(Box::new(Next::Close))
            }
            Refusal::Elsewhere if row.command.home(request.argv) == Home::DataForGood => {
                if !self.forward.is_empty() {
                    return Flow::StopBefore;
                }
                let mut bytes = Vec::new();
                encode_command(&mut bytes, request.argv);
                Flow::Stop(Box::new(Next::HandOver(bytes)))
            }
            Refusal::Elsewhere => self.send_elsewhere(session, row, request.argv, request.encoded),
            _ if !self.forward.is_empty() => Flow::StopBefore,
            Refusal::Moved(slot) => {
                session.last_command = row.full_name;
                scratch.reply.error(&moved(slot, &lane.view));
                Flow::Continue
            }
            refusal => {
                self.break_transaction(session);
                // What EXEC runs is refused as part of it.
                session.last_command = if self.executing && !self.scripted { "exec" } else { row.full_name };
                self.worker.refused(session, row, &refusal, self.log_context(session));
                if let (Refusal::Denied(_), Some(login)) = (&refusal, &session.login)
                    && insight::is_watched(&self.worker.node, login)
                {
                    let mut keys = Vec::new();
                    self.worker.node.table.keys_of(row, request.argv, &mut keys);
                    insight::record(self.worker, session, row, request.argv, &keys, true);
                }
                let text = refusal.explained(self.conditions.detail, &lane.view.tenancy);
                if row.full_name == "exec" {
                    self.abort_transaction(session, &text, scratch);
                } else {
                    scratch.reply.error(&text);
                }
                Flow::Continue
            }
        }
    }

    /// Runs one request by itself on a thread for slow work, whose worker is alone with its keys; charges for it.
    pub(crate) fn run_apart(
        &mut self,
        session: &mut Session,
        lane: &Lane,
        request: Prepared<'a>,
        closed: &Closed<'_>,
        scratch: &mut Scratch,
    ) {
        self.apart = true;
        // Whether it may run now was decided before it was sent here.
        self.tab.open_paid(session);
        scratch.reply.bytes_max = self.reply_bytes_max();
        self.begin_step(closed.is_part());
        self.answer(session, lane, &request, scratch);
        // Whatever became of it: who asked waits for an answer.
        if scratch.reply.bytes.is_empty() {
            scratch.reply.error(crate::forward::NOT_SERVED_HERE);
        }
        self.end_step();
        self.meter.settle(self.worker, &self.hot, session);
        self.charge(session);
    }

    /// The same for a transaction.
    pub(crate) fn execute_apart(
        &mut self,
        session: &mut Session,
        lane: &Lane,
        (transaction, watch): (Transaction, Option<Arc<Watch>>),
        closed: &Closed<'_>,
        scratch: &mut Scratch,
    ) {
        self.apart = true;
        self.tab.open_paid(session);
        scratch.reply.bytes_max = self.reply_bytes_max();
        let flow = self.execute_alone(session, lane, (transaction, watch), closed, scratch);
        if !matches!(flow, Flow::Continue) {
            scratch.reply.bytes.clear();
            scratch.reply.error(crate::forward::NOT_SERVED_HERE);
        }
        self.meter.settle(self.worker, &self.hot, session);
        self.charge(session);
    }

    /// Whether there is memory for a command that needs some; keys are evicted first.
    #[inline]
    pub(crate) fn look_for_memory(
        &mut self,
        session: &Session,
        lane: &Lane,
        row: &'static Row,
        request: &Prepared<'_>,
    ) {
        let (worker, tenancy) = (self.worker, &*lane.view.tenancy);
        let writer = session.login.as_ref().and_then(|login| login.tenant.as_deref());
        // Who asks for no memory gives none of its own.
        if !row.command.flags.has(Flags::DENYOOM) {
            let claim = Claim { tenancy, writer: None, owners: &[] };
            self.conditions.memory = worker.memory_for(&self.hot, &claim, self.now);
            return;
        }
        let all_its_own = || !tenancy.bounds_memory() || writer.is_some_and(writes_only_its_own);
        self.conditions.memory = match self.owner_of(lane, row, request) {
            _ if all_its_own() => worker.memory_for(&self.hot, &Claim { tenancy, writer, owners: &[] }, self.now),
            Some(owner) => worker.memory_for(&self.hot, &Claim { tenancy, writer, owners: &[owner] }, self.now),
            None => {
                let mut keys = KeyBuffer::new();
                self.memory_for(session, &lane.view, keys.written(worker.node.table, row, request.argv))
            }
        };
    }

    /// Whose the only key is that a request names, if that was asked when it was prepared.
    #[inline]
    fn owner_of(&self, lane: &Lane, row: &Row, request: &Prepared<'_>) -> Option<TenantId> {
        let names_one = row.lone_key.is_some() && row.lone_key == row.first_key;
        request.owner.filter(|_| names_one && self.prepared_under == Some(lane.generation))
    }

    /// The same for whoever writes these keys.
    pub(crate) fn memory_for<'k>(
        &self,
        session: &Session,
        view: &View,
        keys: impl Iterator<Item = &'k [u8]>,
    ) -> Memory {
        let writer = session.login.as_ref().and_then(|login| login.tenant.as_deref());
        let mut owners = Vec::new();
        note_owners(&view.tenancy, writer, keys, &mut owners);
        let claim = Claim { tenancy: &view.tenancy, writer, owners: &owners };
        self.worker.memory_for(&self.hot, &claim, self.now)
    }

    /// Keeps a request for EXEC, unless the client would hold too much.
    fn queue(&self, session: &mut Session, row: &Row, argv: &[&[u8]], reply: &mut Reply) {
        let more = transaction::bytes_of(argv) as u64;
        if let Some(text) = self.connection.and_then(|connection| connection.lacks_room(session, more)) {
            self.break_transaction(session);
            self.failed(row);
            return reply.error(&text);
        }
        transaction::queue(session, row, argv, self.hot.decoder.request_bytes_max, reply);
        if let (Some(connection), Some(transaction)) = (self.connection, &session.transaction) {
            connection.mailbox.holding.set(holding::Part::Queue, transaction.bytes as u64);
        }
    }

    /// The longest answer this client may get, in bytes.
    #[inline]
    pub(crate) fn reply_bytes_max(&self) -> usize {
        let all = if self.tab.is_confined { self.hot.confined_reply_bytes_max } else { self.hot.reply_bytes_max() };
        let own = self.tab.reply_bytes_max;
        if own == 0 { all } else { all.min(usize::try_from(own).unwrap_or(usize::MAX)) }
    }

    /// A client that found nothing waits, unless as many of its tenant wait as may.
    fn wait_or_refuse(&self, session: &mut Session, row: &Row, waiter: Arc<Waiter>, scratch: &mut Scratch) -> Flow {
        let taken = session.login.as_ref().map_or_else(|| Ok(Waiting::default()), Waiting::take);
        match (taken, self.connection) {
            (Ok(place), Some(connection)) => {
                *connection.waiting.borrow_mut() = place;
                Flow::Stop(Box::new(Next::Blocked(waiter)))
            }
            (Ok(_), None) => Flow::Stop(Box::new(Next::Blocked(waiter))),
            (Err(text), _) => {
                // Somebody may have served it in this moment: then it has its answer.
                let answer = waiter.give_up();
                self.worker.node.shards.leave(&waiter);
                session.commands += 1;
                self.worker.count(row);
                match answer {
                    Some(answer) => scratch.reply.raw(&answer),
                    None => {
                        self.failed(row);
                        pace::note_limit(self.worker, session);
                        scratch.reply.error(&text);
                    }
                }
                Flow::Continue
            }
        }
    }

    #[cold]
    fn refuse_for_rate(&self, session: &mut Session, row: &Row, over: &Over, scratch: &mut Scratch) -> Flow {
        self.break_transaction(session);
        self.worker.stats.errors.add(1);
        self.worker.stats.refusals[usize::from(row.id)].add(1);
        session.last_command = row.full_name;
        let text = session.login.as_ref().map(|login| pace::throttled(login, over)).unwrap_or_default();
        if row.full_name == "exec" {
            self.abort_transaction(session, &text, scratch);
        } else {
            scratch.reply.error(&text);
        }
        Flow::Continue
    }

    /// The client's tracker, if the keys of its next command are to be remembered for it.
    #[inline]
    pub(crate) fn caches(&self) -> Option<Arc<Tracker>> {
        caches(self.connection, &self.tracker)
    }

    fn failed(&self, row: &Row) {
        self.worker.stats.failures[usize::from(row.id)].add(1);
        if !self.scripted {
            self.worker.stats.errors.add(1);
        }
    }

    fn log_context(&self, session: &Session) -> LogContext {
        if self.scripted {
            LogContext::Lua
        } else if self.executing || session.transaction.is_some() {
            LogContext::Multi
        } else {
            LogContext::Toplevel
        }
    }

    /// A request was refused between MULTI and EXEC.
    fn break_transaction(&self, session: &mut Session) {
        if let Some(transaction) = session.transaction.as_mut().filter(|_| !self.executing) {
            transaction.broken = true;
        }
    }

    /// Runs the requests of those who waited for keys that were written, first come first. `alone`: only those who can touch
    /// nothing but what the caller is alone with. Keys for which somebody has to wait on stay in the list of the ready.
    pub(crate) fn serve_ready(&mut self, view: &Arc<View>, alone: Option<&Closed<'_>>, scratch: &mut Scratch) {
        // What is served may write keys others wait for: they join at the end.
        let mut at = 0;
        let mut later = Vec::new();
        while let Some((space, key)) = scratch.calls.ready.get(at).cloned() {
            at += 1;
            let shards = &self.worker.node.shards;
            let (queue, kind) = shards.queue(space, &key, self.now);
            for waiter in queue {
                if waiter.is_waiting() && self.concerns(&waiter, kind) {
                    if self.must_wait_on(&waiter, alone) {
                        later.push((space, key.clone()));
                        continue;
                    }
                    let served = waiter.try_serve(|| self.answer_waiting(&waiter, view, scratch));
                    if served {
                        shards.leave(&waiter);
                    }
                }
            }
        }
        scratch.calls.ready = later;
    }

    /// Whether the waiting client may touch keys that somebody is alone with.
    fn must_wait_on(&self, waiter: &Waiter, alone: Option<&Closed<'_>>) -> bool {
        if let Some(closed) = alone {
            return !closed.encloses(waiter.session.lock().tenant);
        }
        let Some(parts) = self.beside.as_ref().filter(|parts| !parts.is_empty()) else { return false };
        let tenant = waiter.session.lock().tenant;
        let owned = |part: &Arc<Part>| waiter.keys.iter().any(|key| part.owns_for(tenant, key));
        parts.iter().any(|part| part.is_of(tenant) || owned(part))
    }

    /// Whether a key of this type may end the wait: a list ends BLPOP, a string does not. A consumer group may also be told
    /// that its stream is gone.
    fn concerns(&self, waiter: &Waiter, kind: Option<&'static str>) -> bool {
        let argv: Vec<&[u8]> = waiter.argv.iter().map(Vec::as_slice).collect();
        let Ok(Resolved { row, .. }) = self.worker.node.table.resolve(&argv) else { return false };
        match row.command.group {
            Group::List => kind == Some("list"),
            Group::SortedSet => kind == Some("zset"),
            Group::Stream => kind == Some("stream") || row.command.flags.has(Flags::WRITE),
            _ => true,
        }
    }

    /// Runs a waiting request again. `None`: it still finds nothing.
    fn answer_waiting(&self, waiter: &Waiter, view: &Arc<View>, scratch: &mut Scratch) -> Option<Vec<u8>> {
        let argv: Vec<&[u8]> = waiter.argv.iter().map(Vec::as_slice).collect();
        let mut session = waiter.session.lock();
        let mut reply = Reply::new(session.protocol);
        // A user that is gone loses the connection too; until then it gets nothing.
        let stays = planted!(BlockedNotRechecked) || renew(&mut session, view);
        let resolved = stays.then(|| self.worker.node.table.resolve(&argv).ok()).flatten()?;
        let Run::OnKeys(handler) = resolved.row.run else { return None };
        let mut keys = KeyBuffer::new();
        let (table, mut conditions) = (self.worker.node.table, self.conditions);
        if resolved.row.command.flags.has(Flags::DENYOOM) {
            let mut written = KeyBuffer::new();
            conditions.memory = self.memory_for(&session, view, written.written(table, resolved.row, &argv));
        }
        match gate::admit(table, resolved.row, &argv, &session, &conditions, &mut keys) {
            Err(refusal) => {
                self.worker.refused(&session, resolved.row, &refusal, LogContext::Toplevel);
                reply.error(&refusal.explained(conditions.detail, &view.tenancy));
            }
            // It looks for itself where its keys are now.
            Ok(admitted) if !self.are_here(view, session.tenant, admitted.keys()) => return None,
            Ok(admitted) => {
                let waits = std::cell::Cell::new(false);
                let park = |_| {
                    waits.set(true);
                    waiter.again(session.for_later())
                };
                let call = Call {
                    argv: &argv,
                    words: resolved.words,
                    keys: admitted.keys(),
                    place: None,
                    owner: None,
                    reads: false,
                    context: call_context(self.worker, &self.hot, &session, self.now),
                    events: events_of(&self.hot, &session, &view.tenancy),
                    client: session.id,
                    signer: session.signs.then_some(session.id),
                    reach: &Reach::Nothing,
                    reader: None,
                    park: Some(&park),
                };
                let node = &self.worker.node;
                let began = Instant::now();
                let result = node.shards.run(handler, &call, &mut scratch.calls, &node.journal, &mut reply);
                scratch.calls.parked = None;
                if waits.get() {
                    return None;
                }
                self.worker.count(resolved.row);
                self.worker.took(&self.hot, &session, resolved.row, &argv, began.elapsed());
                if let Err(error) = result {
                    self.worker.failed(resolved.row);
                    reply.bytes.clear();
                    reply.command_error(&error);
                }
            }
        }
        if let Some((b'-', error)) = reply.bytes.split_first() {
            self.worker.stats.error_words.lock().note(error);
        }
        Some(reply.bytes)
    }

    /// Whether these keys are this group's, and not about to be another's.
    fn are_here(&self, view: &View, tenant: TenantId, keys: &[KeyUse<'_>]) -> bool {
        let Some(routes) = &view.routes else { return true };
        let ours = routes.of_keys(tenant, keys).is_ok_and(|of| of.is_none_or(|of| of == self.worker.node.group));
        ours && !self.worker.node.bar.bars(tenant, keys)
    }

    /// Another node serves the data: the request joins those that travel there together.
    fn send_elsewhere(
        &mut self,
        session: &mut Session,
        row: &'static Row,
        argv: &[&[u8]],
        encoded: Option<&[u8]>,
    ) -> Flow {
        // Without replies the count would not tell which answer belongs to what; and what may wait there must not keep
        // others waiting: one at a time.
        let silent = session.replies != ReplyMode::On;
        let alone = silent || matches!(row.run, Run::AskOwner(_)) || row.full_name == "keys";
        if alone && !self.forward.is_empty() {
            return Flow::StopBefore;
        }
        session.commands += 1;
        self.tab.tally.operations += 1;
        self.tab.tally.forwarded += 1;
        session.last_command = row.full_name;
        self.worker.count(row);
        let group = self.worker.node.group;
        let writes = !row.command.flags.has(Flags::READONLY);
        let cached = !writes && self.caches().is_some();
        if self.grouped && (self.spread.is_some() || !self.forward.is_empty() && self.forward.group != group) {
            self.spread_out(group, (writes, cached), argv, encoded);
            return Flow::Continue;
        }
        self.forward.group = group;
        self.forward.add(argv, encoded);
        self.forward.writes |= writes;
        if cached {
            self.forward.cache_last();
        }
        self.forward.complete = alone;
        if silent {
            self.forward.silent = true;
            if session.replies == ReplyMode::SkipNext {
                session.replies = ReplyMode::On;
                self.forward.skipped = true;
            }
        }
        Flow::Continue
    }
}

impl Batch<'_, '_> {
    /// Other requests wait for another group's answers: this one travels beside them.
    fn spread_out(&mut self, group: GroupId, (writes, cached): (bool, bool), argv: &[&[u8]], encoded: Option<&[u8]>) {
        let first = &mut self.forward;
        let spread = self.spread.get_or_insert_with(|| {
            let order = vec![first.group; first.count() as usize];
            Box::new(Spread { others: Vec::new(), order })
        });
        spread.order.push(group);
        let batch = if first.group == group {
            first
        } else {
            let at = spread.others.iter().position(|other| other.group == group).unwrap_or(spread.others.len());
            if at == spread.others.len() {
                spread.others.push(ForwardBatch::of(group));
            }
            &mut spread.others[at]
        };
        batch.add(argv, encoded);
        batch.writes |= writes;
        if cached {
            batch.cache_last();
        }
    }
}

/// A request that does not belong where it was led.
enum Stray {
    /// It must be led anew.
    Shifted,
    /// It belongs nowhere.
    Refused(&'static str),
}

/// Nothing runs in a group whose keys it does not name, nor does half of what concerns every group, nor anything on keys that
/// are about to be another group's.
fn stray(
    worker: &Worker,
    (executing, anywhere, share): (bool, bool, bool),
    session: &Session,
    lane: &Lane,
    routes: &Routes,
    admitted: &Admitted<'_, '_>,
) -> Option<Stray> {
    let (row, keys) = (admitted.row(), admitted.keys());
    let of = routes.of_keys(session.tenant, keys);
    let on_every_key = matches!(row.run, Run::OnEveryKey(_));
    let all = routes::whole(row).is_some() || on_every_key;
    let whole = executing && !share && routes.home(session.tenant).is_none() && all;
    let led = !executing && !anywhere;
    match of {
        Ok(Some(of)) if of != lane.view.of && led => return Some(Stray::Shifted),
        // They were led here as keys of one group; some were moved since.
        Err(_) if led => return Some(Stray::Shifted),
        Ok(of) if of.map_or(whole, |of| of != lane.view.of) => return Some(Stray::Refused(routes::ACROSS)),
        Err(_) => return Some(Stray::Refused(routes::ACROSS)),
        Ok(_) if row.full_name == "swapdb" && routes.moving().is_some() => {
            let text = "TRYAGAIN keys are being moved to another shard group: databases are not exchanged meanwhile";
            return Some(Stray::Refused(text));
        }
        Ok(_) => {}
    }
    let bar = &worker.node.bar;
    let flushes = on_every_key && row.command.flags.has(Flags::WRITE);
    if !bar.is_active() || anywhere || !(flushes || bar.bars(session.tenant, keys)) {
        return None;
    }
    // A script names it that did not say so before.
    Some(if led { Stray::Shifted } else { Stray::Refused("TRYAGAIN the key is on its way to another shard group") })
}

/// Whether somebody is alone with what a request would touch; `Some(true)`: for so long that its client is told.
#[cold]
fn is_barred(
    beside: Option<&Parts>,
    session: &Session,
    row: &Row,
    (argv, keys): (&[&[u8]], &[KeyUse<'_>]),
) -> Option<bool> {
    let names_all = !keys.is_empty() && !locks_everything(row, argv);
    let touches = |part: &Arc<Part>| match row.run {
        Run::OnKeys(_) | Run::AtOnce(_) if keys.is_empty() => false,
        Run::OnKeys(_) | Run::OnEveryKey(_) | Run::AtOnce(_) => {
            // Other tenants, and namespaces, mostly have no key in common with it.
            part.is_of(session.tenant)
                || !names_all && part.concerns(session.tenant)
                || keys.iter().any(|named| part.owns_for(session.tenant, named.key))
        }
        _ => false,
    };
    let parts = beside?.iter().filter(|part| touches(part));
    parts.map(|part| part.is_busy()).reduce(|one, other| one || other)
}

/// What a data thread has no time for, or would have to wait for, is done elsewhere or later. `noted`: see [`Batch`].
fn set_aside(
    (worker, connection, noted): (&Worker, Option<&Rc<Connection>>, &mut usize),
    session: &mut Session,
    (row, request): (&'static Row, &Prepared<'_>),
    keys: &[KeyUse<'_>],
) -> Option<Flow> {
    let (shards, argv) = (&worker.node.shards, request.argv);
    if shards.keeps_any() {
        if shards.keeps(keys.iter().map(|named| named.key)) {
            return Some(Flow::Closed);
        }
        if crate::walks::may_walk(row) {
            return Some(elsewhere(session, row, request, false));
        }
        // It takes every lock, one after the other.
        if locks_everything(row, argv) {
            return Some(Flow::Closed);
        }
    }
    let is_long = || {
        let sum = || request.argv.iter().map(|word| word.len()).sum();
        let bytes = request.encoded.map_or_else(sum, <[u8]>::len);
        bytes > large::BYTES_AT_ONCE && matches!(row.run, Run::OnKeys(_))
            || large::is_long(worker, session, row, argv, keys)
    };
    if !large::concerns(session) || !is_long() || !has_part(session) {
        return None;
    }
    // Where it was sent before it found nothing: now it may wait. Those who watch were told of it there.
    if connection.is_some_and(|connection| connection.has_looked.take()) {
        *noted = place_of(argv);
        return None;
    }
    Some(elsewhere(session, row, request, false))
}

/// Tells a request from others that are under way.
pub(crate) fn place_of(argv: &[&[u8]]) -> usize {
    argv.as_ptr() as usize
}

/// Whether a command takes the locks of keys it does not name.
pub(crate) fn locks_everything(row: &Row, argv: &[&[u8]]) -> bool {
    let further = || row.command.extra.looks_further.is_none_or(|looks| looks(argv).is_some());
    matches!(row.run, Run::OnEveryKey(_)) && further()
}

/// `noted`: those who watch what is run were told of it.
fn elsewhere(session: &mut Session, row: &'static Row, request: &Prepared<'_>, noted: bool) -> Flow {
    session.last_command = row.full_name;
    let next = match request.encoded.filter(|encoded| encoded.len() > large::BYTES_AT_ONCE) {
        Some(encoded) => {
            let place = |word: &&[u8]| {
                let from = word.as_ptr() as usize - encoded.as_ptr() as usize;
                from..from + word.len()
            };
            Next::Lift(request.argv.iter().map(place).collect(), encoded.len(), noted)
        }
        None => {
            let words = Words::copy(request.argv.iter().copied());
            Next::Walk(if noted { words.noted() } else { words })
        }
    };
    Flow::Stop(Box::new(next))
}

/// Whether others can go on while somebody is alone with all this client can touch.
pub(crate) fn has_part(session: &Session) -> bool {
    matches!(Extent::of(session), Extent::Part(_))
}

/// Whether a command walks over more keys than this thread has time for, and need not be one step with others.
fn walks_apart(
    worker: &Worker,
    connection: Option<&Rc<Connection>>,
    session: &Session,
    row: &'static Row,
    argv: &[&[u8]],
) -> bool {
    let Some(connection) = connection else { return false };
    let apart = crate::walks::is_long(worker, session, row, argv);
    if apart {
        *connection.asked.borrow_mut() = Some(Asked::new(row, argv));
    }
    apart
}

/// Shows a command to those who watch. Passwords are nobody's business; administration is not shown either, as in Redis.
#[cold]
fn show(worker: &Worker, session: &Session, row: &Row, argv: &[&[u8]], scripted: bool) {
    let flags = row.command.flags;
    if !flags.has(Flags::SKIP_MONITOR) && !flags.has(Flags::ADMIN) && !flags.has(Flags::NO_AUTH) {
        let source = if scripted { "lua" } else { &session.address };
        worker.node.monitors.show(now_us(), session.database, source, &session.lasting_reach(), argv);
    }
}

/// Which events are told of what this client does.
#[inline]
pub(crate) fn events_of(hot: &Hot, session: &Session, tenancy: &Tenancy) -> Wanted {
    let tenant = session.login.as_ref().and_then(|login| login.tenant.as_ref());
    match (tenant.filter(|tenant| tenant.is_namespace()), tenancy.told()) {
        // Nobody else has keys there.
        (Some(tenant), _) => Wanted::of_all(hot.events.and(tenant.limits.events)),
        (None, None) => Wanted::of_all(hot.events),
        (None, Some(told)) => Wanted { of_all: hot.events, of_any: hot.events.and(told.any) },
    }
}

/// See [`Batch::caches`].
#[inline]
fn caches(connection: Option<&Rc<Connection>>, scripts: &Option<Arc<Tracker>>) -> Option<Arc<Tracker>> {
    let Some(connection) = connection else { return scripts.clone() };
    let tracker = connection.tracking.borrow().clone()?;
    tracker.remembers(connection.caching.get()).then_some(tracker)
}

/// Whether the client has something here that it can take along to where the data is.
fn follows_data(worker: &Worker, connection: Option<&Rc<Connection>>, session: &Session) -> bool {
    let may_move = |connection: &&Rc<Connection>| crate::moving::may_move(worker, connection, session);
    connection.filter(may_move).is_some_and(|connection| connection.has_lasting_state(session))
}

/// Whether the client has something here that does not move along with the data: it must begin anew elsewhere.
fn has_lasting_state(connection: Option<&Rc<Connection>>, session: &Session) -> bool {
    connection.is_some_and(|connection| connection.has_lasting_state(session))
}

/// Where a cluster client finds a slot.
fn moved(slot: u16, view: &View) -> String {
    match view.topology.primary_of(slot) {
        Some(primary) => format!("MOVED {slot} {}:{}", primary.host, primary.port),
        None => "CLUSTERDOWN Hash slot not served".to_owned(),
    }
}

/// A client begins to wait for the keys of its request.
fn park(
    connection: Option<&Rc<Connection>>,
    session: &Session,
    space: SpaceId,
    argv: &[&[u8]],
    keys: &[KeyUse<'_>],
    mut wait: Wait,
) -> Arc<Waiter> {
    let request = wait.again.take().unwrap_or_else(|| argv.iter().map(|argument| argument.to_vec()).collect());
    let keys = keys.iter().map(|named| named.key.to_vec()).collect();
    let mailbox = connection.expect("only a connected client waits").mailbox.clone();
    // Keys are watched where everybody who can write them finds them, whoever's they are.
    Waiter::new(request, keys, space.world(), session.for_later(), wait, mailbox)
}

/// How much memory a value may take that comes packed, for whoever owns these keys.
#[cold]
fn room_bytes(worker: &Worker, hot: &Hot, session: &Session, tenancy: &Tenancy, keys: &[KeyUse<'_>]) -> u64 {
    let writer = session.login.as_ref().and_then(|login| login.tenant.as_deref());
    let mut owners = Vec::new();
    note_owners(tenancy, writer, keys.iter().map(|named| named.key), &mut owners);
    Claim { tenancy, writer, owners: &owners }.room_bytes(hot, worker.node.memory_bytes())
}

/// What a call on data is lent.
#[inline(always)]
pub(crate) fn call_context<'h>(worker: &Worker, hot: &'h Hot, session: &Session, now: i64) -> CallContext<'h> {
    CallContext {
        layout: worker.node.shards.layout(),
        space: SpaceId { tenant: session.tenant, database: session.database },
        now,
        limits: &hot.limits,
        value_bytes_max: pace::value_bytes_max(session, hot.value_bytes_max),
        room_bytes: u64::MAX,
        databases: worker.node.config.databases,
        random: worker.next_random(),
        no_touch: session.no_touch,
        usage: hot.eviction.usage,
        keeps_expired: false,
    }
}

/// What a forwarded request asks of the node that holds the data, if it is of that kind and the user may. What other
/// asks do concerns the node the client is connected to, and is refused by [`run_forwarded`].
pub fn ask_forwarded(worker: &Worker, session: &mut Session, view: &Arc<View>, argv: &[&[u8]]) -> Option<(Ask, Reach)> {
    let Resolved { row, words } = worker.node.table.resolve(argv).ok()?;
    let (Run::AskOwner(handler) | Run::Ask(handler)) = row.run else { return None };
    let hot = worker.hot();
    let mut keys = KeyBuffer::new();
    gate::admit(worker.node.table, row, argv, session, &worker.conditions(view, &hot), &mut keys).ok()?;
    let reach = session.reach(row);
    let ask = handler(session, &worker.surroundings(view, &hot, reach.clone()), Args::new(argv, words)).ok()?;
    let for_owner = matches!(
        ask,
        Ask::Save
            | Ask::SaveInBackground
            | Ask::ShowLastSave
            | Ask::ShowInfo(_)
            | Ask::WaitForReplicas { .. }
            | Ask::Tenant(TenantAsk::Stats { .. })
    );
    for_owner.then_some((ask, reach))
}

/// What is wrong with the words of something that is asked of the node that holds the data.
fn refused_ask(worker: &Worker, session: &Session, view: &Arc<View>, request: &Prepared<'_>) -> Option<CommandError> {
    let resolved = request.resolved.as_ref().ok()?;
    let Run::AskOwner(handler) = resolved.row.run else { return None };
    let surroundings = worker.surroundings(view, &worker.hot(), session.reach(resolved.row));
    handler(session, &surroundings, Args::new(request.argv, resolved.words)).err()
}

/// What became of a batch that another node forwarded.
pub enum Ran {
    /// So many of its requests were answered: once the replies are long, the sender must ask for the rest again, so that
    /// a batch of large reads is not held as a whole.
    Answered(u32),
    /// None was run: clients are paused.
    Paused,
    /// None was run: the first of them takes longer than a data thread has time for. Whether it was begun before, and those who
    /// watch were told.
    Long(bool),
    /// None was run: the keys are another shard group's, or about to be.
    Shifted,
    /// None was run: another node serves the data now.
    NotPrimary,
    /// None was run: the user is gone.
    UserGone,
}

/// Runs a batch that another node forwarded, as the user it names. The caller is in the corridor, unless somebody keeps it
/// `busy`. The replies are in `scratch.reply`.
pub fn run_forwarded(
    worker: &Worker,
    session: &mut Session,
    lane: &mut Lane,
    argvs: &[&[&[u8]]],
    (busy, beside): (bool, Option<Parts>),
    scratch: &mut Scratch,
) -> Ran {
    let hot = worker.hot();
    scratch.reply.bytes.clear();
    scratch.reply.protocol = session.protocol;
    // A reply must also be one that the sender takes.
    scratch.reply.bytes_max = hot.reply_bytes_max().min(crate::carrier::BODY_BYTES_MAX);
    if busy {
        argvs.iter().for_each(|_| scratch.reply.error(&Refusal::Busy.text(hot.detail)));
        return Ran::Answered(argvs.len() as u32);
    }
    let conditions = worker.conditions(&lane.view, &hot);
    let mut batch = Batch::new(worker, None, worker.now_ms(), conditions, hot);
    let mut answered = 0;
    batch.beside = beside;
    batch.tab.open(session);
    for argv in argvs {
        let ended = if !lane_is_current(worker, lane, session, &mut batch) {
            Some(Ran::UserGone)
        } else if !batch.conditions.primary {
            Some(Ran::NotPrimary)
        } else if scratch.reply.bytes.len() > OUTPUT_BYTES_SOFT {
            Some(Ran::Answered(answered))
        } else {
            batch.step_forwarded(session, lane, &Prepared::placed(worker, argv), scratch)
        };
        match ended {
            None => answered += 1,
            Some(ended) if answered == 0 => return ended,
            Some(_) => break,
        }
    }
    batch.meter.settle(worker, &batch.hot, session);
    batch.charge(session);
    worker.node.shards.tracking.deliver();
    Ran::Answered(answered)
}

impl<'a> Batch<'_, 'a> {
    /// One request of another node's client. `None`: answered.
    fn step_forwarded(
        &mut self,
        session: &mut Session,
        lane: &Lane,
        request: &Prepared<'a>,
        scratch: &mut Scratch,
    ) -> Option<Ran> {
        let data = |resolved: &Resolved<'_>| match resolved.row.run {
            Run::OnKeys(_) | Run::OnEveryKey(_) => true,
            Run::AtOnce(_) => {
                resolved.row.command.home(request.argv) == Home::Data || routes::whole(resolved.row).is_some()
            }
            _ => false,
        };
        if !request.resolved.as_ref().is_ok_and(data) {
            match refused_ask(self.worker, session, &lane.view, request) {
                Some(error) => scratch.reply.command_error(&error),
                None => scratch.reply.error("ERR only data commands are forwarded"),
            }
            return None;
        }
        match self.step(session, lane, request, scratch) {
            Flow::Paused | Flow::Held(_) | Flow::Closed | Flow::StopBefore | Flow::Moved => Some(Ran::Paused),
            // Waiting for it here would keep others of this link waiting, too.
            Flow::Shifted => Some(Ran::Shifted),
            Flow::Stop(next) => match *next {
                Next::Walk(words) => Some(Ran::Long(words.is_noted())),
                _ => None,
            },
            Flow::Continue => None,
        }
    }
}
