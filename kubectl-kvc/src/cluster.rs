//! The KvCluster that was asked for.

use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client, Config, ResourceExt as _,
    api::{ListParams, Patch, PatchParams},
    config::KubeConfigOptions,
};
use quorumkv_operator::{crd::KvCluster, pause};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::{arguments::Common, failure::Failure};

/// Under this name the plugin owns what it patches.
const FIELD_MANAGER: &str = "kubectl-kvc";
/// How long the API server may take to accept a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Pause between two looks at a KvCluster.
const PAUSE: Duration = Duration::from_millis(250);

/// A client by the kubeconfig, and the namespace that is meant.
pub(crate) async fn connect(common: &Common) -> Result<(Client, String), Failure> {
    let unusable = |error: &dyn std::error::Error| Failure::Config(quorumkv_inspect::wait::with_causes(error));
    let mut config = match &common.context {
        None => Config::infer().await.map_err(|error| unusable(&error))?,
        Some(context) => {
            let options = KubeConfigOptions { context: Some(context.clone()), ..KubeConfigOptions::default() };
            Config::from_kubeconfig(&options).await.map_err(|error| unusable(&error))?
        }
    };
    config.connect_timeout = Some(CONNECT_LIMIT);
    // A person waits: a call that fails shall say so at once.
    config.default_retry = false;
    let namespace = common.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
    let client = Client::try_from(config).map_err(|error| unusable(&error))?;
    Ok((client, namespace))
}

/// One KvCluster, by name.
pub(crate) struct Target {
    pub(crate) client: Client,
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// What its nodes are asked with.
    pub(crate) token: Option<String>,
    api: Api<KvCluster>,
}

impl Target {
    /// The one of that name; without a name, the only one in the namespace.
    pub(crate) async fn find(
        client: Client,
        namespace: String,
        name: Option<&str>,
    ) -> Result<(Self, KvCluster), Failure> {
        let api: Api<KvCluster> = Api::namespaced(client.clone(), &namespace);
        if let Some(name) = name {
            let target = Self::named(client, namespace, name.to_owned());
            let cluster = target.get().await?;
            return Ok((target, cluster));
        }
        let mut found = match api.list(&ListParams::default()).await {
            Ok(list) => list.items,
            Err(kube::Error::Api(status)) if status.code == 404 => return Err(Failure::NotInstalled),
            Err(error) => return Err(Failure::of(format!("list the KvClusters of namespace {namespace}"), error)),
        };
        if found.len() > 1 {
            let names = found.iter().map(KvCluster::name_any).collect();
            return Err(Failure::SeveralClusters { namespace, names });
        }
        let Some(cluster) = found.pop() else { return Err(Failure::NoCluster { namespace }) };
        Ok((Self { client, namespace, name: cluster.name_any(), token: None, api }, cluster))
    }

    /// The one of that name, there or not.
    pub(crate) fn named(client: Client, namespace: String, name: String) -> Self {
        let api = Api::namespaced(client.clone(), &namespace);
        Self { client, namespace, name, token: None, api }
    }

    /// The same with what its nodes are to be asked with: the given token, or, where the nodes ask for one, the first for
    /// writing of the Secret that the KvCluster names.
    pub(crate) async fn presenting(self, given: Option<&str>, cluster: &KvCluster) -> Result<Self, Failure> {
        let token = match (given, &cluster.spec.client_tokens) {
            (Some(given), _) => Some(given.to_owned()),
            (None, None) => None,
            (None, Some(tokens)) => Some(self.token_in(&tokens.secret_name).await?),
        };
        Ok(Self { token, ..self })
    }

    async fn token_in(&self, name: &str) -> Result<String, Failure> {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let secret = match secrets.get_opt(name).await {
            Ok(Some(secret)) => secret,
            Ok(None) => return Err(Failure::Token(format!("there is no Secret {name}"))),
            Err(error) => return Err(Failure::Token(format!("the Secret {name} cannot be read ({error})"))),
        };
        let write = secret.data.as_ref().and_then(|data| data.get("write"));
        let text = write.and_then(|bytes| std::str::from_utf8(&bytes.0).ok()).unwrap_or_default();
        let token = text.lines().map(str::trim).find(|line| !line.is_empty());
        token
            .map(str::to_owned)
            .ok_or_else(|| Failure::Token(format!("the Secret {name} has no token under the key write")))
    }

