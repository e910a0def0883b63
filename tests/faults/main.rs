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
//! Processes are killed, frozen and stopped everywhere. The rest takes something of the machine: cutting the network wholly and one
//! way (`runs::quorum_loses_nothing_however_the_network_is_cut`) root and `ip`; a disk that is full
//! (`…a_full_disk_stops_no_more_than_its_node`) root; clocks of different speed (`…when_clocks_run_at_different_speeds`) Debian's
//! `libfaketime`. Without them those tests say that they are skipped, or fail where `KEYWARD_NET_REQUIRED` is set. `libfaketime` bends
//! what timers wait for; the clock that leases are counted by is asked past the C library, so that one differs in speed only in
//! the simulation (`tests/sim`), there in every run.

mod checks;
mod clients;
mod history;
mod lies;
mod load;
mod measure;
mod nemesis;
mod runs;
mod stage;
