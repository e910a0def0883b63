//! Writes the keys of all shards, as they were at one moment, into a file while they are in use. It knows neither
//! schedule nor names of files.
//!
//! ```text
//!   the moment    all shards locked, for as long as it takes to say so to each
//!   then          a slice of a shard ─► records ─► file; a pause; the next slice …
//!                 and what writes had to keep of the other shards, a few of them in turn
//! ```
//! A slice locks one shard for [`SLICE`] at most, unless a single value takes longer; commands wait for no disk. What is
//! in memory besides the data is one slice, and what writes kept since this shard had its last turn: see
//! `keyward_engine::snapshot`.

use super::files::Files;
use crate::shards::Shards;
use keyward_engine::dump::{self, Checksum};
use keyward_engine::keyspace::UnixMillis;
use keyward_engine::snapshot::{Chosen, Taken};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::{Duration, Instant};

/// A shard is locked no longer than this at a stretch.
const SLICE: Duration = Duration::from_micros(100);

/// After each slice: whoever sleeps now and then is let in promptly, and not put aside while he holds a lock.
const PAUSE: Duration = Duration::from_micros(50);

/// Shards that hand out what was kept, after each slice: all of them have their turn in some milliseconds.
const KEPT_PER_SLICE: u32 = 4;

/// Written to the file at a time, in bytes.
const WRITE_BYTES: usize = 256 << 10;

/// What was written.
#[derive(Clone, Copy, Debug, Default)]
pub struct Written {
    /// Keys in the file.
    pub keys: u64,
    /// Its size.
    pub bytes: u64,
    /// The longest time a shard was locked.
    pub longest_pause: Duration,
}

/// Writes a snapshot and makes it the newest; on any error the newest stays what it was. Keys past their expiry are
/// left out. The moment is when `at_once` calls what it is given; it sees to it that nothing is half done then. The
/// error is a sentence.
pub(super) fn write(
    shards: &Shards,
    files: &Files,
    now_ms: UnixMillis,
    at_once: impl FnOnce(&mut dyn FnMut()) -> Besides,
) -> Result<Written, String> {
    let written = write_file(shards, files, now_ms, at_once);
    if written.is_err() {
        files.discard();
    }
    written.map_err(|error| format!("{} cannot be written: {error}", files.path_of_newest().display()))
}

fn write_file(
    shards: &Shards,
    files: &Files,
    now_ms: UnixMillis,
    at_once: impl FnOnce(&mut dyn FnMut()) -> Besides,
) -> io::Result<Written> {
    let mut file = files.create()?;
    let written = write_to(shards, now_ms, at_once, |bytes| file.write_all(bytes))?;
    files.publish(&file)?;
    Ok(written)
}

/// Where in the stream of effects a moment is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stand {
    /// The epoch in which the newest effect was made.
    pub epoch: u64,
    /// Where the effects end.
    pub position: u64,
}

/// What a file holds besides keys, as of the same moment.
#[derive(Clone, Debug, Default)]
pub struct Besides {
    /// Where in the stream of effects it is.
    pub stand: Stand,
    /// The texts of the libraries of functions.
    pub libraries: Vec<Vec<u8>>,
    /// What is known of an import.
    pub import: Vec<Vec<u8>>,
}

