//! Members without order. Knows no command.
//!
//! A set of integers is a sorted array; a small set is a packed run; a big one is a table. A set grows out of its form by itself, and
//! never back into it.

use super::Limits;
use super::compact::CompactBytes;
use super::integer_set::{self, IntegerSet};
use super::listpack::Unpacked;
use super::number::{format_i64, parse_i64};
use super::packed::{Item, Packed};
use super::steps::{Ended, Steps};
use super::table::{Table, below, hash_bytes};
use super::text::Text;
use super::word::{Form, FormMut, Run, Slim};

/// A set.
#[derive(Clone)]
#[repr(transparent)]
pub struct Set(Slim<Members>);

/// What a set is.
enum Repr<'a> {
    Integers(IntegerSet<'a>),
    Packed(&'a Packed),
    Table(&'a Members),
}

/// What a set is, to be changed.
enum ReprMut<'a> {
    /// A run of integers.
    Integers(&'a mut Packed),
    Packed(&'a mut Packed),
    Table(&'a mut Members),
}

#[derive(Clone)]
pub(super) struct Members {
    table: Table<CompactBytes>,
    seed: u64,
    heap_bytes: usize,
}

impl Members {
    fn contains(&self, member: &[u8]) -> bool {
        self.table.find(hash_bytes(self.seed, member), |other| **other == *member).is_some()
    }

    fn add(&mut self, member: &[u8]) -> bool {
        let seed = self.seed;
        let hash = hash_bytes(seed, member);
        if self.table.find(hash, |other| **other == *member).is_some() {
            return false;
        }
        let owned = CompactBytes::from(member);
        self.heap_bytes += owned.heap_bytes();
        self.table.insert_new(hash, owned, |other| hash_bytes(seed, other));
        true
    }

    fn remove(&mut self, member: &[u8]) -> bool {
        let seed = self.seed;
        let is_member = |other: &CompactBytes| **other == *member;
        let removed = self.table.remove(hash_bytes(seed, member), is_member, |other| hash_bytes(seed, other));
        self.heap_bytes -= removed.as_ref().map_or(0, CompactBytes::heap_bytes);
        removed.is_some()
    }
}

impl Default for Set {
    fn default() -> Set {
        Set::new()
    }
}

impl Set {
    #[inline]
    fn repr(&self) -> Repr<'_> {
        match self.0.form() {
            Form::Small(run) => match IntegerSet::of(run) {
                Some(integers) => Repr::Integers(integers),
                None => Repr::Packed(run),
            },
            Form::Big(members) => Repr::Table(members),
        }
    }

    #[inline]
    fn repr_mut(&mut self) -> ReprMut<'_> {
        match self.0.form_mut() {
            FormMut::Small(run) if IntegerSet::of(run).is_some() => ReprMut::Integers(run),
            FormMut::Small(run) => ReprMut::Packed(run),
            FormMut::Big(members) => ReprMut::Table(members),
        }
    }

    /// A set without members: whatever is added first decides about its form.
    pub fn new() -> Set {
        Set(Slim::small(Packed::new()))
    }

    /// The set that a run of members is; the run, if it is none, or has another form.
    pub(crate) fn of_run(unpacked: Unpacked, limits: &Limits) -> Result<Set, Packed> {
        let Unpacked { run, longest, integers } = unpacked;
        let small = run.len() <= limits.set_listpack_entries_max && longest <= limits.set_listpack_value_bytes_max;
        let whole = small && !integers && run.are_distinct(1, limits.hash_seed);
        if whole { Ok(Set(Slim::small(run))) } else { Err(run) }
    }

    /// The set of integers of so many bytes each; `None` if they do not ascend, or are too many.
    pub(crate) fn of_integers(width: usize, bytes: &[u8], limits: &Limits) -> Option<Set> {
        let run = integer_set::of_bytes(width, bytes)?;
        (bytes.len() / width <= limits.set_intset_entries_max).then(|| Set(Slim::small(run)))
    }

    /// The run of members it is, while it is small and not all of them are integers.
    pub(crate) fn run(&self) -> Option<&Packed> {
        if let Repr::Packed(packed) = self.repr() { Some(packed) } else { None }
    }

    /// How many bytes each integer takes, and all of them, while it is small and holds nothing else.
    pub(crate) fn integers(&self) -> Option<(usize, &[u8])> {
        if let Repr::Integers(integers) = self.repr() { Some(integers.bytes()) } else { None }
    }

    /// Makes room in a table for as many members as are about to come, at once.
    pub(crate) fn reserve(&mut self, members: usize) {
        if let ReprMut::Table(table) = self.repr_mut()
            && table.table.len() == 0
        {
            table.table = Table::with_capacity(members);
        }
    }

    /// A set that is about to be given up to `members` members, `first` among them.
    pub fn prepared(first: &[u8], members: usize, limits: &Limits) -> Set {
        let mut set = Set::new();
        if parse_i64(first).is_some() && members <= limits.set_intset_entries_max {
            return set;
        }
        if members <= limits.set_listpack_entries_max {
            set.0 = Slim::small(Run::from_bytes(&[], 0));
        } else {
            set.table(limits);
        }
        set
    }

    /// Says what is about to be added, so that the set takes at once the form it would take in the end: up to `members` members,
    /// `first` among them.
    pub fn prepare(&mut self, first: &[u8], members: usize, limits: &Limits) {
        match self.repr() {
            _ if self.is_empty() => *self = Set::prepared(first, members, limits),
            Repr::Integers(_) if members > limits.set_intset_entries_max => _ = self.table(limits),
            Repr::Packed(_) if members > limits.set_listpack_entries_max => _ = self.table(limits),
            _ => {}
        }
    }

    /// How many members there are.
    pub fn len(&self) -> usize {
        match self.repr() {
            Repr::Integers(integers) => integers.len(),
            Repr::Packed(packed) => packed.len(),
            Repr::Table(members) => members.table.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The encoding's name in OBJECT ENCODING.
    pub fn encoding(&self) -> &'static str {
        match self.repr() {
            Repr::Integers(_) => "intset",
            Repr::Packed(_) => "listpack",
            Repr::Table(_) => "hashtable",
        }
    }

    /// About what this set holds on the heap.
    pub fn memory_bytes(&self) -> usize {
        match self.0.form() {
            Form::Small(run) => run.heap_bytes(),
            Form::Big(members) => Slim::<Members>::BIG_BYTES + members.table.table_bytes() + members.heap_bytes,
        }
    }

    /// Whether what was counted on the way equals a count of everything.
    pub fn is_counted_right(&self) -> bool {
        let Repr::Table(members) = self.repr() else { return true };
        members.heap_bytes == members.table.iter().map(CompactBytes::heap_bytes).sum::<usize>()
    }

    /// Whether this is a member.
    pub fn contains(&self, member: &[u8]) -> bool {
        match self.repr() {
            Repr::Integers(integers) => parse_i64(member).is_some_and(|integer| integers.contains(integer)),
            Repr::Packed(packed) => packed.find(packed.start(), Item::of(member), 0).is_some(),
            Repr::Table(members) => members.contains(member),
        }
    }

    /// Adds a member; says whether it is new.
    pub fn add(&mut self, member: &[u8], limits: &Limits) -> bool {
        match self.repr_mut() {
            ReprMut::Integers(run) => {
                if let Some(integer) = parse_i64(member) {
                    let added = integer_set::insert(run, integer);
                    if IntegerSet::of(run).is_some_and(|integers| integers.len() > limits.set_intset_entries_max) {
                        self.table(limits);
                    }
                    return added;
                }
                if let Some(integers) = IntegerSet::of(run)
                    && integers.fits_packed(member, limits)
                {
                    let mut packed = Packed::new();
                    integers.iter().for_each(|integer| packed.push_back(Item::Integer(integer)));
                    packed.push_back(Item::Bytes(member));
                    self.0 = Slim::small(packed);
                    return true;
                }
            }
            ReprMut::Packed(packed) => {
                let item = Item::of(member);
                if packed.find(packed.start(), item, 0).is_some() {
                    return false;
                }
                let short = member.len() <= limits.set_listpack_value_bytes_max && packed.fits(member.len());
                if short && packed.len() < limits.set_listpack_entries_max {
                    packed.push_back(item);
                    return true;
                }
            }
            ReprMut::Table(members) => return members.add(member),
        }
        self.table(limits).add(member)
    }

    /// Takes a member out; says whether it was there.
    pub fn remove(&mut self, member: &[u8]) -> bool {
        match self.repr_mut() {
            ReprMut::Integers(run) => parse_i64(member).is_some_and(|integer| integer_set::remove(run, integer)),
            ReprMut::Packed(packed) => {
                let found = packed.find(packed.start(), Item::of(member), 0);
                found.inspect(|at| packed.remove(*at, 1)).is_some()
            }
            ReprMut::Table(members) => members.remove(member),
        }
    }

    /// All members, in no order that means anything (integers in ascending order, while the set holds nothing else and is small).
    pub fn iter(&self) -> impl Iterator<Item = Text<'_>> {
        let (integers, packed, members) = match self.repr() {
            Repr::Integers(integers) => (Some(integers), None, None),
            Repr::Packed(packed) => (None, Some(packed), None),
            Repr::Table(members) => (None, None, Some(members)),
        };
        let integers = integers.into_iter().flat_map(|integers| integers.iter().map(Text::from));
        let packed = packed.into_iter().flat_map(|packed| packed.iter().map(Item::text));
        let members = members
            .into_iter()
            .flat_map(|members| members.table.iter_ahead(CompactBytes::prefetch).map(|member| Text::from(&**member)));
        integers.chain(packed).chain(members)
    }

    /// Shows about `count` members from the cursor on, and returns the cursor to go on with; zero when all have been seen. A member
    /// that is there from the first call to the last is shown, whatever happens in between.
    pub fn scan(&self, cursor: u64, count: usize, mut visit: impl FnMut(Text<'_>)) -> u64 {
        let Repr::Table(members) = self.repr() else {
            self.iter().for_each(visit);
            return 0;
        };
        members.table.scan(
            cursor,
            count,
            |member| hash_bytes(members.seed, member),
            |member| visit(Text::from(&**member)),
        )
    }

    /// A member, each as likely as every other. `random` gives evenly distributed numbers.
    pub fn random(&self, random: &mut dyn FnMut() -> u64) -> Option<Text<'_>> {
        match self.repr() {
            Repr::Integers(integers) => {
                (integers.len() > 0).then(|| integers.at(below(random(), integers.len())).into())
            }
            Repr::Packed(packed) => packed.locate(below(random(), packed.len())).map(|at| packed.get(at).text()),
            Repr::Table(members) => members.table.random(random).map(|member| Text::from(&**member)),
        }
    }

    /// `count` different members, or all if there are no more, in no order that means anything.
    pub fn random_distinct(&self, count: usize, random: &mut dyn FnMut() -> u64) -> Vec<Text<'_>> {
        super::random_distinct(self.len(), count, random, self.iter())
    }

    /// Takes a random member out.
    pub fn pop_random(&mut self, random: &mut dyn FnMut() -> u64) -> Option<Vec<u8>> {
        let member = self.random(random)?.into_vec();
        self.remove(&member);
        Some(member)
    }

    fn table(&mut self, limits: &Limits) -> &mut Members {
        if !self.0.is_big() {
            let mut members = Members { table: Table::new(), seed: limits.hash_seed, heap_bytes: 0 };
            self.iter().for_each(|member| {
                members.add(&member);
            });
            self.0 = Slim::big(members);
        }
        match self.0.form_mut() {
            FormMut::Big(members) => members,
            FormMut::Small(_) => unreachable!("was made a table above"),
        }
    }
}

impl IntegerSet<'_> {
    /// Whether these and a member that is no integer may be one packed run.
    fn fits_packed(self, member: &[u8], limits: &Limits) -> bool {
        let widest = match self.len() {
            0 => 0,
            len => format_i64(self.at(0)).len().max(format_i64(self.at(len - 1)).len()),
        };
        let short = widest.max(member.len()) <= limits.set_listpack_value_bytes_max;
        short && self.len() < limits.set_listpack_entries_max
    }
}

