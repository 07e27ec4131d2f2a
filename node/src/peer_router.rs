//! The peer port: control by a manager, and the replication stream.

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, Query, Request, State, rejection::BytesRejection, rejection::QueryRejection},
    http::{HeaderValue, Method, StatusCode, Uri, header},
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
    routing::{MethodRouter, any, get, post, put},
};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use quorumkv_api::{
    Epoch, MAX_BODY_BYTES, SettingsPatch,
    peer::{FenceReply, FenceRequest, MembersRequest, NodeState, PromoteRequest, SettingsReply, TlsReport},
};
use serde::Deserialize;
use tower_http::catch_panic::CatchPanicLayer;
use tracing::warn;

use crate::{
    answer::{ApiError, PeerRefusal, panicked, parse_object},
    auth::Token,
    failpoint::{Failpoint, reached},
    handle::DriverHandle,
    metrics::requests::{Port, UNKNOWN},
    recover::{self, RecoverQuery},
    tls::PeerTls,
    transport::{self, PROTOCOL},
    wire::compression::{Compression, ENCODING},
};

/// What handlers need.
#[derive(Debug, Clone)]
pub struct PeerPort {
    /// The node.
    pub driver: DriverHandle,
    /// Required on every route.
    pub token: Token,
    /// Unless it is off, leaders hear that compressed frames are read.
    pub compression: Compression,
    /// What it speaks TLS with.
    pub tls: Option<PeerTls>,
}

type Methods = fn() -> MethodRouter<PeerPort>;

/// Every route.
const ROUTES: [(&str, Methods); 8] = [
    ("/state", || get(state)),
    ("/fence", || post(fence)),
    ("/promote", || post(promote)),
    ("/members", || put(members)),
    ("/settings", || put(settings)),
    ("/tls", || get(tls)),
    ("/stream", || get(stream)),
    ("/recover", || get(recover)),
];

/// The peer port's routes.
pub fn router(port: PeerPort) -> Router {
    let requests = port.driver.metrics.requests.clone();
    // From the outside inwards: what panics or is not authorized is answered, and counted as that.
    let around = |route| {
        (
            requests.layer(Port::Peer, route),
            CatchPanicLayer::custom(panicked),
            middleware::from_fn_with_state(port.clone(), authorized),
            DefaultBodyLimit::max(MAX_BODY_BYTES),
        )
    };
    let routes = ROUTES.into_iter().fold(Router::new(), |routes, (path, methods)| {
        routes.route(path, methods().fallback(wrong_method).layer(around(path)))
    });
    let unknown: MethodRouter = any(unknown_route).layer(around(UNKNOWN)).with_state(port.clone());
    routes.fallback_service(unknown).with_state(port)
}

async fn authorized(State(port): State<PeerPort>, request: Request, next: Next) -> Result<Response, PeerRefusal> {
    port.token.check(request.headers())?;
    Ok(next.run(request).await)
}

type BodyBytes = Result<Bytes, BytesRejection>;

fn parse<Body: for<'a> Deserialize<'a>>(body: BodyBytes, example: &str) -> Result<Body, PeerRefusal> {
    Ok(parse_object(&body?, example)?)
}

/// No honest manager gets there, and the epochs after it would not fit a number any more.
fn checked_epoch(epoch: Epoch) -> Result<Epoch, PeerRefusal> {
    if epoch.0 >= 1 << 53 {
        return Err(ApiError::bad_request(format!("epoch {epoch} is not below {}", 1_u64 << 53)).into());
    }
    Ok(epoch)
}

async fn state(State(port): State<PeerPort>) -> Result<Json<NodeState>, PeerRefusal> {
    let inspection = port.driver.inspect().await.map_err(quorumkv_api::peer::PeerError::from)?;
    Ok(Json(inspection.state))
}

