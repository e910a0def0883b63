//! Inline requests: a line of words, as typed into `telnet`, with Redis' quoting rules.
//!
//! ```text
//! word            ends at a space, tab, newline or NUL; quotes may start inside it
//! "text"          \n \r \t \a \b \xHH are translated, any other \c stands for c
//! 'text'          only \' is translated
//! ```
//! A closing quote must be followed by a space or the end. NUL ends the line.

use super::error::ProtocolError;
use super::request::ArgRange;

/// Splits `line` (without its line end) into words, translating them in place: a translated word is
/// never longer than its source, so every word is a range of the same bytes.
///
/// Ranges are appended to `args`. On an error, `args` holds what came before it.
pub fn split_in_place(line: &mut [u8], args: &mut Vec<ArgRange>) -> Result<(), ProtocolError> {
    let mut at = 0;
    loop {
        while line.get(at).is_some_and(|&byte| is_space(byte)) {
            at += 1;
        }
        match line.get(at) {
            None | Some(0) => return Ok(()),
            Some(_) => {}
        }
        let start = at;
        let mut end = at;
        loop {
            match line.get(at).copied() {
                None | Some(b' ' | b'\n' | b'\r' | b'\t' | 0) => break,
                Some(b'"') => (at, end) = double_quoted(line, at + 1, end)?,
                Some(b'\'') => (at, end) = single_quoted(line, at + 1, end)?,
                Some(byte) => {
                    line[end] = byte;
                    at += 1;
                    end += 1;
                    continue;
                }
            }
            // Only a quote comes here: what follows a closing quote ends the word.
            break;
        }
        args.push(ArgRange::new(start, end - start));
    }
}

/// Translates from `at`, just after the opening quote, to `end`; answers both positions advanced.
fn double_quoted(line: &mut [u8], mut at: usize, mut end: usize) -> Result<(usize, usize), ProtocolError> {
    loop {
        let byte = match (line.get(at).copied(), line.get(at + 1).copied()) {
            (None | Some(0), _) => return Err(ProtocolError::UnbalancedQuotes),
            (Some(b'"'), next) => return closed(next, at, end),
            (Some(b'\\'), Some(b'x')) if hex(line, at + 2).is_some() => {
                let value = hex(line, at + 2).expect("the guard has just read it");
                at += 4;
                value
            }
            (Some(b'\\'), Some(escaped)) if escaped != 0 => {
                at += 2;
                match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 0x08,
                    b'a' => 0x07,
                    other => other,
                }
            }
            (Some(byte), _) => {
                at += 1;
                byte
            }
        };
        line[end] = byte;
        end += 1;
    }
}

fn single_quoted(line: &mut [u8], mut at: usize, mut end: usize) -> Result<(usize, usize), ProtocolError> {
    loop {
        let byte = match (line.get(at).copied(), line.get(at + 1).copied()) {
            (None | Some(0), _) => return Err(ProtocolError::UnbalancedQuotes),
            (Some(b'\\'), Some(b'\'')) => {
                at += 2;
                b'\''
            }
            (Some(b'\''), next) => return closed(next, at, end),
            (Some(byte), _) => {
                at += 1;
                byte
            }
        };
        line[end] = byte;
        end += 1;
    }
}

/// Steps over the closing quote at `at` if what follows it allows the word to end there.
fn closed(next: Option<u8>, at: usize, end: usize) -> Result<(usize, usize), ProtocolError> {
    match next {
        Some(byte) if byte != 0 && !is_space(byte) => Err(ProtocolError::UnbalancedQuotes),
        _ => Ok((at + 1, end)),
    }
}

fn hex(line: &[u8], at: usize) -> Option<u8> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).map(|value| value as u8);
    Some(digit(line.get(at)?)? << 4 | digit(line.get(at + 1)?)?)
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | 0x0b | 0x0c | b'\r')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Result<Vec<Vec<u8>>, ProtocolError> {
        let mut line = line.as_bytes().to_vec();
        let mut args = Vec::new();
        split_in_place(&mut line, &mut args)?;
        Ok(args.iter().map(|range| range.of(&line).to_vec()).collect())
    }

    #[test]
    fn words_are_separated_by_any_space() {
        assert_eq!(words("  set\t a \x0b b ").unwrap(), [&b"set"[..], b"a", b"b"]);
        assert_eq!(words(" \t ").unwrap(), Vec::<Vec<u8>>::new());
        assert_eq!(words("get a\0 hidden").unwrap(), [&b"get"[..], b"a"]);
    }

    #[test]
    fn quotes_translate_their_escapes() {
        assert_eq!(words(r#"set "a b" '' """#).unwrap(), [&b"set"[..], b"a b", b"", b""]);
        assert_eq!(words(r#""\x00\xfF\n\r\t\b\a\"\\\q""#).unwrap(), [b"\x00\xff\n\r\t\x08\x07\"\\q"]);
        assert_eq!(words(r#""\xg1""#).unwrap(), [b"xg1"]);
        assert_eq!(words(r"'it\'s \n'").unwrap(), [br"it's \n"]);
        assert_eq!(words(r#"foo"bar" x"#).unwrap(), [&b"foobar"[..], b"x"]);
        assert_eq!(words(r#"a\x41 b"#).unwrap(), [&br"a\x41"[..], b"b"]);
    }

    #[test]
    fn unbalanced_quotes_are_refused() {
        for line in [r#"get "a"#, "get 'a", r#"get "a"b"#, "get 'a'b", r#"get "a\"#, r#"get "a\""#, "get \"a\0\""] {
            assert_eq!(words(line), Err(ProtocolError::UnbalancedQuotes), "{line:?}");
        }
    }
}
