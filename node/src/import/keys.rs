//! Many keys in little room.

use sha2::{Digest, Sha256};
use std::collections::HashSet;

/// Keys, each as a number that stands for it: eight bytes and a little, however long the key. Two keys that share a number,
/// once in some billions, may keep one that should have gone. Every node computes the same numbers.
#[derive(Clone, Default)]
pub(super) struct KeySet(HashSet<u64>);

impl KeySet {
    /// What stands for a key.
    pub(super) fn number(database: u32, key: &[u8]) -> u64 {
        let digest = Sha256::new().chain_update(database.to_le_bytes()).chain_update(key).finalize();
        digest.first_chunk().map_or(0, |first| u64::from_le_bytes(*first))
    }

    /// Adds a key.
    pub(super) fn add(&mut self, database: u32, key: &[u8]) {
        self.add_number(Self::number(database, key));
    }

    /// Adds the key that this stands for.
    pub(super) fn add_number(&mut self, number: u64) {
        self.0.insert(number);
    }

    /// Whether it was added.
    pub(super) fn has(&self, database: u32, key: &[u8]) -> bool {
        self.0.contains(&Self::number(database, key))
    }

    /// What was added.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u64> {
        self.0.iter().copied()
    }
}
