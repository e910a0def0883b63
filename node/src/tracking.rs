//! Client-side caching: who must be told when a key changes (`CLIENT TRACKING`).
//!
//! ```text
//!   a tracking client reads a key ─► noted beside the key's shard      the key is written ─► told, and forgotten
//!   BCAST                         ─► its prefixes, here                                   ─► gathered, told with the batch
//! ```
//! Which keys were read is kept under the shard's lock ([`crate::observers`]); here is what belongs to the whole node: the
//! clients, their prefixes, the bound on remembered keys. A telling is mail, so it is sent after the replies of the batch
//! that caused it. <https://redis.io/docs/latest/develop/reference/client-side-caching/>
//!
//! With several shard groups a client is told where it is connected, which has a copy of every group:
//!
//! ```text
//!   it reads a key of a group served elsewhere ─► noted beside the key's copy here ─► the request travels, its answer comes back
//!   the key is written there ─► the effect is carried out here ─► told, after the answer if that is still under way
//! ```
//! Noted before the request leaves, so no change between the two is missed. Where changes may not have come by (the stream of
//! a group broke off, its data was copied anew, another node became its primary, keys were handed over to another group) every
//! client is told that everything may have changed: [`Tracking::tell_of_gap`]; and while no stream is there, what is read is
//! told of at once.

use crate::holding::{NAME_BYTES, Part};
use crate::mailbox::Mailbox;
use keyward_engine::asks::{TrackingMode, TrackingOptions};
use keyward_engine::effects::EveryKeyOf;
use keyward_engine::holdings::STEP;
use keyward_engine::keyspace::TenantId;
use keyward_engine::reply::{Protocol, Reply};
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Instant;

/// What is remembered for clients that ended, in bytes, before all keys are looked through for it: some hundred small ones. Who
/// had a [`STEP`] or more is not waited with.
const LEFT_BYTES: u64 = 64 << 10;

/// Client-key pairs that are remembered for each key that may be, at most: a key that many read is remembered for all of them,
/// as long as not every key is such a one.
const ITEMS_PER_KEY: usize = 16;

/// The channel of invalidations for clients that speak RESP2.
const CHANNEL: &[u8] = b"__redis__:invalidate";

/// One client that caches.
pub struct Tracker {
    /// Its id.
    pub client: u64,
    /// What it asked for.
    pub options: TrackingOptions,
    own: Arc<Mailbox>,
    /// Whose names it means: those of a namespace, or everybody's.
    world: TenantId,
    /// Where its invalidations go instead, if somewhere else.
    redirect: Option<Mutex<Target>>,
    redirect_is_broken: AtomicBool,
    /// For each of its prefixes the keys that changed and that it was not told of yet.
    gathered: Mutex<BTreeMap<Vec<u8>, BTreeSet<Vec<u8>>>>,
}

/// The client that is told in a tracking client's place.
pub enum Target {
    /// Reached here.
    Here(Weak<Mailbox>),
    /// It is not here yet: both move along with the data, or it is connected to another node and listens to nothing so far. What happens meanwhile it hears when it comes: that everything
    /// may have changed. It is given up at this time, whether there is something to tell or not: see [`Tracking::give_up`].
    Awaited(Instant),
    /// It did not come, and is not looked for any more: ids are used again once a node has restarted.
    GivenUp,
}

impl Target {
    /// A client that is served here: from now on it moves along with the data.
    pub fn here(mailbox: &Arc<Mailbox>) -> Target {
        mailbox.set_stands_in(true);
        Target::Here(Arc::downgrade(mailbox))
    }
}

impl Tracker {
    /// A client begins to cache keys of this `world`; `redirect` is the mailbox of `options.redirect`.
    pub fn new(
        client: u64,
        options: TrackingOptions,
        world: TenantId,
        own: Arc<Mailbox>,
        redirect: Option<Target>,
    ) -> Arc<Tracker> {
        Arc::new(Tracker {
            client,
            options,
            own,
            world,
            redirect: redirect.map(Mutex::new),
            redirect_is_broken: AtomicBool::new(false),
            gathered: Mutex::default(),
        })
    }

    /// Whether its invalidations have nowhere to go any more.
    pub fn is_broken(&self) -> bool {
        self.redirect_is_broken.load(Ordering::Relaxed)
    }

