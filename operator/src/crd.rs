//! `KvCluster`: what users write, and what the operator reports and remembers.
//!
//! The schema carries the defaults and the rules, so that the API server refuses a wrong manifest with a
//! sentence that says what to change. Durations are checked by pattern before CEL parses them: its
//! `duration()` fails with an evaluation error on text it cannot read, which would hide the sentence.

// The derive makes a private copy of each struct for its schema, whose `pub` nobody can reach.
#![allow(unreachable_pub)]

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Affinity, LocalObjectReference, ResourceRequirements, Toleration, TopologySpreadConstraint},
    apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::{CustomResource, CustomResourceExt, KubeSchema, core::Rule};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A replicated key-value store: one leader and some followers.
#[derive(CustomResource, KubeSchema, Debug, Clone, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "quorumkv.io",
    version = "v1alpha1",
    kind = "KvCluster",
    plural = "kvclusters",
    shortname = "kvc",
    category = "all",
    namespaced,
    status = "KvClusterStatus",
    scale(
        spec_replicas_path = ".spec.followers",
        status_replicas_path = ".status.followers",
        label_selector_path = ".status.selector"
    ),
    derive = "PartialEq",
    cel,
    doc = "A replicated key-value store: one leader and some followers. A write is acknowledged once writeQuorum followers hold it.",
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$') && size(self.metadata.name) <= 45")
        .message("metadata.name must start with a letter, have at most 45 characters and none but a-z, 0-9 and '-': Services and pods are named after it"),
    validation = shrink_rule(),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Leader", type_ = "string", json_path = ".status.leader"),
    printcolumn(name = "Followers", type_ = "string", json_path = ".status.followersReady", description = "Followers that are caught up, of all"),
    printcolumn(name = "Quorum", type_ = "integer", json_path = ".status.writeQuorum", description = "Follower acknowledgements per write, as applied"),
    printcolumn(name = "Delay", type_ = "string", json_path = ".status.delayRange", priority = 1, description = "Simulated replication round trip, as applied"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(
    validation = quorum_rule(),
    validation = delay_below_timeout_rule(),
    validation = Rule::new("!self.hibernated || self.storage.type == 'Persistent'")
        .message("hibernated needs storage.type Persistent: a store in memory would lose everything that it holds")
        .field_path(".hibernated"),
    validation = Rule::new("!(self.hibernated && oldSelf.hibernated) || (has(self.storage.whenDeleted) ? self.storage.whenDeleted : 'Retain') == (has(oldSelf.storage.whenDeleted) ? oldSelf.storage.whenDeleted : 'Retain')")
        .message("storage.whenDeleted can be changed only while the nodes run: set hibernated: false first")
        .field_path(".storage.whenDeleted"),
    validation = Rule::new("self.storage.type == oldSelf.storage.type")
        .message("storage.type cannot be changed: create another KvCluster and copy the data")
        .field_path(".storage.type"),
    validation = Rule::new("has(self.storage.storageClassName) == has(oldSelf.storage.storageClassName) && (!has(self.storage.storageClassName) || self.storage.storageClassName == oldSelf.storage.storageClassName)")
        .message("storage.storageClassName cannot be changed: create another KvCluster and copy the data")
        .field_path(".storage"),
    validation = Rule::new("has(self.tls) == has(oldSelf.tls) && (!has(self.tls) || self.tls == oldSelf.tls)")
        .message("tls cannot be changed: nodes with it and nodes without it do not reach each other; create another KvCluster and copy the data. What the Secret holds may change at any time"),
)]
#[serde(rename_all = "camelCase")]
pub struct KvClusterSpec {
    /// Number of followers, 1 to 9. The store has one node more: the leader. Can be changed while the store runs, also
    /// by `kubectl scale`; not below writeQuorum.
    #[serde(default = "default_followers")]
    #[x_kube(
        validation = Rule::new("self >= 1 && self <= 9").message("followers must be 1 to 9")
    )]
    pub followers: i32,

    /// Follower acknowledgements a write waits for, 1 to followers. Can be changed while the store runs.
    #[serde(default = "default_write_quorum")]
    #[x_kube(
        validation = Rule::new("self >= 1")
            .message("writeQuorum must be at least 1: a write has to reach one follower before it is acknowledged")
    )]
    pub write_quorum: i32,

    /// Simulated replication round trip, uniform per write and follower. Can be changed while the store runs.
    #[serde(default)]
    pub delay: DelayRange,

    /// How long a write waits for its quorum before it answers "Quorum not reached", such as 5s or 750ms.
    #[serde(default = "default_write_timeout")]
    #[schemars(length(max = 20))]
    #[x_kube(validation = duration_rule("writeTimeout", "5s"))]
    pub write_timeout: String,

    /// Where the nodes keep the data.
    #[serde(default)]
    pub storage: Storage,

    /// Whether the store sleeps: no node runs, and the volumes keep what was written. Set to false, it wakes up with
    /// all of it. For Persistent storage only.
    #[serde(default)]
    pub hibernated: bool,

    /// What to do when every recorded copy of the data is gone: `Halt` waits for a person, `Reset` starts
    /// again with an empty store and says so in a Warning event.
    #[serde(default)]
    pub data_loss_policy: DataLossPolicy,

    /// Image of the nodes; by default the one released with the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,

    /// When to pull the image; the default is Kubernetes' own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<ImagePullPolicy>,

    /// Secrets to pull the image with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub image_pull_secrets: Vec<LocalObjectReference>,

    /// Compute resources of each node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,

    /// Labels that a machine must have to run a node.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,

    /// Taints that the nodes tolerate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,

    /// Scheduling preferences. By default nodes prefer different machines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,

    /// How nodes are spread over failure domains.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub topology_spread_constraints: Vec<TopologySpreadConstraint>,

    /// Annotations of the pods.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pod_annotations: BTreeMap<String, String>,

    /// Frames to followers that are larger than so many bytes, 256 to 4194304, are compressed where that pays; by
    /// default none are. Worth it on slow networks. A change replaces the pods one by one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(
        validation = Rule::new("self >= 256 && self <= 4194304")
            .message("compressAbove must be 256 to 4194304 bytes: leave it out to compress nothing")
    )]
    pub compress_above: Option<i32>,

    /// Tokens that clients have to present. Without it whoever reaches the nodes may read and write. Setting or removing
    /// it replaces the pods one by one; what changes in the Secret takes effect without that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_tokens: Option<ClientTokens>,

    /// Whether nodes and operator speak TLS to each other; by default they do not. Fixed when a store is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "tls_schema")]
    pub tls: Option<Tls>,
}

