//! Certificates against a scripted API server.

use std::collections::BTreeMap;

use axum::{Json, Router, routing::get};
use http::Method;
use k8s_openapi::ByteString;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::*;
use crate::{
    controller::tests::{calm_pass, context},
    crd::Tls,
    testing::{
        Scene,
        api::{Expected, server},
        cluster,
    },
    tls::rotation::RENEW,
    validate::validate,
};

const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const OWN: &str = "/api/v1/namespaces/default/secrets/demo-peer-tls";
const THEIRS: &str = "/api/v1/namespaces/default/secrets/from-elsewhere";
const CLUSTER: &str = "/apis/quorumkv.io/v1alpha1/namespaces/default/kvclusters/demo";
const EVENTS: &str = "/apis/events.k8s.io/v1/namespaces/default/events";

fn with_tls(tls: Tls) -> (KvCluster, ValidCluster) {
    let mut cluster = cluster();
    cluster.spec.tls = Some(tls);
    let valid = validate(&cluster, "quorumkv-node:test").expect("valid");
    (cluster, valid)
}

fn self_signed() -> (KvCluster, ValidCluster) {
    with_tls(Tls { secret_name: None, self_signed: true })
}

fn named() -> (KvCluster, ValidCluster) {
    with_tls(Tls { secret_name: Some("from-elsewhere".into()), self_signed: false })
}

fn fresh(valid: &ValidCluster) -> Contents {
    Contents::renewed(made(valid, Timestamp::now()).expect("made"), None)
}

/// The Secret as the API server holds it.
fn stored(valid: &ValidCluster, contents: &Contents, version: &str) -> Secret {
    contents.secret(valid, valid.tls.as_ref().expect("with TLS"), Some(version.to_owned()))
}

fn json_of(secret: &Secret) -> Value {
    serde_json::to_value(secret).expect("serializes")
}

fn event() -> Expected {
    Expected::written(Method::POST, EVENTS)
}

/// What a Secret that was sent holds.
fn sent(secret: &Value) -> Contents {
    Contents::of(&serde_json::from_value(secret.clone()).expect("a Secret"))
}

/// Nobody runs, so that nobody has to be waited for.
async fn next_step(cluster: &KvCluster, context: &Context, valid: &ValidCluster, memory: &mut Option<TlsMemory>) {
    let client = PeerClient::new(None, Duration::from_secs(1)).expect("a client");
    let nothing = Observed::default();
    go_on(cluster, context, (valid, &nothing, &[]), &client, memory).await.expect("a step");
}

/// A node that shows this.
async fn showing(contents: &Contents) -> NodeView {
    let name = PeerName::parse("demo-nodes.default.svc").expect("a name");
    let report = contents.check(&name, Timestamp::now()).expect("usable").expect("in time").report();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let mut view = Scene::steady().nodes.remove(0);
    view.address.peer_url = format!("http://{}", listener.local_addr().expect("bound"));
    let router = Router::new().route("/tls", get(async move || Json(report)));
    tokio::spawn(async move { axum::serve(listener, router).await });
    view
}

#[tokio::test]
async fn a_store_without_tls_needs_no_secret() {
    let (valid, _) = calm_pass();
    let (client, server) = server(Vec::new());
    let context = context(client);
    let found = super::client(&cluster(), &context, &valid, &mut None).await.expect("nothing to do");
    assert!(found.is_none());
    drop(context);
    server.await.expect("nothing was asked");
}

#[tokio::test]
async fn a_missing_certificate_is_made_with_an_event() {
    let (cluster, valid) = self_signed();
    let script = vec![
        Expected::missing(OWN),
        Expected::found(CLUSTER, serde_json::to_value(&cluster).expect("serializes")),
        Expected::written(Method::POST, SECRETS),
        event(),
    ];
    let (client, server) = server(script);
    let context = context(client);
    let mut memory = None;
    let tls = super::client(&cluster, &context, &valid, &mut memory).await.expect("made");
    assert!(tls.is_some());
    // What was just made is not looked at again at once, and there is nothing to rotate.
    super::client(&cluster, &context, &valid, &mut memory).await.expect("known");
    next_step(&cluster, &context, &valid, &mut memory).await;
    drop(context);
    let bodies = server.await.expect("the script was followed");
    assert_eq!(bodies[2]["metadata"]["ownerReferences"][0]["uid"], "u1");
    let name = PeerName::parse("demo-nodes.default.svc").expect("a name");
    assert!(sent(&bodies[2]).check(&name, Timestamp::now()).expect("usable").is_some());
    assert_eq!(bodies[3]["reason"], "CertificateMade");
}

