//! What the primary of a shard group does for an import, on a thread of its own: connect, copy, follow, connect again, until the import
//! is over or another primary goes on. Which of these comes next is decided here and nowhere else.
//!
//! ```text
//!   PSYNC ─┬─ +FULLRESYNC ─► copy ─► (a second copy: what it lacks is removed here) ─► follow ─┐
//!          ├─ +CONTINUE ───────────────────────────────────────────────────────────► follow ─┤
//!          └─ refused ─► passes of SCAN                                                      │
//!   lost: wait, longer each time, then PSYNC again ◄─────────────────────────────────────────┘
//! ```

use super::carried::{Carried, existing_marks};
use super::follow::Stream;
use super::followed::Followed;
use super::hand::{Hand, Together};
use super::keys::KeySet;
use super::load::Loading;
use super::source::{self, Given, Place};
use super::status::{Method, Phase};
use super::translate::Translation;
use super::wire::Link;
use super::{Failure, Job, doors, scan};
use crate::node::{Node, now_ms};
use crate::replication::record::Origin;
use keyward_engine::keyspace::TenantId;
use keyward_proto::resp::Value;
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
    pub(super) existing: Option<Arc<KeySet>>,
    /// What passes of SCAN remember.
    pub(super) seen: scan::Memory,
    /// The last time the source was heard.
    heard: Instant,
    /// The connection came as far as following, or a whole pass.
    got_on: bool,
}

/// Does what the primary of a group does, until the import is over or another one does it.
pub(super) fn run(node: &Arc<Node>, job: &Arc<Job>) {
    let until = (Arc::clone(&job.stop), job.reign);
    let hand = Hand::new(node, job.options.source.to_string(), until, Arc::clone(&job.wrote));
    let translation = Translation::new(&job.options);
    let seen = scan::Memory::default();
    let mut run = Run { job, hand, translation, existing: None, seen, heard: Instant::now(), got_on: false };
    let (index, group) = (job.import.index, node.group.0);
    tracing::info!(source = %job.options.source, index, group, "import: at work");
    let why = match run.live() {
        Ok(()) | Err(Failure::Moved) => {
            tracing::info!(source = %job.options.source, index, group, "import: over here");
            return;
        }
        Err(failure) => failure.to_string(),
    };
    tracing::error!(source = %job.options.source, error = %why, "import failed");
    // Nobody else will say so: until it is agreed on, or this node is not asked any more.
    while !job.stop.load(Ordering::Acquire) {
        let Some(first) = node.groups().first() else { return };
        let Err(error) = doors::fail(first, &job.import, why.clone(), &job.runtime) else { return };
        tracing::warn!(%error, "import: its end is not agreed on yet");
        std::thread::sleep(RETRY_FIRST);
    }
}

