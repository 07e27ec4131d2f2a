//! What an operator needs to be there before it works.

use std::{fs, time::Duration};

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, Client,
    api::{DynamicObject, Patch, PatchParams, PostParams},
};
use serde::Deserialize as _;
use serde_json::{Value, json};

use super::repository;
use crate::{kind::objects::kvcluster, wait};

/// The resource definition, the namespaces, and the operator's rights.
///
/// # Errors
/// When the API server refuses one, or does not serve KvClusters within a minute.
pub async fn install(client: &Client, namespaces: impl IntoIterator<Item = String>) -> anyhow::Result<()> {
    let api: Api<Namespace> = Api::all(client.clone());
    for name in namespaces {
        let namespace = serde_json::from_value(json!({"metadata": {"name": name}}))?;
        api.create(&PostParams::default(), &namespace).await.with_context(|| format!("make {name}"))?;
    }
    let file = repository().join("crds/kvcluster.yaml");
    let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    let definition: Value = serde_saphyr::from_str(&text).context("the resource definition")?;
    apply(client, &definition).await?;
    // What it may do is tested with the chart; here it shall not be the reason for anything.
    apply(
        client,
        &json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": {"name": "quorumkv-operator"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "quorumkv-operator"}],
        }),
    )
    .await?;
    let stores: Api<DynamicObject> = Api::all_with(client.clone(), &kvcluster());
    wait::until("KvClusters are served", Duration::from_secs(60), || async {
        stores.list(&Default::default()).await?;
        Ok(())
    })
    .await
}

/// One object of no namespace.
async fn apply(client: &Client, object: &Value) -> anyhow::Result<()> {
    let object = DynamicObject::deserialize(object)?;
    let types = object.types.as_ref().context("an object has a kind")?;
    let resource = kube::api::ApiResource::from_gvk(&types.try_into()?);
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    let name = object.metadata.name.as_deref().context("an object has a name")?;
    let applied = api.patch(name, &PatchParams::apply("fleet").force(), &Patch::Apply(&object)).await;
    applied.with_context(|| format!("apply {name}"))?;
    Ok(())
}
