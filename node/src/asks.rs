//! Carries out what commands ask of the outside world: the one place that does, and may wait.
//!
//! The handler decided and did nothing; here it is done, and the answer appended. It is long because every ask has its arm of the
//! `match`, and what that does. No plaintext password leaves this file: it is compared and dropped.

use crate::connection::{Connection, renew, turn_of};
use crate::control::ControlError;
use crate::forward::{self, ForwardBatch};
use crate::gate::Refusal;
use crate::guesses::Turn;
use crate::holding::Kept;
use crate::info;
use crate::insight::{self, audit::AuditEvent, shares::Doer};
use crate::latency::Times;
use crate::live;
use crate::node::Node;
use crate::worker::{Job, Worker, now_us};
use keyward_acl::{AuthFailure, CommandId, ErrorDetail, UserChange, UserName, UserOutcome};
use keyward_cluster::{Change, NodeId, Outcome};
use keyward_engine::account::POWERS;
use keyward_engine::asks::{
    Ask, ClientFilter, CommandLogAsk, CommandLogKind, KillReply, LatencyAsk, LoginAttempt, MemoryAsk, TakeOver,
    TenantAsk, TenantEdit,
};
use keyward_engine::events::EventClass;
use keyward_engine::keyspace::TenantId;
use keyward_engine::reply::{Protocol, Reply};
use keyward_engine::scope::Reach;
use keyward_engine::session::Login;
use keyward_proto::resp::{ReplyLimits, Value, parse_reply};
use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// Between two tries of `FAILOVER` and `CLUSTER FAILOVER FORCE`.
const AGAIN_PAUSE: Duration = Duration::from_millis(50);

const WRONGPASS: &str = "WRONGPASS invalid username-password pair or user is disabled.";

const NO_DEFAULT_PASSWORD: &str = "ERR AUTH <password> called without any password configured for the default user. \
    Are you sure your configuration is correct?";

const NO_ACL_FILE: &str = "ERR This instance is not configured to use an ACL file. Users are kept by the cluster and \
    survive restarts without one; give the node an ACL file with --acl-file to load or save it.";

