//! Passes over stores of nodes that answer as they are told.

use quorumkv_api::{Epoch, WriteQuorum};

use super::*;
use crate::testing::{
    Scene, copy, name,
    nodes::{Journal, Recorded, serve},
};

struct World {
    scene: Scene,
    journal: Journal,
    platform: Recorded,
    nodes: Vec<KnownNode>,
    memory: Memory,
}

impl World {
    async fn of(scene: Scene) -> Self {
        let journal = Journal::default();
        let platform = Recorded::new(scene.record.clone(), &journal);
        let nodes = serve(&scene, &journal).await;
        Self { scene, journal, platform, nodes, memory: Memory::default() }
    }

    async fn pass(&mut self) -> Result<Pass, PassError> {
        let client = PeerClient::new(None, ANSWER_TIMEOUT).expect("a client");
        let known = self.scene.record.clone();
        pass(&self.platform, &client, &self.scene.store, self.nodes.clone(), known, &mut self.memory).await
    }

    /// At rest, with the wish that this node shall lead.
    async fn wishing_for(n: usize, bend: impl FnOnce(&mut Scene)) -> Self {
        let mut scene = Scene::steady();
        scene.store.switchover_to = Some(name(n));
        bend(&mut scene);
        let world = Self::of(scene).await;
        *world.platform.wish.lock().expect("not poisoned") = Some(name(n));
        world
    }

    fn journal(&self) -> Vec<String> {
        std::mem::take(&mut self.journal.lock().expect("not poisoned"))
    }
}

#[tokio::test]
async fn a_new_store_records_fences_records_and_promotes_in_this_order() {
    let mut world = World::of(Scene::unborn()).await;
    let pass = world.pass().await.expect("a pass");
    let journal = world.journal();
    assert_eq!(journal[0], "record epoch 1 leader nobody members 0");
    let mut fences = journal[1..7].to_vec();
    fences.sort();
    assert_eq!(fences, (0..6).map(|n| format!("n{n} fence 1")).collect::<Vec<_>>());
    assert_eq!(journal[7..], ["record epoch 1 leader n0 members 6", "n0 promote 1 with first settings"]);
    assert_eq!(pass.leadership, Leadership::Settling);
    assert_eq!(pass.record.leader, Some(name(0)));
}

#[tokio::test]
async fn a_steady_store_is_told_its_members_and_nothing_else() {
    let mut world = World::of(Scene::steady()).await;
    for _ in 0..2 {
        let pass = world.pass().await.expect("a pass");
        assert_eq!(pass.leadership, Leadership::Active);
        assert_eq!(pass.happenings, []);
        assert_eq!(world.journal(), ["n0 members 6 of epoch 3"]);
    }
}

#[tokio::test]
async fn where_every_node_refuses_the_token_nobody_is_elected_and_that_is_told_once() {
    let mut scene = Scene::steady();
    for n in 0..6 {
        scene.silence(n);
        scene.nodes[n].refuses_token = n != 5;
    }
    let mut world = World::of(scene).await;
    for round in 0..3 {
        let pass = world.pass().await.expect("a pass");
        assert_eq!(pass.leadership, Leadership::Suspect, "what leads goes on leading");
        let told = [Happening::LockedOut { nodes: 5 }];
        assert_eq!(pass.happenings, if round == 0 { &told[..] } else { &[] });
        assert_eq!(world.journal(), Vec::<String>::new(), "no fence, no record");
        // Longer than a leader may be silent, in all.
        tokio::time::sleep(decide::SILENCE * 6 / 10).await;
    }
}

#[tokio::test]
async fn a_learner_is_recorded_first_and_counted_second() {
    let mut scene = Scene::steady();
    scene.seen(2).storage_id = Some(copy(102));
    let mut world = World::of(scene).await;
    let pass = world.pass().await.expect("a pass");
    assert_eq!(world.journal(), ["record epoch 3 leader n0 members 6", "n0 members 6 of epoch 3"]);
    assert_eq!(pass.happenings, [Happening::Recorded { node: name(2) }]);
    assert!(pass.record.members.contains(&Member { name: name(2), storage_id: copy(102) }));
}

#[tokio::test]
async fn a_node_leaves_on_record_before_the_leader_hears_of_it_and_is_gone_once_the_leader_can_do_without() {
    let mut scene = Scene::steady();
    scene.store.wanted = 5;
    let mut world = World::of(scene).await;
    let begun = world.pass().await.expect("a pass");
    assert_eq!(world.journal(), ["record epoch 3 leader n0 members 6"]);
    assert_eq!(begun.happenings, [Happening::NodeLeaving { node: name(5) }]);
    let told = world.pass().await.expect("a pass");
    assert_eq!(world.journal(), ["n0 members 6 of epoch 3 in set 1 of 6"]);
    assert_eq!(told.record.membership.nodes, 6, "the leader's word for it comes with the next pass");
    let done = world.pass().await.expect("a pass");
    assert_eq!(world.journal(), ["record epoch 3 leader n0 members 5"]);
    assert_eq!(done.happenings, [Happening::NodeLeft { node: name(5) }]);
    assert_eq!((done.record.membership.nodes, done.record.membership.number), (5, 2));
    assert!(done.record.membership.known_quorum.is_some(), "recorded together with N - 1");
    // Whoever still takes it for one of the store's nodes does nothing.
    assert!(matches!(world.pass().await, Err(PassError::Record(RecordError::Conflict))));
    assert_eq!(world.journal(), [""; 0]);
    world.scene.store = world.scene.store.as_recorded(&done.record);
    world.nodes.pop();
    world.pass().await.expect("a pass");
    assert_eq!(world.journal(), ["n0 members 5 of epoch 3 in set 2 of 5"]);
}

