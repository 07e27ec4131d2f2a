//! Stores whose nodes speak TLS: certificates are replaced, followers come and go, and all sleep, while clients write.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use k8s_openapi::api::{core::v1::Secret, events::v1::Event};
use kube::{Api, api::ListParams};
use quorumkv_api::PEER_PORT;
use quorumkv_tests::{
    kind::{objects, tunnel::Tunnel},
    load::Policy,
    wait::until,
};
use serde_json::json;

use super::{
    store::Store,
    world::{SECURED, World},
};

const NAME: &str = "secured";
const SECRET: &str = "secured-peer-tls";
const CLIENTS: usize = 6;
/// Between two writes of a client: hundreds a second are enough to meet every step of a rotation.
const PAUSE: Duration = Duration::from_millis(10);
/// Few: while nobody leads, each of them has the API server looked at for somebody to connect to.
const SLEEPERS: usize = 2;
const WRITES: u64 = 100;
const WRITES_WITHIN: Duration = Duration::from_secs(30);
/// Three steps, each as long as kubelets need to bring files to their pods.
const ROTATED_WITHIN: Duration = Duration::from_mins(1);

/// A pod is made, or ends, and what it holds is fetched.
const SCALED_WITHIN: Duration = Duration::from_secs(100);
/// How long a client tries one write: longer than the store sleeps.
const PATIENCE: Duration = Duration::from_mins(2);

/// What nodes load, as it is in the Secret; none while a rotation is under way.
async fn settled(store: &Store) -> anyhow::Result<Vec<u8>> {
    let secrets: Api<Secret> = Api::namespaced(store.kind.client.clone(), store.namespace);
    let secret = secrets.get(SECRET).await.context("the Secret")?;
    let data = secret.data.unwrap_or_default();
    ensure!(!data.contains_key("next.crt"), "a new certificate is laid by");
    let authorities = data.get("ca.crt").context("ca.crt")?;
    let authorities = String::from_utf8_lossy(&authorities.0).matches("BEGIN CERTIFICATE").count();
    ensure!(authorities == 1, "{authorities} authorities are trusted");
    Ok(data.get("tls.crt").context("tls.crt")?.0.clone())
}

/// Waits until all nodes show another certificate than this, and tells which and how long that took.
async fn rotated(store: &Store, before: &[u8], asked: Instant) -> anyhow::Result<(Vec<u8>, Duration)> {
    let after = until("another certificate, and one authority", ROTATED_WITHIN, || async {
        let shown = settled(store).await?;
        ensure!(shown != before, "still the same certificate");
        Ok(shown)
    })
    .await?;
    Ok((after, asked.elapsed()))
}

/// How often this was told of the store.
async fn told(store: &Store, reason: &str) -> anyhow::Result<usize> {
    let events: Api<Event> = Api::namespaced(store.kind.client.clone(), store.namespace);
    let events = events.list(&ListParams::default()).await.context("list events")?;
    let of_store = events.into_iter().filter(|event| {
        event.reason.as_deref() == Some(reason)
            && event.regarding.as_ref().is_some_and(|object| object.name.as_deref() == Some(store.name))
    });
    Ok(of_store.map(|event| event.series.map_or(1, |series| usize::try_from(series.count).unwrap_or(1))).sum())
}

/// Without TLS nobody gets further than to be told so.
async fn ensure_speaks_tls(store: &Store, pod: &str) -> anyhow::Result<()> {
    let peer = Tunnel::to_pod(&store.kind.client, store.namespace, pod, PEER_PORT).await?;
    let answer = store.client()?.get_path(&peer.url(), "/state").await?;
    ensure!(answer.status == 400 && answer.text.contains("speaks TLS"), "{pod}: {} {}", answer.status, answer.text);
    Ok(())
}

