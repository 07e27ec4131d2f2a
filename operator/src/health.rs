//! `/livez`, `/readyz` and `/metrics`: routers that need no socket to be tested.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// Whether the caches have been filled once.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<AtomicBool>);

impl Readiness {
    /// The caches are filled.
    pub fn reached(&self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Serves the probes.
pub fn probes(readiness: Readiness) -> Router {
    Router::new().route("/livez", get(async || "ok")).route("/readyz", get(readyz)).with_state(readiness)
}

async fn readyz(State(Readiness(ready)): State<Readiness>) -> (StatusCode, &'static str) {
    if ready.load(Ordering::Acquire) {
        (StatusCode::OK, "ok")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the caches are being filled")
    }
}

/// Serves the metrics.
pub fn metrics(metrics: Arc<Metrics>) -> Router {
    Router::new().route("/metrics", get(text)).with_state(metrics)
}

async fn text(State(metrics): State<Arc<Metrics>>) -> Response {
    match metrics.text() {
        Ok(text) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Serves a router on every address until `stop`.
///
/// # Errors
/// When the port is taken, or accepting fails for good.
pub async fn serve(router: Router, port: u16, stop: CancellationToken) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::bind((std::net::Ipv6Addr::UNSPECIFIED, port)).await;
    let listener = match listener {
        Ok(listener) => listener,
        // A machine without IPv6.
        Err(_) => tokio::net::TcpListener::bind((std::net::Ipv4Addr::UNSPECIFIED, port)).await?,
    };
    axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, http::Request};
    use tower::ServiceExt;

    use super::*;

    async fn status(router: Router, path: &str) -> StatusCode {
        let request = Request::get(path).body(Body::empty()).expect("a request");
        router.oneshot(request).await.expect("an answer").status()
    }

    #[tokio::test]
    async fn ready_only_once_the_caches_are_filled() {
        let readiness = Readiness::default();
        assert_eq!(status(probes(readiness.clone()), "/livez").await, StatusCode::OK);
        assert_eq!(status(probes(readiness.clone()), "/readyz").await, StatusCode::SERVICE_UNAVAILABLE);
        readiness.reached();
        assert_eq!(status(probes(readiness), "/readyz").await, StatusCode::OK);
    }

    #[tokio::test]
    async fn metrics_are_served() {
        assert_eq!(status(metrics(Arc::default()), "/metrics").await, StatusCode::OK);
    }
}
