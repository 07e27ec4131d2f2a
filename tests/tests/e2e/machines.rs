//! Machines of the cluster: how pods spread over them, one that is drained, one that is lost.
//!
//! The machine of the API server is neither drained nor lost here: nobody could tell then what happens.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use k8s_openapi::api::{core::v1::Node, policy::v1::PodDisruptionBudget};
use kube::{Api, api::ListParams};
use quorumkv_tests::{
    kind::{objects::PodSeen, operator},
    load::{Policy, Running},
    wait::until,
};
use serde_json::json;

use super::{
    store::Store,
    switchover,
    world::{SYSTEM, World},
};

const CLIENTS: usize = 8;
const WRITES: u64 = 100;
const WRITES_WITHIN: Duration = Duration::from_secs(30);
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a client waits for an answer of a machine that may be gone.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);
/// The longest time without an acknowledged write that is allowed.
const OUTAGE_LIMIT: Duration = Duration::from_secs(30);
/// The operator may be on the drained machine too, and then moves first.
const DRAIN_OUTAGE_LIMIT: Duration = Duration::from_secs(60);
const DRAIN_LIMIT: Duration = Duration::from_mins(2);
/// This cluster gives a kubelet that is silent 20 seconds.
const NOT_READY_WITHIN: Duration = Duration::from_secs(100);

/// Names of the pods on each machine; machines without any are there too.
async fn pods_by_machine(store: &Store) -> anyhow::Result<BTreeMap<String, Vec<String>>> {
    let machines = store.kind.machines().await?;
    let mut by_machine: BTreeMap<String, Vec<String>> =
        machines.into_iter().map(|machine| (machine.name, Vec::new())).collect();
    for (name, pod) in store.pods().await? {
        by_machine.entry(pod.machine).or_default().push(name);
    }
    Ok(by_machine)
}

/// Without a word about it in the spec.
pub(crate) async fn pods_spread_over_the_machines(world: &World) -> anyhow::Result<()> {
    let by_machine = pods_by_machine(world.ready_store().await?).await?;
    ensure!(by_machine.len() > 1, "the cluster has only one machine");
    let counts = || by_machine.values().map(Vec::len);
    let (least, most) = (counts().min().unwrap_or(0), counts().max().unwrap_or(0));
    ensure!(most - least <= 1, "the pods are not spread evenly: {by_machine:?}");
    world.fact(format!("pods on each of {} machines: {:?}", by_machine.len(), counts().collect::<Vec<_>>()));
    Ok(())
}

/// At a write quorum of one, where the leader and one other pod may hold the only two copies of a write: the budget must
/// not let a pod go before the leader counts the copy that replaced the one before.
pub(crate) async fn the_leaders_machine_is_drained_under_load_and_no_write_is_lost(
    world: &World,
) -> anyhow::Result<()> {
    let store = world.ready_store().await?;
    let (leader, machine) = lead_from_a_worker(store, None).await?;
    let budgets: Api<PodDisruptionBudget> = Api::namespaced(store.kind.client.clone(), store.namespace);
    let budgets = budgets.list(&ListParams::default()).await?.items.len();
    ensure!(budgets == 1, "{budgets} PodDisruptionBudgets in {}, where one store is", store.namespace);
    store.patch(json!({"writeQuorum": 1})).await?;
    store.until_complete(Duration::from_secs(20)).await?;
    let before = store.pods().await?;
    let service = store.service().await?;
    let load = store.load(&service, CLIENTS).policy(Policy::Follow { patience: PATIENCE }).reads_percent(20).start()?;
    load.acked_more(WRITES, WRITES_WITHIN).await?;
    let began = Instant::now();
    let drained = drain(store, &machine, before.len()).await;
    // Whatever became of it, for the steps that follow.
    store.kind.kubectl(["uncordon", &machine]).output().await?;
    let settled = async {
        let fewest = drained?;
        let took = began.elapsed();
        load.acked_more(WRITES, DRAIN_OUTAGE_LIMIT + WRITES_WITHIN).await.context("after the drain")?;
        store.until_complete(Duration::from_mins(1)).await?;
        anyhow::Ok((fewest, took))
    }
    .await;
    store.patch(json!({"writeQuorum": 3})).await?;
    let (fewest, took) = settled?;
    store.until_complete(Duration::from_mins(1)).await?;
    let report = load.stop().await?;
    world.scenario("node drain (leader's node, quorum 1)", store, &report).await?;
    let after = store.pods().await?;
    for (name, pod) in before.iter().filter(|(_, pod)| pod.machine == machine) {
        let now = after.get(name).with_context(|| format!("{name} is gone"))?;
        ensure!(now.uid != pod.uid && now.machine != machine, "{name} was on the drained machine, and is {now:?}");
    }
    ensure!(store.leader().await? != leader, "{leader} was evicted, and leads");
    ensure!(fewest + 1 >= before.len(), "only {fewest} of {} pods were ready at a time", before.len());
    let gap = report.longest_gap();
    ensure!(gap <= DRAIN_OUTAGE_LIMIT, "no write was acknowledged for {gap:?}; {DRAIN_OUTAGE_LIMIT:?} is allowed");
    world.fact(format!("the leader's machine drained under load at quorum 1 in {took:.1?}, longest gap {gap:.2?}"));
    Ok(())
}

