//! Tenants, ready to use: who owns a key, whose a user is, and what each may use.
//!
//! ```text
//!   prefix mode      key `gw:rate:1` or `{gw:rate}:1` ─► the longest known prefix ─► its owner
//!   namespace mode   whoever belongs to the tenant sees its keyspace and nothing else; names are its own
//! ```
//! Built anew whenever a tenant changes, shared by everybody until then. What a tenant may use is written as text and
//! compiled here, once: a value this version does not understand counts as if it were not set.
//!
//! It refuses to know how tenants are agreed on, where keys are kept, and the clock. It is long because what a
//! tenant may be told, its settings, its owners' table and its grants, is one vocabulary with its tests.

use crate::account::Account;
use crate::events::EventClass;
use crate::eviction;
use crate::keyspace::{SpaceId, TenantId};
use crate::shares::Share;
use keyward_acl::limit::bytes;
use keyward_acl::{Fence, Glob, LimitName};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Whether a key begins with one of these, or `{` and one of these: as keys are owned.
pub fn begins<P: AsRef<[u8]>>(key: &[u8], prefixes: &[P]) -> bool {
    let name = key.strip_prefix(b"{").unwrap_or(key);
    prefixes.iter().any(|prefix| name.starts_with(prefix.as_ref()))
}

/// A right to keys of another tenant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Grant {
    /// The other tenant.
    pub tenant: String,
    /// Which keys, as a key pattern.
    pub pattern: Vec<u8>,
    /// Whether they may be written too.
    pub write: bool,
}

/// A tenant as agreed on.
#[derive(Clone, Debug)]
pub struct Tenant {
    /// What its keys are stored under.
    pub id: TenantId,
    /// Its name.
    pub name: String,
    /// What its keys begin with; none in namespace mode.
    pub prefixes: Vec<Vec<u8>>,
    /// The names of its users.
    pub users: Vec<Vec<u8>>,
    /// What it may use, as written, sorted by name.
    pub settings: Arc<[(Box<str>, Box<str>)]>,
    /// The same, compiled.
    pub limits: Limits,
    /// What it does on this node.
    pub account: Arc<Account>,
    /// What others may use of its keys.
    pub exports: Vec<Grant>,
    /// What it uses of others' keys.
    pub imports: Vec<Grant>,
    /// Its users are locked out.
    pub retired: bool,
    /// The change that made it.
    pub created: u64,
    /// The last change to it.
    pub revision: u64,
    /// What it uses now, on this node.
    pub gauge: Arc<Gauge>,
}

/// What a tenant may use. Zero means no bound, unless it says otherwise.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Limits {
    /// Bytes of data nobody else takes away.
    pub reserve: u64,
    /// Bytes of data at most.
    pub limit: u64,
    /// Keys at most.
    pub keys: u64,
    /// What goes when its memory runs out; `None`: as the node says.
    pub eviction: Option<eviction::Policy>,
    /// Operations a second on each node, weighted by work.
    pub operations: u64,
    /// Bytes a second on each node, in and out together.
    pub bytes: u64,
    /// Milliseconds of processor time a second on each node.
    pub cpu_ms: u64,
    /// Connections to each node.
    pub connections: u64,
    /// Logins a second at each node, of connections that are not there yet.
    pub connection_rate: u64,
    /// Clients that wait for keys, on each node.
    pub blocked: u64,
    /// Subscriptions of all its clients, on each node.
    pub subscriptions: u64,
    /// Bytes of an answer or of messages that a client has yet to read.
    pub output: u64,
    /// Milliseconds one script may run.
    pub script_ms: u64,
    /// Milliseconds one command may go on that goes over its keys many times.
    pub command_ms: u64,
    /// Names that one KEYS tells; `None`: as the node says.
    pub keys_names: Option<u64>,
    /// Lines a second that MONITOR shows all its clients together, on each node; `None`: as the node says.
    pub monitor: Option<u64>,
    /// Bytes of one argument.
    pub value: u64,
    /// Bytes that all clients hold besides keys, on each node; `None`: as the node says.
    pub clients_hold: Option<u64>,
    /// FLUSHDB and FLUSHALL are refused.
    pub keeps_data: bool,
    /// `&*` means every channel there is, not those that begin as its keys do.
    pub shares_channels: bool,
    /// Keyspace events that are told of its keys, besides those the node tells of all.
    pub events: EventClass,
}

