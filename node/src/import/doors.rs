//! What operators want of an import, through any node: begin it, see how far it is, end it. Every shard group's primary is asked what
//! it has; what becomes of an import is agreed on.
//!
//! ```text
//!   cut-over: [writers of the source wait] ─► where does the source's stream end? ─► every group has it, and its copies have it
//!             ─► does it end there still? ─► End (Raft)
//! ```
//! These functions wait: not for a data thread.

use super::status::{FOLLOWING, SCANNING, address, whole};
use super::wire::{Link, text};
use super::{Credentials, CutOver, Failure, Options, Refused, run, source};
use crate::control::Origin;
use crate::insight;
use crate::node::Node;
use crate::view::{Surety, View};
use keyward_cluster::{Change, Import, ImportChange, ImportOutcome, ImportPlan, NodeId, Outcome};
use keyward_proto::admin as pb;
use keyward_proto::admin::node_answer::Answer;
use keyward_proto::admin::node_question::Question;
use keyward_proto::resp::Value;
use prost::Message as _;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

/// Between two looks at how far it is.
const LOOK_PAUSE: Duration = Duration::from_millis(20);

/// A cut-over may wait this long at most: an admin call ends after five minutes.
pub const CUT_OVER_WAIT_MAX: Duration = Duration::from_secs(240);

/// How long other nodes may take to learn the password of the source before the beginning is answered.
const SPREAD_WAIT: Duration = Duration::from_secs(2);

/// How long a shard group may be without a primary before an import is not begun: a hand-over or a failover is over sooner.
const SERVED_WAIT: Duration = Duration::from_secs(5);

/// What a source may have that is longer than a Raft entry should be, in bytes: names and prefixes.
const PLAN_BYTES_MAX: usize = 64 << 10;

/// Who asks, from a thread that may wait.
pub struct Asker {
    /// Their name.
    pub actor: String,
    /// The door they came through.
    pub source: String,
    /// Where what is asked of other nodes runs.
    pub runtime: Handle,
}

/// What all primaries said.
struct Parts {
    parts: Vec<pb::ImportPartAnswer>,
    /// Groups of which nobody says anything.
    silent: Vec<u32>,
}

/// Asks the primary of each group. `index` 0: about no import.
async fn ask(node: &Arc<Node>, index: u64, hurry: bool) -> Parts {
    let question = Question::ImportParts(pb::ImportPartsRequest { index, hurry });
    let (_, view) = node.views.load();
    // Only those who can say something: one that is gone would be waited for.
    let serving: BTreeSet<NodeId> =
        view.state.groups().values().filter_map(|group| Some(group.primary?.node)).collect();
    let serving: Vec<NodeId> = serving.into_iter().collect();
    let answered = insight::ask_nodes(node, &serving, question).await;
    let (_, view) = node.views.load();
    let mut found: BTreeMap<u32, pb::ImportPartAnswer> = BTreeMap::new();
    for one in answered {
        let Ok(Answer::ImportParts(told)) = one.answer else { continue };
        for part in told.parts {
            // An old primary may not know yet that it is none.
            let serves =
                view.state.groups().values().any(|group| {
                    group.id.0 == part.group && group.primary.is_some_and(|primary| primary.node == one.node)
                });
            if serves {
                found.insert(part.group, part);
            }
        }
    }
    let silent = view.state.groups().keys().map(|group| group.0).filter(|group| !found.contains_key(group)).collect();
    Parts { parts: found.into_values().collect(), silent }
}

/// What this node does for an import, as primary of its groups.
pub fn parts_here(node: &Arc<Node>, asked: &pb::ImportPartsRequest) -> pb::ImportPartsResponse {
    let mut parts = Vec::new();
    for of in node.groups() {
        let (_, view) = of.views.load();
        if !view.is_primary() {
            continue;
        }
        let mut part = pb::ImportPartAnswer { group: of.group.0, ..pb::ImportPartAnswer::default() };
        if asked.index == 0 || asked.hurry {
            part.keys_here = run::count_keys(of);
        }
        if let Some(import) = view.state.last_import().filter(|import| import.index == asked.index) {
            tell_part(of, &view, import, asked.hurry, &mut part);
        }
        parts.push(part);
    }
    pb::ImportPartsResponse { parts }
}

