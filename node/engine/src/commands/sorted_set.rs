//! Sorted sets: members with scores, in the order of the scores.
//!
//! It refuses to know how members are stored. Declarations on top, one entry per command; below them the handlers of
//! single members. Ranges and combinations of sorted sets have files of their own. The file is long because it is
//! linear: one entry, one handler per command.

use super::collections::{
    Answer, Draw, Page, PopFirst, Timeout, answer_repeated, cursor, pair_head, pairs_head, parse_draw, parse_pop_first,
    parse_walk, positive, upsert,
};
use super::{CHANGES, LOOKS_AT, OVERWRITES, READS, REMOVES, TAKES, UPDATES};
use crate::args::Args;
use crate::command::{Arity, Command, Docs, Extra, Flags, Group, KeyRule, KeySpec, Run};
use crate::effects::WaitedInVain;
use crate::error::CommandError;
use crate::events::EventClass;
use crate::keyspace::{Keys, Missing};
use crate::reply::{Protocol, Reply};
use crate::scope::Scope;
use crate::types::{Limits, NotANumber, ScoreSet, SortedSet, Text, number};

mod algebra;
mod range;

pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "ZADD",
        arity: Arity::AtLeast(4),
        flags: Flags::WRITE.and(Flags::DENYOOM).and(Flags::FAST),
        group: Group::SortedSet,
        keys: KeyRule::At(&[KeySpec::at(1, UPDATES)]),
        scope: Scope::Named,
        run: Run::OnKeys(zadd),
        docs: Docs {
            summary: "Adds members with scores to a sorted set, or changes their scores.",
            since: "1.2.0",
            complexity: "O(log(N))",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "ZREM",
        arity: Arity::AtLeast(3),
        flags: Flags::WRITE.and(Flags::FAST),
        group: Group::SortedSet,
        keys: KeyRule::At(&[KeySpec::at(1, REMOVES)]),
        scope: Scope::Named,
        run: Run::OnKeys(zrem),
        docs: Docs { summary: "Removes members from a sorted set.", since: "1.2.0", complexity: "O(M*log(N))" },
        extra: Extra::NONE,
    },
    Command {
        name: "ZSCORE",
        arity: Arity::Exactly(3),
        flags: Flags::READONLY.and(Flags::FAST),
        group: Group::SortedSet,
        keys: KeyRule::At(&[KeySpec::at(1, READS)]),
        scope: Scope::Named,
        run: Run::OnKeys(zscore),
        docs: Docs { summary: "Returns the score of a member of a sorted set.", since: "1.2.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "ZMSCORE",
        arity: Arity::AtLeast(3),
        flags: Flags::READONLY.and(Flags::FAST),
        group: Group::SortedSet,
        keys: KeyRule::At(&[KeySpec::at(1, READS)]),
        scope: Scope::Named,
        run: Run::OnKeys(zmscore),
        docs: Docs {
            summary: "Returns the scores of several members of a sorted set.",
            since: "6.2.0",
            complexity: "O(N) where N is the number of members being requested",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "ZCARD",
        arity: Arity::Exactly(2),
        flags: Flags::READONLY.and(Flags::FAST),
        group: Group::SortedSet,
        keys: KeyRule::At(&[KeySpec::at(1, LOOKS_AT)]),
        scope: Scope::Named,
        run: Run::OnKeys(zcard),
        docs: Docs { summary: "Tells how many members a sorted set has.", since: "1.2.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "ZCOUNT",
        arity: Arity::Exactly(4),
        flags: Flags::READONLY.and(Flags::FAST),
        group: Group::SortedSet,
        keys: KeyRule::At(&[KeySpec::at(1, READS)]),
        scope: Scope::Named,
        run: Run::OnKeys(range::zcount),
        docs: Docs {
            summary: "Counts the members of a sorted set within a range of scores.",
            since: "2.0.0",
            complexity: "O(log(N)) with N being the number of elements in the sorted set",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "ZLEXCOUNT",
        arity: Arity::Exactly(4),
        flags: Flags::READONLY.and(Flags::FAST),
        group: Group::SortedSet,
        keys: KeyRule::At(&[KeySpec::at(1, READS)]),
        scope: Scope::Named,
        run: Run::OnKeys(range::zlexcount),
        docs: Docs {
            summary: "Counts the members of a sorted set within a range of names.",
            since: "2.8.9",
            complexity: "O(log(N)) with N being the number of elements in the sorted set",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "ZINCRBY",
        arity: Arity::Exactly(4),
        flags: Flags::WRITE.and(Flags::DENYOOM).and(Flags::FAST),
        group: Group::SortedSet,
        keys: KeyRule::At(&[KeySpec::at(1, CHANGES)]),
        scope: Scope::Named,
        run: Run::OnKeys(zincrby),
        docs: Docs {
            summary: "Adds to the score of a member of a sorted set.",
            since: "1.2.0",
            complexity: "O(log(N)) where N is the number of elements in the sorted set",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "ZRANGE",
        arity: Arity::AtLeast(4),
        flags: Flags::READONLY,
        group: Group::SortedSet,
        keys: KeyRule::At(&[KeySpec::at(1, READS)]),
        scope: Scope::Named,
        run: Run::OnKeys(range::zrange),
        docs: Docs {
            summary: "Returns a range of a sorted set by rank, score or name.",
            since: "1.2.0",
            complexity: "O(log(N)+M)",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "ZRANGESTORE",
        arity: Arity::AtLeast(5),
        flags: Flags::WRITE.and(Flags::DENYOOM),
        group: Group::SortedSet,
        keys: KeyRule::At(&[KeySpec::at(1, OVERWRITES), KeySpec::at(2, READS)]),
        scope: Scope::Named,
        run: Run::OnKeys(range::zrangestore),
        docs: Docs {
            summary: "Stores a range of a sorted set under another key.",
            since: "6.2.0",
            complexity: "O(log(N)+M)",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "ZREVRANGE",
        arity: Arity::AtLeast(4),
        flags: Flags::READONLY,
        group: Group::SortedSet,
        keys: KeyRule::At(&[KeySpec::at(1, READS)]),
        scope: Scope::Named,
        run: Run::OnKeys(range::zrevrange),
        docs: Docs {
            summary: "Returns a range of a sorted set by rank, highest score first.",
            since: "1.2.0",
            complexity: "O(log(N)+M)",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "ZRANGEBYSCORE",
        arity: Arity::AtLeast(4),
        flags: Flags::READONLY,
        group: Group::SortedSet,
        keys: KeyRule::At(&[KeySpec::at(1, READS)]),
        scope: Scope::Named,
        run: Run::OnKeys(range::zrangebyscore),
        docs: Docs {
            summary: "Returns the members of a sorted set within a range of scores.",
            since: "1.0.5",
            complexity: "O(log(N)+M)",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "ZREVRANGEBYSCORE",
        arity: Arity::AtLeast(4),
        flags: Flags::READONLY,
        group: Group::SortedSet,
        keys: KeyRule::At(&[KeySpec::at(1, READS)]),
        scope: Scope::Named,
        run: Run::OnKeys(range::zrevrangebyscore),
        docs: Docs {
            summary: "Returns the members of a sorted set within a range of scores, highest first.",
            since: "2.2.0",
            complexity: "O(log(N)+M)",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "ZRANGEBYLEX",
        arity: Arity::AtLeast(4),
        flags: Flags::READONLY,
        group: Group::SortedSet,
        keys: KeyRule::At(&[KeySpec::at(1, READS)]),
        scope: Scope::Named,
        run: Run::OnKeys(range::zrangebylex),
        docs: Docs {
            summary: "Returns the members of a sorted set within a range of names.",
            since: "2.8.9",
            complexity: "O(log(N)+M)",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "ZREVRANGEBYLEX",
        arity: Arity::AtLeast(4),
        flags: Flags::READONLY,
        group: Group::SortedSet,
        keys: KeyRule::At(&[KeySpec::at(1, READS)]),
        scope: Scope::Named,
        run: Run::OnKeys(range::zrevrangebylex),
        docs: Docs {
            summary: "Returns the members of a sorted set within a range of names, last first.",
            since: "2.8.9",
            complexity: "O(log(N)+M)",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "ZRANK",
        arity: Arity::AtLeast(3),
        flags: Flags::READONLY.and(Flags::FAST),
        group: Group::SortedSet,
        keys: KeyRule::At(&[KeySpec::at(1, READS)]),
        scope: Scope::Named,
        run: Run::OnKeys(zrank),
        docs: Docs {
            summary: "Tells the rank of a member of a sorted set, lowest score first.",
            since: "2.0.0",
            complexity: "O(log(N))",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "ZREVRANK",
        arity: Arity::AtLeast(3),
        flags: Flags::READONLY.and(Flags::FAST),
        group: Group::SortedSet,
        keys: KeyRule::At(&[KeySpec::at(1, READS)]),
        scope: Scope::Named,
        run: Run::OnKeys(zrevrank),
        docs: Docs {
            summary: "Tells the rank of a member of a sorted set, highest score first.",
            since: "2.0.0",
            complexity: "O(log(N))",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "ZREMRANGEBYRANK",
        arity: Arity::Exactly(4),
        flags: Flags::WRITE,
        group: Group::SortedSet,
        keys: KeyRule::At(&[KeySpec::at(1, REMOVES)]),
        scope: Scope::Named,
        run: Run::OnKeys(range::zremrangebyrank),
        docs: Docs {
            summary: "Removes the members of a sorted set within a range of ranks.",
            since: "2.0.0",
            complexity: "O(log(N)+M)",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "ZREMRANGEBYSCORE",
        arity: Arity::Exactly(4),
        flags: Flags::WRITE,
        group: Group::SortedSet,
        keys: KeyRule::At(&[KeySpec::at(1, REMOVES)]),
        scope: Scope::Named,
        run: Run::OnKeys(range::zremrangebyscore),
        docs: Docs {
            summary: "Removes the members of a sorted set within a range of scores.",
            since: "1.2.0",
            complexity: "O(log(N)+M)",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "ZREMRANGEBYLEX",
        arity: Arity::Exactly(4),
        flags: Flags::WRITE,
        group: Group::SortedSet,
        keys: KeyRule::At(&[KeySpec::at(1, REMOVES)]),
        scope: Scope::Named,
        run: Run::OnKeys(range::zremrangebylex),
        docs: Docs {
            summary: "Removes the members of a sorted set within a range of names.",
            since: "2.8.9",
            complexity: "O(log(N)+M)",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "ZPOPMIN",
        arity: Arity::AtLeast(2),
        flags: Flags::WRITE.and(Flags::FAST),
        group: Group::SortedSet,
        keys: KeyRule::At(&[KeySpec::at(1, TAKES)]),
        scope: Scope::Named,
        run: Run::OnKeys(zpopmin),
        docs: Docs {
            summary: "Removes and returns the members of a sorted set with the lowest scores.",
            since: "5.0.0",
            complexity: "O(log(N)*M)",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "ZPOPMAX",
        arity: Arity::AtLeast(2),
        flags: Flags::WRITE.and(Flags::FAST),
        group: Group::SortedSet,
        keys: KeyRule::At(&[KeySpec::at(1, TAKES)]),
        scope: Scope::Named,
        run: Run::OnKeys(zpopmax),
        docs: Docs {
            summary: "Removes and returns the members of a sorted set with the highest scores.",
            since: "5.0.0",
            complexity: "O(log(N)*M)",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "ZMPOP",
        arity: Arity::AtLeast(4),
        flags: Flags::WRITE,
        group: Group::SortedSet,
        keys: KeyRule::At(&[KeySpec::numkeys(1, TAKES)]),
        scope: Scope::Named,
        run: Run::OnKeys(zmpop),
        docs: Docs {
            summary: "Removes and returns members of the first sorted set that has any.",
            since: "7.0.0",
            complexity: "O(K) + O(M*log(N))",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "ZRANDMEMBER",
        arity: Arity::AtLeast(2),
        flags: Flags::READONLY,
        group: Group::SortedSet,
        keys: KeyRule::At(&[KeySpec::at(1, READS)]),
        scope: Scope::Named,
        run: Run::OnKeys(zrandmember),
        docs: Docs {
            summary: "Picks members of a sorted set at random.",
            since: "6.2.0",
            complexity: "O(N) where N is the number of members returned",
        },
        extra: Extra { tips: &["nondeterministic_output"], ..Extra::NONE },
    },
    Command {
        name: "ZUNION",
        arity: Arity::AtLeast(3),
        flags: Flags::READONLY,
        group: Group::SortedSet,
        keys: KeyRule::At(&[KeySpec::numkeys(1, READS)]),
        scope: Scope::Named,
        run: Run::OnKeys(algebra::zunion),
        docs: Docs { summary: "Returns the union of sorted sets.", since: "6.2.0", complexity: "O(N)+O(M*log(M))" },
        extra: Extra::NONE,
    },
    Command {
        name: "ZUNIONSTORE",
        arity: Arity::AtLeast(4),
        flags: Flags::WRITE.and(Flags::DENYOOM),
        group: Group::SortedSet,
        keys: KeyRule::At(&[KeySpec::at(1, OVERWRITES), KeySpec::numkeys(2, READS)]),
        scope: Scope::Named,
        run: Run::OnKeys(algebra::zunionstore),
        docs: Docs { summary: "Stores the union of sorted sets.", since: "2.0.0", complexity: "O(N)+O(M log(M))" },
        extra: Extra::NONE,
    },
    Command {
        name: "ZINTER",
        arity: Arity::AtLeast(3),
        flags: Flags::READONLY,
        group: Group::SortedSet,
        keys: KeyRule::At(&[KeySpec::numkeys(1, READS)]),
        scope: Scope::Named,
        run: Run::OnKeys(algebra::zinter),
        docs: Docs {
            summary: "Returns the intersection of sorted sets.",
            since: "6.2.0",
            complexity: "O(N*K)+O(M*log(M))",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "ZINTERSTORE",
        arity: Arity::AtLeast(4),
        flags: Flags::WRITE.and(Flags::DENYOOM),
        group: Group::SortedSet,
        keys: KeyRule::At(&[KeySpec::at(1, OVERWRITES), KeySpec::numkeys(2, READS)]),
        scope: Scope::Named,
        run: Run::OnKeys(algebra::zinterstore),
        docs: Docs {
            summary: "Stores the intersection of sorted sets.",
            since: "2.0.0",
            complexity: "O(N*K)+O(M*log(M))",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "ZINTERCARD",
        arity: Arity::AtLeast(3),
        flags: Flags::READONLY,
        group: Group::SortedSet,
        keys: KeyRule::At(&[KeySpec::numkeys(1, READS)]),
        scope: Scope::Named,
        run: Run::OnKeys(algebra::zintercard),
        docs: Docs { summary: "Counts the members that all sorted sets have.", since: "7.0.0", complexity: "O(N*K)" },
        extra: Extra::NONE,
    },
    Command {
        name: "ZDIFF",
        arity: Arity::AtLeast(3),
        flags: Flags::READONLY,
        group: Group::SortedSet,
        keys: KeyRule::At(&[KeySpec::numkeys(1, READS)]),
        scope: Scope::Named,
        run: Run::OnKeys(algebra::zdiff),
        docs: Docs {
            summary: "Returns the members of the first sorted set that no other has.",
            since: "6.2.0",
            complexity: "O(L + (N-K)log(N))",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "ZDIFFSTORE",
        arity: Arity::AtLeast(4),
        flags: Flags::WRITE.and(Flags::DENYOOM),
        group: Group::SortedSet,
        keys: KeyRule::At(&[KeySpec::at(1, OVERWRITES), KeySpec::numkeys(2, READS)]),
        scope: Scope::Named,
        run: Run::OnKeys(algebra::zdiffstore),
        docs: Docs {
            summary: "Stores the members of the first sorted set that no other has.",
            since: "6.2.0",
            complexity: "O(L + (N-K)log(N))",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "ZSCAN",
        arity: Arity::AtLeast(3),
        flags: Flags::READONLY,
        group: Group::SortedSet,
        keys: KeyRule::At(&[KeySpec::at(1, READS)]),
        scope: Scope::Named,
        run: Run::OnKeys(zscan),
        docs: Docs {
            summary: "Walks over the members of a sorted set, some at a time.",
            since: "2.8.0",
            complexity: "O(1)",
        },
        extra: Extra { tips: &["nondeterministic_output"], ..Extra::NONE },
    },
    Command {
        name: "BZPOPMIN",
        arity: Arity::AtLeast(3),
        flags: Flags::WRITE.and(Flags::BLOCKING).and(Flags::FAST),
        group: Group::SortedSet,
        keys: KeyRule::At(&[KeySpec::range(1, -2, 1, TAKES)]),
        scope: Scope::Named,
        run: Run::OnKeys(bzpopmin),
        docs: Docs {
            summary: "Removes and returns the lowest member of one of several sorted sets, waiting for one.",
            since: "5.0.0",
            complexity: "O(log(N)) with N being the number of elements in the sorted set",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "BZPOPMAX",
        arity: Arity::AtLeast(3),
        flags: Flags::WRITE.and(Flags::BLOCKING).and(Flags::FAST),
        group: Group::SortedSet,
        keys: KeyRule::At(&[KeySpec::range(1, -2, 1, TAKES)]),
        scope: Scope::Named,
        run: Run::OnKeys(bzpopmax),
        docs: Docs {
            summary: "Removes and returns the highest member of one of several sorted sets, waiting for one.",
            since: "5.0.0",
            complexity: "O(log(N)) with N being the number of elements in the sorted set",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "BZMPOP",
        arity: Arity::AtLeast(5),
        flags: Flags::WRITE.and(Flags::BLOCKING),
        group: Group::SortedSet,
        keys: KeyRule::At(&[KeySpec::numkeys(2, TAKES)]),
        scope: Scope::Named,
        run: Run::OnKeys(bzmpop),
        docs: Docs {
            summary: "Removes and returns members of one of several sorted sets, waiting for some.",
            since: "7.0.0",
            complexity: "O(K) + O(M*log(N))",
        },
        extra: Extra::NONE,
    },
];

// ---- adding ----

/// The options of ZADD.
#[derive(Clone, Copy, Default)]
struct AddOptions {
    /// `NX`: leave members that are there.
    only_new: bool,
    /// `XX`: add no member.
    only_present: bool,
    /// `GT`: raise scores only.
    only_greater: bool,
    /// `LT`: lower scores only.
    only_less: bool,
    /// `CH`: answer how many changed.
    count_changed: bool,
    /// `INCR`: add to the score of the one member, and answer it.
    increment: bool,
}

/// What adding did to one member.
#[derive(Clone, Copy)]
enum Added {
    /// It is new, with this score.
    New(f64),
    /// It was there with another score.
    Changed(f64),
    /// It was there with this score.
    Same(f64),
    /// The options say to leave it.
    Refused,
}

impl AddOptions {
    fn parse(args: &mut Args<'_>) -> AddOptions {
        let mut options = AddOptions::default();
        loop {
            let option = if args.accept("NX") {
                &mut options.only_new
            } else if args.accept("XX") {
                &mut options.only_present
            } else if args.accept("GT") {
                &mut options.only_greater
            } else if args.accept("LT") {
                &mut options.only_less
            } else if args.accept("CH") {
                &mut options.count_changed
            } else if args.accept("INCR") {
                &mut options.increment
            } else {
                return options;
            };
            *option = true;
        }
    }

    fn check(self, pairs: usize) -> Answer {
        let text = if self.only_new && self.only_present {
            "XX and NX options at the same time are not compatible"
        } else if self.only_new && (self.only_greater || self.only_less) || self.only_greater && self.only_less {
            "GT, LT, and/or NX options at the same time are not compatible"
        } else if self.increment && pairs > 1 {
            "INCR option supports a single increment-element pair"
        } else {
            return Ok(());
        };
        Err(CommandError::err(text))
    }

    fn unconditional(self) -> bool {
        !(self.only_new || self.only_present || self.only_greater || self.only_less || self.increment)
    }

    /// Adds one member, or changes its score, as far as the options allow.
    #[inline]
    fn add(self, set: &mut SortedSet, member: &[u8], score: f64, limits: &Limits) -> Result<Added, CommandError> {
        if self.unconditional() {
            return put(set, member, score, limits);
        }
        let Some(before) = set.score(member) else {
            return if self.only_present { Ok(Added::Refused) } else { put(set, member, score, limits) };
        };
        if self.only_new {
            return Ok(Added::Refused);
        }
        let score = if self.increment { before + score } else { score };
        if score.is_nan() {
            return Err(not_a_number());
        }
        if self.only_less && score >= before || self.only_greater && score <= before {
            return Ok(Added::Refused);
        }
        put(set, member, score, limits)
    }
}

fn not_a_number() -> CommandError {
    CommandError::err("resulting score is not a number (NaN)")
}

#[inline]
fn put(set: &mut SortedSet, member: &[u8], score: f64, limits: &Limits) -> Result<Added, CommandError> {
    match set.set(member, score, limits) {
        Ok(ScoreSet::Added) => Ok(Added::New(score)),
        Ok(ScoreSet::Changed(_)) => Ok(Added::Changed(score)),
        Ok(ScoreSet::Same) => Ok(Added::Same(score)),
        Err(NotANumber) => Err(not_a_number()),
    }
}

pub(super) fn zadd(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let key = args.take()?;
    let options = AddOptions::parse(&mut args);
    let pairs = args.rest();
    if pairs.is_empty() || !pairs.len().is_multiple_of(2) {
        return Err(CommandError::Syntax);
    }
    options.check(pairs.len() / 2)?;
    let score = |pair: &[&[u8]]| number::parse_f64(pair[0]).ok_or(CommandError::NotFloat);
    // All scores are read before anything changes; the first, which is often the only one, is kept.
    let first = score(pairs)?;
    pairs.chunks_exact(2).skip(1).try_for_each(|pair| score(pair).map(|_| ()))?;

    let limits = keys.limits();
    let missing = if options.only_present { Missing::Skip } else { Missing::Create };
    let (mut added, mut changed, mut last) = (0, 0, Added::Refused);
    let result = keys.update(key, missing, |set: &mut SortedSet| {
        if pairs.len() > 2 {
            let longest = pairs.chunks_exact(2).map(|pair| pair[1].len()).max().unwrap_or(0);
            set.prepare(pairs.len() / 2, longest, limits);
        }
        for (index, pair) in pairs.chunks_exact(2).enumerate() {
            let score = if index == 0 { first } else { score(pair)? };
            last = options.add(set, pair[1], score, limits)?;
            added += usize::from(matches!(last, Added::New(_)));
            changed += usize::from(matches!(last, Added::Changed(_)));
        }
        Ok::<_, CommandError>(())
    })?;
    result.unwrap_or(Ok(()))?;
    if added + changed > 0 {
        keys.effects.changed((added + changed) as u64);
        keys.event(EventClass::SORTED_SET, if options.increment { "zincr" } else { "zadd" }, key);
    }
    match last {
        _ if !options.increment => reply.count(if options.count_changed { added + changed } else { added }),
        Added::New(score) | Added::Changed(score) | Added::Same(score) => reply.double(score),
        Added::Refused => reply.null(),
    }
    Ok(())
}

fn zincrby(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let (key, amount, member, limits) = (args.take()?, args.float()?, args.take()?, keys.limits());
    let options = AddOptions { increment: true, ..AddOptions::default() };
    let added = upsert(keys, key, |set: &mut SortedSet| options.add(set, member, amount, limits))??;
    if matches!(added, Added::New(_) | Added::Changed(_)) {
        keys.effects.changed(1);
        keys.event(EventClass::SORTED_SET, "zincr", key);
    }
    match added {
        Added::New(score) | Added::Changed(score) | Added::Same(score) => reply.double(score),
        Added::Refused => reply.null(),
    }
    Ok(())
}

// ---- removing ----

fn zrem(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let (key, members) = (args.take()?, args.rest());
    let removed = keys.update(key, Missing::Skip, |set: &mut SortedSet| {
        members.iter().filter(|member| set.remove(member).is_some()).count()
    })?;
    let removed = removed.unwrap_or(0);
    if removed > 0 {
        keys.effects.changed(removed as u64);
        keys.event_of_removal(EventClass::SORTED_SET, "zrem", key);
    }
    reply.count(removed);
    Ok(())
}

fn zpopmin(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    pop(keys, args, false, reply)
}

fn zpopmax(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    pop(keys, args, true, reply)
}

fn pop(keys: &mut Keys<'_>, mut args: Args<'_>, highest: bool, reply: &mut Reply) -> Answer {
    if args.len() > 2 {
        return Err(CommandError::Syntax);
    }
    let key = args.take()?;
    // With a count RESP3 nests each pair; without one there is only one pair, and it is flat.
    let nested = !args.is_empty() && reply.protocol == Protocol::Resp3;
    let count = if args.is_empty() { 1 } else { positive(&mut args)? };
    if !pop_many(keys, key, highest, count, nested, reply)? {
        reply.array(0);
    }
    Ok(())
}

/// Answers and takes out up to `count` members; false if there is no such sorted set.
fn pop_many(
    keys: &mut Keys<'_>,
    key: &[u8],
    highest: bool,
    count: usize,
    nested: bool,
    reply: &mut Reply,
) -> Result<bool, CommandError> {
    let Some(taken) = take_members(keys, key, highest, count)? else { return Ok(false) };
    reply.array(if nested { taken.len() } else { 2 * taken.len() });
    for (member, score) in taken {
        if nested {
            reply.array(2);
        }
        reply.bulk(&member);
        reply.double(score);
    }
    Ok(true)
}

type Scored = (Vec<u8>, f64);

/// Takes out up to `count` members from one end and tells about it; nothing if there is no such sorted set.
fn take_members(
    keys: &mut Keys<'_>,
    key: &[u8],
    highest: bool,
    count: usize,
) -> Result<Option<Vec<Scored>>, CommandError> {
    let taken = keys.update(key, Missing::Skip, |set: &mut SortedSet| {
        let len = set.len();
        let count = count.min(len);
        let ranks = if highest { len - count..len } else { 0..count };
        let mut taken: Vec<Scored> =
            set.range(ranks.clone()).map(|(member, score)| (member.into_vec(), score)).collect();
        set.remove_ranks(ranks);
        if highest {
            taken.reverse();
        }
        taken
    })?;
    if let Some(taken) = taken.as_ref().filter(|taken| !taken.is_empty()) {
        keys.event_of_removal(EventClass::SORTED_SET, if highest { "zpopmax" } else { "zpopmin" }, key);
        keys.effects.changed(taken.len() as u64);
        keys.effects.replace_in_parts(&[b"ZREM", key], taken.iter().map(|(member, _)| member.as_slice()));
    }
    Ok(taken)
}

fn zmpop(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    let asked = parse_pop_first(args.argv(), 1, ["MIN", "MAX"])?;
    if !pop_first(keys, &asked, reply)? {
        reply.null_array();
    }
    Ok(())
}

/// Pops from the first of the sorted sets there is; false if there is none.
fn pop_first(keys: &mut Keys<'_>, asked: &PopFirst<'_>, reply: &mut Reply) -> Result<bool, CommandError> {
    for key in asked.names {
        let mark = reply.mark();
        reply.array(2);
        reply.bulk(key);
        if pop_many(keys, key, asked.back, asked.count, true, reply)? {
            return Ok(true);
        }
        reply.rewind(mark);
    }
    Ok(false)
}

// ---- popping, with patience ----

fn bzpopmin(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    pop_waiting(keys, args, false, reply)
}

fn bzpopmax(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    pop_waiting(keys, args, true, reply)
}

fn pop_waiting(keys: &mut Keys<'_>, mut args: Args<'_>, highest: bool, reply: &mut Reply) -> Answer {
    let (timeout, names) = args.rest().split_last().ok_or(CommandError::Syntax)?;
    let timeout = Timeout::parse(timeout, keys.now())?;
    for key in names {
        let taken = take_members(keys, key, highest, 1)?;
        if let Some((member, score)) = taken.into_iter().flatten().next() {
            reply.array(3);
            reply.bulk(key);
            reply.bulk(&member);
            reply.double(score);
            return Ok(());
        }
    }
    timeout.wait(keys, WaitedInVain::NullArray)
}

fn bzmpop(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let asked = parse_pop_first(args.argv(), 2, ["MIN", "MAX"])?;
    let timeout = Timeout::parse(args.take()?, keys.now())?;
    if pop_first(keys, &asked, reply)? { Ok(()) } else { timeout.wait(keys, WaitedInVain::NullArray) }
}

// ---- reading members ----

fn zscore(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let (key, member) = (args.take()?, args.take()?);
    answer_score(keys.get::<SortedSet>(key)?, member, reply);
    Ok(())
}

#[inline]
fn answer_score(set: Option<&SortedSet>, member: &[u8], reply: &mut Reply) {
    match set.and_then(|set| set.score(member)) {
        Some(score) => reply.double(score),
        None => reply.null(),
    }
}

fn zmscore(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let (key, members) = (args.take()?, args.rest());
    let set = keys.get::<SortedSet>(key)?;
    reply.array(members.len());
    members.iter().for_each(|member| answer_score(set, member, reply));
    Ok(())
}

fn zcard(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    reply.count(keys.get::<SortedSet>(args.take()?)?.map_or(0, SortedSet::len));
    Ok(())
}

fn zrank(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    rank(keys, args, false, "zrank", reply)
}

fn zrevrank(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    rank(keys, args, true, "zrevrank", reply)
}

fn rank(keys: &mut Keys<'_>, mut args: Args<'_>, reverse: bool, command: &str, reply: &mut Reply) -> Answer {
    if args.len() > 3 {
        return Err(CommandError::Arity(command.to_owned()));
    }
    let (key, member) = (args.take()?, args.take()?);
    let with_score = args.accept("WITHSCORE");
    args.finish()?;
    let set = keys.get::<SortedSet>(key)?;
    let found = set.and_then(|set| {
        let rank = set.rank(member)?;
        Some((if reverse { set.len() - 1 - rank } else { rank }, set.score(member)?))
    });
    match found {
        Some((rank, score)) if with_score => {
            reply.array(2);
            reply.count(rank);
            reply.double(score);
        }
        Some((rank, _)) => reply.count(rank),
        None if with_score => reply.null_array(),
        None => reply.null(),
    }
    Ok(())
}

fn zrandmember(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let key = args.take()?;
    let (draw, with_scores) = parse_draw(&mut args, Some("WITHSCORES"))?;
    let (mut dice, bytes_max) = (keys.dice(), keys.value_bytes_max());
    let Some(set) = keys.get::<SortedSet>(key)? else {
        if draw == Draw::One {
            reply.null()
        } else {
            reply.array(0)
        }
        return Ok(());
    };
    match draw {
        Draw::One => set.random(&mut dice).into_iter().for_each(|(member, _)| reply.bulk(&member)),
        Draw::Distinct(count) => {
            let drawn = set.random_distinct(count, &mut dice);
            answer_members(reply, drawn.into_iter(), with_scores);
        }
        Draw::Repeated(count) => {
            if with_scores {
                pairs_head(reply, count)
            } else {
                reply.array(count)
            }
            answer_repeated(reply, count, bytes_max, |reply| {
                set.random(&mut dice).into_iter().for_each(|shown| show_member(reply, shown, with_scores));
            })?;
        }
    }
    Ok(())
}

/// Answers members, each with its score if that was asked for.
fn answer_members<'t>(reply: &mut Reply, members: impl ExactSizeIterator<Item = (Text<'t>, f64)>, with_scores: bool) {
    if with_scores {
        pairs_head(reply, members.len())
    } else {
        reply.array(members.len())
    }
    members.for_each(|shown| show_member(reply, shown, with_scores));
}

#[inline]
fn show_member(reply: &mut Reply, (member, score): (Text<'_>, f64), with_scores: bool) {
    if with_scores {
        pair_head(reply);
        reply.bulk(&member);
        reply.double(score);
    } else {
        reply.bulk(&member);
    }
}

fn zscan(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let (key, cursor) = (args.take()?, cursor(&mut args)?);
    let pattern_bytes_max = keys.limits().pattern_bytes_max;
    let mut page = Page::new(reply);
    let Some(set) = keys.get::<SortedSet>(key)? else {
        page.answer(0, reply);
        return Ok(());
    };
    let walk = parse_walk(pattern_bytes_max, &mut args, Some("NOSCORES"))?;
    let is_big = set.encoding() == "skiplist";
    let next = set.scan(cursor, walk.count, |member, score| {
        if walk.pattern.matches(&member) {
            page.show(&member);
            if !walk.bare {
                let text = if is_big { seventeen_digits(score) } else { number::format_f64(score) };
                page.show(text.as_bytes());
            }
        }
    });
    page.answer(next, reply);
    Ok(())
}

/// A score as C's `%.17g` writes it: of a big sorted set Redis shows scores so here, and nowhere else.
fn seventeen_digits(score: f64) -> String {
    const DIGITS: i32 = 17;
    if !score.is_finite() || score == 0.0 {
        return number::format_f64(score);
    }
    let scientific = format!("{score:.*e}", DIGITS as usize - 1);
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let trim = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    if (-4..DIGITS).contains(&exponent) {
        return trim(&format!("{score:.*}", (DIGITS - 1 - exponent) as usize));
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{}e{sign}{:02}", trim(mantissa), exponent.unsigned_abs())
}

#[cfg(test)]
mod tests;
