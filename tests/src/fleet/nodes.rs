//! The peer ports of all simulated nodes: one listener on every address of this machine, told apart by the address that
//! was called. Which pod has which address is what the API server says.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use anyhow::Context as _;
use axum::{
    Json, Router,
    extract::{ConnectInfo, State, connect_info::Connected},
    http::{HeaderMap, StatusCode, header::AUTHORIZATION},
    response::{IntoResponse, Response},
    routing::{get, post, put},
    serve::IncomingStream,
};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, ResourceExt as _,
    runtime::{WatchStreamExt as _, watcher},
};
use quorumkv_api::{
    CLIENT_PORT, NodeId, PEER_PORT, SettingsPatch,
    peer::{FenceRequest, MembersRequest, NodeState, PeerError, PromoteRequest, Refusal},
};
use quorumkv_protocol::{Input, ReplyBody, RequestId};
use tokio::{net::TcpListener, time::timeout};

use super::store::{Answer, Store};

/// What the operator's objects are labelled with.
pub const MANAGED: &str = "app.kubernetes.io/managed-by=quorumkv-operator";
/// How often nodes look whether something is due; a sixth of the interval of heartbeats.
const TICK: Duration = Duration::from_millis(25);
/// How long an answer may wait for followers.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// Namespace and name of a KvCluster.
pub type StoreName = (String, String);

/// A pod that has an address.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    store: StoreName,
    node: NodeId,
    uid: String,
}

#[derive(Debug, Default)]
struct Tables {
    stores: HashMap<StoreName, Store>,
    places: HashMap<IpAddr, Place>,
}

/// All simulated nodes. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Nodes(Arc<Mutex<Tables>>);

/// Listens where all simulated nodes answer.
///
/// # Errors
/// When somebody else listens there.
pub async fn listener() -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(("0.0.0.0", PEER_PORT)).await;
    listener.with_context(|| format!("port {PEER_PORT}, on which simulated nodes answer"))
}

