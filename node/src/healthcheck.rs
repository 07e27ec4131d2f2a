//! `quorumkv-node healthcheck`: for container runtimes whose images hold no other program.

use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(3);

/// Why a node counts as unhealthy.
#[derive(Debug, thiserror::Error)]
pub enum Unhealthy {
    /// No answer, or none in time.
    #[error("no answer from {url}: {source}")]
    NoAnswer {
        /// What was asked.
        url: String,
        /// What went wrong.
        source: reqwest::Error,
    },
    /// An answer other than 200.
    #[error("{url} answered {status}")]
    Status {
        /// What was asked.
        url: String,
        /// What it answered.
        status: http::StatusCode,
    },
}

/// Asks `url` once.
///
/// # Errors
/// When it does not answer 2xx within three seconds.
pub async fn check(url: &str) -> Result<(), Unhealthy> {
    let no_answer = |source| Unhealthy::NoAnswer { url: url.to_owned(), source };
    let client = reqwest::Client::builder().timeout(TIMEOUT).no_proxy().build().map_err(no_answer)?;
    let status = client.get(url).send().await.map_err(no_answer)?.status();
    if status.is_success() { Ok(()) } else { Err(Unhealthy::Status { url: url.to_owned(), status }) }
}

#[cfg(test)]
mod tests {
    use axum::{Router, routing::get};
    use http::StatusCode;

    use super::*;

    async fn serve(router: Router) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        tokio::spawn(async move { axum::serve(listener, router).await });
        format!("http://{address}/health")
    }

    #[tokio::test]
    async fn a_node_that_answers_200_is_healthy() {
        let url = serve(Router::new().route("/health", get(|| async { "ok" }))).await;
        check(&url).await.expect("healthy");
    }

    #[tokio::test]
    async fn a_node_that_answers_503_is_not() {
        let url = serve(Router::new().route("/health", get(|| async { StatusCode::SERVICE_UNAVAILABLE }))).await;
        assert!(matches!(check(&url).await, Err(Unhealthy::Status { status: StatusCode::SERVICE_UNAVAILABLE, .. })));
    }

    #[tokio::test]
    async fn a_port_where_nobody_listens_is_unhealthy() {
        assert!(matches!(check("http://127.0.0.1:1/health").await, Err(Unhealthy::NoAnswer { .. })));
    }
}
