//! A hash table that grows and shrinks in small steps and can be scanned while it does. Knows its values only by their hash; the
//! caller compares them, and gives the same hash for the same value always.
//!
//! The table is cut into segments by the top bits of the hash, and a directory leads from those bits to the segment. A full segment
//! is split in two, an almost empty one joined with its neighbour, so no single change moves more than a few hundred values, however
//! big the table is. A scan goes through the hashes in ascending order: its cursor is a place in that order, which no change to the
//! table moves, so what is there from beginning to end is seen once, without anything being remembered between calls.

use hashbrown::HashTable;

/// A segment holding this many is split: what a table of 512 buckets takes at seven eighths.
const SEGMENT_LEN_MAX: usize = 448;
/// Two neighbours holding fewer than this together are joined.
const SEGMENT_PAIR_LEN_MIN: usize = 128;
/// With this many splits behind it a segment grows instead: only equal hashes get it there.
const DEPTH_MAX: u8 = 28;
/// Cursors have this many bits, so that every client's integer, even a double, holds them.
const CURSOR_BITS: u32 = 48;

/// Values in buckets; see the top of the file.
#[derive(Clone)]
pub(super) struct Table<T> {
    /// The segment for each value of the top `depth` bits; segments less deep appear several times in a row.
    directory: Vec<u32>,
    depth: u8,
    segments: Vec<Segment<T>>,
    len: usize,
    /// What the buckets of all segments take.
    bucket_bytes: usize,
}

#[derive(Clone)]
struct Segment<T> {
    slots: HashTable<T>,
    /// The top `depth` bits that all hashes in here have in common.
    prefix: u32,
    depth: u8,
}

/// The hash of bytes, of the quality a table needs.
#[inline]
pub(super) fn hash_bytes(seed: u64, bytes: &[u8]) -> u64 {
    use std::hash::{BuildHasher, Hasher};
    let state = foldhash::quality::SeedableRandomState::with_seed(seed, foldhash::SharedSeed::global_fixed());
    let mut hasher = state.build_hasher();
    hasher.write(bytes);
    hasher.finish()
}

/// The top bits tell segments apart, so the bucket must be told by others: hashbrown uses the top seven and the lowest.
#[inline]
fn bucket_hash(hash: u64) -> u64 {
    hash.rotate_right(16)
}

#[inline]
fn cursor_of(hash: u64) -> u64 {
    hash >> (64 - CURSOR_BITS)
}

impl<T> Table<T> {
    pub fn new() -> Table<T> {
        let root = Segment { slots: HashTable::new(), prefix: 0, depth: 0 };
        let bucket_bytes = root.slots.allocation_size();
        Table { directory: vec![0], depth: 0, segments: vec![root], len: 0, bucket_bytes }
    }

    /// An empty table in which about so many values find room without it growing.
    pub fn with_capacity(values: usize) -> Table<T> {
        /// Hashes are spread unevenly, so segments are not made full.
        const FILLED: usize = SEGMENT_LEN_MAX * 3 / 4;
        let depth =
            if values <= SEGMENT_LEN_MAX { 0 } else { values.div_ceil(FILLED).next_power_of_two().trailing_zeros() };
        let depth = depth.min(u32::from(DEPTH_MAX)) as u8;
        let each = (values >> depth).min(SEGMENT_LEN_MAX);
        let segments: Vec<Segment<T>> =
            (0..1 << depth).map(|prefix| Segment { slots: HashTable::with_capacity(each), prefix, depth }).collect();
        let bucket_bytes = segments.iter().map(|segment| segment.slots.allocation_size()).sum();
        Table { directory: (0..1 << depth).collect(), depth, segments, len: 0, bucket_bytes }
    }

    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// What the table takes, not what the values own elsewhere.
    pub fn table_bytes(&self) -> usize {
        self.bucket_bytes + self.segments.capacity() * size_of::<Segment<T>>() + self.directory.capacity() * 4
    }

    #[inline]
    fn segment_of(&self, hash: u64) -> usize {
        // Two shifts, because one by all 64 bits is not allowed.
        let place = (hash >> 1) >> (63 - u32::from(self.depth));
        self.directory[place as usize] as usize
    }

    #[inline]
    pub fn find(&self, hash: u64, equal: impl FnMut(&T) -> bool) -> Option<&T> {
        self.segments[self.segment_of(hash)].slots.find(bucket_hash(hash), equal)
    }

