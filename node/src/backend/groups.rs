//! What Prometheus is told about each shard group: who serves it, who has all of it, and how far its copies are. Every sample
//! carries its group's number, `group="0"` where there is but one. It knows nothing of the data itself.

use crate::http::MetricsText;
use crate::node::Node;
use std::sync::atomic::Ordering;

/// One number of a group.
type Read<T> = fn(&Node) -> T;

/// Gauges: name, help, and where the number comes from.
const GAUGES: [(&str, &str, Read<f64>); 11] = [
    ("keyward_serves_data", "1 if this node serves the group's data.", |of| truth(of.views.load().1.is_primary())),
    ("keyward_primary_node", "Who was named to serve the data; 0 is nobody.", primary),
    ("keyward_group_epoch", "Which reign this is.", |of| {
        of.views.load().1.group.as_ref().map_or(0.0, |group| group.epoch.0 as f64)
    }),
    ("keyward_replication_position_bytes", "Where the stream of effects ends here.", |of| {
        of.replication.log.position() as f64
    }),
    ("keyward_replication_epoch", "The reign in which the newest effect here was made.", |of| {
        of.replication.log.epoch().0 as f64
    }),
    ("keyward_data_whole", "0 while the data here is being copied.", |of| truth(of.replication.has_data())),
    ("keyward_replication_backlog_bytes", "How much of the stream is kept.", |of| {
        of.replication.log.len_bytes() as f64
    }),
    ("keyward_replica_silence_seconds", "Since the primary was heard from.", |of| lag(of).0 as f64 / 1000.0),
    ("keyward_replica_lag_bytes", "How far this replica is behind.", |of| lag(of).1 as f64),
    ("keyward_replicas", "Replicas that follow this primary.", |of| of.replication.replicas().len() as f64),
    ("keyward_replicas_in_sync", "Those of them that are in sync.", |of| {
        of.replication.replicas().iter().filter(|replica| replica.in_sync).count() as f64
    }),
];

/// Counters, in the same way.
const COUNTERS: [(&str, &str, Read<u64>); 3] = [
    ("keyward_full_copies_total", "Full copies that were begun for replicas.", |of| {
        of.replication.stats().full_copies.load(Ordering::Relaxed)
    }),
    ("keyward_replicas_continued_total", "Replicas that went on where they stood.", |of| {
        of.replication.stats().continued.load(Ordering::Relaxed)
    }),
    (
        "keyward_discarded_effects_bytes_total",
        "What this node wrote as primary and its successor did not have; writes acknowledged without quorum may be among it.",
        |of| of.replication.stats().discarded_bytes.load(Ordering::Relaxed),
    ),
];

/// Writes all of it.
pub(super) fn metrics(node: &Node, text: &mut MetricsText) {
    let names: Vec<String> = node.groups().iter().map(|of| of.group.0.to_string()).collect();
    let labels: Vec<[(&str, &str); 1]> = names.iter().map(|name| [("group", name.as_str())]).collect();
    let each = || node.groups().iter().zip(&labels);
    for (name, help, read) in GAUGES {
        let samples: Vec<_> = each().map(|(of, label)| (label.as_slice(), read(of))).collect();
        text.gauges(name, help, &samples);
    }
    for (name, help, read) in COUNTERS {
        let samples: Vec<_> = each().map(|(of, label)| (label.as_slice(), read(of))).collect();
        text.counters(name, help, &samples);
    }
    let lags: Vec<(&str, String, f64)> = names
        .iter()
        .zip(node.groups())
        .filter(|(_, of)| of.views.load().1.is_primary())
        .flat_map(|(name, of)| {
            let lags = of.replication.lags().into_iter();
            lags.map(|(node, ms)| (name.as_str(), node.0.to_string(), ms as f64 / 1000.0))
        })
        .collect();
    let labels: Vec<_> = lags.iter().map(|(group, node, _)| [("group", *group), ("node", node.as_str())]).collect();
    let samples: Vec<_> =
        labels.iter().zip(&lags).map(|(label, (_, _, seconds))| (label.as_slice(), *seconds)).collect();
    text.gauges(
        "keyward_replica_lag_seconds",
        "At the primary: how old the oldest write is that a node lacks.",
        &samples,
    );
    let in_sync: Vec<(&str, String)> = names
        .iter()
        .zip(node.groups())
        .flat_map(|(name, of)| {
            let group = of.views.load().1.group.clone();
            let members = group.map(|group| group.in_sync.iter().map(|member| member.node.0.to_string()).collect());
            let members: Vec<String> = members.unwrap_or_default();
            members.into_iter().map(|id| (name.as_str(), id))
        })
        .collect();
    let labels: Vec<_> = in_sync.iter().map(|(group, node)| [("group", *group), ("node", node.as_str())]).collect();
    let samples: Vec<_> = labels.iter().map(|label| (label.as_slice(), 1.0)).collect();
    text.gauges("keyward_in_sync", "The nodes that have every acknowledged write.", &samples);
}

fn truth(is: bool) -> f64 {
    f64::from(u8::from(is))
}

fn primary(of: &Node) -> f64 {
    let view = of.views.load().1;
    let member = view.group.as_ref().and_then(|group| group.primary);
    member.map_or(0.0, |member| member.node.0 as f64)
}

/// Milliseconds since the primary was heard from, and bytes behind it; nothing at the primary.
fn lag(of: &Node) -> (u64, u64) {
    if of.views.load().1.is_primary() { (0, 0) } else { of.replication.lag() }
}