/// Does what was asked and appends the answer. Nothing beyond `reach` is found. The words of a script come back if it was not
/// run because the data is with another node by now: they are to be sent there.
pub async fn carry_out(
    worker: &Rc<Worker>,
    connection: &Rc<Connection>,
    ask: Ask,
    reach: &Reach,
    output: &mut Vec<u8>,
) -> Option<Vec<Vec<u8>>> {
    let protocol = connection.session.borrow().protocol;
    let mut reply = Reply::new(protocol);
    match ask {
        Ask::RunScript(call) => {
            let (session, name) = {
                let session = connection.session.borrow();
                (session.for_later(), session.last_command)
            };
            let tracker = connection.script_tracker.borrow_mut().take();
            let words = call.keys.iter().chain(&call.args).chain([call.program.text()]);
            let _kept = Kept::new(&connection.mailbox, words.map(|word| word.len() as u64).sum());
            match worker.node.scripts.run_elsewhere(session, call, reach.owner(), tracker).await {
                Ok(ran) => {
                    connection.session.borrow_mut().commands += ran.calls;
                    reply.raw(&ran.reply);
                }
                Err(call) => {
                    connection.asked.borrow_mut().take();
                    let count = call.keys.len().to_string();
                    let head = [name.as_bytes(), call.program.text(), count.as_bytes()].map(<[u8]>::to_vec);
                    return Some(head.into_iter().chain(call.keys).chain(call.args).collect());
                }
            }
        }
        Ask::Login(attempt) => {
            if log_in(worker, connection, attempt, &mut reply).await {
                reply.ok();
            }
        }
        Ask::Hello { protocol, login, name } => {
            hello(worker, connection, protocol, login, name, &mut reply).await;
        }
        Ask::Reset => {
            connection.forget(worker);
            let mut session = connection.session.borrow_mut();
            session.reset();
            session.subscribed = false;
            connection.mailbox.set_protocol(session.protocol);
            session.log_in(connection.anonymous(worker, &worker.node.views.load().1));
            session.closing |= !connection.stays(&session);
            // Whoever logged in to nothing has nobody's places.
            let _ = connection.seats.take(worker, session.login.as_ref(), false);
            connection.mailbox.standing.set(session.login.as_ref());
            connection.bound(worker, &session);
            reply.protocol = session.protocol;
            reply.simple("RESET");
        }
        Ask::Quit => {
            connection.session.borrow_mut().closing = true;
            reply.ok();
        }
        Ask::ChangeUsers { change, count } => change_users(worker, connection, change, count, &mut reply).await,
        Ask::Tenant(ask) => {
            let (actor, source) = origin(connection);
            crate::tenants::carry_out(&worker.node, ask, actor, source, &mut reply).await;
        }
        Ask::LoadUsers => load_users(worker, connection, &mut reply).await,
        Ask::SaveUsers => save_users(&worker.node, &mut reply).await,
        Ask::ShowAclLog { count } => worker.node.show_acl_log(count, now_us() / 1000, reach, &mut reply),
        Ask::ResetAclLog => {
            let mut log = worker.node.acl_log.lock();
            match reach {
                Reach::Everything => log.reset(),
                _ => log.reset_user(connection.session.borrow().user_name()),
            }
            reply.ok();
        }
        Ask::WaitForReplicas { replicas, timeout_ms, files } => {
            let replication = &worker.node.replication;
            let wanted = usize::try_from(replicas).unwrap_or(0);
            let limit = (timeout_ms > 0).then(|| Duration::from_millis(timeout_ms));
            let have = replication.wait_for_replicas(wanted, replication.log.position(), limit).await;
            show_waited(have, files, &mut reply);
        }
        Ask::ShowRole => show_role(&worker.node, reach, &mut reply),
        Ask::Failover { to, patience } => {
            let patience = patience.unwrap_or(worker.hot().failover_wait);
            fail_over(&worker.node, to, patience, origin(connection).0, &mut reply).await;
        }
        Ask::ShowLinks => show_links(&worker.node, &mut reply),
        Ask::TakeOver(how) => take_over(worker, how, &origin(connection).0, &mut reply).await,
        Ask::ListClients(filter) => list_clients(&worker.node, connection, filter, reach, &mut reply).await,
        Ask::ShowClient => {
            let line = crate::clients::line(&connection.session.borrow(), connection, worker.now_ms());
            reply.verbatim(format!("{line}\n").as_bytes());
        }
        Ask::KillClients(filter, how) => kill_clients(&worker.node, connection, (filter, how), reach, &mut reply).await,
        Ask::ShowConfig(patterns) => {
            let session = connection.session.borrow();
            let tenant = session.login.as_ref().and_then(|login| login.tenant.as_deref());
            let shown = worker.node.live.show(&patterns, reach, tenant);
            reply.map(shown.len());
            for (name, value) in shown {
                reply.bulk(name.as_bytes());
                reply.bulk(value.as_bytes());
            }
        }
        Ask::SetConfig(pairs) if !reach.is_confined() && names(&pairs, "requirepass") => {
            set_password_of_default(worker, connection, &pairs, &mut reply).await;
        }
        Ask::SetConfig(pairs) if !reach.is_confined() && names(&pairs, live::MIN_IN_SYNC) => {
            set_min_in_sync(&worker.node, origin(connection), &pairs, &mut reply).await;
        }
        Ask::SetConfig(pairs) => match own_events(connection, &pairs) {
            Some((name, letters)) => {
                let (actor, source) = origin(connection);
                let edit = TenantEdit::Setting("notify-keyspace-events".to_owned(), letters);
                match may_change_own(connection) {
                    Ok(()) => {
                        let ask = TenantAsk::Set { name, edits: vec![edit] };
                        crate::tenants::carry_out(&worker.node, ask, actor, source, &mut reply).await;
                    }
                    Err(wait) => reply.error(&format!(
                        "THROTTLED tenant {name} changes what every node must agree on more than once a second: retry_after_ms={}",
                        wait.as_millis() + 1
                    )),
                }
            }
            None => {
                let own = {
                    let session = connection.session.borrow();
                    let tenant = session.login.as_ref().and_then(|login| login.tenant.as_ref());
                    tenant.map_or(EventClass::NONE, |tenant| tenant.limits.events)
                };
                if set_config(&worker.node, &pairs, own, reach, &mut reply) {
                    insight::pass_settings_on(&worker.node, &pairs).await;
                }
            }
        },
        Ask::ResetStatistics => {
            // Of what is counted, nothing is counted for a confined user alone.
            if !reach.is_confined() {
                worker.node.reset_statistics();
            }
            reply.ok();
        }
        Ask::ShowInfo(sections) => show_info(worker, connection, &sections, reach, &mut reply).await,
        Ask::ShowLastSave => reply.integer(worker.node.snapshots.last_save_ms() / 1000),
        // Outside of transactions and scripts the connection answers it itself.
        Ask::SendCopy(_) => reply.error("ERR SYNC is not allowed here"),
        Ask::Save => save(&worker.node, &mut reply).await,
        Ask::SaveInBackground => {
            if worker.node.snapshots.request() {
                reply.simple("Background saving started");
            } else {
                reply.error("ERR Background save already in progress");
            }
        }
        Ask::Shutdown { save } => {
            tracing::warn!(client = %connection.session.borrow().address, "shutdown was asked for by a client");
            worker.node.stop.request(save);
            connection.session.borrow_mut().closing = true;
        }
        Ask::PurgeMemory => {
            crate::repack::start(&worker.node);
            reply.ok();
        }
        Ask::Memory(ask) => {
            let told = own_advice_elsewhere(worker, connection, ask, reach).await;
            let session = connection.session.borrow();
            let tenant = session.login.as_ref().and_then(|login| login.tenant.as_deref());
            let evicted = told.unwrap_or_else(|| tenant.map_or(0, |tenant| tenant.gauge.evicted()));
            crate::memory_report::show(&worker.node, ask, (&session, evicted), reach, &mut reply);
        }
        Ask::CommandLog(kind, ask) => command_log(&worker.node, kind, ask, reach, &mut reply),
        Ask::Latency(ask) => latency(&worker.node, connection, ask, reach, &mut reply),
        Ask::Pause { ms, writes_only } => {
            let now = worker.now_ms();
            let until = i64::try_from(ms).ok().and_then(|ms| now.checked_add(ms));
            match until {
                Some(until) => {
                    worker.node.groups().iter().for_each(|of| of.pause.begin(until, writes_only, now));
                    reply.ok();
                }
                None => reply.error("ERR timeout is out of range"),
            }
        }
        Ask::Unpause => {
            worker.node.groups().iter().for_each(|of| of.pause.end());
            reply.ok();
        }
        Ask::Debug(ask) => crate::debug::carry_out(worker, connection, ask, &mut reply).await,
    }
    if let Some(asked) = connection.asked.borrow_mut().take() {
        worker.asked(&connection.session.borrow(), asked, &reply);
    }
    let replies = connection.session.borrow().replies;
    if replies == keyward_engine::session::ReplyMode::On {
        output.append(&mut reply.bytes);
    } else if replies == keyward_engine::session::ReplyMode::SkipNext {
        connection.session.borrow_mut().replies = keyward_engine::session::ReplyMode::On;
    }
    None
}

