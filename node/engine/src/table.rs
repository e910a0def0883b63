//! Every command, by name and by number: what a request means, which keys and channels it names.
//!
//! Built once from the declarations in [`crate::commands`]; numbers are this process's own and never leave it.
//! [`Table::resolve`] and [`Table::keys_of`] are on the way of every request: neither allocates when all is well.
//! This file refuses to know what a command does, and who is asking.

use crate::command::{
    Begin, ChannelRule, Command, DatabaseRule, Find, Flags, KeyFlags, KeyList, KeyRule, KeySpec, Run,
};
use crate::commands::{FAMILIES, counted};
use crate::error::CommandError;
use crate::span::Span;
use crate::types::number;
use keyward_acl::{Catalog, Category, CategorySet, ChannelUse, CommandId, DatabaseUse, KeyAccess, KeyUse, Treatment};
use std::sync::LazyLock;

static TABLE: LazyLock<Table> = LazyLock::new(Table::new);

/// The table of this process.
pub fn table() -> &'static Table {
    &TABLE
}

/// One command or subcommand, with everything that can be known before a request comes.
pub struct Row {
    /// Its number in this process.
    pub id: CommandId,
    /// Its declaration.
    pub command: &'static Command,
    /// Lower case, `get` or `config|get`.
    pub full_name: &'static str,
    /// How it runs. Other than in the declaration, a container that may be called alone runs its INFO subcommand.
    pub run: Run,
    /// The container of a subcommand.
    pub parent: Option<CommandId>,
    /// The subcommands of a container.
    pub subcommands: Vec<CommandId>,
    /// Declared and implied ACL categories.
    pub categories: CategorySet,
    /// It may change data.
    pub is_write: bool,
    /// It only reads data.
    pub is_read_only: bool,
    /// The index of its key and what is done with it, if there is always exactly this one: the hot path.
    pub single_key: Option<(u16, KeyAccess)>,
    /// The index of its key, if there is never another, whatever is done with it.
    pub lone_key: Option<u16>,
    /// Where the first key usually is: a hint for fetching it ahead of time.
    pub first_key: Option<u16>,
    /// What it does takes about as long as reading its request: its time need not be measured by itself.
    pub is_quick: bool,
    /// A few words of it may make a value many times their length.
    pub grows_by_far: bool,
    /// How much it looks at.
    pub span: Span,
}

impl Row {
    /// Whether every flag of `flags` is set.
    #[inline]
    pub fn has(&self, flags: Flags) -> bool {
        self.command.flags.has(flags)
    }

    /// Whether clients cannot find its keys by first, last and step alone (`movablekeys` of `COMMAND INFO`).
    pub fn has_movable_keys(&self) -> bool {
        self.legacy_keys().1
    }

    /// First key, last key and step as `COMMAND INFO` shows them, and whether they leave keys out.
    pub(crate) fn legacy_keys(&self) -> ((i64, i64, i64), bool) {
        let specs = self.command.keys.specs();
        let ranges = specs.iter().filter_map(|spec| match (spec.begin, spec.find) {
            (Begin::Index(first), Find::Range { last, step, .. }) => {
                let last = if last < 0 { i64::from(last) } else { i64::from(first) + i64::from(last) };
                Some((i64::from(first), last, i64::from(step)))
            }
            _ => None,
        });
        let mut movable = specs.iter().any(|spec| spec.flags.has(KeyFlags::INCOMPLETE));
        let mut found: Option<(i64, i64, i64)> = None;
        let mut count = 0;
        for (first, last, step) in ranges {
            count += 1;
            found = match found {
                None if specs.len() == 1 || step == 1 => Some((first, last, step)),
                // Only ranges that follow each other without a gap can be shown as one.
                Some((start, end, 1)) if step == 1 && end == first - 1 => Some((start, last, 1)),
                other => {
                    movable = true;
                    other
                }
            };
        }
        (found.unwrap_or((0, 0, 0)), movable || count != specs.len())
    }

