//! Numbers as texts: C's `%.*g`, the shortest text that reads back the same, and Lua's own reading of a number.

use std::io::Write;

/// `%.{precision}g` of C.
pub(crate) fn format_g(value: f64, precision: usize) -> String {
    if value.is_nan() {
        return if value.is_sign_negative() { "-nan".to_owned() } else { "nan".to_owned() };
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf".to_owned() } else { "-inf".to_owned() };
    }
    let precision = precision.max(1);
    if let Some(integer) = short_whole(value, precision) {
        return integer.to_string();
    }
    let scientific = format!("{:.*e}", precision - 1, value);
    let (mantissa, exponent) = scientific.split_once('e').expect("{:e} writes an exponent");
    let exponent: i32 = exponent.parse().expect("{:e} writes a whole exponent");
    if exponent < -4 || exponent >= precision as i32 {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{}e{sign}{:02}", without_zeros(mantissa), exponent.abs());
    }
    let decimals = (precision as i32 - 1 - exponent).max(0) as usize;
    without_zeros(&format!("{value:.decimals$}")).to_owned()
}

/// The whole number that a value is, if it is written with all of its digits: nearly every number there is.
fn short_whole(value: f64, precision: usize) -> Option<i64> {
    // Whole numbers up to here are all there are.
    const DIGITS_MAX: i32 = 15;
    let bound = 10f64.powi(DIGITS_MAX.min(precision.try_into().unwrap_or(DIGITS_MAX)));
    let is_whole = value.abs() < bound && value.trunc() == value && !(value == 0.0 && value.is_sign_negative());
    is_whole.then_some(value as i64)
}

fn without_zeros(text: &str) -> &str {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text }
}

/// Appends a whole number.
pub(crate) fn push_decimal(out: &mut Vec<u8>, number: i64) {
    write!(out, "{number}").expect("a vector takes everything");
}

/// The shortest text that reads back as the same number: how a number becomes an argument or a double in a reply.
pub(crate) fn shortest(value: f64) -> String {
    if !value.is_finite() {
        return format_g(value, 17);
    }
    if value == 0.0 {
        return if value.is_sign_negative() { "-0".to_owned() } else { "0".to_owned() };
    }
    let scientific = format!("{value:e}");
    let (mantissa, exponent) = scientific.split_once('e').expect("{:e} writes an exponent");
    let exponent: i32 = exponent.parse().expect("{:e} writes a whole exponent");
    let digits = mantissa.bytes().filter(u8::is_ascii_digit).count() as i32;
    // The place of the last digit, as a power of ten.
    let last = exponent - digits + 1;
    let plain = if last >= 0 { exponent < digits + 7 } else { last > -7 || exponent.abs() < 4 };
    if plain {
        return format!("{value}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{}", exponent.abs())
}

/// The whole number that `value` is cut to, as a processor does it: what does not fit becomes the smallest one.
pub(crate) fn truncated(value: f64) -> i64 {
    let fits = (-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0).contains(&value);
    if fits { value as i64 } else { i64::MIN }
}

/// `value` as a whole number, if it is one that a command argument would spell without a point.
pub(crate) fn whole(value: f64) -> Option<i64> {
    let bound = 4_611_686_018_427_387_904.0; // 2^62: beyond it, texts are made from the double
    let whole = value as i64;
    (value > -bound && value < bound && whole as f64 == value).then_some(whole)
}

/// Reads a number as Lua does: surrounding white space, decimal or hexadecimal.
pub(crate) fn parse(text: &[u8]) -> Option<f64> {
    let text = str::from_utf8(text).ok()?.trim_matches([' ', '\t', '\n', '\r', '\x0b', '\x0c']);
    let (negative, unsigned) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let hexadecimal = unsigned.strip_prefix("0x").or_else(|| unsigned.strip_prefix("0X"));
    let magnitude = match hexadecimal {
        Some(digits) => u64::from_str_radix(digits, 16).ok().filter(|_| !digits.starts_with('+'))? as f64,
        None if unsigned.bytes().all(|byte| b"0123456789.eE+-".contains(&byte)) => {
            unsigned.parse::<f64>().ok().filter(|_| !unsigned.starts_with(['+', '-']))?
        }
        None => return None,
    };
    Some(if negative { -magnitude } else { magnitude })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g_writes_what_c_writes() {
        for (value, text) in [
            (1.0 / 3.0, "0.33333333333333"),
            (1e15, "1e+15"),
            (1e14, "1e+14"),
            (12_345_678_901_234.0, "12345678901234"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (-2.5, "-2.5"),
            (100.0, "100"),
            (-99_999_999_999_999.0, "-99999999999999"),
            (99_999_999_999_999.5, "1e+14"),
            (-0.0, "-0"),
            (0.0, "0"),
            (f64::INFINITY, "inf"),
        ] {
            assert_eq!(format_g(value, 14), text);
        }
    }

    #[test]
    fn the_shortest_text_is_taken() {
        for (value, text) in [
            (0.1, "0.1"),
            (1.5, "1.5"),
            (-0.25, "-0.25"),
            (1e100, "1e+100"),
            (1.5e-10, "1.5e-10"),
            (1e19, "1e+19"),
            (123_456_789_012_345_680_000.0, "123456789012345680000"),
        ] {
            assert_eq!(shortest(value), text);
        }
    }

    #[test]
    fn lua_reads_numbers_its_own_way() {
        assert_eq!(parse(b" 10 "), Some(10.0));
        assert_eq!(parse(b"0x10"), Some(16.0));
        assert_eq!(parse(b"-1e2"), Some(-100.0));
        for wrong in [&b""[..], b"1 2", b"x", b"--1", b"0x", b"inf", b"nan"] {
            assert_eq!(parse(wrong), None, "{wrong:?}");
        }
    }
}
