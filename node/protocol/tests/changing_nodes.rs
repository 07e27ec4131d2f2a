//! What a leader does about the set of nodes that it is told: whom it counts, and what it refuses.

use std::time::Duration;

use bytes::Bytes;
use quorumkv_api::{
    Delay, Epoch, ProcessId, Seq, Settings, StorageId, WriteQuorum,
    peer::{Configuration, Member, MembersRequest, NodeChange, NodeState, PeerAddress, PromoteRequest, Refusal},
};
use quorumkv_protocol::{
    Identity, Leading, Limits, Node, Recovered,
    message::{
        Effects, FollowerMessage, Input, Micros, Operation, Outline, ReplyBody, RequestId, StreamId, Welcome, WriteId,
        WriteOutcome,
    },
};
use rstest::rstest;

const EPOCH: Epoch = Epoch(1);
const REQUEST: RequestId = RequestId(1);

/// A leader a, whose followers are connected and have acknowledged its first entries.
struct Store {
    leader: Node,
    members: Vec<Member>,
    now: Micros,
}

fn address(name: &str) -> PeerAddress {
    PeerAddress { node: name.into(), client_url: format!("http://{name}"), peer_url: format!("http://{name}:5100") }
}

fn stream(name: &str) -> StreamId {
    StreamId(u64::from(name.as_bytes()[0]))
}

fn leaving(node: &str) -> Option<NodeChange> {
    Some(NodeChange::Leaving(node.into()))
}

impl Store {
    fn of(names: &[&str], quorum: u8) -> Self {
        let member = |name: &&str| Member { name: (*name).into(), storage_id: StorageId::random() };
        let members: Vec<Member> = names.iter().map(member).collect();
        let identity = Identity {
            node: "a".into(),
            storage_id: members[0].storage_id,
            process_id: ProcessId::random(),
            client_url: String::new(),
        };
        let promote = PromoteRequest {
            epoch: EPOCH,
            storage_id: identity.storage_id,
            process_id: identity.process_id,
            peers: names.iter().map(|name| address(name)).collect(),
            members: members.clone(),
            lease_wait_ms: 0,
            bootstrap: Some(Settings {
                write_quorum: WriteQuorum(quorum),
                delay: Delay::ZERO,
                write_timeout: Duration::from_secs(1),
            }),
            configuration: Configuration::default(),
        };
        let leader = Node::new(identity, Limits::default(), Recovered::default(), Micros(0));
        let mut store = Self { leader, members, now: Micros(0) };
        store.take(Input::Fence { request: REQUEST, epoch: EPOCH });
        store.take(Input::Promote { request: REQUEST, promote });
        for name in &names[1..] {
            store.connect(name);
            store.acknowledge(name, 2);
        }
        store
    }

    fn take(&mut self, input: Input) -> Effects {
        self.now.0 += 1000;
        let mut effects = Effects::default();
        self.leader.step(self.now, input, &mut effects);
        self.leader.flush(self.now, &mut effects);
        self.leader.step(self.now, Input::Persisted(effects.ticket), &mut effects);
        self.leader.flush(self.now, &mut effects);
        effects
    }

    fn connect(&mut self, name: &str) {
        let member = self.members.iter().find(|member| member.name == name.into()).expect("a member");
        let welcome = Welcome {
            storage_id: member.storage_id,
            process_id: ProcessId::random(),
            outline: Outline::default(),
            commit: Seq(0),
        };
        self.take(Input::StreamUp { peer: name.into(), stream: stream(name), epoch: EPOCH, welcome });
    }

    fn acknowledge(&mut self, name: &str, match_seq: u64) -> Vec<(WriteId, WriteOutcome)> {
        let message = FollowerMessage::Ack { epoch: EPOCH, match_seq: Seq(match_seq), heartbeat: None };
        self.take(Input::FromFollower { peer: name.into(), stream: stream(name), message }).answers
    }

    /// The names of all nodes and the change under this number; every known copy is recorded, but that of the last
    /// name where it joins.
    fn tell(
        &mut self,
        names: &[&str],
        number: u64,
        change: Option<NodeChange>,
    ) -> (Result<NodeState, Refusal>, Effects) {
        let joins = change.as_ref().filter(|change| matches!(change, NodeChange::Joining(_)));
        let recorded = |member: &&Member| {
            names.iter().any(|name| member.name == (*name).into()) && joins.is_none_or(|it| *it.node() != member.name)
        };
        let members = MembersRequest {
            epoch: EPOCH,
            peers: names.iter().map(|name| address(name)).collect(),
            members: self.members.iter().filter(recorded).cloned().collect(),
            configuration: Configuration { number, change },
        };
        let mut effects = self.take(Input::Members { request: REQUEST, members });
        let reply = match effects.replies.pop() {
            Some((_, Ok(ReplyBody::State(state)))) => Ok(*state),
            Some((_, Err(refusal))) => Err(refusal.reason),
            other => panic!("{other:?}"),
        };
        (reply, effects)
    }

