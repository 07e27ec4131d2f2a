//! Reconciles against a scripted API server.

use kube::runtime::{events::Reporter, reflector};
use serde_json::json;

use super::*;
use crate::{
    crd::KvClusterStatus,
    testing::{Scene, api, cluster, valid_cluster},
    watching::Gap,
};

pub(super) fn context(client: Client) -> Context {
    Context {
        recorder: Recorder::new(client.clone(), Reporter { controller: "test".into(), instance: None }),
        client,
        caches: Caches {
            stateful_sets: reflector::store().0,
            services: reflector::store().0,
            budgets: reflector::store().0,
            pods: reflector::store().0,
            claims: reflector::store().0,
            gaps: Default::default(),
        },
        clusters: reflector::store().0,
        metrics: Arc::default(),
        news: News::default(),
        node_image: "quorumkv-node:test".into(),
        policy: None,
        memories: std::sync::Mutex::default(),
    }
}

/// A pass over `default/demo` that found everything at rest.
pub(super) fn calm_pass() -> (ValidCluster, Pass) {
    let scene = Scene::steady();
    let pass = scene.pass();
    (ValidCluster { store: scene.store, ..valid_cluster() }, pass)
}

/// The KvCluster with this record.
pub(super) fn recorded(record: &Record) -> KvCluster {
    let mut cluster = cluster();
    cluster.status = Some(KvClusterStatus {
        epoch: i64::try_from(record.epoch.0).ok(),
        leader: record.leader.as_ref().map(|leader| leader.0.clone()),
        last_leader: record.last_leader_status(),
        members: record.member_statuses(),
        configuration: record.configuration_status(),
        ..KvClusterStatus::default()
    });
    cluster
}

pub(super) fn value(cluster: &KvCluster) -> serde_json::Value {
    serde_json::to_value(cluster).expect("serializes")
}

fn pod(name: &str, role: &str) -> Arc<k8s_openapi::api::core::v1::Pod> {
    let pod = json!({"metadata": {
        "name": name, "namespace": "default", "uid": name, "resourceVersion": "7", "labels": {names::ROLE: role},
    }});
    Arc::new(serde_json::from_value(pod).expect("a pod"))
}

pub(super) fn observed_pods() -> Observed {
    let pods = (0..6).map(|n| {
        let name = format!("n{n}");
        (name.as_str().into(), pod(&name, if n == 0 { "leader" } else { "follower" }))
    });
    Observed { pods: pods.collect(), ..Observed::default() }
}

#[tokio::test]
async fn an_idle_reconcile_writes_nothing() {
    let (valid, pass) = calm_pass();
    let mut cluster = cluster();
    let summary = status::summarize(&valid.store, &pass);
    let selector = names::selector_text(&valid.name);
    let status = status::after_pass(None, valid.generation, selector, &summary, None, Timestamp::now());
    let status = serde_json::to_value(status.expect("a first status")).expect("serializes");
    cluster.status = Some(serde_json::from_value(status).expect("a status"));

    let (client, server) = api::server(Vec::new());
    let context = context(client);
    let observed = observed_pods();
    tell(&cluster, &context, &pass.happenings).await;
    label_pods(&context, &valid, &observed, &pass, &mut Sent::default()).await.expect("nothing to label");
    replace_outdated(&context, &observed, &pass).await.expect("nothing to replace");
    let platform = StatusRecord::new(&context.client, &valid);
    let site = Site { cluster: &cluster, context: &context, valid: &valid, observed: &observed, platform: &platform };
    let mut memory = ClusterMemory::default();
    assert!(!growth::ask(&site, &mut memory.growth).await.expect("nothing to grow"));
    report(&site, summary, &mut memory).await.expect("nothing to report");
    drop((context, platform));
    server.await.expect("nothing was sent");
}

