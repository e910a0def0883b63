//! Keys of any type: delete, expire, rename, copy, list, sort.
//!
//! It refuses to know how a value is stored. Declarations on top, one entry per command; parsers and
//! handlers below.
//! It is long because it is linear: one entry per command, one short handler each.

use super::{CHANGES, DELETES, LOOKS_AT, OVERWRITES, READS, TAKES, UPDATES};
use crate::args::Args;
use crate::asks::Ask;
use crate::command::{
    Arity, Begin, Command, DatabaseRule, Docs, Extra, Find, Flags, Group, KeyFlags, KeyList, KeyRule, KeySpec, Run,
};
use crate::dict::{Entry, ValueRef};
use crate::error::CommandError;
use crate::events::EventClass;
use crate::introspect;
use crate::keyspace::Keys;
use crate::reply::Reply;
use crate::scope::{Of, Scope};
use crate::session::{Session, Surroundings};
use crate::types::{Value, number};
use keyward_acl::Category;

pub(super) mod every_key;
mod expiry;
mod sort;
#[cfg(test)]
mod tests;

type Answer = Result<(), CommandError>;

pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "DEL",
        arity: Arity::AtLeast(2),
        flags: Flags::WRITE,
        group: Group::Generic,
        keys: KeyRule::At(&[KeySpec::range(1, -1, 1, DELETES)]),
        scope: Scope::Named,
        run: Run::OnKeys(del),
        docs: Docs { summary: "Deletes keys.", since: "1.0.0", complexity: "O(N)" },
        extra: Extra {
            categories: &[Category::Keyspace],
            tips: &["request_policy:multi_shard", "response_policy:agg_sum"],
            ..Extra::NONE
        },
    },
    Command {
        name: "UNLINK",
        arity: Arity::AtLeast(2),
        flags: Flags::WRITE.and(Flags::FAST),
        group: Group::Generic,
        keys: KeyRule::At(&[KeySpec::range(1, -1, 1, DELETES)]),
        scope: Scope::Named,
        run: Run::OnKeys(del),
        docs: Docs {
            summary: "Deletes keys and frees their memory in the background.",
            since: "4.0.0",
            complexity: "O(1)",
        },
        extra: Extra {
            categories: &[Category::Keyspace],
            tips: &["request_policy:multi_shard", "response_policy:agg_sum"],
            ..Extra::NONE
        },
    },
    Command {
        name: "EXISTS",
        arity: Arity::AtLeast(2),
        flags: Flags::READONLY.and(Flags::FAST),
        group: Group::Generic,
        keys: KeyRule::At(&[KeySpec::range(1, -1, 1, LOOKS_AT)]),
        scope: Scope::Named,
        run: Run::OnKeys(exists),
        docs: Docs {
            summary: "Counts how many of the given keys exist.",
            since: "1.0.0",
            complexity: "O(N) where N is the number of keys to check",
        },
        extra: Extra {
            categories: &[Category::Keyspace],
            tips: &["request_policy:multi_shard", "response_policy:agg_sum"],
            ..Extra::NONE
        },
    },
    Command {
        name: "TOUCH",
        arity: Arity::AtLeast(2),
        flags: Flags::READONLY.and(Flags::FAST),
        group: Group::Generic,
        keys: KeyRule::At(&[KeySpec::range(1, -1, 1, LOOKS_AT)]),
        scope: Scope::Named,
        run: Run::OnKeys(touch),
        docs: Docs {
            summary: "Marks keys as used and counts those that exist.",
            since: "3.2.1",
            complexity: "O(N) where N is the number of keys that will be touched",
        },
        extra: Extra {
            categories: &[Category::Keyspace],
            tips: &["request_policy:multi_shard", "response_policy:agg_sum"],
            ..Extra::NONE
        },
    },
    Command {
        name: "TYPE",
        arity: Arity::Exactly(2),
        flags: Flags::READONLY.and(Flags::FAST),
        group: Group::Generic,
        keys: KeyRule::At(&[KeySpec::at(1, LOOKS_AT)]),
        scope: Scope::Named,
        run: Run::OnKeys(type_of),
        docs: Docs { summary: "Tells the type of the value at a key.", since: "1.0.0", complexity: "O(1)" },
        extra: Extra::categories(&[Category::Keyspace]),
    },
    Command {
        name: "EXPIRE",
        arity: Arity::AtLeast(3),
        flags: Flags::WRITE.and(Flags::FAST),
        group: Group::Generic,
        keys: KeyRule::At(&[KeySpec::at(1, UPDATES)]),
        scope: Scope::Named,
        run: Run::OnKeys(expiry::expire),
        docs: Docs { summary: "Sets how many seconds a key has to live.", since: "1.0.0", complexity: "O(1)" },
        extra: Extra::categories(&[Category::Keyspace]),
    },
    Command {
        name: "PEXPIRE",
        arity: Arity::AtLeast(3),
        flags: Flags::WRITE.and(Flags::FAST),
        group: Group::Generic,
        keys: KeyRule::At(&[KeySpec::at(1, UPDATES)]),
        scope: Scope::Named,
        run: Run::OnKeys(expiry::pexpire),
        docs: Docs { summary: "Sets how many milliseconds a key has to live.", since: "2.6.0", complexity: "O(1)" },
        extra: Extra::categories(&[Category::Keyspace]),
    },
    Command {
        name: "EXPIREAT",
        arity: Arity::AtLeast(3),
        flags: Flags::WRITE.and(Flags::FAST),
        group: Group::Generic,
        keys: KeyRule::At(&[KeySpec::at(1, UPDATES)]),
        scope: Scope::Named,
        run: Run::OnKeys(expiry::expireat),
        docs: Docs { summary: "Sets the Unix second at which a key expires.", since: "1.2.0", complexity: "O(1)" },
        extra: Extra::categories(&[Category::Keyspace]),
    },
    Command {
        name: "PEXPIREAT",
        arity: Arity::AtLeast(3),
        flags: Flags::WRITE.and(Flags::FAST),
        group: Group::Generic,
        keys: KeyRule::At(&[KeySpec::at(1, UPDATES)]),
        scope: Scope::Named,
        run: Run::OnKeys(expiry::pexpireat),
        docs: Docs { summary: "Sets the Unix millisecond at which a key expires.", since: "2.6.0", complexity: "O(1)" },
        extra: Extra::categories(&[Category::Keyspace]),
    },
    Command {
        name: "TTL",
        arity: Arity::Exactly(2),
        flags: Flags::READONLY.and(Flags::FAST),
        group: Group::Generic,
        keys: KeyRule::At(&[KeySpec::at(1, READS)]),
        scope: Scope::Named,
        run: Run::OnKeys(expiry::ttl),
        docs: Docs { summary: "Tells how many seconds a key has left to live.", since: "1.0.0", complexity: "O(1)" },
        extra: Extra { categories: &[Category::Keyspace], tips: &["nondeterministic_output"], ..Extra::NONE },
    },
    Command {
        name: "PTTL",
        arity: Arity::Exactly(2),
        flags: Flags::READONLY.and(Flags::FAST),
        group: Group::Generic,
        keys: KeyRule::At(&[KeySpec::at(1, READS)]),
        scope: Scope::Named,
        run: Run::OnKeys(expiry::pttl),
        docs: Docs {
            summary: "Tells how many milliseconds a key has left to live.",
            since: "2.6.0",
            complexity: "O(1)",
        },
        extra: Extra { categories: &[Category::Keyspace], tips: &["nondeterministic_output"], ..Extra::NONE },
    },
    Command {
        name: "EXPIRETIME",
        arity: Arity::Exactly(2),
        flags: Flags::READONLY.and(Flags::FAST),
        group: Group::Generic,
        keys: KeyRule::At(&[KeySpec::at(1, READS)]),
        scope: Scope::Named,
        run: Run::OnKeys(expiry::expiretime),
        docs: Docs { summary: "Tells the Unix second at which a key expires.", since: "7.0.0", complexity: "O(1)" },
        extra: Extra::categories(&[Category::Keyspace]),
    },
    Command {
        name: "PEXPIRETIME",
        arity: Arity::Exactly(2),
        flags: Flags::READONLY.and(Flags::FAST),
        group: Group::Generic,
        keys: KeyRule::At(&[KeySpec::at(1, READS)]),
        scope: Scope::Named,
        run: Run::OnKeys(expiry::pexpiretime),
        docs: Docs {
            summary: "Tells the Unix millisecond at which a key expires.",
            since: "7.0.0",
            complexity: "O(1)",
        },
        extra: Extra::categories(&[Category::Keyspace]),
    },
    Command {
        name: "PERSIST",
        arity: Arity::Exactly(2),
        flags: Flags::WRITE.and(Flags::FAST),
        group: Group::Generic,
        keys: KeyRule::At(&[KeySpec::at(1, UPDATES)]),
        scope: Scope::Named,
        run: Run::OnKeys(expiry::persist),
        docs: Docs { summary: "Makes a key live until it is deleted.", since: "2.2.0", complexity: "O(1)" },
        extra: Extra::categories(&[Category::Keyspace]),
    },
    Command {
        name: "RENAME",
        arity: Arity::Exactly(3),
        flags: Flags::WRITE,
        group: Group::Generic,
        keys: KeyRule::At(&[KeySpec::at(1, TAKES), KeySpec::at(2, OVERWRITES)]),
        scope: Scope::Named,
        run: Run::OnKeys(rename),
        docs: Docs {
            summary: "Gives a key another name, overwriting what was there.",
            since: "1.0.0",
            complexity: "O(1)",
        },
        extra: Extra::categories(&[Category::Keyspace]),
    },
    Command {
        name: "RENAMENX",
        arity: Arity::Exactly(3),
        flags: Flags::WRITE.and(Flags::FAST),
        group: Group::Generic,
        keys: KeyRule::At(&[KeySpec::at(1, TAKES), KeySpec::at(2, KeyFlags::OW.and(KeyFlags::INSERT))]),
        scope: Scope::Named,
        run: Run::OnKeys(renamenx),
        docs: Docs {
            summary: "Gives a key another name unless that name is taken.",
            since: "1.0.0",
            complexity: "O(1)",
        },
        extra: Extra::categories(&[Category::Keyspace]),
    },
    Command {
        name: "COPY",
        arity: Arity::AtLeast(3),
        flags: Flags::WRITE.and(Flags::DENYOOM),
        group: Group::Generic,
        keys: KeyRule::At(&[KeySpec::at(1, READS), KeySpec::at(2, OVERWRITES)]),
        scope: Scope::Named,
        run: Run::OnKeys(copy),
        docs: Docs { summary: "Copies the value of a key to another key.", since: "6.2.0", complexity: "O(N)" },
        extra: Extra { categories: &[Category::Keyspace], databases: DatabaseRule::OwnAndAfter("DB"), ..Extra::NONE },
    },
    Command {
        name: "MOVE",
        arity: Arity::Exactly(3),
        flags: Flags::WRITE.and(Flags::FAST),
        group: Group::Generic,
        keys: KeyRule::At(&[KeySpec::at(1, CHANGES)]),
        scope: Scope::Named,
        run: Run::OnKeys(move_key),
        docs: Docs { summary: "Moves a key to another database.", since: "1.0.0", complexity: "O(1)" },
        extra: Extra { categories: &[Category::Keyspace], databases: DatabaseRule::OwnAndAt(2), ..Extra::NONE },
    },
    Command {
        name: "KEYS",
        arity: Arity::Exactly(2),
        flags: Flags::READONLY,
        group: Group::Generic,
        keys: KeyRule::None,
        scope: Scope::Filtered(Of::Keys),
        run: Run::OnEveryKey(every_key::keys),
        docs: Docs { summary: "Lists the keys that match a pattern.", since: "1.0.0", complexity: "O(N)" },
        extra: Extra {
            categories: &[Category::Keyspace, Category::Dangerous],
            tips: &["request_policy:all_shards", "nondeterministic_output_order"],
            ..Extra::NONE
        },
    },
    Command {
        name: "SCAN",
        arity: Arity::AtLeast(2),
        flags: Flags::READONLY,
        group: Group::Generic,
        keys: KeyRule::None,
        scope: Scope::Filtered(Of::Keys),
        run: Run::OnEveryKey(every_key::scan),
        docs: Docs {
            summary: "Walks over the keys of the database, some at a time.",
            since: "2.8.0",
            complexity: "O(1)",
        },
        extra: Extra {
            categories: &[Category::Keyspace],
            tips: &["nondeterministic_output", "request_policy:special", "response_policy:special"],
            ..Extra::NONE
        },
    },
    Command {
        name: "RANDOMKEY",
        arity: Arity::Exactly(1),
        flags: Flags::READONLY,
        group: Group::Generic,
        keys: KeyRule::None,
        scope: Scope::Filtered(Of::Keys),
        run: Run::OnEveryKey(every_key::randomkey),
        docs: Docs { summary: "Picks a key at random.", since: "1.0.0", complexity: "O(1)" },
        extra: Extra {
            categories: &[Category::Keyspace],
            tips: &["request_policy:all_shards", "response_policy:special", "nondeterministic_output"],
            ..Extra::NONE
        },
    },
    Command {
        name: "DUMP",
        arity: Arity::Exactly(2),
        flags: Flags::READONLY,
        group: Group::Generic,
        keys: KeyRule::At(&[KeySpec::at(1, READS)]),
        scope: Scope::Named,
        run: Run::OnKeys(crate::dump::commands::dump),
        docs: Docs { summary: "Returns the value at a key as portable bytes.", since: "2.6.0", complexity: "O(1)" },
        extra: Extra { categories: &[Category::Keyspace], tips: &["nondeterministic_output"], ..Extra::NONE },
    },
    Command {
        name: "RESTORE",
        arity: Arity::AtLeast(4),
        flags: Flags::WRITE.and(Flags::DENYOOM),
        group: Group::Generic,
        keys: KeyRule::At(&[KeySpec::at(1, OVERWRITES)]),
        scope: Scope::Named,
        run: Run::OnKeys(crate::dump::commands::restore),
        docs: Docs { summary: "Creates a key from the bytes that DUMP returned.", since: "2.6.0", complexity: "O(1)" },
        extra: Extra::categories(&[Category::Keyspace, Category::Dangerous]),
    },
    Command {
        name: "SORT",
        arity: Arity::AtLeast(2),
        flags: Flags::WRITE.and(Flags::DENYOOM),
        group: Group::Generic,
        keys: KeyRule::Parsed(
            &[KeySpec::at(1, READS), KeySpec::unknown(READS), KeySpec::unknown(OVERWRITES)],
            sort_keys,
        ),
        scope: Scope::Named,
        run: Run::OnEveryKey(sort::sort),
        docs: Docs {
            summary: "Sorts the elements of a list, set or sorted set, and may store the result.",
            since: "1.0.0",
            complexity: "O(N+M*log(M))",
        },
        extra: Extra {
            categories: &[Category::Set, Category::Sortedset, Category::List, Category::Dangerous],
            looks_further: Some(sort::looks_further),
            ..Extra::NONE
        },
    },
    Command {
        name: "SORT_RO",
        arity: Arity::AtLeast(2),
        flags: Flags::READONLY,
        group: Group::Generic,
        keys: KeyRule::Parsed(&[KeySpec::at(1, READS), KeySpec::unknown(READS)], sort_keys),
        scope: Scope::Named,
        run: Run::OnEveryKey(sort::sort),
        docs: Docs {
            summary: "Sorts the elements of a list, set or sorted set without storing.",
            since: "7.0.0",
            complexity: "O(N+M*log(M))",
        },
        extra: Extra {
            categories: &[Category::Set, Category::Sortedset, Category::List, Category::Dangerous],
            looks_further: Some(sort::looks_further),
            ..Extra::NONE
        },
    },
    Command {
        name: "OBJECT",
        arity: Arity::AtLeast(2),
        flags: Flags::NONE,
        group: Group::Generic,
        keys: KeyRule::None,
        scope: Scope::Subcommands,
        run: Run::Container(OBJECT),
        docs: Docs {
            summary: "Looks at how the server keeps a value.",
            since: "2.2.3",
            complexity: "Depends on subcommand",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "WAIT",
        arity: Arity::Exactly(3),
        flags: Flags::BLOCKING,
        group: Group::Generic,
        keys: KeyRule::None,
        scope: Scope::Public,
        run: Run::AskOwner(wait),
        docs: Docs {
            summary: "Waits until replicas have acknowledged the writes of this connection.",
            since: "3.0.0",
            complexity: "O(1)",
        },
        extra: Extra {
            categories: &[Category::Connection],
            tips: &["request_policy:all_shards", "response_policy:agg_min"],
            ..Extra::NONE
        },
    },
    Command {
        name: "WAITAOF",
        arity: Arity::Exactly(4),
        flags: Flags::BLOCKING,
        group: Group::Generic,
        keys: KeyRule::None,
        scope: Scope::Public,
        run: Run::AskOwner(wait_for_files),
        docs: Docs {
            summary: "Waits until the writes of this connection are on disk here and on replicas.",
            since: "7.2.0",
            complexity: "O(1)",
        },
        extra: Extra {
            categories: &[Category::Connection],
            tips: &["request_policy:all_shards", "response_policy:agg_min"],
            ..Extra::NONE
        },
    },
    Command {
        name: "MIGRATE",
        arity: Arity::AtLeast(6),
        flags: Flags::WRITE,
        group: Group::Generic,
        keys: KeyRule::Parsed(
            &[
                KeySpec::at(3, TAKES),
                KeySpec {
                    flags: KeyFlags::RW.and(KeyFlags::ACCESS).and(KeyFlags::DELETE).and(KeyFlags::INCOMPLETE),
                    begin: Begin::Keyword { word: "KEYS", from: -2 },
                    find: Find::Range { last: -1, step: 1, limit: 0 },
                },
            ],
            migrate_keys,
        ),
        scope: Scope::Ceiling,
        run: Run::Refused("keys are not moved between servers"),
        docs: Docs { summary: "Moves keys to another server.", since: "2.6.0", complexity: "O(N)" },
        extra: Extra {
            categories: &[Category::Keyspace, Category::Dangerous],
            tips: &["nondeterministic_output"],
            ..Extra::NONE
        },
    },
];

