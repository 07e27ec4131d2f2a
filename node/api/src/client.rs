//! An HTTP client for the peer port, used by the operator, by `local` and by a static leader.

mod https;

use std::{io, time::Duration};

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream::BoxStream};
use http::{Method, StatusCode, header};
use http_body_util::{BodyDataStream, BodyExt as _, Full};
use serde::{Serialize, de::DeserializeOwned};

use self::https::{Https, with_causes};
use crate::{
    SettingsPatch,
    peer::{FenceReply, FenceRequest, MembersRequest, NodeState, PeerError, PromoteRequest, SettingsReply, TlsReport},
    tls::ClientTls,
};

/// Why there is no answer.
pub type NoAnswer = Box<dyn std::error::Error + Send + Sync>;

/// Why a call to a node failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The node could not be reached, did not answer in time, or did not speak this protocol.
    #[error("no answer from {url}: {source}")]
    Unreachable {
        /// What was called.
        url: String,
        /// What went wrong.
        source: NoAnswer,
    },
    /// The node answered, and refused.
    #[error("{url} refused: {refusal}")]
    Refused {
        /// What was called.
        url: String,
        /// Its reason.
        refusal: PeerError,
    },
}

/// Speaks to the peer ports of nodes. Cheap to clone; connections are kept alive and shared.
#[derive(Debug, Clone)]
pub struct PeerClient {
    way: Way,
    token: Option<String>,
}

#[derive(Debug, Clone)]
enum Way {
    Plain(reqwest::Client),
    /// With how long to wait for an answer.
    Secured(Https, Duration),
}

impl PeerClient {
    /// A client that presents `token` and waits at most `timeout` for each answer, the connection included.
    ///
    /// # Errors
    /// When the HTTP client cannot be set up.
    pub fn new(token: Option<String>, timeout: Duration) -> Result<Self, reqwest::Error> {
        let http = reqwest::Client::builder().timeout(timeout).tcp_nodelay(true).no_proxy().build()?;
        Ok(Self::over(http, token))
    }

    /// A client that presents `token` and calls over `http`, which brings its own timeout.
    #[must_use]
    pub const fn over(http: reqwest::Client, token: Option<String>) -> Self {
        Self { way: Way::Plain(http), token }
    }

    /// A client that presents `token` to peers whose certificates it accepts, and to nobody else: URLs have to
    /// begin with `https`. It waits at most `timeout` for each answer, the connection included.
    #[must_use]
    pub fn secured(token: Option<String>, timeout: Duration, tls: ClientTls) -> Self {
        Self { way: Way::Secured(Https::new(tls), timeout), token }
    }

