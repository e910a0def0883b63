//! The cluster as cluster clients see it.
//!
//! It refuses to know how nodes agree; it tells what the surroundings say.
//! Declarations on top, one entry per command; parsers and handlers below.

use crate::args::Args;
use crate::asks::{Ask, TakeOver};
use crate::command::{Arity, Command, Docs, Extra, Flags, Group, KeyFlags, KeyRule, KeySpec, Run};
use crate::error::CommandError;
use crate::introspect;
use crate::keyspace::EveryKey;
use crate::reply::Reply;
use crate::scope::{Of, Scope};
use crate::session::{Session, Surroundings, Topology, TopologyNode, TopologyShard};
use crate::slot;
use keyward_acl::Category;

pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "CLUSTER",
        arity: Arity::AtLeast(2),
        flags: Flags::NONE,
        group: Group::Cluster,
        keys: KeyRule::None,
        scope: Scope::Subcommands,
        run: Run::Container(CLUSTER),
        docs: Docs {
            summary: "Looks at and manages the cluster.",
            since: "3.0.0",
            complexity: "Depends on subcommand",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "CLUSTERSCAN",
        arity: Arity::AtLeast(2),
        flags: Flags::READONLY,
        group: Group::Cluster,
        keys: KeyRule::At(&[KeySpec::at(1, KeyFlags::NOT_KEY)]),
        scope: Scope::Filtered(Of::Keys),
        run: Run::OnEveryKey(super::generic::every_key::cluster_scan),
        docs: Docs {
            summary: "Walks over the keys of the whole cluster, some at a time.",
            since: "9.1.0",
            complexity: "O(N) where N is the number of elements returned",
        },
        extra: Extra {
            categories: &[Category::Keyspace],
            tips: &["nondeterministic_output", "request_policy:special", "response_policy:special"],
            ..Extra::NONE
        },
    },
    Command {
        name: "READONLY",
        arity: Arity::Exactly(1),
        flags: Flags::LOADING.and(Flags::STALE).and(Flags::FAST),
        group: Group::Cluster,
        keys: KeyRule::None,
        scope: Scope::Own,
        run: Run::OnSession(read_only),
        docs: Docs { summary: "Lets the connection read from replicas.", since: "3.0.0", complexity: "O(1)" },
        extra: Extra::categories(&[Category::Connection]),
    },
    Command {
        name: "READWRITE",
        arity: Arity::Exactly(1),
        flags: Flags::LOADING.and(Flags::STALE).and(Flags::FAST),
        group: Group::Cluster,
        keys: KeyRule::None,
        scope: Scope::Own,
        run: Run::OnSession(read_write),
        docs: Docs { summary: "Makes the connection read from primaries only.", since: "3.0.0", complexity: "O(1)" },
        extra: Extra::categories(&[Category::Connection]),
    },
    Command {
        name: "ASKING",
        arity: Arity::Exactly(1),
        flags: Flags::FAST,
        group: Group::Cluster,
        keys: KeyRule::None,
        scope: Scope::Own,
        run: Run::OnSession(asking),
        docs: Docs {
            summary: "Lets the next command use a slot that is being moved here.",
            since: "3.0.0",
            complexity: "O(1)",
        },
        extra: Extra::categories(&[Category::Connection]),
    },
];

