//! The native API in the router: conditions, content types, the document, and what is refused.

use quorumkv_protocol::{Change, Condition};

use super::{ids::deviating, *};
use crate::{
    handle::Written,
    router::openapi::DOCUMENT,
    store::{Deviation, requests::Outcome},
};

async fn ask(port: &Port, method: &str, path: &str, headers: &[(&str, &str)], body: &'static [u8]) -> Answer {
    let request = Request::builder().method(method).uri(path);
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    port.answer(request.body(body.into()).expect("a request")).await
}

#[rstest]
#[case::bytes(&[], b"\0\xff", Format::Raw, b"\0\xff")]
#[case::nothing(&[], b"", Format::Raw, b"")]
#[case::bytes_that_look_like_json(&[("content-type", "text/plain")], b"{}", Format::Raw, b"{}")]
#[case::json(&[("content-type", "application/json")], b" {\"z\": 1.0} ", Format::Json, b"{\"z\": 1.0}")]
#[case::json_with_a_charset(&[("content-type", "Application/JSON; charset=utf-8")], b"1", Format::Json, b"1")]
#[tokio::test]
async fn the_content_type_says_what_a_value_is(
    #[case] headers: &[(&str, &str)],
    #[case] body: &'static [u8],
    #[case] format: Format,
    #[case] value: &'static [u8],
) {
    let (port, mut arrived) = deviating(None);
    let answer = ask(&port, "PUT", "/kv/a/b%20%C3%A4", headers, body).await;
    assert_eq!((answer.status, answer.header("etag")), (StatusCode::OK, Some("\"9\"")), "{answer:?}");
    let (key, found) = match arrived.recv().await.expect("a write") {
        Operation::Put { key, value } => (key, Change::Put { format: Format::Json, value }),
        Operation::Write(write) => (write.key, write.change),
        other => panic!("{other:?} is no write"),
    };
    assert_eq!((&key[..], found), ("a/b ä".as_bytes(), Change::Put { format, value: Bytes::from_static(value) }));
}

#[rstest]
#[case::any("if-match", "*", Condition::Present)]
#[case::none("if-none-match", "*", Condition::Absent)]
#[case::this("if-match", "\"7\"", Condition::Version(Seq(7)))]
#[case::another("if-none-match", "\"7\"", Condition::NotVersion(Seq(7)))]
#[case::another_weakly("if-none-match", "W/\"7\"", Condition::NotVersion(Seq(7)))]
#[tokio::test]
async fn headers_become_conditions(#[case] header: &str, #[case] value: &str, #[case] expected: Condition) {
    let (port, mut arrived) = deviating(None);
    for method in ["PUT", "DELETE"] {
        let answer = ask(&port, method, "/kv/k", &[(header, value)], b"").await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        let Some(Operation::Write(write)) = arrived.recv().await else { panic!("a write") };
        assert_eq!((write.condition, write.change == Change::Delete), (Some(expected), method == "DELETE"));
    }
}

#[rstest]
#[case::no_number(&[("if-match", "\"abc\"")])]
#[case::a_sign(&[("if-match", "\"+7\"")])]
#[case::no_quotes(&[("if-match", "7")])]
#[case::weak(&[("if-match", "W/\"7\"")])]
#[case::several(&[("if-match", "\"7\", \"8\"")])]
#[case::twice(&[("if-match", "\"7\""), ("if-match", "\"8\"")])]
#[case::both(&[("if-match", "\"7\""), ("if-none-match", "*")])]
#[tokio::test]
async fn a_condition_that_makes_no_sense_is_refused(#[case] headers: &[(&str, &str)]) {
    for method in ["GET", "PUT", "DELETE"] {
        let answer = ask(&Port::untouched(Role::Leader), method, "/kv/k", headers, b"").await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{answer:?}");
        assert!(error_of(&answer.text()).error.contains("atch"), "{answer:?}");
    }
}

#[rstest]
#[case::failed(Deviation::ConditionFailed { current: Some(Seq(4)) }, Some("\"4\""), "\"version\":4")]
#[case::failed_before(
    Deviation::Repeated { version: Seq(3), outcome: Outcome::ConditionFailed { current: None } },
    None,
    "\"version\":null"
)]
#[tokio::test]
async fn a_failed_condition_tells_the_version_there_is(
    #[case] deviation: Deviation,
    #[case] tag: Option<&str>,
    #[case] expected: &str,
) {
    let (port, _arrived) = deviating(Some(deviation));
    let answer = ask(&port, "PUT", "/kv/k", &[("if-match", "\"1\"")], b"v").await;
    assert_eq!((answer.status, answer.header("etag")), (StatusCode::PRECONDITION_FAILED, tag));
    assert!(answer.text().contains(expected), "{answer:?}");
}

