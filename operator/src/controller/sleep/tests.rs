//! A store of nodes that answer as they are told falls asleep, against a scripted API server.

use std::sync::Arc;

use http::{Method, StatusCode};
use kube::ResourceExt as _;
use serde_json::Value;

use super::*;
use crate::{
    apply::StatusRecord,
    build::Objects,
    controller::tests::{context, observed_pods, recorded, value},
    crd::WhenDeleted,
    observe::Observed,
    testing::{
        Scene,
        api::{Expected, server},
        nodes::{Journal, serve},
        valid_cluster,
    },
    validate::{ValidCluster, ValidStorage},
};

const EVENTS: &str = "/apis/events.k8s.io/v1/namespaces/default/events";
const CLUSTER: &str = "/apis/quorumkv.io/v1alpha1/namespaces/default/kvclusters/demo";
const STATUS: &str = "/apis/quorumkv.io/v1alpha1/namespaces/default/kvclusters/demo/status";
const SET: &str = "/apis/apps/v1/namespaces/default/statefulsets/demo";
const LEADER: &str = "/api/v1/namespaces/default/pods/n0";

fn valid(scene: &Scene) -> ValidCluster {
    let storage = ValidStorage::Persistent { size: "1Gi".into(), class: None, when_deleted: WhenDeleted::Retain };
    ValidCluster { store: scene.store.clone(), storage, hibernated: true, ..valid_cluster() }
}

/// What the caches hold of it while it is at work.
fn at_work(valid: &ValidCluster) -> Observed {
    let Objects { services, budget, nodes } = build::objects(valid);
    Observed {
        services: services.map(|service| (service.name_any(), Arc::new(service))).into(),
        budget: Some(Arc::new(budget)),
        stateful_set: Some(Arc::new(nodes)),
        ..observed_pods()
    }
}

/// Lets a store settle once; what was sent, what the nodes were asked, and what is remembered.
async fn settled_once(
    scene: &Scene,
    script: Vec<Expected>,
    mut memory: ClusterMemory,
) -> (Result<Duration, ReconcileError>, Vec<Value>, Vec<String>, ClusterMemory) {
    let (client, server) = server(script);
    let (context, valid, cluster) = (context(client.clone()), valid(scene), recorded(&scene.record));
    let (observed, platform) = (at_work(&valid), StatusRecord::new(&client, &valid));
    let journal = Journal::default();
    let nodes = serve(scene, &journal).await;
    let site = Site { cluster: &cluster, context: &context, valid: &valid, observed: &observed, platform: &platform };
    let peers = PeerClient::new(None, manage::ANSWER_TIMEOUT).expect("a client");
    let outcome = settle(&site, &peers, nodes, scene.record.clone(), &mut memory).await;
    drop((client, context, platform));
    let sent = server.await.expect("the script was followed");
    let asked = std::mem::take(&mut *journal.lock().expect("not poisoned"));
    (outcome, sent, asked, memory)
}

/// What is asked of the API server until nobody leads any more.
fn until_nobody_leads(scene: &Scene) -> Vec<Expected> {
    let before = value(&recorded(&scene.record));
    let epoch = quorumkv_api::Epoch(scene.record.epoch.0 + 1);
    let after = value(&recorded(&Record { epoch, leader: None, ..scene.record.clone() }));
    vec![
        Expected::written(Method::POST, EVENTS),
        Expected::written(Method::PATCH, LEADER),
        Expected::found(CLUSTER, before.clone()),
        Expected::found(CLUSTER, before),
        Expected::written(Method::PATCH, STATUS).answering(after),
    ]
}

fn report_of(scene: &Scene) -> Expected {
    Expected::written(Method::PATCH, STATUS).answering(value(&recorded(&scene.record)))
}

