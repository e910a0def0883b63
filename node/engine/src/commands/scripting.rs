//! Scripts and functions: programs that run beside the data.
//!
//! It refuses to know how a script is run. Declarations on top, one entry per command; parsers and
//! handlers below.

use super::{CHANGES, READS, RUNS_SCRIPT};
use crate::args::Args;
use crate::asks::{Now, Program, RestorePolicy, ScriptCall, ScriptCare};
use crate::command::{Arity, Command, Docs, Extra, Flags, Group, KeyRule, KeySpec, Run};
use crate::error::CommandError;
use crate::introspect;
use crate::scope::{Of, Scope};
use crate::session::{Session, Surroundings};
use crate::types::number;

pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "EVAL",
        arity: Arity::AtLeast(3),
        flags: RUNS_SCRIPT,
        group: Group::Scripting,
        keys: KeyRule::At(&[KeySpec::numkeys(2, CHANGES)]),
        scope: Scope::Filtered(Of::Scripts),
        run: Run::AtOnce(eval),
        docs: Docs {
            summary: "Runs a Lua script.",
            since: "2.6.0",
            complexity: "Depends on the script that is executed",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "EVAL_RO",
        arity: Arity::AtLeast(3),
        flags: Flags::READONLY
            .and(Flags::NOSCRIPT)
            .and(Flags::STALE)
            .and(Flags::SKIP_MONITOR)
            .and(Flags::NO_MANDATORY_KEYS),
        group: Group::Scripting,
        keys: KeyRule::At(&[KeySpec::numkeys(2, READS)]),
        scope: Scope::Filtered(Of::Scripts),
        run: Run::AtOnce(eval_ro),
        docs: Docs {
            summary: "Runs a Lua script that only reads.",
            since: "7.0.0",
            complexity: "Depends on the script that is executed",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "EVALSHA",
        arity: Arity::AtLeast(3),
        flags: RUNS_SCRIPT,
        group: Group::Scripting,
        keys: KeyRule::At(&[KeySpec::numkeys(2, CHANGES)]),
        scope: Scope::Filtered(Of::Scripts),
        run: Run::AtOnce(evalsha),
        docs: Docs {
            summary: "Runs a Lua script known by its hash.",
            since: "2.6.0",
            complexity: "Depends on the script that is executed",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "EVALSHA_RO",
        arity: Arity::AtLeast(3),
        flags: Flags::READONLY
            .and(Flags::NOSCRIPT)
            .and(Flags::STALE)
            .and(Flags::SKIP_MONITOR)
            .and(Flags::NO_MANDATORY_KEYS),
        group: Group::Scripting,
        keys: KeyRule::At(&[KeySpec::numkeys(2, READS)]),
        scope: Scope::Filtered(Of::Scripts),
        run: Run::AtOnce(evalsha_ro),
        docs: Docs {
            summary: "Runs a Lua script known by its hash that only reads.",
            since: "7.0.0",
            complexity: "Depends on the script that is executed",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "FCALL",
        arity: Arity::AtLeast(3),
        flags: RUNS_SCRIPT,
        group: Group::Scripting,
        keys: KeyRule::At(&[KeySpec::numkeys(2, CHANGES)]),
        scope: Scope::Filtered(Of::Scripts),
        run: Run::AtOnce(fcall),
        docs: Docs {
            summary: "Calls a function of a library.",
            since: "7.0.0",
            complexity: "Depends on the function that is executed",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "FCALL_RO",
        arity: Arity::AtLeast(3),
        flags: Flags::READONLY
            .and(Flags::NOSCRIPT)
            .and(Flags::STALE)
            .and(Flags::SKIP_MONITOR)
            .and(Flags::NO_MANDATORY_KEYS),
        group: Group::Scripting,
        keys: KeyRule::At(&[KeySpec::numkeys(2, READS)]),
        scope: Scope::Filtered(Of::Scripts),
        run: Run::AtOnce(fcall_ro),
        docs: Docs {
            summary: "Calls a function of a library that only reads.",
            since: "7.0.0",
            complexity: "Depends on the function that is executed",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "SCRIPT",
        arity: Arity::AtLeast(2),
        flags: Flags::NONE,
        group: Group::Scripting,
        keys: KeyRule::None,
        scope: Scope::Subcommands,
        run: Run::Container(SCRIPT),
        docs: Docs { summary: "Manages the cached Lua scripts.", since: "2.6.0", complexity: "Depends on subcommand" },
        extra: Extra::NONE,
    },
    Command {
        name: "FUNCTION",
        arity: Arity::AtLeast(2),
        flags: Flags::NONE,
        group: Group::Scripting,
        keys: KeyRule::None,
        scope: Scope::Subcommands,
        run: Run::Container(FUNCTION),
        docs: Docs {
            summary: "Manages the libraries of functions.",
            since: "7.0.0",
            complexity: "Depends on subcommand",
        },
        extra: Extra::NONE,
    },
];

const SCRIPT: &[Command] = &[
    Command {
        name: "LOAD",
        arity: Arity::Exactly(3),
        flags: Flags::NOSCRIPT.and(Flags::STALE),
        group: Group::Scripting,
        keys: KeyRule::None,
        scope: Scope::Filtered(Of::Scripts),
        run: Run::AtOnce(script_load),
        docs: Docs {
            summary: "Caches a script and returns its hash.",
            since: "2.6.0",
            complexity: "O(N) with N being the length in bytes of the script body",
        },
        extra: Extra { tips: &["request_policy:all_nodes", "response_policy:all_succeeded"], ..Extra::NONE },
    },
    Command {
        name: "EXISTS",
        arity: Arity::AtLeast(3),
        flags: Flags::NOSCRIPT.and(Flags::STALE),
        group: Group::Scripting,
        keys: KeyRule::None,
        scope: Scope::Filtered(Of::Scripts),
        run: Run::AtOnce(script_exists),
        docs: Docs { summary: "Tells which scripts are cached.", since: "2.6.0", complexity: "O(N)" },
        extra: Extra { tips: &["request_policy:all_shards", "response_policy:agg_logical_and"], ..Extra::NONE },
    },
    Command {
        name: "FLUSH",
        arity: Arity::AtLeast(2),
        flags: Flags::NOSCRIPT.and(Flags::STALE),
        group: Group::Scripting,
        keys: KeyRule::None,
        scope: Scope::Filtered(Of::Scripts),
        run: Run::AtOnce(script_flush),
        docs: Docs { summary: "Forgets the cached scripts.", since: "2.6.0", complexity: "O(N)" },
        extra: Extra { tips: &["request_policy:all_nodes", "response_policy:all_succeeded"], ..Extra::NONE },
    },
    Command {
        name: "KILL",
        arity: Arity::Exactly(2),
        flags: Flags::NOSCRIPT.and(Flags::ALLOW_BUSY),
        group: Group::Scripting,
        keys: KeyRule::None,
        scope: Scope::Filtered(Of::Scripts),
        run: Run::AtOnce(script_kill),
        docs: Docs { summary: "Stops the script that is running.", since: "2.6.0", complexity: "O(1)" },
        extra: Extra { tips: &["request_policy:all_shards", "response_policy:one_succeeded"], ..Extra::NONE },
    },
    Command {
        name: "SHOW",
        arity: Arity::Exactly(3),
        flags: Flags::NOSCRIPT.and(Flags::STALE),
        group: Group::Scripting,
        keys: KeyRule::None,
        scope: Scope::Filtered(Of::Scripts),
        run: Run::AtOnce(script_show),
        docs: Docs { summary: "Returns the text of a cached script.", since: "8.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "DEBUG",
        arity: Arity::AtLeast(3),
        flags: Flags::NOSCRIPT,
        group: Group::Scripting,
        keys: KeyRule::None,
        scope: Scope::Ceiling,
        run: Run::Refused("the debugger of Lua scripts is not there; use redis.log"),
        docs: Docs { summary: "Sets how the next scripts are debugged.", since: "3.2.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "HELP",
        arity: Arity::Exactly(2),
        flags: Flags::LOADING.and(Flags::STALE),
        group: Group::Scripting,
        keys: KeyRule::None,
        scope: Scope::Public,
        run: Run::OnSession(introspect::help),
        docs: Docs { summary: "Lists the subcommands of SCRIPT.", since: "5.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
];

const FUNCTION: &[Command] = &[
    Command {
        name: "LOAD",
        arity: Arity::AtLeast(3),
        flags: Flags::WRITE.and(Flags::DENYOOM).and(Flags::NOSCRIPT),
        group: Group::Scripting,
        keys: KeyRule::None,
        scope: Scope::Filtered(Of::Scripts),
        run: Run::AtOnce(function_load),
        docs: Docs { summary: "Creates a library.", since: "7.0.0", complexity: "O(1)" },
        extra: Extra { tips: &["request_policy:all_shards", "response_policy:all_succeeded"], ..Extra::NONE },
    },
    Command {
        name: "DELETE",
        arity: Arity::Exactly(3),
        flags: Flags::WRITE.and(Flags::NOSCRIPT),
        group: Group::Scripting,
        keys: KeyRule::None,
        scope: Scope::Filtered(Of::Scripts),
        run: Run::AtOnce(function_delete),
        docs: Docs { summary: "Deletes a library and its functions.", since: "7.0.0", complexity: "O(1)" },
        extra: Extra { tips: &["request_policy:all_shards", "response_policy:all_succeeded"], ..Extra::NONE },
    },
    Command {
        name: "LIST",
        arity: Arity::AtLeast(2),
        flags: Flags::NOSCRIPT,
        group: Group::Scripting,
        keys: KeyRule::None,
        scope: Scope::Filtered(Of::Scripts),
        run: Run::AtOnce(function_list),
        docs: Docs { summary: "Lists the libraries.", since: "7.0.0", complexity: "O(N)" },
        extra: Extra { tips: &["nondeterministic_output_order"], ..Extra::NONE },
    },
    Command {
        name: "DUMP",
        arity: Arity::Exactly(2),
        flags: Flags::NOSCRIPT,
        group: Group::Scripting,
        keys: KeyRule::None,
        scope: Scope::Filtered(Of::Scripts),
        run: Run::AtOnce(function_dump),
        docs: Docs {
            summary: "Returns all libraries as portable bytes.",
            since: "7.0.0",
            complexity: "O(N) where N is the number of functions",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "RESTORE",
        arity: Arity::AtLeast(3),
        flags: Flags::WRITE.and(Flags::DENYOOM).and(Flags::NOSCRIPT),
        group: Group::Scripting,
        keys: KeyRule::None,
        scope: Scope::Filtered(Of::Scripts),
        run: Run::AtOnce(function_restore),
        docs: Docs {
            summary: "Creates libraries from the bytes that FUNCTION DUMP returned.",
            since: "7.0.0",
            complexity: "O(N) where N is the number of functions on the payload",
        },
        extra: Extra { tips: &["request_policy:all_shards", "response_policy:all_succeeded"], ..Extra::NONE },
    },
    Command {
        name: "FLUSH",
        arity: Arity::AtLeast(2),
        flags: Flags::WRITE.and(Flags::NOSCRIPT),
        group: Group::Scripting,
        keys: KeyRule::None,
        scope: Scope::Filtered(Of::Scripts),
        run: Run::AtOnce(function_flush),
        docs: Docs { summary: "Deletes all libraries.", since: "7.0.0", complexity: "O(N)" },
        extra: Extra { tips: &["request_policy:all_shards", "response_policy:all_succeeded"], ..Extra::NONE },
    },
    Command {
        name: "KILL",
        arity: Arity::Exactly(2),
        flags: Flags::NOSCRIPT.and(Flags::ALLOW_BUSY),
        group: Group::Scripting,
        keys: KeyRule::None,
        scope: Scope::Filtered(Of::Scripts),
        run: Run::AtOnce(function_kill),
        docs: Docs { summary: "Stops the function that is running.", since: "7.0.0", complexity: "O(1)" },
        extra: Extra { tips: &["request_policy:all_shards", "response_policy:one_succeeded"], ..Extra::NONE },
    },
    Command {
        name: "STATS",
        arity: Arity::Exactly(2),
        flags: Flags::NOSCRIPT.and(Flags::ALLOW_BUSY),
        group: Group::Scripting,
        keys: KeyRule::None,
        scope: Scope::Filtered(Of::Scripts),
        run: Run::AtOnce(function_stats),
        docs: Docs { summary: "Tells what function is running.", since: "7.0.0", complexity: "O(1)" },
        extra: Extra {
            tips: &["nondeterministic_output", "request_policy:all_shards", "response_policy:special"],
            ..Extra::NONE
        },
    },
    Command {
        name: "HELP",
        arity: Arity::Exactly(2),
        flags: Flags::LOADING.and(Flags::STALE),
        group: Group::Scripting,
        keys: KeyRule::None,
        scope: Scope::Public,
        run: Run::OnSession(introspect::help),
        docs: Docs { summary: "Lists the subcommands of FUNCTION.", since: "7.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
];

/// What `AtOnce` handlers get and give.
type Decided = Result<Now, CommandError>;

/// `program numkeys key … arg …`
fn call(program: fn(Vec<u8>) -> Program, read_only: bool, not_a_number: CommandError, mut args: Args<'_>) -> Decided {
    let program = program(args.take()?.to_vec());
    let count = number::parse_i64(args.take()?).ok_or(not_a_number)?;
    let rest = args.rest();
    let Ok(count) = usize::try_from(count) else {
        return Err(CommandError::err("Number of keys can't be negative"));
    };
    if count > rest.len() {
        return Err(CommandError::err("Number of keys can't be greater than number of args"));
    }
    let owned = |words: &[&[u8]]| words.iter().map(|word| word.to_vec()).collect();
    Ok(Now::RunScript(ScriptCall { program, keys: owned(&rest[..count]), args: owned(&rest[count..]), read_only }))
}

fn eval(_: &Session, _: &Surroundings<'_>, args: Args<'_>) -> Decided {
    call(Program::Text, false, CommandError::NotInteger, args)
}

fn eval_ro(_: &Session, _: &Surroundings<'_>, args: Args<'_>) -> Decided {
    call(Program::Text, true, CommandError::NotInteger, args)
}

fn evalsha(_: &Session, _: &Surroundings<'_>, args: Args<'_>) -> Decided {
    call(Program::Hash, false, CommandError::NotInteger, args)
}

fn evalsha_ro(_: &Session, _: &Surroundings<'_>, args: Args<'_>) -> Decided {
    call(Program::Hash, true, CommandError::NotInteger, args)
}

fn fcall(_: &Session, _: &Surroundings<'_>, args: Args<'_>) -> Decided {
    call(Program::Function, false, CommandError::err("Bad number of keys provided"), args)
}

fn fcall_ro(_: &Session, _: &Surroundings<'_>, args: Args<'_>) -> Decided {
    call(Program::Function, true, CommandError::err("Bad number of keys provided"), args)
}

fn script_load(_: &Session, _: &Surroundings<'_>, mut args: Args<'_>) -> Decided {
    Ok(Now::Scripts(ScriptCare::Load(args.take()?.to_vec())))
}

fn script_exists(_: &Session, _: &Surroundings<'_>, mut args: Args<'_>) -> Decided {
    Ok(Now::Scripts(ScriptCare::Exists(args.rest().iter().map(|hash| hash.to_vec()).collect())))
}

fn script_flush(_: &Session, _: &Surroundings<'_>, args: Args<'_>) -> Decided {
    how_to_flush(args, "SCRIPT FLUSH only support SYNC|ASYNC option")?;
    Ok(Now::Scripts(ScriptCare::Flush))
}

/// `SYNC` and `ASYNC` mean the same here: nothing waits for the memory.
fn how_to_flush(mut args: Args<'_>, otherwise: &'static str) -> Result<(), CommandError> {
    let known = args.is_empty() || args.accept("sync") || args.accept("async");
    if known && args.is_empty() { Ok(()) } else { Err(CommandError::err(otherwise)) }
}

fn script_show(_: &Session, _: &Surroundings<'_>, mut args: Args<'_>) -> Decided {
    Ok(Now::Scripts(ScriptCare::Show(args.take()?.to_vec())))
}

fn script_kill(_: &Session, _: &Surroundings<'_>, _: Args<'_>) -> Decided {
    Ok(Now::Scripts(ScriptCare::Kill { function: false }))
}

fn function_kill(_: &Session, _: &Surroundings<'_>, _: Args<'_>) -> Decided {
    Ok(Now::Scripts(ScriptCare::Kill { function: true }))
}

fn function_load(_: &Session, _: &Surroundings<'_>, mut args: Args<'_>) -> Decided {
    let mut replace = false;
    while args.len() > 1 {
        if !args.accept("replace") {
            let word = String::from_utf8_lossy(args.take()?).into_owned();
            return Err(CommandError::err(format!("Unknown option given: {word}")));
        }
        replace = true;
    }
    if args.is_empty() {
        return Err(CommandError::err("Function code is missing"));
    }
    Ok(Now::Scripts(ScriptCare::LoadLibrary { replace, code: args.take()?.to_vec() }))
}

fn function_delete(_: &Session, _: &Surroundings<'_>, mut args: Args<'_>) -> Decided {
    Ok(Now::Scripts(ScriptCare::DeleteLibrary(args.take()?.to_vec())))
}

fn function_list(_: &Session, at: &Surroundings<'_>, mut args: Args<'_>) -> Decided {
    let (mut pattern, mut with_code) = (None, false);
    while !args.is_empty() {
        if !with_code && args.accept("withcode") {
            with_code = true;
        } else if pattern.is_none() && args.accept("libraryname") {
            if args.is_empty() {
                return Err(CommandError::err("library name argument was not given"));
            }
            pattern = Some(args.pattern(at.pattern_bytes_max)?.to_vec());
        } else {
            let word = String::from_utf8_lossy(args.take()?).into_owned();
            return Err(CommandError::err(format!("Unknown argument {word}")));
        }
    }
    Ok(Now::Scripts(ScriptCare::ListLibraries { pattern, with_code }))
}

fn function_dump(_: &Session, _: &Surroundings<'_>, _: Args<'_>) -> Decided {
    Ok(Now::Scripts(ScriptCare::Dump))
}

fn function_restore(_: &Session, _: &Surroundings<'_>, mut args: Args<'_>) -> Decided {
    let payload = args.take()?.to_vec();
    if args.len() > 1 {
        return Err(wrong_subcommand(&args));
    }
    let policy = match args.peek() {
        None => RestorePolicy::Append,
        Some(_) if args.accept("append") => RestorePolicy::Append,
        Some(_) if args.accept("flush") => RestorePolicy::Flush,
        Some(_) if args.accept("replace") => RestorePolicy::Replace,
        Some(_) => {
            let why = "Wrong restore policy given, value should be either FLUSH, APPEND or REPLACE.";
            return Err(CommandError::err(why));
        }
    };
    Ok(Now::Scripts(ScriptCare::Restore(payload, policy)))
}

fn function_flush(_: &Session, _: &Surroundings<'_>, args: Args<'_>) -> Decided {
    if args.len() > 1 {
        return Err(wrong_subcommand(&args));
    }
    how_to_flush(args, "FUNCTION FLUSH only supports SYNC|ASYNC option")?;
    Ok(Now::Scripts(ScriptCare::FlushLibraries))
}

/// What a subcommand with too many arguments is told.
fn wrong_subcommand(args: &Args<'_>) -> CommandError {
    let name = args.argv().get(1).map(|word| word.escape_ascii().to_string()).unwrap_or_default();
    CommandError::err(format!("unknown subcommand or wrong number of arguments for '{name}'. Try FUNCTION HELP."))
}

fn function_stats(_: &Session, _: &Surroundings<'_>, _: Args<'_>) -> Decided {
    Ok(Now::Scripts(ScriptCare::ShowStats))
}
