//! `cjson`: JSON, with the options, limits and error texts of lua-cjson.

mod decode;
mod encode;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mlua::{Lua, MultiValue, Result, Table, Value};

use crate::arguments::Arguments;

/// Values within values that are written or read, whatever a script sets.
const DEPTH_MAX: usize = 1000;

/// What a script may set; back to this before the next script.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    sparse_convert: bool,
    sparse_ratio: i64,
    sparse_safe: i64,
    encode_depth_max: i64,
    decode_depth_max: i64,
    number_precision: i64,
    keep_buffer: bool,
    encode_invalid: Invalid,
    decode_invalid: bool,
    decode_array_metatable: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Invalid {
    Refuse,
    Write,
    Null,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            sparse_convert: false,
            sparse_ratio: 2,
            sparse_safe: 10,
            encode_depth_max: 1000,
            decode_depth_max: 1000,
            number_precision: 14,
            keep_buffer: true,
            encode_invalid: Invalid::Refuse,
            decode_invalid: true,
            decode_array_metatable: false,
        }
    }
}

/// One library's options, shared by its functions.
pub(crate) type Shared = Arc<Mutex<Options>>;

fn locked(shared: &Shared) -> MutexGuard<'_, Options> {
    // Options are plain values: whoever panicked left none half set.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Forgets what a script set.
pub(crate) fn reset(shared: &Shared) {
    *locked(shared) = Options::default();
}

/// The library, with options of its own.
pub(crate) fn library(lua: &Lua, options: &Shared) -> Result<Table> {
    let library = lua.create_table()?;
    let array_metatable = lua.create_table()?;
    let shared = options.clone();
    let arrays = array_metatable.clone();
    let encode = lua.create_function(move |lua, values: MultiValue| {
        let arguments = Arguments::new(lua, "encode", &values);
        if arguments.count() != 1 {
            return Err(arguments.error(1, "expected 1 argument"));
        }
        let options = locked(&shared).clone();
        encode::encode(lua, &options, &arrays, &values[0])
    })?;
    let shared = options.clone();
    let arrays = array_metatable.clone();
    let decode = lua.create_function(move |lua, values: MultiValue| {
        let arguments = Arguments::new(lua, "decode", &values);
        if arguments.count() != 1 {
            return Err(arguments.error(1, "expected 1 argument"));
        }
        let options = locked(&shared).clone();
        decode::decode(lua, &options, &arrays, &arguments.string(1)?.as_bytes())
    })?;
    library.raw_set("encode", encode)?;
    library.raw_set("decode", decode)?;
    library.raw_set("array_mt", array_metatable)?;
    library.raw_set("null", Value::NULL)?;
    library.raw_set("_NAME", "cjson")?;
    library.raw_set("_VERSION", "2.1.0")?;
    settings(lua, &library, options)?;
    library.raw_set("new", lua.create_function(|lua, _: MultiValue| self::library(lua, &Shared::default()))?)?;
    Ok(library)
}

/// A function that reads and sets options: its name, how many arguments it takes, and what it does with them.
type Setting = (&'static str, usize, fn(&Arguments<'_>, &mut Options) -> Result<MultiValue>);

const SETTINGS: [Setting; 8] = [
    ("encode_sparse_array", 3, |arguments, options| {
        let convert = boolean(arguments, &mut options.sparse_convert)?;
        let ratio = integer(arguments, 2, &mut options.sparse_ratio, 0, i64::from(i32::MAX))?;
        let safe = integer(arguments, 3, &mut options.sparse_safe, 0, i64::from(i32::MAX))?;
        Ok(MultiValue::from_vec(vec![convert, ratio, safe]))
    }),
    ("encode_max_depth", 1, |arguments, options| {
        one(integer(arguments, 1, &mut options.encode_depth_max, 1, i64::from(i32::MAX)))
    }),
    ("decode_max_depth", 1, |arguments, options| {
        one(integer(arguments, 1, &mut options.decode_depth_max, 1, i64::from(i32::MAX)))
    }),
    ("encode_number_precision", 1, |arguments, options| {
        one(integer(arguments, 1, &mut options.number_precision, 1, 14))
    }),
    ("encode_keep_buffer", 1, |arguments, options| one(boolean(arguments, &mut options.keep_buffer))),
    ("decode_invalid_numbers", 1, |arguments, options| one(boolean(arguments, &mut options.decode_invalid))),
    ("decode_array_with_array_mt", 1, |arguments, options| {
        one(boolean(arguments, &mut options.decode_array_metatable))
    }),
    ("encode_invalid_numbers", 1, |arguments, options| {
        if !arguments.is_none(1) {
            options.encode_invalid = match choice(arguments, &["off", "on", "null"])? {
                0 => Invalid::Refuse,
                1 => Invalid::Write,
                _ => Invalid::Null,
            };
        }
        Ok(MultiValue::from_vec(vec![match options.encode_invalid {
            Invalid::Refuse => Value::Boolean(false),
            Invalid::Write => Value::Boolean(true),
            Invalid::Null => Value::String(arguments.lua.create_string("null")?),
        }]))
    }),
];

fn settings(lua: &Lua, library: &Table, options: &Shared) -> Result<()> {
    for (name, takes, apply) in SETTINGS {
        let shared = options.clone();
        let function = lua.create_function(move |lua, values: MultiValue| {
            let arguments = Arguments::new(lua, name, &values);
            if arguments.count() > takes {
                return Err(arguments.error(takes + 1, "found too many arguments"));
            }
            apply(&arguments, &mut locked(&shared))
        })?;
        library.raw_set(name, function)?;
    }
    Ok(())
}

fn one(value: Result<Value>) -> Result<MultiValue> {
    value.map(|value| MultiValue::from_vec(vec![value]))
}

fn integer(arguments: &Arguments<'_>, index: usize, option: &mut i64, least: i64, most: i64) -> Result<Value> {
    if !arguments.is_none(index) {
        let value = arguments.integer(index)?;
        if !(least..=most).contains(&value) {
            return Err(arguments.error(1, &format!("expected integer between {least} and {most}")));
        }
        *option = value;
    }
    Ok(Value::Integer(*option))
}

fn boolean(arguments: &Arguments<'_>, option: &mut bool) -> Result<Value> {
    if !arguments.is_none(1) {
        *option = choice(arguments, &["off", "on"])? == 1;
    }
    Ok(Value::Boolean(*option))
}

/// Which of the words the first argument is; a boolean is the first or the second.
fn choice(arguments: &Arguments<'_>, words: &[&str]) -> Result<usize> {
    if let Some(Value::Boolean(yes)) = arguments.get(1) {
        return Ok(usize::from(*yes));
    }
    let word = arguments.string(1)?;
    let word = word.as_bytes();
    words
        .iter()
        .position(|each| each.as_bytes() == &*word)
        .ok_or_else(|| arguments.error(1, &format!("invalid option '{}'", String::from_utf8_lossy(&word))))
}
