use std::time::Duration;

use axum::{
    body::{Body, to_bytes},
    extract::ConnectInfo,
    http::{Request, header},
};
use quorumkv_api::{
    Delay, Epoch, NodeId, Position, ProcessId, Seq, Settings, StorageId, WriteQuorum,
    lab::{ErrorReply, GetReply, Role, StatusReply},
    peer::{FollowerState, NodeState, PeerAddress, PeerError, Refusal, SettingsEntry},
};
use quorumkv_protocol::{Append, Format, Micros, Operation, View, WriteOutcome};
use rstest::rstest;
use serde_json::Value;
use tokio::sync::watch;
use tower::ServiceExt as _;

use super::*;
use crate::{
    clock::Clock,
    handle::{Command, Inspection},
    store::Snapshot,
};

#[path = "../../tests/support/contract.rs"]
mod contract;
mod counted;
mod fuzz;
mod ids;
mod native;
mod tokens;

use self::contract::Contract;

const LEADER_URL: &str = "http://leader:5000";

fn view(role: Role) -> View {
    View {
        role,
        epoch: Epoch(4),
        leader: Some("leader".into()),
        leader_url: Some(LEADER_URL.to_owned()),
        ready: true,
        lease_until: (role == Role::Leader).then_some(Micros(u64::MAX)),
        last: Position { epoch: Epoch(4), seq: Seq(9) },
        commit: Seq(9),
        settings: None,
        pending_writes: 0,
    }
}

fn client_port(driver: &DriverHandle, token: Token) -> ClientPort {
    ClientPort::new(driver.clone(), token, CancellationToken::new())
}

/// An answer that is as described.
#[derive(Debug)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("text"))
    }

    fn text(&self) -> String {
        String::from_utf8(self.body.to_vec()).expect("text")
    }
}

/// A client port whose driver is a script.
struct Port {
    router: Router,
    driver: DriverHandle,
    view: watch::Sender<View>,
}

impl Port {
    fn new(view: View, token: Option<&str>, mut answer: impl FnMut(Command) + Send + 'static) -> Self {
        let (sender, views) = watch::channel(view);
        let (driver, mut commands) = DriverHandle::new(views, Clock::start());
        tokio::spawn(async move {
            while let Some(command) = commands.recv().await {
                answer(command);
            }
        });
        let router = router(client_port(&driver, Token::new(token)));
        Self { router, driver, view: sender }
    }

    /// A port whose driver must not be asked anything.
    fn untouched(role: Role) -> Self {
        Self::new(view(role), None, |command| panic!("the driver was asked {command:?}"))
    }

    /// A leader that answers every write so.
    fn answering(outcome: WriteOutcome) -> Self {
        Self::new(view(Role::Leader), None, move |command| {
            let Command::Write { answer, .. } = command else { panic!("a write, not {command:?}") };
            answer.send(Ok(outcome.clone().into())).expect("somebody waits");
        })
    }

    async fn answer(&self, request: Request<Body>) -> Answer {
        let (method, path) = (request.method().to_string(), request.uri().to_string());
        let response = self.router.clone().oneshot(request).await.expect("a router never fails");
        let (status, headers) = (response.status(), response.headers().clone());
        let body = to_bytes(response.into_body(), usize::MAX).await.expect("a body");
        let answer = Answer { status, headers, body };
        let kind = answer.header("content-type");
        let held = Contract::new(openapi::DOCUMENT).check(&method, &path, status.as_u16(), kind, &answer.body);
        held.unwrap_or_else(|error| panic!("{error}"));
        answer
    }

    async fn call(&self, request: Request<Body>) -> (StatusCode, String) {
        let answer = self.answer(request).await;
        assert_eq!(answer.header("content-type"), Some("application/json"), "every answer is JSON");
        (answer.status, answer.text())
    }

    async fn get(&self, path: &str) -> (StatusCode, String) {
        self.call(Request::get(path).body(Body::empty()).expect("a request")).await
    }

    async fn post(&self, path: &str, body: impl Into<Body>) -> (StatusCode, String) {
        self.call(Request::post(path).body(body.into()).expect("a request")).await
    }
}

