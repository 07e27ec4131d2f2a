//! Nodes that go away, under load.

use std::{
    collections::BTreeMap,
    pin::pin,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use quorumkv_tests::{
    client::{Answer, LabClient},
    history,
    kind::{objects, tunnel::Tunnel},
    load::{Policy, Report},
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
    let machine = machine_of(store).await?;
    let outcome = without_a_follower(world, store, &machine).await;
    // Whatever became of it, for the steps that follow.
    store.kind.kubectl(["uncordon", &machine]).output().await?;
    store.patch(json!({"writeQuorum": 3, "writeTimeout": "5s"})).await?;
    outcome?;
    store.until_complete(Duration::from_mins(1)).await?;
    Ok(())
}

async fn without_a_follower(world: &World, store: &Store, machine: &str) -> anyhow::Result<()> {
    let (client, service) = (LabClient::new(Duration::from_mins(1))?, store.service().await?);
    // A write that has time waits until the follower is back.
    store.patch(json!({"writeQuorum": 5, "writeTimeout": "40s"})).await?;
    store.until_complete(Duration::from_secs(10)).await?;
    take_a_follower_away(store, machine).await?;
    let url = service.url();
    let mut waiting = pin!(client.set(&url, "patient", "1"));
    if let Ok(answer) = tokio::time::timeout(Duration::from_secs(1), &mut waiting).await {
        bail!("a write at quorum 5 with four followers was answered: {answer:?}");
    }
    let back = Instant::now();
    store.kind.kubectl(["uncordon", machine]).output().await?;
    let answer = waiting.await?;
    ensure!(answer.status == 200 && answer.body["replicas"] == 5, "{} {}", answer.status, answer.text);
    let back = back.elapsed();
    store.until_complete(Duration::from_mins(1)).await?;

    // One that has not says what is missing.
    store.patch(json!({"writeTimeout": "3s"})).await?;
    store.until_complete(Duration::from_secs(10)).await?;
    take_a_follower_away(store, machine).await?;
    let began = Instant::now();
    let answer = client.set(&service.url(), "impatient", "1").await?;
    let waited = began.elapsed();
    let expected = answer.status == 500 && answer.body["error"] == "Quorum not reached";
    ensure!(expected, "after {waited:?}: {} {}", answer.status, answer.text);
    ensure!(answer.body["replicas"].as_u64() < Some(5), "{}", answer.text);
    let allowed = Duration::from_millis(2900)..Duration::from_millis(4500);
    ensure!(allowed.contains(&waited), "writeTimeout is 3 s, the answer came after {waited:?}");
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
    world.fact(format!(
        "at quorum 5 with four followers: a write waited, and was answered {back:.1?} after the fifth could come back; \
         with writeTimeout 3s \"Quorum not reached\" came after {waited:.2?}"
    ));
    Ok(())
}

/// A follower that is gone, and cannot be scheduled again.
async fn take_a_follower_away(store: &Store, machine: &str) -> anyhow::Result<()> {
    store.kind.kubectl(["cordon", machine]).output().await?;
    let follower = store.a_follower().await?;
    let uid = store.pods().await?.get(&follower).map(|pod| pod.uid.clone());
    store.kubectl(&["delete", "pod", &follower]).await?;
    until(&format!("pod {follower} waits for a machine"), Duration::from_secs(30), || async {
        let pods = store.pods().await?;
        let pod = pods.get(&follower).context("it is not made anew yet")?;
        ensure!(Some(&pod.uid) != uid.as_ref() && !pod.ready, "it is {pod:?}");
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
    let deleted = Instant::now();
    store.delete_pod(&follower).await?;
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
    world.scenario("pod kill (follower)", store, &report).await?;
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
    let report = fail_over(store, OUTAGE_LIMIT, |leader| async move { store.delete_pod(&leader).await }).await?;
    fact(world, "leader deleted", &report);
    world.scenario("pod kill (leader)", store, &report).await
}

pub(crate) async fn leader_and_operator_are_deleted_together_and_no_acknowledged_write_is_lost(
    world: &World,
) -> anyhow::Result<()> {
    let store = world.ready_store().await?;
    let report = fail_over(store, OUTAGE_LIMIT_WITHOUT_OPERATOR, |leader| async move {
        // First, or it would be done with the election before it dies.
        kill_operator(store).await?;
        store.delete_pod(&leader).await
    })
    .await?;
    until_operator_is_up(store).await?;
    fact(world, "leader deleted and operator killed", &report);
    world.scenario("pod kill (leader) and operator kill", store, &report).await
}

/// The pod stays, and with it for a while the label that says it leads; its memory is gone.
pub(crate) async fn a_leader_that_crashes_in_its_pod_comes_back_as_a_follower(world: &World) -> anyhow::Result<()> {
    let store = world.ready_store().await?;
    let leader = store.leader().await?;
    let before = store.pods().await?;
    let report =
        fail_over(
            store,
            OUTAGE_LIMIT,
            |leader| async move { store.kind.signal(store.namespace, &leader, "SIGKILL").await },
        )
        .await?;
    let (before, after) = (before.get(&leader).cloned(), store.pods().await?.remove(&leader));
    let same_pod = before.as_ref().map(|pod| &pod.uid) == after.as_ref().map(|pod| &pod.uid);
    let once = before.as_ref().map(|pod| pod.restarts + 1) == after.as_ref().map(|pod| pod.restarts);
    ensure!(same_pod && once, "{leader} is {after:?}, was {before:?}: not the same pod, restarted once");
    fact(world, "leader killed in its pod", &report);
    world.scenario("process kill (leader)", store, &report).await
}

/// It neither ends nor answers; when it wakes up it still believes that it leads.
pub(crate) async fn a_leader_that_hangs_is_replaced_and_takes_nothing_back(world: &World) -> anyhow::Result<()> {
    let store = world.ready_store().await?;
    let before = store.pods().await?;
    let leader = store.leader().await?;
    let (client, service) = (store.client()?, store.service().await?);
    let hung = store.pod(&leader).await?;
    let answer = client.set(&service.url(), "register", "old").await?;
    ensure!(answer.status == 200, "{} {}", answer.status, answer.text);

    let outcome = async {
        store.kind.signal(store.namespace, &leader, "SIGSTOP").await?;
        // Sent while it hangs, received when it wakes: the moment in which it could do harm.
        let late_write =
            tokio::spawn(request(&hung, |client, url| async move { client.set(&url, "late", "1").await })?);
        until("a write through the Service", Duration::from_secs(30), || async {
            // A connection of its own: those of before lead to the process that hangs.
            let answer = LabClient::new(Duration::from_secs(3))?.set(&service.url(), "register", "new").await?;
            ensure!(answer.status == 200, "{} {}", answer.status, answer.text);
            Ok(())
        })
        .await?;
        let late_read = tokio::spawn(request(&hung, |client, url| async move {
            client.get(&url, "register", "?consistency=linearizable").await
        })?);
        // On its way: it must lie in the socket of the process before that wakes.
        tokio::time::sleep(Duration::from_millis(500)).await;
        anyhow::Ok((late_write, late_read))
    }
    .await;
    // Whatever became of it, for the steps that follow.
    store.kind.signal(store.namespace, &leader, "SIGCONT").await?;
    let (late_write, late_read) = outcome?;
    let (late_write, late_read) = (late_write.await?, late_read.await?);
    if let Ok(answer) = &late_write {
        ensure!(answer.status != 200, "a replaced leader acknowledged a write: {}", answer.text);
    }
    if let Ok(answer) = &late_read {
        let outdated = answer.status == 200 && answer.body["value"] != "new";
        ensure!(!outdated, "a replaced leader answered a linearizable read: {}", answer.text);
    }
    store.until_complete(Duration::from_mins(1)).await?;
    ensure!(store.leader().await? != leader, "{leader} leads again");
    // This client wrote before, and kept its connection to the node that led then.
    until("a client with an old connection writes again", Duration::from_secs(10), || async {
        let answer = client.set(&service.url(), "register", "newer").await?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.text);
        Ok(())
    })
    .await?;
    store.ensure_same_runs(&before).await?;
    let said = |answer: &reqwest::Result<Answer>| match answer {
        Ok(answer) => format!("{} {}", answer.status.as_u16(), answer.body["error"]),
        Err(error) => error.to_string(),
    };
    world.fact(format!(
        "leader hung: when it woke, it answered a write with {} and a read with {}",
        said(&late_write),
        said(&late_read),
    ));
    Ok(())
}

/// A request that outlives the borrow of its client and tunnel.
fn request<Answered: Future<Output = reqwest::Result<Answer>>>(
    tunnel: &Tunnel,
    ask: impl FnOnce(LabClient, String) -> Answered,
) -> anyhow::Result<Answered> {
    Ok(ask(LabClient::new(Duration::from_mins(1))?, tunnel.url()))
}

/// Nothing that a change of the pods needs may cost an acknowledged write: followers are replaced one after
/// the other, then the leader hands over.
pub(crate) async fn pods_are_renewed_one_by_one_under_load(world: &World) -> anyhow::Result<()> {
    let store = world.ready_store().await?;
    let before = store.pods().await?;
    let service = store.service().await?;
    let load = store.load(&service, CLIENTS).policy(Policy::Follow { patience: PATIENCE }).reads_percent(20).start()?;
    load.acked_more(WRITES, WRITES_WITHIN).await?;
    let began = Instant::now();
    store.patch(json!({"podAnnotations": {"example.org/renewed": "yes"}})).await?;
    let fewest_ready = AtomicUsize::new(before.len());
    until("every pod is another one", Duration::from_mins(2), || async {
        let pods = store.pods().await?;
        let ready = pods.values().filter(|pod| pod.ready).count();
        fewest_ready.fetch_min(ready, Ordering::Relaxed);
        let renewed = pods.iter().filter(|(name, pod)| before.get(*name).is_none_or(|old| old.uid != pod.uid));
        let renewed = renewed.count();
        ensure!(renewed == before.len(), "{renewed} of {} are renewed, {ready} are ready", before.len());
        Ok(())
    })
    .await?;
    store.until_complete(Duration::from_mins(1)).await?;
    let took = began.elapsed();
    load.acked_more(WRITES, WRITES_WITHIN).await?;
    let report = load.stop().await?;
    world.scenario("rolling update", store, &report).await?;
    let fewest_ready = fewest_ready.into_inner();
    ensure!(fewest_ready + 1 >= before.len(), "only {fewest_ready} of {} pods were ready at a time", before.len());
    fact(world, &format!("all {} pods renewed in {took:.1?}", before.len()), &report);
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

/// Takes the leader away under load, as `strike` does it, until the store is complete again.
async fn fail_over<Strike: Future<Output = anyhow::Result<()>>>(
    store: &Store,
    outage_limit: Duration,
    strike: impl FnOnce(String) -> Strike,
) -> anyhow::Result<Report> {
    let epoch = store.get().await?.data["status"]["epoch"].as_i64().context("no epoch")?;
    let service = store.service().await?;
    let load = store.load(&service, CLIENTS).policy(Policy::Follow { patience: PATIENCE }).reads_percent(20).start()?;
    load.acked_more(WRITES, WRITES_WITHIN).await?;
    strike(store.leader().await?).await?;
    until("another leader is named", Duration::from_mins(1), || async {
        let status = store.get().await?.data["status"].take();
        let named = status["leader"].as_str().is_some_and(|name| !name.is_empty());
        let later = status["epoch"].as_i64() > Some(epoch);
        ensure!(named && later, "leader {}, epoch {}", status["leader"], status["epoch"]);
        Ok(())
    })
    .await?;
    load.acked_more(WRITES, outage_limit + WRITES_WITHIN).await.context("after the failover")?;
    // The old leader comes back, as one of the others.
    store.until_complete(Duration::from_mins(1)).await?;
    let report = load.stop().await?;
    let gap = report.longest_gap();
    ensure!(gap <= outage_limit, "no write was acknowledged for {gap:?}; {outage_limit:?} is allowed");
    Ok(report)
}

/// What clients saw is what one correct register per key could have answered, nothing acknowledged is missing
/// at the end, and all nodes end up with the same.
pub(crate) async fn ensure_content(store: &Store, report: &Report) -> anyhow::Result<()> {
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
