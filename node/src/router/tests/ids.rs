//! Request ids, from a request to the driver and back.

use quorumkv_protocol::{Change, Write};

use super::*;
use crate::{
    handle::Written,
    store::{Deviation, requests::Outcome},
};

/// A leader that answers every write so, and the writes as they arrive.
pub(super) fn deviating(deviation: Option<Deviation>) -> (Port, tokio::sync::mpsc::UnboundedReceiver<Operation>) {
    let (sender, arrived) = tokio::sync::mpsc::unbounded_channel();
    let port = Port::new(view(Role::Leader), None, move |command| {
        let Command::Write { operation, answer } = command else { panic!("a write") };
        sender.send(operation).expect("the test holds the other end");
        let outcome = WriteOutcome::Committed { version: Seq(9), replicas: 2, appended: Micros(0) };
        answer.send(Ok(Written { outcome, deviation })).expect("somebody waits");
    });
    (port, arrived)
}

const WITH_ID: &str = r#"{"key":"k","value":1,"requestId":"id 1"}"#;

#[rstest]
#[case::new(None, 200, r#"{"success":true,"replicas":2,"version":9}"#)]
#[case::repeated(
    Some(Deviation::Repeated { version: Seq(4), outcome: Outcome::Done }),
    200,
    r#"{"success":true,"replicas":2,"version":4,"repeated":true}"#
)]
#[case::another_writes(
    Some(Deviation::IdTaken),
    422,
    r#"{"error":"The request id was used for another write; nothing was written"}"#
)]
#[tokio::test]
async fn a_write_with_an_id_is_answered_with_what_became_of_it(
    #[case] deviation: Option<Deviation>,
    #[case] status: u16,
    #[case] expected: &str,
) {
    let (port, _arrived) = deviating(deviation);
    let (found, body) = port.post("/set", WITH_ID).await;
    assert_eq!((found.as_u16(), body.as_str()), (status, expected));
}

#[rstest]
#[case::in_the_body(WITH_ID, &[], Some("id 1"))]
#[case::in_the_header(r#"{"key":"k","value":1}"#, &["id 1"], Some("id 1"))]
#[case::quoted(r#"{"key":"k","value":1}"#, &["\"id 1\""], Some("id 1"))]
#[case::in_both(WITH_ID, &["id 1"], Some("id 1"))]
#[case::null(r#"{"key":"k","value":1,"requestId":null}"#, &["id 1"], Some("id 1"))]
#[case::nowhere(r#"{"key":"k","value":1}"#, &[], None)]
#[tokio::test]
async fn an_id_may_stand_in_body_and_header(
    #[case] body: &'static str,
    #[case] headers: &[&str],
    #[case] expected: Option<&str>,
) {
    let (port, mut arrived) = deviating(None);
    let request = headers.iter().fold(Request::post("/set"), |request, id| request.header("Idempotency-Key", *id));
    let (status, answer) = port.call(request.body(body.into()).expect("a request")).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let id = match arrived.recv().await.expect("a write") {
        Operation::Write(write) => Some(write.request.expect("an id").id),
        Operation::Put { .. } => None,
        other => panic!("{other:?} is no write"),
    };
    assert_eq!(id.as_deref(), expected.map(str::as_bytes));
}

#[rstest]
#[case::empty("", &[""], "1..128 characters")]
#[case::empty_in_the_body(r#","requestId":"""#, &[], "1..128 characters")]
#[case::too_long("", &[&*"i".repeat(129)], "1..128 characters")]
#[case::not_printable(r#","requestId":"a\nb""#, &[], "printable ASCII")]
#[case::not_ascii(r#","requestId":"ä""#, &[], "printable ASCII")]
#[case::a_number(r#","requestId":7"#, &[], "expected a string")]
#[case::two_different(r#","requestId":"a""#, &["b"], "different things")]
#[case::two_headers("", &["a", "a"], "more than one")]
#[tokio::test]
async fn an_id_that_makes_no_sense_is_refused(#[case] field: &str, #[case] headers: &[&str], #[case] expected: &str) {
    let body = format!(r#"{{"key":"k","value":1{field}}}"#);
    let request = headers.iter().fold(Request::post("/set"), |request, id| request.header("Idempotency-Key", *id));
    let request = request.body(body.into()).expect("a request");
    let (status, body) = Port::untouched(Role::Leader).call(request).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(error_of(&body).error.contains(expected), "{expected:?} is missing in {body}");
}

#[tokio::test]
async fn writes_with_one_id_have_one_digest_only_if_they_are_the_same() {
    let (port, mut arrived) = deviating(None);
    let mut digests = Vec::new();
    for (key, value) in [("k", "1"), ("k", "1"), ("l", "1"), ("k", "2"), ("k", "1.0")] {
        let body = format!(r#"{{"key":"{key}","value":{value},"requestId":"id"}}"#);
        assert_eq!(port.post("/set", body).await.0, StatusCode::OK);
        let Some(Operation::Write(write)) = arrived.recv().await else { panic!("a write") };
        let Write { change, condition, request, .. } = *write;
        assert!(matches!((change, condition), (Change::Put { format: Format::Json, .. }, None)));
        digests.push(request.expect("an id").digest);
    }
    assert_eq!(digests[0], digests[1]);
    let different: std::collections::HashSet<_> = digests.iter().collect();
    assert_eq!(different.len(), 4, "{digests:?}");
}