/// How long a script of a tenant, or of another confined user, may run if nothing is said, in milliseconds: as long as Redis
/// lets one run before others are told that it is busy. Threads for slow work are few, and a neighbor's work waits for them, too.
pub const SCRIPT_MS: u64 = 5000;

/// The same of a command that goes over its keys many times.
pub const COMMAND_MS: u64 = SCRIPT_MS;

/// Subscriptions of a tenant on each node if nothing is said: more than applications of thousands of channels have, and few
/// enough that what is said on the server's own channels, which everybody's patterns may begin like, finds its listeners soon.
const SUBSCRIPTIONS: u64 = 10_000;

/// What a setting's value looks like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Bytes,
    Count,
    Eviction,
    Flush,
    Channels,
    Events,
}

/// A setting of tenants.
pub struct Setting {
    /// Its name.
    pub name: &'static str,
    kind: Kind,
    /// What holds if nothing is said.
    pub unless_said: &'static str,
    /// What it means, as a sentence.
    pub meaning: &'static str,
}

/// Every setting, in the order `TENANT GET` shows them.
pub const SETTINGS: &[Setting] = &[
    Setting {
        name: "reserve",
        kind: Kind::Bytes,
        unless_said: "none",
        meaning: "Memory that no other tenant takes away.",
    },
    Setting { name: "limit", kind: Kind::Bytes, unless_said: "none", meaning: "Memory at most." },
    Setting {
        name: "keys",
        kind: Kind::Count,
        unless_said: "no limit",
        meaning: "Keys at most, of all its databases.",
    },
    Setting {
        name: "eviction",
        kind: Kind::Eviction,
        unless_said: "what maxmemory-policy says",
        meaning: "What goes when memory runs out.",
    },
    Setting {
        name: "ops-per-second",
        kind: Kind::Count,
        unless_said: "no limit",
        meaning: "Operations, weighted by work, on each node.",
    },
    Setting {
        name: "bytes-per-second",
        kind: Kind::Bytes,
        unless_said: "no limit",
        meaning: "Bytes in and out, on each node.",
    },
    Setting {
        name: "cpu-ms-per-second",
        kind: Kind::Count,
        unless_said: "no limit",
        meaning: "Processor time, on each node.",
    },
    Setting {
        name: "connections",
        kind: Kind::Count,
        unless_said: "half of maxclients",
        meaning: "Connections to each node.",
    },
    Setting {
        name: "connections-per-second",
        kind: Kind::Count,
        unless_said: "no limit",
        meaning: "Connections that log in, at each node.",
    },
    Setting {
        name: "blocked-clients",
        kind: Kind::Count,
        unless_said: "no limit",
        meaning: "Clients that wait for keys.",
    },
    Setting {
        name: "subscriptions",
        kind: Kind::Count,
        unless_said: "10000",
        meaning: "Channels and patterns of all clients; 0: as many as they like.",
    },
    Setting {
        name: "output-bytes",
        kind: Kind::Bytes,
        unless_said: "half of client-bytes",
        meaning: "What one client has yet to read.",
    },
    Setting {
        name: "client-bytes",
        kind: Kind::Bytes,
        unless_said: "an eighth of maxmemory, 32mb to 256mb",
        meaning: "What all clients hold besides keys, on each node; 0: as much as they like.",
    },
    Setting {
        name: "script-ms",
        kind: Kind::Count,
        unless_said: "5000",
        meaning: "How long one script may run; 0: as long as it likes.",
    },
    Setting {
        name: "command-ms",
        kind: Kind::Count,
        unless_said: "5000",
        meaning: "How long one union, SORT, LCS or such may go on; 0: as long as it likes.",
    },
    Setting {
        name: "keys-names",
        kind: Kind::Count,
        unless_said: "what keys-names-max says",
        meaning: "Names that one KEYS tells; beyond, it is an error. 0: as many as there are.",
    },
    Setting {
        name: "monitor-per-second",
        kind: Kind::Count,
        unless_said: "what the node's setting says",
        meaning: "Lines that MONITOR shows all clients, on each node; beyond, they are counted. 0: all of them.",
    },
    Setting {
        name: "value-bytes",
        kind: Kind::Bytes,
        unless_said: "what proto-max-bulk-len says",
        meaning: "The longest argument of a write.",
    },
    Setting {
        name: "notify-keyspace-events",
        kind: Kind::Events,
        unless_said: "what the node's setting says",
        meaning: "Events told of its keys, in Redis' letters; its users set it with CONFIG SET.",
    },
    Setting {
        name: "group",
        kind: Kind::Count,
        unless_said: "none",
        meaning: "The shard group that holds all of its keys; without it they lie where their slots say.",
    },
    Setting {
        name: "flush",
        kind: Kind::Flush,
        unless_said: "own",
        meaning: "Whether its users may flush: own or deny.",
    },
    Setting {
        name: "channels",
        kind: Kind::Channels,
        unless_said: "own",
        meaning: "What &* means to its users: own, channels that begin as its keys do; or all.",
    },
];

