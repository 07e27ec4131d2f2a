use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use quorumkv_api::{
    Position, ProcessId, Seq, StorageId,
    peer::{Member, PeerAddress, PromoteRequest},
};
use quorumkv_protocol::{
    Append, FollowerMessage, Hello, Identity, Limits, Log, Node, Operation, Persist, Recovered, Ticket, WriteOutcome,
};
use tokio::{
    sync::{Notify, mpsc},
    time::timeout,
};

use super::*;
use crate::{
    clock::Clock,
    delay::RoundTrips,
    driver::Attached,
    handle::{DriverHandle, Outgoing},
    storage::{Memory, StorageError},
    store::Store,
    wire::{FollowerFrame, read_follower_frame},
};

const SOON: Duration = Duration::from_secs(5);
const A_WHILE: Duration = Duration::from_millis(50);

/// Has as much room as the test says.
#[derive(Default)]
struct Tight {
    memory: Memory,
    room: Arc<(AtomicU8, Notify)>,
}

fn set(room: &Arc<(AtomicU8, Notify)>, to: Room) {
    room.0.store(to as u8, Ordering::Relaxed);
    room.1.notify_one();
}

impl Storage for Tight {
    fn submit(&mut self, ticket: Ticket, batch: &[Persist], log: &Log, store: &Store) {
        self.memory.submit(ticket, batch, log, store);
    }

    fn durable(&mut self) -> impl Future<Output = Result<Ticket, StorageError>> + Send {
        self.memory.durable()
    }

    fn room(&self, _bytes: usize) -> Room {
        let room = self.room.0.load(Ordering::Relaxed);
        [Room::Enough, Room::Soon, Room::Full].into_iter().find(|known| *known as u8 == room).expect("one of them")
    }

    fn room_changed(&self) -> impl Future<Output = ()> + Send + 'static {
        let room = self.room.clone();
        async move { room.1.notified().await }
    }
}

fn node() -> (DriverHandle, StorageId, ProcessId, Arc<(AtomicU8, Notify)>) {
    let clock = Clock::start();
    let (storage_id, process_id) = (StorageId::random(), ProcessId::random());
    let identity = Identity { node: "n0".into(), storage_id, process_id, client_url: "http://n0:5000".to_owned() };
    let node = Node::new(identity, Limits::default(), Recovered::default(), clock.now());
    let storage = Tight::default();
    let room = storage.room.clone();
    let (driver, Attached { handle, commands, .. }) = Driver::new(node, storage, clock, RoundTrips::seeded(1));
    tokio::spawn(driver.run(commands, pending()));
    (handle, storage_id, process_id, room)
}

/// A leader that has no follower yet: whatever reaches its core is answered with `NotActive`.
async fn leader() -> (DriverHandle, Arc<(AtomicU8, Notify)>) {
    let (handle, storage_id, process_id, room) = node();
    handle.fence(Epoch(1)).await.expect("promised");
    let peer = |name: &str| PeerAddress { node: name.into(), client_url: String::new(), peer_url: String::new() };
    let promote = PromoteRequest {
        epoch: Epoch(1),
        storage_id,
        process_id,
        peers: vec![peer("n0"), peer("n1")],
        members: vec![Member { name: "n0".into(), storage_id }],
        lease_wait_ms: 0,
        bootstrap: Some(quorumkv_api::Settings { write_quorum: quorumkv_api::WriteQuorum(1), ..Default::default() }),
        configuration: quorumkv_api::peer::Configuration::default(),
    };
    handle.promote(promote).await.expect("it leads");
    (handle, room)
}

fn put() -> Operation {
    let text = Bytes::from_static(b"1");
    Operation::Put { key: text.clone(), value: text }
}

#[tokio::test]
async fn a_full_disk_refuses_writes_before_the_core_sees_them_and_takes_them_again() {
    let (handle, room) = leader().await;
    let last = handle.inspect().await.expect("running").state.last;
    set(&room, Room::Full);
    assert_eq!(handle.write(put()).await, Err(NotTaken::StorageFull));
    assert_eq!(handle.write_all(vec![put(), put()]).await, [Err(NotTaken::StorageFull), Err(NotTaken::StorageFull)]);
    assert_eq!(handle.inspect().await.expect("running").state.last, last, "nothing was appended");
    handle.fence(Epoch(2)).await.expect("a promise still fits");
    assert_eq!(handle.write(put()).await, Ok(WriteOutcome::NotLeader.into()), "who leads no more says so");
}

