//! Names and labels. Pods are told apart by labels, never by their ordinal.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use quorumkv_api::{CLIENT_PORT, NodeId, PEER_PORT, lab::Role, peer::PeerAddress};

use super::nodes::DATA_VOLUME;
use crate::{crd::Tls, validate::ValidCluster};

/// Label that says which KvCluster an object belongs to.
pub const INSTANCE: &str = "app.kubernetes.io/instance";
/// Label that the Services select a role by.
pub const ROLE: &str = "quorumkv.io/role";
/// Label that the operator finds its objects by, everywhere.
pub const MANAGED: &str = "app.kubernetes.io/managed-by=quorumkv-operator";

/// The labels of every object of this KvCluster.
#[must_use]
pub fn labels(instance: &str) -> BTreeMap<String, String> {
    [
        ("app.kubernetes.io/name", "quorumkv"),
        (INSTANCE, instance),
        ("app.kubernetes.io/component", "node"),
        ("app.kubernetes.io/managed-by", "quorumkv-operator"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into()
}

/// What selects the pods of this KvCluster.
#[must_use]
pub fn selector(instance: &str) -> LabelSelector {
    LabelSelector { match_labels: Some(labels(instance)), ..LabelSelector::default() }
}

/// The same as text, for the status.
#[must_use]
pub fn selector_text(instance: &str) -> String {
    labels(instance).iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

/// The labels of the pods with this role.
#[must_use]
pub fn role_labels(instance: &str, role: Role) -> BTreeMap<String, String> {
    let mut labels = labels(instance);
    labels.insert(ROLE.to_owned(), role_text(role).to_owned());
    labels
}

/// A role as it stands in a label.
#[must_use]
pub const fn role_text(role: Role) -> &'static str {
    match role {
        Role::Leader => "leader",
        Role::Follower => "follower",
    }
}

/// Metadata of an object of this KvCluster.
#[must_use]
pub fn metadata(cluster: &ValidCluster, name: String) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(cluster.namespace.clone()),
        labels: Some(labels(&cluster.name)),
        owner_references: Some(vec![cluster.owner.clone()]),
        ..ObjectMeta::default()
    }
}

/// The Service of the followers.
#[must_use]
pub fn followers_service(cluster: &str) -> String {
    format!("{cluster}-followers")
}

/// The headless Service that names every pod.
#[must_use]
pub fn nodes_service(cluster: &str) -> String {
    format!("{cluster}-nodes")
}

/// The Secret with the peer token.
#[must_use]
pub fn token_secret(cluster: &str) -> String {
    format!("{cluster}-peer-token")
}

/// The claim of a node's volume, as a StatefulSet names it.
#[must_use]
pub fn claim(node: &NodeId) -> String {
    format!("{DATA_VOLUME}-{node}")
}

/// The Secret with certificates that the operator makes.
#[must_use]
pub fn tls_secret(cluster: &str) -> String {
    format!("{cluster}-peer-tls")
}

/// The Secret with the certificates of a store, whoever makes them.
#[must_use]
pub fn tls_secret_of(cluster: &str, tls: &Tls) -> String {
    tls.secret_name.clone().unwrap_or_else(|| tls_secret(cluster))
}

/// The DNS name that the certificates of all nodes carry: pods come and go, and so do their addresses.
#[must_use]
pub fn tls_name(cluster: &str, namespace: &str) -> String {
    format!("{}.{namespace}.svc", nodes_service(cluster))
}

/// Base URL of a pod's client port, as clients and other nodes know it. `pod` may be a variable.
#[must_use]
pub fn client_url(cluster: &str, namespace: &str, pod: &str) -> String {
    format!("http://{pod}.{}.{namespace}.svc:{CLIENT_PORT}", nodes_service(cluster))
}

/// Where a pod is reached. The peer port is called by address where it is known: a name that was looked up
/// before its pod was there stays unknown to resolvers for a while.
#[must_use]
pub fn address(cluster: &ValidCluster, pod: &NodeId, ip: Option<&str>) -> PeerAddress {
    let scheme = if cluster.tls.is_some() { "https" } else { "http" };
    let peer_url = match ip {
        Some(ip) if ip.contains(':') => format!("{scheme}://[{ip}]:{PEER_PORT}"),
        Some(ip) => format!("{scheme}://{ip}:{PEER_PORT}"),
        None => format!("{scheme}://{pod}.{}:{PEER_PORT}", tls_name(&cluster.name, &cluster.namespace)),
    };
    PeerAddress { node: pod.clone(), client_url: client_url(&cluster.name, &cluster.namespace, &pod.0), peer_url }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{testing::valid_cluster, validate::ValidTls};

    #[test]
    fn a_pod_is_called_by_its_address_once_it_has_one() {
        let cluster = valid_cluster();
        let of = |ip| address(&cluster, &"demo-0".into(), ip).peer_url;
        assert_eq!(of(None), "http://demo-0.demo-nodes.default.svc:5100");
        assert_eq!(of(Some("10.0.0.7")), "http://10.0.0.7:5100");
        assert_eq!(of(Some("fd00::7")), "http://[fd00::7]:5100");
        let tls = Some(ValidTls { secret: "s".into(), self_signed: false });
        let secured = address(&ValidCluster { tls, ..cluster }, &"demo-0".into(), Some("10.0.0.7"));
        assert_eq!(secured.peer_url, "https://10.0.0.7:5100");
        assert_eq!(secured.client_url, "http://demo-0.demo-nodes.default.svc:5000");
    }

    #[test]
    fn clients_are_told_the_name() {
        let address = address(&valid_cluster(), &"demo-0".into(), Some("10.0.0.7"));
        assert_eq!(address.client_url, "http://demo-0.demo-nodes.default.svc:5000");
    }
}
