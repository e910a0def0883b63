//! Members in the order of their scores, and of their bytes where scores are equal. Knows no command.
//!
//! A small sorted set is one packed run of member, score, member, score, in order. A big one keeps its elements in a slab, a tree of
//! their numbers in order, and a table of their numbers by member, so each member's bytes are there once. Ranges by score or by
//! member are ranges of ranks: ask for the ranks, then walk, count or remove them.

use std::cmp::Ordering;
use std::ops::Range;

use super::Limits;
use super::listpack::Unpacked;
use super::number::exact_integer;
use super::packed::{Item, Packed, PackedIter, Packing};
use super::ranking::{Element, Gathering, LexSpot, Ranking, ScoreSpot, Slab, spot};
use super::score_tree::{Place, PlaceIter};
use super::table::{below, hash_bytes};
use super::text::Text;
use super::word::{Form, FormMut, Slim};

/// A sorted set. Grows out of its small form by itself, and never back into it.
#[derive(Clone)]
#[repr(transparent)]
pub struct SortedSet(Slim<Ranking>);

/// A score must be a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotANumber;

/// What `set` did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ScoreSet {
    /// The member is new.
    Added,
    /// The member had another score, this one.
    Changed(f64),
    /// The member had that score already.
    Same,
}

/// One end of a range of scores.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ScoreBound {
    /// This score, and those inside.
    Inclusive(f64),
    /// Those inside only.
    Exclusive(f64),
}

/// One end of a range of members whose scores are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LexBound<'a> {
    /// Before all members.
    Min,
    /// Behind all members.
    Max,
    /// This member, and those inside.
    Inclusive(&'a [u8]),
    /// Those inside only.
    Exclusive(&'a [u8]),
}

impl ScoreBound {
    /// Whether a score lies before a range that starts here.
    fn starts_after(self, score: f64) -> bool {
        match self {
            ScoreBound::Inclusive(bound) => score < bound,
            ScoreBound::Exclusive(bound) => score <= bound,
        }
    }

    /// Whether a score lies before the end of a range that ends here.
    fn ends_after(self, score: f64) -> bool {
        match self {
            ScoreBound::Inclusive(bound) => score <= bound,
            ScoreBound::Exclusive(bound) => score < bound,
        }
    }
}

impl LexBound<'_> {
    fn starts_after(self, member: &[u8]) -> bool {
        match self {
            LexBound::Min => false,
            LexBound::Max => true,
            LexBound::Inclusive(bound) => member < bound,
            LexBound::Exclusive(bound) => member <= bound,
        }
    }

    fn ends_after(self, member: &[u8]) -> bool {
        match self {
            LexBound::Min => false,
            LexBound::Max => true,
            LexBound::Inclusive(bound) => member <= bound,
            LexBound::Exclusive(bound) => member < bound,
        }
    }
}

impl Default for SortedSet {
    fn default() -> SortedSet {
        SortedSet::new()
    }
}

impl SortedSet {
    /// A sorted set without members.
    pub fn new() -> SortedSet {
        SortedSet(Slim::small(Packed::new()))
    }

    /// A sorted set that is about to be given up to `members` members, the longest of them of `longest` bytes.
    pub fn prepared(members: usize, longest: usize, limits: &Limits) -> SortedSet {
        let mut sorted_set = SortedSet::new();
        sorted_set.prepare(members, longest, limits);
        sorted_set
    }

    /// A sorted set of these members, each of which is there once; the longest of them has `longest` bytes. Scores are numbers.
    pub fn of_distinct<M: AsRef<[u8]>>(
        members: impl ExactSizeIterator<Item = (M, f64)>,
        longest: usize,
        limits: &Limits,
    ) -> SortedSet {
        let mut sorted_set = SortedSet::prepared(members.len(), longest, limits);
        if sorted_set.0.is_big() {
            let mut gathered = Gathered::new(limits);
            members.for_each(|(member, score)| gathered.join(member.as_ref(), |_| score));
            return gathered.finish();
        }
        members.for_each(|(member, score)| _ = sorted_set.set(member.as_ref(), score, limits));
        sorted_set
    }

