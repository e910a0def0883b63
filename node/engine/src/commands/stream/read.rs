//! XREAD and XREADGROUP: entries after given ids of several streams, and waiting for some.

use super::super::READS;
use super::super::collections::Answer;
use super::claim::{Outcome, consumer_of};
use super::{answer_entries, answer_entry, no_group, parse};
use crate::args::Args;
use crate::command::KeyList;
use crate::effects::{Wait, WaitedInVain};
use crate::error::CommandError;
use crate::keyspace::{Keys, Missing, UnixMillis};
use crate::reply::{Protocol, Reply};
use crate::types::{Stream, StreamId, number};
use std::ops::Range;

/// What a request says before its keys, numbers not yet read: a wrong one is no reason to check no keys.
#[derive(Default)]
struct Options<'a> {
    /// Milliseconds to wait; 0 is for ever.
    block: Option<&'a [u8]>,
    /// Entries of each stream; 0 is all.
    count: Option<&'a [u8]>,
    /// The group and the consumer.
    group: Option<(&'a [u8], &'a [u8])>,
    no_ack: bool,
    /// The arguments that are keys; as many ids follow.
    keys: Range<usize>,
}

/// Reads options in order, so that only the option STREAMS counts, never an operand of that name. Permission checks and
/// handlers both read here: the keys that are checked are the keys that are used.
fn options<'a>(argv: &'a [&'a [u8]], grouped: bool) -> Result<Options<'a>, CommandError> {
    let mut options = Options::default();
    let mut args = Args::new(argv, 1);
    let only_grouped = |word: &str| {
        let text = format!("The {word} option is only supported by XREADGROUP. You called XREAD instead.");
        if grouped { Ok(()) } else { Err(CommandError::err(text)) }
    };
    while !args.is_empty() {
        let more = args.len() - 1;
        if more >= 1 && args.accept("BLOCK") {
            options.block = Some(args.take()?);
        } else if more >= 1 && args.accept("COUNT") {
            options.count = Some(args.take()?);
        } else if more >= 1 && args.accept("STREAMS") {
            if !args.len().is_multiple_of(2) {
                let (name, symbol) = if grouped { ("xreadgroup", '>') } else { ("xread", '$') };
                return Err(CommandError::err(format!(
                    "Unbalanced '{name}' list of streams: for each stream key an ID or '{symbol}' must be specified."
                )));
            }
            options.keys = args.index()..args.index() + args.len() / 2;
            break;
        } else if more >= 2 && args.accept("GROUP") {
            only_grouped("GROUP")?;
            options.group = Some((args.take()?, args.take()?));
        } else if args.accept("NOACK") {
            only_grouped("NOACK")?;
            options.no_ack = true;
        } else {
            return Err(CommandError::Syntax);
        }
    }
    if options.keys.is_empty() {
        return Err(CommandError::Syntax);
    }
    if grouped && options.group.is_none() {
        return Err(CommandError::err("Missing GROUP option for XREADGROUP"));
    }
    Ok(options)
}

fn timeout(text: &[u8]) -> Result<u64, CommandError> {
    let number = number::parse_i64(text).ok_or(CommandError::err("timeout is not an integer or out of range"))?;
    u64::try_from(number).map_err(|_| CommandError::err("timeout is negative"))
}

/// The keys of XREAD.
pub(super) fn keys(list: &mut KeyList<'_, '_>) {
    push_keys(list, false);
}

/// The keys of XREADGROUP.
pub(super) fn group_keys(list: &mut KeyList<'_, '_>) {
    push_keys(list, true);
}

fn push_keys(list: &mut KeyList<'_, '_>, grouped: bool) {
    for index in options(list.argv, grouped).unwrap_or_default().keys {
        list.push(index, READS);
    }
}

impl Options<'_> {
    /// Each key with the text of its id.
    fn pairs<'a>(&self, argv: &'a [&'a [u8]]) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let (keys, len) = (self.keys.clone(), self.keys.len());
        keys.map(move |index| (argv[index], argv[index + len]))
    }

    /// The numbers of COUNT and BLOCK.
    fn bounds(&self) -> Result<Bounds, CommandError> {
        let block_ms = self.block.map(timeout).transpose()?;
        let count = self.count.map_or(Ok(0), |text| number::parse_i64(text).ok_or(CommandError::NotInteger))?;
        Ok(Bounds { block_ms, entries_max: if count <= 0 { usize::MAX } else { count as usize } })
    }
}