#[tokio::test]
async fn a_quorum_for_more_followers_than_there_are_waits_for_them() {
    let mut scene = Scene::steady();
    (scene.store.wanted, scene.store.settings.write_quorum) = (8, WriteQuorum(7));
    let mut world = World::of(scene).await;
    let begun = world.pass().await.expect("a pass");
    assert_eq!(world.journal(), ["record epoch 3 leader n0 members 6"], "no settings were pushed");
    assert_eq!(begun.happenings, [Happening::NodeJoining { node: name(6) }]);
    // The platform makes the node; until then nobody deals with a set that is not there.
    assert!(matches!(world.pass().await, Err(PassError::Record(RecordError::Conflict))));
}

#[tokio::test]
async fn new_settings_are_pushed_once() {
    let mut scene = Scene::steady();
    scene.store.settings.write_quorum = WriteQuorum(5);
    let mut world = World::of(scene).await;
    let first = world.pass().await.expect("a pass");
    assert_eq!(world.journal(), ["n0 members 6 of epoch 3", "n0 settings quorum 5"]);
    let applied = first.situation(&world.scene.store).leader_state().and_then(|state| state.settings);
    assert_eq!(applied.expect("settings").settings.write_quorum, WriteQuorum(5));
    world.pass().await.expect("a pass");
    assert_eq!(world.journal(), ["n0 members 6 of epoch 3"]);
}

#[tokio::test]
async fn a_dead_leader_is_replaced_under_the_next_epoch() {
    let mut scene = Scene::steady();
    scene.silence(0);
    scene.nodes[0].presence = Presence::NotRunning;
    let mut world = World::of(scene).await;
    world.pass().await.expect("a pass");
    let journal = world.journal();
    assert_eq!(journal.first().expect("a change"), "record epoch 4 leader nobody members 6");
    assert_eq!(journal[6..], ["record epoch 4 leader n1 members 6", "n1 promote 4"]);
}

#[tokio::test]
async fn a_stopping_leader_is_fenced_before_anybody_is_chosen_and_not_chosen_again() {
    let mut scene = Scene::steady();
    scene.nodes[0].presence = Presence::Stopping;
    scene.state(0).last.seq.0 += 7;
    let mut world = World::of(scene).await;
    world.pass().await.expect("a pass");
    let journal = world.journal();
    assert!(journal[1..7].contains(&"n0 fence 4".to_owned()), "{journal:?}");
    assert_eq!(journal[7], "record epoch 4 leader n1 members 6");
}

#[tokio::test]
async fn an_operator_that_dies_in_an_election_begins_again_higher() {
    for steps in 0..2 {
        let mut scene = Scene::steady();
        scene.silence(0);
        scene.nodes[0].presence = Presence::NotRunning;
        let mut world = World::of(scene).await;
        *world.platform.fails_after.lock().expect("not poisoned") = Some(steps);
        world.pass().await.expect_err("the record is out of reach");
        let died = world.journal();
        assert!(died.iter().all(|line| !line.contains("promote")), "{died:?}");
        // Another operator, with nothing in mind and an outdated cache.
        *world.platform.fails_after.lock().expect("not poisoned") = None;
        world.memory = Memory::default();
        let pass = world.pass().await.expect("a pass");
        let epoch = Epoch(4 + steps as u64);
        assert_eq!((pass.record.epoch, pass.record.leader), (epoch, Some(name(1))));
        assert_eq!(world.journal().last().expect("a change"), &format!("n1 promote {epoch}"));
    }
}

#[tokio::test]
async fn a_record_that_changed_is_read_again_before_anybody_is_fenced() {
    let mut scene = Scene::steady();
    scene.silence(0);
    scene.nodes[0].presence = Presence::NotRunning;
    let mut world = World::of(scene).await;
    world.memory.record = Some(world.scene.record.clone());
    world.platform.record.lock().expect("not poisoned").0.epoch = Epoch(9);
    world.pass().await.expect("a pass");
    assert_eq!(world.journal(), [] as [String; 0]);
}

