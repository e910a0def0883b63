//! `MONITOR`: every command this node runs, as it runs it, to those who asked.
//!
//! Whoever is confined is shown the commands of its own user. Commands that carry passwords are never shown. With nobody watching, a command pays one relaxed load.

use crate::mailbox::Mailbox;
use keyward_acl::{CommandId, Policy};
use keyward_engine::scope::Reach;
use parking_lot::RwLock;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Those who asked.
pub struct Monitors {
    /// The number of `MONITOR`, for whose sake a user may watch.
    command: Option<CommandId>,
    active: AtomicBool,
    watching: RwLock<Vec<(u64, Arc<Mailbox>)>>,
}

impl Monitors {
    /// Nobody yet; `command` is the number of `MONITOR`.
    pub fn new(command: Option<CommandId>) -> Monitors {
        Monitors { command, active: AtomicBool::new(false), watching: RwLock::default() }
    }

    /// Whether anybody watches.
    #[inline]
    pub fn is_active(&self) -> bool {
        self.active.load(Ordering::Relaxed)
    }

    /// Whether a user with these rules may go on to watch.
    pub fn may_watch(&self, policy: &Policy) -> bool {
        self.command.is_some_and(|command| policy.holds_command(command))
    }

    /// A client begins to watch.
    pub fn add(&self, client: u64, mailbox: &Arc<Mailbox>) {
        let mut watching = self.watching.write();
        if !watching.iter().any(|(known, _)| *known == client) {
            watching.push((client, Arc::clone(mailbox)));
        }
        self.active.store(true, Ordering::Relaxed);
    }

    /// A client ends.
    pub fn remove(&self, client: u64) {
        let mut watching = self.watching.write();
        watching.retain(|(known, _)| *known != client);
        self.active.store(!watching.is_empty(), Ordering::Relaxed);
    }

    /// Whether this client watches.
    pub fn has(&self, client: u64) -> bool {
        self.is_active() && self.watching.read().iter().any(|(known, _)| *known == client)
    }

    /// Shows a command of a user of reach `of` to those who may know what that user does. `source` is a client's address, or `lua`.
    #[cold]
    pub fn show(&self, now_us: i64, database: u32, source: &str, of: &Reach, argv: &[&[u8]]) {
        let mut line = format!("+{}.{:06} [{database} {source}]", now_us / 1_000_000, now_us % 1_000_000);
        for argument in argv {
            line.push_str(" \"");
            for byte in *argument {
                // Writing to a string cannot fail.
                let _ = match byte {
                    b'\\' | b'"' => write!(line, "\\{}", char::from(*byte)),
                    b'\n' => write!(line, "\\n"),
                    b'\r' => write!(line, "\\r"),
                    b'\t' => write!(line, "\\t"),
                    7 => write!(line, "\\a"),
                    8 => write!(line, "\\b"),
                    0x20..=0x7e => write!(line, "{}", char::from(*byte)),
                    other => write!(line, "\\x{other:02x}"),
                };
            }
            line.push('"');
        }
        line.push_str("\r\n");
        let watching = self.watching.read();
        let concerned =
            watching.iter().filter(|(_, mailbox)| mailbox.standing.may_watch(|policy| self.may_watch(policy), of));
        concerned.for_each(|(_, mailbox)| _ = mailbox.put(line.as_bytes()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_redis_shows_it() {
        let monitors = Monitors::new(None);
        let mailbox = Mailbox::new(1000, None);
        monitors.add(1, &mailbox);
        monitors.show(0, 0, "127.0.0.1:60866", &Reach::Everything, &[b"a stranger may not know"]);
        mailbox.standing.set_reach(Reach::Everything);
        monitors.show(1_339_518_083_107_412, 0, "127.0.0.1:60866", &Reach::Everything, &[b"set", b"k", b"a\"\n\x01"]);
        let mut shown = Vec::new();
        mailbox.collect(&mut shown);
        let expected = "+1339518083.107412 [0 127.0.0.1:60866] \"set\" \"k\" \"a\\\"\\n\\x01\"\r\n";
        assert_eq!(String::from_utf8_lossy(&shown), expected);
        monitors.remove(1);
        assert!(!monitors.is_active());
    }
}
