//! Raft's state machine: committed entries go into [`keyward_cluster::State`], and out comes the next view.
//!
//! ```text
//! apply: entries ──► State ──► publish the view ──► answer those who wait
//! ```
//!
//! The order is the promise: nobody hears "done" while this node could still show the old state. The state itself is
//! kept in memory; after a restart it is the last snapshot plus the committed log.
//!
//! A snapshot is a plain file, written beside and renamed into place, so a crash leaves the old one or the new one. Two
//! are kept. A file that does not read back exactly, or belongs to another node or cluster, is refused.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use keyward_cluster::{ClusterId, NodeId, Outcome, State, StateRecord};
use keyward_proto::control as wire;
use openraft::EntryPayload;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use prost::Message;

use super::codec;
use super::log_disk::{DiskError, damaged};
use super::raft_types::{LogId, Snapshot, SnapshotMeta, StoredMembership, TypeConfig};
use super::view::Views;

/// The first line of every snapshot file.
const MAGIC: &[u8; 16] = b"keyward-raft-v1\n";

/// A snapshot that would not fit one message to a peer is not worth writing: 100 000 users take about a third of it.
pub(crate) const SNAPSHOT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Snapshots kept: the current one, and the one before for a person to look at.
const SNAPSHOTS_KEPT: usize = 2;

/// The adapter. Clones share the state; snapshots are built from a clone while entries go on being applied.
#[derive(Clone)]
pub struct StateMachine {
    shared: Arc<Shared>,
}

struct Shared {
    dir: PathBuf,
    owner: Mutex<Option<(ClusterId, NodeId)>>,
    applied: Mutex<Applied>,
    views: Views,
}

#[derive(Clone, Default)]
struct Applied {
    state: State,
    last: Option<LogId>,
    membership: StoredMembership,
    /// The newest snapshot on disk.
    snapshot: Option<(SnapshotMeta, PathBuf)>,
}

impl StateMachine {
    /// Opens the folder of snapshots and reads the newest, if there is one. `owner` is whom the disk belongs to.
    pub(crate) fn open(dir: &Path, owner: Option<(ClusterId, NodeId)>, views: Views) -> Result<Self, DiskError> {
        super::private_folder(dir).map_err(|error| DiskError::Io(dir.to_owned(), error))?;
        let files = snapshot_files(dir).map_err(|error| DiskError::Io(dir.to_owned(), error))?;
        let mut applied = Applied::default();
        if let Some(path) = files.last() {
            let Some(owner) = owner else {
                return Err(damaged(dir, "there are snapshots, but the log and the identity beside them are gone"));
            };
            let file = read_snapshot(path).map_err(|error| damaged(path, error.to_string()))?;
            applied = Applied::from_file(file, owner, path).map_err(|error| damaged(path, error.to_string()))?;
        }
        views.publish_state(applied.state.clone());
        let shared = Shared { dir: dir.to_owned(), owner: Mutex::new(owner), applied: Mutex::new(applied), views };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Names the owner of a disk that was fresh when it was opened.
    pub(crate) fn set_owner(&self, cluster_id: ClusterId, node: NodeId) {
        *self.shared.owner.lock().unwrap_or_else(PoisonError::into_inner) = Some((cluster_id, node));
    }

    /// The last entry that a snapshot on disk covers.
    pub(crate) fn snapshot_end(&self) -> Option<LogId> {
        self.applied().snapshot.as_ref().and_then(|(meta, _)| meta.last_log_id)
    }

    fn applied(&self) -> MutexGuard<'_, Applied> {
        self.shared.applied.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a snapshot file and makes it the current one.
    fn save(&self, meta: &SnapshotMeta, record: wire::StateRecord, digest: u64) -> io::Result<()> {
        let owner = *self.shared.owner.lock().unwrap_or_else(PoisonError::into_inner);
        let (cluster_id, node) = owner.ok_or_else(|| io::Error::other("a node without identity has no snapshot"))?;
        let file = wire::SnapshotFile {
            cluster_id: codec::cluster_id_to(cluster_id),
            node: node.0,
            meta: Some(codec::snapshot_meta_to(meta)),
            state: Some(record),
            digest,
        };
        let index = meta.last_log_id.map_or(0, |last| last.index());
        let path = write_snapshot(&self.shared.dir, index, &file)?;
        self.applied().snapshot = Some((meta.clone(), path));
        remove_old(&self.shared.dir)
    }
}

impl Applied {
    fn from_file(file: wire::SnapshotFile, owner: (ClusterId, NodeId), path: &Path) -> io::Result<Self> {
        if codec::cluster_id_from(&file.cluster_id)? != owner.0 || file.node != owner.1.0 {
            return Err(io::Error::other("the snapshot belongs to another node or cluster"));
        }
        let meta = codec::snapshot_meta_from(file.meta)?;
        let record = file.state.ok_or_else(|| io::Error::other("the snapshot holds no state"))?;
        let state = State::try_from(codec::record_from(record)?).map_err(io::Error::other)?;
        if state.digest() != file.digest {
            return Err(io::Error::other("the state does not match its digest"));
        }
        Ok(Self {
            state,
            last: meta.last_log_id,
            membership: meta.last_membership.clone(),
            snapshot: Some((meta, path.to_owned())),
        })
    }

