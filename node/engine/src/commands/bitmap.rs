//! Bitmaps: strings seen as bits.
//!
//! It refuses to know of other strings. Declarations on top, one entry per command; parsers and
//! handlers below.

use super::{CHANGES, OVERWRITES, READS};
use crate::args::Args;
use crate::command::{Arity, Command, Docs, Extra, Flags, Group, KeyFlags, KeyList, KeyRule, KeySpec, Run};
use crate::error::CommandError;
use crate::events::EventClass;
use crate::keyspace::{Expiry, Keys};
use crate::reply::Reply;
use crate::scope::Scope;
use crate::types::number;
use std::ops::Range;

mod field;
#[cfg(test)]
mod tests;

type Answer = Result<(), CommandError>;

pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "SETBIT",
        arity: Arity::Exactly(4),
        flags: Flags::WRITE.and(Flags::DENYOOM),
        group: Group::Bitmap,
        keys: KeyRule::At(&[KeySpec::at(1, CHANGES)]),
        scope: Scope::Named,
        run: Run::OnKeys(setbit),
        docs: Docs {
            summary: "Sets or clears a bit of a string and returns what it was.",
            since: "2.2.0",
            complexity: "O(1)",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "GETBIT",
        arity: Arity::Exactly(3),
        flags: Flags::READONLY.and(Flags::FAST),
        group: Group::Bitmap,
        keys: KeyRule::At(&[KeySpec::at(1, READS)]),
        scope: Scope::Named,
        run: Run::OnKeys(getbit),
        docs: Docs { summary: "Returns a bit of a string.", since: "2.2.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "BITCOUNT",
        arity: Arity::AtLeast(2),
        flags: Flags::READONLY,
        group: Group::Bitmap,
        keys: KeyRule::At(&[KeySpec::at(1, READS)]),
        scope: Scope::Named,
        run: Run::OnKeys(bitcount),
        docs: Docs { summary: "Counts the bits that are set in a string.", since: "2.6.0", complexity: "O(N)" },
        extra: Extra::NONE,
    },
    Command {
        name: "BITPOS",
        arity: Arity::AtLeast(3),
        flags: Flags::READONLY,
        group: Group::Bitmap,
        keys: KeyRule::At(&[KeySpec::at(1, READS)]),
        scope: Scope::Named,
        run: Run::OnKeys(bitpos),
        docs: Docs {
            summary: "Finds the first bit of a string that is set or clear.",
            since: "2.8.7",
            complexity: "O(N)",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "BITOP",
        arity: Arity::AtLeast(4),
        flags: Flags::WRITE.and(Flags::DENYOOM),
        group: Group::Bitmap,
        keys: KeyRule::At(&[KeySpec::at(2, OVERWRITES), KeySpec::range(3, -1, 1, READS)]),
        scope: Scope::Named,
        run: Run::OnKeys(bitop),
        docs: Docs { summary: "Stores the bitwise combination of strings.", since: "2.6.0", complexity: "O(N)" },
        extra: Extra::NONE,
    },
    Command {
        name: "BITFIELD",
        arity: Arity::AtLeast(2),
        flags: Flags::WRITE.and(Flags::DENYOOM),
        group: Group::Bitmap,
        keys: KeyRule::Parsed(
            &[KeySpec::at(1, KeyFlags::RW.and(KeyFlags::ACCESS).and(KeyFlags::UPDATE).and(KeyFlags::VARIABLE_FLAGS))],
            bitfield_keys,
        ),
        scope: Scope::Named,
        run: Run::OnKeys(field::bitfield),
        docs: Docs {
            summary: "Reads and changes integers of any width inside a string.",
            since: "3.2.0",
            complexity: "O(1) for each subcommand specified",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "BITFIELD_RO",
        arity: Arity::AtLeast(2),
        flags: Flags::READONLY.and(Flags::FAST),
        group: Group::Bitmap,
        keys: KeyRule::At(&[KeySpec::at(1, READS)]),
        scope: Scope::Named,
        run: Run::OnKeys(field::bitfield_ro),
        docs: Docs {
            summary: "Reads integers of any width inside a string.",
            since: "6.0.0",
            complexity: "O(1) for each subcommand specified",
        },
        extra: Extra::NONE,
    },
];

/// Whether a BITFIELD request only reads. One that makes no sense does not: the handler refuses it anyway.
fn only_reads(argv: &[&[u8]]) -> bool {
    let mut args = Args::new(argv, 2);
    while !args.is_empty() {
        let operands = if args.accept("GET") {
            2
        } else if args.accept("OVERFLOW") {
            1
        } else {
            return false;
        };
        for _ in 0..operands {
            if args.take().is_err() {
                return false;
            }
        }
    }
    true
}

/// BITFIELD changes its key unless all it does is GET.
fn bitfield_keys(list: &mut KeyList<'_, '_>) {
    list.push(1, if only_reads(list.argv) { READS } else { CHANGES });
}

/// A bit's place in the longest string there may be.
fn parse_offset(text: &[u8], keys: &Keys<'_>) -> Result<usize, CommandError> {
    let offset = number::parse_i64(text).and_then(|offset| usize::try_from(offset).ok());
    let fits = |offset: &usize| (*offset as u64) / 8 < keys.value_bytes_max();
    offset.filter(fits).ok_or_else(|| CommandError::err("bit offset is not an integer or out of range"))
}

/// The bit at `offset`, the highest bit of a byte first; zero past the end.
fn bit_at(bytes: &[u8], offset: usize) -> bool {
    bytes.get(offset / 8).is_some_and(|byte| byte & (0x80 >> (offset % 8)) != 0)
}

fn setbit(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let key = args.take()?;
    let offset = parse_offset(args.take()?, keys)?;
    let on = match args.take()? {
        b"0" => false,
        b"1" => true,
        _ => return Err(CommandError::err("bit is not an integer or out of range")),
    };
    let len_before = keys.peek_string(key)?.map_or(0, |value| value.len());
    let was_on = keys.edit_string(key, offset / 8 + 1, |bytes| {
        let mask = 0x80 >> (offset % 8);
        let byte = &mut bytes[offset / 8];
        let was_on = *byte & mask != 0;
        *byte = if on { *byte | mask } else { *byte & !mask };
        was_on
    })?;
    if was_on != on || offset / 8 >= len_before {
        keys.effects.changed(1);
        keys.event(EventClass::STRING, "setbit", key);
    }
    reply.flag(was_on);
    Ok(())
}

fn getbit(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let key = args.take()?;
    let offset = parse_offset(args.take()?, keys)?;
    let value = keys.string(key)?;
    reply.flag(value.is_some_and(|value| bit_at(&value, offset)));
    Ok(())
}

/// The part of a string BITCOUNT and BITPOS look at.
struct Part {
    start: i64,
    end: i64,
    /// Start and end count bits.
    in_bits: bool,
    end_given: bool,
}

/// Reads `[start [end [BYTE|BIT]]]`.
fn parse_part(mut args: Args<'_>) -> Result<Part, CommandError> {
    let mut part = Part { start: 0, end: -1, in_bits: false, end_given: args.len() > 1 };
    if args.len() > 3 {
        return Err(CommandError::Syntax);
    }
    if !args.is_empty() {
        part.start = args.integer()?;
    }
    let end = if args.is_empty() { None } else { Some(args.take()?) };
    if !args.is_empty() {
        part.in_bits = args.accept("BIT");
        if !part.in_bits && !args.accept("BYTE") {
            return Err(CommandError::Syntax);
        }
    }
    if let Some(end) = end {
        part.end = number::parse_i64(end).ok_or(CommandError::NotInteger)?;
    }
    Ok(part)
}

impl Part {
    /// The bits of a string of `len` bytes it means, if any.
    fn bits_of(&self, len: usize) -> Option<Range<usize>> {
        let unit = if self.in_bits { 1 } else { 8 };
        let total = (len * 8 / unit) as i64;
        let from_start = |index: i64| if index < 0 { total + index } else { index };
        let start = from_start(self.start).max(0);
        let end = from_start(self.end).max(0).min(total - 1);
        (start <= end).then(|| start as usize * unit..(end as usize + 1) * unit)
    }
}

fn bitcount(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let key = args.take()?;
    let part = parse_part(args)?;
    let Some(value) = keys.string(key)? else {
        reply.count(0);
        return Ok(());
    };
    // Both counted from the end and the wrong way round: nothing, however short the string. BITPOS does without.
    let reversed = part.start < 0 && part.end < 0 && part.start > part.end;
    let bits = part.bits_of(value.len()).filter(|_| !reversed);
    reply.count(bits.map_or(0, |bits| count_bits(&value, bits)));
    Ok(())
}

fn count_bits(bytes: &[u8], bits: Range<usize>) -> usize {
    let whole = bits.start.div_ceil(8)..bits.end / 8;
    if whole.start > whole.end {
        return bits.filter(|offset| bit_at(bytes, *offset)).count();
    }
    let edges = (bits.start..whole.start * 8).chain(whole.end * 8..bits.end);
    let at_edges = edges.filter(|offset| bit_at(bytes, *offset)).count();
    let (words, rest) = bytes[whole].as_chunks::<8>();
    let in_words: usize = words.iter().map(|word| u64::from_ne_bytes(*word).count_ones() as usize).sum();
    let in_rest: usize = rest.iter().map(|byte| byte.count_ones() as usize).sum();
    at_edges + in_words + in_rest
}

fn bitpos(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let key = args.take()?;
    let wanted = match args.integer()? {
        0 => false,
        1 => true,
        _ => return Err(CommandError::err("The bit argument must be 1 or 0.")),
    };
    let part = parse_part(args)?;
    let Some(value) = keys.string(key)? else {
        // A missing string is an endless row of zeros.
        reply.integer(if wanted { -1 } else { 0 });
        return Ok(());
    };
    let bits = part.bits_of(value.len());
    let found = bits.clone().and_then(|bits| first_bit(&value, bits, wanted));
    reply.integer(match (found, bits) {
        (Some(offset), _) => offset as i64,
        // Zeros follow the end, unless the request says where to stop.
        (None, Some(_)) if !wanted && !part.end_given => value.len() as i64 * 8,
        (None, _) => -1,
    });
    Ok(())
}

/// Bytes that are compared at once.
const BLOCK_BYTES: usize = 64;

fn first_bit(bytes: &[u8], bits: Range<usize>, wanted: bool) -> Option<usize> {
    let without = if wanted { 0x00 } else { 0xff };
    let mut offset = bits.start;
    while offset < bits.end {
        if offset.is_multiple_of(8) {
            let rest = &bytes[offset / 8..bits.end.div_ceil(8)];
            // Many at once, then one by one.
            let others = |block: &[u8]| block.iter().fold(0, |others, byte| others | (byte ^ without));
            let blocks = rest.chunks_exact(BLOCK_BYTES).take_while(|block| others(block) == 0).count() * BLOCK_BYTES;
            let skipped = blocks + rest[blocks..].iter().take_while(|byte| **byte == without).count();
            offset += skipped * 8;
        }
        if offset < bits.end && bit_at(bytes, offset) == wanted {
            return Some(offset);
        }
        offset += 1;
    }
    None
}

fn bitop(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    // Each is a function of its own, so that many bytes are combined at once.
    let combine: Combine = match () {
        () if args.accept("AND") => |keys, sources| combined(keys, sources, |a, b| a & b),
        () if args.accept("OR") => |keys, sources| combined(keys, sources, |a, b| a | b),
        () if args.accept("XOR") => |keys, sources| combined(keys, sources, |a, b| a ^ b),
        () if args.accept("NOT") => |keys, sources| {
            let mut bytes = combined(keys, sources, |a, _| a)?;
            bytes.iter_mut().for_each(|byte| *byte = !*byte);
            Ok(bytes)
        },
        () => return Err(CommandError::Syntax),
    };
    let negates = args.argv().get(1).is_some_and(|word| word.eq_ignore_ascii_case(b"NOT"));
    let destination = args.take()?;
    let sources = args.rest();
    if negates && sources.len() != 1 {
        return Err(CommandError::err("BITOP NOT must be called with a single source key."));
    }
    for key in sources {
        // The request is repeated elsewhere as it is: what is expired must be gone there.
        keys.settle(key);
    }
    let result = combine(keys, sources)?;
    if result.is_empty() {
        if keys.remove(destination) {
            keys.effects.changed(1);
            keys.event(EventClass::GENERIC, "del", destination);
        }
    } else {
        keys.put_string(destination, &result, Expiry::Never);
        keys.effects.changed(1);
        keys.event(EventClass::STRING, "set", destination);
    }
    reply.count(result.len());
    Ok(())
}

/// Combines the strings at these keys.
type Combine = fn(&Keys<'_>, &[&[u8]]) -> Result<Vec<u8>, CommandError>;

/// The sources combined byte by byte; shorter ones count as filled up with zeros.
fn combined(keys: &Keys<'_>, sources: &[&[u8]], combine: impl Fn(u8, u8) -> u8) -> Result<Vec<u8>, CommandError> {
    let mut values = Vec::with_capacity(sources.len());
    for key in sources {
        values.push(keys.peek_string(key)?);
    }
    let steps = keys.steps();
    let mut values = values.iter().map(|value| value.as_deref().unwrap_or_default());
    let mut result = values.next().unwrap_or_default().to_vec();
    for value in values {
        // In one go: pieces would hide from the compiler that many bytes can be combined at once.
        steps.take_bytes(value.len().max(result.len()))?;
        result.resize(result.len().max(value.len()), 0);
        let (head, tail) = result.split_at_mut(value.len());
        head.iter_mut().zip(value).for_each(|(byte, other)| *byte = combine(*byte, *other));
        tail.iter_mut().for_each(|byte| *byte = combine(*byte, 0));
    }
    Ok(result)
}
