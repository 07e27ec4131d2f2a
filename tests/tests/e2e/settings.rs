//! Quorum and delay turned while clients write without pause.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use quorumkv_tests::{
    history::{self, Moment},
    kind::{command::Command, operator},
    load::{Report, Running},
};
use serde_json::json;

use super::{
    store::Store,
    world::{SYSTEM, World},
};

/// As many as the lab's own analysis has.
const CLIENTS: usize = 12;
/// Writes measured with each setting: at quorum 5 about two seconds.
const WRITES: u64 = 200;
/// A change takes effect within a second; this machine may be busy with other things.
const APPLIED_WITHIN: Duration = Duration::from_secs(5);
const WRITES_WITHIN: Duration = Duration::from_secs(30);
/// What one hop through the API server, and a busy machine, may add to a write.
const OVERHEAD_MS: f64 = 60.0;

/// Writes between two moments, all with the same settings.
struct Phase {
    name: String,
    from: Moment,
    to: Moment,
    /// Mean latency that the simulated delay alone makes.
    expected_ms: f64,
}

pub(crate) async fn the_quorum_is_turned_under_load_without_a_failed_write(world: &World) -> anyhow::Result<()> {
    let store = world.ready_store().await?;
    let before = store.pods().await?;
    let service = store.service().await?;
    let load = store.load(&service, CLIENTS).start()?;
    load.acked_more(WRITES, WRITES_WITHIN).await.context("before the first change")?;
    let mut phases = Vec::new();
    let mut waits = Vec::new();
    for quorum in [3_u32, 5, 1, 3] {
        store.patch(json!({"writeQuorum": quorum})).await?;
        waits.push((quorum, store.wait_for_status("writeQuorum", quorum, APPLIED_WITHIN).await?));
        // The q-th fastest of five round trips from 10 to 150 ms.
        phases.push(measure(&load, format!("quorum {quorum}"), 10.0 + 140.0 * f64::from(quorum) / 6.0).await?);
    }
    let report = load.stop().await?;
    check(world, store, &before, &report, &phases).await?;
    world.scenario("quorum changed (4 times)", store, &report).await?;
    // Apart from any bound: to wait for all of five takes much longer than for one of them (3.8 times by the
    // delay alone).
    let mean = |phase: &Phase| report.latencies_between(phase.from, phase.to).mean_ms();
    let (five, one) = (mean(&phases[1]), mean(&phases[2]));
    ensure!(five > one * 1.5, "mean latency {five:.1} ms at quorum 5, {one:.1} ms at quorum 1");
    world.fact(format!("kubectl wait saw a patched writeQuorum applied after {waits:.2?}"));
    Ok(())
}

pub(crate) async fn the_delay_is_turned_under_load_without_a_failed_write(world: &World) -> anyhow::Result<()> {
    let store = world.ready_store().await?;
    let before = store.pods().await?;
    let service = store.service().await?;
    let load = store.load(&service, CLIENTS).start()?;
    load.acked_more(WRITES, WRITES_WITHIN).await.context("before the first change")?;
    let mut phases = Vec::new();
    for (min, max, expected_ms) in
        [("10ms", "150ms", 80.0), ("0ms", "0ms", 0.0), ("200ms", "200ms", 200.0), ("10ms", "150ms", 80.0)]
    {
        store.patch(json!({"delay": {"min": min, "max": max}})).await?;
        // The status writes zero without a unit of its own choice; what it applied is asked from the leader below.
        let max_applied = if max == "0ms" { "0s" } else { max };
        store.wait_for_status("delay.max", max_applied, APPLIED_WITHIN).await?;
        let phase = measure(&load, format!("delay {min}..{max}"), expected_ms).await?;
        let status = store.client()?.status(&service.url()).await?;
        let applied = [status.delay.min, status.delay.max].map(quorumkv_api::settings::format_duration);
        ensure!(applied[1] == max_applied, "the leader applies {applied:?}, and {max} was asked for");
        phases.push(phase);
    }
    let report = load.stop().await?;
    check(world, store, &before, &report, &phases).await?;
    world.scenario("delay changed (4 times)", store, &report).await
}

