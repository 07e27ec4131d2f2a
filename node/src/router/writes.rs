//! Writes: from a client's wish to an entry of the log, and from what became of it to an answer.

use axum::{
    body::{Body, Bytes},
    extract::{State, rejection::BytesRejection},
    http::{HeaderMap, StatusCode},
    response::Response,
};
use quorumkv_api::{
    MAX_REQUEST_ID_BYTES, Seq,
    lab::{SetReply, SetRequest},
};
use quorumkv_protocol::{Change, Condition, Digest, Format, Operation, RequestKey, Write, WriteOutcome};
use sha2::{Digest as _, Sha256};

use super::{ClientPort, Connection, checked_key, reads::json, value::checked_value};
use crate::{
    answer::{ApiError, parse_object},
    handle::{DriverHandle, NotTaken, WriteAnswer, Written},
    store::{Deviation, requests::Outcome},
    wire,
};

const SET_EXAMPLE: &str = r#"{"key":"name","value":"any JSON"}"#;

/// The header in which a client may name its request, after the draft of the IETF's HTTPAPI group.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// A write as a client wishes it, checked.
#[derive(Debug)]
pub(super) struct Wish {
    pub(super) key: Bytes,
    pub(super) change: Change,
    pub(super) condition: Option<Condition>,
    pub(super) request_id: Option<Bytes>,
}

/// A write that is done.
#[derive(Debug, Clone, Copy)]
pub(super) struct Done {
    pub(super) version: Seq,
    pub(super) replicas: usize,
    /// Whether an earlier request of the same id did it.
    pub(super) repeated: bool,
}

pub(super) async fn set(
    State(port): State<ClientPort>,
    _connection: Connection,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let done = wish(&headers, &body?)?.make(&port.driver).await?;
    let mut body = Vec::with_capacity(128);
    done.put(&mut body);
    Ok(json(Body::from(body)))
}

/// What a request to `POST /set` wishes.
pub(super) fn wish(headers: &HeaderMap, body: &[u8]) -> Result<Wish, ApiError> {
    let request: SetRequest<'_> = parse_object(body, SET_EXAMPLE)?;
    let key = checked_key(&request.key)?;
    // Copies: the body is a slice of the connection's buffer, which the log must not keep.
    Ok(Wish {
        key: Bytes::copy_from_slice(key.as_bytes()),
        change: Change::Put {
            format: Format::Json,
            value: Bytes::copy_from_slice(checked_value(request.value)?.as_bytes()),
        },
        condition: None,
        request_id: request_id(headers, request.request_id.as_deref())?,
    })
}

impl Done {
    /// Appends the body of the answer that tells of it.
    pub(super) fn put(self, body: &mut Vec<u8>) {
        let Self { version, replicas, repeated } = self;
        let reply = SetReply { success: true, replicas, version, repeated };
        serde_json::to_writer(body, &reply).expect("memory takes everything");
    }
}

impl Wish {
    pub(super) fn operation(self) -> Operation {
        let Self { key, change, condition, request_id } = self;
        match (change, condition, request_id) {
            (Change::Put { format: Format::Json, value }, None, None) => Operation::Put { key, value },
            (change, condition, request_id) => {
                let mut write = Box::new(Write { key, change, condition, request: None });
                write.request = request_id.map(|id| RequestKey { id, digest: digest(&write) });
                Operation::Write(write)
            }
        }
    }

    /// Hands it to the driver and waits for what becomes of it.
    pub(super) async fn make(self, driver: &DriverHandle) -> Result<Done, ApiError> {
        settle(driver, driver.write(self.operation()).await)
    }
}

/// What the driver's answer means for the client.
pub(super) fn settle(driver: &DriverHandle, answer: WriteAnswer) -> Result<Done, ApiError> {
    let not_taken = |why: NotTaken| match why {
        NotTaken::StorageFull => ApiError::new(StatusCode::INSUFFICIENT_STORAGE, why.to_string()),
        NotTaken::Overloaded => ApiError::unavailable(why.to_string()),
    };
    let Written { outcome, deviation } = answer.map_err(not_taken)?;
    let WriteOutcome::Committed { version, replicas, appended: _ } = outcome else {
        return Err(write_error(driver, outcome));
    };
    match deviation {
        None => Ok(Done { version, replicas, repeated: false }),
        Some(Deviation::Repeated { version, outcome: Outcome::Done }) => Ok(Done { version, replicas, repeated: true }),
        Some(
            Deviation::ConditionFailed { current }
            | Deviation::Repeated { outcome: Outcome::ConditionFailed { current }, .. },
        ) => Err(ApiError::condition_failed(current)),
        Some(Deviation::IdTaken) => {
            let error = "The request id was used for another write; nothing was written";
            Err(ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, error))
        }
    }
}

/// Of everything in a write but its request id.
fn digest(write: &Write) -> Digest {
    let mut bytes = Vec::new();
    wire::put_write(&mut bytes, write);
    let hash: [u8; 32] = Sha256::digest(&bytes).into();
    let mut digest = [0; 16];
    digest.copy_from_slice(&hash[..16]);
    Digest(digest)
}

/// The request id from body or header; where there are both, they must agree.
pub(super) fn request_id(headers: &HeaderMap, in_body: Option<&str>) -> Result<Option<Bytes>, ApiError> {
    let mut in_header = headers.get_all(IDEMPOTENCY_KEY).iter().map(|value| unquoted(value.as_bytes()));
    let id = match (in_header.next(), in_body.map(str::as_bytes)) {
        (Some(header), Some(body)) if header != body => {
            return Err(ApiError::bad_request("requestId and the header Idempotency-Key say different things"));
        }
        (header, body) => header.or(body),
    };
    if in_header.next().is_some() {
        return Err(ApiError::bad_request("there is more than one header Idempotency-Key"));
    }
    id.map(checked_request_id).transpose()
}

/// The draft makes the header's value a quoted string; most clients send it as it is.
fn unquoted(value: &[u8]) -> &[u8] {
    value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(value)
}

/// The rules of a request id, wherever it comes from.
pub(super) fn checked_request_id(id: &[u8]) -> Result<Bytes, ApiError> {
    let printable = id.iter().all(|byte| matches!(byte, b' '..=b'~'));
    if printable && (1..=MAX_REQUEST_ID_BYTES).contains(&id.len()) {
        return Ok(Bytes::copy_from_slice(id));
    }
    Err(ApiError::bad_request(format!("a request id has 1..{MAX_REQUEST_ID_BYTES} characters of printable ASCII")))
}

fn write_error(driver: &DriverHandle, outcome: WriteOutcome) -> ApiError {
    match outcome {
        WriteOutcome::NotLeader => {
            ApiError::at_the_leader("Only leader accepts writes", driver.view.borrow().leader_url.clone())
        }
        WriteOutcome::QuorumNotReached { replicas } => {
            let mut error = ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "Quorum not reached");
            error.body.replicas = Some(replicas);
            error
        }
        WriteOutcome::NotActive => ApiError::unavailable("The leader is not active yet; nothing was written"),
        WriteOutcome::LeadershipLost => {
            ApiError::unavailable("Leadership was lost before the quorum confirmed; the write may still commit")
        }
        WriteOutcome::Stopping => ApiError::unavailable("The node is stopping"),
        WriteOutcome::Committed { .. } => unreachable!("a committed write is no error"),
    }
}
