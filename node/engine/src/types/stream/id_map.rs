//! Things in the order of ids, most of them added at the end: rows in chunks of bounded size, so that taking one out
//! anywhere moves little, and what it holds on the heap is known to the byte. Knows nothing of what it keeps.

use super::id::StreamId;

/// Rows a chunk holds at most: few enough to be moved in no time, enough to make the chunks' own cost vanish.
const CHUNK_ROWS_MAX: usize = 128;

type Chunk<T> = Vec<(StreamId, T)>;

/// An ordered map from ids to small things.
pub(super) struct IdMap<T> {
    /// Never an empty one among them.
    chunks: Vec<Chunk<T>>,
    len: usize,
    rows_capacity: usize,
}

impl<T: Copy> Clone for IdMap<T> {
    fn clone(&self) -> IdMap<T> {
        let chunks = self.chunks.clone();
        let rows_capacity = chunks.iter().map(Vec::capacity).sum();
        IdMap { chunks, rows_capacity, ..*self }
    }
}

impl<T: Copy> IdMap<T> {
    pub fn new() -> IdMap<T> {
        IdMap { chunks: Vec::new(), len: 0, rows_capacity: 0 }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn heap_bytes(&self) -> usize {
        self.chunks.capacity() * size_of::<Chunk<T>>() + self.rows_capacity * size_of::<(StreamId, T)>()
    }

    /// Whether what was counted on the way equals a count of everything.
    pub fn is_counted_right(&self) -> bool {
        let counted = self.chunks.iter().fold((0, 0), |sum, chunk| (sum.0 + chunk.len(), sum.1 + chunk.capacity()));
        (self.len, self.rows_capacity) == counted
    }

    /// The chunk that has the id or would have it, and where in it. `Err`: it is not there.
    fn find(&self, id: StreamId) -> (usize, Result<usize, usize>) {
        let chunk = self.chunks.partition_point(|chunk| chunk[0].0 <= id).saturating_sub(1);
        let row = self.chunks.get(chunk).map_or(Err(0), |rows| rows.binary_search_by_key(&id, |row| row.0));
        (chunk, row)
    }

    pub fn get(&self, id: StreamId) -> Option<T> {
        let (chunk, row) = self.find(id);
        row.ok().map(|row| self.chunks[chunk][row].1)
    }

    /// Sets what belongs to the id; what belonged to it before.
    pub fn insert(&mut self, id: StreamId, value: T) -> Option<T> {
        let (chunk, row) = match self.find(id) {
            (chunk, Ok(row)) => return Some(std::mem::replace(&mut self.chunks[chunk][row].1, value)),
            (chunk, Err(row)) => (chunk, row),
        };
        self.len += 1;
        let Some(rows) = self.chunks.get_mut(chunk) else {
            self.add_chunk(0, vec![(id, value)]);
            return None;
        };
        if rows.len() < CHUNK_ROWS_MAX {
            let capacity = rows.capacity();
            rows.insert(row, (id, value));
            self.rows_capacity += rows.capacity() - capacity;
            return None;
        }
        if row == CHUNK_ROWS_MAX {
            // At the very end, as a rule: what is full stays full.
            self.add_chunk(chunk + 1, vec![(id, value)]);
            return None;
        }
        let mut tail = rows.split_off(CHUNK_ROWS_MAX / 2);
        match row.checked_sub(CHUNK_ROWS_MAX / 2) {
            Some(row) => tail.insert(row, (id, value)),
            None => rows.insert(row, (id, value)),
        }
        self.add_chunk(chunk + 1, tail);
        None
    }

    fn add_chunk(&mut self, at: usize, rows: Chunk<T>) {
        self.rows_capacity += rows.capacity();
        self.chunks.insert(at, rows);
    }

    pub fn remove(&mut self, id: StreamId) -> Option<T> {
        let (chunk, Ok(row)) = self.find(id) else { return None };
        let rows = &mut self.chunks[chunk];
        let capacity = rows.capacity();
        let (_, value) = rows.remove(row);
        if rows.is_empty() {
            self.chunks.remove(chunk);
            if self.chunks.len() < self.chunks.capacity() / 4 {
                self.chunks.shrink_to(self.chunks.capacity() / 2);
            }
            self.rows_capacity -= capacity;
        } else if rows.len() < capacity / 4 {
            rows.shrink_to(capacity / 2);
            self.rows_capacity -= capacity - rows.capacity();
        }
        self.len -= 1;
        Some(value)
    }

    /// Everything from this id on.
    pub fn from(&self, id: StreamId) -> impl Iterator<Item = (StreamId, T)> + '_ {
        let (chunk, row) = self.find(id);
        let row = row.unwrap_or_else(|row| row);
        let chunks = self.chunks.get(chunk..).unwrap_or_default();
        chunks.iter().flatten().skip(row).copied()
    }

    pub fn iter(&self) -> impl Iterator<Item = (StreamId, T)> + '_ {
        self.chunks.iter().flatten().copied()
    }

    pub fn first(&self) -> Option<StreamId> {
        self.chunks.first().map(|rows| rows[0].0)
    }

    pub fn last(&self) -> Option<StreamId> {
        self.chunks.last().and_then(|rows| rows.last()).map(|row| row.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn it_holds_what_an_ordered_map_holds(steps in prop::collection::vec((0u8..8, 0u64..600), 1..1500)) {
            let mut map = IdMap::new();
            let mut model = BTreeMap::new();
            for (index, (kind, number)) in steps.iter().enumerate() {
                let id = StreamId::new(number / 7, *number);
                match kind {
                    0..=4 => prop_assert_eq!(map.insert(id, index), model.insert(id, index)),
                    5..=6 => prop_assert_eq!(map.remove(id), model.remove(&id)),
                    _ => prop_assert_eq!(
                        map.from(id).collect::<Vec<_>>(),
                        model.range(id..).map(|(id, at)| (*id, *at)).collect::<Vec<_>>()
                    ),
                }
                prop_assert_eq!(map.get(id), model.get(&id).copied());
                prop_assert_eq!(map.len(), model.len());
            }
            let rows: usize = map.chunks.iter().map(Vec::capacity).sum();
            prop_assert_eq!(rows, map.rows_capacity);
            prop_assert_eq!(map.first(), model.keys().next().copied());
            prop_assert_eq!(map.last(), model.keys().next_back().copied());
            prop_assert_eq!(map.iter().collect::<Vec<_>>(), model.into_iter().collect::<Vec<_>>());
        }
    }
}
