//! etcd: members of equal right, of which the leader is asked. Every write waits for a majority; with six members that
//! is the leader and three more.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context as _, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;

use super::{Group, PATIENCE, Setup, Storage, find, folder, loopback, process};
use crate::{
    bench::{
        answer::Expected,
        connection::Target,
        request::{KeyForm, Request, key},
    },
    processes::ports::PortBlock,
    wait,
};

/// Peer ports come behind as many client ports.
const PEERS: usize = 10;

pub(super) fn program() -> Option<PathBuf> {
    find("etcd")
}

pub(super) async fn start(setup: Setup) -> anyhow::Result<Group> {
    let Setup { storage, followers } = setup;
    let program = program().context("no etcd in PATH: tests/cluster/tools.sh etcd builds one")?;
    let (ports, folder) = (PortBlock::take()?, folder()?);
    let url = |index: usize| format!("http://{}", loopback(&ports, index));
    let members: Vec<String> = (0..=followers).map(|index| format!("m{index}={}", url(PEERS + index))).collect();
    let mut processes = Vec::new();
    for index in 0..=followers {
        let data = folder.path().join(format!("data{index}")).display().to_string();
        let (client, peer) = (url(index), url(PEERS + index));
        let mut arguments: Vec<String> = [
            ("--name", format!("m{index}")),
            ("--data-dir", data),
            ("--listen-client-urls", client.clone()),
            ("--advertise-client-urls", client),
            ("--listen-peer-urls", peer.clone()),
            ("--initial-advertise-peer-urls", peer),
            ("--initial-cluster", members.join(",")),
            ("--initial-cluster-state", "new".to_owned()),
            ("--log-level", "warn".to_owned()),
        ]
        .into_iter()
        .flat_map(|(name, value)| [name.to_owned(), value])
        .collect();
        if storage == Storage::Memory {
            arguments.push("--unsafe-no-fsync".to_owned());
        }
        let mut process = process(format!("etcd{index}"), program.clone(), arguments, &folder);
        process.start()?;
        processes.push(process);
    }
    let addresses: Vec<SocketAddr> = (0..=followers).map(|index| loopback(&ports, index)).collect();
    let client = reqwest::Client::builder().timeout(Duration::from_secs(5)).build().context("an HTTP client")?;
    let leader = wait::until("all members follow one leader", PATIENCE, || leader(&client, &addresses)).await;
    let address = leader.with_context(|| processes.iter().map(|process| process.output_end(5)).collect::<String>())?;
    Ok(Group { address, processes, _ports: ports, _folder: folder })
}

/// The one that all members say leads.
async fn leader(client: &reqwest::Client, addresses: &[SocketAddr]) -> anyhow::Result<SocketAddr> {
    let mut found = None;
    let mut leaders = Vec::new();
    for address in addresses {
        let asked = client.post(format!("http://{address}/v3/maintenance/status")).body("{}").send().await?;
        let status: Value = asked.error_for_status()?.json().await?;
        let leader = status["leader"].as_str().unwrap_or("0").to_owned();
        if status["header"]["member_id"] == *leader {
            found = Some(*address);
        }
        leaders.push(leader);
    }
    ensure!(leaders.iter().all(|leader| *leader != "0" && *leader == leaders[0]), "leaders {leaders:?}");
    found.context("the leader is none of the members")
}

pub(super) fn put(address: SocketAddr, grpc: bool, value: &str) -> anyhow::Result<Target> {
    if grpc {
        return Ok(Target { address, request: Request::etcd_put(value)?, expected: Expected::Grpc });
    }
    let body = format!(r#"{{"key":"{}","value":"{}"}}"#, STANDARD.encode(key(0)), STANDARD.encode(value));
    let request = Request::post(address, "/v3/kv/put", &body, KeyForm::Base64)?;
    Ok(Target { address, request, expected: Expected::http("\"revision\":\"") })
}
