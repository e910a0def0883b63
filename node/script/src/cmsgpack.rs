//! `cmsgpack`: MessagePack.

use mlua::{Lua, MultiValue, Result, Table, Value};

use crate::arguments::{Arguments, number_of};
use crate::budget::{Buffer, Work};
use crate::raise::{raise, raise_bare};

/// Tables within tables that are written; deeper ones become nil.
const PACK_DEPTH_MAX: usize = 16;
/// Tables within tables that are read.
const UNPACK_DEPTH_MAX: usize = 256;
/// Values one unpack may return: the machine's stack holds no more.
const RESULTS_MAX: usize = 7_990;

/// The library.
pub(crate) fn library(lua: &Lua) -> Result<Table> {
    let library = lua.create_table()?;
    library.raw_set("pack", lua.create_function(pack)?)?;
    library.raw_set("unpack", lua.create_function(unpack)?)?;
    library.raw_set("unpack_one", lua.create_function(unpack_one)?)?;
    library.raw_set("unpack_limit", lua.create_function(unpack_limit)?)?;
    library.raw_set("_NAME", "cmsgpack")?;
    library.raw_set("_VERSION", "lua-cmsgpack 0.4.0")?;
    library.raw_set("_DESCRIPTION", "MessagePack implementation for Lua")?;
    Ok(library)
}

fn pack(lua: &Lua, values: MultiValue) -> Result<mlua::LuaString> {
    if values.is_empty() {
        return Err(Arguments::new(lua, "pack", &values).error(0, "MessagePack pack needs input."));
    }
    let mut out = Buffer::new(lua)?;
    for value in &values {
        write(&mut out, value, 0)?;
    }
    out.into_string()
}

fn write(out: &mut Buffer<'_>, value: &Value, depth: usize) -> Result<()> {
    out.work.step()?;
    match value {
        Value::String(text) => {
            let bytes = text.as_bytes();
            let head = [(31, 0xa0), (0xff, 0xd9), (0xffff, 0xda), (0xffff_ffff, 0xdb)];
            write_length(out, bytes.len(), head)?;
            out.extend(&bytes)
        }
        Value::Boolean(yes) => out.push(if *yes { 0xc3 } else { 0xc2 }),
        Value::Integer(_) | Value::Number(_) => write_number(out, number_of(value).unwrap_or_default()),
        Value::Table(table) if depth < PACK_DEPTH_MAX => write_table(out, table, depth),
        _ => out.push(0xc0),
    }
}

/// The head of something `length` long: the first form it fits into; the smallest one holds the length itself.
fn write_length(out: &mut Buffer<'_>, length: usize, forms: [(usize, u8); 4]) -> Result<()> {
    match forms.iter().position(|(most, _)| length <= *most && *most > 0) {
        Some(0) => out.push(forms[0].1 | length as u8),
        Some(1) => out.extend(&[forms[1].1, length as u8]),
        Some(2) => {
            out.push(forms[2].1)?;
            out.extend(&(length as u16).to_be_bytes())
        }
        _ => {
            out.push(forms[3].1)?;
            out.extend(&(length as u32).to_be_bytes())
        }
    }
}

fn write_number(out: &mut Buffer<'_>, number: f64) -> Result<()> {
    let whole = crate::number::truncated(number);
    if number.is_infinite() || whole as f64 != number {
        let single = number as f32;
        if f64::from(single) == number {
            out.push(0xca)?;
            return out.extend(&single.to_be_bytes());
        }
        out.push(0xcb)?;
        return out.extend(&number.to_be_bytes());
    }
    let bytes = whole.to_be_bytes();
    let (head, size): (u8, usize) = match whole {
        -32..=127 => return out.push(whole as u8),
        128..=0xff => (0xcc, 1),
        0x100..=0xffff => (0xcd, 2),
        0x1_0000..=0xffff_ffff => (0xce, 4),
        0x1_0000_0000.. => (0xcf, 8),
        -128..=-33 => (0xd0, 1),
        -32_768..=-129 => (0xd1, 2),
        -2_147_483_648..=-32_769 => (0xd2, 4),
        _ => (0xd3, 8),
    };
    out.push(head)?;
    out.extend(&bytes[8 - size..])
}

fn write_table(out: &mut Buffer<'_>, table: &Table, depth: usize) -> Result<()> {
    if let Some(length) = array_length(table, &mut out.work)? {
        write_length(out, length, [(15, 0x90), (0, 0), (0xffff, 0xdc), (0xffff_ffff, 0xdd)])?;
        for index in 1..=length {
            write(out, &table.raw_get(index)?, depth + 1)?;
        }
        return Ok(());
    }
    let mut count = 0;
    for pair in table.pairs::<Value, Value>() {
        pair?;
        out.work.step()?;
        count += 1;
    }
    write_length(out, count, [(15, 0x80), (0, 0), (0xffff, 0xde), (0xffff_ffff, 0xdf)])?;
    for pair in table.pairs::<Value, Value>() {
        let (key, value) = pair?;
        write(out, &key, depth + 1)?;
        write(out, &value, depth + 1)?;
    }
    Ok(())
}

/// How many values an array holds; `None` if the table is none.
fn array_length(table: &Table, work: &mut Work) -> Result<Option<usize>> {
    let (mut count, mut last) = (0, 0.0);
    for pair in table.pairs::<Value, Value>() {
        let (key, _) = pair?;
        work.step()?;
        let Some(index) = number_of(&key).filter(|index| *index >= 1.0 && index.fract() == 0.0) else {
            return Ok(None);
        };
        count += 1;
        last = f64::max(last, index);
    }
    Ok((last == count as f64).then_some(count))
}

