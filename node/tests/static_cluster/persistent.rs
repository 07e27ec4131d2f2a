//! Stores that keep their data on disk.

use std::{collections::BTreeMap, sync::Arc};

use quorumkv_api::Epoch;
use quorumkv_node::config::StorageType;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::Notify;

use super::support::{Cluster, Options, eventually};

/// A store with a directory for each node.
pub(crate) async fn start(followers: usize, write_quorum: u8) -> (Cluster, TempDir) {
    let directory = tempfile::tempdir().expect("a directory");
    let cluster = Cluster::start_apart(followers, Options { write_quorum, ..Options::default() }, |node, config| {
        config.storage = StorageType::Persistent;
        config.data_dir = directory.path().join(format!("n{node}"));
    })
    .await;
    for node in 0..=followers {
        eventually("the node is ready", async || cluster.get(node, "/readyz").await.0 == 200).await;
    }
    (cluster, directory)
}

async fn all(cluster: &Cluster, node: usize) -> BTreeMap<String, Value> {
    let (status, all) = cluster.get(node, "/get_all?consistency=stale").await;
    assert_eq!(status, 200, "{all}");
    serde_json::from_value(all["data"].clone()).expect("an object")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_was_killed_comes_back_with_the_copy_it_had() {
    let (mut cluster, _directory) = start(2, 2).await;
    for n in 0..50 {
        assert_eq!(cluster.set(&format!("key-{n}"), json!(n)).await.0, 200);
    }
    let before = cluster.state(1).await;
    cluster.kill(1);
    assert_eq!(cluster.set("late", json!(1)).await.0, 500, "one of two is no quorum of two");
    cluster.restart(1).await;
    let after = cluster.state(1).await;
    assert_eq!(after.storage_id, before.storage_id, "it is the same copy");
    assert_ne!(after.process_id, before.process_id);
    assert!(after.last >= before.last && after.promised >= before.promised);
    eventually("writes succeed again", async || cluster.set("again", json!(2)).await.0 == 200).await;
    eventually("both have the same", async || all(&cluster, 0).await == all(&cluster, 1).await).await;
    assert_eq!(all(&cluster, 1).await.len(), 52);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_all_nodes_are_killed_at_once_again_and_again() {
    let (mut cluster, _directory) = start(3, 2).await;
    let copies = [0, 1, 2, 3].map(async |node| cluster.state(node).await.storage_id);
    let copies = futures::future::join_all(copies).await;
    let mut acknowledged = BTreeMap::new();
    for round in 0..3_u64 {
        // Killed while writes are under way, and some are answered.
        let answered = Arc::new(Notify::new());
        let writes: Vec<_> = (0..120_u64)
            .map(|n| {
                let (key, value) = (format!("key-{round}-{n}"), json!({"round": round, "n": n}));
                let set = cluster.setter(key.clone(), value.clone());
                let answered = answered.clone();
                tokio::spawn(async move {
                    let (status, _) = set.await;
                    answered.notify_one();
                    (status, key, value)
                })
            })
            .collect();
        answered.notified().await;
        cluster.kill_all().await;
        for write in writes {
            let (status, key, value) = write.await.expect("no panic");
            if status == 200 {
                acknowledged.insert(key, value);
            }
        }
        cluster.restart_all().await;
        let found = all(&cluster, 0).await;
        for (key, value) in &acknowledged {
            assert_eq!(found.get(key), Some(value), "{key} was acknowledged before round {round} ended");
        }
        let (key, value) = (format!("between-{round}"), json!(round));
        assert_eq!(cluster.set(&key, value.clone()).await.0, 200);
        acknowledged.insert(key, value);
    }
    assert!(acknowledged.len() > 3, "some writes were acknowledged before each kill");
    let again = [0, 1, 2, 3].map(async |node| cluster.state(node).await.storage_id);
    assert_eq!(futures::future::join_all(again).await, copies, "every copy is the one it was");
    assert!(cluster.state(0).await.epoch >= Epoch(4), "every start leads with a higher epoch");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_show_what_the_disk_does() {
    let (cluster, _directory) = start(1, 1).await;
    assert_eq!(cluster.set("key", json!("value")).await.0, 200);
    let metrics = cluster.metrics(0).await;
    let syncs = metrics.lines().find(|line| line.starts_with("quorumkv_node_wal_sync_seconds_count"));
    let syncs: u64 = syncs.and_then(|line| line.rsplit(' ').next()).expect("a line").parse().expect("a number");
    assert!(syncs >= 2, "{metrics}");
    let wal = metrics.lines().find(|line| line.starts_with("quorumkv_node_wal_bytes "));
    assert!(wal.is_some_and(|line| !line.ends_with(" 0")), "{metrics}");
    assert!(metrics.contains("quorumkv_node_storage_full 0"), "{metrics}");
}
