use quorumkv_api::{Epoch, Seq};
use quorumkv_protocol::{EpochStart, Format, Hello, LeaderMessage, Micros, Outline, SnapshotMeta, View};
use rstest::rstest;
use tokio::io::{AsyncReadExt as _, DuplexStream, duplex};

use super::*;
use crate::{
    clock::Clock,
    handle::{Command, DriverHandle},
};

mod compression;

/// Of a node that does nothing.
fn view() -> View {
    View {
        role: quorumkv_api::lab::Role::Follower,
        epoch: Epoch(0),
        leader: None,
        leader_url: None,
        ready: false,
        lease_until: None,
        last: Default::default(),
        commit: Seq(0),
        settings: None,
        pending_writes: 0,
    }
}

/// A follower's end of a stream, whose driver is the test.
struct Follower {
    leader: DuplexStream,
    commands: mpsc::Receiver<Command>,
    task: tokio::task::JoinHandle<()>,
}

impl Follower {
    fn new() -> Self {
        let (_, views) = tokio::sync::watch::channel(view());
        let (driver, commands) = DriverHandle::new(views, Clock::start());
        let (leader, follower) = duplex(1 << 20);
        Self { leader, commands, task: tokio::spawn(serve(driver, follower)) }
    }

    /// Past the hello; the driver's end of the stream.
    async fn greeted() -> (Self, mpsc::Sender<Outgoing>) {
        let mut follower = Self::new();
        let hello = Hello { epoch: Epoch(3), leader: "n0".into(), client_url: "http://n0:5000".to_owned() };
        follower.send(&wire::hello(&hello)).await;
        let Some(Command::Hello { hello: received, outbound, .. }) = follower.commands.recv().await else {
            panic!("a hello")
        };
        assert_eq!(received, hello);
        (follower, outbound)
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.leader.write_all(bytes).await.expect("the other end reads");
    }

    /// What the driver hears last, after the stream ended.
    async fn ends(mut self) -> Vec<Command> {
        tokio::time::timeout(SILENCE * 3, self.task).await.expect("it ends").expect("without a panic");
        let mut rest = Vec::new();
        while let Some(command) = self.commands.recv().await {
            rest.push(command);
        }
        rest
    }
}

/// Of several parts.
fn snapshot() -> (SnapshotMeta, Snapshot) {
    let mut snapshot = Snapshot::default();
    for key in 0..3_000_u64 {
        snapshot.put(format!("key-{key}").as_bytes(), Format::Json, &[b'7'; 300], Seq(key + 1));
    }
    snapshot.applied = Seq(3_001);
    let starts = vec![EpochStart { epoch: Epoch(3), first: Seq(1) }];
    (SnapshotMeta { outline: Outline { starts, last: Seq(3_001) }, settings: None }, snapshot)
}

fn only_down(commands: &[Command]) -> bool {
    matches!(commands, [Command::LeaderStreamDown { .. }])
}

#[tokio::test]
async fn messages_reach_the_driver_in_order() {
    let (mut follower, _outbound) = Follower::greeted().await;
    for commit in 1..=3 {
        follower.send(&wire::heartbeat(Epoch(3), Seq(commit), Micros(commit))).await;
    }
    for expected in 1..=3 {
        let command = follower.commands.recv().await.expect("a message");
        let Command::FromLeader { message: LeaderMessage::Heartbeat { commit, .. }, .. } = command else {
            panic!("a heartbeat, not {command:?}")
        };
        assert_eq!(commit, Seq(expected));
    }
}

#[tokio::test]
async fn what_the_driver_queues_is_written_and_then_the_stream_ends() {
    let (mut follower, outbound) = Follower::greeted().await;
    let frame = wire::follower_message(&quorumkv_protocol::FollowerMessage::Rejected { promised: Epoch(9) });
    outbound.send(Outgoing::Frame(frame.clone())).await.expect("the writer takes it");
    drop(outbound);
    let mut written = Vec::new();
    follower.leader.read_to_end(&mut written).await.expect("closed in order");
    assert!(written.windows(frame.len()).any(|window| window == frame), "the last message was written first");
    assert!(only_down(&follower.ends().await));
}

#[rstest]
#[case::damaged({ let mut frame = wire::alive().to_vec(); frame[8] ^= 1; frame })]
#[case::too_large(vec![0xff; 8])]
#[case::unknown_kind(crate::codec::frame(1, |out| out.extend_from_slice(&[99])).to_vec())]
#[case::second_hello(wire::hello(&Hello { epoch: Epoch(3), leader: "n0".into(), client_url: String::new() }).to_vec())]
#[case::part_of_nothing(wire::snapshot_end(0).to_vec())]
#[tokio::test]
async fn a_frame_that_makes_no_sense_ends_the_stream(#[case] bytes: Vec<u8>) {
    let (mut follower, _outbound) = Follower::greeted().await;
    follower.send(&bytes).await;
    assert!(only_down(&follower.ends().await), "nothing of it reaches the driver");
}

#[tokio::test]
async fn a_stream_that_does_not_begin_with_a_hello_never_reaches_the_driver() {
    let mut follower = Follower::new();
    follower.send(&wire::heartbeat(Epoch(3), Seq(1), Micros(1))).await;
    assert!(follower.ends().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_silent_leader_is_given_up_and_a_quiet_one_is_not() {
    let (mut follower, _outbound) = Follower::greeted().await;
    for _ in 0..10 {
        tokio::time::sleep(SILENCE / 2).await;
        follower.send(&wire::alive()).await;
    }
    assert!(!follower.task.is_finished(), "signs of life keep it up");
    let quiet_since = Instant::now();
    assert!(only_down(&follower.ends().await));
    let waited = quiet_since.elapsed();
    assert!((SILENCE..SILENCE * 2).contains(&waited), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_writer_with_nothing_to_say_shows_that_it_is_there() {
    let (mut follower, _outbound) = Follower::greeted().await;
    tokio::time::sleep(SIGN_OF_LIFE * 2).await;
    let mut frame = vec![0; wire::alive().len()];
    follower.leader.read_exact(&mut frame).await.expect("a sign of life");
    assert_eq!(frame, wire::alive());
}

#[tokio::test]
async fn a_snapshot_arrives_whole_or_not_at_all() {
    let (meta, snapshot) = snapshot();

    // Through the leader's own writer.
    let (leader, mut follower) = duplex(1 << 22);
    let (queue, waiting) = mpsc::channel(4);
    let outgoing = Outgoing::Snapshot { epoch: Epoch(3), meta: meta.clone(), snapshot: snapshot.clone() };
    queue.send(outgoing).await.expect("room");
    drop(queue);
    write_all(leader, waiting, Compression::Off, StreamBytes::default()).await.expect("written");
    let mut bytes = Vec::new();
    follower.read_to_end(&mut bytes).await.expect("closed in order");

    let (mut whole, _outbound) = Follower::greeted().await;
    whole.send(&bytes).await;
    let Some(Command::SnapshotReceived { meta: received, snapshot: arrived, .. }) = whole.commands.recv().await else {
        panic!("a snapshot")
    };
    assert_eq!((received, arrived), (meta.clone(), snapshot));

    // One part is missing.
    let (mut partial, _outbound) = Follower::greeted().await;
    partial.send(&wire::snapshot_start(Epoch(3), &meta)).await;
    partial.send(&wire::snapshot_end(3_000)).await;
    assert!(only_down(&partial.ends().await));
}
