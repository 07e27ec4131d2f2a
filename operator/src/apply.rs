//! Makes the objects what they should be, in a fixed order, and nothing when they already are.
//!
//! Server-side apply with one field manager: fields the operator does not describe stay with whoever set
//! them. An object of the same name that belongs to somebody else is left alone, and said so.

pub mod secrets;
pub mod sent;

use std::{fmt::Debug, sync::Arc};

use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::StatefulSet,
        core::v1::{PersistentVolumeClaim, Pod, Secret, Service},
        networking::v1::NetworkPolicy,
        policy::v1::PodDisruptionBudget,
    },
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::Timestamp,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use quorumkv_api::{NodeId, lab::Role};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::{
    build::{self, Objects, names, policy, secret},
    crd::KvCluster,
    observe::{Observed, owned_by},
    record::{Platform, Record, RecordError, Versioned},
    status::DerivedStatus,
    switchover,
    validate::ValidCluster,
};

/// Under this name the operator owns fields.
pub const FIELD_MANAGER: &str = "quorumkv-operator";

/// Why the objects could not be made what they should be.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// Somebody else's object has the name.
    #[error(
        "{kind} {name} exists and does not belong to this KvCluster: delete or rename it, or name the KvCluster differently"
    )]
    Foreign {
        /// Its kind.
        kind: String,
        /// Its name.
        name: String,
    },
    /// An earlier object of that name, or the namespace, is still going away.
    #[error("{kind} {name} is being deleted")]
    BeingDeleted {
        /// Its kind.
        kind: String,
        /// Its name.
        name: String,
    },
    /// The KvCluster was deleted meanwhile: nothing is made for it any more.
    #[error("the KvCluster is gone")]
    Gone,
    /// What the cache says of the nodes is not what is on record.
    #[error("{name} is not shrunk by a record that is out of date")]
    OutOfDate {
        /// The StatefulSet.
        name: String,
    },
    /// The record could not be read before the StatefulSet is shrunk.
    #[error(transparent)]
    Record(RecordError),
    /// The Secret is there but holds no token.
    #[error("Secret {0} holds no token: delete it and the pods, and a new one is made")]
    NoToken(String),
    /// The Kubernetes API refused.
    #[error("cannot {attempt} {name}: {source}")]
    Kubernetes {
        /// What was tried.
        attempt: &'static str,
        /// On what.
        name: String,
        /// Why not.
        source: Box<kube::Error>,
    },
}

fn refused(attempt: &'static str, name: &str) -> impl FnOnce(kube::Error) -> ApplyError {
    move |source| ApplyError::Kubernetes { attempt, name: name.to_owned(), source: Box::new(source) }
}

/// The same for what is made in this namespace: in one that is going away nothing can be made.
fn not_made<'a>(
    attempt: &'static str,
    name: &'a str,
    namespace: &'a str,
) -> impl FnOnce(kube::Error) -> ApplyError + use<'a> {
    move |source| match &source {
        kube::Error::Api(status) if status.code == 403 && status.message.contains("it is being terminated") => {
            ApplyError::BeingDeleted { kind: "Namespace".to_owned(), name: namespace.to_owned() }
        }
        _ => refused(attempt, name)(source),
    }
}

/// Applies what differs: Services before the pods that are found through them.
///
/// # Errors
/// See [`ApplyError`]; what came before the failing object stays applied.
pub async fn apply(
    client: &Client,
    cluster: &ValidCluster,
    desired: &Objects,
    observed: &Observed,
) -> Result<(), ApplyError> {
    let Objects { services, budget, nodes } = desired;
    let complete = observed.services.len() == services.len() && observed.budget.is_some();
    if !(complete && observed.stateful_set.is_some()) {
        // The caches may not know yet that the KvCluster was deleted, and its objects with it.
        StatusRecord::new(client, cluster).must_exist().await?;
    }
    for service in services {
        let seen = observed.services.get(&service.name_any());
        apply_one::<Service>(client, cluster, service, seen).await?;
    }
    apply_one::<PodDisruptionBudget>(client, cluster, budget, observed.budget.as_ref()).await?;
    apply_nodes(client, cluster, nodes, observed).await
}

