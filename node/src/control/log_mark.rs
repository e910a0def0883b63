//! How far the log had got and whom this node had voted for, in a small file beside the log.
//!
//! A damaged log can open as a shorter one, with every checksum right: whatever stood behind the damage is gone without a
//! trace. A voter that lost entries it had acknowledged, or a vote it had given, can undo what the cluster decided. This
//! file is the trace.
//!
//! ```text
//! after each flush of the log   mark := what the log now holds      written, not synced
//! before entries are removed    mark := what will be left           written and synced
//! ```
//!
//! So the mark never runs ahead of the log: a killed process leaves it exact, a power cut can only leave it older, and
//! an older mark merely sees less. It knows nothing of entries but their count, and nothing of sled.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::log_disk::{DiskError, damaged};

/// How the file opens.
const MAGIC: &[u8; 8] = b"kwmark1\n";

/// Magic, three numbers, checksum: within one sector, so that a write is whole or absent.
const FILE_BYTES: usize = 8 + 3 * 8 + 4;

/// What a log holds, as far as it must never go back by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mark {
    /// One past the last entry, counting those that a snapshot has replaced; 0 for an empty log.
    pub(crate) end: u64,
    /// Term and candidate of the last vote; two zeros before the first.
    pub(crate) vote: (u64, u64),
}

/// The file. Held by the writer of the log alone.
pub(crate) struct MarkFile {
    file: File,
    written: Mark,
}

impl MarkFile {
    /// Opens the mark of the log in `dir` and holds the log against it. `held` is what the log was found to hold, `None`
    /// on a fresh disk, where a mark is a leftover of a removed log. A log from before there were marks gets one.
    pub(crate) fn open(dir: &Path, held: Option<Mark>) -> Result<Self, DiskError> {
        let path = path_of(dir);
        let io = |error| DiskError::Io(path.clone(), error);
        let found = match std::fs::read(&path) {
            Ok(bytes) => {
                let found = decode(&bytes);
                if found.is_none() && held.is_some() {
                    return Err(damaged(&path, "the mark beside the log fails its checksum"));
                }
                found
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(io(error)),
        };
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(io)?;
        let mut mark = Self { file, written: found.unwrap_or_default() };
        match (found, held) {
            (Some(found), Some(held)) => compare(dir, found, held)?,
            _ => {
                mark.write_durably(Mark::default()).map_err(io)?;
                let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
                let parent = File::open(parent.unwrap_or(Path::new(".")));
                parent.and_then(|parent| parent.sync_all()).map_err(io)?;
            }
        }
        Ok(mark)
    }

    /// Notes what the log durably holds.
    pub(crate) fn raise(&mut self, held: Mark) -> io::Result<()> {
        if held == self.written {
            return Ok(());
        }
        self.file.write_all_at(&encode(held), 0)?;
        self.written = held;
        Ok(())
    }

    /// Makes room for removing the entries from `end` on; durable when it returns.
    pub(crate) fn lower(&mut self, end: u64) -> io::Result<()> {
        if end >= self.written.end {
            return Ok(());
        }
        self.write_durably(Mark { end, ..self.written })
    }

    fn write_durably(&mut self, mark: Mark) -> io::Result<()> {
        self.file.write_all_at(&encode(mark), 0)?;
        self.file.sync_all()?;
        self.written = mark;
        Ok(())
    }
}

/// Beside the folder of the log, not in it: a folder that is replaced as a whole is noticed too.
pub(crate) fn path_of(dir: &Path) -> PathBuf {
    dir.with_extension("mark")
}

fn compare(dir: &Path, mark: Mark, held: Mark) -> Result<(), DiskError> {
    let lost = |what| Err(DiskError::Lost { path: dir.to_owned(), what });
    if held.end < mark.end {
        return lost(format!("it ends before entry {}, but had reached {}", held.end, mark.end - 1));
    }
    if held.vote < mark.vote {
        let ((term, _), (voted, _)) = (held.vote, mark.vote);
        return lost(format!("its vote is of term {term}, but it had voted in term {voted}"));
    }
    Ok(())
}

fn encode(mark: Mark) -> [u8; FILE_BYTES] {
    let mut bytes = [0; FILE_BYTES];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..16].copy_from_slice(&mark.end.to_be_bytes());
    bytes[16..24].copy_from_slice(&mark.vote.0.to_be_bytes());
    bytes[24..32].copy_from_slice(&mark.vote.1.to_be_bytes());
    let crc = crc32fast::hash(&bytes[..32]);
    bytes[32..].copy_from_slice(&crc.to_be_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Option<Mark> {
    let rest = bytes.strip_prefix(MAGIC)?;
    let (end, rest) = rest.split_first_chunk::<8>()?;
    let (term, rest) = rest.split_first_chunk::<8>()?;
    let (candidate, crc) = rest.split_first_chunk::<8>()?;
    let whole = crc == crc32fast::hash(&bytes[..32]).to_be_bytes();
    let number = |bytes: &[u8; 8]| u64::from_be_bytes(*bytes);
    whole.then(|| Mark { end: number(end), vote: (number(term), number(candidate)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(end: u64, term: u64) -> Mark {
        Mark { end, vote: (term, 1) }
    }

    #[test]
    fn a_mark_reads_back_and_refuses_less() {
        let dir = tempfile::TempDir::new().unwrap();
        let log = dir.path().join("log");
        let mut file = MarkFile::open(&log, None).unwrap();
        file.raise(mark(10, 3)).unwrap();
        for held in [mark(10, 3), mark(11, 4)] {
            assert_eq!(MarkFile::open(&log, Some(held)).unwrap().written, mark(10, 3));
        }
        for held in [mark(9, 3), mark(10, 2), Mark::default()] {
            let refused = MarkFile::open(&log, Some(held)).err().unwrap().to_string();
            assert!(refused.contains("lost"), "{refused}");
        }
        file.lower(4).unwrap();
        assert_eq!(MarkFile::open(&log, Some(mark(4, 3))).unwrap().written, mark(4, 3));
        // A fresh disk has nothing to lose.
        assert_eq!(MarkFile::open(&log, None).unwrap().written, Mark::default());
    }

    #[test]
    fn a_damaged_mark_is_refused() {
        let dir = tempfile::TempDir::new().unwrap();
        let log = dir.path().join("log");
        MarkFile::open(&log, None).unwrap().raise(mark(10, 3)).unwrap();
        for at in 0..FILE_BYTES {
            let mut bytes = encode(mark(10, 3));
            bytes[at] ^= 1;
            std::fs::write(path_of(&log), bytes).unwrap();
            let refused = MarkFile::open(&log, Some(mark(10, 3))).err().unwrap().to_string();
            assert!(refused.contains("checksum"), "{refused}");
        }
    }
}