/// Writes one moment of all keys as a file, piece by piece, into `sink`.
pub fn write_to(
    shards: &Shards,
    now_ms: UnixMillis,
    at_once: impl FnOnce(&mut dyn FnMut()) -> Besides,
    sink: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<Written> {
    write_groups(&[(shards, None)], now_ms, at_once, sink)
}

/// The same for several shard groups, of each the keys that were chosen.
pub fn write_groups(
    groups: &[(&Shards, Option<Chosen>)],
    now_ms: UnixMillis,
    at_once: impl FnOnce(&mut dyn FnMut()) -> Besides,
    sink: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<Written> {
    let mut output = Output { sink, checksum: Checksum::new(), written: Written::default() };
    let mut buffer = Vec::new();
    let mut moments = Vec::with_capacity(groups.len());
    let besides = at_once(&mut || {
        moments.extend(groups.iter().map(|(shards, only)| Moment::begin(shards, now_ms, only.as_ref())));
    });
    begin(&mut buffer, &sizes_of(&moments), now_ms, &besides, moments.iter().any(|moment| moment.fields_expire));
    for at in 0..moments.len() {
        while moments[at].index < moments[at].shards.count() {
            moments[at].slice(&mut buffer);
            moments[at..].iter_mut().for_each(|moment| moment.kept(&mut buffer));
            if buffer.len() >= WRITE_BYTES {
                output.flush(&mut buffer)?;
            }
            std::thread::sleep(PAUSE);
        }
    }
    output.written.keys = moments.iter().map(|moment| moment.taken.keys).sum();
    output.written.longest_pause = moments.iter().map(|moment| moment.longest_pause).max().unwrap_or_default();
    let mut so_far = output.checksum;
    so_far.update(&buffer);
    dump::end(&mut buffer, so_far);
    output.flush(&mut buffer)?;
    Ok(output.written)
}

fn sizes_of(moments: &[Moment<'_>]) -> Sizes {
    let mut all = Sizes::new();
    for (database, (keys, expiring)) in moments.iter().flat_map(|moment| &moment.sizes) {
        let sum = all.entry(*database).or_default();
        *sum = (sum.0 + keys, sum.1 + expiring);
    }
    all
}

/// Writes a file of what there is besides keys.
pub fn write_without_keys(
    now_ms: UnixMillis,
    besides: &Besides,
    sink: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<Written> {
    let mut output = Output { sink, checksum: Checksum::new(), written: Written::default() };
    let mut buffer = Vec::new();
    begin(&mut buffer, &Sizes::new(), now_ms, besides, false);
    let mut so_far = output.checksum;
    so_far.update(&buffer);
    dump::end(&mut buffer, so_far);
    output.flush(&mut buffer)?;
    Ok(output.written)
}

/// Keys and expiring keys of each database of the shared keyspace.
type Sizes = BTreeMap<u32, (u64, u64)>;

/// All shards as they were, and how far they were seen.
struct Moment<'a> {
    shards: &'a Shards,
    sizes: Sizes,
    /// Only a file that says so at its beginning may hold fields that expire.
    fields_expire: bool,
    /// The shard being seen; those below are done.
    index: u32,
    /// The next shard to hand out what it kept.
    next_kept: u32,
    taken: Taken,
    longest_pause: Duration,
}

impl<'a> Moment<'a> {
    fn begin(shards: &'a Shards, now_ms: UnixMillis, only: Option<&Chosen>) -> Moment<'a> {
        let mut sizes = Sizes::new();
        let mut fields_expire = false;
        let began = Instant::now();
        shards.with_all_locked(|shard| {
            shard.begin_snapshot(now_ms, only);
            fields_expire |= shard.has_expiring_fields();
            let shared = shard.spaces().filter(|(id, space)| !id.tenant.is_namespace() && !space.is_empty());
            for (id, space) in shared {
                let (keys, expiring) = sizes.entry(id.database).or_default();
                *keys += space.len() as u64;
                *expiring += space.expiring_len() as u64;
            }
        });
        let (taken, longest_pause) = (Taken::default(), began.elapsed());
        Moment { shards, sizes, fields_expire, index: 0, next_kept: 0, taken, longest_pause }
    }

    /// The next slice of the shard that is being seen.
    fn slice(&mut self, buffer: &mut Vec<u8>) {
        let mut locked = Duration::ZERO;
        let done = self.shards.with(self.index, |shard| {
            let began = Instant::now();
            let done = shard.snapshot_slice(buffer, &mut self.taken, &mut || began.elapsed() < SLICE);
            locked = began.elapsed();
            done
        });
        self.longest_pause = self.longest_pause.max(locked);
        self.shards.dropper.free(&mut self.taken.garbage);
        self.index += u32::from(done);
    }

    /// What writes kept of shards that are yet to be seen.
    fn kept(&mut self, buffer: &mut Vec<u8>) {
        for _ in 0..KEPT_PER_SLICE {
            self.next_kept = (self.next_kept + 1) % self.shards.count();
            if self.next_kept >= self.index {
                self.shards.with(self.next_kept, |shard| shard.snapshot_kept(buffer, &mut self.taken));
            }
        }
    }
}

impl Drop for Moment<'_> {
    /// However the writing ended: shards must not go on keeping what nobody fetches.
    fn drop(&mut self) {
        let mut nowhere = Vec::new();
        while self.index < self.shards.count() {
            self.slice(&mut nowhere);
            nowhere.clear();
        }
    }
}

struct Output<S> {
    sink: S,
    checksum: Checksum,
    written: Written,
}

impl<S: FnMut(&[u8]) -> io::Result<()>> Output<S> {
    fn flush(&mut self, buffer: &mut Vec<u8>) -> io::Result<()> {
        self.checksum.update(buffer);
        (self.sink)(buffer)?;
        self.written.bytes += buffer.len() as u64;
        buffer.clear();
        Ok(())
    }
}

fn begin(out: &mut Vec<u8>, sizes: &Sizes, now_ms: UnixMillis, besides: &Besides, fields_expire: bool) {
    let stand = besides.stand;
    let (seconds, epoch, position) = ((now_ms / 1000).to_string(), stand.epoch.to_string(), stand.position.to_string());
    let version = ("keyward-ver", env!("CARGO_PKG_VERSION"));
    let stand = [(dump::EPOCH_FIELD, epoch.as_str()), (dump::POSITION_FIELD, position.as_str())];
    let notes = [version, ("redis-bits", "64"), ("ctime", &seconds), stand[0], stand[1]];
    dump::begin(out, fields_expire, &notes);
    dump::libraries(out, &besides.libraries);
    dump::import_notes(out, &besides.import);
    for (database, (keys, expiring)) in sizes {
        dump::sizes(out, *database, *keys, *expiring);
    }
}
