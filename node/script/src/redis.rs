//! The table `redis`: how a script reaches the server. `server` is another name for it; errors name the one in use.

use mlua::{Lua, LuaString, MultiValue, Result, Table, Value};
use sha1::{Digest, Sha1};

use crate::arguments::{Arguments, number_of, text_of};
use crate::budget::{self, Work};
use crate::host::{CallOptions, LogLevel, Replication, Resp, with_run};
use crate::interpreter::{Buffers, Registration, RunState};
use crate::number::{push_decimal, shortest, truncated, whole};
use crate::raise::{raise_reply, stopped};
use crate::reply::{self, Answer};
use crate::shebang::{ScriptFlags, is_name, wrong_name};

/// The version of Redis that the server says it is: clients and libraries of scripts look at it.
pub const REDIS_VERSION: &str = "7.4.2";
const VERSION_NUMBER: u32 = 0x0007_0402;

/// The arguments of one call are too long together.
const TOO_LONG: &str = "ERR the arguments are longer than client-query-buffer-limit or the memory of a script allows";

/// The longest line a script may write to the log, in bytes; what is beyond is cut.
const LOG_BYTES_MAX: usize = 16 * 1024;

/// What the functions of a library may say of themselves, all together, in bytes.
const DESCRIPTIONS_BYTES_MAX: usize = 1024 * 1024;

/// To hash a byte takes as long as to copy so many.
const SHA1_WORK: usize = 8;

/// Arguments of one call. The engine's own limit on a request is the same.
const ARGUMENTS_MAX: usize = 1024 * 1024;

const LOG_LEVELS: [(&str, u32); 4] = [("LOG_DEBUG", 0), ("LOG_VERBOSE", 1), ("LOG_NOTICE", 2), ("LOG_WARNING", 3)];

const REPLICATION: [(&str, u32); 5] =
    [("REPL_NONE", 0), ("REPL_AOF", 1), ("REPL_SLAVE", 2), ("REPL_REPLICA", 2), ("REPL_ALL", 3)];

/// What a program sees of the server both while it runs and while it is loaded as a library.
fn names_and_log(lua: &Lua, api: &'static str) -> Result<Table> {
    let library = lua.create_table()?;
    for (name, value) in LOG_LEVELS {
        library.raw_set(name, value)?;
    }
    library.raw_set("REDIS_VERSION", REDIS_VERSION)?;
    library.raw_set("REDIS_VERSION_NUM", VERSION_NUMBER)?;
    library.raw_set("SERVER_NAME", "redis")?;
    library.raw_set("log", lua.create_function(move |_, values| log(api, values))?)?;
    Ok(library)
}

/// The table of a library that is being loaded: it registers functions, and nothing else.
pub(crate) fn for_loading(lua: &Lua, api: &'static str) -> Result<Table> {
    let library = names_and_log(lua, api)?;
    let register = lua.create_function(move |lua, values| register_function(lua, api, values))?;
    library.raw_set("register_function", register)?;
    Ok(library)
}

/// The table of a script or a function that runs.
pub(crate) fn library(lua: &Lua, api: &'static str) -> Result<Table> {
    let library = names_and_log(lua, api)?;
    for (name, value) in REPLICATION {
        library.raw_set(name, value)?;
    }
    library.raw_set("call", lua.create_function(|lua, values| call(lua, values, true))?)?;
    library.raw_set("pcall", lua.create_function(|lua, values| call(lua, values, false))?)?;
    library.raw_set("error_reply", lua.create_function(error_reply)?)?;
    library.raw_set("status_reply", lua.create_function(status_reply)?)?;
    library.raw_set("sha1hex", lua.create_function(sha1hex)?)?;
    library.raw_set("setresp", lua.create_function(move |_, values| setresp(api, values))?)?;
    library.raw_set("set_repl", lua.create_function(move |_, values| set_repl(api, values))?)?;
    library.raw_set("replicate_commands", lua.create_function(|_, _: MultiValue| Ok(true))?)?;
    library.raw_set("breakpoint", lua.create_function(|_, _: MultiValue| Ok(false))?)?;
    library.raw_set("debug", lua.create_function(|_, _: MultiValue| Ok(MultiValue::new()))?)?;
    library.raw_set("acl_check_cmd", lua.create_function(acl_check_cmd)?)?;
    Ok(library)
}

