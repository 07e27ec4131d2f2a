//! `quorumkv-operator local` with Persistent storage: what is on disk is there again, over real processes.

use std::{fs, time::Duration};

use anyhow::ensure;
use quorumkv_tests::{
    history::check_with_content,
    load::{Load, Policy, Report},
    processes::{Launch, LocalOperator, Manifest, Process, Storage, ports::PortBlock, programs},
    wait,
};
use rustix::process::Signal;

const PATIENCE: Duration = Duration::from_secs(30);

fn manifest() -> Manifest {
    Manifest { storage: Storage::Persistent, ..Manifest::default() }
}

/// Every acknowledged write is there, and all nodes are equal.
async fn check_all(operator: &LocalOperator, report: &Report) {
    let (leader, _) = operator.whole(PATIENCE).await.expect("every node is back");
    let content = operator.client().final_values(&leader).await.expect("content");
    check_with_content(&report.operations, &content).unwrap_or_else(|violation| panic!("{violation}"));
    for url in operator.urls() {
        let equal = wait::until("replicas are equal", PATIENCE, || async {
            let found = operator.client().final_values(&url).await?;
            ensure!(found == content, "{url} differs from {leader}");
            Ok(())
        });
        equal.await.expect("they converge");
    }
}

#[tokio::test]
async fn a_store_whose_operator_and_nodes_were_killed_goes_on_with_every_acknowledged_write() {
    let operator = LocalOperator::start(&manifest()).await.expect("the store comes up");
    operator.printed("kept when this ends", PATIENCE).await.expect("it says where the data is");
    let load = Load::new(operator.target()).clients(8).keys("k", 20).reads_percent(20);
    let load =
        load.policy(Policy::Follow { patience: PATIENCE }).timeout(Duration::from_secs(2)).start().expect("it starts");
    for _ in 0..2 {
        load.acked_more(150, PATIENCE).await.expect("writes succeed");
        let (_, before) = operator.leader().await.expect("somebody leads");
        operator.kill_and_start().await.expect("its nodes end with it");
        let higher = |_: &str, now: &quorumkv_api::lab::StatusReply| now.epoch > before.epoch;
        operator.leader_status("a leader of a higher epoch", PATIENCE, higher).await.expect("the record is there");
    }
    load.acked_more(150, PATIENCE).await.expect("writes succeed again");
    let report = load.stop().await.expect("it ends");
    check_all(&operator, &report).await;
}

#[tokio::test]
async fn a_store_that_was_ended_in_good_order_is_there_again() {
    let mut operator = LocalOperator::start(&manifest()).await.expect("the store comes up");
    let load = Load::new(operator.target()).clients(4).keys("k", 20).start().expect("it starts");
    load.acked_more(100, PATIENCE).await.expect("writes succeed");
    let report = load.stop().await.expect("it ends");
    report.expect_no_failure().expect("nothing is in the way");
    assert_eq!(operator.interrupt().await.expect("it ends").code(), Some(0));
    operator.process().start().expect("its ports are free");
    operator.leader_status("a leader again", PATIENCE, |_, _| true).await.expect("the record is there");
    check_all(&operator, &report).await;
}

/// Runs another operator on the directory of the first, which must refuse, and gives what it said.
async fn refusal(operator: &LocalOperator, manifest: &str) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("other.yaml");
    fs::write(&file, manifest).expect("it can be written");
    let ports = PortBlock::take().expect("ports");
    let arguments = [
        "local",
        "-f",
        &file.display().to_string(),
        "--data-dir",
        &operator.data_dir().display().to_string(),
        "--port",
        &ports.port(0).to_string(),
        "--peer-port",
        &ports.port(10).to_string(),
        "--node-binary",
        &programs::node().expect("the node builds").display().to_string(),
    ];
    let launch = Launch {
        name: "other".to_owned(),
        program: programs::operator().expect("the operator builds"),
        arguments: arguments.map(str::to_owned).into(),
        environment: Vec::new(),
    };
    let mut other = Process::new(launch, folder.path());
    other.start().expect("it starts");
    let status = other.ended(PATIENCE).await.expect("it gives up");
    assert!(!status.success(), "{}", other.output());
    other.output()
}

#[tokio::test]
async fn a_directory_that_is_not_this_stores_alone_is_refused_with_what_to_do() {
    let manifest = manifest();
    let mut operator = LocalOperator::start(&manifest).await.expect("the store comes up");
    let said = refusal(&operator, &manifest.to_string()).await;
    assert!(said.contains("another operator uses this directory") && said.contains("--data-dir"), "{said}");
    operator.leader().await.expect("the first one is not disturbed");
    operator.process().signal(Signal::TERM).expect("it runs");
    assert_eq!(operator.process().ended(PATIENCE).await.expect("it ends").code(), Some(0));

    let said = refusal(&operator, &manifest.to_string().replace("name: demo", "name: other")).await;
    assert!(said.contains("belongs to the store \"demo\", the manifest describes \"other\""), "{said}");
    let record = operator.data_dir().join("record.json");
    let whole = fs::read_to_string(&record).expect("it was written");
    fs::write(&record, &whole[..whole.len() / 2]).expect("it can be written");
    let said = refusal(&operator, &manifest.to_string()).await;
    assert!(said.contains("record.json is no record"), "{said}");
    assert_eq!(operator.listeners().expect("readable"), [], "nothing was started");
}
