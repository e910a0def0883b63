//! Follows the changes of a cluster across the loss of nodes, without missing or repeating one.

use std::time::Duration;

use keyward_proto::admin::{Change, WatchChangesRequest, WatchChangesResponse};
use tokio::time::sleep;
use tokio_stream::StreamExt as _;
use tonic::Streaming;

use crate::admin::{AdminClient, cluster};
use crate::error::ClientError;
use crate::link::Repeat;

/// A node that ends streams as fast as they are opened must not be asked as fast.
const PAUSE_BEFORE_REOPENING: Duration = Duration::from_millis(100);

/// Changes as they happen, in order, each once.
#[derive(Debug)]
pub struct ChangeWatch {
    client: AdminClient,
    /// The last change handed out.
    last_index: u64,
    stream: Option<Streaming<WatchChangesResponse>>,
}

impl ChangeWatch {
    pub(crate) fn new(client: AdminClient, since: u64) -> Self {
        Self { client, last_index: since, stream: None }
    }

    /// Waits for the next change, as long as it takes. Fails if no node can be reached within the deadline of a
    /// call, or if the history no longer holds what comes next.
    pub async fn next(&mut self) -> Result<Change, ClientError> {
        loop {
            let mut stream = match self.stream.take() {
                Some(stream) => stream,
                None => self.open().await?,
            };
            match stream.next().await {
                Some(Ok(WatchChangesResponse { change: Some(change) })) => {
                    self.stream = Some(stream);
                    if change.index > self.last_index {
                        self.last_index = change.index;
                        return Ok(change);
                    }
                }
                // Ended or broken: it is opened anew behind the last change it brought, or opening says why not.
                _ => sleep(PAUSE_BEFORE_REOPENING).await,
            }
        }
    }

    async fn open(&self) -> Result<Streaming<WatchChangesResponse>, ClientError> {
        let message = WatchChangesRequest { since: Some(self.last_index) };
        let send = |channel, request| async { cluster(channel).watch_changes(request).await };
        self.client.links.call(Repeat::Safe, message, send).await
    }
}
