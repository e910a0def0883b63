//! Results as text: aligned columns, JSON, times. Knows nothing about clusters.

use std::io::{self, Write as _};

use chrono::{DateTime, SecondsFormat};
use keyward_client::ClientError;

/// Rows under headings. The last column is not padded, so a long one wraps instead of pushing others away.
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(headings: &[&str]) -> Self {
        Self { rows: vec![headings.iter().map(|heading| heading.to_uppercase()).collect()] }
    }

    /// A table of names and values, without headings.
    pub fn of_pairs() -> Self {
        Self { rows: Vec::new() }
    }

    /// Adds a row. Cells come from the cluster and are made harmless for a terminal.
    pub fn row<C: AsRef<str>>(&mut self, cells: &[C]) {
        self.rows.push(cells.iter().map(|cell| printable(cell.as_ref())).collect());
    }

    pub fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let cell_width = |row: &Vec<String>, column: usize| row.get(column).map_or(0, |cell| cell.chars().count());
        let widths: Vec<usize> =
            (0..columns).map(|column| self.rows.iter().map(|row| cell_width(row, column)).max().unwrap_or(0)).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(&format!("{cell:<width$}  "));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Control characters escaped: a name must not steer the terminal it is printed on.
pub fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|character| {
            let escaped = character.is_control().then(|| character.escape_default());
            let plain = escaped.is_none().then_some(character);
            escaped.into_iter().flatten().chain(plain)
        })
        .collect()
}

/// Milliseconds since 1970 as people and scripts both read it, in UTC; `-` for never.
pub fn time(unix_ms: i64) -> String {
    if unix_ms <= 0 {
        return "-".to_owned();
    }
    DateTime::from_timestamp_millis(unix_ms).unwrap_or_default().to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// Bytes as people read them.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let unit = (bytes.max(1).ilog2() as usize / 10).min(UNITS.len() - 1);
    if unit == 0 {
        return format!("{bytes} B");
    }
    format!("{:.1} {}", bytes as f64 / (1u64 << (10 * unit)) as f64, UNITS[unit])
}

/// Writes to standard output. Answers false if nobody reads it any more, as after `| head`.
pub fn print(text: &str) -> Result<bool, ClientError> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(ClientError::Options(format!("standard output: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["name", "rules"]);
        table.row(&["default", "on"]);
        table.row(&["ä", ""]);
        assert_eq!(table.render(), "NAME     RULES\ndefault  on\nä\n");
    }

    #[test]
    fn names_cannot_steer_the_terminal() {
        assert_eq!(printable("a\x1b[2Jb\r\n'ä"), "a\\u{1b}[2Jb\\r\\n'ä");
    }

    #[test]
    fn times_are_calendar_times() {
        assert_eq!(time(1), "1970-01-01T00:00:00.001Z");
        assert_eq!(time(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(time(1_795_219_199_999), "2026-11-20T23:59:59.999Z");
        assert_eq!(time(4_107_542_400_000), "2100-03-01T00:00:00.000Z");
        assert_eq!(time(0), "-");
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(u64::MAX), "16777216.0 TiB");
    }
}
