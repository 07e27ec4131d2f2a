//! Whole stores in one process: a static leader and its followers over real sockets on loopback.
//!
//! Each node has a thread and a runtime of its own, so that killing one is abrupt: its sockets close, its
//! memory is gone, and nothing of it is asked.

#[path = "support/contract.rs"]
mod contract;
#[path = "static_cluster/native.rs"]
mod native;
#[path = "static_cluster/persistent.rs"]
mod persistent;
#[path = "static_cluster/retries.rs"]
mod retries;
mod support;

use std::{collections::BTreeMap, time::Duration};

use quorumkv_api::{Delay, Epoch, SettingsPatch, WriteQuorum, lab::GetAllReply, peer::Refusal};
use serde_json::{Value, json};
use support::{Cluster, Options, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn six_nodes_take_writes_on_the_leader_and_serve_reads_on_every_node() {
    let cluster = Cluster::start(5, Options { write_quorum: 3, ..Options::default() }).await;
    for n in 0..50 {
        let (status, reply) = cluster.set(&format!("key-{n}"), json!({"n": n})).await;
        assert_eq!(status, 200, "{reply}");
        assert!(reply["replicas"].as_u64().expect("a number") >= 3, "{reply}");
    }
    let version = cluster.set("last", json!("of all")).await.1["version"].as_u64().expect("a number");
    for node in 0..6 {
        let (status, reply) = cluster.get(node, &format!("/get/last?minVersion={version}")).await;
        assert_eq!((status, &reply["value"]), (200, &json!("of all")), "node {node}");
        let (_, all) = cluster.get(node, "/get_all").await;
        let all: GetAllReply = serde_json::from_value(all).expect("the wire type");
        assert_eq!(all.data.len(), 51, "node {node}");
    }
    let (status, refused) = cluster.set_on(3, "key", json!(1)).await;
    assert_eq!((status, &refused["leader"]), (403, &json!(cluster.url(0))));
    let (_, status) = cluster.get(0, "/status").await;
    assert_eq!(status["followers"].as_array().expect("a list").len(), 5);
    assert_eq!((&status["role"], &status["keys"]), (&json!("leader"), &json!(51)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_lost_everything_catches_up_and_counts_again() {
    let mut cluster = Cluster::start(2, Options { write_quorum: 2, ..Options::default() }).await;
    for n in 0..20 {
        assert_eq!(cluster.set(&format!("key-{n}"), json!(n)).await.0, 200);
    }
    cluster.kill(1);
    let (status, reply) = cluster.set("late", json!(1)).await;
    assert_eq!((status, &reply["error"]), (500, &json!("Quorum not reached")), "one of two is no quorum of two");
    assert_eq!(reply["replicas"], json!(1));
    cluster.restart(1).await;
    eventually("the new copy counts and writes succeed", async || cluster.set("again", json!(2)).await.0 == 200).await;
    eventually("both have the same", async || cluster.get(0, "/get_all").await == cluster.get(1, "/get_all").await)
        .await;
    let (_, late) = cluster.get(1, "/get/late").await;
    assert_eq!(late["value"], json!(1), "a write that timed out may still commit, and here it must have");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_behind_the_retained_log_gets_a_snapshot() {
    let mut cluster = Cluster::start(2, Options { write_quorum: 1, log_entries: 16 }).await;
    cluster.kill(2);
    for n in 0..200 {
        assert_eq!(cluster.set(&format!("key-{}", n % 120), json!({"n": n, "pad": "x".repeat(2000)})).await.0, 200);
    }
    cluster.restart(2).await;
    eventually("the backlog arrives", async || cluster.get(2, "/get_all").await == cluster.get(0, "/get_all").await)
        .await;
    let metrics = cluster.metrics(2).await;
    assert!(metrics.contains("quorumkv_node_snapshots_installed_total 1"), "{metrics}");
    assert_eq!(cluster.get(2, "/readyz").await.0, 200);
    assert_eq!(cluster.set("after", json!(1)).await.0, 200);
    eventually("the tail follows the snapshot", async || cluster.get(2, "/get/after").await.0 == 200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_change_while_the_store_runs() {
    let mut cluster = Cluster::start(3, Options { write_quorum: 1, ..Options::default() }).await;
    let delay = Delay { min: Duration::from_millis(80), max: Duration::from_millis(90) };
    let quorum = |quorum| SettingsPatch { write_quorum: Some(WriteQuorum(quorum)), ..SettingsPatch::default() };
    let slow = SettingsPatch { delay: Some(delay), ..quorum(3) };
    let reply = cluster.settings(slow).await.expect("in force");
    assert_eq!((reply.settings.write_quorum, reply.settings.delay), (WriteQuorum(3), delay));
    let begun = std::time::Instant::now();
    let (status, written) = cluster.set("slow", json!(1)).await;
    assert_eq!((status, &written["replicas"]), (200, &json!(3)));
    assert!(begun.elapsed() >= delay.min, "{:?}", begun.elapsed());
    let (_, status) = cluster.get(0, "/status").await;
    assert_eq!((&status["writeQuorum"], &status["replicationLatency"]["count"]), (&json!(3), &json!(1)));

    let refused = cluster.settings(quorum(4)).await.expect_err("there are three followers");
    assert_eq!(refused.reason, Refusal::Invalid);
    assert!(refused.error.contains("1..3"), "{refused}");
    cluster.kill(2);
    assert_eq!(cluster.set("too few", json!(1)).await.0, 500);
    let refused = cluster.settings(quorum(2)).await.expect_err("a lowering needs the old quorum");
    assert_eq!(refused.reason, Refusal::QuorumNotReached);
    cluster.restart(2).await;
    eventually("the lowering that was under way commits", async || {
        cluster.get(0, "/status").await.1["writeQuorum"] == json!(2)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_lost_everything_takes_over_the_best_copy() {
    let mut cluster = Cluster::start(2, Options { write_quorum: 2, ..Options::default() }).await;
    let mut written = BTreeMap::new();
    for n in 0..300 {
        let (key, value) = (format!("key-{n}"), json!({"n": n}));
        assert_eq!(cluster.set(&key, value.clone()).await.0, 200);
        written.insert(key, value);
    }
    cluster.kill(0);
    let (status, refused) = cluster.set_on(1, "key", json!(1)).await;
    assert_eq!(status, 403, "a follower does not take over: {refused}");
    cluster.restart(0).await;
    let (status, reply) = cluster.set("after", json!("restart")).await;
    assert_eq!(status, 200, "{reply}");
    written.insert("after".to_owned(), json!("restart"));
    let (_, all) = cluster.get(0, "/get_all").await;
    let found: BTreeMap<String, Value> = serde_json::from_value(all["data"].clone()).expect("an object");
    assert_eq!(found, written);
    assert_eq!(cluster.state(0).await.epoch, Epoch(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_under_way_are_answered_when_the_leader_is_told_to_stop() {
    let mut cluster = Cluster::start(2, Options { write_quorum: 2, ..Options::default() }).await;
    let delay = Delay { min: Duration::from_millis(300), max: Duration::from_millis(400) };
    cluster.settings(SettingsPatch { delay: Some(delay), ..SettingsPatch::default() }).await.expect("in force");
    let writes: Vec<_> = (0..20)
        .map(|n| {
            let set = cluster.setter(format!("key-{n}"), json!(n));
            tokio::spawn(set)
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(150)).await;
    cluster.stop(0).await;
    for write in writes {
        assert_eq!(write.await.expect("no panic").0, 200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_with_another_token_is_waited_for() {
    let cluster = Cluster::start_apart(2, Options::default(), |node, config| {
        if node == 2 {
            config.peer_token = Some("another".to_owned());
        }
    })
    .await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    let (status, reply) = cluster.set("key", json!(1)).await;
    assert_eq!(status, 403, "nobody leads while one follower refuses: {reply}");
    assert_eq!(reply["leader"], Value::Null);
}
