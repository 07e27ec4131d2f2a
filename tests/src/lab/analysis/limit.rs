//! What no store can beat: the simulated delay alone.
//!
//! A write waits for the q-th fastest of n round trips, each uniform in [min, max]. Scaled to [0, 1] that is
//! the q-th order statistic, which has the distribution Beta(q, n + 1 - q).

use quorumkv_api::Delay;
use serde::Serialize;

/// The latency of a write that costs nothing but its simulated round trips.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limit {
    min_ms: f64,
    max_ms: f64,
    quorum: u8,
    followers: u8,
}

/// The limit in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LimitFigures {
    /// Mean latency, in milliseconds.
    pub mean: f64,
    /// Median latency, in milliseconds.
    pub median: f64,
    /// 95th percentile, in milliseconds.
    pub p95: f64,
    /// 99th percentile, in milliseconds.
    pub p99: f64,
    /// What so many clients can write in a second; nothing where no delay is simulated.
    pub writes_per_second: Option<f64>,
}

impl Limit {
    /// With this simulated delay, when a write waits for `quorum` of `followers`.
    #[must_use]
    pub fn new(delay: Delay, quorum: u8, followers: u8) -> Self {
        let ms = |duration: std::time::Duration| duration.as_secs_f64() * 1e3;
        Self { min_ms: ms(delay.min), max_ms: ms(delay.max), quorum, followers }
    }

    /// Mean, in milliseconds: min + (max - min) * q / (n + 1).
    #[must_use]
    pub fn mean_ms(&self) -> f64 {
        self.scaled(f64::from(self.quorum) / (f64::from(self.followers) + 1.0))
    }

    /// Standard deviation, in milliseconds.
    #[must_use]
    pub fn deviation_ms(&self) -> f64 {
        let (q, n) = (f64::from(self.quorum), f64::from(self.followers));
        let variance = q * (n + 1.0 - q) / ((n + 1.0).powi(2) * (n + 2.0));
        (self.max_ms - self.min_ms) * variance.sqrt()
    }

    /// The latency that a share of the writes does not exceed, in milliseconds.
    #[must_use]
    pub fn quantile_ms(&self, share: f64) -> f64 {
        // The share grows with the latency, so halving the interval finds it: sixty times to the last bit.
        let (mut low, mut high) = (0.0, 1.0);
        for _ in 0..60 {
            let middle = (low + high) / 2.0;
            if self.share_below(middle) < share { low = middle } else { high = middle }
        }
        self.scaled((low + high) / 2.0)
    }

    /// Writes a second of clients that each write again as soon as they are answered.
    #[must_use]
    pub fn writes_per_second(&self, clients: usize) -> Option<f64> {
        let mean = self.mean_ms();
        (mean > 0.0).then(|| clients as f64 * 1e3 / mean)
    }

    /// All of it.
    #[must_use]
    pub fn figures(&self, clients: usize) -> LimitFigures {
        LimitFigures {
            mean: self.mean_ms(),
            median: self.quantile_ms(0.5),
            p95: self.quantile_ms(0.95),
            p99: self.quantile_ms(0.99),
            writes_per_second: self.writes_per_second(clients),
        }
    }

    fn scaled(&self, share: f64) -> f64 {
        self.min_ms + (self.max_ms - self.min_ms) * share
    }

    /// The chance that at least q of n uniform numbers are below `x`.
    fn share_below(&self, x: f64) -> f64 {
        let n = i32::from(self.followers);
        let mut choices = 1.0;
        let mut sum = 0.0;
        for below in 0..=n {
            if below >= i32::from(self.quorum) {
                sum += choices * x.powi(below) * (1.0 - x).powi(n - below);
            }
            choices *= f64::from(n - below) / f64::from(below + 1);
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
    use rstest::rstest;

    use super::*;

    const LAB: Delay = Delay { min: Duration::from_millis(10), max: Duration::from_millis(150) };

    #[rstest]
    #[case(1, 33.3, 94.0, 361.0)]
    #[case(2, 56.7, 119.0, 212.0)]
    #[case(3, 80.0, 135.0, 150.0)]
    #[case(4, 103.3, 145.0, 116.0)]
    #[case(5, 126.7, 150.0, 94.7)]
    fn the_labs_limits(#[case] quorum: u8, #[case] mean: f64, #[case] p99: f64, #[case] rate: f64) {
        let found = Limit::new(LAB, quorum, 5).figures(12);
        assert!((found.mean - mean).abs() < 0.05, "{found:?}");
        assert!((found.p99 - p99).abs() < 1.0, "{found:?}");
        assert!((found.writes_per_second.expect("a delay") / rate - 1.0).abs() < 0.01, "{found:?}");
    }

    #[rstest]
    fn the_formulas_describe_what_is_drawn(#[values(1, 2, 3)] quorum: u8) {
        const WRITES: usize = 20_000;
        let mut generator = SmallRng::seed_from_u64(u64::from(quorum));
        let mut drawn: Vec<f64> = (0..WRITES)
            .map(|_| {
                let mut trips: Vec<f64> = (0..3).map(|_| generator.random_range(10.0..150.0)).collect();
                trips.sort_by(f64::total_cmp);
                trips[usize::from(quorum) - 1]
            })
            .collect();
        drawn.sort_by(f64::total_cmp);
        let limit = Limit::new(LAB, quorum, 3);
        let mean = drawn.iter().sum::<f64>() / WRITES as f64;
        let deviation = (drawn.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / WRITES as f64).sqrt();
        for (found, expected) in [
            (mean, limit.mean_ms()),
            (deviation, limit.deviation_ms()),
            (drawn[WRITES / 2], limit.quantile_ms(0.5)),
            (drawn[WRITES * 95 / 100], limit.quantile_ms(0.95)),
        ] {
            assert!((found - expected).abs() < 2.0, "{found} drawn, {expected} by the formula");
        }
    }

    #[test]
    fn without_a_delay_there_is_no_limit() {
        let found = Limit::new(Delay::ZERO, 3, 5).figures(12);
        assert!(found.mean.abs() < 1e-9 && found.p99.abs() < 1e-9, "{found:?}");
        assert_eq!(found.writes_per_second, None);
    }
}
