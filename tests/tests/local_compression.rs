//! Compression on the replication stream, over real processes: who gets what, and that it makes no other difference.

use std::{collections::BTreeMap, time::Duration};

use anyhow::ensure;
use quorumkv_tests::{
    processes::{Lab, LabOptions},
    wait,
};
use reqwest::StatusCode;
use serde_json::json;

const PATIENCE: Duration = Duration::from_secs(20);
const ABOVE: &str = "4096";
/// Reads what every version reads, and no more.
const OLDER: usize = 3;

/// A leader that compresses, two followers that read it, and one that does not announce it.
async fn lab() -> Lab {
    let compression = |node: usize| if node == OLDER { "off" } else { ABOVE };
    let variables = (0..=3).map(|node| (node, "COMPRESS_ABOVE", compression(node).to_owned())).collect();
    let options =
        LabOptions { followers: 3, write_quorum: 3, log_entries: Some(16), variables, ..LabOptions::default() };
    Lab::start(options).await.expect("the lab starts")
}

/// Large values that repeat themselves, large ones that do not, and small ones.
async fn write(lab: &Lab, round: u64) {
    // Numbers that no one has seen before, in an alphabet without repetitions of four.
    let noise: String =
        (0..6000_u64).map(|n| format!("{:x}", (n + round * 6000).wrapping_mul(0x9e37_79b9_7f4a_7c15))).collect();
    let records: Vec<_> =
        (0..500).map(|n| json!({"id": n, "round": round, "name": "somebody", "active": true})).collect();
    for (key, value) in [("records", json!(records)), ("noise", json!(noise)), ("small", json!(round))] {
        let body = json!({"key": format!("{key}-{round}"), "value": value});
        let answer = lab.client().set_json(&lab.url(0), &body).await.expect("an answer");
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    }
}

/// Bytes of frames: on the wire, and before compression.
async fn bytes(lab: &Lab, node: usize, direction: &str) -> (f64, f64) {
    let count = async |name: &str| lab.counter(node, name, direction).await.expect("metrics");
    (count("quorumkv_node_stream_bytes_total").await, count("quorumkv_node_stream_uncompressed_bytes_total").await)
}

#[tokio::test]
async fn followers_that_announce_it_get_compressed_frames_and_all_hold_the_same() {
    let lab = lab().await;
    for round in 0..10 {
        write(&lab, round).await;
    }
    let content = lab.equal_content(lab.followers()).await.expect("replicas are equal");
    assert_eq!(content.len(), 30);
    let mut received = BTreeMap::new();
    for follower in lab.followers() {
        received.insert(follower, bytes(&lab, follower, "received").await);
    }
    let (plain, uncompressed) = received[&OLDER];
    assert!((plain - uncompressed).abs() < 0.5 && plain > 1e6, "{received:?}");
    for follower in [1, 2] {
        let (wire, uncompressed) = received[&follower];
        assert!(wire < uncompressed * 0.9 && (uncompressed - plain).abs() < plain / 100.0, "{received:?}");
    }
    let (sent, uncompressed) = bytes(&lab, 0, "sent").await;
    assert!(sent < uncompressed && sent > plain, "{sent} of {uncompressed} were sent, {received:?}");
}

#[tokio::test]
async fn a_follower_that_comes_back_gets_a_compressed_snapshot() {
    let mut lab = lab().await;
    for round in 0..10 {
        write(&lab, round).await;
    }
    for follower in [1, OLDER] {
        lab.node(follower).kill().expect("it runs");
        lab.node(follower).start().expect("it starts");
        let back = wait::until("the follower is back", PATIENCE, || async {
            let snapshots = lab.counter(follower, "quorumkv_node_snapshots_installed_total", "").await?;
            ensure!(snapshots > 0.0, "no snapshot yet");
            Ok(())
        });
        back.await.expect("its log is gone, and the leader's is short");
        lab.ready(follower).await.expect("it catches up");
    }
    lab.equal_content(lab.followers()).await.expect("replicas are equal");
    let (wire, uncompressed) = bytes(&lab, 1, "received").await;
    assert!(wire < uncompressed * 0.9 && uncompressed > 1e6, "{wire} of {uncompressed}");
    let (wire, uncompressed) = bytes(&lab, OLDER, "received").await;
    assert!((wire - uncompressed).abs() < 0.5 && wire > 1e6, "{wire} of {uncompressed}");
}