/// Whether the session is logged in now; if not, the reply says why.
async fn log_in(worker: &Worker, connection: &Connection, attempt: LoginAttempt, reply: &mut Reply) -> bool {
    let (guesses, a_second) = (&worker.node.guesses, worker.hot().failed_logins_a_second);
    let address = connection.session.borrow().address.clone();
    let mut waited = false;
    match guesses.turn(&address, a_second, Instant::now().into_std()) {
        Turn::Now => {}
        Turn::After(time, waiting) => {
            tokio::time::sleep(time).await;
            waited = true;
            drop(waiting);
        }
        Turn::Refused => {
            reply.error("ERR too many logins from your address wait, for many had a wrong password; try again later");
            return false;
        }
    }
    // However many log in at once, others are served in between.
    let Some(turn) = turn_of(worker, connection).await else { return false };
    let (_, view) = worker.node.views.load();
    if attempt.without_name && view.login(b"default").is_some_and(|login| login.user.nopass) {
        reply.error(NO_DEFAULT_PASSWORD);
        return false;
    }
    let known = view.state.directory().authenticate(&attempt.user, &attempt.password);
    // Whoever is of a retired tenant is told what one is told who guessed wrong: an answer of its own would confirm the guess.
    match known.and_then(|user| view.login(user.name.as_bytes()).cloned().ok_or(AuthFailure::TenantRetired)) {
        Ok(login) => {
            let login = Some(login);
            let confined = login.as_ref().is_some_and(|login| login.policy.is_confined());
            if confined && !connection.has_usual_place(worker) {
                worker.stats.rejected.add(1);
                connection.session.borrow_mut().closing = true;
                reply.error("ERR max number of clients reached");
                return false;
            }
            if let Err(text) = connection.seats.take(worker, login.as_ref(), true) {
                drop(turn);
                tokio::time::sleep(crate::pace::TURNED_AWAY_AFTER).await;
                // Whoever is told at the same moment is told one after another.
                let _turn = turn_of(worker, connection).await;
                reply.error(&text);
                return false;
            }
            if connection.place.borrow().as_ref().is_some_and(|place| !place.note_known()) {
                // Another one has its place since it was a stranger; it is told to leave already.
                connection.session.borrow_mut().closing = true;
                return false;
            }
            connection.charge_traffic(worker);
            let tenant = login.as_ref().and_then(|login| login.tenant.as_ref());
            let world = tenant.map_or(TenantId::SHARED, |tenant| tenant.id.world());
            if connection.session.borrow().tenant.world() != world {
                // What it listened to and cached are other names.
                connection.leave_world(worker);
            }
            let mut session = connection.session.borrow_mut();
            session.log_in(login);
            connection.mailbox.standing.set(session.login.as_ref());
            let accounts = session.login.iter().flat_map(keyward_engine::session::Login::accounts);
            accounts.for_each(|(_, account)| account.lane(worker.lane).logins.add(1));
            worker.node.audit.note(
                AuditEvent::Auth,
                || Doer::of(&session),
                worker.now_ms(),
                |line| insight::of_session(line, &session).word("outcome", "success"),
            );
            connection.bound(worker, &session);
            true
        }
        Err(failure) => {
            if !waited {
                guesses.wrong(&address, a_second, Instant::now().into_std());
            }
            worker.login_failed(&connection.session.borrow(), &attempt.user, &attempt.word, failure);
            reply.error(WRONGPASS);
            false
        }
    }
}

