//! `MONITOR`: every command this node runs, as it runs it, to those who asked.
//!
//! ```text
//!   a command ─► who watches its owner (or everybody)? ─► does their rate allow a line? ─► written once, to each of them
//!                                                            └ no: counted, and told once a second
//! ```
//! Whoever is confined is shown the commands of its own user, or of its tenant's users. Commands that carry passwords are never
//! shown. With nobody watching, a command pays one relaxed load; with others' watchers only, one look into a map. What is shown
//! to whoever is confined has a rate, `monitor-per-second`, which those who watch the same share: a line weighs 1, and 1 more for
//! each 1024 bytes of its command, once for each of them, so their work is bounded as their memory is. Nothing is left out
//! silently.

use crate::mailbox::Mailbox;
use keyward_acl::{CommandId, Policy};
use keyward_engine::account::Account;
use keyward_engine::scope::{Owner, Reach};
use keyward_engine::session::Login;
use parking_lot::RwLock;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Bytes of a command that weigh as much as a line.
const BYTES_PER_LINE: usize = 1024;

/// Those who asked.
pub struct Monitors {
    /// The number of `MONITOR`, for whose sake a user may watch.
    command: Option<CommandId>,
    active: AtomicBool,
    watching: RwLock<Watching>,
}

#[derive(Default)]
struct Watching {
    /// Whom each client watches.
    owners: HashMap<u64, Owner>,
    circles: BTreeMap<Owner, Circle>,
}

/// Those who watch the same: each may see what any user of this owner does.
#[derive(Default)]
struct Circle {
    watchers: Vec<Watcher>,
    /// Commands that none of them was shown, since the first of them came.
    left_out: AtomicU64,
}

struct Watcher {
    client: u64,
    mailbox: Arc<Mailbox>,
    /// Whose limits it is held against.
    login: Option<Login>,
    /// How many of those its circle left out it was told of, or not there for.
    told: AtomicU64,
    /// Commands that it alone was not shown, by its user's own limit, and has not been told of.
    missed: AtomicU64,
}

