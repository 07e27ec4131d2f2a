//! This store: a leader and followers with nothing between them, without a simulated delay.

use std::net::SocketAddr;

use anyhow::{Context as _, ensure};
use quorumkv_api::{SettingsPatch, WriteQuorum};

use super::{Operation, PATIENCE, Setup};
use crate::{
    bench::{
        answer::Expected,
        connection::Target,
        request::{KeyForm, Request, key},
    },
    processes::{Lab, LabOptions},
};

pub(super) async fn start(setup: Setup) -> anyhow::Result<Lab> {
    let Setup { storage, followers } = setup;
    Lab::start(LabOptions { followers, write_quorum: 1, storage: storage.into(), ..LabOptions::default() }).await
}

/// The quorum is changed while the store runs.
pub(super) async fn target(lab: &Lab, operation: Operation, value: &str) -> anyhow::Result<Target> {
    let address = address(lab)?;
    Ok(match operation {
        Operation::Write { quorum } => {
            in_force(lab, quorum).await?;
            let body = format!(r#"{{"key":"{}","value":"{value}"}}"#, key(0));
            let request = Request::post(address, "/set", &body, KeyForm::Plain)?;
            Target { address, request, expected: Expected::http("\"success\":true") }
        }
        Operation::Read => {
            let request = Request::get(address, &format!("/get/{}", key(0)))?;
            Target { address, request, expected: Expected::http(&format!("\"value\":\"{value}\"")) }
        }
    })
}

async fn in_force(lab: &Lab, quorum: u8) -> anyhow::Result<()> {
    let write_quorum = Some(WriteQuorum(quorum));
    lab.change_settings(&SettingsPatch { write_quorum, delay: None, write_timeout: None }).await?;
    let what = format!("write quorum {quorum} is in force and every follower is connected");
    let status = lab.leader_status(&what, PATIENCE, |status| {
        status.write_quorum.0 == quorum && status.followers.iter().all(|follower| follower.connected)
    });
    let status = status.await?;
    ensure!(status.delay.max.is_zero(), "a delay of {} is simulated", status.delay);
    Ok(())
}

fn address(lab: &Lab) -> anyhow::Result<SocketAddr> {
    let url = lab.url(0);
    url.trim_start_matches("http://").parse().with_context(|| url.clone())
}
