//! What nodes say to each other on a replication stream, and what a shell hands in and carries out.

use std::{ops::RangeInclusive, time::Duration};

use bytes::Bytes;
use quorumkv_api::{
    Epoch, NodeId, Position, ProcessId, Seq, Settings, SettingsPatch, StorageId,
    peer::{
        FenceReply, MembersRequest, NodeState, PeerAddress, PeerError, PromoteRequest, SettingsEntry, SettingsReply,
    },
};

/// Monotonic time in microseconds since the node's process started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Micros(pub u64);

impl Micros {
    /// This time plus a duration; saturates.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(micros(duration)))
    }

    /// Time from `earlier` until this; zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Names a client's write between shell and core.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WriteId(pub u64);

/// Names a manager's request between shell and core.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Names one connection between two nodes, within one process; never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// Names a batch handed to storage; larger ones are later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Ticket(pub u64);

/// One place of the log.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Entry {
    /// Epoch of the leader that created it.
    pub epoch: Epoch,
    /// Its place.
    pub seq: Seq,
    /// What it does.
    pub operation: Operation,
}

impl Entry {
    /// Epoch and place.
    #[must_use]
    pub fn position(&self) -> Position {
        Position { epoch: self.epoch, seq: self.seq }
    }

    /// Bytes it holds in memory and, nearly, on the wire.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.operation.weight() + std::mem::size_of::<Self>()
    }
}

/// What an entry does.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Gives a key a value.
    Put {
        /// UTF-8, 1..1024 bytes.
        key: Bytes,
        /// JSON text, byte for byte as it was written.
        value: Bytes,
    },
    /// A write that is more than that.
    Write(Box<Write>),
    /// Nothing; the first entry of an epoch, whose commitment shows that the epoch's leader can commit.
    Barrier,
    /// New settings from the next entry on.
    Settings(Settings),
}

impl Operation {
    /// Bytes it holds besides its own size.
    #[must_use]
    pub fn weight(&self) -> usize {
        match self {
            Self::Put { key, value } => key.len() + value.len(),
            Self::Write(write) => write.weight(),
            Self::Barrier | Self::Settings(_) => 0,
        }
    }
}

/// A write that deletes, has a condition, can be repeated safely, or gives a key a value that is no JSON.
///
/// What becomes of it is decided where it is applied, from everything that the log says before it: so every
/// replica decides the same, whoever leads.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Write {
    /// UTF-8, 1..1024 bytes.
    pub key: Bytes,
    /// What happens to it.
    pub change: Change,
    /// Without it, it happens in any case.
    pub condition: Option<Condition>,
    /// Without it, it happens as often as it is in the log.
    pub request: Option<RequestKey>,
}

impl Write {
    fn weight(&self) -> usize {
        let value = match &self.change {
            Change::Put { value, .. } => value.len(),
            Change::Delete => 0,
        };
        let request = self.request.as_ref().map_or(0, |request| request.id.len());
        self.key.len() + value + request + std::mem::size_of::<Self>()
    }
}

/// What a [`Write`] does to its key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Change {
    /// Gives it a value.
    Put {
        /// What kind of value.
        format: Format,
        /// Its bytes.
        value: Bytes,
    },
    /// Takes its value away, if it has one.
    Delete,
}

/// How the bytes of a value are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum Format {
    /// JSON text.
    #[default]
    Json,
    /// Anything.
    Raw,
}

/// What must hold of a key when a [`Write`] is applied. A version is the place in the log of the entry that
/// gave the key its value, so no two values ever share one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Condition {
    /// It has a value.
    Present,
    /// It has none.
    Absent,
    /// It has a value of this version.
    Version(Seq),
    /// It has no value, or one of another version.
    NotVersion(Seq),
}

impl Condition {
    /// Whether it holds of a key whose value, if it has one, has this version.
    #[must_use]
    pub fn holds(self, current: Option<Seq>) -> bool {
        match self {
            Self::Present => current.is_some(),
            Self::Absent => current.is_none(),
            Self::Version(version) => current == Some(version),
            Self::NotVersion(version) => current != Some(version),
        }
    }
}

/// By which a repeated [`Write`] is known for what it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RequestKey {
    /// The client's name for it: 1..128 bytes of printable ASCII.
    pub id: Bytes,
    /// Of everything else in the write, made by whoever took it from the client.
    pub digest: Digest,
}

/// Tells two writes apart that carry the same request id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(pub [u8; 16]);

/// Where an epoch begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EpochStart {
    /// The epoch.
    pub epoch: Epoch,
    /// Its first entry.
    pub first: Seq,
}

/// The outline of a log: enough to find where two logs part.
#[derive(Debug, Clone, PartialEq, Eq, Default, Hash)]
pub struct Outline {
    /// Every epoch with an entry in the log, ascending.
    pub starts: Vec<EpochStart>,
    /// The last entry.
    pub last: Seq,
}

