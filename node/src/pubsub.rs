//! Who listens to which channel, and the delivery of messages.
//!
//! ```text
//!   PUBLISH ─► channel's listeners ─┐
//!              patterns that match ─┴► each one's mailbox ─► its data thread writes it between two batches
//! ```
//! Messages to one listener arrive in the order in which they were published on one thread; nothing is kept for those who do
//! not listen. Channels are spread over locks by their hash, so that publishers rarely meet. Keyspace events are messages
//! too, and reach only those who may know of the key. Whether a client may use a channel was asked at the gate.

use crate::holding::NAME_BYTES;
use crate::mailbox::Mailbox;
use keyward_acl::Glob;
use keyward_engine::asks::ChannelKind;
use keyward_engine::events::{Event, EventClass};
use keyward_engine::keyspace::TenantId;
use keyward_engine::reply::{Protocol, Reply};
use keyward_engine::scope::{Reach, event_key, is_servers_channel};
use keyward_engine::tenancy::Told;
use keyward_proto::forward::Said;
use parking_lot::RwLock;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use tokio::sync::mpsc;

/// Locks the channels are spread over.
const PARTS: usize = 64;

/// The same for a namespace, of which there may be thousands.
const PARTS_OF_NAMESPACE: usize = 4;

/// Channels and patterns one client may listen to: bounds what it makes the node remember.
pub const SUBSCRIPTIONS_MAX: usize = 100_000;

type Listeners = Vec<Arc<Mailbox>>;

/// The channels of one lock.
type Part = RwLock<HashMap<Vec<u8>, Listeners>>;

/// Every channel of one kind.
struct Channels {
    parts: Box<[Part]>,
    hasher: RandomState,
}

impl Channels {
    fn new(parts: usize) -> Channels {
        Channels { parts: (0..parts).map(|_| RwLock::default()).collect(), hasher: RandomState::new() }
    }

    fn part(&self, channel: &[u8]) -> &Part {
        &self.parts[self.hasher.hash_one(channel) as usize % self.parts.len()]
    }

    fn names(&self, fits: impl Fn(&[u8], &Listeners) -> bool) -> Vec<Vec<u8>> {
        let names = |part: &Part| {
            let held = part.read();
            held.iter().filter(|(name, of)| fits(name, of)).map(|(name, _)| name.clone()).collect::<Vec<_>>()
        };
        self.parts.iter().flat_map(names).collect()
    }
}

struct Pattern {
    glob: Glob,
    listeners: Listeners,
}

/// Patterns by what everything they match begins with: a channel meets only those that begin as it does, so nobody's
/// patterns slow down what is said elsewhere.
struct Patterns {
    beginnings: HashMap<Box<[u8]>, BTreeMap<Vec<u8>, Pattern>>,
    /// How many beginnings there are of each length.
    lengths: [usize; BEGINNING_BYTES_MAX + 1],
}

/// A channel is looked up once for each length there is: names of tenants and of applications are told apart by this much.
const BEGINNING_BYTES_MAX: usize = 64;

impl Default for Patterns {
    fn default() -> Patterns {
        Patterns { beginnings: HashMap::new(), lengths: [0; BEGINNING_BYTES_MAX + 1] }
    }
}

impl Patterns {
    fn add(&mut self, name: &[u8], listener: &Arc<Mailbox>) {
        let glob = Glob::compile(name);
        let beginning = beginning(&glob);
        if !self.beginnings.contains_key(beginning) {
            self.lengths[beginning.len()] += 1;
            self.beginnings.insert(beginning.into(), BTreeMap::new());
        }
        let alike = self.beginnings.get_mut(beginning).expect("it was put there");
        let pattern = alike.entry(name.to_vec()).or_insert_with(|| Pattern { glob, listeners: Vec::new() });
        pattern.listeners.push(Arc::clone(listener));
    }

