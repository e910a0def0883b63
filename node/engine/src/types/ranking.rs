//! The big form of a sorted set: a slab of elements, a tree of their numbers in order, and a table of their numbers by member. Keeps
//! the three in step. Does not know when a sorted set is big.

use std::cmp::Ordering;
use std::ops::Range;

use super::compact::CompactBytes;
use super::score_tree::{Place, ScoreTree, Spot};
use super::sorted_set::ScoreSet;
use super::table::{Table, hash_bytes};

/// Fewer members than this share of all are taken out one by one.
const ONE_BY_ONE_SHARE: usize = 128;

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

    /// Puts an element in the place of another one, which is gone; its own place is to be cut off.
    fn move_down(&mut self, from: u32, to: u32) {
        let element = self.get_mut(from);
        let moved = Element { score: element.score, member: std::mem::take(&mut element.member) };
        *self.get_mut(to) = moved;
    }

    /// Keeps the first `len` elements.
    fn truncate(&mut self, len: usize) {
        self.pieces.truncate(len.div_ceil(SLAB_PIECE_LEN));
        if let Some(last) = self.pieces.last_mut() {
            last.truncate((len - 1) % SLAB_PIECE_LEN + 1);
        }
        self.len = len;
    }

    /// All elements, by number.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Element> {
        self.pieces.iter().flatten()
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

    /// Takes out all members in a range of ranks, which is within bounds.
    pub fn remove_ranks(&mut self, ranks: Range<usize>) {
        // One by one, each is sought in the tree and in the table, and so is the one that gets its number.
        if ranks.len() < self.tree.len() / ONE_BY_ONE_SHARE {
            for _ in ranks.clone() {
                let Some(place) = self.tree.at(ranks.start) else { break };
                let member = self.slab.get(place.id).member.clone();
                self.remove(&member);
            }
        } else {
            self.remove_many(ranks);
        }
    }

    /// The same for many: one walk through everything, which seeks nothing.
    fn remove_many(&mut self, ranks: Range<usize>) {
        let mut is_removed = vec![false; self.slab.len];
        for place in self.tree.range(ranks.start, ranks.end) {
            is_removed[place.id as usize] = true;
            self.heap_bytes -= self.slab.get(place.id).member.heap_bytes();
        }
        // Numbers have no gaps: what stays and has one of the last moves to where something is gone.
        let left = self.slab.len - ranks.len();
        let mut gaps = (0..left as u32).filter(|id| is_removed[*id as usize]);
        let mut numbers: Vec<u32> = (0..self.slab.len as u32).collect();
        for id in (left as u32..self.slab.len as u32).filter(|id| !is_removed[*id as usize]) {
            let gap = gaps.next().expect("below the new length as many are gone as stay above it");
            numbers[id as usize] = gap;
            self.slab.move_down(id, gap);
        }
        self.slab.truncate(left);
        let numbered = |place: Place| Place { id: numbers[place.id as usize], ..place };
        let kept = self.tree.range(0, ranks.start).chain(self.tree.range(ranks.end, self.tree.len())).map(numbered);
        self.tree = ScoreTree::of_sorted(Counted { places: kept, left });
        self.by_member.retain(|id| {
            let stays = !is_removed[*id as usize];
            *id = numbers[*id as usize];
            stays
        });
        let (slab, seed) = (&self.slab, self.seed);
        self.by_member.tighten(|id| hash_bytes(seed, &slab.get(*id).member));
    }

    /// A ranking without members, to be given many in no order.
    pub fn gathering(seed: u64) -> Gathering {
        Gathering { slab: Slab::default(), by_member: Table::new(), seed, heap_bytes: 0 }
    }
}

/// Members with scores that are still to be put in order: that is done once for all, when all are there.
pub(super) struct Gathering {
    slab: Slab,
    by_member: Table<u32>,
    seed: u64,
    heap_bytes: usize,
}

impl Gathering {
    /// Makes room for so many members; there are none yet.
    pub fn reserve(&mut self, members: usize) {
        self.by_member = Table::with_capacity(members);
    }

    /// Gives a member the score that is made of the one it has so far, if it is there.
    #[inline]
    pub fn join(&mut self, member: &[u8], score: impl FnOnce(Option<f64>) -> f64) {
        let hash = hash_bytes(self.seed, member);
        let found = self.by_member.find(hash, |id| *self.slab.get(*id).member == *member).copied();
        if let Some(id) = found {
            let element = self.slab.get_mut(id);
            element.score = score(Some(element.score));
            return;
        }
        let owned = CompactBytes::from(member);
        self.heap_bytes += owned.heap_bytes();
        let id = self.slab.push(Element { score: score(None), member: owned });
        let (slab, seed) = (&self.slab, self.seed);
        self.by_member.insert_new(hash, id, |id| hash_bytes(seed, &slab.get(*id).member));
    }

    /// Puts them in order.
    pub fn ranking(self) -> Ranking {
        let Gathering { slab, by_member, seed, heap_bytes } = self;
        let common = common_prefix_len(&slab);
        let mut order: Vec<Sorted> = Vec::with_capacity(slab.len);
        order.extend(slab.iter().enumerate().map(|(id, element)| Sorted {
            score: element.score,
            distinct: first_bytes(&element.member[common..]),
            id: id as u32,
        }));
        order.sort_unstable_by(|left, right| {
            let by_score = left.score.partial_cmp(&right.score).unwrap_or(Ordering::Equal);
            by_score.then(left.distinct.cmp(&right.distinct)).then_with(|| {
                let member = |sorted: &Sorted| &*slab.get(sorted.id).member;
                member(left).cmp(member(right))
            })
        });
        let place = |sorted: &Sorted| Place {
            score: sorted.score,
            prefix: prefix_of(&slab.get(sorted.id).member),
            id: sorted.id,
        };
        let tree = ScoreTree::of_sorted(order.iter().map(place));
        Ranking { slab, tree, by_member, seed, heap_bytes }
    }
}

/// What is compared before the members themselves are.
struct Sorted {
    score: f64,
    /// The first bytes behind what all members begin with.
    distinct: u64,
    id: u32,
}

/// How many bytes all members begin with alike.
fn common_prefix_len(slab: &Slab) -> usize {
    let mut elements = slab.iter();
    let Some(first) = elements.next() else { return 0 };
    elements.fold(first.member.len(), |len, element| {
        let alike = first.member[..len].iter().zip(&*element.member);
        alike.take_while(|(one, other)| one == other).count()
    })
}

/// The first bytes as a number, so that comparing numbers goes before comparing bytes.
#[inline]
fn first_bytes(bytes: &[u8]) -> u64 {
    let mut first = [0u8; 8];
    let length = bytes.len().min(8);
    first[..length].copy_from_slice(&bytes[..length]);
    u64::from_be_bytes(first)
}

/// Places whose number is known.
struct Counted<I> {
    places: I,
    left: usize,
}

impl<I: Iterator<Item = Place>> Iterator for Counted<I> {
    type Item = Place;

    #[inline]
    fn next(&mut self) -> Option<Place> {
        self.left = self.left.saturating_sub(1);
        self.places.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl<I: Iterator<Item = Place>> ExactSizeIterator for Counted<I> {}
