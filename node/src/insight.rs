//! What operators ask about all nodes at once: each node answers about itself, the one that was asked puts it together.
//!
//! ```text
//!   keywardctl ─► admin/insight.rs ─► ask_every_node ─┬─► here: answer_here
//!                                                     └─► control/inquiry.rs ─► the others: Here ─► answer_here
//! ```
//! A node that does not answer is named, never waited for long. This file knows which questions there are; what is denied
//! it reads off ACL LOG.

pub mod advice;
pub mod audit;
pub mod calendar;
pub mod diagnosis;
pub mod shares;
pub mod stats;
pub mod tenants;
pub mod traffic;
pub mod usage;

use crate::control::Answerer;
use crate::gate::Admitted;
use crate::import;
use crate::node::Node;
use crate::worker::{Job, Worker};
use audit::{Audit, AuditEvent, Line};
use keyward_acl::{Denial, Denied, KeyUse, LogContext, LogEntry};
use keyward_cluster::{NodeId, State};
use keyward_engine::asks::ClientFilter;
use keyward_engine::command::{Flags, Run};
use keyward_engine::scope::Reach;
use keyward_engine::session::{Login, Session};
use keyward_engine::table::Row;
use keyward_engine::tenancy::Tenant;
use keyward_proto::admin as pb;
use keyward_proto::admin::node_answer::Answer;
use keyward_proto::admin::node_question::Question;
use prost::Message as _;
use shares::Doer;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Weak};
use traffic::{Deed, Seen};

/// Denials listed if nobody says how many.
const DENIALS_LISTED: usize = 100;
/// Denials one node lists at most: with all of them at their longest, less than an answer may be.
const DENIALS_MAX: usize = 1000;

/// What one node said, or why it said nothing.
pub struct Answered {
    /// The node.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Its answer.
    pub answer: Result<Answer, String>,
}

/// Answers what other nodes ask about this one.
pub struct Here(Weak<Node>);

impl Here {
    /// As long as `node` lives.
    pub fn new(node: &Arc<Node>) -> Here {
        Here(Arc::downgrade(node))
    }
}

#[tonic::async_trait]
impl Answerer for Here {
    async fn answer(&self, question: &[u8]) -> Option<Vec<u8>> {
        let question = pb::NodeQuestion::decode(question).ok()?.question?;
        let answer = answer_here(&self.0.upgrade()?, question).await?;
        Some(pb::NodeAnswer { answer: Some(answer) }.encode_to_vec())
    }
}

/// Asks every node, this one included.
pub async fn ask_every_node(node: &Arc<Node>, question: Question) -> Vec<Answered> {
    let (_, view) = node.views.load();
    let all: Vec<NodeId> = view.state.nodes().keys().copied().collect();
    ask_nodes(node, &all, question).await
}

/// Asks these nodes, of which this one may be one.
pub async fn ask_nodes(node: &Arc<Node>, asked: &[NodeId], question: Question) -> Vec<Answered> {
    let (_, view) = node.views.load();
    let others = asked.iter().copied().filter(|asked| *asked != view.me).collect();
    let here = asked.contains(&view.me).then(|| question.clone());
    let name = |id: &NodeId| view.state.nodes().get(id).map(|info| info.name.clone()).unwrap_or_default();
    let asked = pb::NodeQuestion { question: Some(question) }.encode_to_vec();
    let own = async {
        let answer = answer_here(node, here?).await;
        Some(answer.ok_or_else(|| "it does not know the question".to_owned()))
    };
    let (own, others) = tokio::join!(own, node.control.inquire(others, asked));
    let own = own.map(|answer| Answered { node: view.me, name: name(&view.me), answer });
    let mut all: Vec<Answered> = own.into_iter().collect();
    for (id, bytes) in others.unwrap_or_default() {
        let answer = bytes.and_then(|bytes| {
            let answer = pb::NodeAnswer::decode(bytes.as_slice()).ok().and_then(|answer| answer.answer);
            answer.ok_or_else(|| "its answer is of another version".to_owned())
        });
        all.push(Answered { node: id, name: name(&id), answer });
    }
    all.sort_by_key(|answered| answered.node);
    all
}

