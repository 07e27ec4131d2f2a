use std::iter;

use http::{Method, StatusCode};
use quorumkv_api::{
    Epoch, StorageId,
    peer::{Member, NodeChange},
};
use quorumkv_protocol::membership::Membership;

use super::*;
use crate::{
    build,
    testing::{
        api::{Expected, server},
        cluster, valid_cluster,
    },
};

const SERVICE: &str = "/api/v1/namespaces/default/services/demo";
const FOLLOWERS: &str = "/api/v1/namespaces/default/services/demo-followers";
const NODES: &str = "/api/v1/namespaces/default/services/demo-nodes";
const BUDGET: &str = "/apis/policy/v1/namespaces/default/poddisruptionbudgets/demo";
const SET: &str = "/apis/apps/v1/namespaces/default/statefulsets/demo";
const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const SECRET: &str = "/api/v1/namespaces/default/secrets/demo-peer-token";
const CLUSTER: &str = "/apis/quorumkv.io/v1alpha1/namespaces/default/kvclusters/demo";
const STATUS: &str = "/apis/quorumkv.io/v1alpha1/namespaces/default/kvclusters/demo/status";

/// What the caches hold once everything was applied.
fn applied() -> Observed {
    let Objects { services, budget, nodes } = build::objects(&valid_cluster());
    Observed {
        services: services.map(|service| (service.name_any(), Arc::new(service))).into(),
        budget: Some(Arc::new(budget)),
        stateful_set: Some(Arc::new(nodes)),
        ..Observed::default()
    }
}

#[rstest::rstest]
#[case::gone(404, "pods \"demo-0\" not found", true)]
#[case::another_at_a_deletion(409, "the UID in the precondition does not match", true)]
#[case::another_at_a_patch(
    422,
    "Pod \"demo-0\" is invalid: metadata.uid: Invalid value: \"x\": field is immutable",
    true
)]
#[case::a_bad_label(422, "Pod \"demo-0\" is invalid: metadata.labels: Invalid value: \"?\"", false)]
#[case::not_allowed(403, "pods \"demo-0\" is forbidden", false)]
#[tokio::test]
async fn a_pod_that_was_replaced_meanwhile_is_left_alone(
    #[case] code: u16,
    #[case] message: &str,
    #[case] passes: bool,
) {
    const POD: &str = "/api/v1/namespaces/default/pods/demo-0";
    let pod = serde_json::from_value(json!({"metadata": {"name": "demo-0", "namespace": "default", "uid": "x"}}));
    let pod: Pod = pod.expect("a pod");
    let status = StatusCode::from_u16(code).expect("a status code");
    let answer = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": code});
    let refused = |method| Expected::failing(method, POD, status).answering(answer.clone());
    let (client, server) = server(vec![refused(Method::PATCH), refused(Method::DELETE)]);
    assert_eq!(label_pod(&client, &pod, Role::Leader).await.is_ok(), passes);
    assert_eq!(replace_pod(&client, &pod).await.is_ok(), passes);
    drop(client);
    server.await.expect("the script was followed");
}

#[tokio::test]
async fn what_is_missing_is_applied_in_order_and_pods_come_last() {
    let script = [SERVICE, FOLLOWERS, NODES, BUDGET, SET];
    let script = script.map(|path| [Expected::missing(path), Expected::written(Method::PATCH, path)]);
    let script = iter::once(Expected::found(CLUSTER, stored("10"))).chain(script.into_iter().flatten());
    let (client, server) = server(script.collect());
    let cluster = valid_cluster();
    apply(&client, &cluster, &build::objects(&cluster), &Observed::default()).await.expect("applied");
    drop(client);
    let sent = server.await.expect("the script was followed");
    assert_eq!(sent.last().expect("a set")["kind"], "StatefulSet");
}

