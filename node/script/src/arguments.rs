//! The arguments of a library function, checked as Lua's own library checks them, with its error texts.

use mlua::{BorrowedBytes, Error, Lua, LuaString, MultiValue, Result, Table, Value};

use crate::number;
use crate::raise::raise;

/// The arguments of one call. Counted from one, as the error texts count them.
pub(crate) struct Arguments<'a> {
    /// The machine.
    pub lua: &'a Lua,
    /// What the function is called.
    pub name: &'static str,
    /// The arguments themselves.
    pub values: &'a MultiValue,
}

impl<'a> Arguments<'a> {
    pub(crate) fn new(lua: &'a Lua, name: &'static str, values: &'a MultiValue) -> Arguments<'a> {
        Arguments { lua, name, values }
    }

    pub(crate) fn count(&self) -> usize {
        self.values.len()
    }

    pub(crate) fn get(&self, index: usize) -> Option<&'a Value> {
        self.values.get(index - 1)
    }

    /// Neither given nor nil.
    pub(crate) fn is_none(&self, index: usize) -> bool {
        matches!(self.get(index), None | Some(Value::Nil))
    }

    pub(crate) fn error(&self, index: usize, text: &str) -> Error {
        raise(self.lua, format!("bad argument #{index} to '{}' ({text})", self.name))
    }

    pub(crate) fn wrong_type(&self, index: usize, expected: &str) -> Error {
        let got = self.get(index).map_or("no value", type_name);
        self.error(index, &format!("{expected} expected, got {got}"))
    }

    pub(crate) fn string(&self, index: usize) -> Result<LuaString> {
        match self.get(index) {
            Some(Value::String(text)) => Ok(text.clone()),
            Some(value) => match number_of(value) {
                Some(number) => self.lua.create_string(number::format_g(number, 14)),
                None => Err(self.wrong_type(index, "string")),
            },
            None => Err(self.wrong_type(index, "string")),
        }
    }

    pub(crate) fn number(&self, index: usize) -> Result<f64> {
        match self.get(index) {
            Some(Value::String(text)) => {
                number::parse(&text.as_bytes()).ok_or_else(|| self.wrong_type(index, "number"))
            }
            Some(value) => number_of(value).ok_or_else(|| self.wrong_type(index, "number")),
            None => Err(self.wrong_type(index, "number")),
        }
    }

    pub(crate) fn integer(&self, index: usize) -> Result<i64> {
        self.number(index).map(number::truncated)
    }

    pub(crate) fn integer_or(&self, index: usize, default: i64) -> Result<i64> {
        if self.is_none(index) { Ok(default) } else { self.integer(index) }
    }

    pub(crate) fn table(&self, index: usize) -> Result<&'a Table> {
        match self.get(index) {
            Some(Value::Table(table)) => Ok(table),
            _ => Err(self.wrong_type(index, "table")),
        }
    }
}

/// The number a value is, if it is one.
pub(crate) fn number_of(value: &Value) -> Option<f64> {
    match value {
        Value::Integer(number) => Some(*number as f64),
        Value::Number(number) => Some(*number),
        _ => None,
    }
}

/// What Lua calls the type of a value.
pub(crate) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Nil => "nil",
        Value::Boolean(_) => "boolean",
        Value::Integer(_) | Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Table(_) => "table",
        Value::Function(_) => "function",
        Value::Thread(_) => "thread",
        _ => "userdata",
    }
}

/// The bytes of a string, or of a number as Lua writes it.
pub(crate) enum Text<'a> {
    /// A string's.
    Borrowed(BorrowedBytes),
    /// A number's.
    Made(String, std::marker::PhantomData<&'a ()>),
}

/// The text of a value that is a string or a number.
pub(crate) fn text_of(value: &Value) -> Option<Text<'_>> {
    match value {
        Value::String(text) => Some(Text::Borrowed(text.as_bytes())),
        value => number_of(value).map(|number| Text::Made(number::format_g(number, 14), std::marker::PhantomData)),
    }
}

impl AsRef<[u8]> for Text<'_> {
    fn as_ref(&self) -> &[u8] {
        match self {
            Text::Borrowed(bytes) => bytes,
            Text::Made(text, _) => text.as_bytes(),
        }
    }
}
