//! The audit stream: who logged in or failed to, what was denied, changed, administered and flushed; one JSON object a line.
//!
//! ```text
//!   data threads, control plane ─► shares ─► bounded queue ─► own thread ─► file (0600, rotated) and log
//!                                   │         └ full: counted, and said in a line of its own
//!                                   └ used up: counted, and said in a line of its own
//! ```
//! Nothing waits for it, and nothing is lost silently. Whoever makes many lines uses up a share ([`super::shares`]), and
//! rolls nobody else's away. A line has no value and no password, and names of keys only where
//! `audit-keys` says so: it is built of fields that have none, never of a request.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write as _};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use super::shares::{Doer, Shares};
use crate::config::Config;
use parking_lot::Mutex;

/// Lines that may wait for the disk: some megabytes, and seconds of denials at the rate of a misconfigured application.
const QUEUE_LINES_MAX: usize = 16 * 1024;
/// How much of a name a line shows, in bytes: strangers choose names.
const NAME_BYTES_MAX: usize = 256;
/// Names of one request that a line shows.
const NAMES_MAX: usize = 16;
/// How long a line stays in memory at most, so that `tail -f` shows what happens now.
const FLUSH_EVERY: Duration = Duration::from_millis(100);
/// File mode: what happens is the operator's business alone.
const MODE: u32 = 0o600;

/// What kind of thing happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AuditEvent {
    /// Somebody logged in, or failed to.
    Auth,
    /// The rules forbade a request.
    Denial,
    /// Users, tenants, nodes or settings were changed, by agreement of the cluster.
    Policy,
    /// A command of administrators, or a call of the admin port.
    Admin,
    /// Keys were removed all at once.
    Flush,
    /// A command on data, one of many.
    Data,
}

impl AuditEvent {
    /// All of them.
    pub const ALL: [AuditEvent; 6] = [
        AuditEvent::Auth,
        AuditEvent::Denial,
        AuditEvent::Policy,
        AuditEvent::Admin,
        AuditEvent::Flush,
        AuditEvent::Data,
    ];

    /// As a line and the configuration spell it.
    pub const fn name(self) -> &'static str {
        match self {
            AuditEvent::Auth => "auth",
            AuditEvent::Denial => "denial",
            AuditEvent::Policy => "policy",
            AuditEvent::Admin => "admin",
            AuditEvent::Flush => "flush",
            AuditEvent::Data => "data",
        }
    }
}

/// A line that is being written.
pub struct Line {
    text: String,
}

impl Line {
    fn new(now_ms: i64, node: &str, event: &str) -> Line {
        let mut line = Line { text: String::with_capacity(200) };
        line.text.push_str("{\"time\":\"");
        line.text.push_str(&crate::insight::calendar::time(now_ms));
        line.text.push('"');
        line.word("node", node).word("event", event)
    }

    /// A field with a text of ours.
    pub fn word(mut self, name: &str, value: &str) -> Line {
        self.name(name);
        quoted(&mut self.text, value);
        self
    }

    /// A field with a name somebody chose; cut after some bytes, escaped if it is not text.
    pub fn bytes(self, name: &str, value: &[u8]) -> Line {
        self.word(name, &cut(value))
    }

    /// A field with several of them, no more than [`NAMES_MAX`].
    pub fn list<'v>(mut self, name: &str, values: impl Iterator<Item = &'v [u8]>) -> Line {
        self.name(name);
        let mut before = '[';
        for value in values.take(NAMES_MAX) {
            self.text.push(before);
            quoted(&mut self.text, &cut(value));
            before = ',';
        }
        self.text.push_str(if before == '[' { "[]" } else { "]" });
        self
    }

    /// A field with a number.
    pub fn number(mut self, name: &str, value: u64) -> Line {
        self.name(name);
        // Writing to a string cannot fail.
        let _ = write!(self.text, "{value}");
        self
    }

    fn name(&mut self, name: &str) {
        self.text.push(',');
        quoted(&mut self.text, name);
        self.text.push(':');
    }

    fn finish(mut self) -> String {
        self.text.push('}');
        self.text
    }
}

