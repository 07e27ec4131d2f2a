//! What a person sees of a store that went through something: as docs/operations.md shows it.
//!
//! The outputs are always looked at. With `QUORUMKV_SHOWN=1` (`make shown`) they are also put into that page and into
//! `results/shown`, and so is the dashboard, drawn from what a real Prometheus scraped of the operator and of every node
//! meanwhile.

use std::{
    env, fs,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, ensure};
use quorumkv_api::METRICS_PORT;
use quorumkv_tests::{
    dashboard::{self, Variables},
    kind::{
        shown::{Shown, insert},
        tunnel::Tunnel,
    },
    prometheus::{self, Prometheus, ScrapeTarget},
};
use serde_json::json;
use tokio::time::sleep;

use super::{
    settings::operator_pod,
    store::Store,
    world::{SYSTEM, World},
};

const PAGE: &str = "docs/operations.md";
const RESULTS: &str = "results/shown";
const COMPLETE_WITHIN: Duration = Duration::from_mins(1);
/// Between two things that happen in the picture of the dashboard.
const APART: Duration = Duration::from_secs(12);

pub(crate) async fn a_person_sees_what_a_store_went_through(world: &World) -> anyhow::Result<()> {
    let store = world.ready_store().await?;
    let keep = env::var("QUORUMKV_SHOWN").is_ok_and(|keep| keep == "1");
    let watched = if keep { Watched::begin(store).await? } else { None };
    let apart = if keep { APART } else { Duration::from_secs(1) };
    go_through_something(store, apart).await?;

    let resource = format!("kvc/{}", store.name);
    let events = "involvedObject.kind=KvCluster";
    let sorted = "--sort-by=.metadata.creationTimestamp";
    let shown = [
        kubectl(store, "get", &["get", "kvc", "--output=wide"], &["demo", "True"]).await?,
        kubectl(store, "pods", &["get", "pods", "--label-columns=quorumkv.io/role"], &["demo-0", "leader", "follower"])
            .await?,
        kubectl(
            store,
            "events",
            &["get", "events", "--field-selector", events, sorted],
            &["Promoted", "SettingsApplied"],
        )
        .await?,
        kubectl(store, "describe", &["describe", &resource], &["Conditions:", "Members:", "Events:"]).await?,
        kvc_status(store).await?,
    ];
    if !keep {
        return Ok(());
    }
    let root = store.kind.repository();
    let folder = root.join(RESULTS);
    fs::create_dir_all(&folder).with_context(|| RESULTS.to_owned())?;
    for one in &shown {
        write(&folder.join(format!("{}.txt", one.name)), format!("$ {}\n{}", one.command, one.output).as_bytes())?;
    }
    let page = fs::read_to_string(root.join(PAGE)).context(PAGE)?;
    write(&root.join(PAGE), insert(&page, &shown)?.as_bytes())?;
    if let Some(watched) = watched {
        watched.draw(store, &folder).await?;
    }
    Ok(())
}

/// Another quorum and back, and a leader that is deleted, while clients write.
async fn go_through_something(store: &Store, apart: Duration) -> anyhow::Result<()> {
    let service = store.service().await?;
    let load = store.load(&service, 4).reads_percent(30).pause(Duration::from_millis(5)).start()?;
    sleep(apart).await;
    store.patch(json!({"writeQuorum": 5})).await?;
    store.until_complete(COMPLETE_WITHIN).await?;
    sleep(apart).await;
    store.delete_pod(&store.leader().await?).await?;
    sleep(apart.min(Duration::from_secs(5))).await;
    store.until_complete(COMPLETE_WITHIN).await?;
    store.patch(json!({"writeQuorum": 3})).await?;
    store.until_complete(COMPLETE_WITHIN).await?;
    sleep(apart).await;
    // What a leader's end may cost is other steps' business.
    load.stop().await.map(|_| ())
}

async fn kubectl(store: &Store, name: &'static str, arguments: &[&str], expected: &[&str]) -> anyhow::Result<Shown> {
    let output = store.kubectl(arguments).await?;
    checked(Shown { name, command: format!("kubectl {}", arguments.join(" ")), output }, expected)
}

async fn kvc_status(store: &Store) -> anyhow::Result<Shown> {
    let arguments = ["status", "--namespace", store.namespace, "--cluster", store.name];
    let output = store.kind.kubectl_kvc(arguments)?.output().await?;
    checked(Shown { name: "status", command: "kubectl kvc status".to_owned(), output }, &["leads", "demo-5"])
}

fn checked(shown: Shown, expected: &[&str]) -> anyhow::Result<Shown> {
    let missing: Vec<&&str> = expected.iter().filter(|text| !shown.output.contains(**text)).collect();
    ensure!(missing.is_empty(), "{} does not show {missing:?}:\n{}", shown.command, shown.output);
    Ok(shown)
}

fn write(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    fs::write(path, content).with_context(|| path.display().to_string())
}

/// A Prometheus that scrapes the operator and every node.
struct Watched {
    prometheus: Prometheus,
    began: u64,
    /// Ways to what is scraped.
    _tunnels: Vec<Tunnel>,
}

impl Watched {
    /// Nothing where there is no Prometheus.
    async fn begin(store: &Store) -> anyhow::Result<Option<Self>> {
        if prometheus::program().is_none() {
            println!("no picture of the dashboard: there is no prometheus in PATH");
            return Ok(None);
        }
        let (mut targets, mut tunnels) = (Vec::new(), Vec::new());
        let pods: Vec<String> = store.pods().await?.into_keys().collect();
        let nodes = pods.into_iter().map(|pod| {
            // As the chart's monitors label them.
            let labels = json!({"namespace": store.namespace, "kvcluster": store.name, "pod": pod});
            (store.namespace, pod, labels)
        });
        let operator = (SYSTEM, operator_pod(store).await?, json!({"namespace": SYSTEM}));
        for (namespace, pod, labels) in nodes.chain([operator]).collect::<Vec<_>>() {
            let tunnel = Tunnel::to_pod(&store.kind.client, namespace, &pod, METRICS_PORT).await?;
            let address = tunnel.url().trim_start_matches("http://").to_owned();
            targets.push(ScrapeTarget { address, labels });
            tunnels.push(tunnel);
        }
        let rules = store.kind.repository().join("charts/quorumkv/files/rules.yaml");
        let prometheus = Prometheus::start(&targets, &rules.display().to_string()).await?;
        Ok(Some(Self { prometheus, began: now()?, _tunnels: tunnels }))
    }

    async fn draw(self, store: &Store, folder: &Path) -> anyhow::Result<()> {
        let (began, ended) = (self.began, now()?);
        let variables = Variables {
            namespace: store.namespace.to_owned(),
            kvcluster: store.name.to_owned(),
            rate_interval: "10s".to_owned(),
        };
        let panels = dashboard::ask(&self.prometheus, store.kind.repository(), &variables, began..ended).await?;
        let title = format!("The dashboard of KvCluster {}", store.name);
        let caption = "Drawn from its own queries to a Prometheus, not by Grafana: quorum set to 5, leader's pod deleted, quorum back to 3";
        let (svg, png) = dashboard::draw(&panels, &title, caption, ended - began)?;
        write(&folder.join("dashboard.svg"), svg.as_bytes())?;
        write(&folder.join("dashboard.png"), &png)
    }
}

fn now() -> anyhow::Result<u64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH).context("the time")?.as_secs())
}
