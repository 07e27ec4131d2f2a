//! `POST /batch`: many writes in one request. They stand in the log in the order in which they were sent, next
//! to each other or not; each has its own outcome, and there is no other bond between them.

use std::borrow::Cow;

use axum::{
    Json,
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    http::StatusCode,
};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use quorumkv_api::{
    kv::{BatchOutcome, BatchReply, BatchResult},
    lab::{ReplicatedCondition, SetReply},
};
use quorumkv_protocol::{Change, Format, Operation, WriteOutcome};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::{
    ClientPort, Connection, checked_key,
    replicate::{condition, copied_value},
    writes::{Done, Wish, checked_request_id, settle},
};
use crate::{
    answer::{ApiError, parse_object},
    handle::{WriteAnswer, Written},
};

/// Most writes in one request.
const MOST: usize = 1000;

const EXAMPLE: &str = r#"{"writes":[{"key":"a","value":"any JSON"},{"key":"b","delete":true}]}"#;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body<'a> {
    #[serde(borrow)]
    writes: Vec<BodyWrite<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct BodyWrite<'a> {
    #[serde(borrow)]
    key: Cow<'a, str>,
    #[serde(borrow, default, deserialize_with = "present")]
    value: Option<&'a RawValue>,
    base64: Option<String>,
    delete: Option<bool>,
    condition: Option<ReplicatedCondition>,
    request_id: Option<String>,
}

/// A value that is `null` is one all the same.
fn present<'de, D: Deserializer<'de>>(from: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(from).map(Some)
}

pub(super) async fn batch(
    State(port): State<ClientPort>,
    _connection: Connection,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<BatchReply>, ApiError> {
    let body = body?;
    let Body { writes } = parse_object(&body, EXAMPLE)?;
    if !(1..=MOST).contains(&writes.len()) {
        return Err(ApiError::bad_request(format!("a batch has 1..{MOST} writes, not {}", writes.len())));
    }
    let operations = (0..).zip(writes).map(|(index, write)| {
        operation(write).map_err(|mut error| {
            error.body.error = format!("write {index}: {}", error.body.error);
            error
        })
    });
    let operations = operations.collect::<Result<Vec<_>, _>>()?;
    let answers = port.driver.write_all(operations).await;
    // Where one was not even appended, none was: the whole request belongs elsewhere, or to another time.
    let refused = answers.first().is_some_and(is_refused);
    let mut settled = answers.into_iter().map(|answer| settle(&port.driver, answer));
    match settled.next() {
        Some(Err(error)) if refused => Err(error),
        first => Ok(Json(BatchReply { results: first.into_iter().chain(settled).map(result).collect() })),
    }
}

/// Whether a write did not reach the log.
fn is_refused(answer: &WriteAnswer) -> bool {
    use WriteOutcome::{NotActive, NotLeader, Stopping};
    matches!(answer, Err(_) | Ok(Written { outcome: NotLeader | NotActive | Stopping, .. }))
}

fn result(settled: Result<Done, ApiError>) -> BatchResult {
    match settled {
        Ok(Done { version, replicas, repeated }) => {
            let done = SetReply { success: true, replicas, version, repeated };
            BatchResult { status: StatusCode::OK.as_u16(), outcome: BatchOutcome::Done(done) }
        }
        Err(error) => BatchResult { status: error.status.as_u16(), outcome: BatchOutcome::Failed(error.body) },
    }
}

fn operation(write: BodyWrite<'_>) -> Result<Operation, ApiError> {
    let BodyWrite { key, value, base64, delete, condition: demanded, request_id } = write;
    let key = Bytes::copy_from_slice(checked_key(&key)?.as_bytes());
    let change = match (value, base64, delete) {
        (Some(value), None, None) => Change::Put { format: Format::Json, value: copied_value(value)? },
        (None, Some(base64), None) => {
            let value = BASE64.decode(base64).map_err(|_| ApiError::bad_request("base64 is no base64"))?;
            Change::Put { format: Format::Raw, value: value.into() }
        }
        (None, None, Some(true)) => Change::Delete,
        _ => return Err(ApiError::bad_request("there must be one of value, base64 and \"delete\": true")),
    };
    let request_id = request_id.map(|id| checked_request_id(id.as_bytes())).transpose()?;
    Ok(Wish { key, change, condition: demanded.map(condition), request_id }.operation())
}
