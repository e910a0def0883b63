//! The big form of a sorted set: a slab of elements, a tree of their numbers in order, and a table of their numbers by member. Keeps
//! the three in step. Does not know when a sorted set is big.

use std::cmp::Ordering;

use super::compact::CompactBytes;
use super::score_tree::{Place, ScoreTree, Spot};
use super::sorted_set::ScoreSet;
use super::table::{Table, hash_bytes};

/// Elements per piece of the slab: it grows by one piece, never by moving what it has.
const SLAB_PIECE_LEN: usize = 512;

#[derive(Clone)]
pub(super) struct Element {
    pub score: f64,
    pub member: CompactBytes,
}

/// Elements by number, without gaps.
#[derive(Clone, Default)]
pub(super) struct Slab {
    pieces: Vec<Vec<Element>>,
    pub len: usize,
}

impl Slab {
    #[inline]
    pub fn get(&self, id: u32) -> &Element {
        let id = id as usize;
        &self.pieces[id / SLAB_PIECE_LEN][id % SLAB_PIECE_LEN]
    }

    pub fn get_mut(&mut self, id: u32) -> &mut Element {
        let id = id as usize;
        &mut self.pieces[id / SLAB_PIECE_LEN][id % SLAB_PIECE_LEN]
    }

    pub fn push(&mut self, element: Element) -> u32 {
        if self.len == self.pieces.len() * SLAB_PIECE_LEN {
            // The first piece grows as it needs to, the others are made whole.
            self.pieces.push(if self.len == 0 { Vec::new() } else { Vec::with_capacity(SLAB_PIECE_LEN) });
        }
        let last = self.pieces.len() - 1;
        self.pieces[last].push(element);
        self.len += 1;
        (self.len - 1) as u32
    }

    /// Takes out an element; the last one gets its number.
    pub fn swap_remove(&mut self, id: u32) -> Option<Element> {
        let last = self.pieces.last_mut()?.pop()?;
        self.len -= 1;
        if self.pieces.last().is_some_and(Vec::is_empty) {
            self.pieces.pop();
        }
        if id as usize == self.len { Some(last) } else { Some(std::mem::replace(self.get_mut(id), last)) }
    }
}

#[derive(Clone)]
pub(super) struct Ranking {
    pub slab: Slab,
    pub tree: ScoreTree,
    pub by_member: Table<u32>,
    pub seed: u64,
    pub heap_bytes: usize,
}

/// The first bytes of a member, so that comparing them as numbers goes before comparing members.
#[inline]
fn prefix_of(member: &[u8]) -> u32 {
    let mut bytes = [0u8; 4];
    let length = member.len().min(4);
    bytes[..length].copy_from_slice(&member[..length]);
    u32::from_be_bytes(bytes)
}

/// Where a score and a member belong.
pub(super) struct MemberSpot<'a> {
    slab: &'a Slab,
    score: f64,
    prefix: u32,
    member: &'a [u8],
}

#[inline]
pub(super) fn spot<'a>(slab: &'a Slab, score: f64, member: &'a [u8]) -> MemberSpot<'a> {
    MemberSpot { slab, score, prefix: prefix_of(member), member }
}

impl Spot for MemberSpot<'_> {
    #[inline]
    fn glance(&self, place: &Place) -> Ordering {
        let by_score = place.score.partial_cmp(&self.score).unwrap_or(Ordering::Equal);
        by_score.then(place.prefix.cmp(&self.prefix))
    }

    #[inline]
    fn is_behind(&self, place: &Place) -> bool {
        let order = self.glance(place);
        order.is_lt() || (order.is_eq() && *self.slab.get(place.id).member < *self.member)
    }
}

/// Behind all scores for which this is true.
pub(super) struct ScoreSpot<F>(pub F);

impl<F: Fn(f64) -> bool> Spot for ScoreSpot<F> {
    #[inline]
    fn glance(&self, place: &Place) -> Ordering {
        if (self.0)(place.score) { Ordering::Less } else { Ordering::Greater }
    }

    fn is_behind(&self, place: &Place) -> bool {
        (self.0)(place.score)
    }
}

/// Behind all members for which this is true.
pub(super) struct LexSpot<'a, F>(pub &'a Slab, pub F);

impl<F: Fn(&[u8]) -> bool> Spot for LexSpot<'_, F> {
    fn glance(&self, _: &Place) -> Ordering {
        Ordering::Equal
    }

    fn is_behind(&self, place: &Place) -> bool {
        (self.1)(&self.0.get(place.id).member)
    }
}

impl Ranking {
    pub fn new(seed: u64) -> Ranking {
        Ranking { slab: Slab::default(), tree: ScoreTree::new(), by_member: Table::new(), seed, heap_bytes: 0 }
    }

    pub fn find(&self, member: &[u8]) -> Option<u32> {
        self.by_member.find(hash_bytes(self.seed, member), |id| *self.slab.get(*id).member == *member).copied()
    }

    pub fn set(&mut self, member: &[u8], score: f64) -> ScoreSet {
        let hash = hash_bytes(self.seed, member);
        let place = |id| Place { score, prefix: prefix_of(member), id };
        let found = self.by_member.find(hash, |id| *self.slab.get(*id).member == *member).copied();
        if let Some(id) = found {
            let previous = self.slab.get(id).score;
            if previous == score {
                return ScoreSet::Same;
            }
            self.tree.remove(&spot(&self.slab, previous, member));
            self.slab.get_mut(id).score = score;
            self.tree.insert(place(id), &spot(&self.slab, score, member));
            return ScoreSet::Changed(previous);
        }
        let owned = CompactBytes::from(member);
        self.heap_bytes += owned.heap_bytes();
        let id = self.slab.push(Element { score, member: owned });
        let (slab, seed) = (&self.slab, self.seed);
        self.by_member.insert_new(hash, id, |id| hash_bytes(seed, &slab.get(*id).member));
        self.tree.insert(place(id), &spot(slab, score, member));
        ScoreSet::Added
    }

    pub fn remove(&mut self, member: &[u8]) -> Option<f64> {
        let (slab, seed) = (&self.slab, self.seed);
        let hash_of = |id: &u32| hash_bytes(seed, &slab.get(*id).member);
        let id = self.by_member.remove(hash_bytes(seed, member), |id| *slab.get(*id).member == *member, hash_of)?;
        self.tree.remove(&spot(slab, slab.get(id).score, member));

        // The last element is about to take the place of this one, and its number.
        let last_id = (slab.len - 1) as u32;
        if last_id != id {
            let last = slab.get(last_id);
            if let Some(number) = self.by_member.find_mut(hash_bytes(seed, &last.member), |number| *number == last_id) {
                *number = id;
            }
            self.tree.renumber(&spot(slab, last.score, &last.member), id);
        }
        let removed = self.slab.swap_remove(id)?;
        self.heap_bytes -= removed.member.heap_bytes();
        Some(removed.score)
    }
}
