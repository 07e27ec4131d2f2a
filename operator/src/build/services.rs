//! Three Services: the leader, the followers, and every node by name.

use k8s_openapi::{
    api::core::v1::{Service, ServicePort, ServiceSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};
use quorumkv_api::{CLIENT_PORT, METRICS_PORT, PEER_PORT, lab::Role};

use super::names;
use crate::validate::ValidCluster;

/// Leader, followers, nodes.
#[must_use]
pub fn build(cluster: &ValidCluster) -> [Service; 3] {
    [
        of_role(cluster, cluster.name.clone(), Role::Leader),
        of_role(cluster, names::followers_service(&cluster.name), Role::Follower),
        of_all(cluster),
    ]
}

/// Follows the role label, which the operator sets only once the leader is active.
fn of_role(cluster: &ValidCluster, name: String, role: Role) -> Service {
    Service {
        metadata: names::metadata(cluster, name),
        spec: Some(ServiceSpec {
            selector: Some(names::role_labels(&cluster.name, role)),
            ports: Some(vec![port("client", CLIENT_PORT)]),
            type_: Some("ClusterIP".to_owned()),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

/// Names pods before they are ready: they have to reach each other to become so.
fn of_all(cluster: &ValidCluster) -> Service {
    let ports = [("client", CLIENT_PORT), ("peer", PEER_PORT), ("metrics", METRICS_PORT)];
    Service {
        metadata: names::metadata(cluster, names::nodes_service(&cluster.name)),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            publish_not_ready_addresses: Some(true),
            selector: Some(names::labels(&cluster.name)),
            ports: Some(ports.map(|(name, number)| port(name, number)).into()),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

fn port(name: &str, number: u16) -> ServicePort {
    ServicePort {
        name: Some(name.to_owned()),
        port: i32::from(number),
        target_port: Some(IntOrString::String(name.to_owned())),
        protocol: Some("TCP".to_owned()),
        ..ServicePort::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::valid_cluster;

    #[test]
    fn the_services_select_by_role_and_never_by_ordinal() {
        let [leader, followers, nodes] = build(&valid_cluster()).map(|service| service.spec.expect("a spec"));
        assert_eq!(leader.selector.expect("selects")[names::ROLE], "leader");
        assert_eq!(followers.selector.expect("selects")[names::ROLE], "follower");
        assert!(!nodes.selector.expect("selects").contains_key(names::ROLE));
        assert_eq!((nodes.cluster_ip.as_deref(), nodes.publish_not_ready_addresses), (Some("None"), Some(true)));
    }
}