/// Whether the setting exists and takes this value; if not, why, as a sentence.
pub fn check_setting(name: &str, value: &str) -> Result<(), String> {
    let setting = SETTINGS.iter().find(|setting| setting.name == name);
    let setting = setting
        .ok_or_else(|| format!("'{}' is no setting of a tenant: TENANT HELP lists them", name.escape_debug()))?;
    let good = match setting.kind {
        Kind::Bytes => bytes(value).is_some(),
        Kind::Count => value.parse::<u64>().is_ok(),
        Kind::Eviction => eviction::Policy::named(value).is_some(),
        Kind::Events => events(value).is_some(),
        Kind::Flush => matches!(value, "own" | "deny"),
        Kind::Channels => matches!(value, "own" | "all"),
    };
    if good { Ok(()) } else { Err(format!("{name} takes {}, not '{}'", setting.takes(), value.escape_debug())) }
}

impl Setting {
    /// What its value looks like.
    pub fn takes(&self) -> &'static str {
        match self.kind {
            Kind::Bytes => "bytes, such as 512mb",
            Kind::Count => "a whole number",
            Kind::Eviction => "an eviction policy, such as allkeys-lru",
            Kind::Events => "letters such as KEA",
            Kind::Flush => "own or deny",
            Kind::Channels => "own or all",
        }
    }
}

/// The events these letters stand for, once they are told at all.
fn events(letters: &str) -> Option<EventClass> {
    EventClass::parse(letters.as_bytes()).map(EventClass::effective)
}

impl Limits {
    /// Whether any rate is limited.
    #[inline]
    pub fn has_rates(&self) -> bool {
        self.operations | self.bytes | self.cpu_ms != 0
    }

    /// Those of a single user, by its rules.
    pub fn of_user(limits: &[(LimitName, u64)]) -> Limits {
        let texts: Vec<(&str, String)> = limits.iter().map(|(name, value)| (name.text(), value.to_string())).collect();
        let limits = Limits::of(texts.iter().map(|(name, value)| (*name, value.as_str())));
        // What is not said of a user is its tenant's business.
        let said = |name: &str, value: u64| if texts.iter().any(|(known, _)| *known == name) { value } else { 0 };
        Limits {
            script_ms: said("script-ms", limits.script_ms),
            command_ms: said("command-ms", limits.command_ms),
            subscriptions: said("subscriptions", limits.subscriptions),
            ..limits
        }
    }

    /// Compiles settings. What is not understood is left out.
    pub fn of<'a>(settings: impl Iterator<Item = (&'a str, &'a str)> + Clone) -> Limits {
        let text = |name: &str| settings.clone().find(|(known, _)| *known == name).map(|(_, value)| value);
        let size = |name: &str| text(name).and_then(bytes).unwrap_or(0);
        let count = |name: &str| text(name).and_then(|value| value.parse().ok()).unwrap_or(0);
        Limits {
            reserve: size("reserve"),
            limit: size("limit"),
            keys: count("keys"),
            eviction: text("eviction").and_then(eviction::Policy::named),
            operations: count("ops-per-second"),
            bytes: size("bytes-per-second"),
            cpu_ms: count("cpu-ms-per-second"),
            connections: count("connections"),
            connection_rate: count("connections-per-second"),
            blocked: count("blocked-clients"),
            subscriptions: text("subscriptions").map_or(SUBSCRIPTIONS, |value| value.parse().unwrap_or(SUBSCRIPTIONS)),
            output: size("output-bytes"),
            script_ms: text("script-ms").map_or(SCRIPT_MS, |value| value.parse().unwrap_or(SCRIPT_MS)),
            command_ms: text("command-ms").map_or(COMMAND_MS, |value| value.parse().unwrap_or(COMMAND_MS)),
            keys_names: text("keys-names").and_then(|value| value.parse().ok()),
            monitor: text("monitor-per-second").and_then(|value| value.parse().ok()),
            value: size("value-bytes"),
            clients_hold: text("client-bytes").and_then(bytes),
            keeps_data: text("flush") == Some("deny"),
            shares_channels: text("channels") == Some("all"),
            events: events(text("notify-keyspace-events").unwrap_or_default()).unwrap_or_default(),
        }
    }
}

