//! The whole node in a simulated world (turmoil): network, clocks, disks and chance come from a seed, and so does every fault.
//!
//! ```text
//!   KEYWARD_SIM_SEEDS=100 tests/run sim    more seeds than the few of every day; each runs in six kinds of weather
//!   KEYWARD_SIM_SEED=17 tests/run sim      this one alone; what failed tells its story
//!   KEYWARD_SIM_RUN=17:Cuts cargo test -p keyward-sim --test sim -- --exact runs::of_a_seed --ignored --nocapture
//!                                          one run in this process; :Cuts:SkipMustApply with that bug planted,
//!                                          KEYWARD_SIM_LOG=story tells it as it goes, =debug with all that nodes log,
//!                                          =wire with every packet: the first that differs between two runs
//!                                          of a seed says where they part
//! ```
//! Real is all of the node's code between its sockets and its disks, compiled a second time under `cfg(simulated)`: openraft and
//! the control plane with its gRPC (`control/`), leases, failover, the replication stream, full copies, members in sync, forwarding,
//! handed-over clients, the gate, scripts apart, two shard groups in one of the weathers. Not played: nodes that join and leave,
//! moves of slots. Not real: the kernel's sockets and epoll (so clients are served one by one and not in groups), threads (every
//! host is one thread's tasks), sled below the store of Raft's log (`inside/log_disk.rs`), the admin and probe ports, and the
//! clocks. What stands in for those lies in `inside/`.
//!
//! Each seed runs in a process of its own and repeats itself exactly, packet by packet (`runs::a_seed_repeats_itself`): all
//! chance and every clock are the simulation's (`chance.rs`), and what asks the kernel past the C library goes through `world.rs`.
//! Bugs are planted one by one (`inside/planted.rs`): each must be caught ([`judge`] says by what) within a dozen seeds, and the
//! seed that catches it must be clean without it. Those of the list that the protocol was designed against:
//!
//! | bug | where it is caught |
//! |---|---|
//! | `fdatasync` dropped; callback before sync; vote before sync | here: `DropSync`, `AnswerBeforeSync`, `VoteBeforeSync`, by what a disk that lost its power must have |
//! | `must_apply` skipped; grant without a quorum; new leader does not wait; lease from its receipt | here, and in `node/cluster/tests/simulation` |
//! | frames of an old epoch accepted; set shrinks before it is committed; restarted primary goes on | here, and in `node/cluster/tests/simulation` |
//! | waiting `BLPOP`, `AUTH`, `MULTI` not checked again | here: `BlockedNotRechecked`, `LoginNotRechecked`, `QueueNotRechecked` |
//! | a node id used again | `node/src/control/tests.rs`: a lost disk comes back under a new id; no node starts here with a lost disk |
//! | openraft #1802 (a commit by less than a quorum) | nowhere: it would take a changed openraft, and the one in use has it mended |

#[allow(dead_code, reason = "shared with the faults against real processes")]
#[path = "../faults/checks.rs"]
mod checks;
#[allow(dead_code, reason = "shared with the other tests")]
#[path = "../src/dice.rs"]
mod dice;
#[allow(dead_code, reason = "shared with the faults against real processes")]
#[path = "../faults/history.rs"]
mod history;

mod chance;
mod client;
mod judge;
mod runs;
mod stage;
mod work;
