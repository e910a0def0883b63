//! Days and times of the calendar, in UTC. Knows no clock.

use chrono::{DateTime, SecondsFormat};

/// Milliseconds of a day.
pub const DAY_MS: i64 = 86_400_000;

/// `2026-11-22T06:30:00.000Z`; what no calendar reaches is the beginning of 1970.
pub fn time(unix_ms: i64) -> String {
    DateTime::from_timestamp_millis(unix_ms).unwrap_or_default().to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// `2026-11-22`, of a number of days since 1970.
pub fn day(days: i64) -> String {
    DateTime::from_timestamp_millis(days.saturating_mul(DAY_MS)).unwrap_or_default().format("%F").to_string()
}

/// Whether this is a month as `2026-11`.
pub fn is_month(text: &str) -> bool {
    let bytes = text.as_bytes();
    let digits =
        |range: std::ops::Range<usize>| bytes.get(range).is_some_and(|part| part.iter().all(u8::is_ascii_digit));
    bytes.len() == 7 && bytes[4] == b'-' && digits(0..4) && digits(5..7) && ("01"..="12").contains(&&text[5..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_calendar_times() {
        assert_eq!(time(1), "1970-01-01T00:00:00.001Z");
        assert_eq!(time(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(time(1_795_219_199_999), "2026-11-20T23:59:59.999Z");
        assert_eq!(day(0), "1970-01-01");
    }

    #[test]
    fn a_month_is_a_year_and_a_month() {
        assert!(is_month("2026-11") && is_month("1999-01"));
        for wrong in ["2026-13", "2026-00", "2026-1", "26-11", "2026/11", "", "2026-1é"] {
            assert!(!is_month(wrong), "{wrong}");
        }
    }
}
