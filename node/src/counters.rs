//! What a thread counts. One writer each, many readers: an increment is a plain add, never a locked one.

use crate::insight::traffic::Traffic;
use crate::latency::Histograms;
pub use keyward_engine::account::Counter;
use keyward_engine::session::Session;
use parking_lot::Mutex;
use std::collections::BTreeMap;

/// The counters of one data thread.
#[repr(align(128))]
pub struct ThreadCounters {
    /// Clients accepted.
    pub accepted: Counter,
    /// Clients turned away for `maxclients`.
    pub rejected: Counter,
    /// Commands let through.
    pub commands: Counter,
    /// Error replies.
    pub errors: Counter,
    /// Batches run.
    pub batches: Counter,
    /// Bytes read.
    pub input_bytes: Counter,
    /// Bytes sent.
    pub output_bytes: Counter,
    /// Commands forwarded to the node that serves the data.
    pub forwarded: Counter,
    /// Calls of each command, by its number.
    pub calls: Box<[Counter]>,
    /// Refusals at the gate of each command, by its number.
    pub refusals: Box<[Counter]>,
    /// Calls of each command that were answered with an error, by its number.
    pub failures: Box<[Counter]>,
    /// Time spent on each command, in nanoseconds, by its number.
    pub nanoseconds: Box<[Counter]>,
    /// How long calls of each command took.
    pub latency: Histograms,
    /// Error replies by their first word. Locked by this thread alone, but for whoever reads `INFO`.
    pub error_words: Mutex<ErrorWords>,
    /// What watched users did. Locked likewise.
    pub traffic: Mutex<Traffic>,
}

/// Error replies by their first word.
#[derive(Default)]
pub struct ErrorWords {
    counts: BTreeMap<String, u64>,
    /// There were more words than we count.
    pub overflowed: bool,
}

impl ErrorWords {
    /// Words counted apart; scripts make up their own.
    const WORDS_MAX: usize = 128;

    /// What those are counted as that confined users make up: the table is everybody's.
    const MADE_UP: &str = "OTHER";

    /// Counts an error reply, the bytes after its `-`, that a user who is confined or is not was sent.
    fn note_of(&mut self, session: &Session, reply: &[u8]) {
        let confined = session.login.as_ref().is_some_and(|login| login.policy.is_confined());
        if confined && own_word(reply).is_none() {
            return self.note(Self::MADE_UP.as_bytes());
        }
        self.note(reply);
    }

    /// Counts an error reply, the bytes after its `-`, that this server made.
    pub fn note(&mut self, reply: &[u8]) {
        let end = reply.iter().position(|byte| is_end(*byte)).unwrap_or(reply.len());
        let word = String::from_utf8_lossy(&reply[..end]);
        if let Some(count) = self.counts.get_mut(word.as_ref()) {
            *count += 1;
        } else if self.counts.len() < Self::WORDS_MAX {
            self.counts.insert(word.into_owned(), 1);
        } else {
            self.overflowed = true;
        }
    }

    /// Each word with its count.
    pub fn counts(&self) -> impl Iterator<Item = (&str, u64)> {
        self.counts.iter().map(|(word, count)| (word.as_str(), *count))
    }
}

fn is_end(byte: u8) -> bool {
    matches!(byte, b' ' | b'\r' | b'\n')
}

/// The word of this server it begins with.
fn own_word(reply: &[u8]) -> Option<&'static str> {
    OWN_WORDS.iter().find(|word| reply.starts_with(word.as_bytes()) && ends_after(reply, word)).copied()
}

fn ends_after(reply: &[u8], word: &str) -> bool {
    reply.get(word.len()).is_none_or(|byte| is_end(*byte))
}

