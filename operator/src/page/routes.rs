//! The page's HTTP side.
//!
//! | request | answer |
//! | --- | --- |
//! | `GET /` | the page |
//! | `GET /api/stores` | every store, and what may be changed |
//! | `GET /api/stores/{namespace}/{name}/events` | server-sent events: `history` first, then `frame`s |
//! | `PUT …/settings` | `{"writeQuorum":3,"delay":{"min":"10ms","max":"150ms"}}`, either or both |
//! | `POST …/switchover` | `{"node":"127.0.0.1:5002"}` |
//! | `POST …/process` | `{"node":"127.0.0.1:5002","action":"halt"}`, or `continue`, or `kill` |
//! | `PUT …/load` | `{"clients":8}`; 0 ends it |
//!
//! A change is answered 200 `{}` when it was handed on; what comes of it shows in the frames. Every other
//! answer is JSON with the field `error`.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, State, rejection::BytesRejection},
    http::StatusCode,
    middleware,
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
    routing::{get, post, put},
};
use futures::{Stream, StreamExt as _, stream};
use quorumkv_api::{Delay, NodeId, SettingsPatch, WriteQuorum};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use super::{
    document,
    feed::{Feed, Subscription},
    guard::{Hosts, guard},
    news::News,
    source::{Abilities, Change, NodeAction, Refused, Source, StoreName},
};

/// Longest body of a change.
const BODY_LIMIT: usize = 4096;
/// How long a write of the load may take: longer than any sensible write timeout.
const LOAD_TIMEOUT: Duration = Duration::from_secs(30);

/// A page and the stores that it shows.
pub struct Page<S> {
    source: Arc<S>,
    news: News,
    http: reqwest::Client,
    feeds: Mutex<HashMap<StoreName, Arc<Feed>>>,
    stop: CancellationToken,
}

impl<S: Source> Page<S> {
    /// A page of `source`, with its `news`, until `stop`.
    #[must_use]
    pub fn new(source: Arc<S>, news: News, http: reqwest::Client, stop: CancellationToken) -> Self {
        Self { source, news, http, feeds: Mutex::default(), stop }
    }

    fn feed(&self, store: &StoreName) -> Result<Arc<Feed>, Refused> {
        let stores = self.source.stores();
        if !stores.contains(store) {
            let StoreName { namespace, name } = store;
            return Err(Refused::new(StatusCode::NOT_FOUND, format!("there is no KvCluster {namespace}/{name}")));
        }
        let mut feeds = self.feeds.lock().expect("nobody panics while holding the feeds");
        if let Some(feed) = feeds.get(store) {
            return Ok(Arc::clone(feed));
        }
        feeds.retain(|store, feed| stores.contains(store) || feed.is_watched());
        let feed = Arc::new(Feed::new(store.clone(), self.http.clone(), self.news.clone()));
        feeds.insert(store.clone(), Arc::clone(&feed));
        Ok(feed)
    }

    fn may(&self, able: impl Fn(&Abilities) -> bool) -> Result<(), Refused> {
        if able(&self.source.abilities()) {
            return Ok(());
        }
        Err(Refused::new(StatusCode::FORBIDDEN, "this cannot be changed from this page"))
    }
}

/// The client with which pages ask nodes, and the load writes.
///
/// # Errors
/// When it cannot be set up.
pub fn http_client() -> Result<reqwest::Client, reqwest::Error> {
    reqwest::Client::builder().timeout(LOAD_TIMEOUT).tcp_nodelay(true).no_proxy().build()
}

/// Every route.
pub fn router<S: Source>(page: Arc<Page<S>>, hosts: Hosts) -> Router {
    let store = "/api/stores/{namespace}/{name}";
    Router::new()
        .route("/", get(document::document))
        .route("/api/stores", get(stores::<S>))
        .route(&format!("{store}/events"), get(events::<S>))
        .route(&format!("{store}/settings"), put(settings::<S>))
        .route(&format!("{store}/switchover"), post(switchover::<S>))
        .route(&format!("{store}/process"), post(process::<S>))
        .route(&format!("{store}/load"), put(load::<S>))
        .fallback(async || Refused::new(StatusCode::NOT_FOUND, "there is nothing here"))
        .method_not_allowed_fallback(async || Refused::new(StatusCode::METHOD_NOT_ALLOWED, "not with this method"))
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .layer(middleware::from_fn_with_state(hosts, guard))
        .with_state(page)
}

