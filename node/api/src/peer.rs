//! The peer port: what the manager (operator, `local`, or a static leader) asks of a node.
//!
//! All requests carry `Authorization: Bearer <token>` where a peer token is configured.
//!
//! | request | answer |
//! | --- | --- |
//! | `GET /state` | 200 [`NodeState`] |
//! | `POST /fence` [`FenceRequest`] | 200 [`FenceReply`]; 409 when a higher epoch is promised |
//! | `POST /promote` [`PromoteRequest`] | 200 [`NodeState`]; 409 when the epoch, the disk or the process is another |
//! | `PUT /members` [`MembersRequest`] | 200 [`NodeState`]; 409 when this node does not lead that epoch, has heard of a newer set of nodes, or cannot do without the leaving node |
//! | `PUT /settings` [`crate::SettingsPatch`] | 200 [`SettingsReply`] once committed; 400 invalid, 403 on a follower, 409 refused for now, 500 no quorum in time |
//! | `GET /tls` | 200 [`TlsReport`]; 404 where the port does not speak TLS |
//! | `GET /stream` | 101, then the binary replication stream |
//!
//! Every other answer is a [`PeerError`].

use serde::{Deserialize, Serialize};

use crate::{Epoch, NodeId, Position, ProcessId, Seq, Settings, StorageId, lab::Role};

/// Where a node is reached.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerAddress {
    /// Its name.
    pub node: NodeId,
    /// Base URL of its client port, such as `http://127.0.0.1:5001`.
    pub client_url: String,
    /// Base URL of its peer port, such as `http://127.0.0.1:5101`.
    pub peer_url: String,
}

/// One recorded copy of the data: it counts in quorums and elections.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    /// The node that holds it.
    pub name: NodeId,
    /// The copy.
    pub storage_id: StorageId,
}

/// A change of a store's set of nodes: one at a time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum NodeChange {
    /// This node learns; it is not yet one of the nodes that recoveries ask for.
    Joining(NodeId),
    /// This node is no longer counted, so that the store can do without what it holds.
    Leaving(NodeId),
}

impl NodeChange {
    /// The node that joins or leaves.
    #[must_use]
    pub const fn node(&self) -> &NodeId {
        let (Self::Joining(node) | Self::Leaving(node)) = self;
        node
    }
}

/// Which set of nodes a request speaks of: a leader refuses lower numbers than it has heard.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Configuration {
    /// Higher with every recorded step of a change; zero while the set has never changed.
    pub number: u64,
    /// The change that is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<NodeChange>,
}

impl Configuration {
    /// Whether the set has never changed: then the requests are those that nodes of earlier releases know.
    #[must_use]
    pub fn is_first(&self) -> bool {
        *self == Self::default()
    }
}

/// Asks a node to promise an epoch: it then refuses everything of lower ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FenceRequest {
    /// The epoch to promise.
    pub epoch: Epoch,
}

/// A settings entry and its place in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SettingsEntry {
    /// Where it stands.
    pub position: Position,
    /// What it sets.
    pub settings: Settings,
}

/// What a node says of itself once it has promised.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FenceReply {
    /// Its name.
    pub node: NodeId,
    /// Its copy of the data.
    pub storage_id: StorageId,
    /// This run of its process.
    pub process_id: ProcessId,
    /// What it had promised before it was asked.
    pub previous_promise: Epoch,
    /// Last entry of its log.
    pub last: Position,
    /// Last entry it knows committed.
    pub commit: Seq,
    /// The settings entries of its log from the last one it knows committed onward.
    pub settings: Vec<SettingsEntry>,
    /// Whether the first of `settings` is known committed.
    pub settings_committed: bool,
    /// What is left of the longest read lease it may have granted, in milliseconds.
    pub lease_remaining_ms: u64,
}

/// Makes a fenced node the leader of the epoch that it promised.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PromoteRequest {
    /// The epoch to lead.
    pub epoch: Epoch,
    /// The copy that was chosen.
    pub storage_id: StorageId,
    /// The run of the process that was chosen.
    pub process_id: ProcessId,
    /// Every node of the store, this one included.
    pub peers: Vec<PeerAddress>,
    /// The recorded copies, this one included.
    pub members: Vec<Member>,
    /// How long leases of earlier leaders may still run, in milliseconds.
    pub lease_wait_ms: u64,
    /// The first settings, for a store that has no entry yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootstrap: Option<Settings>,
    /// Which set of nodes `peers` is, with a node that joins or leaves.
    #[serde(default, skip_serializing_if = "Configuration::is_first")]
    pub configuration: Configuration,
}