/// How much to answer, and how long to wait for it.
#[derive(Clone, Copy)]
struct Bounds {
    block_ms: Option<u64>,
    entries_max: usize,
}

impl Bounds {
    /// What happens when there is nothing: waiting, or the answer to that.
    fn nothing(&self, keys: &mut Keys<'_>, again: Option<Vec<Vec<u8>>>, reply: &mut Reply) -> Answer {
        let Some(block_ms) = self.block_ms else {
            reply.null_array();
            return Ok(());
        };
        let until = match block_ms {
            0 => None,
            ms => {
                let until = i64::try_from(ms).ok().and_then(|ms| keys.now().checked_add(ms));
                Some(until.ok_or(CommandError::err("timeout is out of range"))?)
            }
        };
        keys.wait(Wait { until, in_vain: WaitedInVain::NullArray, again })
    }
}

/// The head of one stream's entries.
fn stream_head(key: &[u8], reply: &mut Reply) {
    if reply.protocol == Protocol::Resp2 {
        reply.array(2);
    }
    reply.bulk(key);
}

/// `XREAD [COUNT count] [BLOCK ms] STREAMS key [key …] id [id …]`
pub(super) fn xread(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    let argv = args.argv();
    let options = options(argv, false)?;
    let bounds = options.bounds()?;
    let mut after = Vec::with_capacity(options.keys.len());
    for (key, text) in options.pairs(argv) {
        after.push(after_what(keys.peek_as::<Stream>(key)?, text)?);
    }
    let head = reply.deferred_array();
    let mut served = 0;
    for ((key, _), after) in options.pairs(argv).zip(&after) {
        let Some(stream) = keys.get::<Stream>(key)? else { continue };
        let Some(start) = after.next() else { continue };
        let mut entries = stream.range(start, StreamId::MAX).take(bounds.entries_max).peekable();
        if entries.peek().is_some() {
            stream_head(key, reply);
            answer_entries(entries, reply);
            served += 1;
        }
    }
    if served > 0 {
        reply.finish_map(head, served);
        return Ok(());
    }
    let moving = options.pairs(argv).any(|(_, text)| matches!(text, b"$" | b"+"));
    let again = moving.then(|| {
        let mut again: Vec<Vec<u8>> = argv.iter().map(|argument| argument.to_vec()).collect();
        for (index, after) in (options.keys.end..).zip(&after) {
            again[index] = after.text().to_vec();
        }
        again
    });
    bounds.nothing(keys, again, reply)
}

/// The id after which XREAD reads.
fn after_what(stream: Option<&Stream>, text: &[u8]) -> Result<StreamId, CommandError> {
    match text {
        b"$" => Ok(stream.map_or(StreamId::MIN, Stream::last_id)),
        // The last id there was, even if its entry is deleted: then there is nothing to read.
        b"+" => Ok(stream.and_then(|stream| stream.last_id().previous()).unwrap_or(StreamId::MIN)),
        b">" => Err(CommandError::err(
            "The > ID can be specified only when calling XREADGROUP using the GROUP <group> <consumer> option.",
        )),
        text => parse::id(text, 0),
    }
}

/// What XREADGROUP reads of a stream.
#[derive(Clone, Copy)]
enum Wanted {
    /// What nobody of the group was given yet.
    New,
    /// What the consumer was given after this id and has not acknowledged.
    Pending(StreamId),
}

fn wanted(text: &[u8]) -> Result<Wanted, CommandError> {
    let meaningless = |symbol: char| {
        CommandError::err(format!(
            "The {symbol} ID is meaningless in the context of XREADGROUP: you want to read the history of this consumer \
             by specifying a proper ID, or use the > ID to get new messages. The {symbol} ID would just return an empty \
             result set."
        ))
    };
    match text {
        b"$" => Err(meaningless('$')),
        b"+" => Err(meaningless('+')),
        b">" => Ok(Wanted::New),
        text => Ok(match parse::id(text, 0)? {
            StreamId::MAX => Wanted::New,
            id => Wanted::Pending(id),
        }),
    }
}

