//! Request ids: one id, one outcome, whatever becomes of nodes in between.

use std::{collections::BTreeSet, time::Duration};

use quorumkv_api::{Delay, SettingsPatch};
use serde_json::{Value, json};

use crate::{
    persistent,
    support::{Cluster, Options, eventually},
};

async fn set(cluster: &Cluster, key: &str, value: Value, id: &str) -> (u16, Value) {
    cluster.post(json!({"key": key, "value": value, "requestId": id})).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_of_one_id_at_the_same_time_are_one_write() {
    let cluster = Cluster::start(2, Options { write_quorum: 2, ..Options::default() }).await;
    // With a delay, answers come long after the entries are applied.
    for delay in [Delay::ZERO, Delay { min: Duration::from_millis(20), max: Duration::from_millis(80) }] {
        cluster.settings(SettingsPatch { delay: Some(delay), ..SettingsPatch::default() }).await.expect("in force");
        let id = format!("id at {delay}");
        let posts = (0..30).map(|_| tokio::spawn(cluster.post(json!({"key": "k", "value": 1, "requestId": id}))));
        let answers = futures::future::join_all(posts).await.into_iter().map(|answer| answer.expect("no panic"));
        let answers: Vec<(u16, Value)> = answers.collect();
        assert!(answers.iter().all(|(status, _)| *status == 200), "{answers:?}");
        let versions: BTreeSet<u64> = answers.iter().filter_map(|(_, body)| body["version"].as_u64()).collect();
        assert_eq!(versions.len(), 1, "{answers:?}");
        let first = answers.iter().filter(|(_, body)| body["repeated"].is_null()).count();
        assert_eq!(first, 1, "{answers:?}");
        let (_, found) = cluster.get(0, "/get/k").await;
        assert_eq!(found["version"].as_u64(), versions.first().copied());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_used_for_another_write_is_refused_and_changes_nothing() {
    let cluster = Cluster::start(1, Options::default()).await;
    assert_eq!(set(&cluster, "k", json!("first"), "id").await.0, 200);
    for (key, value) in [("k", json!("other")), ("other", json!("first"))] {
        let (status, body) = set(&cluster, key, value, "id").await;
        assert_eq!(status, 422, "{body}");
        assert!(body["error"].as_str().is_some_and(|error| error.contains("another write")), "{body}");
    }
    let (_, all) = cluster.get(0, "/get_all").await;
    assert_eq!(all["data"], json!({"k": "first"}));
    eventually("the follower has the same", async || cluster.get(1, "/get_all").await.1 == all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_travel_with_snapshots_from_leader_to_follower_and_back() {
    let mut cluster = Cluster::start(1, Options { write_quorum: 1, log_entries: 16 }).await;
    let (_, first) = set(&cluster, "k", json!("first"), "id").await;
    assert_eq!(cluster.set("k", json!("second")).await.0, 200);
    for number in 0..50 {
        assert_eq!(cluster.set(&format!("key-{number}"), json!(number)).await.0, 200);
    }
    // The follower comes back empty, and behind what the leader keeps of its log ...
    cluster.kill(1);
    cluster.restart(1).await;
    let metrics = cluster.metrics(1).await;
    assert!(metrics.contains("quorumkv_node_snapshots_installed_total 1"), "{metrics}");
    // ... then the leader does, and takes over the follower's copy.
    eventually("the new copy counts", async || cluster.set("counts", json!(1)).await.0 == 200).await;
    cluster.kill(0);
    cluster.restart(0).await;
    let (status, again) = set(&cluster, "k", json!("first"), "id").await;
    assert_eq!((status, &again["version"], &again["repeated"]), (200, &first["version"], &json!(true)), "{again}");
    assert_eq!(cluster.get(0, "/get/k").await.1["value"], json!("second"));
    assert_eq!(set(&cluster, "k", json!("third"), "id").await.0, 422);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_outlive_a_restart_of_all_nodes_where_data_does() {
    let (mut cluster, _directory) = persistent::start(2, 1).await;
    let (_, first) = set(&cluster, "k", json!("first"), "id").await;
    assert_eq!(cluster.set("k", json!("second")).await.0, 200);
    cluster.kill_all().await;
    cluster.restart_all().await;
    let (status, again) = set(&cluster, "k", json!("first"), "id").await;
    assert_eq!((status, &again["version"], &again["repeated"]), (200, &first["version"], &json!(true)), "{again}");
    assert_eq!(cluster.get(0, "/get/k").await.1["value"], json!("second"));
}
