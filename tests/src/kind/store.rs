//! One KvCluster: what a person does with it, and how its nodes are reached.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use k8s_openapi::api::{core::v1::Secret, events::v1::Event};
use kube::{
    Api,
    api::{DynamicObject, ListParams},
};
use quorumkv_api::CLIENT_PORT;
use serde_json::{Value, json};

use super::{
    cluster::Kind,
    objects::{self, PodSeen},
    tunnel::Tunnel,
};
use crate::{
    client::LabClient,
    load::{Load, Target},
    wait::until,
};

/// Longer than a write may take by its own timeout.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// A KvCluster of this name.
#[derive(Clone)]
pub struct Store {
    /// Where it is.
    pub kind: Kind,
    /// Its namespace.
    pub namespace: &'static str,
    /// Its name.
    pub name: &'static str,
}

impl Store {
    /// Names it; makes nothing.
    #[must_use]
    pub fn new(kind: &Kind, namespace: &'static str, name: &'static str) -> Self {
        Self { kind: kind.clone(), namespace, name }
    }

    /// `kubectl apply` of the KvCluster.
    ///
    /// # Errors
    /// When kubectl fails.
    pub async fn apply(&self, spec: Value) -> anyhow::Result<()> {
        self.kind.apply(&self.manifest(spec)).await?;
        Ok(())
    }

    /// The KvCluster with this spec.
    #[must_use]
    pub fn manifest(&self, spec: Value) -> Value {
        json!({
            "apiVersion": "quorumkv.io/v1alpha1", "kind": "KvCluster",
            "metadata": {"name": self.name, "namespace": self.namespace},
            "spec": spec,
        })
    }

