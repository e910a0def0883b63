//! `INFO`: what this node tells about itself, in Redis' sections and field names.
//!
//! Every field is measured or agreed on; what is never done here, forks and defragmenting, says so with the value Redis uses
//! for "none", and what nobody measures is left out. The strings that make client libraries take the server for another product appear nowhere.

use crate::counters::ThreadCounters;
use crate::latency::Times;
use crate::live::Hot;
use crate::node::Node;
use crate::replication::Stats;
use crate::view::View;
use keyward_acl::LogReason;
use keyward_cluster::NodeId;
use keyward_engine::keyspace::{SpaceId, TenantId};
use keyward_engine::scope::Reach;
use keyward_engine::table::Row;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

pub use keyward_script::REDIS_VERSION;

/// How the section about the data begins.
pub const KEYSPACE_TITLE: &str = "# Keyspace\r\n";

/// Sections shown when none is named, in order.
const DEFAULT: &[&str] = &[
    "server",
    "clients",
    "memory",
    "persistence",
    "stats",
    "replication",
    "cpu",
    "errorstats",
    "cluster",
    "keyspace",
    "keyward",
];

/// Sections shown only by name, or by `all` and `everything`.
const ON_REQUEST: &[&str] = &["modules", "commandstats", "latencystats", "tenant"];

/// The text for these sections (lower case); none means the default ones.
pub fn text(node: &Node, wanted: &[String]) -> String {
    text_of(wanted, |name| section(node, name))
}

/// The sections that are wanted, with the fields `section` knows.
pub fn text_of(wanted: &[String], section: impl Fn(&str) -> Fields) -> String {
    let everything = wanted.iter().any(|name| name == "all" || name == "everything");
    let default = wanted.is_empty() || wanted.iter().any(|name| name == "default");
    let is_wanted = |name: &str| everything || wanted.iter().any(|wanted| wanted == name);
    let shown = DEFAULT.iter().filter(|name| default || is_wanted(name));
    let shown = shown.chain(ON_REQUEST.iter().filter(|name| is_wanted(name)));
    let mut out = String::new();
    for name in shown {
        let fields = section(name);
        // Whoever belongs to no tenant has no such section.
        if *name == "tenant" && fields.is_empty() {
            continue;
        }
        if !out.is_empty() {
            out.push_str("\r\n");
        }
        let title = name[..1].to_uppercase() + &name[1..];
        let title = if *name == "cpu" { "CPU".to_owned() } else { title };
        let _ = write!(out, "# {title}\r\n");
        for (field, value) in fields {
            let _ = write!(out, "{field}:{value}\r\n");
        }
    }
    out
}

/// Names with values, in order.
pub type Fields = Vec<(String, String)>;

macro_rules! fields {
    ($($name:literal => $value:expr),* $(,)?) => { vec![$(($name.to_owned(), $value.to_string())),*] };
}
pub(crate) use fields;

fn section(node: &Node, name: &str) -> Fields {
    match name {
        "server" => server(node),
        "clients" => clients(node),
        "memory" => memory(node),
        "persistence" => persistence(node),
        "stats" => stats(node),
        "replication" => replication(node),
        "cpu" => cpu(),
        "errorstats" => errorstats(node),
        "cluster" => fields! { "cluster_enabled" => u8::from(node.live.hot().redirects) },
        "keyspace" => keyspace(node),
        "keyward" => keyward(node),
        "commandstats" => commandstats(node),
        "latencystats" => latencystats(node),
        _ => Vec::new(),
    }
}

fn clients(node: &Node) -> Fields {
    let (watching, watched) = node.shards.watched();
    fields! {
            "connected_clients" => node.client_count(),
            "maxclients" => node.live.hot().clients_max,
            "blocked_clients" => node.pause.waiting() + node.blocked.len() as u64,
            "watching_clients" => watching,
            "total_watched_keys" => watched,
            "tracking_clients" => node.shards.tracking.client_count(),
            "pubsub_clients" => node.pubsub.client_count(),
            "total_blocking_keys" => node.blocked.keys(false),
            "total_blocking_keys_on_nokey" => node.blocked.keys(true),
    }
}

