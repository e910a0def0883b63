//! Moving in: another server's keys are copied here while it serves, and its writes are followed until it is left.
//!
//! ```text
//!   start ─► whole copy (RDB as it streams in) ─► its command stream ─► cut-over: nothing left to follow, then the end
//!               ▲                                       │
//!               └── too long out of contact ◄───────────┤ connection lost: go on where we stopped (PSYNC id offset)
//!   refused PSYNC ─► passes of SCAN, DUMP, PTTL until the cut-over makes the last one
//! ```
//! That there is an import, from where and how, is agreed on in Raft ([`keyward_cluster::import`]); whoever is primary of a shard group
//! while it runs is a replica to the source, and takes what belongs to its group: [`source`] speaks to it, [`load`] takes the copy,
//! [`follow`] the stream, [`scan`] makes passes where a stream is refused, [`hand`] writes what came through the way every write goes,
//! so that replicas, watchers and events learn of it. How far it is travels with the data ([`carried`]): another primary goes
//! on where that ends. [`doors`] is what operators ask for, through any node. The source's word on time is taken for
//! its own commands: a key it still saw is still here for them.
//!
//! It refuses to know how users of the source are named. The password of the source is in the memory of the nodes while the import
//! lasts, so that any of them can go on, and written nowhere: who lacks it asks the others.

mod carried;
mod doors;
mod fetch;
mod follow;
mod followed;
mod hand;
mod keys;
mod load;
mod run;
mod scan;
mod share;
mod source;
mod status;
mod tls;
mod translate;
mod wire;

use crate::config::Secret;
use crate::insight;
use crate::node::Node;
use keyward_cluster::{Epoch, Import, ImportPlan};
use keyward_proto::admin as pb;
use keyward_proto::admin::node_answer::Answer;
use keyward_proto::admin::node_question::Question;
use parking_lot::Mutex;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::time::timeout;

pub use carried::Part;
pub use doors::{Asker, CUT_OVER_WAIT_MAX, cancel, credentials_here, cut_over, parts_here, start, status};
pub use tls::Tls;

use status::{Phase, Status};

/// Between two looks at what is to be done here.
const LOOK: Duration = Duration::from_secs(1);

/// When every node has answered for so long that it does not know the password of the source, nobody does.
const CREDENTIALS_WAIT: Duration = Duration::from_secs(5);

/// Before another look at what cannot be done yet.
const RETRY: Duration = Duration::from_millis(50);

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
        f.write_str(&status::address(&self.host, self.port))
    }
}

/// What nodes keep in memory for the source, and tell each other.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// The password.
    pub password: Option<Secret>,
    /// Who may have signed its certificate, PEM; empty: whom the machine trusts.
    pub authorities: Vec<u8>,
}

impl Credentials {
    /// Whether there are any.
    pub fn is_empty(&self) -> bool {
        self.password.is_none() && self.authorities.is_empty()
    }
}

/// What is to be imported, and how.
#[derive(Clone, Debug)]
struct Options {
    /// From where.
    source: SourceAddress,
    /// Only this database; without it all of them.
    database: Option<u32>,
    /// Keys that begin with the first are kept under the second instead.
    prefixes: Vec<(Vec<u8>, Vec<u8>)>,
    /// There may be keys here already; those the source has too are overwritten.
    merge: bool,
    /// Passes of SCAN even if the source would let itself be followed.
    scan: bool,
}

impl Options {
    /// As agreed on, with what is not written down. The error is a sentence.
    fn of(plan: &ImportPlan, credentials: &Credentials) -> Result<Options, String> {
        let tls = plan.tls.then(|| Tls::trusting(&credentials.authorities)).transpose()?;
        let user = Some(plan.user.clone()).filter(|user| !user.is_empty());
        let password = credentials.password.clone();
        Ok(Options {
            source: SourceAddress { host: plan.host.clone(), port: plan.port, user, password, tls },
            database: plan.database,
            prefixes: plan.prefixes.clone(),
            merge: plan.merge,
            scan: plan.scan,
        })
    }
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
    /// It is over, or another primary goes on.
    Moved,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Final(text) | Failure::Lost(text) | Failure::NoStream(text) => f.write_str(text),
            Failure::Moved => f.write_str("it is over here"),
        }
    }
}

/// An import as one primary of one shard group does it.
struct Job {
    import: Arc<Import>,
    options: Options,
    reign: Epoch,
    status: Mutex<Status>,
    /// Somebody else goes on, or nobody.
    stop: Arc<AtomicBool>,
    /// Its thread has ended.
    ended: AtomicBool,
    /// Somebody waits for the end.
    hurry: AtomicBool,
    passes_begun: AtomicU32,
    /// Where the effects end of what it wrote.
    wrote: Arc<AtomicU64>,
    followed: Arc<followed::Followed>,
    /// To agree on its end.
    runtime: Handle,
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

    /// What is told of it now.
    fn status(&self) -> Status {
        let mut status = self.status.lock().clone();
        if status.phase == Phase::Following {
            (status.lag_bytes, status.lag_ms) = self.followed.lag();
        }
        status
    }
}

