//! Replication and quorums, and what happens to them when nodes end, hang, and come back.

use std::time::{Duration, Instant};

use anyhow::ensure;
use quorumkv_api::{Delay, SettingsPatch, WriteQuorum, client::CallError};
use quorumkv_tests::{
    history::{check, check_with_content},
    load::{Limit, Load, Policy},
    processes::{Lab, LabOptions},
    wait,
};
use reqwest::StatusCode;
use rstest::rstest;
use rustix::process::Signal;

const SECOND: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(20);

async fn lab(options: LabOptions) -> Lab {
    Lab::start(options).await.expect("the lab starts")
}

#[tokio::test]
async fn a_write_reaches_every_follower_at_once() {
    let lab = lab(LabOptions { write_quorum: 5, ..LabOptions::default() }).await;
    for number in 0..20 {
        let answer = lab.client().set(&lab.url(0), "k", &format!("v{number}")).await.expect("an answer");
        assert_eq!((answer.status, answer.body["replicas"].as_u64()), (StatusCode::OK, Some(5)), "{}", answer.text);
        for follower in lab.followers() {
            // Without another write: news of the commit travels by itself.
            let reached = wait::until("the follower has the write", SECOND, || async {
                let found = lab.client().get(&lab.url(follower), "k", "").await?;
                ensure!(found.body["version"] == answer.body["version"], "{}", found.text);
                Ok(())
            });
            reached.await.expect("committed writes travel within milliseconds");
        }
    }
}

#[rstest]
#[case::without_delay(Delay::ZERO)]
#[case::with_delay(Delay { min: Duration::ZERO, max: Duration::from_millis(20) })]
#[tokio::test]
async fn concurrent_writers_of_one_key_leave_equal_replicas(#[case] delay: Delay) {
    let lab = lab(LabOptions { write_quorum: 2, delay, ..LabOptions::default() }).await;
    let load =
        Load::new(lab.target()).clients(12).keys("contended", 1).reads_percent(30).limit(Limit::Operations(1500));
    let report = load.run().await.expect("it runs");
    report.expect_no_failure().expect("every write is acknowledged");
    assert!(report.reads() > 300, "{} reads", report.reads());
    lab.equal_content(lab.followers()).await.expect("replicas are equal");
    let content = lab.client().final_values(&lab.url(0)).await.expect("content");
    check_with_content(&report.operations, &content).unwrap_or_else(|violation| panic!("{violation}"));
}

#[rstest]
#[tokio::test]
async fn a_write_needs_its_quorum_and_no_more(#[values(1, 2, 3, 4, 5)] write_quorum: u8) {
    let timeout = Duration::from_millis(600);
    let mut lab = lab(LabOptions { write_quorum, write_timeout: timeout, ..LabOptions::default() }).await;
    for killed in 1..=5_usize {
        lab.node(killed).kill().expect("it runs");
        let left = 5 - killed;
        let began = Instant::now();
        let answer = lab.client().set(&lab.url(0), &format!("k{killed}"), "v").await.expect("an answer");
        let took = began.elapsed();
        let replicas = answer.body["replicas"].as_u64().expect("a number");
        if usize::from(write_quorum) <= left {
            assert_eq!(answer.status, StatusCode::OK, "{killed} killed: {}", answer.text);
            assert!(replicas >= u64::from(write_quorum) && took < timeout, "{} after {took:?}", answer.text);
        } else {
            assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR, "{killed} killed: {}", answer.text);
            assert_eq!(answer.body["error"], "Quorum not reached");
            assert_eq!(replicas, u64::try_from(left).expect("few"), "{}", answer.text);
            assert!(took >= timeout && took < timeout + SECOND, "answered after {took:?}");
        }
    }
}

