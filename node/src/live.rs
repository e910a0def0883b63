//! Settings that can change while the node runs: `CONFIG GET` and `CONFIG SET`, by their Redis names.
//!
//! ```text
//!   PARAMETERS  one line per parameter: name, default, what a value must look like, whether CONFIG SET may change it
//!   Live        their current texts; and `Hot`, the few that requests look at, as plain numbers
//! ```
//! A data thread keeps a copy of [`Hot`] and compares one number per batch to notice a newer one. Parameters that mean
//! nothing here (an append-only file, listpack depth) are kept and shown, since clients and test suites set them.
//! It is long because each parameter has its line, and each that does something its number.

mod without_effect;

use crate::config::Config;
use crate::own_info;
use crate::slow::Thresholds;
use keyward_acl::limit::bytes;
use keyward_acl::{ErrorDetail, Glob};
use keyward_engine::events::EventClass;
use keyward_engine::eviction::{Policy, Usage};
use keyward_engine::keyspace::NamesBound;
use keyward_engine::scope::Reach;
use keyward_engine::session::{AnswerBound, Session};
use keyward_engine::tenancy::Tenant;
use keyward_engine::types::Limits;
use keyward_proto::resp;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use without_effect::{HIDDEN, WITHOUT_EFFECT, output_buffers};

/// What a parameter's value must look like.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// Any text.
    Text,
    /// A whole number in this range.
    Number(i64, i64),
    /// A size: a number, perhaps with `kb`, `mb`, `gb`.
    Bytes(u64, u64),
    /// The same, or a percentage.
    BytesOrPercent,
    /// `yes` or `no`.
    Switch,
    /// One of these words.
    Word(&'static [&'static str]),
    /// Pairs of seconds and changes.
    SaveRules,
    /// Numbers from 0 to 100.
    Percentiles,
    /// Letters of keyspace events.
    Events,
    /// For each class of clients how much of what they do not read is kept.
    OutputBuffers,
    /// Any text; it is not kept, since it may be a secret that nothing here needs.
    Dropped,
}

struct Parameter {
    name: &'static str,
    default: &'static str,
    kind: Kind,
    /// False: fixed when the node starts.
    changeable: bool,
}

const fn fixed(name: &'static str, default: &'static str) -> Parameter {
    Parameter { name, default, kind: Kind::Text, changeable: false }
}

const fn set(name: &'static str, default: &'static str, kind: Kind) -> Parameter {
    Parameter { name, default, kind, changeable: true }
}

const MANY: i64 = i64::MAX;
const POLICIES: &[&str] = &[
    "volatile-lru",
    "volatile-lfu",
    "volatile-random",
    "volatile-ttl",
    "allkeys-lru",
    "allkeys-lfu",
    "allkeys-random",
    "noeviction",
];

/// The default of `slowlog-log-slower-than`; whoever sets it lower looks closely.
const SLOW_DEFAULT_US: i64 = 10_000;

/// How many nodes must be in sync for a write to be confirmed; every node agrees on it, and it stays after a restart.
pub const MIN_IN_SYNC: &str = "min-in-sync";

/// Parameters a confined user may read.
const FOR_EVERYBODY: &[&str] = &[
    "appendonly",
    "databases",
    "maxmemory",
    "maxmemory-policy",
    "notify-keyspace-events",
    "proto-max-bulk-len",
    "save",
    "timeout",
];

/// Every parameter: those that do something and those that do not.
fn parameters() -> impl Iterator<Item = &'static Parameter> {
    PARAMETERS.iter().chain(WITHOUT_EFFECT)
}

