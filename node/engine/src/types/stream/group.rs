//! Those who share the reading of a stream: a group, its consumers, and what was given to them and not yet
//! acknowledged. Knows no entry: ids are enough.

use super::id::StreamId;
use super::id_map::IdMap;

/// An entry that was given to a consumer and not yet acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    /// When it was given out last, in milliseconds since 1970.
    pub delivered_at: i64,
    /// How often it was given out.
    pub deliveries: u64,
    consumer: u32,
}

/// Somebody who reads for a group.
#[derive(Clone)]
pub struct Consumer {
    name: Box<[u8]>,
    /// When it last tried to read, claim or the like, in milliseconds since 1970.
    pub seen_at: i64,
    /// When it last got something.
    pub active_at: Option<i64>,
    pending: IdMap<()>,
}

impl Consumer {
    /// Its name.
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// How many entries it has not acknowledged.
    pub fn pending_len(&self) -> usize {
        self.pending.len()
    }

    /// The ids of those from `id` on.
    pub fn pending_from(&self, id: StreamId) -> impl Iterator<Item = StreamId> + '_ {
        self.pending.from(id).map(|(id, ())| id)
    }
}

/// Consumers that share the entries of a stream.
pub struct Group {
    name: Box<[u8]>,
    /// The last entry given out.
    pub last_id: StreamId,
    /// How many entries of the stream were read so far, if that is known.
    pub entries_read: Option<u64>,
    pending: IdMap<Pending>,
    /// By number; a number is used again when its consumer is gone.
    consumers: Vec<Option<Consumer>>,
    /// Numbers in the order of names.
    by_name: Vec<u32>,
    names_bytes: usize,
    consumers_pending_bytes: usize,
}

impl Clone for Group {
    fn clone(&self) -> Group {
        let consumers = self.consumers.clone();
        let pending_bytes = consumers.iter().flatten().map(|consumer| consumer.pending.heap_bytes()).sum();
        Group {
            name: self.name.clone(),
            pending: self.pending.clone(),
            consumers,
            by_name: self.by_name.clone(),
            consumers_pending_bytes: pending_bytes,
            ..*self
        }
    }
}

impl Group {
    pub(super) fn new(name: &[u8], last_id: StreamId, entries_read: Option<u64>) -> Group {
        Group {
            name: name.into(),
            last_id,
            entries_read,
            pending: IdMap::new(),
            consumers: Vec::new(),
            by_name: Vec::new(),
            names_bytes: 0,
            consumers_pending_bytes: 0,
        }
    }

    /// What it holds on the heap.
    pub(super) fn heap_bytes(&self) -> usize {
        self.name.len()
            + self.pending.heap_bytes()
            + self.consumers.capacity() * size_of::<Option<Consumer>>()
            + self.by_name.capacity() * size_of::<u32>()
            + self.names_bytes
            + self.consumers_pending_bytes
    }

    /// Whether what was counted on the way equals a count of everything.
    pub(super) fn is_counted_right(&self) -> bool {
        let consumers = || self.consumers.iter().flatten();
        self.names_bytes == consumers().map(|consumer| consumer.name.len()).sum::<usize>()
            && self.consumers_pending_bytes == consumers().map(|one| one.pending.heap_bytes()).sum::<usize>()
            && self.pending.is_counted_right()
            && consumers().all(|consumer| consumer.pending.is_counted_right())
    }

    /// Its name.
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    // ---- consumers ----

    fn rank(&self, name: &[u8]) -> Result<usize, usize> {
        self.by_name.binary_search_by(|number| self.numbered(*number).name().cmp(name))
    }

    /// The consumer with this number, which came from this group.
    pub fn numbered(&self, number: u32) -> &Consumer {
        self.consumers[number as usize].as_ref().expect("a pending entry's consumer is there")
    }

    /// Whose a pending entry is.
    pub fn owner(&self, pending: &Pending) -> &Consumer {
        self.numbered(pending.consumer)
    }

