//! Elements in order, from two ends. Knows no command.
//!
//! A small list is one packed run; a big one is a row of such runs, "nodes", each as big as the limit allows. An element bigger than
//! that is a node of its own. The row keeps how many elements each node has, so finding an index touches no node but one.

use std::ops::Range;

use super::Limits;
use super::list_nodes::{Node, NodeLimit, Nodes};
use super::packed::{Item, Packed, PackedIter};
use super::text::Text;
use super::word::{Form, FormMut, Slim};

/// A list. Grows out of its small form by itself, and back when it is half as small as it would have to be.
#[derive(Clone)]
#[repr(transparent)]
pub struct List(Slim<Nodes>);

/// One of the two ends of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The end with index 0: left, head.
    Front,
    /// The end with the last index: right, tail.
    Back,
}

/// A side of an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Nearer to the front.
    Before,
    /// Nearer to the back.
    After,
}

impl Default for List {
    fn default() -> List {
        List::new()
    }
}

impl List {
    /// A list without elements.
    pub fn new() -> List {
        List(Slim::small(Packed::new()))
    }

    /// How many elements there are.
    pub fn len(&self) -> usize {
        match self.0.form() {
            Form::Small(packed) => packed.len(),
            Form::Big(nodes) => nodes.len,
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The encoding's name in OBJECT ENCODING.
    pub fn encoding(&self) -> &'static str {
        match self.0.form() {
            Form::Small(_) => "listpack",
            Form::Big(_) => "quicklist",
        }
    }

    /// About what this list holds on the heap.
    pub fn memory_bytes(&self) -> usize {
        match self.0.form() {
            Form::Small(packed) => packed.heap_bytes(),
            Form::Big(nodes) => Slim::<Nodes>::BIG_BYTES + nodes.row.capacity() * size_of::<Node>() + nodes.heap_bytes,
        }
    }

    /// Whether what was counted on the way equals a count of everything.
    pub fn is_counted_right(&self) -> bool {
        let Form::Big(nodes) = self.0.form() else { return true };
        let counted = nodes.row.iter().map(|node| (node.packed.len(), node.packed.heap_bytes()));
        (nodes.len, nodes.heap_bytes) == counted.fold((0, 0), |sum, node| (sum.0 + node.0, sum.1 + node.1))
    }

    /// Adds elements at an end, one after the other: the last of them is outermost afterwards.
    pub fn push(&mut self, end: End, elements: &[&[u8]], limits: &Limits) {
        let limit = NodeLimit::of(limits);
        self.grow(elements.iter().map(|element| element.len()).sum(), elements.len(), limit);
        for element in elements {
            let item = Item::of(element);
            match self.0.form_mut() {
                FormMut::Small(packed) if end == End::Front => packed.push_front(item),
                FormMut::Small(packed) => packed.push_back(item),
                FormMut::Big(nodes) => nodes.push(end, item, limit),
            }
        }
    }

    /// Adds all of a run at the back, as a node of its own unless it goes into the last one. False: it is too big for a node.
    pub(crate) fn push_run(&mut self, run: Packed, limits: &Limits) -> bool {
        let limit = NodeLimit::of(limits);
        if !limit.allows(run.listpack_bytes(), run.len()) {
            return false;
        }
        self.grow(run.used(), run.len(), limit);
        match self.0.form_mut() {
            FormMut::Small(packed) if packed.is_empty() => *packed = run,
            FormMut::Small(packed) => packed.append(&run),
            FormMut::Big(nodes) => nodes.push_run(run, limit),
        }
        true
    }

    /// The runs it is made of, in order.
    pub(crate) fn runs(&self) -> impl Iterator<Item = &Packed> {
        let (small, big) = match self.0.form() {
            Form::Small(packed) => (Some(packed), None),
            Form::Big(nodes) => (None, Some(nodes)),
        };
        small.into_iter().chain(big.into_iter().flat_map(|nodes| nodes.row.iter().map(|node| &node.packed)))
    }

    /// The element at an end.
    pub fn peek(&self, end: End) -> Option<Text<'_>> {
        let last = self.len().checked_sub(1)?;
        self.get(if end == End::Front { 0 } else { last })
    }

    /// Takes off the element at an end.
    pub fn pop(&mut self, end: End, limits: &Limits) -> Option<Vec<u8>> {
        let element = self.peek(end)?.into_vec();
        self.drop_many(end, 1, limits);
        Some(element)
    }

    /// Takes `count` elements off an end, or as many as there are.
    pub fn drop_many(&mut self, end: End, count: usize, limits: &Limits) {
        let len = self.len();
        match self.0.form_mut() {
            FormMut::Small(packed) if end == End::Front => packed.remove(packed.start(), count),
            FormMut::Small(packed) => {
                let position = packed.locate(len.saturating_sub(count)).unwrap_or(packed.end());
                packed.remove(position, count);
            }
            FormMut::Big(nodes) => nodes.drop_many(end, count),
        }
        self.shrink(NodeLimit::of(limits));
    }