    /// Who is told in its place is no more, as it was known before it came here.
    pub fn set_broken(&self) {
        self.redirect_is_broken.store(true, Ordering::Relaxed);
    }

    /// The id of the client that is told in its place, and whether that one is here or on its way.
    pub fn target(&self) -> Option<(u64, bool)> {
        let id = self.options.redirect?;
        let is_known = |target: &Mutex<Target>| match &*target.lock() {
            Target::Here(mailbox) => reached(mailbox).is_some(),
            Target::Awaited(until) => Instant::now() < *until,
            Target::GivenUp => false,
        };
        Some((id, self.redirect.as_ref().is_some_and(is_known)))
    }

    /// The id of the client that is told in its place, as long as it is on its way here.
    pub fn awaits(&self) -> Option<u64> {
        let awaited = |target: &Mutex<Target>| matches!(*target.lock(), Target::Awaited(_));
        self.options.redirect.filter(|_| self.redirect.as_ref().is_some_and(awaited))
    }

    /// The client that is told in its place has come here, and hears that everything may have changed. Nothing happens if it
    /// is one that does not exist for this client's user, or that is not served here itself; nor once it was given up.
    pub fn meet(&self, mailbox: &Arc<Mailbox>) {
        let Some(target) = &self.redirect else { return };
        if mailbox.is_away() {
            return;
        }
        let is_itself = Arc::ptr_eq(&self.own, mailbox);
        if is_itself || self.own.standing.may(|own| mailbox.standing.may(|other| own.sees_clients_of(other))) {
            {
                // Looked at under the lock: whoever gives it up says so under it.
                let mut target = target.lock();
                if matches!(*target, Target::GivenUp) {
                    return;
                }
                *target = Target::here(mailbox);
                self.redirect_is_broken.store(false, Ordering::Relaxed);
            }
            self.tell_of_gap();
        }
    }

    /// What its prefixes take.
    pub fn prefix_bytes(&self) -> u64 {
        self.options.prefixes.iter().map(|prefix| prefix.len() as u64 + NAME_BYTES).sum()
    }

    /// A key that it read is no longer remembered for it.
    fn forgot(&self, key: &[u8]) {
        self.own.holding.take_back(Part::Cached, bytes_of(key));
    }

    /// Whether keys it reads are remembered, given what `CLIENT CACHING` said about this command.
    pub fn remembers(&self, caching: Option<bool>) -> bool {
        match self.options.mode {
            TrackingMode::Broadcast => false,
            TrackingMode::Every => true,
            TrackingMode::OptIn => caching == Some(true),
            TrackingMode::OptOut => caching != Some(false),
        }
    }

    /// Whether it is told by prefix.
    pub fn is_broadcast(&self) -> bool {
        self.options.mode == TrackingMode::Broadcast
    }

    /// Whether another client is told in its place.
    pub fn redirects(&self) -> bool {
        self.redirect.is_some()
    }

    /// That everything may have changed: for a client that comes from elsewhere.
    pub fn tell_of_gap(&self) {
        self.send(None);
    }

    /// Tells it that a key changed. `by` is the client that changed it.
    pub fn tell(&self, key: &[u8], by: u64) {
        if !self.is_own(by) {
            self.send(Some(&[key]));
        }
    }

    /// Whether what `by` changes is its own doing, of which it is not told.
    fn is_own(&self, by: u64) -> bool {
        self.options.no_loop && by == self.client
    }

    /// Whether some of these keys may exist for its user, and for what it asked to be told of.
    fn may_have_read_of(&self, whole: &EveryKeyOf) -> bool {
        let asked_for = |beginning: &[u8]| {
            let prefixes = &self.options.prefixes;
            let overlaps = |own: &Vec<u8>| own.starts_with(beginning) || beginning.starts_with(own);
            prefixes.is_empty() || prefixes.iter().any(overlaps)
        };
        let concerns =
            |beginning: &[u8]| asked_for(beginning) && self.own.standing.may(|reach| reach.may_see_within(beginning));
        let tagged = |prefix: &[u8]| [b"{", prefix].concat();
        let either = |prefix: &Vec<u8>| concerns(prefix) || concerns(&tagged(prefix));
        whole.prefixes.is_empty() || whole.prefixes.iter().any(either)
    }

