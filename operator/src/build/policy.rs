//! The NetworkPolicy of a KvCluster: who reaches which port of its nodes. Made only where the operator is told to.
//!
//! It takes a network plugin that enforces policies; without one the object is there and changes nothing.

use k8s_openapi::{
    api::networking::v1::{
        NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
    },
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};
use quorumkv_api::{CLIENT_PORT, METRICS_PORT, PEER_PORT};

use super::names;
use crate::validate::ValidCluster;

/// Label that every namespace has, with its name.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// Who may reach nodes, beside nodes of the same store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowed {
    /// Namespace of the operator's pods.
    pub operator_namespace: String,
    /// Namespaces of clients, beside the store's own; none: all.
    pub client_namespaces: Vec<String>,
}

/// The client port is open to clients, the peer port to nodes of this store, both to the operator, and the metrics port
/// to everybody. Nothing is said of where nodes may connect to.
#[must_use]
pub fn build(cluster: &ValidCluster, allowed: &Allowed) -> NetworkPolicy {
    let operator = NetworkPolicyPeer {
        namespace_selector: Some(namespace(&allowed.operator_namespace)),
        pod_selector: Some(labelled("app.kubernetes.io/component", "operator")),
        ip_block: None,
    };
    let nodes =
        NetworkPolicyPeer { pod_selector: Some(names::selector(&cluster.name)), ..NetworkPolicyPeer::default() };
    let clients = if allowed.client_namespaces.is_empty() {
        // Without peers: also what comes from outside the cluster.
        None
    } else {
        let named = std::iter::once(&cluster.namespace).chain(&allowed.client_namespaces);
        let peer = |name: &String| NetworkPolicyPeer {
            namespace_selector: Some(namespace(name)),
            ..NetworkPolicyPeer::default()
        };
        Some(named.map(peer).chain([operator.clone()]).collect())
    };
    let rule = |port, from| NetworkPolicyIngressRule { from, ports: Some(vec![tcp(port)]) };
    NetworkPolicy {
        metadata: names::metadata(cluster, cluster.name.clone()),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(names::selector(&cluster.name)),
            policy_types: Some(vec!["Ingress".to_owned()]),
            ingress: Some(vec![
                rule(CLIENT_PORT, clients),
                rule(PEER_PORT, Some(vec![nodes, operator])),
                rule(METRICS_PORT, None),
            ]),
            egress: None,
        }),
    }
}

fn namespace(name: &str) -> LabelSelector {
    labelled(NAMESPACE_NAME, name)
}

fn labelled(key: &str, value: &str) -> LabelSelector {
    let labels = [(key.to_owned(), value.to_owned())].into();
    LabelSelector { match_labels: Some(labels), ..LabelSelector::default() }
}

fn tcp(port: u16) -> NetworkPolicyPort {
    NetworkPolicyPort {
        port: Some(IntOrString::Int(i32::from(port))),
        protocol: Some("TCP".to_owned()),
        end_port: None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::valid_cluster;

    fn ingress(client_namespaces: &[&str]) -> Vec<Value> {
        let allowed = Allowed {
            operator_namespace: "quorumkv-system".to_owned(),
            client_namespaces: client_namespaces.iter().map(|name| (*name).to_owned()).collect(),
        };
        let policy = serde_json::to_value(build(&valid_cluster(), &allowed)).expect("it serializes");
        assert_eq!(policy["spec"]["podSelector"]["matchLabels"]["app.kubernetes.io/instance"], "demo");
        assert_eq!(policy["spec"]["policyTypes"], json!(["Ingress"]));
        policy["spec"]["ingress"].as_array().expect("rules").clone()
    }

    fn operator() -> Value {
        json!({
            "namespaceSelector": {"matchLabels": {NAMESPACE_NAME: "quorumkv-system"}},
            "podSelector": {"matchLabels": {"app.kubernetes.io/component": "operator"}},
        })
    }

    #[test]
    fn the_peer_port_is_for_nodes_of_the_same_store_and_the_operator() {
        let rules = ingress(&[]);
        let peer = rules.iter().find(|rule| rule["ports"][0]["port"] == 5100).expect("a rule");
        let nodes = json!({"podSelector": {"matchLabels": names::labels("demo")}});
        assert_eq!(peer["from"], json!([nodes, operator()]), "a peer without a namespace is of the policy's own");
        assert_eq!(rules.iter().filter(|rule| rule["ports"][0]["port"] == 5100).count(), 1);
    }

    #[test]
    fn the_client_port_is_for_all_or_for_the_namespaces_that_are_named() {
        let of = |rules: Vec<Value>| rules.into_iter().find(|rule| rule["ports"][0]["port"] == 5000).expect("a rule");
        assert_eq!(of(ingress(&[])).get("from"), None);
        let named = |name: &str| json!({"namespaceSelector": {"matchLabels": {NAMESPACE_NAME: name}}});
        assert_eq!(of(ingress(&["shop"]))["from"], json!([named("default"), named("shop"), operator()]));
    }
}