/// Those that do something, alphabetically.
const PARAMETERS: &[Parameter] = &[
    set("acllog-max-len", "128", Kind::Number(0, 100_000)),
    fixed("aclfile", ""),
    set("acl-error-detail", "full", Kind::Word(&["full", "redis"])),
    set("active-expire-effort", "1", Kind::Number(1, 10)),
    set("acl-pubsub-default", "resetchannels", Kind::Word(&["resetchannels", "allchannels"])),
    set("appendonly", "no", Kind::Word(&["no"])),
    fixed("appenddirname", "appendonlydir"),
    fixed("appendfilename", "appendonly.aof"),
    fixed("always-show-logo", "no"),
    fixed("bind", ""),
    set("busy-reply-threshold", "5000", Kind::Number(0, MANY)),
    set("failed-logins-per-second", "20", Kind::Number(0, 1_000_000)),
    set("failover-wait", "5000", Kind::Number(0, 60_000)),
    set("routing", "proxy", Kind::Word(&["proxy", "redirect"])),
    set("advertise-role", "actual", Kind::Word(&["actual", "primary"])),
    set("client-query-buffer-limit", "1073741824", Kind::Bytes(1 << 20, 2 << 30)),
    set("channel-bytes-max", "65536", Kind::Bytes(1 << 10, 512 << 20)),
    fixed("cluster-enabled", "no"),
    fixed("daemonize", "no"),
    fixed("databases", "16"),
    fixed("enable-debug-command", "no"),
    fixed("dbfilename", "dump.rdb"),
    fixed("dir", ""),
    set("hash-max-listpack-entries", "128", Kind::Number(0, MANY)),
    set("hash-max-listpack-value", "64", Kind::Number(0, MANY)),
    set("hll-sparse-max-bytes", "3000", Kind::Bytes(0, u64::MAX)),
    set("keys-names-max", "100000", Kind::Number(1, 1_000_000_000)),
    set("latency-monitor-threshold", "0", Kind::Number(0, MANY)),
    set("latency-tracking", "yes", Kind::Switch),
    set("lfu-decay-time", "1", Kind::Number(0, i32::MAX as i64)),
    set("lfu-log-factor", "10", Kind::Number(0, i32::MAX as i64)),
    set("list-max-listpack-size", "-2", Kind::Number(i32::MIN as i64, i32::MAX as i64)),
    set("maxclients", "10000", Kind::Number(1, 1_000_000)),
    set("maxmemory", "0", Kind::Bytes(0, u64::MAX)),
    set("maxmemory-eviction-tenacity", "10", Kind::Number(0, 100)),
    set("maxmemory-policy", "noeviction", Kind::Word(POLICIES)),
    set("maxmemory-samples", "5", Kind::Number(1, 64)),
    set(MIN_IN_SYNC, "0", Kind::Number(0, MANY)),
    set("min-replicas-max-lag", "10", Kind::Number(0, MANY)),
    set("min-replicas-to-write", "0", Kind::Number(0, 100)),
    set("monitor-per-second", "1000", Kind::Number(0, 1_000_000_000)),
    set("notify-keyspace-events", "", Kind::Events),
    set("pattern-bytes-max", "4096", Kind::Bytes(1 << 10, 512 << 20)),
    fixed("port", "6379"),
    set("repl-backlog-size", "67108864", Kind::Bytes(1 << 14, 64 << 30)),
    set("request-names-max", "100000", Kind::Number(100, 1_000_000_000)),
    fixed("strict-redis-acl", "no"),
    set("proto-max-bulk-len", "536870912", Kind::Bytes(1 << 20, 512 << 20)),
    set("save", "", Kind::SaveRules),
    set("set-max-intset-entries", "512", Kind::Number(0, MANY)),
    set("set-max-listpack-entries", "128", Kind::Number(0, MANY)),
    set("set-max-listpack-value", "64", Kind::Number(0, MANY)),
    set("latency-tracking-info-percentiles", "50 99 99.9", Kind::Percentiles),
    set("commandlog-request-larger-than", "1048576", Kind::Number(-1, MANY)),
    set("commandlog-reply-larger-than", "1048576", Kind::Number(-1, MANY)),
    set("commandlog-large-request-max-len", "128", Kind::Number(0, 1_000_000)),
    set("commandlog-large-reply-max-len", "128", Kind::Number(0, 1_000_000)),
    set("slowlog-log-slower-than", "10000", Kind::Number(-1, MANY)),
    set("slowlog-max-len", "128", Kind::Number(0, 1_000_000)),
    set("stream-node-max-bytes", "4096", Kind::Bytes(0, u64::MAX)),
    set("stream-node-max-entries", "100", Kind::Number(0, MANY)),
    set("tcp-keepalive", "300", Kind::Number(0, 86_400)),
    fixed("disable-thp", "yes"),
    fixed("enable-module-command", "no"),
    fixed("enable-protected-configs", "no"),
    fixed("io-threads", "1"),
    fixed("logfile", ""),
    fixed("oom-score-adj", "no"),
    fixed("pidfile", ""),
    fixed("rdbchecksum", "yes"),
    fixed("replicaof", ""),
    fixed("requirepass", ""),
    fixed("set-proc-title", "no"),
    fixed("supervised", "no"),
    fixed("syslog-enabled", "no"),
    fixed("tcp-backlog", "511"),
    fixed("threads", "0"),
    fixed("unixsocket", ""),
    set("timeout", "0", Kind::Number(0, 31_536_000)),
    set("tracking-table-max-keys", "1000000", Kind::Number(0, MANY)),
    set("zset-max-listpack-entries", "128", Kind::Number(0, MANY)),
    set("zset-max-listpack-value", "64", Kind::Number(0, MANY)),
];

/// Those that concern the data, whichever node serves it: `CONFIG SET` of them at one node is in force at every node that can be
/// reached. The others concern a node's own clients, disk and logs.
const ABOUT_DATA: &[&str] = &[
    "active-expire-effort",
    "hash-max-listpack-entries",
    "hash-max-listpack-value",
    "hll-sparse-max-bytes",
    "lfu-decay-time",
    "lfu-log-factor",
    "list-max-listpack-size",
    "maxmemory",
    "maxmemory-eviction-tenacity",
    "maxmemory-policy",
    "maxmemory-samples",
    "min-replicas-max-lag",
    "min-replicas-to-write",
    "notify-keyspace-events",
    "set-max-intset-entries",
    "set-max-listpack-entries",
    "set-max-listpack-value",
    "stream-node-max-bytes",
    "stream-node-max-entries",
    "zset-max-listpack-entries",
    "zset-max-listpack-value",
];

