//! A store that sleeps.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::ensure;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::{Api, api::ListParams};
use quorumkv_tests::{kind::objects, load::Policy, wait::until};
use serde_json::json;

use super::{
    store::Store,
    world::{ASIDE, World},
};

/// Few: while nobody leads, each of them has the API server looked at for somebody to connect to.
const CLIENTS: usize = 2;
const WRITES: u64 = 100;
const WRITES_WITHIN: Duration = Duration::from_secs(30);
/// How long a client tries one write: longer than the store sleeps.
const PATIENCE: Duration = Duration::from_mins(2);
/// A store that sleeps and is written to would show by then.
const QUIET: Duration = Duration::from_secs(5);

/// Clients go on all the time; asleep, nobody answers them.
pub(crate) async fn a_store_sleeps_and_wakes_up_with_everything_under_load(world: &World) -> anyhow::Result<()> {
    let kind = world.operator().await?;
    let store = Store::new(kind, ASIDE, "sleeper");
    let storage = json!({"type": "Persistent", "size": "64Mi", "whenDeleted": "Delete"});
    store.apply(json!({"followers": 3, "writeQuorum": 2, "storage": storage})).await?;
    let before = objects::recorded_copies(&store.until_complete(Duration::from_mins(2)).await?);
    let service = store.service().await?;
    let load = store.load(&service, CLIENTS).policy(Policy::Follow { patience: PATIENCE });
    let load = load.request_ids().reads_percent(20).start()?;
    load.acked_more(WRITES, WRITES_WITHIN).await?;

    let began = Instant::now();
    store.patch(json!({"hibernated": true})).await?;
    store.until_condition("Ready", "False", "Hibernated", Duration::from_mins(1)).await?;
    let asleep_after = began.elapsed();
    let cluster = store.get().await?;
    for kind in ["QuorumAvailable", "Degraded", "Progressing"] {
        let [holds, reason, message] = objects::condition(&cluster, kind);
        ensure!((holds, reason) == ("False", "Hibernated"), "condition {kind} is {holds}: {reason}: {message}");
    }
    ensure!(cluster.data["status"]["leader"].is_null(), "{} leads asleep", cluster.data["status"]["leader"]);
    let pods = store.pods().await?;
    ensure!(pods.is_empty(), "pods run asleep: {:?}", pods.keys());
    let acked = load.acked();
    tokio::time::sleep(QUIET).await;
    ensure!(load.acked() == acked, "{} writes were acknowledged asleep", load.acked() - acked);
    let later = store.get().await?;
    ensure!(later.metadata.resource_version == cluster.metadata.resource_version, "it is written to: {}", later.data);
    ensure!(claims(&store).await?.len() == 4, "there are not 4 volumes: {:?}", claims(&store).await?.keys());

    let began = Instant::now();
    store.patch(json!({"hibernated": false})).await?;
    let cluster = store.until_complete(Duration::from_mins(2)).await?;
    let awake_after = began.elapsed();
    let after = objects::recorded_copies(&cluster);
    ensure!(before == after, "copies on volumes are the same ones: {after:?}, before {before:?}");
    load.acked_more(WRITES, WRITES_WITHIN).await?;
    let report = load.stop().await?;
    report.expect_no_failure()?;
    for reason in ["Hibernating", "Hibernated", "Waking"] {
        until(&format!("an event {reason}"), Duration::from_secs(10), || async {
            ensure!(!store.told(reason).await?.is_empty(), "there is none");
            Ok(())
        })
        .await?;
    }
    let notes = store.told("Hibernated").await?;
    ensure!(notes.iter().any(|note| note.contains("every node holds everything")), "not settled: {notes:?}");
    world.fact(format!(
        "hibernated under load: asleep after {asleep_after:.1?}, complete {awake_after:.1?} after it was woken; no write \
         acknowledged for {:.1?}, {} acknowledged, none failed",
        report.longest_gap(),
        report.acked(),
    ));
    world.scenario("hibernate and wake", &store, &report).await?;

    // It said that its volumes go with it.
    store.kubectl(&["delete", "kvc", store.name]).await?;
    until("the volumes are gone", Duration::from_mins(1), || async {
        let left = claims(&store).await?;
        ensure!(left.is_empty(), "left: {:?}", left.keys());
        Ok(())
    })
    .await
}

/// The claims of a store's volumes, by name.
pub(crate) async fn claims(store: &Store) -> anyhow::Result<BTreeMap<String, PersistentVolumeClaim>> {
    let api: Api<PersistentVolumeClaim> = Api::namespaced(store.kind.client.clone(), store.namespace);
    let selector = format!("app.kubernetes.io/instance={}", store.name);
    let found = api.list(&ListParams::default().labels(&selector)).await?;
    Ok(found.into_iter().map(|claim| (claim.metadata.name.clone().unwrap_or_default(), claim)).collect())
}
