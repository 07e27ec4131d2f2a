//! Looks at what is in the cluster.

use std::collections::BTreeMap;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, Discovery,
    api::{ApiResource, DynamicObject, ListParams},
    discovery::{Scope, verbs},
};
use serde_json::Value;

/// KvClusters, read as anybody would read them: by the names of their fields.
#[must_use]
pub fn kvcluster() -> ApiResource {
    ApiResource {
        group: "quorumkv.io".to_owned(),
        version: "v1alpha1".to_owned(),
        api_version: "quorumkv.io/v1alpha1".to_owned(),
        kind: "KvCluster".to_owned(),
        plural: "kvclusters".to_owned(),
    }
}

/// Those of a namespace.
#[must_use]
pub fn kvclusters(client: &Client, namespace: &str) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), namespace, &kvcluster())
}

/// The status of a condition, its reason and its message; empty texts while it is not there.
#[must_use]
pub fn condition<'a>(object: &'a DynamicObject, kind: &str) -> [&'a str; 3] {
    let conditions = object.data["status"]["conditions"].as_array();
    let found = conditions.and_then(|all| all.iter().find(|condition| condition["type"] == kind));
    ["status", "reason", "message"].map(|field| found.and_then(|condition| condition[field].as_str()).unwrap_or(""))
}

/// What must stay the same in a pod that nobody disturbs, and what its role is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodSeen {
    /// Another pod of the same name has another.
    pub uid: String,
    /// How often its containers were started again.
    pub restarts: i32,
    /// Its label `quorumkv.io/role`.
    pub role: String,
    /// Its condition Ready.
    pub ready: bool,
    /// The machine that it is on; empty while it is on none.
    pub machine: String,
}

impl PodSeen {
    /// What the API server says of the pod.
    #[must_use]
    pub fn of(pod: &Pod) -> Self {
        let status = pod.status.as_ref();
        let containers = status.and_then(|status| status.container_statuses.as_deref()).unwrap_or_default();
        let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        let labels = pod.metadata.labels.as_ref();
        Self {
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            restarts: containers.iter().map(|container| container.restart_count).sum(),
            role: labels.and_then(|labels| labels.get("quorumkv.io/role")).cloned().unwrap_or_default(),
            ready: conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True"),
            machine: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
        }
    }

    /// What identifies the run of its processes.
    #[must_use]
    pub fn run(&self) -> (&str, i32) {
        (&self.uid, self.restarts)
    }
}

/// The pods of a KvCluster, by name.
///
/// # Errors
/// When the API server does not answer.
pub async fn pods(client: &Client, namespace: &str, instance: &str) -> anyhow::Result<BTreeMap<String, PodSeen>> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let selector = format!("app.kubernetes.io/name=quorumkv,app.kubernetes.io/instance={instance}");
    let found = pods.list(&ListParams::default().labels(&selector)).await.context("list pods")?;
    Ok(found
        .iter()
        .filter(|pod| pod.metadata.deletion_timestamp.is_none())
        .map(|pod| (pod.metadata.name.clone().unwrap_or_default(), PodSeen::of(pod)))
        .collect())
}

/// Lists every kind of thing that a namespace can hold.
pub struct Inventory {
    client: Client,
    kinds: Vec<ApiResource>,
}

/// One thing in a namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectKey {
    /// Such as `StatefulSet`.
    pub kind: String,
    /// Its name.
    pub name: String,
}

impl std::fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.kind, self.name)
    }
}

impl Inventory {
    /// Asks the API server which kinds there are.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn new(client: &Client) -> anyhow::Result<Self> {
        let discovery = Discovery::new(client.clone()).run().await.context("discover the kinds of objects")?;
        let kinds = discovery
            .groups()
            .flat_map(kube::discovery::ApiGroup::recommended_resources)
            .filter(|(resource, capabilities)| {
                capabilities.scope == Scope::Namespaced
                    && capabilities.supports_operation(verbs::LIST)
                    // Traces of what happened; they go by themselves.
                    && resource.kind != "Event"
            })
            .map(|(resource, _)| resource)
            .collect();
        Ok(Self { client: client.clone(), kinds })
    }

    /// All that is in a namespace.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn of(&self, namespace: &str) -> anyhow::Result<BTreeMap<ObjectKey, DynamicObject>> {
        let lists = self.kinds.iter().map(|kind| async move {
            let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, kind);
            let list = api.list(&ListParams::default()).await.with_context(|| format!("list {}", kind.plural))?;
            let kind = kind.kind.clone();
            anyhow::Ok(list.into_iter().map(move |object| {
                let name = object.metadata.name.clone().unwrap_or_default();
                (ObjectKey { kind: kind.clone(), name }, object)
            }))
        });
        Ok(futures::future::try_join_all(lists).await?.into_iter().flatten().collect())
    }

    /// The versions of all that is in a namespace, which change with every write to the API server, and who
    /// wrote last.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn versions(&self, namespace: &str) -> anyhow::Result<BTreeMap<ObjectKey, String>> {
        let objects = self.of(namespace).await?;
        Ok(objects.into_iter().map(|(key, object)| (key, version(&object))).collect())
    }
}

fn version(object: &DynamicObject) -> String {
    let version = object.metadata.resource_version.as_deref().unwrap_or_default();
    let writers = object.metadata.managed_fields.iter().flatten();
    let writer =
        writers.max_by_key(|entry| entry.time.as_ref().map(|time| time.0)).and_then(|entry| entry.manager.as_deref());
    format!("{version} by {}", writer.unwrap_or("nobody named"))
}

/// The copies that count, by the name of their pod, as the status records them.
#[must_use]
pub fn recorded_copies(cluster: &DynamicObject) -> BTreeMap<String, String> {
    let members = cluster.data["status"]["members"].as_array();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    members.into_iter().flatten().map(|member| (text(&member["name"]), text(&member["storageId"]))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_that_was_restarted_or_replaced_is_another_run() {
        let pod = |uid: &str, restarts: i32| -> Pod {
            serde_json::from_value(json!({
                "metadata": {"uid": uid, "labels": {"quorumkv.io/role": "leader"}},
                "status": {
                    "conditions": [{"type": "Ready", "status": "True"}],
                    "containerStatuses": [
                        {"name": "node", "restartCount": restarts, "ready": true, "image": "", "imageID": ""},
                    ],
                },
            }))
            .expect("a pod")
        };
        let seen = PodSeen::of(&pod("a", 0));
        assert_eq!((seen.role.as_str(), seen.ready), ("leader", true));
        assert_ne!(seen.run(), PodSeen::of(&pod("a", 1)).run());
        assert_ne!(seen.run(), PodSeen::of(&pod("b", 0)).run());
    }

    #[test]
    fn a_condition_that_is_not_there_is_empty() {
        let cluster: DynamicObject = serde_json::from_value(json!({
            "metadata": {"name": "demo"},
            "status": {
                "members": [{"name": "demo-1", "storageId": "x", "role": "Follower"}],
                "conditions": [{"type": "Ready", "status": "True", "reason": "AllCaughtUp"}],
            },
        }))
        .expect("a KvCluster");
        assert_eq!(condition(&cluster, "Ready"), ["True", "AllCaughtUp", ""]);
        assert_eq!(condition(&cluster, "Degraded"), ["", "", ""]);
        assert_eq!(recorded_copies(&cluster), BTreeMap::from([("demo-1".to_owned(), "x".to_owned())]));
    }
}
