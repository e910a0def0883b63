//! The replicated state of a cluster, and nothing of how it is replicated.
//!
//! Raft hands every node the same [`Stamped`] changes in the same order; [`State::apply`] turns them into the same
//! state, byte for byte, on each. That is the whole promise, and everything here serves it: `apply` never fails, never
//! waits, reads no clock, no file and no command table. A change that makes no sense is answered with an [`Outcome`]
//! that says so, and leaves the state as it was.
//!
//! What this crate refuses to know: Raft, sockets, disks, time, and the keys of the cache.
//!
//! Reading order: [`change`] (what can happen), [`state`] (what is), [`group`] (who serves which slots, and how that
//! may change), [`moving`] (how keys get to another group),
//! [`import`] (how another server's keys come in), [`record`] (how it is written down). Beside the state, the two protocols around it: [`lease`] and
//! [`failover`].

pub mod change;
pub mod failover;
pub mod group;
pub mod import;
pub mod lease;
pub mod moving;
pub mod placement;
pub mod record;
pub mod state;
pub mod tenant;

mod digest;
mod few;
mod names;

pub use change::{Change, Founder, Outcome, Refusal, Stamped};
pub use few::{FewSet, FewSettings};
pub use group::{Failover, FailoverReason, GROUPS_MAX, ShardGroup};
pub use import::{Import, ImportChange, ImportEnd, ImportOutcome, ImportPlan};
pub use moving::{Move, MoveChange, MovePhase, Moved, SlotRange};
pub use names::{Addresses, ClusterId, Epoch, GroupId, Incarnation, JoinToken, Member, NodeId, RequestId, UnixMillis};
pub use placement::Holders;
pub use record::{AppliedRequest, StateRecord};
pub use state::{ChangeRecord, NodeInfo, State};
pub use tenant::{Tenant, TenantChange, TenantEdit, TenantGrant, TenantMode, TenantNumber, TenantRefusal, Tenants};
