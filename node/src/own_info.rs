//! `INFO` for a confined user: the sections of Redis, as if there were only what this user may touch.
//!
//! What client libraries look for when they connect is there and true: version, mode, role, whether data is being loaded,
//! `maxmemory_policy`. What is counted for all users together is left out, since it would tell what others do. Keys are
//! counted only when the section is asked for by name: each must be looked at.

use crate::info::{self, Fields, fields, human};
use crate::latency;
use crate::live::Hot;
use crate::node::Node;
use keyward_acl::CommandId;
use keyward_engine::account::{Account, Times};
use keyward_engine::eviction::Policy;
use keyward_engine::scope::Reach;
use keyward_engine::session::{Login, Session};
use keyward_engine::tenancy::Tenant;
use std::collections::BTreeMap;

/// The text for these sections (lower case); none means the default ones.
pub fn text(node: &Node, wanted: &[String], session: &Session, reach: &Reach) -> String {
    let counted = counts_keys(wanted);
    info::text_of(wanted, |name| match name {
        "server" => fields! {
            "redis_version" => info::REDIS_VERSION,
            "redis_mode" => "standalone",
            "server_name" => "keyward",
            "keyward_version" => env!("CARGO_PKG_VERSION"),
            "arch_bits" => usize::BITS,
        },
        "memory" => memory(node, session),
        "clients" => clients(node, session),
        "stats" => stats(session),
        "commandstats" => commandstats(node, session),
        "errorstats" => errorstats(session),
        "latencystats" => latencystats(node, session),
        "persistence" => fields! { "loading" => u8::from(node.is_loading()), "async_loading" => 0, "aof_enabled" => 0 },
        "replication" => replication(node),
        "cluster" => fields! { "cluster_enabled" => 0 },
        "keyspace" if counted => keyspace(node, session, reach),
        "tenant" => tenant(session),
        "keyward" => fields! { "user" => session.user_name().escape_ascii(), "confined" => 1 },
        _ => Fields::new(),
    })
}

/// Whether these sections say how many keys there are.
pub fn counts_keys(wanted: &[String]) -> bool {
    wanted.iter().any(|name| matches!(name.as_str(), "keyspace" | "all" | "everything"))
}

/// What `ROLE` says, without how far the stream has come: that would tell how much others write.
fn replication(node: &Node) -> Fields {
    let node = info::speaker(node);
    let view = node.views.load().1;
    let mut fields = match info::followed(node, &view) {
        None => fields! { "role" => "master" },
        Some(primary) => {
            let (host, port) =
                view.state.nodes().get(&primary).and_then(|node| node.client_place()).unwrap_or(("", "0"));
            let up = node.replication.link_state() == "connected";
            fields! {
                "role" => "slave",
                "master_host" => host,
                "master_port" => port,
                "master_link_status" => if up { "up" } else { "down" },
            }
        }
    };
    fields.extend(fields! { "connected_slaves" => 0, "master_failover_state" => "no-failover" });
    fields
}

/// What a tenant may use is all there is to it.
fn memory(node: &Node, session: &Session) -> Fields {
    let hot = node.live.hot();
    let Some(tenant) = session.login.as_ref().and_then(|login| login.tenant.as_deref()) else {
        return fields! {
            "maxmemory" => hot.memory_bytes_max,
            "maxmemory_human" => human(hot.memory_bytes_max),
            "maxmemory_policy" => hot.eviction.policy.name(),
        };
    };
    let (used, limit) = (tenant.gauge.bytes(), memory_bytes_max(tenant, &hot));
    fields! {
        "used_memory" => used,
        "used_memory_human" => human(used),
        "used_memory_dataset" => used,
        "maxmemory" => limit,
        "maxmemory_human" => human(limit),
        "maxmemory_policy" => policy(tenant, &hot).name(),
    }
}

/// `maxmemory` as a tenant sees it.
pub fn memory_bytes_max(tenant: &Tenant, hot: &Hot) -> u64 {
    if tenant.limits.limit > 0 { tenant.limits.limit } else { hot.memory_bytes_max }
}

