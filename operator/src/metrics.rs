//! What the operator counts, for Prometheus.
//!
//! Whatever is of one KvCluster has the labels `namespace` and `name`, and goes with it.

use std::{
    collections::HashSet,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use kube::runtime::reflector::Store;
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

use self::{api_requests::ApiRequests, clusters::Clusters};
use crate::crd::KvCluster;

pub mod api_requests;
mod clusters;

/// Which error, by its variant.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ErrorLabels {
    error: &'static str,
}

/// Why a reconcile is to come again, by the variant of its error.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

/// Which KvCluster.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClusterLabels {
    namespace: String,
    name: String,
}

impl ClusterLabels {
    fn of(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

/// The operator's metrics.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    reconciles: Counter,
    errors: Family<ErrorLabels, Counter>,
    put_off: Family<ReasonLabels, Counter>,
    duration: Family<ClusterLabels, Histogram, fn() -> Histogram>,
    elections: Family<ClusterLabels, Counter>,
    leading: Gauge,
    api_requests: ApiRequests,
    clusters: Clusters,
    /// Those of which something was counted.
    counted: Mutex<HashSet<ClusterLabels>>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("quorumkv_operator");
        let seconds: fn() -> Histogram = || Histogram::new([0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0]);
        let metrics = Self {
            reconciles: Counter::default(),
            errors: Family::default(),
            put_off: Family::default(),
            duration: Family::new_with_constructor(seconds),
            elections: Family::default(),
            leading: Gauge::default(),
            api_requests: ApiRequests::default(),
            clusters: Clusters::default(),
            counted: Mutex::default(),
            registry: Registry::default(),
        };
        registry.register("reconciles", "Reconciles that ended, however they did", metrics.reconciles.clone());
        registry.register("reconcile_errors", "Reconciles that failed, by error", metrics.errors.clone());
        let put_off = "Reconciles to be repeated because others wrote or deleted at the same time, by reason";
        registry.register("reconciles_put_off", put_off, metrics.put_off.clone());
        let duration = "Time a reconcile of a KvCluster took";
        registry.register_with_unit("reconcile_duration", duration, Unit::Seconds, metrics.duration.clone());
        registry.register("elections", "Leaders promoted, by KvCluster", metrics.elections.clone());
        registry.register("leading", "1 while this operator holds the lease", metrics.leading.clone());
        metrics.api_requests.register(&mut registry);
        registry.register_collector(Box::new(metrics.clusters.clone()));
        Self { registry, ..metrics }
    }
}

impl Metrics {
    /// This operator works on the KvClusters in this cache: they are shown, and no others.
    pub fn show(&self, clusters: Store<KvCluster>) {
        self.clusters.are(clusters);
    }

    /// Counts what is sent to the API server.
    #[must_use]
    pub fn api_requests(&self) -> ApiRequests {
        self.api_requests.clone()
    }

