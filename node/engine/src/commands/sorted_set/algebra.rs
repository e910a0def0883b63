//! Unions, intersections and differences of sorted sets. Plain sets take part too, with a score of one for each member.

use super::answer_members;
use crate::args::Args;
use crate::commands::collections::{Answer, store};
use crate::commands::counted;
use crate::dict::{Entry, ValueRef};
use crate::error::CommandError;
use crate::events::EventClass;
use crate::keyspace::Keys;
use crate::reply::Reply;
use crate::types::{Ended, Gathered, Kind, Limits, Set, SortedSet, Steps, Text, Value, number};

/// How sources are combined.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Operation {
    Union,
    Intersection,
    Difference,
}

/// How the scores of one member are made one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Aggregate {
    Sum,
    Min,
    Max,
}

impl Aggregate {
    fn join(self, so_far: f64, next: f64) -> f64 {
        match self {
            // Infinities of both signs cancel out.
            Aggregate::Sum => number_or_zero(so_far + next),
            Aggregate::Min => {
                if next < so_far {
                    next
                } else {
                    so_far
                }
            }
            Aggregate::Max => {
                if next > so_far {
                    next
                } else {
                    so_far
                }
            }
        }
    }
}

fn number_or_zero(score: f64) -> f64 {
    if score.is_nan() { 0.0 } else { score }
}

/// A key that takes part.
#[derive(Clone, Copy)]
enum Source<'k> {
    Missing,
    Members(&'k Set),
    Scores(&'k SortedSet),
}

impl<'k> Source<'k> {
    fn of(keys: &'k Keys<'_>, key: &[u8]) -> Result<Source<'k>, CommandError> {
        match keys.peek(key).map(Entry::value) {
            None => Ok(Source::Missing),
            Some(ValueRef::Object(object)) => match object.kind() {
                Kind::Set(set) => Ok(Source::Members(set)),
                Kind::SortedSet(set) => Ok(Source::Scores(set)),
                _ => Err(CommandError::WrongType),
            },
            Some(_) => Err(CommandError::WrongType),
        }
    }

    fn len(self) -> usize {
        match self {
            Source::Missing => 0,
            Source::Members(set) => set.len(),
            Source::Scores(set) => set.len(),
        }
    }

    fn score(self, member: &[u8]) -> Option<f64> {
        match self {
            Source::Missing => None,
            Source::Members(set) => set.contains(member).then_some(1.0),
            Source::Scores(set) => set.score(member),
        }
    }

    /// Its members, in no order.
    fn iter(self) -> impl Iterator<Item = (Text<'k>, f64)> {
        let (members, scores) = match self {
            Source::Missing => (None, None),
            Source::Members(set) => (Some(set), None),
            Source::Scores(set) => (None, Some(set)),
        };
        let members = members.into_iter().flat_map(Set::iter).map(|member| (member, 1.0));
        members.chain(scores.into_iter().flat_map(SortedSet::iter_unordered))
    }
}

/// What follows `numkeys key [key …]`.
struct Options {
    /// One for each source.
    weights: Vec<f64>,
    aggregate: Aggregate,
    with_scores: bool,
    /// Counting stops there; zero: it does not.
    limit: usize,
}

/// Which options a command understands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Answers,
    Stores,
    Counts,
}

impl Options {
    fn parse(args: &mut Args<'_>, sources: usize, operation: Operation, form: Form) -> Result<Options, CommandError> {
        let mut options =
            Options { weights: vec![1.0; sources], aggregate: Aggregate::Sum, with_scores: false, limit: 0 };
        let scored = operation != Operation::Difference && form != Form::Counts;
        while !args.is_empty() {
            if scored && args.len() > sources && args.accept("WEIGHTS") {
                let refused = || CommandError::err("weight value is not a float");
                for weight in &mut options.weights {
                    *weight = number::parse_f64(args.take()?).ok_or_else(refused)?;
                }
            } else if scored && args.len() >= 2 && args.accept("AGGREGATE") {
                options.aggregate = if args.accept("SUM") {
                    Aggregate::Sum
                } else if args.accept("MIN") {
                    Aggregate::Min
                } else if args.accept("MAX") {
                    Aggregate::Max
                } else {
                    return Err(CommandError::Syntax);
                };
            } else if form == Form::Answers && args.accept("WITHSCORES") {
                options.with_scores = true;
            } else if form == Form::Counts && args.len() >= 2 && args.accept("LIMIT") {
                options.limit = args.count(CommandError::err("LIMIT can't be negative"))? as usize;
            } else {
                return Err(CommandError::Syntax);
            }
        }
        Ok(options)
    }
}

/// A request, understood: its sources and what to do with them.
struct Combination<'k> {
    operation: Operation,
    sources: Vec<(Source<'k>, f64)>,
    options: Options,
}