    /// Says what is about to be added, so that the sorted set takes at once the form it would take in the end.
    pub fn prepare(&mut self, members: usize, longest: usize, limits: &Limits) {
        if members > limits.sorted_set_listpack_entries_max || longest > limits.sorted_set_listpack_value_bytes_max {
            self.tree(limits);
        }
    }

    /// How many members there are.
    pub fn len(&self) -> usize {
        match self.0.form() {
            Form::Small(packed) => packed.len() / 2,
            Form::Big(ranking) => ranking.tree.len(),
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
            Form::Big(_) => "skiplist",
        }
    }

    /// About what this sorted set holds on the heap.
    pub fn memory_bytes(&self) -> usize {
        match self.0.form() {
            Form::Small(packed) => packed.heap_bytes(),
            Form::Big(ranking) => {
                let slab_bytes = ranking.slab.len * size_of::<Element>();
                let order_bytes = ranking.tree.heap_bytes() + ranking.by_member.table_bytes();
                Slim::<Ranking>::BIG_BYTES + slab_bytes + order_bytes + ranking.heap_bytes
            }
        }
    }

    /// Whether what was counted on the way equals a count of everything.
    pub fn is_counted_right(&self) -> bool {
        let Form::Big(ranking) = self.0.form() else { return true };
        let ids = ranking.by_member.iter();
        ranking.heap_bytes == ids.map(|id| ranking.slab.get(*id).member.heap_bytes()).sum::<usize>()
    }

    /// The score of a member.
    pub fn score(&self, member: &[u8]) -> Option<f64> {
        match self.0.form() {
            Form::Small(packed) => find_member(packed, member).map(|at| packed.get(packed.next(at)).score()),
            Form::Big(ranking) => ranking.find(member).map(|id| ranking.slab.get(id).score),
        }
    }

    /// Gives a member a score, adding it if it is new.
    pub fn set(&mut self, member: &[u8], score: f64, limits: &Limits) -> Result<ScoreSet, NotANumber> {
        if score.is_nan() {
            return Err(NotANumber);
        }
        if let FormMut::Small(packed) = self.0.form_mut() {
            let found = find_member(packed, member);
            if let Some(at) = found {
                let previous = packed.get(packed.next(at)).score();
                if previous == score {
                    return Ok(ScoreSet::Same);
                }
                packed.remove(at, 2);
                insert_packed(packed, member, score);
                return Ok(ScoreSet::Changed(previous));
            }
            let short = member.len() <= limits.sorted_set_listpack_value_bytes_max && packed.fits(member.len() + 16);
            if short && packed.len() / 2 < limits.sorted_set_listpack_entries_max {
                insert_packed(packed, member, score);
                return Ok(ScoreSet::Added);
            }
        }
        Ok(self.tree(limits).set(member, score))
    }

