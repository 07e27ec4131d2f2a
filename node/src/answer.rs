//! Answers that are no success: on every route JSON, on the client port [`ErrorReply`], on the peer port
//! [`PeerError`].

use std::any::Any;

use axum::{
    Json,
    extract::rejection::BytesRejection,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use quorumkv_api::{
    Epoch, MAX_BODY_BYTES, Seq,
    lab::ErrorReply,
    peer::{PeerError, Refusal},
};
use serde::Deserialize;
use tracing::error;

/// When to come again after a 503. Elections take less, and so do most overloads.
const RETRY_AFTER_SECONDS: &str = "1";

/// The entity tag of a version.
pub fn etag(version: Seq) -> HeaderValue {
    HeaderValue::try_from(format!("\"{version}\"")).expect("a number in quotes is a header's value")
}

/// An error of the client port.
#[derive(Debug)]
pub struct ApiError {
    /// Status of the answer.
    pub status: StatusCode,
    /// Its body.
    pub body: ErrorReply,
}

impl ApiError {
    /// An error with nothing but a text.
    pub fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self { status, body: ErrorReply { error: error.into(), ..ErrorReply::default() } }
    }

    /// 400: the request says something that is not allowed.
    pub fn bad_request(error: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error)
    }

    /// 503: not now.
    pub fn unavailable(error: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, error)
    }

    /// 403: go to the leader.
    pub fn at_the_leader(error: impl Into<String>, leader: Option<String>) -> Self {
        let body = ErrorReply { error: error.into(), leader: Some(leader), ..ErrorReply::default() };
        Self { status: StatusCode::FORBIDDEN, body }
    }

    /// 412: the key's value has another version than the request demands.
    pub fn condition_failed(current: Option<Seq>) -> Self {
        let error = "The condition does not hold; nothing was written".to_owned();
        let body = ErrorReply { error, version: Some(current), ..ErrorReply::default() };
        Self { status: StatusCode::PRECONDITION_FAILED, body }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let elsewhere = self.body.leader.is_some();
        let current = self.body.version.flatten();
        let mut response = (self.status, Json(self.body)).into_response();
        if elsewhere {
            // A client that came through the leader's Service while this node led would otherwise keep its
            // connection, and with it this answer, for ever. The next connection finds the leader.
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if let Some(version) = current {
            response.headers_mut().insert(header::ETAG, etag(version));
        }
        with_advice(response)
    }
}

/// What the status asks for besides: when to come again, or what to present.
fn with_advice(mut response: Response) -> Response {
    let (status, headers) = (response.status(), response.headers_mut());
    match status {
        StatusCode::SERVICE_UNAVAILABLE => {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECONDS));
        }
        StatusCode::UNAUTHORIZED => {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            // Strangers keep no connection that others could use.
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        _ => {}
    }
    response
}

impl From<PeerError> for ApiError {
    fn from(refusal: PeerError) -> Self {
        Self::new(status_of(refusal.reason), refusal.error)
    }
}

impl From<BytesRejection> for ApiError {
    fn from(rejection: BytesRejection) -> Self {
        match rejection.status() {
            status @ StatusCode::PAYLOAD_TOO_LARGE => {
                Self::new(status, format!("the body is larger than {MAX_BODY_BYTES} bytes"))
            }
            status => Self::new(status, format!("the body cannot be read: {}", rejection.body_text())),
        }
    }
}

/// Reads a JSON object.
///
/// # Errors
/// 400 that says what is wrong and where.
pub fn parse_object<'a, Body: Deserialize<'a>>(body: &'a [u8], example: &str) -> Result<Body, ApiError> {
    // serde would also take an array for a struct.
    let first = body.iter().find(|byte| !byte.is_ascii_whitespace());
    match first {
        Some(b'{') => {}
        None => return Err(ApiError::bad_request(format!("the body is empty; send a JSON object such as {example}"))),
        Some(_) => return Err(ApiError::bad_request(format!("the body must be a JSON object such as {example}"))),
    }
    serde_json::from_slice(body).map_err(|error| {
        let problem = if error.is_data() { "the body does not fit" } else { "the body is not valid JSON" };
        ApiError::bad_request(format!("{problem}: {error}"))
    })
}

/// An error of the peer port.
#[derive(Debug)]
pub struct PeerRefusal(pub StatusCode, pub PeerError);

impl From<PeerError> for PeerRefusal {
    fn from(refusal: PeerError) -> Self {
        Self(status_of(refusal.reason), refusal)
    }
}

impl From<ApiError> for PeerRefusal {
    fn from(error: ApiError) -> Self {
        let reason = match error.status {
            StatusCode::UNAUTHORIZED => Refusal::Unauthorized,
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::INTERNAL_SERVER_ERROR => Refusal::Unavailable,
            _ => Refusal::Invalid,
        };
        Self(error.status, PeerError { error: error.body.error, reason, promised: Epoch(0) })
    }
}

impl From<BytesRejection> for PeerRefusal {
    fn from(rejection: BytesRejection) -> Self {
        ApiError::from(rejection).into()
    }
}

impl IntoResponse for PeerRefusal {
    fn into_response(self) -> Response {
        with_advice((self.0, Json(self.1)).into_response())
    }
}

fn status_of(reason: Refusal) -> StatusCode {
    StatusCode::from_u16(reason.status_code()).expect("every refusal has a status code of HTTP")
}

/// The answer in place of a handler that panicked; both ports' clients can read it.
pub fn panicked(panic: Box<dyn Any + Send + 'static>) -> Response {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
    error!(panic = text, "a request handler panicked");
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal error; the node's log says more").into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_sends_the_client_elsewhere_closes_its_connection() {
        let closes = |error: ApiError| error.into_response().headers().get(header::CONNECTION).is_some();
        assert!(closes(ApiError::at_the_leader("Only leader accepts writes", None)));
        assert!(closes(ApiError::at_the_leader("Only leader accepts writes", Some("http://leader:5000".to_owned()))));
        assert!(!closes(ApiError::unavailable("The leader is not active yet; nothing was written")));
        assert!(!closes(ApiError::bad_request("no key")));
    }
}
