//! Every rule left out has to break an invariant, or the tests above prove little.

use quorumkv_protocol::planted::{Bug, plant};
use rstest::rstest;

use crate::world::{Plan, run};

/// Seeds to try before a bug counts as missed.
const SEEDS: u64 = 5000;

/// `IgnoreKnownQuorum` is left to the model: it takes a lower quorum, a leave, and then an election with the one
/// follower that heard of neither, which is too rare here.
///
/// With each bug a seed that caught it: tried first, since a search takes its time with the rare ones. Once the code draws
/// other traces from it, others are searched.
#[rstest]
#[case(Bug::AcknowledgeBeforeDurable, 1538)]
#[case(Bug::CommitOldEpoch, 904)]
#[case(Bug::ElectWithoutQuorum, 1)]
#[case(Bug::ChooseBeforeFencing, 685)]
#[case(Bug::SkipPreviousCheck, 7)]
#[case(Bug::TruncateBelowCommit, 1)]
#[case(Bug::CountUnrecordedLearner, 2029)]
#[case(Bug::ReadUncommitted, 7)]
#[case(Bug::IgnoreLease, 11)]
#[case(Bug::ForgetLeaseOnRestart, 317)]
#[case(Bug::LowerQuorumEarly, 10)]
#[case(Bug::IgnoreSettingsInRecovery, 1513)]
#[case(Bug::ServeBeforeBarrier, 15)]
#[case(Bug::PromoteChangedNode, 34)]
#[case(Bug::AcceptWithoutPromise, 2797)]
#[case(Bug::CountByName, 2029)]
#[case(Bug::LeaseOnSmallerQuorum, 863)]
#[case(Bug::JoinUnrecorded, 102)]
#[case(Bug::LeaveUncovered, 1)]
#[case(Bug::CoveredByLeaver, 537)]
#[case(Bug::CountLeaver, 171)]
#[case(Bug::IgnoreConfigurationNumber, 3201)]
fn a_planted_bug_is_caught(#[case] bug: Bug, #[case] caught_before: u64) {
    plant(Some(bug));
    let caught = std::iter::once(caught_before).chain(1..=SEEDS).find_map(|seed| {
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
