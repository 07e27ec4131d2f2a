//! `/kv/<key>`: values as bytes, versions as entity tags, writes under conditions.

use axum::{
    Json,
    body::{Body, Bytes},
    extract::{
        Path, Query, State,
        rejection::{BytesRejection, PathRejection, QueryRejection},
    },
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use quorumkv_api::{Seq, lab::SetReply};
use quorumkv_protocol::{Change, Condition, Format};
use serde_json::value::RawValue;

use super::{
    ClientPort, Connection, checked_key,
    reads::{ReadQuery, allowed, checked_query, wait},
    value::checked_value,
    writes::{Done, Wish, request_id},
};
use crate::{
    answer::{ApiError, etag},
    store::Versioned,
};

const JSON: &str = "application/json";
const BYTES: &str = "application/octet-stream";

pub(super) async fn get(
    State(port): State<ClientPort>,
    connection: Connection,
    key: Result<Path<String>, PathRejection>,
    query: Result<Query<ReadQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let key = path_key(key)?;
    let query = checked_query(query)?;
    let condition = condition(&headers)?;
    wait(&port.driver, &query).await?;
    let (found, _) = port.driver.store.get(&key);
    // Only after the read: a lease that still holds now held while the value was read.
    allowed(&port.driver, &connection, &query)?;
    let current = found.as_ref().map(|found| found.version);
    match condition.filter(|condition| !condition.holds(current)) {
        Some(Condition::Present | Condition::Version(_)) => return Err(ApiError::condition_failed(current)),
        Some(Condition::Absent | Condition::NotVersion(_)) => {
            let version = current.expect("these fail only of a key with a value");
            return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, etag(version))]).into_response());
        }
        None => {}
    }
    let Some(found) = found else {
        return Err(ApiError::new(StatusCode::NOT_FOUND, "Key not found"));
    };
    let Versioned { value, format, version } = &*found;
    let kind = match format {
        Format::Json => JSON,
        Format::Raw => BYTES,
    };
    let headers = [(header::CONTENT_TYPE, HeaderValue::from_static(kind)), (header::ETAG, etag(*version))];
    Ok((headers, Body::from(value.clone())).into_response())
}

pub(super) async fn put(
    State(port): State<ClientPort>,
    _connection: Connection,
    key: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let (key, body) = (path_key(key)?, body?);
    let (format, value) = if is_json(&headers) {
        let value: &RawValue = serde_json::from_slice(&body)
            .map_err(|error| ApiError::bad_request(format!("the body is not valid JSON: {error}")))?;
        (Format::Json, checked_value(value)?.as_bytes())
    } else {
        (Format::Raw, &body[..])
    };
    // A copy: the body is a slice of the connection's buffer, which the log must not keep.
    let change = Change::Put { format, value: Bytes::copy_from_slice(value) };
    write(&port, key, change, &headers).await
}

pub(super) async fn delete(
    State(port): State<ClientPort>,
    _connection: Connection,
    key: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    write(&port, path_key(key)?, Change::Delete, &headers).await
}

async fn write(port: &ClientPort, key: Bytes, change: Change, headers: &HeaderMap) -> Result<Response, ApiError> {
    let gives_value = matches!(change, Change::Put { .. });
    let wish = Wish { key, change, condition: condition(headers)?, request_id: request_id(headers, None)? };
    let Done { version, replicas, repeated } = wish.make(&port.driver).await?;
    let tag = gives_value.then(|| [(header::ETAG, etag(version))]);
    Ok((tag, Json(SetReply { success: true, replicas, version, repeated })).into_response())
}

fn path_key(key: Result<Path<String>, PathRejection>) -> Result<Bytes, ApiError> {
    let Path(key) = key.map_err(|rejection| ApiError::bad_request(format!("the key is no text: {rejection}")))?;
    Ok(Bytes::copy_from_slice(checked_key(&key)?.as_bytes()))
}

/// Whether the body is said to be JSON; everything else is bytes.
fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.split(';').next().is_some_and(|essence| essence.trim().eq_ignore_ascii_case(JSON))
}

/// What `If-Match` or `If-None-Match` demands.
fn condition(headers: &HeaderMap) -> Result<Option<Condition>, ApiError> {
    let matching = single(headers, header::IF_MATCH)?;
    let other = single(headers, header::IF_NONE_MATCH)?;
    match (matching, other) {
        (None, None) => Ok(None),
        (Some("*"), None) => Ok(Some(Condition::Present)),
        (Some(tag), None) => version_of(tag, header::IF_MATCH).map(|version| Some(Condition::Version(version))),
        (None, Some("*")) => Ok(Some(Condition::Absent)),
        // A version is one sequence of bytes, so weak and strong comparison are the same here.
        (None, Some(tag)) => {
            let tag = tag.strip_prefix("W/").unwrap_or(tag);
            version_of(tag, header::IF_NONE_MATCH).map(|version| Some(Condition::NotVersion(version)))
        }
        (Some(_), Some(_)) => Err(ApiError::bad_request("send If-Match or If-None-Match, not both")),
    }
}

fn single(headers: &HeaderMap, name: HeaderName) -> Result<Option<&str>, ApiError> {
    let mut values = headers.get_all(&name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    match (value.to_str(), values.next()) {
        (Ok(value), None) => Ok(Some(value)),
        _ => Err(no_tag(&name)),
    }
}

fn version_of(tag: &str, name: HeaderName) -> Result<Seq, ApiError> {
    let number = tag.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let number = number.filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
    number.and_then(|number| number.parse().ok()).map(Seq).ok_or_else(|| no_tag(&name))
}

fn no_tag(name: &HeaderName) -> ApiError {
    ApiError::bad_request(format!("{name} takes one version in quotes, such as \"7\", or *"))
}
