//! What is published on nodes that serve other shard groups reaches those who listen: they are all at the node that serves
//! the first group.
//!
//! ```text
//!   EXEC, a script, a keyspace event of group 2 ─► PubSub ─► queue ══ link ══► the first group's primary: its listeners
//! ```
//! A message of a client goes there as a command; this is about what comes up in the middle of other things. As with any
//! message, nobody keeps it for those who do not listen, and one that finds the queue full or the link broken is gone. With one
//! group there is no relay.

use crate::forward;
use crate::link::{self, FrameReader, FrameWriter};
use crate::node::Node;
use bytes::Bytes;
use keyward_engine::keyspace::TenantId;
use keyward_proto::forward::{Batch, Said};
use std::io;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Messages waiting to be sent at most.
pub const WAITING_MAX: usize = 16 * 1024;

/// Messages that are sent together.
const TOGETHER_MAX: usize = 256;

/// Sends what comes, as long as the node lives. `node` is the first group's.
pub async fn send(node: Arc<Node>, mut said: mpsc::Receiver<Said>) {
    let mut link: Option<(u64, FrameReader, FrameWriter)> = None;
    let mut together = Vec::new();
    while said.recv_many(&mut together, TOGETHER_MAX).await > 0 {
        let view = node.views.load().1;
        let said = std::mem::take(&mut together);
        if view.is_primary() {
            // Those who listen are here, and were told.
            continue;
        }
        let Ok((owner, address)) = forward::owner(&view) else { continue };
        if link.as_ref().is_none_or(|(known, ..)| *known != owner) {
            let connected = link::connect(&node, owner, &address).await;
            link = connected.ok().map(|stream| {
                let (reader, writer) = stream.into_halves();
                (owner, reader, writer)
            });
        }
        if let Some((_, _, writer)) = &mut link {
            writer.push(&Batch { said, ..Batch::default() });
            if let Err(error) = writer.flush().await {
                tracing::debug!(%error, "messages could not be passed on");
                link = None;
            }
        }
    }
}

/// Tells those who listen here what another node passes on, beginning with `first`.
pub async fn hear(node: &Node, first: Batch, mut reader: FrameReader) -> io::Result<()> {
    let mut next = Some(first);
    while let Some(batch) = next {
        for Said { world, shard, channel, message } in batch.said {
            node.pubsub.publish_here(TenantId(world), shard, &channel, &message);
        }
        next = reader.next::<Batch>().await?;
    }
    Ok(())
}

/// A message on its way.
pub fn said(world: TenantId, shard: bool, channel: &[u8], message: &[u8]) -> Said {
    Said { world: world.0, shard, channel: Bytes::copy_from_slice(channel), message: Bytes::copy_from_slice(message) }
}
