//! One request: what may stop it, in one order; then it is noted, run as its command says, and answered.
//!
//! ```text
//!   known ─► its user's rate ─► memory ─► gate ─► put off? ─► noted ─► run ─► answered, measured, audited
//! ```

use super::elsewhere::{
    Stray, elsewhere, follows_data, has_lasting_state, has_part, is_barred, moved, place_of, set_aside, stray,
    walks_apart,
};
use super::waiting::park;
use super::{Batch, Flow, Prepared};
use crate::connection::{Connection, Lane, Next};
use crate::gate::{self, Admitted, KeyBuffer, Memory, Refusal};
use crate::insight::audit::AuditEvent;
use crate::insight::{self, AdminOutcome};
use crate::live::Hot;
use crate::memory::{Claim, note_owners, writes_only_its_own};
use crate::meter::Asked;
use crate::monitor::Shown;
use crate::observers::Waiter;
use crate::pace::{self, Pace};
use crate::patience;
use crate::pause::Paused;
use crate::shards::{Call, EveryKeyHandler, KeysHandler, Reader, Wanted};
use crate::tracking::Tracker;
use crate::view::View;
use crate::walks::Words;
use crate::worker::{Scratch, Worker, now_us};
use crate::{holding, large, transaction};
use keyward_acl::{KeyUse, LogContext};
use keyward_engine::account::Over;
use keyward_engine::args::Args;
use keyward_engine::asks::{Ask, Now};
use keyward_engine::command::{Flags, Home, Run};
use keyward_engine::effects::Wait;
use keyward_engine::error::CommandError;
use keyward_engine::keyspace::{CallContext, SpaceId, TenantId};
use keyward_engine::reply::Reply;
use keyward_engine::scope::Reach;
use keyward_engine::session::{ReplyMode, Session};
use keyward_engine::span::Span;
use keyward_engine::table::{Resolved, Row};
use keyward_engine::tenancy::Tenancy;
use keyward_proto::resp::encode_command;
use std::rc::Rc;
use std::sync::Arc;

/// Shows a command to those who watch. Passwords are nobody's business; administration is not shown either, as in Redis.
#[cold]
fn show(worker: &Worker, session: &Session, row: &Row, argv: &[&[u8]], scripted: bool) {
    let flags = row.command.flags;
    if !flags.has(Flags::SKIP_MONITOR) && !flags.has(Flags::ADMIN) && !flags.has(Flags::NO_AUTH) {
        let source = if scripted { "lua" } else { &session.address };
        show_line(worker, session, source, argv);
    }
}

/// The same of any command, from a client's address or from a script.
#[cold]
pub(crate) fn show_line(worker: &Worker, session: &Session, source: &str, argv: &[&[u8]]) {
    let (now_us, now_ns, database) = (now_us(), pace::now_ns(), session.database);
    let of = &session.lasting_reach();
    worker.node.monitors.show(&Shown { now_us, now_ns, database, source, of, argv }, worker.hot().monitor_per_second);
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
pub(super) fn caches(connection: Option<&Rc<Connection>>, scripts: &Option<Arc<Tracker>>) -> Option<Arc<Tracker>> {
    let Some(connection) = connection else { return scripts.clone() };
    let tracker = connection.tracking.borrow().clone()?;
    tracker.remembers(connection.caching.get()).then_some(tracker)
}

/// Whether somebody speaks HTTP to the client port: a page in a browser can make it do so, and the rest of what it sends would
/// be read as commands.
#[cold]
fn is_of_a_browser(argv: &[&[u8]]) -> bool {
    argv.first().is_some_and(|word| word.eq_ignore_ascii_case(b"post") || word.eq_ignore_ascii_case(b"host:"))
}

/// How much memory a value may take, or grow by, for whoever owns these keys.
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
        patience: None,
    }
}

/// A request that was let in.
struct Entrant<'s, 'a> {
    lane: &'s Lane,
    request: &'s Prepared<'a>,
    admitted: Admitted<'a, 's>,
    /// How many words the name of its command has.
    words: usize,
}

