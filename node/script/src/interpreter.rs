//! One Lua state and the sandbox in it.
//!
//! The sandbox itself is a Lua program, `sandbox.lua`; here are the functions it is built from, the hook that looks
//! after long runs, and the way a program is compiled and run. It refuses to know which programs there are.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use mlua::chunk::ChunkMode;
use mlua::{Function, HookTriggers, Lua, LuaOptions, MultiValue, Result, StdLib, Table, Value, VmState};

use crate::arguments::{Arguments, type_name};
use crate::budget::Taken;
use crate::host::{Host, Interrupt, Resp, lend, with_run};
use crate::machine::Invocation;
use crate::raise::{self, raise, raise_bare, stopped};
use crate::random::Random;
use crate::shebang::ScriptFlags;
use crate::{bits, cjson, cmsgpack, number, patterns, redis, structs};

/// Instructions between two questions whether the script may go on: well below a millisecond.
const INSTRUCTIONS_PER_QUESTION: u32 = 4 * 1024;
/// An instruction may copy as much as the state holds. Beyond this there are fewer instructions between two questions.
const LIGHT_BYTES_MAX: usize = 512 * 1024;
/// The fewest of them.
const INSTRUCTIONS_PER_QUESTION_MIN: u32 = 64;
/// A buffer that a run has grown beyond this is not kept for the next.
const BUFFER_KEPT_BYTES_MAX: usize = 64 * 1024;
/// The longest program. The language's parser counts brackets in 32 bits.
const PROGRAM_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What the machine notes during a run.
#[derive(Debug)]
pub(crate) struct RunState {
    /// What `redis.setresp` chose.
    pub resp: Resp,
    /// Why the run must end, once it must.
    pub stop: Option<String>,
    /// The error that ended it.
    pub failure: Option<Failure>,
    /// The functions registered so far, while a library is loaded.
    pub registering: Option<Vec<Registration>>,
    /// Lent to `redis.call`.
    pub buffers: Buffers,
    /// What native functions take.
    pub taken: Taken,
    /// Bytes the state may take.
    pub memory_max: usize,
    /// The longest request the host takes, in bytes.
    pub request_bytes_max: usize,
    random: Random,
}

/// Memory that one call leaves to the next.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    /// The arguments, one behind the other.
    pub arguments: Vec<u8>,
    /// Where each ends.
    pub ends: Vec<usize>,
    /// The answer.
    pub reply: Vec<u8>,
}

impl Buffers {
    /// Without what has grown too large to be kept.
    pub(crate) fn kept(mut self) -> Buffers {
        if self.arguments.capacity() > BUFFER_KEPT_BYTES_MAX {
            self.arguments = Vec::new();
        }
        if self.reply.capacity() > BUFFER_KEPT_BYTES_MAX {
            self.reply = Vec::new();
        }
        self
    }
}

/// An error that ended a run.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    /// Its text, code word first.
    pub text: Vec<u8>,
    /// The program and the line.
    pub place: Option<(String, usize)>,
}

/// Why a result was not written.
pub(crate) enum NotWritten {
    /// It is longer than its client may get.
    TooLong,
    /// The text of the error, code word first.
    Failed(Vec<u8>),
}

/// A function as `redis.register_function` got it.
#[derive(Debug)]
pub(crate) struct Registration {
    pub name: String,
    pub callback: Function,
    pub flags: ScriptFlags,
    pub description: Option<String>,
}

/// A program or a function, ready to run.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    pub function: Function,
    /// Whether it could write into a table of the sandbox: see [`reaches_tables`].
    pub reaches_tables: bool,
}

/// What a state runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// Programs of EVAL, with `KEYS` and `ARGV`.
    Scripts,
    /// Libraries, and functions that are called with their keys and arguments.
    Functions,
}

/// One Lua state and the sandbox in it.
pub(crate) struct Interpreter {
    lua: Lua,
    run: Function,
    sweep: Function,
    /// Shows programs the world of a library that is being loaded, or the one of a program that runs.
    begin_loading: Function,
    state: RunState,
    cjson: cjson::Shared,
    kind: Kind,
    /// Something went wrong from which it may not have recovered; a new one must take its place.
    is_spent: bool,
}

