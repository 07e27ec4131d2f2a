//! Every rule left out has to break an invariant, or the tests above prove little.

use quorumkv_protocol::planted::{Bug, plant};
use rstest::rstest;

use crate::world::{Plan, run};

/// Seeds to try before a bug counts as missed.
const SEEDS: u64 = 5000;

#[rstest]
fn a_planted_bug_is_caught(
    #[values(
        Bug::AcknowledgeBeforeDurable,
        Bug::CommitOldEpoch,
        Bug::ElectWithoutQuorum,
        Bug::ChooseBeforeFencing,
        Bug::SkipPreviousCheck,
        Bug::TruncateBelowCommit,
        Bug::CountUnrecordedLearner,
        Bug::ReadUncommitted,
        Bug::IgnoreLease,
        Bug::ForgetLeaseOnRestart,
        Bug::LowerQuorumEarly,
        Bug::IgnoreSettingsInRecovery,
        Bug::ServeBeforeBarrier,
        Bug::PromoteChangedNode,
        Bug::AcceptWithoutPromise,
        Bug::CountByName,
        Bug::LeaseOnSmallerQuorum
    )]
    bug: Bug,
) {
    plant(Some(bug));
    let caught = (1..=SEEDS).find_map(|seed| {
        // Some bugs break an assertion of the core before they break an invariant: caught as well.
        match std::panic::catch_unwind(|| run(Plan::from_seed(seed))) {
            Ok(Ok(_)) => None,
            Ok(Err(violation)) => Some(violation.to_string()),
            Err(_) => Some(format!("an assertion of the core; replay with SEED={seed}")),
        }
    });
    plant(None);
    let how = caught.unwrap_or_else(|| panic!("{bug:?} is not caught within {SEEDS} seeds"));
    println!("{bug:?}: {how}");
}
