//! What the rest of the process knows of the driver: a queue into it, and what it publishes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use quorumkv_api::{
    Epoch, NodeId, ProcessId, Seq, SettingsPatch,
    peer::{FenceReply, MembersRequest, NodeState, PeerAddress, PeerError, PromoteRequest, Refusal, SettingsReply},
};
use quorumkv_protocol::{
    Append, Entry, FollowerMessage, Hello, LeaderMessage, Operation, ReplyBody, SnapshotMeta, StreamId, View, Welcome,
    WriteOutcome,
};
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    clock::Clock,
    latency::Latency,
    metrics::Metrics,
    store::{Deviation, Snapshot, Store},
    wire::compression::SharedFrame,
};

/// Commands that wait for the driver before senders have to wait themselves.
pub const QUEUE: usize = 4096;

/// Something for a stream's writer.
#[derive(Debug)]
pub enum Outgoing {
    /// A whole frame.
    Frame(Bytes),
    /// A frame that other streams get too, compressed by those that may.
    Shared(SharedFrame),
    /// A snapshot, encoded piece by piece as the stream takes it.
    Snapshot {
        /// The leader's epoch.
        epoch: Epoch,
        /// What it stands for.
        meta: SnapshotMeta,
        /// Its keys and values.
        snapshot: Snapshot,
    },
}

/// The driver's end of a stream; dropping it closes the stream once what is queued was written.
pub type Outbound = mpsc::Sender<Outgoing>;

/// What a manager, or `POST /replicate`, asks of the core.
#[derive(Debug)]
pub enum PeerRequest {
    /// Promise an epoch.
    Fence(Epoch),
    /// Lead.
    Promote(PromoteRequest),
    /// Whose copies count.
    Members(MembersRequest),
    /// Change settings.
    Settings(SettingsPatch),
    /// Append a batch.
    Replicate {
        /// Who leads.
        leader: NodeId,
        /// The batch.
        append: Append,
    },
    /// Take another copy's state.
    Restore {
        /// What the snapshot stands for.
        meta: SnapshotMeta,
        /// Its keys and values.
        snapshot: Snapshot,
        /// The entries after it.
        entries: Vec<Entry>,
    },
}

/// A node as its own core sees it.
#[derive(Debug, Clone)]
pub struct Inspection {
    /// What managers see.
    pub state: NodeState,
    /// Where the other nodes are, while this one leads.
    pub peers: Vec<PeerAddress>,
    /// How long followers took to confirm one of the latest writes.
    pub acknowledgements: Vec<(NodeId, Duration)>,
}

/// A whole copy of the data, for a leader that came back empty.
#[derive(Debug)]
pub struct Recovery {
    /// The epoch that this node promised.
    pub promised: Epoch,
    /// What the snapshot stands for.
    pub meta: SnapshotMeta,
    /// Its keys and values.
    pub snapshot: Snapshot,
    /// The entries after it, as frames.
    pub tail: Vec<Bytes>,
}

