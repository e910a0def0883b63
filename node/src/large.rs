//! Commands on so many elements, or bytes, that a data thread has no time for them: `SMEMBERS`, `SORT`, `ZUNIONSTORE` on what
//! holds a million, `SET` and `GET` of a hundred megabytes.
//!
//! ```text
//!   a confined user's request ─► how many elements may it concern? ─few──► run where it was read
//!                                            └ more than AT_ONCE ────────► a thread for slow work ([`crate::bench`]):
//!                                              alone with the keys of its user ([`Extent`]), their shards marked as kept
//! ```
//! What a tenant keeps waiting with it is itself. Others go on beside it, and whoever needs a key that shares a shard with
//! one of these is set aside until it is free ([`Shards::keep`]), so no data thread waits with it. Within a transaction and
//! within a script it holds as well: those go where there is time for them before they begin.
//!
//! A long request is handed over with the buffer it came in. That an answer is long shows when it is made: what only reads is
//! given up then, and begins anew there. The estimate of elements is by arguments first, by lengths second, and never low: a
//! range without a limit counts as the whole. Users with every key are spared the look: what they do concerns everybody
//! anyway. This file knows what commands look at, not what they do with it.

use crate::batch::{Batch, Prepared, place_of};
use crate::connection::Lane;
use crate::gate::Memory;
use crate::patience;
use crate::scripts;
use crate::shards::{Keeping, Shards};
use crate::walks::{self, Lent};
use crate::worker::Worker;
use keyward_acl::KeyUse;
use keyward_engine::command::{Flags, Run};
use keyward_engine::keyspace::SpaceId;
use keyward_engine::reply::Reply;
use keyward_engine::session::Session;
use keyward_engine::span::{BYTES_PER_ELEMENT, Span, options};
use keyward_engine::table::{Row, Table};
use keyward_proto::resp::Decoder;
use std::sync::Arc;

/// Elements a data thread has time for: some milliseconds, whatever is done with them.
const AT_ONCE: usize = 10_000;

/// Elements, and words, of a transaction that one has time for.
const ALL_AT_ONCE: usize = 2 * AT_ONCE;

/// Bytes of a request, or of an answer, that a data thread has time to copy: less than a millisecond.
pub const BYTES_AT_ONCE: usize = 2 << 20;

/// Bytes of a program that a data thread has time to compile: less than a millisecond.
const PROGRAM_AT_ONCE: usize = 32 << 10;

