//! Requests that concern several shard groups: each does its part, and one answer is made of theirs.
//!
//! ```text
//!   DEL a b c ─► DEL a c at one group, DEL b at another, at once ─► answers added up
//!   a pipeline of requests about single keys ─► one batch for each group, at once ─► answers in the order of the requests
//! ```
//! Each part passes the gate of the node that carries it out. The parts are not one step: another client may find one of them
//! done and not the other, and what fails in one group is not undone in the others. Which parts there are, and where they
//! go, is said by [`crate::routes`]; this file carries bytes there and back.

use crate::batch::{self, Ran};
use crate::callers::{Decoded, decode_all};
use crate::connection::{Connection, Lane, renew};
use crate::corridor::{Entry, InLane};
use crate::forward::{self, ForwardBatch, Sent};
use crate::routes::{ACROSS, Asker, Gather, Routes, Target};
use crate::view::Surety;
use crate::walks;
use crate::worker::Worker;
use futures_util::future::join_all;
use keyward_cluster::GroupId;
use keyward_engine::command::Flags;
use keyward_engine::keyspace::{NamesBound, TenantId};
use keyward_engine::reply::Reply;
use keyward_engine::session::ReplyMode;
use keyward_proto::resp::{Decoder, ReplyLimits, Value, parse_reply, skip_reply};
use std::rc::Rc;
use tokio::time::Instant;

/// What a write gets that one group has carried out and another has not: see [`forward::in_doubt`].
const PARTLY: &str =
    "UNKNOWN a shard group did not do its part, others did; the command may or may not have taken effect on each key";

/// What is answered by a node that does not hear where keys were moved to.
const LOST: &str = "CLUSTERDOWN keys were moved to another shard group, and this node has not heard of it; try again";

/// One request for several groups.
pub struct Gathering {
    /// How one answer is made.
    pub gather: Gather,
    /// Each group gets only its own keys.
    pub divided: bool,
    /// It may change something.
    pub writes: bool,
    /// The client caches what it reads.
    pub cached: bool,
    /// Only these groups are asked: what cluster clients are to be told of this node, who ask every other one, too.
    pub only: Option<Vec<GroupId>>,
    /// The request.
    pub argv: Vec<Vec<u8>>,
}

impl Gathering {
    /// How many names all groups together may tell this client.
    fn names_bound(&self, worker: &Worker, connection: &Connection) -> Option<NamesBound> {
        let row = worker.node.table.find(&self.argv[0])?;
        let session = connection.session.borrow();
        worker.hot().names_bound(&session, row.full_name, &session.reach(row))
    }

    fn asks(&self, group: GroupId) -> bool {
        self.only.as_ref().is_none_or(|only| only.contains(&group))
    }
}

/// Requests about single keys of several groups, one batch for each.
#[derive(Default)]
pub struct Spread {
    /// The batches besides the first.
    pub others: Vec<ForwardBatch>,
    /// The group of each request.
    pub order: Vec<GroupId>,
}

/// What is to be confirmed before the answers leave.
pub type Written = (GroupId, Surety, u64);

/// What one group answered.
struct Part {
    group: GroupId,
    answers: Vec<u8>,
    written: Vec<Written>,
    /// The client is to be closed.
    ends: bool,
    /// Keys were moved meanwhile: what concerns every group is to be asked anew.
    shifted: bool,
}

