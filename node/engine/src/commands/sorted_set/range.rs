//! Ranges of sorted sets, by rank, score or name: counting, answering, storing and removing them.
//!
//! Every range becomes a range of ranks; what is done with it does not know where it came from.

use super::answer_members;
use crate::args::Args;
use crate::commands::collections::{Answer, span, store};
use crate::error::CommandError;
use crate::events::EventClass;
use crate::keyspace::{Keys, Missing};
use crate::reply::Reply;
use crate::types::{LexBound, ScoreBound, SortedSet, Value, number};
use std::ops::Range;

/// What a range is measured in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Rank,
    Score,
    Name,
}

/// A range whose lower end is read first.
#[derive(Clone, Copy)]
enum Bounds<'a> {
    Ranks(i64, i64),
    Scores(ScoreBound, ScoreBound),
    Names(LexBound<'a>, LexBound<'a>),
}

impl<'a> Bounds<'a> {
    fn parse(by: By, min: &'a [u8], max: &'a [u8]) -> Result<Bounds<'a>, CommandError> {
        match by {
            By::Rank => {
                let rank = |text| number::parse_i64(text).ok_or(CommandError::NotInteger);
                Ok(Bounds::Ranks(rank(min)?, rank(max)?))
            }
            By::Score => {
                let refused = || CommandError::err("min or max is not a float");
                let bounds = score_bound(min).zip(score_bound(max)).ok_or_else(refused)?;
                Ok(Bounds::Scores(bounds.0, bounds.1))
            }
            By::Name => {
                let refused = || CommandError::err("min or max not valid string range item");
                let bounds = lex_bound(min).zip(lex_bound(max)).ok_or_else(refused)?;
                Ok(Bounds::Names(bounds.0, bounds.1))
            }
        }
    }

    /// The ranks in the range; ranks that were asked for in reverse are counted from the highest score.
    fn ranks(self, set: &SortedSet, reverse: bool) -> Range<usize> {
        match self {
            Bounds::Ranks(start, end) => {
                let ranks = span(start, end, set.len());
                if reverse && !ranks.is_empty() { set.len() - ranks.end..set.len() - ranks.start } else { ranks }
            }
            Bounds::Scores(min, max) => set.ranks_by_score(min, max),
            Bounds::Names(min, max) => set.ranks_by_lex(min, max),
        }
    }
}

fn score_bound(text: &[u8]) -> Option<ScoreBound> {
    match text {
        [b'(', score @ ..] => bound_score(score).map(ScoreBound::Exclusive),
        score => bound_score(score).map(ScoreBound::Inclusive),
    }
}

/// A score as a bound: what no score can be is allowed here, nothing at all and numbers beyond infinity among it.
fn bound_score(text: &[u8]) -> Option<f64> {
    if text.is_empty() {
        return Some(0.0);
    }
    number::parse_f64(text).or_else(|| {
        let starts_like_number = text.iter().find(|byte| !matches!(byte, b'+' | b'-'))?;
        let plain = starts_like_number.is_ascii_digit() || *starts_like_number == b'.';
        plain.then(|| std::str::from_utf8(text).ok()?.parse().ok()).flatten()
    })
}

fn lex_bound(text: &[u8]) -> Option<LexBound<'_>> {
    match text {
        b"-" => Some(LexBound::Min),
        b"+" => Some(LexBound::Max),
        [b'[', member @ ..] => Some(LexBound::Inclusive(member)),
        [b'(', member @ ..] => Some(LexBound::Exclusive(member)),
        _ => None,
    }
}

/// `min max [option …]` of ZRANGE and of its older spellings.
struct Query<'a> {
    bounds: Bounds<'a>,
    reverse: bool,
    /// How many to skip, and how many to take at most; negative: all.
    limit: Option<(i64, i64)>,
    with_scores: bool,
}

/// What a spelling leaves open.
#[derive(Clone, Copy)]
struct Spelling {
    /// `None`: `BYSCORE` or `BYLEX` says it.
    by: Option<By>,
    /// `None`: `REV` says it.
    reverse: Option<bool>,
    /// The range is stored, not answered.
    stores: bool,
}