async fn hello(
    worker: &Worker,
    connection: &Connection,
    protocol: Option<Protocol>,
    login: Option<LoginAttempt>,
    name: Option<Vec<u8>>,
    reply: &mut Reply,
) {
    if let Some(attempt) = login
        && !log_in(worker, connection, attempt, reply).await
    {
        return;
    }
    let mut session = connection.session.borrow_mut();
    if session.login.is_none() {
        return reply.error(&Refusal::HelloNotAuthenticated.text(ErrorDetail::Full));
    }
    if let Some(name) = name {
        session.name = name;
    }
    if let Some(protocol) = protocol {
        session.protocol = protocol;
        connection.mailbox.set_protocol(protocol);
        reply.protocol = protocol;
    }
    reply.map(7);
    reply.bulk(b"server");
    reply.bulk(b"redis");
    reply.bulk(b"version");
    reply.bulk(info::REDIS_VERSION.as_bytes());
    reply.bulk(b"proto");
    reply.integer(if session.protocol == Protocol::Resp3 { 3 } else { 2 });
    reply.bulk(b"id");
    reply.integer(session.id as i64);
    reply.bulk(b"mode");
    reply.bulk(if worker.hot().redirects { b"cluster" } else { b"standalone" });
    reply.bulk(b"role");
    let node = info::speaker(&worker.node);
    let follows = info::followed(node, &node.views.load().1).is_some();
    reply.bulk(if follows { b"replica" } else { b"master" });
    reply.bulk(b"modules");
    reply.array(0);
}

/// Who asks, and through which door.
fn origin(connection: &Connection) -> (String, String) {
    let session = connection.session.borrow();
    (String::from_utf8_lossy(session.user_name()).into_owned(), format!("resp {}", session.address))
}

async fn change_users(
    worker: &Rc<Worker>,
    connection: &Rc<Connection>,
    change: UserChange,
    count: bool,
    reply: &mut Reply,
) {
    let (actor, source) = origin(connection);
    connection.changes_users.set(true);
    let outcome = worker.node.propose(Change::User(change), actor, source).await;
    connection.changes_users.set(false);
    match outcome {
        Ok(Outcome::User(UserOutcome::Deleted { count: gone })) if count => reply.integer(gone as i64),
        Ok(Outcome::Refused(refusal)) => reply.error(&format!("ERR {refusal}")),
        Ok(_) => reply.ok(),
        Err(error) => reply.error(&error),
    }
    end_if_own_user_is_gone(worker, connection);
}

/// `ACL DELUSER` of oneself: the answer is sent, then the connection ends.
fn end_if_own_user_is_gone(worker: &Worker, connection: &Connection) {
    let (_, view) = worker.node.views.load();
    let mut session = connection.session.borrow_mut();
    if !renew(&mut session, &view) {
        session.closing = true;
    }
}

async fn load_users(worker: &Rc<Worker>, connection: &Rc<Connection>, reply: &mut Reply) {
    let Some(path) = worker.node.config.acl_file.clone() else { return reply.error(NO_ACL_FILE) };
    let (table, password) = (worker.node.table, worker.node.config.requirepass.clone());
    let load = move || crate::acl_file::load_now(&path, table, password.as_ref());
    let loaded = tokio::task::spawn_blocking(load).await;
    match loaded {
        Ok(Ok(users)) => {
            let gone = unlisted(&worker.node, &users);
            let import = UserChange::Import { source: crate::acl_file::SOURCE.to_owned(), users };
            change_users(worker, connection, import, false, reply).await;
            if !gone.is_empty() && reply.bytes.first() != Some(&b'-') {
                reply.bytes.clear();
                change_users(worker, connection, UserChange::Delete { names: gone }, false, reply).await;
            }
        }
        Ok(Err(error)) => reply.error(&format!("ERR {error}")),
        Err(_) => reply.error("ERR the ACL file could not be read"),
    }
}

/// The users `ACL LOAD` removes: those the file does not name. Tenants' users stay, as it is not the file that tells of them:
/// a tenant whose users are gone could not be used, and nobody would have said so.
fn unlisted(node: &Node, listed: &crate::acl_file::Users) -> Vec<UserName> {
    let (_, view) = node.views.load();
    let listed: HashSet<&[u8]> = listed.iter().map(|(name, _)| name.as_bytes()).collect();
    let of_tenants: HashSet<&[u8]> =
        view.state.tenants().iter().flat_map(|tenant| tenant.users.iter().map(Vec::as_slice)).collect();
    let names = view.state.directory().iter().map(|user| &user.name);
    let goes = |name: &&UserName| {
        !name.is_default() && !listed.contains(name.as_bytes()) && !of_tenants.contains(name.as_bytes())
    };
    names.filter(goes).cloned().collect()
}

async fn save_users(node: &Node, reply: &mut Reply) {
    let Some(path) = node.config.acl_file.clone() else { return reply.error(NO_ACL_FILE) };
    let (_, view) = node.views.load();
    let lines = view.state.directory().lines();
    match tokio::task::spawn_blocking(move || crate::acl_file::export(&path, &lines)).await {
        Ok(Ok(())) => reply.ok(),
        Ok(Err(error)) => reply.error(&format!("ERR There was an error trying to save the ACLs: {error}")),
        Err(_) => reply.error("ERR There was an error trying to save the ACLs. Please check the server logs."),
    }
}

