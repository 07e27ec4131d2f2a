//! The KvClusters that the operator's caches hold. Changes are patches of what users write themselves: the two
//! settings and the annotation that asks for a switchover, and they need no other permission than the operator has.

use std::{collections::HashMap, sync::Arc, time::Duration};

use axum::http::StatusCode;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
    runtime::reflector::{ObjectRef, Store},
};
use quorumkv_api::{CLIENT_PORT, SettingsPatch, settings::format_duration};
use serde_json::{Value, json};
use tokio::{sync::Mutex, time::Instant};

use super::{Abilities, Change, NodeInfo, Refused, Source, StoreName, StoreView};
use crate::{
    build::{names, secret},
    crd::KvCluster,
    manage::KnownNode,
    observe::{self, Caches},
    record::Record,
    switchover,
    validate::{ValidCluster, validate},
};

/// Under this name the page owns what it patches.
const FIELD_MANAGER: &str = "quorumkv-page";

/// How long a token is used before the Secret is read again.
const TOKEN_KEPT: Duration = Duration::from_secs(60);

/// The clusters' own tokens, with the time of the last look. One lock for all, so that a Secret is read once for all nodes.
#[derive(Default)]
pub struct Tokens(Mutex<HashMap<StoreName, (Instant, Option<String>)>>);

/// The KvClusters of Kubernetes.
pub struct Kubernetes {
    /// Speaks to the API server.
    pub client: Client,
    /// The KvClusters that exist.
    pub clusters: Store<KvCluster>,
    /// What belongs to them.
    pub caches: Caches,
    /// Image of nodes whose KvCluster names none.
    pub node_image: String,
    /// Whether the page may change anything.
    pub allow_changes: bool,
    /// What nodes are asked with that answer nobody without a token.
    pub tokens: Tokens,
}

impl Kubernetes {
    fn cluster(&self, store: &StoreName) -> Option<Arc<KvCluster>> {
        self.clusters.get(&ObjectRef::new(&store.name).within(&store.namespace))
    }
}

impl Source for Kubernetes {
    fn abilities(&self) -> Abilities {
        Abilities { settings: self.allow_changes, switchover: self.allow_changes, nodes: false, load: false }
    }

    fn hint(&self) -> String {
        let hint = if self.allow_changes {
            "A change made here is a patch of the KvCluster, as kubectl would make it. Whatever applies the manifest \
             again puts its values back."
        } else {
            "This page only shows. To change settings from here too, set page.allowChanges of the Helm chart."
        };
        hint.to_owned()
    }

    fn stores(&self) -> Vec<StoreName> {
        let name =
            |cluster: &Arc<KvCluster>| Some(StoreName { namespace: cluster.namespace()?, name: cluster.name_any() });
        let mut stores: Vec<StoreName> = self.clusters.state().iter().filter_map(name).collect();
        stores.sort();
        stores
    }

    fn view(&self, store: &StoreName) -> Option<StoreView> {
        let cluster = self.cluster(store)?;
        let conditions = cluster.status.iter().flat_map(|status| &status.conditions);
        let ready = conditions.into_iter().find(|condition| condition.type_ == "Ready");
        let (ready, message) = ready.map_or((false, "The operator has not reported yet".to_owned()), |condition| {
            (condition.status == "True", condition.message.clone())
        });
        Some(match validate(&cluster, &self.node_image) {
            Ok(valid) => {
                // Where the record cannot be read, the spec says how many there shall be.
                let record = Record::from_status(cluster.status.as_ref()).unwrap_or_default();
                let valid = ValidCluster { store: valid.store.as_recorded(&record), ..valid };
                let known = observe::known_nodes(&valid, &observe::observe(&self.caches, &valid));
                let nodes = known.into_iter().map(info).collect();
                StoreView { ready, message, wanted: valid.store.settings, remark: None, nodes }
            }
            // The operator reports it as the reason why the store is not ready.
            Err(_) => StoreView { ready, message, wanted: Default::default(), remark: None, nodes: Vec::new() },
        })
    }

