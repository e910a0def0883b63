//! Removes keys and fields of hashes nobody asks for any more: a slow walk over everything that expires.
//!
//! What is past its expiry reads as missing at once; this only gives its memory back. Each round visits a slice of every
//! shard that has expiring keys and goes round faster while it finds much to remove.

use crate::node::{Node, now_ms};
use std::sync::Arc;
use std::time::Duration;

/// Between two rounds that found little.
const PAUSE_CALM: Duration = Duration::from_millis(100);

/// Between two rounds that found much.
const PAUSE_BUSY: Duration = Duration::from_millis(5);

/// Buckets of one keyspace visited in one round: some hundred keys, tens of microseconds under the shard's lock.
const BUCKETS_PER_ROUND: usize = 32;

/// Expired fields of hashes removed in one round from one keyspace of a shard, the longest expired first: tens of
/// microseconds under the shard's lock.
const FIELDS_PER_ROUND: usize = 128;

/// Walks until the node stops.
pub async fn sweep(node: Arc<Node>) {
    loop {
        let removed = round(&node);
        // Many at once means that more are due: hurry, but leave the shards to the commands in between.
        let busy = removed > node.shards.count() as usize;
        tokio::time::sleep(if busy { PAUSE_BUSY } else { PAUSE_CALM }).await;
    }
}

fn round(node: &Node) -> usize {
    // Only the node that serves the data decides that a key is gone.
    if !node.views.load().1.is_primary() {
        return 0;
    }
    let now = now_ms();
    (0..node.shards.count()).map(|index| node.sweep_shard(index, now, BUCKETS_PER_ROUND, FIELDS_PER_ROUND)).sum()
}
