//! The Kubernetes objects of a KvCluster, one kind per file. Pure.

pub mod budget;
pub mod names;
pub mod nodes;
pub mod policy;
pub mod secret;
pub mod services;

use k8s_openapi::api::{apps::v1::StatefulSet, core::v1::Service, policy::v1::PodDisruptionBudget};
use kube::{Resource, ResourceExt};
use serde::Serialize;

use crate::validate::ValidCluster;

/// Carries the fingerprint of the object as the operator described it, so that a field which is no longer
/// described is noticed as well.
pub const FINGERPRINT: &str = "quorumkv.io/fingerprint";

/// Everything that server-side apply keeps as described. The Secret is not among them: it is made once.
#[derive(Debug, Clone, PartialEq)]
pub struct Objects {
    /// Leader, followers, nodes.
    pub services: [Service; 3],
    /// How many pods may be evicted at once.
    pub budget: PodDisruptionBudget,
    /// The pods.
    pub nodes: StatefulSet,
}

/// Builds them.
#[must_use]
pub fn objects(cluster: &ValidCluster) -> Objects {
    Objects {
        services: services::build(cluster).map(fingerprinted),
        budget: fingerprinted(budget::build(cluster)),
        nodes: fingerprinted(nodes::build(cluster)),
    }
}

/// An object with its fingerprint.
pub(crate) fn fingerprinted<K: Resource + Serialize>(mut object: K) -> K {
    let text = serde_json::to_string(&object).expect("a Kubernetes object serializes");
    object.annotations_mut().insert(FINGERPRINT.to_owned(), format!("{:016x}", fnv1a(text.as_bytes())));
    object
}

/// FNV-1a: the same in every build, unlike the hasher of the standard library.
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::valid_cluster;

    #[test]
    fn every_object_is_owned_labelled_and_fingerprinted() {
        let Objects { services, budget, nodes } = objects(&valid_cluster());
        let metas = services.iter().map(|service| service.meta()).chain([budget.meta(), nodes.meta()]);
        for meta in metas {
            let owner = &meta.owner_references.as_ref().expect("owned")[0];
            assert_eq!((owner.kind.as_str(), owner.controller), ("KvCluster", Some(true)));
            let labels = meta.labels.as_ref().expect("labels");
            assert_eq!(labels["app.kubernetes.io/instance"], "demo");
            assert_eq!(labels["app.kubernetes.io/managed-by"], "quorumkv-operator");
            assert!(meta.annotations.as_ref().expect("annotations").contains_key(FINGERPRINT));
        }
    }

    #[test]
    fn live_settings_change_no_object() {
        let before = objects(&valid_cluster());
        let mut cluster = valid_cluster();
        cluster.store.settings.write_quorum = quorumkv_api::WriteQuorum(5);
        cluster.store.settings.write_timeout = std::time::Duration::from_secs(9);
        assert_eq!(objects(&cluster), before);
    }

    #[test]
    fn a_field_that_is_gone_changes_the_fingerprint() {
        let mut cluster = valid_cluster();
        cluster.pods.node_selector.insert("disk".into(), "fast".into());
        let with = objects(&cluster).nodes;
        assert_ne!(with.annotations()[FINGERPRINT], objects(&valid_cluster()).nodes.annotations()[FINGERPRINT]);
    }
}
