//! `KvCluster` to [`ValidCluster`], once; everything after this takes only the valid form.
//!
//! The API server has applied the rules of the CRD before, but an object may have been stored under older
//! rules, and `local` reads manifests that no API server has seen.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Affinity, LocalObjectReference, ResourceRequirements, Toleration, TopologySpreadConstraint},
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::{Resource, ResourceExt, core::cel::ValidationErrors};
use quorumkv_api::{
    Delay, NodeId, Settings, WriteQuorum,
    settings::{DurationError, InvalidSettings, parse_duration},
};

use crate::{
    build::names,
    crd::{
        DataLossPolicy, DelayRange, ImagePullPolicy, KvCluster, KvClusterSpec, Storage, StorageKind, Tls, WhenDeleted,
    },
    record::Record,
    switchover,
};

/// What the manager needs to know of a store, wherever it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    /// Every node of it, in the order of preference for the first leader: as recorded, with one that joins. Before
    /// anything is recorded, as many as there shall be.
    pub nodes: Vec<NodeId>,
    /// Names of all nodes that a store can have. Those that it has are the first ones.
    pub names: Vec<NodeId>,
    /// How many nodes it shall have.
    pub wanted: usize,
    /// Whether nothing is left of nodes that it had before.
    pub settled: bool,
    /// Whether it stays as large as it is on record, since it is about to sleep.
    pub resting: bool,
    /// The settings that shall be in force.
    pub settings: Settings,
    /// What to do when every recorded copy is gone.
    pub data_loss: DataLossPolicy,
    /// Who shall lead, if a person asks for a switchover.
    pub switchover_to: Option<NodeId>,
}

/// Most nodes that a store can have: nine followers and the leader.
pub const MOST_NODES: usize = 10;

impl Store {
    /// The nodes that this record speaks of, and one that joins.
    #[must_use]
    pub fn present(&self, record: &Record) -> &[NodeId] {
        let count = match record.membership.nodes {
            0 => self.wanted,
            recorded => recorded + usize::from(record.membership.joining().is_some()),
        };
        &self.names[..count.min(self.names.len())]
    }

    /// The same store with the nodes that this record speaks of.
    #[must_use]
    pub fn as_recorded(&self, record: &Record) -> Self {
        Self { nodes: self.present(record).to_vec(), ..self.clone() }
    }

    /// Number of followers.
    #[must_use]
    pub fn followers(&self) -> usize {
        self.nodes.len().saturating_sub(1)
    }
}

/// A KvCluster that can be built.
#[derive(Debug, Clone, PartialEq)]
pub struct ValidCluster {
    /// Its name, after which all its objects are named.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// What its objects name as their owner.
    pub owner: OwnerReference,
    /// The generation of the spec.
    pub generation: Option<i64>,
    /// What the manager needs.
    pub store: Store,
    /// Where the nodes keep their data.
    pub storage: ValidStorage,
    /// Whether the store shall sleep.
    pub hibernated: bool,
    /// Whether no pod shall be there: it sleeps, or is about to. [`crate::hibernation`] decides when.
    pub stopped: bool,
    /// What the pods are made of.
    pub pods: PodOptions,
    /// How nodes speak TLS, if they do.
    pub tls: Option<ValidTls>,
}

/// How nodes speak TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValidTls {
    /// The Secret with the certificates.
    pub secret: String,
    /// Whether the operator makes them.
    pub self_signed: bool,
}

/// Where the nodes keep their data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ValidStorage {
    /// In memory.
    Memory,
    /// On a volume each.
    Persistent {
        /// Its size.
        size: String,
        /// Its storage class, if not the cluster's default.
        class: Option<String>,
        /// What becomes of it when the KvCluster is deleted.
        when_deleted: WhenDeleted,
    },
}