fn tell_part(of: &Node, view: &View, import: &Import, hurry: bool, part: &mut pb::ImportPartAnswer) {
    let job = of.import.job.lock().clone().filter(|job| job.import.index == import.index);
    let Some(job) = job.filter(|job| view.reign() == Some(job.reign)) else {
        let mut status = super::Status::new(import.plan.scan);
        of.import.told(&mut status);
        if of.imports.known(import).is_none() {
            "no node that is here knows the password of the source".clone_into(&mut status.error);
        }
        part.import = Some(status.message(view.me));
        return;
    };
    if hurry {
        job.hurry.store(true, Ordering::Release);
    }
    let status = job.status();
    let wrote = job.wrote.load(Ordering::Acquire);
    part.replicated = view.group.as_ref().is_none_or(|group| {
        group.in_sync.len() <= 1 || of.replication.is_confirmed(Surety::of_write(group.epoch), wrote)
    });
    part.passes_begun = job.passes_begun.load(Ordering::Acquire);
    part.import = Some(status.message(view.me));
}

/// What this node knows of the source of an import.
pub fn credentials_here(node: &Node, index: u64) -> pb::ImportCredentialsResponse {
    let (_, view) = node.views.load();
    let import = view.state.current_import().filter(|import| import.index == index && import.plan.has_credentials);
    let Some(known) = import.and_then(|import| node.imports.known(import)) else {
        return pb::ImportCredentialsResponse::default();
    };
    let password = known.password.as_ref().map_or("", |password| password.expose()).to_owned();
    pb::ImportCredentialsResponse { known: true, password, tls_authorities: known.authorities }
}

/// What is known about the last import.
pub async fn status(node: &Arc<Node>) -> Option<pb::Import> {
    let import = node.views.load().1.state.last_import().cloned()?;
    let asked = match import.ended {
        Some(_) => Parts { parts: Vec::new(), silent: Vec::new() },
        None => ask(node, import.index, false).await,
    };
    Some(whole(&import, &asked.parts, &asked.silent))
}

fn sentence(text: impl Into<String>) -> Refused {
    Refused::Sentence(text.into())
}

fn running(node: &Node) -> Result<Arc<Import>, Refused> {
    node.views.load().1.state.current_import().cloned().ok_or(Refused::None)
}

/// Has something about imports agreed on; the entry that says so.
fn agree(node: &Arc<Node>, change: ImportChange, asker: &Asker) -> Result<u64, Refused> {
    let origin = Origin { actor: asker.actor.clone(), source: asker.source.clone() };
    let committed = asker.runtime.block_on(node.control.propose(Change::Import(change), origin));
    let committed = committed.map_err(|error| Refused::Late(error.to_string()))?;
    match committed.outcome {
        Outcome::Refused(refusal) => Err(sentence(refusal.to_string())),
        _ => Ok(committed.index),
    }
}