    /// `kubectl` in its namespace.
    ///
    /// # Errors
    /// When kubectl fails.
    pub async fn kubectl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        Ok(self.kind.kubectl(["--namespace", self.namespace]).args(arguments).output().await?)
    }

    /// `kubectl patch` of the spec, as the documentation shows it.
    ///
    /// # Errors
    /// When kubectl fails.
    pub async fn patch(&self, spec: Value) -> anyhow::Result<()> {
        let patch = json!({"spec": spec}).to_string();
        self.kubectl(&["patch", &format!("kvc/{}", self.name), "--type=merge", "--patch", &patch]).await?;
        Ok(())
    }

    /// `kubectl wait` until the field of the status has that value; how long it took.
    ///
    /// # Errors
    /// When it does not get it in time.
    pub async fn wait_for_status(
        &self,
        field: &str,
        value: impl std::fmt::Display,
        limit: Duration,
    ) -> anyhow::Result<Duration> {
        let began = Instant::now();
        let wanted = format!("--for=jsonpath={{.status.{field}}}={value}");
        let timeout = format!("--timeout={}s", limit.as_secs());
        self.kubectl(&["wait", &format!("kvc/{}", self.name), &wanted, &timeout]).await?;
        Ok(began.elapsed())
    }

    /// KvClusters of its namespace.
    #[must_use]
    pub fn api(&self) -> Api<DynamicObject> {
        objects::kvclusters(&self.kind.client, self.namespace)
    }

    /// The KvCluster as it is.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn get(&self) -> anyhow::Result<DynamicObject> {
        self.api().get(self.name).await.with_context(|| format!("get kvc/{} in {}", self.name, self.namespace))
    }

    /// Its pods, by name.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn pods(&self) -> anyhow::Result<BTreeMap<String, PodSeen>> {
        objects::pods(&self.kind.client, self.namespace, self.name).await
    }

    /// Waits until it is Ready by the present spec with every follower caught up and counted, and says so in
    /// everything that people and Services go by.
    ///
    /// # Errors
    /// When it does not become so in time; the message says what is missing.
    pub async fn until_complete(&self, limit: Duration) -> anyhow::Result<DynamicObject> {
        let what = format!("KvCluster {}/{} Ready with all followers", self.namespace, self.name);
        until(&what, limit, || async {
            let cluster = self.get().await?;
            let pods = self.pods().await?;
            is_complete(&cluster, &pods)?;
            Ok(cluster)
        })
        .await
    }

    /// The pod that leads, by the status.
    ///
    /// # Errors
    /// When the status names none.
    pub async fn leader(&self) -> anyhow::Result<String> {
        let cluster = self.get().await?;
        Ok(cluster.data["status"]["leader"].as_str().context("the status names no leader")?.to_owned())
    }

    /// A pod that follows.
    ///
    /// # Errors
    /// When there is none.
    pub async fn a_follower(&self) -> anyhow::Result<String> {
        let leader = self.leader().await?;
        self.pods().await?.into_keys().find(|name| *name != leader).context("there are no followers")
    }

    /// `kubectl delete pod`, without waiting for its end.
    ///
    /// # Errors
    /// When kubectl fails.
    pub async fn delete_pod(&self, name: &str) -> anyhow::Result<()> {
        self.kubectl(&["delete", "pod", name, "--wait=false"]).await?;
        Ok(())
    }

    /// To the Service that stands for the leader.
    ///
    /// # Errors
    /// When no port of this machine can be had.
    pub async fn service(&self) -> anyhow::Result<Tunnel> {
        let open = Tunnel::to_service(&self.kind.client, self.namespace, self.name, CLIENT_PORT);
        open.await.context("open a tunnel to the Service")
    }

    /// To one pod.
    ///
    /// # Errors
    /// When no port of this machine can be had.
    pub async fn pod(&self, name: &str) -> anyhow::Result<Tunnel> {
        let open = Tunnel::to_pod(&self.kind.client, self.namespace, name, CLIENT_PORT);
        open.await.with_context(|| format!("open a tunnel to pod {name}"))
    }

    /// Clients that know nothing but the Service: they are never sent to a pod's own address.
    #[must_use]
    pub fn load(&self, service: &Tunnel, clients: usize) -> Load {
        let target = Target::new(service.url(), [service.url()]).translated(|_| None);
        Load::new(target).clients(clients).keys(format!("load-{}", rand::random::<u32>()), 8).timeout(ANSWER_LIMIT)
    }

    /// An HTTP client with time enough for every write.
    ///
    /// # Errors
    /// When the HTTP client cannot be set up.
    pub fn client(&self) -> anyhow::Result<LabClient> {
        LabClient::new(ANSWER_LIMIT)
    }

    /// What its nodes present to each other.
    ///
    /// # Errors
    /// When it has no Secret.
    pub async fn peer_token(&self) -> anyhow::Result<String> {
        let secrets: Api<Secret> = Api::namespaced(self.kind.client.clone(), self.namespace);
        let instance = ListParams::default().labels(&format!("app.kubernetes.io/instance={}", self.name));
        let found = secrets.list(&instance).await.context("list Secrets")?;
        let token =
            found.into_iter().find_map(|secret| secret.data?.remove("token")).context("no Secret has a token")?;
        String::from_utf8(token.0).context("a token is text")
    }

    /// The notes of the events of this KvCluster with this reason.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn told(&self, reason: &str) -> anyhow::Result<Vec<String>> {
        let events: Api<Event> = Api::namespaced(self.kind.client.clone(), self.namespace);
        let events = events.list(&ListParams::default()).await.context("list events")?;
        let of_this = |event: &Event| {
            let about = event.regarding.as_ref();
            about.is_some_and(|about| {
                about.kind.as_deref() == Some("KvCluster") && about.name.as_deref() == Some(self.name)
            })
        };
        let events = events.into_iter().filter(|event| of_this(event) && event.reason.as_deref() == Some(reason));
        Ok(events.filter_map(|event| event.note).collect())
    }

    /// Waits until a condition has this status and reason; its message.
    ///
    /// # Errors
    /// When it does not get them in time.
    pub async fn until_condition(
        &self,
        kind: &str,
        status: &str,
        reason: &str,
        limit: Duration,
    ) -> anyhow::Result<String> {
        until(&format!("condition {kind} is {status}, {reason}"), limit, || async {
            let cluster = self.get().await?;
            let [found, why, message] = objects::condition(&cluster, kind);
            ensure!((found, why) == (status, reason), "condition {kind} is {found:?}: {why}: {message}");
            Ok(message.to_owned())
        })
        .await
    }

    /// Every pod is the same run of the same pod as before.
    ///
    /// # Errors
    /// When one is not.
    pub async fn ensure_same_runs(&self, before: &BTreeMap<String, PodSeen>) -> anyhow::Result<()> {
        let runs = |pods: &BTreeMap<String, PodSeen>| -> BTreeMap<String, (String, i32)> {
            pods.iter().map(|(name, pod)| (name.clone(), (pod.uid.clone(), pod.restarts))).collect()
        };
        let now = self.pods().await?;
        ensure!(runs(before) == runs(&now), "pods were replaced or restarted: {:#?}, before {:#?}", now, before);
        Ok(())
    }
}

/// Whether it is Ready by the present spec with every follower caught up and counted, and everything says so that
/// people and Services go by.
///
/// # Errors
/// When it is not; the message says what is missing.
pub fn is_complete(cluster: &DynamicObject, pods: &BTreeMap<String, PodSeen>) -> anyhow::Result<()> {
    let status = &cluster.data["status"];
    let spec = &cluster.data["spec"];
    let [ready, reason, message] = objects::condition(cluster, "Ready");
    ensure!(ready == "True", "condition Ready is {ready:?}: {reason}: {message}");
    let generation = cluster.metadata.generation;
    ensure!(
        status["observedGeneration"].as_i64() == generation,
        "the status is of generation {}, the spec of {generation:?}",
        status["observedGeneration"],
    );
    let followers = spec["followers"].as_i64().context("spec.followers")?;
    ensure!(
        status["readyFollowers"].as_i64() == Some(followers),
        "{} of {followers} followers are ready ({reason}: {message})",
        status["readyFollowers"],
    );
    ensure!(status["writeQuorum"] == spec["writeQuorum"], "writeQuorum applied: {}", status["writeQuorum"]);
    let leader = status["leader"].as_str().context("the status names no leader")?;
    let recorded = objects::recorded_copies(cluster);
    ensure!(recorded.keys().eq(pods.keys()), "recorded are {recorded:?}, pods are {:?}", pods.keys());
    for (name, pod) in pods {
        let role = if name == leader { "leader" } else { "follower" };
        ensure!(pod.role == role && pod.ready, "pod {name} shall be a ready {role}, and is {pod:?}");
    }
    Ok(())
}