/// Where the tokens of clients are.
#[derive(KubeSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientTokens {
    /// Name of a Secret in the KvCluster's namespace with the keys `read` and `write`: the tokens of clients that may
    /// only read and of those that may read and write, one a line.
    #[schemars(length(max = 253))]
    #[x_kube(
        validation = Rule::new("self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')")
            .message("clientTokens.secretName must be the name of a Secret: a-z, 0-9, '-' and '.'")
    )]
    pub secret_name: String,
}

/// TLS between nodes, and between operator and nodes. Clients are served without it.
#[derive(KubeSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("has(self.secretName) != self.selfSigned")
        .message("tls needs either secretName, the name of a Secret with tls.crt, tls.key and ca.crt, or selfSigned: true")
)]
#[serde(rename_all = "camelCase")]
pub struct Tls {
    /// A Secret with tls.crt, tls.key and ca.crt, as cert-manager makes them. The certificate has the DNS name
    /// `<name>-nodes.<namespace>.svc`. Whatever it holds later takes effect without a restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "short_text")]
    pub secret_name: Option<String>,

    /// The operator makes certificates and renews them, in the Secret `<name>-peer-tls`.
    #[serde(default)]
    pub self_signed: bool,
}

/// A range of durations, such as `{min: 10ms, max: 150ms}`.
#[derive(KubeSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(validation = delay_range_rule())]
#[serde(rename_all = "camelCase")]
pub struct DelayRange {
    /// Shortest round trip, such as 10ms.
    #[serde(default = "zero_duration")]
    #[schemars(length(max = 20))]
    #[x_kube(validation = duration_rule("delay.min", "10ms"))]
    pub min: String,

    /// Longest round trip, such as 150ms; below writeTimeout.
    #[serde(default = "zero_duration")]
    #[schemars(length(max = 20))]
    #[x_kube(validation = duration_rule("delay.max", "150ms"))]
    pub max: String,
}

