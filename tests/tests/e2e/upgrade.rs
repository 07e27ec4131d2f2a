//! From the previous release to this one, with a store at work.
//!
//! No release can be pulled where these tests run, and building an operator of an earlier commit takes many minutes, if
//! the clone has that commit at all. What an upgrade meets is kept in `tests/fixtures/previous` instead: the chart, and
//! the objects that the operator of that release made, applied here under its name while no operator runs. Their pods
//! are what must outlive the upgrade. Whatever happens before it, under the earlier chart, is done by this operator.

use std::{
    collections::BTreeSet,
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use quorumkv_tests::{
    kind::cluster::{Images, Kind},
    wait::until,
};
use serde_json::{Value, json};

use super::{
    store::Store,
    world::{RELEASE, SYSTEM, UPGRADE, World},
};

/// Writes that have to come through before and after the upgrade.
const WRITES: u64 = 50;
const WRITES_WITHIN: Duration = Duration::from_secs(30);
/// Pods start, on a machine that ends those of other stores meanwhile.
const PODS_WITHIN: Duration = Duration::from_secs(90);

pub(crate) async fn a_release_is_upgraded_under_load_and_no_pod_restarts(world: &World) -> anyhow::Result<()> {
    let kind = world.operator().await?;
    let images = world.images().await?;
    remove_this_release(kind).await?;
    kind.delete_namespaces(&[UPGRADE]).await?;
    kind.create_restricted_namespace(UPGRADE).await?;
    install_previous(kind, images, 0).await.context("the previous release's chart")?;

    let store = Store::new(kind, UPGRADE, "demo");
    make_as_previously(&store, images).await?;
    let before = until("the pods run", PODS_WITHIN, || async {
        let pods = store.pods().await?;
        ensure!(pods.len() == 6, "{} of 6 are there", pods.len());
        Ok(pods)
    })
    .await?;
    let running = ["wait", "pod", "--all", "--for=jsonpath={.status.phase}=Running", "--timeout=50s"];
    store.kubectl(&running).await?;
    install_previous(kind, images, 1).await.context("the operator under the previous release's chart")?;
    store.until_complete(Duration::from_mins(1)).await?;
    store.ensure_same_runs(&before).await.context("before the upgrade")?;

    let service = store.service().await?;
    let load = store.load(&service, 4).start()?;
    load.acked_more(WRITES, WRITES_WITHIN).await.context("before the upgrade")?;
    let began = Instant::now();
    kind.install(RELEASE, SYSTEM, images).await.context("the upgrade")?;
    let took = began.elapsed();
    // Whoever does this is the operator that the upgrade brought.
    store.patch(json!({"writeQuorum": 5})).await?;
    store.until_complete(Duration::from_mins(1)).await.context("after the upgrade")?;
    load.acked_more(WRITES, WRITES_WITHIN).await.context("after the upgrade")?;
    let report = load.stop().await?;
    report.expect_no_failure()?;
    store.ensure_same_runs(&before).await.context("after the upgrade")?;

    let history = kind.helm(["history", RELEASE, "--namespace", SYSTEM, "--output=json"]).output().await?;
    let history: Vec<Value> = serde_json::from_str(&history).context("helm history")?;
    let last = history.last().context("a release has a history")?;
    ensure!(history.len() == 3 && last["status"] == "deployed", "helm history says {history:?}");
    ensure_definition_is_of_this_release(kind).await?;
    world.fact(format!(
        "operator upgrade: helm upgrade took {took:.1?}; no failed write of {}, no pod restarted",
        report.acked()
    ));
    world.scenario("operator upgrade", &store, &report).await
}

/// As in a cluster that never saw this release: resource definition and release are those of the previous one alone.
async fn remove_this_release(kind: &Kind) -> anyhow::Result<()> {
    kind.helm(["uninstall", RELEASE, "--namespace", SYSTEM, "--ignore-not-found", "--wait"]).output().await?;
    let definition = ["delete", "customresourcedefinition", "kvclusters.quorumkv.io", "--ignore-not-found"];
    kind.kubectl(definition).arg("--timeout=2m").within(Duration::from_secs(130)).output().await?;
    Ok(())
}

fn fixture(kind: &Kind, name: &str) -> PathBuf {
    kind.repository().join("tests/fixtures/previous").join(name)
}

async fn install_previous(kind: &Kind, images: &Images, replicas: u8) -> anyhow::Result<()> {
    let Images { operator, node } = images;
    kind.helm(["upgrade", "--install", RELEASE])
        .arg(fixture(kind, "chart.tgz"))
        .args(["--namespace", SYSTEM, "--wait", "--timeout", "3m"])
        .args(["--set", &format!("replicas={replicas}")])
        .args(["--set", &format!("image.repository={},image.tag={}", operator.repository, operator.tag)])
        .args(["--set", &format!("nodeImage.repository={},nodeImage.tag={}", node.repository, node.tag)])
        .output()
        .await?;
    Ok(())
}

/// The KvCluster, and what the previous operator made of it, under the name by which operators own fields.
async fn make_as_previously(store: &Store, images: &Images) -> anyhow::Result<()> {
    let read = |name: &str| -> anyhow::Result<String> {
        let path = fixture(&store.kind, name);
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Ok(text.replace("@NAMESPACE@", store.namespace).replace("@IMAGE@", &images.node.to_string()))
    };
    store.kind.apply(&serde_json::from_str(&read("kvcluster.json")?)?).await?;
    let uid = store.get().await?.metadata.uid.context("what exists has a uid")?;
    let objects =
        read("objects.json")?.replace("@UID@", &uid).replace("@TOKEN@", &format!("{:032x}", rand::random::<u128>()));
    let objects: Vec<Value> = serde_json::from_str(&objects).context("objects.json")?;
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
    let apply = ["apply", "--server-side", "--field-manager=quorumkv-operator", "--filename", "-"];
    store.kind.kubectl(apply).input(list.to_string()).output().await?;
    Ok(())
}

/// The API server knows every field that this release has, and keeps it.
async fn ensure_definition_is_of_this_release(kind: &Kind) -> anyhow::Result<()> {
    let fields = |definition: &Value| -> anyhow::Result<BTreeSet<String>> {
        let properties = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
        let of =
            |part: &str| properties[part]["properties"].as_object().with_context(|| format!("no schema of {part}"));
        Ok(of("spec")?.keys().chain(of("status")?.keys()).cloned().collect())
    };
    let file = fs::read_to_string(kind.repository().join("crds/kvcluster.yaml"))?;
    let wanted = fields(&serde_saphyr::from_str(&file).context("crds/kvcluster.yaml")?)?;
    let definition = ["get", "customresourcedefinition", "kvclusters.quorumkv.io", "--output=json"];
    let there = fields(&serde_json::from_str(&kind.kubectl(definition).output().await?)?)?;
    ensure!(there == wanted, "the resource definition has {there:?}, this release {wanted:?}");
    Ok(())
}