/// A name as text, no longer than a line shows.
fn cut(value: &[u8]) -> String {
    let cut = &value[..value.len().min(NAME_BYTES_MAX)];
    match str::from_utf8(cut) {
        Ok(text) => text.to_owned(),
        Err(_) => cut.escape_ascii().to_string(),
    }
}

fn quoted(out: &mut String, text: &str) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            control if control.is_control() => _ = write!(out, "\\u{:04x}", u32::from(control)),
            plain => out.push(plain),
        }
    }
    out.push('"');
}

/// Where lines go.
#[derive(Clone, Debug)]
struct Outlet {
    file: Option<PathBuf>,
    bytes_max: u64,
    kept: u32,
    log: bool,
}

/// What is recorded, and the way there. Clones of its `Arc` are everywhere.
pub struct Audit {
    queue: Option<SyncSender<String>>,
    wanted: [bool; AuditEvent::ALL.len()],
    node: String,
    keys: bool,
    sample: u64,
    counters: Arc<Counters>,
    shares: Arc<Mutex<Shares>>,
}

#[derive(Default)]
struct Counters {
    seen: AtomicU64,
    written: AtomicU64,
    dropped: AtomicU64,
    failed: AtomicU64,
    withheld: AtomicU64,
}

impl Audit {
    /// As configured: without a file, and not to the log, nothing is recorded. Opens the file, and starts the thread.
    pub fn start(config: &Config) -> Result<Audit, String> {
        let counters: Arc<Counters> = Arc::default();
        let outlet = Outlet {
            file: config.audit_file.clone(),
            bytes_max: config.audit_file_max.bytes(),
            kept: config.audit_files_kept,
            log: config.audit_log,
        };
        let mut wanted = [false; AuditEvent::ALL.len()];
        config.audit_events.iter().for_each(|event| wanted[*event as usize] = true);
        wanted[AuditEvent::Data as usize] = config.audit_data_sample > 0;
        let mut audit = Audit {
            queue: None,
            wanted,
            node: config.name.clone(),
            keys: config.audit_keys,
            sample: u64::from(config.audit_data_sample),
            counters: Arc::clone(&counters),
            shares: Arc::new(Mutex::new(Shares::new(config.audit_lines_per_minute))),
        };
        if outlet.file.is_none() && !outlet.log {
            audit.wanted = [false; AuditEvent::ALL.len()];
            return Ok(audit);
        }
        let cannot = |error: io::Error| format!("the audit file cannot be written: {error}");
        let writer = Writer::open(outlet, &config.name, counters, Arc::clone(&audit.shares)).map_err(cannot)?;
        let (queue, lines) = sync_channel(QUEUE_LINES_MAX);
        audit.queue = Some(queue);
        let thread = std::thread::Builder::new().name("keyward-audit".to_owned());
        thread.spawn(move || writer.run(&lines)).map_err(|error| format!("cannot start the audit thread: {error}"))?;
        Ok(audit)
    }

    /// Whether such events are recorded.
    #[inline]
    pub fn wants(&self, event: AuditEvent) -> bool {
        self.wanted[event as usize]
    }

    /// Whether any command is of interest once it is admitted.
    #[inline]
    pub fn watches_commands(&self) -> bool {
        self.wants(AuditEvent::Admin) || self.wants(AuditEvent::Flush) || self.sample > 0
    }

    /// Whether lines name keys and channels.
    pub fn names_keys(&self) -> bool {
        self.keys
    }

    /// Whether this command on data is the one of many that is recorded.
    pub fn samples(&self) -> bool {
        self.sample > 0 && self.counters.seen.fetch_add(1, Ordering::Relaxed).is_multiple_of(self.sample)
    }

