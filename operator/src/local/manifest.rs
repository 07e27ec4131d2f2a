//! The manifest that `local` reads, and reads again whenever it is saved.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use kube::{CustomResourceExt, Resource};
use serde_json::Value;
use tokio::sync::mpsc;

use super::places::Names;
use crate::{
    crd::{KvCluster, StorageKind},
    validate::{InvalidCluster, Store, validate_local},
};

/// How often the file is looked at. Editors replace files, so a watch on the inode would lose it.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What a manifest says.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Manifest {
    /// Name of the KvCluster.
    pub(super) name: String,
    /// The store it describes.
    pub(super) store: Store,
    /// Where the nodes keep their data.
    pub(super) storage: StorageKind,
}

/// Why a manifest cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum ManifestError {
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Read(#[from] std::io::Error),
    /// It is no YAML of a KvCluster.
    #[error("is no KvCluster: {0}")]
    Parse(#[from] serde_saphyr::Error),
    /// It is JSON or YAML of something else.
    #[error("is no KvCluster: {0}")]
    Shape(#[from] serde_json::Error),
    /// It is another kind or version.
    #[error("describes {found}, expected {expected}")]
    Kind {
        /// What stands there.
        found: String,
        /// What should.
        expected: String,
    },
    /// A field is misspelt, and would be ignored.
    #[error("has an unknown field {0}")]
    UnknownField(String),
    /// The values are not allowed.
    #[error(transparent)]
    Invalid(#[from] InvalidCluster),
}

/// Reads and checks a manifest for nodes of these names.
pub(super) fn read(path: &Path, names: &Names) -> Result<Manifest, ManifestError> {
    parse(&std::fs::read_to_string(path)?, names)
}

fn parse(text: &str, names: &Names) -> Result<Manifest, ManifestError> {
    let value: Value = serde_saphyr::from_str(text)?;
    let expected = (KvCluster::api_version(&()).into_owned(), KvCluster::kind(&()).into_owned());
    let text_at = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or("nothing").to_owned();
    let found = (text_at("apiVersion"), text_at("kind"));
    if found != expected {
        let join = |(version, kind): (String, String)| format!("{version} {kind}");
        return Err(ManifestError::Kind { found: join(found), expected: join(expected) });
    }
    if let Some(unknown) = unknown_field(&value) {
        return Err(ManifestError::UnknownField(unknown));
    }
    let cluster: KvCluster = serde_json::from_value(value)?;
    let store = validate_local(&cluster, |ordinal| names.node(ordinal))?;
    Ok(Manifest { name: cluster.metadata.name.clone().unwrap_or_default(), store, storage: cluster.spec.storage.kind })
}

/// The first field below `spec` that the schema does not know. An API server would drop it with a warning;
/// here nobody else would notice.
fn unknown_field(manifest: &Value) -> Option<String> {
    let definition = serde_json::to_value(KvCluster::crd()).expect("a definition serializes");
    let schema = definition.pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec")?;
    unknown_below("spec", schema, manifest.get("spec")?)
}

fn unknown_below(path: &str, schema: &Value, value: &Value) -> Option<String> {
    match value {
        Value::Object(fields) => {
            let known = schema.get("properties")?.as_object()?;
            fields.iter().find_map(|(name, value)| {
                let path = format!("{path}.{name}");
                match known.get(name) {
                    Some(schema) => unknown_below(&path, schema, value),
                    None => Some(path),
                }
            })
        }
        Value::Array(items) => {
            let schema = schema.get("items")?;
            items.iter().enumerate().find_map(|(n, item)| unknown_below(&format!("{path}[{n}]"), schema, item))
        }
        _ => None,
    }
}

/// Sends the manifest whenever the file's content changes, until the receiver is gone.
pub(super) async fn watch(path: PathBuf, names: Names, changes: mpsc::Sender<Result<Manifest, ManifestError>>) {
    let mut seen = tokio::fs::read(&path).await.ok();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        // An editor that replaces the file leaves a moment without it: that is no change.
        let Ok(content) = tokio::fs::read(&path).await else { continue };
        if content.is_empty() || seen.as_ref() == Some(&content) {
            continue;
        }
        let read = String::from_utf8_lossy(&content).into_owned();
        seen = Some(content);
        if changes.send(parse(&read, &names)).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use quorumkv_api::WriteQuorum;
    use rstest::rstest;

    use super::*;

    const HEAD: &str = "apiVersion: quorumkv.io/v1alpha1\nkind: KvCluster\nmetadata: {name: demo}\n";

    #[test]
    fn a_manifest_becomes_a_store_of_local_nodes() {
        let manifest =
            parse(&format!("{HEAD}spec: {{followers: 2, writeQuorum: 1}}"), &Names::on_loopback(7000)).expect("valid");
        assert_eq!(manifest.store.nodes, ["127.0.0.1:7000".into(), "127.0.0.1:7001".into(), "127.0.0.1:7002".into()]);
        assert_eq!(manifest.store.settings.write_quorum, WriteQuorum(1));
    }

    #[rstest]
    #[case("spec: {writeQorum: 1}", "unknown field spec.writeQorum")]
    #[case("spec: {delay: {minimum: 1ms}}", "unknown field spec.delay.minimum")]
    #[case("spec: {writeQuorum: 6}", "lower writeQuorum to the number of followers or less")]
    #[case("spec: {writeQuorum: many}", "is no KvCluster")]
    #[case("spec: {storage: {type: Persistent}}", "storage.size is missing")]
    #[case("spec: [", "is no KvCluster")]
    fn a_wrong_manifest_is_refused_with_what_to_change(#[case] spec: &str, #[case] message: &str) {
        let error = parse(&format!("{HEAD}{spec}"), &Names::on_loopback(5000)).expect_err("refused").to_string();
        assert!(error.contains(message), "{error}");
    }

    #[test]
    fn another_kind_is_named() {
        let error = parse("apiVersion: v1\nkind: Pod", &Names::on_loopback(5000)).expect_err("refused").to_string();
        assert_eq!(error, "describes v1 Pod, expected quorumkv.io/v1alpha1 KvCluster");
    }
}
