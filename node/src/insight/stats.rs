//! What `TENANT STATS` tells of one node, and the same of all nodes together.
//!
//! ```text
//!   TENANT STATS gw ──────────► figures of this node
//!   keywardctl tenant stats ──► `here` of every node ──► `merged`: each node's, and all together
//! ```
//! Each figure is one row of [`FIGURES`], which says how nodes' figures become one.

use super::{Answered, silent};
use crate::node::Node;
use keyward_engine::account::Usage;
use keyward_engine::holdings::Held;
use keyward_engine::keyspace::TenantId;
use keyward_engine::scope::Owner;
use keyward_engine::tenancy::Tenant;
use keyward_proto::admin as pb;
use keyward_proto::admin::node_answer::Answer;
use std::collections::{BTreeMap, HashMap};

/// Keys and their bytes.
#[derive(Clone, Copy, Default)]
struct Stock {
    keys: u64,
    bytes: u64,
}

/// What the figures are read off.
struct Look<'a> {
    tenant: &'a Tenant,
    stock: Stock,
    usage: Usage,
    held: Held,
    script_bytes: u64,
}

/// How the figures of nodes become one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Together {
    /// Each node counts its own.
    Sum,
    /// Operations: what is forwarded is counted twice.
    RunOnce,
    /// Nodes have copies: those who serve tell.
    ServedKeys,
    /// The same of bytes.
    ServedBytes,
    /// It was agreed on: all say the same, but for a moment.
    Agreed,
}

struct Figure {
    name: &'static str,
    together: Together,
    of: fn(&Look<'_>) -> u64,
}

const fn figure(name: &'static str, together: Together, of: fn(&Look<'_>) -> u64) -> Figure {
    Figure { name, together, of }
}

/// What is forwarded, by name: it is taken off the operations of all nodes.
const FORWARDED: &str = "forwarded";

/// Every figure, in the order in which they are told.
const FIGURES: [Figure; 31] = [
    figure("keys", Together::ServedKeys, |of| of.stock.keys),
    figure("memory", Together::ServedBytes, |of| of.stock.bytes),
    figure("reserve", Together::Agreed, |of| of.tenant.limits.reserve),
    figure("limit", Together::Agreed, |of| of.tenant.limits.limit),
    figure("keys-limit", Together::Agreed, |of| of.tenant.limits.keys),
    figure("evicted-keys", Together::Sum, |of| of.tenant.gauge.evicted()),
    figure("refused-for-memory", Together::Sum, |of| of.tenant.gauge.refused()),
    figure("operations", Together::RunOnce, |of| of.usage.operations),
    figure(FORWARDED, Together::Sum, |of| of.usage.forwarded),
    figure("work", Together::Sum, |of| of.usage.work),
    figure("input-bytes", Together::Sum, |of| of.usage.input_bytes),
    figure("output-bytes", Together::Sum, |of| of.usage.output_bytes),
    figure("cpu-us", Together::Sum, |of| of.usage.cpu_ns / 1000),
    figure("connections", Together::Sum, |of| of.usage.connections),
    figure("blocked-clients", Together::Sum, |of| of.usage.blocked),
    figure("subscriptions", Together::Sum, |of| of.usage.subscriptions),
    figure("delays", Together::Sum, |of| of.usage.delays),
    figure("throttled", Together::Sum, |of| of.usage.throttled),
    figure("connections-refused", Together::Sum, |of| of.usage.connections_refused),
    figure("limits-reached", Together::Sum, |of| of.usage.limits_reached),
    figure("scripts-ended", Together::Sum, |of| of.usage.scripts_ended),
    figure("keyspace-hits", Together::Sum, |of| of.usage.hits),
    figure("keyspace-misses", Together::Sum, |of| of.usage.misses),
    figure("denied", Together::Sum, |of| of.usage.denied.iter().sum()),
    figure("logins", Together::Sum, |of| of.usage.logins),
    figure("client-memory", Together::Sum, |of| of.held.bytes),
    figure("client-memory-max", Together::Sum, |of| of.held.most),
    figure("clients-dismissed", Together::Sum, |of| of.held.dismissed),
    figure("refused-for-client-memory", Together::Sum, |of| of.held.refused),
    figure("script-texts", Together::Sum, |of| of.held.texts),
    figure("script-memory", Together::Sum, |of| of.script_bytes),
];

