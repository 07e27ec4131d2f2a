//! The client port: the HTTP API of the lab, and the native one beside it.
//!
//! Reads go straight to the store; writes pass the driver. Every answer that is no success is JSON. What there
//! is, is described in `openapi.json`, which the port serves.

use std::sync::Arc;

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Request, State, rejection::BytesRejection},
    http::{HeaderMap, Method, StatusCode, Uri},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{MethodRouter, any, get, post},
};
use quorumkv_api::{
    MAX_BODY_BYTES, MAX_KEY_BYTES,
    lab::{ReplicateReply, Role},
};
use quorumkv_protocol::ReplyBody;
use serde_json::json;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;

use self::{budget::Budget, list::Pages};
use crate::{
    answer::{ApiError, panicked},
    auth::{Access, ClientTokens, Token, authorization},
    handle::{DriverHandle, PeerRequest},
    limits::Limits,
    metrics::requests::{Port, UNKNOWN},
};

mod batch;
mod budget;
mod busy;
mod connection;
mod hot;
mod kv;
mod list;
mod openapi;
mod reads;
mod replicate;
mod status;
mod value;
mod view;
mod watch;
mod writes;

pub use self::connection::Connection;
pub(crate) use self::{connection::Undelayed, hot::serve};

/// Streams to watchers at the same time.
const MOST_WATCHERS: usize = 1000;

/// What handlers need.
#[derive(Debug, Clone)]
pub struct ClientPort {
    /// The node.
    pub driver: DriverHandle,
    /// Required on `POST /replicate`, and as good as any other token elsewhere.
    pub token: Token,
    /// Required on every other route but those for health, where there are any.
    tokens: ClientTokens,
    budget: Budget,
    /// Cancelled when the node takes no more requests; streams end then.
    draining: CancellationToken,
    watchers: Arc<Semaphore>,
    pages: Arc<Pages>,
}

impl ClientPort {
    /// A port of this node; `draining` ends what would otherwise never end.
    #[must_use]
    pub fn new(driver: DriverHandle, token: Token, draining: CancellationToken) -> Self {
        let watchers = Arc::new(Semaphore::new(MOST_WATCHERS));
        let budget = Budget::new(Limits::default().waiting_bytes);
        Self { driver, token, tokens: ClientTokens::default(), budget, draining, watchers, pages: Arc::default() }
    }

    /// The same with tokens of clients and these limits.
    #[must_use]
    pub fn guarded(self, tokens: ClientTokens, limits: &Limits) -> Self {
        Self { tokens, budget: Budget::new(limits.waiting_bytes), ..self }
    }

    /// Whether a request with this header `Authorization` may do that.
    fn allows(&self, authorization: Option<&[u8]>, access: Access) -> Result<(), ApiError> {
        self.tokens.check(authorization, access, &self.token)
    }
}

type Methods = fn() -> MethodRouter<ClientPort>;

/// Every route, as the document of the API names it.
const ROUTES: [(&str, Methods); 12] = [
    ("/set", || post(writes::set)),
    ("/get/{key}", || get(reads::get)),
    ("/get_all", || get(reads::get_all)),
    ("/kv", || get(list::list)),
    ("/kv/{key}", || get(kv::get).put(kv::put).delete(kv::delete)),
    ("/batch", || post(batch::batch)),
    ("/watch", || get(watch::watch)),
    ("/status", || get(status::status)),
    ("/health", || get(health)),
    ("/readyz", || get(readyz)),
    ("/replicate", || post(replicate)),
    ("/openapi.json", || get(openapi::openapi)),
];

/// Routes that ask for no client's token: whoever watches over nodes has none, and replication has another one.
const OPEN: [&str; 3] = ["/health", "/readyz", "/replicate"];

/// What stands before a route.
#[derive(Debug, Clone)]
struct Guard {
    port: ClientPort,
    is_open: bool,
}