    /// The element with this index, counted from the front.
    pub fn get(&self, index: usize) -> Option<Text<'_>> {
        match self.0.form() {
            Form::Small(packed) => packed.locate(index).map(|position| packed.get(position).text()),
            Form::Big(nodes) => {
                let (node, within) = nodes.locate(index)?;
                let packed = &nodes.row[node].packed;
                packed.locate(within).map(|position| packed.get(position).text())
            }
        }
    }

    /// Puts another element in place of the one with this index; false if there is none.
    pub fn set(&mut self, index: usize, element: &[u8], limits: &Limits) -> bool {
        if index >= self.len() {
            return false;
        }
        let limit = NodeLimit::of(limits);
        self.grow(element.len(), 1, limit);
        let item = Item::of(element);
        match self.0.form_mut() {
            FormMut::Small(packed) => {
                if let Some(position) = packed.locate(index) {
                    packed.replace(position, item);
                }
            }
            FormMut::Big(nodes) => {
                if let Some((node, within)) = nodes.locate(index)
                    && let Some(position) = nodes.row[node].packed.locate(within)
                {
                    nodes.replace(node, position, item, limit);
                }
            }
        }
        self.shrink(limit);
        true
    }

    /// Inserts an element beside the first one equal to `pivot`; false if there is none.
    pub fn insert(&mut self, side: Side, pivot: &[u8], element: &[u8], limits: &Limits) -> bool {
        let limit = NodeLimit::of(limits);
        // Redis decides about the form before it looks for the pivot, and so the encoding shows it.
        self.grow(element.len(), 1, limit);
        let (pivot, item) = (Item::of(pivot), Item::of(element));
        let beside = |packed: &Packed, position| {
            if side == Side::Before { position } else { packed.next(position) }
        };
        match self.0.form_mut() {
            FormMut::Small(packed) => {
                let found = packed.find(packed.start(), pivot, 0);
                found.inspect(|position| _ = packed.insert(beside(packed, *position), item)).is_some()
            }
            FormMut::Big(nodes) => {
                let find = |node: &Node| node.packed.find(node.packed.start(), pivot, 0);
                let found = nodes.row.iter().enumerate().find_map(|(index, node)| Some((index, find(node)?)));
                let Some((node, position)) = found else {
                    return false;
                };
                nodes.insert(node, beside(&nodes.row[node].packed, position), item, limit);
                true
            }
        }
    }

    /// Takes out elements equal to `element`: at most `max` of them, beginning from that end. Returns how many.
    pub fn remove(&mut self, element: &[u8], from: End, max: usize, limits: &Limits) -> usize {
        let item = Item::of(element);
        let limit = NodeLimit::of(limits);
        let removed = match self.0.form_mut() {
            FormMut::Small(packed) => remove_equal(packed, item, from, max),
            FormMut::Big(nodes) => {
                let mut removed = 0;
                let count = nodes.row.len();
                for step in 0..count {
                    let index = if from == End::Front { step } else { count - 1 - step };
                    removed += nodes.change(index, |node| {
                        let removed = remove_equal(&mut node.packed, item, from, max - removed);
                        node.len -= removed as u32;
                        removed
                    });
                    if removed == max {
                        break;
                    }
                }
                if removed > 0 {
                    (0..count).rev().for_each(|index| nodes.tidy(index, limit));
                }
                removed
            }
        };
        self.shrink(limit);
        removed
    }

    /// Keeps only the elements with an index in that range.
    pub fn trim(&mut self, keep: Range<usize>, limits: &Limits) {
        let len = self.len();
        let end = keep.end.min(len);
        let start = keep.start.min(end);
        self.drop_many(End::Back, len - end, limits);
        self.drop_many(End::Front, start, limits);
    }

    /// The indices of elements equal to `element`, from that end on, looking at no more than `look_at` elements.
    pub fn positions<'a>(&'a self, element: &'a [u8], from: End, look_at: usize) -> impl Iterator<Item = usize> + 'a {
        let wanted = Item::of(element);
        let len = self.len();
        let mut items = self.items(0..len);
        let mut looked_at = 0;
        std::iter::from_fn(move || {
            while looked_at < look_at {
                let item = if from == End::Front { items.next()? } else { items.next_back()? };
                looked_at += 1;
                if item == wanted {
                    return Some(if from == End::Front { looked_at - 1 } else { len - looked_at });
                }
            }
            None
        })
    }

    /// The elements with an index in that range, to be walked from either end.
    pub fn range(&self, range: Range<usize>) -> ListIter<'_> {
        ListIter(self.items(range))
    }

    /// All elements, to be walked from either end.
    pub fn iter(&self) -> ListIter<'_> {
        self.range(0..self.len())
    }

    fn items(&self, range: Range<usize>) -> Items<'_> {
        let end = range.end.min(self.len());
        let start = range.start.min(end);
        let mut items =
            Items { nodes: None, front_node: 0, back_node: 0, front: None, back: None, remaining: end - start };
        if start == end {
            return items;
        }
        match self.0.form() {
            Form::Small(packed) => items.front = Some(packed.iter_range(start, end - start)),
            Form::Big(nodes) => {
                let (Some(first), Some(last)) = (nodes.locate(start), nodes.locate(end - 1)) else {
                    return items;
                };
                items.nodes = Some(nodes);
                (items.front_node, items.back_node) = (first.0, last.0);
                let packed = &nodes.row[first.0].packed;
                if first.0 == last.0 {
                    items.front = Some(packed.iter_range(first.1, end - start));
                } else {
                    items.front = Some(packed.iter_range(first.1, packed.len() - first.1));
                    items.back = Some(nodes.row[last.0].packed.iter_range(0, last.1 + 1));
                }
            }
        }
        items
    }

    fn grow(&mut self, more_bytes: usize, more_elements: usize, limit: NodeLimit) {
        if let FormMut::Small(packed) = self.0.form_mut()
            && !limit.allows(packed.listpack_bytes() + more_bytes, packed.len() + more_elements)
        {
            let mut nodes = Nodes::default();
            if !packed.is_empty() {
                nodes.insert_node(0, packed.clone());
            }
            self.0 = Slim::big(nodes);
        }
    }

    fn shrink(&mut self, limit: NodeLimit) {
        if let FormMut::Big(nodes) = self.0.form_mut()
            && nodes.row.len() <= 1
        {
            let packed = nodes.row.front_mut().map(|node| &mut node.packed);
            let small = |packed: &Packed| limit.half().allows(packed.listpack_bytes(), packed.len());
            if packed.as_ref().is_none_or(|packed| small(packed)) {
                self.0 = Slim::small(packed.map(std::mem::take).unwrap_or_default());
            }
        }
    }
}

