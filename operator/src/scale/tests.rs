use quorumkv_api::{WriteQuorum, peer::ConfigurationState};
use rstest::rstest;

use super::*;
use crate::{
    decide::Hold,
    testing::{Scene, name},
};

fn joining(n: usize) -> NodeChange {
    NodeChange::Joining(name(n))
}

fn leaving(n: usize) -> NodeChange {
    NodeChange::Leaving(name(n))
}

/// Six nodes at rest, of which so many are wanted, bent by a test.
fn next(wanted: usize, bend: impl FnOnce(&mut Scene)) -> Scale {
    let mut scene = Scene::steady();
    scene.store.wanted = wanted;
    bend(&mut scene);
    scale(&scene.situation(), &Leadership::Active, &Roll::Done)
}

/// The change is recorded under this number and the leader has heard of it.
fn under_way(scene: &mut Scene, change: NodeChange, covered: bool) {
    scene.record.membership = scene.record.membership.begin(change);
    scene.state(0).configuration = Some(ConfigurationState { number: 1, covered });
}

#[test]
fn nodes_come_and_go_at_the_end_and_one_at_a_time() {
    assert_eq!(next(6, |_| {}), Scale::Done);
    assert_eq!(next(8, |_| {}), Scale::Begin(joining(6)));
    assert_eq!(next(4, |_| {}), Scale::Begin(leaving(5)));
    assert_eq!(next(8, |scene| under_way(scene, joining(6), false)), Scale::UnderWay(joining(6)));
    assert_eq!(next(4, |scene| under_way(scene, leaving(5), false)), Scale::UnderWay(leaving(5)));
}

#[test]
fn a_leave_is_done_once_the_others_hold_all() {
    let Scale::Finish { change, membership, members } = next(4, |scene| under_way(scene, leaving(5), true)) else {
        panic!("it is covered");
    };
    assert_eq!((change, membership.nodes, membership.number), (leaving(5), 5, 2));
    assert_eq!(members.len(), 5);
    assert_eq!(membership.known_quorum.expect("known").write_quorum, WriteQuorum(3));
}

#[rstest]
#[case::of_another_mind_about_joining(6, joining(6))]
#[case::of_another_mind_about_leaving(6, leaving(5))]
fn what_is_no_longer_wanted_is_given_up(#[case] wanted: usize, #[case] change: NodeChange) {
    assert_eq!(next(wanted, |scene| under_way(scene, change.clone(), false)), Scale::GiveUp(change));
}

#[test]
fn a_node_stays_when_the_others_no_longer_suffice() {
    let next = next(4, |scene| {
        under_way(scene, leaving(5), false);
        scene.seen(1).connected = false;
        scene.seen(2).connected = false;
    });
    assert_eq!(next, Scale::GiveUp(leaving(5)));
}

#[test]
fn a_leader_that_is_to_leave_hands_over_to_one_that_stays() {
    let mut scene = Scene::steady();
    // n0 leads; it is the last of these.
    scene.store.names.swap(0, 5);
    scene.store.nodes.swap(0, 5);
    scene.store.wanted = 4;
    let step = scale(&scene.situation(), &Leadership::Active, &Roll::Done);
    assert_eq!(step, Scale::HandOver(name(5)));
    scene.record.membership = scene.record.membership.begin(leaving(0));
    scene.state(0).configuration = Some(ConfigurationState { number: 1, covered: false });
    let step = scale(&scene.situation(), &Leadership::Active, &Roll::Done);
    assert_eq!(step, Scale::HandOver(name(5)));
}

#[test]
fn one_that_is_to_be_replaced_takes_over_as_well_from_a_leader_that_leaves() {
    let mut scene = Scene::steady();
    scene.store.names.swap(0, 5);
    scene.store.nodes.swap(0, 5);
    scene.store.wanted = 5;
    scene.record.membership = scene.record.membership.begin(leaving(0));
    scene.state(0).configuration = Some(ConfigurationState { number: 1, covered: false });
    scene.nodes.iter_mut().for_each(|view| view.outdated = true);
    // The roll waits for this change, which must not wait for the roll.
    let roll = Roll::Wait(Hold::Changing(name(0)));
    assert_eq!(crate::decide::roll(&scene.situation(), &Leadership::Active), roll);
    assert_eq!(scale(&scene.situation(), &Leadership::Active, &roll), Scale::HandOver(name(5)));
}

#[rstest]
#[case::more(8)]
#[case::fewer(4)]
fn a_store_that_is_about_to_sleep_stays_as_large_as_it_is(#[case] wanted: usize) {
    let resting = |bend: &dyn Fn(&mut Scene)| {
        next(wanted, |scene| {
            scene.store.resting = true;
            bend(scene);
        })
    };
    assert_eq!(resting(&|_| {}), Scale::Done);
    let change = if wanted > 6 { joining(6) } else { leaving(5) };
    let given_up = resting(&|scene| under_way(scene, change.clone(), false));
    assert_eq!(given_up, Scale::GiveUp(change.clone()));
    if wanted < 6 {
        let finished = resting(&|scene| under_way(scene, change.clone(), true));
        assert!(matches!(finished, Scale::Finish { .. }), "{finished:?}");
    }
}

#[rstest]
#[case::the_quorum_needs_them_all(|s: &mut Scene| s.state(0).settings.as_mut().expect("set").settings.write_quorum = WriteQuorum(5), "4 followers would be left, and writeQuorum is 5")]
#[case::others_are_cut_off(|s: &mut Scene| (1..4).for_each(|n| s.seen(n).connected = false), "1 followers can confirm writes and 3 are needed")]
#[case::an_older_release(|s: &mut Scene| s.state(3).configuration = None, "n3 runs a release")]
#[case::pods_are_left(|s: &mut Scene| s.store.settled = false, "not gone yet")]
fn a_change_waits_for_what_has_to_come_first(#[case] bend: fn(&mut Scene), #[case] reason: &str) {
    let Scale::Wait(hindrance) = next(4, bend) else { panic!("it waits") };
    assert!(hindrance.reason.contains(reason), "{hindrance}");
}

#[test]
fn nothing_changes_without_an_active_leader_or_while_nodes_are_replaced() {
    let mut scene = Scene::steady();
    scene.store.wanted = 4;
    let wait = |leadership, roll| scale(&scene.situation(), &leadership, &roll);
    assert!(matches!(wait(Leadership::Settling, Roll::Done), Scale::Wait(Hindrance { passes: true, .. })));
    assert!(matches!(
        wait(Leadership::Active, Roll::Wait(Hold::NoLeader)),
        Scale::Wait(Hindrance { passes: true, .. })
    ));
}

#[test]
fn a_store_that_has_not_begun_is_made_as_large_as_it_shall_be() {
    let mut scene = Scene::unborn();
    scene.store.wanted = 4;
    assert_eq!(scale(&scene.situation(), &Leadership::Active, &Roll::Done), Scale::Done);
}