    /// Records an event, with the fields `fill` adds, if it is wanted and whoever did it has room for it.
    pub fn note(&self, event: AuditEvent, doer: impl FnOnce() -> Doer, now_ms: i64, fill: impl FnOnce(Line) -> Line) {
        let Some(queue) = self.queue.as_ref().filter(|_| self.wants(event)) else { return };
        let doer = doer();
        if doer != Doer::Trusted && !self.shares.lock().take(event, doer, now_ms) {
            self.counters.withheld.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let line = fill(Line::new(now_ms, &self.node, event.name())).finish();
        if let Err(TrySendError::Full(_)) = queue.try_send(line) {
            self.counters.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Lines written, and lines dropped because the disk did not keep up or refused.
    pub fn counts(&self) -> (u64, u64) {
        let lost = self.counters.dropped.load(Ordering::Relaxed) + self.counters.failed.load(Ordering::Relaxed);
        (self.counters.written.load(Ordering::Relaxed), lost)
    }

    /// Lines that were told as a number, since whoever made them made too many.
    pub fn withheld(&self) -> u64 {
        self.counters.withheld.load(Ordering::Relaxed)
    }
}

/// The other end of the queue.
struct Writer {
    outlet: Outlet,
    node: String,
    file: Option<BufWriter<File>>,
    bytes: u64,
    counters: Arc<Counters>,
    shares: Arc<Mutex<Shares>>,
    told_dropped: u64,
    broken: bool,
}

impl Writer {
    fn open(outlet: Outlet, node: &str, counters: Arc<Counters>, shares: Arc<Mutex<Shares>>) -> io::Result<Writer> {
        let (node, file, bytes) = (node.to_owned(), None, 0);
        let mut writer = Writer { outlet, node, file, bytes, counters, shares, told_dropped: 0, broken: false };
        writer.reopen()?;
        Ok(writer)
    }

    /// Opens the file at its end. One that others may read is closed to them.
    fn reopen(&mut self) -> io::Result<()> {
        let Some(path) = &self.outlet.file else { return Ok(()) };
        let file = OpenOptions::new().create(true).append(true).mode(MODE).open(path)?;
        let mut permissions = file.metadata()?.permissions();
        if permissions.mode() & 0o777 != MODE {
            permissions.set_mode(MODE);
            file.set_permissions(permissions)?;
        }
        self.bytes = file.metadata()?.len();
        self.file = Some(BufWriter::new(file));
        Ok(())
    }

    fn run(mut self, lines: &Receiver<String>) {
        let mut rested = Instant::now();
        loop {
            match lines.recv_timeout(FLUSH_EVERY) {
                Ok(line) => self.write(&line),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return self.rest(true),
            }
            if rested.elapsed() >= FLUSH_EVERY {
                self.rest(false);
                rested = Instant::now();
            }
        }
    }

    fn write(&mut self, line: &str) {
        if self.outlet.log {
            tracing::info!(target: "audit", "{line}");
        }
        match self.append(line) {
            Ok(()) => {
                self.counters.written.fetch_add(1, Ordering::Relaxed);
                self.broken = false;
            }
            Err(error) => {
                self.counters.failed.fetch_add(1, Ordering::Relaxed);
                if !std::mem::replace(&mut self.broken, true) {
                    tracing::error!(%error, "the audit file cannot be written");
                }
                // The next line tries a fresh one.
                self.file = None;
            }
        }
    }

    fn append(&mut self, line: &str) -> io::Result<()> {
        if self.outlet.file.is_none() {
            return Ok(());
        }
        if self.bytes + line.len() as u64 + 1 > self.outlet.bytes_max && self.bytes > 0 {
            self.rotate()?;
        }
        if self.file.is_none() {
            self.reopen()?;
        }
        if let Some(file) = &mut self.file {
            file.write_all(line.as_bytes())?;
            file.write_all(b"\n")?;
            self.bytes += line.len() as u64 + 1;
        }
        Ok(())
    }

    /// `audit.log` becomes `audit.log.1`, that `.2`, and so on; the oldest goes.
    fn rotate(&mut self) -> io::Result<()> {
        let Some(path) = self.outlet.file.clone() else { return Ok(()) };
        if let Some(mut file) = self.file.take() {
            file.flush()?;
        }
        for number in (1..=self.outlet.kept).rev() {
            let older = numbered(&path, number);
            let newer = if number == 1 { path.clone() } else { numbered(&path, number - 1) };
            match std::fs::rename(&newer, &older) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        if self.outlet.kept == 0 {
            std::fs::remove_file(&path)?;
        }
        self.reopen()
    }

    /// Now and then: what was dropped and withheld is said, and what is in memory goes to the disk.
    fn rest(&mut self, at_last: bool) {
        let now_ms = crate::node::now_ms();
        let due = self.shares.lock().due(now_ms, at_last);
        for withheld in due {
            let (field, value) = withheld.doer.field();
            let line = Line::new(now_ms, &self.node, withheld.event.name()).bytes(field, value);
            self.write(&line.number("repeated", withheld.lines).finish());
        }
        let dropped = self.counters.dropped.load(Ordering::Relaxed);
        if dropped > self.told_dropped {
            let count = dropped - self.told_dropped;
            self.told_dropped = dropped;
            tracing::warn!(count, "audit lines were dropped: the disk did not keep up");
            let line = Line::new(now_ms, &self.node, "dropped").number("count", count).finish();
            self.write(&line);
        }
        if let Some(file) = &mut self.file
            && let Err(error) = file.flush()
        {
            tracing::error!(%error, "the audit file cannot be written");
            self.file = None;
        }
    }
}

fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writer(path: &Path, bytes_max: u64) -> Writer {
        let outlet = Outlet { file: Some(path.to_owned()), bytes_max, kept: 2, log: false };
        Writer::open(outlet, "one", Arc::default(), Arc::default()).unwrap()
    }

    #[test]
    fn a_line_is_one_json_object_whatever_names_are_in_it() {
        let line =
            Line::new(0, "one", "auth").bytes("user", b"a\"\\\r\n\x1b").bytes("object", b"\xff").number("count", 3);
        assert_eq!(
            line.finish(),
            "{\"time\":\"1970-01-01T00:00:00.000Z\",\"node\":\"one\",\"event\":\"auth\",\"user\":\"a\\\"\\\\\\r\\n\\u001b\",\
             \"object\":\"\\\\xff\",\"count\":3}"
        );
        let long = Line::new(0, "one", "auth").bytes("user", &[b'u'; 5000]).finish();
        assert!(long.len() < 400);
        let names = [&b"a\""[..], b"b"];
        assert!(
            Line::new(0, "one", "data").list("keys", names.into_iter()).finish().ends_with(r#""keys":["a\"","b"]}"#)
        );
        let many = Line::new(0, "one", "data").list("keys", std::iter::repeat(names[1])).finish();
        assert_eq!(many.matches("\"b\"").count(), NAMES_MAX);
        assert!(Line::new(0, "one", "data").list("keys", std::iter::empty()).finish().ends_with("\"keys\":[]}"));
    }

    #[test]
    fn the_file_is_for_its_owner_alone_and_stays_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        std::fs::write(&path, "{}\n").unwrap();
        let mut writer = writer(&path, 30);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        for number in 0..20 {
            writer.write(&format!("{{\"line\":{number:04}}}"));
        }
        writer.rest(false);
        let mut names: Vec<String> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort_unstable();
        assert_eq!(names, ["audit.log", "audit.log.1", "audit.log.2"]);
        assert!(std::fs::read_to_string(&path).unwrap().contains("0019"));
        for name in names {
            assert!(std::fs::metadata(folder.path().join(name)).unwrap().len() <= 30);
        }
    }

    #[test]
    fn what_is_dropped_is_counted_and_said() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let mut writer = writer(&path, 1 << 20);
        writer.counters.dropped.fetch_add(7, Ordering::Relaxed);
        writer.rest(false);
        writer.rest(false);
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 1);
        assert!(text.contains("\"event\":\"dropped\",\"count\":7"), "{text}");
    }

    #[test]
    fn what_somebody_repeats_is_counted_and_said() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let mut writer = writer(&path, 1 << 20);
        *writer.shares.lock() = Shares::new(1);
        for _ in 0..8 {
            writer.shares.lock().take(AuditEvent::Auth, Doer::stranger("10.0.0.7:1"), 0);
        }
        writer.rest(false);
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 1);
        assert!(text.contains("\"event\":\"auth\",\"by-strangers-of\":\"10.0.0.7\",\"repeated\":7"), "{text}");
    }
}