fn server(node: &Node) -> Fields {
    let uptime_s = node.started.elapsed().as_secs();
    let now_us = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros());
    fields! {
        "redis_version" => REDIS_VERSION,
        "redis_git_sha1" => "00000000",
        "redis_git_dirty" => 0,
        "redis_build_id" => "0",
        "redis_mode" => if node.live.hot().redirects { "cluster" } else { "standalone" },
        "server_name" => "keyward",
        "keyward_version" => env!("CARGO_PKG_VERSION"),
        "os" => std::env::consts::OS,
        "arch_bits" => usize::BITS,
        "monotonic_clock" => "POSIX clock_gettime",
        "multiplexing_api" => "epoll",
        "process_id" => std::process::id(),
        "run_id" => &node.run_id,
        "tcp_port" => node.config.bind.port(),
        "server_time_usec" => now_us,
        "uptime_in_seconds" => uptime_s,
        "uptime_in_days" => uptime_s / 86_400,
        "hz" => 10,
        "configured_hz" => 10,
        "lru_clock" => (now_us / 1_000_000) & 0xff_ffff,
        "executable" => std::env::current_exe().map(|path| path.display().to_string()).unwrap_or_default(),
        "process_supervised" => "no",
        "io_threads_active" => 0,
    }
}

fn memory(node: &Node) -> Fields {
    let used = node.memory_bytes();
    let resident = resident_bytes();
    let limit = node.live.hot().memory_bytes_max;
    let peak = node.memory_peak_bytes().max(used);
    let lua = node.scripts.sizes();
    let states = lua.scripts_state_bytes + lua.functions_state_bytes;
    let ratio = if used > 0 { resident as f64 / used as f64 } else { 1.0 };
    let backlog: u64 = node.groups().iter().map(|of| of.replication.log.len_bytes()).sum();
    let system_bytes = kilobytes_in("/proc/meminfo", "MemTotal:") * 1024;
    fields! {
        "used_memory" => used,
        "used_memory_human" => human(used),
        "used_memory_rss" => resident,
        "used_memory_rss_human" => human(resident),
        "used_memory_peak" => peak,
        "used_memory_peak_human" => human(peak),
        "used_memory_dataset" => used,
        "used_memory_startup" => 0,
        "used_memory_overhead" => 0,
        "used_memory_peak_perc" => format!("{:.2}%", used as f64 * 100.0 / peak.max(1) as f64),
        "used_memory_dataset_perc" => "100.00%",
        "used_memory_lua" => lua.scripts_state_bytes,
        "used_memory_lua_human" => human(lua.scripts_state_bytes as u64),
        "used_memory_vm_eval" => lua.scripts_state_bytes,
        "used_memory_scripts_eval" => lua.script_bytes,
        "number_of_cached_scripts" => lua.scripts,
        "number_of_functions" => lua.functions,
        "number_of_libraries" => lua.libraries,
        "used_memory_vm_functions" => lua.functions_state_bytes,
        "used_memory_vm_total" => states,
        "used_memory_vm_total_human" => human(states as u64),
        "maxmemory" => limit,
        "maxmemory_human" => human(limit),
        "maxmemory_policy" => node.live.hot().eviction.policy.name(),
        "mem_fragmentation_ratio" => format!("{ratio:.2}"),
        "mem_fragmentation_bytes" => resident.saturating_sub(used),
        "mem_allocator" => "jemalloc",
        // What is counted is data; buffers and tables of clients are not.
        "mem_not_counted_for_evict" => 0,
        "mem_clients_normal" => node.held_by_clients(),
        "mem_replication_backlog" => backlog,
        "mem_total_replication_buffers" => backlog,
        "mem_aof_buffer" => 0,
        "active_defrag_running" => 0,
        "total_system_memory" => system_bytes,
        "total_system_memory_human" => human(system_bytes),
        "lazyfree_pending_objects" => node.shards.dropper.pending(),
        "lazyfreed_objects" => node.shards.dropper.freed(),
    }
}

