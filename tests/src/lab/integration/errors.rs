//! Errors of the API: each wrong request is refused with its status and says what is wrong, in JSON.

use anyhow::ensure;
use reqwest::Method;

use super::basics::shown;
use crate::lab::{checks::Checks, store::Store};

/// A wrong request, and what must be answered.
struct Wrong {
    name: &'static str,
    to_follower: bool,
    method: Method,
    path: String,
    body: String,
    statuses: &'static [u16],
    mentions: &'static str,
}

fn set(name: &'static str, body: impl Into<String>, status: &'static [u16], mentions: &'static str) -> Wrong {
    let path = "/set".to_owned();
    Wrong { name, to_follower: false, method: Method::POST, path, body: body.into(), statuses: status, mentions }
}

fn get(name: &'static str, path: impl Into<String>, status: &'static [u16], mentions: &'static str) -> Wrong {
    Wrong {
        name,
        to_follower: false,
        method: Method::GET,
        path: path.into(),
        body: String::new(),
        statuses: status,
        mentions,
    }
}

fn wrong_requests() -> Vec<Wrong> {
    let write = r#"{"key":"never","value":1}"#;
    let batch = r#"{"epoch":1,"leader":"x","prevEpoch":0,"prevSeq":0,"commitSeq":0,"entries":[]}"#;
    vec![
        Wrong { to_follower: true, ..set("a write to a follower", write, &[403], "Only leader accepts writes") },
        Wrong {
            to_follower: true,
            ..get("a linearizable read of a follower", "/get/x?consistency=linearizable", &[403], "Only leader")
        },
        // With a peer token, who is allowed is asked first.
        Wrong { path: "/replicate".to_owned(), ..set("replication to the leader", batch, &[403, 401], "") },
        get("a key that is not there", "/get/never-written", &[404], "Key not found"),
        get("a read without a key", "/get/", &[400], "empty"),
        get("a key that is too long", format!("/get/{}", "k".repeat(1025)), &[400], "1024"),
        set("no body", "", &[400], "empty"),
        set("malformed JSON", r#"{"key":"never","value":"#, &[400], "JSON"),
        set("no key", r#"{"value":1}"#, &[400], "key"),
        set("an empty key", r#"{"key":"","value":1}"#, &[400], "empty"),
        set("no value", r#"{"key":"never"}"#, &[400], "value"),
        set("a key that is no text", r#"{"key":7,"value":1}"#, &[400], "string"),
        set("a body above 1 MiB", format!(r#"{{"key":"never","value":"{}"}}"#, "x".repeat(1 << 20)), &[413], "bytes"),
        get("an unknown route", "/no-such-route", &[404], "no such route"),
        get("a wrong method", "/set", &[405], "does not take GET"),
    ]
}

/// Sends each wrong request.
pub(super) async fn check(store: &Store, checks: &mut Checks<'_>) {
    for Wrong { name, to_follower, method, path, body, statuses, mentions } in wrong_requests() {
        let node = if to_follower { store.followers().first().unwrap_or(store.leader()) } else { store.leader() };
        let status = statuses.iter().map(u16::to_string).collect::<Vec<_>>().join(" or ");
        let expected = if mentions.is_empty() { status } else { format!("{status}, an error with {mentions:?}") };
        let seen = async {
            let answer =
                store.client.send(store.client.request(method, &format!("{}{path}", node.url)).body(body)).await?;
            let error = answer.body["error"].as_str();
            let good = statuses.contains(&answer.status.as_u16()) && error.is_some_and(|text| text.contains(mentions));
            ensure!(good, "{}", shown(&answer));
            Ok(shown(&answer))
        };
        checks.observed(format!("error: {name}"), expected, seen.await);
    }
    let seen = async {
        let answer = store.client.get(&store.leader().url, "never", "").await?;
        ensure!(answer.status == 404, "{}", shown(&answer));
        Ok(shown(&answer))
    };
    checks.observed("error: nothing of it was written", "404, no key \"never\"", seen.await);
}
