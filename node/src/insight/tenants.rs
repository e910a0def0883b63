//! What tenants did on this node, read off the counters of all threads: for Prometheus, and for the ledger of usage.
//!
//! ```text
//!   engine/account.rs: a lane of counters for each thread ─► summed here, when somebody asks ─► /metrics, usage/*.csv
//! ```
//! The label `tenant` has as many values as there are tenants, `metrics-tenants-max` at most; who is beyond that, and whoever is
//! no tenant's, is `_other`. No label is ever a key or a name that a client chose.

use crate::config::Config;
use crate::http::{Labels, MetricsText};
use crate::insight::usage::{Column, Ledger, OTHER, Reading, Row};
use crate::node::{Node, now_ms};
use keyward_engine::account::{REASONS, Usage};
use keyward_engine::holdings::Held;
use keyward_engine::keyspace::TenantId;
use keyward_engine::tenancy::Tenant;
use keyward_proto::admin as pb;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Between two looks at the counters.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Looks between two writes: what a crash may lose is a minute.
const LOOKS_PER_WRITE: u32 = 6;

/// The days so far, shared by whoever adds and whoever asks.
pub type Days = Mutex<Ledger>;

/// The days of this node, in its folder.
pub fn days(config: &Config) -> Days {
    Mutex::new(Ledger::open(config.data_dir.join("usage"), config.usage_days, now_ms()))
}

/// One tenant, or everybody else.
#[derive(Clone, Default)]
struct Sample {
    name: String,
    usage: Usage,
    keys: u64,
    bytes: u64,
    evicted: u64,
    held: Held,
}

impl Sample {
    fn add(&mut self, other: &Sample) {
        self.usage.add(&other.usage);
        self.keys += other.keys;
        self.bytes += other.bytes;
        self.evicted += other.evicted;
        self.held = self.held.plus(other.held);
    }

    fn row(&self) -> Row {
        let Usage { operations, forwarded, hits, misses, input_bytes, output_bytes, cpu_ns, .. } = self.usage;
        Row::default()
            // What another node runs is counted there.
            .with(Column::Operations, operations.saturating_sub(forwarded))
            .with(Column::Hits, hits)
            .with(Column::Misses, misses)
            .with(Column::InputBytes, input_bytes)
            .with(Column::OutputBytes, output_bytes)
            .with(Column::CpuMicroseconds, cpu_ns / 1000)
            .with(Column::Evicted, self.evicted)
            .with(Column::Throttled, self.usage.delays + self.usage.throttled)
            .with(Column::Denied, self.usage.denied.iter().sum())
            .with(Column::Connections, self.usage.logins)
    }
}

/// Keys of each tenant on this node.
fn keys_by_tenant(node: &Node) -> BTreeMap<TenantId, u64> {
    let mut keys: BTreeMap<TenantId, u64> = BTreeMap::new();
    for of in node.groups() {
        for index in 0..of.shards.count() {
            of.shards.with(index, |shard| {
                for (id, space) in shard.spaces() {
                    *keys.entry(id.tenant).or_default() += space.len() as u64;
                }
            });
        }
    }
    keys
}

fn sample(tenant: &Tenant, keys: u64) -> Sample {
    Sample {
        name: tenant.name.clone(),
        usage: tenant.account.usage(),
        keys,
        bytes: tenant.gauge.bytes(),
        evicted: tenant.gauge.evicted(),
        held: tenant.account.holdings.held(),
    }
}