fn persistence(node: &Node) -> Fields {
    let snapshots = &node.snapshots;
    let ok = |good: bool| if good { "ok" } else { "err" };
    let (loaded, expired): (Vec<u64>, Vec<u64>) = node.groups().iter().map(|of| of.snapshots.loaded()).unzip();
    fields! {
        "loading" => u8::from(node.is_loading()),
        "async_loading" => 0,
        "current_cow_peak" => 0,
        "current_cow_size" => 0,
        "current_cow_size_age" => 0,
        "current_fork_perc" => "0.00",
        "rdb_changes_since_last_save" => node.shards.tally().changes.saturating_sub(snapshots.changes_saved()),
        "rdb_bgsave_in_progress" => u8::from(snapshots.is_underway()),
        "rdb_last_save_time" => snapshots.last_save_ms() / 1000,
        "rdb_last_bgsave_status" => ok(snapshots.last_succeeded()),
        "rdb_last_bgsave_time_sec" => snapshots.last_duration_s(),
        "rdb_current_bgsave_time_sec" => -1,
        "rdb_saves" => snapshots.count(),
        "rdb_last_cow_size" => 0,
        "rdb_last_load_keys_expired" => expired.iter().sum::<u64>(),
        "rdb_last_load_keys_loaded" => loaded.iter().sum::<u64>(),
        "aof_enabled" => 0,
        "aof_rewrite_in_progress" => 0,
        "aof_rewrite_scheduled" => 0,
        "aof_last_rewrite_time_sec" => -1,
        "aof_current_rewrite_time_sec" => -1,
        "aof_last_bgrewrite_status" => "ok",
        "aof_last_write_status" => "ok",
        "aof_last_cow_size" => 0,
        "aof_rewrites" => 0,
        "aof_rewrites_consecutive_failures" => 0,
        "module_fork_in_progress" => 0,
        "module_fork_last_cow_size" => 0,
    }
}

fn sum(node: &Node, of: impl Fn(&ThreadCounters) -> u64) -> u64 {
    node.counters.iter().map(|counters| of(counters)).sum()
}

fn stats(node: &Node) -> Fields {
    let tally = node.tally();
    let denied = |reason| node.acl_log.lock().counter(reason);
    let rates = node.rates();
    let kilobytes = |bytes: u64| format!("{:.2}", bytes as f64 / 1024.0);
    let copies = |of: fn(&Stats) -> &AtomicU64| -> u64 {
        node.groups().iter().map(|group| of(group.replication.stats()).load(Ordering::Relaxed)).sum()
    };
    fields! {
        "total_connections_received" => sum(node, |counters| counters.accepted.get()),
        "total_commands_processed" => sum(node, |counters| counters.commands.get()),
        "instantaneous_ops_per_sec" => rates.commands,
        "instantaneous_input_kbps" => kilobytes(rates.input_bytes),
        "instantaneous_output_kbps" => kilobytes(rates.output_bytes),
        "migrate_cached_sockets" => 0,
        "total_net_input_bytes" => sum(node, |counters| counters.input_bytes.get()),
        "total_net_output_bytes" => sum(node, |counters| counters.output_bytes.get()),
        "sync_full" => copies(|stats| &stats.full_copies),
        "sync_partial_ok" => copies(|stats| &stats.continued),
        "sync_partial_err" => copies(|stats| &stats.refused),
        "rejected_connections" => sum(node, |counters| counters.rejected.get()),
        "expired_keys" => tally.expired,
        "evicted_keys" => tally.evicted,
        "keyspace_hits" => tally.hits,
        "keyspace_misses" => tally.misses,
        "pubsub_channels" => node.pubsub.channel_count(false),
        "pubsub_patterns" => node.pubsub.pattern_count(TenantId::SHARED, &Reach::Everything),
        "pubsubshard_channels" => node.pubsub.channel_count(true),
        "tracking_total_keys" => node.shards.tracking.keys.load(Ordering::Relaxed),
        "tracking_total_items" => node.shards.tracking.items.load(Ordering::Relaxed),
        "tracking_total_prefixes" => node.shards.tracking.prefix_count(),
        "total_reads_processed" => sum(node, |counters| counters.batches.get()),
        "unexpected_error_replies" => 0,
        "evicted_clients" => node.views.load().1.held_by_clients().dismissed,
        "latest_fork_usec" => 0,
        "total_forks" => 0,
        "slave_expires_tracked_keys" => 0,
        "active_defrag_hits" => 0,
        "active_defrag_misses" => 0,
        "active_defrag_key_hits" => 0,
        "active_defrag_key_misses" => 0,
        "total_active_defrag_time" => 0,
        "current_active_defrag_time" => 0,
        "io_threaded_reads_processed" => 0,
        "io_threaded_writes_processed" => 0,
        "reply_buffer_shrinks" => 0,
        "reply_buffer_expands" => 0,
        "total_error_replies" => sum(node, |counters| counters.errors.get()),
        "total_forwarded_commands" => sum(node, |counters| counters.forwarded.get()),
        "acl_access_denied_auth" => denied(LogReason::Auth),
        "acl_access_denied_cmd" => denied(LogReason::Command),
        "acl_access_denied_key" => denied(LogReason::Key),
        "acl_access_denied_channel" => denied(LogReason::Channel),
        "acl_access_denied_db" => denied(LogReason::Database),
    }
}

