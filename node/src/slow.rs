//! The logs of remarkable commands: `SLOWLOG` and `COMMANDLOG`.
//!
//! Three rings: what took long, what was long, what had a long answer. Arguments are cut as Redis cuts them, and secrets
//! never get in. It knows no clock and decides nothing about permissions; a reader without a view of everything gets
//! what its own user did.

use keyward_engine::asks::CommandLogKind;
use keyward_engine::reply::Reply;
use keyward_engine::session::Session;
use parking_lot::Mutex;
use std::collections::VecDeque;

/// Arguments kept of a request; the last one says how many more there were.
const ARGUMENTS_MAX: usize = 32;

/// Bytes kept of an argument.
const ARGUMENT_BYTES_MAX: usize = 128;

/// What stands for an argument nobody may read.
const REDACTED: &[u8] = b"(redacted)";

/// When commands are remarkable; below zero: never.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Thresholds {
    /// Microseconds, and entries kept.
    pub slow: (i64, usize),
    /// Bytes of the request, and entries kept.
    pub large_request: (i64, usize),
    /// Bytes of the answer, and entries kept.
    pub large_reply: (i64, usize),
}

impl Thresholds {
    fn of(&self, kind: CommandLogKind) -> (i64, usize) {
        match kind {
            CommandLogKind::Slow => self.slow,
            CommandLogKind::LargeRequest => self.large_request,
            CommandLogKind::LargeReply => self.large_reply,
        }
    }

    /// Whether this much is remarkable.
    #[inline]
    pub fn reached(&self, kind: CommandLogKind, value: u64) -> bool {
        let (threshold, _) = self.of(kind);
        u64::try_from(threshold).is_ok_and(|threshold| value >= threshold)
    }
}

struct Entry {
    id: u64,
    at_s: i64,
    value: u64,
    arguments: Vec<Vec<u8>>,
    address: String,
    name: Vec<u8>,
    user: Vec<u8>,
}

#[derive(Default)]
struct Ring {
    next: u64,
    /// Newest first.
    entries: VecDeque<Entry>,
}

/// The rings of one node.
#[derive(Default)]
pub struct CommandLogs {
    rings: [Mutex<Ring>; 3],
}

impl CommandLogs {
    fn ring(&self, kind: CommandLogKind) -> &Mutex<Ring> {
        &self.rings[match kind {
            CommandLogKind::Slow => 0,
            CommandLogKind::LargeRequest => 1,
            CommandLogKind::LargeReply => 2,
        }]
    }

    /// Notes a command, its arguments as [`kept`] made them.
    pub fn note(
        &self,
        kind: CommandLogKind,
        limits: &Thresholds,
        (at_s, value): (i64, u64),
        arguments: Vec<Vec<u8>>,
        session: &Session,
    ) {
        let mut ring = self.ring(kind).lock();
        let (address, name) = (session.address.clone(), session.name.clone());
        let entry = Entry { id: ring.next, at_s, value, arguments, address, name, user: session.user_name().to_vec() };
        ring.next += 1;
        ring.entries.push_front(entry);
        ring.entries.truncate(limits.of(kind).1);
    }

    /// The newest entries; `user`: only what this user did.
    pub fn show(&self, kind: CommandLogKind, count: Option<usize>, user: Option<&[u8]>, reply: &mut Reply) {
        let ring = self.ring(kind).lock();
        let mine = ring.entries.iter().filter(|entry| user.is_none_or(|user| entry.user == user));
        let shown: Vec<&Entry> = mine.take(count.unwrap_or(usize::MAX)).collect();
        reply.array(shown.len());
        for entry in shown {
            reply.array(6);
            reply.integer(entry.id as i64);
            reply.integer(entry.at_s);
            reply.integer(entry.value as i64);
            reply.array(entry.arguments.len());
            entry.arguments.iter().for_each(|argument| reply.bulk(argument));
            reply.bulk(entry.address.as_bytes());
            reply.bulk(&entry.name);
        }
    }

