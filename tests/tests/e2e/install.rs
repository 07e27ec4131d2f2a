//! From a bare cluster to a store that is Ready.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{Api, api::ListParams};
use quorumkv_tests::kind::objects::PodSeen;

use super::world::{FIRST, RELEASE, SYSTEM, World};

pub(crate) async fn helm_installs_the_operator_where_restricted_pod_security_is_enforced(
    world: &World,
) -> anyhow::Result<()> {
    let kind = world.operator().await?;
    let namespaces: Api<Namespace> = Api::all(kind.client.clone());
    for name in [SYSTEM, FIRST] {
        let labels = namespaces.get(name).await?.metadata.labels.unwrap_or_default();
        let level = labels.get("pod-security.kubernetes.io/enforce").map(String::as_str);
        ensure!(level == Some("restricted"), "{name} enforces {level:?}");
    }
    let status = kind.helm(["status", RELEASE, "--namespace", SYSTEM]).output().await?;
    ensure!(status.contains("STATUS: deployed"), "helm status says:\n{status}");
    let pods: Api<Pod> = Api::namespaced(kind.client.clone(), SYSTEM);
    let found = pods.list(&ListParams::default().labels("app.kubernetes.io/component=operator")).await?;
    let [pod] = found.items.as_slice() else { anyhow::bail!("{} operator pods instead of one", found.items.len()) };
    let seen = PodSeen::of(pod);
    ensure!(seen.ready && seen.restarts == 0, "the operator's pod is {seen:?}");
    Ok(())
}

pub(crate) async fn helm_test_passes(world: &World) -> anyhow::Result<()> {
    let kind = world.operator().await?;
    let said = kind.helm(["test", RELEASE, "--namespace", SYSTEM, "--timeout", "90s"]).output().await?;
    ensure!(said.contains("Succeeded"), "helm test says:\n{said}");
    Ok(())
}

pub(crate) async fn a_kvcluster_is_ready_within_60_seconds(world: &World) -> anyhow::Result<()> {
    let (_, took) = world.first_store().await?;
    world.fact(format!("KvCluster Ready with all five followers after apply: {took:.1?}"));
    ensure!(*took <= Duration::from_mins(1), "it took {took:?}");
    Ok(())
}

pub(crate) async fn kubectl_shows_the_columns(world: &World) -> anyhow::Result<()> {
    let store = world.ready_store().await?;
    let table = store.kubectl(&["get", "kvc"]).await?;
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    let [header, row] = rows.as_slice() else { anyhow::bail!("not a header and one row:\n{table}") };
    ensure!(*header == ["NAME", "READY", "LEADER", "FOLLOWERS", "QUORUM", "AGE"], "the columns are {header:?}");
    let leader = store.leader().await?;
    ensure!(row[..5] == ["demo", "True", &leader, "5/5", "3"], "the row is {row:?}");
    let wide = store.kubectl(&["get", "kvclusters.quorumkv.io", "--output=wide"]).await?;
    let delay = wide.lines().nth(1).is_some_and(|row| row.contains("10ms-150ms"));
    ensure!(wide.contains("DELAY") && delay, "no applied delay in the wide table:\n{wide}");
    let all = store.kubectl(&["get", "all"]).await?;
    ensure!(all.contains("kvcluster.quorumkv.io/demo"), "the category all does not show it:\n{all}");
    Ok(())
}

/// That the namespace enforces it only shows that pods could start; this is what they start with.
pub(crate) async fn nothing_runs_with_more_rights_than_it_needs(world: &World) -> anyhow::Result<()> {
    let store = world.ready_store().await?;
    let pods: Api<Pod> = Api::namespaced(store.kind.client.clone(), store.namespace);
    for name in store.pods().await?.keys() {
        let spec = pods.get(name).await?.spec.context("a pod without spec")?;
        ensure!(spec.automount_service_account_token == Some(false), "{name} gets a token for the API server");
        for container in &spec.containers {
            let security = container.security_context.clone().unwrap_or_default();
            ensure!(security.read_only_root_filesystem == Some(true), "{name} may write to its root");
        }
    }
    // A node's account, even if it had a token, could not read the secret of another store.
    let account = format!("system:serviceaccount:{}:default", store.namespace);
    let answer = store.kind.kubectl(["auth", "can-i", "get", "secrets", "--as", &account]).output().await;
    ensure!(answer.is_err(), "the nodes' service account may read secrets");
    Ok(())
}

/// Stores need the operator for failovers and changes, not for their work.
pub(crate) async fn uninstalling_the_operator_leaves_stores_at_work(world: &World) -> anyhow::Result<()> {
    let store = world.ready_store().await?;
    let before = store.pods().await?;
    let service = store.service().await?;
    let load = store.load(&service, 4).start()?;
    store.kind.helm(["uninstall", RELEASE, "--namespace", SYSTEM, "--wait"]).output().await?;
    load.acked_more(50, Duration::from_secs(30)).await?;
    let report = load.stop().await?;
    report.expect_no_failure()?;
    world.scenario("operator uninstalled", store, &report).await?;
    store.ensure_same_runs(&before).await?;
    let cluster = store.get().await.context("the KvCluster went with the operator")?;
    ensure!(cluster.metadata.deletion_timestamp.is_none(), "the KvCluster is being deleted");
    Ok(())
}
