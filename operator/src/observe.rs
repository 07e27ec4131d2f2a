//! What exists of a KvCluster: its objects and pods, as the watches last saw them.
//!
//! The caches only inform. What must be true (the record) is read live before it is relied on, and every
//! write to an object can meet a newer one without harm.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{Pod, Service},
    policy::v1::PodDisruptionBudget,
};
use kube::{
    Resource, ResourceExt,
    runtime::reflector::{ObjectRef, Store},
};
use quorumkv_api::NodeId;

use crate::{
    build::{names, nodes::CONTAINER},
    decide::Presence,
    manage::KnownNode,
    validate::ValidCluster,
};

/// The caches of all watched kinds.
#[derive(Clone)]
pub struct Caches {
    /// StatefulSets.
    pub stateful_sets: Store<StatefulSet>,
    /// Services.
    pub services: Store<Service>,
    /// PodDisruptionBudgets.
    pub budgets: Store<PodDisruptionBudget>,
    /// Pods.
    pub pods: Store<Pod>,
}

/// What exists of one KvCluster.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// Its StatefulSet.
    pub stateful_set: Option<Arc<StatefulSet>>,
    /// Its Services, by name.
    pub services: BTreeMap<String, Arc<Service>>,
    /// Its PodDisruptionBudget.
    pub budget: Option<Arc<PodDisruptionBudget>>,
    /// Its pods, by name.
    pub pods: BTreeMap<NodeId, Arc<Pod>>,
}

/// Looks everything up.
#[must_use]
pub fn observe(caches: &Caches, cluster: &ValidCluster) -> Observed {
    let ValidCluster { name, namespace, store, .. } = cluster;
    let stateful_set = caches.stateful_sets.get(&ObjectRef::new(name).within(namespace));
    let services = [name.clone(), names::followers_service(name), names::nodes_service(name)];
    let pods = store.nodes.iter().filter_map(|node| {
        let pod = caches.pods.get(&ObjectRef::new(&node.0).within(namespace))?;
        // A pod of the same name may belong to something else, or to a StatefulSet that is gone.
        owned_by(&*pod, stateful_set.as_ref()?.metadata.uid.as_deref()?).then(|| (node.clone(), pod))
    });
    Observed {
        services: services
            .into_iter()
            .filter_map(|name| Some((name.clone(), caches.services.get(&ObjectRef::new(&name).within(namespace))?)))
            .collect(),
        budget: caches.budgets.get(&ObjectRef::new(name).within(namespace)),
        pods: pods.collect(),
        stateful_set,
    }
}

/// Whether the controller of an object is the one with this uid.
pub(crate) fn owned_by(object: &impl Resource, uid: &str) -> bool {
    object.owner_references().iter().any(|owner| owner.controller == Some(true) && owner.uid == uid)
}

/// The nodes of the cluster, as far as Kubernetes knows about them.
#[must_use]
pub fn known_nodes(cluster: &ValidCluster, observed: &Observed) -> Vec<KnownNode> {
    let revision = observed.stateful_set.as_deref().and_then(latest_revision);
    let known = |node: &NodeId| {
        let pod = observed.pods.get(node).map(Arc::as_ref);
        let ip = pod.and_then(|pod| pod.status.as_ref()?.pod_ip.as_deref());
        let outdated = revision.is_some_and(|revision| {
            pod.is_some_and(|pod| pod.labels().get("controller-revision-hash").is_some_and(|hash| hash != revision))
        });
        KnownNode { address: names::address(cluster, node, ip), presence: presence(pod), outdated }
    };
    cluster.store.nodes.iter().map(known).collect()
}

/// Whether there are exactly the pods of the recorded nodes: one that has left is gone, and its StatefulSet no larger.
#[must_use]
pub fn is_settled(caches: &Caches, cluster: &ValidCluster, observed: &Observed) -> bool {
    let replicas = observed.stateful_set.as_ref().and_then(|set| set.spec.as_ref()?.replicas);
    let others = cluster.store.names.iter().filter(|name| !cluster.store.nodes.contains(name));
    let left = |name: &NodeId| caches.pods.get(&ObjectRef::new(&name.0).within(&cluster.namespace)).is_some();
    replicas == i32::try_from(cluster.store.nodes.len()).ok() && !others.into_iter().any(left)
}

/// The revision that pods should have; none while the StatefulSet controller has not looked at the spec.
fn latest_revision(set: &StatefulSet) -> Option<&str> {
    let status = set.status.as_ref()?;
    let current = status.observed_generation >= set.metadata.generation;
    current.then_some(status.update_revision.as_deref()).flatten()
}