/// Applies the StatefulSet. It shrinks only by what is on record now, and only if it is still what was observed before
/// the record was read: an operator that was held up must not delete the pods of nodes that have joined since. A store
/// that sleeps has no pods and as many nodes as before.
async fn apply_nodes(
    client: &Client,
    cluster: &ValidCluster,
    nodes: &StatefulSet,
    observed: &Observed,
) -> Result<(), ApplyError> {
    let replicas = |set: &StatefulSet| set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let shrinks = |seen: &&Arc<StatefulSet>| replicas(nodes) > 0 && replicas(seen) > replicas(nodes);
    let Some(seen) = observed.stateful_set.as_ref().filter(shrinks) else {
        return apply_one::<StatefulSet>(client, cluster, nodes, observed.stateful_set.as_ref()).await;
    };
    let live = StatusRecord::new(client, cluster).record().await.map_err(ApplyError::Record)?.record;
    if cluster.store.present(&live) != cluster.store.nodes {
        return Err(ApplyError::OutOfDate { name: nodes.name_any() });
    }
    let mut nodes = nodes.clone();
    nodes.metadata.resource_version.clone_from(&seen.metadata.resource_version);
    apply_one::<StatefulSet>(client, cluster, &nodes, Some(seen)).await
}

/// Applies the NetworkPolicy if it differs. It is in no cache: this reads it.
///
/// # Errors
/// See [`ApplyError`].
pub async fn network_policy(
    client: &Client,
    cluster: &ValidCluster,
    allowed: &policy::Allowed,
) -> Result<(), ApplyError> {
    // The caches may not know yet that the KvCluster was deleted.
    StatusRecord::new(client, cluster).must_exist().await?;
    let desired = build::fingerprinted(policy::build(cluster, allowed));
    apply_one::<NetworkPolicy>(client, cluster, &desired, None).await
}

async fn apply_one<K>(
    client: &Client,
    cluster: &ValidCluster,
    desired: &K,
    seen: Option<&Arc<K>>,
) -> Result<(), ApplyError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Serialize + DeserializeOwned + Clone + Debug,
{
    let name = desired.name_any();
    let api: Api<K> = Api::namespaced(client.clone(), &cluster.namespace);
    // What is in no cache may still exist: without the labels that the watches select by.
    let read = match seen {
        Some(_) => None,
        None => api.get_opt(&name).await.map_err(refused("read", &name))?,
    };
    if let Some(existing) = seen.map(Arc::as_ref).or(read.as_ref()) {
        not_in_the_way(existing, cluster)?;
        let value = |object| serde_json::to_value(object).expect("a Kubernetes object serializes");
        if covers(&value(existing), &value(desired)) {
            return Ok(());
        }
    }
    tracing::info!(kind = %K::kind(&()), %name, "applying");
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    api.patch(&name, &parameters, &Patch::Apply(desired)).await.map_err(not_made(
        "apply",
        &name,
        &cluster.namespace,
    ))?;
    Ok(())
}

/// Refuses what the name belongs to already, if that is not this KvCluster's or is on its way out.
fn not_in_the_way<K>(existing: &K, cluster: &ValidCluster) -> Result<(), ApplyError>
where
    K: Resource<DynamicType = ()>,
{
    let (kind, name) = (K::kind(&()).into_owned(), existing.name_any());
    let owned = owned_by(existing, &cluster.owner.uid);
    if existing.meta().deletion_timestamp.is_some() || (!owned && is_left_over(existing, cluster)) {
        return Err(ApplyError::BeingDeleted { kind, name });
    }
    if owned { Ok(()) } else { Err(ApplyError::Foreign { kind, name }) }
}

/// Whether the owner of an object that is not this KvCluster's is an earlier one of the same name: such objects are
/// collected once it is gone.
fn is_left_over(object: &impl Resource, cluster: &ValidCluster) -> bool {
    object.owner_references().iter().any(|owner| {
        owner.controller == Some(true) && owner.kind == cluster.owner.kind && owner.name == cluster.owner.name
    })
}

/// Whether `seen` has everything that `desired` describes. Fields beyond it are the API server's defaults
/// or somebody else's. A value that the API server rewrites (a quantity) only costs an apply that changes
/// nothing.
fn covers(seen: &Value, desired: &Value) -> bool {
    match (seen, desired) {
        (_, Value::Null) => true,
        (Value::Object(seen), Value::Object(desired)) => desired.iter().all(|(key, desired)| match seen.get(key) {
            Some(seen) => covers(seen, desired),
            None => desired.is_null(),
        }),
        (Value::Array(seen), Value::Array(desired)) => {
            seen.len() == desired.len() && seen.iter().zip(desired).all(|(seen, desired)| covers(seen, desired))
        }
        (seen, desired) => seen == desired,
    }
}