/// `maxmemory-policy` as a tenant sees it.
pub fn policy(tenant: &Tenant, hot: &Hot) -> Policy {
    tenant.limits.eviction.unwrap_or(hot.eviction.policy)
}

/// What is counted of a confined user: of its tenant, or of itself if it has none.
fn account(session: &Session) -> Option<&Account> {
    session.login.iter().flat_map(Login::accounts).next().map(|(_, account)| &**account)
}

fn clients(node: &Node, session: &Session) -> Fields {
    let Some(usage) = account(session).map(Account::usage) else { return Fields::new() };
    let limit = session.login.as_ref().map_or(0, |login| login.limit(|limits| limits.connections));
    fields! {
        "connected_clients" => usage.connections,
        "maxclients" => match limit {
            0 if session.login.as_ref().is_some_and(|login| login.tenant.is_some()) => node.live.hot().clients_max / 2,
            0 => node.live.hot().clients_max,
            limit => limit,
        },
        "blocked_clients" => usage.blocked,
    }
}

fn stats(session: &Session) -> Fields {
    let Some(usage) = account(session).map(Account::usage) else { return Fields::new() };
    let mut fields = fields! {
        "total_connections_received" => usage.logins,
        "total_commands_processed" => usage.operations,
        "total_net_input_bytes" => usage.input_bytes,
        "total_net_output_bytes" => usage.output_bytes,
        "rejected_connections" => usage.connections_refused,
        "keyspace_hits" => usage.hits,
        "keyspace_misses" => usage.misses,
        "acl_access_denied_cmd" => usage.denied[0],
        "acl_access_denied_key" => usage.denied[1],
        "acl_access_denied_channel" => usage.denied[2],
    };
    if let Some(tenant) = session.login.as_ref().and_then(|login| login.tenant.as_deref()) {
        fields.push(("evicted_keys".to_owned(), tenant.gauge.evicted().to_string()));
    }
    fields
}

fn commandstats(node: &Node, session: &Session) -> Fields {
    let rows = node.table.rows();
    let line = |(command, times): (CommandId, Times)| {
        let (microseconds, calls) = (times.nanoseconds / 1000, times.calls.max(1));
        let each = microseconds as f64 / calls as f64;
        let name = format!("cmdstat_{}", rows[usize::from(command)].full_name);
        (name, format!("calls={},usec={microseconds},usec_per_call={each:.2}", times.calls))
    };
    account(session).map(Account::times).into_iter().flatten().map(line).collect()
}

fn errorstats(session: &Session) -> Fields {
    let line = |(word, count)| (format!("{ERROR}{word}"), format!("count={count}"));
    account(session).map(Account::errors).into_iter().flatten().map(line).collect()
}

/// Coarser than those of everybody: counted by powers of two.
fn latencystats(node: &Node, session: &Session) -> Fields {
    let hot = node.live.hot();
    if !hot.tracks_latency {
        return Fields::new();
    }
    let rows = node.table.rows();
    let line = |(command, times): (CommandId, Times)| {
        info::percentiles(&hot, &rows[usize::from(command)], &latency::Times::of(&times.powers))
    };
    account(session).map(Account::times).into_iter().flatten().map(line).collect()
}

/// Whether the text says how many keys its tenant lost for want of memory.
pub fn tells_evicted(text: &str) -> bool {
    text.contains(EVICTED)
}

/// That number.
pub fn evicted(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(EVICTED.trim_start())?.parse().ok())
}

/// The same text with the number that stands in another.
pub fn with_evicted(text: &str, other: &str) -> String {
    let line = |line: &&str| line.starts_with(EVICTED.trim_start());
    let Some(truth) = other.split_inclusive("\r\n").find(line) else { return text.to_owned() };
    text.split_inclusive("\r\n").map(|known| if line(&known) { truth } else { known }).collect()
}

