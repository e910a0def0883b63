//! Moving in: another server's keys are copied here while it serves, and its writes are followed until it is left.
//!
//! ```text
//!   start ─► whole copy (RDB as it streams in) ─► its command stream ─► cut-over: nothing left to follow, then the end
//!               ▲                                       │
//!               └── too long out of contact ◄───────────┤ connection lost: go on where we stopped (PSYNC id offset)
//!   refused PSYNC ─► passes of SCAN, DUMP, PTTL until the cut-over makes the last one
//! ```
//! The node that serves the data is a replica to the source: [`source`] speaks to it, [`load`] takes the copy, [`follow`] the
//! stream, [`scan`] makes passes where a stream is refused, [`hand`] writes what came through the way every write goes, so that
//! replicas, watchers and events learn of it. One import at a time, on a thread of its own. The source's word on time is
//! taken for its own commands: a key it still saw is still here for them.
//!
//! It refuses to know how users of the source are named or which node serves next: a node that no longer serves the data
//! ends its import. The password of the source is kept in memory while the import lasts and written nowhere.

mod follow;
mod followed;
mod hand;
mod load;
mod run;
mod scan;
mod source;
mod status;
mod tls;
mod translate;
mod wire;

use crate::config::Secret;
use crate::node::{Node, now_ms};
use parking_lot::Mutex;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub use status::{Method, Phase, Report, Status};
pub use tls::Tls;

/// Between two looks at whether an import has ended.
const LOOK_PAUSE: Duration = Duration::from_millis(20);

/// What a cut-over may take longer than it was to wait, before nobody waits for it any more.
const CUT_OVER_EXTRA: Duration = Duration::from_secs(10);

/// A cut-over may wait this long at most: an admin call ends after five minutes.
pub const CUT_OVER_WAIT_MAX: Duration = Duration::from_secs(240);

/// Where the data comes from.
#[derive(Clone, Debug)]
pub struct SourceAddress {
    /// Its host, without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Log in as; without it as `default`, if there is a password.
    pub user: Option<String>,
    /// The password.
    pub password: Option<Secret>,
    /// TLS, if it is spoken there.
    pub tls: Option<Tls>,
}

impl fmt::Display for SourceAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SourceAddress { host, port, .. } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// What is to be imported, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// From where.
    pub source: SourceAddress,
    /// Only this database; without it all of them.
    pub database: Option<u32>,
    /// Keys that begin with the first are kept under the second instead.
    pub prefixes: Vec<(Vec<u8>, Vec<u8>)>,
    /// There may be keys here already; those the source has too are overwritten.
    pub merge: bool,
    /// Passes of SCAN even if the source would let itself be followed.
    pub scan: bool,
}

/// How the end is to be made.
#[derive(Clone, Copy, Debug)]
pub struct CutOver {
    /// How long to wait until nothing is left to follow.
    pub wait: Duration,
    /// Writes at the source wait for so many milliseconds, beginning with the cut-over.
    pub pause_source_ms: Option<u64>,
    /// Commands that could not be carried out here do not stop it.
    pub despite_problems: bool,
}

/// Why something about an import is refused: a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It makes no sense, or the source says no.
    Sentence(String),
    /// It was not over in time; the import goes on.
    Late(String),
    /// There is none.
    None,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::Sentence(text) | Refused::Late(text) => f.write_str(text),
            Refused::None => f.write_str("no import is running"),
        }
    }
}

/// What ends or interrupts the work of an import.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Failure {
    /// It cannot go on: a sentence.
    Final(String),
    /// The source is out of contact, or not ready: worth another try.
    Lost(String),
    /// The source does not let itself be followed.
    NoStream(String),
    /// Somebody cancelled it.
    Cancelled,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Final(text) | Failure::Lost(text) | Failure::NoStream(text) => f.write_str(text),
            Failure::Cancelled => f.write_str("the import was cancelled"),
        }
    }
}

/// A cut-over that was asked for.
#[derive(Clone, Copy, Debug)]
struct Asked {
    how: CutOver,
    until: Instant,
    /// The source keeps its writers waiting until then.
    paused_until: Option<Instant>,
}

/// One import.
struct Job {
    options: Options,
    status: Mutex<Status>,
    stop: Arc<AtomicBool>,
    asked: Mutex<Option<Asked>>,
    followed: Arc<followed::Followed>,
}

impl Job {
    /// Changes what is told about it.
    fn tell<R>(&self, change: impl FnOnce(&mut Status) -> R) -> R {
        change(&mut self.status.lock())
    }

    fn enter(&self, phase: Phase) {
        self.tell(|status| status.phase = phase);
    }

    /// Notes what could not be carried out.
    fn problem(&self, text: String) {
        tracing::warn!(problem = %text, "import: not carried out");
        self.tell(|status| status.problem(text));
    }

    fn is_over(&self) -> bool {
        self.status.lock().phase.is_over()
    }
}

/// The import of this node, if there ever was one.
#[derive(Default)]
pub struct Imports {
    current: Mutex<Option<Arc<Job>>>,
    /// Held while one is being begun.
    turn: Mutex<()>,
    /// A stream is followed: the source says what expires.
    following: AtomicBool,
}

impl Imports {
    /// Whether a source's stream is followed, so that keys end when the source says so.
    pub fn is_following(&self) -> bool {
        self.following.load(Ordering::Relaxed)
    }

