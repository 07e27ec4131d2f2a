//! Orders of managers that are almost right, to a real core: each is carried out or refused, and the node goes on.

use std::time::Duration;

use rand::RngExt as _;

use super::*;
use crate::fuzz::{HTTP_WORDS, JSON_WORDS, cases, spoil};

const ID: &str = "00000000-0000-0000-0000-000000000000";

fn orders(state: &NodeState) -> Vec<(Method, &'static str, String)> {
    let NodeState { storage_id, process_id, .. } = state;
    let peer =
        |name: &str| format!(r#"{{"node":"{name}","clientUrl":"http://{name}:5000","peerUrl":"http://127.0.0.1:1"}}"#);
    let peers = format!("[{},{}]", peer("n1"), peer("n2"));
    let members = format!(r#"[{{"name":"n1","storageId":"{storage_id}"}},{{"name":"n2","storageId":"{ID}"}}]"#);
    let first = r#"{"writeQuorum":1,"delay":{"min":"0s","max":"0s"},"writeTimeout":"5s"}"#;
    let promote = |epoch: u64| {
        let whom = format!(r#""storageId":"{storage_id}","processId":"{process_id}""#);
        let whose = format!(r#""peers":{peers},"members":{members},"leaseWaitMs":0,"bootstrap":{first}"#);
        format!(r#"{{"epoch":{epoch},{whom},{whose}}}"#)
    };
    vec![
        (Method::GET, "/state", String::new()),
        (Method::POST, "/fence", r#"{"epoch":1}"#.to_owned()),
        (Method::POST, "/fence", r#"{"epoch":2}"#.to_owned()),
        (Method::POST, "/promote", promote(1)),
        (Method::POST, "/promote", promote(2)),
        (Method::PUT, "/members", format!(r#"{{"epoch":1,"peers":{peers},"members":{members}}}"#)),
        (Method::PUT, "/settings", r#"{"writeQuorum":1,"delay":{"min":"1ms","max":"2ms"}}"#.to_owned()),
        (Method::GET, "/recover?epoch=1&processId=00000000-0000-0000-0000-000000000000", String::new()),
        (Method::GET, "/stream", String::new()),
    ]
}

#[tokio::test]
async fn orders_that_are_almost_right_are_carried_out_or_refused() {
    let (mut router, mut driver) = counted_node(None);
    let mut known = orders(&driver.inspect().await.expect("it runs").state);
    for (number, mut case) in (1_u64..).zip(cases(4_000)) {
        if number.is_multiple_of(50) {
            // A node that was fenced with a high epoch refuses all that would be of interest.
            (router, driver) = counted_node(None);
            known = orders(&driver.inspect().await.expect("it runs").state);
        }
        let (method, path, body) = &known[case.dice.random_range(0..known.len())];
        let (mut path, mut body) = (path.as_bytes().to_vec(), body.clone().into_bytes());
        if case.dice.random_bool(0.2) {
            spoil(&mut case.dice, &mut path, &HTTP_WORDS);
        }
        if case.dice.random_bool(0.7) {
            spoil(&mut case.dice, &mut body, &JSON_WORDS);
        }
        let shown = format!("{method} {} {}", String::from_utf8_lossy(&path), String::from_utf8_lossy(&body));
        let Ok(request) = Request::builder().method(method).uri(path).body(Body::from(body)) else { continue };
        // A change of settings waits for its quorum, which never comes.
        let answered = tokio::time::timeout(Duration::from_millis(50), call(&router, request)).await;
        if let Ok((status, answer)) = answered {
            assert_ne!(status, StatusCode::INTERNAL_SERVER_ERROR, "{shown}: {answer:?}");
            if !status.is_success() {
                let refusal: Result<PeerError, _> = serde_json::from_slice(&answer);
                assert!(refusal.is_ok_and(|refusal| !refusal.error.is_empty()), "{shown}: {status} {answer:?}");
            }
        }
        assert!(driver.inspect().await.is_ok(), "the core ended over {shown}");
    }
}
