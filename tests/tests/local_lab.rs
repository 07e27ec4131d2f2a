//! The lab's four programs, run as a person runs them.
//!
//! On a store that they start themselves, on URLs of one that runs, with wrong arguments, and cut short by a
//! signal. Small counts: what is measured here is whether they work.

use std::{fs, path::Path, process::Output, time::Duration};

use anyhow::{Context as _, ensure};
use quorumkv_api::{Delay, WriteQuorum};
use quorumkv_tests::{
    processes::{Authority, Certificates, Lab, LabOptions, Launch, Process, programs},
    wait,
};
use rstest::rstest;
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);
/// A delay that costs little time.
const SHORT: [&str; 4] = ["--min-delay", "1ms", "--max-delay", "8ms"];

/// The program of this name.
fn program(name: &str) -> &'static str {
    match name {
        "integration_test" => env!("CARGO_BIN_EXE_integration_test"),
        "performance_test" => env!("CARGO_BIN_EXE_performance_test"),
        "quorum_analysis" => env!("CARGO_BIN_EXE_quorum_analysis"),
        "check_consistency" => env!("CARGO_BIN_EXE_check_consistency"),
        other => panic!("there is no program {other}"),
    }
}

/// Runs a program to its end.
async fn run(name: &str, arguments: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(program(name));
    command.args(arguments).env_clear().env("QUORUMKV_NODE_BIN", programs::node().expect("it is built"));
    command.kill_on_drop(true);
    let ended = tokio::time::timeout(PATIENCE, command.output()).await;
    ended.expect("it ends").expect("it starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The JSON object that a program printed, which must be all it printed, and its exit code.
fn json(output: &Output) -> (Value, i32) {
    let (printed, progress) = (text(&output.stdout), text(&output.stderr));
    let object = serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error}: {printed}\n{progress}"));
    (object, output.status.code().unwrap_or_else(|| panic!("{}: {progress}", output.status)))
}

/// Arguments that name a running lab, by its URLs.
fn urls(lab: &Lab) -> Vec<String> {
    let mut arguments = vec!["--leader".to_owned(), lab.url(0), "--peer".to_owned(), lab.peer_url(0)];
    for follower in lab.followers() {
        arguments.extend(["--follower".to_owned(), lab.url(follower)]);
    }
    arguments
}

async fn small_lab() -> Lab {
    let options = LabOptions { followers: 2, write_quorum: 1, ..LabOptions::default() };
    Lab::start(options).await.expect("it starts")
}

#[tokio::test]
async fn integration_test_checks_a_store_of_its_own() {
    let arguments = [&SHORT[..], &["--writes", "40", "--clients", "8", "--output", "json"]].concat();
    let output = run("integration_test", &arguments).await;
    let (found, code) = json(&output);
    assert_eq!((code, &found["passed"]), (0, &Value::Bool(true)), "{found:#}");
    let checks = found["checks"].as_array().expect("a list");
    let names: Vec<&str> = checks.iter().filter_map(|check| check["name"].as_str()).collect();
    // The lab's order.
    let order =
        ["health of leader", "write", "replication to follower5", "quorum 5", "40 concurrent writes", "replicas"];
    let places: Vec<usize> = order.iter().filter_map(|name| names.iter().position(|found| found == name)).collect();
    assert_eq!(places.len(), order.len(), "{names:?}");
    assert!(places.is_sorted(), "{names:?}");
    assert!(checks.iter().all(|check| check["passed"] == true && check["seen"] != ""), "{found:#}");
    assert!(text(&output.stderr).contains("PASS  health of leader: expected"), "progress is on standard error");
}

#[tokio::test]
async fn integration_test_turns_the_quorum_over_tls() {
    let certificates = Certificates::of(&Authority::new().expect("one")).expect("files");
    let options =
        LabOptions { followers: 2, write_quorum: 1, certificates: Some(certificates.clone()), ..LabOptions::default() };
    let lab = Lab::start(options).await.expect("it starts");
    let few = ["--writes", "20", "--clients", "4", "--output", "json"].map(str::to_owned);
    let arguments = [urls(&lab), certificates.arguments().into(), few.into()].concat();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (found, code) = json(&run("integration_test", &arguments).await);
    assert_eq!((code, &found["passed"]), (0, &Value::Bool(true)), "{found:#}");
    assert!(found["checks"].to_string().contains("quorum 2"), "{found:#}");
}

#[tokio::test]
async fn performance_test_measures_a_store_of_its_own() {
    let arguments = [&SHORT[..], &["--writes", "60", "--write-quorum", "2"]].concat();
    let output = run("performance_test", &arguments).await;
    let printed = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{printed}{}", text(&output.stderr));
    for part in ["60 of 60 writes acknowledged", "at the clients", "the delay alone", "3 checks passed, 0 failed"] {
        assert!(printed.contains(part), "{part:?} is missing in {printed}");
    }
}

#[tokio::test]
async fn quorum_analysis_writes_picture_report_and_json() {
    let folder = TempDir::new().expect("a folder");
    let results = folder.path().join("new/results");
    let results = results.to_str().expect("a text");
    let few = ["--writes", "24", "--clients", "6", "--results", results, "--output", "json"];
    let (found, code) = json(&run("quorum_analysis", &[&SHORT[..], &few].concat()).await);
    assert_eq!((code, &found["passed"]), (0, &Value::Bool(true)), "{found:#}");
    let levels = found["levels"].as_array().expect("a list");
    let quorums: Vec<u64> = levels.iter().filter_map(|level| level["writeQuorum"].as_u64()).collect();
    assert_eq!(quorums, [1, 2, 3, 4, 5]);
    for level in levels {
        assert_eq!(level["measured"]["acked"], 24, "{level}");
        assert!(level["measured"]["latencyMs"]["mean"].as_f64() > Some(1.0), "{level}");
        assert!(level["limit"]["mean"].as_f64() > Some(1.0), "{level}");
        assert_eq!(level["published"], Value::Null, "the lab measured another delay");
    }
    let read = |name: &str| fs::read(Path::new(results).join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert!(read("quorum_analysis.png").starts_with(b"\x89PNG"));
    assert!(read("quorum_analysis.svg").starts_with(b"<svg"));
    assert!(text(&read("quorum_analysis.md")).contains("# What a write quorum costs"));
    let written: Value = serde_json::from_slice(&read("quorum_analysis.json")).expect("JSON");
    assert_eq!(written["levels"], found["levels"]);
}

#[tokio::test]
async fn check_consistency_compares_a_store_of_its_own() {
    let arguments = [&SHORT[..], &["--output", "json"]].concat();
    let (found, code) = json(&run("check_consistency", &arguments).await);
    assert_eq!((code, &found["passed"]), (0, &Value::Bool(true)), "{found:#}");
    let replicas = found["replicas"].as_array().expect("a list");
    assert_eq!(replicas.len(), 6);
    assert!(replicas.iter().all(|replica| replica["keys"] == 25), "150 writes hit all of 25 keys: {found:#}");
}

#[tokio::test]
async fn all_programs_work_on_the_urls_of_a_store_that_runs() {
    let lab = small_lab().await;
    let folder = TempDir::new().expect("a folder");
    let results = folder.path().to_str().expect("a text");
    let urls = urls(&lab);
    let target: Vec<&str> = urls.iter().map(String::as_str).collect();
    let before = lab.status(0).await.expect("it answers");
    for (name, arguments) in [
        ("integration_test", vec!["--writes", "40"]),
        ("performance_test", vec!["--writes", "40"]),
        ("quorum_analysis", [&SHORT[..], &["--writes", "12", "--results", results]].concat()),
        ("check_consistency", vec![]),
    ] {
        let output = run(name, &[&target[..], &arguments].concat()).await;
        assert_eq!(output.status.code(), Some(0), "{name}: {}{}", text(&output.stdout), text(&output.stderr));
    }
    let after = lab.status(0).await.expect("it answers");
    assert_eq!((after.write_quorum, after.delay), (before.write_quorum, before.delay), "put back");
    assert!(after.keys > 40, "they wrote into this store: {after:?}");
}

#[tokio::test]
async fn a_comparison_is_right_while_others_write() {
    use quorumkv_tests::load::{Limit, Load};
    let lab = small_lab().await;
    let load = Load::new(lab.target()).clients(4).keys("busy", 300).limit(Limit::Endless).start().expect("it starts");
    load.acked_more(300, PATIENCE).await.expect("it writes");
    let mut urls = urls(&lab);
    urls.extend(["--output".to_owned(), "json".to_owned()]);
    let target: Vec<&str> = urls.iter().map(String::as_str).collect();
    for _ in 0..3 {
        let (found, code) = json(&run("check_consistency", &target).await);
        assert_eq!((code, &found["passed"]), (0, &Value::Bool(true)), "{found:#}");
    }
    load.stop().await.expect("it ends").expect_no_failure().expect("none failed");
}

#[tokio::test]
async fn what_is_wrong_with_a_store_makes_exit_code_1() {
    let mut lab = small_lab().await;
    lab.node(2).kill().expect("it runs");
    let urls = urls(&lab);
    let target: Vec<&str> = urls.iter().map(String::as_str).collect();
    let arguments = [&target[..], &["--keep-settings", "--writes", "10", "--output", "json"]].concat();
    let (found, code) = json(&run("integration_test", &arguments).await);
    assert_eq!((code, &found["passed"]), (1, &Value::Bool(false)), "{found:#}");
    let checks = found["checks"].as_array().expect("a list");
    let failed = |name: &str| checks.iter().any(|check| check["name"] == name && check["passed"] == false);
    assert!(failed("health of follower2") && failed("replicas"), "{found:#}");
    assert!(!failed("health of leader") && !failed("10 concurrent writes"), "{found:#}");

    let (found, code) =
        json(&run("check_consistency", &[&target[..], &["--wait", "1", "--output", "json"]].concat()).await);
    assert_eq!((code, &found["passed"]), (1, &Value::Bool(false)), "{found:#}");
    assert!(found["error"].as_str().is_some_and(|error| error.contains("follower2")), "{found:#}");

    lab.node(0).kill().expect("it runs");
    let (found, code) = json(&run("performance_test", &[&target[..], &["--output", "json"]].concat()).await);
    assert_eq!((code, &found["passed"]), (1, &Value::Bool(false)), "{found:#}");
}

#[rstest]
#[case("integration_test", &["--leader", "http://127.0.0.1:1"], "--follower")]
#[case("performance_test", &["--writes", "many"], "--writes")]
#[case("quorum_analysis", &["--min-delay", "2s", "--max-delay", "1s"], "--min-delay")]
#[case("quorum_analysis", &["--quorums", "6", "--max-delay", "10ms", "--results", "/tmp"], "there are 5 followers")]
#[case("quorum_analysis", &["--results", "/dev/null/folder"], "/dev/null/folder")]
#[case("check_consistency", &["--cluster", "demo"], "NAMESPACE/NAME")]
#[case("check_consistency", &["--cluster", "default/demo"], "kubeconfig")]
#[case("integration_test", &["--nonsense"], "--nonsense")]
#[tokio::test]
async fn wrong_use_makes_exit_code_2_and_says_what_is_wrong(
    #[case] name: &str,
    #[case] arguments: &[&str],
    #[case] mentions: &str,
) {
    let output = run(name, arguments).await;
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(told.contains(mentions), "{told}");
    assert!(output.stdout.is_empty(), "{}", text(&output.stdout));
}

#[tokio::test]
async fn a_program_without_the_node_beside_it_says_what_to_build() {
    let folder = TempDir::new().expect("a folder");
    let alone = folder.path().join("check_consistency");
    fs::copy(program("check_consistency"), &alone).expect("copied");
    let output = tokio::process::Command::new(&alone).env_clear().output().await.expect("it starts");
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(told.contains("cargo build") && told.contains("quorumkv-node"), "{told}");
}

#[rstest]
#[case(Signal::INT, 130)]
#[case(Signal::TERM, 143)]
#[tokio::test]
async fn a_signal_ends_quorum_analysis_and_puts_the_settings_back(#[case] signal: Signal, #[case] code: i32) {
    let lab = small_lab().await;
    let before = lab.status(0).await.expect("it answers");
    let folder = TempDir::new().expect("a folder");
    let mut arguments = urls(&lab);
    let results = folder.path().join("results");
    // More than it can write before it is told to stop.
    arguments.extend(["--writes", "100000", "--max-delay", "20ms", "--quorums", "2", "--results"].map(str::to_owned));
    arguments.push(results.to_str().expect("a text").to_owned());
    let launch = Launch {
        name: "quorum_analysis".to_owned(),
        program: program("quorum_analysis").into(),
        arguments,
        environment: Vec::new(),
    };
    let mut analysis = Process::new(launch, folder.path());
    analysis.start().expect("it starts");
    let at_work = wait::until("the analysis is at work", PATIENCE, || async {
        let status = lab.status(0).await?;
        ensure!(status.write_quorum == WriteQuorum(2) && status.delay != Delay::ZERO, "{status:?}");
        ensure!(status.keys > 3, "{} keys", status.keys);
        Ok(())
    });
    at_work.await.with_context(|| analysis.output_end(20)).expect("it begins");
    analysis.signal(signal).expect("it runs");
    let ended = analysis.ended(PATIENCE).await.expect("it ends");
    assert_eq!(ended.code(), Some(code), "{}", analysis.output());
    let after = lab.status(0).await.expect("it answers");
    assert_eq!((after.write_quorum, after.delay), (before.write_quorum, before.delay), "{}", analysis.output());
    assert!(!results.join("quorum_analysis.png").exists(), "half an analysis is none");
}
