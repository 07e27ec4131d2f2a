//! `quorum` and `delay`: patches of the spec, and then the wait until the status says that they are in force.

use std::time::Instant;

use quorumkv_api::settings::{format_duration, parse_duration};
use quorumkv_operator::crd::{KvCluster, KvClusterStatus};
use serde_json::{Value, json};

use crate::{
    arguments::{DelayOptions, Output, Patience, QuorumOptions},
    cluster::Target,
    failure::Failure,
    print,
};

pub(crate) async fn quorum(
    target: &Target,
    cluster: &KvCluster,
    options: &QuorumOptions,
    output: Output,
) -> Result<(), Failure> {
    let QuorumOptions { followers, patience } = *options;
    let spec = json!({"writeQuorum": followers});
    let in_force = |status: &KvClusterStatus| status.write_quorum == Some(i32::from(followers));
    change(target, cluster, spec, &format!("writeQuorum {followers}"), in_force, patience, output).await
}

pub(crate) async fn delay(
    target: &Target,
    cluster: &KvCluster,
    options: &DelayOptions,
    output: Output,
) -> Result<(), Failure> {
    let DelayOptions { min, max, patience } = *options;
    let [min_text, max_text] = [min, max].map(format_duration);
    let spec = json!({"delay": {"min": min_text, "max": max_text}});
    let in_force = |status: &KvClusterStatus| {
        let applied = |text: &str| parse_duration(text).ok();
        status.delay.as_ref().is_some_and(|delay| applied(&delay.min) == Some(min) && applied(&delay.max) == Some(max))
    };
    change(target, cluster, spec, &format!("delay {min_text}-{max_text}"), in_force, patience, output).await
}

async fn change(
    target: &Target,
    cluster: &KvCluster,
    spec: Value,
    what: &str,
    in_force: impl Fn(&KvClusterStatus) -> bool,
    patience: Patience,
    output: Output,
) -> Result<(), Failure> {
    target.not_paused(cluster)?;
    let began = Instant::now();
    let generation = target.patch(json!({"spec": spec})).await?.metadata.generation;
    let goal = format!("{what} in force");
    let waited = target.until(&goal, patience.limit, async |cluster| {
        let status = cluster.status.as_ref().filter(|status| status.observed_generation >= generation);
        Ok(status.filter(|status| in_force(status)).map(|_| ()))
    });
    waited.await?;
    let took = began.elapsed();
    let text = match output {
        Output::Table => format!("{} has {what} in force, after {took:.1?}\n", target.full_name()),
        Output::Json => {
            let applied = json!({"cluster": target.full_name(), "applied": spec, "seconds": took.as_secs_f64()});
            format!("{applied}\n")
        }
    };
    print(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::{Method, StatusCode};

    use super::*;
    use crate::testing::{DEMO, api, kvcluster, target};

    const PATIENCE: Patience = Patience { limit: Duration::from_secs(1) };

    /// The KvCluster after a change of the spec, before or after the operator followed it.
    fn changed(quorum: i32, followed: bool) -> Value {
        let mut cluster = kvcluster();
        cluster["metadata"]["generation"] = json!(5);
        cluster["spec"]["writeQuorum"] = json!(quorum);
        if followed {
            cluster["status"]["observedGeneration"] = json!(5);
            cluster["status"]["writeQuorum"] = json!(quorum);
        }
        cluster
    }

    async fn turn(followers: u8, script: Vec<api::Expected>) -> (Result<(), String>, Vec<Value>) {
        let (target, server) = target(script);
        let cluster = serde_json::from_value(kvcluster()).expect("a KvCluster");
        let options = QuorumOptions { followers, patience: PATIENCE };
        let outcome = quorum(&target, &cluster, &options, Output::Table).await.map_err(|failure| failure.to_string());
        drop(target);
        (outcome, server.await.expect("the script was followed"))
    }

    #[tokio::test(start_paused = true)]
    async fn a_quorum_is_waited_for_until_it_is_in_force() {
        let script = vec![
            api::Expected::written(Method::PATCH, DEMO).answering(changed(5, false)),
            api::Expected::found(DEMO, changed(5, false)),
            api::Expected::found(DEMO, changed(5, true)),
        ];
        let (outcome, sent) = turn(5, script).await;
        outcome.expect("in force");
        assert_eq!(sent[0], json!({"spec": {"writeQuorum": 5}}));
    }

    #[tokio::test]
    async fn a_status_of_an_older_spec_is_not_taken_for_an_answer() {
        let mut old = changed(3, false);
        old["status"]["writeQuorum"] = json!(3);
        let script = vec![
            api::Expected::written(Method::PATCH, DEMO).answering(changed(3, false)),
            api::Expected::found(DEMO, old),
            api::Expected::found(DEMO, changed(3, true)),
        ];
        turn(3, script).await.0.expect("in force");
    }

    #[tokio::test]
    async fn what_the_api_server_says_against_a_quorum_is_told() {
        let refused = vec![api::Expected::failing(Method::PATCH, DEMO, StatusCode::UNPROCESSABLE_ENTITY)];
        assert_eq!(turn(9, refused).await.0.expect_err("refused"), "the change was refused: as scripted");
    }

    #[tokio::test]
    async fn a_delay_in_other_words_is_the_same_delay() {
        let mut followed = kvcluster();
        followed["metadata"]["generation"] = json!(5);
        followed["status"]["observedGeneration"] = json!(5);
        followed["status"]["delay"] = json!({"min": "500us", "max": "1s500ms"});
        let script = vec![
            api::Expected::written(Method::PATCH, DEMO).answering(followed.clone()),
            api::Expected::found(DEMO, followed),
        ];
        let (target, server) = target(script);
        let cluster = serde_json::from_value(kvcluster()).expect("a KvCluster");
        let (min, max) = (Duration::from_micros(500), Duration::from_millis(1500));
        let options = DelayOptions { min, max, patience: PATIENCE };
        delay(&target, &cluster, &options, Output::Json).await.expect("in force");
        drop(target);
        let sent = server.await.expect("the script was followed");
        assert_eq!(sent[0], json!({"spec": {"delay": {"min": "500us", "max": "1s500ms"}}}));
    }

    #[tokio::test]
    async fn a_paused_store_is_not_waited_for() {
        let (target, server) = target(Vec::new());
        let mut cluster = kvcluster();
        cluster["metadata"]["annotations"] = json!({"quorumkv.io/reconcile": "paused"});
        let cluster = serde_json::from_value(cluster).expect("a KvCluster");
        let options = QuorumOptions { followers: 2, patience: PATIENCE };
        let error = quorum(&target, &cluster, &options, Output::Table).await.expect_err("paused").to_string();
        assert!(error.contains("default/demo is paused") && error.contains("quorumkv.io/reconcile"), "{error}");
        drop(target);
        server.await.expect("nothing was sent");
    }
}
