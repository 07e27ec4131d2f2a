//! The operator's pods, and their end.

use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Pod};
use kube::{Api, ResourceExt as _, api::ListParams};

use super::cluster::Kind;

/// What operators settle by which of them works.
const LEASE: &str = "quorumkv-operator";

/// The pod of the operator in this namespace that works: the one that holds the Lease. Where none of those that are not
/// on their way out does yet, the first of them.
///
/// # Errors
/// When there is none.
pub async fn pod(kind: &Kind, namespace: &str) -> anyhow::Result<String> {
    Ok(active(kind, namespace).await?.name_any())
}

/// The machine that it is on.
///
/// # Errors
/// When there is none.
pub async fn machine(kind: &Kind, namespace: &str) -> anyhow::Result<String> {
    let pod = active(kind, namespace).await?;
    pod.spec.and_then(|spec| spec.node_name).context("the operator's pod is on no machine")
}

async fn active(kind: &Kind, namespace: &str) -> anyhow::Result<Pod> {
    let leases: Api<Lease> = Api::namespaced(kind.client.clone(), namespace);
    let lease = leases.get_opt(LEASE).await.context("get the operator's Lease")?;
    let holder = lease.and_then(|lease| lease.spec?.holder_identity).unwrap_or_default();
    let pods: Api<Pod> = Api::namespaced(kind.client.clone(), namespace);
    let found = pods.list(&ListParams::default().labels("app.kubernetes.io/component=operator")).await?;
    let stays = found.items.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
    stays.min_by_key(|pod| pod.name_any() != holder).context("there is no operator pod")
}

/// Ends the one that works so that it cannot finish what it began, nor give back its Lease. A pod that is only deleted,
/// even by force, works on for two seconds; a process that is only killed is started again in its pod, and has its Lease
/// still. One that is stopped does nothing until the deletion of its pod kills it.
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