/// The words that begin error replies of this server and of Redis. What is missing here is counted as made up.
const OWN_WORDS: &[&str] = &[
    "ASK",
    "BUSY",
    "BUSYGROUP",
    "BUSYKEY",
    "CLUSTERDOWN",
    "CROSSSLOT",
    "DENIED",
    "ERR",
    "EXECABORT",
    "INPROG",
    "INVALIDOBJ",
    "IOERR",
    "LOADING",
    "MASTERDOWN",
    "MISCONF",
    "MOVED",
    "NOAUTH",
    "NOGOODSLAVE",
    "NOGROUP",
    "NOMASTERLINK",
    "NOPERM",
    "NOPROTO",
    "NOREPLICAS",
    "NOSCRIPT",
    "NOTBUSY",
    "NOTREADY",
    "OOM",
    "READONLY",
    "SYNTAX",
    "THROTTLED",
    "TRYAGAIN",
    "UNBLOCKED",
    "UNKILLABLE",
    "UNKNOWN",
    "WRONGPASS",
    "WRONGTYPE",
];

impl ThreadCounters {
    /// Counts an error reply, the bytes after its `-`, for everybody and for whose session it is; `lane` is this thread's.
    pub fn erred(&self, session: &Session, lane: usize, reply: &[u8]) {
        self.error_words.lock().note_of(session, reply);
        if let Some(login) = &session.login {
            let word = own_word(reply).unwrap_or(ErrorWords::MADE_UP);
            login.for_accounts(|_, account| account.lane(lane).erred(word));
        }
    }

    /// All zero, for a table of `commands` commands.
    pub fn new(commands: usize) -> ThreadCounters {
        let zeros = || (0..commands).map(|_| Counter::default()).collect();
        ThreadCounters {
            accepted: Counter::default(),
            rejected: Counter::default(),
            commands: Counter::default(),
            errors: Counter::default(),
            batches: Counter::default(),
            input_bytes: Counter::default(),
            output_bytes: Counter::default(),
            forwarded: Counter::default(),
            calls: zeros(),
            refusals: zeros(),
            failures: zeros(),
            nanoseconds: zeros(),
            latency: Histograms::new(commands),
            error_words: Mutex::default(),
            traffic: Mutex::default(),
        }
    }

    /// Starts anew (`CONFIG RESETSTAT`).
    pub fn reset(&self) {
        let singles = [
            &self.accepted,
            &self.rejected,
            &self.commands,
            &self.errors,
            &self.batches,
            &self.input_bytes,
            &self.output_bytes,
            &self.forwarded,
        ];
        let many = [&self.calls, &self.refusals, &self.failures, &self.nanoseconds];
        singles.into_iter().chain(many.into_iter().flat_map(|counters| counters.iter())).for_each(Counter::reset);
        self.latency.reset();
        *self.error_words.lock() = ErrorWords::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keyward_acl::{Policy, Rule, User, UserName, Walls};
    use keyward_engine::session::Login;
    use keyward_engine::table::table;
    use std::sync::Arc;

    fn session(rules: &[&str]) -> Session {
        let mut user = User::new(UserName::new(b"u").expect("a name"), 1);
        rules.iter().flat_map(|rule| Rule::parse(rule.as_bytes()).expect("a rule")).for_each(|rule| user.apply(&rule));
        let policy = Arc::new(Policy::compile(&user, table(), Walls::Up));
        let login = Login::new(Arc::new(user), policy, false, None, None);
        Session::new(1, String::new(), String::new(), 0, Some(login))
    }

    // 300 invented words of one confined user filled the table, and nobody else's errors were counted any more.
    #[test]
    fn what_confined_users_make_up_is_counted_as_one_word() {
        let (confined, operator) = (session(&["~app:*", "+@all"]), session(&["~*", "+@all"]));
        let mut words = ErrorWords::default();
        (0..300).for_each(|number| words.note_of(&confined, format!("E{number} made up\r\n").as_bytes()));
        words.note_of(&confined, b"ERRORS are not ERR\r\n");
        words.note_of(&confined, b"ERR syntax error\r\n");
        words.note_of(&operator, b"MINE x\r\n");
        words.note_of(&operator, b"ERR x\r\n");
        let counts: Vec<(&str, u64)> = words.counts().collect();
        assert_eq!(counts, [("ERR", 2), ("MINE", 1), ("OTHER", 301)]);
        assert!(!words.overflowed);
    }
}