/// Where the nodes keep the data.
#[derive(KubeSchema, Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("self.type == 'Persistent' || (!has(self.size) && !has(self.storageClassName))")
        .message("storage.size and storage.storageClassName belong to type Persistent: remove them or set type: Persistent"),
    validation = Rule::new("self.type == 'Persistent' || !has(self.whenDeleted)")
        .message("storage.whenDeleted belongs to type Persistent: remove it or set type: Persistent"),
    validation = Rule::new("self.type != 'Persistent' || has(self.size)")
        .message("storage.size is missing: say how large each node's volume shall be, such as size: 1Gi"),
    validation = Rule::new("!has(self.size) || (isQuantity(self.size) && quantity(self.size).isGreaterThan(quantity('0')))")
        .message("storage.size must be a quantity above zero, such as 1Gi")
        .field_path(".size"),
)]
#[serde(rename_all = "camelCase")]
pub struct Storage {
    /// `Memory`: gone with the process. `Persistent`: a volume for each node.
    #[serde(rename = "type", default)]
    pub kind: StorageKind,

    /// Size of each node's volume, for Persistent. It can be raised while the store runs, where the storage class
    /// lets volumes grow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "short_text")]
    pub size: Option<String>,

    /// Storage class of the volumes, for Persistent; by default the cluster's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "short_text")]
    pub storage_class_name: Option<String>,

    /// What becomes of the volumes when the KvCluster is deleted, for Persistent. `Retain`, the default: they stay,
    /// and a KvCluster of the same name finds its data again. `Delete`: they go with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "when_deleted")]
    pub when_deleted: Option<WhenDeleted>,
}

/// What becomes of volumes when their KvCluster is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum WhenDeleted {
    /// They stay.
    #[default]
    Retain,
    /// They are deleted, and the data with them.
    Delete,
}

/// Kind of storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum StorageKind {
    /// In the memory of the process.
    #[default]
    Memory,
    /// On a volume.
    Persistent,
}

/// What to do when every recorded copy is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum DataLossPolicy {
    /// Stay down until a person decides.
    #[default]
    Halt,
    /// Start again, empty.
    Reset,
}

/// When the kubelet pulls an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ImagePullPolicy {
    /// Before every start.
    Always,
    /// Unless the machine has it.
    IfNotPresent,
    /// The machine must have it.
    Never,
}

impl ImagePullPolicy {
    /// As Kubernetes spells it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}

/// What the operator reports, and what it must remember to never lose a write.
///
/// `epoch`, `leader`, `lastLeader`, `members` and `configuration` are the memory: they change by compare-and-swap only.
/// Everything else is derived from what the nodes say. Nothing here moves with every write.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KvClusterStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Number of the latest election.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<i64>,

    /// Name of the pod that leads `epoch`; absent while it is being elected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,

    /// The copy that was last named leader. Its answer alone suffices for an election when too few others
    /// of the recorded copies are left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_leader: Option<RecordedCopy>,

    /// The copies of the data that count in quorums and elections.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub members: Vec<MemberStatus>,

    /// How many nodes recoveries count on, and which one joins or leaves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration: Option<ConfigurationStatus>,

    /// Number of followers, as applied: one that joins is none yet, one that leaves still is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub followers: Option<i32>,

    /// Number of followers that are connected, counted and caught up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_followers: Option<i32>,

    /// `readyFollowers/followers`, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub followers_ready: Option<String>,

    /// Follower acknowledgements per write, as the leader committed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_quorum: Option<i32>,

    /// Simulated round trip, as the leader committed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay: Option<AppliedDelay>,

    /// `delay` as a text, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay_range: Option<String>,

    /// How long a write waits for its quorum, as the leader committed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_timeout: Option<String>,

    /// Label selector of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,

    /// Size of the smallest volume, for Persistent storage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "short_text")]
    pub volume_size: Option<String>,

    /// Ready, Progressing, Degraded, QuorumAvailable; of Persistent stores VolumesResized; Paused while it is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// One copy of the data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RecordedCopy {
    /// The pod that holds it.
    pub name: String,
    /// Identity of the copy; a node that lost its disk or memory has another one.
    pub storage_id: String,
}

/// The recorded set of nodes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigurationStatus {
    /// Higher with every step of a change; leaders refuse lower ones.
    pub number: i64,
    /// Followers plus one.
    pub nodes: i32,
    /// The pod that learns, to be one of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joining: Option<String>,
    /// The pod that is counted no longer, to be none of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaving: Option<String>,
    /// Place in the log of the quorum that was known committed when a pod last left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quorum_seq: Option<i64>,
    /// That quorum.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_quorum: Option<i32>,
}

