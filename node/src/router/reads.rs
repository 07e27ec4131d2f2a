//! `GET /get/<key>` and `GET /get_all`, answered from the store.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes},
    extract::{
        Path, Query, State,
        rejection::{PathRejection, QueryRejection},
    },
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use futures::stream;
use quorumkv_api::{Seq, lab::Role};
use quorumkv_protocol::Format;
use serde::Deserialize;

use super::{
    ClientPort, Connection, checked_key,
    view::{put_json, put_key, put_text},
};
use crate::{
    answer::ApiError,
    handle::DriverHandle,
    store::{Key, Snapshot, Versioned},
};

/// Longest wait for `?minVersion=`.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// `GET /get_all` is sent in pieces of about this size.
const PIECE_BYTES: usize = 64 * 1024;

/// What a reader may ask for.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ReadQuery {
    consistency: Option<Consistency>,
    min_version: Option<Seq>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Consistency {
    /// The newest acknowledged write; only an active leader can know it.
    Linearizable,
    /// What this node has.
    Stale,
}

pub(super) async fn get(
    State(port): State<ClientPort>,
    connection: Connection,
    key: Result<Path<String>, PathRejection>,
    query: Result<Query<ReadQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Path(key) = key.map_err(|rejection| ApiError::bad_request(format!("the key is no text: {rejection}")))?;
    let key = checked_key(&key)?;
    let query = checked_query(query)?;
    wait(&port.driver, &query).await?;
    let found = found(&port.driver, &connection, key, &query)?;
    let mut body = Vec::with_capacity(key.len() + found.value.len() + 48);
    put_found(&mut body, key, &found);
    Ok(json(Body::from(body)))
}

/// The value of a key, if this node may show it.
pub(super) fn found(
    driver: &DriverHandle,
    connection: &Connection,
    key: &str,
    query: &ReadQuery,
) -> Result<Arc<Versioned>, ApiError> {
    let (found, _) = driver.store.get(key.as_bytes());
    // Only after the read: a lease that still holds now held while the value was read.
    allowed(driver, connection, query)?;
    found.ok_or_else(|| ApiError::new(StatusCode::NOT_FOUND, "Key not found"))
}