    fn covered(&self) -> bool {
        self.leader.state().configuration.expect("it says so").covered
    }

    fn counted(&self) -> Vec<String> {
        let followers = self.leader.state().followers.into_iter().filter(|follower| follower.counted);
        followers.map(|follower| follower.node.0).collect()
    }
}

#[test]
fn all_is_covered_once_the_others_hold_what_came_before() {
    let mut store = Store::of(&["a", "b", "c"], 1);
    let (reply, _) = store.tell(&["a", "b", "c"], 1, leaving("c"));
    assert!(!reply.expect("it can").configuration.expect("told").covered);
    assert_eq!(store.counted(), ["b"]);
    store.acknowledge("c", 3);
    assert!(!store.covered(), "c's word does not count");
    store.acknowledge("b", 3);
    assert!(store.covered());
    let (reply, effects) = store.tell(&["a", "b"], 2, None);
    assert_eq!(reply.expect("it can").followers.len(), 1);
    let Some(Leading::Streams { peers, .. }) = effects.leading else { panic!("c's stream ends") };
    assert_eq!(peers, [address("b")]);
}

#[rstest]
#[case::an_earlier_set(0, None, Refusal::StaleConfiguration)]
#[case::another_under_the_same_number(1, None, Refusal::Invalid)]
#[case::another_node_under_the_same_number(1, leaving("b"), Refusal::Invalid)]
fn what_is_told_later_under_no_higher_number_is_refused(
    #[case] number: u64,
    #[case] change: Option<NodeChange>,
    #[case] reason: Refusal,
) {
    let mut store = Store::of(&["a", "b", "c"], 1);
    store.tell(&["a", "b", "c"], 1, leaving("c")).0.expect("it can");
    assert_eq!(store.tell(&["a", "b", "c"], number, change).0.expect_err("refused"), reason);
    assert_eq!(store.counted(), ["b"], "nothing changed");
    store.tell(&["a", "b", "c"], 1, leaving("c")).0.expect("the same again is right");
}

#[test]
fn a_follower_that_the_quorum_needs_goes_on_counting() {
    let mut store = Store::of(&["a", "b", "c"], 2);
    assert_eq!(store.tell(&["a", "b", "c"], 1, leaving("c")).0.expect_err("two are needed"), Refusal::NotNow);
    assert_eq!(store.counted(), ["b", "c"]);
    let leave = leaving("a");
    let (reply, _) = store.tell(&["a", "b", "c"], 1, leave);
    assert!(!reply.expect("another has to lead first").configuration.expect("told").covered);
    assert!(!store.covered(), "a leader cannot do without itself");
}

#[test]
fn a_node_that_joins_counts_once_it_is_recorded() {
    let mut store = Store::of(&["a", "b"], 1);
    store.members.push(Member { name: "c".into(), storage_id: StorageId::random() });
    store.tell(&["a", "b", "c"], 1, Some(NodeChange::Joining("c".into()))).0.expect("it can");
    store.connect("c");
    store.acknowledge("c", 2);
    assert_eq!(store.counted(), ["b"]);
    store.tell(&["a", "b", "c"], 2, None).0.expect("it can");
    assert_eq!(store.counted(), ["b", "c"]);
}

#[test]
fn a_quorum_of_nodes_that_join_or_leave_is_refused() {
    let mut store = Store::of(&["a", "b", "c"], 1);
    store.tell(&["a", "b", "c"], 1, leaving("c")).0.expect("it can");
    let patch = quorumkv_api::SettingsPatch { write_quorum: Some(WriteQuorum(2)), ..Default::default() };
    let mut effects = store.take(Input::ChangeSettings { request: REQUEST, patch });
    let refused = effects.replies.pop().expect("an answer").1.expect_err("one follower stays");
    assert_eq!(refused.reason, Refusal::Invalid, "{refused}");
}

#[test]
fn a_write_with_a_round_trip_for_each_does_not_wait_for_the_one_that_leaves() {
    let mut store = Store::of(&["a", "b", "c"], 2);
    let operation = Operation::Put { key: Bytes::from_static(b"k"), value: Bytes::from_static(b"1") };
    let round_trips = vec![Duration::from_millis(1), Duration::from_millis(900)];
    store.take(Input::Propose { write: WriteId(7), operation, round_trips });
    let patch = quorumkv_api::SettingsPatch { write_quorum: Some(WriteQuorum(1)), ..Default::default() };
    store.take(Input::ChangeSettings { request: REQUEST, patch });
    store.acknowledge("c", 4);
    assert_eq!(store.acknowledge("b", 4), [], "c's round trip is not over");
    store.take(Input::Tick);
    let (reply, mut effects) = store.tell(&["a", "b", "c"], 1, leaving("c"));
    reply.expect("quorum one is in force");
    effects.answers.extend(store.take(Input::Tick).answers);
    assert!(matches!(effects.answers[..], [(WriteId(7), WriteOutcome::Committed { .. })]), "{:?}", effects.answers);
}
