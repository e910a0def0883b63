//! What a write did: enough to do it again elsewhere, deterministically.
//!
//! A handler that changed something says so through [`Effects`]. By default the request itself is the effect; a
//! handler whose request depends on time, chance or the state of the data (a relative expiry, `SPOP`, `INCRBYFLOAT`)
//! replaces it by commands that do not. The node appends the effects to the shard group's journal while the shard is
//! still locked: journal order is memory order. Replicas apply effects without deciding anything.

use crate::events::{Event, EventClass};
use crate::keyspace::UnixMillis;
use crate::tenancy;
use std::cell::Cell;
use std::ops::Range;

/// One effect: a command with its arguments, deterministic.
pub type EffectCommand = Vec<Vec<u8>>;

/// What a client gets that waited in vain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WaitedInVain {
    /// The null of a bulk string.
    Null,
    /// The null of an array.
    NullArray,
    /// The null of an array after a wait, that of a bulk string where nothing may wait: `BLMOVE`.
    NullArrayOrNull,
}

/// A command found nothing and waits: it is run again, as a whole, when one of its keys was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wait {
    /// When it gives up; `None` never does.
    pub until: Option<UnixMillis>,
    /// The answer then, and at once where nothing may wait (transactions, scripts).
    pub in_vain: WaitedInVain,
    /// Run this instead of the request: `XREAD … $` means the end of the stream as of now.
    pub again: Option<EffectCommand>,
}

/// Keys that were emptied or exchanged as a whole.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct EveryKeyOf {
    /// Of these databases.
    pub databases: Vec<u32>,
    /// Those that begin with one of these, or `{` and one of them; all, if none is named.
    pub prefixes: Vec<Vec<u8>>,
}

impl EveryKeyOf {
    /// Whether the key is one of them.
    pub fn has(&self, database: u32, key: &[u8]) -> bool {
        self.databases.contains(&database) && self.has_name(key)
    }

    /// Whether a key of this name is one of them, in some database.
    pub fn has_name(&self, key: &[u8]) -> bool {
        self.prefixes.is_empty() || tenancy::begins(key, &self.prefixes)
    }

    /// Takes others in.
    pub fn add(&mut self, other: EveryKeyOf) {
        self.databases.extend(other.databases.iter().filter(|one| !self.databases.contains(one)).collect::<Vec<_>>());
        if self.prefixes.is_empty() || other.prefixes.is_empty() {
            self.prefixes.clear();
        } else {
            self.prefixes.extend(other.prefixes);
            self.prefixes.sort_unstable();
            self.prefixes.dedup();
        }
    }
}

/// What the commands of one call did.
#[derive(Default, Debug)]
pub struct Effects {
    changes: u64,
    replaced: bool,
    /// Arguments of the request in whose place this one belongs.
    rewritten: Option<(Range<usize>, ShortWord)>,
    commands: Vec<EffectCommand>,
    /// Commands on other databases than the one of the call, each with its database.
    elsewhere: Vec<(u32, EffectCommand)>,
    removed: Vec<Vec<u8>>,
    /// How many of those removed were evicted; the others were past their expiry.
    evicted: usize,
    /// Somebody observes keys of the locked shards: what is touched is noted.
    observed: bool,
    touched: Vec<(u32, Vec<u8>)>,
    every_key: Option<EveryKeyOf>,
    /// More than the segments of the keys it named may have changed.
    strayed: bool,
    wanted_events: EventClass,
    events: Vec<Event>,
    wait: Option<Wait>,
    /// Removals of expired fields, as commands.
    removed_fields: Vec<EffectCommand>,
    /// More than the counters is to be cleared: most calls leave nothing else behind.
    left_more: bool,
    // Reading borrows the keys shared, so these two count through a cell.
    hits: Cell<u64>,
    misses: Cell<u64>,
}

/// An argument that is written in place of others, without an allocation: an id, a number.
type ShortWord = ([u8; SHORT_WORD_BYTES_MAX], u8);
/// Two numbers of 64 bits and a dash.
const SHORT_WORD_BYTES_MAX: usize = 41;

/// Words one effect repeats, at most, and their bytes: what a request draws or finds may be more than any request may name, and
/// no replica takes a command without end. What is more becomes several effects.
const PART_WORDS_MAX: usize = if cfg!(test) { 8 } else { 1 << 20 };
const PART_BYTES_MAX: usize = 64 << 20;