/// Whom this node says it follows, in `INFO`, `ROLE` and `HELLO` alike; `None`: it says that it is a primary. With
/// `advertise-role primary` whoever forwards says so too.
pub fn followed(node: &Node, view: &View) -> Option<NodeId> {
    view.primary.filter(|_| !view.is_primary() && !node.live.hot().always_primary)
}

/// The shard group that stands for all of them in `INFO`, `ROLE` and `HELLO`: the first that this node serves, as `CLUSTER NODES`
/// calls a node a master that serves any; where it serves none, the first.
pub fn speaker(node: &Node) -> &Node {
    let serves = |of: &&Arc<Node>| of.views.load().1.is_primary();
    node.groups().iter().find(serves).or(node.groups().first()).map_or(node, |of| of)
}

/// Offsets are positions in the stream of effects, and the replication id is the cluster's with the epoch.
fn replication(node: &Node) -> Fields {
    let node = speaker(node);
    let view = node.views.load().1;
    let place = |id| {
        let node = view.state.nodes().get(&id)?;
        node.client_place()
    };
    let (position, history) = node.replication.log.stand();
    let always_primary = node.live.hot().always_primary;
    let mut fields = match followed(node, &view) {
        None if always_primary && !view.is_primary() => fields! { "role" => "master", "connected_slaves" => 0 },
        Some(primary) => {
            let (host, port) = place(primary).unwrap_or(("", "0"));
            let (silent_ms, behind) = node.replication.lag();
            let state = node.replication.link_state();
            fields! {
                "role" => "slave",
                "master_host" => host,
                "master_port" => port,
                "master_link_status" => if state == "connected" { "up" } else { "down" },
                "master_last_io_seconds_ago" => silent_ms / 1000,
                "master_sync_in_progress" => u8::from(state == "sync"),
                "slave_read_repl_offset" => position,
                "slave_repl_offset" => position,
                "slave_lag_bytes" => behind,
                "slave_priority" => 100,
                "slave_read_only" => 1,
                "replica_announced" => 1,
                "connected_slaves" => 0,
            }
        }
        None => {
            let replicas = node.replication.replicas();
            let mut fields = fields! { "role" => "master", "connected_slaves" => replicas.len() };
            fields.extend(replicas.iter().enumerate().map(|(index, replica)| {
                let (host, port) = place(replica.node).unwrap_or(("", "0"));
                let state = if replica.streams { "online" } else { "wait_bgsave" };
                let line = format!(
                    "ip={host},port={port},state={state},offset={},lag={},in_sync={}",
                    replica.position,
                    replica.silent_ms / 1000,
                    u8::from(replica.in_sync)
                );
                (format!("slave{index}"), line)
            }));
            fields
        }
    };
    let cluster = view.state.cluster_id().map_or([0; 16], |id| id.0);
    let id: String = cluster.iter().map(|byte| format!("{byte:02x}")).collect();
    fields.extend(fields! {
        "master_failover_state" => "no-failover",
        "master_replid" => format!("{id}{:08x}", history.epoch().0),
        "master_replid2" => "0".repeat(40),
        "master_repl_offset" => position,
        "second_repl_offset" => -1,
        "repl_backlog_active" => u8::from(node.journal.is_attached() || !view.is_primary()),
        "repl_backlog_size" => node.live.hot().backlog_bytes,
        "repl_backlog_first_byte_offset" => node.replication.log.base(),
        "repl_backlog_histlen" => node.replication.log.len_bytes(),
        "repl_epoch" => view.group.as_ref().map_or(0, |group| group.epoch.0),
    });
    // Where the role above is a matter of wording, these are true.
    if node.groups().len() > 1 || always_primary {
        fields.extend(node.groups().iter().map(|of| shard_group(of)));
    }
    fields
}