impl Nodes {
    /// Keeps the nodes what the pods are, and their clocks going. Ends when the watch does.
    pub async fn follow(self, client: Client) {
        let ticking = self.clone();
        let tick = async move {
            let mut ticks = tokio::time::interval(TICK);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                ticking.lock().stores.values_mut().for_each(Store::tick);
            }
        };
        let pods: Api<Pod> = Api::all(client);
        let events = watcher(pods, watcher::Config::default().labels(MANAGED)).default_backoff();
        let follow = events.for_each(async |event| match event {
            Ok(watcher::Event::Apply(pod) | watcher::Event::InitApply(pod)) => self.seen(&pod),
            Ok(watcher::Event::Delete(pod)) => self.gone(&pod),
            // What is deleted while a watch is down is missed: nothing deletes pods but their own ends.
            Ok(watcher::Event::Init | watcher::Event::InitDone) => {}
            Err(error) => tracing::warn!(%error, "the watch of pods failed and is repeated"),
        });
        tokio::select! {
            () = follow => {}
            () = tick => {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, Tables> {
        self.0.lock().expect("nobody panics while holding the tables")
    }

    fn seen(&self, pod: &Pod) {
        let Some((address, place)) = place(pod) else { return };
        let mut tables = self.lock();
        if tables.places.get(&address) == Some(&place) {
            return;
        }
        let before = tables.places.iter().find(|(_, known)| (&known.store, &known.node) == (&place.store, &place.node));
        let before = before.map(|(address, known)| (*address, known.uid == place.uid));
        if let Some((address, _)) = before {
            tables.places.remove(&address);
        }
        // A pod is one process all its life, though kwok gives some another address after their first.
        if before.is_none_or(|(_, is_the_same)| !is_the_same) {
            tables.start(&place.store, &place.node);
        }
        tables.places.insert(address, place);
    }

    /// Every process of these stores comes up anew at once, with nothing of what it held.
    pub fn lose_copies(&self, stores: &[StoreName]) {
        let mut tables = self.lock();
        let places: Vec<Place> =
            tables.places.values().filter(|place| stores.contains(&place.store)).cloned().collect();
        for Place { store, node, .. } in &places {
            if let Some(nodes) = tables.stores.get_mut(store) {
                nodes.end(node);
            }
        }
        for Place { store, node, .. } in &places {
            tables.start(store, node);
        }
    }

    fn gone(&self, pod: &Pod) {
        let mut tables = self.lock();
        let uid = pod.uid().unwrap_or_default();
        let Some(address) = tables.places.iter().find(|(_, place)| place.uid == uid).map(|(address, _)| *address)
        else {
            return;
        };
        let Some(Place { store, node, .. }) = tables.places.remove(&address) else { return };
        if let Some(nodes) = tables.stores.get_mut(&store) {
            nodes.end(&node);
        }
    }

    /// Serves their peer ports until it is dropped.
    ///
    /// # Errors
    /// When accepting fails for good.
    pub async fn serve(self, listener: TcpListener) -> std::io::Result<()> {
        let routes = Router::new()
            .route("/state", get(state))
            .route("/fence", post(fence))
            .route("/promote", post(promote))
            .route("/members", put(members))
            .route("/settings", put(settings))
            .with_state(self);
        axum::serve(listener, routes.into_make_service_with_connect_info::<Called>()).await
    }

    async fn ask(
        &self,
        called: Called,
        headers: &HeaderMap,
        input: impl FnOnce(RequestId) -> Input,
    ) -> Result<ReplyBody, Refused> {
        presents_a_token(headers)?;
        let receiver = {
            let mut tables = self.lock();
            let Place { store, node, .. } = tables.place(called)?;
            tables.stores.get_mut(&store).and_then(|nodes| nodes.ask(&node, input)).ok_or_else(nobody)?
        };
        match timeout(ANSWER_LIMIT, receiver).await {
            Ok(Ok(answer)) => Answer::map_err(answer, Refused),
            Ok(Err(_)) => Err(unavailable("the node ended")),
            Err(_) => Err(unavailable("no answer in time")),
        }
    }
}

impl Tables {
    fn start(&mut self, store: &StoreName, node: &NodeId) {
        let client_url = format!("http://{node}.{}-nodes.{}.svc:{CLIENT_PORT}", store.1, store.0);
        self.stores.entry(store.clone()).or_default().start(node.clone(), client_url);
    }

    fn place(&self, Called(address): Called) -> Result<Place, Refused> {
        self.places.get(&address).cloned().ok_or_else(nobody)
    }
}

/// The pod as a place, once its container runs at an address.
fn place(pod: &Pod) -> Option<(IpAddr, Place)> {
    let status = pod.status.as_ref()?;
    let runs = status
        .container_statuses
        .iter()
        .flatten()
        .any(|one| one.state.as_ref().is_some_and(|state| state.running.is_some()));
    let address = status.pod_ip.as_deref()?.parse().ok()?;
    let store = (pod.namespace()?, pod.labels().get("app.kubernetes.io/instance")?.clone());
    runs.then(|| (address, Place { store, node: NodeId(pod.name_any()), uid: pod.uid().unwrap_or_default() }))
}

/// The address that was called.
#[derive(Debug, Clone, Copy)]
struct Called(IpAddr);

impl Connected<IncomingStream<'_, TcpListener>> for Called {
    fn connect_info(stream: IncomingStream<'_, TcpListener>) -> Self {
        // A connection without addresses is closed already.
        Self(stream.io().local_addr().map_or(IpAddr::from([0, 0, 0, 0]), |address: SocketAddr| address.ip()))
    }
}

/// A refusal, with the status code that a node gives it.
struct Refused(PeerError);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.reason.status_code()).expect("a status code of HTTP");
        (status, Json(self.0)).into_response()
    }
}

fn unavailable(error: &str) -> Refused {
    Refused(PeerError { error: error.to_owned(), reason: Refusal::Unavailable, promised: Default::default() })
}

fn nobody() -> Refused {
    unavailable("no pod has this address")
}

/// Each store has a token of its own, and any will do: that the right one is asked for is tested with real nodes.
fn presents_a_token(headers: &HeaderMap) -> Result<(), Refused> {
    let token = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    if token.is_some_and(|token| !token.is_empty()) {
        return Ok(());
    }
    let error = "no peer token".to_owned();
    Err(Refused(PeerError { error, reason: Refusal::Unauthorized, promised: Default::default() }))
}

type Address = ConnectInfo<Called>;

async fn state(
    State(nodes): State<Nodes>,
    ConnectInfo(called): Address,
    headers: HeaderMap,
) -> Result<Json<NodeState>, Refused> {
    presents_a_token(&headers)?;
    let tables = nodes.lock();
    let Place { store, node, .. } = tables.place(called)?;
    tables.stores.get(&store).and_then(|nodes| nodes.state(&node)).map(Json).ok_or_else(nobody)
}

async fn fence(
    State(nodes): State<Nodes>,
    ConnectInfo(called): Address,
    headers: HeaderMap,
    Json(FenceRequest { epoch }): Json<FenceRequest>,
) -> Result<Response, Refused> {
    body(nodes.ask(called, &headers, |request| Input::Fence { request, epoch }).await?)
}

