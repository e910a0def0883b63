//! ACL LOG: the last refusals and failed logins, repeated ones counted once, and counters that outlive them.
//!
//! A ring of bounded entries; the time is passed in. It refuses to know what a client is: its description comes as text.

use std::collections::VecDeque;

/// How long after its last repetition an entry still counts repetitions.
pub const GROUPING_MS: u64 = 60_000;
/// Among how many of the newest entries a repetition is looked for, as in Redis.
const SEARCHED_ENTRIES: usize = 10;
/// How much of an object, a name or a client's description an entry keeps: all three are chosen by strangers.
pub const FIELD_BYTES_MAX: usize = 1024;
/// `acllog-max-len` if nothing else is said.
pub const MAX_LEN_DEFAULT: usize = 128;

/// Why an entry was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LogReason {
    /// A command.
    Command,
    /// A key.
    Key,
    /// A channel.
    Channel,
    /// A failed login.
    Auth,
    /// A database.
    Database,
    /// A certificate that names no user.
    TlsCert,
}

impl LogReason {
    /// All of them.
    pub const ALL: [LogReason; 6] = [
        LogReason::Command,
        LogReason::Key,
        LogReason::Channel,
        LogReason::Auth,
        LogReason::Database,
        LogReason::TlsCert,
    ];

    /// As `ACL LOG` spells it.
    pub const fn name(self) -> &'static str {
        match self {
            LogReason::Command => "command",
            LogReason::Key => "key",
            LogReason::Channel => "channel",
            LogReason::Auth => "auth",
            LogReason::Database => "database",
            LogReason::TlsCert => "tls-cert",
        }
    }

    /// The field of `INFO stats` that counts it.
    pub const fn info_field(self) -> &'static str {
        match self {
            LogReason::Command => "acl_access_denied_cmd",
            LogReason::Key => "acl_access_denied_key",
            LogReason::Channel => "acl_access_denied_channel",
            LogReason::Auth => "acl_access_denied_auth",
            LogReason::Database => "acl_access_denied_db",
            LogReason::TlsCert => "acl_access_denied_tls_cert",
        }
    }
}

/// Where a request came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LogContext {
    /// A client.
    Toplevel,
    /// A transaction.
    Multi,
    /// A script.
    Lua,
    /// A function.
    Script,
    /// A module.
    Module,
    /// The user is only watched (`mode=report`): it was not refused.
    Report,
}

impl LogContext {
    /// As `ACL LOG` spells it.
    pub const fn name(self) -> &'static str {
        match self {
            LogContext::Toplevel => "toplevel",
            LogContext::Multi => "multi",
            LogContext::Lua => "lua",
            LogContext::Script => "script",
            LogContext::Module => "module",
            LogContext::Report => "report",
        }
    }
}

/// Something to be recorded.
#[derive(Clone, Copy, Debug)]
pub struct LogEvent<'a> {
    /// Why.
    pub reason: LogReason,
    /// From where.
    pub context: LogContext,
    /// The full command name, the key, the channel, the database, or `AUTH`/`HELLO` as typed.
    pub object: &'a [u8],
    /// Who; for a failed login, the name that was tried.
    pub username: &'a [u8],
    /// The line of `CLIENT LIST`.
    pub client_info: &'a [u8],
}

/// One entry of `ACL LOG`, fields in the order they are printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// How often it happened.
    pub count: u64,
    /// Why.
    pub reason: LogReason,
    /// From where.
    pub context: LogContext,
    /// What, cut after [`FIELD_BYTES_MAX`].
    pub object: Box<[u8]>,
    /// Who, cut after [`FIELD_BYTES_MAX`].
    pub username: Box<[u8]>,
    /// The client of the last time, cut after [`FIELD_BYTES_MAX`].
    pub client_info: Box<[u8]>,
    /// Its number; numbers are not used again.
    pub entry_id: u64,
    /// When it happened first, in milliseconds since 1970.
    pub created_ms: u64,
    /// When it happened last, in milliseconds since 1970.
    pub updated_ms: u64,
}

impl LogEntry {
    /// `age-seconds`: since it was made.
    pub fn age_seconds(&self, now_ms: u64) -> f64 {
        now_ms.saturating_sub(self.created_ms) as f64 / 1000.0
    }

    fn repeats(&self, event: &LogEvent<'_>, now_ms: u64) -> bool {
        self.reason == event.reason
            && self.context == event.context
            && now_ms.saturating_sub(self.updated_ms) <= GROUPING_MS
            && *self.object == *cut(event.object)
            && *self.username == *cut(event.username)
    }
}

/// The log of one node.
#[derive(Clone, Debug)]
pub struct AclLog {
    /// Newest first.
    entries: VecDeque<LogEntry>,
    max_len: usize,
    next_id: u64,
    counters: [u64; LogReason::ALL.len()],
}

impl Default for AclLog {
    fn default() -> AclLog {
        AclLog::new(MAX_LEN_DEFAULT)
    }
}

impl AclLog {
    /// An empty log of at most `max_len` entries.
    pub fn new(max_len: usize) -> AclLog {
        AclLog { entries: VecDeque::new(), max_len, next_id: 0, counters: [0; LogReason::ALL.len()] }
    }

