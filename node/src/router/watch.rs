//! `GET /watch`: committed writes as server-sent events, in the order of the log.
//!
//! Nothing is queued for a watcher. Whenever it can take more, it asks the driver for the next part of the log:
//! one that is slow falls behind, and is sent away once the node no longer holds what it would need next.

use std::{convert::Infallible, time::Duration};

use axum::{
    body::{Body, Bytes},
    extract::{Query, State, rejection::QueryRejection},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use futures::stream;
use quorumkv_api::Seq;
use quorumkv_protocol::{Change, Entry, Format, Operation};
use serde::Deserialize;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use super::{
    ClientPort,
    view::{put_field, put_key},
};
use crate::{
    answer::ApiError,
    handle::{DriverHandle, Forgotten, LogPart},
};

/// How often a watcher that has nothing to see is shown that the connection lives.
const SIGN_OF_LIFE: Duration = Duration::from_secs(15);

/// What to watch.
#[derive(Debug, Default, Deserialize)]
pub(super) struct WatchQuery {
    /// First version; without it, the next one.
    from: Option<Seq>,
    /// Beginning of the keys.
    #[serde(default)]
    prefix: String,
}

pub(super) async fn watch(
    State(port): State<ClientPort>,
    query: Result<Query<WatchQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let Query(WatchQuery { from, prefix }) =
        query.map_err(|rejection| ApiError::bad_request(format!("{}; from is a number", rejection.body_text())))?;
    // A browser that connects again repeats the URL and says here how far it came.
    let next = match (last_event(&headers)?, from) {
        (Some(last), _) => last.next(),
        // There is no version zero: all there is.
        (None, Some(from)) => from.max(Seq(1)),
        (None, None) => port.driver.store.applied().next(),
    };
    let permit = port.watchers.clone().try_acquire_owned();
    let permit = permit.map_err(|_| ApiError::unavailable("this node has as many watchers as it can have"))?;
    let LogPart { entries, next } = read(&port.driver, next).await?.map_err(forgotten)?;
    let first = render(&entries, prefix.as_bytes(), next);
    let watcher = Watcher { driver: port.driver, next, prefix, draining: port.draining, ended: false, _permit: permit };
    let rest = stream::unfold(watcher, Watcher::more);
    let events = futures::StreamExt::chain(stream::iter([Ok::<_, Infallible>(first)]), rest);
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, Body::from_stream(events)).into_response())
}

fn last_event(headers: &HeaderMap) -> Result<Option<Seq>, ApiError> {
    let Some(id) = headers.get("last-event-id") else { return Ok(None) };
    let id = id.to_str().ok().and_then(|id| id.parse().ok()).filter(|id| *id < u64::MAX);
    id.map(|id| Some(Seq(id))).ok_or_else(|| ApiError::bad_request("Last-Event-ID is a version, a number"))
}

async fn read(driver: &DriverHandle, from: Seq) -> Result<Result<LogPart, Forgotten>, ApiError> {
    driver.read_log(from).await.map_err(|stopped| ApiError::unavailable(stopped.to_string()))
}

fn forgotten(Forgotten { oldest }: Forgotten) -> ApiError {
    let mut error = ApiError::new(
        StatusCode::GONE,
        format!("this node holds its log from version {oldest} on; read the keys, and watch from their version"),
    );
    error.body.oldest = Some(oldest);
    error
}

struct Watcher {
    driver: DriverHandle,
    /// What it sees next.
    next: Seq,
    prefix: String,
    draining: CancellationToken,
    ended: bool,
    _permit: OwnedSemaphorePermit,
}

impl Watcher {
    /// The next piece of the stream.
    async fn more(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        if self.ended || self.draining.is_cancelled() {
            return None;
        }
        if self.driver.store.applied() < self.next {
            tokio::select! {
                () = self.driver.store.reached(self.next) => {}
                () = self.draining.cancelled() => return None,
                () = tokio::time::sleep(SIGN_OF_LIFE) => return Some((Ok(Bytes::from_static(b":\n\n")), self)),
            }
        }
        let piece = match self.driver.read_log(self.next).await.ok()? {
            Err(gone) => {
                self.ended = true;
                let body = serde_json::to_string(&forgotten(gone).body).expect("plain fields");
                Bytes::from(format!("event: error\ndata: {body}\n\n"))
            }
            Ok(LogPart { entries, next }) => {
                self.next = next;
                render(&entries, self.prefix.as_bytes(), next)
            }
        };
        Some((Ok(piece), self))
    }
}

/// The events of these entries. It never is empty, so that one who waits sees how far the log is: after entries
/// that are not for him, the id alone goes on.
fn render(entries: &[Entry], prefix: &[u8], next: Seq) -> Bytes {
    let mut out = Vec::new();
    for Entry { seq, operation, .. } in entries {
        let (key, value) = match operation {
            Operation::Put { key, value } => (key, Some((Format::Json, value))),
            Operation::Write(write) => match &write.change {
                Change::Put { format, value } => (&write.key, Some((*format, value))),
                Change::Delete => (&write.key, None),
            },
            Operation::Barrier | Operation::Settings(_) => continue,
        };
        if !key.starts_with(prefix) {
            continue;
        }
        let kind = if value.is_some() { "put" } else { "delete" };
        out.extend_from_slice(format!("id: {seq}\nevent: {kind}\ndata: {{\"key\":").as_bytes());
        put_key(&mut out, key);
        out.extend_from_slice(format!(",\"version\":{seq}").as_bytes());
        if let Some((format, value)) = value {
            out.push(b',');
            let field = out.len();
            put_field(&mut out, format, value);
            // Within JSON text a line break can only stand between tokens, and would end the event's line.
            out[field..].iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
        }
        out.extend_from_slice(b"}\n\n");
    }
    out.extend_from_slice(format!("id: {}\n\n", next.prev()).as_bytes());
    out.into()
}
