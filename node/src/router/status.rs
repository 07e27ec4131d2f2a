//! `GET /status`.

use std::time::Duration;

use axum::{Json, extract::State};
use quorumkv_api::{
    Delay, NodeId, Settings, WriteQuorum,
    lab::{FollowerStatus, LatencySummary, Role, StatusReply},
    peer::{FollowerState, PeerAddress},
    settings::format_duration,
};

use super::ClientPort;
use crate::{answer::ApiError, handle::Inspection};

/// Shown while no settings are known: zero stands for "none yet", as with epochs.
const UNKNOWN: Settings = Settings { write_quorum: WriteQuorum(0), delay: Delay::ZERO, write_timeout: Duration::ZERO };

pub(super) async fn status(State(port): State<ClientPort>) -> Result<Json<StatusReply>, ApiError> {
    let driver = &port.driver;
    let Inspection { state, peers } =
        driver.inspect().await.map_err(|stopped| ApiError::unavailable(stopped.to_string()))?;
    let Settings { write_quorum, delay, write_timeout } = state.settings.map_or(UNKNOWN, |entry| entry.settings);
    let last = state.last.seq;
    let leads = state.role == Role::Leader;
    Ok(Json(StatusReply {
        node: state.node,
        role: state.role,
        epoch: state.epoch,
        leader: driver.view.borrow().leader_url.clone(),
        ready: state.ready,
        write_quorum,
        delay,
        write_timeout: format_duration(write_timeout),
        keys: driver.store.len(),
        last_seq: last,
        commit_seq: state.commit,
        replication_latency: if leads { driver.latency.summary() } else { LatencySummary::default() },
        followers: state
            .followers
            .into_iter()
            .map(|FollowerState { node, match_seq, connected, .. }| FollowerStatus {
                url: url_of(&node, &peers),
                node,
                match_seq,
                lag: last.0.saturating_sub(match_seq.0),
                connected,
            })
            .collect(),
    }))
}

fn url_of(node: &NodeId, peers: &[PeerAddress]) -> String {
    peers.iter().find(|peer| peer.node == *node).map(|peer| peer.client_url.clone()).unwrap_or_default()
}