impl Tenant {
    /// Whether it is told by who asks, not by names of keys.
    pub fn is_namespace(&self) -> bool {
        self.id.is_namespace()
    }

    /// Whether anything about its memory or its keys is bounded, promised or its own.
    fn bounds_memory(&self) -> bool {
        self.limits.limit > 0 || self.limits.keys > 0 || self.limits.reserve > 0 || self.limits.eviction.is_some()
    }

    /// Whether it has more than its own limits allow: of keys, or of bytes.
    #[inline]
    pub fn is_above_its_limits(&self) -> bool {
        let is_above = |limit: u64, used: u64| limit > 0 && used > limit;
        is_above(self.limits.limit, self.gauge.bytes()) || self.has_too_many_keys()
    }

    /// Whether it has more keys than it may.
    #[inline]
    pub fn has_too_many_keys(&self) -> bool {
        self.limits.keys > 0 && self.gauge.keys() > self.limits.keys
    }

    /// A line for people: mode, users, settings that are set.
    pub fn line(&self) -> String {
        let mut line = format!("tenant {}", self.name);
        if self.is_namespace() {
            line.push_str(" namespace");
        }
        // Writing to a string cannot fail.
        let shown = |bytes: &[u8]| bytes.escape_ascii().to_string();
        self.prefixes.iter().for_each(|prefix| _ = write!(line, " prefix {}", shown(prefix)));
        self.users.iter().for_each(|user| _ = write!(line, " user {}", shown(user)));
        self.settings.iter().for_each(|(name, value)| _ = write!(line, " {name} {value}"));
        if self.retired {
            line.push_str(" state retired");
        }
        line
    }
}

/// Who owns a key, by what it begins with.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Owners {
    /// Sorted; none begins with another.
    prefixes: Box<[(Box<[u8]>, TenantId)]>,
    /// The first eight bytes of each, side by side: a search seldom has to follow a pointer.
    heads: Box<[u64]>,
}

/// What keys of an owner begin with, as bits of their first eight bytes that count, and what those are. It outlives no table
/// it was used with.
pub struct OwnerHint {
    counts: u64,
    bytes: u64,
    owner: TenantId,
    /// The table that says so: while owners change, not every shard knows the same one.
    table: usize,
}

impl Default for OwnerHint {
    /// Of no key.
    fn default() -> OwnerHint {
        OwnerHint { counts: 0, bytes: 1, owner: TenantId::SHARED, table: 0 }
    }
}

/// The first eight bytes as a number that orders like them; missing ones are zero.
#[inline]
fn head(text: &[u8]) -> u64 {
    if let Some(bytes) = text.first_chunk::<8>() {
        return u64::from_be_bytes(*bytes);
    }
    let mut bytes = [0; 8];
    bytes[..text.len()].copy_from_slice(text);
    u64::from_be_bytes(bytes)
}

