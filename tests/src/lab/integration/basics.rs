//! Health of all nodes; a write and its read; its way to every follower.

use anyhow::{Context as _, bail, ensure};
use quorumkv_api::lab::{GetReply, Role};
use serde_json::{Value, json};

use crate::{
    client::Answer,
    lab::{
        checks::Checks,
        store::{Replica, Store},
    },
};

/// An answer as it is shown.
pub(super) fn shown(answer: &Answer) -> String {
    const LONGEST: usize = 160;
    let text: String = answer.text.chars().take(LONGEST).collect();
    format!("{} {text}", answer.status.as_u16())
}

/// Every node serves, in its role, and is ready.
pub(super) async fn health(store: &Store, checks: &mut Checks<'_>) {
    for (number, replica) in store.replicas.iter().enumerate() {
        let role = if number == 0 { "leader" } else { "follower" };
        let seen = async {
            let health = store.client.get_path(&replica.url, "/health").await?;
            ensure!(health.status == 200 && health.body["role"] == role, "{}", shown(&health));
            let ready = store.client.get_path(&replica.url, "/readyz").await?;
            ensure!(ready.status == 200, "/readyz {}", shown(&ready));
            Ok(format!("{}, ready", shown(&health)))
        };
        checks.observed(format!("health of {}", replica.name), format!("200, a {role}, ready"), seen.await);
    }
}

/// Writes a key; gives the version.
pub(super) async fn write(store: &Store, key: &str, value: &Value, least: usize) -> anyhow::Result<(u64, String)> {
    let body = json!({"key": key, "value": value});
    let answer = store.client.set_json(&store.leader().url, &body).await?;
    let replicas = answer.body["replicas"].as_u64().unwrap_or_default();
    let good = answer.status == 200 && answer.body["success"] == true && replicas >= least as u64;
    ensure!(good, "{}", shown(&answer));
    let version = answer.body["version"].as_u64().with_context(|| shown(&answer))?;
    Ok((version, shown(&answer)))
}

/// Reads a key; refuses another value or version.
async fn read(store: &Store, replica: &Replica, key: &str, expected: (&Value, u64)) -> anyhow::Result<String> {
    let (value, version) = expected;
    let answer = store.client.get(&replica.url, key, &format!("?minVersion={version}")).await?;
    ensure!(answer.status == 200, "{}", shown(&answer));
    let reply: GetReply = serde_json::from_str(&answer.text).with_context(|| shown(&answer))?;
    let found: Value = serde_json::from_str(reply.value.get()).with_context(|| shown(&answer))?;
    ensure!(reply.key == key && found == *value && reply.version.0 == version, "{}", shown(&answer));
    Ok(shown(&answer))
}

/// What is written is read again, whatever it is, and the last write wins.
pub(super) async fn write_and_read(store: &Store, run: &str, checks: &mut Checks<'_>) {
    let key = format!("{run}-value");
    let written = async {
        let least = quorum_in_force(store).await?;
        let (_, seen) = write(store, &key, &json!("first"), least).await?;
        Ok(seen)
    };
    checks.observed("write", "200, success, replicas of at least the write quorum, a version", written.await);
    let values = [json!("second"), json!(42), json!(-1.5e-3), json!(null), json!({"n": [1, {"ü": "✓"}]}), json!("")];
    let read = async {
        let mut last = 0;
        for value in &values {
            let (version, _) = write(store, &key, value, 1).await?;
            ensure!(version > last, "version {version} after {last}");
            last = version;
            read(store, store.leader(), &key, (value, version)).await.with_context(|| format!("wrote {value}"))?;
        }
        Ok(format!("{} values of every kind, the last at version {last}", values.len()))
    };
    checks.observed("read", "each value as it was written, at rising versions", read.await);
}

/// A write reaches every follower.
pub(super) async fn replication(store: &Store, run: &str, checks: &mut Checks<'_>) {
    let (key, value) = (format!("{run}-replicated"), json!({"for": "every follower"}));
    let written = write(store, &key, &value, 1).await;
    for follower in store.followers() {
        let seen = async {
            let (version, _) = match &written {
                Ok(written) => written,
                Err(error) => bail!("it could not be written: {error:#}"),
            };
            read(store, follower, &key, (&value, *version)).await
        };
        checks.observed(format!("replication to {}", follower.name), "the leader's value and version", seen.await);
    }
}

/// The quorum by which the leader goes.
pub(super) async fn quorum_in_force(store: &Store) -> anyhow::Result<usize> {
    let status = store.status().await?;
    ensure!(status.role == Role::Leader, "{} is a follower", store.leader().url);
    Ok(usize::from(status.write_quorum.0))
}