/// Members that are in all of the sets.
pub fn intersection(sets: &[&Set], limits: &Limits, steps: &Steps<'_>) -> Result<Set, Ended> {
    let mut result = Set::new();
    visit_intersection(sets, steps, |member| {
        result.add(member, limits);
        true
    })?;
    Ok(result)
}

/// How many members are in all of the sets; counting stops at `max`, unless that is zero.
pub fn intersection_len(sets: &[&Set], max: usize, steps: &Steps<'_>) -> Result<usize, Ended> {
    let mut count = 0;
    visit_intersection(sets, steps, |_| {
        count += 1;
        count != max
    })?;
    Ok(count)
}

/// Shows members that are in all of the sets, until told to stop by `false`.
pub fn visit_intersection(sets: &[&Set], steps: &Steps<'_>, mut visit: impl FnMut(&[u8]) -> bool) -> Result<(), Ended> {
    // The smallest is walked through; the smaller the others, the sooner they say no.
    let mut ascending = sets.to_vec();
    ascending.sort_by_key(|set| set.len());
    let Some((smallest, others)) = ascending.split_first() else {
        return Ok(());
    };
    for member in smallest.iter() {
        steps.take_bytes(member.len())?;
        if is_in_all(others, &member, steps)? && !visit(&member) {
            break;
        }
    }
    Ok(())
}

