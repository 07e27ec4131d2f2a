use std::sync::atomic::AtomicUsize;

use axum::{Json, Router, extract::State, http::StatusCode as Code, routing::post};
use serde_json::{Value, json};

use super::*;
use crate::history::{check, check_with_content};

/// Value and version by key, and the last version.
type Content = (BTreeMap<String, (Value, u64)>, u64);

/// The version that a request id got.
type Ids = BTreeMap<String, u64>;

/// A register per key, behind one lock: correct, so histories of it must pass.
#[derive(Default)]
struct Fake {
    data: std::sync::Mutex<Content>,
    ids: std::sync::Mutex<Ids>,
    /// Answer so many writes with 500 after doing them.
    unlucky: AtomicUsize,
}

async fn serve(router: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}")
}

async fn set(State(fake): State<Arc<Fake>>, Json(body): Json<Value>) -> (Code, Json<Value>) {
    let mut data = fake.data.lock().expect("not poisoned");
    let mut ids = fake.ids.lock().expect("not poisoned");
    let known = body["requestId"].as_str().and_then(|id| ids.get(id).copied());
    let version = known.unwrap_or(data.1 + 1);
    if known.is_none() {
        data.1 = version;
        data.0.insert(body["key"].as_str().expect("a text").to_owned(), (body["value"].clone(), version));
        ids.extend(body["requestId"].as_str().map(|id| (id.to_owned(), version)));
    }
    let unlucky = fake.unlucky.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
    match unlucky {
        Ok(_) => (Code::INTERNAL_SERVER_ERROR, Json(json!({"error": "Quorum not reached", "replicas": 1}))),
        Err(_) => (Code::OK, Json(json!({"success": true, "replicas": 3, "version": version}))),
    }
}

async fn get(
    State(fake): State<Arc<Fake>>,
    axum::extract::Path(key): axum::extract::Path<String>,
) -> (Code, Json<Value>) {
    match fake.data.lock().expect("not poisoned").0.get(&key) {
        Some((value, version)) => (Code::OK, Json(json!({"key": key, "value": value, "version": version}))),
        None => (Code::NOT_FOUND, Json(json!({"error": "Key not found"}))),
    }
}

async fn leader(fake: &Arc<Fake>) -> String {
    let routes = Router::new().route("/set", post(set)).route("/get/{key}", axum::routing::get(get));
    serve(routes.with_state(Arc::clone(fake))).await
}

async fn follower(leader: &str) -> String {
    let answer = json!({"error": "Only leader accepts writes", "leader": leader});
    serve(Router::new().route("/set", post(move || async move { (Code::FORBIDDEN, Json(answer)) }))).await
}

#[tokio::test]
async fn what_clients_record_is_what_a_register_did() {
    let fake = Arc::new(Fake { unlucky: AtomicUsize::new(5), ..Fake::default() });
    let url = leader(&fake).await;
    let load = Load::new(Target::new(&url, [&url])).clients(8).keys("k", 3).reads_percent(40).value_bytes(100);
    let report = load.limit(Limit::Operations(600)).run().await.expect("it runs");

    assert_eq!((report.operations.len(), report.failed().count()), (600, 5));
    assert_eq!(report.acked() + report.reads() + 5, 600);
    assert_eq!(report.latencies().count(), u64::try_from(report.acked()).expect("few"));
    check(&report.operations).expect("a lock is linearizable");

    let data = fake.data.lock().expect("not poisoned").0.clone();
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let mut content: BTreeMap<_, _> = data
        .iter()
        .map(|(key, (value, version))| {
            (key.clone(), crate::history::FinalValue { value: text(value), version: Some(*version) })
        })
        .collect();
    assert!(content.values().all(|found| found.value.len() == 100), "{content:?}");
    check_with_content(&report.operations, &content).expect("nothing is lost");
    content.remove("k-0");
    check_with_content(&report.operations, &content).expect_err("what was removed is missed");
}

#[tokio::test]
async fn a_follower_sends_patient_clients_to_the_leader() {
    let fake = Arc::new(Fake::default());
    let leader = leader(&fake).await;
    let follower = follower(&leader).await;
    let target = Target::new(&follower, [&follower, &leader]);
    let patient = Load::new(target.clone()).policy(Policy::Follow { patience: Duration::from_secs(5) });
    let report = patient.limit(Limit::Operations(20)).run().await.expect("it runs");
    assert_eq!((report.acked(), report.failed().count(), target.leader()), (20, 0, leader));
}

#[tokio::test]
async fn strict_clients_count_what_is_refused() {
    let follower = follower("http://127.0.0.1:1").await;
    let report =
        Load::new(Target::new(&follower, [&follower])).limit(Limit::Operations(3)).run().await.expect("it runs");
    assert_eq!((report.acked(), report.failed().count()), (0, 3));
    let refused =
        |operation: &Operation| matches!(&operation.action, Action::Write { outcome: Outcome::Refused { .. }, .. });
    assert!(report.failed().all(refused), "{:?}", report.operations);
    report.expect_no_failure().expect_err("three failures");
}

#[tokio::test]
async fn under_request_ids_unknown_outcomes_are_repeated_and_are_one_operation() {
    let fake = Arc::new(Fake { unlucky: AtomicUsize::new(5), ..Fake::default() });
    let url = leader(&fake).await;
    let patient = Load::new(Target::new(&url, [&url])).policy(Policy::Follow { patience: Duration::from_secs(5) });
    let report = patient.request_ids().limit(Limit::Operations(20)).run().await.expect("it runs");
    assert_eq!((report.acked(), report.failed().count()), (20, 0));
    let data = fake.data.lock().expect("not poisoned").clone();
    assert_eq!(data.1, 20, "what was repeated was done once");
    check(&report.operations).expect("one operation each");
}

#[tokio::test]
async fn a_node_that_hangs_leaves_the_outcome_unknown() {
    let url = serve(Router::new().route("/set", post(std::future::pending::<()>))).await;
    let load = Load::new(Target::new(&url, [&url])).timeout(Duration::from_millis(50));
    let report = load.limit(Limit::Operations(1)).run().await.expect("it runs");
    let unknown =
        |operation: &Operation| matches!(&operation.action, Action::Write { outcome: Outcome::Unknown { .. }, .. });
    assert!(report.operations.iter().all(unknown), "{:?}", report.operations);
}

#[tokio::test]
async fn a_port_where_nobody_listens_refuses_for_sure() {
    let load = Load::new(Target::new("http://127.0.0.1:1", ["http://127.0.0.1:1"])).limit(Limit::Operations(1));
    let report = load.run().await.expect("it runs");
    let refused =
        |operation: &Operation| matches!(&operation.action, Action::Write { outcome: Outcome::Refused { .. }, .. });
    assert!(report.operations.iter().all(refused), "{:?}", report.operations);
}

#[tokio::test]
async fn clients_that_are_told_to_stop_do() {
    let url = leader(&Arc::new(Fake::default())).await;
    let running = Load::new(Target::new(&url, [&url])).clients(4).start().expect("it starts");
    running.acked_more(50, Duration::from_secs(10)).await.expect("they write");
    let report = running.stop().await.expect("they end");
    report.expect_no_failure().expect("all acknowledged");
    assert!(report.acked() >= 50);
}
