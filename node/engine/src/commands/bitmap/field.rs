//! BITFIELD: a string seen as integers of any width at any bit.
//!
//! All steps are read before the first is taken, so a request that makes no sense changes nothing.

use super::{Answer, bit_at, parse_offset};
use crate::args::Args;
use crate::error::CommandError;
use crate::events::EventClass;
use crate::keyspace::Keys;
use crate::reply::Reply;
use crate::types::number;

/// An integer's width and sign, and its first bit.
#[derive(Clone, Copy)]
struct Field {
    signed: bool,
    /// 1 to 64, or to 63 without a sign.
    bits: usize,
    offset: usize,
}

/// What becomes of a number that does not fit.
#[derive(Clone, Copy)]
enum Overflow {
    /// Its low bits are kept.
    Wrap,
    /// The nearest one that fits is taken.
    Saturate,
    /// The step is not taken.
    Fail,
}

#[derive(Clone, Copy)]
enum Change {
    Set(i64),
    Add(i64),
}

/// One step of a request: reads a field, and may change it.
struct Step {
    field: Field,
    change: Option<(Change, Overflow)>,
}

pub(super) fn bitfield(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let key = args.take()?;
    let steps = parse(args, keys)?;
    let changing = steps.iter().filter(|step| step.change.is_some());
    match changing.map(|step| step.field.end_byte()).max() {
        None => answer_reads(keys, key, &steps, reply),
        Some(len) => {
            let len_before = keys.peek_string(key)?.map_or(0, |value| value.len());
            let mark = reply.mark();
            reply.array(steps.len());
            let changed = keys.edit_string(key, len, |bytes| take_steps(&steps, bytes, reply));
            let changed = changed.inspect_err(|_| reply.rewind(mark))?;
            if changed > 0 || len > len_before {
                keys.effects.changed(changed.max(1));
                keys.event(EventClass::STRING, "setbit", key);
            }
            Ok(())
        }
    }
}

pub(super) fn bitfield_ro(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let key = args.take()?;
    let steps = parse(args, keys)?;
    if steps.iter().any(|step| step.change.is_some()) {
        return Err(CommandError::err("BITFIELD_RO only supports the GET subcommand"));
    }
    answer_reads(keys, key, &steps, reply)
}

fn answer_reads(keys: &mut Keys<'_>, key: &[u8], steps: &[Step], reply: &mut Reply) -> Answer {
    let value = keys.string(key)?;
    let bytes = value.as_deref().unwrap_or_default();
    reply.array(steps.len());
    for step in steps {
        reply.integer(step.field.read(bytes) as i64);
    }
    Ok(())
}

/// Takes all steps, answers each, and counts those that wrote.
fn take_steps(steps: &[Step], bytes: &mut [u8], reply: &mut Reply) -> u64 {
    let mut changed = 0;
    for Step { field, change } in steps {
        let old = field.read(bytes);
        let Some((change, overflow)) = change else {
            reply.integer(old as i64);
            continue;
        };
        let wanted = match change {
            // Without a sign, a negative number stands for the great one with the same bits.
            Change::Set(value) if !field.signed => i128::from(*value as u64),
            Change::Set(value) => i128::from(*value),
            Change::Add(value) => old + i128::from(*value),
        };
        let Some(new) = field.fit(wanted, *overflow) else {
            reply.null();
            continue;
        };
        field.write(bytes, new);
        changed += u64::from(new != old);
        reply.integer(if matches!(change, Change::Set(_)) { old } else { new } as i64);
    }
    changed
}

impl Field {
    /// How long the string must be to hold it, in bytes.
    fn end_byte(&self) -> usize {
        (self.offset + self.bits).div_ceil(8)
    }

    fn read(&self, bytes: &[u8]) -> i128 {
        let bits = (self.offset..self.offset + self.bits).map(|offset| bit_at(bytes, offset));
        let value = bits.fold(0u64, |value, bit| value << 1 | u64::from(bit));
        self.spelled_by(value)
    }

