//! The life of an import on its own thread: connect, copy, follow, connect again, until somebody ends it. Which of these comes
//! next is decided here and nowhere else.
//!
//! ```text
//!   PSYNC ─┬─ +FULLRESYNC ─► copy ─► (a second copy: what it lacks is removed here) ─► follow ─┐
//!          ├─ +CONTINUE ───────────────────────────────────────────────────────────► follow ─┤
//!          └─ refused ─► passes of SCAN                                                      │
//!   lost: wait, longer each time, then PSYNC again ◄─────────────────────────────────────────┘
//! ```

use super::follow::{From, Stream};
use super::followed::{Followed, Sample};
use super::hand::{Hand, Together};
use super::load::Loading;
use super::scan;
use super::source::{self, Given, Place};
use super::status::{Method, Phase, Report};
use super::translate::Translation;
use super::wire::{Link, text};
use super::{Asked, Failure, Job};
use crate::node::{Node, now_ms};
use keyward_engine::keyspace::TenantId;
use keyward_proto::resp::Value;
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Called with each page of keys: the database and their names.
type Visit<'v> = dyn FnMut(&mut Hand, u32, &[Vec<u8>]) -> Result<(), Failure> + 'v;

/// After a loss, the first try comes so soon, and every further one after twice the time.
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_LAST: Duration = Duration::from_secs(5);

/// A source that is out of contact for so long is given up.
const GIVE_UP_AFTER: Duration = Duration::from_secs(3600);

/// Between two questions where the source's stream stands.
const ASK_EVERY: Duration = Duration::from_millis(500);

/// Keys looked at in one step of our own walks.
const WALK_KEYS: &[u8] = b"512";

/// Keys, each as a number that stands for it: eight bytes and a little, however long the key. Two keys that share a number,
/// once in some billions, may keep one that should have gone.
#[derive(Default)]
pub(super) struct KeySet(HashSet<u64>);

impl KeySet {
    /// What stands for a key.
    pub(super) fn number(database: u32, key: &[u8]) -> u64 {
        let mut hasher = DefaultHasher::new();
        (database, key).hash(&mut hasher);
        hasher.finish()
    }

    /// Adds a key.
    pub(super) fn add(&mut self, database: u32, key: &[u8]) {
        self.0.insert(Self::number(database, key));
    }

    /// Whether it was added.
    pub(super) fn has(&self, database: u32, key: &[u8]) -> bool {
        self.0.contains(&Self::number(database, key))
    }
}

/// What a source asks for that has more databases.
pub(super) fn too_few_databases(database: u32) -> String {
    format!("the source has keys in database {database}: set `databases` to more than {database}")
}

/// Keys here, in every database.
pub(super) fn count_keys(node: &Node) -> u64 {
    let in_shard = |index| {
        node.shards.with(index, |shard| {
            let shared = shard.spaces().filter(|(space, _)| space.tenant == TenantId::SHARED);
            shared.map(|(_, keys)| keys.len()).sum::<usize>()
        })
    };
    (0..node.shards.count()).map(in_shard).sum::<usize>() as u64
}

/// Visits the keys here, some hundred at a time.
pub(super) fn walk(hand: &mut Hand, only: Option<u32>, visit: &mut Visit<'_>) -> Result<(), Failure> {
    let databases = hand.node().config.databases;
    for database in (0..databases).filter(|database| only.is_none_or(|only| only == *database)) {
        if hand.ask(database, &[b"DBSIZE"])? == Value::Integer(0) {
            continue;
        }
        let mut cursor = b"0".to_vec();
        loop {
            let answer = hand.ask(database, &[b"SCAN", &cursor, b"COUNT", WALK_KEYS])?;
            let (next, keys) =
                scan::page(answer).ok_or_else(|| Failure::Final("the keys here cannot be listed".to_owned()))?;
            visit(hand, database, &keys)?;
            cursor = next;
            if cursor == b"0" {
                break;
            }
        }
    }
    Ok(())
}

/// Removes keys here that `goes` tells; how many.
pub(super) fn remove_where(
    hand: &mut Hand,
    only: Option<u32>,
    goes: &dyn Fn(u32, &[u8]) -> bool,
) -> Result<u64, Failure> {
    let mut removed = 0;
    walk(hand, only, &mut |hand, database, keys| {
        let mut argv: Vec<&[u8]> = vec![b"UNLINK"];
        argv.extend(keys.iter().map(Vec::as_slice).filter(|key| goes(database, key)));
        if argv.len() > 1
            && let Value::Integer(count) = hand.ask(database, &argv)?
        {
            removed += u64::try_from(count).unwrap_or(0);
        }
        Ok(())
    })?;
    Ok(removed)
}

