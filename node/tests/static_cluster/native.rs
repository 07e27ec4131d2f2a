//! The native API on whole stores: conditions under contention, batches, listings, watches.

use std::{collections::BTreeMap, time::Duration};

use futures::StreamExt as _;
use reqwest::{Method, Response};
use serde_json::{Value, json};

use crate::{
    contract::Contract,
    persistent,
    support::{Cluster, Options, eventually},
};

/// A client that holds every answer against the document that the node serves.
struct Client<'a> {
    cluster: &'a Cluster,
    http: reqwest::Client,
    contract: Contract,
}

struct Answer {
    status: u16,
    etag: Option<String>,
    body: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }
}

impl<'a> Client<'a> {
    async fn of(cluster: &'a Cluster) -> Self {
        let http = reqwest::Client::new();
        let url = format!("{}/openapi.json", cluster.url(0));
        let document = http.get(url).send().await.expect("an answer").text().await.expect("text");
        Self { cluster, http, contract: Contract::new(&document) }
    }

    async fn ask(&self, node: usize, method: Method, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Answer {
        let request = self.http.request(method.clone(), format!("{}{path}", self.cluster.url(node))).body(body);
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let response = request.send().await.expect("an answer");
        let text = |response: &Response, name: &str| {
            response.headers().get(name).map(|value| value.to_str().expect("text").to_owned())
        };
        let (status, etag) = (response.status().as_u16(), text(&response, "etag"));
        let content_type = text(&response, "content-type");
        let body = response.bytes().await.expect("a body").to_vec();
        let held = self.contract.check(method.as_str(), path, status, content_type.as_deref(), &body);
        held.unwrap_or_else(|error| panic!("{error}"));
        Answer { status, etag, body }
    }

    async fn get(&self, node: usize, path: &str) -> Answer {
        self.ask(node, Method::GET, path, &[], Vec::new()).await
    }

    async fn put(&self, path: &str, headers: &[(&str, &str)], body: impl Into<Vec<u8>>) -> Answer {
        self.ask(0, Method::PUT, path, headers, body.into()).await
    }

    async fn delete(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.ask(0, Method::DELETE, path, headers, Vec::new()).await
    }

    async fn batch(&self, writes: Value) -> Vec<Value> {
        let body = json!({"writes": writes}).to_string();
        let answer = self.ask(0, Method::POST, "/batch", &[], body.into()).await;
        assert_eq!(answer.status, 200, "{}", answer.json());
        answer.json()["results"].as_array().expect("a list").clone()
    }

    async fn watch(&self, node: usize, query: &str, last: Option<u64>) -> Events {
        let request = self.http.get(format!("{}/watch{query}", self.cluster.url(node)));
        let request = last.iter().fold(request, |request, last| request.header("Last-Event-ID", last.to_string()));
        let response = request.send().await.expect("an answer");
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Events { pieces: response.bytes_stream().boxed(), text: String::new() }
    }
}

/// A stream of events as a browser reads it.
struct Events {
    pieces: futures::stream::BoxStream<'static, reqwest::Result<bytes::Bytes>>,
    text: String,
}

#[derive(Debug, Clone, PartialEq)]
struct Event {
    id: u64,
    kind: String,
    data: Value,
}

impl Events {
    /// The next event with data; none when the stream has ended.
    async fn next(&mut self) -> Option<Event> {
        loop {
            while let Some((event, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
                let (id, kind, data) = (field("id: "), field("event: "), field("data: "));
                self.text = rest.to_owned();
                if let (Some(kind), Some(data)) = (kind, data) {
                    let id = id.map_or(0, |id| id.parse().expect("a version"));
                    return Some(Event { id, kind, data: serde_json::from_str(&data).expect("JSON") });
                }
            }
            let piece = tokio::time::timeout(Duration::from_secs(10), self.pieces.next()).await.expect("soon")?;
            self.text += std::str::from_utf8(&piece.ok()?).expect("text");
        }
    }

    async fn take(&mut self, count: usize) -> Vec<Event> {
        let mut events = Vec::new();
        while events.len() < count {
            events.push(self.next().await.expect("the stream goes on"));
        }
        events
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_asked_is_answered_as_described() {
    let cluster = Cluster::start(1, Options::default()).await;
    let client = Client::of(&cluster).await;
    assert_eq!(client.put("/kv/k", &[], "v").await.status, 200);
    let mut asked = 0;
    for (path, method, statuses) in client.contract.operations() {
        let (path, method) = (path.replace("{key}", "k"), method.to_uppercase());
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        // Watches would not end; this header they refuse, and others do not know.
        let headers = [("last-event-id", "none")];
        for node in [0, 1] {
            for body in ["", "{}", "?"] {
                let answer = client.ask(node, method.clone(), &path, &headers, body.into()).await;
                assert!(statuses.contains(&answer.status), "{method} {path}");
                asked += 1;
            }
        }
    }
    assert!(asked >= 14 * 6, "{asked} requests");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_are_kept_as_they_are_and_deleted_for_good() {
    let cluster = Cluster::start(2, Options { write_quorum: 2, ..Options::default() }).await;
    let client = Client::of(&cluster).await;
    let put = client.put("/kv/bytes", &[], [0, 0xff, b'\n']).await;
    let version = put.json()["version"].as_u64().expect("a number");
    assert_eq!(put.etag, Some(format!("\"{version}\"")));
    for node in 0..3 {
        let found = client.get(node, &format!("/kv/bytes?minVersion={version}")).await;
        assert_eq!((found.status, &found.body[..], found.etag), (200, &[0, 0xff, b'\n'][..], put.etag.clone()));
    }
    // What one API writes the other reads.
    assert_eq!(client.put("/kv/json", &[("content-type", "application/json")], "{\"a\": 1.0}").await.status, 200);
    assert_eq!(client.get(0, "/get/json").await.json()["value"], json!({"a": 1.0}));
    assert_eq!(cluster.set("lab", json!("text")).await.0, 200);
    assert_eq!(client.get(0, "/kv/lab").await.body, b"\"text\"");
    assert_eq!(client.get(0, "/get/bytes").await.json()["encoding"], "base64");

    let deleted = client.delete("/kv/bytes", &[]).await;
    let version = deleted.json()["version"].as_u64().expect("a number");
    for node in 0..3 {
        assert_eq!(client.get(node, &format!("/kv/bytes?minVersion={version}")).await.status, 404);
        assert_eq!(client.get(node, "/get/bytes").await.status, 404);
    }
    assert_eq!(client.delete("/kv/bytes", &[]).await.status, 200, "there is nothing to take away");
    assert_eq!(client.delete("/kv/bytes", &[("if-match", "*")]).await.status, 412);
    let refused = client.ask(1, Method::DELETE, "/kv/json", &[], Vec::new()).await;
    assert_eq!((refused.status, &refused.json()["leader"]), (403, &json!(cluster.url(0))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counters_under_compare_and_set_lose_no_increment() {
    let cluster = Cluster::start(2, Options { write_quorum: 1, ..Options::default() }).await;
    let client = Client::of(&cluster).await;
    assert_eq!(client.put("/kv/counter", &[("if-none-match", "*")], "0").await.status, 200);
    assert_eq!(client.put("/kv/counter", &[("if-none-match", "*")], "0").await.status, 412);
    let increments = (0..8).map(|_| async {
        let mut lost = 0;
        for _ in 0..10 {
            loop {
                let found = client.get(0, "/kv/counter").await;
                let count: u64 = String::from_utf8(found.body).expect("text").parse().expect("a number");
                let tag = found.etag.expect("a tag");
                let written = client.put("/kv/counter", &[("if-match", &tag)], (count + 1).to_string()).await;
                match written.status {
                    200 => break,
                    412 => lost += 1,
                    other => panic!("{other} {}", written.json()),
                }
                assert!(written.etag.expect("the newer one") != tag);
            }
        }
        lost
    });
    let lost: u32 = futures::future::join_all(increments).await.into_iter().sum();
    assert_eq!(client.get(0, "/kv/counter").await.body, b"80", "after {lost} lost races");
    assert!(lost > 0, "they raced");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_keeps_its_order_and_answers_each_write() {
    let cluster = Cluster::start(1, Options::default()).await;
    let client = Client::of(&cluster).await;
    let results = client
        .batch(json!([
            {"key": "a", "value": 1},
            {"key": "a", "value": 2, "condition": "present", "requestId": "batch-1"},
            {"key": "a", "base64": "AP8=", "condition": "absent"},
            {"key": "b", "delete": true, "condition": {"notVersion": 1}},
            {"key": "a", "value": 2, "condition": "present", "requestId": "batch-1"},
            {"key": "a", "value": 3, "requestId": "batch-1"},
        ]))
        .await;
    let statuses: Vec<u64> = results.iter().filter_map(|result| result["status"].as_u64()).collect();
    assert_eq!(statuses, [200, 200, 412, 200, 200, 422], "{results:?}");
    let versions: Vec<u64> = [0, 1, 3].iter().filter_map(|index| results[*index]["version"].as_u64()).collect();
    assert!(versions.is_sorted(), "{results:?}");
    assert_eq!((&results[4]["version"], &results[4]["repeated"]), (&results[1]["version"], &json!(true)));
    assert_eq!(results[2]["version"], results[1]["version"], "the version that was in the way");
    assert_eq!(client.get(0, "/get/a").await.json()["value"], 2);
    let many: Vec<Value> = (0..1000).map(|number| json!({"key": "n", "value": number})).collect();
    assert_eq!(client.batch(json!(many)).await.len(), 1000);
    assert_eq!(client.get(0, "/get/n").await.json()["value"], 999, "the last one wins");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_shows_what_was_done_in_order_on_every_node() {
    let cluster = Cluster::start(1, Options::default()).await;
    let client = Client::of(&cluster).await;
    let first = client.put("/kv/a", &[], "0").await.json()["version"].as_u64().expect("a number");
    assert_eq!(client.get(1, &format!("/kv/a?minVersion={first}")).await.status, 200);
    let mut live = client.watch(1, "", None).await;
    let mut of_b = client.watch(0, "?prefix=b", None).await;
    client.put("/kv/a", &[("content-type", "application/json")], "[1,\n\r 2]").await;
    assert_eq!(client.put("/kv/a", &[("if-none-match", "*")], "not done").await.status, 412);
    client.put("/kv/b", &[("idempotency-key", "id")], "once").await;
    client.put("/kv/b", &[("idempotency-key", "id")], "once").await;
    client.delete("/kv/a", &[]).await;
    cluster.set("end", json!(null)).await;

    let mut whole = client.watch(0, &format!("?from={first}"), None).await;
    let events = whole.take(5).await;
    let shape = |events: &[Event]| -> Vec<(String, String)> {
        let key = |event: &Event| event.data["key"].as_str().expect("a key").to_owned();
        events.iter().map(|event| (event.kind.clone(), key(event))).collect()
    };
    let expected = [("put", "a"), ("put", "a"), ("put", "b"), ("delete", "a"), ("put", "end")];
    let expected: Vec<(String, String)> =
        expected.iter().map(|(kind, key)| ((*kind).to_owned(), (*key).to_owned())).collect();
    assert_eq!(shape(&events), expected);
    assert_eq!(events[0].data, json!({"key": "a", "version": first, "base64": "MA=="}));
    assert_eq!(events[1].data["value"], json!([1, 2]));
    assert!(events.iter().all(|event| event.data["version"] == event.id), "{events:?}");
    assert!(events.is_sorted_by(|a, b| a.id < b.id), "{events:?}");
    for event in &events {
        let held = client.contract.check_schema("Change", event.data.to_string().as_bytes());
        held.unwrap_or_else(|error| panic!("{error}"));
    }
    // The follower's watch began after the first; the other has one key; one that breaks off goes on.
    assert_eq!(live.take(4).await, events[1..]);
    assert_eq!(of_b.take(1).await, events[2..3]);
    let mut resumed = client.watch(1, &format!("?from={first}"), Some(events[2].id)).await;
    assert_eq!(resumed.take(2).await, events[3..]);
    cluster.set("later", json!(1)).await;
    assert_eq!(shape(&whole.take(1).await), shape(&resumed.take(1).await));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_ends_where_the_log_is_not_held_any_more_and_with_its_node() {
    let mut cluster = Cluster::start(1, Options { write_quorum: 1, log_entries: 16 }).await;
    {
        let client = Client::of(&cluster).await;
        // So much that no socket takes it all while nobody reads.
        let mut slow = client.watch(0, "", None).await;
        for number in 0..120 {
            assert_eq!(client.put(&format!("/kv/k{number}"), &[], vec![b'x'; 200_000]).await.status, 200);
        }
        let gone = client.get(0, "/watch?from=2").await;
        assert_eq!(gone.status, 410);
        assert!(gone.json()["oldest"].as_u64().is_some_and(|oldest| oldest > 50), "{}", gone.json());
        let mut last = None;
        while let Some(event) = slow.next().await {
            last = Some(event);
        }
        let last = last.expect("it began");
        assert_eq!(last.kind, "error", "it was sent away");
        let held = client.contract.check_schema("Error", last.data.to_string().as_bytes());
        held.unwrap_or_else(|error| panic!("{error}"));
    }
    let mut open = Client::of(&cluster).await.watch(0, "", None).await;
    let stopping = std::time::Instant::now();
    cluster.stop(0).await;
    assert!(stopping.elapsed() < Duration::from_secs(5), "a watcher holds no node up: {:?}", stopping.elapsed());
    assert_eq!(open.next().await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listing_is_one_state_in_pages() {
    let cluster = Cluster::start(1, Options::default()).await;
    let client = Client::of(&cluster).await;
    let mut expected = BTreeMap::new();
    for number in 0..25 {
        let key = format!("dir/{number:02}");
        assert_eq!(cluster.set(&key, json!(number)).await.0, 200);
        expected.insert(key, json!(number));
    }
    assert_eq!(cluster.set("other", json!(1)).await.0, 200);
    let (mut found, mut query) = (BTreeMap::new(), "/kv?prefix=dir/&limit=10".to_owned());
    let mut pages = 0;
    loop {
        let page = client.get(0, &query).await;
        assert_eq!(page.status, 200);
        let page = page.json();
        pages += 1;
        for entry in page["keys"].as_array().expect("a list") {
            found.insert(entry["key"].as_str().expect("a text").to_owned(), entry["value"].clone());
        }
        let Some(next) = page["next"].as_str() else { break };
        query = format!("/kv?prefix=dir/&limit=10&after={next}&version={}", page["version"]);
        // None of this is in the state that is listed.
        client.delete("/kv/dir/24", &[]).await;
        cluster.set("dir/99", json!("new")).await;
    }
    assert_eq!((pages, found), (3, expected));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_and_deletes_outlive_a_restart() {
    let (mut cluster, _directory) = persistent::start(1, 1).await;
    {
        let client = Client::of(&cluster).await;
        client.put("/kv/raw", &[], [0, 1, 2]).await;
        client.put("/kv/gone", &[], "x").await;
        client.delete("/kv/gone", &[]).await;
    }
    cluster.kill_all().await;
    cluster.restart_all().await;
    let client = Client::of(&cluster).await;
    assert_eq!(client.get(0, "/kv/raw").await.body, [0, 1, 2]);
    assert_eq!(client.get(0, "/kv/gone").await.status, 404);
    eventually("the follower has the same", async || client.get(1, "/kv/raw").await.status == 200).await;
}
