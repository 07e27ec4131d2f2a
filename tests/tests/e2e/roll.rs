//! Pods of another description, one after the other.

use std::{
    collections::BTreeMap,
    sync::Mutex,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use quorumkv_tests::{
    kind::{objects::PodSeen, tunnel::Tunnel},
    load::{Policy, Running},
    wait::until,
};
use serde_json::{Value, json};

use super::{
    store::Store,
    world::{ROLLED, World},
};

const CLIENTS: usize = 8;
const WRITES: u64 = 100;
const WRITES_WITHIN: Duration = Duration::from_secs(30);
/// How long a client tries one write: longer than any handover.
const PATIENCE: Duration = Duration::from_secs(60);
/// Six pods, one after the other, on a busy machine.
const ROLL_LIMIT: Duration = Duration::from_mins(2);
/// A roll that were to happen twice, or a bad image that spread, would show by then.
const QUIET: Duration = Duration::from_secs(5);

type Pods = BTreeMap<String, PodSeen>;

/// Of the same description as the store that most steps use.
async fn rolled_store(world: &World) -> anyhow::Result<Store> {
    let store = Store::new(world.operator().await?, ROLLED, "demo");
    store.apply(World::first_spec()).await?;
    store.until_complete(Duration::from_mins(2)).await?;
    Ok(store)
}

/// Clients that try again under request ids, so that what fails for them is lost for good.
fn load(store: &Store, service: &Tunnel) -> anyhow::Result<Running> {
    let load = store.load(service, CLIENTS).policy(Policy::Follow { patience: PATIENCE });
    load.request_ids().reads_percent(20).start()
}

/// Pods that are other ones than before.
fn renewed<'a>(before: &Pods, now: &'a Pods) -> Vec<&'a String> {
    let another = |name: &String, pod: &PodSeen| before.get(name).is_none_or(|old| old.uid != pod.uid);
    now.iter().filter(|(name, pod)| another(name, pod)).map(|(name, _)| name).collect()
}

/// Followers one at a time, then a handover, then the pod that led; and no write fails for a client that tries again.
pub(crate) async fn an_image_change_renews_the_followers_first_and_the_leader_last_under_load(
    world: &World,
) -> anyhow::Result<()> {
    let store = rolled_store(world).await?;
    let image = store.kind.tag_image(&world.images().await?.node, "another").await?;
    let (before, leader) = (store.pods().await?, store.leader().await?);
    let service = store.service().await?;
    let load = load(&store, &service)?;
    load.acked_more(WRITES, WRITES_WITHIN).await?;

    let began = Instant::now();
    store.patch(json!({"image": image.to_string()})).await?;
    let seen: Mutex<(Vec<String>, usize)> = Mutex::new((Vec::new(), before.len()));
    until("every pod is another one", ROLL_LIMIT, || async {
        let pods = store.pods().await?;
        let ready = pods.values().filter(|pod| pod.ready).count();
        let renewed = renewed(&before, &pods);
        let mut seen = seen.lock().expect("nobody panics while holding it");
        let new: Vec<String> =
            renewed.iter().filter(|name| !seen.0.contains(name)).map(|name| (*name).clone()).collect();
        seen.0.extend(new);
        seen.1 = seen.1.min(ready);
        ensure!(renewed.len() == before.len(), "{renewed:?} are renewed of {}, {ready} are ready", before.len());
        Ok(())
    })
    .await?;
    store.until_complete(Duration::from_mins(1)).await?;
    let took = began.elapsed();
    let after = store.pods().await?;
    load.acked_more(WRITES, WRITES_WITHIN).await?;
    tokio::time::sleep(QUIET).await;
    store.ensure_same_runs(&after).await?;
    let report = load.stop().await?;

    let (order, fewest_ready) = seen.into_inner().expect("nobody panicked");
    ensure!(order.last() == Some(&leader), "{leader} led and shall be the last, the order was {order:?}");
    ensure!(fewest_ready + 1 >= before.len(), "only {fewest_ready} of {} pods were ready at a time", before.len());
    for reason in ["Rolling", "Rolled"] {
        until(&format!("an event {reason}"), Duration::from_secs(10), || async {
            ensure!(!store.told(reason).await?.is_empty(), "there is none");
            Ok(())
        })
        .await?;
    }
    report.expect_no_failure()?;
    world.fact(format!(
        "image changed under load: all {} pods renewed in {took:.1?}, no write acknowledged for {:.2?}, {} acknowledged, \
         none failed",
        before.len(),
        report.longest_gap(),
        report.acked(),
    ));
    world.scenario("rolling update (image)", &store, &report).await
}

/// It costs one follower; the others stay as they are, and so does the leader.
pub(crate) async fn a_bad_image_is_held_and_taking_it_back_needs_nobody(world: &World) -> anyhow::Result<()> {
    let store = rolled_store(world).await?;
    let (before, leader) = (store.pods().await?, store.leader().await?);
    let good = store.get().await?.data["spec"]["image"].take();
    let service = store.service().await?;
    let load = load(&store, &service)?;
    load.acked_more(WRITES, WRITES_WITHIN).await?;

    let missing = format!("{}:not-there", world.images().await?.node.repository);
    store.patch(json!({"image": missing})).await?;
    let message = store.until_condition("Progressing", "False", "RollHeld", ROLL_LIMIT).await?;
    until("an event RollHeld says why", Duration::from_secs(10), || async {
        let notes = store.told("RollHeld").await?;
        ensure!(notes.iter().any(|note| note.contains("ImagePull")), "the notes are {notes:?}");
        Ok(())
    })
    .await?;
    tokio::time::sleep(QUIET).await;
    let pods = store.pods().await?;
    let spoilt: Vec<String> = renewed(&before, &pods).into_iter().cloned().collect();
    ensure!(spoilt.len() == 1 && spoilt[0] != leader, "{spoilt:?} were replaced, {leader} leads: {message}");
    ensure!(store.leader().await? == leader, "leadership went from {leader} to {}", store.leader().await?);
    load.acked_more(WRITES, WRITES_WITHIN).await.context("with one follower less")?;

    let began = Instant::now();
    store.patch(json!({"image": if good.is_null() { Value::Null } else { good }})).await?;
    store.until_complete(Duration::from_mins(1)).await?;
    let back = began.elapsed();
    let report = load.stop().await?;
    let now = store.pods().await?;
    let again: Vec<&String> = renewed(&before, &now);
    ensure!(again == [&spoilt[0]], "{again:?} are other pods than before, and {spoilt:?} had to be");
    report.expect_no_failure()?;
    world.fact(format!(
        "bad image: {message}; taken back, complete after {back:.1?}, no write acknowledged for {:.2?}, {} acknowledged, \
         none failed",
        report.longest_gap(),
        report.acked(),
    ));
    world.scenario("bad image, taken back", &store, &report).await?;
    store.kubectl(&["delete", "kvc", store.name]).await?;
    Ok(())
}