/// The figures of a tenant on this node, with their names.
pub fn figures(node: &Node, tenant: &Tenant) -> Vec<(&'static str, u64)> {
    let mut stock = Stock::default();
    for of in node.groups() {
        for index in 0..of.shards.count() {
            of.shards.with(index, |shard| {
                for (_, space) in shard.segments_of(tenant.id) {
                    stock.keys += space.len() as u64;
                    stock.bytes += space.memory_bytes() as u64;
                }
            });
        }
    }
    let look = look(node, tenant, stock);
    FIGURES.iter().map(move |figure| (figure.name, (figure.of)(&look))).collect()
}

fn look<'a>(node: &Node, tenant: &'a Tenant, stock: Stock) -> Look<'a> {
    let scripts = node.scripts.sizes_of(&Owner::Tenant(tenant.id.0));
    Look {
        tenant,
        stock,
        usage: tenant.account.usage(),
        held: tenant.account.holdings.held(),
        script_bytes: (scripts.scripts_state_bytes + scripts.functions_state_bytes) as u64,
    }
}

/// What is in the shards of this node, by tenant: all of it, and what it serves. Each shard is looked at once, however many
/// tenants there are.
fn stocks(node: &Node) -> HashMap<TenantId, (Stock, Stock)> {
    let mut stocks: HashMap<TenantId, (Stock, Stock)> = HashMap::new();
    for of in node.groups() {
        let serves = of.views.load().1.is_primary();
        for index in 0..of.shards.count() {
            of.shards.with(index, |shard| {
                for (id, space) in shard.spaces() {
                    let (all, served) = stocks.entry(id.tenant).or_default();
                    let (keys, bytes) = (space.len() as u64, space.memory_bytes() as u64);
                    all.keys += keys;
                    all.bytes += bytes;
                    served.keys += if serves { keys } else { 0 };
                    served.bytes += if serves { bytes } else { 0 };
                }
            });
        }
    }
    stocks
}

/// What this tenant uses here; with an empty name, what each does.
pub fn here(node: &Node, wanted: &str) -> pb::GetTenantStatsResponse {
    let (_, view) = node.views.load();
    let (tenancy, default) = (&view.tenancy, node.live.hot().eviction.policy);
    let stocks = stocks(node);
    let of = |tenant: &Tenant| {
        let (all, served) = stocks.get(&tenant.id).copied().unwrap_or_default();
        let look = look(node, tenant, all);
        pb::TenantStats {
            tenant: tenant.name.clone(),
            eviction: tenancy.policy_of(tenant.id, default).name().to_owned(),
            figures: FIGURES.iter().map(|figure| (figure.of)(&look)).collect(),
            served_keys: served.keys,
            served_bytes: served.bytes,
            ..pb::TenantStats::default()
        }
    };
    let tenants = tenancy.iter().filter(|tenant| wanted.is_empty() || tenant.name == wanted);
    pb::GetTenantStatsResponse {
        names: FIGURES.iter().map(|figure| figure.name.to_owned()).collect(),
        nodes: tenants.map(|tenant| of(tenant)).collect(),
        ..pb::GetTenantStatsResponse::default()
    }
}

