//! Asks everybody: the API server about pods, the nodes about themselves.

use std::{collections::BTreeMap, time::Duration};

use futures::future::join_all;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::{Api, ResourceExt as _, api::ListParams};
use quorumkv_api::{
    CLIENT_PORT, PEER_PORT,
    client::PeerClient,
    lab::StatusReply,
    tls::{AUTHORITIES, Authorities, ClientTls, PeerName},
};
use quorumkv_inspect::wait::with_causes;
use quorumkv_operator::{
    build::{names, secret},
    crd::{KvCluster, Tls},
};
use reqwest::Client;

use super::view::{Seen, View};
use crate::{
    cluster::Target,
    failure::Failure,
    nodes::{self, Reach, Route},
};

/// How long a node may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// Looks at a store, as often as it is asked to; ways to pods stay open meanwhile.
pub(super) struct Looker<To> {
    reach: To,
    http: Client,
    /// Speaks to peer ports, which alone tell whose copy a node has; none where the user may not know the token.
    peers: Option<PeerClient>,
    /// Whether peer ports speak TLS.
    tls: bool,
    routes: BTreeMap<String, Routes>,
}

struct Routes {
    client: Route,
    peer: Option<Route>,
}

impl<To: Reach> Looker<To> {
    pub(super) async fn new(target: &Target, cluster: &KvCluster, reach: To) -> Result<Self, Failure> {
        let http = nodes::http(ANSWER_LIMIT, target.token.as_deref())?;
        let secrets: Api<Secret> = Api::namespaced(target.client.clone(), &target.namespace);
        let secret = secrets.get_opt(&names::token_secret(&target.name)).await.ok().flatten();
        let token = secret.and_then(|secret| secret::token_in(&secret));
        let peers = match (token, &cluster.spec.tls) {
            (None, _) => None,
            (token, None) => Some(PeerClient::over(http.clone(), token)),
            (token, Some(tls)) => {
                let trusted = trusted(target, &secrets, tls).await;
                trusted.map(|trusted| PeerClient::secured(token, ANSWER_LIMIT, trusted))
            }
        };
        Ok(Self { reach, http, peers, tls: cluster.spec.tls.is_some(), routes: BTreeMap::new() })
    }

    pub(super) async fn look(&mut self, target: &Target, cluster: &KvCluster) -> Result<View, Failure> {
        let pods: Api<Pod> = Api::namespaced(target.client.clone(), &target.namespace);
        let of_store = ListParams::default().labels(&names::selector_text(&target.name));
        let pods = pods.list(&of_store).await;
        let pods = pods.map_err(|error| Failure::of(format!("list the pods of {}", target.full_name()), error))?;
        let mut pods: BTreeMap<String, Pod> = pods.into_iter().map(|pod| (pod.name_any(), pod)).collect();
        let names = nodes::names(cluster);
        for name in &names {
            self.open(name).await?;
        }
        let looks = names.into_iter().map(|name| (pods.remove(&name), name)).map(async |(pod, name)| {
            let (status, storage_id) = match pod {
                Some(_) => self.ask(&name).await,
                None => (Err("there is no such pod".to_owned()), None),
            };
            Seen { name, pod, status, storage_id }
        });
        Ok(View::of(target, cluster, join_all(looks).await, self.peers.is_some()))
    }

    async fn open(&mut self, pod: &str) -> Result<(), Failure> {
        if !self.routes.contains_key(pod) {
            let no_port = |error: std::io::Error| Failure::Connection(error.to_string());
            let client = self.reach.route(pod, CLIENT_PORT).await.map_err(no_port)?;
            let peer = match self.peers {
                Some(_) => Some(self.reach.route(pod, PEER_PORT).await.map_err(no_port)?),
                None => None,
            };
            self.routes.insert(pod.to_owned(), Routes { client, peer });
        }
        Ok(())
    }

    async fn ask(&self, pod: &str) -> (Result<StatusReply, String>, Option<String>) {
        let Routes { client, peer } = &self.routes[pod];
        let status = async {
            let answer = self.http.get(format!("{}/status", client.url)).send().await?.error_for_status()?;
            answer.json().await
        };
        let state = async {
            let (peers, peer) = self.peers.as_ref().zip(peer.as_ref())?;
            let peer = if self.tls { peer.url.replacen("http://", "https://", 1) } else { peer.url.clone() };
            Some(peers.state(&peer).await.ok()?.storage_id.to_string())
        };
        let (status, storage_id) = futures::join!(status, state);
        (status.map_err(|error: reqwest::Error| with_causes(&error.without_url())), storage_id)
    }
}

