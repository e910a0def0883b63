//! Bugs that can be planted into the node, one at a time, to see that the simulation finds them. They are where the node's
//! sources say `planted!(…)`, which is `false` everywhere but here; production code has neither this file nor its words.

use std::cell::Cell;
use std::fmt;

/// Stands in every binary that could have a bug planted, and in no other.
pub const MARK: &str = "keyward: bugs may be planted in this binary";

macro_rules! bugs {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// A planted bug.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Bug {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Bug {
            /// All of them.
            pub const ALL: &[Bug] = &[$(Bug::$name),+];
        }
    };
}

bugs! {
    /// A leader grants leases without asking a quorum whether it still leads.
    GrantWithoutQuorum,
    /// A new leader does not fear leases that it did not grant.
    NewLeaderDoesNotWait,
    /// A lease runs from when its answer arrived.
    LeaseFromReceipt,
    /// A lease is in force before its node has applied what it demands.
    SkipMustApply,
    /// A sealed replica goes on taking what the old primary sends.
    OldEpochAccepted,
    /// A primary stops waiting for a member before the shrunk set is committed.
    ShrinkBeforeCommit,
    /// A process that restarts goes on as the one before.
    KeepIncarnation,
    /// What waited for keys is carried out without asking the gate again.
    BlockedNotRechecked,
    /// A session keeps the rules it logged in under.
    LoginNotRechecked,
    /// What a transaction queued is carried out without asking the gate again.
    QueueNotRechecked,
    /// Flushing the log makes nothing durable.
    DropSync,
    /// Raft hears that entries are on disk before they are.
    AnswerBeforeSync,
    /// A vote is given before it is on disk.
    VoteBeforeSync,
}

thread_local! {
    static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
}

/// Plants one, or none, for what runs on this thread.
pub fn plant(bug: Option<Bug>) {
    std::hint::black_box(MARK);
    PLANTED.set(bug);
}

/// Whether this one is planted.
pub fn is(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

impl fmt::Display for Bug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