#[tokio::test]
async fn a_promise_above_the_tried_epoch_ends_the_election_and_the_next_goes_above_it() {
    let mut scene = Scene::steady();
    scene.silence(0);
    scene.nodes[0].presence = Presence::NotRunning;
    scene.state(5).promised = Epoch(30);
    let mut world = World::of(scene).await;
    let pass = world.pass().await.expect("a pass");
    assert_eq!((pass.record.epoch, pass.record.leader), (Epoch(31), Some(name(1))));
}

#[tokio::test]
async fn too_few_answers_change_nothing() {
    let mut scene = Scene::steady();
    for n in 0..4 {
        scene.silence(n);
        scene.nodes[n].presence = Presence::NotRunning;
    }
    let mut world = World::of(scene).await;
    let pass = world.pass().await.expect("a pass");
    assert!(matches!(pass.leadership, Leadership::Short(_)));
    assert_eq!(world.journal(), [] as [String; 0]);
}

#[tokio::test]
async fn a_switchover_takes_the_wish_records_fences_records_and_promotes_in_this_order() {
    // Under load: the leader is ahead of everybody, and one follower ahead of the wanted one.
    let mut world = World::wishing_for(3, |scene| {
        scene.state(0).last.seq.0 += 7;
        scene.state(4).last.seq.0 += 2;
    })
    .await;
    let pass = world.pass().await.expect("a pass");
    let journal = world.journal();
    assert_eq!(journal[..2], ["withdraw n3", "record epoch 4 leader nobody members 6"]);
    let mut fences = journal[2..7].to_vec();
    fences.sort();
    assert_eq!(fences, [0, 1, 2, 4, 5].map(|n| format!("n{n} fence 4")));
    assert_eq!(journal[7], "n3 fence 4", "it takes in what is sent until all others have stopped");
    assert_eq!(journal[8..], ["record epoch 4 leader n3 members 6", "n3 promote 4"]);
    assert_eq!(pass.happenings.last(), Some(&Happening::SwitchedOver { to: name(3) }));
    // What is watched may be seen late: the wish of before is no second one.
    world.scene.record = pass.record;
    let again = world.pass().await.expect("a pass");
    assert_eq!((again.happenings, again.record.epoch), (vec![], Epoch(4)));
}

#[tokio::test]
async fn a_wanted_node_that_turns_out_to_lack_entries_does_not_lead() {
    let mut world = World::wishing_for(3, |scene| scene.state(3).last.seq.0 -= 1).await;
    let pass = world.pass().await.expect("a pass");
    assert_eq!(world.journal()[8..], ["record epoch 4 leader n1 members 6", "n1 promote 4"]);
    let missed = Happening::SwitchoverMissed { wanted: name(3), leader: Some(name(1)) };
    assert_eq!(pass.happenings.last(), Some(&missed));
    assert!(missed.is_warning());
}

#[tokio::test]
async fn a_wish_that_makes_no_sense_is_taken_away_and_disturbs_nobody() {
    let mut world = World::wishing_for(0, |_| {}).await;
    let pass = world.pass().await.expect("a pass");
    assert_eq!(world.journal(), ["withdraw n0", "n0 members 6 of epoch 3"]);
    let told: Vec<&str> = pass.happenings.iter().map(|happening| happening.reason().as_str()).collect();
    assert_eq!(told, ["SwitchoverNotNeeded"]);
    world.pass().await.expect("a pass");
    assert_eq!(world.journal(), ["n0 members 6 of epoch 3"], "once");
}

#[tokio::test]
async fn a_wish_that_waits_stays() {
    let mut world = World::wishing_for(3, |scene| scene.seen(3).match_seq.0 -= 1).await;
    let pass = world.pass().await.expect("a pass");
    assert_eq!(world.journal(), ["n0 members 6 of epoch 3"]);
    assert_eq!(
        world.memory.pause_after(&pass, &world.scene.store),
        Duration::from_millis(200),
        "it is looked at again soon"
    );
}

#[tokio::test]
async fn an_operator_that_dies_in_a_switchover_leaves_no_second_one() {
    for steps in 0..2 {
        let mut world = World::wishing_for(3, |_| {}).await;
        *world.platform.fails_after.lock().expect("not poisoned") = Some(steps);
        world.pass().await.expect_err("the record is out of reach");
        assert_eq!(world.journal()[0], "withdraw n3");
        *world.platform.fails_after.lock().expect("not poisoned") = None;
        let told = world.memory.untold.clone();
        assert_eq!(told, Some(Happening::SwitchoverMissed { wanted: name(3), leader: None }));
        // Another operator, to which the wish is shown by an outdated cache.
        world.memory = Memory::default();
        let pass = world.pass().await.expect("a pass");
        let journal = world.journal();
        assert!(!journal.contains(&"withdraw n3".to_owned()), "{journal:?}");
        // Nothing had begun; or an election was cut short, and is held again.
        let expected = if steps == 0 { (Epoch(3), Some(name(0))) } else { (Epoch(5), Some(name(0))) };
        assert_eq!((pass.record.epoch, pass.record.leader), expected);
    }
}
