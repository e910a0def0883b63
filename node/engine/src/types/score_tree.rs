//! A sequence in order that knows the rank of everything in it: a B+ tree whose inner nodes count what is below them. Knows neither
//! members nor how to compare them; the caller describes a spot by what comes before it.
//!
//! Leaves hold up to 128 places and are chained, so that a range is read straight on; there are few levels, and each is searched in
//! memory that lies side by side. Nodes live in arenas and point to each other by number.

use std::cmp::Ordering;

/// Where an element stands: what is needed to compare it, mostly without looking at the element itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Place {
    pub score: f64,
    /// The member's first bytes, read as a big-endian number.
    pub prefix: u32,
    /// The element's number with the owner.
    pub id: u32,
}

const _: () = assert!(size_of::<Place>() == 16);

/// Describes a spot in the sequence: what comes before it is a first stretch of the sequence.
pub(super) trait Spot {
    /// What the place alone tells: `Less` is before the spot, `Greater` is not, `Equal` needs a closer look.
    fn glance(&self, place: &Place) -> Ordering;

    /// Whether a place comes before the spot, looking at the element if need be.
    fn is_behind(&self, place: &Place) -> bool;
}

const LEAF_LEN_MAX: usize = 128;
const INNER_LEN_MAX: usize = 64;
const NONE: u32 = u32::MAX;

#[derive(Clone)]
struct Leaf {
    places: Vec<Place>,
    previous: u32,
    next: u32,
}

#[derive(Clone, Copy)]
struct Child {
    /// The first place below this child.
    first: Place,
    node: u32,
    count: u32,
}

/// The tree.
#[derive(Clone)]
pub(super) struct ScoreTree {
    leaves: Vec<Leaf>,
    inners: Vec<Vec<Child>>,
    free_leaves: Vec<u32>,
    free_inners: Vec<u32>,
    root: u32,
    /// Levels of inner nodes above the leaves.
    height: u32,
    len: usize,
}

impl ScoreTree {
    pub fn new() -> ScoreTree {
        let root = Leaf { places: Vec::new(), previous: NONE, next: NONE };
        ScoreTree {
            leaves: vec![root],
            inners: Vec::new(),
            free_leaves: Vec::new(),
            free_inners: Vec::new(),
            root: 0,
            height: 0,
            len: 0,
        }
    }

    /// A tree of places that are in order already.
    pub fn of_sorted(places: impl ExactSizeIterator<Item = Place>) -> ScoreTree {
        let len = places.len();
        if len == 0 {
            return ScoreTree::new();
        }
        let mut tree = ScoreTree { leaves: Vec::with_capacity(len.div_ceil(LEAF_LEN_MAX)), len, ..ScoreTree::new() };
        tree.leaves.clear();
        let mut level: Vec<Child> = Vec::with_capacity(tree.leaves.capacity());
        let mut places = places.peekable();
        while let Some(first) = places.peek().copied() {
            let node = tree.leaves.len() as u32;
            let mut held = Vec::with_capacity(LEAF_LEN_MAX.min(places.len()));
            held.extend(places.by_ref().take(LEAF_LEN_MAX));
            level.push(Child { first, node, count: held.len() as u32 });
            let next = if places.len() > 0 { node + 1 } else { NONE };
            tree.leaves.push(Leaf { places: held, previous: node.checked_sub(1).unwrap_or(NONE), next });
        }
        while level.len() > 1 {
            let above = level.chunks(INNER_LEN_MAX).map(|children| {
                let count = children.iter().map(|child| child.count).sum();
                let mut held = Vec::with_capacity(INNER_LEN_MAX);
                held.extend_from_slice(children);
                tree.inners.push(held);
                Child { first: children[0].first, node: tree.inners.len() as u32 - 1, count }
            });
            level = above.collect();
            tree.height += 1;
        }
        tree.root = level[0].node;
        tree
    }

    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn heap_bytes(&self) -> usize {
        // Leaves are kept within an eighth of their contents, and filled to about three quarters.
        self.len * size_of::<Place>() * 9 / 8
            + self.leaves.len() * size_of::<Leaf>()
            + self.inners.len() * INNER_LEN_MAX * size_of::<Child>()
    }

    /// How many places come before the spot.
    pub fn rank(&self, spot: &impl Spot) -> usize {
        let mut rank = 0;
        let mut node = self.root;
        for _ in 0..self.height {
            let children = &self.inners[node as usize];
            let index = child_index(children, spot);
            rank += children[..index].iter().map(|child| child.count as usize).sum::<usize>();
            node = children[index].node;
        }
        rank + search(&self.leaves[node as usize].places, spot)
    }

