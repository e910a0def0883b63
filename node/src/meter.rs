//! How long commands take, without asking the clock for each of them.
//!
//! ```text
//!   batch:   GET GET GET │ SUNION │ GET GET
//!   clock:  ↑            ↑        ↑        ↑       one look per stretch of quick commands, one after each other
//! ```
//! A look costs as much as a fifth of a GET, so the time of a stretch is shared out evenly among its commands. When
//! somebody looks closely (`slowlog-log-slower-than` below its default, `latency-monitor-threshold`), every command is
//! measured by itself. Clients that are served together share a stretch as well, as long as nobody's account is charged and
//! what they say and hear is short. What was measured goes to the counters of the thread; what took long, to the slow log.

use crate::connection::Connection;
use crate::insight::audit::AuditEvent;
use crate::insight::{self, AdminOutcome};
use crate::live::Hot;
use crate::pace::FREE_TIME;
use crate::pause::Paused;
use crate::slow;
use crate::worker::{Worker, now_us};
use crate::world;
use keyward_engine::asks::CommandLogKind;
use keyward_engine::command::Flags;
use keyward_engine::error::CommandError;
use keyward_engine::reply::Reply;
use keyward_engine::session::Session;
use keyward_engine::table::Row;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Commands of a stretch there is room for at once: those of a usual pipeline.
const STRETCH_USUAL: usize = 16;

/// Arguments of a stretch at most: whoever sends commands on thousands of keys each is to be seen to take long.
const STRETCH_ARGUMENTS: usize = 1024;

/// A command that was run and whose time is not known yet.
struct Ran<'w, 'a> {
    row: &'static Row,
    argv: &'a [&'a [u8]],
    /// Whose it was, unless it is the client that is served now. Nobody's account is charged for it.
    of: Option<&'w Rc<Connection>>,
}

/// Commands that were run and whose time is not known yet.
pub struct Meter<'w, 'a> {
    /// When the clock was last looked at.
    looked: Moment,
    /// Since then, these were run.
    stretch: Vec<Ran<'w, 'a>>,
    /// So many arguments these had.
    arguments: usize,
    /// Every command is measured by itself.
    closely: bool,
    /// What was spent since somebody asked, in nanoseconds: all of it, and beyond what is free on commands that are not
    /// quick by nature.
    spent: (u64, u64),
}

impl<'w, 'a> Meter<'w, 'a> {
    /// For one batch; `closely`: every command is measured by itself.
    pub fn new(closely: bool) -> Meter<'w, 'a> {
        let stretch = Vec::with_capacity(STRETCH_USUAL);
        Meter { looked: Moment::now(), stretch, arguments: 0, closely, spent: (0, 0) }
    }

    /// A command is about to run.
    #[inline]
    pub fn before(&mut self, worker: &Worker, hot: &Hot, session: &Session, row: &'static Row) {
        // With nothing to be shared out, the last look was after the command before.
        if !self.joins(row) && !self.stretch.is_empty() {
            self.settle(worker, hot, session);
        }
    }

