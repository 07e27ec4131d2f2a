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

/// The operator's metrics.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    reconciles: Counter,
    errors: Family<ErrorLabels, Counter>,
    put_off: Family<ReasonLabels, Counter>,
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
            put_off: Family::default(),
            duration: Histogram::new(seconds),
            elections: Family::default(),
            leading: Gauge::default(),
            registry: Registry::default(),
        };
        registry.register("reconciles", "Reconciles begun", metrics.reconciles.clone());
        registry.register("reconcile_errors", "Reconciles that failed, by error", metrics.errors.clone());
        let put_off = "Reconciles to be repeated because others wrote or deleted at the same time, by reason";
        registry.register("reconciles_put_off", put_off, metrics.put_off.clone());
        registry.register("reconcile_duration_seconds", "Time a reconcile took", metrics.duration.clone());
        registry.register("elections", "Leaders promoted, by KvCluster", metrics.elections.clone());
        registry.register("leading", "Whether this operator holds the lease", metrics.leading.clone());
        Self { registry, ..metrics }
    }
}

impl Metrics {
    /// A reconcile ended.
    pub fn reconciled(&self, took: Duration) {
        self.reconciles.inc();
        self.duration.observe(took.as_secs_f64());
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
        metrics.reconciled(Duration::from_millis(5));
        metrics.reconciled(Duration::from_millis(5));
        metrics.failed("timeout");
        metrics.put_off("record_conflict");
        metrics.promoted("default", "demo");
        let text = metrics.text().expect("text");
        for line in [
            "quorumkv_operator_reconciles_total 2",
            "quorumkv_operator_reconcile_errors_total{error=\"timeout\"} 1",
            "quorumkv_operator_reconciles_put_off_total{reason=\"record_conflict\"} 1",
            "quorumkv_operator_elections_total{namespace=\"default\",name=\"demo\"} 1",
            "quorumkv_operator_reconcile_duration_seconds_count 2",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
        metrics.forget("default", "demo");
        assert!(!metrics.text().expect("text").contains("elections_total{"));
    }
}
