//! The Secret with certificates: somebody else's, which is read, or the operator's own, which it keeps.

use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::{
    Api, Client, ResourceExt as _,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;

use super::{ApplyError, FIELD_MANAGER, StatusRecord, not_in_the_way, not_made, refused, unless_replaced};
use crate::validate::{ValidCluster, ValidTls};

/// Annotation on pods that names the version of the certificates: a kubelet that sees a pod change looks at once
/// whether its volumes are fresh, instead of within two minutes.
pub const PEER_TLS: &str = "quorumkv.io/peer-tls";

/// Reads it.
///
/// # Errors
/// See [`ApplyError`]; one that the operator should keep and that is somebody else's is [`ApplyError::Foreign`].
pub async fn tls_secret(client: &Client, cluster: &ValidCluster, tls: &ValidTls) -> Result<Option<Secret>, ApplyError> {
    let api: Api<Secret> = Api::namespaced(client.clone(), &cluster.namespace);
    let found = api.get_opt(&tls.secret).await.map_err(refused("read", &tls.secret))?;
    if let Some(secret) = found.as_ref().filter(|_| tls.self_signed) {
        not_in_the_way(secret, cluster)?;
    }
    Ok(found)
}

/// Creates it, or replaces the one whose version it names.
///
/// # Errors
/// See [`ApplyError`]; a conflict when somebody changed it since.
pub async fn keep_tls_secret(client: &Client, cluster: &ValidCluster, secret: &Secret) -> Result<Secret, ApplyError> {
    let api: Api<Secret> = Api::namespaced(client.clone(), &cluster.namespace);
    let name = secret.name_any();
    let parameters = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    if secret.metadata.resource_version.is_some() {
        return api.replace(&name, &parameters, secret).await.map_err(|error| match &error {
            // Deleted since it was read: the next reconcile sees that.
            kube::Error::Api(status) if status.code == 404 => {
                ApplyError::BeingDeleted { kind: "Secret".to_owned(), name: name.clone() }
            }
            _ => refused("replace", &name)(error),
        });
    }
    // The caches may not know yet that the KvCluster was deleted.
    StatusRecord::new(client, cluster).must_exist().await?;
    api.create(&parameters, secret).await.map_err(not_made("create", &name, &cluster.namespace))
}

/// Tells the kubelet of this pod that there are new certificates, if it is still the same pod.
///
/// # Errors
/// See [`ApplyError`].
pub async fn refresh_pod(client: &Client, pod: &Pod, version: &str) -> Result<(), ApplyError> {
    let name = pod.name_any();
    let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    let patch = json!({"metadata": {"uid": pod.uid(), "annotations": {PEER_TLS: version}}});
    let answer = api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await;
    unless_replaced(answer).map_err(refused("annotate", &name))
}