    /// The number of a consumer.
    pub fn number_of(&self, name: &[u8]) -> Option<u32> {
        self.rank(name).ok().map(|rank| self.by_name[rank])
    }

    /// The consumer of that name.
    pub fn consumer(&self, name: &[u8]) -> Option<&Consumer> {
        self.number_of(name).map(|number| self.numbered(number))
    }

    /// All of them, in the order of their names.
    pub fn consumers(&self) -> impl ExactSizeIterator<Item = &Consumer> {
        self.by_name.iter().map(|number| self.numbered(*number))
    }

    /// Adds a consumer; `None` if there is one of that name.
    pub fn add_consumer(&mut self, name: &[u8], now: i64) -> Option<u32> {
        let rank = self.rank(name).err()?;
        let consumer = Consumer { name: name.into(), seen_at: now, active_at: None, pending: IdMap::new() };
        self.names_bytes += name.len();
        let some_free = self.by_name.len() < self.consumers.len();
        let free = if some_free { self.consumers.iter().position(Option::is_none) } else { None };
        let number = match free {
            Some(free) => {
                self.consumers[free] = Some(consumer);
                free
            }
            None => {
                self.consumers.push(Some(consumer));
                self.consumers.len() - 1
            }
        } as u32;
        self.by_name.insert(rank, number);
        Some(number)
    }

    /// Removes a consumer and forgets what it has not acknowledged; how much that was.
    pub fn remove_consumer(&mut self, name: &[u8]) -> Option<usize> {
        let number = self.by_name.remove(self.rank(name).ok()?);
        let consumer = self.consumers[number as usize].take()?;
        self.names_bytes -= consumer.name.len();
        self.consumers_pending_bytes -= consumer.pending.heap_bytes();
        for (id, ()) in consumer.pending.iter() {
            self.pending.remove(id);
        }
        Some(consumer.pending.len())
    }

    /// Notes that a consumer was heard of.
    pub fn see(&mut self, number: u32, now: i64) {
        self.change(number, |consumer| consumer.seen_at = now);
    }

    /// Notes that a consumer got something.
    pub fn activate(&mut self, number: u32, at: Option<i64>) {
        self.change(number, |consumer| consumer.active_at = at);
    }

    fn change<R>(&mut self, number: u32, change: impl FnOnce(&mut Consumer) -> R) -> R {
        let consumer = self.consumers[number as usize].as_mut().expect("a pending entry's consumer is there");
        let before = consumer.pending.heap_bytes();
        let result = change(consumer);
        self.consumers_pending_bytes = self.consumers_pending_bytes + consumer.pending.heap_bytes() - before;
        result
    }

    // ---- pending entries ----

    /// How many entries are pending.
    pub fn pending_len(&self) -> usize {
        self.pending.len()
    }

    /// The lowest and the highest id of those.
    pub fn pending_span(&self) -> Option<(StreamId, StreamId)> {
        Some((self.pending.first()?, self.pending.last()?))
    }

    /// What is known of a pending entry.
    pub fn pending(&self, id: StreamId) -> Option<Pending> {
        self.pending.get(id)
    }

    /// Pending entries from this id on.
    pub fn pending_from(&self, id: StreamId) -> impl Iterator<Item = (StreamId, Pending)> + '_ {
        self.pending.from(id)
    }

    /// Gives an entry to a consumer, whoever had it.
    pub fn give(&mut self, id: StreamId, number: u32, delivered_at: i64, deliveries: u64) {
        let before = self.pending.insert(id, Pending { delivered_at, deliveries, consumer: number });
        match before {
            Some(before) if before.consumer == number => return,
            Some(before) => _ = self.change(before.consumer, |consumer| consumer.pending.remove(id)),
            None => {}
        }
        self.change(number, |consumer| consumer.pending.insert(id, ()));
    }

    /// An entry is dealt with, or gone; whether it was pending.
    pub fn acknowledge(&mut self, id: StreamId) -> bool {
        let Some(pending) = self.pending.remove(id) else { return false };
        self.change(pending.consumer, |consumer| consumer.pending.remove(id));
        true
    }
}
