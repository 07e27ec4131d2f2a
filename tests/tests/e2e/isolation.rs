//! Stores of the same name, side by side.

use std::time::{Duration, Instant};

use anyhow::ensure;
use k8s_openapi::api::{core::v1::Secret, events::v1::Event};
use kube::{Api, api::ListParams};
use quorumkv_tests::{
    kind::objects::{self, Inventory, ObjectKey},
    wait::until,
};
use serde_json::json;

use super::{
    store::Store,
    world::{SECOND, World},
};

const CLIENTS: usize = 4;

/// A smaller one: what differs must not leak either.
async fn second_store(world: &World) -> anyhow::Result<Store> {
    let first = world.ready_store().await?;
    let second = Store::new(&first.kind, SECOND, first.name);
    second.apply(json!({"followers": 3, "writeQuorum": 2})).await?;
    second.until_complete(Duration::from_mins(1)).await?;
    Ok(second)
}

pub(crate) async fn two_stores_of_one_name_do_not_touch_each_other(world: &World) -> anyhow::Result<()> {
    let first = world.ready_store().await?;
    let (pods, before) = (first.pods().await?, first.get().await?);
    let first_service = first.service().await?;
    let load = first.load(&first_service, CLIENTS).start()?;
    let second = second_store(world).await?;
    let (client, second_service) = (first.client()?, second.service().await?);
    let key = format!("whose-{}", rand::random::<u32>());
    for (service, value) in [(&first_service, "first"), (&second_service, "second")] {
        let answer = client.set(&service.url(), &key, value).await?;
        ensure!(answer.status == 200, "{value}: {} {}", answer.status, answer.text);
    }
    for (service, value) in [(&first_service, "first"), (&second_service, "second")] {
        let answer = client.get(&service.url(), &key, "").await?;
        ensure!(answer.body["value"] == value, "{value}: {} {}", answer.status, answer.text);
    }
    second.patch(json!({"writeQuorum": 1, "delay": {"min": "1ms", "max": "2ms"}})).await?;
    second.wait_for_status("writeQuorum", 1, Duration::from_secs(10)).await?;
    second.until_complete(Duration::from_secs(10)).await?;
    load.acked_more(50, Duration::from_secs(30)).await?;
    load.stop().await?.expect_no_failure()?;
    first.ensure_same_runs(&pods).await?;
    let after = first.get().await?;
    ensure!(before.data == after.data, "the first store changed:\n{}\nbefore:\n{}", after.data, before.data);
    ensure!(secrets(first).await? != secrets(&second).await?, "both stores have the same peer token");
    Ok(())
}

