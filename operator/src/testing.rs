//! Fixtures for the unit tests.

use serde_json::json;

use crate::{
    crd::KvCluster,
    validate::{ValidCluster, validate},
};

/// The cluster `default/demo` with everything by default.
pub(crate) fn cluster() -> KvCluster {
    serde_json::from_value(json!({
        "apiVersion": "quorumkv.io/v1alpha1",
        "kind": "KvCluster",
        "metadata": {"name": "demo", "namespace": "default", "uid": "u1", "generation": 4, "resourceVersion": "10"},
        "spec": {},
    }))
    .expect("a KvCluster")
}

/// The same, validated.
pub(crate) fn valid_cluster() -> ValidCluster {
    validate(&cluster(), "quorumkv-node:test").expect("valid")
}
