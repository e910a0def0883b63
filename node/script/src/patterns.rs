//! `string.find`, `match`, `gmatch`, `gsub` and `rep`, `upper`, `lower` and `reverse`: Lua's own, kept within bounds.
//!
//! The language's C versions recurse as deep as the pattern is long and take as long as backtracking likes. These
//! bound the depth, and ask now and then whether the script may go on.

mod matcher;

use std::sync::atomic::{AtomicUsize, Ordering};

use mlua::{Error, Lua, LuaString, MultiValue, Result, Table, Value};

use crate::arguments::{Arguments, text_of, type_name};
use crate::budget::{Buffer, Held, Work};
use crate::raise::raise;
use matcher::{Capture, Failure, Matcher};

/// The longest string a script can make, as long as the longest value.
pub(crate) const STRING_BYTES_MAX: usize = 512 * 1024 * 1024;

/// Puts the functions into `library`, which will take the place of the language's own.
pub(crate) fn library(lua: &Lua) -> Result<Table> {
    let library = lua.create_table()?;
    library.raw_set("find", lua.create_function(|lua, values| find(lua, "find", values))?)?;
    library.raw_set("match", lua.create_function(|lua, values| find(lua, "match", values))?)?;
    let gmatch = lua.create_function(gmatch)?;
    library.raw_set("gmatch", &gmatch)?;
    library.raw_set("gfind", gmatch)?;
    library.raw_set("gsub", lua.create_function(gsub)?)?;
    library.raw_set("rep", lua.create_function(rep)?)?;
    let mapped = |name, apply: fn(&mut [u8])| lua.create_function(move |lua, values| changed(lua, name, values, apply));
    library.raw_set("upper", mapped("upper", <[u8]>::make_ascii_uppercase)?)?;
    library.raw_set("lower", mapped("lower", <[u8]>::make_ascii_lowercase)?)?;
    library.raw_set("reverse", mapped("reverse", <[u8]>::reverse)?)?;
    Ok(library)
}

fn failed(lua: &Lua, failure: Failure) -> Error {
    match failure {
        Failure::Malformed(text) => raise(lua, text),
        Failure::Stopped(error) => error,
    }
}

fn matcher<'a>(subject: &'a [u8], pattern: &'a [u8], work: Work) -> Matcher<'a> {
    // The language's own patterns are C strings.
    let end = pattern.iter().position(|byte| *byte == 0).unwrap_or(pattern.len());
    Matcher::new(subject, &pattern[..end], work)
}

/// A position counted from the end becomes one from the start.
fn from_start(position: i64, length: usize) -> i64 {
    if position < 0 { position.saturating_add(length as i64 + 1) } else { position }
}

fn find(lua: &Lua, name: &'static str, values: MultiValue) -> Result<MultiValue> {
    let arguments = Arguments::new(lua, name, &values);
    let is_find = name == "find";
    let (subject, pattern) = (arguments.string(1)?, arguments.string(2)?);
    let (subject, pattern) = (subject.as_bytes(), pattern.as_bytes());
    let start = from_start(arguments.integer_or(3, 1)?, subject.len()) - 1;
    let start = usize::try_from(start).unwrap_or(0).min(subject.len());
    let is_plain = matches!(arguments.get(4), Some(value) if !matches!(value, Value::Nil | Value::Boolean(false)));
    if is_find && (is_plain || !pattern.iter().any(|byte| b"^$*+?.([%-".contains(byte))) {
        let found = find_plain(&subject[start..], &pattern)?;
        return Ok(match found {
            Some(at) => positions(start + at, start + at + pattern.len(), Vec::new()),
            None => MultiValue::from_vec(vec![Value::Nil]),
        });
    }
    let mut matcher = matcher(&subject, &pattern, Work::begin()?);
    let (is_anchored, body) = if pattern.first() == Some(&b'^') { (true, 1) } else { (false, 0) };
    for at in start..=subject.len() {
        if let Some(end) = matcher.matches(at, body).map_err(|failure| failed(lua, failure))? {
            let captures = captures(lua, &matcher, at, end, !is_find)?;
            return Ok(if is_find { positions(at, end, captures) } else { MultiValue::from_vec(captures) });
        }
        if is_anchored {
            break;
        }
    }
    Ok(MultiValue::from_vec(vec![Value::Nil]))
}