/// Everybody together, as far as threads count it without asking whose it is.
fn total(node: &Node) -> Sample {
    let sum = |of: fn(&crate::counters::ThreadCounters) -> u64| -> u64 {
        node.counters.iter().map(|of_one| of(of_one)).sum()
    };
    let mut usage = Usage {
        operations: sum(|of_one| of_one.commands.get()),
        forwarded: sum(|of_one| of_one.forwarded.get()),
        input_bytes: sum(|of_one| of_one.input_bytes.get()),
        output_bytes: sum(|of_one| of_one.output_bytes.get()),
        cpu_ns: sum(|of_one| of_one.nanoseconds.iter().map(|count| count.get()).sum()),
        logins: sum(|of_one| of_one.accepted.get()),
        ..Usage::default()
    };
    let (mut bytes, mut evicted) = (0, 0);
    for of in node.groups() {
        let tally = of.shards.tally();
        usage.hits += tally.hits;
        usage.misses += tally.misses;
        evicted += tally.evicted;
        bytes += of.shards.used_bytes();
    }
    let log = node.acl_log.lock();
    for (denied, reason) in usage.denied.iter_mut().zip(REASONS) {
        *denied = log.counter(reason);
    }
    drop(log);
    Sample { name: OTHER.to_owned(), usage, keys: 0, bytes, evicted, held: node.views.load().1.held_by_clients() }
}

/// What is left of `all` once the tenants are taken off.
fn rest(all: Sample, tenants: &[Sample]) -> Sample {
    let mut known = Sample::default();
    tenants.iter().for_each(|tenant| known.add(tenant));
    Sample {
        usage: all.usage.without(&known.usage),
        bytes: all.bytes.saturating_sub(known.bytes),
        evicted: all.evicted.saturating_sub(known.evicted),
        held: all.held.without(known.held),
        ..all
    }
}

/// Writes the families whose samples have the label `tenant`.
pub fn metrics(node: &Node, text: &mut MetricsText) {
    let (_, view) = node.views.load();
    let keys = keys_by_tenant(node);
    let keys_of = |id: TenantId| keys.get(&id).copied().unwrap_or(0);
    let mut samples: Vec<Sample> = view.tenancy.iter().map(|tenant| sample(tenant, keys_of(tenant.id))).collect();
    let mut other = rest(total(node), &samples);
    other.keys = keys_of(TenantId::SHARED);
    let most = node.config.metrics_tenants_max as usize;
    for beyond in samples.split_off(samples.len().min(most)) {
        other.add(&beyond);
    }
    samples.push(other);
    let counters: [Family<u64>; 13] = [
        ("operations", "Commands run here, or forwarded.", |of| of.usage.operations),
        ("forwarded", "Those of them that another node ran.", |of| of.usage.forwarded),
        ("keyspace_hits", "Reads that found their key.", |of| of.usage.hits),
        ("keyspace_misses", "Reads that found no key.", |of| of.usage.misses),
        ("input_bytes", "Bytes of requests.", |of| of.usage.input_bytes),
        ("output_bytes", "Bytes of answers.", |of| of.usage.output_bytes),
        ("evicted_keys", "Keys evicted to make room.", |of| of.evicted),
        ("delays", "Times a client was not read from because of a rate.", |of| of.usage.delays),
        ("throttled", "Requests answered with THROTTLED.", |of| of.usage.throttled),
        ("logins", "Connections that logged in.", |of| of.usage.logins),
        ("connections_refused", "Logins refused because of a limit of connections.", |of| of.usage.connections_refused),
        ("clients_dismissed", "Clients closed because all of them held too much.", |of| of.held.dismissed),
        ("refused_for_client_memory", "Requests refused because clients held too much.", |of| of.held.refused),
    ];
    let labels: Vec<Label<'_>> = samples.iter().map(|of| [("tenant", of.name.as_str())]).collect();
    for (name, help, of) in counters {
        text.counters(&format!("keyward_tenant_{name}_total"), help, &labelled(&labels, &samples, of));
    }
    let gauges: [Family<f64>; 6] = [
        ("keys", "Keys here.", |of| of.keys as f64),
        ("memory_bytes", "Bytes its keys use here.", |of| of.bytes as f64),
        ("connections", "Connections of its users to this node.", |of| of.usage.connections as f64),
        ("blocked_clients", "Clients of its users that wait for keys.", |of| of.usage.blocked as f64),
        ("client_memory_bytes", "What its clients hold besides keys.", |of| of.held.bytes as f64),
        ("script_texts_bytes", "Texts of its scripts and libraries.", |of| of.held.texts as f64),
    ];
    for (name, help, of) in gauges {
        text.gauges(&format!("keyward_tenant_{name}"), help, &labelled(&labels, &samples, of));
    }
    let seconds = labelled(&labels, &samples, |of| of.usage.cpu_ns as f64 / 1e9);
    text.seconds("keyward_tenant_cpu_seconds_total", "Time of commands and scripts.", &seconds);
    denials(text, &samples);
}

