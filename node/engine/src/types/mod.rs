//! The data structures behind the keys: lists, hashes, sets, sorted sets and streams, each small or big as it needs to be. They have
//! never heard of commands, clients, clocks or dice: times and random numbers come in as values, and so do the limits between small and big.

pub mod number;
pub mod text;

pub mod hash;
pub mod hyperloglog;
pub mod list;
pub mod place;
pub mod set;
pub mod sorted_set;
pub mod steps;
pub mod stream;

mod compact;
mod integer_set;
mod list_nodes;
mod listpack;
mod long_double;
mod packed;
mod ranking;
mod score_tree;
mod table;
mod word;

#[cfg(test)]
mod tests;

pub use hash::{Hash, HashField, LiveHash};
pub use list::{End, List, Side};
pub(crate) use listpack::Unpacked;
pub(crate) use packed::{Item, Packed, Packing};
pub use set::Set;
pub use sorted_set::{Gathered, LexBound, NotANumber, ScoreBound, ScoreSet, SortedSet};
pub use steps::{Ended, Patience, Steps};
pub use stream::{Keep, Stream, StreamEntry, StreamId};
pub use text::Text;
pub use word::{Kind, KindMut, Value};

/// Up to which size the compact forms are kept, and how long a pattern may be. The defaults are those of Redis 7 and Valkey 9.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// `hash-max-listpack-entries`
    pub hash_listpack_entries_max: usize,
    /// `hash-max-listpack-value`
    pub hash_listpack_value_bytes_max: usize,
    /// `list-max-listpack-size`: elements per node if positive, or -1 to -5 for 4 to 64 KiB per node
    pub list_listpack_size: i64,
    /// `set-max-intset-entries`
    pub set_intset_entries_max: usize,
    /// `set-max-listpack-entries`
    pub set_listpack_entries_max: usize,
    /// `set-max-listpack-value`
    pub set_listpack_value_bytes_max: usize,
    /// `zset-max-listpack-entries`
    pub sorted_set_listpack_entries_max: usize,
    /// `zset-max-listpack-value`
    pub sorted_set_listpack_value_bytes_max: usize,
    /// `hll-sparse-max-bytes`
    pub hyperloglog_sparse_bytes_max: usize,
    /// `stream-node-max-bytes`; 0 is no limit
    pub stream_node_bytes_max: usize,
    /// `stream-node-max-entries`; 0 is no limit
    pub stream_node_entries_max: usize,
    /// Bytes of a pattern that names are compared with: `pattern-bytes-max`
    pub pattern_bytes_max: usize,
    /// What the hash functions of new tables are seeded with: a secret of the process, so that nobody can choose colliding keys.
    pub hash_seed: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            hash_listpack_entries_max: 512,
            hash_listpack_value_bytes_max: 64,
            list_listpack_size: -2,
            set_intset_entries_max: 512,
            set_listpack_entries_max: 128,
            set_listpack_value_bytes_max: 64,
            sorted_set_listpack_entries_max: 128,
            sorted_set_listpack_value_bytes_max: 64,
            hyperloglog_sparse_bytes_max: 3000,
            stream_node_bytes_max: 4096,
            stream_node_entries_max: 100,
            pattern_bytes_max: 4 << 10,
            hash_seed: 0,
        }
    }
}

impl Value {
    /// The type's name in TYPE.
    pub fn type_name(&self) -> &'static str {
        match self.kind() {
            Kind::List(_) => "list",
            Kind::Hash(_) => "hash",
            Kind::Set(_) => "set",
            Kind::SortedSet(_) => "zset",
            Kind::Stream(_) => "stream",
        }
    }

    /// The encoding's name in OBJECT ENCODING.
    pub fn encoding(&self) -> &'static str {
        match self.kind() {
            Kind::List(list) => list.encoding(),
            Kind::Hash(hash) => hash.encoding(),
            Kind::Set(set) => set.encoding(),
            Kind::SortedSet(sorted_set) => sorted_set.encoding(),
            Kind::Stream(stream) => stream.encoding(),
        }
    }

    /// About what the value holds on the heap, besides the `Value` itself.
    pub fn memory_bytes(&self) -> usize {
        match self.kind() {
            Kind::List(list) => list.memory_bytes(),
            Kind::Hash(hash) => hash.memory_bytes(),
            Kind::Set(set) => set.memory_bytes(),
            Kind::SortedSet(sorted_set) => sorted_set.memory_bytes(),
            Kind::Stream(stream) => stream.memory_bytes(),
        }
    }

    /// Whether what was counted on the way equals a count of everything.
    pub fn is_counted_right(&self) -> bool {
        match self.kind() {
            Kind::List(list) => list.is_counted_right(),
            Kind::Hash(hash) => hash.is_counted_right(),
            Kind::Set(set) => set.is_counted_right(),
            Kind::SortedSet(sorted_set) => sorted_set.is_counted_right(),
            Kind::Stream(stream) => stream.is_counted_right(),
        }
    }

    /// The earliest expiry of a field, if it is a hash that has any such.
    #[inline]
    pub fn next_field_expiry(&self) -> Option<i64> {
        if let Kind::Hash(hash) = self.kind() { hash.next_expiry() } else { None }
    }

    /// How many elements there are.
    pub fn len(&self) -> usize {
        match self.kind() {
            Kind::List(list) => list.len(),
            Kind::Hash(hash) => hash.len(),
            Kind::Set(set) => set.len(),
            Kind::SortedSet(sorted_set) => sorted_set.len(),
            Kind::Stream(stream) => stream.len(),
        }
    }

    /// Whether nothing is left, so that the key must go. Of a stream its past is left when its entries are gone.
    pub fn is_empty(&self) -> bool {
        self.len() == 0 && !matches!(self.kind(), Kind::Stream(_))
    }
}

impl std::fmt::Debug for Value {
    /// What it is and how big, never what it holds: values do not belong in logs.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} of {} ({})", self.type_name(), self.len(), self.encoding())
    }
}

/// `count` different elements of `len`, or all if there are no more. Takes one pass over the elements.
fn random_distinct<T>(
    len: usize,
    count: usize,
    random: &mut dyn FnMut() -> u64,
    elements: impl Iterator<Item = T>,
) -> Vec<T> {
    let mut wanted = count.min(len);
    let mut chosen = Vec::with_capacity(wanted);
    for (index, element) in elements.enumerate() {
        if wanted == 0 {
            break;
        }
        // Each of the elements left is as likely to be among those wanted as every other.
        if table::below(random(), len - index) < wanted {
            chosen.push(element);
            wanted -= 1;
        }
    }
    chosen
}