#[tokio::test]
async fn nobody_is_shown_as_leader_then_nobody_leads_then_the_nodes_stop() {
    let scene = Scene::steady();
    let mut script = until_nobody_leads(&scene);
    script.extend([Expected::written(Method::PATCH, SET), report_of(&scene)]);
    let (outcome, sent, asked, memory) = settled_once(&scene, script, ClusterMemory::default()).await;
    assert_eq!(outcome.expect("settled"), PAUSE);
    assert_eq!(sent[0]["reason"], "Hibernating");
    assert_eq!(sent[1]["metadata"]["labels"][names::ROLE], "follower");
    assert!(sent[4]["status"]["leader"].is_null() && sent[4]["status"]["epoch"] == 4, "{}", sent[4]);
    assert_eq!(sent[5]["spec"]["replicas"], 0);
    assert_eq!(sent[6]["status"]["conditions"][0]["reason"], HIBERNATING);
    let mut fences = asked[1..].to_vec();
    fences.sort();
    assert_eq!(fences, (0..6).map(|n| format!("n{n} fence 4")).collect::<Vec<_>>());
    let told = memory.sleep.expect("it falls asleep").told;
    assert_eq!(told.as_deref(), Some("every node holds everything, up to version 9"));
}

#[tokio::test]
async fn while_a_follower_is_behind_nobody_is_asked_to_stop() {
    let mut scene = Scene::steady();
    scene.seen(4).caught_up = false;
    let before = value(&recorded(&scene.record));
    let script = vec![
        Expected::written(Method::POST, EVENTS),
        Expected::written(Method::PATCH, LEADER),
        Expected::found(CLUSTER, before),
        report_of(&scene),
    ];
    let (outcome, _, asked, memory) = settled_once(&scene, script, ClusterMemory::default()).await;
    outcome.expect("it waits");
    assert_eq!(asked, ["n0 members 6 of epoch 3"]);
    assert!(!memory.sleep.expect("it falls asleep").is_told());
}

#[tokio::test]
async fn a_write_that_slipped_in_is_fetched_by_all_before_the_nodes_stop() {
    let mut scene = Scene::steady();
    // Caught up when the leader was asked, and no longer when all had promised.
    scene.state(4).last.seq.0 -= 1;
    let mut script = until_nobody_leads(&scene);
    script.push(report_of(&scene));
    let (outcome, .., memory) = settled_once(&scene, script, ClusterMemory::default()).await;
    outcome.expect("the next pass elects a leader again");
    assert!(!memory.sleep.expect("it falls asleep").is_told());
}

#[tokio::test]
async fn the_patience_is_limited_and_people_are_told_who_is_behind() {
    let mut scene = Scene::steady();
    scene.seen(4).caught_up = false;
    scene.state(4).last.seq.0 -= 2;
    let mut script = until_nobody_leads(&scene);
    script.extend([Expected::written(Method::POST, EVENTS), Expected::written(Method::PATCH, SET), report_of(&scene)]);
    // Its beginning was told.
    script.remove(0);
    let since = Instant::now().checked_sub(PATIENCE).expect("the machine runs for longer");
    let memory = ClusterMemory { sleep: Some(Falling { since, ..Falling::begins() }), ..ClusterMemory::default() };
    let (outcome, sent, _, memory) = settled_once(&scene, script, memory).await;
    outcome.expect("stopped");
    assert_eq!((&sent[4]["reason"], &sent[4]["type"]), (&"HibernatedUnsettled".into(), &"Warning".into()));
    assert!(sent[4]["note"].as_str().expect("a note").contains("n4 ends at 7"), "{}", sent[4]);
    assert!(memory.sleep.expect("it falls asleep").is_told());
}

/// Wherever it is cut off, nothing is told to stop that was not asked first.
#[tokio::test]
async fn an_operator_that_is_cut_off_anywhere_leaves_something_to_go_on_from() {
    let scene = Scene::steady();
    for cut in 1..6 {
        let mut script = until_nobody_leads(&scene);
        script.push(Expected::written(Method::PATCH, SET));
        script.truncate(cut);
        let (method, path) = [
            (Method::PATCH, LEADER),
            (Method::GET, CLUSTER),
            (Method::GET, CLUSTER),
            (Method::PATCH, STATUS),
            (Method::PATCH, SET),
        ][cut - 1]
            .clone();
        script.push(Expected::failing(method, path, StatusCode::SERVICE_UNAVAILABLE));
        let (outcome, sent, asked, memory) = settled_once(&scene, script, ClusterMemory::default()).await;
        outcome.expect_err("the API server is away");
        assert_eq!(sent.len(), cut + 1);
        assert!(!memory.sleep.expect("it falls asleep").is_told(), "after {cut}");
        let fenced = asked.iter().any(|line| line.contains("fence"));
        assert_eq!(fenced, cut == 5, "only once it is on record: after {cut}");
    }
}

