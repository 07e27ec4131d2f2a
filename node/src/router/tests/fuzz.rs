//! Requests that are almost right: whatever they are, the answer is JSON, and none tells of a panic.

use axum::http::HeaderName;
use rand::RngExt as _;

use super::*;
use crate::fuzz::{Case, HTTP_WORDS, JSON_WORDS, cases, one, spoil};

const BODIES: [&str; 12] = [
    r#"{"key":"k","value":{"a":[1,null,"x"]}}"#,
    r#"{"key":"k","value":1,"requestId":"id"}"#,
    r#"{"writes":[{"key":"a","value":1},{"key":"b","delete":true},{"key":"c","base64":"AP8="}]}"#,
    r#"{"writes":[{"key":"a","value":1,"condition":{"version":3},"requestId":"r"}]}"#,
    r#"{"writes":[{"key":"a","value":1,"condition":"absent"}]}"#,
    r#"{"epoch":5,"leader":"x","prevEpoch":1,"prevSeq":1,"commitSeq":0,"entries":[]}"#,
    r#"{"epoch":5,"leader":"x","prevEpoch":1,"prevSeq":1,"commitSeq":0,"entries":[{"epoch":5,"set":{"key":"k","value":1}}]}"#,
    r#"{"epoch":5,"leader":"x","prevEpoch":1,"prevSeq":1,"commitSeq":2,"entries":[{"epoch":5,"barrier":{}},{"epoch":5,"write":{"key":"k","change":{"raw":"AP8="},"request":{"id":"i","digest":"AAAAAAAAAAAAAAAAAAAAAA=="}}}]}"#,
    r#"{"epoch":5,"leader":"x","prevEpoch":1,"prevSeq":1,"commitSeq":0,"entries":[{"epoch":5,"settings":{"writeQuorum":3,"delay":{"min":"1ms","max":"2ms"},"writeTimeout":"5s"}}]}"#,
    "",
    "7",
    "\"text\"",
];

const PATHS: [&str; 18] = [
    "/set",
    "/get/k",
    "/get/a%2Fb?consistency=stale",
    "/get/k?minVersion=0",
    "/get_all?consistency=linearizable",
    "/kv?prefix=a&limit=3&after=b&version=9",
    "/kv/k",
    "/kv/%C3%A4?minVersion=1",
    "/batch",
    "/status?latencyBuckets=true",
    "/health",
    "/readyz",
    "/replicate",
    "/openapi.json",
    "/get/",
    "/kv/",
    "/nothing",
    "/",
];

const HEADERS: [(&str, &str); 9] = [
    ("if-match", "\"7\""),
    ("if-match", "*"),
    ("if-none-match", "*"),
    ("if-none-match", "W/\"8\""),
    ("idempotency-key", "\"id\""),
    ("content-type", "application/json; charset=utf-8"),
    ("authorization", "Bearer secret"),
    ("content-length", "3"),
    ("last-event-id", "5"),
];

/// A request of these parts, each of them perhaps spoilt; none where the parts make none.
fn request(case: &mut Case) -> Option<Request<Body>> {
    let dice = &mut case.dice;
    let mut path = one(dice, &PATHS).as_bytes().to_vec();
    let mut body = one(dice, &BODIES).as_bytes().to_vec();
    if dice.random_bool(0.3) {
        spoil(dice, &mut path, &HTTP_WORDS);
    }
    if dice.random_bool(0.8) {
        spoil(dice, &mut body, &JSON_WORDS);
    }
    let method = one(dice, &["GET", "POST", "PUT", "DELETE", "HEAD", "PATCH"]);
    let mut request = Request::builder().method(method).uri(path);
    for _ in 0..dice.random_range(0..3) {
        let (name, value) = HEADERS[dice.random_range(0..HEADERS.len())];
        let mut value = value.as_bytes().to_vec();
        if dice.random_bool(0.5) {
            spoil(dice, &mut value, &HTTP_WORDS);
        }
        request = request.header(HeaderName::from_static(name), value);
    }
    request.body(Body::from(body)).ok()
}

#[tokio::test(start_paused = true)]
async fn every_answer_is_json_and_none_tells_of_a_panic() {
    let port = Port::new(view(Role::Leader), Some("secret"), |command| match command {
        Command::Write { answer, .. } => {
            let outcome = WriteOutcome::Committed { version: Seq(7), replicas: 3, appended: Micros(0) };
            answer.send(Ok(outcome.into())).ok();
        }
        Command::Batch { writes } => {
            for (_, answer) in writes {
                let outcome = WriteOutcome::Committed { version: Seq(7), replicas: 3, appended: Micros(0) };
                answer.send(Ok(outcome.into())).ok();
            }
        }
        Command::Peer { answer, .. } => {
            answer.send(Ok(ReplyBody::Replicated(Seq(3)))).ok();
        }
        _ => {}
    });
    port.driver.store.install(holding("k", "[1]", 7, 9));
    let mut answered = 0_u32;
    for mut case in cases(4000) {
        let Some(request) = request(&mut case) else { continue };
        let (place, is_head) = (format!("{request:?}"), request.method() == Method::HEAD);
        let response = port.router.clone().oneshot(request).await.expect("a router never fails");
        let (status, headers) = (response.status(), response.headers().clone());
        assert_ne!(status, StatusCode::INTERNAL_SERVER_ERROR, "{place}");
        let kind = headers.get(header::CONTENT_TYPE).map(|value| value.to_str().expect("text").to_owned());
        if kind.as_deref() == Some("text/event-stream") {
            continue;
        }
        let body = to_bytes(response.into_body(), usize::MAX).await.expect("a body");
        answered += 1;
        if status.is_client_error() || status.is_server_error() {
            assert_eq!(kind.as_deref(), Some("application/json"), "{place}: {status}");
            if !is_head {
                let error: ErrorReply =
                    serde_json::from_slice(&body).unwrap_or_else(|error| panic!("{error}: {place}"));
                assert!(!error.error.is_empty(), "{place}: {status}");
            }
        } else if kind.as_deref() == Some("application/json") && !is_head {
            let body: Result<Value, _> = serde_json::from_slice(&body);
            assert!(body.is_ok(), "{place}: {status} {body:?}");
        }
    }
    assert!(answered > 0, "not one request could be made");
}