fn call(lua: &Lua, values: MultiValue, raises: bool) -> Result<Value> {
    let fails = |text: Vec<u8>| if raises { Err(raise_reply(text)) } else { error_table(lua, &text) };
    if let Err(text) = check_arguments(&values) {
        return fails(text.as_bytes().to_vec());
    }
    let answered = with_run(|host, state| {
        let mut buffers = std::mem::take(&mut state.buffers);
        buffers.reply.clear();
        let options = CallOptions { resp: state.resp };
        let laid_out =
            with_argv(&values, arguments_bytes_max(state), &mut buffers.arguments, &mut buffers.ends, |argv| {
                host.call(argv, options, &mut buffers.reply);
            });
        (buffers, laid_out)
    });
    let Some((buffers, laid_out)) = answered else {
        return fails(b"ERR redis.call/pcall can only be called inside a script invocation".to_vec());
    };
    let work = budget::COMMAND.saturating_add(buffers.arguments.len() + buffers.reply.len());
    let answer = laid_out.map(|()| reply::read(lua, &buffers.reply));
    with_run(|_, state| state.buffers = buffers.kept());
    budget::did(work)?;
    let answer = match answer {
        Ok(answer) => answer,
        Err(text) => return fails(text.as_bytes().to_vec()),
    };
    match answer? {
        Answer::Value(value) => Ok(value),
        Answer::Error(text) => fails(text),
    }
}

fn check_arguments(values: &MultiValue) -> std::result::Result<(), &'static str> {
    if values.is_empty() {
        return Err("ERR Please specify at least one argument for this call");
    }
    if values.len() > ARGUMENTS_MAX {
        return Err("ERR Too many arguments for this call");
    }
    let is_text = |value: &Value| matches!(value, Value::String(_) | Value::Integer(_) | Value::Number(_));
    if !values.iter().all(is_text) {
        return Err("ERR Command arguments must be strings or integers");
    }
    Ok(())
}

/// Bytes that the arguments of one call may have together: as long as a request may be, but no more than the state can
/// hold. One string may be many arguments.
fn arguments_bytes_max(state: &RunState) -> usize {
    state.request_bytes_max.min(state.memory_max)
}

/// Lays the arguments out one behind the other and shows them to `work`, unless they are too long.
fn with_argv(
    values: &MultiValue,
    bytes_max: usize,
    bytes: &mut Vec<u8>,
    ends: &mut Vec<usize>,
    work: impl FnOnce(&[&[u8]]),
) -> std::result::Result<(), &'static str> {
    /// Most calls have no more arguments; theirs need no allocation.
    const FEW: usize = 8;
    bytes.clear();
    ends.clear();
    for value in values {
        match value {
            Value::String(text) => {
                let text = text.as_bytes();
                if text.len() > bytes_max.saturating_sub(bytes.len()) {
                    return Err(TOO_LONG);
                }
                bytes.extend_from_slice(&text);
            }
            Value::Integer(number) => push_decimal(bytes, *number),
            Value::Number(number) => match whole(*number) {
                Some(number) => push_decimal(bytes, number),
                None => bytes.extend_from_slice(shortest(*number).as_bytes()),
            },
            _ => {}
        }
        ends.push(bytes.len());
    }
    let mut start = 0;
    let mut next = |end: &usize| {
        let argument = &bytes[start..*end];
        start = *end;
        argument
    };
    if ends.len() <= FEW {
        let mut few: [&[u8]; FEW] = [&[]; FEW];
        for (place, end) in few.iter_mut().zip(ends.iter()) {
            *place = next(end);
        }
        work(&few[..ends.len()]);
    } else {
        let many: Vec<&[u8]> = ends.iter().map(next).collect();
        work(&many);
    }
    Ok(())
}

fn table_of(lua: &Lua, field: &str, text: &[u8]) -> Result<Value> {
    let table = lua.create_table_with_capacity(0, 1)?;
    table.raw_set(field, lua.create_string(text)?)?;
    Ok(Value::Table(table))
}

fn error_table(lua: &Lua, text: &[u8]) -> Result<Value> {
    table_of(lua, "err", text)
}

/// The one argument, if it is a string.
fn only_string(values: &MultiValue) -> Option<&LuaString> {
    match values.iter().collect::<Vec<_>>()[..] {
        [Value::String(text)] => Some(text),
        _ => None,
    }
}

fn error_reply(lua: &Lua, values: MultiValue) -> Result<Value> {
    let Some(text) = only_string(&values) else { return error_table(lua, b"ERR wrong number or type of arguments") };
    let text = text.as_bytes();
    let text = text.strip_prefix(b"-").unwrap_or(&text);
    let text = text.trim_ascii_end();
    // A lone word has no code in front.
    if text.contains(&b' ') { error_table(lua, text) } else { error_table(lua, &[b"ERR ", text].concat()) }
}

