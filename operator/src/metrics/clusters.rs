//! KvClusters as the watch sees them: asked when somebody looks, so that nothing is left of one that is gone.

use std::{
    collections::HashSet,
    fmt,
    sync::{Arc, OnceLock},
};

use kube::{ResourceExt, runtime::reflector::Store};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{MetricType, gauge::ConstGauge},
};

use super::ClusterLabels;
use crate::{crd::KvCluster, status::CONDITIONS};

type Value = fn(&KvCluster) -> Option<i64>;

/// What is shown of each; zero where it is not known yet.
const GAUGES: [(&str, &str, Value); 5] = [
    ("cluster_followers", "Followers that the spec of a KvCluster asks for.", |cluster| {
        Some(cluster.spec.followers.into())
    }),
    ("cluster_ready_followers", "Followers that are connected, counted and caught up.", |cluster| {
        cluster.status.as_ref()?.ready_followers.map(i64::from)
    }),
    ("cluster_desired_write_quorum", "Write quorum that the spec asks for.", |cluster| {
        Some(cluster.spec.write_quorum.into())
    }),
    ("cluster_applied_write_quorum", "Write quorum that the leader committed.", |cluster| {
        cluster.status.as_ref()?.write_quorum.map(i64::from)
    }),
    ("cluster_epoch", "Number of the latest election.", |cluster| cluster.status.as_ref()?.epoch),
];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ConditionLabels {
    namespace: String,
    name: String,
    condition: &'static str,
}

/// The KvClusters that exist, once this operator works. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Clusters(Arc<OnceLock<Store<KvCluster>>>);

impl Clusters {
    /// They are in this cache.
    pub(super) fn are(&self, cache: Store<KvCluster>) {
        // One process works once: a second cache would be the same.
        self.0.set(cache).ok();
    }

    /// All that exist; none while that is not known.
    pub(super) fn names(&self) -> Option<HashSet<ClusterLabels>> {
        Some(self.0.get()?.state().iter().map(|cluster| labels(cluster)).collect())
    }
}

impl Collector for Clusters {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let clusters = self.0.get().map(Store::state).unwrap_or_default();
        if clusters.is_empty() {
            return Ok(());
        }
        for (name, help, value) in GAUGES {
            let mut gauge = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for cluster in &clusters {
                let labels = labels(cluster);
                ConstGauge::new(value(cluster).unwrap_or(0)).encode(gauge.encode_family(&labels)?)?;
            }
        }
        let help = "Conditions of a KvCluster: 1 while one holds.";
        let mut gauge = encoder.encode_descriptor("cluster_condition", help, None, MetricType::Gauge)?;
        for cluster in &clusters {
            for condition in CONDITIONS {
                let ClusterLabels { namespace, name } = labels(cluster);
                let labels = ConditionLabels { namespace, name, condition };
                let holds = ConstGauge::new(i64::from(holds(cluster, condition)));
                holds.encode(gauge.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

fn labels(cluster: &KvCluster) -> ClusterLabels {
    ClusterLabels { namespace: cluster.namespace().unwrap_or_default(), name: cluster.name_any() }
}

fn holds(cluster: &KvCluster, condition: &str) -> bool {
    let conditions = cluster.status.iter().flat_map(|status| &status.conditions);
    conditions.into_iter().any(|known| known.type_ == condition && known.status == "True")
}
