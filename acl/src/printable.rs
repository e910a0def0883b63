//! Bytes of strangers in texts for people: escaped, so that they cannot forge a second line, and cut.
//!
//! It refuses to know what the bytes mean.

use std::fmt::Write;

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes every text");
        text
    })
}

/// Printable ASCII as it is, a backslash doubled, every other byte as `\xNN`; after `bytes_max` bytes, three dots.
pub(crate) fn escaped(bytes: &[u8], bytes_max: usize) -> String {
    let shown = &bytes[..bytes.len().min(bytes_max)];
    let mut text = String::with_capacity(shown.len());
    for byte in shown {
        match byte {
            b'\\' => text.push_str("\\\\"),
            b' '..=b'~' => text.push(char::from(*byte)),
            _ => write!(text, "\\x{byte:02x}").expect("a string takes every text"),
        }
    }
    if shown.len() < bytes.len() {
        text.push_str("...");
    }
    text
}

/// Text as somebody typed it: what is UTF-8 stays as it is, control characters and stray bytes become `\xNN`.
pub(crate) fn as_typed(bytes: &[u8], bytes_max: usize) -> String {
    let shown = &bytes[..bytes.len().min(bytes_max)];
    let mut text = String::with_capacity(shown.len());
    for chunk in shown.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character.is_control() {
                true => write!(text, "\\x{:02x}", u32::from(character)).expect("a string takes every text"),
                false => text.push(character),
            }
        }
        for byte in chunk.invalid() {
            write!(text, "\\x{byte:02x}").expect("a string takes every text");
        }
    }
    if shown.len() < bytes.len() {
        text.push_str("...");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_break_cannot_be_forged() {
        assert_eq!(escaped(b"a\r\n-ERR \\ \xff", 128), "a\\x0d\\x0a-ERR \\\\ \\xff");
        assert_eq!(as_typed("~ä\r\n\\".as_bytes(), 128), "~ä\\x0d\\x0a\\");
    }

    #[test]
    fn long_texts_are_cut() {
        assert_eq!(escaped(&[b'a'; 200], 3), "aaa...");
        assert_eq!(as_typed(&[b'a'; 200], 3), "aaa...");
        assert_eq!(as_typed("ä".as_bytes(), 1), "\\xc3...");
    }
}