/// Those that said nothing.
pub fn silent(answered: &[Answered]) -> Vec<pb::Silence> {
    let silence = |answered: &Answered| {
        let reason = answered.answer.as_ref().err()?.clone();
        Some(pb::Silence { node: answered.node.0, node_name: answered.name.clone(), reason })
    };
    answered.iter().filter_map(silence).collect()
}

/// The fields that say who: user, tenant, address, number of the connection.
pub fn of_session(line: Line, session: &Session) -> Line {
    let mut line = line.bytes("user", session.user_name());
    if let Some(tenant) = session.login.as_ref().and_then(|login| login.tenant.as_ref()) {
        line = line.word("tenant", &tenant.name);
    }
    line.word("client", &session.address).number("id", session.id)
}

/// The fields that say what was denied.
pub fn denied(line: Line, denial: &Denial, context: LogContext, names: bool) -> Line {
    let line = line.word("reason", denial.log_reason().name()).word("context", context.name());
    let told = names || matches!(denial.denied, Denied::Command | Denied::Database);
    if told { line.bytes("object", &denial.object) } else { line }
}

/// Whether it is a command of administrators that does something: one that only looks is asked all day long.
pub fn is_administration(row: &Row) -> bool {
    row.command.flags.has(Flags::ADMIN) && !READS_ONLY.contains(&row.full_name)
}

/// What became of a command of administrators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminOutcome {
    /// It was carried out.
    Done,
    /// It was answered with an error.
    Refused,
    /// Its client was sent away before it was answered.
    Unknown,
}

impl AdminOutcome {
    const fn name(self) -> &'static str {
        match self {
            AdminOutcome::Done => "done",
            AdminOutcome::Refused => "refused",
            AdminOutcome::Unknown => "unknown",
        }
    }
}

/// Records a command of administrators, once it is known what became of it. Of a setting the name is told, never the value.
#[cold]
pub fn audit_administration<A: AsRef<[u8]>>(
    node: &Node,
    session: &Session,
    row: &Row,
    argv: &[A],
    outcome: AdminOutcome,
    now_ms: i64,
) {
    node.audit.note(
        AuditEvent::Admin,
        || Doer::of_administrator(session),
        now_ms,
        |line| {
            let line = of_session(line, session).word("command", row.full_name);
            let line = line.number("database", u64::from(session.database)).word("outcome", outcome.name());
            if row.full_name != "config|set" {
                return line;
            }
            // Names stand at every other place; a line shows as many as fit.
            let names: Vec<&[u8]> = argv.iter().skip(2).step_by(2).map(AsRef::as_ref).collect();
            line.bytes("settings", &names.join(&b' '))
        },
    );
}

/// Records a command that is about to run, if it is one of those that are recorded.
#[cold]
pub fn audit_command(node: &Node, session: &Session, row: &Row, admitted: &Admitted<'_, '_>, now_ms: i64) {
    let event = match row.full_name {
        "flushall" | "flushdb" => AuditEvent::Flush,
        _ if is_administration(row) => return,
        _ if matches!(row.run, Run::OnKeys(_) | Run::OnEveryKey(_)) && node.audit.samples() => AuditEvent::Data,
        _ => return,
    };
    node.audit.note(
        event,
        || Doer::of_administrator(session),
        now_ms,
        |line| {
            let line = of_session(line, session).word("command", row.full_name);
            let line = line.number("database", u64::from(session.database));
            if event == AuditEvent::Data && node.audit.names_keys() {
                let keys = admitted.keys();
                return match keys {
                    [] => line,
                    [one] => line.bytes("key", one.key).number("keys", 1),
                    // It may be thousands; the first ones say which part of the data it is about.
                    [first, further @ ..] => {
                        let line = line.bytes("key", first.key).number("keys", keys.len() as u64);
                        line.list("further-keys", further.iter().map(|named| named.key))
                    }
                };
            }
            line
        },
    );
}