/// Those of these settings that concern the data, by their present names.
pub fn about_data(pairs: &[(Vec<u8>, Vec<u8>)]) -> Vec<(&'static str, Vec<u8>)> {
    let named = |name: &[u8]| {
        let shown = String::from_utf8_lossy(name).to_ascii_lowercase();
        let present = present_name(&shown);
        ABOUT_DATA.iter().find(|about| **about == present).copied()
    };
    pairs.iter().filter_map(|(name, value)| Some((named(name)?, value.clone()))).collect()
}

/// The name of a parameter that may be said by an older one.
fn present_name(shown: &str) -> &str {
    ALIASES.iter().find(|(alias, _)| *alias == shown).map_or(shown, |(_, name)| name)
}

/// Names of old that Redis still understands.
const ALIASES: &[(&str, &str)] = &[
    ("hash-max-ziplist-entries", "hash-max-listpack-entries"),
    ("hash-max-ziplist-value", "hash-max-listpack-value"),
    ("list-max-ziplist-size", "list-max-listpack-size"),
    ("zset-max-ziplist-entries", "zset-max-listpack-entries"),
    ("zset-max-ziplist-value", "zset-max-listpack-value"),
    ("lua-time-limit", "busy-reply-threshold"),
    ("commandlog-execution-slower-than", "slowlog-log-slower-than"),
    ("commandlog-slow-execution-max-len", "slowlog-max-len"),
    ("min-slaves-to-write", "min-replicas-to-write"),
    ("slave-serve-stale-data", "replica-serve-stale-data"),
    ("min-slaves-max-lag", "min-replicas-max-lag"),
    ("repl-ping-slave-period", "repl-ping-replica-period"),
    ("slave-ignore-maxmemory", "replica-ignore-maxmemory"),
    ("slave-lazy-flush", "replica-lazy-flush"),
    ("slave-priority", "replica-priority"),
    ("slave-read-only", "replica-read-only"),
    ("cluster-slave-no-failover", "cluster-replica-no-failover"),
    ("cluster-slave-validity-factor", "cluster-replica-validity-factor"),
    ("slaveof", "replicaof"),
    ("primaryuser", "masteruser"),
    ("primaryauth", "masterauth"),
];

/// Messages that may wait for a client, in bytes, unless `client-output-buffer-limit pubsub` says otherwise: Redis' default.
const MAIL_BYTES_MAX: usize = 32 << 20;

/// What the clients of a tenant may hold besides keys if nothing is said: an eighth of `maxmemory`, but enough for applications
/// with thousands of connections, and never so much that a few tenants fill a machine.
fn clients_hold_max(memory_bytes_max: u64) -> u64 {
    const LEAST: u64 = 32 << 20;
    const MOST: u64 = 256 << 20;
    if memory_bytes_max == 0 { MOST } else { (memory_bytes_max / 8).clamp(LEAST, MOST) }
}

/// The settings requests look at, as plain numbers.
#[derive(Clone, Debug)]
pub struct Hot {
    /// When values change their encoding.
    pub limits: Limits,
    /// The longest string value, in bytes.
    pub value_bytes_max: u64,
    /// What a request may be like.
    pub decoder: resp::Limits,
    /// How much a denial tells.
    pub detail: ErrorDetail,
    /// Replies of one client that may wait, in bytes.
    pub output_bytes_max: u64,
    /// Messages of other clients that may wait for one that does not read, in bytes.
    pub mail_bytes_max: usize,
    /// What the clients of a tenant, or of a confined user without one, hold besides keys if nothing is said, in bytes.
    pub clients_hold_max: u64,
    /// The longest name of a channel that a confined user may use, in bytes.
    pub channel_bytes_max: usize,
    /// What a confined user may name in one request.
    pub request_names_max: usize,
    /// Lines a second that MONITOR shows whoever is confined; 0: no bound.
    pub monitor_per_second: u64,
    /// What one KEYS of a confined user may find.
    pub keys_names_max: usize,
    /// Keys remembered for caching clients at most; 0: no bound.
    pub tracked_keys_max: usize,
    /// A script that runs for longer makes the node answer that it is busy.
    pub busy_after: Duration,
    /// Writes are refused unless so many replicas are at hand; 0: they never are.
    pub replicas_min: usize,
    /// A replica is at hand if it was heard from within this time.
    pub replica_lag_max: Duration,
    /// A client is told where the data is, instead of having its command forwarded.
    pub redirects: bool,
    /// It says that it is a primary, whoever serves the data: it takes every command.
    pub always_primary: bool,
    /// How long a command waits for a node that serves the data.
    pub failover_wait: Duration,
    /// The keyspace events that are published.
    pub events: EventClass,
    /// Connections at a time.
    pub clients_max: u64,
    /// A silent client is closed after this, in milliseconds; 0: never.
    pub idle_ms: i64,
    /// A client must log in within this, in milliseconds; 0: no bound.
    pub login_ms: i64,
    /// Wrong passwords that one address may send in a second before its logins wait; 0: as many as it likes.
    pub failed_logins_a_second: u32,
    /// Memory for data, in bytes; 0: no limit.
    pub memory_bytes_max: u64,
    /// What goes when it is used up, and how that is found.
    pub eviction: Eviction,
    /// How much of its time the upkeep thread may spend on expired keys (`active-expire-effort`, 1 to 10).
    pub expire_effort: u32,
    /// When to save by itself: seconds and changes.
    pub save_rules: Vec<(u64, u64)>,
    /// Effects kept for replicas that come back, in bytes.
    pub backlog_bytes: u64,
    /// Entries of ACL LOG.
    pub acl_log_max: usize,
    /// New users may use every channel.
    pub new_users_get_channels: bool,
    /// When commands are remarkable.
    pub remarkable: Thresholds,
    /// Each command's time is measured by itself, at the price of the clock.
    pub measures_closely: bool,
    /// How long commands take is kept.
    pub tracks_latency: bool,
    /// What takes this long is an event, in milliseconds; 0: nothing.
    pub latency_event_ms: u64,
    /// Which percentiles INFO tells.
    pub percentiles: Vec<f64>,
}

