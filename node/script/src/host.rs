//! What a script may ask of the world, and nothing else: a command, a permission, a line in the log, the time.
//!
//! The node implements [`Host`] for one run and lends it; the machine keeps nothing of it.

use std::fmt;

use scoped_tls_hkt::{ReborrowMut, scoped_thread_local};

use crate::interpreter::RunState;

/// Which protocol an answer is spelled in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Resp {
    /// RESP2, the default.
    #[default]
    Two,
    /// RESP3: maps, sets, doubles, booleans and null have types of their own.
    Three,
}

/// How a command is called from a script.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CallOptions {
    /// What `redis.setresp` chose.
    pub resp: Resp,
}

/// How loud a line of `redis.log` is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogLevel {
    /// `redis.LOG_DEBUG`
    Debug,
    /// `redis.LOG_VERBOSE`
    Verbose,
    /// `redis.LOG_NOTICE`
    Notice,
    /// `redis.LOG_WARNING`
    Warning,
}

/// Where the writes of a script go from now on: `redis.set_repl`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Replication {
    /// To the journal on disk.
    pub journal: bool,
    /// To the replicas.
    pub replicas: bool,
}

/// Whether a script that has run for a while may go on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Interrupt {
    /// It may.
    Continue,
    /// It ends here, with this text as its error. It cannot catch that.
    Stop(String),
}

/// What the world does for one run.
pub trait Host {
    /// Runs a command as the script's user and appends its answer to `reply`, errors included.
    fn call(&mut self, argv: &[&[u8]], options: CallOptions, reply: &mut Vec<u8>);

    /// Whether the script's user may run the command. An error is a request that is none: no such command, say.
    fn acl_check(&mut self, argv: &[&[u8]]) -> Result<bool, String>;

    /// Writes a line to the log.
    fn log(&mut self, level: LogLevel, message: &[u8]);

    /// Changes where the script's writes go.
    fn set_replication(&mut self, to: Replication);

    /// Asked every few ten thousand instructions.
    fn interrupted(&mut self) -> Interrupt;

    /// Where `math.random` begins, unless the script says so itself.
    fn random(&mut self) -> u32;

    /// The time for `os.clock`, in microseconds.
    fn now_us(&mut self) -> u64;
}

/// The run under way, as the thread that runs it holds it: the host and what the machine notes meanwhile.
struct Current<'a> {
    host: &'a mut dyn Host,
    state: &'a mut RunState,
}

impl fmt::Debug for Current<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Current")
    }
}

impl<'a> ReborrowMut<'a> for Current<'_> {
    type Result = Current<'a>;

    fn reborrow_mut(&'a mut self) -> Current<'a> {
        Current { host: self.host, state: self.state }
    }
}

scoped_thread_local!(static mut CURRENT: for<'a> Current<'a>);

/// Does `work` with the host and the state at hand for everything the script calls meanwhile.
pub(crate) fn lend<R>(host: &mut dyn Host, state: &mut RunState, work: impl FnOnce() -> R) -> R {
    CURRENT.set(Current { host, state }, work)
}

/// Does `work` with the run under way, if there is one.
pub(crate) fn with_run<R>(work: impl FnOnce(&mut dyn Host, &mut RunState) -> R) -> Option<R> {
    CURRENT.is_set().then(|| CURRENT.with(|current| work(current.host, current.state)))
}
