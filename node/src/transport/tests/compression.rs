//! Who gets compressed frames: those who said that they read them, and nobody else.

use quorumkv_api::{Position, ProcessId, StorageId, peer::PeerAddress};
use quorumkv_protocol::{Append, Entry, FollowerMessage, Operation, Welcome};
use tokio::net::TcpListener;

use super::*;
use crate::{
    auth::Token,
    metrics::Direction,
    peer_router::{PeerPort, router},
};

const ON: Compression = Compression::Above(4096);
const PATIENCE: Duration = Duration::from_secs(10);

/// A driver that is the test.
fn driver() -> (DriverHandle, mpsc::Receiver<Command>) {
    DriverHandle::new(tokio::sync::watch::channel(view()).1, Clock::start())
}

/// A leader's driver, a follower's, and a stream between them that is up.
struct Stream {
    leader: DriverHandle,
    follower: DriverHandle,
    outbound: mpsc::Sender<Outgoing>,
    received: mpsc::Receiver<Command>,
    /// The other ends of the drivers' queues, which end the stream when they are dropped.
    _open: (mpsc::Sender<Outgoing>, mpsc::Receiver<Command>),
}

/// Opens a stream over TCP, through a follower's peer port.
async fn stream(leader_compression: Compression, follower_compression: Compression) -> Stream {
    let ((leader, mut at_leader), (follower, mut received)) = (driver(), driver());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let peer_url = format!("http://{}", listener.local_addr().expect("a port"));
    let port =
        PeerPort { driver: follower.clone(), token: Token::new(None), compression: follower_compression, tls: None };
    tokio::spawn(async move { axum::serve(listener, router(port)).await });

    let address = PeerAddress { node: "n1".into(), client_url: String::new(), peer_url };
    let hello = Hello { epoch: Epoch(3), leader: "n0".into(), client_url: String::new() };
    let dial = Dial { compression: leader_compression, ..Dial::default() };
    let dialling = leader.clone();
    tokio::spawn(async move { run(&dialling, &address, &hello, &dial).await });

    let Some(Command::Hello { outbound: answer, .. }) = received.recv().await else { panic!("a hello") };
    let outline = Outline { starts: Vec::new(), last: Seq(0) };
    let (storage_id, process_id) = (StorageId::random(), ProcessId::random());
    let welcome = FollowerMessage::Welcome(Welcome { storage_id, process_id, outline, commit: Seq(0) });
    answer.send(Outgoing::Frame(wire::follower_message(&welcome))).await.expect("the stream is up");
    let Some(Command::StreamUp { outbound, .. }) = at_leader.recv().await else { panic!("a stream") };
    Stream { leader, follower, outbound, received, _open: (answer, at_leader) }
}

impl Stream {
    async fn next(&mut self) -> Command {
        let next = tokio::time::timeout(PATIENCE, self.received.recv()).await;
        next.expect("it comes soon").expect("the stream is up")
    }

    /// Bytes that the follower received: on the wire, and uncompressed.
    fn received(&self) -> (u64, u64) {
        self.follower.metrics.stream_bytes(Direction::Received).get()
    }
}

fn large(value: &str) -> (SharedFrame, Append) {
    let operation = Operation::Put { key: "k".into(), value: format!("\"{value}\"").into() };
    let prev = Position { epoch: Epoch(0), seq: Seq(0) };
    let entries = vec![Entry { epoch: Epoch(3), seq: Seq(1), operation }];
    let frames = wire::append(Epoch(3), prev, Seq(0), entries.iter());
    (frames[0].clone().into(), Append { epoch: Epoch(3), prev, commit: Seq(0), entries })
}

#[rstest]
#[case::both_may(ON, ON, true)]
#[case::a_follower_that_does_not_read_it_or_is_older(ON, Compression::Off, false)]
#[case::a_leader_that_does_not_write_it_or_is_older(Compression::Off, ON, false)]
#[case::none(Compression::Off, Compression::Off, false)]
#[tokio::test]
async fn frames_are_compressed_where_the_leader_may_and_the_follower_announced_it(
    #[case] leader: Compression,
    #[case] follower: Compression,
    #[case] compressed: bool,
) {
    let mut stream = stream(leader, follower).await;
    let (before, _) = stream.received();
    let (frame, append) = large(&"much of the same, ".repeat(5000));
    let plain = frame.plain().len() as u64;
    stream.outbound.send(Outgoing::Shared(frame)).await.expect("the stream is up");
    let Command::FromLeader { message, .. } = stream.next().await else { panic!("a message") };
    assert_eq!(message, LeaderMessage::Append(append));
    let (wire, uncompressed) = stream.received();
    assert!(uncompressed >= plain, "{uncompressed}");
    let limit = if compressed { 0..plain / 10 } else { plain..plain + 1000 };
    assert!(limit.contains(&(wire - before)), "{plain} bytes as {}", wire - before);
    let sent = stream.leader.metrics.stream_bytes(Direction::Sent).get();
    assert!(limit.contains(&sent.0) && sent.1 >= plain, "{sent:?}");
}

#[tokio::test]
async fn a_follower_that_announced_it_and_one_that_did_not_get_one_frame_and_the_same_entries() {
    let (mut newer, mut older) = (stream(ON, ON).await, stream(ON, Compression::Off).await);
    let (frame, append) = large(&"much of the same, ".repeat(5000));
    for stream in [&newer, &older] {
        stream.outbound.send(Outgoing::Shared(frame.clone())).await.expect("the stream is up");
    }
    for stream in [&mut newer, &mut older] {
        let Command::FromLeader { message, .. } = stream.next().await else { panic!("a message") };
        assert_eq!(message, LeaderMessage::Append(append.clone()));
    }
    assert!(newer.received().0 * 10 < older.received().0, "{:?} {:?}", newer.received(), older.received());
}

#[rstest]
#[case::compressed(ON, ON)]
#[case::plain(ON, Compression::Off)]
#[tokio::test]
async fn a_snapshot_is_compressed_part_by_part(#[case] leader: Compression, #[case] follower: Compression) {
    let mut stream = stream(leader, follower).await;
    let (meta, snapshot) = snapshot();
    let outgoing = Outgoing::Snapshot { epoch: Epoch(3), meta, snapshot: snapshot.clone() };
    stream.outbound.send(outgoing).await.expect("the stream is up");
    let Command::SnapshotReceived { snapshot: arrived, .. } = stream.next().await else { panic!("a snapshot") };
    assert_eq!(arrived, snapshot);
    let (wire, uncompressed) = stream.received();
    assert!(uncompressed > 900_000, "{uncompressed}");
    assert_eq!(wire < uncompressed / 5, follower == ON, "{wire} of {uncompressed}");
}

#[tokio::test]
async fn a_compressed_frame_that_lies_ends_the_stream() {
    let (mut follower, _outbound) = Follower::greeted().await;
    let (frame, _) = large(&"much of the same, ".repeat(5000));
    let mut payload = frame.sent(ON)[HEADER_BYTES..].to_vec();
    // One byte less than it has.
    payload[1] -= 1;
    follower.send(&crate::codec::frame(payload.len(), |out| out.extend_from_slice(&payload))).await;
    assert!(only_down(&follower.ends().await), "nothing of it reaches the driver");
}
