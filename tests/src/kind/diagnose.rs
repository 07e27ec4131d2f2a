//! What the cluster looks like, for the failure of a test.

use std::fmt::Write as _;

use super::cluster::Kind;

/// Lines of each pod's log.
const LOG_LINES: &str = "--tail=40";

/// The state of the operator's namespace and of those with KvClusters, as a person would look at it.
///
/// Never fails: what cannot be had is named in its place.
pub async fn describe(kind: &Kind, system: &str, namespaces: &[&str]) -> String {
    let mut text = String::new();
    show(kind, &mut text, &["get", "kvclusters", "--all-namespaces", "--output=yaml"]).await;
    show(kind, &mut text, &["get", "nodes", "--output=wide"]).await;
    for namespace in namespaces.iter().copied().chain([system]) {
        let of = format!("--namespace={namespace}");
        show(kind, &mut text, &[&of, "get", "pods,services,endpointslices", "--output=wide", "--show-labels"]).await;
        show(kind, &mut text, &[&of, "get", "events", "--sort-by=.lastTimestamp"]).await;
    }
    let selector = "--selector=app.kubernetes.io/name=quorumkv";
    for namespace in namespaces.iter().copied().chain([system]) {
        let of = format!("--namespace={namespace}");
        let logs = [&of, "logs", selector, "--prefix", LOG_LINES, "--max-log-requests=20", "--ignore-errors"];
        show(kind, &mut text, &logs).await;
    }
    show(kind, &mut text, &[&format!("--namespace={system}"), "logs", selector, "--previous", LOG_LINES]).await;
    text
}

async fn show(kind: &Kind, text: &mut String, arguments: &[&str]) {
    let shown = match kind.kubectl(arguments).output().await {
        Ok(output) => output,
        Err(error) => error.to_string(),
    };
    write!(text, "\n--- kubectl {}\n{shown}", arguments.join(" ")).expect("a String takes any text");
}
