//! How much of the audit stream is whose: nobody rolls other people's lines away.
//!
//! ```text
//!   event ─► its doer's share of this minute ─┬─ room: a line
//!                                             └─ none: counted, and told within a minute: "repeated":n
//! ```
//! A doer is a user, a tenant with all its users, or an address strangers come from; of each kind of event each has a share
//! of its own, so that a flood of denials hides no login. Strangers are as many as they like, so all of them have one share
//! together as well. Knows no lines and no clock.

use keyward_acl::LogOwner;
use keyward_engine::session::Session;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use super::audit::AuditEvent;

/// Shares that are kept at once; further doers have one together. Some hundred bytes each.
const SHARES_MAX: usize = 4096;

/// What all strangers may write together, as so many single shares.
const STRANGERS_SHARES: u32 = 10;

/// How long a share lasts, in milliseconds; as often it is told what did not fit.
pub const WINDOW_MS: i64 = 60_000;

/// Whose line it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Doer {
    /// The cluster itself, or somebody who may do everything: whatever they write is wanted.
    Trusted,
    /// Those who are not logged in, by the network they come from.
    Stranger(String),
    /// All strangers.
    Strangers,
    /// A user of no tenant.
    User(Box<[u8]>),
    /// A tenant.
    Tenant(Box<[u8]>),
    /// Those for whom there is no room.
    Others,
}

impl Doer {
    /// Whose doing something is that this session did.
    pub fn of(session: &Session) -> Doer {
        match crate::acl_log::owner(session) {
            LogOwner::Strangers => Doer::stranger(&session.address),
            LogOwner::User(name) => Doer::User(name),
            LogOwner::Tenant(name) => Doer::Tenant(name),
        }
    }

    /// The same for what only the server's own people do: who may do everything is trusted.
    pub fn of_administrator(session: &Session) -> Doer {
        if session.lasting_reach().is_confined() { Doer::of(session) } else { Doer::Trusted }
    }

    /// Somebody who is not logged in. Of an address of IPv6 the first half counts: whoever has one has all of the other.
    pub fn stranger(address: &str) -> Doer {
        let network = match address.parse().map(|address: SocketAddr| address.ip().to_canonical()) {
            Ok(IpAddr::V4(address)) => address.to_string(),
            Ok(IpAddr::V6(address)) => {
                let [a, b, c, d, ..] = address.segments();
                format!("{a:x}:{b:x}:{c:x}:{d:x}::/64")
            }
            Err(_) => String::new(),
        };
        Doer::Stranger(network)
    }

    /// As a line names it: a field, and what is in it.
    pub fn field(&self) -> (&'static str, &[u8]) {
        match self {
            Doer::Trusted => ("by", b"the cluster"),
            Doer::Stranger(network) => ("by-strangers-of", network.as_bytes()),
            Doer::Strangers => ("by", b"strangers"),
            Doer::User(name) => ("user", name),
            Doer::Tenant(name) => ("tenant", name),
            Doer::Others => ("by", b"others"),
        }
    }
}

#[derive(Debug)]
struct Share {
    since_ms: i64,
    lines: u32,
    withheld: u64,
    told_ms: i64,
}

impl Share {
    fn new(now_ms: i64) -> Share {
        Share { since_ms: now_ms, lines: 0, withheld: 0, told_ms: now_ms }
    }

    fn take(&mut self, now_ms: i64, lines_max: u32) -> bool {
        if is_over(self.since_ms, now_ms) {
            (self.since_ms, self.lines) = (now_ms, 0);
        }
        let fits = self.lines < lines_max;
        self.lines += u32::from(fits);
        self.withheld += u64::from(!fits);
        fits
    }
}

/// A clock that was set back begins anew.
fn is_over(since_ms: i64, now_ms: i64) -> bool {
    !(0..WINDOW_MS).contains(&(now_ms - since_ms))
}

/// What did not fit since it was told last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Withheld {
    /// Of which kind.
    pub event: AuditEvent,
    /// Whose.
    pub doer: Doer,
    /// How many lines.
    pub lines: u64,
}

/// Everybody's shares.
#[derive(Debug, Default)]
pub struct Shares {
    /// A share, in lines; 0 is no limit.
    lines_max: u32,
    of: BTreeMap<(AuditEvent, Doer), Share>,
}

impl Shares {
    /// So many lines of a kind for each doer in a minute.
    pub fn new(lines_max: u32) -> Shares {
        Shares { lines_max, of: BTreeMap::new() }
    }

