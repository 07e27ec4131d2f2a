//! What the operator counts, for Prometheus.

use std::time::Duration;

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

/// Which error, by its variant.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ErrorLabels {
    error: &'static str,
}

/// Which KvCluster.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClusterLabels {
    namespace: String,
    name: String,
}

/// The operator's metrics.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    reconciles: Counter,
    errors: Family<ErrorLabels, Counter>,
    duration: Histogram,
    elections: Family<ClusterLabels, Counter>,
    leading: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("quorumkv_operator");
        let seconds = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0];
        let metrics = Self {
            reconciles: Counter::default(),
            errors: Family::default(),
            duration: Histogram::new(seconds),
            elections: Family::default(),
            leading: Gauge::default(),
            registry: Registry::default(),
        };
        registry.register("reconciles", "Reconciles begun", metrics.reconciles.clone());
        registry.register("reconcile_errors", "Reconciles that failed, by error", metrics.errors.clone());
        registry.register("reconcile_duration_seconds", "Time a reconcile took", metrics.duration.clone());
        registry.register("elections", "Leaders promoted, by KvCluster", metrics.elections.clone());
        registry.register("leading", "Whether this operator holds the lease", metrics.leading.clone());
        Self { registry, ..metrics }
    }
}

impl Metrics {
    /// A reconcile ended.
    pub fn reconciled(&self, took: Duration, error: Option<&'static str>) {
        self.reconciles.inc();
        self.duration.observe(took.as_secs_f64());
        if let Some(error) = error {
            self.errors.get_or_create(&ErrorLabels { error }).inc();
        }
    }

    /// A leader was promoted.
    pub fn promoted(&self, namespace: &str, name: &str) {
        let labels = ClusterLabels { namespace: namespace.to_owned(), name: name.to_owned() };
        self.elections.get_or_create(&labels).inc();
    }

    /// A KvCluster is gone.
    pub fn forget(&self, namespace: &str, name: &str) {
        self.elections.remove(&ClusterLabels { namespace: namespace.to_owned(), name: name.to_owned() });
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
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happened_is_counted() {
        let metrics = Metrics::default();
        metrics.reconciled(Duration::from_millis(5), None);
        metrics.reconciled(Duration::from_millis(5), Some("timeout"));
        metrics.promoted("default", "demo");
        let text = metrics.text().expect("text");
        for line in [
            "quorumkv_operator_reconciles_total 2",
            "quorumkv_operator_reconcile_errors_total{error=\"timeout\"} 1",
            "quorumkv_operator_elections_total{namespace=\"default\",name=\"demo\"} 1",
            "quorumkv_operator_reconcile_duration_seconds_count 2",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
        metrics.forget("default", "demo");
        assert!(!metrics.text().expect("text").contains("elections_total{"));
    }
}