    /// `GET /state`.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn state(&self, peer_url: &str) -> Result<NodeState, CallError> {
        self.call(Method::GET, peer_url, "state", None::<&()>).await
    }

    /// `POST /fence`.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn fence(&self, peer_url: &str, request: &FenceRequest) -> Result<FenceReply, CallError> {
        self.call(Method::POST, peer_url, "fence", Some(request)).await
    }

    /// `POST /promote`.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn promote(&self, peer_url: &str, request: &PromoteRequest) -> Result<NodeState, CallError> {
        self.call(Method::POST, peer_url, "promote", Some(request)).await
    }

    /// `PUT /members`.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn members(&self, peer_url: &str, request: &MembersRequest) -> Result<NodeState, CallError> {
        self.call(Method::PUT, peer_url, "members", Some(request)).await
    }

    /// `PUT /settings`.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn settings(&self, peer_url: &str, patch: &SettingsPatch) -> Result<SettingsReply, CallError> {
        self.call(Method::PUT, peer_url, "settings", Some(patch)).await
    }

    /// `GET /tls`.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn tls(&self, peer_url: &str) -> Result<TlsReport, CallError> {
        self.call(Method::GET, peer_url, "tls", None::<&()>).await
    }

    /// The body of a `GET`, as it arrives; the timeout of a secured client is for its beginning.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn download(
        &self,
        peer_url: &str,
        path: &str,
    ) -> Result<BoxStream<'static, io::Result<Bytes>>, CallError> {
        let url = url(peer_url, path);
        match &self.way {
            Way::Plain(http) => {
                let response = self.send_plain(http, Method::GET, &url, None).await?;
                if response.status().is_success() {
                    return Ok(response.bytes_stream().map_err(io::Error::other).boxed());
                }
                Err(refused(&url, &response.bytes().await.map_err(unreachable(&url))?))
            }
            Way::Secured(https, timeout) => {
                let beginning = self.send_secured(https, Method::GET, &url, None);
                let response = limited(*timeout, &url, beginning).await?;
                if response.status().is_success() {
                    return Ok(BodyDataStream::new(response.into_body()).map_err(io::Error::other).boxed());
                }
                Err(refused(&url, &limited(*timeout, &url, whole(response, &url)).await?.1))
            }
        }
    }

    async fn call<Body: Serialize + Sync, Reply: DeserializeOwned>(
        &self,
        method: Method,
        peer_url: &str,
        path: &str,
        body: Option<&Body>,
    ) -> Result<Reply, CallError> {
        let url = url(peer_url, path);
        let body = body.map(serde_json::to_vec).transpose().map_err(unreachable(&url))?;
        let (status, answer) = match &self.way {
            Way::Plain(http) => {
                let response = self.send_plain(http, method, &url, body).await?;
                (response.status(), response.bytes().await.map_err(unreachable(&url))?)
            }
            Way::Secured(https, timeout) => {
                let call = async {
                    let response = self.send_secured(https, method, &url, body).await?;
                    whole(response, &url).await
                };
                limited(*timeout, &url, call).await?
            }
        };
        if status.is_success() {
            return serde_json::from_slice(&answer).map_err(unreachable(&url));
        }
        Err(refused(&url, &answer))
    }

    async fn send_plain(
        &self,
        http: &reqwest::Client,
        method: Method,
        url: &str,
        body: Option<Vec<u8>>,
    ) -> Result<reqwest::Response, CallError> {
        let mut request = http.request(method, url);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.header(header::CONTENT_TYPE, "application/json").body(body);
        }
        request.send().await.map_err(unreachable(url))
    }

    async fn send_secured(
        &self,
        https: &Https,
        method: Method,
        url: &str,
        body: Option<Vec<u8>>,
    ) -> Result<http::Response<hyper::body::Incoming>, CallError> {
        let mut request = http::Request::builder().method(method).uri(url);
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let request = request.body(Full::from(body.unwrap_or_default())).map_err(unreachable(url))?;
        https.send(request).await.map_err(unreachable(url))
    }
}

fn url(peer_url: &str, path: &str) -> String {
    format!("{}/{path}", peer_url.trim_end_matches('/'))
}

fn unreachable<Error: Into<NoAnswer>>(url: &str) -> impl Fn(Error) -> CallError {
    move |source| CallError::Unreachable { url: url.to_owned(), source: source.into() }
}

fn refused(url: &str, answer: &[u8]) -> CallError {
    match serde_json::from_slice(answer) {
        Ok(refusal) => CallError::Refused { url: url.to_owned(), refusal },
        Err(error) => unreachable(url)(error),
    }
}

async fn whole(response: http::Response<hyper::body::Incoming>, url: &str) -> Result<(StatusCode, Bytes), CallError> {
    let status = response.status();
    let body = response.into_body().collect().await.map_err(|error| unreachable(url)(with_causes(&error)))?;
    Ok((status, body.to_bytes()))
}

async fn limited<T>(
    timeout: Duration,
    url: &str,
    call: impl Future<Output = Result<T, CallError>>,
) -> Result<T, CallError> {
    let answered = tokio::time::timeout(timeout, call).await;
    answered.unwrap_or_else(|_| Err(unreachable(url)(format!("nothing within {timeout:?}"))))
}

#[cfg(test)]
mod tests;
