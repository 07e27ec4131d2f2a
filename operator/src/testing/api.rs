//! An API server that expects the requests of a script, in order, and none besides.

use http::{Method, Request, Response, StatusCode};
use kube::client::{Body, Client};
use serde_json::Value;
use tokio::task::JoinHandle;
use tower_test::mock;

type Service = mock::Mock<Request<Body>, Response<Body>>;

/// One request that is expected, and its answer.
pub(crate) struct Expected {
    method: Method,
    path: &'static str,
    status: StatusCode,
    answer: Answer,
}

enum Answer {
    Fixed(Value),
    /// What was sent comes back, as after a successful write.
    Echo,
}

impl Expected {
    /// A read that finds nothing.
    pub(crate) fn missing(path: &'static str) -> Self {
        Self::failing(Method::GET, path, StatusCode::NOT_FOUND)
    }

    /// A read that finds this.
    pub(crate) fn found(path: &'static str, object: Value) -> Self {
        Self { method: Method::GET, path, status: StatusCode::OK, answer: Answer::Fixed(object) }
    }

    /// A write that is accepted as it is.
    pub(crate) fn written(method: Method, path: &'static str) -> Self {
        Self { method, path, status: StatusCode::OK, answer: Answer::Echo }
    }

    /// The same with another answer.
    pub(crate) fn answering(self, answer: Value) -> Self {
        Self { answer: Answer::Fixed(answer), ..self }
    }

    /// A request that is refused.
    pub(crate) fn failing(method: Method, path: &'static str, status: StatusCode) -> Self {
        let reason = status.canonical_reason().unwrap_or_default().replace(' ', "");
        let answer = serde_json::json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure",
            "message": "as scripted", "reason": reason, "code": status.as_u16(),
        });
        Self { method, path, status, answer: Answer::Fixed(answer) }
    }
}

/// A client of a server with this script. The task ends once the script is done and the client is dropped,
/// with the bodies that were sent; it panics at a request that is not in the script.
pub(crate) fn server(script: Vec<Expected>) -> (Client, JoinHandle<Vec<Value>>) {
    let (service, task) = service(script);
    (Client::new(service, "default"), task)
}

/// The same, for a client with layers.
pub(crate) fn service(script: Vec<Expected>) -> (Service, JoinHandle<Vec<Value>>) {
    let (service, mut handle) = mock::pair::<Request<Body>, Response<Body>>();
    let task = tokio::spawn(async move {
        let mut sent = Vec::new();
        for Expected { method, path, status, answer } in script {
            let (request, respond) =
                handle.next_request().await.unwrap_or_else(|| panic!("{method} {path} did not come"));
            assert_eq!((request.method(), request.uri().path()), (&method, path), "out of order");
            let body = request.into_body().collect_bytes().await.expect("a body");
            let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
            let answer = match answer {
                Answer::Fixed(answer) => answer,
                Answer::Echo => body.clone(),
            };
            sent.push(body);
            let answer = Body::from(serde_json::to_vec(&answer).expect("serializes"));
            respond.send_response(Response::builder().status(status).body(answer).expect("an answer"));
        }
        if let Some((request, _)) = handle.next_request().await {
            panic!("{} {} is not in the script", request.method(), request.uri().path());
        }
        sent
    });
    (service, task)
}
