//! What operator and nodes may ask of the API server, as it says itself, against the list of what they need; and the
//! NetworkPolicies, as far as an API server can judge them.

use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};
use k8s_openapi::api::{
    authorization::v1::{ResourceRule, SelfSubjectRulesReview},
    core::v1::Pod,
};
use kube::Api;
use quorumkv_operator::{
    build::policy::{self, Allowed},
    crd::KvCluster,
    validate::validate,
};
use quorumkv_tests::kind::cluster::Kind;
use serde_json::json;

use super::world::{FIRST, RELEASE, SYSTEM, World};

/// What the operator may do in every namespace, and why: the table at the top of operator/src/controller.rs.
const OPERATOR: [(&str, &[&str]); 10] = [
    ("quorumkv.io/kvclusters", &["get", "list", "watch", "patch"]),
    ("quorumkv.io/kvclusters/status", &["patch"]),
    ("apps/statefulsets", &["get", "list", "watch", "create", "patch"]),
    ("/services", &["get", "list", "watch", "create", "patch"]),
    ("policy/poddisruptionbudgets", &["get", "list", "watch", "create", "patch"]),
    ("/secrets", &["get", "create", "update"]),
    ("/pods", &["get", "list", "watch", "patch", "delete"]),
    ("/pods/status", &["patch"]),
    ("/persistentvolumeclaims", &["get", "list", "watch", "patch"]),
    ("events.k8s.io/events", &["create", "patch"]),
];

/// What it may do besides in its own namespace: hold its lease.
const IN_ITS_OWN: [(&str, &[&str]); 2] = [
    ("coordination.k8s.io/leases", &["create"]),
    ("coordination.k8s.io/leases quorumkv-operator", &["get", "patch", "update"]),
];

/// `verb group/resource name` for each thing that an account may do in a namespace, as `kubectl auth can-i --list` asks.
async fn rights(kind: &Kind, account: &str, namespace: &str) -> anyhow::Result<BTreeSet<String>> {
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": namespace},
    });
    // Without validation, for which kubectl would list the definitions of resources as that account.
    let ask = ["create", "--validate=false", "--filename", "-", "--output", "json", "--as", account];
    let text = kind.kubectl(ask).input(review.to_string()).output().await?;
    let review: SelfSubjectRulesReview = serde_json::from_str(&text).with_context(|| text.clone())?;
    let status = review.status.with_context(|| text.clone())?;
    ensure!(!status.incomplete, "the API server does not know all rules: {text}");
    Ok(status.resource_rules.into_iter().flat_map(one_by_one).collect())
}

fn one_by_one(rule: ResourceRule) -> Vec<String> {
    let ResourceRule { verbs, api_groups, resources, resource_names } = rule;
    let names = resource_names.filter(|names| !names.is_empty()).unwrap_or_else(|| vec![String::new()]);
    let mut rights = Vec::new();
    for group in api_groups.unwrap_or_default() {
        for resource in resources.iter().flatten() {
            for name in &names {
                rights.extend(verbs.iter().map(|verb| format!("{verb} {group}/{resource} {name}").trim().to_owned()));
            }
        }
    }
    rights
}

fn expected(lists: &[&[(&str, &[&str])]]) -> BTreeSet<String> {
    let of = |(what, verbs): &(&str, &[&str])| -> Vec<String> {
        verbs.iter().map(|verb| format!("{verb} {what}")).collect()
    };
    lists.iter().flat_map(|list| list.iter()).flat_map(of).collect()
}

pub(crate) async fn operator_and_nodes_may_do_what_is_listed_and_nothing_else(world: &World) -> anyhow::Result<()> {
    let store = world.ready_store().await?;
    let kind = &store.kind;
    let account = |namespace: &str, name: &str| format!("system:serviceaccount:{namespace}:{name}");
    let operator = account(SYSTEM, &format!("{RELEASE}-operator"));
    for (namespace, lists) in [(FIRST, &[&OPERATOR[..]][..]), (SYSTEM, &[&OPERATOR[..], &IN_ITS_OWN[..]][..])] {
        // What any account may: to ask about itself.
        let anybody = rights(kind, &account(namespace, "nobody-in-particular"), namespace).await?;
        let found: BTreeSet<String> = rights(kind, &operator, namespace).await?.difference(&anybody).cloned().collect();
        let expected = expected(lists);
        let more: Vec<&String> = found.difference(&expected).collect();
        let less: Vec<&String> = expected.difference(&found).collect();
        ensure!(more.is_empty() && less.is_empty(), "in {namespace} the operator may also {more:?}, and not {less:?}");
        let nodes = rights(kind, &account(namespace, "default"), namespace).await?;
        ensure!(nodes == anybody, "in {namespace} nodes may {:?}", nodes.difference(&anybody).collect::<Vec<_>>());
    }
    // Nor have they anything to ask with.
    let pods: Api<Pod> = Api::namespaced(kind.client.clone(), store.namespace);
    for name in store.pods().await?.keys() {
        let spec = pods.get(name).await?.spec.context("a pod without spec")?;
        let projected = spec.volumes.iter().flatten().any(|volume| volume.projected.is_some());
        ensure!(spec.automount_service_account_token == Some(false) && !projected, "{name} has a token");
    }
    Ok(())
}

/// Whether a network plugin enforces them is the cluster's business, and not tested here.
pub(crate) async fn network_policies_are_such_as_the_api_server_takes(world: &World) -> anyhow::Result<()> {
    let store = world.ready_store().await?;
    let kind = &store.kind;
    let cluster: KvCluster = serde_json::from_value(serde_json::to_value(store.get().await?)?)?;
    let valid = validate(&cluster, "image").context("the store's own spec")?;
    let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/quorumkv");
    for namespaces in [vec![], vec!["shop".to_owned()]] {
        let allowed = Allowed { operator_namespace: SYSTEM.to_owned(), client_namespaces: namespaces };
        let mut policy = serde_json::to_value(policy::build(&valid, &allowed))?;
        policy["apiVersion"] = json!("networking.k8s.io/v1");
        policy["kind"] = json!("NetworkPolicy");
        let create = ["create", "--dry-run=server", "--validate=strict", "--filename", "-"];
        kind.kubectl(create).input(policy.to_string()).output().await?;
    }
    let values = ["--set", "networkPolicy.enabled=true,networkPolicy.clientNamespaces={shop}"];
    let render = kind.helm(["template", RELEASE, chart, "--namespace", SYSTEM]).args(values);
    let of_operator = render.args(["--show-only", "templates/networkpolicy.yaml"]).output().await?;
    let create = ["create", "--dry-run=server", "--validate=strict", "--filename", "-"];
    kind.kubectl(create).input(of_operator).output().await?;
    // With policies, and only then, the operator may make them.
    let rules = async |values: &[&str]| {
        let render = kind.helm(["template", RELEASE, chart, "--namespace", SYSTEM]).args(values);
        render.args(["--show-only", "templates/rbac.yaml"]).output().await
    };
    ensure!(rules(&values).await?.contains("networkpolicies"), "the operator may make no policy");
    ensure!(!rules(&[]).await?.contains("networkpolicies"), "the operator may make policies that nobody asked for");
    Ok(())
}