/// Whether the text has the section of errors.
pub fn tells_errors(text: &str) -> bool {
    text.contains(ERRORS_TITLE)
}

/// The same text, where each error is counted with those of another's section.
pub fn with_errors(text: &str, other: &str) -> String {
    let counts = |text: &str| -> Vec<(String, u64)> {
        let count = |line: &str| {
            let (word, count) = line.strip_prefix(ERROR)?.split_once(":count=")?;
            Some((word.to_owned(), count.parse().ok()?))
        };
        text.lines().filter_map(count).collect()
    };
    let mut sums: BTreeMap<String, u64> = BTreeMap::new();
    for (word, count) in counts(text).into_iter().chain(counts(other)) {
        let sum = sums.entry(word).or_default();
        *sum = sum.saturating_add(count);
    }
    let all: String = sums.iter().map(|(word, count)| format!("{ERROR}{word}:count={count}\r\n")).collect();
    let kept: String = text.split_inclusive("\r\n").filter(|line| !line.starts_with(ERROR)).collect();
    kept.replacen(ERRORS_TITLE, &format!("{ERRORS_TITLE}{all}"), 1)
}

/// How the section of errors begins, and each line of it. A user's own words stand in no section.
const ERRORS_TITLE: &str = "# Errorstats\r\n";
const ERROR: &str = "errorstat_";

/// The line it stands in: no other field ends so.
const EVICTED: &str = "\nevicted_keys:";

/// What its tenant did on this node since that started, but for the keys it lost, and what it may use.
fn tenant(session: &Session) -> Fields {
    let Some(tenant) = session.login.as_ref().and_then(|login| login.tenant.as_deref()) else { return Fields::new() };
    let (usage, held) = (tenant.account.usage(), tenant.account.holdings.held());
    fields! {
        "tenant" => tenant.name,
        "tenant_mode" => if tenant.is_namespace() { "namespace" } else { "prefix" },
        "connected_clients" => usage.connections,
        "blocked_clients" => usage.blocked,
        "total_commands_processed" => usage.operations,
        "total_connections_received" => usage.logins,
        "total_net_input_bytes" => usage.input_bytes,
        "total_net_output_bytes" => usage.output_bytes,
        "used_cpu_microseconds" => usage.cpu_ns / 1000,
        "keyspace_hits" => usage.hits,
        "keyspace_misses" => usage.misses,
        "acl_access_denied" => usage.denied.iter().sum::<u64>(),
        "throttled" => usage.throttled,
        "used_memory" => tenant.gauge.bytes(),
        "evicted_keys" => tenant.gauge.evicted(),
        "client_memory" => held.bytes,
        "client_memory_max" => held.most,
        "script_texts" => held.texts,
        "evicted_clients" => held.dismissed,
    }
}

fn keyspace(node: &Node, session: &Session, reach: &Reach) -> Fields {
    let owned = node.shards.owned(session.tenant, reach);
    let line = |keys, expires| format!("keys={keys},expires={expires},avg_ttl=0");
    owned.into_iter().map(|(index, of)| (format!("db{index}"), line(of.keys, of.expiring))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_two_nodes_are_one_list_whichever_has_none() {
        let text = "# Stats\r\na:1\r\n\r\n# Errorstats\r\nerrorstat_NOPERM:count=2\r\n\r\n# Cluster\r\nb:1\r\n";
        let other = "# Errorstats\r\nerrorstat_ERR:count=1\r\nerrorstat_NOPERM:count=3\r\n";
        let both = "# Stats\r\na:1\r\n\r\n# Errorstats\r\nerrorstat_ERR:count=1\r\nerrorstat_NOPERM:count=5\r\n\r\n# Cluster\r\nb:1\r\n";
        assert_eq!(with_errors(text, other), both);
        assert_eq!(with_errors("# Errorstats\r\n", other), other);
        assert_eq!(with_errors(text, "# Errorstats\r\n"), text);
        assert!(tells_errors(text) && !tells_errors("# Stats\r\n"));
    }
}
