//! What the table tells about itself: the COMMAND family, ACL CAT and the HELP of every container.
//!
//! Each function is a handler; the declarations in [`crate::commands`] point here. Shapes are those of Valkey, RESP2
//! and RESP3; the facts come from the table alone. This file knows no command by name.

use crate::args::Args;
use crate::command::{Begin, Find, Flags, KeyFlags, KeyRule, KeySpec, Run};
use crate::error::CommandError;
use crate::reply::Reply;
use crate::session::{Session, Surroundings};
use crate::syntax::Syntax;
use crate::table::{Row, Table, visit};
use keyward_acl::{Category, glob};
use std::collections::BTreeSet;

type Handled = Result<(), CommandError>;

/// `COMMAND COUNT`.
pub(crate) fn count(_: &mut Session, surroundings: &Surroundings<'_>, _: Args<'_>, reply: &mut Reply) -> Handled {
    reply.count(surroundings.table.commands().count());
    Ok(())
}

/// `COMMAND` and `COMMAND INFO [name …]`: without names, every command.
pub(crate) fn info(_: &mut Session, surroundings: &Surroundings<'_>, mut args: Args<'_>, reply: &mut Reply) -> Handled {
    let table = surroundings.table;
    if args.is_empty() {
        reply.array(table.commands().count());
        table.commands().for_each(|row| write_info(table, row, reply));
        return Ok(());
    }
    let names = args.rest();
    reply.array(names.len());
    for name in names {
        match table.find(name) {
            Some(row) => write_info(table, row, reply),
            None => reply.null_array(),
        }
        if reply.is_too_long() {
            break; // whoever looks at it next says so
        }
    }
    Ok(())
}

/// `COMMAND DOCS [name …]`: without names, every command; unknown names are left out.
pub(crate) fn docs(_: &mut Session, surroundings: &Surroundings<'_>, mut args: Args<'_>, reply: &mut Reply) -> Handled {
    let table = surroundings.table;
    let rows: Vec<&Row> = if args.is_empty() {
        table.commands().collect()
    } else {
        // A map has each once.
        let mut seen = BTreeSet::new();
        args.rest().iter().filter_map(|name| table.find(name)).filter(|row| seen.insert(row.id)).collect()
    };
    reply.map(rows.len());
    for row in rows {
        write_docs(table, row, reply);
    }
    Ok(())
}

/// `COMMAND LIST [FILTERBY MODULE name | ACLCAT category | PATTERN pattern]`.
pub(crate) fn list(_: &mut Session, surroundings: &Surroundings<'_>, mut args: Args<'_>, reply: &mut Reply) -> Handled {
    let rows = surroundings.table.rows().iter();
    let names: Vec<&str> = if args.is_empty() {
        rows.map(|row| row.full_name).collect()
    } else {
        if !args.accept("FILTERBY") || args.len() != 2 {
            return Err(CommandError::Syntax);
        }
        if args.accept("MODULE") {
            Vec::new() // there are no modules
        } else if args.accept("ACLCAT") {
            let category = Category::find(args.take()?);
            let belongs = |row: &&Row| category.is_some_and(|category| row.categories.contains(category));
            rows.filter(belongs).map(|row| row.full_name).collect()
        } else if args.accept("PATTERN") {
            let pattern = args.pattern(surroundings.pattern_bytes_max)?;
            rows.filter(|row| glob::matches_ignore_case(pattern, row.full_name.as_bytes()))
                .map(|row| row.full_name)
                .collect()
        } else {
            return Err(CommandError::Syntax);
        }
    };
    write_names(&names, reply);
    Ok(())
}

/// `COMMAND GETKEYS request …`.
pub(crate) fn get_keys(
    _: &mut Session,
    surroundings: &Surroundings<'_>,
    mut args: Args<'_>,
    reply: &mut Reply,
) -> Handled {
    let request = args.rest();
    let keys = keys_with_flags(surroundings.table, request)?;
    reply.array(keys.len());
    for (index, _) in keys {
        reply.bulk(request[index]);
    }
    Ok(())
}

