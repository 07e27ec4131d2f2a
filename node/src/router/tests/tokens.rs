//! Tokens of clients, on the router's way; `router/hot` has the other one.

use std::fs;

use super::*;
use crate::auth::TokenFiles;

/// A leader that takes every write, and asks for tokens: "reader", "writer", and "own" of the cluster.
fn guarded() -> (tempfile::TempDir, Router) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    fs::write(path("read"), "reader").expect("written");
    fs::write(path("write"), "writer").expect("written");
    let files = TokenFiles { read: Some(path("read")), write: path("write") };
    let tokens = ClientTokens::open(files).expect("tokens");
    let Port { driver, .. } = Port::new(view(Role::Leader), None, |command| match command {
        Command::Write { answer, .. } => answer.send(Ok(WriteOutcome::NotActive.into())).expect("somebody waits"),
        Command::Batch { writes } => {
            for (_, answer) in writes {
                answer.send(Ok(WriteOutcome::NotActive.into())).expect("somebody waits");
            }
        }
        // Whoever asked gets no answer, which is one that is not about tokens.
        _ => {}
    });
    let port = client_port(&driver, Token::new(Some("own"))).guarded(tokens, &Limits::default());
    (folder, router(port))
}

/// Status with this token; every answer that is none of success is JSON with an error.
async fn status(router: &Router, method: &str, path: &str, token: Option<&str>) -> u16 {
    let mut request = Request::builder().method(method).uri(path);
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    let body = match path {
        "/batch" => r#"{"writes":[{"key":"k","value":1}]}"#,
        _ => r#"{"key":"k","value":1}"#,
    };
    let response = router.clone().oneshot(request.body(Body::from(body)).expect("a request")).await;
    let response = response.expect("a router never fails");
    let (status, headers) = (response.status(), response.headers().clone());
    if status == StatusCode::UNAUTHORIZED {
        assert_eq!(headers[header::WWW_AUTHENTICATE], "Bearer");
        assert_eq!(headers[header::CONNECTION], "close");
    }
    if status.is_client_error() && method != "HEAD" {
        let body = to_bytes(response.into_body(), usize::MAX).await.expect("a body");
        let reply: ErrorReply = serde_json::from_slice(&body).expect("JSON");
        assert!(!reply.error.is_empty() && reply.leader.is_none(), "{reply:?}");
    }
    status.as_u16()
}

#[tokio::test]
async fn every_route_but_those_for_health_asks_for_a_token() {
    let (_folder, router) = guarded();
    let methods = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"];
    let paths = ROUTES.map(|(path, _)| path.replace("{key}", "k"));
    let more = ["/get/", "/kv/", "/nothing"].map(str::to_owned);
    for path in paths.into_iter().chain(more) {
        for method in methods {
            let place = format!("{method} {path}");
            let (none, wrong, reading, writing, own) = (
                status(&router, method, &path, None).await,
                status(&router, method, &path, Some("guess")).await,
                status(&router, method, &path, Some("reader")).await,
                status(&router, method, &path, Some("writer")).await,
                status(&router, method, &path, Some("own")).await,
            );
            if path == "/replicate" {
                // It asks for the cluster's own token, and only where there is something to ask for.
                assert!(method != "POST" || (none, writing) == (401, 401), "{place} {none} {writing}");
                continue;
            }
            let open = ["/health", "/readyz"].contains(&path.as_str());
            assert_eq!((none == 401, wrong == 401), (!open, !open), "{place} without a token");
            assert!(reading != 401 && writing != 401 && own != 401, "{place} {reading} {writing} {own}");
            let reads = open || ["GET", "HEAD"].contains(&method);
            assert_eq!(reading == 403, !reads, "{place} with a token for reading: {reading}");
            assert!(writing != 403 && own != 403, "{place} {writing} {own}");
        }
    }
}

#[tokio::test]
async fn without_the_peer_token_no_replication_is_read() {
    let port = Port::new(view(Role::Follower), Some("secret"), |command| panic!("the driver was asked {command:?}"));
    let batch = |entries: &str| {
        format!(r#"{{"epoch":9,"leader":"x","prevEpoch":0,"prevSeq":0,"commitSeq":0,"entries":[{entries}]}}"#)
    };
    let bodies = [
        batch(""),
        batch(r#"{"epoch":9,"set":{"key":"k","value":1}}"#),
        batch(r#"{"epoch":9,"write":{"key":"k","change":{"delete":{}}}}"#),
        batch(r#"{"epoch":9,"barrier":{}}"#),
        batch(r#"{"epoch":9,"settings":{"writeQuorum":1,"delay":{"min":"0s","max":"0s"},"writeTimeout":"5s"}}"#),
        String::new(),
        "nonsense".to_owned(),
    ];
    for body in bodies {
        for header in [None, Some("Bearer guess"), Some("Bearer "), Some("secret"), Some("Basic secret")] {
            let mut request = Request::post("/replicate");
            if let Some(header) = header {
                request = request.header(header::AUTHORIZATION, header);
            }
            let (status, answer) = port.call(request.body(Body::from(body.clone())).expect("a request")).await;
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{header:?} {body}: {answer}");
        }
    }
}
