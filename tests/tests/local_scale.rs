//! `quorumkv-operator local`: followers that come and go while clients write, over real processes.

use std::time::Duration;

use quorumkv_tests::{
    history::check_with_content,
    load::{Load, Policy, Report, Running},
    processes::{LocalOperator, Manifest, Storage},
    wait,
};
use rustix::process::Signal;

const PATIENCE: Duration = Duration::from_secs(60);

/// Clients that know of every node there may be.
fn load(operator: &LocalOperator) -> Running {
    let urls = operator.first_urls(8);
    let target = quorumkv_tests::load::Target::new(urls[0].clone(), urls);
    let load = Load::new(target).clients(8).keys("k", 20).reads_percent(30);
    load.policy(Policy::Follow { patience: PATIENCE }).timeout(Duration::from_secs(5)).start().expect("it starts")
}

/// Every acknowledged write is there, and what clients saw has an order.
async fn check(what: &str, operator: &LocalOperator, report: &Report) {
    let (leader, _) = operator.leader().await.expect("somebody leads");
    let content = operator.client().final_values(&leader).await.expect("content");
    check_with_content(&report.operations, &content).unwrap_or_else(|violation| panic!("{violation}"));
    println!(
        "{what}: {} writes acknowledged of {} attempted, {} reads, none lost; longest time without one: {:?}",
        report.acked(),
        report.acked() + report.failed().count(),
        report.reads(),
        report.longest_gap(),
    );
}

/// Nobody listens at the ports of nodes beyond these.
async fn nobody_beyond(operator: &LocalOperator, nodes: usize) {
    let last = operator.first_port() + u16::try_from(nodes).expect("few");
    let gone = wait::until("nodes that have left are gone", PATIENCE, || async {
        let listeners = operator.listeners()?;
        let left = listeners.iter().filter(|(port, _)| (last..operator.first_port() + 10).contains(port)).count();
        anyhow::ensure!(left == 0, "{listeners:?}");
        Ok(())
    });
    gone.await.expect("they end");
}

#[tokio::test]
async fn five_followers_become_seven_and_then_three_under_load_and_no_write_fails() {
    let manifest = Manifest::default();
    let operator = LocalOperator::start(&manifest).await.expect("the store comes up");
    let load = load(&operator);
    for followers in [7, 3] {
        load.acked_more(200, PATIENCE).await.expect("writes succeed");
        operator.scale(&Manifest { followers, ..manifest.clone() }).expect("it can be written");
        operator.whole(PATIENCE).await.expect("as many as asked for");
        nobody_beyond(&operator, followers + 1).await;
    }
    load.acked_more(200, PATIENCE).await.expect("writes succeed at the end");
    let report = load.stop().await.expect("it ends");
    report.expect_no_failure().expect("nobody notices that nodes come and go");
    assert!(report.longest_gap() < Duration::from_secs(3), "no write for {:?}", report.longest_gap());
    check("scale 5->7->3", &operator, &report).await;
}

#[tokio::test]
async fn quorum_and_followers_changed_together_are_ordered() {
    let manifest = Manifest { followers: 2, write_quorum: 2, ..Manifest::default() };
    let operator = LocalOperator::start(&manifest).await.expect("the store comes up");
    let load = load(&operator);
    // Neither could be done at once: four followers are not there yet, and two do not suffice for a quorum of four.
    for (followers, write_quorum) in [(4, 4), (1, 1), (3, 2)] {
        load.acked_more(100, PATIENCE).await.expect("writes succeed");
        operator.scale(&Manifest { followers, write_quorum, ..manifest.clone() }).expect("it can be written");
        operator.whole(PATIENCE).await.expect("as many as asked for");
        let applied = operator
            .leader_status("the quorum is in force", PATIENCE, |_, status| status.write_quorum.0 == write_quorum);
        applied.await.expect("it is possible now");
    }
    let report = load.stop().await.expect("it ends");
    report.expect_no_failure().expect("no write fails");
    check("followers and quorum together", &operator, &report).await;
}

#[tokio::test]
async fn a_leader_that_is_to_leave_hands_over_and_the_record_outlives_the_operator() {
    let storage = Storage::Persistent;
    let manifest = Manifest { followers: 3, write_quorum: 2, storage, ..Manifest::default() };
    let operator = LocalOperator::start(&manifest).await.expect("the store comes up");
    let last = operator.urls()[3].clone();
    let node = last.trim_start_matches("http://").to_owned();
    let wish = Manifest { switchover_to: Some(node), ..manifest.clone() };
    operator.save(&wish.to_string()).expect("it can be written");
    operator.leader_status("the last node leads", PATIENCE, |url, _| url == last).await.expect("it can");
    operator.whole(PATIENCE).await.expect("all follow it");
    let load = load(&operator);
    load.acked_more(100, PATIENCE).await.expect("writes succeed");
    let smaller = Manifest { followers: 2, ..manifest.clone() };
    operator.scale(&smaller).expect("it can be written");
    operator.whole(PATIENCE).await.expect("two followers");
    nobody_beyond(&operator, 3).await;
    load.acked_more(100, PATIENCE).await.expect("writes succeed under another leader");
    // All at once, and the next operator has nothing but the record.
    operator.kill_and_start().await.expect("it starts again");
    operator.whole(PATIENCE).await.expect("the same store");
    // The node that left comes back with what it had, and learns.
    operator.scale(&manifest).expect("it can be written");
    operator.whole(PATIENCE).await.expect("three followers");
    let (leader, _) = operator.leader().await.expect("somebody leads");
    operator.signal_node(&leader, Signal::KILL).expect("it runs");
    load.acked_more(100, PATIENCE).await.expect("writes succeed under the next leader");
    operator.whole(PATIENCE).await.expect("it comes back");
    let report = load.stop().await.expect("it ends");
    check("a leader leaves, the operator is killed, a node comes back, the leader is killed", &operator, &report).await;
}
