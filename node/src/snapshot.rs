//! Data on disk: snapshots written while the node serves, by schedule, on request and when it stops; loaded when it starts.
//!
//! ```text
//!   write:  one moment of all shards, in slices ─► dump.rdb.tmp ─► fsync ─► dump.rdb kept as dump.rdb.1 ─► renamed to dump.rdb ─► fsync
//!   load:   dump.rdb, or the newest older one if there is none; a damaged file stops the start
//! ```
//! The file holds one moment of the whole node: a command, transaction or script is in it with all it did, or not at all. A crash at any step leaves the last good
//! file under its name. The files are RDB files, which Redis and Valkey load too. Only one is written at a time, and
//! only by a node that has data. Each shard group has files of its own. It refuses to know what the records mean: `keyward_engine::dump` does.

mod files;
pub mod reader;
#[cfg(test)]
mod tests;
pub mod writer;

use crate::config::Config;
use crate::node::{Node, now_ms};
use crate::routes::Routes;
use crate::shards::Shards;
use files::Files;
pub use files::SnapshotFile;
use keyward_cluster::GroupId;
use keyward_engine::session::CopyHolds;
use keyward_engine::snapshot::Chosen;
use std::fs::File;
use std::io::{Seek, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, Notify, OwnedMutexGuard};

/// Between two looks at the save rules.
const SCHEDULE_TICK: Duration = Duration::from_secs(1);

/// After a failure the schedule waits this long, as Redis does: a full disk is not helped by hurry.
const RETRY_PAUSE_MS: i64 = 5_000;

const BUSY: &str = "Background save already in progress";

/// What is known about the snapshots of this node.
pub struct Snapshots {
    files: Files,
    /// Held while one is written.
    turn: Arc<Mutex<()>>,
    running: AtomicBool,
    /// One was asked for and has not begun.
    wanted: AtomicBool,
    wake: Notify,
    last_save_ms: AtomicI64,
    last_failure_ms: AtomicI64,
    changes_saved: AtomicU64,
    succeeded: AtomicBool,
    duration_s: AtomicI64,
    longest_pause_us: AtomicU64,
    count: AtomicU64,
    /// Keys of the one that was loaded, and how many more had expired.
    loaded: (AtomicU64, AtomicU64),
}

impl Snapshots {
    /// As configured. Nothing has to be saved yet, so the last save is now, as in Redis.
    pub fn new(config: &Config, group: GroupId) -> Snapshots {
        Snapshots {
            files: Files::new(&config.data_dir, &file_name(&config.dbfilename, group), config.snapshot_keep),
            turn: Arc::new(Mutex::new(())),
            running: AtomicBool::new(false),
            wanted: AtomicBool::new(false),
            wake: Notify::new(),
            last_save_ms: AtomicI64::new(now_ms()),
            last_failure_ms: AtomicI64::new(0),
            changes_saved: AtomicU64::new(0),
            succeeded: AtomicBool::new(true),
            duration_s: AtomicI64::new(-1),
            longest_pause_us: AtomicU64::new(0),
            count: AtomicU64::new(0),
            loaded: (AtomicU64::new(0), AtomicU64::new(0)),
        }
    }

    /// Waits until none is being written, and keeps others from being written until the guard is dropped.
    pub async fn turn(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.turn).lock_owned().await
    }

    /// When the last good one was finished, in milliseconds since 1970; at first, when the node started.
    pub fn last_save_ms(&self) -> i64 {
        self.last_save_ms.load(Ordering::Relaxed)
    }

    /// Asks for one in the background. `false`: one is being written or was asked for already.
    pub fn request(&self) -> bool {
        if self.is_running() || self.wanted.swap(true, Ordering::AcqRel) {
            return false;
        }
        self.wake.notify_one();
        true
    }

    /// How many changes the last good one includes, counted as [`crate::shards::Shards::tally`] does.
    pub fn changes_saved(&self) -> u64 {
        self.changes_saved.load(Ordering::Relaxed)
    }

    /// Whether one is being written, or was asked for and begins soon.
    pub fn is_underway(&self) -> bool {
        self.is_running() || self.wanted.load(Ordering::Acquire)
    }

    /// Whether one is being written.
    pub fn is_running(&self) -> bool {
        self.running.load(Ordering::Acquire)
    }

    /// Whether the last one succeeded; true before the first.
    pub fn last_succeeded(&self) -> bool {
        self.succeeded.load(Ordering::Relaxed)
    }

    /// How long the last one took, in seconds; -1 before the first.
    pub fn last_duration_s(&self) -> i64 {
        self.duration_s.load(Ordering::Relaxed)
    }

    /// How many were written since the start.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// How many keys were loaded at the start, and how many were left out because they had expired.
    pub fn loaded(&self) -> (u64, u64) {
        (self.loaded.0.load(Ordering::Relaxed), self.loaded.1.load(Ordering::Relaxed))
    }

    /// The longest time that the last one kept a shard's keys waiting at a stretch, in microseconds.
    pub fn longest_pause_us(&self) -> u64 {
        self.longest_pause_us.load(Ordering::Relaxed)
    }

    /// The files there are, newest first. Reads the folder.
    pub fn list(&self) -> std::io::Result<Vec<SnapshotFile>> {
        self.files.list()
    }

    fn note(&self, began: Instant, changes: u64, written: &Result<writer::Written, String>) {
        self.duration_s.store(began.elapsed().as_secs() as i64, Ordering::Relaxed);
        self.succeeded.store(written.is_ok(), Ordering::Relaxed);
        match written {
            Ok(written) => {
                self.longest_pause_us.store(written.longest_pause.as_micros() as u64, Ordering::Relaxed);
                self.changes_saved.store(changes, Ordering::Relaxed);
                self.last_save_ms.store(now_ms(), Ordering::Relaxed);
                self.count.fetch_add(1, Ordering::Relaxed);
                tracing::info!(
                    keys = written.keys,
                    bytes = written.bytes,
                    ms = began.elapsed().as_millis() as u64,
                    longest_pause_us = written.longest_pause.as_micros() as u64,
                    "snapshot written"
                );
            }
            Err(error) => {
                self.last_failure_ms.store(now_ms(), Ordering::Relaxed);
                tracing::error!(%error, "the snapshot was not written");
            }
        }
    }

    /// Whether one of the rules (seconds, changes) says that it is time.
    fn is_due(&self, rules: &[(u64, u64)], changes: u64, now_ms: i64) -> bool {
        if !self.last_succeeded() && now_ms - self.last_failure_ms.load(Ordering::Relaxed) < RETRY_PAUSE_MS {
            return false;
        }
        let unsaved = changes.saturating_sub(self.changes_saved());
        let age_s = u64::try_from(now_ms - self.last_save_ms()).unwrap_or(0) / 1000;
        rules.iter().any(|(seconds, least)| unsaved > 0 && unsaved >= *least && age_s >= *seconds)
    }
}