    #[inline]
    pub fn find_mut(&mut self, hash: u64, equal: impl FnMut(&T) -> bool) -> Option<&mut T> {
        let segment = self.segment_of(hash);
        self.segments[segment].slots.find_mut(bucket_hash(hash), equal)
    }

    /// Adds a value that is not there yet.
    pub fn insert_new(&mut self, hash: u64, value: T, hash_of: impl Fn(&T) -> u64) {
        let mut index = self.segment_of(hash);
        while self.segments[index].slots.len() >= SEGMENT_LEN_MAX && self.segments[index].depth < DEPTH_MAX {
            self.split(index, &hash_of);
            index = self.segment_of(hash);
        }
        let slots = &mut self.segments[index].slots;
        let before = slots.allocation_size();
        slots.insert_unique(bucket_hash(hash), value, |value| bucket_hash(hash_of(value)));
        self.bucket_bytes = self.bucket_bytes - before + slots.allocation_size();
        self.len += 1;
    }

    pub fn remove(&mut self, hash: u64, equal: impl FnMut(&T) -> bool, hash_of: impl Fn(&T) -> u64) -> Option<T> {
        let index = self.segment_of(hash);
        let slots = &mut self.segments[index].slots;
        let (value, _) = slots.find_entry(bucket_hash(hash), equal).ok()?.remove();
        self.len -= 1;
        let left = slots.len();
        if left * 4 < slots.capacity() && slots.capacity() > 28 {
            let before = slots.allocation_size();
            slots.shrink_to(left * 2, |value| bucket_hash(hash_of(value)));
            self.bucket_bytes = self.bucket_bytes - before + slots.allocation_size();
        }
        if left < SEGMENT_PAIR_LEN_MIN / 2 && self.segments.len() > 1 {
            self.join(index, &hash_of);
        }
        Some(value)
    }

    /// Keeps those for which this is true, and may change what they are as long as their hashes stay what they were. Room that is
    /// left over stays until [`Table::tighten`].
    pub fn retain(&mut self, mut keep: impl FnMut(&mut T) -> bool) {
        for segment in &mut self.segments {
            let before = segment.slots.len();
            segment.slots.retain(&mut keep);
            self.len -= before - segment.slots.len();
        }
    }

