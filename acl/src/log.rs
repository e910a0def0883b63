//! ACL LOG: the last refusals and failed logins, repeated ones counted once, and counters that outlive them.
//!
//! ```text
//!   event ─► its owner's entries ─► too many in all? the oldest of whoever has most goes
//! ```
//! Bounded entries; the time is passed in. Whoever fills the log pushes out entries of its own: nobody's traces are wiped by
//! somebody else. It refuses to know what a client is: its description comes as text.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};

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

/// Whose doing an event is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogOwner {
    /// Those who are not logged in.
    Strangers,
    /// A user of no tenant.
    User(Box<[u8]>),
    /// A tenant, by name.
    Tenant(Box<[u8]>),
}

/// Something to be recorded.
#[derive(Clone, Copy, Debug)]
pub struct LogEvent<'a> {
    /// Whose entries make room for it.
    pub owner: &'a LogOwner,
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
    /// Of each owner the newest first, with the number of the event that touched it last. None is empty.
    owners: BTreeMap<LogOwner, VecDeque<(u64, LogEntry)>>,
    max_len: usize,
    next_id: u64,
    /// How many events there were.
    events: u64,
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
        AclLog { owners: BTreeMap::new(), max_len, next_id: 0, events: 0, counters: [0; LogReason::ALL.len()] }
    }

    /// Records an event: counts it, and keeps it unless the length is 0.
    pub fn record(&mut self, event: &LogEvent<'_>, now_ms: u64) {
        // What was only noted was not denied.
        self.counters[event.reason as usize] += u64::from(event.context != LogContext::Report);
        self.events += 1;
        let own = self.owners.entry(event.owner.clone()).or_default();
        let known = own.iter().take(SEARCHED_ENTRIES).position(|(_, entry)| entry.repeats(event, now_ms));
        let entry = match known.and_then(|known| own.remove(known)) {
            Some((_, mut entry)) => {
                entry.count += 1;
                entry.client_info = cut(event.client_info).into();
                entry.updated_ms = now_ms;
                entry
            }
            None => {
                self.next_id += u64::from(self.max_len > 0);
                LogEntry {
                    count: 1,
                    reason: event.reason,
                    context: event.context,
                    object: cut(event.object).into(),
                    username: cut(event.username).into(),
                    client_info: cut(event.client_info).into(),
                    entry_id: self.next_id.saturating_sub(1),
                    created_ms: now_ms,
                    updated_ms: now_ms,
                }
            }
        };
        own.push_front((self.events, entry));
        let beyond = self.len().saturating_sub(self.max_len);
        (0..beyond).for_each(|_| self.make_room());
    }

    /// The oldest entry of whoever has most goes; of those who have equally many, the oldest of all.
    fn make_room(&mut self) {
        let touched = |entries: &VecDeque<(u64, LogEntry)>| entries.back().map_or(0, |(event, _)| *event);
        let most = self.owners.values_mut().max_by_key(|entries| (entries.len(), Reverse(touched(entries))));
        if let Some(entries) = most {
            entries.pop_back();
        }
        self.owners.retain(|_, entries| !entries.is_empty());
    }

    /// How many entries there are.
    fn len(&self) -> usize {
        self.owners.values().map(VecDeque::len).sum()
    }

    /// The entries, newest first. `ACL LOG` shows 10 unless told otherwise.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = &LogEntry> {
        let mut entries: Vec<&(u64, LogEntry)> = self.owners.values().flatten().collect();
        entries.sort_unstable_by_key(|(event, _)| Reverse(*event));
        entries.into_iter().map(|(_, entry)| entry)
    }

    /// `ACL LOG RESET`: forgets the entries, not the counters.
    pub fn reset(&mut self) {
        self.owners.clear();
    }

    /// The same for the entries of one user.
    pub fn reset_user(&mut self, name: &[u8]) {
        self.owners.values_mut().for_each(|entries| entries.retain(|(_, entry)| *entry.username != *cut(name)));
        self.owners.retain(|_, entries| !entries.is_empty());
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
            owner: &LogOwner::Strangers,
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

    // 140 denials of one tenant's user, or 140 failed logins, wiped everybody's traces.
    #[test]
    fn whoever_fills_it_pushes_out_its_own() {
        let mut log = AclLog::new(10);
        let [a, b] = [b"a", b"b"].map(|name| LogOwner::Tenant(name[..].into()));
        let operator = LogOwner::User(b"a"[..].into());
        log.record(&LogEvent { owner: &operator, ..event(LogReason::Key, "o") }, 0);
        log.record(&LogEvent { owner: &b, ..event(LogReason::Key, "b1") }, 0);
        log.record(&LogEvent { owner: &b, ..event(LogReason::Key, "b2") }, 0);
        for number in 0..140 {
            let object = format!("{number}");
            log.record(&LogEvent { owner: &a, ..event(LogReason::Key, &object) }, 0);
            log.record(&event(LogReason::Auth, &object), 0);
        }
        let of = |objects: &[&str]| objects.iter().map(|object| (1, (*object).to_owned())).collect::<Vec<_>>();
        assert_eq!(objects(&log)[..7], of(&["139", "139", "138", "138", "137", "137", "136"]));
        assert_eq!(objects(&log)[7..], of(&["b2", "b1", "o"]));
        // Who has few of many entries finds repetitions whatever others did meanwhile.
        log.record(&LogEvent { owner: &operator, ..event(LogReason::Key, "o") }, 0);
        assert_eq!((log.entries().len(), objects(&log)[0].clone()), (10, (2, "o".into())));
        log.set_max_len(3);
        log.record(&LogEvent { owner: &b, ..event(LogReason::Key, "b3") }, 0);
        assert_eq!(objects(&log), [(1, "b3".into()), (2, "o".into()), (1, "139".into())]);
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
