//! Loads a snapshot into empty shards. It knows no record's form and repairs nothing: what cannot be loaded is told with
//! file, place and what to do.

use super::files::Files;
use super::writer::Stand;
use crate::shards::Shards;
use keyward_engine::dump::{FileReader, NotRead, Record, Source};
use keyward_engine::effects::Effects;
use keyward_engine::eviction::Usage;
use keyward_engine::keyspace::{CallContext, Keys, Taken, UnixMillis};
use keyward_engine::types::Limits;
use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Read from the file at a time, in bytes.
const READ_AHEAD_BYTES: usize = 256 << 10;

/// A file as the engine wants to read it.
struct FileSource {
    file: BufReader<File>,
    left: u64,
}

impl Source for FileSource {
    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), NotRead> {
        self.file.read_exact(buffer).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => NotRead::End,
            _ => NotRead::Failed(error.to_string()),
        })?;
        self.left = self.left.saturating_sub(buffer.len() as u64);
        Ok(())
    }

    fn left(&self) -> u64 {
        self.left
    }
}

/// What was loaded.
#[derive(Default)]
pub struct Loaded {
    /// Keys.
    pub keys: u64,
    /// Keys left out because they had expired.
    pub expired: u64,
    /// The texts of the libraries of functions.
    pub libraries: Vec<Vec<u8>>,
    /// What is known of an import.
    pub import: Vec<Vec<u8>>,
    /// Where in the stream of effects it was made.
    pub stand: Stand,
    /// There is more in the file, behind the damage.
    pub damaged: bool,
}

/// How a file is loaded.
pub struct Wanted<'a> {
    /// When values change their encoding.
    pub limits: &'a Limits,
    /// How many databases there are.
    pub databases: u32,
    /// The wall clock.
    pub now_ms: UnixMillis,
    /// A damaged file is loaded up to the damage.
    pub damaged: bool,
    /// Set when nobody wants the rest.
    pub given_up: &'a AtomicBool,
}

/// Loads the newest file; `None` if there is none. The error is a sentence that says what to do.
pub(super) fn load(shards: &Shards, files: &Files, wanted: &Wanted<'_>) -> Result<Option<Loaded>, String> {
    let (newest, older) = files.newest();
    let Some(path) = newest else { return Ok(None) };
    if path != files.path_of_newest() {
        tracing::warn!(file = %path.display(), "the newest snapshot is missing, so an older one is loaded");
    }
    let began = Instant::now();
    let without = older.map_or("without data".to_owned(), |older| format!("with the older {}", older.display()));
    let loaded = load_file(shards, &path, wanted).map_err(|error| {
        format!("the data in {} cannot be loaded {error}, or move it away to start {without}", path.display())
    })?;
    if loaded.damaged {
        // The next saves push the file out, and what is behind the damage may still be rescued by hand.
        let kept = files.keep_damaged(&path, wanted.now_ms / 1000).map_err(|error| {
            let shown = path.display();
            format!("{shown} is damaged, and cannot be kept beside what is saved from now on ({error}): make room, or put it elsewhere")
        })?;
        tracing::error!(file = %path.display(), kept = %kept.display(), "the damaged snapshot is kept; remove it when it is needed no more");
    }
    tracing::info!(
        file = %path.display(),
        keys = loaded.keys,
        expired = loaded.expired,
        ms = began.elapsed().as_millis() as u64,
        "data loaded"
    );
    Ok(Some(loaded))
}

fn load_file(shards: &Shards, path: &Path, wanted: &Wanted<'_>) -> Result<Loaded, String> {
    let unreadable = |error: std::io::Error| format!("({error}): give this process the right to read it");
    let file = File::open(path).map_err(unreadable)?;
    let left = file.metadata().map_err(unreadable)?.len();
    let source = FileSource { file: BufReader::with_capacity(READ_AHEAD_BYTES, file), left };
    load_from(shards, source, &path.display().to_string(), wanted)
}

/// Loads what `source` holds; `name` is for the log. The error is the end of a sentence, with advice.
pub fn load_from(shards: &Shards, source: impl Source, name: &str, wanted: &Wanted<'_>) -> Result<Loaded, String> {
    let Wanted { limits, databases, now_ms, damaged, given_up } = *wanted;
    let hint = |error: keyward_engine::dump::FileError| {
        let advice = if error.is_refusal() {
            "remove that from its origin and save again"
        } else {
            "put an intact copy in its place, set `load-damaged-snapshot` to load what comes before"
        };
        format!("({error}): {advice}")
    };
    let mut reader = FileReader::open(source, limits).map_err(hint)?;
    let mut target = Target { shards, limits, databases, now_ms, effects: Effects::new() };
    let mut loaded = Loaded::default();
    loop {
        if given_up.load(Ordering::Relaxed) {
            return Err("(the node is stopping): start it again".to_owned());
        }
        let record = match reader.next() {
            Ok(Some(record)) => record,
            Ok(None) => break,
            Err(error) if damaged && !error.is_refusal() => {
                tracing::error!(file = %name, %error, keys = loaded.keys, "the data is damaged: loaded up to there, as told");
                loaded.damaged = true;
                return Ok(loaded);
            }
            Err(error) => return Err(hint(error)),
        };
        loaded.libraries.append(&mut reader.take_libraries());
        loaded.import.append(&mut reader.take_import_notes());
        loaded.stand = stand(&reader);
        if record.space.database >= databases {
            let database = record.space.database;
            return Err(format!("(it has keys in database {database}): set `databases` to more than {database}"));
        }
        if record.expires_at.is_some_and(|at| at <= now_ms) {
            loaded.expired += 1;
            continue;
        }
        loaded.keys += 1;
        target.put(record);
    }
    loaded.libraries.append(&mut reader.take_libraries());
    loaded.import.append(&mut reader.take_import_notes());
    loaded.stand = stand(&reader);
    let skipped = reader.skipped();
    if skipped.module_notes + skipped.empty > 0 {
        tracing::warn!(
            module_notes = skipped.module_notes,
            empty_keys = skipped.empty,
            "the file holds what this version does not keep"
        );
    }
    Ok(loaded)
}

fn stand<S: Source>(reader: &FileReader<'_, S>) -> Stand {
    let (epoch, position) = reader.stand();
    Stand { epoch, position }
}

/// Where records go.
struct Target<'a> {
    shards: &'a Shards,
    limits: &'a Limits,
    databases: u32,
    now_ms: UnixMillis,
    effects: Effects,
}

impl Target<'_> {
    fn put(&mut self, record: Record) {
        let layout = self.shards.layout();
        let place = layout.place(&record.key);
        let context = CallContext {
            layout,
            space: record.space,
            now: self.now_ms,
            limits: self.limits,
            // Only commands that grow strings look at this.
            value_bytes_max: u64::MAX,
            room_bytes: u64::MAX,
            databases: self.databases,
            random: 0,
            no_touch: false,
            usage: Usage::default(),
            keeps_expired: false,
            patience: None,
        };
        self.shards.with(place.shard, |shard| {
            let taken = Taken { value: record.value, expires_at: record.expires_at };
            Keys::one(place.shard, shard, context, &mut self.effects).put_taken(&record.key, taken);
        });
    }
}
