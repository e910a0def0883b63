//! Shards whose lock somebody has for longer than a data thread may wait: marked, so that nobody waits who can do something
//! else. A mark is no lock: whoever comes between mark and lock waits after all. It knows no command.

use super::Shards;
use std::sync::atomic::{AtomicU32, Ordering};

/// Shards whose lock is kept for longer than a data thread may wait.
pub(super) struct Kept {
    /// How many there are. Read by every command of data, changed seldom.
    count: AtomicU32,
    shards: Box<[AtomicU32]>,
}

impl Kept {
    pub(super) fn new(shards: u32) -> Kept {
        Kept { count: AtomicU32::new(0), shards: (0..shards).map(|_| AtomicU32::new(0)).collect() }
    }
}

/// Shards that are kept until this is dropped.
pub struct Keeping<'a> {
    kept: &'a Kept,
    indexes: Vec<u32>,
}

impl Drop for Keeping<'_> {
    fn drop(&mut self) {
        for index in &self.indexes {
            self.kept.shards[*index as usize].fetch_sub(1, Ordering::Relaxed);
        }
        self.kept.count.fetch_sub(self.indexes.len() as u32, Ordering::Release);
    }
}

impl Shards {
    /// From now on the shards of these keys are kept: what follows has their locks for long.
    pub fn keep<'k>(&self, keys: impl Iterator<Item = &'k [u8]>) -> Keeping<'_> {
        let mut indexes: Vec<u32> = keys.map(|key| self.layout.place(key).shard).collect();
        indexes.sort_unstable();
        indexes.dedup();
        for index in &indexes {
            self.kept.shards[*index as usize].fetch_add(1, Ordering::Relaxed);
        }
        self.kept.count.fetch_add(indexes.len() as u32, Ordering::Release);
        Keeping { kept: &self.kept, indexes }
    }

    /// Whether any shard is kept.
    #[inline]
    pub fn keeps_any(&self) -> bool {
        self.kept.count.load(Ordering::Acquire) > 0
    }

    /// Whether the shard of one of these keys is kept.
    #[cold]
    pub fn keeps<'k>(&self, mut keys: impl Iterator<Item = &'k [u8]>) -> bool {
        let is_kept = |key: &[u8]| self.kept.shards[self.layout.place(key).shard as usize].load(Ordering::Relaxed) > 0;
        keys.any(is_kept)
    }

    /// Whether this shard is kept.
    #[inline]
    pub fn keeps_shard(&self, index: u32) -> bool {
        self.keeps_any() && self.kept.shards[index as usize].load(Ordering::Relaxed) > 0
    }
}