impl Interpreter {
    /// A state that may take `memory_max` bytes.
    pub(crate) fn new(kind: Kind, memory_max: usize) -> Result<Interpreter> {
        let options = LuaOptions::new().catch_rust_panics(false);
        let lua = Lua::new_with(StdLib::TABLE | StdLib::STRING | StdLib::MATH, options)?;
        let cjson = cjson::Shared::default();
        let natives = natives(&lua, kind, &cjson)?;
        let sandbox = lua.load(include_str!("sandbox.lua")).set_name("=sandbox").set_mode(ChunkMode::Text);
        let built: (Table, Function, Function, Function) = sandbox.call((natives, kind == Kind::Functions))?;
        let (globals, run, sweep, begin_loading) = built;
        lua.set_globals(globals)?;
        install_hook(&lua, INSTRUCTIONS_PER_QUESTION)?;
        lua.gc_collect()?;
        lua.set_memory_limit(memory_max)?;
        let state = RunState {
            resp: Resp::Two,
            stop: None,
            failure: None,
            registering: None,
            buffers: Buffers::default(),
            taken: Taken::default(),
            memory_max,
            request_bytes_max: usize::MAX,
            random: Random::new(0),
        };
        Ok(Interpreter { lua, run, sweep, begin_loading, state, cjson, kind, is_spent: false })
    }

    /// Whether a new one must take its place.
    pub(crate) fn is_spent(&self) -> bool {
        self.is_spent
    }

    /// Bytes it takes.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.lua.used_memory()
    }

    /// Compiles a program. The error is the compiler's own text.
    pub(crate) fn compile(&self, program: &[u8]) -> std::result::Result<Program, String> {
        let name = if self.kind == Kind::Scripts { "@user_script" } else { "@user_function" };
        compile(&self.lua, program, name)
            .map(|function| Program { function, reaches_tables: reaches_tables(program) })
            .map_err(|error| String::from_utf8_lossy(&raise::plain_text(&error)).into_owned())
    }

    /// Runs a program or a function.
    pub(crate) fn run(
        &mut self,
        program: &Program,
        invocation: &Invocation<'_>,
        host: &mut dyn Host,
    ) -> std::result::Result<Value, Failure> {
        self.prepare(host.random());
        self.state.request_bytes_max = invocation.request_bytes_max;
        let lua = &self.lua;
        let ran = lend(host, &mut self.state, || {
            let (keys, args) = (list(lua, invocation.keys)?, list(lua, invocation.args)?);
            self.run.call::<(bool, Value)>((&program.function, keys, args))
        });
        let result = match ran {
            Ok((true, value)) if self.state.stop.is_none() => Ok(value),
            Ok((_, value)) => Err(self.failure(value)),
            Err(error) => Err(self.failure(Value::Error(Box::new(error)))),
        };
        self.clean(program.reaches_tables);
        result
    }

    /// Runs a library and answers the functions it registered.
    pub(crate) fn load(
        &mut self,
        program: &Program,
        host: &mut dyn Host,
    ) -> std::result::Result<Vec<Registration>, Failure> {
        self.state.registering = Some(Vec::new());
        self.is_spent |= self.begin_loading.call::<()>(true).is_err();
        let result = self.run(program, &Invocation::default(), host);
        self.is_spent |= self.begin_loading.call::<()>(false).is_err();
        let registered = self.state.registering.take().unwrap_or_default();
        result.map(|_| registered)
    }

    /// Writes what a program returned.
    pub(crate) fn write(
        &mut self,
        out: &mut Vec<u8>,
        value: &Value,
        invocation: &Invocation<'_>,
        host: &mut dyn Host,
    ) -> std::result::Result<(), NotWritten> {
        let script = self.state.resp;
        let written = lend(host, &mut self.state, || crate::reply::write(out, value, invocation, script));
        written.map_err(|error| match &self.state.stop {
            Some(text) => NotWritten::Failed(text.clone().into_bytes()),
            None if crate::reply::is_too_long(&error) => NotWritten::TooLong,
            None => NotWritten::Failed([b"ERR ", &raise::plain_text(&error)[..]].concat()),
        })
    }

    /// Everything as it was before the first script.
    fn prepare(&mut self, seed: u32) {
        self.state.resp = Resp::Two;
        self.state.stop = None;
        self.state.failure = None;
        self.state.taken = Taken::default();
        self.state.random = Random::new(seed as i32);
        cjson::reset(&self.cjson);
    }

    fn failure(&mut self, value: Value) -> Failure {
        let noted = self.state.failure.take();
        if let Some(text) = &self.state.stop {
            let place = noted.and_then(|failure| failure.place);
            return Failure { text: text.clone().into_bytes(), place };
        }
        noted.unwrap_or_else(|| Failure { text: error_text(&value), place: None })
    }

    /// Takes back what the run left.
    fn clean(&mut self, reached_tables: bool) {
        if self.state.stop.is_some() {
            self.is_spent |= install_hook(&self.lua, INSTRUCTIONS_PER_QUESTION).is_err();
        }
        if self.lua.used_memory() > self.state.memory_max / 2 {
            // A full collection, before the next script finds no memory.
            let _ = self.lua.gc_collect();
            self.is_spent |= self.lua.used_memory() > self.state.memory_max / 2;
        }
        if reached_tables {
            self.is_spent |= self.sweep.call::<()>(()).is_err();
        }
    }
}