fn status_reply(lua: &Lua, values: MultiValue) -> Result<Value> {
    match only_string(&values) {
        Some(text) => table_of(lua, "ok", &text.as_bytes()),
        None => error_table(lua, b"ERR wrong number or type of arguments"),
    }
}

fn sha1hex(_: &Lua, values: MultiValue) -> Result<String> {
    let text = match (values.len(), values.front()) {
        (1, Some(value)) => text_of(value),
        _ => return Err(raise_reply("ERR wrong number of arguments")),
    };
    Work::begin()?.of(text.as_ref().map_or(0, |text| text.as_ref().len().saturating_mul(SHA1_WORK)))?;
    let digest = Sha1::digest(text.as_ref().map_or(&b""[..], AsRef::as_ref));
    Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn log(api: &str, values: MultiValue) -> Result<MultiValue> {
    if values.len() < 2 {
        return Err(raise_reply(format!("ERR {api}.log() requires two arguments or more.")));
    }
    let Some(level) = values.front().and_then(number_of) else {
        return Err(raise_reply("ERR First argument must be a number (log level)."));
    };
    let level = match truncated(level) {
        0 => LogLevel::Debug,
        1 => LogLevel::Verbose,
        2 => LogLevel::Notice,
        3 => LogLevel::Warning,
        _ => return Err(raise_reply("ERR Invalid log level.")),
    };
    let words: Vec<_> = values.iter().skip(1).filter_map(text_of).collect();
    let mut message = Vec::new();
    for (index, word) in words.iter().enumerate() {
        if index > 0 {
            message.push(b' ');
        }
        let word = word.as_ref();
        message.extend_from_slice(&word[..word.len().min(LOG_BYTES_MAX.saturating_sub(message.len()))]);
    }
    budget::did(budget::COMMAND)?;
    with_run(|host, _| host.log(level, &message));
    Ok(MultiValue::new())
}

fn setresp(api: &str, values: MultiValue) -> Result<MultiValue> {
    if values.len() != 1 {
        return Err(raise_reply(format!("ERR {api}.setresp() requires one argument.")));
    }
    let resp = match values.front().and_then(number_of).map(truncated) {
        Some(2) => Resp::Two,
        Some(3) => Resp::Three,
        _ => return Err(raise_reply("ERR RESP version must be 2 or 3.")),
    };
    with_run(|_, state| state.resp = resp);
    Ok(MultiValue::new())
}

fn set_repl(api: &str, values: MultiValue) -> Result<MultiValue> {
    if values.len() != 1 {
        return Err(raise_reply(format!("ERR {api}.set_repl() requires one argument.")));
    }
    let flags = values.front().and_then(number_of).map_or(0, truncated);
    if !(0..=3).contains(&flags) {
        let text = "ERR Invalid replication flags. Use REPL_AOF, REPL_REPLICA, REPL_ALL or REPL_NONE.";
        return Err(raise_reply(text));
    }
    let to = Replication { journal: flags & 1 != 0, replicas: flags & 2 != 0 };
    with_run(|host, _| host.set_replication(to));
    Ok(MultiValue::new())
}

fn acl_check_cmd(_: &Lua, values: MultiValue) -> Result<bool> {
    check_arguments(&values).map_err(raise_reply)?;
    let checked = with_run(|host, state| {
        let bytes_max = arguments_bytes_max(state);
        let Buffers { arguments, ends, .. } = &mut state.buffers;
        let mut may = Ok(false);
        match with_argv(&values, bytes_max, arguments, ends, |argv| may = host.acl_check(argv)) {
            Ok(()) => may,
            Err(text) => Err(text.to_owned()),
        }
    });
    with_run(|_, state| state.buffers = std::mem::take(&mut state.buffers).kept());
    budget::did(budget::COMMAND)?;
    match checked {
        Some(Ok(may)) => Ok(may),
        Some(Err(text)) => Err(raise_reply(text)),
        None => Err(raise_reply("ERR redis.acl_check_cmd can only be called inside a script invocation")),
    }
}

fn register_function(lua: &Lua, api: &str, values: MultiValue) -> Result<MultiValue> {
    let registered = registration(api, &Arguments::new(lua, "register_function", &values))?;
    let refused = with_run(|_, state| register(api, state, registered)).unwrap_or_else(|| Some(not_loading(api)));
    match refused {
        None => Ok(MultiValue::new()),
        Some(error) => Err(error),
    }
}

fn not_loading(api: &str) -> mlua::Error {
    raise_reply(format!("ERR {api}.register_function can only be called on FUNCTION LOAD command"))
}

/// Notes a function. What is wrong with its name is said without a place, and cannot be caught.
fn register(api: &str, state: &mut RunState, new: Registration) -> Option<mlua::Error> {
    let Some(functions) = &mut state.registering else { return Some(not_loading(api)) };
    if !is_name(new.name.as_bytes()) {
        state.stop = Some(wrong_name("Function"));
        return Some(stopped());
    }
    if functions.iter().any(|known| known.name == new.name) {
        state.stop = Some("ERR Function already exists in the library".to_owned());
        return Some(stopped());
    }
    let described = |of: &Registration| of.description.as_ref().map_or(0, String::len);
    if functions.iter().chain([&new]).map(described).sum::<usize>() > DESCRIPTIONS_BYTES_MAX {
        return Some(raise_reply("ERR the descriptions of the library's functions are too long"));
    }
    functions.push(new);
    None
}

fn registration(api: &str, arguments: &Arguments<'_>) -> Result<Registration> {
    match arguments.count() {
        1 => named_registration(api, arguments),
        2 => {
            let Some(name) = arguments.get(1).and_then(text_of) else {
                return Err(raise_reply(format!("ERR first argument to {api}.register_function must be a string")));
            };
            let Some(Value::Function(callback)) = arguments.get(2) else {
                return Err(raise_reply(format!("ERR second argument to {api}.register_function must be a function")));
            };
            let name = String::from_utf8_lossy(name.as_ref()).into_owned();
            Ok(Registration { name, callback: callback.clone(), flags: ScriptFlags::default(), description: None })
        }
        _ => Err(raise_reply(format!("ERR wrong number of arguments to {api}.register_function"))),
    }
}

fn named_registration(api: &str, arguments: &Arguments<'_>) -> Result<Registration> {
    let Some(Value::Table(fields)) = arguments.get(1) else {
        return Err(raise_reply(format!(
            "ERR calling {api}.register_function with a single argument is only applicable to Lua table (representing named arguments)."
        )));
    };
    let (mut name, mut callback, mut description) = (None, None, None);
    let mut flags = ScriptFlags::default();
    let text = |value: &Value| text_of(value).map(|text| String::from_utf8_lossy(text.as_ref()).into_owned());
    for pair in fields.pairs::<Value, Value>() {
        let (key, value) = pair?;
        let Value::String(key) = &key else {
            return Err(raise_reply(format!(
                "ERR named argument key given to {api}.register_function is not a string"
            )));
        };
        match &*key.as_bytes() {
            b"function_name" => {
                let given = text(&value).ok_or_else(|| {
                    raise_reply(format!("ERR function_name argument given to {api}.register_function must be a string"))
                })?;
                name = Some(given);
            }
            b"description" => {
                let given = text(&value).ok_or_else(|| {
                    raise_reply(format!("ERR description argument given to {api}.register_function must be a string"))
                })?;
                description = Some(given);
            }
            b"callback" => {
                let Value::Function(function) = value else {
                    return Err(raise_reply(format!(
                        "ERR callback argument given to {api}.register_function must be a function"
                    )));
                };
                callback = Some(function);
            }
            b"flags" => {
                let Value::Table(list) = value else {
                    return Err(raise_reply(format!(
                        "ERR flags argument to {api}.register_function must be a table representing function flags"
                    )));
                };
                read_flags(&list, &mut flags)?;
            }
            _ => return Err(raise_reply(format!("ERR unknown argument given to {api}.register_function"))),
        }
    }
    let name =
        name.ok_or_else(|| raise_reply(format!("ERR {api}.register_function must get a function name argument")))?;
    let callback =
        callback.ok_or_else(|| raise_reply(format!("ERR {api}.register_function must get a callback argument")))?;
    Ok(Registration { name, callback, flags, description })
}

fn read_flags(list: &Table, flags: &mut ScriptFlags) -> Result<()> {
    for index in 1.. {
        let flag: Value = list.raw_get(index)?;
        let is_known = match &flag {
            Value::Nil => return Ok(()),
            Value::String(flag) => flags.set(&flag.as_bytes()),
            _ => false,
        };
        if !is_known {
            return Err(raise_reply("ERR unknown flag given"));
        }
    }
    Ok(())
}