async fn fence(State(port): State<PeerPort>, body: BodyBytes) -> Result<Json<FenceReply>, PeerRefusal> {
    let FenceRequest { epoch } = parse(body, r#"{"epoch":1}"#)?;
    Ok(Json(port.driver.fence(checked_epoch(epoch)?).await?))
}

async fn promote(State(port): State<PeerPort>, body: BodyBytes) -> Result<Json<NodeState>, PeerRefusal> {
    let promote: PromoteRequest =
        parse(body, r#"{"epoch":1,"storageId":…,"processId":…,"peers":[…],"members":[…],"leaseWaitMs":0}"#)?;
    let state = port.driver.promote(promote).await?;
    reached(Failpoint::PromotionAccepted);
    Ok(Json(state))
}

async fn members(State(port): State<PeerPort>, body: BodyBytes) -> Result<Json<NodeState>, PeerRefusal> {
    let members: MembersRequest = parse(body, r#"{"epoch":1,"peers":[…],"members":[…]}"#)?;
    let state = port.driver.members(members).await?;
    reached(Failpoint::MembersCounted);
    Ok(Json(state))
}

async fn settings(State(port): State<PeerPort>, body: BodyBytes) -> Result<Json<SettingsReply>, PeerRefusal> {
    let patch: SettingsPatch = parse(body, r#"{"writeQuorum":3,"delay":{"min":"10ms","max":"150ms"}}"#)?;
    Ok(Json(port.driver.change_settings(patch).await?))
}

async fn tls(State(port): State<PeerPort>) -> Result<Json<TlsReport>, PeerRefusal> {
    match &port.tls {
        Some(tls) => Ok(Json(tls.report())),
        None => Err(ApiError::new(StatusCode::NOT_FOUND, "this port does not speak TLS").into()),
    }
}

async fn recover(
    State(port): State<PeerPort>,
    query: Result<Query<RecoverQuery>, QueryRejection>,
) -> Result<Response, PeerRefusal> {
    let Query(query) = query.map_err(|rejection| ApiError::bad_request(rejection.body_text()))?;
    let recovery = port.driver.recover(query.epoch, query.process_id).await?;
    let body = Body::from_stream(recover::frames(recovery));
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], body).into_response())
}

async fn stream(State(port): State<PeerPort>, mut request: Request) -> Result<Response, PeerRefusal> {
    let asked = request.headers().get(header::UPGRADE).is_some_and(|value| value == PROTOCOL);
    let upgrade = request.extensions_mut().remove::<OnUpgrade>().filter(|_| asked);
    let Some(upgrade) = upgrade else {
        let text = format!("/stream needs the header Upgrade: {PROTOCOL}");
        return Err(ApiError::new(StatusCode::UPGRADE_REQUIRED, text).into());
    };
    let driver = port.driver;
    tokio::spawn(async move {
        match upgrade.await {
            Ok(upgraded) => transport::serve(driver, TokioIo::new(upgraded)).await,
            Err(error) => warn!(%error, "a leader went away while it opened a stream"),
        }
    });
    let headers = [
        (header::CONNECTION, HeaderValue::from_static("Upgrade")),
        (header::UPGRADE, HeaderValue::from_static(PROTOCOL)),
    ];
    let mut answer = (StatusCode::SWITCHING_PROTOCOLS, headers).into_response();
    if port.compression != Compression::Off {
        answer.headers_mut().insert(header::ACCEPT_ENCODING, HeaderValue::from_static(ENCODING));
    }
    Ok(answer)
}

async fn unknown_route(uri: Uri) -> PeerRefusal {
    let routes = ROUTES.map(|(path, _)| path).join(", ");
    ApiError::new(StatusCode::NOT_FOUND, format!("no such route: {}; there are {routes}", uri.path())).into()
}

async fn wrong_method(method: Method, uri: Uri) -> PeerRefusal {
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, format!("{} does not take {method}", uri.path())).into()
}

#[cfg(test)]
mod tests;