impl Run<'_> {
    fn live(&mut self) -> Result<(), Failure> {
        self.take_over()?;
        let mut pause = RETRY_FIRST;
        loop {
            self.got_on = false;
            let ended =
                if self.job.tell(|status| status.method) == Method::Scan { scan::passes(self) } else { self.stream() };
            let lost = match ended {
                Err(Failure::NoStream(said)) => {
                    self.fall_back(&said)?;
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
            self.sleep(pause)?;
            pause = (pause * 2).min(RETRY_LAST);
        }
    }

    /// Goes on where the data says that it stands, or begins.
    fn take_over(&mut self) -> Result<(), Failure> {
        // What was received from the last primary is carried out before this node may write.
        self.hand.wait_until_welcome(&[])?;
        let (job, index) = (Arc::clone(self.job), self.job.import.index);
        let carried = self.hand.node().import.carried();
        if carried.index == index {
            job.tell(|status| status.restore(&carried.tally));
            job.passes_begun.store(carried.tally.passes, Ordering::Release);
            if let Some((_, at)) = &carried.place {
                job.followed.begin(at.offset, carried.floor_ms);
                job.tell(|status| status.offset = at.offset);
            }
            self.seen.inherit();
            self.existing = carried.existing;
            return Ok(());
        }
        let existing = job.options.merge.then(|| self.list_existing()).transpose()?;
        let told = existing.as_ref().map(existing_marks).unwrap_or_default();
        self.existing = existing.map(Arc::new);
        let merges = self.existing.is_some();
        self.hand.stand(|carried| {
            let existing = merges.then(Arc::default);
            *carried = Carried { index, existing, ..Carried::default() };
        })?;
        told.iter().try_for_each(|what| self.hand.add(what))
    }

    /// Has everybody know what was counted, and `change` besides.
    pub(super) fn stand(&self, change: impl Fn(&mut Carried)) -> Result<(), Failure> {
        let tally = self.job.tell(|status| status.tally());
        self.hand.stand(|carried| {
            carried.tally = tally.clone();
            change(carried);
        })
    }

    fn fall_back(&mut self, said: &str) -> Result<(), Failure> {
        tracing::warn!(source = %self.job.options.source, said, "import: the source does not let itself be followed");
        let note = format!(
            "the source does not let itself be followed ({said}): its keys are read in passes of SCAN; what changes between \
             two passes is seen by the next, and messages of PUBLISH and changes of functions are not followed"
        );
        self.job.tell(|status| {
            status.method = Method::Scan;
            status.note(note);
        });
        // Nobody tells what expires any more: the passes bring expiries, and our own clock ends them.
        self.stand(|carried| (carried.follows, carried.place) = (false, None))
    }

    pub(super) fn sleep(&self, pause: Duration) -> Result<(), Failure> {
        let until = Instant::now() + pause;
        while Instant::now() < until {
            if self.job.stop.load(Ordering::Acquire) {
                return Err(Failure::Moved);
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

    fn place(&self) -> Option<(String, Origin)> {
        self.hand.node().import.carried().place
    }

    /// One connection: what the source gives, until it is lost or the import ends.
    fn stream(&mut self) -> Result<(), Failure> {
        let job = Arc::clone(self.job);
        let known = self.place();
        if known.is_none() {
            job.enter(Phase::Connecting);
        }
        let mut link = source::connect(&job.options.source, &job.stop)?;
        let facts = source::facts(&mut link, &job.options.source)?;
        let clock_ms = source::clock_ms(&mut link)?;
        let asked = known.as_ref().map(|(id, at)| Place { id: id.clone(), offset: at.offset });
        let given = source::follow(&mut link, asked.as_ref())?;
        self.heard = Instant::now();
        job.tell(|status| {
            status.error.clear();
            facts.remarks(&job.options).into_iter().for_each(|note| status.note(note));
        });
        let from = match (given, known) {
            (Given::Rest(id), Some((known, from))) => {
                tracing::info!(source = %job.options.source, offset = from.offset, "import: the stream goes on");
                let id = id.unwrap_or(known);
                self.stand(|carried| carried.place = Some((id.clone(), from)))?;
                from
            }
            (Given::Rest(_), None) => {
                return Err(Failure::Final("the source went on with a stream nobody began".to_owned()));
            }
            (Given::Copy(place), _) => {
                job.tell(|status| status.keys_expected = facts.keys);
                self.copy(&mut link, clock_ms)?;
                let from = Origin { offset: place.offset, database: 0 };
                job.followed.begin(place.offset, clock_ms);
                job.tell(|status| status.offset = place.offset);
                self.stand(|carried| {
                    (carried.place, carried.floor_ms) = (Some((place.id.clone(), from)), clock_ms);
                })?;
                from
            }
        };
        self.gets_on();
        self.follow(&mut link, from)
    }

    fn copy(&mut self, link: &mut Link, now_ms: i64) -> Result<(), Failure> {
        let job = Arc::clone(self.job);
        let copies = job.tell(|status| {
            (status.phase, status.copies) = (Phase::Copying, status.copies + 1);
            status.copies
        });
        // From here on the source says what expires.
        self.stand(|carried| (carried.follows, carried.place) = (true, None))?;
        // Whatever an earlier copy or stream brought may be gone at the source by now.
        let mut met = (copies > 1).then(KeySet::default);
        if copies > 1 {
            if self.existing.is_none() && job.options.database.is_none() {
                self.hand.ask(0, &[b"FUNCTION", b"FLUSH"])?;
            }
            tracing::warn!(source = %job.options.source, "import: the source gives a whole copy anew");
        }
        let (hand, translation) = (&mut self.hand, &self.translation);
        let loaded = Loading { job: &job, hand, translation, now_ms, met: met.as_mut() }.load(link);
        self.heard = Instant::now();
        loaded?;
        if let Some(met) = met {
            let existing = self.existing.as_deref();
            let goes = |database: u32, key: &[u8]| {
                !met.has(database, key) && existing.is_none_or(|existing| !existing.has(database, key))
            };
            let removed = remove_where(&mut self.hand, job.options.database, &goes)?;
            job.tell(|status| status.removed += removed);
        }
        Ok(())
    }

    fn follow(&mut self, link: &mut Link, from: Origin) -> Result<(), Failure> {
        let job = Arc::clone(self.job);
        job.enter(Phase::Following);
        let _asking = Asking::begin(&job)?;
        let existing = self.existing.clone();
        let mut stream = Stream::new(&job, &mut self.hand, &self.translation, existing.as_deref(), from);
        let ended = loop {
            if let Err(failure) = stream.step(link) {
                break Err(failure);
            }
        };
        self.heard = Instant::now();
        ended
    }
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
        let request = super::hand::Request::new(database, argv.to_vec());
        self.hand.run(&[request], now_ms(), Together::Loosely, &mut |_, reply| refused = super::hand::error(reply))?;
        match refused {
            None => Ok(()),
            Some(why) => Err(Failure::Final(why)),
        }
    }
}
