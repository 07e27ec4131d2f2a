//! Two operators, of which one works.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use quorumkv_tests::kind::operator;
use serde_json::json;

use super::{
    store::Store,
    world::{FIRST, RELEASE, SECOND, SYSTEM, World},
};

const CLIENTS: usize = 8;
const WRITES: u64 = 100;
const WRITES_WITHIN: Duration = Duration::from_secs(30);
/// A Lease lasts 15 s, and who waits for it looks every few seconds.
const TAKEN_OVER_WITHIN: Duration = Duration::from_secs(40);

pub(crate) async fn the_active_operator_of_two_is_killed_and_the_other_takes_over(world: &World) -> anyhow::Result<()> {
    let store = world.ready_store().await?;
    scale(store, 2).await?;
    let outcome = take_over(world, store).await;
    // Whatever became of it, for the steps that follow. The one that works stays: another would wait for its Lease.
    let active = operator::pod(&store.kind, SYSTEM).await?;
    let keep = ["--namespace", SYSTEM, "annotate", "pod", &active, "controller.kubernetes.io/pod-deletion-cost=1"];
    store.kind.kubectl(keep).output().await?;
    scale(store, 1).await?;
    store.patch(json!({"writeQuorum": 3})).await?;
    outcome?;
    store.until_complete(Duration::from_mins(1)).await?;
    Ok(())
}

async fn take_over(world: &World, store: &Store) -> anyhow::Result<()> {
    let before = store.pods().await?;
    let service = store.service().await?;
    let load = store.load(&service, CLIENTS).start()?;
    load.acked_more(WRITES, WRITES_WITHIN).await.context("before the operator's end")?;
    let active = operator::pod(&store.kind, SYSTEM).await?;
    operator::kill(&store.kind, SYSTEM).await?;
    let killed = Instant::now();
    store.patch(json!({"writeQuorum": 5})).await?;
    store.wait_for_status("writeQuorum", 5, TAKEN_OVER_WITHIN).await.context("nobody took over")?;
    let took = killed.elapsed();
    let now = operator::pod(&store.kind, SYSTEM).await?;
    ensure!(now != active, "{now} works, which was killed");
    load.acked_more(WRITES, WRITES_WITHIN).await.context("after the operator's end")?;
    let report = load.stop().await?;
    report.expect_no_failure()?;
    store.ensure_same_runs(&before).await?;
    world.scenario("operator kill (the active one of two)", store, &report).await?;
    world.fact(format!("the active operator of two killed: the other applied a change {took:.1?} later"));
    Ok(())
}

/// With rights in those namespaces and in no other.
pub(crate) async fn an_operator_of_some_namespaces_leaves_all_others_alone(world: &World) -> anyhow::Result<()> {
    let store = world.ready_store().await?;
    let before = store.pods().await?;
    let elsewhere = Store::new(&store.kind, "default", "elsewhere");
    store.kind.upgrade(RELEASE, SYSTEM, &[&format!("watchNamespaces={{{FIRST},{SECOND}}}")]).await?;
    let outcome = async {
        let account = format!("system:serviceaccount:{SYSTEM}:quorumkv-operator");
        for (namespace, expected) in [(FIRST, true), (SECOND, true), ("default", false)] {
            let ask = ["--namespace", namespace, "auth", "can-i", "patch", "pods", "--as", &account];
            let may = store.kind.kubectl(ask).output().await.is_ok();
            ensure!(may == expected, "whether the operator may patch pods in {namespace}: {may}");
        }
        elsewhere.apply(json!({})).await?;
        // It works here, and with that it has looked.
        for quorum in [2, 3] {
            store.patch(json!({"writeQuorum": quorum})).await?;
            store.wait_for_status("writeQuorum", quorum, TAKEN_OVER_WITHIN).await?;
        }
        store.until_complete(Duration::from_mins(1)).await?;
        let status = elsewhere.get().await?.data["status"].clone();
        ensure!(status.is_null(), "a KvCluster that nobody watches has the status {status}");
        ensure!(elsewhere.pods().await?.is_empty(), "a KvCluster that nobody watches has pods");
        store.ensure_same_runs(&before).await
    }
    .await;
    elsewhere.kubectl(&["delete", "kvc", elsewhere.name, "--ignore-not-found"]).await?;
    outcome
}

async fn scale(store: &Store, replicas: u32) -> anyhow::Result<()> {
    let scale = format!("--replicas={replicas}");
    store.kind.kubectl(["--namespace", SYSTEM, "scale", "deployment/quorumkv-operator", &scale]).output().await?;
    operator::until_up(&store.kind, SYSTEM).await
}