async fn list_clients(node: &Node, connection: &Connection, filter: ClientFilter, reach: &Reach, reply: &mut Reply) {
    let asking = connection.session.borrow().id;
    let mut lines: Vec<(u64, String)> = Vec::new();
    for inbox in &node.inboxes {
        let (sender, answer) = oneshot::channel();
        if inbox.send(Job::List(filter.clone(), asking, reach.clone(), sender)).await.is_ok() {
            lines.extend(answer.await.unwrap_or_default());
        }
    }
    lines.sort_unstable_by_key(|(id, _)| *id);
    let text: String = lines.into_iter().flat_map(|(_, line)| [line, "\n".to_owned()]).collect();
    reply.verbatim(text.as_bytes());
}

async fn kill_clients(
    node: &Node,
    connection: &Connection,
    (filter, how): (ClientFilter, KillReply),
    reach: &Reach,
    reply: &mut Reply,
) {
    let asking = connection.session.borrow().id;
    let mut killed = 0;
    for inbox in &node.inboxes {
        let (sender, answer) = oneshot::channel();
        if inbox.send(Job::Kill(filter.clone(), asking, reach.clone(), sender)).await.is_ok() {
            killed += answer.await.unwrap_or(0);
        }
    }
    match how {
        KillReply::Count => reply.count(killed),
        KillReply::OkOrError if killed > 0 => reply.ok(),
        KillReply::OkOrError => reply.error("ERR No such client"),
    }
}

/// The answer of `WAIT` and `WAITAOF` when so many replicas have it in memory.
pub fn show_waited(have: usize, files: bool, reply: &mut Reply) {
    if files {
        reply.array(2);
        reply.integer(0);
        reply.integer(0);
    } else {
        reply.integer(have as i64);
    }
}

/// Hands the data over to another node: every group that the same node serves now, as if there were one.
async fn fail_over(node: &Node, to: Option<(String, u16)>, patience: Duration, actor: String, reply: &mut Reply) {
    let view = node.views.load().1;
    if view.state.nodes().len() < 2 {
        return reply.error("ERR FAILOVER requires connected replicas.");
    }
    let give_up = Instant::now() + patience;
    let named = to.map(|(host, port)| {
        let port = port.to_string();
        let mut nodes = view.state.nodes().values();
        nodes.find(|known| known.client_place() == Some((&host, &port))).map(|known| known.id)
    });
    let target = match named {
        Some(None) => return reply.error("ERR FAILOVER target HOST and PORT is not a node of this cluster."),
        Some(target) => target,
        None => None,
    };
    let serving = view.primary;
    for of in node.groups() {
        if of.views.load().1.primary != serving {
            continue;
        }
        loop {
            let left = give_up.saturating_duration_since(Instant::now());
            match node.control.move_primary(of.group, target, (false, left), actor.clone()).await {
                Ok(()) => break,
                // Who is not in sync yet may come to be.
                Err(ControlError::Refused(_)) if !left.is_zero() => tokio::time::sleep(AGAIN_PAUSE).await,
                Err(error) => return reply.error(&format!("ERR {error}")),
            }
        }
    }
    reply.ok();
}

/// Has this node serve what its primary serves: whom `CLUSTER NODES` names for it.
async fn take_over(worker: &Worker, how: TakeOver, actor: &str, reply: &mut Reply) {
    let node = &worker.node;
    let me = node.views.load().1.me;
    let served_by = |of: &Arc<Node>| of.views.load().1.primary;
    let mut served = node.groups().iter().filter(|of| served_by(of) == Some(me)).peekable();
    if served.peek().is_some() {
        // To an operator of Redis it is a primary, and those take over from nobody; its copies of other groups are in no list.
        let names: Vec<String> = served.map(|of| of.group.0.to_string()).collect();
        return reply.error(&match node.groups().len() {
            1 => "ERR You should send CLUSTER FAILOVER to a replica".to_owned(),
            _ => format!(
                "ERR You should send CLUSTER FAILOVER to a replica: this node serves shard group {} itself; one more is moved \
                 here by keywardctl failover --group GROUP --to {me}",
                names.join(" and ")
            ),
        });
    }
    let give_up = Instant::now() + worker.hot().failover_wait;
    let mut mine: Vec<&Arc<Node>> = Vec::new();
    loop {
        // One that nobody serves, if there is none that somebody does.
        let primary = node.groups().iter().find_map(served_by);
        if mine.is_empty() && (primary.is_some() || how == TakeOver::WithLoss || Instant::now() >= give_up) {
            mine = node.groups().iter().filter(|of| served_by(of) == primary).collect();
        }
        if primary.is_none() && how == TakeOver::Agreed {
            return reply.error("ERR Master is down or failed, please use CLUSTER FAILOVER FORCE");
        }
        let mut failed = None;
        for of in &mine {
            if let Err(error) = take_group(of, me, how, actor).await {
                failed = Some(error);
                break;
            }
        }
        match failed {
            None if !mine.is_empty() => {
                // Decided is not yet known here.
                while mine.iter().any(|of| served_by(of) != Some(me)) && Instant::now() < give_up {
                    tokio::time::sleep(forward::SHIFT_PAUSE).await;
                }
                return reply.ok();
            }
            // Without the primary it is decided who is next as soon as that may be; then that one hands over.
            _ if how == TakeOver::Forced && Instant::now() < give_up => tokio::time::sleep(AGAIN_PAUSE).await,
            None => return reply.error("ERR nobody serves a shard group"),
            Some(error) => {
                return reply.error(&format!(
                    "ERR {error}; what loses writes is CLUSTER FAILOVER TAKEOVER, or keywardctl failover --to {me} --accept-loss"
                ));
            }
        }
    }
}