type Label<'a> = [(&'a str, &'a str); 1];

/// The middle of a family's name, its help, and where its number is.
type Family<V> = (&'static str, &'static str, fn(&Sample) -> V);

fn labelled<'l, V>(labels: &'l [Label<'l>], samples: &[Sample], of: impl Fn(&Sample) -> V) -> Vec<(Labels<'l>, V)> {
    labels.iter().zip(samples).map(|(label, sample)| (label.as_slice(), of(sample))).collect()
}

fn denials(text: &mut MetricsText, samples: &[Sample]) {
    let mut labels: Vec<([(&str, &str); 2], u64)> = Vec::new();
    for of in samples {
        for (reason, count) in REASONS.iter().zip(of.usage.denied) {
            labels.push(([("tenant", of.name.as_str()), ("reason", reason.name())], count));
        }
    }
    let values: Vec<(&[(&str, &str)], u64)> = labels.iter().map(|(label, count)| (label.as_slice(), *count)).collect();
    text.counters("keyward_tenant_denied_total", "Requests the rules forbade.", &values);
}

/// How far the counters are now.
fn reading(node: &Node) -> Reading {
    let (_, view) = node.views.load();
    let serves = view.is_primary();
    let mut reading = Reading::default();
    let mut known_bytes = 0;
    for tenant in view.tenancy.iter() {
        let of = sample(tenant, 0);
        known_bytes += of.bytes;
        if serves {
            reading.memory.insert(tenant.id.0, of.bytes);
        }
        reading.tenants.insert(tenant.id.0, (tenant.name.clone(), of.row()));
    }
    let all = total(node);
    if serves {
        reading.memory.insert(0, all.bytes.saturating_sub(known_bytes));
    }
    Reading { total: all.row(), ..reading }
}

/// Adds what happened to today, every few seconds, and writes it down every minute, until the node stops.
pub async fn keep(node: Arc<Node>) {
    let mut looks = 0;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        looks += 1;
        let (of, write) = (Arc::clone(&node), looks % LOOKS_PER_WRITE == 0);
        // The disk may be slow; upkeep is not to wait for it. An error means that the process ends.
        let _ = crate::world::aside(move || note(&of, write)).await;
    }
}

/// Adds what happened until now, and writes it down.
pub fn note(node: &Node, write: bool) {
    let reading = reading(node);
    let mut days = node.usage.lock();
    days.note(now_ms(), reading);
    if write {
        days.flush();
    }
}

/// What was used here in a month, as of now.
pub fn used(node: &Node, month: &str) -> Vec<pb::Usage> {
    let reading = reading(node);
    let mut days = node.usage.lock();
    days.note(now_ms(), reading);
    let rows = days.month(month).into_iter();
    rows.flat_map(|(day, rows)| rows.into_iter().map(move |(tenant, row)| used_row(&day, tenant, &row))).collect()
}

fn used_row(day: &str, tenant: String, row: &Row) -> pb::Usage {
    pb::Usage {
        day: day.to_owned(),
        tenant,
        node: 0,
        node_name: String::new(),
        operations: row.get(Column::Operations),
        keyspace_hits: row.get(Column::Hits),
        keyspace_misses: row.get(Column::Misses),
        input_bytes: row.get(Column::InputBytes),
        output_bytes: row.get(Column::OutputBytes),
        cpu_microseconds: row.get(Column::CpuMicroseconds),
        evicted_keys: row.get(Column::Evicted),
        throttled: row.get(Column::Throttled),
        denied: row.get(Column::Denied),
        connections: row.get(Column::Connections),
        memory_mib_seconds: row.get(Column::MemoryMibSeconds),
    }
}
