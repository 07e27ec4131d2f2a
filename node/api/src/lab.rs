//! The client port: the HTTP API of the classroom lab, JSON with fixed field names.

use std::{borrow::Cow, collections::BTreeMap};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{Delay, Epoch, NodeId, Seq, WriteQuorum};

/// Body of `POST /set`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetRequest<'a> {
    /// 1..[`crate::MAX_KEY_BYTES`] bytes of UTF-8.
    #[serde(borrow)]
    pub key: Cow<'a, str>,
    /// Any JSON value, kept byte for byte.
    #[serde(borrow)]
    pub value: &'a RawValue,
    /// The client's name for this write, under which it can be repeated:
    /// 1..[`crate::MAX_REQUEST_ID_BYTES`] bytes of printable ASCII.
    #[serde(default, rename = "requestId", skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// `POST /set` answered 200: durable on the leader and on `replicas` followers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetReply {
    /// Always true.
    pub success: bool,
    /// Followers known to hold the write when it was answered; at least the write quorum.
    pub replicas: usize,
    /// Place of the write in the log.
    pub version: Seq,
    /// Whether an earlier request with the same id did it, and this one did nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub repeated: bool,
}

/// `GET /get/<key>` answered 200.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GetReply {
    /// The key asked for.
    pub key: String,
    /// Its value as it was written.
    pub value: Box<RawValue>,
    /// How bytes that are no JSON stand in `value`; JSON values stand as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoding: Option<Encoding>,
    /// Place in the log of the write that gave it this value.
    pub version: Seq,
}

/// How bytes stand in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// As text in base64, with padding.
    Base64,
}

/// `GET /get_all` answered 200.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GetAllReply {
    /// Every committed key with its value.
    pub data: BTreeMap<String, Box<RawValue>>,
    /// Those of the keys whose values are bytes that are no JSON, and stand in `data` in base64.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub base64: Vec<String>,
    /// Place in the log up to which `data` is complete.
    pub version: Seq,
}

/// Body of every answer that is no success.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ErrorReply {
    /// What is wrong, for people.
    pub error: String,
    /// Client URL of the leader, on answers that send the client there; `null` while none is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<Option<String>>,
    /// Followers that had confirmed when the write timed out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<usize>,
    /// Version of the key's value where a condition does not hold; `null` if it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Option<Seq>>,
    /// Oldest version that a watch may begin with, where it asked for an older one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest: Option<Seq>,
}

/// What a node is at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Takes writes and streams them.
    Leader,
    /// Receives the stream.
    Follower,
}

/// `GET /status` answered 200.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusReply {
    /// Name of this node.
    pub node: NodeId,
    /// What it is at the moment.
    pub role: Role,
    /// Epoch it follows or leads; zero before the first election.
    pub epoch: Epoch,
    /// Client URL of the leader, as far as this node knows.
    pub leader: Option<String>,
    /// Whether it serves: an active leader or a follower that has caught up.
    pub ready: bool,
    /// Follower acknowledgements per write, as committed.
    pub write_quorum: WriteQuorum,
    /// Simulated round trip, as committed.
    pub delay: Delay,
    /// How long a write waits for its quorum, such as `5s`.
    pub write_timeout: String,
    /// Number of committed keys.
    pub keys: usize,
    /// Last entry in the log.
    pub last_seq: Seq,
    /// Last committed entry.
    pub commit_seq: Seq,
    /// Time from append to answer, since the settings last changed; zeros on a follower.
    pub replication_latency: LatencySummary,
    /// How those times are distributed, on the leader and only if asked for with `?latencyBuckets=true`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_buckets: Option<Vec<LatencyBucket>>,
    /// One per follower, on the leader; empty on a follower.
    pub followers: Vec<FollowerStatus>,
}

/// Quantiles of a latency, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LatencySummary {
    /// Number of samples.
    pub count: u64,
    /// Arithmetic mean.
    pub mean: f64,
    /// 50th percentile.
    pub median: f64,
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile.
    pub p99: f64,
}

/// Some latencies of nearly the same length; buckets that hold none are left out.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LatencyBucket {
    /// Its upper end, in milliseconds; what is in it is shorter by a sixteenth at most.
    pub below_ms: f64,
    /// Number of samples in it.
    pub count: u64,
}

/// How far one follower is, seen from the leader.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FollowerStatus {
    /// Its name.
    pub node: NodeId,
    /// Its client URL.
    pub url: String,
    /// Last entry it is known to hold.
    pub match_seq: Seq,
    /// Entries it is behind the leader's log.
    pub lag: u64,
    /// Whether its stream is up.
    pub connected: bool,
    /// How long it took to confirm one of the latest writes, the same for all followers, in milliseconds;
    /// absent if it did not in half a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acknowledgement_ms: Option<f64>,
}

/// Body of `POST /replicate`: an append batch in JSON (the binary stream carries the same).
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReplicateRequest {
    /// Epoch of the leader that sends it.
    pub epoch: Epoch,
    /// Name of that leader.
    pub leader: NodeId,
    /// Epoch of the entry before the first of `entries`; zero at the start of the log.
    pub prev_epoch: Epoch,
    /// Place of the entry before the first of `entries`; zero at the start of the log.
    pub prev_seq: Seq,
    /// Last entry that the leader knows committed.
    pub commit_seq: Seq,
    /// The entries, contiguous from `prev_seq + 1`.
    pub entries: Vec<ReplicatedEntry>,
}

/// One entry of a [`ReplicateRequest`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplicatedEntry {
    /// Epoch of the leader that created it.
    pub epoch: Epoch,
    /// What it does.
    #[serde(flatten)]
    pub operation: ReplicatedOperation,
}

/// What an entry of a [`ReplicateRequest`] does.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ReplicatedOperation {
    /// Gives a key a value.
    Set {
        /// The key.
        key: String,
        /// Its value.
        value: serde_json::Value,
    },
    /// A write that is more than that.
    Write(ReplicatedWrite),
    /// Does nothing; proves that an epoch can commit.
    Barrier {},
    /// Changes the settings from here on.
    Settings(crate::Settings),
}

/// A write that deletes, has a condition or a request id, or gives a key a value that is no JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplicatedWrite {
    /// The key.
    pub key: String,
    /// What happens to it.
    pub change: ReplicatedChange,
    /// What must hold of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub condition: Option<ReplicatedCondition>,
    /// By which it is known when it is repeated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<ReplicatedRequestKey>,
}

/// What a [`ReplicatedWrite`] does to its key.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ReplicatedChange {
    /// Gives it a JSON value.
    Json(serde_json::Value),
    /// Gives it any value, here in base64.
    Raw(String),
    /// Takes its value away.
    Delete {},
}

/// What must hold of a key when a [`ReplicatedWrite`] is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ReplicatedCondition {
    /// It has a value.
    Present,
    /// It has none.
    Absent,
    /// It has a value of this version.
    Version(Seq),
    /// It has no value, or one of another version.
    NotVersion(Seq),
}

/// By which a repeated [`ReplicatedWrite`] is known.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplicatedRequestKey {
    /// The client's name for it.
    pub id: String,
    /// 16 bytes that tell it from other writes of that name, in base64.
    pub digest: String,
}

/// `POST /replicate` answered 200.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplicateReply {
    /// Always true.
    pub success: bool,
    /// Last entry up to which this follower's log equals the leader's.
    pub match_seq: Seq,
}