/// Commands of administrators that only look, and that clients and their libraries send unasked.
const READS_ONLY: [&str; 21] = [
    "acl|cat",
    "acl|dryrun",
    "acl|getuser",
    "acl|list",
    "acl|log",
    "acl|users",
    "client|list",
    "commandlog|get",
    "commandlog|len",
    "config|get",
    "latency|doctor",
    "latency|graph",
    "latency|histogram",
    "latency|history",
    "latency|latest",
    "lastsave",
    "slowlog|get",
    "slowlog|len",
    "tenant|get",
    "tenant|list",
    "tenant|stats",
];

/// Records what was agreed on between two states.
pub fn note_changes(audit: &Audit, before: &State, after: &State) {
    if !audit.wants(AuditEvent::Policy) {
        return;
    }
    let index = before.applied_index();
    let newer: Vec<_> = after.history().rev().take_while(|change| change.index > index).collect();
    for change in newer.into_iter().rev() {
        let at_ms = i64::try_from(change.at.0).unwrap_or(i64::MAX);
        audit.note(
            AuditEvent::Policy,
            || Doer::Trusted,
            at_ms,
            |line| {
                let line = line.number("index", change.index).bytes("actor", change.actor.as_bytes());
                line.bytes("source", change.source.as_bytes()).bytes("change", change.summary.as_bytes())
            },
        );
    }
}

async fn answer_here(node: &Arc<Node>, question: Question) -> Option<Answer> {
    match question {
        Question::Denials(asked) => Some(Answer::Denials(denials_here(node, &asked))),
        Question::Traffic(asked) => Some(Answer::Traffic(traffic_here(node, asked.user.as_bytes()))),
        Question::Standing(asked) => Some(Answer::Standing(standing_here(node, asked.user.as_bytes()).await)),
        Question::Usage(asked) => Some(Answer::Usage(used_here(node, asked.month).await)),
        Question::ImportParts(asked) => Some(Answer::ImportParts(import::parts_here(node, &asked))),
        Question::ImportCredentials(asked) => {
            Some(Answer::ImportCredentials(import::credentials_here(node, asked.index)))
        }
        Question::Memories(asked) => Some(Answer::Memories(memories_here(node, &asked.tenant))),
        Question::Settings(asked) => Some(Answer::Settings(take_settings(node, asked))),
        Question::TenantStats(asked) => Some(Answer::TenantStats(stats::here(node, &asked.tenant))),
    }
}

/// `CONFIG SET` at another node, of what concerns the data.
fn take_settings(node: &Node, asked: pb::Settings) -> pb::SettingsTaken {
    let pairs: Vec<(Vec<u8>, Vec<u8>)> =
        asked.settings.into_iter().map(|setting| (setting.name.into_bytes(), setting.value.into_bytes())).collect();
    if crate::live::about_data(&pairs).len() < pairs.len() {
        return pb::SettingsTaken { error: "this node knows other settings as those of the data".to_owned() };
    }
    match node.live.change(&pairs) {
        Ok(()) => {
            node.settings_changed();
            pb::SettingsTaken::default()
        }
        Err(error) => pb::SettingsTaken { error },
    }
}

/// Has the other nodes take over those of these settings that concern the data. One that cannot be reached begins with what its own
/// file says when it is back, as after any restart.
pub async fn pass_settings_on(node: &Arc<Node>, pairs: &[(Vec<u8>, Vec<u8>)]) {
    let setting = |(name, value): (&str, Vec<u8>)| {
        Some(pb::Setting { name: name.to_owned(), value: String::from_utf8(value).ok()? })
    };
    let settings: Vec<pb::Setting> = crate::live::about_data(pairs).into_iter().filter_map(setting).collect();
    let (_, view) = node.views.load();
    let others: Vec<NodeId> = view.state.nodes().keys().copied().filter(|id| *id != view.me).collect();
    if settings.is_empty() || others.is_empty() {
        return;
    }
    for answered in ask_nodes(node, &others, Question::Settings(pb::Settings { settings })).await {
        let error = match answered.answer {
            Ok(Answer::Settings(taken)) if taken.error.is_empty() => continue,
            Ok(Answer::Settings(taken)) => taken.error,
            Ok(_) => "its answer is of another version".to_owned(),
            Err(why) => why,
        };
        tracing::warn!(node = answered.name, error, "a node did not take over settings of the data");
    }
}

