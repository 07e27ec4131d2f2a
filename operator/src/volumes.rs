//! Making volumes larger, one after the other, while the store runs. Pure.
//!
//! A StatefulSet keeps for ever the size that its claims are first made with, so its template stays as it is and the
//! claims themselves are patched. Whether a volume can grow is the API server's decision: it knows the storage class,
//! refuses what cannot be done, and says why.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{PersistentVolumeClaim, PersistentVolumeClaimSpec},
};
use kube::ResourceExt;
use quorumkv_api::NodeId;

use crate::{
    build::nodes::DATA_VOLUME,
    quantity,
    status::{Verdict, VolumeReport},
    validate::ValidStorage,
};

/// Reasons of the condition.
pub const AS_SPECIFIED: &str = "AsSpecified";
/// One is being made larger.
pub const GROWING: &str = "Growing";
/// One cannot be made larger.
pub const CANNOT_GROW: &str = "CannotGrow";

/// What to do about the sizes of volumes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// All have the size that is wanted, or more.
    Done,
    /// Ask for a larger one for this node.
    Ask(NodeId),
    /// This node's is being made larger; what is known of it.
    Wait(NodeId, String),
}

/// The next step, and the size of the smallest volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What to do.
    pub step: Step,
    /// As its status has it.
    pub smallest: String,
}

/// What comes next so that every volume has the wanted size; none while there is no volume yet. One volume after the
/// other, so that a storage system that fails to make one larger has only that one in its hands.
#[must_use]
pub fn plan(wanted: &str, claims: &BTreeMap<NodeId, Arc<PersistentVolumeClaim>>) -> Option<Plan> {
    // A little less is enough: 1.07G is not exactly 1070M, as which the API server gives it back.
    let enough = quantity::bytes(wanted)? * (1.0 - 1e-12);
    // What is not bound yet has no size, and cannot be changed.
    let volumes: Vec<(&NodeId, &PersistentVolumeClaim, &str)> =
        claims.iter().filter_map(|(node, claim)| Some((node, claim.as_ref(), capacity(claim)?))).collect();
    let bytes = |size: &str| quantity::bytes(size).unwrap_or(0.0);
    let (.., smallest) = volumes.iter().min_by(|one, other| bytes(one.2).total_cmp(&bytes(other.2)))?;
    let asked =
        |claim: &PersistentVolumeClaim| requested(claim.spec.as_ref()).is_some_and(|size| bytes(size) >= enough);
    let growing = volumes.iter().find(|(_, claim, size)| asked(claim) && bytes(size) < enough);
    let step = match growing {
        Some((node, claim, _)) => Step::Wait((*node).clone(), what_it_waits_for(claim)),
        None => match volumes.iter().find(|(_, claim, _)| !asked(claim)) {
            Some((node, ..)) => Step::Ask((*node).clone()),
            None => Step::Done,
        },
    };
    Some(Plan { step, smallest: (*smallest).to_owned() })
}

fn capacity(claim: &PersistentVolumeClaim) -> Option<&str> {
    let status = claim.status.as_ref().filter(|status| status.phase.as_deref() == Some("Bound"))?;
    Some(&status.capacity.as_ref()?.get("storage")?.0)
}

fn requested(spec: Option<&PersistentVolumeClaimSpec>) -> Option<&str> {
    Some(&spec?.resources.as_ref()?.requests.as_ref()?.get("storage")?.0)
}

fn what_it_waits_for(claim: &PersistentVolumeClaim) -> String {
    let conditions = claim.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let told = conditions.iter().filter(|condition| condition.status == "True").map(|condition| {
        let message = condition.message.as_deref().filter(|message| !message.is_empty());
        message.map_or_else(|| condition.type_.clone(), |message| format!("{}: {message}", condition.type_))
    });
    let told = told.collect::<Vec<_>>().join("; ");
    if told.is_empty() { "the storage system was asked".to_owned() } else { told }
}

/// The storage as the StatefulSet describes it, if there is one: what it once said of its claims cannot be changed.
#[must_use]
pub fn as_claimed(storage: &ValidStorage, set: Option<&StatefulSet>) -> ValidStorage {
    let claimed = || {
        let claims = set?.spec.as_ref()?.volume_claim_templates.as_ref()?;
        let claim = claims.iter().find(|claim| claim.name_any() == DATA_VOLUME)?;
        requested(claim.spec.as_ref()).map(str::to_owned)
    };
    match (storage, claimed()) {
        (ValidStorage::Persistent { class, when_deleted, .. }, Some(size)) => {
            ValidStorage::Persistent { size, class: class.clone(), when_deleted: *when_deleted }
        }
        (storage, _) => storage.clone(),
    }
}