pub(crate) async fn certificates_are_replaced_under_load_and_no_write_fails(world: &World) -> anyhow::Result<()> {
    let kind = world.operator().await?;
    let store = Store::new(kind, SECURED, NAME);
    store.apply(json!({"followers": 2, "writeQuorum": 1, "tls": {"selfSigned": true}})).await?;
    store.until_complete(Duration::from_mins(1)).await.context("a store with TLS")?;
    let pods = store.pods().await?;
    let first = settled(&store).await?;

    ensure_speaks_tls(&store, &store.a_follower().await?).await?;
    let change = store.patch(json!({"tls": null})).await.err().context("TLS was switched off")?.to_string();
    ensure!(change.contains("tls cannot be changed"), "{change}");

    let service = store.service().await?;
    let load = store.load(&service, CLIENTS).pause(PAUSE).start()?;
    load.acked_more(WRITES, WRITES_WITHIN).await?;
    let asked = Instant::now();
    store.kubectl(&["annotate", "secret", SECRET, "quorumkv.io/renew=now"]).await?;
    let (second, by_request) = rotated(&store, &first, asked).await.context("asked for by an annotation")?;
    load.acked_more(WRITES, WRITES_WITHIN).await?;
    let asked = Instant::now();
    store.kubectl(&["delete", "secret", SECRET]).await?;
    let (_, by_deletion) = rotated(&store, &second, asked).await.context("after the Secret was deleted")?;
    load.acked_more(WRITES, WRITES_WITHIN).await?;
    let report = load.stop().await?;

    report.expect_no_failure()?;
    store.ensure_same_runs(&pods).await?;
    // New connections with the new certificates, in both directions: a pod that starts, and a new leader.
    let leader = store.leader().await?;
    store.delete_pod(&leader).await?;
    until("another pod leads", Duration::from_secs(40), || async {
        ensure!(store.leader().await? != leader, "{leader} still leads");
        Ok(())
    })
    .await?;
    store.until_complete(Duration::from_mins(1)).await.context("after the leader was deleted")?;
    ensure!(told(&store, "CertificateMade").await? == 3, "three certificates were made");
    ensure!(told(&store, "CertificateRotated").await? == 2, "two took the place of another");
    world.fact(format!(
        "certificates replaced under load: {by_request:.1?} when asked for, {by_deletion:.1?} when deleted"
    ));
    world.scenario("TLS rotation", &store, &report).await?;
    store.kubectl(&["delete", "kvc", NAME, "--wait=true", "--timeout=60s"]).await?;
    until("its pods are gone", Duration::from_mins(1), || async {
        let left = store.pods().await?;
        ensure!(left.is_empty(), "{:?} are left", left.keys());
        Ok(())
    })
    .await
}

/// With certificates that were made before: by them a follower that comes later is let in, and all that wake up are.
pub(crate) async fn followers_come_and_go_and_the_store_sleeps_under_load(world: &World) -> anyhow::Result<()> {
    let store = Store::new(world.operator().await?, SECURED, "sleeper");
    let storage = json!({"type": "Persistent", "size": "64Mi", "whenDeleted": "Delete"});
    store.apply(json!({"followers": 2, "writeQuorum": 2, "tls": {"selfSigned": true}, "storage": storage})).await?;
    store.until_complete(Duration::from_mins(2)).await.context("a store with TLS and volumes")?;
    let pods = store.pods().await?;
    let service = store.service().await?;
    let load = store.load(&service, SLEEPERS).policy(Policy::Follow { patience: PATIENCE });
    let load = load.request_ids().reads_percent(20).start()?;
    load.acked_more(WRITES, WRITES_WITHIN).await?;

    // With a quorum of all, no write is acknowledged without the one that came.
    store.patch(json!({"followers": 3, "writeQuorum": 3})).await?;
    store.wait_for_status("followers", 3, SCALED_WITHIN).await?;
    store.until_complete(SCALED_WITHIN).await.context("with three followers")?;
    ensure_speaks_tls(&store, "sleeper-3").await?;
    load.acked_more(WRITES, WRITES_WITHIN).await.context("with three followers")?;
    store.patch(json!({"followers": 2, "writeQuorum": 2})).await?;
    store.wait_for_status("followers", 2, SCALED_WITHIN).await?;
    until("the pod of the third follower is gone", SCALED_WITHIN, || async {
        let left = store.pods().await?;
        ensure!(left.len() == 3, "there are {:?}", left.keys());
        Ok(())
    })
    .await?;
    let before = objects::recorded_copies(&store.until_complete(SCALED_WITHIN).await.context("with two again")?);
    store.ensure_same_runs(&pods).await?;
    load.acked_more(WRITES, WRITES_WITHIN).await.context("with two followers again")?;

    store.patch(json!({"hibernated": true})).await?;
    store.until_condition("Ready", "False", "Hibernated", Duration::from_mins(1)).await?;
    let awake = store.pods().await?;
    ensure!(awake.is_empty(), "pods run asleep: {:?}", awake.keys());
    store.patch(json!({"hibernated": false})).await?;
    let cluster = store.until_complete(Duration::from_mins(2)).await.context("woken")?;
    let after = objects::recorded_copies(&cluster);
    ensure!(before == after, "copies on volumes are the same ones: {after:?}, before {before:?}");
    load.acked_more(WRITES, WRITES_WITHIN).await.context("after it was woken")?;
    let report = load.stop().await?;
    report.expect_no_failure()?;
    let notes = store.told("Hibernated").await?;
    ensure!(notes.iter().any(|note| note.contains("every node holds everything")), "not settled: {notes:?}");
    world.scenario("scale 2->3->2, then hibernate and wake (TLS)", &store, &report).await?;
    store.kubectl(&["delete", "kvc", store.name]).await?;
    Ok(())
}