/// Has every group do its part, and appends the answers in the order of the requests. False: the client must go.
pub async fn spread(
    worker: &Rc<Worker>,
    connection: &Rc<Connection>,
    lane: &mut Lane,
    (first, spread): (ForwardBatch, Spread),
    output: &mut Vec<u8>,
) -> bool {
    let batches = std::iter::once(first).chain(spread.others);
    let parts = join_all(batches.map(|batch| part(worker, connection, batch))).await;
    parts.iter().flat_map(|part| &part.written).for_each(|written| lane.await_too(*written));
    let mut taken = vec![0; worker.node.groups().len()];
    for group in spread.order {
        let Some(part) = parts.iter().find(|part| part.group == group) else { return false };
        let at = &mut taken[group.0 as usize];
        let Ok(Some(length)) = skip_reply(&part.answers[*at..]) else { return false };
        // Whatever another node answered it has seen confirmed.
        match part.written.as_slice() {
            [] => lane.note(output.len()..output.len() + length, None),
            [written] => lane.note(output.len()..output.len() + length, Some(*written)),
            _ => {}
        }
        output.extend_from_slice(&part.answers[*at..*at + length]);
        *at += length;
    }
    parts.iter().all(|part| !part.ends)
}

/// Has every group do its part of one request, and appends the answer. False: the client must go.
pub async fn gather(
    worker: &Rc<Worker>,
    connection: &Rc<Connection>,
    lane: &mut Lane,
    request: Gathering,
    output: &mut Vec<u8>,
) -> bool {
    let wanted = std::mem::take(&mut connection.session.borrow_mut().replies);
    let answered = ask_groups(worker, connection, &request).await;
    answered.written.iter().for_each(|written| lane.await_too(*written));
    let mut reply = Reply::new(connection.session.borrow().protocol);
    reply.raw(&answered.answers);
    if wanted == ReplyMode::On {
        output.append(&mut reply.bytes);
    }
    let skipped = wanted == ReplyMode::SkipNext;
    connection.session.borrow_mut().replies = if skipped { ReplyMode::On } else { wanted };
    !answered.ends
}

/// The answer of all groups to one request, as that of one.
async fn ask_groups(worker: &Rc<Worker>, connection: &Rc<Connection>, request: &Gathering) -> Part {
    let mut all = Part::of(GroupId(0));
    let give_up = Instant::now() + worker.hot().failover_wait;
    loop {
        let (_, view) = worker.node.views.load();
        let Some(routes) = view.routes.clone() else {
            all.ends = true;
            return all;
        };
        let (tenant, protocol) = {
            let session = connection.session.borrow();
            (session.tenant, session.protocol)
        };
        let mut plan = plan(worker, (&routes, tenant), request);
        let batch = |(group, argv): &(GroupId, Vec<Vec<u8>>)| {
            let mut batch = ForwardBatch::of(*group);
            batch.writes = request.writes;
            batch.policy_version = view.index;
            batch.push(&argv.iter().map(Vec::as_slice).collect::<Vec<_>>());
            if request.cached {
                batch.cache_last();
            }
            batch
        };
        let batches: Vec<ForwardBatch> = plan.parts.iter().map(batch).collect();
        let parts = join_all(batches.into_iter().map(|batch| part(worker, connection, batch))).await;
        parts.iter().for_each(|part| all.written.extend(&part.written));
        // One group was asked before keys left it, another one after they came: nobody was asked about these.
        let now = worker.node.views.load().1;
        let moved = !request.divided && now.routes.as_ref().is_some_and(|routes| routes.changed_at() > view.index);
        let shifted = moved || parts.iter().any(|part| part.shifted);
        if shifted && Instant::now() >= give_up {
            all.answers = format!("-{LOST}\r\n").into_bytes();
            return all;
        }
        if shifted {
            tokio::time::sleep(forward::SHIFT_PAUSE).await;
            continue;
        }
        plan.random = worker.next_random();
        let mut reply = Reply::new(protocol);
        let names = request.names_bound(worker, connection);
        all.ends = parts.iter().any(|part| part.ends) || !merge((request, names), &plan, &parts, &mut reply);
        all.answers = reply.bytes;
        return all;
    }
}

/// What each group is asked, and which keys of the request that is about.
struct Plan {
    parts: Vec<(GroupId, Vec<Vec<u8>>)>,
    /// The part of each key.
    places: Vec<usize>,
    groups: u64,
    /// Of a walk: under which layout it began.
    layout: u64,
    random: u64,
}

