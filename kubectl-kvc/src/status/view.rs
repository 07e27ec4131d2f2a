//! What was seen, put together. Pure.

use std::fmt;

use comfy_table::{Table, presets};
use k8s_openapi::api::core::v1::Pod;
use quorumkv_api::lab::{Role, StatusReply};
use quorumkv_operator::{
    build::names,
    crd::{KvCluster, KvClusterStatus},
    pause,
};
use serde::Serialize;

use crate::cluster::Target;

/// One node, as it was found.
pub(super) struct Seen {
    pub(super) name: String,
    pub(super) pod: Option<Pod>,
    pub(super) status: Result<StatusReply, String>,
    pub(super) storage_id: Option<String>,
}

/// A store at a glance.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct View {
    namespace: String,
    name: String,
    paused: bool,
    conditions: Vec<Condition>,
    epoch: Option<i64>,
    leader: Option<String>,
    write_quorum: Option<i32>,
    delay: Option<String>,
    write_timeout: Option<String>,
    followers: Option<i32>,
    ready_followers: Option<i32>,
    nodes: Vec<Node>,
    #[serde(skip)]
    copies_are_known: bool,
    /// The Secret that has to be read too, where peer ports speak TLS.
    #[serde(skip)]
    tls_secret: Option<String>,
}

#[derive(Debug, Serialize)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    reason: String,
    message: String,
}

/// One node; what it did not say is absent.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Node {
    pod: String,
    state: String,
    role: Option<Role>,
    ready: Option<bool>,
    epoch: Option<u64>,
    last_seq: Option<u64>,
    commit_seq: Option<u64>,
    /// Entries behind the leader's log, as the leader sees it.
    lag: Option<u64>,
    connected: Option<bool>,
    keys: Option<usize>,
    storage_id: Option<String>,
    /// Whether this copy is on record, so that it counts in quorums and elections.
    counted: Option<bool>,
    error: Option<String>,
}

impl View {
    pub(super) fn of(target: &Target, cluster: &KvCluster, seen: Vec<Seen>, copies_are_known: bool) -> Self {
        let status = cluster.status.clone().unwrap_or_default();
        let leads = |seen: &&Seen| Some(&seen.name) == status.leader.as_ref();
        let leader = seen.iter().find(leads).and_then(|seen| seen.status.as_ref().ok()).cloned();
        let nodes = seen.into_iter().map(|seen| Node::of(seen, leader.as_ref(), &status)).collect();
        let conditions = status.conditions.into_iter().map(|condition| Condition {
            kind: condition.type_,
            status: condition.status,
            reason: condition.reason,
            message: condition.message,
        });
        Self {
            namespace: target.namespace.clone(),
            name: target.name.clone(),
            paused: pause::is_paused(cluster),
            conditions: conditions.collect(),
            epoch: status.epoch,
            leader: status.leader,
            write_quorum: status.write_quorum,
            delay: status.delay_range,
            write_timeout: status.write_timeout,
            followers: status.followers,
            ready_followers: status.ready_followers,
            nodes,
            copies_are_known,
            tls_secret: cluster.spec.tls.as_ref().map(|tls| names::tls_secret_of(&target.name, tls)),
        }
    }
}

impl Node {
    fn of(seen: Seen, leader: Option<&StatusReply>, record: &KvClusterStatus) -> Self {
        let Seen { name, pod, status, storage_id } = seen;
        let (status, error) = match status {
            Ok(status) => (Some(status), None),
            Err(error) => (None, Some(error)),
        };
        let by_leader = leader.and_then(|leader| leader.followers.iter().find(|follower| follower.node.0 == name));
        let leads = status.as_ref().is_some_and(|status| status.role == Role::Leader);
        let on_record =
            |copy: &String| record.members.iter().any(|member| member.name == name && member.storage_id == *copy);
        Self {
            state: state(pod.as_ref(), status.as_ref()),
            role: status.as_ref().map(|status| status.role),
            ready: status.as_ref().map(|status| status.ready),
            epoch: status.as_ref().map(|status| status.epoch.0),
            last_seq: status.as_ref().map(|status| status.last_seq.0),
            commit_seq: status.as_ref().map(|status| status.commit_seq.0),
            lag: if leads { Some(0) } else { by_leader.map(|follower| follower.lag) },
            connected: by_leader.map(|follower| follower.connected),
            keys: status.as_ref().map(|status| status.keys),
            counted: storage_id.as_ref().map(on_record),
            storage_id,
            error,
            pod: name,
        }
    }
}

