//! The operator's pod, and its end.

use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::ListParams};

use super::cluster::Kind;

/// The only pod of the operator in this namespace that is not on its way out.
///
/// # Errors
/// When there is none.
pub async fn pod(kind: &Kind, namespace: &str) -> anyhow::Result<String> {
    let pods: Api<Pod> = Api::namespaced(kind.client.clone(), namespace);
    let found = pods.list(&ListParams::default().labels("app.kubernetes.io/component=operator")).await?;
    let mut stays = found.items.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
    stays.find_map(|pod| pod.metadata.name).context("there is no operator pod")
}

/// Ends it so that it cannot finish what it began, nor give back its Lease. A pod that is only deleted, even by force,
/// works on for two seconds; a process that is only killed is started again in its pod, and has its Lease still. One
/// that is stopped does nothing until the deletion of its pod kills it.
///
/// # Errors
/// When there is none, or kubectl fails.
pub async fn kill(kind: &Kind, namespace: &str) -> anyhow::Result<()> {
    let pod = pod(kind, namespace).await?;
    kind.signal(namespace, &pod, "SIGSTOP").await?;
    let delete = ["--namespace", namespace, "delete", "pod", &pod, "--grace-period=0", "--force", "--wait=false"];
    kind.kubectl(delete).output().await?;
    Ok(())
}

/// Waits until the Deployment is complete.
///
/// # Errors
/// When that takes more than a minute.
pub async fn until_up(kind: &Kind, namespace: &str) -> anyhow::Result<()> {
    let rollout = ["--namespace", namespace, "rollout", "status", "deployment/quorumkv-operator", "--timeout=60s"];
    kind.kubectl(rollout).within(Duration::from_secs(65)).output().await?;
    Ok(())
}