/// What tenants used here in a month.
async fn used_here(node: &Arc<Node>, month: String) -> pb::GetUsageResponse {
    let node = Arc::clone(node);
    // It reads files.
    let read = tokio::task::spawn_blocking(move || tenants::used(&node, &month)).await;
    pb::GetUsageResponse { usage: read.unwrap_or_default(), silent: Vec::new() }
}

/// What this tenant has here; with an empty name, what each has.
fn memories_here(node: &Node, wanted: &str) -> pb::TenantMemories {
    let (_, view) = node.views.load();
    let (tenancy, default) = (&view.tenancy, node.live.hot().eviction.policy);
    let tenants = tenancy.iter().filter(|tenant| wanted.is_empty() || tenant.name == wanted);
    let memory = |tenant: &Arc<Tenant>| pb::TenantMemory {
        used_bytes: tenant.gauge.bytes(),
        limit_bytes: tenant.limits.limit,
        reserve_bytes: tenant.limits.reserve,
        eviction: tenancy.policy_of(tenant.id, default).name().to_owned(),
        evicted_keys: tenant.gauge.evicted(),
        refused_commands: tenant.gauge.refused(),
    };
    let memories = tenants.map(|tenant| (tenant.name.clone(), memory(tenant))).collect();
    let serves = node.groups().iter().any(|of| of.views.load().1.is_primary());
    pb::TenantMemories { memories, serves }
}

/// What tenants have, as whoever serves data says, or another node if nobody does. What was evicted and refused is told
/// of all nodes together: each counts what it did itself.
pub fn merged_memories(answered: Vec<Answered>) -> HashMap<String, pb::TenantMemory> {
    let told = answered.into_iter().filter_map(|answered| match answered.answer {
        Ok(Answer::Memories(memories)) => Some(memories),
        _ => None,
    });
    let mut told: Vec<pb::TenantMemories> = told.collect();
    told.sort_by_key(|memories| !memories.serves);
    let mut merged: HashMap<String, pb::TenantMemory> = HashMap::new();
    for (name, memory) in told.into_iter().flat_map(|memories| memories.memories) {
        match merged.entry(name) {
            Entry::Vacant(place) => drop(place.insert(memory)),
            Entry::Occupied(mut known) => {
                known.get_mut().evicted_keys += memory.evicted_keys;
                known.get_mut().refused_commands += memory.refused_commands;
            }
        }
    }
    merged
}

/// What tenants used on all nodes, by day, tenant and node.
pub fn merged_usage(answered: Vec<Answered>) -> pb::GetUsageResponse {
    let silent = silent(&answered);
    let mut usage = Vec::new();
    for Answered { node, name, answer } in answered {
        let Ok(Answer::Usage(told)) = answer else { continue };
        let of_node = |row| pb::Usage { node: node.0, node_name: name.clone(), ..row };
        usage.extend(told.usage.into_iter().map(of_node));
    }
    usage.sort_by(|a, b| (&a.day, &a.tenant, a.node).cmp(&(&b.day, &b.tenant, b.node)));
    pb::GetUsageResponse { usage, silent }
}

