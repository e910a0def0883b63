//! The small words of the cluster: ids, epochs, times, addresses. They know nothing but how to be told apart.

use std::fmt;

/// A node, once. Ids come from the index of a committed entry and are never used again, not even after removal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

impl NodeId {
    /// The id of the node that formed the cluster. Smaller than the index of any entry that can add a node.
    pub const FOUNDER: Self = Self(1);
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl From<u64> for NodeId {
    fn from(id: u64) -> Self {
        Self(id)
    }
}

/// The name of one formed cluster: 128 random bits, printed as a UUID. Every message between nodes carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub [u8; 16]);

impl ClusterId {
    /// Reads back what `Display` printed; `None` if it is anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let hex: Vec<u8> = text.bytes().filter(|byte| *byte != b'-').collect();
        if hex.len() != 32 || text.len() != 36 {
            return None;
        }
        let mut id = [0; 16];
        for (at, pair) in hex.chunks_exact(2).enumerate() {
            let digits = std::str::from_utf8(pair).ok()?;
            id[at] = u8::from_str_radix(digits, 16).ok()?;
        }
        Some(Self(id))
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            if matches!(at, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

/// One start of a node's process: the index of the entry that registered it. What a node held in memory ended with the
/// process, so a node that comes back is somebody else, and is told so by this number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(pub u64);

/// One process of one node: who can be primary, and who can be in sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    /// The node.
    pub node: NodeId,
    /// Which of its processes.
    pub incarnation: Incarnation,
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.node, self.incarnation.0)
    }
}

/// A shard group: a set of slots with one primary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u32);

/// Which reign of a group's primary. Grows by one with every new primary; work of an older epoch is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Milliseconds since 1970, read by the proposer and carried in the entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixMillis(pub u64);

/// One proposal, chosen at random by the proposer, so that a proposal sent twice is applied once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u128);

/// One attempt of one disk to join, chosen at random by the joiner. The same token again is the same attempt;
/// another token under the same node name is another disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JoinToken(pub u128);

/// Where a node is found. Text as operators wrote it (`host:port`), resolved by whoever connects.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Addresses {
    /// For Redis clients.
    pub client: String,
    /// For operators (gRPC).
    pub admin: String,
    /// For probes and metrics.
    pub http: String,
    /// For the other nodes.
    pub peer: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_id_reads_back_as_printed() {
        let id = ClusterId(*b"0123456789abcdef");
        assert_eq!(ClusterId::parse(&id.to_string()), Some(id));
        assert_eq!(ClusterId::parse("30313233"), None);
        assert_eq!(ClusterId::parse("zz313233-3435-3637-3839-616263646566"), None);
    }
}