    fn job(&self) -> Option<Arc<Job>> {
        self.current.lock().clone()
    }

    /// What is known about the last import.
    pub fn status(&self) -> Option<Status> {
        let job = self.job()?;
        let mut status = job.status.lock().clone();
        if status.phase == Phase::Following || status.phase == Phase::CuttingOver {
            (status.lag_bytes, status.lag_ms) = job.followed.lag();
        }
        status.now_ms = now_ms();
        Some(status)
    }

    /// Ends the import where it is; what it brought stays.
    pub fn cancel(&self) -> Result<Status, Refused> {
        let job = self.job().filter(|job| !job.is_over()).ok_or(Refused::None)?;
        job.stop.store(true, Ordering::Release);
        let until = Instant::now() + Duration::from_secs(20);
        while !job.is_over() && Instant::now() < until {
            std::thread::sleep(LOOK_PAUSE);
        }
        self.status().ok_or(Refused::None)
    }

    /// Makes the end: waits until nothing is left to follow. If that is not so in time, the import goes on.
    pub fn cut_over(&self, how: CutOver) -> Result<Status, Refused> {
        let job = self.job().filter(|job| !job.is_over()).ok_or(Refused::None)?;
        let until = Instant::now() + how.wait.min(CUT_OVER_WAIT_MAX);
        // A copy under way, or a connection being made anew, is part of what it was to wait for.
        while job.is_not_there_yet() && Instant::now() < until {
            std::thread::sleep(LOOK_PAUSE);
        }
        job.may_cut_over(&how)?;
        *job.asked.lock() = Some(Asked { how, until, paused_until: None });
        loop {
            std::thread::sleep(LOOK_PAUSE);
            let status = self.status().ok_or(Refused::None)?;
            match status.phase {
                Phase::Finished => return Ok(status),
                Phase::Failed | Phase::Cancelled => return Err(Refused::Sentence(status.error)),
                _ => {}
            }
            if Instant::now() > until + CUT_OVER_EXTRA {
                job.refuse_cut_over("the time was over before a decision; the import goes on".to_owned());
            }
            // The import's own thread takes the request back and says why.
            if job.asked.lock().is_none() && !job.is_over() {
                return Err(Refused::Late(job.status.lock().cut_over_refused.clone()));
            }
        }
    }
}

impl Job {
    fn is_not_there_yet(&self) -> bool {
        matches!(self.status.lock().phase, Phase::Connecting | Phase::Copying | Phase::Waiting)
    }

    fn may_cut_over(&self, how: &CutOver) -> Result<(), Refused> {
        if self.asked.lock().is_some() {
            return Err(Refused::Sentence("a cut-over is under way already".to_owned()));
        }
        let status = self.status.lock();
        if !matches!(status.phase, Phase::Following | Phase::Scanning) {
            let text = format!("there is nothing to cut over yet: the import is {}", status.phase);
            return Err(Refused::Sentence(text));
        }
        if status.problems > 0 && !how.despite_problems {
            let text = format!(
                "{} commands of the source could not be carried out here, the first: {}; cut over all the same with \
                 --despite-problems",
                status.problems,
                status.problem_texts.first().map_or("", String::as_str)
            );
            return Err(Refused::Sentence(text));
        }
        Ok(())
    }

    /// Gives a cut-over up and says why; the import goes on.
    fn refuse_cut_over(&self, why: String) {
        self.tell(|status| status.cut_over_refused = why);
        *self.asked.lock() = None;
    }
}

/// Begins an import. Asks the source first, so it may wait: not for a data thread. The error is a sentence.
pub fn start(node: &Arc<Node>, options: Options) -> Result<Status, Refused> {
    let sentence = |text: &str| Refused::Sentence(text.to_owned());
    let turn = node.imports.turn.try_lock();
    if turn.is_none() || node.imports.job().is_some_and(|job| !job.is_over()) {
        return Err(sentence("an import is running already; cut it over or cancel it first"));
    }
    if node.groups().len() > 1 {
        return Err(sentence("an import needs a cluster with one shard group"));
    }
    if !node.views.load().1.is_primary() {
        return Err(sentence("another node serves the data; ask that one to import"));
    }
    if node.is_loading() {
        return Err(sentence("the node is loading its data"));
    }
    if let Some(database) = options.database.filter(|database| *database >= node.config.databases) {
        return Err(Refused::Sentence(run::too_few_databases(database)));
    }
    let keys = run::count_keys(node);
    if keys > 0 && !options.merge {
        return Err(Refused::Sentence(format!(
            "there are {keys} keys here already: empty the cluster first, or keep them with --merge"
        )));
    }
    let stop = Arc::new(AtomicBool::new(false));
    let facts = source::inspect(&options.source, &stop).map_err(|failure| Refused::Sentence(failure.to_string()))?;
    let job = Arc::new(Job {
        status: Mutex::new(Status::new(&options, &facts, now_ms())),
        options,
        stop,
        asked: Mutex::new(None),
        followed: Arc::default(),
    });
    let (running, worked) = (Arc::clone(&job), Arc::clone(node));
    std::thread::Builder::new()
        .name("keyward-import".to_owned())
        .spawn(move || run::run(&worked, &running))
        .map_err(|error| Refused::Sentence(format!("no thread for the import: {error}")))?;
    tracing::info!(source = %job.options.source, "import begun");
    let status = job.status.lock().clone();
    *node.imports.current.lock() = Some(job);
    Ok(status)
}
