//! How long writes took, from append to answer, since the settings last changed.

use std::time::Duration;

use hdrhistogram::Histogram;
use parking_lot::Mutex;
use quorumkv_api::lab::LatencySummary;

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
}

fn to_ms(micros: u64) -> f64 {
    Duration::from_micros(micros).as_secs_f64() * 1e3
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
    fn nothing_recorded_is_all_zeros_also_after_a_reset() {
        let latency = Latency::default();
        assert_eq!(latency.summary(), LatencySummary::default());
        latency.record(std::iter::once(Duration::from_millis(5)));
        latency.reset();
        assert_eq!(latency.summary(), LatencySummary::default());
    }
}
