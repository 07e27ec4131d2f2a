//! How clients reach a store.

use std::time::Duration;

use anyhow::ensure;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{DeleteParams, PostParams},
};
use quorumkv_tests::wait::until;
use serde_json::json;

use super::{store::Store, world::World};

pub(crate) async fn a_write_through_the_service_is_read_from_every_follower(world: &World) -> anyhow::Result<()> {
    let store = world.ready_store().await?;
    let (client, service) = (store.client()?, store.service().await?);
    let key = format!("greeting-{}", rand::random::<u32>());
    let written = client.set(&service.url(), &key, "hello").await?;
    ensure!(written.status == 200 && written.body["success"] == true, "{} {}", written.status, written.text);
    ensure!(written.body["replicas"].as_u64() >= Some(3), "too few replicas: {}", written.text);
    let read = client.get(&service.url(), &key, "").await?;
    ensure!(read.body["value"] == "hello", "the leader answers {} {}", read.status, read.text);

    let leader = store.leader().await?;
    for name in store.pods().await?.keys().filter(|name| **name != leader) {
        let pod = store.pod(name).await?;
        // A follower may be a moment behind, never wrong.
        until(&format!("the write on follower {name}"), Duration::from_secs(5), || async {
            let read = client.get(&pod.url(), &key, "").await?;
            ensure!(read.body["value"] == "hello", "{} {}", read.status, read.text);
            ensure!(read.body["version"] == written.body["version"], "another version: {}", read.text);
            Ok(())
        })
        .await?;
        let refused = client.set(&pod.url(), &key, "no").await?;
        let error = refused.body["error"].as_str();
        ensure!(refused.status == 403 && error == Some("Only leader accepts writes"), "{name}: {}", refused.text);
        let named = refused.body["leader"].as_str().unwrap_or_default();
        ensure!(named.contains(&leader), "{name} names {named:?} as leader, which is {leader}");
    }
    Ok(())
}

/// From inside, by the names that the documentation gives: through the cluster's DNS and the Services' addresses,
/// from another namespace.
pub(crate) async fn pods_reach_the_leader_and_the_followers_by_name(world: &World) -> anyhow::Result<()> {
    let store = world.ready_store().await?;
    let leader = store.leader().await?;
    let (name, namespace) = (store.name, store.namespace);
    for host in [
        format!("{name}.{namespace}"),
        format!("{name}-followers.{namespace}"),
        format!("{leader}.{name}-nodes.{namespace}"),
    ] {
        ask_from_a_pod(store, &format!("http://{host}.svc:5000/readyz")).await?;
    }
    Ok(())
}

/// Runs the node's own HTTP client in a pod beside the operator.
async fn ask_from_a_pod(store: &Store, url: &str) -> anyhow::Result<()> {
    let pods: Api<Pod> = Api::namespaced(store.kind.client.clone(), store.namespace);
    let node: Pod = pods.get(&store.leader().await?).await?;
    let containers = node.spec.map(|spec| spec.containers).unwrap_or_default();
    let image = containers.first().and_then(|container| container.image.clone());
    let asking: Api<Pod> = Api::namespaced(store.kind.client.clone(), super::world::SYSTEM);
    let name = format!("ask-{}", rand::random::<u32>());
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": false,
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "ask", "image": image, "args": ["healthcheck", "--url", url],
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
            }],
        },
    }))?;
    asking.create(&PostParams::default(), &pod).await?;
    let ended = until(&format!("an answer to a pod that asks {url}"), Duration::from_secs(30), || async {
        let phase = asking.get(&name).await?.status.and_then(|status| status.phase).unwrap_or_default();
        ensure!(phase == "Succeeded" || phase == "Failed", "the pod is {phase}");
        Ok(phase)
    })
    .await?;
    let said = asking.logs(&name, &kube::api::LogParams::default()).await?;
    ensure!(ended == "Succeeded", "a pod that asked {url} failed: {said}");
    asking.delete(&name, &DeleteParams::default().grace_period(0)).await?;
    Ok(())
}
