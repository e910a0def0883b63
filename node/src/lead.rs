//! A client's request is led to the shard group it is for, where there are several.
//!
//! ```text
//!   request ─► its group ([`crate::routes`]) ─► the batch turns to that group's node: from here on the request meets its gate,
//!                                              its shards, its journal, and goes elsewhere if its primary is elsewhere
//!   MULTI … ─► queued where the client is; the first key says which group it is for ─► EXEC goes there, with all of it
//! ```
//! What a client has that lasts (watched keys, a transaction with keys, channels) belongs to one group, and keeps it there
//! until it is over. Requests about single keys go to any group meanwhile, except within the transaction. It runs nothing.

use crate::batch::{Batch, Flow, Prepared};
use crate::connection::{Connection, Lane, Next};
use crate::gate::{self, Conditions, KeyBuffer};
use crate::gather::Gathering;
use crate::routes::{self, ACROSS, Asker, Gather, Routes, Target};
use crate::worker::{Scratch, Worker};
use keyward_cluster::GroupId;
use keyward_engine::command::{Flags, Group, Home};
use keyward_engine::session::Session;
use keyward_engine::table::Row;

/// The group that what the client has here belongs to, if it has anything that lasts.
fn pinned(connection: &Connection, session: &Session) -> Option<GroupId> {
    let in_transaction = session.transaction.is_some() && connection.pinned.get();
    // Who is told in its place is where the first group is served.
    let redirects = connection.tracking.borrow().as_ref().is_some_and(|tracker| tracker.redirects());
    let lasts = in_transaction || session.subscribed || redirects || connection.watch.borrow().is_some();
    lasts.then(|| connection.group.get())
}

/// The same, or the first group if somebody has the client told in its place, who finds it where that group is served.
fn tied(worker: &Worker, connection: &Connection, session: &Session) -> Option<GroupId> {
    let stands_in = || connection.mailbox.stands_in() && worker.node.tracking.is_told_for_others(session.id);
    pinned(connection, session).or_else(|| stands_in().then_some(GroupId(0)))
}

