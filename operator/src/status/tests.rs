use quorumkv_api::WriteQuorum;
use rstest::rstest;

use super::*;
use crate::{
    decide::{ElectionReason, Hold, PodReport, Trouble},
    scale,
    testing::{Scene, name},
};

fn pass(scene: &Scene, leadership: Leadership) -> Pass {
    let scale = scale::scale(&scene.situation(), &Leadership::Active, &Roll::Done);
    Pass { leadership, scale, ..scene.pass() }
}

fn summary(bend: fn(&mut Scene), leadership: Leadership) -> Summary {
    let mut scene = Scene::steady();
    bend(&mut scene);
    summarize(&scene.store, &pass(&scene, leadership))
}

#[test]
fn a_node_that_joins_or_leaves_is_progress_and_nothing_missing() {
    let joining = summary(
        |scene| {
            scene.store.wanted = 8;
            scene.store.nodes.push(name(6));
            scene.record.membership = scene.record.membership.begin(NodeChange::Joining(name(6)));
        },
        Leadership::Active,
    );
    let Summary { ready, progressing, degraded, followers, .. } = joining;
    assert_eq!([ready.holds, progressing.holds, degraded.holds], [true, true, false]);
    assert_eq!((progressing.reason, followers), ("Scaling", 5));
    assert!(progressing.message.contains("5 of 7 followers; n6 joins"), "{}", progressing.message);
    let leaving = summary(
        |scene| {
            scene.store.wanted = 4;
            scene.record.membership = scene.record.membership.begin(NodeChange::Leaving(name(5)));
            scene.seen(5).counted = false;
        },
        Leadership::Active,
    );
    assert_eq!((leaving.ready.holds, leaving.degraded.holds), (true, false), "{}", leaving.ready.message);
    assert!(leaving.progressing.message.contains("5 of 3 followers; n5 leaves"), "{}", leaving.progressing.message);
}

#[test]
fn a_quorum_of_followers_that_have_not_joined_yet_is_pending() {
    let Summary { ready, .. } = summary(
        |scene| {
            scene.store.wanted = 8;
            scene.store.settings.write_quorum = WriteQuorum(7);
        },
        Leadership::Active,
    );
    assert_eq!((ready.holds, ready.reason), (false, "SettingsPending"));
    assert!(ready.message.contains("writeQuorum 7 waits for that many followers"), "{}", ready.message);
}

#[test]
fn at_rest_everything_holds_and_nothing_is_under_way() {
    let Summary { ready, progressing, degraded, quorum_available, .. } = summary(|_| {}, Leadership::Active);
    let holds = [ready.holds, progressing.holds, degraded.holds, quorum_available.holds];
    assert_eq!(holds, [true, false, false, true]);
}

#[rstest]
#[case::settling(|_: &mut Scene| {}, Leadership::Settling, "LeaderSettling")]
#[case::electing(|_: &mut Scene| {}, Leadership::Elect(ElectionReason::LeaderGone), "Electing")]
#[case::silent(|s: &mut Scene| s.silence(0), Leadership::Suspect, "LeaderSilent")]
#[case::no_quorum(|s: &mut Scene| (1..4).for_each(|n| s.seen(n).connected = false), Leadership::Active, "QuorumUnavailable")]
#[case::new_settings(|s: &mut Scene| s.store.settings.write_quorum = WriteQuorum(4), Leadership::Active, "SettingsPending")]
fn not_ready_says_why(#[case] bend: fn(&mut Scene), #[case] leadership: Leadership, #[case] reason: &str) {
    let ready = summary(bend, leadership).ready;
    assert_eq!((ready.holds, ready.reason), (false, reason));
}

#[test]
fn a_missing_follower_leaves_the_store_ready_and_is_named() {
    let bend = |scene: &mut Scene| {
        scene.silence(4);
        scene.nodes[4].presence = Presence::Absent;
        scene.seen(4).connected = false;
    };
    let Summary { ready, degraded, ready_followers, .. } = summary(bend, Leadership::Active);
    assert!(ready.holds && ready.message.contains("n4 is absent"), "{}", ready.message);
    assert!(degraded.holds && degraded.message.contains("n4 is absent"), "{}", degraded.message);
    assert_eq!(ready_followers, 4);
}