const OBJECT: &[Command] = &[
    Command {
        name: "ENCODING",
        arity: Arity::Exactly(3),
        flags: Flags::READONLY,
        group: Group::Generic,
        keys: KeyRule::At(&[KeySpec::at(2, LOOKS_AT)]),
        scope: Scope::Named,
        run: Run::OnKeys(object_encoding),
        docs: Docs { summary: "Names the representation of a value in memory.", since: "2.2.3", complexity: "O(1)" },
        extra: Extra { categories: &[Category::Keyspace], tips: &["nondeterministic_output"], ..Extra::NONE },
    },
    Command {
        name: "FREQ",
        arity: Arity::Exactly(3),
        flags: Flags::READONLY,
        group: Group::Generic,
        keys: KeyRule::At(&[KeySpec::at(2, LOOKS_AT)]),
        scope: Scope::Named,
        run: Run::OnKeys(object_freq),
        docs: Docs { summary: "Tells how often a key is used.", since: "4.0.0", complexity: "O(1)" },
        extra: Extra { categories: &[Category::Keyspace], tips: &["nondeterministic_output"], ..Extra::NONE },
    },
    Command {
        name: "IDLETIME",
        arity: Arity::Exactly(3),
        flags: Flags::READONLY,
        group: Group::Generic,
        keys: KeyRule::At(&[KeySpec::at(2, LOOKS_AT)]),
        scope: Scope::Named,
        run: Run::OnKeys(object_idletime),
        docs: Docs { summary: "Tells how many seconds ago a key was last used.", since: "2.2.3", complexity: "O(1)" },
        extra: Extra { categories: &[Category::Keyspace], tips: &["nondeterministic_output"], ..Extra::NONE },
    },
    Command {
        name: "REFCOUNT",
        arity: Arity::Exactly(3),
        flags: Flags::READONLY,
        group: Group::Generic,
        keys: KeyRule::At(&[KeySpec::at(2, LOOKS_AT)]),
        scope: Scope::Named,
        run: Run::OnKeys(object_refcount),
        docs: Docs { summary: "Tells how many references a value has.", since: "2.2.3", complexity: "O(1)" },
        extra: Extra { categories: &[Category::Keyspace], tips: &["nondeterministic_output"], ..Extra::NONE },
    },
    Command {
        name: "HELP",
        arity: Arity::Exactly(2),
        flags: Flags::LOADING.and(Flags::STALE),
        group: Group::Generic,
        keys: KeyRule::None,
        scope: Scope::Public,
        run: Run::OnSession(introspect::help),
        docs: Docs { summary: "Lists the subcommands of OBJECT.", since: "6.2.0", complexity: "O(1)" },
        extra: Extra::categories(&[Category::Keyspace]),
    },
];

