//! `GET /kv`: keys with their values, in ascending order, page by page.
//!
//! All pages of a listing show the store at one version: the first page's state is held for the ones after it.
//! A state costs nothing until writes change what it shares with the present, so few are held, and not long.

use std::{collections::VecDeque, ops::Bound, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{Query, State, rejection::QueryRejection},
    http::StatusCode,
    response::Response,
};
use parking_lot::Mutex;
use quorumkv_api::Seq;
use serde::Deserialize;
use tokio::time::Instant;

use super::{
    ClientPort, Connection,
    reads::{ReadQuery, allowed, checked_query, json, wait},
    view::{put_field, put_key},
};
use crate::{
    answer::ApiError,
    store::{Snapshot, Versioned},
};

/// States held at once; the one that waited longest makes room.
const HELD: usize = 8;

/// How long the next page may be asked for.
const HOLD_FOR: Duration = Duration::from_secs(60);

const DEFAULT_LIMIT: usize = 100;
const LARGEST_LIMIT: usize = 1000;

/// A page ends after so many bytes, whatever was asked for.
const PAGE_BYTES: usize = 1024 * 1024;

/// What to list.
#[derive(Debug, Default, Deserialize)]
pub(super) struct ListQuery {
    /// Beginning of the keys.
    #[serde(default)]
    prefix: String,
    limit: Option<usize>,
    /// Keys after this one.
    after: Option<String>,
    /// Of which state; without it, of the present one.
    version: Option<Seq>,
}

/// States that listings have begun with.
#[derive(Debug, Default)]
pub(super) struct Pages {
    held: Mutex<VecDeque<(Instant, Snapshot)>>,
}

impl Pages {
    fn find(&self, version: Seq) -> Option<Snapshot> {
        let held = self.held.lock();
        held.iter().find(|(_, state)| state.applied == version).map(|(_, state)| state.clone())
    }

    /// Holds a state from now on.
    fn hold(self: &Arc<Self>, state: Snapshot) {
        let mut held = self.held.lock();
        held.retain(|(_, other)| other.applied != state.applied);
        while held.len() >= HELD {
            held.pop_front();
        }
        held.push_back((Instant::now(), state));
        drop(held);
        let pages = Arc::downgrade(self);
        tokio::spawn(async move {
            tokio::time::sleep(HOLD_FOR).await;
            if let Some(pages) = pages.upgrade() {
                pages.held.lock().retain(|(since, _)| since.elapsed() < HOLD_FOR);
            }
        });
    }
}

pub(super) async fn list(
    State(port): State<ClientPort>,
    connection: Connection,
    query: Result<Query<ReadQuery>, QueryRejection>,
    list: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let query = checked_query(query)?;
    let Query(list) = list.map_err(|rejection| {
        ApiError::bad_request(format!("{}; limit and version are numbers", rejection.body_text()))
    })?;
    let limit = list.limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=LARGEST_LIMIT).contains(&limit) {
        return Err(ApiError::bad_request(format!("limit is {limit}; it must be 1..{LARGEST_LIMIT}")));
    }
    let state = match list.version {
        Some(version) => port.pages.find(version).ok_or_else(|| {
            let error = format!("the listing at version {version} is not held any more, or not here; begin again");
            ApiError::new(StatusCode::GONE, error)
        })?,
        None => {
            wait(&port.driver, &query).await?;
            let state = port.driver.store.snapshot();
            allowed(&port.driver, &connection, &query)?;
            state
        }
    };
    let (body, complete) = page(&state, &list, limit);
    if !complete {
        port.pages.hold(state);
    }
    Ok(json(Body::from(body)))
}

/// A page, and whether it is the last.
fn page(state: &Snapshot, list: &ListQuery, limit: usize) -> (Vec<u8>, bool) {
    let prefix = list.prefix.as_bytes();
    let start = match &list.after {
        Some(after) if after.as_bytes() >= prefix => Bound::Excluded(after.as_bytes()),
        _ => Bound::Included(prefix),
    };
    let mut keys = state.from(start).take_while(|(key, _)| key.starts_with(prefix)).peekable();
    let mut body = format!(r#"{{"version":{},"keys":["#, state.applied).into_bytes();
    let (mut count, mut last) = (0, None);
    while let Some((key, Versioned { value, format, version })) =
        keys.next_if(|_| count < limit && (count == 0 || body.len() < PAGE_BYTES))
    {
        if count > 0 {
            body.push(b',');
        }
        body.extend_from_slice(br#"{"key":"#);
        put_key(&mut body, key);
        body.extend_from_slice(format!(r#","version":{version},"#).as_bytes());
        put_field(&mut body, *format, value);
        body.push(b'}');
        (count, last) = (count + 1, Some(key));
    }
    body.push(b']');
    let complete = keys.next().is_none();
    if let Some(last) = last.filter(|_| !complete) {
        body.extend_from_slice(br#","next":"#);
        put_key(&mut body, last);
    }
    body.push(b'}');
    (body, complete)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use quorumkv_protocol::Format;
    use serde_json::Value;

    use super::*;

    fn state(keys: &[String]) -> Snapshot {
        let mut state = Snapshot::default();
        state.applied = Seq(99);
        for key in keys {
            state.put(key.as_bytes(), Format::Json, b"1", Seq(7));
        }
        state
    }

    proptest! {
        #[test]
        fn the_pages_of_a_prefix_are_its_keys_in_order(
            keys in prop::collection::btree_set("[ab]{1,4}", 0..30),
            prefix in "[ab]{0,2}",
            limit in 1_usize..6,
        ) {
            let keys: Vec<String> = keys.into_iter().collect();
            let state = state(&keys);
            let mut list = ListQuery { prefix: prefix.clone(), ..ListQuery::default() };
            let mut found = Vec::new();
            loop {
                let (body, complete) = page(&state, &list, limit);
                let body: Value = serde_json::from_slice(&body).expect("JSON");
                let page = body["keys"].as_array().expect("a list");
                prop_assert!(page.len() <= limit);
                found.extend(page.iter().map(|entry| entry["key"].as_str().expect("a text").to_owned()));
                list.after = body["next"].as_str().map(str::to_owned);
                prop_assert_eq!(list.after.is_none(), complete);
                if complete {
                    break;
                }
                prop_assert_eq!(list.after.as_ref(), found.last(), "a page that is not the last has a key");
            }
            let expected: Vec<String> = keys.into_iter().filter(|key| key.starts_with(&prefix)).collect();
            prop_assert_eq!(found, expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn few_states_are_held_and_not_for_ever() {
        let pages = Arc::new(Pages::default());
        for version in 1..=HELD as u64 + 1 {
            let mut state = Snapshot::default();
            state.applied = Seq(version);
            pages.hold(state);
        }
        assert!(pages.find(Seq(1)).is_none(), "the oldest made room");
        assert!(pages.find(Seq(2)).is_some());
        tokio::time::sleep(HOLD_FOR * 2).await;
        assert!(pages.find(Seq(2)).is_none(), "whoever comes that late begins again");
    }
}
