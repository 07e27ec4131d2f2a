//! `switchover`: the annotation that asks for it, and then the operator's answer.
//!
//! The operator takes the annotation away when it acts, and tells the outcome in an event. Where the user may not read
//! events, the leader by the status is the answer.

use std::{collections::BTreeMap, time::Instant};

use k8s_openapi::api::core::v1::Event;
use kube::{Api, ResourceExt as _, api::ListParams};
use quorumkv_operator::{crd::KvCluster, switchover::ANNOTATION};
use serde_json::json;

use crate::{
    arguments::{Output, SwitchoverOptions},
    cluster::Target,
    failure::Failure,
    print,
};

/// Reasons of the events that end a switchover well, and of those that do not.
const WELL: [&str; 2] = ["SwitchedOver", "SwitchoverNotNeeded"];
const NOT_WELL: [&str; 2] = ["SwitchoverRefused", "SwitchoverMissed"];

/// Events by name, with the version and the reason of each.
type Seen = BTreeMap<String, (Option<String>, String)>;

pub(crate) async fn run(
    target: &Target,
    cluster: &KvCluster,
    options: &SwitchoverOptions,
    output: Output,
) -> Result<(), Failure> {
    let SwitchoverOptions { pod, patience } = options;
    target.not_paused(cluster)?;
    let before = events(target).await;
    let began = Instant::now();
    target.patch(json!({"metadata": {"annotations": {ANNOTATION: pod}}})).await?;
    let what = format!("leadership of {pod}");
    let outcome = target.until(&what, patience.limit, async |cluster| {
        if cluster.annotations().contains_key(ANNOTATION) {
            return Ok(None);
        }
        Ok(outcome(target, cluster, pod, before.as_ref()).await)
    });
    let message = match outcome.await {
        Ok(outcome) => outcome.map_err(Failure::Switchover)?,
        Err(Failure::TooLate { what, limit, seen }) => {
            let still = target.get().await?.annotations().contains_key(ANNOTATION);
            let seen = if still { not_taken_up(target) } else { seen };
            return Err(Failure::TooLate { what, limit, seen });
        }
        Err(failure) => return Err(failure),
    };
    let took = began.elapsed();
    let text = match output {
        Output::Table => format!("{message}, after {took:.1?}\n"),
        Output::Json => {
            let cluster = target.full_name();
            format!("{}\n", json!({"cluster": cluster, "leader": pod, "seconds": took.as_secs_f64()}))
        }
    };
    print(text.as_bytes())
}

fn not_taken_up(target: &Target) -> String {
    let (namespace, name) = (&target.namespace, &target.name);
    format!(
        "the operator has not taken the wish up; kubectl -n {namespace} annotate kvc/{name} {ANNOTATION}- takes it away"
    )
}

/// How it ended, in words, once it has.
async fn outcome(
    target: &Target,
    cluster: &KvCluster,
    pod: &str,
    before: Option<&Seen>,
) -> Option<Result<String, String>> {
    let status = cluster.status.as_ref()?;
    let ready = status.conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    let leads = status.leader.as_deref() == Some(pod);
    if let (Some(before), Some(now)) = (before, events(target).await) {
        let news = now.iter().filter(|(name, (version, _))| before.get(*name).is_none_or(|(old, _)| old != version));
        for (name, (_, reason)) in news {
            if NOT_WELL.contains(&reason.as_str()) {
                return Some(Err(note(target, name).await.unwrap_or_else(|| reason.clone())));
            }
            if WELL.contains(&reason.as_str()) {
                return (leads && ready).then(|| Ok(format!("{pod} leads epoch {}", status.epoch.unwrap_or_default())));
            }
        }
    }
    (leads && ready).then(|| Ok(format!("{pod} leads epoch {}", status.epoch.unwrap_or_default())))
}

/// The events about switchovers of this KvCluster; none where they cannot be read.
async fn events(target: &Target) -> Option<Seen> {
    let of_it = format!("involvedObject.kind=KvCluster,involvedObject.name={}", target.name);
    let found = api(target).list(&ListParams::default().fields(&of_it)).await.ok()?;
    let about = |event: &Event| {
        let reason = event.reason.clone().unwrap_or_default();
        let matters = WELL.contains(&reason.as_str()) || NOT_WELL.contains(&reason.as_str());
        matters.then(|| (event.name_any(), (event.metadata.resource_version.clone(), reason)))
    };
    Some(found.iter().filter_map(about).collect())
}

