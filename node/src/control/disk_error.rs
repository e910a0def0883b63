//! What any disk for Raft's log has to do with the outside, real or simulated: how it is made durable, and the sentence an operator
//! reads when it cannot be used. It knows no store.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Makes what was written to the file durable. A test may watch it, or fail in its place.
pub type SyncHook = Arc<dyn Fn(&File) -> io::Result<()> + Send + Sync>;

/// The real hook: fdatasync.
pub fn fdatasync() -> SyncHook {
    Arc::new(File::sync_data)
}

/// Why the disk cannot be used, as the sentence an operator reads.
#[derive(Debug)]
pub enum DiskError {
    /// Another process has it open.
    InUse(PathBuf),
    /// It does not read back as it was written.
    Damaged {
        /// Where.
        path: PathBuf,
        /// What exactly.
        what: String,
    },
    /// It reads back, but as less than it had acknowledged.
    Lost {
        /// Where.
        path: PathBuf,
        /// What exactly.
        what: String,
    },
    /// The operating system refused.
    Io(PathBuf, io::Error),
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InUse(path) => write!(f, "{} is in use by another process", path.display()),
            Self::Damaged { path, what } => write!(
                f,
                "the control data in {} is damaged ({what}); do not repair it: empty the folder and start the node \
                 again with `join`, and the cluster replaces it under a new id",
                path.display()
            ),
            Self::Lost { path, what } => write!(
                f,
                "the log in {} lost entries it had acknowledged ({what}); remove this node's data folder so that it \
                 joins again under a new id, and check the disk before it serves again",
                path.display()
            ),
            Self::Io(path, error) => write!(f, "{}: {error}", path.display()),
        }
    }
}

impl std::error::Error for DiskError {}