    /// The sorted set that a run of members and scores is; `None` if it is none, or has another order or form.
    pub(crate) fn of_run(unpacked: &Unpacked, limits: &Limits) -> Option<SortedSet> {
        let Unpacked { run, longest, .. } = unpacked;
        let few = run.len() / 2 <= limits.sorted_set_listpack_entries_max;
        let small = few && *longest <= limits.sorted_set_listpack_value_bytes_max;
        if !small || !run.len().is_multiple_of(2) || !run.are_distinct(2, limits.hash_seed) {
            return None;
        }
        let mut packing = Packing::default();
        let mut elements = run.iter();
        let mut last: Option<(Item<'_>, f64)> = None;
        while let (Some(member), Some(score)) = (elements.next(), elements.next()) {
            let score = stored_score(score)?;
            let ascends = last.is_none_or(|(before, lower)| match lower.partial_cmp(&score) {
                Some(Ordering::Less) => true,
                Some(Ordering::Equal) => *before.text() < *member.text(),
                _ => false,
            });
            let stored = exact_integer(score).map_or(Item::Score(score), Item::Integer);
            if !ascends || !packing.push(member) || !packing.push(stored) {
                return None;
            }
            last = Some((member, score));
        }
        packing.finish().map(|run| SortedSet(Slim::small(run)))
    }

    /// The run of members and scores it is, while it is small.
    pub(crate) fn run(&self) -> Option<&Packed> {
        if let Form::Small(packed) = self.0.form() { Some(packed) } else { None }
    }

    /// Takes a member out, and returns the score it had.
    pub fn remove(&mut self, member: &[u8]) -> Option<f64> {
        match self.0.form_mut() {
            FormMut::Small(packed) => {
                let at = find_member(packed, member)?;
                let score = packed.get(packed.next(at)).score();
                packed.remove(at, 2);
                Some(score)
            }
            FormMut::Big(ranking) => ranking.remove(member),
        }
    }

    /// How many members come before this one.
    pub fn rank(&self, member: &[u8]) -> Option<usize> {
        match self.0.form() {
            Form::Small(packed) => {
                let item = Item::of(member);
                pairs(packed).position(|(other, _)| other == item)
            }
            Form::Big(ranking) => {
                let score = ranking.slab.get(ranking.find(member)?).score;
                Some(ranking.tree.rank(&spot(&ranking.slab, score, member)))
            }
        }
    }

    /// The member with this rank, and its score.
    pub fn at(&self, rank: usize) -> Option<(Text<'_>, f64)> {
        self.range(rank..rank.saturating_add(1)).next()
    }

    /// The ranks of all members with scores between the bounds.
    pub fn ranks_by_score(&self, min: ScoreBound, max: ScoreBound) -> Range<usize> {
        let start = self.rank_by_score(|score| min.starts_after(score));
        let end = self.rank_by_score(|score| max.ends_after(score));
        start..end.max(start)
    }

    /// The ranks of all members between the bounds, provided all scores are equal.
    pub fn ranks_by_lex(&self, min: LexBound<'_>, max: LexBound<'_>) -> Range<usize> {
        let start = self.rank_by_member(|member| min.starts_after(member));
        let end = self.rank_by_member(|member| max.ends_after(member));
        start..end.max(start)
    }

    /// Members with their scores in a range of ranks, to be walked from either end.
    pub fn range(&self, ranks: Range<usize>) -> SortedSetIter<'_> {
        let end = ranks.end.min(self.len());
        let start = ranks.start.min(end);
        SortedSetIter(match self.0.form() {
            Form::Small(packed) => IterRepr::Packed(packed.iter_range(2 * start, 2 * (end - start))),
            Form::Big(ranking) => IterRepr::Tree(&ranking.slab, ranking.tree.range(start, end)),
        })
    }

    /// All members with their scores, in no order that means anything: as they lie in memory, which is the quickest walk.
    pub fn iter_unordered(&self) -> impl Iterator<Item = (Text<'_>, f64)> {
        let (small, big) = match self.0.form() {
            Form::Small(_) => (Some(self.iter()), None),
            Form::Big(ranking) => (None, Some(ranking.slab.iter())),
        };
        let big = big.into_iter().flatten().map(|element| (Text::from(&*element.member), element.score));
        small.into_iter().flatten().chain(big)
    }