/// Reads the peer token, or makes it. `known` is the token that running nodes already have, should the
/// Secret have been deleted meanwhile.
///
/// # Errors
/// See [`ApplyError`].
pub async fn peer_token(client: &Client, cluster: &ValidCluster, known: Option<&str>) -> Result<String, ApplyError> {
    let api: Api<Secret> = Api::namespaced(client.clone(), &cluster.namespace);
    let name = names::token_secret(&cluster.name);
    if let Some(existing) = api.get_opt(&name).await.map_err(refused("read", &name))? {
        not_in_the_way(&existing, cluster)?;
        return secret::token_in(&existing).ok_or(ApplyError::NoToken(name));
    }
    // The caches may not know yet that the KvCluster was deleted.
    StatusRecord::new(client, cluster).must_exist().await?;
    let token = known.map_or_else(secret::random_token, str::to_owned);
    let parameters = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    let created = api.create(&parameters, &secret::build(cluster, &token)).await;
    created.map_err(not_made("create", &name, &cluster.namespace))?;
    Ok(token)
}

/// Sets a pod's role label, if it is still the same pod.
///
/// # Errors
/// See [`ApplyError`].
pub async fn label_pod(client: &Client, pod: &Pod, role: Role) -> Result<(), ApplyError> {
    let name = pod.name_any();
    let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    let patch = json!({"metadata": {"uid": pod.uid(), "labels": {names::ROLE: names::role_text(role)}}});
    let answer = api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await;
    unless_replaced(answer).map_err(refused("label", &name))
}

/// A condition of a pod that is the operator's own.
#[derive(Debug, Clone)]
pub struct PodCondition {
    /// Its type.
    pub kind: &'static str,
    /// Whether it holds.
    pub holds: bool,
    /// Why, for programs.
    pub reason: &'static str,
    /// Why, for people.
    pub message: &'static str,
    /// Since when.
    pub since: Timestamp,
}

/// Sets a condition of a pod, if it is still the same pod. The kubelet keeps conditions that are not its own.
///
/// # Errors
/// See [`ApplyError`].
pub async fn set_condition(client: &Client, pod: &Pod, condition: &PodCondition) -> Result<(), ApplyError> {
    let PodCondition { kind, holds, reason, message, since } = condition;
    let name = pod.name_any();
    let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    let condition = json!({
        "type": kind,
        "status": if *holds { "True" } else { "False" },
        "reason": reason,
        "message": message,
        "lastTransitionTime": Time(*since),
    });
    // Strategic: conditions are merged by their type.
    let patch = json!({"metadata": {"uid": pod.uid()}, "status": {"conditions": [condition]}});
    let answer = api.patch_status(&name, &PatchParams::default(), &Patch::Strategic(patch)).await;
    unless_replaced(answer).map_err(refused("set a condition of", &name))
}

/// Deletes a pod, if it is still the same pod, so that it is made anew from the present template.
///
/// # Errors
/// See [`ApplyError`].
pub async fn replace_pod(client: &Client, pod: &Pod) -> Result<(), ApplyError> {
    let name = pod.name_any();
    let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    let same = Preconditions { uid: pod.uid(), resource_version: None };
    let parameters = DeleteParams { preconditions: Some(same), ..DeleteParams::default() };
    unless_replaced(api.delete(&name, &parameters).await).map_err(refused("delete", &name))
}

/// Asks for a volume of this size, if the claim is still the same. What the API server has against it, if it has: the
/// storage class lets no volume grow, for instance.
///
/// # Errors
/// See [`ApplyError`].
pub async fn grow_claim(
    client: &Client,
    claim: &PersistentVolumeClaim,
    size: &str,
) -> Result<Option<String>, ApplyError> {
    let name = claim.name_any();
    let api: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &claim.namespace().unwrap_or_default());
    let requests = json!({"resources": {"requests": {"storage": size}}});
    let patch = json!({"metadata": {"uid": claim.uid()}, "spec": requests});
    match api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await {
        // Whoever refuses, with whatever code: a store whose volume stays as it is works as before.
        Err(kube::Error::Api(status)) if !is_of_another_object(&status) && !matches!(status.code, 429 | 503 | 504) => {
            Ok(Some(status.message))
        }
        answer => unless_replaced(answer).map(|()| None).map_err(refused("grow", &name)),
    }
}

/// Lets pass that the object is gone, or another one of that name by now (deletions then answer 409, patches
/// 422 for the uid): what it was asked for has no object any more, and the next reconcile sees what is there.
fn unless_replaced<Answer>(answer: kube::Result<Answer>) -> kube::Result<()> {
    match answer {
        Err(kube::Error::Api(status)) if is_of_another_object(&status) => {
            tracing::debug!(%status, "the object was replaced meanwhile");
            Ok(())
        }
        other => other.map(|_| ()),
    }
}

fn is_of_another_object(status: &kube::core::Status) -> bool {
    match status.code {
        404 | 409 => true,
        422 => status.message.contains("metadata.uid"),
        _ => false,
    }
}