/// What this node is to one shard group; of several, what stands before is about the first.
fn shard_group(of: &Node) -> (String, String) {
    let view = of.views.load().1;
    let in_sync = view.group.as_ref().map_or(0, |group| group.in_sync.len());
    let ranges = view.group.as_ref().map(|group| group.slots.as_slice()).unwrap_or_default();
    let slots: Vec<String> = ranges.iter().map(|(first, last)| format!("{first}-{last}")).collect();
    let role = if view.is_primary() { "master" } else { "slave" };
    let primary = view.primary.and_then(|id| view.state.nodes().get(&id));
    let line = format!(
        "slots={},role={role},primary={},epoch={},offset={},in_sync={in_sync}",
        slots.join("+"),
        primary.map_or("", |node| &node.addresses.client),
        view.group.as_ref().map_or(0, |group| group.epoch.0),
        of.replication.log.position(),
    );
    (format!("shard_group{}", of.group.0), line)
}

fn cpu() -> Fields {
    let process = cpu_seconds("/proc/self/stat");
    let main_thread = cpu_seconds(&format!("/proc/self/task/{}/stat", std::process::id()));
    let seconds = |times: &[f64], index: usize| format!("{:.6}", times.get(index).copied().unwrap_or(0.0));
    fields! {
        "used_cpu_sys" => seconds(&process, 1),
        "used_cpu_user" => seconds(&process, 0),
        "used_cpu_sys_children" => seconds(&process, 3),
        "used_cpu_user_children" => seconds(&process, 2),
        "used_cpu_sys_main_thread" => seconds(&main_thread, 1),
        "used_cpu_user_main_thread" => seconds(&main_thread, 0),
    }
}

/// In user mode and in the kernel, its own and its children's: fields 14 to 17 of proc(5), counted after the closing parenthesis
/// of the name, in ticks of 10 ms.
fn cpu_seconds(file: &str) -> Vec<f64> {
    let times = std::fs::read_to_string(file).unwrap_or_default();
    let rest = times.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks = rest.split_whitespace().skip(11).take(4).filter_map(|word| word.parse::<f64>().ok());
    ticks.map(|ticks| ticks / 100.0).collect()
}

fn keyspace(node: &Node) -> Fields {
    let mut databases: BTreeMap<u32, (usize, usize)> = BTreeMap::new();
    for of in node.groups() {
        for index in 0..of.shards.count() {
            of.shards.with(index, |shard| {
                for (SpaceId { database, .. }, space) in shard.spaces() {
                    let (keys, expires) = databases.entry(database).or_default();
                    *keys += space.len();
                    *expires += space.expiring_len();
                }
            });
        }
    }
    let shown = databases.into_iter().filter(|(_, (keys, _))| *keys > 0);
    shown
        .map(|(index, (keys, expires))| (format!("db{index}"), format!("keys={keys},expires={expires},avg_ttl=0")))
        .collect()
}

