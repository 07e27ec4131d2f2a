//! `get` and `set`: one key, read from and written to the leader.
//!
//! Both go to whoever leads, again where leadership has just moved. A write has a request id, so that it is done once
//! however often it is sent.

use std::{
    borrow::Cow,
    io::{IsTerminal as _, stdout},
};

use quorumkv_api::lab::{SetReply, SetRequest};
use rand::RngExt as _;
use reqwest::{StatusCode, Url};
use serde_json::value::{RawValue, to_raw_value};

use crate::{
    arguments::{GetOptions, Output, SetOptions},
    cluster::Target,
    failure::Failure,
    nodes::{self, ANSWER_LIMIT, Asked, Reach},
    print,
};

pub(crate) async fn get(
    target: &Target,
    reach: &impl Reach,
    options: &GetOptions,
    output: Output,
) -> Result<(), Failure> {
    let mut value = read(target, reach, options, output).await?;
    if output == Output::Json || stdout().is_terminal() {
        value.push(b'\n');
    }
    print(&value)
}

/// The value as it is; for programs, with its key and version.
async fn read(target: &Target, reach: &impl Reach, options: &GetOptions, output: Output) -> Result<Vec<u8>, Failure> {
    let GetOptions { key, from, patience } = options;
    let http = nodes::http(ANSWER_LIMIT, target.token.as_deref())?;
    let path = if output == Output::Json { "get" } else { "kv" };
    let answer = match from {
        Some(pod) => {
            let url = |node: &str| {
                let mut url = key_url(node, path, key);
                // What this node has committed, also where it leads without a lease.
                url.set_query(Some("consistency=stale"));
                url
            };
            nodes::ask(reach, pod, |node| http.get(url(node))).await?
        }
        None => {
            let request = |node: &str| http.get(key_url(node, path, key));
            nodes::ask_leader(target, reach, patience.limit, request).await?.outcome?
        }
    };
    match answer.status {
        StatusCode::OK => Ok(answer.body),
        StatusCode::NOT_FOUND => Err(Failure::NoKey(key.clone())),
        _ => Err(answer.failure()),
    }
}

pub(crate) async fn set(
    target: &Target,
    reach: &impl Reach,
    options: &SetOptions,
    output: Output,
) -> Result<(), Failure> {
    let reply = write(target, reach, options).await?;
    let text = match output {
        Output::Json => serde_json::to_string(&reply).expect("a reply is JSON"),
        Output::Table => {
            let SetReply { success: _, replicas, version, repeated } = reply;
            let earlier = if repeated { ", by an earlier request of this id" } else { "" };
            format!("{} has version {version}, on the leader and {replicas} followers{earlier}", options.key)
        }
    };
    print(format!("{text}\n").as_bytes())
}

async fn write(target: &Target, reach: &impl Reach, options: &SetOptions) -> Result<SetReply, Failure> {
    let SetOptions { key, value, text, request_id, patience } = options;
    let request_id = request_id.clone().unwrap_or_else(new_request_id);
    let value = json_value(value, *text);
    let body = SetRequest { key: Cow::Borrowed(key), value: &value, request_id: Some(request_id.clone()) };
    let http = nodes::http(ANSWER_LIMIT, target.token.as_deref())?;
    let request = |node: &str| http.post(format!("{node}/set")).json(&body);
    let Asked { outcome, may_be_done } = nodes::ask_leader(target, reach, patience.limit, request).await?;
    match outcome {
        Ok(answer) if answer.status == StatusCode::OK => {
            serde_json::from_slice(&answer.body).map_err(|_| answer.failure())
        }
        Ok(answer) if may_be_done => Err(Failure::Unknown { error: answer.error(), node: answer.node, request_id }),
        Ok(answer) => Err(answer.failure()),
        Err(failure) if may_be_done => {
            Err(Failure::Unknown { node: target.full_name(), error: failure.to_string(), request_id })
        }
        Err(failure) => Err(failure),
    }
}

/// JSON as it is; anything else as a text.
fn json_value(text: &str, is_text: bool) -> Box<RawValue> {
    let parsed = if is_text { None } else { serde_json::from_str(text).ok() };
    parsed.unwrap_or_else(|| to_raw_value(text).expect("a text is JSON"))
}

