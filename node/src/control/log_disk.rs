//! The only file that knows sled: how Raft's log and vote lie on disk, and what "durable" takes.
//!
//! ```text
//! <dir>/db            sled's log file; `conf` and `blobs/` beside it
//!   tree "log"        key: entry index, part number (both big-endian) -> frame
//!   tree "meta"       identity · vote · purged · committed            -> frame
//! frame = CRC-32 of key and body, body;   body of a part = number of parts, up to 4 KB of the entry
//! ```
//!
//! sled's own `flush` hands the pages to the kernel and no further (it calls `sync_file_range`, never `fsync`), so
//! every flush here is followed by an fdatasync of `db` through a second descriptor. Values stay below 4 KB because sled
//! moves large pages to blob files that nobody syncs; `blobs/` must be empty, and that is checked at every start.
//!
//! What cannot be read back exactly is refused with a sentence, never repaired by guessing: a voter that forgets what
//! it promised can undo what the cluster acknowledged.

use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

pub use super::disk_error::{DiskError, SyncHook, fdatasync};

/// Bytes of an entry per sled value, with its frame below 4 KB. A leaf of sled's tree holds up to 20 values before it is
/// split, and must stay well below 128 KB, from where on sled moves it to a blob file.
const PART_BYTES: usize = 4 * 1024 - 64;

/// sled's page cache. The log is short and read from memory; this only spares re-reading pages while writing.
const CACHE_BYTES: u64 = 16 * 1024 * 1024;

/// What is kept beside the log, under its own key each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meta {
    Identity,
    Vote,
    Purged,
    Committed,
}

impl Meta {
    fn key(self) -> &'static [u8] {
        match self {
            Self::Identity => b"identity",
            Self::Vote => b"vote",
            Self::Purged => b"purged",
            Self::Committed => b"committed",
        }
    }
}

/// An open store. All writing happens on one thread; reading may happen on any.
pub(crate) struct LogDisk {
    db: sled::Db,
    log: sled::Tree,
    meta: sled::Tree,
    file: File,
    sync: SyncHook,
}

impl LogDisk {
    /// Opens or creates the store. Panics of sled on damaged files become the same refusal as its errors.
    pub(crate) fn open(dir: &Path, sync: SyncHook) -> Result<Self, DiskError> {
        let io = |error| DiskError::Io(dir.to_owned(), error);
        let fresh = !dir.join("db").exists();
        super::private_folder(dir).map_err(io)?;
        let opened = catch_unwind(AssertUnwindSafe(|| {
            let db = sled::Config::new().path(dir).flush_every_ms(None).cache_capacity(CACHE_BYTES).open()?;
            let (log, meta) = (db.open_tree("log")?, db.open_tree("meta")?);
            Ok::<_, sled::Error>((db, log, meta))
        }));
        let (db, log, meta) = match opened {
            Ok(Ok(trees)) => trees,
            Ok(Err(error)) => return Err(refuse_open(dir, error)),
            Err(_) => return Err(damaged(dir, "its files cannot be opened")),
        };
        let file = File::open(dir.join("db")).map_err(io)?;
        let disk = Self { db, log, meta, file, sync };
        if fresh {
            disk.flush().map_err(io)?;
            sync_new_files(dir).map_err(io)?;
        }
        no_blobs(dir)?;
        Ok(disk)
    }

    /// Makes everything written so far durable. After an error nothing may be acknowledged any more: the kernel may
    /// have dropped the pages, and a second fsync would report success.
    pub(crate) fn flush(&self) -> io::Result<()> {
        self.db.flush().map_err(sled_io)?;
        (self.sync)(&self.file)
    }

    /// Writes entries, each split into parts; either all of them or none survive a crash.
    pub(crate) fn put_entries(&self, entries: &[(u64, Vec<u8>)]) -> io::Result<()> {
        let mut batch = sled::Batch::default();
        for (index, bytes) in entries {
            let parts = bytes.chunks(PART_BYTES);
            let count = u16::try_from(parts.len()).map_err(|_| too_large(*index))?;
            for (part, chunk) in (0..count).zip(parts) {
                let key = part_key(*index, part);
                let mut body = Vec::with_capacity(2 + chunk.len());
                body.extend_from_slice(&count.to_be_bytes());
                body.extend_from_slice(chunk);
                batch.insert(&key, frame(&key, &body));
            }
        }
        self.log.apply_batch(batch).map_err(sled_io)
    }

    /// One entry as it was written; `None` if the log does not hold it.
    pub(crate) fn entry(&self, index: u64) -> io::Result<Option<Vec<u8>>> {
        let mut bytes = Vec::new();
        let mut expected = None;
        for (at, item) in self.log.scan_prefix(index.to_be_bytes()).enumerate() {
            let (key, value) = item.map_err(sled_io)?;
            let body = unframe(&key, &value).ok_or_else(|| bad_entry(index))?;
            let (count, chunk) = body.split_first_chunk::<2>().ok_or_else(|| bad_entry(index))?;
            let count = usize::from(u16::from_be_bytes(*count));
            let in_order = key.as_ref() == part_key(index, at as u16);
            if !in_order || *expected.get_or_insert((count, 0)) != (count, at) {
                return Err(bad_entry(index));
            }
            expected = Some((count, at + 1));
            bytes.extend_from_slice(chunk);
        }
        match expected {
            None => Ok(None),
            Some((count, found)) if count == found => Ok(Some(bytes)),
            Some(_) => Err(bad_entry(index)),
        }
    }

