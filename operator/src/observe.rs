//! What exists of a KvCluster: its objects and pods, as the watches last saw them.
//!
//! The caches only inform. What must be true (the record) is read live before it is relied on, and every
//! write to an object can meet a newer one without harm.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{ContainerState, PersistentVolumeClaim, Pod, Service},
    policy::v1::PodDisruptionBudget,
};
use kube::{
    Resource, ResourceExt,
    runtime::reflector::{ObjectRef, Store},
};
use quorumkv_api::NodeId;

use crate::{
    build::{names, nodes::CONTAINER},
    decide::{PodReport, Presence, Trouble},
    manage::KnownNode,
    validate::ValidCluster,
    watching::Gaps,
};

/// How much later than it was given to end a pod may be gone before something must be in the way.
const OVERDUE: Duration = Duration::from_secs(30);

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
    /// Claims of volumes.
    pub claims: Store<PersistentVolumeClaim>,
    /// What they lack that may exist.
    pub gaps: Gaps,
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
    /// The claims of its nodes' volumes, by node.
    pub claims: BTreeMap<NodeId, Arc<PersistentVolumeClaim>>,
    /// Nodes whose claims somebody has deleted: the volumes go as soon as the pods do.
    pub doomed_claims: Vec<NodeId>,
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
    let claims = store.nodes.iter().filter_map(|node| {
        Some((node.clone(), caches.claims.get(&ObjectRef::new(&names::claim(node)).within(namespace))?))
    });
    let (doomed, claims): (Vec<_>, Vec<_>) = claims.partition(|(_, claim)| claim.metadata.deletion_timestamp.is_some());
    Observed {
        claims: claims.into_iter().collect(),
        doomed_claims: doomed.into_iter().map(|(node, _)| node).collect(),
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
    let (now, revision) = (Timestamp::now(), observed.stateful_set.as_deref().and_then(latest_revision));
    let known = |node: &NodeId| {
        let pod = observed.pods.get(node).map(Arc::as_ref);
        let ip = pod.and_then(|pod| pod.status.as_ref()?.pod_ip.as_deref());
        let outdated = revision.is_some_and(|revision| {
            pod.is_some_and(|pod| pod.labels().get("controller-revision-hash").is_some_and(|hash| hash != revision))
        });
        let address = names::address(cluster, node, ip);
        KnownNode { address, presence: presence(pod), outdated, report: pod.map(|pod| report(pod, now)) }
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

/// What Kubernetes says of a pod beyond its presence.
fn report(pod: &Pod, now: Timestamp) -> PodReport {
    let stuck = is_stuck(pod, now).then(|| Trouble::DoesNotEnd(machine(pod).to_owned()));
    PodReport {
        ready: is_ready(pod),
        ending: pod.metadata.deletion_timestamp.is_some(),
        trouble: stuck.or_else(|| trouble(pod)),
    }
}

/// Whether a pod was told to end, and should have by now. The machine of such a one does not answer, mostly: nobody
/// says then that its processes have ended, and it stays until a person, or the machine, does.
pub(crate) fn is_stuck(pod: &Pod, now: Timestamp) -> bool {
    // The end of the time that it was given.
    let end = pod.metadata.deletion_timestamp.as_ref();
    end.is_some_and(|end| now.duration_since(end.0).as_secs_f64() >= OVERDUE.as_secs_f64())
}

/// Where it runs; nowhere, if nothing is named.
pub(crate) fn machine(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default()
}

/// What keeps a pod from running that will not pass in a moment by itself.
fn trouble(pod: &Pod) -> Option<Trouble> {
    let status = pod.status.as_ref()?;
    let ended = status.phase.as_deref().filter(|phase| ["Failed", "Succeeded"].contains(phase));
    // One that was told to end has done so, and is gone in a moment.
    if let Some(phase) = ended.filter(|_| pod.metadata.deletion_timestamp.is_none()) {
        return Some(Trouble::KeepsEnding(status.reason.clone().unwrap_or_else(|| phase.to_owned())));
    }
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let unplaced = conditions.iter().find(|one| one.type_ == "PodScheduled" && one.status == "False");
    if let Some(reason) = unplaced.and_then(|condition| condition.reason.clone()) {
        return Some(Trouble::CannotStart(reason));
    }
    let reason = container_state(pod)?.waiting.as_ref()?.reason.as_deref()?;
    match reason {
        "CrashLoopBackOff" => Some(Trouble::KeepsEnding(reason.to_owned())),
        // On its way.
        "ContainerCreating" | "PodInitializing" => None,
        // The image cannot be had, or the container cannot be made of it.
        _ => Some(Trouble::CannotStart(reason.to_owned())),
    }
}

/// The pod's condition Ready.
fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn presence(pod: Option<&Pod>) -> Presence {
    let Some(pod) = pod else { return Presence::Absent };
    let running = container_state(pod).is_some_and(|state| state.running.is_some());
    match (running, pod.metadata.deletion_timestamp.is_some()) {
        (false, _) => Presence::NotRunning,
        (true, true) => Presence::Stopping,
        (true, false) => Presence::Running,
    }
}

fn container_state(pod: &Pod) -> Option<&ContainerState> {
    let containers = pod.status.as_ref()?.container_statuses.as_ref()?;
    containers.iter().find(|container| container.name == CONTAINER)?.state.as_ref()
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

    #[rstest]
    #[case::runs(json!({"running": {}}), None)]
    #[case::is_being_made(json!({"waiting": {"reason": "ContainerCreating"}}), None)]
    #[case::ended_just_now(json!({"terminated": {"exitCode": 137}}), None)]
    #[case::no_image(json!({"waiting": {"reason": "ErrImagePull"}}), Some(Trouble::CannotStart("ErrImagePull".into())))]
    #[case::no_secret(
        json!({"waiting": {"reason": "CreateContainerConfigError"}}),
        Some(Trouble::CannotStart("CreateContainerConfigError".into()))
    )]
    #[case::ends_again_and_again(
        json!({"waiting": {"reason": "CrashLoopBackOff"}}),
        Some(Trouble::KeepsEnding("CrashLoopBackOff".into()))
    )]
    fn what_keeps_a_pod_from_running_is_what_the_kubelet_says(
        #[case] state: serde_json::Value,
        #[case] expected: Option<Trouble>,
    ) {
        let expected = PodReport { trouble: expected, ..PodReport::default() };
        assert_eq!(report(&pod(state, false), Timestamp::now()), expected);
    }

    #[test]
    fn a_pod_without_a_machine_and_one_that_was_evicted_are_in_trouble() {
        let of = |status: serde_json::Value| {
            let pod = json!({"metadata": {"name": "demo-0"}, "status": status});
            report(&serde_json::from_value(pod).expect("a pod"), Timestamp::now())
        };
        let condition = json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable"});
        let unplaced = of(json!({"phase": "Pending", "conditions": [condition]}));
        assert_eq!(unplaced.trouble, Some(Trouble::CannotStart("Unschedulable".into())));
        let evicted = of(json!({"phase": "Failed", "reason": "Evicted"}));
        assert_eq!(evicted.trouble, Some(Trouble::KeepsEnding("Evicted".into())));
        let ready = of(json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}));
        assert_eq!(ready, PodReport { ready: true, ..PodReport::default() });
    }

    #[rstest]
    #[case::has_its_time(29, None)]
    #[case::should_be_gone(30, Some(Trouble::DoesNotEnd("worker-2".into())))]
    fn a_pod_that_should_have_ended_is_in_trouble_whatever_else_is_said_of_it(
        #[case] seconds: i64,
        #[case] expected: Option<Trouble>,
    ) {
        let mut pod = pod(json!({"waiting": {"reason": "ContainerCreating"}}), false);
        let end = Timestamp::UNIX_EPOCH;
        pod.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(end));
        pod.spec.get_or_insert_default().node_name = Some("worker-2".into());
        let now = Timestamp::from_second(seconds).expect("a time");
        assert_eq!(report(&pod, now), PodReport { ending: true, trouble: expected, ..PodReport::default() });
    }

    #[rstest]
    #[case("Succeeded")]
    #[case("Failed")]
    fn a_pod_that_ended_as_it_was_told_is_not_in_trouble(#[case] phase: &str) {
        let of = |deleted| {
            let mut pod = pod(json!({"terminated": {"exitCode": 0}}), deleted);
            pod.status.get_or_insert_default().phase = Some(phase.to_owned());
            // When it was to be gone.
            report(&pod, "2026-01-01T00:00:00Z".parse().expect("a time")).trouble
        };
        assert_eq!(of(false), Some(Trouble::KeepsEnding(phase.into())));
        assert_eq!(of(true), None);
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
