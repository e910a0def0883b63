//! How far each command reaches: the golden table of scopes, and the specification it follows.
//!
//! A new command that reaches beyond its arguments shows up here as a difference that somebody must read. After a change that
//! is meant: `KEYWARD_BLESS=1 cargo test -p keyward-tests --test it scopes::`.

use keyward_engine::command::{KeyRule, Run};
use keyward_engine::scope::{Of, Scope};
use keyward_engine::table::{Row, table};
use std::collections::BTreeMap;
use std::path::Path;

fn word(scope: Scope) -> String {
    match scope {
        Scope::Named => "named".to_owned(),
        Scope::NamedAndRead => "named, and read".to_owned(),
        Scope::Own => "own".to_owned(),
        Scope::Public => "public".to_owned(),
        Scope::Everybody => "everybody".to_owned(),
        Scope::OwnOrFree(argument) => format!("own, everybody for {argument}"),
        Scope::Filtered(of) => format!("filtered {}", format!("{of:?}").to_lowercase()),
        Scope::WholeTenant => "whole tenant".to_owned(),
        Scope::Ceiling => "ceiling".to_owned(),
        Scope::Subcommands => "subcommands".to_owned(),
    }
}

fn scopes() -> BTreeMap<&'static str, String> {
    table().rows().iter().map(|row| (row.full_name, word(row.command.scope))).collect()
}

#[test]
fn every_command_has_the_scope_that_was_read_last() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/scopes.txt");
    let lines: String = scopes().iter().map(|(name, scope)| format!("{name:<32}{scope}\n")).collect();
    if std::env::var_os("KEYWARD_BLESS").is_some() {
        std::fs::write(&path, &lines).expect("the golden file can be written");
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    let changed: Vec<&str> = lines
        .lines()
        .filter(|line| !golden.contains(line))
        .chain(golden.lines().filter(|line| !lines.contains(line)))
        .collect();
    assert!(golden == lines, "scopes changed; read them, then bless: {changed:#?}");
}

/// The specification, line by line: commands, and the scope each must have. What is not named here stays within its
/// arguments or its connection.
const SPECIFICATION: &[(&str, &str)] = &[
    ("keys scan clusterscan randomkey dbsize flushdb flushall", "filtered keys"),
    ("swapdb", "whole tenant"),
    ("select", "own, everybody for 0"),
    ("move copy object|encoding object|freq memory|usage type ttl dump touch restore sort sort_ro", "named"),
    ("debug migrate", "ceiling"),
    ("xclaim xautoclaim", "named, and read"),
    ("eval evalsha fcall eval_ro evalsha_ro fcall_ro", "filtered scripts"),
    ("info config|get config|set config|resetstat memory|stats memory|doctor", "filtered server"),
    ("client|list client|kill client|unblock monitor", "filtered clients"),
    ("client|info client|id client|setname client|getname client|reply client|caching", "own"),
    ("client|pause client|unpause client|no-evict", "ceiling"),
    ("client|tracking", "filtered keys"),
    ("slowlog|get slowlog|len slowlog|reset commandlog|get commandlog|len commandlog|reset", "filtered records"),
    ("latency|histogram latency|reset latency|latest latency|history", "filtered records"),
    ("latency|doctor latency|graph", "ceiling"),
    ("memory|purge memory|malloc-stats", "ceiling"),
    ("pubsub|channels pubsub|numsub pubsub|numpat pubsub|shardchannels pubsub|shardnumsub", "filtered channels"),
    ("subscribe psubscribe ssubscribe", "named"),
    ("publish spublish", "filtered channels"),
    ("script|load script|exists script|flush script|kill script|show", "filtered scripts"),
    ("function|load function|list function|delete function|flush function|dump function|restore", "filtered scripts"),
    ("function|stats function|kill", "filtered scripts"),
    ("acl|whoami", "own"),
    ("acl|cat acl|genpass acl|help", "public"),
    ("acl|list acl|users acl|getuser acl|log acl|dryrun", "filtered users"),
    ("acl|setuser acl|deluser acl|load acl|save", "ceiling"),
    ("cluster|nodes cluster|slots cluster|shards cluster|info cluster|keyslot cluster|myid", "public"),
    ("readonly readwrite asking", "own"),
    ("role wait time command|info command|docs lolwut", "public"),
    ("cluster|getkeysinslot cluster|countkeysinslot", "filtered keys"),
    ("cluster|meet cluster|forget cluster|reset cluster|failover cluster|addslots cluster|delslots", "ceiling"),
    ("cluster|setslot cluster|replicate cluster|flushslots cluster|bumpepoch cluster|saveconfig", "ceiling"),
    ("replicaof slaveof failover psync sync replconf bgsave save bgrewriteaof lastsave shutdown", "ceiling"),
    ("module|load module|loadex module|unload module|list", "ceiling"),
    ("auth hello reset quit", "own"),
    ("ping echo", "everybody"),
    ("tenant|create tenant|set tenant|del tenant|list tenant|get tenant|stats tenant|swapdb", "ceiling"),
];

#[test]
fn scopes_follow_the_specification() {
    let scopes = scopes();
    for (names, expected) in SPECIFICATION {
        for name in names.split(' ') {
            assert_eq!(scopes.get(name).map(String::as_str), Some(*expected), "{name}");
        }
    }
}

#[test]
fn no_scope_contradicts_how_a_command_runs() {
    for row in table().rows() {
        let (name, scope) = (row.full_name, row.command.scope);
        let keys = matches!(scope, Scope::Filtered(Of::Keys) | Scope::WholeTenant);
        match row.command.run {
            Run::OnKeys(_) => assert!(matches!(scope, Scope::Named | Scope::NamedAndRead | Scope::Ceiling), "{name}"),
            // SORT names its key; BY and GET need every key.
            Run::OnEveryKey(_) => {
                assert!(keys || scope == Scope::Ceiling || row.command.extra.looks_further.is_some(), "{name}")
            }
            Run::Container(_) => assert_eq!(scope, Scope::Subcommands, "{name}"),
            Run::OnSession(_) | Run::AtOnce(_) | Run::Ask(_) | Run::AskOwner(_) | Run::Refused(_) => {
                assert!(scope != Scope::Subcommands && scope != Scope::NamedAndRead, "{name}");
            }
        }
        if matches!(scope, Scope::Own | Scope::Public | Scope::Everybody) {
            assert!(is_harmless(row), "{name} names keys: its scope must say so");
        }
    }
}

/// It names no key that is one.
fn is_harmless(row: &Row) -> bool {
    let specs = row.command.keys.specs();
    matches!(row.command.keys, KeyRule::None)
        || specs.iter().all(|spec| spec.flags.has(keyward_engine::command::KeyFlags::NOT_KEY))
}
