//! Writes that wait for a follower which comes back with another copy.

use std::time::Duration;

use bytes::Bytes;
use quorumkv_api::{
    Delay, Epoch, NodeId, ProcessId, Seq, Settings, StorageId, WriteQuorum,
    peer::{Configuration, Member, MembersRequest, PeerAddress, PromoteRequest},
};
use quorumkv_protocol::{
    Identity, Limits, Node, Recovered,
    message::{
        Effects, FollowerMessage, Input, Micros, Operation, Outline, RequestId, StreamId, Welcome, WriteId,
        WriteOutcome,
    },
};

const EPOCH: Epoch = Epoch(1);
const REQUEST: RequestId = RequestId(1);

/// A leader with one follower, whose every acknowledgement counts or is missed.
struct Pair {
    leader: Node,
    own: Member,
    peers: Vec<PeerAddress>,
}

impl Pair {
    fn new(follower: &Member) -> Self {
        let own = member("a");
        let identity = Identity {
            node: own.name.clone(),
            storage_id: own.storage_id,
            process_id: ProcessId::random(),
            client_url: "http://a".to_owned(),
        };
        let peers = ["a", "b"].map(|name| PeerAddress {
            node: name.into(),
            client_url: format!("http://{name}"),
            peer_url: format!("http://{name}:5100"),
        });
        let promote = PromoteRequest {
            epoch: EPOCH,
            storage_id: identity.storage_id,
            process_id: identity.process_id,
            peers: peers.to_vec(),
            members: vec![own.clone(), follower.clone()],
            lease_wait_ms: 0,
            bootstrap: Some(Settings { write_quorum: WriteQuorum(1), delay: Delay::ZERO, ..Settings::default() }),
            configuration: Configuration::default(),
        };
        let leader = Node::new(identity, Limits::default(), Recovered::default(), Micros(0));
        let mut pair = Self { leader, own, peers: peers.to_vec() };
        pair.take(0, Input::Fence { request: REQUEST, epoch: EPOCH });
        pair.take(0, Input::Promote { request: REQUEST, promote });
        pair
    }

    /// One input and its flush; whatever is to be persisted is persisted at once.
    fn take(&mut self, now_ms: u64, input: Input) -> Vec<(WriteId, WriteOutcome)> {
        let now = Micros(now_ms * 1000);
        let mut effects = Effects::default();
        self.leader.step(now, input, &mut effects);
        self.leader.flush(now, &mut effects);
        self.leader.step(now, Input::Persisted(effects.ticket), &mut effects);
        self.leader.flush(now, &mut effects);
        effects.answers
    }

    fn connect(&mut self, now_ms: u64, stream: u64, copy: &Member) {
        let welcome = Welcome {
            storage_id: copy.storage_id,
            process_id: ProcessId::random(),
            outline: Outline::default(),
            commit: Seq(0),
        };
        self.take(now_ms, Input::StreamUp { peer: copy.name.clone(), stream: StreamId(stream), epoch: EPOCH, welcome });
    }

    fn acknowledge(&mut self, now_ms: u64, stream: u64, match_seq: u64) -> Vec<(WriteId, WriteOutcome)> {
        let message = FollowerMessage::Ack { epoch: EPOCH, match_seq: Seq(match_seq), heartbeat: None };
        self.take(now_ms, Input::FromFollower { peer: "b".into(), stream: StreamId(stream), message })
    }

    fn write(&mut self, now_ms: u64, round_trip: Duration) -> Vec<(WriteId, WriteOutcome)> {
        let operation = Operation::Put { key: Bytes::from_static(b"k"), value: Bytes::from_static(b"1") };
        self.take(now_ms, Input::Propose { write: WriteId(7), operation, round_trips: vec![round_trip] })
    }

    fn record(&mut self, now_ms: u64, copy: &Member) -> Vec<(WriteId, WriteOutcome)> {
        let members = MembersRequest {
            epoch: EPOCH,
            peers: self.peers.clone(),
            members: vec![self.own.clone(), copy.clone()],
            configuration: Configuration::default(),
        };
        self.take(now_ms, Input::Members { request: REQUEST, members })
    }
}

fn member(name: &str) -> Member {
    Member { name: NodeId::from(name), storage_id: StorageId::random() }
}

fn is_committed(answers: &[(WriteId, WriteOutcome)]) -> bool {
    matches!(answers, [(WriteId(7), WriteOutcome::Committed { version: Seq(3), replicas: 1, .. })])
}

/// Barrier and settings are committed, then the follower loses its copy while a write waits.
fn with_a_waiting_write() -> (Pair, Member) {
    let old = member("b");
    let mut pair = Pair::new(&old);
    pair.connect(1, 1, &old);
    pair.acknowledge(2, 1, 2);
    pair.take(3, Input::StreamDown { peer: "b".into(), stream: StreamId(1) });
    assert_eq!(pair.write(4, Duration::from_millis(10)), [], "nobody is there to confirm it");
    let new = member("b");
    pair.connect(5, 2, &new);
    (pair, new)
}

#[test]
fn a_write_is_answered_when_the_new_copy_that_holds_it_counts() {
    let (mut pair, new) = with_a_waiting_write();
    assert_eq!(pair.acknowledge(6, 2, 3), [], "it does not count yet");
    assert_eq!(pair.take(20, Input::Tick), [], "nor does the end of its round trip");
    assert!(is_committed(&pair.record(21, &new)));
}

#[test]
fn a_write_still_waits_for_its_round_trip_after_the_new_copy_counts() {
    let (mut pair, new) = with_a_waiting_write();
    pair.acknowledge(6, 2, 3);
    assert_eq!(pair.record(7, &new), [], "the round trip of 10 ms began at 4 ms");
    assert!(is_committed(&pair.take(14, Input::Tick)));
}

#[test]
fn a_copy_that_counts_before_it_acknowledges_confirms_as_ever() {
    let (mut pair, new) = with_a_waiting_write();
    assert_eq!(pair.record(6, &new), []);
    assert_eq!(pair.take(20, Input::Tick), []);
    assert!(is_committed(&pair.acknowledge(21, 2, 3)));
}

#[test]
fn an_answer_is_owed_until_it_is_given_or_the_write_is_given_up() {
    let copy = member("b");
    let mut pair = Pair::new(&copy);
    pair.connect(1, 1, &copy);
    pair.acknowledge(2, 1, 2);
    let text = Bytes::from_static(b"1");
    for (write, round_trips) in [(1, vec![]), (2, vec![Duration::from_millis(10)]), (3, vec![])] {
        let operation = Operation::Put { key: text.clone(), value: text.clone() };
        assert_eq!(pair.take(3, Input::Propose { write: WriteId(write), operation, round_trips }), []);
    }
    let owed = |pair: &Pair| [2, 3, 4, 5, 6].map(|seq| pair.leader.owes_answer(Seq(seq)));
    assert_eq!(owed(&pair), [false, true, true, true, false]);
    assert_eq!(pair.acknowledge(4, 1, 4).len(), 1);
    assert_eq!(owed(&pair), [false, false, true, true, false], "one is committed, but its round trip goes on");
    assert_eq!(pair.take(20, Input::Tick).len(), 1);
    assert_eq!(owed(&pair), [false, false, false, true, false]);
    assert_eq!(pair.take(60_000, Input::Tick), [(WriteId(3), WriteOutcome::QuorumNotReached { replicas: 0 })]);
    assert_eq!(owed(&pair), [false; 5]);
}
