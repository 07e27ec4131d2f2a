//! Data on volumes.

use std::time::{Duration, Instant};

use anyhow::ensure;
use quorumkv_tests::{kind::objects, load::Policy, wait::until};
use serde_json::json;

use super::{
    hibernate::claims,
    store::Store,
    world::{ASIDE, World},
};

const CLIENTS: usize = 4;
const WRITES: u64 = 100;
const WRITES_WITHIN: Duration = Duration::from_secs(30);

/// What memory does not survive: every process killed at once, amid writes.
pub(crate) async fn a_persistent_store_keeps_what_it_acknowledged_when_every_pod_is_killed(
    world: &World,
) -> anyhow::Result<()> {
    let kind = world.operator().await?;
    let store = Store::new(kind, ASIDE, "kept");
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

/// Volumes of the kind cluster cannot grow: that costs nobody anything, is said, and the wish can be taken back. Once
/// the KvCluster is gone its volumes are still there, for the next one of its name.
pub(crate) async fn volumes_that_cannot_grow_say_so_and_stay_when_the_store_is_deleted(
    world: &World,
) -> anyhow::Result<()> {
    let store = Store::new(world.operator().await?, ASIDE, "grower");
    let spec = json!({"followers": 1, "writeQuorum": 1, "storage": {"type": "Persistent", "size": "64Mi"}});
    store.apply(spec.clone()).await?;
    store.until_complete(Duration::from_mins(2)).await?;
    let limit = Duration::from_secs(30);
    store.until_condition("VolumesResized", "True", "AsSpecified", limit).await?;
    let (before, client, service) = (store.pods().await?, store.client()?, store.service().await?);
    let answer = client.set(&service.url(), "kept", "yes").await?;
    ensure!(answer.status == 200, "{} {}", answer.status, answer.text);

    store.patch(json!({"storage": {"size": "128Mi"}})).await?;
    let message = store.until_condition("VolumesResized", "False", "CannotGrow", limit).await?;
    ensure!(message.contains("storageclass") && message.contains("grower-0"), "it does not say why: {message}");
    ensure!(!store.told("VolumesCannotGrow").await?.is_empty(), "no event tells that the volumes cannot grow");
    store.until_complete(limit).await?;
    store.ensure_same_runs(&before).await?;
    let shrinks = store.patch(json!({"storage": {"size": "32Mi"}})).await;
    let refusal = shrinks.err().map(|error| format!("{error:#}")).unwrap_or_default();
    ensure!(refusal.contains("storage.size cannot shrink"), "a smaller size than the volumes have: {refusal:?}");
    store.patch(json!({"storage": {"size": "64Mi"}})).await?;
    store.until_condition("VolumesResized", "True", "AsSpecified", limit).await?;
    world.fact(format!("a larger volume, where none can grow: {message}"));

    store.kubectl(&["delete", "kvc", store.name]).await?;
    until("its pods are gone", limit, || async {
        let left = store.pods().await?;
        ensure!(left.is_empty(), "left: {:?}", left.keys());
        Ok(())
    })
    .await?;
    let volumes = claims(&store).await?;
    ensure!(volumes.len() == 2, "the volumes that shall stay are {:?}", volumes.keys());
    store.apply(spec).await?;
    store.until_complete(Duration::from_mins(2)).await?;
    let (content, _) = client.content(&store.service().await?.url()).await?;
    ensure!(content.contains_key("kept"), "the next store of that name holds {content:?}");
    store.kubectl(&["delete", "kvc", store.name]).await?;
    Ok(())
}
