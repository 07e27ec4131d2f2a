//! Leadership handed over because a person asked for it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use k8s_openapi::api::events::v1::Event;
use kube::{Api, api::ListParams};
use quorumkv_tests::{
    history::{Action, Outcome},
    load::Policy,
    wait::until,
};

use super::{store::Store, world::World};

const ANNOTATION: &str = "quorumkv.io/switchover-to";
const CLIENTS: usize = 8;
const WRITES: u64 = 100;
const WRITES_WITHIN: Duration = Duration::from_secs(30);
const PATIENCE: Duration = Duration::from_secs(60);
/// The wait for a lease is a second; the rest is for a busy machine.
const OUTAGE_LIMIT: Duration = Duration::from_secs(10);

pub(crate) async fn leadership_goes_where_it_is_asked_to_under_load(world: &World) -> anyhow::Result<()> {
    let store = world.ready_store().await?;
    let before = store.pods().await?;
    let service = store.service().await?;
    let load = store.load(&service, CLIENTS).policy(Policy::Follow { patience: PATIENCE }).reads_percent(20).start()?;
    load.acked_more(WRITES, WRITES_WITHIN).await?;
    let mut waits = Vec::new();
    for _ in 0..2 {
        let wanted = store.a_follower().await?;
        let asked = Instant::now();
        ask_for(store, &wanted).await?;
        until(&format!("{wanted} leads"), Duration::from_secs(30), || async {
            let leader = store.leader().await?;
            // Another may lead where its log is too short in the moment of the fence; then it is asked for again.
            if leader != wanted && wish(store).await?.is_none() {
                ask_for(store, &wanted).await?;
            }
            ensure!(leader == wanted, "{leader} leads");
            Ok(())
        })
        .await?;
        store.until_complete(Duration::from_mins(1)).await?;
        waits.push(asked.elapsed());
        until("the annotation is gone", Duration::from_secs(10), || async {
            ensure!(wish(store).await?.is_none(), "it is still there");
            Ok(())
        })
        .await?;
        load.acked_more(WRITES, WRITES_WITHIN).await.context("after the switchover")?;
    }
    let report = load.stop().await?;
    store.ensure_same_runs(&before).await?;
    world.scenario("switchover (twice)", store, &report).await?;
    let gap = report.longest_gap();
    ensure!(gap <= OUTAGE_LIMIT, "no write was acknowledged for {gap:?}; {OUTAGE_LIMIT:?} is allowed");
    // A 503 may be of unknown outcome, so the load does not repeat it; whoever is sent to another node goes there.
    let refused = report
        .failed()
        .filter(|operation| matches!(&operation.action, Action::Write { outcome: Outcome::Refused { .. }, .. }));
    ensure!(refused.count() == 0, "clients ran out of patience");
    world.fact(format!(
        "switchovers under load: complete again after {waits:.1?}, no write acknowledged for {gap:.2?}, {} acknowledged, \
         {} answered otherwise",
        report.acked(),
        report.failed().count(),
    ));
    Ok(())
}

pub(crate) async fn a_wish_that_makes_no_sense_is_refused_with_an_event(world: &World) -> anyhow::Result<()> {
    let store = world.ready_store().await?;
    let leader = store.leader().await?;
    let cases = [("nobody", "Warning", "SwitchoverRefused"), (leader.as_str(), "Normal", "SwitchoverNotNeeded")];
    for (wanted, kind, reason) in cases {
        ask_for(store, wanted).await?;
        until(&format!("the wish for {wanted} is answered"), Duration::from_secs(20), || async {
            ensure!(wish(store).await?.is_none(), "the annotation is still there");
            let events: Api<Event> = Api::namespaced(store.kind.client.clone(), store.namespace);
            let events = events.list(&ListParams::default()).await?.items;
            let told = events.iter().any(|event| {
                event.reason.as_deref() == Some(reason)
                    && event.type_.as_deref() == Some(kind)
                    && event.note.as_deref().is_some_and(|note| note.contains(wanted))
            });
            ensure!(told, "no {kind} event {reason} about {wanted}");
            Ok(())
        })
        .await?;
    }
    ensure!(store.leader().await? == leader, "a refused wish changed the leader");
    Ok(())
}

async fn ask_for(store: &Store, wanted: &str) -> anyhow::Result<()> {
    store.kubectl(&["annotate", &format!("kvc/{}", store.name), &format!("{ANNOTATION}={wanted}")]).await?;
    Ok(())
}

async fn wish(store: &Store) -> anyhow::Result<Option<String>> {
    Ok(store.get().await?.metadata.annotations.and_then(|mut annotations| annotations.remove(ANNOTATION)))
}