    fn meta(&self) -> SnapshotMeta {
        SnapshotMeta { last_log_id: self.last, last_membership: self.membership.clone() }
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = Bytes;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let applied = self.applied();
        Ok((applied.last, applied.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + Send,
    {
        let mut answers = Vec::new();
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            let mut applied = self.applied();
            let index = entry.log_id.index();
            applied.last = Some(entry.log_id);
            let outcome = match entry.payload {
                EntryPayload::Normal(stamped) => applied.state.apply(index, &stamped),
                EntryPayload::Membership(membership) => {
                    applied.membership = StoredMembership::new(Some(entry.log_id), membership);
                    applied.state.skip(index);
                    Outcome::Unchanged
                }
                EntryPayload::Blank => {
                    applied.state.skip(index);
                    Outcome::Unchanged
                }
            };
            answers.extend(responder.map(|responder| (responder, outcome)));
        }
        let state = self.applied().state.clone();
        self.shared.views.publish_state(state);
        for (responder, outcome) in answers {
            responder.send(outcome);
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: Bytes) -> io::Result<()> {
        let record = wire::StateRecord::decode(snapshot).map_err(io::Error::other)?;
        let state = State::try_from(codec::record_from(record.clone())?).map_err(io::Error::other)?;
        let (this, saved_meta, digest) = (self.clone(), meta.clone(), state.digest());
        blocking(move || this.save(&saved_meta, record, digest)).await?;
        {
            let mut applied = self.applied();
            applied.state = state.clone();
            applied.last = meta.last_log_id;
            applied.membership = meta.last_membership.clone();
        }
        self.shared.views.publish_state(state);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        let Some((meta, path)) = self.applied().snapshot.clone() else { return Ok(None) };
        let file = blocking(move || read_snapshot(&path)).await?;
        let state = file.state.ok_or_else(|| io::Error::other("the snapshot holds no state"))?;
        Ok(Some(Snapshot { meta, snapshot: state.encode_to_vec().into() }))
    }
}

impl RaftSnapshotBuilder<TypeConfig> for StateMachine {
    type SnapshotData = Bytes;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let (meta, state) = {
            let applied = self.applied();
            (applied.meta(), applied.state.clone())
        };
        let this = self.clone();
        blocking(move || {
            let record = codec::record_to(&StateRecord::from(&state));
            let snapshot = record.encode_to_vec().into();
            this.save(&meta, record, state.digest())?;
            Ok(Snapshot { meta, snapshot })
        })
        .await
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    crate::world::aside(work).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// Writes the file beside its place, makes it durable, moves it there, makes the move durable.
fn write_snapshot(dir: &Path, index: u64, file: &wire::SnapshotFile) -> io::Result<PathBuf> {
    let body = file.encode_to_vec();
    if body.len() > SNAPSHOT_BYTES_MAX {
        return Err(io::Error::other(format!("the state takes {} bytes, more than a snapshot may", body.len())));
    }
    // Named by position, so that the newest is the last by name.
    let path = dir.join(format!("{index:020}.snapshot"));
    let beside = dir.join(format!("{index:020}.tmp"));
    let mut out = File::create(&beside)?;
    out.write_all(MAGIC)?;
    out.write_all(&(body.len() as u64).to_be_bytes())?;
    out.write_all(&crc32fast::hash(&body).to_be_bytes())?;
    out.write_all(&body)?;
    out.sync_all()?;
    fs::rename(&beside, &path)?;
    File::open(dir)?.sync_all()?;
    Ok(path)
}

fn read_snapshot(path: &Path) -> io::Result<wire::SnapshotFile> {
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let bytes = fs::read(path)?;
    let rest = bytes.strip_prefix(MAGIC).ok_or_else(|| wrong("it is not a snapshot of this format"))?;
    let (length, rest) = rest.split_first_chunk::<8>().ok_or_else(|| wrong("it is cut off"))?;
    let (crc, body) = rest.split_first_chunk::<4>().ok_or_else(|| wrong("it is cut off"))?;
    if u64::from_be_bytes(*length) != body.len() as u64 {
        return Err(wrong("it is cut off"));
    }
    if u32::from_be_bytes(*crc) != crc32fast::hash(body) {
        return Err(wrong("its checksum does not match"));
    }
    wire::SnapshotFile::decode(body).map_err(|_| wrong("its content cannot be read"))
}

/// The snapshots in `dir`, oldest first. What a crash left half written is removed.
fn snapshot_files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for item in fs::read_dir(dir)? {
        let path = item?.path();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("snapshot") => files.push(path),
            Some("tmp") => fs::remove_file(&path)?,
            _ => {}
        }
    }
    files.sort();
    Ok(files)
}

fn remove_old(dir: &Path) -> io::Result<()> {
    let mut files: Vec<PathBuf> = fs::read_dir(dir)?
        .filter_map(|item| item.ok().map(|item| item.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "snapshot"))
        .collect();
    files.sort();
    let surplus = files.len().saturating_sub(SNAPSHOTS_KEPT);
    files.iter().take(surplus).try_for_each(fs::remove_file)
}
