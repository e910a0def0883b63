//! Tenants, as whoever runs the cluster manages them.
//!
//! It refuses to know how a change reaches the other nodes: it asks for it. What is written about a tenant is checked here,
//! before anybody proposes it.

use super::ADMIN_ANY_TIME;
use super::generic::every_key;
use crate::args::Args;
use crate::asks::{Ask, TenantAsk, TenantEdit};
use crate::command::{Arity, Command, DatabaseRule, Docs, Extra, Flags, Group, KeyRule, Run};
use crate::error::CommandError;
use crate::reply::Reply;
use crate::scope::Scope;
use crate::session::{Session, Surroundings};
use crate::tenancy::{self, Grant, SETTINGS, Tenant};

pub(super) const COMMANDS: &[Command] = &[Command {
    name: "TENANT",
    arity: Arity::AtLeast(2),
    flags: Flags::NONE,
    group: Group::Server,
    keys: KeyRule::None,
    scope: Scope::Subcommands,
    run: Run::Container(TENANT),
    docs: Docs { summary: "Manages tenants.", since: "7.4.2", complexity: "Depends on subcommand" },
    extra: Extra::NONE,
}];

const TENANT: &[Command] = &[
    Command {
        name: "CREATE",
        arity: Arity::AtLeast(4),
        flags: ADMIN_ANY_TIME,
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Ceiling,
        run: Run::Ask(create),
        docs: Docs {
            summary: "Creates a tenant that owns prefixes or a namespace.",
            since: "7.4.2",
            complexity: "O(1), and the keys it owns are taken over in the background",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "SET",
        arity: Arity::AtLeast(4),
        flags: ADMIN_ANY_TIME,
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Ceiling,
        run: Run::Ask(set),
        docs: Docs { summary: "Changes a tenant.", since: "7.4.2", complexity: "O(N). Where N is the number of words" },
        extra: Extra::NONE,
    },
    Command {
        name: "DEL",
        arity: Arity::AtLeast(3),
        flags: ADMIN_ANY_TIME,
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Ceiling,
        run: Run::Ask(del),
        docs: Docs {
            summary: "Deletes a retired tenant with its users, and with PURGE its keys.",
            since: "7.4.2",
            complexity: "O(1), and the keys are given back or freed in the background",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "LIST",
        arity: Arity::Exactly(2),
        flags: ADMIN_ANY_TIME,
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Ceiling,
        run: Run::OnSession(list),
        docs: Docs { summary: "Lists all tenants.", since: "7.4.2", complexity: "O(N)" },
        extra: Extra::NONE,
    },
    Command {
        name: "GET",
        arity: Arity::Exactly(3),
        flags: ADMIN_ANY_TIME,
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Ceiling,
        run: Run::OnSession(get),
        docs: Docs { summary: "Describes a tenant.", since: "7.4.2", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "STATS",
        arity: Arity::Exactly(3),
        flags: ADMIN_ANY_TIME,
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Ceiling,
        run: Run::AskOwner(stats),
        docs: Docs { summary: "Tells what a tenant uses.", since: "7.4.2", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "SWAPDB",
        arity: Arity::AtLeast(5),
        flags: Flags::WRITE.and(Flags::ADMIN),
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Ceiling,
        run: Run::OnEveryKey(every_key::swap_prefixes),
        docs: Docs {
            summary: "Exchanges the keys that begin with prefixes between two databases.",
            since: "7.4.2",
            complexity: "O(1) if the prefixes are all of a tenant's, else O(N) where N is the number of keys",
        },
        extra: Extra { databases: DatabaseRule::Both(2, 3), ..Extra::NONE },
    },
    Command {
        name: "HELP",
        arity: Arity::Exactly(2),
        flags: Flags::LOADING.and(Flags::STALE),
        group: Group::Server,
        keys: KeyRule::None,
        scope: Scope::Public,
        run: Run::OnSession(help),
        docs: Docs {
            summary: "Lists the subcommands of TENANT and every setting.",
            since: "7.4.2",
            complexity: "O(1)",
        },
        extra: Extra::NONE,
    },
];

/// Only whoever holds every key and belongs to no tenant manages tenants, whatever the rules say.
fn platform_only(session: &Session) -> Result<(), CommandError> {
    let platform = session.login.as_ref().is_some_and(|login| login.tenant.is_none() && !login.policy.is_confined());
    if platform { Ok(()) } else { Err(CommandError::Text("NOPERM tenants are managed by users with ~*".into())) }
}

fn name(word: &[u8]) -> Result<String, CommandError> {
    String::from_utf8(word.to_vec()).map_err(|_| CommandError::err("the name of a tenant is ASCII"))
}

/// `TENANT CREATE name PREFIX prefix | NAMESPACE [option …]`.
fn create(session: &Session, _: &Surroundings<'_>, mut args: Args<'_>) -> Result<Ask, CommandError> {
    platform_only(session)?;
    let name = name(args.take()?)?;
    let namespace = args.accept("NAMESPACE");
    let edits = edits(&mut args)?;
    if !namespace && !edits.iter().any(|edit| matches!(edit, TenantEdit::AddPrefix(_))) {
        return Err(CommandError::err("a tenant needs PREFIX prefix, or NAMESPACE"));
    }
    if edits.iter().any(|edit| matches!(edit, TenantEdit::Name(_))) {
        return Err(CommandError::Syntax);
    }
    Ok(Ask::Tenant(TenantAsk::Create { name, namespace, edits }))
}

/// `TENANT SET name option …`.
fn set(session: &Session, _: &Surroundings<'_>, mut args: Args<'_>) -> Result<Ask, CommandError> {
    platform_only(session)?;
    let name = name(args.take()?)?;
    let edits = edits(&mut args)?;
    if edits.len() > 1 && edits.iter().any(|edit| matches!(edit, TenantEdit::Name(_))) {
        return Err(CommandError::err("NAME goes alone: a tenant is renamed in a step of its own"));
    }
    Ok(Ask::Tenant(TenantAsk::Set { name, edits }))
}

/// `PREFIX p`, `NOPREFIX p`, `USER u`, `NOUSER u`, `STATE active|retired`, `NAME n`, `EXPORT|NOEXPORT pattern TO tenant
/// [WRITE]`, `IMPORT|NOIMPORT pattern FROM tenant [WRITE]`, and settings with their values; `default` unsets one.
fn edits(args: &mut Args<'_>) -> Result<Vec<TenantEdit>, CommandError> {
    let mut edits = Vec::new();
    while !args.is_empty() {
        let word = args.take()?.to_ascii_uppercase();
        edits.push(match &word[..] {
            b"PREFIX" => TenantEdit::AddPrefix(args.take()?.to_vec()),
            b"NOPREFIX" => TenantEdit::RemovePrefix(args.take()?.to_vec()),
            b"USER" => TenantEdit::AddUser(args.take()?.to_vec()),
            b"NOUSER" => TenantEdit::RemoveUser(args.take()?.to_vec()),
            b"NAME" => TenantEdit::Name(name(args.take()?)?),
            b"STATE" if args.accept("active") => TenantEdit::Retired(false),
            b"STATE" if args.accept("retired") => TenantEdit::Retired(true),
            b"STATE" => return Err(CommandError::err("the state of a tenant is active or retired")),
            b"EXPORT" => TenantEdit::Export(grant(args, "TO")?, true),
            b"NOEXPORT" => TenantEdit::Export(grant(args, "TO")?, false),
            b"IMPORT" => TenantEdit::Import(grant(args, "FROM")?, true),
            b"NOIMPORT" => TenantEdit::Import(grant(args, "FROM")?, false),
            setting => {
                let setting = String::from_utf8_lossy(setting).to_ascii_lowercase();
                let needs = || CommandError::err(format!("'{setting}' needs a value: see TENANT HELP"));
                let value = String::from_utf8_lossy(args.take().map_err(|_| needs())?);
                // Letters of events mean something else in the other case.
                let is_said_so = setting == "notify-keyspace-events" && !value.eq_ignore_ascii_case("default");
                let value = if is_said_so { value.into_owned() } else { value.to_ascii_lowercase() };
                // Also refuses a default of what does not exist.
                let known = SETTINGS.iter().any(|known| known.name == setting);
                let value = (value != "default" || !known).then_some(value);
                if let Some(value) = &value {
                    tenancy::check_setting(&setting, value).map_err(CommandError::err)?;
                }
                TenantEdit::Setting(setting, value)
            }
        });
    }
    Ok(edits)
}

fn grant(args: &mut Args<'_>, preposition: &str) -> Result<Grant, CommandError> {
    let pattern = args.take()?.to_vec();
    if !args.accept(preposition) {
        let text = format!("a grant needs a pattern, {preposition}, and the other tenant: see TENANT HELP");
        return Err(CommandError::err(text));
    }
    let tenant = name(args.take()?)?;
    let write = args.accept("WRITE");
    if !write {
        args.accept("READ");
    }
    Ok(Grant { tenant, pattern, write })
}

/// `TENANT DEL name [PURGE]`.
fn del(session: &Session, surroundings: &Surroundings<'_>, mut args: Args<'_>) -> Result<Ask, CommandError> {
    platform_only(session)?;
    let word = args.take()?;
    let name = name(word)?;
    let purge = args.accept("PURGE");
    args.finish()?;
    let tenant = known(surroundings, word)?;
    if !tenant.retired {
        let text = format!("tenant '{name}' is in use: lock its users out first with TENANT SET {name} STATE retired");
        return Err(CommandError::err(text));
    }
    Ok(Ask::Tenant(TenantAsk::Delete { name, purge }))
}

fn stats(session: &Session, surroundings: &Surroundings<'_>, mut args: Args<'_>) -> Result<Ask, CommandError> {
    platform_only(session)?;
    let tenant = known(surroundings, args.take()?)?;
    Ok(Ask::Tenant(TenantAsk::Stats { name: tenant.name.clone() }))
}

fn known<'a>(surroundings: &Surroundings<'a>, name: &[u8]) -> Result<&'a Tenant, CommandError> {
    let missing = || CommandError::err(format!("there is no tenant '{}'", name.escape_ascii()));
    surroundings.tenancy.named(name).map(|tenant| &**tenant).ok_or_else(missing)
}

/// What each subcommand takes.
const USAGE: &[(&str, &str)] = &[
    (
        "CREATE <name> PREFIX <prefix> | NAMESPACE [<option> ...]",
        "Makes a tenant of the keys that begin so, also of those there are.",
    ),
    ("SET <name> <option> [<option> ...]", "Changes it; all options are in force at once, or none."),
    ("DEL <name> [PURGE]", "Deletes a retired tenant; PURGE deletes its keys as well."),
    ("LIST", "Each tenant in a line."),
    ("GET <name>", "Everything that is set of it."),
    ("STATS <name>", "What it uses on this node."),
    (
        "SWAPDB <index1> <index2> <prefix> [<prefix> ...]",
        "Exchanges the keys that begin so between two databases: what SWAPDB of a tenant's user does to its own.",
    ),
    ("HELP", "This text."),
];

/// What `CREATE` and `SET` take besides settings.
const OPTIONS: &[(&str, &str)] = &[
    ("PREFIX <prefix> | NOPREFIX <prefix>", "Its keys begin so. Nobody else's may."),
    (
        "USER <user> | NOUSER <user>",
        "A user that sees its keys and nothing else, within the user's own rules. Nobody whose rules say ~* leaves switched on.",
    ),
    ("STATE active | retired", "Retired, nobody logs in as one of its users; its keys stay."),
    ("NAME <name>", "SET only, and alone: a new name."),
    (
        "EXPORT <pattern> TO <tenant> [READ | WRITE] | NOEXPORT ...",
        "Lends keys of its own, once the other tenant imports them.",
    ),
    (
        "IMPORT <pattern> FROM <tenant> [READ | WRITE] | NOIMPORT ...",
        "Borrows what the other tenant exports: for users that hold every key of this one, and for others as far as their rules name it.",
    ),
    ("<setting> <value> | <setting> default", "One of those below."),
];

/// `TENANT HELP`.
fn help(_: &mut Session, _: &Surroundings<'_>, args: Args<'_>, reply: &mut Reply) -> Result<(), CommandError> {
    args.finish()?;
    reply.array(3 + 2 * (USAGE.len() + OPTIONS.len() + SETTINGS.len()));
    let pair = |word: &str, text: &str, reply: &mut Reply| {
        reply.simple(word);
        reply.simple(&format!("    {text}"));
    };
    reply.simple("TENANT <subcommand> [<arg> [value] [opt] ...]. Subcommands are:");
    USAGE.iter().for_each(|(word, text)| pair(word, text, reply));
    reply.simple("Options of CREATE and SET:");
    OPTIONS.iter().for_each(|(word, text)| pair(word, text, reply));
    reply.simple("Settings:");
    for setting in SETTINGS {
        let text = format!("{} Takes {}; not set: {}.", setting.meaning, setting.takes(), setting.unless_said);
        pair(setting.name, &text, reply);
    }
    Ok(())
}

fn list(
    session: &mut Session,
    surroundings: &Surroundings<'_>,
    _: Args<'_>,
    reply: &mut Reply,
) -> Result<(), CommandError> {
    platform_only(session)?;
    reply.array(surroundings.tenancy.iter().len());
    surroundings.tenancy.iter().for_each(|tenant| reply.bulk(tenant.line().as_bytes()));
    Ok(())
}

fn get(
    session: &mut Session,
    surroundings: &Surroundings<'_>,
    mut args: Args<'_>,
    reply: &mut Reply,
) -> Result<(), CommandError> {
    platform_only(session)?;
    let Some(tenant) = surroundings.tenancy.named(args.take()?) else {
        reply.null();
        return Ok(());
    };
    reply.map(10);
    reply.bulk(b"name");
    reply.bulk(tenant.name.as_bytes());
    reply.bulk(b"mode");
    reply.bulk(if tenant.is_namespace() { b"namespace" } else { b"prefix" });
    reply.bulk(b"state");
    reply.bulk(if tenant.retired { b"retired" } else { b"active" });
    reply.bulk(b"prefixes");
    reply.array(tenant.prefixes.len());
    tenant.prefixes.iter().for_each(|prefix| reply.bulk(prefix));
    reply.bulk(b"users");
    reply.array(tenant.users.len());
    tenant.users.iter().for_each(|user| reply.bulk(user));
    reply.bulk(b"settings");
    reply.map(tenant.settings.len());
    for (name, value) in tenant.settings.iter() {
        reply.bulk(name.as_bytes());
        reply.bulk(value.as_bytes());
    }
    for (label, grants, preposition) in [("exports", &tenant.exports, "to"), ("imports", &tenant.imports, "from")] {
        reply.bulk(label.as_bytes());
        reply.array(grants.len());
        for grant in grants {
            let access = if grant.write { "write" } else { "read" };
            let pattern = grant.pattern.escape_ascii();
            let waits = if label == "imports" { surroundings.tenancy.waits_for(tenant, grant) } else { None };
            let waits = waits.map(|why| format!(" (waiting: {why})")).unwrap_or_default();
            reply.bulk(format!("{pattern} {preposition} {} {access}{waits}", grant.tenant).as_bytes());
        }
    }
    reply.bulk(b"number");
    reply.count(tenant.id.number() as usize);
    reply.bulk(b"revision");
    reply.count(tenant.revision as usize);
    Ok(())
}
