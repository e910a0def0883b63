//! Wrong passwords from one address: beyond so many a second, its next logins wait before their password is looked at.
//!
//! ```text
//!   AUTH ─► turn(address) ─► now ───────────────────────────► the password ─► wrong: the address owes one more
//!                              └ it owes more than a second's ─► waits for its place, WAIT_MAX at most ─┘
//! ```
//! To look first and answer late would tell a guesser as much by its silence. What waits is one connection, on its own, and no
//! thread; nothing is refused that may be right, unless a great many of one address wait already. Names do not count: whoever
//! guesses at a user keeps nobody out who comes from elsewhere. An address that guessed nothing wrong is not even looked up.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Addresses remembered. An attacker with more of them is not stopped by counting.
const ADDRESSES_MAX: usize = 4096;

/// The longest that a login waits: others may share the address, behind a proxy.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// Logins of one address that wait; further ones are refused unheard. With the longest wait it bounds how fast an address may
/// guess with many connections, and how many of them it keeps here.
const WAITING_MAX: u32 = 500;

/// How much an address may owe before its logins wait.
const BURST: Duration = Duration::from_secs(1);

/// What addresses owe.
#[derive(Default)]
pub struct Guesses {
    any: AtomicBool,
    by_network: Mutex<HashMap<IpAddr, Debt>>,
}

struct Debt {
    /// When it owes nothing any more.
    until: Instant,
    waiting: u32,
}

/// When a login is looked at.
pub enum Turn<'a> {
    /// At once.
    Now,
    /// After so long; it counts as wrong already.
    After(Duration, Waiting<'a>),
    /// Never.
    Refused,
}

/// A login that waits, until it is dropped.
pub struct Waiting<'a> {
    guesses: &'a Guesses,
    network: IpAddr,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(debt) = self.guesses.by_network.lock().get_mut(&self.network) {
            debt.waiting = debt.waiting.saturating_sub(1);
        }
    }
}

impl Guesses {
    /// When a login from `address` is looked at, if so many may be wrong in a second; 0: all of them.
    pub fn turn(&self, address: &str, a_second: u32, now: Instant) -> Turn<'_> {
        if a_second == 0 || !self.any.load(Ordering::Acquire) {
            return Turn::Now;
        }
        let Some(network) = network_of(address) else { return Turn::Now };
        let mut by_network = self.by_network.lock();
        let Some(debt) = by_network.get_mut(&network) else { return Turn::Now };
        if debt.until <= now && debt.waiting == 0 {
            by_network.remove(&network);
            self.any.store(!by_network.is_empty(), Ordering::Release);
            return Turn::Now;
        }
        let wait = debt.until.saturating_duration_since(now + BURST).min(WAIT_MAX);
        if wait.is_zero() {
            return Turn::Now;
        }
        if debt.waiting >= WAITING_MAX {
            return Turn::Refused;
        }
        debt.waiting += 1;
        debt.owe(a_second, now);
        Turn::After(wait, Waiting { guesses: self, network })
    }

    /// One that did not wait was wrong.
    pub fn wrong(&self, address: &str, a_second: u32, now: Instant) {
        let Some(network) = network_of(address).filter(|_| a_second > 0) else { return };
        let mut by_network = self.by_network.lock();
        if by_network.len() >= ADDRESSES_MAX {
            by_network.retain(|_, debt| debt.until > now || debt.waiting > 0);
        }
        if by_network.len() >= ADDRESSES_MAX && !by_network.contains_key(&network) {
            return;
        }
        by_network.entry(network).or_insert(Debt { until: now, waiting: 0 }).owe(a_second, now);
        self.any.store(true, Ordering::Release);
    }
}

impl Debt {
    fn owe(&mut self, a_second: u32, now: Instant) {
        let until = self.until.max(now) + Duration::from_secs(1) / a_second;
        self.until = until.min(now + BURST + WAIT_MAX);
    }
}

fn network_of(address: &str) -> Option<IpAddr> {
    address.parse().ok().map(network)
}

/// Who owns one address of an IPv6 /64 owns all of them.
pub fn network(address: SocketAddr) -> IpAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) >> 64 << 64).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "10.0.0.1:1000";

    fn waits(turn: &Turn<'_>) -> Option<Duration> {
        match turn {
            Turn::Now => Some(Duration::ZERO),
            Turn::After(time, _) => Some(*time),
            Turn::Refused => None,
        }
    }

    #[test]
    fn an_address_that_guesses_waits_and_no_other_does() {
        let (guesses, now) = (Guesses::default(), Instant::now());
        for _ in 0..10 {
            assert!(matches!(guesses.turn(ONE, 10, now), Turn::Now));
            guesses.wrong(ONE, 10, now);
        }
        guesses.wrong(ONE, 10, now);
        let first = guesses.turn("10.0.0.1:2000", 10, now);
        let second = guesses.turn(ONE, 10, now);
        let tenth = Duration::from_millis(100);
        assert_eq!((waits(&first), waits(&second)), (Some(tenth), Some(2 * tenth)));
        assert!(matches!(guesses.turn("10.0.0.2:1000", 10, now), Turn::Now), "it guessed nothing");
        assert!(matches!(guesses.turn(ONE, 0, now), Turn::Now), "it may guess as it likes");
        drop((first, second));
        let later = now + Duration::from_secs(2);
        assert!(matches!(guesses.turn(ONE, 10, later), Turn::Now));
        assert!(!guesses.any.load(Ordering::Relaxed), "nothing is remembered of whoever stopped");
    }

    #[test]
    fn no_login_waits_for_long_and_not_many_wait() {
        let (guesses, now) = (Guesses::default(), Instant::now());
        (0..1000).for_each(|_| guesses.wrong(ONE, 10, now));
        let waiting: Vec<_> = (0..WAITING_MAX).map(|_| guesses.turn(ONE, 10, now)).collect();
        assert!(waiting.iter().all(|turn| waits(turn).is_some_and(|time| time <= WAIT_MAX)));
        assert_eq!(waits(&guesses.turn(ONE, 10, now)), None);
        drop(waiting);
        assert_eq!(waits(&guesses.turn(ONE, 10, now)), Some(WAIT_MAX));
        for number in 0..2 * ADDRESSES_MAX {
            guesses.wrong(&format!("[2001:db8:{number:x}::1]:1"), 10, now);
        }
        assert_eq!(guesses.by_network.lock().len(), ADDRESSES_MAX);
        assert_eq!(network_of("[2001:db8::1]:1"), network_of("[2001:db8::2:1]:1"));
        assert_eq!(network_of("[::ffff:10.0.0.1]:1"), network_of(ONE));
    }
}
