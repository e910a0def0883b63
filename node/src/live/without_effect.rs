//! Parameters of Redis that are accepted, checked, kept and shown, and change nothing here: the one table of them.
//!
//! Clients, operators' scripts and test suites set them. Each line says what is instead.

use super::{Kind, MANY, Parameter, set};
use keyward_acl::limit::bytes;

const LOG_LEVELS: &[&str] = &["debug", "verbose", "notice", "warning", "nothing"];
const ANY: Kind = Kind::Text;
const YES_NO: Kind = Kind::Switch;
const COUNT: Kind = Kind::Number(0, MANY);
const SIZE: Kind = Kind::Bytes(0, u64::MAX);

pub(super) const WITHOUT_EFFECT: &[Parameter] = &[
    // Nothing here beats in this rhythm.
    set("hz", "10", Kind::Number(1, 500)),
    set("dynamic-hz", "yes", YES_NO),
    // Tables grow in segments, and entries lie close together: there is nothing to rehash or to defragment.
    set("activerehashing", "yes", YES_NO),
    set("activedefrag", "no", YES_NO),
    set("active-defrag-cycle-max", "25", Kind::Number(1, 99)),
    set("active-defrag-cycle-min", "1", Kind::Number(1, 99)),
    set("active-defrag-ignore-bytes", "104857600", SIZE),
    set("active-defrag-max-scan-fields", "1000", Kind::Number(1, MANY)),
    set("active-defrag-threshold-lower", "10", Kind::Number(0, 1000)),
    set("active-defrag-threshold-upper", "100", Kind::Number(0, 1000)),
    set("jemalloc-bg-thread", "yes", YES_NO),
    // Large values are always given back outside the locks.
    set("lazyfree-lazy-eviction", "yes", YES_NO),
    set("lazyfree-lazy-expire", "yes", YES_NO),
    set("lazyfree-lazy-server-del", "yes", YES_NO),
    set("lazyfree-lazy-user-del", "yes", YES_NO),
    set("lazyfree-lazy-user-flush", "yes", YES_NO),
    // Inner nodes of lists are not compressed.
    set("list-compress-depth", "0", COUNT),
    // Snapshots are the only file; there is no append-only file.
    set("appendfsync", "everysec", Kind::Word(&["always", "everysec", "no"])),
    set("no-appendfsync-on-rewrite", "no", YES_NO),
    set("auto-aof-rewrite-percentage", "100", COUNT),
    set("auto-aof-rewrite-min-size", "67108864", SIZE),
    set("aof-load-truncated", "yes", YES_NO),
    set("aof-use-rdb-preamble", "yes", YES_NO),
    set("aof-rewrite-incremental-fsync", "yes", YES_NO),
    set("aof-timestamp-enabled", "no", YES_NO),
    set("rdbcompression", "yes", YES_NO),
    set("rdb-save-incremental-fsync", "yes", YES_NO),
    set("rdb-del-sync-files", "no", YES_NO),
    set("rdb-key-save-delay", "0", Kind::Number(-MANY, MANY)),
    set("key-load-delay", "0", Kind::Number(-MANY, MANY)),
    set("loading-process-events-interval-bytes", "2097152", COUNT),
    set("stop-writes-on-bgsave-error", "yes", YES_NO),
    set("sanitize-dump-payload", "clients", Kind::Word(&["no", "yes", "clients"])),
    // The bound of a connection's answers is the setting of the same name in the node's configuration.
    set(
        "client-output-buffer-limit",
        "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60",
        Kind::OutputBuffers,
    ),
    set("maxmemory-clients", "0", Kind::BytesOrPercent),
    // The log's level is the setting `log-level` of the node's configuration.
    set("loglevel", "notice", Kind::Word(LOG_LEVELS)),
    set("crash-log-enabled", "yes", YES_NO),
    set("crash-memcheck-enabled", "yes", YES_NO),
    set("use-exit-on-panic", "no", YES_NO),
    // Copies between nodes are the cluster's own business: see `keywardctl`.
    set("repl-backlog-ttl", "3600", COUNT),
    set("repl-disable-tcp-nodelay", "no", YES_NO),
    set("repl-diskless-load", "disabled", Kind::Word(&["disabled", "on-empty-db", "swapdb"])),
    set("repl-diskless-sync", "yes", YES_NO),
    set("repl-diskless-sync-delay", "5", COUNT),
    set("repl-diskless-sync-max-replicas", "0", COUNT),
    set("repl-ping-replica-period", "10", Kind::Number(1, MANY)),
    set("repl-timeout", "60", Kind::Number(1, MANY)),
    set("replica-announced", "yes", YES_NO),
    set("replica-ignore-maxmemory", "yes", YES_NO),
    set("replica-lazy-flush", "yes", YES_NO),
    set("replica-priority", "100", COUNT),
    set("replica-read-only", "yes", YES_NO),
    set("replica-serve-stale-data", "yes", YES_NO),
    set("cluster-allow-pubsubshard-when-down", "yes", YES_NO),
    set("cluster-allow-reads-when-down", "no", YES_NO),
    set("cluster-allow-replica-migration", "yes", YES_NO),
    set("cluster-link-sendbuf-limit", "0", SIZE),
    set("cluster-migration-barrier", "1", COUNT),
    set("cluster-node-timeout", "15000", COUNT),
    set("cluster-replica-no-failover", "no", YES_NO),
    set("cluster-replica-validity-factor", "10", COUNT),
    set("cluster-require-full-coverage", "yes", YES_NO),
    set("cluster-slot-stats-enabled", "no", YES_NO),
    // Nodes prove to each other that they know the cluster secret; what is set here is not kept.
    set("masterauth", "", Kind::Dropped),
    set("masteruser", "", Kind::Dropped),
    // Others.
    set("propagation-error-behavior", "ignore", Kind::Word(&["ignore", "panic", "panic-on-replicas"])),
    set("protected-mode", "yes", YES_NO),
    set("shutdown-timeout", "10", COUNT),
    set("shutdown-on-sigint", "default", ANY),
    set("shutdown-on-sigterm", "default", ANY),
    set("proc-title-template", "{title} {listen-addr} {server-mode}", ANY),
    set("extended-redis-compatibility", "no", YES_NO),
    set("hide-user-data-from-log", "yes", YES_NO),
    set("ignore-warnings", "", ANY),
    set("import-mode", "no", YES_NO),
    set("max-new-connections-per-cycle", "10", Kind::Number(1, 1000)),
    set("prefetch-batch-max-size", "16", Kind::Number(0, 128)),
    set("availability-zone", "", ANY),
];

