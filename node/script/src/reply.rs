//! Values of a script as replies, and replies as values.
//!
//! What a command answered arrives as RESP bytes and becomes Lua values; what a script returns becomes RESP bytes, as
//! <https://valkey.io/topics/lua-api/> tells.

use mlua::{Lua, Result, Table, Value};

use crate::arguments::number_of;
use crate::host::Resp;
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
    let mut reader = Reader { lua, bytes, at: 0 };
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

/// Writes what a script returned, for a client that speaks `client`; the script itself spoke `script` last.
pub(crate) fn write(out: &mut Vec<u8>, value: &Value, client: Resp, script: Resp) -> Result<()> {
    Writer { out, client, script }.value(value, 0)
}

struct Writer<'a> {
    out: &'a mut Vec<u8>,
    client: Resp,
    script: Resp,
}

impl Writer<'_> {
    fn head(&mut self, kind: u8, number: i64) {
        self.out.push(kind);
        push_decimal(self.out, number);
        self.out.extend_from_slice(b"\r\n");
    }

    fn bulk(&mut self, bytes: &[u8]) {
        self.head(b'$', bytes.len() as i64);
        self.out.extend_from_slice(bytes);
        self.out.extend_from_slice(b"\r\n");
    }

    /// A line break would be read as the end of the reply.
    fn line(&mut self, kind: u8, text: &[u8]) {
        self.out.push(kind);
        self.out.extend(text.iter().map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { *byte }));
        self.out.extend_from_slice(b"\r\n");
    }

    fn nil(&mut self) {
        self.out.extend_from_slice(if self.client == Resp::Three { b"_\r\n" } else { b"$-1\r\n" });
    }

    fn boolean(&mut self, yes: bool) {
        let text: &[u8] = match (self.script, self.client, yes) {
            (Resp::Three, Resp::Three, true) => b"#t\r\n",
            (Resp::Three, Resp::Three, false) => b"#f\r\n",
            (Resp::Three, Resp::Two, false) => b":0\r\n",
            (_, _, true) => b":1\r\n",
            (Resp::Two, _, false) => return self.nil(),
        };
        self.out.extend_from_slice(text);
    }

    fn value(&mut self, value: &Value, depth: usize) -> Result<()> {
        match value {
            Value::String(text) => self.bulk(&text.as_bytes()),
            Value::Integer(number) => self.head(b':', *number),
            Value::Number(number) => self.head(b':', truncated(*number)),
            Value::Boolean(yes) => self.boolean(*yes),
            Value::Table(_) if depth >= DEPTH_MAX => self.line(b'-', b"ERR reached lua stack limit"),
            Value::Table(table) => self.table(table, depth)?,
            _ => self.nil(),
        }
        Ok(())
    }

    fn table(&mut self, table: &Table, depth: usize) -> Result<()> {
        // One look at the keys tells plain arrays, most of all results, from the tables with a meaning.
        if !may_have_fields(table)? {
            return self.array(table, depth);
        }
        if let Value::String(text) = table.raw_get("err")? {
            self.line(b'-', &text.as_bytes());
        } else if let Value::String(text) = table.raw_get("ok")? {
            self.line(b'+', &text.as_bytes());
        } else if let Some(number) = number_of(&table.raw_get("double")?) {
            let text = shortest(number);
            if self.client == Resp::Three { self.line(b',', text.as_bytes()) } else { self.bulk(text.as_bytes()) }
        } else if let Value::Table(map) = table.raw_get("map")? {
            self.pairs(&map, depth, true)?;
        } else if let Value::Table(set) = table.raw_get("set")? {
            self.pairs(&set, depth, false)?;
        } else if let Value::String(text) = table.raw_get("big_number")? {
            self.big_number(&text.as_bytes());
        } else if let Value::Table(verbatim) = table.raw_get("verbatim_string")?
            && let Value::String(text) = verbatim.raw_get("string")?
            && let Value::String(format) = verbatim.raw_get("format")?
        {
            self.verbatim(&format.as_bytes(), &text.as_bytes());
        } else {
            self.array(table, depth)?;
        }
        Ok(())
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
        self.insert_head(start, b'*', count);
        Ok(())
    }

    /// The head of a collection whose members are written already: only then is their count known.
    fn insert_head(&mut self, at: usize, kind: u8, count: usize) {
        let head = format!("{}{count}\r\n", char::from(kind));
        let end = self.out.len();
        self.out.extend_from_slice(head.as_bytes());
        self.out.copy_within(at..end, at + head.len());
        self.out[at..at + head.len()].copy_from_slice(head.as_bytes());
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
        self.insert_head(start, kind, count);
        Ok(())
    }

    fn big_number(&mut self, text: &[u8]) {
        if self.client == Resp::Three {
            self.line(b'(', text);
        } else {
            let clean: Vec<u8> =
                text.iter().map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { *byte }).collect();
            self.bulk(&clean);
        }
    }

    fn verbatim(&mut self, format: &[u8], text: &[u8]) {
        if self.client == Resp::Two {
            return self.bulk(text);
        }
        let mut kind = [b' '; 3];
        let known = format.len().min(3);
        kind[..known].copy_from_slice(&format[..known]);
        self.head(b'=', text.len() as i64 + 4);
        self.out.extend_from_slice(&kind);
        self.out.push(b':');
        self.out.extend_from_slice(text);
        self.out.extend_from_slice(b"\r\n");
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