impl Owners {
    /// From the prefixes of these tenants; none may begin with another.
    pub fn new<'a>(prefixes: impl Iterator<Item = (&'a [u8], TenantId)>) -> Owners {
        let mut prefixes: Vec<(Box<[u8]>, TenantId)> = prefixes.map(|(prefix, id)| (prefix.into(), id)).collect();
        prefixes.sort_unstable();
        Owners { heads: prefixes.iter().map(|(prefix, _)| head(prefix)).collect(), prefixes: prefixes.into() }
    }

    /// Whether nobody owns anything.
    pub fn is_empty(&self) -> bool {
        self.prefixes.is_empty()
    }

    /// What the keys of this tenant begin with.
    pub fn prefixes_of(&self, tenant: TenantId) -> impl Iterator<Item = &[u8]> {
        self.prefixes.iter().filter(move |(_, owner)| *owner == tenant).map(|(prefix, _)| &**prefix)
    }

    /// Whose prefix exactly this is.
    pub fn owner_of_prefix(&self, prefix: &[u8]) -> Option<TenantId> {
        let at = self.prefixes.binary_search_by(|(known, _)| (**known).cmp(prefix)).ok()?;
        Some(self.prefixes[at].1)
    }

    /// Whose key this is.
    #[inline]
    pub fn of(&self, key: &[u8]) -> TenantId {
        self.find(key).map_or(TenantId::SHARED, |at| self.prefixes[at].1)
    }

    /// The same for keys that come one after the other: `hint` is of the one before, and mostly true of this one.
    #[inline]
    pub fn of_next(&self, key: &[u8], hint: &mut OwnerHint) -> TenantId {
        match key.first_chunk::<8>() {
            Some(first) if u64::from_be_bytes(*first) & hint.counts == hint.bytes && hint.table == self.name() => {
                hint.owner
            }
            _ => self.of_unlike(key, hint),
        }
    }

    fn of_unlike(&self, key: &[u8], hint: &mut OwnerHint) -> TenantId {
        let Some(at) = self.find(key) else { return TenantId::SHARED };
        let (prefix, owner) = &self.prefixes[at];
        // A brace at its beginning is not told from that of a key whose slot was chosen.
        if let 1..=8 = prefix.len()
            && prefix[0] != b'{'
        {
            let counts = u64::MAX << (64 - 8 * prefix.len());
            *hint = OwnerHint { counts, bytes: self.heads[at], owner: *owner, table: self.name() };
        }
        *owner
    }

    /// What tells it from every other table there is at the same time.
    #[inline]
    fn name(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// The place of the prefix a key begins with.
    #[inline]
    fn find(&self, key: &[u8]) -> Option<usize> {
        // `{x:…}` is a key of `x:` whose slot was chosen by its author.
        let name = key.strip_prefix(b"{").unwrap_or(key);
        let wanted = head(name);
        // A prefix within the first eight bytes is the last one up to them: whatever lies between it and the name would
        // begin with it.
        let last = self.heads.partition_point(|head| *head <= wanted).checked_sub(1)?;
        let (prefix, head) = (&self.prefixes[last].0, self.heads[last]);
        match prefix.len() {
            len @ 0..=8 => (name.len() >= len && (wanted ^ head).leading_zeros() as usize >= 8 * len).then_some(last),
            _ if head == wanted => self.find_alike(name, last),
            _ => None,
        }
    }

    /// The same for a name whose first eight bytes several prefixes may have, up to this one: they must be looked at themselves.
    fn find_alike(&self, name: &[u8], last: usize) -> Option<usize> {
        let at = self.prefixes[..=last].partition_point(|(prefix, _)| **prefix <= *name).checked_sub(1)?;
        name.starts_with(&self.prefixes[at].0).then_some(at)
    }
}

/// What a tenant uses on this node, summed up over all shards, and what became of it. Exact whenever no shard is locked.
#[derive(Default, Debug)]
pub struct Gauge {
    bytes: AtomicI64,
    keys: AtomicI64,
    evicted: AtomicU64,
    refused: AtomicU64,
}

impl Gauge {
    /// So many bytes more, or less.
    #[inline]
    pub fn add(&self, bytes: i64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes of keys, values and tables.
    #[inline]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed).max(0) as u64
    }

    /// So many keys more, or less.
    #[inline]
    pub fn add_keys(&self, keys: i64) {
        self.keys.fetch_add(keys, Ordering::Relaxed);
    }

    /// Keys, those included whose time is over and that nobody looked at since.
    #[inline]
    pub fn keys(&self) -> u64 {
        self.keys.load(Ordering::Relaxed).max(0) as u64
    }

    /// A key was evicted.
    pub fn note_evicted(&self) {
        self.evicted.fetch_add(1, Ordering::Relaxed);
    }

    /// Keys evicted since the node started.
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }

    /// A command was refused for want of memory.
    pub fn note_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Commands refused for want of memory since the node started.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

/// The gauges of all tenants, by tenant. Looked up when a segment is made, never by a request.
#[derive(Default, Debug)]
pub struct Gauges(Mutex<HashMap<TenantId, Arc<Gauge>>>);

impl Gauges {
    /// The gauge of a tenant.
    pub fn of(&self, tenant: TenantId) -> Arc<Gauge> {
        let mut gauges = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(gauges.entry(tenant).or_default())
    }

    /// Forgets tenants that use nothing and that `keep` does not know.
    pub fn retain(&self, keep: impl Fn(TenantId) -> bool) {
        let mut gauges = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        gauges.retain(|tenant, gauge| keep(*tenant) || Arc::strong_count(gauge) > 1);
    }
}

/// All tenants.
#[derive(Default)]
pub struct Tenancy {
    by_name: BTreeMap<String, Arc<Tenant>>,
    by_id: HashMap<TenantId, Arc<Tenant>>,
    by_user: HashMap<Vec<u8>, Arc<Tenant>>,
    owners: Option<Arc<Owners>>,
    last_number: u32,
    /// All reserves together.
    reserved: u64,
    bounded: bool,
    policies: Option<Arc<Policies>>,
    told: Option<Arc<Told>>,
}