/// Removes every key but those that were here before.
pub(super) fn remove_all_brought(hand: &mut Hand, only: Option<u32>, existing: Option<&KeySet>) -> Result<(), Failure> {
    remove_where(hand, only, &|database, key| existing.is_none_or(|existing| !existing.has(database, key))).map(drop)
}

/// Where an import stands between two connections.
pub(super) struct Run<'a> {
    pub(super) job: &'a Arc<Job>,
    pub(super) hand: Hand,
    pub(super) translation: Translation,
    /// What was here before; only with `merge`.
    pub(super) existing: Option<KeySet>,
    /// What passes of SCAN remember.
    pub(super) seen: scan::Memory,
    /// The stream that can be gone on with.
    place: Option<(String, From)>,
    /// The last time the source was heard.
    heard: Instant,
    /// The connection came as far as following, or a whole pass.
    got_on: bool,
}

/// Runs an import to its end.
pub(super) fn run(node: &Arc<Node>, job: &Arc<Job>) {
    let hand = Hand::new(node, job.options.source.to_string(), Arc::clone(&job.stop));
    let translation = Translation::new(&job.options);
    let seen = scan::Memory::default();
    let mut run =
        Run { job, hand, translation, existing: None, seen, place: None, heard: Instant::now(), got_on: false };
    let ended = run.live();
    node.imports.following.store(false, Ordering::Relaxed);
    let (phase, error) = match ended {
        Ok(()) => (Phase::Finished, String::new()),
        Err(Failure::Cancelled) => (Phase::Cancelled, Failure::Cancelled.to_string()),
        Err(failure) => (Phase::Failed, failure.to_string()),
    };
    match phase {
        Phase::Failed => tracing::error!(source = %job.options.source, %error, "import failed"),
        _ => tracing::info!(source = %job.options.source, outcome = %phase, "import ended"),
    }
    let keys = count_keys(node);
    job.tell(|status| {
        status.report.iter_mut().for_each(|report| report.keys = keys);
        (status.phase, status.error, status.ended_ms) = (phase, error, now_ms());
    });
}