    /// A reconcile ended.
    pub fn reconciled(&self, namespace: &str, name: &str, took: Duration) {
        self.reconciles.inc();
        let labels = self.counted(namespace, name);
        self.duration.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// It failed.
    pub fn failed(&self, error: &'static str) {
        self.errors.get_or_create(&ErrorLabels { error }).inc();
    }

    /// It met what others did at the same time.
    pub fn put_off(&self, reason: &'static str) {
        self.put_off.get_or_create(&ReasonLabels { reason }).inc();
    }

    /// A leader was promoted.
    pub fn promoted(&self, namespace: &str, name: &str) {
        let labels = self.counted(namespace, name);
        self.elections.get_or_create(&labels).inc();
    }

    /// A KvCluster is gone.
    pub fn forget(&self, namespace: &str, name: &str) {
        let labels = ClusterLabels::of(namespace, name);
        self.lock().remove(&labels);
        self.remove(&labels);
    }

    /// Nobody reconciles a KvCluster that was deleted, so nobody says that it is gone.
    fn forget_the_gone(&self) {
        let mut counted = self.lock();
        // Only now: whatever was counted before existed before.
        let Some(existing) = self.clusters.names() else { return };
        counted.retain(|labels| {
            let stays = existing.contains(labels);
            if !stays {
                self.remove(labels);
            }
            stays
        });
    }

    fn remove(&self, labels: &ClusterLabels) {
        self.duration.remove(labels);
        self.elections.remove(labels);
    }

    /// Notes that something is counted of a KvCluster.
    fn counted(&self, namespace: &str, name: &str) -> ClusterLabels {
        let labels = ClusterLabels::of(namespace, name);
        self.lock().insert(labels.clone());
        labels
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<ClusterLabels>> {
        // A set is whole whoever panicked while holding it.
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This operator got or lost the lease.
    pub fn leading(&self, leads: bool) {
        self.leading.set(i64::from(leads));
    }

    /// All of them, in the text format of OpenMetrics.
    ///
    /// # Errors
    /// Never in practice: a `String` takes every write.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        self.forget_the_gone();
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use kube::runtime::{reflector, watcher::Event};

    use super::*;
    use crate::testing::cluster;

    #[track_caller]
    fn assert_shows(metrics: &Metrics, lines: &[&str]) {
        let text = metrics.text().expect("text");
        for line in lines {
            let line = format!("quorumkv_operator_{line}");
            assert!(text.lines().any(|shown| shown == line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn what_happened_is_counted() {
        let metrics = Metrics::default();
        metrics.reconciled("default", "demo", Duration::from_millis(5));
        metrics.reconciled("default", "other", Duration::from_millis(5));
        metrics.failed("timeout");
        metrics.put_off("record_conflict");
        metrics.promoted("default", "demo");
        assert_shows(
            &metrics,
            &[
                "reconciles_total 2",
                "reconcile_errors_total{error=\"timeout\"} 1",
                "reconciles_put_off_total{reason=\"record_conflict\"} 1",
                "elections_total{namespace=\"default\",name=\"demo\"} 1",
                "reconcile_duration_seconds_count{namespace=\"default\",name=\"demo\"} 1",
            ],
        );
        metrics.forget("default", "demo");
        let text = metrics.text().expect("text");
        assert!(!text.contains("name=\"demo\"") && text.contains("name=\"other\""), "{text}");
    }

    #[test]
    fn a_store_is_shown_as_its_spec_and_status_are() {
        let metrics = Metrics::default();
        let (store, mut writer) = reflector::store();
        metrics.show(store);
        let mut demo = cluster();
        demo.spec.write_quorum = 5;
        writer.apply_watcher_event(&Event::Apply(demo.clone()));
        let of = "{namespace=\"default\",name=\"demo\"}";
        assert_shows(
            &metrics,
            &[
                &format!("cluster_followers{of} 5"),
                &format!("cluster_desired_write_quorum{of} 5"),
                &format!("cluster_applied_write_quorum{of} 0"),
                "cluster_condition{namespace=\"default\",name=\"demo\",condition=\"Ready\"} 0",
            ],
        );

        let condition = |kind: &str, status: &str| {
            serde_json::json!({"type": kind, "status": status, "reason": "R", "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z"})
        };
        let status = serde_json::json!({"epoch": 7, "readyFollowers": 4, "writeQuorum": 3,
            "conditions": [condition("Ready", "True"), condition("Degraded", "False")]});
        demo.status = Some(serde_json::from_value(status).expect("a status"));
        writer.apply_watcher_event(&Event::Apply(demo));
        assert_shows(
            &metrics,
            &[
                &format!("cluster_ready_followers{of} 4"),
                &format!("cluster_applied_write_quorum{of} 3"),
                &format!("cluster_epoch{of} 7"),
                "cluster_condition{namespace=\"default\",name=\"demo\",condition=\"Ready\"} 1",
                "cluster_condition{namespace=\"default\",name=\"demo\",condition=\"Degraded\"} 0",
                "cluster_condition{namespace=\"default\",name=\"demo\",condition=\"Paused\"} 0",
            ],
        );
    }

    #[test]
    fn nothing_is_left_of_a_store_that_is_gone() {
        let metrics = Metrics::default();
        let (store, mut writer) = reflector::store();
        metrics.show(store);
        writer.apply_watcher_event(&Event::Apply(cluster()));
        metrics.reconciled("default", "demo", Duration::from_millis(5));
        metrics.promoted("default", "demo");
        assert_shows(&metrics, &["elections_total{namespace=\"default\",name=\"demo\"} 1"]);

        writer.apply_watcher_event(&Event::Delete(cluster()));
        // It was under way when the KvCluster was deleted.
        metrics.reconciled("default", "demo", Duration::from_millis(5));
        let text = metrics.text().expect("text");
        assert!(!text.contains("demo"), "{text}");
        assert!(text.contains("reconciles_total 2"), "what is of no store stays: {text}");
    }
}
