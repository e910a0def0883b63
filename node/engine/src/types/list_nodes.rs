//! The big form of a list: a row of packed runs, each as big as the limit allows. Knows when a run is full, and keeps the count of
//! each beside it, so that finding an index touches no run but one. Does not know when a list is big.

use std::collections::VecDeque;

use super::Limits;
use super::list::End;
use super::packed::{Item, Packed};

/// With a limit given in elements, a node is full at this many bytes all the same.
const NODE_BYTES_SAFE: usize = 8192;
/// What Redis reckons an element costs besides its bytes.
const ELEMENT_OVERHEAD_BYTES: usize = 8;

/// A row of nodes.
#[derive(Clone, Default)]
pub(super) struct Nodes {
    pub row: VecDeque<Node>,
    pub len: usize,
    pub heap_bytes: usize,
}

/// A packed run, and how many elements it has.
#[derive(Clone)]
pub(super) struct Node {
    pub packed: Packed,
    pub len: u32,
}

/// What `list-max-listpack-size` means.
#[derive(Clone, Copy)]
pub(super) struct NodeLimit {
    bytes: usize,
    elements: usize,
}

impl NodeLimit {
    pub fn of(limits: &Limits) -> NodeLimit {
        match limits.list_listpack_size {
            0 => NodeLimit { bytes: NODE_BYTES_SAFE, elements: 1 },
            elements @ 1.. => NodeLimit { bytes: NODE_BYTES_SAFE, elements: elements as usize },
            step => NodeLimit { bytes: 2048 << step.unsigned_abs().min(5), elements: usize::MAX },
        }
    }

    pub fn allows(self, bytes: usize, elements: usize) -> bool {
        bytes <= self.bytes && elements <= self.elements
    }

    pub fn half(self) -> NodeLimit {
        NodeLimit { bytes: self.bytes / 2, elements: self.elements / 2 }
    }
}

impl Node {
    pub fn new(packed: Packed) -> Node {
        Node { len: packed.len() as u32, packed }
    }

    pub fn has_room(&self, item: Item<'_>, limit: NodeLimit) -> bool {
        let bytes = self.packed.listpack_bytes() + item.text().len() + ELEMENT_OVERHEAD_BYTES;
        self.len == 0 || limit.allows(bytes, self.len as usize + 1)
    }

    pub fn insert(&mut self, position: usize, item: Item<'_>) {
        self.packed.insert(position, item);
        self.len += 1;
    }
}

impl Nodes {
    /// Changes a node, keeping the totals right.
    pub fn change<R>(&mut self, index: usize, change: impl FnOnce(&mut Node) -> R) -> R {
        let node = &mut self.row[index];
        let (len, bytes) = (node.len as usize, node.packed.heap_bytes());
        let result = change(node);
        self.len = self.len - len + node.len as usize;
        self.heap_bytes = self.heap_bytes - bytes + node.packed.heap_bytes();
        result
    }

    pub fn insert_node(&mut self, index: usize, packed: Packed) {
        let node = Node::new(packed);
        self.len += node.len as usize;
        self.heap_bytes += node.packed.heap_bytes();
        self.row.insert(index, node);
    }

    pub fn remove_node(&mut self, index: usize) {
        if let Some(node) = self.row.remove(index) {
            self.len -= node.len as usize;
            self.heap_bytes -= node.packed.heap_bytes();
        }
    }

    pub fn push(&mut self, end: End, item: Item<'_>, limit: NodeLimit) {
        let index = if end == End::Front { 0 } else { self.row.len().saturating_sub(1) };
        if self.row.get(index).is_some_and(|node| node.has_room(item, limit)) {
            let at = |node: &Node| {
                if end == End::Front { node.packed.start() } else { node.packed.end() }
            };
            self.change(index, |node| node.insert(at(node), item));
            return;
        }
        if self.row.get(index).is_some() {
            // It will not be pushed to again.
            self.change(index, |node| node.packed.shrink());
        }
        let mut packed = Packed::new();
        packed.push_back(item);
        self.insert_node(if end == End::Front { 0 } else { self.row.len() }, packed);
    }