#[tokio::test]
async fn writes_succeed_again_once_enough_followers_are_back() {
    let timeout = Duration::from_millis(500);
    let mut lab = lab(LabOptions { write_quorum: 4, write_timeout: timeout, ..LabOptions::default() }).await;
    for follower in 1..=3 {
        lab.node(follower).kill().expect("it runs");
    }
    let failed = lab.client().set(&lab.url(0), "failed", "v").await.expect("an answer");
    assert_eq!(failed.status, StatusCode::INTERNAL_SERVER_ERROR, "{}", failed.text);
    for follower in 1..=2 {
        lab.node(follower).start().expect("it starts");
    }
    let back = wait::until("writes succeed again", PATIENCE, || async {
        let answer = lab.client().set(&lab.url(0), "after", "v").await?;
        ensure!(answer.status == StatusCode::OK, "{}", answer.text);
        Ok(())
    });
    back.await.expect("four of five are there");
    // What had timed out lies before it in the log: it has happened, too.
    let content = lab.equal_content([1, 2, 4, 5].into_iter()).await.expect("equal");
    assert!(content.contains_key("failed") && content.contains_key("after"), "{content:?}");
}

/// What becomes of a follower for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Absence {
    /// Its process is killed: it comes back empty.
    Killed,
    /// Its process hangs: it comes back with what it had.
    Hung,
}

#[rstest]
#[case::killed_and_repaired_from_the_log(Absence::Killed, None)]
#[case::killed_and_repaired_by_snapshot(Absence::Killed, Some(64))]
#[case::hung_and_repaired_from_the_log(Absence::Hung, None)]
#[case::hung_and_repaired_by_snapshot(Absence::Hung, Some(64))]
#[tokio::test]
async fn a_follower_that_was_away_catches_up_while_writes_go_on(
    #[case] absence: Absence,
    #[case] log_entries: Option<u32>,
) {
    let mut lab = lab(LabOptions { write_quorum: 3, log_entries, ..LabOptions::default() }).await;
    let load = Load::new(lab.target()).clients(4).keys("k", 50).value_bytes(200).start().expect("it starts");
    load.acked_more(300, PATIENCE).await.expect("writes succeed");
    match absence {
        Absence::Killed => lab.node(5).kill().expect("it runs"),
        Absence::Hung => lab.node(5).signal(Signal::STOP).expect("it runs"),
    }
    let gone = |status: &quorumkv_api::lab::StatusReply| status.followers.iter().any(|follower| follower.lag > 100);
    load.acked_more(500, PATIENCE).await.expect("three of the other four confirm");
    lab.leader_status("the leader notices", PATIENCE, gone).await.expect("it lags");
    match absence {
        Absence::Killed => lab.node(5).start().expect("it starts"),
        Absence::Hung => lab.node(5).signal(Signal::CONT).expect("it hangs"),
    }
    // While writes go on: every write moves the goal.
    lab.leader_status("the follower has caught up", PATIENCE, |status| {
        status.followers.iter().all(|follower| follower.connected && follower.lag < 50)
    })
    .await
    .expect("it catches up");
    lab.ready(5).await.expect("it is ready");
    load.acked_more(100, PATIENCE).await.expect("writes succeed");
    let report = load.stop().await.expect("it ends");
    report.expect_no_failure().expect("the others were enough");
    lab.equal_content(lab.followers()).await.expect("replicas are equal");
}

#[tokio::test]
async fn a_follower_that_came_back_counts_again() {
    let timeout = Duration::from_millis(500);
    let mut lab = lab(LabOptions { write_quorum: 3, write_timeout: timeout, ..LabOptions::default() }).await;
    lab.client().set(&lab.url(0), "k", "before").await.expect("an answer");
    for follower in [1, 2] {
        lab.node(follower).kill().expect("it runs");
        lab.node(follower).start().expect("it starts");
    }
    let counted = wait::until("all copies count", PATIENCE, || async {
        let state = lab.peer().state(&lab.peer_url(0)).await?;
        let all = state.followers.iter().filter(|follower| follower.counted && follower.caught_up).count();
        ensure!(all == 5, "{:?}", state.followers);
        Ok(())
    });
    counted.await.expect("the manager counts what has caught up");
    for follower in [4, 5] {
        lab.node(follower).kill().expect("it runs");
    }
    let answer = lab.client().set(&lab.url(0), "k", "after").await.expect("an answer");
    assert_eq!(answer.status, StatusCode::OK, "the new copies have to confirm: {}", answer.text);
}

