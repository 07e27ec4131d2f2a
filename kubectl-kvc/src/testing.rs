//! An API server and nodes that follow a script.

#[path = "../../operator/src/testing/api.rs"]
#[allow(dead_code, reason = "the operator's tests need more of it")]
pub(crate) mod api;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    io,
    sync::{Arc, Mutex},
};

use axum::{Json, Router, body::Bytes, extract::State, http::Uri, response::IntoResponse as _, response::Response};
use http::StatusCode;
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};

use crate::{
    cluster::Target,
    nodes::{Reach, Route},
};

/// Where KvClusters are listed.
pub(crate) const KVCLUSTERS: &str = "/apis/quorumkv.io/v1alpha1/namespaces/default/kvclusters";
/// Where `demo` is.
pub(crate) const DEMO: &str = "/apis/quorumkv.io/v1alpha1/namespaces/default/kvclusters/demo";

/// The KvCluster `default/demo` with two followers, the second of which is missing.
pub(crate) fn kvcluster() -> Value {
    let member = |n: u128| {
        let (name, copy) = (format!("demo-{}", n - 1), copy(n));
        json!({"name": name, "storageId": copy, "role": if n == 1 { "Leader" } else { "Follower" }})
    };
    json!({
        "apiVersion": "quorumkv.io/v1alpha1", "kind": "KvCluster",
        "metadata": {"name": "demo", "namespace": "default", "uid": "u1", "generation": 4, "resourceVersion": "10"},
        "spec": {"followers": 2, "writeQuorum": 1},
        "status": {
            "observedGeneration": 4, "epoch": 3, "leader": "demo-0", "members": [member(1), member(2), member(3)],
            "followers": 2, "readyFollowers": 1, "writeQuorum": 1, "delay": {"min": "10ms", "max": "150ms"},
            "delayRange": "10ms-150ms", "writeTimeout": "5s",
            "conditions": [{
                "type": "Ready", "status": "True", "reason": "SomeFollowersNotReady",
                "message": "The leader accepts writes; demo-2 is absent", "lastTransitionTime": "2026-01-01T00:00:00Z",
            }],
        },
    })
}

/// The same under another name.
pub(crate) fn named(name: &str) -> Value {
    let mut cluster = kvcluster();
    cluster["metadata"]["name"] = json!(name);
    cluster
}

/// A list of these.
pub(crate) fn list(items: &[Value]) -> Value {
    json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": items})
}

/// A pod in this phase.
pub(crate) fn pod(name: &str, phase: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "default"}, "status": {"phase": phase}})
}

fn copy(n: u128) -> String {
    format!("00000000-0000-0000-0000-{n:012x}")
}

/// What a node answers to `GET /status`.
pub(crate) fn status_of(name: &str, leads: bool) -> Value {
    let follower = json!({"node": "demo-1", "url": "", "matchSeq": 7, "lag": 2, "connected": true});
    json!({
        "node": name, "role": if leads { "leader" } else { "follower" }, "epoch": 3, "leader": null, "ready": true,
        "writeQuorum": 1, "delay": {"min": "10ms", "max": "150ms"}, "writeTimeout": "5s", "keys": 4,
        "lastSeq": 9, "commitSeq": 9, "followers": if leads { vec![follower] } else { Vec::new() },
        "replicationLatency": {"count": 0, "mean": 0.0, "median": 0.0, "p95": 0.0, "p99": 0.0},
    })
}

/// What a node with this copy answers to `GET /state`.
pub(crate) fn state_of(name: &str, n: u128) -> Value {
    json!({
        "node": name, "storageId": copy(n), "processId": copy(50), "role": "follower", "promised": 3, "epoch": 3,
        "leader": null, "ready": true, "last": {"epoch": 3, "seq": 9}, "commit": 9, "settings": null, "followers": [],
    })
}

/// The KvCluster `default/demo` on an API server with this script.
pub(crate) fn target(script: Vec<api::Expected>) -> (Target, JoinHandle<Vec<Value>>) {
    let (client, server) = api::server(script);
    (Target::named(client, "default".to_owned(), "demo".to_owned()), server)
}

type Answers = HashMap<String, VecDeque<(u16, Value)>>;

/// A node that answers what the test says: to each path its answers in turn, and the last one from then on.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fake {
    answers: Arc<Mutex<Answers>>,
    bodies: Arc<Mutex<Vec<Value>>>,
}

impl Fake {
    pub(crate) fn answering(self, path: &str, status: u16, body: Value) -> Self {
        let mut answers = self.answers.lock().expect("nobody panics while holding it");
        answers.entry(path.to_owned()).or_default().push_back((status, body));
        drop(answers);
        self
    }

    /// The JSON bodies that were sent to it.
    pub(crate) fn bodies(&self) -> Vec<Value> {
        self.bodies.lock().expect("nobody panics while holding it").clone()
    }

    async fn serve(self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let routes = Router::new().fallback(answer).with_state(self);
        tokio::spawn(async move { axum::serve(listener, routes).await });
        format!("http://{address}")
    }
}

async fn answer(State(fake): State<Fake>, uri: Uri, body: Bytes) -> Response {
    if let Ok(body) = serde_json::from_slice(&body) {
        fake.bodies.lock().expect("nobody panics while holding it").push(body);
    }
    let mut answers = fake.answers.lock().expect("nobody panics while holding it");
    let path = uri.path_and_query().map_or("", |path| path.as_str());
    let Some(of_path) = answers.get_mut(path) else {
        return (StatusCode::NOT_IMPLEMENTED, format!("{path} is not in the script")).into_response();
    };
    let (status, body) = if of_path.len() > 1 { of_path.pop_front() } else { of_path.front().cloned() }
        .expect("a path in the script has an answer");
    (StatusCode::from_u16(status).expect("a status"), Json(body)).into_response()
}

/// Ways to servers of this process.
pub(crate) struct Local(BTreeMap<&'static str, String>);

impl Local {
    pub(crate) async fn of(nodes: impl IntoIterator<Item = (&'static str, Fake)>) -> Self {
        let mut urls = BTreeMap::new();
        for (name, fake) in nodes {
            urls.insert(name, fake.serve().await);
        }
        Self(urls)
    }
}

impl Reach for Local {
    async fn route(&self, pod: &str, _port: u16) -> io::Result<Route> {
        // Nobody listens at the discard port.
        Ok(Route::to(self.0.get(pod).map_or("http://127.0.0.1:9", String::as_str)))
    }
}