    fn write(&self, bytes: &mut [u8], value: i128) {
        for index in 0..self.bits {
            let offset = self.offset + index;
            let mask = 0x80 >> (offset % 8);
            let on = value >> (self.bits - 1 - index) & 1 == 1;
            let byte = &mut bytes[offset / 8];
            *byte = if on { *byte | mask } else { *byte & !mask };
        }
    }

    /// The number that these low bits spell.
    fn spelled_by(&self, bits: u64) -> i128 {
        let unused = 64 - self.bits as u32;
        if self.signed { i128::from((bits << unused) as i64 >> unused) } else { i128::from(bits << unused >> unused) }
    }

    fn fit(&self, value: i128, overflow: Overflow) -> Option<i128> {
        let (min, max) = if self.signed {
            (-(1i128 << (self.bits - 1)), (1i128 << (self.bits - 1)) - 1)
        } else {
            (0, (1i128 << self.bits) - 1)
        };
        if (min..=max).contains(&value) {
            return Some(value);
        }
        match overflow {
            Overflow::Wrap => Some(self.spelled_by(value as u64)),
            Overflow::Saturate => Some(value.clamp(min, max)),
            Overflow::Fail => None,
        }
    }
}

fn parse(mut args: Args<'_>, keys: &Keys<'_>) -> Result<Vec<Step>, CommandError> {
    let mut steps = Vec::new();
    let mut overflow = Overflow::Wrap;
    while !args.is_empty() {
        let left = args.len() - 1;
        if left >= 1 && args.accept("OVERFLOW") {
            overflow = parse_overflow(&mut args)?;
        } else if left >= 2 && args.accept("GET") {
            steps.push(Step { field: parse_field(&mut args, keys)?, change: None });
        } else if left >= 3 && args.accept("SET") {
            let field = parse_field(&mut args, keys)?;
            steps.push(Step { field, change: Some((Change::Set(args.integer()?), overflow)) });
        } else if left >= 3 && args.accept("INCRBY") {
            let field = parse_field(&mut args, keys)?;
            steps.push(Step { field, change: Some((Change::Add(args.integer()?), overflow)) });
        } else {
            return Err(CommandError::Syntax);
        }
    }
    Ok(steps)
}

fn parse_overflow(args: &mut Args<'_>) -> Result<Overflow, CommandError> {
    if args.accept("WRAP") {
        Ok(Overflow::Wrap)
    } else if args.accept("SAT") {
        Ok(Overflow::Saturate)
    } else if args.accept("FAIL") {
        Ok(Overflow::Fail)
    } else {
        Err(CommandError::err("Invalid OVERFLOW type specified"))
    }
}

/// Reads `i16 5`, or `u8 #2` for the third of a row of such integers.
fn parse_field(args: &mut Args<'_>, keys: &Keys<'_>) -> Result<Field, CommandError> {
    let (signed, bits) = parse_type(args.take()?).ok_or_else(|| {
        CommandError::err(
            "Invalid bitfield type. Use something like i16 u8. Note that u64 is not supported but i64 is.",
        )
    })?;
    let text = args.take()?;
    let Some(index) = text.strip_prefix(b"#") else {
        return Ok(Field { signed, bits, offset: parse_offset(text, keys)? });
    };
    let index = parse_offset(index, keys)?;
    let offset = number::format_i64(index as i64 * bits as i64);
    Ok(Field { signed, bits, offset: parse_offset(&offset, keys)? })
}

fn parse_type(text: &[u8]) -> Option<(bool, usize)> {
    let (sign, width) = text.split_first()?;
    let bits = usize::try_from(number::parse_i64(width)?).ok()?;
    match sign {
        b'i' if (1..=64).contains(&bits) => Some((true, bits)),
        b'u' if (1..=63).contains(&bits) => Some((false, bits)),
        _ => None,
    }
}