    fn remove(&mut self, name: &[u8], without: impl FnOnce(&mut Listeners) -> bool) {
        let glob = Glob::compile(name);
        let beginning = beginning(&glob);
        let Some(alike) = self.beginnings.get_mut(beginning) else { return };
        if alike.get_mut(name).is_some_and(|pattern| without(&mut pattern.listeners)) {
            alike.remove(name);
        }
        if alike.is_empty() {
            self.lengths[beginning.len()] -= 1;
            self.beginnings.remove(beginning);
        }
    }

    /// Those that match a channel.
    fn of<'p>(&'p self, channel: &'p [u8]) -> impl Iterator<Item = (&'p Vec<u8>, &'p Listeners)> {
        let lengths = (0..=channel.len().min(BEGINNING_BYTES_MAX)).filter(move |length| self.lengths[*length] > 0);
        let alike = lengths.filter_map(move |length| self.beginnings.get(&channel[..length])).flatten();
        let matching = alike.filter(move |(_, pattern)| pattern.glob.matches(channel));
        matching.map(|(name, pattern)| (name, &pattern.listeners))
    }

    fn all(&self) -> impl Iterator<Item = (&Vec<u8>, &Listeners)> {
        self.beginnings.values().flatten().map(|(name, pattern)| (name, &pattern.listeners))
    }
}

/// What everything that matches begins with, as far as that is looked at.
fn beginning(glob: &Glob) -> &[u8] {
    let literal: &[u8] = match glob {
        Glob::Any => &[],
        Glob::Exact(literal) | Glob::Prefix(literal) | Glob::General(literal, _) => literal,
    };
    &literal[..literal.len().min(BEGINNING_BYTES_MAX)]
}

/// Everybody who listens within one world of names.
struct World {
    channels: Channels,
    shard_channels: Channels,
    patterns: RwLock<Patterns>,
    /// Subscriptions of all kinds: with none, publishing looks no further.
    count: AtomicUsize,
}

impl World {
    fn new(parts: usize) -> World {
        World {
            channels: Channels::new(parts),
            shard_channels: Channels::new(parts),
            patterns: RwLock::default(),
            count: AtomicUsize::new(0),
        }
    }

    fn of(&self, kind: ChannelKind) -> &Channels {
        if kind == ChannelKind::Shard { &self.shard_channels } else { &self.channels }
    }

    fn add(&self, kind: ChannelKind, name: &[u8], listener: &Arc<Mailbox>) {
        self.count.fetch_add(1, Ordering::Relaxed);
        if kind == ChannelKind::Pattern {
            return self.patterns.write().add(name, listener);
        }
        self.of(kind).part(name).write().entry(name.to_vec()).or_default().push(Arc::clone(listener));
    }

    fn remove(&self, kind: ChannelKind, name: &[u8], listener: &Arc<Mailbox>) {
        self.count.fetch_sub(1, Ordering::Relaxed);
        let without = |listeners: &mut Listeners| {
            listeners.retain(|other| !Arc::ptr_eq(other, listener));
            listeners.is_empty()
        };
        if kind == ChannelKind::Pattern {
            return self.patterns.write().remove(name, without);
        }
        let mut part = self.of(kind).part(name).write();
        if part.get_mut(name).is_some_and(without) {
            part.remove(name);
        }
    }

    /// A message about a key only to those who may know of it.
    fn publish_about(&self, key: Option<&[u8]>, shard: bool, channel: &[u8], message: &[u8]) -> usize {
        if self.count.load(Ordering::Relaxed) == 0 {
            return 0;
        }
        let kind = if shard { ChannelKind::Shard } else { ChannelKind::Channel };
        let word: &[u8] = if shard { b"smessage" } else { b"message" };
        let mut reached = 0;
        if let Some(listeners) = self.of(kind).part(channel).read().get(channel) {
            reached += deliver(listeners, (channel, false), key, &[word, channel, message]);
        }
        if !shard {
            for (name, listeners) in self.patterns.read().of(channel) {
                reached += deliver(listeners, (name, true), key, &[b"pmessage", name, channel, message]);
            }
        }
        reached
    }
}