async fn note(target: &Target, event: &str) -> Option<String> {
    api(target).get(event).await.ok()?.message
}

fn api(target: &Target) -> Api<Event> {
    Api::namespaced(target.client.clone(), &target.namespace)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::{Method, StatusCode};
    use serde_json::Value;

    use super::*;
    use crate::{
        arguments::Patience,
        testing::{DEMO, api::Expected, kvcluster, list, target},
    };

    const EVENTS: &str = "/api/v1/namespaces/default/events";

    fn event(reason: &str, version: &str) -> Value {
        json!({
            "metadata": {"name": "demo.1", "namespace": "default", "resourceVersion": version},
            "involvedObject": {}, "reason": reason, "message": "No switchover: demo-9 is no node of this store",
        })
    }

    fn led_by(pod: &str, wish: Option<&str>) -> Value {
        let mut cluster = kvcluster();
        cluster["status"]["leader"] = json!(pod);
        if let Some(wish) = wish {
            cluster["metadata"]["annotations"] = json!({ANNOTATION: wish});
        }
        cluster
    }

    async fn ask_for(pod: &str, script: Vec<Expected>) -> (Result<(), String>, Vec<Value>) {
        let (target, server) = target(script);
        let cluster = serde_json::from_value(kvcluster()).expect("a KvCluster");
        let patience = Patience { limit: Duration::from_secs(1) };
        let options = SwitchoverOptions { pod: pod.to_owned(), patience };
        let outcome = run(&target, &cluster, &options, Output::Table).await.map_err(|failure| failure.to_string());
        drop(target);
        (outcome, server.await.expect("the script was followed"))
    }

    #[tokio::test(start_paused = true)]
    async fn a_switchover_is_waited_for_until_the_pod_leads() {
        let (outcome, sent) = ask_for(
            "demo-2",
            vec![
                Expected::found(EVENTS, list(&[event("SwitchedOver", "7")])),
                Expected::written(Method::PATCH, DEMO).answering(led_by("demo-0", Some("demo-2"))),
                Expected::found(DEMO, led_by("demo-0", Some("demo-2"))),
                Expected::found(DEMO, led_by("demo-0", None)),
                Expected::found(EVENTS, list(&[event("SwitchedOver", "7")])),
                Expected::found(DEMO, led_by("demo-2", None)),
                Expected::found(EVENTS, list(&[event("SwitchedOver", "8")])),
            ],
        )
        .await;
        outcome.expect("it leads");
        assert_eq!(sent[1], json!({"metadata": {"annotations": {ANNOTATION: "demo-2"}}}));
    }

    #[tokio::test]
    async fn the_operators_reason_for_a_refusal_is_told() {
        let refused = event("SwitchoverRefused", "9");
        let script = vec![
            Expected::found(EVENTS, list(&[])),
            Expected::written(Method::PATCH, DEMO).answering(led_by("demo-0", Some("demo-9"))),
            Expected::found(DEMO, led_by("demo-0", None)),
            Expected::found(EVENTS, list(std::slice::from_ref(&refused))),
            Expected::found("/api/v1/namespaces/default/events/demo.1", refused),
        ];
        let error = ask_for("demo-9", script).await.0.expect_err("refused");
        assert_eq!(error, "No switchover: demo-9 is no node of this store");
    }

    #[tokio::test(start_paused = true)]
    async fn without_an_operator_the_wish_stays_and_that_is_said() {
        let waiting = || Expected::found(DEMO, led_by("demo-0", Some("demo-2")));
        let mut script = vec![
            Expected::failing(Method::GET, EVENTS, StatusCode::FORBIDDEN),
            Expected::written(Method::PATCH, DEMO).answering(led_by("demo-0", Some("demo-2"))),
        ];
        // At 0, 250, 500, 750 and 1000 ms, and once more to see whether it is still there.
        script.extend((0..6).map(|_| waiting()));
        let error = ask_for("demo-2", script).await.0.expect_err("too late");
        assert!(error.contains("annotate kvc/demo quorumkv.io/switchover-to- takes it away"), "{error}");
    }
}
