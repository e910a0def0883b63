//! A simulated disk for Raft's log and vote: the place of `node/src/control/log_disk.rs`. What was flushed survives everything;
//! what was not is lost when the power fails, and kept when only the process ends, as a kernel keeps it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

pub use super::disk_error::{DiskError, SyncHook, fdatasync};

/// What is kept beside the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Meta {
    Identity,
    Vote,
    Purged,
    Committed,
}

#[derive(Clone, Default)]
struct Image {
    entries: BTreeMap<u64, Vec<u8>>,
    meta: BTreeMap<Meta, Vec<u8>>,
}

#[derive(Default)]
struct Platter {
    written: Image,
    durable: Image,
    /// What somebody was told to be durable.
    answered: Image,
    /// How often a vote was written.
    votes: u64,
}

thread_local! {
    static DISKS: RefCell<BTreeMap<PathBuf, Arc<Mutex<Platter>>>> = const { RefCell::new(BTreeMap::new()) };
}

/// How often a vote was written below `dir`.
pub fn votes(dir: &Path) -> u64 {
    DISKS.with_borrow(|disks| {
        let below = disks.iter().filter(|(path, _)| path.starts_with(dir));
        below.map(|(_, platter)| platter.lock().votes).sum()
    })
}

/// The power fails: what was not flushed below `dir` is lost. The error says which of that somebody counts on.
pub fn power_fails(dir: &Path) -> Result<(), String> {
    DISKS.with_borrow(|disks| {
        for (_, platter) in disks.iter().filter(|(path, _)| path.starts_with(dir)) {
            let mut platter = platter.lock();
            let (answered, durable) = (&platter.answered, &platter.durable);
            if answered.meta.get(&Meta::Vote) != durable.meta.get(&Meta::Vote) {
                return Err("a vote was given, and is not on the disk".to_owned());
            }
            if let Some(lost) = answered.entries.keys().find(|index| !durable.entries.contains_key(index)) {
                return Err(format!("entry {lost} was acknowledged, and is not on the disk"));
            }
            platter.written = platter.durable.clone();
        }
        Ok(())
    })
}

/// An open store.
pub(crate) struct LogDisk(Arc<Mutex<Platter>>);

impl LogDisk {
    pub(crate) fn open(dir: &Path, _: SyncHook) -> Result<Self, DiskError> {
        std::fs::create_dir_all(dir).map_err(|error| DiskError::Io(dir.to_owned(), error))?;
        Ok(LogDisk(DISKS.with_borrow_mut(|disks| Arc::clone(disks.entry(dir.to_owned()).or_default()))))
    }

    pub(crate) fn flush(&self) -> io::Result<()> {
        if !planted!(DropSync) {
            let mut platter = self.0.lock();
            platter.durable = platter.written.clone();
        }
        Ok(())
    }

    /// Everybody who waited was told that it is durable.
    pub(crate) fn answered(&self) {
        let mut platter = self.0.lock();
        platter.answered = platter.written.clone();
    }

    pub(crate) fn put_entries(&self, entries: &[(u64, Vec<u8>)]) -> io::Result<()> {
        self.0.lock().written.entries.extend(entries.iter().cloned());
        Ok(())
    }

    pub(crate) fn entry(&self, index: u64) -> io::Result<Option<Vec<u8>>> {
        Ok(self.0.lock().written.entries.get(&index).cloned())
    }

    pub(crate) fn bounds(&self) -> io::Result<Option<(u64, u64)>> {
        let platter = self.0.lock();
        let keys = || platter.written.entries.keys().copied();
        Ok(keys().next().zip(keys().next_back()))
    }

    pub(crate) fn remove_after(&self, keep: Option<u64>) -> io::Result<()> {
        let from = keep.map_or(0, |keep| keep.saturating_add(1));
        self.0.lock().written.entries.split_off(&from);
        Ok(())
    }

    pub(crate) fn remove_upto(&self, upto: u64) -> io::Result<()> {
        let mut platter = self.0.lock();
        platter.written.entries = platter.written.entries.split_off(&upto.saturating_add(1));
        Ok(())
    }

    pub(crate) fn put_meta(&self, meta: Meta, body: &[u8]) -> io::Result<()> {
        let mut platter = self.0.lock();
        platter.votes += u64::from(meta == Meta::Vote);
        platter.written.meta.insert(meta, body.to_vec());
        Ok(())
    }

    pub(crate) fn meta(&self, meta: Meta) -> io::Result<Option<Vec<u8>>> {
        Ok(self.0.lock().written.meta.get(&meta).cloned())
    }
}

/// As production's.
pub(crate) fn damaged(dir: &Path, what: impl Into<String>) -> DiskError {
    DiskError::Damaged { path: dir.to_owned(), what: what.into() }
}
