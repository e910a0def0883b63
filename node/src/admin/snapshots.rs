//! `keyward.admin.v1.Snapshots`: the data of this node on its disk.

use std::cmp::Reverse;
use std::sync::Arc;

use keyward_proto::admin::snapshots_server::Snapshots;
use keyward_proto::admin::{ListSnapshotsRequest, ListSnapshotsResponse, SaveRequest, SaveResponse, Snapshot};
use tonic::{Request, Response, Status};

use super::auth::Door;
use super::backend::{AdminBackend, SnapshotFile};

/// Snapshots of this node.
pub struct SnapshotService<B: AdminBackend> {
    door: Arc<Door<B>>,
}

impl<B: AdminBackend> SnapshotService<B> {
    /// The service behind `door`.
    pub fn new(door: Arc<Door<B>>) -> Self {
        Self { door }
    }

    fn node_id(&self) -> u64 {
        self.door.backend().node_id().map_or(0, |node| node.0)
    }
}

#[tonic::async_trait]
impl<B: AdminBackend> Snapshots for SnapshotService<B> {
    async fn save(&self, request: Request<SaveRequest>) -> Result<Response<SaveResponse>, Status> {
        let wait = request.get_ref().wait;
        let command: &[u8] = if wait { b"SAVE" } else { b"BGSAVE" };
        let _caller = self.door.admit(&request, &[command]).await?;
        let file = self.door.backend().save(wait).await?;
        Ok(Response::new(SaveResponse { node_id: self.node_id(), snapshot: file.map(snapshot) }))
    }

    async fn list_snapshots(
        &self,
        request: Request<ListSnapshotsRequest>,
    ) -> Result<Response<ListSnapshotsResponse>, Status> {
        let _caller = self.door.admit(&request, &[b"LASTSAVE"]).await?;
        let mut list = self.door.backend().snapshots().await?;
        list.files.sort_by_key(|file| Reverse(file.saved_unix_ms));
        Ok(Response::new(ListSnapshotsResponse {
            node_id: self.node_id(),
            snapshots: list.files.into_iter().map(snapshot).collect(),
            saving: list.saving,
            last_save_unix_ms: list.last_save_unix_ms.unwrap_or(0) as i64,
            last_error: list.last_error.unwrap_or_default(),
        }))
    }
}

fn snapshot(file: SnapshotFile) -> Snapshot {
    Snapshot { name: file.name, bytes: file.bytes, saved_unix_ms: file.saved_unix_ms as i64 }
}