/// How keys are evicted.
#[derive(Clone, Copy, Debug)]
pub struct Eviction {
    /// `maxmemory-policy`
    pub policy: Policy,
    /// How the use of keys is remembered.
    pub usage: Usage,
    /// `maxmemory-samples`
    pub samples: usize,
    /// The longest that one command may spend on it (`maxmemory-eviction-tenacity`); none: as long as it takes.
    pub time_max: Option<Duration>,
}

/// Which of several bounds of an answer is the shortest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Shortest {
    /// `client-output-buffer-limit`.
    OfNode,
    /// What clients may hold.
    Held,
    /// `output-bytes`.
    Said,
}

impl Hot {
    /// The longest reply, in bytes: one value of the greatest length always fits.
    #[inline]
    pub fn reply_bytes_max(&self) -> usize {
        const ENVELOPE_BYTES: u64 = 1 << 20;
        self.output_bytes_max.max(self.value_bytes_max + ENVELOPE_BYTES) as usize
    }

    /// The same for whom this bounds: no answer is longer than half of what all clients may hold that share with it.
    #[inline]
    pub fn reply_bytes_max_of(&self, bound: AnswerBound) -> usize {
        self.shortest_of(bound).0
    }

    #[inline]
    fn shortest_of(&self, bound: AnswerBound) -> (usize, Shortest) {
        let AnswerBound { said, held, held_by_default } = bound;
        let mut most = (self.reply_bytes_max() as u64, Shortest::OfNode);
        let mut bound_by = |bytes: u64, shortest| {
            if bytes < most.0 {
                most = (bytes, shortest);
            }
        };
        if held_by_default || held > 0 {
            bound_by(self.output_bytes_max, Shortest::OfNode);
        }
        if held_by_default {
            bound_by(self.clients_hold_max / 2, Shortest::Held);
        }
        if held > 0 {
            bound_by(held / 2, Shortest::Held);
        }
        if said > 0 {
            bound_by(said, Shortest::Said);
        }
        (most.0 as usize, most.1)
    }

    /// What a client gets whose request has a longer answer than it may have, with the limit by its name. What the request
    /// changed is changed.
    #[cold]
    pub fn reply_too_long(&self, session: &Session) -> String {
        let (login, of_node) = (session.login.as_ref(), (self.reply_bytes_max(), Shortest::OfNode));
        let (most, shortest) = login.map_or(of_node, |login| self.shortest_of(login.strictest().answer));
        let limit = match (login, shortest) {
            (Some(login), Shortest::Said) => format!("output-bytes of {}", login.whose(|limits| limits.output)),
            (Some(login), Shortest::Held) => format!("half of client-bytes of {}", login.whose_holdings()),
            _ => return "ERR the reply is longer than client-output-buffer-limit allows".to_owned(),
        };
        format!("ERR the reply is longer than {limit} allows: {most}")
    }

    /// How many names this request may tell, if that is bounded: of whoever is confined, or has a limit of its own.
    pub fn names_bound(&self, session: &Session, command: &str, reach: &Reach) -> Option<NamesBound> {
        let login = session.login.as_ref().filter(|_| command == "keys")?;
        let mut said = login.accounts().filter_map(|(limits, _)| limits.keys_names).peekable();
        if said.peek().is_none() {
            let said_by = "keys-names-max".to_owned();
            return reach.is_confined().then_some(NamesBound { most: self.keys_names_max, said_by });
        }
        let most = said.filter(|most| *most > 0).min()?;
        let said_by = format!("keys-names of {}", login.whose(|limits| limits.keys_names.unwrap_or(0)));
        Some(NamesBound { most: usize::try_from(most).unwrap_or(usize::MAX), said_by })
    }