#[tokio::test]
async fn a_policy_is_made_where_it_is_missing_and_left_alone_where_it_is_right() {
    const POLICY: &str = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies/demo";
    let cluster = valid_cluster();
    let allowed = policy::Allowed { operator_namespace: "system".to_owned(), client_namespaces: Vec::new() };
    let right = serde_json::to_value(build::fingerprinted(policy::build(&cluster, &allowed))).expect("it serializes");
    let exists = || Expected::found(CLUSTER, stored("10"));
    let script = vec![
        exists(),
        Expected::missing(POLICY),
        Expected::written(Method::PATCH, POLICY),
        exists(),
        Expected::found(POLICY, right),
    ];
    let (client, server) = server(script);
    for _ in 0..2 {
        network_policy(&client, &cluster, &allowed).await.expect("as it should be");
    }
    drop(client);
    let sent = server.await.expect("the script was followed");
    assert_eq!(sent[2]["kind"], "NetworkPolicy");
}

#[tokio::test]
async fn what_is_as_it_should_be_is_left_alone() {
    let (client, server) = server(Vec::new());
    let cluster = valid_cluster();
    let mut observed = applied();
    // Defaults of the API server are no difference.
    let set = Arc::make_mut(observed.stateful_set.as_mut().expect("there"));
    set.spec.as_mut().expect("a spec").min_ready_seconds = Some(0);
    apply(&client, &cluster, &build::objects(&cluster), &observed).await.expect("nothing to do");
    drop(client);
    server.await.expect("nothing was sent");
}

#[tokio::test]
async fn only_the_object_that_differs_is_applied() {
    let (client, server) = server(vec![Expected::written(Method::PATCH, FOLLOWERS)]);
    let cluster = valid_cluster();
    let mut observed = applied();
    let service = observed.services.get_mut("demo-followers").expect("there");
    Arc::make_mut(service).spec.as_mut().expect("a spec").selector = None;
    apply(&client, &cluster, &build::objects(&cluster), &observed).await.expect("applied");
    drop(client);
    server.await.expect("the script was followed");
}

#[tokio::test]
async fn somebody_elses_object_is_left_alone() {
    let theirs = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "demo", "namespace": "default"}});
    let (client, server) = server(vec![Expected::found(CLUSTER, stored("10")), Expected::found(SERVICE, theirs)]);
    let cluster = valid_cluster();
    let error = apply(&client, &cluster, &build::objects(&cluster), &Observed::default()).await.expect_err("theirs");
    assert!(error.to_string().contains("Service demo exists and does not belong"), "{error}");
    drop(client);
    server.await.expect("nothing was written");
}

#[tokio::test]
async fn the_token_is_made_once_and_made_again_as_it_was() {
    let script = vec![
        Expected::missing(SECRET),
        Expected::found(CLUSTER, stored("10")),
        Expected::written(Method::POST, SECRETS),
    ];
    let (client, server) = server(script);
    let token = peer_token(&client, &valid_cluster(), Some("known")).await.expect("a token");
    assert_eq!(token, "known");
    drop(client);
    assert_eq!(server.await.expect("the script was followed")[2]["stringData"]["token"], "known");
}

#[tokio::test]
async fn an_existing_token_is_taken_over() {
    let owner = json!({"apiVersion": "v1", "kind": "KvCluster", "name": "demo", "uid": "u1", "controller": true});
    let secret = json!({
        "metadata": {"name": "demo-peer-token", "ownerReferences": [owner]}, "data": {"token": "c2VjcmV0"},
    });
    let (client, server) = server(vec![Expected::found(SECRET, secret)]);
    assert_eq!(peer_token(&client, &valid_cluster(), None).await.expect("a token"), "secret");
    drop(client);
    server.await.expect("nothing was written");
}

fn stored(version: &str) -> Value {
    let mut cluster = serde_json::to_value(cluster()).expect("serializes");
    cluster["metadata"]["resourceVersion"] = version.into();
    cluster
}

