//! What storage counts.

use std::{sync::atomic::AtomicU64, time::Duration};

use prometheus_client::{
    metrics::{
        counter::Counter,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

/// Counted by the threads that write, shown with the node's metrics. Clones share their values.
#[derive(Debug, Clone)]
pub struct StorageMetrics {
    sync_latency: Histogram,
    group_batches: Histogram,
    group_bytes: Histogram,
    snapshots: Counter,
    wal_bytes: Gauge<u64, AtomicU64>,
    snapshot_bytes: Gauge<u64, AtomicU64>,
    full: Gauge<u64, AtomicU64>,
}

impl Default for StorageMetrics {
    fn default() -> Self {
        Self {
            // 50 us, a fast disk with a battery, to 1.6 s, one that is overloaded.
            sync_latency: Histogram::new(exponential_buckets(0.000_05, 2.0, 16)),
            group_batches: Histogram::new(exponential_buckets(1.0, 2.0, 11)),
            group_bytes: Histogram::new(exponential_buckets(64.0, 4.0, 10)),
            snapshots: Counter::default(),
            wal_bytes: Gauge::default(),
            snapshot_bytes: Gauge::default(),
            full: Gauge::default(),
        }
    }
}

impl StorageMetrics {
    /// Shows everything in `registry`.
    pub fn register(&self, registry: &mut Registry) {
        let help = "Time that making one group of batches durable took";
        registry.register_with_unit("wal_sync", help, Unit::Seconds, self.sync_latency.clone());
        registry.register("wal_group_batches", "Batches made durable by one sync", self.group_batches.clone());
        registry.register("wal_group_bytes", "Bytes made durable by one sync", self.group_bytes.clone());
        registry.register("snapshots_written", "Snapshots written to disk", self.snapshots.clone());
        registry.register("wal_bytes", "Bytes that the write-ahead log takes on disk", self.wal_bytes.clone());
        registry.register("snapshot_bytes", "Length of the last snapshot on disk", self.snapshot_bytes.clone());
        registry.register("storage_full", "1 while writes are refused for want of room", self.full.clone());
    }

    pub(super) fn synced(&self, took: Duration, batches: usize, bytes: u64) {
        self.sync_latency.observe(took.as_secs_f64());
        #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
        {
            self.group_batches.observe(batches as f64);
            self.group_bytes.observe(bytes as f64);
        }
    }

    pub(super) fn snapshot_written(&self, bytes: u64) {
        self.snapshots.inc();
        self.snapshot_is(bytes);
    }

    pub(super) fn snapshot_is(&self, bytes: u64) {
        self.snapshot_bytes.set(bytes);
    }

    pub(super) fn wal_takes(&self, bytes: u64) {
        self.wal_bytes.set(bytes);
    }

    pub(super) fn full(&self, full: bool) {
        self.full.set(u64::from(full));
    }
}
