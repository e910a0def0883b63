//! `MEMORY STATS`, `DOCTOR` and `MALLOC-STATS`: where the memory of this node is; for whoever is confined, where its own is, and
//! nothing of the node.

use crate::info::{human, resident_bytes};
use crate::node::Node;
use crate::own_info;
use keyward_engine::asks::MemoryAsk;
use keyward_engine::eviction::Policy;
use keyward_engine::keyspace::{Shard, TenantId};
use keyward_engine::reply::Reply;
use keyward_engine::scope::Reach;
use keyward_engine::session::Session;
use std::collections::BTreeMap;

/// Below this nothing is worth advice, in bytes.
const EMPTY_BYTES: u64 = 5 << 20;

/// Answers. `evicted`: keys that the tenant lost for want of memory, as the node says that serves the data.
pub fn show(node: &Node, ask: MemoryAsk, (session, evicted): (&Session, u64), reach: &Reach, reply: &mut Reply) {
    let tenant = session.tenant;
    match ask {
        MemoryAsk::Advice if reach.is_confined() => {
            reply.verbatim(own_advice(node, session, evicted, reach).as_bytes());
        }
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

/// What may be wrong with the memory of a tenant, or of a confined user without one.
fn own_advice(node: &Node, session: &Session, evicted: u64, reach: &Reach) -> String {
    let Some(login) = &session.login else { return String::new() };
    let held = login.accounts().next().map(|(_, account)| account.holdings.held()).unwrap_or_default();
    let mut advice = Vec::new();
    let (mut first, used) = match login.tenant.as_deref() {
        Some(tenant) => {
            let (used, of) = (tenant.gauge.bytes(), &tenant.limits);
            let (policy, expiring) = (own_info::policy(tenant, &node.live.hot()), expiring(node, tenant.id));
            let bound = |most: u64| if most > 0 { human(most) } else { "none".to_owned() };
            let first = format!(
                "tenant {}: {} keys take {}; limit {}, reserve {}, policy {}, {evicted} keys evicted.\n",
                tenant.name,
                tenant.gauge.keys(),
                human(used),
                bound(of.limit),
                bound(of.reserve),
                policy.name(),
            );
            if of.limit > 0 && used > of.limit / 10 * 9 {
                let then = if policy == Policy::NoEviction { "writes are refused" } else { "keys are evicted" };
                advice.push(format!("More than nine tenths of its limit are in use; beyond it {then}."));
            }
            if of.keys > 0 && tenant.gauge.keys() > of.keys / 10 * 9 {
                advice.push("It has more than nine tenths of the keys it may have.".to_owned());
            }
            if evicted > 0 {
                advice.push(format!(
                    "{evicted} keys were evicted: a larger limit, or shorter lives of keys, would keep others."
                ));
            }
            if of.reserve > 0 && used > of.reserve {
                let beyond = human(used - of.reserve);
                advice.push(format!("{beyond} lie beyond its reserve: they are given back when others need theirs."));
            }
            if used >= EMPTY_BYTES && expiring == 0 {
                let kept = match policy.is_volatile() {
                    true => ", and its policy evicts only such: at its limit writes are refused",
                    false => "",
                };
                advice.push(format!("None of its keys expires{kept}."));
            }
            (first, used)
        }
        None => {
            let owned = node.shards.owned(session.tenant, reach);
            let (keys, used) = owned.values().fold((0, 0), |(keys, bytes), of| (keys + of.keys, bytes + of.bytes));
            let user = session.user_name().escape_ascii();
            (format!("user {user}: {keys} keys take {}.\n", human(used as u64)), used as u64)
        }
    };
    if held.most > 0 && held.bytes > held.most / 2 {
        let (bytes, most) = (human(held.bytes), human(held.most));
        advice.push(format!(
            "Its clients hold {bytes} besides keys, of {most} they may: answers unread, requests half sent."
        ));
    }
    if advice.is_empty() {
        first.push_str(if used < EMPTY_BYTES { TOO_LITTLE } else { NOTHING_WRONG });
    }
    advice.iter().for_each(|line| first.push_str(&format!("- {line}\n")));
    first
}

/// How many keys of a tenant expire some day.
fn expiring(node: &Node, tenant: TenantId) -> usize {
    let of = |shard: &mut Shard| -> usize {
        shard.spaces().filter(|(space, _)| space.tenant == tenant).map(|(_, keys)| keys.expiring_len()).sum()
    };
    (0..node.shards.count()).map(|index| node.shards.with(index, of)).sum()
}

const TOO_LITTLE: &str = "There is too little data to say anything about memory.\n";
const NOTHING_WRONG: &str = "Nothing about memory looks wrong.\n";

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
        return TOO_LITTLE.to_owned();
    }
    let mut out = String::new();
    if limit > 0 && used * 10 > limit * 9 {
        out.push_str("- More than nine tenths of maxmemory are in use.\n");
    }
    if resident > used * 2 {
        out.push_str("- The process holds more than twice what the data needs; MEMORY PURGE gives free memory back.\n");
    }
    if out.is_empty() { NOTHING_WRONG.to_owned() } else { out }
}
