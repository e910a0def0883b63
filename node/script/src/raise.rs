//! Errors that a script sees.
//!
//! A Rust function cannot raise a Lua string, only an error object; the sandbox turns it back into the string or the
//! table it stands for wherever a script could catch it (`pcall`, `xpcall`, `coroutine.resume`).

use std::fmt;
use std::sync::Arc;

use mlua::{Error, Lua, Value};

/// An error as a script sees it.
#[derive(Debug, Clone)]
pub(crate) struct Raise {
    /// Its text.
    pub text: Vec<u8>,
    /// Whether it is a table whose field `err` is the text, code word first, or the text itself.
    pub is_table: bool,
}

impl fmt::Display for Raise {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&String::from_utf8_lossy(&self.text))
    }
}

impl std::error::Error for Raise {}

/// An error with the place of the call in front: what a library function of Lua raises.
pub(crate) fn raise(lua: &Lua, text: impl AsRef<[u8]>) -> Error {
    let mut full = place(lua, 1);
    full.extend_from_slice(text.as_ref());
    Error::external(Raise { text: full, is_table: false })
}

/// An error without a place: what the language raises outside of any program.
pub(crate) fn raise_bare(text: &str) -> Error {
    Error::external(Raise { text: text.as_bytes().to_vec(), is_table: false })
}

/// An error that is a table with a field `err`: what `redis.call` raises. The text has its code word in front.
pub(crate) fn raise_reply(text: impl Into<Vec<u8>>) -> Error {
    Error::external(Raise { text: text.into(), is_table: true })
}

/// Finds the script's error in an error object.
pub(crate) fn find(error: &Error) -> Option<&Raise> {
    match error {
        Error::CallbackError { cause, .. } => find(cause),
        Error::ExternalError(external) => external.downcast_ref::<Raise>(),
        Error::WithContext { cause, .. } | Error::BadArgument { cause, .. } => find(cause),
        _ => None,
    }
}

/// The text of any error object, without the machine's own traceback.
pub(crate) fn plain_text(error: &Error) -> Vec<u8> {
    match error {
        Error::CallbackError { cause, .. } => plain_text(cause),
        Error::MemoryError(_) => b"not enough memory".to_vec(),
        Error::RuntimeError(text) | Error::SyntaxError { message: text, .. } => {
            text.split("\nstack traceback:\n").next().unwrap_or_default().as_bytes().to_vec()
        }
        other => find(other).map_or_else(|| other.to_string().into_bytes(), |raise| raise.text.clone()),
    }
}

/// `source:line: ` of the function at `level`, empty if it is none of Lua's.
pub(crate) fn place(lua: &Lua, level: usize) -> Vec<u8> {
    lua.inspect_stack(level, |debug| {
        let line = debug.current_line().filter(|line| *line > 0)?;
        let source = debug.source();
        Some(format!("{}:{line}: ", source.short_src.unwrap_or_default()).into_bytes())
    })
    .flatten()
    .unwrap_or_default()
}

/// What stands for an error in a table or a string: used by the sandbox where a script catches it.
pub(crate) fn unwrapped(lua: &Lua, value: Value) -> mlua::Result<Value> {
    let Value::Error(error) = value else { return Ok(value) };
    match find(&error) {
        Some(raise) if raise.is_table => {
            let table = lua.create_table()?;
            table.raw_set("err", lua.create_string(&raise.text)?)?;
            Ok(Value::Table(table))
        }
        _ => Ok(Value::String(lua.create_string(plain_text(&error))?)),
    }
}

/// The error that ends a script for good.
#[derive(Debug)]
pub(crate) struct Stopped;

impl fmt::Display for Stopped {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the script was stopped")
    }
}

impl std::error::Error for Stopped {}

/// The error that ends a script for good.
pub(crate) fn stopped() -> Error {
    Error::ExternalError(Arc::new(Stopped))
}
