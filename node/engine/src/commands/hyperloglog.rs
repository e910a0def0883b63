//! HyperLogLogs: strings that estimate how many different elements they have seen.
//!
//! It refuses to know how an estimate is made. Declarations on top, one entry per command; parsers and
//! handlers below.

use super::{ADDS, READS};
use crate::args::Args;
use crate::command::{Arity, Command, Docs, Extra, Flags, Group, KeyFlags, KeyRule, KeySpec, Run};
use crate::error::CommandError;
use crate::events::EventClass;
use crate::keyspace::{Expiry, Keys};
use crate::reply::Reply;
use crate::scope::Scope;
use crate::session::{Session, Surroundings};
use crate::types::hyperloglog::{self, BadHyperLogLog, Encoding, HyperLogLog, Registers, View};

#[cfg(test)]
mod tests;

pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "PFADD",
        arity: Arity::AtLeast(2),
        flags: Flags::WRITE.and(Flags::DENYOOM).and(Flags::FAST),
        group: Group::HyperLogLog,
        keys: KeyRule::At(&[KeySpec::at(1, ADDS)]),
        scope: Scope::Named,
        run: Run::OnKeys(pfadd),
        docs: Docs {
            summary: "Adds elements to a HyperLogLog.",
            since: "2.8.9",
            complexity: "O(1) to add every element",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "PFCOUNT",
        arity: Arity::AtLeast(2),
        flags: Flags::READONLY,
        group: Group::HyperLogLog,
        keys: KeyRule::At(&[KeySpec::range(1, -1, 1, KeyFlags::RW.and(KeyFlags::ACCESS))]),
        scope: Scope::Named,
        run: Run::OnKeys(pfcount),
        docs: Docs {
            summary: "Estimates how many different elements HyperLogLogs have seen.",
            since: "2.8.9",
            complexity: "O(1)",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "PFMERGE",
        arity: Arity::AtLeast(2),
        flags: Flags::WRITE.and(Flags::DENYOOM),
        group: Group::HyperLogLog,
        keys: KeyRule::At(&[
            KeySpec::at(1, KeyFlags::RW.and(KeyFlags::ACCESS).and(KeyFlags::INSERT)),
            KeySpec::range(2, -1, 1, READS),
        ]),
        scope: Scope::Named,
        run: Run::OnKeys(pfmerge),
        docs: Docs { summary: "Merges HyperLogLogs into one.", since: "2.8.9", complexity: "O(N)" },
        extra: Extra::NONE,
    },
    Command {
        name: "PFDEBUG",
        arity: Arity::Exactly(3),
        flags: Flags::WRITE.and(Flags::DENYOOM).and(Flags::ADMIN),
        group: Group::HyperLogLog,
        keys: KeyRule::At(&[KeySpec::at(2, KeyFlags::RW.and(KeyFlags::ACCESS))]),
        scope: Scope::Ceiling,
        run: Run::OnKeys(pfdebug),
        docs: Docs { summary: "Looks inside a HyperLogLog, for developers.", since: "2.8.9", complexity: "N/A" },
        extra: Extra::NONE,
    },
    Command {
        name: "PFSELFTEST",
        arity: Arity::Exactly(1),
        flags: Flags::ADMIN,
        group: Group::HyperLogLog,
        keys: KeyRule::None,
        scope: Scope::Ceiling,
        run: Run::OnSession(pfselftest),
        docs: Docs { summary: "Tests the HyperLogLog code, for developers.", since: "2.8.9", complexity: "N/A" },
        extra: Extra::NONE,
    },
];

type Answer = Result<(), CommandError>;

fn refused(bad: BadHyperLogLog) -> CommandError {
    CommandError::Text(match bad {
        BadHyperLogLog::Foreign => "WRONGTYPE Key is not a valid HyperLogLog string value.".into(),
        BadHyperLogLog::Corrupted => "INVALIDOBJ Corrupted HLL object detected".into(),
    })
}

fn pfadd(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let (key, elements) = (args.take()?, args.rest());
    let sparse_bytes_max = keys.limits().hyperloglog_sparse_bytes_max;
    keys.settle(key);
    let value = keys.peek_string(key)?;
    let mut changes = u64::from(value.is_none());
    let mut log = match value {
        Some(value) => HyperLogLog::copy_of(&value).map_err(refused)?,
        None => HyperLogLog::new(),
    };
    changes += log.add_all(elements, sparse_bytes_max) as u64;
    if changes > 0 {
        log.forget_estimate();
        keys.put_string(key, log.bytes(), Expiry::Keep);
        keys.effects.changed(changes);
        keys.event(EventClass::STRING, "pfadd", key);
    }
    reply.flag(changes > 0);
    Ok(())
}

fn pfcount(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    if args.len() > 1 {
        let (merged, _) = merged(keys, args.rest())?;
        reply.integer(merged.estimate() as i64);
        return Ok(());
    }
    let key = args.take()?;
    let Some(value) = keys.string(key)? else {
        reply.count(0);
        return Ok(());
    };
    let view = View::of(&value).map_err(refused)?;
    let estimate = match view.estimate_kept() {
        Some(kept) => kept,
        None => {
            let estimate = view.registers().map_err(refused)?.estimate();
            // Kept in the value itself, as Redis does: to a replica, and to WATCH, counting is a change.
            keys.edit_string(key, 0, |bytes| hyperloglog::keep_estimate(bytes, estimate))?;
            keys.effects.changed(1);
            estimate
        }
    };
    reply.integer(estimate as i64);
    Ok(())
}