impl Run<'_> {
    fn live(&mut self) -> Result<(), Failure> {
        if self.job.options.merge {
            self.existing = Some(self.list_existing()?);
        }
        let mut pause = RETRY_FIRST;
        loop {
            self.got_on = false;
            let ended =
                if self.job.tell(|status| status.method) == Method::Scan { scan::passes(self) } else { self.stream() };
            let lost = match ended {
                Err(Failure::NoStream(said)) => {
                    self.fall_back(&said);
                    continue;
                }
                Err(Failure::Lost(text)) => text,
                ended => return ended,
            };
            if self.heard.elapsed() > GIVE_UP_AFTER {
                return Err(Failure::Final(format!("given up after an hour: {lost}")));
            }
            if self.got_on {
                pause = RETRY_FIRST;
            }
            tracing::warn!(source = %self.job.options.source, error = %lost, "import: out of contact with the source");
            self.job.tell(|status| {
                (status.phase, status.error) = (Phase::Waiting, lost.clone());
                status.reconnects += 1;
            });
            // A cut-over goes on when the source is back, as long as it was to wait.
            let asked = *self.job.asked.lock();
            if asked.is_some_and(|asked| asked.until <= Instant::now()) {
                self.job.refuse_cut_over(format!("the source was lost during the cut-over: {lost}"));
            }
            self.sleep(pause)?;
            pause = (pause * 2).min(RETRY_LAST);
        }
    }

    fn fall_back(&mut self, said: &str) {
        // Nobody tells what expires any more: the passes bring expiries, and our own clock ends them.
        self.hand.node().imports.following.store(false, Ordering::Relaxed);
        tracing::warn!(source = %self.job.options.source, said, "import: the source does not let itself be followed");
        let note = format!(
            "the source does not let itself be followed ({said}): its keys are read in passes of SCAN; what changes between \
             two passes is seen by the next, and messages of PUBLISH and changes of functions are not followed"
        );
        self.job.tell(|status| {
            status.method = Method::Scan;
            status.note(note);
        });
    }

    pub(super) fn sleep(&self, pause: Duration) -> Result<(), Failure> {
        let until = Instant::now() + pause;
        while Instant::now() < until {
            if self.job.stop.load(Ordering::Acquire) {
                return Err(Failure::Cancelled);
            }
            std::thread::sleep(pause.min(Duration::from_millis(20)));
        }
        Ok(())
    }

    fn list_existing(&mut self) -> Result<KeySet, Failure> {
        let mut existing = KeySet::default();
        walk(&mut self.hand, None, &mut |_, database, keys| {
            keys.iter().for_each(|key| existing.add(database, key));
            Ok(())
        })?;
        Ok(existing)
    }

    /// The source does as it should: whatever was wrong is over.
    pub(super) fn gets_on(&mut self) {
        (self.heard, self.got_on) = (Instant::now(), true);
    }

    /// One connection: what the source gives, until it is lost or the import ends.
    fn stream(&mut self) -> Result<(), Failure> {
        let job = self.job;
        if self.place.is_none() {
            job.enter(Phase::Connecting);
        }
        let mut link = source::connect(&job.options.source, &job.stop)?;
        let facts = source::facts(&mut link, &job.options.source)?;
        let clock_ms = source::clock_ms(&mut link)?;
        let known = self.place.as_ref().map(|(id, from)| Place { id: id.clone(), offset: from.offset });
        let given = source::follow(&mut link, known.as_ref())?;
        self.heard = Instant::now();
        job.tell(|status| (status.error, status.keys_expected) = (String::new(), facts.keys));
        let from = match (given, self.place.take()) {
            (Given::Rest(id), Some((known, from))) => {
                self.place = Some((id.unwrap_or(known), from));
                tracing::info!(source = %job.options.source, offset = from.offset, "import: the stream goes on");
                from
            }
            (Given::Rest(_), None) => {
                return Err(Failure::Final("the source went on with a stream nobody began".to_owned()));
            }
            (Given::Copy(place), _) => {
                self.copy(&mut link, clock_ms)?;
                let from = From { offset: place.offset, database: 0 };
                job.followed.begin(place.offset, clock_ms);
                job.tell(|status| status.offset = place.offset);
                self.place = Some((place.id, from));
                from
            }
        };
        self.gets_on();
        self.follow(&mut link, from)
    }

    fn copy(&mut self, link: &mut Link, now_ms: i64) -> Result<(), Failure> {
        let job = self.job;
        // From here on the source says what expires.
        self.hand.node().imports.following.store(true, Ordering::Relaxed);
        let copies = job.tell(|status| {
            (status.phase, status.copies) = (Phase::Copying, status.copies + 1);
            status.copies
        });
        // Whatever an earlier copy or stream brought may be gone at the source by now.
        let mut met = (copies > 1).then(KeySet::default);
        if copies > 1 {
            if self.existing.is_none() && job.options.database.is_none() {
                self.hand.ask(0, &[b"FUNCTION", b"FLUSH"])?;
            }
            tracing::warn!(source = %job.options.source, "import: the source gives a whole copy anew");
        }
        let (hand, translation) = (&mut self.hand, &self.translation);
        let loaded = Loading { job, hand, translation, now_ms, met: met.as_mut() }.load(link);
        self.heard = Instant::now();
        loaded?;
        if let Some(met) = met {
            let existing = self.existing.as_ref();
            let goes = |database: u32, key: &[u8]| {
                !met.has(database, key) && existing.is_none_or(|existing| !existing.has(database, key))
            };
            let removed = remove_where(&mut self.hand, job.options.database, &goes)?;
            job.tell(|status| status.removed += removed);
        }
        Ok(())
    }

    fn follow(&mut self, link: &mut Link, from: From) -> Result<(), Failure> {
        let job = Arc::clone(self.job);
        self.hand.node().imports.following.store(true, Ordering::Relaxed);
        job.enter(Phase::Following);
        let _asking = Asking::begin(&job)?;
        let mut stream = Stream::new(&job, &mut self.hand, &self.translation, self.existing.as_ref(), from);
        let mut asking = None;
        let ended = loop {
            if let Err(failure) = stream.step(link) {
                break Err(failure);
            }
            match end_of_stream(&job, &stream, &mut asking) {
                Ok(false) => {}
                Ok(true) => break stream.acknowledge(link).or(Ok(())),
                Err(failure) => break Err(failure),
            }
        };
        let place = stream.place();
        self.place = self.place.take().zip(place).map(|((id, _), from)| (id, from));
        self.heard = Instant::now();
        ended
    }
}

