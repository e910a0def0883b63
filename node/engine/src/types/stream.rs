//! Entries in the order of their ids, and the groups that read them. Knows no command and no clock.
//!
//! Entries lie in packed nodes ([`node`]), each as big as the limits allow; nodes lie in a row, so that the two ends,
//! where nearly everything happens, are at hand, and any id is found by halving. Entries that are deleted are really
//! gone; of them only the highest id is remembered, because what a group has still to read cannot be counted across it.

mod group;
mod id;
mod id_map;
mod node;

pub use group::{Consumer, Group, Pending};
pub use id::{IdText, StreamId};
pub use node::StreamEntry;

use super::Limits;
use super::packed::Item;
use super::word::{Always, Slim};
use node::{Node, Word};
use std::collections::VecDeque;

/// No node grows beyond this, whatever the limits say.
const NODE_BYTES_MAX: usize = 1 << 30;

/// Which entries to keep when a stream is trimmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// The last so many.
    Last(u64),
    /// Those from this id on.
    From(StreamId),
}

/// A stream.
#[derive(Clone)]
#[repr(transparent)]
pub struct Stream(Always<Inner>);

pub(super) struct Inner {
    nodes: VecDeque<Node>,
    len: u64,
    last_id: StreamId,
    max_deleted_id: StreamId,
    entries_added: u64,
    /// In the order of their names.
    groups: Vec<Group>,
    nodes_bytes: usize,
    groups_bytes: usize,
}

impl Clone for Inner {
    /// A copy takes as much memory as it needs, not as much as the original has.
    fn clone(&self) -> Inner {
        let (nodes, groups) = (self.nodes.clone(), self.groups.clone());
        let (nodes_bytes, groups_bytes) =
            (nodes.iter().map(Node::heap_bytes).sum(), groups.iter().map(Group::heap_bytes).sum());
        Inner { nodes, groups, nodes_bytes, groups_bytes, ..*self }
    }
}

impl Default for Stream {
    fn default() -> Stream {
        Stream::new()
    }
}

impl Stream {
    /// A stream nothing was ever added to.
    pub fn new() -> Stream {
        Stream(Always::new(Inner {
            nodes: VecDeque::new(),
            len: 0,
            last_id: StreamId::MIN,
            max_deleted_id: StreamId::MIN,
            entries_added: 0,
            groups: Vec::new(),
            nodes_bytes: 0,
            groups_bytes: 0,
        }))
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.0.len as usize
    }

    /// Whether there are none; the stream is a value all the same.
    pub fn is_empty(&self) -> bool {
        self.0.len == 0
    }

