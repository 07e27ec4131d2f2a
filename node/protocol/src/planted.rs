//! Bugs that can be switched on, to show that the tests would notice them.
//!
//! Without the feature `planted-bugs` every [`planted`] is the constant `false`, and nothing of this is left
//! in the program.

/// One rule left out, or read loosely.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Bug {
    /// Say that something is durable before storage said so.
    AcknowledgeBeforeDurable,
    /// Commit entries of an earlier epoch by counting their holders.
    CommitOldEpoch,
    /// Elect with whoever answered.
    ElectWithoutQuorum,
    /// Compare logs first and fence afterwards.
    ChooseBeforeFencing,
    /// Append after an entry that is not the leader's.
    SkipPreviousCheck,
    /// Drop committed entries when a new leader comes.
    TruncateBelowCommit,
    /// Count a copy that has caught up but is not on record.
    CountUnrecordedLearner,
    /// Apply what is not committed.
    ReadUncommitted,
    /// Serve reads without a lease.
    IgnoreLease,
    /// Forget, after a restart, that a lease may have been granted before it.
    ForgetLeaseOnRestart,
    /// Let a lowered quorum count for its own settings entry.
    LowerQuorumEarly,
    /// Ask, in a recovery, only for what the newest settings entry demands.
    IgnoreSettingsInRecovery,
    /// Serve before the epoch's first entry is committed.
    ServeBeforeBarrier,
    /// Promote a node whatever disk or process it has by now.
    PromoteChangedNode,
    /// Accept a leader without promising its epoch.
    AcceptWithoutPromise,
    /// Count a node's copy because of the node's name.
    CountByName,
    /// Hold a lease with the smallest quorum instead of the largest.
    LeaseOnSmallerQuorum,
    /// Count a node that has joined while recoveries still ask for as many answers as without it.
    JoinUnrecorded,
    /// Take a node out of the record before the others hold what it was counted for.
    LeaveUncovered,
    /// Say that all is covered although the leader itself leaves.
    CoveredByLeaver,
    /// Go on counting a node that leaves.
    CountLeaver,
    /// Forget, in a recovery, which quorum was known committed when a node was taken out.
    IgnoreKnownQuorum,
    /// Take the set of nodes from whoever speaks last.
    IgnoreConfigurationNumber,
}

#[cfg(feature = "planted-bugs")]
mod switch {
    use std::cell::Cell;

    use super::Bug;

    thread_local! {
        static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Plants a bug in everything that this thread runs from now on, or none.
    pub fn plant(bug: Option<Bug>) {
        PLANTED.set(bug);
    }

    /// Whether this thread runs with that bug.
    #[must_use]
    pub fn planted(bug: Bug) -> bool {
        PLANTED.get() == Some(bug)
    }
}

#[cfg(not(feature = "planted-bugs"))]
mod switch {
    use super::Bug;

    /// Nothing is planted in this build.
    #[must_use]
    pub const fn planted(_bug: Bug) -> bool {
        false
    }
}

pub use switch::*;