const CLUSTER: &[Command] = &[
    Command {
        name: "INFO",
        arity: Arity::Exactly(2),
        flags: Flags::LOADING.and(Flags::STALE),
        group: Group::Cluster,
        keys: KeyRule::None,
        scope: Scope::Public,
        run: Run::OnSession(info),
        docs: Docs { summary: "Tells how the cluster is doing.", since: "3.0.0", complexity: "O(1)" },
        extra: Extra { tips: &["nondeterministic_output"], ..Extra::NONE },
    },
    Command {
        name: "NODES",
        arity: Arity::Exactly(2),
        flags: Flags::LOADING.and(Flags::STALE),
        group: Group::Cluster,
        keys: KeyRule::None,
        scope: Scope::Public,
        run: Run::OnSession(nodes),
        docs: Docs { summary: "Lists the nodes as text.", since: "3.0.0", complexity: "O(N)" },
        extra: Extra { tips: &["nondeterministic_output"], ..Extra::NONE },
    },
    Command {
        name: "SLOTS",
        arity: Arity::Exactly(2),
        flags: Flags::LOADING.and(Flags::STALE),
        group: Group::Cluster,
        keys: KeyRule::None,
        scope: Scope::Public,
        run: Run::OnSession(slots),
        docs: Docs {
            summary: "Lists which nodes serve which slots.",
            since: "3.0.0",
            complexity: "O(N) where N is the total number of Cluster nodes",
        },
        extra: Extra { tips: &["nondeterministic_output"], ..Extra::NONE },
    },
    Command {
        name: "SHARDS",
        arity: Arity::Exactly(2),
        flags: Flags::LOADING.and(Flags::STALE),
        group: Group::Cluster,
        keys: KeyRule::None,
        scope: Scope::Public,
        run: Run::OnSession(shards),
        docs: Docs {
            summary: "Lists the shards with their slots and nodes.",
            since: "7.0.0",
            complexity: "O(N) where N is the total number of cluster nodes",
        },
        extra: Extra { tips: &["nondeterministic_output"], ..Extra::NONE },
    },
    Command {
        name: "MYID",
        arity: Arity::Exactly(2),
        flags: Flags::LOADING.and(Flags::STALE),
        group: Group::Cluster,
        keys: KeyRule::None,
        scope: Scope::Public,
        run: Run::OnSession(my_id),
        docs: Docs { summary: "Returns the id of the node.", since: "3.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "MYSHARDID",
        arity: Arity::Exactly(2),
        flags: Flags::LOADING.and(Flags::STALE),
        group: Group::Cluster,
        keys: KeyRule::None,
        scope: Scope::Public,
        run: Run::OnSession(my_shard_id),
        docs: Docs { summary: "Returns the id of the node's shard.", since: "7.2.0", complexity: "O(1)" },
        extra: Extra { tips: &["nondeterministic_output"], ..Extra::NONE },
    },
    Command {
        name: "KEYSLOT",
        arity: Arity::Exactly(3),
        flags: Flags::STALE,
        group: Group::Cluster,
        keys: KeyRule::None,
        scope: Scope::Public,
        run: Run::OnSession(key_slot),
        docs: Docs { summary: "Returns the slot of a key.", since: "3.0.0", complexity: "O(N)" },
        extra: Extra::NONE,
    },
    Command {
        name: "COUNTKEYSINSLOT",
        arity: Arity::Exactly(3),
        flags: Flags::STALE,
        group: Group::Cluster,
        keys: KeyRule::None,
        scope: Scope::Filtered(Of::Keys),
        run: Run::OnEveryKey(count_keys_in_slot),
        docs: Docs { summary: "Counts the keys of a slot.", since: "3.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "GETKEYSINSLOT",
        arity: Arity::Exactly(4),
        flags: Flags::STALE,
        group: Group::Cluster,
        keys: KeyRule::None,
        scope: Scope::Filtered(Of::Keys),
        run: Run::OnEveryKey(get_keys_in_slot),
        docs: Docs { summary: "Lists keys of a slot.", since: "3.0.0", complexity: "O(N)" },
        extra: Extra { tips: &["nondeterministic_output"], ..Extra::NONE },
    },
    Command {
        name: "LINKS",
        arity: Arity::Exactly(2),
        flags: Flags::STALE,
        group: Group::Cluster,
        keys: KeyRule::None,
        scope: Scope::Ceiling,
        run: Run::Ask(|_, _, _| Ok(Ask::ShowLinks)),
        docs: Docs {
            summary: "Lists the links to other nodes.",
            since: "7.0.0",
            complexity: "O(N) where N is the total number of Cluster nodes",
        },
        extra: Extra { tips: &["nondeterministic_output"], ..Extra::NONE },
    },
    Command {
        name: "REPLICAS",
        arity: Arity::Exactly(3),
        flags: Flags::ADMIN.and(Flags::STALE),
        group: Group::Cluster,
        keys: KeyRule::None,
        scope: Scope::Public,
        run: Run::OnSession(replicas),
        docs: Docs { summary: "Lists the replicas of a node.", since: "5.0.0", complexity: "O(N)" },
        extra: Extra { tips: &["nondeterministic_output"], ..Extra::NONE },
    },
    Command {
        name: "SLAVES",
        arity: Arity::Exactly(3),
        flags: Flags::ADMIN.and(Flags::STALE),
        group: Group::Cluster,
        keys: KeyRule::None,
        scope: Scope::Public,
        run: Run::OnSession(replicas),
        docs: Docs {
            summary: "Lists the replicas of a node, under its old name.",
            since: "3.0.0",
            complexity: "O(N) where N is the number of replicas",
        },
        extra: Extra { tips: &["nondeterministic_output"], ..Extra::NONE },
    },
    Command {
        name: "SLOT-STATS",
        arity: Arity::AtLeast(4),
        flags: Flags::LOADING.and(Flags::STALE),
        group: Group::Cluster,
        keys: KeyRule::None,
        scope: Scope::Ceiling,
        run: Run::Refused("statistics by slot are not served by this version yet"),
        docs: Docs { summary: "Tells how much slots are used.", since: "8.0.0", complexity: "O(N)" },
        extra: Extra { tips: &["nondeterministic_output", "request_policy:all_shards"], ..Extra::NONE },
    },
    Command {
        name: "COUNT-FAILURE-REPORTS",
        arity: Arity::Exactly(3),
        flags: Flags::ADMIN.and(Flags::STALE),
        group: Group::Cluster,
        keys: KeyRule::None,
        scope: Scope::Ceiling,
        run: Run::OnSession(count_failure_reports),
        docs: Docs {
            summary: "Counts the reports that a node failed.",
            since: "3.0.0",
            complexity: "O(N) where N is the number of failure reports",
        },
        extra: Extra { tips: &["nondeterministic_output"], ..Extra::NONE },
    },
    Command {
        name: "FAILOVER",
        arity: Arity::AtLeast(2),
        flags: Flags::ADMIN.and(Flags::STALE).and(Flags::NO_ASYNC_LOADING),
        group: Group::Cluster,
        keys: KeyRule::None,
        scope: Scope::Ceiling,
        run: Run::Ask(failover),
        docs: Docs { summary: "Makes a replica take over from its primary.", since: "3.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "MEET",
        arity: Arity::AtLeast(4),
        flags: Flags::ADMIN.and(Flags::STALE).and(Flags::NO_ASYNC_LOADING),
        group: Group::Cluster,
        keys: KeyRule::None,
        scope: Scope::Ceiling,
        run: Run::Refused("the cluster keeps its own layout; use keywardctl node add and keywardctl node remove"),
        docs: Docs { summary: "Introduces a node to the cluster.", since: "3.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "FORGET",
        arity: Arity::Exactly(3),
        flags: Flags::ADMIN.and(Flags::STALE).and(Flags::NO_ASYNC_LOADING),
        group: Group::Cluster,
        keys: KeyRule::None,
        scope: Scope::Ceiling,
        run: Run::Refused("the cluster keeps its own layout; use keywardctl node add and keywardctl node remove"),
        docs: Docs { summary: "Removes a node from the cluster.", since: "3.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "REPLICATE",
        arity: Arity::AtLeast(3),
        flags: Flags::ADMIN.and(Flags::STALE).and(Flags::NO_ASYNC_LOADING),
        group: Group::Cluster,
        keys: KeyRule::None,
        scope: Scope::Ceiling,
        run: Run::Refused("the cluster keeps its own layout; use keywardctl node add and keywardctl node remove"),
        docs: Docs { summary: "Makes the node a replica of another.", since: "3.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "RESET",
        arity: Arity::AtLeast(2),
        flags: Flags::ADMIN.and(Flags::NOSCRIPT).and(Flags::STALE),
        group: Group::Cluster,
        keys: KeyRule::None,
        scope: Scope::Ceiling,
        run: Run::Refused("the cluster keeps its own layout; use keywardctl node add and keywardctl node remove"),
        docs: Docs { summary: "Takes the node out of its cluster.", since: "3.0.0", complexity: "O(N)" },
        extra: Extra::NONE,
    },
    Command {
        name: "ADDSLOTS",
        arity: Arity::AtLeast(3),
        flags: Flags::ADMIN.and(Flags::STALE).and(Flags::NO_ASYNC_LOADING),
        group: Group::Cluster,
        keys: KeyRule::None,
        scope: Scope::Ceiling,
        run: Run::Refused("slots are placed by the cluster itself; keywardctl status shows where"),
        docs: Docs { summary: "Gives slots to the node.", since: "3.0.0", complexity: "O(N)" },
        extra: Extra::NONE,
    },
    Command {
        name: "ADDSLOTSRANGE",
        arity: Arity::AtLeast(4),
        flags: Flags::ADMIN.and(Flags::STALE).and(Flags::NO_ASYNC_LOADING),
        group: Group::Cluster,
        keys: KeyRule::None,
        scope: Scope::Ceiling,
        run: Run::Refused("slots are placed by the cluster itself; keywardctl status shows where"),
        docs: Docs { summary: "Gives ranges of slots to the node.", since: "7.0.0", complexity: "O(N)" },
        extra: Extra::NONE,
    },
    Command {
        name: "DELSLOTS",
        arity: Arity::AtLeast(3),
        flags: Flags::ADMIN.and(Flags::STALE).and(Flags::NO_ASYNC_LOADING),
        group: Group::Cluster,
        keys: KeyRule::None,
        scope: Scope::Ceiling,
        run: Run::Refused("slots are placed by the cluster itself; keywardctl status shows where"),
        docs: Docs { summary: "Takes slots from the node.", since: "3.0.0", complexity: "O(N)" },
        extra: Extra::NONE,
    },
    Command {
        name: "DELSLOTSRANGE",
        arity: Arity::AtLeast(4),
        flags: Flags::ADMIN.and(Flags::STALE).and(Flags::NO_ASYNC_LOADING),
        group: Group::Cluster,
        keys: KeyRule::None,
        scope: Scope::Ceiling,
        run: Run::Refused("slots are placed by the cluster itself; keywardctl status shows where"),
        docs: Docs { summary: "Takes ranges of slots from the node.", since: "7.0.0", complexity: "O(N)" },
        extra: Extra::NONE,
    },
    Command {
        name: "FLUSHSLOT",
        arity: Arity::AtLeast(3),
        flags: Flags::WRITE.and(Flags::ADMIN).and(Flags::NO_ASYNC_LOADING),
        group: Group::Cluster,
        keys: KeyRule::None,
        scope: Scope::Ceiling,
        run: Run::Refused("slots cannot be emptied one by one; use FLUSHALL"),
        docs: Docs { summary: "Deletes all keys of a slot.", since: "9.0.0", complexity: "O(N)" },
        extra: Extra::categories(&[Category::Keyspace]),
    },
    Command {
        name: "FLUSHSLOTS",
        arity: Arity::Exactly(2),
        flags: Flags::ADMIN.and(Flags::STALE).and(Flags::NO_ASYNC_LOADING),
        group: Group::Cluster,
        keys: KeyRule::None,
        scope: Scope::Ceiling,
        run: Run::Refused("slots are placed by the cluster itself; keywardctl status shows where"),
        docs: Docs { summary: "Takes all slots from the node.", since: "3.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "SETSLOT",
        arity: Arity::AtLeast(4),
        flags: Flags::ADMIN.and(Flags::STALE).and(Flags::NO_ASYNC_LOADING),
        group: Group::Cluster,
        keys: KeyRule::None,
        scope: Scope::Ceiling,
        run: Run::Refused("slots are placed by the cluster itself; keywardctl status shows where"),
        docs: Docs { summary: "Changes who serves a slot.", since: "3.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "MIGRATESLOTS",
        arity: Arity::AtLeast(4),
        flags: Flags::ADMIN.and(Flags::STALE).and(Flags::NO_ASYNC_LOADING),
        group: Group::Cluster,
        keys: KeyRule::None,
        scope: Scope::Ceiling,
        run: Run::Refused("slots are placed by the cluster itself; keywardctl status shows where"),
        docs: Docs { summary: "Moves slots to another node.", since: "9.0.0", complexity: "O(N)" },
        extra: Extra::NONE,
    },
    Command {
        name: "GETSLOTMIGRATIONS",
        arity: Arity::Exactly(2),
        flags: Flags::ADMIN.and(Flags::STALE).and(Flags::NO_ASYNC_LOADING),
        group: Group::Cluster,
        keys: KeyRule::None,
        scope: Scope::Ceiling,
        run: Run::Refused("slots are placed by the cluster itself; keywardctl status shows where"),
        docs: Docs { summary: "Lists the moves of slots.", since: "9.0.0", complexity: "O(N)" },
        extra: Extra::NONE,
    },
    Command {
        name: "CANCELSLOTMIGRATIONS",
        arity: Arity::Exactly(2),
        flags: Flags::ADMIN.and(Flags::STALE).and(Flags::NO_ASYNC_LOADING),
        group: Group::Cluster,
        keys: KeyRule::None,
        scope: Scope::Ceiling,
        run: Run::Refused("slots are placed by the cluster itself; keywardctl status shows where"),
        docs: Docs { summary: "Cancels the moves of slots.", since: "9.0.0", complexity: "O(N)" },
        extra: Extra::NONE,
    },
    Command {
        name: "SYNCSLOTS",
        arity: Arity::AtLeast(3),
        flags: Flags::ADMIN.and(Flags::STALE).and(Flags::NO_ASYNC_LOADING),
        group: Group::Cluster,
        keys: KeyRule::None,
        scope: Scope::Ceiling,
        run: Run::Refused("slots are placed by the cluster itself; keywardctl status shows where"),
        docs: Docs {
            summary: "Carries the moves of slots, between nodes.",
            since: "9.0.0",
            complexity: "Depends on subcommand",
        },
        extra: Extra::NONE,
    },
    Command {
        name: "BUMPEPOCH",
        arity: Arity::Exactly(2),
        flags: Flags::ADMIN.and(Flags::STALE).and(Flags::NO_ASYNC_LOADING),
        group: Group::Cluster,
        keys: KeyRule::None,
        scope: Scope::Ceiling,
        run: Run::Refused("epochs are agreed on by the cluster itself"),
        docs: Docs { summary: "Raises the epoch of the cluster.", since: "3.0.0", complexity: "O(1)" },
        extra: Extra { tips: &["nondeterministic_output"], ..Extra::NONE },
    },
    Command {
        name: "SET-CONFIG-EPOCH",
        arity: Arity::Exactly(3),
        flags: Flags::ADMIN.and(Flags::STALE).and(Flags::NO_ASYNC_LOADING),
        group: Group::Cluster,
        keys: KeyRule::None,
        scope: Scope::Ceiling,
        run: Run::Refused("epochs are agreed on by the cluster itself"),
        docs: Docs { summary: "Sets the epoch of a new node.", since: "3.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "SAVECONFIG",
        arity: Arity::Exactly(2),
        flags: Flags::ADMIN.and(Flags::STALE).and(Flags::NO_ASYNC_LOADING),
        group: Group::Cluster,
        keys: KeyRule::None,
        scope: Scope::Ceiling,
        run: Run::Refused("the state of the cluster is always on disk"),
        docs: Docs { summary: "Writes the cluster's state to disk.", since: "3.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
    Command {
        name: "HELP",
        arity: Arity::Exactly(2),
        flags: Flags::LOADING.and(Flags::STALE),
        group: Group::Cluster,
        keys: KeyRule::None,
        scope: Scope::Public,
        run: Run::OnSession(introspect::help),
        docs: Docs { summary: "Lists the subcommands of CLUSTER.", since: "5.0.0", complexity: "O(1)" },
        extra: Extra::NONE,
    },
];

/// Replicas answer this connection's reads, where they have every acknowledged write.
fn read_only(session: &mut Session, _: &Surroundings<'_>, _: Args<'_>, reply: &mut Reply) -> Result<(), CommandError> {
    session.readonly = true;
    reply.ok();
    Ok(())
}

fn read_write(session: &mut Session, _: &Surroundings<'_>, _: Args<'_>, reply: &mut Reply) -> Result<(), CommandError> {
    session.readonly = false;
    reply.ok();
    Ok(())
}

/// No slot is ever between two nodes, so the promise needs nothing.
fn asking(_: &mut Session, _: &Surroundings<'_>, _: Args<'_>, reply: &mut Reply) -> Result<(), CommandError> {
    reply.ok();
    Ok(())
}

fn info(_: &mut Session, surroundings: &Surroundings<'_>, _: Args<'_>, reply: &mut Reply) -> Result<(), CommandError> {
    let topology = surroundings.topology;
    let size = |shard: &TopologyShard| shard.slots.iter().map(|(first, last)| u32::from(last - first) + 1).sum::<u32>();
    let slots: u32 = topology.shards.iter().filter(|shard| shard.primary.is_some()).map(size).sum();
    let serves = surroundings.serves && slots == u32::from(slot::SLOTS);
    let state = if serves { "ok" } else { "fail" };
    let me = topology.nodes.iter().find(|node| node.myself);
    let mine = me.and_then(|me| topology.served_by(me).map(|shard| shard.epoch).max());
    let text = format!(
        "cluster_state:{state}\r\ncluster_slots_assigned:{assigned}\r\ncluster_slots_ok:{slots}\r\n\
         cluster_slots_pfail:0\r\ncluster_slots_fail:{fail}\r\ncluster_known_nodes:{nodes}\r\ncluster_size:{size}\r\n\
         cluster_current_epoch:{epoch}\r\ncluster_my_epoch:{mine}\r\ncluster_stats_messages_sent:0\r\n\
         cluster_stats_messages_received:0\r\ntotal_cluster_links_buffer_limit_exceeded:0\r\ncluster_enabled:1\r\n",
        assigned = slot::SLOTS,
        fail = u32::from(slot::SLOTS) - slots,
        nodes = topology.nodes.len(),
        size = topology.nodes.iter().filter(|node| node.primary).count().max(1),
        epoch = topology.epoch(),
        mine = mine.unwrap_or(topology.epoch()),
    );
    reply.verbatim(text.as_bytes());
    Ok(())
}

/// Nodes that serve data first, then those with a copy, then the others.
fn in_order(topology: &Topology) -> Vec<&TopologyNode> {
    let mut nodes: Vec<&TopologyNode> = topology.nodes.iter().collect();
    nodes.sort_by_key(|node| (!node.primary, !node.in_sync));
    nodes
}

/// The nodes of one shard group, its primary first. To a cluster client a node is a primary or a replica: one that serves
/// another group is not shown with its copy of this one.
fn nodes_of<'t>(topology: &'t Topology, shard: &TopologyShard) -> Vec<&'t TopologyNode> {
    let primary = topology.primary_of_shard(shard);
    let others = in_order(topology).into_iter().filter(|node| !node.primary);
    primary.into_iter().chain(others).collect()
}

fn nodes_line(node: &TopologyNode, topology: &Topology) -> String {
    let mut flags = Vec::new();
    flags.extend(node.myself.then_some("myself"));
    flags.push(if node.primary { "master" } else { "slave" });
    let reached = node.primary || node.in_sync || node.myself;
    flags.extend((!reached).then_some("fail"));
    let first = topology.shards.iter().find_map(|shard| topology.primary_of_shard(shard));
    let master = first.filter(|_| !node.primary).map_or("-", |primary| &primary.id);
    let link = if reached { "connected" } else { "disconnected" };
    let range = |(first, last): &(u16, u16)| match first == last {
        true => format!(" {first}"),
        false => format!(" {first}-{last}"),
    };
    let slots: String = topology.served_by(node).flat_map(|shard| &shard.slots).map(range).collect();
    let epoch = topology.served_by(node).map(|shard| shard.epoch).max().unwrap_or(topology.epoch());
    let TopologyNode { id, host, port, bus_port, .. } = node;
    format!("{id} {host}:{port}@{bus_port} {} {master} 0 0 {epoch} {link}{slots}", flags.join(","))
}

fn nodes(_: &mut Session, surroundings: &Surroundings<'_>, _: Args<'_>, reply: &mut Reply) -> Result<(), CommandError> {
    let topology = surroundings.topology;
    let lines: String = in_order(topology).iter().map(|node| nodes_line(node, topology) + "\n").collect();
    reply.verbatim(lines.as_bytes());
    Ok(())
}

fn slots(_: &mut Session, surroundings: &Surroundings<'_>, _: Args<'_>, reply: &mut Reply) -> Result<(), CommandError> {
    let topology = surroundings.topology;
    let served = topology.shards.iter().filter(|shard| shard.primary.is_some());
    let mut ranges: Vec<(&(u16, u16), &TopologyShard)> =
        served.flat_map(|shard| shard.slots.iter().map(move |range| (range, shard))).collect();
    ranges.sort_unstable_by_key(|(range, _)| **range);
    reply.array(ranges.len());
    for ((first, last), shard) in ranges {
        let nodes: Vec<&TopologyNode> =
            nodes_of(topology, shard).into_iter().filter(|node| node.primary || node.in_sync).collect();
        reply.array(2 + nodes.len());
        reply.integer(i64::from(*first));
        reply.integer(i64::from(*last));
        for node in nodes {
            reply.array(4);
            reply.bulk(node.host.as_bytes());
            reply.integer(i64::from(node.port));
            reply.bulk(node.id.as_bytes());
            reply.array(0);
        }
    }
    Ok(())
}

fn shards(
    _: &mut Session,
    surroundings: &Surroundings<'_>,
    _: Args<'_>,
    reply: &mut Reply,
) -> Result<(), CommandError> {
    let topology = surroundings.topology;
    reply.array(topology.shards.len());
    for shard in &topology.shards {
        let nodes = nodes_of(topology, shard);
        reply.map(2);
        reply.bulk(b"slots");
        reply.array(2 * shard.slots.len());
        for (first, last) in &shard.slots {
            reply.integer(i64::from(*first));
            reply.integer(i64::from(*last));
        }
        reply.bulk(b"nodes");
        reply.array(nodes.len());
        for node in nodes {
            reply.map(7);
            for (name, value) in [("id", &node.id), ("ip", &node.host), ("endpoint", &node.host)] {
                reply.bulk(name.as_bytes());
                reply.bulk(value.as_bytes());
            }
            reply.bulk(b"port");
            reply.integer(i64::from(node.port));
            reply.bulk(b"role");
            reply.bulk(if node.primary { b"master" } else { b"replica" });
            reply.bulk(b"replication-offset");
            // It would tell a confined user how much others write.
            let told = (node.primary || node.in_sync) && !surroundings.reach.is_confined();
            reply.integer(if told { surroundings.position as i64 } else { 0 });
            reply.bulk(b"health");
            reply.bulk(if node.primary || node.in_sync { b"online" } else { b"failed" });
        }
    }
    Ok(())
}

fn my_id(_: &mut Session, surroundings: &Surroundings<'_>, _: Args<'_>, reply: &mut Reply) -> Result<(), CommandError> {
    let me = surroundings.topology.nodes.iter().find(|node| node.myself);
    reply.bulk(me.map_or("", |node| &node.id).as_bytes());
    Ok(())
}

fn my_shard_id(
    _: &mut Session,
    surroundings: &Surroundings<'_>,
    _: Args<'_>,
    reply: &mut Reply,
) -> Result<(), CommandError> {
    let topology = surroundings.topology;
    let me = topology.nodes.iter().find(|node| node.myself);
    let mine = me.and_then(|me| topology.served_by(me).next()).or(topology.shards.first());
    reply.bulk(mine.map_or("", |shard| &shard.id).as_bytes());
    Ok(())
}

fn key_slot(_: &mut Session, _: &Surroundings<'_>, mut args: Args<'_>, reply: &mut Reply) -> Result<(), CommandError> {
    reply.integer(i64::from(slot::of_key(args.take()?)));
    Ok(())
}

fn parse_slot(args: &mut Args<'_>) -> Result<u16, CommandError> {
    let slot = u16::try_from(args.integer()?).ok().filter(|slot| *slot < slot::SLOTS);
    slot.ok_or_else(|| CommandError::err("Invalid slot"))
}

fn count_keys_in_slot(every: &mut dyn EveryKey, mut args: Args<'_>, reply: &mut Reply) -> Result<(), CommandError> {
    let wanted = parse_slot(&mut args)?;
    let mut count = 0;
    for index in 0..every.shard_count() {
        every.with_shard(index, &mut |keys| {
            keys.for_each(&mut |entry| count += usize::from(slot::of_key(entry.key()) == wanted));
        });
    }
    reply.count(count);
    Ok(())
}

fn get_keys_in_slot(every: &mut dyn EveryKey, mut args: Args<'_>, reply: &mut Reply) -> Result<(), CommandError> {
    let wanted = parse_slot(&mut args)?;
    let max = args.count(CommandError::err("Invalid number of keys"))? as usize;
    let mut found: Vec<Vec<u8>> = Vec::new();
    for index in 0..every.shard_count() {
        every.with_shard(index, &mut |keys| {
            keys.for_each(&mut |entry| {
                if found.len() < max && slot::of_key(entry.key()) == wanted {
                    found.push(entry.key().to_vec());
                }
            });
        });
    }
    reply.array(found.len());
    found.iter().for_each(|key| reply.bulk(key));
    Ok(())
}

/// `CLUSTER FAILOVER [FORCE|TAKEOVER]`.
fn failover(_: &Session, _: &Surroundings<'_>, mut args: Args<'_>) -> Result<Ask, CommandError> {
    let how = if args.accept("FORCE") {
        TakeOver::Forced
    } else if args.accept("TAKEOVER") {
        TakeOver::WithLoss
    } else {
        TakeOver::Agreed
    };
    if args.is_empty() { Ok(Ask::TakeOver(how)) } else { Err(CommandError::Syntax) }
}

fn known<'t>(topology: &'t Topology, id: &[u8]) -> Result<&'t TopologyNode, CommandError> {
    let node = topology.nodes.iter().find(|node| node.id.as_bytes() == id);
    node.ok_or_else(|| CommandError::err(format!("Unknown node {}", id.escape_ascii())))
}

/// No node reports another one: failures are agreed on.
fn count_failure_reports(
    _: &mut Session,
    surroundings: &Surroundings<'_>,
    mut args: Args<'_>,
    reply: &mut Reply,
) -> Result<(), CommandError> {
    known(surroundings.topology, args.take()?)?;
    reply.integer(0);
    Ok(())
}

fn replicas(
    _: &mut Session,
    surroundings: &Surroundings<'_>,
    mut args: Args<'_>,
    reply: &mut Reply,
) -> Result<(), CommandError> {
    let topology = surroundings.topology;
    if !known(topology, args.take()?)?.primary {
        return Err(CommandError::err("The specified node is not a master"));
    }
    let others: Vec<&TopologyNode> = topology.nodes.iter().filter(|other| !other.primary).collect();
    reply.array(others.len());
    for other in others {
        reply.bulk(nodes_line(other, topology).as_bytes());
    }
    Ok(())
}
