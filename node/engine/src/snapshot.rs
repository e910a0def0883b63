//! One moment of a shard as records, taken in slices while the shard goes on changing.
//!
//! ```text
//!   begin     the moment: every keyspace remembers that it is to be walked            once, under all locks
//!   slice     some buckets become records                                             again and again, under one lock
//!   a write   to an entry the walk has not seen: what it held becomes a record first  see `Keyspace::preserve`
//!   a flush   the keyspace is put aside and walked there                              see `Keys::clear`
//! ```
//! What was made after the moment is in no record, and what changed is there as it was: the file is one moment, whatever
//! commands touched several keys meanwhile. Keys past their expiry then are left out; those that expire while the
//! walk goes on may be left out, since whoever loads them would drop them.
//!
//! It knows no file and no clock: how long a slice may be is for the caller to say.

use crate::dict::Entry;
use crate::dump;
use crate::keyspace::{Garbage, Keyspace, Shard, SpaceId, TenantId, UnixMillis};
use crate::types::Value;
use std::sync::Arc;

/// Buckets between two questions whether to go on: some tens of small entries.
const BUCKETS_PER_QUESTION: usize = 8;

/// Whether a key of this tenant is among those that a snapshot shows.
pub type Chosen = Arc<dyn Fn(TenantId, &[u8]) -> bool + Send + Sync>;

/// A snapshot's way through one keyspace.
pub(crate) struct Walk {
    /// Whose keys they were at the moment: `SWAPDB` may move them.
    id: SpaceId,
    /// The moment.
    began: UnixMillis,
    /// Keys it shows, unless it shows all.
    only: Option<Chosen>,
    /// Records of entries that changed before the walk came to them.
    kept: Vec<u8>,
    keys: u64,
}

impl Walk {
    fn keep(&mut self, entry: &Entry<Value>, records: Option<&mut Vec<u8>>) {
        let expires_at = entry.expires_at();
        if expires_at.is_some_and(|at| at <= self.began) {
            return;
        }
        if self.only.as_ref().is_some_and(|only| !only(self.id.tenant, entry.key())) {
            return;
        }
        dump::record(records.unwrap_or(&mut self.kept), entry.key(), &entry.value(), expires_at);
        self.keys += 1;
    }
}

impl Keyspace {
    fn begin_walk(&mut self, id: SpaceId, began: UnixMillis, only: Option<Chosen>) {
        self.dict.begin_walk();
        self.walk = self.dict.is_walking().then(|| Box::new(Walk { id, began, only, kept: Vec::new(), keys: 0 }));
    }

    /// The entry may change or go: a snapshot that has not seen it keeps it as it is.
    #[inline]
    pub(crate) fn preserve(&mut self, hash: u64, key: &[u8]) {
        if self.dict.is_unwalked(hash) {
            self.preserve_now(hash, key);
        }
    }

    #[cold]
    fn preserve_now(&mut self, hash: u64, key: &[u8]) {
        let Some(walk) = &mut self.walk else { return };
        if let Some(mut entry) = self.dict.find_mut(hash, key)
            && entry.mark_walked()
        {
            walk.keep(&entry, None);
        }
    }

    /// Moves what was kept into `out`; true once the walk is over and everything was handed out.
    fn hand_out(&mut self, out: &mut Vec<u8>, taken: &mut Taken) -> bool {
        let Some(walk) = &mut self.walk else { return true };
        dump::part(out, walk.id, &walk.kept);
        walk.kept.clear();
        taken.keys += std::mem::take(&mut walk.keys);
        let over = !self.dict.is_walking();
        if over {
            self.walk = None;
        }
        over
    }

    /// Walks while `go_on` says so; true once it is over.
    fn walk(&mut self, out: &mut Vec<u8>, taken: &mut Taken, go_on: &mut dyn FnMut() -> bool) -> bool {
        let Some(walk) = &mut self.walk else { return true };
        let mut records = std::mem::take(&mut taken.records);
        loop {
            let mut more = true;
            for _ in 0..BUCKETS_PER_QUESTION {
                more = self.dict.walk(&mut |entry| walk.keep(entry, Some(&mut records)));
                if !more {
                    break;
                }
            }
            if !more || !go_on() {
                break;
            }
        }
        dump::part(out, walk.id, &records);
        records.clear();
        taken.records = records;
        self.hand_out(out, taken)
    }
}

/// What slices have taken, and memory they use again.
#[derive(Default)]
pub struct Taken {
    /// Keys that became records.
    pub keys: u64,
    records: Vec<u8>,
    /// Flushed keyspaces that are done with; to be dropped after the lock.
    pub garbage: Vec<Garbage>,
}

impl Shard {
    /// Now is the moment. The snapshot before was finished: its last slice said so. `only`: the keys it shows, if not all.
    pub fn begin_snapshot(&mut self, now: UnixMillis, only: Option<&Chosen>) {
        self.spaces_mut().for_each(|(id, space)| space.begin_walk(id, now, only.cloned()));
    }

    /// The next slice: what was kept, then some buckets, as long as `go_on` says so. The records are appended to `out`.
    /// True: that was the last.
    pub fn snapshot_slice(&mut self, out: &mut Vec<u8>, taken: &mut Taken, go_on: &mut dyn FnMut() -> bool) -> bool {
        // The flushed ones first: their memory is waited for.
        if let Some(space) = self.detached.last_mut() {
            if space.walk(out, taken, go_on) {
                let done = self.detached.pop();
                taken.garbage.extend(done.map(|space| Garbage::Keyspace(Box::new(space))));
            }
            return false;
        }
        for (_, space) in self.spaces_mut().filter(|(_, space)| space.walk.is_some()) {
            if !space.walk(out, taken, go_on) || !go_on() {
                return false;
            }
        }
        true
    }

    /// Hands out what was kept, so that it does not pile up while other shards are walked.
    pub fn snapshot_kept(&mut self, out: &mut Vec<u8>, taken: &mut Taken) {
        self.detached.iter_mut().for_each(|space| _ = space.hand_out(out, taken));
        self.spaces_mut().for_each(|(_, space)| _ = space.hand_out(out, taken));
    }
}

#[cfg(test)]
mod tests;
