//! What tenants used, day by day, kept on disk so that a restart loses a minute at most: the base of chargeback.
//!
//! ```text
//!   counters of tenants (grow until restart) ─► differences ─► today's rows ─► usage/2026-11-22.csv, whole, every minute
//! ```
//! One file a day, as many rows as there are tenants, as many files as `usage-days` says. A day is one of UTC. What cannot be read
//! is left out and said; what cannot be written is tried again. Knows no tenants but by name, and no clock.

use crate::insight::calendar;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Tenants of one day at most; what further ones use is counted as [`OTHER`].
pub const ROWS_MAX: usize = 4096;
/// Who is no tenant.
pub const OTHER: &str = "_other";
/// The longest line of a file that is read.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// What is counted, in the order of the columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    /// Commands.
    Operations,
    /// Reads that found their key.
    Hits,
    /// Reads that found none.
    Misses,
    /// Bytes of requests.
    InputBytes,
    /// Bytes of answers.
    OutputBytes,
    /// Microseconds of processor time.
    CpuMicroseconds,
    /// Keys evicted.
    Evicted,
    /// Commands delayed or refused for their rate.
    Throttled,
    /// Requests the rules forbade.
    Denied,
    /// Connections that were opened.
    Connections,
    /// MiB-seconds of memory.
    MemoryMibSeconds,
}

/// Names of the columns, as in the files.
const COLUMNS: [&str; 11] = [
    "operations",
    "keyspace_hits",
    "keyspace_misses",
    "input_bytes",
    "output_bytes",
    "cpu_microseconds",
    "evicted_keys",
    "throttled",
    "denied",
    "connections",
    "memory_mib_seconds",
];

/// One number for each column.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Row([u64; COLUMNS.len()]);

impl Row {
    /// A number.
    pub fn get(&self, column: Column) -> u64 {
        self.0[column as usize]
    }

    /// The same row with this number.
    #[must_use]
    pub fn with(mut self, column: Column, value: u64) -> Row {
        self.0[column as usize] = value;
        self
    }

    fn add(&mut self, other: &Row) {
        self.0.iter_mut().zip(other.0).for_each(|(sum, more)| *sum = sum.saturating_add(more));
    }

    /// What came since `before`. A counter that went back began anew.
    fn since(&self, before: &Row) -> Row {
        let mut grown = *self;
        grown.0.iter_mut().zip(before.0).for_each(|(now, then)| *now = if *now >= then { *now - then } else { *now });
        grown
    }

    fn without(&self, other: &Row) -> Row {
        let mut rest = *self;
        rest.0.iter_mut().zip(other.0).for_each(|(all, part)| *all = all.saturating_sub(part));
        rest
    }

    fn is_zero(&self) -> bool {
        self.0.iter().all(|number| *number == 0)
    }
}

/// How far all counters are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Of each tenant, by what it is for ever (its number), with its name of today.
    pub tenants: BTreeMap<u32, (String, Row)>,
    /// Of everybody together.
    pub total: Row,
    /// Memory now, in bytes, of the tenants and (0) of nobody's keys; empty where no data is served.
    pub memory: BTreeMap<u32, u64>,
}

/// The days so far.
pub struct Ledger {
    folder: PathBuf,
    days_kept: u32,
    day: i64,
    rows: BTreeMap<String, Row>,
    last: Option<(i64, Reading)>,
    /// Bytes times milliseconds that make no whole MiB-second yet.
    rest: BTreeMap<u32, u64>,
    dirty: bool,
    broken: bool,
}

impl Ledger {
    /// Goes on with what the folder has of today.
    pub fn open(folder: PathBuf, days_kept: u32, now_ms: i64) -> Ledger {
        let day = now_ms.div_euclid(calendar::DAY_MS);
        let rows = read(&file_of(&folder, day)).unwrap_or_default();
        let (last, rest) = (None, BTreeMap::new());
        Ledger { folder, days_kept, day, rows, last, rest, dirty: false, broken: false }
    }

