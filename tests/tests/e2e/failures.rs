//! Nodes that go away, under load.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use quorumkv_tests::{
    history,
    kind::objects,
    load::{Limit, Policy, Report},
    wait::until,
};
use serde_json::json;

use super::{
    settings::{kill_operator, until_operator_is_up},
    store::Store,
    world::World,
};

const CLIENTS: usize = 8;
const WRITES: u64 = 100;
const WRITES_WITHIN: Duration = Duration::from_secs(30);
/// How long one client tries one write, and the longest pause that a failover may make.
const PATIENCE: Duration = Duration::from_secs(60);
const OUTAGE_LIMIT: Duration = Duration::from_secs(20);
/// The same without an operator to begin with: it has to be started, and must wait for the Lease of the old one.
const OUTAGE_LIMIT_WITHOUT_OPERATOR: Duration = Duration::from_secs(60);

/// With every machine closed to new pods, a deleted follower stays away for as long as it shall.
pub(crate) async fn a_write_without_its_quorum_waits_and_then_says_so(world: &World) -> anyhow::Result<()> {
    let store = world.ready_store().await?;
    store.patch(json!({"writeQuorum": 5})).await?;
    store.wait_for_status("writeQuorum", 5, Duration::from_secs(5)).await?;
    let machine = machine_of(store).await?;
    store.kind.kubectl(["cordon", &machine]).output().await?;
    let outcome = without_a_follower(world, store, &machine).await;
    // Whatever became of it, for the steps that follow.
    store.kind.kubectl(["uncordon", &machine]).output().await?;
    store.patch(json!({"writeQuorum": 3})).await?;
    outcome?;
    store.until_complete(Duration::from_mins(1)).await?;
    Ok(())
}

async fn without_a_follower(world: &World, store: &Store, machine: &str) -> anyhow::Result<()> {
    let (client, service) = (store.client()?, store.service().await?);
    let follower = store.a_follower().await?;
    store.delete_pod(&follower).await?;
    until(&format!("pod {follower} is not running"), Duration::from_secs(30), || async {
        match store.pods().await?.get(&follower) {
            Some(pod) if pod.ready => bail!("it is {pod:?}"),
            _ => Ok(()),
        }
    })
    .await?;
    let began = Instant::now();
    let answer = client.set(&service.url(), "beyond-quorum", "1").await?;
    let waited = began.elapsed();
    let expected = answer.status == 500 && answer.body["error"] == "Quorum not reached";
    ensure!(expected, "after {waited:?}: {} {}", answer.status, answer.text);
    ensure!(answer.body["replicas"].as_u64() < Some(5), "{}", answer.text);
    let allowed = Duration::from_millis(4500)..Duration::from_millis(7000);
    ensure!(allowed.contains(&waited), "writeTimeout is 5 s, the answer came after {waited:?}");
    until("the status says that the quorum is not available", Duration::from_secs(10), || async {
        let cluster = store.get().await?;
        for kind in ["QuorumAvailable", "Ready"] {
            let [status, reason, message] = objects::condition(&cluster, kind);
            ensure!(status == "False", "condition {kind} is {status:?}: {reason}: {message}");
            ensure!(message.contains("4 of 5"), "condition {kind} does not say how many are there: {message}");
        }
        Ok(())
    })
    .await?;

    // The next write is under way when the follower may come back.
    let waiting = tokio::spawn({
        let (client, url) = (client.clone(), service.url());
        async move { (Instant::now(), client.set(&url, "back-again", "1").await, Instant::now()) }
    });
    store.kind.kubectl(["uncordon", machine]).output().await?;
    let (began, answer, ended) = waiting.await?;
    let answer = answer?;
    let quorum = answer.status == 200 && answer.body["replicas"] == 5;
    let timeout = answer.status == 500 && answer.body["error"] == "Quorum not reached";
    ensure!(quorum || timeout, "{} {}", answer.status, answer.text);
    world.fact(format!(
        "at quorum 5 without a follower: \"Quorum not reached\" after {waited:.1?}; a write while it came back: {} after {:.1?}",
        answer.status.as_u16(),
        ended - began,
    ));
    until("writes at quorum 5 succeed again", Duration::from_mins(1), || async {
        let answer = client.set(&service.url(), "back-again", "2").await?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.text);
        Ok(())
    })
    .await
}

async fn machine_of(store: &Store) -> anyhow::Result<String> {
    let pods: Api<Pod> = Api::namespaced(store.kind.client.clone(), store.namespace);
    let pod = pods.get(&store.leader().await?).await?;
    pod.spec.and_then(|spec| spec.node_name).context("the leader's pod runs nowhere")
}