/// What a node does, in a word or two.
fn state(pod: Option<&Pod>, status: Option<&StatusReply>) -> String {
    if let Some(status) = status {
        let does = match (status.role, status.ready) {
            (Role::Leader, true) => "leads",
            (Role::Leader, false) => "takes over",
            (Role::Follower, true) => "follows",
            (Role::Follower, false) => "catches up",
        };
        return does.to_owned();
    }
    let Some(pod) = pod else { return "absent".to_owned() };
    if pod.metadata.deletion_timestamp.is_some() {
        return "stopping".to_owned();
    }
    let status = pod.status.as_ref();
    let containers = status.and_then(|status| status.container_statuses.as_deref()).unwrap_or_default();
    let waiting = containers.iter().find_map(|container| container.state.as_ref()?.waiting.as_ref()?.reason.clone());
    let phase = status.and_then(|status| status.phase.clone()).unwrap_or_default();
    match waiting {
        Some(reason) => reason,
        None if phase == "Running" => "does not answer".to_owned(),
        None => phase,
    }
}

impl fmt::Display for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "none".to_owned());
        let number = |number: Option<i64>| number.map_or_else(|| "?".to_owned(), |number| number.to_string());
        let ready = self.conditions.iter().find(|condition| condition.kind == "Ready");
        let (holds, reason) = ready.map_or(("Unknown", "NotReported"), |ready| (&*ready.status, &*ready.reason));
        let Self { namespace, name, .. } = self;
        let (epoch, leader) = (number(self.epoch), or_none(&self.leader));
        writeln!(f, "KvCluster {namespace}/{name}: Ready {holds} ({reason}), epoch {epoch}, leader {leader}")?;
        writeln!(
            f,
            "writeQuorum {}, delay {}, writeTimeout {}, followers {}/{}",
            number(self.write_quorum.map(i64::from)),
            or_none(&self.delay),
            or_none(&self.write_timeout),
            number(self.ready_followers.map(i64::from)),
            number(self.followers.map(i64::from)),
        )?;
        if let Some(ready) = ready.filter(|ready| ready.reason != "AllFollowersReady") {
            writeln!(f, "{}", ready.message)?;
        }
        if self.paused {
            writeln!(f, "PAUSED: the operator changes nothing while the annotation {} says so", pause::ANNOTATION)?;
        }
        writeln!(f)?;
        for line in table(&self.nodes).to_string().lines() {
            writeln!(f, "{}", line.trim_end())?;
        }
        if !self.copies_are_known {
            let token = names::token_secret(name);
            match &self.tls_secret {
                None => writeln!(f, "\nWhose copies count is not shown: the Secret {token} cannot be read.")?,
                Some(tls) => {
                    let either = format!("the Secret {token} or {tls} cannot be read");
                    writeln!(f, "\nWhose copies count is not shown: {either}.")?;
                }
            }
        }
        Ok(())
    }
}

fn table(nodes: &[Node]) -> Table {
    fn text(value: Option<impl ToString>) -> String {
        value.map_or_else(|| "-".to_owned(), |value| value.to_string())
    }
    let yes = |holds: Option<bool>| text(holds.map(|holds| if holds { "yes" } else { "no" }));
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["POD", "STATE", "READY", "EPOCH", "LAST", "LAG", "KEYS", "COUNTED", "STORAGE ID"]);
    table.add_rows(nodes.iter().map(|node| {
        let state = if node.connected == Some(false) && node.error.is_none() {
            format!("{}, not connected", node.state)
        } else {
            node.state.clone()
        };
        [
            node.pod.clone(),
            state,
            yes(node.ready),
            text(node.epoch),
            text(node.last_seq),
            text(node.lag),
            text(node.keys),
            yes(node.counted),
            text(node.storage_id.as_ref()),
        ]
    }));
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    table
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    #[rstest]
    #[case::gone(json!(null), "absent")]
    #[case::new(json!({"status": {"phase": "Pending"}}), "Pending")]
    #[case::going(json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}), "stopping")]
    #[case::silent(json!({"status": {"phase": "Running"}}), "does not answer")]
    #[case::crashing(
        json!({"status": {"phase": "Running", "containerStatuses": [{
            "name": "node", "image": "", "imageID": "", "ready": false, "restartCount": 3,
            "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        }]}}),
        "CrashLoopBackOff"
    )]
    fn a_node_that_does_not_answer_is_told_by_its_pod(#[case] pod: serde_json::Value, #[case] expected: &str) {
        let pod: Option<Pod> = serde_json::from_value(pod).expect("a pod, or none");
        assert_eq!(state(pod.as_ref(), None), expected);
    }
}