    /// Namespace and name.
    pub(crate) fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// As it is now.
    pub(crate) async fn get(&self) -> Result<KvCluster, Failure> {
        match self.api.get(&self.name).await {
            Ok(cluster) => Ok(cluster),
            Err(kube::Error::Api(status)) if status.code == 404 => {
                // An object that is missing is called by its name; a resource that is missing has none.
                if status.message.contains(&format!("\"{}\"", self.name)) {
                    let (namespace, name) = (self.namespace.clone(), self.name.clone());
                    return Err(Failure::UnknownCluster { namespace, name });
                }
                Err(Failure::NotInstalled)
            }
            Err(error) => Err(Failure::of(format!("read the KvCluster {}", self.full_name()), error)),
        }
    }

    /// Changes it, as `kubectl patch --type=merge` would.
    pub(crate) async fn patch(&self, patch: Value) -> Result<KvCluster, Failure> {
        let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let patched = self.api.patch(&self.name, &parameters, &Patch::Merge(patch)).await;
        patched.map_err(|error| Failure::of(format!("change the KvCluster {}", self.full_name()), error))
    }

    /// Looks until `found` finds what it looks for.
    pub(crate) async fn until<Found>(
        &self,
        what: &str,
        limit: Duration,
        mut found: impl AsyncFnMut(&KvCluster) -> Result<Option<Found>, Failure>,
    ) -> Result<Found, Failure> {
        let deadline = Instant::now() + limit;
        loop {
            let cluster = self.get().await?;
            if let Some(found) = found(&cluster).await? {
                return Ok(found);
            }
            if Instant::now() >= deadline {
                return Err(Failure::TooLate { what: what.to_owned(), limit, seen: reason(&cluster) });
            }
            sleep(PAUSE).await;
        }
    }

    /// Nothing, unless the operator was told to change nothing.
    pub(crate) fn not_paused(&self, cluster: &KvCluster) -> Result<(), Failure> {
        if pause::is_paused(cluster) { Err(Failure::Paused(self.full_name())) } else { Ok(()) }
    }

    /// The pod that leads.
    pub(crate) fn leader(&self, cluster: &KvCluster) -> Result<String, Failure> {
        let leader = cluster.status.as_ref().and_then(|status| status.leader.clone());
        leader.ok_or_else(|| Failure::NoLeader { cluster: self.full_name(), reason: reason(cluster) })
    }
}

