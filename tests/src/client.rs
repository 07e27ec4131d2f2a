//! The client port as a test sees it: status codes and bodies as they are, nothing hidden.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, bail};
use quorumkv_api::lab::StatusReply;
use quorumkv_inspect::token;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::history::FinalValue;

/// An answer of any kind.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// Its status code.
    pub status: StatusCode,
    /// Its body; `Value::Null` when that is no JSON.
    pub body: Value,
    /// Its body, verbatim.
    pub text: String,
}

/// An HTTP client with kept-alive connections that never follows redirects and uses no proxy.
#[derive(Debug, Clone)]
pub struct LabClient {
    http: reqwest::Client,
}

impl LabClient {
    /// A client that waits at most `timeout` for each answer.
    ///
    /// # Errors
    /// When the HTTP client cannot be set up.
    pub fn new(timeout: Duration) -> anyhow::Result<Self> {
        Self::presenting(timeout, None)
    }

    /// The same with a token for nodes that ask for one.
    ///
    /// # Errors
    /// When the HTTP client cannot be set up, or the token cannot be sent.
    pub fn presenting(timeout: Duration, token: Option<&str>) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder()
            .timeout(timeout)
            .tcp_nodelay(true)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .default_headers(token::headers(token)?)
            .build()
            .context("an HTTP client")?;
        Ok(Self { http })
    }

    /// A request to be filled in and passed to [`Self::send`].
    pub fn request(&self, method: Method, url: &str) -> reqwest::RequestBuilder {
        self.http.request(method, url)
    }

    /// Sends a request and reads the whole answer.
    ///
    /// # Errors
    /// When there is no complete answer.
    pub async fn send(&self, request: reqwest::RequestBuilder) -> reqwest::Result<Answer> {
        let response = request.send().await?;
        let status = response.status();
        let text = response.text().await?;
        let body = serde_json::from_str(&text).unwrap_or(Value::Null);
        Ok(Answer { status, body, text })
    }

    /// `POST /set` of a text value.
    ///
    /// # Errors
    /// When there is no complete answer.
    pub async fn set(&self, node: &str, key: &str, value: &str) -> reqwest::Result<Answer> {
        self.set_json(node, &json!({"key": key, "value": value})).await
    }

    /// `POST /set` of a text value under a request id, so that it can be repeated.
    ///
    /// # Errors
    /// When there is no complete answer.
    pub async fn set_with_id(&self, node: &str, key: &str, value: &str, id: &str) -> reqwest::Result<Answer> {
        self.set_json(node, &json!({"key": key, "value": value, "requestId": id})).await
    }

    /// `POST /set` of this body.
    ///
    /// # Errors
    /// When there is no complete answer.
    pub async fn set_json(&self, node: &str, body: &Value) -> reqwest::Result<Answer> {
        self.send(self.request(Method::POST, &format!("{node}/set")).json(body)).await
    }

    /// `GET /get/<key>`; `query` is empty or begins with `?`. The key must need no escaping.
    ///
    /// # Errors
    /// When there is no complete answer.
    pub async fn get(&self, node: &str, key: &str, query: &str) -> reqwest::Result<Answer> {
        self.send(self.request(Method::GET, &format!("{node}/get/{key}{query}"))).await
    }

    /// `GET` of a path that begins with `/`.
    ///
    /// # Errors
    /// When there is no complete answer.
    pub async fn get_path(&self, node: &str, path: &str) -> reqwest::Result<Answer> {
        self.send(self.request(Method::GET, &format!("{node}{path}"))).await
    }

    /// `GET /status`.
    ///
    /// # Errors
    /// When there is no complete answer, or it is no [`StatusReply`].
    pub async fn status(&self, node: &str) -> anyhow::Result<StatusReply> {
        let answer = self.get_path(node, "/status").await?;
        serde_json::from_str(&answer.text).with_context(|| format!("{node}/status answered {}", answer.text))
    }

    /// `GET /get_all`: every key with its JSON value, and the version up to which that is complete.
    ///
    /// # Errors
    /// When there is no complete answer, or another one than 200.
    pub async fn content(&self, node: &str) -> anyhow::Result<(BTreeMap<String, Value>, u64)> {
        let answer = self.get_path(node, "/get_all").await?;
        if answer.status != StatusCode::OK {
            bail!("{node}/get_all answered {} {}", answer.status, answer.text);
        }
        let data = serde_json::from_value(answer.body["data"].clone()).context("data is no object")?;
        Ok((data, answer.body["version"].as_u64().context("no version")?))
    }

    /// [`Self::content`] in the form that [`crate::history::check_with_content`] takes.
    ///
    /// # Errors
    /// As [`Self::content`].
    pub async fn final_values(&self, node: &str) -> anyhow::Result<BTreeMap<String, FinalValue>> {
        let (data, _) = self.content(node).await?;
        let plain = |value: Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        Ok(data.into_iter().map(|(key, value)| (key, FinalValue { value: plain(value), version: None })).collect())
    }
}
