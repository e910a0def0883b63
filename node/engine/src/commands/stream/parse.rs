//! The arguments stream commands have in common: ids, intervals, and what XADD and XTRIM say about trimming.

use crate::args::Args;
use crate::error::CommandError;
use crate::keyspace::UnixMillis;
use crate::types::{Keep, Limits, StreamId};

fn invalid() -> CommandError {
    CommandError::err("Invalid stream ID specified as stream command argument")
}

/// An id; `seq_missing` counts where only the time is told.
pub(super) fn id(text: &[u8], seq_missing: u64) -> Result<StreamId, CommandError> {
    StreamId::parse(text, seq_missing).ok_or_else(invalid)
}

/// Several ids.
pub(super) fn ids(texts: &[&[u8]]) -> Result<Vec<StreamId>, CommandError> {
    texts.iter().map(|text| id(text, 0)).collect()
}

/// Where an interval begins: an id, `-`, `+`, or `(` and the id before it.
pub(super) fn range_start(text: &[u8]) -> Result<StreamId, CommandError> {
    let exclusive = text.len() > 1 && text[0] == b'(';
    if exclusive {
        let refused = || CommandError::err("invalid start ID for the interval");
        return id(&text[1..], 0)?.next().ok_or_else(refused);
    }
    edge(text, 0)
}

/// Where an interval ends.
pub(super) fn range_end(text: &[u8]) -> Result<StreamId, CommandError> {
    let exclusive = text.len() > 1 && text[0] == b'(';
    if exclusive {
        let refused = || CommandError::err("invalid end ID for the interval");
        return id(&text[1..], u64::MAX)?.previous().ok_or_else(refused);
    }
    edge(text, u64::MAX)
}

/// An id, `-` or `+`.
pub(super) fn edge(text: &[u8], seq_missing: u64) -> Result<StreamId, CommandError> {
    match text {
        b"-" => Ok(StreamId::MIN),
        b"+" => Ok(StreamId::MAX),
        _ => id(text, seq_missing),
    }
}

/// The id of an entry to be added.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum NewId {
    /// `*`: the time, or the next one after the last.
    Now,
    /// `ms-*`: the next one of this time.
    NextAt(u64),
    /// As given.
    Given(StreamId),
}

impl NewId {
    /// The id behind `last`; an error if there is none.
    #[inline]
    pub(super) fn choose(self, last: StreamId, now: UnixMillis) -> Result<StreamId, CommandError> {
        let too_small =
            || CommandError::err("The ID specified in XADD is equal or smaller than the target stream top item");
        let exhausted = "The stream has exhausted the last possible ID, unable to add more items";
        let next = last.next().ok_or_else(|| CommandError::err(exhausted))?;
        let id = match self {
            NewId::Now if now as u64 > last.ms => StreamId::new(now as u64, 0),
            NewId::Now => next,
            NewId::NextAt(ms) if ms == last.ms && next.ms == ms => next,
            NewId::NextAt(ms) if ms == last.ms => return Err(too_small()),
            NewId::NextAt(ms) => StreamId::new(ms, 0),
            NewId::Given(id) => id,
        };
        if id > last { Ok(id) } else { Err(too_small()) }
    }
}

/// What to trim.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trim {
    /// Which entries stay.
    pub(super) keep: Keep,
    /// `~`: only whole nodes go.
    pub(super) approximate: bool,
    /// At most so many go; 0 is no limit.
    pub(super) limit: u64,
}

/// The options of XADD and XTRIM.
pub(super) struct Trimming {
    /// What to trim, if anything.
    pub(super) trim: Option<Trim>,
    /// A missing stream is not made.
    pub(super) no_stream: bool,
    /// The id, for XADD.
    pub(super) id: NewId,
    /// Which argument it is.
    pub(super) id_at: usize,
}

