//! A plain file beside the log that says whose disk this is.
//!
//! The log's own identity record lies in the same file as the log: if that file is lost or emptied, the record is gone
//! with it, and the disk would look fresh. This file makes the difference between a fresh disk and a robbed one.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use keyward_cluster::{ClusterId, NodeId};

use super::log_disk::{DiskError, damaged};

const NAME: &str = "identity";

/// Writes the marker, durably. Called after the log's own record is durable.
pub(crate) fn write(dir: &Path, cluster_id: ClusterId, node: NodeId) -> io::Result<()> {
    let beside = dir.join("identity.tmp");
    let mut out = File::create(&beside)?;
    out.write_all(text(cluster_id, node).as_bytes())?;
    out.sync_all()?;
    fs::rename(&beside, dir.join(NAME))?;
    File::open(dir)?.sync_all()
}

/// Compares the marker with what the log says. A marker without a record is a robbed disk; a record without a marker
/// is a crash between the two, and the marker is written again.
pub(crate) fn check(dir: &Path, recorded: Option<(ClusterId, NodeId)>) -> Result<(), DiskError> {
    let found = match fs::read_to_string(dir.join(NAME)) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(DiskError::Io(dir.join(NAME), error)),
    };
    match (found, recorded) {
        (None, None) => Ok(()),
        (None, Some((cluster_id, node))) => {
            write(dir, cluster_id, node).map_err(|error| DiskError::Io(dir.to_owned(), error))
        }
        (Some(found), Some((cluster_id, node))) if found == text(cluster_id, node) => Ok(()),
        (Some(_), Some(_)) => Err(damaged(dir, "the identity file and the log name different nodes")),
        (Some(_), None) => Err(damaged(dir, "the identity file is there, but the log it belongs to is gone")),
    }
}

fn text(cluster_id: ClusterId, node: NodeId) -> String {
    format!("cluster {cluster_id}\nnode {node}\n")
}