fn unpack(lua: &Lua, values: MultiValue) -> Result<MultiValue> {
    unpack_some(&Arguments::new(lua, "unpack", &values), 0, 0)
}

fn unpack_one(lua: &Lua, values: MultiValue) -> Result<MultiValue> {
    let arguments = Arguments::new(lua, "unpack_one", &values);
    let offset = arguments.integer_or(2, 0)?;
    unpack_some(&arguments, 1, offset)
}

fn unpack_limit(lua: &Lua, values: MultiValue) -> Result<MultiValue> {
    let arguments = Arguments::new(lua, "unpack_limit", &values);
    let limit = arguments.integer_or(2, 1)?;
    let offset = arguments.integer_or(3, 0)?;
    unpack_some(&arguments, limit, offset)
}

/// Everything if both numbers are zero; else at most `limit` values from `offset` on, after the offset of the next.
fn unpack_some(arguments: &Arguments<'_>, limit: i64, offset: i64) -> Result<MultiValue> {
    let lua = arguments.lua;
    let text = arguments.string(1)?;
    let data = text.as_bytes();
    let (Ok(limit), Ok(start)) = (usize::try_from(limit), usize::try_from(offset)) else {
        let length = data.len();
        return Err(raise(lua, format!("Invalid request to unpack with offset of {offset} and limit of {length}.")));
    };
    if start > data.len() {
        return Err(raise(lua, format!("Start offset {offset} greater than input length {}.", data.len())));
    }
    let takes_all = limit == 0 && start == 0;
    let mut reader = Reader { lua, data: &data, at: start, work: Work::begin()? };
    let mut results = Vec::new();
    while reader.at < data.len() && (takes_all || results.len() < limit) {
        if results.len() >= RESULTS_MAX {
            return Err(raise(lua, "too many return values at once"));
        }
        results.push(reader.value(0)?);
    }
    if !takes_all {
        let next = if reader.at == data.len() { -1 } else { reader.at as i64 };
        results.insert(0, Value::Integer(next));
    }
    Ok(MultiValue::from_vec(results))
}

struct Reader<'a> {
    lua: &'a Lua,
    data: &'a [u8],
    at: usize,
    work: Work,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let taken = self.at.checked_add(count).and_then(|end| self.data.get(self.at..end));
        let taken = taken.ok_or_else(|| raise(self.lua, "Missing bytes in input."))?;
        self.work.of(count)?;
        self.at += count;
        Ok(taken)
    }

    fn unsigned(&mut self, size: usize) -> Result<u64> {
        Ok(self.take(size)?.iter().fold(0, |all, byte| all << 8 | u64::from(*byte)))
    }

    fn signed(&mut self, size: usize) -> Result<i64> {
        let unused = 64 - 8 * size as u32;
        Ok((self.unsigned(size)? << unused) as i64 >> unused)
    }

    fn text(&mut self, length: usize) -> Result<Value> {
        Ok(Value::String(self.lua.create_string(self.take(length)?)?))
    }

    fn value(&mut self, depth: usize) -> Result<Value> {
        let head = self.take(1)?[0];
        self.work.step()?;
        Ok(match head {
            0x00..=0x7f => Value::Integer(i64::from(head)),
            0xe0..=0xff => Value::Integer(i64::from(head as i8)),
            0x80..=0x8f => self.map(usize::from(head & 15), depth)?,
            0x90..=0x9f => self.array(usize::from(head & 15), depth)?,
            0xa0..=0xbf => self.text(usize::from(head & 31))?,
            0xc0 => Value::Nil,
            0xc2 | 0xc3 => Value::Boolean(head == 0xc3),
            0xca => Value::Number(f64::from(f32::from_bits(self.unsigned(4)? as u32))),
            0xcb => Value::Number(f64::from_bits(self.unsigned(8)?)),
            0xcc..=0xcf => Value::Number(self.unsigned(1 << (head - 0xcc))? as f64),
            0xd0..=0xd3 => Value::Number(self.signed(1 << (head - 0xd0))? as f64),
            0xd9..=0xdb => {
                let length = self.unsigned(1 << (head - 0xd9))? as usize;
                self.text(length)?
            }
            0xdc | 0xdd => {
                let count = self.unsigned(2 << (head - 0xdc))? as usize;
                self.array(count, depth)?
            }
            0xde | 0xdf => {
                let count = self.unsigned(2 << (head - 0xde))? as usize;
                self.map(count, depth)?
            }
            _ => return Err(raise(self.lua, "Bad data format in input.")),
        })
    }

    fn deeper(&self, depth: usize, within: &str) -> Result<usize> {
        if depth < UNPACK_DEPTH_MAX {
            return Ok(depth + 1);
        }
        Err(raise(self.lua, format!("stack overflow (in function mp_decode_to_lua_{within})")))
    }

    fn array(&mut self, count: usize, depth: usize) -> Result<Value> {
        let depth = self.deeper(depth, "array")?;
        let table = self.lua.create_table()?;
        for index in 1..=count {
            let value = self.value(depth)?;
            table.raw_set(index, value)?;
        }
        Ok(Value::Table(table))
    }

    fn map(&mut self, count: usize, depth: usize) -> Result<Value> {
        let depth = self.deeper(depth, "hash")?;
        let table = self.lua.create_table()?;
        for _ in 0..count {
            let key = self.value(depth)?;
            let value = self.value(depth)?;
            match key {
                Value::Nil => return Err(raise_bare("table index is nil")),
                Value::Number(number) if number.is_nan() => return Err(raise_bare("table index is NaN")),
                key => table.raw_set(key, value)?,
            }
        }
        Ok(Value::Table(table))
    }
}
