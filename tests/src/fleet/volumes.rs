//! Volumes that can grow, on an API server whose machines are played: nothing is mounted.
//!
//! Claims find volumes that wait for them, which the volume controller binds. What a storage system would do when a
//! larger one is asked for is done by [`grow`].

use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::{
    api::{
        core::v1::{PersistentVolume, PersistentVolumeClaim},
        storage::v1::StorageClass,
    },
    apimachinery::pkg::api::resource::Quantity,
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use serde_json::json;

/// Of the class of volumes.
pub const CLASS: &str = "played";
/// Between two looks at the claims.
const LOOK: Duration = Duration::from_millis(200);

/// Makes the class.
///
/// # Errors
/// When the API server refuses it.
pub async fn install(client: &Client) -> anyhow::Result<()> {
    let class = serde_json::from_value(json!({
        "metadata": {"name": CLASS}, "provisioner": "played.quorumkv.io", "allowVolumeExpansion": true,
    }))?;
    Api::<StorageClass>::all(client.clone()).create(&PostParams::default(), &class).await.context("a storage class")?;
    Ok(())
}

/// Makes a volume for a claim that is to come.
///
/// # Errors
/// When the API server refuses it.
pub async fn make(client: &Client, namespace: &str, claim: &str, size: &str) -> anyhow::Result<()> {
    let name = format!("{namespace}-{claim}");
    let volume = serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"], "storageClassName": CLASS,
            "hostPath": {"path": format!("/nowhere/{name}")},
            "claimRef": {"namespace": namespace, "name": claim},
        },
    }))?;
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    volumes.create(&PostParams::default(), &volume).await.with_context(|| format!("volume {name}"))?;
    Ok(())
}

/// Gives every claim of the namespace the size that it asks for. Ends only with an error.
pub async fn grow(client: Client, namespace: String) -> anyhow::Error {
    loop {
        if let Err(error) = grow_once(&client, &namespace).await {
            return error;
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn grow_once(client: &Client, namespace: &str) -> anyhow::Result<()> {
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    for claim in claims.list(&ListParams::default()).await? {
        let Some((asked, volume)) = asked(&claim) else { continue };
        let capacity = json!({"capacity": {"storage": asked}});
        // In the order in which a storage system does it.
        let grown = json!({"spec": capacity});
        volumes.patch(volume, &PatchParams::default(), &Patch::Merge(grown)).await.context("a volume grows")?;
        let told = json!({"status": capacity});
        claims.patch_status(&claim.name_any(), &PatchParams::default(), &Patch::Merge(told)).await?;
    }
    Ok(())
}

/// The size that a bound claim asks for and does not have, and its volume.
fn asked(claim: &PersistentVolumeClaim) -> Option<(&Quantity, &str)> {
    let (spec, status) = (claim.spec.as_ref()?, claim.status.as_ref()?);
    let asked = spec.resources.as_ref()?.requests.as_ref()?.get("storage")?;
    let has = status.capacity.as_ref()?.get("storage")?;
    let bound = status.phase.as_deref() == Some("Bound");
    Some((asked, spec.volume_name.as_deref()?)).filter(|_| bound && asked != has)
}
