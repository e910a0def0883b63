//! Values written as JSON.

use mlua::{Lua, LuaString, Result, Table, Value};

use super::{DEPTH_MAX, Invalid, Options};
use crate::arguments::{number_of, type_name};
use crate::budget::{Buffer, Held};
use crate::number::format_g;
use crate::raise::raise;

pub(super) fn encode(lua: &Lua, options: &Options, arrays: &Table, value: &Value) -> Result<LuaString> {
    let mut writer = Writer { lua, options, arrays, out: Buffer::new(lua)?, open: Vec::new() };
    writer.run(value)?;
    writer.out.into_string()
}

struct Writer<'a> {
    lua: &'a Lua,
    options: &'a Options,
    arrays: &'a Table,
    out: Buffer<'a>,
    /// The tables that are being written, outermost first. No recursion: the thread's stack is not a script's to fill.
    open: Vec<Open>,
}

/// A table that is being written.
enum Open {
    Array { table: Table, next: u64, length: u64 },
    Object { rest: std::vec::IntoIter<(Value, Value)>, is_first: bool, _held: Held },
}

impl Writer<'_> {
    fn run(&mut self, value: &Value) -> Result<()> {
        self.value(value)?;
        while let Some(mut open) = self.open.pop() {
            self.out.work.step()?;
            let Some(value) = self.next(&mut open)? else { continue };
            self.open.push(open);
            self.value(&value)?;
        }
        Ok(())
    }

    /// The next value of a table, with all that stands before it; what closes the table if there is none.
    fn next(&mut self, open: &mut Open) -> Result<Option<Value>> {
        match open {
            Open::Array { next, length, .. } if *next > *length => self.out.push(b']')?,
            Open::Array { table, next, .. } => {
                if *next > 1 {
                    self.out.push(b',')?;
                }
                *next += 1;
                return table.raw_get(*next - 1).map(Some);
            }
            Open::Object { rest, is_first, .. } => {
                if let Some((key, value)) = rest.next() {
                    if !std::mem::take(is_first) {
                        self.out.push(b',')?;
                    }
                    self.key(&key)?;
                    return Ok(Some(value));
                }
                self.out.push(b'}')?;
            }
        }
        Ok(None)
    }

    fn key(&mut self, key: &Value) -> Result<()> {
        match key {
            Value::String(text) => self.text(&text.as_bytes())?,
            Value::Integer(_) | Value::Number(_) => {
                self.out.push(b'"')?;
                self.number(key)?;
                self.out.push(b'"')?;
            }
            other => return Err(self.refused(other, "table key must be a number or string")),
        }
        self.out.push(b':')
    }

    fn value(&mut self, value: &Value) -> Result<()> {
        match value {
            Value::String(text) => self.text(&text.as_bytes())?,
            Value::Integer(_) | Value::Number(_) => self.number(value)?,
            Value::Boolean(yes) => self.out.extend(if *yes { b"true" } else { b"false" })?,
            Value::Nil => self.out.extend(b"null")?,
            Value::LightUserData(pointer) if pointer.0.is_null() => self.out.extend(b"null")?,
            Value::Table(table) => self.table(table)?,
            other => return Err(self.refused(other, "type not supported")),
        }
        Ok(())
    }

    fn refused(&self, value: &Value, reason: &str) -> mlua::Error {
        raise(self.lua, format!("Cannot serialise {}: {reason}", type_name(value)))
    }

    fn number(&mut self, value: &Value) -> Result<()> {
        let number = number_of(value).unwrap_or_default();
        if !number.is_finite() {
            match self.options.encode_invalid {
                Invalid::Write => {}
                Invalid::Null => return self.out.extend(b"null"),
                Invalid::Refuse => return Err(self.refused(value, "must not be NaN or Inf")),
            }
        }
        if number.is_nan() {
            return self.out.extend(b"nan");
        }
        self.out.extend(format_g(number, self.options.number_precision as usize).as_bytes())
    }

    fn text(&mut self, text: &[u8]) -> Result<()> {
        self.out.push(b'"')?;
        for byte in text {
            let escape: &[u8] = match byte {
                b'"' => b"\\\"",
                b'\\' => b"\\\\",
                b'/' => b"\\/",
                b'\x08' => b"\\b",
                b'\t' => b"\\t",
                b'\n' => b"\\n",
                b'\x0c' => b"\\f",
                b'\r' => b"\\r",
                0..=31 | 127 => {
                    self.out.extend(format!("\\u{byte:04x}").as_bytes())?;
                    continue;
                }
                _ => {
                    self.out.push(*byte)?;
                    continue;
                }
            };
            self.out.extend(escape)?;
        }
        self.out.push(b'"')
    }

    fn table(&mut self, table: &Table) -> Result<()> {
        let depth = self.open.len() + 1;
        if depth > DEPTH_MAX.min(self.options.encode_depth_max as usize) {
            return Err(raise(self.lua, format!("Cannot serialise, excessive nesting ({depth})")));
        }
        let is_marked = table.metatable().is_some_and(|metatable| metatable == *self.arrays);
        match self.array_length(table)? {
            Some(length) if length > 0 || is_marked => {
                self.out.push(b'[')?;
                self.open.push(Open::Array { table: table.clone(), next: 1, length });
            }
            _ => {
                self.out.push(b'{')?;
                let (pairs, held) = self.pairs(table)?;
                self.open.push(Open::Object { rest: pairs.into_iter(), is_first: true, _held: held });
            }
        }
        Ok(())
    }

    /// The pairs of a table. One table may lie open many times, within itself: so what is held of each counts.
    fn pairs(&mut self, table: &Table) -> Result<(Vec<(Value, Value)>, Held)> {
        const PAIR_BYTES: usize = size_of::<(Value, Value)>();
        const FEWEST: usize = 4;
        let (mut pairs, mut held) = (Vec::new(), Held::default());
        for pair in table.pairs::<Value, Value>() {
            if pairs.len() == pairs.capacity() {
                let more = pairs.len().max(FEWEST);
                held.more(self.lua, more * PAIR_BYTES)?;
                pairs.reserve_exact(more);
            }
            pairs.push(pair?);
            self.out.work.step()?;
        }
        Ok((pairs, held))
    }

    /// The largest index of an array; `None` if the table is none, or too sparse to be written as one.
    fn array_length(&mut self, table: &Table) -> Result<Option<u64>> {
        let (mut largest, mut items) = (0.0, 0.0);
        for pair in table.pairs::<Value, Value>() {
            let (key, _) = pair?;
            self.out.work.step()?;
            let Some(index) = number_of(&key).filter(|index| *index >= 1.0 && index.floor() == *index) else {
                return Ok(None);
            };
            largest = f64::max(largest, index);
            items += 1.0;
        }
        let ratio = self.options.sparse_ratio as f64;
        if ratio > 0.0 && largest > items * ratio && largest > self.options.sparse_safe as f64 {
            if !self.options.sparse_convert {
                return Err(self.refused(&Value::Table(table.clone()), "excessively sparse array"));
            }
            return Ok(None);
        }
        Ok(Some(largest as u64))
    }
}