/// Cursors tell this many layouts from each other: as many hand-overs during one walk look like none.
const LAYOUTS: u64 = 32;

fn plan(worker: &Worker, (routes, tenant): (&Routes, TenantId), request: &Gathering) -> Plan {
    let groups = worker.node.groups().len() as u64;
    let layout = routes.hand_overs() % LAYOUTS;
    let mut plan = Plan { parts: Vec::new(), places: Vec::new(), groups, layout, random: 0 };
    if request.gather == Gather::Cursor {
        let cursor = request.argv.get(1).and_then(|word| read_cursor(word));
        let mut argv = request.argv.clone();
        let first =
            request.only.as_ref().map_or(0, |only| only.iter().map(|group| u64::from(group.0)).min().unwrap_or(0));
        let group = cursor.map_or(first, |cursor| {
            // Keys that were handed over since may have gone from where it has not been to where it has: it begins anew.
            let place = if cursor != 0 && cursor % LAYOUTS == layout { cursor / LAYOUTS } else { first };
            argv[1] = cursor_text(request, place / groups);
            place % groups
        });
        plan.parts.push((GroupId(group as u32), argv));
        return plan;
    }
    if !request.divided {
        plan.parts
            .extend(routes.groups().filter(|group| request.asks(*group)).map(|group| (group, request.argv.clone())));
        return plan;
    }
    // Every word behind the name is a key, or with MSET every other one.
    let stride = if request.argv[0].eq_ignore_ascii_case(b"MSET") { 2 } else { 1 };
    for words in request.argv[1..].chunks(stride) {
        let group = routes.of_key(tenant, &words[0]);
        let at = plan.parts.iter().position(|(of, _)| *of == group).unwrap_or_else(|| {
            plan.parts.push((group, vec![request.argv[0].clone()]));
            plan.parts.len() - 1
        });
        plan.parts[at].1.extend_from_slice(words);
        plan.places.push(at);
    }
    plan
}

/// Makes one answer. False: an answer makes no sense.
fn merge((request, names): (&Gathering, Option<NamesBound>), plan: &Plan, parts: &[Part], reply: &mut Reply) -> bool {
    let (mut values, mut errors) = (Vec::with_capacity(parts.len()), Vec::new());
    for part in parts {
        match parse_reply(&part.answers, &ReplyLimits::default()) {
            Ok(Some((Value::Error(text), _))) => errors.push((part, text)),
            Ok(Some((value, _))) => values.push(value),
            _ => return false,
        }
    }
    // What one group refuses, the request as a whole has not done: unless another one has, or may have.
    let in_doubt = errors.iter().find(|(_, text)| text.starts_with(b"UNKNOWN"));
    if let Some((part, text)) = in_doubt.or(errors.first()) {
        if request.writes && !values.is_empty() && text.starts_with(b"CLUSTERDOWN") {
            reply.error(PARTLY);
        } else {
            reply.raw(&part.answers);
        }
        return true;
    }
    let integers = || values.iter().map(|value| if let Value::Integer(integer) = value { *integer } else { 0 });
    match request.gather {
        Gather::Sum => reply.integer(integers().sum()),
        Gather::Least => reply.integer(integers().min().unwrap_or(0)),
        Gather::Same => reply.raw(&parts[0].answers),
        Gather::Any => {
            let found: Vec<&Part> =
                parts.iter().zip(&values).filter(|(_, v)| **v != Value::Nil).map(|(p, _)| p).collect();
            match found.get((plan.random % found.len().max(1) as u64) as usize) {
                Some(part) => reply.raw(&part.answers),
                None => reply.null(),
            }
        }
        Gather::List => {
            let lists: Vec<&Vec<Value>> = values.iter().filter_map(list).collect();
            let count: usize = lists.iter().map(|list| list.len()).sum();
            if let Some(names) = names.filter(|names| count > names.most) {
                reply.error(&names.error());
                return true;
            }
            // CLUSTER GETKEYSINSLOT slot count.
            let most = match &request.argv[..] {
                [name, _, _, most] if name.eq_ignore_ascii_case(b"CLUSTER") => std::str::from_utf8(most).ok(),
                _ => None,
            };
            let count = most.and_then(|most| most.parse().ok()).map_or(count, |most: usize| most.min(count));
            reply.array(count);
            lists.into_iter().flatten().take(count).for_each(|value| write(value, reply));
        }
        Gather::LeastEach => {
            let lists: Vec<&Vec<Value>> = values.iter().filter_map(list).collect();
            let length = lists.iter().map(|list| list.len()).min().unwrap_or(0);
            reply.array(length);
            for at in 0..length {
                let each = lists.iter().map(|list| if let Value::Integer(integer) = list[at] { integer } else { 0 });
                reply.integer(each.min().unwrap_or(0));
            }
        }
        Gather::ByKey => {
            let mut rest: Vec<_> = values.iter().map(|value| list(value).map(|list| list.iter())).collect();
            reply.array(plan.places.len());
            for place in &plan.places {
                match rest[*place].as_mut().and_then(Iterator::next) {
                    Some(value) => write(value, reply),
                    None => return false,
                }
            }
        }
        Gather::Cursor => return merge_cursor(request, plan, &values, reply),
    }
    true
}