    /// How many there are.
    pub fn count(&self, kind: CommandLogKind, user: Option<&[u8]>) -> usize {
        let ring = self.ring(kind).lock();
        ring.entries.iter().filter(|entry| user.is_none_or(|user| entry.user == user)).count()
    }

    /// Empties it.
    pub fn reset(&self, kind: CommandLogKind) {
        self.ring(kind).lock().entries.clear();
    }

    /// Forgets what is beyond new bounds.
    pub fn set_bounds(&self, limits: &Thresholds) {
        for kind in [CommandLogKind::Slow, CommandLogKind::LargeRequest, CommandLogKind::LargeReply] {
            self.ring(kind).lock().entries.truncate(limits.of(kind).1);
        }
    }
}

/// What is kept of a request: cut, and without secrets.
pub fn kept(full_name: &str, argv: &[&[u8]]) -> Vec<Vec<u8>> {
    let shown = if argv.len() > ARGUMENTS_MAX { ARGUMENTS_MAX - 1 } else { argv.len() };
    let mut kept: Vec<Vec<u8>> = (0..shown)
        .map(|index| if is_secret(full_name, argv, index) { REDACTED.to_vec() } else { cut(argv[index]) })
        .collect();
    if argv.len() > shown {
        kept.push(format!("... ({} more arguments)", argv.len() - shown).into_bytes());
    }
    kept
}

fn cut(argument: &[u8]) -> Vec<u8> {
    if argument.len() <= ARGUMENT_BYTES_MAX {
        return argument.to_vec();
    }
    let mut cut = argument[..ARGUMENT_BYTES_MAX].to_vec();
    cut.extend_from_slice(format!("... ({} more bytes)", argument.len() - ARGUMENT_BYTES_MAX).as_bytes());
    cut
}

/// Whether an argument may hold a password: nothing that tells about requests may repeat it.
pub fn is_secret(full_name: &str, argv: &[&[u8]], index: usize) -> bool {
    match full_name {
        "auth" => index >= 1,
        "hello" => index >= 2,
        "acl|setuser" | "acl|getuser" | "acl|deluser" | "acl|dryrun" => index >= 2,
        "config|set" => {
            // Names stand at even places from the second on.
            let secret = |name: &[u8]| {
                [&b"requirepass"[..], b"masterauth", b"masteruser", b"primaryauth", b"primaryuser"]
                    .iter()
                    .any(|word| name.eq_ignore_ascii_case(word))
            };
            index >= 3 && index % 2 == 1 && argv.get(index - 1).is_some_and(|name| secret(name))
        }
        "migrate" => {
            index >= 1
                && argv[1..index]
                    .iter()
                    .any(|word| word.eq_ignore_ascii_case(b"auth") || word.eq_ignore_ascii_case(b"auth2"))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(full_name: &str, request: &str) -> String {
        let argv: Vec<&[u8]> = request.split(' ').map(str::as_bytes).collect();
        String::from_utf8(kept(full_name, &argv).join(&b' ')).expect("words are text")
    }

    #[test]
    fn no_secret_gets_in() {
        assert_eq!(shown("auth", "AUTH joe pw"), "AUTH (redacted) (redacted)");
        assert_eq!(shown("hello", "HELLO 3 AUTH joe pw"), "HELLO 3 (redacted) (redacted) (redacted)");
        assert_eq!(shown("acl|setuser", "acl setuser joe >pw"), "acl setuser (redacted) (redacted)");
        assert_eq!(shown("config|set", "config set hz 10 REQUIREPASS pw"), "config set hz 10 REQUIREPASS (redacted)");
    }

    #[test]
    fn long_requests_are_cut_as_redis_cuts_them() {
        let long = format!("sadd k {}", "x ".repeat(40).trim());
        assert!(shown("sadd", &long).ends_with(" x ... (11 more arguments)"));
        assert_eq!(kept("sadd", &long.split(' ').map(str::as_bytes).collect::<Vec<_>>()).len(), ARGUMENTS_MAX);
        assert!(shown("get", &format!("get {}", "k".repeat(130))).ends_with("k... (2 more bytes)"));
    }
}