    /// The encoding's name in OBJECT ENCODING.
    pub fn encoding(&self) -> &'static str {
        "stream"
    }

    /// What this stream holds on the heap.
    pub fn memory_bytes(&self) -> usize {
        let Inner { nodes, groups, nodes_bytes, groups_bytes, .. } = &*self.0;
        Slim::<Inner>::BIG_BYTES
            + nodes.capacity() * size_of::<Node>()
            + groups.capacity() * size_of::<Group>()
            + nodes_bytes
            + groups_bytes
    }

    /// Whether what was counted on the way equals a count of everything.
    pub fn is_counted_right(&self) -> bool {
        let Inner { nodes, groups, nodes_bytes, groups_bytes, .. } = &*self.0;
        *nodes_bytes == nodes.iter().map(Node::heap_bytes).sum::<usize>()
            && *groups_bytes == groups.iter().map(Group::heap_bytes).sum::<usize>()
            && groups.iter().all(Group::is_counted_right)
    }

    /// The highest id an entry ever had, or was set to be.
    #[inline]
    pub fn last_id(&self) -> StreamId {
        self.0.last_id
    }

    /// The highest id that was deleted.
    pub fn max_deleted_id(&self) -> StreamId {
        self.0.max_deleted_id
    }

    /// How many entries were ever added.
    pub fn entries_added(&self) -> u64 {
        self.0.entries_added
    }

    /// The id of the first entry; `StreamId::MIN` if there is none.
    pub fn first_id(&self) -> StreamId {
        self.0.nodes.front().map_or(StreamId::MIN, Node::first)
    }

    /// How many nodes the entries lie in.
    pub fn nodes_len(&self) -> usize {
        self.0.nodes.len()
    }

    /// Sets what a stream remembers of the past. `last_id` must not be below the id of an entry.
    pub fn set_history(&mut self, last_id: StreamId, entries_added: u64, max_deleted_id: StreamId) {
        let inner = &mut *self.0;
        (inner.last_id, inner.entries_added, inner.max_deleted_id) = (last_id, entries_added, max_deleted_id);
    }

    // ---- entries ----

    /// Adds an entry with fields and values in turn; its id must be higher than the last.
    pub fn append(&mut self, id: StreamId, pairs: &[&[u8]], limits: &Limits) {
        self.add(id, pairs, limits);
    }

    /// The same of fields and values as another form keeps them.
    pub(crate) fn append_items(&mut self, id: StreamId, pairs: &[Item<'_>], limits: &Limits) {
        self.add(id, pairs, limits);
    }

    #[inline]
    fn add<W: Word>(&mut self, id: StreamId, pairs: &[W], limits: &Limits) {
        assert!(id > self.0.last_id, "ids ascend");
        let inner = &mut *self.0;
        let bytes_max = match limits.stream_node_bytes_max {
            0 => NODE_BYTES_MAX,
            max => max.min(NODE_BYTES_MAX),
        };
        let entries_max = if limits.stream_node_entries_max == 0 { usize::MAX } else { limits.stream_node_entries_max };
        let mut same = inner.nodes.back().is_some_and(|node| node.has_names(pairs));
        let room = |node: &Node| node.has_room(pairs, same, bytes_max, entries_max);
        if !inner.nodes.back().is_some_and(room) {
            inner.open_node(id, pairs);
            same = true;
        }
        let node = inner.nodes.back_mut().expect("a node was opened");
        let before = node.heap_bytes();
        node.append(id, pairs, same);
        inner.nodes_bytes += node.heap_bytes() - before;
        inner.len += 1;
        inner.entries_added += 1;
        inner.last_id = id;
    }

    /// Whether an entry is there.
    pub fn contains(&self, id: StreamId) -> bool {
        self.range(id, id).next().is_some()
    }

    /// Entries from one id to another, both included.
    pub fn range(&self, start: StreamId, end: StreamId) -> Entries<'_> {
        let nodes = &self.0.nodes;
        let node = nodes.partition_point(|node| node.base() <= start).saturating_sub(1);
        let position = nodes.get(node).map_or(0, |node| node.seek(start));
        Entries { nodes, node, position, end }
    }

    /// The same, last first.
    pub fn range_back(&self, start: StreamId, end: StreamId) -> EntriesBack<'_> {
        let nodes = &self.0.nodes;
        let node = nodes.partition_point(|node| node.base() <= end);
        EntriesBack { nodes, node, positions: Vec::new(), start, end }
    }

    /// Deletes an entry; whether it was there.
    pub fn delete(&mut self, id: StreamId) -> bool {
        let inner = &mut *self.0;
        let Some(index) = inner.nodes.partition_point(|node| node.base() <= id).checked_sub(1) else { return false };
        let node = &mut inner.nodes[index];
        let before = node.heap_bytes();
        if !node.remove(id) {
            return false;
        }
        inner.nodes_bytes = inner.nodes_bytes + node.heap_bytes() - before;
        if node.len() == 0 {
            inner.nodes_bytes -= node.heap_bytes();
            inner.nodes.remove(index);
        }
        inner.len -= 1;
        inner.max_deleted_id = inner.max_deleted_id.max(id);
        true
    }

    /// Deletes entries from the front; how many. `whole_nodes` deletes no part of a node, so it may keep more.
    /// Stops before more than `limit` are deleted; 0 is none.
    pub fn trim(&mut self, keep: Keep, whole_nodes: bool, limit: u64) -> u64 {
        let inner = &mut *self.0;
        let mut deleted = 0;
        while let Some(node) = inner.nodes.front_mut() {
            let entries = node.len() as u64;
            let surplus = match keep {
                Keep::Last(max) => inner.len.saturating_sub(max),
                Keep::From(_) => entries,
            };
            let kept = matches!(keep, Keep::From(id) if node.first() >= id);
            if surplus == 0 || kept || (limit > 0 && deleted + entries > limit) {
                break;
            }
            let whole = match keep {
                Keep::Last(_) => surplus >= entries,
                Keep::From(id) => node.last() < id,
            };
            if whole {
                inner.nodes_bytes -= node.heap_bytes();
                inner.nodes.pop_front();
                inner.len -= entries;
                deleted += entries;
                continue;
            }
            if !whole_nodes {
                let mut left = surplus;
                let dropped = node.drop_front(|id| {
                    let goes = left > 0 && !matches!(keep, Keep::From(first) if id >= first);
                    left = left.saturating_sub(1);
                    goes
                }) as u64;
                inner.len -= dropped;
                deleted += dropped;
            }
            break;
        }
        deleted
    }

    // ---- groups ----

    /// All groups, in the order of their names.
    pub fn groups(&self) -> &[Group] {
        &self.0.groups
    }

    /// A copy that does not know when its consumers were last heard of.
    pub fn without_sightings(&self) -> Stream {
        let mut copy = self.clone();
        for group in &mut copy.0.groups {
            for number in group.consumers().filter_map(|consumer| group.number_of(consumer.name())).collect::<Vec<_>>()
            {
                group.see(number, 0);
                group.activate(number, None);
            }
        }
        copy
    }

    fn rank(&self, name: &[u8]) -> Result<usize, usize> {
        self.0.groups.binary_search_by(|group| group.name().cmp(name))
    }

    /// The group of that name.
    pub fn group(&self, name: &[u8]) -> Option<&Group> {
        self.rank(name).ok().map(|rank| &self.0.groups[rank])
    }

    /// Adds a group; false if there is one of that name.
    pub fn add_group(&mut self, name: &[u8], last_id: StreamId, entries_read: Option<u64>) -> bool {
        let Err(rank) = self.rank(name) else { return false };
        let group = Group::new(name, last_id, entries_read);
        self.0.groups_bytes += group.heap_bytes();
        self.0.groups.insert(rank, group);
        true
    }

    /// Removes a group; whether it was there.
    pub fn remove_group(&mut self, name: &[u8]) -> bool {
        let Ok(rank) = self.rank(name) else { return false };
        let group = self.0.groups.remove(rank);
        self.0.groups_bytes -= group.heap_bytes();
        true
    }

    /// Changes the group of that name; `None` if there is none.
    pub fn with_group<R>(&mut self, name: &[u8], change: impl FnOnce(&mut Group) -> R) -> Option<R> {
        let rank = self.rank(name).ok()?;
        let group = &mut self.0.groups[rank];
        let before = group.heap_bytes();
        let result = change(group);
        let after = group.heap_bytes();
        self.0.groups_bytes = self.0.groups_bytes + after - before;
        Some(result)
    }

    /// Whether an entry was deleted at this id or behind it, as far as that can be known.
    fn has_gap_from(&self, id: StreamId) -> bool {
        self.0.len > 0 && self.0.max_deleted_id != StreamId::MIN && id <= self.0.max_deleted_id
    }

    /// How many entries were added up to the one with this id, if that can be told.
    pub fn count_up_to(&self, id: StreamId) -> Option<u64> {
        let Inner { len, last_id, max_deleted_id, entries_added, .. } = *self.0;
        if entries_added == 0 {
            return Some(0);
        }
        if len == 0 && id <= last_id {
            return Some(entries_added);
        }
        if id != StreamId::MIN && id < max_deleted_id {
            return None;
        }
        if id >= last_id {
            return (id == last_id).then_some(entries_added);
        }
        let first = self.first_id();
        let gap_ahead = max_deleted_id != StreamId::MIN && max_deleted_id >= first;
        if gap_ahead || id > first {
            return None;
        }
        let before_first = entries_added.saturating_sub(len);
        Some(before_first + u64::from(id == first))
    }

    /// What a group has read once it was given the entry with this id, the next one after its last.
    pub fn read_on(&self, last_id: StreamId, entries_read: Option<u64>, id: StreamId) -> Option<u64> {
        match entries_read {
            Some(read) if last_id >= self.first_id() && !self.has_gap_from(last_id) => Some(read.saturating_add(1)),
            _ if self.0.entries_added > 0 => self.count_up_to(id),
            unchanged => unchanged,
        }
    }

    /// How many entries a group has not been given yet, if that can be told.
    pub fn lag(&self, group: &Group) -> Option<i64> {
        let added = self.0.entries_added as i64;
        if added == 0 {
            return Some(0);
        }
        let read = match group.entries_read {
            Some(read) if !self.has_gap_from(group.last_id) => Some(read),
            _ => self.count_up_to(group.last_id),
        };
        read.map(|read| added.wrapping_sub(read as i64))
    }
}