    /// Adds what happened since the last reading. The first one only says where counters stand: they begin at zero with the
    /// process, so all of it is new.
    pub fn note(&mut self, now_ms: i64, reading: Reading) {
        let day = now_ms.div_euclid(calendar::DAY_MS);
        if day != self.day {
            self.flush();
            self.day = day;
            self.rows = read(&file_of(&self.folder, day)).unwrap_or_default();
            self.forget_old();
        }
        let (then_ms, before) = self.last.take().unwrap_or((now_ms, Reading::default()));
        let elapsed_ms = u64::try_from(now_ms - then_ms).unwrap_or(0);
        let mut tenants = Row::default();
        for (number, (name, row)) in &reading.tenants {
            let known = before.tenants.get(number).map(|(_, row)| *row).unwrap_or_default();
            let grown = row.since(&known);
            tenants.add(&grown);
            let memory = self.memory_of(*number, &reading, elapsed_ms);
            self.add(name, &grown.with(Column::MemoryMibSeconds, memory));
        }
        let rest = reading.total.since(&before.total).without(&tenants);
        let memory = self.memory_of(0, &reading, elapsed_ms);
        self.add(OTHER, &rest.with(Column::MemoryMibSeconds, memory));
        self.rest.retain(|number, _| *number == 0 || reading.tenants.contains_key(number));
        self.last = Some((now_ms, reading));
    }

    fn memory_of(&mut self, number: u32, reading: &Reading, elapsed_ms: u64) -> u64 {
        const MIB_SECOND: u64 = 1000 << 20;
        let bytes = reading.memory.get(&number).copied().unwrap_or(0);
        let rest = self.rest.entry(number).or_default();
        let all = rest.saturating_add(bytes.saturating_mul(elapsed_ms));
        *rest = all % MIB_SECOND;
        all / MIB_SECOND
    }

    fn add(&mut self, name: &str, row: &Row) {
        if row.is_zero() {
            return;
        }
        self.dirty = true;
        let known = self.rows.contains_key(name) || self.rows.len() < ROWS_MAX;
        self.rows.entry(if known { name.to_owned() } else { OTHER.to_owned() }).or_default().add(row);
    }

    /// Writes today, if it changed.
    pub fn flush(&mut self) {
        if !self.dirty {
            return;
        }
        match write(&self.folder, &file_of(&self.folder, self.day), &self.rows) {
            Ok(()) => (self.dirty, self.broken) = (false, false),
            Err(error) => {
                if !std::mem::replace(&mut self.broken, true) {
                    tracing::error!(%error, "usage of tenants cannot be written");
                }
            }
        }
    }

    /// Every day of a month, with its rows by tenant.
    pub fn month(&mut self, month: &str) -> Vec<(String, BTreeMap<String, Row>)> {
        let today = calendar::day(self.day);
        let mut days: BTreeMap<String, BTreeMap<String, Row>> = BTreeMap::new();
        for day in days_of(&self.folder).into_iter().filter(|day| day.starts_with(month)) {
            if let Some(rows) = read(&self.folder.join(format!("{day}.csv"))) {
                days.insert(day, rows);
            }
        }
        if today.starts_with(month) && !self.rows.is_empty() {
            days.insert(today, self.rows.clone());
        }
        days.into_iter().collect()
    }

    fn forget_old(&self) {
        let first = calendar::day(self.day - i64::from(self.days_kept) + 1);
        for day in days_of(&self.folder).into_iter().filter(|day| *day < first) {
            if let Err(error) = fs::remove_file(self.folder.join(format!("{day}.csv"))) {
                tracing::warn!(%error, day, "an old day of usage cannot be removed");
            }
        }
    }
}

fn file_of(folder: &Path, day: i64) -> PathBuf {
    folder.join(format!("{}.csv", calendar::day(day)))
}

/// The days there are files of.
fn days_of(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let day = |name: String| name.strip_suffix(".csv").map(str::to_owned);
    let mut days: Vec<String> = names.filter_map(day).filter(|day| day.len() == 10).collect();
    days.sort_unstable();
    days
}

/// Whole or not at all: a temporary file, synced, renamed.
fn write(folder: &Path, path: &Path, rows: &BTreeMap<String, Row>) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let mut text = format!("tenant,{}\n", COLUMNS.join(","));
    for (name, row) in rows {
        let numbers: Vec<String> = row.0.iter().map(u64::to_string).collect();
        text.push_str(&format!("{name},{}\n", numbers.join(",")));
    }
    let temporary = path.with_extension("tmp");
    let mut file = fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, path)
}