    fn new(command: &'static Command, id: CommandId, parent: Option<&Row>) -> Row {
        let own = command.name.to_ascii_lowercase();
        let name = parent.map_or(own.clone(), |parent| format!("{}|{own}", parent.full_name));
        let span = Span::of(&name);
        let grows_by_far = matches!(&*name, "restore" | "setrange" | "setbit" | "bitfield" | "copy");
        Row {
            id,
            command,
            // The table lives as long as the process, so its names may too.
            full_name: Box::leak(name.into_boxed_str()),
            run: run_of(command),
            parent: parent.map(|parent| parent.id),
            subcommands: Vec::new(),
            categories: command.categories(),
            is_write: command.flags.has(Flags::WRITE),
            is_read_only: command.flags.has(Flags::READONLY),
            single_key: single_key(command),
            lone_key: lone_key(command),
            is_quick: is_quick(command),
            grows_by_far,
            span,
            first_key: first_key(command),
        }
    }
}

/// `COMMAND` alone is `COMMAND INFO`; every other container needs a subcommand.
fn run_of(command: &Command) -> Run {
    match command.run {
        Run::Container(subcommands) if command.arity.accepts(1) => {
            subcommands.iter().find(|subcommand| subcommand.name == "INFO").map_or(command.run, |info| info.run)
        }
        run => run,
    }
}

/// Redis calls those that replace a whole string slow, for freeing what was there: here that is done elsewhere. What is published
/// takes as long as there are listeners.
fn is_quick(command: &Command) -> bool {
    command.flags.has(Flags::FAST) && command.group != crate::command::Group::PubSub
        || matches!(command.name, "SET" | "SETEX" | "PSETEX" | "GETSET")
}

fn single_key(command: &Command) -> Option<(u16, KeyAccess)> {
    let KeyRule::At([spec]) = command.keys else { return None };
    let KeySpec { flags, begin: Begin::Index(index), find: Find::Range { last: 0, .. } } = *spec else {
        return None;
    };
    (!flags.has(KeyFlags::NOT_KEY)).then(|| (index, flags.access()))
}

fn lone_key(command: &Command) -> Option<u16> {
    let [KeySpec { flags, begin: Begin::Index(index), find: Find::Range { last: 0, .. } }] = command.keys.specs()
    else {
        return None;
    };
    (!flags.has(KeyFlags::NOT_KEY) && !flags.has(KeyFlags::INCOMPLETE)).then_some(*index)
}

fn first_key(command: &Command) -> Option<u16> {
    let first = command.keys.specs().first()?;
    match (first.begin, first.find) {
        (Begin::Index(index), Find::Range { .. }) if !first.flags.has(KeyFlags::NOT_KEY) => Some(index),
        _ => None,
    }
}

/// What a request means.
#[derive(Clone, Copy)]
pub struct Resolved<'t> {
    /// The command or subcommand.
    pub row: &'t Row,
    /// How many arguments its name takes: 1, or 2 for a subcommand.
    pub words: usize,
}

/// All commands of this process.
pub struct Table {
    rows: Vec<Row>,
    names: NameIndex,
}

impl Table {
    fn new() -> Table {
        let mut rows: Vec<Row> = Vec::new();
        for command in FAMILIES.iter().copied().flatten() {
            let container = rows.len();
            rows.push(Row::new(command, container as CommandId, None));
            let Run::Container(subcommands) = command.run else { continue };
            for subcommand in subcommands {
                let id = rows.len() as CommandId;
                let row = Row::new(subcommand, id, Some(&rows[container]));
                rows.push(row);
                rows[container].subcommands.push(id);
            }
        }
        let names = NameIndex::new(rows.iter().filter(|row| row.parent.is_none()));
        Table { rows, names }
    }