impl<'k> Combination<'k> {
    /// Reads `numkeys key [key …] [option …]`; the count is at argument `at`.
    fn read(
        keys: &'k Keys<'_>,
        argv: &[&[u8]],
        at: usize,
        operation: Operation,
        form: Form,
        command: &str,
    ) -> Result<Combination<'k>, CommandError> {
        let promised = argv.get(at).and_then(|text| number::parse_i64(text)).ok_or(CommandError::NotInteger)?;
        if promised < 1 {
            return Err(CommandError::err(format!("at least 1 input key is needed for '{command}' command")));
        }
        let names = counted(argv, at, at + 1, 1).ok_or(CommandError::Syntax)?;
        let mut args = Args::new(argv, names.end);
        // The types are judged before the options, as Redis does.
        let sources: Vec<Source<'k>> = argv[names].iter().map(|key| Source::of(keys, key)).collect::<Result<_, _>>()?;
        let options = Options::parse(&mut args, sources.len(), operation, form)?;
        let mut sources: Vec<_> = sources.into_iter().zip(options.weights.iter().copied()).collect();
        if operation != Operation::Difference {
            // The order in which scores are added shows in the last digits.
            sources.sort_by_key(|(source, _)| source.len());
        }
        Ok(Combination { operation, sources, options })
    }

    /// The result, in the form of a big sorted set: it is gathered in any order, and shows a score of -0 as such.
    fn result(&self, limits: &Limits, steps: &Steps<'_>) -> Result<SortedSet, Ended> {
        let mut result = Gathered::new(limits);
        match self.operation {
            Operation::Union => self.union(&mut result, steps)?,
            Operation::Intersection => self.intersect(steps, |member, score| {
                result.join(member, |_| score);
                true
            })?,
            Operation::Difference => self.differ(&mut result, steps)?,
        }
        Ok(result.finish())
    }

    fn union(&self, result: &mut Gathered, steps: &Steps<'_>) -> Result<(), Ended> {
        for (source, weight) in &self.sources {
            for (member, score) in source.iter() {
                steps.take_bytes(member.len())?;
                let score = number_or_zero(weight * score);
                result
                    .join(&member, |so_far| so_far.map_or(score, |so_far| self.options.aggregate.join(so_far, score)));
            }
        }
        Ok(())
    }

    fn differ(&self, result: &mut Gathered, steps: &Steps<'_>) -> Result<(), Ended> {
        let Some(((first, _), others)) = self.sources.split_first() else { return Ok(()) };
        for (member, score) in first.iter() {
            steps.take_bytes(member.len())?;
            if !is_in_any(others, &member, steps)? {
                result.join(&member, |_| score);
            }
        }
        Ok(())
    }

    /// Shows members that every source has, until told to stop by `false`.
    fn intersect(&self, steps: &Steps<'_>, mut visit: impl FnMut(&[u8], f64) -> bool) -> Result<(), Ended> {
        let Some(((smallest, weight), others)) = self.sources.split_first() else { return Ok(()) };
        for (member, score) in smallest.iter() {
            steps.take_bytes(member.len())?;
            let first = number_or_zero(weight * score);
            if let Some(score) = self.joined(others, &member, first, steps)?
                && !visit(&member, score)
            {
                break;
            }
        }
        Ok(())
    }

    /// The score of a member that the others have, too.
    fn joined(
        &self,
        others: &[(Source<'k>, f64)],
        member: &[u8],
        first: f64,
        steps: &Steps<'_>,
    ) -> Result<Option<f64>, Ended> {
        let mut so_far = first;
        for (other, weight) in others {
            steps.take_bytes(member.len())?;
            let Some(score) = other.score(member) else { return Ok(None) };
            so_far = self.options.aggregate.join(so_far, weight * score);
        }
        Ok(Some(so_far))
    }
}

fn is_in_any(sources: &[(Source<'_>, f64)], member: &[u8], steps: &Steps<'_>) -> Result<bool, Ended> {
    for (source, _) in sources {
        steps.take_bytes(member.len())?;
        if source.score(member).is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn put(set: &mut SortedSet, member: &[u8], score: f64, limits: &Limits) {
    set.set(member, score, limits).expect("a joined score is a number");
}

/// The same members, in the small form if they fit it.
fn compacted(set: SortedSet, limits: &Limits) -> SortedSet {
    let short = |(member, _): (Text<'_>, f64)| member.len() <= limits.sorted_set_listpack_value_bytes_max;
    if set.len() > limits.sorted_set_listpack_entries_max || !set.iter().all(short) {
        return set;
    }
    let mut small = SortedSet::new();
    set.iter().for_each(|(member, score)| put(&mut small, &member, score, limits));
    small
}

fn answer(keys: &mut Keys<'_>, args: Args<'_>, operation: Operation, command: &str, reply: &mut Reply) -> Answer {
    let combination = Combination::read(keys, args.argv(), 1, operation, Form::Answers, command)?;
    let result = combination.result(keys.limits(), &keys.steps())?;
    answer_members(reply, result.iter(), combination.options.with_scores);
    Ok(())
}

fn store_result(
    keys: &mut Keys<'_>,
    args: Args<'_>,
    operation: Operation,
    command: &'static str,
    reply: &mut Reply,
) -> Answer {
    let argv = args.argv();
    // What is expired here must be gone wherever the request is repeated.
    let names = counted(argv, 2, 3, 1).unwrap_or_default();
    argv[names].iter().for_each(|key| keys.settle(key));
    let limits = keys.limits();
    let result = Combination::read(keys, argv, 2, operation, Form::Stores, command)?.result(limits, &keys.steps())?;
    let value = Value::from(compacted(result, limits));
    store(keys, argv[1], value, (EventClass::SORTED_SET, command), reply);
    Ok(())
}

pub(super) fn zunion(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    answer(keys, args, Operation::Union, "zunion", reply)
}

pub(super) fn zinter(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    answer(keys, args, Operation::Intersection, "zinter", reply)
}

pub(super) fn zdiff(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    answer(keys, args, Operation::Difference, "zdiff", reply)
}

pub(super) fn zunionstore(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    store_result(keys, args, Operation::Union, "zunionstore", reply)
}

pub(super) fn zinterstore(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    store_result(keys, args, Operation::Intersection, "zinterstore", reply)
}

pub(super) fn zdiffstore(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    store_result(keys, args, Operation::Difference, "zdiffstore", reply)
}

pub(super) fn zintercard(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    let combination = Combination::read(keys, args.argv(), 1, Operation::Intersection, Form::Counts, "zintercard")?;
    let mut count = 0;
    combination.intersect(&keys.steps(), |_, _| {
        count += 1;
        count != combination.options.limit
    })?;
    reply.count(count);
    Ok(())
}