fn stopped(valid: &ValidCluster, pods: bool) -> Observed {
    let observed = at_work(&ValidCluster { stopped: true, ..valid.clone() });
    if pods { observed } else { Observed { pods: Default::default(), ..observed } }
}

/// For a store whose nodes are not asked.
fn nobody_there() -> PeerClient {
    PeerClient::new(None, manage::ANSWER_TIMEOUT).expect("a client")
}

#[tokio::test]
async fn a_store_that_sleeps_is_told_so_once_and_then_nothing_is_written() {
    let scene = Scene::steady();
    let nobody = Record { leader: None, ..scene.record.clone() };
    let valid = valid(&scene);
    let mut cluster = recorded(&nobody);
    let mut memory = ClusterMemory::default();
    let scripts = [vec![Expected::written(Method::POST, EVENTS), report_of(&scene)], Vec::new()];
    for script in scripts {
        let (client, server) = server(script);
        let (context, platform) = (context(client.clone()), StatusRecord::new(&client, &valid));
        let observed = stopped(&valid, false);
        let site =
            Site { cluster: &cluster, context: &context, valid: &valid, observed: &observed, platform: &platform };
        let pause = rest(&site, Stage::Asleep, &nobody_there(), nobody.clone(), &mut memory).await.expect("it sleeps");
        assert_eq!(pause, ASLEEP);
        drop((client, context, platform));
        let sent = server.await.expect("the script was followed");
        if let [event, report] = sent.as_slice() {
            assert_eq!(event["reason"], "Hibernated");
            let mut status = value(&recorded(&nobody))["status"].take();
            let written = report["status"].as_object().expect("a status").clone();
            status.as_object_mut().expect("a status").extend(written);
            cluster.status = Some(serde_json::from_value(status).expect("a status"));
        }
    }
}

#[tokio::test]
async fn who_was_not_asked_to_stand_down_is_taken_off_the_record() {
    let scene = Scene::steady();
    let valid = valid(&scene);
    let (before, after) = (recorded(&scene.record), recorded(&Record { leader: None, ..scene.record.clone() }));
    let script = vec![
        Expected::found(CLUSTER, value(&before)),
        Expected::written(Method::PATCH, STATUS).answering(value(&after)),
        report_of(&scene),
    ];
    let (client, server) = server(script);
    let (context, platform) = (context(client.clone()), StatusRecord::new(&client, &valid));
    let observed = stopped(&valid, true);
    let site = Site { cluster: &before, context: &context, valid: &valid, observed: &observed, platform: &platform };
    let mut memory = ClusterMemory::default();
    let known = scene.record.clone();
    let pause = rest(&site, Stage::Stopping, &nobody_there(), known, &mut memory).await.expect("it falls asleep");
    assert_eq!(pause, PAUSE);
    drop((client, context, platform));
    let sent = server.await.expect("the script was followed");
    assert!(sent[1]["status"]["leader"].is_null(), "{}", sent[1]);
    assert_eq!(sent[1]["status"]["members"].as_array().map(Vec::len), Some(6), "their copies count as before");
    assert_eq!(sent[1]["metadata"]["resourceVersion"], "10");
}

#[tokio::test]
async fn that_a_store_wakes_up_is_told_once_also_by_another_operator() {
    let scene = Scene::steady();
    let valid = ValidCluster { hibernated: false, ..valid(&scene) };
    let mut slept = recorded(&scene.record);
    let summary = status::asleep(&scene.store, &scene.record, HIBERNATED, "zzz");
    let now = k8s_openapi::jiff::Timestamp::now();
    let status = status::after_pass(None, Some(4), String::new(), &summary, None, now).expect("a status");
    slept.status = Some(serde_json::from_value(serde_json::to_value(status).expect("serializes")).expect("a status"));
    let (client, server) = server(vec![Expected::written(Method::POST, EVENTS)]);
    let (context, platform) = (context(client.clone()), StatusRecord::new(&client, &valid));
    let observed = stopped(&valid, false);
    let site = Site { cluster: &slept, context: &context, valid: &valid, observed: &observed, platform: &platform };
    let mut memory = ClusterMemory::default();
    for _ in 0..2 {
        wake(&site, &mut memory).await;
    }
    let awake = recorded(&scene.record);
    let site = Site { cluster: &awake, ..site };
    wake(&site, &mut ClusterMemory::default()).await;
    drop((client, context, platform));
    assert_eq!(server.await.expect("the script was followed")[0]["reason"], "Waking");
}