/// Begins an import. The source is asked first.
pub fn start(
    node: &Arc<Node>,
    mut plan: ImportPlan,
    credentials: Credentials,
    asker: &Asker,
) -> Result<pb::Import, Refused> {
    let _turn = node.imports.turn.try_lock().ok_or_else(|| sentence("an import is being begun or ended already"))?;
    if running(node).is_ok() {
        return Err(sentence("an import is running already; cut it over or cancel it first"));
    }
    if node.is_loading() {
        return Err(sentence("the node is loading its data"));
    }
    if let Some(database) = plan.database.filter(|database| *database >= node.config.databases) {
        return Err(sentence(run::too_few_databases(database)));
    }
    let began = Instant::now();
    let mut asked = asker.runtime.block_on(ask(node, 0, false));
    while !asked.silent.is_empty() && began.elapsed() < SERVED_WAIT {
        std::thread::sleep(LOOK_PAUSE);
        asked = asker.runtime.block_on(ask(node, 0, false));
    }
    if let Some(group) = asked.silent.first() {
        return Err(sentence(format!("nobody serves shard group {group} now")));
    }
    let keys: u64 = asked.parts.iter().map(|part| part.keys_here).sum();
    if keys > 0 && !plan.merge {
        return Err(sentence(format!(
            "there are {keys} keys here already: empty the cluster first, or keep them with --merge"
        )));
    }
    let options = Options::of(&plan, &credentials).map_err(Refused::Sentence)?;
    let facts = source::inspect(&options.source, &Arc::default()).map_err(|failure| sentence(failure.to_string()))?;
    plan.server = facts.server;
    plan.has_credentials = !credentials.is_empty();
    let texts = [&plan.host, &plan.user, &plan.server].map(String::len).into_iter().sum::<usize>();
    if texts + plan.prefixes.iter().map(|(from, to)| from.len() + to.len()).sum::<usize>() > PLAN_BYTES_MAX {
        return Err(sentence("names and prefixes are too long"));
    }
    tracing::info!(source = %options.source, actor = asker.actor, "an import is asked for");
    let index = agree(node, ImportChange::Begin(plan), asker)?;
    if !credentials.is_empty() {
        node.imports.keep(index, credentials);
        asker.runtime.block_on(spread(node, index));
    }
    asker.runtime.block_on(status(node)).ok_or(Refused::None)
}

/// Waits until whoever answers knows what only this node knew: it may be gone in a moment.
async fn spread(node: &Arc<Node>, index: u64) {
    let until = Instant::now() + SPREAD_WAIT;
    while Instant::now() < until {
        let question = Question::ImportCredentials(pb::ImportCredentialsRequest { index });
        let answered = insight::ask_every_node(node, question).await;
        let lacks = |one: &insight::Answered| matches!(&one.answer, Ok(Answer::ImportCredentials(told)) if !told.known);
        if !answered.iter().any(lacks) {
            return;
        }
        tokio::time::sleep(LOOK_PAUSE).await;
    }
}

/// Ends the import where it is; what it brought stays.
pub fn cancel(node: &Arc<Node>, asker: &Asker) -> Result<pb::Import, Refused> {
    let import = running(node)?;
    let told = asker.runtime.block_on(status(node)).unwrap_or_default();
    end(node, &import, ImportOutcome::Cancelled, told, asker)
}

fn end(
    node: &Arc<Node>,
    import: &Import,
    how: ImportOutcome,
    mut told: pb::Import,
    asker: &Asker,
) -> Result<pb::Import, Refused> {
    // What is told of it afterwards: as much as fits.
    while told.encoded_len() > keyward_cluster::import::TOLD_BYTES_MAX && told.problem_texts.pop().is_some() {}
    let change = ImportChange::End { index: import.index, how, told: told.encode_to_vec() };
    let index = agree(node, change, asker)?;
    asker
        .runtime
        .block_on(async {
            while node.views.load().1.index < index {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            status(node).await
        })
        .ok_or(Refused::None)
}

/// One cut-over.
struct Ending<'a> {
    node: &'a Arc<Node>,
    import: Arc<Import>,
    how: CutOver,
    asker: &'a Asker,
    began: Instant,
    until: Instant,
    /// The source keeps its writers waiting until then.
    paused_until: Option<Instant>,
    /// Passes that each group had begun when the source was paused.
    passes: BTreeMap<u32, u32>,
    link: Option<Link>,
}

/// Makes the end: waits until nothing is left to follow. If that is not so in time, the import goes on.
pub fn cut_over(node: &Arc<Node>, how: CutOver, asker: &Asker) -> Result<pb::Import, Refused> {
    let import = running(node)?;
    let _turn = node.imports.turn.try_lock().ok_or_else(|| sentence("a cut-over is under way already"))?;
    let began = Instant::now();
    let until = began + how.wait.min(CUT_OVER_WAIT_MAX);
    let mut ending =
        Ending { node, import, how, asker, began, until, paused_until: None, passes: BTreeMap::new(), link: None };
    ending.run()
}

