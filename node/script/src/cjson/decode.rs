//! JSON read as values.

use mlua::{Lua, LuaString, Result, Table, Value};

use super::{DEPTH_MAX, Options};
use crate::budget::{STEP, Work};
use crate::raise::raise;

pub(super) fn decode(lua: &Lua, options: &Options, arrays: &Table, text: &[u8]) -> Result<Value> {
    if let [first, second, ..] = text
        && (*first == 0 || *second == 0)
    {
        return Err(raise(lua, "JSON parser does not support UTF-16 or UTF-32"));
    }
    let mut reader = Reader { lua, options, arrays, text, at: 0, counted: 0, work: Work::begin()? };
    let value = reader.run()?;
    let token = reader.token();
    match token.kind {
        Kind::End => Ok(value),
        _ => Err(reader.unexpected("the end", &token)),
    }
}

struct Token {
    /// Where it begins.
    at: usize,
    kind: Kind,
}

enum Kind {
    ObjectBegin,
    ObjectEnd,
    ArrayBegin,
    ArrayEnd,
    Text(Vec<u8>),
    Number(f64),
    Boolean(bool),
    Null,
    Colon,
    Comma,
    End,
    Error(&'static str),
}

impl Kind {
    fn name(&self) -> &'static str {
        match self {
            Kind::ObjectBegin => "T_OBJ_BEGIN",
            Kind::ObjectEnd => "T_OBJ_END",
            Kind::ArrayBegin => "T_ARR_BEGIN",
            Kind::ArrayEnd => "T_ARR_END",
            Kind::Text(_) => "T_STRING",
            Kind::Number(_) => "T_NUMBER",
            Kind::Boolean(_) => "T_BOOLEAN",
            Kind::Null => "T_NULL",
            Kind::Colon => "T_COLON",
            Kind::Comma => "T_COMMA",
            Kind::End => "T_END",
            Kind::Error(text) => text,
        }
    }
}

struct Reader<'a> {
    lua: &'a Lua,
    options: &'a Options,
    arrays: &'a Table,
    text: &'a [u8],
    at: usize,
    /// Up to here its work is noted.
    counted: usize,
    work: Work,
}

