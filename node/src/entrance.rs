//! The client port's places: so many as `maxclients` says, and some more for whoever has to log in yet.
//!
//! ```text
//!   comes ─► one of maxclients ─► one of the spare places ─► the place of the oldest stranger of the busiest address
//!   logs in ─► stays, if its place is a usual one or its user has every key; else takes a usual place from a stranger
//! ```
//! Where whoever comes is somebody without a login, a usual place is its own; in a spare one it is nobody, and may log in.
//! A stranger is a client that has not said who it is. Strangers shut nobody out: whoever comes when all places are taken gets
//! that of one of them, and they are the only ones who lose theirs. Knows nothing of users or of what clients say.

use crate::mailbox::Mailbox;
use parking_lot::Mutex;
use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Places beyond `maxclients` for users with every key, so that nobody locks them out.
const SPARE_PLACES: u64 = 32;

/// Who is in.
#[derive(Default)]
pub struct Entrance {
    /// How many places of each kind are taken.
    usual: AtomicU64,
    spare: AtomicU64,
    strangers: Mutex<Strangers>,
}

/// Where the next one finds a place.
pub struct Bounds {
    /// Usual places.
    pub max: u64,
    /// Strangers of one address; 0: no such bound.
    pub strangers_max: usize,
    /// Who is somebody without a login.
    pub anonymous: Anonymous,
}

/// Who one is that has just come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Anonymous {
    /// Nobody, and has to log in: perhaps it is one who mends what is wrong here.
    Nobody,
    /// A user without every key: it need not log in, but does not keep those out who mend.
    Confined,
    /// One who sees everything: there is nobody to keep a place for.
    Everything,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// Anybody's.
    Usual,
    /// For those who see everything: others are refused when they log in.
    Spare,
}

/// A client's place. It is free again when this is dropped, unless it was given to another one.
pub struct Place {
    entrance: Arc<Entrance>,
    network: IpAddr,
    /// Of the client; later ones have higher ones.
    id: u64,
    kind: Cell<Kind>,
    /// It is on the list of those who give way, unless it was taken off.
    strange: Cell<bool>,
    /// Another client has it.
    gone: Cell<bool>,
}

#[derive(Default)]
struct Strangers {
    /// By address, and by id in the order in which they came. No address without strangers is kept.
    by_network: HashMap<IpAddr, BTreeMap<u64, Stranger>>,
}

struct Stranger {
    kind: Kind,
    mailbox: Arc<Mailbox>,
}

impl Entrance {
    /// A place for the client `id`, who comes from there, and whether a stranger had to give it up; `None`: there is none. Who has
    /// to log in is a stranger itself until [`Place::note_known`]: `mailbox` is how it is told to leave.
    pub fn enter(
        self: &Arc<Entrance>,
        network: IpAddr,
        id: u64,
        mailbox: &Arc<Mailbox>,
        bounds: &Bounds,
    ) -> Option<(Place, bool)> {
        if bounds.anonymous != Anonymous::Nobody && self.take_one_of(Kind::Usual, bounds.max) {
            return Some((self.place(network, id, Kind::Usual, false), false));
        }
        if bounds.anonymous == Anonymous::Everything {
            return None;
        }
        // Held until it is one of them: two who come at once are counted one after the other.
        let mut strangers = self.strangers.lock();
        let (kind, given_up) = self.find(&mut strangers, network, bounds)?;
        strangers.add(network, id, kind, mailbox);
        Some((self.place(network, id, kind, true), given_up))
    }

    fn place(self: &Arc<Entrance>, network: IpAddr, id: u64, kind: Kind, strange: bool) -> Place {
        let (kind, strange, gone) = (Cell::new(kind), Cell::new(strange), Cell::default());
        Place { entrance: Arc::clone(self), network, id, kind, strange, gone }
    }

    fn find(&self, strangers: &mut Strangers, network: IpAddr, bounds: &Bounds) -> Option<(Kind, bool)> {
        let &Bounds { max, strangers_max, .. } = bounds;
        if strangers_max > 0 && strangers.count(network) >= strangers_max {
            let first = strangers.first_of(network)?;
            return Some((strangers.end(network, first), true));
        }
        if self.take_one_of(Kind::Usual, max) {
            return Some((Kind::Usual, false));
        }
        if self.take_one_of(Kind::Spare, SPARE_PLACES) {
            return Some((Kind::Spare, false));
        }
        let (network, first) = strangers.of_busiest(None)?;
        Some((strangers.end(network, first), true))
    }

    fn taken(&self, kind: Kind) -> &AtomicU64 {
        match kind {
            Kind::Usual => &self.usual,
            Kind::Spare => &self.spare,
        }
    }