#[test]
fn nodes_that_refuse_the_token_are_not_taken_for_silent_ones() {
    let locked_out = |scene: &mut Scene| {
        (0..6).for_each(|n| scene.silence(n));
        (0..5).for_each(|n| scene.nodes[n].refuses_token = true);
    };
    let Summary { ready, degraded, progressing, quorum_available, .. } = summary(locked_out, Leadership::Suspect);
    assert_eq!((ready.holds, ready.reason), (false, "NodesRefuseToken"));
    assert_eq!((degraded.holds, degraded.reason), (true, "NodesRefuseToken"));
    assert!(!progressing.holds && !quorum_available.holds);
    assert!(ready.message.contains("401") && ready.message.contains("n0, n1, n2, n3, n4:"), "{}", ready.message);
    let one = |scene: &mut Scene| {
        scene.silence(4);
        scene.nodes[4].refuses_token = true;
        scene.seen(4).connected = false;
    };
    let ready = summary(one, Leadership::Active).ready;
    assert!(ready.holds && ready.message.contains("n4 refuses the operator's token"), "{}", ready.message);
}

#[test]
fn a_roll_that_is_held_says_by_what() {
    let mut scene = Scene::steady();
    scene.nodes[0].outdated = true;
    scene.silence(4);
    scene.nodes[4].presence = Presence::NotRunning;
    let trouble = Some(Trouble::CannotStart("ImagePullBackOff".into()));
    scene.nodes[4].report = Some(PodReport { trouble, ..PodReport::default() });
    scene.seen(4).connected = false;
    let roll = Roll::Wait(Hold::Unproven(vec![name(4)]));
    let held = Pass { roll, ..pass(&scene, Leadership::Active) };
    let Summary { progressing, degraded, .. } = summarize(&scene.store, &held);
    assert_eq!((progressing.holds, progressing.reason), (true, "RollingNodes"));
    assert!(degraded.message.contains("n4 is not running (ImagePullBackOff)"), "{}", degraded.message);
    let told = summarize(&scene.store, &Pass { roll_held: true, ..held.clone() }).progressing;
    assert_eq!((told.holds, told.reason), (false, "RollHeld"));
    assert!(told.message.contains("still to be replaced: n0; of those that are renewed already, n4"), "{told:?}");
    // One that does not end holds it no less.
    scene.nodes[4].outdated = true;
    let trouble = Some(Trouble::DoesNotEnd("worker-2".into()));
    scene.nodes[4].report = Some(PodReport { ending: true, trouble, ..PodReport::default() });
    let roll = crate::decide::roll(&scene.situation(), &Leadership::Active);
    let stuck = summarize(&scene.store, &Pass { roll, roll_held: true, ..pass(&scene, Leadership::Active) });
    assert_eq!((stuck.progressing.holds, stuck.progressing.reason), (false, "RollHeld"));
    assert!(stuck.progressing.message.contains("n4 must end first"), "{:?}", stuck.progressing);
    assert!(stuck.degraded.message.contains("its machine worker-2 may not answer"), "{:?}", stuck.degraded);
    scene.nodes[4].outdated = false;
    scene.store.wanted = 8;
    let scale = scale::scale(&scene.situation(), &Leadership::Active, &held.roll);
    let progressing = summarize(&scene.store, &Pass { scale, roll_held: true, ..held }).progressing;
    assert_eq!(progressing.reason, "RollHeld", "followers that wait for it are no other news");
}

