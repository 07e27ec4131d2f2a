//! The page over HTTP, and fixtures for its parts.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use axum::{
    Router,
    body::Body,
    http::{Request, StatusCode, header},
    response::Response,
    routing::get,
};
use quorumkv_api::{
    Delay, Epoch, Seq, SettingsPatch, WriteQuorum,
    lab::{FollowerStatus, LatencySummary, Role, StatusReply},
};
use rstest::rstest;
use serde_json::Value;
use tokio::time::{Duration, timeout};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::*;
use crate::decide::Presence;

pub(super) fn store() -> StoreName {
    StoreName { namespace: "local".into(), name: "demo".into() }
}

pub(super) fn view(nodes: usize) -> StoreView {
    let info = |n| NodeInfo {
        node: format!("n{n}").as_str().into(),
        url: "http://127.0.0.1:1".into(),
        presence: Presence::Running,
        halted: false,
    };
    StoreView {
        ready: true,
        message: "well".into(),
        wanted: quorumkv_api::Settings::default(),
        remark: None,
        nodes: (0..nodes).map(info).collect(),
    }
}

/// A follower that has caught up.
pub(super) fn status(node: &str) -> StatusReply {
    StatusReply {
        node: node.into(),
        role: Role::Follower,
        epoch: Epoch(3),
        leader: None,
        ready: true,
        write_quorum: WriteQuorum(3),
        delay: Delay::ZERO,
        write_timeout: "5s".into(),
        keys: 1,
        last_seq: Seq(9),
        commit_seq: Seq(9),
        replication_latency: LatencySummary::default(),
        latency_buckets: None,
        followers: Vec::new(),
    }
}

/// The leader of so many nodes, to whom all others are connected.
pub(super) fn leader(node: &str, nodes: usize) -> StatusReply {
    let follower = |name: String| FollowerStatus {
        node: name.as_str().into(),
        url: String::new(),
        match_seq: Seq(9),
        lag: 0,
        connected: true,
        acknowledgement_ms: Some(1.5),
    };
    let names = (0..nodes).map(|n| format!("n{n}")).filter(|name| name != node);
    StatusReply { role: Role::Leader, followers: names.map(follower).collect(), ..status(node) }
}

/// A store whose changes are written down.
struct Fake {
    able: bool,
    /// Where its nodes are.
    urls: Vec<String>,
    changes: Mutex<Vec<Change>>,
}

impl Source for Fake {
    fn abilities(&self) -> Abilities {
        Abilities { settings: self.able, switchover: self.able, nodes: self.able, load: self.able }
    }

    fn hint(&self) -> String {
        "a hint".into()
    }

    fn stores(&self) -> Vec<StoreName> {
        vec![store()]
    }

    fn view(&self, _: &StoreName) -> Option<StoreView> {
        let mut view = view(3);
        view.nodes.iter_mut().zip(&self.urls).for_each(|(info, url)| info.url.clone_from(url));
        Some(view)
    }

    async fn change(&self, _: &StoreName, change: Change) -> Result<(), Refused> {
        self.changes.lock().expect("ok").push(change);
        Ok(())
    }
}

struct Served {
    router: Router,
    fake: Arc<Fake>,
    news: News,
    stop: CancellationToken,
}

impl Served {
    fn new(able: bool) -> Self {
        Self::of_nodes_at(able, Vec::new())
    }

    fn of_nodes_at(able: bool, urls: Vec<String>) -> Self {
        let (stop, news) = (CancellationToken::new(), News::default());
        let fake = Arc::new(Fake { able, urls, changes: Mutex::default() });
        let http = http_client().expect("a client");
        let page = Page::new(Arc::clone(&fake), news.clone(), http, stop.clone());
        let router = router(Arc::new(page), Hosts::allowing(["demo.example".into()]));
        Self { router, fake, news, stop }
    }

    async fn events(&self) -> Events {
        let request = Request::get("/api/stores/local/demo/events").header(header::HOST, "localhost");
        let response = self.call(request.body(Body::empty()).expect("a request")).await;
        assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream");
        Events::of(response)
    }

    async fn call(&self, request: Request<Body>) -> Response {
        self.router.clone().oneshot(request).await.expect("a router never fails")
    }

    async fn change(&self, method: &str, path: &str, body: &str) -> (StatusCode, Value) {
        let request = changing(method, path).body(body.to_owned().into()).expect("a request");
        answer(self.call(request).await).await
    }

    fn changes(&self) -> Vec<Change> {
        self.fake.changes.lock().expect("ok").clone()
    }
}

fn changing(method: &str, path: &str) -> axum::http::request::Builder {
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/api/stores/local/demo/{path}") };
    let request = Request::builder().method(method).uri(path).header(header::HOST, "127.0.0.1:8080");
    request.header(header::ORIGIN, "http://127.0.0.1:8080").header(header::CONTENT_TYPE, "application/json")
}