#[derive(Debug, Serialize)]
struct Stores {
    stores: Vec<StoreName>,
    abilities: Abilities,
    hint: String,
}

async fn stores<S: Source>(State(page): State<Arc<Page<S>>>) -> Json<Stores> {
    let source = &page.source;
    Json(Stores { stores: source.stores(), abilities: source.abilities(), hint: source.hint() })
}

async fn events<S: Source>(
    State(page): State<Arc<Page<S>>>,
    Path(store): Path<StoreName>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Refused> {
    let feed = page.feed(&store)?;
    let too_many = || Refused::new(StatusCode::SERVICE_UNAVAILABLE, "too many pages are open");
    let (history, frames) = feed.subscribe(&page.source).ok_or_else(too_many)?;
    let first = stream::iter([event("history", &history)]);
    let rest = stream::unfold((feed, frames), async |(feed, mut frames)| match frames.recv().await {
        Ok(frame) => Some((event("frame", &frame), (feed, frames))),
        Err(RecvError::Lagged(_)) => {
            let (history, frames): Subscription = feed.subscribe_again();
            Some((event("history", &history), (feed, frames)))
        }
        Err(RecvError::Closed) => None,
    });
    // A stream without end would keep the server from ending.
    let until_stop = first.chain(rest).take_until(page.stop.clone().cancelled_owned());
    Ok(Sse::new(until_stop.map(Ok)).keep_alive(KeepAlive::default()))
}

fn event(name: &str, data: &str) -> Event {
    Event::default().event(name).data(data)
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SettingsRequest {
    write_quorum: Option<WriteQuorum>,
    delay: Option<Delay>,
}

async fn settings<S: Source>(
    State(page): State<Arc<Page<S>>>,
    Path(store): Path<StoreName>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Refused> {
    page.may(|abilities| abilities.settings)?;
    let SettingsRequest { write_quorum, delay } = parse(body)?;
    if write_quorum.is_none() && delay.is_none() {
        return Err(Refused::new(StatusCode::BAD_REQUEST, "neither writeQuorum nor delay is given"));
    }
    change(&page, &store, Change::Settings(SettingsPatch { write_quorum, delay, write_timeout: None })).await
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SwitchoverRequest {
    node: NodeId,
}

async fn switchover<S: Source>(
    State(page): State<Arc<Page<S>>>,
    Path(store): Path<StoreName>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Refused> {
    page.may(|abilities| abilities.switchover)?;
    let SwitchoverRequest { node } = parse(body)?;
    change(&page, &store, Change::Switchover(node)).await
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ProcessRequest {
    node: NodeId,
    action: NodeAction,
}

async fn process<S: Source>(
    State(page): State<Arc<Page<S>>>,
    Path(store): Path<StoreName>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Refused> {
    page.may(|abilities| abilities.nodes)?;
    let ProcessRequest { node, action } = parse(body)?;
    change(&page, &store, Change::Node { node, action }).await
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LoadRequest {
    clients: usize,
}

async fn load<S: Source>(
    State(page): State<Arc<Page<S>>>,
    Path(store): Path<StoreName>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Refused> {
    page.may(|abilities| abilities.load)?;
    let LoadRequest { clients } = parse(body)?;
    let feed = page.feed(&store)?;
    if clients > 0 && !feed.is_watched() {
        let error = "open a page of this store first: the load ends with the last one";
        return Err(Refused::new(StatusCode::CONFLICT, error));
    }
    feed.load(clients)?;
    Ok(done())
}

async fn change<S: Source>(page: &Page<S>, store: &StoreName, change: Change) -> Result<Response, Refused> {
    // A store that does not exist is refused in one way.
    page.feed(store)?;
    page.source.change(store, change).await?;
    Ok(done())
}

fn done() -> Response {
    Json(serde_json::json!({})).into_response()
}

fn parse<Body: DeserializeOwned>(body: Result<Bytes, BytesRejection>) -> Result<Body, Refused> {
    let body = body.map_err(|rejection| Refused::new(rejection.status(), rejection.body_text()))?;
    serde_json::from_slice(&body)
        .map_err(|error| Refused::new(StatusCode::BAD_REQUEST, format!("the body does not fit: {error}")))
}
