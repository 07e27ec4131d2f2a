//! An HTTP client for the peer port, used by the operator, by `local` and by a static leader.

use std::time::Duration;

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    SettingsPatch,
    peer::{FenceReply, FenceRequest, MembersRequest, NodeState, PeerError, PromoteRequest, SettingsReply},
};

/// Why a call to a node failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The node could not be reached, did not answer in time, or did not speak this protocol.
    #[error("no answer from {url}: {source}")]
    Unreachable {
        /// What was called.
        url: String,
        /// What went wrong.
        source: reqwest::Error,
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
    http: reqwest::Client,
    token: Option<String>,
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
        Self { http, token }
    }

    /// `GET /state`.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn state(&self, peer_url: &str) -> Result<NodeState, CallError> {
        self.call(reqwest::Method::GET, peer_url, "state", None::<&()>).await
    }

    /// `POST /fence`.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn fence(&self, peer_url: &str, request: &FenceRequest) -> Result<FenceReply, CallError> {
        self.call(reqwest::Method::POST, peer_url, "fence", Some(request)).await
    }

    /// `POST /promote`.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn promote(&self, peer_url: &str, request: &PromoteRequest) -> Result<NodeState, CallError> {
        self.call(reqwest::Method::POST, peer_url, "promote", Some(request)).await
    }

    /// `PUT /members`.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn members(&self, peer_url: &str, request: &MembersRequest) -> Result<NodeState, CallError> {
        self.call(reqwest::Method::PUT, peer_url, "members", Some(request)).await
    }

    /// `PUT /settings`.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn settings(&self, peer_url: &str, patch: &SettingsPatch) -> Result<SettingsReply, CallError> {
        self.call(reqwest::Method::PUT, peer_url, "settings", Some(patch)).await
    }

    async fn call<Body: Serialize + Sync, Reply: DeserializeOwned>(
        &self,
        method: reqwest::Method,
        peer_url: &str,
        path: &str,
        body: Option<&Body>,
    ) -> Result<Reply, CallError> {
        let url = format!("{}/{path}", peer_url.trim_end_matches('/'));
        let unreachable = |source| CallError::Unreachable { url: url.clone(), source };
        let mut request = self.http.request(method, &url);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.map_err(unreachable)?;
        if response.status().is_success() {
            return response.json().await.map_err(unreachable);
        }
        let refusal = response.json().await.map_err(unreachable)?;
        Err(CallError::Refused { url, refusal })
    }
}