#[tokio::test]
async fn a_pod_that_does_not_end_is_named_with_its_machine_and_an_event_once() {
    let scene = Scene::steady();
    let nobody = Record { leader: None, ..scene.record.clone() };
    let (valid, cluster) = (valid(&scene), recorded(&nobody));
    let mut observed = stopped(&valid, true);
    observed.pods.retain(|node, _| ["n3", "n4"].contains(&node.0.as_str()));
    let pod = Arc::make_mut(observed.pods.get_mut(&"n3".into()).expect("a pod"));
    pod.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::UNIX_EPOCH));
    pod.spec.get_or_insert_default().node_name = Some("worker-2".into());
    let script = vec![Expected::written(Method::POST, EVENTS), report_of(&scene), report_of(&scene)];
    let (client, server) = server(script);
    let (context, platform) = (context(client.clone()), StatusRecord::new(&client, &valid));
    let site = Site { cluster: &cluster, context: &context, valid: &valid, observed: &observed, platform: &platform };
    let mut memory = ClusterMemory::default();
    for _ in 0..2 {
        let pause = rest(&site, Stage::Stopping, &nobody_there(), nobody.clone(), &mut memory).await.expect("it waits");
        assert_eq!(pause, PAUSE);
    }
    drop((client, context, platform));
    let sent = server.await.expect("the script was followed");
    assert_eq!((&sent[0]["reason"], &sent[0]["type"]), (&"HibernationHeld".into(), &"Warning".into()));
    assert!(sent[0]["note"].as_str().is_some_and(|note| note.contains("n3 (on worker-2)")), "{}", sent[0]);
    let message = sent[1]["status"]["conditions"][0]["message"].as_str().expect("a message");
    assert!(message.contains("still there: n3, n4.") && message.contains("n3 (on worker-2)"), "{message}");
}

/// It is no failover that waits for it, but the status would not say that the store sleeps.
#[tokio::test]
async fn that_a_store_sleeps_is_told_before_anything_is_done_that_may_fail() {
    let scene = Scene::steady();
    let nobody = Record { leader: None, ..scene.record.clone() };
    let (valid, cluster) = (valid(&scene), recorded(&nobody));
    let claim = serde_json::json!({
        "metadata": {"name": "data-n0", "namespace": "default", "uid": "x"},
        "spec": {"resources": {"requests": {"storage": "512Mi"}}},
        "status": {"phase": "Bound", "capacity": {"storage": "512Mi"}},
    });
    let mut observed = stopped(&valid, false);
    observed.claims.insert("n0".into(), Arc::new(serde_json::from_value(claim).expect("a claim")));
    let path = "/api/v1/namespaces/default/persistentvolumeclaims/data-n0";
    let script = vec![
        Expected::written(Method::POST, EVENTS),
        report_of(&scene),
        Expected::failing(Method::PATCH, path, StatusCode::SERVICE_UNAVAILABLE),
    ];
    let (client, server) = server(script);
    let (context, platform) = (context(client.clone()), StatusRecord::new(&client, &valid));
    let site = Site { cluster: &cluster, context: &context, valid: &valid, observed: &observed, platform: &platform };
    let mut memory = ClusterMemory::default();
    let pause = rest(&site, Stage::Asleep, &nobody_there(), nobody, &mut memory).await.expect("it sleeps all the same");
    assert!(pause < ASLEEP, "it is tried again before: {pause:?}");
    drop((client, context, platform));
    let sent = server.await.expect("the script was followed");
    assert_eq!(sent[1]["status"]["conditions"][0]["reason"], HIBERNATED);
}
