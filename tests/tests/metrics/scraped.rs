//! A real Prometheus over six real nodes under load, and over the registry of an operator.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, ensure};
use quorumkv_api::Delay;
use quorumkv_operator::{health, metrics};
use quorumkv_tests::{
    dashboard::{self, Kind, Variables},
    load::Load,
    processes::{Lab, LabOptions, Storage},
    prometheus::{Prometheus, ScrapeTarget},
    wait,
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, time::sleep};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    dashboard::{ALERTS, Dashboard},
    exported::{self, operator_metrics},
    repository,
};

const PATIENCE: Duration = Duration::from_secs(30);
const DELAY: Delay = Delay { min: Duration::from_millis(1), max: Duration::from_millis(3) };

pub(crate) fn every_query_has_an_answer() -> anyhow::Result<()> {
    tokio::runtime::Runtime::new()?.block_on(async {
        let options = LabOptions { delay: DELAY, storage: Storage::Persistent, ..LabOptions::default() };
        let lab = Lab::start(options).await?;
        let load = Load::new(lab.target()).clients(4).keys("k", 20).reads_percent(30).pause(Duration::from_millis(5));
        let load = load.start()?;
        let operator = Operator::start().await?;
        let nodes = lab.indices().map(|index| {
            let url = lab.metrics_url(index);
            let address = url.trim_start_matches("http://").trim_end_matches("/metrics").to_owned();
            // As the chart's monitors label them.
            let labels = json!({"namespace": "default", "kvcluster": "demo", "pod": format!("demo-{index}")});
            ScrapeTarget { address, labels }
        });
        let labels = json!({"namespace": "quorumkv-system"});
        let steering = ScrapeTarget { address: operator.address.to_string(), labels };
        let targets: Vec<ScrapeTarget> = nodes.chain([steering]).collect();
        let prometheus = Prometheus::start(&targets, &repository(ALERTS)).await?;
        let outcome = match look(&prometheus, targets.len()).await {
            Ok(()) => every_panel_is_drawn(&prometheus).await,
            failed => failed,
        };
        outcome.with_context(|| prometheus.output_end(20))?;
        load.stop().await?.expect_no_failure()
    })
}

async fn look(prometheus: &Prometheus, targets: usize) -> anyhow::Result<()> {
    // A rate needs two scrapes.
    let scraped = format!("count(sum_over_time(up[1m]) >= 3) == {targets}");
    wait::until("everything was scraped", PATIENCE, || async {
        let found = prometheus.ask("query", &[("query", &scraped)]).await?;
        ensure!(found["result"] != json!([]), "up: {}", prometheus.ask("query", &[("query", "up")]).await?);
        Ok(())
    })
    .await?;

    let dashboard = Dashboard::read()?;
    let queries = dashboard.queries()?;
    wait::until("every query of the dashboard has an answer", PATIENCE, || async {
        let mut unanswered = Vec::new();
        for (panel, query) in &queries {
            let expression = filled_in(query);
            ensure!(!expression.contains('$'), "{panel} uses a variable that this test does not know: {query}");
            if prometheus.numbers(&expression).await.with_context(|| panel.clone())? == 0 {
                unanswered.push(format!("{panel}: {expression}"));
            }
        }
        ensure!(unanswered.is_empty(), "no number for {unanswered:#?}");
        Ok(())
    })
    .await?;
    for (name, query) in dashboard.variables()? {
        let values = values_of(prometheus, &query).await?;
        let expected = if name == "namespace" { "default" } else { "demo" };
        ensure!(values == [expected], "${name} can be {values:?}");
    }

    let names = prometheus.ask("label/__name__/values", &[]).await?;
    let scraped: BTreeSet<&str> = names.as_array().context("a list")?.iter().filter_map(Value::as_str).collect();
    let known: BTreeSet<String> = exported::metrics()?.iter().flat_map(|metric| metric.series()).collect();
    let unknown: Vec<&&str> =
        scraped.iter().filter(|name| name.starts_with("quorumkv_") && !known.contains(**name)).collect();
    ensure!(unknown.is_empty(), "real nodes export what this test did not provoke: {unknown:?}");

    let rules = prometheus.ask("rules", &[]).await?;
    let groups = rules["groups"].as_array().context("groups of rules")?;
    let rules: Vec<&Value> = groups.iter().filter_map(|group| group["rules"].as_array()).flatten().collect();
    let unwell: Vec<&&Value> = rules.iter().filter(|rule| rule["health"] != "ok").collect();
    ensure!(!rules.is_empty() && unwell.is_empty(), "of {} alerts these cannot be evaluated: {unwell:#?}", rules.len());
    Ok(())
}

/// As `make shown` draws the dashboard of a store on Kubernetes.
async fn every_panel_is_drawn(prometheus: &Prometheus) -> anyhow::Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the time")?.as_secs();
    let variables =
        Variables { namespace: "default".to_owned(), kvcluster: "demo".to_owned(), rate_interval: "10s".to_owned() };
    let panels = dashboard::ask(prometheus, Path::new(&repository("")), &variables, now - 10..now).await?;
    let empty = panels.iter().filter(|panel| panel.kind != Kind::Row && panel.series.is_empty());
    let empty: Vec<&str> = empty.map(|panel| panel.title.as_str()).collect();
    ensure!(panels.len() > 20 && empty.is_empty(), "of {} panels these show nothing: {empty:?}", panels.len());
    let (svg, png) = dashboard::draw(&panels, "quorumkv", "six local nodes under load", 10)?;
    if let Some(file) = std::env::var_os("QUORUMKV_DASHBOARD") {
        std::fs::write(&file, png).with_context(|| format!("{}", Path::new(&file).display()))?;
    }
    let missing = panels.iter().filter(|panel| !svg.contains(&panel.title));
    let missing: Vec<&str> = missing.map(|panel| panel.title.as_str()).collect();
    ensure!(missing.is_empty(), "the picture lacks {missing:?}");
    Ok(())
}

/// An expression as Grafana would send it.
fn filled_in(query: &str) -> String {
    query.replace("$namespace", "default").replace("$kvcluster", "demo").replace("$__rate_interval", "10s")
}

/// The values of a variable: `label_values(selector, label)`.
async fn values_of(prometheus: &Prometheus, query: &str) -> anyhow::Result<Vec<String>> {
    let arguments = query.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')'));
    let (selector, label) = arguments.and_then(|inside| inside.rsplit_once(", ")).with_context(|| query.to_owned())?;
    let values = prometheus.ask(&format!("label/{label}/values"), &[("match[]", &filled_in(selector))]).await?;
    Ok(serde_json::from_value(values)?)
}

/// The metrics port of an operator that reconciles now and then.
struct Operator {
    address: SocketAddr,
    _tasks: [AbortOnDropHandle<()>; 2],
}

impl Operator {
    async fn start() -> anyhow::Result<Self> {
        let metrics: Arc<metrics::Metrics> = operator_metrics()?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("a port")?;
        let address = listener.local_addr()?;
        let router = health::metrics(Arc::clone(&metrics));
        let serve = async move { axum::serve(listener, router).await.expect("it serves until it is dropped") };
        let work = async move {
            loop {
                metrics.reconciled("default", "demo", Duration::from_millis(5));
                sleep(Duration::from_millis(100)).await;
            }
        };
        let tasks = [AbortOnDropHandle::new(tokio::spawn(serve)), AbortOnDropHandle::new(tokio::spawn(work))];
        Ok(Self { address, _tasks: tasks })
    }
}
