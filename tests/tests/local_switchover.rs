//! `quorumkv-operator local`: leadership handed over because the manifest asks for it, over real processes.

use std::time::Duration;

use quorumkv_tests::{
    client::LabClient,
    history::{Action, Outcome, check_with_content},
    load::{Load, Policy},
    processes::{LocalOperator, Manifest},
};
use reqwest::StatusCode;

const PATIENCE: Duration = Duration::from_secs(30);

/// The manifest with the wish that this node shall lead.
fn wishing_for(manifest: &Manifest, url: &str) -> String {
    let node = url.trim_start_matches("http://").to_owned();
    Manifest { switchover_to: Some(node), ..manifest.clone() }.to_string()
}

#[tokio::test]
async fn leadership_goes_where_it_is_asked_to_under_load_and_nothing_is_lost() {
    let manifest = Manifest::default();
    let operator = LocalOperator::start(&manifest).await.expect("the store comes up");
    let load = Load::new(operator.target()).clients(8).keys("k", 20).reads_percent(30);
    let load =
        load.policy(Policy::Follow { patience: PATIENCE }).timeout(Duration::from_secs(5)).start().expect("it starts");
    let urls = operator.urls();
    for wanted in [&urls[2], &urls[4], &urls[0]] {
        load.acked_more(200, PATIENCE).await.expect("writes succeed");
        let leads = |url: &str, _: &quorumkv_api::lab::StatusReply| url == wanted;
        let mut tries = 0;
        loop {
            tries += 1;
            operator.save(&wishing_for(&manifest, wanted)).expect("it can be written");
            match operator.leader_status("the wanted node leads", Duration::from_secs(5), leads).await {
                Ok(_) => break,
                // Allowed where its log is too short in the moment of the fence. The same wish again is none.
                Err(error) if tries == 5 => panic!("{error:#}"),
                Err(_) => operator.save(&manifest.to_string()).expect("it can be written"),
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        operator.whole(PATIENCE).await.expect("the old leader follows");
    }
    load.acked_more(200, PATIENCE).await.expect("writes succeed again");
    let (_, before) = operator.leader().await.expect("somebody leads");
    // Saved again with the same wish, although another was asked for in between: it leads already.
    operator.save(&wishing_for(&manifest, "http://nobody")).expect("it can be written");
    operator.printed("No switchover: nobody is no node", PATIENCE).await.expect("it says why");
    operator.save(&wishing_for(&manifest, &urls[0])).expect("it can be written");
    operator.printed("leads already", PATIENCE).await.expect("it says so");
    let (leader, after) = operator.leader().await.expect("somebody leads");
    assert_eq!((leader.as_str(), after.epoch), (urls[0].as_str(), before.epoch), "nobody was disturbed");

    let report = load.stop().await.expect("it ends");
    // A lease is waited for, which is a second; the rest is for a busy machine.
    assert!(report.longest_gap() < Duration::from_secs(5), "no write for {:?}", report.longest_gap());
    // A 503 may be of unknown outcome, so the load does not repeat it; whoever is sent to another node goes there.
    let refused = |action: &Action| matches!(action, Action::Write { outcome: Outcome::Refused { .. }, .. });
    assert_eq!(
        report.failed().filter(|operation| refused(&operation.action)).count(),
        0,
        "whoever tries again succeeds"
    );
    let content = operator.client().final_values(&urls[0]).await.expect("content");
    check_with_content(&report.operations, &content).unwrap_or_else(|violation| panic!("{violation}"));
}

#[tokio::test]
async fn a_kept_connection_to_a_former_leader_does_not_become_a_followers() {
    let manifest = Manifest::default();
    let operator = LocalOperator::start(&manifest).await.expect("the store comes up");
    let (old, new) = (&operator.urls()[0], &operator.urls()[2]);
    // One client for one connection: the operator's own has others.
    let client = LabClient::new(Duration::from_secs(5)).expect("a client");
    assert_eq!(client.set(old, "k", "v").await.expect("an answer").status, StatusCode::OK);
    operator.save(&wishing_for(&manifest, new)).expect("it can be written");
    operator.leader_status("the wanted node leads", PATIENCE, |url, _| url == new).await.expect("it can");
    operator.whole(PATIENCE).await.expect("the old leader follows");
    let refused = client.get(old, "k", "").await.expect("an answer");
    assert_eq!((refused.status, refused.body["leader"].as_str()), (StatusCode::FORBIDDEN, Some(new.as_str())));
    let answered = client.get(old, "k", "").await.expect("an answer");
    assert_eq!((answered.status, &answered.body["value"]), (StatusCode::OK, &"v".into()), "on a new connection");
}