/// The first group's snapshots have the name that is configured, the others' their number in it: `dump-group2.rdb`.
fn file_name(configured: &str, group: GroupId) -> String {
    match (group.0, configured.rsplit_once('.')) {
        (0, _) => configured.to_owned(),
        (number, Some((name, extension))) => format!("{name}-group{number}.{extension}"),
        (number, None) => format!("{configured}-group{number}"),
    }
}

/// Writes one and waits for it; refused while another is being written. The error is a sentence.
pub async fn save(node: &Arc<Node>) -> Result<(), String> {
    let turn = Arc::clone(&node.snapshots.turn).try_lock_owned().map_err(|_| BUSY.to_owned())?;
    run(node, turn).await
}

/// Writes one when the one being written is done, or the copy: whoever asks next waits behind it, so copies that are made one
/// after the other hold it up no longer than one of them takes.
pub async fn save_in_turn(node: &Arc<Node>) -> Result<(), String> {
    let turn = Arc::clone(&node.snapshots.turn).lock_owned().await;
    run(node, turn).await
}

async fn run(node: &Arc<Node>, turn: OwnedMutexGuard<()>) -> Result<(), String> {
    let node = Arc::clone(node);
    let writing = crate::world::aside(move || {
        // Whoever waits may give up waiting; the turn ends with the writing all the same.
        let _turn = turn;
        node.snapshots.running.store(true, Ordering::Release);
        let written = write_if_needed(&node);
        node.snapshots.running.store(false, Ordering::Release);
        written
    });
    writing.await.map_err(|error| format!("the snapshot was not written: {error}"))?
}

fn write_if_needed(node: &Node) -> Result<(), String> {
    if !holds_data(node) {
        node.snapshots.last_save_ms.store(now_ms(), Ordering::Relaxed);
        return Ok(());
    }
    let began = Instant::now();
    let changes = node.shards.tally().changes;
    let mut stand = writer::Stand::default();
    let written = writer::write(&node.shards, &node.snapshots.files, now_ms(), |moment| {
        let besides = at_once(node, moment);
        stand = besides.stand;
        besides
    });
    if written.is_ok() {
        node.replication.saved(stand);
    }
    node.snapshots.note(began, changes, &written);
    written.map(drop)
}

/// The moment that a snapshot shows.
fn at_once(node: &Node, moment: &mut dyn FnMut()) -> writer::Besides {
    // Nothing runs while the corridor is closed: no transaction or script is half done.
    let _closed = node.corridor.close();
    moment();
    // No script runs now, so the machine is free.
    let import = node.import.notes();
    writer::Besides { stand: node.replication.stand(), libraries: node.scripts.library_codes(), import }
}