fn list(lua: &Lua, values: &[&[u8]]) -> Result<Table> {
    let table = lua.create_table_with_capacity(values.len(), 0)?;
    for (index, value) in values.iter().enumerate() {
        table.raw_set(index + 1, lua.create_string(value)?)?;
    }
    Ok(table)
}

/// Whether a program could get at `table`, whose functions write past the proxies of the sandbox. It can only by this
/// name, by way of all globals, or with a program made of texts; names are written out in a program.
fn reaches_tables(program: &[u8]) -> bool {
    let words = program.split(|byte| !byte.is_ascii_alphanumeric() && *byte != b'_');
    words.into_iter().any(|word| matches!(word, b"table" | b"_G" | b"load" | b"loadstring"))
}

/// Compiles text, never bytecode.
fn compile(lua: &Lua, program: &[u8], name: &str) -> Result<Function> {
    if program.len() > PROGRAM_BYTES_MAX {
        return Err(mlua::Error::runtime("the program is too long"));
    }
    // The parser does not hold on to the name of the chunk while it collects garbage (CVE-2025-49844): it must not.
    lua.gc_stop();
    let compiled = match program.first() {
        // The space makes it a text that begins with a strange character.
        Some(0x1b) => lua.load([b" ", program].concat()).set_name(name).set_mode(ChunkMode::Text).into_function(),
        _ => lua.load(program).set_name(name).set_mode(ChunkMode::Text).into_function(),
    };
    lua.gc_restart();
    compiled
}

fn install_hook(lua: &Lua, every: u32) -> Result<()> {
    let triggers = HookTriggers::new().every_nth_instruction(every);
    lua.set_global_hook(triggers, move |lua, _| match may_go_on() {
        Ok(()) => {
            let next = instructions_per_question(lua);
            // A coroutine may still have what held when it was made.
            if next != every || next != INSTRUCTIONS_PER_QUESTION {
                install_hook(lua, next)?;
            }
            Ok(VmState::Continue)
        }
        Err(error) => {
            // From now on nothing runs, whatever catches the error.
            install_hook(lua, 1)?;
            Err(error)
        }
    })
}

fn instructions_per_question(lua: &Lua) -> u32 {
    let heavy = u32::try_from(lua.used_memory() / LIGHT_BYTES_MAX).unwrap_or(u32::MAX);
    (INSTRUCTIONS_PER_QUESTION / heavy.max(1)).max(INSTRUCTIONS_PER_QUESTION_MIN)
}

/// Asks the host whether the script may go on. Once it may not, it never may again.
pub(crate) fn may_go_on() -> Result<()> {
    let may = with_run(|host, state| {
        if state.stop.is_none()
            && let Interrupt::Stop(text) = host.interrupted()
        {
            state.stop = Some(text);
        }
        state.stop.is_none()
    });
    if may == Some(false) { Err(stopped()) } else { Ok(()) }
}

