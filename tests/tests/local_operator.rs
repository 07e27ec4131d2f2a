//! `quorumkv-operator local`: manifests, failover and clean ends, over real processes.

use std::{
    net::TcpListener,
    time::{Duration, Instant},
};

use anyhow::ensure;
use quorumkv_api::Delay;
use quorumkv_tests::{
    history::check_with_content,
    load::{Limit, Load, Policy, Report},
    processes::{LocalOperator, Manifest},
    wait,
};
use reqwest::StatusCode;
use rstest::rstest;
use rustix::process::Signal;

const PATIENCE: Duration = Duration::from_secs(30);

async fn operator(manifest: &Manifest) -> LocalOperator {
    LocalOperator::start(manifest).await.expect("the store comes up")
}

/// No acknowledged write may be lost, no read stale, and in the end all nodes are equal.
async fn check_all(operator: &LocalOperator, report: &Report) {
    let (leader, _) = operator.whole(PATIENCE).await.expect("everything is back");
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
async fn edits_of_the_manifest_are_applied_within_a_second_and_wrong_ones_are_not() {
    let delay = Delay { min: Duration::from_millis(1), max: Duration::from_millis(10) };
    let manifest = Manifest { delay, ..Manifest::default() };
    let mut operator = operator(&manifest).await;
    let load = Load::new(operator.target()).clients(4).keys("k", 10).start().expect("it starts");
    load.acked_more(50, PATIENCE).await.expect("writes succeed");

    let slower = Delay { min: Duration::from_millis(20), max: Duration::from_millis(60) };
    let edits = [
        Manifest { write_quorum: 5, ..manifest.clone() },
        Manifest { write_quorum: 1, delay: slower, ..manifest.clone() },
        Manifest { write_quorum: 1, delay: slower, write_timeout: Duration::from_secs(3), ..manifest.clone() },
    ];
    for edit in &edits {
        let saved = Instant::now();
        operator.save(&edit.to_string()).expect("it can be written");
        let timeout = quorumkv_api::settings::format_duration(edit.write_timeout);
        let applied = |_: &str, status: &quorumkv_api::lab::StatusReply| {
            (status.write_quorum.0, status.delay) == (edit.write_quorum, edit.delay) && status.write_timeout == timeout
        };
        operator.leader_status("the edit is applied", PATIENCE, applied).await.expect("it is valid");
        // A second by contract; the rest is for a busy machine.
        assert!(saved.elapsed() < Duration::from_secs(2), "applied after {:?}", saved.elapsed());
        let line = format!("writeQuorum {}, delay {}", edit.write_quorum, edit.delay);
        operator.says("the status line tells it", PATIENCE, |last| last.contains(&line)).await.expect("it does");
        load.acked_more(20, PATIENCE).await.expect("writes go on");
    }

    let [.., last] = &edits;
    let wrong = [
        (Manifest { write_quorum: 6, ..last.clone() }.to_string(), "lower writeQuorum to"),
        (last.to_string().replace("writeQuorum", "writeQorum"), "unknown field spec.writeQorum"),
        (last.to_string().replace("min: 20ms", "min: 90ms"), "delay.min"),
        ("spec: [".to_owned(), "is no KvCluster"),
    ];
    for (text, reason) in wrong {
        operator.save(&text).expect("it can be written");
        let said = operator.printed(reason, PATIENCE).await.expect("it says why");
        // The reason may have several lines.
        let output = operator.process().output();
        let after = &output[output.find(&said).expect("it was just there")..];
        assert!(after.contains("the settings in force stay"), "{after}");
        let (_, status) = operator.leader().await.expect("it leads on");
        assert_eq!((status.write_quorum.0, status.delay), (1, slower), "after {said}");
    }
    operator.save(&manifest.to_string()).expect("it can be written");
    let applied =
        |_: &str, status: &quorumkv_api::lab::StatusReply| status.write_quorum.0 == 3 && status.delay == delay;
    operator.leader_status("the next valid edit is applied", PATIENCE, applied).await.expect("it is");

    let report = load.stop().await.expect("it ends");
    report.expect_no_failure().expect("no edit costs a write");
    assert_eq!(operator.interrupt().await.expect("it ends").code(), Some(0));
}

#[tokio::test]
async fn a_killed_follower_comes_back_and_counts_again() {
    let mut operator = operator(&Manifest { write_quorum: 3, ..Manifest::default() }).await;
    let load = Load::new(operator.target()).clients(4).keys("k", 20).reads_percent(20).start().expect("it starts");
    load.acked_more(100, PATIENCE).await.expect("writes succeed");
    let victim = operator.urls()[3].clone();
    let before = operator.node_pid(&victim).expect("it runs");
    operator.signal_node(&victim, Signal::KILL).expect("it runs");
    operator.says("its loss is noticed", PATIENCE, |last| last.contains("followers 4/5")).await.expect("it is");
    operator.whole(PATIENCE).await.expect("it counts again");
    let after = operator.node_pid(&victim).expect("it runs");
    assert_ne!(before, after, "another process");
    load.acked_more(50, PATIENCE).await.expect("writes go on");
    let report = load.stop().await.expect("it ends");
    report.expect_no_failure().expect("four followers are enough for three");
    check_all(&operator, &report).await;

    // It counts: with it, all five can be demanded.
    operator.save(&Manifest { write_quorum: 5, ..Manifest::default() }.to_string()).expect("it can be written");
    operator
        .leader_status("all five confirm", PATIENCE, |_, status| status.write_quorum.0 == 5)
        .await
        .expect("they do");
    let answer = operator.client().set(&operator.urls()[0], "k", "v").await.expect("an answer");
    assert_eq!((answer.status, answer.body["replicas"].as_u64()), (StatusCode::OK, Some(5)), "{}", answer.text);
    operator.process().signal(Signal::TERM).expect("it runs");
    let status = operator.process().ended(PATIENCE).await.expect("it ends");
    assert_eq!(status.code(), Some(0));
    assert_eq!(operator.listeners().expect("readable"), [], "SIGTERM leaves no process");
}

#[rstest]
#[case::killed(Signal::KILL, 2)]
#[case::killed_with_every_copy_needed(Signal::KILL, 5)]
#[case::hung(Signal::STOP, 3)]
#[case::terminated(Signal::TERM, 3)]
#[tokio::test]
async fn a_leader_that_goes_away_is_replaced_and_no_acknowledged_write_is_lost(
    #[case] signal: Signal,
    #[case] write_quorum: u8,
) {
    let delay = Delay { min: Duration::ZERO, max: Duration::from_millis(5) };
    let operator = operator(&Manifest { write_quorum, delay, ..Manifest::default() }).await;
    let load = Load::new(operator.target()).clients(8).keys("k", 20).reads_percent(40);
    let load =
        load.policy(Policy::Follow { patience: PATIENCE }).timeout(Duration::from_secs(2)).start().expect("it starts");
    for _ in 0..2 {
        load.acked_more(150, PATIENCE).await.expect("writes succeed");
        let (old, status) = operator.leader().await.expect("somebody leads");
        operator.signal_node(&old, signal).expect("it runs");
        let higher = |url: &str, now: &quorumkv_api::lab::StatusReply| url != old && now.epoch > status.epoch;
        operator.leader_status("another node leads", PATIENCE, higher).await.expect("the others can");
        load.acked_more(150, PATIENCE).await.expect("writes succeed again");
        if signal == Signal::STOP {
            // It still believes that it leads; it must find out before it answers.
            operator.signal_node(&old, Signal::CONT).expect("it hangs");
            let probe =
                Load::new(quorumkv_tests::load::Target::new(&old, [&old])).keys("k", 20).limit(Limit::Operations(20));
            let refused = probe.run().await.expect("it runs");
            assert_eq!(refused.acked(), 0, "a leader that was replaced acknowledges nothing");
        }
        operator.whole(PATIENCE).await.expect("the old leader comes back as a follower");
    }
    let report = load.stop().await.expect("it ends");
    assert!(report.longest_gap() < Duration::from_secs(10), "no write for {:?}", report.longest_gap());
    assert!(report.reads() > 100, "{} reads", report.reads());
    check_all(&operator, &report).await;
}

#[tokio::test]
async fn leader_and_a_follower_killed_together_lose_nothing_at_quorum_two() {
    let operator = operator(&Manifest { write_quorum: 2, ..Manifest::default() }).await;
    let load = Load::new(operator.target()).clients(8).keys("k", 20).reads_percent(30);
    let load =
        load.policy(Policy::Follow { patience: PATIENCE }).timeout(Duration::from_secs(2)).start().expect("it starts");
    load.acked_more(200, PATIENCE).await.expect("writes succeed");
    let (old, status) = operator.leader().await.expect("somebody leads");
    let other = operator.urls().into_iter().find(|url| *url != old).expect("there are followers");
    operator.signal_node(&old, Signal::KILL).expect("it runs");
    operator.signal_node(&other, Signal::KILL).expect("it runs");
    let higher = |_: &str, now: &quorumkv_api::lab::StatusReply| now.epoch > status.epoch;
    operator.leader_status("another node leads", PATIENCE, higher).await.expect("the others can");
    load.acked_more(200, PATIENCE).await.expect("writes succeed again");
    let report = load.stop().await.expect("it ends");
    check_all(&operator, &report).await;
}

#[tokio::test]
async fn a_taken_port_is_named_and_nothing_is_started() {
    let mut operator = LocalOperator::prepare(&Manifest::default()).expect("programs");
    let port = operator.first_port() + 2;
    let taken = TcpListener::bind(("127.0.0.1", port)).expect("free");
    operator.process().start().expect("it starts");
    let status = operator.process().ended(PATIENCE).await.expect("it gives up");
    let output = operator.process().output();
    assert!(!status.success(), "{output}");
    assert!(output.contains(&format!("port {port}")) && output.contains("--port"), "{output}");
    drop(taken);
    assert_eq!(operator.listeners().expect("readable"), [], "nothing was started");
}

#[tokio::test]
async fn a_wrong_manifest_is_refused_at_start() {
    let mut operator = LocalOperator::prepare(&Manifest { write_quorum: 7, ..Manifest::default() }).expect("programs");
    operator.process().start().expect("it starts");
    let status = operator.process().ended(PATIENCE).await.expect("it gives up");
    let output = operator.process().output();
    assert!(!status.success() && output.contains("lower writeQuorum to"), "{output}");
}

#[tokio::test]
async fn ctrl_c_under_load_leaves_no_process_and_answers_what_was_under_way() {
    let delay = Delay { min: Duration::from_millis(100), max: Duration::from_millis(200) };
    let mut operator = operator(&Manifest { delay, ..Manifest::default() }).await;
    assert_eq!(operator.listeners().expect("readable").len(), 12, "six nodes with two ports each");
    let load = Load::new(operator.target()).clients(8).keys("k", 10).start().expect("it starts");
    load.acked_more(20, PATIENCE).await.expect("writes succeed");
    let status = operator.interrupt().await.expect("it ends");
    assert_eq!(status.code(), Some(0));
    assert_eq!(operator.listeners().expect("readable"), [], "no process is left");
    load.stop().await.expect("it ends");
}
