//! The readiness gate of pods: Kubernetes calls a pod Ready only once the leader counts its copy.
//!
//! A follower that has caught up says of itself that it is ready. Only then its copy is recorded, and only then the
//! leader counts it: up to a second later. Evictions go by Ready, and at a write quorum of one the copy that goes next
//! may be the only other one of a write. So the pod's template names a gate, a condition that the operator sets.
//!
//! A new pod begins without the condition, which means no. It becomes true with the first pass that finds the copy
//! counted, at the start of a store as well: an election needs no pod to be Ready, and nodes find each other by a
//! Service that names them before they are. It becomes false again when the process has ended in its pod, or when
//! another one there has another copy. What cannot be told leaves it as it is: without an operator, without a leader
//! and while a node does not answer, pods stay as ready as they say they are. So does the pod of a node that leaves the
//! store, until it goes: it is no longer counted, and what it holds may still be needed.

use std::collections::BTreeMap;

use k8s_openapi::{api::core::v1::Pod, jiff::Timestamp};
use kube::Client;
use quorumkv_api::{NodeId, peer::Member};

use crate::{
    apply::{self, ApplyError, sent::Sent},
    decide::{NodeView, Presence, Situation},
    observe::Observed,
};

/// Type of the condition, as the pod's template names it.
pub const GATE: &str = "quorumkv.io/counted";

/// Whose copy counts and whose does not, as far as that is known now.
#[must_use]
pub fn verdicts(situation: &Situation<'_>) -> BTreeMap<NodeId, bool> {
    let nodes = situation.nodes.iter();
    nodes.filter_map(|view| Some((view.address.node.clone(), is_counted(situation, view)?))).collect()
}

fn is_counted(situation: &Situation<'_>, view: &NodeView) -> Option<bool> {
    let Some(state) = &view.state else {
        // Whatever runs there next may have lost its copy, and must not be taken for this one.
        return (view.presence == Presence::NotRunning).then_some(false);
    };
    let copy = Member { name: view.address.node.clone(), storage_id: state.storage_id };
    if !situation.record.members.contains(&copy) {
        return Some(false);
    }
    let leader = situation.leader_state()?;
    let counts = leader.node == copy.name
        || leader.followers.iter().any(|follower| {
            follower.counted && follower.node == copy.name && follower.storage_id == Some(copy.storage_id)
        });
    // A leader that has just begun knows only those that found it.
    counts.then_some(true)
}

/// Sets the condition where it differs, on pods that have the gate. One that cannot be set, for want of a right or
/// because somebody refuses it, keeps neither the others nor failovers waiting: the first such error is what is returned.
pub async fn mark(
    client: &Client,
    observed: &Observed,
    situation: &Situation<'_>,
    sent: &mut Sent<bool>,
) -> Option<ApplyError> {
    sent.keep(observed.pods.values().map(AsRef::as_ref));
    let mut first = None;
    for (name, counted) in verdicts(situation) {
        let Some(pod) = observed.pods.get(&name).filter(|pod| has_gate(pod)) else { continue };
        if sent.unseen(pod.as_ref()).unwrap_or_else(|| shows(pod)) == counted {
            continue;
        }
        match apply::set_condition(client, pod, &condition(counted)).await {
            Ok(()) => sent.note(pod.as_ref(), counted),
            Err(error) => drop(first.get_or_insert(error)),
        }
    }
    first
}

fn condition(counted: bool) -> apply::PodCondition {
    let (reason, message) = match counted {
        true => ("Recorded", "The leader counts this pod's copy"),
        false => ("NotRecorded", "The leader does not count this pod's copy"),
    };
    apply::PodCondition { kind: GATE, holds: counted, reason, message, since: Timestamp::now() }
}

/// Those made from a template of an earlier operator have none.
fn has_gate(pod: &Pod) -> bool {
    let gates = pod.spec.as_ref().and_then(|spec| spec.readiness_gates.as_deref()).unwrap_or_default();
    gates.iter().any(|gate| gate.condition_type == GATE)
}