fn new_request_id() -> String {
    let id: u128 = rand::rng().random();
    format!("kubectl-kvc-{id:032x}")
}

/// The URL of any key: what would mean something else in a URL is escaped.
fn key_url(node: &str, path: &str, key: &str) -> Url {
    let mut url = Url::parse(node).expect("a tunnel's address is a URL");
    url.path_segments_mut().expect("it has a path").pop_if_empty().push(path).push(key);
    url
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::{
        arguments::Patience,
        testing::{Fake, Local, api, kvcluster, target},
    };

    const PATIENCE: Patience = Patience { limit: Duration::from_secs(5) };

    fn looks(count: usize) -> Vec<api::Expected> {
        (0..count).map(|_| api::Expected::found(crate::testing::DEMO, kvcluster())).collect()
    }

    fn writing(value: &str) -> SetOptions {
        let (key, value) = ("colour".to_owned(), value.to_owned());
        SetOptions { key, value, text: false, request_id: Some("one".to_owned()), patience: PATIENCE }
    }

    #[tokio::test]
    async fn a_write_goes_to_the_leader_once_more_where_it_is_not_active_yet() {
        let (target, server) = target(looks(2));
        let leader = Fake::default()
            .answering("/set", 503, json!({"error": "The leader is not active yet; nothing was written"}))
            .answering("/set", 200, json!({"success": true, "replicas": 3, "version": 7}));
        let reach = Local::of([("demo-0", leader.clone())]).await;
        let reply = write(&target, &reach, &writing("blue")).await.expect("written");
        assert_eq!((reply.version.0, reply.replicas), (7, 3));
        let wish = json!({"key": "colour", "value": "blue", "requestId": "one"});
        assert_eq!(leader.bodies(), [wish.clone(), wish], "the same write, under the same id");
        drop(target);
        server.await.expect("the script was followed");
    }

    #[tokio::test]
    async fn a_write_of_unknown_outcome_says_how_to_find_out() {
        let (target, server) = target(looks(1));
        let leader = Fake::default().answering("/set", 500, json!({"error": "Quorum not reached", "replicas": 1}));
        let reach = Local::of([("demo-0", leader)]).await;
        let error = write(&target, &reach, &writing("1")).await.expect_err("no quorum").to_string();
        assert!(error.contains("Quorum not reached") && error.contains("--request-id one"), "{error}");
        drop(target);
        server.await.expect("the script was followed");
    }

    #[tokio::test]
    async fn a_key_is_read_from_the_leader_or_from_a_pod_of_choice() {
        let (target, server) = target(looks(2));
        let leader = Fake::default().answering("/kv/a%2Fb", 200, json!(1)).answering("/kv/a%2Fb", 404, json!({}));
        let follower = Fake::default().answering("/get/a%2Fb?consistency=stale", 200, json!({"key": "a/b"}));
        let reach = Local::of([("demo-0", leader), ("demo-1", follower)]).await;
        let mut options = GetOptions { key: "a/b".to_owned(), from: None, patience: PATIENCE };
        assert_eq!(read(&target, &reach, &options, Output::Table).await.expect("a value"), b"1");
        let gone = read(&target, &reach, &options, Output::Table).await.expect_err("gone").to_string();
        assert_eq!(gone, "there is no key a/b");
        options.from = Some("demo-1".to_owned());
        assert_eq!(read(&target, &reach, &options, Output::Json).await.expect("a value"), br#"{"key":"a/b"}"#);
        drop(target);
        server.await.expect("the script was followed");
    }

    #[test]
    fn what_is_no_json_is_a_text() {
        let value = |text, is_text| json_value(text, is_text).get().to_owned();
        assert_eq!(value(r#"{"n": 1}"#, false), r#"{"n": 1}"#);
        assert_eq!(value("blue", false), r#""blue""#);
        assert_eq!(value("5", false), "5");
        assert_eq!(value("5", true), r#""5""#);
    }

    #[test]
    fn request_ids_are_what_nodes_take_and_differ() {
        let id = new_request_id();
        assert!(id.len() <= quorumkv_api::MAX_REQUEST_ID_BYTES && id != new_request_id());
    }
}