/// The rows of a file. Columns are found by name, so that a version with other columns can be read.
fn read(path: &Path) -> Option<BTreeMap<String, Row>> {
    let size = fs::metadata(path).ok()?.len();
    let text = if size <= FILE_BYTES_MAX { fs::read_to_string(path).ok() } else { None };
    let Some(text) = text else {
        tracing::warn!(path = %path.display(), "a day of usage cannot be read");
        return None;
    };
    let mut lines = text.lines();
    let heading: Vec<&str> = lines.next()?.split(',').collect();
    let places: Vec<Option<usize>> =
        heading.iter().skip(1).map(|name| COLUMNS.iter().position(|column| column == name)).collect();
    let mut rows: BTreeMap<String, Row> = BTreeMap::new();
    for line in lines.take(ROWS_MAX + 1) {
        let Some((name, numbers)) = line.split_once(',') else { continue };
        let mut row = Row::default();
        for (place, number) in places.iter().zip(numbers.split(',')) {
            if let (Some(place), Ok(number)) = (place, number.parse()) {
                row.0[*place] = number;
            }
        }
        rows.entry(name.to_owned()).or_default().add(&row);
    }
    Some(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = calendar::DAY_MS;

    fn reading(tenant: u64, total: u64, bytes: u64) -> Reading {
        let row = |count| Row::default().with(Column::Operations, count);
        Reading {
            tenants: BTreeMap::from([(7, ("gw".to_owned(), row(tenant)))]),
            total: row(total),
            memory: BTreeMap::from([(7, bytes)]),
        }
    }

    fn operations(ledger: &mut Ledger, month: &str) -> Vec<(String, String, u64)> {
        let days = ledger.month(month).into_iter();
        days.flat_map(|(day, rows)| {
            rows.into_iter().map(move |(name, row)| (day.clone(), name, row.get(Column::Operations)))
        })
        .collect()
    }

    #[test]
    fn a_restart_goes_on_where_the_day_stood() {
        let folder = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(folder.path().join("usage"), 400, 0);
        ledger.note(1000, reading(5, 8, 0));
        ledger.note(2000, reading(9, 12, 0));
        ledger.flush();
        let mut ledger = Ledger::open(folder.path().join("usage"), 400, 5000);
        // The process began anew, and so did its counters.
        ledger.note(6000, reading(2, 2, 0));
        let day = || "1970-01-01".to_owned();
        assert_eq!(
            operations(&mut ledger, "1970-01"),
            [(day(), OTHER.to_owned(), 3), (day(), "gw".to_owned(), 11)],
            "and what is no tenant's is nobody's"
        );
    }

    #[test]
    fn days_are_apart_and_old_ones_go() {
        let folder = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(folder.path().to_owned(), 2, 0);
        ledger.note(0, reading(1, 1, 0));
        ledger.note(DAY, reading(3, 3, 0));
        ledger.note(2 * DAY, reading(6, 6, 0));
        let days: Vec<(String, u64)> =
            operations(&mut ledger, "1970-01").into_iter().map(|(day, _, count)| (day, count)).collect();
        assert_eq!(days, [("1970-01-02".to_owned(), 2), ("1970-01-03".to_owned(), 3)]);
        assert!(operations(&mut ledger, "1970-02").is_empty());
    }

    #[test]
    fn memory_is_counted_times_time() {
        let folder = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(folder.path().to_owned(), 2, 0);
        ledger.note(0, reading(0, 0, 1 << 19));
        for step in 1..=10 {
            ledger.note(step * 500, reading(0, 0, 1 << 19));
        }
        // Half a MiB for five seconds.
        assert_eq!(ledger.month("1970-01")[0].1["gw"].get(Column::MemoryMibSeconds), 2);
    }

    #[test]
    fn a_damaged_file_and_unknown_columns_do_no_harm() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("1970-01-01.csv"), "tenant,operations,other\ngw,7,8\nx\n,,\n\u{1},a,b\n").unwrap();
        fs::write(folder.path().join("1970-01-02.csv"), [0xff, 0xfe]).unwrap();
        let mut ledger = Ledger::open(folder.path().to_owned(), 400, 0);
        ledger.note(1000, reading(1, 1, 0));
        assert!(operations(&mut ledger, "1970-01").contains(&("1970-01-01".to_owned(), "gw".to_owned(), 8)));
    }
}