impl<'a> Batch<'_, 'a> {
    /// Turns to the group that a request is for. `Some`: it was dealt with, or must wait.
    pub(crate) fn lead(
        &mut self,
        session: &mut Session,
        lane: &mut Lane,
        request: &Prepared<'a>,
        scratch: &mut Scratch,
    ) -> Option<Flow> {
        let routes = lane.view.routes.as_deref()?;
        let connection = self.connection?;
        let row = match &request.resolved {
            Ok(resolved) if session.login.is_some() => resolved.row,
            _ => {
                self.stay(session, lane);
                return None;
            }
        };
        self.follow_watched(session, connection, routes);
        let queues = session.transaction.is_some() && crate::transaction::is_queued(row);
        let pinned = pinned(connection, session);
        let target = match row.full_name {
            _ if queues => {
                let target = routes.target(self.worker.node.table, Asker::of(session), row, request.argv);
                return self.lead_queued(session, lane, target, (row, request.argv), scratch);
            }
            "exec" if session.transaction.is_some() => pinned.map_or(Target::Here, |group| Target::Group(group, true)),
            "watch" if session.transaction.is_none() => {
                routes.target(self.worker.node.table, Asker::of(session), row, request.argv)
            }
            _ if row.command.group == Group::Transactions => Target::Here,
            _ => routes.target(self.worker.node.table, Asker::of(session), row, request.argv),
        };
        // A walk is gone on with wherever the keys are by then.
        let walks = matches!(target, Target::Group(..)) && matches!(row.full_name, "scan" | "clusterscan");
        let target = if walks { Target::Every(Gather::Cursor) } else { target };
        let only = self.part_of_this_node(routes, row);
        let target = match (target, routes::whole(row), &only) {
            // The group that holds its keys answers, where that is served.
            (Target::Group(group, _), Some(gather), Some(only)) if !only.contains(&group) => Target::Every(gather),
            (target, ..) => target,
        };
        match target {
            Target::Here => {
                if row.full_name == "multi" && session.transaction.is_none() {
                    connection.pinned.set(false);
                }
                self.stay(session, lane);
                None
            }
            Target::Group(group, _) => {
                if row.command.home(request.argv) == Home::DataForGood {
                    if !self.forward.is_empty() {
                        return Some(Flow::StopBefore);
                    }
                    if tied(self.worker, connection, session).is_some_and(|tied| tied != group) {
                        return self.refuse_across(session, lane, (row, request.argv), scratch);
                    }
                    connection.group.set(group);
                }
                self.turn(session, lane, group);
                None
            }
            Target::Across => self.refuse_across(session, lane, (row, request.argv), scratch),
            Target::Every(gather) | Target::Parts(gather) => {
                if !self.forward.is_empty() {
                    return Some(Flow::StopBefore);
                }
                self.stay(session, lane);
                if !self.is_allowed(session, row, request.argv) {
                    return None;
                }
                session.commands += 1;
                session.last_command = row.full_name;
                self.worker.count(row);
                let writes = !row.command.flags.has(Flags::READONLY);
                let gathering = Gathering {
                    gather,
                    only,
                    divided: matches!(target, Target::Parts(_)),
                    writes,
                    cached: !writes && self.caches().is_some(),
                    argv: request.argv.iter().map(|word| word.to_vec()).collect(),
                };
                self.end_caching(session);
                Some(Flow::Stop(Box::new(Next::Gather(Box::new(gathering)))))
            }
        }
    }

    /// To cluster clients a node that serves groups answers for these alone, in what they ask every primary for. One that serves
    /// none is no primary, and answers for all.
    fn part_of_this_node(&self, routes: &Routes, row: &Row) -> Option<Vec<GroupId>> {
        if !self.hot.redirects || !routes::is_asked_of_each_primary(row) {
            return None;
        }
        let serves = |group: &GroupId| self.front.at(*group).node.views.load().1.is_primary();
        Some(routes.groups().filter(serves).collect()).filter(|only: &Vec<GroupId>| !only.is_empty())
    }

    /// If the keys the client watches were moved to another group, they count as changed, and what it has belongs there.
    fn follow_watched(&self, session: &Session, connection: &Connection, routes: &Routes) {
        let watched = connection.watch.borrow();
        let Some(watch) = &*watched else { return };
        let here = connection.group.get();
        let moved = watch.keys().iter().map(|(_, key, _)| routes.of_key(session.tenant, key)).find(|of| *of != here);
        if let Some(group) = moved {
            self.front.at(here).node.shards.unwatch(watch);
            watch.touch();
            watch.forget();
            connection.group.set(group);
        }
    }

    /// A request of a transaction is kept where the client is; it must concern the transaction's group.
    fn lead_queued(
        &mut self,
        session: &mut Session,
        lane: &mut Lane,
        target: Target,
        (row, argv): (&'static Row, &[&[u8]]),
        scratch: &mut Scratch,
    ) -> Option<Flow> {
        let connection = self.connection?;
        let wanted = match target {
            Target::Group(group, true) => Some(group),
            Target::Group(group, false) if row.command.group == Group::Scripting => Some(group),
            Target::Group(..) | Target::Here => None,
            Target::Across | Target::Every(_) | Target::Parts(_) => {
                return self.refuse_across(session, lane, (row, argv), scratch);
            }
        };
        match (wanted, pinned(connection, session)) {
            (Some(group), None) if tied(self.worker, connection, session).is_some_and(|tied| tied != group) => {
                return self.refuse_across(session, lane, (row, argv), scratch);
            }
            (Some(group), None) => {
                connection.group.set(group);
                connection.pinned.set(true);
            }
            (Some(group), Some(pinned)) if group != pinned => {
                // What was queued before may have moved to that group since.
                let queued = session.transaction.as_ref().map(|transaction| transaction.requests.as_slice());
                let together = lane.view.routes.as_ref().is_some_and(|routes| {
                    crate::transaction::group_of(self.worker.node.table, session, routes, queued.unwrap_or_default())
                        == Ok(Some(group))
                });
                if !together || connection.watch.borrow().is_some() {
                    return self.refuse_across(session, lane, (row, argv), scratch);
                }
                connection.group.set(group);
            }
            _ => {}
        }
        self.stay(session, lane);
        None
    }

    /// Says that no group can carry it out, unless the gate has something to say about it first.
    fn refuse_across(
        &mut self,
        session: &mut Session,
        lane: &mut Lane,
        (row, argv): (&'static Row, &[&[u8]]),
        scratch: &mut Scratch,
    ) -> Option<Flow> {
        self.stay(session, lane);
        if !self.is_allowed(session, row, argv) {
            return None;
        }
        if !self.forward.is_empty() {
            return Some(Flow::StopBefore);
        }
        session.transaction.iter_mut().for_each(|transaction| transaction.broken = true);
        scratch.reply.error(ACROSS);
        Some(Flow::Continue)
    }

    /// Whether the client may make this request, wherever it is carried out.
    fn is_allowed(&self, session: &Session, row: &'static Row, argv: &[&[u8]]) -> bool {
        let conditions = Conditions { primary: true, ..self.conditions };
        gate::admit(self.worker.node.table, row, argv, session, &conditions, &mut KeyBuffer::new()).is_ok()
    }

    /// Turns to where the client is: what comes next needs no data, or none yet.
    fn stay(&mut self, session: &Session, lane: &mut Lane) {
        self.turn(session, lane, GroupId(0));
        self.conditions.primary = true;
        self.anywhere = true;
    }

    fn turn(&mut self, session: &Session, lane: &mut Lane, group: GroupId) {
        if lane.view.of == group && self.worker.node.group == group && !self.anywhere {
            return;
        }
        lane.turn(self.front, group, session.wants_quorum());
        self.anywhere = false;
        self.worker = self.front.at(group);
        self.conditions = self.worker.conditions(&lane.view, &self.hot);
        // Slots say nothing about where the keys of such a namespace are.
        let home = lane.view.routes.as_ref().and_then(|routes| routes.home(session.tenant));
        self.never_redirects = home.is_some();
        self.conditions.redirects &= !self.never_redirects;
    }
}