impl Ending<'_> {
    fn run(&mut self) -> Result<pb::Import, Refused> {
        let mut asked = self.ask();
        // A copy under way, or a connection being made anew, is part of what it was to wait for.
        while let Some(phase) = self.not_there_yet(&asked) {
            if Instant::now() >= self.until {
                return Err(sentence(format!("there is nothing to cut over yet: the import is {phase}")));
            }
            self.look_again()?;
            asked = self.ask();
        }
        self.look_at_problems(&asked)?;
        self.pause_source()?;
        self.passes = self.ask().parts.iter().map(|part| (part.group, part.passes_begun)).collect();
        let mut seen = String::new();
        loop {
            let now = Instant::now();
            if now >= self.until || self.paused_until.is_some_and(|until| now >= until) {
                return Err(Refused::Late(self.not_reached(&seen)));
            }
            match self.look() {
                // It may have begun to write again before the last look.
                Ok(Some(done)) if self.paused_until.is_some() && !done.source_paused => {}
                Ok(Some(done)) => {
                    let parts = self.ask();
                    self.look_at_problems(&parts)?;
                    let mut told = whole(&self.import, &parts.parts, &parts.silent);
                    (told.lag_bytes, told.lag_ms) = (told.lag_bytes.map(|_| 0), told.lag_ms.map(|_| 0));
                    told.report = Some(done);
                    return end(self.node, &self.import, ImportOutcome::Finished, told, self.asker);
                }
                Ok(None) => {}
                Err(why) => {
                    self.link = None;
                    seen = why.to_string();
                }
            }
            self.look_again()?;
        }
    }

    fn ask(&self) -> Parts {
        self.asker.runtime.block_on(ask(self.node, self.import.index, true))
    }

    /// Waits a moment; an error if the import is over meanwhile.
    fn look_again(&self) -> Result<(), Refused> {
        std::thread::sleep(LOOK_PAUSE);
        let (_, view) = self.node.views.load();
        let known = view.state.last_import().filter(|known| known.index == self.import.index);
        match known.map(|known| &known.ended) {
            Some(None) => Ok(()),
            Some(Some(end)) => Err(sentence(format!("the import has {}", end.how))),
            None => Err(Refused::None),
        }
    }

    fn not_there_yet(&self, asked: &Parts) -> Option<String> {
        let told = whole(&self.import, &asked.parts, &asked.silent);
        (![FOLLOWING, SCANNING].contains(&told.phase.as_str())).then_some(told.phase)
    }

    fn look_at_problems(&self, asked: &Parts) -> Result<(), Refused> {
        let told = whole(&self.import, &asked.parts, &asked.silent);
        if told.problems == 0 || self.how.despite_problems {
            return Ok(());
        }
        Err(sentence(format!(
            "{} commands of the source could not be carried out here, the first: {}; cut over all the same with \
             --despite-problems",
            told.problems,
            told.problem_texts.first().map_or("", String::as_str)
        )))
    }

    fn connect(&mut self) -> Result<&mut Link, Failure> {
        if self.link.is_none() {
            let credentials = self.node.imports.known(&self.import);
            let credentials = credentials.ok_or_else(|| Failure::Lost("the password is not known here".to_owned()))?;
            let options = Options::of(&self.import.plan, &credentials).map_err(Failure::Final)?;
            self.link = Some(source::connect(&options.source, &Arc::new(AtomicBool::new(false)))?);
        }
        self.link.as_mut().ok_or_else(|| Failure::Lost("there is no connection".to_owned()))
    }

    /// Keeps the writers of the source waiting.
    fn pause_source(&mut self) -> Result<(), Refused> {
        let Some(ms) = self.how.pause_source_ms else { return Ok(()) };
        let call = |link: &mut Link| link.call(&[b"CLIENT", b"PAUSE", ms.to_string().as_bytes(), b"WRITE"]);
        let answer = self.connect().and_then(call).map_err(|failure| sentence(failure.to_string()))?;
        if let Value::Error(_) = answer {
            return Err(sentence(format!("the source cannot be paused: {}", text(&answer))));
        }
        self.paused_until = Some(Instant::now() + Duration::from_millis(ms));
        Ok(())
    }

    /// Whether everything is here, and what was found.
    fn look(&mut self) -> Result<Option<pb::ImportReport>, Failure> {
        let plan = self.import.plan.clone();
        let facts = |link: &mut Link| source::facts(link, &address(&plan.host, plan.port));
        let before = self.connect().and_then(facts)?;
        let asked = self.ask();
        if self.not_there_yet(&asked).is_some() || !asked.parts.iter().all(|part| self.has_all(part, before.offset)) {
            return Ok(None);
        }
        let scans = |part: &pb::ImportPartAnswer| part.import.as_ref().is_some_and(|told| told.method == "scan");
        let scans = asked.parts.iter().all(scans);
        let after = self.connect().and_then(facts)?;
        if !scans && after.offset != before.offset {
            return Ok(None);
        }
        let wanted = |database: &u32| plan.database.is_none_or(|only| only == *database);
        let keys = after.databases.iter().filter(|(database, _)| wanted(database)).map(|(_, keys)| keys);
        let told = || asked.parts.iter().filter_map(|part| part.import.as_ref());
        Ok(Some(pb::ImportReport {
            offset: if scans { 0 } else { after.offset },
            source_offset: if scans { 0 } else { after.offset },
            source_keys: keys.sum(),
            keys: asked.parts.iter().map(|part| part.keys_here).sum(),
            source_paused: self.paused_until.is_some_and(|until| Instant::now() < until),
            quiet: !scans || told().all(|told| told.pass_changes == 0),
            took_ms: self.began.elapsed().as_millis() as u64,
        }))
    }

    fn has_all(&self, part: &pb::ImportPartAnswer, offset: u64) -> bool {
        let Some(told) = part.import.as_ref().filter(|_| part.replicated) else { return false };
        if told.method != "scan" {
            return told.offset >= offset;
        }
        // A pass that was begun after the source was paused saw everything; a quiet one saw at least what did not change.
        let begun = self.passes.get(&part.group).copied().unwrap_or(u32::MAX);
        told.passes > begun && (self.paused_until.is_some() || told.pass_changes == 0)
    }

    fn not_reached(&self, seen: &str) -> String {
        let told = self.asker.runtime.block_on(status(self.node)).unwrap_or_default();
        let behind = match told.method.as_str() {
            "scan" => format!("{} keys changed during the last pass of {} ms", told.pass_changes, told.pass_ms),
            _ => format!("{} bytes and {} ms behind", told.lag_bytes.unwrap_or(0), told.lag_ms.unwrap_or(0)),
        };
        let behind = if seen.is_empty() { behind } else { format!("{behind}; {seen}") };
        match self.how.pause_source_ms {
            Some(_) => format!(
                "the end was not reached while the source was paused ({behind}): pause it longer; the import goes on"
            ),
            None => format!(
                "the source is still written to ({behind}): stop its writers, or let --pause-source keep them waiting; the \
                 import goes on"
            ),
        }
    }
}

/// Ends an import that nobody can work on.
pub(super) async fn give_up(node: &Arc<Node>, import: &Import, why: String) {
    let told = status(node).await.unwrap_or_default().encode_to_vec();
    let change = ImportChange::End { index: import.index, how: ImportOutcome::Failed(why), told };
    if let Err(error) = node.propose(Change::Import(change), "node".to_owned(), "import".to_owned()).await {
        tracing::warn!(%error, "import: its end is not agreed on yet");
    }
}

/// Ends an import that cannot go on, as whoever works on it found.
pub(super) fn fail(node: &Arc<Node>, import: &Import, why: String, runtime: &Handle) -> Result<(), Refused> {
    let (actor, source) = ("node".to_owned(), "import".to_owned());
    let asker = Asker { actor, source, runtime: runtime.clone() };
    let told = runtime.block_on(status(node)).unwrap_or_default();
    end(node, import, ImportOutcome::Failed(why), told, &asker).map(drop)
}