pub(crate) async fn a_follower_is_deleted_under_load_and_no_write_fails(world: &World) -> anyhow::Result<()> {
    let store = world.ready_store().await?;
    let before = store.pods().await?;
    let copies = objects::recorded_copies(&store.get().await?);
    let service = store.service().await?;
    let load = store.load(&service, CLIENTS).start()?;
    load.acked_more(WRITES, WRITES_WITHIN).await?;
    let follower = store.a_follower().await?;
    let deleted = store.delete_pod(&follower).await?;
    until(&format!("the new copy of {follower} is recorded"), Duration::from_mins(1), || async {
        let now = objects::recorded_copies(&store.get().await?);
        ensure!(now.get(&follower).is_some_and(|copy| copies.get(&follower) != Some(copy)), "recorded: {now:?}");
        Ok(())
    })
    .await?;
    let cluster = store.until_complete(Duration::from_mins(1)).await?;
    let back = deleted.elapsed();
    load.acked_more(WRITES, WRITES_WITHIN).await?;
    let report = load.stop().await?;
    report.expect_no_failure()?;
    for (name, copy) in objects::recorded_copies(&cluster) {
        ensure!(
            (copies.get(&name) == Some(&copy)) == (name != follower),
            "{name} is recorded as {copy}, was {copies:?}"
        );
    }
    for (name, pod) in store.pods().await? {
        let same = before.get(&name).is_some_and(|before| before.run() == pod.run());
        ensure!(same == (name != follower), "{name} is {pod:?}, was {before:?}");
    }
    ensure_content(store, &report).await?;
    world.fact(format!(
        "follower deleted at quorum 3 under load: counted again after {back:.1?}, no failed write of {}, longest gap {:.0?}",
        report.acked(),
        report.longest_gap(),
    ));
    Ok(())
}

pub(crate) async fn the_leader_is_deleted_under_load_and_no_acknowledged_write_is_lost(
    world: &World,
) -> anyhow::Result<()> {
    let store = world.ready_store().await?;
    let report = fail_over(store, OUTAGE_LIMIT, || async { Ok(()) }).await?;
    fact(world, "leader deleted", &report);
    Ok(())
}

pub(crate) async fn leader_and_operator_are_deleted_together_and_no_acknowledged_write_is_lost(
    world: &World,
) -> anyhow::Result<()> {
    let store = world.ready_store().await?;
    let report = fail_over(store, OUTAGE_LIMIT_WITHOUT_OPERATOR, || kill_operator(store)).await?;
    until_operator_is_up(store).await?;
    fact(world, "leader deleted and operator killed", &report);
    Ok(())
}

fn fact(world: &World, what: &str, report: &Report) {
    world.fact(format!(
        "{what} under load: no write acknowledged for {:.2?}; {} acknowledged, {} not, {} reads, none lost",
        report.longest_gap(),
        report.acked(),
        report.failed().count(),
        report.reads(),
    ));
}

/// Deletes the leader under load, with `also` in the same moment.
async fn fail_over<Also: Future<Output = anyhow::Result<()>>>(
    store: &Store,
    outage_limit: Duration,
    also: impl FnOnce() -> Also,
) -> anyhow::Result<Report> {
    let cluster = store.get().await?;
    let epoch = cluster.data["status"]["epoch"].as_i64().context("no epoch")?;
    let leader = store.leader().await?;
    let service = store.service().await?;
    let load = store
        .load(&service, CLIENTS)
        .limit(Limit::Endless)
        .policy(Policy::Follow { patience: PATIENCE })
        .reads_percent(20)
        .start()?;
    load.acked_more(WRITES, WRITES_WITHIN).await?;
    let (deleted, also) = tokio::join!(store.delete_pod(&leader), also());
    deleted?;
    also?;
    until("another leader is named", Duration::from_mins(1), || async {
        let status = store.get().await?.data["status"].take();
        let named = status["leader"].as_str().is_some_and(|name| !name.is_empty());
        ensure!(
            named && status["epoch"].as_i64() > Some(epoch),
            "leader {}, epoch {}",
            status["leader"],
            status["epoch"]
        );
        Ok(())
    })
    .await?;
    load.acked_more(WRITES, outage_limit + WRITES_WITHIN).await.context("after the failover")?;
    // The old leader's pod comes back, as one of the others.
    store.until_complete(Duration::from_mins(1)).await?;
    let report = load.stop().await?;
    ensure_content(store, &report).await?;
    let gap = report.longest_gap();
    ensure!(gap <= outage_limit, "no write was acknowledged for {gap:?}; {outage_limit:?} is allowed");
    Ok(report)
}

/// What clients saw is what one correct register per key could have answered, nothing acknowledged is missing
/// at the end, and all nodes end up with the same.
async fn ensure_content(store: &Store, report: &Report) -> anyhow::Result<()> {
    let (client, service) = (store.client()?, store.service().await?);
    history::check_with_content(&report.operations, &client.final_values(&service.url()).await?)?;
    let mut tunnels = BTreeMap::new();
    for name in store.pods().await?.into_keys() {
        let tunnel = store.pod(&name).await?;
        tunnels.insert(name, tunnel);
    }
    until("every node holds what the leader holds", Duration::from_secs(10), || async {
        let wanted = client.content(&service.url()).await?;
        for (name, tunnel) in &tunnels {
            let (content, version) = client.content(&tunnel.url()).await?;
            ensure!(content == wanted.0, "{name} differs, at version {version} of {}", wanted.1);
        }
        Ok(())
    })
    .await
}
