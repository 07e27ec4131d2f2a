//! What is counted of requests.

use std::task::Poll;

use futures::poll;

use super::*;
use crate::metrics::requests;

impl Port {
    /// What is shown of requests to this port.
    fn counted(&self) -> Vec<String> {
        let state = NodeState {
            node: "n1".into(),
            storage_id: StorageId::random(),
            process_id: ProcessId::random(),
            role: Role::Follower,
            promised: Epoch(4),
            epoch: Epoch(4),
            leader: None,
            ready: true,
            last: Position::default(),
            commit: Seq(0),
            settings: None,
            followers: Vec::new(),
            configuration: None,
        };
        let inspection = Inspection { state, peers: Vec::new(), acknowledgements: Vec::new() };
        let text = self.driver.metrics.render(&inspection, 0, 0).expect("text");
        let requests = text.lines().filter_map(|line| line.strip_prefix("quorumkv_node_request"));
        requests.filter(|line| !line.ends_with(" 0")).map(str::to_owned).collect()
    }

    #[track_caller]
    fn has(counted: &[String], line: &str) {
        assert!(counted.iter().any(|shown| shown == line), "{line} is missing in {counted:#?}");
    }
}

#[tokio::test]
async fn requests_are_counted_by_route_whatever_their_path() {
    let port = Port::untouched(Role::Follower);
    for path in ["/get/a", "/get/b/c", "/get/", "/nothing", "/nothing/else"] {
        port.get(path).await;
    }
    let counted = port.counted();
    let of = |method: &str, route: &str| format!("port=\"client\",method=\"{method}\",route=\"{route}\"");
    let (get, unknown) = (of("GET", "/get/{key}"), of("GET", "unknown"));
    Port::has(&counted, &format!("s_total{{{get},status=\"4xx\"}} 3"));
    Port::has(&counted, &format!("s_total{{{unknown},status=\"4xx\"}} 2"));
    Port::has(&counted, &format!("_duration_seconds_count{{{get}}} 3"));
    assert!(!counted.iter().any(|line| line.contains("nothing") || line.contains("/get/a")), "{counted:?}");
}

#[tokio::test]
async fn answers_are_counted_by_class_and_method() {
    let port = Port::answering(WriteOutcome::Committed { version: Seq(7), replicas: 3, appended: Micros(0) });
    port.post("/set", r#"{"key":"k","value":1}"#).await;
    port.post("/set", "nonsense").await;
    port.get("/set").await;
    let head = Request::head("/health").body(Body::empty()).expect("a request");
    port.router.clone().oneshot(head).await.expect("a router never fails");
    let counted = port.counted();
    for (method, route, status) in
        [("POST", "/set", "2xx"), ("POST", "/set", "4xx"), ("GET", "/set", "4xx"), ("GET", "/health", "2xx")]
    {
        let labels = format!("port=\"client\",method=\"{method}\",route=\"{route}\",status=\"{status}\"");
        Port::has(&counted, &format!("s_total{{{labels}}} 1"));
    }
}

#[tokio::test]
async fn a_handler_that_panics_is_counted_as_its_answer() {
    // No replication is answered so, and the handler relies on that.
    let port = Port::new(view(Role::Follower), None, |command| {
        let Command::Peer { answer, .. } = command else { panic!("a replication") };
        answer.send(Ok(ReplyBody::Restored)).expect("somebody waits");
    });
    let request = Request::post("/replicate").body(Body::from(BATCH)).expect("a request");
    // The API describes no bugs.
    let response = port.router.clone().oneshot(request).await.expect("a router never fails");
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let labels = "port=\"client\",method=\"POST\",route=\"/replicate\",status=\"5xx\"";
    Port::has(&port.counted(), &format!("s_total{{{labels}}} 1"));
}

#[tokio::test]
async fn a_request_is_in_flight_until_it_is_answered_or_given_up() {
    // Keeps every write waiting.
    let mut writes = Vec::new();
    let port = Port::new(view(Role::Leader), None, move |command| writes.push(command));
    let request = Request::post("/set").body(Body::from(r#"{"key":"k","value":1}"#)).expect("a request");
    {
        let mut answer = std::pin::pin!(port.router.clone().oneshot(request));
        assert!(matches!(poll!(&mut answer), Poll::Pending));
        Port::has(&port.counted(), "s_in_flight{port=\"client\"} 1");
    }
    let counted = port.counted();
    assert!(!counted.iter().any(|line| line.contains("in_flight")), "{counted:?}");
    let labels = "port=\"client\",method=\"POST\",route=\"/set\",status=\"none\"";
    Port::has(&counted, &format!("s_total{{{labels}}} 1"));
}

#[tokio::test]
async fn what_is_answered_before_the_router_is_counted_with_the_rest() {
    let port = Port::untouched(Role::Follower);
    let route = port.driver.metrics.requests.route(requests::Port::Client, &Method::GET, "/get/{key}");
    route.observe(StatusCode::OK, Duration::from_micros(80));
    route.begin().answered(StatusCode::OK);
    port.get("/get/a").await;
    let counted = port.counted();
    let get = "port=\"client\",method=\"GET\",route=\"/get/{key}\"";
    Port::has(&counted, &format!("s_total{{{get},status=\"2xx\"}} 2"));
    Port::has(&counted, &format!("s_total{{{get},status=\"4xx\"}} 1"));
    Port::has(&counted, &format!("_duration_seconds_count{{{get}}} 3"));
}