/// What the pods are made of, beyond what every node needs.
#[derive(Debug, Clone, PartialEq)]
pub struct PodOptions {
    /// The image.
    pub image: String,
    /// When to pull it.
    pub image_pull_policy: Option<ImagePullPolicy>,
    /// What to pull it with.
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// Compute resources.
    pub resources: Option<ResourceRequirements>,
    /// Where pods may run.
    pub node_selector: BTreeMap<String, String>,
    /// Which taints they tolerate.
    pub tolerations: Vec<Toleration>,
    /// Where they prefer to run.
    pub affinity: Option<Affinity>,
    /// How they spread.
    pub topology_spread_constraints: Vec<TopologySpreadConstraint>,
    /// Their annotations.
    pub annotations: BTreeMap<String, String>,
    /// From which size on nodes compress frames to followers, in bytes; none: never.
    pub compress_above: Option<i32>,
    /// Name of the Secret with the tokens of clients; none: they need none.
    pub client_tokens: Option<String>,
}

/// Why a KvCluster cannot be built. Each message says what to change.
#[derive(Debug, thiserror::Error)]
pub enum InvalidCluster {
    /// A rule of the CRD does not hold.
    #[error("{}", join(.0))]
    Rule(ValidationErrors),
    /// The number of followers is out of range.
    #[error("followers must be 1 to 9")]
    Followers,
    /// A duration cannot be read.
    #[error("{field}: {source}")]
    Duration {
        /// Where it stands.
        field: &'static str,
        /// What is wrong with it.
        source: DurationError,
    },
    /// The settings contradict each other.
    #[error(transparent)]
    Settings(#[from] InvalidSettings),
    /// Nobody but Kubernetes can read the Secret.
    #[error("clientTokens names a Secret, which only Kubernetes has: leave it out where the nodes are local processes")]
    NoSecrets,
    /// A store in memory cannot sleep.
    #[error("hibernated needs storage.type Persistent: a store in memory would lose everything that it holds")]
    HibernatedMemory,
    /// A store of processes ends with its manager.
    #[error("hibernated means nothing here: end this program instead, and start it again")]
    HibernatedHere,
    /// Neither a Secret nor certificates of the operator's own, or both.
    #[error("tls needs either secretName or selfSigned: true")]
    Tls,
    /// Nodes on one machine have no use for it.
    #[error("tls is for Kubernetes: nodes on one machine reach each other on loopback, without it; leave it out here")]
    LocalTls,
    /// The object has no identity, so nothing can be owned by it.
    #[error("the KvCluster has no name, namespace or uid: it was not read from an API server")]
    Identity,
}

fn join(errors: &ValidationErrors) -> String {
    errors.iter().map(|error| error.message.clone()).collect::<Vec<_>>().join("; ")
}

/// Checks a KvCluster that was read from an API server.
///
/// `default_image` is used where the spec names none.
///
/// # Errors
/// See [`InvalidCluster`].
pub fn validate(cluster: &KvCluster, default_image: &str) -> Result<ValidCluster, InvalidCluster> {
    let (Some(name), Some(namespace)) = (cluster.metadata.name.clone(), cluster.metadata.namespace.clone()) else {
        return Err(InvalidCluster::Identity);
    };
    let owner = cluster.controller_owner_ref(&()).ok_or(InvalidCluster::Identity)?;
    let followers = validate_followers(&cluster.spec)?;
    let KvClusterSpec {
        followers: _,
        write_quorum: _,
        delay: _,
        write_timeout: _,
        storage,
        hibernated,
        data_loss_policy,
        image,
        image_pull_policy,
        image_pull_secrets,
        resources,
        node_selector,
        tolerations,
        affinity,
        topology_spread_constraints,
        pod_annotations,
        compress_above,
        client_tokens,
        tls,
    } = cluster.spec.clone();
    let tls = valid_tls(&name, tls)?;
    let names: Vec<NodeId> = (0..MOST_NODES).map(|ordinal| NodeId(format!("{name}-{ordinal}"))).collect();
    let store = Store {
        nodes: names[..=followers].to_vec(),
        names,
        wanted: followers + 1,
        settled: true,
        resting: false,
        settings: validate_settings(&cluster.spec, followers)?,
        data_loss: data_loss_policy,
        switchover_to: switchover_to(cluster),
    };
    let storage = valid_storage(storage);
    if hibernated && storage == ValidStorage::Memory {
        return Err(InvalidCluster::HibernatedMemory);
    }
    let pods = PodOptions {
        image: image.unwrap_or_else(|| default_image.to_owned()),
        image_pull_policy,
        image_pull_secrets,
        resources,
        node_selector,
        tolerations,
        affinity,
        topology_spread_constraints,
        annotations: pod_annotations,
        compress_above,
        client_tokens: client_tokens.map(|tokens| tokens.secret_name),
    };
    let generation = cluster.metadata.generation;
    Ok(ValidCluster { name, namespace, owner, generation, store, storage, hibernated, stopped: false, pods, tls })
}

/// Checks a manifest that no API server has seen, for a store of local processes with these names.
///
/// # Errors
/// See [`InvalidCluster`].
pub fn validate_local(cluster: &KvCluster, name: impl Fn(usize) -> NodeId) -> Result<Store, InvalidCluster> {
    cluster.validate_cel().map_err(InvalidCluster::Rule)?;
    if cluster.spec.client_tokens.is_some() {
        return Err(InvalidCluster::NoSecrets);
    }
    if cluster.spec.hibernated {
        return Err(InvalidCluster::HibernatedHere);
    }
    if cluster.spec.tls.is_some() {
        return Err(InvalidCluster::LocalTls);
    }
    let followers = validate_followers(&cluster.spec)?;
    let settings = validate_settings(&cluster.spec, followers)?;
    let names: Vec<NodeId> = (0..MOST_NODES).map(name).collect();
    let (nodes, wanted) = (names[..=followers].to_vec(), followers + 1);
    let (data_loss, switchover_to) = (cluster.spec.data_loss_policy, switchover_to(cluster));
    Ok(Store { nodes, names, wanted, settled: true, resting: false, settings, data_loss, switchover_to })
}

/// Whether there is such a node is not checked here: a wish that makes no sense does not make the spec wrong.
fn switchover_to(cluster: &KvCluster) -> Option<NodeId> {
    cluster.annotations().get(switchover::ANNOTATION).map(|node| NodeId(node.clone()))
}

fn validate_followers(spec: &KvClusterSpec) -> Result<usize, InvalidCluster> {
    match usize::try_from(spec.followers) {
        Ok(followers @ 1..=9) => Ok(followers),
        _ => Err(InvalidCluster::Followers),
    }
}

fn validate_settings(spec: &KvClusterSpec, followers: usize) -> Result<Settings, InvalidCluster> {
    let duration =
        |field, text: &str| parse_duration(text).map_err(|source| InvalidCluster::Duration { field, source });
    let DelayRange { min, max } = &spec.delay;
    let settings = Settings {
        write_quorum: WriteQuorum(u8::try_from(spec.write_quorum.clamp(0, 255)).expect("clamped to a byte")),
        delay: Delay { min: duration("delay.min", min)?, max: duration("delay.max", max)? },
        write_timeout: duration("writeTimeout", &spec.write_timeout)?,
    };
    settings.validate(followers)?;
    Ok(settings)
}

fn valid_storage(storage: Storage) -> ValidStorage {
    let Storage { kind, size, storage_class_name, when_deleted } = storage;
    match kind {
        StorageKind::Memory => ValidStorage::Memory,
        StorageKind::Persistent => ValidStorage::Persistent {
            size: size.unwrap_or_else(|| "1Gi".to_owned()),
            class: storage_class_name,
            when_deleted: when_deleted.unwrap_or_default(),
        },
    }
}

fn valid_tls(cluster: &str, tls: Option<Tls>) -> Result<Option<ValidTls>, InvalidCluster> {
    match tls {
        None => Ok(None),
        Some(Tls { secret_name: Some(secret), self_signed: false }) => {
            Ok(Some(ValidTls { secret, self_signed: false }))
        }
        Some(Tls { secret_name: None, self_signed: true }) => {
            Ok(Some(ValidTls { secret: names::tls_secret(cluster), self_signed: true }))
        }
        Some(_) => Err(InvalidCluster::Tls),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rstest::rstest;
    use serde_json::json;

    use super::*;

    fn cluster(spec: serde_json::Value) -> KvCluster {
        serde_json::from_value(json!({
            "apiVersion": "quorumkv.io/v1alpha1",
            "kind": "KvCluster",
            "metadata": {"name": "demo", "namespace": "default", "uid": "u1", "generation": 4},
            "spec": spec,
        }))
        .expect("a KvCluster")
    }

    #[test]
    fn a_default_spec_makes_six_nodes() {
        let valid = validate(&cluster(json!({})), "node:1").expect("valid");
        assert_eq!(valid.store.nodes.len(), 6);
        assert_eq!(valid.store.nodes[5], "demo-5".into());
        assert_eq!(valid.pods.image, "node:1");
        assert_eq!(valid.owner.uid, "u1");
        assert_eq!(valid.store.settings, Settings::default());
    }

    #[test]
    fn an_annotation_asks_for_a_switchover() {
        let mut cluster = cluster(json!({}));
        assert_eq!(validate(&cluster, "node:1").expect("valid").store.switchover_to, None);
        cluster.annotations_mut().insert(switchover::ANNOTATION.to_owned(), "demo-2".to_owned());
        assert_eq!(validate(&cluster, "node:1").expect("valid").store.switchover_to, Some("demo-2".into()));
    }

    #[test]
    fn the_spec_becomes_settings() {
        let spec = json!({"writeQuorum": 2, "delay": {"min": "10ms", "max": "150ms"}, "writeTimeout": "2s"});
        let settings = validate(&cluster(spec), "node:1").expect("valid").store.settings;
        assert_eq!(settings.write_quorum, WriteQuorum(2));
        assert_eq!(settings.delay.max, Duration::from_millis(150));
        assert_eq!(settings.write_timeout, Duration::from_secs(2));
    }

    #[rstest]
    #[case(json!({"followers": 10}), "followers must be 1 to 9")]
    #[case(json!({"writeQuorum": 6}), "writeQuorum 6 is outside 1..5")]
    #[case(json!({"writeQuorum": -3}), "writeQuorum 0 is outside 1..5")]
    #[case(json!({"tls": {}}), "tls needs either secretName or selfSigned")]
    #[case(json!({"delay": {"max": "soon"}}), "delay.max: \"soon\" is not a duration")]
    #[case(json!({"hibernated": true}), "hibernated needs storage.type Persistent")]
    #[case(json!({"delay": {"min": "9ms", "max": "1ms"}}), "delay.min 9ms is above delay.max 1ms")]
    fn what_slipped_past_the_api_server_is_refused(#[case] spec: serde_json::Value, #[case] message: &str) {
        let error = validate(&cluster(spec), "node:1").expect_err("refused").to_string();
        assert!(error.contains(message), "{error}");
    }

    #[test]
    fn volumes_stay_unless_the_spec_says_otherwise() {
        let of = |storage: serde_json::Value| validate(&cluster(json!({"storage": storage})), "node:1").expect("valid");
        let persistent = |when_deleted| ValidStorage::Persistent { size: "1Gi".into(), class: None, when_deleted };
        let by_default = of(json!({"type": "Persistent", "size": "1Gi"}));
        assert_eq!(by_default.storage, persistent(WhenDeleted::Retain));
        let delete = of(json!({"type": "Persistent", "size": "1Gi", "whenDeleted": "Delete"}));
        assert_eq!(delete.storage, persistent(WhenDeleted::Delete));
    }

    #[test]
    fn processes_do_not_hibernate() {
        let spec = json!({"hibernated": true, "storage": {"type": "Persistent", "size": "1Gi"}});
        let manifest = KvCluster::new("demo", serde_json::from_value(spec).expect("a spec"));
        let error = validate_local(&manifest, |n| NodeId(format!("n{n}"))).expect_err("refused").to_string();
        assert!(error.contains("end this program instead"), "{error}");
    }

    #[test]
    fn a_manifest_is_held_to_the_rules_of_the_crd() {
        let manifest = KvCluster::new("demo", serde_json::from_value(json!({"writeQuorum": 9})).expect("a spec"));
        let error = validate_local(&manifest, |n| NodeId(format!("n{n}"))).expect_err("refused").to_string();
        assert!(error.contains("lower writeQuorum to the number of followers or less"), "{error}");
        let spec = serde_json::from_value(json!({"tls": {"selfSigned": true}})).expect("a spec");
        let error = validate_local(&KvCluster::new("demo", spec), |n| NodeId(format!("n{n}"))).expect_err("refused");
        assert!(error.to_string().contains("tls is for Kubernetes"), "{error}");
    }
}