    /// Gives back what many removals at once left over.
    pub fn tighten(&mut self, hash_of: impl Fn(&T) -> u64) {
        // Each round leaves at most half of the segments that still can be joined.
        let mut segments = 0;
        while segments != self.segments.len() {
            segments = self.segments.len();
            let mut index = 0;
            while self.segments.len() > 1 && index < self.segments.len() {
                if self.segments[index].slots.len() < SEGMENT_PAIR_LEN_MIN / 2 {
                    self.join(index, &hash_of);
                }
                index += 1;
            }
        }
        for segment in &mut self.segments {
            let slots = &mut segment.slots;
            let left = slots.len();
            if left * 4 < slots.capacity() && slots.capacity() > 28 {
                let before = slots.allocation_size();
                slots.shrink_to(left * 2, |value| bucket_hash(hash_of(value)));
                self.bucket_bytes = self.bucket_bytes - before + slots.allocation_size();
            }
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.segments.iter().flat_map(|segment| segment.slots.iter())
    }

    /// The same; each value is shown to `soon` some values before its turn, so that what it leads to can be fetched meanwhile.
    pub fn iter_ahead(&self, soon: impl Fn(&T)) -> impl Iterator<Item = &T> {
        const AHEAD: usize = 16;
        let mut values = self.iter().inspect(move |value| soon(value));
        let mut waiting: [Option<&T>; AHEAD] = std::array::from_fn(|_| values.next());
        let mut at = 0;
        std::iter::from_fn(move || {
            let value = std::mem::replace(&mut waiting[at], values.next());
            at = (at + 1) % AHEAD;
            value
        })
    }

    /// Shows about `count` values from the cursor on, and returns the cursor to go on with; zero when all have been seen.
    pub fn scan(&self, cursor: u64, count: usize, hash_of: impl Fn(&T) -> u64, mut visit: impl FnMut(&T)) -> u64 {
        let count = count.max(1);
        let mut cursor = cursor;
        let mut seen = 0;
        // A bound on the work per call, should most segments be empty.
        for _ in 0..count.saturating_mul(10) {
            if cursor >> CURSOR_BITS != 0 {
                return 0;
            }
            let segment = &self.segments[self.segment_of(cursor << (64 - CURSOR_BITS))];
            let mut found: Vec<(u64, &T)> = Vec::with_capacity(segment.slots.len());
            found.extend(
                segment.slots.iter().map(|value| (cursor_of(hash_of(value)), value)).filter(|(at, _)| *at >= cursor),
            );
            if found.len() > count - seen {
                found.sort_unstable_by_key(|(at, _)| *at);
                let last = found[count - seen - 1].0;
                found.iter().take_while(|(at, _)| *at <= last).for_each(|(_, value)| visit(value));
                let rest_is_seen = found[found.len() - 1].0 == last;
                cursor = if rest_is_seen { segment.end() } else { last + 1 };
                break;
            }
            seen += found.len();
            found.iter().for_each(|(_, value)| visit(value));
            cursor = segment.end();
            if seen == count {
                break;
            }
        }
        if cursor >> CURSOR_BITS != 0 { 0 } else { cursor }
    }

    /// A value, each as likely as every other. `random` gives evenly distributed numbers.
    pub fn random(&self, random: &mut dyn FnMut() -> u64) -> Option<&T> {
        if self.len == 0 {
            return None;
        }
        // Segments are drawn evenly and accepted by how full they are, which makes all values equally likely.
        loop {
            let segment = &self.segments[below(random(), self.segments.len())];
            let len = segment.slots.len();
            if len > SEGMENT_LEN_MAX || self.segments.len() == 1 {
                // Overfull only by equal hashes, or alone: no need to be rejected.
                return segment.slots.iter().nth(below(random(), len));
            }
            if let Some(value) = Some(below(random(), SEGMENT_LEN_MAX)).filter(|place| *place < len) {
                return segment.slots.iter().nth(value);
            }
        }
    }

    fn split(&mut self, index: usize, hash_of: &impl Fn(&T) -> u64) {
        let (prefix, depth) = (self.segments[index].prefix, self.segments[index].depth + 1);
        if depth > self.depth {
            self.directory = self.directory.iter().flat_map(|segment| [*segment, *segment]).collect();
            self.depth += 1;
        }
        let values = std::mem::take(&mut self.segments[index].slots);
        self.bucket_bytes -= values.allocation_size();
        let mut halves = [HashTable::with_capacity(values.len() / 2), HashTable::with_capacity(values.len() / 2)];
        for value in values {
            let hash = hash_of(&value);
            let upper = (hash >> (64 - u32::from(depth))) & 1;
            halves[upper as usize].insert_unique(bucket_hash(hash), value, |value| bucket_hash(hash_of(value)));
        }
        let [lower, upper] = halves;
        self.bucket_bytes += lower.allocation_size() + upper.allocation_size();
        let new_index = self.segments.len() as u32;
        self.segments[index] = Segment { slots: lower, prefix: prefix << 1, depth };
        self.segments.push(Segment { slots: upper, prefix: prefix << 1 | 1, depth });
        self.point_directory(new_index as usize);
    }

    /// Joins a segment with the other half it was once split from, if that is still whole and both together are small.
    fn join(&mut self, index: usize, hash_of: &impl Fn(&T) -> u64) {
        let Segment { prefix, depth, .. } = self.segments[index];
        if depth == 0 {
            return;
        }
        let shift = self.depth - depth;
        let other = self.directory[((prefix ^ 1) as usize) << shift] as usize;
        let together = self.segments[index].slots.len() + self.segments[other].slots.len();
        if self.segments[other].depth != depth || together >= SEGMENT_PAIR_LEN_MIN {
            return;
        }
        let moved = std::mem::take(&mut self.segments[other].slots);
        let joined = &mut self.segments[index].slots;
        self.bucket_bytes -= moved.allocation_size() + joined.allocation_size();
        for value in moved {
            let hash = bucket_hash(hash_of(&value));
            joined.insert_unique(hash, value, |value| bucket_hash(hash_of(value)));
        }
        self.bucket_bytes += joined.allocation_size();
        self.segments[index].prefix = prefix >> 1;
        self.segments[index].depth = depth - 1;
        self.point_directory(index);

        // The last segment takes the place of the one that is gone.
        self.segments.swap_remove(other);
        if other < self.segments.len() {
            self.point_directory(other);
        }
        if self.segments.len() == 1 {
            self.directory = vec![0];
            self.depth = 0;
        }
    }

    fn point_directory(&mut self, index: usize) {
        let Segment { prefix, depth, .. } = self.segments[index];
        let shift = self.depth - depth;
        let first = (prefix as usize) << shift;
        self.directory[first..first + (1 << shift)].fill(index as u32);
    }
}

impl<T> Segment<T> {
    /// The cursor behind all hashes that belong here.
    fn end(&self) -> u64 {
        (u64::from(self.prefix) + 1) << (CURSOR_BITS - u32::from(self.depth))
    }
}

/// A number below `limit` out of an evenly distributed one.
#[inline]
pub(super) fn below(random: u64, limit: usize) -> usize {
    ((u128::from(random) * limit as u128) >> 64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_weight_of_the_buckets_is_kept_right() {
        let hash_of = |value: &u32| hash_bytes(1, &value.to_le_bytes());
        let mut table = Table::new();
        let actual =
            |table: &Table<u32>| table.segments.iter().map(|segment| segment.slots.allocation_size()).sum::<usize>();
        for value in 0..20_000 {
            table.insert_new(hash_of(&value), value, hash_of);
        }
        assert_eq!(table.bucket_bytes, actual(&table));
        for value in 0..19_990 {
            assert_eq!(table.remove(hash_of(&value), |other| *other == value, hash_of), Some(value));
        }
        assert_eq!(table.bucket_bytes, actual(&table));
        assert_eq!((table.len(), table.iter().count()), (10, 10));
    }

    #[test]
    fn a_table_made_for_many_is_as_one_that_grew() {
        let hash_of = |value: &u32| hash_bytes(1, &value.to_le_bytes());
        for wanted in [0, 1, 448, 449, 1000, 20_000] {
            let mut table = Table::with_capacity(wanted as usize);
            let segments = table.segments.len();
            (0..wanted).for_each(|value| table.insert_new(hash_of(&value), value, hash_of));
            assert_eq!(table.segments.len(), segments, "{wanted} find room");
            (wanted..wanted + 3000).for_each(|value| table.insert_new(hash_of(&value), value, hash_of));
            let actual = table.segments.iter().map(|segment| segment.slots.allocation_size()).sum::<usize>();
            assert_eq!(table.bucket_bytes, actual);
            let found = |value: u32| table.find(hash_of(&value), |other| *other == value).is_some();
            assert!((0..wanted + 3000).all(found) && !found(wanted + 3000));
            let (mut seen, mut cursor) = (BTreeSet::new(), 0);
            loop {
                cursor = table.scan(cursor, 10, hash_of, |value| _ = seen.insert(*value));
                if cursor == 0 {
                    break;
                }
            }
            assert_eq!(seen.len(), table.len());
        }
    }

    #[test]
    fn many_values_can_be_taken_out_at_once() {
        let hash_of = |value: &u32| hash_bytes(1, &value.to_le_bytes());
        for left in [0, 1, 10, 1000, 19_999, 20_000] {
            let mut table = Table::new();
            (0..20_000).for_each(|value| table.insert_new(hash_of(&value), value, hash_of));
            table.retain(|value| *value < left);
            table.tighten(hash_of);
            assert_eq!((table.len(), table.iter().count()), (left as usize, left as usize));
            let actual = table.segments.iter().map(|segment| segment.slots.allocation_size()).sum::<usize>();
            assert_eq!(table.bucket_bytes, actual);
            assert!(left > 100 || table.segments.len() <= 2, "{left} values in {} segments", table.segments.len());
            let found = |value: u32| table.find(hash_of(&value), |other| *other == value).copied();
            assert!((0..20_000).all(|value| found(value) == Some(value).filter(|value| *value < left)));
            assert!(table.iter_ahead(|_| {}).eq(table.iter()));
            let mut seen = Vec::new();
            let mut cursor = 0;
            loop {
                cursor = table.scan(cursor, 100, hash_of, |value| seen.push(*value));
                if cursor == 0 {
                    break;
                }
            }
            seen.sort_unstable();
            assert!(seen.into_iter().eq(0..left));
        }
    }
}