/// With the rights of the kubeconfig alone: forwarded ports, and a patch of the spec that is taken back.
pub(crate) async fn the_labs_programs_work_through_the_kubeconfig(world: &World) -> anyhow::Result<()> {
    let store = world.ready_store().await?;
    let before = store.get().await?.data["spec"].clone();
    let cluster = format!("{}/{}", store.namespace, store.name);
    let results = tempfile::tempdir().context("a folder")?;
    let results = results.path().to_str().context("a text")?;
    for (program, arguments) in [
        (
            env!("CARGO_BIN_EXE_quorum_analysis"),
            vec!["--writes=24", "--quorums=1,5", "--max-delay=60ms", "--results", results],
        ),
        (env!("CARGO_BIN_EXE_check_consistency"), vec![]),
    ] {
        let command = Command::new(program).args(["--cluster", &cluster]).args(arguments);
        command.env("KUBECONFIG", store.kind.kubeconfig()).within(Duration::from_mins(1)).output().await?;
    }
    let after = store.get().await?.data["spec"].clone();
    ensure!(after == before, "the spec was {before} and is {after}");
    store.until_complete(APPLIED_WITHIN).await?;
    Ok(())
}

/// Clients write, and the spec changes while no operator is there.
pub(crate) async fn the_operator_restarts_amid_a_change_and_disturbs_nothing(world: &World) -> anyhow::Result<()> {
    let store = world.ready_store().await?;
    let before = store.pods().await?;
    let service = store.service().await?;
    let load = store.load(&service, CLIENTS).start()?;
    load.acked_more(WRITES, WRITES_WITHIN).await.context("before the operator's end")?;
    kill_operator(store).await?;
    store.patch(json!({"writeQuorum": 5})).await?;
    // Its pod has to start, and to wait for the Lease of the one that could not give it back.
    let took = store.wait_for_status("writeQuorum", 5, Duration::from_mins(1)).await?;
    until_operator_is_up(store).await?;
    load.acked_more(WRITES, WRITES_WITHIN).await.context("after the operator's end")?;
    store.patch(json!({"writeQuorum": 3})).await?;
    store.until_complete(Duration::from_mins(1)).await?;
    let report = load.stop().await?;
    report.expect_no_failure()?;
    store.ensure_same_runs(&before).await?;
    world.scenario("operator kill", store, &report).await?;
    world.fact(format!(
        "operator killed: the new one applied a change made meanwhile {took:.1?} later; no failed write of {}",
        report.acked()
    ));
    Ok(())
}

pub(crate) async fn kill_operator(store: &Store) -> anyhow::Result<()> {
    operator::kill(&store.kind, SYSTEM).await
}

/// The operator's only pod.
pub(crate) async fn operator_pod(store: &Store) -> anyhow::Result<String> {
    operator::pod(&store.kind, SYSTEM).await
}

pub(crate) async fn until_operator_is_up(store: &Store) -> anyhow::Result<()> {
    operator::until_up(&store.kind, SYSTEM).await
}

async fn measure(load: &Running, name: String, expected_ms: f64) -> anyhow::Result<Phase> {
    // Of the writes that began before the change was in force, at most one a client is under way.
    load.acked_more(CLIENTS as u64, WRITES_WITHIN).await.with_context(|| name.clone())?;
    let from = Moment::now();
    load.acked_more(WRITES, WRITES_WITHIN).await.with_context(|| name.clone())?;
    Ok(Phase { name, from, to: Moment::now(), expected_ms })
}

async fn check(
    world: &World,
    store: &Store,
    before: &std::collections::BTreeMap<String, quorumkv_tests::kind::objects::PodSeen>,
    report: &Report,
    phases: &[Phase],
) -> anyhow::Result<()> {
    report.expect_no_failure()?;
    history::check(&report.operations)?;
    store.ensure_same_runs(before).await?;
    let mut wrong = Vec::new();
    for Phase { name, from, to, expected_ms } in phases {
        let latencies = report.latencies_between(*from, *to);
        let mean = latencies.mean_ms();
        world.fact(format!(
            "{name}: mean {mean:.1} ms (the delay alone: {expected_ms:.1}), median {:.1}, p99 {:.1}, {} writes",
            latencies.percentile_ms(50.0),
            latencies.percentile_ms(99.0),
            latencies.count(),
        ));
        // Below: a write did not wait for its quorum. Above: it waited for more than that.
        if mean < expected_ms * 0.85 || mean > expected_ms * 1.25 + OVERHEAD_MS {
            wrong.push(format!("{name}: mean latency {mean:.1} ms, the delay alone makes {expected_ms:.1} ms"));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}
