//! `check`: whether every replica holds what the leader holds, at one place in the log.

use quorumkv_inspect::compare::{Replica, compare_with};
use quorumkv_operator::crd::KvCluster;

use crate::{
    arguments::{CheckOptions, Output},
    cluster::Target,
    failure::Failure,
    nodes::{self, Reach},
    print,
};

pub(crate) async fn run(
    target: &Target,
    reach: &impl Reach,
    cluster: &KvCluster,
    options: &CheckOptions,
    output: Output,
) -> Result<(), Failure> {
    let (text, equal) = found(target, reach, cluster, options, output).await?;
    print(text.as_bytes())?;
    if equal { Ok(()) } else { Err(Failure::Differs) }
}

async fn found(
    target: &Target,
    reach: &impl Reach,
    cluster: &KvCluster,
    options: &CheckOptions,
    output: Output,
) -> Result<(String, bool), Failure> {
    let CheckOptions { show, patience } = options;
    let leader = target.leader(cluster)?;
    let followers = nodes::names(cluster).into_iter().filter(|pod| *pod != leader);
    let (mut replicas, mut routes) = (Vec::new(), Vec::new());
    for name in std::iter::once(leader.clone()).chain(followers) {
        let route = nodes::client_port(reach, &name).await?;
        replicas.push(Replica { name, url: route.url.clone() });
        routes.push(route);
    }
    let store = format!("KvCluster {}", target.full_name());
    let token = target.token.as_deref();
    let comparison = compare_with(token, &store, &replicas, patience.limit, *show).await.map_err(Failure::Compare)?;
    let text = match output {
        Output::Table => comparison.to_string(),
        Output::Json => format!("{}\n", serde_json::to_string(&comparison).expect("a comparison is JSON")),
    };
    Ok((text, comparison.passed))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;
    use crate::{
        arguments::Patience,
        testing::{Fake, Local, kvcluster, status_of, target},
    };

    fn replica(name: &str, data: &Value) -> Fake {
        let listing = "/get_all?consistency=stale&minVersion=9";
        Fake::default().answering("/status", 200, status_of(name, name == "demo-0")).answering(
            listing,
            200,
            json!({"data": data, "version": 9}),
        )
    }

    async fn compared(last: Value) -> (String, bool) {
        let (target, server) = target(Vec::new());
        let cluster = serde_json::from_value(kvcluster()).expect("a KvCluster");
        let equal = json!({"a": 1, "b": 2});
        let reach = Local::of([
            ("demo-0", replica("demo-0", &equal)),
            ("demo-1", replica("demo-1", &equal)),
            ("demo-2", replica("demo-2", &last)),
        ])
        .await;
        let options = CheckOptions { show: 10, patience: Patience { limit: Duration::from_millis(200) } };
        let found = found(&target, &reach, &cluster, &options, Output::Table).await.expect("comparable");
        drop(target);
        server.await.expect("nothing was asked");
        found
    }

    #[tokio::test]
    async fn equal_replicas_pass() {
        let (text, equal) = compared(json!({"a": 1, "b": 2})).await;
        assert!(equal && text.contains("All replicas are equal: KvCluster default/demo"), "{text}");
    }

    #[tokio::test]
    async fn a_replica_with_another_value_is_named_with_the_key() {
        let (text, equal) = compared(json!({"a": 1, "b": 3})).await;
        assert!(!equal && text.contains("demo-2 different: b"), "{text}");
    }
}
