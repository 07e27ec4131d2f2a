//! The live page of the operator, as the chart serves it.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use quorumkv_tests::{kind::tunnel::Tunnel, wait::until};
use serde_json::{Value, json};

use super::world::{RELEASE, SYSTEM, World};

pub(crate) async fn the_page_shows_every_node_and_changes_nothing(world: &World) -> anyhow::Result<()> {
    let store = world.ready_store().await?;
    let tunnel = Tunnel::to_service(&store.kind.client, SYSTEM, &format!("{RELEASE}-page"), 8080).await?;
    let http = reqwest::Client::builder().timeout(Duration::from_secs(20)).no_proxy().build()?;
    let url = format!("{}/api/stores/{}/{}", tunnel.url(), store.namespace, store.name);
    until("the page shows a leader and five followers", Duration::from_secs(30), || async {
        let frame = frame(&http, &url).await?;
        let nodes = frame["nodes"].as_array().context("no nodes")?;
        let are = |state: &str| nodes.iter().filter(|node| node["state"] == state).count();
        ensure!((are("leads"), are("follows")) == (1, 5), "{frame}");
        ensure!(frame["ready"] == true && frame["applied"]["writeQuorum"] == 3, "{frame}");
        Ok(())
    })
    .await?;
    let wish = json!({"writeQuorum": 1});
    let answer = http.put(format!("{url}/settings")).json(&wish).send().await?;
    ensure!(answer.status() == 403, "it may change settings: {}", answer.status());
    Ok(())
}

/// The first frame of a stream that is opened for it.
async fn frame(http: &reqwest::Client, url: &str) -> anyhow::Result<Value> {
    let mut answer = http.get(format!("{url}/events")).send().await?.error_for_status()?;
    let mut text = String::new();
    while let Some(piece) = answer.chunk().await? {
        text += std::str::from_utf8(&piece)?;
        let frame = text.split_once("event: frame\ndata: ").and_then(|(_, rest)| rest.split_once("\n\n"));
        if let Some((frame, _)) = frame {
            return Ok(serde_json::from_str(frame)?);
        }
    }
    anyhow::bail!("the stream ended after {text:?}")
}