/// `COMMAND GETKEYSANDFLAGS request …`.
pub(crate) fn get_keys_and_flags(
    _: &mut Session,
    surroundings: &Surroundings<'_>,
    mut args: Args<'_>,
    reply: &mut Reply,
) -> Handled {
    let request = args.rest();
    let keys = keys_with_flags(surroundings.table, request)?;
    reply.array(keys.len());
    for (index, flags) in keys {
        reply.array(2);
        reply.bulk(request[index]);
        write_key_flags(flags, reply);
    }
    Ok(())
}

/// `HELP` of any container: its subcommands with their summaries.
pub(crate) fn help(_: &mut Session, surroundings: &Surroundings<'_>, args: Args<'_>, reply: &mut Reply) -> Handled {
    let table = surroundings.table;
    let container = args.argv().first().and_then(|name| table.find(name)).ok_or(CommandError::Syntax)?;
    let subcommands: Vec<&Row> = container.subcommands.iter().map(|id| table.row(*id)).collect();
    reply.array(1 + 2 * subcommands.len());
    let name = container.command.name;
    reply.simple(&format!("{name} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"));
    for row in subcommands {
        reply.simple(row.command.name);
        reply.simple(&format!("    {}", row.command.docs.summary));
    }
    Ok(())
}

/// `ACL CAT [category]`.
pub(crate) fn acl_cat(
    _: &mut Session,
    surroundings: &Surroundings<'_>,
    mut args: Args<'_>,
    reply: &mut Reply,
) -> Handled {
    if args.len() > 1 {
        let text = b"ERR unknown subcommand or wrong number of arguments for '";
        return Err(CommandError::quoting(text, &[(args.argv()[1], b"'. Try ACL HELP.")]));
    }
    if args.is_empty() {
        let names: Vec<&str> = Category::ALL.iter().map(|category| category.name()).collect();
        write_names(&names, reply);
        return Ok(());
    }
    let word = args.take()?;
    let Some(category) = Category::find(word) else {
        return Err(CommandError::quoting(b"ERR Unknown category '", &[(&word[..word.len().min(128)], b"'")]));
    };
    let rows = surroundings.table.rows().iter().filter(|row| row.categories.contains(category));
    write_names(&rows.map(|row| row.full_name).collect::<Vec<_>>(), reply);
    Ok(())
}

fn write_names(names: &[&str], reply: &mut Reply) {
    reply.array(names.len());
    for name in names {
        reply.bulk(name.as_bytes());
    }
}

/// The keys of a request with what is done to each, for GETKEYS; the same keys that the permission check sees.
fn keys_with_flags(table: &Table, request: &[&[u8]]) -> Result<Vec<(usize, KeyFlags)>, CommandError> {
    let Ok(resolved) = table.look_up(request) else {
        return Err(CommandError::err("Invalid command specified"));
    };
    let command = resolved.row.command;
    if command.keys.specs().iter().all(|spec| spec.flags.has(KeyFlags::NOT_KEY)) {
        return Err(CommandError::err("The command has no key arguments"));
    }
    if !command.arity.accepts(request.len()) {
        return Err(CommandError::err("Invalid number of arguments specified for command"));
    }
    let mut keys = Vec::new();
    match command.keys {
        KeyRule::None => {}
        KeyRule::At(specs) => visit(specs, request, |index, flags| {
            if !flags.has(KeyFlags::NOT_KEY) {
                keys.push((index, flags));
            }
        }),
        KeyRule::Parsed(specs, _) => {
            let mut uses = Vec::new();
            table.keys_of(resolved.row, request, &mut uses);
            keys.extend(uses.iter().map(|key| (key.argument as usize, parsed_flags(specs, key.access))));
        }
    }
    if keys.is_empty() && !command.flags.has(Flags::NO_MANDATORY_KEYS) {
        return Err(CommandError::err("Invalid arguments specified for command"));
    }
    Ok(keys)
}

