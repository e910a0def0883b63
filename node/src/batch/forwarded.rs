//! One request that another node forwarded.

use super::{Batch, Flow, Prepared, lane_is_current};
use crate::connection::{Doubts, Lane, Next, OUTPUT_BYTES_SOFT, was_run};
use crate::corridor::Parts;
use crate::gate::{self, KeyBuffer, Refusal};
use crate::routes;
use crate::view::View;
use crate::worker::{Scratch, Worker};
use keyward_engine::args::Args;
use keyward_engine::asks::{Ask, TenantAsk};
use keyward_engine::command::{Flags, Home, Run};
use keyward_engine::error::CommandError;
use keyward_engine::scope::Reach;
use keyward_engine::session::Session;
use keyward_engine::table::Resolved;
use std::sync::Arc;

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
    /// a batch of large reads is not held as a whole. Of clients that wait for the replicas, which answer waits for what.
    Answered(u32, Doubts),
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
/// `busy`. The replies are in `scratch.reply`. What concerns every key is answered as of the sender's `version`, or not at all: of
/// several groups that are asked at once, each then leaves out what another one finds.
pub fn run_forwarded(
    worker: &Worker,
    session: &mut Session,
    lane: &mut Lane,
    (argvs, version): (&[&[&[u8]]], u64),
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
        return Ran::Answered(argvs.len() as u32, Doubts::default());
    }
    let conditions = worker.conditions(&lane.view, &hot);
    let mut batch = Batch::new(worker, None, worker.now_ms(), conditions, hot);
    let (mut answered, mut doubts) = (0, Doubts::default());
    batch.beside = beside;
    batch.tab.open(session);
    let mut rest = argvs.iter();
    let mut next = rest.next();
    while let Some(argv) = next {
        let (mark, before) = (scratch.reply.mark(), scratch.reply.bytes.len());
        let ended = if !lane_is_current(worker, lane, session, &mut batch) {
            Some(Ran::UserGone)
        } else if !batch.conditions.primary {
            Some(Ran::NotPrimary)
        } else if scratch.reply.bytes.len() > OUTPUT_BYTES_SOFT {
            Some(Ran::Answered(answered, Doubts::default()))
        } else {
            let request = Prepared::placed(worker, argv);
            let ended = batch.step_forwarded(session, lane, &request, scratch);
            match ended.is_none().then(|| look_back(worker, lane, &request, version)) {
                None | Some(Found::All) => ended,
                Some(Found::Others) => {
                    scratch.reply.rewind(mark);
                    continue;
                }
                Some(Found::Elsewhere) => {
                    scratch.reply.rewind(mark);
                    Some(Ran::Shifted)
                }
            }
        };
        match ended {
            None => {
                answered += 1;
                if session.wants_quorum() {
                    // Looked at before each request: an earlier reign's answers wait for that one.
                    let position = worker.node.replication.log.position();
                    let answer = before..scratch.reply.bytes.len();
                    let surety = lane.view.surety().filter(|_| was_run(&scratch.reply.bytes[answer.clone()]));
                    doubts.add(answer, surety.map(|surety| (lane.view.of, surety, position)));
                }
            }
            Some(ended) if answered == 0 => return ended,
            Some(_) => break,
        }
        next = rest.next();
    }
    batch.meter.settle(worker, &batch.hot, session);
    batch.charge(session);
    worker.node.shards.tracking.deliver();
    Ran::Answered(answered, doubts)
}

/// What a look at every key was, once it is over.
enum Found {
    /// What it should be.
    All,
    /// Keys began to be copied here or were removed meanwhile, and some of that may have been seen: it is to be done again.
    Others,
    /// Keys belong elsewhere since the request was led here.
    Elsewhere,
}

/// What a request found, which the sender led here by what it knew at `version`. Who copies keys here or removes them begins when this node
/// knows of it: so a look that saw any of that sees here that there is something newer.
fn look_back(worker: &Worker, lane: &Lane, request: &Prepared<'_>, version: u64) -> Found {
    let looks = |resolved: &Resolved<'_>| {
        matches!(resolved.row.run, Run::OnEveryKey(_)) && resolved.row.command.flags.has(Flags::READONLY)
    };
    let Some(before) = &lane.view.routes else { return Found::All };
    if !request.resolved.as_ref().is_ok_and(looks) {
        return Found::All;
    }
    let (_, view) = worker.node.views.load();
    match &view.routes {
        Some(now) if now.changed_at() > version => Found::Elsewhere,
        Some(now) if now.finds_others(before) => Found::Others,
        _ => Found::All,
    }
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
