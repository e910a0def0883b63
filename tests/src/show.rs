//! Replies as redis-cli prints them on a terminal. Knows the look and nothing else.

use std::fmt::Write;

use crate::Value;

/// The reply as redis-cli would print it, each line ended.
pub fn show(value: &Value) -> String {
    let mut out = String::new();
    write_value(&mut out, value, "");
    out
}

fn write_value(out: &mut String, value: &Value, indent: &str) {
    match value {
        Value::Simple(text) => line(out, text),
        Value::Error(text) => line(out, &format!("(error) {text}")),
        Value::Integer(number) => line(out, &format!("(integer) {number}")),
        Value::Double(text) => line(out, &format!("(double) {text}")),
        Value::BigNumber(text) => line(out, text),
        Value::Boolean(yes) => line(out, if *yes { "(true)" } else { "(false)" }),
        Value::Nil => line(out, "(nil)"),
        Value::Bulk(bytes) => line(out, &quoted(bytes)),
        Value::Verbatim(bytes) => line(out, &String::from_utf8_lossy(bytes)),
        Value::Array(items) => write_items(out, items, indent, ')', "(empty array)"),
        Value::Push(items) => write_items(out, items, indent, ')', "(empty push)"),
        Value::Set(items) => write_items(out, items, indent, '~', "(empty set)"),
        Value::Map(pairs) => write_pairs(out, pairs, indent),
    }
}

fn write_items(out: &mut String, items: &[Value], indent: &str, mark: char, empty: &str) {
    if items.is_empty() {
        return line(out, empty);
    }
    let width = items.len().to_string().len();
    let deeper = format!("{indent}{}", " ".repeat(width + 2));
    for (index, item) in items.iter().enumerate() {
        let lead = if index == 0 { "" } else { indent };
        let _ = write!(out, "{lead}{:>width$}{mark} ", index + 1);
        write_value(out, item, &deeper);
    }
}

fn write_pairs(out: &mut String, pairs: &[(Value, Value)], indent: &str) {
    if pairs.is_empty() {
        return line(out, "(empty hash)");
    }
    let width = pairs.len().to_string().len();
    let deeper = format!("{indent}{}", " ".repeat(width + 2));
    for (index, (key, value)) in pairs.iter().enumerate() {
        let lead = if index == 0 { "" } else { indent };
        let mut name = String::new();
        write_value(&mut name, key, &deeper);
        let _ = write!(out, "{lead}{:>width$}# {} => ", index + 1, name.trim_end_matches('\n'));
        write_value(out, value, &deeper);
    }
}

fn line(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}

fn quoted(bytes: &[u8]) -> String {
    let mut out = String::from("\"");
    for byte in bytes {
        match byte {
            b'\\' => out.push_str("\\\\"),
            b'"' => out.push_str("\\\""),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            7 => out.push_str("\\a"),
            8 => out.push_str("\\b"),
            32..=126 => out.push(char::from(*byte)),
            other => {
                let _ = write!(out, "\\x{other:02x}");
            }
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_arrays_are_indented_as_redis_cli_does() {
        let inner = Value::Array(vec![Value::Integer(1), Value::Nil]);
        let value = Value::Array(vec![inner, Value::Bulk(b"a\n".to_vec())]);
        assert_eq!(show(&value), "1) 1) (integer) 1\n   2) (nil)\n2) \"a\\n\"\n");
    }
}
