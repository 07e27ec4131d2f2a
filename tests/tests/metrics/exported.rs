//! What nodes and operator export: the text of real registries, in which everything happened once.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use anyhow::Context;
use axum::http::{Method, StatusCode, Uri};
use kube::runtime::{reflector, watcher::Event};
use quorumkv_api::{
    Epoch, Position, ProcessId, Seq, StorageId,
    lab::Role,
    peer::{FollowerState, NodeState},
};
use quorumkv_node::{
    handle::Inspection,
    metrics as node,
    metrics::{connections::Ended, requests::Port},
};
use quorumkv_operator::{crd::KvCluster, metrics as operator};
use serde_json::json;

/// A metric as Prometheus names it; of a histogram, what its series begin with.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Metric {
    pub(crate) name: String,
    pub(crate) kind: String,
    /// Of its series, those of buckets apart.
    pub(crate) labels: BTreeSet<String>,
    pub(crate) help: String,
}

impl Metric {
    /// What its name ends with, if that is a unit.
    pub(crate) fn unit(&self) -> &str {
        let name = self.name.trim_end_matches("_total");
        ["seconds", "bytes"].into_iter().find(|unit| name.ends_with(unit)).unwrap_or_default()
    }

    /// The series that Prometheus keeps of it.
    pub(crate) fn series(&self) -> Vec<String> {
        match self.kind.as_str() {
            "histogram" => ["bucket", "sum", "count"].iter().map(|part| format!("{}_{part}", self.name)).collect(),
            _ => vec![self.name.clone()],
        }
    }
}

/// Every metric of nodes and operator, in the order in which they are registered.
pub(crate) fn metrics() -> anyhow::Result<Vec<Metric>> {
    let mut metrics = parse(&node_text()?)?;
    metrics.extend(parse(&operator_metrics()?.text()?)?);
    Ok(metrics)
}

fn node_text() -> anyhow::Result<String> {
    let metrics = node::Metrics::default();
    let route = metrics.requests.route(Port::Client, &Method::POST, "/set");
    route.observe(StatusCode::OK, Duration::from_millis(1));
    metrics.connections.of(Port::Client).ended(Ended::idle);
    metrics.certificates_loaded();
    let follower = FollowerState {
        node: "demo-1".into(),
        storage_id: None,
        match_seq: Seq(1),
        connected: true,
        counted: true,
        caught_up: true,
    };
    let state = NodeState {
        node: "demo-0".into(),
        storage_id: StorageId::random(),
        process_id: ProcessId::random(),
        role: Role::Leader,
        promised: Epoch(1),
        epoch: Epoch(1),
        leader: Some("demo-0".into()),
        ready: true,
        last: Position { epoch: Epoch(1), seq: Seq(1) },
        commit: Seq(1),
        settings: None,
        followers: vec![follower],
        configuration: None,
    };
    let acknowledgements = vec![("demo-1".into(), Duration::from_millis(1))];
    let inspection = Inspection { state, peers: Vec::new(), acknowledgements };
    metrics.render(&inspection, 0, 0).context("the node's metrics")
}

/// The metrics of an operator that looks after `default/demo`, and to which everything happened once.
pub(crate) fn operator_metrics() -> anyhow::Result<Arc<operator::Metrics>> {
    let condition = |kind: &str, status: &str| json!({"type": kind, "status": status, "reason": "Test", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let cluster: KvCluster = serde_json::from_value(json!({
        "apiVersion": "quorumkv.io/v1alpha1",
        "kind": "KvCluster",
        "metadata": {"name": "demo", "namespace": "default", "uid": "u1"},
        "spec": {},
        "status": {"epoch": 1, "readyFollowers": 5, "writeQuorum": 3,
            "conditions": [condition("Ready", "True"), condition("Degraded", "False")]},
    }))?;
    let (store, mut writer) = reflector::store();
    writer.apply_watcher_event(&Event::Apply(cluster));
    let metrics = operator::Metrics::default();
    metrics.show(store);
    metrics.leading(true);
    let status = "/apis/quorumkv.io/v1alpha1/namespaces/default/kvclusters/demo/status";
    metrics.api_requests().count(&Method::PATCH, &Uri::from_static(status));
    metrics.reconciled("default", "demo", Duration::from_millis(5));
    metrics.promoted("default", "demo");
    metrics.failed("timeout");
    metrics.put_off("conflict");
    Ok(Arc::new(metrics))
}

/// Reads the text format of OpenMetrics, as far as registries write it.
fn parse(text: &str) -> anyhow::Result<Vec<Metric>> {
    let mut metrics: Vec<Metric> = Vec::new();
    let mut told = String::new();
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            told = help.split_once(' ').context("HELP has a text")?.1.trim_end_matches('.').to_owned();
        } else if let Some(typed) = line.strip_prefix("# TYPE ") {
            let (name, kind) = typed.split_once(' ').context("TYPE has a type")?;
            let total = if kind == "counter" { "_total" } else { "" };
            let (name, kind) = (format!("{name}{total}"), kind.to_owned());
            metrics.push(Metric { name, kind, labels: BTreeSet::new(), help: std::mem::take(&mut told) });
        } else if !line.starts_with('#') {
            let metric = metrics.last_mut().with_context(|| format!("a TYPE before {line}"))?;
            metric.labels.extend(labels(line).filter(|label| label != "le"));
        }
    }
    Ok(metrics)
}

/// The labels of a sample. No value holds a comma or a quote.
fn labels(sample: &str) -> impl Iterator<Item = String> {
    let set = sample.split_once('{').and_then(|(_, rest)| rest.rsplit_once('}')).map_or("", |(set, _)| set);
    set.split(',').filter_map(|pair| Some(pair.split_once('=')?.0.to_owned()))
}