/// A command that is shown.
pub struct Shown<'a> {
    /// When, in microseconds since 1970.
    pub now_us: i64,
    /// The same in nanoseconds since any fixed moment.
    pub now_ns: i64,
    /// Of which database.
    pub database: u32,
    /// A client's address, or `lua`.
    pub source: &'a str,
    /// How far the user reaches whose it is.
    pub of: &'a Reach,
    /// The command.
    pub argv: &'a [&'a [u8]],
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

    /// A client begins to watch as this user, or goes on with what its user may by now.
    pub fn add(&self, client: u64, mailbox: &Arc<Mailbox>, login: Option<&Login>) {
        let owner = login.map_or(Reach::Nothing, Login::reach).owner();
        let mut watching = self.watching.write();
        let known = watching.owners.insert(client, owner.clone());
        if let Some(known) = known.filter(|known| *known != owner) {
            watching.leave(&known, client);
        }
        let circle = watching.circles.entry(owner).or_default();
        let left_out = circle.left_out.load(Ordering::Relaxed);
        match circle.watchers.iter_mut().find(|watcher| watcher.client == client) {
            Some(watcher) => watcher.login = login.cloned(),
            None => circle.watchers.push(Watcher {
                client,
                mailbox: Arc::clone(mailbox),
                login: login.cloned(),
                told: AtomicU64::new(left_out),
                missed: AtomicU64::new(0),
            }),
        }
        self.active.store(true, Ordering::Relaxed);
    }

    /// A client ends.
    pub fn remove(&self, client: u64) {
        if !self.has(client) {
            return;
        }
        let mut watching = self.watching.write();
        if let Some(owner) = watching.owners.remove(&client) {
            watching.leave(&owner, client);
        }
        self.active.store(!watching.owners.is_empty(), Ordering::Relaxed);
    }

    /// Whether this client watches.
    pub fn has(&self, client: u64) -> bool {
        self.is_active() && self.watching.read().owners.contains_key(&client)
    }

    /// Shows a command to those who may know what its user does. `rate`: the lines a second of whoever is confined, if nothing
    /// else is said; 0: no bound.
    #[cold]
    pub fn show(&self, shown: &Shown<'_>, rate: u64) {
        let watching = self.watching.read();
        let owner = shown.of.owner();
        let mut line = None;
        let everybody = watching.circles.get(&Owner::Platform);
        let own = watching.circles.get(&owner).filter(|_| owner != Owner::Platform);
        for circle in everybody.into_iter().chain(own) {
            let weight = 1 + (shown.argv.iter().map(|word| word.len()).sum::<usize>() / BYTES_PER_LINE) as u64;
            if !circle.has_room(weight, rate, shown.now_ns) {
                circle.left_out.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            for watcher in &circle.watchers {
                if !watcher.mailbox.standing.may_watch(|policy| self.may_watch(policy), shown.of) {
                    continue;
                }
                if watcher.has_room(weight, shown.now_ns) {
                    watcher.mailbox.put(line.get_or_insert_with(|| spell(shown)).as_bytes());
                } else {
                    watcher.missed.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }

    /// Tells those who watch how many lines they were not shown since the last time.
    pub fn tell_left_out(&self, now_us: i64) {
        if !self.is_active() {
            return;
        }
        let watching = self.watching.read();
        for circle in watching.circles.values() {
            let left_out = circle.left_out.load(Ordering::Relaxed);
            for watcher in &circle.watchers {
                let of_all = left_out.wrapping_sub(watcher.told.swap(left_out, Ordering::Relaxed));
                let count = of_all + watcher.missed.swap(0, Ordering::Relaxed);
                let reach = watcher.login.as_ref().map_or(Reach::Nothing, Login::reach);
                if count > 0 && watcher.mailbox.standing.may_watch(|policy| self.may_watch(policy), &reach) {
                    let count = count.to_string();
                    let argv: [&[u8]; 3] = [b"LEFT-OUT", count.as_bytes(), b"monitor-per-second"];
                    // A port, for clients that look for one.
                    let (database, source) = (0, "keyward:0");
                    let line = spell(&Shown { now_us, now_ns: 0, database, source, of: &reach, argv: &argv });
                    watcher.mailbox.put(line.as_bytes());
                }
            }
        }
    }
}

impl Watching {
    fn leave(&mut self, owner: &Owner, client: u64) {
        let Some(circle) = self.circles.get_mut(owner) else { return };
        circle.watchers.retain(|watcher| watcher.client != client);
        if circle.watchers.is_empty() {
            self.circles.remove(owner);
        }
    }
}

impl Circle {
    /// Whether all of them may be shown one more line, which then counts.
    fn has_room(&self, weight: u64, rate: u64, now_ns: i64) -> bool {
        let Some((said, account)) = self.watchers.iter().find_map(|watcher| shared_limit(watcher.login.as_ref()?))
        else {
            return true;
        };
        let rate = said.unwrap_or(rate);
        rate == 0 || account.show(weight * self.watchers.len() as u64, rate, now_ns)
    }
}

impl Watcher {
    /// The same of its user's own limit, within its tenant's or as somebody who is not confined.
    fn has_room(&self, weight: u64, now_ns: i64) -> bool {
        let Some(login) = self.login.as_ref().filter(|login| login.tenant.is_some() || !login.policy.is_confined())
        else {
            return true;
        };
        let own = login.own.as_ref().and_then(|own| Some((own.limits.monitor.filter(|rate| *rate > 0)?, &own.account)));
        own.is_none_or(|(rate, account)| account.show(weight, rate, now_ns))
    }
}

/// The limit that all who watch the same share, as far as one is said: the tenant's, or that of a confined user without one.
fn shared_limit(login: &Login) -> Option<(Option<u64>, &Account)> {
    match (&login.tenant, &login.own) {
        (Some(tenant), _) => Some((tenant.limits.monitor, &tenant.account)),
        (None, Some(own)) if login.policy.is_confined() => Some((own.limits.monitor, &own.account)),
        _ => None,
    }
}

fn spell(shown: &Shown<'_>) -> String {
    let Shown { now_us, database, source, argv, .. } = shown;
    let mut line = format!("+{}.{:06} [{database} {source}]", now_us / 1_000_000, now_us % 1_000_000);
    for argument in *argv {
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
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use keyward_acl::{User, UserName, Walls, parse_rules};
    use keyward_engine::account::Allowance;
    use keyward_engine::tenancy::Limits;

    const SECOND: i64 = 1_000_000_000;

    fn login(name: &str, rules: &str) -> Login {
        let mut user = User::new(UserName::new(name.as_bytes()).unwrap(), 1);
        parse_rules(&rules.split(' ').collect::<Vec<_>>()).unwrap().iter().for_each(|rule| user.apply(rule));
        let policy = Arc::new(Policy::compile(&user, keyward_engine::table::table(), Walls::Up));
        let limits = Limits::of_user(&user.limits);
        let own = Arc::new(Allowance { limits, account: Arc::new(Account::new(1)) });
        Login::new(Arc::new(user), policy, false, None, Some(own))
    }

    /// A client of this user that watches.
    fn watching(monitors: &Monitors, client: u64, login: &Login) -> Arc<Mailbox> {
        let mailbox = Mailbox::new(1 << 20, None);
        mailbox.standing.set_reach(login.reach());
        monitors.add(client, &mailbox, Some(login));
        mailbox
    }

    fn lines(mailbox: &Mailbox) -> Vec<String> {
        let mut shown = Vec::new();
        mailbox.collect(&mut shown);
        String::from_utf8_lossy(&shown).lines().map(str::to_owned).collect()
    }

    fn show(monitors: &Monitors, of: &Login, word: &[u8], now_ns: i64, rate: u64) {
        let (of, argv) = (&of.reach(), &[word][..]);
        monitors.show(&Shown { now_us: 0, now_ns, database: 0, source: "a:1", of, argv }, rate);
    }

    #[test]
    fn a_command_is_shown_as_redis_shows_it() {
        let monitors = Monitors::new(None);
        let admin = login("admin", "+@all ~*");
        let mailbox = Mailbox::new(1000, None);
        monitors.add(1, &mailbox, Some(&admin));
        let source = "127.0.0.1:60866";
        let shown = |now_us, argv| Shown { now_us, now_ns: 0, database: 0, source, of: &Reach::Everything, argv };
        monitors.show(&shown(0, &[b"a stranger may not know"]), 0);
        mailbox.standing.set_reach(Reach::Everything);
        monitors.show(&shown(1_339_518_083_107_412, &[b"set", b"k", b"a\"\n\x01"]), 0);
        assert_eq!(lines(&mailbox), ["+1339518083.107412 [0 127.0.0.1:60866] \"set\" \"k\" \"a\\\"\\n\\x01\""]);
        monitors.remove(1);
        assert!(!monitors.is_active());
    }

    #[test]
    fn what_exceeds_the_rate_is_left_out_and_told_once_to_everybody_who_missed_it() {
        let monitors = Monitors::new(None);
        let (app, other, admin) =
            (login("app", "+@all ~app:*"), login("other", "+@all ~o:*"), login("admin", "+@all ~*"));
        let (first, second) = (watching(&monitors, 1, &app), watching(&monitors, 2, &app));
        let (stranger, platform) = (watching(&monitors, 3, &other), watching(&monitors, 4, &admin));
        (0..10).for_each(|_| show(&monitors, &app, b"PING", SECOND, 8));
        // Both share what a second holds.
        assert_eq!((lines(&first).len(), lines(&second).len(), lines(&platform).len()), (4, 4, 10));
        let late = watching(&monitors, 5, &app);
        monitors.tell_left_out(5_000_001);
        let told = ["+5.000001 [0 keyward:0] \"LEFT-OUT\" \"6\" \"monitor-per-second\""];
        assert_eq!(
            (lines(&first), lines(&second)),
            (told.map(str::to_owned).to_vec(), told.map(str::to_owned).to_vec())
        );
        monitors.tell_left_out(6_000_000);
        // Nobody is told twice, nor of what was before it came, nor of others.
        for mailbox in [&first, &second, &late, &stranger, &platform] {
            assert_eq!(lines(mailbox), [""; 0]);
        }
        // A second later there is room for as much again, and three share it by now.
        (0..10).for_each(|_| show(&monitors, &app, b"PING", 2 * SECOND, 8));
        assert_eq!((lines(&first).len(), lines(&late).len()), (2, 2));
        show(&monitors, &other, b"PING", 2 * SECOND, 8);
        assert_eq!(lines(&stranger).len(), 1);
    }

    #[test]
    fn what_is_long_weighs_more_and_what_is_longer_than_a_seconds_worth_is_never_shown() {
        let monitors = Monitors::new(None);
        let app = login("app", "+@all ~app:*");
        let mailbox = watching(&monitors, 1, &app);
        show(&monitors, &app, &[b'x'; 3 * 1024], SECOND, 4);
        show(&monitors, &app, b"PING", SECOND, 4);
        show(&monitors, &app, &[b'x'; 4 * 1024], 10 * SECOND, 4);
        show(&monitors, &app, b"PING", 10 * SECOND, 4);
        assert_eq!(lines(&mailbox).iter().map(String::len).collect::<Vec<_>>(), [3 * 1024 + 20, 24]);
        monitors.tell_left_out(0);
        assert!(lines(&mailbox)[0].contains("\"LEFT-OUT\" \"2\""));
    }

    #[test]
    fn a_rule_bounds_whoever_holds_every_key_and_replaces_what_holds_for_the_confined() {
        let monitors = Monitors::new(None);
        let admin = login("admin", "+@all ~* limit:monitor-per-second=3");
        let app = login("app", "+@all ~app:* limit:monitor-per-second=5");
        let (all, own) = (watching(&monitors, 1, &admin), watching(&monitors, 2, &app));
        (0..10).for_each(|_| show(&monitors, &app, b"PING", SECOND, 1000));
        assert_eq!((lines(&all).len(), lines(&own).len()), (3, 5));
        monitors.tell_left_out(0);
        assert!(lines(&all)[0].contains("\"LEFT-OUT\" \"7\"") && lines(&own)[0].contains("\"LEFT-OUT\" \"5\""));
        // It holds every key by now, and watches on as who it is.
        monitors.add(2, &own, Some(&login("app", "+@all ~*")));
        own.standing.set_reach(Reach::Everything);
        (0..10).for_each(|_| show(&monitors, &admin, b"PING", SECOND, 1));
        assert_eq!(lines(&own).len(), 10);
        monitors.remove(2);
        monitors.remove(1);
        assert!(!monitors.is_active() && monitors.watching.read().circles.is_empty());
    }
}