/// What is said about events: the key, the channel, the message.
fn for_each_message(wanted: EventClass, events: &[Event], mut say: impl FnMut(&[u8], &[u8], &[u8])) {
    for event in events {
        if wanted.has(EventClass::KEYSPACE) {
            let channel = [format!("__keyspace@{}__:", event.database).as_bytes(), &event.key].concat();
            say(&event.key, &channel, event.name.as_bytes());
        }
        if wanted.has(EventClass::KEYEVENT) {
            let channel = format!("__keyevent@{}__:{}", event.database, event.name);
            say(&event.key, channel.as_bytes(), &event.key);
        }
    }
}

/// Everybody who listens.
///
/// Each namespace is a world of its own: a channel of one has nothing but its name in common with that of another.
pub struct PubSub {
    shared: World,
    namespaces: RwLock<HashMap<TenantId, World>>,
    clients: AtomicUsize,
    /// Passes messages on to where others listen, if there is such a place.
    relay: OnceLock<mpsc::Sender<Said>>,
    /// Events that are told of tenants' keys only, and whether there are any.
    told: RwLock<Option<Arc<Told>>>,
    tells: AtomicBool,
}

impl Default for PubSub {
    fn default() -> PubSub {
        PubSub {
            shared: World::new(PARTS),
            namespaces: RwLock::default(),
            clients: AtomicUsize::new(0),
            relay: OnceLock::new(),
            told: RwLock::default(),
            tells: AtomicBool::new(false),
        }
    }
}

impl PubSub {
    /// Asks a world something; `nobody` if nobody listens there.
    fn ask<R>(&self, world: TenantId, nobody: R, ask: impl FnOnce(&World) -> R) -> R {
        if world == TenantId::SHARED {
            return ask(&self.shared);
        }
        match self.namespaces.read().get(&world) {
            Some(world) => ask(world),
            None => nobody,
        }
    }

    fn add(&self, world: TenantId, kind: ChannelKind, name: &[u8], listener: &Arc<Mailbox>) {
        if world == TenantId::SHARED {
            return self.shared.add(kind, name, listener);
        }
        self.namespaces
            .write()
            .entry(world)
            .or_insert_with(|| World::new(PARTS_OF_NAMESPACE))
            .add(kind, name, listener);
    }

    fn remove(&self, world: TenantId, kind: ChannelKind, name: &[u8], listener: &Arc<Mailbox>) {
        if world == TenantId::SHARED {
            return self.shared.remove(kind, name, listener);
        }
        let mut namespaces = self.namespaces.write();
        let Some(of) = namespaces.get(&world) else { return };
        of.remove(kind, name, listener);
        if of.count.load(Ordering::Relaxed) == 0 {
            namespaces.remove(&world);
        }
    }

    /// Sends a message to everybody of a world who listens; how many got it.
    pub fn publish(&self, world: TenantId, shard: bool, channel: &[u8], message: &[u8]) -> usize {
        self.pass_on(world, shard, channel, message);
        self.publish_here(world, shard, channel, message)
    }

    /// From now on what is published here is passed on, too.
    pub fn set_relay(&self, relay: mpsc::Sender<Said>) {
        let _ = self.relay.set(relay);
    }

    #[inline]
    fn pass_on(&self, world: TenantId, shard: bool, channel: &[u8], message: &[u8]) {
        if let Some(relay) = self.relay.get() {
            // When too many wait, it is lost, as to a client that does not read.
            let _ = relay.try_send(crate::relay::said(world, shard, channel, message));
        }
    }

    /// Sends a message to those who listen at this node.
    pub fn publish_here(&self, world: TenantId, shard: bool, channel: &[u8], message: &[u8]) -> usize {
        // What is said on the server's channels speaks of a key, whoever says it.
        let key = is_servers_channel(channel).then(|| event_key(channel).unwrap_or(message));
        self.ask(world, 0, |of| of.publish_about(key, shard, channel, message))
    }