/// Everything that reaches the driver.
#[derive(Debug)]
pub enum Command {
    /// A client's write.
    Write {
        /// A put or a write.
        operation: Operation,
        /// Where the outcome goes.
        answer: oneshot::Sender<WriteAnswer>,
    },
    /// Clients' writes that belong next to each other in the log.
    Batch {
        /// Each a put or a write, and where its outcome goes.
        writes: Vec<(Operation, oneshot::Sender<WriteAnswer>)>,
    },
    /// Show committed entries.
    ReadLog {
        /// Place of the first.
        from: Seq,
        /// Where they go.
        answer: oneshot::Sender<Result<LogPart, Forgotten>>,
    },
    /// A manager's request.
    Peer {
        /// What is asked.
        request: PeerRequest,
        /// Where the reply goes.
        answer: oneshot::Sender<Result<ReplyBody, PeerError>>,
    },
    /// Show the node's state.
    Inspect(oneshot::Sender<Inspection>),
    /// Hand out a copy of everything, if this process promised that epoch and does not lead.
    Recover {
        /// The epoch that must be promised.
        epoch: Epoch,
        /// The process that must be meant.
        process_id: ProcessId,
        /// Where the copy goes.
        answer: oneshot::Sender<Result<Recovery, PeerError>>,
    },
    /// Leader: a follower accepted a stream.
    StreamUp {
        /// The follower.
        peer: NodeId,
        /// The stream.
        stream: StreamId,
        /// The epoch with which it was greeted.
        epoch: Epoch,
        /// What it said.
        welcome: Welcome,
        /// Its writer.
        outbound: Outbound,
    },
    /// Leader: a follower said something.
    FromFollower {
        /// The follower.
        peer: NodeId,
        /// The stream.
        stream: StreamId,
        /// What it said.
        message: FollowerMessage,
    },
    /// Leader: a stream ended.
    StreamDown {
        /// The follower.
        peer: NodeId,
        /// The stream.
        stream: StreamId,
    },
    /// Follower: a leader opened a stream.
    Hello {
        /// The stream.
        stream: StreamId,
        /// What it said.
        hello: Hello,
        /// Its writer.
        outbound: Outbound,
    },
    /// Follower: the leader said something.
    FromLeader {
        /// The stream.
        stream: StreamId,
        /// What it said.
        message: LeaderMessage,
    },
    /// Follower: a whole snapshot arrived.
    SnapshotReceived {
        /// The stream.
        stream: StreamId,
        /// The leader's epoch.
        epoch: Epoch,
        /// What it stands for.
        meta: SnapshotMeta,
        /// Its keys and values.
        snapshot: Snapshot,
    },
    /// Follower: the leader's stream ended.
    LeaderStreamDown {
        /// The stream.
        stream: StreamId,
    },
    /// Take no new writes.
    Stop,
}

/// What became of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Of its entry.
    pub outcome: WriteOutcome,
    /// What the entry did where that is not what it says; only of one that is committed.
    pub deviation: Option<Deviation>,
}

impl From<WriteOutcome> for Written {
    fn from(outcome: WriteOutcome) -> Self {
        Self { outcome, deviation: None }
    }
}

/// A part of the log, as far as it is committed.
#[derive(Debug)]
pub struct LogPart {
    /// Entries that did what they say.
    pub entries: Vec<Entry>,
    /// Place of the first entry after the part.
    pub next: Seq,
}

/// A part of the log is not held any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forgotten {
    /// Place of the oldest entry that is.
    pub oldest: Seq,
}

/// The answer to a write.
pub type WriteAnswer = Result<Written, NotTaken>;

/// A write that was handed over.
#[derive(Debug)]
pub struct Begun(oneshot::Receiver<WriteAnswer>);

impl Begun {
    /// What became of it.
    ///
    /// # Errors
    /// When it was not even appended.
    pub async fn answer(self) -> WriteAnswer {
        self.0.await.unwrap_or_else(|_| Ok(WriteOutcome::Stopping.into()))
    }
}

/// The driver is gone: the process is stopping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the node is stopping")]
pub struct Stopped;

impl From<Stopped> for PeerError {
    fn from(stopped: Stopped) -> Self {
        Self { error: stopped.to_string(), reason: Refusal::Unavailable, promised: Epoch(0) }
    }
}

/// Why the core never saw a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotTaken {
    /// The disk is full.
    #[error("The disk of this node is full; nothing was written")]
    StorageFull,
    /// As many writes wait for their quorum as may.
    #[error("Too many writes wait for their quorum; nothing was written, try again later")]
    Overloaded,
}

/// Speaks to the driver. Cheap to clone.
#[derive(Debug, Clone)]
pub struct DriverHandle {
    commands: mpsc::Sender<Command>,
    streams: Arc<AtomicU64>,
    /// The applied state.
    pub store: Store,
    /// What the node is; changes with every batch.
    pub view: watch::Receiver<View>,
    /// The process's clock.
    pub clock: Clock,
    /// How long writes took.
    pub latency: Arc<Latency>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

impl DriverHandle {
    /// A handle and the queue that its commands arrive in.
    #[must_use]
    pub fn new(view: watch::Receiver<View>, clock: Clock) -> (Self, mpsc::Receiver<Command>) {
        let (commands, queue) = mpsc::channel(QUEUE);
        let (streams, store, latency, metrics) = Default::default();
        (Self { commands, streams, store, view, clock, latency, metrics }, queue)
    }

    /// Hands a command over, waiting while the queue is full.
    ///
    /// # Errors
    /// When the driver is gone.
    pub async fn send(&self, command: Command) -> Result<(), Stopped> {
        self.commands.send(command).await.map_err(|_| Stopped)
    }