#[tokio::test]
async fn a_slow_disk_lets_writes_wait_until_it_is_full_or_has_room() {
    let (handle, room) = leader().await;
    for (then, expected) in
        [(Room::Enough, Ok(WriteOutcome::NotActive.into())), (Room::Full, Err(NotTaken::StorageFull))]
    {
        set(&room, Room::Soon);
        let mut write = Box::pin(handle.write(put()));
        assert!(timeout(A_WHILE, &mut write).await.is_err(), "it waits");
        set(&room, then);
        assert_eq!(timeout(SOON, write).await.expect("no longer"), expected);
    }
}

/// A follower's driver and its end of a stream.
struct Stream {
    handle: DriverHandle,
    answers: mpsc::Receiver<Outgoing>,
    stream: StreamId,
    last: Position,
}

impl Stream {
    async fn open(handle: &DriverHandle) -> Self {
        let (outbound, mut answers) = mpsc::channel(64);
        let stream = handle.next_stream();
        let hello = Hello { epoch: Epoch(1), leader: "n1".into(), client_url: "http://n1:5000".to_owned() };
        handle.send(Command::Hello { stream, hello, outbound }).await.expect("running");
        let welcome = answers.recv().await;
        assert!(matches!(message(welcome), Some(FollowerMessage::Welcome(_))));
        Self { handle: handle.clone(), answers, stream, last: Position::default() }
    }

    async fn send(&self, message: LeaderMessage) {
        let command = Command::FromLeader { stream: self.stream, message };
        self.handle.send(command).await.expect("running");
    }

    async fn append(&mut self) {
        let seq = self.last.seq.next();
        let entry = Entry { epoch: Epoch(1), seq, operation: put() };
        let prev = std::mem::replace(&mut self.last, entry.position());
        let append = Append { epoch: Epoch(1), prev, commit: Seq(0), entries: vec![entry] };
        self.send(LeaderMessage::Append(append)).await;
    }

    /// The next acknowledgement: how far, and of which heartbeat.
    async fn acknowledged(&mut self) -> (Seq, Option<Micros>) {
        let answer = timeout(SOON, self.answers.recv()).await.expect("soon");
        match message(answer) {
            Some(FollowerMessage::Ack { match_seq, heartbeat, .. }) => (match_seq, heartbeat),
            other => panic!("an acknowledgement, not {other:?}"),
        }
    }
}

fn message(answer: Option<Outgoing>) -> Option<FollowerMessage> {
    let Some(Outgoing::Frame(frame)) = answer else { return None };
    match read_follower_frame(frame.slice(8..)).expect("a frame") {
        FollowerFrame::Message(message) => Some(message),
        FollowerFrame::Alive => None,
    }
}

#[tokio::test]
async fn a_full_follower_answers_heartbeats_and_acknowledges_the_rest_when_it_has_room() {
    let (handle, _, _, room) = node();
    let mut stream = Stream::open(&handle).await;
    stream.append().await;
    assert_eq!(stream.acknowledged().await, (Seq(1), None));
    set(&room, Room::Full);
    stream.append().await;
    stream.append().await;
    let sent = Micros(7);
    stream.send(LeaderMessage::Heartbeat { epoch: Epoch(1), commit: Seq(0), sent }).await;
    assert_eq!(stream.acknowledged().await, (Seq(1), Some(sent)), "what waits is not acknowledged");
    set(&room, Room::Enough);
    assert_eq!(stream.acknowledged().await, (Seq(3), None), "once for both, as they were let in together");
}

#[tokio::test]
async fn what_waits_is_forgotten_with_its_stream() {
    let (handle, _, _, room) = node();
    let mut stream = Stream::open(&handle).await;
    set(&room, Room::Full);
    stream.append().await;
    let mut again = Stream::open(&handle).await;
    set(&room, Room::Enough);
    let sent = Micros(9);
    again.send(LeaderMessage::Heartbeat { epoch: Epoch(1), commit: Seq(0), sent }).await;
    assert_eq!(again.acknowledged().await, (Seq(0), Some(sent)), "the leader sends it again");
    assert_eq!(handle.inspect().await.expect("running").state.last, Position::default());
}
