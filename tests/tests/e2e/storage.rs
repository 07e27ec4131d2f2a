//! Data on volumes.

use std::time::{Duration, Instant};

use anyhow::ensure;
use quorumkv_tests::{kind::objects, load::Policy};
use serde_json::json;

use super::{
    store::Store,
    world::{SECOND, World},
};

const CLIENTS: usize = 4;
const WRITES: u64 = 100;
const WRITES_WITHIN: Duration = Duration::from_secs(30);

/// What memory does not survive: every process killed at once, amid writes.
pub(crate) async fn a_persistent_store_keeps_what_it_acknowledged_when_every_pod_is_killed(
    world: &World,
) -> anyhow::Result<()> {
    let kind = world.operator().await?;
    let store = Store::new(kind, SECOND, "kept");
    let began = Instant::now();
    store.apply(json!({"followers": 3, "writeQuorum": 2, "storage": {"type": "Persistent", "size": "64Mi"}})).await?;
    store.until_complete(Duration::from_mins(2)).await?;
    let ready = began.elapsed();
    let (before, copies) = (store.pods().await?, objects::recorded_copies(&store.get().await?));

    let service = store.service().await?;
    let policy = Policy::Follow { patience: Duration::from_mins(1) };
    let load = store.load(&service, CLIENTS).policy(policy).reads_percent(20).start()?;
    load.acked_more(WRITES, WRITES_WITHIN).await?;
    let instance = format!("--selector=app.kubernetes.io/instance={}", store.name);
    store.kubectl(&["delete", "pod", &instance, "--grace-period=0", "--force"]).await?;
    load.acked_more(WRITES, Duration::from_mins(1)).await?;
    let cluster = store.until_complete(Duration::from_mins(1)).await?;
    let report = load.stop().await?;
    world.scenario("pod kill (all, on volumes)", &store, &report).await?;
    let after = store.pods().await?;
    for (name, pod) in &after {
        ensure!(before.get(name).is_none_or(|old| old.uid != pod.uid), "{name} was not killed");
    }
    let copies_after = objects::recorded_copies(&cluster);
    ensure!(copies == copies_after, "copies on volumes are the same ones: {copies_after:?}, before {copies:?}");
    world.fact(format!(
        "Persistent store Ready after {ready:.1?}; every pod killed under load: no write acknowledged for {:.2?}; \
         {} acknowledged, {} not, none lost",
        report.longest_gap(),
        report.acked(),
        report.failed().count(),
    ));
    store.kubectl(&["delete", "kvc", store.name]).await?;
    Ok(())
}
