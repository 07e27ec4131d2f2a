//! Passes over a store at rest whose other writes fail, against a scripted API server.

use std::sync::Arc;

use http::{Method, StatusCode};
use jiff::Timestamp;
use quorumkv_api::client::PeerClient;
use serde_json::{Value, json};

use super::*;
use crate::{
    apply::StatusRecord,
    build::names,
    controller::{
        ClusterMemory,
        tests::{context, observed_pods, recorded, value},
        tls, work,
    },
    crd::{KvCluster, Tls, WhenDeleted},
    manage,
    observe::Observed,
    testing::{
        Scene,
        api::{Expected, server},
        name,
        nodes::{Journal, serve},
        valid_cluster,
    },
    tls::{make, rotation::Contents},
    validate::{ValidCluster, ValidStorage, validate},
};

const CLUSTER: &str = "/apis/quorumkv.io/v1alpha1/namespaces/default/kvclusters/demo";
const STATUS: &str = "/apis/quorumkv.io/v1alpha1/namespaces/default/kvclusters/demo/status";
const EVENTS: &str = "/apis/events.k8s.io/v1/namespaces/default/events";
const SECRET: &str = "/api/v1/namespaces/default/secrets/demo-peer-tls";
const CLAIM: &str = "/api/v1/namespaces/default/persistentvolumeclaims/data-n0";
const PODS: [&str; 6] = [
    "/api/v1/namespaces/default/pods/n0",
    "/api/v1/namespaces/default/pods/n1",
    "/api/v1/namespaces/default/pods/n2",
    "/api/v1/namespaces/default/pods/n3",
    "/api/v1/namespaces/default/pods/n4",
    "/api/v1/namespaces/default/pods/n5",
];

/// The store of a scene, as it is seen.
struct Stage {
    scene: Scene,
    cluster: KvCluster,
    valid: ValidCluster,
    observed: Observed,
    memory: ClusterMemory,
}

impl Stage {
    fn of(scene: Scene) -> Self {
        let valid = ValidCluster { store: scene.store.clone(), ..valid_cluster() };
        Self {
            cluster: recorded(&scene.record),
            valid,
            observed: observed_pods(),
            memory: ClusterMemory::default(),
            scene,
        }
    }

    /// One pass; how long to wait after it, what was sent, and the metrics.
    async fn pass(&mut self, script: Vec<Expected>) -> (Duration, Vec<Value>, String) {
        let (client, server) = server(script);
        let Self { scene, cluster, valid, observed, memory } = self;
        let context = context(client.clone());
        let platform = StatusRecord::new(&client, valid);
        let nodes = serve(scene, &Journal::default()).await;
        let site = Site { cluster, context: &context, valid, observed, platform: &platform };
        let peers = PeerClient::new(None, manage::ANSWER_TIMEOUT).expect("a client");
        let pause = work(&site, &peers, nodes, scene.record.clone(), memory).await.expect("the pass itself is well");
        let metrics = context.metrics.text().expect("text");
        drop((client, context, platform));
        (pause, server.await.expect("the script was followed"), metrics)
    }

    fn report(&self) -> Expected {
        Expected::written(Method::PATCH, STATUS).answering(value(&self.cluster))
    }
}

/// A store whose pods have to be told of its certificates, and with a volume that is too small.
async fn with_something_to_do() -> Stage {
    let mut stage = Stage::of(Scene::steady());
    stage.cluster.spec.tls = Some(Tls { secret_name: None, self_signed: true });
    let with_tls = validate(&stage.cluster, "quorumkv-node:test").expect("valid");
    let storage = ValidStorage::Persistent { size: "2Gi".into(), class: None, when_deleted: WhenDeleted::Retain };
    stage.valid = ValidCluster { store: stage.scene.store.clone(), storage, ..with_tls };
    let claim = json!({
        "metadata": {"name": "data-n0", "namespace": "default", "uid": "x"},
        "spec": {"resources": {"requests": {"storage": "1Gi"}}},
        "status": {"phase": "Bound", "capacity": {"storage": "1Gi"}},
    });
    stage.observed.claims.insert(name(0), Arc::new(serde_json::from_value(claim).expect("a claim")));
    let made = make::make(&names::tls_name("demo", "default"), Timestamp::now()).expect("made");
    let secret = Contents::renewed(made, None).secret(
        &stage.valid,
        stage.valid.tls.as_ref().expect("with TLS"),
        Some("7".into()),
    );
    let (client, server) = server(vec![Expected::found(SECRET, serde_json::to_value(secret).expect("serializes"))]);
    let context = context(client);
    tls::client(&stage.cluster, &context, &stage.valid, &mut stage.memory.tls).await.expect("read");
    drop(context);
    server.await.expect("the script was followed");
    stage
}

/// Each pod is told, but the first one; then the volume is asked for.
fn refused() -> Vec<Expected> {
    let mut script = vec![Expected::failing(Method::PATCH, PODS[0], StatusCode::FORBIDDEN)];
    script.extend(PODS[1..].iter().map(|path| Expected::written(Method::PATCH, path)));
    script.push(Expected::failing(Method::PATCH, CLAIM, StatusCode::SERVICE_UNAVAILABLE));
    script
}

