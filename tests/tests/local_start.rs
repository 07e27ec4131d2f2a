//! How a node starts, and what it refuses to start with.

use std::{net::TcpListener, time::Duration};

use quorumkv_tests::{
    client::LabClient,
    processes::{Launch, Process, ports::PortBlock, programs},
    wait,
};
use reqwest::StatusCode;
use rstest::rstest;
use rustix::process::Signal;
use serde_json::json;

const FIVE: &str = "http://a:1,http://b:1,http://c:1,http://d:1,http://e:1";

fn launch(environment: &[(&str, &str)]) -> Launch {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    Launch {
        name: "node".to_owned(),
        program: programs::node().expect("the node builds"),
        arguments: Vec::new(),
        environment: environment.iter().map(owned).collect(),
    }
}

/// Starts a node that must refuse, and gives what it said.
async fn refusal(environment: &[(&str, &str)]) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let mut node = Process::new(launch(environment), folder.path());
    node.start().expect("the program is there");
    let status = node.ended(Duration::from_secs(10)).await.expect("it refuses at once");
    let output = node.output();
    assert!(!status.success(), "started with {environment:?}:\n{output}");
    assert!(!output.contains("panicked"), "{output}");
    output
}

#[rstest]
#[case::zero_port(&[("PORT", "0")], &["PORT", "'0'", "1..=65535"])]
#[case::high_port(&[("PORT", "70000")], &["PORT", "'70000'", "1..=65535"])]
#[case::no_number(&[("PORT", "http")], &["PORT", "'http'"])]
#[case::zero_peer_port(&[("PEER_PORT", "0")], &["PEER_PORT", "'0'", "1..=65535"])]
#[case::negative_metrics_port(&[("METRICS_PORT", "-1")], &["METRICS_PORT", "-1"])]
#[case::same_port(&[("PORT", "7000"), ("PEER_PORT", "7000")], &["PORT and PEER_PORT", "7000"])]
#[case::node_type(&[("NODE_TYPE", "boss")], &["NODE_TYPE", "'boss'", "leader", "follower"])]
#[case::address(&[("BIND_ADDRESS", "nowhere")], &["BIND_ADDRESS", "'nowhere'"])]
#[case::source(&[("SOURCE_ADDRESS", "here")], &["SOURCE_ADDRESS", "'here'"])]
#[case::parent(&[("PARENT_PID", "1")], &["PARENT_PID=1", "did not start"])]
#[case::storage(&[("STORAGE", "tape")], &["STORAGE", "'tape'", "memory"])]
#[case::log_format(&[("LOG_FORMAT", "xml")], &["LOG_FORMAT", "'xml'", "text", "json"])]
#[case::node_id(&[("NODE_ID", "two words")], &["NODE_ID", "two words", "1..253"])]
#[case::advertised_url(&[("ADVERTISE_URL", "leader:5000")], &["ADVERTISE_URL", "'leader:5000'", "http://host:port"])]
#[case::token(&[("PEER_TOKEN", "two\nlines")], &["PEER_TOKEN", "one line"])]
#[case::token_file(&[("PEER_TOKEN_FILE", "/nothing/here")], &["PEER_TOKEN_FILE", "/nothing/here"])]
#[case::log_entries(&[("LOG_ENTRIES", "1")], &["LOG_ENTRIES", "'1'", "16"])]
#[case::delay_seed(&[("DELAY_SEED", "dice")], &["DELAY_SEED", "'dice'"])]
#[case::compression(&[("COMPRESS_ABOVE", "always")], &["COMPRESS_ABOVE", "'always'", "off"])]
#[tokio::test]
async fn a_bad_value_is_refused_with_its_name_and_what_is_allowed(
    #[case] environment: &[(&str, &str)],
    #[case] mentions: &[&str],
) {
    let output = refusal(environment).await;
    for text in mentions {
        assert!(output.contains(text), "no {text:?} in:\n{output}");
    }
}