/// Keyspace events that are told of the keys of tenants with prefixes, whoever changes them.
#[derive(Default, Debug)]
pub struct Told {
    owners: Owners,
    of: HashMap<TenantId, EventClass>,
    /// Those that some tenant wants told.
    pub any: EventClass,
}

impl Told {
    /// What is told of this key besides what is told of all.
    pub fn of_key(&self, key: &[u8]) -> EventClass {
        self.of.get(&self.owners.of(key)).copied().unwrap_or_default()
    }
}

/// What goes when memory runs out, of those who say so themselves.
pub type Policies = HashMap<TenantId, eviction::Policy>;

impl Tenancy {
    /// From all tenants there are, and the number given to the last one that was made.
    pub fn new(tenants: impl IntoIterator<Item = Arc<Tenant>>, last_number: u32) -> Tenancy {
        let by_name: BTreeMap<String, Arc<Tenant>> =
            tenants.into_iter().map(|tenant| (tenant.name.clone(), tenant)).collect();
        let owned = by_name.values().flat_map(|tenant| tenant.prefixes.iter().map(|prefix| (&**prefix, tenant.id)));
        let owners = Owners::new(owned);
        let own_policy = |tenant: &Arc<Tenant>| Some((tenant.id, tenant.limits.eviction?));
        let policies: Policies = by_name.values().filter_map(own_policy).collect();
        let tells = |tenant: &&Arc<Tenant>| !tenant.is_namespace() && tenant.limits.events != EventClass::NONE;
        let told: HashMap<TenantId, EventClass> =
            by_name.values().filter(tells).map(|tenant| (tenant.id, tenant.limits.events)).collect();
        let any = told.values().fold(EventClass::NONE, |any, of| any.and(*of));
        let told = (!told.is_empty()).then(|| Arc::new(Told { owners: owners.clone(), of: told, any }));
        Tenancy {
            by_id: by_name.values().map(|tenant| (tenant.id, Arc::clone(tenant))).collect(),
            by_user: by_name
                .values()
                .flat_map(|tenant| tenant.users.iter().map(|user| (user.clone(), Arc::clone(tenant))))
                .collect(),
            last_number,
            reserved: by_name.values().fold(0, |sum, tenant| tenant.limits.reserve.saturating_add(sum)),
            policies: (!policies.is_empty()).then(|| Arc::new(policies)),
            told,
            bounded: by_name.values().any(|tenant| tenant.bounds_memory()),
            owners: (!owners.is_empty()).then(|| Arc::new(owners)),
            by_name,
        }
    }

    /// By name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Arc<Tenant>> {
        self.by_name.values()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// The tenant of this name.
    pub fn named(&self, name: &[u8]) -> Option<&Arc<Tenant>> {
        self.by_name.get(std::str::from_utf8(name).ok()?)
    }

    /// The tenant stored under this number.
    pub fn get(&self, id: TenantId) -> Option<&Arc<Tenant>> {
        self.by_id.get(&id)
    }

    /// The tenant this user belongs to.
    pub fn of_user(&self, user: &[u8]) -> Option<&Arc<Tenant>> {
        self.by_user.get(user)
    }

    /// Whether what anybody's memory is bound by, or promised, differs from what the node says for all.
    #[inline]
    pub fn bounds_memory(&self) -> bool {
        self.bounded
    }

    /// The tenants that have an eviction policy of their own; `None`: nobody has.
    pub fn policies(&self) -> Option<&Arc<Policies>> {
        self.policies.as_ref()
    }

    /// Keyspace events that are told of tenants' keys only; `None`: no tenant asked for any.
    #[inline]
    pub fn told(&self) -> Option<&Arc<Told>> {
        self.told.as_ref()
    }

    /// All reserves together, in bytes.
    pub fn reserved_bytes(&self) -> u64 {
        self.reserved
    }

    /// What goes when the memory of this owner runs out; by default what the node says.
    pub fn policy_of(&self, owner: TenantId, default: eviction::Policy) -> eviction::Policy {
        self.get(owner).and_then(|tenant| tenant.limits.eviction).unwrap_or(default)
    }