    /// The cluster's own token opens the client port as well, and is the one Secret that the operator reads.
    async fn token(&self, store: &StoreName) -> Option<String> {
        self.cluster(store)?.spec.client_tokens.as_ref()?;
        let mut tokens = self.tokens.0.lock().await;
        if let Some((read, token)) = tokens.get(store)
            && read.elapsed() < TOKEN_KEPT
        {
            return token.clone();
        }
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &store.namespace);
        let found = api.get_opt(&names::token_secret(&store.name)).await;
        let found = found.inspect_err(|error| tracing::warn!(?store, %error, "the page reads no token")).ok().flatten();
        let token = found.as_ref().and_then(secret::token_in);
        tokens.insert(store.clone(), (Instant::now(), token.clone()));
        token
    }

    async fn change(&self, store: &StoreName, change: Change) -> Result<(), Refused> {
        let gone = || Refused::new(StatusCode::NOT_FOUND, "this KvCluster is gone");
        let cluster = self.cluster(store).ok_or_else(gone)?;
        let mut patch = match change {
            Change::Settings(settings) => json!({"spec": spec(&settings)}),
            Change::Switchover(node) => json!({"metadata": {"annotations": {switchover::ANNOTATION: node}}}),
            Change::Node { .. } => {
                let error = "processes of a cluster are the cluster's business";
                return Err(Refused::new(StatusCode::FORBIDDEN, error));
            }
        };
        // Not a KvCluster of the same name that was made meanwhile.
        patch["metadata"]["uid"] = json!(cluster.uid());
        let api: Api<KvCluster> = Api::namespaced(self.client.clone(), &store.namespace);
        let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        match api.patch(&store.name, &parameters, &Patch::Merge(patch)).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) => {
                let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::BAD_GATEWAY);
                Err(Refused::new(code, status.message))
            }
            Err(error) => Err(Refused::new(StatusCode::BAD_GATEWAY, format!("Kubernetes did not do it: {error}"))),
        }
    }
}

fn spec(SettingsPatch { write_quorum, delay, write_timeout: _ }: &SettingsPatch) -> Value {
    let mut spec = json!({});
    if let Some(quorum) = write_quorum {
        spec["writeQuorum"] = json!(quorum);
    }
    if let Some(delay) = delay {
        spec["delay"] = json!({"min": format_duration(delay.min), "max": format_duration(delay.max)});
    }
    spec
}

/// A node, reached by address as the manager reaches it.
fn info(KnownNode { address, presence, .. }: KnownNode) -> NodeInfo {
    let peer = address.peer_url.rsplit_once(':').map_or(address.peer_url.as_str(), |(peer, _)| peer);
    let host = peer.split_once("://").map_or(peer, |(_, host)| host);
    NodeInfo { url: format!("http://{host}:{CLIENT_PORT}"), node: address.node, presence, halted: false }
}

#[cfg(test)]
mod tests {
    use http::Method;
    use kube::runtime::{reflector, watcher::Event};
    use quorumkv_api::{Delay, WriteQuorum};
    use std::time::Duration;

    use super::*;
    use crate::{
        decide::Presence,
        testing::{api, cluster},
    };

    const PATH: &str = "/apis/quorumkv.io/v1alpha1/namespaces/default/kvclusters/demo";

    fn source(client: Client, allow_changes: bool) -> Kubernetes {
        source_of(cluster(), client, allow_changes)
    }

    fn source_of(cluster: KvCluster, client: Client, allow_changes: bool) -> Kubernetes {
        let (clusters, mut writer) = reflector::store();
        writer.apply_watcher_event(&Event::Apply(cluster));
        let caches = Caches {
            stateful_sets: reflector::store().0,
            services: reflector::store().0,
            budgets: reflector::store().0,
            claims: reflector::store().0,
            pods: reflector::store().0,
            gaps: Default::default(),
        };
        Kubernetes {
            client,
            clusters,
            caches,
            node_image: "quorumkv-node:test".into(),
            allow_changes,
            tokens: Tokens::default(),
        }
    }

    fn demo() -> StoreName {
        StoreName { namespace: "default".into(), name: "demo".into() }
    }

    #[test]
    fn clients_are_served_without_tls_also_where_peers_speak_it() {
        let peer_url = "https://[fd00::7]:5100".to_owned();
        let address = quorumkv_api::peer::PeerAddress { node: "demo-0".into(), client_url: String::new(), peer_url };
        let info = info(KnownNode { address, presence: Presence::Running, outdated: false, report: None });
        assert_eq!(info.url, "http://[fd00::7]:5000");
    }

