//! `kubectl kvc`, typed as a person would.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::{store::Store, world::World};

const COMPLETE_WITHIN: Duration = Duration::from_mins(1);

pub(crate) async fn kubectl_kvc_does_what_it_says(world: &World) -> anyhow::Result<()> {
    let store = world.ready_store().await?;
    store.until_complete(COMPLETE_WITHIN).await?;
    let before = store.get().await?.data["spec"].clone();

    let written = asked(store, &["set", "plugin", r#"{"colour":"blue"}"#]).await?;
    ensure!(written["success"] == true, "{written}");
    let read = asked(store, &["get", "plugin"]).await?;
    ensure!(read["value"] == json!({"colour": "blue"}) && read["version"] == written["version"], "{read}");
    let absent = asked(store, &["get", "no-such-key"]).await;
    ensure!(absent.is_err(), "a key that nobody wrote: {absent:?}");

    asked(store, &["quorum", "5"]).await?;
    asked(store, &["delay", "1ms", "20ms"]).await?;
    let status = store.get().await?.data["status"].clone();
    ensure!(status["writeQuorum"] == 5 && status["delay"] == json!({"min": "1ms", "max": "20ms"}), "{status}");
    let refused = asked(store, &["quorum", "6"]).await;
    ensure!(refused.is_err(), "a quorum of 6 among 5 followers: {refused:?}");

    let wanted = store.a_follower().await?;
    asked(store, &["switchover", &wanted]).await?;
    ensure!(store.leader().await? == wanted, "{wanted} was asked to lead");
    store.until_complete(COMPLETE_WITHIN).await?;

    let compared = asked(store, &["check"]).await?;
    ensure!(compared["passed"] == true, "{compared}");
    let status = asked(store, &["status"]).await?;
    let nodes = status["nodes"].as_array().with_context(|| status.to_string())?;
    ensure!(nodes.len() == 6 && nodes.iter().all(|node| node["counted"] == true), "{status}");
    let table = kvc(store, &["status"]).await?;
    ensure!(table.lines().any(|line| line.starts_with(&wanted) && line.contains("leads")), "{table}");

    store.patch(before).await?;
    store.until_complete(COMPLETE_WITHIN).await.map(|_| ())
}

/// What it prints for programs.
async fn asked(store: &Store, arguments: &[&str]) -> anyhow::Result<Value> {
    let text = kvc(store, &[arguments, &["--output", "json"]].concat()).await?;
    serde_json::from_str(&text).with_context(|| text)
}

async fn kvc(store: &Store, arguments: &[&str]) -> anyhow::Result<String> {
    let named = ["--namespace", store.namespace, "--cluster", store.name];
    Ok(store.kind.kubectl_kvc(arguments.iter().chain(&named))?.output().await?)
}