/// Reads options from the third argument on; for XADD (`adds`) up to the id.
pub(super) fn trimming(argv: &[&[u8]], adds: bool, limits: &Limits) -> Result<Trimming, CommandError> {
    let mut args = Args::new(argv, 2);
    let mut found = Trimming { trim: None, no_stream: false, id: NewId::Now, id_at: argv.len() };
    let mut limit = None;
    while let Some(word) = args.peek() {
        let more = args.len() >= 2;
        if adds && word == b"*" {
            found.id_at = args.index();
            break;
        } else if more && args.accept("MAXLEN") {
            threshold(&mut args, &mut found, |args| {
                let refused = || CommandError::err("The MAXLEN argument must be >= 0.");
                Ok(Keep::Last(u64::try_from(args.integer()?).map_err(|_| refused())?))
            })?;
        } else if more && args.accept("MINID") {
            threshold(&mut args, &mut found, |args| Ok(Keep::From(id(args.take()?, 0)?)))?;
        } else if more && args.accept("LIMIT") {
            let refused = || CommandError::err("The LIMIT argument must be >= 0.");
            limit = Some(u64::try_from(args.integer()?).map_err(|_| refused())?);
        } else if adds && args.accept("NOMKSTREAM") {
            found.no_stream = true;
        } else if adds {
            found.id = new_id(word)?;
            found.id_at = args.index();
            break;
        } else {
            return Err(CommandError::Syntax);
        }
    }
    bound(&mut found, adds, limit, limits)?;
    Ok(found)
}

/// Reads `[=|~] threshold`.
fn threshold(
    args: &mut Args<'_>,
    found: &mut Trimming,
    keep: impl FnOnce(&mut Args<'_>) -> Result<Keep, CommandError>,
) -> Result<(), CommandError> {
    if found.trim.is_some() {
        let text = "syntax error, MAXLEN and MINID options at the same time are not compatible";
        return Err(CommandError::err(text));
    }
    let more = args.len() >= 2;
    let approximate = more && args.accept("~");
    if more && !approximate {
        args.accept("=");
    }
    found.trim = Some(Trim { keep: keep(args)?, approximate, limit: 0 });
    Ok(())
}

/// Checks LIMIT against what is trimmed, and sets it where it was not told.
fn bound(found: &mut Trimming, adds: bool, limit: Option<u64>, limits: &Limits) -> Result<(), CommandError> {
    /// Nodes one call removes at most, so that it takes no time to speak of.
    const NODES_AT_ONCE: usize = 100;
    const ENTRIES_AT_ONCE: usize = 10_000;
    const ENTRIES_AT_ONCE_MAX: usize = 1_000_000;
    let Some(trim) = &mut found.trim else {
        if limit.is_some_and(|limit| limit > 0) {
            let text = "syntax error, LIMIT cannot be used without specifying a trimming strategy";
            return Err(CommandError::err(text));
        }
        if !adds {
            let text = "syntax error, XTRIM must be called with at least one trimming strategy";
            return Err(CommandError::err(text));
        }
        return Ok(());
    };
    match limit {
        Some(_) if !trim.approximate => {
            Err(CommandError::err("syntax error, LIMIT cannot be used without the special ~ option"))
        }
        Some(limit) => {
            trim.limit = limit;
            Ok(())
        }
        None => {
            let entries = limits.stream_node_entries_max.saturating_mul(NODES_AT_ONCE);
            let entries = if entries == 0 { ENTRIES_AT_ONCE } else { entries.min(ENTRIES_AT_ONCE_MAX) };
            trim.limit = if trim.approximate { entries as u64 } else { 0 };
            Ok(())
        }
    }
}

fn new_id(text: &[u8]) -> Result<NewId, CommandError> {
    match text.strip_suffix(b"-*") {
        Some(ms) if !ms.contains(&b'-') => Ok(NewId::NextAt(id(ms, 0)?.ms)),
        _ => id(text, 0).map(NewId::Given),
    }
}
