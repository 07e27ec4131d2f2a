//! What the leader reported lately: its counters only grow, and a page wants to see the last seconds.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use quorumkv_api::{
    NodeId,
    lab::{LatencyBucket, StatusReply},
};
use serde::Serialize;

/// What the distribution is shown of.
const DISTRIBUTION: Duration = Duration::from_secs(10);
/// What throughput and mean are shown of.
const MOMENT: Duration = Duration::from_secs(1);

/// Acknowledged writes: how many, how long in all, and how they are distributed.
#[derive(Debug, Clone, Default, PartialEq)]
struct Totals {
    count: u64,
    sum_ms: f64,
    /// By upper end in microseconds.
    buckets: BTreeMap<u64, u64>,
}

impl Totals {
    fn of(status: &StatusReply) -> Self {
        let latency = status.replication_latency;
        let buckets = status.latency_buckets.iter().flatten();
        Self {
            count: latency.count,
            sum_ms: latency.mean * latency.count as f64,
            buckets: buckets.map(|LatencyBucket { below_ms, count }| (micros(*below_ms), *count)).collect(),
        }
    }

    /// What was added since `earlier`; everything, if the node has begun again since.
    fn since(&self, earlier: &Self) -> Self {
        if self.count < earlier.count {
            return self.clone();
        }
        let before = |end: &u64| earlier.buckets.get(end).copied().unwrap_or_default();
        let added = self.buckets.iter().map(|(end, count)| (*end, count.saturating_sub(before(end))));
        Self {
            count: self.count - earlier.count,
            sum_ms: (self.sum_ms - earlier.sum_ms).max(0.0),
            buckets: added.filter(|(_, count)| *count > 0).collect(),
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a latency in microseconds is far below the largest number")]
fn micros(ms: f64) -> u64 {
    (ms * 1e3).round() as u64
}

#[derive(Debug)]
struct Step {
    until: Instant,
    took: Duration,
    added: Totals,
}

/// The last seconds.
#[derive(Debug, Default)]
pub(super) struct Window {
    steps: VecDeque<Step>,
    previous: Option<(NodeId, Instant, Totals)>,
}

/// How latencies were distributed.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub(super) struct Distribution {
    count: u64,
    mean: f64,
    median: f64,
    p95: f64,
    p99: f64,
    /// Lower end, upper end, number.
    buckets: Vec<(f64, f64, u64)>,
}

impl Window {
    /// Takes what the leader answered at `at`; the same answer twice is one.
    pub(super) fn note(&mut self, status: &StatusReply, at: Instant) {
        let totals = Totals::of(status);
        match &self.previous {
            Some((_, seen, _)) if *seen >= at => return,
            Some((node, seen, before)) if *node == status.node => {
                self.steps.push_back(Step { until: at, took: at - *seen, added: totals.since(before) });
            }
            // What another leader counted before nobody looked is not of this moment.
            _ => {}
        }
        self.previous = Some((status.node.clone(), at, totals));
        while self.steps.front().is_some_and(|step| at.saturating_duration_since(step.until) > DISTRIBUTION) {
            self.steps.pop_front();
        }
    }

    /// Acknowledged writes a second, and their mean latency in milliseconds if there were any.
    pub(super) fn moment(&self, now: Instant) -> (f64, Option<f64>) {
        let (mut took, mut count, mut sum_ms) = (Duration::ZERO, 0, 0.0);
        for step in self.within(now, MOMENT) {
            took += step.took;
            count += step.added.count;
            sum_ms += step.added.sum_ms;
        }
        if count == 0 {
            return (0.0, None);
        }
        (count as f64 / took.as_secs_f64().max(0.001), Some(sum_ms / count as f64))
    }

    /// How the latencies of the last seconds were distributed.
    pub(super) fn distribution(&self, now: Instant) -> Distribution {
        let mut sum = Totals::default();
        for step in self.within(now, DISTRIBUTION) {
            sum.count += step.added.count;
            sum.sum_ms += step.added.sum_ms;
            for (end, count) in &step.added.buckets {
                *sum.buckets.entry(*end).or_default() += count;
            }
        }
        if sum.count == 0 {
            return Distribution::default();
        }
        let ms = |micros: u64| micros as f64 / 1e3;
        Distribution {
            count: sum.count,
            mean: sum.sum_ms / sum.count as f64,
            median: quantile_ms(&sum.buckets, 0.5),
            p95: quantile_ms(&sum.buckets, 0.95),
            p99: quantile_ms(&sum.buckets, 0.99),
            buckets: sum.buckets.iter().map(|(end, count)| (ms(bucket_start(*end)), ms(*end), *count)).collect(),
        }
    }

    fn within(&self, now: Instant, span: Duration) -> impl Iterator<Item = &Step> {
        self.steps.iter().filter(move |step| now.saturating_duration_since(step.until) <= span)
    }
}

/// Lower end of the bucket with this upper end: sixteen of equal width lie between a power of two and the next.
fn bucket_start(end: u64) -> u64 {
    end - (1 << (end.saturating_sub(1).max(16).ilog2() - 4)).min(end)
}

fn quantile_ms(buckets: &BTreeMap<u64, u64>, quantile: f64) -> f64 {
    let wanted = buckets.values().sum::<u64>() as f64 * quantile;
    let mut passed = 0.0;
    for (end, count) in buckets {
        let (start, count) = (bucket_start(*end), *count as f64);
        if passed + count >= wanted {
            return (start as f64 + (*end - start) as f64 * (wanted - passed) / count) / 1e3;
        }
        passed += count;
    }
    0.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::tests::status;

    fn answer(node: &str, count: u64, mean: f64, buckets: &[(f64, u64)]) -> StatusReply {
        let mut reply = status(node);
        (reply.replication_latency.count, reply.replication_latency.mean) = (count, mean);
        let buckets = buckets.iter().map(|(below_ms, count)| LatencyBucket { below_ms: *below_ms, count: *count });
        reply.latency_buckets = Some(buckets.collect());
        reply
    }

    #[test]
    fn only_what_was_added_lately_counts() {
        let (mut window, start) = (Window::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        window.note(&answer("a", 1000, 80.0, &[(81.92, 1000)]), at(0));
        assert_eq!(window.moment(at(0)), (0.0, None), "what came before is not of this moment");
        window.note(&answer("a", 1100, 78.181_818_181_818_18, &[(61.44, 100), (81.92, 1000)]), at(500));
        window.note(&answer("a", 1100, 78.181_818_181_818_18, &[(61.44, 100), (81.92, 1000)]), at(500));
        let (rate, mean) = window.moment(at(600));
        assert!((rate - 200.0).abs() < 1e-6, "{rate}");
        assert!((mean.expect("some") - 60.0).abs() < 1e-6, "{mean:?}");
        let found = window.distribution(at(600));
        assert_eq!((found.count, found.buckets.as_slice()), (100, &[(59.392, 61.44, 100)][..]));
        assert!((found.median - 60.416).abs() < 1e-6, "{}", found.median);
        assert_eq!(window.moment(at(1600)), (0.0, None));
        assert_eq!(window.distribution(at(10_600)).count, 0);
    }

    #[test]
    fn a_leader_that_begins_again_or_another_one_takes_nothing_away() {
        let (mut window, start) = (Window::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        window.note(&answer("a", 500, 10.0, &[]), at(0));
        window.note(&answer("a", 20, 10.0, &[]), at(500));
        assert_eq!(window.distribution(at(500)).count, 20, "the settings changed");
        window.note(&answer("b", 9000, 10.0, &[]), at(750));
        assert_eq!(window.distribution(at(750)).count, 20, "b led before");
        window.note(&answer("b", 9001, 10.0, &[]), at(1000));
        assert_eq!(window.distribution(at(1000)).count, 21);
    }

    #[test]
    fn buckets_are_those_of_the_node() {
        for (end, start) in [(4, 3), (18, 17), (81_920, 77_824), (155_648, 147_456), (32, 31), (34, 32)] {
            assert_eq!(bucket_start(end), start, "{end}");
        }
    }
}
