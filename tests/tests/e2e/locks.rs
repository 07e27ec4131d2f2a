//! Tokens: of clients, from a Secret, and of the cluster, where it was changed under running nodes.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use quorumkv_tests::{client::LabClient, kind::objects, wait::until};
use serde_json::{Value, json};

use super::{
    store::Store,
    world::{LOCKED, World},
};

const SECRET: &str = "client-tokens";
/// The kubelet takes over what changes in a Secret within its sync period and the time that it keeps what it read.
const TAKEN_OVER: Duration = Duration::from_secs(150);

fn secret(name: &str, values: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": LOCKED}, "stringData": values,
    })
}

pub(crate) async fn clients_need_a_token_of_the_secret_and_tools_find_it(world: &World) -> anyhow::Result<()> {
    let kind = world.operator().await?;
    kind.create_restricted_namespace(LOCKED).await?;
    kind.apply(&secret(SECRET, json!({"read": "reader", "write": "writer"}))).await?;
    let store = Store::new(kind, LOCKED, "locked");
    store.apply(json!({"followers": 1, "writeQuorum": 1, "clientTokens": {"secretName": SECRET}})).await?;
    store.until_complete(Duration::from_mins(1)).await?;
    let service = store.service().await?;
    let client = |token: Option<&str>| LabClient::presenting(Duration::from_secs(10), token);
    for (token, write, read) in
        [(None, 401, 401), (Some("guess"), 401, 401), (Some("reader"), 403, 404), (Some("writer"), 200, 200)]
    {
        let written = client(token)?.set(&service.url(), "k", "v").await?;
        let found = client(token)?.get(&service.url(), "k", "").await?;
        let answers = (written.status.as_u16(), found.status.as_u16());
        ensure!(answers == (write, read), "{token:?}: {answers:?} {} {}", written.text, found.text);
    }
    let kvc = async |arguments: &[&str]| -> anyhow::Result<String> {
        let named = ["--namespace", LOCKED, "--cluster", store.name];
        Ok(kind.kubectl_kvc(arguments.iter().chain(&named))?.output().await?)
    };
    kvc(&["set", "plugin", "1"]).await.context("the plugin takes the token from the Secret")?;
    ensure!(kvc(&["get", "plugin", "--token", "reader"]).await?.trim() == "1", "the plugin reads with a token");
    ensure!(kvc(&["set", "plugin", "2", "--token", "reader"]).await.is_err(), "a token for reading writes");
    kvc(&["check"]).await?;

    let before = store.pods().await?;
    kind.apply(&secret(SECRET, json!({"read": "reader", "write": "next"}))).await?;
    // A kubelet looks at a pod that changes at once, and at others every minute or so.
    store.kubectl(&["annotate", "pod", "--all", "look-again=now"]).await?;
    until("the new token is taken", TAKEN_OVER, || async {
        for name in store.pods().await?.into_keys() {
            let pod = store.pod(&name).await?;
            let new = client(Some("next"))?.get_path(&pod.url(), "/status").await?.status;
            let old = client(Some("writer"))?.get_path(&pod.url(), "/status").await?.status;
            ensure!(new == 200 && old == 401, "{name}: the new token is answered {new}, the old one {old}");
        }
        Ok(())
    })
    .await?;
    store.ensure_same_runs(&before).await
}

pub(crate) async fn nodes_that_refuse_the_operators_token_are_told_of(world: &World) -> anyhow::Result<()> {
    let kind = world.operator().await?;
    let store = Store::new(kind, LOCKED, "locked");
    store.until_complete(Duration::from_mins(1)).await.context("after the step before")?;
    let before = store.pods().await?;
    let token = store.peer_token().await?;
    let name = format!("{}-peer-token", store.name);
    let change = async |token: &str| {
        let patch = json!({"stringData": {"token": token}}).to_string();
        store.kubectl(&["patch", "secret", &name, "--type=merge", "--patch", &patch]).await
    };
    change("another-token-that-no-node-has").await?;
    until("the conditions tell of it", Duration::from_secs(90), || async {
        let cluster = store.get().await?;
        for (kind, expected) in [("Ready", "False"), ("Degraded", "True")] {
            let [status, reason, message] = objects::condition(&cluster, kind).map(str::to_owned);
            ensure!(status == expected && reason == "NodesRefuseToken", "{kind} is {status}: {reason}: {message}");
            ensure!(message.contains("401"), "{message}");
        }
        Ok(())
    })
    .await?;
    // The store goes on, under the leader that it has.
    let written = LabClient::presenting(Duration::from_secs(10), Some("next"))?;
    let written = written.set(&store.service().await?.url(), "meanwhile", "v").await?;
    ensure!(written.status == 200, "{} {}", written.status, written.text);
    change(&token).await?;
    store.until_complete(Duration::from_secs(90)).await?;
    store.ensure_same_runs(&before).await?;
    kind.delete_namespaces(&[LOCKED]).await?;
    Ok(())
}