/// What lies before the number in a cursor of `CLUSTERSCAN` that is not the first or the last one.
const CLUSTER_CURSOR: &str = "0-{0}-";

fn read_cursor(word: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(word).ok()?;
    text.strip_prefix(CLUSTER_CURSOR).unwrap_or(text).parse().ok()
}

fn cursor_text(request: &Gathering, cursor: u64) -> Vec<u8> {
    let of_cluster = cursor != 0 && request.argv[0].eq_ignore_ascii_case(b"CLUSTERSCAN");
    let before = if of_cluster { CLUSTER_CURSOR } else { "" };
    format!("{before}{cursor}").into_bytes()
}

/// A walk goes through one group after the other: the cursor says which, besides where, and under which layout.
fn merge_cursor(request: &Gathering, plan: &Plan, values: &[Value], reply: &mut Reply) -> bool {
    let Some([Value::Bulk(cursor), Value::Array(keys)]) = values.first().and_then(list).map(Vec::as_slice) else {
        return false;
    };
    let Some(cursor) = read_cursor(cursor) else { return false };
    let group = u64::from(plan.parts[0].0.0);
    let next = match cursor {
        0 => (group + 1..plan.groups).find(|next| request.asks(GroupId(*next as u32))),
        cursor => Some(cursor.saturating_mul(plan.groups).saturating_add(group)),
    };
    let next = next.map_or(0, |place| place.saturating_mul(LAYOUTS).saturating_add(plan.layout));
    reply.array(2);
    reply.bulk(&cursor_text(request, next));
    reply.array(keys.len());
    keys.iter().for_each(|key| write(key, reply));
    true
}

fn list(value: &Value) -> Option<&Vec<Value>> {
    if let Value::Array(list) | Value::Set(list) = value { Some(list) } else { None }
}

fn write(value: &Value, reply: &mut Reply) {
    match value {
        Value::Bulk(bytes) | Value::Simple(bytes) => reply.bulk(bytes),
        Value::Integer(integer) => reply.integer(*integer),
        _ => reply.null(),
    }
}

