//! What the control plane of one node is told at start, each limit with its reason.

use std::path::PathBuf;
use std::time::Duration;

use keyward_cluster::Addresses;
use keyward_cluster::failover::Patience;

use super::log_disk::{SyncHook, fdatasync};
use super::peers::ClusterSecret;

/// Voters at most: five survive two losses, and every further one only makes each change slower.
pub(crate) const VOTERS_MAX: usize = 5;

/// How a node without an identity on its disk becomes part of a cluster. A node with one ignores this.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bootstrap {
    /// These nodes form one cluster, once. The first of the list forms it as soon as all others answered that they
    /// belong to none; the others join it. An empty list, or one that names only this node, forms a cluster of one.
    Form {
        /// Stable name and peer address of every initial member, in the same order on all of them.
        members: Vec<(String, String)>,
    },
    /// The cluster exists: join it. An empty disk under a known name joins under a new id, and the old id leaves.
    Join {
        /// Peer addresses of nodes that may be part of it.
        seeds: Vec<String>,
    },
    /// Wait until a node of a cluster says whom to join.
    AwaitInvitation,
}

impl Bootstrap {
    /// A fingerprint of the list of members; 0 if there is none. Two lists must not form two clusters.
    pub(crate) fn members_hash(&self) -> u64 {
        let Self::Form { members } = self else { return 0 };
        let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
        for byte in members.iter().flat_map(|(name, address)| name.bytes().chain([0]).chain(address.bytes()).chain([0]))
        {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        hash.max(1)
    }
}

/// Everything the control plane needs to know about its node.
#[derive(Clone)]
pub struct ControlConfig {
    /// Where the log and the snapshots are kept; belongs to this node alone.
    pub data_dir: PathBuf,
    /// The stable name of this node, as in the StatefulSet.
    pub node_name: String,
    /// Where others find this node. `addresses.peer` must reach the listener below.
    pub addresses: Addresses,
    /// Where to listen for peers, `host:port`.
    pub peer_bind: String,
    /// What every node of the cluster knows.
    pub cluster_secret: ClusterSecret,
    /// How to become part of a cluster.
    pub bootstrap: Bootstrap,
    /// How many shard groups a cluster has that this node forms.
    pub groups: u32,
    /// Between two heartbeats of the leader. Default 150 ms: a crash that takes the leader costs an election first.
    pub heartbeat: Duration,
    /// A follower that hears nothing for a random time between these two stands for election, after as long as the second,
    /// for which nobody votes against a leader it heard from: a lost heartbeat or a slow sync must not look like a dead
    /// leader. What a node is told at start says how long.
    pub election_timeout: (Duration, Duration),
    /// How long a proposal may look for a leader and a quorum. Default 5 s: an election and a half.
    pub propose_timeout: Duration,
    /// How long a node may serve without hearing from the leader. Default 5 s: several elections, so that a change of
    /// leaders ends none. The same on every node.
    pub lease_ttl: Duration,
    /// How patient the leader is with a primary.
    pub patience: Patience,
    /// Entries between two snapshots. Default 5000: a restart replays at most this many.
    pub snapshot_every: u64,
    /// Entries kept behind a snapshot. Default 1000: a node that was away for a moment needs no snapshot.
    pub log_keep: u64,
    /// Proposals under way at once; more wait. Default 1024, far more than the cluster commits in a second.
    pub proposals_max: usize,
    /// Largest change, encoded. Default 8 MiB: a file of 10 000 users.
    pub change_bytes_max: usize,
    /// Makes the log durable; replaced only by tests.
    pub sync: SyncHook,
}

impl ControlConfig {
    /// A configuration with every default.
    pub fn new(
        data_dir: PathBuf,
        node_name: String,
        addresses: Addresses,
        peer_bind: String,
        cluster_secret: ClusterSecret,
        bootstrap: Bootstrap,
    ) -> Self {
        Self {
            data_dir,
            node_name,
            addresses,
            peer_bind,
            cluster_secret,
            bootstrap,
            groups: 1,
            heartbeat: Duration::from_millis(150),
            election_timeout: (Duration::from_millis(450), Duration::from_millis(800)),
            propose_timeout: Duration::from_secs(5),
            lease_ttl: Duration::from_secs(5),
            patience: Patience::default(),
            snapshot_every: 5000,
            log_keep: 1000,
            proposals_max: 1024,
            change_bytes_max: 8 * 1024 * 1024,
            sync: fdatasync(),
        }
    }

    /// The same in openraft's words.
    pub(crate) fn raft(&self) -> Result<openraft::Config, openraft::ConfigError> {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        openraft::Config {
            cluster_name: String::from("keyward"),
            heartbeat_interval: millis(self.heartbeat),
            election_timeout_min: millis(self.election_timeout.0),
            election_timeout_max: millis(self.election_timeout.1),
            // A whole snapshot in one message, over a slow link.
            install_snapshot_timeout: 10_000,
            snapshot_policy: openraft::SnapshotPolicy::LogsSinceLast(self.snapshot_every),
            max_in_snapshot_log_to_keep: self.log_keep,
            purge_batch_size: 256,
            // Queues inside Raft: proposals are bounded before they get there.
            api_channel_size: Some(4096),
            notification_channel_size: Some(4096),
            state_machine_channel_size: Some(1024),
            // Followers write while the leader does, not after it: a change waits for one sync, not for two.
            broadcast_submitted_on_append: Some(true),
            backoff: String::from("100ms 200ms ...500ms"),
            enable_pre_vote: Some(true),
            // A restarted leader stands for election like everybody else: its state may be behind.
            enable_leader_restore: Some(false),
            // A follower whose log went back is told it all again. Forbidding that would not bring the entries back,
            // it would only end the leader. The follower itself refuses to start: see log_mark.rs.
            allow_log_reversion: Some(true),
            ..openraft::Config::default()
        }
        .validate()
    }
}