    fn take_one_of(&self, kind: Kind, max: u64) -> bool {
        let more = |taken| (taken < max).then_some(taken + 1);
        self.taken(kind).fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    fn give_back(&self, kind: Kind) {
        self.taken(kind).fetch_sub(1, Ordering::Relaxed);
    }

    /// How many places are taken.
    pub fn count(&self) -> u64 {
        self.usual.load(Ordering::Relaxed) + self.spare.load(Ordering::Relaxed)
    }
}

impl Place {
    /// The client is a stranger from now on.
    pub fn note_stranger(&self, mailbox: &Arc<Mailbox>) {
        if !self.strange.replace(true) {
            self.entrance.strangers.lock().add(self.network, self.id, self.kind.get(), mailbox);
        }
    }

    /// The client is about to be somebody. False: another one has its place already.
    pub fn note_known(&self) -> bool {
        if self.strange.replace(false) && self.entrance.strangers.lock().remove(self.network, self.id).is_none() {
            self.gone.set(true);
        }
        !self.gone.get()
    }

    /// Whether the client may have it for good, being nobody special: it is a usual one, or becomes one because another client
    /// left or a stranger does. `max` is how many usual ones there are.
    pub fn is_usual(&self, max: u64) -> bool {
        if self.kind.get() == Kind::Usual {
            return true;
        }
        let mut strangers = self.entrance.strangers.lock();
        if self.strange.get() && !strangers.has(self.network, self.id) {
            // Another client has it.
            return false;
        }
        if !self.entrance.take_one_of(Kind::Usual, max) {
            let Some((network, id)) = strangers.of_busiest(Some(Kind::Usual)) else { return false };
            strangers.end(network, id);
        }
        // The list knows as well: whoever gets the place of a stranger gets what that has.
        strangers.note_kind(self.network, self.id, Kind::Usual);
        self.kind.set(Kind::Usual);
        self.entrance.give_back(Kind::Spare);
        true
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.note_known() {
            self.entrance.give_back(self.kind.get());
        }
    }
}

impl Strangers {
    fn add(&mut self, network: IpAddr, id: u64, kind: Kind, mailbox: &Arc<Mailbox>) {
        let stranger = Stranger { kind, mailbox: Arc::clone(mailbox) };
        self.by_network.entry(network).or_default().insert(id, stranger);
    }

    fn has(&self, network: IpAddr, id: u64) -> bool {
        self.by_network.get(&network).is_some_and(|strangers| strangers.contains_key(&id))
    }

    fn note_kind(&mut self, network: IpAddr, id: u64, kind: Kind) {
        if let Some(stranger) = self.by_network.get_mut(&network).and_then(|strangers| strangers.get_mut(&id)) {
            stranger.kind = kind;
        }
    }

    fn count(&self, network: IpAddr) -> usize {
        self.by_network.get(&network).map_or(0, BTreeMap::len)
    }

    fn first_of(&self, network: IpAddr) -> Option<u64> {
        self.by_network.get(&network)?.keys().next().copied()
    }

    /// Of the address with most of them, or most of those in places of this kind, the one that came first.
    fn of_busiest(&self, kind: Option<Kind>) -> Option<(IpAddr, u64)> {
        let by_network = self.by_network.iter().filter_map(|(network, strangers)| {
            let mut of_kind = strangers.iter().filter(|(_, stranger)| kind.is_none_or(|kind| stranger.kind == kind));
            let first = *of_kind.next()?.0;
            let count = if kind.is_none() { strangers.len() } else { of_kind.count() + 1 };
            Some((count, std::cmp::Reverse(first), *network))
        });
        by_network.max().map(|(_, first, network)| (network, first.0))
    }

    fn remove(&mut self, network: IpAddr, id: u64) -> Option<Stranger> {
        let strangers = self.by_network.get_mut(&network)?;
        let removed = strangers.remove(&id);
        if strangers.is_empty() {
            self.by_network.remove(&network);
        }
        removed
    }