#[tokio::test]
async fn a_raise_above_the_connected_followers_is_refused_for_now() {
    let mut lab = lab(LabOptions::default()).await;
    for follower in [4, 5] {
        lab.node(follower).kill().expect("it runs");
    }
    lab.leader_status("the leader notices", PATIENCE, |status| {
        status.followers.iter().filter(|follower| follower.connected).count() == 3
    })
    .await
    .expect("connections break");
    let patch = SettingsPatch { write_quorum: Some(WriteQuorum(4)), ..SettingsPatch::default() };
    match lab.peer().settings(&lab.peer_url(0), &patch).await {
        Err(CallError::Refused { refusal, .. }) => {
            assert_eq!(refusal.reason, quorumkv_api::peer::Refusal::NotNow, "{refusal:?}");
            assert!(refusal.error.contains('4') && refusal.error.contains('3'), "{refusal:?}");
        }
        other => panic!("three followers cannot confirm for four: {other:?}"),
    }
    let answer = lab.client().set(&lab.url(0), "k", "v").await.expect("an answer");
    assert_eq!(answer.status, StatusCode::OK, "the old quorum stays: {}", answer.text);
}

#[rstest]
#[case::killed(Signal::KILL)]
#[case::terminated(Signal::TERM)]
#[tokio::test]
async fn a_leader_that_restarts_has_lost_no_acknowledged_write(#[case] signal: Signal) {
    let delay = Delay { min: Duration::ZERO, max: Duration::from_millis(5) };
    let mut lab = lab(LabOptions { write_quorum: 2, delay, ..LabOptions::default() }).await;
    let load = Load::new(lab.target())
        .clients(8)
        .keys("k", 20)
        .reads_percent(30)
        .policy(Policy::Follow { patience: PATIENCE });
    let load = load.timeout(Duration::from_secs(5)).start().expect("it starts");
    for _ in 0..2 {
        load.acked_more(200, PATIENCE).await.expect("writes succeed");
        lab.node(0).signal(signal).expect("it runs");
        let status = lab.node(0).ended(PATIENCE).await.expect("it ends");
        assert!(signal == Signal::KILL || status.code() == Some(0), "{status:?}");
        lab.node(0).start().expect("it starts");
        lab.ready(0).await.expect("it leads again");
    }
    load.acked_more(200, PATIENCE).await.expect("writes succeed");
    let report = load.stop().await.expect("it ends");
    let content = lab.equal_content(lab.followers()).await.expect("replicas are equal");
    assert_eq!(content.len(), 20);
    let content = lab.client().final_values(&lab.url(0)).await.expect("content");
    check_with_content(&report.operations, &content).unwrap_or_else(|violation| panic!("{violation}"));
}

#[tokio::test]
async fn a_leader_waits_for_every_follower_before_it_leads() {
    let mut lab = Lab::prepare(&LabOptions::default()).expect("a lab");
    for index in [0, 1, 2, 3, 4] {
        lab.node(index).start().expect("it starts");
    }
    let serves = wait::until("the leader serves", PATIENCE, || async {
        ensure!(lab.client().get_path(&lab.url(0), "/health").await?.status == StatusCode::OK);
        Ok(())
    });
    serves.await.expect("it serves");
    let answer = lab.client().set(&lab.url(0), "k", "v").await.expect("an answer");
    assert!(!answer.status.is_success(), "a follower unheard of may hold writes that nobody else has: {}", answer.text);
    lab.node(5).start().expect("it starts");
    lab.all_ready().await.expect("now all are there");
    let answer = lab.client().set(&lab.url(0), "k", "v").await.expect("an answer");
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
}

#[tokio::test]
async fn sigterm_answers_the_writes_under_way_and_exits_with_zero() {
    let delay = Delay { min: Duration::from_millis(400), max: Duration::from_millis(500) };
    let mut lab = lab(LabOptions { delay, ..LabOptions::default() }).await;
    let before = lab.status(0).await.expect("an answer").last_seq.0;
    let url = lab.url(0);
    let writes: Vec<_> = (0..8)
        .map(|number| {
            let (client, url) = (lab.client().clone(), url.clone());
            tokio::spawn(async move { client.set(&url, &format!("k{number}"), "v").await })
        })
        .collect();
    let under_way = |status: &quorumkv_api::lab::StatusReply| status.last_seq.0 >= before + 8;
    lab.leader_status("all writes are in the log", SECOND, under_way).await.expect("they are");
    lab.node(0).signal(Signal::TERM).expect("it runs");
    for write in writes {
        let answer = write.await.expect("no panic").expect("an answer in spite of SIGTERM");
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    }
    let status = lab.node(0).ended(Duration::from_secs(5)).await.expect("it ends");
    assert_eq!(status.code(), Some(0));
}

