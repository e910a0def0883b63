//! Tests of the data structures: against naive models, at Redis' own limits, and by weight.

mod collections;
mod encodings;
mod lists;
mod numbers;
mod packed_runs;
mod sorted_sets;
mod streams;
mod words;

use super::Limits;

/// A little sequence of dice for tests: the same numbers each time.
fn dice(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }
}

/// Limits so low that a few elements reach every form.
fn tiny_limits() -> Limits {
    Limits {
        hash_listpack_entries_max: 4,
        hash_listpack_value_bytes_max: 8,
        list_listpack_size: 4,
        set_intset_entries_max: 4,
        set_listpack_entries_max: 6,
        set_listpack_value_bytes_max: 8,
        sorted_set_listpack_entries_max: 4,
        sorted_set_listpack_value_bytes_max: 8,
        hyperloglog_sparse_bytes_max: 100,
        stream_node_bytes_max: 64,
        stream_node_entries_max: 5,
        pattern_bytes_max: usize::MAX,
        hash_seed: 7,
    }
}