    /// Publishes what happened to keys of a world, on the kinds of channels `wanted` names.
    pub fn tell(&self, world: TenantId, wanted: EventClass, events: &[Event]) {
        if events.is_empty() {
            return;
        }
        let told = if self.tells.load(Ordering::Acquire) && world == TenantId::SHARED {
            self.told.read().clone()
        } else {
            None
        };
        let Some(told) = told else { return self.tell_of_all(world, wanted, events) };
        for event in events {
            let wanted = wanted.and(told.of_key(&event.key));
            if wanted.has(event.class) {
                self.tell_of_all(world, wanted, std::slice::from_ref(event));
            }
        }
    }

    fn tell_of_all(&self, world: TenantId, wanted: EventClass, events: &[Event]) {
        if self.relay.get().is_some() {
            for_each_message(wanted, events, |_, channel, message| self.pass_on(world, false, channel, message));
        }
        self.ask(world, (), |of| {
            if of.count.load(Ordering::Relaxed) == 0 {
                return;
            }
            for_each_message(wanted, events, |key, channel, message| {
                of.publish_about(Some(key), false, channel, message);
            });
        });
    }

    /// What is told of tenants' keys besides what is told of all, from now on.
    pub fn set_told(&self, told: Option<&Arc<Told>>) {
        *self.told.write() = told.cloned();
        self.tells.store(told.is_some(), Ordering::Release);
    }

    /// Channels of a world somebody listens to, of those that match and lie within reach, in no order.
    pub fn channels(&self, world: TenantId, shard: bool, pattern: Option<&[u8]>, reach: &Reach) -> Vec<Vec<u8>> {
        let glob = pattern.map(Glob::compile);
        let kind = if shard { ChannelKind::Shard } else { ChannelKind::Channel };
        let matches = |name: &[u8]| glob.as_ref().is_none_or(|glob| glob.matches(name));
        let shows = |name: &[u8], of: &Listeners| matches(name) && seen((name, false), of, reach).next().is_some();
        self.ask(world, Vec::new(), |of| of.of(kind).names(shows))
    }

    /// How many listen to a channel: none if it lies beyond reach.
    pub fn listeners(&self, world: TenantId, shard: bool, channel: &[u8], reach: &Reach) -> usize {
        let kind = if shard { ChannelKind::Shard } else { ChannelKind::Channel };
        let count = |listeners: &Listeners| seen((channel, false), listeners, reach).count();
        self.ask(world, 0, |of| of.of(kind).part(channel).read().get(channel).map_or(0, count))
    }

    /// How many different patterns somebody of a world listens to, of those within reach.
    pub fn pattern_count(&self, world: TenantId, reach: &Reach) -> usize {
        let shows = |(name, of): &(&Vec<u8>, &Listeners)| seen((name, true), of, reach).next().is_some();
        self.ask(world, 0, |of| of.patterns.read().all().filter(shows).count())
    }

    /// How many different channels somebody listens to, outside namespaces.
    pub fn channel_count(&self, shard: bool) -> usize {
        self.channels(TenantId::SHARED, shard, None, &Reach::Everything).len()
    }

    /// How many clients listen to anything.
    pub fn client_count(&self) -> usize {
        self.clients.load(Ordering::Relaxed)
    }
}

/// Those who listen to a name, or pattern, as far as somebody of this reach may know: none beyond reach; and on the server's
/// channels, which every tenant has, those whose connections exist for the user.
fn seen<'l>(
    (name, pattern): (&[u8], bool),
    listeners: &'l Listeners,
    reach: &'l Reach,
) -> impl Iterator<Item = &'l Arc<Mailbox>> {
    let listeners: &[Arc<Mailbox>] = if reach.sees_channel(name, pattern) { listeners } else { &[] };
    let shared = reach.is_confined() && (is_servers_channel(name) || pattern && name.starts_with(b"__"));
    listeners.iter().filter(move |listener| !shared || listener.standing.may(|listens| reach.sees_clients_of(listens)))
}