    /// Every command and subcommand; a row's index is its number.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The commands that are no subcommands.
    pub fn commands(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| row.parent.is_none())
    }

    /// The row with this number.
    #[inline]
    pub fn row(&self, id: CommandId) -> &Row {
        &self.rows[usize::from(id)]
    }

    /// The row of a full name, `get` or `config|get`, ASCII case ignored.
    pub fn find(&self, full_name: &[u8]) -> Option<&Row> {
        match full_name.iter().position(|byte| *byte == b'|') {
            None => self.command(full_name),
            Some(bar) => self.subcommand(self.command(&full_name[..bar])?, &full_name[bar + 1..]),
        }
    }

    /// What a request means, its number of arguments not looked at; a container alone means itself. The error is the
    /// text a client gets.
    #[inline]
    pub fn look_up(&self, argv: &[&[u8]]) -> Result<Resolved<'_>, CommandError> {
        let Some(row) = argv.first().and_then(|name| self.command(name)) else {
            return Err(unknown_command(argv));
        };
        if row.subcommands.is_empty() {
            return Ok(Resolved { row, words: 1 });
        }
        let Some(word) = argv.get(1) else { return Ok(Resolved { row, words: 1 }) };
        match self.subcommand(row, word) {
            Some(row) => Ok(Resolved { row, words: 2 }),
            None => Err(unknown_subcommand(row, word)),
        }
    }

    /// The same as [`Table::resolve`], for requests that come one after the other: most have the name of the one before.
    #[inline]
    pub fn resolve_next<'a>(
        &'static self,
        before: &mut Option<(&'a [u8], &'static Row)>,
        argv: &'a [&'a [u8]],
    ) -> Result<Resolved<'static>, CommandError> {
        if let (Some((name, row)), Some(own)) = (*before, argv.first())
            && *own == name
            && row.command.arity.accepts(argv.len())
        {
            return Ok(Resolved { row, words: 1 });
        }
        let resolved = self.resolve(argv)?;
        // A container's subcommands share its name.
        *before = argv
            .first()
            .filter(|_| resolved.words == 1 && resolved.row.subcommands.is_empty())
            .map(|name| (*name, resolved.row));
        Ok(resolved)
    }

    /// What a request means. Every request passes here, also those inside transactions, scripts and ACL DRYRUN.
    #[inline]
    pub fn resolve(&self, argv: &[&[u8]]) -> Result<Resolved<'_>, CommandError> {
        let resolved = self.look_up(argv)?;
        if !resolved.row.command.arity.accepts(argv.len()) {
            return Err(CommandError::Arity(resolved.row.full_name.to_string()));
        }
        Ok(resolved)
    }

    /// Appends the keys a request names. Permission check, routing and locking all take these, and no others.
    /// Total: whatever the arguments are, it ends without a panic.
    #[inline]
    pub fn keys_of<'a>(&self, row: &Row, argv: &'a [&'a [u8]], keys: &mut Vec<KeyUse<'a>>) {
        if let Some((index, access)) = row.single_key {
            if let Some(key) = argv.get(usize::from(index)) {
                keys.push(KeyUse { key, access, argument: u32::from(index) });
            }
            return;
        }
        match row.command.keys {
            KeyRule::None => {}
            KeyRule::At(specs) => {
                let mut list = KeyList { argv, keys };
                visit(specs, argv, |index, flags| {
                    if !flags.has(KeyFlags::NOT_KEY) {
                        list.push(index, flags);
                    }
                });
            }
            KeyRule::Parsed(_, parse) => parse(&mut KeyList { argv, keys }),
        }
    }

    /// Appends the arguments that choose the slot of a request: its keys, and what only looks like a key to a
    /// cluster client (the channel of SPUBLISH).
    pub fn slot_keys_of<'a>(&self, row: &Row, argv: &'a [&'a [u8]], keys: &mut Vec<KeyUse<'a>>) {
        match row.command.keys {
            KeyRule::At(specs) => {
                let mut list = KeyList { argv, keys };
                visit(specs, argv, |index, flags| list.push(index, flags));
            }
            _ => self.keys_of(row, argv, keys),
        }
    }

    /// The databases a request of a connection in `current` touches. What a handler will refuse names none.
    pub fn databases_of(&self, row: &Row, argv: &[&[u8]], current: u32, databases: &mut Vec<DatabaseUse>) {
        let index = |text: &[u8]| number::parse_i64(text).and_then(|index| u32::try_from(index).ok());
        let at = |argument: u16| argv.get(usize::from(argument)).and_then(|text| index(text)).map(DatabaseUse::Index);
        let own = row.is_write || row.is_read_only || row.categories.contains(Category::Keyspace);
        let own = own.then_some(DatabaseUse::Index(current));
        match row.command.extra.databases {
            DatabaseRule::Own => databases.extend(own),
            DatabaseRule::At(argument) => databases.extend(at(argument)),
            DatabaseRule::Both(first, second) => databases.extend(at(first).into_iter().chain(at(second))),
            DatabaseRule::OwnAndAt(argument) => databases.extend(own.into_iter().chain(at(argument))),
            DatabaseRule::OwnAndAfter(word) => {
                databases.extend(own);
                let options = argv.windows(2).filter(|pair| pair[0].eq_ignore_ascii_case(word.as_bytes()));
                databases.extend(options.filter_map(|pair| index(pair[1])).map(DatabaseUse::Index));
            }
            DatabaseRule::Every => databases.push(DatabaseUse::Every),
        }
    }

    /// Appends the channels a request names.
    pub fn channels_of<'a>(&self, row: &Row, argv: &'a [&'a [u8]], channels: &mut Vec<ChannelUse<'a>>) {
        let (range, pattern) = match row.command.extra.channels {
            ChannelRule::None => return,
            ChannelRule::At(index) => (usize::from(index)..usize::from(index) + 1, false),
            ChannelRule::From(index) => (usize::from(index)..argv.len(), false),
            ChannelRule::PatternsFrom(index) => (usize::from(index)..argv.len(), true),
        };
        for argument in range {
            if let Some(channel) = argv.get(argument) {
                channels.push(ChannelUse { channel, pattern, argument: argument as u32 });
            }
        }
    }

    #[inline]
    fn command(&self, name: &[u8]) -> Option<&Row> {
        self.names.find(name).map(|id| self.row(id))
    }

    #[inline]
    fn subcommand(&self, container: &Row, word: &[u8]) -> Option<&Row> {
        let rows = container.subcommands.iter().map(|id| self.row(*id));
        rows.into_iter().find(|row| row.command.name.as_bytes().eq_ignore_ascii_case(word))
    }
}