fn shows(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == GATE && condition.status == "True")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::Method;
    use quorumkv_api::peer::NodeChange;
    use quorumkv_protocol::membership::Membership;
    use serde_json::json;

    use super::*;
    use crate::{
        record::Record,
        testing::{
            Scene,
            api::{Expected, server},
            name,
        },
    };

    fn of(scene: &Scene, n: usize) -> Option<bool> {
        verdicts(&scene.situation()).get(&name(n)).copied()
    }

    #[test]
    fn at_rest_every_copy_counts() {
        let verdicts = verdicts(&Scene::steady().situation());
        assert_eq!((verdicts.len(), verdicts.values().all(|counted| *counted)), (6, true));
    }

    #[test]
    fn a_copy_that_is_new_counts_only_once_it_is_recorded_and_the_leader_knows() {
        let mut scene = Scene::steady();
        scene.reborn(2);
        let copy = scene.state(2).storage_id;
        *scene.seen(2) =
            quorumkv_api::peer::FollowerState { storage_id: Some(copy), counted: false, ..scene.seen(2).clone() };
        assert_eq!(of(&scene, 2), Some(false), "caught up, and not recorded");
        let recorded = scene.record.members.iter_mut().find(|member| member.name == name(2)).expect("a member");
        recorded.storage_id = copy;
        assert_eq!(of(&scene, 2), None, "recorded, and the leader does not know yet");
        scene.seen(2).counted = true;
        assert_eq!(of(&scene, 2), Some(true));
    }

    #[test]
    fn what_the_leader_counts_must_be_what_runs_there_now() {
        let mut scene = Scene::steady();
        // Its stream broke, and the leader still has the copy before in mind.
        scene.reborn(2);
        assert_eq!(of(&scene, 2), Some(false));
        scene.silence(3);
        assert_eq!(of(&scene, 3), None, "it does not answer, which says nothing of its copy");
        scene.nodes[3].presence = Presence::NotRunning;
        assert_eq!(of(&scene, 3), Some(false));
    }

    #[test]
    fn one_that_joins_counts_when_it_has_joined_and_one_that_leaves_stays_ready_until_it_goes() {
        let mut scene = Scene::steady();
        let copy = scene.record.members.remove(5);
        scene.record.membership = Membership::first(5).begin(NodeChange::Joining(name(5)));
        scene.seen(5).counted = false;
        assert_eq!(of(&scene, 5), Some(false), "its copy is on no record, whatever it was before");
        scene.record.members.push(copy);
        scene.record.membership = Membership { nodes: 6, change: None, ..scene.record.membership };
        assert_eq!(of(&scene, 5), None, "recorded, and the leader does not know yet");
        scene.seen(5).counted = true;
        assert_eq!(of(&scene, 5), Some(true));
        scene.record.membership = scene.record.membership.begin(NodeChange::Leaving(name(5)));
        scene.seen(5).counted = false;
        assert_eq!(of(&scene, 5), None, "its pod goes when it may");
    }

    #[test]
    fn without_a_leader_nothing_changes() {
        let mut scene = Scene::steady();
        scene.silence(0);
        assert_eq!(verdicts(&scene.situation()), BTreeMap::new());
        let leaderless = Record { leader: None, ..scene.record.clone() };
        scene.record = leaderless;
        assert_eq!(verdicts(&scene.situation()), BTreeMap::new());
    }

    #[test]
    fn before_a_store_has_begun_no_copy_counts() {
        let verdicts = verdicts(&Scene::unborn().situation());
        assert!(verdicts.values().all(|counted| !counted), "{verdicts:?}");
    }

    fn pod(n: usize, gated: bool, status: Option<&str>) -> (NodeId, Arc<Pod>) {
        let gates = if gated { json!([{"conditionType": GATE}]) } else { json!([]) };
        let conditions: Vec<_> = status.map(|status| json!({"type": GATE, "status": status})).into_iter().collect();
        let pod = json!({
            "metadata": {"name": format!("n{n}"), "namespace": "default", "uid": format!("u{n}"), "resourceVersion": "7"},
            "spec": {"containers": [], "readinessGates": gates},
            "status": {"conditions": conditions},
        });
        (name(n), Arc::new(serde_json::from_value(pod).expect("a pod")))
    }

    #[tokio::test]
    async fn only_what_differs_is_written_and_only_where_there_is_a_gate() {
        let mut scene = Scene::steady();
        scene.reborn(4);
        scene.reborn(5);
        let pods = [
            pod(0, true, Some("True")),
            pod(1, true, None),
            pod(2, true, Some("False")),
            pod(3, false, None),
            pod(4, true, Some("True")),
            // Not true is as good as false.
            pod(5, true, None),
        ];
        let observed = Observed { pods: pods.into(), ..Observed::default() };
        let patched = |path| Expected::written(Method::PATCH, path);
        let (client, server) = server(vec![
            patched("/api/v1/namespaces/default/pods/n1/status"),
            patched("/api/v1/namespaces/default/pods/n2/status"),
            patched("/api/v1/namespaces/default/pods/n4/status"),
        ]);
        let mut remembered = Sent::default();
        for time in ["the first time", "again, before the cache has heard of it"] {
            let refused = mark(&client, &observed, &scene.situation(), &mut remembered).await;
            assert!(refused.is_none(), "{time}: {refused:?}");
        }
        drop(client);
        let sent = server.await.expect("the script was followed");
        let told: Vec<_> =
            sent.iter().map(|patch| (&patch["metadata"]["uid"], &patch["status"]["conditions"][0]["status"])).collect();
        assert_eq!(
            told,
            [(&json!("u1"), &json!("True")), (&json!("u2"), &json!("True")), (&json!("u4"), &json!("False"))]
        );
        assert_eq!(sent[0]["status"]["conditions"][0]["type"], GATE);
    }
}