async fn answer(response: Response) -> (StatusCode, Value) {
    let status = response.status();
    let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.expect("a body");
    (status, serde_json::from_slice(&body).unwrap_or_else(|error| panic!("{error}: {body:?} is no JSON")))
}

#[tokio::test]
async fn wishes_are_handed_on() {
    let served = Served::new(true);
    let slower = r#"{"writeQuorum":2,"delay":{"min":"1ms","max":"2ms"}}"#;
    for (method, path, body) in [
        ("PUT", "settings", slower),
        ("POST", "switchover", r#"{"node":"n2"}"#),
        ("POST", "process", r#"{"node":"n1","action":"kill"}"#),
    ] {
        assert_eq!(served.change(method, path, body).await.0, StatusCode::OK, "{path}");
    }
    let delay = Delay { min: Duration::from_millis(1), max: Duration::from_millis(2) };
    let patch = SettingsPatch { write_quorum: Some(WriteQuorum(2)), delay: Some(delay), write_timeout: None };
    let killed = Change::Node { node: "n1".into(), action: NodeAction::Kill };
    assert_eq!(served.changes(), [Change::Settings(patch), Change::Switchover("n2".into()), killed]);
}

#[rstest]
#[case("PUT", "settings", "{}", 400, "neither writeQuorum nor delay")]
#[case("PUT", "settings", r#"{"writeQorum":2}"#, 400, "unknown field `writeQorum`")]
#[case("PUT", "settings", r#"{"writeQuorum":2,"writeTimeout":"1s"}"#, 400, "unknown field `writeTimeout`")]
#[case("PUT", "settings", r#"{"writeQuorum":300}"#, 400, "the body does not fit")]
#[case("PUT", "settings", r#"{"delay":{"min":"soon","max":"2ms"}}"#, 400, "is not a duration")]
#[case("POST", "switchover", "", 400, "the body does not fit")]
#[case("POST", "process", r#"{"node":"n1","action":"explode"}"#, 400, "unknown variant `explode`")]
#[case("PUT", "load", r#"{"clients":65}"#, 409, "open a page")]
#[case("PUT", "load", r#"{"clients":-1}"#, 400, "the body does not fit")]
#[case("GET", "settings", "", 405, "not with this method")]
#[case("POST", "/api/stores/local/other/switchover", r#"{"node":"n2"}"#, 404, "there is no KvCluster local/other")]
#[case("GET", "/favicon.ico", "", 404, "there is nothing here")]
#[tokio::test]
async fn what_makes_no_sense_is_refused_with_a_reason(
    #[case] method: &str,
    #[case] path: &str,
    #[case] body: &str,
    #[case] status: u16,
    #[case] reason: &str,
) {
    let served = Served::new(true);
    let (found, body) = served.change(method, path, body).await;
    assert_eq!(found.as_u16(), status, "{body}");
    assert!(body["error"].as_str().expect("a reason").contains(reason), "{body}");
    assert_eq!(served.changes(), []);
}

#[tokio::test]
async fn a_large_body_is_refused() {
    let (status, _) = Served::new(true).change("PUT", "settings", &" ".repeat(5000)).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
}

#[rstest]
#[case("PUT", "settings", r#"{"writeQuorum":2}"#)]
#[case("POST", "switchover", r#"{"node":"n2"}"#)]
#[case("POST", "process", r#"{"node":"n1","action":"kill"}"#)]
#[case("PUT", "load", r#"{"clients":1}"#)]
#[tokio::test]
async fn a_page_that_only_shows_changes_nothing(#[case] method: &str, #[case] path: &str, #[case] body: &str) {
    let served = Served::new(false);
    let (status, body) = served.change(method, path, body).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert!(body["error"].as_str().is_some_and(|error| error.contains("cannot be changed")), "{body}");
    assert_eq!(served.changes(), []);
}

#[rstest]
#[case::address("127.0.0.1:8080", true)]
#[case::loopback_name("localhost:9999", true)]
#[case::ipv6("[::1]:8080", true)]
#[case::allowed_name("Demo.Example:443", true)]
#[case::rebound_name("evil.example:8080", false)]
#[case::lookalike("localhost.evil.example", false)]
#[case::garbage("a b", false)]
#[tokio::test]
async fn only_known_host_names_are_answered(#[case] host: &str, #[case] known: bool) {
    let request = Request::get("/api/stores").header(header::HOST, host).body(Body::empty()).expect("a request");
    let (status, body) = answer(Served::new(true).call(request).await).await;
    assert_eq!(status, if known { StatusCode::OK } else { StatusCode::MISDIRECTED_REQUEST }, "{body}");
    assert_eq!(body["stores"][0]["name"].as_str(), known.then_some("demo"));
}

#[rstest]
#[case::other_site(header::ORIGIN, "http://evil.example", 403)]
#[case::other_port(header::ORIGIN, "http://127.0.0.1:9999", 403)]
#[case::sandboxed(header::ORIGIN, "null", 403)]
#[case::cross_site(header::HeaderName::from_static("sec-fetch-site"), "cross-site", 403)]
#[case::same_site_other_port(header::HeaderName::from_static("sec-fetch-site"), "same-site", 403)]
#[case::a_form(header::CONTENT_TYPE, "text/plain", 415)]
#[case::behind_tls(header::ORIGIN, "https://127.0.0.1:8080", 200)]
#[case::with_charset(header::CONTENT_TYPE, "application/json; charset=utf-8", 200)]
#[tokio::test]
async fn changes_come_from_the_page_itself(
    #[case] name: header::HeaderName,
    #[case] value: &str,
    #[case] expected: u16,
) {
    let served = Served::new(true);
    let mut request = changing("POST", "switchover").body(r#"{"node":"n2"}"#.into()).expect("a request");
    request.headers_mut().insert(name, value.parse().expect("a value"));
    let (status, body) = answer(served.call(request).await).await;
    assert_eq!(status.as_u16(), expected, "{body}");
    assert_eq!(served.changes().len(), usize::from(expected == 200));
}

#[tokio::test]
async fn the_document_comes_with_a_policy_that_only_its_own_parts_fit() {
    let request = Request::get("/").header(header::HOST, "localhost").body(Body::empty()).expect("a request");
    let response = Served::new(true).call(request).await;
    assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
    let policy = response.headers()[header::CONTENT_SECURITY_POLICY].to_str().expect("text").to_owned();
    assert!(policy.starts_with("default-src 'none'; script-src 'nonce-") && !policy.contains("unsafe"), "{policy}");
    let nonce = policy.split("'nonce-").nth(1).and_then(|rest| rest.split('\'').next()).expect("a nonce");
    let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.expect("a body");
    let document = String::from_utf8(body.to_vec()).expect("UTF-8");
    assert_eq!(document.matches(&format!("nonce=\"{nonce}\"")).count(), 2);
}

#[tokio::test]
async fn a_stream_begins_with_the_history_goes_on_with_frames_and_ends_with_the_server() {
    let served = Served::new(true);
    served.news.tell(&store(), "Test", false, "before".into());
    let mut body = served.events().await;
    served.news.tell(&store(), "Test", true, "after".into());
    let history = body.next().await;
    assert!(history.starts_with("event: history\n") && history.contains("before") && !history.contains("after"));
    let frame = body.next().await;
    assert!(frame.starts_with("event: frame\n") && frame.contains("after"), "{frame}");
    assert!(frame.contains(r#""state":"silent""#), "nobody answers: {frame}");
    assert!(!body.next().await.contains("after"), "each line is told once");
    let (status, refusal) = served.change("PUT", "load", r#"{"clients":65}"#).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{refusal}");
    served.stop.cancel();
    let ended = async { while !body.next().await.is_empty() {} };
    timeout(Duration::from_secs(5), ended).await.expect("it ends");
}

/// A node that counts how often it is asked.
async fn counting(node: &str) -> (String, Arc<AtomicUsize>) {
    let (asked, reply) = (Arc::new(AtomicUsize::new(0)), status(node));
    let count = Arc::clone(&asked);
    let answer = move || {
        count.fetch_add(1, Ordering::Relaxed);
        std::future::ready(axum::Json(reply))
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/status", get(answer))).await });
    (url, asked)
}

#[tokio::test]
async fn a_node_that_hangs_holds_nothing_up_and_more_pages_ask_no_more_often() {
    let hanging = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let hung = format!("http://{}", hanging.local_addr().expect("bound"));
    let (url, asked) = counting("n1").await;
    let served = Served::of_nodes_at(true, vec![hung, url]);
    let mut pages = Vec::new();
    for _ in 0..8 {
        pages.push(served.events().await);
    }
    for page in &mut pages {
        assert!(page.next().await.starts_with("event: history"));
    }
    let mut answered = false;
    for _ in 0..6 {
        let mut frames = Vec::new();
        for page in &mut pages {
            frames.push(page.next().await);
        }
        assert!(frames.iter().all(|frame| *frame == frames[0]), "all see the same");
        answered |= frames[0].contains(r#""node":"n1","state":"waiting""#);
        assert!(frames[0].contains(r#""node":"n0","state":"silent""#), "{}", frames[0]);
    }
    assert!(answered, "the other node is seen");
    let asked = asked.load(Ordering::Relaxed);
    assert!((1..=8).contains(&asked), "asked {asked} times in six frames");
    drop(hanging);
}

struct Events(axum::body::BodyDataStream);

impl Events {
    fn of(response: Response) -> Self {
        Self(response.into_body().into_data_stream())
    }

    /// The next event; nothing at the end.
    async fn next(&mut self) -> String {
        use futures::StreamExt as _;
        let next = timeout(Duration::from_secs(5), self.0.next()).await.expect("in time");
        next.map_or_else(String::new, |data| String::from_utf8(data.expect("data").to_vec()).expect("UTF-8"))
    }
}