    /// Adds a run behind the last node, or to it if there is room.
    pub fn push_run(&mut self, run: Packed, limit: NodeLimit) {
        let fits = |last: &Node| {
            let bytes = last.packed.listpack_bytes() + run.used();
            limit.allows(bytes, last.len as usize + run.len())
        };
        let last = self.row.len().wrapping_sub(1);
        if self.row.get(last).is_some_and(fits) {
            self.change(last, |node| {
                node.packed.append(&run);
                node.len += run.len() as u32;
            });
        } else {
            self.insert_node(self.row.len(), run);
        }
    }

    /// The node that has the element with this index, and the index within the node.
    pub fn locate(&self, index: usize) -> Option<(usize, usize)> {
        if index >= self.len {
            return None;
        }
        if index < self.len / 2 {
            let mut left = index;
            for (node_index, node) in self.row.iter().enumerate() {
                if left < node.len as usize {
                    return Some((node_index, left));
                }
                left -= node.len as usize;
            }
            return None;
        }
        let mut behind = self.len;
        for (node_index, node) in self.row.iter().enumerate().rev() {
            behind -= node.len as usize;
            if index >= behind {
                return Some((node_index, index - behind));
            }
        }
        None
    }

    /// Inserts at a position within a node, splitting the node if it is full.
    pub fn insert(&mut self, node_index: usize, position: usize, item: Item<'_>, limit: NodeLimit) {
        if self.row[node_index].has_room(item, limit) {
            self.change(node_index, |node| node.insert(position, item));
            return;
        }
        let tail = self.split(node_index, position);
        let mut packed = Packed::new();
        packed.push_back(item);
        self.insert_node(node_index + 1, packed);
        if !tail.is_empty() {
            self.insert_node(node_index + 2, tail);
        }
        self.tidy(node_index + 1, limit);
        self.tidy(node_index, limit);
    }

    pub fn split(&mut self, node_index: usize, position: usize) -> Packed {
        self.change(node_index, |node| {
            let tail = node.packed.split_off(position);
            node.len = node.packed.len() as u32;
            tail
        })
    }

    pub fn replace(&mut self, node_index: usize, position: usize, item: Item<'_>, limit: NodeLimit) {
        let node = &self.row[node_index];
        if node.len == 1 || limit.allows(node.packed.listpack_bytes() + item.text().len() + ELEMENT_OVERHEAD_BYTES, 0) {
            self.change(node_index, |node| node.packed.replace(position, item));
            return;
        }
        self.change(node_index, |node| {
            node.packed.remove(position, 1);
            node.len -= 1;
        });
        self.insert(node_index, position, item, limit);
    }

    /// Removes a node if it is empty, or joins it with the next if both fit one.
    pub fn tidy(&mut self, node_index: usize, limit: NodeLimit) {
        let Some(node) = self.row.get(node_index) else {
            return;
        };
        if node.len == 0 {
            self.remove_node(node_index);
            return;
        }
        let Some(next) = self.row.get(node_index + 1) else {
            return;
        };
        let bytes = node.packed.listpack_bytes() + next.packed.listpack_bytes();
        if limit.allows(bytes, (node.len + next.len) as usize) {
            let next = std::mem::take(&mut self.row[node_index + 1].packed);
            self.row[node_index + 1].len = 0;
            self.heap_bytes -= next.heap_bytes();
            self.len -= next.len();
            self.remove_node(node_index + 1);
            self.change(node_index, |node| {
                node.packed.append(&next);
                node.len = node.packed.len() as u32;
            });
        }
    }

    /// Takes elements off an end.
    pub fn drop_many(&mut self, end: End, count: usize) {
        let mut left = count;
        while left > 0 && !self.row.is_empty() {
            let index = if end == End::Front { 0 } else { self.row.len() - 1 };
            let len = self.row[index].len as usize;
            if len <= left {
                self.remove_node(index);
                left -= len;
                continue;
            }
            self.change(index, |node| {
                let from = if end == End::Front { 0 } else { len - left };
                let position = node.packed.locate(from).unwrap_or(node.packed.end());
                node.packed.remove(position, left);
                node.len -= left as u32;
            });
            left = 0;
        }
    }
}