/// What people are told. `refusal` is why the step could not be done.
#[must_use]
pub fn report(wanted: &str, plan: &Plan, refusal: Option<&str>) -> VolumeReport {
    let Plan { step, smallest } = plan;
    let resized = match (step, refusal) {
        (Step::Done, _) => Verdict::new(true, AS_SPECIFIED, format!("Every volume has {wanted} or more")),
        (Step::Ask(node), Some(refusal)) => {
            let message = format!("The volume of {node} does not grow to {wanted}: {refusal}");
            Verdict::new(false, CANNOT_GROW, message)
        }
        (Step::Ask(node), None) => Verdict::new(false, GROWING, format!("The volume of {node} grows to {wanted}")),
        (Step::Wait(node, why), _) => {
            Verdict::new(false, GROWING, format!("The volume of {node} grows to {wanted}: {why}"))
        }
    };
    VolumeReport { resized, smallest: Some(smallest.clone()) }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;
    use crate::{build, crd::WhenDeleted, testing::valid_cluster, validate::ValidCluster};

    type Claims = BTreeMap<NodeId, Arc<PersistentVolumeClaim>>;

    /// One claim for each pair of what was asked for and what there is.
    fn claims(sizes: &[(&str, Option<&str>)]) -> Claims {
        let claim = |(n, (asked, has)): (usize, &(&str, Option<&str>))| {
            let status = has.map(|size| json!({"phase": "Bound", "capacity": {"storage": size}}));
            let claim = json!({
                "metadata": {"name": format!("data-demo-{n}")},
                "spec": {"resources": {"requests": {"storage": asked}}},
                "status": status.unwrap_or(json!({"phase": "Pending"})),
            });
            (NodeId(format!("demo-{n}")), Arc::new(serde_json::from_value(claim).expect("a claim")))
        };
        sizes.iter().enumerate().map(claim).collect()
    }

    fn wait(node: &str) -> Step {
        Step::Wait(node.into(), "the storage system was asked".to_owned())
    }

    #[rstest]
    #[case::as_they_were_made(&[("1Gi", Some("1Gi")); 3], Step::Done, "1Gi")]
    #[case::written_otherwise(&[("1024Mi", Some("1Gi")); 2], Step::Done, "1Gi")]
    #[case::larger_than_asked_for(&[("1Gi", Some("10Gi")); 2], Step::Done, "10Gi")]
    #[case::none_was_asked_for(&[("512Mi", Some("512Mi")); 3], Step::Ask("demo-0".into()), "512Mi")]
    #[case::the_first_is_growing(&[("1Gi", Some("512Mi")), ("512Mi", Some("512Mi"))], wait("demo-0"), "512Mi")]
    #[case::the_first_has_grown(&[("1Gi", Some("1Gi")), ("512Mi", Some("512Mi"))], Step::Ask("demo-1".into()), "512Mi")]
    #[case::a_later_one_is_growing(&[("512Mi", Some("512Mi")), ("1Gi", Some("512Mi"))], wait("demo-1"), "512Mi")]
    #[case::one_is_not_made_yet(&[("512Mi", None), ("1Gi", Some("1Gi"))], Step::Done, "1Gi")]
    fn volumes_grow_one_after_the_other(
        #[case] sizes: &[(&str, Option<&str>)],
        #[case] step: Step,
        #[case] smallest: &str,
    ) {
        assert_eq!(plan("1Gi", &claims(sizes)), Some(Plan { step, smallest: smallest.to_owned() }));
    }

    #[test]
    fn without_volumes_nothing_is_said_of_them() {
        assert_eq!(plan("1Gi", &claims(&[("1Gi", None)])), None);
    }

    #[test]
    fn what_the_storage_system_says_is_passed_on() {
        let mut claims = claims(&[("1Gi", Some("512Mi"))]);
        let claim = Arc::make_mut(claims.values_mut().next().expect("a claim"));
        let condition: Value =
            json!({"type": "FileSystemResizePending", "status": "True", "message": "restart the pod"});
        claim.status.as_mut().expect("a status").conditions =
            Some(vec![serde_json::from_value(condition).expect("a condition")]);
        let plan = plan("1Gi", &claims).expect("a plan");
        let verdict = report("1Gi", &plan, None).resized;
        let expected = "The volume of demo-0 grows to 1Gi: FileSystemResizePending: restart the pod";
        assert_eq!((verdict.holds, verdict.reason, verdict.message.as_str()), (false, GROWING, expected));
    }

    #[test]
    fn a_refusal_is_told_in_the_words_of_the_api_server() {
        let plan = plan("1Gi", &claims(&[("512Mi", Some("512Mi"))])).expect("a plan");
        let verdict = report("1Gi", &plan, Some("the storageclass must support resize")).resized;
        assert_eq!((verdict.holds, verdict.reason), (false, CANNOT_GROW));
        assert!(verdict.message.contains("demo-0") && verdict.message.contains("must support resize"), "{verdict:?}");
    }

    #[test]
    fn a_larger_size_leaves_the_stateful_set_as_it_is() {
        let of_size = |size: &str| {
            let when_deleted = WhenDeleted::Retain;
            let storage = ValidStorage::Persistent { size: size.into(), class: Some("fast".into()), when_deleted };
            ValidCluster { storage, ..valid_cluster() }
        };
        let before = build::objects(&of_size("1Gi")).nodes;
        let larger = of_size("2Gi");
        let claimed = as_claimed(&larger.storage, Some(&before));
        assert_eq!(build::objects(&ValidCluster { storage: claimed, ..larger.clone() }).nodes, before);
        assert_eq!(as_claimed(&larger.storage, None), larger.storage, "a new one is made with the size of the spec");
    }
}