/// What its condition Ready says.
fn reason(cluster: &KvCluster) -> String {
    let conditions = cluster.status.iter().flat_map(|status| &status.conditions);
    match conditions.into_iter().find(|condition| condition.type_ == "Ready") {
        Some(ready) => format!("Ready is {}: {}", ready.status, ready.message),
        None => "the operator has not reported anything yet; is it running?".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use http::{Method, StatusCode};
    use serde_json::json;

    use super::*;
    use crate::testing::{KVCLUSTERS, api, kvcluster, list, named};

    async fn find(script: Vec<api::Expected>, name: Option<&str>) -> Result<KvCluster, String> {
        let (client, server) = api::server(script);
        let found = Target::find(client, "default".to_owned(), name).await;
        let found = found.map(|(_, cluster)| cluster).map_err(|failure| failure.to_string());
        server.await.expect("the script was followed");
        found
    }

    #[tokio::test]
    async fn the_only_kvcluster_need_not_be_named() {
        let found = find(vec![api::Expected::found(KVCLUSTERS, list(&[kvcluster()]))], None).await;
        assert_eq!(found.expect("one").name_any(), "demo");
    }

    #[tokio::test]
    async fn without_one_or_with_several_it_says_what_to_name() {
        let none = find(vec![api::Expected::found(KVCLUSTERS, list(&[]))], None).await.expect_err("none");
        assert_eq!(none, "there is no KvCluster in namespace default; -n names another namespace");
        let other = named("other");
        let several = find(vec![api::Expected::found(KVCLUSTERS, list(&[kvcluster(), other]))], None).await;
        let several = several.expect_err("two");
        assert_eq!(several, "namespace default has 2 KvClusters: demo, other; name one with -c");
    }

    #[tokio::test]
    async fn a_refusal_is_told_with_what_was_attempted() {
        let refused = vec![api::Expected::failing(Method::GET, KVCLUSTERS, StatusCode::FORBIDDEN)];
        let error = find(refused, None).await.expect_err("forbidden");
        assert_eq!(error, "no permission to list the KvClusters of namespace default: as scripted");
    }

    #[tokio::test]
    async fn a_missing_kvcluster_is_told_from_a_missing_definition() {
        let path = "/apis/quorumkv.io/v1alpha1/namespaces/default/kvclusters/absent";
        let missing = |message: &str| {
            let status = json!({
                "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404,
                "message": message,
            });
            vec![api::Expected::failing(Method::GET, path, StatusCode::NOT_FOUND).answering(status)]
        };
        let object = find(missing("kvclusters.quorumkv.io \"absent\" not found"), Some("absent")).await;
        assert_eq!(object.expect_err("no such"), "there is no KvCluster absent in namespace default");
        let resource = find(missing("the server could not find the requested resource"), Some("absent")).await;
        assert!(resource.expect_err("no such").contains("chart is not installed"));
    }

    #[tokio::test]
    async fn nodes_that_ask_for_a_token_are_asked_with_the_given_one_or_that_of_the_secret() {
        const SECRET: &str = "/api/v1/namespaces/default/secrets/tokens";
        let cluster = || -> KvCluster {
            let mut cluster = kvcluster();
            cluster["spec"]["clientTokens"] = json!({"secretName": "tokens"});
            serde_json::from_value(cluster).expect("a KvCluster")
        };
        let presenting = async |script: Vec<api::Expected>, given: Option<&str>| {
            let (client, server) = api::server(script);
            let target = Target::named(client, "default".to_owned(), "demo".to_owned());
            let token = target.presenting(given, &cluster()).await.map(|target| target.token);
            server.await.expect("the script was followed");
            token.map_err(|failure| failure.to_string())
        };
        assert_eq!(presenting(Vec::new(), Some("given")).await, Ok(Some("given".to_owned())));
        // "\nwriter\nnext\n"
        let secret = json!({"metadata": {"name": "tokens"}, "data": {"write": "CndyaXRlcgpuZXh0Cg=="}});
        let found = vec![api::Expected::found(SECRET, secret)];
        assert_eq!(presenting(found, None).await, Ok(Some("writer".to_owned())));
        let empty = vec![api::Expected::found(SECRET, json!({"metadata": {"name": "tokens"}}))];
        assert!(presenting(empty, None).await.expect_err("none").contains("no token under the key write"));
        let error = presenting(vec![api::Expected::failing(Method::GET, SECRET, StatusCode::FORBIDDEN)], None).await;
        assert!(error.expect_err("forbidden").contains("QUORUMKV_TOKEN gives one"));
    }

    #[tokio::test]
    async fn a_store_without_a_leader_says_why() {
        let (client, server) = api::server(vec![api::Expected::found(KVCLUSTERS, list(&[kvcluster()]))]);
        let (target, mut cluster) = Target::find(client, "default".to_owned(), None).await.expect("one");
        assert_eq!(target.leader(&cluster).expect("a leader"), "demo-0");
        let status = cluster.status.as_mut().expect("a status");
        status.leader = None;
        status.conditions[0].status = "False".to_owned();
        status.conditions[0].message = "A leader is being elected".to_owned();
        let error = target.leader(&cluster).expect_err("none").to_string();
        assert_eq!(error, "default/demo has no leader now: Ready is False: A leader is being elected");
        drop(target);
        server.await.expect("the script was followed");
    }
}