#[rstest]
#[case::plain(&[], 200)]
#[case::same(&[("if-none-match", "\"3\"")], 304)]
#[case::any(&[("if-none-match", "*")], 304)]
#[case::older(&[("if-none-match", "\"2\"")], 200)]
#[case::wanted(&[("if-match", "\"3\"")], 200)]
#[case::gone(&[("if-match", "\"2\"")], 412)]
#[tokio::test]
async fn reads_have_tags_and_heed_conditions(#[case] headers: &[(&str, &str)], #[case] status: u16) {
    let port = Port::untouched(Role::Follower);
    port.driver.store.install(holding("k", "{ }", 3, 5));
    let answer = ask(&port, "GET", "/kv/k", headers, b"").await;
    assert_eq!((answer.status.as_u16(), answer.header("etag")), (status, Some("\"3\"")), "{answer:?}");
    if status == 200 {
        assert_eq!((answer.header("content-type"), answer.text().as_str()), (Some("application/json"), "{ }"));
    }
    // And of a key without a value.
    let absent = ask(&port, "GET", "/kv/l", headers, b"").await;
    assert_eq!(absent.status.as_u16(), if headers.iter().any(|(name, _)| *name == "if-match") { 412 } else { 404 });
}

#[tokio::test]
async fn bytes_are_bytes_here_and_base64_in_the_labs_answers() {
    let port = Port::untouched(Role::Follower);
    let mut state = holding("json", "1", 3, 5);
    state.put(b"raw", Format::Raw, b"\0\xff", Seq(4));
    port.driver.store.install(state);
    let answer = ask(&port, "GET", "/kv/raw", &[], b"").await;
    assert_eq!((answer.header("content-type"), &answer.body[..]), (Some("application/octet-stream"), &b"\0\xff"[..]));
    let (_, body) = port.get("/get/raw").await;
    assert_eq!(body, r#"{"key":"raw","value":"AP8=","encoding":"base64","version":4}"#);
    let (_, body) = port.get("/get_all").await;
    assert_eq!(body, r#"{"data":{"json":1,"raw":"AP8="},"base64":["raw"],"version":5}"#);
    let (_, body) = port.get("/kv").await;
    let keys = r#"[{"key":"json","version":3,"value":1},{"key":"raw","version":4,"base64":"AP8="}]"#;
    assert_eq!(body, format!(r#"{{"version":5,"keys":{keys}}}"#));
}

#[tokio::test]
async fn pages_show_one_version_whatever_is_written_between_them() {
    let port = Port::untouched(Role::Follower);
    let mut state = holding("a", "1", 1, 3);
    state.put(b"b", Format::Json, b"2", Seq(2));
    state.put(b"c", Format::Json, b"3", Seq(3));
    port.driver.store.install(state);
    let (_, first) = port.get("/kv?limit=2").await;
    assert!(first.ends_with(r#""next":"b"}"#) && first.starts_with(r#"{"version":3,"#), "{first}");
    port.driver.store.install(holding("c", "4", 4, 4));
    let (status, second) = port.get("/kv?limit=2&after=b&version=3").await;
    assert_eq!(
        (status, second.as_str()),
        (StatusCode::OK, r#"{"version":3,"keys":[{"key":"c","version":3,"value":3}]}"#)
    );
    let (status, gone) = port.get("/kv?after=b&version=2").await;
    assert_eq!(status, StatusCode::GONE, "{gone}");
}

#[rstest]
#[case("/kv?limit=0", 400, "1..1000")]
#[case("/kv?limit=1001", 400, "1..1000")]
#[case("/kv?limit=many", 400, "numbers")]
#[case("/kv?consistency=linearizable", 403, "Only leader")]
#[case("/kv/", 400, "the key is empty")]
#[case("/kv/%ff", 400, "no text")]
#[case("/kv/k?consistency=linearizable", 403, "Only leader")]
#[case("/kv/missing", 404, "Key not found")]
#[case("/watch?from=-1", 400, "from is a number")]
#[tokio::test]
async fn what_cannot_be_answered_says_why(#[case] path: &str, #[case] status: u16, #[case] expected: &str) {
    let (found, body) = Port::untouched(Role::Follower).get(path).await;
    assert_eq!(found.as_u16(), status, "{body}");
    assert!(error_of(&body).error.contains(expected), "{expected:?} is missing in {body}");
}

#[rstest]
#[case::nothing("{}", "missing field `writes`")]
#[case::no_writes(r#"{"writes":[]}"#, "1..1000 writes")]
#[case::no_change(r#"{"writes":[{"key":"a","value":1},{"key":"k"}]}"#, "write 1: there must be one of")]
#[case::two_changes(r#"{"writes":[{"key":"k","value":1,"delete":true}]}"#, "there must be one of")]
#[case::no_delete(r#"{"writes":[{"key":"k","delete":false}]}"#, "there must be one of")]
#[case::no_base64(r#"{"writes":[{"key":"k","base64":"?"}]}"#, "no base64")]
#[case::no_key(r#"{"writes":[{"key":"","value":1}]}"#, "1..1024 bytes")]
#[case::no_condition(r#"{"writes":[{"key":"k","value":1,"condition":"maybe"}]}"#, "unknown variant")]
#[case::a_typo(r#"{"writes":[{"key":"k","valeu":1}]}"#, "unknown field `valeu`")]
#[case::no_id(r#"{"writes":[{"key":"k","value":1,"requestId":""}]}"#, "1..128 characters")]
#[tokio::test]
async fn a_batch_that_makes_no_sense_is_refused_whole(#[case] body: &'static str, #[case] expected: &str) {
    let (status, body) = Port::untouched(Role::Leader).post("/batch", body).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
    assert!(error_of(&body).error.contains(expected), "{expected:?} is missing in {body}");
}

/// A port whose driver answers the writes of a batch so, in turn.
fn batching(outcomes: Vec<Written>) -> Port {
    Port::new(view(Role::Leader), None, move |command| {
        let Command::Batch { writes } = command else { panic!("a batch, not {command:?}") };
        for ((_, answer), written) in writes.into_iter().zip(outcomes.clone()) {
            answer.send(Ok(written)).expect("somebody waits");
        }
    })
}

const THREE: &str = r#"{"writes":[{"key":"a","value":null},{"key":"b","base64":"AP8=","condition":{"version":3},"requestId":"id"},{"key":"c","delete":true}]}"#;

#[tokio::test]
async fn each_write_of_a_batch_is_answered_by_itself() {
    let committed = |version| WriteOutcome::Committed { version: Seq(version), replicas: 2, appended: Micros(0) };
    let failed = Some(Deviation::ConditionFailed { current: Some(Seq(4)) });
    let outcomes = vec![
        committed(7).into(),
        Written { outcome: committed(8), deviation: failed },
        WriteOutcome::QuorumNotReached { replicas: 1 }.into(),
    ];
    let (status, body) = batching(outcomes).post("/batch", THREE).await;
    let first = r#"{"status":200,"success":true,"replicas":2,"version":7}"#;
    let second = r#"{"status":412,"error":"The condition does not hold; nothing was written","version":4}"#;
    let third = r#"{"status":500,"error":"Quorum not reached","replicas":1}"#;
    assert_eq!((status, body), (StatusCode::OK, format!(r#"{{"results":[{first},{second},{third}]}}"#)));
}

#[tokio::test]
async fn a_batch_that_is_not_for_this_node_is_sent_elsewhere_whole() {
    let (status, body) = batching(vec![WriteOutcome::NotLeader.into(); 3]).post("/batch", THREE).await;
    assert_eq!((status, error_of(&body).leader), (StatusCode::FORBIDDEN, Some(Some(LEADER_URL.to_owned()))));
}

#[tokio::test]
async fn every_route_and_method_is_described_and_no_other() {
    let contract = Contract::new(DOCUMENT);
    let described = contract.operations();
    let mut routes: Vec<String> = described.iter().map(|(path, ..)| path.clone()).collect();
    routes.dedup();
    let mut known: Vec<&str> = ROUTES.iter().map(|(path, _)| *path).collect();
    routes.sort_unstable();
    known.sort_unstable();
    assert_eq!(routes, known);
    let port = Port::new(view(Role::Follower), None, drop);
    for path in known {
        for method in contract::METHODS {
            let expected = described.iter().any(|(described, of, _)| described == path && *of == method);
            let request = Request::builder().method(method.to_uppercase().as_str()).uri(path.replace("{key}", "k"));
            let response = port.router.clone().oneshot(request.body(Body::empty()).expect("a request")).await;
            let found = response.expect("a router never fails").status() != StatusCode::METHOD_NOT_ALLOWED;
            assert_eq!(found, expected, "{method} {path}");
        }
    }
    let served = ask(&port, "GET", "/openapi.json", &[], b"").await;
    assert_eq!((served.status, served.text().as_str()), (StatusCode::OK, DOCUMENT));
}