    /// Puts a place behind all those that come before it.
    pub fn insert(&mut self, place: Place, spot: &impl Spot) {
        self.len += 1;
        if let Some(right) = self.insert_below(self.root, self.height, place, spot) {
            let left = Child {
                first: self.first_of(self.root, self.height),
                node: self.root,
                count: self.len as u32 - right.count,
            };
            self.root = self.new_inner(vec![left, right]);
            self.height += 1;
        }
    }

    /// Takes out the first place that does not come before the spot.
    pub fn remove(&mut self, spot: &impl Spot) -> Option<Place> {
        let removed = self.remove_below(self.root, self.height, spot)?;
        self.len -= 1;
        while self.height > 0 && self.inners[self.root as usize].len() == 1 {
            let only = self.inners[self.root as usize][0].node;
            self.free_inner(self.root);
            self.root = only;
            self.height -= 1;
        }
        Some(removed)
    }

    /// Gives the first place that does not come before the spot another number.
    pub fn renumber(&mut self, spot: &impl Spot, id: u32) {
        let mut path = Vec::with_capacity(self.height as usize);
        let mut node = self.root;
        for _ in 0..self.height {
            let children = &self.inners[node as usize];
            let mut index = child_index(children, spot);
            // What is sought may be the first place of the next child.
            if children.get(index + 1).is_some()
                && !self.has_place_from(children[index].node, self.height - path.len() as u32 - 1, spot)
            {
                index += 1;
            }
            path.push((node, index));
            node = children[index].node;
        }
        let places = &mut self.leaves[node as usize].places;
        let at = search(places, spot);
        let Some(place) = places.get_mut(at) else {
            return;
        };
        place.id = id;
        if at > 0 {
            return;
        }
        for (inner, index) in path.into_iter().rev() {
            self.inners[inner as usize][index].first.id = id;
            if index > 0 {
                return;
            }
        }
    }

    /// The place with this rank.
    pub fn at(&self, rank: usize) -> Option<Place> {
        let (leaf, within) = self.locate(rank)?;
        Some(self.leaves[leaf as usize].places[within])
    }