/// Writes the derived part of the status. The record beside it is not touched.
///
/// # Errors
/// See [`ApplyError`].
pub async fn patch_status(client: &Client, cluster: &KvCluster, status: &DerivedStatus) -> Result<(), ApplyError> {
    let name = cluster.name_any();
    let api: Api<KvCluster> = Api::namespaced(client.clone(), &cluster.namespace().unwrap_or_default());
    let patch = json!({"metadata": {"uid": cluster.uid()}, "status": status});
    let answer = api.patch_status(&name, &PatchParams::default(), &Patch::Merge(patch)).await;
    unless_replaced(answer).map_err(refused("report on", &name))
}

/// The record in `KvCluster.status`; the compare-and-swap is on its resourceVersion.
#[derive(Debug, Clone)]
pub struct StatusRecord {
    api: Api<KvCluster>,
    name: String,
    uid: String,
}

impl StatusRecord {
    /// The record of this cluster.
    #[must_use]
    pub fn new(client: &Client, cluster: &ValidCluster) -> Self {
        Self {
            api: Api::namespaced(client.clone(), &cluster.namespace),
            name: cluster.name.clone(),
            uid: cluster.owner.uid.clone(),
        }
    }

    /// The KvCluster as it is now, never from a cache.
    ///
    /// # Errors
    /// [`ApplyError::Gone`] when there is none, or only another one of its name.
    async fn must_exist(&self) -> Result<(), ApplyError> {
        let found = self.api.get_opt(&self.name).await.map_err(refused("read", &self.name))?;
        found.filter(|cluster| self.is_this(cluster)).map(|_| ()).ok_or(ApplyError::Gone)
    }

    /// A re-created KvCluster is another store, and one that is going away is none any more.
    fn is_this(&self, cluster: &KvCluster) -> bool {
        cluster.metadata.uid.as_ref() == Some(&self.uid) && cluster.metadata.deletion_timestamp.is_none()
    }

    fn versioned(&self, cluster: &KvCluster) -> Result<Versioned, RecordError> {
        let version = cluster.metadata.resource_version.clone();
        let version = version.filter(|_| self.is_this(cluster)).ok_or(RecordError::Gone)?;
        Ok(Versioned { record: Record::from_status(cluster.status.as_ref())?, version })
    }
}

impl Platform for StatusRecord {
    async fn record(&self) -> Result<Versioned, RecordError> {
        let cluster = self.api.get(&self.name).await.map_err(record_error)?;
        self.versioned(&cluster)
    }

    async fn replace(&self, read: &Versioned, new: Record) -> Result<Versioned, RecordError> {
        let patch = json!({
            "metadata": {"uid": self.uid, "resourceVersion": read.version},
            "status": {
                "epoch": new.epoch,
                "leader": new.leader,
                "lastLeader": new.last_leader_status(),
                "members": new.member_statuses(),
                "configuration": new.configuration_status().map(|it| json!({
                    "number": it.number,
                    "nodes": it.nodes,
                    // What is not said again would stay.
                    "joining": it.joining,
                    "leaving": it.leaving,
                    "quorumSeq": it.quorum_seq,
                    "writeQuorum": it.write_quorum,
                })),
            },
        });
        let parameters = PatchParams::default();
        let written =
            self.api.patch_status(&self.name, &parameters, &Patch::Merge(patch)).await.map_err(record_error)?;
        self.versioned(&written)
    }

    async fn withdraw_switchover(&self, wanted: &NodeId) -> Result<bool, RecordError> {
        let cluster = self.api.get(&self.name).await.map_err(record_error)?;
        let version = self.versioned(&cluster)?.version;
        if cluster.annotations().get(switchover::ANNOTATION) != Some(&wanted.0) {
            return Ok(false);
        }
        // With the version, so that a wish made meanwhile is not taken away instead.
        let patch = json!({"metadata": {
            "uid": self.uid, "resourceVersion": version, "annotations": {switchover::ANNOTATION: null},
        }});
        match self.api.patch(&self.name, &PatchParams::default(), &Patch::Merge(patch)).await.map_err(record_error) {
            Ok(_) => Ok(true),
            // The next pass sees what changed.
            Err(RecordError::Conflict) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn record_error(error: kube::Error) -> RecordError {
    match error {
        kube::Error::Api(status) if status.code == 409 => RecordError::Conflict,
        kube::Error::Api(status) if status.code == 404 => RecordError::Gone,
        error => RecordError::Kubernetes(Box::new(error)),
    }
}

#[cfg(test)]
mod tests;