impl Inner {
    /// A node that will take about as much as the one before it, which is closed for good.
    fn open_node<W: Word>(&mut self, base: StreamId, pairs: &[W]) {
        /// What a first node begins with: most streams of few entries never need more.
        const FIRST_NODE_BYTES: usize = 48;
        /// Beyond this, a node grows by itself.
        const NODE_BYTES_AT_ONCE: usize = 4096;
        let mut capacity = FIRST_NODE_BYTES;
        if let Some(last) = self.nodes.back_mut() {
            let before = last.heap_bytes();
            last.shrink();
            self.nodes_bytes = self.nodes_bytes + last.heap_bytes() - before;
            capacity = (last.used_bytes() + last.used_bytes() / 32).min(NODE_BYTES_AT_ONCE);
        }
        let node = Node::open(base, pairs, capacity);
        self.nodes_bytes += node.heap_bytes();
        self.nodes.push_back(node);
    }
}

/// Entries, first to last.
#[derive(Clone)]
pub struct Entries<'a> {
    nodes: &'a VecDeque<Node>,
    node: usize,
    position: usize,
    end: StreamId,
}

impl<'a> Iterator for Entries<'a> {
    type Item = StreamEntry<'a>;

    fn next(&mut self) -> Option<StreamEntry<'a>> {
        let mut node = self.nodes.get(self.node)?;
        while self.position >= node.end() {
            self.node += 1;
            node = self.nodes.get(self.node)?;
            self.position = node.start();
        }
        let entry = node.entry_at(self.position);
        self.position = node.next(self.position);
        (entry.id <= self.end).then_some(entry)
    }
}

/// Entries, last to first.
#[derive(Clone)]
pub struct EntriesBack<'a> {
    nodes: &'a VecDeque<Node>,
    /// The node that is visited; one behind it before the first.
    node: usize,
    /// Where its entries begin that were not yet visited.
    positions: Vec<usize>,
    start: StreamId,
    end: StreamId,
}

impl<'a> Iterator for EntriesBack<'a> {
    type Item = StreamEntry<'a>;

    fn next(&mut self) -> Option<StreamEntry<'a>> {
        loop {
            let Some(position) = self.positions.pop() else {
                self.node = self.node.checked_sub(1)?;
                self.positions.extend(self.nodes[self.node].positions());
                continue;
            };
            let entry = self.nodes[self.node].entry_at(position);
            if entry.id < self.start {
                return None;
            }
            if entry.id <= self.end {
                return Some(entry);
            }
        }
    }
}
