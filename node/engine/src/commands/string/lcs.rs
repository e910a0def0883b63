//! LCS: the longest common subsequence of two strings, by the usual table of lengths.
//!
//! Of several longest ones it finds the one Redis finds. The table is bounded by the longest string value there may be, and by
//! the longest answer its user may have, which is half of what its clients may hold.

use super::Answer;
use crate::args::Args;
use crate::error::CommandError;
use crate::keyspace::Keys;
use crate::reply::Reply;
use crate::types::Steps;
use std::ops::Range;

/// What to answer.
#[derive(Clone, Copy, Default)]
struct Options {
    /// `LEN`: only the length.
    length: bool,
    /// `IDX`: where the matches lie.
    ranges: bool,
    /// `MINMATCHLEN`: leave shorter matches out.
    match_bytes_min: usize,
    /// `WITHMATCHLEN`: also tell each match's length.
    with_lengths: bool,
}

/// Cells of the table that are filled in the time of a step.
const CELLS_PER_STEP: usize = 32;

/// A table that everybody may have, in bytes: it is filled in some milliseconds.
const TABLE_BYTES: usize = 8 << 20;

/// A run of bytes that both strings share.
struct Match {
    first: Range<usize>,
    second: Range<usize>,
}

pub(super) fn lcs(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let (first, second) = (args.take()?, args.take()?);
    keys.touch(first);
    keys.touch(second);
    let strings = [first, second].map(|key| keys.peek_string(key));
    let [Ok(first), Ok(second)] = &strings else {
        return Err(CommandError::err("The specified keys must contain string values"));
    };
    let options = parse(args)?;
    let [first, second] = [first, second].map(|string| string.as_deref().unwrap_or_default());
    // Whoever may have short answers only has no more memory for the way there.
    let held_max = reply.bytes_max.max(TABLE_BYTES) as u64;
    let lengths = Lengths::of(first, second, (keys.value_bytes_max(), held_max), &keys.steps())?;
    if options.length {
        reply.count(lengths.at(first.len(), second.len()));
    } else if options.ranges {
        answer_ranges(&lengths.matches(first, second), lengths.at(first.len(), second.len()), options, reply);
    } else {
        let mut common = Vec::with_capacity(lengths.at(first.len(), second.len()));
        for found in lengths.matches(first, second).iter().rev() {
            common.extend_from_slice(&first[found.first.clone()]);
        }
        reply.bulk(&common);
    }
    Ok(())
}

fn parse(mut args: Args<'_>) -> Result<Options, CommandError> {
    let mut options = Options::default();
    while !args.is_empty() {
        if args.accept("IDX") {
            options.ranges = true;
        } else if args.accept("LEN") {
            options.length = true;
        } else if args.accept("WITHMATCHLEN") {
            options.with_lengths = true;
        } else if args.accept("MINMATCHLEN") {
            options.match_bytes_min = usize::try_from(args.integer()?).unwrap_or(0);
        } else {
            return Err(CommandError::Syntax);
        }
    }
    if options.length && options.ranges {
        return Err(CommandError::err("If you want both the length and indexes, please just use IDX."));
    }
    Ok(options)
}

fn answer_ranges(matches: &[Match], length: usize, options: Options, reply: &mut Reply) {
    let shown = || matches.iter().filter(|found| found.first.len() >= options.match_bytes_min);
    reply.map(2);
    reply.bulk(b"matches");
    reply.array(shown().count());
    for found in shown() {
        reply.array(if options.with_lengths { 3 } else { 2 });
        for range in [&found.first, &found.second] {
            reply.array(2);
            reply.count(range.start);
            reply.count(range.end - 1);
        }
        if options.with_lengths {
            reply.count(found.first.len());
        }
    }
    reply.bulk(b"len");
    reply.count(length);
}

/// For every pair of beginnings, the length of their longest common subsequence.
struct Lengths {
    cells: Vec<u32>,
    width: usize,
}

impl Lengths {
    fn of(
        first: &[u8],
        second: &[u8],
        (bytes_max, held_max): (u64, u64),
        steps: &Steps<'_>,
    ) -> Result<Lengths, CommandError> {
        let width = second.len() + 1;
        let cells = (first.len() + 1).checked_mul(width);
        let bytes = |cells: usize| (cells as u64).saturating_mul(size_of::<u32>() as u64);
        let cells = cells.filter(|cells| bytes(*cells) <= bytes_max).ok_or_else(|| {
            CommandError::err("Insufficient memory, transient memory for LCS exceeds proto-max-bulk-len")
        })?;
        if bytes(cells) > held_max {
            let text = "Insufficient memory, transient memory for LCS exceeds what an answer may take";
            return Err(CommandError::err(text));
        }
        let mut lengths = Lengths { cells: vec![0; cells], width };
        for (row, byte) in first.iter().enumerate() {
            steps.take(1 + second.len() / CELLS_PER_STEP)?;
            for (column, other) in second.iter().enumerate() {
                let length = if byte == other {
                    lengths.at(row, column) + 1
                } else {
                    lengths.at(row, column + 1).max(lengths.at(row + 1, column))
                };
                lengths.cells[(row + 1) * width + column + 1] = length as u32;
            }
        }
        Ok(lengths)
    }

    #[inline]
    fn at(&self, row: usize, column: usize) -> usize {
        self.cells[row * self.width + column] as usize
    }

    /// The runs of the subsequence, the last one first, as Redis answers them.
    fn matches(&self, first: &[u8], second: &[u8]) -> Vec<Match> {
        let (mut row, mut column) = (first.len(), second.len());
        let mut matches: Vec<Match> = Vec::new();
        while row > 0 && column > 0 {
            if first[row - 1] == second[column - 1] {
                (row, column) = (row - 1, column - 1);
                match matches.last_mut() {
                    Some(last) if last.first.start == row + 1 && last.second.start == column + 1 => {
                        (last.first.start, last.second.start) = (row, column);
                    }
                    _ => matches.push(Match { first: row..row + 1, second: column..column + 1 }),
                }
            } else if self.at(row - 1, column) > self.at(row, column - 1) {
                row -= 1;
            } else {
                column -= 1;
            }
        }
        matches
    }
}