fn find_plain(text: &[u8], wanted: &[u8]) -> Result<Option<usize>> {
    let Some((first, _)) = wanted.split_first() else { return Ok(Some(0)) };
    let mut work = Work::begin()?;
    let mut at = 0;
    while at + wanted.len() <= text.len() {
        let skipped = text[at..=text.len() - wanted.len()].iter().position(|byte| byte == first);
        let Some(skipped) = skipped else { return Ok(None) };
        at += skipped;
        work.of(skipped + wanted.len())?;
        if text[at..].starts_with(wanted) {
            return Ok(Some(at));
        }
        at += 1;
    }
    Ok(None)
}

fn positions(start: usize, end: usize, captures: Vec<Value>) -> MultiValue {
    let mut all = vec![Value::Integer(start as i64 + 1), Value::Integer(end as i64)];
    all.extend(captures);
    MultiValue::from_vec(all)
}

/// The captures of a match; the whole of it if there are none and `whole` says so.
fn captures(lua: &Lua, matcher: &Matcher<'_>, start: usize, end: usize, whole: bool) -> Result<Vec<Value>> {
    let count = if matcher.count() == 0 && whole { 1 } else { matcher.count() };
    (0..count).map(|index| capture(lua, matcher, index, start, end)).collect()
}

fn capture(lua: &Lua, matcher: &Matcher<'_>, index: usize, start: usize, end: usize) -> Result<Value> {
    match matcher.capture(index, start, end).map_err(|failure| failed(lua, failure))? {
        Capture::Position(at) => Ok(Value::Integer(at as i64 + 1)),
        Capture::Text(text) => Ok(Value::String(lua.create_string(text)?)),
    }
}

fn gmatch(lua: &Lua, values: MultiValue) -> Result<mlua::Function> {
    let arguments = Arguments::new(lua, "gmatch", &values);
    let (subject, pattern) = (arguments.string(1)?, arguments.string(2)?);
    let next = AtomicUsize::new(0);
    lua.create_function(move |lua, _: MultiValue| {
        let (subject, pattern) = (subject.as_bytes(), pattern.as_bytes());
        let mut matcher = matcher(&subject, &pattern, Work::begin()?);
        for at in next.load(Ordering::Relaxed)..=subject.len() {
            if let Some(end) = matcher.matches(at, 0).map_err(|failure| failed(lua, failure))? {
                next.store(if end == at { end + 1 } else { end }, Ordering::Relaxed);
                return Ok(MultiValue::from_vec(captures(lua, &matcher, at, end, true)?));
            }
        }
        next.store(usize::MAX, Ordering::Relaxed);
        Ok(MultiValue::from_vec(vec![Value::Nil]))
    })
}

fn gsub(lua: &Lua, values: MultiValue) -> Result<MultiValue> {
    let arguments = Arguments::new(lua, "gsub", &values);
    let (subject, pattern) = (arguments.string(1)?, arguments.string(2)?);
    let (subject, pattern) = (subject.as_bytes(), pattern.as_bytes());
    let replacement = replacement_of(&arguments)?;
    let most = arguments.integer_or(4, subject.len() as i64 + 1)?;
    let (is_anchored, body) = if pattern.first() == Some(&b'^') { (true, 1) } else { (false, 0) };
    let mut matcher = matcher(&subject, &pattern, Work::begin()?);
    let mut out = Buffer::new(lua)?;
    let (mut at, mut count) = (0, 0);
    while count < most {
        let end = matcher.matches(at, body).map_err(|failure| failed(lua, failure))?;
        if let Some(end) = end {
            count += 1;
            replace(lua, &matcher, &replacement, at, end, &mut out)?;
        }
        match end {
            Some(end) if end > at => at = end,
            _ if at < subject.len() => {
                out.push(subject[at])?;
                at += 1;
            }
            _ => break,
        }
        if is_anchored {
            break;
        }
    }
    replaced(out, &subject[at..], count)
}