    /// Tells it of keys that changed; `None`: every key may have.
    fn send(&self, keys: Option<&[&[u8]]>) {
        // Of keys that do not exist for its user, or no longer do, it is told nothing.
        let seen: Option<Vec<&[u8]>> = keys.map(|keys| {
            keys.iter().copied().filter(|key| self.own.standing.may(|reach| reach.sees_key(key))).collect()
        });
        if seen.as_ref().is_some_and(Vec::is_empty) {
            return;
        }
        let keys = seen.as_deref();
        let Some(redirect) = &self.redirect else {
            if self.own.protocol() == Protocol::Resp3 {
                self.own.put(&spelled(Protocol::Resp3, false, keys));
            }
            return;
        };
        let target = match &*redirect.lock() {
            Target::Here(mailbox) => reached(mailbox),
            // Nothing is lost: when it comes it hears that everything may have changed, otherwise it is given up.
            Target::Awaited(_) => return,
            Target::GivenUp => None,
        };
        match target {
            Some(target) if target.protocol() == Protocol::Resp3 => {
                target.put(&spelled(Protocol::Resp3, false, keys));
            }
            Some(target) => {
                if target.listens() {
                    target.put(&spelled(Protocol::Resp2, true, keys));
                }
            }
            None => self.miss(),
        }
    }

    /// Who is told in its place is gone: a client of RESP3 hears so, once.
    fn miss(&self) {
        let first = !self.redirect_is_broken.swap(true, Ordering::Relaxed);
        if first && self.own.protocol() == Protocol::Resp3 {
            let mut reply = Reply::new(Protocol::Resp3);
            reply.push(2);
            reply.bulk(b"tracking-redir-broken");
            reply.integer(self.options.redirect.unwrap_or(0) as i64);
            self.own.put(&reply.bytes);
        }
    }

    /// Gives up whoever was to be here by now. Whether somebody is still awaited.
    fn give_up(&self, now: Instant) -> bool {
        let Some(redirect) = &self.redirect else { return false };
        let mut target = redirect.lock();
        let Target::Awaited(until) = &*target else { return false };
        if now < *until {
            return true;
        }
        *target = Target::GivenUp;
        self.miss();
        // A client of RESP2 cannot be told that nobody came, and must not go on with what it has.
        if self.own.protocol() == Protocol::Resp2 {
            self.own.kill();
        }
        false
    }
}

/// The client, unless it is gone: its mailbox may lie beside keys that it cached itself.
fn reached(mailbox: &Weak<Mailbox>) -> Option<Arc<Mailbox>> {
    mailbox.upgrade().filter(|mailbox| !mailbox.is_closed() && !mailbox.is_away())
}

/// What it takes to remember a key for one client.
fn bytes_of(key: &[u8]) -> u64 {
    key.len() as u64 + NAME_BYTES
}

fn spelled(protocol: Protocol, as_message: bool, keys: Option<&[&[u8]]>) -> Vec<u8> {
    let mut reply = Reply::new(protocol);
    if as_message {
        reply.push(3);
        reply.bulk(b"message");
        reply.bulk(CHANNEL);
    } else {
        reply.push(2);
        reply.bulk(b"invalidate");
    }
    match keys {
        Some(keys) => {
            reply.array(keys.len());
            keys.iter().for_each(|key| reply.bulk(key));
        }
        None => reply.null_array(),
    }
    reply.bytes
}

/// Everybody who caches.
#[derive(Default)]
pub struct Tracking {
    clients: RwLock<HashMap<u64, Arc<Tracker>>>,
    /// Some client wants to be told by prefix: every write must be looked at.
    broadcasts: AtomicBool,
    /// Some of them are to be told.
    has_gathered: AtomicBool,
    /// Somebody waits for who is told in its place.
    has_awaited: AtomicBool,
    /// What is remembered for clients that ended, since the keys were looked through last.
    left_bytes: AtomicU64,
    /// Keys remembered, and client-key pairs.
    pub keys: AtomicUsize,
    /// See `keys`.
    pub items: AtomicUsize,
}