    /// Places from one rank to before another, to be walked from either end.
    pub fn range(&self, start: usize, end: usize) -> PlaceIter<'_> {
        let end = end.min(self.len);
        let remaining = end.saturating_sub(start);
        let front = if remaining > 0 { self.locate(start) } else { None };
        PlaceIter { tree: self, front: front.unwrap_or((0, 0)), back: None, end, remaining }
    }

    fn locate(&self, rank: usize) -> Option<(u32, usize)> {
        if rank >= self.len {
            return None;
        }
        let mut left = rank;
        let mut node = self.root;
        for _ in 0..self.height {
            let child = self.inners[node as usize].iter().find(|child| {
                let here = left < child.count as usize;
                left -= if here { 0 } else { child.count as usize };
                here
            })?;
            node = child.node;
        }
        Some((node, left))
    }

    /// Whether something below the node does not come before.
    fn has_place_from(&self, node: u32, height: u32, spot: &impl Spot) -> bool {
        let mut node = node;
        for _ in 0..height {
            let children = &self.inners[node as usize];
            node = children[children.len() - 1].node;
        }
        self.leaves[node as usize].places.last().is_some_and(|place| !spot.is_behind(place))
    }

    fn first_of(&self, node: u32, height: u32) -> Place {
        if height == 0 { self.leaves[node as usize].places[0] } else { self.inners[node as usize][0].first }
    }

    fn insert_below(&mut self, node: u32, height: u32, place: Place, spot: &impl Spot) -> Option<Child> {
        if height == 0 {
            return self.insert_in_leaf(node, place, spot);
        }
        let index = child_index(&self.inners[node as usize], spot);
        let below = self.inners[node as usize][index].node;
        let right = self.insert_below(below, height - 1, place, spot);
        let first = self.first_of(below, height - 1);

        let children = &mut self.inners[node as usize];
        let child = &mut children[index];
        child.first = first;
        child.count += 1;
        let right = right?;
        child.count -= right.count;
        children.insert(index + 1, right);
        if children.len() <= INNER_LEN_MAX {
            return None;
        }
        // In ascending order only the last is ever added to, and the others stay full.
        let appended = index + 2 == children.len();
        let tail = children.split_off(if appended { INNER_LEN_MAX - 1 } else { INNER_LEN_MAX / 2 });
        let (first, count) = (tail[0].first, tail.iter().map(|child| child.count).sum());
        let node = self.new_inner(tail);
        Some(Child { first, node, count })
    }

    fn insert_in_leaf(&mut self, node: u32, place: Place, spot: &impl Spot) -> Option<Child> {
        let leaf = &mut self.leaves[node as usize];
        let at = search(&leaf.places, spot);
        if leaf.places.len() < LEAF_LEN_MAX {
            insert_tightly(&mut leaf.places, at, place);
            return None;
        }
        let next = leaf.next;
        let tail = if at == LEAF_LEN_MAX && next == NONE {
            // In ascending order leaves stay full.
            vec![place]
        } else {
            let mut tail = leaf.places.split_off(LEAF_LEN_MAX / 2);
            leaf.places.shrink_to(LEAF_LEN_MAX / 2 + 16);
            if at <= LEAF_LEN_MAX / 2 {
                insert_tightly(&mut leaf.places, at, place);
            } else {
                insert_tightly(&mut tail, at - LEAF_LEN_MAX / 2, place);
            }
            tail
        };
        let (first, count) = (tail[0], tail.len() as u32);
        let right = self.new_leaf(Leaf { places: tail, previous: node, next });
        self.leaves[node as usize].next = right;
        if next != NONE {
            self.leaves[next as usize].previous = right;
        }
        Some(Child { first, node: right, count })
    }

    fn remove_below(&mut self, node: u32, height: u32, spot: &impl Spot) -> Option<Place> {
        if height == 0 {
            let places = &mut self.leaves[node as usize].places;
            let at = search(places, spot);
            return (at < places.len()).then(|| places.remove(at));
        }
        let mut index = child_index(&self.inners[node as usize], spot);
        let mut below = self.inners[node as usize][index].node;
        let mut removed = self.remove_below(below, height - 1, spot);
        if removed.is_none() && index + 1 < self.inners[node as usize].len() {
            index += 1;
            below = self.inners[node as usize][index].node;
            removed = self.remove_below(below, height - 1, spot);
        }
        let removed = removed?;
        self.inners[node as usize][index].count -= 1;
        if self.inners[node as usize][index].count == 0 {
            self.inners[node as usize].remove(index);
            self.free_node(below, height - 1);
            return Some(removed);
        }
        self.inners[node as usize][index].first = self.first_of(below, height - 1);
        if self.node_len(below, height - 1) < self.node_len_max(height - 1) / 4 {
            self.merge(node, index, height);
        }
        Some(removed)
    }

    /// Merges a child with a neighbour if both together leave some room.
    fn merge(&mut self, node: u32, index: usize, height: u32) {
        let siblings = self.inners[node as usize].len();
        let left_index = if index + 1 < siblings { index } else { index.saturating_sub(1) };
        if left_index + 1 >= siblings {
            return;
        }
        let (left, right) = (self.inners[node as usize][left_index], self.inners[node as usize][left_index + 1]);
        let together = self.node_len(left.node, height - 1) + self.node_len(right.node, height - 1);
        if together > self.node_len_max(height - 1) * 3 / 4 {
            return;
        }
        if height == 1 {
            let moved = std::mem::take(&mut self.leaves[right.node as usize].places);
            self.leaves[left.node as usize].places.extend_from_slice(&moved);
        } else {
            let moved = std::mem::take(&mut self.inners[right.node as usize]);
            self.inners[left.node as usize].extend_from_slice(&moved);
        }
        self.free_node(right.node, height - 1);
        let children = &mut self.inners[node as usize];
        children[left_index].count += right.count;
        children.remove(left_index + 1);
    }

    fn node_len(&self, node: u32, height: u32) -> usize {
        if height == 0 { self.leaves[node as usize].places.len() } else { self.inners[node as usize].len() }
    }

    fn node_len_max(&self, height: u32) -> usize {
        if height == 0 { LEAF_LEN_MAX } else { INNER_LEN_MAX }
    }

    fn new_leaf(&mut self, leaf: Leaf) -> u32 {
        if let Some(free) = self.free_leaves.pop() {
            self.leaves[free as usize] = leaf;
            return free;
        }
        self.leaves.push(leaf);
        (self.leaves.len() - 1) as u32
    }

    fn new_inner(&mut self, children: Vec<Child>) -> u32 {
        if let Some(free) = self.free_inners.pop() {
            self.inners[free as usize] = children;
            return free;
        }
        self.inners.push(children);
        (self.inners.len() - 1) as u32
    }

    fn free_node(&mut self, node: u32, height: u32) {
        if height > 0 {
            self.free_inner(node);
            return;
        }
        let leaf = &mut self.leaves[node as usize];
        leaf.places = Vec::new();
        let (previous, next) = (leaf.previous, leaf.next);
        if previous != NONE {
            self.leaves[previous as usize].next = next;
        }
        if next != NONE {
            self.leaves[next as usize].previous = previous;
        }
        self.free_leaves.push(node);
    }

    fn free_inner(&mut self, node: u32) {
        self.inners[node as usize] = Vec::new();
        self.free_inners.push(node);
    }
}

