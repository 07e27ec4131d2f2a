//! How long writes took, from append to answer, since the settings last changed.

use std::{collections::BTreeMap, time::Duration};

use hdrhistogram::Histogram;
use parking_lot::Mutex;
use quorumkv_api::lab::{LatencyBucket, LatencySummary};

/// One hour in microseconds: far above the longest write timeout that is allowed.
const HIGHEST_US: u64 = 3_600_000_000;

/// Collects latencies; read by `GET /status`.
#[derive(Debug)]
pub struct Latency {
    histogram: Mutex<Histogram<u64>>,
}

impl Default for Latency {
    fn default() -> Self {
        let histogram = Histogram::new_with_max(HIGHEST_US, 3).expect("the bounds are constant and valid");
        Self { histogram: Mutex::new(histogram) }
    }
}

impl Latency {
    /// Adds the latencies of one batch of answers.
    pub fn record(&self, latencies: impl Iterator<Item = Duration>) {
        let mut histogram = self.histogram.lock();
        for latency in latencies {
            histogram.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(HIGHEST_US));
        }
    }

    /// Begins again, for other settings.
    pub fn reset(&self) {
        self.histogram.lock().reset();
    }

    /// What was collected, in milliseconds.
    #[must_use]
    pub fn summary(&self) -> LatencySummary {
        let histogram = self.histogram.lock();
        if histogram.is_empty() {
            return LatencySummary::default();
        }
        let at = |quantile| to_ms(histogram.value_at_quantile(quantile));
        LatencySummary {
            count: histogram.len(),
            mean: histogram.mean() / 1e3,
            median: at(0.5),
            p95: at(0.95),
            p99: at(0.99),
        }
    }

    /// How the latencies are distributed.
    #[must_use]
    pub fn buckets(&self) -> Vec<LatencyBucket> {
        let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
        for step in self.histogram.lock().iter_recorded() {
            *counts.entry(bucket_end(step.value_iterated_to())).or_default() += step.count_at_value();
        }
        counts.into_iter().map(|(end, count)| LatencyBucket { below_ms: to_ms(end), count }).collect()
    }
}

/// Upper end of the bucket that holds a latency: sixteen buckets of equal width between a power of two and the next.
fn bucket_end(micros: u64) -> u64 {
    let width = micros.max(16).ilog2() - 4;
    ((micros >> width) + 1) << width
}

fn to_ms(micros: u64) -> f64 {
    micros as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_what_was_recorded() {
        let latency = Latency::default();
        latency.record((1..=100).map(Duration::from_millis));
        let LatencySummary { count, mean, median, p95, p99 } = latency.summary();
        assert_eq!(count, 100);
        for (found, expected) in [(mean, 50.5), (median, 50.0), (p95, 95.0), (p99, 99.0)] {
            assert!((found - expected).abs() < 0.2, "{found} instead of {expected}");
        }
    }

    #[test]
    fn buckets_hold_every_latency_once_and_are_narrow() {
        let latency = Latency::default();
        latency.record([3, 17, 80_000, 80_100, 90_000, 150_000].map(Duration::from_micros).into_iter());
        let found: Vec<(f64, u64)> = latency.buckets().iter().map(|bucket| (bucket.below_ms, bucket.count)).collect();
        assert_eq!(found, [(0.004, 1), (0.018, 1), (81.92, 2), (90.112, 1), (155.648, 1)]);
        for micros in (1..2_000_000).step_by(37) {
            let end = bucket_end(micros);
            assert!(end > micros && (end - micros) * 16 <= micros.max(16), "{micros} in a bucket that ends at {end}");
        }
    }

    #[test]
    fn nothing_recorded_is_all_zeros_also_after_a_reset() {
        let latency = Latency::default();
        assert_eq!(latency.summary(), LatencySummary::default());
        latency.record(std::iter::once(Duration::from_millis(5)));
        latency.reset();
        assert_eq!(latency.summary(), LatencySummary::default());
    }
}