    /// All members with their scores in order, to be walked from either end.
    pub fn iter(&self) -> SortedSetIter<'_> {
        self.range(0..self.len())
    }

    /// Takes out all members in a range of ranks; returns how many.
    pub fn remove_ranks(&mut self, ranks: Range<usize>) -> usize {
        let end = ranks.end.min(self.len());
        let count = end.saturating_sub(ranks.start);
        match self.0.form_mut() {
            FormMut::Small(packed) if count > 0 => {
                if let Some(at) = packed.locate(2 * ranks.start) {
                    packed.remove(at, 2 * count);
                }
            }
            FormMut::Small(_) => {}
            FormMut::Big(_) if count == 0 => {}
            FormMut::Big(ranking) => ranking.remove_ranks(ranks.start..end),
        }
        count
    }

    /// Takes out the member with the lowest score.
    pub fn pop_min(&mut self) -> Option<(Vec<u8>, f64)> {
        self.pop(0)
    }

    /// Takes out the member with the highest score.
    pub fn pop_max(&mut self) -> Option<(Vec<u8>, f64)> {
        self.pop(self.len().checked_sub(1)?)
    }

    /// Shows about `count` members from the cursor on, and returns the cursor to go on with; zero when all have been seen. A member
    /// that is there from the first call to the last is shown, whatever happens in between.
    pub fn scan(&self, cursor: u64, count: usize, mut visit: impl FnMut(Text<'_>, f64)) -> u64 {
        match self.0.form() {
            Form::Small(_) => {
                self.iter().for_each(|(member, score)| visit(member, score));
                0
            }
            Form::Big(ranking) => {
                let element = |id: &u32| ranking.slab.get(*id);
                let hash_of = |id: &u32| hash_bytes(ranking.seed, &element(id).member);
                let show = |id: &u32| visit(Text::from(&*element(id).member), element(id).score);
                ranking.by_member.scan(cursor, count, hash_of, show)
            }
        }
    }

    /// A member with its score, each as likely as every other. `random` gives evenly distributed numbers.
    pub fn random(&self, random: &mut dyn FnMut() -> u64) -> Option<(Text<'_>, f64)> {
        if self.is_empty() {
            return None;
        }
        let drawn = below(random(), self.len());
        match self.0.form() {
            Form::Small(_) => self.at(drawn),
            Form::Big(ranking) => {
                let element = ranking.slab.get(drawn as u32);
                Some((Text::from(&*element.member), element.score))
            }
        }
    }

    /// `count` different members with their scores, or all if there are no more, in order.
    pub fn random_distinct(&self, count: usize, random: &mut dyn FnMut() -> u64) -> Vec<(Text<'_>, f64)> {
        super::random_distinct(self.len(), count, random, self.iter())
    }

    fn pop(&mut self, rank: usize) -> Option<(Vec<u8>, f64)> {
        let (member, score) = self.at(rank)?;
        let member = member.into_vec();
        self.remove(&member);
        Some((member, score))
    }

    fn rank_by_score(&self, before: impl Fn(f64) -> bool) -> usize {
        match self.0.form() {
            Form::Small(packed) => pairs(packed).take_while(|(_, score)| before(*score)).count(),
            Form::Big(ranking) => ranking.tree.rank(&ScoreSpot(before)),
        }
    }

    fn rank_by_member(&self, before: impl Fn(&[u8]) -> bool) -> usize {
        match self.0.form() {
            Form::Small(packed) => pairs(packed).take_while(|(member, _)| before(&member.text())).count(),
            Form::Big(ranking) => ranking.tree.rank(&LexSpot(&ranking.slab, before)),
        }
    }

    fn tree(&mut self, limits: &Limits) -> &mut Ranking {
        if let Form::Small(packed) = self.0.form() {
            let mut ranking = Ranking::new(limits.hash_seed);
            for (member, score) in pairs(packed) {
                ranking.set(&member.text(), score);
            }
            self.0 = Slim::big(ranking);
        }
        match self.0.form_mut() {
            FormMut::Big(ranking) => ranking,
            FormMut::Small(_) => unreachable!("was made a tree above"),
        }
    }
}

/// A sorted set to be: members and scores come in any order, and are put in order once.
pub struct Gathered(Gathering);

impl Gathered {
    /// None yet.
    pub fn new(limits: &Limits) -> Gathered {
        Gathered(Ranking::gathering(limits.hash_seed))
    }