/// `client-output-buffer-limit`: a class, two sizes and seconds, for as many classes as are to change; `current` has all.
pub(super) fn output_buffers(current: &str, value: &str) -> Result<String, String> {
    let mut shown: Vec<String> = current.split(' ').map(str::to_owned).collect();
    // As Redis divides it: two blanks have an empty word between them, and nothing at all changes nothing.
    let words: Vec<&str> = if value.is_empty() { Vec::new() } else { value.split(' ').collect() };
    let (changes, []) = words.as_chunks::<4>() else {
        return Err("Wrong number of arguments in buffer limit configuration.".to_owned());
    };
    for [class, hard, soft, seconds] in changes {
        let place = match class.to_ascii_lowercase().as_str() {
            "normal" => 0,
            "slave" | "replica" => 4,
            "pubsub" => 8,
            _ => return Err("Invalid client class specified in buffer limit configuration.".to_owned()),
        };
        let sizes = [bytes(hard), bytes(soft), seconds.parse::<u32>().ok().map(u64::from)];
        for (index, size) in sizes.into_iter().enumerate() {
            let size =
                size.ok_or("Error in hard, soft or soft_seconds setting in buffer limit configuration.".to_owned())?;
            shown[place + 1 + index] = size.to_string();
        }
    }
    Ok(shown.join(" "))
}

/// Shown only to those who ask by name: they are for tests.
pub(super) const HIDDEN: &[&str] =
    &["key-load-delay", "loading-process-events-interval-bytes", "rdb-key-save-delay", "use-exit-on-panic"];