async fn promote(
    State(nodes): State<Nodes>,
    ConnectInfo(called): Address,
    headers: HeaderMap,
    Json(promote): Json<PromoteRequest>,
) -> Result<Response, Refused> {
    body(nodes.ask(called, &headers, |request| Input::Promote { request, promote }).await?)
}

async fn members(
    State(nodes): State<Nodes>,
    ConnectInfo(called): Address,
    headers: HeaderMap,
    Json(members): Json<MembersRequest>,
) -> Result<Response, Refused> {
    body(nodes.ask(called, &headers, |request| Input::Members { request, members }).await?)
}

async fn settings(
    State(nodes): State<Nodes>,
    ConnectInfo(called): Address,
    headers: HeaderMap,
    Json(patch): Json<SettingsPatch>,
) -> Result<Response, Refused> {
    body(nodes.ask(called, &headers, |request| Input::ChangeSettings { request, patch }).await?)
}

fn body(reply: ReplyBody) -> Result<Response, Refused> {
    match reply {
        ReplyBody::Fenced(reply) => Ok(Json(reply).into_response()),
        ReplyBody::State(state) => Ok(Json(state).into_response()),
        ReplyBody::Settings(reply) => Ok(Json(reply).into_response()),
        ReplyBody::Replicated(_) | ReplyBody::Restored => Err(unavailable("nobody asked for that")),
    }
}

#[cfg(test)]
mod tests {
    use quorumkv_api::{
        Epoch,
        client::{CallError, PeerClient},
    };
    use serde_json::json;

    use super::*;

    fn pod(name: &str, address: &str, uid: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "fleet", "uid": uid,
                "labels": {"app.kubernetes.io/instance": "demo"}},
            "status": {"podIP": address, "containerStatuses": [
                {"name": "node", "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": {"running": {}}}
            ]},
        }))
        .expect("a pod")
    }

    fn refused<T: std::fmt::Debug>(answer: Result<T, CallError>) -> Refusal {
        let Err(CallError::Refused { refusal, .. }) = answer else { panic!("not refused: {answer:?}") };
        refusal.reason
    }

    #[tokio::test]
    async fn every_address_answers_as_the_node_whose_pod_has_it() {
        let nodes = Nodes::default();
        nodes.seen(&pod("demo-0", "127.64.0.1", "a"));
        nodes.seen(&pod("demo-1", "127.64.0.2", "b"));
        // Every loopback address is this machine's, without a route.
        let listener = TcpListener::bind("0.0.0.0:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let at = |address: &str| format!("http://{address}:{port}");
        tokio::spawn(nodes.clone().serve(listener));
        let client = PeerClient::new(Some("any".into()), Duration::from_secs(5)).expect("a client");
        let (one, other) = (client.state(&at("127.64.0.1")).await, client.state(&at("127.64.0.2")).await);
        let (one, other) = (one.expect("an answer"), other.expect("an answer"));
        assert_eq!((one.node.0.as_str(), other.node.0.as_str()), ("demo-0", "demo-1"));
        assert_eq!(refused(client.state(&at("127.64.0.3")).await), Refusal::Unavailable);
        let stranger = PeerClient::new(None, Duration::from_secs(5)).expect("a client");
        assert_eq!(refused(stranger.state(&at("127.64.0.1")).await), Refusal::Unauthorized);

        let fenced = client.fence(&at("127.64.0.1"), &FenceRequest { epoch: Epoch(3) }).await.expect("fenced");
        assert_eq!(fenced.storage_id, one.storage_id);
        nodes.seen(&pod("demo-0", "127.64.0.1", "a"));
        assert_eq!(client.state(&at("127.64.0.1")).await.expect("an answer").promised, Epoch(3));

        // The pod got another address, and is the same process.
        nodes.seen(&pod("demo-0", "127.64.0.5", "a"));
        assert_eq!(client.state(&at("127.64.0.5")).await.expect("an answer").promised, Epoch(3));
        assert_eq!(refused(client.state(&at("127.64.0.1")).await), Refusal::Unavailable);

        // A pod that was replaced has lost its memory, and the address of the former is nobody's.
        nodes.seen(&pod("demo-0", "127.64.0.9", "c"));
        let again = client.state(&at("127.64.0.9")).await.expect("an answer");
        assert_eq!((again.promised, again.storage_id == one.storage_id), (Epoch(0), false));
        assert_eq!(refused(client.state(&at("127.64.0.1")).await), Refusal::Unavailable);
        nodes.gone(&pod("demo-0", "127.64.0.9", "c"));
        assert_eq!(refused(client.state(&at("127.64.0.9")).await), Refusal::Unavailable);
    }
}
