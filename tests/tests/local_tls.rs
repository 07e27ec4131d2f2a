//! TLS on peer ports, over real processes: certificates are replaced under load, and strangers are kept out.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use quorumkv_api::{client::CallError, peer::TlsReport};
use quorumkv_tests::{
    history,
    load::Load,
    processes::{Authority, Certificates, Lab, LabOptions},
    wait,
};
use reqwest::StatusCode;

const PATIENCE: Duration = Duration::from_secs(20);
const TOKEN: &str = "token-of-the-lab";

async fn lab(certificates: &Certificates, options: LabOptions) -> Lab {
    let peer_token = Some(TOKEN.to_owned());
    let options = LabOptions { peer_token, certificates: Some(certificates.clone()), ..options };
    Lab::start(options).await.expect("the lab starts")
}

/// Waits until every node has loaded what the files hold.
async fn all_have(lab: &Lab, what: &str, has: impl Fn(&TlsReport) -> bool) {
    for index in lab.indices() {
        let url = lab.peer_url(index);
        let loaded = wait::until(what, PATIENCE, || async {
            let report = lab.peer().tls(&url).await?;
            ensure!(has(&report), "{url} has {report:?}");
            Ok(())
        });
        loaded.await.expect("nodes look at their files");
    }
}

/// Streams that broke, by node.
async fn broken(lab: &Lab) -> Vec<String> {
    let mut broken = Vec::new();
    for index in lab.indices() {
        let count = lab.counter(index, "quorumkv_node_broken_streams_total", "").await.expect("metrics");
        broken.push(format!("{count}"));
    }
    broken
}

#[tokio::test]
async fn certificates_are_replaced_under_load_and_no_write_fails() {
    let (old, new) = (Authority::new().expect("one"), Authority::new().expect("another"));
    let certificates = Certificates::of(&old).expect("files");
    let mut lab = lab(&certificates, LabOptions::default()).await;
    let before = lab.peer().tls(&lab.peer_url(0)).await.expect("an answer");
    let broken_before = broken(&lab).await;
    let load = Load::new(lab.target()).clients(8).keys("k", 16).start().expect("it starts");
    load.acked_more(100, PATIENCE).await.expect("writes go on");

    certificates.trust(&[&new, &old]).expect("written");
    all_have(&lab, "everyone trusts both", |report| report.authorities.len() == 2).await;
    load.acked_more(100, PATIENCE).await.expect("writes go on");
    certificates.show(&new).expect("written");
    all_have(&lab, "everyone shows the new one", |report| report.certificate != before.certificate).await;
    load.acked_more(100, PATIENCE).await.expect("writes go on");
    certificates.trust(&[&new]).expect("written");
    all_have(&lab, "nobody trusts the old one", |report| report.authorities.len() == 1).await;

    // Streams that were up before still are; a new one has the new certificate on it.
    assert_eq!(broken(&lab).await, broken_before, "a stream broke");
    for index in lab.indices() {
        let loaded = lab.counter(index, "quorumkv_node_certificate_loads_total", "loaded").await.expect("metrics");
        assert!(loaded >= 3.0, "node {index} has loaded {loaded} times");
        let refused = lab.counter(index, "quorumkv_node_certificate_loads_total", "refused").await.expect("metrics");
        assert!(refused < 0.5, "node {index} saw files in the making for {refused} times");
    }
    lab.node(5).kill().expect("it runs");
    lab.node(5).start().expect("it starts");
    lab.ready(5).await.expect("it follows again");
    load.acked_more(100, PATIENCE).await.expect("writes go on");

    let report = load.stop().await.expect("it ends");
    report.expect_no_failure().expect("no write fails");
    let content = lab.client().final_values(&lab.url(0)).await.expect("the content");
    history::check_with_content(&report.operations, &content).expect("nothing acknowledged is lost");
    lab.equal_content(lab.followers()).await.expect("replicas are equal");
}

#[tokio::test]
async fn a_node_with_the_certificates_of_strangers_is_refused_until_it_has_the_right_ones() {
    let (ours, theirs) = (Authority::new().expect("one"), Authority::new().expect("another"));
    let (certificates, own) = (Certificates::of(&ours).expect("files"), Certificates::of(&ours).expect("files"));
    let variables = own.environment().map(|(name, value)| (2, name, value)).into();
    let options = LabOptions { followers: 2, write_quorum: 1, variables, ..LabOptions::default() };
    let mut lab = lab(&certificates, options).await;

    own.trust(&[&theirs]).expect("written");
    own.show(&theirs).expect("written");
    lab.node(2).kill().expect("it runs");
    lab.node(2).start().expect("it starts");
    let url = lab.peer_url(2);
    let refused = wait::until("it is refused for its certificate", PATIENCE, || async {
        let error = lab.peer().state(&url).await.err().context("it was accepted")?.to_string();
        ensure!(error.contains("UnknownIssuer"), "{error}");
        Ok(())
    });
    refused.await.expect("its authority is a stranger's");
    let alone = |connected: usize| {
        move |status: &quorumkv_api::lab::StatusReply| {
            status.followers.iter().filter(|follower| follower.connected).count() == connected
        }
    };
    lab.leader_status("the leader has lost one follower", PATIENCE, alone(1)).await.expect("it has");
    tokio::time::sleep(Duration::from_secs(3)).await;
    lab.leader_status("and does not find it again", PATIENCE, alone(1)).await.expect("it does not");
    let answer = lab.client().set(&lab.url(0), "k", "v").await.expect("an answer");
    assert_eq!(answer.status, StatusCode::OK, "the others go on: {}", answer.text);

    own.trust(&[&ours]).expect("written");
    own.show(&ours).expect("written");
    lab.leader_status("it is back without a restart", PATIENCE, alone(2)).await.expect("it is");
    lab.equal_content(lab.followers()).await.expect("replicas are equal");
}

#[tokio::test]
async fn a_leader_that_comes_back_fetches_its_copy_and_who_speaks_no_tls_is_told_so() {
    let certificates = Certificates::of(&Authority::new().expect("one")).expect("files");
    let options = LabOptions { followers: 2, write_quorum: 2, ..LabOptions::default() };
    let mut lab = lab(&certificates, options).await;
    for n in 0..100 {
        let answer = lab.client().set(&lab.url(0), &format!("k{n}"), "v").await.expect("an answer");
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    }
    lab.node(0).kill().expect("it runs");
    lab.node(0).start().expect("it starts");
    lab.all_ready().await.expect("it leads again");
    assert_eq!(lab.equal_content(lab.followers()).await.expect("replicas are equal").len(), 100);

    let plain = lab.peer_url(1).replacen("https", "http", 1);
    let answer = lab.client().get_path(&plain, "/state").await.expect("an answer");
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert!(answer.text.contains("this port speaks TLS"), "{}", answer.text);
    let without = certificates.client(None, PATIENCE).state(&lab.peer_url(1)).await;
    let refusal = without.expect_err("TLS does not stand for the token");
    assert!(matches!(refusal, CallError::Refused { .. }), "{refusal}");
}