async fn take_group(of: &Node, me: NodeId, how: TakeOver, actor: &str) -> Result<(), ControlError> {
    let planned = (false, of.live.hot().failover_wait);
    if how == TakeOver::WithLoss {
        let lossy = of.control.move_primary(of.group, Some(me), (true, Duration::ZERO), actor.to_owned()).await;
        // A primary that is alive hands over, and nothing is lost.
        if !matches!(lossy, Err(ControlError::Refused(_))) {
            return lossy;
        }
    }
    of.control.move_primary(of.group, Some(me), planned, actor.to_owned()).await
}

/// The links to other nodes, as Redis shows its own (<https://redis.io/docs/latest/commands/cluster-links/>).
fn show_links(node: &Node, reply: &mut Reply) {
    let view = node.views.load().1;
    let ties = node.ties.all();
    reply.array(ties.len());
    for tie in ties {
        let (allocated, used) = tie.buffered();
        reply.map(6);
        let peer = crate::view::node_id_hex(&view.state, NodeId(tie.peer));
        let events = if used > 0 { "rw" } else { "r" };
        for (name, value) in
            [("direction", if tie.from_here { "to" } else { "from" }), ("node", &peer), ("events", events)]
        {
            if name == "events" {
                reply.bulk(b"create-time");
                reply.integer(tie.since_ms);
            }
            reply.bulk(name.as_bytes());
            reply.bulk(value.as_bytes());
        }
        for (name, bytes) in [("send-buffer-allocated", allocated), ("send-buffer-used", used)] {
            reply.bulk(name.as_bytes());
            reply.integer(bytes as i64);
        }
    }
}

/// What this node does with the data, as Redis says it (<https://redis.io/docs/latest/commands/role/>).
fn show_role(node: &Node, reach: &Reach, reply: &mut Reply) {
    let node = info::speaker(node);
    let view = node.views.load().1;
    // How far the stream has come would tell a confined user how much others write.
    let shown = |position: u64| if reach.is_confined() { 0 } else { position };
    let place = |id| view.state.nodes().get(&id)?.client_place();
    match info::followed(node, &view) {
        None if !view.is_primary() && node.live.hot().always_primary => {
            reply.array(3);
            reply.bulk(b"master");
            reply.integer(shown(node.replication.log.position()) as i64);
            reply.array(0);
        }
        Some(primary) => {
            let (host, port) = place(primary).unwrap_or(("", "0"));
            reply.array(5);
            reply.bulk(b"slave");
            reply.bulk(host.as_bytes());
            reply.integer(port.parse().unwrap_or(0));
            reply.bulk(node.replication.link_state().as_bytes());
            reply.integer(shown(node.replication.log.position()) as i64);
        }
        None => {
            let replicas = node.replication.replicas();
            let known: Vec<_> = replicas.iter().filter_map(|replica| Some((place(replica.node)?, replica))).collect();
            reply.array(3);
            reply.bulk(b"master");
            reply.integer(shown(node.replication.log.position()) as i64);
            reply.array(known.len());
            for ((host, port), replica) in known {
                reply.array(3);
                reply.bulk(host.as_bytes());
                reply.bulk(port.as_bytes());
                reply.bulk(shown(replica.position).to_string().as_bytes());
            }
        }
    }
}

/// The tenant whose user sets the events that are told of its own keys, and the letters; `None`: something else is set, or
/// nothing that is not so already.
fn own_events(connection: &Connection, pairs: &[(Vec<u8>, Vec<u8>)]) -> Option<(String, Option<String>)> {
    let [(name, letters)] = pairs else { return None };
    let session = connection.session.borrow();
    let tenant = session.login.as_ref()?.tenant.as_ref()?;
    let wanted = EventClass::parse(letters)?.effective();
    if !name.eq_ignore_ascii_case(b"notify-keyspace-events") || wanted == tenant.limits.events {
        return None;
    }
    // Each letter once: what every node keeps is no longer than that.
    Some((tenant.name.clone(), Some(wanted.to_string()).filter(|_| wanted != EventClass::NONE)))
}