/// Whether Kubernetes sees every pod but this one as Ready. Nodes say of themselves that they are well before
/// Services and budgets go by it.
#[must_use]
pub fn others_are_ready(cluster: &ValidCluster, observed: &Observed, but: &NodeId) -> bool {
    let ready = |node: &NodeId| observed.pods.get(node).is_some_and(|pod| is_ready(pod));
    cluster.store.nodes.iter().filter(|node| *node != but).all(ready)
}

/// The pod's condition Ready.
#[must_use]
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn presence(pod: Option<&Pod>) -> Presence {
    let Some(pod) = pod else { return Presence::Absent };
    let state = pod.status.as_ref().and_then(|status| {
        let containers = status.container_statuses.as_ref()?;
        containers.iter().find(|container| container.name == CONTAINER)?.state.as_ref()
    });
    let running = state.is_some_and(|state| state.running.is_some());
    match (running, pod.metadata.deletion_timestamp.is_some()) {
        (false, _) => Presence::NotRunning,
        (true, true) => Presence::Stopping,
        (true, false) => Presence::Running,
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;
    use crate::testing::valid_cluster;

    fn pod(state: serde_json::Value, deleted: bool) -> Pod {
        let mut pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "demo-0", "labels": {"controller-revision-hash": "demo-1"}},
            "status": {"podIP": "10.0.0.7", "containerStatuses": [
                {"name": "node", "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": state}
            ]},
        }))
        .expect("a pod");
        if deleted {
            pod.metadata.deletion_timestamp =
                Some(serde_json::from_value(json!("2026-01-01T00:00:00Z")).expect("a time"));
        }
        pod
    }

    #[rstest]
    #[case(json!({"running": {}}), false, Presence::Running)]
    #[case(json!({"running": {}}), true, Presence::Stopping)]
    #[case(json!({"waiting": {"reason": "ImagePullBackOff"}}), false, Presence::NotRunning)]
    #[case(json!({"terminated": {"exitCode": 137}}), false, Presence::NotRunning)]
    #[case(json!({"terminated": {"exitCode": 0}}), true, Presence::NotRunning)]
    fn presence_is_what_the_kubelet_reports(
        #[case] state: serde_json::Value,
        #[case] deleted: bool,
        #[case] expected: Presence,
    ) {
        assert_eq!(presence(Some(&pod(state, deleted))), expected);
    }

    #[test]
    fn a_pod_is_replaced_only_while_kubernetes_sees_all_others_ready() {
        let cluster = valid_cluster();
        let with_ready = |ready: &str| {
            let mut pod = pod(json!({"running": {}}), false);
            let condition = json!({"type": "Ready", "status": ready});
            pod.status.get_or_insert_default().conditions = Some(vec![serde_json::from_value(condition).expect("one")]);
            Arc::new(pod)
        };
        let (one, other) = (cluster.store.nodes[0].clone(), cluster.store.nodes[1].clone());
        let pods = cluster.store.nodes.iter().map(|node| (node.clone(), with_ready("True")));
        let mut observed = Observed { pods: pods.collect(), ..Observed::default() };
        assert!(others_are_ready(&cluster, &observed, &one));
        observed.pods.insert(other.clone(), with_ready("False"));
        assert!(!others_are_ready(&cluster, &observed, &one));
        assert!(others_are_ready(&cluster, &observed, &other), "the one that is replaced need not be");
        observed.pods.remove(&other);
        assert!(!others_are_ready(&cluster, &observed, &one), "one that is not there is not ready");
    }

    #[test]
    fn no_pod_is_absent() {
        assert_eq!(presence(None), Presence::Absent);
    }

    fn observed(generation: i64, observed_generation: i64, revision: &str) -> Observed {
        let set: StatefulSet = serde_json::from_value(json!({
            "metadata": {"name": "demo", "generation": generation},
            "status": {"replicas": 6, "observedGeneration": observed_generation, "updateRevision": revision},
        }))
        .expect("a StatefulSet");
        let pod = Arc::new(pod(json!({"running": {}}), false));
        Observed { stateful_set: Some(Arc::new(set)), pods: [("demo-0".into(), pod)].into(), ..Observed::default() }
    }

    #[rstest]
    #[case::same_revision(2, 2, "demo-1", false)]
    #[case::newer_revision(2, 2, "demo-2", true)]
    #[case::not_looked_at_yet(3, 2, "demo-2", false)]
    fn a_pod_is_outdated_when_its_revision_is_not_the_latest(
        #[case] generation: i64,
        #[case] seen: i64,
        #[case] revision: &str,
        #[case] outdated: bool,
    ) {
        let nodes = known_nodes(&valid_cluster(), &observed(generation, seen, revision));
        assert_eq!((nodes.len(), nodes[0].outdated), (6, outdated));
        assert_eq!(nodes[0].address.peer_url, "http://10.0.0.7:5100");
        assert_eq!(nodes[1].presence, Presence::Absent);
    }
}
