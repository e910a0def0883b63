//! The 80-bit floating-point number of x86, as far as INCRBYFLOAT needs it: read, add, print. Redis computes in this format, and its
//! rounding shows in replies (0.1 + 0.2 is 0.3), so doubles will not do. Knows no command.

use std::cmp::Ordering;

/// Texts longer than this are no numbers for Redis.
const TEXT_BYTES_MAX: usize = 5 * 1024;
/// Of 2 to the power of this, times a mantissa of 64 bits, the greatest and the least number consist.
const EXPONENT_MAX: i32 = 16383 - 63;
const EXPONENT_MIN: i32 = -16382 - 63;
/// Digits behind the point that are printed, before trailing zeros are cut.
const FRACTION_DIGITS: u32 = 17;

/// An 80-bit floating-point number; never NaN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LongDouble {
    negative: bool,
    /// Zero, or has its top bit set unless the number is subnormal.
    mantissa: u64,
    /// The value is `mantissa * 2^exponent`.
    exponent: i32,
    infinite: bool,
}

impl LongDouble {
    const ZERO: LongDouble = LongDouble { negative: false, mantissa: 0, exponent: 0, infinite: false };
    const INFINITY: LongDouble = LongDouble { infinite: true, ..LongDouble::ZERO };

    /// Reads a decimal or hexadecimal number or a name of infinity. NaN, overflow, values that vanish, and anything before or behind
    /// the number are refused.
    pub fn parse(text: &[u8]) -> Option<LongDouble> {
        if text.len() >= TEXT_BYTES_MAX {
            return None;
        }
        let (negative, unsigned) = match text {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            rest => (false, rest),
        };
        let magnitude = if unsigned.eq_ignore_ascii_case(b"inf") || unsigned.eq_ignore_ascii_case(b"infinity") {
            LongDouble::INFINITY
        } else if let [b'0', b'x' | b'X', hexadecimal @ ..] = unsigned {
            parse_hexadecimal(hexadecimal)?
        } else {
            parse_decimal(unsigned)?
        };
        Some(LongDouble { negative, ..magnitude })
    }

    /// Whether this is a number one can print: not an infinity.
    pub fn is_finite(&self) -> bool {
        !self.infinite
    }

    /// The nearest double or so; what would vanish becomes the least of its sign.
    pub fn to_f64(&self) -> f64 {
        let magnitude = match self.mantissa {
            _ if self.infinite => f64::INFINITY,
            0 => 0.0,
            mantissa => (mantissa as f64 * 2f64.powi(self.exponent)).max(f64::MIN_POSITIVE),
        };
        if self.negative { -magnitude } else { magnitude }
    }

    /// The sum, rounded to nearest, ties to even; `None` for what would be NaN.
    pub fn checked_add(self, other: LongDouble) -> Option<LongDouble> {
        if self.infinite || other.infinite {
            let opposed = self.infinite && other.infinite && self.negative != other.negative;
            let infinity = if self.infinite { self } else { other };
            return (!opposed).then_some(infinity);
        }
        if self.mantissa == 0 || other.mantissa == 0 {
            return Some(if self.mantissa == 0 { other } else { self });
        }
        let (big, small) = match self.compare_magnitude(&other) {
            Ordering::Less => (other, self),
            _ => (self, other),
        };
        // The bigger one gets 62 more bits below; what the smaller one loses further down only matters as "there was something".
        let shift = (big.exponent - small.exponent) as u32;
        let wide = u128::from(big.mantissa) << 62;
        let lowered = u128::from(small.mantissa) << 62;
        let (aligned, lost) = match shift {
            0 => (lowered, false),
            1..=127 => (lowered >> shift, lowered << (128 - shift) != 0),
            _ => (0, true),
        };
        let sum = if big.negative == small.negative { wide + aligned } else { wide - aligned - u128::from(lost) };
        let magnitude = round(sum, big.exponent - 62, lost);
        Some(LongDouble { negative: big.negative && magnitude != LongDouble::ZERO, ..magnitude })
    }

    /// Seventeen digits behind the point, without trailing zeros: the text stored and replied.
    pub fn to_text(&self) -> String {
        if self.infinite {
            return if self.negative { "-inf".to_owned() } else { "inf".to_owned() };
        }
        let (whole, fraction) = self.decimal();
        let fraction = fraction.trim_end_matches('0');
        let mut text = whole;
        if !fraction.is_empty() {
            text.push('.');
            text.push_str(fraction);
        }
        if self.negative && text != "0" { format!("-{text}") } else { text }
    }