#[tokio::test]
async fn the_record_is_replaced_only_at_the_version_that_was_read() {
    let script =
        vec![Expected::found(CLUSTER, stored("10")), Expected::failing(Method::PATCH, STATUS, StatusCode::CONFLICT)];
    let (client, server) = server(script);
    let platform = StatusRecord::new(&client, &valid_cluster());
    let read = platform.record().await.expect("a record");
    let copy = Member { name: "demo-1".into(), storage_id: StorageId::random() };
    let new = Record {
        epoch: Epoch(1),
        leader: Some("demo-1".into()),
        last_leader: Some(copy.clone()),
        members: vec![copy],
        membership: Membership::first(6).begin(NodeChange::Joining("demo-6".into())),
    };
    let error = platform.replace(&read, new).await.expect_err("somebody was faster");
    assert!(matches!(error, RecordError::Conflict));
    drop((client, platform));
    let patch = &server.await.expect("the script was followed")[1];
    assert_eq!(patch["metadata"]["resourceVersion"], "10");
    assert_eq!(patch["status"]["leader"], "demo-1");
    assert_eq!(patch["status"]["members"][0]["role"], "Leader");
    assert_eq!(
        patch["status"]["configuration"],
        json!({"number": 1, "nodes": 6, "joining": "demo-6", "leaving": null, "quorumSeq": null, "writeQuorum": null}),
        "null, not absent, so that nothing stays of an earlier one"
    );
}

#[tokio::test]
async fn naming_nobody_removes_the_leader() {
    let mut answer = stored("11");
    answer["status"] = json!({"epoch": 2});
    let (client, server) = server(vec![Expected::found(CLUSTER, stored("10")), {
        Expected::written(Method::PATCH, STATUS).answering(answer)
    }]);
    let platform = StatusRecord::new(&client, &valid_cluster());
    let read = platform.record().await.expect("a record");
    let written = platform.replace(&read, Record { epoch: Epoch(2), ..Record::default() }).await.expect("written");
    assert_eq!((written.version.as_str(), written.record.epoch), ("11", Epoch(2)));
    drop((client, platform));
    let patch = &server.await.expect("the script was followed")[1];
    assert!(patch["status"].as_object().expect("a status").contains_key("leader"), "null, not absent");
    assert!(patch["status"]["leader"].is_null());
}

#[tokio::test]
async fn a_recreated_cluster_is_another_store() {
    let mut other = stored("10");
    other["metadata"]["uid"] = "u2".into();
    let (client, server) = server(vec![Expected::found(CLUSTER, other)]);
    let error = StatusRecord::new(&client, &valid_cluster()).record().await.expect_err("another");
    assert!(matches!(error, RecordError::Gone));
    drop(client);
    server.await.expect("the script was followed");
}

#[tokio::test]
async fn nothing_is_made_for_a_cluster_that_is_gone() {
    let mut other = stored("10");
    other["metadata"]["uid"] = "u2".into();
    let script = vec![Expected::missing(CLUSTER), Expected::found(CLUSTER, other), Expected::missing(CLUSTER)];
    let (client, server) = server(script);
    let cluster = valid_cluster();
    for state in ["deleted", "made anew"] {
        let error = apply(&client, &cluster, &build::objects(&cluster), &Observed::default()).await;
        assert!(matches!(error, Err(ApplyError::Gone)), "{state}: {error:?}");
    }
    let error = StatusRecord::new(&client, &cluster).record().await.expect_err("deleted");
    assert!(matches!(error, RecordError::Gone), "{error}");
    drop(client);
    server.await.expect("nothing was written");
}

#[tokio::test]
async fn what_an_earlier_cluster_of_the_name_left_is_waited_for() {
    let owner = json!({
        "apiVersion": "quorumkv.io/v1alpha1", "kind": "KvCluster", "name": "demo", "uid": "u0", "controller": true,
    });
    let left = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "demo", "namespace": "default", "ownerReferences": [owner]},
    });
    let (client, server) = server(vec![Expected::found(CLUSTER, stored("10")), Expected::found(SERVICE, left)]);
    let cluster = valid_cluster();
    let error = apply(&client, &cluster, &build::objects(&cluster), &Observed::default()).await;
    assert!(matches!(error, Err(ApplyError::BeingDeleted { .. })), "{error:?}");
    drop(client);
    server.await.expect("nothing was written");
}