    /// The same for a client.
    pub fn reply_bytes_max_for(&self, session: &Session) -> usize {
        let bound = session.login.as_ref().map(|login| login.strictest().answer);
        self.reply_bytes_max_of(bound.unwrap_or_default())
    }
}

/// The settings of one node.
pub struct Live {
    texts: Mutex<BTreeMap<&'static str, String>>,
    generation: AtomicU64,
    hot: Mutex<Arc<Hot>>,
    fixed: Fixed,
}

/// What [`Hot`] holds besides parameters: fixed when the node starts.
#[derive(Clone, Copy)]
struct Fixed {
    login_ms: i64,
    unauthenticated_arguments_max: usize,
    unauthenticated_bulk_bytes_max: usize,
    output_bytes_max: u64,
    hash_seed: u64,
}

impl Live {
    /// As the configuration says.
    pub fn new(config: &Config) -> Live {
        let mut texts: BTreeMap<&'static str, String> =
            parameters().map(|parameter| (parameter.name, parameter.default.to_owned())).collect();
        let given = [
            ("acllog-max-len", config.acllog_max_len.to_string()),
            ("aclfile", config.acl_file.as_ref().map(|path| path.display().to_string()).unwrap_or_default()),
            ("acl-error-detail", config.acl_error_detail.to_string()),
            ("acl-pubsub-default", config.acl_pubsub_default.to_string()),
            ("failed-logins-per-second", config.failed_logins_per_second.to_string()),
            ("failover-wait", config.failover_wait.as_millis().to_string()),
            ("routing", config.routing.to_string()),
            ("advertise-role", config.advertise_role.to_string()),
            ("enable-debug-command", config.enable_debug_command.to_string()),
            ("bind", config.bind.host().to_owned()),
            ("strict-redis-acl", if config.strict_redis_acl { "yes" } else { "no" }.to_owned()),
            ("port", config.bind.port().to_string()),
            ("databases", config.databases.to_string()),
            ("repl-backlog-size", config.repl_backlog_size.bytes().to_string()),
            ("dbfilename", config.dbfilename.clone()),
            ("dir", config.data_dir.display().to_string()),
            ("threads", config.threads.to_string()),
            ("maxclients", config.maxclients.to_string()),
            ("tcp-backlog", config.tcp_backlog.to_string()),
            ("maxmemory", config.maxmemory.bytes().to_string()),
            ("maxmemory-policy", config.maxmemory_policy.to_string()),
            ("proto-max-bulk-len", config.proto_max_bulk_len.bytes().to_string()),
            ("channel-bytes-max", config.channel_bytes_max.bytes().to_string()),
            ("client-query-buffer-limit", config.client_query_buffer_limit.bytes().to_string()),
            ("request-names-max", config.request_names_max.to_string()),
            ("keys-names-max", config.keys_names_max.to_string()),
            ("monitor-per-second", config.monitor_per_second.to_string()),
            ("pattern-bytes-max", config.pattern_bytes_max.bytes().to_string()),
            ("timeout", config.timeout.as_secs().to_string()),
            ("tcp-keepalive", config.tcp_keepalive.as_secs().to_string()),
            ("save", config.save.to_string()),
        ];
        texts.extend(given);
        let fixed = Fixed {
            login_ms: config.unauthenticated_timeout.as_millis() as i64,
            unauthenticated_arguments_max: config.unauthenticated_max_arguments as usize,
            unauthenticated_bulk_bytes_max: config.unauthenticated_max_bulk_len.bytes() as usize,
            output_bytes_max: config.client_output_buffer_limit.bytes(),
            hash_seed: crate::random::u64(),
        };
        let hot = Mutex::new(Arc::new(hot(&texts, fixed)));
        Live { texts: Mutex::new(texts), generation: AtomicU64::new(1), hot, fixed }
    }

    /// A number that changes whenever a setting does.
    #[inline]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The settings requests look at.
    pub fn hot(&self) -> Arc<Hot> {
        Arc::clone(&self.hot.lock())
    }