#[tokio::test]
async fn a_request_on_the_secret_goes_through_all_steps_and_away() {
    let (cluster, valid) = self_signed();
    let mut secret = stored(&valid, &fresh(&valid), "7");
    secret.metadata.annotations = Some(BTreeMap::from([(RENEW.to_owned(), "now".to_owned())]));
    let put = || Expected::written(Method::PUT, OWN);
    let script = vec![Expected::found(OWN, json_of(&secret)), put(), event(), put(), put(), event()];
    let (client, server) = server(script);
    let context = context(client);
    let mut memory = None;
    super::client(&cluster, &context, &valid, &mut memory).await.expect("read");
    for _ in 0..4 {
        memory.as_mut().expect("known").reports_asked = None;
        next_step(&cluster, &context, &valid, &mut memory).await;
    }
    assert!(memory.expect("known").settled);
    drop(context);
    let bodies = server.await.expect("the script was followed");
    let (begun, switched, finished) = (&bodies[1], &bodies[3], &bodies[4]);
    assert_eq!(begun["metadata"]["resourceVersion"], "7");
    assert_eq!(begun["metadata"]["annotations"], Value::Null, "the request is taken away");
    assert!(sent(begun).next.is_some() && sent(switched).next.is_none());
    assert_eq!(sent(begun).bundle.authorities, sent(switched).bundle.authorities);
    assert!(sent(finished).bundle.authorities.len() < sent(switched).bundle.authorities.len());
    assert_eq!((&bodies[2]["reason"], &bodies[5]["reason"]), (&json!("CertificateMade"), &json!("CertificateRotated")));
    assert!(bodies[5]["note"].as_str().is_some_and(|note| note.starts_with("No node runs, ")), "{}", bodies[5]["note"]);
}

#[tokio::test]
async fn a_deleted_secret_comes_back_with_what_nodes_still_show() {
    let (cluster, valid) = self_signed();
    let before = fresh(&valid);
    let script = vec![
        Expected::found(OWN, json_of(&stored(&valid, &before, "7"))),
        Expected::missing(OWN),
        Expected::found(CLUSTER, serde_json::to_value(&cluster).expect("serializes")),
        Expected::written(Method::POST, SECRETS),
        event(),
    ];
    let (client, server) = server(script);
    let context = context(client);
    let mut memory = None;
    super::client(&cluster, &context, &valid, &mut memory).await.expect("read");
    memory.as_mut().expect("known").checked -= CHECK;
    super::client(&cluster, &context, &valid, &mut memory).await.expect("made");
    drop(context);
    let made = sent(&server.await.expect("the script was followed")[3]);
    assert_eq!(made.bundle.certificate, before.bundle.certificate);
    assert!(made.next.is_some(), "the new one waits until it is trusted");
}

#[tokio::test]
async fn what_somebody_spoilt_is_made_anew_and_told() {
    let (cluster, valid) = self_signed();
    let mut secret = stored(&valid, &fresh(&valid), "7");
    secret.data.as_mut().expect("data").insert("tls.key".into(), ByteString(b"nothing".to_vec()));
    let script = vec![Expected::found(OWN, json_of(&secret)), event(), Expected::written(Method::PUT, OWN), event()];
    let (client, server) = server(script);
    let context = context(client);
    super::client(&cluster, &context, &valid, &mut None).await.expect("made");
    drop(context);
    let bodies = server.await.expect("the script was followed");
    assert_eq!((&bodies[1]["reason"], &bodies[3]["reason"]), (&json!("TlsSecretInvalid"), &json!("CertificateMade")));
}

#[tokio::test]
async fn somebody_elses_secret_of_that_name_is_left_alone() {
    let (cluster, valid) = self_signed();
    let mut secret = stored(&valid, &fresh(&valid), "7");
    secret.metadata.owner_references = None;
    let (client, server) = server(vec![Expected::found(OWN, json_of(&secret))]);
    let context = context(client);
    let error = super::client(&cluster, &context, &valid, &mut None).await.expect_err("theirs");
    assert_eq!(error.label(), "foreign_object", "{error}");
    drop(context);
    server.await.expect("nothing was written");
}