    /// A name that no other stream of this process has.
    #[must_use]
    pub fn next_stream(&self) -> StreamId {
        StreamId(self.streams.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// Makes a write.
    ///
    /// # Errors
    /// When it was not even appended.
    pub async fn write(&self, operation: Operation) -> WriteAnswer {
        self.begin_write(operation).await.answer().await
    }

    /// Hands a write over; one that is handed over later stands behind it in the log.
    pub async fn begin_write(&self, operation: Operation) -> Begun {
        let (sender, answer) = oneshot::channel();
        // Without a driver the sender is dropped, and the answer says so.
        self.send(Command::Write { operation, answer: sender }).await.ok();
        Begun(answer)
    }

    /// Makes several writes that stand next to each other in the log; the answers in the same order.
    pub async fn write_all(&self, operations: Vec<Operation>) -> Vec<WriteAnswer> {
        let (writes, answers): (Vec<_>, Vec<_>) = operations
            .into_iter()
            .map(|operation| {
                let (sender, answer) = oneshot::channel();
                ((operation, sender), answer)
            })
            .unzip();
        // Without a driver the senders are dropped, and every answer says so.
        self.send(Command::Batch { writes }).await.ok();
        let stopping = || Ok(WriteOutcome::Stopping.into());
        futures::future::join_all(answers)
            .await
            .into_iter()
            .map(|answer| answer.unwrap_or_else(|_| stopping()))
            .collect()
    }

    /// Committed entries from a place on, as many as are read at once; none where it is not committed yet.
    ///
    /// # Errors
    /// When the driver is gone.
    pub async fn read_log(&self, from: Seq) -> Result<Result<LogPart, Forgotten>, Stopped> {
        self.ask(|answer| Command::ReadLog { from, answer }).await
    }

    /// The node's state.
    ///
    /// # Errors
    /// When the driver is gone.
    pub async fn inspect(&self) -> Result<Inspection, Stopped> {
        self.ask(Command::Inspect).await
    }

    /// A copy of everything.
    ///
    /// # Errors
    /// When another epoch is promised, another process is meant, or this node leads.
    pub async fn recover(&self, epoch: Epoch, process_id: ProcessId) -> Result<Recovery, PeerError> {
        self.ask(|answer| Command::Recover { epoch, process_id, answer }).await?
    }

    /// Promises an epoch.
    ///
    /// # Errors
    /// The core's refusal.
    pub async fn fence(&self, epoch: Epoch) -> Result<FenceReply, PeerError> {
        match self.request(PeerRequest::Fence(epoch)).await? {
            ReplyBody::Fenced(reply) => Ok(reply),
            other => unreachable!("a fence is answered by {other:?}"),
        }
    }

    /// Makes this node the leader.
    ///
    /// # Errors
    /// The core's refusal.
    pub async fn promote(&self, promote: PromoteRequest) -> Result<NodeState, PeerError> {
        self.request(PeerRequest::Promote(promote)).await.map(state)
    }

    /// Tells the leader whose copies count.
    ///
    /// # Errors
    /// The core's refusal.
    pub async fn members(&self, members: MembersRequest) -> Result<NodeState, PeerError> {
        self.request(PeerRequest::Members(members)).await.map(state)
    }

    /// Changes settings; returns once they are committed.
    ///
    /// # Errors
    /// The core's refusal.
    pub async fn change_settings(&self, patch: SettingsPatch) -> Result<SettingsReply, PeerError> {
        match self.request(PeerRequest::Settings(patch)).await? {
            ReplyBody::Settings(reply) => Ok(reply),
            other => unreachable!("a change of settings is answered by {other:?}"),
        }
    }

    /// Hands a request to the core.
    ///
    /// # Errors
    /// The core's refusal.
    pub async fn request(&self, request: PeerRequest) -> Result<ReplyBody, PeerError> {
        self.ask(|answer| Command::Peer { request, answer }).await?
    }

    async fn ask<Answer>(&self, command: impl FnOnce(oneshot::Sender<Answer>) -> Command) -> Result<Answer, Stopped> {
        let (sender, answer) = oneshot::channel();
        self.send(command(sender)).await?;
        answer.await.map_err(|_| Stopped)
    }
}

fn state(reply: ReplyBody) -> NodeState {
    match reply {
        ReplyBody::State(state) => *state,
        other => unreachable!("a promotion or a list of members is answered by {other:?}"),
    }
}
