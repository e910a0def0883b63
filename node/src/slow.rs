//! The logs of remarkable commands: `SLOWLOG` and `COMMANDLOG`.
//!
//! Three logs: what took long, what was long, what had a long answer. Arguments are cut as Redis cuts them, and secrets
//! never get in. Each confined user has a ring of its own in each, so that nobody's entries push out another's; users
//! who are not confined share one, and read all. It knows no clock.

use keyward_engine::asks::CommandLogKind;
use keyward_engine::reply::Reply;
use keyward_engine::scope::{Owner, Reach};
use keyward_engine::session::Session;
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};

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
    /// Among all entries of the log.
    id: u64,
    /// Among those of its ring: what a confined user is shown tells nothing about others.
    own_id: u64,
    at_s: i64,
    value: u64,
    arguments: Vec<Vec<u8>>,
    address: String,
    name: Vec<u8>,
}

#[derive(Default)]
struct Ring {
    next: u64,
    /// Newest first.
    entries: VecDeque<Entry>,
}

#[derive(Default)]
struct Log {
    next: u64,
    rings: BTreeMap<Owner, Ring>,
}

/// Rings one log keeps: as many confined users as seem likely to be slow at a time.
const RINGS_MAX: usize = 4096;

impl Log {
    /// What somebody of this reach may see, newest first: of everything not more than a ring may hold.
    fn seen(&self, reach: &Reach, max: usize) -> Vec<&Entry> {
        if reach.is_confined() {
            return self.rings.get(&reach.owner()).map_or_else(Vec::new, |ring| ring.entries.iter().collect());
        }
        let mut all: Vec<&Entry> = self.rings.values().flat_map(|ring| &ring.entries).collect();
        all.sort_unstable_by_key(|entry| std::cmp::Reverse(entry.id));
        all.truncate(max);
        all
    }
}

/// The logs of one node.
#[derive(Default)]
pub struct CommandLogs {
    logs: [Mutex<Log>; 3],
    lengths_max: [AtomicUsize; 3],
}

const fn place(kind: CommandLogKind) -> usize {
    match kind {
        CommandLogKind::Slow => 0,
        CommandLogKind::LargeRequest => 1,
        CommandLogKind::LargeReply => 2,
    }
}

impl CommandLogs {
    fn log(&self, kind: CommandLogKind) -> &Mutex<Log> {
        &self.logs[place(kind)]
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
        let max = limits.of(kind).1;
        self.lengths_max[place(kind)].store(max, Ordering::Relaxed);
        let log = &mut *self.log(kind).lock();
        let owner = session.lasting_reach().owner();
        if log.rings.len() >= RINGS_MAX && !log.rings.contains_key(&owner) {
            // The one that has been quiet for longest.
            let newest = |ring: &Ring| ring.entries.front().map(|entry| entry.id);
            let quiet = log.rings.iter().min_by_key(|(_, ring)| newest(ring)).map(|(owner, _)| owner.clone());
            quiet.and_then(|quiet| log.rings.remove(&quiet));
        }
        let ring = log.rings.entry(owner).or_default();
        let (address, name) = (session.address.clone(), session.name.clone());
        ring.entries.push_front(Entry { id: log.next, own_id: ring.next, at_s, value, arguments, address, name });
        ring.entries.truncate(max);
        ring.next += 1;
        log.next += 1;
    }

    /// The newest entries within reach.
    pub fn show(&self, kind: CommandLogKind, count: Option<usize>, reach: &Reach, reply: &mut Reply) {
        let log = self.log(kind).lock();
        let mut shown = log.seen(reach, self.length_max(kind));
        shown.truncate(count.unwrap_or(usize::MAX));
        reply.array(shown.len());
        for entry in shown {
            reply.array(6);
            reply.integer(if reach.is_confined() { entry.own_id } else { entry.id } as i64);
            reply.integer(entry.at_s);
            reply.integer(entry.value as i64);
            reply.array(entry.arguments.len());
            entry.arguments.iter().for_each(|argument| reply.bulk(argument));
            reply.bulk(entry.address.as_bytes());
            reply.bulk(&entry.name);
        }
    }

    /// How many there are within reach.
    pub fn count(&self, kind: CommandLogKind, reach: &Reach) -> usize {
        self.log(kind).lock().seen(reach, self.length_max(kind)).len()
    }

    /// Forgets what is within reach.
    pub fn reset(&self, kind: CommandLogKind, reach: &Reach) {
        let mut log = self.log(kind).lock();
        if reach.is_confined() {
            log.rings.get_mut(&reach.owner()).iter_mut().for_each(|ring| ring.entries.clear());
        } else {
            log.rings.clear();
        }
    }

    /// Forgets what is beyond new bounds.
    pub fn set_bounds(&self, limits: &Thresholds) {
        for kind in [CommandLogKind::Slow, CommandLogKind::LargeRequest, CommandLogKind::LargeReply] {
            let max = limits.of(kind).1;
            self.lengths_max[place(kind)].store(max, Ordering::Relaxed);
            self.log(kind).lock().rings.values_mut().for_each(|ring| ring.entries.truncate(max));
        }
    }

    fn length_max(&self, kind: CommandLogKind) -> usize {
        self.lengths_max[place(kind)].load(Ordering::Relaxed)
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