/// What merging one takes, in steps: it has 16384 registers.
const STEPS_PER_COUNTER: usize = 256;

/// The greatest of each register over all of these, and whether one of them was dense.
fn merged(keys: &mut Keys<'_>, names: &[&[u8]]) -> Result<(Registers, bool), CommandError> {
    let mut registers = Registers::new();
    let mut dense = false;
    let steps = keys.steps();
    for key in names {
        steps.take(STEPS_PER_COUNTER)?;
        let Some(value) = keys.string(key)? else { continue };
        let view = View::of(&value).map_err(refused)?;
        view.merge_into(&mut registers).map_err(refused)?;
        dense |= view.encoding() == Encoding::Dense;
    }
    Ok((registers, dense))
}

fn pfmerge(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let names = args.rest();
    let (registers, dense) = merged(keys, names)?;
    let mut log = HyperLogLog::of(&registers, dense, keys.limits().hyperloglog_sparse_bytes_max);
    if let Some(value) = keys.peek_string(names[0])? {
        log.copy_estimate(View::of(&value).map_err(refused)?);
    }
    log.forget_estimate();
    keys.put_string(names[0], log.bytes(), Expiry::Keep);
    keys.effects.changed(1);
    // A merge is many additions, and Redis tells it as such.
    keys.event(EventClass::STRING, "pfadd", names[0]);
    reply.ok();
    Ok(())
}

fn pfdebug(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let mut words = args;
    let (_, key) = (args.take()?, args.take()?);
    if words.accept("SIMD") {
        return switch_simd(words, reply);
    }
    keys.settle(key);
    let Some(value) = keys.peek_string(key)? else {
        return Err(CommandError::err("The specified key does not exist"));
    };
    let mut log = HyperLogLog::copy_of(&value).map_err(refused)?;
    if words.accept("GETREG") {
        let registers = log.view().registers().map_err(refused)?;
        if log.make_dense() {
            store_dense(keys, key, &log);
        }
        reply.array(hyperloglog::REGISTERS);
        registers.iter().for_each(|register| reply.integer(register.into()));
    } else if words.accept("DECODE") {
        if log.view().encoding() == Encoding::Dense {
            return Err(CommandError::err("HLL encoding is not sparse"));
        }
        let runs: Vec<String> = log.view().runs().map(|run| run.to_string()).collect();
        reply.bulk(runs.join(" ").as_bytes());
    } else if words.accept("ENCODING") {
        reply.simple(&log.view().encoding().to_string());
    } else if words.accept("TODENSE") {
        let changed = log.make_dense();
        if changed {
            store_dense(keys, key, &log);
        }
        reply.flag(changed);
    } else {
        let name = String::from_utf8_lossy(args.argv()[1]).into_owned();
        return Err(CommandError::err(format!("Unknown PFDEBUG subcommand '{name}'")));
    }
    Ok(())
}

fn store_dense(keys: &mut Keys<'_>, key: &[u8], log: &HyperLogLog) {
    keys.put_string(key, log.bytes(), Expiry::Keep);
    keys.effects.changed(1);
    keys.effects.replace(&[b"SET", key, log.bytes(), b"KEEPTTL"]);
}

/// There is one way to merge here; the switch is taken and means nothing.
fn switch_simd(mut args: Args<'_>, reply: &mut Reply) -> Answer {
    if !args.accept("ON") && !args.accept("OFF") {
        return Err(CommandError::err("Argument must be ON or OFF"));
    }
    reply.ok();
    Ok(())
}

/// Adds elements to a sparse, a dense and a merged HyperLogLog, which must agree and be right within the error promised.
fn pfselftest(_: &mut Session, _: &Surroundings<'_>, _: Args<'_>, reply: &mut Reply) -> Answer {
    const ELEMENTS: u64 = 20_000;
    // Six times the standard error of 0.81 %.
    const ERROR_MAX: u64 = ELEMENTS / 20;
    let mut sparse = HyperLogLog::new();
    let mut dense = HyperLogLog::new();
    dense.make_dense();
    for element in 0..ELEMENTS {
        sparse.add(&element.to_le_bytes(), usize::MAX);
        dense.add(&element.to_le_bytes(), usize::MAX);
    }
    let failed = |why: &str| CommandError::err(format!("TESTFAILED {why}"));
    let [sparse, dense] = [sparse, dense].map(|log| log.view().registers().map_err(refused));
    let (sparse, dense) = (sparse?, dense?);
    if !sparse.iter().eq(dense.iter()) {
        return Err(failed("sparse and dense registers differ"));
    }
    if dense.estimate().abs_diff(ELEMENTS) > ERROR_MAX {
        return Err(failed("the estimate is too far off"));
    }
    reply.ok();
    Ok(())
}