#[rstest::rstest]
#[case::missing(None, "does not exist")]
#[case::spoilt(Some("tls.crt"), "tls.crt holds no certificate")]
#[tokio::test]
async fn without_a_usable_secret_there_is_no_store_to_speak_to(#[case] spoilt: Option<&str>, #[case] said: &str) {
    let (cluster, valid) = named();
    let found = match spoilt {
        None => Expected::missing(THEIRS),
        Some(part) => {
            let mut secret = stored(&valid, &fresh(&valid), "7");
            secret.data.as_mut().expect("data").remove(part);
            Expected::found(THEIRS, json_of(&secret))
        }
    };
    let (client, server) = server(vec![found]);
    let context = context(client);
    let error = super::client(&cluster, &context, &valid, &mut None).await.expect_err("nothing to use");
    assert_eq!(error.label(), "tls_secret");
    assert!(error.to_string().contains(said), "{error}");
    drop(context);
    server.await.expect("nothing was written");
}

#[tokio::test]
async fn a_named_secret_that_is_spoilt_later_is_told_once_and_the_last_good_stays() {
    let (cluster, valid) = named();
    let (old, new) = (fresh(&valid), fresh(&valid));
    let good = json_of(&stored(&valid, &old, "7"));
    let found = |secret: &Value| Expected::found(THEIRS, secret.clone());
    let script = vec![
        found(&good),
        Expected::missing(THEIRS),
        event(),
        Expected::missing(THEIRS),
        found(&json_of(&stored(&valid, &new, "9"))),
        event(),
    ];
    let (client, server) = server(script);
    let context = context(client);
    let mut memory: Option<TlsMemory> = None;
    for problem in [false, true, true, false] {
        if let Some(known) = &mut memory {
            known.checked -= CHECK;
        }
        let tls = super::client(&cluster, &context, &valid, &mut memory).await.expect("something to go on with");
        assert!(tls.is_some());
        assert_eq!(super::problem(memory.as_ref()).is_some(), problem);
    }
    // The other one is told when every node shows it.
    for (contents, settled) in [(&old, false), (&new, true)] {
        let nodes = [showing(contents).await];
        let client = PeerClient::new(None, Duration::from_secs(1)).expect("a client");
        memory.as_mut().expect("known").reports_asked = None;
        let look = (&valid, &Observed::default(), &nodes[..]);
        go_on(&cluster, &context, look, &client, &mut memory).await.expect("a look");
        assert_eq!(memory.as_ref().expect("known").settled, settled);
    }
    drop(context);
    let bodies = server.await.expect("the script was followed");
    let reasons = (&bodies[2]["reason"], &bodies[5]["reason"]);
    assert_eq!(reasons, (&json!("TlsSecretInvalid"), &json!("CertificateRotated")));
}

#[tokio::test]
async fn another_certificate_of_somebody_else_is_no_news_while_nobody_runs() {
    let (cluster, valid) = named();
    let found = |contents: Contents| Expected::found(THEIRS, json_of(&stored(&valid, &contents, "7")));
    let (client, server) = server(vec![found(fresh(&valid)), found(fresh(&valid))]);
    let context = context(client);
    let mut memory: Option<TlsMemory> = None;
    for _ in 0..2 {
        super::client(&cluster, &context, &valid, &mut memory).await.expect("read");
        next_step(&cluster, &context, &valid, &mut memory).await;
        let known = memory.as_mut().expect("known");
        assert!(known.settled);
        known.checked -= CHECK;
    }
    drop(context);
    server.await.expect("the script was followed");
}

#[tokio::test]
async fn kubelets_hear_of_new_certificates_once() {
    let (cluster, valid) = self_signed();
    let contents = fresh(&valid);
    let pod = |name: &str, version: &str| {
        let annotations = json!({PEER_TLS: version});
        let metadata = json!({"name": name, "namespace": "default", "uid": name, "annotations": annotations});
        std::sync::Arc::new(serde_json::from_value(json!({"metadata": metadata})).expect("a pod"))
    };
    let pods = [("demo-0", contents.version()), ("demo-1", "older".to_owned())];
    let pods = pods.map(|(name, version)| (name.into(), pod(name, &version)));
    let observed = Observed { pods: pods.into(), ..Observed::default() };
    let script = vec![
        Expected::found(OWN, json_of(&stored(&valid, &contents, "7"))),
        Expected::written(Method::PATCH, "/api/v1/namespaces/default/pods/demo-1"),
    ];
    let (client, server) = server(script);
    let context = context(client);
    let mut memory = None;
    super::client(&cluster, &context, &valid, &mut memory).await.expect("read");
    let peers = PeerClient::new(None, Duration::from_secs(1)).expect("a client");
    go_on(&cluster, &context, (&valid, &observed, &[]), &peers, &mut memory).await.expect("told");
    drop(context);
    let bodies = server.await.expect("the script was followed");
    assert_eq!(bodies[1]["metadata"]["annotations"][PEER_TLS], contents.version());
}

