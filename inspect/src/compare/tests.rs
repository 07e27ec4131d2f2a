use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Router,
    extract::{Path, Query, State},
    http::StatusCode as Code,
    response::IntoResponse,
    routing::get,
};
use serde_json::{Value, json};

use super::*;

/// A node that answers what the test says: a listing at one version, and keys as they are read later.
#[derive(Clone, Default)]
struct Fake {
    version: u64,
    listed: BTreeMap<&'static str, Value>,
    read: BTreeMap<&'static str, (u64, Value)>,
}

impl Fake {
    /// Lists and reads the same. Each entry is a key, its version and its value.
    fn holding(version: u64, entries: &[(&'static str, u64, i32)]) -> Self {
        let listed = entries.iter().map(|(key, _, value)| (*key, json!(value))).collect();
        let read = entries.iter().map(|(key, version, value)| (*key, (*version, json!(value)))).collect();
        Self { version, listed, read }
    }

    /// Reads these entries later, whatever it listed.
    fn then(mut self, entries: &[(&'static str, u64, i32)]) -> Self {
        self.read = Self::holding(0, entries).read;
        self
    }

    async fn serve(self) -> String {
        let routes = Router::new()
            .route("/status", get(status))
            .route("/get_all", get(list))
            .route("/get/{*key}", get(read))
            .with_state(Arc::new(self));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        tokio::spawn(async move { axum::serve(listener, routes).await });
        format!("http://{address}")
    }
}

type Arguments = Query<BTreeMap<String, String>>;

async fn status(State(fake): State<Arc<Fake>>) -> impl IntoResponse {
    axum::Json(json!({
        "node": "n", "role": "leader", "epoch": 1, "leader": null, "ready": true, "writeQuorum": 1,
        "delay": {"min": "0s", "max": "0s"}, "writeTimeout": "5s", "keys": 0,
        "lastSeq": fake.version, "commitSeq": fake.version, "followers": [],
        "replicationLatency": {"count": 0, "mean": 0.0, "median": 0.0, "p95": 0.0, "p99": 0.0},
    }))
}

async fn list(State(fake): State<Arc<Fake>>, Query(arguments): Arguments) -> impl IntoResponse {
    assert_eq!(arguments["consistency"], "stale");
    let wanted: u64 = arguments["minVersion"].parse().expect("a number");
    if fake.version < wanted {
        return (Code::SERVICE_UNAVAILABLE, axum::Json(json!({"error": "not here yet"})));
    }
    (Code::OK, axum::Json(json!({"data": fake.listed, "version": fake.version})))
}

async fn read(State(fake): State<Arc<Fake>>, Path(key): Path<String>) -> impl IntoResponse {
    match fake.read.get(key.as_str()) {
        Some((version, value)) => (Code::OK, axum::Json(json!({"key": key, "value": value, "version": version}))),
        None => (Code::NOT_FOUND, axum::Json(json!({"error": "Key not found"}))),
    }
}

async fn compared(leader: Fake, followers: impl IntoIterator<Item = Fake>) -> anyhow::Result<Comparison> {
    let mut replicas = vec![Replica { name: "leader".to_owned(), url: leader.serve().await }];
    for (number, follower) in (1..).zip(followers) {
        replicas.push(Replica { name: format!("follower{number}"), url: follower.serve().await });
    }
    compare("a store", &replicas, Duration::from_millis(400), 2).await
}

const ENTRIES: [(&str, u64, i32); 3] = [("a", 1, 10), ("b/c", 4, 20), ("d", 3, 30)];

#[tokio::test]
async fn equal_replicas_pass() {
    let whole = Fake::holding(4, &ENTRIES);
    let found = compared(whole.clone(), [whole.clone(), whole]).await.expect("comparable");
    assert!(found.passed, "{found}");
    assert_eq!(found.summary(), "3 replicas equal, 3 keys, version 4");
    assert_eq!(found.replicas.iter().map(|replica| (replica.keys, replica.version)).collect::<Vec<_>>(), [(3, 4); 3]);
}

#[tokio::test]
async fn planted_differences_are_named_by_kind_with_their_number() {
    let other = Fake::holding(4, &[("b/c", 4, 21), ("e", 1, 1), ("f", 2, 1), ("g", 2, 1)]);
    let found = compared(Fake::holding(4, &ENTRIES), [Fake::holding(4, &ENTRIES), other]).await.expect("comparable");
    assert!(!found.passed, "{found}");
    let [leader, equal, different] = found.replicas.as_slice() else { panic!("{found:?}") };
    assert!(leader.is_equal() && equal.is_equal(), "{found}");
    let keys = |count, first: &[&str]| Keys { count, first: first.iter().map(|key| (*key).to_owned()).collect() };
    assert_eq!(different.missing, keys(2, &["a", "d"]));
    assert_eq!(different.extra, keys(3, &["e", "f"]), "two are named, all are counted");
    assert_eq!(different.different, keys(1, &["b/c"]));
    assert!(found.to_string().contains("follower2 extra: e, f and 1 more"), "{found}");
}

#[tokio::test]
async fn what_was_written_between_two_listings_is_no_difference() {
    // The follower was listed two writes later; read again, both hold them.
    let later = [("a", 1, 10), ("b/c", 6, 99), ("d", 3, 30), ("new", 5, 1)];
    let leader = Fake::holding(4, &ENTRIES).then(&later);
    let found = compared(leader, [Fake::holding(6, &later)]).await.expect("comparable");
    assert!(found.passed, "{found}");
    assert_eq!(found.replicas[1].settled, 2);
}

#[tokio::test]
async fn a_write_that_one_side_lost_is_found_among_listings_of_different_versions() {
    let later = [("a", 1, 10), ("b/c", 6, 99), ("d", 3, 30), ("new", 5, 1)];
    let leader = Fake::holding(4, &ENTRIES).then(&later);
    // At version 6 without the writes 5 and 6, and with a key that nobody else has.
    let lost = Fake::holding(6, &[("a", 1, 11), ("b/c", 4, 20), ("d", 3, 30), ("x", 2, 2)]);
    let found = compared(leader.clone(), [lost]).await.expect("comparable");
    let replica = &found.replicas[1];
    assert_eq!(replica.different.first, ["a"], "{found}");
    assert_eq!(replica.extra.first, ["x"], "{found}");
    assert!(!found.passed, "{found}");

    let old = Fake::holding(6, &later).then(&ENTRIES);
    let found = compared(leader, [old]).await.expect("comparable");
    let replica = &found.replicas[1];
    assert_eq!((replica.different.first[0].as_str(), replica.missing.first[0].as_str()), ("b/c", "new"), "{found}");
}

#[tokio::test]
async fn a_replica_that_stays_behind_is_told() {
    let error = compared(Fake::holding(9, &ENTRIES), [Fake::holding(8, &ENTRIES)]).await.expect_err("behind");
    let text = format!("{error:#}");
    assert!(text.contains("follower1 at version 9") && text.contains("not here yet"), "{text}");
}
