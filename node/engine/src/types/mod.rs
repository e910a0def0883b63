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
pub mod stream;

mod compact;
mod integer_set;
mod list_nodes;
mod long_double;
mod packed;
mod ranking;
mod score_tree;
mod table;

#[cfg(test)]
mod tests;

pub use hash::{Hash, HashField, LiveHash};
pub use list::{End, List, Side};
pub use set::Set;
pub use sorted_set::{LexBound, NotANumber, ScoreBound, ScoreSet, SortedSet};
pub use stream::{Keep, Stream, StreamEntry, StreamId};
pub use text::Text;

/// Up to which size the compact forms are kept. The defaults are those of Redis 7 and Valkey 9.
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
            hash_seed: 0,
        }
    }
}

/// What a key can hold besides a string.
#[derive(Clone)]
pub enum Value {
    /// A list.
    List(List),
    /// A hash.
    Hash(Hash),
    /// A set.
    Set(Set),
    /// A sorted set.
    SortedSet(SortedSet),
    /// A stream.
    Stream(Stream),
}

// What every key with a value of these pays besides its contents.
const _: () = assert!(size_of::<Value>() <= 24);

impl Value {
    /// Asks the processor for the first elements, where they lie in one place.
    #[inline]
    pub fn prefetch(&self) {
        match self {
            Value::List(list) => list.prefetch(),
            Value::Hash(hash) => hash.prefetch(),
            Value::Set(set) => set.prefetch(),
            Value::SortedSet(sorted_set) => sorted_set.prefetch(),
            Value::Stream(stream) => stream.prefetch(),
        }
    }

    /// The type's name in TYPE.
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::List(_) => "list",
            Value::Hash(_) => "hash",
            Value::Set(_) => "set",
            Value::SortedSet(_) => "zset",
            Value::Stream(_) => "stream",
        }
    }

    /// The encoding's name in OBJECT ENCODING.
    pub fn encoding(&self) -> &'static str {
        match self {
            Value::List(list) => list.encoding(),
            Value::Hash(hash) => hash.encoding(),
            Value::Set(set) => set.encoding(),
            Value::SortedSet(sorted_set) => sorted_set.encoding(),
            Value::Stream(stream) => stream.encoding(),
        }
    }

    /// About what the value holds on the heap, besides the `Value` itself.
    pub fn memory_bytes(&self) -> usize {
        match self {
            Value::List(list) => list.memory_bytes(),
            Value::Hash(hash) => hash.memory_bytes(),
            Value::Set(set) => set.memory_bytes(),
            Value::SortedSet(sorted_set) => sorted_set.memory_bytes(),
            Value::Stream(stream) => stream.memory_bytes(),
        }
    }

    /// Whether what was counted on the way equals a count of everything.
    pub fn is_counted_right(&self) -> bool {
        match self {
            Value::List(list) => list.is_counted_right(),
            Value::Hash(hash) => hash.is_counted_right(),
            Value::Set(set) => set.is_counted_right(),
            Value::SortedSet(sorted_set) => sorted_set.is_counted_right(),
            Value::Stream(stream) => stream.is_counted_right(),
        }
    }

    /// The earliest expiry of a field, if it is a hash that has any such.
    #[inline]
    pub fn next_field_expiry(&self) -> Option<i64> {
        if let Value::Hash(hash) = self { hash.next_expiry() } else { None }
    }

    /// How many elements there are.
    pub fn len(&self) -> usize {
        match self {
            Value::List(list) => list.len(),
            Value::Hash(hash) => hash.len(),
            Value::Set(set) => set.len(),
            Value::SortedSet(sorted_set) => sorted_set.len(),
            Value::Stream(stream) => stream.len(),
        }
    }

    /// Whether nothing is left, so that the key must go. Of a stream its past is left when its entries are gone.
    pub fn is_empty(&self) -> bool {
        self.len() == 0 && !matches!(self, Value::Stream(_))
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