/// What a snapshot stands for; its keys and values travel beside it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SnapshotMeta {
    /// Outline of the log up to and including the snapshot's last entry, `outline.last`.
    pub outline: Outline,
    /// The settings in force there.
    pub settings: Option<SettingsEntry>,
}

/// First message of a leader on a stream.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Hello {
    /// Its epoch.
    pub epoch: Epoch,
    /// Its name.
    pub leader: NodeId,
    /// Where clients reach it.
    pub client_url: String,
}

/// Answer of a follower that accepts a [`Hello`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Welcome {
    /// The follower's copy.
    pub storage_id: StorageId,
    /// The follower's process.
    pub process_id: ProcessId,
    /// Outline of its log.
    pub outline: Outline,
    /// Last entry it knows committed.
    pub commit: Seq,
}

/// Entries to append after `prev`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Append {
    /// The leader's epoch.
    pub epoch: Epoch,
    /// The entry before the first one.
    pub prev: Position,
    /// Last entry the leader knows committed.
    pub commit: Seq,
    /// Contiguous from `prev.seq + 1`; may be empty.
    pub entries: Vec<Entry>,
}

/// Leader to follower, as received.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LeaderMessage {
    /// More of the log.
    Append(Append),
    /// A sign of life that asks for a read lease.
    Heartbeat {
        /// The leader's epoch.
        epoch: Epoch,
        /// Last entry the leader knows committed.
        commit: Seq,
        /// The leader's clock when it was made; comes back in the answer.
        sent: Micros,
    },
}

/// Leader to follower, as the shell has to send it: entries are named, not copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToFollower {
    /// More of the log; the shell reads the entries from [`crate::Node::log`].
    Append {
        /// The leader's epoch.
        epoch: Epoch,
        /// The entry before the first one.
        prev: Position,
        /// Last entry the leader knows committed.
        commit: Seq,
        /// The entries; empty when the range is.
        entries: RangeInclusive<Seq>,
    },
    /// See [`LeaderMessage::Heartbeat`].
    Heartbeat {
        /// The leader's epoch.
        epoch: Epoch,
        /// Last entry the leader knows committed.
        commit: Seq,
        /// The leader's clock.
        sent: Micros,
    },
    /// The whole applied state, which is exactly at `meta.outline.last` once the effects' commit was applied.
    Snapshot {
        /// The leader's epoch.
        epoch: Epoch,
        /// What it stands for.
        meta: SnapshotMeta,
    },
}

/// Follower to leader.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum FollowerMessage {
    /// Answers a [`Hello`].
    Welcome(Welcome),
    /// This follower durably holds the leader's log up to `match_seq`.
    Ack {
        /// The leader's epoch.
        epoch: Epoch,
        /// Last entry up to which its log is the leader's.
        match_seq: Seq,
        /// `sent` of the heartbeat that this answers.
        heartbeat: Option<Micros>,
    },
    /// The append does not fit this log; its outline shows where they part.
    Mismatch {
        /// The leader's epoch.
        epoch: Epoch,
        /// Outline of the follower's log.
        outline: Outline,
    },
    /// A higher epoch is promised: the sender leads no longer.
    Rejected {
        /// The promised epoch.
        promised: Epoch,
    },
}

/// What the shell feeds into [`crate::Node::step`].
#[derive(Debug, Clone)]
pub enum Input {
    /// A client's write.
    Propose {
        /// Its name; answered once.
        write: WriteId,
        /// What to append.
        operation: Operation,
        /// One simulated round trip per follower; empty when none is simulated.
        round_trips: Vec<Duration>,
    },
    /// Change settings, on the leader.
    ChangeSettings {
        /// Its name.
        request: RequestId,
        /// The change.
        patch: SettingsPatch,
    },
    /// Promise an epoch.
    Fence {
        /// Its name.
        request: RequestId,
        /// The epoch.
        epoch: Epoch,
    },
    /// Lead the promised epoch.
    Promote {
        /// Its name.
        request: RequestId,
        /// The order.
        promote: PromoteRequest,
    },
    /// Whose copies count.
    Members {
        /// Its name.
        request: RequestId,
        /// The record.
        members: MembersRequest,
    },
    /// An append that came as a single request instead of on a stream.
    Replicate {
        /// Its name.
        request: RequestId,
        /// Who sent it.
        leader: NodeId,
        /// The entries.
        append: Append,
    },
    /// Take over another copy's state, before this node is promoted: a static leader that came back empty.
    Restore {
        /// Its name.
        request: RequestId,
        /// The snapshot, which the shell holds ready.
        meta: SnapshotMeta,
        /// The entries after it.
        entries: Vec<Entry>,
    },
    /// Leader: a stream to a follower is up and the follower accepted.
    StreamUp {
        /// The follower.
        peer: NodeId,
        /// The stream.
        stream: StreamId,
        /// The epoch with which it was greeted; a stream of an earlier epoch of this leader is ignored.
        epoch: Epoch,
        /// What it said.
        welcome: Welcome,
    },
    /// Leader: a follower said something.
    FromFollower {
        /// The follower.
        peer: NodeId,
        /// The stream; a message of an earlier stream is ignored. None for an answer to the first Hello.
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
    },
    /// Follower: the leader said something.
    FromLeader {
        /// The stream.
        stream: StreamId,
        /// What it said.
        message: LeaderMessage,
    },
    /// Follower: a whole snapshot was received; the shell holds its keys and values until told to install them.
    SnapshotReceived {
        /// The stream.
        stream: StreamId,
        /// The leader's epoch.
        epoch: Epoch,
        /// What it stands for.
        meta: SnapshotMeta,
    },
    /// Follower: the leader's stream ended.
    LeaderStreamDown {
        /// The stream.
        stream: StreamId,
    },
    /// Storage holds everything of this batch and all before it.
    Persisted(Ticket),
    /// Time has passed; see [`crate::Node::next_deadline`].
    Tick,
    /// Take no new writes; those under way go on.
    Stop,
}