#[tokio::test]
async fn what_cannot_be_written_keeps_neither_the_report_nor_the_next_pass_waiting() {
    let mut stage = with_something_to_do().await;
    let mut script = vec![Expected::found(CLUSTER, value(&stage.cluster)), stage.report()];
    script.extend(refused());
    let (pause, sent, metrics) = stage.pass(script).await;
    assert_eq!(pause, Duration::from_secs(1), "as if nothing had been");
    assert_eq!(sent[1]["status"]["conditions"][0]["status"], "True");
    for label in ["kubernetes_refused", "kubernetes_unavailable"] {
        assert!(metrics.contains(&format!("reconcile_errors_total{{error=\"{label}\"}} 1")), "{metrics}");
    }
    // It is not tried again at once, and not told yet.
    let (_, sent, _) = stage.pass(vec![stage.report()]).await;
    assert_eq!(sent[0]["status"]["conditions"][2]["status"], "False");

    // What goes on failing is told, and once only by events.
    let setbacks = &mut stage.memory.setbacks.0;
    setbacks
        .values_mut()
        .for_each(|setback| setback.since = setback.since.checked_sub(PATIENCE).expect("an earlier time"));
    let event = || Expected::written(Method::POST, EVENTS);
    let (_, sent, _) = stage.pass(vec![event(), event(), stage.report()]).await;
    assert_eq!((&sent[0]["reason"], &sent[1]["reason"]), (&json!("KubernetesRefuses"), &json!("KubernetesRefuses")));
    let degraded = &sent[2]["status"]["conditions"][2];
    assert_eq!((&degraded["status"], &degraded["reason"]), (&json!("True"), &json!("KubernetesRefuses")));
    let message = degraded["message"].as_str().expect("a message");
    assert!(message.contains("annotate n0") && message.contains("grow data-n0"), "{message}");
    stage.pass(vec![stage.report()]).await;

    // It is tried again in the end, and nothing is left of it once it is done.
    stage.memory.setbacks.0.values_mut().for_each(|setback| setback.again = None);
    let script = all_over_again(&stage);
    stage.pass(script).await;
    assert!(stage.memory.setbacks.0.is_empty());
    let script = all_over_again(&stage);
    let (_, sent, _) = stage.pass(script).await;
    assert_eq!(sent[0]["status"]["conditions"][2]["status"], "False");
}

/// The caches hear of nothing: all is asked for in each pass.
fn all_over_again(stage: &Stage) -> Vec<Expected> {
    let mut script = vec![stage.report()];
    script.extend(PODS.iter().chain([&CLAIM]).map(|path| Expected::written(Method::PATCH, path)));
    script
}

/// All but n5 are outdated.
fn rolling() -> Stage {
    let mut scene = Scene::steady();
    (0..5).for_each(|n| scene.nodes[n].outdated = true);
    Stage::of(scene)
}

#[tokio::test]
async fn no_pod_is_replaced_while_clients_cannot_be_led_elsewhere() {
    let mut stage = rolling();
    let leader = stage.observed.pods[&name(0)].clone();
    stage.observed.pods.insert(name(0), stage.observed.pods[&name(1)].clone());
    let script = vec![
        Expected::found(CLUSTER, value(&stage.cluster)),
        Expected::written(Method::POST, EVENTS),
        // As its uid has it: the pod that stands there as n0 is n1's twin.
        Expected::failing(Method::PATCH, PODS[1], StatusCode::FORBIDDEN),
        stage.report(),
    ];
    let (_, sent, _) = stage.pass(script).await;
    assert_eq!(sent[1]["reason"], "Rolling");
    assert_eq!(sent[3]["status"]["conditions"][1]["reason"], "RollingNodes");

    // Now they are led as they should be. That the pod cannot be deleted is told no later, either.
    stage.observed.pods.insert(name(0), leader);
    let script = vec![Expected::failing(Method::DELETE, PODS[1], StatusCode::FORBIDDEN), stage.report()];
    let (_, sent, metrics) = stage.pass(script).await;
    assert_eq!(sent[1]["status"]["conditions"][1]["reason"], "RollingNodes");
    assert!(metrics.contains("reconcile_errors_total{error=\"kubernetes_refused\"} 1"), "{metrics}");
    assert_eq!(stage.memory.setbacks.0.keys().collect::<Vec<_>>(), [&Chore::Replacement]);
}

#[tokio::test(start_paused = true)]
async fn what_hangs_is_given_up_and_tried_again_later() {
    let (client, server) = server(Vec::new());
    let (stage, context) = (Stage::of(Scene::steady()), context(client.clone()));
    let Stage { cluster, valid, observed, .. } = &stage;
    let platform = StatusRecord::new(&client, valid);
    let site = Site { cluster, context: &context, valid, observed, platform: &platform };
    let mut setbacks = Setbacks::default();
    for chore in [Chore::Gates, Chore::Volumes] {
        let begun = Instant::now();
        let hangs = std::future::pending::<Result<(), ReconcileError>>();
        assert_eq!(setbacks.attempt(&site, chore, hangs).await, None);
        assert_eq!(begun.elapsed(), LIMIT);
        let again = setbacks.attempt(&site, chore, std::future::ready(Ok(()))).await;
        assert_eq!(again, None, "it is not tried again at once");
    }
    tokio::time::advance(setbacks.again_in().expect("something waits") + Duration::from_secs(1)).await;
    assert!(setbacks.attempt(&site, Chore::Gates, std::future::ready(Ok(()))).await.is_some());
    drop((client, context, platform));
    server.await.expect("nothing was sent");
}

#[test]
fn what_only_a_person_can_put_right_is_told_at_once() {
    let mut setbacks = Setbacks::default();
    let error = ReconcileError::Tls { reason: Reason::TlsSecretInvalid, message: "no".into() };
    setbacks.note(Chore::Certificates, &error);
    setbacks.note(Chore::Volumes, &ReconcileError::Timeout);
    let told = |chore| setbacks.0[&chore].is_to_be_told();
    assert!(told(Chore::Certificates) && !told(Chore::Volumes));
}
