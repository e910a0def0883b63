//! Users and their rules, as a client manages them.
//!
//! It refuses to know how a change reaches the other nodes: it asks for it.
//! Declarations on top, one entry per command; parsers and handlers below.

use super::ADMIN_ANY_TIME;
use crate::args::Args;
use crate::asks::Ask;
use crate::command::{Arity, Command, Docs, Extra, Flags, Group, KeyRule, Run};
use crate::error::CommandError;
use crate::introspect;
use crate::reply::Reply;
use crate::scope::{Of, Scope};
use crate::session::{Session, Surroundings};
use crate::types::number;
use keyward_acl::{MASKED, Policy, Request};

pub(super) const COMMANDS: &[Command] = &[Command {
    name: "ACL",
    arity: Arity::AtLeast(2),
    flags: Flags::NONE,
    group: Group::Server,
    keys: KeyRule::None,
    scope: Scope::Subcommands,
    run: Run::Container(ACL),
    docs: Docs { summary: "Manages users and what they may do.", since: "6.0.0", complexity: "Depends on subcommand" },
    extra: Extra::NONE,
}];

const ACL: &[Command] = &[
    Command {
        name: "WHOAMI",
        arity: Arity::Exactly(2),
        flags: Flags::NOSCRIPT.and(Flags::LOADING).and(Flags::STALE),
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Own,
        run: Run::OnSession(whoami),
        docs: Docs { summary: "Returns the name of the connection's user.", since: "6.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "USERS",
        arity: Arity::Exactly(2),
        flags: ADMIN_ANY_TIME,
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Filtered(Of::Users),
        run: Run::OnSession(users),
        docs: Docs { summary: "Lists the names of all users.", since: "6.0.0", complexity: "O(N)" },
        extra: Extra::NONE,
    },
    Command {
        name: "LIST",
        arity: Arity::Exactly(2),
        flags: ADMIN_ANY_TIME,
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Filtered(Of::Users),
        run: Run::OnSession(list),
        docs: Docs {
            summary: "Lists all users with their rules.",
            since: "6.0.0",
            complexity: "O(N). Where N is the number of configured users",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "GETUSER",
        arity: Arity::Exactly(3),
        flags: ADMIN_ANY_TIME,
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Filtered(Of::Users),
        run: Run::OnSession(getuser),
        docs: Docs { summary: "Describes a user.", since: "6.0.0", complexity: "O(N)" },
        extra: Extra::NONE,
    },
    Command {
        name: "SETUSER",
        arity: Arity::AtLeast(3),
        flags: ADMIN_ANY_TIME,
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Ceiling,
        run: Run::Ask(setuser),
        docs: Docs {
            summary: "Creates a user or changes its rules.",
            since: "6.0.0",
            complexity: "O(N). Where N is the number of rules provided",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "DELUSER",
        arity: Arity::AtLeast(3),
        flags: ADMIN_ANY_TIME,
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Ceiling,
        run: Run::Ask(deluser),
        docs: Docs {
            summary: "Deletes users and closes their connections.",
            since: "6.0.0",
            complexity: "O(1) amortized time considering the typical user",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "CAT",
        arity: Arity::AtLeast(2),
        flags: Flags::NOSCRIPT.and(Flags::LOADING).and(Flags::STALE),
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Public,
        run: Run::OnSession(introspect::acl_cat),
        docs: Docs {
            summary: "Lists the categories, or the commands of one.",
            since: "6.0.0",
            complexity: "O(1) since the categories and commands are a fixed set",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "DRYRUN",
        arity: Arity::AtLeast(4),
        flags: ADMIN_ANY_TIME,
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Filtered(Of::Users),
        run: Run::OnSession(dryrun),
        docs: Docs {
            summary: "Tells whether a user may run a command, without running it.",
            since: "7.0.0",
            complexity: "O(1)",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "GENPASS",
        arity: Arity::AtLeast(2),
        flags: Flags::NOSCRIPT.and(Flags::LOADING).and(Flags::STALE),
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Public,
        run: Run::OnSession(genpass),
        docs: Docs { summary: "Makes up a password.", since: "6.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "LOG",
        arity: Arity::AtLeast(2),
        flags: ADMIN_ANY_TIME,
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Filtered(Of::Users),
        run: Run::Ask(log),
        docs: Docs { summary: "Shows recent refusals.", since: "6.0.0", complexity: "O(N)" },
        extra: Extra::NONE,
    },
    Command {
        name: "LOAD",
        arity: Arity::Exactly(2),
        flags: ADMIN_ANY_TIME,
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Ceiling,
        run: Run::Ask(load),
        docs: Docs {
            summary: "Replaces the users by those of the ACL file.",
            since: "6.0.0",
            complexity: "O(N). Where N is the number of configured users",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "SAVE",
        arity: Arity::Exactly(2),
        flags: ADMIN_ANY_TIME,
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Ceiling,
        run: Run::Ask(save),
        docs: Docs {
            summary: "Writes the users to the ACL file.",
            since: "6.0.0",
            complexity: "O(N). Where N is the number of configured users",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "HELP",
        arity: Arity::Exactly(2),
        flags: Flags::LOADING.and(Flags::STALE),
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Public,
        run: Run::OnSession(introspect::help),
        docs: Docs { summary: "Lists the subcommands of ACL.", since: "6.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
];

fn whoami(session: &mut Session, _: &Surroundings<'_>, _: Args<'_>, reply: &mut Reply) -> Result<(), CommandError> {
    reply.bulk(session.user_name());
    Ok(())
}

fn users(_: &mut Session, surroundings: &Surroundings<'_>, _: Args<'_>, reply: &mut Reply) -> Result<(), CommandError> {
    reply.array(surroundings.users().count());
    surroundings.users().for_each(|user| reply.bulk(user.name.as_bytes()));
    Ok(())
}

fn list(_: &mut Session, surroundings: &Surroundings<'_>, _: Args<'_>, reply: &mut Reply) -> Result<(), CommandError> {
    reply.array(surroundings.users().count());
    surroundings.users().for_each(|user| {
        let shows_all = surroundings.reach.sees_passwords_of(user.name.as_bytes());
        reply.bulk(&if shows_all { user.list_line() } else { user.masked_line() });
    });
    Ok(())
}

fn getuser(
    _: &mut Session,
    surroundings: &Surroundings<'_>,
    mut args: Args<'_>,
    reply: &mut Reply,
) -> Result<(), CommandError> {
    let Some(user) = surroundings.user(args.take()?) else {
        reply.null();
        return Ok(());
    };
    let fields = user.fields();
    reply.map(7);
    reply.bulk(b"flags");
    reply.set(fields.flags.len());
    fields.flags.iter().for_each(|flag| reply.bulk(flag.as_bytes()));
    reply.bulk(b"passwords");
    reply.array(fields.passwords.len());
    let shows_all = surroundings.reach.sees_passwords_of(user.name.as_bytes());
    let shown = |hash: &String| if shows_all { hash.clone() } else { MASKED.to_owned() };
    fields.passwords.iter().for_each(|hash| reply.bulk(shown(hash).as_bytes()));
    permissions(reply, &fields.commands, &fields.keys, &fields.channels, &fields.databases);
    reply.bulk(b"selectors");
    reply.array(fields.selectors.len());
    for selector in &fields.selectors {
        reply.map(4);
        permissions(reply, &selector.commands, &selector.keys, &selector.channels, &selector.databases);
    }
    Ok(())
}

fn permissions(reply: &mut Reply, commands: &str, keys: &[u8], channels: &[u8], databases: &str) {
    let pairs: [(&str, &[u8]); 4] = [
        ("commands", commands.as_bytes()),
        ("keys", keys),
        ("channels", channels),
        ("databases", databases.as_bytes()),
    ];
    for (name, value) in pairs {
        reply.bulk(name.as_bytes());
        reply.bulk(value);
    }
}

/// `ACL SETUSER username [rule …]`. Answers OK once the change is committed and applied on every node in contact: from
/// then on, each of them executes the user's next command under the new rules.
fn setuser(_: &Session, surroundings: &Surroundings<'_>, mut args: Args<'_>) -> Result<Ask, CommandError> {
    let name = args.take()?;
    let mut rules: Vec<&[u8]> = args.rest().to_vec();
    if surroundings.new_users_get_channels && surroundings.directory.get(name).is_none() {
        rules.insert(0, b"allchannels");
    }
    let change = surroundings.directory.prepare_set(name, &rules, surroundings.table);
    let change = change.map_err(|error| CommandError::err(error.to_string()))?;
    Ok(Ask::ChangeUsers { change, count: false })
}

fn deluser(_: &Session, surroundings: &Surroundings<'_>, mut args: Args<'_>) -> Result<Ask, CommandError> {
    let change = surroundings.directory.prepare_delete(args.rest());
    let change = change.map_err(|error| CommandError::err(error.to_string()))?;
    Ok(Ask::ChangeUsers { change, count: true })
}

/// How much of a name that nobody bears an error repeats, in bytes.
const SHOWN_BYTES_MAX: usize = 1024;

/// `ACL DRYRUN username command [arg …]`: the same resolution, key extraction and check as a real request.
fn dryrun(
    session: &mut Session,
    surroundings: &Surroundings<'_>,
    mut args: Args<'_>,
    reply: &mut Reply,
) -> Result<(), CommandError> {
    let name = args.take()?;
    let user = surroundings.user(name);
    let shown = &name[..name.len().min(SHOWN_BYTES_MAX)];
    let user = user.ok_or_else(|| CommandError::quoting(b"ERR User '", &[(shown, b"' not found")]))?;
    let argv = args.rest();
    let table = surroundings.table;
    let Ok(found) = table.look_up(argv) else {
        let word = argv.first().copied().unwrap_or_default();
        let shown = &word[..word.len().min(SHOWN_BYTES_MAX)];
        return Err(CommandError::quoting(b"ERR Command '", &[(shown, b"' not found")]));
    };
    let row = table
        .resolve(argv)
        .map(|resolved| resolved.row)
        .map_err(|_| CommandError::Arity(found.row.full_name.to_owned()))?;
    let (mut keys, mut channels, mut databases) = (Vec::new(), Vec::new(), Vec::new());
    table.keys_of(row, argv, &mut keys);
    table.channels_of(row, argv, &mut channels);
    table.databases_of(row, argv, session.database, &mut databases);
    let request = Request { command: row.id, argv, keys: &keys, channels: &channels, databases: &databases };
    let tenant = surroundings.tenancy.of_user(user.name.as_bytes());
    let fence = tenant.map(|tenant| surroundings.tenancy.fence(tenant));
    match Policy::compile_within(user, table, surroundings.walls, fence.as_ref()).check(&request) {
        Ok(()) => reply.ok(),
        Err(denial) => reply.bulk(&denial.to_dryrun_text()),
    }
    Ok(())
}

/// `ACL GENPASS [bits]`: hex digits, four bits each, rounded up.
fn genpass(
    _: &mut Session,
    surroundings: &Surroundings<'_>,
    args: Args<'_>,
    reply: &mut Reply,
) -> Result<(), CommandError> {
    const BITS_MAX: i64 = 4096;
    const BITS: &str =
        "ACL GENPASS argument must be the number of bits for the output password, a positive number up to 4096";
    let bits = match args.peek() {
        None => 256,
        Some(text) => number::parse_i64(text).ok_or(CommandError::NotInteger)?,
    };
    if !(1..=BITS_MAX).contains(&bits) {
        return Err(CommandError::err(BITS));
    }
    if args.len() > 1 {
        return Err(CommandError::err("unknown subcommand or wrong number of arguments for 'GENPASS'. Try ACL HELP."));
    }
    let digits = (bits as usize).div_ceil(4);
    let mut password = String::with_capacity(digits + 128);
    while password.len() < digits {
        for byte in (surroundings.random)() {
            password.push_str(&format!("{byte:02x}"));
        }
    }
    reply.bulk(&password.as_bytes()[..digits]);
    Ok(())
}

/// `ACL LOG [count | RESET]`.
fn log(_: &Session, _: &Surroundings<'_>, mut args: Args<'_>) -> Result<Ask, CommandError> {
    const SHOWN: i64 = 10;
    if args.len() > 1 {
        return Err(CommandError::err("unknown subcommand or wrong number of arguments for 'LOG'. Try ACL HELP."));
    }
    if args.accept("RESET") {
        return Ok(Ask::ResetAclLog);
    }
    let count = if args.is_empty() { SHOWN } else { args.integer()? };
    Ok(Ask::ShowAclLog { count: usize::try_from(count).unwrap_or(0) })
}

fn load(_: &Session, _: &Surroundings<'_>, _: Args<'_>) -> Result<Ask, CommandError> {
    Ok(Ask::LoadUsers)
}

fn save(_: &Session, _: &Surroundings<'_>, _: Args<'_>) -> Result<Ask, CommandError> {
    Ok(Ask::SaveUsers)
}