    /// Makes room for as many members as are about to come, at once. To be called before the first.
    pub(crate) fn reserve(&mut self, members: usize) {
        self.0.reserve(members);
    }

    /// Gives a member the score that is made of the one it has so far, if it is there. It must be a number.
    #[inline]
    pub fn join(&mut self, member: &[u8], score: impl FnOnce(Option<f64>) -> f64) {
        self.0.join(member, score);
    }

    /// The sorted set, in its big form.
    pub fn finish(self) -> SortedSet {
        SortedSet(Slim::big(self.0.ranking()))
    }
}

/// Integers up to here are themselves as floating point numbers.
const EXACT_MAX: i64 = 1 << 53;

/// The score that a listpack has as this element.
fn stored_score(item: Item<'_>) -> Option<f64> {
    match item {
        Item::Integer(integer) if (-EXACT_MAX..=EXACT_MAX).contains(&integer) => Some(integer as f64),
        Item::Integer(_) | Item::Score(_) => None,
        // Not `number::parse_f64`, which also refuses what vanishes to zero, and a stored score may be denormal.
        Item::Bytes(text) => std::str::from_utf8(text).ok()?.parse().ok().filter(|score: &f64| !score.is_nan()),
    }
}

#[inline]
fn find_member(packed: &Packed, member: &[u8]) -> Option<usize> {
    packed.find(packed.start(), Item::of(member), 1)
}

/// Inserts a member that is not there.
fn insert_packed(packed: &mut Packed, member: &[u8], score: f64) {
    let mut at = packed.start();
    while at < packed.end() {
        let (other, score_at) = packed.read(at);
        let (other_score, next) = packed.read(score_at);
        let order = other_score.score().partial_cmp(&score).unwrap_or(Ordering::Equal);
        if order.then_with(|| (*other.text()).cmp(member)) == Ordering::Greater {
            break;
        }
        at = next;
    }
    let score = exact_integer(score).map_or(Item::Score(score), Item::Integer);
    let at = packed.insert(at, Item::of(member));
    packed.insert(packed.next(at), score);
}

fn pairs(packed: &Packed) -> impl Iterator<Item = (Item<'_>, f64)> {
    let mut elements = packed.iter();
    std::iter::from_fn(move || Some((elements.next()?, elements.next()?.score())))
}

/// Members of a sorted set with their scores, from either end.
pub struct SortedSetIter<'a>(IterRepr<'a>);

enum IterRepr<'a> {
    Packed(PackedIter<'a>),
    Tree(&'a Slab, PlaceIter<'a>),
}

fn shown(slab: &Slab, place: Place) -> (Text<'_>, f64) {
    let element = slab.get(place.id);
    (Text::from(&*element.member), element.score)
}

impl<'a> Iterator for SortedSetIter<'a> {
    type Item = (Text<'a>, f64);

    fn next(&mut self) -> Option<(Text<'a>, f64)> {
        match &mut self.0 {
            IterRepr::Packed(elements) => {
                let (member, score) = (elements.next()?, elements.next()?);
                Some((member.text(), score.score()))
            }
            IterRepr::Tree(slab, places) => Some(shown(slab, places.next()?)),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let remaining = match &self.0 {
            IterRepr::Packed(elements) => elements.len() / 2,
            IterRepr::Tree(_, places) => places.len(),
        };
        (remaining, Some(remaining))
    }
}

impl<'a> DoubleEndedIterator for SortedSetIter<'a> {
    fn next_back(&mut self) -> Option<(Text<'a>, f64)> {
        match &mut self.0 {
            IterRepr::Packed(elements) => {
                let (score, member) = (elements.next_back()?, elements.next_back()?);
                Some((member.text(), score.score()))
            }
            IterRepr::Tree(slab, places) => Some(shown(slab, places.next_back()?)),
        }
    }
}

impl ExactSizeIterator for SortedSetIter<'_> {}