impl Catalog for Table {
    fn count(&self) -> usize {
        self.rows.len()
    }

    fn find(&self, full_name_lower: &str) -> Option<CommandId> {
        Table::find(self, full_name_lower.as_bytes()).map(|row| row.id)
    }

    fn full_name(&self, id: CommandId) -> &str {
        self.row(id).full_name
    }

    fn parent(&self, id: CommandId) -> Option<CommandId> {
        self.row(id).parent
    }

    fn subcommands(&self, id: CommandId) -> &[CommandId] {
        &self.row(id).subcommands
    }

    fn categories(&self, id: CommandId) -> CategorySet {
        self.row(id).categories
    }

    fn is_no_auth(&self, id: CommandId) -> bool {
        self.row(id).has(Flags::NO_AUTH)
    }

    fn treatment(&self, id: CommandId) -> Treatment {
        self.row(id).command.scope.treatment()
    }
}

/// Calls `found` with the index of every argument that `specs` speak of, and with what is done to it.
pub(crate) fn visit(specs: &[KeySpec], argv: &[&[u8]], mut found: impl FnMut(usize, KeyFlags)) {
    for spec in specs {
        // Keywords and what only a parser knows are left to the parser: `KeyRule::At` has neither.
        let Begin::Index(begin) = spec.begin else { continue };
        let begin = usize::from(begin);
        match spec.find {
            Find::Unknown => {}
            Find::KeyNum { count, first, step } => {
                let (count, first, step) = (usize::from(count), usize::from(first), usize::from(step.max(1)));
                let keys = counted(argv, begin + count, begin + first, step).unwrap_or_default();
                keys.step_by(step).for_each(|index| found(index, spec.flags));
            }
            Find::Range { last, step, limit } => {
                let rest = argv.len().saturating_sub(begin);
                let wanted = match usize::try_from(last) {
                    Ok(last) => (last + 1).min(rest),
                    Err(_) if limit > 1 => rest / usize::from(limit),
                    // -1 is the last argument, -2 the one before.
                    Err(_) => rest.saturating_sub(usize::from(last.unsigned_abs()) - 1),
                };
                let step = usize::from(step.max(1));
                (begin..begin + wanted).step_by(step).for_each(|index| found(index, spec.flags));
            }
        }
    }
}

/// The most of a client's words that an error repeats, in bytes, as Redis.
const ECHO_BYTES_MAX: usize = 128;

fn cut(text: &[u8], bytes_max: usize) -> &[u8] {
    &text[..text.len().min(bytes_max)]
}

#[cold]
fn unknown_command(argv: &[&[u8]]) -> CommandError {
    let Some((name, rest)) = argv.split_first() else {
        return CommandError::err("unknown command ''");
    };
    let mut beginning = Vec::new();
    for argument in rest {
        let room = ECHO_BYTES_MAX.saturating_sub(beginning.len());
        if room == 0 {
            break;
        }
        beginning.extend_from_slice(&[b"'", cut(argument, room), b"' "].concat());
    }
    let name = cut(name, ECHO_BYTES_MAX);
    CommandError::quoting(b"ERR unknown command '", &[(name, b"', with args beginning with: "), (&beginning, b"")])
}

