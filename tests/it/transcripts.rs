//! Every transcript against Valkey, which proves the transcript right, and through each node of a cluster, which
//! proves us right.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;

use keyward_tests::transcript::{self, Server, Transcript};
use keyward_tests::{Cluster, Peer, Value};

#[test]
fn transcripts_hold_on_valkey() {
    let Some(valkey) = Peer::valkey(&[]) else { return };
    play_all(Server::Valkey, valkey.address());
}

#[test]
fn transcripts_hold_through_every_node() {
    let cluster = Cluster::of(3).flag("enable-debug-command", "yes").start();
    let everywhere = |path: &Path| !ONE_NODE.iter().any(|(name, _)| path.ends_with(name));
    for node in cluster.nodes() {
        println!("through node {}", node.number());
        play(Server::Keyward, node.address(), everywhere, || cluster.difference_of_copies());
    }
}

/// Transcripts that only hold where the data is, each with the reason.
const ONE_NODE: [(&str, &str); 2] = [
    ("generic/eviction.txt", "CONFIG SET changes the node it is sent to"),
    ("server/observing.txt", "the slow log and the latencies are those of the node that ran the command"),
];

#[test]
fn transcripts_hold_on_a_single_node() {
    let cluster = Cluster::start(1);
    play_all(Server::Keyward, cluster.node(1).address());
}

/// Commands that no transcript can show: they end the server or speak another protocol.
const UNSHOWN: [&str; 12] = [
    "shutdown",
    "psync",
    "sync",
    "replconf",
    "monitor",
    "failover",
    "replicaof",
    "slaveof",
    "restore-asking",
    "bgrewriteaof",
    "debug",
    "clusterscan",
];

#[test]
fn every_command_that_is_served_appears_in_a_transcript() {
    let cluster = Cluster::start(1);
    let mut client = cluster.node(1).client();
    let shown: BTreeSet<String> = transcript::all().iter().flat_map(|path| Transcript::read(path).commands()).collect();
    let mut missing = Vec::new();
    for row in client.ask(&["COMMAND"]).items().expect("COMMAND answers an array") {
        let fields = row.items().expect("a row is an array");
        let name = fields[0].text().expect("a row begins with a name").to_lowercase();
        let Value::Integer(arity) = fields[1] else { panic!("{name} has no arity") };
        let mut call = vec![name.clone()];
        call.resize(usize::try_from(arity.unsigned_abs()).expect("an arity is small"), "1".to_owned());
        if shown.contains(&name) || UNSHOWN.contains(&name.as_str()) {
            continue;
        }
        let reply = client.ask(&call);
        let later =
            reply.text().is_some_and(|text| text.contains("is not available") || text.contains("unknown subcommand"));
        if !later {
            missing.push(name);
        }
    }
    assert!(missing.is_empty(), "no transcript shows {missing:?}");
}

fn play_all(server: Server, address: SocketAddr) {
    play(server, address, |_| true, || None);
}

fn play(server: Server, address: SocketAddr, wanted: impl Fn(&Path) -> bool, afterwards: impl Fn() -> Option<String>) {
    let mut asked = 0;
    let mut differences = String::new();
    for path in transcript::all().into_iter().filter(|path| wanted(path)) {
        match Transcript::read(&path).play(server, address) {
            Ok(commands) => asked += commands,
            Err(report) => {
                let _ = write!(differences, "{report}");
            }
        }
        if let Some(difference) = afterwards() {
            let _ = writeln!(differences, "after {} the copies differ: {difference}", path.display());
        }
    }
    assert!(differences.is_empty(), "{server:?} answers differently:\n{differences}");
    assert!(asked > 500, "only {asked} commands were asked: are the transcripts there?");
}
