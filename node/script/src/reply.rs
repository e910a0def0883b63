//! Values of a script as replies, and replies as values.
//!
//! What a command answered arrives as RESP bytes and becomes Lua values; what a script returns becomes RESP bytes, as
//! <https://valkey.io/topics/lua-api/> tells.

use std::fmt;

use mlua::{Error, Lua, Result, Table, Value};

use crate::arguments::number_of;
use crate::budget::Work;
use crate::host::Resp;
use crate::machine::Invocation;
use crate::number::{push_decimal, shortest, truncated};
use crate::raise::raise;

/// Tables within tables of a result, and replies within replies.
const DEPTH_MAX: usize = 256;

/// The value a reply becomes.
pub(crate) enum Answer {
    /// Any value but an error.
    Value(Value),
    /// An error: its text.
    Error(Vec<u8>),
}

/// Reads the one reply that `bytes` hold.
pub(crate) fn read(lua: &Lua, bytes: &[u8]) -> Result<Answer> {
    // Whoever called the command asks after it.
    let mut reader = Reader { lua, bytes, at: 0, work: Work::default() };
    match bytes.first() {
        Some(b'-') => Ok(Answer::Error(reader.line()?.to_vec())),
        Some(b'!') => {
            let length = reader.length()?;
            Ok(Answer::Error(reader.text(length)?.to_vec()))
        }
        _ => Ok(Answer::Value(reader.value(0)?)),
    }
}

struct Reader<'a> {
    lua: &'a Lua,
    bytes: &'a [u8],
    at: usize,
    work: Work,
}

impl<'a> Reader<'a> {
    fn broken(&self) -> mlua::Error {
        raise(self.lua, "the reply of the command is broken")
    }

    /// What stands between a type byte and its line end.
    fn line(&mut self) -> Result<&'a [u8]> {
        let rest = self.bytes.get(self.at + 1..).ok_or_else(|| self.broken())?;
        let end = rest.iter().position(|byte| *byte == b'\r').ok_or_else(|| self.broken())?;
        self.at += end + 3;
        Ok(&rest[..end])
    }

    fn length(&mut self) -> Result<i64> {
        let line = self.line()?;
        str::from_utf8(line).ok().and_then(|line| line.parse().ok()).ok_or_else(|| self.broken())
    }

    fn text(&mut self, length: i64) -> Result<&'a [u8]> {
        let length = usize::try_from(length).map_err(|_| self.broken())?;
        let text = self.bytes.get(self.at..self.at.saturating_add(length)).ok_or_else(|| self.broken())?;
        self.at += length + 2;
        Ok(text)
    }

    fn string(&self, bytes: &[u8]) -> Result<Value> {
        Ok(Value::String(self.lua.create_string(bytes)?))
    }

    fn single(&self, field: &str, value: Value) -> Result<Value> {
        let table = self.lua.create_table_with_capacity(0, 1)?;
        table.raw_set(field, value)?;
        Ok(Value::Table(table))
    }

    fn value(&mut self, depth: usize) -> Result<Value> {
        if depth > DEPTH_MAX {
            return Err(raise(self.lua, "the reply of the command is nested too deep"));
        }
        self.work.step()?;
        let kind = self.bytes.get(self.at).copied().ok_or_else(|| self.broken())?;
        match kind {
            b'$' => match self.length()? {
                -1 => Ok(Value::Boolean(false)),
                length => {
                    let text = self.text(length)?;
                    self.string(text)
                }
            },
            b':' => Ok(Value::Number(self.length()? as f64)),
            b'+' => {
                let text = self.line()?;
                self.single("ok", self.string(text)?)
            }
            b'-' => {
                let text = self.line()?;
                self.single("err", self.string(text)?)
            }
            b'!' => {
                let length = self.length()?;
                let text = self.text(length)?;
                self.single("err", self.string(text)?)
            }
            b'_' => self.line().map(|_| Value::Nil),
            b'#' => Ok(Value::Boolean(self.line()? == b"t")),
            b',' => {
                let line = self.line()?;
                let number = str::from_utf8(line).ok().and_then(|line| line.parse().ok());
                self.single("double", Value::Number(number.ok_or_else(|| self.broken())?))
            }
            b'(' => {
                let line = self.line()?;
                self.single("big_number", self.string(line)?)
            }
            b'=' => self.verbatim(),
            b'*' | b'>' => self.array(depth),
            b'~' => self.set(depth),
            b'%' => self.map(depth),
            b'|' => {
                // Said about the value that follows; a script does not see it.
                self.map(depth)?;
                self.value(depth)
            }
            _ => Err(self.broken()),
        }
    }

    fn verbatim(&mut self) -> Result<Value> {
        let length = self.length()?;
        let text = self.text(length)?;
        let (format, text) = text.split_at_checked(4).ok_or_else(|| self.broken())?;
        let table = self.lua.create_table()?;
        table.raw_set("format", self.string(&format[..3])?)?;
        table.raw_set("string", self.string(text)?)?;
        self.single("verbatim_string", Value::Table(table))
    }

    /// The count of a collection; no more can follow than there are bytes.
    fn count(&mut self) -> Result<Option<usize>> {
        let count = self.length()?;
        if count < 0 {
            return Ok(None);
        }
        let count = usize::try_from(count).map_err(|_| self.broken())?;
        if count > self.bytes.len() { Err(self.broken()) } else { Ok(Some(count)) }
    }

    fn array(&mut self, depth: usize) -> Result<Value> {
        let Some(count) = self.count()? else { return Ok(Value::Boolean(false)) };
        let table = self.lua.create_table_with_capacity(count, 0)?;
        for index in 1..=count {
            let value = self.value(depth + 1)?;
            table.raw_set(index, value)?;
        }
        Ok(Value::Table(table))
    }

    fn set(&mut self, depth: usize) -> Result<Value> {
        let count = self.count()?.unwrap_or(0);
        let table = self.lua.create_table_with_capacity(0, count)?;
        for _ in 0..count {
            match self.value(depth + 1)? {
                Value::Nil => {}
                member => table.raw_set(member, true)?,
            }
        }
        self.single("set", Value::Table(table))
    }

    fn map(&mut self, depth: usize) -> Result<Value> {
        let count = self.count()?.unwrap_or(0);
        let table = self.lua.create_table_with_capacity(0, count)?;
        for _ in 0..count {
            let key = self.value(depth + 1)?;
            let value = self.value(depth + 1)?;
            if !matches!(key, Value::Nil) {
                table.raw_set(key, value)?;
            }
        }
        self.single("map", Value::Table(table))
    }
}