/// Has one group answer a batch, wherever its primary is.
async fn part(worker: &Rc<Worker>, connection: &Rc<Connection>, mut batch: ForwardBatch) -> Part {
    let group = batch.group;
    let of = worker.of(group);
    let mut part = Part::of(group);
    let give_up = Instant::now() + worker.hot().failover_wait;
    while !batch.is_empty() && !part.ends && !part.shifted {
        let mut answers = Vec::new();
        let sent = forward::send(of, connection, &mut batch, &mut answers).await;
        part.answers.append(&mut answers);
        match sent {
            Sent::Answered => {}
            Sent::ServedHere => run_here(worker, of, connection, &mut batch, &mut part).await,
            Sent::Shifted if Instant::now() >= give_up => {
                let line = format!("-{LOST}\r\n");
                (0..batch.count()).for_each(|_| part.answers.extend_from_slice(line.as_bytes()));
                batch.answer(batch.count());
            }
            Sent::Shifted => lead_anew(worker, connection, &mut batch, &mut part).await,
        }
    }
    part
}

impl Part {
    fn of(group: GroupId) -> Part {
        Part { group, answers: Vec::new(), written: Vec::new(), ends: false, shifted: false }
    }
}

/// The keys of the first request that was not answered are another group's by now, or about to be: asks where they are.
async fn lead_anew(worker: &Rc<Worker>, connection: &Rc<Connection>, batch: &mut ForwardBatch, part: &mut Part) {
    let mut bytes = batch.rest().to_vec();
    let mut decoded = Decoded::default();
    if !decode_all(&mut bytes, worker.hot().decoder.clone(), &mut decoded) {
        part.ends = true;
        return;
    }
    let requests = decoded.requests(&bytes);
    let Some(argv) = requests.first() else { return };
    let (_, view) = worker.node.views.load();
    let asker = Asker::of(&connection.session.borrow());
    let (Some(routes), Ok(resolved)) = (&view.routes, worker.node.table.resolve(argv)) else {
        part.ends = true;
        return;
    };
    let writes = !resolved.row.command.flags.has(Flags::READONLY);
    let mut answered = match routes.target(worker.node.table, asker, resolved.row, argv) {
        _ if matches!(resolved.row.full_name, "scan" | "clusterscan") => {
            part.shifted = true;
            return;
        }
        // Not known here yet: it is asked again.
        Target::Group(group, true) if group == part.group => {
            batch.policy_version = view.index;
            return;
        }
        Target::Group(group, true) => {
            let mut one = ForwardBatch::of(group);
            one.writes = writes;
            one.policy_version = view.index;
            one.push(argv);
            if batch.caches_first() {
                one.cache_last();
            }
            Box::pin(self::part(worker, connection, one)).await
        }
        Target::Parts(gather) => {
            let argv = argv.iter().map(|word| word.to_vec()).collect();
            let request = Gathering { gather, divided: true, writes, cached: batch.caches_first(), only: None, argv };
            Box::pin(ask_groups(worker, connection, &request)).await
        }
        Target::Across => {
            let mut reply = Reply::new(connection.session.borrow().protocol);
            reply.error(ACROSS);
            Part { answers: reply.bytes, ..Part::of(part.group) }
        }
        // What concerns every group is asked anew as a whole.
        Target::Here | Target::Group(_, false) | Target::Every(_) => {
            part.shifted = true;
            return;
        }
    };
    part.answers.append(&mut answered.answers);
    part.written.append(&mut answered.written);
    part.ends |= answered.ends;
    batch.answer(1);
}

