//! Counting everything anew, to hold it against what was counted on the way: a promise to tenants is only as good as the
//! figures behind it.
//!
//! It takes as long as there are keys, under the shard's lock: for tests, and for `DEBUG RECOUNT`.

use super::{Keyspace, Shard, SpaceId, ValueRef};
use std::fmt::Write;

impl Keyspace {
    /// What is not as it was counted, as sentences.
    fn recount(&self, found: &mut String) {
        let (len, expiring, bytes) = self.dict.recount();
        let (mut objects, mut objects_bytes, mut field_expiries, mut miscounted) = (0, 0, 0, Vec::new());
        self.for_each(&mut |entry| {
            if let ValueRef::Object(object) = entry.value() {
                objects += 1;
                objects_bytes += object.memory_bytes();
                field_expiries += usize::from(object.next_field_expiry().is_some());
                miscounted.extend(
                    (!object.is_counted_right())
                        .then(|| format!("{} {}, ", object.type_name(), entry.key().escape_ascii())),
                );
            }
        });
        let mut compare = |what: &str, counted: usize, recounted: usize| {
            if counted != recounted {
                // Writing to a string cannot fail.
                let _ = write!(found, "{what}: {counted} were counted, there are {recounted}; ");
            }
        };
        compare("keys", self.dict.len(), len);
        compare("keys that expire", self.dict.expiring_len(), expiring);
        compare("bytes of the table", self.dict.memory_bytes(), bytes);
        compare("bytes of objects", self.objects_bytes, objects_bytes);
        compare("hashes with fields that expire", self.field_expiries.0.len(), field_expiries);
        compare("objects that count themselves right", objects - miscounted.len(), objects);
        compare("bytes that were told", self.accounted, self.memory_bytes());
        found.extend(miscounted);
    }
}

impl Shard {
    /// What is not as it was counted, or lies where it does not belong, as sentences; empty if everything is right. Keys that
    /// have yet to move to their owner's segment are moved first.
    pub fn recount(&mut self) -> String {
        self.settle_all();
        let mut found = String::new();
        for (id, space) in self.spaces() {
            let before = found.len();
            space.recount(&mut found);
            let mut strays = 0;
            space.for_each(&mut |entry| strays += usize::from(self.segment_of(id, entry.key()) != id));
            if strays > 0 {
                let _ = write!(found, "{strays} keys belong elsewhere; ");
            }
            if found.len() > before {
                let SpaceId { tenant, database } = id;
                let place = format!("tenant {} database {database}: ", tenant.number());
                found.insert_str(before, &place);
            }
        }
        if self.accounted != self.memory_bytes() {
            let _ = write!(found, "shard: {} bytes were told, it has {}", self.accounted, self.memory_bytes());
        }
        found
    }
}

#[cfg(test)]
mod tests;