impl<'w, 'a> Batch<'w, 'a> {
    // It and what it is made of are one piece to the machine, as they are one walk to a request: calls in between cost a write a
    // twentieth of what it takes.
    #[inline(always)]
    pub(super) fn admit_and_run(
        &mut self,
        session: &mut Session,
        lane: &Lane,
        request: &Prepared<'a>,
        scratch: &mut Scratch,
    ) -> Flow {
        let (row, words) = match &request.resolved {
            Ok(Resolved { row, words }) => (*row, *words),
            Err(_) if !self.forward.is_empty() => return Flow::StopBefore,
            Err(_) if is_of_a_browser(request.argv) => {
                tracing::warn!(address = %session.address, "a request over HTTP came to the client port: closed");
                return Flow::Stop(Box::new(Next::Close));
            }
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
                Pace::Refused(over) => return self.refuse_for_rate(session, row, request.argv, &over, scratch),
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
        let mut keys = std::mem::take(&mut self.keys);
        let table = self.worker.node.table;
        let flow = match gate::admit(table, row, request.argv, session, &self.conditions, &mut keys) {
            Ok(admitted) => self.run_admitted(session, &Entrant { lane, request, admitted, words }, scratch),
            Err(refusal) => self.not_admitted(session, lane, (request, row), refusal, scratch),
        };
        self.keys = keys;
        flow
    }

    /// Bounds what may take long, once for all of a transaction. For confined users what runs here is short.
    fn bound(&mut self, session: &Session) {
        if self.apart || self.executing && self.patience.is_some() {
            return;
        }
        let is_confined = large::concerns(session);
        self.patience = if is_confined { None } else { patience::of_request(session, self.worker.lane) };
    }

    #[inline(always)]
    fn run_admitted(&mut self, session: &mut Session, entrant: &Entrant<'_, 'a>, scratch: &mut Scratch) -> Flow {
        if let Some(flow) = self.put_off(session, entrant, scratch) {
            return flow;
        }
        let Entrant { lane, admitted, words, .. } = entrant;
        let (row, argv) = (admitted.row(), admitted.argv());
        self.note(session, entrant.request, admitted);
        self.meter.before(self.worker, &self.hot, session, row);
        if row.span != Span::Few {
            self.bound(session);
        }
        let mark = scratch.reply.mark();
        let result = match row.run {
            Run::OnKeys(handler) => match self.run_on_keys(handler, session, entrant, scratch) {
                Ok(result) => result,
                Err(flow) => return flow,
            },
            Run::OnEveryKey(_) if !self.executing && walks_apart(self.worker, self.connection, session, row, argv) => {
                return Flow::Stop(Box::new(Next::Walk(Words::copy(argv.iter().copied()))));
            }
            Run::OnEveryKey(handler) => self.run_on_every_key(handler, session, entrant, scratch),
            Run::AtOnce(handler) => {
                let reach = session.reach(row);
                let surroundings = self.worker.surroundings(&lane.view, &self.hot, reach.clone());
                match handler(session, &surroundings, Args::new(argv, *words)) {
                    Ok(now) => return self.done_at_once(now, &reach, session, entrant, scratch),
                    Err(error) => Err(error),
                }
            }
            Run::OnSession(handler) => {
                let mut surroundings = self.worker.surroundings(&lane.view, &self.hot, session.reach(row));
                surroundings.now_us = self.frozen_us.unwrap_or(surroundings.now_us);
                let result = handler(session, &surroundings, Args::new(argv, *words), &mut scratch.reply);
                scratch.reply.protocol = session.protocol;
                result
            }
            Run::Ask(handler) | Run::AskOwner(handler) => {
                let reach = session.reach(row);
                let surroundings = self.worker.surroundings(&lane.view, &self.hot, reach.clone());
                match handler(session, &surroundings, Args::new(argv, *words)) {
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
            scratch.reply.error(&self.hot.reply_too_long(session));
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

    /// Whether a request that was let in does not run now, or not here: what was asked before must be awaited, its user has a
    /// transaction open, others are alone with its keys, or it takes long.
    #[inline(always)]
    fn put_off(&mut self, session: &mut Session, entrant: &Entrant<'_, 'a>, scratch: &mut Scratch) -> Option<Flow> {
        let Entrant { lane, request, admitted, .. } = entrant;
        let row = admitted.row();
        if !self.forward.is_empty() {
            // Its answer has its place among those of the others.
            let joins = self.grouped && !self.anywhere && matches!(row.run, Run::OnKeys(_));
            if joins && row.command.home(request.argv) == Home::Data {
                return Some(self.send_elsewhere(session, row, request.argv, request.encoded));
            }
            return Some(Flow::StopBefore);
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
            return Some(Flow::Continue);
        }
        if !self.executing && !self.apart && self.worker.waits_for_pause(self.now, session, row, request.argv) {
            return Some(Flow::Paused);
        }
        if session.transaction.is_some() && !self.executing && transaction::is_queued(row) {
            self.queue(session, row, request.argv, &mut scratch.reply);
            return Some(Flow::Continue);
        }
        if let Some(routes) = &lane.view.routes
            && let Some(stray) =
                stray(self.worker, (self.executing, self.anywhere, self.share), session, lane, routes, admitted)
        {
            let Stray::Refused(text) = stray else { return Some(Flow::Shifted) };
            self.break_transaction(session);
            scratch.reply.error(text);
            return Some(Flow::Continue);
        }
        if self.beside.is_some()
            && let Some(busy) = is_barred(self.beside.as_ref(), session, row, (request.argv, admitted.keys()))
        {
            if !busy || self.executing {
                return Some(Flow::Closed);
            }
            self.worker.refused(session, row, &Refusal::Busy, self.log_context(session));
            scratch.reply.error(&Refusal::Busy.text(self.conditions.detail));
            return Some(Flow::Continue);
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
            return Some(aside);
        }
        None
    }

    /// It runs: it is counted, and those who watch are told.
    #[inline(always)]
    fn note(&mut self, session: &mut Session, request: &Prepared<'a>, admitted: &Admitted<'a, '_>) {
        let row = admitted.row();
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
            insight::audit_command(&self.worker.node, session, row, admitted, self.now);
        }
        // The words of another request may lie there next.
        self.noted = 0;
    }

    /// The time, the limits and the place of what runs on keys.
    #[inline(always)]
    fn context_of(&self, session: &Session, lane: &Lane, admitted: &Admitted<'a, '_>) -> CallContext<'_> {
        let row = admitted.row();
        // A copy changes nothing, and while clients are paused nothing changes; a write that runs nevertheless may. Nor does
        // a read end what a followed source may still write to: the source says when it ends.
        let node = &self.worker.node;
        let rests = || node.import.is_following() || node.pause.state(self.now) != Paused::Nobody;
        let keeps_expired = !self.conditions.primary || !row.command.flags.has(Flags::WRITE) && rests();
        let room_bytes = if row.grows_by_far {
            room_bytes(self.worker, &self.hot, session, &lane.view.tenancy, admitted.keys())
        } else {
            u64::MAX
        };
        let patience = self.patience.as_deref();
        CallContext { keeps_expired, room_bytes, patience, ..call_context(self.worker, &self.hot, session, self.now) }
    }

    /// Runs what names its keys. `Err`: it is begun anew elsewhere.
    #[inline(always)]
    fn run_on_keys(
        &mut self,
        handler: KeysHandler,
        session: &mut Session,
        entrant: &Entrant<'_, 'a>,
        scratch: &mut Scratch,
    ) -> Result<Result<(), CommandError>, Flow> {
        let Entrant { lane, request, admitted, words } = entrant;
        let (row, argv, words) = (admitted.row(), admitted.argv(), *words);
        let context = self.context_of(session, lane, admitted);
        let mark = scratch.reply.mark();
        let node = &self.worker.node;
        let parking = |wait| park(self.connection, session, context.space, argv, admitted.keys(), wait);
        let may_wait = row.command.flags.has(Flags::BLOCKING) && !self.executing && self.connection.is_some();
        let park: Option<&dyn Fn(Wait) -> Arc<Waiter>> = if may_wait { Some(&parking) } else { None };
        let (keys, place, events) = (admitted.keys(), request.place, events_of(&self.hot, session, &lane.view.tenancy));
        let reading =
            if row.command.flags.has(Flags::READONLY) { caches(self.connection, &self.tracker) } else { None };
        let keys_max = self.hot.tracked_keys_max;
        let reader = reading.as_ref().map(|tracker| Reader { tracker, keys_max });
        let (client, signer, reach) = (session.id, session.signs.then_some(session.id), &Reach::Nothing);
        let owner = request.owner.filter(|_| self.prepared_under == Some(lane.generation));
        let owner = owner.map(|owner| (owner, lane.view.tenancy.owners()));
        let reads = row.command.flags.has(Flags::READONLY);
        let call =
            Call { argv, words, keys, place, owner, reads, context, events, client, signer, reach, reader, park };
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
                return Err(elsewhere(session, row, request, true));
            }
            result = node.shards.run(handler, &call, &mut scratch.calls, journal, &mut scratch.reply);
        }
        scratch.reply.bytes_max = bytes_max;
        self.note_lookups(session, &scratch.calls);
        Ok(result)
    }

    /// Runs what concerns every key its user may see.
    fn run_on_every_key(
        &mut self,
        handler: EveryKeyHandler,
        session: &mut Session,
        entrant: &Entrant<'_, 'a>,
        scratch: &mut Scratch,
    ) -> Result<(), CommandError> {
        let Entrant { lane, admitted, words, .. } = entrant;
        let (row, argv, words) = (admitted.row(), admitted.argv(), *words);
        let context = self.context_of(session, lane, admitted);
        let events = events_of(&self.hot, session, &lane.view.tenancy);
        let reach = session.reach(row);
        let reach =
            lane.view.routes.as_ref().map_or(reach.clone(), |routes| routes.reach(lane.view.of, session.tenant, reach));
        let (client, signer, reach) = (session.id, session.signs.then_some(session.id), &reach);
        let (keys, place, owner, reads, reader, park) = (&[], None, None, false, None, None);
        let call =
            Call { argv, words, keys, place, owner, reads, context, events, client, signer, reach, reader, park };
        let node = &self.worker.node;
        let journal = self.gathering.as_deref().unwrap_or(&node.journal);
        let journal = (journal, self.apart || self.executing);
        let names = self.hot.names_bound(session, row.full_name, reach);
        let (names, calls) = (names.as_ref(), &mut scratch.calls);
        node.shards.run_on_every_key_within(names, handler, &call, calls, journal, &mut scratch.reply)
    }

    /// Does what concerns more than one session or key, and needs no wait.
    fn done_at_once(
        &mut self,
        now: Now,
        reach: &Reach,
        session: &mut Session,
        entrant: &Entrant<'_, 'a>,
        scratch: &mut Scratch,
    ) -> Flow {
        let Entrant { lane, admitted, .. } = entrant;
        let (row, argv) = (admitted.row(), admitted.argv());
        let mark = scratch.reply.mark();
        let keys: Vec<Vec<u8>> = admitted.keys().iter().map(|named| named.key.to_vec()).collect();
        let flow = self.at_once(now, reach, session, lane, &keys, scratch);
        let shows = row.full_name == "exec" && !matches!(flow, Flow::Closed);
        if shows && self.worker.node.monitors.is_active() {
            show_line(self.worker, session, &session.address, argv);
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
        flow
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
    pub(super) fn queue(&self, session: &mut Session, row: &Row, argv: &[&[u8]], reply: &mut Reply) {
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

    #[cold]
    fn refuse_for_rate(
        &self,
        session: &mut Session,
        row: &Row,
        argv: &[&[u8]],
        over: &Over,
        scratch: &mut Scratch,
    ) -> Flow {
        self.break_transaction(session);
        session.refused_bytes = argv.iter().fold(session.refused_bytes, |sum, word| sum.saturating_add(word.len()));
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

    pub(super) fn failed(&self, row: &Row) {
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
}
