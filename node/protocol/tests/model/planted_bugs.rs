//! Rules left out: for each, an instance in which some order of events then breaks what must hold.

use quorumkv_protocol::planted::Bug;
use rstest::rstest;
use stateright::{Checker, HasDiscoveries, Model};

use crate::{instances, model::Instance};

#[rstest]
#[case(Bug::AcknowledgeBeforeDurable, "crash with disk")]
#[case(Bug::ElectWithoutQuorum, "failover, q 1 of 2")]
#[case(Bug::ChooseBeforeFencing, "failover, q 1 of 2")]
#[case(Bug::SkipPreviousCheck, "failover, q 1 of 2")]
#[case(Bug::TruncateBelowCommit, "failover, q 1 of 2")]
#[case(Bug::ReadUncommitted, "failover, q 1 of 2")]
#[case(Bug::CountUnrecordedLearner, "lost disk")]
#[case(Bug::CountByName, "lost disk")]
#[case(Bug::IgnoreLease, "leases")]
#[case(Bug::CountUnrecordedLearner, "a node joins")]
#[case(Bug::JoinUnrecorded, "a node joins")]
#[case(Bug::LeaveUncovered, "a node leaves")]
#[case(Bug::CoveredByLeaver, "a node leaves, two failovers")]
#[case(Bug::CountLeaver, "a node leaves")]
#[case(Bug::IgnoreConfigurationNumber, "a node leaves, two operators")]
#[case(Bug::IgnoreKnownQuorum, "quorum lowered, then a node leaves")]
fn a_planted_bug_is_caught(#[case] bug: Bug, #[case] name: &str) {
    let instance = instances().into_iter().find(|instance| instance.name == name).expect("an instance of that name");
    let instance = Instance { bug: Some(bug), goals: &[], ..instance };
    let checker = instance.checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let (broken, path) = checker.discoveries().into_iter().next().unwrap_or_else(|| panic!("{bug:?} is not caught"));
    println!("{bug:?}, {name}, {} unique states: not {broken:?}", checker.unique_state_count());
    println!("{:?}", path.into_actions());
}