/// What the shard groups of a node have in common of imports.
#[derive(Default)]
pub struct Imports {
    /// What is known of the source of an import, by the entry that began it.
    credentials: Mutex<Option<(u64, Credentials)>>,
    /// Since when every node says that it knows nothing of the source of an import.
    unknown: Mutex<Option<(u64, Instant)>>,
    /// Held while one is begun or ended through this node.
    turn: Mutex<()>,
}

impl Imports {
    fn keep(&self, index: u64, credentials: Credentials) {
        *self.credentials.lock() = Some((index, credentials));
    }

    fn known(&self, import: &Import) -> Option<Credentials> {
        if !import.plan.has_credentials {
            return Some(Credentials::default());
        }
        let credentials = self.credentials.lock();
        credentials.as_ref().filter(|(index, _)| *index == import.index).map(|(_, credentials)| credentials.clone())
    }
}

/// Does for an import what this node has to do for one shard group, as long as it lives.
pub async fn keep(of: Arc<Node>) {
    loop {
        let (generation, _) = of.views.load();
        let settled = settle(&of).await;
        let newer = of.views.newer_than(generation);
        if settled && of.import.index() == 0 && of.import.job.lock().is_none() {
            newer.await;
            continue;
        }
        let _ = timeout(if settled { LOOK } else { RETRY }, newer).await;
    }
}

/// Has things be as they should. False: not yet.
async fn settle(of: &Arc<Node>) -> bool {
    let (_, view) = of.views.load();
    let running = view.state.current_import().cloned();
    let known = of.import.job.lock().clone();
    let right = |job: &Job| running.as_ref().is_some_and(|import| import.index == job.import.index);
    if let Some(job) = known.as_ref().filter(|job| !right(job) || view.reign() != Some(job.reign)) {
        job.stop.store(true, Ordering::Release);
        if !job.ended.load(Ordering::Acquire) {
            return false;
        }
        *of.import.job.lock() = None;
    }
    of.import.settle(&view.state);
    let Some(import) = running else {
        of.imports.credentials.lock().take_if(|(index, _)| *index <= view.index);
        return true;
    };
    let Some(credentials) = of.imports.known(&import) else {
        return ask_for_credentials(of, &import).await;
    };
    let Some(reign) = view.reign() else { return true };
    if of.import.job.lock().is_some() {
        return true;
    }
    begin(of, &import, reign, &credentials)
}

/// A job is begun. False: not yet.
fn begin(of: &Arc<Node>, import: &Arc<Import>, reign: Epoch, credentials: &Credentials) -> bool {
    let options = match Options::of(&import.plan, credentials) {
        Ok(options) => options,
        Err(error) => {
            tracing::error!(%error, "an import cannot go on here");
            return false;
        }
    };
    let job = Arc::new(Job {
        import: Arc::clone(import),
        status: Mutex::new(Status::new(options.scan)),
        options,
        reign,
        stop: Arc::default(),
        ended: AtomicBool::new(false),
        hurry: AtomicBool::new(false),
        passes_begun: AtomicU32::new(0),
        wrote: Arc::default(),
        followed: Arc::default(),
        runtime: Handle::current(),
    });
    *of.import.job.lock() = Some(Arc::clone(&job));
    let (running, worked) = (Arc::clone(&job), Arc::clone(of));
    let work = move || {
        run::run(&worked, &running);
        running.ended.store(true, Ordering::Release);
    };
    let spawned = std::thread::Builder::new().name("keyward-import".to_owned()).spawn(work);
    if let Err(error) = &spawned {
        tracing::error!(%error, "no thread for the import");
        *of.import.job.lock() = None;
    }
    spawned.is_ok()
}

/// Another node may know what this one does not. False: none that answered does.
async fn ask_for_credentials(of: &Arc<Node>, import: &Import) -> bool {
    let question = Question::ImportCredentials(pb::ImportCredentialsRequest { index: import.index });
    let mut all_answered = true;
    for answered in insight::ask_every_node(of, question).await {
        let Ok(Answer::ImportCredentials(told)) = answered.answer else {
            all_answered = false;
            continue;
        };
        if told.known {
            let password = Some(told.password).filter(|password| !password.is_empty());
            let password = password.map(|password| Secret::of(&password));
            of.imports.keep(import.index, Credentials { password, authorities: told.tls_authorities });
            *of.imports.unknown.lock() = None;
            return false;
        }
    }
    let since = {
        let mut unknown = of.imports.unknown.lock();
        // A node that does not answer may know it.
        *unknown = unknown.filter(|(index, _)| all_answered && *index == import.index);
        if all_answered { unknown.get_or_insert_with(|| (import.index, Instant::now())).1 } else { Instant::now() }
    };
    if since.elapsed() > CREDENTIALS_WAIT && of.views.load().1.is_primary() {
        let why = "every node was started again since it began, and none knows the password of the source any more";
        tracing::error!(why, "import failed");
        doors::give_up(of, import, why.to_owned()).await;
    }
    false
}