    /// It has run.
    #[inline]
    pub fn after(&mut self, worker: &Worker, hot: &Hot, session: &Session, row: &'static Row, argv: &'a [&'a [u8]]) {
        self.stretch.push(Ran { row, argv, of: None });
        self.arguments += argv.len();
        if !self.joins(row) || self.arguments > STRETCH_ARGUMENTS {
            self.settle(worker, hot, session);
        }
    }

    #[inline]
    fn joins(&self, row: &Row) -> bool {
        !self.closely && row.is_quick
    }

    /// The client is served, and another one is next: what it ran is a part of the same stretch, unless that is long enough.
    #[inline]
    pub fn defer(&mut self, worker: &Worker, hot: &Hot, session: &Session, of: &'w Rc<Connection>) {
        if self.stretch.len() >= STRETCH_USUAL {
            return self.settle(worker, hot, session);
        }
        self.stretch.iter_mut().rev().take_while(|ran| ran.of.is_none()).for_each(|ran| ran.of = Some(of));
    }

    /// Shares out the time since the last look among what was deferred; nothing else was run. `session`: that of a client
    /// that is still being served.
    #[inline]
    pub fn settle_deferred(&mut self, worker: &Worker, hot: &Hot, session: Option<&Session>) {
        if !self.stretch.is_empty() {
            self.share_out(worker, hot, session);
        }
    }

    /// Shares out the time since the last look.
    #[inline]
    pub fn settle(&mut self, worker: &Worker, hot: &Hot, session: &Session) {
        self.share_out(worker, hot, Some(session));
    }

    /// `session`: that of the client that is served now, to which everything belongs that is nobody else's.
    fn share_out(&mut self, worker: &Worker, hot: &Hot, session: Option<&Session>) {
        const FREE_NS: u64 = FREE_TIME.as_nanos() as u64;
        let now = Moment::now();
        let passed = now.since(self.looked);
        let count = self.stretch.len() as u64;
        if count > 0 {
            let share = if count == 1 { passed } else { passed / count };
            let is_alike = |one: &Ran<'_, '_>, next: &Ran<'_, '_>| {
                one.row.id == next.row.id && one.of.is_none() == next.of.is_none()
            };
            for alike in self.stretch.chunk_by(is_alike) {
                let (row, times) = (alike[0].row, alike.len() as u64);
                if alike[0].of.is_none()
                    && let Some(login) = session.and_then(|session| session.login.as_ref())
                {
                    login.for_accounts(|_, account| account.lane(worker.lane).took(row.id, share, times));
                }
                if !row.command.flags.has(Flags::FAST) {
                    self.spent.1 += share.saturating_sub(FREE_NS).saturating_mul(times);
                }
                if worker.is_remarkable(hot, share) {
                    alike.iter().for_each(|ran| ran.took(worker, hot, session, Duration::from_nanos(share)));
                } else {
                    worker.count_time(hot, row, share, times);
                }
            }
            self.stretch.clear();
            self.arguments = 0;
        }
        self.spent.0 += passed;
        self.looked = now;
    }

    /// When the clock was last looked at.
    #[inline]
    pub fn looked(&self) -> Moment {
        self.looked
    }

    /// What was spent since the last time: all of it, and on commands that are not quick by nature.
    #[inline]
    pub fn take_spent(&mut self) -> (Duration, Duration) {
        let (all, slow) = std::mem::take(&mut self.spent);
        (Duration::from_nanos(all), Duration::from_nanos(slow))
    }

    /// Nobody pays for what was spent.
    #[inline]
    pub fn forget_spent(&mut self) {
        self.spent = (0, 0);
    }
}

impl Ran<'_, '_> {
    #[cold]
    fn took(&self, worker: &Worker, hot: &Hot, session: Option<&Session>, time: Duration) {
        match (self.of.map(|of| of.session.try_borrow()), session) {
            (Some(Ok(own)), _) => worker.took(hot, &own, self.row, self.argv, time),
            // It is being served again.
            (_, Some(session)) => worker.took(hot, session, self.row, self.argv, time),
            (_, None) => {}
        }
    }
}

/// A moment on a clock that never goes back, as one number: what lies between two is one subtraction, and a batch needs several.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Moment(u64);

impl Moment {
    /// This one.
    #[inline]
    pub fn now() -> Moment {
        Moment(world::steady_ns())
    }

    /// The same as a number, for what is counted in nanoseconds.
    #[inline]
    pub const fn ns(self) -> i64 {
        self.0 as i64
    }

    /// So much later.
    #[inline]
    pub const fn plus(self, time: Duration) -> Moment {
        Moment(self.0 + time.as_nanos() as u64)
    }

    /// Nanoseconds since an earlier moment.
    #[inline]
    fn since(self, earlier: Moment) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// A command that asked for something outside, until that is done.
pub struct Asked {
    row: &'static Row,
    arguments: Vec<Vec<u8>>,
    began: Instant,
}

impl Asked {
    /// It asks now.
    pub fn new(row: &'static Row, argv: &[&[u8]]) -> Asked {
        Asked { row, arguments: slow::kept(row.full_name, argv), began: Instant::now() }
    }
}

impl Worker {
    /// What was asked for is done; `reply` is the answer.
    pub fn asked(&self, session: &Session, asked: Asked, reply: &Reply) {
        let hot = self.hot();
        let arguments: Vec<&[u8]> = asked.arguments.iter().map(Vec::as_slice).collect();
        self.took(&hot, session, asked.row, &arguments, asked.began.elapsed());
        let refused = reply.bytes.first() == Some(&b'-');
        let outcome = if refused { AdminOutcome::Refused } else { AdminOutcome::Done };
        self.audit_asked(session, &asked, outcome);
        if let Some((b'-', error)) = reply.bytes.split_first() {
            self.failed(asked.row);
            self.stats.erred(session, self.lane, error);
        }
    }

    /// Tells the audit stream what became of a command of administrators.
    pub fn audit_asked(&self, session: &Session, asked: &Asked, outcome: AdminOutcome) {
        if self.node.audit.wants(AuditEvent::Admin) && insight::is_administration(asked.row) {
            insight::audit_administration(&self.node, session, asked.row, &asked.arguments, outcome, self.now_ms());
        }
    }

    /// A command that was counted waits, and is counted when it is served.
    pub fn waits(&self, row: &Row) {
        self.stats.commands.take_back();
        self.stats.calls[usize::from(row.id)].take_back();
    }

    /// Counts a command that was answered with an error.
    pub fn failed(&self, row: &Row) {
        self.stats.errors.add(1);
        self.stats.failures[usize::from(row.id)].add(1);
    }

    /// Counts an error a script's call was answered with.
    pub fn note_error(&self, session: &Session, error: &[u8]) {
        self.stats.errors.add(1);
        self.stats.erred(session, self.lane, error);
    }

