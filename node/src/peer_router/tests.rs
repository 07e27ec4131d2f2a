use axum::body::to_bytes;
use quorumkv_api::{
    NodeId, ProcessId, StorageId,
    peer::{Member, PeerAddress, PeerError, Refusal},
};
use quorumkv_protocol::{Identity, Limits, Node, Recovered};
use rstest::rstest;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tower::ServiceExt as _;

use super::*;
use crate::{
    clock::Clock,
    delay::RoundTrips,
    driver::{Attached, Driver},
    storage::Memory,
};

mod fuzz;

/// The peer port of a lone node with a real core.
fn node(token: Option<&str>) -> Router {
    counted_node(token).0
}

/// The same, and what is counted of it.
fn counted_node(token: Option<&str>) -> (Router, DriverHandle) {
    let clock = Clock::start();
    let identity = Identity {
        node: "n1".into(),
        storage_id: StorageId::random(),
        process_id: ProcessId::random(),
        client_url: "http://n1:5000".to_owned(),
    };
    let node = Node::new(identity, Limits::default(), Recovered::default(), clock.now());
    let (driver, Attached { handle, commands, .. }) =
        Driver::new(node, Memory::default(), clock, RoundTrips::seeded(1));
    tokio::spawn(driver.run(commands, std::future::pending()));
    (
        router(PeerPort { driver: handle.clone(), token: Token::new(token), compression: Compression::Off, tls: None }),
        handle,
    )
}

async fn call(router: &Router, request: Request) -> (StatusCode, Bytes) {
    let response = router.clone().oneshot(request).await.expect("a router never fails");
    let status = response.status();
    (status, to_bytes(response.into_body(), usize::MAX).await.expect("a body"))
}

async fn ask<Reply: DeserializeOwned>(
    router: &Router,
    method: Method,
    path: &str,
    body: &impl Serialize,
) -> Result<Reply, (StatusCode, PeerError)> {
    let body = Body::from(serde_json::to_vec(body).expect("JSON"));
    let request = Request::builder().method(method).uri(path).body(body).expect("a request");
    let (status, body) = call(router, request).await;
    if status == StatusCode::OK {
        return Ok(serde_json::from_slice(&body).expect("the reply"));
    }
    Err((status, serde_json::from_slice(&body).expect("a refusal")))
}

async fn get_state(router: &Router) -> NodeState {
    let (status, body) = call(router, Request::get("/state").body(Body::empty()).expect("a request")).await;
    assert_eq!(status, StatusCode::OK);
    serde_json::from_slice(&body).expect("a state")
}

#[tokio::test]
async fn a_node_promises_epochs_upwards_only() {
    let node = node(None);
    let promised: FenceReply =
        ask(&node, Method::POST, "/fence", &FenceRequest { epoch: Epoch(4) }).await.expect("a promise");
    assert_eq!((promised.previous_promise, promised.node), (Epoch(0), NodeId("n1".to_owned())));
    let again: FenceReply =
        ask(&node, Method::POST, "/fence", &FenceRequest { epoch: Epoch(4) }).await.expect("the same promise");
    assert_eq!(again.previous_promise, Epoch(4));
    let (status, refusal) =
        ask::<FenceReply>(&node, Method::POST, "/fence", &FenceRequest { epoch: Epoch(3) }).await.expect_err("stale");
    assert_eq!((status, refusal.reason, refusal.promised), (StatusCode::CONFLICT, Refusal::StaleEpoch, Epoch(4)));
    assert_eq!(get_state(&node).await.promised, Epoch(4));
}

#[tokio::test]
async fn only_the_chosen_process_is_promoted() {
    let node = node(None);
    let fenced: FenceReply =
        ask(&node, Method::POST, "/fence", &FenceRequest { epoch: Epoch(1) }).await.expect("a promise");
    let address = |name: &str| PeerAddress {
        node: name.into(),
        client_url: format!("http://{name}:5000"),
        peer_url: "http://127.0.0.1:1".to_owned(),
    };
    let order = PromoteRequest {
        epoch: Epoch(1),
        storage_id: fenced.storage_id,
        process_id: ProcessId::random(),
        peers: vec![address("n1"), address("n2")],
        members: vec![Member { name: "n1".into(), storage_id: fenced.storage_id }],
        lease_wait_ms: 0,
        bootstrap: Some(quorumkv_api::Settings { write_quorum: quorumkv_api::WriteQuorum(1), ..Default::default() }),
        configuration: quorumkv_api::peer::Configuration::default(),
    };
    let (status, refusal) = ask::<NodeState>(&node, Method::POST, "/promote", &order).await.expect_err("another");
    assert_eq!((status, refusal.reason), (StatusCode::CONFLICT, Refusal::OtherProcess));
    let order = PromoteRequest { process_id: fenced.process_id, ..order };
    let state: NodeState = ask(&node, Method::POST, "/promote", &order).await.expect("promoted");
    assert_eq!((state.role, state.epoch), (quorumkv_api::lab::Role::Leader, Epoch(1)));
    let patch = SettingsPatch::default();
    let (status, refusal) =
        ask::<SettingsReply>(&node, Method::PUT, "/settings", &patch).await.expect_err("nothing is committed");
    assert_eq!((status, refusal.reason), (StatusCode::CONFLICT, Refusal::NotNow));
}