/// `kubectl drain`; the fewest pods that were ready at a time.
async fn drain(store: &Store, machine: &str, all: usize) -> anyhow::Result<usize> {
    // By force: what is left of helm's test belongs to no controller.
    let options = ["--ignore-daemonsets", "--delete-emptydir-data", "--force"];
    let timeout = format!("--timeout={}s", DRAIN_LIMIT.as_secs());
    let drain = store.kind.kubectl(["drain", machine]).args(options).arg(timeout);
    let drain = drain.within(DRAIN_LIMIT + Duration::from_secs(10)).output();
    let fewest = AtomicUsize::new(all);
    let watch = async {
        loop {
            match store.pods().await {
                Ok(pods) => fewest.fetch_min(pods.values().filter(|pod| pod.ready).count(), Ordering::Relaxed),
                Err(error) => return error,
            };
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::select! {
        drained = drain => drained?,
        error = watch => return Err(error),
    };
    Ok(fewest.into_inner())
}

/// All that runs there is gone at once, and for as long as the machine is away Kubernetes cannot tell whether it still
/// runs: nothing is made anew in its place.
pub(crate) async fn the_leaders_machine_is_lost_under_load_and_comes_back(world: &World) -> anyhow::Result<()> {
    let store = world.ready_store().await?;
    // Both gone together is another step's.
    let operator = operator::machine(&store.kind, SYSTEM).await?;
    let (leader, machine) = lead_from_a_worker(store, Some(&operator)).await?;
    let before = store.pods().await?;
    let gone: Vec<&String> = before.iter().filter(|(_, pod)| pod.machine == machine).map(|(name, _)| name).collect();
    ensure!(gone.len() <= 2, "{gone:?} are on one machine: without them quorum 3 cannot be reached");
    let service = store.service().await?;
    let load = store.load(&service, CLIENTS).policy(Policy::Follow { patience: PATIENCE }).reads_percent(20);
    // A client that waits for a machine that is gone says nothing about the store: it gives up soon and asks again.
    let load = load.timeout(ANSWER_LIMIT).request_ids().start()?;
    load.acked_more(WRITES, WRITES_WITHIN).await?;
    let outcome = match store.kind.stop_machine(&machine).await {
        Ok(_) => without_the_machine(store, &load, &leader, &machine).await,
        Err(error) => Err(error.into()),
    };
    // Whatever became of it, for the steps that follow.
    let began = Instant::now();
    store.kind.start_machine(&machine).await?;
    outcome?;
    store.until_complete(Duration::from_mins(2)).await?;
    let whole = began.elapsed();
    load.acked_more(WRITES, WRITES_WITHIN).await.context("with the machine back")?;
    let report = load.stop().await?;
    world.scenario("node loss (leader's node)", store, &report).await?;
    let after = store.pods().await?;
    same_pods(&before, &after, &machine)?;
    let gap = report.longest_gap();
    ensure!(gap <= OUTAGE_LIMIT, "no write was acknowledged for {gap:?}; {OUTAGE_LIMIT:?} is allowed");
    world.fact(format!(
        "the machine of {gone:?}, leader {leader}, was lost under load: no write acknowledged for {gap:.2?}; every copy \
         counted {whole:.1?} after it was switched on again"
    ));
    Ok(())
}

/// Writes go on, also once Kubernetes has noticed.
async fn without_the_machine(store: &Store, load: &Running, leader: &str, machine: &str) -> anyhow::Result<()> {
    until("another leader is named", Duration::from_secs(30), || async {
        let now = store.leader().await?;
        ensure!(!now.is_empty() && now != leader, "{now:?} leads");
        Ok(())
    })
    .await?;
    load.acked_more(WRITES, OUTAGE_LIMIT + WRITES_WITHIN).await.context("after the failover")?;
    let nodes: Api<Node> = Api::all(store.kind.client.clone());
    until("Kubernetes notices that the machine is gone", NOT_READY_WITHIN, || async {
        let conditions = nodes.get(machine).await?.status.and_then(|status| status.conditions).unwrap_or_default();
        let ready = conditions.into_iter().find(|condition| condition.type_ == "Ready").context("no condition")?;
        ensure!(ready.status != "True", "it is Ready");
        Ok(())
    })
    .await?;
    load.acked_more(WRITES, WRITES_WITHIN).await.context("once the machine is not Ready")
}

/// Pods of the lost machine are the same ones, started again once or more; all others were not disturbed.
fn same_pods(
    before: &BTreeMap<String, PodSeen>,
    after: &BTreeMap<String, PodSeen>,
    machine: &str,
) -> anyhow::Result<()> {
    for (name, pod) in before {
        let now = after.get(name).with_context(|| format!("{name} is gone"))?;
        let restarted = now.restarts > pod.restarts;
        let expected = now.uid == pod.uid && restarted == (pod.machine == machine);
        ensure!(expected, "{name} is {now:?}, was {pod:?}");
    }
    Ok(())
}

/// Hands leadership to a pod that is neither on the machine of the API server nor on the one that is to be left alone.
/// The leader and its machine.
async fn lead_from_a_worker(store: &Store, but: Option<&str>) -> anyhow::Result<(String, String)> {
    let machines = store.kind.machines().await?;
    let allowed = |pod: &PodSeen| {
        let machine = machines.iter().find(|machine| machine.name == pod.machine);
        machine.is_some_and(|machine| !machine.control_plane && but != Some(machine.name.as_str()))
    };
    let (leader, pods) = (store.leader().await?, store.pods().await?);
    let led_from = pods.get(&leader).with_context(|| format!("there is no pod {leader}"))?;
    if allowed(led_from) {
        return Ok((leader, led_from.machine.clone()));
    }
    let wanted = pods.iter().find(|(_, pod)| allowed(pod));
    let (wanted, pod) = wanted.with_context(|| format!("no pod is on another worker than {but:?}: {pods:?}"))?;
    switchover::hand_over(store, wanted).await?;
    store.until_complete(Duration::from_mins(1)).await?;
    Ok((wanted.clone(), pod.machine.clone()))
}
