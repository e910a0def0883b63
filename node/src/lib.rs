//! The Keyward node: sockets, disks, peers, time. The crates it stands on think; this one acts.
//!
//! Read in this order: [`node`] (who knows whom), [`connection`] and [`gate`] (a request's way), [`shards`] (memory),
//! [`asks`] (what commands ask of the world), [`forward`] and [`link`] (other nodes' clients), [`control`] (what is
//! agreed on), [`view`] (what of it requests see), [`snapshot`], [`admin`].
#![forbid(unsafe_code)]

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
pub mod expiry;
pub mod forward;
pub mod gate;
pub mod gather;
pub mod handover;
pub mod http;
pub mod import;
pub mod info;
pub mod insight;
pub mod journal;
pub mod large;
pub mod latency;
pub mod lead;
pub mod link;
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
pub mod own_info;
pub mod pace;
pub mod pause;
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
pub mod socket;
pub mod standing;
pub mod telemetry;
pub mod tenants;
pub mod tracking;
pub mod transaction;
pub mod turns;
pub mod view;
pub mod walks;
pub mod worker;
