//! `GET /status`.

use std::time::Duration;

use axum::{
    Json,
    extract::{Query, State, rejection::QueryRejection},
};
use quorumkv_api::{
    Delay, NodeId, Settings, WriteQuorum,
    lab::{FollowerStatus, LatencySummary, Role, StatusReply},
    peer::{FollowerState, PeerAddress},
    settings::format_duration,
};
use serde::Deserialize;

use super::ClientPort;
use crate::{answer::ApiError, handle::Inspection};

/// Shown while no settings are known: zero stands for "none yet", as with epochs.
const UNKNOWN: Settings = Settings { write_quorum: WriteQuorum(0), delay: Delay::ZERO, write_timeout: Duration::ZERO };

/// What may be asked for besides.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct StatusQuery {
    #[serde(default)]
    latency_buckets: bool,
}

pub(super) async fn status(
    State(port): State<ClientPort>,
    query: Result<Query<StatusQuery>, QueryRejection>,
) -> Result<Json<StatusReply>, ApiError> {
    let Query(StatusQuery { latency_buckets }) =
        query.map_err(|rejection| ApiError::bad_request(rejection.body_text()))?;
    let driver = &port.driver;
    let Inspection { state, peers, acknowledgements } =
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
        latency_buckets: (leads && latency_buckets).then(|| driver.latency.buckets()),
        followers: state
            .followers
            .into_iter()
            .map(|FollowerState { node, match_seq, connected, .. }| FollowerStatus {
                url: url_of(&node, &peers),
                acknowledgement_ms: took(&node, &acknowledgements),
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

fn took(node: &NodeId, acknowledgements: &[(NodeId, Duration)]) -> Option<f64> {
    acknowledgements.iter().find(|(name, _)| name == node).map(|(_, took)| took.as_secs_f64() * 1e3)
}
