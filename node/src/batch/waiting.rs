//! Clients that wait for keys: parked when their request finds nothing, served when somebody else's request made it.

use super::{Batch, Flow, call_context, events_of};
use crate::connection::{Connection, Next, renew};
use crate::corridor::{Closed, Part};
use crate::gate::{self, KeyBuffer};
use crate::observers::Waiter;
use crate::pace::{self, Waiting};
use crate::shards::Call;
use crate::view::View;
use crate::worker::Scratch;
use keyward_acl::{KeyUse, LogContext};
use keyward_engine::command::{Flags, Group, Run};
use keyward_engine::effects::Wait;
use keyward_engine::keyspace::{SpaceId, TenantId};
use keyward_engine::reply::Reply;
use keyward_engine::scope::Reach;
use keyward_engine::session::Session;
use keyward_engine::table::{Resolved, Row};
use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

/// A client begins to wait for the keys of its request.
pub(super) fn park(
    connection: Option<&Rc<Connection>>,
    session: &Session,
    space: SpaceId,
    argv: &[&[u8]],
    keys: &[KeyUse<'_>],
    mut wait: Wait,
) -> Arc<Waiter> {
    let request = wait.again.take().unwrap_or_else(|| argv.iter().map(|argument| argument.to_vec()).collect());
    let keys = once_each(keys.iter().map(|named| named.key));
    let mailbox = connection.expect("only a connected client waits").mailbox.clone();
    // Keys are watched where everybody who can write them finds them, whoever's they are.
    Waiter::new(request, keys, space.world(), session.for_later(), wait, mailbox)
}

/// A key that is named often is waited for once: whoever leaves looks for itself among all who wait for each.
fn once_each<'a>(keys: impl ExactSizeIterator<Item = &'a [u8]>) -> Vec<Vec<u8>> {
    let mut seen = HashSet::with_capacity(keys.len());
    keys.filter(|key| seen.insert(*key)).map(<[u8]>::to_vec).collect()
}

impl<'w, 'a> Batch<'w, 'a> {
    /// A client that found nothing waits, unless as many of its tenant wait as may.
    pub(super) fn wait_or_refuse(
        &self,
        session: &mut Session,
        row: &Row,
        waiter: Arc<Waiter>,
        scratch: &mut Scratch,
    ) -> Flow {
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
    pub(super) fn concerns(&self, waiter: &Waiter, kind: Option<&'static str>) -> bool {
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
            self.worker.stats.erred(&session, self.worker.lane, error);
        }
        Some(reply.bytes)
    }

    /// Whether these keys are this group's, and not about to be another's.
    fn are_here(&self, view: &View, tenant: TenantId, keys: &[KeyUse<'_>]) -> bool {
        let Some(routes) = &view.routes else { return true };
        let ours = routes.of_keys(tenant, keys).is_ok_and(|of| of.is_none_or(|of| of == self.worker.node.group));
        ours && !self.worker.node.bar.bars(tenant, keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_is_named_often_is_waited_for_once_in_the_place_it_was_named_first() {
        let named = [&b"q"[..], b"r", b"q", b"q", b"s", b"r"];
        assert_eq!(once_each(named.into_iter()), [b"q", b"r", b"s"]);
    }
}
