//! What must not happen: writes to the API server without a cause, and errors.

use std::time::Duration;

use anyhow::{bail, ensure};
use k8s_openapi::api::events::v1::Event;
use kube::{Api, api::ListParams};
use quorumkv_tests::{
    kind::{objects::Inventory, tunnel::Tunnel},
    wait::until,
};

use super::{
    settings::operator_pod,
    world::{SYSTEM, World},
};

/// Longer than any interval at which the operator looks at a store by itself, several times over.
const IDLE: Duration = Duration::from_secs(12);

pub(crate) async fn an_idle_store_changes_no_object(world: &World) -> anyhow::Result<()> {
    let store = world.ready_store().await?;
    let inventory = Inventory::new(&store.kind.client).await?;
    let events: Api<Event> = Api::namespaced(store.kind.client.clone(), store.namespace);
    let look = || async {
        let events = events.list_metadata(&ListParams::default()).await?;
        let events = events.into_iter().map(|event| (event.metadata.name, event.metadata.resource_version));
        anyhow::Ok((inventory.versions(store.namespace).await?, events.collect::<Vec<_>>()))
    };
    // What the steps before set in motion may still come to rest.
    let (objects, events) = until("two looks see the same", Duration::from_secs(20), || async {
        let one = look().await?;
        let other = look().await?;
        ensure!(one == other, "{one:?}\n{other:?}");
        Ok(other)
    })
    .await?;
    tokio::time::sleep(IDLE).await;
    let (objects_after, events_after) = look().await?;
    let changed = objects_after.iter().filter(|(key, version)| objects.get(key) != Some(version));
    let changed: Vec<String> = changed.map(|(key, version)| format!("{key} (version {version})")).collect();
    ensure!(changed.is_empty(), "written within {IDLE:?} of rest: {}", changed.join(", "));
    ensure!(objects.len() == objects_after.len(), "objects went away: {objects:?}, now {objects_after:?}");
    ensure!(events == events_after, "events within {IDLE:?} of rest: {events_after:?}, before {events:?}");
    world.fact(format!("an idle store: none of its {} objects written within {IDLE:?}", objects.len()));
    Ok(())
}

pub(crate) async fn the_operator_counted_no_unexplained_error(world: &World) -> anyhow::Result<()> {
    let store = world.ready_store().await?;
    let pod = operator_pod(store).await?;
    let tunnel = Tunnel::to_pod(&store.kind.client, SYSTEM, &pod, 9100).await?;
    let metrics = store.client()?.get_path(&tunnel.url(), "/metrics").await?;
    ensure!(metrics.status == 200, "/metrics: {} {}", metrics.status, metrics.text);
    let samples: Vec<&str> = metrics.text.lines().filter(|line| !line.starts_with('#')).collect();
    ensure!(
        samples.iter().any(|line| line.starts_with("quorumkv_operator_reconcile")),
        "no reconcile metric: {samples:?}"
    );
    let errors = samples.iter().filter(|line| line.contains("error") && !line.ends_with(" 0"));
    // That the API server did not answer is no fault of the operator's, on a machine as busy as this.
    let (explained, errors): (Vec<&str>, Vec<&str>) =
        errors.copied().partition(|line| line.contains("error=\"kubernetes_unavailable\""));
    for line in explained {
        world.fact(format!("the API server did not answer the operator: {line}"));
    }
    if !errors.is_empty() {
        let log = store.kind.kubectl(["--namespace", SYSTEM, "logs", &pod]).output().await?;
        let log: Vec<&str> = log.lines().filter(|line| line.contains("reconcile failed")).collect();
        bail!("the operator counted errors: {errors:#?}\nand logged: {log:#?}");
    }
    Ok(())
}
