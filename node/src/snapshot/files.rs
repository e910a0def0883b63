//! The names of snapshots and the order of steps that makes one count: a crash between any two leaves a good newest file.
//! Knows no record.
//!
//! `dump.rdb` is the newest, `dump.rdb.1` the one before, and so on; `dump.rdb.tmp` is being written and never read;
//! `dump.rdb.damaged-1764000000` was damaged when it was loaded, and is for people.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// A snapshot on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotFile {
    /// Name within the data folder.
    pub name: String,
    /// Size.
    pub bytes: u64,
    /// When it was finished, in milliseconds since 1970.
    pub saved_ms: u64,
}

/// Where snapshots lie, and how many are kept.
#[derive(Clone, Debug)]
pub(super) struct Files {
    folder: PathBuf,
    name: String,
    keep: u32,
}

impl Files {
    pub(super) fn new(folder: &Path, name: &str, keep: u32) -> Files {
        Files { folder: folder.to_owned(), name: name.to_owned(), keep: keep.max(1) }
    }

    /// The newest has age 0.
    fn path(&self, age: u32) -> PathBuf {
        self.folder.join(if age == 0 { self.name.clone() } else { format!("{}.{age}", self.name) })
    }

    fn temporary(&self) -> PathBuf {
        self.folder.join(format!("{}.tmp", self.name))
    }

    /// Opens a new file to be written; one that was left unfinished is overwritten.
    pub(super) fn create(&self) -> io::Result<File> {
        fs::create_dir_all(&self.folder)?;
        // For the eyes of this process' user: it holds everybody's data.
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(self.temporary())
    }

    /// Opens a new file without a name: it is gone when it is closed, whatever happens.
    pub(super) fn create_nameless(&self) -> io::Result<File> {
        fs::create_dir_all(&self.folder)?;
        let path = self.folder.join(format!("{}.copy", self.name));
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        fs::remove_file(&path)?;
        Ok(file)
    }

    /// Makes the finished file the newest. It is on disk under its name when this returns.
    pub(super) fn publish(&self, file: &File) -> io::Result<()> {
        file.sync_all()?;
        self.shift()?;
        fs::rename(self.temporary(), self.path(0))?;
        File::open(&self.folder)?.sync_all()
    }

    /// Gives the unfinished file up.
    pub(super) fn discard(&self) {
        // If it cannot be removed it will be overwritten.
        let _ = fs::remove_file(self.temporary());
    }

    /// Gives every kept file its next older name. The newest keeps its own name besides, until it is replaced: at no
    /// moment is there none.
    fn shift(&self) -> io::Result<()> {
        for age in (1..self.keep.saturating_sub(1)).rev() {
            ignore_missing(fs::rename(self.path(age), self.path(age + 1)))?;
        }
        if self.keep > 1 {
            let (newest, older) = (self.path(0), self.path(1));
            ignore_missing(fs::remove_file(&older))?;
            match fs::hard_link(&newest, &older) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                // A file system without hard links. If the process dies before the new file has its name, the
                // next start finds the newest file under its older name.
                Err(_) => fs::rename(&newest, &older)?,
                Ok(()) => {}
            }
        }
        Ok(())
    }

    /// Gives a damaged file a further name that no save touches, and returns that. One that has such a name keeps it.
    pub(super) fn keep_damaged(&self, path: &Path, now_s: i64) -> io::Result<PathBuf> {
        let prefix = format!("{}.damaged-", self.name);
        let inode = fs::metadata(path)?.ino();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(&prefix) && entry.metadata()?.ino() == inode {
                return Ok(entry.path());
            }
        }
        let kept = self.folder.join(format!("{prefix}{now_s}"));
        match fs::hard_link(path, &kept) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(error),
            // A file system without hard links.
            Err(_) => {
                fs::copy(path, &kept)?;
                File::open(&kept)?.sync_all()?;
            }
        }
        File::open(&self.folder)?.sync_all()?;
        Ok(kept)
    }

    /// The file to load, and the one behind it.
    pub(super) fn newest(&self) -> (Option<PathBuf>, Option<PathBuf>) {
        let mut found = (0..self.keep).map(|age| self.path(age)).filter(|path| path.is_file());
        (found.next(), found.next())
    }

    /// The path that is looked at first.
    pub(super) fn path_of_newest(&self) -> PathBuf {
        self.path(0)
    }

    pub(super) fn list(&self) -> io::Result<Vec<SnapshotFile>> {
        let mut files = Vec::new();
        for path in (0..self.keep).map(|age| self.path(age)) {
            let metadata = match fs::metadata(&path) {
                Ok(metadata) => metadata,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let saved = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
            files.push(SnapshotFile { name, bytes: metadata.len(), saved_ms: saved.as_millis() as u64 });
        }
        Ok(files)
    }
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
