//! The connection itself: login, protocol, name, and the other connections.
//!
//! It refuses to know of sockets and passwords: it asks for what it cannot do.
//! Declarations on top, one entry per command; parsers and handlers below.

use super::{ADMIN_ANY_TIME, ANY_TIME, BEFORE_LOGIN};
use crate::args::Args;
use crate::asks::{Ask, ClientFilter, KillReply, LoginAttempt, Now, TrackingMode, TrackingOptions};
use crate::command::{Arity, Command, DatabaseRule, Docs, Extra, Flags, Group, Home, KeyRule, Run};
use crate::error::CommandError;
use crate::introspect;
use crate::reply::{Protocol, Reply};
use crate::scope::{Of, Scope};
use crate::session::{ReplyMode, Session, Surroundings};
use crate::types::number;

pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "PING",
        arity: Arity::AtLeast(1),
        flags: Flags::FAST,
        group: Group::Connection,
        keys: KeyRule::None,
        scope: Scope::Everybody,
        run: Run::OnSession(ping),
        docs: Docs { summary: "Answers PONG, or the given message.", since: "1.0.0", complexity: "O(1)" },
        extra: Extra { tips: &["request_policy:all_shards", "response_policy:all_succeeded"], ..Extra::NONE },
    },
    Command {
        name: "ECHO",
        arity: Arity::Exactly(2),
        flags: Flags::LOADING.and(Flags::STALE).and(Flags::FAST),
        group: Group::Connection,
        keys: KeyRule::None,
        scope: Scope::Everybody,
        run: Run::OnSession(echo),
        docs: Docs { summary: "Answers the given message.", since: "1.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "AUTH",
        arity: Arity::AtLeast(2),
        flags: BEFORE_LOGIN,
        group: Group::Connection,
        keys: KeyRule::None,
        scope: Scope::Own,
        run: Run::Ask(auth),
        docs: Docs { summary: "Logs the connection in.", since: "1.0.0", complexity: "O(N)" },
        extra: Extra::NONE,
    },
    Command {
        name: "HELLO",
        arity: Arity::AtLeast(1),
        flags: BEFORE_LOGIN,
        group: Group::Connection,
        keys: KeyRule::None,
        scope: Scope::Own,
        run: Run::Ask(hello),
        docs: Docs {
            summary: "Chooses the protocol and may log the connection in.",
            since: "6.0.0",
            complexity: "O(1)",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "SELECT",
        arity: Arity::Exactly(2),
        flags: Flags::LOADING.and(Flags::STALE).and(Flags::FAST).and(Flags::ALLOW_BUSY),
        group: Group::Connection,
        keys: KeyRule::None,
        scope: Scope::OwnOrFree("0"),
        run: Run::OnSession(select),
        docs: Docs { summary: "Chooses the database.", since: "1.0.0", complexity: "O(1)" },
        extra: Extra { databases: DatabaseRule::At(1), ..Extra::NONE },
    },
    Command {
        name: "RESET",
        arity: Arity::Exactly(1),
        flags: BEFORE_LOGIN,
        group: Group::Connection,
        keys: KeyRule::None,
        scope: Scope::Own,
        run: Run::Ask(reset),
        docs: Docs { summary: "Puts the connection back to how it began.", since: "6.2.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "QUIT",
        arity: Arity::AtLeast(1),
        flags: BEFORE_LOGIN,
        group: Group::Connection,
        keys: KeyRule::None,
        scope: Scope::Own,
        run: Run::Ask(quit),
        docs: Docs { summary: "Closes the connection.", since: "1.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "CLIENT",
        arity: Arity::AtLeast(2),
        flags: Flags::NONE,
        group: Group::Connection,
        keys: KeyRule::None,
        scope: Scope::Subcommands,
        run: Run::Container(CLIENT),
        docs: Docs { summary: "Manages client connections.", since: "2.4.0", complexity: "Depends on subcommand" },
        extra: Extra::NONE,
    },
];

const CLIENT: &[Command] = &[
    Command {
        name: "ID",
        arity: Arity::Exactly(2),
        flags: ANY_TIME,
        group: Group::Connection,
        keys: KeyRule::None,
        scope: Scope::Own,
        run: Run::OnSession(client_id),
        docs: Docs { summary: "Returns the id of the connection.", since: "5.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "INFO",
        arity: Arity::Exactly(2),
        flags: Flags::NOSCRIPT.and(Flags::LOADING).and(Flags::STALE),
        group: Group::Connection,
        keys: KeyRule::None,
        scope: Scope::Own,
        run: Run::Ask(client_info),
        docs: Docs { summary: "Describes the connection.", since: "6.2.0", complexity: "O(1)" },
        extra: Extra { tips: &["nondeterministic_output"], ..Extra::NONE },
    },
    Command {
        name: "LIST",
        arity: Arity::AtLeast(2),
        flags: ADMIN_ANY_TIME,
        group: Group::Connection,
        keys: KeyRule::None,
        scope: Scope::Filtered(Of::Clients),
        run: Run::Ask(client_list),
        docs: Docs { summary: "Describes open connections.", since: "2.4.0", complexity: "O(N)" },
        extra: Extra { tips: &["nondeterministic_output"], ..Extra::NONE },
    },
    Command {
        name: "GETNAME",
        arity: Arity::Exactly(2),
        flags: ANY_TIME,
        group: Group::Connection,
        keys: KeyRule::None,
        scope: Scope::Own,
        run: Run::OnSession(client_getname),
        docs: Docs { summary: "Returns the name of the connection.", since: "2.6.9", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "SETNAME",
        arity: Arity::Exactly(3),
        flags: ANY_TIME,
        group: Group::Connection,
        keys: KeyRule::None,
        scope: Scope::Own,
        run: Run::OnSession(client_setname),
        docs: Docs { summary: "Names the connection.", since: "2.6.9", complexity: "O(1)" },
        extra: Extra { tips: &["request_policy:all_nodes", "response_policy:all_succeeded"], ..Extra::NONE },
    },
    Command {
        name: "SETINFO",
        arity: Arity::Exactly(4),
        flags: ANY_TIME,
        group: Group::Connection,
        keys: KeyRule::None,
        scope: Scope::Own,
        run: Run::OnSession(client_setinfo),
        docs: Docs { summary: "Notes which client library the connection uses.", since: "7.2.0", complexity: "O(1)" },
        extra: Extra { tips: &["request_policy:all_nodes", "response_policy:all_succeeded"], ..Extra::NONE },
    },
    Command {
        name: "KILL",
        arity: Arity::AtLeast(3),
        flags: ADMIN_ANY_TIME,
        group: Group::Connection,
        keys: KeyRule::None,
        scope: Scope::Filtered(Of::Clients),
        run: Run::Ask(client_kill),
        docs: Docs { summary: "Closes connections.", since: "2.4.0", complexity: "O(N)" },
        extra: Extra::NONE,
    },
    Command {
        name: "PAUSE",
        arity: Arity::AtLeast(3),
        flags: ADMIN_ANY_TIME,
        group: Group::Connection,
        keys: KeyRule::None,
        scope: Scope::Ceiling,
        run: Run::Ask(client_pause),
        docs: Docs { summary: "Makes clients wait for a while.", since: "3.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "UNPAUSE",
        arity: Arity::Exactly(2),
        flags: ADMIN_ANY_TIME,
        group: Group::Connection,
        keys: KeyRule::None,
        scope: Scope::Ceiling,
        run: Run::Ask(client_unpause),
        docs: Docs {
            summary: "Ends the wait that CLIENT PAUSE began.",
            since: "6.2.0",
            complexity: "O(N) Where N is the number of paused clients",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "UNBLOCK",
        arity: Arity::AtLeast(3),
        flags: ADMIN_ANY_TIME,
        group: Group::Connection,
        keys: KeyRule::None,
        scope: Scope::Filtered(Of::Clients),
        run: Run::AtOnce(unblock),
        docs: Docs {
            summary: "Wakes a connection that waits in a blocking command.",
            since: "5.0.0",
            complexity: "O(log N) where N is the number of client connections",
        },
        extra: Extra::home(Home::Data),
    },
    Command {
        name: "REPLY",
        arity: Arity::Exactly(3),
        flags: Flags::NOSCRIPT.and(Flags::LOADING).and(Flags::STALE).and(Flags::NO_MULTI).and(Flags::ALLOW_BUSY),
        group: Group::Connection,
        keys: KeyRule::None,
        scope: Scope::Own,
        run: Run::OnSession(client_reply),
        docs: Docs { summary: "Turns answers to the connection on or off.", since: "3.2.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "NO-EVICT",
        arity: Arity::Exactly(3),
        flags: Flags::ADMIN.and(Flags::NOSCRIPT).and(Flags::LOADING).and(Flags::STALE).and(Flags::ALLOW_BUSY),
        group: Group::Connection,
        keys: KeyRule::None,
        scope: Scope::Ceiling,
        run: Run::OnSession(client_no_evict),
        docs: Docs {
            summary: "Protects the connection from being closed when memory is short.",
            since: "7.0.0",
            complexity: "O(1)",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "NO-TOUCH",
        arity: Arity::Exactly(3),
        flags: ANY_TIME,
        group: Group::Connection,
        keys: KeyRule::None,
        scope: Scope::Own,
        run: Run::OnSession(client_no_touch),
        docs: Docs {
            summary: "Makes the connection's commands leave the age of keys alone.",
            since: "7.2.0",
            complexity: "O(1)",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "TRACKING",
        arity: Arity::AtLeast(3),
        flags: Flags::NOSCRIPT.and(Flags::LOADING).and(Flags::STALE),
        group: Group::Connection,
        keys: KeyRule::None,
        scope: Scope::Filtered(Of::Keys),
        run: Run::AtOnce(tracking),
        docs: Docs {
            summary: "Tells the connection when keys it has read change.",
            since: "6.0.0",
            complexity: "O(1). Some options may introduce additional complexity",
        },
        extra: Extra::home(Home::DataForGood),
    },
    Command {
        name: "TRACKINGINFO",
        arity: Arity::Exactly(2),
        flags: Flags::NOSCRIPT.and(Flags::LOADING).and(Flags::STALE),
        group: Group::Connection,
        keys: KeyRule::None,
        scope: Scope::Own,
        run: Run::AtOnce(|_, _, _| Ok(Now::ShowTracking)),
        docs: Docs { summary: "Describes the tracking of the connection.", since: "6.2.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "CACHING",
        arity: Arity::Exactly(3),
        flags: ANY_TIME,
        group: Group::Connection,
        keys: KeyRule::None,
        scope: Scope::Own,
        run: Run::AtOnce(caching),
        docs: Docs {
            summary: "Tells whether the next command's keys are tracked.",
            since: "6.0.0",
            complexity: "O(1)",
        },
        extra: Extra::home(Home::DataForGood),
    },
    Command {
        name: "GETREDIR",
        arity: Arity::Exactly(2),
        flags: ANY_TIME,
        group: Group::Connection,
        keys: KeyRule::None,
        scope: Scope::Own,
        run: Run::AtOnce(|_, _, _| Ok(Now::ShowRedirect)),
        docs: Docs {
            summary: "Returns the id of the connection that tracking messages go to.",
            since: "6.0.0",
            complexity: "O(1)",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "CAPA",
        arity: Arity::AtLeast(3),
        flags: ANY_TIME,
        group: Group::Connection,
        keys: KeyRule::None,
        scope: Scope::Own,
        run: Run::OnSession(client_capa),
        docs: Docs { summary: "Notes what the client is capable of.", since: "8.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "IMPORT-SOURCE",
        arity: Arity::Exactly(3),
        flags: Flags::NOSCRIPT.and(Flags::LOADING).and(Flags::STALE),
        group: Group::Connection,
        keys: KeyRule::None,
        scope: Scope::Ceiling,
        run: Run::Refused("data is imported by RESTORE or a snapshot"),
        docs: Docs {
            summary: "Marks the connection as a source of imported data.",
            since: "8.1.0",
            complexity: "O(1)",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "HELP",
        arity: Arity::Exactly(2),
        flags: Flags::LOADING.and(Flags::STALE),
        group: Group::Connection,
        keys: KeyRule::None,
        scope: Scope::Public,
        run: Run::OnSession(introspect::help),
        docs: Docs { summary: "Lists the subcommands of CLIENT.", since: "5.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
];

fn ping(
    session: &mut Session,
    _: &Surroundings<'_>,
    mut args: Args<'_>,
    reply: &mut Reply,
) -> Result<(), CommandError> {
    if args.len() < 2 && session.subscribed && session.protocol == Protocol::Resp2 {
        // Among messages, a message.
        reply.array(2);
        reply.bulk(b"pong");
        reply.bulk(if args.is_empty() { b"" } else { args.take()? });
        return Ok(());
    }
    match args.len() {
        0 => reply.simple("PONG"),
        1 => reply.bulk(args.take()?),
        _ => return Err(CommandError::Arity("ping".to_owned())),
    }
    Ok(())
}

fn echo(_: &mut Session, _: &Surroundings<'_>, mut args: Args<'_>, reply: &mut Reply) -> Result<(), CommandError> {
    reply.bulk(args.take()?);
    Ok(())
}

fn auth(_: &Session, _: &Surroundings<'_>, args: Args<'_>) -> Result<Ask, CommandError> {
    let argv = args.argv();
    let (user, password, without_name) = match argv {
        [_, password] => (b"default".to_vec(), password.to_vec(), true),
        [_, user, password] => (user.to_vec(), password.to_vec(), false),
        _ => return Err(CommandError::Syntax),
    };
    Ok(Ask::Login(LoginAttempt { user, password, word: argv[0].to_vec(), without_name }))
}

/// `HELLO [protover [AUTH username password] [SETNAME clientname]]`.
fn hello(_: &Session, _: &Surroundings<'_>, mut args: Args<'_>) -> Result<Ask, CommandError> {
    let word = args.argv()[0].to_vec();
    let mut protocol = None;
    if let Some(version) = args.peek() {
        let version = number::parse_i64(version)
            .ok_or_else(|| CommandError::err("Protocol version is not an integer or out of range"))?;
        args.take()?;
        protocol = Some(match version {
            2 => Protocol::Resp2,
            3 => Protocol::Resp3,
            _ => return Err(CommandError::Text("NOPROTO unsupported protocol version".into())),
        });
    }
    let (mut login, mut name) = (None, None);
    while let Some(option) = args.peek() {
        let bad = || CommandError::err(format!("Syntax error in HELLO option '{}'", option.escape_ascii()));
        if args.len() >= 3 && args.accept("AUTH") {
            let (user, password) = (args.take()?.to_vec(), args.take()?.to_vec());
            login = Some(LoginAttempt { user, password, word: word.clone(), without_name: false });
        } else if args.len() >= 2 && args.accept("SETNAME") {
            let given = args.take()?;
            check_name(given)?;
            name = Some(given.to_vec());
        } else {
            return Err(bad());
        }
    }
    Ok(Ask::Hello { protocol, login, name })
}

fn select(
    session: &mut Session,
    surroundings: &Surroundings<'_>,
    mut args: Args<'_>,
    reply: &mut Reply,
) -> Result<(), CommandError> {
    let index = args.integer()?;
    let index = u32::try_from(index).ok().filter(|index| *index < surroundings.databases);
    session.database = index.ok_or_else(|| CommandError::err("DB index is out of range"))?;
    reply.ok();
    Ok(())
}

fn reset(_: &Session, _: &Surroundings<'_>, _: Args<'_>) -> Result<Ask, CommandError> {
    Ok(Ask::Reset)
}

fn quit(_: &Session, _: &Surroundings<'_>, _: Args<'_>) -> Result<Ask, CommandError> {
    Ok(Ask::Quit)
}

fn client_id(session: &mut Session, _: &Surroundings<'_>, _: Args<'_>, reply: &mut Reply) -> Result<(), CommandError> {
    reply.integer(session.id as i64);
    Ok(())
}

fn client_info(_: &Session, _: &Surroundings<'_>, _: Args<'_>) -> Result<Ask, CommandError> {
    Ok(Ask::ShowClient)
}

/// `CLIENT LIST [TYPE type] [ID id …] [USER …] [ADDR …] [LADDR …] [SKIPME yes|no] [MAXAGE s]`.
fn client_list(_: &Session, _: &Surroundings<'_>, args: Args<'_>) -> Result<Ask, CommandError> {
    Ok(Ask::ListClients(parse_filter(args, false)?))
}

/// `CLIENT KILL addr:port`, or with the filters of `CLIENT LIST`; by itself the new form spares the caller.
fn client_kill(_: &Session, surroundings: &Surroundings<'_>, args: Args<'_>) -> Result<Ask, CommandError> {
    if let [_, _, address] = args.argv() {
        let filter = ClientFilter { address: Some(address.to_vec()), ..ClientFilter::default() };
        return Ok(Ask::KillClients(filter, KillReply::OkOrError));
    }
    let filter = parse_filter(args, true)?;
    if let Some(user) = &filter.user
        && surroundings.user(user).is_none()
    {
        return Err(CommandError::err(format!("No such user '{}'", user.escape_ascii())));
    }
    Ok(Ask::KillClients(filter, KillReply::Count))
}

fn caching(_: &Session, _: &Surroundings<'_>, mut args: Args<'_>) -> Result<Now, CommandError> {
    // Whether the client caches at all comes before what it says.
    Ok(Now::Caching(yes_or_no(&mut args).ok()))
}

fn tracking(_: &Session, _: &Surroundings<'_>, mut args: Args<'_>) -> Result<Now, CommandError> {
    let on = on_or_off(&mut args)?;
    let (mut broadcast, mut opt_in, mut opt_out) = (false, false, false);
    let mut options =
        TrackingOptions { mode: TrackingMode::Every, no_loop: false, redirect: None, prefixes: Vec::new() };
    while !args.is_empty() {
        if args.accept("redirect") {
            if options.redirect.is_some() {
                return Err(CommandError::err("A client can only redirect to a single other client"));
            }
            let client = args.integer()?;
            options.redirect = Some(u64::try_from(client).unwrap_or(u64::MAX));
        } else if args.accept("bcast") {
            broadcast = true;
        } else if args.accept("optin") {
            opt_in = true;
        } else if args.accept("optout") {
            opt_out = true;
        } else if args.accept("noloop") {
            options.no_loop = true;
        } else if args.accept("prefix") {
            options.prefixes.push(args.take()?.to_vec());
        } else {
            return Err(CommandError::Syntax);
        }
    }
    if !on {
        return Ok(Now::Track(None));
    }
    if !broadcast && !options.prefixes.is_empty() {
        return Err(CommandError::err("PREFIX option requires BCAST mode to be enabled"));
    }
    if (broadcast && (opt_in || opt_out)) || (opt_in && opt_out) {
        return Err(CommandError::err(if broadcast {
            "OPTIN and OPTOUT are not compatible with BCAST"
        } else {
            "You can't specify both OPTIN mode and OPTOUT mode"
        }));
    }
    if let Some((prefix, other)) = overlapping(&options.prefixes) {
        return Err(CommandError::overlapping_prefixes(prefix, "another provided", other));
    }
    options.mode = match (broadcast, opt_in, opt_out) {
        (true, ..) => TrackingMode::Broadcast,
        (_, true, _) => TrackingMode::OptIn,
        (_, _, true) => TrackingMode::OptOut,
        _ => TrackingMode::Every,
    };
    Ok(Now::Track(Some(options)))
}

/// Two of which one begins like the other, the one named first first. In their order, what begins like a name follows it.
fn overlapping(prefixes: &[Vec<u8>]) -> Option<(&[u8], &[u8])> {
    let mut order: Vec<usize> = (0..prefixes.len()).collect();
    order.sort_by(|one, other| prefixes[*one].cmp(&prefixes[*other]));
    let pair = order.windows(2).find(|pair| prefixes[pair[1]].starts_with(&prefixes[pair[0]]))?;
    Some((&prefixes[pair[0].min(pair[1])], &prefixes[pair[0].max(pair[1])]))
}

fn unblock(_: &Session, _: &Surroundings<'_>, mut args: Args<'_>) -> Result<Now, CommandError> {
    let client = number::parse_i64(args.take()?).ok_or(CommandError::NotInteger)?;
    let how = args.peek().map(<[u8]>::to_ascii_lowercase);
    let error = match how.as_deref() {
        None | Some(b"timeout") => false,
        Some(b"error") => true,
        Some(_) => return Err(CommandError::err("CLIENT UNBLOCK reason should be TIMEOUT or ERROR")),
    };
    if how.is_some() {
        args.take()?;
    }
    args.finish()?;
    Ok(Now::Unblock { client: u64::try_from(client).unwrap_or(0), error })
}

fn parse_filter(mut args: Args<'_>, skip_me: bool) -> Result<ClientFilter, CommandError> {
    let mut filter = ClientFilter { skip_me, ..ClientFilter::default() };
    while !args.is_empty() {
        if args.len() < 2 {
            return Err(CommandError::Syntax);
        }
        if args.accept("ID") {
            let mut ids = vec![client_number(&mut args)?];
            while args.peek().is_some_and(|next| number::parse_i64(next).is_some()) {
                ids.push(client_number(&mut args)?);
            }
            filter.ids = Some(ids);
        } else if args.accept("TYPE") {
            let kind = String::from_utf8_lossy(args.take()?).to_ascii_lowercase();
            let kind = match kind.as_str() {
                "normal" | "pubsub" | "master" | "replica" => kind,
                "primary" => "master".to_owned(),
                "slave" => "replica".to_owned(),
                _ => return Err(CommandError::err(format!("Unknown client type '{}'", kind.escape_default()))),
            };
            filter.kind = Some(kind);
        } else if args.accept("ADDR") {
            filter.address = Some(args.take()?.to_vec());
        } else if args.accept("LADDR") {
            filter.local_address = Some(args.take()?.to_vec());
        } else if args.accept("USER") {
            filter.user = Some(args.take()?.to_vec());
        } else if args.accept("SKIPME") {
            filter.skip_me = yes_or_no(&mut args)?;
        } else if args.accept("MAXAGE") {
            let age = args.integer().map_err(|_| CommandError::err("maxage is not an integer or out of range"))?;
            if age <= 0 {
                return Err(CommandError::err("maxage should be greater than 0"));
            }
            filter.age_min_s = Some(age);
        } else {
            return Err(CommandError::Syntax);
        }
    }
    Ok(filter)
}

fn client_number(args: &mut Args<'_>) -> Result<u64, CommandError> {
    let id = args.integer().ok().and_then(|id| u64::try_from(id).ok()).filter(|id| *id > 0);
    id.ok_or_else(|| CommandError::err("client-id should be greater than 0"))
}

fn yes_or_no(args: &mut Args<'_>) -> Result<bool, CommandError> {
    if args.accept("yes") {
        Ok(true)
    } else if args.accept("no") {
        Ok(false)
    } else {
        Err(CommandError::Syntax)
    }
}

fn on_or_off(args: &mut Args<'_>) -> Result<bool, CommandError> {
    if args.accept("on") {
        Ok(true)
    } else if args.accept("off") {
        Ok(false)
    } else {
        Err(CommandError::Syntax)
    }
}

fn client_getname(
    session: &mut Session,
    _: &Surroundings<'_>,
    _: Args<'_>,
    reply: &mut Reply,
) -> Result<(), CommandError> {
    if session.name.is_empty() {
        reply.null();
    } else {
        reply.bulk(&session.name);
    }
    Ok(())
}

fn client_setname(
    session: &mut Session,
    _: &Surroundings<'_>,
    mut args: Args<'_>,
    reply: &mut Reply,
) -> Result<(), CommandError> {
    let name = args.take()?;
    check_name(name)?;
    session.name = name.to_vec();
    reply.ok();
    Ok(())
}

/// What a client may call itself and its library, in bytes: names are shown and logged again and again.
const NAME_BYTES_MAX: usize = 1024;

fn check_name(name: &[u8]) -> Result<(), CommandError> {
    if name.len() > NAME_BYTES_MAX {
        return Err(CommandError::err("Client names cannot be longer than 1024 bytes."));
    }
    if name.iter().all(|byte| (b'!'..=b'~').contains(byte)) {
        return Ok(());
    }
    Err(CommandError::err("Client names cannot contain spaces, newlines or special characters."))
}

fn client_setinfo(
    session: &mut Session,
    _: &Surroundings<'_>,
    mut args: Args<'_>,
    reply: &mut Reply,
) -> Result<(), CommandError> {
    let option = args.take()?;
    let value = args.take()?;
    let (field, shown) = if option.eq_ignore_ascii_case(b"lib-name") {
        (&mut session.library_name, "lib-name")
    } else if option.eq_ignore_ascii_case(b"lib-ver") {
        (&mut session.library_version, "lib-ver")
    } else {
        return Err(CommandError::err(format!("Unrecognized option '{}'", option.escape_ascii())));
    };
    if value.len() > NAME_BYTES_MAX {
        return Err(CommandError::err(format!("{shown} cannot be longer than 1024 bytes.")));
    }
    if !value.iter().all(|byte| (b'!'..=b'~').contains(byte)) {
        return Err(CommandError::err(format!("{shown} cannot contain spaces, newlines or special characters.")));
    }
    *field = value.to_vec();
    reply.ok();
    Ok(())
}

fn client_reply(
    session: &mut Session,
    _: &Surroundings<'_>,
    mut args: Args<'_>,
    reply: &mut Reply,
) -> Result<(), CommandError> {
    if args.accept("ON") {
        session.replies = ReplyMode::On;
        reply.ok();
    } else if args.accept("OFF") {
        session.replies = ReplyMode::Off;
    } else if args.accept("SKIP") {
        if session.replies == ReplyMode::On {
            session.replies = ReplyMode::SkipNext;
        }
    } else {
        return Err(CommandError::Syntax);
    }
    Ok(())
}

fn client_no_evict(
    session: &mut Session,
    _: &Surroundings<'_>,
    mut args: Args<'_>,
    reply: &mut Reply,
) -> Result<(), CommandError> {
    session.no_evict = on_or_off(&mut args)?;
    reply.ok();
    Ok(())
}

fn client_no_touch(
    session: &mut Session,
    _: &Surroundings<'_>,
    mut args: Args<'_>,
    reply: &mut Reply,
) -> Result<(), CommandError> {
    session.no_touch = on_or_off(&mut args)?;
    reply.ok();
    Ok(())
}

/// What a client says it can do changes nothing yet; unknown words are ignored, as the command's page asks.
fn client_capa(_: &mut Session, _: &Surroundings<'_>, _: Args<'_>, reply: &mut Reply) -> Result<(), CommandError> {
    reply.ok();
    Ok(())
}

/// `CLIENT PAUSE milliseconds [WRITE | ALL]`.
fn client_pause(_: &Session, _: &Surroundings<'_>, mut args: Args<'_>) -> Result<Ask, CommandError> {
    let ms = args.integer().map_err(|_| CommandError::err("timeout is not an integer or out of range"))?;
    let ms = u64::try_from(ms).map_err(|_| CommandError::err("timeout is negative"))?;
    let writes_only = args.accept("WRITE");
    if !args.is_empty() && !args.accept("ALL") {
        return Err(CommandError::err("CLIENT PAUSE mode must be WRITE or ALL"));
    }
    args.finish().map_err(|_| CommandError::Arity("client|pause".to_owned()))?;
    Ok(Ask::Pause { ms, writes_only })
}

fn client_unpause(_: &Session, _: &Surroundings<'_>, _: Args<'_>) -> Result<Ask, CommandError> {
    Ok(Ask::Unpause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_overlap_when_one_begins_like_another_wherever_it_was_named() {
        let overlap = |names: &[&str]| {
            let names: Vec<Vec<u8>> = names.iter().map(|name| name.as_bytes().to_vec()).collect();
            overlapping(&names).map(|(one, other)| [one, other].map(|name| String::from_utf8_lossy(name).into_owned()))
        };
        assert_eq!(overlap(&[]), None);
        assert_eq!(overlap(&["b", "a", "c:", "ca"]), None);
        assert_eq!(overlap(&["ab:c", "x", "ab"]), Some(["ab:c", "ab"].map(str::to_owned)));
        assert_eq!(overlap(&["ab", "aa", "ab!", "abc"]), Some(["ab", "ab!"].map(str::to_owned)));
        assert_eq!(overlap(&["x", "y", "x"]), Some(["x", "x"].map(str::to_owned)));
        assert!(overlap(&["x", ""]).is_some());
    }
}