    /// Who has memory, if all data together has `used` bytes: what is no tenant's comes last.
    pub fn shares(&self, used: u64, default: eviction::Policy) -> impl Iterator<Item = Share> {
        let of = move |tenant: &Arc<Tenant>| {
            let policy = tenant.limits.eviction.unwrap_or(default);
            Share { owner: tenant.id, used: tenant.gauge.bytes(), reserve: tenant.limits.reserve, policy }
        };
        let tenants: u64 = self.by_name.values().map(|tenant| tenant.gauge.bytes()).sum();
        let rest = used.saturating_sub(tenants);
        let rest = Share { owner: TenantId::SHARED, used: rest, reserve: 0, policy: default };
        self.by_name.values().map(of).chain(std::iter::once(rest))
    }

    /// The number given to the last tenant that was made.
    pub fn last_number(&self) -> u32 {
        self.last_number
    }

    /// Why what `tenant` imports lends it nothing, in a few words; `None`: it is lent. Both sides must agree, word for word, and
    /// nobody gives away what is not theirs.
    pub fn waits_for(&self, tenant: &Tenant, import: &Grant) -> Option<String> {
        let name = &import.tenant;
        let Some(other) = self.by_name.get(name) else { return Some(format!("there is no tenant {name}")) };
        let same = |export: &&Grant| export.tenant == tenant.name && export.pattern == import.pattern;
        let mut exports = other.exports.iter().filter(same).peekable();
        if exports.peek().is_none() {
            return Some(format!("{name} does not export it"));
        }
        if !exports.any(|export| export.write || !import.write) {
            return Some(format!("{name} exports it for reading only"));
        }
        (!is_within(&import.pattern, other.prefixes.iter().map(Vec::as_slice)))
            .then(|| format!("the keys are not those of {name}"))
    }

    /// What the rules of this tenant's users are cut down to.
    pub fn fence(&self, tenant: &Tenant) -> Fence {
        if tenant.is_namespace() {
            return Fence::of_namespace();
        }
        let mut fence = Fence::of_prefixes(tenant.prefixes.iter().map(Vec::as_slice));
        if tenant.limits.shares_channels {
            fence.share_channels();
        }
        for import in tenant.imports.iter().filter(|import| self.waits_for(tenant, import).is_none()) {
            fence.let_in(&import.pattern, import.write);
        }
        fence
    }

    /// Who owns which keys; `None` while no tenant has a prefix.
    pub fn owners(&self) -> Option<&Arc<Owners>> {
        self.owners.as_ref()
    }

    /// The segment a key lies in for who works in `space`.
    #[inline]
    pub fn segment_of(&self, space: SpaceId, key: &[u8]) -> SpaceId {
        segment_of(self.owners.as_deref(), space, key)
    }

    /// The same for keys that come one after the other, with one hint for all of them.
    #[inline]
    pub fn segment_of_next(&self, space: SpaceId, key: &[u8], hint: &mut OwnerHint) -> SpaceId {
        segment_of_next(self.owners.as_deref(), space, key, hint)
    }
}

/// Whether all keys that match `pattern` begin with one of these, or `{` and one of them.
///
/// What they begin with is what stands before the first `*`, `?` or `[`: a prefix with such a byte covers only patterns that
/// escape it.
pub fn is_within<'p>(pattern: &[u8], mut prefixes: impl Iterator<Item = &'p [u8]>) -> bool {
    let glob = Glob::compile(pattern);
    let beginning = glob.beginning().unwrap_or_default();
    let name = beginning.strip_prefix(b"{").unwrap_or(beginning);
    prefixes.any(|prefix| name.starts_with(prefix))
}

/// [`segment_of`] for keys that come one after the other, with one hint for all of them.
#[inline]
pub fn segment_of_next(owners: Option<&Owners>, space: SpaceId, key: &[u8], hint: &mut OwnerHint) -> SpaceId {
    match owners {
        Some(owners) if !space.tenant.is_namespace() => SpaceId { tenant: owners.of_next(key, hint), ..space },
        _ => space.world(),
    }
}