#[tokio::test]
async fn an_old_leader_loses_its_label_before_the_new_one_gets_it() {
    let (valid, pass) = calm_pass();
    let mut observed = observed_pods();
    observed.pods.insert("n0".into(), pod("n0", "follower"));
    observed.pods.insert("n4".into(), pod("n4", "leader"));
    let patched = |path| api::Expected::written(http::Method::PATCH, path);
    let script = vec![patched("/api/v1/namespaces/default/pods/n4"), patched("/api/v1/namespaces/default/pods/n0")];
    let (client, server) = api::server(script);
    let context = context(client);
    let mut sent = Sent::default();
    label_pods(&context, &valid, &observed, &pass, &mut sent).await.expect("labelled");
    label_pods(&context, &valid, &observed, &pass, &mut sent).await.expect("the cache has not heard of it");
    drop(context);
    let sent = server.await.expect("the script was followed");
    assert_eq!(sent[1]["metadata"]["labels"][names::ROLE], "leader");
    assert_eq!(sent[1]["metadata"]["uid"], "n0");
}

/// The cache has not heard of the first label when leadership has gone on already.
#[tokio::test]
async fn a_label_that_the_cache_does_not_show_yet_is_taken_away_all_the_same() {
    let (valid, pass) = calm_pass();
    let mut observed = observed_pods();
    observed.pods.insert("n0".into(), pod("n0", "follower"));
    let (old, new) = ("/api/v1/namespaces/default/pods/n0", "/api/v1/namespaces/default/pods/n4");
    let script = [old, old, new].map(|path| api::Expected::written(http::Method::PATCH, path));
    let (client, server) = api::server(script.into());
    let context = context(client);
    let mut sent = Sent::default();
    label_pods(&context, &valid, &observed, &pass, &mut sent).await.expect("labelled");
    let mut scene = Scene::steady();
    scene.record.leader = Some("n4".into());
    scene.state(0).role = Role::Follower;
    scene.state(4).role = Role::Leader;
    label_pods(&context, &valid, &observed, &scene.pass(), &mut sent).await.expect("labelled");
    drop(context);
    let sent = server.await.expect("the script was followed");
    let labels: Vec<_> = sent.iter().map(|patch| &patch["metadata"]["labels"][names::ROLE]).collect();
    assert_eq!(labels, ["leader", "follower", "leader"]);
}

#[tokio::test]
async fn a_pod_that_is_replaced_is_deleted_once_and_no_other_of_its_name() {
    let (_, mut pass) = calm_pass();
    pass.roll = Roll::Replace("n3".into());
    let (client, server) =
        api::server(vec![api::Expected::written(http::Method::DELETE, "/api/v1/namespaces/default/pods/n3")]);
    let context = context(client);
    let mut observed = observed_pods();
    replace_outdated(&context, &observed, &pass).await.expect("deleted");
    let going = observed.pods.get_mut(&"n3".into()).expect("a pod");
    Arc::make_mut(going).metadata.deletion_timestamp =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::UNIX_EPOCH));
    replace_outdated(&context, &observed, &pass).await.expect("it goes already");
    drop(context);
    let sent = server.await.expect("the script was followed");
    assert_eq!(sent[0]["preconditions"]["uid"], "n3");
}

