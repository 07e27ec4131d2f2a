//! Followers that come and go while clients write: by a patch and by `kubectl scale`.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, ensure};
use quorumkv_tests::{history, kind::objects::PodSeen};
use serde_json::json;

use super::{store::Store, world::World};

const CLIENTS: usize = 8;
const WRITES: u64 = 200;
const WRITES_WITHIN: Duration = Duration::from_secs(60);
/// Pods are made and fetch everything one after the other.
const SCALED_WITHIN: Duration = Duration::from_secs(100);

pub(crate) async fn followers_come_and_go_under_load_and_no_acknowledged_write_is_lost(
    world: &World,
) -> anyhow::Result<()> {
    let store = world.ready_store().await?;
    let before = store.pods().await?;
    let service = store.service().await?;
    let load = store.load(&service, CLIENTS).start()?;
    load.acked_more(WRITES, WRITES_WITHIN).await.context("before the first change")?;

    store.patch(json!({"followers": 7})).await?;
    let grown = store.wait_for_status("followers", 7, SCALED_WITHIN).await?;
    store.until_complete(SCALED_WITHIN).await?;
    ensure_same(&before, &store.pods().await?, 6)?;
    load.acked_more(WRITES, WRITES_WITHIN).await.context("with seven followers")?;

    store.kubectl(&["scale", "kvc/demo", "--replicas=3"]).await?;
    let shrunk = store.wait_for_status("followers", 3, SCALED_WITHIN).await?;
    until_pods(store, 4).await?;
    store.until_complete(SCALED_WITHIN).await?;
    load.acked_more(WRITES, WRITES_WITHIN).await.context("with three followers")?;
    let report = load.stop().await?;
    history::check(&report.operations)?;
    world.scenario("scale 5->7->3", store, &report).await?;
    world.fact(format!("5 followers became 7 in {grown:.1?} (kubectl patch), and 3 in {shrunk:.1?} (kubectl scale)"));

    // As the next steps expect it.
    store.kubectl(&["scale", "kvc/demo", "--replicas=5"]).await?;
    store.wait_for_status("followers", 5, SCALED_WITHIN).await?;
    store.until_complete(SCALED_WITHIN).await?;
    Ok(())
}

pub(crate) async fn fewer_followers_than_the_quorum_needs_are_refused(world: &World) -> anyhow::Result<()> {
    let store = world.ready_store().await?;
    let before = store.get().await?.data["spec"].clone();
    for change in [
        ["scale", "kvc/demo", "--replicas=2"].as_slice(),
        &["patch", "kvc/demo", "--type=merge", "--patch", r#"{"spec":{"followers":2}}"#],
    ] {
        let refusal = store.kubectl(change).await.err().context("two followers for a quorum of three")?;
        let sentence = "lower writeQuorum to the number of followers or less";
        ensure!(format!("{refusal:#}").contains(sentence), "{change:?}: {refusal:#}");
    }
    let scale = store.kubectl(&["get", "kvc/demo", "--subresource=scale", "--output=json"]).await?;
    let scale: serde_json::Value = serde_json::from_str(&scale).context("JSON")?;
    ensure!(scale["spec"]["replicas"] == 5 && scale["status"]["replicas"] == 5, "{scale}");
    let selector = scale["status"]["selector"].as_str().unwrap_or_default();
    ensure!(selector.contains("app.kubernetes.io/instance=demo"), "{scale}");
    let after = store.get().await?.data["spec"].clone();
    ensure!(after == before, "the spec was {before} and is {after}");
    Ok(())
}

/// The first pods are the same runs as before: nobody restarts for others that come.
fn ensure_same(
    before: &BTreeMap<String, PodSeen>,
    now: &BTreeMap<String, PodSeen>,
    count: usize,
) -> anyhow::Result<()> {
    for (name, pod) in before.iter().take(count) {
        let now = now.get(name).with_context(|| format!("{name} is gone"))?;
        ensure!(pod.run() == now.run(), "{name} was {pod:?} and is {now:?}");
    }
    Ok(())
}

async fn until_pods(store: &Store, count: usize) -> anyhow::Result<()> {
    quorumkv_tests::wait::until("pods of nodes that have left are gone", SCALED_WITHIN, || async {
        let pods = store.pods().await?;
        ensure!(pods.len() == count, "{:?}", pods.keys());
        Ok(())
    })
    .await
}