/// Runs a batch here, as far as this node serves the group.
async fn run_here(
    worker: &Rc<Worker>,
    of: &Rc<Worker>,
    connection: &Rc<Connection>,
    batch: &mut ForwardBatch,
    part: &mut Part,
) {
    let mut bytes = batch.rest().to_vec();
    let mut decoded = Decoded::default();
    if !decode_all(&mut bytes, of.hot().decoder.clone(), &mut decoded) {
        part.ends = true;
        return;
    }
    let argvs: Vec<Vec<&[u8]>> = decoded.requests(&bytes);
    let argvs: Vec<&[&[u8]]> = argvs.iter().map(Vec::as_slice).collect();
    if let [only] = argvs.as_slice() {
        let (_, view) = of.node.views.load();
        let asked = batch::ask_forwarded(of, &mut connection.session.borrow_mut(), &view, only);
        if let Some((ask, reach)) = asked {
            crate::asks::carry_out(of, connection, ask, &reach, &mut part.answers).await;
            batch.answer(1);
            return;
        }
    }
    enum Then {
        Opened,
        Unpaused,
    }
    let wait = match run_now(worker, of, connection, (&argvs, batch.policy_version), part) {
        None => Then::Opened,
        Some(Ran::Shifted) => {
            of.node.bar.opened().await;
            return lead_anew(worker, connection, batch, part).await;
        }
        Some(Ran::Answered(count, _)) => return batch.answer(count),
        // Its link is found anew.
        Some(Ran::NotPrimary) => return tokio::time::sleep(forward::RETRY_PAUSE).await,
        Some(Ran::UserGone) => {
            part.ends = true;
            return;
        }
        Some(Ran::Long(noted)) => {
            let session = connection.session.borrow().for_later();
            let argv = walks::Words::copy(argvs[0].iter().copied());
            let argv = if noted { argv.noted() } else { argv };
            let wants_quorum = session.wants_quorum();
            // What it writes is confirmed by the reign in which it began, or not at all.
            let Some(surety) = of.node.views.load().1.surety() else {
                return tokio::time::sleep(forward::RETRY_PAUSE).await;
            };
            let lent = walks::Lent { led_at: Some(batch.policy_version), ..walks::Lent::default() };
            let Ok(mut answer) = walks::answer(of, session, argv, lent).await else {
                // Where it belongs is found anew.
                return tokio::time::sleep(forward::RETRY_PAUSE).await;
            };
            part.answers.append(&mut answer);
            if wants_quorum {
                part.written.push((part.group, surety, of.node.replication.log.position()));
            }
            return batch.answer(1);
        }
        Some(Ran::Paused) => Then::Unpaused,
    };
    match wait {
        Then::Opened => of.node.corridor.opened().await,
        // The corridor may have been meant: then it is open again at once, or soon.
        Then::Unpaused => {
            tokio::select! {
                () = of.node.pause.ended(|| of.now_ms()) => tokio::time::sleep(forward::RETRY_PAUSE).await,
                () = connection.killed() => part.ends = true,
            }
        }
    }
}

/// `None`: somebody runs alone.
fn run_now(
    worker: &Worker,
    of: &Worker,
    connection: &Connection,
    (argvs, version): (&[&[&[u8]]], u64),
    part: &mut Part,
) -> Option<Ran> {
    let corridor = &of.node.corridor;
    let (in_lane, beside) = match corridor.enter(worker.lane) {
        Entry::Entered => (Some(InLane::new(corridor, worker.lane)), None),
        Entry::Beside(parts) => (Some(InLane::new(corridor, worker.lane)), Some(parts)),
        Entry::Closed => return None,
        Entry::Busy => (None, None),
    };
    let (generation, view) = of.node.views.load();
    if !view.is_primary() {
        return Some(Ran::NotPrimary);
    }
    if view.routes.as_ref().is_some_and(|routes| routes.changed_at() > version) {
        return Some(Ran::Shifted);
    }
    // The groups of a process hear of a change one after the other: this one is still about to.
    if view.index < version {
        return Some(Ran::NotPrimary);
    }
    let mut session = connection.session.borrow_mut();
    if !renew(&mut session, &view) {
        return Some(Ran::UserGone);
    }
    let mut lane = Lane::new(Decoder::new(of.hot().decoder.clone()), generation, view);
    let mut scratch = worker.scratch.borrow_mut();
    let how = (in_lane.is_none(), beside);
    let ran = batch::run_forwarded(of, &mut session, &mut lane, (argvs, version), how, &mut scratch);
    part.answers.append(&mut scratch.reply.bytes);
    let replication = &of.node.replication;
    replication.log.tell();
    if session.wants_quorum()
        && let Some(surety) = lane.view.surety()
    {
        part.written.push((part.group, surety, replication.log.position()));
    }
    Some(ran)
}
