//! `MEMORY STATS`, `DOCTOR` and `MALLOC-STATS`: where the memory of this node is.

use crate::info::resident_bytes;
use crate::node::Node;
use keyward_engine::asks::MemoryAsk;
use keyward_engine::keyspace::TenantId;
use keyward_engine::reply::Reply;
use keyward_engine::scope::Reach;
use std::collections::BTreeMap;

/// Below this nothing is worth advice, in bytes.
const EMPTY_BYTES: u64 = 5 << 20;

/// Answers.
pub fn show(node: &Node, ask: MemoryAsk, tenant: TenantId, reach: &Reach, reply: &mut Reply) {
    match ask {
        MemoryAsk::Statistics if reach.is_confined() => own_statistics(node, tenant, reach, reply),
        MemoryAsk::Statistics => statistics(node, reply),
        MemoryAsk::Advice => reply.verbatim(advice(node).as_bytes()),
        MemoryAsk::Allocator => {
            let text = format!(
                "jemalloc serves this process: {} bytes of data, {} bytes resident.\n",
                node.memory_bytes(),
                resident_bytes()
            );
            reply.verbatim(text.as_bytes());
        }
    }
}

/// What the keys of a confined user take; everything else belongs to all.
fn own_statistics(node: &Node, tenant: TenantId, reach: &Reach, reply: &mut Reply) {
    let (keys, bytes) = node
        .shards
        .owned(tenant, reach)
        .values()
        .fold((0, 0), |(keys, bytes), of| (keys + of.keys as i64, bytes + of.bytes as i64));
    reply.map(3);
    for (name, number) in
        [("keys.count", keys), ("keys.bytes-per-key", bytes.checked_div(keys).unwrap_or(0)), ("dataset.bytes", bytes)]
    {
        reply.bulk(name.as_bytes());
        reply.integer(number);
    }
}

fn statistics(node: &Node, reply: &mut Reply) {
    let (used, resident) = (node.memory_bytes(), resident_bytes());
    let mut databases: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
    for index in 0..node.shards.count() {
        node.shards.with(index, |shard| {
            for (space, keys) in shard.spaces().filter(|(_, keys)| !keys.is_empty()) {
                let (count, bytes) = databases.entry(space.database).or_default();
                *count += keys.len() as u64;
                *bytes += keys.memory_bytes() as u64;
            }
        });
    }
    let keys: u64 = databases.values().map(|(count, _)| count).sum();
    let numbers = [
        ("peak.allocated", node.memory_peak_bytes()),
        ("total.allocated", used),
        ("startup.allocated", 0),
        ("replication.backlog", 0),
        ("clients.slaves", 0),
        ("clients.normal", 0),
        ("cluster.links", 0),
        ("aof.buffer", 0),
        ("lua.caches", 0),
        ("functions.caches", 0),
    ];
    let after = [
        ("overhead.total", 0),
        ("keys.count", keys),
        ("keys.bytes-per-key", used.checked_div(keys).unwrap_or(0)),
        ("dataset.bytes", used),
        ("allocator.resident", resident),
    ];
    let ratio = if used > 0 { resident as f64 / used as f64 } else { 1.0 };
    reply.map(numbers.len() + databases.len() + after.len() + 2);
    let write = |numbers: &[(&str, u64)], reply: &mut Reply| {
        for (name, number) in numbers {
            reply.bulk(name.as_bytes());
            reply.integer(*number as i64);
        }
    };
    write(&numbers, reply);
    for (database, (_, bytes)) in databases {
        reply.bulk(format!("db.{database}").as_bytes());
        reply.map(2);
        write(&[("overhead.hashtable.main", bytes), ("overhead.hashtable.expires", 0)], reply);
    }
    write(&after, reply);
    reply.bulk(b"dataset.percentage");
    reply.double(100.0);
    reply.bulk(b"fragmentation");
    reply.double((ratio * 100.0).round() / 100.0);
}

fn advice(node: &Node) -> String {
    let (used, resident) = (node.memory_bytes(), resident_bytes());
    let limit = node.live.hot().memory_bytes_max;
    if used < EMPTY_BYTES {
        return "There is too little data to say anything about memory.\n".to_owned();
    }
    let mut out = String::new();
    if limit > 0 && used * 10 > limit * 9 {
        out.push_str("- More than nine tenths of maxmemory are in use.\n");
    }
    if resident > used * 2 {
        out.push_str("- The process holds more than twice what the data needs; MEMORY PURGE gives free memory back.\n");
    }
    if out.is_empty() { "Nothing about memory looks wrong.\n".to_owned() } else { out }
}