#[tokio::test]
async fn a_follower_that_stops_in_order_disturbs_no_write() {
    let mut lab = lab(LabOptions::default()).await;
    let load = Load::new(lab.target()).clients(4).keys("k", 10).start().expect("it starts");
    for follower in [1, 2] {
        load.acked_more(50, PATIENCE).await.expect("writes succeed");
        lab.node(follower).signal(Signal::TERM).expect("it runs");
        let status = lab.node(follower).ended(Duration::from_secs(10)).await.expect("it ends");
        assert_eq!(status.code(), Some(0), "follower {follower}");
    }
    load.acked_more(50, PATIENCE).await.expect("writes succeed");
    let report = load.stop().await.expect("it ends");
    report.expect_no_failure().expect("three of five remain");
}

#[tokio::test]
async fn a_leader_that_hung_answers_nothing_stale() {
    let mut lab = lab(LabOptions::default()).await;
    let load =
        Load::new(lab.target()).clients(6).keys("k", 3).reads_percent(50).policy(Policy::Follow { patience: PATIENCE });
    let load = load.start().expect("it starts");
    for _ in 0..2 {
        load.acked_more(100, PATIENCE).await.expect("writes succeed");
        lab.node(0).signal(Signal::STOP).expect("it runs");
        // Longer than its lease: it wakes up without one. Time is the very thing under test here.
        tokio::time::sleep(Duration::from_millis(1300)).await;
        lab.node(0).signal(Signal::CONT).expect("it hangs");
    }
    load.acked_more(100, PATIENCE).await.expect("writes succeed");
    let report = load.stop().await.expect("it ends");
    check(&report.operations).unwrap_or_else(|violation| panic!("{violation}"));
    report.expect_no_failure().expect("a pause shorter than the timeout fails no write");
}

#[tokio::test]
async fn a_leader_that_is_told_of_a_higher_epoch_leads_again_above_it() {
    let lab = lab(LabOptions { followers: 2, write_quorum: 1, ..LabOptions::default() }).await;
    let answer = lab.client().set(&lab.url(0), "k", "v").await.expect("an answer");
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    let fence = quorumkv_api::peer::FenceRequest { epoch: quorumkv_api::Epoch(1000) };
    lab.peer().fence(&lab.peer_url(1), &fence).await.expect("a follower promises");
    let status = lab.leader_status("the leader took a higher epoch", PATIENCE, |status| {
        status.epoch.0 > 1000 && status.ready && status.followers.iter().all(|follower| follower.connected)
    });
    status.await.expect("nobody else leads");
    let answer = lab.client().get(&lab.url(0), "k", "").await.expect("an answer");
    assert_eq!((answer.status, answer.body["value"].as_str()), (StatusCode::OK, Some("v")), "{}", answer.text);
}

#[tokio::test]
async fn a_leader_takes_no_batch_whatever_its_epoch() {
    let lab = lab(LabOptions { followers: 2, write_quorum: 1, ..LabOptions::default() }).await;
    lab.client().set(&lab.url(0), "k", "v").await.expect("an answer");
    let batch = serde_json::json!({
        "epoch": 1000, "leader": "nobody", "prevEpoch": 0, "prevSeq": 0, "commitSeq": 0, "entries": [],
    });
    let request = lab.client().request(reqwest::Method::POST, &format!("{}/replicate", lab.url(0))).json(&batch);
    let answer = lab.client().send(request).await.expect("an answer");
    assert_eq!(answer.status, StatusCode::FORBIDDEN, "{}", answer.text);
    let answer = lab.client().set(&lab.url(0), "after", "v").await.expect("an answer");
    assert_eq!(answer.status, StatusCode::OK, "it leads on: {}", answer.text);
    let content = lab.equal_content(lab.followers()).await.expect("replicas are equal");
    assert!(content.contains_key("k") && content.contains_key("after"), "{content:?}");
}
