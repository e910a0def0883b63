//! Numbers as text, byte for byte as Redis reads and writes them. Knows no collection and no command.

use std::ops::Deref;

pub use super::long_double::LongDouble;

/// The digits of an integer.
#[derive(Clone, Copy)]
pub struct IntegerText {
    digits: [u8; 20],
    start: u8,
}

impl Deref for IntegerText {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        &self.digits[usize::from(self.start)..]
    }
}

/// The decimal text of an integer.
#[inline]
pub fn format_i64(value: i64) -> IntegerText {
    let mut digits = [0u8; 20];
    let mut start = digits.len();
    let mut rest = value.unsigned_abs();
    loop {
        start -= 1;
        digits[start] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if value < 0 {
        start -= 1;
        digits[start] = b'-';
    }
    IntegerText { digits, start: start as u8 }
}

/// How many bytes the decimal text of an integer has.
#[inline]
pub fn digits_of(value: i64) -> usize {
    usize::from(value < 0) + value.unsigned_abs().checked_ilog10().map_or(1, |log| log as usize + 1)
}

/// Reads an integer in its one canonical form: no plus, no leading zero, no space, no `-0`. So `format_i64` gives the same text back.
#[inline]
pub fn parse_i64(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    match digits {
        [b'0'] if !negative => return Some(0),
        [b'1'..=b'9', ..] if digits.len() <= 19 => {}
        _ => return None,
    }
    let mut value = 0u64;
    for byte in digits {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        // Nineteen digits always fit 64 bits.
        value = value * 10 + u64::from(digit);
    }
    if negative { 0i64.checked_sub_unsigned(value) } else { i64::try_from(value).ok() }
}

/// Reads a floating-point number as scores are given: decimal, or a name of infinity. Not a number, values that overflow and values
/// that vanish are refused, and so is anything before or behind the number.
pub fn parse_f64(text: &[u8]) -> Option<f64> {
    let unsigned = match text {
        [b'+' | b'-', rest @ ..] => rest,
        rest => rest,
    };
    if unsigned.eq_ignore_ascii_case(b"inf") || unsigned.eq_ignore_ascii_case(b"infinity") {
        return Some(if text[0] == b'-' { f64::NEG_INFINITY } else { f64::INFINITY });
    }
    if !matches!(unsigned, [b'0'..=b'9' | b'.', ..]) {
        return None;
    }
    let value: f64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    let vanished = value == 0.0 && has_nonzero_mantissa(unsigned);
    if value.is_infinite() || vanished { None } else { Some(value) }
}

fn has_nonzero_mantissa(unsigned: &[u8]) -> bool {
    unsigned.iter().take_while(|byte| !matches!(byte, b'e' | b'E')).any(|byte| matches!(byte, b'1'..=b'9'))
}

/// The text of a double as RESP2 replies carry it: integers in full up to about 4.6e18, otherwise the fewest digits that read back
/// as the same number.
pub fn format_f64(value: f64) -> String {
    if value.is_nan() {
        return "nan".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf".to_owned() } else { "-inf".to_owned() };
    }
    if value == 0.0 {
        return if value.is_sign_negative() { "-0".to_owned() } else { "0".to_owned() };
    }
    if let Some(integer) = exact_integer(value) {
        return integer.to_string();
    }
    short_decimal(value).unwrap_or_else(|| format_shortest(value))
}

/// The same of a number with few decimals, which most are. Fifteen digits are enough for no two texts to be one number, so the
/// first that reads back is the shortest.
fn short_decimal(value: f64) -> Option<String> {
    const DECIMALS_MAX: usize = 4;
    const BOUND: f64 = 1e15;
    let (magnitude, mut power) = (value.abs(), 1.0);
    for decimals in 1..=DECIMALS_MAX {
        power *= 10.0;
        let scaled = (magnitude * power).round();
        if (1.0..BOUND).contains(&scaled) && scaled / power == magnitude {
            let (scaled, power) = (scaled as u64, power as u64);
            let sign = if value < 0.0 { "-" } else { "" };
            return Some(format!("{sign}{}.{:0decimals$}", scaled / power, scaled % power));
        }
    }
    None
}

/// The integer a double stands for, as long as it is small enough to be printed and stored as one.
#[inline]
pub(super) fn exact_integer(value: f64) -> Option<i64> {
    const LIMIT: f64 = (i64::MAX / 2) as f64;
    if !(-LIMIT..=LIMIT).contains(&value) {
        return None;
    }
    let integer = value as i64;
    (integer as f64 == value).then_some(integer)
}

fn format_shortest(value: f64) -> String {
    // `{:e}` gives the shortest digits that round-trip: "-1.2345e-7".
    let scientific = format!("{:e}", value.abs());
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let digits: String = mantissa.chars().filter(|&symbol| symbol != '.').collect();
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let count = digits.len() as i32;
    // The number is `digits` with `zeros` noughts behind it, or a point `-zeros` digits from the right.
    let zeros = exponent - count + 1;

    let mut text = String::with_capacity(32);
    if value < 0.0 {
        text.push('-');
    }
    if zeros >= 0 && exponent.abs() < count + 7 {
        text.push_str(&digits);
        text.extend(std::iter::repeat_n('0', zeros as usize));
    } else if zeros < 0 && (zeros > -7 || exponent.abs() < 4) {
        push_with_point(&mut text, &digits, count + zeros);
    } else {
        text.push_str(&digits[..1]);
        if count > 1 {
            text.push('.');
            text.push_str(&digits[1..]);
        }
        text.push_str(&format!("e{}{}", if exponent < 0 { '-' } else { '+' }, exponent.abs()));
    }
    text
}

fn push_with_point(text: &mut String, digits: &str, point: i32) {
    if point <= 0 {
        text.push_str("0.");
        text.extend(std::iter::repeat_n('0', point.unsigned_abs() as usize));
        text.push_str(digits);
        return;
    }
    let (whole, fraction) = digits.split_at(point as usize);
    text.push_str(whole);
    text.push('.');
    text.push_str(fraction);
}

/// The text INCRBYFLOAT and HINCRBYFLOAT store and reply.
pub fn format_incr_float(value: &LongDouble) -> String {
    value.to_text()
}
