//! MULTI, EXEC, DISCARD, WATCH: requests that run together or not at all.
//!
//! ```text
//!   MULTI ─► requests are checked and queued ─► EXEC: alone in the corridor, each through gate and shards as any other
//!                                                     └ one that must wait for the world (ACL SETUSER, SAVE) opens the
//!                                                       corridor for that time; the rest goes on afterwards
//! ```
//! Being alone is what makes them one step: no other request runs between two of them, whatever keys they touch.
//! This file knows no socket and no data.

use crate::batch::{Batch, Flow, Prepared, has_part, locks_everything};
use crate::connection::{Connection, Lane, Next};
use crate::corridor::{Closed, Extent};
use crate::gate::{Conditions, KeyBuffer, Memory, Refusal};
use crate::large;
use crate::memory::{Claim, note_owners};
use crate::observers::{Waiter, Watch};
use crate::routes::{Across, Routes};
use crate::view::View;
use crate::walks::Words;
use crate::worker::{Scratch, Worker, note_full};
use keyward_acl::KeyUse;
use keyward_cluster::GroupId;
use keyward_engine::command::{Flags, Group, Run};
use keyward_engine::effects::WaitedInVain;
use keyward_engine::keyspace::SpaceId;
use keyward_engine::reply::Reply;
use keyward_engine::session::{Session, Transaction};
use keyward_engine::table::{Row, Table};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

