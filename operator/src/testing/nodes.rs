//! Nodes that answer on their peer ports as they are told, and write down what was asked of them.

use std::sync::{Arc, Mutex};

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use quorumkv_api::{
    Epoch, NodeId, SettingsPatch,
    lab::Role,
    peer::{
        ConfigurationState, FenceReply, FenceRequest, MembersRequest, NodeChange, NodeState, PeerError, PromoteRequest,
        Refusal, SettingsEntry, SettingsReply,
    },
};

use super::Scene;
use crate::{
    manage::KnownNode,
    record::{Platform, Record, RecordError, Versioned},
};

/// Everything that happened, in order: what nodes were asked and what was recorded.
pub(crate) type Journal = Arc<Mutex<Vec<String>>>;

struct Node {
    state: Mutex<NodeState>,
    journal: Journal,
}

impl Node {
    fn note(&self, what: &str) -> std::sync::MutexGuard<'_, NodeState> {
        let state = self.state.lock().expect("not poisoned");
        self.journal.lock().expect("not poisoned").push(format!("{} {what}", state.node));
        state
    }
}

/// Starts the nodes of a scene that answer, and returns all as the platform knows them.
pub(crate) async fn serve(scene: &Scene, journal: &Journal) -> Vec<KnownNode> {
    let mut known = Vec::new();
    for view in &scene.nodes {
        let mut address = view.address.clone();
        // Nobody listens on port 1.
        address.peer_url = "http://127.0.0.1:1".to_owned();
        if view.refuses_token {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
            address.peer_url = format!("http://{}", listener.local_addr().expect("bound"));
            let (name, journal) = (view.address.node.clone(), Arc::clone(journal));
            let router = Router::new().fallback(async move |request: axum::extract::Request| {
                if request.uri().path() != "/state" {
                    journal.lock().expect("not poisoned").push(format!("{name} refuses {}", request.uri().path()));
                }
                let error = "the peer token is wrong".to_owned();
                let refusal = PeerError { error, reason: Refusal::Unauthorized, promised: Epoch(0) };
                (StatusCode::UNAUTHORIZED, Json(refusal))
            });
            tokio::spawn(async move { axum::serve(listener, router).await });
        } else if let Some(state) = view.state.clone() {
            let node = Arc::new(Node { state: Mutex::new(state), journal: Arc::clone(journal) });
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
            address.peer_url = format!("http://{}", listener.local_addr().expect("bound"));
            let router = Router::new()
                .route(
                    "/state",
                    get(async |State(node): State<Arc<Node>>| Json(node.state.lock().expect("ok").clone())),
                )
                .route("/fence", post(fence))
                .route("/promote", post(promote))
                .route("/members", put(members))
                .route("/settings", put(settings))
                .with_state(node);
            tokio::spawn(async move { axum::serve(listener, router).await });
        }
        let report = view.report.clone();
        known.push(KnownNode { address, presence: view.presence, outdated: view.outdated, report });
    }
    known
}

async fn fence(State(node): State<Arc<Node>>, Json(FenceRequest { epoch }): Json<FenceRequest>) -> Response {
    let mut state = node.note(&format!("fence {epoch}"));
    if state.promised > epoch {
        let promised = state.promised;
        let refusal = PeerError { error: "too late".into(), reason: Refusal::StaleEpoch, promised };
        return (StatusCode::CONFLICT, Json(refusal)).into_response();
    }
    let previous_promise = std::mem::replace(&mut state.promised, epoch);
    state.role = Role::Follower;
    Json(FenceReply {
        node: state.node.clone(),
        storage_id: state.storage_id,
        process_id: state.process_id,
        previous_promise,
        last: state.last,
        commit: state.commit,
        settings: state.settings.into_iter().collect(),
        settings_committed: state.settings.is_some(),
        lease_remaining_ms: 0,
    })
    .into_response()
}

async fn promote(State(node): State<Arc<Node>>, Json(request): Json<PromoteRequest>) -> Json<NodeState> {
    let first = if request.bootstrap.is_some() { " with first settings" } else { "" };
    let mut state = node.note(&format!("promote {}{first}", request.epoch));
    state.role = Role::Leader;
    state.epoch = request.epoch;
    state.ready = false;
    Json(state.clone())
}

async fn members(State(node): State<Arc<Node>>, Json(request): Json<MembersRequest>) -> Json<NodeState> {
    let (count, number) = (request.members.len(), request.configuration.number);
    let set = if number == 0 { String::new() } else { format!(" in set {number} of {}", request.peers.len()) };
    let mut state = node.note(&format!("members {count} of epoch {}{set}", request.epoch));
    // What it was counted for is on all others.
    let covered = matches!(request.configuration.change, Some(NodeChange::Leaving(_)));
    state.configuration = Some(ConfigurationState { number, covered });
    Json(state.clone())
}

async fn settings(State(node): State<Arc<Node>>, Json(patch): Json<SettingsPatch>) -> Json<SettingsReply> {
    let quorum = patch.write_quorum.map_or_else(|| "same".to_owned(), |quorum| quorum.to_string());
    let mut state = node.note(&format!("settings quorum {quorum}"));
    let entry = state.settings.expect("the store has settings");
    let settings = patch.over(entry.settings);
    state.settings = Some(SettingsEntry { settings, ..entry });
    Json(SettingsReply { settings, version: state.last.seq })
}

/// A record that writes down its changes, and can be made to fail.
pub(crate) struct Recorded {
    pub(crate) record: Mutex<(Record, u64)>,
    journal: Journal,
    /// Fails when so many changes have been made.
    pub(crate) fails_after: Mutex<Option<usize>>,
    /// Who shall lead.
    pub(crate) wish: Mutex<Option<NodeId>>,
}

impl Recorded {
    pub(crate) fn new(record: Record, journal: &Journal) -> Self {
        Self {
            record: Mutex::new((record, 1)),
            journal: Arc::clone(journal),
            fails_after: Mutex::default(),
            wish: Mutex::default(),
        }
    }
}

impl Platform for Recorded {
    async fn record(&self) -> Result<Versioned, RecordError> {
        let (record, version) = self.record.lock().expect("not poisoned").clone();
        Ok(Versioned { record, version: version.to_string() })
    }

    async fn replace(&self, read: &Versioned, new: Record) -> Result<Versioned, RecordError> {
        let mut current = self.record.lock().expect("not poisoned");
        let mut fails_after = self.fails_after.lock().expect("not poisoned");
        if current.1.to_string() != read.version || *fails_after == Some(0) {
            return Err(RecordError::Conflict);
        }
        *fails_after = fails_after.map(|left| left - 1);
        let leader = new.leader.as_ref().map_or("nobody", |leader| leader.0.as_str());
        let line = format!("record epoch {} leader {leader} members {}", new.epoch, new.members.len());
        self.journal.lock().expect("not poisoned").push(line);
        *current = (new.clone(), current.1 + 1);
        Ok(Versioned { record: new, version: current.1.to_string() })
    }

    async fn withdraw_switchover(&self, wanted: &NodeId) -> Result<bool, RecordError> {
        let mut wish = self.wish.lock().expect("not poisoned");
        if wish.as_ref() != Some(wanted) {
            return Ok(false);
        }
        *wish = None;
        self.journal.lock().expect("not poisoned").push(format!("withdraw {wanted}"));
        Ok(true)
    }
}