    fn compare_magnitude(&self, other: &LongDouble) -> Ordering {
        self.exponent.cmp(&other.exponent).then(self.mantissa.cmp(&other.mantissa))
    }

    fn decimal(&self) -> (String, String) {
        if self.exponent >= 0 {
            let mut whole = Natural::from(self.mantissa);
            whole.shift_left(self.exponent as u32);
            return (whole.into_decimal(), String::new());
        }
        let scale = 10u128.pow(FRACTION_DIGITS);
        let scaled = u128::from(self.mantissa) * scale;
        let shift = self.exponent.unsigned_abs();
        let rounded = if shift < 128 { shift_right_to_even(scaled, shift, false) } else { 0 };
        ((rounded / scale).to_string(), format!("{:017}", rounded % scale))
    }
}

/// `value >> shift`, to nearest, ties to even; `lost` says that there were more bits below.
fn shift_right_to_even(value: u128, shift: u32, lost: bool) -> u128 {
    if shift == 0 {
        return value;
    }
    if shift > 127 {
        return 0;
    }
    let kept = value >> shift;
    let rest = value & ((1u128 << shift) - 1);
    let half = 1u128 << (shift - 1);
    let up = rest > half || (rest == half && (lost || kept & 1 == 1));
    kept + u128::from(up)
}

/// The nearest number to `value * 2^exponent`, a little more if bits were lost.
fn round(value: u128, exponent: i32, lost: bool) -> LongDouble {
    if value == 0 {
        return LongDouble::ZERO;
    }
    let bits = 128 - value.leading_zeros() as i32;
    // Below the least exponent fewer than 64 bits are left: subnormal numbers.
    let shift = (bits - 64).max(EXPONENT_MIN - exponent);
    let (mut mantissa, mut exponent) = if shift > 0 {
        (shift_right_to_even(value, shift as u32, lost), exponent + shift)
    } else {
        (value << shift.unsigned_abs(), exponent + shift)
    };
    if mantissa >> 64 != 0 {
        mantissa >>= 1;
        exponent += 1;
    }
    if mantissa == 0 {
        return LongDouble::ZERO;
    }
    if exponent > EXPONENT_MAX {
        return LongDouble::INFINITY;
    }
    LongDouble { mantissa: mantissa as u64, exponent, ..LongDouble::ZERO }
}

/// Digits with at most one point among them, how many stand behind the point, and what follows.
fn split_mantissa(text: &[u8], is_digit: fn(&u8) -> bool) -> Option<(Vec<u8>, i32, &[u8])> {
    let mut digits = Vec::with_capacity(text.len());
    let mut behind_point = None;
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        if is_digit(byte) {
            digits.push(*byte);
            behind_point = behind_point.map(|count| count + 1);
        } else if *byte == b'.' && behind_point.is_none() {
            behind_point = Some(0);
        } else {
            break;
        }
        at += 1;
    }
    (!digits.is_empty()).then(|| (digits, behind_point.unwrap_or(0), &text[at..]))
}

