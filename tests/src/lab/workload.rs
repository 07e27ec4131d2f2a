//! Writes of many clients at once, with a bar that moves, and what became of them.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Context as _;
use quorumkv_api::lab::LatencySummary;
use serde::Serialize;
use tokio::time::sleep;

use super::{
    checks::Checks,
    program::{Context, Failure},
    statistics::Summary,
    store::Store,
};
use crate::{
    history::{Action, Operation, Outcome},
    load::{Limit, Load},
};

/// How often the bar moves.
const TICK: Duration = Duration::from_millis(50);

/// So many writes by so many clients, on so many keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Workload {
    pub(super) writes: u64,
    pub(super) keys: usize,
    pub(super) clients: usize,
}

/// What became of a workload.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Measured {
    /// Writes that were acknowledged.
    pub acked: u64,
    /// Writes that were not, by what was answered.
    pub failed: BTreeMap<String, u64>,
    /// The least number of followers that had confirmed an acknowledged write.
    pub least_replicas: Option<usize>,
    /// From the first invocation to the last answer, in seconds.
    pub seconds: f64,
    /// Acknowledged writes a second.
    pub writes_per_second: f64,
    /// From a client's request to its answer, in milliseconds; nothing when no write was acknowledged.
    pub latency_ms: Option<Summary>,
    /// From append to answer, as the leader tells it.
    pub replication_latency_ms: Option<LatencySummary>,
    /// Every acknowledged latency, in milliseconds.
    #[serde(skip)]
    pub latencies_ms: Vec<f64>,
}

impl Workload {
    /// Runs it. Keys begin with `prefix`.
    pub(super) async fn run(
        &self,
        store: &Store,
        prefix: &str,
        label: &str,
        context: &Context,
    ) -> Result<Measured, Failure> {
        let Self { writes, keys, clients } = *self;
        let bar = context.bar(label, writes);
        let load = Load::new(store.target()).clients(clients).keys(prefix, keys).limit(Limit::Operations(writes));
        let running = load.start()?;
        while running.acked() + running.failed() < writes {
            bar.set_position(running.acked() + running.failed());
            sleep(TICK).await;
        }
        let report = running.finish().await?;
        bar.finish_and_clear();
        Ok(measured(&report.operations))
    }
}

impl Measured {
    /// Adds what the leader says of replication. It counts from the last change of settings.
    pub(super) async fn with_replication(mut self, store: &Store) -> Result<Self, Failure> {
        let status = store.status().await.context("the leader's own latencies")?;
        self.replication_latency_ms = Some(status.replication_latency).filter(|latency| latency.count > 0);
        Ok(self)
    }

    /// Adds up what failed.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.failed.values().sum()
    }

    /// Acknowledged writes, of a hundred.
    #[must_use]
    pub fn success_percent(&self) -> f64 {
        let all = self.acked + self.failures();
        if all == 0 { 0.0 } else { 100.0 * self.acked as f64 / all as f64 }
    }

    /// Checks that every write was acknowledged.
    pub(super) fn check_success(&self, name: String, writes: u64, checks: &mut Checks<'_>) {
        let reasons: Vec<String> =
            self.failed.iter().map(|(reason, count)| format!("{count} times {reason}")).collect();
        let seen = match reasons.as_slice() {
            [] => format!("{} acknowledged", self.acked),
            _ => format!("{} acknowledged; {}", self.acked, reasons.join("; ")),
        };
        checks.record(name, format!("{writes} writes acknowledged"), self.acked == writes, seen);
    }

    /// Checks that no write was acknowledged before its quorum had it.
    pub(super) fn check_replicas(&self, name: String, write_quorum: u8, checks: &mut Checks<'_>) {
        let least = self.least_replicas.unwrap_or(0);
        let expected = format!("every write on {write_quorum} followers or more");
        checks.record(name, expected, least >= usize::from(write_quorum), format!("the fewest were {least}"));
    }
}

fn measured(operations: &[Operation]) -> Measured {
    let acked: Vec<&Operation> = operations.iter().filter(|operation| operation.is_acked_write()).collect();
    let began = operations.iter().map(|operation| operation.invoked).min();
    let ended = operations.iter().map(|operation| operation.returned).max();
    let seconds = began.zip(ended).map_or(0.0, |(began, ended)| ended.since(began).as_secs_f64());
    let mut failed = BTreeMap::new();
    let mut least_replicas = None;
    for operation in operations {
        let Action::Write { outcome, .. } = &operation.action else { continue };
        match outcome {
            Outcome::Acked { replicas, .. } => {
                least_replicas = Some(least_replicas.map_or(*replicas, |least: usize| least.min(*replicas)));
            }
            Outcome::Refused { reason } => *failed.entry(reason.clone()).or_default() += 1,
            Outcome::Unknown { reason } => *failed.entry(format!("unknown outcome: {reason}")).or_default() += 1,
        }
    }
    Measured {
        acked: acked.len() as u64,
        failed,
        least_replicas,
        seconds,
        writes_per_second: if seconds > 0.0 { acked.len() as f64 / seconds } else { 0.0 },
        latency_ms: Summary::of(acked.iter().map(|operation| operation.latency())),
        replication_latency_ms: None,
        latencies_ms: acked.iter().map(|operation| operation.latency().as_secs_f64() * 1e3).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Moment;

    fn write(from_ms: u64, to_ms: u64, outcome: Outcome) -> Operation {
        let at = |ms: u64| Moment(1 + ms * 1_000_000);
        let action = Action::Write { value: "v".to_owned(), outcome };
        Operation { client: 0, key: "k".to_owned(), action, invoked: at(from_ms), returned: at(to_ms) }
    }

    #[test]
    fn only_acknowledged_writes_count_and_others_are_told_by_reason() {
        let acked = |replicas| Outcome::Acked { version: 1, replicas };
        let unknown = || Outcome::Unknown { reason: "500".to_owned() };
        let found = measured(&[
            write(0, 100, acked(4)),
            write(100, 400, acked(3)),
            write(400, 450, unknown()),
            write(450, 490, unknown()),
            write(490, 500, Outcome::Refused { reason: "403".to_owned() }),
        ]);
        assert_eq!((found.acked, found.failures(), found.least_replicas), (2, 3, Some(3)));
        assert_eq!(found.failed, BTreeMap::from([("403".to_owned(), 1), ("unknown outcome: 500".to_owned(), 2)]));
        assert!((found.seconds - 0.5).abs() < 1e-9 && (found.writes_per_second - 4.0).abs() < 1e-9, "{found:?}");
        assert!((found.latency_ms.expect("two").mean - 200.0).abs() < 1e-9, "{found:?}");
        assert!((found.success_percent() - 40.0).abs() < 1e-9);
    }

    #[test]
    fn nothing_acknowledged_has_no_latency() {
        let found = measured(&[write(0, 0, Outcome::Refused { reason: "no".to_owned() })]);
        assert_eq!((found.acked, found.latency_ms, found.least_replicas), (0, None, None));
        assert!(found.writes_per_second.abs() < f64::EPSILON);
    }
}