    /// Whether there is room for one more line; if not, it is counted.
    pub fn take(&mut self, event: AuditEvent, doer: Doer, now_ms: i64) -> bool {
        if self.lines_max == 0 || doer == Doer::Trusted {
            return true;
        }
        let is_stranger = matches!(doer, Doer::Stranger(_));
        let lines_max = self.lines_max;
        let fits = self.share(event, doer, now_ms).take(now_ms, lines_max);
        let all_max = lines_max.saturating_mul(STRANGERS_SHARES);
        fits && (!is_stranger || self.share(event, Doer::Strangers, now_ms).take(now_ms, all_max))
    }

    fn share(&mut self, event: AuditEvent, doer: Doer, now_ms: i64) -> &mut Share {
        let full = self.of.len() >= SHARES_MAX && !self.of.contains_key(&(event, doer.clone()));
        let doer = if full && doer != Doer::Strangers { Doer::Others } else { doer };
        self.of.entry((event, doer)).or_insert_with(|| Share::new(now_ms))
    }

    /// What is to be told now; everything, `at_last`. Whoever did nothing more is forgotten.
    pub fn due(&mut self, now_ms: i64, at_last: bool) -> Vec<Withheld> {
        let mut due = Vec::new();
        self.of.retain(|(event, doer), share| {
            if share.withheld > 0 && (at_last || is_over(share.told_ms, now_ms)) {
                let lines = std::mem::take(&mut share.withheld);
                share.told_ms = now_ms;
                due.push(Withheld { event: *event, doer: doer.clone(), lines });
            }
            share.withheld > 0 || !is_over(share.since_ms, now_ms)
        });
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> Doer {
        Doer::User(name.as_bytes().into())
    }

    #[test]
    fn whoever_floods_the_stream_uses_up_a_share_and_nobody_elses() {
        let mut shares = Shares::new(3);
        let taken = (0..1000).filter(|_| shares.take(AuditEvent::Denial, user("bob"), 10)).count();
        assert_eq!(taken, 3);
        assert!(shares.take(AuditEvent::Denial, user("ann"), 10));
        assert!(shares.take(AuditEvent::Auth, user("bob"), 10), "another kind is another share");
        assert!(shares.take(AuditEvent::Denial, Doer::Trusted, 10));
        assert_eq!(shares.due(10, false), [], "not yet");
        let told = Withheld { event: AuditEvent::Denial, doer: user("bob"), lines: 997 };
        assert_eq!(shares.due(10 + WINDOW_MS, false), [told]);
        assert!(shares.take(AuditEvent::Denial, user("bob"), 10 + WINDOW_MS));
        assert_eq!(shares.due(11 + WINDOW_MS, true), [], "it was told");
    }

    #[test]
    fn what_did_not_fit_is_told_although_the_flood_goes_on() {
        let mut shares = Shares::new(1);
        let mut told = 0;
        for at in 0..300 {
            shares.take(AuditEvent::Auth, user("bob"), at * 1000);
            told += shares.due(at * 1000, false).iter().map(|withheld| withheld.lines).sum::<u64>();
        }
        told += shares.due(300_000, true).iter().map(|withheld| withheld.lines).sum::<u64>();
        assert_eq!(told, 300 - 5, "one line a minute, all others as a number");
    }

    #[test]
    fn strangers_have_a_share_by_network_and_one_together() {
        assert_eq!(Doer::stranger("10.0.0.7:1234"), Doer::stranger("10.0.0.7:99"));
        assert_eq!(Doer::stranger("[2001:db8::1]:1"), Doer::stranger("[2001:db8::ffff]:2"));
        assert_ne!(Doer::stranger("[2001:db8:0:1::1]:1"), Doer::stranger("[2001:db8:0:2::1]:1"));
        let mut shares = Shares::new(2);
        let mut written = 0;
        for network in 0..100 {
            let from = Doer::stranger(&format!("10.0.{network}.1:5"));
            written += (0..5).filter(|_| shares.take(AuditEvent::Auth, from.clone(), 0)).count();
        }
        assert_eq!(written, 20);
    }

    #[test]
    fn shares_stay_bounded() {
        let mut shares = Shares::new(1);
        for number in 0..2 * SHARES_MAX {
            shares.take(AuditEvent::Denial, user(&number.to_string()), 0);
        }
        assert!(shares.of.len() <= SHARES_MAX + 1, "{}", shares.of.len());
        shares.due(2 * WINDOW_MS, false);
        shares.due(4 * WINDOW_MS, false);
        assert_eq!(shares.of.len(), 0);
    }
}
