//! What is answered on connections beyond the limit: how the node is, and to everything else that it has too many.
//!
//! Whoever opens connections must not be able to make a node look dead to those that end dead ones.

use axum::{
    Router,
    routing::{MethodRouter, any, get},
};
use tower_http::catch_panic::CatchPanicLayer;

use super::{ClientPort, health, readyz, wrong_method};
use crate::{
    answer::{ApiError, panicked},
    metrics::requests::{Port, UNKNOWN},
};

/// The routes of such a connection.
pub(super) fn router(port: ClientPort) -> Router {
    let requests = port.driver.metrics.requests.clone();
    let around = |route| (requests.layer(Port::Client, route), CatchPanicLayer::custom(panicked));
    let full: MethodRouter = any(full).layer(around(UNKNOWN)).with_state(port.clone());
    Router::new()
        .route("/health", get(health).fallback(wrong_method).layer(around("/health")))
        .route("/readyz", get(readyz).fallback(wrong_method).layer(around("/readyz")))
        .fallback_service(full)
        .with_state(port)
}

async fn full() -> ApiError {
    ApiError::unavailable("This node has as many connections as it can; try again later")
}
