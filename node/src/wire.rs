//! What the payloads of the replication stream say, in bytes.
//!
//! The first byte is the kind; numbers are little-endian; lists and texts carry their length first. Entries
//! keep their JSON text as it was written, and a decoded entry is a slice of the frame it came in. A large
//! payload may travel compressed ([`compression`]).

pub mod compression;
mod read;
mod write;

use bytes::Bytes;
use quorumkv_api::{Epoch, Seq};
use quorumkv_protocol::{FollowerMessage, Hello, LeaderMessage, SnapshotMeta};

pub use self::{
    read::{read_follower_frame, read_leader_frame, read_write},
    write::{
        alive, append, follower_message, heartbeat, hello, put_write, snapshot_end, snapshot_part, snapshot_requests,
        snapshot_start,
    },
};
use crate::store::{Versioned, requests::Remembered};

/// What a leader sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaderFrame {
    /// First of all.
    Hello(Hello),
    /// For the core.
    Message(LeaderMessage),
    /// A snapshot begins.
    SnapshotStart {
        /// The leader's epoch.
        epoch: Epoch,
        /// What it stands for.
        meta: SnapshotMeta,
    },
    /// Some of it.
    SnapshotPart(SnapshotPart),
    /// It is complete.
    SnapshotEnd {
        /// Number of keys and request ids sent.
        records: u64,
    },
    /// Nothing to say, still there.
    Alive,
}

/// Records of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SnapshotPart {
    /// Keys with their values.
    Keys(Vec<(Bytes, Versioned)>),
    /// Remembered request ids with their places in the log, in that order.
    Requests(Vec<(Seq, Remembered)>),
}

/// What a follower sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FollowerFrame {
    /// For the core.
    Message(FollowerMessage),
    /// Nothing to say, still there.
    Alive,
}

/// Why a payload says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A kind that this side does not receive.
    #[error("unknown kind {0} of message")]
    Kind(u8),
    /// It ends too early.
    #[error("a message ends within {0}")]
    Short(&'static str),
    /// Something follows its end.
    #[error("{0} bytes follow a message")]
    Trailing(usize),
    /// A text that is no UTF-8.
    #[error("{0} is not UTF-8")]
    Text(&'static str),
    /// A key that no client could have written.
    #[error("a key has {0} bytes")]
    Key(usize),
    /// A request id that no client could have sent.
    #[error("a request id is no printable text")]
    RequestId,
    /// A number that stands for nothing.
    #[error("{0} cannot be {1}")]
    Code(&'static str, u8),
    /// A size that no sender compresses, or that so few bytes cannot stand for.
    #[error("a compressed message cannot have the {0} bytes that it announces")]
    CompressedLength(usize),
    /// Something else than what was compressed.
    #[error("a compressed message is damaged: {0}")]
    Compressed(&'static str),
}

mod kind {
    pub(super) const ALIVE: u8 = 0;
    pub(super) const HELLO: u8 = 1;
    pub(super) const APPEND: u8 = 2;
    pub(super) const HEARTBEAT: u8 = 3;
    pub(super) const SNAPSHOT_START: u8 = 4;
    pub(super) const SNAPSHOT_PART: u8 = 5;
    pub(super) const SNAPSHOT_END: u8 = 6;
    /// As `SNAPSHOT_PART`, with the format of each value; used where not all are JSON.
    pub(super) const SNAPSHOT_FORMATS: u8 = 7;
    pub(super) const SNAPSHOT_REQUESTS: u8 = 8;
    /// Stands for a message of another kind; only for those who announced that they read it.
    pub(super) const COMPRESSED: u8 = 9;
    pub(super) const WELCOME: u8 = 16;
    pub(super) const ACK: u8 = 17;
    pub(super) const MISMATCH: u8 = 18;
    pub(super) const REJECTED: u8 = 19;

    pub(super) const PUT: u8 = 0;
    pub(super) const BARRIER: u8 = 1;
    pub(super) const SETTINGS: u8 = 2;
    pub(super) const WRITE: u8 = 3;

    pub(super) const DELETE: u8 = 0;
    pub(super) const JSON: u8 = 1;
    pub(super) const RAW: u8 = 2;

    pub(super) const ALWAYS: u8 = 0;
    pub(super) const PRESENT: u8 = 1;
    pub(super) const ABSENT: u8 = 2;
    pub(super) const VERSION: u8 = 3;
    pub(super) const NOT_VERSION: u8 = 4;

    pub(super) const DONE: u8 = 0;
    pub(super) const FAILED_ABSENT: u8 = 1;
    pub(super) const FAILED_VERSION: u8 = 2;
}

#[cfg(test)]
mod tests;