    /// Records an event: counts it, and keeps it unless the length is 0.
    pub fn record(&mut self, event: &LogEvent<'_>, now_ms: u64) {
        // What was only noted was not denied.
        self.counters[event.reason as usize] += u64::from(event.context != LogContext::Report);
        self.entries.truncate(self.max_len);
        if self.max_len == 0 {
            return;
        }
        let known = self.entries.iter().take(SEARCHED_ENTRIES).position(|entry| entry.repeats(event, now_ms));
        match known.and_then(|known| self.entries.remove(known)) {
            Some(mut entry) => {
                entry.count += 1;
                entry.client_info = cut(event.client_info).into();
                entry.updated_ms = now_ms;
                self.entries.push_front(entry);
            }
            None => {
                self.entries.truncate(self.max_len - 1);
                self.entries.push_front(LogEntry {
                    count: 1,
                    reason: event.reason,
                    context: event.context,
                    object: cut(event.object).into(),
                    username: cut(event.username).into(),
                    client_info: cut(event.client_info).into(),
                    entry_id: self.next_id,
                    created_ms: now_ms,
                    updated_ms: now_ms,
                });
                self.next_id += 1;
            }
        }
    }

    /// The entries, newest first. `ACL LOG` shows 10 unless told otherwise.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = &LogEntry> {
        self.entries.iter()
    }

    /// `ACL LOG RESET`: forgets the entries, not the counters.
    pub fn reset(&mut self) {
        self.entries.clear();
    }

    /// The same for the entries of one user.
    pub fn reset_user(&mut self, name: &[u8]) {
        self.entries.retain(|entry| *entry.username != *cut(name));
    }

    /// `acllog-max-len`; as in Redis, entries beyond it go when the next event is recorded.
    pub fn set_max_len(&mut self, max_len: usize) {
        self.max_len = max_len;
    }

    /// How often it happened since the start, whatever the log keeps.
    pub fn counter(&self, reason: LogReason) -> u64 {
        self.counters[reason as usize]
    }
}

fn cut(field: &[u8]) -> &[u8] {
    &field[..field.len().min(FIELD_BYTES_MAX)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event<'a>(reason: LogReason, object: &'a str) -> LogEvent<'a> {
        LogEvent {
            reason,
            context: LogContext::Toplevel,
            object: object.as_bytes(),
            username: b"t",
            client_info: b"id=1",
        }
    }

    fn objects(log: &AclLog) -> Vec<(u64, String)> {
        log.entries().map(|entry| (entry.count, String::from_utf8_lossy(&entry.object).into_owned())).collect()
    }

    #[test]
    fn the_newest_comes_first_and_a_repetition_moves_to_the_front() {
        let mut log = AclLog::default();
        log.record(&event(LogReason::Key, "a"), 1000);
        log.record(&event(LogReason::Key, "b"), 2000);
        log.record(&LogEvent { client_info: b"id=2", ..event(LogReason::Key, "a") }, 3000);
        assert_eq!(objects(&log), [(2, "a".into()), (1, "b".into())]);
        let entry = log.entries().next().unwrap();
        assert_eq!((entry.entry_id, entry.created_ms, entry.updated_ms), (0, 1000, 3000));
        assert_eq!(&*entry.client_info, b"id=2");
        assert_eq!(entry.age_seconds(4500), 3.5);
    }

    #[test]
    fn the_minute_counts_from_the_last_repetition() {
        let mut log = AclLog::default();
        for now_ms in [0, 60_000, 120_000] {
            log.record(&event(LogReason::Key, "a"), now_ms);
        }
        log.record(&event(LogReason::Key, "a"), 180_001);
        assert_eq!(objects(&log), [(1, "a".into()), (3, "a".into())]);
    }

    #[test]
    fn reason_context_object_and_user_make_an_entry() {
        let mut log = AclLog::default();
        let first = event(LogReason::Key, "a");
        log.record(&first, 0);
        log.record(&LogEvent { reason: LogReason::Command, ..first }, 0);
        log.record(&LogEvent { context: LogContext::Multi, ..first }, 0);
        log.record(&LogEvent { object: b"b", ..first }, 0);
        log.record(&LogEvent { username: b"u", ..first }, 0);
        assert_eq!(log.entries().len(), 5);
    }

    #[test]
    fn only_the_ten_newest_are_searched() {
        let mut log = AclLog::default();
        for object in ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10"] {
            log.record(&event(LogReason::Key, object), 0);
        }
        log.record(&event(LogReason::Key, "0"), 0);
        assert_eq!(log.entries().len(), 12);
    }

    #[test]
    fn the_log_is_bounded_and_the_counters_are_not() {
        let mut log = AclLog::new(2);
        for object in ["a", "b", "c"] {
            log.record(&event(LogReason::Channel, object), 0);
        }
        assert_eq!(objects(&log), [(1, "c".into()), (1, "b".into())]);
        log.set_max_len(0);
        log.record(&event(LogReason::Auth, "AUTH"), 0);
        assert_eq!(log.entries().len(), 0);
        log.reset();
        assert_eq!((log.counter(LogReason::Channel), log.counter(LogReason::Auth)), (3, 1));
    }

    #[test]
    fn a_stranger_cannot_fill_it_with_one_long_key() {
        let mut log = AclLog::default();
        let long = "k".repeat(100_000);
        log.record(&event(LogReason::Key, &long), 0);
        log.record(&event(LogReason::Key, &long), 0);
        assert_eq!(log.entries().len(), 1);
        assert_eq!(log.entries().next().unwrap().object.len(), FIELD_BYTES_MAX);
    }

    #[test]
    fn a_clock_that_steps_back_does_no_harm() {
        let mut log = AclLog::default();
        log.record(&event(LogReason::Key, "a"), 5000);
        log.record(&event(LogReason::Key, "a"), 1000);
        assert_eq!(log.entries().next().unwrap().age_seconds(1000), 0.0);
    }

    #[test]
    fn every_reason_has_its_counter_and_its_names() {
        let names: Vec<&str> = LogReason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names, ["command", "key", "channel", "auth", "database", "tls-cert"]);
        assert!(LogReason::ALL.iter().enumerate().all(|(place, reason)| *reason as usize == place));
        assert_eq!(LogReason::Command.info_field(), "acl_access_denied_cmd");
    }
}
