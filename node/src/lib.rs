//! The Keyward node: sockets, disks, peers, time. The crates it stands on think; this one acts.
//!
//! Read in this order: [`node`] (who knows whom), [`connection`] and [`gate`] (a request's way), [`shards`] (memory),
//! [`asks`] (what commands ask of the world), [`forward`] and [`link`] (other nodes' clients), [`control`] (what is
//! agreed on), [`view`] (what of it requests see), [`snapshot`], [`admin`].
#![forbid(unsafe_code)]

/// Whether a bug is planted here. Outside of the simulation there are none, and nothing of them is compiled.
#[cfg(not(simulated))]
macro_rules! planted {
    ($bug:ident) => {
        false
    };
}
#[cfg(simulated)]
macro_rules! planted {
    ($bug:ident) => {
        crate::planted::is(crate::planted::Bug::$bug)
    };
}

pub mod acl_file;
pub mod acl_log;
pub mod admin;
pub mod asks;
pub mod at_once;
pub mod backend;
pub mod batch;
pub mod bench;
pub mod blocked;
pub mod callers;
pub mod carrier;
pub mod clients;
pub mod config;
pub mod connection;
pub mod control;
pub mod corridor;
pub mod counters;
pub mod debug;
pub mod demo;
pub mod dropper;
pub mod entrance;
pub mod expiry;
pub mod forward;
pub mod gate;
pub mod gather;
pub mod guesses;
pub mod handover;
pub mod holding;
pub mod http;
pub mod import;
pub mod info;
pub mod insight;
pub mod journal;
pub mod large;
pub mod latency;
pub mod lead;
pub mod link;
#[cfg(not(simulated))]
pub mod listen;
pub mod live;
pub mod mailbox;
pub mod memory;
pub mod memory_report;
pub mod meter;
pub mod monitor;
pub mod moves;
mod moving;
pub mod node;
pub mod observers;
pub mod owed;
pub mod own_info;
pub mod pace;
pub mod patience;
pub mod pause;
pub mod places;
pub mod pubsub;
pub mod random;
pub mod relay;
pub mod repack;
pub mod replication;
pub mod rounds;
pub mod routes;
pub mod scripts;
pub mod seed;
pub mod shards;
pub mod slow;
pub mod snapshot;
#[cfg(not(simulated))]
pub mod socket;
pub mod standing;
pub mod telemetry;
pub mod tenants;
pub mod ties;
pub mod tracking;
pub mod transaction;
pub mod turns;
pub mod view;
pub mod walks;
pub mod worker;
#[cfg(not(simulated))]
pub mod world;

// The other world of `tests/sim`, which compiles this crate once more.
#[cfg(simulated)]
#[path = "../../tests/sim/inside/listen.rs"]
pub mod listen;
#[cfg(simulated)]
#[path = "../../tests/sim/inside/planted.rs"]
pub mod planted;
#[cfg(simulated)]
#[path = "../../tests/sim/inside/socket.rs"]
pub mod socket;
#[cfg(simulated)]
#[path = "../../tests/sim/inside/world.rs"]
pub mod world;