/// A store with one volume of 1Gi for which 2Gi are wanted, and what was reported of it before.
fn small_volume(reported: Option<&str>) -> (KvCluster, ValidCluster, Observed) {
    let mut cluster = cluster();
    let condition = |reason: &str| {
        json!({"conditions": [{
            "type": "VolumesResized", "status": "False", "reason": reason, "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }]})
    };
    cluster.status = reported.map(|reason| serde_json::from_value(condition(reason)).expect("a status"));
    let when_deleted = crate::crd::WhenDeleted::Retain;
    let storage = crate::validate::ValidStorage::Persistent { size: "2Gi".into(), class: None, when_deleted };
    let claim = json!({
        "metadata": {"name": "data-demo-0", "namespace": "default", "uid": "x"},
        "spec": {"resources": {"requests": {"storage": "1Gi"}}},
        "status": {"phase": "Bound", "capacity": {"storage": "1Gi"}},
    });
    let claims = [("demo-0".into(), Arc::new(serde_json::from_value(claim).expect("a claim")))].into();
    (cluster, ValidCluster { storage, ..valid_cluster() }, Observed { claims, ..Observed::default() })
}

#[rstest::rstest]
#[case::taken(None, "Growing", "VolumesGrowing")]
#[case::refused(Some("the storageclass must support resize"), "CannotGrow", "VolumesCannotGrow")]
#[tokio::test]
async fn a_larger_volume_is_asked_for_and_the_answer_is_told(
    #[case] refusal: Option<&str>,
    #[case] reason: &str,
    #[case] event: &str,
) {
    const CLAIM: &str = "/api/v1/namespaces/default/persistentvolumeclaims/data-demo-0";
    let asked = match refusal {
        None => api::Expected::written(http::Method::PATCH, CLAIM),
        Some(message) => {
            let answer =
                json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": 403});
            api::Expected::failing(http::Method::PATCH, CLAIM, http::StatusCode::FORBIDDEN).answering(answer)
        }
    };
    let told = api::Expected::written(http::Method::POST, "/apis/events.k8s.io/v1/namespaces/default/events");
    let (client, server) = api::server(vec![asked, told]);
    let context = context(client.clone());
    let (cluster, valid, observed) = small_volume(None);
    let platform = StatusRecord::new(&client, &valid);
    let site = Site { cluster: &cluster, context: &context, valid: &valid, observed: &observed, platform: &platform };
    let mut refused = growth::Refused::default();
    assert_eq!(growth::look(&site, &refused).await, None, "it is not known yet what becomes of it");
    assert!(growth::ask(&site, &mut refused).await.expect("an answer"));
    let mut after = observed.clone();
    if refusal.is_none() {
        let claim = Arc::make_mut(after.claims.values_mut().next().expect("a claim"));
        let asked = json!({"resources": {"requests": {"storage": "2Gi"}}});
        claim.spec = Some(serde_json::from_value(asked).expect("a spec"));
    }
    let site = Site { observed: &after, ..site };
    let report = growth::look(&site, &refused).await.expect("a report");
    assert_eq!((report.resized.reason, report.smallest.as_deref()), (reason, Some("1Gi")));
    assert!(refusal.is_none_or(|refusal| report.resized.message.contains(refusal)), "{}", report.resized.message);
    // It is reported by now; the API server is not asked again at once, and nothing is told twice.
    let (cluster, ..) = small_volume(Some(reason));
    let site = Site { cluster: &cluster, ..site };
    assert!(!growth::ask(&site, &mut refused).await.expect("known"));
    assert_eq!(growth::look(&site, &refused).await, Some(report));
    // An operator that has just started does not know of the refusal, and leaves what is told of it until it does.
    if refusal.is_some() {
        let resized = growth::look(&site, &growth::Refused::default()).await.expect("a report").resized;
        assert_eq!(resized.reason, reason);
    }
    drop((client, context, platform));
    let sent = server.await.expect("the script was followed");
    assert_eq!(sent[1]["reason"], event);
}

/// So many events, then a status.
fn events_and_status(cluster: &KvCluster, events: usize) -> Vec<api::Expected> {
    let path = "/apis/events.k8s.io/v1/namespaces/default/events";
    let status = "/apis/quorumkv.io/v1alpha1/namespaces/default/kvclusters/demo/status";
    let mut script: Vec<_> = (0..events).map(|_| api::Expected::written(http::Method::POST, path)).collect();
    let answer = serde_json::to_value(cluster).expect("serializes");
    script.push(api::Expected::written(http::Method::PATCH, status).answering(answer));
    script
}

#[tokio::test]
async fn a_spec_that_cannot_be_built_is_reported_once() {
    let mut cluster = cluster();
    cluster.spec.write_quorum = 9;
    let (client, server) = api::server(events_and_status(&cluster, 1));
    let context = context(client);
    let mut memory = ClusterMemory::default();
    steps(&cluster, &context, &mut memory).await.expect("reported");
    drop(context);
    let sent = server.await.expect("the script was followed");
    assert_eq!(sent[1]["status"]["conditions"][0]["reason"], "InvalidSpec");

    cluster.status = Some(serde_json::from_value(sent[1]["status"].clone()).expect("a status"));
    let (client, server) = api::server(Vec::new());
    let context = self::context(client);
    steps(&cluster, &context, &mut memory).await.expect("known");
    drop(context);
    server.await.expect("nothing was sent");
}

const CLUSTER: &str = "/apis/quorumkv.io/v1alpha1/namespaces/default/kvclusters/demo";
const SECRET: &str = "/api/v1/namespaces/default/secrets/demo-peer-token";

/// Else its pods could start with a token that goes away with it.
#[tokio::test]
async fn nothing_is_made_while_the_secret_of_an_earlier_cluster_is_there() {
    let owner = json!({"apiVersion": "v1", "kind": "KvCluster", "name": "demo", "uid": "earlier", "controller": true});
    let left =
        json!({"metadata": {"name": "demo-peer-token", "ownerReferences": [owner]}, "data": {"token": "c2VjcmV0"}});
    let (client, server) = api::server(vec![api::Expected::found(SECRET, left)]);
    let context = context(client);
    let error = steps(&cluster(), &context, &mut ClusterMemory::default()).await.expect_err("it is in the way");
    assert_eq!((error.label(), error.is_passing()), ("being_deleted", true), "{error}");
    drop(context);
    server.await.expect("nothing was written");
}

#[tokio::test]
async fn a_cluster_that_is_gone_is_let_go_without_an_error() {
    let (client, server) = api::server(vec![api::Expected::missing(SECRET), api::Expected::missing(CLUSTER)]);
    let context = Arc::new(context(client));
    let action = reconcile(Arc::new(cluster()), Arc::clone(&context)).await.expect("no error");
    assert_eq!(action, Action::await_change());
    let metrics = context.metrics.text().expect("text");
    assert!(metrics.contains("reconciles_put_off_total{reason=\"gone\"} 1"), "{metrics}");
    assert!(!metrics.contains("reconcile_errors_total{"), "{metrics}");
    drop(context);
    server.await.expect("nothing was written");
}

#[rstest::rstest]
#[case::somebody_was_faster(409, "conflict", true)]
#[case::not_allowed(403, "kubernetes_refused", false)]
#[case::too_many_requests(429, "kubernetes_unavailable", false)]
#[case::down(503, "kubernetes_unavailable", false)]
#[tokio::test]
async fn an_answer_of_the_api_server_is_counted_by_what_it_means(
    #[case] code: u16,
    #[case] label: &str,
    #[case] passing: bool,
) {
    let status = http::StatusCode::from_u16(code).expect("a status code");
    let script = vec![api::Expected::missing(SECRET), api::Expected::failing(http::Method::GET, CLUSTER, status)];
    let (client, server) = api::server(script);
    let context = context(client);
    let error = steps(&cluster(), &context, &mut ClusterMemory::default()).await.expect_err("scripted");
    assert_eq!((error.label(), error.is_passing()), (label, passing), "{error}");
    drop(context);
    server.await.expect("nothing was written");
}

#[tokio::test]
async fn a_paused_store_is_told_so_once_and_nothing_else_is_written() {
    let mut cluster = cluster();
    cluster.annotations_mut().insert(pause::ANNOTATION.to_owned(), pause::PAUSED.to_owned());
    // A spec that would be refused, and a wish that would be granted or refused: neither is looked at.
    cluster.spec.write_quorum = 9;
    cluster.annotations_mut().insert(crate::switchover::ANNOTATION.to_owned(), "demo-9".to_owned());
    let (client, server) = api::server(events_and_status(&cluster, 1));
    let context = context(client);
    let mut memory = ClusterMemory::default();
    let action = steps(&cluster, &context, &mut memory).await.expect("told");
    assert_eq!(action, Action::await_change());
    drop(context);
    let sent = server.await.expect("the script was followed");
    assert_eq!((&sent[0]["reason"], &sent[0]["type"]), (&"Paused".into(), &"Normal".into()));
    assert_eq!(sent[1]["status"]["conditions"][0]["type"], "Paused");

    cluster.status = Some(serde_json::from_value(sent[1]["status"].clone()).expect("a status"));
    cluster.metadata.generation = Some(5);
    let (client, server) = api::server(Vec::new());
    let context = self::context(client);
    // The same operator, and one that has just started.
    for memory in [&mut memory, &mut ClusterMemory::default()] {
        steps(&cluster, &context, memory).await.expect("known");
    }
    drop(context);
    server.await.expect("nothing was sent");
}

#[tokio::test]
async fn a_store_is_looked_after_again_when_the_annotation_is_gone() {
    let mut cluster = cluster();
    cluster.spec.write_quorum = 9;
    let (client, server) = api::server(events_and_status(&cluster, 2));
    let context = context(client);
    let mut memory = ClusterMemory { paused: true, ..ClusterMemory::default() };
    steps(&cluster, &context, &mut memory).await.expect("looked at");
    drop(context);
    let sent = server.await.expect("the script was followed");
    let reasons = [&sent[0]["reason"], &sent[1]["reason"]];
    assert_eq!(reasons, ["Resumed", "InvalidSpec"], "the spec is looked at again");
    assert!(!memory.paused);
}

#[tokio::test]
async fn nothing_is_done_for_a_store_whose_namespace_cannot_be_seen_and_after_a_while_that_is_told() {
    let mut cluster = cluster();
    let mut memory = ClusterMemory::default();
    let lately = Instant::now();
    let long_ago = lately.checked_sub(Duration::from_secs(10)).expect("the machine runs for longer");
    for (since, script) in [(lately, Vec::new()), (long_ago, events_and_status(&cluster, 1)), (long_ago, Vec::new())] {
        let (client, server) = api::server(script);
        let context = context(client);
        Gap::open_since(&context.caches.gaps, "default", "pods", since);
        Gap::open_since(&context.caches.gaps, "another", "pods", long_ago);
        let action = steps(&cluster, &context, &mut memory).await.expect("it waits");
        assert_eq!(action, Action::requeue(Duration::from_secs(1)));
        drop(context);
        let sent = server.await.expect("the script was followed");
        if let [event, report] = sent.as_slice() {
            assert_eq!((&event["reason"], &event["type"]), (&"NamespaceUnseen".into(), &"Warning".into()));
            let ready = &report["status"]["conditions"][0];
            assert_eq!((&ready["reason"], &ready["status"]), (&"NamespaceUnseen".into(), &"False".into()));
            let message = ready["message"].as_str().expect("a message");
            assert!(message.contains("may not list pods in namespace default"), "{message}");
            cluster.status = Some(serde_json::from_value(report["status"].clone()).expect("a status"));
        }
    }
    // Of another namespace everything is known.
    let (client, server) = api::server(vec![api::Expected::missing(SECRET), api::Expected::missing(CLUSTER)]);
    let context = context(client);
    Gap::open_since(&context.caches.gaps, "another", "pods", long_ago);
    steps(&cluster, &context, &mut memory).await.expect_err("it goes on as ever, and finds the store gone");
    drop(context);
    server.await.expect("the script was followed");
}

#[test]
fn failures_wait_longer_each_time_but_not_for_ever() {
    assert_eq!(retry_after(1), Duration::from_millis(500));
    assert_eq!(retry_after(2), Duration::from_secs(1));
    assert_eq!(retry_after(7), Duration::from_secs(30));
    assert_eq!(retry_after(u32::MAX), Duration::from_secs(30));
}

#[rstest::rstest]
#[case::all_is_well(false, 1)]
#[case::a_node_refuses_it(true, 2)]
#[tokio::test(start_paused = true)]
async fn a_token_that_nodes_refuse_is_read_again_soon(#[case] refused: bool, #[case] reads: usize) {
    let path = "/api/v1/namespaces/default/secrets/demo-peer-token";
    let owner = json!({"apiVersion": "v1", "kind": "KvCluster", "name": "demo", "uid": "u1", "controller": true});
    let secret = json!({
        "metadata": {"name": "demo-peer-token", "ownerReferences": [owner]}, "data": {"token": "c2VjcmV0"},
    });
    let (client, server) = api::server((0..reads).map(|_| api::Expected::found(path, secret.clone())).collect());
    let (context, valid) = (context(client), valid_cluster());
    let mut memory = ClusterMemory::default();
    peer_client(&context, &valid, (&[], None), &mut memory).await.expect("read");
    memory.token_refused = refused;
    tokio::time::advance(URGENT_TOKEN_CHECK).await;
    peer_client(&context, &valid, (&[], None), &mut memory).await.expect("a client");
    drop(context);
    server.await.expect("the script was followed");
}
