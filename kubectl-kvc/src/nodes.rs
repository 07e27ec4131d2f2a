//! Reaches a store's nodes, through the API server.

use std::{io, time::Duration};

use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use kube::{Api, ResourceExt as _, api::PostParams};
use quorumkv_api::{CLIENT_PORT, lab::ErrorReply};
use quorumkv_inspect::{token, tunnel::Tunnel, wait::with_causes};
use quorumkv_operator::crd::KvCluster;
use reqwest::{Client, RequestBuilder, StatusCode};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::{cluster::Target, failure::Failure};

/// Longer than a write waits for its quorum by default.
pub(crate) const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// Pause before a request goes to the leader again.
const PAUSE: Duration = Duration::from_millis(500);

/// A way to a port of a pod, open as long as this lives.
pub(crate) struct Route {
    /// Without a slash at its end.
    pub(crate) url: String,
    _tunnel: Option<Tunnel>,
}

/// Finds ways to pods.
pub(crate) trait Reach {
    /// The way to this port of this pod.
    async fn route(&self, pod: &str, port: u16) -> io::Result<Route>;
}

/// Port-forwards through the API server.
pub(crate) struct Tunnels {
    client: kube::Client,
    namespace: String,
}

impl Tunnels {
    /// Asks first whether the user may: a forwarding that is refused looks like a node that does not answer.
    pub(crate) async fn new(target: &Target) -> Result<Self, Failure> {
        let (client, namespace) = (target.client.clone(), target.namespace.clone());
        let attributes = ResourceAttributes {
            namespace: Some(namespace.clone()),
            verb: Some("create".to_owned()),
            resource: Some("pods".to_owned()),
            subresource: Some("portforward".to_owned()),
            ..ResourceAttributes::default()
        };
        let review = SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: Some(attributes),
                ..SelfSubjectAccessReviewSpec::default()
            },
            ..SelfSubjectAccessReview::default()
        };
        let reviewed = Api::all(client.clone()).create(&PostParams::default(), &review).await;
        // Where nobody can be asked, trying will tell.
        let refused = reviewed.ok().and_then(|review| review.status).is_some_and(|status| !status.allowed);
        if refused {
            let message = format!("create pods/portforward in namespace {namespace} is not allowed");
            return Err(Failure::Forbidden { attempt: "reach the pods".to_owned(), message });
        }
        Ok(Self { client, namespace })
    }
}

impl Reach for Tunnels {
    async fn route(&self, pod: &str, port: u16) -> io::Result<Route> {
        let tunnel = Tunnel::to_pod(&self.client, &self.namespace, pod, port).await?;
        Ok(Route { url: tunnel.url(), _tunnel: Some(tunnel) })
    }
}

#[cfg(test)]
impl Route {
    /// To a server that runs here.
    pub(crate) fn to(url: &str) -> Self {
        Self { url: url.to_owned(), _tunnel: None }
    }
}

/// The pods of a store, by the names that they have or will have.
pub(crate) fn names(cluster: &KvCluster) -> Vec<String> {
    let recorded = cluster.status.as_ref().and_then(|status| status.configuration.as_ref());
    let count = recorded.map_or(cluster.spec.followers + 1, |set| set.nodes + i32::from(set.joining.is_some()));
    (0..count).map(|ordinal| format!("{}-{ordinal}", cluster.name_any())).collect()
}

/// An HTTP client that goes through no proxy and follows nobody, and presents this token.
pub(crate) fn http(limit: Duration, token: Option<&str>) -> Result<Client, Failure> {
    let headers = token::headers(token).map_err(|error| Failure::Token(error.to_string()))?;
    let client = Client::builder().timeout(limit).no_proxy().redirect(reqwest::redirect::Policy::none());
    let client = client.default_headers(headers).build();
    client.map_err(|error| Failure::Connection(with_causes(&error)))
}

/// A way to a pod's client port.
pub(crate) async fn client_port(reach: &impl Reach, pod: &str) -> Result<Route, Failure> {
    reach.route(pod, CLIENT_PORT).await.map_err(|error| Failure::Connection(error.to_string()))
}

/// What a node answered.
pub(crate) struct Answer {
    /// Who.
    pub(crate) node: String,
    /// The status code.
    pub(crate) status: StatusCode,
    /// The body.
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// What its error says.
    pub(crate) fn error(&self) -> String {
        let reply: ErrorReply = serde_json::from_slice(&self.body).unwrap_or_default();
        if reply.error.is_empty() { String::from_utf8_lossy(&self.body).into_owned() } else { reply.error }
    }

    /// Whether another node leads. A token that does not suffice is refused with the same status.
    fn sends_elsewhere(&self) -> bool {
        let body: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        self.status == StatusCode::FORBIDDEN && body.get("leader").is_some()
    }

    /// The failure that it is.
    pub(crate) fn failure(self) -> Failure {
        Failure::Node { error: self.error(), status: self.status.as_u16(), node: self.node }
    }
}

/// Sends a request to a pod.
pub(crate) async fn ask(
    reach: &impl Reach,
    pod: &str,
    request: impl Fn(&str) -> RequestBuilder,
) -> Result<Answer, Failure> {
    let route = client_port(reach, pod).await?;
    let answered = async {
        let answer = request(&route.url).send().await?;
        let status = answer.status();
        Ok((status, answer.bytes().await?.to_vec()))
    };
    let (status, body) = answered.await.map_err(|error: reqwest::Error| {
        Failure::Connection(format!("{pod} does not answer: {}", with_causes(&error.without_url())))
    })?;
    Ok(Answer { node: pod.to_owned(), status, body })
}

/// What came of a request that was sent to whoever leads.
pub(crate) struct Asked {
    /// The last answer, or why there is none.
    pub(crate) outcome: Result<Answer, Failure>,
    /// Whether one of the tries may have done something that no answer told of.
    pub(crate) may_be_done: bool,
}

/// Sends a request that may be repeated to whoever leads, until a leader answers it.
pub(crate) async fn ask_leader(
    target: &Target,
    reach: &impl Reach,
    limit: Duration,
    request: impl Fn(&str) -> RequestBuilder,
) -> Result<Asked, Failure> {
    let deadline = Instant::now() + limit;
    let mut may_be_done = false;
    loop {
        let cluster = target.get().await?;
        let outcome = match target.leader(&cluster) {
            Ok(leader) => ask(reach, &leader, &request).await,
            Err(failure) => Err(failure),
        };
        let again = match &outcome {
            Ok(answer) => {
                may_be_done |= answer.status.is_server_error();
                answer.status == StatusCode::SERVICE_UNAVAILABLE || answer.sends_elsewhere()
            }
            Err(failure) => {
                may_be_done |= matches!(failure, Failure::Connection(_));
                matches!(failure, Failure::NoLeader { .. } | Failure::Connection(_))
            }
        };
        if !again || Instant::now() + PAUSE >= deadline {
            return Ok(Asked { outcome, may_be_done });
        }
        sleep(PAUSE).await;
    }
}