/// Whether its tenant may have the nodes agree on one more change now; if not, how long to wait.
fn may_change_own(connection: &Connection) -> Result<(), Duration> {
    let session = connection.session.borrow();
    let tenant = session.login.as_ref().and_then(|login| login.tenant.as_ref());
    tenant.map_or(Ok(()), |tenant| tenant.account.change(crate::pace::now_ns()))
}

fn names(pairs: &[(Vec<u8>, Vec<u8>)], parameter: &str) -> bool {
    pairs.iter().any(|(name, _)| name.eq_ignore_ascii_case(parameter.as_bytes()))
}

/// Of what every node agrees on, before it can be set.
fn not_alone(parameter: &str) -> String {
    format!(
        "ERR CONFIG SET failed (possibly related to argument '{parameter}') - every node must agree on it: set it by itself"
    )
}

/// `CONFIG SET min-in-sync`: how many nodes must have a write before it counts as confirmed by all that are in sync. 0: more than
/// half of those that have copies.
async fn set_min_in_sync(
    node: &Node,
    (actor, source): (String, String),
    pairs: &[(Vec<u8>, Vec<u8>)],
    reply: &mut Reply,
) {
    let name = live::MIN_IN_SYNC;
    let [(_, value)] = pairs else { return reply.error(&not_alone(name)) };
    let nodes = node.views.load().1.state.nodes().len();
    let wanted = std::str::from_utf8(value).ok().and_then(|text| text.parse::<usize>().ok());
    let Some(wanted) = wanted.filter(|wanted| *wanted <= nodes) else {
        let why = format!("argument must be between 0 and {nodes}, as many nodes as there are");
        return reply.error(&format!("ERR CONFIG SET failed (possibly related to argument '{name}') - {why}"));
    };
    let value = (wanted > 0).then(|| wanted.to_string());
    match node.propose(Change::SetSetting { name: name.to_owned(), value }, actor, source).await {
        Ok(Outcome::Refused(refusal)) => reply.error(&format!("ERR {refusal}")),
        Ok(_) => reply.ok(),
        Err(text) => reply.error(&text),
    }
}

/// `CONFIG SET requirepass`: a rule of the user `default`, which every node agrees on. Whoever may not make rules may not
/// make this one either.
async fn set_password_of_default(
    worker: &Rc<Worker>,
    connection: &Rc<Connection>,
    pairs: &[(Vec<u8>, Vec<u8>)],
    reply: &mut Reply,
) {
    let [(_, password)] = pairs else {
        return reply.error(&not_alone("requirepass"));
    };
    let table = worker.node.table;
    let makes_rules = table.find(b"acl|setuser").map(|row| row.id);
    let may = |login: &Login| makes_rules.is_some_and(|id| login.policy.holds_command(id));
    if !connection.session.borrow().login.as_ref().is_some_and(may) {
        return reply.error("NOPERM CONFIG SET of 'requirepass' makes a rule of the user 'default': it takes the right to run ACL SETUSER");
    }
    let way_in = if password.is_empty() { b"nopass".to_vec() } else { [b">", password.as_slice()].concat() };
    let rules: [&[u8]; 2] = [b"resetpass", &way_in];
    let (_, view) = worker.node.views.load();
    match view.state.directory().prepare_set(b"default", &rules, table) {
        Ok(change) => change_users(worker, connection, change, false, reply).await,
        Err(error) => reply.error(&format!("ERR {error}")),
    }
}

/// `CONFIG SET` of what this node decides. True: something is to be so at other nodes, too.
fn set_config(node: &Node, pairs: &[(Vec<u8>, Vec<u8>)], own: EventClass, reach: &Reach, reply: &mut Reply) -> bool {
    if let Some(refused) = pairs.iter().find(|(name, value)| !node.live.may_set(name, value, reach, own)) {
        let name = refused.0.escape_ascii();
        reply.error(&format!("NOPERM CONFIG SET of '{name}' concerns everybody on this server"));
        return false;
    }
    if reach.is_confined() {
        // It is so already.
        reply.ok();
        return false;
    }
    let reserved = node.views.load().1.tenancy.reserved_bytes();
    let least = |(name, value): &(Vec<u8>, Vec<u8>)| {
        name.eq_ignore_ascii_case(b"maxmemory")
            && crate::live::bytes_of(value).is_some_and(|to| to > 0 && to < reserved)
    };
    if pairs.iter().any(least) {
        reply.error(&format!("ERR tenants were promised {reserved} bytes: maxmemory cannot be less"));
        return false;
    }
    match node.live.change(pairs) {
        Ok(()) => {
            node.settings_changed();
            reply.ok();
            true
        }
        Err(text) => {
            reply.error(&text);
            false
        }
    }
}