// What follows stands apart so that little lies on the stack while a replacement matches and replaces in turn.

fn replacement_of(arguments: &Arguments<'_>) -> Result<Value> {
    match arguments.get(3) {
        Some(value @ (Value::Table(_) | Value::Function(_))) => Ok(value.clone()),
        Some(value) if text_of(value).is_some() => Ok(Value::String(arguments.string(3)?)),
        _ => Err(arguments.error(3, "string/function/table expected")),
    }
}

fn replaced(mut out: Buffer<'_>, rest: &[u8], count: i64) -> Result<MultiValue> {
    out.extend(rest)?;
    Ok(MultiValue::from_vec(vec![Value::String(out.into_string()?), Value::Integer(count)]))
}

fn replace(
    lua: &Lua,
    matcher: &Matcher<'_>,
    replacement: &Value,
    start: usize,
    end: usize,
    out: &mut Buffer<'_>,
) -> Result<()> {
    let result = match replacement {
        Value::String(template) => return expand(lua, matcher, &template.as_bytes(), start, end, out),
        Value::Table(table) => table.get(capture(lua, matcher, 0, start, end)?)?,
        Value::Function(function) => {
            let captures = captures(lua, matcher, start, end, true)?;
            function.call::<Value>(MultiValue::from_vec(captures))?
        }
        _ => Value::Nil,
    };
    put(lua, &result, matcher.between(start, end), out)
}

fn put(lua: &Lua, result: &Value, matched: &[u8], out: &mut Buffer<'_>) -> Result<()> {
    match (result, text_of(result)) {
        (Value::Nil | Value::Boolean(false), _) => out.extend(matched),
        (_, Some(text)) => out.extend(text.as_ref()),
        (other, None) => Err(raise(lua, format!("invalid replacement value (a {})", type_name(other)))),
    }
}

/// Writes a replacement text; `%1` stands for a capture, `%0` for the whole match.
fn expand(
    lua: &Lua,
    matcher: &Matcher<'_>,
    template: &[u8],
    start: usize,
    end: usize,
    out: &mut Buffer<'_>,
) -> Result<()> {
    let mut bytes = template.iter().copied();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte)?;
            continue;
        }
        match bytes.next().unwrap_or(0) {
            b'0' => out.extend(matcher.between(start, end))?,
            digit @ b'1'..=b'9' => {
                let index = usize::from(digit - b'1');
                match matcher.capture(index, start, end).map_err(|failure| failed(lua, failure))? {
                    Capture::Position(at) => out.extend((at + 1).to_string().as_bytes())?,
                    Capture::Text(text) => out.extend(text)?,
                }
            }
            other => out.push(other)?,
        }
    }
    Ok(())
}

/// A text that is as long as the argument.
fn changed(lua: &Lua, name: &'static str, values: MultiValue, apply: fn(&mut [u8])) -> Result<LuaString> {
    let text = Arguments::new(lua, name, &values).string(1)?;
    let mut out = Buffer::new(lua)?;
    out.extend(&text.as_bytes())?;
    apply(out.since(0));
    out.into_string()
}

fn rep(lua: &Lua, values: MultiValue) -> Result<LuaString> {
    let arguments = Arguments::new(lua, "rep", &values);
    let text = arguments.string(1)?;
    let times = usize::try_from(arguments.integer(2)?).unwrap_or(0);
    let text = text.as_bytes();
    if text.is_empty() {
        return lua.create_string("");
    }
    let bytes = text.len().saturating_mul(times);
    if bytes > STRING_BYTES_MAX {
        return Err(raise(lua, "not enough memory"));
    }
    Work::begin()?.of(bytes)?;
    let _held = Held::of(lua, bytes)?;
    lua.create_string(text.repeat(times))
}
