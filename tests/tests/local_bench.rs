//! The bench, run as a person runs it, with tiny numbers: whether it works, never how fast anything is.

use std::{collections::BTreeSet, fs, time::Duration};

use quorumkv_tests::processes::programs;
use resvg::tiny_skia::Pixmap;
use serde_json::Value;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(240);

#[tokio::test]
async fn a_quick_bench_measures_every_system_that_is_here_and_writes_its_report() {
    let folder = TempDir::new().expect("a folder");
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_bench"));
    command.args(["--quick", "--output", "json", "--results"]).arg(folder.path()).kill_on_drop(true);
    command.env("QUORUMKV_NODE_BIN", programs::node().expect("it is built"));
    let output = tokio::time::timeout(PATIENCE, command.output()).await.expect("it ends").expect("it starts");
    let progress = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{progress}");
    let found: Value = serde_json::from_slice(&output.stdout).expect("nothing but JSON");

    let rows = found["rows"].as_array().expect("a list");
    let of = |name: &str| rows.iter().filter(|row| row["asked"]["system"] == name).collect::<Vec<_>>();
    // Two quorums, a read, by one connection and by more.
    let compared = of("quorumkv").into_iter().filter(|row| row["asked"]["series"] == "compare");
    assert_eq!(compared.filter(|row| row["asked"]["storage"] == "memory").count(), 6, "{progress}");
    let notes = found["notes"].to_string();
    for (name, title) in
        [("redis", "Redis"), ("etcd-gateway", "etcd, JSON"), ("etcd-grpc", "etcd, gRPC"), ("axum", "bare axum")]
    {
        let missing = notes.contains(&format!("{title}: not on this machine"));
        assert_eq!(of(name).is_empty(), missing, "{name} is measured or missing: {notes}");
    }
    for row in rows {
        assert_eq!(row["failed"], 0, "{row}");
        assert!(row["operationsPerSecond"]["median"].as_f64() > Some(0.0), "{row}");
    }
    let series: BTreeSet<&str> = rows.iter().filter_map(|row| row["asked"]["series"].as_str()).collect();
    let all = ["compare", "connections", "followers", "keys", "open-loop", "values"];
    assert_eq!(series, BTreeSet::from(all));
    assert_eq!(found["delay"].as_array().map(Vec::len), Some(5), "one check for each quorum: {}", found["delay"]);

    // On loopback, and where a network namespace can be made on a slower network too.
    let samples = found["compression"].as_array().expect("a list");
    let missing = notes.contains("compression at 100 Mbit/s: not measured");
    assert_eq!(samples.len(), if missing { 4 } else { 8 }, "{progress}");
    for sample in samples {
        let bytes = sample["streamBytes"].as_f64().expect("a number");
        let shrinks = sample["compressed"] == true && sample["case"]["content"] == "text";
        assert_eq!(bytes < 4096.0, shrinks, "{sample}");
        assert_eq!(sample["failed"], 0, "{sample}");
    }

    let report = fs::read_to_string(folder.path().join("bench.md")).expect("it is written");
    for part in ["## What is wanted", "## Systems beside each other", "| quorumkv", "not measured", "More keys"] {
        assert!(report.contains(part), "{part:?} is missing in {report}");
    }
    assert!(report.contains("](bench.png)"), "the picture is linked in {report}");
    let svg = fs::read_to_string(folder.path().join("bench.svg")).expect("it is written");
    for part in ["quorumkv", "Writes in memory", "Writes on disk", "connections"] {
        assert!(svg.contains(part), "{part:?} is missing in {svg}");
    }
    let png = fs::read(folder.path().join("bench.png")).expect("it is written");
    let pixels = Pixmap::decode_png(&png).expect("a PNG");
    // Memory and disk, and below them processor time and growth, or reads.
    assert_eq!((pixels.width(), pixels.height()), (1600, 1240));
    let written = fs::read(folder.path().join("bench.json")).expect("it is written");
    assert_eq!(serde_json::from_slice::<Value>(&written).expect("JSON"), found);
}