fn remove_equal(packed: &mut Packed, item: Item<'_>, from: End, max: usize) -> usize {
    let mut removed = 0;
    if from == End::Front {
        let mut position = packed.start();
        while removed < max
            && let Some(found) = packed.find(position, item, 0)
        {
            packed.remove(found, 1);
            removed += 1;
            position = found;
        }
        return removed;
    }
    let mut position = packed.end();
    while removed < max && !packed.is_empty() && position > packed.start() {
        position = packed.previous(position);
        if packed.get(position) == item {
            packed.remove(position, 1);
            removed += 1;
        }
    }
    removed
}

/// Elements of a list, from either end.
pub struct ListIter<'a>(Items<'a>);

struct Items<'a> {
    nodes: Option<&'a Nodes>,
    front_node: usize,
    back_node: usize,
    front: Option<PackedIter<'a>>,
    back: Option<PackedIter<'a>>,
    remaining: usize,
}

impl<'a> Items<'a> {
    /// A node that neither end has come to yet.
    fn whole(&self, node: usize) -> Option<PackedIter<'a>> {
        Some(self.nodes?.row.get(node)?.packed.iter())
    }

    fn next(&mut self) -> Option<Item<'a>> {
        while self.remaining > 0 {
            if let Some(item) = self.front.as_mut().and_then(Iterator::next) {
                self.remaining -= 1;
                return Some(item);
            }
            self.front_node += 1;
            self.front = if self.front_node < self.back_node { self.whole(self.front_node) } else { self.back.take() };
        }
        None
    }

    fn next_back(&mut self) -> Option<Item<'a>> {
        while self.remaining > 0 {
            if let Some(item) = self.back.as_mut().and_then(DoubleEndedIterator::next_back) {
                self.remaining -= 1;
                return Some(item);
            }
            // No node is left between the two ends: the rest is what the front has not shown.
            let between = self.back_node > self.front_node + 1;
            self.back_node = self.back_node.saturating_sub(1);
            self.back = if between { self.whole(self.back_node) } else { self.front.take() };
        }
        None
    }
}

impl<'a> Iterator for ListIter<'a> {
    type Item = Text<'a>;

    fn next(&mut self) -> Option<Text<'a>> {
        self.0.next().map(Item::text)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.0.remaining, Some(self.0.remaining))
    }
}

impl<'a> DoubleEndedIterator for ListIter<'a> {
    fn next_back(&mut self) -> Option<Text<'a>> {
        self.0.next_back().map(Item::text)
    }
}

impl ExactSizeIterator for ListIter<'_> {}
