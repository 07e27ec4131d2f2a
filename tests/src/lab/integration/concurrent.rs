//! Concurrent writes: none fails, none is lost, and all replicas agree.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};

use crate::{
    history::{Action, Operation, Outcome},
    lab::{checks::Checks, store::Store},
    load::{Limit, Load, Report},
};

/// Few, so that clients write the same ones at once.
const KEYS: usize = 10;

/// Many clients write the same few keys at once.
pub(super) async fn writes(store: &Store, run: &str, writes: u64, clients: usize, checks: &mut Checks<'_>) {
    let name = format!("{writes} concurrent writes");
    let load = Load::new(store.target()).clients(clients).keys(run, KEYS).limit(Limit::Operations(writes));
    let report = match load.run().await {
        Ok(report) => report,
        Err(error) => return checks.observed(name, "all acknowledged", Err(error)),
    };
    let seen = report.expect_no_failure().map(|()| {
        let (acked, latencies) = (report.acked(), report.latencies());
        let p99 = latencies.percentile_ms(99.0);
        format!("{acked} by {clients} clients, mean {:.1} ms, p99 {p99:.1} ms", latencies.mean_ms())
    });
    checks.observed(name, "all acknowledged", seen);
    let expected = "of each key, the write with the highest version";
    checks.observed("the last write wins", expected, last_writes(store, &report).await);
}

async fn last_writes(store: &Store, report: &Report) -> anyhow::Result<String> {
    let mut last: BTreeMap<&str, (u64, &str)> = BTreeMap::new();
    for Operation { key, action, .. } in &report.operations {
        let Action::Write { value, outcome: Outcome::Acked { version, .. } } = action else { continue };
        let latest = last.entry(key.as_str()).or_default();
        *latest = (*latest).max((*version, value.as_str()));
    }
    ensure!(!last.is_empty(), "no write was acknowledged");
    let unknown = report.failed().count();
    for (key, (version, value)) in &last {
        let answer = store.client.get(&store.leader().url, key, "").await.with_context(|| (*key).to_owned())?;
        let found = answer.body["version"].as_u64().unwrap_or_default();
        // A write of unknown outcome may have come after the last one that was acknowledged.
        let good = if unknown == 0 { found == *version && answer.body["value"] == *value } else { found >= *version };
        ensure!(good, "{key} was last written at version {version}; read: {}", answer.text);
    }
    Ok(format!("{} keys, each as it was written last", last.len()))
}