/// What all nodes said, and all of it together.
pub fn merged(answered: Vec<Answered>) -> pb::GetTenantStatsResponse {
    let silent = silent(&answered);
    let mut nodes: Vec<pb::TenantStats> = Vec::new();
    for Answered { node, name, answer } in answered {
        let Ok(Answer::TenantStats(told)) = answer else { continue };
        // Another version may tell others, or in another order.
        let place = |figure: &Figure| told.names.iter().position(|name| name == figure.name);
        let places: Vec<Option<usize>> = FIGURES.iter().map(place).collect();
        let known = |figures: &[u64]| {
            let figure = |at: &Option<usize>| at.and_then(|at| figures.get(at)).copied().unwrap_or(0);
            places.iter().map(figure).collect()
        };
        nodes.extend(told.nodes.into_iter().map(|of| pb::TenantStats {
            node: node.0,
            node_name: name.clone(),
            figures: known(&of.figures),
            ..of
        }));
    }
    nodes.sort_by(|a, b| (&a.tenant, a.node).cmp(&(&b.tenant, b.node)));
    let mut by_tenant: BTreeMap<&str, Vec<&pb::TenantStats>> = BTreeMap::new();
    nodes.iter().for_each(|of| by_tenant.entry(&of.tenant).or_default().push(of));
    let cluster = by_tenant.values().map(|of| together(of)).collect();
    let names = FIGURES.iter().map(|figure| figure.name.to_owned()).collect();
    pb::GetTenantStatsResponse { names, nodes, cluster, silent }
}

/// One tenant on all nodes, of which there is one at least. `figures` are those of [`FIGURES`].
fn together(nodes: &[&pb::TenantStats]) -> pb::TenantStats {
    let sum = |of: &dyn Fn(&pb::TenantStats) -> u64| nodes.iter().fold(0u64, |sum, node| sum.saturating_add(of(node)));
    let (served_keys, served_bytes) = (sum(&|node| node.served_keys), sum(&|node| node.served_bytes));
    let sum_of = |at: usize| sum(&|node| node.figures[at]);
    let forwarded = FIGURES.iter().position(|figure| figure.name == FORWARDED).map_or(0, sum_of);
    let whole = |(at, figure): (usize, &Figure)| match figure.together {
        Together::Sum => sum_of(at),
        Together::RunOnce => sum_of(at).saturating_sub(forwarded),
        Together::ServedKeys => served_keys,
        Together::ServedBytes => served_bytes,
        Together::Agreed => nodes.iter().map(|node| node.figures[at]).max().unwrap_or(0),
    };
    pb::TenantStats {
        tenant: nodes[0].tenant.clone(),
        eviction: nodes[0].eviction.clone(),
        figures: FIGURES.iter().enumerate().map(whole).collect(),
        served_keys,
        served_bytes,
        ..pb::TenantStats::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keyward_cluster::NodeId;

    fn told(node: u64, names: &[&str], figures: &[u64], served: (u64, u64)) -> Answered {
        let of = pb::TenantStats {
            tenant: "gw".to_owned(),
            eviction: "noeviction".to_owned(),
            figures: figures.to_vec(),
            served_keys: served.0,
            served_bytes: served.1,
            ..pb::TenantStats::default()
        };
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        let answer = pb::GetTenantStatsResponse { names, nodes: vec![of], ..pb::GetTenantStatsResponse::default() };
        Answered { node: NodeId(node), name: format!("node-{node}"), answer: Ok(Answer::TenantStats(answer)) }
    }

    #[test]
    fn copies_are_counted_once_settings_are_no_sums_and_another_version_may_say_it_otherwise() {
        let merged = merged(vec![
            told(1, &["keys", "memory", "limit", "operations", "forwarded"], &[7, 700, 9, 10, 0], (7, 700)),
            told(2, &["something-new", "forwarded", "operations", "limit", "keys"], &[5, 4, 6, 9, 7], (0, 0)),
            Answered { node: NodeId(3), name: "node-3".to_owned(), answer: Err("it is gone".to_owned()) },
        ]);
        let figure = |of: &pb::TenantStats, name: &str| {
            of.figures[merged.names.iter().position(|known| known == name).expect("a figure")]
        };
        assert_eq!(merged.nodes.len(), 2);
        assert_eq!((figure(&merged.nodes[1], "keys"), figure(&merged.nodes[1], "memory")), (7, 0));
        let all = &merged.cluster[0];
        assert_eq!((figure(all, "keys"), figure(all, "memory"), figure(all, "limit")), (7, 700, 9));
        assert_eq!((figure(all, "operations"), figure(all, "forwarded")), (12, 4), "10 and 6, of which 4 are the same");
        assert_eq!(merged.silent[0].node_name, "node-3");
    }
}