/// `XREADGROUP GROUP group consumer [COUNT count] [BLOCK ms] [NOACK] STREAMS key [key …] id [id …]`
pub(super) fn xreadgroup(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    let argv = args.argv();
    let options = options(argv, true)?;
    let bounds = options.bounds()?;
    let (group, consumer) = options.group.ok_or(CommandError::Syntax)?;
    let mut wants = Vec::with_capacity(options.keys.len());
    for (key, text) in options.pairs(argv) {
        let stream = keys.peek_as::<Stream>(key)?;
        if stream.is_none_or(|stream| stream.group(group).is_none()) {
            return Err(no_group(key, group, " in XREADGROUP with GROUP option"));
        }
        wants.push(wanted(text)?);
    }
    let now = keys.now();
    let head = reply.deferred_array();
    let mut served = 0;
    for ((key, _), wanted) in options.pairs(argv).zip(&wants) {
        let reader = Reader { group, consumer, bounds, no_ack: options.no_ack, now };
        let read = keys.amend(key, Missing::Skip, |stream: &mut Stream| reader.read(stream, key, *wanted, reply))?;
        let (outcome, answered) = read.unwrap_or_default();
        outcome.tell(keys, key, group, consumer, now);
        served += usize::from(answered);
    }
    if served > 0 {
        reply.finish_map(head, served);
        return Ok(());
    }
    bounds.nothing(keys, None, reply)
}

/// A consumer that reads.
struct Reader<'a> {
    group: &'a [u8],
    consumer: &'a [u8],
    bounds: Bounds,
    no_ack: bool,
    now: UnixMillis,
}

impl Reader<'_> {
    /// Reads one stream; whether anything was answered.
    fn read(&self, stream: &mut Stream, key: &[u8], wanted: Wanted, reply: &mut Reply) -> (Outcome, bool) {
        let mut outcome = Outcome::default();
        stream.with_group(self.group, |group| _ = consumer_of(group, self.consumer, self.now, &mut outcome));
        let answered = match wanted {
            Wanted::New => self.read_new(stream, key, &mut outcome, reply),
            Wanted::Pending(after) => {
                stream_head(key, reply);
                self.read_pending(stream, after, &mut outcome, reply);
                true
            }
        };
        let acknowledged = self.no_ack && matches!(wanted, Wanted::New);
        if acknowledged {
            outcome.given.clear();
        }
        if !outcome.given.is_empty() {
            let new = matches!(wanted, Wanted::New);
            stream.with_group(self.group, |group| {
                let number = group.number_of(self.consumer).expect("the consumer was found or made");
                outcome.given.iter().for_each(|(id, deliveries)| group.give(*id, number, self.now, *deliveries));
                if new {
                    group.activate(number, Some(self.now));
                }
            });
        }
        (outcome, answered)
    }

    /// Answers what nobody of the group was given yet.
    fn read_new(&self, stream: &mut Stream, key: &[u8], outcome: &mut Outcome, reply: &mut Reply) -> bool {
        let Some(group) = stream.group(self.group) else { return false };
        let (mut last_id, mut read) = (group.last_id, group.entries_read);
        let Some(start) = last_id.next() else { return false };
        let mut entries = stream.range(start, StreamId::MAX).take(self.bounds.entries_max).peekable();
        if entries.peek().is_none() {
            return false;
        }
        stream_head(key, reply);
        answer_entries(
            entries.inspect(|entry| {
                read = stream.read_on(last_id, read, entry.id);
                last_id = entry.id;
                outcome.given.push((entry.id, 1));
            }),
            reply,
        );
        stream.with_group(self.group, |group| (group.last_id, group.entries_read) = (last_id, read));
        outcome.position = Some((last_id, read));
        true
    }

    /// Answers what the consumer was given and has not acknowledged; of what is gone only the id.
    fn read_pending(&self, stream: &Stream, after: StreamId, outcome: &mut Outcome, reply: &mut Reply) {
        let head = reply.deferred_array();
        let mut count = 0;
        let group = stream.group(self.group);
        let consumer = group.and_then(|group| group.consumer(self.consumer));
        let ids =
            after.next().into_iter().flat_map(|start| consumer.into_iter().flat_map(move |c| c.pending_from(start)));
        for id in ids.take(self.bounds.entries_max) {
            count += 1;
            match stream.range(id, id).next() {
                Some(entry) => {
                    answer_entry(&entry, reply);
                    let pending = group.and_then(|group| group.pending(id));
                    outcome.given.push((id, pending.map_or(1, |pending| pending.deliveries.saturating_add(1))));
                }
                None => {
                    reply.array(2);
                    reply.bulk(&id.text());
                    reply.null_array();
                }
            }
        }
        reply.finish_array(head, count);
    }
}