impl Tracking {
    /// A client begins, or changes what it asked for.
    pub fn add(&self, tracker: &Arc<Tracker>) {
        let mut clients = self.clients.write();
        clients.insert(tracker.client, Arc::clone(tracker));
        if tracker.redirects() {
            self.has_awaited.store(true, Ordering::Release);
        }
        self.broadcasts.store(broadcasting(&clients), Ordering::Relaxed);
    }

    /// A client came here from another node, as the data did: those in whose place it is told find it.
    pub fn meet(&self, client: u64, mailbox: &Arc<Mailbox>) {
        let clients = self.clients.read();
        clients
            .values()
            .filter(|tracker| tracker.options.redirect == Some(client))
            .for_each(|tracker| tracker.meet(mailbox));
    }

    /// A client moves to another node: those in whose place it is told will find it there, or here again.
    pub fn part(&self, client: u64, until: Instant) {
        for tracker in self.clients.read().values().filter(|tracker| tracker.options.redirect == Some(client)) {
            tracker.redirect.iter().for_each(|target| *target.lock() = Target::Awaited(until));
        }
        self.has_awaited.store(true, Ordering::Release);
    }

    /// Whether somebody here has this client told in its place.
    pub fn is_told_for_others(&self, client: u64) -> bool {
        self.clients.read().values().any(|tracker| tracker.options.redirect == Some(client))
    }

    /// Whoever was to come along with the data and has not by now is given up: those who have it told in their place hear so at
    /// once, whether something changes or not. What changed while it was awaited would never be told otherwise.
    pub fn give_up(&self, now: Instant) {
        if self.has_awaited.load(Ordering::Relaxed) && self.has_awaited.swap(false, Ordering::AcqRel) {
            // All of them, not the first one that still waits.
            let awaited = self.clients.read().values().filter(|tracker| tracker.give_up(now)).count();
            if awaited > 0 {
                self.has_awaited.store(true, Ordering::Release);
            }
        }
    }

    /// A client ends; what is remembered for it goes when its keys change, or in the background.
    pub fn remove(&self, client: u64) {
        let mut clients = self.clients.write();
        if let Some(tracker) = clients.remove(&client) {
            let bytes = tracker.own.holding.part(Part::Cached);
            self.left_bytes.fetch_add(if bytes < STEP { bytes } else { LEFT_BYTES }, Ordering::Release);
        }
        self.broadcasts.store(broadcasting(&clients), Ordering::Relaxed);
    }

    /// Whether clients ended, since this was last true, for whom many keys are remembered, all in all.
    pub fn take_some_left(&self) -> bool {
        self.left_bytes.load(Ordering::Acquire) >= LEFT_BYTES && self.left_bytes.swap(0, Ordering::AcqRel) > 0
    }

    /// Whether more is remembered than may be.
    fn is_beyond(&self, keys_max: usize) -> bool {
        self.keys.load(Ordering::Relaxed) > keys_max
            || self.items.load(Ordering::Relaxed) > keys_max.saturating_mul(ITEMS_PER_KEY)
    }

    /// Whether every write must be looked at.
    #[inline]
    pub fn has_broadcasts(&self) -> bool {
        self.broadcasts.load(Ordering::Relaxed)
    }

    /// Notes that a key changed for those who asked for a prefix of it: see [`Tracking::deliver`].
    pub fn broadcast(&self, world: TenantId, key: &[u8], by: u64) {
        let concerned = |tracker: &&Arc<Tracker>| {
            tracker.world == world
                && tracker.options.mode == TrackingMode::Broadcast
                && !(tracker.options.no_loop && by == tracker.client)
        };
        for tracker in self.clients.read().values().filter(concerned) {
            self.broadcast_to(tracker, key);
        }
    }

    /// The same for one of them.
    pub fn broadcast_to(&self, tracker: &Tracker, key: &[u8]) {
        let prefixes = &tracker.options.prefixes;
        let every = prefixes.is_empty().then_some(&[][..]);
        let prefix = every.or_else(|| prefixes.iter().map(Vec::as_slice).find(|prefix| key.starts_with(prefix)));
        if let Some(prefix) = prefix {
            tracker.gathered.lock().entry(prefix.to_vec()).or_default().insert(key.to_vec());
            self.has_gathered.store(true, Ordering::Release);
        }
    }