pub(crate) async fn a_deleted_store_leaves_nothing_behind_and_the_other_goes_on(world: &World) -> anyhow::Result<()> {
    let first = world.ready_store().await?;
    let second = second_store(world).await?;
    let inventory = Inventory::new(&first.kind.client).await?;
    let held: Vec<ObjectKey> = inventory.of(SECOND).await?.into_keys().collect();
    for kind in ["StatefulSet", "Pod", "Service", "PodDisruptionBudget", "Secret", "KvCluster"] {
        ensure!(held.iter().any(|key| key.kind == kind), "there is no {kind} to be cleaned up, only {held:?}");
    }
    let pods = first.pods().await?;
    let service = first.service().await?;
    let load = first.load(&service, CLIENTS).start()?;
    let began = Instant::now();
    second.kubectl(&["delete", "kvc", second.name]).await?;
    until("the deleted store's objects are gone", Duration::from_mins(1), || async {
        let mut left: Vec<ObjectKey> = inventory.of(SECOND).await?.into_keys().collect();
        // What Kubernetes puts into every namespace.
        left.retain(|key| {
            !matches!(
                (key.kind.as_str(), key.name.as_str()),
                ("ServiceAccount", "default") | ("ConfigMap", "kube-root-ca.crt")
            )
        });
        ensure!(left.is_empty(), "left: {}", left.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "));
        Ok(())
    })
    .await?;
    world.fact(format!("a deleted KvCluster and all it owned were gone after {:.1?}", began.elapsed()));
    load.acked_more(50, Duration::from_secs(30)).await?;
    load.stop().await?.expect_no_failure()?;
    first.ensure_same_runs(&pods).await?;
    // Under the same name again, it is a new store: complete, and empty.
    let again = second_store(world).await?;
    let (content, _) = again.client()?.content(&again.service().await?.url()).await?;
    ensure!(content.is_empty(), "a new store holds {content:?}");
    // And where nothing is waited for, while pods and Secret of the earlier one are still on their way out.
    for _ in 0..2 {
        again.kubectl(&["delete", "kvc", again.name]).await?;
        second_store(world).await?;
    }
    Ok(())
}

/// Every copy gone at once is the one thing that no protocol survives. Then an empty store must not pass for
/// the old one, unless a person said so.
pub(crate) async fn a_store_that_lost_every_copy_halts_until_a_person_decides(world: &World) -> anyhow::Result<()> {
    let store = second_store(world).await?;
    let (client, service) = (store.client()?, store.service().await?);
    let answer = client.set(&service.url(), "precious", "1").await?;
    ensure!(answer.status == 200, "{} {}", answer.status, answer.text);
    let before = store.pods().await?;
    let instance = format!("--selector=app.kubernetes.io/instance={}", store.name);
    store.kubectl(&["delete", "pod", &instance, "--grace-period=0", "--force"]).await?;
    until("all nodes run again, and the status says what is missing", Duration::from_mins(1), || async {
        let pods = store.pods().await?;
        let anew = pods.iter().all(|(name, pod)| before.get(name).is_none_or(|old| old.uid != pod.uid));
        ensure!(anew && pods.len() == before.len(), "pods: {pods:?}");
        let [ready, reason, message] = objects::condition(&store.get().await?, "Ready").map(str::to_owned);
        ensure!(ready == "False" && reason == "TooFewMembers", "condition Ready is {ready}: {reason}: {message}");
        ensure!(message.contains(&format!("{}-", store.name)), "the message names no missing member: {message}");
        Ok(())
    })
    .await?;
    for name in store.pods().await?.into_keys() {
        let pod = store.pod(&name).await?;
        until(&format!("{name} takes no write"), Duration::from_secs(20), || async {
            let answer = client.set(&pod.url(), "precious", "2").await?;
            ensure!(answer.status == 403 && answer.body["leader"].is_null(), "{} {}", answer.status, answer.text);
            Ok(())
        })
        .await?;
    }
    store.patch(json!({"dataLossPolicy": "Reset"})).await?;
    store.until_complete(Duration::from_mins(1)).await?;
    let answer = client.get(&service.url(), "precious", "").await?;
    ensure!(answer.status == 404, "the reset store answers {} {}", answer.status, answer.text);
    let events: Api<Event> = Api::namespaced(store.kind.client.clone(), store.namespace);
    let warned = events.list(&ListParams::default()).await?.into_iter().any(|event| {
        let of_cluster = event.regarding.and_then(|object| object.kind).as_deref() == Some("KvCluster");
        of_cluster && event.type_.as_deref() == Some("Warning")
    });
    ensure!(warned, "no Warning event tells of the loss");
    store.patch(json!({"dataLossPolicy": "Halt"})).await
}

/// What the secrets of a store hold.
async fn secrets(store: &Store) -> anyhow::Result<Vec<String>> {
    let api: Api<Secret> = Api::namespaced(store.kind.client.clone(), store.namespace);
    let selector = format!("app.kubernetes.io/instance={}", store.name);
    let found = api.list(&ListParams::default().labels(&selector)).await?;
    let held = found.into_iter().flat_map(|secret| secret.data.unwrap_or_default().into_values());
    let held: Vec<String> = held.map(|value| String::from_utf8_lossy(&value.0).into_owned()).collect();
    ensure!(held.iter().any(|value| value.len() >= 16), "no token worth the name in {}", store.namespace);
    Ok(held)
}