    /// `CONFIG GET`: the parameters that match any pattern, each once. Whoever is confined sees those that client libraries
    /// look for, and nothing about files, addresses and other users; of a tenant, with its own memory.
    pub fn show(&self, patterns: &[Vec<u8>], reach: &Reach, tenant: Option<&Tenant>) -> Vec<(String, String)> {
        let globs: Vec<(Glob, &[u8])> =
            patterns.iter().map(|pattern| (Glob::compile(&pattern.to_ascii_lowercase()), pattern.as_slice())).collect();
        let texts = self.texts.lock();
        let names = texts.keys().copied().map(|name| (name, name)).chain(ALIASES.iter().copied());
        let asked = |name: &str, glob: &Glob, pattern: &[u8]| {
            let named = pattern.eq_ignore_ascii_case(name.as_bytes());
            named || (glob.matches(name.as_bytes()) && !HIDDEN.contains(&name))
        };
        let shown = names.filter(|(name, _)| globs.iter().any(|(glob, pattern)| asked(name, glob, pattern)));
        if reach.is_confined() {
            let hot = self.hot();
            let virtual_value = |name: &str| match (name, tenant) {
                ("save", _) => String::new(),
                ("notify-keyspace-events", Some(tenant)) if tenant.limits.events != EventClass::NONE => {
                    tenant.limits.events.to_string()
                }
                ("maxmemory", Some(tenant)) => own_info::memory_bytes_max(tenant, &hot).to_string(),
                ("maxmemory-policy", Some(tenant)) => own_info::policy(tenant, &hot).name().to_owned(),
                _ => texts[name].clone(),
            };
            let shown = shown.filter(|(name, _)| FOR_EVERYBODY.contains(name));
            return shown.map(|(name, _)| (name.to_owned(), virtual_value(name))).collect();
        }
        shown.map(|(name, canonical)| (name.to_owned(), texts[canonical].clone())).collect()
    }

    /// Whether a user of this reach may set a parameter. Whoever is confined may ask for keyspace events that are told
    /// already, or of `own`, its tenant's: client libraries do so at start-up.
    pub fn may_set(&self, name: &[u8], value: &[u8], reach: &Reach, own: EventClass) -> bool {
        if !reach.is_confined() {
            return true;
        }
        let told = EventClass::parse(self.texts.lock()["notify-keyspace-events"].as_bytes());
        let wanted = EventClass::parse(value);
        name.eq_ignore_ascii_case(b"notify-keyspace-events")
            && told.zip(wanted).is_some_and(|(told, wanted)| told.and(own).includes(wanted))
    }

    /// What every node agreed on is shown from now on.
    pub fn show_agreed(&self, parameter: &'static str, value: &str) {
        self.texts.lock().insert(parameter, value.to_owned());
    }