/// A copy that counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MemberStatus {
    /// The pod that holds it.
    pub name: String,
    /// Identity of the copy; a node that lost its disk or memory has another one.
    pub storage_id: String,
    /// What its node is by the record.
    pub role: MemberRole,
}

/// What a member is by the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MemberRole {
    /// Named leader of the epoch.
    Leader,
    /// Follows it.
    Follower,
}

/// A range of durations that is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AppliedDelay {
    /// Shortest round trip.
    pub min: String,
    /// Longest round trip.
    pub max: String,
}

impl Default for DelayRange {
    fn default() -> Self {
        Self { min: zero_duration(), max: zero_duration() }
    }
}

/// The definition as YAML, as it stands in `crds/`.
///
/// # Errors
/// When it cannot be written as YAML.
pub fn definition_yaml() -> Result<String, serde_saphyr::ser_error::Error> {
    let definition = serde_saphyr::to_string(&KvCluster::crd())?;
    Ok(format!("# Generated from operator/src/crd.rs by `quorumkv-operator crd`; `make crds` renews it.\n{definition}"))
}

const fn default_followers() -> i32 {
    5
}

const fn default_write_quorum() -> i32 {
    3
}

fn default_write_timeout() -> String {
    "5s".to_owned()
}

fn zero_duration() -> String {
    "0ms".to_owned()
}

/// Without `nullable`: the API server then drops an explicit null, and `has()` in the rules means what it says.
fn short_text(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "string", "maxLength": 253 })
}

/// Without `nullable`, as above.
fn when_deleted(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "string", "enum": ["Retain", "Delete"] })
}

/// As [`short_text`].
fn tls_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    generator.subschema_for::<Tls>()
}

/// Kubernetes never makes a volume smaller. A size that the volumes did not get, because they cannot grow, can be taken
/// back: the rule is on the whole object, since the status says what they have.
fn shrink_rule() -> Rule {
    let (new, old, has) = ("self.spec.storage.size", "oldSelf.spec.storage.size", "self.status.volumeSize");
    let at_least = |least: &str| format!("quantity({new}).compareTo(quantity({least})) >= 0");
    Rule::new(format!(
        "!has({old}) || !has({new}) || !isQuantity({new}) || {} || (has(self.status) && has({has}) && isQuantity({has}) && {})",
        at_least(old),
        at_least(has),
    ))
    .message("storage.size cannot shrink: volumes only grow. Keep it, or create another KvCluster and copy the data")
    .field_path(".spec.storage.size")
}

/// What a duration looks like. Six digits keep every text of 20 characters inside what CEL can hold.
const DURATION_PATTERN: &str = r"^(0|([0-9]{1,6}(\\.[0-9]{1,6})?(ns|us|ms|s|m|h))+)$";

fn is_duration(path: &str) -> String {
    format!("{path}.matches('{DURATION_PATTERN}')")
}

fn duration_rule(field: &str, example: &str) -> Rule {
    Rule::new(is_duration("self")).message(
        format!("{field} is not a duration: write a number with a unit (ns, us, ms, s, m, h), such as {example}")
            .as_str(),
    )
}

/// The message names no numbers: the API server estimates an expression that prints an integer as too costly.
fn quorum_rule() -> Rule {
    Rule::new("self.writeQuorum <= self.followers")
        .message("writeQuorum is above followers: lower writeQuorum to the number of followers or less, or keep more followers")
        .field_path(".writeQuorum")
}

fn delay_range_rule() -> Rule {
    let readable = format!("{} && {}", is_duration("self.min"), is_duration("self.max"));
    Rule::new(format!("!({readable}) || duration(self.min) <= duration(self.max)"))
        .message("delay.min is above delay.max: lower delay.min or raise delay.max")
        .field_path(".min")
}

fn delay_below_timeout_rule() -> Rule {
    let readable = format!("{} && {}", is_duration("self.delay.max"), is_duration("self.writeTimeout"));
    Rule::new(format!("!({readable}) || duration(self.delay.max) < duration(self.writeTimeout)"))
        .message(
            "delay.max must be below writeTimeout, or no write is confirmed in time: lower delay.max or raise writeTimeout",
        )
        .field_path(".delay.max")
}

#[cfg(test)]
mod tests;