#[rstest]
#[case::nobody(&[("FOLLOWERS", "")], &["FOLLOWERS", "empty"])]
#[case::no_url(&[("FOLLOWERS", "follower1")], &["FOLLOWERS", "follower1", "http://host:port"])]
#[case::twice(&[("FOLLOWERS", "http://a:1,http://a:1")], &["FOLLOWERS", "http://a:1", "once"])]
#[case::peers(&[("FOLLOWER_PEERS", "http://a:2")], &["FOLLOWER_PEERS", "1 URLs", "FOLLOWERS has 5"])]
#[case::zero_quorum(&[("WRITE_QUORUM", "0")], &["WRITE_QUORUM", "'0'"])]
#[case::high_quorum(&[("WRITE_QUORUM", "6")], &["WRITE_QUORUM=6", "1..5"])]
#[case::no_quorum(&[("WRITE_QUORUM", "many")], &["WRITE_QUORUM", "'many'"])]
#[case::no_delay(&[("MIN_DELAY", "fast")], &["MIN_DELAY", "'fast'", "150ms"])]
#[case::negative_delay(&[("MAX_DELAY", "-0.1")], &["MAX_DELAY", "-0.1"])]
#[case::empty_range(&[("MIN_DELAY", "0.2"), ("MAX_DELAY", "0.1")], &["MIN_DELAY=0.2", "MAX_DELAY=0.1", "above"])]
#[case::slower_than_the_timeout(&[("MAX_DELAY", "5")], &["MAX_DELAY=5", "WRITE_TIMEOUT=5", "below"])]
#[case::no_timeout(&[("WRITE_TIMEOUT", "0")], &["WRITE_TIMEOUT=0", "above zero"])]
#[tokio::test]
async fn a_leader_refuses_what_does_not_fit_its_followers(
    #[case] environment: &[(&str, &str)],
    #[case] mentions: &[&str],
) {
    let mut all = vec![("NODE_TYPE", "leader"), ("FOLLOWERS", FIVE)];
    all.retain(|(name, _)| environment.iter().all(|(given, _)| given != name));
    all.extend(environment);
    let output = refusal(&all).await;
    for text in mentions {
        assert!(output.contains(text), "no {text:?} in:\n{output}");
    }
}

#[tokio::test]
async fn a_taken_port_is_refused_with_its_name() {
    let block = PortBlock::take().expect("ports");
    let taken = TcpListener::bind(("127.0.0.1", block.port(0))).expect("free");
    let (port, peer_port) = (block.port(0).to_string(), block.port(1).to_string());
    let environment = [
        ("BIND_ADDRESS", "127.0.0.1"),
        ("METRICS_PORT", "0"),
        ("PORT", peer_port.as_str()),
        ("PEER_PORT", port.as_str()),
    ];
    let output = refusal(&environment).await;
    assert!(output.contains(&format!("PEER_PORT={port}")) && output.contains("in use"), "{output}");
    drop(taken);
}

#[tokio::test]
async fn a_follower_without_a_leader_lives_and_waits() {
    let block = PortBlock::take().expect("ports");
    let (port, peer_port) = (block.port(0).to_string(), block.port(1).to_string());
    let environment = [
        ("BIND_ADDRESS", "127.0.0.1"),
        ("METRICS_PORT", "0"),
        ("PORT", port.as_str()),
        ("PEER_PORT", peer_port.as_str()),
    ];
    let folder = tempfile::tempdir().expect("a folder");
    let mut node = Process::new(launch(&environment), folder.path());
    node.start().expect("the program is there");
    let (client, url) = (LabClient::new(Duration::from_secs(5)).expect("a client"), format!("http://127.0.0.1:{port}"));
    let healthy = wait::until("the follower serves", Duration::from_secs(10), || async {
        anyhow::ensure!(client.get_path(&url, "/health").await?.status == StatusCode::OK);
        Ok(())
    });
    healthy.await.expect("it serves");

    let ready = client.get_path(&url, "/readyz").await.expect("an answer");
    assert_eq!(ready.status, StatusCode::SERVICE_UNAVAILABLE, "{}", ready.text);
    let write = client.set(&url, "k", "v").await.expect("an answer");
    assert_eq!(write.status, StatusCode::FORBIDDEN, "{}", write.text);
    assert_eq!(write.body, json!({"error": "Only leader accepts writes", "leader": null}));
    let block_ports = quorumkv_tests::processes::ports::listeners(block.ports()).expect("readable");
    assert_eq!(block_ports.len(), 2, "METRICS_PORT=0 opens no third port: {block_ports:?}");

    node.signal(Signal::TERM).expect("it runs");
    let status = node.ended(Duration::from_secs(10)).await.expect("nothing is under way");
    assert_eq!(status.code(), Some(0), "{}", node.output());
}

#[test]
fn help_documents_every_variable() {
    let output = launch(&[]).command().arg("--help").output().expect("the program is there");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let variables = [
        "NODE_TYPE",
        "PORT",
        "PEER_PORT",
        "METRICS_PORT",
        "BIND_ADDRESS",
        "NODE_ID",
        "ADVERTISE_URL",
        "FOLLOWERS",
        "FOLLOWER_PEERS",
        "WRITE_QUORUM",
        "MIN_DELAY",
        "MAX_DELAY",
        "WRITE_TIMEOUT",
        "PEER_TOKEN",
        "PEER_TOKEN_FILE",
        "PEER_TLS_DIR",
        "PEER_TLS_NAME",
        "LOG_FORMAT",
        "DELAY_SEED",
        "STORAGE",
        "SOURCE_ADDRESS",
        "PARENT_PID",
    ];
    for variable in variables {
        let named = [format!("[env: {variable}="), format!("[env: {variable}]")];
        assert!(named.iter().any(|named| text.contains(named)), "{variable} is not in:\n{text}");
    }
}