    /// `CONFIG SET`: all of them, or none and the text of the error.
    pub fn change(&self, pairs: &[(Vec<u8>, Vec<u8>)]) -> Result<(), String> {
        let mut accepted: Vec<(&'static str, String)> = Vec::new();
        for (name, value) in pairs {
            let shown = String::from_utf8_lossy(name).to_ascii_lowercase();
            let canonical = present_name(&shown);
            let parameter = parameters()
                .find(|parameter| parameter.name == canonical)
                .ok_or_else(|| format!("ERR Unknown option or number of arguments for CONFIG SET - '{shown}'"))?;
            let failed = |why: &str| format!("ERR CONFIG SET failed (possibly related to argument '{shown}') - {why}");
            // Scripts that set everything they have read mean no harm.
            if !parameter.changeable
                && self.texts.lock().get(parameter.name).is_some_and(|text| text.as_bytes() == value)
            {
                continue;
            }
            if !parameter.changeable {
                return Err(failed("can't set immutable config"));
            }
            if accepted.iter().any(|(name, _)| *name == parameter.name) {
                return Err(failed("duplicate parameter"));
            }
            let value = std::str::from_utf8(value).map_err(|_| failed("argument is not valid text"))?;
            let current = self.texts.lock().get(parameter.name).cloned().unwrap_or_default();
            accepted.push((parameter.name, normalize(parameter.kind, &current, value).map_err(|why| failed(&why))?));
        }
        let mut texts = self.texts.lock();
        texts.extend(accepted);
        *self.hot.lock() = Arc::new(hot(&texts, self.fixed));
        self.generation.fetch_add(1, Ordering::Release);
        Ok(())
    }
}

/// The text a value is kept as instead of the `current` one, or why it is none.
fn normalize(kind: Kind, current: &str, value: &str) -> Result<String, String> {
    match kind {
        Kind::Text => Ok(value.to_owned()),
        Kind::OutputBuffers => output_buffers(current, value),
        Kind::Dropped => Ok(String::new()),
        Kind::Number(low, high) => {
            let number: i64 = value.parse().map_err(|_| "argument couldn't be parsed into an integer".to_owned())?;
            if number < low || number > high {
                return Err(format!("argument must be between {low} and {high} inclusive"));
            }
            Ok(number.to_string())
        }
        Kind::Bytes(low, high) => {
            let bytes = bytes(value).ok_or_else(|| "argument must be a memory value".to_owned())?;
            if bytes < low || bytes > high {
                return Err(format!("argument must be between {low} and {high} inclusive"));
            }
            Ok(bytes.to_string())
        }
        Kind::BytesOrPercent => match value.strip_suffix('%').map(str::parse::<u64>) {
            Some(Ok(percent)) if percent <= 100 => Ok(format!("{percent}%")),
            Some(Ok(_)) => Err("percentage argument must be less or equal to 100".to_owned()),
            Some(Err(_)) => Err("argument must be a memory or percent value".to_owned()),
            None => bytes(value)
                .map(|bytes| bytes.to_string())
                .ok_or_else(|| "argument must be a memory or percent value".to_owned()),
        },
        Kind::Switch => match value.to_ascii_lowercase().as_str() {
            word @ ("yes" | "no") => Ok(word.to_owned()),
            _ => Err("argument must be 'yes' or 'no'".to_owned()),
        },
        Kind::Word(words) => {
            let word = value.to_ascii_lowercase();
            if words.contains(&word.as_str()) {
                return Ok(word);
            }
            Err(format!("argument(s) must be one of the following: {}", words.join(", ")))
        }
        Kind::Percentiles => {
            percentiles(value).ok_or_else(|| "percentiles must be numbers from 0 to 100".to_owned())?;
            Ok(value.split_whitespace().collect::<Vec<_>>().join(" "))
        }
        Kind::Events => EventClass::parse(value.as_bytes())
            .map(|classes| classes.to_string())
            .ok_or_else(|| "Invalid event class character. Use 'Ag$lshzxeKEtmdn'.".to_owned()),
        Kind::SaveRules => {
            save_rules(value).ok_or_else(|| "Invalid save parameters".to_owned())?;
            Ok(value.split_whitespace().collect::<Vec<_>>().join(" "))
        }
    }
}

/// Pairs of seconds and changes, both at least 1.
fn save_rules(text: &str) -> Option<Vec<(u64, u64)>> {
    let numbers: Option<Vec<u64>> = text.split_whitespace().map(|word| word.parse().ok().filter(|n| *n > 0)).collect();
    let numbers = numbers?;
    (numbers.len() % 2 == 0).then(|| numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
}

/// A size as `CONFIG SET` takes it: `100`, `64kb`, `1gb`.
pub fn bytes_of(text: &[u8]) -> Option<u64> {
    bytes(std::str::from_utf8(text).ok()?)
}

/// `50 99 99.9`: each from 0 to 100.
fn percentiles(text: &str) -> Option<Vec<f64>> {
    let read = |word: &str| word.parse::<f64>().ok().filter(|percent| (0.0..=100.0).contains(percent));
    text.split_whitespace().map(read).collect()
}

fn hot(texts: &BTreeMap<&'static str, String>, fixed: Fixed) -> Hot {
    // Every text was checked before it was kept; a default that does not parse is caught by a test.
    let number = |name: &str| texts.get(name).and_then(|text| text.parse::<i64>().ok()).unwrap_or(0);
    let size = |name: &str| texts.get(name).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    let count = |name: &str| usize::try_from(number(name)).unwrap_or(0);
    let limits = Limits {
        hash_listpack_entries_max: count("hash-max-listpack-entries"),
        hash_listpack_value_bytes_max: count("hash-max-listpack-value"),
        // As Redis reads them: below -5 is -5, and a node of no element is one of one.
        list_listpack_size: match number("list-max-listpack-size") {
            0 => 1,
            size => size.max(-5),
        },
        set_intset_entries_max: count("set-max-intset-entries"),
        set_listpack_entries_max: count("set-max-listpack-entries"),
        set_listpack_value_bytes_max: count("set-max-listpack-value"),
        sorted_set_listpack_entries_max: count("zset-max-listpack-entries"),
        hyperloglog_sparse_bytes_max: usize::try_from(size("hll-sparse-max-bytes")).unwrap_or(usize::MAX),
        sorted_set_listpack_value_bytes_max: count("zset-max-listpack-value"),
        stream_node_bytes_max: size("stream-node-max-bytes") as usize,
        stream_node_entries_max: count("stream-node-max-entries"),
        pattern_bytes_max: size("pattern-bytes-max") as usize,
        hash_seed: fixed.hash_seed,
    };
    let decoder = resp::Limits {
        bulk_bytes_max: size("proto-max-bulk-len") as usize,
        request_bytes_max: size("client-query-buffer-limit") as usize,
        unauthenticated_arguments_max: fixed.unauthenticated_arguments_max,
        unauthenticated_bulk_bytes_max: fixed.unauthenticated_bulk_bytes_max,
        ..resp::Limits::default()
    };
    let policy = texts.get("maxmemory-policy").and_then(|name| Policy::named(name)).unwrap_or_default();
    let redirects = texts.get("routing").is_some_and(|text| text == "redirect");
    let clients_hold_max = clients_hold_max(size("maxmemory"));
    let redis = texts.get("acl-error-detail").is_some_and(|text| text == "redis");
    Hot {
        limits,
        value_bytes_max: size("proto-max-bulk-len"),
        decoder,
        detail: if redis { ErrorDetail::Redis } else { ErrorDetail::Full },
        output_bytes_max: fixed.output_bytes_max,
        mail_bytes_max: MAIL_BYTES_MAX,
        clients_hold_max,
        replicas_min: usize::try_from(number("min-replicas-to-write")).unwrap_or(0),
        replica_lag_max: match number("min-replicas-max-lag") {
            0 => Duration::MAX,
            seconds => Duration::from_secs(u64::try_from(seconds).unwrap_or(u64::MAX)),
        },
        busy_after: match number("busy-reply-threshold") {
            // Zero and less mean never, as in Redis.
            ..=0 => Duration::MAX,
            ms => Duration::from_millis(ms.unsigned_abs()),
        },
        channel_bytes_max: size("channel-bytes-max") as usize,
        request_names_max: count("request-names-max"),
        keys_names_max: count("keys-names-max"),
        monitor_per_second: size("monitor-per-second"),
        tracked_keys_max: count("tracking-table-max-keys"),
        redirects,
        always_primary: !redirects && texts.get("advertise-role").is_some_and(|text| text == "primary"),
        failover_wait: Duration::from_millis(size("failover-wait")),
        events: texts
            .get("notify-keyspace-events")
            .and_then(|text| EventClass::parse(text.as_bytes()))
            .unwrap_or_default()
            .effective(),
        clients_max: size("maxclients"),
        idle_ms: number("timeout") * 1000,
        login_ms: fixed.login_ms,
        failed_logins_a_second: u32::try_from(number("failed-logins-per-second")).unwrap_or(0),
        memory_bytes_max: size("maxmemory"),
        eviction: Eviction {
            policy,
            usage: Usage {
                counted: policy.is_lfu(),
                log_factor: number("lfu-log-factor") as u32,
                decay_minutes: number("lfu-decay-time") as u32,
            },
            samples: count("maxmemory-samples"),
            time_max: eviction_time_max(number("maxmemory-eviction-tenacity")),
        },
        expire_effort: number("active-expire-effort") as u32,
        save_rules: texts.get("save").and_then(|text| save_rules(text)).unwrap_or_default(),
        backlog_bytes: number("repl-backlog-size") as u64,
        acl_log_max: count("acllog-max-len"),
        new_users_get_channels: texts.get("acl-pubsub-default").is_some_and(|text| text == "allchannels"),
        remarkable: Thresholds {
            slow: (number("slowlog-log-slower-than"), count("slowlog-max-len")),
            large_request: (number("commandlog-request-larger-than"), count("commandlog-large-request-max-len")),
            large_reply: (number("commandlog-reply-larger-than"), count("commandlog-large-reply-max-len")),
        },
        measures_closely: (0..SLOW_DEFAULT_US).contains(&number("slowlog-log-slower-than"))
            || number("latency-monitor-threshold") > 0,
        tracks_latency: texts.get("latency-tracking").is_some_and(|text| text == "yes"),
        latency_event_ms: size("latency-monitor-threshold"),
        percentiles: texts
            .get("latency-tracking-info-percentiles")
            .and_then(|text| percentiles(text))
            .unwrap_or_default(),
    }
}

/// Up to 10 linear, then 15 % more for each, as Redis counts; 100 has no bound.
fn eviction_time_max(tenacity: i64) -> Option<Duration> {
    let us = match tenacity {
        0..=10 => 50.0 * tenacity as f64,
        11..=99 => 500.0 * 1.15_f64.powi(tenacity as i32 - 10),
        _ => return None,
    };
    Some(Duration::from_micros(us as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_a_value_its_parameter_accepts() {
        for parameter in parameters().filter(|parameter| parameter.changeable) {
            assert!(normalize(parameter.kind, parameter.default, parameter.default).is_ok(), "{}", parameter.name);
        }
        let mut names: Vec<_> = parameters().map(|parameter| parameter.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), parameters().count());
    }

    #[test]
    fn limits_of_output_buffers_change_class_by_class() {
        let default = "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60";
        for (value, expected) in [
            ("", Ok(default)),
            ("normal 1mb 0 0", Ok("normal 1048576 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60")),
            ("replica 1k 2kb 3 Pubsub 1 2 3", Ok("normal 0 0 0 slave 1000 2048 3 pubsub 1 2 3")),
            ("abc", Err("Wrong number of arguments")),
            ("normal 0 0", Err("Wrong number of arguments")),
            ("normal  0 0 0", Err("Wrong number of arguments")),
            ("master 0 0 0", Err("Invalid client class")),
            ("normal -1 0 0", Err("Error in hard, soft or soft_seconds")),
            ("normal 0 0 -1", Err("Error in hard, soft or soft_seconds")),
        ] {
            match (output_buffers(default, value), expected) {
                (Ok(kept), Ok(expected)) => assert_eq!(kept, expected, "{value}"),
                (Err(why), Err(expected)) => assert!(why.starts_with(expected), "{value}: {why}"),
                (kept, _) => panic!("{value}: {kept:?}"),
            }
        }
    }

    #[test]
    fn sizes_are_read_as_redis_conf_reads_them() {
        assert_eq!(bytes("1kb"), Some(1024));
        assert_eq!(bytes("1k"), Some(1000));
        assert_eq!(bytes("2GB"), Some(2 << 30));
        assert_eq!(bytes("-1"), None);
        assert_eq!(bytes("12xb"), None);
    }
}