    /// Ends one, whose place goes to whoever asked.
    fn end(&mut self, network: IpAddr, id: u64) -> Kind {
        let stranger = self.remove(network, id).expect("it was found under the same lock");
        stranger.mailbox.kill();
        stranger.kind
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const MAX: u64 = 2;

    struct Client {
        place: Place,
        mailbox: Arc<Mailbox>,
    }

    impl Client {
        fn is_told(&self) -> bool {
            self.mailbox.is_killed()
        }

        fn logs_in(&self, sees_everything: bool) -> bool {
            (sees_everything || self.place.is_usual(MAX)) && self.place.note_known()
        }
    }

    /// An entrance and how many came through it.
    #[derive(Default)]
    struct Door(Arc<Entrance>, Cell<u64>);

    impl Door {
        fn bounds(strangers_max: usize) -> Bounds {
            Bounds { max: MAX, strangers_max, anonymous: Anonymous::Nobody }
        }

        fn try_stranger(&self, address: u8, strangers_max: usize) -> Option<Client> {
            self.1.set(self.1.get() + 1);
            let network = Ipv4Addr::new(10, 0, 0, address).into();
            let mailbox = Mailbox::new(100, None);
            let (place, _) = self.0.enter(network, self.1.get(), &mailbox, &Self::bounds(strangers_max))?;
            Some(Client { place, mailbox })
        }

        fn stranger(&self, address: u8) -> Client {
            self.try_stranger(address, 0).expect("there is a place")
        }
    }

    #[test]
    fn strangers_shut_nobody_out() {
        let door = Door::default();
        let all = MAX + SPARE_PLACES;
        let flood: Vec<Client> = (0..all).map(|_| door.stranger(1)).collect();
        assert_eq!(door.0.count(), all);
        // One in a place of whoever came first, which is a usual one.
        let somebody = door.stranger(2);
        assert!(flood[0].is_told() && !flood[1].is_told());
        assert!(somebody.logs_in(false));
        let platform = door.stranger(3);
        assert!(flood[1].is_told() && platform.logs_in(true));
        assert_eq!(door.0.count(), all);
        drop(flood);
        assert_eq!(door.0.count(), 2, "each place is given back once");
    }

    #[test]
    fn whoever_is_known_keeps_its_place_and_a_spare_one_is_for_those_who_see_everything() {
        let door = Door::default();
        let known: Vec<Client> = (0..MAX).map(|_| door.stranger(1)).collect();
        assert!(known.iter().all(|client| client.logs_in(false)));
        let late = door.stranger(2);
        assert!(!late.logs_in(false), "no stranger has a usual place");
        assert!(late.logs_in(true));
        let many: Vec<Client> = (0..SPARE_PLACES * 2).map(|_| door.stranger(3)).collect();
        assert!(!known.iter().chain([&late]).any(Client::is_told));
        drop(many);
        assert_eq!(door.0.count(), MAX + 1);
        let next = door.stranger(4);
        drop(known);
        assert!(next.logs_in(false), "two left");
        drop((late, next));
        assert_eq!(door.0.count(), 0);
    }

    #[test]
    fn one_in_a_spare_place_takes_a_usual_one_from_a_stranger() {
        let door = Door::default();
        let usual: Vec<Client> = (0..MAX).map(|_| door.stranger(1)).collect();
        let late = door.stranger(2);
        assert!(late.logs_in(false));
        assert!(usual[0].is_told());
        assert!(!usual[0].logs_in(true), "its place is another's");
        assert_eq!(door.0.count(), MAX);
        drop((usual, late));
        assert_eq!(door.0.count(), 0);
    }

    #[test]
    fn an_address_has_so_many_strangers() {
        let door = Door::default();
        let first = door.try_stranger(1, 2).unwrap();
        let second = door.try_stranger(2, 2).unwrap();
        assert!(second.logs_in(true));
        let third = door.try_stranger(1, 2).unwrap();
        assert!(!first.is_told());
        let fourth = door.try_stranger(1, 2).unwrap();
        assert!(first.is_told() && !third.is_told() && !fourth.is_told());
        assert_eq!(door.0.count(), 3);
    }

    #[test]
    fn who_is_somebody_without_a_login_keeps_its_usual_place_and_is_nobody_in_a_spare_one() {
        let door = Door::default();
        let bounds = Bounds { anonymous: Anonymous::Confined, ..Door::bounds(0) };
        let come = |id| {
            let mailbox = Mailbox::new(100, None);
            let (place, _) = door.0.enter(Ipv4Addr::LOCALHOST.into(), id, &mailbox, &bounds).expect("there is a place");
            Client { place, mailbox }
        };
        let anonymous: Vec<Client> = (0..MAX).map(come).collect();
        assert!(anonymous.iter().all(|client| client.place.is_usual(MAX)));
        let flood: Vec<Client> = (MAX..MAX + 2 * SPARE_PLACES).map(come).collect();
        assert!(flood.iter().all(|client| !client.logs_in(false)), "none of them is served");
        let platform = come(1000);
        assert!(platform.logs_in(true));
        assert!(!anonymous.iter().any(Client::is_told), "strangers give way, and only they");
        drop(anonymous);
        let oldest = flood.iter().find(|client| !client.is_told()).expect("some are there");
        assert!(oldest.place.is_usual(MAX), "a usual place is free, however many are in spare ones");
        // It is a stranger still, and its place is given to another as the usual one that it has become.
        let more: Vec<Client> = (0..MAX + SPARE_PLACES).map(|_| door.stranger(9)).collect();
        assert!(oldest.is_told());
        drop((flood, more, platform));
        assert_eq!(door.0.count(), 0, "each place is given back once, as what it was");
    }

    #[test]
    fn nobody_gives_way_where_nobody_logs_in() {
        let door = Door::default();
        let bounds = Bounds { anonymous: Anonymous::Everything, ..Door::bounds(1) };
        let network = Ipv4Addr::LOCALHOST.into();
        let mailbox = Mailbox::new(100, None);
        let enter = |id| door.0.enter(network, id, &mailbox, &bounds);
        let inside: Vec<_> = (0..MAX).map(|id| enter(id).expect("there is room")).collect();
        assert!(enter(MAX).is_none());
        drop(inside);
        assert_eq!(door.0.count(), 0);
    }
}