#[cold]
fn unknown_subcommand(container: &Row, word: &[u8]) -> CommandError {
    let help = format!("'. Try {} HELP.", container.command.name);
    CommandError::quoting(b"ERR unknown subcommand '", &[(cut(word, ECHO_BYTES_MAX), help.as_bytes())])
}

/// Finds a command by the first word of a request: the word is folded to lower case in three registers, hashed once
/// and compared in three registers.
struct NameIndex {
    /// Numbers of commands by hash, `NONE` where there is none; collisions go to the next slot.
    slots: Box<[CommandId; SLOT_COUNT]>,
    /// Folded names, by number.
    folded: Vec<Folded>,
}

type Folded = [u64; 3];

/// Four times the number of commands, so that probes are rare; 2 KB, so that it stays in the cache.
const SLOT_COUNT: usize = 1024;
const NONE: CommandId = CommandId::MAX;

impl NameIndex {
    fn new<'t>(rows: impl Iterator<Item = &'t Row>) -> NameIndex {
        let mut index = NameIndex { slots: Box::new([NONE; SLOT_COUNT]), folded: Vec::new() };
        for row in rows {
            let folded = fold(row.full_name.as_bytes()).expect("a command's name has 1 to 24 bytes");
            let id = usize::from(row.id);
            index.folded.resize(id + 1, [0; 3]);
            index.folded[id] = folded;
            let mut slot = slot_of(&folded);
            while index.slots[slot] != NONE {
                slot = (slot + 1) % SLOT_COUNT;
            }
            index.slots[slot] = row.id;
        }
        index
    }

    #[inline]
    fn find(&self, name: &[u8]) -> Option<CommandId> {
        let folded = fold(name)?;
        let mut slot = slot_of(&folded);
        loop {
            let id = self.slots[slot];
            if id == NONE {
                return None;
            }
            if self.folded[usize::from(id)] == folded {
                return Some(id);
            }
            slot = (slot + 1) % SLOT_COUNT;
        }
    }
}

#[inline]
fn slot_of(folded: &Folded) -> usize {
    let mixed = folded[0] ^ folded[1].rotate_left(23) ^ folded[2].rotate_left(41);
    // Fibonacci hashing: the high bits of the product depend on every byte.
    (mixed.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 54) as usize % SLOT_COUNT
}

/// A word of 1 to 24 bytes in lower case, the length mixed in by padding; a word with a NUL is no name.
#[inline]
fn fold(word: &[u8]) -> Option<Folded> {
    let length = word.len();
    let words = match length {
        0 => return None,
        1..=3 => {
            let middle = u64::from(word[length / 2]) << (8 * (length / 2));
            [u64::from(word[0]) | middle | u64::from(word[length - 1]) << (8 * (length - 1)), 0, 0]
        }
        4..=7 => {
            let head = u64::from(u32::from_le_bytes(*word.first_chunk()?));
            let tail = u64::from(u32::from_le_bytes(*word.last_chunk()?));
            [head | tail << (8 * (length - 4)), 0, 0]
        }
        8..=16 => [eight(word, 0)?, u64::from_le_bytes(*word.last_chunk()?).unbounded_shr(8 * (16 - length) as u32), 0],
        17..=24 => {
            let tail = u64::from_le_bytes(*word.last_chunk()?) >> (8 * (24 - length));
            [eight(word, 0)?, eight(word, 8)?, tail]
        }
        _ => return None,
    };
    // A NUL would make a word equal to a shorter one.
    if word[length - 1] == 0 {
        return None;
    }
    Some([lower(words[0]), lower(words[1]), lower(words[2])])
}

#[inline]
fn eight(word: &[u8], from: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*word.get(from..)?.first_chunk()?))
}

/// Eight bytes in ASCII lower case at once: bytes from `A` to `Z` get their bit 0x20, all others stay.
#[inline]
fn lower(bytes: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let low = bytes & (ONES * 0x7f);
    let from_a = low + ONES * (0x80 - b'A' as u64);
    let past_z = low + ONES * (0x7f - b'Z' as u64);
    let upper = (from_a ^ past_z) & !bytes & (ONES * 0x80);
    bytes | upper >> 2
}

#[cfg(test)]
mod tests;