    #[tokio::test]
    async fn a_cluster_is_shown_before_it_has_pods_or_a_status() {
        let (client, _server) = api::server(Vec::new());
        let source = source(client, false);
        assert_eq!(source.stores(), [demo()]);
        let view = source.view(&demo()).expect("it exists");
        assert_eq!((view.ready, view.nodes.len(), view.wanted.write_quorum), (false, 6, WriteQuorum(3)));
        assert_eq!(view.nodes[0].presence, Presence::Absent);
        assert_eq!(view.nodes[0].url, "http://demo-0.demo-nodes.default.svc:5000");
        assert!(!source.abilities().settings, "it only shows");
    }

    #[tokio::test]
    async fn a_change_patches_the_two_settings_or_the_annotation_and_nothing_else() {
        let answer = serde_json::to_value(cluster()).expect("serializes");
        let patched = || api::Expected::written(Method::PATCH, PATH).answering(answer.clone());
        let (client, server) = api::server(vec![patched(), patched(), patched()]);
        let source = source(client, true);
        let delay = Delay { min: Duration::from_millis(5), max: Duration::from_millis(20) };
        let quorum = SettingsPatch { write_quorum: Some(WriteQuorum(5)), ..SettingsPatch::default() };
        let slower = SettingsPatch { delay: Some(delay), ..SettingsPatch::default() };
        source.change(&demo(), Change::Settings(quorum)).await.expect("granted");
        source.change(&demo(), Change::Settings(slower)).await.expect("granted");
        source.change(&demo(), Change::Switchover("demo-2".into())).await.expect("granted");
        drop(source);
        let sent = server.await.expect("the script was followed");
        assert_eq!(sent[0], json!({"metadata": {"uid": "u1"}, "spec": {"writeQuorum": 5}}));
        assert_eq!(sent[1], json!({"metadata": {"uid": "u1"}, "spec": {"delay": {"min": "5ms", "max": "20ms"}}}));
        let annotations = json!({"quorumkv.io/switchover-to": "demo-2"});
        assert_eq!(sent[2], json!({"metadata": {"uid": "u1", "annotations": annotations}}));
    }

    #[tokio::test]
    async fn nodes_that_ask_for_a_token_are_asked_with_the_clusters_own_which_is_read_once() {
        let secret = json!({"metadata": {"name": "demo-peer-token"}, "data": {"token": "b3du"}});
        let found = api::Expected::found("/api/v1/namespaces/default/secrets/demo-peer-token", secret);
        let (client, server) = api::server(vec![found]);
        let mut cluster = cluster();
        cluster.spec.client_tokens = Some(crate::crd::ClientTokens { secret_name: "tokens".to_owned() });
        let asking = source_of(cluster, client, false);
        for _ in 0..2 {
            assert_eq!(asking.token(&demo()).await.as_deref(), Some("own"));
        }
        drop(asking);
        server.await.expect("the script was followed");
        let (client, _server) = api::server(Vec::new());
        assert_eq!(source(client, false).token(&demo()).await, None, "no Secret is read for others");
    }

    #[tokio::test]
    async fn what_the_api_server_refuses_is_said_and_processes_are_left_alone() {
        let refusing = api::Expected::failing(Method::PATCH, PATH, http::StatusCode::UNPROCESSABLE_ENTITY);
        let (client, server) = api::server(vec![refusing]);
        let source = source(client, true);
        let nine = SettingsPatch { write_quorum: Some(WriteQuorum(9)), ..SettingsPatch::default() };
        let refused = source.change(&demo(), Change::Settings(nine)).await.expect_err("nine of five");
        assert_eq!((refused.status, refused.error.as_str()), (StatusCode::UNPROCESSABLE_ENTITY, "as scripted"));
        let kill = Change::Node { node: "demo-0".into(), action: super::super::NodeAction::Kill };
        assert_eq!(source.change(&demo(), kill).await.expect_err("no").status, StatusCode::FORBIDDEN);
        drop(source);
        server.await.expect("the script was followed");
    }
}
