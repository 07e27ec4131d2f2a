use quorumkv_api::{
    Epoch, Position, ProcessId, Settings, StorageId,
    lab::Role,
    peer::{ConfigurationState, SettingsEntry},
};
use rstest::rstest;

use super::*;

fn copy(name: &str) -> Member {
    let digit: u128 = name.trim_start_matches('n').parse().expect("names are n0..n9");
    Member { name: name.into(), storage_id: StorageId(uuid::Uuid::from_u128(digit)) }
}

/// What n0 says of itself, which leads a store of this many nodes besides itself.
fn leader(followers: usize, quorum: u8, number: u64, covered: bool) -> NodeState {
    let follower = |n: usize| FollowerState {
        node: NodeId(format!("n{n}")),
        storage_id: Some(copy(&format!("n{n}")).storage_id),
        match_seq: Seq(9),
        connected: true,
        counted: true,
        caught_up: true,
    };
    NodeState {
        node: "n0".into(),
        storage_id: copy("n0").storage_id,
        process_id: ProcessId::random(),
        role: Role::Leader,
        promised: Epoch(2),
        epoch: Epoch(2),
        leader: Some("n0".into()),
        ready: true,
        last: Position { epoch: Epoch(2), seq: Seq(9) },
        commit: Seq(9),
        settings: Some(SettingsEntry {
            position: Position { epoch: Epoch(1), seq: Seq(2) },
            settings: Settings { write_quorum: WriteQuorum(quorum), ..Settings::default() },
        }),
        followers: (1..=followers).map(follower).collect(),
        configuration: Some(ConfigurationState { number, covered }),
    }
}

fn copies(nodes: usize) -> Vec<Member> {
    (0..nodes).map(|n| copy(&format!("n{n}"))).collect()
}

fn joining(node: &str) -> NodeChange {
    NodeChange::Joining(node.into())
}

fn leaving(node: &str) -> NodeChange {
    NodeChange::Leaving(node.into())
}

#[test]
fn a_node_that_has_caught_up_is_one_more() {
    let begun = Membership::first(3).begin(joining("n3"));
    assert_eq!((begun.number, begun.nodes), (1, 3), "it is no node of the store yet");
    let mut report = leader(3, 1, 1, false);
    report.followers[2].caught_up = false;
    assert_eq!(begun.finish(&copies(3), &report), None);
    report.followers[2].caught_up = true;
    let (after, members) = begun.finish(&copies(3), &report).expect("it has caught up");
    assert_eq!((after.number, after.nodes, after.change), (2, 4, None));
    assert_eq!(members, copies(4));
}

#[test]
fn a_node_is_one_less_once_the_others_hold_all_and_the_quorum_is_remembered() {
    let begun = Membership::first(4).begin(leaving("n3"));
    assert_eq!(begun.finish(&copies(4), &leader(3, 2, 1, false)), None);
    assert_eq!(begun.finish(&copies(4), &leader(3, 2, 0, true)), None, "the report is of an earlier set");
    let (after, members) = begun.finish(&copies(4), &leader(3, 2, 1, true)).expect("covered");
    let known = KnownQuorum { seq: Seq(2), write_quorum: WriteQuorum(2) };
    assert_eq!(after, Membership { number: 2, nodes: 3, change: None, known_quorum: Some(known) });
    assert_eq!(members, copies(3));
}

#[test]
fn what_is_known_of_the_quorum_is_never_replaced_by_something_older() {
    let newer = KnownQuorum { seq: Seq(7), write_quorum: WriteQuorum(1) };
    let before = Membership { known_quorum: Some(newer), ..Membership::first(4) };
    let (after, _) = before.begin(leaving("n3")).finish(&copies(4), &leader(3, 2, 1, true)).expect("covered");
    assert_eq!(after.known_quorum, Some(newer));
}

#[rstest]
#[case::too_few_would_be_left(leader(3, 3, 0, false), "2 followers would be left, and writeQuorum is 3")]
#[case::it_leads(NodeState { node: "n3".into(), ..leader(3, 1, 0, false) }, "n3 leads")]
#[case::not_active(NodeState { ready: false, ..leader(3, 1, 0, false) }, "no leader is active")]
fn a_leave_that_could_not_end_does_not_begin(#[case] leader: NodeState, #[case] message: &str) {
    let obstacle = Membership::first(4).may_begin(&leaving("n3"), &leader).expect_err("an obstacle");
    assert!(obstacle.to_string().contains(message), "{obstacle}");
}

#[test]
fn a_leave_waits_for_the_others_to_be_connected() {
    let mut report = leader(3, 2, 0, false);
    assert_eq!(Membership::first(4).may_begin(&leaving("n3"), &report), Ok(()));
    report.followers[0].connected = false;
    let obstacle = Membership::first(4).may_begin(&leaving("n3"), &report).expect_err("an obstacle");
    assert!(obstacle.to_string().contains("1 followers can confirm writes and 2 are needed"), "{obstacle}");
}

#[test]
fn one_change_at_a_time_and_each_step_has_a_number_of_its_own() {
    let begun = Membership::first(3).begin(joining("n3"));
    assert_eq!(begun.may_begin(&joining("n4"), &leader(3, 1, 1, false)), Err(Obstacle::UnderWay));
    let given_up = begun.give_up();
    assert_eq!((given_up.number, given_up.nodes, given_up.change), (2, 3, None));
}