impl Reader<'_> {
    fn unexpected(&self, expected: &str, token: &Token) -> mlua::Error {
        let text = format!("Expected {expected} but found {} at character {}", token.kind.name(), token.at + 1);
        raise(self.lua, text)
    }

    fn peek(&self, ahead: usize) -> u8 {
        self.text.get(self.at + ahead).copied().unwrap_or(0)
    }

    fn token(&mut self) -> Token {
        while matches!(self.peek(0), b' ' | b'\t' | b'\n' | b'\r') {
            self.at += 1;
        }
        let at = self.at;
        let single = match self.peek(0) {
            b'{' => Kind::ObjectBegin,
            b'}' => Kind::ObjectEnd,
            b'[' => Kind::ArrayBegin,
            b']' => Kind::ArrayEnd,
            b':' => Kind::Colon,
            b',' => Kind::Comma,
            0 => return Token { at, kind: Kind::End },
            b'"' => return self.string(at),
            b'-' | b'0'..=b'9' => return Token { at, kind: self.number() },
            b'+' | b'i' | b'I' | b'n' | b'N' | b't' | b'f' => return Token { at, kind: self.word() },
            _ => return Token { at, kind: Kind::Error("invalid token") },
        };
        self.at += 1;
        Token { at, kind: single }
    }

    fn word(&mut self) -> Kind {
        for (word, kind) in
            [(&b"true"[..], Kind::Boolean(true)), (b"false", Kind::Boolean(false)), (b"null", Kind::Null)]
        {
            if self.text[self.at..].starts_with(word) {
                self.at += word.len();
                return kind;
            }
        }
        if self.options.decode_invalid && self.is_invalid_number() {
            return self.number();
        }
        Kind::Error("invalid token")
    }

    /// Whether what begins here is a number only to C: hexadecimal, padded with zeros, infinite or none at all.
    fn is_invalid_number(&self) -> bool {
        if self.peek(0) == b'+' {
            return true;
        }
        let sign = usize::from(self.peek(0) == b'-');
        match self.peek(sign) {
            b'0' => matches!(self.peek(sign + 1), b'x' | b'X' | b'0'..=b'9'),
            byte if byte <= b'9' => false,
            _ => {
                let rest = &self.text[self.at + sign..];
                rest.get(..3).is_some_and(|word| word.eq_ignore_ascii_case(b"inf") || word.eq_ignore_ascii_case(b"nan"))
            }
        }
    }

    fn number(&mut self) -> Kind {
        if !self.options.decode_invalid && self.is_invalid_number() {
            return Kind::Error("invalid number");
        }
        match leading_number(&self.text[self.at..]) {
            Some((number, length)) => {
                self.at += length;
                Kind::Number(number)
            }
            None => Kind::Error("invalid number"),
        }
    }

    fn string(&mut self, at: usize) -> Token {
        let mut text = Vec::new();
        self.at += 1;
        loop {
            let rest = &self.text[self.at.min(self.text.len())..];
            let plain = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0)).unwrap_or(rest.len());
            text.extend_from_slice(&rest[..plain]);
            self.at += plain;
            match self.peek(0) {
                b'"' => break,
                b'\\' => {}
                _ => return Token { at: self.at, kind: Kind::Error("unexpected end of string") },
            }
            let escaped = match self.peek(1) {
                b'u' => match self.unicode(&mut text) {
                    Some(length) => {
                        self.at += length;
                        continue;
                    }
                    None => return Token { at: self.at, kind: Kind::Error("invalid unicode escape code") },
                },
                b'"' => b'"',
                b'\\' => b'\\',
                b'/' => b'/',
                b'b' => b'\x08',
                b't' => b'\t',
                b'n' => b'\n',
                b'f' => b'\x0c',
                b'r' => b'\r',
                _ => return Token { at: self.at, kind: Kind::Error("invalid escape code") },
            };
            text.push(escaped);
            self.at += 2;
        }
        self.at += 1;
        Token { at, kind: Kind::Text(text) }
    }

    /// Appends the character of `\uXXXX`, or of two of them that belong together; how many bytes they took.
    fn unicode(&self, text: &mut Vec<u8>) -> Option<usize> {
        let unit = |ahead: usize| {
            let digits = self.text.get(self.at + ahead + 2..self.at + ahead + 6)?;
            digits.iter().try_fold(0, |all, digit| Some(all << 4 | char::from(*digit).to_digit(16)?))
        };
        let first: u32 = unit(0)?;
        let (character, length) = match first {
            0xD800..=0xDBFF => {
                if self.peek(6) != b'\\' || self.peek(7) != b'u' {
                    return None;
                }
                let second = unit(6).filter(|second| (0xDC00..=0xDFFF).contains(second))?;
                (0x10000 + ((first & 0x3FF) << 10 | (second & 0x3FF)), 12)
            }
            0xDC00..=0xDFFF => return None,
            plain => (plain, 6),
        };
        let mut buffer = [0; 4];
        text.extend_from_slice(char::from_u32(character)?.encode_utf8(&mut buffer).as_bytes());
        Some(length)
    }

    /// Reads one value, without recursion: the thread's stack is not a text's to fill.
    fn run(&mut self) -> Result<Value> {
        let mut open: Vec<Open> = Vec::new();
        loop {
            let token = self.token();
            self.work.of(STEP + self.at - self.counted)?;
            self.counted = self.at;
            let Some(mut value) = self.begun(token, &mut open)? else { continue };
            // The value may be the last of its table, and that the last of its own.
            loop {
                let Some(inner) = open.pop() else { return Ok(value) };
                match self.put(inner, value)? {
                    Put::More(inner) => {
                        open.push(inner);
                        break;
                    }
                    Put::Closed(table) => value = Value::Table(table),
                }
            }
        }
    }

    /// The value that begins with `token`, if it is whole already. Otherwise its table is open now.
    fn begun(&mut self, token: Token, open: &mut Vec<Open>) -> Result<Option<Value>> {
        Ok(Some(match token.kind {
            Kind::Text(text) => Value::String(self.lua.create_string(&text)?),
            Kind::Number(number) => Value::Number(number),
            Kind::Boolean(yes) => Value::Boolean(yes),
            Kind::Null => Value::NULL,
            Kind::ObjectBegin => {
                self.check_depth(open.len() + 1)?;
                let table = self.lua.create_table()?;
                let token = self.token();
                if matches!(token.kind, Kind::ObjectEnd) {
                    return Ok(Some(Value::Table(table)));
                }
                let key = self.key(token)?;
                open.push(Open::Object { table, key });
                return Ok(None);
            }
            Kind::ArrayBegin => {
                self.check_depth(open.len() + 1)?;
                let table = self.lua.create_table()?;
                if self.options.decode_array_metatable {
                    table.set_metatable(Some(self.arrays.clone()))?;
                }
                let before = self.at;
                if matches!(self.token().kind, Kind::ArrayEnd) {
                    return Ok(Some(Value::Table(table)));
                }
                self.at = before;
                open.push(Open::Array { table, count: 0 });
                return Ok(None);
            }
            _ => return Err(self.unexpected("value", &token)),
        }))
    }

    /// A key and its colon.
    fn key(&mut self, token: Token) -> Result<LuaString> {
        let Kind::Text(key) = token.kind else { return Err(self.unexpected("object key string", &token)) };
        let key = self.lua.create_string(&key)?;
        let token = self.token();
        if !matches!(token.kind, Kind::Colon) {
            return Err(self.unexpected("colon", &token));
        }
        Ok(key)
    }

    /// Puts a value into the table it stands in and reads what follows it there.
    fn put(&mut self, open: Open, value: Value) -> Result<Put> {
        match open {
            Open::Object { table, key } => {
                table.raw_set(key, value)?;
                let token = self.token();
                match token.kind {
                    Kind::ObjectEnd => Ok(Put::Closed(table)),
                    Kind::Comma => {
                        let token = self.token();
                        Ok(Put::More(Open::Object { key: self.key(token)?, table }))
                    }
                    _ => Err(self.unexpected("comma or object end", &token)),
                }
            }
            Open::Array { table, count } => {
                table.raw_set(count + 1, value)?;
                let token = self.token();
                match token.kind {
                    Kind::ArrayEnd => Ok(Put::Closed(table)),
                    Kind::Comma => Ok(Put::More(Open::Array { table, count: count + 1 })),
                    _ => Err(self.unexpected("comma or array end", &token)),
                }
            }
        }
    }

    fn check_depth(&self, depth: usize) -> Result<()> {
        if depth > DEPTH_MAX.min(self.options.decode_depth_max as usize) {
            let text = format!("Found too many nested data structures ({depth}) at character {}", self.at);
            return Err(raise(self.lua, text));
        }
        Ok(())
    }
}