/// Whether a request may take longer than a data thread has time for.
#[inline]
pub fn is_long(worker: &Worker, session: &Session, row: &Row, argv: &[&[u8]], keys: &[KeyUse<'_>]) -> bool {
    may_be_long(row, argv) && spans_many(worker, session, row, (argv, keys))
}

/// The same by its name and number of arguments alone, which settles it for most that are no longer than [`BYTES_AT_ONCE`].
#[inline]
pub fn may_be_long(row: &Row, argv: &[&[u8]]) -> bool {
    row.span != Span::Few || argv.len() > AT_ONCE
}

fn spans_many(worker: &Worker, session: &Session, row: &Row, (argv, keys): (&[&[u8]], &[KeyUse<'_>])) -> bool {
    let span = row.span;
    match span {
        Span::Libraries => return true,
        Span::Program(at) => return argv.get(at).is_some_and(|program| program.len() > PROGRAM_AT_ONCE),
        _ => {}
    }
    if !matches!(row.run, Run::OnKeys(_) | Run::OnEveryKey(_)) {
        return false;
    }
    if span == Span::KeyByKey {
        return session.reach(row).filters_keys() && worker.node.shards.count_keys(session.tenant, AT_ONCE) > AT_ONCE;
    }
    if argv.len() > AT_ONCE {
        return true;
    }
    let (shards, space) = (&worker.node.shards, session.space());
    let bound = span.bound(argv);
    if matches!(span, Span::Count(_)) {
        // A step of a walk compares each element with its pattern.
        return weight_of_step(shards, space, keys, bound).saturating_mul(walks::weight(argv)) > AT_ONCE;
    }
    bound > AT_ONCE && (span.repeats(argv) || holds_many(shards, space, keys, span))
}

/// What so many elements of each key weigh, by their number and their bytes.
fn weight_of_step(shards: &Shards, space: SpaceId, keys: &[KeyUse<'_>], bound: usize) -> usize {
    let of_key = |named: &KeyUse<'_>| {
        let units = shards.len_of(space, named.key, BYTES_PER_ELEMENT);
        // What is small is small whatever it is.
        if units > AT_ONCE {
            Span::share(bound, (shards.len_of(space, named.key, usize::MAX), units))
        } else {
            units.min(bound)
        }
    };
    keys.iter().map(of_key).fold(0, usize::saturating_add)
}

fn holds_many(shards: &Shards, space: SpaceId, keys: &[KeyUse<'_>], span: Span) -> bool {
    let unit = if span == Span::Product { 1 } else { BYTES_PER_ELEMENT };
    let mut all = 0_usize;
    let mut product = 1_usize;
    for named in keys {
        let len = shards.len_of(space, named.key, unit);
        all = all.saturating_add(len);
        product = product.saturating_mul(len);
    }
    if span == Span::Product { product > AT_ONCE * BYTES_PER_ELEMENT } else { all > AT_ONCE }
}

/// What the requests of a transaction look at together.
#[derive(Default)]
pub struct Sum {
    elements: usize,
    bytes: usize,
}

impl Sum {
    /// Adds one; whether it is too much by now.
    pub fn add(&mut self, worker: &Worker, session: &Session, row: &Row, argv: &[&[u8]]) -> bool {
        let span = row.span;
        let bound = if span == Span::KeyByKey { 0 } else { span.bound(argv) };
        let looked_at = if bound > argv.len() && !span.repeats(argv) {
            let mut keys = Vec::new();
            worker.node.table.keys_of(row, argv, &mut keys);
            let len = |key| worker.node.shards.len_of(session.space(), key, BYTES_PER_ELEMENT);
            bound.min(keys.iter().map(|named| len(named.key)).fold(0, usize::saturating_add))
        } else {
            bound
        };
        self.elements = self.elements.saturating_add(looked_at).saturating_add(argv.len());
        self.bytes += argv.iter().map(|word| word.len()).sum::<usize>();
        self.elements > ALL_AT_ONCE || self.bytes > BYTES_AT_ONCE
    }
}

/// Whether a command is about scripts and no keys, so that it may go wherever there is time for it.
pub fn is_about_scripts(row: &Row) -> bool {
    matches!(row.span, Span::Libraries | Span::Program(_))
}

/// Whether requests of this user are looked at at all.
#[inline]
pub fn concerns(session: &Session) -> bool {
    session.login.as_ref().is_some_and(|login| login.policy.is_confined())
}

/// The same for one whose keys are not known yet, walks over many keys included.
pub fn takes_long(worker: &Worker, session: &Session, row: &Row, argv: &[&[u8]]) -> bool {
    let mut keys = Vec::new();
    worker.node.table.keys_of(row, argv, &mut keys);
    is_long(worker, session, row, argv, &keys) || walks::is_long(worker, session, row, argv)
}

/// Whether a request waits if it finds nothing: on a thread for slow work nobody waits.
pub fn may_wait(table: &Table, argv: &[&[u8]]) -> bool {
    let Ok(resolved) = table.resolve(argv) else { return false };
    let streams = || argv.iter().position(|word| word.eq_ignore_ascii_case(b"streams")).unwrap_or(argv.len());
    resolved.row.command.flags.has(Flags::BLOCKING)
        && (!resolved.row.full_name.starts_with("xread") || options(&argv[..streams()], 1, b"block").next().is_some())
}

/// Keeps the shards of a request that takes long, for as long as the caller holds on to it.
pub fn keep_if_long<'w>(worker: &'w Worker, session: &Session, argv: &[&[u8]]) -> Keeping<'w> {
    let mut keys = Vec::new();
    if let Ok(resolved) = worker.node.table.resolve(argv)
        && takes_long(worker, session, resolved.row, argv)
    {
        worker.node.table.keys_of(resolved.row, argv, &mut keys);
    }
    worker.node.shards.keep(keys.iter().map(|named| named.key))
}

/// Runs a long request, or a transaction with one, on a thread for slow work, and answers it. What cannot begin yet comes back.
/// `None`: nothing was run, for the data is with another node by now.
pub fn run(
    worker: &Worker,
    mut session: Session,
    argv: &[&[u8]],
    lent: Lent,
) -> Result<Option<Vec<u8>>, Box<(Session, Lent)>> {
    let mut reply = Reply::new(session.protocol);
    let keys = keys_of(worker.node.table, argv, &lent);
    let named = || keys.iter().map(Vec::as_slice);
    let memory = match &lent.transaction {
        // It was looked for when EXEC was read.
        Some(_) => Memory::Enough,
        None => scripts::look_for_memory(worker, &session, named()),
    };
    let (closed, (generation, view)) = match scripts::be_alone(worker, &mut session, named()) {
        Ok(alone) => alone,
        Err(scripts::NotAlone::NotYet) => return Err(Box::new((session, lent))),
        Err(scripts::NotAlone::UserGone) => return Ok(Some(reply.bytes)),
        Err(scripts::NotAlone::Shifted) => {
            reply.error(scripts::SHIFTED);
            return Ok(Some(reply.bytes));
        }
    };
    if !view.is_primary() {
        let Some((_, watch)) = lent.transaction else { return Ok(None) };
        watch.iter().for_each(|watch| worker.node.shards.unwatch(watch));
        reply.error(scripts::MOVED);
        return Ok(Some(reply.bytes));
    }
    let hot = worker.hot();
    let lane = Lane::new(Decoder::new(hot.decoder.clone()), generation, Arc::clone(&view));
    let mut scratch = worker.scratch.borrow_mut();
    let outer = std::mem::replace(&mut scratch.reply, reply);
    scratch.reply.bytes_max = hot.reply_bytes_max();
    let mut batch = Batch::new(worker, None, worker.now_ms(), worker.conditions(&view, &hot), hot);
    batch.conditions.memory = memory;
    batch.tracker = lent.tracker;
    batch.patience = patience::of_request_apart(&session, worker.lane, lent.left);
    if lent.noted {
        batch.noted = place_of(argv);
    }
    match lent.transaction {
        // Each of its requests keeps what it needs.
        Some(transaction) => batch.execute_apart(&mut session, &lane, transaction, &closed, &mut scratch),
        None => {
            let kept = worker.node.shards.keep(named());
            batch.run_apart(&mut session, &lane, Prepared::of(worker, argv), &closed, &mut scratch);
            drop(kept);
        }
    }
    batch.serve_ready(&view, Some(&closed).filter(|closed| closed.is_part()), &mut scratch);
    let ready = std::mem::take(&mut scratch.calls.ready);
    worker.node.shards.tracking.deliver();
    drop((batch, closed));
    let reply = std::mem::replace(&mut scratch.reply, outer);
    drop(scratch);
    worker.node.replication.log.tell();
    scripts::serve_later(worker, ready);
    Ok(Some(reply.bytes))
}

fn keys_of(table: &Table, argv: &[&[u8]], lent: &Lent) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let mut add = |argv: &[&[u8]]| {
        let mut keys = Vec::new();
        if let Ok(resolved) = table.resolve(argv) {
            table.keys_of(resolved.row, argv, &mut keys);
        }
        all.extend(keys.iter().map(|named| named.key.to_vec()));
    };
    match &lent.transaction {
        None => add(argv),
        Some((transaction, _)) => transaction.requests.iter().for_each(|request| {
            let argv: Vec<&[u8]> = request.iter().map(Vec::as_slice).collect();
            add(&argv);
        }),
    }
    all
}
