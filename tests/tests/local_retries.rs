//! Writes under request ids, repeated through failovers: real processes, killed without a word.

use std::time::Duration;

use futures::future::join_all;
use quorumkv_api::Delay;
use quorumkv_tests::{
    client::LabClient,
    history::check_with_content,
    load::{Load, Policy},
    processes::{LocalOperator, Manifest},
    wait,
};
use reqwest::StatusCode;
use rustix::process::Signal;

const PATIENCE: Duration = Duration::from_secs(30);

/// A store in which a write takes so long that a kill finds many under way.
async fn slow_store() -> LocalOperator {
    let delay = Delay { min: Duration::from_millis(20), max: Duration::from_millis(60) };
    let manifest = Manifest { followers: 3, write_quorum: 2, delay, ..Manifest::default() };
    LocalOperator::start(&manifest).await.expect("the store comes up")
}

/// Sends one write again and again, to whoever leads, until it is acknowledged; its version.
async fn persist(operator: &LocalOperator, client: &LabClient, key: &str, id: &str) -> u64 {
    let written = wait::until("the write is acknowledged", PATIENCE, || async {
        let (leader, _) = operator.leader().await?;
        let answer = client.set_with_id(&leader, key, "first", id).await?;
        anyhow::ensure!(answer.status == StatusCode::OK, "{}", answer.text);
        answer.body["version"].as_u64().ok_or_else(|| anyhow::anyhow!("no version in {}", answer.text))
    });
    written.await.expect("a leader comes back")
}

#[tokio::test]
async fn a_write_repeated_through_a_failover_is_done_once_and_has_one_outcome() {
    let operator = slow_store().await;
    let client = LabClient::new(Duration::from_millis(500)).expect("a client");
    let (first_leader, before) = operator.leader().await.expect("somebody leads");
    let writes = (0..200).map(|number| {
        let (operator, client) = (&operator, &client);
        async move {
            // Spread over the time of the kill.
            tokio::time::sleep(Duration::from_millis(number)).await;
            persist(operator, client, &format!("k{number}"), &format!("id-{number}")).await
        }
    });
    let kill = async {
        tokio::time::sleep(Duration::from_millis(120)).await;
        operator.signal_node(&first_leader, Signal::KILL).expect("it runs");
    };
    let (versions, ()) = tokio::join!(join_all(writes), kill);
    let (leader, after) = operator.leader().await.expect("somebody leads");
    assert!(after.epoch > before.epoch, "another epoch");

    // Others write the same keys; whoever repeats the first writes now must not undo that.
    for number in 0..versions.len() {
        let answer = client.set(&leader, &format!("k{number}"), "second").await.expect("an answer");
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    }
    let again = (0..versions.len()).map(|number| {
        let (client, leader) = (&client, &leader);
        async move { client.set_with_id(leader, &format!("k{number}"), "first", &format!("id-{number}")).await }
    });
    for (answer, version) in join_all(again).await.into_iter().zip(&versions) {
        let answer = answer.expect("an answer");
        assert_eq!(
            (answer.status, answer.body["version"].as_u64()),
            (StatusCode::OK, Some(*version)),
            "{}",
            answer.text
        );
        assert_eq!(answer.body["repeated"], true, "{}", answer.text);
    }
    let (content, _) = client.content(&leader).await.expect("content");
    assert!(content.values().all(|value| value == "second"), "a repeated write was done twice: {content:?}");

    // The name of one write does not stand for another.
    let other = client.set_with_id(&leader, "k0", "third", "id-0").await.expect("an answer");
    assert_eq!(other.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", other.text);
    let found = client.get(&leader, "k0", "").await.expect("an answer");
    assert_eq!(found.body["value"], "second");
}

#[tokio::test]
async fn clients_that_repeat_under_ids_have_no_unknown_outcomes_however_leaders_end() {
    let operator = LocalOperator::start(&Manifest::default()).await.expect("the store comes up");
    let load = Load::new(operator.target()).clients(6).keys("k", 10).reads_percent(20).request_ids();
    let load =
        load.policy(Policy::Follow { patience: PATIENCE }).timeout(Duration::from_secs(2)).start().expect("it starts");
    for _ in 0..2 {
        load.acked_more(200, PATIENCE).await.expect("writes succeed");
        let (leader, _) = operator.whole(PATIENCE).await.expect("everybody is there");
        operator.signal_node(&leader, Signal::KILL).expect("it runs");
    }
    load.acked_more(200, PATIENCE).await.expect("writes succeed again");
    let (leader, _) = operator.whole(PATIENCE).await.expect("everything is back");
    let report = load.stop().await.expect("it ends");
    report.expect_no_failure().expect("every write is acknowledged in the end");
    let content = operator.client().final_values(&leader).await.expect("content");
    check_with_content(&report.operations, &content).unwrap_or_else(|violation| panic!("{violation}"));
}