/// How a parser's finding reads as flags: as a spec with the same rights says, else the plainest set with them.
fn parsed_flags(specs: &[KeySpec], access: keyward_acl::KeyAccess) -> KeyFlags {
    let plain = match (access.read, access.write) {
        (true, true) => KeyFlags::RW.and(KeyFlags::ACCESS).and(KeyFlags::UPDATE),
        (false, true) => KeyFlags::OW.and(KeyFlags::UPDATE),
        (true, false) => KeyFlags::RO.and(KeyFlags::ACCESS),
        (false, false) => KeyFlags::RO,
    };
    let hidden = |flags: KeyFlags| flags.has(KeyFlags::VARIABLE_FLAGS) || flags.has(KeyFlags::INCOMPLETE);
    let same = |flags: &KeyFlags| !hidden(*flags) && flags.access() == access;
    specs.iter().map(|spec| spec.flags).find(same).unwrap_or(plain)
}

/// One command as `COMMAND INFO` shows it: ten elements.
fn write_info(table: &Table, row: &Row, reply: &mut Reply) {
    let ((first, last, step), movable) = row.legacy_keys();
    reply.array(10);
    reply.bulk(row.full_name.as_bytes());
    reply.integer(row.command.arity.as_redis());
    let flags = Flags::ALL.iter().filter(|(flag, _)| row.has(*flag)).map(|(_, name)| *name);
    let flags: Vec<&str> = flags.chain(movable.then_some("movablekeys")).collect();
    reply.set(flags.len());
    flags.iter().for_each(|name| reply.simple(name));
    reply.integer(first);
    reply.integer(last);
    reply.integer(step);
    let categories: Vec<Category> = row.categories.iter().collect();
    reply.set(categories.len());
    categories.iter().for_each(|category| reply.simple(&format!("@{}", category.name())));
    let tips = row.command.extra.tips;
    reply.set(tips.len());
    tips.iter().for_each(|tip| reply.bulk(tip.as_bytes()));
    let specs = row.command.keys.specs();
    reply.set(specs.len());
    specs.iter().for_each(|spec| write_key_spec(spec, reply));
    reply.array(row.subcommands.len());
    for id in &row.subcommands {
        write_info(table, table.row(*id), reply);
    }
}

fn write_key_spec(spec: &KeySpec, reply: &mut Reply) {
    reply.map(3);
    reply.bulk(b"flags");
    write_key_flags(spec.flags, reply);
    reply.bulk(b"begin_search");
    match spec.begin {
        Begin::Index(index) => write_search("index", &[("index", i64::from(index))], reply),
        Begin::Keyword { word, from } => {
            write_search_head("keyword", 2, reply);
            reply.bulk(b"keyword");
            reply.bulk(word.as_bytes());
            reply.bulk(b"startfrom");
            reply.integer(i64::from(from));
        }
        Begin::Unknown => write_search("unknown", &[], reply),
    }
    reply.bulk(b"find_keys");
    match spec.find {
        Find::Range { last, step, limit } => {
            let numbers = [("lastkey", i64::from(last)), ("keystep", i64::from(step)), ("limit", i64::from(limit))];
            write_search("range", &numbers, reply);
        }
        Find::KeyNum { count, first, step } => {
            let numbers =
                [("keynumidx", i64::from(count)), ("firstkey", i64::from(first)), ("keystep", i64::from(step))];
            write_search("keynum", &numbers, reply);
        }
        Find::Unknown => write_search("unknown", &[], reply),
    }
}

fn write_search_head(kind: &str, pairs: usize, reply: &mut Reply) {
    reply.map(2);
    reply.bulk(b"type");
    reply.bulk(kind.as_bytes());
    reply.bulk(b"spec");
    reply.map(pairs);
}

fn write_search(kind: &str, numbers: &[(&str, i64)], reply: &mut Reply) {
    write_search_head(kind, numbers.len(), reply);
    for (name, number) in numbers {
        reply.bulk(name.as_bytes());
        reply.integer(*number);
    }
}