/// Whom to accept as a node of a store that speaks TLS, where the user may know that.
async fn trusted(target: &Target, secrets: &Api<Secret>, tls: &Tls) -> Option<ClientTls> {
    let secret = secrets.get_opt(&names::tls_secret_of(&target.name, tls)).await.ok().flatten()?;
    let authorities = Authorities::parse(&secret.data?.get(AUTHORITIES)?.0).ok()?;
    let name = PeerName::parse(&names::tls_name(&target.name, &target.namespace)).ok()?;
    Some(ClientTls::new(name, &authorities))
}

#[cfg(test)]
mod tests {
    use http::{Method, StatusCode};
    use serde_json::json;

    use super::*;
    use crate::testing::{Fake, Local, api::Expected, kvcluster, list, pod, state_of, status_of, target};

    const PODS: &str = "/api/v1/namespaces/default/pods";
    const SECRET: &str = "/api/v1/namespaces/default/secrets/demo-peer-token";

    async fn looked(script: Vec<Expected>, nodes: Vec<(&'static str, Fake)>) -> View {
        let (target, server) = target(script);
        let cluster = serde_json::from_value(kvcluster()).expect("a KvCluster");
        let mut looker = Looker::new(&target, &cluster, Local::of(nodes).await).await.expect("an HTTP client");
        let view = looker.look(&target, &cluster).await.expect("a view");
        drop((looker, target));
        server.await.expect("the script was followed");
        view
    }

    fn node(name: &str, copy: u128) -> Fake {
        let fake = Fake::default().answering("/status", 200, status_of(name, name == "demo-0"));
        fake.answering("/state", 200, state_of(name, copy))
    }

    #[tokio::test]
    async fn every_node_is_shown_with_what_it_says_and_whether_its_copy_counts() {
        let secret = json!({"metadata": {"name": "demo-peer-token"}, "data": {"token": "dA=="}});
        let pods = list(&[pod("demo-0", "Running"), pod("demo-1", "Running")]);
        let script = vec![Expected::found(SECRET, secret), Expected::found(PODS, pods)];
        // The copy of demo-1 is another than the one on record.
        let view = looked(script, vec![("demo-0", node("demo-0", 1)), ("demo-1", node("demo-1", 99))]).await;
        insta::assert_snapshot!(view.to_string(), @r"
        KvCluster default/demo: Ready True (SomeFollowersNotReady), epoch 3, leader demo-0
        writeQuorum 1, delay 10ms-150ms, writeTimeout 5s, followers 1/2
        The leader accepts writes; demo-2 is absent

        POD      STATE     READY   EPOCH   LAST   LAG   KEYS   COUNTED   STORAGE ID
        demo-0   leads     yes     3       9      0     4      yes       00000000-0000-0000-0000-000000000001
        demo-1   follows   yes     3       9      2     4      no        00000000-0000-0000-0000-000000000063
        demo-2   absent    -       -       -      -     -      -         -
        ");
    }

    #[tokio::test]
    async fn without_the_authorities_a_store_with_tls_is_not_asked_for_copies() {
        const TLS: &str = "/api/v1/namespaces/default/secrets/demo-peer-tls";
        let secret = json!({"metadata": {"name": "demo-peer-token"}, "data": {"token": "dA=="}});
        let pods = list(&[pod("demo-0", "Running"), pod("demo-1", "Running")]);
        let script = vec![
            Expected::found(SECRET, secret),
            Expected::failing(Method::GET, TLS, StatusCode::FORBIDDEN),
            Expected::found(PODS, pods),
        ];
        let (target, server) = target(script);
        let mut cluster = kvcluster();
        cluster["spec"]["tls"] = json!({"selfSigned": true});
        let cluster = serde_json::from_value(cluster).expect("a KvCluster");
        let reach = Local::of(vec![("demo-0", node("demo-0", 1)), ("demo-1", node("demo-1", 2))]).await;
        let mut looker = Looker::new(&target, &cluster, reach).await.expect("an HTTP client");
        let text = looker.look(&target, &cluster).await.expect("a view").to_string();
        drop((looker, target));
        server.await.expect("the script was followed");
        assert!(text.contains("demo-peer-token or demo-peer-tls cannot be read"), "{text}");
    }

    #[tokio::test]
    async fn without_the_token_nothing_is_said_of_copies() {
        let script = vec![
            Expected::failing(Method::GET, SECRET, StatusCode::FORBIDDEN),
            Expected::found(PODS, list(&[pod("demo-0", "Running"), pod("demo-1", "Pending")])),
        ];
        let view = looked(script, vec![("demo-0", node("demo-0", 1))]).await;
        let text = view.to_string();
        assert!(text.contains("demo-1   Pending   -"), "{text}");
        assert!(text.contains("Secret demo-peer-token cannot be read"), "{text}");
        let json = serde_json::to_value(&view).expect("JSON");
        assert_eq!((&json["nodes"][0]["counted"], &json["nodes"][0]["lag"]), (&json!(null), &json!(0)));
        assert_eq!(json["nodes"][2]["error"], "there is no such pod");
    }
}