    /// The first and the last index in the log.
    pub(crate) fn bounds(&self) -> io::Result<Option<(u64, u64)>> {
        let index = |item: Option<(sled::IVec, sled::IVec)>| item.and_then(|(key, _)| index_of(&key));
        let first = index(self.log.first().map_err(sled_io)?);
        let last = index(self.log.last().map_err(sled_io)?);
        Ok(first.zip(last))
    }

    /// Removes entries after `keep`, from the end backwards, so that no crash leaves a hole.
    pub(crate) fn remove_after(&self, keep: Option<u64>) -> io::Result<()> {
        let from = keep.map_or(0, |keep| keep.saturating_add(1));
        let mut batch = sled::Batch::default();
        for key in self.log.range(from.to_be_bytes()..).keys().rev() {
            batch.remove(key.map_err(sled_io)?);
        }
        self.log.apply_batch(batch).map_err(sled_io)
    }

    /// Removes entries up to and including `upto`. The caller has made [`Meta::Purged`] durable before.
    pub(crate) fn remove_upto(&self, upto: u64) -> io::Result<()> {
        let end = upto.saturating_add(1).to_be_bytes();
        let mut batch = sled::Batch::default();
        for key in self.log.range(..end).keys() {
            batch.remove(key.map_err(sled_io)?);
        }
        self.log.apply_batch(batch).map_err(sled_io)
    }

    pub(crate) fn put_meta(&self, meta: Meta, body: &[u8]) -> io::Result<()> {
        self.meta.insert(meta.key(), frame(meta.key(), body)).map(drop).map_err(sled_io)
    }

    pub(crate) fn meta(&self, meta: Meta) -> io::Result<Option<Vec<u8>>> {
        let Some(value) = self.meta.get(meta.key()).map_err(sled_io)? else { return Ok(None) };
        let body =
            unframe(meta.key(), &value).ok_or_else(|| invalid(format!("the record {meta:?} fails its checksum")))?;
        Ok(Some(body.to_vec()))
    }
}

/// The refusal for a folder whose content contradicts itself.
pub(crate) fn damaged(dir: &Path, what: impl Into<String>) -> DiskError {
    DiskError::Damaged { path: dir.to_owned(), what: what.into() }
}

fn refuse_open(dir: &Path, error: sled::Error) -> DiskError {
    match error {
        // sled reports a held lock as an error of kind Other whose text names the lock.
        sled::Error::Io(error) if error.to_string().contains("lock") => DiskError::InUse(dir.to_owned()),
        sled::Error::Io(error) if error.kind() != io::ErrorKind::Other => DiskError::Io(dir.to_owned(), error),
        error => damaged(dir, error.to_string()),
    }
}

fn sync_new_files(dir: &Path) -> io::Result<()> {
    for name in ["conf", "db", "blobs", "."] {
        let path = dir.join(name);
        if path.exists() {
            File::open(path)?.sync_all()?;
        }
    }
    match dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => File::open(parent)?.sync_all(),
        None => File::open(".")?.sync_all(),
    }
}

fn no_blobs(dir: &Path) -> Result<(), DiskError> {
    let Ok(mut blobs) = std::fs::read_dir(dir.join("blobs")) else { return Ok(()) };
    match blobs.next() {
        None => Ok(()),
        Some(_) => Err(damaged(dir, "blobs/ is not empty")),
    }
}

fn part_key(index: u64, part: u16) -> [u8; 10] {
    let mut key = [0; 10];
    key[..8].copy_from_slice(&index.to_be_bytes());
    key[8..].copy_from_slice(&part.to_be_bytes());
    key
}

fn index_of(key: &[u8]) -> Option<u64> {
    key.first_chunk::<8>().map(|index| u64::from_be_bytes(*index))
}

fn frame(key: &[u8], body: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(4 + body.len());
    value.extend_from_slice(&checksum(key, body).to_be_bytes());
    value.extend_from_slice(body);
    value
}

fn unframe<'a>(key: &[u8], value: &'a [u8]) -> Option<&'a [u8]> {
    let (crc, body) = value.split_first_chunk::<4>()?;
    (u32::from_be_bytes(*crc) == checksum(key, body)).then_some(body)
}

/// Covers the key too: a value that turns up under another key is as wrong as a flipped bit.
fn checksum(key: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(body);
    hasher.finalize()
}

fn sled_io(error: sled::Error) -> io::Error {
    match error {
        sled::Error::Io(error) => error,
        error => invalid(error.to_string()),
    }
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

fn bad_entry(index: u64) -> io::Error {
    invalid(format!("entry {index} fails its checksum"))
}

fn too_large(index: u64) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("entry {index} is too large to be written"))
}