/// A table that is being read.
enum Open {
    /// And the key whose value comes next.
    Object { table: Table, key: LuaString },
    /// And how many values it holds.
    Array { table: Table, count: usize },
}

/// What became of a table that got a value.
enum Put {
    /// Another value follows.
    More(Open),
    /// It is whole.
    Closed(Table),
}

/// The number that `text` begins with, as C's `strtod` reads it, and how many bytes it takes.
fn leading_number(text: &[u8]) -> Option<(f64, usize)> {
    let sign = usize::from(matches!(text.first(), Some(b'-' | b'+')));
    let negate = |number: f64| if text[0] == b'-' { -number } else { number };
    let rest = &text[sign..];
    for (word, number) in [(&b"infinity"[..], f64::INFINITY), (b"inf", f64::INFINITY), (b"nan", f64::NAN)] {
        if rest.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word)) {
            return Some((negate(number), sign + word.len()));
        }
    }
    let count = |from: usize, wanted: fn(&u8) -> bool| {
        rest.get(from..).unwrap_or_default().iter().take_while(|byte| wanted(byte)).count()
    };
    if rest.len() > 2 && rest[0] == b'0' && rest[1] | 0x20 == b'x' && rest[2].is_ascii_hexdigit() {
        let digits = count(2, u8::is_ascii_hexdigit);
        let number = rest[2..2 + digits]
            .iter()
            .fold(0.0, |all, digit| all * 16.0 + f64::from(char::from(*digit).to_digit(16).unwrap_or_default()));
        return Some((negate(number), sign + 2 + digits));
    }
    let mut length = count(0, u8::is_ascii_digit);
    let mut digits = length;
    if rest.get(length) == Some(&b'.') {
        let decimals = count(length + 1, u8::is_ascii_digit);
        digits += decimals;
        if digits > 0 {
            length += 1 + decimals;
        }
    }
    if digits == 0 {
        return None;
    }
    if rest.get(length).is_some_and(|byte| byte | 0x20 == b'e') {
        let exponent_sign = usize::from(matches!(rest.get(length + 1), Some(b'+' | b'-')));
        let exponent = count(length + 1 + exponent_sign, u8::is_ascii_digit);
        if exponent > 0 {
            length += 1 + exponent_sign + exponent;
        }
    }
    let number = str::from_utf8(&rest[..length]).ok()?.parse().ok()?;
    Some((negate(number), sign + length))
}
