//! The machine: scripts by their hash, libraries by their name, and one run at a time.

use std::collections::{BTreeMap, HashSet, VecDeque};
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
    /// Libraries whose text is known and which are not loaded, the one to be tried next first.
    waiting: VecDeque<Waiting>,
}

/// A library that is not loaded: it came with a copy of the data, or its state had to go.
struct Waiting {
    name: String,
    code: Arc<[u8]>,
    /// Why it could not be loaded when that was tried.
    error: Option<String>,
}

impl Machine {
    /// A machine that knows nothing yet.
    pub fn new(limits: Limits) -> Machine {
        let scripts = interpreter(Kind::Scripts, limits);
        let (cache, libraries, waiting) = (Cache::default(), Libraries::default(), VecDeque::new());
        Machine { limits, scripts, functions: None, cache, libraries, waiting }
    }

    /// Compiles a script, unless it is known, and answers its name. The error is the whole text of the reply.
    pub fn load_script(&mut self, body: &[u8], stays: bool) -> Result<Sha, String> {
        let sha = Sha::of(body);
        if self.cache.used(&sha).is_none() {
            let (flags, start) = shebang::of_script(body)?;
            self.renew();
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
        self.cache.bytes() + self.codes().iter().map(|code| code.len()).sum::<usize>()
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
        self.renew();
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

    /// Loads a library and answers its name. The error is the whole text of the reply. What waits should be loaded before: a
    /// function's name is free if no library that is loaded has it.
    pub fn load_library(&mut self, code: &[u8], replaces: bool, host: &mut dyn Host) -> Result<String, String> {
        self.renew();
        let (name, _) = shebang::of_library(code)?;
        if !replaces && (self.libraries.contains(&name) || self.waits(&name)) {
            return Err(format!("ERR Library '{name}' already exists"));
        }
        let limits = self.limits;
        let functions = self.functions.get_or_insert_with(|| interpreter(Kind::Functions, limits));
        let mut libraries = self.libraries.clone();
        let added = add_library(functions, &mut libraries, code, host);
        // After an error it may be spent as well: what was loaded before waits then.
        added.map(|()| {
            self.libraries = libraries;
            self.waiting.retain(|waiting| waiting.name != name);
            name
        })
    }

    /// Loads libraries, all or none. The error is the whole text of the reply.
    pub fn restore(&mut self, codes: &[Vec<u8>], policy: RestorePolicy, host: &mut dyn Host) -> Result<(), String> {
        self.renew();
        let limits = self.limits;
        let mut names = HashSet::new();
        for code in codes {
            // Said here without the quotes that FUNCTION LOAD puts around the name.
            let (name, _) = shebang::of_library(code)?;
            let is_taken = policy == RestorePolicy::Append && (self.libraries.contains(&name) || self.waits(&name));
            if is_taken || (policy != RestorePolicy::Replace && names.contains(&name)) {
                return Err(format!("ERR Library {name} already exists"));
            }
            names.insert(name);
        }
        let mut fresh = None;
        let (mut libraries, functions) = if policy == RestorePolicy::Flush {
            (Libraries::default(), fresh.insert(interpreter(Kind::Functions, limits)))
        } else {
            let functions = self.functions.get_or_insert_with(|| interpreter(Kind::Functions, limits));
            (self.libraries.clone(), functions)
        };
        for code in codes {
            add_library(functions, &mut libraries, code, host)?;
        }
        self.libraries = libraries;
        if policy == RestorePolicy::Flush {
            self.functions = fresh;
            self.waiting.clear();
        } else {
            self.waiting.retain(|waiting| !names.contains(&waiting.name));
        }
        Ok(())
    }

    /// Takes a library that was loaded elsewhere, in the place of one of its name. It waits until it is needed: whether it
    /// can be loaded, and how long that takes, is nothing a copy of the data may depend on.
    pub fn keep_library(&mut self, code: &[u8]) -> Result<(), String> {
        let (name, _) = shebang::of_library(code)?;
        self.libraries.remove(&name);
        self.waiting.retain(|waiting| waiting.name != name);
        self.waiting.push_back(Waiting { name, code: code.into(), error: None });
        Ok(())
    }

    /// Whether there are libraries to be loaded before it is known that there is no such function.
    pub fn lacks(&mut self, function: &[u8]) -> bool {
        self.renew();
        !self.waiting.is_empty() && self.libraries.find(function).is_none()
    }

    /// Loads libraries that wait, each with a host of its own, until all have been tried, this function is there, or `host`
    /// has no more. One that fails waits on, behind the others. Answers what went wrong last.
    pub fn load_waiting<H: Host>(
        &mut self,
        until: Option<&[u8]>,
        mut host: impl FnMut() -> Option<H>,
    ) -> Result<(), String> {
        let mut outcome = Ok(());
        self.renew();
        for _ in 0..self.waiting.len() {
            if until.is_some_and(|function| self.libraries.find(function).is_some()) {
                break;
            }
            let Some(mut host) = host() else { break };
            let Some(next) = self.waiting.pop_front() else { break };
            let limits = self.limits;
            let functions = self.functions.get_or_insert_with(|| interpreter(Kind::Functions, limits));
            if let Err(error) = add_library(functions, &mut self.libraries, &next.code, &mut host) {
                outcome = Err(format!("library '{}' cannot be loaded: {error}", next.name));
                self.waiting.push_back(Waiting { error: Some(error), ..next });
                self.renew();
            }
        }
        outcome
    }

    /// Why the first library that waits could not be loaded, if that was tried.
    pub fn broken(&self) -> Option<(&str, &str)> {
        self.waiting.iter().find_map(|waiting| Some((waiting.name.as_str(), waiting.error.as_deref()?)))
    }

    fn waits(&self, name: &str) -> bool {
        self.waiting.iter().any(|waiting| waiting.name == name)
    }

    /// The texts of all libraries, in the order of their names.
    pub fn codes(&self) -> Vec<Arc<[u8]>> {
        let loaded = self.libraries.iter().map(|library| (library.name.as_str(), &library.code));
        let waiting = self.waiting.iter().map(|waiting| (waiting.name.as_str(), &waiting.code));
        let by_name: BTreeMap<&str, &Arc<[u8]>> = loaded.chain(waiting).collect();
        by_name.into_values().cloned().collect()
    }

    /// The libraries that are not loaded, by name and text.
    pub fn waiting(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.waiting.iter().map(|waiting| (waiting.name.as_str(), &*waiting.code))
    }

    /// The libraries that are loaded, in the order of their names.
    pub fn libraries(&self) -> impl Iterator<Item = &Arc<Library>> {
        self.libraries.iter()
    }

    /// A function that is loaded, whatever the case of its name's letters.
    pub fn function(&self, name: &[u8]) -> Option<&Function> {
        self.libraries.find(name)
    }

    /// Deletes a library. Whether there was one.
    pub fn delete_library(&mut self, name: &[u8]) -> bool {
        let Ok(name) = str::from_utf8(name) else { return false };
        let waited = self.waits(name);
        self.waiting.retain(|waiting| waiting.name != name);
        self.libraries.remove(name) || waited
    }

    /// Deletes all libraries.
    pub fn flush_libraries(&mut self) {
        self.libraries = Libraries::default();
        self.waiting.clear();
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
        self.renew();
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
            libraries: self.libraries.iter().count() + self.waiting.len(),
            functions: self.libraries.function_count(),
            scripts_state_bytes: self.scripts.memory_bytes(),
            functions_state_bytes: self.functions.as_ref().map_or(0, Interpreter::memory_bytes),
        }
    }

    /// Makes new states for those that a script has left unusable. What was loaded into one waits to be loaded again.
    fn renew(&mut self) {
        if self.scripts.is_spent() {
            self.scripts = interpreter(Kind::Scripts, self.limits);
            self.cache.forget_programs();
        }
        if self.functions.as_ref().is_some_and(Interpreter::is_spent) {
            self.functions = None;
            let libraries = std::mem::take(&mut self.libraries);
            let again = |library: &Arc<Library>| Waiting {
                name: library.name.clone(),
                code: Arc::clone(&library.code),
                error: None,
            };
            self.waiting.extend(libraries.iter().map(again));
        }
    }
}

/// Loads a library in the place of the one of its name, or changes nothing. Afterwards the state may be spent.
fn add_library(
    functions: &mut Interpreter,
    libraries: &mut Libraries,
    code: &[u8],
    host: &mut dyn Host,
) -> Result<(), String> {
    let (name, start) = shebang::of_library(code)?;
    let program = functions.compile(&code[start..]).map_err(|text| format!("ERR Error compiling function: {text}"))?;
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
    if functions.is_spent() {
        // It could be loaded, but nothing beside it, and not again.
        return Err("ERR Error registering functions: not enough memory".to_owned());
    }
    let mut changed = libraries.clone();
    changed.remove(&name);
    changed.add(&name, code, registered, program.reaches_tables)?;
    *libraries = changed;
    Ok(())
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