/// Refuses who may not, and what there is no room for, before anything is read of the body.
async fn guarded(
    State(Guard { port, is_open }): State<Guard>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    if !is_open && port.tokens.are_asked_for() {
        let access = match *request.method() {
            Method::GET | Method::HEAD => Access::Read,
            _ => Access::Write,
        };
        port.allows(authorization(request.headers())?, access)?;
    }
    let _room = port.budget.take(&request, &port.driver.metrics)?;
    Ok(next.run(request).await)
}

/// The client port's routes.
pub fn router(port: ClientPort) -> Router {
    let requests = port.driver.metrics.requests.clone();
    // From the outside inwards: what panics or is refused is answered, and counted as that.
    let around = |route| {
        let guard = Guard { port: port.clone(), is_open: OPEN.contains(&route) };
        (
            requests.layer(Port::Client, route),
            CatchPanicLayer::custom(panicked),
            middleware::from_fn_with_state(guard, guarded),
            DefaultBodyLimit::max(MAX_BODY_BYTES),
        )
    };
    let methods = |route, methods: MethodRouter<ClientPort>| methods.fallback(wrong_method).layer(around(route));
    let routes = ROUTES.into_iter().fold(Router::new(), |routes, (path, of_path)| {
        // A key may have slashes.
        routes.route(&path.replace("{key}", "{*key}"), methods(path, of_path()))
    });
    let no_key = || get(reads::get_without_key);
    let no_keys = no_key().put(reads::get_without_key).delete(reads::get_without_key);
    let unknown: MethodRouter = any(unknown_route).layer(around(UNKNOWN)).with_state(port.clone());
    routes
        .route("/get/", methods("/get/{key}", no_key()))
        .route("/kv/", methods("/kv/{key}", no_keys))
        .fallback_service(unknown)
        .with_state(port)
}

/// The rules of a key, wherever it comes from.
fn checked_key(key: &str) -> Result<&str, ApiError> {
    match key.len() {
        0 => Err(ApiError::bad_request(format!("the key is empty; a key has 1..{MAX_KEY_BYTES} bytes"))),
        1..=MAX_KEY_BYTES => Ok(key),
        bytes => Err(ApiError::bad_request(format!("the key has {bytes} bytes; a key has 1..{MAX_KEY_BYTES} bytes"))),
    }
}

async fn replicate(
    State(port): State<ClientPort>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<ReplicateReply>, ApiError> {
    port.token.check(&headers)?;
    let (leader, append) = replicate::parse(&body?)?;
    match port.driver.request(PeerRequest::Replicate { leader, append }).await? {
        ReplyBody::Replicated(match_seq) => Ok(Json(ReplicateReply { success: true, match_seq })),
        other => unreachable!("a replication is answered by {other:?}"),
    }
}

async fn health(State(port): State<ClientPort>) -> Response {
    let role = port.driver.view.borrow().role;
    Json(json!({"status": "healthy", "role": role})).into_response()
}

async fn readyz(State(port): State<ClientPort>) -> Result<Response, ApiError> {
    let (role, ready) = {
        let view = port.driver.view.borrow();
        (view.role, view.ready)
    };
    match (ready, role) {
        (true, _) => Ok(Json(json!({"ready": true, "role": role})).into_response()),
        (false, Role::Leader) => Err(ApiError::unavailable("not ready: the leader is not active")),
        (false, Role::Follower) => Err(ApiError::unavailable("not ready: the follower has not caught up")),
    }
}

async fn unknown_route(uri: Uri) -> ApiError {
    let routes = ROUTES.map(|(path, _)| path).join(", ");
    ApiError::new(StatusCode::NOT_FOUND, format!("no such route: {}; there are {routes}", uri.path()))
}

async fn wrong_method(method: Method, uri: Uri) -> ApiError {
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, format!("{} does not take {method}", uri.path()))
}

#[cfg(test)]
mod tests;
