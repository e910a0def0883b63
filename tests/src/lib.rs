//! The harness: real `keyward` processes, a tiny RESP client, transcripts, and peers to compare with.
//!
//! A test asks for a cluster, talks to it as a client would, hurts it as a bad day would, and waits for what must
//! become true. Nothing here knows how a node works inside: it knows ports, signals, RESP and HTTP, so it survives
//! any rewrite of the node. It never sleeps to be in time: [`wait_until`] polls for a fact.
//!
//! ```no_run
//! let mut cluster = keyward_tests::Cluster::start(3);
//! cluster.node(1).client().ok(&["SET", "a", "1"]);
//! cluster.kill(2);
//! cluster.restart(2);
//! ```

mod cluster;
mod dice;
pub mod net;
mod peer;
mod ports;
mod process;
pub mod resp;
mod show;
pub mod transcript;
mod wait;

#[path = "../fuzz/mod.rs"]
pub mod fuzz;

pub use cluster::{Builder, Cluster, Node};
pub use dice::Dice;
pub use net::Net;
pub use peer::{Peer, redis_binary, redis_cli, valkey_binary};
pub use ports::{free_block, free_ports};
pub use process::{Finished, Process, binary, run};
pub use resp::{Client, Value};
pub use show::show;
pub use wait::{http_get, poll, wait_until, wait_until_for};