    /// Tells those who asked for prefixes what was gathered for them, one message a prefix. Called when a batch is over.
    #[inline]
    pub fn deliver(&self) {
        if self.has_gathered.load(Ordering::Relaxed) {
            self.deliver_gathered();
        }
    }

    #[cold]
    fn deliver_gathered(&self) {
        self.has_gathered.store(false, Ordering::Relaxed);
        for tracker in self.clients.read().values() {
            let gathered = std::mem::take(&mut *tracker.gathered.lock());
            for keys in gathered.values() {
                tracker.send(Some(&keys.iter().map(Vec::as_slice).collect::<Vec<_>>()));
            }
        }
    }

    /// Tells those of a world who may have read some of these keys that everything may have changed.
    pub fn tell_whole(&self, world: TenantId, whole: &EveryKeyOf, by: u64) {
        self.deliver();
        let told = |tracker: &&Arc<Tracker>| {
            tracker.world == world
                && !(tracker.options.no_loop && by == tracker.client)
                && tracker.may_have_read_of(whole)
        };
        self.clients.read().values().filter(told).for_each(|tracker| tracker.send(None));
    }

    /// Tells everybody that everything may have changed: changes may not have come by here.
    pub fn tell_of_gap(&self) {
        self.deliver();
        self.clients.read().values().for_each(|tracker| tracker.tell_of_gap());
    }

    /// How many clients cache.
    pub fn client_count(&self) -> usize {
        self.clients.read().len()
    }

    /// How many prefixes are asked for, all in all.
    pub fn prefix_count(&self) -> usize {
        self.clients.read().values().map(|tracker| tracker.options.shown_prefixes().len()).sum()
    }

    /// Whether a client that began is still at it with this very tracker.
    pub fn is_current(&self, tracker: &Arc<Tracker>) -> bool {
        self.clients.read().get(&tracker.client).is_some_and(|current| Arc::ptr_eq(current, tracker))
    }
}

fn broadcasting(clients: &HashMap<u64, Arc<Tracker>>) -> bool {
    clients.values().any(|tracker| tracker.options.mode == TrackingMode::Broadcast)
}

/// The keys of one shard that caching clients have read.
#[derive(Default)]
pub struct TrackedKeys {
    /// In order of whose names they mean, and of clients: thousands may have read the same key.
    readers: HashMap<Vec<u8>, Vec<Arc<Tracker>>>,
}

/// Where a client that means these names stands among the readers of a key, or would.
fn find(readers: &[Arc<Tracker>], of: &Tracker) -> Result<usize, usize> {
    readers.binary_search_by_key(&(of.world, of.client), |reader| (reader.world, reader.client))
}

/// Where those stand who mean the names of this world.
fn within(readers: &[Arc<Tracker>], world: TenantId) -> Range<usize> {
    readers.partition_point(|reader| reader.world < world)..readers.partition_point(|reader| reader.world <= world)
}