/// The options of SORT and SORT_RO.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(super) struct SortOptions<'a> {
    /// `DESC`.
    pub(super) descending: bool,
    /// `ALPHA`: compare as texts.
    pub(super) alpha: bool,
    /// `LIMIT offset count`.
    pub(super) limit: Option<(i64, i64)>,
    /// `BY`: the last one given.
    pub(super) by: Option<&'a [u8]>,
    /// `GET`: every one, in order.
    pub(super) get: Vec<&'a [u8]>,
    /// `STORE`: the index in argv of the destination, the last one given.
    pub(super) store: Option<usize>,
}

/// Reads `SORT key [option …]`. Every option swallows its operands, so that in `BY STORE` nothing is stored.
pub(super) fn parse_sort<'a>(argv: &'a [&'a [u8]]) -> Result<SortOptions<'a>, CommandError> {
    let read_only = argv.first().is_some_and(|name| name.eq_ignore_ascii_case(b"SORT_RO"));
    let mut args = Args::new(argv, 2);
    let mut options = SortOptions::default();
    while !args.is_empty() {
        if args.accept("ASC") {
            options.descending = false;
        } else if args.accept("DESC") {
            options.descending = true;
        } else if args.accept("ALPHA") {
            options.alpha = true;
        } else if args.accept("LIMIT") {
            if args.len() < 2 {
                return Err(CommandError::Syntax);
            }
            options.limit = Some((args.integer()?, args.integer()?));
        } else if args.accept("BY") {
            options.by = Some(args.take()?);
        } else if args.accept("GET") {
            options.get.push(args.take()?);
        } else if !read_only && args.accept("STORE") {
            options.store = Some(args.index());
            args.take()?;
        } else {
            return Err(CommandError::Syntax);
        }
    }
    Ok(options)
}

/// SORT reads its key and overwrites the destination of STORE. What BY and GET look up depends on the data: the gate
/// asks [`sort::looks_further`] about them.
fn sort_keys(list: &mut KeyList<'_, '_>) {
    list.push(1, READS);
    if let Ok(SortOptions { store: Some(store), .. }) = parse_sort(list.argv) {
        list.push(store, OVERWRITES);
    }
}

/// MIGRATE names one key at argument 3, or, if that is empty, those after KEYS.
fn migrate_keys(list: &mut KeyList<'_, '_>) {
    let flags = TAKES;
    if list.argv.get(3).is_some_and(|key| !key.is_empty()) {
        list.push(3, flags);
        return;
    }
    let mut args = Args::new(list.argv, 6);
    while !args.is_empty() {
        if args.accept("KEYS") {
            (args.index()..list.argv.len()).for_each(|index| list.push(index, flags));
            return;
        }
        let operands = if args.accept("AUTH2") {
            2
        } else if args.accept("AUTH") {
            1
        } else if args.accept("COPY") || args.accept("REPLACE") {
            0
        } else {
            return;
        };
        for _ in 0..operands {
            if args.take().is_err() {
                return;
            }
        }
    }
}

// ---- whether and what ----

fn del(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    // What is big is freed after the locks anyway, so UNLINK has nothing to add.
    let mut removed = 0;
    for key in args.rest() {
        if keys.remove(key) {
            keys.event(EventClass::GENERIC, "del", key);
            removed += 1;
        }
    }
    keys.effects.changed(removed as u64);
    reply.count(removed);
    Ok(())
}

fn exists(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let mut count = 0;
    for key in args.rest() {
        let found = keys.exists(key);
        keys.effects.looked_up(found);
        count += usize::from(found);
    }
    reply.count(count);
    Ok(())
}

fn touch(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    reply.count(args.rest().iter().filter(|key| keys.touch(key)).count());
    Ok(())
}

fn type_of(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let name = keys.type_name(args.take()?);
    keys.effects.looked_up(name.is_some());
    reply.simple(name.unwrap_or("none"));
    Ok(())
}

// ---- under another name, in another database ----

fn rename(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let (from, to) = (args.take()?, args.take()?);
    if !keys.exists(from) {
        return Err(CommandError::NoSuchKey);
    }
    if from != to {
        move_value(keys, from, to);
    }
    reply.ok();
    Ok(())
}

fn renamenx(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let (from, to) = (args.take()?, args.take()?);
    if !keys.exists(from) {
        return Err(CommandError::NoSuchKey);
    }
    // The request is repeated elsewhere as it is: an expired key must not be in its way there.
    keys.settle(to);
    let free = !keys.exists(to);
    if free {
        move_value(keys, from, to);
    }
    reply.flag(free);
    Ok(())
}

fn move_value(keys: &mut Keys<'_>, from: &[u8], to: &[u8]) {
    if let Some(taken) = keys.take(from) {
        keys.put_taken(to, taken);
        keys.effects.changed(1);
        keys.event(EventClass::GENERIC, "rename_from", from);
        keys.event(EventClass::GENERIC, "rename_to", to);
    }
}

fn copy(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let (from, to) = (args.take()?, args.take()?);
    let (mut database, mut replace) = (keys.database(), false);
    while !args.is_empty() {
        if args.accept("REPLACE") {
            replace = true;
        } else if args.accept("DB") {
            database = database_argument(&mut args, keys.databases())?;
        } else {
            return Err(CommandError::Syntax);
        }
    }
    if from == to && database == keys.database() {
        return Err(CommandError::err("source and destination objects are the same"));
    }
    let object_bytes = |entry: &Entry<Value>| match entry.value() {
        ValueRef::Object(object) => object.memory_bytes(),
        _ => 0,
    };
    keys.lets_grow(keys.peek(from).map_or(0, |entry| entry.memory_bytes() + object_bytes(entry)) as u64)?;
    let Some(copied) = keys.copy(from) else {
        reply.flag(false);
        return Ok(());
    };
    let done = keys.in_database(database, |keys| {
        let allowed = replace || !keys.exists(to);
        if allowed {
            keys.put_taken(to, copied);
            keys.event(EventClass::GENERIC, "copy_to", to);
        }
        allowed
    });
    if done {
        keys.effects.changed(1);
        copy_elsewhere(keys, from, to, database);
    }
    reply.flag(done);
    Ok(())
}

fn move_key(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let key = args.take()?;
    let database = database_argument(&mut args, keys.databases())?;
    if database == keys.database() {
        return Err(CommandError::err("source and destination objects are the same"));
    }
    let taken_there = keys.in_database(database, |keys| keys.exists(key));
    let moved = if taken_there { None } else { keys.take(key) };
    let done = moved.is_some();
    if let Some(moved) = moved {
        keys.in_database(database, |keys| keys.put_taken(key, moved));
        keys.effects.changed(1);
        keys.event(EventClass::GENERIC, "move_from", key);
        keys.in_database(database, |keys| keys.event(EventClass::GENERIC, "move_to", key));
        copy_elsewhere(keys, key, key, database);
        keys.effects.replace(&[b"DEL", key]);
    }
    reply.flag(done);
    Ok(())
}

/// Writes a copy down so that it overwrites: what is expired here and therefore missing may still lie there elsewhere.
fn copy_elsewhere(keys: &mut Keys<'_>, from: &[u8], to: &[u8], database: u32) {
    keys.effects.replace(&[b"COPY", from, to, b"DB", &number::format_i64(database.into()), b"REPLACE"]);
}

fn database_argument(args: &mut Args<'_>, databases: u32) -> Result<u32, CommandError> {
    let number = args.integer()?;
    let database = u32::try_from(number).ok().filter(|database| *database < databases);
    database.ok_or_else(|| CommandError::err("DB index is out of range"))
}

// ---- how a value is kept ----

/// A string this long together with its key still lies in one piece with it, as Valkey counts.
const EMBEDDED_BYTES_MAX: usize = 113;
/// Longer keys carry two more bytes of length.
const SHORT_KEY_BYTES_MAX: usize = 31;

fn object_encoding(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let key = args.take()?;
    let Some(entry) = keys.peek(key) else {
        reply.null();
        return Ok(());
    };
    let key_bytes = if key.len() > SHORT_KEY_BYTES_MAX { key.len() + 2 } else { key.len() };
    let encoding = match entry.value() {
        ValueRef::Int(_) => "int",
        ValueRef::Str(bytes) if !entry.is_edited() && key_bytes + bytes.len() <= EMBEDDED_BYTES_MAX => "embstr",
        ValueRef::Str(_) => "raw",
        ValueRef::Object(value) => value.encoding(),
    };
    reply.bulk(encoding.as_bytes());
    Ok(())
}

fn object_freq(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let (usage, now) = (keys.usage(), keys.now());
    match keys.peek(args.take()?) {
        None => reply.null(),
        Some(entry) if usage.counted => reply.integer(usage.frequency(entry.access(), now).into()),
        Some(_) => {
            return Err(CommandError::err(
                "An LFU maxmemory policy is not selected, access frequency not tracked. Please note that when switching \
                 between policies at runtime LRU and LFU data will take some time to adjust.",
            ));
        }
    }
    Ok(())
}

fn object_idletime(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    let (usage, now) = (keys.usage(), keys.now());
    match keys.peek(args.take()?) {
        None => reply.null(),
        Some(entry) if !usage.counted => reply.integer(usage.idle_seconds(entry.access(), now).into()),
        Some(_) => {
            return Err(CommandError::err(
                "An LFU maxmemory policy is selected, idle time not tracked. Please note that when switching between \
                 policies at runtime LRU and LFU data will take some time to adjust.",
            ));
        }
    }
    Ok(())
}

fn object_refcount(keys: &mut Keys<'_>, mut args: Args<'_>, reply: &mut Reply) -> Answer {
    // Values are never shared.
    if keys.exists(args.take()?) {
        reply.integer(1)
    } else {
        reply.null()
    }
    Ok(())
}

// ---- replicas ----

fn wait(_: &Session, _: &Surroundings<'_>, mut args: Args<'_>) -> Result<Ask, CommandError> {
    let replicas = args.integer()?;
    Ok(Ask::WaitForReplicas { replicas, timeout_ms: wait_time(&mut args)?, files: false })
}

/// No node has an append-only file: its data is on the disk when a snapshot is.
fn wait_for_files(_: &Session, _: &Surroundings<'_>, mut args: Args<'_>) -> Result<Ask, CommandError> {
    let out_of_range = || CommandError::err("value is out of range, must be positive");
    let local = args.integer()?;
    if !(0..=1).contains(&local) {
        return Err(CommandError::err("value is out of range, value must between 0 and 1"));
    }
    let replicas = args.integer()?;
    if replicas < 0 {
        return Err(out_of_range());
    }
    let timeout_ms = wait_time(&mut args)?;
    if local == 1 {
        return Err(CommandError::err("WAITAOF cannot be used when numlocal is set but appendonly is disabled."));
    }
    Ok(Ask::WaitForReplicas { replicas, timeout_ms, files: true })
}

fn wait_time(args: &mut Args<'_>) -> Result<u64, CommandError> {
    let timeout_ms = number::parse_i64(args.take()?)
        .ok_or_else(|| CommandError::err("timeout is not an integer or out of range"))?;
    u64::try_from(timeout_ms).map_err(|_| CommandError::err("timeout is negative"))
}

#[cfg(test)]
mod parser_tests {
    use super::*;

    fn stored<'a>(argv: &[&'a str]) -> Option<&'a str> {
        let bytes: Vec<&[u8]> = argv.iter().map(|word| word.as_bytes()).collect();
        parse_sort(&bytes).ok().and_then(|options| options.store).map(|index| argv[index])
    }

    #[test]
    fn the_last_store_of_a_sort_wins() {
        assert_eq!(stored(&["SORT", "k", "STORE", "a", "desc", "store", "b"]), Some("b"));
    }

    #[test]
    fn an_operand_named_store_stores_nothing() {
        assert_eq!(stored(&["SORT", "k", "BY", "STORE", "STORE", "b"]), Some("b"));
        assert_eq!(stored(&["SORT", "k", "STORE", "BY", "STORE", "b"]), Some("b"));
        assert_eq!(stored(&["SORT", "k", "GET", "STORE"]), None);
    }

    #[test]
    fn sort_ro_knows_no_store() {
        assert_eq!(parse_sort(&[b"SORT_RO", b"k", b"STORE", b"d"]), Err(CommandError::Syntax));
    }
}