/// The functions that the sandbox is built from.
fn natives(lua: &Lua, kind: Kind, cjson: &cjson::Shared) -> Result<Table> {
    let natives = lua.create_table()?;
    natives.raw_set("bit", bits::library(lua)?)?;
    natives.raw_set("struct", structs::library(lua)?)?;
    natives.raw_set("cmsgpack", cmsgpack::library(lua)?)?;
    natives.raw_set("cjson", cjson::library(lua, cjson)?)?;
    natives.raw_set("redis", redis::library(lua, "redis")?)?;
    natives.raw_set("server", redis::library(lua, "server")?)?;
    if kind == Kind::Functions {
        natives.raw_set("loading_redis", redis::for_loading(lua, "redis")?)?;
        natives.raw_set("loading_server", redis::for_loading(lua, "server")?)?;
    }
    natives.raw_set("string", patterns::library(lua)?)?;
    natives.raw_set("math", math(lua)?)?;
    natives.raw_set("clock", lua.create_function(clock)?)?;
    natives.raw_set("on_error", lua.create_function(on_error)?)?;
    natives.raw_set("unwrapped", lua.create_function(raise::unwrapped)?)?;
    natives.raw_set("compile", lua.create_function(compile_for_script)?)?;
    natives.raw_set("loadstring", lua.create_function(loadstring)?)?;
    let string_metatable: Table = lua.load("return getmetatable('')").call(())?;
    natives.raw_set("string_metatable", string_metatable)?;
    natives.raw_set(
        "stopped",
        lua.create_function(|_, _: MultiValue| {
            let is_stopped = with_run(|_, state| state.stop.is_some()).unwrap_or(false);
            if is_stopped { Err(stopped()) } else { Ok(()) }
        })?,
    )?;
    natives.raw_set(
        "is_stopped",
        lua.create_function(|_, _: MultiValue| Ok(with_run(|_, state| state.stop.is_some()).unwrap_or(false)))?,
    )?;
    natives.raw_set("readonly", lua.create_function(|lua, _: MultiValue| Err::<(), _>(read_only(lua)))?)?;
    natives.raw_set("missing", lua.create_function(missing)?)?;
    guards(lua, &natives)?;
    Ok(natives)
}

fn read_only(lua: &Lua) -> mlua::Error {
    raise(lua, "Attempt to modify a readonly table")
}

fn missing(lua: &Lua, values: MultiValue) -> Result<()> {
    let name = values.get(1).and_then(crate::arguments::text_of);
    let name = name.map(|name| String::from_utf8_lossy(name.as_ref()).into_owned()).unwrap_or_default();
    Err(raise(lua, format!("Script attempted to access nonexistent global variable '{name}'")))
}

/// `setmetatable`, `getmetatable` and `rawset`, which must know what is protected.
fn guards(lua: &Lua, natives: &Table) -> Result<()> {
    // Addresses of the protected tables. They live as long as the state does.
    let protected: Arc<Mutex<HashSet<usize>>> = Arc::default();
    let is_protected = {
        let protected = protected.clone();
        move |table: &Table| {
            let known = protected.lock().unwrap_or_else(PoisonError::into_inner);
            known.contains(&(table.to_pointer() as usize))
        }
    };
    natives.raw_set(
        "protect",
        lua.create_function(move |_, table: Table| {
            protected.lock().unwrap_or_else(PoisonError::into_inner).insert(table.to_pointer() as usize);
            Ok(())
        })?,
    )?;
    let check = is_protected.clone();
    let setmetatable = lua.create_function(move |lua, values: MultiValue| {
        let arguments = Arguments::new(lua, "setmetatable", &values);
        let table = arguments.table(1)?;
        let metatable = match arguments.get(2) {
            Some(Value::Nil) => None,
            Some(Value::Table(metatable)) => Some(metatable.clone()),
            _ => return Err(arguments.error(2, "nil or table expected")),
        };
        if check(table) {
            return Err(raise_bare("Attempt to modify a readonly table"));
        }
        if let Some(old) = table.metatable()
            && !old.raw_get::<Value>("__metatable")?.is_nil()
        {
            return Err(raise(lua, "cannot change a protected metatable"));
        }
        table.set_metatable(metatable)?;
        Ok(table.clone())
    })?;
    natives.raw_set("setmetatable", setmetatable)?;
    let rawset = lua.create_function(move |lua, values: MultiValue| {
        let arguments = Arguments::new(lua, "rawset", &values);
        let table = arguments.table(1)?;
        let any = |index: usize| arguments.get(index).cloned().ok_or_else(|| arguments.error(index, "value expected"));
        let (key, value) = (any(2)?, any(3)?);
        if is_protected(table) {
            return Err(raise_bare("Attempt to modify a readonly table"));
        }
        match key {
            Value::Nil => return Err(raise_bare("table index is nil")),
            Value::Number(number) if number.is_nan() => return Err(raise_bare("table index is NaN")),
            key => table.raw_set(key, value)?,
        }
        Ok(table.clone())
    })?;
    natives.raw_set("rawset", rawset)?;
    Ok(())
}