#[rstest]
#[case(Method::PUT, "/settings", r#"{"writeQuorum":1}"#, 403, Refusal::NotLeader, "only the leader")]
#[case(Method::PUT, "/settings", r#"{"writeQorum":1}"#, 400, Refusal::Invalid, "unknown field `writeQorum`")]
#[case(Method::PUT, "/settings", r#"{"delay":{"min":"10","max":"1s"}}"#, 400, Refusal::Invalid, "such as 10ms")]
#[case(Method::POST, "/fence", "", 400, Refusal::Invalid, "empty")]
#[case(Method::POST, "/fence", r#"{"epoch":-1}"#, 400, Refusal::Invalid, "line 1 column 11")]
#[case(Method::POST, "/fence", r#"{"epoch":9007199254740992}"#, 400, Refusal::Invalid, "not below")]
#[case(Method::POST, "/promote", "{}", 400, Refusal::Invalid, "missing field")]
#[case(Method::GET, "/nothing", "", 404, Refusal::Invalid, "no such route")]
#[case(Method::DELETE, "/state", "", 405, Refusal::Invalid, "does not take DELETE")]
#[case(Method::GET, "/tls", "", 404, Refusal::Invalid, "does not speak TLS")]
#[case(Method::GET, "/stream", "", 426, Refusal::Invalid, "Upgrade: quorumkv/1")]
#[case(Method::GET, "/recover", "", 400, Refusal::Invalid, "missing field")]
#[case(
    Method::GET,
    "/recover?epoch=0&processId=00000000-0000-0000-0000-000000000000",
    "",
    409,
    Refusal::OtherProcess,
    "this is process"
)]
#[tokio::test]
async fn what_cannot_be_done_is_refused_for_people_and_programs(
    #[case] method: Method,
    #[case] path: &str,
    #[case] body: &'static str,
    #[case] status: u16,
    #[case] reason: Refusal,
    #[case] expected: &str,
) {
    let request = Request::builder().method(method).uri(path).body(Body::from(body)).expect("a request");
    let (found, body) = call(&node(None), request).await;
    let refusal: PeerError = serde_json::from_slice(&body).expect("a refusal");
    assert_eq!((found.as_u16(), refusal.reason), (status, reason), "{refusal}");
    assert!(refusal.error.contains(expected), "{expected:?} is missing in {refusal}");
}

#[tokio::test]
async fn nobody_gets_anywhere_without_the_token() {
    let (node, driver) = counted_node(Some("secret"));
    let body = r#"{"epoch":9}"#;
    let mut fenced = false;
    let ask = async |method: &str, path: &str, presented: &[&str]| {
        let mut request = Request::builder().method(method).uri(path);
        for value in presented {
            request = request.header(header::AUTHORIZATION, *value);
        }
        // Also as a leader asks for a stream.
        let request = request.header(header::CONNECTION, "Upgrade").header(header::UPGRADE, PROTOCOL);
        call(&node, request.body(Body::from(body)).expect("a request")).await
    };
    let paths = ROUTES.iter().map(|(path, _)| *path).chain(["/", "/nothing", "/recover?epoch=0"]);
    for path in paths {
        for method in ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
            let wrong: [&[&str]; 8] = [
                &[],
                &["Bearer guess"],
                &["Bearer secret2"],
                &["Bearer secre"],
                &["Bearer "],
                &["secret"],
                &["Basic secret"],
                &["Bearer secret", "Bearer guess"],
            ];
            for presented in wrong {
                let (status, body) = ask(method, path, presented).await;
                assert_eq!(status, StatusCode::UNAUTHORIZED, "{method} {path} {presented:?}");
                let refusal: PeerError = serde_json::from_slice(&body).expect("a refusal");
                assert_eq!(refusal.reason, Refusal::Unauthorized);
                let promised = driver.inspect().await.expect("it runs").state.promised;
                assert!(promised == Epoch(0) || fenced, "{method} {path} {presented:?} changed something");
            }
            fenced |= (method, path) == ("POST", "/fence");
            let (status, _) = ask(method, path, &["Bearer secret"]).await;
            assert_ne!(status, StatusCode::UNAUTHORIZED, "{method} {path}");
        }
    }
}

#[tokio::test]
async fn requests_are_counted_those_without_the_token_too() {
    let (node, driver) = counted_node(Some("secret"));
    let with_token = |path: &str| {
        let request = Request::get(path).header(header::AUTHORIZATION, "Bearer secret");
        request.body(Body::empty()).expect("a request")
    };
    assert_eq!(call(&node, with_token("/state")).await.0, StatusCode::OK);
    for path in ["/state", "/nothing"] {
        let request = Request::get(path).body(Body::empty()).expect("a request");
        assert_eq!(call(&node, request).await.0, StatusCode::UNAUTHORIZED);
    }
    assert_eq!(call(&node, with_token("/fence")).await.0, StatusCode::METHOD_NOT_ALLOWED);
    let text = driver.metrics.render(&driver.inspect().await.expect("it runs"), 0, 0).expect("text");
    for (route, status) in [("/state", "2xx"), ("/state", "4xx"), ("unknown", "4xx"), ("/fence", "4xx")] {
        let labels = format!("port=\"peer\",method=\"GET\",route=\"{route}\",status=\"{status}\"");
        let line = format!("quorumkv_node_requests_total{{{labels}}} 1");
        assert!(text.lines().any(|shown| shown == line), "{line} is missing in\n{text}");
    }
}