fn write_key_flags(flags: KeyFlags, reply: &mut Reply) {
    let names: Vec<&str> = KeyFlags::ALL.iter().filter(|(flag, _)| flags.has(*flag)).map(|(_, name)| *name).collect();
    reply.set(names.len());
    names.iter().for_each(|name| reply.simple(name));
}

/// One command as `COMMAND DOCS` shows it: its name, then a map.
fn write_docs(table: &Table, row: &Row, reply: &mut Reply) {
    let command = row.command;
    let is_container = matches!(command.run, Run::Container(_));
    let syntax = Syntax::of(row.full_name, command.docs.since);
    reply.bulk(row.full_name.as_bytes());
    reply.map(4 + syntax.pairs() + usize::from(is_container));
    let texts = [
        ("summary", command.docs.summary),
        ("since", command.docs.since),
        ("group", command.group.name()),
        ("complexity", command.docs.complexity),
    ];
    for (name, text) in texts {
        reply.bulk(name.as_bytes());
        reply.bulk(text.as_bytes());
    }
    syntax.write(reply);
    if is_container {
        reply.bulk(b"subcommands");
        reply.map(row.subcommands.len());
        for id in &row.subcommands {
            write_docs(table, table.row(*id), reply);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reply::Protocol;
    use crate::table::table;

    fn shown(name: &str, protocol: Protocol) -> String {
        let mut reply = Reply::new(protocol);
        write_info(table(), table().find(name.as_bytes()).expect("the command exists"), &mut reply);
        String::from_utf8(reply.bytes).expect("names are ASCII").replace("\r\n", " ")
    }

    #[test]
    fn info_has_the_ten_elements_of_valkey() {
        assert_eq!(
            shown("get", Protocol::Resp3),
            "*10 $3 get :2 ~2 +readonly +fast :1 :1 :1 ~3 +@read +@string +@fast ~0 ~1 %3 $5 flags ~2 +RO +access \
             $12 begin_search %2 $4 type $5 index $4 spec %1 $5 index :1 \
             $9 find_keys %2 $4 type $5 range $4 spec %3 $7 lastkey :0 $7 keystep :1 $5 limit :0 *0 "
        );
        assert!(shown("config|get", Protocol::Resp2).starts_with("*10 $10 config|get :-3 *4 +admin"));
    }

    #[test]
    fn info_of_a_container_shows_its_subcommands() {
        assert!(shown("xgroup", Protocol::Resp2).contains("*6 *10 $13 xgroup|create :-5 "));
    }

    #[test]
    fn keys_are_shown_with_what_is_done_to_them() {
        let flags = |words: &str| {
            let request: Vec<&[u8]> = words.split(' ').map(str::as_bytes).collect();
            let keys = keys_with_flags(table(), &request).map_err(|error| error.to_string())?;
            let mut reply = Reply::new(Protocol::Resp2);
            keys.iter().for_each(|(_, flags)| write_key_flags(*flags, &mut reply));
            Ok::<String, String>(String::from_utf8_lossy(&reply.bytes).replace("\r\n", " "))
        };
        assert_eq!(flags("SET k v").as_deref(), Ok("*2 +OW +update "));
        assert_eq!(flags("SET k v GET").as_deref(), Ok("*3 +RW +access +update "));
        assert_eq!(flags("RENAME a b").as_deref(), Ok("*3 +RW +access +delete *2 +OW +update "));
        assert_eq!(flags("MIGRATE h 1 k 0 1").as_deref(), Ok("*3 +RW +access +delete "));
        assert_eq!(flags("EVAL s 0").as_deref(), Ok(""));
        for (words, text) in [
            ("NOPE", "ERR Invalid command specified"),
            ("GET", "ERR Invalid number of arguments specified for command"),
            ("PING", "ERR The command has no key arguments"),
            ("SPUBLISH c m", "ERR The command has no key arguments"),
            ("ZINTER x a", "ERR Invalid arguments specified for command"),
        ] {
            assert_eq!(flags(words), Err(text.to_string()), "{words}");
        }
    }
}