/// Whether a cut-over was asked for and everything is here. `asking` is kept for the next time.
fn end_of_stream(job: &Arc<Job>, stream: &Stream<'_>, asking: &mut Option<Link>) -> Result<bool, Failure> {
    let Some(mut asked) = *job.asked.lock() else { return Ok(false) };
    let now = Instant::now();
    let paused = asked.paused_until.is_some_and(|until| now < until);
    if asked.until <= now || asked.paused_until.is_some() && !paused {
        job.enter(Phase::Following);
        job.refuse_cut_over(not_reached(job, &asked));
        return Ok(false);
    }
    job.enter(Phase::CuttingOver);
    if asked.paused_until.is_none() && asked.how.pause_source_ms.is_some() {
        match pause_source(job, &mut asked) {
            Ok(()) => *job.asked.lock() = Some(asked),
            Err(failure) => {
                job.enter(Phase::Following);
                job.refuse_cut_over(failure.to_string());
                return Ok(false);
            }
        }
    }
    // Near enough to ask the source itself; a stream far behind is not held up by questions.
    let Some(offset) = stream.place().map(|from| from.offset).filter(|_| job.followed.lag().0 == Some(0)) else {
        return Ok(false);
    };
    let link = match asking {
        Some(link) => link,
        None => asking.insert(source::connect(&job.options.source, &job.stop)?),
    };
    let facts = source::facts(link, &job.options.source)?;
    if facts.offset != offset {
        job.followed.told(Sample { offset: facts.offset, source_ms: 0, at: now });
        return Ok(false);
    }
    if !stream.is_replicated() {
        return Ok(false);
    }
    let wanted = |database: &u32| job.options.database.is_none_or(|only| only == *database);
    let keys = facts.databases.iter().filter(|(database, _)| wanted(database)).map(|(_, keys)| keys);
    let left = asked.until.saturating_duration_since(Instant::now());
    let report = Report {
        offset,
        source_offset: facts.offset,
        source_keys: keys.sum(),
        keys: 0,
        source_paused: asked.paused_until.is_some(),
        quiet: true,
        took_ms: asked.how.wait.saturating_sub(left).as_millis() as u64,
    };
    job.tell(|status| {
        (status.lag_bytes, status.lag_ms) = (Some(0), Some(0));
        status.report = Some(report);
    });
    Ok(true)
}

fn not_reached(job: &Job, asked: &Asked) -> String {
    let (bytes, ms) = job.followed.lag();
    let behind = format!("{} bytes and {} ms behind", bytes.unwrap_or(0), ms.unwrap_or(0));
    match asked.how.pause_source_ms {
        Some(_) => format!("the end was not reached while the source was paused ({behind}); the import goes on"),
        None => format!(
            "the source is still written to ({behind}): stop its writers, or let --pause-source keep them waiting; the \
             import goes on"
        ),
    }
}

/// Keeps the writers of the source waiting.
pub(super) fn pause_source(job: &Arc<Job>, asked: &mut Asked) -> Result<(), Failure> {
    let Some(ms) = asked.how.pause_source_ms else { return Ok(()) };
    let mut link = source::connect(&job.options.source, &job.stop)?;
    let answer = link.call(&[b"CLIENT", b"PAUSE", ms.to_string().as_bytes(), b"WRITE"])?;
    if let Value::Error(_) = answer {
        return Err(Failure::Final(format!("the source cannot be paused: {}", text(&answer))));
    }
    asked.paused_until = Some(Instant::now() + Duration::from_millis(ms));
    Ok(())
}

/// Asks the source now and then where its stream stands, on a thread of its own; ends when dropped.
struct Asking {
    over: Arc<AtomicBool>,
}

impl Asking {
    fn begin(job: &Arc<Job>) -> Result<Asking, Failure> {
        let over = Arc::new(AtomicBool::new(false));
        let (asks, ends, followed) = (Arc::clone(job), Arc::clone(&over), Arc::clone(&job.followed));
        let ask = move || {
            while !ends.load(Ordering::Acquire) && !asks.stop.load(Ordering::Acquire) {
                // Whoever follows finds out by itself that the source is gone.
                let _ = ask_while(&asks, &ends, &followed);
                std::thread::sleep(ASK_EVERY);
            }
        };
        let spawned = std::thread::Builder::new().name("keyward-import-ask".to_owned()).spawn(ask);
        spawned.map_err(|error| Failure::Final(format!("no thread for the import: {error}")))?;
        Ok(Asking { over })
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
    }
}

fn ask_while(job: &Job, ends: &Arc<AtomicBool>, followed: &Followed) -> Result<(), Failure> {
    let mut link = source::connect(&job.options.source, ends)?;
    while !ends.load(Ordering::Acquire) {
        followed.told(source::sample(&mut link)?);
        std::thread::sleep(ASK_EVERY);
    }
    Ok(())
}

impl Run<'_> {
    /// Runs a request of our own that must succeed.
    pub(super) fn must(&mut self, database: u32, argv: &[&[u8]]) -> Result<(), Failure> {
        let mut refused = None;
        let request = super::hand::Request { database, argv: argv.to_vec() };
        self.hand.run(&[request], now_ms(), Together::Loosely, &mut |_, reply| refused = super::hand::error(reply))?;
        match refused {
            None => Ok(()),
            Some(why) => Err(Failure::Final(why)),
        }
    }
}
