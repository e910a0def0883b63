//! `struct`: values packed into strings and back, by a format.

use mlua::{Lua, MultiValue, Result, Table, Value};

use crate::arguments::{Arguments, number_of};
use crate::budget::{Buffer, Work};
use crate::raise::raise;

/// Bytes of the largest integer.
const INTEGER_BYTES_MAX: usize = 32;
/// The alignment of `!` without a number.
const ALIGNMENT_MAX: usize = 8;
/// Padding and sizes of a format are bounded by this; a string can hold no more.
const TOTAL_MAX: usize = 512 * 1024 * 1024;
/// Values one unpack may return: the machine's stack holds no more.
const RESULTS_MAX: usize = 7_990;

/// The library.
pub(crate) fn library(lua: &Lua) -> Result<Table> {
    let library = lua.create_table()?;
    library.raw_set("pack", lua.create_function(pack)?)?;
    library.raw_set("unpack", lua.create_function(unpack)?)?;
    library.raw_set("size", lua.create_function(size)?)?;
    Ok(library)
}

/// A walk along a format.
struct Format<'a> {
    arguments: &'a Arguments<'a>,
    text: &'a [u8],
    at: usize,
    is_little: bool,
    alignment: usize,
    work: Work,
}

impl<'a> Format<'a> {
    fn new(arguments: &'a Arguments<'a>, text: &'a [u8]) -> Result<Format<'a>> {
        let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
        let (text, is_little) = (&text[..end], cfg!(target_endian = "little"));
        Ok(Format { arguments, text, at: 0, is_little, alignment: 1, work: Work::begin()? })
    }

    /// The next option and its size in bytes.
    fn next(&mut self) -> Result<Option<(u8, usize)>> {
        let Some(option) = self.text.get(self.at).copied() else { return Ok(None) };
        self.at += 1;
        self.work.step()?;
        let size = match option {
            b'b' | b'B' | b'x' => 1,
            b'h' | b'H' => 2,
            b'f' => 4,
            b'l' | b'L' | b'T' | b'd' => 8,
            b'c' => self.number(1)?,
            b'i' | b'I' => {
                let size = self.number(4)?;
                if size > INTEGER_BYTES_MAX {
                    let text = format!("integral size {size} is larger than limit of {INTEGER_BYTES_MAX}");
                    return Err(raise(self.arguments.lua, text));
                }
                size
            }
            _ => 0,
        };
        Ok(Some((option, size)))
    }

    fn number(&mut self, default: usize) -> Result<usize> {
        let mut number: Option<usize> = None;
        while let Some(digit) = self.text.get(self.at).copied().filter(u8::is_ascii_digit) {
            self.at += 1;
            let more = number.unwrap_or(0) * 10 + usize::from(digit - b'0');
            if more > i32::MAX as usize {
                return Err(raise(self.arguments.lua, "integral size overflow"));
            }
            number = Some(more);
        }
        Ok(number.unwrap_or(default))
    }

    /// Bytes to skip before an option of `size` bytes at `position`.
    fn padding(&self, position: usize, option: u8, size: usize) -> usize {
        if size == 0 || option == b'c' {
            return 0;
        }
        let alignment = size.min(self.alignment);
        if alignment <= 1 {
            return 0;
        }
        alignment.wrapping_sub(position & (alignment - 1)) & (alignment - 1)
    }

    /// An option that is no value.
    fn control(&mut self, option: u8) -> Result<()> {
        match option {
            b' ' => {}
            b'>' => self.is_little = false,
            b'<' => self.is_little = true,
            b'!' => {
                let alignment = self.number(ALIGNMENT_MAX)?;
                if !alignment.is_power_of_two() {
                    let text = format!("alignment {alignment} is not a power of 2");
                    return Err(raise(self.arguments.lua, text));
                }
                self.alignment = alignment;
            }
            _ => {
                let text = format!("invalid format option '{}'", char::from(option));
                return Err(self.arguments.error(1, &text));
            }
        }
        Ok(())
    }
}

fn is_integer(option: u8) -> bool {
    b"bBhHlLTiI".contains(&option)
}

fn pack(lua: &Lua, values: MultiValue) -> Result<mlua::LuaString> {
    let arguments = Arguments::new(lua, "pack", &values);
    let text = arguments.string(1)?;
    let text = text.as_bytes();
    let mut format = Format::new(&arguments, &text)?;
    let mut out = Buffer::new(lua)?;
    let mut next = 2;
    while let Some((option, size)) = format.next()? {
        let padding = format.padding(out.len(), option, size);
        if out.len().saturating_add(padding) > TOTAL_MAX {
            return Err(raise(lua, "resulting string too large"));
        }
        // No more than the largest integer has.
        out.extend(&[0; INTEGER_BYTES_MAX][..padding])?;
        match option {
            b'f' | b'd' | b'b' | b'B' | b'h' | b'H' | b'l' | b'L' | b'T' | b'i' | b'I' if next > arguments.count() => {
                return Err(arguments.error(next, "number expected, got nil"));
            }
            option if is_integer(option) => {
                put_integer(&mut out, arguments.number(next)?, size, format.is_little)?;
                next += 1;
            }
            b'x' => out.push(0)?,
            b'f' => {
                put(&mut out, (arguments.number(next)? as f32).to_le_bytes(), format.is_little)?;
                next += 1;
            }
            b'd' => {
                put(&mut out, arguments.number(next)?.to_le_bytes(), format.is_little)?;
                next += 1;
            }
            b'c' | b's' => {
                let bytes = arguments.string(next)?;
                next += 1;
                let bytes = bytes.as_bytes();
                let size = if size == 0 { bytes.len() } else { size };
                if bytes.len() < size {
                    return Err(arguments.error(next, "string too short"));
                }
                out.extend(&bytes[..size])?;
                if option == b's' {
                    out.push(0)?;
                }
            }
            _ => format.control(option)?,
        }
    }
    out.into_string()
}

fn put<const N: usize>(out: &mut Buffer<'_>, mut bytes: [u8; N], is_little: bool) -> Result<()> {
    if !is_little {
        bytes.reverse();
    }
    out.extend(&bytes)
}

fn put_integer(out: &mut Buffer<'_>, number: f64, size: usize, is_little: bool) -> Result<()> {
    let bits = if number < 0.0 { crate::number::truncated(number) as u64 } else { number as u64 };
    let start = out.len();
    let mut whole = [0; INTEGER_BYTES_MAX];
    whole[..8].copy_from_slice(&bits.to_le_bytes());
    out.extend(&whole[..size])?;
    if !is_little {
        out.since(start).reverse();
    }
    Ok(())
}

fn unpack(lua: &Lua, values: MultiValue) -> Result<MultiValue> {
    let arguments = Arguments::new(lua, "unpack", &values);
    let text = arguments.string(1)?;
    let text = text.as_bytes();
    let data = arguments.string(2)?;
    let data = data.as_bytes();
    let start = arguments.integer_or(3, 1)?;
    if start == 0 {
        return Err(arguments.error(3, "offset must be 1 or greater"));
    }
    let mut at = usize::try_from(start - 1).unwrap_or(usize::MAX);
    let mut format = Format::new(&arguments, &text)?;
    let mut results: Vec<Value> = Vec::new();
    let too_short = || arguments.error(2, "data string too short");
    let rest = |at: usize, size: usize| data.get(at..at.checked_add(size)?);
    while let Some((option, size)) = format.next()? {
        at = at.saturating_add(format.padding(at, option, size));
        let bytes = rest(at, size).ok_or_else(too_short)?;
        format.work.of(size)?;
        if results.len() >= RESULTS_MAX {
            return Err(raise(lua, "stack overflow (too many results)"));
        }
        let mut taken = size;
        match option {
            option if is_integer(option) => {
                let number = take_integer(bytes, format.is_little, option.is_ascii_lowercase());
                results.push(Value::Number(number));
            }
            b'x' => {}
            b'f' => results.push(Value::Number(f64::from(f32::from_le_bytes(taken_bytes(bytes, format.is_little))))),
            b'd' => results.push(Value::Number(f64::from_le_bytes(taken_bytes(bytes, format.is_little)))),
            b'c' => {
                let mut bytes = bytes;
                if size == 0 {
                    let Some(length) = results.last().and_then(number_of) else {
                        return Err(raise(lua, "format 'c0' needs a previous size"));
                    };
                    results.pop();
                    taken = if length >= 0.0 { length as usize } else { usize::MAX };
                    bytes = rest(at, taken).ok_or_else(too_short)?;
                    format.work.of(taken)?;
                }
                results.push(Value::String(lua.create_string(bytes)?));
            }
            b's' => {
                let tail = &data[at..];
                let Some(length) = tail.iter().position(|byte| *byte == 0) else {
                    return Err(raise(lua, "unfinished string in data"));
                };
                results.push(Value::String(lua.create_string(&tail[..length])?));
                taken = length + 1;
                format.work.of(taken)?;
            }
            _ => format.control(option)?,
        }
        at += taken;
    }
    results.push(Value::Number(at as f64 + 1.0));
    Ok(MultiValue::from_vec(results))
}

fn taken_bytes<const N: usize>(bytes: &[u8], is_little: bool) -> [u8; N] {
    let mut taken = [0; N];
    taken.copy_from_slice(bytes);
    if !is_little {
        taken.reverse();
    }
    taken
}

fn take_integer(bytes: &[u8], is_little: bool, is_signed: bool) -> f64 {
    let add = |all: u64, byte: &u8| all.wrapping_shl(8) | u64::from(*byte);
    let bits = if is_little { bytes.iter().rev().fold(0, add) } else { bytes.iter().fold(0, add) };
    if !is_signed {
        return bits as f64;
    }
    let sign = u64::MAX.wrapping_shl((bytes.len() as u32 * 8).wrapping_sub(1));
    (if bits & sign != 0 { bits | sign } else { bits }) as i64 as f64
}

fn size(lua: &Lua, values: MultiValue) -> Result<Value> {
    let arguments = Arguments::new(lua, "size", &values);
    let text = arguments.string(1)?;
    let text = text.as_bytes();
    let mut format = Format::new(&arguments, &text)?;
    let mut total: usize = 0;
    while let Some((option, size)) = format.next()? {
        total += format.padding(total, option, size);
        if option == b's' {
            return Err(arguments.error(1, "option 's' has no fixed size"));
        }
        if option == b'c' && size == 0 {
            return Err(arguments.error(1, "option 'c0' has no fixed size"));
        }
        if !option.is_ascii_alphanumeric() {
            format.control(option)?;
        }
        total = total.saturating_add(size);
    }
    Ok(Value::Number(total as f64))
}