/// How a user looks here.
async fn standing_here(node: &Node, user: &[u8]) -> pb::UserStanding {
    let (_, view) = node.views.load();
    let known = view.state.directory().get(user);
    let mut lines = Vec::new();
    for inbox in &node.inboxes {
        let (sender, answer) = tokio::sync::oneshot::channel();
        let filter = ClientFilter { user: Some(user.to_vec()), ..ClientFilter::default() };
        if inbox.send(Job::List(filter, 0, Reach::Everything, sender)).await.is_ok() {
            lines.extend(answer.await.unwrap_or_default());
        }
    }
    let changed_ms = known.and_then(|user| {
        let change = view.state.history().rev().find(|change| change.index == user.credentials_revision)?;
        i64::try_from(change.at.0).ok()
    });
    let began_ms = |line: &str| {
        let age = line.split(' ').find_map(|field| field.strip_prefix("age="))?;
        Some(crate::node::now_ms() - age.parse::<i64>().ok()? * 1000)
    };
    // Ages are whole seconds: a connection that is as old as the change counts as newer.
    let is_older = |line: &&(u64, String)| {
        changed_ms.zip(began_ms(&line.1)).is_some_and(|(changed, began)| began + 1000 < changed)
    };
    pb::UserStanding {
        applied_index: view.index,
        lease_remaining_ms: u64::try_from(node.lease.left().as_millis()).unwrap_or(u64::MAX),
        user_revision: known.map_or(0, |user| user.revision),
        connections: lines.len() as u64,
        connections_before_change: lines.iter().filter(is_older).count() as u64,
    }
}

/// What is the matter with a user, by what all nodes said about it, and about denials of it and of `default`.
pub fn diagnose(
    node: &Node,
    name: &str,
    answered: Vec<Answered>,
    denials: pb::ListDenialsResponse,
    nameless: pb::ListDenialsResponse,
) -> pb::DiagnoseResponse {
    let (_, view) = node.views.load();
    let user = view.state.directory().get(name.as_bytes());
    let silent = silent(&answered);
    let standings = answered.into_iter().filter_map(|answered| match answered.answer {
        Ok(Answer::Standing(standing)) => Some((answered.name, standing)),
        _ => None,
    });
    let login = view.login(name.as_bytes());
    let case = diagnosis::Case {
        name,
        user: user.map(AsRef::as_ref),
        policy: login.map(|login| login.policy.as_ref()),
        tenant: view.tenancy.of_user(name.as_bytes()).map(AsRef::as_ref),
        names: view.state.directory().iter().map(|user| shown(user.name.as_bytes())).collect(),
        index: view.index,
        standings: standings.collect(),
        denials: denials.denials,
        nameless: nameless.denials.into_iter().filter(|denial| denial.reason == "auth").collect(),
        table: node.table,
    };
    pb::DiagnoseResponse { findings: diagnosis::diagnose(&case), silent }
}

/// What the threads of this node saw of a user.
fn traffic_here(node: &Node, user: &[u8]) -> pb::Traffic {
    let mut all: Option<Seen> = None;
    for counters in &node.counters {
        let traffic = counters.traffic.lock();
        if let Some(seen) = traffic.of(user) {
            all.get_or_insert_with(Seen::default).join(seen);
        }
    }
    let watched = node.views.load().1.login(user).is_some_and(|login| is_watched(node, login));
    pb::Traffic { watched, ..all.unwrap_or_default().to_message() }
}

/// Whether what the user does is remembered.
#[inline]
pub fn is_watched(node: &Node, login: &Login) -> bool {
    login.policy.only_reports().is_some() || node.config.record_traffic
}