#[tokio::test]
async fn in_a_namespace_that_is_going_away_nothing_fails() {
    let message = "services \"demo\" is forbidden: unable to create new content in namespace default because it \
                   is being terminated";
    let forbidden = Expected::failing(Method::PATCH, SERVICE, StatusCode::FORBIDDEN);
    let answer = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "reason": "Forbidden",
        "code": 403,
    });
    let script = vec![Expected::found(CLUSTER, stored("10")), Expected::missing(SERVICE), forbidden.answering(answer)];
    let (client, server) = server(script);
    let cluster = valid_cluster();
    let error = apply(&client, &cluster, &build::objects(&cluster), &Observed::default()).await;
    let error = error.expect_err("nothing can be made");
    assert_eq!(error.to_string(), "Namespace default is being deleted");
    drop(client);
    server.await.expect("the script was followed");
}

fn wishing_for(node: &str) -> Value {
    let mut cluster = cluster();
    cluster.annotations_mut().insert(switchover::ANNOTATION.to_owned(), node.to_owned());
    serde_json::to_value(&cluster).expect("serializes")
}

#[tokio::test]
async fn a_wish_is_taken_away_from_the_version_that_was_read() {
    let script = vec![
        Expected::found(CLUSTER, wishing_for("demo-2")),
        Expected::written(Method::PATCH, CLUSTER).answering(wishing_for("")),
    ];
    let (client, server) = server(script);
    let withdrawn = StatusRecord::new(&client, &valid_cluster()).withdraw_switchover(&"demo-2".into()).await;
    assert!(withdrawn.expect("an answer"));
    drop(client);
    let sent = server.await.expect("the script was followed");
    let metadata = json!({"uid": "u1", "resourceVersion": "10", "annotations": {switchover::ANNOTATION: null}});
    assert_eq!(sent[1], json!({"metadata": metadata}));
}

#[tokio::test]
async fn another_wish_stays() {
    let conflict = Expected::failing(Method::PATCH, CLUSTER, StatusCode::CONFLICT);
    let script = vec![
        Expected::found(CLUSTER, wishing_for("demo-3")),
        Expected::found(CLUSTER, wishing_for("demo-2")),
        conflict,
    ];
    let (client, server) = server(script);
    let record = StatusRecord::new(&client, &valid_cluster());
    assert!(!record.withdraw_switchover(&"demo-2".into()).await.expect("an answer"), "another node is named");
    assert!(!record.withdraw_switchover(&"demo-2".into()).await.expect("an answer"), "changed at that moment");
    drop((client, record));
    server.await.expect("the script was followed");
}

#[tokio::test]
async fn what_the_api_server_has_against_a_larger_volume_is_handed_on() {
    const CLAIM: &str = "/api/v1/namespaces/default/persistentvolumeclaims/data-demo-0";
    let claim = json!({"metadata": {"name": "data-demo-0", "namespace": "default", "uid": "x"}});
    let claim: PersistentVolumeClaim = serde_json::from_value(claim).expect("a claim");
    let refusal = "only dynamically provisioned pvc can be resized and the storageclass must support resize";
    let status = |code: u16, message: &str| {
        let answer =
            json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": code});
        let status = StatusCode::from_u16(code).expect("a status code");
        Expected::failing(Method::PATCH, CLAIM, status).answering(answer)
    };
    let script = vec![
        Expected::written(Method::PATCH, CLAIM),
        status(403, refusal),
        status(404, "there is none any more"),
        status(503, "later"),
    ];
    let (client, server) = server(script);
    assert_eq!(grow_claim(&client, &claim, "2Gi").await.expect("taken"), None);
    assert_eq!(grow_claim(&client, &claim, "2Gi").await.expect("an answer").as_deref(), Some(refusal));
    assert_eq!(grow_claim(&client, &claim, "2Gi").await.expect("it is gone"), None);
    grow_claim(&client, &claim, "2Gi").await.expect_err("that says nothing about the volume");
    drop(client);
    let sent = server.await.expect("the script was followed");
    let expected = json!({"metadata": {"uid": "x"}, "spec": {"resources": {"requests": {"storage": "2Gi"}}}});
    assert_eq!(sent[0], expected);
}