#[test]
fn a_store_that_sleeps_is_not_ready_and_nothing_is_wrong_with_it() {
    let Scene { mut store, mut record, .. } = Scene::steady();
    let known = stored(&write(None, &summary(|_| {}, Leadership::Active), 100).expect("a status"));
    let falls = stored(&write(Some(&known), &asleep(&store, &record, HIBERNATING, "soon"), 200).expect("a change"));
    let sleeps = stored(&write(Some(&falls), &asleep(&store, &record, HIBERNATED, "now"), 300).expect("a change"));
    let of = |status: &KvClusterStatus| -> Vec<(String, String)> {
        status.conditions.iter().map(|one| (one.type_.clone(), one.status.clone())).collect()
    };
    let expected = |progressing: &str| {
        [("Ready", "False"), ("Progressing", progressing), ("Degraded", "False"), ("QuorumAvailable", "False")]
            .map(|(kind, status)| (kind.to_owned(), status.to_owned()))
    };
    assert_eq!(of(&falls), expected("True"));
    assert_eq!((of(&sleeps), ready_reason(Some(&sleeps))), (expected("False").into(), Some(HIBERNATED)));
    assert_eq!((sleeps.write_quorum, sleeps.ready_followers), (Some(3), Some(0)), "the quorum is still committed");
    assert_eq!(write(Some(&sleeps), &asleep(&store, &record, HIBERNATED, "now"), 400), None);
    // One that was joining when the nodes stopped is none of the followers.
    store.nodes.push(name(6));
    record.membership = record.membership.begin(NodeChange::Joining(name(6)));
    assert_eq!(asleep(&store, &record, HIBERNATED, "now").followers, 5);
}

#[test]
fn volumes_have_a_condition_of_their_own() {
    let calm = summary(|_| {}, Leadership::Active);
    let volumes = VolumeReport { resized: Verdict::new(false, "CannotGrow", "no"), smallest: Some("1Gi".to_owned()) };
    let status = after_pass(None, Some(4), "a=b".into(), &calm, Some(&volumes), at(100)).expect("a status");
    let status = stored(&status);
    assert_eq!((volumes_reason(Some(&status)), status.volume_size.as_deref()), (Some("CannotGrow"), Some("1Gi")));
    assert_eq!(ready_reason(Some(&status)), Some("AllFollowersReady"), "it works as before");
    let kinds: Vec<&str> = status.conditions.iter().map(|condition| condition.type_.as_str()).collect();
    assert!(kinds.iter().all(|kind| CONDITIONS.contains(kind)), "{kinds:?}");
}

#[test]
fn too_few_answers_name_the_missing_members() {
    let shortfall = Shortfall::Recovery { counted: 2, required: 3, missing: vec![name(0), name(5)] };
    let Summary { ready, degraded, .. } = summary(|_| {}, Leadership::Short(shortfall));
    assert!(ready.message.contains("n0, n5"), "{}", ready.message);
    assert_eq!((degraded.holds, degraded.reason), (true, "TooFewMembers"));
}

#[test]
fn where_every_copy_is_lost_a_person_is_told_what_to_do() {
    let shortfall = || Shortfall::Recovery { counted: 0, required: 5, missing: vec![name(0)] };
    let ready = summary(|scene| (0..6).for_each(|n| scene.reborn(n)), Leadership::Short(shortfall())).ready;
    assert!(ready.message.contains("dataLossPolicy Reset"), "{}", ready.message);
    let ready = summary(|scene| scene.silence(3), Leadership::Short(shortfall())).ready;
    assert!(!ready.message.contains("dataLossPolicy"), "n3 may still have its copy: {}", ready.message);
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a time")
}

/// The status as the API server would hold it after this patch.
fn stored(patch: &DerivedStatus) -> KvClusterStatus {
    serde_json::from_value(serde_json::to_value(patch).expect("serializes")).expect("a status")
}

fn write(current: Option<&KvClusterStatus>, summary: &Summary, second: i64) -> Option<DerivedStatus> {
    after_pass(current, Some(4), "a=b".into(), summary, None, at(second))
}

#[test]
fn the_same_pass_later_changes_nothing() {
    let calm = summary(|_| {}, Leadership::Active);
    let first = write(None, &calm, 100).expect("a first status");
    assert_eq!(write(Some(&stored(&first)), &calm, 200), None);
}