/// The parts of an effect, for the journal.
pub enum Effect<'a> {
    /// The request, exactly as it came.
    Request(&'a [&'a [u8]]),
    /// This command instead.
    Command(&'a EffectCommand),
    /// A key that was found expired, or was evicted, and is gone.
    Removed(&'a [u8]),
}

impl Effects {
    /// Nothing happened yet.
    pub fn new() -> Effects {
        Effects::default()
    }

    /// What must be noted in the next call: the keys it touches, and these events.
    #[inline]
    pub fn observe(&mut self, touched: bool, events: EventClass) {
        self.observed = touched;
        self.wanted_events = events;
    }

    /// The key was written, made or removed.
    #[inline]
    pub fn touched(&mut self, database: u32, key: &[u8]) {
        if self.observed {
            self.left_more = true;
            self.touched.push((database, key.to_vec()));
        }
    }

    /// Keys were emptied or exchanged as a whole.
    pub fn touched_every_key(&mut self, of: EveryKeyOf) {
        self.left_more = true;
        match &mut self.every_key {
            Some(known) => known.add(of),
            None => self.every_key = Some(of),
        }
    }

    /// The call works on another database too.
    pub fn strayed(&mut self) {
        (self.strayed, self.left_more) = (true, true);
    }

    /// Whether it did.
    #[inline]
    pub fn has_strayed(&self) -> bool {
        self.strayed
    }

    /// Which keys were emptied or exchanged as a whole, if any.
    pub fn of_every_key(&self) -> Option<&EveryKeyOf> {
        self.every_key.as_ref()
    }

    /// The keys the call wrote, if somebody observes, each with its database; a key may be named twice.
    pub fn touched_keys(&self) -> &[(u32, Vec<u8>)] {
        &self.touched
    }

    /// Something happened that `notify-keyspace-events` may want told.
    #[inline]
    pub fn event(&mut self, class: EventClass, name: &'static str, database: u32, key: &[u8]) {
        if self.wanted_events.has(class) {
            self.left_more = true;
            self.events.push(Event { class, name, database, key: key.to_vec() });
        }
    }

    /// What happened, in order.
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// Whether anybody but the journal must be told about this call.
    #[inline]
    pub fn has_aftermath(&self) -> bool {
        !self.touched.is_empty() || !self.events.is_empty() || self.wait.is_some()
    }

    /// The command waits.
    pub fn wait(&mut self, wait: Wait) {
        (self.wait, self.left_more) = (Some(wait), true);
    }

    /// Whether the command waits, and for how long.
    #[inline]
    pub fn take_wait(&mut self) -> Option<Wait> {
        self.wait.take()
    }

    /// `count` things changed.
    #[inline]
    pub fn changed(&mut self, count: u64) {
        self.changes += count;
    }

    /// What is repeated elsewhere is the request with this short `word` in place of the arguments `at` (XADD with the id
    /// that was chosen).
    #[inline]
    pub fn rewrite(&mut self, at: Range<usize>, word: &[u8]) {
        let mut bytes = [0; SHORT_WORD_BYTES_MAX];
        bytes[..word.len()].copy_from_slice(word);
        (self.rewritten, self.left_more) = (Some((at, (bytes, word.len() as u8))), true);
    }

    /// These commands follow what the request did.
    pub fn follow(&mut self, command: &[&[u8]]) {
        self.left_more = true;
        self.commands.push(command.iter().map(|argument| argument.to_vec()).collect());
    }

    /// Something changed, and these commands say what; the request itself is not repeated elsewhere.
    pub fn replace(&mut self, command: &[&[u8]]) {
        self.replaced = true;
        self.follow(command);
    }

    /// Something changed, and `head` with these words says what, as one command or several that do the same.
    pub fn replace_in_parts<'w>(&mut self, head: &[&'w [u8]], words: impl IntoIterator<Item = &'w [u8]>) {
        for part in parts(words) {
            self.replace(&[head, &part].concat());
        }
    }

    /// Something changed in this database, whichever the call's own is, and this command says what.
    pub fn replace_in<'a>(&mut self, database: u32, command: impl Iterator<Item = &'a [u8]>) {
        (self.replaced, self.left_more) = (true, true);
        self.elsewhere.push((database, command.map(<[u8]>::to_vec).collect()));
    }

    /// The commands that belong to a database of their own, after all others.
    pub fn for_each_elsewhere(&self, mut visit: impl FnMut(u32, Effect<'_>)) {
        self.elsewhere.iter().for_each(|(database, command)| visit(*database, Effect::Command(command)));
    }

    /// A key was found expired and removed, before the request did anything.
    pub fn expired(&mut self, database: u32, key: &[u8]) {
        self.left_more = true;
        self.removed.push(key.to_vec());
        self.touched(database, key);
        self.event(EventClass::EXPIRED, "expired", database, key);
    }

    /// Fields of a hash were found expired and removed, before the request did anything.
    pub fn expired_fields<'a>(&mut self, key: &'a [u8], fields: impl IntoIterator<Item = &'a [u8]>) {
        self.left_more = true;
        for part in parts(fields) {
            let words = [&b"HDEL"[..], key].into_iter().chain(part);
            self.removed_fields.push(words.map(<[u8]>::to_vec).collect());
        }
    }

    /// A key was evicted, because memory ran out.
    pub fn evicted(&mut self, database: u32, key: &[u8]) {
        self.left_more = true;
        self.removed.push(key.to_vec());
        self.evicted += 1;
        self.touched(database, key);
        self.event(EventClass::EVICTED, "evicted", database, key);
    }

    /// How many things the request changed (the `dirty` count of `INFO persistence`).
    #[inline]
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// How many keys were found expired.
    pub fn expired_count(&self) -> usize {
        self.removed.len() - self.evicted
    }

    /// How many keys were evicted.
    pub fn evicted_count(&self) -> usize {
        self.evicted
    }

    /// A read looked for a key.
    #[inline]
    pub fn looked_up(&self, found: bool) {
        let counter = if found { &self.hits } else { &self.misses };
        counter.set(counter.get() + 1);
    }

    /// Reads that found their key, and reads that did not.
    #[inline]
    pub fn lookups(&self) -> (u64, u64) {
        (self.hits.get(), self.misses.get())
    }

    /// Whether there is anything to append.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.changes == 0 && self.removed.is_empty() && self.removed_fields.is_empty()
    }

    /// The effects in the order they must be applied.
    pub fn for_each(&self, request: &[&[u8]], mut visit: impl FnMut(Effect<'_>)) {
        for key in &self.removed {
            visit(Effect::Removed(key));
        }
        for command in &self.removed_fields {
            visit(Effect::Command(command));
        }
        if self.changes > 0 && !self.replaced {
            match &self.rewritten {
                None => visit(Effect::Request(request)),
                Some((at, (bytes, len))) => {
                    let (before, after) = (&request[..at.start], &request[at.end..]);
                    let word: &[&[u8]] = &[&bytes[..usize::from(*len)]];
                    visit(Effect::Request(&[before, word, after].concat()));
                }
            }
        }
        for command in &self.commands {
            visit(Effect::Command(command));
        }
    }

    /// Ready for the next call.
    #[inline]
    pub fn clear(&mut self) {
        self.changes = 0;
        self.hits.set(0);
        self.misses.set(0);
        if self.left_more {
            self.clear_more();
        }
    }

    #[inline(never)]
    fn clear_more(&mut self) {
        self.left_more = false;
        self.replaced = false;
        self.rewritten = None;
        self.commands.clear();
        self.elsewhere.clear();
        self.removed.clear();
        self.evicted = 0;
        self.touched.clear();
        self.every_key = None;
        self.strayed = false;
        self.events.clear();
        self.wait = None;
        self.removed_fields.clear();
    }
}

/// In their order, as many at a time as one effect may repeat.
fn parts<'w>(words: impl IntoIterator<Item = &'w [u8]>) -> impl Iterator<Item = Vec<&'w [u8]>> {
    let mut words = words.into_iter().peekable();
    std::iter::from_fn(move || {
        let (mut part, mut bytes) = (vec![words.next()?], 0);
        bytes += part[0].len();
        while part.len() < PART_WORDS_MAX
            && let Some(word) = words.next_if(|word| bytes + word.len() <= PART_BYTES_MAX)
        {
            bytes += word.len();
            part.push(word);
        }
        Some(part)
    })
}