impl TrackedKeys {
    /// Whether there is none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.readers.is_empty()
    }

    /// A client has read a key. Past the bound, another key of the shard is forgotten, and its readers told.
    pub fn remember(&mut self, key: &[u8], tracker: &Arc<Tracker>, tracking: &Tracking, keys_max: usize) {
        let is_it =
            |readers: &Vec<Arc<Tracker>>| find(readers, tracker).is_ok_and(|at| Arc::ptr_eq(&readers[at], tracker));
        if self.readers.get(key).is_some_and(is_it) {
            return;
        }
        if tracker.own.holding.wants(bytes_of(key)).is_err() {
            // As if there were room for no more keys: it was remembered, and is forgotten for the next one.
            return tracker.tell(key, 0);
        }
        let readers = self.readers.entry(key.to_vec()).or_insert_with(|| {
            tracking.keys.fetch_add(1, Ordering::Relaxed);
            Vec::new()
        });
        match find(readers, tracker) {
            // An earlier tracker of the same client, from before it changed its mind, means nothing any more.
            Ok(at) => std::mem::replace(&mut readers[at], Arc::clone(tracker)).forgot(key),
            Err(at) => {
                readers.insert(at, Arc::clone(tracker));
                tracking.items.fetch_add(1, Ordering::Relaxed);
            }
        }
        tracker.own.holding.add(Part::Cached, bytes_of(key));
        if keys_max > 0 && tracking.is_beyond(keys_max) {
            let victim = self.readers.keys().find(|other| other.as_slice() != key).cloned();
            let victim = victim.unwrap_or_else(|| key.to_vec());
            let readers = self.readers.remove(&victim).unwrap_or_default();
            self.tell(&victim, readers, 0, tracking);
        }
    }

    /// There are more keys than may be remembered: keys of this shard are forgotten and their readers told, until there are not.
    pub fn forget_beyond(&mut self, keys_max: usize, tracking: &Tracking) {
        while tracking.is_beyond(keys_max) {
            let Some((victim, readers)) =
                self.readers.keys().next().cloned().and_then(|key| self.readers.remove_entry(&key))
            else {
                return;
            };
            self.tell(&victim, readers, 0, tracking);
        }
    }

    /// A client changes a key elsewhere: it is told now, and others when the change comes from there.
    pub fn outdate(&mut self, key: &[u8], tracker: &Arc<Tracker>, tracking: &Tracking) {
        let Some(readers) = self.readers.get_mut(key) else { return };
        if let Ok(at) = find(readers, tracker)
            && Arc::ptr_eq(&readers[at], tracker)
        {
            readers.remove(at);
            tracking.items.fetch_sub(1, Ordering::Relaxed);
            tracker.forgot(key);
            tracker.tell(key, 0);
        }
        if readers.is_empty() {
            self.readers.remove(key);
            tracking.keys.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// A key of this world changed: its readers are told and forgotten. Those who mean another key by the name stay, and whoever
    /// changed it and is not told of that: there may be another change before it reads the key again.
    pub fn changed(&mut self, world: TenantId, key: &[u8], by: u64, tracking: &Tracking) {
        let Some(readers) = self.readers.get_mut(key) else { return };
        let concerned = within(readers, world);
        let told: Vec<Arc<Tracker>> = readers.extract_if(concerned, |reader| !reader.is_own(by)).collect();
        if readers.is_empty() {
            self.readers.remove(key);
            self.tell(key, told, by, tracking);
        } else {
            tracking.items.fetch_sub(told.len(), Ordering::Relaxed);
            told.iter().for_each(|reader| reader.forgot(key));
            told.iter().filter(|reader| tracking.is_current(reader)).for_each(|reader| reader.tell(key, by));
        }
    }

    /// A key is forgotten.
    fn tell(&mut self, key: &[u8], readers: Vec<Arc<Tracker>>, by: u64, tracking: &Tracking) {
        tracking.keys.fetch_sub(1, Ordering::Relaxed);
        tracking.items.fetch_sub(readers.len(), Ordering::Relaxed);
        readers.iter().for_each(|reader| reader.forgot(key));
        readers.iter().filter(|reader| tracking.is_current(reader)).for_each(|reader| reader.tell(key, by));
    }

    /// These keys of a world are others now: what was read of them is forgotten; the node tells.
    pub fn clear(&mut self, world: TenantId, whole: &EveryKeyOf, tracking: &Tracking) {
        self.forget_readers(tracking, |key, reader| reader.world == world && whole.has_name(key));
    }

    /// Clients that ended read some of these: what was remembered for them alone goes.
    pub fn forget_those_who_left(&mut self, tracking: &Tracking) {
        self.forget_readers(tracking, |_, reader| !tracking.is_current(reader));
    }

    fn forget_readers(&mut self, tracking: &Tracking, goes: impl Fn(&[u8], &Arc<Tracker>) -> bool) {
        let (mut keys, mut items) = (0, 0);
        self.readers.retain(|key, readers| {
            let gone = readers.extract_if(.., |reader| goes(key, reader));
            items += gone.inspect(|reader| reader.forgot(key)).count();
            keys += usize::from(readers.is_empty());
            !readers.is_empty()
        });
        if self.readers.is_empty() {
            self.readers = HashMap::new();
        }
        tracking.keys.fetch_sub(keys, Ordering::Relaxed);
        tracking.items.fetch_sub(items, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
