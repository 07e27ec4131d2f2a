//! Keeps voluntary evictions to one node at a time.

use k8s_openapi::{
    api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::names;
use crate::validate::ValidCluster;

/// One at a time, whatever the quorum: a node that moves has to learn everything anew before the next goes.
#[must_use]
pub fn build(cluster: &ValidCluster) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: names::metadata(cluster, cluster.name.clone()),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(names::selector(&cluster.name)),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::valid_cluster;

    #[test]
    fn one_pod_may_be_evicted_at_a_time() {
        let spec = build(&valid_cluster()).spec.expect("a spec");
        assert_eq!(spec.max_unavailable, Some(IntOrString::Int(1)));
    }
}