    /// Counts a request that is no command, or has too many or too few arguments.
    pub fn malformed(&self, error: &CommandError) {
        self.stats.errors.add(1);
        self.malformed_call(error);
    }

    /// The same for a call of a script.
    pub fn malformed_call(&self, error: &CommandError) {
        if let CommandError::Arity(name) = error
            && let Some(row) = self.node.table.find(name.as_bytes())
        {
            self.stats.refusals[usize::from(row.id)].add(1);
        }
    }

    /// Whether clients are paused and this must wait with them.
    #[inline]
    pub fn waits_for_pause(&self, now: i64, session: &Session, row: &Row, argv: &[&[u8]]) -> bool {
        match self.node.pause.state(now) {
            Paused::Nobody => false,
            Paused::Writes => self.may_write(session, row, argv),
            Paused::Moving => session.wants_quorum() || self.may_write(session, row, argv),
            Paused::All => true,
        }
    }

    fn may_write(&self, session: &Session, row: &Row, argv: &[&[u8]]) -> bool {
        match row.full_name {
            "exec" => session.transaction.iter().flat_map(|transaction| &transaction.requests).any(|request| {
                let argv: Vec<&[u8]> = request.iter().map(Vec::as_slice).collect();
                self.node.table.resolve(&argv).is_ok_and(|resolved| self.may_write(session, resolved.row, &argv))
            }),
            "evalsha" | "fcall" => {
                let owner = session.reach(row).owner();
                let promises = |program: &&[u8]| self.node.scripts.promises_not_to_write(program, &owner);
                !argv.get(1).is_some_and(promises)
            }
            "eval" => !argv.get(1).is_some_and(|script| promises_not_to_write(script)),
            _ => row.command.flags.has(Flags::WRITE) || travels_to_replicas(row),
        }
    }

    /// Notes how long a command took.
    #[inline]
    pub fn took(&self, hot: &Hot, session: &Session, row: &'static Row, argv: &[&[u8]], time: Duration) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.count_time(hot, row, nanoseconds, 1);
        if hot.remarkable.reached(CommandLogKind::Slow, nanoseconds / 1000) {
            self.note_slow(hot, session, row, slow::kept(row.full_name, argv), nanoseconds / 1000);
        }
        if hot.latency_event_ms > 0 && time.as_millis() as u64 >= hot.latency_event_ms {
            let event = if row.command.flags.has(Flags::FAST) { "fast-command" } else { "command" };
            let owner = session.lasting_reach().owner();
            self.node.latency.note(event, &owner, now_us() / 1_000_000, time.as_millis() as u64);
        }
    }

    /// Whether somebody wants to know of a command that took so long.
    #[inline]
    fn is_remarkable(&self, hot: &Hot, nanoseconds: u64) -> bool {
        let event = hot.latency_event_ms > 0 && nanoseconds / 1_000_000 >= hot.latency_event_ms;
        event || hot.remarkable.reached(CommandLogKind::Slow, nanoseconds / 1000)
    }

    /// Counts the time of `count` runs of a command that took so long each.
    #[inline]
    fn count_time(&self, hot: &Hot, row: &Row, nanoseconds: u64, count: u64) {
        let index = usize::from(row.id);
        self.stats.nanoseconds[index].add(nanoseconds.saturating_mul(count));
        if hot.tracks_latency {
            self.stats.latency.note(index, nanoseconds, count);
        }
    }

    #[cold]
    fn note_slow(&self, hot: &Hot, session: &Session, row: &'static Row, arguments: Vec<Vec<u8>>, microseconds: u64) {
        if !row.command.flags.has(Flags::SKIP_SLOWLOG) {
            let at = (now_us() / 1_000_000, microseconds);
            self.node.command_logs.note(CommandLogKind::Slow, &hot.remarkable, at, arguments, session);
        }
    }

    /// Notes a request or an answer of so many bytes, if that is remarkable.
    #[inline]
    pub fn measured(
        &self,
        kind: CommandLogKind,
        hot: &Hot,
        session: &Session,
        row: &'static Row,
        argv: &[&[u8]],
        bytes: usize,
    ) {
        if hot.remarkable.reached(kind, bytes as u64) && !row.command.flags.has(Flags::SKIP_SLOWLOG) {
            let at = (now_us() / 1_000_000, bytes as u64);
            self.node.command_logs.note(kind, &hot.remarkable, at, slow::kept(row.full_name, argv), session);
        }
    }
}

/// Commands that change nothing a client could read, but travel to replicas as writes do.
pub(crate) fn travels_to_replicas(row: &Row) -> bool {
    matches!(row.full_name, "publish" | "spublish" | "pfcount")
}

/// Whether a script's first line has the flag `no-writes`.
fn promises_not_to_write(script: &[u8]) -> bool {
    let first = script.split(|byte| *byte == b'\n').next().unwrap_or_default();
    first.starts_with(b"#!") && String::from_utf8_lossy(first).contains("no-writes")
}
