//! Reaches a Service or a pod from this machine, through the API server.
//!
//! Needs no rights but those of the kubeconfig, and no route into the cluster, so it works wherever kubectl
//! does. Each connection is a forwarding of its own and picks its pod when it is made: a pod that goes away
//! takes only its own connections with it, and the next connection finds the pod that the Service names by
//! then. (`kubectl port-forward` stays with the first pod, and ends with it.)

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::Context as _;
use k8s_openapi::api::{core::v1::Pod, discovery::v1::EndpointSlice};
use kube::{Api, Client, api::ListParams};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_util::task::AbortOnDropHandle;

use crate::wait::until;

/// How long a connection waits for a Service to have a ready pod. Until then it is as silent as a network
/// that loses packets; clients have their own limits.
const NO_ENDPOINT_LIMIT: Duration = Duration::from_secs(30);

/// What a tunnel leads to.
#[derive(Debug, Clone)]
enum Target {
    Service(String),
    Pod(String),
}

/// A port on this machine's loopback that leads into the cluster, until it is dropped.
#[derive(Debug)]
pub struct Tunnel {
    address: SocketAddr,
    _task: AbortOnDropHandle<()>,
}

impl Tunnel {
    /// To a ready pod of a Service, chosen anew for each connection. `port` is the pods' port.
    ///
    /// # Errors
    /// When no port of this machine can be had.
    pub async fn to_service(client: &Client, namespace: &str, name: &str, port: u16) -> std::io::Result<Self> {
        Self::open(client, namespace, Target::Service(name.to_owned()), port).await
    }

    /// To one pod.
    ///
    /// # Errors
    /// When no port of this machine can be had.
    pub async fn to_pod(client: &Client, namespace: &str, name: &str, port: u16) -> std::io::Result<Self> {
        Self::open(client, namespace, Target::Pod(name.to_owned()), port).await
    }

    /// `http://` and its address.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    async fn open(client: &Client, namespace: &str, target: Target, port: u16) -> std::io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let route = Route { client: client.clone(), namespace: namespace.to_owned(), target, port };
        let task = AbortOnDropHandle::new(tokio::spawn(accept(listener, route)));
        Ok(Self { address, _task: task })
    }
}

#[derive(Clone)]
struct Route {
    client: Client,
    namespace: String,
    target: Target,
    port: u16,
}

async fn accept(listener: TcpListener, route: Route) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let route = route.clone();
                    connections.spawn(async move {
                        if let Err(error) = route.carry(stream).await {
                            tracing::debug!(target = ?route.target, "connection ended: {error:#}");
                        }
                    });
                }
                // Out of descriptors, or a client that was gone at once: the next may do better.
                Err(error) => {
                    tracing::warn!("cannot accept: {error}");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

impl Route {
    async fn carry(&self, mut stream: TcpStream) -> anyhow::Result<()> {
        stream.set_nodelay(true)?;
        let pod = match &self.target {
            Target::Pod(name) => name.clone(),
            Target::Service(name) => self.endpoint(name).await?,
        };
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let mut forwarder =
            pods.portforward(&pod, &[self.port]).await.with_context(|| format!("forward to pod {pod}"))?;
        let remote = forwarder.take_stream(self.port).context("the forwarder has no stream for its port")?;
        let (mut from_remote, mut to_remote) = tokio::io::split(remote);
        let (mut from_local, mut to_local) = stream.split();
        // A forwarding cannot be closed one way only, and HTTP does not need that: the end of either
        // direction ends both.
        let copied = tokio::select! {
            copied = tokio::io::copy(&mut from_local, &mut to_remote) => copied,
            copied = tokio::io::copy(&mut from_remote, &mut to_local) => copied,
        };
        forwarder.abort();
        copied.with_context(|| format!("connection to pod {pod}"))?;
        Ok(())
    }

    async fn endpoint(&self, service: &str) -> anyhow::Result<String> {
        let slices: Api<EndpointSlice> = Api::namespaced(self.client.clone(), &self.namespace);
        let of_service = ListParams::default().labels(&format!("kubernetes.io/service-name={service}"));
        let look = || async {
            let slices = slices.list(&of_service).await?;
            let mut pods: Vec<String> = slices.into_iter().flat_map(ready_pods).collect();
            if pods.is_empty() {
                anyhow::bail!("the Service has no ready endpoint");
            }
            Ok(pods.swap_remove(rand::random_range(0..pods.len())))
        };
        until(&format!("a ready pod of Service {service}"), NO_ENDPOINT_LIMIT, look).await
    }
}

/// The pods of a slice that the Service sends connections to.
fn ready_pods(slice: EndpointSlice) -> impl Iterator<Item = String> {
    slice.endpoints.into_iter().flatten().filter_map(|endpoint| {
        let ready = endpoint.conditions.is_none_or(|conditions| conditions.ready != Some(false));
        endpoint.target_ref.filter(|target| ready && target.kind.as_deref() == Some("Pod"))?.name
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_ready_pods_are_endpoints() {
        let slice: EndpointSlice = serde_json::from_value(json!({
            "addressType": "IPv4",
            "endpoints": [
                {"addresses": ["10.0.0.1"], "conditions": {"ready": false}, "targetRef": {"kind": "Pod", "name": "gone"}},
                {"addresses": ["10.0.0.2"], "conditions": {"ready": true}, "targetRef": {"kind": "Pod", "name": "here"}},
                {"addresses": ["10.0.0.3"], "conditions": {}, "targetRef": {"kind": "Pod", "name": "unknown-is-ready"}},
                {"addresses": ["10.0.0.4"], "conditions": {"ready": true}, "targetRef": {"kind": "Node", "name": "other"}},
                {"addresses": ["10.0.0.5"], "conditions": {"ready": true}},
            ],
        }))
        .expect("a slice");
        assert_eq!(ready_pods(slice).collect::<Vec<_>>(), ["here", "unknown-is-ready"]);
    }
}
