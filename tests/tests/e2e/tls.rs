//! A store whose nodes speak TLS: certificates are replaced while clients write.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use k8s_openapi::api::{core::v1::Secret, events::v1::Event};
use kube::{Api, api::ListParams};
use quorumkv_api::PEER_PORT;
use quorumkv_tests::{kind::tunnel::Tunnel, wait::until};
use serde_json::json;

use super::{
    store::Store,
    world::{SECOND, World},
};

const NAME: &str = "secured";
const SECRET: &str = "secured-peer-tls";
const CLIENTS: usize = 6;
const WRITES: u64 = 100;
const WRITES_WITHIN: Duration = Duration::from_secs(30);
/// Three steps, each as long as kubelets need to bring files to their pods.
const ROTATED_WITHIN: Duration = Duration::from_mins(1);

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

pub(crate) async fn certificates_are_replaced_under_load_and_no_write_fails(world: &World) -> anyhow::Result<()> {
    let kind = world.operator().await?;
    let store = Store::new(kind, SECOND, NAME);
    store.apply(json!({"followers": 2, "writeQuorum": 1, "tls": {"selfSigned": true}})).await?;
    store.until_complete(Duration::from_mins(1)).await.context("a store with TLS")?;
    let pods = store.pods().await?;
    let first = settled(&store).await?;

    // Without TLS nobody gets further than to be told so.
    let follower = store.a_follower().await?;
    let peer = Tunnel::to_pod(&kind.client, store.namespace, &follower, PEER_PORT).await?;
    let answer = store.client()?.get_path(&peer.url(), "/state").await?;
    ensure!(answer.status == 400 && answer.text.contains("speaks TLS"), "{} {}", answer.status, answer.text);
    let change = store.patch(json!({"tls": null})).await.err().context("TLS was switched off")?.to_string();
    ensure!(change.contains("tls cannot be changed"), "{change}");

    let service = store.service().await?;
    let load = store.load(&service, CLIENTS).start()?;
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