/// What became of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteOutcome {
    /// Acknowledged.
    Committed {
        /// Its place in the log.
        version: Seq,
        /// Followers known to hold it.
        replicas: usize,
        /// When it was appended.
        appended: Micros,
    },
    /// Too few followers confirmed in time. It may still commit.
    QuorumNotReached {
        /// Followers that confirmed.
        replicas: usize,
    },
    /// This node does not lead; nothing was appended.
    NotLeader,
    /// This node leads but is not active yet; nothing was appended.
    NotActive,
    /// This node lost leadership after it appended the write. It may still commit.
    LeadershipLost,
    /// This node is stopping; nothing was appended.
    Stopping,
}

/// What became of a manager's request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplyBody {
    /// To `Fence`.
    Fenced(FenceReply),
    /// To `Promote` and `Members`.
    State(Box<NodeState>),
    /// To `ChangeSettings`.
    Settings(SettingsReply),
    /// To `Replicate`: last matching entry.
    Replicated(Seq),
    /// To `Restore`.
    Restored,
}

/// Something storage has to keep, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Persist {
    /// The highest promised epoch.
    Promise(Epoch),
    /// Forget the entries after this one.
    Truncate {
        /// Last entry to keep.
        after: Seq,
    },
    /// Replace everything by the snapshot that is being installed.
    Snapshot(SnapshotMeta),
    /// Keep these entries of [`crate::Node::log`].
    Append(RangeInclusive<Seq>),
    /// Entries up to here are known committed; a recovery that knows which settings are committed can do
    /// with fewer answers.
    Commit(Seq),
}

/// Whether this node leads, and to whom it keeps streams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leading {
    /// Keep a stream to each of these, starting each with this Hello; close any other.
    Streams {
        /// First message on each.
        hello: Hello,
        /// The other nodes.
        peers: Vec<PeerAddress>,
    },
    /// Close all.
    Stop,
}

/// Where a map of keys comes from when one has to be installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotSource {
    /// Received on this stream.
    Stream(StreamId),
    /// Handed in with this `Restore`.
    Request(RequestId),
}

/// What the shell has to do, in this order: install, apply, persist; send to followers and answer writes at
/// once; send to leaders and reply to managers only when storage holds `ticket`.
#[derive(Debug, Clone, Default)]
pub struct Effects {
    /// Swap in the received snapshot before anything is applied.
    pub install: Option<SnapshotSource>,
    /// Apply the log's entries up to here, if not yet applied.
    pub commit: Seq,
    /// Hand to storage in this order, as one batch.
    pub persist: Vec<Persist>,
    /// Names that batch, or the last one when there is nothing new.
    pub ticket: Ticket,
    /// Open, change or close the streams to followers.
    pub leading: Option<Leading>,
    /// Send now.
    pub to_followers: Vec<(NodeId, StreamId, ToFollower)>,
    /// Answer now.
    pub answers: Vec<(WriteId, WriteOutcome)>,
    /// Send when `ticket` is held.
    pub to_leader: Vec<(StreamId, FollowerMessage)>,
    /// Reply when `ticket` is held.
    pub replies: Vec<(RequestId, Result<ReplyBody, PeerError>)>,
    /// Close these streams after what is above was sent.
    pub close: Vec<StreamId>,
}

impl Effects {
    /// Empties it for use again, keeping its memory.
    pub fn clear(&mut self) {
        let Self { install, commit: _, persist, ticket: _, leading, to_followers, answers, to_leader, replies, close } =
            self;
        *install = None;
        *leading = None;
        persist.clear();
        to_followers.clear();
        answers.clear();
        to_leader.clear();
        replies.clear();
        close.clear();
    }
}
