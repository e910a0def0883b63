//! The machine: scripts by their hash, libraries by their name, and one run at a time.

use std::sync::Arc;

use crate::cache::{Cache, Script, Sha};
use crate::host::{Host, Resp};
use crate::interpreter::{Failure, Interpreter, Kind, NotWritten, Program};
use crate::library::{Function, Libraries, Library, RestorePolicy};
use crate::shebang;

/// How much a machine may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of each of its two states, the one of scripts and the one of functions. A script that needs more ends
    /// with an error.
    pub memory_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        // Room for a large value, its copy and a result; far from what a node has.
        Limits { memory_bytes_max: 256 * 1024 * 1024 }
    }
}

/// What a script or a function is called with.
#[derive(Clone, Copy, Debug)]
pub struct Invocation<'a> {
    /// `KEYS`
    pub keys: &'a [&'a [u8]],
    /// `ARGV`
    pub args: &'a [&'a [u8]],
    /// The protocol of the client that gets the result.
    pub client: Resp,
    /// Bytes that the arguments of one call may have together: what a client may send at once.
    pub request_bytes_max: usize,
    /// Bytes of the longest result: what a client may get at once.
    pub reply_bytes_max: usize,
}

impl Default for Invocation<'_> {
    /// With nothing, for a client that may send and get anything.
    fn default() -> Self {
        let (request_bytes_max, reply_bytes_max) = (usize::MAX, usize::MAX);
        Invocation { keys: &[], args: &[], client: Resp::Two, request_bytes_max, reply_bytes_max }
    }
}

/// How a run ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The result is in the reply.
    Returned,
    /// The reply is the error that ended it.
    Failed,
    /// It ran, but its result is longer than the client may get. There is no reply.
    TooLong,
}

/// What a machine holds.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct MachineStats {
    /// Scripts in the cache.
    pub scripts: usize,
    /// Bytes of their texts.
    pub script_bytes: usize,
    /// Libraries.
    pub libraries: usize,
    /// Functions of all libraries.
    pub functions: usize,
    /// Bytes the Lua state of scripts takes.
    pub scripts_state_bytes: usize,
    /// Bytes the Lua state of functions takes.
    pub functions_state_bytes: usize,
}

impl MachineStats {
    /// What both hold together.
    #[must_use]
    pub fn plus(self, other: MachineStats) -> MachineStats {
        MachineStats {
            scripts: self.scripts + other.scripts,
            script_bytes: self.script_bytes + other.script_bytes,
            libraries: self.libraries + other.libraries,
            functions: self.functions + other.functions,
            scripts_state_bytes: self.scripts_state_bytes + other.scripts_state_bytes,
            functions_state_bytes: self.functions_state_bytes + other.functions_state_bytes,
        }
    }
}

/// The Lua machine of a node. Send, and used by one thread at a time.
pub struct Machine {
    limits: Limits,
    scripts: Interpreter,
    /// Made when the first library is loaded.
    functions: Option<Interpreter>,
    cache: Cache,
    libraries: Libraries,
}

impl Machine {
    /// A machine that knows nothing yet.
    pub fn new(limits: Limits) -> Machine {
        let scripts = interpreter(Kind::Scripts, limits);
        Machine { limits, scripts, functions: None, cache: Cache::default(), libraries: Libraries::default() }
    }

    /// Compiles a script, unless it is known, and answers its name. The error is the whole text of the reply.
    pub fn load_script(&mut self, body: &[u8], stays: bool) -> Result<Sha, String> {
        let sha = Sha::of(body);
        if self.cache.used(&sha).is_none() {
            let (flags, start) = shebang::of_script(body)?;
            self.replace_if_spent();
            let program = self.scripts.compile(&body[start..]).map_err(compile_error)?;
            self.cache.insert(sha, body, flags, start, program);
        }
        if stays {
            self.cache.keep(&sha);
        }
        Ok(sha)
    }

    /// Forgets the scripts of EVAL, as if there were no more room for any: whoever needs one sends it again.
    pub fn forget_evaluated(&mut self) {
        self.cache.forget_evaluated();
    }

    /// Bytes of the texts of all scripts and libraries.
    pub fn text_bytes(&self) -> usize {
        self.cache.bytes() + self.libraries.iter().map(|library| library.code.len()).sum::<usize>()
    }

