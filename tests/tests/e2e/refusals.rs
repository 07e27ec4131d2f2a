//! What the API server refuses, and how it says what to change.

use anyhow::ensure;
use serde_json::{Value, json};

use super::{
    store::Store,
    world::{SECOND, World},
};

pub(crate) async fn wrong_specs_are_refused_with_what_to_change(world: &World) -> anyhow::Result<()> {
    let kind = world.operator().await?;
    let store = Store::new(kind, SECOND, "wrong");
    let mut mistakes = Vec::new();
    for (spec, sentence) in [
        (json!({"writeQuorum": 6}), "writeQuorum is above followers: lower writeQuorum to"),
        (json!({"writeQuorum": 0}), "writeQuorum must be at least 1"),
        (json!({"followers": 0, "writeQuorum": 1}), "followers must be 1 to 9"),
        (json!({"followers": 10}), "followers must be 1 to 9"),
        (json!({"delay": {"min": "150ms", "max": "10ms"}}), "delay.min is above delay.max"),
        (json!({"delay": {"max": "soon"}}), "delay.max is not a duration: write a number with a unit"),
        (json!({"delay": {"max": "10"}}), "delay.max is not a duration"),
        (json!({"delay": {"max": "5s"}}), "delay.max must be below writeTimeout"),
        (json!({"writeTimeout": "0"}), "delay.max must be below writeTimeout"),
        (json!({"writeTimeout": "never"}), "writeTimeout is not a duration"),
        (json!({"storage": {"type": "Memory", "size": "1Gi"}}), "belong to type Persistent"),
        (json!({"storage": {"type": "Persistent"}}), "storage.size is missing"),
        (json!({"storage": {"whenDeleted": "Delete"}}), "storage.whenDeleted belongs to type Persistent"),
        (
            json!({"storage": {"type": "Persistent", "size": "1Gi", "whenDeleted": "Never"}}),
            "supported values: \"Retain\", \"Delete\"",
        ),
        (json!({"hibernated": true}), "hibernated needs storage.type Persistent"),
        (json!({"tls": {}}), "tls needs either secretName"),
        (json!({"tls": {"secretName": "s", "selfSigned": true}}), "tls needs either secretName"),
        (json!({"storage": {"type": "Tape"}}), "supported values: \"Memory\", \"Persistent\""),
        (json!({"writeQorum": 3}), "unknown field \"spec.writeQorum\""),
    ] {
        let manifest = store.manifest(spec.clone()).to_string();
        let create = kind.kubectl(["create", "--dry-run=server", "--filename", "-"]).input(manifest).output();
        mistakes.extend(mistake(&spec, sentence, create.await));
    }
    let long = json!({
        "apiVersion": "quorumkv.io/v1alpha1", "kind": "KvCluster",
        "metadata": {"name": "n".repeat(46), "namespace": SECOND}, "spec": {},
    });
    let create = kind.kubectl(["create", "--dry-run=server", "--filename", "-"]).input(long.to_string()).output();
    mistakes.extend(mistake(&long, "have at most 45 characters", create.await));
    ensure!(mistakes.is_empty(), "{}", mistakes.join("\n"));
    Ok(())
}

pub(crate) async fn changes_that_cannot_be_made_are_refused(world: &World) -> anyhow::Result<()> {
    let store = world.ready_store().await?;
    let before = store.get().await?;
    let mut mistakes = Vec::new();
    for (spec, sentence) in [
        (json!({"storage": {"type": "Persistent", "size": "1Gi"}}), "storage.type cannot be changed"),
        (json!({"hibernated": true}), "hibernated needs storage.type Persistent"),
        (json!({"followers": 2}), "writeQuorum is above followers"),
        (json!({"writeQuorum": 6}), "writeQuorum is above followers"),
        (json!({"tls": {"selfSigned": true}}), "tls cannot be changed"),
        (json!({"writeTimeout": "100ms"}), "delay.max must be below writeTimeout"),
    ] {
        // Not a dry run: it must not get through.
        let patch = json!({"spec": spec}).to_string();
        let change = store
            .kind
            .kubectl(["--namespace", store.namespace, "patch", "kvc/demo", "--type=merge", "--patch", &patch])
            .output();
        mistakes.extend(mistake(&spec, sentence, change.await));
    }
    ensure!(mistakes.is_empty(), "{}", mistakes.join("\n"));
    let after = store.get().await?;
    ensure!(before.data["spec"] == after.data["spec"], "the spec changed to {}", after.data["spec"]);
    Ok(())
}

/// What is wrong with how this was refused, if anything.
fn mistake<Error: std::fmt::Display>(spec: &Value, sentence: &str, answer: Result<String, Error>) -> Option<String> {
    match answer {
        Ok(said) => Some(format!("{spec} was accepted: {said}")),
        Err(refusal) => {
            let refusal = refusal.to_string();
            (!refusal.contains(sentence)).then(|| format!("{spec} was refused without {sentence:?}: {refusal}"))
        }
    }
}