/// A result that is longer than its client may get.
#[derive(Debug)]
struct TooLong;

impl fmt::Display for TooLong {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the result is too long")
    }
}

impl std::error::Error for TooLong {}

/// Whether a result was not written because it is longer than its client may get.
pub(crate) fn is_too_long(error: &Error) -> bool {
    error.downcast_ref::<TooLong>().is_some()
}

/// Writes what a script returned, for the client of `invocation`; the script itself spoke `script` last.
pub(crate) fn write(out: &mut Vec<u8>, value: &Value, invocation: &Invocation<'_>, script: Resp) -> Result<()> {
    let bytes_max = out.len().saturating_add(invocation.reply_bytes_max);
    Writer { out, bytes_max, client: invocation.client, script, work: Work::begin()? }.value(value, 0)
}

struct Writer<'a> {
    out: &'a mut Vec<u8>,
    /// What `out` may hold. One string may stand in a result many times, so each piece is measured before it is written.
    bytes_max: usize,
    client: Resp,
    script: Resp,
    work: Work,
}

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        if bytes.len() > self.bytes_max.saturating_sub(self.out.len()) {
            return Err(Error::external(TooLong));
        }
        self.work.of(bytes.len())?;
        self.out.extend_from_slice(bytes);
        Ok(())
    }

    fn head(&mut self, kind: u8, number: i64) -> Result<()> {
        self.put(&[kind])?;
        // A few bytes more or less are no matter.
        push_decimal(self.out, number);
        self.put(b"\r\n")
    }

    fn bulk(&mut self, bytes: &[u8]) -> Result<()> {
        self.head(b'$', bytes.len() as i64)?;
        self.put(bytes)?;
        self.put(b"\r\n")
    }

    /// A line break would be read as the end of the reply.
    fn line(&mut self, kind: u8, text: &[u8]) -> Result<()> {
        self.put(&[kind])?;
        self.one_line(text)
    }

    fn one_line(&mut self, text: &[u8]) -> Result<()> {
        let start = self.out.len();
        self.put(text)?;
        let breaks = self.out[start..].iter_mut().filter(|byte| matches!(**byte, b'\r' | b'\n'));
        breaks.for_each(|byte| *byte = b' ');
        self.put(b"\r\n")
    }

    fn nil(&mut self) -> Result<()> {
        self.put(if self.client == Resp::Three { b"_\r\n" } else { b"$-1\r\n" })
    }

    fn boolean(&mut self, yes: bool) -> Result<()> {
        self.put(match (self.script, self.client, yes) {
            (Resp::Three, Resp::Three, true) => b"#t\r\n",
            (Resp::Three, Resp::Three, false) => b"#f\r\n",
            (Resp::Three, Resp::Two, false) => b":0\r\n",
            (_, _, true) => b":1\r\n",
            (Resp::Two, _, false) => return self.nil(),
        })
    }

    fn value(&mut self, value: &Value, depth: usize) -> Result<()> {
        self.work.step()?;
        match value {
            Value::String(text) => self.bulk(&text.as_bytes()),
            Value::Integer(number) => self.head(b':', *number),
            Value::Number(number) => self.head(b':', truncated(*number)),
            Value::Boolean(yes) => self.boolean(*yes),
            Value::Table(_) if depth >= DEPTH_MAX => self.line(b'-', b"ERR reached lua stack limit"),
            Value::Table(table) => self.table(table, depth),
            _ => self.nil(),
        }
    }

    fn table(&mut self, table: &Table, depth: usize) -> Result<()> {
        // One look at the keys tells plain arrays, most of all results, from the tables with a meaning.
        if !may_have_fields(table)? {
            return self.array(table, depth);
        }
        if let Value::String(text) = table.raw_get("err")? {
            self.line(b'-', &text.as_bytes())
        } else if let Value::String(text) = table.raw_get("ok")? {
            self.line(b'+', &text.as_bytes())
        } else if let Some(number) = number_of(&table.raw_get("double")?) {
            let text = shortest(number);
            if self.client == Resp::Three { self.line(b',', text.as_bytes()) } else { self.bulk(text.as_bytes()) }
        } else if let Value::Table(map) = table.raw_get("map")? {
            self.pairs(&map, depth, true)
        } else if let Value::Table(set) = table.raw_get("set")? {
            self.pairs(&set, depth, false)
        } else if let Value::String(text) = table.raw_get("big_number")? {
            self.big_number(&text.as_bytes())
        } else if let Value::Table(verbatim) = table.raw_get("verbatim_string")?
            && let Value::String(text) = verbatim.raw_get("string")?
            && let Value::String(format) = verbatim.raw_get("format")?
        {
            self.verbatim(&format.as_bytes(), &text.as_bytes())
        } else {
            self.array(table, depth)
        }
    }

    fn array(&mut self, table: &Table, depth: usize) -> Result<()> {
        let start = self.out.len();
        let mut count = 0;
        loop {
            let value: Value = table.raw_get(count + 1)?;
            if matches!(value, Value::Nil) {
                break;
            }
            self.value(&value, depth + 1)?;
            count += 1;
        }
        self.insert_head(start, b'*', count)
    }

    /// The head of a collection whose members are written already: only then is their count known.
    fn insert_head(&mut self, at: usize, kind: u8, count: usize) -> Result<()> {
        let head = format!("{}{count}\r\n", char::from(kind));
        let end = self.out.len();
        // The members move, once for each collection they are in.
        self.work.of(end - at)?;
        self.put(head.as_bytes())?;
        self.out.copy_within(at..end, at + head.len());
        self.out[at..at + head.len()].copy_from_slice(head.as_bytes());
        Ok(())
    }

    /// A map with its values, or a set without.
    fn pairs(&mut self, table: &Table, depth: usize, with_values: bool) -> Result<()> {
        let start = self.out.len();
        let mut count = 0;
        for pair in table.pairs::<Value, Value>() {
            let (key, value) = pair?;
            self.value(&key, depth + 1)?;
            if with_values {
                self.value(&value, depth + 1)?;
            }
            count += 1;
        }
        let (kind, count) = match (self.client, with_values) {
            (Resp::Three, true) => (b'%', count),
            (Resp::Three, false) => (b'~', count),
            (Resp::Two, true) => (b'*', count * 2),
            (Resp::Two, false) => (b'*', count),
        };
        self.insert_head(start, kind, count)
    }

    fn big_number(&mut self, text: &[u8]) -> Result<()> {
        if self.client == Resp::Three {
            return self.line(b'(', text);
        }
        self.head(b'$', text.len() as i64)?;
        self.one_line(text)
    }

    fn verbatim(&mut self, format: &[u8], text: &[u8]) -> Result<()> {
        if self.client == Resp::Two {
            return self.bulk(text);
        }
        let mut kind = [b' ', b' ', b' ', b':'];
        let known = format.len().min(3);
        kind[..known].copy_from_slice(&format[..known]);
        self.head(b'=', (text.len() + kind.len()) as i64)?;
        self.put(&kind)?;
        self.put(text)?;
        self.put(b"\r\n")
    }
}

/// Whether a table could have a field that is a string: certainly not if every one of its few keys is none.
fn may_have_fields(table: &Table) -> Result<bool> {
    // Beyond this, asking for each field is cheaper.
    const FEW: usize = 4;
    if table.raw_len() > FEW {
        return Ok(true);
    }
    for (seen, pair) in table.pairs::<Value, Value>().enumerate() {
        let (key, _) = pair?;
        if seen > FEW || matches!(key, Value::String(_)) {
            return Ok(true);
        }
    }
    Ok(false)
}