fn math(lua: &Lua) -> Result<Table> {
    let math = lua.create_table()?;
    let random = lua.create_function(|lua, values: MultiValue| {
        let arguments = Arguments::new(lua, "random", &values);
        let drawn = with_run(|_, state| state.random.next()).unwrap_or(0.0);
        let (least, most, index) = match arguments.count() {
            0 => return Ok(Value::Number(drawn)),
            1 => (1.0, int(arguments.number(1)?), 1),
            2 => (int(arguments.number(1)?), int(arguments.number(2)?), 2),
            _ => return Err(raise(lua, "wrong number of arguments")),
        };
        if least > most {
            return Err(arguments.error(index, "interval is empty"));
        }
        Ok(Value::Number((drawn * (most - least + 1.0)).floor() + least))
    })?;
    let randomseed = lua.create_function(|lua, values: MultiValue| {
        let seed = Arguments::new(lua, "randomseed", &values).integer(1)?;
        with_run(|_, state| state.random = Random::new(seed as i32));
        Ok(MultiValue::new())
    })?;
    math.raw_set("random", random)?;
    math.raw_set("randomseed", randomseed)?;
    Ok(math)
}

/// A number as the language's `int` holds it.
fn int(value: f64) -> f64 {
    f64::from(number::truncated(value) as i32)
}

fn clock(_: &Lua, _: MultiValue) -> Result<f64> {
    Ok(with_run(|host, _| host.now_us()).unwrap_or(0) as f64 / 1e6)
}

fn loadstring(lua: &Lua, values: MultiValue) -> Result<MultiValue> {
    let arguments = Arguments::new(lua, "loadstring", &values);
    let program = arguments.string(1)?;
    let name = if arguments.is_none(2) { program.clone() } else { arguments.string(2)? };
    compile_for_script(lua, (program, name))
}

/// The compiled program, or nil and what is wrong with it.
fn compile_for_script(lua: &Lua, (program, name): (mlua::LuaString, mlua::LuaString)) -> Result<MultiValue> {
    /// Error texts show no more of a name.
    const NAME_BYTES_MAX: usize = 1024;
    let name = name.as_bytes();
    let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len()).min(NAME_BYTES_MAX);
    let name = String::from_utf8_lossy(&name[..end]);
    match compile(lua, &program.as_bytes(), &name) {
        Ok(function) => Ok(MultiValue::from_vec(vec![Value::Function(function)])),
        Err(error) => {
            let text = lua.create_string(raise::plain_text(&error))?;
            Ok(MultiValue::from_vec(vec![Value::Nil, Value::String(text)]))
        }
    }
}

/// Notes the error that ends a run, where it happened.
fn on_error(lua: &Lua, value: Value) -> Result<Value> {
    let at = |level: usize| {
        lua.inspect_stack(level, |debug| {
            let line = debug.current_line().unwrap_or(0);
            (debug.source().source.map(|name| name.into_owned()).unwrap_or_default(), line)
        })
    };
    // Between the script and here lie the function that raised it and the machine's own.
    let place = (1..=8).filter_map(at).find(|(source, line)| *line > 0 && source != "=sandbox");
    let text = error_text(&value);
    with_run(|_, state| state.failure = Some(Failure { text, place }));
    Ok(Value::Nil)
}

/// The text of an error without a place in the sandbox, which is none of the script's.
fn without_sandbox(text: &[u8]) -> &[u8] {
    let Some(behind) = text.strip_prefix(b"sandbox:") else { return text };
    let digits = behind.iter().take_while(|byte| byte.is_ascii_digit()).count();
    behind[digits..].strip_prefix(b": ").unwrap_or(text)
}

/// The text of an error that ends a run, its code word first.
fn error_text(value: &Value) -> Vec<u8> {
    let with_code = |text: &[u8]| [b"ERR ", text].concat();
    match value {
        Value::Table(table) => match table.raw_get::<Value>("err") {
            Ok(Value::String(text)) => text.as_bytes().to_vec(),
            _ => b"ERR unknown error".to_vec(),
        },
        Value::Error(error) => match raise::find(error) {
            Some(raised) if raised.is_table => raised.text.clone(),
            _ => with_code(&raise::plain_text(error)),
        },
        Value::Nil => b"ERR nil".to_vec(),
        Value::Boolean(yes) => with_code(yes.to_string().as_bytes()),
        other => match crate::arguments::text_of(other) {
            Some(text) => with_code(without_sandbox(text.as_ref())),
            None => with_code(type_name(other).as_bytes()),
        },
    }
}