/// Remembers what a watched user does, or tries.
#[cold]
pub fn record(worker: &Worker, session: &Session, row: &Row, argv: &[&[u8]], keys: &[KeyUse<'_>], denied: bool) {
    let mut channels = Vec::new();
    worker.node.table.channels_of(row, argv, &mut channels);
    let deed = Deed { command: row.full_name, keys, channels: &channels, database: session.database, denied };
    worker.stats.traffic.lock().note(session.user_name(), worker.now_ms(), &deed);
}

/// What the rules of a user should be, by what all nodes saw. `None`: there is no such user.
pub fn advise(node: &Node, user: &[u8], answered: &[Answered]) -> Option<pb::AdviseResponse> {
    let (_, view) = node.views.load();
    let login = view.login(user)?;
    let (mut seen, mut watched) = (Seen::default(), false);
    for traffic in answered.iter().filter_map(|answered| match &answered.answer {
        Ok(Answer::Traffic(traffic)) => Some(traffic),
        _ => None,
    }) {
        watched |= traffic.watched;
        seen.join(&Seen::from_message(traffic));
    }
    let prefixes = login.tenant.as_ref().map(|tenant| tenant.prefixes.clone()).unwrap_or_default();
    let subject = advice::Subject { user: &login.user, policy: &login.policy, prefixes, walls: node.config.walls() };
    let advice = advice::advise(node.table, &subject, &seen);
    Some(pb::AdviseResponse { watched, silent: silent(answered), ..advice })
}

fn denials_here(node: &Node, asked: &pb::ListDenialsRequest) -> pb::ListDenialsResponse {
    let wanted = |entry: &&LogEntry| asked.user.is_empty() || *entry.username == *asked.user.as_bytes();
    let log = node.acl_log.lock();
    let denials = log.entries().filter(wanted).take(denials_wanted(asked.limit)).map(denial).collect();
    pb::ListDenialsResponse { denials, silent: Vec::new() }
}

/// How many denials are listed.
fn denials_wanted(limit: u32) -> usize {
    if limit == 0 { DENIALS_LISTED } else { (limit as usize).min(DENIALS_MAX) }
}

fn denial(entry: &LogEntry) -> pb::Denial {
    let ms = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
    pb::Denial {
        node: 0,
        node_name: String::new(),
        count: entry.count,
        reason: entry.reason.name().to_owned(),
        context: entry.context.name().to_owned(),
        object: shown(&entry.object),
        username: shown(&entry.username),
        client_info: shown(&entry.client_info),
        entry_id: entry.entry_id,
        created_unix_ms: ms(entry.created_ms),
        updated_unix_ms: ms(entry.updated_ms),
    }
}

/// The denials of all nodes as one list, newest first.
pub fn merged_denials(answered: Vec<Answered>, limit: u32) -> pb::ListDenialsResponse {
    let silent = silent(&answered);
    let mut denials = Vec::new();
    for Answered { node, name, answer } in answered {
        let Ok(Answer::Denials(told)) = answer else { continue };
        denials.extend(told.denials.into_iter().map(|denial| pb::Denial {
            node: node.0,
            node_name: name.clone(),
            ..denial
        }));
    }
    denials.sort_by_key(|denial| (std::cmp::Reverse(denial.updated_unix_ms), denial.node));
    denials.truncate(denials_wanted(limit));
    pb::ListDenialsResponse { denials, silent }
}

/// Bytes as text: as they are if they are UTF-8, with `\xHH` escapes if not.
pub fn shown(bytes: &[u8]) -> String {
    match str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.escape_ascii().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(node: u64, times: &[i64]) -> Answered {
        let denial = |ms: &i64| pb::Denial { updated_unix_ms: *ms, ..pb::Denial::default() };
        let denials = times.iter().map(denial).collect();
        let answer = Ok(Answer::Denials(pb::ListDenialsResponse { denials, silent: Vec::new() }));
        Answered { node: NodeId(node), name: format!("node-{node}"), answer }
    }

    #[test]
    fn denials_of_all_nodes_are_one_list_by_time() {
        let gone = Answered { node: NodeId(3), name: "node-3".to_owned(), answer: Err("it is gone".to_owned()) };
        let merged = merged_denials(vec![told(1, &[30, 10]), told(2, &[20]), gone], 0);
        let seen: Vec<(i64, u64)> = merged.denials.iter().map(|denial| (denial.updated_unix_ms, denial.node)).collect();
        assert_eq!(seen, [(30, 1), (20, 2), (10, 1)]);
        assert_eq!(merged.silent.len(), 1);
        assert_eq!((merged.silent[0].node, merged.silent[0].reason.as_str()), (3, "it is gone"));
        assert_eq!(merged_denials(vec![told(1, &[30, 10])], 1).denials.len(), 1);
    }
}