fn is_in_all(sets: &[&Set], member: &[u8], steps: &Steps<'_>) -> Result<bool, Ended> {
    for set in sets {
        steps.take_bytes(member.len())?;
        if !set.contains(member) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn is_in_any(sets: &[&Set], member: &[u8], steps: &Steps<'_>) -> Result<bool, Ended> {
    for set in sets {
        steps.take_bytes(member.len())?;
        if set.contains(member) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Members that are in any of the sets.
pub fn union(sets: &[&Set], limits: &Limits, steps: &Steps<'_>) -> Result<Set, Ended> {
    // Starting with a copy of a big one saves adding its members one by one; small ones may yet change their form.
    let biggest = (0..sets.len()).max_by_key(|index| sets[*index].len());
    let copied = biggest.filter(|index| sets[*index].len() > limits.set_intset_entries_max);
    let mut result = copied.map_or_else(Set::new, |index| sets[index].clone());
    for (index, set) in sets.iter().enumerate() {
        if copied == Some(index) {
            continue;
        }
        for member in set.iter() {
            steps.take_bytes(member.len())?;
            result.add(&member, limits);
        }
    }
    Ok(result)
}

/// Members of the first set that are in none of the others.
pub fn difference(sets: &[&Set], limits: &Limits, steps: &Steps<'_>) -> Result<Set, Ended> {
    let Some((first, others)) = sets.split_first() else {
        return Ok(Set::new());
    };
    let total: usize = others.iter().map(|set| set.len()).sum();
    if total < first.len() / 2 && first.len() > limits.set_intset_entries_max {
        let mut result = Set::clone(first);
        for member in others.iter().flat_map(|set| set.iter()) {
            steps.take_bytes(member.len())?;
            result.remove(&member);
        }
        return Ok(result);
    }
    // The bigger a set, the likelier it says no first.
    let mut descending = others.to_vec();
    descending.sort_by_key(|set| std::cmp::Reverse(set.len()));
    let mut result = Set::new();
    for member in first.iter() {
        steps.take_bytes(member.len())?;
        if !is_in_any(&descending, &member, steps)? {
            result.add(&member, limits);
        }
    }
    Ok(result)
}
