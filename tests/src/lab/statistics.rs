//! Statistics of latencies, exact: every sample is kept.

use std::time::Duration;

use serde::Serialize;

/// What a set of latencies looks like. Everything but `count` is in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Summary {
    /// Number of samples; at least one.
    pub count: usize,
    /// The shortest.
    pub min: f64,
    /// Arithmetic mean.
    pub mean: f64,
    /// 50th percentile.
    pub median: f64,
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile.
    pub p99: f64,
    /// The longest.
    pub max: f64,
    /// Standard deviation of the samples (with n - 1); zero for a single one.
    pub deviation: f64,
}

impl Summary {
    /// Summarizes; `None` when there is nothing.
    #[must_use]
    pub fn of(latencies: impl IntoIterator<Item = Duration>) -> Option<Self> {
        let mut ms: Vec<f64> = latencies.into_iter().map(|latency| latency.as_secs_f64() * 1e3).collect();
        ms.sort_by(f64::total_cmp);
        let (min, max) = (*ms.first()?, *ms.last()?);
        let count = ms.len();
        let mean = ms.iter().sum::<f64>() / count as f64;
        let squares: f64 = ms.iter().map(|value| (value - mean).powi(2)).sum();
        let deviation = if count > 1 { (squares / (count - 1) as f64).sqrt() } else { 0.0 };
        let at = |share| percentile(&ms, share);
        Some(Self { count, min, mean, median: at(0.5), p95: at(0.95), p99: at(0.99), max, deviation })
    }
}

/// The value at `share` of the way through sorted values, interpolated between its two neighbours.
///
/// # Panics
/// When there are no values.
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let place = share * (sorted.len() - 1) as f64;
    #[expect(clippy::cast_possible_truncation, reason = "an index between zero and len - 1")]
    let (below, above) = (place.floor() as usize, place.ceil() as usize);
    sorted[below] + (sorted[above] - sorted[below]) * place.fract()
}

/// Counts samples in `bins` ranges of equal width that begin at zero and hold all of them. Gives the width,
/// rounded up to a number that reads well (1, 2 or 5 times a power of ten), and the counts.
#[must_use]
pub fn histogram(ms: &[f64], bins: usize) -> (f64, Vec<usize>) {
    let longest = ms.iter().copied().fold(0.0, f64::max);
    let width = round_up(longest / bins as f64);
    let mut counts = vec![0; bins];
    for value in ms {
        #[expect(clippy::cast_possible_truncation, reason = "latencies are not negative")]
        let bin = (value / width) as usize;
        counts[bin.min(bins - 1)] += 1;
    }
    while counts.len() > 1 && counts.last() == Some(&0) {
        counts.pop();
    }
    (width, counts)
}

/// The least of 1, 2, 5, 10, 20, ... (and 0.5, 0.2, 0.1, ...) that is not below `value`.
#[must_use]
pub fn round_up(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let power = 10_f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0];
    let fits = |step: &&f64| *step * power >= value * (1.0 - 1e-9);
    steps.iter().find(fits).unwrap_or(&10.0) * power
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn close(found: f64, expected: f64) -> bool {
        (found - expected).abs() < 1e-6
    }

    #[test]
    fn nothing_has_no_summary() {
        assert_eq!(Summary::of([]), None);
    }

    #[test]
    fn a_single_sample_is_all_of_it() {
        let ms = 7.0;
        let one = Summary { count: 1, min: ms, mean: ms, median: ms, p95: ms, p99: ms, max: ms, deviation: 0.0 };
        assert_eq!(Summary::of([Duration::from_millis(7)]), Some(one));
    }

    #[test]
    fn the_numbers_are_those_of_a_textbook() {
        // 1, 2, ..., 100 ms, not in order.
        let summary = Summary::of((1..=100).rev().map(Duration::from_millis)).expect("a hundred");
        assert_eq!((summary.count, summary.min, summary.max), (100, 1.0, 100.0));
        for (found, expected) in [
            (summary.mean, 50.5),
            (summary.median, 50.5),
            (summary.p95, 95.05),
            (summary.p99, 99.01),
            (summary.deviation, 29.011_491_975_882_016),
        ] {
            assert!(close(found, expected), "{found} instead of {expected}");
        }
    }

    #[rstest]
    #[case(0.03, 0.05)]
    #[case(1.0, 1.0)]
    #[case(1.1, 2.0)]
    #[case(3.0, 5.0)]
    #[case(6.0, 10.0)]
    #[case(150.0, 200.0)]
    #[case(0.0, 1.0)]
    fn widths_read_well(#[case] value: f64, #[case] expected: f64) {
        assert!(close(round_up(value), expected), "{}", round_up(value));
    }

    #[test]
    fn a_histogram_holds_every_sample() {
        let (width, counts) = histogram(&[0.0, 9.9, 10.0, 11.0, 48.0, 50.0], 5);
        assert!(close(width, 10.0), "{width}");
        assert_eq!(counts, [2, 2, 0, 0, 2], "the last range takes its upper end");
    }

    proptest! {
        #[test]
        fn quantiles_are_in_order(micros in prop::collection::vec(0_u64..10_000_000, 1..200)) {
            let summary = Summary::of(micros.iter().copied().map(Duration::from_micros)).expect("at least one");
            let Summary { count, min, mean, median, p95, p99, max, deviation } = summary;
            prop_assert_eq!(count, micros.len());
            prop_assert!(min <= median && median <= p95 && p95 <= p99 && p99 <= max);
            prop_assert!(min <= mean + 1e-9 && mean <= max + 1e-9);
            prop_assert!(deviation >= 0.0 && deviation <= (max - min) + 1e-9);
            let (_, counts) = histogram(&[min, mean, max], 8);
            prop_assert_eq!(counts.iter().sum::<usize>(), 3);
        }
    }
}