/// Every section is this node's own, but the keyspace, and how many keys a tenant lost: those are told by whoever serves the
/// data. To the errors of a confined user those are added that it was answered with there, for what this node forwarded. With
/// several shard groups all is told of this node.
async fn show_info(
    worker: &Rc<Worker>,
    connection: &Connection,
    sections: &[String],
    reach: &Reach,
    reply: &mut Reply,
) {
    let mut text = match reach {
        Reach::Everything => info::text(&worker.node, sections),
        _ => crate::own_info::text(&worker.node, sections, &connection.session.borrow(), reach),
    };
    let (_, view) = worker.node.views.load();
    let counted = !reach.is_confined() || crate::own_info::counts_keys(sections);
    let elsewhere = !view.is_primary() && view.routes.is_none();
    if let Some(at) = text.find(info::KEYSPACE_TITLE).filter(|_| counted && elsewhere) {
        // An owner out of reach leaves the section empty, as a node without data would.
        let at = at + info::KEYSPACE_TITLE.len();
        let section = section_of_primary(worker, connection, (b"keyspace", view.index)).await;
        if let Some(lines) = section.as_ref().and_then(|section| section.strip_prefix(info::KEYSPACE_TITLE)) {
            text.insert_str(at, lines);
        }
    }
    if elsewhere && reach.is_confined() {
        if crate::own_info::tells_evicted(&text) {
            // And what is known here of keys that go there.
            if let Some(section) = section_of_primary(worker, connection, (b"tenant", view.index)).await {
                text = crate::own_info::with_evicted(&text, &section);
            }
        }
        if crate::own_info::tells_errors(&text)
            && let Some(section) = section_of_primary(worker, connection, (b"errorstats", view.index)).await
        {
            text = crate::own_info::with_errors(&text, &section);
        }
    }
    reply.verbatim(text.as_bytes());
}

/// How many keys the tenant of this connection lost for want of memory, where another node knows that.
async fn own_advice_elsewhere(
    worker: &Rc<Worker>,
    connection: &Connection,
    ask: MemoryAsk,
    reach: &Reach,
) -> Option<u64> {
    let (_, view) = worker.node.views.load();
    let elsewhere = !view.is_primary() && view.routes.is_none();
    if ask != MemoryAsk::Advice || !reach.is_confined() || !elsewhere {
        return None;
    }
    crate::own_info::evicted(&section_of_primary(worker, connection, (b"tenant", view.index)).await?)
}

/// A section of `INFO` from the node that serves the data, for the user of this connection.
async fn section_of_primary(
    worker: &Rc<Worker>,
    connection: &Connection,
    (section, policy_version): (&[u8], u64),
) -> Option<String> {
    let mut batch = ForwardBatch::default();
    batch.push(&[b"INFO", section]);
    batch.policy_version = policy_version;
    let mut answer = Vec::new();
    forward::send(worker, connection, &mut batch, &mut answer).await;
    match parse_reply(&answer, &ReplyLimits::default()) {
        Ok(Some((Value::Bulk(text) | Value::Verbatim { text, .. }, _))) => {
            Some(String::from_utf8_lossy(&text).into_owned())
        }
        _ => None,
    }
}

/// `SLOWLOG` and `COMMANDLOG`.
fn command_log(node: &Node, kind: CommandLogKind, ask: CommandLogAsk, reach: &Reach, reply: &mut Reply) {
    match ask {
        CommandLogAsk::Show(count) => node.command_logs.show(kind, count, reach, reply),
        CommandLogAsk::Count => reply.count(node.command_logs.count(kind, reach)),
        CommandLogAsk::Reset => {
            node.command_logs.reset(kind, reach);
            reply.ok();
        }
    }
}

fn latency(node: &Node, connection: &Connection, ask: LatencyAsk, reach: &Reach, reply: &mut Reply) {
    match ask {
        LatencyAsk::Histogram(names) if reach.is_confined() => {
            // Kept of tenants, and of whoever is confined without one.
            let session = connection.session.borrow();
            let own = session.login.iter().flat_map(Login::accounts).next().map(|(_, account)| account.times());
            let none = [0; POWERS];
            let of = |command| own.as_ref().and_then(|own| own.get(&CommandId::try_from(command).ok()?));
            let times = |command| Times::of(of(command).map_or(&none, |times| &times.powers));
            crate::latency::show_histograms(node.table, times, &names, reply);
        }
        LatencyAsk::Latest => node.latency.latest(&reach.owner(), reply),
        LatencyAsk::History(event) => node.latency.history(&reach.owner(), &event, reply),
        LatencyAsk::Graph(event) => match node.latency.graph(&event, now_us() / 1_000_000) {
            Some(graph) => reply.verbatim(graph.as_bytes()),
            None => {
                let event = event.escape_ascii();
                reply.error(&format!("ERR No samples available for event '{event}'"));
            }
        },
        LatencyAsk::Reset(events) => reply.count(node.latency.reset(&reach.owner(), &events)),
        LatencyAsk::Doctor => {
            let advice = node.latency.advice(node.live.hot().latency_event_ms);
            reply.verbatim(advice.as_bytes());
        }
        LatencyAsk::Histogram(names) => {
            let times = |command| info::latency_of(node, command);
            crate::latency::show_histograms(node.table, times, &names, reply);
        }
    }
}

async fn save(node: &std::sync::Arc<Node>, reply: &mut Reply) {
    match crate::snapshot::save(node).await {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(&format!("ERR {error}")),
    }
}