/// Calls `with` with the keys of a request that was kept.
fn with_keys<R>(table: &Table, request: &[Vec<u8>], with: impl FnOnce(&[KeyUse<'_>]) -> R) -> Option<R> {
    let argv: Vec<&[u8]> = request.iter().map(Vec::as_slice).collect();
    let resolved = table.resolve(&argv).ok()?;
    let mut keys = Vec::new();
    table.keys_of(resolved.row, &argv, &mut keys);
    Some(with(&keys))
}

/// The shard group that the keys of all these requests belong to: none if they name no key, an error if there is none.
pub(crate) fn group_of(
    table: &Table,
    session: &Session,
    routes: &Routes,
    requests: &[Vec<Vec<u8>>],
) -> Result<Option<GroupId>, Across> {
    let mut group = None;
    for request in requests {
        match with_keys(table, request, |keys| routes.of_keys(session.tenant, keys)) {
            None | Some(Ok(None)) => {}
            Some(Ok(Some(of))) if group.is_none_or(|group| group == of) => group = Some(of),
            Some(_) => return Err(Across),
        }
    }
    Ok(group)
}

/// Where the keys of a transaction are.
enum Whereabouts {
    Here,
    /// Elsewhere, or on their way.
    Shifted,
    /// Not in one group any more.
    Across,
}

/// What is left of a transaction that waits for the world.
pub struct Remaining {
    /// The requests still to be run.
    requests: VecDeque<Vec<Vec<u8>>>,
    /// Keys that were written: those who wait for them are served when it is over.
    ready: Vec<(SpaceId, Vec<u8>)>,
}

/// What an argument of a queued request takes besides its bytes: its place and the allocator's share.
const ARGUMENT_OVERHEAD_BYTES: usize = 48;

/// What a request takes between MULTI and EXEC.
pub fn bytes_of(argv: &[&[u8]]) -> usize {
    argv.iter().map(|argument| argument.len() + ARGUMENT_OVERHEAD_BYTES).sum()
}

/// Whether a request between MULTI and EXEC waits for EXEC.
pub fn is_queued(row: &Row) -> bool {
    let control = row.command.group == Group::Transactions && row.full_name != "unwatch";
    !control && !matches!(row.full_name, "quit" | "reset")
}

/// What a command is told that cannot be between MULTI and EXEC.
pub fn not_in_transaction(full_name: &str) -> String {
    format!("ERR Command '{full_name}' not allowed inside a transaction")
}

/// Keeps a request for EXEC.
pub fn queue(session: &mut Session, row: &Row, argv: &[&[u8]], bytes_max: usize, reply: &mut Reply) {
    let Some(transaction) = &mut session.transaction else { return };
    if row.command.flags.has(Flags::NO_MULTI) {
        transaction.broken = true;
        return reply.error(&not_in_transaction(row.full_name));
    }
    let bytes = bytes_of(argv);
    if transaction.bytes + bytes > bytes_max {
        transaction.broken = true;
        return reply.error("ERR the transaction is longer than client-query-buffer-limit allows");
    }
    transaction.bytes += bytes;
    transaction.requests.push(argv.iter().map(|argument| argument.to_vec()).collect());
    reply.simple("QUEUED");
}

/// Forgets what the client watched.
pub fn unwatch(worker: &Worker, connection: &Connection) {
    let of_apart = connection.apart.borrow_mut().take().and_then(|(_, watch)| watch);
    for watch in connection.watch.borrow_mut().take().into_iter().chain(of_apart) {
        worker.at(connection.group.get()).node.shards.unwatch(&watch);
    }
}

/// What a client gets that waited in vain.
pub fn in_vain(waiter: &Waiter) -> Vec<u8> {
    let mut reply = Reply::new(waiter.session.lock().protocol);
    match waiter.wait.in_vain {
        WaitedInVain::Null => reply.null(),
        WaitedInVain::NullArray | WaitedInVain::NullArrayOrNull => reply.null_array(),
    }
    reply.bytes
}

impl<'a> Batch<'_, 'a> {
    pub(crate) fn forget_watch(&self) {
        if let Some(connection) = self.connection {
            unwatch(self.front, connection);
        }
    }

    /// Watches keys. An error: that would be too many.
    pub(crate) fn watch(&self, session: &Session, keys: &[Vec<u8>]) -> Result<(), String> {
        let Some(connection) = self.connection else { return Ok(()) };
        let bytes = keys.iter().map(|key| Watch::bytes_of(key)).sum();
        if let Some(text) = connection.lacks_room(session, bytes) {
            return Err(text);
        }
        let mut watch = connection.watch.borrow_mut();
        let watch = watch.get_or_insert_with(Watch::new);
        // Already lost: more keys change nothing.
        if !watch.is_touched() {
            keys.iter().for_each(|key| self.worker.node.shards.watch(session.space(), key, self.now, watch));
        }
        Ok(())
    }

    pub(crate) fn execute(&mut self, session: &mut Session, lane: &Lane, scratch: &mut Scratch) -> Flow {
        let Some(transaction) = session.transaction.take() else {
            scratch.reply.error("ERR EXEC without MULTI");
            return Flow::Continue;
        };
        if transaction.broken {
            self.forget_watch();
            scratch.reply.error("EXECABORT Transaction discarded because of previous errors.");
            return Flow::Continue;
        }
        // Before anybody is alone: whoever is finds its keys as they are, and nobody evicts one.
        self.conditions.memory = self.memory_for_all(session, &lane.view, &transaction.requests);
        if self.worker.node.shards.keeps_any() && self.names_kept(&transaction.requests) {
            session.transaction = Some(transaction);
            return Flow::Closed;
        }
        if let Some(connection) = self.connection.filter(|_| self.conditions.memory == Memory::Enough)
            && let Some(why) = self.is_long(session, &transaction.requests)
        {
            if let Some(name) = self.stays_here(&transaction.requests) {
                self.abort_transaction(session, &format!("ERR beside '{name}' {why}"), scratch);
                return Flow::Continue;
            }
            *connection.script_tracker.borrow_mut() = self.caches();
            *connection.apart.borrow_mut() = Some((transaction, connection.watch.borrow_mut().take()));
            return Flow::Stop(Box::new(Next::Walk(Words::copy([&b"EXEC"[..]]))));
        }
        let corridor = &self.worker.node.corridor;
        let Some(closed) = corridor.try_close(Some(self.worker.lane), &Extent::of(session)) else {
            session.transaction = Some(transaction);
            return Flow::Closed;
        };
        self.beside = Some(closed.beside()).filter(|parts| !parts.is_empty());
        let watch = self.connection.and_then(|connection| connection.watch.borrow_mut().take());
        let flow = self.execute_alone(session, lane, (transaction, watch), &closed, scratch);
        drop(closed);
        flow
    }

    /// Whether a shard that one of these requests needs is kept.
    fn names_kept(&self, requests: &[Vec<Vec<u8>>]) -> bool {
        let shards = &self.worker.node.shards;
        let is_kept = |keys: &[KeyUse<'_>]| shards.keeps(keys.iter().map(|named| named.key));
        let locks_everything = |request: &Vec<Vec<u8>>| {
            let argv: Vec<&[u8]> = request.iter().map(Vec::as_slice).collect();
            self.worker.node.table.resolve(&argv).is_ok_and(|of| locks_everything(of.row, &argv))
        };
        requests.iter().any(|request| {
            locks_everything(request) || with_keys(self.worker.node.table, request, is_kept).unwrap_or_default()
        })
    }

    /// Why these requests may take longer than a data thread has time for, one of them or all together.
    fn is_long(&self, session: &Session, requests: &[Vec<Vec<u8>>]) -> Option<&'static str> {
        if !large::concerns(session) || !has_part(session) {
            return None;
        }
        if self.runs_slow_scripts(session, requests) {
            return Some("a script is not run that may be slow: send one of them outside of the transaction");
        }
        let mut sum = large::Sum::default();
        let is_long = |request: &Vec<Vec<u8>>| {
            let argv: Vec<&[u8]> = request.iter().map(Vec::as_slice).collect();
            let found = self.worker.node.table.resolve(&argv);
            found.is_ok_and(|of| {
                large::takes_long(self.worker, session, of.row, &argv) || sum.add(self.worker, session, of.row, &argv)
            })
        };
        requests.iter().any(is_long).then_some("it concerns too many elements for one step")
    }

    /// Whether one of these is a script that may be slow. What needs the connection as well is let through here, unless its owner
    /// made others wait before.
    fn runs_slow_scripts(&self, session: &Session, requests: &[Vec<Vec<u8>>]) -> bool {
        let scripts = &self.worker.node.scripts;
        let may_be_slow = |request: &Vec<Vec<u8>>| {
            let argv: Vec<&[u8]> = request.iter().map(Vec::as_slice).collect();
            let found = self.worker.node.table.resolve(&argv);
            found.is_ok_and(|of| scripts.may_be_slow(of.row, &argv, &session.reach(of.row).owner()))
        };
        requests.iter().any(may_be_slow)
            && (self.stays_here(requests).is_none() || scripts.distrusts(&session.lasting_reach().owner()))
    }

    /// The first of these that needs its client's connection, and so must run where that is.
    fn stays_here(&self, requests: &[Vec<Vec<u8>>]) -> Option<&'static str> {
        let row = |request: &Vec<Vec<u8>>| {
            let argv: Vec<&[u8]> = request.iter().map(Vec::as_slice).collect();
            self.worker.node.table.resolve(&argv).ok().map(|resolved| resolved.row)
        };
        let travels = |row: &Row| {
            matches!(row.run, Run::OnKeys(_) | Run::OnEveryKey(_))
                || matches!(row.full_name, "publish" | "spublish" | "ping" | "echo" | "time")
                || row.full_name.starts_with("eval")
                || row.full_name.starts_with("fcall")
                || large::is_about_scripts(row)
        };
        requests.iter().filter_map(row).find(|row| !travels(row)).map(|row| row.full_name)
    }

    /// Runs a transaction whose client is alone.
    pub(crate) fn execute_alone(
        &mut self,
        session: &mut Session,
        lane: &Lane,
        (transaction, watch): (Transaction, Option<Arc<Watch>>),
        closed: &Closed<'_>,
        scratch: &mut Scratch,
    ) -> Flow {
        if let Some(routes) = &lane.view.routes {
            match self.whereabouts(session, lane, routes, &transaction.requests) {
                Whereabouts::Here => {}
                Whereabouts::Shifted => {
                    session.transaction = Some(transaction);
                    self.connection.iter().for_each(|connection| *connection.watch.borrow_mut() = watch.clone());
                    return Flow::Shifted;
                }
                Whereabouts::Across => {
                    self.abort_transaction(session, crate::routes::ACROSS, scratch);
                    return Flow::Continue;
                }
            }
        }
        if self.conditions.memory != Memory::Enough {
            let refusal = Refusal::MemoryFull(self.conditions.memory);
            note_full(session);
            let text = refusal.explained(self.conditions.detail, &lane.view.tenancy);
            self.abort_transaction(session, &text, scratch);
            return Flow::Continue;
        }
        if self.conditions.too_few(session) && self.writes_any(&transaction.requests) {
            let text = Refusal::FewReplicas.explained(self.conditions.detail, &lane.view.tenancy);
            self.abort_transaction(session, &text, scratch);
            return Flow::Continue;
        }
        if let Some(watch) = watch {
            let shards = &self.worker.node.shards;
            let touched = shards.is_touched(&watch, self.now);
            shards.unwatch(&watch);
            if touched {
                scratch.reply.null_array();
                return Flow::Continue;
            }
        }
        scratch.reply.array(transaction.requests.len());
        let requests = Remaining { requests: transaction.requests.into(), ready: Vec::new() };
        self.run_queued(session, lane, (requests, closed), scratch)
    }

    /// Where the keys of a transaction are that belonged to one group when they were queued. If they moved together, the
    /// transaction follows them, and what was watched counts as changed.
    fn whereabouts(&self, session: &Session, lane: &Lane, routes: &Routes, requests: &[Vec<Vec<u8>>]) -> Whereabouts {
        let (table, bar) = (self.worker.node.table, &self.worker.node.bar);
        let is_barred = |request: &Vec<Vec<u8>>| {
            with_keys(table, request, |keys| bar.bars(session.tenant, keys)).unwrap_or_default()
        };
        if bar.is_active() && requests.iter().any(is_barred) {
            return Whereabouts::Shifted;
        }
        match group_of(table, session, routes, requests) {
            Err(_) => Whereabouts::Across,
            Ok(Some(group)) if group != lane.view.of => {
                if let Some(connection) = self.connection {
                    if let Some(watch) = &*connection.watch.borrow() {
                        self.front.at(connection.group.get()).node.shards.unwatch(watch);
                        watch.touch();
                        watch.forget();
                    }
                    connection.group.set(group);
                }
                Whereabouts::Shifted
            }
            Ok(_) => Whereabouts::Here,
        }
    }

    /// Whether there is memory for all requests that need some.
    fn memory_for_all(&self, session: &Session, view: &View, requests: &[Vec<Vec<u8>>]) -> Memory {
        let (worker, mut owners, mut needs_some) = (self.worker, Vec::new(), false);
        let writer = session.login.as_ref().and_then(|login| login.tenant.as_deref());
        let mut keys = KeyBuffer::new();
        let arguments: Vec<Vec<&[u8]>> =
            requests.iter().map(|request| request.iter().map(Vec::as_slice).collect()).collect();
        for argv in arguments.iter().filter(|_| self.conditions.primary) {
            let Ok(resolved) = worker.node.table.resolve(argv) else { continue };
            if !resolved.row.command.flags.has(Flags::DENYOOM) {
                continue;
            }
            needs_some = true;
            if view.tenancy.bounds_memory() {
                let written = keys.written(worker.node.table, resolved.row, argv);
                note_owners(&view.tenancy, writer, written, &mut owners);
            }
        }
        let claim = Claim { tenancy: &view.tenancy, writer, owners: &owners };
        if needs_some { worker.memory_for(&self.hot, &claim, self.now) } else { Memory::Enough }
    }

    /// Whether any of these requests may change data.
    fn writes_any(&self, requests: &[Vec<Vec<u8>>]) -> bool {
        requests.iter().any(|request| {
            let argv: Vec<&[u8]> = request.iter().map(Vec::as_slice).collect();
            self.worker.node.table.resolve(&argv).is_ok_and(|found| found.row.command.flags.has(Flags::WRITE))
        })
    }

    /// `EXEC` itself is refused: nothing of the transaction runs.
    pub(crate) fn abort_transaction(&self, session: &mut Session, text: &str, scratch: &mut Scratch) {
        session.transaction = None;
        self.forget_watch();
        scratch.reply.error(&format!("EXECABORT Transaction discarded because of: {text}"));
    }

    /// Runs queued requests; the caller is alone in the corridor.
    fn run_queued(
        &mut self,
        session: &mut Session,
        lane: &Lane,
        (mut remaining, closed): (Remaining, &Closed<'_>),
        scratch: &mut Scratch,
    ) -> Flow {
        self.begin_step(closed.is_part());
        let thawed = self.freeze_time();
        let mut flow = Flow::Continue;
        scratch.calls.ready.append(&mut remaining.ready);
        while let Some(request) = remaining.requests.pop_front() {
            let argv: Vec<&[u8]> = request.iter().map(Vec::as_slice).collect();
            let mut inner = self.for_transaction();
            let kept = self.is_apart().then(|| large::keep_if_long(self.worker, session, &argv));
            let flow_of_one = inner.answer(session, lane, &Prepared::of(self.worker, &argv), scratch);
            drop(kept);
            self.tab.tally.operations += inner.tab.tally.operations;
            self.tab.tally.work += inner.tab.tally.work;
            match flow_of_one {
                Flow::Stop(next) if matches!(*next, Next::Close) => {}
                Flow::Stop(next) => {
                    remaining.ready = std::mem::take(&mut scratch.calls.ready);
                    if let Some(connection) = self.connection {
                        *connection.remaining.borrow_mut() = Some(remaining);
                    }
                    flow = Flow::Stop(next);
                    break;
                }
                Flow::Continue
                | Flow::StopBefore
                | Flow::Closed
                | Flow::Paused
                | Flow::Shifted
                | Flow::Held(_)
                | Flow::Moved => {}
            }
        }
        self.let_time_pass(thawed);
        session.last_command = "exec";
        self.end_step();
        flow
    }
}

/// Goes on with a transaction after one of its requests had to wait for the world.
pub fn go_on(worker: &Worker, connection: &Rc<Connection>, lane: &mut Lane, remaining: Remaining) -> Next {
    let worker = worker.at(lane.view.of);
    let extent = Extent::of(&connection.session.borrow());
    let Some(closed) = worker.node.corridor.try_close(None, &extent) else {
        *connection.remaining.borrow_mut() = Some(remaining);
        return Next::Wait;
    };
    let mut scratch = worker.scratch.borrow_mut();
    let mut session = connection.session.borrow_mut();
    scratch.reply.protocol = session.protocol;
    if worker.node.views.load().1.reign() != lane.view.reign() {
        // Its first half was carried out where the data was.
        scratch.reply.error(crate::handover::ENDED_HALFWAY);
        lane.take_replies(&mut scratch.reply);
        return Next::Close;
    }
    let hot = worker.hot();
    scratch.reply.bytes_max = hot.reply_bytes_max();
    // Whether there are enough replicas was decided when it began.
    let conditions = Conditions { few_replicas: false, few_in_sync: false, ..worker.conditions(&lane.view, &hot) };
    let mut batch = Batch::new(worker, Some(connection), worker.now_ms(), conditions, hot);
    let flow = batch.run_queued(&mut session, lane, (remaining, &closed), &mut scratch);
    batch.serve_ready(&Arc::clone(&lane.view), Some(&closed).filter(|closed| closed.is_part()), &mut scratch);
    let ready = std::mem::take(&mut scratch.calls.ready);
    worker.node.shards.tracking.deliver();
    drop(closed);
    crate::scripts::serve_later(worker, ready);
    lane.take_replies(&mut scratch.reply);
    if session.wants_quorum() {
        lane.await_confirmation(worker);
    }
    match flow {
        Flow::Stop(next) => *next,
        _ if session.closing => Next::Close,
        _ => Next::Flush,
    }
}