    /// A script that is known.
    pub fn script(&self, sha: &Sha) -> Option<&Script> {
        self.cache.get(sha)
    }

    /// Forgets all scripts.
    pub fn flush_scripts(&mut self) {
        self.cache.clear();
        self.scripts = interpreter(Kind::Scripts, self.limits);
    }

    /// Runs a script and appends its result, or the error that ended it, to `out`. `None`: there is no such script.
    pub fn run_script(
        &mut self,
        sha: &Sha,
        invocation: &Invocation<'_>,
        host: &mut dyn Host,
        out: &mut Vec<u8>,
    ) -> Option<Outcome> {
        self.replace_if_spent();
        let script = self.cache.used(sha)?;
        let program = match &script.program {
            Some(program) => program.clone(),
            None => {
                let compiled = self.scripts.compile(&script.body[script.start..]);
                match compiled {
                    Ok(program) => script.program.insert(program).clone(),
                    Err(text) => {
                        write_error(out, compile_error(text).as_bytes());
                        return Some(Outcome::Failed);
                    }
                }
            }
        };
        Some(run(&mut self.scripts, &program, || sha.to_string(), invocation, host, out))
    }

    /// Loads a library and answers its name. The error is the whole text of the reply.
    pub fn load_library(&mut self, code: &[u8], replaces: bool, host: &mut dyn Host) -> Result<String, String> {
        let mut libraries = self.libraries.clone();
        let name = self.add_library(&mut libraries, code, replaces, host)?;
        self.libraries = libraries;
        Ok(name)
    }

    fn add_library(
        &mut self,
        libraries: &mut Libraries,
        code: &[u8],
        replaces: bool,
        host: &mut dyn Host,
    ) -> Result<String, String> {
        let (name, start) = shebang::of_library(code)?;
        if libraries.contains(&name) && !replaces {
            return Err(format!("ERR Library '{name}' already exists"));
        }
        self.replace_if_spent();
        let limits = self.limits;
        let functions = self.functions.get_or_insert_with(|| interpreter(Kind::Functions, limits));
        let program =
            functions.compile(&code[start..]).map_err(|text| format!("ERR Error compiling function: {text}"))?;
        let registered = functions.load(&program, host).map_err(|failure| {
            let text = String::from_utf8_lossy(&failure.text).into_owned();
            // What is wrong with a function's name is said alone.
            if text.starts_with("ERR Function") && !text.starts_with("ERR FUNCTION") {
                text
            } else {
                format!("ERR Error registering functions: {text}")
            }
        })?;
        if registered.is_empty() {
            return Err("ERR No functions registered".to_owned());
        }
        libraries.remove(&name);
        libraries.add(&name, code, registered, program.reaches_tables)?;
        Ok(name)
    }

    /// Loads libraries, all or none. The error is the whole text of the reply.
    pub fn restore(&mut self, codes: &[Vec<u8>], policy: RestorePolicy, host: &mut dyn Host) -> Result<(), String> {
        let mut libraries = if policy == RestorePolicy::Flush { Libraries::default() } else { self.libraries.clone() };
        for code in codes {
            // Said here without the quotes that FUNCTION LOAD puts around the name.
            let (name, _) = shebang::of_library(code)?;
            if policy != RestorePolicy::Replace && libraries.contains(&name) {
                return Err(format!("ERR Library {name} already exists"));
            }
            self.add_library(&mut libraries, code, policy == RestorePolicy::Replace, host)?;
        }
        self.libraries = libraries;
        Ok(())
    }

    /// The libraries, in the order of their names.
    pub fn libraries(&self) -> impl Iterator<Item = &Arc<Library>> {
        self.libraries.iter()
    }

    /// A function, whatever the case of its name's letters.
    pub fn function(&self, name: &[u8]) -> Option<&Function> {
        self.libraries.find(name)
    }

    /// Deletes a library. Whether there was one.
    pub fn delete_library(&mut self, name: &[u8]) -> bool {
        str::from_utf8(name).is_ok_and(|name| self.libraries.remove(name))
    }

    /// Deletes all libraries.
    pub fn flush_libraries(&mut self) {
        self.libraries = Libraries::default();
        self.functions = None;
    }

