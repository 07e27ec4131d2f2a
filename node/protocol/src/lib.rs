//! The replication and failover rules of quorumkv, without clock, randomness or IO.
//!
//! One log is ordered by one leader per epoch and streamed to followers; an entry is committed when as many
//! counted followers hold it as the write quorum in force at its place demands. [`Node`] is the whole state
//! machine of one node: inputs go into [`Node::step`], what the shell has to do comes out of [`Node::flush`].
//! [`election`] is the manager's side: which node may lead next.
//!
//! Time is handed in as [`Micros`]; the shell also draws the simulated round trips and hands them in with
//! each write, so that a run is determined by its inputs.

use std::time::Duration;

mod delay;
pub mod election;
mod follower;
mod leader;
pub mod log;
pub mod membership;
pub mod message;
mod node;
mod peers;
pub mod planted;
pub mod quorum;
mod replica;

pub use log::Log;
pub use message::{
    Append, Change, Condition, Digest, Effects, Entry, EpochStart, FollowerMessage, Format, Hello, Input,
    LeaderMessage, Leading, Micros, Operation, Outline, Persist, ReplyBody, RequestId, RequestKey, SnapshotMeta,
    SnapshotSource, StreamId, Ticket, ToFollower, Welcome, Write, WriteId, WriteOutcome,
};
pub use node::{Node, View};
pub use replica::{Identity, Recovered};

/// How long a follower that answered a heartbeat lets the leader serve reads: counted by the follower from
/// the moment it heard the heartbeat.
pub const LEASE: Duration = Duration::from_secs(1);

/// What the leader takes off a lease for clocks that do not run alike.
pub const LEASE_MARGIN: Duration = Duration::from_millis(100);

/// How often the leader asks each follower for a sign of life.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(150);

/// How long a follower waits at most to hear of a commit when no append carries it.
pub const COMMIT_NOTICE: Duration = Duration::from_millis(5);

/// Most followers a leader can have.
pub const MAX_FOLLOWERS: u8 = 64;

/// Bounds on what a node keeps and sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Committed entries are kept for followers that lag while they take no more bytes than this.
    pub retain_bytes: usize,
    /// And are no more than this.
    pub retain_entries: usize,
    /// Most bytes of entries in one message, unless a single entry is larger.
    pub max_message_bytes: usize,
    /// Most messages to one follower that are not yet acknowledged.
    pub max_in_flight: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { retain_bytes: 64 << 20, retain_entries: 1 << 18, max_message_bytes: 1 << 20, max_in_flight: 8 }
    }
}
