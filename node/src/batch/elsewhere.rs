//! Whether a request is for here: it may be about keys of another shard group, of a part of the node somebody is alone in,
//! or take longer than a data thread has time for.

use super::{Batch, Flow, Prepared};
use crate::connection::{Connection, Lane, Next};
use crate::corridor::{Closed, Extent, Part, Parts};
use crate::forward::ForwardBatch;
use crate::gate::Admitted;
use crate::gather::Spread;
use crate::large;
use crate::meter::Asked;
use crate::observers::Watch;
use crate::routes::{self, Routes};
use crate::view::View;
use crate::walks::Words;
use crate::worker::{Scratch, Worker};
use keyward_acl::KeyUse;
use keyward_cluster::GroupId;
use keyward_engine::command::{Flags, Run};
use keyward_engine::session::{ReplyMode, Session, Transaction};
use keyward_engine::table::Row;
use std::rc::Rc;
use std::sync::Arc;

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
pub(super) enum Stray {
    /// It must be led anew.
    Shifted,
    /// It belongs nowhere.
    Refused(&'static str),
}

/// Nothing runs in a group whose keys it does not name, nor does half of what concerns every group, nor anything on keys that
/// are about to be another group's.
pub(super) fn stray(
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
        Ok(_) if routes::swaps(row) && routes.moving().is_some() => {
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
pub(super) fn is_barred(
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
pub(super) fn set_aside(
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
#[inline]
pub(crate) fn place_of(argv: &[&[u8]]) -> usize {
    argv.as_ptr() as usize
}

/// Whether a command takes the locks of keys it does not name.
pub(crate) fn locks_everything(row: &Row, argv: &[&[u8]]) -> bool {
    let further = || row.command.extra.looks_further.is_none_or(|looks| looks(argv).is_some());
    matches!(row.run, Run::OnEveryKey(_)) && further()
}

/// `noted`: those who watch what is run were told of it.
pub(super) fn elsewhere(session: &mut Session, row: &'static Row, request: &Prepared<'_>, noted: bool) -> Flow {
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
#[inline]
pub(crate) fn has_part(session: &Session) -> bool {
    matches!(Extent::of(session), Extent::Part(_))
}

/// Whether a command walks over more keys than this thread has time for, and need not be one step with others.
pub(super) fn walks_apart(
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

/// Whether the client has something here that it can take along to where the data is.
pub(super) fn follows_data(worker: &Worker, connection: Option<&Rc<Connection>>, session: &Session) -> bool {
    let may_move = crate::moving::may_move(worker, session);
    may_move && connection.is_some_and(|connection| connection.has_lasting_state(session))
}

/// Whether the client has something here that does not move along with the data: it must begin anew elsewhere.
pub(super) fn has_lasting_state(connection: Option<&Rc<Connection>>, session: &Session) -> bool {
    connection.is_some_and(|connection| connection.has_lasting_state(session))
}

/// Where a cluster client finds a slot.
pub(super) fn moved(slot: u16, view: &View) -> String {
    match view.topology.primary_of(slot) {
        Some(primary) => format!("MOVED {slot} {}:{}", primary.host, primary.port),
        None => "CLUSTERDOWN Hash slot not served".to_owned(),
    }
}

impl<'w, 'a> Batch<'w, 'a> {
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

    /// Another node serves the data: the request joins those that travel there together.
    pub(super) fn send_elsewhere(
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