impl<'a> Query<'a> {
    fn parse(mut args: Args<'a>, spelling: Spelling) -> Result<Query<'a>, CommandError> {
        let (first, second) = (args.take()?, args.take()?);
        let Spelling { mut by, mut reverse, stores } = spelling;
        let (mut limit, mut with_scores) = (None, false);
        while !args.is_empty() {
            if !stores && args.accept("WITHSCORES") {
                with_scores = true;
            } else if args.len() >= 3 && args.accept("LIMIT") {
                limit = Some((args.integer()?, args.integer()?));
            } else if reverse.is_none() && args.accept("REV") {
                reverse = Some(true);
            } else if by.is_none() && args.accept("BYLEX") {
                by = Some(By::Name);
            } else if by.is_none() && args.accept("BYSCORE") {
                by = Some(By::Score);
            } else {
                return Err(CommandError::Syntax);
            }
        }
        let (by, reverse) = (by.unwrap_or(By::Rank), reverse.unwrap_or(false));
        if by == By::Rank && limit.is_some_and(|(_, count)| count != -1) {
            let text = "syntax error, LIMIT is only supported in combination with either BYSCORE or BYLEX";
            return Err(CommandError::err(text));
        }
        if by == By::Name && with_scores {
            return Err(CommandError::err("syntax error, WITHSCORES not supported in combination with BYLEX"));
        }
        // In reverse the higher end is read first; ranks are counted from there, so they stay as they are.
        let swapped = reverse && by != By::Rank;
        let (min, max) = if swapped { (second, first) } else { (first, second) };
        let limit = limit.filter(|_| by != By::Rank);
        Ok(Query { bounds: Bounds::parse(by, min, max)?, reverse, limit, with_scores })
    }

    fn ranks(&self, set: &SortedSet) -> Range<usize> {
        let ranks = self.bounds.ranks(set, self.reverse);
        let Some((offset, count)) = self.limit else { return ranks };
        let Ok(offset) = usize::try_from(offset) else { return 0..0 };
        let offset = offset.min(ranks.len());
        let count = usize::try_from(count).unwrap_or(usize::MAX).min(ranks.len() - offset);
        if self.reverse {
            let end = ranks.end - offset;
            end - count..end
        } else {
            let start = ranks.start + offset;
            start..start + count
        }
    }
}

fn answer_range(keys: &mut Keys<'_>, mut args: Args<'_>, spelling: Spelling, reply: &mut Reply) -> Answer {
    let key = args.take()?;
    let query = Query::parse(args, spelling)?;
    let Some(set) = keys.get::<SortedSet>(key)? else {
        reply.array(0);
        return Ok(());
    };
    let members = set.range(query.ranks(set));
    if query.reverse {
        answer_members(reply, members.rev(), query.with_scores);
    } else {
        answer_members(reply, members, query.with_scores);
    }
    Ok(())
}

pub(super) fn zrange(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    answer_range(keys, args, Spelling { by: None, reverse: None, stores: false }, reply)
}

pub(super) fn zrevrange(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    answer_range(keys, args, Spelling { by: Some(By::Rank), reverse: Some(true), stores: false }, reply)
}

pub(super) fn zrangebyscore(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    answer_range(keys, args, Spelling { by: Some(By::Score), reverse: Some(false), stores: false }, reply)
}

pub(super) fn zrevrangebyscore(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    answer_range(keys, args, Spelling { by: Some(By::Score), reverse: Some(true), stores: false }, reply)
}

pub(super) fn zrangebylex(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    answer_range(keys, args, Spelling { by: Some(By::Name), reverse: Some(false), stores: false }, reply)
}

pub(super) fn zrevrangebylex(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    answer_range(keys, args, Spelling { by: Some(By::Name), reverse: Some(true), stores: false }, reply)
}

pub(super) fn zrangestore(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let (destination, source) = (args.take()?, args.take()?);
    let query = Query::parse(args, Spelling { by: None, reverse: None, stores: true })?;
    let limits = keys.limits();
    // What is expired here must be gone wherever the request is repeated.
    keys.settle(source);
    let mut stored = SortedSet::new();
    if let Some(set) = keys.peek_as::<SortedSet>(source)? {
        let ranks = query.ranks(set);
        stored = SortedSet::of_distinct(set.range(ranks), 0, limits);
    }
    store(keys, destination, Value::from(stored), (EventClass::SORTED_SET, "zrangestore"), reply);
    Ok(())
}

// ---- counting ----

pub(super) fn zcount(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    count(keys, args, By::Score, reply)
}

pub(super) fn zlexcount(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    count(keys, args, By::Name, reply)
}

fn count(keys: &mut Keys<'_>, mut args: Args<'_>, by: By, reply: &mut Reply) -> Answer {
    let key = args.take()?;
    let bounds = Bounds::parse(by, args.take()?, args.take()?)?;
    reply.count(keys.get::<SortedSet>(key)?.map_or(0, |set| bounds.ranks(set, false).len()));
    Ok(())
}

// ---- removing ----

pub(super) fn zremrangebyrank(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    remove(keys, args, By::Rank, reply)
}

pub(super) fn zremrangebyscore(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    remove(keys, args, By::Score, reply)
}

pub(super) fn zremrangebylex(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    remove(keys, args, By::Name, reply)
}

fn remove(keys: &mut Keys<'_>, mut args: Args<'_>, by: By, reply: &mut Reply) -> Answer {
    let key = args.take()?;
    let bounds = Bounds::parse(by, args.take()?, args.take()?)?;
    let removed = keys.update(key, Missing::Skip, |set: &mut SortedSet| {
        let ranks = bounds.ranks(set, false);
        set.remove_ranks(ranks)
    })?;
    let removed = removed.unwrap_or(0);
    if removed > 0 {
        keys.effects.changed(removed as u64);
        let event = match by {
            By::Rank => "zremrangebyrank",
            By::Score => "zremrangebyscore",
            By::Name => "zremrangebylex",
        };
        keys.event_of_removal(EventClass::SORTED_SET, event, key);
    }
    reply.count(removed);
    Ok(())
}