/// Tells the leader whose copy counts and where nodes are. Repeated by every reconcile.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MembersRequest {
    /// The epoch in which the record was made; another epoch's leader refuses it.
    pub epoch: Epoch,
    /// Every node of the store, the leader included.
    pub peers: Vec<PeerAddress>,
    /// The recorded copies, the leader's included.
    pub members: Vec<Member>,
    /// Which set of nodes `peers` is, with a node that joins or leaves.
    #[serde(default, skip_serializing_if = "Configuration::is_first")]
    pub configuration: Configuration,
}

/// What a node is and has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeState {
    /// Its name.
    pub node: NodeId,
    /// Its copy of the data.
    pub storage_id: StorageId,
    /// This run of its process.
    pub process_id: ProcessId,
    /// What it is at the moment.
    pub role: Role,
    /// The highest epoch it promised.
    pub promised: Epoch,
    /// The epoch it leads or last followed; zero if none since its start.
    pub epoch: Epoch,
    /// The leader it knows of in `epoch`.
    pub leader: Option<NodeId>,
    /// Leader: its barrier is committed. Follower: it has caught up with a leader.
    pub ready: bool,
    /// Last entry of its log.
    pub last: Position,
    /// Last entry it knows committed.
    pub commit: Seq,
    /// The settings it knows committed, with their place.
    pub settings: Option<SettingsEntry>,
    /// One per follower, on the leader; empty on a follower.
    pub followers: Vec<FollowerState>,
    /// How far a change of the set of nodes is; absent from nodes of releases that cannot change theirs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration: Option<ConfigurationState>,
}

/// What a leader has done about the set of nodes that it was last told. All zero on a follower.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigurationState {
    /// Number of that set.
    pub number: u64,
    /// Whether all that the leaving node may have been counted for is committed without it as well. Never while the
    /// leader is the one that leaves.
    pub covered: bool,
}

/// How one follower stands, seen from the leader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FollowerState {
    /// Its name.
    pub node: NodeId,
    /// The copy it last presented; absent until its stream came up once.
    pub storage_id: Option<StorageId>,
    /// Last entry that this copy is known to hold.
    pub match_seq: Seq,
    /// Whether its stream is up.
    pub connected: bool,
    /// Whether this copy counts towards the quorum.
    pub counted: bool,
    /// Whether this copy holds all that the leader's log held when the leader first heard of it, so that
    /// it may be recorded as a member.
    pub caught_up: bool,
}

/// `PUT /settings` answered 200.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SettingsReply {
    /// The settings now committed.
    pub settings: Settings,
    /// Place of their entry in the log.
    pub version: Seq,
}

/// The certificates that a node has in force on its peer port. Fingerprints are SHA-256 in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TlsReport {
    /// Of the authorities that it trusts.
    pub authorities: Vec<String>,
    /// Of the certificate that it shows.
    pub certificate: String,
    /// Since when that is valid.
    pub not_before: jiff::Timestamp,
    /// Until when.
    pub not_after: jiff::Timestamp,
}

/// Why a node refuses what a manager asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Refusal {
    /// The body is malformed or its values are not allowed (400).
    Invalid,
    /// The token is missing or wrong (401).
    Unauthorized,
    /// Only the leader does this (403).
    NotLeader,
    /// A higher epoch is promised, or the node leads another one (409).
    StaleEpoch,
    /// The leader has heard of a newer set of nodes (409).
    StaleConfiguration,
    /// The node already follows another leader in this epoch (409).
    OtherLeader,
    /// The storage is not the one named (409).
    OtherStorage,
    /// The process is not the one named (409).
    OtherProcess,
    /// The log does not hold the entry named (409).
    LogMismatch,
    /// Not now: an earlier change is uncommitted, or too few followers are connected (409).
    NotNow,
    /// The quorum did not confirm in time; the outcome is unknown (500).
    QuorumNotReached,
    /// The node lost leadership meanwhile; the outcome is unknown (503).
    LeadershipLost,
    /// The node is stopping, or something in it failed (503).
    Unavailable,
}

impl Refusal {
    /// The HTTP status code of an answer with it.
    #[must_use]
    pub const fn status_code(self) -> u16 {
        match self {
            Self::Invalid => 400,
            Self::Unauthorized => 401,
            Self::NotLeader => 403,
            Self::StaleEpoch
            | Self::StaleConfiguration
            | Self::OtherLeader
            | Self::OtherStorage
            | Self::OtherProcess
            | Self::LogMismatch
            | Self::NotNow => 409,
            Self::QuorumNotReached => 500,
            Self::LeadershipLost | Self::Unavailable => 503,
        }
    }
}

/// Body of every refusal on the peer port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{error}")]
#[serde(rename_all = "camelCase")]
pub struct PeerError {
    /// What is wrong, for people.
    pub error: String,
    /// What is wrong, for programs.
    pub reason: Refusal,
    /// The highest epoch the node promised.
    #[serde(default)]
    pub promised: Epoch,
}
