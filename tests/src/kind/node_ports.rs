//! Reaches each pod of a store by a port of the cluster's machines, past the API server.
//!
//! For loads that go on while everything else is being struck: a connection leads to the pod itself, ends when its
//! process does, and is refused while there is none. The Services are the test's own, one per pod, and go with the
//! namespace or when they are removed.

use std::collections::BTreeMap;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Service;
use kube::{Api, api::ListParams};
use quorumkv_api::{CLIENT_PORT, PEER_PORT};
use serde_json::{Value, json};

use super::store::Store;

/// Label of the Services, with the store's name.
const LABEL: &str = "quorumkv-tests.example.org/node-ports-of";

/// A way to each pod.
#[derive(Debug, Clone)]
pub struct NodePorts {
    address: String,
    /// Client and peer port, by pod.
    ports: BTreeMap<String, (i32, i32)>,
}

impl NodePorts {
    /// Makes the Services for all pods that a store has now. Its pods keep their names.
    ///
    /// # Errors
    /// When they cannot be made.
    pub async fn open(store: &Store) -> anyhow::Result<Self> {
        let services: Vec<Value> = store.pods().await?.into_keys().map(|pod| service(store, &pod)).collect();
        store.kind.apply(&json!({"apiVersion": "v1", "kind": "List", "items": services})).await?;
        let api: Api<Service> = Api::namespaced(store.kind.client.clone(), store.namespace);
        let of_store = ListParams::default().labels(&format!("{LABEL}={}", store.name));
        let found = api.list(&of_store).await.context("list the Services")?;
        let ports = found.into_iter().map(|service| ports_of(&service).context("a Service without node ports"));
        let machine = store.kind.machines().await?.into_iter().next().context("a cluster has machines")?;
        Ok(Self { address: machine.address, ports: ports.collect::<anyhow::Result<_>>()? })
    }

    /// Removes the Services of a store.
    ///
    /// # Errors
    /// When kubectl fails.
    pub async fn close(store: &Store) -> anyhow::Result<()> {
        store.kubectl(&["delete", "services", "--selector", &format!("{LABEL}={}", store.name)]).await?;
        Ok(())
    }

    /// Names of the pods.
    pub fn pods(&self) -> impl Iterator<Item = &String> {
        self.ports.keys()
    }

    /// Client URL of a pod, as it is reached from here.
    ///
    /// # Errors
    /// When the store has no such pod.
    pub fn client_url(&self, pod: &str) -> anyhow::Result<String> {
        let (port, _) = self.of(pod)?;
        Ok(format!("http://{}:{port}", self.address))
    }

    /// Peer URL of a pod, as it is reached from here.
    ///
    /// # Errors
    /// When the store has no such pod.
    pub fn peer_url(&self, pod: &str) -> anyhow::Result<String> {
        let (_, port) = self.of(pod)?;
        Ok(format!("http://{}:{port}", self.address))
    }

    /// What an advertised URL, which begins with the pod's name, is from here.
    #[must_use]
    pub fn translate(&self, advertised: &str) -> Option<String> {
        let pod = advertised.strip_prefix("http://")?.split(['.', ':']).next()?;
        self.client_url(pod).ok()
    }

    fn of(&self, pod: &str) -> anyhow::Result<(i32, i32)> {
        self.ports.get(pod).copied().with_context(|| format!("no ports lead to a pod {pod}"))
    }
}

fn service(store: &Store, pod: &str) -> Value {
    let port = |name: &str, port: u16| json!({"name": name, "port": port, "targetPort": port});
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": format!("reach-{pod}"), "namespace": store.namespace, "labels": {LABEL: store.name}},
        "spec": {
            "type": "NodePort",
            "selector": {"statefulset.kubernetes.io/pod-name": pod},
            // Also who is not ready shall be asked.
            "publishNotReadyAddresses": true,
            "ports": [port("client", CLIENT_PORT), port("peer", PEER_PORT)],
        },
    })
}

/// The pod that a Service leads to, and its client and peer port.
fn ports_of(service: &Service) -> Option<(String, (i32, i32))> {
    let spec = service.spec.as_ref()?;
    let pod = spec.selector.as_ref()?.get("statefulset.kubernetes.io/pod-name")?.clone();
    let port = |name: &str| {
        let ports = spec.ports.as_ref()?;
        ports.iter().find(|port| port.name.as_deref() == Some(name))?.node_port
    };
    Some((pod, (port("client")?, port("peer")?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_advertised_url_leads_to_the_port_of_its_pod() {
        let service: Service = serde_json::from_value(json!({
            "metadata": {"name": "reach-demo-1"},
            "spec": {
                "selector": {"statefulset.kubernetes.io/pod-name": "demo-1"},
                "ports": [{"name": "client", "port": 5000, "nodePort": 30001}, {"name": "peer", "port": 5100, "nodePort": 30002}],
            },
        }))
        .expect("a Service");
        let ports = BTreeMap::from([ports_of(&service).expect("node ports")]);
        let reach = NodePorts { address: "10.0.0.9".to_owned(), ports };
        let url = reach.translate("http://demo-1.demo-nodes.default.svc:5000");
        assert_eq!(url.as_deref(), Some("http://10.0.0.9:30001"));
        assert_eq!(reach.peer_url("demo-1").expect("known"), "http://10.0.0.9:30002");
        assert_eq!(reach.translate("http://demo-2.demo-nodes.default.svc:5000"), None);
    }
}
