//! `bit`: operations on 32 bits, as LuaBitOp has them.

use mlua::{Lua, MultiValue, Result, Table, Value};

use crate::arguments::Arguments;

/// The library.
pub(crate) fn library(lua: &Lua) -> Result<Table> {
    let library = lua.create_table()?;
    unary(lua, &library, "tobit", |bits| bits)?;
    unary(lua, &library, "bnot", |bits| !bits)?;
    unary(lua, &library, "bswap", u32::swap_bytes)?;
    folded(lua, &library, "band", |left, right| left & right)?;
    folded(lua, &library, "bor", |left, right| left | right)?;
    folded(lua, &library, "bxor", |left, right| left ^ right)?;
    shifted(lua, &library, "lshift", u32::wrapping_shl)?;
    shifted(lua, &library, "rshift", u32::wrapping_shr)?;
    shifted(lua, &library, "arshift", |bits, by| (bits as i32).wrapping_shr(by) as u32)?;
    shifted(lua, &library, "rol", u32::rotate_left)?;
    shifted(lua, &library, "ror", u32::rotate_right)?;
    library.raw_set("tohex", lua.create_function(tohex)?)?;
    Ok(library)
}

/// The bits of a number: rounded to a whole one, cut to 32 bits.
fn bits(arguments: &Arguments<'_>, index: usize) -> Result<u32> {
    // Adding 1.5 * 2^52 leaves the whole number in the low bits of the double.
    const SHIFT: f64 = 6_755_399_441_055_744.0;
    Ok((arguments.number(index)? + SHIFT).to_bits() as u32)
}

fn number(bits: u32) -> Value {
    Value::Integer(i64::from(bits as i32))
}

fn unary(lua: &Lua, library: &Table, name: &'static str, apply: fn(u32) -> u32) -> Result<()> {
    let function = lua.create_function(move |lua, values: MultiValue| {
        Ok(number(apply(bits(&Arguments::new(lua, name, &values), 1)?)))
    })?;
    library.raw_set(name, function)
}

fn folded(lua: &Lua, library: &Table, name: &'static str, apply: fn(u32, u32) -> u32) -> Result<()> {
    let function = lua.create_function(move |lua, values: MultiValue| {
        let arguments = Arguments::new(lua, name, &values);
        let mut all = bits(&arguments, 1)?;
        for index in 2..=arguments.count() {
            all = apply(all, bits(&arguments, index)?);
        }
        Ok(number(all))
    })?;
    library.raw_set(name, function)
}

fn shifted(lua: &Lua, library: &Table, name: &'static str, apply: fn(u32, u32) -> u32) -> Result<()> {
    let function = lua.create_function(move |lua, values: MultiValue| {
        let arguments = Arguments::new(lua, name, &values);
        let value = bits(&arguments, 1)?;
        Ok(number(apply(value, bits(&arguments, 2)? & 31)))
    })?;
    library.raw_set(name, function)
}

fn tohex(lua: &Lua, values: MultiValue) -> Result<String> {
    let arguments = Arguments::new(lua, "tohex", &values);
    let value = bits(&arguments, 1)?;
    let digits = if arguments.is_none(2) { 8 } else { bits(&arguments, 2)? as i32 };
    let kept = digits.unsigned_abs().min(8) as usize;
    let all = if digits < 0 { format!("{value:08X}") } else { format!("{value:08x}") };
    Ok(all[8 - kept..].to_owned())
}