/// Puts a message into every mailbox of those who listen to the name, or pattern, spelled once for each protocol; how many
/// got it. What it tells about a key is not for
/// those to whom that key does not exist.
fn deliver(listeners: &[Arc<Mailbox>], to: (&[u8], bool), key: Option<&[u8]>, parts: &[&[u8]]) -> usize {
    let (name, pattern) = to;
    let spell = |protocol| {
        let mut reply = Reply::new(protocol);
        reply.push(parts.len());
        parts.iter().for_each(|part| reply.bulk(part));
        reply.bytes
    };
    // A pattern meant for the server's channels may match others, too.
    let strays = pattern && key.is_none() && name.starts_with(b"__key");
    let channel = parts[parts.len() - 2];
    let (mut old, mut new) = (None, None);
    let mut reached = 0;
    for listener in listeners {
        if !listener.standing.may_hear(name, pattern, key)
            || strays && !listener.standing.may(|reach| reach.sees_channel(channel, false))
        {
            continue;
        }
        reached += 1;
        let protocol = listener.protocol();
        let spelled = if protocol == Protocol::Resp3 { &mut new } else { &mut old };
        // No room means that the listener is being cut off: it counts as reached, as a slow one does.
        listener.put(spelled.get_or_insert_with(|| spell(protocol)));
    }
    reached
}

/// What one client listens to.
#[derive(Default)]
pub struct Subscriptions {
    /// Whose names they are.
    world: TenantId,
    channels: BTreeSet<Vec<u8>>,
    patterns: BTreeSet<Vec<u8>>,
    shard_channels: BTreeSet<Vec<u8>>,
    bytes: u64,
}

/// What it takes to listen to a name: it lies with who listens and with what is listened to, a pattern compiled as well.
pub fn bytes_of(kind: ChannelKind, name: &[u8]) -> u64 {
    let copies = if kind == ChannelKind::Pattern { 3 } else { 2 };
    copies * (name.len() as u64 + NAME_BYTES)
}

impl Subscriptions {
    fn of(&mut self, kind: ChannelKind) -> &mut BTreeSet<Vec<u8>> {
        match kind {
            ChannelKind::Channel => &mut self.channels,
            ChannelKind::Pattern => &mut self.patterns,
            ChannelKind::Shard => &mut self.shard_channels,
        }
    }

    /// Channels, patterns, shard channels.
    pub fn counts(&self) -> (usize, usize, usize) {
        (self.channels.len(), self.patterns.len(), self.shard_channels.len())
    }

    /// Whether it listens to nothing.
    pub fn is_empty(&self) -> bool {
        self.counts() == (0, 0, 0)
    }

    /// What all of it takes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What confirmations of this kind count.
    fn told(&self, kind: ChannelKind) -> usize {
        let (channels, patterns, shard_channels) = self.counts();
        if kind == ChannelKind::Shard { shard_channels } else { channels + patterns }
    }

    /// Every name of one kind.
    pub fn named(&self, kind: ChannelKind) -> impl Iterator<Item = &[u8]> {
        let names = match kind {
            ChannelKind::Channel => &self.channels,
            ChannelKind::Pattern => &self.patterns,
            ChannelKind::Shard => &self.shard_channels,
        };
        names.iter().map(Vec::as_slice)
    }

    /// Every name, with whether it is a pattern.
    pub fn names(&self) -> impl Iterator<Item = (&[u8], bool)> {
        let plain = self.channels.iter().chain(&self.shard_channels).map(|name| (name.as_slice(), false));
        plain.chain(self.patterns.iter().map(|name| (name.as_slice(), true)))
    }