fn parse_exponent(text: &[u8], marker: u8) -> Option<i32> {
    let Some((first, rest)) = text.split_first() else {
        return Some(0);
    };
    if first.to_ascii_lowercase() != marker {
        return None;
    }
    let (negative, digits) = match rest {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value = digits.iter().fold(0i32, |value, digit| (value * 10 + i32::from(digit - b'0')).min(1_000_000));
    Some(if negative { -value } else { value })
}

fn parse_decimal(text: &[u8]) -> Option<LongDouble> {
    let (digits, behind_point, rest) = split_mantissa(text, u8::is_ascii_digit)?;
    let exponent = parse_exponent(rest, b'e')? - behind_point;
    let digits: &[u8] = match digits.iter().position(|digit| *digit != b'0') {
        Some(first) => &digits[first..],
        None => return Some(LongDouble::ZERO),
    };
    // Far outside of what the format holds, whatever the digits: no need to compute it.
    let magnitude = digits.len() as i32 + exponent;
    if !(-4960..=4940).contains(&magnitude) {
        return None;
    }
    let mut number = Natural::from_decimal(digits);
    let (exponent, lost) = if exponent >= 0 {
        number.multiply_by_power_of_ten(exponent as u32);
        (0, false)
    } else {
        // Enough bits below the point that 64 of them, and one to round by, are left after the division.
        let shift = exponent.unsigned_abs() * 10 / 3 + 130;
        number.shift_left(shift);
        (-(shift as i32), number.divide_by_power_of_ten(exponent.unsigned_abs()))
    };
    finish(&number, exponent, lost)
}

fn parse_hexadecimal(text: &[u8]) -> Option<LongDouble> {
    let (digits, behind_point, rest) = split_mantissa(text, u8::is_ascii_hexdigit)?;
    let exponent = parse_exponent(rest, b'p')? - 4 * behind_point;
    let mut number = Natural::from(0);
    for digit in digits {
        let value = (digit as char).to_digit(16).unwrap_or(0);
        number.multiply_add(16, value);
    }
    if number.bits() == 0 {
        return Some(LongDouble::ZERO);
    }
    finish(&number, exponent, false)
}

fn finish(number: &Natural, exponent: i32, lost: bool) -> Option<LongDouble> {
    let (top, dropped, lost_here) = number.top_bits();
    let rounded = round(top, exponent.checked_add(dropped as i32)?, lost || lost_here);
    (rounded.mantissa != 0 && !rounded.infinite).then_some(rounded)
}

/// A natural number of any size, least word first.
struct Natural(Vec<u32>);

impl From<u64> for Natural {
    fn from(value: u64) -> Natural {
        let mut natural = Natural(vec![value as u32, (value >> 32) as u32]);
        natural.trim();
        natural
    }
}

impl Natural {
    fn from_decimal(digits: &[u8]) -> Natural {
        let mut natural = Natural::from(0);
        for chunk in digits.chunks(9) {
            let value = chunk.iter().fold(0u32, |value, digit| value * 10 + u32::from(digit - b'0'));
            natural.multiply_add(10u32.pow(chunk.len() as u32), value);
        }
        natural
    }

    fn trim(&mut self) {
        while self.0.last() == Some(&0) {
            self.0.pop();
        }
    }

    fn bits(&self) -> usize {
        self.0.last().map_or(0, |word| self.0.len() * 32 - word.leading_zeros() as usize)
    }

    fn multiply_add(&mut self, factor: u32, addend: u32) {
        let mut carry = u64::from(addend);
        for word in &mut self.0 {
            carry += u64::from(*word) * u64::from(factor);
            *word = carry as u32;
            carry >>= 32;
        }
        if carry != 0 {
            self.0.push(carry as u32);
        }
    }

    /// Divides, rounding down; returns the remainder.
    fn divide(&mut self, divisor: u32) -> u32 {
        let mut rest = 0u64;
        for word in self.0.iter_mut().rev() {
            rest = rest << 32 | u64::from(*word);
            *word = (rest / u64::from(divisor)) as u32;
            rest %= u64::from(divisor);
        }
        self.trim();
        rest as u32
    }

    fn multiply_by_power_of_ten(&mut self, power: u32) {
        for _ in 0..power / 9 {
            self.multiply_add(1_000_000_000, 0);
        }
        self.multiply_add(10u32.pow(power % 9), 0);
    }

    /// Divides, rounding down; says whether anything was lost.
    fn divide_by_power_of_ten(&mut self, power: u32) -> bool {
        let mut lost = false;
        for _ in 0..power / 9 {
            lost |= self.divide(1_000_000_000) != 0;
        }
        lost | (self.divide(10u32.pow(power % 9)) != 0)
    }

    fn shift_left(&mut self, bits: u32) {
        if !bits.is_multiple_of(32) {
            self.multiply_add(1 << (bits % 32), 0);
        }
        self.0.splice(0..0, std::iter::repeat_n(0, (bits / 32) as usize));
        self.trim();
    }

    /// The top 97 to 128 bits, how many bits are below them, and whether one of those is set.
    fn top_bits(&self) -> (u128, usize, bool) {
        let below = self.0.len().saturating_sub(4);
        let top = self.0[below..].iter().rev().fold(0u128, |value, word| value << 32 | u128::from(*word));
        (top, below * 32, self.0[..below].iter().any(|word| *word != 0))
    }

    fn into_decimal(mut self) -> String {
        let mut chunks = Vec::new();
        while !self.0.is_empty() {
            chunks.push(self.divide(1_000_000_000));
        }
        let mut text = chunks.pop().unwrap_or(0).to_string();
        for chunk in chunks.iter().rev() {
            text.push_str(&format!("{chunk:09}"));
        }
        text
    }
}