#[tokio::test]
async fn a_pod_that_cannot_be_told_keeps_neither_the_others_nor_the_rotation_waiting() {
    let (cluster, valid) = self_signed();
    let mut secret = stored(&valid, &fresh(&valid), "7");
    secret.metadata.annotations = Some(BTreeMap::from([(RENEW.to_owned(), "now".to_owned())]));
    let pod = |name: &str| {
        let metadata = json!({"name": name, "namespace": "default", "uid": name});
        std::sync::Arc::new(serde_json::from_value(json!({"metadata": metadata})).expect("a pod"))
    };
    let pods = ["demo-0", "demo-1"].map(|name| (name.into(), pod(name)));
    let observed = Observed { pods: pods.into(), ..Observed::default() };
    let script = vec![
        Expected::found(OWN, json_of(&secret)),
        Expected::failing(Method::PATCH, "/api/v1/namespaces/default/pods/demo-0", http::StatusCode::FORBIDDEN),
        Expected::written(Method::PATCH, "/api/v1/namespaces/default/pods/demo-1"),
        Expected::written(Method::PUT, OWN),
        event(),
    ];
    let (client, server) = server(script);
    let context = context(client);
    let mut memory = None;
    super::client(&cluster, &context, &valid, &mut memory).await.expect("read");
    let peers = PeerClient::new(None, Duration::from_secs(1)).expect("a client");
    let outcome = go_on(&cluster, &context, (&valid, &observed, &[]), &peers, &mut memory).await;
    assert_eq!(outcome.expect_err("one was not told").label(), "kubernetes_refused");
    drop(context);
    let bodies = server.await.expect("the script was followed");
    assert!(sent(&bodies[3]).next.is_some(), "a new one is begun");
}

/// Looks at a paused store with a certificate of this age; what was told by events, and in the condition.
async fn paused(days: i64) -> (Vec<String>, String) {
    use crate::{controller, pause};

    let (mut cluster, valid) = self_signed();
    cluster.annotations_mut().insert(pause::ANNOTATION.to_owned(), pause::PAUSED.to_owned());
    let begun = Timestamp::now() - Duration::from_secs(u64::try_from(days).expect("an age") * 86_400);
    let contents = Contents::renewed(made(&valid, begun).expect("made"), None);
    let told = usize::from(days * 6 > 5 * make::VALID_DAYS);
    let mut script = vec![Expected::found(OWN, json_of(&stored(&valid, &contents, "7")))];
    script.extend((0..=told).map(|_| event()));
    let status = "/apis/quorumkv.io/v1alpha1/namespaces/default/kvclusters/demo/status";
    let answer = serde_json::to_value(&cluster).expect("serializes");
    script.push(Expected::written(Method::PATCH, status).answering(answer));
    let (client, server) = server(script);
    let context = context(client);
    let mut memory = controller::ClusterMemory::default();
    let action = controller::steps(&cluster, &context, &mut memory).await.expect("told");
    assert_ne!(action, kube::runtime::controller::Action::await_change(), "it is looked at again");
    drop(context);
    let bodies = server.await.expect("the script was followed");
    let status = bodies.last().expect("a status")["status"].clone();
    let message = status["conditions"][0]["message"].as_str().expect("a message").to_owned();
    // Nothing is read or told again before its time.
    cluster.status = Some(serde_json::from_value(status).expect("a status"));
    let (client, server) = self::server(Vec::new());
    let context = self::context(client);
    controller::steps(&cluster, &context, &mut memory).await.expect("known");
    drop(context);
    server.await.expect("nothing was sent");
    let reason = |body: &Value| body["reason"].as_str().map(str::to_owned);
    (bodies.iter().filter_map(reason).collect(), message)
}

#[tokio::test]
async fn a_pause_is_told_when_it_outlasts_the_certificate() {
    let (events, message) = paused(1).await;
    assert_eq!(events, ["Paused"]);
    assert!(!message.contains("certificate"), "{message}");
    let (events, message) = paused(80).await;
    assert_eq!(events, ["CertificateExpiring", "Paused"]);
    assert!(message.contains("expires at") && message.contains("not renewed during the pause"), "{message}");
    let (events, message) = paused(100).await;
    assert_eq!(events, ["CertificateExpired", "Paused"]);
    assert!(message.contains("has expired"), "{message}");
}
