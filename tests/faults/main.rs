//! Faults against real processes, judged by what clients were told: nothing acknowledged is lost, and no answer is a lie.
//!
//! `tests/run faults` runs it. Clients write down every request and its answer while nodes are killed, frozen, cut off and
//! stopped; afterwards the history is judged, the copies are compared byte by byte, and the cluster must be well again.
//!
//! ```text
//!   KEYWARD_FAULT_MINUTES=60   longer than the default of about half a minute per test
//!   KEYWARD_FAULT_SEED=7       the same faults in the same order
//!   KEYWARD_FAULT_NODES=5      more nodes than three
//!   KEYWARD_FAULT_KEEP=folder  logs of the nodes and the list of faults of every test
//! ```
//! Cutting the network takes root and `ip`, clocks of different speed Debian's `libfaketime`; without them those tests say that
//! they are skipped, or fail where `KEYWARD_NET_REQUIRED` is set.

mod checks;
mod clients;
mod history;
mod lies;
mod load;
mod measure;
mod nemesis;
mod runs;
mod stage;