/// A state with one key.
fn holding(key: &str, value: &str, version: u64, applied: u64) -> Snapshot {
    let mut state = Snapshot::default();
    state.applied = Seq(applied);
    state.put(key.as_bytes(), Format::Json, value.as_bytes(), Seq(version));
    state
}

fn error_of(body: &str) -> ErrorReply {
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error} in {body}"))
}

#[tokio::test]
async fn a_committed_write_is_answered_with_its_version_and_replicas() {
    let port = Port::answering(WriteOutcome::Committed { version: Seq(7), replicas: 3, appended: Micros(0) });
    let (status, body) = port.post("/set", r#"{"key":"k","value":null}"#).await;
    assert_eq!((status, body.as_str()), (StatusCode::OK, r#"{"success":true,"replicas":3,"version":7}"#));
}

#[rstest]
#[case(WriteOutcome::QuorumNotReached { replicas: 2 }, 500, r#"{"error":"Quorum not reached","replicas":2}"#)]
#[case(WriteOutcome::NotLeader, 403, r#"{"error":"Only leader accepts writes","leader":"http://leader:5000"}"#)]
#[case(WriteOutcome::NotActive, 503, r#"{"error":"The leader is not active yet; nothing was written"}"#)]
#[case(
    WriteOutcome::LeadershipLost,
    503,
    r#"{"error":"Leadership was lost before the quorum confirmed; the write may still commit"}"#
)]
#[case(WriteOutcome::Stopping, 503, r#"{"error":"The node is stopping"}"#)]
#[tokio::test]
async fn a_failed_write_says_why(#[case] outcome: WriteOutcome, #[case] status: u16, #[case] expected: &str) {
    let (found, body) = Port::answering(outcome).post("/set", r#"{"key":"k","value":1}"#).await;
    assert_eq!((found.as_u16(), body.as_str()), (status, expected));
}

#[tokio::test]
async fn while_no_leader_is_known_the_answer_says_null() {
    let unknown = View { leader: None, leader_url: None, ..view(Role::Follower) };
    let port = Port::new(unknown, None, |command| {
        let Command::Write { answer, .. } = command else { panic!("a write") };
        answer.send(Ok(WriteOutcome::NotLeader.into())).expect("somebody waits");
    });
    let (_, body) = port.post("/set", r#"{"key":"k","value":1}"#).await;
    assert_eq!(body, r#"{"error":"Only leader accepts writes","leader":null}"#);
}

#[rstest]
#[case::nothing("", "empty")]
#[case::spaces("  \n", "empty")]
#[case::no_json("key=k", "must be a JSON object")]
#[case::an_array(r#"["k",1]"#, "must be a JSON object")]
#[case::a_text(r#""k""#, "must be a JSON object")]
#[case::cut_short(r#"{"key":"k","value":"#, "line 1 column 19")]
#[case::a_typo(r#"{"key":"k" "value":1}"#, "line 1 column 12")]
#[case::something_after(r#"{"key":"k","value":1} x"#, "trailing characters at line 1 column 23")]
#[case::no_key(r#"{"value":1}"#, "missing field `key`")]
#[case::no_value(r#"{"key":"k"}"#, "missing field `value`")]
#[case::two_keys(r#"{"key":"k","key":"l","value":1}"#, "duplicate field `key`")]
#[case::two_values(r#"{"key":"k","value":1,"value":2}"#, "duplicate field `value`")]
#[case::unknown_field(r#"{"key":"k","value":1,"ttl":3}"#, "unknown field `ttl`")]
#[case::key_a_number(r#"{"key":5,"value":1}"#, "expected a string")]
#[case::key_null(r#"{"key":null,"value":1}"#, "expected a string")]
#[case::empty_key(r#"{"key":"","value":1}"#, "1..1024 bytes")]
#[case::half_a_surrogate(r#"{"key":"\ud800","value":1}"#, "line 1 column")]
#[case::bad_value(r#"{"key":"k","value":nul}"#, "not valid JSON")]
#[case::bad_number(r#"{"key":"k","value":01}"#, "not valid JSON")]
#[tokio::test]
async fn a_write_that_makes_no_sense_is_refused(#[case] body: &'static str, #[case] expected: &str) {
    let (status, body) = Port::untouched(Role::Leader).post("/set", body).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(error_of(&body).error.contains(expected), "{expected:?} is missing in {body}");
}

#[rstest]
#[case::in_the_key(b"{\"key\":\"\xff\",\"value\":1}")]
#[case::in_the_value(b"{\"key\":\"k\",\"value\":\"\xff\"}")]
#[tokio::test]
async fn bytes_that_are_no_text_are_refused(#[case] body: &'static [u8]) {
    let (status, _) = Port::untouched(Role::Leader).post("/set", body).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
}

#[rstest]
#[case::one_byte("k", "k")]
#[case::the_longest(&"k".repeat(1024), &"k".repeat(1024))]
#[case::escaped(r"\u00e4\n/", "ä\n/")]
#[case::unicode("schlüssel/🔑", "schlüssel/🔑")]
#[tokio::test]
async fn keys_arrive_unescaped_and_values_byte_for_byte(#[case] written: &str, #[case] expected: &str) {
    let (sender, mut arrived) = tokio::sync::mpsc::unbounded_channel();
    let port = Port::new(view(Role::Leader), None, move |command| {
        let Command::Write { operation: Operation::Put { key, value }, answer } = command else { panic!("a put") };
        sender.send((key, value)).expect("the test waits");
        let outcome = WriteOutcome::Committed { version: Seq(1), replicas: 1, appended: Micros(0) };
        answer.send(Ok(outcome.into())).expect("somebody waits");
    });
    let body = format!("{{\"value\":  {{\"z\": 1.00, \"a\" :[ ]}} , \"key\":\"{written}\"}}");
    let (status, _) = port.post("/set", body).await;
    assert_eq!(status, StatusCode::OK);
    let (key, value) = arrived.recv().await.expect("a write");
    assert_eq!((&key[..], &value[..]), (expected.as_bytes(), &br#"{"z": 1.00, "a" :[ ]}"#[..]));
}

#[tokio::test]
async fn a_key_that_is_too_long_is_refused_on_both_ways() {
    let key = "ä".repeat(513);
    let port = Port::untouched(Role::Leader);
    let (status, body) = port.post("/set", format!(r#"{{"key":"{key}","value":1}}"#)).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(body.contains("1026 bytes"), "{body}");
    let (status, _) = port.get(&format!("/get/{}", "%C3%A4".repeat(513))).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
}

#[rstest]
#[case("/set")]
#[case("/replicate")]
#[tokio::test]
async fn a_body_above_one_mebibyte_is_too_large(#[case] path: &str) {
    let body = format!(r#"{{"key":"k","value":"{}"}}"#, "v".repeat(MAX_BODY_BYTES));
    let (status, body) = Port::untouched(Role::Leader).post(path, body).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(error_of(&body).error.contains("1048576"), "{body}");
}

#[tokio::test]
async fn reads_give_values_as_they_were_written() {
    let port = Port::untouched(Role::Follower);
    let key = "a/b \"ä\"";
    port.driver.store.install(holding(key, r#"{"x": 1.0}"#, 3, 5));
    let (status, body) = port.get("/get/a/b%20%22%C3%A4%22").await;
    assert_eq!((status, body.as_str()), (StatusCode::OK, r#"{"key":"a/b \"ä\"","value":{"x": 1.0},"version":3}"#));
    let reply: GetReply = serde_json::from_str(&body).expect("the wire type reads it");
    assert_eq!((reply.key.as_str(), reply.version), (key, Seq(3)));
    let (_, body) = port.get("/get_all").await;
    assert_eq!(body, r#"{"data":{"a/b \"ä\"":{"x": 1.0}},"version":5}"#);
}

#[rstest]
#[case("/get/missing", 404, "Key not found")]
#[case("/get/", 400, "the key is empty")]
#[case("/get/%ff", 400, "no text")]
#[case("/get/k?consistency=strong", 400, "linearizable or stale")]
#[case("/get_all?consistency=", 400, "linearizable or stale")]
#[case("/get/k?minVersion=new", 400, "minVersion is a number")]
#[case("/get/k?consistency=linearizable", 403, "Only leader serves linearizable reads")]
#[case("/", 404, "no such route: /")]
#[case("/get", 404, "no such route")]
#[case("/set/", 404, "no such route")]
#[case("/admin", 404, "no such route: /admin")]
#[tokio::test]
async fn reads_that_cannot_be_answered_say_why(#[case] path: &str, #[case] status: u16, #[case] expected: &str) {
    let (found, body) = Port::untouched(Role::Follower).get(path).await;
    assert_eq!(found.as_u16(), status, "{body}");
    assert!(error_of(&body).error.contains(expected), "{expected:?} is missing in {body}");
}

#[rstest]
#[case(Method::GET, "/set", "POST")]
#[case(Method::DELETE, "/get/k", "GET")]
#[case(Method::POST, "/status", "GET")]
#[case(Method::PUT, "/replicate", "POST")]
#[tokio::test]
async fn a_wrong_method_is_named_and_the_right_one_told(
    #[case] method: Method,
    #[case] path: &str,
    #[case] allowed: &str,
) {
    let port = Port::untouched(Role::Leader);
    let request = Request::builder().method(&method).uri(path).body(Body::empty()).expect("a request");
    let response = port.router.clone().oneshot(request).await.expect("a router never fails");
    assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
    let allow = response.headers()[header::ALLOW].to_str().expect("text").to_owned();
    assert!(allow.contains(allowed), "{allow}");
    let body = to_bytes(response.into_body(), usize::MAX).await.expect("a body");
    let error: ErrorReply = serde_json::from_slice(&body).expect("JSON");
    assert!(error.error.contains(method.as_str()), "{error:?}");
}

#[rstest]
#[case::with_a_lease(Some(Micros(u64::MAX)), "", 404)]
#[case::lease_over(Some(Micros(0)), "", 503)]
#[case::no_lease(None, "", 503)]
#[case::no_lease_linearizable(None, "?consistency=linearizable", 503)]
#[case::no_lease_stale(None, "?consistency=stale", 404)]
#[tokio::test]
async fn a_leader_reads_under_its_lease(#[case] lease_until: Option<Micros>, #[case] query: &str, #[case] status: u16) {
    let port = Port::new(View { lease_until, ..view(Role::Leader) }, None, |_| panic!("reads pass nobody"));
    let (found, body) = port.get(&format!("/get/k{query}")).await;
    assert_eq!(found.as_u16(), status, "{body}");
    let (found, _) = port.get(&format!("/get_all{query}")).await;
    assert_eq!(found == StatusCode::OK, status == 404);
}

#[tokio::test(start_paused = true)]
async fn a_read_waits_for_the_version_it_names() {
    let port = Port::untouched(Role::Follower);
    let (status, body) = port.get("/get/k?minVersion=2").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "it never comes: {body}");
    let store = port.driver.store.clone();
    tokio::spawn(async move {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        store.install(holding("k", "1", 2, 2));
    });
    let (status, body) = port.get("/get/k?minVersion=2").await;
    assert_eq!((status, body.as_str()), (StatusCode::OK, r#"{"key":"k","value":1,"version":2}"#));
}

#[tokio::test]
async fn health_is_about_the_process_and_readiness_about_its_data() {
    let behind = View { ready: false, ..view(Role::Follower) };
    let port = Port::new(behind, None, |_| panic!("nobody is asked"));
    assert_eq!(port.get("/health").await.0, StatusCode::OK);
    let (status, body) = port.get("/readyz").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(error_of(&body).error.contains("not caught up"), "{body}");
    assert_eq!(Port::untouched(Role::Follower).get("/readyz").await.0, StatusCode::OK);
}

#[tokio::test]
async fn status_shows_followers_with_their_urls_and_lags() {
    let settings = Settings { write_quorum: WriteQuorum(2), delay: Delay::ZERO, ..Settings::default() };
    let position = Position { epoch: Epoch(4), seq: Seq(9) };
    let state = NodeState {
        node: "leader".into(),
        storage_id: StorageId::random(),
        process_id: ProcessId::random(),
        role: Role::Leader,
        promised: Epoch(4),
        epoch: Epoch(4),
        leader: Some("leader".into()),
        ready: true,
        last: position,
        commit: Seq(8),
        settings: Some(SettingsEntry { position, settings }),
        followers: vec![FollowerState {
            node: "f1".into(),
            storage_id: None,
            match_seq: Seq(6),
            connected: false,
            counted: true,
            caught_up: true,
        }],
        configuration: None,
    };
    let (client_url, peer_url) = ("http://f1:5001".to_owned(), String::new());
    let peers = vec![PeerAddress { node: "f1".into(), client_url, peer_url }];
    let port = Port::new(view(Role::Leader), None, move |command| {
        let Command::Inspect(answer) = command else { panic!("an inspection") };
        let acknowledgements = vec![("f1".into(), Duration::from_micros(12_345))];
        let inspection = Inspection { state: state.clone(), peers: peers.clone(), acknowledgements };
        answer.send(inspection).expect("somebody waits");
    });
    let (status, body) = port.get("/status").await;
    assert_eq!(status, StatusCode::OK);
    let reply: StatusReply = serde_json::from_str(&body).expect("the wire type reads it");
    assert_eq!((reply.write_quorum, reply.commit_seq, reply.write_timeout.as_str()), (WriteQuorum(2), Seq(8), "5s"));
    let follower = &reply.followers[0];
    assert_eq!((follower.url.as_str(), follower.lag, follower.connected), ("http://f1:5001", 3, false));
    assert_eq!(follower.acknowledgement_ms, Some(12.345));
    assert_eq!(reply.latency_buckets, None, "not asked for");

    port.driver.latency.record([4000, 4010, 70].map(Duration::from_micros).into_iter());
    let (_, body) = port.get("/status?latencyBuckets=true").await;
    let reply: StatusReply = serde_json::from_str(&body).expect("the wire type reads it");
    let buckets = reply.latency_buckets.expect("asked for");
    let found: Vec<(u64, bool)> = buckets.iter().map(|bucket| (bucket.count, bucket.below_ms > 4.01)).collect();
    assert_eq!(found, [(1, false), (2, true)], "{buckets:?}");
    assert_eq!(port.get("/status?latencyBuckets=7").await.0, StatusCode::BAD_REQUEST);
}

const BATCH: &str = r#"{"epoch":4,"leader":"n0","prevEpoch":0,"prevSeq":0,"commitSeq":0,"entries":[{"epoch":4,"set":{"key":"k","value":1}}]}"#;

/// A port that answers every replication so.
fn replicating(token: Option<&str>, reply: Result<Seq, PeerError>) -> Port {
    Port::new(view(Role::Follower), token, move |command| {
        let Command::Peer { request: PeerRequest::Replicate { leader, append }, answer } = command else {
            panic!("a replication, not {command:?}")
        };
        assert_eq!(leader, NodeId("n0".to_owned()));
        assert!(matches!(append, Append { epoch: Epoch(4), ref entries, .. } if entries.len() == 1));
        answer.send(reply.clone().map(ReplyBody::Replicated)).expect("somebody waits");
    })
}

#[tokio::test]
async fn a_replicated_batch_is_answered_with_the_match() {
    let (status, body) = replicating(None, Ok(Seq(1))).post("/replicate", BATCH).await;
    assert_eq!((status, body.as_str()), (StatusCode::OK, r#"{"success":true,"matchSeq":1}"#));
}

#[rstest]
#[case(Refusal::StaleEpoch, 409)]
#[case(Refusal::LogMismatch, 409)]
#[case(Refusal::NotLeader, 403)]
#[case(Refusal::Invalid, 400)]
#[tokio::test]
async fn a_refused_batch_says_why(#[case] reason: Refusal, #[case] status: u16) {
    let refusal = PeerError { error: "the reason".to_owned(), reason, promised: Epoch(5) };
    let (found, body) = replicating(None, Err(refusal)).post("/replicate", BATCH).await;
    assert_eq!((found.as_u16(), body.as_str()), (status, r#"{"error":"the reason"}"#));
}

#[tokio::test]
async fn replication_needs_the_token_where_one_is_configured() {
    let port = replicating(Some("secret"), Ok(Seq(1)));
    assert_eq!(port.post("/replicate", BATCH).await.0, StatusCode::UNAUTHORIZED);
    let request = Request::post("/replicate").header(header::AUTHORIZATION, "Bearer secret");
    let (status, _) = port.call(request.body(BATCH.into()).expect("a request")).await;
    assert_eq!(status, StatusCode::OK);
}

#[rstest]
#[case("{}", "missing field `epoch`")]
#[case(&BATCH.replace("\"epoch\":4,\"leader\"", "\"epoch\":9007199254740992,\"leader\""), "at most 9007199254740991")]
#[case(&BATCH.replace("\"set\"", "\"put\""), "unknown field `put`")]
#[case(&BATCH.replace("\"set\":{\"key\":\"k\",\"value\":1}", "\"barrier\":{},\"settings\":null"), "barrier")]
#[case(&BATCH.replace(",\"set\":{\"key\":\"k\",\"value\":1}", ""), "exactly one of")]
#[case(&BATCH.replace("\"k\"", "\"\""), "1..1024 bytes")]
#[tokio::test]
async fn a_batch_that_makes_no_sense_is_refused(#[case] body: &str, #[case] expected: &str) {
    let port = Port::new(view(Role::Follower), None, |command| {
        // One of the cases is valid and has to reach the core: a barrier beside a null is just a barrier.
        let Command::Peer { answer, .. } = command else { panic!("a replication") };
        let refusal = PeerError { error: "a barrier".to_owned(), reason: Refusal::Invalid, promised: Epoch(0) };
        answer.send(Err(refusal)).expect("somebody waits");
    });
    let (status, body) = port.post("/replicate", body.to_owned()).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(error_of(&body).error.contains(expected), "{expected:?} is missing in {body}");
}

#[tokio::test]
async fn a_handler_that_panics_is_answered_with_json() {
    let layered = Router::new()
        .route(
            "/panic",
            get(|| async {
                if true {
                    panic!("on purpose")
                }
            }),
        )
        .layer(CatchPanicLayer::custom(panicked));
    let request = Request::get("/panic").body(Body::empty()).expect("a request");
    let response = layered.oneshot(request).await.expect("caught");
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let body = to_bytes(response.into_body(), usize::MAX).await.expect("a body");
    let error: Value = serde_json::from_slice(&body).expect("JSON");
    assert!(error["error"].as_str().expect("a text").contains("internal error"));
}

#[tokio::test]
async fn a_node_whose_driver_is_gone_says_that_it_is_stopping() {
    let (_sender, views) = watch::channel(view(Role::Leader));
    let (driver, commands) = DriverHandle::new(views, Clock::start());
    drop(commands);
    let port = Port { router: router(client_port(&driver, Token::default())), driver, view: _sender };
    let (status, body) = port.post("/set", r#"{"key":"k","value":1}"#).await;
    assert_eq!((status, body.as_str()), (StatusCode::SERVICE_UNAVAILABLE, r#"{"error":"The node is stopping"}"#));
    assert_eq!(port.get("/status").await.0, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn a_connection_on_which_the_leader_answered_is_no_followers_connection_later() {
    let port = Port::untouched(Role::Leader);
    port.driver.store.install(holding("k", "1", 9, 9));
    let (kept, later) = (Connection::default(), Connection::default());
    let get = async |connection: &Connection, path: &str| {
        let mut request = Request::get(path).body(Body::empty()).expect("a request");
        request.extensions_mut().insert(ConnectInfo(connection.clone()));
        port.router.clone().oneshot(request).await.expect("a router never fails")
    };
    assert_eq!(get(&kept, "/get/k").await.status(), StatusCode::OK);
    port.view.send_replace(view(Role::Follower));
    for path in ["/get/k", "/get_all"] {
        assert_eq!(get(&later, path).await.status(), StatusCode::OK, "a follower answers whoever knows that it is one");
        let refused = get(&kept, path).await;
        assert_eq!(refused.status(), StatusCode::FORBIDDEN);
        assert_eq!(refused.headers()[header::CONNECTION], "close");
        let body = to_bytes(refused.into_body(), usize::MAX).await.expect("a body");
        let error = error_of(std::str::from_utf8(&body).expect("JSON is UTF-8"));
        assert_eq!(error.leader, Some(Some(LEADER_URL.to_owned())));
    }
    assert_eq!(get(&kept, "/get/k?consistency=stale").await.status(), StatusCode::OK, "asked for as it is");
}