/// The child below which the last place that comes before is, or the first child.
#[inline]
fn child_index(children: &[Child], spot: &impl Spot) -> usize {
    search(children, spot).saturating_sub(1)
}

impl AsRef<Place> for Place {
    fn as_ref(&self) -> &Place {
        self
    }
}

impl AsRef<Place> for Child {
    fn as_ref(&self) -> &Place {
        &self.first
    }
}

/// How many of these come before the spot.
///
/// A binary search would wait for memory at each step. This reads one in eight, all at once, then those between two of them, and
/// searches only among places that look the same.
#[inline]
fn search<T: AsRef<Place>>(sequence: &[T], spot: &impl Spot) -> usize {
    const STEP: usize = 8;
    let glance = |item: &T| spot.glance(item.as_ref());
    let (mut less, mut not_greater) = (0, 0);
    for item in sequence.iter().step_by(STEP) {
        let order = glance(item);
        less += usize::from(order == Ordering::Less);
        not_greater += usize::from(order != Ordering::Greater);
    }
    let mut low = less.saturating_sub(1) * STEP;
    let mut high = (not_greater * STEP).min(sequence.len());
    if high - low <= 2 * STEP {
        (less, not_greater) = (0, 0);
        for item in &sequence[low..high] {
            let order = glance(item);
            less += usize::from(order == Ordering::Less);
            not_greater += usize::from(order != Ordering::Greater);
        }
        high = low + not_greater;
        low += less;
    }
    low + sequence[low..high].partition_point(|item| spot.is_behind(item.as_ref()))
}

/// Inserts, growing by steps so small that little is left unused.
#[inline]
fn insert_tightly(places: &mut Vec<Place>, at: usize, place: Place) {
    if places.len() == places.capacity() {
        places.reserve_exact(if places.len() < 16 { 4 } else { 16 });
    }
    places.insert(at, place);
}

/// Places of a tree, from either end.
pub(super) struct PlaceIter<'a> {
    tree: &'a ScoreTree,
    front: (u32, usize),
    /// Found when first asked for: most walks go one way.
    back: Option<(u32, usize)>,
    end: usize,
    remaining: usize,
}

impl Iterator for PlaceIter<'_> {
    type Item = Place;

    #[inline]
    fn next(&mut self) -> Option<Place> {
        if self.remaining == 0 {
            return None;
        }
        let mut leaf = &self.tree.leaves[self.front.0 as usize];
        if self.front.1 == leaf.places.len() {
            self.front = (leaf.next, 0);
            leaf = &self.tree.leaves[self.front.0 as usize];
        }
        let place = leaf.places[self.front.1];
        self.front.1 += 1;
        self.remaining -= 1;
        Some(place)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.remaining, Some(self.remaining))
    }
}

impl DoubleEndedIterator for PlaceIter<'_> {
    #[inline]
    fn next_back(&mut self) -> Option<Place> {
        if self.remaining == 0 {
            return None;
        }
        let mut back = match self.back {
            Some(back) => back,
            None => self.tree.locate(self.end - 1).map(|(leaf, within)| (leaf, within + 1))?,
        };
        if back.1 == 0 {
            let previous = self.tree.leaves[back.0 as usize].previous;
            back = (previous, self.tree.leaves[previous as usize].places.len());
        }
        back.1 -= 1;
        self.back = Some(back);
        self.remaining -= 1;
        Some(self.tree.leaves[back.0 as usize].places[back.1])
    }
}

impl ExactSizeIterator for PlaceIter<'_> {}
