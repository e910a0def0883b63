//! Questions about every node: passed on to all of them at once, answered by each about itself.
//!
//! Knows neither questions nor answers: both are bytes to it. A node that is slow or gone costs the asker its patience, and
//! no more.

use std::time::Duration;

use futures_util::future::join_all;
use keyward_cluster::NodeId;
use keyward_proto::control as wire;
use tonic::Request;

use super::core::Core;

/// How long a node may think about it: a person waits for the answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// The longest answer of one node.
pub const INQUIRY_BYTES_MAX: usize = 8 << 20;

/// Who knows what other nodes ask about this one.
#[tonic::async_trait]
pub trait Answerer: Send + Sync {
    /// The answer; `None` if the question is none it knows.
    async fn answer(&self, question: &[u8]) -> Option<Vec<u8>>;
}

impl Core {
    /// Asks these other nodes.
    pub(crate) async fn inquire(
        &self,
        others: Vec<NodeId>,
        question: Vec<u8>,
    ) -> Vec<(NodeId, Result<Vec<u8>, String>)> {
        let asked = others.into_iter().map(|node| {
            let question = question.clone();
            async move { (node, self.inquire_of(node, question).await) }
        });
        join_all(asked).await
    }

    async fn inquire_of(&self, node: NodeId, question: Vec<u8>) -> Result<Vec<u8>, String> {
        let header = self.peers.header(node).ok_or("this node has not joined yet")?;
        let mut client = self.peers.client_of(node).map_err(|status| status.message().to_owned())?;
        let request = Request::new(wire::InquireRequest { header: Some(header), question });
        match tokio::time::timeout(PATIENCE, client.inquire(request)).await {
            Err(_) => Err("it did not answer in time".to_owned()),
            Ok(Err(status)) => Err(status.message().to_owned()),
            Ok(Ok(response)) if response.get_ref().answer.len() > INQUIRY_BYTES_MAX => {
                Err("its answer is too long".to_owned())
            }
            Ok(Ok(response)) => Ok(response.into_inner().answer),
        }
    }
}
