//! Days and times of the calendar, in UTC. Knows no clock.

/// Milliseconds of a day.
pub const DAY_MS: i64 = 86_400_000;

/// `2026-11-22T06:30:00.000Z`.
pub fn time(unix_ms: i64) -> String {
    let ms = unix_ms.rem_euclid(DAY_MS);
    let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
    format!("{}T{hour:02}:{minute:02}:{second:02}.{:03}Z", day(unix_ms.div_euclid(DAY_MS)), ms % 1000)
}

/// `2026-11-22`, of a number of days since 1970.
pub fn day(days: i64) -> String {
    // Days are counted in eras of 400 years that begin on the first of March, so that leap days come last.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
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