    /// Runs a function and appends its result, or the error that ended it, to `out`. `None`: there is no such
    /// function.
    pub fn run_function(
        &mut self,
        name: &[u8],
        invocation: &Invocation<'_>,
        host: &mut dyn Host,
        out: &mut Vec<u8>,
    ) -> Option<Outcome> {
        self.replace_if_spent();
        let function = self.libraries.find(name)?;
        let (program, name) = (function.program.clone(), function.name.clone());
        let functions = self.functions.as_mut()?;
        Some(run(functions, &program, || name, invocation, host, out))
    }

    /// What it holds.
    pub fn stats(&self) -> MachineStats {
        MachineStats {
            scripts: self.cache.len(),
            script_bytes: self.cache.bytes(),
            libraries: self.libraries.iter().count(),
            functions: self.libraries.function_count(),
            scripts_state_bytes: self.scripts.memory_bytes(),
            functions_state_bytes: self.functions.as_ref().map_or(0, Interpreter::memory_bytes),
        }
    }

    /// Makes new states for those that a script has left unusable.
    fn replace_if_spent(&mut self) {
        if self.scripts.is_spent() {
            self.scripts = interpreter(Kind::Scripts, self.limits);
            self.cache.forget_programs();
        }
        if self.functions.as_ref().is_some_and(Interpreter::is_spent) {
            self.functions = Some(interpreter(Kind::Functions, self.limits));
            let codes: Vec<Vec<u8>> = self.libraries.iter().map(|library| library.code.to_vec()).collect();
            let mut libraries = Libraries::default();
            for code in codes {
                // It was loaded before: what it does now it did then.
                let _ = self.add_library(&mut libraries, &code, true, &mut Nobody);
            }
            self.libraries = libraries;
        }
    }
}

/// The world of a library that is loaded again: it could do nothing then and can do nothing now.
struct Nobody;

impl Host for Nobody {
    fn call(&mut self, _: &[&[u8]], _: crate::CallOptions, reply: &mut Vec<u8>) {
        reply.extend_from_slice(b"-ERR redis.call/pcall can only be called inside a script invocation\r\n");
    }

    fn acl_check(&mut self, _: &[&[u8]]) -> Result<bool, String> {
        Ok(false)
    }

    fn log(&mut self, _: crate::LogLevel, _: &[u8]) {}

    fn set_replication(&mut self, _: crate::Replication) {}

    fn interrupted(&mut self) -> crate::Interrupt {
        crate::Interrupt::Continue
    }

    fn random(&mut self) -> u32 {
        0
    }

    fn now_us(&mut self) -> u64 {
        0
    }
}

fn interpreter(kind: Kind, limits: Limits) -> Interpreter {
    // Less would not hold the sandbox itself.
    let memory_bytes_max = limits.memory_bytes_max.max(4 * 1024 * 1024);
    Interpreter::new(kind, memory_bytes_max).expect("the sandbox is a program of ours and fits into its memory")
}

fn compile_error(text: String) -> String {
    format!("ERR Error compiling script (new function): {text}")
}

fn run(
    interpreter: &mut Interpreter,
    program: &Program,
    name: impl FnOnce() -> String,
    invocation: &Invocation<'_>,
    host: &mut dyn Host,
    out: &mut Vec<u8>,
) -> Outcome {
    let start = out.len();
    let failure = match interpreter.run(program, invocation, host) {
        Ok(value) => {
            let Err(why) = interpreter.write(out, &value, invocation, host) else { return Outcome::Returned };
            // Not only cut: what it took goes now.
            *out = out[..start].to_vec();
            match why {
                NotWritten::TooLong => return Outcome::TooLong,
                NotWritten::Failed(text) => Failure { text, place: None },
            }
        }
        Err(failure) => failure,
    };
    let mut text = failure.text;
    if let Some((source, line)) = failure.place {
        text.extend_from_slice(format!(" script: {}, on {source}:{line}.", name()).as_bytes());
    }
    write_error(out, &text);
    Outcome::Failed
}

/// A line break in the text would be read as the end of the reply.
fn write_error(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'-');
    out.extend(text.iter().map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { *byte }));
    out.extend_from_slice(b"\r\n");
}