    /// Listens to more of `world`, and confirms each. What it listens to of another world ends.
    pub fn subscribe(
        &mut self,
        pubsub: &PubSub,
        world: TenantId,
        kind: ChannelKind,
        names: &[Vec<u8>],
        listener: &Arc<Mailbox>,
        reply: &mut Reply,
    ) {
        if self.world != world {
            self.clear(pubsub, listener);
            self.world = world;
        }
        let was_empty = self.is_empty();
        for name in names {
            let (channels, patterns, shard_channels) = self.counts();
            if channels + patterns + shard_channels >= SUBSCRIPTIONS_MAX {
                reply.error("ERR too many subscriptions on one connection");
                continue;
            }
            if self.of(kind).insert(name.clone()) {
                self.bytes += bytes_of(kind, name);
                pubsub.add(world, kind, name, listener);
            }
            confirm(kind, true, Some(name), self.told(kind), reply);
        }
        if was_empty && !self.is_empty() {
            pubsub.clients.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Listens to less, and confirms each; no names mean all of the kind.
    pub fn unsubscribe(
        &mut self,
        pubsub: &PubSub,
        kind: ChannelKind,
        names: &[Vec<u8>],
        listener: &Arc<Mailbox>,
        reply: &mut Reply,
    ) {
        let was_empty = self.is_empty();
        let all: Vec<Vec<u8>> = if names.is_empty() { self.of(kind).iter().cloned().collect() } else { names.to_vec() };
        if all.is_empty() {
            confirm(kind, false, None, self.told(kind), reply);
        }
        for name in &all {
            if self.of(kind).remove(name) {
                self.bytes -= bytes_of(kind, name);
                pubsub.remove(self.world, kind, name, listener);
            }
            confirm(kind, false, Some(name), self.told(kind), reply);
        }
        if !was_empty && self.is_empty() {
            pubsub.clients.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Listens to nothing any more; nothing is confirmed.
    pub fn clear(&mut self, pubsub: &PubSub, listener: &Arc<Mailbox>) {
        let mut unread = Reply::new(Protocol::Resp2);
        for kind in [ChannelKind::Channel, ChannelKind::Pattern, ChannelKind::Shard] {
            self.unsubscribe(pubsub, kind, &[], listener, &mut unread);
        }
    }
}

fn confirm(kind: ChannelKind, begins: bool, name: Option<&[u8]>, count: usize, reply: &mut Reply) {
    let word: &[u8] = match (kind, begins) {
        (ChannelKind::Channel, true) => b"subscribe",
        (ChannelKind::Channel, false) => b"unsubscribe",
        (ChannelKind::Pattern, true) => b"psubscribe",
        (ChannelKind::Pattern, false) => b"punsubscribe",
        (ChannelKind::Shard, true) => b"ssubscribe",
        (ChannelKind::Shard, false) => b"sunsubscribe",
    };
    reply.push(3);
    reply.bulk(word);
    match name {
        Some(name) => reply.bulk(name),
        None => reply.null(),
    }
    reply.count(count);
}

#[cfg(test)]
mod tests {
    use super::*;
    use keyward_acl::{Policy, User, UserName, Walls, parse_rules};

    fn mail(mailbox: &Mailbox) -> String {
        let mut bytes = Vec::new();
        mailbox.collect(&mut bytes);
        String::from_utf8_lossy(&bytes).replace("\r\n", " ")
    }

    #[test]
    fn a_message_reaches_channels_and_patterns_once_each() {
        let pubsub = PubSub::default();
        let (one, two) = (Mailbox::new(1000, None), Mailbox::new(1000, None));
        let mut reply = Reply::new(Protocol::Resp2);
        let (mut first, mut second) = (Subscriptions::default(), Subscriptions::default());
        first.subscribe(
            &pubsub,
            TenantId::SHARED,
            ChannelKind::Channel,
            &[b"news".to_vec(), b"news".to_vec()],
            &one,
            &mut reply,
        );
        second.subscribe(&pubsub, TenantId::SHARED, ChannelKind::Pattern, &[b"n*".to_vec()], &two, &mut reply);
        assert_eq!(pubsub.publish(TenantId::SHARED, false, b"news", b"hi"), 2);
        assert_eq!(mail(&one), "*3 $7 message $4 news $2 hi ");
        assert_eq!(mail(&two), "*4 $8 pmessage $2 n* $4 news $2 hi ");
        assert_eq!(pubsub.publish(TenantId::SHARED, true, b"news", b"hi"), 0);
        assert_eq!((pubsub.client_count(), pubsub.pattern_count(TenantId::SHARED, &Reach::Everything)), (2, 1));
        first.clear(&pubsub, &one);
        second.clear(&pubsub, &two);
        assert_eq!((pubsub.client_count(), pubsub.publish(TenantId::SHARED, false, b"news", b"hi")), (0, 0));
        assert!(pubsub.channels(TenantId::SHARED, false, None, &Reach::Everything).is_empty());
    }

    // 300,000 patterns of one tenant made everybody's PUBLISH take 33 ms.
    #[test]
    fn a_channel_meets_only_the_patterns_that_begin_as_it_does() {
        let (mut patterns, mailbox) = (Patterns::default(), Mailbox::new(1000, None));
        let long = "l".repeat(100);
        let names = ["*", "", "a", "a*", "ab?", "a[b]c", "a\\*", "gw:*", "g?:x", &long, &format!("{long}*")];
        names.iter().for_each(|name| patterns.add(name.as_bytes(), &mailbox));
        for text in ["", "a", "abc", "abcd", "a*", "a\\", "gw:x", "gw:", "g", &long, &format!("{long}l"), &long[1..]] {
            let mut found: Vec<&[u8]> = patterns.of(text.as_bytes()).map(|(name, _)| name.as_slice()).collect();
            let mut wanted: Vec<&[u8]> = names.iter().map(|name| name.as_bytes()).collect();
            wanted.retain(|name| Glob::compile(name).matches(text.as_bytes()));
            found.sort_unstable();
            wanted.sort_unstable();
            assert_eq!(found, wanted, "{text}");
        }
        assert_eq!(patterns.all().count(), names.len());
        // Whatever begins otherwise is not even looked at.
        (0..1000).for_each(|number| patterns.add(format!("gw:{number}*").as_bytes(), &mailbox));
        let lengths = |patterns: &Patterns| patterns.lengths.iter().filter(|count| **count > 0).count();
        let looked_at = |channel: &str| {
            let parts = (0..=channel.len()).filter_map(|length| patterns.beginnings.get(&channel.as_bytes()[..length]));
            parts.map(BTreeMap::len).sum::<usize>()
        };
        assert_eq!((looked_at("ai:77"), looked_at("gw:77"), lengths(&patterns)), (5, 6, 8));
        (0..1000).for_each(|number| patterns.remove(format!("gw:{number}*").as_bytes(), |_| true));
        names.iter().for_each(|name| patterns.remove(name.as_bytes(), |_| true));
        assert!(patterns.beginnings.is_empty() && lengths(&patterns) == 0, "nothing is kept of those who left");
    }

    #[test]
    fn keyspace_events_are_messages_of_two_kinds() {
        let pubsub = PubSub::default();
        let listener = Mailbox::new(1000, None);
        let mut reply = Reply::new(Protocol::Resp3);
        listener.set_protocol(Protocol::Resp3);
        listener.standing.set_reach(Reach::Everything);
        let mut subscriptions = Subscriptions::default();
        subscriptions.subscribe(
            &pubsub,
            TenantId::SHARED,
            ChannelKind::Pattern,
            &[b"__key*".to_vec()],
            &listener,
            &mut reply,
        );
        let event = Event { class: EventClass::STRING, name: "set", database: 9, key: b"k".to_vec() };
        pubsub.tell(TenantId::SHARED, EventClass::KEYSPACE, std::slice::from_ref(&event));
        assert_eq!(mail(&listener), ">4 $8 pmessage $6 __key* $16 __keyspace@9__:k $3 set ");
        pubsub.tell(TenantId::SHARED, EventClass::KEYEVENT, &[event]);
        assert_eq!(mail(&listener), ">4 $8 pmessage $6 __key* $18 __keyevent@9__:set $1 k ");
    }

    // The server's channels are everybody's: who listens there told tenants of each other's clients.
    #[test]
    fn on_the_channels_of_the_server_a_tenant_counts_its_own_listeners_alone() {
        let reach = |name: &str, tenant: u32| {
            let mut user = User::new(UserName::new(name.as_bytes()).unwrap(), 1);
            parse_rules(&["+@all", "~app:*", "&__key*"]).unwrap().iter().for_each(|rule| user.apply(rule));
            let policy = Policy::compile(&user, keyward_engine::table::table(), Walls::Up);
            Reach::of_user(&Arc::new(policy), TenantId::with_prefixes(tenant))
        };
        let (pubsub, own, foreign) = (PubSub::default(), reach("one", 1), reach("two", 2));
        let (channel, pattern) = (b"__keyevent@0__:set", b"__key*");
        let listen = |reach: &Reach| {
            let mailbox = Mailbox::new(1000, None);
            mailbox.standing.set_reach(reach.clone());
            let (mut subscriptions, mut reply) = (Subscriptions::default(), Reply::new(Protocol::Resp2));
            for (kind, name) in [(ChannelKind::Channel, &channel[..]), (ChannelKind::Pattern, pattern)] {
                subscriptions.subscribe(&pubsub, TenantId::SHARED, kind, &[name.to_vec()], &mailbox, &mut reply);
            }
        };
        let seen = |reach: &Reach| {
            let world = TenantId::SHARED;
            let channels = pubsub.channels(world, false, None, reach).len();
            (channels, pubsub.listeners(world, false, channel, reach), pubsub.pattern_count(world, reach))
        };
        listen(&foreign);
        listen(&foreign);
        assert_eq!((seen(&own), seen(&foreign), seen(&Reach::Everything)), ((0, 0, 0), (1, 2, 1), (1, 2, 1)));
        listen(&own);
        assert_eq!((seen(&own), seen(&Reach::Everything)), ((1, 1, 1), (1, 3, 1)));
    }

    #[test]
    fn a_namespace_hears_itself_alone() {
        let pubsub = PubSub::default();
        let (one, two) = (TenantId::with_namespace(1), TenantId::with_namespace(2));
        let listen = |world| {
            let mailbox = Mailbox::new(1000, None);
            mailbox.standing.set_reach(Reach::Everything);
            let mut subscriptions = Subscriptions::default();
            let mut reply = Reply::new(Protocol::Resp2);
            subscriptions.subscribe(&pubsub, world, ChannelKind::Channel, &[b"news".to_vec()], &mailbox, &mut reply);
            subscriptions.subscribe(&pubsub, world, ChannelKind::Pattern, &[b"__key*".to_vec()], &mailbox, &mut reply);
            (mailbox, subscriptions)
        };
        let mut all = [listen(TenantId::SHARED), listen(one), listen(two)];
        assert_eq!(pubsub.publish(one, false, b"news", b"hi"), 1);
        let event = Event { class: EventClass::STRING, name: "set", database: 0, key: b"k".to_vec() };
        pubsub.tell(one, EventClass::KEYEVENT, std::slice::from_ref(&event));
        let heard: Vec<bool> = all.iter().map(|(mailbox, _)| !mail(mailbox).is_empty()).collect();
        assert_eq!(heard, [false, true, false]);
        assert_eq!(pubsub.channels(two, false, None, &Reach::Everything), [b"news"]);
        all.iter_mut().for_each(|(mailbox, subscriptions)| subscriptions.clear(&pubsub, mailbox));
        assert!(pubsub.namespaces.read().is_empty(), "nothing is kept for those who left");
    }
}