#[test]
fn a_condition_keeps_its_time_until_its_status_changes() {
    let first = stored(&write(None, &summary(|_| {}, Leadership::Active), 100).expect("a status"));
    let second = write(Some(&first), &summary(|_| {}, Leadership::Settling), 200).expect("a change");
    let time = |kind: &str| {
        let condition = second.conditions.iter().find(|condition| condition.type_ == kind).expect("there");
        condition.last_transition_time.0.as_second()
    };
    assert_eq!((time("Ready"), time("Degraded")), (200, 200));
    let third = write(Some(&stored(&second)), &summary(|_| {}, Leadership::Suspect), 300).expect("a reason changed");
    let ready = third.conditions.iter().find(|condition| condition.type_ == "Ready").expect("there");
    assert_eq!(ready.last_transition_time.0.as_second(), 200, "it was False before and still is");
}

#[test]
fn applied_values_stay_while_no_leader_is_active() {
    let first = stored(&write(None, &summary(|_| {}, Leadership::Active), 100).expect("a status"));
    let second = write(Some(&first), &summary(|_| {}, Leadership::Settling), 200).expect("a change");
    assert_eq!((second.write_quorum, second.delay_range.as_deref()), (Some(3), Some("0s-0s")));
}

#[test]
fn what_is_applied_is_what_the_leader_committed() {
    let pending = summary(|scene| scene.store.settings.write_quorum = WriteQuorum(5), Leadership::Active);
    assert_eq!(write(None, &pending, 100).expect("a status").write_quorum, Some(3));
}

#[test]
fn a_refused_spec_keeps_what_was_applied_and_says_why() {
    let first = stored(&write(None, &summary(|_| {}, Leadership::Active), 100).expect("a status"));
    let next = refused(Some(&first), Some(5), "InvalidSpec", "no", at(200)).expect("a change");
    assert_eq!((next.observed_generation, next.write_quorum), (Some(5), Some(3)));
    let kinds: Vec<&str> = next.conditions.iter().map(|condition| condition.type_.as_str()).collect();
    assert_eq!(kinds, ["Ready", "Progressing", "Degraded", "QuorumAvailable"]);
    assert_eq!(refused(Some(&stored(&next)), Some(5), "InvalidSpec", "no", at(300)), None);
}

#[test]
fn a_pause_is_told_once_beside_what_was_known_and_goes_with_the_next_pass() {
    let calm = summary(|_| {}, Leadership::Active);
    let first = stored(&write(None, &calm, 100).expect("a status"));
    let next = stored(&paused(Some(&first), Some(4), None, at(200)).expect("a change"));
    let kinds = |status: &KvClusterStatus| -> Vec<String> {
        status.conditions.iter().map(|condition| condition.type_.clone()).collect()
    };
    assert_eq!(kinds(&next), ["Ready", "Progressing", "Degraded", "QuorumAvailable", "Paused"]);
    assert_eq!(next.write_quorum, first.write_quorum);
    assert_eq!(paused(Some(&next), Some(5), None, at(300)), None, "whatever the spec says by then");
    let later = stored(&paused(Some(&next), Some(5), Some("It expires"), at(300)).expect("a change"));
    assert!(later.conditions[4].message.ends_with("before. It expires"), "{}", later.conditions[4].message);
    let resumed = stored(&write(Some(&next), &calm, 400).expect("a change"));
    assert_eq!(resumed.conditions, first.conditions);
}

#[test]
fn what_fails_besides_is_told_and_hides_nothing_that_is_worse() {
    let mut calm = summary(|_| {}, Leadership::Active);
    calm.degrade_also("KubernetesRefuses", "cannot annotate n1");
    assert_eq!((calm.degraded.reason, calm.degraded.message.as_str()), ("KubernetesRefuses", "cannot annotate n1"));
    let mut worse = summary(|s| s.seen(4).connected = false, Leadership::Active);
    worse.degrade_also("KubernetesRefuses", "cannot annotate n1");
    assert_eq!(worse.degraded.reason, "FollowersNotReady");
    let message = &worse.degraded.message;
    assert!(message.contains("n4 is not connected") && message.ends_with("; cannot annotate n1"), "{message}");
}