fn keyward(node: &Node) -> Fields {
    let (_, view) = node.views.load();
    let control = node.control.view();
    fields! {
        "node_id" => view.me.0,
        "node_name" => node.config.name,
        "cluster_id" => view.state.cluster_id().map(|id| id.to_string()).unwrap_or_default(),
        "nodes" => view.state.nodes().len(),
        "control_leader" => control.leader.map_or(0, |id| id.0),
        "policy_index" => view.index,
        "policy_digest" => format!("{:016x}", view.state.digest()),
        "users" => view.state.directory().len(),
        "primary" => view.primary.map_or(0, |id| id.0),
        "serves_data" => u8::from(view.is_primary()),
        "lease_remaining_ms" => node.lease.left().as_millis(),
        "lease_policy" => crate::config::Value::text(&node.config.acl_lease_policy),
        "incarnation" => view.my_incarnation.map_or(0, |incarnation| incarnation.0),
    }
}

fn commandstats(node: &Node) -> Fields {
    let rows = node.table.rows().iter();
    let counted = rows.map(|row| {
        let index = usize::from(row.id);
        let calls = sum(node, |counters| counters.calls[index].get());
        let rejected = sum(node, |counters| counters.refusals[index].get());
        let failed = sum(node, |counters| counters.failures[index].get());
        let microseconds = sum(node, |counters| counters.nanoseconds[index].get()) / 1000;
        (row.full_name, calls, rejected, failed, microseconds)
    });
    let shown = counted.filter(|(_, calls, rejected, failed, _)| calls + rejected + failed > 0);
    let line = |(name, calls, rejected, failed, microseconds): (&str, u64, u64, u64, u64)| {
        let each = if calls > 0 { microseconds as f64 / calls as f64 } else { 0.0 };
        let counts = format!("rejected_calls={rejected},failed_calls={failed}");
        (format!("cmdstat_{name}"), format!("calls={calls},usec={microseconds},usec_per_call={each:.2},{counts}"))
    };
    shown.map(line).collect()
}

/// Error replies by their first word.
fn errorstats(node: &Node) -> Fields {
    let mut words: BTreeMap<String, u64> = BTreeMap::new();
    for counters in &node.counters {
        for (word, count) in counters.error_words.lock().counts() {
            *words.entry(word.to_owned()).or_default() += count;
        }
    }
    words.into_iter().map(|(word, count)| (format!("errorstat_{word}"), format!("count={count}"))).collect()
}

/// How long commands took, as far as that is kept.
fn latencystats(node: &Node) -> Fields {
    let hot = node.live.hot();
    if !hot.tracks_latency {
        return Vec::new();
    }
    let called = node.table.rows().iter().map(|row| (row, latency_of(node, usize::from(row.id))));
    let called = called.filter(|(_, times)| times.calls() > 0);
    called.map(|(row, times)| percentiles(&hot, row, &times)).collect()
}

/// The line of `latencystats` about one command.
pub fn percentiles(hot: &Hot, row: &Row, times: &Times) -> (String, String) {
    let of = |percent: &f64| format!("p{percent}={:.3}", times.percentile_us(*percent));
    let shown: Vec<String> = hot.percentiles.iter().map(of).collect();
    (format!("latency_percentiles_usec_{}", row.full_name), shown.join(","))
}

/// How long calls of a command took, on all threads.
pub fn latency_of(node: &Node, command: usize) -> Times {
    Times::sum(node.counters.iter().map(|counters| &counters.latency), command)
}

/// Bytes of the process in memory, from proc(5).
pub fn resident_bytes() -> u64 {
    kilobytes_in("/proc/self/status", "VmRSS:") * 1024
}

/// A number of a file of proc(5) that holds `name: number kB` lines; 0 if it cannot be read.
fn kilobytes_in(file: &str, name: &str) -> u64 {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_whitespace().next()).and_then(|kb| kb.parse().ok()).unwrap_or(0)
}

/// Bytes as people read them.
pub fn human(bytes: u64) -> String {
    let units = [(1u64 << 40, "T"), (1 << 30, "G"), (1 << 20, "M"), (1 << 10, "K")];
    match units.into_iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, letter)) => format!("{:.2}{letter}", bytes as f64 / unit as f64),
        None => format!("{bytes}B"),
    }
}