/// Appends the body of the answer that shows a key's value.
pub(super) fn put_found(body: &mut Vec<u8>, key: &str, found: &Versioned) {
    let Versioned { value, format, version } = found;
    body.extend_from_slice(br#"{"key":"#);
    put_text(body, key);
    body.extend_from_slice(br#","value":"#);
    put_json(body, *format, value);
    if *format == Format::Raw {
        body.extend_from_slice(br#","encoding":"base64""#);
    }
    body.extend_from_slice(br#","version":"#);
    body.extend_from_slice(version.0.to_string().as_bytes());
    body.push(b'}');
}

pub(super) async fn get_without_key() -> ApiError {
    checked_key("").err().unwrap_or_else(|| unreachable!("an empty key is refused"))
}

pub(super) async fn get_all(
    State(port): State<ClientPort>,
    connection: Connection,
    query: Result<Query<ReadQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let query = checked_query(query)?;
    wait(&port.driver, &query).await?;
    let snapshot = port.driver.store.snapshot();
    allowed(&port.driver, &connection, &query)?;
    let pieces = stream::iter(Pieces::new(snapshot).map(Ok::<_, Infallible>));
    Ok(json(Body::from_stream(pieces)))
}

pub(super) fn checked_query(query: Result<Query<ReadQuery>, QueryRejection>) -> Result<ReadQuery, ApiError> {
    let Query(query) = query.map_err(|rejection| {
        let allowed = "consistency is linearizable or stale, minVersion is a number";
        ApiError::bad_request(format!("{}; {allowed}", rejection.body_text()))
    })?;
    Ok(query)
}

pub(super) async fn wait(driver: &DriverHandle, query: &ReadQuery) -> Result<(), ApiError> {
    let Some(version) = query.min_version.filter(|version| driver.store.applied() < *version) else { return Ok(()) };
    tokio::time::timeout(LONGEST_WAIT, driver.store.reached(version)).await.map_err(|_| {
        let applied = driver.store.applied();
        ApiError::unavailable(format!("version {version} has not arrived here; this node is at {applied}"))
    })
}

pub(super) fn allowed(driver: &DriverHandle, connection: &Connection, query: &ReadQuery) -> Result<(), ApiError> {
    let view = driver.view.borrow();
    // Who has met the leader on this connection takes the answer for the leader's.
    let implied = connection.met_leader().then_some(Consistency::Linearizable);
    match (query.consistency.or(implied), view.role) {
        (Some(Consistency::Stale), _) | (None, Role::Follower) => Ok(()),
        (Some(Consistency::Linearizable), Role::Follower) => {
            Err(ApiError::at_the_leader("Only leader serves linearizable reads", view.leader_url.clone()))
        }
        (None | Some(Consistency::Linearizable), Role::Leader) => {
            if view.lease_until.is_some_and(|until| driver.clock.now() < until) {
                return Ok(());
            }
            Err(ApiError::unavailable(
                "The leader holds no read lease: too few followers answer; ?consistency=stale reads without one",
            ))
        }
    }
}

pub(super) fn json(body: Body) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// The body of `GET /get_all`, made while it is sent.
struct Pieces {
    snapshot: Snapshot,
    last: Option<Key>,
    stage: Stage,
    /// Keys with values that are no JSON.
    raw: Vec<Key>,
}

#[derive(PartialEq)]
enum Stage {
    Start,
    Keys,
    End,
}

impl Pieces {
    fn new(snapshot: Snapshot) -> Self {
        Self { snapshot, last: None, stage: Stage::Start, raw: Vec::new() }
    }
}

impl Iterator for Pieces {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.stage == Stage::End {
            return None;
        }
        let mut piece = Vec::with_capacity(PIECE_BYTES);
        if self.stage == Stage::Start {
            piece.extend_from_slice(br#"{"data":{"#);
            self.stage = Stage::Keys;
        }
        let mut first = self.last.is_none();
        let mut last = None;
        for (key, Versioned { value, format, .. }) in self.snapshot.after(self.last.as_deref()) {
            if piece.len() >= PIECE_BYTES {
                break;
            }
            if !first {
                piece.push(b',');
            }
            first = false;
            put_key(&mut piece, key);
            piece.push(b':');
            put_json(&mut piece, *format, value);
            if *format == Format::Raw {
                self.raw.push(key.clone());
            }
            last = Some(key.clone());
        }
        if let Some(last) = last {
            self.last = Some(last);
        } else {
            piece.push(b'}');
            for (index, key) in self.raw.iter().enumerate() {
                piece.extend_from_slice(if index == 0 { br#","base64":["# } else { b"," });
                put_key(&mut piece, key);
            }
            if !self.raw.is_empty() {
                piece.push(b']');
            }
            piece.extend_from_slice(format!(r#","version":{}}}"#, self.snapshot.applied).as_bytes());
            self.stage = Stage::End;
        }
        Some(piece.into())
    }
}

#[cfg(test)]
mod tests {
    use quorumkv_api::lab::GetAllReply;

    use super::*;

    fn body_of(snapshot: Snapshot) -> (usize, String) {
        let pieces: Vec<Bytes> = Pieces::new(snapshot).collect();
        (pieces.len(), String::from_utf8(pieces.concat()).expect("JSON is UTF-8"))
    }

    #[test]
    fn an_empty_store_is_an_empty_object() {
        assert_eq!(body_of(Snapshot::default()).1, r#"{"data":{},"version":0}"#);
    }

    #[test]
    fn bytes_that_are_no_json_are_in_base64_and_named() {
        let mut snapshot = Snapshot::default();
        snapshot.applied = Seq(9);
        snapshot.put(b"a", Format::Raw, b"\0\xff", Seq(1));
        snapshot.put(b"b", Format::Json, br#""AP8=""#, Seq(2));
        snapshot.put(b"c", Format::Raw, b"", Seq(3));
        let expected = r#"{"data":{"a":"AP8=","b":"AP8=","c":""},"base64":["a","c"],"version":9}"#;
        assert_eq!(body_of(snapshot).1, expected);
    }

    #[test]
    fn a_large_store_comes_in_pieces_that_are_one_object() {
        let mut snapshot = Snapshot::default();
        for key in 0..5_000_u64 {
            let value = format!(r#"{{"n": {key}}}"#);
            snapshot.put(format!("key \"{key}\"").as_bytes(), Format::Json, value.as_bytes(), Seq(key + 1));
        }
        snapshot.applied = Seq(5_003);
        let (pieces, body) = body_of(snapshot);
        assert!(pieces > 2, "{pieces} pieces");
        let reply: GetAllReply = serde_json::from_str(&body).expect("one JSON object");
        assert_eq!((reply.data.len(), reply.version), (5_000, Seq(5_003)));
        assert_eq!(reply.data[r#"key "77""#].get(), r#"{"n": 77}"#);
    }
}