/// The segment a key lies in for who works in `space`, when these own keys.
#[inline]
pub fn segment_of(owners: Option<&Owners>, space: SpaceId, key: &[u8]) -> SpaceId {
    match owners {
        Some(owners) if !space.tenant.is_namespace() => SpaceId { tenant: owners.of(key), ..space },
        _ => space.world(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_belongs_to_whose_prefix_it_begins_with() {
        let (gw, ai) = (TenantId::with_prefixes(1), TenantId::with_prefixes(2));
        let owners = Owners::new([(&b"gw:"[..], gw), (&b"ai:"[..], ai), (&b"gw-old:"[..], ai)].into_iter());
        for (key, owner) in [
            ("gw:rate:1", gw),
            ("gw:", gw),
            ("{gw:rate}:1", gw),
            ("gw-old:1", ai),
            ("ai:x", ai),
            ("gw", TenantId::SHARED),
            ("gw;", TenantId::SHARED),
            ("{{gw:", TenantId::SHARED),
            ("", TenantId::SHARED),
            ("zz", TenantId::SHARED),
            ("a", TenantId::SHARED),
        ] {
            assert_eq!(owners.of(key.as_bytes()), owner, "{key}");
        }
    }

    // `PREFIX g*:` and `EXPORT g*:*` lent the keys of `gvictim:`.
    #[test]
    fn a_prefix_with_the_bytes_of_patterns_lends_no_other_keys() {
        let within = |pattern: &str, prefix: &str| is_within(pattern.as_bytes(), [prefix.as_bytes()].into_iter());
        for (pattern, prefix) in [("gw:*", "gw:"), ("{gw:x}*", "gw:"), ("gw:[ab]*", "gw:"), (r"g\*:*", "g*:")] {
            assert!(within(pattern, prefix), "{pattern} {prefix}");
        }
        for (pattern, prefix) in [
            ("g*:*", "g*:"),
            ("g?:*", "g?:"),
            ("g[ab]:*", "g[ab]:"),
            (r"g\:*", r"g\:"),
            ("{g*:*", "g*:"),
            ("*", "gw:"),
            ("gw*", "gw:"),
        ] {
            assert!(!within(pattern, prefix), "{pattern} {prefix}");
        }
    }

    #[test]
    fn owners_are_found_whatever_prefixes_look_like() {
        // Few letters, so that many begin alike; of up to twelve bytes, so that some agree in their first eight.
        let mut state = 7_u64;
        let mut text = |length_max: u64| -> Vec<u8> {
            let mut next = |below: u64| {
                state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
                (state >> 33) % below
            };
            (0..1 + next(length_max)).map(|_| b"\0a\xff{"[next(4) as usize]).collect()
        };
        for _ in 0..200 {
            let mut prefixes: Vec<Vec<u8>> = Vec::new();
            for _ in 0..40 {
                let new = text(12);
                if !prefixes.iter().any(|known| known.starts_with(&new) || new.starts_with(known)) {
                    prefixes.push(new);
                }
            }
            let id = |at: usize| TenantId::with_prefixes(1 + at as u32);
            let owners = Owners::new(prefixes.iter().enumerate().map(|(at, prefix)| (&prefix[..], id(at))));
            let mut hint = OwnerHint::default();
            for _ in 0..200 {
                let key = text(14);
                let name = key.strip_prefix(b"{").unwrap_or(&key);
                let owner = prefixes.iter().position(|prefix| name.starts_with(prefix)).map_or(TenantId::SHARED, id);
                assert_eq!(owners.of(&key), owner, "{key:?} among {prefixes:?}");
                assert_eq!(owners.of_next(&key, &mut hint), owner, "{key:?} among {prefixes:?}, with a hint");
            }
        }
    }

    #[test]
    fn settings_are_checked_and_compiled() {
        assert_eq!(check_setting("limit", "512mb"), Ok(()));
        assert_eq!(bytes("1g"), Some(1_000_000_000));
        for (name, value) in [("limit", "much"), ("limit", "-1"), ("eviction", "lru"), ("speed", "1"), ("flush", "no")]
        {
            assert!(check_setting(name, value).is_err(), "{name} {value}");
        }
        let settings = [("limit", "1kb"), ("eviction", "allkeys-lru"), ("later", "x")];
        let limits = Limits::of(settings.into_iter());
        assert_eq!((limits.limit, limits.eviction), (1024, Some(eviction::Policy::AllKeysLru)));
        assert_eq!((limits.subscriptions, Limits::of_user(&[]).subscriptions), (10_000, 0));
        assert_eq!(Limits::of([("subscriptions", "0")].into_iter()).subscriptions, 0);
        // What a single user may have a limit of is called as a tenant's is, and compiled to the same.
        for name in LimitName::ALL {
            assert_eq!(check_setting(name.text(), "7"), Ok(()));
            assert_ne!(Limits::of_user(&[(name, 7)]), Limits::default(), "{name:?}");
        }
        for setting in SETTINGS {
            assert!(setting.meaning.ends_with('.'), "{}", setting.name);
        }
    }
}
