//! What COMMAND DOCS tells of every command's arguments, compared with a real Valkey.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use keyward_tests::{Client, Cluster, Peer, Value};

/// Where the arguments told here deliberately are not Valkey's, and why.
const DIFFERENCES: &[(&str, &str)] = &[];

#[test]
fn arguments_are_told_as_valkey_tells_them() {
    let Some(valkey) = Peer::valkey(&[]) else { return };
    let cluster = Cluster::start(1);
    let (theirs, ours) = (arguments(valkey.address()), arguments(cluster.node(1).address()));
    assert!(theirs.len() > 380, "only {} commands", theirs.len());
    let differing: Vec<String> = theirs
        .iter()
        .filter(|(name, _)| DIFFERENCES.iter().all(|(known, _)| known != name))
        .filter(|(name, told)| ours.get(*name) != Some(told))
        .map(|(name, told)| format!("{name}\n  there: {told:?}\n  here:  {:?}", ours.get(name)))
        .collect();
    assert!(differing.is_empty(), "{} commands:\n{}", differing.len(), differing.join("\n"));
}

/// For each command, subcommands included, one line for each argument, indented by how deep it lies.
fn arguments(address: SocketAddr) -> BTreeMap<String, Vec<String>> {
    let mut client = Client::connect(address).expect("the server accepts");
    client.ask(&["HELLO", "3"]);
    let mut found = BTreeMap::new();
    collect(&client.ask(&["COMMAND", "DOCS"]), &mut found);
    found
}

fn collect(commands: &Value, found: &mut BTreeMap<String, Vec<String>>) {
    let Value::Map(commands) = commands else { panic!("not a map: {commands}") };
    for (name, docs) in commands {
        let mut lines = Vec::new();
        if let Some(arguments) = field(docs, "arguments") {
            describe(arguments, 0, &mut lines);
        }
        found.insert(name.text().expect("a name"), lines);
        if let Some(subcommands) = field(docs, "subcommands") {
            collect(subcommands, found);
        }
    }
}

fn describe(arguments: &Value, depth: usize, lines: &mut Vec<String>) {
    for argument in arguments.items().unwrap_or_default() {
        let text = |name| field(argument, name).and_then(Value::text).unwrap_or_default();
        let is_key = text("type") == "key";
        // Valkey says whose keys a count or a pattern belongs to; here only keys say that.
        let specification = field(argument, "key_spec_index").filter(|_| is_key).map(ToString::to_string);
        let mut flags: Vec<String> = field(argument, "flags")
            .and_then(Value::items)
            .unwrap_or_default()
            .iter()
            .filter_map(Value::text)
            .collect();
        flags.sort();
        let words = ["name", "type", "display_text", "token", "since"].map(text).join(",");
        lines.push(format!("{:depth$}{words} {flags:?} {specification:?}", ""));
        if let Some(parts) = field(argument, "arguments") {
            describe(parts, depth + 1, lines);
        }
    }
}

fn field<'a>(map: &'a Value, name: &str) -> Option<&'a Value> {
    let Value::Map(pairs) = map else { return None };
    pairs.iter().find(|(key, _)| key.text().as_deref() == Some(name)).map(|(_, value)| value)
}