/// A snapshot for whoever wants a copy: an open file at its beginning, and its length. It lies in the data folder without a
/// name, so it is gone when it is closed. Waits while another one is written. Of several shard groups this node's copies make
/// one file, which shows one moment of this node. The error is a sentence.
pub async fn copy(node: &Arc<Node>, holds: CopyHolds) -> Result<(File, u64), String> {
    // In the order of their numbers: two that want a copy at once do not wait for each other for ever.
    let mut turns = Vec::new();
    for of in node.groups() {
        turns.push(of.snapshots.turn().await);
    }
    let node = Arc::clone(node);
    let writing = crate::world::aside(move || {
        let _turns = turns;
        let mut file = node.snapshots.files.create_nameless().map_err(unwritten)?;
        let sink = |bytes: &[u8]| file.write_all(bytes);
        let written = match holds {
            CopyHolds::Everything if node.groups().len() > 1 => {
                let routes = node.views.load().1.routes.clone();
                let part = |of| part_of_copy(of, routes.clone());
                let groups = node.groups().iter().map(part).collect::<Result<Vec<_>, String>>()?;
                writer::write_groups(&groups, now_ms(), |moment| at_once_in_all(&node, moment), sink)
            }
            CopyHolds::Everything => writer::write_to(&node.shards, now_ms(), |moment| at_once(&node, moment), sink),
            CopyHolds::Functions => writer::write_without_keys(now_ms(), &at_once(&node, &mut || {}), sink),
            CopyHolds::Nothing => writer::write_without_keys(now_ms(), &writer::Besides::default(), sink),
        };
        let written = written.map_err(unwritten)?;
        file.rewind().map_err(unwritten)?;
        Ok((file, written.bytes))
    });
    writing.await.map_err(unwritten)?
}

fn unwritten(error: impl std::fmt::Display) -> String {
    format!("the copy cannot be written: {error}")
}

/// What a copy of all data holds of a group: the keys that are the group's by these routes, not those that lie there because
/// they move. The error is a sentence.
fn part_of_copy(of: &Arc<Node>, routes: Option<Arc<Routes>>) -> Result<(&Shards, Option<Chosen>), String> {
    let (view, group) = (of.views.load().1, of.group);
    if !(view.is_primary() || view.is_in_sync()) || !of.replication.has_data() {
        return Err(format!("this node has no copy in sync of shard group {}: ask another node", group.0));
    }
    let chosen: Chosen =
        Arc::new(move |tenant, key| routes.as_ref().is_none_or(|routes| routes.of_key(tenant, key) == group));
    Ok((&of.shards, Some(chosen)))
}

/// The same moment for all groups. Where the streams are says nothing about the file as a whole.
fn at_once_in_all(node: &Node, moment: &mut dyn FnMut()) -> writer::Besides {
    let besides = at_once(node, moment);
    writer::Besides { stand: writer::Stand::default(), import: Vec::new(), ..besides }
}

/// Whether there is anything to save here: also what has become empty, so that flushed keys stay away.
fn holds_data(node: &Node) -> bool {
    node.views.load().1.is_primary()
        || node.replication.has_data() && node.replication.log.position() > 0
        || (0..node.shards.count())
            .any(|index| node.shards.with(index, |shard| shard.spaces().any(|(_, space)| !space.is_empty())))
}

/// Says to whoever loads that nobody wants it any more.
struct GiveUp(Arc<AtomicBool>);

impl Drop for GiveUp {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Loads what the disk has. The error is a sentence that says what to do. When it is not waited for any longer, it ends at the
/// next key: the process could not end before it.
pub async fn load(node: &Arc<Node>) -> Result<(), String> {
    let node = Arc::clone(node);
    let given_up = Arc::new(AtomicBool::new(false));
    let _given_up = GiveUp(Arc::clone(&given_up));
    let loading = crate::world::aside(move || {
        let limits = node.live.hot().limits.clone();
        let files = &node.snapshots.files;
        let wanted = reader::Wanted {
            limits: &limits,
            databases: node.config.databases,
            now_ms: now_ms(),
            damaged: node.config.load_damaged_snapshot,
            given_up: &given_up,
        };
        let Some(loaded) = reader::load(&node.shards, files, &wanted)? else { return Ok(()) };
        node.replication.loaded(loaded.stand);
        node.snapshots.loaded.0.store(loaded.keys, Ordering::Relaxed);
        node.snapshots.loaded.1.store(loaded.expired, Ordering::Relaxed);
        node.import.restore(&loaded.import)?;
        // What was past its expiry was left out, and a source that is followed may yet speak of it: only whole copies bring that,
        // one from the source, or one from the primary.
        if node.import.is_following() {
            node.replication.cannot_go_on();
        }
        node.import.forget_place();
        node.scripts.restore_codes(&loaded.libraries);
        Ok(())
    });
    loading.await.map_err(|error| format!("the data could not be loaded: {error}"))?
}

/// Writes by the save rules and on request, until the node stops.
pub async fn schedule(node: Arc<Node>) {
    let snapshots = &node.snapshots;
    loop {
        // Running out of time is the usual outcome, and as good a reason to look as a request.
        let _ = tokio::time::timeout(SCHEDULE_TICK, snapshots.wake.notified()).await;
        let asked = snapshots.wanted.load(Ordering::Acquire);
        let rules = node.live.hot().save_rules.clone();
        let due = asked || snapshots.is_due(&rules, node.shards.tally().changes, now_ms());
        if !due || snapshots.is_running() {
            continue;
        }
        // What goes wrong was logged; the next tick tries again.
        let _ = save_in_turn(&node).await;
        snapshots.wanted.store(false, Ordering::Release);
    }
}
